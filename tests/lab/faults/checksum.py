# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checksums a NIC or hypervisor gets wrong: of the tunnel's own packets, or of what they carry.

A veth hands packets over with the checksum still to be filled in, and nobody looks at it: a wrong one only bites where
the sender fills it in itself, so its offload is switched off first.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from .changes import Command, NftTable
from .model import Expect, Fault, Place, overlay_touching

INNER = "tx-csum-inner-bug"
OUTER = "tx-csum-outer-bug"


@dataclasses.dataclass(frozen=True)
class NoContainerOffload:
    """The container fills in its checksums itself."""

    container: str = "app-$host"

    def _set(self, place: Place, value: str) -> None:
        netns = place.host.container_netns(place.fill(self.container))
        place.host.run(["ethtool", "-K", "eth0", "tx", value], netns=netns)

    def apply(self, place: Place) -> None:
        self._set(place, "off")

    def undo(self, place: Place, saved: Any) -> None:
        self._set(place, "on")


NO_NIC_OFFLOAD = Command("ethtool -K eth0 tx off", "ethtool -K eth0 tx on")

WRONG_INNER = """\
  chain wire {
    type filter hook egress device "vxlan0" priority 0; policy accept;
    meta l4proto tcp tcp checksum set 0xdead
  }"""


def wrong_outer(match: str) -> NftTable:
    body = (
        "  chain forward {\n    type filter hook forward priority 0; policy accept;\n"
        f"    {match} udp dport $tunnel udp checksum set 0xdead\n  }}"
    )
    return NftTable("bridge", "checksum_$host", body, "fabric")


FAULTS = (
    Fault(
        INNER,
        "what the host's tunnel carries by TCP has a wrong checksum; echo has not",
        (NoContainerOffload(), NftTable("netdev", "wrong", WRONG_INNER, "overlay")),
        Expect((INNER,), ("host-stack",), (), direction="out"),
    ),
    Fault(
        OUTER,
        "the tunnel packets the host sends have a wrong UDP checksum",
        (NO_NIC_OFFLOAD, wrong_outer('iifname "$port"')),
        Expect((OUTER,), ("host-stack",), overlay_touching(), direction="out"),
    ),
)

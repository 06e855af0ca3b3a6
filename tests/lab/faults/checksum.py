# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checksums a NIC or hypervisor gets wrong: of the tunnel's own packets, or of what they carry.

A veth hands packets over with the checksum still to be filled in, and nobody looks at it: a wrong one only bites where
the sender fills it in itself, so its offload is switched off first.
"""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

from .. import network, reach, state
from .changes import Command, NftTable
from .model import TUNNEL_PORT, Change, Expect, Fault, Place, overlay_touching

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


DROP_AT_PORT = """\
  chain card {
    type filter hook ingress device "$port" priority 0; policy accept;
    ip protocol udp udp dport $tunnel drop
  }"""


@dataclasses.dataclass(frozen=True)
class Card:
    """The host's card gets wrong what it is asked to fill in (card.py). The process belongs to the peer: a reboot of
    the host leaves the card as it is."""

    mode: str

    def apply(self, place: Place) -> str:
        # As text: a host has a /tmp of its own, and this file may be in the machine's.
        program = ["/usr/bin/python3", "-I", "-S", "-c", Path(__file__).with_name("card.py").read_text()]
        pids = "/run/lab-card.pid"
        words = [*program, place.host.port, network.BRIDGE, str(TUNNEL_PORT), self.mode, pids]
        netns = f"--net={place.lab.fabric.netns}"
        command = [*place.peer.enter()[:-2], netns, "--", "setsid", "--fork", *words]
        quiet: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
        }
        subprocess.run(command, check=True, env=place.peer.environment, **quiet)
        if not state.wait_for(lambda: place.peer.path(pids).exists(), 60):
            raise state.LabError("the card does not start")
        number = place.peer.path(pids).read_text()
        place.peer.path(pids).unlink()
        return number

    def undo(self, place: Place, saved: str) -> None:
        place.peer.run(["kill", saved], check=False)


@dataclasses.dataclass(frozen=True)
class EchoPasses:
    """Changes nothing: an echo still comes through the tunnel, both ways, so the card is at work."""

    def apply(self, place: Place) -> None:
        address = place.peer.container_address(f"app-{place.peer.name}")
        netns = place.host.container_netns(f"app-{place.host.name}")
        if not state.wait_for(lambda: address in reach.echo(netns, [address]), 60):
            raise state.LabError("the card hands on nothing")

    def undo(self, place: Place, saved: None) -> None:
        pass


def card(mode: str) -> tuple[Change, ...]:
    return Card(mode), NftTable("netdev", "card", DROP_AT_PORT, "fabric")


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
    Fault(
        f"{INNER}:card",
        "the host's card fills in wrong checksums of what the tunnel carries by TCP, when it is asked to",
        (*card("inner"), EchoPasses()),
        Expect((INNER,), ("host-stack",), (), direction="out"),
    ),
    Fault(
        f"{OUTER}:card",
        "the host's card fills in wrong UDP checksums of the tunnel, when it is asked to",
        card("outer"),
        Expect((OUTER,), ("host-stack",), overlay_touching(), direction="out"),
    ),
)

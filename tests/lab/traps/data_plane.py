# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The data plane: what looks like loss, corruption or translation in a capture or counter and breaks nothing."""

from __future__ import annotations

import dataclasses
import socket
import struct
import time
from typing import Any

from .. import state
from ..faults.changes import Command, Iptables
from ..faults.data_plane import OtherTraffic, in_fabric
from ..faults.model import TUNNEL_PORT, Place, trap
from ..faults.xdp import XdpProgram
from ..fleet import Host
from ..network import inside

FOREIGN_VNI = 7003  # of no device of the lab
WRONG = 20  # packets with a wrong checksum


def raw(protocol: int, target: str, payload: bytes, count: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol) as sock:
        for _number in range(count):
            sock.sendto(payload, (target, 0))


@dataclasses.dataclass(frozen=True)
class OldChecksumErrors:
    """Packets with a wrong checksum that came before anybody looked: to the host by UDP, to its container by TCP."""

    def apply(self, place: Place) -> None:
        datagram = struct.pack("!HHHH", 40000, 7946, 16, 0xDEAD) + b"old news"
        segment = struct.pack("!HHIIBBHHH", 40000, 80, 1, 0, 5 << 4, 2, 1024, 0xDEAD, 0)
        inside(place.peer.netns, lambda: raw(socket.IPPROTO_UDP, place.host.address, datagram, WRONG))
        address = place.host.container_address(f"app-{place.host.name}")
        netns = place.peer.container_netns(f"app-{place.peer.name}")
        inside(netns, lambda: raw(socket.IPPROTO_TCP, address, segment, WRONG))
        time.sleep(0.2)
        counted = counter(place.host, "Udp", "InCsumErrors")
        if counted < WRONG:
            raise state.LabError(f"{place.host.name} counts {counted} wrong checksums, {WRONG} were sent")

    def undo(self, place: Place, saved: Any) -> None:
        """What is counted stays counted."""


def counter(host: Host, group: str, name: str) -> int:
    def read() -> int:
        with open("/proc/thread-self/net/snmp") as file:
            rows = [line.split() for line in file if line.startswith(f"{group}:")]
        return int(rows[1][rows[0].index(name)])

    return inside(host.netns, read)


@dataclasses.dataclass(frozen=True)
class ForeignVxlan:
    """Frames of somebody else's overlay, with a VNI nobody here has, sent to the host's tunnel port."""

    count: int = 50

    def apply(self, place: Place) -> None:
        inner = bytes.fromhex("0242ac1f0002 0242ac1f0003 0800".replace(" ", "")) + bytes(46)
        frame = struct.pack("!II", 0x08 << 24, FOREIGN_VNI << 8) + inner

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                for _number in range(self.count):
                    sock.sendto(frame, (place.host.address, TUNNEL_PORT))

        inside(place.peer.netns, send)

    def undo(self, place: Place, saved: Any) -> None:
        """They are gone."""


MASQUERADE = Iptables("-o eth0 -p udp --dport 4789 -j MASQUERADE", "nat", "POSTROUTING")

TRAPS = (
    trap(
        "old-checksum-errors",
        "wrong checksums were counted before the diagnosis, of the host and in its container",
        OldChecksumErrors(),
    ),
    trap(
        "tx-checksum-on",
        "the NIC is to fill in checksums, as nearly everywhere",
        Command("ethtool -K eth0 tx on", "ethtool -K eth0 tx on"),
    ),
    trap("foreign-vni-on-the-port", "frames of another overlay arrive on the tunnel port", ForeignVxlan()),
    trap("xdp-that-passes", "an XDP program on the NIC lets everything pass", XdpProgram()),
    dataclasses.replace(
        trap(
            "loss-everywhere", "every path loses a little, all alike", in_fabric("lossy", "numgen inc mod 15 == 0 drop")
        ),
        partial=True,
    ),
    trap("masquerade-to-own-address", "the tunnel is masqueraded to the address it has anyway", MASQUERADE),
    trap("busy-containers", "other containers send to one another on the same paths", OtherTraffic()),
)

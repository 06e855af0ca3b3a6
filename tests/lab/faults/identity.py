# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Identities that exist twice: engines, host names, addresses."""

from __future__ import annotations

import dataclasses

from .addressing import REJOINED, Rejoin, host_between
from .changes import Command, Sysctl
from .model import Broken, Change, Expect, Fault, Place, overlay_between, overlay_touching

BOTH = ("$host", "$peer")


@dataclasses.dataclass(frozen=True)
class PeersFile:
    """A file of the host with the peer's text in it, as a copied machine has it."""

    path: str

    def apply(self, place: Place) -> str:
        before = place.host.path(self.path).read_text()
        place.host.path(self.path).write_text(place.peer.path(self.path).read_text())
        return before

    def undo(self, place: Place, saved: str) -> None:
        place.host.path(self.path).write_text(saved)


def twins(name: str, summary: str, change: Change, segment: str) -> Fault:
    """Two hosts that share something which breaks nothing by itself."""
    expect = Expect((name.partition(":")[0],), (segment,), (), hosts=BOTH, severity="info")
    return Fault(name, summary, (change,), expect)


FAULTS: tuple[Fault, ...] = (
    twins(
        "cloned-identity",
        "two hosts have the same machine-id; nothing fails",
        PeersFile("/etc/machine-id"),
        "engine",
    ),
    twins(
        "duplicate-hostname",
        "two hosts have the same name; nothing fails in a Swarm",
        Command("hostname $peer", "hostname $host"),
        "control-plane",
    ),
    Fault(
        "duplicate-node-ip",
        "the host's NIC has the address of its peer as well: what it sends there, it keeps (it does not answer ARP "
        "for it: who wins that race is nobody's to say)",
        (
            Sysctl("net/ipv4/conf/eth0/arp_ignore", "2"),
            Sysctl("net/ipv4/conf/eth0/arp_announce", "2"),
            Command("ip addr add $peer_address/32 dev eth0", "ip addr del $peer_address/32 dev eth0"),
        ),
        Expect(
            ("duplicate-node-ip",),
            ("underlay",),
            (Broken("host", "$peer", "$host", "$peer to $host"), *overlay_between()),
        ),
    ),
    Fault(
        "duplicate-node-ip:stranger",
        "the host takes its peer's address to the MAC of a machine that is not there",
        (
            Command(
                "ip neigh replace $peer_address lladdr 02:00:00:00:00:99 dev eth0 nud permanent",
                "ip neigh del $peer_address dev eth0",
            ),
        ),
        Expect(("duplicate-node-ip",), ("underlay",), (*host_between(), *overlay_between())),
    ),
    Fault(
        "duplicate-vtep-ip",
        "the node joined with its peer's address as data path address",
        (Rejoin(data_path="$peer_address"),),
        Expect(("duplicate-vtep-ip",), ("control-plane",), overlay_touching()),
        settle=90,
        withdraws="others",
        residue=REJOINED,
    ),
)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""XDP, tc and BPF programs that can take a packet away where no tap sees it.

On its way in a packet passes XDP, then the tap (AF_PACKET), then the tc and tcx programs at ingress and netfilter. On
its way out it passes netfilter, the tc and tcx programs at egress and the queue, then the tap. So a packet that left
one host and never showed up at the next one's tap may have been dropped there, by that host's own XDP program: what
a program hides is no fault of the network.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import Facts, Namespace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.hops import Hop

IN, OUT = "in", "out"
DEPTH = 4  # VLAN on bond on NIC, and one to spare
_BEFORE_TAP = {"egress": OUT, "netkit-primary": OUT}
_AFTER_TAP = {"ingress": IN, "netkit-peer": IN}


@dataclass(frozen=True)
class Program:
    """One program or tc filter, and the packets of its interface that it sees."""

    kind: str  # xdp, tcx, bpf, or the kind of a tc filter
    interface: str
    direction: str | None  # in | out; None for both
    id: int | None = None
    mode: str | None = None  # of XDP: generic, driver, hardware

    @property
    def words(self) -> str:
        """C(XDP program 12 on eth0)."""
        side = {IN: " ingress", OUT: " egress"}.get(self.direction or "", "")
        kind = "XDP" if self.kind == "xdp" else f"{self.kind}{side}"
        number = f" {self.id}" if self.id is not None else ""
        return f"{kind} program{number} on {self.interface}"


def programs_before(host: Host, hop: Hop, direction: str | None = None) -> list[str]:
    """Programs that can drop a packet before a tap at this hop sees it, as a person names them.

    @param direction: C(in) for packets the interface receives, C(out) for those it sends; None for both.
    """
    return _words(before(host, hop), direction)


def programs_after(host: Host, hop: Hop, direction: str | None = None) -> list[str]:
    """Programs that can drop a packet which a tap at this hop has seen, before it gets to the next hop."""
    return _words(after(host, hop), direction)


def before(host: Host, hop: Hop) -> list[Program]:
    """XDP of the interface and of those below it, and what runs at egress."""
    namespace = host.facts.namespace(hop.namespace)
    if namespace is None:
        return []
    found = _xdp(namespace, hop.index, DEPTH)
    return list(dict.fromkeys(found + _attached(namespace, hop.index, _BEFORE_TAP)))


def after(host: Host, hop: Hop) -> list[Program]:
    """What runs at ingress of the interface, and netfilter's BPF programs of the namespace."""
    namespace = host.facts.namespace(hop.namespace)
    if namespace is None:
        return []
    found = _attached(namespace, hop.index, _AFTER_TAP)
    for link in namespace.facts.get("bpf_links") or []:
        if link.get("type") == "netfilter":
            place = f"netfilter hook {link.get('attach')} ({link.get('family')})"
            found.append(Program("bpf", place, None, link.get("program")))
    return list(dict.fromkeys(found))


def _words(programs: list[Program], direction: str | None) -> list[str]:
    return [p.words for p in programs if direction is None or p.direction in (None, direction)]


def _xdp(namespace: Namespace, index: int, depth: int) -> list[Program]:
    """XDP runs at the lowest device first: a bond's members and a VLAN's parent see a packet before they do."""
    link = namespace.link_by_index.get(index)
    if link is None or depth == 0:
        return []
    found = []
    xdp: Facts | None = link.get("xdp")
    if xdp:
        found.append(Program("xdp", link["name"], IN, xdp.get("id"), _mode(xdp.get("mode"))))
    below = [
        other["index"]
        for other in namespace.links
        if link.get("kind") in ("bond", "team") and other.get("master") == index
    ]
    if (
        link.get("kind") in ("vlan", "macvlan", "ipvlan", "macsec")
        and link.get("link")
        and link.get("link_netnsid") is None
    ):
        below.append(link["link"])
    for lower in below:
        found += _xdp(namespace, lower, depth - 1)
    return found


def _mode(mode: t.Any) -> str | None:
    return {1: "driver", 2: "generic", 3: "hardware", 4: "several"}.get(mode, str(mode) if mode else None)


def _attached(namespace: Namespace, index: int, places: dict[str, str]) -> list[Program]:
    link = namespace.link_by_index.get(index)
    name = link["name"] if link else str(index)
    return [
        Program(row.get("kind") or "tc", name, places[row["attach"]], row.get("id"))
        for row in namespace.facts.get("tc") or []
        if row.get("index") == index and row.get("attach") in places
    ]

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The underlay: host to host, below everything an overlay does."""

from __future__ import annotations

import ipaddress
import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    CRITICAL,
    LIKELY,
    UNDERLAY,
    Case,
    Cause,
    Evidence,
    Facts,
    Finding,
    Remedy,
    culprits,
    pair_ids,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.deltas import protocol_counter, rise
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import Namespace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.ways import ENDS, routed

UNRESOLVED = {"failed", "incomplete"}
BLOCKING = ("XfrmOutPolBlock", "XfrmInPolBlock")  # proc.rst of the kernel's xfrm documentation
DEAD_ROUTES = (*ENDS, "throw")


def decide_unreachable(case: Case) -> t.Iterator[Finding]:
    """Hosts that nothing answers between, by any protocol, and no packet filter of theirs says why."""
    open_ids = {observation.pair.id for observation in case.unexplained}
    dead = [o for o in case.host_pairs if o.pair.id in open_ids and not o.reached]
    remaining = list(dead)
    for observation in dead:
        for name in _ends(observation):
            fault = _own_fault(case, case.host(name), observation)
            if fault is not None and observation in remaining:
                same = {o.pair.id: (o, found) for o in remaining if (found := _same_fault(case, name, o, fault))}
                remaining = [o for o in remaining if o.pair.id not in same]
                evidence = list(dict.fromkeys(found for _o, found in same.values()))
                yield _finding(case, frozenset({name}), [o for o, _found in same.values()], evidence, CONFIRMED)
    working = [_ends(o) for o in case.host_pairs if o.reached]
    for place in culprits([_ends(o) for o in remaining], working):
        pairs = [o for o in remaining if place <= set(_ends(o))]
        yield _finding(case, place, pairs, _neighbour_evidence(case, pairs), LIKELY)


def _ends(observation: Observation) -> tuple[str, str]:
    src, dst = observation.pair.hosts
    return str(src), str(dst)


def _same_fault(case: Case, name: str, observation: Observation, fault: Evidence) -> Evidence | None:
    """What the host says about another pair, where it is the same: no route to one peer, none to another."""
    found = _own_fault(case, case.host(name), observation) if name in _ends(observation) else None
    return found if found is not None and found.observed == fault.observed else None


def _own_fault(case: Case, host: Host, observation: Observation) -> Evidence | None:
    """What this host's own links and routes say about the peer, if it is a fault."""
    peer = next(name for name in _ends(observation) if name != host.name)
    link = host.underlay_link
    if link is not None and not (link.get("up") and link.get("lower_up", True)):
        state = "administratively down" if not link.get("up") else "without carrier"
        return Evidence(host.name, f"link {link['name']}", state, "up with carrier", f"ip link show dev {link['name']}")
    target = case.host(peer).underlay_ip
    if target is None:
        return None
    rule, ended = routed(host.facts.root, target) or ({}, {})
    if rule.get("action") in DEAD_ROUTES:
        words = f"{ended['type']} {ended['dst']}, by policy rule {rule['priority']}"
        return Evidence(host.name, f"routes to {target}", words, "a route to the peer", "ip rule show")
    route = lookup(host.facts.root, target)
    if route is None:
        words = f"no route, and its own address {host.underlay_ip} is on no interface" if _is_bare(host) else "no route"
        check = "ip -br address" if _is_bare(host) else f"ip route get {target}"
        return Evidence(host.name, f"routes to {target}", words, "a route to the peer", check)
    if route.get("type") in DEAD_ROUTES:
        words = f"{route['type']} {route['dst']}"
        return Evidence(host.name, f"routes to {target}", words, "a route to the peer", f"ip route get {target}")
    return _dead_gateway(case, host, route, target) or _xfrm_block(host)


def _xfrm_block(host: Host) -> Evidence | None:
    """Policies of IPsec that block, by the counters that rise with the probes alone."""
    for counter in BLOCKING:
        moved = rise(host, host.facts.root.key, protocol_counter("xfrm", counter))
        if moved is not None and moved.tied:
            return Evidence(host.name, f"/proc/net/xfrm_stat {counter}", str(moved), "no rise", "ip xfrm policy")
    return None


def _is_bare(host: Host) -> bool:
    """The address by which the others know the host is on none of its interfaces."""
    return host.underlay_ip is not None and host.underlay_ip not in {row["ip"] for row in host.facts.root.addresses}


def _dead_gateway(case: Case, host: Host, route: Facts, target: str) -> Evidence | None:
    """A gateway towards this peer that does not answer, while others of the fleet are reached another way."""
    gateway = route.get("gateway")
    states = {
        snapshot.root.neighbours(route.get("oif") or -1).get(gateway or "", (None, ""))[1] for snapshot in host.readings
    }
    if not gateway or not states & UNRESOLVED or states - UNRESOLVED - {""}:
        return None
    return Evidence(
        host.name,
        f"routes to {target}",
        f"via {gateway}, which does not answer ARP",
        "a gateway that answers",
        f"ip route get {target}; ip neigh show {gateway}",
    )


def lookup(namespace: Namespace, ip: str) -> Facts | None:
    """The route of the main (or local) table that the longest prefix selects. Policy rules are not followed."""
    address = ipaddress.ip_address(ip)
    routes = namespace.facts.get("routes") or []
    if not routes:
        return {}
    best: tuple[int, int, Facts] | None = None
    for route in routes:
        if route.get("table") not in (254, 255, 0, "main", "local") or route.get("family") != address.version:
            continue
        network = ipaddress.ip_network("0.0.0.0/0" if address.version == 4 else "::/0")
        if route["dst"] != "default":
            network = ipaddress.ip_network(route["dst"], strict=False)
        if address in network:
            rank = (network.prefixlen, -(route.get("metric") or 0))
            if best is None or rank > best[:2]:
                best = (*rank, route)
    return best[2] if best else None


def _neighbour_evidence(case: Case, pairs: list[Observation]) -> list[Evidence]:
    """What the sender's neighbour table says of the peers on its own link."""
    found: dict[tuple[str, str], Evidence] = {}
    for observation in pairs:
        src, dst = _ends(observation)
        host, target = case.host(src), case.host(dst).underlay_ip
        for snapshot in host.snapshots.values():
            link = host.underlay_link or {}
            known = snapshot.root.neighbours(link.get("index", -1)).get(target or "")
            if known and known[1] in UNRESOLVED:
                found[src, dst] = Evidence(
                    src, f"neighbour {target} on {link['name']}", known[1], "reachable", f"ip neigh show {target}"
                )
    return list(found.values())[:3]


def _finding(
    case: Case, place: frozenset[str], pairs: list[Observation], evidence: list[Evidence], confidence: str
) -> Finding:
    names = sorted(place)
    peers = sorted({end for o in pairs for end in _ends(o)} - place) or names
    sample = pairs[0]
    results = ", ".join(f"{key} {sample.results[key]['status']}" for key in sample.failed_layers())
    explained = [
        o for o in case.broken if _crosses(o, pairs) or _leaves(case, o, place) or _asks_itself(case, o, place)
    ]
    where = f"{names[0]} and {', '.join(peers)}" if len(names) == 1 else " and ".join(names)
    more = f" and {len(evidence) - 1} more" if confidence == CONFIRMED and len(evidence) > 1 else ""
    because = f": {evidence[0].source}{more} {evidence[0].observed}" if evidence else ""
    return Finding(
        cause="underlay-unreachable",
        severity=CRITICAL,
        confidence=confidence,
        hosts=names,
        segment="underlay",
        summary=f"Nothing passes between {where} on the underlay{because}",
        evidence=[
            *evidence[:4],
            Evidence(
                sample.pair.src.host,
                f"probes {sample.pair.id}",
                results,
                "an answer by any protocol",
                f"ping -c 3 {sample.pair.dst.ip}",
            ),
        ],
        explains=pair_ids(explained),
        remedies=[
            Remedy(
                "cure",
                (
                    *[item.verify for item in evidence[:1] if item.verify],
                    (
                        "Restore the link, address or route between these hosts; where they are right, the switch, "
                        "VLAN or security group between them."
                    ),
                ),
                "Outside the hosts this cannot be repaired from here.",
            )
        ],
    )


def reached_instead(case: Case, finding: Finding) -> str | None:
    """The hosts of a finding's pairs answer each other on the underlay."""
    explained = set(finding.explains)
    ends = {o.pair.hosts for o in case.observations if o.pair.id in explained and o.pair.kind == "overlay"}
    hosts = sorted({tuple(sorted(_strings(pair))) for pair in ends if len(_strings(pair)) == 2})
    if not hosts or not all(case.underlay_works(one, other) for one, other in hosts):
        return None
    words = ", ".join(f"{one} and {other}" for one, other in hosts[:3])
    return f"{words}{' and others' if len(hosts) > 3 else ''} answer each other on the underlay"


def _strings(pair: tuple[str | None, str | None]) -> set[str]:
    return {name for name in pair if name}


def _leaves(case: Case, observation: Observation, place: frozenset[str]) -> bool:
    """It goes from a host that reaches no other host to something outside of the fleet."""
    src, dst = observation.pair.hosts
    cut_off = not any(src in _ends(o) and o.reached for o in case.host_pairs)
    return len(place) == 1 and src in place and dst is None and cut_off


def _asks_itself(case: Case, observation: Observation, place: frozenset[str]) -> bool:
    """A container asks its own host by an address that the host has lost."""
    src, dst = observation.pair.hosts
    return place == {src} and src == dst and observation.pair.kind == "hairpin" and _is_bare(case.host(str(src)))


def _crosses(observation: Observation, dead: list[Observation]) -> bool:
    """Its packets travel between two hosts that do not reach each other."""
    ends = set(observation.pair.hosts)
    return len(ends) == 2 and any(set(o.pair.hosts) == ends for o in dead)


CAUSES = [
    Cause(
        "underlay-unreachable",
        "Hosts do not reach each other at all",
        "ICMP and TCP between hosts, links, routes, neighbours",
        "echo alone may be filtered by policy: a second protocol has to fail too",
        decide_unreachable,
        stage=UNDERLAY,
        remedy="restore the link, address or route; else what lies between the hosts: switch, VLAN, security group",
        rules_out=reached_instead,
    ),
]

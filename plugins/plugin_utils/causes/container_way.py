# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Routes in containers that lead elsewhere than over the network they share with the peer.

A question and its answer both need one: the way is followed at both ends of a pair that fails.
"""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CRITICAL,
    LIKELY,
    SYMPTOM,
    Case,
    Cause,
    Evidence,
    Finding,
    Remedy,
    pair_ids,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.routed import Attachment, attachment
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Node
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.ways import ENDS, routed

KINDS = ("overlay", "local")


def decide_way(case: Case) -> t.Iterator[Finding]:
    """Containers that send what is for a peer of their network nowhere, or by another interface."""
    found: dict[tuple[str, str, str], tuple[Attachment, Node, list[Observation]]] = {}
    for observation in case.unexplained:
        pair = observation.pair
        wanted = pair.kind in KINDS and not observation.reached
        for node, peer in ((pair.src, pair.dst), (pair.dst, pair.src)) if wanted else ():
            host = case.fleet.hosts.get(node.host or "")
            end = attachment(host.facts, node.container_id, node.ip) if host and node.ip else None
            astray = _astray(end, peer.ip) if end and peer.ip else None
            if end and astray:
                key = (str(node.host), str(node.container_id), astray)
                found.setdefault(key, (end, node, []))[2].append(observation)
                break
    for (host_name, _container, astray), (end, node, broken) in found.items():
        yield _finding(host_name, node, end, astray, broken)


def _astray(end: Attachment, peer: str) -> str | None:
    """Where the container's routes lead for this peer, if not over the interface it shares with it."""
    if not end.namespace.facts.get("routes"):
        return None
    _rule, route = routed(end.namespace, peer) or (None, None)
    if route is None:
        return "no route"
    if route.get("type") in ENDS:
        return f"{route['type']} {route['dst']}"
    out = end.namespace.link_by_index.get(route.get("oif") or -1)
    if out is None or out["name"] == end.interface:
        return None
    return f"{route['dst']} dev {out['name']}"


def _finding(host: str, node: Node, end: Attachment, astray: str, broken: list[Observation]) -> Finding:
    path = end.namespace.facts.get("path") or f"container of {node.name}"
    peers = sorted({ip for o in broken for ip in (o.pair.src.ip, o.pair.dst.ip) if ip and ip != end.ip})
    return Finding(
        cause="container-route-wrong",
        severity=CRITICAL,
        confidence=LIKELY,
        hosts=[host],
        segment="container",
        direction="out",
        network=broken[0].pair.network,
        summary=f"{node.name} on {host} sends what is for {', '.join(peers[:3])} elsewhere than by {end.interface}: "
        f"{astray}; {len(broken)} pair(s) fail",
        evidence=[
            Evidence(
                host,
                f"routes in the namespace of {node.name}",
                astray,
                f"by {end.interface}, the interface on {broken[0].pair.network}",
                f"nsenter --net={path} ip route get {peers[0]}",
            )
        ],
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (
                    f"on {host}: nsenter --net={path} ip route   # remove the route that leads astray, or add the lost",
                    f"lasting: docker restart {node.name}; see what in the container changes its routes",
                ),
                "None for the route; a restart interrupts the container.",
            )
        ],
    )


CAUSES = [
    Cause(
        "container-route-wrong",
        "A container sends what is for a peer of its network elsewhere",
        "routes of both containers' namespaces against the interface they have on the network, pairs that fail",
        "a pair that works whatever the routes say; policy rules are followed, marks are not known",
        decide_way,
        stage=SYMPTOM,
        remedy="remove the route, or restart the container",
    ),
]

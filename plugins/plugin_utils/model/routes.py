# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Container networks that hosts reach by a route to one another, without a tunnel (host-gw, BGP, by hand).

Somebody who routes both ways means the containers to reach one another. What the hosts' own filters refuse for certain
is not asked: a bridge network is closed to the outside unless somebody opens it.
"""

from __future__ import annotations

import ipaddress

from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import FORWARDED, Packet, path_fate, prepare
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.builders import routed_pair
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Endpoint, Fleet, Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Pair

TARGETS = 2  # networks of one peer that are asked


def routed_pairs(fleet: Fleet, host: Host, peers: list[Host]) -> list[Pair]:
    """One container of this host to one on each network of a peer that is routed both ways."""
    found = []
    peers = [peer for peer in peers if _gateways(host) & peer.facts.addresses]
    sources = _bridged(fleet, host) if peers else []
    for peer in peers if sources else []:
        for target in [e for e in _bridged(fleet, peer) if _routed(host, peer, e.ip)][:TARGETS]:
            source = next((e for e in sources if _routed(peer, host, e.ip)), None)
            if source is not None and not any(_refuses(end, source, target) for end in (host, peer)):
                found.append(routed_pair(fleet, source, target))
    return found


def _gateways(host: Host) -> set[str]:
    """The next hops of routes that are not the way to everywhere."""
    routes = host.facts.root.facts.get("routes") or []
    return {str(route["gateway"]) for route in routes if route["dst"] != "default" and route.get("gateway")}


def _bridged(fleet: Fleet, host: Host) -> list[Endpoint]:
    """One container of each bridge network of this host that has a way out."""
    first: dict[str, Endpoint] = {}
    for endpoint in sorted(fleet.endpoints, key=lambda e: (e.network, e.container)):
        network = fleet.networks.get(endpoint.network_id)
        if endpoint.host == host.name and network and network.driver == "bridge" and not network.internal:
            first.setdefault(endpoint.network_id, endpoint)
    return list(first.values())


def _routed(host: Host, peer: Host, ip: str) -> bool:
    """Whether the narrowest route of this host to a container's address goes by way of the peer."""
    address = ipaddress.ip_address(ip)
    best: tuple[int, bool] = (-1, False)
    for route in host.facts.root.facts.get("routes") or []:
        if route.get("type") != "unicast" or route["dst"] == "default":
            continue
        network = ipaddress.ip_network(route["dst"], strict=False)
        if address in network:
            best = max(best, (network.prefixlen, route.get("gateway") in peer.facts.addresses))
    return best[1]


def _refuses(host: Host, source: Endpoint, target: Endpoint) -> bool:
    """Its forwarding drops the first packet for certain: nobody opened the network."""
    chains = host.facts.root.filter.get("chains")
    nic = (host.underlay_link or {}).get("name")
    bridge = _bridge(host, source.ip if source.host == host.name else target.ip)
    if not chains or nic is None or bridge is None:
        return False
    out = source.host == host.name
    packet = Packet(
        family=4,
        protocol="icmp",
        icmp_type=8,
        icmp_code=0,
        src=source.ip,
        dst=target.ip,
        iif=bridge if out else nic,
        oif=nic if out else bridge,
        ct_state=("new",),
        ct_direction="original",
        src_type="unicast",
        dst_type="unicast",
        ipsec=False,
    )
    return path_fate(prepare(host.facts.root.filter), packet, FORWARDED).verdict == "drop"


def _bridge(host: Host, ip: str) -> str | None:
    """The bridge of the host whose subnet holds a container's address."""
    address = ipaddress.ip_address(ip)
    for row in host.facts.root.addresses:
        link = host.facts.root.link_by_index.get(row["index"]) or {}
        subnet = ipaddress.ip_network(f"{row['ip']}/{row.get('prefix') or 0}", strict=False)
        if link.get("kind") == "bridge" and row.get("prefix") and address in subnet:
            return str(link["name"])
    return None

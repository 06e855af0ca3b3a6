# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Addresses of nobody that a host translates to a container: the virtual addresses of Kubernetes, or rules by hand."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import Packet, RuleRef, fate, prepare
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts, Namespace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Endpoint, Fleet, Host

CANDIDATES = 256  # addresses of one host's rules that are looked at
LIMIT = 8  # of them, those that are asked for
_ADDRESS = re.compile(r"(?:\bip daddr|(?<!! )-d) (\d+\.\d+\.\d+\.\d+)(?:/32)?(?![\d/.-])")
_PORT = re.compile(r"(?:\btcp dport|(?<!! )--dport) (\d+)(?![\d:-])")


@dataclass(frozen=True)
class Translation:
    """A client whose packets to an address are translated to a neighbour on its own bridge."""

    client: Endpoint
    server: Endpoint
    bridge: str
    address: str
    port: int
    rule: RuleRef | None


def written(namespace: Namespace) -> list[tuple[str, int]]:
    """(address, TCP port) of rules that speak of one address and one port, in tables that translate."""
    found: dict[tuple[str, int], None] = {}
    for chain in namespace.filter.get("chains") or []:
        for rule in (chain.get("rules") or []) if chain.get("table") == "nat" or chain.get("type") == "nat" else []:
            address, port = _ADDRESS.search(rule.get("text") or ""), _PORT.search(rule.get("text") or "")
            if address and port and len(found) < CANDIDATES:
                found[address.group(1), int(port.group(1))] = None
    return list(found)


def neighbours(fleet: Fleet, host: Host, local: t.Iterable[Endpoint]) -> dict[str, list[Endpoint]]:
    """Endpoints by the host's bridge they are on, where there are several."""
    found: dict[str, list[Endpoint]] = {}
    for endpoint in local:
        bridge = bridge_of(fleet, host.facts, endpoint)
        if bridge:
            found.setdefault(bridge, []).append(endpoint)
    return {bridge: group for bridge, group in found.items() if len(group) > 1}


def bridge_of(fleet: Fleet, facts: HostFacts, endpoint: Endpoint) -> str | None:
    """The bridge of the host's own namespace that a container's interface is a port of."""
    namespace = facts.namespace(endpoint.netns)
    inner = namespace.link_of_address(endpoint.ip) if namespace else None
    port = facts.root.link_by_index.get(inner.get("link") or 0) if inner else None
    bridge = facts.root.link_by_index.get(port.get("master") or 0) if port and inner else None
    if bridge is None or port is None or inner is None or port.get("link") != inner["index"]:
        return None
    return bridge["name"] if bridge.get("kind") == "bridge" else None


def translations(fleet: Fleet, host: Host, local: t.Iterable[Endpoint]) -> list[Translation]:
    """What a host translates between containers on one bridge; published ports of its own addresses are not meant."""
    groups = neighbours(fleet, host, local)
    taken = host.facts.addresses | {endpoint.ip for group in groups.values() for endpoint in group}
    candidates = [row for row in written(host.facts.root) if row[0] not in taken] if groups else []
    if not candidates:
        return []
    rules = prepare(host.facts.root.filter)
    found: list[Translation] = []
    for address, port in candidates:
        for bridge, group in groups.items():
            by_ip = {endpoint.ip: endpoint for endpoint in group}
            client = group[0]
            outcome = fate(rules, _packet(client, address, port, bridge), "prerouting")
            server = by_ip.get(outcome.packet.dst or "")
            if server is client:
                client = group[1]
                outcome = fate(rules, _packet(client, address, port, bridge), "prerouting")
                server = by_ip.get(outcome.packet.dst or "")
            if server is None or server is client or len(found) >= LIMIT:
                continue
            rule = next((ref for ref in outcome.changes if ref.verdict == "dnat"), None)
            found.append(Translation(client, server, bridge, address, port, rule))
    return found


def _packet(client: Endpoint, address: str, port: int, bridge: str) -> Packet:
    return Packet(
        src=client.ip,
        dst=address,
        protocol="tcp",
        dport=port,
        iif=bridge,
        ct_state=("new",),
        tcp_flags=("syn",),
        src_type="unicast",
        dst_type="unicast",
    )

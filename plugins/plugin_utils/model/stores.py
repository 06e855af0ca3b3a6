# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Key-value stores that engines or the operator name, and how each is asked whether it is well: one GET, no write."""

from __future__ import annotations

import ipaddress

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.builders import host_node
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet, Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import SERVICE, Node, Pair, Probe

# Scheme to (port, page). etcd's documentation, "Monitoring etcd"; Consul's HTTP API, "Status".
PAGES = {"etcd": (2379, "/health"), "consul": (8500, "/v1/status/leader")}
PORTS = {"zk": 2181, "etcds": 2379, "https": 443}  # asked only whether the port answers
ENDPOINT_LIMIT = 9  # members of one store that are asked
ASKING_LIMIT = 12  # hosts that ask a store the operator named


def store_pairs(fleet: Fleet) -> list[Pair]:
    """Each host that is configured to use a store asks every member; a store the operator names is asked by all."""
    named = [str(one) for one in fleet.run.get("kv_endpoints") or []]
    pairs = []
    for position, host in enumerate(fleet.answering):
        store = host.facts.engine.get("kv") or {}
        scheme = str(store.get("url") or "").partition("://")[0]
        wanted = [f"{scheme}://{endpoint}" for endpoint in store.get("endpoints") or []]
        wanted += named if position < ASKING_LIMIT else []
        members = [member for member in map(_member, dict.fromkeys(wanted)) if member is not None]
        pairs += [_pair(fleet, host, *member) for member in members[:ENDPOINT_LIMIT]]
    return pairs


def _member(url: str) -> tuple[str, str, int] | None:
    """(scheme, address, port); None for a name, which only the host itself could resolve."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "etcd", url
    host, colon, port = rest.partition("/")[0].rpartition(":")
    if not colon:
        host, port = port, ""
    try:
        address = str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return None
    usual = PAGES[scheme][0] if scheme in PAGES else PORTS.get(scheme)
    number = int(port) if port.isdigit() else usual
    return (scheme, address, number) if number else None


def _pair(fleet: Fleet, host: Host, scheme: str, address: str, port: int) -> Pair:
    owner = fleet.host_of_address(address)
    page = PAGES[scheme][1] if scheme in PAGES else None
    probe = Probe("http", address, port, SERVICE, {"path": page}) if page else Probe("tcp", address, port, SERVICE)
    target = Node(owner.name if owner else None, "external", f"{address}:{port}{page or ''}", address)
    return Pair("kv", host_node(host), target, probes=[probe])

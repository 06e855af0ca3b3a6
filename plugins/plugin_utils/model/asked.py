# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operator's own question: does THIS reach THAT, on this port?"""

from __future__ import annotations

import difflib
import ipaddress

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.builders import (
    container_node,
    egress_pair,
    endpoint_pair,
    host_node,
    host_pair,
    netns_path,
    published_pair,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Endpoint, Fleet, Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import (
    REACH,
    SERVICE,
    Facts,
    Node,
    Pair,
    Probe,
)

Place = Host | list[Endpoint] | Node


class AskedError(Exception):
    """The question names something the fleet does not have."""


def asked_pairs(fleet: Fleet, question: Facts) -> list[Pair]:
    """The pairs that answer the question, with the host pairs below them."""
    source, target = _source(fleet, question["from"]), _target(fleet, question["to"])
    pairs = _pairs(fleet, source, target, question.get("port"))
    hosts = {name for pair in pairs for name in pair.hosts if name}
    below = [
        host_pair(fleet, fleet.hosts[one], fleet.hosts[other])
        for one in sorted(hosts)
        for other in sorted(hosts)
        if one != other and fleet.hosts[other].underlay_ip
    ]
    known = {pair.id for pair in pairs}
    return pairs + [pair for pair in below if pair.id not in known]


def _without_network(fleet: Fleet, name: str) -> Host | list[Endpoint]:
    """A container that has no network of its own: in its host's namespace it is the host, else it is cut off."""
    place, _slash, rest = name.rpartition("/")
    for host in fleet.answering:
        container = host.facts.container(rest) if place in ("", host.name) else None
        mode = (container or {}).get("network_mode")
        if container and mode == "host":
            return host
        if container and mode == "none":
            return [Endpoint(host.name, container["id"], container["name"], "", "none", "", "", container.get("netns"))]
    return []


def _source(fleet: Fleet, name: str) -> Host | list[Endpoint]:
    if name in fleet.hosts:
        return _answering(fleet.hosts[name])
    found = _container(fleet, name) or _without_network(fleet, name)
    if not found:
        raise AskedError(f"doctor_from={name}: {_unknown(fleet, name)}")
    return found


def _target(fleet: Fleet, name: str) -> Place:
    if name in fleet.hosts:
        return fleet.hosts[name]
    found = _container(fleet, name) or _without_network(fleet, name)
    if found:
        return found
    for manager in fleet.managers:
        for service in manager.facts.swarm.get("services") or []:
            if service["name"] == name and service.get("vips"):
                return Node(None, "service", name, service["vips"][0]["ip"].split("/")[0])
    try:
        ip = str(ipaddress.ip_address(name))
    except ValueError:
        return Node(None, "name", name, None)
    owned = [endpoint for endpoint in fleet.endpoints if endpoint.ip == ip]
    return owned or fleet.host_of_address(ip) or Node(None, "external", ip, ip)


def _answering(host: Host) -> Host:
    if not host.answered:
        raise AskedError(f"doctor_from={host.name}: that host gave no facts: {host.error}")
    return host


def _container(fleet: Fleet, name: str) -> list[Endpoint]:
    """All endpoints of one container, by name or by the start of its id; HOST/NAME where a name stands twice."""
    host, _slash, rest = name.rpartition("/")
    found = [
        endpoint
        for endpoint in fleet.endpoints
        if (not host or endpoint.host == host)
        and (endpoint.container == rest or (len(rest) >= 6 and endpoint.container_id.startswith(rest)))
    ]
    if len({endpoint.container_id for endpoint in found}) > 1:
        places = ", ".join(sorted({f"{endpoint.host}/{endpoint.container}" for endpoint in found}))
        raise AskedError(f"{name} names more than one container: say which with HOST/CONTAINER ({places})")
    return found


def _unknown(fleet: Fleet, name: str) -> str:
    names = sorted({*fleet.hosts, *(endpoint.container for endpoint in fleet.endpoints)})
    near = difflib.get_close_matches(name, names, 3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names[:8]) or 'nothing'}"
    return f"no host and no running container of this fleet has that name; {hint}"


def _pairs(fleet: Fleet, source: Host | list[Endpoint], target: Place, port: int | None) -> list[Pair]:
    if isinstance(source, Host):
        return _from_host(fleet, source, target, port)
    if not source[0].network_id:
        return [Pair("isolated", container_node(source[0]), _node(target))]
    if isinstance(target, list):
        return _between_containers(fleet, source, target, port)
    if isinstance(target, Host):
        pair = egress_pair(fleet, source[0], target)
        pair.probes += [Probe("tcp", target.underlay_ip, port, SERVICE)] if port else []
        return [pair]
    return [_outward(fleet, source[0], target, port)]


def _node(target: Place) -> Node:
    if isinstance(target, Host):
        return host_node(target)
    return container_node(target[0]) if isinstance(target, list) else target


def _outward(fleet: Fleet, source: Endpoint, target: Node, port: int | None) -> Pair:
    kind = {"service": "service", "name": "name"}.get(target.kind, "egress")
    return Pair(
        kind,
        container_node(source),
        target,
        source.network_id,
        source.network,
        netns_path(fleet, source),
        _probes(target, port),
    )


def _probes(target: Node, port: int | None) -> list[Probe]:
    if target.kind == "name":
        return [Probe("dns", None, None, SERVICE, {"name": target.name})]
    echo = [] if target.kind == "service" else [Probe("icmp", target.ip, expects=REACH)]
    return echo + ([Probe("tcp", target.ip, port, SERVICE)] if port else [])


def _between_containers(fleet: Fleet, source: list[Endpoint], target: list[Endpoint], port: int | None) -> list[Pair]:
    """One pair for each network both are on; where they share none, one pair that cannot be tested."""
    pairs = []
    for start in source:
        for end in target:
            if start.network_id != end.network_id or start.container_id == end.container_id:
                continue
            pair = endpoint_pair(fleet, "local" if start.host == end.host else "overlay", start, end)
            pair.probes += [Probe("tcp", end.ip, port, SERVICE)] if port else []
            pairs.append(pair)
    if pairs:
        return pairs
    return [Pair("isolated", container_node(source[0]), container_node(target[0]))]


def _from_host(fleet: Fleet, source: Host, target: Place, port: int | None) -> list[Pair]:
    if isinstance(target, Host):
        pair = host_pair(fleet, source, target)
        pair.probes += [Probe("tcp", target.underlay_ip, port, SERVICE)] if port else []
        return [pair]
    if isinstance(target, list):
        owner = fleet.hosts[target[0].host]
        published = _published(owner, target[0].container_id, port)
        if published:
            return [published_pair(owner, number, host_node(source), "published", None) for number in published]
        return [Pair("isolated", host_node(source), container_node(target[0]))]
    return [Pair("egress", host_node(source), target, probes=_probes(target, port))]


def _published(host: Host, container_id: str, port: int | None) -> list[int]:
    """Host ports that lead to a container's port."""
    return [
        row["host_port"]
        for container in host.facts.containers
        if container["id"] == container_id
        for row in container.get("ports") or []
        if row.get("host_port") and row.get("protocol") == "tcp" and port in (None, row["port"], row["host_port"])
    ]

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Swarm services as the fleet knows them: virtual addresses, published ports, and the addresses behind them."""

from __future__ import annotations

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.builders import (
    HTTP_PORTS,
    container_node,
    host_node,
    netns_path,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Endpoint, Fleet, Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import SERVICE, Facts, Node, Pair, Probe


def readings(host: Host, *sections: str) -> list[HostFacts]:
    """The readings of a host that hold these sections: the second one is narrower than the first."""
    wanted = set(sections)
    return [reading for reading in host.readings if wanted <= set(reading.facts.get("sections") or wanted)]


def newest(host: Host, *sections: str) -> HostFacts:
    return next(reversed(readings(host, *sections)), host.facts)


def services(fleet: Fleet) -> list[Facts]:
    """The services, as the first manager that lists any tells them."""
    return next((m.facts.swarm["services"] for m in fleet.managers if m.facts.swarm.get("services")), [])


def tasks(fleet: Fleet) -> list[Facts]:
    return next((m.facts.swarm["tasks"] for m in fleet.managers if m.facts.swarm.get("tasks")), [])


def _runs(fleet: Fleet, service: Facts) -> bool:
    return any(task.get("service_id") == service["id"] and task.get("state") == "running" for task in tasks(fleet))


def service_ports(fleet: Fleet, network_id: str) -> list[tuple[str, str, int]]:
    """(VIP, service, TCP port) of every service that has a VIP on the network and runs.

    A service that publishes nothing is asked for the first port that a task of it listens on.
    """
    found = []
    for service in services(fleet):
        if service.get("endpoint_mode") == "dnsrr" or not _runs(fleet, service):
            continue
        for vip in service.get("vips") or []:
            if vip.get("network_id") != network_id or not vip.get("ip"):
                continue
            declared = [row["target"] for row in service.get("ports") or [] if row.get("protocol", "tcp") == "tcp"]
            for port in [number for number in declared if number] or _listening(fleet, service["name"], network_id):
                found.append((vip["ip"].split("/")[0], service["name"], port))
    return found


def _listening(fleet: Fleet, service: str, network_id: str) -> list[int]:
    """The lowest TCP port that all tasks of the service in the play accept, as a list of one or none."""
    common: set[int] | None = None
    for endpoint in fleet.endpoints_by_network.get(network_id) or []:
        container = fleet.hosts[endpoint.host].facts.container(endpoint.container_id) or {}
        namespace = fleet.container_namespace(endpoint)
        if container.get("service") != service or namespace is None:
            continue
        ports = {port for _ip, port in namespace.listeners("tcp") if namespace.listens("tcp", port, endpoint.ip)}
        common = ports if common is None else common & ports
    return sorted(common or ())[:1]


def mesh_ports(fleet: Fleet) -> list[tuple[str, int]]:
    """(service, published TCP port) of what the routing mesh answers for."""
    return [
        (service["name"], row["published"])
        for service in services(fleet)
        for row in service.get("ports") or []
        if row.get("mode") == "ingress" and row.get("published") and row.get("protocol", "tcp") == "tcp"
        if _runs(fleet, service)
    ]


def service_pair(fleet: Fleet, source: Endpoint, vip: str, name: str, port: int) -> Pair:
    """Container to the virtual address of a service on its own network."""
    target = Node(None, "service", f"{name}:{port}", vip)
    probes = [Probe("tcp", vip, port, SERVICE)]
    netns = netns_path(fleet, source)
    return Pair("service", container_node(source), target, source.network_id, source.network, netns, probes)


def mesh_pair(source: Host, host: Host, name: str, port: int) -> Pair:
    """A host to a port that another node publishes through the routing mesh, wherever the tasks run."""
    probes = [Probe("tcp", host.underlay_ip, port, SERVICE)]
    if port in HTTP_PORTS:
        probes.append(Probe("http", host.underlay_ip, port, SERVICE))
    target = Node(host.name, "published-port", f"{host.name}:{port}/{name}", host.underlay_ip)
    return Pair("mesh", host_node(source), target, probes=probes)


def again_sections(pairs: list[Pair]) -> list[str]:
    """What else the second reading has to hold, beyond links and counters, to judge these pairs.

    What managers say of nodes and leaders is always in flux, so it is always read twice.
    """
    kinds = {pair.kind for pair in pairs}
    wanted = {"mesh": {"networks", "filter"}, "service": {"networks"}, "backend": {"networks"}}
    return sorted({"swarm"}.union(*(wanted.get(kind, set()) for kind in kinds)))


def backend_pair(fleet: Fleet, source: Endpoint, name: str, ip: str) -> Pair:
    """Container to an address that the engines give for a name, though no running container has it."""
    target = Node(None, "service", f"{name}={ip}", ip)
    probes = [Probe("icmp", ip, expects=SERVICE)]
    netns = netns_path(fleet, source)
    return Pair("backend", container_node(source), target, source.network_id, source.network, netns, probes)


def named_addresses(facts: HostFacts, network_id: str) -> dict[str, tuple[str, str | None]]:
    """IP to (name, VTEP) of every endpoint of a network, as this host's engine has it from gossip."""
    return {
        task["ip"]: (service.get("name") or task.get("name") or "", task.get("vtep"))
        for network in facts.networks
        if network["id"] == network_id
        for service in network.get("services") or []
        for task in service.get("tasks") or []
        if task.get("ip")
    }


def stray_backends(fleet: Fleet) -> list[tuple[str, str, str]]:
    """(network id, name, IP) of endpoints that engines list and that no running container of the fleet has.

    Only where it can be told: the endpoint is said to be on a host of the play whose containers were read.
    """
    read = {host.underlay_ip for host in fleet.answering if _containers_known(host)}
    everywhere = len(read) == len(fleet.hosts) >= len(fleet.swarm_nodes) > 0
    found: dict[tuple[str, str], str] = {}
    for network in fleet.networks.values():
        if not network.is_overlay:
            continue
        owned = _owned(fleet, network.id)
        for host in fleet.answering:
            for ip, (name, vtep) in named_addresses(host.facts, network.id).items():
                if ip not in owned and (vtep in read if vtep else everywhere):
                    found[network.id, ip] = name
    return [(network_id, name, ip) for (network_id, ip), name in sorted(found.items())]


def _containers_known(host: Host) -> bool:
    unread = {row.get("section") for row in host.facts.facts.get("missing") or []}
    return host.facts.engine.get("state") == "running" and not unread & {"containers", "networks"}


def _owned(fleet: Fleet, network_id: str) -> set[str]:
    """Addresses of running containers on the network, and of the engines' own load balancers and ingress ends."""
    owned = {endpoint.ip for endpoint in fleet.endpoints_by_network.get(network_id) or []}
    for host in fleet.answering:
        running = {container["id"] for container in host.facts.containers}
        for network in host.facts.networks:
            if network["id"] == network_id:
                for row in network.get("local") or []:
                    owner = str(row.get("owner"))
                    if owner in running or owner.startswith("lb-") or owner in ("ingress-sbox", "gateway_ingress-sbox"):
                        owned.add(row.get("ip") or "")
    return owned

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How each kind of pair is asked: its ends and its probes."""

from __future__ import annotations

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Endpoint, Fleet, Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import (
    PATH,
    REACH,
    SERVICE,
    SIGNAL,
    Node,
    Pair,
    Probe,
)

SWARM_MANAGEMENT_PORT = 2377  # docs.docker.com, swarm mode; a manager may listen elsewhere (--listen-addr)
SWARM_GOSSIP_PORT = 7946  # not configurable, moby issue 39280
HTTP_PORTS = (80, 8000, 8008, 8080)  # ports whose registered or customary service is HTTP (IANA: http, http-alt)
EMBEDDED_DNS = "127.0.0.11"  # the engine's own resolver, inside the namespace of every container it serves
CLOSED_PORT = 7  # echo: hardly ever open, and its refusal proves the path as well as an answer would


def container_node(endpoint: Endpoint) -> Node:
    return Node(endpoint.host, "container", endpoint.container, endpoint.ip, endpoint.container_id)


def host_node(host: Host) -> Node:
    return Node(host.name, "host", host.name, host.underlay_ip)


def resolvers(fleet: Fleet, endpoint: Endpoint) -> list[str]:
    """The nameservers a container asks."""
    containers = fleet.hosts[endpoint.host].facts.containers
    found = next((c for c in containers if c["id"] == endpoint.container_id), {})
    return (found.get("dns") or {}).get("nameservers") or []


def netns_path(fleet: Fleet, endpoint: Endpoint) -> str | None:
    namespace = fleet.container_namespace(endpoint)
    return namespace.facts.get("path") if namespace else None


def host_pair(fleet: Fleet, src: Host, dst: Host) -> Pair:
    """Host to host over the underlay, with the ports a Swarm needs and a proof that does not depend on ICMP."""
    ip = dst.underlay_ip
    probes = [Probe("icmp", ip)]
    if src.facts.in_swarm and dst.facts.in_swarm:
        probes.append(Probe("tcp", ip, SWARM_GOSSIP_PORT, SERVICE))
        probes.append(Probe("udp", ip, SWARM_GOSSIP_PORT, SIGNAL, {"payload": "mark"}))
        if dst.facts.is_manager:
            probes.append(Probe("tcp", ip, SWARM_MANAGEMENT_PORT, SERVICE))
    if fleet.tunnel_port:
        probes.append(Probe("udp", ip, fleet.tunnel_port, SIGNAL, {"payload": "tunnel"}))
    probes.append(Probe("tcp", ip, second_proof(dst)))
    return Pair("host", host_node(src), host_node(dst), probes=probes)


def second_proof(host: Host) -> int:
    """A TCP port that shows the path is open even where echo is filtered: one that listens, else a closed one."""
    taken = (SWARM_GOSSIP_PORT, SWARM_MANAGEMENT_PORT)
    ports = [
        port
        for ip, port in host.facts.root.listeners("tcp")
        if port not in taken and host.facts.root.listens("tcp", port, host.underlay_ip) and port < 1024
    ]
    return min(ports, default=CLOSED_PORT)


def endpoint_pair(fleet: Fleet, kind: str, src: Endpoint, dst: Endpoint) -> Pair:
    """Container to container on one network: echo, a TCP port, HTTP where one is customary, and the name."""
    namespace = fleet.container_namespace(dst)
    ports = [
        port
        for ip, port in (namespace.listeners("tcp") if namespace else [])
        if namespace is not None and namespace.listens("tcp", port, dst.ip)
    ]
    port = min(ports, default=CLOSED_PORT)
    probes = [Probe("icmp", dst.ip), Probe("tcp", dst.ip, port, PATH if ports else REACH)]
    if port in HTTP_PORTS:
        probes.append(Probe("http", dst.ip, port, PATH))
    if EMBEDDED_DNS in resolvers(fleet, src):
        probes.append(Probe("dns", expects=PATH, options={"name": dst.container}))
    return Pair(
        kind, container_node(src), container_node(dst), dst.network_id, dst.network, netns_path(fleet, src), probes
    )


def published_pair(host: Host, port: int, source: Node, kind: str, netns: str | None) -> Pair:
    probes = [Probe("tcp", host.underlay_ip, port, SERVICE)]
    if port in HTTP_PORTS:
        probes.append(Probe("http", host.underlay_ip, port, SERVICE))
    target = Node(host.name, "published-port", f"{host.name}:{port}", host.underlay_ip)
    return Pair(kind, source, target, netns=netns, probes=probes)


def egress_pair(fleet: Fleet, endpoint: Endpoint, peer: Host) -> Pair:
    """Container to a host that is not its own: through the bridge, forwarding, masquerading and the NIC."""
    probes = [Probe("icmp", peer.underlay_ip), Probe("tcp", peer.underlay_ip, second_proof(peer))]
    if fleet.hosts[endpoint.host].facts.in_swarm and peer.facts.in_swarm:
        probes.append(Probe("tcp", peer.underlay_ip, SWARM_GOSSIP_PORT))
    network = fleet.networks[endpoint.network_id]
    return Pair(
        "egress",
        container_node(endpoint),
        host_node(peer),
        network.id,
        network.name,
        netns_path(fleet, endpoint),
        probes,
    )

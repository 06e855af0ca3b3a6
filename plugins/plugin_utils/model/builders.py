# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How each kind of pair is asked: its ends and its probes."""

from __future__ import annotations

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Endpoint, Fleet, Host, Network
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import (
    FULL,
    PATH,
    REACH,
    SERVICE,
    SIGNAL,
    Facts,
    Node,
    Pair,
    Probe,
)

SWARM_MANAGEMENT_PORT = 2377  # docs.docker.com, swarm mode; a manager may listen elsewhere (--listen-addr)
SWARM_GOSSIP_PORT = 7946  # not configurable, moby issue 39280
HTTP_PORTS = (80, 8000, 8008, 8080)  # ports whose registered or customary service is HTTP (IANA: http, http-alt)
EMBEDDED_DNS = "127.0.0.11"  # the engine's own resolver, inside the namespace of every container it serves
FORWARDED_NAME = "crosshost-doctor.invalid."  # no zone has it, and a resolver says so by itself (RFC 6761)
GATEWAY_BRIDGE = "docker_gwbridge"  # the network by which containers of an overlay leave their host
FULL_SIZE = (296, 65535)  # bytes between which an interface's MTU is asked for with an echo of that size
CLOSED_PORT = 7  # echo: hardly ever open, and its refusal proves the path as well as an answer would


def container_node(endpoint: Endpoint) -> Node:
    return Node(endpoint.host, "container", endpoint.container, endpoint.ip, endpoint.container_id)


def host_node(host: Host) -> Node:
    return Node(host.name, "host", host.name, host.underlay_ip)


def resolvers(fleet: Fleet, endpoint: Endpoint) -> list[str]:
    """The nameservers a container asks."""
    return (_container(fleet, endpoint).get("dns") or {}).get("nameservers") or []


def _container(fleet: Fleet, endpoint: Endpoint) -> Facts:
    containers = fleet.hosts[endpoint.host].facts.containers
    return next((c for c in containers if c["id"] == endpoint.container_id), {})


def has_embedded_dns(network: Network | None) -> bool:
    """Whether the engine resolves names for the containers of a network: not on its default bridge."""
    if network is None or network.driver not in ("bridge", "overlay"):
        return False
    return network.options.get("com.docker.network.bridge.default_bridge") != "true" and network.name != "bridge"


def upstreams(fleet: Fleet, endpoint: Endpoint) -> tuple[str, ...]:
    """The name servers behind a container's own: what its engine forwards to, else what the container asks itself."""
    dns = _container(fleet, endpoint).get("dns") or {}
    servers = dns.get("nameservers") or []
    if EMBEDDED_DNS not in servers:
        return tuple(servers)
    known = dns.get("upstreams")
    return ("unknown",) if known is None else tuple(known)


def gateways(fleet: Fleet, endpoint: Endpoint) -> set[str]:
    """The gateways by which a container may leave; none where it has no way out by design.

    An overlay's own gateway is none of them: its containers leave through the gateway bridge of their host.
    """
    known = {row["name"]: row for row in fleet.hosts[endpoint.host].facts.networks}
    found: set[str | None] = set()
    for row in _container(fleet, endpoint).get("endpoints") or []:
        network = known.get(row.get("network") or "") or {}
        if network.get("internal") or not row.get("ip"):
            continue
        if network.get("driver") == "overlay":
            subnets = (known.get(GATEWAY_BRIDGE) or {}).get("subnets") or []
            found |= {subnet.get("gateway") for subnet in subnets}
        elif network.get("driver") in ("bridge", "macvlan", "ipvlan"):
            found.add(row.get("gateway"))
    return {gateway for gateway in found if gateway}


def default_gateways(fleet: Fleet, endpoint: Endpoint) -> set[str | None]:
    """Where the default routes of a container's namespace lead; None for one without a gateway."""
    namespace = fleet.container_namespace(endpoint)
    routes = (namespace.facts.get("routes") or []) if namespace else []
    return {route.get("gateway") for route in routes if route["dst"] == "default" and route.get("family", 4) == 4}


def netns_path(fleet: Fleet, endpoint: Endpoint) -> str | None:
    namespace = fleet.container_namespace(endpoint)
    return namespace.facts.get("path") if namespace else None


def host_pair(fleet: Fleet, src: Host, dst: Host) -> Pair:
    """Host to host over the underlay, with the ports a Swarm needs and a proof that does not depend on ICMP."""
    ip = dst.underlay_ip
    probes = [Probe("icmp", ip), *_full_size(ip, (_way_out(src, ip), dst.underlay_link), SIGNAL)]
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
    probes += _by_ipv6(fleet, src, dst)
    if kind == "overlay":
        probes += _full_size(dst.ip, (_attachment(fleet, src), _attachment(fleet, dst)), FULL)
    if resolvers(fleet, src) and has_embedded_dns(fleet.networks.get(src.network_id)):
        probes.append(Probe("dns", expects=PATH, options={"name": dst.container}))
    return Pair(
        kind, container_node(src), container_node(dst), dst.network_id, dst.network, netns_path(fleet, src), probes
    )


def _full_size(ip: str | None, links: tuple[Facts | None, Facts | None], expects: str) -> list[Probe]:
    """One echo as large as the interfaces of both ends take it, not to be fragmented."""
    sizes = [link.get("mtu") or 0 for link in links if link]
    if ip is None or len(sizes) < 2 or not FULL_SIZE[0] <= min(sizes) <= FULL_SIZE[1]:
        return []
    return [Probe("mtu", ip, expects=expects, options={"size": min(sizes), "df": True})]


def _way_out(host: Host, ip: str | None) -> Facts | None:
    """The link by which the host's kernel sends to an address, as far as it was asked; else the underlay's."""
    root = host.facts.root
    index = next((row.get("oif") for row in root.facts.get("paths") or [] if row.get("dst") == ip), None)
    return (root.link_by_index.get(index) if index else None) or host.underlay_link


def _attachment(fleet: Fleet, endpoint: Endpoint) -> Facts | None:
    """The interface by which a container is on a network."""
    namespace = fleet.container_namespace(endpoint)
    return namespace.link_of_address(endpoint.ip) if namespace else None


def _by_ipv6(fleet: Fleet, src: Endpoint, dst: Endpoint) -> list[Probe]:
    """The same service by IPv6, where the network gave both ends an address and the target listens on it."""
    address, namespace = address6(fleet, dst), fleet.container_namespace(dst)
    if not address or not address6(fleet, src) or namespace is None:
        return []
    rows = namespace.facts.get("sockets") or []
    ports = [r["port"] for r in rows if r["protocol"] == "tcp" and r.get("family") == 6 and r["ip"] in ("::", address)]
    return [Probe("tcp", address, min(ports), PATH, tag="6")] if ports else []


def address6(fleet: Fleet, endpoint: Endpoint) -> str | None:
    """The IPv6 address an endpoint's engine gave it."""
    rows = _container(fleet, endpoint).get("endpoints") or []
    found = next((row.get("ip6") for row in rows if row.get("network_id") == endpoint.network_id), None)
    return found.partition("/")[0] if found else None


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


def routed_pair(fleet: Fleet, src: Endpoint, dst: Endpoint) -> Pair:
    """Container to container of another host by routes alone: no tunnel, and no translation unless somebody does it."""
    namespace = fleet.container_namespace(dst)
    ports = [
        port
        for _ip, port in (namespace.listeners("tcp") if namespace else [])
        if namespace is not None and namespace.listens("tcp", port, dst.ip)
    ]
    probes = [Probe("icmp", dst.ip), Probe("tcp", dst.ip, min(ports, default=CLOSED_PORT))]
    return Pair(
        "routed", container_node(src), container_node(dst), src.network_id, src.network, netns_path(fleet, src), probes
    )


def upstream_pair(fleet: Fleet, source: Endpoint | Host) -> Pair:
    """A container, or its host, asks for a name that has to be forwarded: any answer proves the resolver behind."""
    probes = [Probe("dns", options={"name": FORWARDED_NAME})]
    target = Node(None, "name", FORWARDED_NAME.rstrip("."), None)
    if isinstance(source, Host):
        return Pair("upstream", host_node(source), target, probes=probes)
    return Pair(
        "upstream",
        container_node(source),
        target,
        source.network_id,
        source.network,
        netns_path(fleet, source),
        probes,
    )


def translated_pair(fleet: Fleet, source: Endpoint, address: str, port: int) -> Pair:
    """A container asks an address that its host translates to a neighbour on the same bridge."""
    target = Node(source.host, "service", f"{address}:{port}", address)
    probes = [Probe("tcp", address, port, SERVICE)]
    return Pair(
        "translated",
        container_node(source),
        target,
        source.network_id,
        source.network,
        netns_path(fleet, source),
        probes,
    )

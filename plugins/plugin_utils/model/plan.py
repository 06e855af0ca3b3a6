# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The probe plan: which pairs a run asks about.

Small fleets get the full mesh. Above MESH_LIMIT hosts every host probes PEERS others and is probed by as many,
chosen from the run id alone, so that cost grows with the fleet and not with its square.
"""

from __future__ import annotations

import random
import typing as t
from functools import cached_property

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.asked import asked_pairs
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.builders import (
    EMBEDDED_DNS,
    default_gateways,
    egress_pair,
    endpoint_pair,
    gateways,
    host_pair,
    published_pair,
    resolvers,
    translated_pair,
    upstream_pair,
    upstreams,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Endpoint, Fleet, Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Node, Pair
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.routes import routed_pairs
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.services import (
    backend_pair,
    mesh_pair,
    mesh_ports,
    service_pair,
    service_ports,
    stray_backends,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.stores import store_pairs
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.translations import translations

MESH_LIMIT = 12  # hosts; up to here everybody probes everybody
PEERS = 4  # above it: peers probed by each host
ENDPOINT_LIMIT = 48  # endpoints of one network that one host probes
RESOLVER = ("nameservers", "search", "options")  # what path_probe takes of a container's resolver configuration
PORT_LIMIT = 8  # ports published through the routing mesh that are asked at one node
STRAY_LIMIT = 32  # addresses without a container behind them that are asked, in all
RESOLVERS = 3  # sets of upstream name servers of one host that are asked
ASTRAY = 4  # containers of one host asked for their way out because their default route is not what it should be
OUTSIDE_PEERS = 2  # hosts that stand for "outside" in published-port and egress pairs


class Plan:
    """Builds the pairs of the first round from the facts of the fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.random = random.Random(str(fleet.run.get("run_id")))  # noqa: S311  a shuffle that can be repeated, no secret
        self.pairs: list[Pair] = []
        self._peers = self._choose_peers()

    def build(self) -> list[Pair]:
        self._host_pairs()
        self._network_pairs()
        self._service_pairs()
        self._mesh_pairs()
        self._backend_pairs()
        self.pairs += store_pairs(self.fleet)
        self._published_pairs()
        self._egress_pairs()
        self._routed_pairs()
        self._upstream_pairs()
        self._translated_pairs()
        return self.pairs

    def _choose_peers(self) -> dict[str, list[Host]]:
        """The hosts each host probes: everybody, or the next PEERS on a ring shuffled by the run id."""
        ring = sorted((h for h in self.fleet.answering if h.underlay_ip and h.has_engine), key=lambda h: h.name)
        if len(ring) <= MESH_LIMIT:
            return {host.name: [other for other in ring if other is not host] for host in ring}
        self.random.shuffle(ring)
        return {
            host.name: [ring[(position + step) % len(ring)] for step in range(1, PEERS + 1)]
            for position, host in enumerate(ring)
        }

    def peers(self, host: Host) -> list[Host]:
        return self._peers.get(host.name, [])

    def _host_pairs(self) -> None:
        for host in self.fleet.answering:
            targets = list(self.peers(host))  # none for a host without an engine: nobody's containers need it
            if host.facts.in_swarm:
                targets += [
                    m
                    for m in self.fleet.swarm_hosts
                    if m.facts.is_manager and m is not host and m not in targets and m.underlay_ip
                ]
            self.pairs += [host_pair(self.fleet, host, peer) for peer in targets]

    def _network_pairs(self) -> None:
        for network_id, endpoints in sorted(self.fleet.endpoints_by_network.items()):
            network = self.fleet.networks.get(network_id)
            if network is None or network.ingress or network.driver not in ("overlay", "bridge"):
                continue
            if network.options.get("com.docker.network.bridge.enable_icc") == "false":
                continue
            by_host: dict[str, list[Endpoint]] = {}
            for endpoint in sorted(endpoints, key=lambda e: (e.host, e.container)):
                by_host.setdefault(endpoint.host, []).append(endpoint)
            for local in by_host.values():
                self._local_pairs(local)
            if network.is_overlay:
                self._overlay_pairs(by_host)

    def _local_pairs(self, local: list[Endpoint]) -> None:
        """The control of every cross-host pair: two containers on one host and network."""
        if len(local) > 1:
            self.pairs.append(endpoint_pair(self.fleet, "local", local[0], local[1]))

    def _overlay_pairs(self, by_host: dict[str, list[Endpoint]]) -> None:
        """One container of each host probes every remote endpoint; every other container probes one."""
        for name, local in by_host.items():
            peers = [peer.name for peer in self.peers(self.fleet.hosts[name]) if peer.name in by_host]
            remote = [endpoint for peer in peers for endpoint in by_host[peer]]
            chosen = remote if len(remote) <= ENDPOINT_LIMIT else self.random.sample(remote, ENDPOINT_LIMIT)
            self.pairs += [endpoint_pair(self.fleet, "overlay", local[0], endpoint) for endpoint in chosen]
            for position, endpoint in enumerate(local[1 : ENDPOINT_LIMIT + 1]):
                if remote:
                    self.pairs.append(endpoint_pair(self.fleet, "overlay", endpoint, remote[position % len(remote)]))

    def _service_pairs(self) -> None:
        """Virtual addresses, each from one container of every host on the network."""
        for network in self.fleet.networks.values():
            if network.ingress:
                continue
            sources = _one_per_host(self.fleet.endpoints_by_network.get(network.id) or [])[:MESH_LIMIT]
            for vip, name, port in service_ports(self.fleet, network.id):
                self.pairs += [service_pair(self.fleet, source, vip, name, port) for source in sources]

    def _mesh_pairs(self) -> None:
        """Ports published through the routing mesh: every node answers for every service, so every node is asked."""
        published = mesh_ports(self.fleet)
        for host in self.fleet.swarm_hosts if published else []:
            asked = published if len(published) <= PORT_LIMIT else self.random.sample(published, PORT_LIMIT)
            for peer in self.peers(host)[:OUTSIDE_PEERS] if host.underlay_ip else []:
                self.pairs += [mesh_pair(peer, host, name, port) for name, port in asked]

    def _backend_pairs(self) -> None:
        """Addresses that engines name as a service's or container's, and that no running container has."""
        for network_id, name, ip in stray_backends(self.fleet)[:STRAY_LIMIT]:
            for source in _one_per_host(self.fleet.endpoints_by_network.get(network_id) or [])[:OUTSIDE_PEERS]:
                self.pairs.append(backend_pair(self.fleet, source, name, ip))

    def _published_pairs(self) -> None:
        for host in self.fleet.answering:
            if not host.underlay_ip:
                continue
            for container in host.facts.containers:
                for port in container.get("ports") or []:
                    if not _reachable_from_outside(port, host):
                        continue
                    for peer in self.peers(host)[:OUTSIDE_PEERS]:
                        self.pairs.append(
                            published_pair(
                                host,
                                port["host_port"],
                                Node(peer.name, "host", peer.name, peer.underlay_ip),
                                "published",
                                None,
                            )
                        )
                    source = Node(host.name, "container", container["name"], None, container["id"])
                    namespace = host.facts.namespace(container.get("netns"))
                    if namespace is not None and namespace.facts.get("path"):
                        self.pairs.append(
                            published_pair(host, port["host_port"], source, "hairpin", namespace.facts["path"])
                        )

    def _egress_pairs(self) -> None:
        for host in self.fleet.answering:
            for endpoint in self._egress_sources(host):
                for peer in self.peers(host)[:OUTSIDE_PEERS]:
                    self.pairs.append(egress_pair(self.fleet, endpoint, peer))

    def _egress_sources(self, host: Host) -> list[Endpoint]:
        """One container for each way out of the host: every bridge network, and one for all overlays together."""
        found: dict[str, Endpoint] = {}
        astray: dict[str, Endpoint] = {}
        for endpoint in self._local.get(host.name) or []:
            network = self.fleet.networks.get(endpoint.network_id)
            namespace = self.fleet.container_namespace(endpoint)
            if namespace is None or network is None or network.driver not in ("overlay", "bridge") or network.internal:
                continue
            meant, taken = gateways(self.fleet, endpoint), default_gateways(self.fleet, endpoint)
            if taken and (taken & meant or not meant):
                found.setdefault("overlay" if network.is_overlay else network.id, endpoint)
            elif meant and len(astray) < ASTRAY:
                astray.setdefault(endpoint.container_id, endpoint)
        return [*found.values(), *astray.values()]

    @cached_property
    def _local(self) -> dict[str, list[Endpoint]]:
        grouped: dict[str, list[Endpoint]] = {}
        for endpoint in self.fleet.endpoints:
            grouped.setdefault(endpoint.host, []).append(endpoint)
        return grouped

    def _upstream_pairs(self) -> None:
        """One container for each set of upstream name servers of a host, and the host for comparison."""
        for host in self.fleet.answering:
            found: dict[tuple[str, ...], Endpoint] = {}
            networks = self.fleet.networks
            local = [e for e in self._local.get(host.name) or [] if e.network_id in networks]
            local = [e for e in local if not networks[e.network_id].internal]
            for embedded in (True, False):  # the engine's forwarder first: most containers depend on it
                for endpoint in local:
                    servers = upstreams(self.fleet, endpoint)
                    forwarded = EMBEDDED_DNS in resolvers(self.fleet, endpoint)
                    if servers and forwarded == embedded and default_gateways(self.fleet, endpoint):
                        found.setdefault(servers, endpoint)
            self.pairs += [upstream_pair(self.fleet, source) for source in list(found.values())[:RESOLVERS]]
            if found:
                self.pairs.append(upstream_pair(self.fleet, host))

    def _routed_pairs(self) -> None:
        for host in self.fleet.answering:
            self.pairs += routed_pairs(self.fleet, host, self.peers(host))

    def _translated_pairs(self) -> None:
        for host in self.fleet.answering:
            for row in translations(self.fleet, host, self._local.get(host.name) or []):
                self.pairs.append(translated_pair(self.fleet, row.client, row.address, row.port))


def _reachable_from_outside(port: dict[str, t.Any], host: Host) -> bool:
    bound = port.get("host_ip") or "0.0.0.0"
    return bool(port.get("host_port")) and port.get("protocol") == "tcp" and bound in ("0.0.0.0", host.underlay_ip)


def _one_per_host(endpoints: list[Endpoint]) -> list[Endpoint]:
    first: dict[str, Endpoint] = {}
    for endpoint in sorted(endpoints, key=lambda e: (e.host, e.container)):
        first.setdefault(endpoint.host, endpoint)
    return list(first.values())


def _source(facts: HostFacts, pair: Pair) -> dict[str, t.Any]:
    """The namespace to probe from, with its identity and the resolver configuration of its container."""
    source: dict[str, t.Any] = {"container": pair.src.container_id, "netns": pair.netns, "probes": []}
    if pair.netns:
        source["inode"] = next((ns.key for ns in facts.namespaces if ns.facts.get("path") == pair.netns), None)
        container = next((c for c in facts.containers if c["id"] == pair.src.container_id), {})
        dns = container.get("dns") or {}
        source["dns"] = {name: dns[name] for name in RESOLVER if name in dns} or None
    return {name: value for name, value in source.items() if value is not None}


def first_round(fleet: Fleet) -> list[Pair]:
    """What the run asks first: the whole fleet, the operator's question, or of these only what a repair was for."""
    question = fleet.run.get("question") or {}
    plan = Plan(fleet)
    pairs = asked_pairs(fleet, question) if question.get("to") else plan.build()
    if fleet.run.get("pairs") is not None:
        pairs = _only(pairs, fleet.run["pairs"])
    return list({pair.id: pair for pair in pairs}.values())


def _only(pairs: list[Pair], names: t.Collection[str]) -> list[Pair]:
    """The named pairs, and the host pairs below them: without those nobody can say on which layer one fails."""
    ends = {frozenset(pair.hosts) for pair in pairs if pair.id in names}
    return [pair for pair in pairs if pair.id in names or (pair.kind == "host" and frozenset(pair.hosts) in ends)]


def second_round(observations: list[Observation]) -> list[Pair]:
    """What failed or lost packets, once more, with the host pairs below it: their signals move rule counters."""
    suspect = [o for o in observations if o.verdict("first") in ("failed", "degraded")]
    ends = {frozenset(o.pair.hosts) for o in suspect}
    return [o.pair for o in observations if o in suspect or (o.pair.kind == "host" and frozenset(o.pair.hosts) in ends)]


def schedule(fleet: Fleet, pairs: list[Pair]) -> dict[str, list[dict[str, t.Any]]]:
    """The pairs as path_probe's O(sources) of every host."""
    hosts: dict[str, dict[str | None, dict[str, t.Any]]] = {}
    for pair in pairs:
        if pair.src.host is None or (pair.src.kind == "container" and not pair.netns):
            continue
        sources = hosts.setdefault(pair.src.host, {})
        source = sources.setdefault(pair.netns, _source(fleet.hosts[pair.src.host].facts, pair))
        known = {probe["id"] for probe in source["probes"]}
        source["probes"] += [pair.request(probe) for probe in pair.probes if pair.probe_id(probe) not in known]
    return {host: list(sources.values()) for host, sources in hosts.items()}

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

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.asked import asked_pairs
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.builders import (
    container_node,
    egress_pair,
    endpoint_pair,
    host_pair,
    netns_path,
    published_pair,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Endpoint, Fleet, Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import (
    SERVICE,
    Node,
    Pair,
    Probe,
)

MESH_LIMIT = 12  # hosts; up to here everybody probes everybody
PEERS = 4  # above it: peers probed by each host
ENDPOINT_LIMIT = 48  # endpoints of one network that one host probes
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
        self._published_pairs()
        self._egress_pairs()
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
                targets += [m for m in self.fleet.managers if m is not host and m not in targets and m.underlay_ip]
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
        for network in self.fleet.networks.values():
            sources = self.fleet.endpoints_by_network.get(network.id) or []
            for vip, name, port in _service_ports(self.fleet, network.id):
                for source in _one_per_host(sources)[:MESH_LIMIT]:
                    node = Node(None, "service", f"{name}:{port}", vip)
                    probes = [Probe("tcp", vip, port, SERVICE)]
                    self.pairs.append(
                        Pair(
                            "service",
                            container_node(source),
                            node,
                            network.id,
                            network.name,
                            netns_path(self.fleet, source),
                            probes,
                        )
                    )

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
        for endpoint in self.fleet.endpoints:
            network = self.fleet.networks.get(endpoint.network_id)
            namespace = self.fleet.container_namespace(endpoint) if endpoint.host == host.name else None
            if namespace is None or network is None or network.driver not in ("overlay", "bridge"):
                continue
            if any(route["dst"] == "default" for route in namespace.facts.get("routes") or []):
                found.setdefault("overlay" if network.is_overlay else network.id, endpoint)
        return list(found.values())


def _reachable_from_outside(port: dict[str, t.Any], host: Host) -> bool:
    bound = port.get("host_ip") or "0.0.0.0"
    return bool(port.get("host_port")) and port.get("protocol") == "tcp" and bound in ("0.0.0.0", host.underlay_ip)


def _one_per_host(endpoints: list[Endpoint]) -> list[Endpoint]:
    first: dict[str, Endpoint] = {}
    for endpoint in sorted(endpoints, key=lambda e: (e.host, e.container)):
        first.setdefault(endpoint.host, endpoint)
    return list(first.values())


def _service_ports(fleet: Fleet, network_id: str) -> list[tuple[str, str, int]]:
    """(VIP, service, TCP port) of every service with a VIP on the network whose tasks listen on the port."""
    services = next((m.facts.swarm.get("services") or [] for m in fleet.managers if m.facts.swarm.get("services")), [])
    found = []
    for service in services:
        for vip in service.get("vips") or []:
            if vip["network_id"] != network_id or service.get("endpoint_mode") == "dnsrr":
                continue
            for port in service.get("ports") or []:
                if port.get("protocol", "tcp") == "tcp":
                    found.append((vip["ip"].split("/")[0], service["name"], port["target"]))
    return found


def _source(facts: HostFacts, pair: Pair) -> dict[str, t.Any]:
    """The namespace to probe from, with its identity and the resolver configuration of its container."""
    source: dict[str, t.Any] = {"container": pair.src.container_id, "netns": pair.netns, "probes": []}
    if pair.netns:
        source["inode"] = next((ns.key for ns in facts.namespaces if ns.facts.get("path") == pair.netns), None)
        container = next((c for c in facts.containers if c["id"] == pair.src.container_id), {})
        source["dns"] = container.get("dns")
    return {name: value for name, value in source.items() if value is not None}


def first_round(fleet: Fleet) -> list[Pair]:
    """What the run asks first: the whole fleet, or only the operator's question."""
    question = fleet.run.get("question") or {}
    plan = Plan(fleet)
    pairs = asked_pairs(fleet, question) if question.get("to") else plan.build()
    return list({pair.id: pair for pair in pairs}.values())


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

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The fleet: what all hosts together say about hosts, networks, endpoints and VTEPs.

Expected values come from here. What one kernel should know about another host is what that other host says of
itself, not a constant and not an assumption.
"""

from __future__ import annotations

import ipaddress
import typing as t
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import Facts, HostFacts, Namespace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder


@dataclass(frozen=True)
class Endpoint:
    """A container's attachment to a network."""

    host: str
    container_id: str
    container: str
    network_id: str
    network: str
    ip: str
    mac: str
    netns: str | None = field(compare=False, default=None)


@dataclass
class Network:
    """A network as the engines of the fleet describe it."""

    id: str
    name: str
    driver: str
    scope: str
    ingress: bool = False
    internal: bool = False
    options: dict[str, str] = field(default_factory=dict)

    @property
    def is_overlay(self) -> bool:
        return self.driver == "overlay"


@dataclass
class Host:
    """A host of the play: its facts, or why there are none."""

    name: str
    error: str | None = None
    unreachable: bool = False
    declared_ip: str | None = None
    snapshots: dict[str, HostFacts] = field(default_factory=dict)
    probes: dict[str, Facts] = field(default_factory=dict)
    captures: dict[str, Facts] = field(default_factory=dict)  # what vxlan_capture returned, by label
    mtu: dict[str, Facts] = field(default_factory=dict)  # what mtu_probe returned, by label
    failures: list[tuple[str, str]] = field(default_factory=list)  # calls that failed after the first reading

    @property
    def answered(self) -> bool:
        return "before" in self.snapshots

    @property
    def facts(self) -> HostFacts:
        return self.snapshots.get("before") or HostFacts(self.name, {})

    @property
    def readings(self) -> list[HostFacts]:
        """Every reading that holds state and not only counters, oldest first."""
        return [
            self.snapshots[label]
            for label in ("before", "again")
            if label in self.snapshots and self.snapshots[label].root.links
        ]

    @property
    def latest(self) -> HostFacts:
        """The newest reading that holds state and not only counters."""
        return self.readings[-1] if self.readings else self.facts

    @cached_property
    def underlay_ip(self) -> str | None:
        """Declared by the operator, else Swarm's, else that of the default route's interface, else the only one."""
        facts = self.facts
        return (
            self.declared_ip
            or ((facts.swarm.get("data_path_addr") or facts.swarm.get("node_addr")) if facts.in_swarm else None)
            or facts.default_address
            or facts.only_address
        )

    @property
    def has_engine(self) -> bool:
        """An engine that runs or should run, or nobody could tell."""
        return self.facts.engine.get("state") in ("running", "down", "silent", "unknown")

    @property
    def underlay_link(self) -> Facts | None:
        return self.facts.root.link_of_address(self.underlay_ip) if self.underlay_ip else None


class Fleet:
    """All hosts of a run, indexed."""

    def __init__(self, hosts: t.Iterable[Host], run: Facts) -> None:
        self.hosts = {host.name: host for host in hosts}
        self.run = run

    @classmethod
    def load(cls, folder: RunFolder) -> Fleet:
        """Read every record of the run folder."""
        run = folder.read("run.json") or {}
        names = list(run.get("hosts") or {}) or folder.hosts()
        fleet = cls([_load_host(folder, name, (run.get("hosts") or {}).get(name) or {}) for name in names], run)
        fleet.name_networks()
        return fleet

    def name_networks(self) -> None:
        """Complete the network of every overlay namespace whose reading, or whose engine, did not tell it.

        The engine names these namespaces after the first ten characters of the network's id.
        """
        for host in self.answering:
            for snapshot in host.snapshots.values():
                for namespace in snapshot.namespaces:
                    if namespace.kind == "overlay" and namespace.network_id is None:
                        prefix = (namespace.facts.get("path") or "").rpartition("-")[2]
                        known = [name for name in self.networks if prefix and name.startswith(prefix)]
                        namespace.network_id = known[0] if len(known) == 1 else None

    @property
    def answering(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.answered]

    @cached_property
    def networks(self) -> dict[str, Network]:
        """Networks by id; engines that know the same network are merged."""
        found: dict[str, Network] = {}
        for host in self.answering:
            for row in host.facts.networks:
                found.setdefault(
                    row["id"],
                    Network(
                        row["id"],
                        row["name"],
                        row["driver"],
                        row["scope"],
                        bool(row.get("ingress")),
                        bool(row.get("internal")),
                        row.get("options") or {},
                    ),
                )
        return found

    @cached_property
    def endpoints(self) -> list[Endpoint]:
        """Every running container's attachments."""
        return [
            Endpoint(
                host.name,
                container["id"],
                container["name"],
                row["network_id"],
                row["network"],
                row["ip"],
                row.get("mac") or "",
                container.get("netns"),
            )
            for host in self.answering
            for container in host.facts.containers
            for row in container.get("endpoints") or []
            if row.get("ip") and row.get("network_id")
        ]

    @cached_property
    def endpoints_by_network(self) -> dict[str, list[Endpoint]]:
        grouped: dict[str, list[Endpoint]] = {}
        for endpoint in self.endpoints:
            grouped.setdefault(endpoint.network_id, []).append(endpoint)
        return grouped

    @cached_property
    def tunnel_port(self) -> int | None:
        """The UDP port of the overlay's VXLAN devices, as the kernels have it; else as the managers say."""
        ports = Counter(
            link["vxlan"]["port"]
            for host in self.answering
            for namespace in host.facts.namespaces
            if namespace.kind in ("overlay", "ingress")
            for link in namespace.vxlan_links
            if link["vxlan"].get("port")
        )
        if ports:
            return ports.most_common(1)[0][0]
        declared = [host.facts.swarm.get("data_path_port") for host in self.answering]
        return next((port for port in declared if port), None)

    @cached_property
    def swarm_hosts(self) -> list[Host]:
        return [host for host in self.answering if host.facts.in_swarm]

    @cached_property
    def managers(self) -> list[Host]:
        """The managers that answer."""
        return [host for host in self.swarm_hosts if host.facts.swarm.get("control_available")]

    @cached_property
    def swarm_nodes(self) -> dict[str, Facts]:
        """Node records by node id, as the first answering manager lists them."""
        for host in self.managers:
            if host.facts.swarm.get("nodes"):
                return {node["id"]: node for node in host.facts.swarm["nodes"]}
        return {}

    @cached_property
    def unasked(self) -> dict[str, str]:
        """Addresses of nodes of the Swarm that are no host that answered, with the names the Swarm has for them.

        A manager lists all nodes. Without one, every engine knows the managers, and who is on its overlay networks.
        """
        silent = [host for host in self.hosts.values() if not host.answered]
        own = {host.declared_ip for host in silent}
        for host in self.answering:
            swarm = host.facts.swarm
            own |= {*host.facts.addresses, host.underlay_ip, swarm.get("node_addr"), swarm.get("data_path_addr")}
        ids = {host.facts.swarm.get("node_id") for host in self.answering}
        if self.swarm_nodes:
            names = {host.name.partition(".")[0] for host in silent} | {host.name for host in silent}
            ready = [node for key, node in self.swarm_nodes.items() if key not in ids and node.get("state") == "ready"]
            known = {node.get("addr"): node.get("hostname") for node in ready if node.get("hostname") not in names}
        else:
            known = {address: "" for host in self.swarm_hosts for address in _told(host.facts)}
        found = {ip: name or "" for ip, name in known.items() if ip and ip not in own and not _unspecified(ip)}
        return found if self.swarm_nodes or len(found) > len(silent) else {}

    def host_of_address(self, ip: str) -> Host | None:
        """The host whose own namespace holds this address."""
        owners = [host for host in self.answering if ip in host.facts.addresses or host.underlay_ip == ip]
        return owners[0] if len(owners) == 1 else None

    def node_of_host(self, name: str) -> Facts | None:
        host = self.hosts[name]
        node_id = host.facts.swarm.get("node_id")
        if node_id:
            return self.swarm_nodes.get(node_id)
        hostname = (host.facts.facts.get("host") or {}).get("hostname")
        return next((node for node in self.swarm_nodes.values() if node["hostname"] == hostname), None)

    def container_namespace(self, endpoint: Endpoint) -> Namespace | None:
        return self.hosts[endpoint.host].facts.namespace(endpoint.netns)


_TABLES = {"path_probe": "probes", "vxlan_capture": "captures", "mtu_probe": "mtu"}


def _load_host(folder: RunFolder, name: str, options: Facts) -> Host:
    host = Host(name, declared_ip=options.get("underlay_ip") or None)
    for (module, label), record in folder.records(name).items():
        if record.get("error") and label == "before":
            host.error = host.error or record["error"]
            host.unreachable = host.unreachable or bool(record.get("unreachable"))
        elif record.get("error"):
            host.failures.append((f"{module} ({label})", record["error"]))
        elif module == "overlay_facts" and record.get("facts"):
            host.snapshots[label] = HostFacts(name, record["facts"])
        elif module in _TABLES and record.get("facts"):
            getattr(host, _TABLES[module])[label] = record["facts"]
    if not host.answered and host.error is None:
        host.error = "it returned no facts; the play's output above says why"
    return host


def _told(facts: HostFacts) -> t.Iterator[str]:
    """The addresses of other nodes that an engine knows."""
    for manager in facts.swarm.get("managers") or []:
        yield str(manager.get("addr") or "").rpartition(":")[0].strip("[]")
    for network in facts.networks:
        if network.get("driver") == "overlay":
            yield from (str(peer.get("ip") or "") for peer in network.get("peers") or [])


def _unspecified(ip: str) -> bool:
    try:
        return ipaddress.ip_address(ip).is_unspecified
    except ValueError:
        return True

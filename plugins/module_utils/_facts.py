# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All sections of the facts in one pass: what L(overlay_facts) returns.

Results are filled in place, section by section and namespace by namespace: whatever fails leaves the rest as it is and
a line in C(missing).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ansible_collections.crosshost.doctor.plugins.module_utils import _bpf, _netfilter, _netlink
from ansible_collections.crosshost.doctor.plugins.module_utils._counters import CONNTRACK, read_counters
from ansible_collections.crosshost.doctor.plugins.module_utils._docker import (
    EMPTY_ENGINE,
    EMPTY_SWARM,
    Engine,
    complete_engine,
    configured_root,
    node_certificate,
    read_containers,
    read_engine,
    read_networks,
    read_swarm,
    swarm_on_disk,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._fdb import read_fdb, read_neighbours
from ansible_collections.crosshost.doctor.plugins.module_utils._host import host_parts, note_reload, read_host
from ansible_collections.crosshost.doctor.plugins.module_utils._libraries import load
from ansible_collections.crosshost.doctor.plugins.module_utils._logs import read_log
from ansible_collections.crosshost.doctor.plugins.module_utils._netns import (
    Namespace,
    enumerate_namespaces,
    inside,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._sockets import diag_at_hand, read_sockets
from ansible_collections.crosshost.doctor.plugins.module_utils._sysctl import read_sysctls
from ansible_collections.crosshost.doctor.plugins.module_utils._sysctl_files import persisted_sysctls

SCHEMA = "1"
SECTIONS = ("host", "netns", "engine", "swarm", "networks", "containers", "filter", "counters", "log")
ENGINE_SECTIONS = frozenset(("engine", "swarm", "networks", "containers"))
NAMESPACE_SECTIONS = frozenset(("netns", "filter", "counters"))
ENGINE_SECONDS = 45.0
NAMESPACES_SECONDS = 60.0
MISSING_LIMIT = 200
# Namespaces whose connection tracking is read besides the host's. A container's own is the engine's resolver only.
TRANSLATING_KINDS = frozenset(("ingress", "lb"))
FORWARDING_KINDS = frozenset(("bridge", "vxlan", "geneve", "openvswitch"))
EMPTY_LOG: dict[str, Any] = {"source": None, "path": None, "bytes": 0, "truncated": False, "patterns": {}, "kernel": {}}

Value = TypeVar("Value")


def empty_counters() -> dict[str, Any]:
    """COUNTERS that were not read."""
    conntrack = dict.fromkeys(("count", "max", *CONNTRACK))
    tables = ("links", "snmp", "netstat", "xfrm", "neighbours", "softnet", "filter")
    return {"conntrack": conntrack, **{name: {} for name in tables}}


def empty_namespace(namespace: Namespace) -> dict[str, Any]:
    """A namespace of which nothing has been read yet, every key present."""
    tables = ("links", "addresses", "routes", "rules", "neighbours", "fdb")
    return {
        "key": namespace.key,
        "kind": namespace.kind,
        "path": namespace.path,
        "container": namespace.container,
        "network": None,
        "error": namespace.error,
        **{name: [] for name in tables},
        "sysctls": {},
        "sockets": [],
        "tc": [],
        "bpf_links": [],
        "paths": [],
        "return_paths": [],
        "conntrack": [],
        "filter": _netfilter.empty_filter(),
        "counters": empty_counters(),
    }


def gather(sections: list[str], networks: list[str], library_path: str | None, log_bytes: int) -> dict[str, Any]:
    """The facts of this host.

    @param sections: which of L(SECTIONS) to read; empty means all.
    @param networks: names or ids that narrow networks, containers and their namespaces; empty means all.
    """
    chosen_sections = [name for name in SECTIONS if not sections or name in sections]
    wanted = frozenset(chosen_sections)
    started = time.time()
    libraries_wanted = ("pyroute2",) * ("netns" in wanted) + ("docker",) * bool(wanted & ENGINE_SECTIONS)
    libraries = load(library_path, libraries_wanted)
    facts: dict[str, Any] = {
        "schema": SCHEMA,
        "sections": chosen_sections,
        "started": started,
        "finished": started,
        "missing": list(libraries.missing),
        "host": read_host(libraries),
        "engine": dict(EMPTY_ENGINE),
        "swarm": dict(EMPTY_SWARM),
        "networks": [],
        "containers": [],
        "namespaces": [],
        "log": dict(EMPTY_LOG),
    }
    reading = Reading(facts, wanted, networks)
    if "host" in wanted:
        for what, read in host_parts().items():
            facts["host"][what] = reading.attempt("host", what, read) or facts["host"][what]
    if wanted & ENGINE_SECTIONS:
        reading.attempt("engine", "engine", lambda: reading.engine(libraries.docker))
        note_reload(facts["host"]["managers"], facts["engine"]["firewall_backend"])
    reading.attempt("netns", "namespaces", lambda: reading.namespaces(libraries.pyroute2 is not None))
    if "host" in wanted:
        reading.attempt("host", "persisted sysctls", reading.persisted)
    if "log" in wanted:
        reading.attempt("log", "log", lambda: reading.log(log_bytes))
    missing = facts["missing"]
    if len(missing) > MISSING_LIMIT:
        rest = len(missing) - MISSING_LIMIT
        facts["missing"] = missing[:MISSING_LIMIT]
        facts["missing"].append({"section": "host", "what": "missing", "why": f"{rest} more of these lines"})
    facts["finished"] = time.time()
    return facts


class Reading:
    """One pass over a host; fills C(facts)."""

    def __init__(self, facts: dict[str, Any], wanted: frozenset[str], networks: list[str]) -> None:
        self.facts = facts
        self.wanted = wanted
        self.networks = networks
        self.missing: list[dict[str, str]] = facts["missing"]

    def attempt(self, section: str, what: str, read: Callable[[], Value]) -> Value | None:
        """What C(read) returns; None with a note when it raises, so that one part's failure costs only that part."""
        try:
            return read()
        except Exception as exc:  # decoders meet whatever a kernel or an engine sends
            why = f"{type(exc).__name__}: {exc}" if not isinstance(exc, OSError) else exc.strerror or str(exc)
            self.missing.append({"section": section, "what": what, "why": why})
            return None

    def engine(self, docker: Any) -> None:
        """Engine, swarm, networks and containers."""
        from ansible_collections.crosshost.doctor.plugins.module_utils._certificate import read_certificate

        engine, path = read_engine(self.missing)
        self.facts["engine"] = engine
        try:
            self._ask(engine, path, docker)
        finally:
            if "swarm" in self.wanted and engine["state"] != "absent":
                certificate = node_certificate(engine["data_root"] or configured_root(engine))
                self.facts["swarm"]["certificate"] = read_certificate(certificate)

    def _ask(self, engine: dict[str, Any], path: str | None, docker: Any) -> None:
        if "swarm" in self.wanted and engine["state"] != "absent":
            self.facts["swarm"].update(swarm_on_disk(configured_root(engine)))
        if path is None:
            if engine["state"] != "absent":
                self.missing.append({"section": "engine", "what": "engine", "why": engine["error"] or "not running"})
            return
        if docker is None:
            return  # the socket accepts, and why the SDK is missing has been said
        client = Engine(docker, path, time.monotonic() + ENGINE_SECONDS, self.missing)
        if client.client is None:
            engine.update(state="silent" if client.silent else "unknown", error=f"{path}: {client.error}")
            return
        try:
            info = complete_engine(engine, client)
            if "swarm" in self.wanted and info:
                self.facts["swarm"] = read_swarm(client, info)
            if "networks" in self.wanted:
                self.facts["networks"] = read_networks(client, self.networks)
            if "containers" in self.wanted:
                from ansible_collections.crosshost.doctor.plugins.module_utils._daemon import host_upstreams

                fallback = host_upstreams(engine["daemon_config"], engine["daemon_flags"])
                self.facts["containers"] = read_containers(client, self.networks, fallback)
        finally:
            client.close()

    def namespaces(self, decoder: bool) -> None:
        """Every network namespace, the host's first."""
        found, missing = enumerate_namespaces()
        self.missing.extend(missing)
        self._name(found)
        if self.networks:
            found = [namespace for namespace in found if self._selected(namespace)]
        reader = NamespaceReader(self, decoder)
        deadline = time.monotonic() + NAMESPACES_SECONDS
        for namespace in found:
            row = empty_namespace(namespace)
            row["network"] = self._network_id(namespace)
            self.facts["namespaces"].append(row)
            if time.monotonic() > deadline:
                row["error"] = f"not read: the reading of namespaces took longer than {NAMESPACES_SECONDS:g} s"
            elif not row["error"] and self.wanted & NAMESPACE_SECTIONS:
                reader.read(namespace, row)
        if "netns" in self.wanted:
            self._last(reader, decoder)

    def _last(self, reader: NamespaceReader, decoder: bool) -> None:
        """What is asked of the host's namespace when all tunnels are known: routes to every peer, their entries."""
        from ansible_collections.crosshost.doctor.plugins.module_utils._routes import peers, read_paths

        host = self.facts["namespaces"][0]
        reader.conntrack(host, six=any(":" in peer for peer in peers(self.facts)))
        if not decoder:
            return
        found = self.attempt("netns", f"paths of namespace {host['path']}", lambda: read_paths(self.facts))
        host["paths"], host["return_paths"] = found or ([], [])

    def persisted(self) -> None:
        """Which of the host's sysctls some file sets."""
        host: dict[str, Any] = next((row for row in self.facts["namespaces"] if row["kind"] == "host"), {})
        keys = host.get("sysctls") or read_sysctls()
        self.facts["host"]["persisted_sysctls"] = persisted_sysctls(keys, self.missing)

    def _name(self, found: list[Namespace]) -> None:
        """Book namespaces to containers as the engine tells, which knows better than control groups."""
        owners: dict[str, str] = {}
        for container in self.facts["containers"]:
            shares = str(container["network_mode"] or "").startswith("container:")
            if container["netns"] and not (shares and container["netns"] in owners):
                owners[container["netns"]] = container["id"]
        for namespace in found:
            if namespace.kind in ("host", "overlay", "ingress", "lb"):
                namespace.container = None
            elif namespace.key in owners:
                namespace.container, namespace.kind = owners[namespace.key], "container"

    def _network_id(self, namespace: Namespace) -> str | None:
        """The network of an overlay or load balancer namespace, whose name holds the beginning of its id."""
        prefix = namespace.network_prefix
        if prefix is None:
            return None
        ids = [network["id"] for network in self.facts["networks"] if str(network["id"]).startswith(prefix)]
        return ids[0] if len(ids) == 1 else None

    def _selected(self, namespace: Namespace) -> bool:
        """Whether a namespace belongs to the networks asked for; those of the host and without an owner always do."""
        if namespace.network_prefix is not None and "networks" in self.wanted:
            return self._network_id(namespace) is not None
        if namespace.container is not None and "containers" in self.wanted:
            return any(container["netns"] == namespace.key for container in self.facts["containers"])
        return True

    def log(self, limit: int) -> None:
        """The log. An engine that is down says why there, if anywhere; one that is absent need not have one."""
        engine = self.facts["engine"]
        self.facts["log"] = read_log(limit, self.missing)
        if engine["state"] == "absent" and self.facts["log"]["source"] is None:
            self.missing[:] = [note for note in self.missing if note["what"] != "engine log"]
        patterns = self.facts["log"]["patterns"]
        if engine["state"] == "down":
            for name in ("start-failed", "fatal", "error"):
                if name in patterns:
                    engine["error"] = f"{engine['error']}; last in the log: {patterns[name]['sample']}"
                    return


class NamespaceReader:
    """Reads one namespace after the other, being inside each of them once."""

    def __init__(self, reading: Reading, decoder: bool) -> None:
        self.reading = reading
        self.decoder = decoder
        self.diag = diag_at_hand()
        self.askable: bool | None = None
        self.bpf_links: list[dict[str, Any]] = []
        if "netns" in reading.wanted:
            self.bpf_links = reading.attempt("netns", "BPF links", _bpf.read_links) or []

    def read(self, namespace: Namespace, row: dict[str, Any]) -> None:
        """Fill C(row). A namespace that cannot be entered, or vanished, gets an C(error)."""
        try:
            with inside(None if namespace.kind == "host" else namespace.path):
                self._sections(row)
        except OSError as exc:
            row["error"] = exc.strerror or str(exc)

    def _sections(self, row: dict[str, Any]) -> None:
        wanted = self.reading.wanted
        counters = None
        if "counters" in wanted:
            counters = self._part(row, "counters", lambda: read_counters(complete=row["kind"] == "host"))
        if "netns" in wanted:
            self._tables(row)
        if row["kind"] == "other" and len(row["links"] or (counters or {}).get("links", ())) <= 1:
            return  # a service's private namespace, nothing but its loopback: that it exists is all there is to say
        row["counters"] = counters or row["counters"]
        if "netns" in wanted:
            self._details(row)
        if wanted & {"filter", "counters"}:
            self._filter(row)

    def _part(self, row: dict[str, Any], what: str, read: Callable[[], Value]) -> Value | None:
        return self.reading.attempt("netns", f"{what} of namespace {row['path']}", read)

    def _tables(self, row: dict[str, Any]) -> None:
        """Links and addresses."""
        if self.decoder:
            row["links"] = self._checked(row, "links", _netlink.read_links)
            if row["kind"] == "host":
                self._part(row, "drivers", lambda: _netlink.name_drivers(row["links"]))
            row["addresses"] = self._checked(row, "addresses", _netlink.read_addresses)

    def _checked(
        self, row: dict[str, Any], what: str, read: Callable[[], tuple[list[dict[str, Any]], bool]]
    ) -> list[dict[str, Any]]:
        """The rows of one table, with a note when it kept changing while it was read."""
        answer = self._part(row, what, read)
        if answer is None:
            return []
        if not answer[1]:
            why = "changed during each of three attempts: may be incomplete"
            self.reading.missing.append({"section": "netns", "what": f"{what} of namespace {row['path']}", "why": why})
        return answer[0]

    def _details(self, row: dict[str, Any]) -> None:
        """Everything else of the section netns."""
        if self.decoder:
            row["routes"] = self._checked(row, "routes", lambda: self._routes(row))
            row["rules"] = self._checked(row, "rules", _netlink.read_rules)
            row["tc"] = self._checked(row, "tc", _netlink.read_tc) + self._programs(row)
        row["neighbours"] = self._checked(row, "neighbours", read_neighbours)
        if not row["links"] or any(link["kind"] in FORWARDING_KINDS or link["master"] for link in row["links"]):
            row["fdb"] = relevant_fdb(self._checked(row, "fdb", read_fdb), row["links"])
        row["sysctls"] = self._part(row, "sysctls", read_sysctls) or {}
        row["sockets"] = self._part(row, "sockets", lambda: read_sockets(self.diag)) or []
        if row["kind"] in TRANSLATING_KINDS:
            self.conntrack(row)
        row["bpf_links"] = [
            link
            for link in self.bpf_links
            # The kernel does not say in which namespace a netfilter program sits: all are listed with the host's.
            if link["netns"] == row["key"] or (link["type"] == "netfilter" and row["kind"] == "host")
        ]

    def conntrack(self, row: dict[str, Any], six: bool = False) -> None:
        """Entries of tunnels, as far as they are known by now, and translated ones; of IPv6 when there is need."""
        from ansible_collections.crosshost.doctor.plugins.module_utils._conntrack import askable, read_conntrack

        if self.askable is None:
            self.askable = askable()
        if self.askable:
            ports = tunnel_ports(self.reading.facts)
            families = (socket.AF_INET, socket.AF_INET6)[: 2 if six else 1]
            row["conntrack"] = self._part(row, "conntrack", lambda: read_conntrack(ports, families)) or []

    def _routes(self, row: dict[str, Any]) -> tuple[list[dict[str, Any]], bool]:
        routes, consistent, left_out = _netlink.read_routes()
        if left_out:
            why = f"{left_out} routes beyond the first {_netlink.ROUTE_LIMIT} left out"
            self.reading.missing.append({"section": "netns", "what": f"routes of namespace {row['path']}", "why": why})
        return routes, consistent

    def _programs(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """tcx and netkit programs; nobody is asked when the machine has no such link at all."""
        found = []
        for name, kinds in (("tcx", (46, 47)), ("netkit", (54, 55))):
            indexes = {link["index"] for link in self.bpf_links if link["type"] == name}
            for link in row["links"]:
                if link["index"] in indexes:
                    found.extend(_bpf.device_programs(link["index"], kinds))
        return found

    def _filter(self, row: dict[str, Any]) -> None:
        """Rules and their counters, by the reader of the packet filter."""
        if "filter" in self.reading.wanted:
            row["filter"] = self._part(row, "filter", _netfilter.read_filter) or row["filter"]
        if "counters" in self.reading.wanted:
            row["counters"]["filter"] = self._part(row, "filter counters", _netfilter.read_counters) or {}


def tunnel_ports(facts: dict[str, Any]) -> frozenset[int]:
    """The UDP ports of the tunnels this host has: those of its devices, and of its Swarm's data path."""
    links = [link for namespace in facts["namespaces"] for link in namespace["links"] if link["vxlan"]]
    ports = [facts["swarm"]["data_path_port"], *(link["vxlan"]["port"] for link in links)]
    return frozenset(port for port in ports if isinstance(port, int) and 0 < port < 65536)


def relevant_fdb(rows: list[dict[str, Any]], links: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Forwarding entries of bridges, their ports and tunnels.

    Left out are the receive lists of ordinary devices that the same dump contains: every device outside of a bridge,
    and on the others the multicast groups a device listens to, which forward nothing. Without links, all is kept.
    """
    if not links:
        return rows
    by_index = {link["index"]: link for link in links}
    kept = []
    for row in rows:
        link = by_index.get(row["index"])
        kind = link["kind"] if link else None
        if kind in FORWARDING_KINDS - {"bridge"}:
            kept.append(row)
        elif row["master"] is not None or kind == "bridge" or (link and link["master"]):
            macs = [mac for mac in row["macs"] if not int(mac[1], 16) & 1] if "self" in row["flags"] else row["macs"]
            if macs:
                kept.append(dict(row, macs=macs))
    return kept

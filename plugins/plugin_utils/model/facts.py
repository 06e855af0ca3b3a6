# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One host's overlay_facts, with the look-ups that causes and the probe plan ask for.

Nothing here judges: it only finds. Every accessor tolerates facts that are missing, because a host with a broken
network is exactly the one whose facts are incomplete.
"""

from __future__ import annotations

import ipaddress
import typing as t
from functools import cached_property

Facts = dict[str, t.Any]


class Namespace:
    """One network namespace of a host as overlay_facts saw it."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.key: str = facts.get("key") or ""
        self.kind: str = facts.get("kind") or "other"
        self.network_id: str | None = facts.get("network")
        self.container_id: str | None = facts.get("container")

    @property
    def links(self) -> list[Facts]:
        return self.facts.get("links") or []

    @cached_property
    def link_by_index(self) -> dict[int, Facts]:
        return {link["index"]: link for link in self.links}

    def link(self, name: str) -> Facts | None:
        return next((link for link in self.links if link["name"] == name), None)

    @property
    def vxlan_links(self) -> list[Facts]:
        return [link for link in self.links if link.get("vxlan")]

    @property
    def addresses(self) -> list[Facts]:
        return self.facts.get("addresses") or []

    def link_of_address(self, ip: str) -> Facts | None:
        index = next((a["index"] for a in self.addresses if a["ip"] == ip), None)
        return self.link_by_index.get(index) if index is not None else None

    @property
    def sysctls(self) -> dict[str, int]:
        return self.facts.get("sysctls") or {}

    @property
    def ephemeral_port(self) -> int | None:
        """A port the kernel gives its own connections, the middle of their range; None where that was not read."""
        low, _blank, high = str(self.sysctls.get("net.ipv4.ip_local_port_range", "")).partition(" ")
        return (int(low) + int(high)) // 2 if low.isdigit() and high.isdigit() else None

    @property
    def filter(self) -> Facts:
        return self.facts.get("filter") or {}

    @property
    def counters(self) -> Facts:
        return self.facts.get("counters") or {}

    def fdb(self, index: int) -> dict[str, str]:
        """MAC to remote VTEP of one VXLAN device."""
        return {
            mac: row["dst"]
            for row in self.facts.get("fdb") or []
            if row["index"] == index and row.get("dst")
            for mac in row["macs"]
        }

    def neighbours(self, index: int) -> dict[str, tuple[str | None, str]]:
        """IP to (MAC, state) on one device."""
        return {
            ip: (mac, row["state"])
            for row in self.facts.get("neighbours") or []
            if row["index"] == index
            for ip, mac in row["entries"]
        }

    def listeners(self, protocol: str) -> list[tuple[str, int]]:
        """(address, port) of every listening TCP or bound UDP socket."""
        rows = self.facts.get("sockets") or []
        return sorted({(row["ip"], row["port"]) for row in rows if row["protocol"] == protocol})

    def listens(self, protocol: str, port: int, ip: str | None = None) -> bool:
        """Whether a socket accepts what arrives for this port on a non-loopback address."""
        return any(number == port and _reachable(address, ip) for address, number in self.listeners(protocol))


def _reachable(bound: str, ip: str | None) -> bool:
    address = ipaddress.ip_address(bound.split("%", maxsplit=1)[0])
    if address.is_unspecified:
        return True
    return not address.is_loopback and (ip is None or bound == ip)


class HostFacts:
    """What one host answered."""

    def __init__(self, name: str, facts: Facts) -> None:
        self.name = name
        self.facts = facts

    @property
    def engine(self) -> Facts:
        return self.facts.get("engine") or {}

    @property
    def swarm(self) -> Facts:
        return self.facts.get("swarm") or {}

    @property
    def in_swarm(self) -> bool:
        """A node of a Swarm: as its engine says or, where that gives no answer, as it wrote down."""
        if self._engine_is_silent:
            return bool(self.swarm.get("node_addr"))
        return bool(self.swarm.get("node_id")) and self.swarm.get("state") in ("active", "pending", "error", "locked")

    @property
    def is_manager(self) -> bool:
        """A manager, by the same two sources: one that is cut off from the others may not even answer its own host."""
        if self._engine_is_silent:
            addresses = {
                str(row.get("addr")).rpartition(":")[0].strip("[]") for row in self.swarm.get("managers") or []
            }
            return self.swarm.get("node_addr") in addresses
        return bool(self.swarm.get("control_available"))

    @property
    def _engine_is_silent(self) -> bool:
        return self.engine.get("state") in ("down", "silent", "unknown") and not self.swarm.get("state")

    @property
    def networks(self) -> list[Facts]:
        return self.facts.get("networks") or []

    @property
    def containers(self) -> list[Facts]:
        return [c for c in self.facts.get("containers") or [] if c.get("state") == "running"]

    @cached_property
    def namespaces(self) -> list[Namespace]:
        return [Namespace(ns) for ns in self.facts.get("namespaces") or []]

    @cached_property
    def root(self) -> Namespace:
        """The host's own namespace (an empty one where it could not be read)."""
        return next((ns for ns in self.namespaces if ns.kind == "host"), Namespace({"kind": "host"}))

    def namespace(self, key: str | None) -> Namespace | None:
        return next((ns for ns in self.namespaces if key and ns.key == key), None)

    def overlay_namespace(self, network_id: str) -> Namespace | None:
        return next(
            (ns for ns in self.namespaces if ns.kind in ("overlay", "ingress") and ns.network_id == network_id), None
        )

    def container(self, reference: str) -> Facts | None:
        """A container by name or by the start of its id."""
        for container in self.containers:
            if reference in (container["name"], container["id"]) or (
                len(reference) >= 6 and container["id"].startswith(reference)
            ):
                return container
        return None

    @cached_property
    def addresses(self) -> set[str]:
        """Every unicast address of the host's own namespace that is not loopback or link-local."""
        found = set()
        for row in self.root.addresses:
            ip = ipaddress.ip_address(row["ip"])
            if not (ip.is_loopback or ip.is_link_local):
                found.add(row["ip"])
        return found

    @property
    def default_address(self) -> str | None:
        """The address of the interface that carries the default route."""
        routes = [r for r in self.root.facts.get("routes") or [] if r["dst"] == "default" and r["family"] == 4]
        for route in sorted(routes, key=lambda r: r.get("metric") or 0):
            if route.get("src"):
                return route["src"]
            for row in self.root.addresses:
                if row["index"] == route.get("oif") and row["family"] == 4:
                    return row["ip"]
        return None

    @property
    def only_address(self) -> str | None:
        """The first address that is not a container bridge's."""
        for row in self.root.addresses:
            link = self.root.link_by_index.get(row["index"]) or {}
            if row["family"] == 4 and row["ip"] in self.addresses and link.get("kind") != "bridge":
                return row["ip"]
        return None

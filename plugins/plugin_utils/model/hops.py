# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hops: the places on a pair's path where a tap can stand, in the order a packet passes them.

An overlay pair: container eth, its port on the bridge, VXLAN device, NIC ⇒ NIC, VXLAN device, port, container eth. The
bridge of an overlay itself sees no bridged unicast; that of a routed path does, because its host routes through it.
"""

from __future__ import annotations

import typing as t
from dataclasses import asdict, dataclass

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import Namespace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet, Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Facts, Node, Pair

CONTAINER, VETH, VTEP, BRIDGE, NIC = "container", "veth", "vtep", "bridge", "nic"

# The segment of DESIGN.md 4.3 between two neighbouring hops, as far as the places alone tell; the reason may tell more.
SEGMENTS = {
    (CONTAINER, VETH): "container",
    (VETH, CONTAINER): "container",
    (VETH, VETH): "bridge",
    (VETH, VTEP): "bridge",
    (VTEP, VETH): "bridge",
    (VETH, BRIDGE): "bridge",
    (BRIDGE, VETH): "bridge",
    (VTEP, NIC): "host-filter-out",
    (NIC, VTEP): "host-filter-in",
    (NIC, NIC): "underlay",
    (VTEP, VTEP): "underlay",
    (BRIDGE, NIC): "host-stack",
    (NIC, BRIDGE): "nat",
}


@dataclass(frozen=True)
class Hop:
    """One hop: what stands there, on which host, and the tap that watches it."""

    name: str
    host: str
    namespace: str  # the inode of the network namespace
    index: int  # of the interface in it

    @property
    def tap(self) -> str:
        """The tap's id on its host."""
        return f"{self.name}:{self.namespace}:{self.index}"

    def dump(self) -> Facts:
        return asdict(self)


def between(last: Hop | None, missing: Hop | None) -> str:
    """The segment a packet got lost in that the one hop saw and the other did not."""
    if last is None or missing is None:
        return "container" if (last or missing or Hop(NIC, "", "", 0)).name == CONTAINER else "host-filter-out"
    if last.name == missing.name == NIC and last.host == missing.host:
        return "host-stack"
    return SEGMENTS.get((last.name, missing.name), "host-stack")


def hops(fleet: Fleet, pair: Pair) -> list[Hop]:
    """The hops of a pair from its source to its destination; none where the path is not one that taps can follow."""
    builders: dict[str, t.Callable[[Fleet, Pair], list[Hop | None]]] = {
        "overlay": _overlay,
        "local": _local,
        "host": _host,
        "published": _published,
        "egress": _egress,
        "routed": _routed,
    }
    build = builders.get(pair.kind)
    return [hop for hop in build(fleet, pair) if hop is not None] if build else []


def _overlay(fleet: Fleet, pair: Pair) -> list[Hop | None]:
    network = fleet.networks.get(pair.network_id or "")
    hidden = network is None or "encrypted" in network.options  # what a NIC sees then is ESP, without a mark
    there = [*_attached(fleet, pair, pair.src), _vtep(fleet, pair, pair.src)]
    here = [_vtep(fleet, pair, pair.dst), *reversed(_attached(fleet, pair, pair.dst))]
    return there + ([] if hidden else [_nic(fleet, pair.src), _nic(fleet, pair.dst)]) + here


def _local(fleet: Fleet, pair: Pair) -> list[Hop | None]:
    return [*_attached(fleet, pair, pair.src), *reversed(_attached(fleet, pair, pair.dst))]


def _host(fleet: Fleet, pair: Pair) -> list[Hop | None]:
    return [_nic(fleet, pair.src), _nic(fleet, pair.dst)]


def _published(fleet: Fleet, pair: Pair) -> list[Hop | None]:
    ports = {probe.port for probe in pair.probes if probe.port}
    target = fleet.hosts.get(pair.dst.host or "")
    served = []
    for container in target.facts.containers if target else []:
        rows = [row for row in container.get("ports") or [] if row.get("host_port") in ports]
        if rows:
            served.append(Node(pair.dst.host, CONTAINER, container["name"], None, container["id"]))
    inner = _behind_bridge(fleet, served[0]) if len(served) == 1 else []
    return [_nic(fleet, pair.src), _nic(fleet, pair.dst), *reversed(inner)]


def _egress(fleet: Fleet, pair: Pair) -> list[Hop | None]:
    return [*_behind_bridge(fleet, pair.src), _nic(fleet, pair.src), _nic(fleet, pair.dst)]


def _routed(fleet: Fleet, pair: Pair) -> list[Hop | None]:
    inner = reversed(_behind_bridge(fleet, pair.dst))
    return [*_behind_bridge(fleet, pair.src), _nic(fleet, pair.src), _nic(fleet, pair.dst), *inner]


def _hop(name: str, host: Host, namespace: Namespace | None, link: Facts | None) -> Hop | None:
    if namespace is None or link is None or not namespace.key:
        return None
    return Hop(name, host.name, namespace.key, link["index"])


def _nic(fleet: Fleet, node: Node) -> Hop | None:
    host = fleet.hosts.get(node.host or "")
    return _hop(NIC, host, host.facts.root, host.underlay_link) if host else None


def _vtep(fleet: Fleet, pair: Pair, node: Node) -> Hop | None:
    host = fleet.hosts.get(node.host or "")
    namespace = host.facts.overlay_namespace(pair.network_id or "") if host else None
    if host is None or namespace is None or len(namespace.vxlan_links) != 1:
        return None
    return _hop(VTEP, host, namespace, namespace.vxlan_links[0])


def _container_space(fleet: Fleet, node: Node) -> tuple[Host, Facts, Namespace] | None:
    host = fleet.hosts.get(node.host or "")
    container = next((c for c in host.facts.containers if c["id"] == node.container_id), None) if host else None
    namespace = host.facts.namespace(container.get("netns")) if host and container else None
    return (host, container, namespace) if host and container and namespace else None


def _attached(fleet: Fleet, pair: Pair, node: Node) -> list[Hop | None]:
    """A container's interface on the pair's network, and the other end of the veth."""
    found = _container_space(fleet, node)
    if found is None:
        return []
    host, _container, namespace = found
    link = namespace.link_of_address(node.ip or "")
    return [_hop(CONTAINER, host, namespace, link), _peer(host, namespace, link)]


def _behind_bridge(fleet: Fleet, node: Node) -> list[Hop | None]:
    """A container's interface on the way out of its host, the other end of the veth, and the bridge that is on."""
    found = _container_space(fleet, node)
    if found is None:
        return []
    host, _container, namespace = found
    routes = [r for r in namespace.facts.get("routes") or [] if r["dst"] == "default" and r.get("family", 4) == 4]
    link = namespace.link_by_index.get(routes[0]["oif"]) if routes else None
    port = _peer(host, namespace, link)
    outer = host.facts.root.link_by_index.get(port.index) if port and port.namespace == host.facts.root.key else None
    bridge = host.facts.root.link_by_index.get(outer.get("master") or 0) if outer else None
    return [_hop(CONTAINER, host, namespace, link), port, _hop(BRIDGE, host, host.facts.root, bridge)]


def _peer(host: Host, namespace: Namespace, link: Facts | None) -> Hop | None:
    """The other end of a veth: the link whose index and peer index are swapped, where only one such is."""
    if link is None or not link.get("link"):
        return None
    ends = [
        (space, other)
        for space in host.facts.namespaces
        for other in space.links
        if space is not namespace and other["index"] == link["link"] and other.get("link") == link["index"]
    ]
    return _hop(VETH, host, *ends[0]) if len(ends) == 1 else None

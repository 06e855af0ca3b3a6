# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The packet filters a container's packets cross, in order, for every kind of pair.

A container's way out leaves its namespace, is forwarded from its bridge to the NIC and translated. What comes for a
published port is translated and forwarded the other way, or taken by the engine's userland proxy. Between containers
of one network it crosses the filters of both containers and the bridges between them. The tunnel's own packets are
not looked at here.
"""

from __future__ import annotations

import ipaddress
import typing as t
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case, Facts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.forwarding import gateway_bridge, publisher
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import (
    FORWARDED,
    INBOUND,
    OUTBOUND,
    Packet,
    PathFate,
    RuleRef,
    Ruleset,
    path_fate,
    prepare,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts, Namespace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import PATH, SERVICE, SIGNAL, Node, Probe

ARRIVES = ("ingress", "prerouting")
BRIDGED = ("bridge:prerouting", "bridge:forward", "bridge:postrouting")
TO_HOST = ("bridge:prerouting", "bridge:input")
FROM_HOST = ("bridge:output", "bridge:postrouting")
KINDS = ("egress", "published", "hairpin", "overlay", "local")
BRIDGE_FILTER = "net.bridge.bridge-nf-call-iptables"


_prepared: WeakKeyDictionary[Namespace, Ruleset] = WeakKeyDictionary()
# Several causes ask for the same packets.
_fates: WeakKeyDictionary[Namespace, dict[tuple[Packet, tuple[str, ...]], PathFate]] = WeakKeyDictionary()


def ruleset(namespace: Namespace) -> Ruleset | None:
    """A namespace's filter, prepared once; None where it has no chains or was not read."""
    if not namespace.filter.get("chains"):
        return None
    if namespace not in _prepared:
        _prepared[namespace] = prepare(namespace.filter)
    return _prepared[namespace]


@dataclass(frozen=True)
class Crossing:
    """One packet of a pair through the filter of one namespace."""

    host: Host
    namespace: Namespace
    segment: str
    packet: Packet
    path: tuple[str, ...]

    def fate(self) -> PathFate | None:
        """What the filter does with it; None where there is none or it was not read."""
        rules = ruleset(self.namespace)
        if rules is None:
            return None
        known = _fates.setdefault(self.namespace, {})
        if (self.packet, self.path) not in known:
            known[self.packet, self.path] = path_fate(rules, self.packet, self.path)
        return known[self.packet, self.path]


@dataclass(frozen=True)
class Stop:
    """A rule that drops a pair's packets, and where."""

    crossing: Crossing
    rule: RuleRef


@dataclass(frozen=True)
class Attachment:
    """A container's end: its namespace, the interface and address a network (or its default route) uses."""

    namespace: Namespace
    interface: str
    ip: str


def shape(protocol: str, src: str, dst: str, port: int | None, answer: bool = False, **more: t.Any) -> Packet:
    """The first packet of a flow, or the first answer to it."""
    family = 6 if ":" in dst else 4
    known: dict[str, t.Any] = {"family": family, "src": src, "dst": dst, "ipsec": False, **more}
    if protocol == "icmp":
        kind = {(4, False): 8, (4, True): 0, (6, False): 128, (6, True): 129}[family, answer]
        known.update(protocol="icmp6" if family == 6 else "icmp", icmp_type=kind, icmp_code=0)
    else:
        known.update(protocol=protocol, **{"sport" if answer else "dport": port})
    if protocol == "tcp":
        known["tcp_flags"] = ("syn", "ack") if answer else ("syn",)
    state, direction = (("established",), "reply") if answer else (("new",), "original")
    return Packet(**known, ct_state=state, ct_direction=direction)


def attachment(facts: HostFacts, container_id: str | None, ip: str | None = None) -> Attachment | None:
    """Where a container holds an address, or else the address its default route leaves with."""
    container = next((c for c in facts.containers if c["id"] == container_id), None)
    namespace = facts.namespace(container.get("netns")) if container else None
    if namespace is None:
        return None
    if ip is None:
        out = next((r.get("oif") for r in namespace.facts.get("routes") or [] if r["dst"] == "default"), None)
        ip = next((a["ip"] for a in namespace.addresses if a["index"] == out and a["family"] == 4), None)
    link = namespace.link_of_address(ip) if ip else None
    return Attachment(namespace, link["name"], ip) if link and ip else None


def protocol_of(probe: Probe) -> str | None:
    return {"icmp": "icmp", "tcp": "tcp", "http": "tcp", "udp": "udp"}.get(probe.layer)


def forwards(host: Host, *interfaces: str) -> bool:
    """Whether the kernel forwards at all, on these interfaces: else no packet comes to a forward hook."""
    sysctls = host.latest.root.sysctls
    keys = ["net.ipv4.ip_forward", *(f"net.ipv4.conf.{name.replace('.', '/')}.forwarding" for name in interfaces)]
    return all(sysctls.get(key) != 0 for key in keys)


def crossings(case: Case, observation: Observation, probe: Probe) -> list[Crossing]:
    """The filters this probe and its answer cross, in order; what is not known is left out."""
    protocol = protocol_of(probe)
    kind = observation.pair.kind
    if protocol is None or kind not in KINDS:
        return []
    if kind == "egress":
        return _egress(case, observation, protocol, probe.port)
    if kind in ("published", "hairpin"):
        return _published(case, observation, protocol, probe.port)
    return _bridged(case, observation, protocol, probe.port)


def _nic(host: Host) -> str:
    return (host.underlay_link or {}).get("name") or ""


def way_out(case: Case, observation: Observation, protocol: str, port: int | None) -> Crossing | None:
    """A container's packet from its bridge through FORWARD and nat to the NIC."""
    pair = observation.pair
    host = case.fleet.hosts.get(pair.src.host or "")
    end = attachment(host.facts, pair.src.container_id) if host else None
    bridge = gateway_bridge(host.facts, pair.src.container_id) if host else None
    if host is None or end is None or bridge is None or pair.dst.ip is None:
        return None
    if not _nic(host) or not forwards(host, bridge, _nic(host)):
        return None
    packet = shape(protocol, end.ip, pair.dst.ip, port, src_type="unicast", dst_type="unicast")
    packet = replace(packet, iif=bridge, oif=_nic(host))
    return Crossing(host, host.facts.root, "host-filter-out", packet, FORWARDED)


def _egress(case: Case, observation: Observation, protocol: str, port: int | None) -> list[Crossing]:
    out = way_out(case, observation, protocol, port)
    end = attachment(out.host.facts, observation.pair.src.container_id) if out else None
    if out is None or end is None:
        return []
    root, packet = out.namespace, out.packet
    own, peer = out.host.underlay_ip or "", packet.dst or ""
    bridge, nic = packet.iif or "", packet.oif or ""
    back = shape(protocol, peer, own, port, True, iif=nic, src_type="unicast", dst_type="local", snat=True)
    inward = replace(back, dst=end.ip, oif=bridge, dst_type="unicast")
    return [
        Crossing(
            out.host, end.namespace, "container", replace(packet, iif="", oif=end.interface, src_type="local"), OUTBOUND
        ),
        Crossing(out.host, root, "bridge", replace(packet, iif=None, oif="", pkttype="host"), TO_HOST),
        out,
        Crossing(out.host, root, "host-filter-in", back, ARRIVES),
        Crossing(out.host, root, "host-filter-in", inward, ("forward", "postrouting")),
        Crossing(out.host, root, "bridge", replace(inward, iif="", oif=None), FROM_HOST),
        Crossing(
            out.host,
            end.namespace,
            "container",
            replace(inward, iif=end.interface, oif="", dst_type="local", snat=None),
            INBOUND,
        ),
    ]


def translated(host: Host, packet: Packet) -> Packet | None:
    """What nat makes of a packet that arrives at the host; None where that cannot be told."""
    rules = ruleset(host.facts.root)
    if rules is None:
        return packet
    fate = path_fate(rules, packet, ARRIVES)
    return None if fate.packet.dnat is None or fate.packet.dst is None else fate.packet


def knock(case: Case, observation: Observation, protocol: str, port: int | None) -> Packet | None:
    """The packet that asks for a published port, as it arrives at the host that publishes it."""
    pair = observation.pair
    host = case.fleet.hosts.get(pair.dst.host or "")
    if host is None or host.underlay_ip is None or not _nic(host):
        return None
    source = case.fleet.hosts.get(pair.src.host or "")
    src, iif, own = pair.src.ip, _nic(host), source.facts.root if source is not None and source.answered else None
    if source is host:
        end = attachment(host.facts, pair.src.container_id)
        src, iif = (end.ip if end else None), gateway_bridge(host.facts, pair.src.container_id) or ""
        own = end.namespace if end else None
    if src is None or not iif:
        return None
    sport = own.ephemeral_port if own is not None and protocol == "tcp" else None
    return shape(protocol, src, host.underlay_ip, port, sport=sport, iif=iif, src_type="unicast", dst_type="local")


def holder(facts: HostFacts, ip: str) -> str | None:
    """The running container that holds an address, on whichever of its interfaces."""
    for container in facts.containers:
        namespace = facts.namespace(container.get("netns"))
        if namespace is not None and namespace.kind == "container" and namespace.link_of_address(ip):
            return str(container["id"])
    return None


def _published(case: Case, observation: Observation, protocol: str, port: int | None) -> list[Crossing]:
    pair = observation.pair
    arriving = knock(case, observation, protocol, port)
    if arriving is None:
        return []
    host, root = case.host(str(pair.dst.host)), case.host(str(pair.dst.host)).facts.root
    found, last = [], []
    source = case.fleet.hosts.get(pair.src.host or "")
    if source is not None and source is not host and source.answered:
        leaving = replace(arriving, iif="", oif=_nic(source), src_type="local", dst_type="unicast")
        found.append(Crossing(source, source.facts.root, "host-filter-out", leaving, OUTBOUND))
        answer = shape(protocol, host.underlay_ip or "", arriving.src or "", port, True, iif=_nic(source), oif="")
        answer = replace(answer, dport=arriving.sport, src_type="unicast", dst_type="local")
        last.append(Crossing(source, source.facts.root, "host-filter-in", answer, INBOUND))
    elif source is host:
        own = attachment(host.facts, pair.src.container_id)
        if own:
            leaving = replace(arriving, iif="", oif=own.interface, src_type="local", dst_type="unicast")
            found.append(Crossing(host, own.namespace, "container", leaving, OUTBOUND))
    after = translated(host, arriving)
    if after is None:
        return [*found, Crossing(host, root, "host-filter-in", arriving, ARRIVES), *last]
    if after.dnat:
        return found + _forwarded_in(host, arriving, after) + last
    found.append(Crossing(host, root, "host-filter-in", arriving, INBOUND))
    return found + _proxied(host, observation, protocol) + last


def _forwarded_in(host: Host, arriving: Packet, after: Packet) -> list[Crossing]:
    """A translated packet through FORWARD to the container, and its answer back."""
    end = attachment(host.facts, holder(host.facts, after.dst or ""), after.dst)
    bridge = bridge_of(host.facts, after.dst or "")
    root = host.facts.root
    if end is None or bridge is None or not forwards(host, bridge, arriving.iif or bridge):
        return [Crossing(host, root, "host-filter-in", arriving, ARRIVES)]
    protocol, port = str(after.protocol), after.dport
    inner = replace(after, iif=end.interface, oif="", dst_type="local", dnat=None)
    back = shape(protocol, end.ip, arriving.src or "", port, True, src_type="unicast", dst_type="unicast", dnat=True)
    return [
        Crossing(host, root, "host-filter-in", replace(arriving, oif=bridge), FORWARDED),
        Crossing(host, root, "bridge", replace(after, iif="", oif=None), FROM_HOST),
        Crossing(host, end.namespace, "container", inner, INBOUND),
        Crossing(
            host, end.namespace, "container", replace(back, iif="", oif=end.interface, src_type="local"), OUTBOUND
        ),
        Crossing(host, root, "host-filter-out", replace(back, iif=bridge, oif=arriving.iif), ("prerouting", "forward")),
    ]


def _proxied(host: Host, observation: Observation, protocol: str) -> list[Crossing]:
    """From the engine's userland proxy to the container, and back."""
    container_id = publisher(host.facts, observation)
    end = attachment(host.facts, container_id)
    bridge = bridge_of(host.facts, end.ip) if end else None
    link = host.facts.root.link(bridge) if bridge else None
    rows = host.facts.root.addresses if link else []
    own = next((a["ip"] for a in rows if link and a["index"] == link["index"] and a["family"] == 4), None)
    port = _container_port(host.facts, container_id, observation.pair.probes[0].port)
    if end is None or own is None or port is None:
        return []
    root = host.facts.root
    out = shape(protocol, own, end.ip, port, iif="", oif=bridge, src_type="local", dst_type="unicast")
    back = shape(protocol, end.ip, own, port, True, src_type="local", dst_type="unicast")
    return [
        Crossing(host, root, "host-filter-out", out, OUTBOUND),
        Crossing(host, end.namespace, "container", replace(out, iif=end.interface, oif="", dst_type="local"), INBOUND),
        Crossing(host, end.namespace, "container", replace(back, iif="", oif=end.interface), OUTBOUND),
        Crossing(
            host,
            root,
            "host-filter-in",
            replace(back, iif=bridge, oif="", src_type="unicast", dst_type="local"),
            INBOUND,
        ),
    ]


def _container_port(facts: HostFacts, container_id: str | None, published: int | None) -> int | None:
    for container in facts.containers:
        for row in container.get("ports") or []:
            if container["id"] == container_id and row.get("host_port") == published:
                return t.cast(int, row["port"])
    return None


def bridge_of(facts: HostFacts, ip: str) -> str | None:
    """The interface of the host behind which an address is: a connected route's."""
    route = facts_route(facts.root, ip)
    link = facts.root.link_by_index.get(route.get("oif") or -1) if route and not route.get("gateway") else None
    return link["name"] if link else None


def facts_route(namespace: Namespace, ip: str) -> Facts | None:
    """The route of the main table with the longest prefix that covers an address."""
    address = ipaddress.ip_address(ip)
    best: tuple[int, Facts] | None = None
    for route in namespace.facts.get("routes") or []:
        if route.get("family") != address.version or route["dst"] == "default":
            continue
        network = ipaddress.ip_network(route["dst"], strict=False)
        if address in network and (best is None or network.prefixlen > best[0]):
            best = (network.prefixlen, route)
    return best[1] if best else None


def _bridged(case: Case, observation: Observation, protocol: str, port: int | None) -> list[Crossing]:
    """Between containers of one network: both containers' filters, and the bridges in between, there and back."""
    pair = observation.pair
    start, end = _end(case, pair.src), _end(case, pair.dst)
    if start is None or end is None:
        return []
    there = _one_way(start, end, pair.network_id, protocol, port, False)
    return there + _one_way(end, start, pair.network_id, protocol, port, True)


def _end(case: Case, node: Node) -> tuple[Host, Attachment] | None:
    host = case.fleet.hosts.get(node.host or "")
    found = attachment(host.facts, node.container_id, node.ip) if host else None
    return (host, found) if host and found else None


def _one_way(
    start: tuple[Host, Attachment],
    end: tuple[Host, Attachment],
    network_id: str | None,
    protocol: str,
    port: int | None,
    answer: bool,
) -> list[Crossing]:
    (sender, source), (receiver, target) = start, end
    packet = shape(protocol, source.ip, target.ip, port, answer, src_type="local", dst_type="unicast")
    arriving = replace(packet, iif=target.interface, oif="", src_type="unicast", dst_type="local")
    found = [Crossing(sender, source.namespace, "container", replace(packet, iif="", oif=source.interface), OUTBOUND)]
    for host in [sender] if sender is receiver else [sender, receiver]:
        found += _over_bridge(host, network_id, replace(packet, src_type="unicast"))
    return [*found, Crossing(receiver, target.namespace, "container", arriving, INBOUND)]


def _over_bridge(host: Host, network_id: str | None, packet: Packet) -> list[Crossing]:
    """The bridge of a network on one host: an overlay's in its own namespace, else the host's."""
    namespace = host.facts.overlay_namespace(network_id) if network_id else None
    if namespace is not None:
        return [Crossing(host, namespace, "bridge", packet, BRIDGED)]
    bridge = bridge_of(host.facts, packet.dst or "")
    if bridge is None:
        return []
    found = [Crossing(host, host.facts.root, "bridge", packet, BRIDGED)]
    if host.facts.root.sysctls.get(BRIDGE_FILTER) == 1:
        found.append(
            Crossing(host, host.facts.root, "host-filter-in", replace(packet, iif=bridge, oif=bridge), ("forward",))
        )
    return found


def stop_of(case: Case, observation: Observation, probe: Probe) -> Stop | None:
    """The first rule on the way that certainly drops this probe or its answer."""
    for crossing in crossings(case, observation, probe):
        fate = crossing.fate()
        if fate is not None and fate.verdict == "drop" and fate.drops:
            return Stop(crossing, fate.drops[0])
    return None


def maybe_stops(case: Case, observation: Observation, probe: Probe) -> list[Stop]:
    """The rules on the way that may drop it, where nothing certainly does."""
    found = []
    for crossing in crossings(case, observation, probe):
        fate = crossing.fate()
        if fate is not None and fate.verdict != "accept":
            found += [Stop(crossing, rule) for rule in fate.may_drop]
    return found


def stopped(case: Case, observation: Observation) -> Stop | None:
    """The rule that certainly breaks this pair: it drops what has to answer, or all there is to answer."""
    states = observation.layers()
    failed = [p for p in observation.pair.probes if states[p.key] == "failed" and p.expects != SIGNAL]
    stops = {probe.key: stop_of(case, observation, probe) for probe in failed if protocol_of(probe)}
    needed = [probe for probe in failed if probe.expects in (PATH, SERVICE)]
    for probe in needed:
        if stops.get(probe.key):
            return stops[probe.key]
    if needed or not stops or not all(stops.values()):
        return None
    return next(iter(stops.values()), None)

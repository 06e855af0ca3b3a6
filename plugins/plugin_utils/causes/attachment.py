# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A container's attachment: its bridge, its veth, its routes."""

from __future__ import annotations

import ipaddress
import typing as t
from dataclasses import dataclass, field

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    CRITICAL,
    LIKELY,
    POSSIBLE,
    SYMPTOM,
    WARNING,
    Case,
    Cause,
    Evidence,
    Facts,
    Finding,
    Remedy,
    pair_ids,
    severity_of,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.forwarding import publisher
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import Packet, fate
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.builders import default_gateways, gateways
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.deltas import Rise, link_counter, rise
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts, Namespace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Endpoint, Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation

OUTWARD = ("egress", "upstream", "hairpin", "translated", "name")
BRIDGE = "com.docker.network.bridge."
DRIVER = "com.docker.network.driver."


# -- bridges -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attached:
    """A namespace's interface on a bridge network: the container's, or the engine's own for the routing mesh."""

    namespace: Namespace = field(compare=False)
    link: Facts = field(compare=False)
    ip: str = ""

    @property
    def container_id(self) -> str | None:
        return self.namespace.container_id


@dataclass(frozen=True)
class Defect:
    """What is wrong with a bridge (C(ip) empty) or with one port of it."""

    link: str
    observed: str
    expected: str
    verify: str
    cure: str
    ip: str = ""


def bridge_name(network: Facts) -> str:
    """The interface of a bridge network: named by the operator, else after the network's id."""
    return (network.get("options") or {}).get(f"{BRIDGE}name") or f"br-{network['id'][:12]}"


def attached(facts: HostFacts, network: Facts) -> list[Attached]:
    """Interfaces of namespaces of this host with an address of the network."""
    subnets = [ipaddress.ip_network(row["subnet"]) for row in network.get("subnets") or [] if row.get("subnet")]
    found = []
    for namespace in facts.namespaces:
        if namespace.kind not in ("container", "ingress"):
            continue
        for row in namespace.addresses:
            link = namespace.link_by_index.get(row["index"])
            address = ipaddress.ip_address(row["ip"])
            if link is not None and link.get("kind") == "veth" and any(address in subnet for subnet in subnets):
                found.append(Attached(namespace, link, row["ip"]))
    return found


def bridge_defects(facts: HostFacts, network: Facts) -> set[Defect]:
    """What keeps a bridge network from working on a host where something is attached to it."""
    users = attached(facts, network)
    if not users:
        return set()  # a bridge nobody uses has no carrier, and may be down
    name, root = bridge_name(network), facts.root
    bridge = root.link(name) or _holder(root, network)
    if not root.links:
        return set()
    if bridge is None:
        show = f"ip link show dev {name}"
        return {Defect(name, "absent", "the bridge of the network", show, "restart the engine")}
    return {*_own_defects(root, network, bridge), *_port_defects(root, bridge, users)}


def _holder(root: Namespace, network: Facts) -> Facts | None:
    """The bridge that has an address of the network, whatever its name."""
    subnets = [ipaddress.ip_network(row["subnet"]) for row in network.get("subnets") or [] if row.get("subnet")]
    for row in root.addresses:
        link = root.link_by_index.get(row["index"]) or {}
        if link.get("kind") == "bridge" and any(ipaddress.ip_address(row["ip"]) in subnet for subnet in subnets):
            return link
    return None


def _own_defects(root: Namespace, network: Facts, bridge: Facts) -> t.Iterator[Defect]:
    name = bridge["name"]
    if not bridge.get("up"):
        yield Defect(name, "down", "up", f"ip link show dev {name}", f"ip link set dev {name} up")
        return
    options = network.get("options") or {}
    if options.get(f"{BRIDGE}inhibit_ipv4") == "true" or options.get(f"{BRIDGE}gateway_mode_ipv4") == "isolated":
        return
    for row in network.get("subnets") or []:
        subnet = ipaddress.ip_network(row["subnet"]) if row.get("subnet") else None
        if subnet is None or subnet.version != 4:
            continue
        own = [a for a in root.addresses if a["index"] == bridge["index"] and ipaddress.ip_address(a["ip"]) in subnet]
        if not own:
            address = f"{row.get('gateway') or next(subnet.hosts(), subnet.network_address)}/{subnet.prefixlen}"
            yield Defect(
                name,
                f"without an address in {subnet}",
                f"{address}, the gateway of its containers",
                f"ip address show dev {name}",
                f"ip address add {address} brd + dev {name}",
            )
        elif not any(r["dst"] == str(subnet) and r.get("oif") == bridge["index"] for r in _main_routes(root)):
            yield Defect(
                name,
                f"without a route to {subnet}",
                f"{subnet} dev {name}",
                f"ip route show {subnet}",
                f"ip route add {subnet} dev {name} src {own[0]['ip']}",
            )


def _main_routes(root: Namespace) -> list[Facts]:
    return [row for row in root.facts.get("routes") or [] if row.get("table", 254) == 254]


def _port_defects(root: Namespace, bridge: Facts, users: list[Attached]) -> t.Iterator[Defect]:
    for user in users:
        port = root.link_by_index.get(user.link.get("link") or 0)
        if port is None or port.get("link") != user.link["index"]:
            continue  # its other end is elsewhere: nothing is known of it
        name = port["name"]
        if not port.get("up"):
            yield Defect(name, "down", "up", f"ip link show dev {name}", f"ip link set dev {name} up", user.ip)
        elif port.get("master") != bridge["index"]:
            yield Defect(
                name,
                "not a port of the bridge",
                f"a port of {bridge['name']}",
                f"bridge link show dev {name}",
                f"ip link set dev {name} master {bridge['name']}",
                user.ip,
            )
        elif not user.link.get("up"):
            yield Defect(
                name,
                f"without carrier: {user.link['name']} of the container is down",
                "up at both ends",
                f"ip link show dev {name}",
                f"nsenter --net={user.namespace.facts.get('path')} ip link set dev {user.link['name']} up",
                user.ip,
            )


def decide_bridge(case: Case) -> t.Iterator[Finding]:
    """Bridges that are down or without their address, and ports that are not on them."""
    for host in case.fleet.answering:
        for network in host.latest.networks or host.facts.networks:
            if network.get("driver") != "bridge":
                continue
            found = [bridge_defects(facts, network) for facts in host.readings]
            lasting = sorted(set.intersection(*found), key=lambda d: (bool(d.ip), d.link)) if found else []
            if lasting:
                yield _bridge_finding(case, host, network, lasting)


def _bridge_finding(case: Case, host: Host, network: Facts, defects: list[Defect]) -> Finding:
    users = attached(host.latest, network)
    whole = not all(defect.ip for defect in defects)
    cut = [user for user in users if whole or user.ip in {defect.ip for defect in defects}]
    broken = [o for o in case.touching(host.name) if _crosses(case, host, o, network, cut)]
    names = {c["id"]: c["name"] for c in host.facts.containers}
    hit = sorted({names.get(user.container_id or "", user.namespace.kind) for user in cut})
    first = defects[0]
    return Finding(
        cause="bridge-down",
        severity=severity_of(broken),
        confidence=CONFIRMED if broken else LIKELY,
        hosts=[host.name],
        segment="bridge",
        direction="both",
        network=network["name"],
        summary=f"{first.link} on {host.name} is {first.observed}: {', '.join(hit[:4])} "
        f"{'is' if len(hit) == 1 else 'are'} cut off from network {network['name']}"
        + (f", {len(broken)} pair(s) fail" if broken else ""),
        evidence=[
            Evidence(host.name, f"link {d.link}, network {network['name']}", d.observed, d.expected, d.verify)
            for d in defects[:6]
        ],
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (
                    *(f"on {host.name}: {defect.cure}" for defect in defects[:6]),
                    (
                        "lasting: recreate the endpoint (docker network disconnect, connect), or restart the engine; "
                        "see what manages the interface (NetworkManager, systemd-networkd) and exempt it"
                    ),
                ),
                "None for the link; recreating an endpoint interrupts that container.",
            )
        ],
    )


def _crosses(case: Case, host: Host, observation: Observation, network: Facts, cut: list[Attached]) -> bool:
    """Whether a pair's packets pass one of these interfaces."""
    pair = observation.pair
    ids = {user.container_id for user in cut if user.container_id}
    if pair.kind == "local":
        return pair.network_id == network["id"] and bool({pair.src.container_id, pair.dst.container_id} & ids)
    if pair.src.host == host.name and pair.kind in OUTWARD and pair.src.container_id in ids:
        return pair.kind == "translated" or _leaves_by(host.latest, pair.src.container_id, network)
    if pair.dst.host != host.name or pair.dst.kind not in ("published-port", "service"):
        return False
    behind = publisher(host.facts, observation)
    return behind in ids if behind else any(user.namespace.kind == "ingress" for user in cut)


def _leaves_by(facts: HostFacts, container_id: str | None, network: Facts) -> bool:
    """Whether a container's default route goes out on the interface it has on this network."""
    for user in attached(facts, network):
        if user.container_id == container_id:
            routes = user.namespace.facts.get("routes") or []
            ways = {row.get("oif") for row in routes if row["dst"] == "default" and row.get("family", 4) == 4}
            return not ways or user.link["index"] in ways
    return False


# -- routes --------------------------------------------------------------------------------------------------------


def decide_route(case: Case) -> t.Iterator[Finding]:
    """Containers whose default route is missing, or leads elsewhere than to the gateway they were given."""
    seen: set[tuple[str, str]] = set()
    for endpoint in case.fleet.endpoints:
        key = (endpoint.host, endpoint.container_id)
        if key in seen:
            continue
        seen.add(key)
        finding = _route_finding(case, case.host(endpoint.host), endpoint)
        if finding is not None:
            yield finding


def _route_finding(case: Case, host: Host, endpoint: Endpoint) -> Finding | None:
    namespace = host.latest.namespace(endpoint.netns)
    meant = gateways(case.fleet, endpoint)
    taken = default_gateways(case.fleet, endpoint)
    if not meant or namespace is None or namespace.facts.get("error") or taken & meant:
        return None
    now = {row.get("gateway") for row in namespace.facts.get("routes") or [] if row["dst"] == "default"}
    broken = [
        o
        for o in case.touching(host.name)
        if (o.pair.src.container_id == endpoint.container_id and o.pair.kind in OUTWARD)
        or (o.pair.kind == "published" and publisher(host.facts, o) == endpoint.container_id)
    ]
    if not broken or now & meant:
        return None  # a route of the operator's own that works is nobody's business
    observed = f"default via {', '.join(sorted(str(gateway) for gateway in now))}" if now else "no default route"
    expected = " or ".join(f"default via {gateway}" for gateway in sorted(meant))
    path = namespace.facts.get("path") or f"container of {endpoint.container}"
    return Finding(
        cause="container-route-wrong",
        severity=CRITICAL,
        confidence=LIKELY,
        hosts=[host.name],
        segment="container",
        direction="out",
        summary=f"{endpoint.container} on {host.name} has {observed} and cannot leave its networks "
        f"(expected: {expected}), {len(broken)} pair(s) fail",
        evidence=[
            Evidence(
                host.name,
                f"routes in the namespace of {endpoint.container}",
                observed,
                expected,
                f"nsenter --net={path} ip route",
            )
        ],
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (
                    f"on {host.name}: nsenter --net={path} ip route replace default via {sorted(meant)[0]}",
                    f"lasting: docker restart {endpoint.container}; see what in the container changes its routes",
                ),
                "None for the route; a restart interrupts the container.",
            )
        ],
    )


# -- ports ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Port:
    """A container's port on a bridge, on the host or in an overlay's namespace."""

    namespace: Namespace
    link: Facts
    inner: Namespace
    inner_link: Facts
    endpoint: Endpoint


def ports(case: Case, host: Host) -> t.Iterator[Port]:
    """The veth pairs of a host's containers, by their endpoints."""
    facts = host.latest
    for endpoint in case.fleet.endpoints:
        if endpoint.host != host.name:
            continue
        inner = facts.namespace(endpoint.netns)
        link = inner.link_of_address(endpoint.ip) if inner else None
        if inner is None or link is None:
            continue
        for outer in (facts.overlay_namespace(endpoint.network_id), facts.root):
            port = outer.link_by_index.get(link.get("link") or 0) if outer else None
            if outer is not None and port is not None and port.get("link") == link["index"]:
                yield Port(outer, port, inner, link, endpoint)
                break


def decide_drops(case: Case) -> t.Iterator[Finding]:
    """Ports that lose packets: their own counters rise with the probes, or a queue that shapes them sits there."""
    suspect = {name for o in case.observations if o.verdict() in ("failed", "degraded") for name in o.pair.hosts}
    for host in case.fleet.answering:
        for port in ports(case, host) if host.name in suspect else ():
            affected = _affected(case, host, port)
            if not affected:
                continue
            lost = _losses(host, port)
            queue = _queue(host, port)
            if lost is not None or queue is not None:
                yield _drops_finding(host, port, lost, queue, affected)


def _affected(case: Case, host: Host, port: Port) -> list[Observation]:
    """Pairs through the port that fail, or lose packets, and that nothing explains yet."""
    explained = {pair for finding in case.findings for pair in finding.explains}
    container, network = port.endpoint.container_id, port.endpoint.network_id
    found = []
    for observation in case.observations:
        pair = observation.pair
        if observation.verdict() not in ("failed", "degraded") or pair.id in explained or host.name not in pair.hosts:
            continue
        ends = {pair.src.container_id, pair.dst.container_id}
        if pair.kind in ("overlay", "local", "translated"):
            mine = container in ends and pair.network_id == network
        elif pair.dst.kind == "published-port":
            mine = publisher(host.facts, observation) == container or pair.src.container_id == container
        else:
            mine = pair.src.container_id == container and pair.network_id == network
        if mine:
            found.append(observation)
    return found


def _losses(host: Host, port: Port) -> tuple[str, Rise] | None:
    """A drop counter at either end of the veth pair that rose with every burst of probes and rested between."""
    ends = ((port.namespace, port.link), (port.inner, port.inner_link))
    for namespace, link in ends:
        for counter in ("tx_dropped", "rx_dropped"):
            moved = rise(host, namespace.key, link_counter(link["index"], counter))
            if moved is not None and moved.tied:
                return f"{counter} of {link['name']}", moved
    return None


def _queue(host: Host, port: Port) -> tuple[str, str] | None:
    """(interface, kind) of a queueing discipline at either end that can drop, in every reading."""
    for namespace, link in ((port.namespace, port.link), (port.inner, port.inner_link)):
        kinds = []
        for facts in host.readings:
            read = facts.namespace(namespace.key)
            rows = (read.facts.get("tc") or []) if read else []
            kinds.append({row["kind"] for row in rows if row["index"] == link["index"] and row["attach"] == "root"})
        lasting = set.intersection(*kinds) if kinds else set()
        if lasting:
            return link["name"], sorted(lasting)[0]
    return None


def _drops_finding(
    host: Host, port: Port, lost: tuple[str, Rise] | None, queue: tuple[str, str] | None, affected: list[Observation]
) -> Finding:
    broken = [o for o in affected if o.broken]
    path = port.namespace.facts.get("path")
    inside = "" if port.namespace.kind == "host" else f"nsenter --net={path} "
    evidence = []
    what = ""
    if lost is not None:
        what = f"{lost[0]} rose {lost[1]}"
        evidence.append(
            Evidence(host.name, lost[0], str(lost[1]), "no rise", f"{inside}ip -s link show dev {port.link['name']}")
        )
    if queue is not None:
        what = what or f"a {queue[1]} queue shapes {queue[0]}"
        evidence.append(
            Evidence(
                host.name,
                f"queueing discipline of {queue[0]}",
                queue[1],
                "noqueue: a veth has none unless somebody sets it",
                f"{inside}tc -s qdisc show dev {queue[0]}",
            )
        )
    return Finding(
        cause="veth-drops",
        severity=CRITICAL if broken else WARNING,
        confidence=CONFIRMED if lost is not None else LIKELY,
        hosts=[host.name],
        segment="bridge",
        network=port.endpoint.network,
        summary=f"The port of {port.endpoint.container} on {host.name} loses packets: {what}, "
        f"{len(affected)} pair(s) through it {'fail' if broken else 'lose packets'}",
        evidence=evidence,
        explains=pair_ids(broken or affected),
        remedies=[
            Remedy(
                "cure",
                (
                    (
                        f"on {host.name}: {inside}tc qdisc del dev {queue[0]} root"
                        if queue
                        else f"on {host.name}: {inside}tc -s qdisc show dev {port.link['name']}: remove what drops"
                    ),
                    f"else recreate the endpoint of {port.endpoint.container}",
                ),
                "A limit somebody set on purpose is gone.",
            )
        ],
    )


def decide_hairpin(case: Case) -> t.Iterator[Finding]:
    """A container that asks for its own published port is sent back to where it came from, and the port refuses."""
    asked = [o for o in case.unexplained if o.pair.kind == "hairpin"]
    for host in case.fleet.answering:
        if host.latest.root.sysctls.get("net.bridge.bridge-nf-call-iptables") != 1:
            continue  # then the packet is routed, and comes back from the bridge itself
        for port in ports(case, host) if any(o.pair.src.host == host.name for o in asked) else ():
            state = port.link.get("bridge_port") or {}
            broken = [
                o
                for o in asked
                if o.pair.src.host == host.name
                and o.pair.src.container_id == port.endpoint.container_id
                and _returns(host, port, o)
            ]
            if broken and state.get("hairpin") is False and port.namespace.kind == "host":
                yield _hairpin_finding(host, port, broken)


def _returns(host: Host, port: Port, observation: Observation) -> bool:
    """Whether the host's rules translate what the container asks for to the container itself."""
    bridge = host.latest.root.link_by_index.get(port.link.get("master") or 0)
    read = host.facts.root.facts.get("filter")  # later readings have no rules
    if bridge is None or not read or read.get("error"):
        return False
    probe = observation.pair.probes[0]
    packet = Packet(
        src=port.endpoint.ip,
        dst=probe.address,
        protocol="tcp",
        dport=probe.port,
        iif=bridge["name"],
        ct_state=("new",),
        tcp_flags=("syn",),
        src_type="unicast",
        dst_type="local",
    )
    return fate(read, packet, "prerouting").packet.dst == port.endpoint.ip


def _hairpin_finding(host: Host, port: Port, broken: list[Observation]) -> Finding:
    name = port.link["name"]
    return Finding(
        cause="hairpin-off",
        severity=severity_of(broken),
        confidence=LIKELY,
        hosts=[host.name],
        segment="bridge",
        summary=f"{port.endpoint.container} on {host.name} does not reach its own published port: its bridge port "
        f"{name} may not send back what came from it (hairpin off)",
        evidence=[
            Evidence(
                host.name,
                f"bridge port {name} of {port.endpoint.container}",
                "hairpin off",
                "hairpin on, where rules translate a container's packets to itself",
                f"bridge -d link show dev {name}",
            ),
            Evidence(
                host.name,
                "nat PREROUTING",
                f"{broken[0].pair.dst.name} is translated to {port.endpoint.ip} for packets from its own bridge",
                None,
                "iptables -t nat -S PREROUTING; iptables -t nat -S DOCKER",
            ),
        ],
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (
                    f"on {host.name}: bridge link set dev {name} hairpin on",
                    (
                        "lasting: leave the port to the engine (userland-proxy true, or false with its own hairpin "
                        "mode); for Kubernetes, hairpinMode of the CNI plugin"
                    ),
                ),
                "None known.",
            )
        ],
    )


def decide_macvlan(case: Case) -> t.Iterator[Finding]:
    """Macvlan containers that nobody off the host hears, while their host does reach the same place."""
    open_pairs = [o for o in case.unexplained if o.pair.src.kind == "container" and o.pair.src.host]
    groups: dict[tuple[str, str], list[Observation]] = {}
    for observation in open_pairs:
        network = case.fleet.networks.get(observation.pair.network_id or "")
        if network is None or network.driver != "macvlan" or observation.pair.kind != "egress":
            continue
        name = str(observation.pair.src.host)
        below = case.host_pair(name, observation.pair.dst.host or "")
        if observation.pair.dst.host == name or (below is not None and not below.reached):
            continue  # its own host is out of reach by design; and what the host does not reach is no fault of macvlan
        groups.setdefault((name, network.id), []).append(observation)
    for (name, network_id), broken in groups.items():
        network = case.fleet.networks[network_id]
        parent = network.options.get("parent", "the parent interface")
        link = case.host(name).latest.root.link(parent.partition(".")[0]) or {}
        driver = link.get("driver")
        yield Finding(
            cause="macvlan-promisc",
            severity=severity_of(broken),
            confidence=POSSIBLE,
            hosts=[name],
            segment="underlay",
            network=network.name,
            summary=f"Containers of macvlan network {network.name} on {name} reach nobody off the host: what is behind "
            f"{parent} may refuse their MAC addresses",
            evidence=[
                Evidence(
                    name,
                    f"interface {parent}" + (f", driver {driver}" if driver else ""),
                    "the host reaches the target by it, its macvlan containers do not",
                    "a switch port that accepts more than one MAC address",
                    f"ip -d link show dev {parent}; tcpdump -e -ni {parent}",
                )
            ],
            explains=pair_ids(broken),
            remedies=[
                Remedy(
                    "cure",
                    (
                        "on the virtual switch: accept promiscuous mode and forged transmits for this port",
                        "or use ipvlan (L2 or L3): its containers share the parent's MAC address",
                    ),
                    "The virtual machine may then use any MAC address: ask who owns the switch.",
                )
            ],
        )


# -- IPv6 ----------------------------------------------------------------------------------------------------------


def decide_ipv6(case: Case) -> t.Iterator[Finding]:
    """IPv6 switched off where an underlay or a network is built on it."""
    for host in case.fleet.answering:
        yield from _ipv6_underlay(case, host)
        yield from _ipv6_networks(case, host)


def _ipv6_underlay(case: Case, host: Host) -> t.Iterator[Finding]:
    peers = [p.underlay_ip for p in case.fleet.answering if p is not host and ":" in (p.underlay_ip or "")]
    declared = host.facts.swarm.get("data_path_addr") or host.facts.swarm.get("node_addr") or host.underlay_ip or ""
    if ":" not in declared or not peers:
        return
    root = host.latest.root
    holder = root.link_of_address(declared) or {}
    off = [
        key
        for key in ("net.ipv6.conf.all.disable_ipv6", f"net.ipv6.conf.{holder.get('name', '')}.disable_ipv6")
        if root.sysctls.get(key) == 1
    ]
    if holder and not off:
        return
    if not off and not any("ipv6" in key and root.sysctls[key] == 1 for key in root.sysctls if "disable_ipv6" in key):
        return
    broken = [o for o in case.touching(host.name) if o.pair.kind in ("host", "overlay", "service")]
    key = off[0] if off else "net.ipv6.conf.*.disable_ipv6"
    yield _ipv6_finding(
        host,
        broken,
        "underlay",
        f"{host.name} has IPv6 switched off ({key} = 1) and its VTEP address is {declared}",
        Evidence(host.name, f"sysctl {key}", "1", f"0 on the interface of {declared}", f"sysctl {key}"),
        (f"on {host.name}: sysctl -w {key}=0, then give the interface its address {declared} back",),
        None,
    )


def _ipv6_networks(case: Case, host: Host) -> t.Iterator[Finding]:
    known = {row["id"]: row for row in host.facts.networks}
    for container in host.facts.containers:
        namespace = host.latest.namespace(container.get("netns"))
        for row in container.get("endpoints") or []:
            network = known.get(row.get("network_id") or "") or {}
            ip6 = (row.get("ip6") or "").partition("/")[0]
            if not ip6 or network.get("driver") not in ("bridge", "overlay") or namespace is None:
                continue
            if namespace.facts.get("error") or not namespace.links or namespace.link_of_address(ip6):
                continue
            link = (namespace.link_of_address(row["ip"]) if row.get("ip") else None) or {}
            key = f"net.ipv6.conf.{link.get('name', 'all')}.disable_ipv6"
            path = namespace.facts.get("path")
            broken = [
                o
                for o in case.broken
                if container["id"] in (o.pair.src.container_id, o.pair.dst.container_id)
                and o.pair.network_id == row.get("network_id")
                and o.reached
                and all(layer.startswith("tcp6") for layer in o.failed_layers())
            ]
            off = namespace.sysctls.get(key) == 1
            yield _ipv6_finding(
                host,
                broken,
                "container",
                f"{container['name']} on {host.name} has lost its IPv6 address {ip6} on {row['network']}"
                + (f" ({key} = 1)" if off else ""),
                Evidence(
                    host.name,
                    f"addresses in the namespace of {container['name']}",
                    f"{ip6} is on no interface" + (f", {key} = 1" if off else ""),
                    f"{ip6} on {link.get('name', 'the interface of the network')}",
                    f"nsenter --net={path} ip -6 address",
                ),
                (f"on {host.name}: nsenter --net={path} sysctl -w {key}=0", f"docker restart {container['name']}"),
                row["network"],
            )


def _ipv6_finding(
    host: Host,
    broken: list[Observation],
    segment: str,
    summary: str,
    evidence: Evidence,
    manual: tuple[str, ...],
    network: str | None,
) -> Finding:
    return Finding(
        cause="ipv6-data-path-broken",
        severity=severity_of(broken),
        confidence=LIKELY,
        hosts=[host.name],
        segment=segment,
        network=network,
        summary=summary,
        evidence=[evidence],
        explains=pair_ids(broken),
        remedies=[Remedy("cure", manual, "IPv6 begins to work there: check what its packet filter lets in.")],
    )


CAUSES: list[Cause] = [
    Cause(
        "bridge-down",
        "A container bridge is down or without its address, or a port is not on it",
        "links, addresses and routes of the bridges of every bridge network (docker_gwbridge included), and the host's "
        "end of every container's veth",
        "a bridge that no running container uses has no carrier and may be down; internal networks need no route out",
        decide_bridge,
        remedy="bring up or re-attach the link; else recreate the endpoint or restart the engine",
    ),
    Cause(
        "container-route-wrong",
        "A container's default route is missing or leads elsewhere than to its gateway",
        "routes of the container's namespace against the gateways its engine gave it; egress and published-port pairs",
        "an overlay container leaves through docker_gwbridge and not through the overlay's gateway; internal networks "
        "have no default route; a route set on purpose that works is left alone",
        decide_route,
        remedy="restore the default route; restart the container",
    ),
    Cause(
        "veth-drops",
        "A container's port loses packets",
        "drop counters at both ends of the veth around the probes, queueing disciplines on it, pairs through it",
        "old counters prove nothing: only what rises with the probes; a queue that lets everything pass is no fault",
        decide_drops,
        stage=SYMPTOM,
        remedy="remove the queue or rule that drops; recreate the endpoint",
    ),
    Cause(
        "hairpin-off",
        "A container does not reach itself through its own published port",
        "hairpin mode of the bridge port, rules that translate packets from the bridge, bridge-nf-call-iptables",
        "with the userland proxy hairpin is off and not needed",
        decide_hairpin,
        stage=SYMPTOM,
        remedy="hairpin mode on for the port, as the engine sets it itself without the userland proxy",
    ),
    Cause(
        "macvlan-promisc",
        "Macvlan containers are not heard off their host",
        "egress pairs of macvlan containers beside the host's own",
        "a macvlan container never reaches its own host: that is by design",
        decide_macvlan,
        stage=SYMPTOM,
        remedy="let the virtual switch accept their MAC addresses, or use ipvlan",
    ),
    Cause(
        "ipv6-data-path-broken",
        "IPv6 is switched off where an underlay or a network needs it",
        "disable_ipv6 of the interface with the VTEP address; the IPv6 address of every container against its engine's",
        "IPv6 off where nothing is built on it is ordinary",
        decide_ipv6,
        remedy="disable_ipv6 = 0 on that interface, and its address back",
    ),
]

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Subnets: overlaps, and pools that are used up.

An overlap matters where somebody needs the address it hides. A bridge's subnet is a route of its host and hides what is
in it from the host and its containers; an overlay's is a route of its containers only.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    CRITICAL,
    INFO,
    LIKELY,
    WARNING,
    Case,
    Cause,
    Evidence,
    Facts,
    Finding,
    Remedy,
    pair_ids,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Node
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.ways import advertised, way
from ansible_collections.crosshost.doctor.plugins.plugin_utils.subnets import (
    AddrFormatError,
    IPAddress,
    IPNetwork,
)

# Networks that live in the subnet of the LAN by design.
ON_THE_LAN = {"macvlan", "ipvlan", "host", "null", "l2bridge", "transparent"}
RESERVED = 2  # the network's own address and the broadcast address
WAITING = {"new", "pending"}


@dataclass(frozen=True)
class Subnet:
    """A range of addresses that containers of a host get theirs from."""

    host: str
    network_id: str
    name: str
    driver: str
    cidr: IPNetwork
    gateway: str | None = None
    interface: int | None = None  # of the host, where the subnet is a route of it


@dataclass
class Overlap:
    """What is inside a subnet and belongs to somebody else."""

    subnet: Subnet
    routes: list[Facts] = field(default_factory=list)
    peers: list[Host] = field(default_factory=list)
    resolvers: list[str] = field(default_factory=list)
    broken: list[Observation] = field(default_factory=list)

    @property
    def any(self) -> bool:
        return bool(self.routes or self.peers or self.resolvers)


def parsed(text: str | None) -> IPNetwork | None:
    try:
        return IPNetwork(text) if text and text != "default" else None
    except (AddrFormatError, ValueError):
        return None


def overlaps(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and (one in other or other in one)


def inside(address: str | None, subnet: IPNetwork) -> bool:
    try:
        return bool(address) and IPAddress(address) in subnet
    except (AddrFormatError, ValueError):
        return False


def subnets(host: Host) -> list[Subnet]:
    """The ranges of the engine's networks and of the CNI configurations of a host."""
    found = []
    for row in host.facts.networks:
        for entry in row.get("subnets") or []:
            cidr = parsed(entry.get("subnet"))
            if cidr is not None and row.get("driver") not in ON_THE_LAN:
                name, driver = row.get("name") or row["id"], row.get("driver") or ""
                gateway = entry.get("gateway")
                found.append(
                    Subnet(host.name, row["id"], name, driver, cidr, gateway, _interface(host, driver, cidr, gateway))
                )
    for row in (host.facts.facts.get("host") or {}).get("cni") or []:
        for text in row.get("subnets") or []:
            cidr = parsed(text)
            if cidr is not None and row.get("type") not in ON_THE_LAN:
                key = f"{row.get('path')} {row.get('name')}"
                found.append(Subnet(host.name, key, row.get("name") or key, "cni", cidr))
    return found


def _interface(host: Host, driver: str, cidr: IPNetwork, gateway: str | None) -> int | None:
    """The bridge that holds the subnet on the host."""
    if driver == "overlay":
        return None
    root = host.facts.root
    bridges = {link["index"] for link in root.links if link.get("kind") == "bridge" and link is not host.underlay_link}
    rows = [row for row in root.addresses if row["index"] in bridges and inside(row["ip"], cidr)]
    own = [row["index"] for row in rows if row["ip"] == (gateway or "").split("/")[0]]
    return next(iter(own or [row["index"] for row in rows]), None)


# ---- subnet-overlap-host


def overlap(
    case: Case,
    host: Host,
    subnet: Subnet,
    engine_owned: set[int],
    routes: list[tuple[IPNetwork, Facts]],
    peers: list[Host],
) -> Overlap:
    found = Overlap(subnet, peers=peers)
    for cidr, route in routes:
        if route.get("oif") in engine_owned or not overlaps(cidr, subnet.cidr) or cidr.prefixlen == 0:
            continue
        if subnet.driver == "cni" and not _on_the_lan(host, route):
            continue  # the routes of the cluster network to the pods of other nodes
        found.routes.append(route)
    for name in _resolvers(host):
        if inside(name, subnet.cidr) and name not in host.facts.addresses and not _is_container(host, name):
            found.resolvers.append(name)
    if found.any:
        found.broken = [o for o in case.broken if _hidden(case, host, found, o)]
    return found


def _hosts_inside(case: Case, cidr: IPNetwork) -> list[Host]:
    return [
        peer
        for peer in case.fleet.answering
        if any(inside(address, cidr) for address in (peer.underlay_ip, advertised(peer)))
    ]


def _is_container(host: Host, address: str) -> bool:
    return any(row.get("ip") == address for c in host.facts.containers for row in c.get("endpoints") or [])


def _resolvers(host: Host) -> list[str]:
    """The name servers of the host and of its containers."""
    own = ((host.facts.facts.get("host") or {}).get("resolver") or {}).get("nameservers") or []
    return list(dict.fromkeys([*own, *(name for c in host.facts.containers for name in _servers(c))]))


def _asked(host: Host, source: Node) -> list[str]:
    """The name servers behind a question from this container, or from the host."""
    for container in host.facts.containers:
        if container["id"] == source.container_id:
            return _servers(container)
    return _resolvers(host)


def _servers(container: Facts) -> list[str]:
    """The name servers a container asks, and those behind the engine's DNS."""
    dns = container.get("dns") or {}
    return [*(dns.get("nameservers") or []), *(dns.get("upstreams") or [])]


def _on_the_lan(host: Host, route: Facts) -> bool:
    return route.get("oif") == (host.underlay_link or {}).get("index")


def _hidden(case: Case, host: Host, found: Overlap, observation: Observation) -> bool:
    """The pair's packets, or its answers, are for an address that this host or its containers take for the subnet's."""
    pair, subnet = observation.pair, found.subnet
    names = set(pair.hosts)
    if host.name not in names:
        return False
    others = [peer for peer in found.peers if peer is not host and peer.name in names]
    if pair.kind == "upstream":
        return any(_shadowed(host, subnet, name) for name in found.resolvers if name in _asked(host, pair.src))
    if subnet.driver == "overlay":
        return (
            pair.kind == "egress"
            and pair.src.host == host.name
            and inside(pair.dst.ip, subnet.cidr)
            and any(
                endpoint.container_id == pair.src.container_id
                for endpoint in case.endpoints_of(subnet.network_id, host.name)
            )
        )
    return pair.kind in ("host", "overlay", "egress", "published") and any(
        _shadowed(host, subnet, address)
        for peer in others
        for address in (peer.underlay_ip, advertised(peer))
        if inside(address, subnet.cidr)
    )


def _shadowed(host: Host, subnet: Subnet, address: str | None) -> bool:
    """The kernel sends what is for this address into the subnet's own bridge."""
    path = way(host, address) if address else None
    return path is not None and subnet.interface is not None and path.oif == subnet.interface


def decide_host(case: Case) -> t.Iterator[Finding]:
    """One finding for each network, whatever number of hosts have it."""
    groups: dict[tuple[str, str], list[Overlap]] = {}
    peers: dict[str, list[Host]] = {}  # inside a subnet: most hosts have the same ones
    for host in case.fleet.answering:
        ranges = subnets(host)
        owned = {subnet.interface for subnet in ranges if subnet.interface is not None}
        rows = host.facts.root.facts.get("routes") or []
        routes = [(cidr, row) for row in rows if (cidr := parsed(row.get("dst"))) is not None]
        for subnet in ranges:
            text = str(subnet.cidr)
            if text not in peers:
                peers[text] = _hosts_inside(case, subnet.cidr)
            found = overlap(case, host, subnet, owned, routes, peers[text])
            if found.any:
                groups.setdefault((subnet.network_id, text), []).append(found)
    for members in groups.values():
        yield _overlap_finding(case, members)


def _overlap_finding(case: Case, members: list[Overlap]) -> Finding:
    subnet = members[0].subnet
    broken = list({o.pair.id: o for member in members for o in member.broken}.values())
    if broken:
        members = [member for member in members if member.broken]
        subnet = members[0].subnet
    lost = [
        (member, name)
        for member in members
        for name in member.resolvers
        if _shadowed(case.host(member.subnet.host), member.subnet, name) and not _answered(case, member.subnet.host)
    ]
    if lost and not broken:
        members = [member for member, _name in lost]
        subnet = members[0].subnet
    severity = CRITICAL if broken else WARNING if lost else INFO
    hosts = list(dict.fromkeys(member.subnet.host for member in members))
    evidence = [e for member in members for e in _overlap_evidence(case, member)]
    words = _what(case, members[0])
    effect = ", which it hides" if broken or lost else "; nothing that was asked needs it now"
    return Finding(
        cause="subnet-overlap-host",
        severity=severity,
        confidence=LIKELY if broken or lost else CONFIRMED,
        hosts=hosts,
        segment="host-stack",
        direction="out" if broken else None,
        network=None if subnet.driver == "cni" else subnet.name,
        summary=f"The subnet of {subnet.name} on {', '.join(hosts)}, {subnet.cidr}, overlaps with {words}{effect}",
        evidence=evidence[:8],
        explains=pair_ids(broken),
        remedies=[_overlap_remedy(subnet)],
    )


def _answered(case: Case, host: str) -> bool:
    """Names outside of the fleet resolve on this host: it has another resolver."""
    return any(o.pair.kind == "upstream" and o.pair.src.host == host and o.verdict() == "ok" for o in case.observations)


def _what(case: Case, member: Overlap) -> str:
    others = [peer for peer in member.peers if peer.name != member.subnet.host]
    if others:
        return "the address of " + ", ".join(f"{peer.name} ({peer.underlay_ip})" for peer in others[:3])
    if member.resolvers:
        return f"the resolver {member.resolvers[0]}"
    if member.routes:
        return f"the host's route {_route_words(case.host(member.subnet.host), member.routes[0])}"
    return f"the host's own address {member.peers[0].underlay_ip}"


def _route_words(host: Host, route: Facts) -> str:
    name = (host.facts.root.link_by_index.get(route.get("oif") or -1) or {}).get("name")
    table = f" table {route['table']}" if route.get("table") not in (None, 254) else ""
    return f"{route['dst']}{f' dev {name}' if name else ''}{table}"


def _overlap_evidence(case: Case, member: Overlap) -> t.Iterator[Evidence]:
    subnet, host = member.subnet, case.host(member.subnet.host)
    verify = f"docker network inspect {subnet.name}" if subnet.driver != "cni" else "cat /etc/cni/net.d/*"
    yield Evidence(
        host.name, f"subnet of {subnet.name}", str(subnet.cidr), "one that nothing else of the fleet uses", verify
    )
    for route in member.routes[:3]:
        words = _route_words(host, route)
        yield Evidence(host.name, "route", words, f"outside {subnet.cidr}", "ip route show table all")
    for peer in member.peers:
        path = way(host, peer.underlay_ip) if peer.underlay_ip and peer is not host else None
        if path is not None:
            yield Evidence(
                host.name,
                f"the kernel's route to {peer.name}",
                path.words,
                f"dev {(host.underlay_link or {}).get('name')}",
                f"ip route get {peer.underlay_ip}",
            )
    for name in member.resolvers:
        path = way(host, name)
        yield Evidence(
            host.name, f"resolver {name}", path.words if path else "no route", "outside it", f"ip route get {name}"
        )


def _overlap_remedy(subnet: Subnet) -> Remedy:
    lasting = "lasting: default-address-pools in daemon.json, or --default-addr-pool at docker swarm init"
    if subnet.driver == "cni":
        return Remedy("cure", ("give the CNI network another range",), "Every pod gets another address.", True)
    if subnet.name == "docker_gwbridge":
        first = "docker network rm docker_gwbridge, docker network create --subnet FREE docker_gwbridge"
        return Remedy("cure", (first, lasting), "The node has to leave the swarm and join again for it.", True)
    return Remedy(
        "cure",
        (f"recreate {subnet.name} with a free range: docker network create --subnet FREE …", lasting),
        "Every container of the network has to be reattached and gets another address.",
        disruptive=True,
    )


def no_overlap(case: Case, finding: Finding) -> str | None:
    """No container network holds an address that the finding's pairs are for."""
    explained = set(finding.explains)
    targets = {
        o.pair.dst.ip
        for o in case.observations
        if o.pair.id in explained and o.pair.kind in ("host", "egress") and o.pair.dst.ip
    }
    ranges = {subnet.cidr for host in case.fleet.answering for subnet in subnets(host)}
    if not targets or not ranges or any(inside(one, cidr) for one in targets for cidr in ranges):
        return None
    return f"no container network holds {', '.join(sorted(targets))}"


# ---- subnet-overlap-docker


@dataclass(frozen=True)
class Refusal:
    """A message that says an allocation failed; C(waits): something that should run does not because of it."""

    host: str
    words: str
    waits: bool = False

    @property
    def evidence(self) -> Evidence:
        return Evidence(self.host, "task error or engine log", self.words, "no refusal", "journalctl -u docker")


def refusals(case: Case, pattern: str, text: str) -> list[Refusal]:
    """What tasks, and the logs of all engines, say of it."""
    found = []
    for manager in case.fleet.managers[:1]:
        for task in manager.facts.swarm.get("tasks") or []:
            if text in (task.get("error") or ""):
                node = next(
                    (host.name for host in case.fleet.swarm_hosts if _node_id(host) == task.get("node_id")), None
                )
                waits = not _service_runs(manager, task.get("service_id"))
                found.append(Refusal(node or manager.name, task["error"], waits))
    for host in case.fleet.answering:
        row = ((host.facts.facts.get("log") or {}).get("patterns") or {}).get(pattern)
        if row and row.get("sample"):
            found.append(Refusal(host.name, row["sample"]))
    return found


def _node_id(host: Host) -> str | None:
    return host.facts.swarm.get("node_id")


def _service_runs(manager: Host, service_id: str | None) -> bool:
    """Every task of the service that should run does."""
    tasks = [task for task in manager.facts.swarm.get("tasks") or [] if task.get("service_id") == service_id]
    wanted = [task for task in tasks if task.get("desired") == "running"]
    return bool(wanted) and all(task.get("state") == "running" for task in wanted)


def waiting(case: Case) -> list[Refusal]:
    """Tasks that are never assigned, without an error that says why."""
    for manager in case.fleet.managers:
        tasks = [
            task
            for task in manager.facts.swarm.get("tasks") or []
            if task.get("state") in WAITING and task.get("desired") == "running" and not task.get("node_id")
        ]
        if tasks:
            return [Refusal(manager.name, f"{len(tasks)} task(s) in state {tasks[0]['state']} without a node", True)]
    return []


def decide_docker(case: Case) -> t.Iterator[Finding]:
    """Networks of one address space with overlapping subnets: the second one, or its endpoints, are refused."""
    refused = refusals(case, "pool-overlap", "Pool overlaps")
    seen: set[frozenset[str]] = set()
    for host in case.fleet.answering:
        ranges = [subnet for subnet in subnets(host) if subnet.driver != "cni"]
        for position, one in enumerate(ranges):
            for other in ranges[position + 1 :]:
                key = frozenset({one.network_id, other.network_id})
                if len(key) == 2 and key not in seen and overlaps(one.cidr, other.cidr):
                    seen.add(key)
                    hosts = [
                        h.name for h in case.fleet.answering if _has(h, one.network_id) and _has(h, other.network_id)
                    ]
                    yield _twins_finding(host, one, other, hosts, refused)
    unborn = [
        (network_id, name)
        for network_id, name in _unallocated(case)
        if any(network_id in refusal.words for refusal in refused)
    ]
    for network_id, name in unborn:
        said = [refusal for refusal in refused if network_id in refusal.words]
        yield _unborn_finding(case, name, said + waiting(case))
    if not seen and not unborn and any(refusal.waits for refusal in refused):
        yield _refused_finding([refusal for refusal in refused if refusal.waits])


def _unallocated(case: Case) -> list[tuple[str, str]]:
    """The Swarm's networks that a manager lists, and never gave a driver and a subnet."""
    found = {}
    for manager in case.fleet.managers:
        for row in manager.facts.networks:
            if row.get("scope") == "swarm" and not row.get("driver") and not row.get("subnets"):
                found[row["id"]] = row.get("name") or row["id"]
    return sorted(found.items())


def _has(host: Host, network_id: str) -> bool:
    return any(row["id"] == network_id for row in host.facts.networks)


def _recreate(name: str) -> Remedy:
    return Remedy(
        "cure",
        (
            f"docker network rm {name}; docker network create --subnet FREE {name}",
            "lasting: let the engine choose, from --default-addr-pool; engines after 27.0.2 do so rightly",
        ),
        "Containers of the network have to be reattached.",
        disruptive=True,
    )


def _twins_finding(host: Host, one: Subnet, other: Subnet, hosts: list[str], refused: list[Refusal]) -> Finding:
    now = any(refusal.waits for refusal in refused)
    evidence = [
        Evidence(
            host.name, f"subnet of {s.name} ({s.driver})", str(s.cidr), "its own", f"docker network inspect {s.name}"
        )
        for s in (one, other)
    ]
    return Finding(
        cause="subnet-overlap-docker",
        severity=CRITICAL if now else INFO,
        confidence=CONFIRMED if now else LIKELY,
        hosts=hosts,
        segment="engine",
        network=other.name,
        summary=f"The networks {one.name} and {other.name} have overlapping subnets, {one.cidr} and {other.cidr}"
        + (": tasks are refused" if now else ""),
        evidence=evidence + [refusal.evidence for refusal in refused[:3]],
        remedies=[_recreate(other.name)],
    )


def _unborn_finding(case: Case, name: str, refused: list[Refusal]) -> Finding:
    """A network the managers could not allocate: whatever is to run on it is refused."""
    managers = [manager.name for manager in case.fleet.managers]
    return Finding(
        cause="subnet-overlap-docker",
        severity=CRITICAL if any(refusal.waits for refusal in refused) else WARNING,
        confidence=CONFIRMED,
        hosts=sorted({refusal.host for refusal in refused if not refusal.waits} or managers),
        segment="engine",
        network=name,
        summary=f"The network {name} never came to be: its subnet overlaps with another network's, so that every "
        "container on it is refused",
        evidence=[
            Evidence(
                managers[0],
                f"network {name}",
                "no driver and no subnet",
                "allocated by the managers",
                f"docker network inspect {name}",
            ),
            *(refusal.evidence for refusal in refused[:3]),
        ],
        remedies=[_recreate(name)],
    )


def _refused_finding(refused: list[Refusal]) -> Finding:
    names = sorted({refusal.host for refusal in refused})
    return Finding(
        cause="subnet-overlap-docker",
        severity=CRITICAL,
        confidence=LIKELY,
        hosts=names,
        segment="engine",
        summary=f"Tasks on {', '.join(names)} are refused: the pool of their network overlaps with another one's",
        evidence=[refusal.evidence for refusal in refused[:3]],
        remedies=[_recreate("NETWORK")],
    )


# ---- overlay-ip-exhausted


@dataclass(frozen=True)
class Pool:
    """An overlay's subnet and the addresses of it that are taken, as all engines together know."""

    network_id: str
    name: str
    cidr: IPNetwork
    used: frozenset[str]

    @property
    def capacity(self) -> int:
        return max(0, self.cidr.size - RESERVED)

    @property
    def full(self) -> bool:
        return len(self.used) >= self.capacity


def pools(case: Case) -> t.Iterator[Pool]:
    """The IPv4 subnets of all overlays."""
    ranges: dict[tuple[str, str], IPNetwork] = {}
    used: dict[str, set[str]] = {}
    names: dict[str, str] = {}
    for host in case.fleet.answering:
        for row in host.facts.networks:
            if row.get("driver") == "overlay":
                names[row["id"]] = row.get("name") or row["id"]
                used.setdefault(row["id"], set()).update(_taken(row))
                for entry in row.get("subnets") or []:
                    cidr = parsed(entry.get("subnet"))
                    if cidr is not None and cidr.version == 4:
                        ranges[row["id"], str(cidr)] = cidr
        for service in host.facts.swarm.get("services") or []:
            for vip in service.get("vips") or []:
                used.setdefault(vip["network_id"], set()).add(str(vip.get("ip") or ""))
    for endpoint in case.fleet.endpoints:
        used.setdefault(endpoint.network_id, set()).add(endpoint.ip)
    for (network_id, _text), cidr in ranges.items():
        addresses = {one.split("/")[0] for one in used.get(network_id) or ()}
        yield Pool(network_id, names[network_id], cidr, frozenset(one for one in addresses if inside(one, cidr)))


def _taken(row: Facts) -> set[str]:
    """The addresses of a network that one engine knows: gateways, its own endpoints, those of services."""
    services = row.get("services") or []
    found = {entry.get("gateway") for entry in row.get("subnets") or []}
    found |= {entry.get("ip") for entry in row.get("local") or []} | {service.get("vip") for service in services}
    found |= {task.get("ip") for service in services for task in service.get("tasks") or []}
    return {str(one) for one in found if one}


def decide_exhausted(case: Case) -> t.Iterator[Finding]:
    for pool in pools(case):
        if not pool.full:
            continue
        said = refusals(case, "address-exhausted", "could not find an available IP")
        refused = [refusal for refusal in said if pool.network_id in refusal.words or " network " not in refusal.words]
        refused += waiting(case) if refused else []
        now = any(refusal.waits for refusal in refused)
        managers = [manager.name for manager in case.fleet.managers]
        first = managers[0] if managers else None
        evidence = [
            Evidence(
                first,
                f"addresses of {pool.name}",
                f"{len(pool.used)} of {pool.capacity} in {pool.cidr} are taken: the gateway, one for each node's load "
                "balancer, endpoints and virtual addresses",
                "free ones",
                f"docker network inspect --verbose {pool.name}",
            )
        ]
        evidence += [refusal.evidence for refusal in refused[:3]]
        yield Finding(
            cause="overlay-ip-exhausted",
            severity=CRITICAL if now else WARNING if refused else INFO,
            confidence=CONFIRMED if refused else LIKELY,
            hosts=managers or [host.name for host in case.fleet.swarm_hosts],
            segment="control-plane",
            network=pool.name,
            summary=f"The overlay {pool.name} has no address left: {len(pool.used)} of {pool.capacity} in {pool.cidr} "
            "are taken" + (", and containers were refused" if refused else ""),
            evidence=evidence,
            remedies=[
                Remedy(
                    "cure",
                    (
                        "docker network create -d overlay --subnet LARGER NEW",
                        f"docker service update --network-add NEW --network-rm {pool.name} SERVICE   # for each",
                        "services with endpoint_mode dnsrr need no virtual address",
                    ),
                    "Moved tasks are started anew.",
                    disruptive=True,
                )
            ],
        )


CAUSES: list[Cause] = [
    Cause(
        "subnet-overlap-host",
        "A container network hides addresses of the underlay",
        "subnets of every container network and CNI range against the hosts' routes in every table, node addresses "
        "and resolvers; the kernel's own route to them",
        "a subnet that overlaps a network nobody asks for is worth knowing, no more; macvlan and ipvlan live in the "
        "LAN's subnet by design; docker_gwbridge has the same one on every host",
        decide_host,
        remedy="recreate the network with a free range, and set address pools for the next ones",
        rules_out=no_overlap,
    ),
    Cause(
        "subnet-overlap-docker",
        "Two networks of the engine have overlapping subnets",
        "subnets of all networks of each host, networks that the managers never allocated, errors of tasks, the "
        "managers' log",
        "the same network on several hosts, and local bridges of different hosts, may be alike; a line of a log alone "
        "is old news",
        decide_docker,
        remedy="recreate one of them with a free range",
    ),
    Cause(
        "overlay-ip-exhausted",
        "An overlay has no address left",
        "endpoints, load balancers and virtual addresses of an overlay against the size of its subnet, waiting tasks, "
        "the managers' log",
        "a full subnet that nobody wants more of is worth knowing, no more",
        decide_exhausted,
        remedy="a new network with a larger subnet",
    ),
]

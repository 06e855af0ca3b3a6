# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Load balancing: virtual addresses, the routing mesh, and what stands behind names."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    CRITICAL,
    INFO,
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
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.deltas import rise
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts, Namespace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import ANSWERED, Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.services import (
    mesh_ports,
    named_addresses,
    readings,
    services,
    stray_backends,
    tasks,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies import roles

BALANCED = ("service", "mesh")
ENTERS = ("published", "hairpin", "egress")
MESH_CHAIN = "DOCKER-INGRESS"  # libnetwork service_linux.go: the chain that leads published ports into the mesh
IPVS_IDLE = 900  # seconds; the kernel's default for TCP in IPVS, which the engine does not change (moby 31208)
KEEPALIVE = "net.ipv4.tcp_keepalive_time"
LIBERAL = "net.netfilter.nf_conntrack_tcp_be_liberal"


# ---- IPVS


def decide_ipvs(case: Case) -> t.Iterator[Finding]:
    """Virtual addresses that no kernel can balance, because IPVS is not there: one finding for all such hosts."""
    _hand_over(case)
    without = [host for host in case.fleet.swarm_hosts if _ipvs(host) is False]
    names = {host.name for host in without}
    broken = [o for o in case.unexplained if o.pair.kind in BALANCED and _balancer(o) in names]
    guilty = {_balancer(o) for o in broken}
    lacking = [host for host in without if host.name in guilty or _cannot_load(host)]
    offered = services(case.fleet)
    if not lacking or not offered:
        return
    targets = sorted({_service_name(o) for o in broken})
    use = (
        f"virtual addresses and published ports do not answer there ({', '.join(targets)})"
        if broken
        else f"none of the {len(offered)} service(s) needs it now: no virtual address or mesh port fails"
    )
    hosts = sorted(host.name for host in lacking)
    yield Finding(
        cause="ipvs-missing",
        severity=severity_of(broken),
        confidence=LIKELY,
        hosts=hosts,
        segment="service",
        summary=f"The kernel of {', '.join(hosts)} has no IPVS: {use}",
        evidence=[
            *(
                Evidence(
                    host.name,
                    "/proc/net/ip_vs",
                    f"absent; module ip_vs: {_module(host) or 'unknown'}",
                    "present once the engine uses a virtual address",
                    "ls /proc/net/ip_vs; modprobe -n ip_vs",
                )
                for host in lacking
            ),
            *_said(lacking, "ipvs-missing"),
        ],
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (f"on {', '.join(hosts)}: modprobe ip_vs; and 'ip_vs' in a file of /etc/modules-load.d",),
                "None known.",
            ),
            Remedy(
                "mitigation",
                ("recreate the service with endpoint mode dnsrr and ports in mode host",),
                "Recreating a service interrupts it.",
                disruptive=True,
            ),
        ],
    )


def _ipvs(host: Host) -> bool | None:
    return (host.facts.facts.get("host") or {}).get("ipvs")


def _module(host: Host) -> str | None:
    return ((host.facts.facts.get("host") or {}).get("modules") or {}).get("ip_vs")


def _cannot_load(host: Host) -> bool:
    """It is not only that nobody asked for the module yet."""
    return _module(host) == "absent" or bool(_said([host], "ipvs-missing") and _module(host) is None)


def _balancer(observation: Observation) -> str | None:
    """The host whose kernel balances: the client's own for a virtual address, the asked node's for the mesh."""
    return observation.pair.dst.host if observation.pair.kind == "mesh" else observation.pair.src.host


def _said(hosts: t.Iterable[Host], pattern: str) -> list[Evidence]:
    """What the engines' logs say, one line a host."""
    rows = []
    for host in hosts:
        row = ((host.facts.facts.get("log") or {}).get("patterns") or {}).get(pattern)
        if row and row.get("sample"):
            rows.append(Evidence(host.name, "engine log", f"{row['sample']} ({row.get('count')} times)"))
    return rows


def _hand_over(case: Case) -> None:
    """Give pairs through a balancer to what already explains the way to a backend of theirs.

    A virtual address fails on and off when one of its tasks is cut off: that is the tunnel's fault, or the engine's.
    """
    for observation in [o for o in case.unexplained if o.pair.kind in BALANCED]:
        balancer, backends = _balancer(observation), _backend_hosts(case, observation)
        for finding in case.findings:
            explained = set(finding.explains)
            lost = [o.pair for o in case.broken if o.pair.id in explained]
            cut = any(p.kind == "overlay" and balancer in p.hosts and backends & {*p.hosts} - {balancer} for p in lost)
            # The mesh enters a host as any published port does, by its forwarding and packet filter.
            shut = observation.pair.kind == "mesh" and balancer in finding.hosts
            shut = shut and any(p.kind in ENTERS and balancer in p.hosts for p in lost)
            if cut or shut:
                finding.explains.append(observation.pair.id)
                break


def _service_name(observation: Observation) -> str:
    label = observation.pair.dst.name
    return label.rpartition("/")[2] if observation.pair.kind == "mesh" else label.rpartition(":")[0]


def _backend_hosts(case: Case, observation: Observation) -> set[str | None]:
    """The hosts that run tasks of the service behind a pair."""
    name = _service_name(observation)
    wanted = {service["id"] for service in services(case.fleet) if service.get("name") == name}
    nodes = {task.get("node_id") for task in tasks(case.fleet) if task.get("service_id") in wanted}
    return {host.name for host in case.fleet.swarm_hosts if host.facts.swarm.get("node_id") in nodes}


def decide_ipvs_idle(case: Case) -> t.Iterator[Finding]:
    """Asked about a virtual address that works: what will happen to connections that rest."""
    for observation in case.observations:
        pair = observation.pair
        if pair.dst.kind != "service" or observation.verdict() != "ok" or not case.fleet.run.get("question"):
            continue
        host = case.fleet.hosts.get(pair.src.host or "")
        if host is None or _ipvs(host) is not True or pair.src.kind != "container":
            continue
        container = host.facts.container(pair.src.container_id or pair.src.name) or {}
        namespace = host.facts.namespace(container.get("netns"))
        seconds = namespace.sysctls.get(KEEPALIVE) if namespace is not None else None
        if seconds is None or seconds < IPVS_IDLE:
            continue
        yield Finding(
            cause="ipvs-idle-900s",
            severity=INFO,
            confidence=POSSIBLE,
            hosts=[host.name],
            segment="service",
            summary=f"{pair.dst.name} answers {pair.src.label} through IPVS, which forgets a connection after "
            f"{IPVS_IDLE} s of silence; keepalive there begins after {seconds} s",
            evidence=[
                Evidence(
                    host.name,
                    f"{KEEPALIVE} in the namespace of {pair.src.name}",
                    str(seconds),
                    f"less than {IPVS_IDLE}",
                    f"nsenter --net={(namespace.facts if namespace else {}).get('path')} sysctl {KEEPALIVE}",
                )
            ],
            explains=[],
            remedies=[
                Remedy(
                    "cure",
                    (
                        (
                            f"docker service update --sysctl-add {KEEPALIVE}=600 SERVICE, with keepalive enabled in "
                            "the application; or endpoint mode dnsrr"
                        ),
                    ),
                    "Updating a service restarts its tasks.",
                    disruptive=True,
                )
            ],
        )


def decide_conntrack_invalid(case: Case) -> t.Iterator[Finding]:
    """Connections through a balancer that are reset now and then, while conntrack calls packets invalid."""
    shaky = [o for o in case.observations if o.pair.kind in BALANCED and _resets(o)]
    for host in case.fleet.answering:
        mine = [o for o in shaky if _balancer(o) == host.name]
        if not mine or _ipvs(host) is not True:
            continue
        for namespace in host.facts.namespaces:
            if namespace.sysctls.get(LIBERAL, 0) != 0:
                continue
            moved = rise(host, namespace.key, _invalid)
            if moved is None or not moved.tied:
                continue
            path = namespace.facts.get("path") or "/proc/1/ns/net"
            yield Finding(
                cause="ipvs-conntrack-invalid",
                severity=WARNING,
                confidence=LIKELY,
                hosts=[host.name],
                segment="service",
                summary=f"Connections through IPVS on {host.name} are reset while conntrack of its {namespace.kind} "
                f"namespace calls packets invalid ({moved})",
                evidence=[
                    Evidence(
                        host.name,
                        f"nf_conntrack statistics, invalid ({namespace.kind} namespace)",
                        str(moved),
                        "no rise",
                        f"nsenter --net={path} cat /proc/net/stat/nf_conntrack",
                    ),
                    Evidence(
                        host.name, LIBERAL, "0", "1 where IPVS balances", f"nsenter --net={path} sysctl {LIBERAL}"
                    ),
                ],
                explains=[],
                remedies=[
                    Remedy(
                        "cure",
                        (f"nsenter --net={path} sysctl -w {LIBERAL}=1",),
                        "Packets outside the expected window pass; in this namespace only.",
                    )
                ],
            )
            break


def _invalid(namespace: Namespace) -> int | None:
    return (namespace.counters.get("conntrack") or {}).get("invalid")


def _resets(observation: Observation) -> bool:
    """Refused at one time, answered at another: a service that nobody listens for never answers."""
    statuses = {row.get("status") for results in observation.rounds.values() for row in results.values()}
    return "refused" in statuses and bool(statuses & ANSWERED)


# ---- the routing mesh


def decide_ingress_missing(case: Case) -> t.Iterator[Finding]:
    """A Swarm without its ingress network."""
    managers = [host for host in case.fleet.managers if _networks_known(host.facts)]
    offered = services(case.fleet)
    if not managers or any(
        row.get("ingress") for host in managers for reading in readings(host, "networks") for row in reading.networks
    ):
        return
    if not offered or not any(host.facts.swarm.get("nodes") for host in managers):
        return  # nobody needs it, or a manager without a quorum lists nothing
    needy = sorted({name for name, _port in mesh_ports(case.fleet)} | _wanting(offered))
    broken = [o for o in case.unexplained if o.pair.kind == "mesh"]
    refused = _said(managers, "ingress-missing")
    use = (
        f"services that publish through it cannot run: {', '.join(needy)}"
        if needy
        else "no service publishes through it now, and none can"
    )
    yield Finding(
        cause="ingress-missing",
        severity=CRITICAL if needy else INFO,
        confidence=CONFIRMED,
        hosts=sorted(host.name for host in managers),
        segment="service",
        summary=f"The Swarm has no ingress network: {use}",
        evidence=[
            Evidence(
                managers[0].name,
                "networks of the Swarm",
                f"{sum(row.get('scope') == 'swarm' for row in managers[0].facts.networks)} network(s), none of them "
                "is the routing mesh's",
                "one network with the property ingress",
                "docker network ls --filter driver=overlay; docker network inspect -f '{{.Ingress}}' ingress",
            ),
            *refused,
        ],
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                ("docker network create --driver overlay --ingress ingress   # on a manager",),
                "None while nothing publishes; choose a subnet that is free on every host.",
            )
        ],
    )


def _wanting(offered: list[Facts]) -> set[str]:
    return {s["name"] for s in offered for row in s.get("ports") or [] if row.get("mode") == "ingress"}


def _networks_known(facts: HostFacts) -> bool:
    unread = {row.get("section") for row in facts.facts.get("missing") or []}
    return facts.engine.get("state") == "running" and bool(facts.networks) and "networks" not in unread


def decide_ingress_inconsistent(case: Case) -> t.Iterator[Finding]:
    """A node on which the routing mesh is not what it is on the others."""
    ports = mesh_ports(case.fleet)
    hosts = [h for h in case.fleet.swarm_hosts if _networks_known(h.facts) and case.filter_is_known(h.name)]
    if not ports or len(hosts) < 2:
        return
    traits = {
        host.name: [_mesh_traits(reading, ports) for reading in readings(host, "networks", "filter")] for host in hosts
    }
    odd: dict[str, list[tuple[str, str, str]]] = {}
    for trait in sorted({key for rows in traits.values() for row in rows for key in row}):
        usual = _usual([rows[-1].get(trait, "absent") for rows in traits.values() if rows])
        for name, rows in traits.items():
            values = {row.get(trait, "absent") for row in rows}
            if usual is not None and len(values) == 1 and usual not in values:
                odd.setdefault(name, []).append((trait, next(iter(values), "absent"), usual))
    for name, differences in odd.items():
        yield _odd_node(case, case.host(name), differences)


def _usual(values: list[str]) -> str | None:
    """What most hosts have; None where there is no such thing. Being there counts more than being absent."""
    ranked = sorted(set(values), key=lambda value: (-values.count(value), value == "absent"))
    best = ranked[0] if ranked else None
    tie = len(ranked) > 1 and values.count(ranked[1]) == values.count(ranked[0])
    return None if best == "absent" or (tie and "absent" not in ranked) else best


def _mesh_traits(facts: HostFacts, ports: list[tuple[str, int]]) -> dict[str, str]:
    """What a node's part of the routing mesh is made of, as words to compare."""
    traits: dict[str, str] = {}
    for network in facts.networks:
        if network.get("ingress"):
            traits["ingress network"] = str(network["id"])[:12]
            traits["VNI of the ingress network"] = ",".join(str(vni) for vni in network.get("vnis") or [])
    sandbox = next((ns for ns in facts.namespaces if ns.kind == "ingress" and not ns.vxlan_links), None)
    if sandbox is not None:
        traits["namespace ingress_sbox"] = "present"
    chains = facts.root.filter.get("chains") or []
    rules = [(chain, rule) for chain in chains for rule in chain.get("rules") or []]
    if any(chain.get("name") == MESH_CHAIN and chain.get("table") == "nat" for chain in chains):
        traits[f"nat chain {MESH_CHAIN}"] = "present"
    hooked = [rule for chain, rule in rules if chain.get("table") == "nat" and chain.get("hook") == "prerouting"]
    if any(_jumps(rule, MESH_CHAIN) for rule in hooked):
        traits[f"jump from nat PREROUTING to {MESH_CHAIN}"] = "present"
    marked = [
        rule for chain in (sandbox.filter if sandbox else {}).get("chains") or [] for rule in chain.get("rules") or []
    ]
    for _service, port in ports:
        if any(chain.get("name") == MESH_CHAIN and _speaks_of(rule, port, "DNAT") for chain, rule in rules):
            traits[f"DNAT of port {port} in {MESH_CHAIN}"] = "present"
        if any(_speaks_of(rule, port, "MARK") for rule in marked):
            traits[f"mark of port {port} in ingress_sbox"] = "present"
    return traits


def _jumps(rule: Facts, chain: str) -> bool:
    return re.search(rf"(jump|-j) {chain}\b", rule.get("text") or "") is not None


def _speaks_of(rule: Facts, port: int, target: str) -> bool:
    text = rule.get("text") or ""
    return target.lower() in text.lower() and re.search(rf"dports? {port}\b", text) is not None


def _odd_node(case: Case, host: Host, differences: list[tuple[str, str, str]]) -> Finding:
    elsewhere = [o for o in case.observations if o.pair.kind == "mesh" and o.pair.dst.host != host.name]
    works = any(o.verdict() == "ok" for o in elsewhere)
    broken = [o for o in case.broken if o.pair.kind == "mesh" and o.pair.dst.host == host.name] if works else []
    words = "; ".join(f"{trait}: {here}, elsewhere {usual}" for trait, here, usual in differences[:3])
    effect = "published ports answer on other nodes and not here" if broken else "nothing that was asked fails from it"
    return Finding(
        cause="ingress-inconsistent",
        severity=severity_of(broken),
        confidence=LIKELY if broken else POSSIBLE,
        hosts=[host.name],
        segment="service",
        summary=f"The routing mesh on {host.name} is not what it is on the other nodes ({words}); {effect}",
        evidence=[
            Evidence(
                host.name,
                trait,
                here,
                f"{usual}, as on the other nodes",
                f"iptables -t nat -S {MESH_CHAIN}; nsenter --net=/run/docker/netns/ingress_sbox iptables-save",
            )
            for trait, here, usual in differences
        ],
        explains=pair_ids(broken),
        remedies=[
            (roles.engine_rules(host) if _is_rules(differences) else roles.NOBODY).remedy(
                "cure",
                (f"on {host.name}: systemctl restart docker",),
                "Its containers restart unless live-restore is on (which a Swarm does not allow).",
                disruptive=True,
            )
        ],
    )


def _is_rules(differences: list[tuple[str, str, str]]) -> bool:
    """Only chains and rules are missing, which the engine makes anew; another network or VNI is not of that kind."""
    return all(here == "absent" and ("chain" in trait or MESH_CHAIN in trait) for trait, here, _usual in differences)


# ---- what stands behind names


def decide_backends_stale(case: Case) -> t.Iterator[Finding]:
    """Addresses that the engines still give for a name though no running container has them, and nothing answers."""
    lost = [o for o in case.broken if o.pair.kind == "backend"]
    strays = {(network_id, ip): name for network_id, name, ip in stray_backends(case.fleet)} if lost else {}
    dead: dict[tuple[str | None, str | None], list[Observation]] = {}
    for observation in lost:
        key = (observation.pair.network_id, observation.pair.dst.ip)
        if key in strays:
            dead.setdefault(key, []).append(observation)
    for (network_id, ip), broken in sorted(dead.items(), key=str):
        network = case.fleet.networks[str(network_id)]
        name = strays[str(network_id), str(ip)]
        tellers = [host for host in case.fleet.answering if _names_it(host, str(network_id), str(ip))]
        vteps = {named_addresses(host.facts, network.id)[str(ip)][1] for host in tellers} - {None}
        owners = [host.name for host in case.fleet.answering if host.underlay_ip in vteps]
        hosts = owners or sorted(host.name for host in tellers)
        if not hosts:
            continue
        yield Finding(
            cause="service-backends-stale",
            severity=CRITICAL,
            confidence=CONFIRMED,
            hosts=hosts,
            segment="name-service",
            network=network.name,
            summary=f"{name or 'a name'} on {network.name} still leads to {ip}, which no running container has and "
            f"which does not answer (so say the engines of {', '.join(sorted(host.name for host in tellers))})",
            evidence=[
                *(
                    Evidence(
                        host.name,
                        f"endpoints of {network.name}, as gossip left them",
                        f"{name} = {ip}, in {len(readings(host, 'networks'))} reading(s)",
                        "addresses of running containers only",
                        f"docker network inspect --verbose {network.name}",
                    )
                    for host in tellers
                ),
                Evidence(None, "running containers of the fleet", f"none has {ip}", None, "docker ps; docker inspect"),
            ],
            explains=pair_ids(broken),
            remedies=[
                Remedy(
                    "cure",
                    (f"docker service update --force {name}   # for a service: new tasks, new entries",),
                    "Its tasks restart, a few at a time.",
                    disruptive=True,
                ),
                Remedy(
                    "cure",
                    (f"on {', '.join(hosts)}: systemctl restart docker   # for a container, or if it is not enough",),
                    "The engine's containers restart.",
                    disruptive=True,
                ),
            ],
        )


def _names_it(host: Host, network_id: str, ip: str) -> bool:
    """In every reading."""
    read = readings(host, "networks")
    return bool(read) and all(ip in named_addresses(reading, network_id) for reading in read)


CAUSES = [
    Cause(
        "ipvs-missing",
        "The kernel has no IPVS, so virtual addresses and the routing mesh do not answer",
        "/proc/net/ip_vs, the kernel's modules, the engine's log, probes to virtual addresses and mesh ports",
        (
            "task addresses and attachable containers work without it; a module that nobody has asked for yet is "
            "not missing; a Swarm without a service needs none"
        ),
        decide_ipvs,
        stage=SYMPTOM,
        remedy="load ip_vs and have it loaded at boot; else endpoint mode dnsrr and ports in mode host",
    ),
    Cause(
        "ipvs-idle-900s",
        "Connections through a virtual address are forgotten after 15 minutes of silence",
        "asked about a virtual address: IPVS at work, tcp_keepalive_time in the client's own namespace",
        "the host's sysctl does not reach a container's namespace; said only when somebody asks about that path",
        decide_ipvs_idle,
        remedy="a keepalive below 900 s in the client's namespace and application, or endpoint mode dnsrr",
    ),
    Cause(
        "ipvs-conntrack-invalid",
        "Conntrack calls balanced packets invalid, and connections are reset",
        "nf_conntrack's invalid counter with the probes, tcp_be_liberal, resets of connections to virtual addresses",
        "an invalid counter that rises by itself; a service that refuses because nothing listens",
        decide_conntrack_invalid,
        stage=SYMPTOM,
        remedy="nf_conntrack_tcp_be_liberal=1 in the namespace that balances",
    ),
    Cause(
        "ingress-missing",
        "The Swarm has no ingress network",
        "the managers' networks, services that publish through the mesh, the managers' log",
        (
            "workers know the network only while they need it, so managers are asked; info while no service publishes, "
            "nothing without any service"
        ),
        decide_ingress_missing,
        remedy="create it anew: docker network create --driver overlay --ingress ingress",
    ),
    Cause(
        "ingress-inconsistent",
        "The routing mesh is not the same on all nodes",
        "per node: ingress network and VNI, ingress_sbox, DOCKER-INGRESS with its jump and DNAT rules; mesh ports",
        "nodes that joined seconds ago: every reading has to say it; what all nodes lack is no difference",
        decide_ingress_inconsistent,
        remedy="restart the engine of the odd node",
    ),
    Cause(
        "service-backends-stale",
        "A name leads to an address that no running container has",
        "every engine's list of endpoints against the fleet's running containers, a probe to the address",
        "a rolling update: both readings have to name it; endpoints on hosts outside the play cannot be judged",
        decide_backends_stale,
        remedy="docker service update --force; else restart the engine that announces it",
    ),
]

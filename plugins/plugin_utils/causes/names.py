# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Name resolution: the engine's own resolver, containers that bypass it, resolvers behind it."""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    INFO,
    LIKELY,
    SYMPTOM,
    Case,
    Cause,
    Evidence,
    Facts,
    Finding,
    Remedy,
    pair_ids,
    severity_of,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.filter_ownership import engine_option
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.forwarding import gateway_bridge
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import Packet, fate, path_fate
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.builders import (
    EMBEDDED_DNS,
    has_embedded_dns,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts, Namespace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies import roles

DNS_PORT = 53
SILENT = ("timeout", "refused", "unreachable")


def only_names_fail(observation: Observation) -> bool:
    """The path answers, and just the name does not; or the pair asks for nothing but a name."""
    failed = observation.failed_layers()
    return observation.broken and "dns" in failed and (observation.reached or len(observation.pair.probes) == 1)


def _status(observation: Observation) -> str:
    return str((observation.results.get("dns") or {}).get("status"))


def _nameservers(container: Facts) -> list[str]:
    return (container.get("dns") or {}).get("nameservers") or []


def _path(namespace: Namespace | None, container: Facts) -> str:
    return (namespace.facts.get("path") if namespace else None) or f"/proc/{container.get('pid')}/ns/net"


# -- the engine's own resolver -------------------------------------------------------------------------------------


def resolver_fault(namespace: Namespace) -> str | None:
    """Why a question to the embedded DNS cannot arrive at the engine; None where it does or nobody can tell."""
    read = namespace.facts.get("filter")
    if read is None or read.get("error") or namespace.facts.get("error"):
        return None
    listening = {port for address, port in namespace.listeners("udp") if address == EMBEDDED_DNS}
    question = Packet(
        src=EMBEDDED_DNS,
        dst=EMBEDDED_DNS,
        protocol="udp",
        dport=DNS_PORT,
        oif="lo",
        ct_state=("new",),
        src_type="local",
        dst_type="local",
    )
    outcome = fate(read, question, "output")
    port = outcome.packet.dport
    if outcome.verdict != "accept" or port is None or outcome.packet.dst != EMBEDDED_DNS or port in listening:
        return None
    if port != DNS_PORT:
        return f"port {DNS_PORT} is translated to {port}, where nothing listens"
    if listening:
        return f"no rule translates port {DNS_PORT} to the engine's socket ({', '.join(map(str, sorted(listening)))})"
    return f"no rule translates port {DNS_PORT}, and the engine has no socket there"


def decide_embedded(case: Case) -> t.Iterator[Finding]:
    """Containers whose questions to 127.0.0.11 lead nowhere."""
    for host in case.fleet.answering:
        if host.facts.engine.get("state") != "running":
            continue  # the engine answers these questions: without it, it is what is missing
        failing = {o.pair.src.container_id for o in case.touching(host.name) if only_names_fail(o)}
        cut = [
            (container, why)
            for container in host.facts.containers
            if container["id"] in failing
            and EMBEDDED_DNS in _nameservers(container)
            and (why := _fault_in(host.facts, container))
        ]
        if cut:
            yield _embedded_finding(case, host, cut)


def _fault_in(facts: HostFacts, container: Facts) -> str | None:
    namespace = facts.namespace(container.get("netns"))
    return resolver_fault(namespace) if namespace is not None else None


def _embedded_finding(case: Case, host: Host, cut: list[tuple[Facts, str]]) -> Finding:
    ids = {container["id"] for container, _why in cut}
    broken = [o for o in case.broken if o.pair.src.container_id in ids and only_names_fail(o)]
    names = ", ".join(sorted(container["name"] for container, _why in cut)[:4])
    evidence = []
    for container, why in cut[:6]:
        path = _path(host.latest.namespace(container.get("netns")), container)
        evidence.append(
            Evidence(
                host.name,
                f"nat OUTPUT and sockets in the namespace of {container['name']}",
                why,
                f"{EMBEDDED_DNS}:{DNS_PORT} translated to a socket of the engine",
                f"nsenter --net={path} sh -c 'iptables -t nat -S; ss -lun'",
            )
        )
    evidence += [
        Evidence(host.name, f"probe {o.pair.id}", f"the name: {_status(o)}; the address answers", "an answer")
        for o in broken[:1]
    ]
    return Finding(
        cause="embedded-dns-broken",
        severity=severity_of(broken),
        confidence=LIKELY,
        hosts=[host.name],
        segment="name-service",
        summary=f"The engine's DNS cannot be asked from {names} on {host.name}: {cut[0][1]}"
        + (f"; {len(broken)} pair(s) reach by address and not by name" if broken else ""),
        evidence=evidence,
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (
                    f"on {host.name}: docker restart {' '.join(sorted(c['name'] for c, _why in cut)[:4])}",
                    "lasting: keep what flushes rules out of the containers' namespaces",
                ),
                "The containers restart.",
                disruptive=True,
            )
        ],
    )


def decide_silent(case: Case) -> t.Iterator[Finding]:
    """Everything is in place, and still no question of a container gets an answer, while its addresses answer."""
    open_ids = {o.pair.id for o in case.unexplained}
    by_source: dict[str | None, list[Observation]] = {}
    for observation in case.observations:
        if "dns" in observation.results:
            by_source.setdefault(observation.pair.src.container_id, []).append(observation)
    for host in case.fleet.answering:
        if host.facts.engine.get("state") != "running":
            continue
        silent: list[tuple[Facts, str]] = []
        asked: list[Observation] = []
        for container in host.facts.containers:
            namespace = host.facts.namespace(container.get("netns"))  # later readings have no rules
            if EMBEDDED_DNS not in _nameservers(container) or namespace is None:
                continue
            mine = by_source.get(container["id"]) or []
            if not mine or any(_status(o) not in SILENT or o.pair.id not in open_ids for o in mine):
                continue
            asked += mine
            local = [o for o in mine if o.pair.kind != "upstream"]
            if local and all(only_names_fail(o) for o in local) and _passes(namespace):
                silent.append((container, _path(namespace, container)))
        if silent:
            yield _silent_finding(host, silent, asked)


def _silent_finding(host: Host, silent: list[tuple[Facts, str]], asked: list[Observation]) -> Finding:
    names = ", ".join(sorted(container["name"] for container, _netns in silent)[:4])
    return Finding(
        cause="embedded-dns-broken",
        severity=severity_of(asked),
        confidence=LIKELY,
        hosts=[host.name],
        segment="name-service",
        summary=f"The engine's DNS on {host.name} answers nothing that {names} asks "
        f"({len(asked)} question(s)), although rules and socket are there",
        evidence=[
            Evidence(
                host.name,
                f"probes of names from {container['name']}",
                ", ".join(sorted({_status(o) for o in asked if o.pair.src.container_id == container["id"]})),
                "an answer",
                f"nsenter --net={path} dig @{EMBEDDED_DNS} {container['name']}",
            )
            for container, path in silent[:4]
        ],
        explains=pair_ids(asked),
        remedies=[
            Remedy(
                "cure",
                (f"on {host.name}: docker restart {silent[0][0]['name']}", "then the engine, if that is not it"),
                "The container restarts.",
                disruptive=True,
            )
        ],
    )


def _passes(namespace: Namespace) -> bool:
    """The filter of the container's own namespace is known, and lets a question pass."""
    read = namespace.facts.get("filter")
    if read is None or read.get("error"):
        return False
    question = Packet(src=EMBEDDED_DNS, dst=EMBEDDED_DNS, protocol="udp", dport=DNS_PORT, oif="lo", ct_state=("new",))
    return fate(read, question, "output").verdict == "accept"


# -- containers that bypass it -------------------------------------------------------------------------------------


def bypasses(case: Case, container: Facts) -> bool:
    """A container on a network whose names the engine serves, and whose resolv.conf does not ask the engine."""
    mode = container.get("network_mode") or ""
    if mode in ("host", "none") or mode.startswith("container:") or "dns" not in container:
        return False
    served = [
        row for row in container.get("endpoints") or [] if has_embedded_dns(case.fleet.networks.get(row["network_id"]))
    ]
    return bool(served) and bool(_nameservers(container)) and EMBEDDED_DNS not in _nameservers(container)


def decide_bypassed(case: Case) -> t.Iterator[Finding]:
    for host in case.fleet.answering:
        for container in host.facts.containers:
            if bypasses(case, container):
                yield _bypassed_finding(case, host, container)


def _bypassed_finding(case: Case, host: Host, container: Facts) -> Finding:
    name = container["name"]
    broken = [
        o
        for o in case.broken
        if o.pair.src.container_id == container["id"] and o.pair.kind != "upstream" and only_names_fail(o)
    ]
    networks = ", ".join(row["network"] for row in container.get("endpoints") or [])
    mounted = (container.get("dns") or {}).get("mounted")
    servers = ", ".join(_nameservers(container))
    evidence = [
        Evidence(
            host.name,
            f"/etc/resolv.conf of {name}{' (mounted over)' if mounted else ''}",
            f"nameserver {servers}",
            f"nameserver {EMBEDDED_DNS}: {networks} is served by the engine's DNS",
            f"docker exec {name} cat /etc/resolv.conf; docker inspect -f '{{{{.Mounts}}}}' {name}",
        )
    ]
    evidence += [
        Evidence(host.name, f"probe {o.pair.id}", f"the name: {_status(o)}; the address answers", "an answer")
        for o in broken[:1]
    ]
    return Finding(
        cause="container-dns-bypassed",
        severity=severity_of(broken),
        confidence=CONFIRMED if broken else LIKELY,
        hosts=[host.name],
        segment="name-service",
        summary=f"{name} on {host.name} asks {servers} and not the engine's DNS: "
        f"names of containers and services do not resolve there"
        + (f", {len(broken)} pair(s) by name fail" if broken else ""),
        evidence=evidence,
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (
                    f"recreate {name} without the mount over /etc/resolv.conf",
                    f"give {servers} as --dns (dns: in a compose file) instead: the engine then forwards to it",
                ),
                "The container is recreated.",
                disruptive=True,
            )
        ],
    )


# -- resolvers behind it -------------------------------------------------------------------------------------------


def decide_upstream(case: Case) -> t.Iterator[Finding]:
    """Names that have to be forwarded get no answer."""
    asked = [o for o in case.observations if o.pair.kind == "upstream"]
    groups: dict[tuple[str, ...], list[Observation]] = {}
    for observation in case.unexplained:
        if observation.pair.kind == "upstream" and not _belongs_elsewhere(case, observation):
            groups.setdefault(_servers(case, observation), []).append(observation)
    for servers, broken in groups.items():
        yield _upstream_finding(case, servers, broken)
    nobody = [o for o in asked if o.forgiven and o.pair.src.kind == "container"]
    if nobody and len(nobody) == len([o for o in asked if o.pair.src.kind == "container"]):
        hosts = sorted({o.pair.src.host for o in nobody if o.pair.src.host})
        yield Finding(
            cause="upstream-dns-unreachable",
            severity=INFO,
            confidence=LIKELY,
            hosts=hosts,
            segment="name-service",
            summary=f"No resolver answers containers or hosts of this fleet ({', '.join(_servers(case, nobody[0]))}): "
            "names outside of it do not resolve anywhere",
            evidence=[
                Evidence(
                    nobody[0].pair.src.host,
                    f"probe {nobody[0].pair.id}",
                    f"{_status(nobody[0])}; {nobody[0].forgiven}",
                    "an answer, if names outside are meant to resolve",
                    f"dig {nobody[0].pair.dst.name}",
                )
            ],
        )


def _belongs_elsewhere(case: Case, observation: Observation) -> bool:
    """The container's whole way out is broken: the question is one of the victims of what broke it."""
    source = observation.pair.src
    if source.host is None:
        return False
    facts = case.host(source.host).facts
    way = gateway_bridge(facts, source.container_id)
    beside = [
        o
        for o in case.observations
        if o.pair.kind == "egress"
        and o.pair.src.host == source.host
        and o.verdict() != "untested"
        and gateway_bridge(facts, o.pair.src.container_id) == way
    ]
    if not beside or not all(o.broken for o in beside):
        return False
    ids = {o.pair.id for o in beside}
    for finding in case.findings:
        if ids & set(finding.explains):
            finding.explains = sorted({*finding.explains, observation.pair.id})
            break
    return True


def _servers(case: Case, observation: Observation) -> tuple[str, ...]:
    """The name servers a question of this pair is forwarded to."""
    host = case.host(observation.pair.src.host or "")
    container = next((c for c in host.facts.containers if c["id"] == observation.pair.src.container_id), {})
    servers = _nameservers(container)
    if EMBEDDED_DNS in servers:
        servers = (container.get("dns") or {}).get("upstreams") or []
    return tuple(servers) or ("the resolver of its host",)


def _upstream_finding(case: Case, servers: tuple[str, ...], broken: list[Observation]) -> Finding:
    hosts = sorted({o.pair.src.host for o in broken if o.pair.src.host})
    evidence = []
    for observation in broken[:4]:
        host = case.host(observation.pair.src.host or "")
        container = next((c for c in host.facts.containers if c["id"] == observation.pair.src.container_id), {})
        path = _path(host.latest.namespace(container.get("netns")), container)
        first = (_nameservers(container) or [EMBEDDED_DNS])[0]
        evidence.append(
            Evidence(
                host.name,
                f"probe {observation.pair.id}",
                f"{_status(observation)}, asked of {first}, behind it {', '.join(servers)}",
                "any answer, NXDOMAIN included",
                f"nsenter --net={path} dig @{first} {observation.pair.dst.name}",
            )
        )
        evidence += [*_refused_by(host, container, servers), *_beside(case, host, container)]
    alone = all("does not" in row.observed for row in evidence if row.source == "the host's own resolver")
    own = any(row.source == "the host's own resolver" for row in evidence)
    words = ", ".join(servers)
    return Finding(
        cause="upstream-dns-unreachable",
        severity=severity_of(broken),
        confidence=LIKELY,
        hosts=hosts,
        segment="name-service",
        direction="out",
        summary=f"Containers on {', '.join(hosts)} get no answer from {words} for names outside of their networks"
        + (", and neither does the host itself" if own and alone else ""),
        evidence=evidence,
        explains=pair_ids(broken),
        remedies=[
            step.remedy(
                "cure",
                (
                    f"on {', '.join(hosts)}: let 53/udp and 53/tcp out to {words} and the answers back",
                    (
                        "or name a server that answers: 'dns' in /etc/docker/daemon.json and restart the engine, "
                        "or --dns of the container; an address of 127.0.0.0/8 is the container's own there"
                    ),
                ),
                "Restarting the engine restarts its containers, unless live-restore is on.",
                disruptive=True,
            )
            for step in _resolvers(case, hosts, servers)
        ],
    )


def _resolvers(case: Case, hosts: list[str], servers: tuple[str, ...]) -> list[roles.Step]:
    """Hosts whose engine was told these servers, while another one answers the host or a container of it.

    Where a container was given its own servers, or the host's resolv.conf names them, the engine's setting is not what
    is wrong.
    """
    found = []
    for name in hosts:
        host = case.host(name)
        told = engine_option(host.facts, "dns")
        answering: list[str | None] = []
        for o in case.observations:
            if o.pair.kind == "upstream" and o.pair.src.host == name and o.verdict() == "ok":
                own = o.pair.src.kind == "host"
                answering += [(o.results.get("dns") or {}).get("server")] if own else _servers(case, o)
        step = roles.engine_dns(host, [one for one in answering if one not in servers])
        if isinstance(told, list) and set(map(str, told)) == set(servers) and step.role:
            found.append(step)
    return found if len(found) == len(hosts) else [roles.NOBODY]


def _refused_by(host: Host, container: Facts, servers: tuple[str, ...]) -> list[Evidence]:
    """The rule of the host that drops the question on its way out, where there is one."""
    read = host.facts.root.facts.get("filter")
    bridge, nic = gateway_bridge(host.facts, container.get("id")), (host.underlay_link or {}).get("name")
    namespace = host.facts.namespace(container.get("netns"))
    sources = [row["ip"] for row in namespace.addresses if row.get("family") == 4] if namespace else []
    if not read or read.get("error") or not bridge or not nic:
        return []
    for server in servers:
        if not server[:1].isdigit() or ":" in server:
            continue
        question = Packet(
            src=sources[-1] if sources else None,
            dst=server,
            protocol="udp",
            dport=DNS_PORT,
            iif=bridge,
            oif=nic,
            ct_state=("new",),
            src_type="unicast",
            dst_type="unicast",
        )
        drops = path_fate(read, question, ("prerouting", "forward", "postrouting")).drops
        if drops:
            where = f"{drops[0].family} {drops[0].table} {drops[0].chain}"
            return [Evidence(host.name, f"packet filter, {where}", drops[0].text or "policy drop", "53/udp passes")]
    return []


def _beside(case: Case, host: Host, container: Facts) -> list[Evidence]:
    """What works next to it: the engine's own names, and the host's own resolver."""
    found = []
    names = [
        o
        for o in case.observations
        if o.pair.src.container_id == container.get("id") and o.pair.kind != "upstream" and _status(o) == "ok"
    ]
    if names:
        found.append(
            Evidence(host.name, f"probe {names[0].pair.id}", "the engine's DNS answers this name", "an answer")
        )
    own = next((o for o in case.observations if o.pair.kind == "upstream" and o.pair.src.name == host.name), None)
    if own is not None and own.pair.src.kind == "host" and own.results:
        answered = own.verdict() == "ok"
        found.append(
            Evidence(
                host.name,
                "the host's own resolver",
                "answers the host" if answered else f"does not answer the host either ({_status(own)})",
                "an answer",
                f"dig {own.pair.dst.name}",
            )
        )
    return found


CAUSES: list[Cause] = [
    Cause(
        "embedded-dns-broken",
        "The engine's own DNS cannot be asked from a container",
        "127.0.0.11 in the container's resolv.conf; the DNAT rule and the socket for it in the container's namespace; "
        "probes by name beside probes by address",
        "the default bridge has no embedded DNS by design; an empty answer for AAAA is none of its faults; "
        "with the engine down its DNS is down too: then the engine is the cause",
        decide_embedded,
        remedy="restart the container: its engine writes the rules and opens the sockets anew",
    ),
    Cause(
        "embedded-dns-broken",
        "The engine's own DNS answers nothing",
        "probes by name beside probes by address, where rules and socket are in place",
        "a rule of the container's own that drops the question is that rule's fault",
        decide_silent,
        stage=SYMPTOM,
        remedy="restart the container, then the engine",
    ),
    Cause(
        "container-dns-bypassed",
        "A container on a user-defined network does not ask the engine's DNS",
        "the container's resolv.conf and whether it is mounted over; the network it is on; probes by name",
        "the default bridge and containers in the host's namespace have none by design; --dns does not bypass: the "
        "engine forwards to what it names",
        decide_bypassed,
        remedy="recreate the container without the mount; give other resolvers as --dns",
    ),
    Cause(
        "upstream-dns-unreachable",
        "The resolver behind the engine's DNS does not answer",
        "one question per host and set of upstream servers, for a name below .invalid that no zone has; the same from "
        "the host itself",
        "NXDOMAIN is an answer; a fleet where not even the hosts get one has no resolver by design (info); a container "
        "whose whole way out is broken has another fault",
        decide_upstream,
        stage=SYMPTOM,
        remedy="a server in daemon.json's dns that answers, or 53/udp and 53/tcp opened to the present one",
    ),
]

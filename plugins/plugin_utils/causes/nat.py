# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Address translation and what containers publish: masquerading, published ports, rules for one container or port.

A container's packets are followed through every filter they cross (routed.py). A rule that drops them is named by what
it is: a forward chain's policy, the engine's own protection of container addresses, or a rule for one container or
port. Where nothing drops them, the translation itself is looked at.
"""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes import routed
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    CRITICAL,
    INFO,
    LIKELY,
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
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.filter_ownership import (
    FLUSHED,
    WITHOUT_IPTABLES,
    decided_with_the_rule,
    engine_option,
    probe_evidence,
    says_no,
    translates,
    uses_iptables,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.forwarding import gateway_bridge
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.rule_owner import (
    DOCKER,
    OPERATOR,
    UNKNOWN,
    accepting,
    hidden_in_legacy,
    owner_of,
    owner_words,
    rule_source,
    rule_words,
    verify,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.underlay import lookup
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import Packet, RuleRef
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.deltas import Rise, rise, rule_counter
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts, Namespace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies import roles

MASQUERADE, PUBLISHED, FILTERED = "masquerade-missing", "published-port-rule-missing", "container-port-filtered"
POLICY, DIRECT, LEGACY = "forward-policy-drop", "docker28-raw-drop", "legacy-nft-mix"
NO_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
GATEWAY_MODE = "com.docker.network.bridge.gateway_mode_ipv4"


# ---- rules that drop what containers send or get


def decide_stopped(case: Case) -> t.Iterator[Finding]:
    """Rules that certainly drop the packets of broken pairs."""
    groups: dict[tuple[str, str, str], list[tuple[routed.Stop, Observation]]] = {}
    for observation in case.unexplained:
        stop = routed.stopped(case, observation) if observation.pair.kind in routed.KINDS else None
        if stop is not None:
            key = (stop.crossing.host.name, stop.crossing.namespace.key, stop.rule.ref)
            groups.setdefault(key, []).append((stop, observation))
    for found in groups.values():
        yield _stopped(case, [stop for stop, _o in found], [observation for _stop, observation in found])


def decide_maybe_stopped(case: Case) -> t.Iterator[Finding]:
    """Rules that may drop them, where the rule's counter rose with each burst of probes."""
    groups: dict[tuple[str, str, str], list[tuple[routed.Stop, Observation]]] = {}
    for observation in case.unexplained:
        for probe in observation.pair.probes:
            if observation.layers()[probe.key] != "failed" or observation.pair.kind not in routed.KINDS:
                continue
            for stop in routed.maybe_stops(case, observation, probe):
                moved = moved_with_probes(stop.crossing.host, stop.crossing.namespace, stop.rule)
                key = (stop.crossing.host.name, stop.crossing.namespace.key, stop.rule.ref)
                members = groups.setdefault(key, [])
                if moved is not None and moved.tied and all(o is not observation for _stop, o in members):
                    members.append((stop, observation))
    for found in groups.values():
        open_pairs = {o.pair.id for o in case.unexplained}
        observations = [observation for _stop, observation in found if observation.pair.id in open_pairs]
        if observations:
            yield _stopped(case, [stop for stop, _o in found], observations)


def moved_with_probes(host: Host, namespace: Namespace, rule: RuleRef) -> Rise | None:
    return rise(host, namespace.key, rule_counter(rule.ref))


def cause_of(stop: routed.Stop) -> str:
    """What a rule that drops a container's packets is called."""
    rule, host = stop.rule, stop.crossing.host
    in_root = stop.crossing.namespace is host.facts.root
    if in_root and hidden_in_legacy(rule, host):
        return LEGACY
    if rule.hook == "forward" and rule.why == "policy" and rule.family != "bridge":
        return POLICY
    return FILTERED


def _stopped(case: Case, stops: list[routed.Stop], broken: list[Observation]) -> Finding:
    """What one rule stops; C(stops) are the packets it was seen to stop."""
    stop = stops[0]
    host, rule, namespace = stop.crossing.host, stop.rule, stop.crossing.namespace
    owner = owner_of(rule, host)
    cause = cause_of(stop)
    moved = moved_with_probes(host, namespace, rule)
    own = namespace is not host.facts.root
    inside = f"nsenter --net={namespace.facts.get('path')} " if own and namespace.facts.get("path") else ""
    place = f"{_namespace_words(host, namespace)} on {host.name}" if own else host.name
    counted = f"; counter {moved}" if moved is not None else "; it has no counter"
    evidence = [
        Evidence(
            host.name,
            rule_source(rule, owner),
            f"{rule_words(rule)}{counted}",
            "passed on",
            verify(rule, inside),
        ),
        *probe_evidence(broken),
    ]
    return Finding(
        cause=cause,
        severity=_severity(owner, broken),
        confidence=CONFIRMED if moved is not None and moved.tied else LIKELY,
        hosts=[host.name],
        segment="host-stack" if cause == POLICY else stop.crossing.segment,
        network=broken[0].pair.network if own and len({o.pair.network for o in broken}) == 1 else None,
        summary=f"{place} drops {_victims(broken, host.name)}: {rule_words(rule)}{owner_words(owner)}",
        evidence=evidence,
        explains=pair_ids(broken),
        remedies=_rule_remedies(case, stops, broken, cause, owner, inside),
    )


def _severity(owner: str, broken: list[Observation]) -> str:
    """What the operator put into DOCKER-USER is meant; and a container that asks its own host is not the world."""
    if owner == OPERATOR or all(o.pair.kind == "hairpin" for o in broken):
        return WARNING
    return CRITICAL


def _namespace_words(host: Host, namespace: Namespace) -> str:
    container = next((c["name"] for c in host.facts.containers if c.get("netns") == namespace.key), None)
    return f"the namespace of container {container}" if container else f"an {namespace.kind} namespace"


def _victims(broken: list[Observation], host: str) -> str:
    words = {
        "egress": "what containers send to the outside",
        "published": "what comes for published ports",
        "asked": "what answers from published ports of other hosts",
        "hairpin": "what containers send to their own host's ports",
        "overlay": "traffic between containers",
        "local": "traffic between containers of one host",
    }
    asked = {"published": "asked"}
    present = {asked.get(o.pair.kind, o.pair.kind) if o.pair.src.host == host else o.pair.kind for o in broken}
    return f"{' and '.join(words[kind] for kind in words if kind in present)} ({len(broken)} pair(s))"


def _rule_remedies(
    case: Case, stops: list[routed.Stop], broken: list[Observation], cause: str, owner: str, inside: str
) -> list[Remedy]:
    """Only a policy is amended by a role: a rule for one port or container may be meant, whoever made it."""
    stop = stops[0]
    if cause != POLICY:
        return [_rule_remedy(stops, cause, owner, inside)]
    host = stop.crossing.host
    manual = (
        f"on {host.name}: {_forward_accept(stop.rule, owner, stop)}",
        "an accept in the engine's chains does not help: every forward chain has to let the packet pass",
    )
    risk = "Do not set the policy to accept: the host would route for everybody who sends it packets."
    lost = _lost_to_policy(case, host, broken)
    if lost is None or hidden_in_legacy(stop.rule, host):
        return [roles.NOBODY.remedy("cure", manual, risk)]
    accepts, policies = lost
    nic = (host.underlay_link or {}).get("name")
    if _is_engines(stop.rule) and any(accept["out_interface"] != nic for accept in accepts):
        # Before the engine's own rules such an accept would open the containers' ports, published or not.
        step = roles.engine_rules(host) if uses_iptables(host.facts) else roles.NOBODY
        return [step.remedy("cure", manual, f"{risk} Containers stop with the engine.", disruptive=True)]
    return [step.remedy("cure", manual, risk) for step in roles.forward_policy(host, policies, accepts)]


def _is_engines(rule: RuleRef) -> bool:
    """In the chain that the engine's own rules for forwarded packets are in."""
    return rule.family in ("ip", "ip6") and rule.table == "filter"


def _lost_to_policy(case: Case, host: Host, broken: list[Observation]) -> tuple[list[Facts], list[RuleRef]] | None:
    """What of these pairs' packets and answers the host drops by policy, and the policies; None if by rules as well."""
    accepts: list[Facts] = []
    policies: dict[str, RuleRef] = {}
    for crossing in _forwarded(case, host, broken):
        fate = crossing.fate()
        lost = [rule for rule in fate.drops if rule.hook == "forward"] if fate is not None else []
        if any(rule.why != "policy" for rule in lost):
            return None
        accept = _accept_of(host, crossing.packet)
        if lost and accept not in accepts:
            accepts.append(accept)
        policies.update({rule.ref: rule for rule in lost})
    return accepts, list(policies.values())


def _forwarded(case: Case, host: Host, broken: list[Observation]) -> t.Iterator[routed.Crossing]:
    """Each forwarding of these pairs' packets by the host itself."""
    for observation in broken:
        for probe in observation.pair.probes:
            for crossing in routed.crossings(case, observation, probe):
                if crossing.namespace is host.facts.root and "forward" in crossing.path:
                    yield crossing


def _accept_of(host: Host, packet: Packet) -> Facts:
    """Between these two interfaces; towards containers only to their subnet."""
    inward = packet.oif if packet.oif and packet.oif != (host.underlay_link or {}).get("name") else None
    return {
        "in_interface": packet.iif,
        "out_interface": packet.oif,
        "source": None,
        "destination": _subnet(host, inward) if inward else None,
    }


def _rule_remedy(stops: list[routed.Stop], cause: str, owner: str, inside: str) -> Remedy:
    stop = stops[0]
    rule, host = stop.rule, stop.crossing.host.name
    where = f"{rule.family} {rule.table} {rule.chain}"
    if owner == OPERATOR:
        comment = f' Its comment says "{rule.comment}".' if rule.comment else ""
        return Remedy(
            "cure",
            (
                f"on {host}: is the rule meant?{comment}",
                f"{verify(rule, inside)}   # then: iptables -D {rule.chain} NUMBER, or an accept (RETURN) before it",
            ),
            "The rule was put there by hand, or by a script of the site: ask whose it is.",
        )
    if cause == LEGACY:
        return Remedy(
            "cure",
            (
                f"on {host}: {verify(rule)}",
                f"on {host}: remove the rule there, or put it into the backend in use (iptables, nft)",
                "lasting: one backend only (update-alternatives --config iptables)",
            ),
            "The other rules of the legacy tables may be meant: iptables-legacy-save before anything is flushed.",
        )
    if owner == DOCKER:
        return Remedy(
            "cure",
            (
                f"on {host}: {verify(rule, inside)}",
                f"on {host}: recreate the container, or systemctl restart docker: the engine accepts what it published",
                "own accepts belong into DOCKER-USER; the engine's own rules come back as they are",
            ),
            "Recreating the container interrupts it; restarting the engine interrupts all of the host.",
            disruptive=True,
        )
    if rule.why == "policy":
        accepts = list(dict.fromkeys(accepting(one.rule, one.crossing.packet, inside) for one in stops))
        return Remedy(
            "cure",
            (
                f"on {host}: {verify(rule, inside)}",
                *accepts,
                "lasting: in whatever makes this chain: its script, or nftables.conf",
            ),
            "The policy may be meant: accept what is needed, and leave it as it is.",
        )
    maker = f"{owner}'s own configuration" if owner != UNKNOWN else "whatever made it: its script, or nftables.conf"
    return Remedy(
        "cure",
        (
            f"on {host}: {verify(rule, inside)}",
            f"take the rule out of {where}, or narrow it; lasting: in {maker}",
        ),
        "The rule may be meant: its comment and its owner tell.",
    )


def _forward_accept(rule: RuleRef, owner: str, stop: routed.Stop) -> str:
    packet = stop.crossing.packet
    if owner == "ufw":
        return (
            f"ufw route allow in on {packet.iif} out on {packet.oif}   # or DEFAULT_FORWARD_POLICY in /etc/default/ufw"
        )
    if owner == "firewalld":
        return "firewall-cmd --permanent --zone=docker --set-target=ACCEPT; firewall-cmd --reload; restart docker"
    if rule.table == "filter" and rule.family in ("ip", "ip6"):
        tool = "iptables-legacy" if rule.backend == "legacy" else "iptables"
        return (
            f"{tool} -I DOCKER-USER -i {packet.iif} -o {packet.oif} -j ACCEPT; or restart the engine for its own rules"
        )
    return (
        f"nft insert rule {rule.family} {rule.table} {rule.chain} iifname {packet.iif} oifname {packet.oif} accept; "
        "and the same in nftables.conf"
    )


# ---- docker28-raw-drop


def decide_direct(case: Case) -> t.Iterator[Finding]:
    """The engine's rule against direct routing has dropped packets: somebody asks for a container's address."""
    for host in case.fleet.answering:
        counted = [(rule, address) for rule, address in _guards(host.facts) if (rule.get("counter") or [0])[0] > 0]
        if counted:
            yield _direct(host, counted)


def _guards(facts: HostFacts) -> t.Iterator[tuple[Facts, str]]:
    """Rules of raw PREROUTING that keep a container's address for its own bridge, and the address."""
    chains = facts.root.filter.get("chains") or []
    rules = [rule for c in chains if (c["table"], c.get("hook")) == ("raw", "prerouting") for rule in c["rules"]]
    addresses = {e["ip"] for c in facts.containers for e in c.get("endpoints") or [] if e.get("ip")} if rules else set()
    for address in sorted(addresses):
        bridge = routed.bridge_of(facts, address)
        for rule in rules:
            words = rule["text"].replace("/32", "").split(" ")
            others = f'!= "{bridge}"' in rule["text"] or f"! -i {bridge}" in rule["text"]
            if bridge and others and address in words and words[-1].lower() == "drop":
                yield rule, address


def _direct(host: Host, counted: list[tuple[Facts, str]]) -> Finding:
    total = sum(rule["counter"][0] for rule, _address in counted)
    addresses = ", ".join(sorted({address for _rule, address in counted})[:4])
    return Finding(
        cause=DIRECT,
        severity=INFO,
        confidence=CONFIRMED,
        hosts=[host.name],
        segment="host-filter-in",
        summary=f"{host.name} dropped {total} packet(s) that came by routing for container addresses ({addresses}): "
        "only published ports can be reached from other hosts",
        evidence=[
            Evidence(
                host.name,
                f"packet filter, raw PREROUTING, owner {DOCKER}",
                f"rule `{rule['text']}`, {rule['counter'][0]} packets",
                "0 packets: nobody routes to container addresses",
                "iptables -t raw -vnL PREROUTING",
            )
            for rule, _address in counted[:3]
        ],
        remedies=[
            Remedy(
                "cure",
                (
                    (
                        "ask for a published port; or create the network anew with option "
                        "com.docker.network.bridge.trusted_host_interfaces=IFACE"
                    ),
                ),
                "Direct routing reaches ports that are not published.",
            )
        ],
    )


# ---- masquerade-missing


def decide_masquerade(case: Case) -> t.Iterator[Finding]:
    """Containers' packets that leave with an address nobody outside can answer."""
    groups: dict[tuple[str, str], list[Observation]] = {}
    for observation in case.unexplained:
        pair = observation.pair
        host = case.fleet.hosts.get(pair.src.host or "")
        if host is None or pair.kind != "egress" or pair.src.kind != "container" or not case.filter_is_known(host.name):
            continue
        bridge = gateway_bridge(host.facts, pair.src.container_id)
        if bridge and translates(case, observation) is False and not _routed_back(case, host, observation):
            groups.setdefault((host.name, bridge), []).append(observation)
    for name in dict.fromkeys(name for name, _bridge in groups):
        bridges = {bridge: found for (owner, bridge), found in groups.items() if owner == name}
        yield _untranslated(case.host(name), bridges)


def _routed_back(case: Case, host: Host, observation: Observation) -> bool:
    """The one asked has a route to the container through its host: no translation is needed, by design."""
    peer = case.fleet.hosts.get(observation.pair.dst.host or "")
    end = routed.attachment(host.facts, observation.pair.src.container_id)
    route = lookup(peer.facts.root, end.ip) if peer is not None and peer.answered and end else None
    return bool(route and route.get("gateway") and route["gateway"] == host.underlay_ip)


def _untranslated(host: Host, bridges: dict[str, list[Observation]]) -> Finding:
    broken = [o for found in bridges.values() for o in found]
    subnets = {bridge: _subnet(host, bridge) for bridge in bridges}
    words = ", ".join(f"{subnets[bridge] or bridge} ({bridge})" for bridge in sorted(bridges))
    asked = [o.pair.src for o in broken]
    end = routed.attachment(host.facts, asked[0].container_id)
    configured = _configured(host, broken)
    commands = [
        f"on {host.name}: iptables -t nat -A POSTROUTING -s {subnets[bridge]} ! -o {bridge} -j MASQUERADE"
        for bridge in sorted(bridges)
        if subnets[bridge]
    ]
    cure: tuple[str, ...] = (
        f"on {host.name}: systemctl restart docker   # it makes its MASQUERADE rules anew",
        *(f"or without a restart: {command}" for command in commands),
    )
    taken = [_taken_before(host, subnet) for subnet in subnets.values()]
    stands = all(deletions is not None for deletions in taken)
    if stands:  # to make it anew would change nothing
        lines = dict.fromkeys(line for deletions in taken for line in deletions or ())
        cure = tuple(f"on {host.name}: narrow what takes the packets before, or {line}" for line in lines) or (
            f"on {host.name}: narrow the rule of nat POSTROUTING that takes the packets before the engine's",
        )
    if configured:
        cure = (f"take back {configured.source} {configured.observed} and restart the engine or recreate the network",)
    evidence = [
        Evidence(
            host.name,
            "packet filter, ip nat POSTROUTING",
            f"no rule translates what {end.ip if end else words} sends out through the NIC",
            "MASQUERADE for the subnet of the bridge",
            "iptables -t nat -vnL POSTROUTING --line-numbers",
        ),
        *probe_evidence(broken),
    ]
    return Finding(
        cause=MASQUERADE,
        severity=severity_of(broken),
        confidence=LIKELY,
        hosts=[host.name],
        segment="nat",
        summary=f"{host.name} does not masquerade {words}: containers' packets leave with addresses nobody can answer, "
        f"{len(broken)} pair(s) fail",
        evidence=[configured, *evidence] if configured else evidence,
        explains=pair_ids(broken),
        remedies=[
            (roles.NOBODY if stands or configured else roles.engine_rules(host)).remedy(
                "cure",
                cure,
                "Containers stop with the engine; the single rule interrupts nothing.",
                disruptive=not stands or configured is not None,
            )
        ],
    )


def _taken_before(host: Host, subnet: str | None) -> list[str] | None:
    """How what takes the packets before the engine's rule is deleted; None where the engine's rule does not stand."""
    for chain in host.facts.root.filter.get("chains") or []:
        if (chain["table"], chain.get("hook")) != ("nat", "postrouting"):
            continue
        texts = [rule["text"].lower() for rule in chain["rules"]]
        own = next((n for n, text in enumerate(texts) if subnet and subnet in text and "masquerade" in text), None)
        if own is not None:
            return [_deletion(chain, n + 1) for n in range(own) if {"accept", "return"} & set(texts[n].split())]
    return None


def _deletion(chain: Facts, number: int) -> str:
    """The command that deletes a rule of nat, with the rule's words."""
    tool = "iptables-legacy" if chain["backend"] == "legacy" else "iptables"
    return f"{tool} -t nat -D {chain['name']} {number}   # {chain['rules'][number - 1]['text']}"


def _subnet(host: Host, bridge: str) -> str | None:
    """The connected network of a bridge."""
    link = host.facts.root.link(bridge) or {}
    rows = host.facts.root.facts.get("routes") or []
    found = [r["dst"] for r in rows if r.get("oif") == link.get("index") and r.get("family") == 4 and "/" in r["dst"]]
    return found[0] if found else None


def _configured(host: Host, broken: list[Observation]) -> Evidence | None:
    """The setting that asks for no masquerading, if there is one."""
    if says_no(engine_option(host.facts, "ip-masq")):
        return Evidence(host.name, "engine configuration, ip-masq", "false", "true (the default)")
    ids = {o.pair.network_id for o in broken}
    for network in host.facts.networks:
        if network["id"] in ids and says_no((network.get("options") or {}).get(NO_MASQUERADE)):
            return Evidence(
                host.name,
                f"option {NO_MASQUERADE} of network {network['name']}",
                "false",
                "true (the default)",
                f"docker network inspect {network['name']}",
            )
    return None


def translates_instead(case: Case, finding: Finding) -> str | None:
    """What broke a way out was not the translation: it is there and applies."""
    explained = set(finding.explains)
    pairs = [o for o in case.observations if o.pair.id in explained and o.pair.kind == "egress"]
    tested = {name: translates(case, o) for name, o in {o.pair.src.host: o for o in pairs}.items()}
    if not tested or not all(tested.values()):
        return None
    return f"nat POSTROUTING of {', '.join(sorted(str(name) for name in tested))} translates these packets"


def accepted_instead(case: Case, finding: Finding) -> str | None:
    """What broke a way out was no forward chain: every one of them accepts what the container sends."""
    explained = set(finding.explains)
    pairs = {o.pair.src.host: o for o in case.observations if o.pair.id in explained and o.pair.kind == "egress"}
    for observation in pairs.values():
        outs = [routed.way_out(case, observation, "tcp", p.port) for p in observation.pair.probes if p.layer == "tcp"]
        fate = outs[0].fate() if outs and outs[0] else None
        if fate is None or dict(fate.steps)["forward"].verdict != "accept":
            return None
    names = ", ".join(sorted(str(name) for name in pairs))
    return f"every forward chain of {names} accepts these packets" if pairs else None


# ---- published-port-rule-missing


def decide_published(case: Case) -> t.Iterator[Finding]:
    """Published ports without a translation, or with one that leads to an address no container has."""
    groups: dict[tuple[str, int], list[Observation]] = {}
    for observation in case.observations:
        pair = observation.pair
        if pair.kind in ("published", "hairpin") and pair.dst.host and pair.probes and pair.probes[0].port:
            groups.setdefault((pair.dst.host, pair.probes[0].port), []).append(observation)
    missing: dict[str, list[tuple[int, list[Observation]]]] = {}
    for (name, port), observations in groups.items():
        host = case.host(name)
        container = _publisher(host.facts, port)
        if container is None or not case.filter_is_known(name) or not uses_iptables(host.facts):
            continue
        broken = [o for o in observations if o.broken]
        if _unpublished_by_design(host, container) or (not broken and _stands(host.facts, container, port)):
            continue
        asked = broken or [o for o in observations if o.pair.kind == "published"][:1]
        targets = {o.pair.id: _target(case, host, container, port, o) for o in asked}
        astray = [o for o in asked if targets[o.pair.id] not in (None, "", "right")]
        untranslated = [o for o in asked if targets[o.pair.id] == ""]
        if astray:
            yield _astray(case, host, port, container, str(targets[astray[0].pair.id]), astray)
        elif any(o.pair.kind == "published" or _unanswered(case, host, port, o) for o in untranslated):
            missing.setdefault(name, []).append((port, untranslated))
    for name, rows in missing.items():
        if not _explained_for(case, name):
            yield _missing(case, case.host(name), rows)


def _stands(facts: HostFacts, container: Facts, port: int) -> bool:
    """Whether some rule of nat leads to the container's port, by its words: enough where everything answers."""
    namespace = facts.namespace(container.get("netns"))
    inner = [row["port"] for row in container.get("ports") or [] if row.get("host_port") == port]
    ends = [f"{row['ip']}:{number}" for row in (namespace.addresses if namespace else []) for number in inner]
    tables = [chain for chain in facts.root.filter.get("chains") or [] if chain["table"] not in ("filter", "raw")]
    return any(end in rule["text"] for chain in tables for rule in chain["rules"] for end in ends)


def _target(case: Case, host: Host, container: Facts, port: int, observation: Observation) -> str | None:
    """Where what asks for the port is translated to: "right", elsewhere, nowhere (""); None where nobody can tell."""
    packet = routed.knock(case, observation, "tcp", port)
    after = routed.translated(host, packet) if packet else None
    if after is None:
        return None
    if not after.dnat:
        return ""
    return "right" if _is_at(host.facts, container, after.dst) else f"{after.dst}:{after.dport}"


def _unanswered(case: Case, host: Host, port: int, observation: Observation) -> bool:
    """A container's own host, whose ports it reaches by the engine's proxy alone, has no proxy for this one."""
    if not observation.broken or host.latest.root.listens("tcp", port, host.underlay_ip):
        return False
    return observation.pair.id in {o.pair.id for o in case.unexplained}


def _publisher(facts: HostFacts, port: int) -> Facts | None:
    for container in facts.containers:
        rows = container.get("ports") or []
        if any(row.get("host_port") == port and row.get("protocol", "tcp") == "tcp" for row in rows):
            return container
    return None


def _unpublished_by_design(host: Host, container: Facts) -> bool:
    """A network in mode routed has no translation."""
    ids = {endpoint.get("network_id") for endpoint in container.get("endpoints") or []}
    modes = [(n.get("options") or {}).get(GATEWAY_MODE) for n in host.facts.networks if n["id"] in ids]
    return "routed" in modes or container.get("network_mode") == "host"


def _is_at(facts: HostFacts, container: Facts, ip: str | None) -> bool:
    namespace = facts.namespace(container.get("netns"))
    if namespace is None:
        return True  # not read: nothing speaks against it
    return ip in {row["ip"] for row in namespace.addresses}


def _explained_for(case: Case, name: str) -> bool:
    """The whole table is gone, which has a finding of its own."""
    return any(name in f.hosts and f.cause in (FLUSHED, WITHOUT_IPTABLES) for f in case.findings)


def _astray(
    case: Case, host: Host, port: int, container: Facts, target: str, observations: list[Observation]
) -> Finding:
    open_pairs = {o.pair.id for o in case.unexplained}
    broken = [o for o in observations if o.pair.id in open_pairs]
    whose = routed.holder(host.facts, target.partition(":")[0])
    other = next((c["name"] for c in host.facts.containers if c["id"] == whose), None)
    return _published_finding(
        host,
        [port],
        broken,
        f"Port {port} of {host.name} is translated to {target}, which is "
        + (f"container {other}" if other else "no container's address"),
        f"DNAT to {target} ({other or 'no running container'})",
        f"DNAT to the address of {container['name']}",
        _deletion_of(host, target) if _stands(host.facts, container, port) else None,
    )


def _deletion_of(host: Host, target: str) -> str:
    """How the rule that leads there is deleted: all that is to be done where the engine's own rule stands behind it."""
    for chain in host.facts.root.filter.get("chains") or []:
        for number, rule in enumerate(chain["rules"], 1):
            if chain["table"] == "nat" and target in rule["text"].split() and "dnat" in rule["text"].lower():
                return _deletion(chain, number)
    return "iptables -t nat -D DOCKER NUMBER"


def _missing(case: Case, host: Host, rows: list[tuple[int, list[Observation]]]) -> Finding:
    open_pairs = {o.pair.id for o in case.unexplained}
    broken = [o for _port, observations in rows for o in observations if o.pair.id in open_pairs]
    ports = sorted(port for port, _observations in rows)
    words = ", ".join(str(port) for port in ports)
    if broken and all(o.pair.kind == "hairpin" for o in broken):
        summary = f"No proxy of the engine listens for published port(s) {words} of {host.name}: its own containers "
        summary += "do not reach them there"
        return _published_finding(host, ports, broken, summary, "nothing listens", "docker-proxy, or a DNAT rule")
    how = "nothing else answers" if broken else "the engine's proxy answers instead, with its own source address"
    return _published_finding(
        host,
        ports,
        broken,
        f"Published port(s) {words} of {host.name} have no DNAT rule; {how}",
        f"no rule translates what arrives for {words}",
        "DNAT to the container",
    )


def _published_finding(
    host: Host,
    ports: list[int],
    broken: list[Observation],
    summary: str,
    observed: str,
    expected: str,
    deletion: str | None = None,
) -> Finding:
    verify = f"iptables -t nat -vnL DOCKER --line-numbers; ss -ltnp 'sport = :{ports[0]}'"
    if deletion:  # an engine that misses nothing has no reason to make its rules anew
        manual = [f"on {host.name}: {deletion}"]
        remedy = roles.NOBODY.remedy("cure", manual, "Another rule may have that number by then: look before.")
    else:
        remedy = roles.engine_rules(host).remedy(
            "cure",
            (
                f"on {host.name}: delete a rule that leads astray: iptables -t nat -D DOCKER NUMBER",
                f"on {host.name}: recreate the container, or systemctl restart docker, for the engine's own rule",
            ),
            "Recreating the container interrupts it; restarting the engine interrupts all of the host.",
            disruptive=True,
        )
    return Finding(
        cause=PUBLISHED,
        severity=WARNING if broken and all(o.pair.kind == "hairpin" for o in broken) else severity_of(broken),
        confidence=LIKELY,
        hosts=[host.name],
        segment="nat",
        summary=summary,
        evidence=[
            Evidence(
                host.name,
                "packet filter, ip nat PREROUTING and DOCKER",
                observed,
                expected,
                verify,
            ),
            *probe_evidence(broken),
        ],
        explains=pair_ids(broken),
        remedies=[remedy],
    )


CAUSES: list[Cause] = [
    Cause(
        POLICY,
        "A forward chain's drop policy stops routed container traffic",
        "every forward base chain evaluated for containers' packets and their answers; the policy's counter",
        "FORWARD with policy drop and the engine's accepts is ordinary; the overlay's tunnel never crosses FORWARD",
        decided_with_the_rule,
        remedy="an accept for the bridge in the chain whose policy drops; not a policy of accept",
        rules_out=accepted_instead,
    ),
    Cause(
        DIRECT,
        "The engine (28 and later) drops what is routed to a container's address",
        "rules of raw PREROUTING for one container's address and not from its bridge, and their counters",
        "the rules themselves are ordinary on such engines; published ports are not concerned",
        decide_direct,
        remedy="a published port, or a network with trusted_host_interfaces or gateway mode routed",
    ),
    Cause(
        FILTERED,
        "A rule drops the traffic of one container or port",
        "the filters of the host, of the bridges and of the container's own namespace, evaluated for each broken pair; "
        "rule counters around the probes",
        "what stands in DOCKER-USER is the operator's intent: a warning; rules for other ports, addresses or marks",
        decide_stopped,
        remedy="narrow or remove the rule, in its owner's configuration",
    ),
    Cause(
        FILTERED,
        "A rule that may drop it, and whose counter rose with each burst of probes",
        "rules whose matches cannot be evaluated from outside (limits, sets of addresses, strings)",
        "a counter that other traffic moves",
        decide_maybe_stopped,
        stage=SYMPTOM,
    ),
    Cause(
        PUBLISHED,
        "A published port is translated to the wrong address, or not at all",
        "nat PREROUTING evaluated for what arrives for the port; container addresses",
        "where the rule is missing, the engine's userland proxy answers: nothing is broken; networks in mode routed",
        decide_published,
        remedy="recreate the container, or restart the engine; delete stale rules",
    ),
    Cause(
        MASQUERADE,
        "Containers' packets leave the host untranslated",
        "FORWARD and nat POSTROUTING evaluated for containers' packets; egress pairs",
        "networks that are routed by design: the one asked then has a route back; internal networks",
        decide_masquerade,
        stage=SYMPTOM,
        remedy="restart the engine, or add the MASQUERADE rule; take back ip-masq: false",
        rules_out=translates_instead,
    ),
]

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packets the hosts themselves drop: the tunnel, gossip and management ports against every packet filter.

Each flow the overlay lives on is evaluated over all base chains it crosses, at the sender's output and at the
receiver's input, in whichever table, family, hook and backend. A rule that certainly drops a flow becomes a finding
when that flow's pairs are broken; a rule that might (rate limits, unknown matches) only when nothing else explains
them and its counter moves with our probes, or it is the only candidate.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    CRITICAL,
    LIKELY,
    SYMPTOM,
    WARNING,
    Case,
    Cause,
    Evidence,
    Finding,
    Remedy,
    pair_ids,
    severity_of,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.rule_owner import (
    CALICO,
    Service,
    hidden_in_legacy,
    opening,
    owner_of,
    owner_words,
    rule_source,
    rule_words,
    verify,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import (
    INBOUND,
    OUTBOUND,
    Packet,
    PathFate,
    RuleRef,
    fate,
    path_fate,
    prepare,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.builders import (
    SWARM_GOSSIP_PORT,
    SWARM_MANAGEMENT_PORT,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.deltas import Rise, rise, rule_counter
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Node
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies import roles

TUNNEL, GOSSIP, GOSSIP_UDP, MANAGEMENT, REACH = "tunnel", "gossip", "gossip-udp", "management", "reach"
ASKED = "asked"  # published ports, at the host that asks: told along with what else a rule drops there

CAUSE_OF = {
    TUNNEL: "data-udp-blocked-host-fw",
    GOSSIP: "gossip-7946-blocked",
    GOSSIP_UDP: "gossip-udp-7946-blocked",
    MANAGEMENT: "mgmt-2377-blocked",
}
CARRIES = {
    TUNNEL: "the VXLAN tunnel",
    GOSSIP: "gossip over TCP",
    GOSSIP_UDP: "gossip over UDP",
    MANAGEMENT: "the managers' port",
    REACH: "other host traffic",
}
ORDER = (TUNNEL, GOSSIP, GOSSIP_UDP, MANAGEMENT, REACH, ASKED)


@dataclass(frozen=True)
class Flow:
    """Packets of one purpose from one host to another."""

    purpose: str
    src: str
    dst: str
    protocol: str
    port: int | None
    reply: bool = False

    @property
    def service(self) -> Service:
        return Service(self.protocol, self.port, self.reply)


@dataclass
class Drop:
    """A rule and the flows it stops on one host."""

    host: str
    direction: str
    rule: RuleRef
    certain: bool
    flows: list[Flow] = field(default_factory=list)
    also: dict[str, RuleRef] = field(default_factory=dict)

    @property
    def purpose(self) -> str:
        return min((flow.purpose for flow in self.flows), key=ORDER.index)

    @property
    def peers(self) -> list[str]:
        return sorted({flow.src if flow.dst == self.host else flow.dst for flow in self.flows})


def flows(case: Case, src: Host, dst: Host) -> list[Flow]:
    """What has to travel from one host to the other."""
    found = []
    observation = case.host_pair(src.name, dst.name)
    if case.fleet.tunnel_port:
        found.append(Flow(TUNNEL, src.name, dst.name, "udp", case.fleet.tunnel_port))
    if src.facts.in_swarm and dst.facts.in_swarm:
        found.append(Flow(GOSSIP, src.name, dst.name, "tcp", SWARM_GOSSIP_PORT))
        found.append(Flow(GOSSIP_UDP, src.name, dst.name, "udp", SWARM_GOSSIP_PORT))
        if dst.facts.is_manager:
            found.append(Flow(MANAGEMENT, src.name, dst.name, "tcp", SWARM_MANAGEMENT_PORT))
    for probe in observation.pair.probes if observation else []:
        if probe.expects == "reach":
            found.append(Flow(REACH, src.name, dst.name, probe.layer, probe.port))
    return found + [
        Flow(f.purpose, f.dst, f.src, f.protocol, f.port, reply=True) for f in found if f.protocol in ("tcp", "icmp")
    ]


def _packet(case: Case, flow: Flow, iif: str | None, oif: str | None) -> Packet:
    src, dst = case.host(flow.src).underlay_ip or "", case.host(flow.dst).underlay_ip or ""
    if flow.purpose == TUNNEL and flow.port:
        return Packet.vxlan(src, dst, flow.port, iif=iif, oif=oif)
    family = 6 if ":" in dst else 4
    common: dict[str, t.Any] = {"family": family, "src": src, "dst": dst, "iif": iif, "oif": oif, "ipsec": False}
    if flow.protocol == "icmp":
        common.update(protocol="icmp6" if family == 6 else "icmp", icmp_code=0)
        common["icmp_type"] = {(4, False): 8, (4, True): 0, (6, False): 128, (6, True): 129}[family, flow.reply]
    elif flow.protocol == "tcp":
        # Who asks does so from a port of its kernel's range: an accept for a service does not admit the answers.
        own = case.host(flow.dst if flow.reply else flow.src).facts.root.ephemeral_port
        ports = {"sport": flow.port, "dport": own} if flow.reply else {"sport": own, "dport": flow.port}
        common.update(protocol="tcp", tcp_flags=("syn", "ack") if flow.reply else ("syn",), **ports)
    else:
        common.update(protocol=flow.protocol, dport=flow.port)
    state, direction = (("established",), "reply") if flow.reply else (("new",), "original")
    return Packet(**common, ct_state=state, ct_direction=direction)


def _packet_at(case: Case, flow: Flow, host: str, direction: str) -> Packet:
    """A flow's packet as it arrives at (or leaves) the NIC of a host."""
    link = (case.host(host).underlay_link or {}).get("name")
    return _packet(case, flow, link if direction == "in" else None, link if direction == "out" else None)


_drops: WeakKeyDictionary[Case, list[Drop]] = WeakKeyDictionary()


def drops(case: Case) -> list[Drop]:
    """Every rule of every host that stops a flow between probed hosts, with the flows it stops; evaluated once."""
    if case not in _drops:
        _drops[case] = _evaluate(case)
    return _drops[case]


def _evaluate(case: Case) -> list[Drop]:
    found: dict[tuple[str, str, str, bool], Drop] = {}
    rulesets = {h.name: prepare(h.facts.root.filter) for h in case.fleet.answering if h.facts.root.filter}
    for observation in case.host_pairs:
        src, dst = (case.host(name) for name in observation.pair.hosts if name)
        for flow in flows(case, src, dst):
            for host, direction, path in ((flow.src, "out", OUTBOUND), (flow.dst, "in", INBOUND)):
                if host not in rulesets:
                    continue
                packet = _packet_at(case, flow, host, direction)
                _record(found, host, direction, flow, path_fate(rulesets[host], packet, path))
    for observation in _published(case):
        for probe in observation.pair.probes:
            src, dst = (case.host(name) for name in observation.pair.hosts if name)
            question = Flow(ASKED, src.name, dst.name, "tcp", probe.port)
            answer = Flow(ASKED, dst.name, src.name, "tcp", probe.port, reply=True)
            for flow, direction, path in ((question, "out", OUTBOUND), (answer, "in", INBOUND)):
                if probe.layer == "tcp" and src.name in rulesets:
                    packet = _packet_at(case, flow, src.name, direction)
                    _record(found, src.name, direction, flow, path_fate(rulesets[src.name], packet, path))
    return list(found.values())


def _published(case: Case) -> list[Observation]:
    """What hosts ask of other hosts' published ports."""
    return [o for o in case.observations if o.pair.kind == "published" and all(o.pair.hosts)]


def _record(
    found: dict[tuple[str, str, str, bool], Drop], host: str, direction: str, flow: Flow, outcome: PathFate
) -> None:
    if outcome.verdict == "accept":
        return
    certain = bool(outcome.verdict == "drop" and outcome.drops)
    for rule in outcome.drops[:1] if certain else outcome.may_drop:
        drop = found.setdefault((host, direction, rule.ref, certain), Drop(host, direction, rule, certain))
        drop.flows.append(flow)
        if certain:
            drop.also.update({other.ref: other for other in outcome.drops[1:]})


def victims(case: Case, drop: Drop) -> list[Observation]:
    """Broken pairs that lose packets to this rule."""
    found: dict[str, Observation] = {}
    for flow in drop.flows:
        for observation in _pairs_of(case, flow):
            if observation.broken:
                found[observation.pair.id] = observation
    overlay = [o for o in found.values() if o.pair.kind == "overlay"]
    if all(_encrypted(case, o) for o in overlay):
        # What an encrypted network sends is ESP on the way; what then comes out of it is another cause's.
        return [o for o in found.values() if o not in overlay]
    return list(found.values())


def _encrypted(case: Case, observation: Observation) -> bool:
    network = case.fleet.networks.get(observation.pair.network_id or "")
    return network is not None and "encrypted" in network.options


def _pairs_of(case: Case, flow: Flow) -> list[Observation]:
    asked = case.host_pair(flow.dst, flow.src) if flow.reply else case.host_pair(flow.src, flow.dst)
    own = [asked] if asked is not None and _layer_failed(asked, flow) else []
    if flow.purpose == ASKED:
        ends = (flow.dst, flow.src) if flow.reply else (flow.src, flow.dst)
        return [o for o in _published(case) if o.pair.hosts == ends and _layer_failed(o, flow)]
    if flow.purpose == TUNNEL:
        return own + case.between(flow.src, flow.dst)
    if flow.purpose == GOSSIP:
        # Without gossip the engines withdraw each other's neighbours and forwarding entries.
        return own + [o for o in case.between(flow.src, flow.dst) if withdrawn(case, o)]
    return own


def _layer_failed(observation: Observation, flow: Flow) -> bool:
    key = f"{flow.protocol}:{flow.port}" if flow.port else flow.protocol
    return observation.layers().get(key) == "failed"


def withdrawn(case: Case, observation: Observation) -> bool:
    """The kernel at one end no longer knows the other: gossip took the entry back, for the question or the answer."""
    pair = observation.pair
    return any(
        _unknown(case, pair.network_id, one, other) for one, other in ((pair.src, pair.dst), (pair.dst, pair.src))
    )


def _unknown(case: Case, network_id: str | None, one: Node, other: Node) -> bool:
    if one.host is None or network_id is None or other.ip is None:
        return False
    for snapshot in case.host(one.host).readings:
        namespace = snapshot.overlay_namespace(network_id)
        links = namespace.vxlan_links if namespace else []
        if other.ip not in {ip for link in links for ip in namespace.neighbours(link["index"])}:  # type: ignore[union-attr]
            return True
    return False


def contradicted(case: Case, drop: Drop) -> bool:
    """The flow demonstrably arrives: whatever the rule says, it does not stop this traffic."""
    for flow in drop.flows:
        if flow.purpose != drop.purpose:
            continue
        pairs = case.between(flow.src, flow.dst) if flow.purpose == TUNNEL else _asked(case, flow)
        if any(o.verdict() == "ok" for o in pairs):
            return True
    return False


def _asked(case: Case, flow: Flow) -> list[Observation]:
    asked = case.host_pair(flow.dst, flow.src) if flow.reply else case.host_pair(flow.src, flow.dst)
    key = f"{flow.protocol}:{flow.port}" if flow.port else flow.protocol
    return [asked] if asked is not None and asked.layers().get(key) == "ok" else []


def _certain(case: Case) -> dict[tuple[str, str, str], list[Drop]]:
    """(host, direction, purpose) -> the rules that drop such flows for certain; gossip over both protocols is one."""
    groups: dict[tuple[str, str, str], list[Drop]] = {}
    for drop in drops(case):
        if drop.certain and not contradicted(case, drop):
            groups.setdefault((drop.host, drop.direction, drop.purpose), []).append(drop)
    for (host, direction, purpose), members in groups.items():
        if purpose == GOSSIP:
            members.extend(groups.get((host, direction, GOSSIP_UDP), []))
    return {
        (host, direction, purpose): members
        for (host, direction, purpose), members in groups.items()
        if purpose != GOSSIP_UDP or (host, direction, GOSSIP) not in groups
    }


def decide(*purposes: str) -> t.Callable[[Case], t.Iterator[Finding]]:
    """Rules that certainly drop a flow of these purposes."""

    def decide_purposes(case: Case) -> t.Iterator[Finding]:
        for (_host, _direction, purpose), members in _certain(case).items():
            if purpose in purposes:
                yield _finding(case, members)

    return decide_purposes


def decide_reach(case: Case) -> t.Iterator[Finding]:
    """Rules that drop every probe between hosts, so that nothing can be told of what else passes."""
    for (_host, _direction, purpose), members in _certain(case).items():
        for drop in members if purpose == REACH else []:
            broken = victims(case, drop)
            if broken and all(not o.reached for o in broken):
                yield _reach_finding(case, drop, broken)


def decide_possible(case: Case) -> t.Iterator[Finding]:
    """Rules that might drop: only for pairs still unexplained, by counter or as the one candidate."""
    open_pairs = {o.pair.id for o in case.unexplained}
    candidates = [d for d in drops(case) if not d.certain and d.purpose in CAUSE_OF and not contradicted(case, d)]
    for drop in candidates:
        broken = [o for o in victims(case, drop) if o.pair.id in open_pairs]
        rivals = [d for d in candidates if d is not drop and {o.pair.id for o in victims(case, d)} & open_pairs]
        moved = _moved(case, drop)
        if broken and ((moved is not None and moved.tied) or (not rivals and (moved is None or moved.rose))):
            yield _finding(case, [drop])


def _moved(case: Case, drop: Drop) -> Rise | None:
    host = case.host(drop.host)
    return rise(host, host.facts.root.key, rule_counter(drop.rule.ref))


def _name_of(case: Case, drop: Drop, accepting: str | None) -> str:
    """What a rule that stops the tunnel is called: by who made it, and by what hides it."""
    if hidden_in_legacy(drop.rule, case.host(drop.host)):
        return "legacy-nft-mix"
    if drop.purpose != TUNNEL:
        return CAUSE_OF[drop.purpose]
    if owner_of(drop.rule, case.host(drop.host)) == CALICO and "VXLAN" in (drop.rule.comment or ""):
        return "calico-drops-foreign-vxlan"
    return "nft-basechain-override" if accepting else CAUSE_OF[TUNNEL]


def _hint(cause: str, accepting: str | None) -> str:
    if cause == "legacy-nft-mix":
        return "; in iptables-legacy, where nft and iptables do not show it"
    return f"; that {accepting.partition(':')[0]} accepts it does not help" if accepting else ""


def accepted_elsewhere(case: Case, drop: Drop) -> str | None:
    """Another base chain of the same hook that accepts the tunnel by a rule of its own: its name, and the rule."""
    flow = next((flow for flow in drop.flows if flow.purpose == TUNNEL), None)
    facts = case.host(drop.host).facts.root.filter
    if flow is None or not drop.certain:
        return None
    packet = _packet_at(case, flow, drop.host, drop.direction)
    chains = facts.get("chains") or []
    for base in chains:
        if base.get("hook") != drop.rule.hook or base["ref"] == drop.rule.base or base.get("type") == "nat":
            continue
        if _accepts(facts, base, base["rules"], packet):
            # The one rule that does, where it is the base chain's own.
            alone = (rule for rule in base["rules"] if _accepts(facts, base, [rule], packet))
            rule = next(alone, None)
            return f"{base['family']} {base['table']} {base['name']}" + (f": `{rule['text']}`" if rule else "")
    return None


def _accepts(facts: dict[str, t.Any], base: dict[str, t.Any], rules: list[t.Any], packet: Packet) -> bool:
    """Whether these rules of a base chain, alone and with a policy of drop, let the packet pass for certain."""
    kept = [{**base, "rules": rules, "policy": "drop"}]
    kept += [chain for chain in facts["chains"] if not chain.get("hook")]
    return fate({**facts, "chains": kept}, packet, base["hook"]).verdict == "accept"


def _finding(case: Case, members: list[Drop]) -> Finding:
    """One finding for all rules that stop the same purpose on one host in one direction."""
    first = min(members, key=lambda drop: ORDER.index(drop.purpose))
    broken = list({o.pair.id: o for drop in members for o in victims(case, drop)}.values())
    moves = [_moved(case, drop) for drop in members]
    ports = ", ".join(sorted({flow.service.words for drop in members for flow in _needed(case, drop)}))
    peers = sorted({peer for drop in members for peer in drop.peers})
    where = "arriving from" if first.direction == "in" else "leaving for"
    more = f" and {len(members) - 1} more" if len(members) > 1 else ""
    severity = WARNING if first.purpose == GOSSIP_UDP and not broken else severity_of(broken)
    host = case.host(first.host)
    owner = owner_of(first.rule, host)
    accepting = accepted_elsewhere(case, first)
    cause = _name_of(case, first, accepting)
    evidence = [_rule_evidence(case, drop, moved) for drop, moved in zip(members, moves, strict=True)]
    if accepting:
        evidence.append(
            Evidence(
                first.host,
                f"packet filter, another base chain of hook {first.rule.hook}",
                f"{accepting} accepts it, which does not help: an accept ends its own base chain only",
                "accepted in every base chain of the hook",
                "nft -a list ruleset",
            )
        )
    for other in {ref: rule for drop in members for ref, rule in drop.also.items()}.values():
        evidence.append(
            Evidence(
                first.host,
                rule_source(other, owner_of(other, host)),
                rule_words(other),
                "no further rule drops it",
                verify(other),
            )
        )
    return Finding(
        cause=cause,
        severity=severity,
        confidence=CONFIRMED if broken and any(moved is not None and moved.tied for moved in moves) else LIKELY,
        hosts=[first.host],
        segment=f"host-filter-{first.direction}",
        direction=first.direction,
        summary=f"{first.host} drops {ports} ({CARRIES[first.purpose]}) {where} {', '.join(peers)}: "
        f"{rule_words(first.rule)}{more}{owner_words(owner)}{_hint(cause, accepting)}",
        evidence=evidence + _probe_evidence(broken),
        explains=pair_ids(broken),
        remedies=_remedies(case, members),
    )


def _reach_finding(case: Case, drop: Drop, broken: list[Observation]) -> Finding:
    return Finding(
        cause="unexplained-loss",
        severity=CRITICAL,
        confidence=LIKELY,
        hosts=[drop.host],
        segment=f"host-filter-{drop.direction}",
        direction=drop.direction,
        summary=f"{drop.host} drops every probe of {', '.join(drop.peers)} by its packet filter: "
        f"{rule_words(drop.rule)}; whether the tunnel passes cannot be told",
        evidence=[_rule_evidence(case, drop, None), *_probe_evidence(broken)],
        explains=pair_ids(broken),
        remedies=[_remedy(roles.NOBODY, _opening(case, [drop]))],
    )


def _rule_evidence(case: Case, drop: Drop, moved: t.Any) -> Evidence:
    counted = f"; counter {moved}" if moved is not None else "; it has no counter"
    handle = f" handle {drop.rule.handle}" if drop.rule.handle is not None else ""
    return Evidence(
        drop.host,
        rule_source(drop.rule, owner_of(drop.rule, case.host(drop.host))),
        f"{rule_words(drop.rule)}{handle}{counted}",
        "accepted from the peers of the fleet",
        verify(drop.rule),
    )


def _probe_evidence(broken: list[Observation]) -> list[Evidence]:
    """The first broken pair, in numbers."""
    for observation in broken[:1]:
        failed = observation.failed_layers()
        results = [f"{key} {observation.results[key]['status']}" for key in failed if key in observation.results]
        return [
            Evidence(
                observation.pair.src.host,
                f"probes {observation.pair.id}",
                f"{', '.join(results)}; {len(broken)} pair(s) broken",
                "answered",
            )
        ]
    return []


def _remedies(case: Case, members: list[Drop]) -> list[Remedy]:
    """One for each owner of a base chain that has to accept what these rules drop."""
    first = members[0]
    host = case.host(first.host)
    rules = {rule.ref: rule for drop in members for rule in (drop.rule, *drop.also.values())}
    carried = {flow.service for drop in members for flow in _needed(case, drop)}
    peers = [*roles.peers_of(case, host.name), *(case.host(name).underlay_ip for d in members for name in d.peers)]
    steps = roles.firewall_ports(host, rules.values(), first.direction, carried, peers)
    return [_remedy(step, _opening(case, members)) for step in steps]


def _needed(case: Case, drop: Drop) -> list[Flow]:
    """What has to pass: all that the Swarm lives on, and of what else the host asks what fails."""
    return [
        flow
        for flow in drop.flows
        if flow.purpose in CAUSE_OF or (flow.purpose == ASKED and any(o.broken for o in _pairs_of(case, flow)))
    ]


def _remedy(step: roles.Step, manual: list[str]) -> Remedy:
    return step.remedy(
        "cure",
        manual,
        "Accept from the peers' addresses only: VXLAN is not authenticated, whoever may send to the tunnel port can "
        "put frames into every unencrypted overlay.",
    )


def _opening(case: Case, members: list[Drop]) -> list[str]:
    """By hand: each rule in the words of its owner."""
    lines = []
    for drop in members:
        peers = [case.host(name).underlay_ip or name for name in drop.peers]
        dropped = _needed(case, drop) or drop.flows
        services = sorted({flow.service for flow in dropped if flow.port}, key=lambda one: (one.answers, one))
        owner = owner_of(drop.rule, case.host(drop.host))
        lines += opening(drop.rule, owner, drop.host, drop.direction, peers, services)
    return list(dict.fromkeys(lines))


def passed_instead(case: Case, finding: Finding) -> str | None:
    """The filters of both ends of a finding's overlay pairs let the tunnel pass, in and out."""
    explained = set(finding.explains)
    pairs = {o.pair.hosts for o in case.observations if o.pair.id in explained and o.pair.kind == "overlay"}
    hosts = sorted({name for ends in pairs for name in ends if name})
    if not hosts or not case.fleet.tunnel_port or not all(case.filter_is_known(name) for name in hosts):
        return None
    dropped = {(f.src, f.dst) for drop in drops(case) for f in drop.flows if f.purpose == TUNNEL}
    if any(ends in dropped or ends[::-1] in dropped for ends in pairs):
        return None
    words = f"{', '.join(hosts[:4])}{' and others' if len(hosts) > 4 else ''}"
    return f"the packet filters of {words} let udp/{case.fleet.tunnel_port} pass in and out"


CAUSES = [
    Cause(
        "data-udp-blocked-host-fw",
        "A host's own packet filter drops the VXLAN tunnel port (or what it shares a rule with)",
        "base chains at the sender's output and the receiver's input; rule counters around the probes; overlay pairs",
        "a rule for other ports; an accept in one base chain does not help against a drop in another; 'established' "
        "never admits VXLAN",
        decide(TUNNEL),
        remedy="accept the port from the peers' addresses only, in the words of the rule's owner",
        rules_out=passed_instead,
    ),
    Cause(
        "gossip-7946-blocked",
        "A host's own packet filter drops gossip",
        "base chains at the sender's output and the receiver's input for 7946 and its answers; withdrawn entries",
        "a node without a task on a network is missing among its peers by design",
        decide(GOSSIP),
        remedy="accept 7946, TCP and UDP, from the other nodes",
    ),
    Cause(
        "gossip-udp-7946-blocked",
        "A host's own packet filter drops gossip over UDP",
        "base chains at the sender's output and the receiver's input for udp/7946",
        "gossip over TCP keeps the nodes alive: nothing breaks at once",
        decide(GOSSIP_UDP),
        remedy="accept 7946 over UDP from the other nodes",
    ),
    Cause(
        "mgmt-2377-blocked",
        "A host's own packet filter drops the managers' port",
        "base chains at the sender's output and the manager's input for 2377, the manager's list of nodes",
        "a node that a manager calls Down still carries traffic",
        decide(MANAGEMENT),
        remedy="accept 2377 over TCP on the managers from the other nodes",
    ),
    Cause(
        "unexplained-loss",
        "A host's own packet filter drops every probe",
        "base chains at the sender's output and the receiver's input for each probe",
        "a host that answers no echo may still carry the tunnel",
        decide_reach,
        remedy="permit echo between the hosts, or let a capture tell what passes",
    ),
    Cause(
        "data-udp-blocked-host-fw",
        "A rule that may drop the flow, decided by its counter or as the only candidate",
        "rules whose matches cannot be evaluated from outside",
        "several candidates: then nothing is said",
        decide_possible,
        stage=SYMPTOM,
    ),
]

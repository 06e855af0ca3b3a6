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
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import (
    INBOUND,
    OUTBOUND,
    Packet,
    RuleRef,
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

TUNNEL, GOSSIP, GOSSIP_UDP, MANAGEMENT, REACH = "tunnel", "gossip", "gossip-udp", "management", "reach"

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
ORDER = (TUNNEL, GOSSIP, GOSSIP_UDP, MANAGEMENT, REACH)


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
    def words(self) -> str:
        return f"{self.protocol}/{self.port}" if self.port else self.protocol


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
    elif flow.reply:
        common.update(protocol=flow.protocol, sport=flow.port)
    else:
        common.update(protocol=flow.protocol, dport=flow.port)
    if flow.protocol == "tcp":
        common["tcp_flags"] = ("syn", "ack") if flow.reply else ("syn",)
    state, direction = (("established",), "reply") if flow.reply else (("new",), "original")
    return Packet(**common, ct_state=state, ct_direction=direction)


def drops(case: Case) -> list[Drop]:
    """Every rule of every host that stops a flow between probed hosts, with the flows it stops."""
    found: dict[tuple[str, str, str, bool], Drop] = {}
    rulesets = {h.name: prepare(h.facts.root.filter) for h in case.fleet.answering if h.facts.root.filter}
    for observation in case.host_pairs:
        src, dst = (case.host(name) for name in observation.pair.hosts if name)
        for flow in flows(case, src, dst):
            for host, direction, path in ((flow.src, "out", OUTBOUND), (flow.dst, "in", INBOUND)):
                if host not in rulesets:
                    continue
                link = (case.host(host).underlay_link or {}).get("name")
                packet = _packet(case, flow, link if direction == "in" else None, link if direction == "out" else None)
                fate = path_fate(rulesets[host], packet, path)
                _record(found, host, direction, flow, fate)
    return list(found.values())


def _record(found: dict[tuple[str, str, str, bool], Drop], host: str, direction: str, flow: Flow, fate: t.Any) -> None:
    if fate.verdict == "accept":
        return
    certain = bool(fate.verdict == "drop" and fate.drops)
    for rule in fate.drops[:1] if certain else fate.may_drop:
        drop = found.setdefault((host, direction, rule.ref, certain), Drop(host, direction, rule, certain))
        drop.flows.append(flow)
        if certain:
            drop.also.update({other.ref: other for other in fate.drops[1:]})


def victims(case: Case, drop: Drop) -> list[Observation]:
    """Broken pairs that lose packets to this rule."""
    found: dict[str, Observation] = {}
    for flow in drop.flows:
        for observation in _pairs_of(case, flow):
            if observation.broken:
                found[observation.pair.id] = observation
    return list(found.values())


def _pairs_of(case: Case, flow: Flow) -> list[Observation]:
    asked = case.host_pair(flow.dst, flow.src) if flow.reply else case.host_pair(flow.src, flow.dst)
    own = [asked] if asked is not None and _layer_failed(asked, flow) else []
    if flow.purpose == TUNNEL:
        return own + case.between(flow.src, flow.dst)
    if flow.purpose == GOSSIP:
        # Without gossip the engines withdraw each other's neighbours and forwarding entries.
        return own + [o for o in case.between(flow.src, flow.dst) if _withdrawn(case, o)]
    return own


def _layer_failed(observation: Observation, flow: Flow) -> bool:
    key = f"{flow.protocol}:{flow.port}" if flow.port else flow.protocol
    return observation.layers().get(key) == "failed"


def _withdrawn(case: Case, observation: Observation) -> bool:
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


def decide(case: Case) -> t.Iterator[Finding]:
    """Rules that certainly drop a flow the overlay needs."""
    groups: dict[tuple[str, str, str], list[Drop]] = {}
    for drop in drops(case):
        if not drop.certain or contradicted(case, drop):
            continue
        if drop.purpose == REACH:
            broken = victims(case, drop)
            if broken and all(not o.reached for o in broken):
                yield _reach_finding(case, drop, broken)
            continue
        groups.setdefault((drop.host, drop.direction, drop.purpose), []).append(drop)
    for (host, direction, purpose), members in groups.items():
        if purpose == GOSSIP_UDP and (host, direction, GOSSIP) in groups:
            continue
        udp = groups.get((host, direction, GOSSIP_UDP), []) if purpose == GOSSIP else []
        yield _finding(case, members + udp)


def decide_possible(case: Case) -> t.Iterator[Finding]:
    """Rules that might drop: only for pairs still unexplained, by counter or as the one candidate."""
    open_pairs = {o.pair.id for o in case.unexplained}
    candidates = [d for d in drops(case) if not d.certain and d.purpose != REACH and not contradicted(case, d)]
    for drop in candidates:
        broken = [o for o in victims(case, drop) if o.pair.id in open_pairs]
        rivals = [d for d in candidates if d is not drop and {o.pair.id for o in victims(case, d)} & open_pairs]
        moved = _moved(case, drop)
        if broken and ((moved is not None and moved.tied) or (not rivals and (moved is None or moved.rose))):
            yield _finding(case, [drop])


def _moved(case: Case, drop: Drop) -> Rise | None:
    host = case.host(drop.host)
    return rise(host, host.facts.root.key, rule_counter(drop.rule.ref))


def _finding(case: Case, members: list[Drop]) -> Finding:
    """One finding for all rules that stop the same purpose on one host in one direction."""
    first = min(members, key=lambda drop: ORDER.index(drop.purpose))
    broken = list({o.pair.id: o for drop in members for o in victims(case, drop)}.values())
    moves = [_moved(case, drop) for drop in members]
    carried = [flow for drop in members for flow in drop.flows if flow.purpose != REACH]
    ports = ", ".join(sorted({flow.words for flow in carried}))
    peers = sorted({peer for drop in members for peer in drop.peers})
    where = "arriving from" if first.direction == "in" else "leaving for"
    more = f" and {len(members) - 1} more" if len(members) > 1 else ""
    severity = WARNING if first.purpose == GOSSIP_UDP and not broken else severity_of(broken)
    evidence = [_rule_evidence(drop, moved) for drop, moved in zip(members, moves, strict=True)]
    for other in {ref: rule for drop in members for ref, rule in drop.also.items()}.values():
        evidence.append(
            Evidence(first.host, _rule_source(other), _rule_words(other), "no further rule drops it", _verify(other))
        )
    return Finding(
        cause=CAUSE_OF[first.purpose],
        severity=severity,
        confidence=CONFIRMED if broken and any(moved is not None and moved.tied for moved in moves) else LIKELY,
        hosts=[first.host],
        segment=f"host-filter-{first.direction}",
        direction=first.direction,
        summary=f"{first.host} drops {ports} ({CARRIES[first.purpose]}) {where} {', '.join(peers)}: "
        f"{_rule_words(first.rule)}{more}",
        evidence=evidence + _probe_evidence(broken),
        explains=pair_ids(broken),
        remedies=[_remedy(case, drop) for drop in members[:1]],
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
        f"{_rule_words(drop.rule)}; whether the tunnel passes cannot be told",
        evidence=[_rule_evidence(drop, None), *_probe_evidence(broken)],
        explains=pair_ids(broken),
        remedies=[_remedy(case, drop)],
    )


def _rule_words(rule: RuleRef) -> str:
    if rule.why == "policy":
        return f"policy {rule.verdict} of {rule.family} {rule.table} {rule.chain}"
    comment = f' (comment "{rule.comment}")' if rule.comment else ""
    return f"rule `{rule.text}` in {rule.family} {rule.table} {rule.chain}{comment}"


def _rule_source(rule: RuleRef) -> str:
    return f"packet filter, {rule.backend} {rule.family} {rule.table} {rule.chain}, hook {rule.hook}"


def _rule_evidence(drop: Drop, moved: t.Any) -> Evidence:
    counted = f"; counter {moved}" if moved is not None else "; it has no counter"
    handle = f" handle {drop.rule.handle}" if drop.rule.handle is not None else ""
    return Evidence(
        drop.host,
        _rule_source(drop.rule),
        f"{_rule_words(drop.rule)}{handle}{counted}",
        "accepted from the peers of the fleet",
        _verify(drop.rule),
    )


def _verify(rule: RuleRef) -> str:
    if rule.backend == "legacy":
        tool = "ip6tables-legacy" if rule.family == "ip6" else "iptables-legacy"
        return f"{tool} -t {rule.table} -vnL {rule.chain} --line-numbers"
    if rule.family in ("ip", "ip6") and rule.table in ("filter", "nat", "mangle", "raw", "security"):
        tool = "ip6tables" if rule.family == "ip6" else "iptables"
        return f"{tool} -t {rule.table} -vnL {rule.chain} --line-numbers"
    return f"nft -a list chain {rule.family} {rule.table} {rule.chain}"


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


def _remedy(case: Case, drop: Drop) -> Remedy:
    peers = [case.host(name).underlay_ip or name for name in drop.peers]
    ports = sorted({(flow.protocol, flow.port) for flow in drop.flows if flow.port and not flow.reply})
    steps = [
        (
            f"On {drop.host}, in the chain that drops ({drop.rule.family} {drop.rule.table} {drop.rule.chain}, "
            "managed by its owner: firewalld, ufw, nftables.conf or iptables), accept before the dropping rule:"
        )
    ]
    side, ends = ("saddr", "from") if drop.direction == "in" else ("daddr", "to")
    for protocol, port in ports:
        steps.append(
            f"  {ends} {', '.join(peers)}: {protocol}/{port}  (nft: ip {side} {{ {', '.join(peers)} }} "
            f"{protocol} dport {port} accept)"
        )
    return Remedy(
        "cure",
        tuple(steps),
        "Accept from the peers' addresses only: VXLAN is not authenticated, whoever may send to the tunnel port can "
        "put frames into every unencrypted overlay.",
    )


CAUSES = [
    Cause(
        "data-udp-blocked-host-fw",
        "A host's own packet filter drops the VXLAN tunnel port (or what it shares a rule with)",
        "base chains at the sender's output and the receiver's input; rule counters around the probes; overlay pairs",
        "a rule for other ports; an accept in one base chain does not help against a drop in another; 'established' "
        "never admits VXLAN",
        decide,
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

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What becomes of packets between two NICs, and of tunnel packets that arrive and are not taken.

Traces decide where there are any: which hop saw a packet, which did not, and what it looked like there. Without them
counters and filters say as much as they can, and no more.
"""

from __future__ import annotations

import ipaddress
import typing as t
from collections import Counter
from dataclasses import dataclass, field

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    AFTERMATH,
    CONFIRMED,
    CRITICAL,
    LIKELY,
    POSSIBLE,
    TRACED,
    Case,
    Cause,
    Evidence,
    Facts,
    Finding,
    Remedy,
    culprits,
    pair_ids,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.packet_filter import TUNNEL, Drop, drops
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.rule_owner import rule_words
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.traced import (
    at,
    behind_nic,
    between_nics,
    broken_traces,
    dropping_rules,
    hidden_by,
    is_encrypted,
    outers,
    reasons,
    rule_text,
    trace_evidence,
    well_addressed,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.deltas import Rise, link_counter, rise
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.hops import CONTAINER, NIC, Hop
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace import LABEL, Broken, Trace

HEADER_ANOMALIES = {
    "i-flag-unset": "a header without the flag that says the VNI is valid",
    "vni-zero": "VNI 0",
    "vni-unknown": "a VNI no device of the receiver has",
}
VXLAN_FLAG = 0x08  # the I flag: the VNI is valid (RFC 7348 section 5)
UNRESOLVED = {"failed", "incomplete"}
# Findings beside which a loss on the network is a second fault on the same path: rules of a host's own filter.
BESIDE = {"host-filter-in", "host-filter-out"}

Lost = tuple[str, str]  # from host, to host
Changed = tuple[Observation, Trace, str, str]  # outer source as it left and as it arrived


@dataclass
class Way:
    """Packets that one host sent to another and that did not come through."""

    pairs: list[Observation] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)


def ends(observation: Observation) -> Lost:
    return str(observation.pair.src.host), str(observation.pair.dst.host)


def crossing(observations: t.Iterable[Observation], kinds: t.Container[str] = ("overlay",)) -> list[Observation]:
    """Those that go from one host of the fleet to another."""
    return [
        o for o in observations if o.pair.kind in kinds and None not in o.pair.hosts and len(set(o.pair.hosts)) == 2
    ]


def _settled(case: Case, observation: Observation) -> bool:
    """A finding explains the pair by something else than a host's filter: what taps miss may well be its doing."""
    explaining = [f for f in case.findings if observation.pair.id in f.explains]
    return any(f.segment not in BESIDE for f in explaining)


def _other_way_in(case: Case, name: str) -> list[str]:
    """Other NICs of a host that share a subnet with its underlay's: the tunnel may arrive there, and no tap saw it."""
    host = case.host(name)
    own, rows = host.underlay_link or {}, host.facts.root.addresses
    subnets = {_subnet(row) for row in rows if row["index"] == own.get("index") and row["family"] == 4}
    found = {row["index"] for row in rows if row["index"] != own.get("index") and _subnet(row) in subnets}
    links = [host.facts.root.link_by_index.get(index) or {} for index in found]
    return sorted(str(link["name"]) for link in links if link.get("up") and link.get("kind") != "bridge")


def _subnet(row: Facts) -> str | None:
    return str(ipaddress.ip_network(f"{row['ip']}/{row['prefix']}", strict=False)) if row.get("prefix") else None


# ---- the network between the hosts drops the tunnel


def decide_blocked(case: Case) -> t.Iterator[Finding]:
    """The tunnel's port is lost between two NICs, while other traffic between the hosts passes."""
    candidates = [o for o in crossing(case.broken) if not _settled(case, o) and case.underlay_works(*ends(o))]
    ways: dict[Lost, Way] = {}
    for observation, trace, broken in broken_traces(case, candidates):
        if between_nics(broken) and well_addressed(case, trace, broken) and not hidden_by(case, broken.missing):
            way = ways.setdefault((broken.last.host, broken.missing.host), Way())  # type: ignore[union-attr]
            way.pairs.append(observation)
            way.traces.append(trace)
    traced = list(_blocked_by_traces(case, ways))
    yield from traced
    yield from _blocked_by_counters(case, {pair for finding in traced for pair in finding.explains})


def _places(failing: list[Lost], working: list[Lost]) -> list[frozenset[str]]:
    """The culprits; all hosts together, as one place, where the tunnel passes between no two of many."""
    places = culprits(failing, working)
    hosts = {name for way in failing for name in way}
    if len(places) > 1 and not any(set(way) <= hosts for way in working):
        return [frozenset(hosts)]
    return places


def _within(place: frozenset[str], way: Lost) -> bool:
    """A way that a place is to blame for: it begins or ends at its one host, or leads between its hosts."""
    return place <= set(way) or set(way) <= place


def _blocked_by_traces(case: Case, ways: dict[Lost, Way]) -> t.Iterator[Finding]:
    working = [ends(o) for o in crossing(case.observations) if o.verdict() in ("ok", "degraded")]
    for place in _places(list(ways), working):
        lost = {way: found for way, found in ways.items() if _within(place, way)}
        between = {frozenset(way) for way in lost}
        same = [o for o in crossing(case.unexplained) if case.trace(o) is None]
        same = [o for o in same if frozenset(ends(o)) in between or (len(place) > 2 and set(ends(o)) <= place)]
        pairs = [o for way in lost.values() for o in way.pairs] + same
        doubt = [nic for _src, dst in lost for nic in _other_way_in(case, dst)]
        yield _blocked_finding(case, place, list(lost), pairs, LIKELY if doubt else CONFIRMED, _by_trace(lost))


def _by_trace(lost: dict[Lost, Way]) -> list[Evidence]:
    rows: list[Evidence] = []
    for way in list(lost.values())[:2]:
        rows += trace_evidence(way.traces[0])[:2]
    return rows


def _blocked_by_counters(case: Case, known: set[str]) -> t.Iterator[Finding]:
    """Without traces: sent by the one VXLAN device, not received by the other, and no host's filter in between."""
    reached = {frozenset(ends(o)) for o in crossing(case.observations) if o.reached}
    failing = [
        o
        for o in crossing(case.unexplained)
        if o.pair.id not in known
        and frozenset(ends(o)) not in reached
        and case.trace(o) is None
        and not is_encrypted(case, o)
        and case.underlay_works(*ends(o))
        and _sends(case, o)
    ]
    working: list[Lost] = [tuple(sorted(pair)) for pair in reached]  # type: ignore[misc]
    for place in _places([ends(o) for o in failing], working):
        pairs = [o for o in failing if _within(place, ends(o))]
        hosts = sorted({name for o in pairs for name in ends(o)})
        unread = [name for name in hosts if not case.filter_is_known(name)]
        suspects = [d for d in drops(case) if _for_tunnel(d) and d.host in hosts]
        programs = [words for o in pairs[:1] for words in _programs(case, o)]
        if suspects or programs:
            continue  # a rule that may drop it, or a program: nobody can tell without a tap
        ways = _directions(case, place, pairs)
        sure = LIKELY if not unread and _silent(case, pairs) else POSSIBLE
        yield _blocked_finding(case, place, ways, pairs, sure, _by_counters(case, pairs))


def _programs(case: Case, observation: Observation) -> list[str]:
    found = []
    for name in ends(observation):
        host = case.host(name)
        link = host.underlay_link
        if link is not None:
            found += hidden_by(case, Hop(NIC, name, host.facts.root.key, link["index"]))
    return found


def device_rise(case: Case, host_name: str, network_id: str | None, counter: str) -> Rise | None:
    """How a counter of the one VXLAN device that a host has for a network moved."""
    host = case.host(host_name)
    namespace = host.facts.overlay_namespace(network_id or "")
    links = namespace.vxlan_links if namespace else []
    if namespace is None or len(links) != 1:
        return None
    return rise(host, namespace.key, link_counter(links[0]["index"], counter))


def _sends(case: Case, observation: Observation) -> bool:
    moved = device_rise(case, ends(observation)[0], observation.pair.network_id, "tx_packets")
    return moved is not None and all(burst > 0 for burst in moved.bursts)


def _receives(case: Case, host: str, network_id: str | None) -> bool | None:
    moved = device_rise(case, host, network_id, "rx_packets")
    return None if moved is None else moved.rose


def _silent(case: Case, pairs: list[Observation]) -> bool:
    """Some receiver got nothing at all, although it was sent to in each burst."""
    return any(_receives(case, ends(o)[1], o.pair.network_id) is False for o in pairs)


def _directions(case: Case, place: frozenset[str], pairs: list[Observation]) -> list[Lost]:
    """Which way it is lost, as far as the receivers' counters tell; nothing where they do not."""
    if len(place) != 1:
        return []
    host = next(iter(place))
    peers = sorted({name for o in pairs for name in ends(o)} - place)
    received = {_receives(case, host, o.pair.network_id) for o in pairs}
    if received == {True}:  # what others send arrives, so what it sends does not
        return [(host, peer) for peer in peers]
    return []


def _by_counters(case: Case, pairs: list[Observation]) -> list[Evidence]:
    rows = []
    for name, counter in ((ends(pairs[0])[0], "tx_packets"), (ends(pairs[0])[1], "rx_packets")):
        moved = device_rise(case, name, pairs[0].pair.network_id, counter)
        if moved is not None:
            source = f"{counter} of the VXLAN device of {pairs[0].pair.network}"
            rows.append(Evidence(name, source, str(moved), "a rise in every burst"))
    for name in sorted({name for o in pairs for name in ends(o)})[:3]:
        if case.filter_is_known(name):
            port = case.fleet.tunnel_port
            rows.append(Evidence(name, "packet filter", f"udp/{port} passes in and out", None, "nft list ruleset"))
    return rows


def direction_of(place: frozenset[str], ways: t.Iterable[Lost]) -> str | None:
    """As seen from the host the fault is at; None where it is between two hosts or cannot be told."""
    if len(place) != 1:
        return None
    host = next(iter(place))
    found = {"out" if way[0] == host else "in" for way in ways}
    return "both" if len(found) > 1 else next(iter(found), None)


def _blocked_finding(
    case: Case,
    place: frozenset[str],
    ways: list[Lost],
    pairs: list[Observation],
    confidence: str,
    evidence: list[Evidence],
) -> Finding:
    names, port = sorted(place), case.fleet.tunnel_port
    peers = sorted({name for o in pairs for name in ends(o)} - place)
    peers = [*peers[:3], f"{len(peers) - 3} more"] if len(peers) > 4 else peers
    where = f"{names[0]} and {', '.join(peers)}" if len(names) == 1 else " and ".join(names)
    if len(names) > 4:
        where = f"{len(names)} hosts ({', '.join(names[:3])} and others)"
    one_way = f" ({_ways_words(set(ways))})" if ways else ""
    sample = pairs[0]
    proof = "the NIC's tap of the receiver never saw it" if confidence == CONFIRMED else "no filter of theirs drops it"
    touched = sorted({name for o in pairs for name in ends(o)})
    addresses = ", ".join(case.host(name).underlay_ip or name for name in touched)
    return Finding(
        cause="data-udp-blocked-network",
        severity=CRITICAL,
        confidence=confidence,
        hosts=names,
        segment="underlay",
        direction=direction_of(place, ways),
        network=sample.pair.network if len({o.pair.network for o in pairs}) == 1 else None,
        summary=f"The network between {where} drops the tunnel, udp/{port}{one_way}: other traffic between them "
        f"passes, and {proof}",
        evidence=[*evidence, *_passes_instead(case, pairs), probe_evidence(sample, len(pairs))],
        explains=pair_ids(pairs),
        remedies=[
            Remedy(
                "cure",
                (
                    (
                        f"permit udp/{port} in both directions between {addresses} in what filters the network "
                        "between them (security group, switch ACL, hypervisor)"
                    ),
                ),
                "From the nodes' addresses only: VXLAN is not authenticated.",
            ),
            Remedy(
                "mitigation",
                ("docker swarm init --data-path-port 7789 …   # where the hypervisor keeps the port for itself",),
                "The Swarm has to be made anew: all services stop.",
                disruptive=True,
            ),
        ],
    )


def _ways_words(ways: set[Lost]) -> str:
    """Both ways, or from whom to whom."""
    if all(way[::-1] in ways for way in ways):
        return "both ways"
    return ", ".join(f"{src} to {dst}" for src, dst in sorted(ways)[:3])


def _passes_instead(case: Case, pairs: list[Observation]) -> list[Evidence]:
    """What the same two hosts answer one another."""
    src, dst = ends(pairs[0])
    for observation in (case.host_pair(src, dst), case.host_pair(dst, src)):
        if observation is not None and observation.reached:
            answered = [f"{key} {r['status']}" for key, r in observation.results.items() if r.get("received")]
            words = ", ".join(answered) or "answers"
            return [Evidence(observation.pair.src.host, f"probes {observation.pair.id}", words, None)]
    return []


def probe_evidence(observation: Observation, number: int) -> Evidence:
    failed = [f"{key} {observation.results[key]['status']}" for key in observation.failed_layers()]
    words = f"{', '.join(failed)}; {number} pair(s) broken"
    return Evidence(observation.pair.src.host, f"probes {observation.pair.id}", words, "answered")


# ---- tunnel packets that arrive and are not what was sent


def decide_nat(case: Case) -> t.Iterator[Finding]:
    """The tunnel leaves one NIC with the node's address and arrives at the other with another one."""
    groups: dict[str, list[Changed]] = {}
    for observation, trace, broken in broken_traces(case, crossing(case.broken)):
        if broken.last is None or broken.last.name != NIC:
            continue
        receiver = broken.last.host
        sender = next((name for name in ends(observation) if name != receiver), "")
        arrived = outers(at(trace, broken.direction, broken.last))
        left = outers(at(trace, broken.direction, Hop(NIC, sender, "", 0)))
        if not arrived or not left or not behind_nic(broken, receiver):
            continue
        strange = [outer.src for outer in arrived if outer.src not in {o.src for o in left}]
        if strange:
            groups.setdefault(sender, []).append((observation, trace, left[0].src, strange[0]))
    for sender, rows in groups.items():
        yield _nat_finding(case, sender, rows)


def _nat_finding(case: Case, sender: str, rows: list[Changed]) -> Finding:
    own, strange = rows[0][2:]
    traced = [row[0] for row in rows]
    peers = sorted({name for o in traced for name in ends(o)} - {sender})
    pairs = traced + beside(case, {frozenset((sender, peer)) for peer in peers})
    entry_exists = "VXLAN_ENTRY_EXISTS" in reasons(rows[0][1])
    because = ", whose VXLAN devices take it from the address in their static entries only" if entry_exists else ""
    return Finding(
        cause="tunnel-through-nat",
        severity=CRITICAL,
        confidence=CONFIRMED,
        hosts=[sender],
        segment="underlay",
        direction="out",
        summary=f"The tunnel of {sender} passes a NAT: it leaves with {own} and arrives with {strange} at "
        f"{', '.join(peers)}{because}",
        evidence=[
            Evidence(sender, "outer source at the NIC", own, None, f"tcpdump -nni any udp port {_port(case)}"),
            Evidence(
                peers[0] if peers else None,
                f"outer source of the same packets at the NIC of {peers[0] if peers else 'the receiver'}",
                strange,
                own,
                f"tcpdump -nni any udp port {_port(case)}",
            ),
            *trace_evidence(rows[0][1]),
            probe_evidence(traced[0], len(pairs)),
        ],
        explains=pair_ids(pairs),
        remedies=[
            Remedy(
                "cure",
                (
                    "no NAT between nodes: route their addresses",
                    (
                        "or a tunnel below (WireGuard) in whose addresses the nodes join: "
                        "docker swarm join --advertise-addr ADDRESS --data-path-addr ADDRESS …"
                    ),
                ),
                "A node that leaves and joins gets a new id; its tasks move.",
                disruptive=True,
            )
        ],
    )


def beside(case: Case, between: set[frozenset[str]], network_id: str | None = None) -> list[Observation]:
    """Unexplained overlay pairs between the same hosts that no trace followed."""
    return [
        o
        for o in crossing(case.unexplained)
        if frozenset(ends(o)) in between and case.trace(o) is None and network_id in (None, o.pair.network_id)
    ]


def _port(case: Case) -> str:
    return str(case.fleet.tunnel_port or "PORT")


@dataclass
class BadHeader:
    """A VXLAN header that the receiver cannot take, and whether it left the sender like that."""

    words: str
    sent_so: bool
    trace: Trace | None
    pairs: list[Observation] = field(default_factory=list)
    samples: list[Evidence] = field(default_factory=list)


def decide_vni(case: Case) -> t.Iterator[Finding]:
    """Tunnel packets arrive with a header no VXLAN device of the receiver takes."""
    groups: dict[str, BadHeader] = {}
    for observation, trace, broken in broken_traces(case, crossing(case.broken)):
        if broken.last is None or broken.missing is None:
            continue
        sender, receiver = _sender(observation, broken)
        seen = at(trace, broken.direction, Hop(NIC, receiver, "", 0))
        sent = at(trace, broken.direction, Hop(NIC, sender, "", 0))
        known = _vnis(case, receiver)
        words = next((w for row in seen if (w := _header_fault(row, known))), None)
        if words is None:
            words = _reported(case, sender, receiver, broken, reasons(trace))
        if words is None:
            continue
        left = [row for row in sent if _header_fault(row, known)]
        group = groups.setdefault(sender, BadHeader(words, bool(left), trace))
        group.pairs.append(observation)
        group.samples += _anomaly_evidence(case, sender, receiver)
    for sender, group in groups.items():
        yield _vni_finding(case, sender, group)


def _sender(observation: Observation, broken: Broken) -> Lost:
    src, dst = ends(observation)
    return (src, dst) if broken.direction == "forward" else (dst, src)


def _vnis(case: Case, host: str) -> set[int]:
    return {
        link["vxlan"]["vni"]
        for facts in case.host(host).readings
        for namespace in facts.namespaces
        for link in namespace.vxlan_links
        if link["vxlan"].get("vni") is not None
    }


def _header_fault(sighting: Facts, known: set[int]) -> str | None:
    outer = sighting.get("outer")
    if not outer:
        return None
    flags = outer.get("flags")
    if isinstance(flags, int) and not flags & VXLAN_FLAG:
        return f"flags 0x{flags:02x}, without the one that says the VNI is valid"
    vni = sighting.get("vni")
    if vni is None or not known or vni in known:
        return None
    return "VNI 0" if vni == 0 else f"VNI {vni}, which no device of the receiver has"


def _reported(case: Case, sender: str, receiver: str, broken: Broken, given: set[str]) -> str | None:
    """What the capture noticed about frames it could not follow, or what the kernel gave as its reason."""
    if behind_nic(broken, receiver):
        if "VXLAN_INVALID_HDR" in given:
            return "a header the kernel calls invalid"
        if "VXLAN_VNI_NOT_FOUND" in given:
            return "a VNI no device of the receiver has"
    if not between_nics(broken):
        return None
    rows = _anomalies(case, sender, receiver)
    return HEADER_ANOMALIES[str(rows[0]["kind"])] if rows else None


def _anomalies(case: Case, sender: str, receiver: str) -> list[Facts]:
    """Frames with a bad header that came from the sender to a tap of the receiver."""
    addresses = case.host(sender).facts.addresses | {case.host(sender).underlay_ip}
    found = []
    for row in (case.host(receiver).captures.get(LABEL) or {}).get("anomalies") or []:
        kind = str(row.get("kind"))
        sample = row.get("sample") or {}
        source = (sample.get("outer") or {}).get("src") or sample.get("src") or row.get("src")
        if kind in HEADER_ANOMALIES and source in addresses:
            found.append(row)
    return found


def _anomaly_evidence(case: Case, sender: str, receiver: str) -> list[Evidence]:
    return [
        Evidence(
            receiver, f"frames from {sender} at {row.get('tap')}", f"{row['kind']}, {row.get('count')} times", None
        )
        for row in _anomalies(case, sender, receiver)[:1]
    ]


def _vni_finding(case: Case, sender: str, group: BadHeader) -> Finding:
    peers = sorted({name for o in group.pairs for name in ends(o)} - {sender})
    pairs = group.pairs + beside(case, {frozenset((sender, peer)) for peer in peers})
    where = f"{sender} sends it so" if group.sent_so else f"it left {sender} right: something on the way changed it"
    return Finding(
        cause="vxlan-vni-invalid",
        severity=CRITICAL,
        confidence=CONFIRMED if group.trace is not None and group.trace.complete else LIKELY,
        hosts=[sender],
        segment="vtep" if group.sent_so else "underlay",
        direction="out",
        summary=f"Tunnel packets of {sender} arrive at {', '.join(peers)} with {group.words}: no VXLAN device "
        f"takes them; {where}",
        evidence=[
            *(trace_evidence(group.trace) if group.trace else []),
            *group.samples[:1],
            probe_evidence(group.pairs[0], len(pairs)),
        ],
        explains=pair_ids(pairs),
        remedies=[
            Remedy(
                "cure",
                (
                    f"on {sender}: ip -d link show type vxlan   # in the overlay's namespace: id and flags (vni, gpe)"
                    if group.sent_so
                    else "find what rewrites the VXLAN header between the hosts: a gateway, a hypervisor",
                ),
                "None.",
            )
        ],
    )


# ---- a filter on the receiving (or sending) host that only the kernel's reason gives away


def decide_dropped(case: Case) -> t.Iterator[Finding]:
    """The tunnel is lost between NIC and VXLAN device of one host, and the kernel says: netfilter."""
    groups: dict[tuple[str, str], list[tuple[Observation, Trace]]] = {}
    open_ids = {o.pair.id for o in case.unexplained}
    for observation, trace, broken in broken_traces(case, crossing(case.broken)):
        last, missing = broken.last, broken.missing
        if last is None or missing is None or last.host != missing.host or observation.pair.id not in open_ids:
            continue
        if {last.name, missing.name} == {"nic", "vtep"} and "NETFILTER_DROP" in reasons(trace):
            groups.setdefault((last.host, "in" if last.name == NIC else "out"), []).append((observation, trace))
    for (host, direction), rows in groups.items():
        yield _dropped_finding(case, host, direction, rows)


def _dropped_finding(case: Case, host: str, direction: str, rows: list[tuple[Observation, Trace]]) -> Finding:
    traced = [row[0] for row in rows]
    peers = sorted({name for o in traced for name in ends(o)} - {host})
    pairs = traced + beside(case, {frozenset((host, peer)) for peer in peers})
    candidates = [d for d in drops(case) if d.host == host and d.direction == direction and _for_tunnel(d)]
    traced_rules = [row for _o, trace in rows for _host, row in dropping_rules(trace)]
    named = list(dict.fromkeys(_rule_named(candidates, row) for row in traced_rules))
    rules = (named or [rule_words(d.rule) for d in candidates])[:3]
    words = (
        f": {(' and ' if named else ' or ').join(rules)}" if rules else ", by a rule that its text does not give away"
    )
    port = case.fleet.tunnel_port
    where = "arriving from" if direction == "in" else "leaving for"
    addresses = ", ".join(case.host(name).underlay_ip or name for name in peers)
    return Finding(
        cause="data-udp-blocked-host-fw",
        severity=CRITICAL,
        confidence=CONFIRMED if named or not candidates or len(candidates) == 1 else LIKELY,
        hosts=[host],
        segment=f"host-filter-{direction}",
        direction=direction,
        summary=f"{host} drops udp/{port} (the VXLAN tunnel) {where} {', '.join(peers)}{words}",
        evidence=[*trace_evidence(rows[0][1]), probe_evidence(traced[0], len(pairs))],
        explains=pair_ids(pairs),
        remedies=[
            Remedy(
                "cure",
                (
                    f"on {host}: find the rule with -e doctor_trace=true, or: nft -a list ruleset | grep -n drop",
                    f"accept udp dport {port} from {addresses} in front of it",
                ),
                "Accept from the peers' addresses only: VXLAN is not authenticated.",
            )
        ],
    )


def _rule_named(candidates: list[Drop], row: Facts) -> str:
    """A traced rule with its text, where it is one of those that were read."""
    place = tuple(row.get(name) for name in ("family", "table", "chain", "handle"))
    for drop in candidates:
        rule = drop.rule
        if (rule.family, rule.table, rule.chain, rule.handle) == place and rule.handle is not None:
            return f"{rule_words(rule)} handle {rule.handle}"
    return rule_text(row)


def _for_tunnel(drop: Drop) -> bool:
    return any(flow.purpose == TUNNEL for flow in drop.flows)


# ---- ARP on the overlay


@dataclass(frozen=True)
class Unanswered:
    """A container that asks for a neighbour and hears nothing."""

    host: str
    container: str
    target: str
    state: str


def decide_arp(case: Case) -> t.Iterator[Finding]:
    """A container's ARP request for its peer stays unanswered, and no entry of the overlay explains it."""
    groups: dict[tuple[str, str | None, str | None], list[tuple[Observation, Unanswered]]] = {}
    for observation in case.unexplained:
        if observation.pair.kind not in ("overlay", "local"):
            continue
        found = next((u for u in _asking(case, observation) if u), None)
        if found is not None:
            key = (found.host, observation.pair.network_id, observation.pair.network)
            groups.setdefault(key, []).append((observation, found))
    for (host, network_id, network), rows in groups.items():
        yield _arp_finding(case, host, network_id, network, rows)


def _asking(case: Case, observation: Observation) -> t.Iterator[Unanswered | None]:
    pair = observation.pair
    for asker, target in ((pair.src, pair.dst), (pair.dst, pair.src)):
        if asker.host is None or asker.container_id is None or target.ip is None or asker.ip is None:
            continue
        host = case.host(asker.host)
        container = next((c for c in host.facts.containers if c["id"] == asker.container_id), None)
        states = _neighbour_states(host, (container or {}).get("netns"), asker.ip, target.ip)
        if (states and not states - UNRESOLVED) or _unanswered_request(case, observation, asker.host, target.ip):
            yield Unanswered(asker.host, asker.name, target.ip, min(states, default="asked for, no answer"))


def _neighbour_states(host: Host, netns: str | None, own: str, ip: str) -> set[str]:
    """What every reading says of a container's neighbour. The kernel forgets one that failed after a few seconds."""
    found = set()
    for facts in host.readings:
        namespace = facts.namespace(netns)
        link = namespace.link_of_address(own) if namespace else None
        state = namespace.neighbours(link["index"]).get(ip, (None, ""))[1] if namespace and link else ""
        found.add(state.lower())
    return found - {""}


def _unanswered_request(case: Case, observation: Observation, host: str, ip: str) -> bool:
    """The capture saw a request for the address at a container's interface, and no reply that gives it."""
    trace = case.trace(observation)
    taps = {hop.tap for hop in trace.hops if hop.name == CONTAINER and hop.host == host} if trace else set()
    rows = [r for r in (case.host(host).captures.get(LABEL) or {}).get("sightings") or [] if r.get("tap") in taps]
    asked = any(row["kind"] == "arp-request" and row.get("dst") == ip for row in rows)
    return asked and not any(row["kind"] == "arp-reply" and row.get("src") == ip for row in rows)


def _arp_finding(
    case: Case, host: str, network_id: str | None, network: str | None, rows: list[tuple[Observation, Unanswered]]
) -> Finding:
    asked = list(dict.fromkeys((row.container, row.target, row.state) for _o, row in rows))
    container, target, state = asked[0]
    across = any(o.pair.kind == "overlay" for o, _row in rows)
    more = f" and {len(asked) - 1} more" if len(asked) > 1 else ""
    pairs = [o for o, _row in rows]
    if across:
        pairs += [o for o in _no_pair_works(case, host, network_id) if o not in pairs]
    device = (
        "the VXLAN device has the entry and should answer for it" if across else "the other container should answer"
    )
    traces = [trace for o in pairs if (trace := case.trace(o)) is not None and trace.broken is not None]
    return Finding(
        cause="arp-unanswered",
        severity=CRITICAL,
        confidence=CONFIRMED if any(_unanswered_request(case, o, host, r.target) for o, r in rows) else LIKELY,
        hosts=[host],
        segment="vtep" if across else "bridge",
        network=network,
        summary=f"{container} on {host} gets no answer to ARP for {target}{more} on {network}: {device}",
        evidence=[
            Evidence(
                host,
                f"neighbour {target} in {container}",
                state,
                "reachable",
                f"nsenter --net=/proc/PID/ns/net ip neigh show {target}",
            ),
            *_entry_evidence(case, host, network_id, target),
            *(trace_evidence(traces[0]) if traces else []),
            probe_evidence(pairs[0], len(pairs)),
        ],
        explains=pair_ids(pairs),
        remedies=[
            Remedy(
                "cure",
                (
                    f"on {host}, in the overlay's namespace: nft list ruleset; bridge link; ip -d link show type vxlan",
                    "remove what drops ARP there; the device has to be a proxy for ARP and up",
                ),
                "None.",
            )
        ],
    )


def _no_pair_works(case: Case, host: str, network_id: str | None) -> list[Observation]:
    """The unexplained pairs of a host on a network none of whose pairs works: the kernel forgets failed neighbours."""
    same = [o for o in crossing(case.observations) if o.pair.network_id == network_id and host in ends(o)]
    if any(o.verdict() in ("ok", "degraded") for o in same):
        return []
    return [o for o in crossing(case.unexplained) if o in same]


def _entry_evidence(case: Case, host: str, network_id: str | None, target: str) -> list[Evidence]:
    """The VXLAN device's own entry for the address, from which it answers."""
    namespace = case.host(host).latest.overlay_namespace(network_id or "")
    for link in namespace.vxlan_links if namespace else []:
        entry = namespace.neighbours(link["index"]).get(target)  # type: ignore[union-attr]
        if entry:
            words = f"{entry[0]} {entry[1]}"
            verify = f"ip neigh show {target} dev {link['name']}   # in the overlay's namespace"
            return [Evidence(host, f"neighbour {target} on {link['name']}", words, None, verify)]
    return []


# ---- routed container networks


def decide_source_check(case: Case) -> t.Iterator[Finding]:
    """Packets with a container's source are lost between two NICs, those with a node's own address pass."""
    candidates = [o for o in crossing(case.unexplained, ("routed",)) if case.underlay_works(*ends(o))]
    ways: dict[str, Way] = {}
    for observation, trace, broken in broken_traces(case, candidates):
        sources = {row.get("src") for row in at(trace, broken.direction, broken.last)} if broken.last else set()
        own = case.host(broken.last.host).facts.addresses if broken.last else set()
        if between_nics(broken) and sources and not sources & own and not hidden_by(case, broken.missing):
            way = ways.setdefault(broken.last.host, Way())  # type: ignore[union-attr]
            way.pairs.append(observation)
            way.traces.append(trace)
    for host, way in ways.items():
        yield _source_finding(case, frozenset({host}), way.pairs, CONFIRMED, trace_evidence(way.traces[0]))
    plain = [o for o in candidates if case.trace(o) is None]
    known = {o.pair.id for way in ways.values() for o in way.pairs}
    plain = [o for o in plain if o.pair.id not in known and not o.reached and _keeps_source(case, o)]
    working = [ends(o) for o in crossing(case.observations, ("routed",)) if o.reached]
    for place in culprits([ends(o) for o in plain], working):
        pairs = [o for o in plain if place <= set(ends(o))]
        yield _source_finding(case, place, pairs, POSSIBLE, [])


def _keeps_source(case: Case, observation: Observation) -> bool:
    """The engine does not masquerade what leaves this network: the packets keep the container's address."""
    network = case.fleet.networks.get(observation.pair.network_id or "")
    return network is not None and network.options.get("com.docker.network.bridge.enable_ip_masquerade") == "false"


def _source_finding(
    case: Case, place: frozenset[str], pairs: list[Observation], confidence: str, evidence: list[Evidence]
) -> Finding:
    names = sorted(place)
    source = pairs[0].pair.src.ip if pairs[0].pair.src.host in place else pairs[0].pair.dst.ip
    return Finding(
        cause="cloud-src-dst-check",
        severity=CRITICAL,
        confidence=confidence,
        hosts=names,
        segment="underlay",
        direction="out" if len(names) == 1 else None,
        summary=f"The network takes from {' and '.join(names)} what has the host's own address and drops what has a "
        f"container's ({source}): a source/destination check, as clouds have it for every NIC",
        evidence=[*evidence, *_passes_instead(case, pairs), probe_evidence(pairs[0], len(pairs))],
        explains=pair_ids(pairs),
        remedies=[
            Remedy(
                "cure",
                (
                    (
                        f"switch the source/destination check off for the NIC of {' and '.join(names)} in the cloud "
                        "(AWS: aws ec2 modify-instance-attribute --no-source-dest-check; Google: --can-ip-forward; "
                        "OpenStack: allowed-address-pairs with the containers' subnets)"
                    ),
                ),
                "The host may then send with any address: limit it to the containers' subnets if possible.",
            )
        ],
    )


# ---- tunnels over a TUN device


def kernel_version(case: Case, host: str) -> tuple[int, ...]:
    text = str((case.host(host).facts.facts.get("host") or {}).get("kernel") or "")
    numbers = []
    for part in text.split("-", maxsplit=1)[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers[:3])


GRO_FIXED = (6, 8, 5)  # tailscale issue 11026: UDP packets coalesced on a TUN device were dropped behind it


def decide_gro(case: Case) -> t.Iterator[Finding]:
    """What the tunnel carries in bulk is lost over a userspace VPN's device, small packets pass."""
    groups: dict[str, list[Observation]] = {}
    for observation in crossing(case.unexplained):
        results = observation.results
        small = any(r["status"] == "ok" for key, r in results.items() if key.startswith("icmp"))
        bulk = any(r["status"] in ("incomplete", "timeout") for key, r in results.items() if key.startswith("http"))
        if not small or not bulk:
            continue
        for name in ends(observation):
            version = kernel_version(case, name)
            if _tun(case, name, observation) and version and version < GRO_FIXED:
                groups.setdefault(name, []).append(observation)
    named: Counter[str] = Counter({name: len(pairs) for name, pairs in groups.items()})
    taken: set[str] = set()
    for name, _number in sorted(named.items(), key=lambda item: (-item[1], item[0])):
        pairs = [o for o in groups[name] if o.pair.id not in taken]
        if pairs:
            taken |= {o.pair.id for o in pairs}
            yield _gro_finding(case, name, pairs)


def _tun(case: Case, name: str, observation: Observation) -> Facts | None:
    """The TUN device by which this host reaches the other end."""
    host = case.host(name)
    other = next((case.host(end).underlay_ip for end in ends(observation) if end != name), None)
    paths = host.facts.root.facts.get("paths") or []
    index = next((row.get("oif") for row in paths if row.get("dst") == other), None)
    link = host.facts.root.link_by_index.get(index) if index is not None else host.underlay_link
    return link if link is not None and "tun" in (link.get("kind"), link.get("driver")) else None


def _gro_finding(case: Case, name: str, pairs: list[Observation]) -> Finding:
    link = _tun(case, name, pairs[0]) or {}
    device, kernel = link.get("name"), (case.host(name).facts.facts.get("host") or {}).get("kernel")
    return Finding(
        cause="gro-udp-tun",
        severity=CRITICAL,
        confidence=LIKELY,
        hosts=[name],
        segment="host-stack",
        summary=f"{name} carries the tunnel over {device}, a TUN device, with kernel {kernel}: UDP packets that it "
        "coalesces there are dropped; small ones pass, bulk does not",
        evidence=[
            Evidence(
                name, f"link {device}", str(link.get("kind") or link.get("driver")), None, f"ip -d link show {device}"
            ),
            Evidence(name, "kernel", str(kernel), "6.8.5 or newer", "uname -r"),
            probe_evidence(pairs[0], len(pairs)),
        ],
        explains=pair_ids(pairs),
        remedies=[
            Remedy("cure", ("a kernel of 6.8.5 or newer",), "A reboot.", disruptive=True),
            Remedy(
                "mitigation",
                (f"ethtool -K {device} gro off gso off rx-udp-gro-forwarding off",),
                "Less throughput over the VPN.",
            ),
        ],
    )


CAUSES = [
    Cause(
        "vxlan-vni-invalid",
        "Tunnel packets carry a header or VNI that the receiver does not take",
        "captured frames at both NICs, the VNIs of the receiver's devices, the kernel's drop reasons",
        "other overlays on the same port have VNIs of their own: only the probes' own frames count",
        decide_vni,
        stage=TRACED,
        remedy="repair the sender's device, or what rewrites the packets on the way",
    ),
    Cause(
        "tunnel-through-nat",
        "The tunnel passes a NAT between the hosts",
        "the outer source of the same packet at the sender's and at the receiver's NIC",
        "a host that translates to the address its peers expect anyway; translation on the host itself is snat-outer",
        decide_nat,
        stage=TRACED,
        remedy="no NAT between nodes, or a tunnel below it",
    ),
    Cause(
        "data-udp-blocked-host-fw",
        "The kernel says netfilter where the tunnel vanishes, though no rule gave itself away",
        "taps at the NIC and the VXLAN device, the kernel's drop reason at that moment, a trace of rules",
        "a drop of somebody else's packets at the same time: most of the losses have to coincide",
        decide_dropped,
        stage=TRACED,
        remedy="find the rule with -e doctor_trace=true, and accept the port from the peers' addresses in front of it",
    ),
    Cause(
        "data-udp-blocked-network",
        "The network between the hosts drops the tunnel port",
        "taps at both NICs; without them the counters of both VXLAN devices and both packet filters",
        "a capture on the wrong NIC; packets that leave with a wrong address; XDP drops before the tap sees anything",
        decide_blocked,
        stage=TRACED,
        remedy="permit the port between the nodes in what filters the network between them, or another data path port",
    ),
    Cause(
        "arp-unanswered",
        "ARP on a container network stays unanswered",
        "neighbour entries of containers, captured requests without a reply",
        "an entry that is missing on the overlay is reported as that; proxies answer locally",
        decide_arp,
        stage=AFTERMATH,
        remedy="remove what drops ARP in the overlay's namespace",
    ),
    Cause(
        "cloud-src-dst-check",
        "The network drops what has a container's address as its source",
        "probes between routed container networks, taps at both NICs, probes between the hosts themselves",
        "VXLAN is not concerned: its packets have the nodes' addresses",
        decide_source_check,
        stage=TRACED,
        remedy="switch the source/destination check of the NIC off, or permit the containers' subnets",
    ),
    Cause(
        "gro-udp-tun",
        "The tunnel goes over a TUN device whose kernel drops coalesced UDP",
        "the device towards the peers, the kernel's version, bulk against small probes",
        "small packets pass; a newer kernel is repaired",
        decide_gro,
        stage=AFTERMATH,
        remedy="kernel 6.8.5 or newer; until then no GRO on the TUN device",
    ),
]

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tunnel lost between two NICs, or behind one of them by a filter that only the kernel gives away.

Traces decide where there are any: which hop saw a packet, and which did not. Without them counters and filters say as
much as they can, and no more.
"""

from __future__ import annotations

import ipaddress
import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
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
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.crossing import (
    Lost,
    LostWay,
    beside,
    crossing,
    device_rise,
    direction_of,
    ends,
    passes_instead,
    probe_evidence,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.packet_filter import TUNNEL, Drop, drops
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.rule_owner import Service, rule_words
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.traced import (
    between_nics,
    broken_traces,
    dropping_rules,
    hidden_by,
    is_encrypted,
    reasons,
    rule_text,
    trace_evidence,
    well_addressed,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.hops import NIC, Hop
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace import Trace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies import roles

# Findings beside which a loss on the network is a second fault on the same path: rules of a host's own filter.
BESIDE = {"host-filter-in", "host-filter-out"}


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


def decide_blocked(case: Case) -> t.Iterator[Finding]:
    """The tunnel's port is lost between two NICs, while other traffic between the hosts passes."""
    candidates = [o for o in crossing(case.broken) if not _settled(case, o) and case.underlay_works(*ends(o))]
    ways: dict[Lost, LostWay] = {}
    for observation, trace, broken in broken_traces(case, candidates):
        if between_nics(broken) and well_addressed(case, trace, broken) and not hidden_by(case, broken.missing):
            way = ways.setdefault((broken.last.host, broken.missing.host), LostWay())  # type: ignore[union-attr]
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


def _blocked_by_traces(case: Case, ways: dict[Lost, LostWay]) -> t.Iterator[Finding]:
    working = [ends(o) for o in crossing(case.observations) if o.verdict() in ("ok", "degraded")]
    for place in _places(list(ways), working):
        lost = {way: found for way, found in ways.items() if _within(place, way)}
        between = {frozenset(way) for way in lost}
        same = [o for o in crossing(case.unexplained) if case.trace(o) is None]
        same = [o for o in same if frozenset(ends(o)) in between or (len(place) > 2 and set(ends(o)) <= place)]
        pairs = [o for way in lost.values() for o in way.pairs] + same
        doubt = [nic for _src, dst in lost for nic in _other_way_in(case, dst)]
        yield _blocked_finding(case, place, list(lost), pairs, LIKELY if doubt else CONFIRMED, _by_trace(lost))


def _by_trace(lost: dict[Lost, LostWay]) -> list[Evidence]:
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
        evidence=[*evidence, *passes_instead(case, pairs), probe_evidence(sample, len(pairs))],
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
            step.remedy(
                "cure",
                (
                    f"on {host}: find the rule with -e doctor_trace=true, or: nft -a list ruleset | grep -n drop",
                    f"accept udp dport {port} from {addresses} in front of it",
                ),
                "Accept from the peers' addresses only: VXLAN is not authenticated.",
            )
            for step in roles.firewall_ports(
                case.host(host),
                [drop.rule for drop in candidates],
                direction,
                [Service("udp", port)],
                [*roles.peers_of(case, host), *(case.host(name).underlay_ip for name in peers)],
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


CAUSES = [
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
]

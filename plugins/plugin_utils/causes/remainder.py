# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What nothing explains: said as such, with the place where the packets were last seen."""

from __future__ import annotations

import typing as t
from collections import Counter

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CRITICAL,
    LIKELY,
    POSSIBLE,
    REMAINDER,
    SYMPTOM,
    Case,
    Cause,
    Evidence,
    Finding,
    Remedy,
    culprits,
    pair_ids,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.traced import (
    between_nics,
    broken_traces,
    hidden_by,
    reason_words,
    telling,
    trace_evidence,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.builders import (
    SWARM_GOSSIP_PORT,
    SWARM_MANAGEMENT_PORT,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.deltas import Rise, link_counter, rise
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.hops import NIC
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace import Broken, Trace

CONTROL = {
    f"tcp:{SWARM_GOSSIP_PORT}": ("gossip-7946-blocked", "gossip"),
    f"tcp:{SWARM_MANAGEMENT_PORT}": ("mgmt-2377-blocked", "the managers' port"),
}


def decide_control_port(layer: str) -> t.Callable[[Case], t.Iterator[Finding]]:
    """A control port that stays silent although the hosts reach each other and no host's filter drops it."""
    cause, words = CONTROL[layer]

    def decide(case: Case) -> t.Iterator[Finding]:
        open_pairs = [o for o in case.unexplained if o.pair.kind == "host" and o.reached]
        failing = [o for o in open_pairs if o.layers().get(layer) == "failed" and _silent(o, layer)]
        working = [_ends(o) for o in case.host_pairs if o.layers().get(layer) == "ok"]
        for place in culprits([_ends(o) for o in failing], working):
            pairs = [o for o in failing if place <= set(_ends(o))]
            yield _control_finding(case, cause, layer, words, sorted(place), pairs)

    return decide


def _silent(observation: Observation, layer: str) -> bool:
    return observation.results.get(layer, {}).get("status") in ("timeout", "unreachable")


def _ends(observation: Observation) -> tuple[str, str]:
    return str(observation.pair.src.host), str(observation.pair.dst.host)


def _control_finding(
    case: Case, cause: str, layer: str, words: str, hosts: list[str], pairs: list[Observation]
) -> Finding:
    sample = pairs[0]
    unread = sorted({name for o in pairs for name in _ends(o) if not case.filter_is_known(name)})
    filters = (
        f"the packet filter of {', '.join(unread)} could not be read"
        if unread
        else ("no packet filter of theirs drops it")
    )
    ends = {frozenset(_ends(o)) for o in pairs}
    lost = [o for o in case.unexplained if o.pair.kind == "overlay" and frozenset(o.pair.hosts) in ends]
    explained = pairs + (lost if cause == "gossip-7946-blocked" else [])
    return Finding(
        cause=cause,
        severity=CRITICAL,
        confidence=POSSIBLE if unread else LIKELY,
        hosts=hosts,
        segment="underlay",
        summary=f"{layer.replace(':', '/')} ({words}) does not answer between {' and '.join(hosts)} and "
        f"{', '.join(sorted({e for pair in ends for e in pair} - set(hosts))) or 'each other'}, though the hosts "
        f"reach each other and {filters}",
        evidence=[
            Evidence(
                sample.pair.src.host,
                f"probes {sample.pair.id}",
                ", ".join(f"{key} {result['status']}" for key, result in sorted(sample.results.items())),
                f"{layer} open",
                f"nc -vz -w 3 {sample.pair.dst.ip} {layer.split(':')[1]}",
            )
        ],
        explains=pair_ids(explained),
        remedies=[
            Remedy(
                "cure",
                (
                    (
                        f"open {layer.replace(':', '/')} between the nodes in whatever filters the network between "
                        "them (security group, switch ACL)"
                    ),
                ),
                "From the nodes' addresses only.",
            )
        ],
    )


def decide_remainder(case: Case) -> t.Iterator[Finding]:
    """One finding for each stretch of network on which broken pairs remain."""
    groups: dict[tuple[str, str | None, frozenset[str]], list[Observation]] = {}
    failing: dict[tuple[str, str | None], list[Observation]] = {}
    for observation in case.unexplained:
        failing.setdefault((observation.pair.kind, _network(observation)), []).append(observation)
    for (kind, network), observations in failing.items():
        same = [o for o in case.observations if o.pair.kind == kind and _network(o) == network]
        working = [_ends(o) for o in same if o.verdict() in ("ok", "degraded")]
        places = culprits([_ends(o) for o in observations], working)
        for observation in observations:
            ends = frozenset(_ends(observation))
            place = next((p for p in places if p <= ends), ends)
            groups.setdefault((kind, network, place), []).append(observation)
    for (kind, network, place), observations in groups.items():
        yield _lost(case, kind, network, sorted(name for name in place if name != "None"), observations)


def _network(observation: Observation) -> str | None:
    """The network a pair is on; a routed pair leads from one to another."""
    return None if observation.pair.kind == "routed" else observation.pair.network


def _lost(case: Case, kind: str, network: str | None, hosts: list[str], observations: list[Observation]) -> Finding:
    sample = observations[0]
    segment, place = _last_seen(case, sample)
    direction, evidence, confidence = None, _trail(case, sample), POSSIBLE
    traced = broken_traces(case, observations)
    if traced:
        sample, trace, broken = _commonest(traced)
        segment, place, direction = broken.segment, _told(case, trace, broken), _side(broken)
        if all(
            set(row[2].hosts) == set(broken.hosts) for row in traced
        ):  # else it is the one all of them have in common
            hosts = sorted(set(broken.hosts)) or hosts
        evidence, confidence = trace_evidence(trace), LIKELY if telling(trace) else POSSIBLE
    failed = {key: sample.results[key] for key in sample.failed_layers()}
    results = ", ".join(
        f"{key} {result['status']}"
        + (
            f" ({result['icmp_error']['name']} from {result['icmp_error']['sender']})"
            if result.get("icmp_error")
            else ""
        )
        for key, result in failed.items()
    )
    on = f" on {network}" if network else ""
    return Finding(
        cause="unexplained-loss",
        severity=CRITICAL,
        confidence=confidence,
        hosts=hosts,
        segment=segment,
        direction=direction,
        network=network,
        summary=f"{len(observations)} {kind} pair(s){on} fail between {' and '.join(hosts) or 'unknown hosts'} and "
        f"nothing that was read explains it; {place}",
        evidence=[
            Evidence(sample.pair.src.host, f"probes {sample.pair.id}", results, "answered"),
            *evidence,
        ],
        explains=pair_ids(observations),
        remedies=[
            Remedy(
                "mitigation",
                (
                    (
                        f"capture on both ends while probing {sample.pair.id}: the sender's NIC, the receiver's NIC, "
                        "the receiver's VXLAN device"
                    )
                    if not traced
                    else "look at that place: its rules, routes and programs, and what the kernel gave as its reason",
                ),
                "None.",
            )
        ],
    )


def _commonest(traced: list[tuple[Observation, Trace, Broken]]) -> tuple[Observation, Trace, Broken]:
    """The trace that speaks for most: the stretch that most of them break in."""
    places = Counter((broken.segment, tuple(broken.hosts)) for _o, _trace, broken in traced)
    place = places.most_common(1)[0][0]
    return next(row for row in traced if (row[2].segment, tuple(row[2].hosts)) == place)


def _side(broken: Broken) -> str | None:
    """As seen from the host it is on: out where packets leave it, in where they arrive; None between two hosts."""
    if len(set(broken.hosts)) != 1:
        return None
    names = [hop.name if hop else None for hop in (broken.last, broken.missing)]
    if NIC in names:
        return "in" if names[0] == NIC else "out"
    return None


def _told(case: Case, trace: Trace, broken: Broken) -> str:
    """Hop, direction and the kernel's reason; and whether a program may have hidden what came."""
    words = broken.words
    if given := telling(trace)[:1]:
        words += f"; the kernel's reason there: {reason_words(given[0].reason)}, {given[0].hits} of {given[0].of}"
    hidden = hidden_by(case, broken.missing) if between_nics(broken) else []
    if hidden:
        host = broken.missing.host if broken.missing else ""
        words += f"; whether they arrived cannot be told: {', '.join(hidden)} of {host} may drop them before any tap"
    return words


def _device_rises(case: Case, observation: Observation) -> list[tuple[str, str, str, str, Rise]]:
    """(hop, host, device, counter, rise) of the VXLAN devices an overlay pair crosses, in order of travel."""
    pair, found = observation.pair, []
    for host_name, counter in ((pair.src.host, "tx_packets"), (pair.dst.host, "rx_packets")):
        if host_name is None or pair.network_id is None:
            continue
        host = case.host(host_name)
        namespace = host.facts.overlay_namespace(pair.network_id)
        for link in namespace.vxlan_links if namespace else []:
            moved = rise(host, namespace.key, link_counter(link["index"], counter))  # type: ignore[union-attr]
            if moved is not None:
                found.append(("vtep", host_name, link["name"], counter, moved))
    return found


def _trail(case: Case, observation: Observation) -> list[Evidence]:
    return [
        Evidence(host, f"{counter} of {device} in the overlay namespace", str(moved), "a rise in every burst")
        for _hop, host, device, counter, moved in _device_rises(case, observation)
    ]


def _last_seen(case: Case, observation: Observation) -> tuple[str, str]:
    """The segment in which the packets disappear, as far as counters tell."""
    rises = _device_rises(case, observation)
    sent = [row for row in rises if row[3] == "tx_packets"]
    received = [row for row in rises if row[3] == "rx_packets"]
    if observation.pair.kind == "overlay" and sent and received:
        if not sent[0][4].rose:
            return "vtep", f"the probes did not leave {sent[0][2]} of {sent[0][1]}"
        if received[0][4].flat:
            return (
                "underlay",
                (
                    f"last seen leaving {sent[0][2]} of {sent[0][1]}, never at {received[0][2]} of "
                    f"{received[0][1]}: a capture on both NICs would tell the network from the host"
                ),
            )
        return "underlay", "both ends' VXLAN devices move: a capture would tell which direction is lost"
    return {"overlay": "underlay", "host": "underlay", "local": "bridge", "service": "service"}.get(
        observation.pair.kind, "nat"
    ), "a capture along the path would tell where"


CAUSES = [
    Cause(
        "gossip-7946-blocked",
        "Gossip's port is silent, and no host's own filter drops it",
        "TCP probes between hosts, the evaluation of both packet filters",
        "an engine that is down refuses instead of staying silent",
        decide_control_port(f"tcp:{SWARM_GOSSIP_PORT}"),
        stage=SYMPTOM,
        remedy="open 7946, TCP and UDP, between the nodes in what filters the network between them",
    ),
    Cause(
        "mgmt-2377-blocked",
        "The managers' port is silent, and no host's own filter drops it",
        "TCP probes from nodes to managers, the evaluation of both packet filters",
        "an engine that is down refuses instead of staying silent",
        decide_control_port(f"tcp:{SWARM_MANAGEMENT_PORT}"),
        stage=SYMPTOM,
        remedy="open 2377 over TCP to the managers in what filters the network between them",
    ),
    Cause(
        "unexplained-loss",
        "A broken pair that no cause explains",
        "all probes, taps along the path, the kernel's drop reasons, the counters of the VXLAN devices on both ends",
        "never silence, never a guess; what a program may have dropped before the tap is no fault of the network",
        decide_remainder,
        stage=REMAINDER,
        remedy="a capture along the path, at the place where the packets were last seen",
    ),
]

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checksums that a NIC, driver or hypervisor gets wrong: the receivers count them, the sender is at fault.

That a feature is on says nothing, and neither does a capture at the sender, where the checksum is still to be filled
in. Only what receivers count with each burst of probes, or see at a tap behind the wire, does.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    CRITICAL,
    LIKELY,
    SYMPTOM,
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
    crossing,
    ends,
    probe_evidence,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.traced import (
    drops_at,
    reason_name,
    trace_evidence,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.deltas import Rise, protocol_counter, rise
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import Namespace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Node
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace import FORWARD, REPLY
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies import roles

INNER, OUTER = "tx-csum-inner-bug", "tx-csum-outer-bug"
INNER_COUNTERS = ("Tcp.InCsumErrors", "Udp.InCsumErrors")
OUTER_COUNTER = "Udp.InCsumErrors"
TCP_KINDS = ("syn", "syn-ack", "data")
INNER_REASONS, OUTER_REASONS = {"TCP_CSUM"}, {"UDP_CSUM"}


@dataclass(frozen=True)
class Wrong:
    """A receiver that drops what has a wrong checksum: who sent it, where it is counted, how the count moved."""

    sender: str
    receiver: str
    place: str
    counter: str
    moved: Rise | None
    observation: Observation

    @property
    def tied(self) -> bool:
        return self.moved is not None and self.moved.tied


def decide_outer(case: Case) -> t.Iterator[Finding]:
    """The tunnel's own packets arrive with a wrong UDP checksum: the receiving hosts count it."""
    failing = [o for o in crossing(case.unexplained) if not o.reached]
    reached = {frozenset(ends(o)) for o in crossing(case.observations) if o.reached}
    rows = [row for o in failing if frozenset(ends(o)) not in reached for row in _outer(case, o)]
    yield from _findings(case, OUTER, rows, failing, [tuple(sorted(pair)) for pair in reached])  # type: ignore[misc]


def _outer(case: Case, observation: Observation) -> t.Iterator[Wrong]:
    src, dst = ends(observation)
    for sender, receiver in ((src, dst), (dst, src)):
        host = case.host(receiver)
        moved = rise(host, host.facts.root.key, protocol_counter("snmp", OUTER_COUNTER))
        if _moves(moved) or _dropped(case, observation, receiver, OUTER_REASONS) or _bad(case, observation, receiver):
            yield Wrong(sender, receiver, f"{receiver}", OUTER_COUNTER, moved, observation)


def decide_inner(case: Case) -> t.Iterator[Finding]:
    """What the tunnel carries arrives with a wrong checksum: echo passes, TCP does not, and the containers count it."""
    failing = [o for o in crossing(case.unexplained) if _only_echo(o)]
    rows = [row for o in failing for row in _inner(case, o)]
    working = [ends(o) for o in crossing(case.observations) if o.verdict() in ("ok", "degraded")]
    yield from _findings(case, INNER, rows, failing, working)


def _only_echo(observation: Observation) -> bool:
    """Echo is answered and nothing by TCP: a kernel checks both, but only the one is left to the NIC."""
    tcp = [r["status"] for key, r in observation.results.items() if key.startswith(("tcp", "http"))]
    echo = observation.results.get("icmp") or {}
    return echo.get("status") == "ok" and bool(tcp) and all(status == "timeout" for status in tcp)


def _inner(case: Case, observation: Observation) -> t.Iterator[Wrong]:
    src, dst = ends(observation)
    for sender, receiver, node in ((src, dst, observation.pair.dst), (dst, src, observation.pair.src)):
        namespace = _namespace(case, node)
        if namespace is None:
            continue
        for counter in INNER_COUNTERS:
            moved = rise(case.host(receiver), namespace.key, protocol_counter("snmp", counter))
            if _moves(moved) or (counter == INNER_COUNTERS[0] and _shown(case, observation, receiver)):
                yield Wrong(sender, receiver, f"{node.name} on {receiver}", counter, moved, observation)
                break


def _shown(case: Case, observation: Observation, receiver: str) -> bool:
    """By the kernel's reason, or at a tap behind the tunnel."""
    return _dropped(case, observation, receiver, INNER_REASONS) or _bad_inside(case, observation, receiver)


def _namespace(case: Case, node: Node) -> Namespace | None:
    host = case.host(str(node.host))
    container = next((c for c in host.facts.containers if c["id"] == node.container_id), None)
    return host.facts.namespace(container.get("netns")) if container else None


def _moves(moved: Rise | None) -> bool:
    """It rose with every burst; what it stood at before says nothing."""
    return moved is not None and bool(moved.bursts) and all(burst > 0 for burst in moved.bursts)


def _dropped(case: Case, observation: Observation, receiver: str, reasons: set[str]) -> bool:
    """The kernel of the receiver gave this reason when the pair's packets were last seen."""
    trace = case.trace(observation)
    drops = drops_at(trace) if trace is not None else []
    return any(d.host == receiver and reason_name(d.reason) in reasons and d.hits * 2 >= d.of for d in drops)


def _bad(case: Case, observation: Observation, receiver: str) -> bool:
    """The receiver's NIC saw the pair's packets with a wrong outer checksum. A sender's tap cannot tell."""
    seen = _seen(case, observation, receiver, ("nic",))
    return bool(seen) and all((row.get("outer") or {}).get("checksum") == "bad" for row in seen)


def _bad_inside(case: Case, observation: Observation, receiver: str) -> bool:
    """What came out of the tunnel at the receiver by TCP had a wrong checksum."""
    seen = [
        row for row in _seen(case, observation, receiver, ("vtep", "veth", "container")) if row["kind"] in TCP_KINDS
    ]
    return bool(seen) and all(row.get("checksum") == "bad" for row in seen)


def _seen(case: Case, observation: Observation, receiver: str, hops: t.Iterable[str]) -> list[Facts]:
    """Sightings of what was sent to this host, at its own taps."""
    trace = case.trace(observation)
    if trace is None or trace.broken is None:
        return []
    direction = FORWARD if receiver == observation.pair.dst.host else REPLY
    return [row for hop in hops for row in trace.sightings_at(direction, hop, receiver)]


def _findings(
    case: Case, cause: str, rows: list[Wrong], failing: list[Observation], working: list[Lost]
) -> t.Iterator[Finding]:
    """One finding for each sender: the host all of whose receivers count, else the one the counts speak of."""
    remaining = list(rows)
    for place in culprits([(row.sender, row.receiver) for row in rows], working):
        mine = [row for row in remaining if place <= {row.sender, row.receiver}]
        senders = {row.sender for row in mine}
        if not mine:
            continue
        receives = len(place) == 1 and not place & senders
        hosts = sorted(place) if len(place) == 1 else sorted(senders & place) or sorted(place)
        remaining = [row for row in remaining if row not in mine]
        between = {frozenset((row.sender, row.receiver)) for row in mine}
        pairs = [o for o in failing if frozenset(ends(o)) in between]
        yield _finding(case, cause, hosts, "in" if receives else "out", mine, pairs)


def _finding(
    case: Case, cause: str, hosts: list[str], direction: str, rows: list[Wrong], pairs: list[Observation]
) -> Finding:
    receivers = sorted({row.receiver for row in rows} - (set(hosts) if direction == "out" else set())) or hosts
    best = next((row for row in rows if row.tied), rows[0])
    where = f"what {' and '.join(hosts)} sends" if direction == "out" else f"what arrives at {' and '.join(hosts)}"
    what = {
        INNER: f"{where} through the tunnel by TCP has a wrong checksum (echo passes)",
        OUTER: f"{where} as tunnel packets has a wrong UDP checksum",
    }[cause]
    counted = f"{best.counter} of {best.place} {best.moved}" if best.moved is not None else f"seen at {best.place}"
    trace = next((trace for o in pairs if (trace := case.trace(o)) is not None and trace.broken is not None), None)
    proven = best.tied or any(
        _dropped(case, row.observation, row.receiver, INNER_REASONS | OUTER_REASONS) for row in rows
    )
    links = [(name, case.host(name).underlay_link or {}) for name in hosts]
    return Finding(
        cause=cause,
        severity=CRITICAL,
        confidence=CONFIRMED if proven else LIKELY,
        hosts=hosts,
        segment="host-stack",
        direction=direction,
        summary=f"{what[0].upper()}{what[1:]}: {', '.join(receivers)} drop{'s' if len(receivers) == 1 else ''} it; "
        f"{counted}",
        evidence=[
            *[_counter_evidence(row) for row in _one_each(rows)],
            *_other_counter(case, cause, best),
            *[_nic_evidence(name, link) for name, link in links if link],
            *(trace_evidence(trace) if trace is not None else []),
            probe_evidence(pairs[0], len(pairs)),
        ],
        explains=pair_ids(pairs),
        remedies=_remedies(case, cause, direction, links),
    )


def _one_each(rows: list[Wrong]) -> list[Wrong]:
    return list({(row.place, row.counter): row for row in rows}.values())[:3]


def _counter_evidence(row: Wrong) -> Evidence:
    observed = str(row.moved) if row.moved is not None else "not read; taps or the kernel's reason show it"
    where = "in the container's namespace" if " on " in row.place else "of the host"
    return Evidence(row.receiver, f"{row.counter} of {row.place}", observed, "no rise", f"nstat -az   # {where}")


def _other_counter(case: Case, cause: str, best: Wrong) -> list[Evidence]:
    """That the receiving host's own counter rests tells a wrong inner checksum from a wrong outer one."""
    if cause != INNER:
        return []
    host = case.host(best.receiver)
    moved = rise(host, host.facts.root.key, protocol_counter("snmp", OUTER_COUNTER))
    if moved is None or moved.rose:
        return []
    return [Evidence(best.receiver, f"{OUTER_COUNTER} of the host", str(moved), None, "nstat -az UdpInCsumErrors")]


def _nic_evidence(name: str, link: Facts) -> Evidence:
    device = link.get("name")
    return Evidence(name, f"NIC {device}", f"driver {link.get('driver') or 'unknown'}", None, f"ethtool -k {device}")


def _remedies(case: Case, cause: str, direction: str, links: list[tuple[str, Facts]]) -> list[Remedy]:
    """One for each sender; where only the receiver is known, it is not its own offload that is at fault."""
    steps = [
        roles.checksum_offload(case.host(name), link.get("name")) if direction == "out" else roles.NOBODY
        for name, link in links
    ]
    manual = _by_hand(cause, links)
    return [step.remedy("cure", manual, "More work for the processor, less throughput.") for step in steps]


def _by_hand(cause: str, links: list[tuple[str, Facts]]) -> list[str]:
    steps = [
        f"on {name}: ethtool -K {link.get('name') or 'NIC'} tx-checksum-ip-generic off   # or tx off, to try it"
        for name, link in links
    ]
    steps.append("to keep it: a systemd .link file with TransmitChecksumOffload=false, or NetworkManager's [ethtool]")
    if cause == INNER:
        steps.append("on ESXi also: another --data-path-port than 4789, which the virtual NIC takes for its own VXLAN")
    return steps


CAUSES = [
    Cause(
        OUTER,
        "Tunnel packets leave a host with a wrong UDP checksum",
        "Udp InCsumErrors of the receiving hosts around the probes, checksums at the receiver's tap, drop reasons",
        "errors counted before the probes; a capture at the sender always shows unfinished checksums",
        decide_outer,
        stage=SYMPTOM,
        remedy="switch the checksum offload of the sender's NIC off, or a repaired driver or kernel",
    ),
    Cause(
        INNER,
        "What the tunnel carries leaves a host with a wrong checksum",
        "Tcp and Udp InCsumErrors of the receiving containers around the probes, drop reasons; echo passes, TCP hangs",
        "the offload feature is on nearly everywhere: without the receivers' counters it says nothing",
        decide_inner,
        stage=SYMPTOM,
        remedy="switch the checksum offload of the sender's NIC off; on ESXi another data path port",
    ),
]

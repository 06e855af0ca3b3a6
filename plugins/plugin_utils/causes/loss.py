# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Paths that lose a part of what they carry, or delay it unevenly, against the others of the same run.

A few lost echoes are the life of a network. A path is called lossy only when several of its probes lost packets in
more than one round while others of the same run lost none, so that neither a busy controller nor a busy fleet counts.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    CRITICAL,
    INFO,
    LIKELY,
    TRACED,
    WARNING,
    Case,
    Cause,
    Evidence,
    Finding,
    Remedy,
    culprits,
    pair_ids,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.crossing import Lost, crossing, ends
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.traced import between_nics, trace_evidence
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.deltas import (
    Reader,
    Rise,
    link_counter,
    rise,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import Namespace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import ROUNDS, Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace import LABEL, Trace

KINDS = ("host", "overlay", "egress")
MANY = 3  # lost echoes of a path before it is looked at
SERIES = 2  # probes of a path that lost some, in different rounds or of different pairs
SHARE = 0.05  # of a path's echoes: below that nobody notices
TIMES = 4  # as large a share as that of the other paths together
SLOW = 0.02  # seconds by which round trips of one path spread before jitter is named
NIC_COUNTERS = (
    ("rx_missed_errors", "missed because the ring was full"),
    ("rx_fifo_errors", "overran the NIC's buffer"),
    ("rx_over_errors", "overran the ring"),
    ("rx_crc_errors", "damaged on the wire"),
    ("rx_frame_errors", "damaged on the wire"),
    ("tx_fifo_errors", "overran the NIC's buffer when sent"),
    ("tx_carrier_errors", "lost with the carrier"),
    ("tx_aborted_errors", "given up when sent"),
)


# Faults that concern the tunnel or containers' addresses alone: echoes between the hosts are lost for another reason.
TUNNEL_ALONE = {
    "data-udp-blocked-network",
    "tunnel-through-nat",
    "vxlan-vni-invalid",
    "cloud-src-dst-check",
    "tx-csum-inner-bug",
    "tx-csum-outer-bug",
}


@dataclass
class Path:
    """The echoes between two hosts, whoever asked, over all rounds."""

    hosts: frozenset[str]
    sent: int = 0
    lost: int = 0
    series: list[tuple[str, int, int]] = field(default_factory=list)  # probe, sent, lost: those that lost some
    rounds: set[str] = field(default_factory=set)
    spread: list[float] = field(default_factory=list)
    base: list[float] = field(default_factory=list)
    through: dict[str, list[int]] = field(default_factory=dict)  # kind of pair -> [sent, lost]

    @property
    def share(self) -> float:
        return self.lost / self.sent if self.sent else 0.0

    @property
    def overlay_alone(self) -> bool:
        return all(kind == "overlay" for kind, (_sent, lost) in self.through.items() if lost)

    @property
    def suspect(self) -> bool:
        return self.lost >= MANY and len(self.series) >= SERIES and len(self.rounds) > 1 and self.share >= SHARE


def paths(case: Case) -> dict[frozenset[str], Path]:
    """Partial losses by pair of hosts; probes that came back not at all belong to other causes."""
    found: dict[frozenset[str], Path] = {}
    for observation in crossing(case.observations, KINDS):
        key = frozenset(ends(observation))
        path = found.setdefault(key, Path(key))
        for label in ROUNDS:
            _add(path, observation, label, (observation.rounds.get(label) or {}).get("icmp"))
        _add(path, observation, LABEL, _traced(case, observation))
    return found


def _traced(case: Case, observation: Observation) -> dict[str, t.Any] | None:
    wanted = f"{observation.pair.id}#icmp"
    host = case.fleet.hosts.get(str(observation.pair.src.host))
    rows = (host.probes.get(LABEL) or {}).get("results") or [] if host else []
    return next((row for row in rows if row.get("id") == wanted), None)


def _add(path: Path, observation: Observation, label: str, result: dict[str, t.Any] | None) -> None:
    if not result or not result.get("sent") or observation.broken:
        return
    sent, received = result["sent"], result.get("received") or 0
    if not received and all(not (r.get("icmp") or {}).get("received") for r in observation.rounds.values()):
        return  # echo is not answered at all: that is policy, or another cause's
    path.sent += sent
    path.lost += sent - received
    row = path.through.setdefault(observation.pair.kind, [0, 0])
    row[0] += sent
    row[1] += sent - received
    if received < sent:
        path.series.append((f"{observation.pair.id} ({label})", sent, sent - received))
        path.rounds.add(label)
    times = result.get("rtt") or {}
    if times.get("max") is not None and times.get("min") is not None and received > 1:
        path.spread.append(times["max"] - times["min"])
        path.base.append(times["min"])


def decide_lossy(case: Case) -> t.Iterator[Finding]:
    """A path that loses more than the others of the same run."""
    known = paths(case)
    named = {name for finding in case.findings if _loses_all(finding) for name in finding.hosts}
    inside = {name for finding in case.findings if _misleads(finding) for name in finding.hosts}
    suspects = [
        path
        for path in known.values()
        if path.suspect and not path.hosts & named and not (path.overlay_alone and path.hosts & inside)
    ]
    rest = [path for path in known.values() if path not in suspects]
    if not suspects or not _stand_out(case, suspects, rest):
        return
    failing: list[Lost] = [tuple(sorted(path.hosts)) for path in suspects]  # type: ignore[misc]
    clean: list[Lost] = [tuple(sorted(p.hosts)) for p in rest if p.sent and p.share < SHARE]  # type: ignore[misc]
    for place in culprits(failing, clean):
        yield _lossy_finding(case, place, [path for path in suspects if place <= path.hosts], rest)


def _loses_all(finding: Finding) -> bool:
    """A fault of whole hosts or of the way between them, of which lost echoes are but a symptom."""
    return (
        finding.severity != INFO
        and finding.segment in ("underlay", "host-stack", "control-plane")
        and finding.cause not in TUNNEL_ALONE
    )


def _misleads(finding: Finding) -> bool:
    """A fault of the overlay inside a host: frames it sends back teach the bridge that their senders are elsewhere."""
    return finding.severity != INFO and finding.segment in ("vtep", "bridge")


def _stand_out(case: Case, suspects: list[Path], rest: list[Path]) -> bool:
    """Others lost next to nothing. Where all paths are alike, what they share is slow: a host under test, the run."""
    sent, lost = sum(path.sent for path in rest), sum(path.lost for path in rest)
    if sent:
        share = sum(path.lost for path in suspects) / sum(path.sent for path in suspects)
        return lost / sent * TIMES < share
    hosts = {name for path in suspects for name in path.hosts}
    local = [o for o in case.observations if o.pair.kind == "local" and o.pair.src.host in hosts]
    if len(suspects) == 1 and len(hosts) == 2:  # no other path to compare with: what stays on its host is the control
        return bool(local) and all(o.verdict() == "ok" for o in local)
    return False


def _lossy_finding(case: Case, place: frozenset[str], lossy: list[Path], rest: list[Path]) -> Finding:
    names = sorted(place)
    sent, lost = sum(path.sent for path in lossy), sum(path.lost for path in lossy)
    peers = sorted({name for path in lossy for name in path.hosts} - place)
    where = f"{names[0]} and {', '.join(peers)}" if len(names) == 1 else " and ".join(names)
    between = {path.hosts for path in lossy}
    pairs = [o for o in crossing(case.unexplained, KINDS) if frozenset(ends(o)) in between]
    other_sent, other_lost = sum(path.sent for path in rest), sum(path.lost for path in rest)
    ways, evidence = _by_traces(case, between)
    direction = None
    if len(names) == 1 and ways:
        found = {"out" if way[0] == names[0] else "in" for way in ways}
        direction = "both" if len(found) > 1 else next(iter(found))
    begins = f"; between the NICs, from {' and '.join(sorted({way[0] for way in ways}))}" if ways else ""
    spread = max((value for path in lossy for value in path.spread), default=0.0)
    jitter = f", round trips spread by {spread * 1000:.0f} ms" if spread > SLOW else ""
    return Finding(
        cause="path-lossy",
        severity=CRITICAL if pairs else WARNING,
        confidence=CONFIRMED if ways else LIKELY,
        hosts=names,
        segment="underlay",
        direction=direction,
        summary=f"The path between {where} loses {lost} of {sent} echoes ({lost / sent:.0%}), other paths "
        f"{other_lost} of {other_sent}{begins}{jitter}",
        evidence=[
            *[
                Evidence(
                    None,
                    f"echoes {probe}",
                    f"{missing} of {total} lost",
                    "none lost",
                    f"ping -c 100 -i 0.05 {_target(case, path)}",
                )
                for path in lossy[:2]
                for probe, total, missing in path.series[:3]
            ],
            *evidence,
        ],
        explains=pair_ids(pairs),
        remedies=[
            Remedy(
                "cure",
                (
                    f"on {' and '.join(names)}: ethtool -S NIC; tc -s qdisc show dev NIC; ethtool NIC | grep -i duplex",
                    "then the link between: cable, duplex, rate limit or queue of switch, hypervisor or provider",
                ),
                "None.",
            )
        ],
    )


def _target(case: Case, path: Path) -> str:
    return str(case.host(sorted(path.hosts)[-1]).underlay_ip)


def _by_traces(case: Case, between: set[frozenset[str]]) -> tuple[list[Lost], list[Evidence]]:
    """Where along the path packets stop, in traced pairs between these hosts: only what is lost between the NICs."""
    ways: list[Lost] = []
    rows: list[Evidence] = []
    for observation in crossing(case.observations, KINDS):
        trace = case.trace(observation)
        if trace is None or frozenset(ends(observation)) not in between:
            continue
        found = _lost_between(trace)
        if found is not None:
            ways.append(found)
            rows += trace_evidence(trace)[:1]
    return list(dict.fromkeys(ways)), rows[:2]


def _lost_between(trace: Trace) -> Lost | None:
    broken = trace.broken
    if broken is None or not between_nics(broken):
        return None
    return broken.last.host, broken.missing.host  # type: ignore[union-attr]


# ---- the NIC


def softnet_drops(namespace: Namespace) -> int | None:
    softnet = namespace.counters.get("softnet") or {}
    return softnet.get("dropped")


def decide_nic(case: Case) -> t.Iterator[Finding]:
    """A NIC or its host's receive queue that counts drops with the probes, where pairs lose packets."""
    hurt = [o for o in crossing(case.observations, KINDS) if o.verdict() in ("failed", "degraded")]
    open_ids = {o.pair.id for o in case.unexplained}
    for host in case.fleet.answering:
        link, touched = host.underlay_link, [o for o in hurt if host.name in o.pair.hosts]
        if link is None or not touched:
            continue
        counters: list[tuple[str, str, Reader]] = [
            (f"{name} of {link['name']}", words, _or_zero(link_counter(link["index"], name)))
            for name, words in NIC_COUNTERS
        ]
        counters.append(("drops of softnet_stat", "dropped by a processor's full queue", softnet_drops))
        for source, words, read in counters:
            moved = rise(host, host.facts.root.key, read)
            if moved is not None and len(moved.bursts) > 1 and all(burst > 0 for burst in moved.bursts):
                pairs = [o for o in touched if o.pair.id in open_ids]
                yield _nic_finding(host.name, link["name"], source, words, moved, pairs, len(touched))
                break


def _or_zero(read: Reader) -> Reader:
    """Rare counters are listed only where they are not 0."""

    def value(namespace: Namespace) -> int | None:
        found = read(namespace)
        return found if found is not None else (0 if namespace.counters.get("links") else None)

    return value


def _nic_finding(
    host: str, device: str, source: str, words: str, moved: Rise, pairs: list[Observation], touched: int
) -> Finding:
    return Finding(
        cause="nic-drops",
        severity=CRITICAL if pairs else WARNING,
        confidence=CONFIRMED if moved.tied else LIKELY,
        hosts=[host],
        segment="underlay",
        direction="out" if source.startswith("tx_") else "in",
        summary=f"{device} of {host} loses packets ({words}): {source} {moved}; {touched} pair(s) lose packets there",
        evidence=[Evidence(host, source, str(moved), "no rise", f"ethtool -S {device}; cat /proc/net/softnet_stat")],
        explains=pair_ids(pairs),
        remedies=[
            Remedy(
                "cure",
                (
                    f"ethtool -g {device}; ethtool -G {device} rx MAXIMUM",
                    f"spread the load over processors: ethtool -L {device} combined N, or RPS",
                    "where a provider limits packets per second: a larger instance",
                ),
                "Changing rings resets the link for a moment.",
            )
        ],
    )


CAUSES = [
    Cause(
        "nic-drops",
        "A NIC or its receive queue drops packets",
        "statistics of the underlay's NIC and of the processors' queues around the probes; pairs that lose packets",
        "drops counted before the probes; rx_dropped, which counts protocols nobody listens to",
        decide_nic,
        stage=TRACED,
        remedy="larger rings, more queues, or a larger instance",
    ),
    Cause(
        "path-lossy",
        "A path loses part of what it carries",
        "losses and round trips of repeated probes on each path against the others of the run, taps at both NICs",
        "losses on all paths alike; a host under load; echo that a host limits",
        decide_lossy,
        stage=TRACED,
        remedy="the queue, link or rate limit at which it begins",
    ),
]

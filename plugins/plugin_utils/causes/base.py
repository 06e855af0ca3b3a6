# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a cause is, what a finding is, and the case every cause looks at."""

from __future__ import annotations

import typing as t
from dataclasses import asdict, dataclass, field
from functools import cached_property

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Endpoint, Fleet, Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace import Trace

Facts = dict[str, t.Any]

CRITICAL, WARNING, INFO = "critical", "warning", "info"
CONFIRMED, LIKELY, POSSIBLE = "confirmed", "likely", "possible"
SEVERITIES = (CRITICAL, WARNING, INFO)

# The order of deciding. STATE stands for itself; each later stage only looks at pairs that are still unexplained:
# the UNDERLAY below everything, a SYMPTOM on top of it, the AFTERMATH other faults leave in the kernel, what only taps
# can tell (TRACED: by then they have confirmed or refuted what was found, see confirm.py), the REMAINDER.
STATE, UNDERLAY, SYMPTOM, AFTERMATH, TRACED, REMAINDER = range(6)


@dataclass(frozen=True)
class Evidence:
    """One thing that was read: where, what it said, what was expected, and how a person reads it again."""

    host: str | None
    source: str
    observed: str
    expected: str | None = None
    verify: str | None = None


@dataclass(frozen=True)
class Remedy:
    """What repairs (cure) or relieves (mitigation) a fault.

    Where a role of this collection can do it: C(role), its variables C(vars) by their full names, with values that
    were read on the fleet, and C(hosts) where it is applied, which are the finding's where it is empty. Values that
    differ by host make several remedies. C(manual) always tells how a person does it.
    """

    kind: str
    manual: tuple[str, ...]
    risk: str
    disruptive: bool = False
    role: str | None = None
    vars: t.Mapping[str, t.Any] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()

    def public(self) -> Facts:
        return {
            "kind": self.kind,
            "role": self.role,
            "vars": dict(self.vars),
            "hosts": list(self.hosts),
            "manual": list(self.manual),
            "risk": self.risk,
            "disruptive": self.disruptive,
        }


@dataclass
class Finding:
    """One fault, in one place, with what shows it."""

    cause: str
    severity: str
    confidence: str
    hosts: list[str]
    segment: str
    summary: str
    evidence: list[Evidence]
    explains: list[str] = field(default_factory=list)
    remedies: list[Remedy] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    direction: str | None = None
    network: str | None = None
    id: str = ""

    def public(self) -> Facts:
        return {
            "id": self.id,
            "cause": self.cause,
            "severity": self.severity,
            "confidence": self.confidence,
            "hosts": self.hosts,
            "segment": self.segment,
            "direction": self.direction,
            "network": self.network,
            "summary": self.summary,
            "evidence": [asdict(item) for item in self.evidence],
            "explains": self.explains,
            "rejected": [{"cause": cause, "because": because} for cause, because in self.rejected],
            "remedies": [remedy.public() for remedy in self.remedies],
        }


@dataclass(frozen=True)
class Cause:
    """An entry of the catalogue: what it is and how it is decided.

    C(decide) takes the case and yields findings. C(stage) orders the causes: all but STATE only look at pairs
    that nothing before them explains. C(remedy) is what repairs it, in a sentence. C(packets): only step 3, which
    follows packets and measures path MTUs, sees it. C(rules_out) tells of another cause's finding why this one is not
    what broke its pairs: what was read that speaks against it, or None where it was no alternative or nothing was read.
    """

    id: str
    title: str
    reads: str
    traps: str
    decide: t.Callable[[Case], t.Iterable[Finding]]
    stage: int = STATE
    remedy: str = ""
    packets: bool = False
    rules_out: t.Callable[[Case, Finding], str | None] | None = None


class Case:
    """The fleet, what was observed, and what has been found so far."""

    def __init__(self, fleet: Fleet, observations: list[Observation], traces: dict[str, Trace] | None = None) -> None:
        self.fleet = fleet
        self.observations = observations
        self.traces = traces or {}  # by pair id; step 3 follows only pairs that need it
        self.findings: list[Finding] = []
        self.refuted: list[tuple[str, str, frozenset[str]]] = []  # cause, what speaks against it, pairs it lost

    @cached_property
    def broken(self) -> list[Observation]:
        return [observation for observation in self.observations if observation.broken]

    @property
    def unexplained(self) -> list[Observation]:
        """Broken pairs no finding explains yet."""
        explained = {pair for finding in self.findings for pair in finding.explains}
        return [observation for observation in self.broken if observation.pair.id not in explained]

    def trace(self, observation: Observation) -> Trace | None:
        """Where the packets of a pair were seen, if step 3 followed them."""
        return self.traces.get(observation.pair.id)

    @cached_property
    def mtu_rows(self) -> dict[str, Facts]:
        """What mtu_probe found, by the id of the pair or path; a later call replaces an earlier one."""
        return {
            row["id"]: row
            for host in self.fleet.hosts.values()
            for _label, facts in sorted(host.mtu.items())
            for row in facts.get("results") or []
        }

    def mtu(self, path: str) -> Facts | None:
        """What mtu_probe found on a path, by the id of its pair; None where it was not asked."""
        return self.mtu_rows.get(path)

    def path_mtu(self, src: str, dst: str) -> Facts | None:
        """What mtu_probe found from host to host."""
        return self.mtu(f"{src}>{dst}")

    def host_pair(self, src: str, dst: str) -> Observation | None:
        return self._host_pairs.get((src, dst))

    @cached_property
    def _host_pairs(self) -> dict[tuple[str | None, str | None], Observation]:
        return {o.pair.hosts: o for o in self.observations if o.pair.kind == "host"}

    @property
    def host_pairs(self) -> list[Observation]:
        return list(self._host_pairs.values())

    def between(self, one: str, other: str, kinds: t.Container[str] = ("overlay",)) -> list[Observation]:
        """Pairs of the given kinds whose ends are on these two hosts, in either direction."""
        return [o for o in self.observations if o.pair.kind in kinds and set(o.pair.hosts) == {one, other}]

    def touching(self, host: str) -> list[Observation]:
        return [o for o in self.broken if host in o.pair.hosts]

    def underlay_works(self, one: str, other: str) -> bool:
        """Something came back over the underlay between these hosts, whichever side asked."""
        pairs = (self.host_pair(one, other), self.host_pair(other, one))
        return any(pair is not None and pair.reached for pair in pairs)

    def endpoints_of(self, network_id: str, host: str) -> list[Endpoint]:
        return [e for e in self.fleet.endpoints_by_network.get(network_id) or [] if e.host == host]

    def filter_is_known(self, name: str) -> bool:
        """Whether this host's packet filter was read in full, so that its silence means something."""
        read = self.host(name).facts.root.facts.get("filter")
        return read is not None and not read.get("error")

    def host(self, name: str) -> Host:
        return self.fleet.hosts[name]


def pair_ids(observations: t.Iterable[Observation]) -> list[str]:
    return sorted({observation.pair.id for observation in observations})


def severity_of(broken: t.Sized) -> str:
    """A setting that breaks traffic now is critical; one that breaks nothing is worth knowing and no more."""
    return CRITICAL if broken else INFO


def culprits(failing: t.Iterable[tuple[str, str]], working: t.Iterable[tuple[str, str]]) -> list[frozenset[str]]:
    """The places that explain a set of failing host pairs: single hosts first, else the two ends of a pair.

    A host is a culprit by itself when every pair that touches it fails and it has failed with more than one other.
    """
    bad = {frozenset(pair) for pair in failing}
    good = {frozenset(pair) for pair in working} - bad
    places: list[frozenset[str]] = []
    while bad:
        counts: dict[str, int] = {}
        for pair in bad:
            for name in pair:
                counts[name] = counts.get(name, 0) + 1
        alone = [name for name, count in counts.items() if count > 1 and not any(name in pair for pair in good)]
        if alone:
            worst = max(sorted(alone), key=lambda name: counts[name])
            if counts[worst] > max((counts[n] for n in counts if n != worst), default=0):
                places.append(frozenset({worst}))
                bad = {pair for pair in bad if worst not in pair}
                continue
        places += sorted(bad, key=sorted)
        break
    return places

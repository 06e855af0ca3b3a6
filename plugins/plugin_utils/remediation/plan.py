# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a report to the steps that repair: which remedy, on which host, in which order, and what is not done and why.

A step is one role on one host. Steps of one host are a round, hosts of different failure domains may share one, and
managers come last, never more at a time than the quorum can spare. Nothing here contacts a host.
"""

from __future__ import annotations

import json
import typing as t
from dataclasses import asdict, dataclass, field

from ansible_collections.crosshost.doctor.plugins.plugin_utils.remediation.variables import (
    Facts,
    VariablesError,
    complete,
    declared,
)

LOUD = ("critical", "warning")
DOMAIN = "doctor_failure_domain"


@dataclass
class Options:
    """What the operator asked for."""

    only: list[str] = field(default_factory=list)
    apply: bool = False
    allow_disruption: bool = False
    force: bool = False
    guard_timeout: int = 60
    run_id: str = ""


@dataclass
class Step:
    """One role on one host, and the findings it is for."""

    id: str
    host: str
    journal: str
    role: str
    kind: str
    risk: str
    disruptive: bool
    variables: Facts
    findings: list[str]
    causes: list[str]
    network: str | None
    explains: list[str]

    def public(self) -> Facts:
        return asdict(self)


@dataclass
class Plan:
    """The steps in rounds, what only a person can do, and what is not done although it could be."""

    rounds: list[list[Step]] = field(default_factory=list)
    manual: list[Facts] = field(default_factory=list)
    refused: list[Facts] = field(default_factory=list)

    def public(self) -> Facts:
        rounds = [
            {"hosts": sorted({s.host for s in steps}), "steps": [s.public() for s in steps]} for steps in self.rounds
        ]
        return {"rounds": rounds, "manual": self.manual, "refused": self.refused}


def plan(report: Facts, hosts: t.Mapping[str, t.Mapping[str, t.Any]], options: Options) -> Plan:
    """The plan for a valid report; C(hosts) are the hosts of the play with their variables.

    @raises VariablesError: the report asks a role for something it does not know.
    """
    found = Plan()
    steps: dict[str, Step] = {}
    for finding in report["findings"]:
        if not _wanted(finding, options):
            continue
        chosen, refused = _choose(finding, options)
        found.refused += refused
        found.manual += [_by_hand(finding, remedy) for remedy in finding["remedies"] if not remedy["role"]]
        for remedy in chosen:
            places = remedy["hosts"] or finding["hosts"]
            wanted = [host for host in places if not options.only or _named(finding, host, options.only)]
            for host in wanted:
                if host in hosts:
                    _add(steps, finding, remedy, host, options)
            for why, left in (
                ("doctor_only leaves it out", [host for host in places if host not in wanted]),
                ("not among the hosts of this play", [host for host in wanted if host not in hosts]),
            ):
                found.refused += [_refusal(finding, remedy, left, why)] if left else []
    found.rounds = _rounds(list(steps.values()), report, hosts, options, found.refused)
    return found


def _wanted(finding: Facts, options: Options) -> bool:
    """Findings that break something; others only where they are asked for by name."""
    if options.only:
        return any(_named(finding, host, options.only) for host in [*_places(finding), ""])
    return finding["severity"] in LOUD


def _places(finding: Facts) -> list[str]:
    return sorted({host for remedy in finding["remedies"] for host in remedy["hosts"]} | set(finding["hosts"]))


def _named(finding: Facts, host: str, only: t.Collection[str]) -> bool:
    return bool({finding["id"], finding["cause"], host} & set(only))


def _choose(finding: Facts, options: Options) -> tuple[list[Facts], list[Facts]]:
    """The remedies to carry out, and refusals of the others.

    A cure that interrupts something needs its own consent; until it is given, what relieves is done instead.
    """
    able = [remedy for remedy in finding["remedies"] if remedy["role"]]
    cures = [remedy for remedy in able if remedy["kind"] == "cure"]
    allowed = [remedy for remedy in cures if options.allow_disruption or not remedy["disruptive"]]
    waiting = [remedy for remedy in able if remedy["disruptive"] and not options.allow_disruption]
    refused = [
        _refusal(finding, remedy, None, "it interrupts traffic: it needs -e doctor_allow_disruption=true")
        for remedy in waiting
    ]
    relief = [remedy for remedy in able if remedy["kind"] == "mitigation" and remedy not in waiting]
    if not allowed:
        return relief, refused
    return allowed, refused + [_refusal(finding, remedy, None, "the cure makes it unnecessary") for remedy in relief]


def _refusal(finding: Facts, remedy: Facts, hosts: list[str] | None, why: str) -> Facts:
    return {
        "finding": finding["id"],
        "cause": finding["cause"],
        "hosts": hosts or remedy["hosts"] or finding["hosts"],
        "role": remedy["role"],
        "kind": remedy["kind"],
        "risk": remedy["risk"],
        "why": why,
    }


def _by_hand(finding: Facts, remedy: Facts) -> Facts:
    return {
        "finding": finding["id"],
        "cause": finding["cause"],
        "hosts": remedy["hosts"] or finding["hosts"],
        "kind": remedy["kind"],
        "manual": remedy["manual"],
        "risk": remedy["risk"],
    }


def _add(steps: dict[str, Step], finding: Facts, remedy: Facts, host: str, options: Options) -> None:
    """A step, or one more finding for a step that is there already."""
    role, given = remedy["role"], dict(remedy["vars"])
    known = declared(role)
    own = {f"{role}_allow_disruption": options.allow_disruption, f"{role}_guard_timeout": options.guard_timeout}
    given |= {name: value for name, value in own.items() if name in known}
    try:
        variables = complete(role, given)
    except VariablesError as exc:
        raise VariablesError(f"finding {finding['id']}: {exc}") from exc
    key = json.dumps([host, role, variables], sort_keys=True)
    if key not in steps:
        number = len(steps) + 1
        journal = f"{options.run_id or 'remediate'}-{number}-{role}"
        steps[key] = Step(
            id=f"{number}-{role}",
            host=host,
            journal=journal,
            role=role,
            kind=remedy["kind"],
            risk=remedy["risk"],
            disruptive=remedy["disruptive"],
            variables={**variables, f"{role}_journal": journal},
            findings=[],
            causes=[],
            network=finding["network"],
            explains=[],
        )
    step = steps[key]
    step.findings.append(finding["id"])
    step.causes += [finding["cause"]] if finding["cause"] not in step.causes else []
    step.explains += [pair for pair in finding["explains"] if pair not in step.explains]


def _rounds(
    steps: list[Step],
    report: Facts,
    hosts: t.Mapping[str, t.Mapping[str, t.Any]],
    options: Options,
    refused: list[Facts],
) -> list[list[Step]]:
    managers = {name for name, host in report["hosts"].items() if "swarm-manager" in host["roles"]}
    down = {name for name in managers if not report["hosts"][name]["reachable"] or report["hosts"][name]["error"]}
    spare = (len(managers) - 1) // 2 - len(down)
    kept = []
    for step in steps:
        risky = step.disruptive and step.host in managers and len(managers) > 1
        if risky and spare < 1 and not options.force:
            why = f"the quorum of {len(managers)} managers can spare none ({len(down)} of them down)"
            refused.append(
                {
                    "finding": step.findings[0],
                    "cause": step.causes[0],
                    "hosts": [step.host],
                    "role": step.role,
                    "kind": step.kind,
                    "risk": step.risk,
                    "why": why,
                }
            )
        else:
            kept.append(step)
    rounds: list[list[Step]] = []
    for group in (False, True):
        waiting = [name for name in dict.fromkeys(step.host for step in kept) if (name in managers) == group]
        while waiting:
            domains: set[str] = set()
            batch: list[str] = []
            for name in list(waiting):
                domain = str(hosts[name].get(DOMAIN) or "")
                if domain not in domains and not (group and batch):  # managers one at a time
                    domains.add(domain)
                    batch.append(name)
                    waiting.remove(name)
            rounds.append([step for step in kept if step.host in batch])
    return rounds


def with_pairs(rounds: t.Sequence[Facts], report: Facts) -> list[Facts]:
    """Each round with the pairs to ask again after it: what it is to mend, and all that it interrupts."""
    found = []
    for entry in rounds:
        pairs = {pair for step in entry["steps"] for pair in step["explains"]}
        stopped = {step["host"] for step in entry["steps"] if step["disruptive"]}
        pairs |= {pair["id"] for pair in report["pairs"] if stopped & {pair["src"]["host"], pair["dst"]["host"]}}
        found.append({**entry, "pairs": sorted(pairs)})
    return found

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine: a pure function from a run folder to a report."""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CRITICAL,
    SEVERITIES,
    WARNING,
    Case,
    Finding,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.registry import decide_all
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet, Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation, observe
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Facts, Pair
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace import load_traces
from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder

SCHEMA_VERSION = "1"
PLAN_LABELS = ("first", "again")
STANDING = ("paused", "restarting")  # states of containers that are meant to run, and do not
NODES = 4  # of the Swarm that are named where nothing was asked of them

# The first hop that no longer sees a packet lost in a segment, and the hop a reply misses.
HOP_AFTER = {
    "container": "veth",
    "bridge": "vtep",
    "vtep": "vtep",
    "host-filter-out": "nic",
    "underlay": "nic",
    "host-filter-in": "vtep",
    "host-stack": "nat",
    "nat": "nat",
    "service": "nat",
}


def load(folder: RunFolder) -> Case:
    """Facts and probe results of a run, ready to be decided."""
    fleet = Fleet.load(folder)
    plans = {label: load_plan(folder, label) for label in PLAN_LABELS}
    return Case(fleet, observe(fleet, plans), load_traces(folder, fleet))


def load_plan(folder: RunFolder, label: str) -> list[Pair]:
    return [Pair.load(row) for row in folder.read(f"plan/{label}/pairs.json") or []]


def diagnose(folder: RunFolder) -> Facts:
    """The report of a run folder, as DESIGN.md 4.2 and report.schema.json describe it, without its times."""
    case = load(folder)
    decide_all(case)
    findings = _numbered(case.findings)
    explained = _explanations(findings)
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": _verdict(case, findings),
        "hosts": {host.name: _host(host) for host in case.fleet.hosts.values()},
        "pairs": [
            o.public([f.id for f in explained.get(o.pair.id, [])], _broken_at(case, o, explained.get(o.pair.id, [])))
            for o in case.observations
        ],
        "findings": [finding.public() for finding in findings],
        "checks_skipped": checks_skipped(case),
    }


def _numbered(findings: list[Finding]) -> list[Finding]:
    """Worst first, with ids that say what and where."""
    ordered = sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), f.cause, f.hosts, f.summary))
    seen: dict[str, int] = {}
    for finding in ordered:
        base = f"{finding.cause}@{'+'.join(finding.hosts) or 'fleet'}"
        seen[base] = seen.get(base, 0) + 1
        finding.id = base if seen[base] == 1 else f"{base}#{seen[base]}"
    return ordered


def _explanations(findings: list[Finding]) -> dict[str, list[Finding]]:
    explained: dict[str, list[Finding]] = {}
    for finding in findings:
        for pair in finding.explains:
            explained.setdefault(pair, []).append(finding)
    return explained


def _broken_at(case: Case, observation: Observation, findings: list[Finding]) -> Facts | None:
    """The first hop that misses the pair's packets: as taps saw it, else as the finding that explains it says."""
    if not observation.broken:
        return None
    trace = case.trace(observation)
    if trace is not None and trace.broken is not None and trace.broken.missing is not None:
        missing = trace.broken.missing
        return {"hop": missing.name, "host": missing.host, "direction": trace.broken.direction}
    if not findings:
        return None
    finding = findings[0]
    hop = HOP_AFTER.get(finding.segment)
    if hop is None or len(finding.hosts) != 1:
        return None
    place, (src, dst) = finding.hosts[0], observation.pair.hosts
    forward = {"in": dst, "out": src}.get(finding.direction or "", src if place == src else dst)
    return {"hop": hop, "host": place, "direction": "forward" if place == forward else "reply"}


def _verdict(case: Case, findings: list[Finding]) -> str:
    severities = {finding.severity for finding in findings}
    if CRITICAL in severities:
        return "broken"
    if WARNING in severities:
        return "degraded"
    tested = any(observation.verdict() != "untested" for observation in case.observations)
    asked = all(host.answered and host.facts.engine.get("state") != "unknown" for host in case.fleet.hosts.values())
    return "healthy" if tested and asked else "inconclusive"


def _host(host: Host) -> Facts:
    facts = host.facts.facts
    system, engine = facts.get("host") or {}, facts.get("engine") or {}
    roles = []
    if host.facts.in_swarm:
        roles.append("swarm-manager" if host.facts.is_manager else "swarm-worker")
    if engine.get("state") in ("running", "down", "silent"):
        roles.append("engine")
    return {
        "reachable": not host.unreachable,
        "error": host.error,
        "platform": {
            "kernel": system.get("kernel"),
            "python": system.get("python"),
            "distribution": system.get("distribution") or {},
            "engine": engine.get("version"),
            "underlay_ip": host.underlay_ip,
        },
        "roles": roles,
    }


def _unasked(case: Case) -> t.Iterator[Facts]:
    """The nodes of the Swarm that nothing was asked of."""
    nodes = [f"{name} ({ip})" if name else ip for ip, name in sorted(case.fleet.unasked.items())]
    if nodes:
        words = ", ".join(nodes[:NODES]) + (f" and {len(nodes) - NODES} more" if len(nodes) > NODES else "")
        teller = (case.fleet.managers or case.fleet.swarm_hosts)[0]
        why = "no host that answered is among them: put them into the inventory, or leave the limit out"
        yield {"check": f"{len(nodes)} other node(s) of the Swarm: {words}", "host": teller.name, "why": why}


def checks_skipped(case: Case) -> list[Facts]:
    """Everything that could not be looked at, and why: what the verdict does not cover."""
    rows: list[Facts] = [*_unasked(case)]
    for host in case.fleet.hosts.values():
        if host.error:
            rows.append({"check": "all checks", "host": host.name, "why": host.error})
        rows += [{"check": call, "host": host.name, "why": why} for call, why in host.failures]
        engine = host.facts.engine
        if host.answered and engine.get("state") in ("absent", "unknown"):
            why = engine.get("error") or "no container engine was found"
            rows.append({"check": "engine", "host": host.name, "why": why})
        for container in host.facts.facts.get("containers") or []:
            if container.get("state") in STANDING:
                why = f"it is {container['state']}: nothing was asked of it, and it answers nobody"
                rows.append({"check": f"container {container['name']}", "host": host.name, "why": why})
        readings: list[t.Mapping[str, t.Any]] = [snapshot.facts for snapshot in host.snapshots.values()]
        for reading in [*readings, *host.probes.values()]:
            for missing in reading.get("missing") or []:
                rows.append(
                    {"check": f"{missing['section']}: {missing['what']}", "host": host.name, "why": missing["why"]}
                )
    for observation in case.observations:
        if observation.verdict() == "untested" and case.host(observation.pair.src.host or "").answered:
            why = observation.forgiven or next(
                (r.get("detail") for r in observation.results.values() if r.get("detail")), None
            )
            rows.append(
                {
                    "check": f"probes {observation.pair.id}",
                    "host": observation.pair.src.host,
                    "why": why or "the probes could not be sent",
                }
            )
    return [dict(row) for row in {tuple(sorted(row.items())): row for row in rows}.values()]

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Did it help? Two reports are compared, the one a repair went by and one made after it, step by step.

A step helped when its finding is gone from its host and the pairs that the finding explained work. Pairs may still be
broken by what is not removed yet: another cause, or the same one on a host whose turn comes later. Where none of them
works for that reason, the step is kept as applied, and nobody says that it helped until a later round shows it. A
mitigation leaves its cause in place: there the pairs alone decide, and where the probe that failed cannot pass by
design (a full-size echo through a clamped path), nothing may have become worse.
"""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.registry import seen_by_packets_alone
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remediation.plan import LOUD

Facts = dict[str, t.Any]

HELPED, NOT_HELPED, RELIEVED = "helped", "did not help", "applied"
OUTDATED, TAKEN_BACK = "outdated", "taken back"
BROKEN = ("failed", "degraded")


def judge(before: Facts, after: Facts, steps: t.Sequence[Facts], left: t.Collection[str] = ()) -> list[Facts]:
    """For each step C({id, outcome, why, asked}); C(asked) is false where its pairs could not be asked at all.

    @param left: ids of the findings of C(before) that are not removed yet, also of these steps' own on other hosts.
    """
    worse = _worse(before, after)
    return [{"id": step["id"], "asked": True, **_judge_one(before, after, step, worse, left)} for step in steps]


def outdated(before: Facts, now: Facts, step: Facts) -> str | None:
    """Why a step is not needed any more, by a report of steps 1 and 2 made just now; None while it is.

    Causes that only step 3 can see are not looked for again: there the pairs tell that failed, and where none did (a
    path that is slow, or that a sender has learned by now), nothing speaks against the report.
    """
    if any(_same(finding, step) for finding in now["findings"]):
        return None
    pairs = {pair["id"]: pair["verdict"] for pair in now["pairs"]}
    if any(pairs.get(name) in BROKEN for name in step["explains"]):
        return None
    host = now["hosts"].get(step["host"]) or {}
    if host.get("error") or not host.get("reachable", True):
        return f"{step['host']} cannot be asked whether it still is so: {host.get('error') or 'unreachable'}"
    failed = [row["id"] for row in before["pairs"] if row["verdict"] == "failed" and row["id"] in step["explains"]]
    if not failed and seen_by_packets_alone(step["causes"]):
        return None
    return f"the report is older than the state: {', '.join(step['causes'])} is no longer found on {step['host']}"


def _judge_one(before: Facts, after: Facts, step: Facts, worse: list[str], left: t.Collection[str]) -> Facts:
    pairs = {pair["id"]: pair for pair in after["pairs"]}
    asked = [pairs[name] for name in step["explains"] if name in pairs]
    host = after["hosts"].get(step["host"]) or {}
    if host.get("error") or not host.get("reachable", True):
        return _not(f"{step['host']} could not be asked afterwards: {host.get('error') or 'unreachable'}")
    if worse:
        return _not("broken since: " + ", ".join(worse[:3]))
    failing = {pair["id"]: _others(before, after, pair, step, left) for pair in asked if pair["verdict"] in BROKEN}
    broken = [name for name, others in failing.items() if not others]
    works = [pair for pair in asked if pair["verdict"] == "ok"]
    if step["kind"] == "mitigation" and broken:
        return {"outcome": RELIEVED, "why": f"{len(broken)} pairs still fail in the layer of the cause, which stays"}
    if step["kind"] == "cure":
        # A wrong state that breaks nothing any more is no fault, but it may well be why pairs fail.
        still = [f["id"] for f in after["findings"] if _same(f, step, any_severity=bool(failing) and not works)]
        if still:
            return _not(f"{still[0]} is still found")
        if broken:
            return _not(f"{len(broken)} of {len(asked)} pairs are still broken, first {broken[0]}")
    others = sorted({name for names in failing.values() for name in names})
    wait = f"wait for {', '.join(others[:3])}"
    if not asked and seen_by_packets_alone(step["causes"]):
        return {"outcome": RELIEVED, "why": "whether it is gone, only a new diagnosis can see"}
    if not asked:
        return {"outcome": HELPED, "why": "the finding is gone"}
    if works:
        rest = f", the others {wait}" if others else ""
        return {"outcome": HELPED, "why": f"{len(works)} of {len(asked)} pairs that were broken work{rest}"}
    why = f"its pairs {wait}" if others else "its pairs could not be asked"
    return {"outcome": RELIEVED, "why": why, "asked": bool(others)}


def _not(why: str) -> Facts:
    return {"outcome": NOT_HELPED, "why": why}


def _same(finding: Facts, step: Facts, any_severity: bool = False) -> bool:
    """Whether a finding is what the step was to remove."""
    return (
        finding["cause"] in step["causes"]
        and (any_severity or finding["severity"] in LOUD)
        and (not finding["hosts"] or step["host"] in finding["hosts"])
        and finding["network"] in (None, step["network"])
    )


def _others(before: Facts, after: Facts, pair: Facts, step: Facts, left: t.Collection[str]) -> list[str]:
    """The findings that break a pair besides: those of before that are left, or all that explains it now, if known."""
    then: list[str] = next((row["explained_by"] for row in before["pairs"] if row["id"] == pair["id"]), [])
    others = [name for name in then if name in left]
    now = [finding for finding in after["findings"] if finding["id"] in pair["explained_by"]]
    if all(_known(before, finding) and not _same(finding, step) for finding in now):
        others += [finding["id"] for finding in now if finding["id"] not in others]
    return others


def _known(before: Facts, finding: Facts) -> bool:
    """Whether a finding was there before, on these hosts or on more."""
    return any(
        old["cause"] == finding["cause"] and {*finding["hosts"]} <= {*old["hosts"]} for old in before["findings"]
    )


def _worse(before: Facts, after: Facts) -> list[str]:
    """Pairs that worked before and do not now."""
    worked = {pair["id"] for pair in before["pairs"] if pair["verdict"] == "ok"}
    return [pair["id"] for pair in after["pairs"] if pair["verdict"] == "failed" and pair["id"] in worked]

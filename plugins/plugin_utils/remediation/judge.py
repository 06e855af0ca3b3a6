# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Did it help? Two reports are compared, the one a repair went by and one made after it, step by step.

A step helped when its finding is gone from its host and the pairs that the finding explained work. Pairs may still be
broken by something else that was known before: where none of them works for that reason, or none could be asked, the
step is kept as applied, and nobody says that it helped. A mitigation leaves its cause in place: there the pairs alone
decide, and where the probe that failed cannot pass by design (a full-size echo through a clamped path), nothing may
have become worse.
"""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.remediation.plan import LOUD

Facts = dict[str, t.Any]

HELPED, NOT_HELPED, RELIEVED = "helped", "did not help", "applied"
OUTDATED, TAKEN_BACK = "outdated", "taken back"
BROKEN = ("failed", "degraded")


def judge(before: Facts, after: Facts, steps: t.Sequence[Facts]) -> list[Facts]:
    """For each step C({id, outcome, why})."""
    worse = _worse(before, after)
    return [{"id": step["id"], **_judge_one(before, after, step, worse)} for step in steps]


def outdated(now: Facts, step: Facts) -> str | None:
    """Why a step is not needed any more, by a report made just now; None while it is.

    Causes that only step 3 can see are not looked for again: there the pairs tell.
    """
    if any(_same(finding, step) for finding in now["findings"]):
        return None
    pairs = {pair["id"]: pair["verdict"] for pair in now["pairs"]}
    if any(pairs.get(name) in BROKEN for name in step["explains"]):
        return None
    host = now["hosts"].get(step["host"]) or {}
    if host.get("error") or not host.get("reachable", True):
        return f"{step['host']} cannot be asked whether it still is so: {host.get('error') or 'unreachable'}"
    return f"the report is older than the state: {', '.join(step['causes'])} is no longer found on {step['host']}"


def _judge_one(before: Facts, after: Facts, step: Facts, worse: list[str]) -> Facts:
    pairs = {pair["id"]: pair for pair in after["pairs"]}
    asked = [pairs[name] for name in step["explains"] if name in pairs]
    host = after["hosts"].get(step["host"]) or {}
    if host.get("error") or not host.get("reachable", True):
        return _not(f"{step['host']} could not be asked afterwards: {host.get('error') or 'unreachable'}")
    if worse:
        return _not("broken since: " + ", ".join(worse[:3]))
    failing = [pair for pair in asked if pair["verdict"] in BROKEN]
    broken = [pair for pair in failing if not _other(before, after, pair, step)]
    works = [pair for pair in asked if pair["verdict"] == "ok"]
    if step["kind"] == "mitigation":
        if not broken:
            return _works(works, asked)
        return {"outcome": RELIEVED, "why": f"{len(broken)} pairs still fail in the layer of the cause, which stays"}
    # A wrong state that breaks nothing any more is no fault, but it may well be why pairs fail.
    still = [f["id"] for f in after["findings"] if _same(f, step, any_severity=bool(failing) and not works)]
    if still:
        return _not(f"{still[0]} is still found")
    if broken:
        return _not(f"{len(broken)} of {len(asked)} pairs are still broken, first {broken[0]['id']}")
    return _works(works, asked)


def _not(why: str) -> Facts:
    return {"outcome": NOT_HELPED, "why": why}


def _works(works: list[Facts], asked: list[Facts]) -> Facts:
    """What to say when nothing speaks against the step."""
    if not asked:
        return {"outcome": HELPED, "why": "the finding is gone"}
    if works:
        return {"outcome": HELPED, "why": f"{len(works)} of {len(asked)} pairs that were broken work"}
    others = sorted({name for pair in asked for name in pair["explained_by"]})
    why = f"something else breaks the pairs: {', '.join(others[:3])}" if others else "the pairs could not be asked"
    return {"outcome": RELIEVED, "why": f"the finding is gone; {why}"}


def _same(finding: Facts, step: Facts, any_severity: bool = False) -> bool:
    """Whether a finding is what the step was to remove."""
    return (
        finding["cause"] in step["causes"]
        and (any_severity or finding["severity"] in LOUD)
        and (not finding["hosts"] or step["host"] in finding["hosts"])
        and finding["network"] in (None, step["network"])
    )


def _other(before: Facts, after: Facts, pair: Facts, step: Facts) -> bool:
    """Whether something that was known before, and is not this step's, breaks the pair now."""
    known = {(finding["cause"], tuple(finding["hosts"])) for finding in before["findings"]}
    reasons = [finding for finding in after["findings"] if finding["id"] in pair["explained_by"]]
    return bool(reasons) and all(
        (finding["cause"], tuple(finding["hosts"])) in known and not _same(finding, step) for finding in reasons
    )


def _worse(before: Facts, after: Facts) -> list[str]:
    """Pairs that worked before and do not now."""
    worked = {pair["id"] for pair in before["pairs"] if pair["verdict"] == "ok"}
    return [pair["id"] for pair in after["pairs"] if pair["verdict"] == "failed" and pair["id"] in worked]

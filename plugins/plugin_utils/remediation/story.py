# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a repair says on the terminal, within 80 columns: what was or would be done, what was not, and what is next."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.remediation.judge import (
    HELPED,
    OUTDATED,
    RELIEVED,
    TAKEN_BACK,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.report.summary import RULE, wrapped

Facts = dict[str, t.Any]

NOT_REACHED = {"outcome": "not reached", "why": "its host, or the play, came to an end before"}
GOOD = (HELPED, RELIEVED, OUTDATED, TAKEN_BACK)


def failures(record: Facts) -> list[str]:
    """The steps that did not do what they were for, one line each. Of a repair that is undone, only what is undone."""
    good = GOOD if record.get("undoing") is None else (TAKEN_BACK,)
    rows = {step["id"]: record["outcomes"].get(step["id"], NOT_REACHED) for step in _steps(record)}
    return [f"{name} {row['outcome']}: {row['why']}" for name, row in rows.items() if row["outcome"] not in good]


def tell(record: Facts, path: str) -> str:
    """The summary of a repair whose record was written to C(path)."""
    steps = _steps(record)
    applied = record["options"]["apply"]
    lines = [RULE, _headline(steps, record, applied), RULE]
    for step in steps:
        lines += _step(step, record["outcomes"].get(step["id"]), applied)
    if record.get("undoing") is None:
        lines += _not_done(record["refused"])
        lines += _by_hand(record["manual"])
        lines += _next(steps, record, applied, path)
    return "\n".join([*lines, f"record: {path}"])


def _steps(record: Facts) -> list[Facts]:
    """All steps; those that are undone, where this is about that."""
    undoing = record.get("undoing")
    steps = [step for entry in record["rounds"] for step in entry["steps"]]
    if undoing is None:
        return steps
    return [step for step in [*record.get("earlier", []), *steps] if step["id"] in undoing]


def _headline(steps: list[Facts], record: Facts, applied: bool) -> str:
    bad = len(failures(record))
    if record.get("undoing") is not None and steps and not applied:
        return f"crosshost.doctor repair: {_count(steps)} would be TAKEN BACK, nothing changed"
    if record.get("undoing") is not None:
        left = f"{bad} of {_count(steps)} NOT TAKEN BACK" if bad else f"{_count(steps)} TAKEN BACK"
        return "crosshost.doctor repair: " + (left if steps else "nothing is in force that could be taken back")
    if not steps:
        counts = {"NOT DONE": len(record["refused"]), "BY HAND": len(record["manual"])}
        words = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        return f"crosshost.doctor repair: {words or 'nothing to do'}"
    if not applied:
        return f"crosshost.doctor repair: {_count(steps)} SHOWN, nothing changed"
    return f"crosshost.doctor repair: {_count(steps)}, " + (f"{bad} DID NOT HELP" if bad else "DONE")


def _count(steps: list[Facts]) -> str:
    return f"{len(steps)} step" + ("" if len(steps) == 1 else "s")


def _step(step: Facts, outcome: Facts | None, applied: bool) -> list[str]:
    word = "cures" if step["kind"] == "cure" else "relieves, and does not cure,"
    lines = wrapped("step", f"{step['host']}: {step['role']} {word} {', '.join(step['causes'])}")
    lines += wrapped("risk", step["risk"])
    if outcome:
        lines += wrapped("then", f"{outcome['outcome']}: {outcome['why']}")
    elif applied:
        lines += wrapped("then", f"{NOT_REACHED['outcome']}: {NOT_REACHED['why']}")
    return lines


def _not_done(refused: list[Facts]) -> list[str]:
    lines = []
    for row in refused:
        text = f"{', '.join(row['hosts'])}: {row['role']} ({row['kind']} of {row['cause']}): {row['why']}"
        lines += wrapped("not", text)
        lines += wrapped("risk", row["risk"])
    return lines


def _by_hand(manual: list[Facts]) -> list[str]:
    lines = []
    for row in manual:
        where = ", ".join(row["hosts"]) or "the fleet"
        lines += wrapped("hand", f"{where}: {row['kind']} of {row['cause']}: " + "; ".join(row["manual"]))
    return lines


def _next(steps: list[Facts], record: Facts, applied: bool, path: str) -> list[str]:
    lines = []
    if steps and not applied:
        lines += wrapped(
            "next", "the same command with -e doctor_apply=true applies it and asks the failed pairs again"
        )
    if any(row["outcome"] in (HELPED, RELIEVED) for row in record["outcomes"].values()):
        lines += wrapped("undo", f"the same command with -e doctor_undo={os.path.dirname(path)} takes it back")
    return lines

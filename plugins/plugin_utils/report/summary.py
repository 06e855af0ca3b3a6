# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The terminal summary: the verdict, and each finding in three parts, within 80 columns."""

from __future__ import annotations

import textwrap
import typing as t
from collections import Counter

Facts = dict[str, t.Any]

WIDTH = 79
RULE = "-" * WIDTH
MAX_SKIPPED = 6


def clean(text: str) -> str:
    """Text from hosts, safe for a terminal: no control characters, one line."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def wrapped(label: str, text: str) -> list[str]:
    indent = " " * 8
    return textwrap.wrap(
        clean(text),
        WIDTH,
        initial_indent=f"  {label:<5} ",
        subsequent_indent=indent,
        break_long_words=True,
        break_on_hyphens=False,
    )


def summarise(report: Facts, path: str) -> str:
    """The summary of a report that was written to C(path)."""
    lines = [RULE, _headline(report), *_coverage(report), RULE]
    for finding in report["findings"]:
        lines += _finding(finding)
    lines += _skipped(report["checks_skipped"])
    lines.append(f"report: {path}")
    return "\n".join(lines)


def _headline(report: Facts) -> str:
    counts = Counter(finding["severity"] for finding in report["findings"])
    words = ", ".join(
        f"{counts[severity]} {severity}" for severity in ("critical", "warning", "info") if counts[severity]
    )
    return f"crosshost.doctor: {report['verdict'].upper()}" + (f"  ({words})" if words else "")


def _coverage(report: Facts) -> list[str]:
    verdicts = Counter(pair["verdict"] for pair in report["pairs"])
    asked = sum(verdicts.values())
    answered = sum(1 for host in report["hosts"].values() if not host["error"])
    failed = f", {verdicts['failed']} failed" if verdicts["failed"] else ""
    untested = f", {verdicts['untested']} untested" if verdicts["untested"] else ""
    hosts = f"{answered} of {len(report['hosts'])} hosts answered"
    return [f"{hosts}; {asked} pairs probed, {verdicts['ok']} ok{failed}{untested}"]


def _finding(finding: Facts) -> list[str]:
    place = f"on {', '.join(finding['hosts']) or 'unknown'}  [{finding['segment']}, {finding['confidence']}]"
    title = f"{finding['severity'].upper()}  {finding['cause']}  {clean(place)}"
    lines = textwrap.wrap(title, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    lines += wrapped("what", finding["summary"])
    if finding["evidence"]:
        first = finding["evidence"][0]
        expected = f" (expected: {first['expected']})" if first["expected"] else ""
        lines += wrapped("seen", f"{first['host'] or '-'}: {first['source']}: {first['observed']}{expected}")
        if first["verify"]:
            lines += wrapped("check", first["verify"])
    for remedy in finding["remedies"][:1]:
        lines += wrapped("do", " ".join(remedy["manual"][:2]))
    fix = _roles(finding["remedies"])
    if fix:
        lines += wrapped("fix", f"crosshost.doctor.remediate applies {fix} (shows it first)")
    return [*lines, ""]


def _roles(remedies: list[Facts]) -> str:
    """The roles that repair a finding; of what only relieves it, it says so."""
    named = {
        kind: list(dict.fromkeys(row["role"] for row in remedies if row.get("role") and row["kind"] == kind))
        for kind in ("cure", "mitigation")
    }
    words = [", ".join(named["cure"])] if named["cure"] else []
    words += [f"as a mitigation {', '.join(named['mitigation'])}"] if named["mitigation"] else []
    return ", ".join(words)


def _skipped(rows: list[Facts]) -> list[str]:
    if not rows:
        return []
    lines = ["could not be checked:"]
    for row in rows[:MAX_SKIPPED]:
        lines += textwrap.wrap(
            clean(f"{row['host'] or '-'}: {row['check']}: {row['why']}"),
            WIDTH,
            initial_indent="  ",
            subsequent_indent="    ",
            break_on_hyphens=False,
        )
    if len(rows) > MAX_SKIPPED:
        lines.append(f"  and {len(rows) - MAX_SKIPPED} more, see checks_skipped in the report")
    return [*lines, ""]

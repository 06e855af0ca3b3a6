# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running a diagnosis on the lab, and holding its report against what a fault is known to break."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from tests.lab import Lab
from tests.playbook import Run, diagnose


def run(lab: Lab, tmp_path: Path, *arguments: str, **extra: Any) -> Run:
    inventory = lab.write_inventory(tmp_path / "inventory.ini")
    done = diagnose(inventory, tmp_path / "report", *arguments, **extra)
    assert "Traceback" not in done.output, done.output
    return done


def words(findings: list[dict[str, Any]]) -> list[str]:
    return [f"{f['severity']} {f['cause']} on {f['hosts']} [{f['segment']}]: {f['summary']}" for f in findings]


def ends(pair: dict[str, Any]) -> tuple[str | None, str | None]:
    return pair["src"]["host"], pair["dst"]["host"]


def matches(wanted: str, end: dict[str, Any]) -> bool:
    return wanted in ("*", end["host"], end["name"])


def expected_pairs(report: dict[str, Any], expected: dict[str, Any]) -> set[str]:
    """The ids of the report's pairs that the fault breaks, of the kinds both the lab's survey and the report know."""
    return {
        pair["id"]
        for wanted in expected["pairs"]
        for pair in report["pairs"]
        if _kind(pair) == wanted["kind"].partition("-")[0] and _is_meant(pair, wanted)
    }


def _kind(pair: dict[str, Any]) -> str:
    src, dst = pair["src"]["kind"], pair["dst"]["kind"]
    if dst == "published-port" and src == "host":
        return "published"
    if dst == "container" and pair["network"]:
        return "overlay"
    return "egress" if (src, dst) == ("container", "host") else "other"


def _is_meant(pair: dict[str, Any], wanted: dict[str, Any]) -> bool:
    src, dst = ends(pair)
    if wanted["kind"] == "published":
        return wanted["dst"] in (dst, pair["dst"]["name"])
    if wanted["kind"].startswith("egress"):
        on_overlay = wanted["kind"] == "egress-overlay"
        return matches(wanted["src"], pair["src"]) and on_overlay == (pair["network"] == "app")
    return src != dst and matches(wanted["src"], pair["src"]) and matches(wanted["dst"], pair["dst"])


# What this lab's own kernel and engines lack, whatever else is tested: named at info in every report.
NATIVE = {"ipvs-missing", "posture"}


def judge(report: dict[str, Any], expected: dict[str, Any], also: Collection[str] = ()) -> list[str]:
    """How a report differs from what a fault (or a trap: no cause) must yield; nothing if it is just that."""
    loud = [finding for finding in report["findings"] if finding["severity"] != "info"]
    quiet = [finding for finding in report["findings"] if finding["severity"] == "info"]
    failed = {pair["id"] for pair in report["pairs"] if pair["verdict"] == "failed"}
    problems = []
    if all(pair["verdict"] == "untested" for pair in report["pairs"]):
        problems.append(f"nothing was probed: {report['checks_skipped'][:2]}")
    if expected["severity"] == "info":
        if loud or failed:
            problems.append(f"nothing is broken, but the report says otherwise: {words(loud)} {sorted(failed)}")
        named = [finding for finding in quiet if finding["cause"] in expected["causes"]]
        if expected["causes"] and not named:
            problems.append(f"{expected['causes'][0]} is not named; info findings: {words(quiet)}")
        known = {*NATIVE, *also, *expected["causes"]}
        strange = [finding for finding in quiet if finding["cause"] not in known]
        problems += [f"named besides: {line}" for line in words(strange)]
    else:
        named = loud
        if len(loud) != 1:
            problems.append(f"{len(loud)} findings above info: {words(loud)}")
    for finding in named[:1]:
        for what, good in (
            ("cause", finding["cause"] in expected["causes"]),
            ("hosts", sorted(finding["hosts"]) == sorted(expected["hosts"])),
            ("segment", finding["segment"] in expected["segments"]),
            ("direction", expected["direction"] in (None, finding["direction"])),
            ("severity", finding["severity"] == expected["severity"]),
            ("evidence", bool(finding["evidence"])),
            ("remedies", bool(finding["remedies"]) or finding["severity"] == "info"),
        ):
            if not good:
                problems.append(f"{what} is wrong: {words([finding])}, expected {expected}")
        if failed != set(finding["explains"]):
            problems.append(f"failed pairs and explained ones differ: {sorted(failed ^ set(finding['explains']))}")
    if missed := expected_pairs(report, expected) - failed:
        problems.append(f"pairs the fault breaks are reported as working: {sorted(missed)}")
    return problems


def assert_named(done: Run, expected: dict[str, Any]) -> None:
    """One finding of the right cause, in the right place, that explains every pair the fault breaks."""
    assert done.code == 0, done.output
    assert judge(done.report, expected) == []

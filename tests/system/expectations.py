# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running a diagnosis on the lab, and holding its report against what a fault is known to break."""

from __future__ import annotations

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
    """The ids of the report's overlay pairs that the fault breaks."""
    found = set()
    for wanted in expected["pairs"]:
        for pair in report["pairs"]:
            if wanted["kind"] != "overlay" or not pair["network"] or pair["dst"]["kind"] != "container":
                continue
            src, dst = ends(pair)
            if src != dst and matches(wanted["src"], pair["src"]) and matches(wanted["dst"], pair["dst"]):
                found.add(pair["id"])
    return found


def assert_named(done: Run, expected: dict[str, Any]) -> None:
    """One finding above info, of the right cause, in the right place, that explains every pair the fault breaks."""
    assert done.code == 0, done.output
    report = done.report
    assert len(done.loud) == 1, "\n".join(words(done.loud))
    finding = done.loud[0]
    assert finding["cause"] in expected["causes"], words(done.loud)
    assert sorted(finding["hosts"]) == sorted(expected["hosts"]), words(done.loud)
    assert finding["segment"] in expected["segments"], words(done.loud)
    assert finding["severity"] == expected["severity"], words(done.loud)
    failed = {pair["id"] for pair in report["pairs"] if pair["verdict"] == "failed"}
    assert failed == set(finding["explains"])
    assert expected_pairs(report, expected) <= failed
    assert all(pair["explained_by"] == [finding["id"]] for pair in report["pairs"] if pair["verdict"] == "failed")
    assert finding["evidence"] and finding["remedies"]

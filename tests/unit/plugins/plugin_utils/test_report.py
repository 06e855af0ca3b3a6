# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report is valid whatever was found, a replay gives the same one, and the summary fits the screen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.plugin_utils.engine import diagnose
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.plan import first_round, schedule
from ansible_collections.crosshost.doctor.plugins.plugin_utils.report.schema import problems
from ansible_collections.crosshost.doctor.plugins.plugin_utils.report.summary import WIDTH, clean, summarise
from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder, safe_name
from ansible_collections.crosshost.doctor.plugins.plugin_utils.version import COLLECTION_VERSION
from tests.unit.made_fleet import answer, make_fleet

RECORDED = sorted((Path(__file__).parents[3] / "fixtures" / "facts").glob("*/"))


def finished(report: dict) -> dict:
    times = {"started_at": "2026-11-21T01:00:00Z", "finished_at": "2026-11-21T01:00:30Z"}
    return {**report, **times, "run_id": "r1", "collection_version": COLLECTION_VERSION}


def write_run(path: Path, facts: dict[str, dict], broken=lambda pair, key: None) -> RunFolder:
    """A run folder as the playbook leaves it after one round."""
    folder = RunFolder.create(str(path), {"run_id": "r1", "hosts": {name: {} for name in facts}, "question": {}})
    for name, content in facts.items():
        folder.write_record(name, "overlay_facts", "before", {"facts": content})
    fleet = make_fleet(0)
    fleet = type(fleet).load(folder)
    pairs = first_round(fleet)
    folder.write("plan/first/pairs.json", [pair.dump() for pair in pairs])
    for host, sources in schedule(fleet, pairs).items():
        folder.write(f"plan/first/{safe_name(host)}.json", sources)
        rows = [row for pair in pairs if pair.src.host == host for row in answer(pair, broken)]
        folder.write_record(host, "path_probe", "first", {"facts": {"results": rows, "missing": []}})
    return folder


def made(count: int) -> dict[str, dict]:
    return {name: host.facts.facts for name, host in make_fleet(count).hosts.items()}


@pytest.mark.parametrize("status", [None, "timeout", "unreachable", "refused", "error"])
def test_every_report_matches_its_schema_and_repeats(tmp_path, status):
    folder = write_run(tmp_path / "run", made(3), lambda p, k: status if "node2" in p.hosts else None)
    report = diagnose(folder)
    assert problems(finished(report)) == []
    assert diagnose(folder) == report
    assert all(len(line) <= WIDTH + 1 for line in summarise(finished(report), "/tmp/r").splitlines())


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda path: path.name)
def test_recorded_healthy_fleets_yield_nothing_above_info(tmp_path, recorded):
    facts = {path.stem: json.loads(path.read_text()) for path in sorted(recorded.glob("*.json"))}
    report = diagnose(write_run(tmp_path / "run", facts))
    assert report["verdict"] == "healthy"
    assert [finding for finding in report["findings"] if finding["severity"] != "info"] == []
    kinds = {pair["dst"]["kind"] for pair in report["pairs"]}
    assert {"host", "container", "published-port"} <= kinds


def test_a_report_that_lies_about_its_shape_is_refused(tmp_path):
    report = finished(diagnose(write_run(tmp_path / "run", made(2))))
    report["findings"] = [{"cause": "rm -rf /"}]
    assert problems(report)


def test_the_operator_sees_no_control_characters():
    assert clean("a\x1b[31mred\x07\nnext") == "a [31mred next"


@settings(max_examples=40, deadline=None)
@given(words=st.text(max_size=300))
def test_the_summary_holds_its_width_whatever_hosts_say(words):
    finding = {
        "severity": "critical",
        "cause": "vtep-down",
        "hosts": ["node1"],
        "segment": "vtep",
        "confidence": "likely",
        "summary": words,
        "evidence": [{"host": "node1", "source": words, "observed": words, "expected": words, "verify": words}],
        "remedies": [{"manual": [words]}],
    }
    report = {
        "verdict": "broken",
        "findings": [finding],
        "pairs": [],
        "hosts": {},
        "checks_skipped": [{"check": words, "host": "h", "why": words}],
    }
    text = summarise(report, "/r")
    assert all(len(line) <= 80 and line.isprintable() for line in text.splitlines())


def test_a_call_that_failed_later_in_the_run_is_said(tmp_path):
    folder = write_run(tmp_path / "run", made(2))
    folder.write_record("node2", "path_probe", "first", {"error": "no memory", "unreachable": False})
    report = diagnose(folder)
    assert {"check": "path_probe (first)", "host": "node2", "why": "no memory"} in report["checks_skipped"]

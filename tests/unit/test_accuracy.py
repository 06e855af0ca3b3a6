# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The figures of `make accuracy`: counted right, also when a diagnosis is wrong."""

from __future__ import annotations

from typing import Any

from tests import accuracy


def case(name: str, kind: str, causes: list[str], found: list[tuple[str, str, str]], **more: Any) -> dict[str, Any]:
    severity = "critical" if kind == "fault" else "info"
    expected = {"causes": causes, "hosts": ["node2"], "segments": ["vtep"], "severity": severity}
    rows = [
        {"cause": cause, "severity": severity, "confidence": "likely", "hosts": [host], "segment": "vtep"}
        for cause, severity, host in found
    ]
    return {
        "name": name,
        "kind": kind,
        "expected": expected,
        "found": rows,
        "problems": [],
        "seconds": 9.0,
        "revision": "abc1234",
        **more,
    }


RIGHT = case("vtep-down", "fault", ["vtep-down"], [("vtep-down", "critical", "node2"), ("posture", "info", "node1")])
WRONG_HOST = case("vtep-down:x", "fault", ["vtep-down"], [("vtep-down", "critical", "node3")], problems=["hosts"])
MISSED = case("bridge-down", "fault", ["bridge-down"], [], problems=["not named"])
TAKEN_FOR_ANOTHER = case("conntrack-full", "fault", ["conntrack-full"], [("veth-drops", "warning", "node2")])
FALSE_ALARM = case("trap:x", "trap", [], [("vtep-down", "critical", "node2")], problems=["loud"])
LATENT = case("mtu", "latent", ["docker-gwbridge-mtu"], [("docker-gwbridge-mtu", "info", "node2")])
SILENT = case("trap:y", "trap", [], [("ipvs-missing", "info", "node2")])
ALL = [RIGHT, WRONG_HOST, MISSED, TAKEN_FOR_ANOTHER, FALSE_ALARM, LATENT, SILENT]


def test_figures_count_what_was_named_where_and_what_was_said_for_nothing():
    figures = accuracy.figures(ALL)
    assert figures["recall"].startswith("3 of 5")
    assert figures["localisation"].startswith("2 of 3")
    assert figures["precision"].startswith("2 of 4")
    assert (figures["faults"], figures["traps"], figures["causes"]) == (5, 2, 4)


def test_the_confusion_matrix_holds_every_case_where_it_belongs():
    table = accuracy.confusion(ALL)
    assert table["vtep-down"] == {"vtep-down": 2}
    assert table["bridge-down"] == {accuracy.NOTHING: 1}
    assert table["conntrack-full"] == {"veth-drops": 1}
    assert table[accuracy.NOTHING] == {"vtep-down": 1, accuracy.NOTHING: 1}
    assert table["docker-gwbridge-mtu"] == {"docker-gwbridge-mtu": 1}


def test_the_page_shows_what_is_not_right():
    record = {
        "date": "2026-11-21",
        "machine": {"cores": 2, "kernel": "6.1"},
        "labs": 2,
        "figures": accuracy.figures(ALL),
        "confusion": accuracy.confusion(ALL),
        "not_measured": ["veth-drops"],
        "cases": ALL,
    }
    page = accuracy.page(record)
    assert "| conntrack-full | 0 | veth-drops (1) |" in page
    assert "| trap:x | trap | 9.0 | loud |" in page
    assert "`veth-drops`" in page

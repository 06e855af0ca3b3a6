# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operator's own question: from this container to that one, on this port."""

from __future__ import annotations

from pathlib import Path

from tests.lab import Lab
from tests.system.expectations import run, words


def test_one_path_is_diagnosed_alone(lab: Lab, tmp_path: Path) -> None:
    with lab.broken("data-udp-blocked-host-fw"):
        done = run(lab, tmp_path, doctor_from="app-node1", doctor_to="app-node2", doctor_port=80)
    assert [(f["cause"], f["hosts"]) for f in done.loud] == [("data-udp-blocked-host-fw", ["node2"])], words(done.loud)
    assert {(pair["src"]["host"], pair["dst"]["host"]) for pair in done.report["pairs"]} == {
        ("node1", "node2"),
        ("node2", "node1"),
    }


def test_a_port_nobody_listens_on(lab: Lab, tmp_path: Path) -> None:
    done = run(lab, tmp_path, doctor_from="app-node1", doctor_to="app-node3", doctor_port=5432)
    assert [(f["cause"], f["hosts"]) for f in done.loud] == [("service-not-listening", ["node3"])], words(done.loud)


def test_two_ends_without_a_common_network_are_isolated_by_design(lab: Lab, tmp_path: Path) -> None:
    done = run(lab, tmp_path, doctor_from="web-node1", doctor_to="app-node2")
    assert done.loud == []
    assert [f["cause"] for f in done.report["findings"]] == ["isolated-by-design"]


def test_a_name_nobody_has_says_who_was_meant(lab: Lab, tmp_path: Path) -> None:
    done = run(lab, tmp_path, doctor_from="app-nod1", doctor_to="app-node2")
    assert done.code != 0
    assert "did you mean app-node1" in done.output


def test_findings_fail_the_play_where_that_is_asked(lab: Lab, tmp_path: Path) -> None:
    with lab.broken("vtep-down"):
        done = run(lab, tmp_path, doctor_fail_on="critical")
    assert done.code == 2
    assert "doctor_fail_on=critical: vtep-down@node2" in done.output

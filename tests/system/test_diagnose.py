# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The diagnosis on real Docker hosts: right about every fault, silent about everything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import Lab
from tests.system.expectations import assert_named, run, words

# One of each cause. The other variants of the library: python -m tests.accuracy
FAULTS = [
    "data-udp-blocked-host-fw",
    "data-udp-blocked-host-fw:nft-policy",
    "data-udp-blocked-host-fw:output",
    "gossip-7946-blocked",
    "mgmt-2377-blocked:one-node",
    "if-forwarding-off",
    "ip-forward-zero",
    "overlay-entry-wrong",
    "vtep-down",
    "engine-down",
    "underlay-unreachable",
    "service-not-listening",
    "data-udp-blocked-network",
]


def test_a_healthy_swarm_yields_nothing_above_info(lab: Lab, tmp_path: Path) -> None:
    done = run(lab, tmp_path)
    assert done.code == 0, done.output
    assert done.report["verdict"] == "healthy", words(done.report["findings"])
    assert done.loud == []
    assert {pair["verdict"] for pair in done.report["pairs"]} == {"ok"}
    assert done.report["checks_skipped"] == []


@pytest.mark.parametrize(("asked", "left"), [("node1,node3", "node2 (192.0.2.12)"), ("node2,node3", "192.0.2.11")])
def test_nodes_that_are_left_out_are_said(lab: Lab, tmp_path: Path, asked: str, left: str) -> None:
    """By a manager with their names; workers alone know of the managers and of whoever is on their overlays."""
    done = run(lab, tmp_path, "--limit", asked)
    assert (done.report["verdict"], done.loud) == ("healthy", [])
    (row,) = done.report["checks_skipped"]
    assert row["check"] == f"1 other node(s) of the Swarm: {left}"
    assert row["check"] in " ".join(done.output.split())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_where_it_is_and_nothing_else_is(lab: Lab, tmp_path: Path, fault: str) -> None:
    with lab.broken(fault) as expected:
        done = run(lab, tmp_path)
    assert_named(done, expected)


@pytest.mark.parametrize("host", ["node1", "node3"])
def test_the_place_follows_the_fault(lab: Lab, tmp_path: Path, host: str) -> None:
    with lab.broken("data-udp-blocked-host-fw:nft-no-counter", host) as expected:
        done = run(lab, tmp_path)
    assert expected["hosts"] == [host]
    assert_named(done, expected)


def test_two_faults_on_two_hosts_are_both_named(lab: Lab, tmp_path: Path) -> None:
    lab.break_("data-udp-blocked-host-fw", "node3")
    lab.break_("if-forwarding-off", "node2")
    done = run(lab, tmp_path)
    lab.heal()
    assert done.code == 0, done.output
    found = {(finding["cause"], *finding["hosts"]) for finding in done.loud}
    assert found == {("data-udp-blocked-host-fw", "node3"), ("if-forwarding-off", "node2")}, words(done.loud)
    failed = {pair["id"] for pair in done.report["pairs"] if pair["verdict"] == "failed"}
    assert failed == {pair for finding in done.loud for pair in finding["explains"]}

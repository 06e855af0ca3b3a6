# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Partial loss: a path against the others of the same run, and the NIC that counts it."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace import FORWARD
from tests.unit.made_fleet import address, mac, make_fleet, run_case
from tests.unit.made_trace import follow
from tests.unit.plugins.plugin_utils.causes.traced_fleet import (
    FLAT,
    RISING,
    addressed,
    again,
    causes,
    count,
    filters_known,
    found,
    loud,
    overlay_between,
)

Meant = t.Callable[[Observation], bool]


def lossy_case(meant: Meant, received: int = 2, rounds: tuple[str, ...] = ("first", "again"), number: int = 3) -> Case:
    """Echoes of these pairs lose some in these rounds; everything else is answered."""
    return losing(run_case(filters_known(make_fleet(number))), meant, received, rounds)


def losing(case: Case, meant: Meant, received: int = 2, rounds: tuple[str, ...] = ("first", "again")) -> Case:
    for observation in case.observations:
        if meant(observation) and "icmp" in observation.rounds["first"]:
            good = observation.rounds["first"]["icmp"]
            for label in rounds:
                kept = observation.rounds.setdefault(label, dict(observation.rounds["first"]))
                kept["icmp"] = {**good, "received": received}
    return case


def between(*hosts: str) -> Meant:
    return lambda o: o.pair.kind in ("host", "overlay") and set(hosts) <= set(o.pair.hosts)


def test_a_path_that_loses_against_the_others_is_lossy():
    case = again(lossy_case(between("node2", "node3")))
    assert found(case) == [("path-lossy", ["node2", "node3"], "underlay", None, "likely", "warning")]
    assert "8 of 24" in loud(case)[0].summary and loud(case)[0].explains == []


def test_a_host_all_of_whose_paths_lose_is_named_alone():
    assert causes(again(lossy_case(between("node2")))) == [("path-lossy", ["node2"])]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(lossy_case(lambda o: True), id="all paths alike"),
        pytest.param(lossy_case(between("node2", "node3"), rounds=("first",)), id="one round only"),
        pytest.param(lossy_case(lambda o: o.pair.id == "node2>node3", rounds=("first", "again")), id="one probe only"),
        pytest.param(lossy_case(between("node1", "node2"), number=2), id="no other path to compare with"),
        pytest.param(lossy_case(between("node2", "node3"), received=3), id="nothing lost"),
    ],
)
def test_ordinary_loss_is_nothing(case):
    assert causes(again(case)) == []


def test_a_path_that_loses_little_more_than_the_others_is_nothing():
    case = lossy_case(between("node2", "node3"))
    for observation in case.observations:
        if observation.pair.kind in ("host", "overlay") and "node1" in observation.pair.hosts:
            results = observation.rounds["first"]
            results["icmp"] = {**results["icmp"], "received": 2}
    assert causes(again(case)) == []


def test_echo_that_nobody_answers_is_policy_and_no_loss():
    case = run_case(
        filters_known(make_fleet(3)),
        lambda p, k: "timeout" if p.kind == "host" and k == "icmp" and "node2" in p.hosts else None,
    )
    assert causes(case) == []


def test_taps_tell_where_it_begins():
    case = lossy_case(between("node2", "node3"))
    chosen = [o for o in case.observations if o.pair.id == "node2/app-2>node3/app-3@app"]
    follow(case, chosen, (FORWARD, 3), losing=lambda number: number % 3 == 0, alter=addressed)
    case = again(case)
    assert [row[:5] for row in found(case)] == [("path-lossy", ["node2", "node3"], "underlay", None, "confirmed")]
    assert "from node2" in loud(case)[0].summary


def test_loss_of_hosts_that_do_not_reach_each_other_is_no_finding_of_its_own():
    case = run_case(filters_known(make_fleet(3)), lambda p, k: "timeout" if "node3" in p.hosts else None)
    for observation in case.observations:
        if between("node2", "node1")(observation):
            for label in ("first", "again"):
                kept = observation.rounds.setdefault(label, dict(observation.rounds["first"]))
                kept["icmp"] = {**kept["icmp"], "received": 2}
    assert "underlay-unreachable" in [cause for cause, _hosts in causes(again(case))]


@pytest.mark.parametrize(
    ("kinds", "named"),
    [
        (("overlay",), [("overlay-entry-wrong", ["node1"])]),
        (("overlay", "host"), [("overlay-entry-wrong", ["node1"]), ("path-lossy", ["node1", "node3"])]),
    ],
)
def test_frames_that_a_wrong_entry_sends_back_mislead_the_bridge_and_the_path_loses_nothing(kinds, named):
    """Back in the overlay by its own VTEP, they teach the bridge that their sender is behind the tunnel."""
    fleet = filters_known(make_fleet(3))
    overlay = fleet.hosts["node1"].facts.overlay_namespace("net1")
    next(row for row in overlay.facts["fdb"] if mac(2) in row["macs"])["dst"] = address(1)
    case = run_case(fleet, overlay_between("node1", "node2"))
    losing(case, lambda o: o.pair.kind in kinds and {"node1", "node3"} <= set(o.pair.hosts))
    assert sorted(causes(again(case))) == named


# ---- nic-drops


@pytest.mark.parametrize(
    ("counter", "direction"),
    [("rx_missed_errors", "in"), ("rx_fifo_errors", "in"), ("tx_fifo_errors", "out")],
)
def test_a_nic_that_counts_drops_with_the_probes(counter, direction):
    case = lossy_case(between("node2"))
    count(case, "node2", "02", "2", counter, *RISING)
    assert found(again(case)) == [("nic-drops", ["node2"], "underlay", direction, "confirmed", "warning")]


def test_a_processors_full_queue_counts_too():
    case = lossy_case(between("node2"))
    count(case, "node2", "02", "softnet", "dropped", *RISING)
    assert [row[:2] for row in found(again(case))] == [("nic-drops", ["node2"])]


def test_a_rare_counter_is_listed_only_once_it_is_not_zero():
    case = lossy_case(between("node2"))
    count(case, "node2", "02", "2", "rx_packets", *RISING)
    for label, value in (("after", 4), ("quiet", 4), ("again", 9)):
        namespace = case.fleet.hosts["node2"].snapshots[label].namespace("02")
        namespace.counters["links"]["2"]["rx_missed_errors"] = value
    assert [row[:2] for row in found(again(case))] == [("nic-drops", ["node2"])]


@pytest.mark.parametrize(("counter", "values"), [("rx_missed_errors", FLAT), ("rx_dropped", RISING)])
def test_old_drops_and_protocols_nobody_wants_are_no_drops_of_ours(counter, values):
    case = lossy_case(between("node2"))
    count(case, "node2", "02", "2", counter, *values)
    assert causes(again(case)) == [("path-lossy", ["node2"])]


def test_drops_where_no_pair_loses_anything_are_not_named():
    case = run_case(filters_known(make_fleet(3)))
    count(case, "node2", "02", "2", "rx_missed_errors", *RISING)
    assert causes(again(case)) == []

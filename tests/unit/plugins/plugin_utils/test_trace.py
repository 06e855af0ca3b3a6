# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Traces: the stretch where packets vanish is named, in both directions, and never where a tap was blind."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case
from ansible_collections.crosshost.doctor.plugins.plugin_utils.engine import _broken_at
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.hops import hops
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace import (
    DROP_WINDOW,
    FORWARD,
    REPLY,
    Trace,
    traces,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace_plan import ALIKE, PAIRS, TracePlan, suspects
from tests.unit.made_fleet import make_fleet, run_case
from tests.unit.made_trace import follow

NAMES = ["container", "veth", "vtep", "nic", "nic", "vtep", "veth", "container"]
HOSTS = ["node1"] * 4 + ["node2"] * 4
PAIR = "node1/app-1>node2/app-2@app"


def lost_case(count: int = 3) -> tuple[Case, list[Observation]]:
    """Everything between node1's and node2's containers is lost, and nothing that was read says why."""
    case = run_case(make_fleet(count), lambda pair, key: "timeout" if pair.id == PAIR and key != "dns" else None)
    return case, [o for o in case.observations if o.pair.id == PAIR]


def traced(lost: tuple[str, int] | None, **options) -> Trace:
    case, observations = lost_case()
    follow(case, observations, lost, **options)
    return case.traces[PAIR]


def test_an_overlay_pair_passes_eight_hops():
    case, observations = lost_case()
    path = hops(case.fleet, observations[0].pair)
    assert [hop.name for hop in path] == NAMES
    assert [hop.host for hop in path] == HOSTS


def test_a_host_pair_passes_two_nics():
    case, _observations = lost_case()
    pair = next(o.pair for o in case.observations if o.pair.id == "node1>node2")
    assert [(hop.name, hop.host) for hop in hops(case.fleet, pair)] == [("nic", "node1"), ("nic", "node2")]


@pytest.mark.parametrize("position", range(7))
@pytest.mark.parametrize("direction", [FORWARD, REPLY])
def test_the_first_hop_that_misses_the_packets_is_named(direction, position):
    broken = traced((direction, position)).broken
    order = list(range(8)) if direction == FORWARD else list(range(8))[::-1]
    last, missing = order[position], order[position + 1]
    assert broken.direction == direction
    assert (broken.last.name, broken.last.host) == (NAMES[last], HOSTS[last])
    assert (broken.missing.name, broken.missing.host) == (NAMES[missing], HOSTS[missing])
    assert (broken.sent, broken.arrived) == (6, 0)


@pytest.mark.parametrize(
    ("position", "segment"),
    list(enumerate(["container", "bridge", "host-filter-out", "underlay", "host-filter-in", "bridge", "container"])),
)
def test_each_stretch_is_a_segment_of_the_design(position, segment):
    assert traced((FORWARD, position)).broken.segment == segment


def test_packets_that_arrive_and_are_not_answered_end_in_the_container():
    broken = traced((REPLY, -1)).broken
    assert (broken.direction, broken.last, broken.missing.name, broken.segment) == (
        REPLY,
        None,
        "container",
        "container",
    )


def test_packets_that_no_tap_saw_never_left_their_container():
    broken = traced((FORWARD, -1)).broken
    assert (broken.last, broken.missing.name, broken.segment) == (None, "container", "container")
    assert broken.sent > 0


def test_what_comes_through_is_not_broken():
    trace = traced(None)
    assert trace.broken is None and trace.complete and trace.lost == []
    assert trace.seen(FORWARD) == trace.seen(REPLY) == [6] * 8


@pytest.mark.parametrize(("arrives", "segment"), [(True, None), (False, "underlay")])
def test_a_datagram_that_nobody_has_to_answer_is_lost_only_where_it_did_not_arrive(arrives, segment):
    case, _observations = lost_case()
    observation = next(o for o in case.observations if o.pair.id == "node1>node2")
    signal = next(probe for probe in observation.pair.probes if probe.key == "udp:4789")
    plan = follow(case, [observation], None)
    for hop in plan.rows[0][1]:
        if hop.host == "node1" or arrives:
            sighting = {"tap": hop.tap, "time": 1.0, "out": None, "kind": "udp", "fragment": None, "seq": 0}
            sighting["probe"] = observation.pair.probe_id(signal)
            case.fleet.hosts[hop.host].captures["trace"]["sightings"].append(sighting)
    broken = traces(case.fleet, plan.dump())["node1>node2"].broken
    assert (broken.segment if broken else None) == segment


def test_partial_loss_counts_what_was_lost():
    broken = traced((FORWARD, 3), losing=lambda number: number in (1, 3)).broken
    assert (broken.segment, broken.sent, broken.arrived) == ("underlay", 6, 4)


@pytest.mark.parametrize("harm", ["dropped", "closed", "over"])
def test_seen_here_and_not_there_says_nothing_when_a_tap_was_blind(harm):
    case, observations = lost_case()
    plan = follow(case, observations, (FORWARD, 3))
    taps = case.fleet.hosts["node2"].captures["trace"]["taps"]
    nic = next(tap for tap in taps if tap["id"].startswith("nic"))
    if harm == "dropped":
        nic["dropped"] = 1
    elif harm == "closed":
        taps.remove(nic)
    else:
        case.fleet.hosts["node2"].captures["trace"]["ended"] = "time"
    trace = traces(case.fleet, plan.dump())[PAIR]
    assert trace.broken is None and not trace.complete


def test_a_reason_at_the_moment_of_the_last_sighting_is_a_drop():
    trace = traced((FORWARD, 4), reason="NETFILTER_DROP")
    assert [(d.host, d.reason, d.hits, d.of) for d in trace.drops] == [("node2", "NETFILTER_DROP", 6, 6)]


def test_reasons_at_other_moments_or_that_our_own_sockets_cause_are_none():
    case, observations = lost_case()
    plan = follow(case, observations, (FORWARD, 4), reason="NETFILTER_DROP")
    reasons = case.fleet.hosts["node2"].captures["trace"]["reasons"]
    for event in reasons["events"]:
        event["time"] += 0.01
    assert traces(case.fleet, plan.dump())[PAIR].drops == []
    for event in reasons["events"]:
        event.update(time=event["time"] - 0.01, reason="NO_SOCKET")
    assert traces(case.fleet, plan.dump())[PAIR].drops == []


def test_between_two_nics_a_host_has_no_reason():
    assert traced((FORWARD, 3), reason="NETFILTER_DROP").drops == []


def test_the_report_takes_the_place_from_the_trace():
    case, observations = lost_case()
    follow(case, observations, (REPLY, 4))
    assert _broken_at(case, observations[0], []) == {"hop": "vtep", "host": "node1", "direction": "reply"}
    case.traces.clear()
    assert _broken_at(case, observations[0], []) is None


def test_every_host_of_a_path_is_told_what_to_look_for():
    case, observations = lost_case()
    plan = TracePlan(case, observations)
    captures = plan.captures()
    assert sorted(captures) == ["node1", "node2"]
    assert [tap["id"] for tap in captures["node1"]["taps"]] == [hop.tap for hop in plan.rows[0][1][:4]]
    assert captures["node1"]["tcp_ports"] == [80]
    assert captures["node1"]["peers"] == ["192.0.2.2", "192.0.2.3", "10.0.1.1", "10.0.1.2"]
    assert (captures["node2"]["ports"], captures["node2"]["vnis"]) == ([4789], [4097])


def test_the_packets_of_two_pairs_are_apart_in_time():
    """So that a drop at the moment of a sighting is that packet's, though two pairs share their hosts."""
    case, _observations = lost_case()
    overlay = [o for o in case.observations if o.pair.kind == "overlay"]
    delays = [{probe.options["delay"] for probe in pair.probes} for pair in TracePlan(case, overlay).pairs]
    moments = [delay for (delay,) in delays]
    assert len(moments) == len(overlay) and moments[0] == 0
    assert all(later - sooner > 2 * DROP_WINDOW for sooner, later in pairwise(moments))


def test_the_ports_behind_a_translation_are_looked_for_as_well():
    fleet = make_fleet(2)
    fleet.hosts["node2"].facts.containers[0]["ports"] = [
        {"protocol": "tcp", "port": 80, "host_ip": "0.0.0.0", "host_port": 8080}
    ]
    case = run_case(fleet, lambda pair, key: "timeout" if pair.kind == "published" else None)
    published = [o for o in case.observations if o.pair.kind == "published"]
    assert TracePlan(case, published).captures()["node2"]["tcp_ports"] == [80, 8080]


def test_few_of_many_alike_are_followed_and_every_kind_of_suspect_is():
    fleet = make_fleet(12)
    case = run_case(fleet, lambda pair, key: "timeout" if pair.kind == "overlay" and key != "dns" else None)
    case.findings.clear()
    chosen = suspects(case)
    assert 0 < len(chosen) <= PAIRS
    assert all(sum(o.pair.hosts == other.pair.hosts for o in chosen) <= ALIKE for other in chosen)
    assert suspects(run_case(make_fleet(12))) == []

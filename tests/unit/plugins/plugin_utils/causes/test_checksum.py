# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Wrong checksums: named at the sender, by what receivers count with every burst, not by what they counted before."""

from __future__ import annotations

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace import FORWARD, REPLY, traces
from tests.unit.made_fleet import make_fleet, run_case
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
    lost_case,
    loud,
    overlay_between,
    watched,
)

OLD = (500, 500, 500, 500)
NOISE = (10, 20, 35, 45)  # as fast between the bursts as in them


def hosts_count(case: Case, **moves: tuple[int, ...]) -> Case:
    """Udp InCsumErrors of hosts."""
    for host, values in moves.items():
        count(case, host, f"0{host.removeprefix('node')}", "snmp", "Udp.InCsumErrors", *values)
    return again(case)


def containers_count(case: Case, name: str = "Tcp.InCsumErrors", **moves: tuple[int, ...]) -> Case:
    for host, values in moves.items():
        count(case, host, f"1{host.removeprefix('node')}", "snmp", name, *values)
    return again(case)


def only_tcp(*hosts: str, number: int = 3) -> Case:
    """Echo passes between these hosts' containers and TCP does not."""
    return run_case(filters_known(make_fleet(number)), overlay_between(*hosts, keys=("tcp:80", "http:80")))


def test_receivers_that_count_wrong_outer_checksums_give_the_sender_away():
    case = hosts_count(lost_case("node2"), node1=RISING, node2=FLAT, node3=RISING)
    assert found(case) == [("tx-csum-outer-bug", ["node2"], "host-stack", "out", "confirmed", "critical")]
    assert len(loud(case)[0].explains) == 4
    assert "ethtool -K eth0 tx-checksum-ip-generic off" in loud(case)[0].remedies[0].manual[0]


def test_a_host_that_alone_counts_them_receives_them_wrong():
    case = hosts_count(lost_case("node2"), node1=FLAT, node2=RISING, node3=FLAT)
    assert [row[:4] for row in found(case)] == [("tx-csum-outer-bug", ["node2"], "host-stack", "in")]


def test_of_two_hosts_the_one_that_does_not_count_sends_them():
    case = hosts_count(lost_case("node1", "node2", count=2), node1=RISING, node2=FLAT)
    assert [row[:4] for row in found(case)] == [("tx-csum-outer-bug", ["node2"], "host-stack", "out")]


@pytest.mark.parametrize(("values", "expected"), [(OLD, "unexplained-loss"), (FLAT, "unexplained-loss")])
def test_errors_counted_before_the_probes_say_nothing(values, expected):
    assert [cause for cause, _hosts in causes(hosts_count(lost_case("node2"), node1=values, node3=values))] == [
        expected
    ]


def test_errors_that_rise_without_our_probes_too_are_but_likely():
    case = hosts_count(lost_case("node2"), node1=NOISE, node2=FLAT, node3=NOISE)
    assert [(row[0], row[4]) for row in found(case)] == [("tx-csum-outer-bug", "likely")]


def test_errors_that_break_nothing_are_not_named():
    case = run_case(filters_known(make_fleet(3)))
    assert causes(hosts_count(case, node1=RISING, node2=RISING, node3=RISING)) == []


def test_a_tunnel_that_carries_something_has_good_outer_checksums():
    case = hosts_count(only_tcp("node2"), node1=RISING, node2=FLAT, node3=RISING)
    assert "tx-csum-outer-bug" not in [cause for cause, _hosts in causes(case)]


def test_where_one_pair_of_two_hosts_works_the_tunnel_between_them_does():
    lost = "node1/app-1>node2/app-2@app"
    case = run_case(filters_known(make_fleet(2)), lambda p, k: "timeout" if p.id == lost and k != "dns" else None)
    case = hosts_count(case, node1=FLAT, node2=RISING)
    assert [cause for cause, _hosts in causes(case)] == ["unexplained-loss"]


def test_containers_that_count_wrong_checksums_give_the_sender_away():
    case = containers_count(only_tcp("node2"), node1=RISING, node2=FLAT, node3=RISING)
    assert found(case) == [("tx-csum-inner-bug", ["node2"], "host-stack", "out", "confirmed", "critical")]
    finding = loud(case)[0]
    assert len(finding.explains) == 4 and "echo passes" in finding.summary
    assert any("data-path-port" in step for step in finding.remedies[0].manual)


def test_the_hosts_own_counter_that_rests_is_part_of_the_evidence():
    case = only_tcp("node2")
    hosts_count(case, node1=FLAT, node3=FLAT)
    case = containers_count(case, node1=RISING, node2=FLAT, node3=RISING)
    assert any(row.source == "Udp.InCsumErrors of the host" for row in loud(case)[0].evidence)


@pytest.mark.parametrize("values", [OLD, FLAT])
def test_a_containers_old_errors_say_nothing(values):
    case = containers_count(only_tcp("node2"), node1=values, node2=values, node3=values)
    assert causes(case) == [("unexplained-loss", ["node2"])]


def test_where_echo_fails_too_it_is_no_inner_checksum():
    case = containers_count(lost_case("node2"), node1=RISING, node2=FLAT, node3=RISING)
    assert causes(case) == [("unexplained-loss", ["node2"])]


def test_a_refused_port_is_no_wrong_checksum():
    case = run_case(
        filters_known(make_fleet(3)),
        lambda pair, key: "timeout" if pair.kind == "overlay" and "node2" in pair.hosts and key == "http:80" else None,
    )
    assert "tx-csum-inner-bug" not in [
        cause for cause, _hosts in causes(containers_count(case, node1=RISING, node3=RISING))
    ]


def kernel_says(case: Case, reason: str, receivers: tuple[str, ...]) -> Case:
    """Every followed packet is dropped by the receiver with this reason when it was last seen there."""
    plan = follow(case, [o for o in watched(case) if o.pair.dst.host in receivers], (REPLY, -1), alter=addressed)
    for host in receivers:
        capture = case.fleet.hosts[host].captures["trace"]
        taps = [tap["id"] for tap in capture["taps"] if tap["id"].startswith("container")]
        for sighting in [s for s in capture["sightings"] if s["tap"] in taps]:
            event = {"time": sighting["time"] + 0.00003, "reason": reason, "protocol": 2048, "location": "tcp_v4_rcv"}
            capture["reasons"]["events"].append(event)
    case.traces = traces(case.fleet, plan.dump())
    return again(case)


def test_the_kernels_reason_confirms_without_any_counter():
    case = kernel_says(only_tcp("node2"), "TCP_CSUM", ("node1", "node3"))
    assert [row[:5] for row in found(case)][:1] == [("tx-csum-inner-bug", ["node2"], "host-stack", "out", "confirmed")]


def test_another_reason_does_not():
    case = kernel_says(only_tcp("node2"), "TCP_RESET", ("node1", "node3"))
    assert "tx-csum-inner-bug" not in [cause for cause, _hosts in causes(case)]


@pytest.mark.parametrize(("seen", "named"), [("bad", True), ("unknown", False), ("ok", False)])
def test_a_tap_behind_the_tunnel_shows_a_wrong_checksum(seen, named):
    case = only_tcp("node2")
    chosen = [o for o in watched(case) if o.pair.src.host == "node2"]

    def shown(direction, hop, sighting):
        if sighting["kind"] == "syn" and hop.host != "node2":
            sighting["checksum"] = seen
        return addressed(direction, hop, sighting)

    follow(case, chosen, (REPLY, -1), alter=shown)
    assert ("tx-csum-inner-bug" in [cause for cause, _hosts in causes(again(case))]) == named


@pytest.mark.parametrize(("seen", "named"), [("bad", True), ("unknown", False)])
def test_a_tap_at_the_receivers_nic_shows_a_wrong_outer_checksum(seen, named):
    case = lost_case("node2")
    chosen = [o for o in watched(case) if o.pair.src.host == "node2"]

    def shown(direction, hop, sighting):
        sighting = addressed(direction, hop, sighting)
        if sighting.get("outer") and hop.host != "node2":
            sighting["outer"]["checksum"] = seen
        return sighting

    follow(case, chosen, (FORWARD, 4), alter=shown)
    rows = found(again(case))
    assert (rows[0][:5] == ("tx-csum-outer-bug", ["node2"], "host-stack", "out", "likely")) == named

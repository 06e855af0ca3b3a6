# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Containers, and hosts, that send what is for a peer elsewhere."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Pair
from tests.unit.made_fleet import address, make_fleet, overlay_ip, run_case
from tests.unit.plugins.plugin_utils.causes.docker_fleet import loud
from tests.unit.plugins.plugin_utils.causes.test_encryption import RESTING, RISING, counting

CONNECTED = {"family": 4, "table": 254, "dst": "10.0.1.0/24", "oif": 10, "type": "unicast"}
AWAY = {"family": 4, "table": 254, "dst": "default", "oif": 12, "type": "unicast"}


def two_ways(*rows: t.Any, rules: t.Any = ()) -> Fleet:
    """Containers with an interface on the overlay and another one; these routes in node2's."""
    fleet = make_fleet(3)
    for number in (1, 2, 3):
        inside = fleet.hosts[f"node{number}"].facts.facts["namespaces"][1]
        inside["links"].append({"index": 12, "name": "eth1", "kind": "veth", "up": True, "lower_up": True})
        inside["routes"] = list(rows) if number == 2 else [CONNECTED, AWAY]
        inside["rules"] = list(rules) if number == 2 else []
    return fleet


def with_app2(pair: Pair, _key: str) -> str | None:
    return "timeout" if pair.kind == "overlay" and "node2" in pair.hosts else None


def to_one(pair: Pair, _key: str) -> str | None:
    return "timeout" if pair.kind == "overlay" and set(pair.hosts) == {"node1", "node2"} else None


def policy(action: str, priority: int = 100, **more: t.Any) -> dict[str, t.Any]:
    return {"family": 4, "priority": priority, "table": 254, "action": action, "src": None, "dst": None, **more}


MAIN = policy("lookup", 32766)


@pytest.mark.parametrize(
    ("fleet", "lost", "words", "count"),
    [
        (lambda: two_ways(AWAY), with_app2, "default dev eth1", 4),
        (lambda: two_ways({**CONNECTED, "dst": "172.18.0.0/16"}), with_app2, "no route", 4),
        (
            lambda: two_ways(CONNECTED, AWAY, {**CONNECTED, "dst": f"{overlay_ip(1)}/32", "type": "blackhole"}),
            to_one,
            f"blackhole {overlay_ip(1)}/32",
            2,
        ),
        (
            lambda: two_ways(CONNECTED, AWAY, rules=[policy("prohibit", dst=f"{overlay_ip(1)}/32"), MAIN]),
            to_one,
            f"prohibit {overlay_ip(1)}/32",
            2,
        ),
    ],
)
def test_a_container_whose_routes_lead_astray_is_named_with_them(fleet, lost, words, count):
    case = run_case(fleet(), lost)
    assert loud(case) == [("container-route-wrong", ["node2"], "critical")]
    (finding,) = [row for row in case.findings if row.severity != "info"]
    assert finding.evidence[0].observed == words
    assert len(finding.explains) == count
    assert set(finding.explains) == {o.pair.id for o in case.broken}


@pytest.mark.parametrize(
    ("fleet", "lost"),
    [
        (lambda: two_ways(CONNECTED, AWAY), with_app2),  # the way is right
        (two_ways, with_app2),  # its routes were not read
        (lambda: two_ways(AWAY), lambda pair, key: with_app2(pair, key) if key.startswith("http") else None),
        (lambda: two_ways(AWAY), lambda pair, key: None),
    ],
)
def test_routes_are_no_fault_of_pairs_that_they_do_not_break(fleet, lost):
    assert "container-route-wrong" not in {finding.cause for finding in run_case(fleet(), lost).findings}


def between(pair: Pair, key: str) -> str | None:
    return "timeout" if set(pair.hosts) == {"node1", "node2"} and not key.startswith("udp") else None


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        ([policy("prohibit", dst=f"{address(1)}/32"), MAIN], True),
        ([policy("blackhole", dst="192.0.2.0/30"), MAIN], True),
        ([MAIN, policy("unreachable", 40000, dst=f"{address(1)}/32")], False),  # never asked
        ([policy("prohibit", dst=f"{address(3)}/32"), MAIN], False),
        ([policy("prohibit", fwmark=7), MAIN], False),
    ],
)
def test_a_policy_rule_of_a_host_that_ends_what_is_for_a_peer(rules, named):
    fleet = make_fleet(3)
    fleet.hosts["node2"].facts.root.facts["rules"] = rules
    case = run_case(fleet, between)
    assert [finding.cause for finding in case.findings if finding.severity != "info"] == ["underlay-unreachable"]
    finding = case.findings[0]
    assert (finding.hosts == ["node2"]) is named
    assert ("by policy rule 100" in finding.summary) is named


@pytest.mark.parametrize(("values", "named"), [(RISING, True), (RESTING, False)])
def test_ipsec_policies_that_block_are_told_by_their_counter(values, named):
    case = counting(run_case(make_fleet(3), between), node2={"xfrm.XfrmOutPolBlock": values})
    finding = case.findings[0]
    assert finding.cause == "underlay-unreachable"
    assert ("XfrmOutPolBlock" in finding.summary, finding.hosts == ["node2"]) == (named, named)

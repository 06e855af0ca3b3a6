# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Paths that are not meant to exist: answers to the operator's question, never faults."""

from __future__ import annotations

import copy
import typing as t

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.asked import AskedError
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.plan import first_round
from tests.unit.made_fleet import run_case
from tests.unit.plugins.plugin_utils.causes.docker_fleet import docker_fleet, fails, first, loud, quiet

Facts = dict[str, t.Any]


def asked(start: str, end: str, port: int | None = None) -> Fleet:
    fleet = docker_fleet()
    fleet.run["question"] = {"from": start, "to": end, "port": port}
    return fleet


def facts_of(fleet: Fleet, number: int = 2) -> Facts:
    return fleet.hosts[f"node{number}"].facts.facts


def apart(fleet: Fleet) -> None:
    """One more container on the bridge of node2."""
    facts = facts_of(fleet)
    near = {**copy.deepcopy(facts["containers"][1]), "id": "n2", "name": "near-2", "netns": "42", "ports": []}
    near["endpoints"][0]["ip"] = "172.17.0.3"
    facts["containers"].append(near)
    facts["namespaces"].append({**copy.deepcopy(facts["namespaces"][3]), "key": "42", "container": "n2"})


def mode(fleet: Fleet, network_mode: str) -> None:
    container = facts_of(fleet)["containers"][1]
    container.update(
        network_mode=network_mode, ports=[], endpoints=[{"network_id": "x", "network": network_mode, "ip": ""}]
    )


def test_the_way_out_of_an_internal_network_is_isolated_by_design():
    fleet = asked("node2/web-2", "198.51.100.1", 80)
    facts_of(fleet)["networks"][1]["internal"] = True
    case = run_case(fleet, lambda p, k: "unreachable" if p.kind == "egress" else None)
    assert loud(case) == []
    assert quiet(case) == [("isolated-by-design", ["node2"])]
    assert "internal" in next(f for f in case.findings if f.explains).summary


def test_a_way_out_that_fails_without_such_intent_is_a_fault():
    fleet = asked("node2/web-2", "node3")
    assert loud(run_case(fleet, fails("egress"))) != []


def test_containers_that_may_not_talk_to_each_other_are_isolated_by_design():
    fleet = asked("node2/web-2", "node2/near-2", 80)
    apart(fleet)
    facts_of(fleet)["networks"][1]["options"]["com.docker.network.bridge.enable_icc"] = "false"
    case = run_case(fleet, fails("local"))
    assert loud(case) == []
    assert [row for row in quiet(case) if row[0] == "isolated-by-design"] == [("isolated-by-design", ["node2"])]


def test_containers_that_may_talk_and_do_not_are_a_fault():
    fleet = asked("node2/web-2", "node2/near-2", 80)
    apart(fleet)
    case = run_case(fleet, fails("local"))
    assert first(case).severity == "critical"


@pytest.mark.parametrize(("start", "end"), [("node2/web-2", "node3"), ("node2/web-2", "app-1"), ("node1", "web-2")])
def test_a_container_with_network_none_is_isolated_by_design(start, end):
    fleet = asked(start, end)
    for number in (1, 3):
        facts_of(fleet, number)["containers"].pop()
    mode(fleet, "none")
    case = run_case(fleet)
    assert ("isolated-by-design", sorted({"node2", end if end in fleet.hosts else "node1"})) in quiet(case)
    assert loud(case) == []


def test_a_container_in_the_hosts_namespace_is_asked_as_the_host():
    fleet = asked("node2/web-2", "node3")
    mode(fleet, "host")
    pairs = first_round(fleet)
    assert {(p.kind, p.src.name, p.dst.name) for p in pairs} >= {("host", "node2", "node3")}


def test_a_name_that_nobody_has_is_still_refused():
    with pytest.raises(AskedError, match="no host and no running container"):
        first_round(asked("node2/nobody", "node3"))

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The probe plan: everybody is asked, nobody is asked too much, and the run id alone decides who asks whom."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.asked import AskedError
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Pair
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.plan import (
    MESH_LIMIT,
    PEERS,
    Plan,
    first_round,
    schedule,
)
from tests.unit.made_fleet import make_fleet


def kinds(pairs: list[Pair]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for pair in pairs:
        counted[pair.kind] = counted.get(pair.kind, 0) + 1
    return counted


def test_a_small_fleet_is_probed_in_full():
    pairs = first_round(make_fleet(3))
    assert kinds(pairs) == {"host": 6, "overlay": 6}


@settings(max_examples=15, deadline=None)
@given(count=st.integers(MESH_LIMIT + 1, 60), run_id=st.text(min_size=1, max_size=8))
def test_a_large_fleet_costs_k_times_n_and_everybody_is_probed(count, run_id):
    fleet = make_fleet(count, run_id)
    pairs = [pair for pair in Plan(fleet).build() if pair.kind == "overlay"]
    asked = {name: [p for p in pairs if p.src.host == name] for name in fleet.hosts}
    heard = {name: [p for p in pairs if p.dst.host == name] for name in fleet.hosts}
    assert all(len(asked[name]) == PEERS and len(heard[name]) == PEERS for name in fleet.hosts)
    assert all(p.src.host != p.dst.host for p in pairs)


def test_the_plan_repeats_for_the_same_run_and_varies_between_runs():
    one, same, other = ([p.id for p in first_round(make_fleet(40, run))] for run in ("a", "a", "b"))
    assert one == same
    assert one != other


def test_every_host_probes_the_managers_port():
    for pair in first_round(make_fleet(30)):
        if pair.kind == "host" and pair.dst.host == "node1":
            assert "tcp:2377" in [probe.key for probe in pair.probes]


@pytest.mark.parametrize("state", ["unknown", "down"])
def test_a_manager_whose_engine_gives_no_answer_is_asked_by_what_it_wrote_down(state):
    """One that is cut off from the other managers lets its own host wait for /info until the time is up."""
    fleet = make_fleet(3)
    facts = fleet.hosts["node3"].facts.facts
    facts["engine"].update(state=state, error="ReadTimeout")
    own = facts["swarm"]["node_addr"]
    facts["swarm"].update(state=None, node_id=None, control_available=False, managers=[])
    asked = {pair.id: [probe.key for probe in pair.probes] for pair in first_round(fleet)}
    assert "tcp:7946" in asked["node1>node3"] and "tcp:2377" not in asked["node1>node3"]
    facts["swarm"]["managers"] = [{"node_id": "n3", "addr": f"{own}:2377"}]
    asked = {pair.id: [probe.key for probe in pair.probes] for pair in first_round(fleet)}
    assert "tcp:2377" in asked["node1>node3"]
    assert [host.name for host in fleet.managers] == ["node1"]
    facts["swarm"]["node_addr"] = None
    assert "tcp:7946" not in {probe.key for p in first_round(fleet) if p.id == "node1>node3" for probe in p.probes}


def test_probe_ids_are_unique_and_every_source_is_scheduled_on_its_own_host():
    fleet = make_fleet(4)
    sources = schedule(fleet, first_round(fleet))
    ids = [probe["id"] for rows in sources.values() for row in rows for probe in row["probes"]]
    assert len(ids) == len(set(ids))
    assert set(sources) == {"node1", "node2", "node3", "node4"}


def test_pairs_survive_the_run_folder():
    for pair in first_round(make_fleet(3)):
        assert Pair.load(pair.dump()) == pair


def test_the_operators_question_plans_only_that_path():
    pairs = first_round(make_fleet(4, **{"from": "app-1", "to": "app-3", "port": 5432}))
    assert {pair.hosts for pair in pairs} == {("node1", "node3"), ("node3", "node1")}
    overlay = next(pair for pair in pairs if pair.kind == "overlay")
    assert "tcp:5432" in [probe.key for probe in overlay.probes]


def test_a_question_about_nobody_says_who_was_meant():
    with pytest.raises(AskedError, match="did you mean app-"):
        first_round(make_fleet(2, **{"from": "app-l", "to": "app-2"}))

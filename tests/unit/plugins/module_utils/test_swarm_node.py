# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.crosshost.doctor.plugins.module_utils import _swarm_node as swarm
from ansible_collections.crosshost.doctor.plugins.module_utils._engine_api import Api, EngineError
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal


def node(number: int, role: str = "worker", availability: str = "active", name: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {
        "ID": f"{number}" * 25,
        "Version": {"Index": 10 + number},
        "Spec": {"Role": role, "Availability": availability, "Labels": {"zone": "a"}},
        "Description": {"Hostname": name or f"node{number}"},
    }
    if role == "manager":
        row["ManagerStatus"] = {"Addr": f"192.0.2.1{number}:2377", "Reachability": "reachable"}
    return row


class Manager(Api):
    """A manager that takes an update only with the version it has."""

    def __init__(self, *rows: dict[str, Any], control: bool = True, late: int = 0) -> None:
        self.rows, self.control, self.late = {row["ID"]: row for row in rows}, control, late
        self.bodies: list[dict[str, Any]] = []

    def get(self, path: str) -> Any:
        return {"Swarm": {"ControlAvailable": self.control}} if path == "/info" else list(self.rows.values())

    def post(self, path: str, body: Any = None, seconds: float | None = None) -> Any:
        identifier, version = path.split("/")[2], int(path.rpartition("=")[2])
        row = self.rows[identifier]
        if self.late:
            self.late -= 1
            row["Version"] = {"Index": row["Version"]["Index"] + 1}
        if version != row["Version"]["Index"]:
            raise EngineError("rpc error: code = Unknown desc = update out of sequence", 500)
        self.bodies.append(body)
        row["Spec"] = body


def test_only_availability_is_changed_and_what_it_was_is_noted(tmp_path: Path) -> None:
    manager = Manager(node(1, "manager"), node(2, availability="drain"))
    (chosen,) = swarm.choose(swarm.read_nodes(manager), ["node2"])
    journal = Journal("swarm", str(tmp_path / "journal"))
    swarm.activate(manager, chosen, journal)
    assert manager.bodies == [{"Role": "worker", "Availability": "active", "Labels": {"zone": "a"}}]
    undo = ["docker", "node", "update", "--availability", "drain", "2" * 25]
    assert [entry["argv"] for entry in journal.entries()] == [undo]


def test_an_update_that_somebody_else_was_before_is_tried_again(tmp_path: Path) -> None:
    manager = Manager(node(1, "manager"), node(2, availability="pause"), late=1)
    chosen = swarm.choose(swarm.read_nodes(manager), ["2" * 25])[0]
    swarm.activate(manager, chosen, Journal("", str(tmp_path)))
    assert manager.rows["2" * 25]["Spec"]["Availability"] == "active"
    manager = Manager(node(1, "manager"), node(2, availability="pause"), late=9)
    chosen = swarm.choose(swarm.read_nodes(manager), ["node2"])[0]
    with pytest.raises(EngineError, match="out of sequence"):
        swarm.activate(manager, chosen, Journal("", str(tmp_path)))


def test_a_worker_cannot_change_nodes() -> None:
    with pytest.raises(EngineError, match="no manager"):
        swarm.read_nodes(Manager(control=False))


@pytest.mark.parametrize(
    ("name", "why"), [("node9", "no node"), ("", "no node"), ("--help", "no node"), ("twin", "2 nodes are called")]
)
def test_a_name_that_is_not_one_node_is_refused(name: str, why: str) -> None:
    rows = [swarm.node_of(one) for one in (node(1, "manager"), node(2, name="twin"), node(3, name="twin"))]
    with pytest.raises(EngineError, match=why):
        swarm.choose(rows, [name])


@pytest.mark.parametrize("role", ["worker", "manager"])
def test_the_plan_names_every_step_and_no_token(role: str) -> None:
    rows = [swarm.node_of(one) for one in (node(1, "manager"), node(2, role))]
    plan = swarm.rejoin_plan(rows, rows[1])
    text = "\n".join(plan)
    assert "on node2: docker swarm leave" in plan
    assert f"on node1: docker node rm {'2' * 25}" in text
    assert f"docker swarm join-token {role}" in text
    assert "--token TOKEN 192.0.2.11:2377" in text
    assert ("demote" in text) == (role == "manager")
    assert "SWMTKN" not in text


def test_a_worker_knows_how_it_joins_again_itself() -> None:
    managers = [{"NodeID": "1" * 25, "Addr": "192.0.2.11:2377"}]
    info = {"Name": "node2", "Swarm": {"NodeID": "2" * 25, "RemoteManagers": managers}}
    plan = swarm.own_plan(info)
    assert "on node2: docker swarm leave" in plan
    assert any("join-token worker" in step for step in plan)
    assert any("--token TOKEN 192.0.2.11:2377" in step for step in plan)
    (only,) = swarm.own_plan({"Name": "node1", "Swarm": {"NodeID": "1" * 25, "RemoteManagers": managers}})
    assert "only manager" in only
    with pytest.raises(EngineError, match="in no Swarm"):
        swarm.own_plan({"Name": "node2", "Swarm": {"NodeID": ""}})


def test_the_only_manager_does_not_leave() -> None:
    rows = [swarm.node_of(one) for one in (node(1, "manager"), node(2))]
    plan = swarm.rejoin_plan(rows, rows[0])
    assert len(plan) == 1
    assert "only manager" in plan[0]
    assert "swarm leave" not in plan[0]


def test_a_hostile_host_name_is_not_shown_as_a_command() -> None:
    rows = [swarm.node_of(one) for one in (node(1, "manager"), node(2, name="x; rm -rf /"))]
    assert "rm -rf" not in "\n".join(swarm.rejoin_plan(rows, rows[1]))

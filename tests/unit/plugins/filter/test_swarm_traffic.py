# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host's Swarm needs is read from the host, not assumed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.crosshost.doctor.plugins.filter.swarm_traffic import swarm_traffic

FACTS = Path(__file__).parents[3] / "fixtures/facts/swarm-20.10-3nodes"
GOSSIP = [{"protocol": "tcp", "port": 7946}, {"protocol": "udp", "port": 7946}]
TUNNEL = {"protocol": "udp", "port": 4789}
ANSWERS = {"protocol": "tcp", "port": 7946, "answers": True}


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FACTS / f"{name}.json").read_text())
    return found.get("facts", found)


def test_a_manager_knows_all_and_listens_for_workers() -> None:
    found = swarm_traffic(recorded("node1"))
    assert found["services"] == [TUNNEL, *GOSSIP, {"protocol": "tcp", "port": 2377}, ANSWERS]
    assert found["peers"] == ["192.0.2.12", "192.0.2.13"]


def test_a_worker_takes_no_management_but_what_its_managers_answer() -> None:
    found = swarm_traffic(recorded("node3"))
    answers = {"protocol": "tcp", "port": 2377, "answers": True}
    assert found["services"] == [TUNNEL, *GOSSIP, answers, ANSWERS]
    assert "192.0.2.11" in found["peers"]
    assert "192.0.2.13" not in found["peers"]


def test_the_ports_are_the_fleets_own() -> None:
    facts = recorded("node1")
    facts["swarm"]["data_path_port"] = 5789
    for space in facts["namespaces"]:
        for link in space["links"]:
            if link["vxlan"]:
                link["vxlan"]["port"] = 5789
    for manager in facts["swarm"]["managers"]:
        manager["addr"] = manager["addr"].replace(":2377", ":3377")
    ports = [row["port"] for row in swarm_traffic(facts)["services"]]
    assert ports == [5789, 7946, 7946, 3377, 7946]


def test_an_encrypted_network_needs_esp() -> None:
    facts = recorded("node1")
    facts["networks"][0]["options"] = {"encrypted": ""}
    assert {"protocol": "esp"} in swarm_traffic(facts)["services"]


def test_others_of_the_same_swarm_add_what_they_know() -> None:
    worker, manager = recorded("node3"), recorded("node1")
    worker["networks"] = []
    for space in worker["namespaces"]:
        space["fdb"] = []
    assert swarm_traffic(worker)["peers"] == ["192.0.2.11"]
    assert swarm_traffic(worker, [manager])["peers"] == ["192.0.2.11", "192.0.2.12"]
    stranger = copy.deepcopy(manager)
    stranger["swarm"].update(cluster_id="another", node_id="other", managers=[])
    assert swarm_traffic(worker, [stranger])["peers"] == ["192.0.2.11"]


@pytest.mark.parametrize("state", [None, "inactive"])
def test_a_host_in_no_swarm_needs_nothing(state: str | None) -> None:
    facts = recorded("node1")
    facts["swarm"]["state"] = state
    assert swarm_traffic(facts) == {"services": [], "peers": []}


def test_other_facts_are_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="takes the facts of"):
        swarm_traffic({"swarm": {}})

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The recommendations: one finding, at info, and only for what is certain."""

from __future__ import annotations

from tests.unit.made_fleet import make_fleet, run_case


def posture(fleet):
    return [finding for finding in run_case(fleet).findings if finding.cause == "posture"]


def accepting(policy: str, *rules):
    return {
        "error": None,
        "chains": [
            {
                "backend": "nft",
                "family": "ip",
                "table": "filter",
                "name": "INPUT",
                "hook": "input",
                "priority": 0,
                "type": "filter",
                "policy": policy,
                "policy_counter": None,
                "ref": "nft:ip:filter:INPUT",
                "rules": list(rules),
            }
        ],
        "sets": [],
        "legacy_tables": {"ip": [], "ip6": []},
        "notes": [],
    }


def test_a_fleet_whose_filter_was_not_read_gets_no_recommendation():
    assert posture(make_fleet(3)) == []


def test_a_tunnel_port_open_to_everybody_is_one_recommendation_for_all_hosts():
    fleet = make_fleet(3)
    for number in (1, 2, 3):
        fleet.hosts[f"node{number}"].facts.root.facts["filter"] = accepting("accept")
    (finding,) = posture(fleet)
    assert (finding.severity, finding.hosts) == ("info", ["node1", "node2", "node3"])
    assert len(finding.evidence) == 3
    assert len(finding.remedies[0].manual) == 1
    fleet.hosts["node2"].facts.root.facts["filter"] = accepting("drop")
    (finding,) = posture(fleet)
    assert finding.hosts == ["node1", "node3"]


def test_an_engine_on_tcp_without_client_certificates():
    fleet = make_fleet(2)
    fleet.hosts["node2"].facts.engine["daemon_config"] = {"hosts": ["unix:///run/docker.sock", "tcp://0.0.0.0:2375"]}
    (finding,) = posture(fleet)
    assert finding.hosts == ["node2"]
    assert "tcp://0.0.0.0:2375" in finding.evidence[0].observed
    fleet.hosts["node2"].facts.engine["daemon_flags"] = {"tlsverify": "true"}
    assert posture(fleet) == []


def test_who_asks_about_one_path_gets_no_recommendation():
    fleet = make_fleet(2, **{"from": "node1", "to": "node2", "port": 22})
    fleet.hosts["node2"].facts.engine["daemon_config"] = {"hosts": ["tcp://0.0.0.0:2375"]}
    assert posture(fleet) == []


def test_two_managers_are_one_too_many_or_one_too_few():
    fleet = make_fleet(3)
    nodes = [{"id": f"id{n}", "hostname": f"node{n}", "role": "manager" if n < 3 else "worker"} for n in (1, 2, 3)]
    fleet.hosts["node1"].facts.swarm["nodes"] = nodes
    (finding,) = posture(fleet)
    assert "2 (node1, node2)" in finding.evidence[0].observed
    nodes[2]["role"] = "manager"
    fleet = make_fleet(3)
    fleet.hosts["node1"].facts.swarm["nodes"] = nodes
    assert posture(fleet) == []


def test_forwarding_that_a_file_switches_off_at_the_next_boot():
    fleet = make_fleet(2)
    facts = fleet.hosts["node1"].facts
    facts.facts["networks"].append(
        {"id": "b1", "name": "bridge", "driver": "bridge", "scope": "local", "subnets": [], "vnis": []}
    )
    row = {"value": "0", "file": "/etc/sysctl.d/90-hardening.conf"}
    facts.facts["host"]["persisted_sysctls"] = {"net.ipv4.ip_forward": row}
    (finding,) = posture(fleet)
    assert finding.hosts == ["node1"]
    assert "90-hardening.conf" in finding.evidence[0].observed
    row["value"] = "1"
    assert posture(fleet) == []

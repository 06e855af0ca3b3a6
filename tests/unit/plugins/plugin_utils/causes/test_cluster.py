# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nodes, managers, quorum, certificates and stores, decided on made fleets."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case, Finding
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.registry import decide_all
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet, Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import observe
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import SERVICE, Node, Pair, Probe
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.plan import first_round
from tests.unit.made_fleet import address, answer, make_fleet, run_case

LEADERLESS = "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few managers"
DAY = 86400.0


def node(number: int, managers: int = 1, **changes: t.Any) -> dict[str, t.Any]:
    row: dict[str, t.Any] = {
        "id": f"id{number}",
        "hostname": f"node{number}",
        "role": "manager" if number <= managers else "worker",
        "availability": "active",
        "state": "ready",
        "message": None,
        "addr": address(number),
        "manager": {"leader": number == 1, "reachability": "reachable", "addr": f"{address(number)}:2377"}
        if number <= managers
        else None,
    }
    return {**row, **changes}


def swarm(fleet: Fleet, managers: int = 1, count: int = 3) -> None:
    """Give the fleet managers that list all nodes."""
    for number in range(1, managers + 1):
        facts = fleet.hosts[f"node{number}"].facts.swarm
        facts["control_available"], facts["cluster_id"] = True, "c1"
        facts["managers"] = [{"node_id": f"id{n}", "addr": f"{address(n)}:2377"} for n in range(1, managers + 1)]
        facts["nodes"] = [node(n, managers) for n in range(1, count + 1)]


def nodes_of(fleet: Fleet, name: str = "node1") -> list[dict[str, t.Any]]:
    return fleet.hosts[name].facts.swarm["nodes"]


def named(case: Case, cause: str) -> list[Finding]:
    return [finding for finding in case.findings if finding.cause == cause]


def unreachable(name: str = "node3") -> Host:
    return Host(name, error="Failed to connect to the host via ssh", unreachable=True)


@pytest.mark.parametrize("managers", [1, 2, 3])
def test_a_healthy_swarm_says_nothing_however_many_managers_it_has(managers):
    fleet = make_fleet(3)
    swarm(fleet, managers)
    assert {f.cause for f in run_case(fleet).findings} <= {"posture"}


# ---- node-down, node-not-active


def test_node_down_of_a_host_that_is_not_reached():
    fleet = make_fleet(3)
    swarm(fleet)
    fleet.hosts["node3"] = unreachable()
    nodes_of(fleet)[2]["state"] = "down"
    [finding] = named(run_case(fleet), "node-down")
    assert (finding.severity, finding.hosts, finding.segment) == ("warning", ["node3"], "control-plane")
    assert "no task" in finding.summary


@pytest.mark.parametrize("holds", ["task", "manager", "waiting"])
def test_node_down_is_critical_where_it_carries_something(holds):
    fleet = make_fleet(2)
    swarm(fleet)
    nodes_of(fleet)[2] = node(3, 3 if holds == "manager" else 1, state="down")
    place = {"task": {"node_id": "id3", "state": "running"}, "waiting": {"node_id": None, "state": "pending"}}
    if holds in place:
        fleet.hosts["node1"].facts.swarm["tasks"] = [{"id": "t", "desired": "running", **place[holds]}]
    [finding] = named(run_case(fleet), "node-down")
    assert (finding.severity, finding.hosts) == ("critical", [])
    assert "not in the play" in finding.summary


def test_node_down_is_left_to_engine_down_where_the_engine_is_known_to_be_down():
    fleet = make_fleet(3)
    swarm(fleet)
    nodes_of(fleet)[2]["state"] = "down"
    facts = fleet.hosts["node3"].facts.facts
    facts["engine"], facts["swarm"], facts["containers"] = {"state": "down"}, {}, []
    case = run_case(fleet)
    assert named(case, "node-down") == []
    assert named(case, "engine-down")


def test_node_down_of_a_node_that_left_is_a_dead_record():
    fleet = make_fleet(3)
    swarm(fleet)
    nodes_of(fleet)[2]["state"] = "down"
    fleet.hosts["node3"].facts.facts["swarm"] = {"state": "inactive", "node_id": None}
    [finding] = named(run_case(fleet), "node-down")
    assert (finding.severity, finding.hosts) == ("info", ["node3"])


def test_a_node_that_left_and_was_removed_says_nothing():
    fleet = make_fleet(3)
    swarm(fleet, count=2)
    fleet.hosts["node3"].facts.facts["swarm"] = {"state": "inactive", "node_id": None}
    assert run_case(fleet).findings == []


def test_node_down_with_a_running_engine_is_said_aloud_only_when_it_lasts():
    fleet = make_fleet(3)
    swarm(fleet)
    nodes_of(fleet)[2]["state"] = "down"
    assert [f.severity for f in named(run_case(fleet), "node-down")] == ["info"]
    again = make_fleet(3)
    swarm(again)
    nodes_of(again)[2]["state"] = "down"
    lossy = run_case(again, lambda p, k: "timeout" if p.id.startswith("node1/app-1>node2") else None)
    assert len(again.hosts["node1"].readings) == 2
    assert [f.severity for f in named(lossy, "node-down")] == ["warning"]


def test_a_node_that_is_ready_again_in_the_second_reading_is_not_down():
    fleet = make_fleet(3)
    swarm(fleet)
    fleet.hosts["node3"] = unreachable()
    nodes_of(fleet)[2]["state"] = "down"
    manager = fleet.hosts["node1"]
    later = make_fleet(3).hosts["node1"].facts
    later.facts["swarm"] = {**manager.facts.swarm, "nodes": [node(n) for n in (1, 2, 3)]}
    manager.snapshots["again"] = later
    case = Case(fleet, [])
    decide_all(case)
    assert named(case, "node-down") == []


@pytest.mark.parametrize("availability", ["drain", "pause"])
def test_node_not_active_is_information(availability):
    fleet = make_fleet(3)
    swarm(fleet)
    nodes_of(fleet)[1]["availability"] = availability
    [finding] = named(run_case(fleet), "node-not-active")
    assert (finding.severity, finding.hosts) == ("info", ["node2"])
    assert availability in finding.summary


def test_an_address_that_the_manager_shows_wrongly_is_cosmetic():
    fleet = make_fleet(3)
    swarm(fleet)
    for row in nodes_of(fleet):
        row["addr"] = "127.0.0.1"
    assert run_case(fleet).findings == []


# ---- raft-no-quorum, swarm-partitioned


def leaderless(fleet: Fleet, *names: str) -> None:
    for name in names:
        fleet.hosts[name].facts.swarm.update(nodes=[], error=LEADERLESS)


def test_raft_no_quorum_where_the_lost_managers_do_not_answer():
    fleet = make_fleet(3)
    swarm(fleet, 3)
    leaderless(fleet, "node1")
    fleet.hosts.update(node2=unreachable("node2"), node3=unreachable("node3"))
    [finding] = named(run_case(fleet), "raft-no-quorum")
    assert (finding.severity, finding.hosts) == ("critical", ["node2", "node3"])
    assert "1 of 3" in finding.summary and "2" in finding.summary


def test_raft_no_quorum_names_the_survivor_where_the_lost_are_not_in_the_play():
    fleet = make_fleet(1)
    swarm(fleet, 1)
    fleet.hosts["node1"].facts.swarm["managers"] = [
        {"node_id": f"id{n}", "addr": f"{address(n)}:2377"} for n in (1, 2, 3)
    ]
    leaderless(fleet, "node1")
    [finding] = named(run_case(fleet), "raft-no-quorum")
    assert (finding.severity, finding.hosts) == ("critical", ["node1"])


def test_raft_no_quorum_follows_from_engines_that_are_down():
    fleet = make_fleet(3)
    swarm(fleet, 3)
    leaderless(fleet, "node1")
    for name in ("node2", "node3"):
        facts = fleet.hosts[name].facts.facts
        facts["engine"], facts["swarm"], facts["containers"] = {"state": "down"}, {}, []
    case = run_case(fleet)
    assert [f.severity for f in named(case, "raft-no-quorum")] == ["info"]
    assert len(named(case, "engine-down")) == 2


def test_one_manager_without_a_leader_is_no_lost_quorum():
    fleet = make_fleet(3)
    swarm(fleet, 3)
    leaderless(fleet, "node3")
    assert named(run_case(fleet), "raft-no-quorum") == []


def test_an_election_is_over_by_the_second_reading():
    fleet = make_fleet(3)
    swarm(fleet, 3)
    leaderless(fleet, "node1", "node2", "node3")
    for name, host in fleet.hosts.items():
        healthy = make_fleet(3)
        swarm(healthy, 3)
        host.snapshots["again"] = healthy.hosts[name].facts
    case = Case(fleet, [])
    decide_all(case)
    assert named(case, "raft-no-quorum") == []


def split(fleet: Fleet) -> None:
    """node3 has made a Swarm of its own of what was one."""
    for number in (1, 2):
        nodes_of(fleet, f"node{number}")[2].update(
            state="down", manager={"leader": False, "reachability": "unreachable"}
        )
    own = [node(n, 0) for n in (1, 2)] + [node(3, 3, manager={"leader": True, "reachability": "reachable"})]
    fleet.hosts["node3"].facts.swarm["nodes"] = own


def test_swarm_partitioned_names_the_minority():
    fleet = make_fleet(3)
    swarm(fleet, 3)
    split(fleet)
    [finding] = named(run_case(fleet), "swarm-partitioned")
    assert (finding.severity, finding.hosts, finding.segment) == ("critical", ["node3"], "control-plane")


def test_a_manager_that_is_cut_off_is_said_at_info_beside_what_cuts_it_off():
    fleet = make_fleet(3)
    swarm(fleet, 3)
    leaderless(fleet, "node3")
    for number in (1, 2):
        nodes_of(fleet, f"node{number}")[2]["manager"]["reachability"] = "unreachable"
    case = run_case(fleet, lambda p, k: "timeout" if k == "tcp:2377" and "node3" in p.hosts else None)
    assert [(f.cause, f.severity) for f in case.findings] == [
        ("mgmt-2377-blocked", "critical"),
        ("swarm-partitioned", "info"),
    ]
    assert named(case, "swarm-partitioned")[0].hosts == ["node3"]


def test_a_list_that_lags_is_no_partition():
    fleet = make_fleet(3)
    swarm(fleet, 3)
    for row in nodes_of(fleet, "node3"):  # it still believes itself to lead, and knows the others as managers
        row["manager"]["leader"] = row["id"] == "id3"
    assert named(run_case(fleet), "swarm-partitioned") == []


def test_two_swarms_in_one_inventory_are_no_partition():
    fleet = make_fleet(3)
    swarm(fleet, 3)
    split(fleet)
    fleet.hosts["node3"].facts.swarm["cluster_id"] = "c2"
    assert named(run_case(fleet), "swarm-partitioned") == []


# ---- swarm-cert-invalid


def certificate(fleet: Fleet, begins: float, ends: float, error: str | None = None) -> None:
    facts = fleet.hosts["node2"].facts
    facts.facts["started"] = 1000 * DAY
    facts.swarm["certificate"] = {
        "not_before": (1000 + begins) * DAY,
        "not_after": (1000 + ends) * DAY,
        "path": "/c.crt",
    }
    facts.swarm["error"] = error


@pytest.mark.parametrize(
    ("begins", "ends", "error", "words", "severity"),
    [
        (-100, -10, None, "expired 10 day", "critical"),
        (2, 90, None, "begins in 2 day", "critical"),
        (-10, 80, "x509: certificate has expired or is not yet valid", "refuse", "critical"),
        (-88, 2, None, "not renewed", "warning"),
    ],
)
def test_swarm_cert_invalid(begins, ends, error, words, severity):
    fleet = make_fleet(3)
    certificate(fleet, begins, ends, error)
    [finding] = named(run_case(fleet), "swarm-cert-invalid")
    assert (finding.severity, finding.hosts) == (severity, ["node2"])
    assert words in finding.summary


@pytest.mark.parametrize(("begins", "ends"), [(-1, 89), (-45, 45), (-72, 18)])
def test_a_certificate_in_its_life_says_nothing(begins, ends):
    fleet = make_fleet(3)
    certificate(fleet, begins, ends)
    assert named(run_case(fleet), "swarm-cert-invalid") == []


def test_swarm_cert_invalid_tells_whose_clock_is_wrong():
    fleet = make_fleet(3)
    for name in ("node1", "node3"):
        fleet.hosts[name].facts.facts["started"] = 900 * DAY
    certificate(fleet, -100, -10)
    [finding] = named(run_case(fleet), "swarm-cert-invalid")
    assert any("ahead of the other hosts" in evidence.observed for evidence in finding.evidence)


# ---- networkdb-too-big


def bulk_sync(
    fleet: Fleet, *names: str, count: int = 9, ago: float = 60, text: str = "Bulk sync to node a1 timed out"
) -> None:
    for name in names:
        facts = fleet.hosts[name].facts.facts
        facts["started"] = 100000.0
        facts["log"] = {"patterns": {"gossip-bulk-sync-failed": {"count": count, "last": 100000 - ago, "sample": text}}}


def forget_neighbours(fleet: Fleet, name: str) -> None:
    for namespace in fleet.hosts[name].facts.namespaces:
        if namespace.kind == "overlay":
            namespace.facts["neighbours"] = []


def overlay_of(name: str):
    return lambda p, k: "timeout" if p.kind == "overlay" and name in p.hosts else None


def test_networkdb_too_big_explains_pairs_whose_entries_an_engine_lacks():
    fleet = make_fleet(3)
    bulk_sync(fleet, "node1", "node2")
    forget_neighbours(fleet, "node2")
    [finding] = named(run_case(fleet, overlay_of("node2")), "networkdb-too-big")
    assert (finding.severity, finding.confidence, finding.hosts) == ("critical", "possible", ["node1", "node2"])
    assert len(finding.explains) == 4


def test_lines_in_the_log_alone_are_not_networkdb_too_big():
    fleet = make_fleet(3)
    bulk_sync(fleet, "node1", "node2")
    assert named(run_case(fleet), "networkdb-too-big") == []
    assert named(run_case(fleet, overlay_of("node2")), "networkdb-too-big") == []  # the entries are all there


@pytest.mark.parametrize("why", ["one host", "few", "old", "no timeout", "port closed", "node gone"])
def test_bulk_syncs_that_fail_for_other_reasons(why):
    fleet = make_fleet(3)
    swarm(fleet)
    bulk_sync(
        fleet,
        *(("node1",) if why == "one host" else ("node1", "node2")),
        count=2 if why == "few" else 9,
        ago=7200 if why == "old" else 60,
        text="bulk sync failed: EOF" if why == "no timeout" else "Bulk sync to node a1 timed out",
    )
    if why == "node gone":
        nodes_of(fleet)[2]["state"] = "down"
    forget_neighbours(fleet, "node2")

    def lost(pair: Pair, key: str) -> str | None:
        closed = why == "port closed" and key == "tcp:7946" and "node3" in pair.hosts
        return "timeout" if closed or overlay_of("node2")(pair, key) else None

    assert named(run_case(fleet, lost), "networkdb-too-big") == []


# ---- kv-store-unhealthy


def store_case(status: str, code: int | None, asked: tuple[str, ...] = ("node1", "node2", "node3")) -> Case:
    """The store on node3, asked from each host; of the named ones it answers as told, of the others well."""
    fleet = make_fleet(3)
    pairs = [
        Pair(
            "kv",
            Node(name, "host", name, fleet.hosts[name].underlay_ip),
            Node("node3", "external", "192.0.2.13:2379/health", "192.0.2.13"),
            probes=[Probe("http", "192.0.2.13", 2379, SERVICE, {"path": "/health"})],
        )
        for name in fleet.hosts
    ]
    for host in fleet.answering:
        rows = []
        for pair in pairs:
            if pair.src.host == host.name:
                rows += answer(pair, lambda p, k: status if p.src.host in asked else None)
                rows[-1]["http_status"] = code if host.name in asked else 200
        host.probes["first"] = host.probes["again"] = {"results": rows, "missing": []}
    case = Case(fleet, observe(fleet, {"first": pairs, "again": pairs}))
    decide_all(case)
    return case


def test_kv_store_unhealthy_without_a_leader():
    [finding] = named(store_case("ok", 503), "kv-store-unhealthy")
    assert (finding.severity, finding.hosts) == ("critical", ["node3"])
    assert "503" in finding.summary


def test_kv_store_unhealthy_where_it_does_not_answer():
    case = store_case("timeout", None)
    [finding] = named(case, "kv-store-unhealthy")
    assert finding.hosts == ["node3"] and len(finding.explains) == 3
    assert named(case, "unexplained-loss") == []


def test_kv_store_unhealthy_from_one_host_only_is_that_hosts():
    [finding] = named(store_case("refused", None, ("node1",)), "kv-store-unhealthy")
    assert finding.hosts == ["node1"]


@pytest.mark.parametrize("code", [200, 404])
def test_a_store_that_answers_says_nothing(code):
    assert named(store_case("ok", code), "kv-store-unhealthy") == []


def test_stores_are_asked_by_the_hosts_that_are_configured_to_use_them():
    fleet = make_fleet(3)
    fleet.hosts["node1"].facts.engine["kv"] = {"url": "consul://192.0.2.3:8500/x", "endpoints": ["192.0.2.3:8500"]}
    [pair] = [pair for pair in first_round(fleet) if pair.kind == "kv"]
    assert (pair.src.host, pair.dst.host, pair.probes[0].layer, pair.probes[0].port) == ("node1", "node3", "http", 8500)
    assert pair.probes[0].options == {"path": "/v1/status/leader"}


def test_a_store_the_operator_names_is_asked_by_all():
    fleet = make_fleet(3)
    fleet.run["kv_endpoints"] = ["192.0.2.13", "https://192.0.2.13:4001", "etcd://a.name.only:2379"]
    pairs = [pair for pair in first_round(fleet) if pair.kind == "kv"]
    assert {(p.src.host, p.probes[0].layer, p.probes[0].port) for p in pairs} == {
        (f"node{n}", layer, port) for n in (1, 2, 3) for layer, port in (("http", 2379), ("tcp", 4001))
    }


@pytest.mark.parametrize(("size", "ill"), [(2, True), (17, False)])
def test_consul_without_a_leader_answers_with_an_empty_name(size, ill):
    fleet = make_fleet(1)
    fleet.run["kv_endpoints"] = ["consul://192.0.2.99"]
    pairs = first_round(fleet)
    rows = [row for pair in pairs for row in answer(pair, lambda p, k: None)]
    for row in rows:
        row.update(http_status=200, bytes=size)
    fleet.hosts["node1"].probes["first"] = {"results": rows, "missing": []}
    case = Case(fleet, observe(fleet, {"first": pairs}))
    decide_all(case)
    assert bool(named(case, "kv-store-unhealthy")) == ill


# ---- facts that are missing


def test_facts_that_are_missing_raise_nothing():
    fleet = make_fleet(3)
    for host in fleet.hosts.values():
        host.facts.facts["swarm"] = {
            "state": "active",
            "node_id": "x",
            "control_available": True,
            "nodes": [{"id": "y"}],
        }
        host.facts.facts.pop("engine")
        host.facts.facts.pop("host")
    case = Case(fleet, [])
    decide_all(case)
    assert [f for f in case.findings if f.severity == "critical"] == []

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Causes decided on made fleets: what only needs state and probe results. The lab proves the same on real hosts."""

from __future__ import annotations

import copy

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.registry import decide_all
from ansible_collections.crosshost.doctor.plugins.plugin_utils.engine import _verdict, checks_skipped
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet, Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import observe
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Pair
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.plan import first_round
from tests.unit.made_fleet import address, answer, mac, make_fleet, overlay_ip, run_case


def touches(name: str):
    return lambda pair: name in pair.hosts


def test_a_healthy_fleet_says_nothing():
    case = run_case(make_fleet(4))
    assert case.findings == []
    assert case.broken == []


def test_a_loss_that_does_not_come_back_is_nothing():
    fleet = make_fleet(3)
    seen: set[str] = set()

    def once(pair: Pair, key: str) -> str | None:
        first = pair.id not in seen
        seen.add(pair.id) if key == pair.probes[-1].key else None
        return "timeout" if pair.kind == "overlay" and first else None

    assert run_case(fleet, once).findings == []


def test_a_pair_nothing_explains_is_said_to_be_unexplained():
    fleet = make_fleet(3)
    case = run_case(fleet, lambda p, k: "timeout" if p.kind == "overlay" and "node2" in p.hosts else None)
    assert [(f.cause, f.hosts, f.severity) for f in case.findings] == [("unexplained-loss", ["node2"], "critical")]
    assert len(case.findings[0].explains) == 4


def test_a_host_that_answers_only_what_the_swarm_needs_is_healthy():
    case = run_case(make_fleet(3), lambda p, k: "timeout" if p.kind == "host" and k in ("icmp", "tcp:22") else None)
    assert case.findings == []
    assert case.broken == []


def test_a_peer_that_answers_no_echo_says_nothing_about_a_containers_way_out():
    fleet = make_fleet(3)
    for number in (1, 2, 3):
        fleet.hosts[f"node{number}"].facts.namespace(f"1{number}").facts["routes"] = [
            {"family": 4, "dst": "default", "gateway": "172.18.0.1", "oif": 12}
        ]
    closed = ("icmp", "tcp:22")
    case = run_case(fleet, lambda p, k: "timeout" if p.kind in ("host", "egress") and k in closed else None)
    assert case.findings == []
    cut = run_case(fleet, lambda p, k: "timeout" if p.kind == "egress" and p.src.host == "node2" else None)
    assert [(f.cause, f.hosts) for f in cut.findings] == [("unexplained-loss", ["node2"])]


def test_probes_that_could_not_be_sent_are_no_loss():
    case = run_case(make_fleet(3), lambda p, k: "error" if "node2" in p.hosts else None)
    assert case.findings == []
    assert {o.verdict() for o in case.observations if "node2" in o.pair.hosts} == {"untested"}
    assert any(row["check"].startswith("probes node2") for row in checks_skipped(case))


def a_container_that_changes(change):
    """A fleet whose app-2 answers nobody, and whose namespace is C(change)d in the second reading."""
    fleet = make_fleet(3)
    gone = fleet.hosts["node2"]
    plans = {"first": first_round(fleet)}
    for host in fleet.answering:
        rows = [
            row
            for pair in plans["first"]
            if pair.src.host == host.name
            for row in answer(pair, lambda p, k: "timeout" if "app-2" in (p.src.name, p.dst.name) else None)
        ]
        host.probes["first"] = host.probes["again"] = {"results": rows, "missing": []}
        host.snapshots["again"] = HostFacts(host.name, copy.deepcopy(host.facts.facts))
    facts = copy.deepcopy(gone.facts.facts)
    change(facts["namespaces"])
    gone.snapshots["again"] = HostFacts(gone.name, facts)
    case = Case(fleet, observe(fleet, {**plans, "again": plans["first"]}))
    decide_all(case)
    return case


def no_namespace(spaces):
    spaces[:] = [space for space in spaces if space["key"] != "12"]


def of_another_container(spaces):
    """The kernel gives the number of a namespace that is gone to the next one."""
    next(space for space in spaces if space["key"] == "12")["container"] = "c9"


def without_its_address(spaces):
    space = next(space for space in spaces if space["key"] == "12")
    space["addresses"], space["container"] = [{"index": 10, "family": 4, "ip": "10.0.1.99", "prefix": 24}], None


@pytest.mark.parametrize("change", [no_namespace, of_another_container, without_its_address])
def test_a_container_that_stops_during_the_run_is_no_fault(change):
    case = a_container_that_changes(change)
    assert case.findings == []
    assert {o.verdict() for o in case.observations if "app-2" in (o.pair.src.name, o.pair.dst.name)} == {"untested"}


def test_a_container_that_is_still_there_and_answers_nobody_is_a_fault():
    case = a_container_that_changes(lambda spaces: None)
    assert [finding.explains for finding in case.findings]
    assert {o.verdict() for o in case.observations if "app-2" in (o.pair.src.name, o.pair.dst.name)} == {"failed"}


def test_a_host_without_an_engine_is_asked_nothing():
    fleet = make_fleet(3)
    fleet.hosts["node3"].facts.facts.update(engine={"state": "absent"}, swarm={}, networks=[], containers=[])
    case = run_case(fleet, lambda p, k: "timeout" if "node3" in p.hosts else None)
    assert case.findings == []


def test_hosts_that_reach_nobody_are_an_underlay_fault_and_nothing_else():
    fleet = make_fleet(4)
    case = run_case(fleet, lambda p, k: "timeout" if "node3" in p.hosts and not k.startswith("udp") else None)
    assert [(f.cause, f.hosts, f.segment) for f in case.findings] == [("underlay-unreachable", ["node3"], "underlay")]
    assert {o.pair.id for o in case.broken} == set(case.findings[0].explains)


def test_a_link_that_is_down_is_named():
    fleet = make_fleet(3)
    fleet.hosts["node2"].facts.root.links[0]["up"] = False
    case = run_case(fleet, lambda p, k: "timeout" if "node2" in p.hosts and not k.startswith("udp") else None)
    finding = case.findings[0]
    assert (finding.cause, finding.hosts, finding.confidence) == ("underlay-unreachable", ["node2"], "confirmed")
    assert "administratively down" in finding.evidence[0].observed


@pytest.mark.parametrize("address_too", [False, True])
def test_a_host_without_routes_is_one_fault(address_too: bool):
    fleet = make_fleet(4)
    root = fleet.hosts["node2"].facts.root.facts
    root["routes"] = [{"family": 4, "table": 254, "dst": "172.17.0.0/16", "oif": 3, "type": "unicast"}]
    if address_too:
        root["addresses"] = [row for row in root["addresses"] if row["ip"] != address(2)]
    case = run_case(fleet, lambda p, k: "timeout" if "node2" in p.hosts and not k.startswith("udp") else None)
    assert [(f.cause, f.hosts, f.confidence) for f in case.findings] == [
        ("underlay-unreachable", ["node2"], "confirmed"),
    ]
    assert {o.pair.id for o in case.broken} == set(case.findings[0].explains)
    words = f"no route, and its own address {address(2)} is on no interface" if address_too else "no route"
    assert case.findings[0].summary.endswith(f"routes to {address(1)} and 2 more {words}")


def test_a_wrong_forwarding_entry_is_found_where_it_is():
    fleet = make_fleet(3)
    overlay = fleet.hosts["node1"].facts.overlay_namespace("net1")
    row = next(r for r in overlay.facts["fdb"] if mac(2) in r["macs"])
    row["dst"] = address(99)
    case = run_case(
        fleet, lambda p, k: "timeout" if p.kind == "overlay" and set(p.hosts) == {"node1", "node2"} else None
    )
    assert [(f.cause, f.hosts, f.segment) for f in case.findings] == [("overlay-entry-wrong", ["node1"], "vtep")]
    assert len(case.findings[0].explains) == 2


def test_a_missing_entry_is_blamed_only_for_pairs_that_need_it():
    fleet = make_fleet(3)
    overlay = fleet.hosts["node1"].facts.overlay_namespace("net1")
    overlay.facts["fdb"] = [row for row in overlay.facts["fdb"] if mac(2) not in row["macs"]]
    between = {"node1", "node2"}
    case = run_case(fleet, lambda p, k: "timeout" if p.kind == "overlay" and set(p.hosts) == between else None)
    assert [(f.cause, f.hosts) for f in case.findings] == [("overlay-entry-missing", ["node1"])]
    assert len(case.findings[0].explains) == 2
    healed = make_fleet(3)
    healed.hosts["node1"].facts.overlay_namespace("net1").facts["fdb"] = overlay.facts["fdb"]
    assert run_case(healed).findings == []  # an engine adds it with the next miss


def test_an_entry_that_differs_while_traffic_arrives_is_not_wrong():
    fleet = make_fleet(3)
    overlay = fleet.hosts["node1"].facts.overlay_namespace("net1")
    next(r for r in overlay.facts["fdb"] if mac(2) in r["macs"])["dst"] = "198.51.100.2"
    assert run_case(fleet).findings == []


@pytest.mark.parametrize(
    ("device", "change"),
    [
        ("vxlan0", {"up": False}),
        ("br0", {"up": False}),
        ("vxlan0", {"master": None}),
        ("veth0", {"up": False}),
        ("veth0", {"master": None}),
    ],
)
def test_a_device_of_the_overlay_namespace_that_is_down(device, change):
    fleet = make_fleet(3)
    fleet.hosts["node2"].facts.overlay_namespace("net1").link(device).update(change)
    case = run_case(fleet, lambda p, k: "timeout" if p.kind == "overlay" and "node2" in p.hosts else None)
    assert [(f.cause, f.hosts, f.segment) for f in case.findings] == [("vtep-down", ["node2"], "vtep")]
    assert len(case.findings[0].explains) == 4


def test_an_engine_that_is_down_explains_its_silent_ports():
    fleet = make_fleet(3)
    facts = fleet.hosts["node2"].facts.facts
    facts["engine"].update(state="down", error="connection refused")
    facts["containers"].clear()
    case = run_case(fleet, lambda p, k: "refused" if p.dst.host == "node2" and k == "tcp:7946" else None)
    assert [(f.cause, f.hosts, f.segment) for f in case.findings] == [("engine-down", ["node2"], "engine")]
    assert len(case.findings[0].explains) == 2


def test_an_engine_that_hangs_is_down_for_everybody():
    """Its sockets accept, and so do its ports; nothing of it fails until what it knew is withdrawn."""
    fleet = make_fleet(3)
    facts = fleet.hosts["node2"].facts.facts
    facts["engine"].update(state="silent", error="/run/docker.sock: no answer within 15 s")
    facts["containers"].clear()
    case = run_case(fleet)
    (finding,) = case.findings
    assert (finding.cause, finding.hosts, finding.severity) == ("engine-down", ["node2"], "critical")
    assert "answers nothing (/run/docker.sock: no answer within 15 s)" in finding.summary
    assert finding.remedies[0].disruptive


@pytest.mark.parametrize(
    ("state", "verdict"), [("running", "healthy"), ("absent", "healthy"), ("unknown", "inconclusive")]
)
def test_a_fleet_with_an_engine_that_could_not_be_asked_is_not_called_healthy(state: str, verdict: str):
    fleet = make_fleet(3)
    fleet.hosts["node2"].facts.facts["engine"]["state"] = state
    case = run_case(fleet)
    assert _verdict(case, [finding for finding in case.findings if finding.severity != "info"]) == verdict


def test_a_service_that_listens_on_loopback_only():
    fleet = make_fleet(2)
    facts = fleet.hosts["node2"].facts
    facts.containers[0]["ports"] = [{"protocol": "tcp", "port": 80, "host_ip": "0.0.0.0", "host_port": 8080}]
    facts.namespace("12").facts["sockets"] = [{"protocol": "tcp", "family": 4, "ip": "127.0.0.1", "port": 80}]
    case = run_case(fleet, lambda p, k: "refused" if p.dst.kind == "published-port" else None)
    assert [(f.cause, f.hosts) for f in case.findings] == [("service-not-listening", ["node2"])]
    assert "only on 127.0.0.1" in case.findings[0].summary


def test_two_faults_on_two_hosts_are_both_found():
    fleet = make_fleet(4)
    fleet.hosts["node2"].facts.overlay_namespace("net1").link("vxlan0")["up"] = False
    fleet.hosts["node3"].facts.facts["engine"].update(state="down")

    def broken(pair: Pair, key: str) -> str | None:
        if pair.dst.host == "node3" and key == "tcp:7946":
            return "refused"
        return "timeout" if pair.kind == "overlay" and "node2" in pair.hosts else None

    found = {(f.cause, *f.hosts) for f in run_case(fleet, broken).findings}
    assert found == {("vtep-down", "node2"), ("engine-down", "node3")}


def test_a_host_without_facts_is_said_to_be_unchecked():
    fleet = Fleet([*make_fleet(2).hosts.values(), Host("node9", error="Connection refused", unreachable=True)], {})
    case = run_case(fleet)
    assert case.findings == []
    assert {"check": "all checks", "host": "node9", "why": "Connection refused"} in checks_skipped(case)


@pytest.mark.parametrize(("state", "told"), [("paused", True), ("restarting", True), ("exited", False)])
def test_a_container_that_is_meant_to_run_and_does_not_is_said(state: str, told: bool):
    fleet = make_fleet()
    fleet.hosts["node2"].facts.facts["containers"][0]["state"] = state
    rows = [row for row in checks_skipped(run_case(fleet)) if row["check"].startswith("container ")]
    assert [(row["host"], state in row["why"]) for row in rows] == ([("node2", True)] if told else [])


def test_facts_with_every_part_missing_never_raise():
    fleet = make_fleet(3)
    for key in list(fleet.hosts["node2"].facts.facts):
        facts = {k: v for k, v in fleet.hosts["node2"].facts.facts.items() if k != key}
        partial = Fleet([fleet.hosts["node1"], Host("node2"), fleet.hosts["node3"]], {"run_id": "x"})
        partial.hosts["node2"].snapshots["before"] = HostFacts("node2", facts)
        case = run_case(partial, lambda p, k: "timeout" if p.kind == "overlay" else None)
        assert all(f.severity in ("critical", "warning", "info") for f in case.findings)


def test_overlay_addresses_of_the_made_fleet_differ():
    assert overlay_ip(1) != overlay_ip(2)


def node(number: int, state: str = "ready") -> dict[str, str]:
    row = {"id": f"id{number}", "hostname": f"node{number}", "addr": address(number), "state": state}
    return {**row, "role": "worker", "availability": "active"}


def unasked(fleet: Fleet) -> list[str]:
    return [row["check"] for row in checks_skipped(run_case(fleet)) if "other node(s) of the Swarm" in row["check"]]


def test_nodes_that_a_manager_knows_and_nobody_asked_are_said():
    fleet = make_fleet(2)
    fleet.hosts["node1"].facts.facts["swarm"]["nodes"] = [node(1), node(2), node(3), node(4, state="down")]
    assert unasked(fleet) == ["1 other node(s) of the Swarm: node3 (192.0.2.3)"]
    fleet = make_fleet(2)
    fleet.hosts["node1"].facts.facts["swarm"]["nodes"] = [node(1), node(2)]
    assert unasked(fleet) == []


def test_without_a_manager_the_others_are_known_by_their_addresses():
    def workers() -> Fleet:
        fleet = make_fleet(2)
        for host in fleet.hosts.values():
            host.facts.facts["swarm"] |= {
                "control_available": False,
                "managers": [
                    {"node_id": "x", "addr": "192.0.2.9:2377"},
                    {"node_id": "y", "addr": "[2001:db8::9]:2377"},
                ],
            }
            host.facts.facts["networks"][0]["peers"] = [{"name": "a", "ip": address(n)} for n in (1, 2, 3)]
        return fleet

    assert unasked(workers()) == ["3 other node(s) of the Swarm: 192.0.2.3, 192.0.2.9, 2001:db8::9"]
    fleet = workers()
    for name in ("node3", "node8", "node9"):  # these may be they
        fleet.hosts[name] = Host(name, error="Connection refused", unreachable=True)
    assert unasked(fleet) == []


def test_a_host_that_does_not_answer_is_not_said_twice():
    fleet = make_fleet(2)
    fleet.hosts["node1"].facts.facts["swarm"]["nodes"] = [node(1), node(2), node(3)]
    fleet.hosts["node3.example.com"] = Host("node3.example.com", error="Connection refused", unreachable=True)
    assert unasked(fleet) == []

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ports, identifiers and gossip on made fleets; what the lab cannot provoke is proven here alone."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes import ports
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Pair
from tests.unit.made_fleet import NETWORK, address, make_fleet, run_case

PROBE_FAILED = "memberlist: Was able to connect to {} but other probes failed, network may be misconfigured"


def facts(fleet: Fleet, number: int) -> dict[str, Any]:
    return fleet.hosts[f"node{number}"].facts.facts


def root(fleet: Fleet, number: int) -> dict[str, Any]:
    return facts(fleet, number)["namespaces"][0]


def vxlan(fleet: Fleet, number: int) -> dict[str, Any]:
    return facts(fleet, number)["namespaces"][2]["links"][1]


def device(name: str = "vxlan.calico", up: bool = True, **what: Any) -> dict[str, Any]:
    return {"index": 90, "name": name, "kind": "vxlan", "up": up, "vxlan": {"external": False, **what}}


def gossip(fleet: Fleet, peers: dict[int, list[int]] | None = None) -> None:
    """What engines say of one another: every host knows all, or the peers given."""
    numbers = range(1, len(fleet.hosts) + 1)
    for number in numbers:
        known = (peers or {}).get(number, list(numbers))
        facts(fleet, number)["networks"][0]["peers"] = [{"name": f"gossip{n}", "ip": address(n)} for n in known]


def complains(fleet: Fleet, number: int, of: int, age: float = 2.0) -> None:
    facts(fleet, number)["started"] = 1000.0
    row = {"count": 7, "last": 1000.0 - age, "sample": PROBE_FAILED.format(f"gossip{of}")}
    facts(fleet, number)["log"] = {"patterns": {"gossip-probe-failed": row}}


def named(case: Case) -> list[tuple[str, str, list[str]]]:
    """What concerns this family: its own causes, and whatever is louder than information."""
    own = {cause.id for cause in ports.CAUSES}
    return [(f.cause, f.severity, f.hosts) for f in case.findings if f.cause in own or f.severity != "info"]


def between(*hosts: str):
    def broken(pair: Pair, key: str) -> str | None:
        return "timeout" if pair.kind == "overlay" and set(hosts) <= set(pair.hosts) else None

    return broken


# ---- data-path-port-mismatch


def test_a_device_on_another_port_than_the_fleets_is_named_on_its_host():
    fleet = make_fleet(3)
    vxlan(fleet, 2)["vxlan"]["port"] = 8472
    case = run_case(fleet, between("node2"))
    assert named(case) == [("data-path-port-mismatch", "critical", ["node2"])]
    assert len(case.findings[0].explains) == 4


def test_of_two_hosts_the_managers_port_decides_which_is_odd():
    fleet = make_fleet(2)
    facts(fleet, 1)["swarm"]["data_path_port"] = 8472
    vxlan(fleet, 1)["vxlan"]["port"] = 8472
    assert named(run_case(fleet, between("node2"))) == [("data-path-port-mismatch", "critical", ["node2"])]


def test_one_other_port_for_all_is_no_mismatch_and_rules_it_out():
    fleet = make_fleet(3)
    for number in (1, 2, 3):
        vxlan(fleet, number)["vxlan"]["port"] = 7789
    assert named(run_case(fleet)) == []
    lost = run_case(fleet, between("node2"))
    assert named(lost) == [("unexplained-loss", "critical", ["node2"])]
    rejected = [row for finding in lost.findings for row in finding.rejected]
    assert ("data-path-port-mismatch", "the VXLAN devices of all 3 hosts use UDP 7789") in rejected


def test_networks_of_two_clusters_may_have_ports_of_their_own():
    fleet = make_fleet(4)
    for number in (3, 4):
        vxlan(fleet, number)["vxlan"]["port"] = 8472
        row = facts(fleet, number)
        row["networks"][0]["id"] = row["containers"][0]["endpoints"][0]["network_id"] = "net2"
        row["namespaces"][2]["network"] = "net2"
    assert named(run_case(fleet)) == []


# ---- data-port-userland-taken


def taken(fleet: Fleet, number: int) -> None:
    vxlan(fleet, number)["up"] = False
    facts(fleet, number)["containers"] = []
    root(fleet, number)["sockets"].append({"protocol": "udp", "family": 4, "ip": "0.0.0.0", "port": 4789})


def test_a_socket_on_the_tunnel_port_without_a_device_that_is_up_is_a_process():
    fleet = make_fleet(3)
    taken(fleet, 3)
    assert named(run_case(fleet)) == [("data-port-userland-taken", "critical", ["node3"])]


def test_the_kernels_own_socket_is_nobodys():
    fleet = make_fleet(3)
    taken(fleet, 3)
    vxlan(fleet, 3)["up"] = True
    assert named(run_case(fleet)) == []


def test_a_namespace_that_could_not_be_read_may_hold_the_device():
    fleet = make_fleet(3)
    taken(fleet, 3)
    facts(fleet, 3)["namespaces"].append({"key": "9", "kind": "other", "error": "gone"})
    assert named(run_case(fleet)) == []


def test_a_file_that_is_no_namespace_holds_nothing():
    fleet = make_fleet(3)
    taken(fleet, 3)
    left = {"key": "/run/docker/netns/ingress_sbox", "kind": "ingress", "error": "not a namespace"}
    facts(fleet, 3)["namespaces"].append(left)
    assert named(run_case(fleet)) == [("data-port-userland-taken", "critical", ["node3"])]


def test_a_holder_on_a_host_without_an_overlay_waits_for_the_first_container():
    fleet = make_fleet(3)
    taken(fleet, 3)
    del facts(fleet, 3)["namespaces"][2]
    assert named(run_case(fleet)) == [("data-port-userland-taken", "info", ["node3"])]


# ---- vni-collision-calico-docker, vxlan-port-external-conflict


def test_a_devices_identifier_that_a_network_will_need_is_information():
    fleet = make_fleet(3)
    facts(fleet, 1)["networks"].append(
        {"id": "net9", "name": "later", "driver": "overlay", "scope": "swarm", "vnis": [9]}
    )
    root(fleet, 3)["links"].append(device(vni=9, port=4789))
    assert named(run_case(fleet)) == [("vni-collision-calico-docker", "info", ["node3"])]


@pytest.mark.parametrize("sign", ["namespace", "ingress", "task", "log"])
def test_a_refused_device_is_critical(sign: str):
    fleet = make_fleet(3)
    network = {"id": "net9", "name": "later", "driver": "overlay", "scope": "swarm", "vnis": [9]}
    network["subnets"] = [{"subnet": "10.0.9.0/24"}]
    facts(fleet, 1)["networks"].append(network)
    root(fleet, 3)["links"].append(device(vni=9, port=4789))
    space = {"key": "39", "kind": "overlay", "network": "net9", "path": "/run/docker/netns/1-net9"}
    if sign == "namespace":
        facts(fleet, 3)["namespaces"].append({**space, "links": [{"index": 1, "name": "br0", "kind": "bridge"}]})
    elif sign == "ingress":
        network["ingress"] = True
        facts(fleet, 1)["namespaces"].append({**space, "links": [device("vxlan0", vni=9, port=4789)]})
    elif sign == "task":
        error = "error creating vxlan interface: file exists"
        facts(fleet, 1)["swarm"]["tasks"] = [{"id": "t1", "node_id": "id3", "error": error}]
    else:
        text = 'subnet sandbox join failed for "10.0.9.0/24": error creating vxlan interface: file exists'
        facts(fleet, 3)["log"] = {"patterns": {"vxlan-create-failed": {"count": 1, "last": 1.0, "sample": text}}}
    assert named(run_case(fleet)) == [("vni-collision-calico-docker", "critical", ["node3"])]


def test_other_identifiers_and_other_ports_are_free():
    fleet = make_fleet(3)
    root(fleet, 2)["links"] += [device(vni=5000, port=4789), device("flannel.1", vni=4097, port=8472)]
    root(fleet, 3)["links"].append(device("cilium_vxlan", vni=0, port=8473, external=True))
    assert named(run_case(fleet)) == []


def test_an_external_device_that_has_the_port_stops_the_engines():
    fleet = make_fleet(3)
    taken(fleet, 3)
    root(fleet, 3)["links"].append(device("cilium_vxlan", port=4789, external=True))
    assert named(run_case(fleet)) == [("vxlan-port-external-conflict", "critical", ["node3"])]


def test_an_external_device_that_came_late_is_information():
    fleet = make_fleet(3)
    root(fleet, 3)["links"].append(device("cilium_vxlan", up=False, port=4789, external=True))
    assert named(run_case(fleet)) == [("vxlan-port-external-conflict", "info", ["node3"])]


# ---- gossip-udp-7946-blocked on the network


def test_engines_that_go_on_complaining_of_one_node_name_it():
    fleet = make_fleet(3)
    gossip(fleet)
    complains(fleet, 1, of=2)
    complains(fleet, 3, of=2)
    complains(fleet, 2, of=1)
    assert named(run_case(fleet)) == [("gossip-udp-7946-blocked", "warning", ["node2"])]


@pytest.mark.parametrize(("voices", "age"), [((1, 3), 3600.0), ((1,), 2.0)], ids=["healed", "one-voice"])
def test_old_complaints_and_a_single_voice_are_nothing(voices: tuple[int, ...], age: float):
    fleet = make_fleet(3)
    gossip(fleet)
    for number in voices:
        complains(fleet, number, of=2, age=age)
    assert named(run_case(fleet)) == []


def test_complaints_of_a_node_with_a_louder_fault_are_its_consequence():
    fleet = make_fleet(3)
    gossip(fleet)
    complains(fleet, 1, of=2)
    complains(fleet, 3, of=2)
    vxlan(fleet, 2)["vxlan"]["port"] = 8472
    assert [cause for cause, _severity, _hosts in named(run_case(fleet, between("node2")))] == [
        "data-path-port-mismatch"
    ]


# ---- gossip-not-converged


def unconverged() -> Fleet:
    fleet = make_fleet(3)
    gossip(fleet, {1: [1, 3], 3: [1, 3], 2: [2]})
    row = {"count": 3, "last": 1.0, "sample": "No installed keys could decrypt the message"}
    facts(fleet, 2)["log"] = {"patterns": {"gossip-decrypt-failed": row}}
    return fleet


def test_a_node_nobody_knows_as_a_peer_though_its_port_is_open_has_not_converged():
    case = run_case(unconverged(), between("node2"))
    assert named(case) == [("gossip-not-converged", "critical", ["node2"])]
    assert len(case.findings[0].explains) == 4
    assert any("decrypt" in item.observed for item in case.findings[0].evidence)


def test_peers_that_lack_a_node_without_a_container_are_lazy():
    fleet = unconverged()
    facts(fleet, 2)["containers"] = []
    assert named(run_case(fleet)) == []


def test_missing_peers_break_nothing_by_themselves():
    assert named(run_case(unconverged())) == []


def test_a_closed_gossip_port_is_the_other_cause():
    def cut(pair: Pair, key: str) -> str | None:
        if pair.kind == "host" and "node2" in pair.hosts and key.endswith(":7946"):
            return "timeout"
        return between("node2")(pair, key)

    assert {cause for cause, _severity, _hosts in named(run_case(unconverged(), cut))} == {"gossip-7946-blocked"}


def test_an_engine_that_tells_no_peers_accuses_nobody():
    fleet = unconverged()
    for number in (1, 2, 3):
        del facts(fleet, number)["networks"][0]["peers"]
    assert [cause for cause, _severity, _hosts in named(run_case(fleet, between("node2")))] == ["unexplained-loss"]


def test_hosts_that_told_nothing_are_no_error():
    fleet = make_fleet(3)
    for name in ("namespaces", "networks", "containers", "log"):
        facts(fleet, 2).pop(name, None)
    vxlan(fleet, 3)["vxlan"] = {"vni": None, "port": None}
    assert NETWORK in fleet.networks
    assert not [f for f in run_case(fleet).findings if f.severity != "info"]

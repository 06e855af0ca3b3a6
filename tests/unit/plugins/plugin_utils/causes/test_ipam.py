# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Subnets that overlap and overlays without addresses, on made fleets."""

from __future__ import annotations

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Finding
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet
from tests.unit.made_fleet import NETWORK, make_fleet, overlay_ip, run_case

REFUSED = f"failed to allocate network IP for task t network {NETWORK}: could not find an available IP"
FAMILY = {"subnet-overlap-host", "subnet-overlap-docker", "overlay-ip-exhausted"}


def facts(fleet: Fleet, number: int) -> dict:
    return fleet.hosts[f"node{number}"].facts.facts


def root(fleet: Fleet, number: int) -> dict:
    return fleet.hosts[f"node{number}"].facts.root.facts


def network(name: str, subnet: str, gateway: str | None = None, driver: str = "bridge", scope: str = "local") -> dict:
    subnets = [{"subnet": subnet, "gateway": gateway}]
    return {"id": f"id-{name}", "name": name, "driver": driver, "scope": scope, "subnets": subnets}


def add_bridge(fleet: Fleet, number: int, name: str, subnet: str, gateway: str, index: int = 7) -> None:
    """A bridge network with its device, address and route."""
    facts(fleet, number)["networks"].append(network(name, subnet, gateway))
    prefix = int(subnet.split("/")[1])
    root(fleet, number)["links"].append({"index": index, "name": f"br-{name}", "kind": "bridge", "up": True})
    root(fleet, number)["addresses"].append({"index": index, "family": 4, "ip": gateway, "prefix": prefix})
    root(fleet, number)["routes"].append(
        {"family": 4, "table": 254, "dst": subnet, "oif": index, "type": "unicast", "src": gateway}
    )


def found(case) -> list[tuple]:
    return [(f.cause, f.hosts, f.severity) for f in case.findings if f.cause in FAMILY]


def loud(case) -> list[tuple]:
    return [(f.cause, f.hosts, f.severity) for f in case.findings if f.severity != "info"]


def named(case, cause: str) -> Finding:
    return next(finding for finding in case.findings if finding.cause == cause)


def between(*names: str):
    return lambda p, k: "timeout" if set(names) == set(p.hosts) and not k.startswith("udp") else None


# ---- subnet-overlap-host


def test_a_bridge_that_hides_a_peer():
    fleet = make_fleet(3)
    add_bridge(fleet, 2, "clash", "192.0.2.0/30", "192.0.2.1")
    fleet.hosts["node1"].facts.facts["swarm"]["node_addr"] = "198.51.100.1"  # so that only node3 is inside
    case = run_case(fleet, between("node2", "node3"))
    assert loud(case) == [("subnet-overlap-host", ["node2"], "critical")]
    finding = named(case, "subnet-overlap-host")
    assert set(finding.explains) == {o.pair.id for o in case.broken}
    assert (finding.segment, finding.network) == ("host-stack", "clash")
    assert "node3 (192.0.2.3)" in finding.summary


def test_a_subnet_nobody_needs_is_worth_knowing_and_no_more():
    fleet = make_fleet(3)
    add_bridge(fleet, 2, "clash", "203.0.113.0/25", "203.0.113.1")
    row = {"family": 4, "table": 52, "dst": "203.0.113.0/24", "oif": 2, "type": "unicast"}
    root(fleet, 2)["routes"].append(row)
    case = run_case(fleet)
    assert found(case) == [("subnet-overlap-host", ["node2"], "info")]
    assert "203.0.113.0/24 dev eth0 table 52" in named(case, "subnet-overlap-host").summary


def test_a_pair_that_is_broken_elsewhere_is_not_blamed_on_an_overlap():
    fleet = make_fleet(3)
    add_bridge(fleet, 2, "clash", "203.0.113.0/25", "203.0.113.1")
    root(fleet, 2)["routes"].append({"family": 4, "table": 254, "dst": "203.0.113.0/24", "oif": 2, "type": "unicast"})
    case = run_case(fleet, between("node2", "node3"))
    assert ("subnet-overlap-host", ["node2"], "info") in found(case)
    assert "subnet-overlap-host" not in [cause for cause, _hosts, _severity in loud(case)]


def test_a_more_specific_route_of_the_lan_wins_over_the_bridge():
    fleet = make_fleet(3)
    add_bridge(fleet, 2, "clash", "192.0.0.0/16", "192.0.0.1")
    case = run_case(fleet, between("node2", "node3"))
    assert "subnet-overlap-host" not in [cause for cause, _hosts, _severity in loud(case)]


def test_networks_that_hold_no_target_are_ruled_out():
    fleet = make_fleet(3)
    case = run_case(fleet, between("node2", "node3"))
    because = {cause: because for finding in case.findings for cause, because in finding.rejected}
    assert because["subnet-overlap-host"] == "no container network holds 192.0.2.2, 192.0.2.3"


@pytest.mark.parametrize(("name", "severity"), [("203.0.113.53", "warning"), ("203.0.113.1", None), ("9.9.9.9", None)])
def test_a_resolver_inside_the_subnet(name: str, severity: str | None):
    fleet = make_fleet(3)
    add_bridge(fleet, 2, "clash", "203.0.113.0/25", "203.0.113.1")
    fleet.hosts["node2"].facts.__dict__.pop("addresses", None)
    facts(fleet, 2)["host"]["resolver"] = {"nameservers": [name], "search": [], "options": []}
    assert found(run_case(fleet)) == ([("subnet-overlap-host", ["node2"], severity)] if severity else [])


def test_names_outside_that_a_bridge_hides_the_resolver_of():
    fleet = make_fleet(3)
    add_bridge(fleet, 2, "clash", "203.0.113.0/25", "203.0.113.1")
    for number in (1, 2, 3):
        dns = {"nameservers": ["127.0.0.11"], "upstreams": ["203.0.113.53"], "search": [], "options": []}
        facts(fleet, number)["containers"][0]["dns"] = dns
        fleet.hosts[f"node{number}"].facts.namespace(f"1{number}").facts["routes"] = [
            {"family": 4, "dst": "default", "gateway": "172.18.0.1", "oif": 12}
        ]
    case = run_case(fleet, lambda p, k: "timeout" if p.kind == "upstream" and p.src.host == "node2" else None)
    assert loud(case) == [("subnet-overlap-host", ["node2"], "critical")]
    assert set(named(case, "subnet-overlap-host").explains) == {o.pair.id for o in case.broken}
    assert {o.pair.kind for o in case.broken} == {"upstream"}
    assert found(run_case(fleet)) == [("subnet-overlap-host", ["node2"], "info")]  # another resolver answers


def test_a_resolver_that_is_a_container_of_the_network_is_meant():
    fleet = make_fleet(3)
    add_bridge(fleet, 2, "clash", "203.0.113.0/25", "203.0.113.1")
    facts(fleet, 2)["host"]["resolver"] = {"nameservers": ["203.0.113.53"]}
    facts(fleet, 2)["containers"][0]["endpoints"].append(
        {"network_id": "id-clash", "network": "clash", "ip": "203.0.113.53", "mac": "02:42:cb:00:71:35"}
    )
    assert found(run_case(fleet)) == []


@pytest.mark.parametrize("driver", ["macvlan", "ipvlan"])
def test_networks_that_live_on_the_lan_by_design(driver: str):
    fleet = make_fleet(3)
    facts(fleet, 2)["networks"].append(network("lan", "192.0.2.0/24", "192.0.2.254", driver))
    assert found(run_case(fleet)) == []


def test_docker_gwbridge_and_overlays_are_alike_on_every_host():
    fleet = make_fleet(3)
    for number in (1, 2, 3):
        add_bridge(fleet, number, "docker_gwbridge", "172.18.0.0/16", "172.18.0.1")
    assert found(run_case(fleet)) == []


def test_an_overlay_that_hides_a_host_from_its_containers():
    fleet = make_fleet(3)
    for number in (1, 2, 3):
        facts(fleet, number)["networks"][0]["subnets"] = [{"subnet": "192.0.2.0/24", "gateway": "192.0.2.254"}]
        fleet.hosts[f"node{number}"].facts.namespace(f"1{number}").facts["routes"] = [
            {"family": 4, "dst": "default", "gateway": "172.18.0.1", "oif": 12}
        ]
    assert {severity for _cause, _hosts, severity in found(run_case(fleet))} == {"info"}
    case = run_case(fleet, lambda p, k: "timeout" if p.kind == "egress" and p.src.host == "node2" else None)
    assert loud(case) == [("subnet-overlap-host", ["node2"], "critical")]
    assert len(named(case, "subnet-overlap-host").explains) == 2


def test_cni_ranges_count():
    fleet = make_fleet(3)
    cni = {"path": "/etc/cni/net.d/10-bridge.conflist", "name": "pods", "type": "bridge", "subnets": ["192.0.2.0/25"]}
    facts(fleet, 2)["host"]["cni"] = [cni]
    case = run_case(fleet)
    assert found(case) == [("subnet-overlap-host", ["node2"], "info")]
    assert "pods" in named(case, "subnet-overlap-host").summary


def test_the_routes_of_a_cluster_network_to_other_nodes_are_no_overlap():
    fleet = make_fleet(3)
    flannel = {"path": "/run/flannel/subnet.env", "name": "flannel", "type": "flannel", "subnets": ["10.244.0.0/16"]}
    facts(fleet, 2)["host"]["cni"] = [flannel]
    root(fleet, 2)["links"].append({"index": 8, "name": "flannel.1", "kind": "vxlan", "up": True})
    root(fleet, 2)["routes"].append({"family": 4, "table": 254, "dst": "10.244.3.0/24", "oif": 8, "type": "unicast"})
    assert found(run_case(fleet)) == []


# ---- subnet-overlap-docker


def task(
    state: str, error: str | None = None, *, service: str = "s1", desired: str = "running", node: str = "id2"
) -> dict:
    return {
        "id": f"t-{state}",
        "service_id": service,
        "node_id": node,
        "state": state,
        "desired": desired,
        "error": error,
        "addresses": [],
        "container_id": None,
    }


def two_overlays(fleet: Fleet) -> None:
    for number in (1, 2, 3):
        facts(fleet, number)["networks"].append(network("twin", "10.0.1.0/25", "10.0.1.1", "overlay", "swarm"))


def test_two_networks_of_one_subnet_are_worth_knowing():
    fleet = make_fleet(3)
    two_overlays(fleet)
    assert found(run_case(fleet)) == [("subnet-overlap-docker", ["node1", "node2", "node3"], "info")]


@pytest.mark.parametrize(("state", "severity"), [("rejected", "critical"), ("running", "info")])
def test_a_task_that_is_refused_for_it(state: str, severity: str):
    fleet = make_fleet(3)
    two_overlays(fleet)
    text = "Pool overlaps with other one on this address space"
    tasks = [task("rejected", text, desired="shutdown"), task("pending" if state == "rejected" else "running")]
    facts(fleet, 1)["swarm"]["tasks"] = tasks
    assert [severity for cause, _hosts, severity in found(run_case(fleet)) if cause == "subnet-overlap-docker"] == [
        severity
    ]


def test_a_refusal_alone_names_the_node():
    fleet = make_fleet(3)
    text = "Pool overlaps with other one on this address space"
    facts(fleet, 1)["swarm"]["tasks"] = [task("rejected", text, desired="shutdown"), task("pending")]
    assert found(run_case(fleet)) == [("subnet-overlap-docker", ["node2"], "critical")]


def test_an_old_line_of_a_log_is_no_fault():
    fleet = make_fleet(3)
    row = {"count": 1, "last": 1.0, "sample": "Pool overlaps with other one on this address space"}
    facts(fleet, 2)["log"] = {"patterns": {"pool-overlap": row}}
    assert found(run_case(fleet)) == []


@pytest.mark.parametrize(("waits", "severity"), [(False, "warning"), (True, "critical")])
def test_a_network_that_was_never_allocated(waits: bool, severity: str):
    fleet = make_fleet(3)
    row = network("second", "", driver="", scope="swarm") | {"subnets": []}
    facts(fleet, 1)["networks"].append(row)
    text = "failed allocating pools for network id-second: Pool overlaps with other one on this address space"
    facts(fleet, 1)["log"] = {"patterns": {"pool-overlap": {"count": 1, "last": 1.0, "sample": text}}}
    facts(fleet, 1)["swarm"]["tasks"] = [task("new", node="")] if waits else []
    assert found(run_case(fleet)) == [("subnet-overlap-docker", ["node1"], severity)]
    facts(fleet, 1)["log"]["patterns"]["pool-overlap"]["sample"] = text.replace("id-second", "id-other")
    assert found(run_case(fleet)) == []


def test_bridges_of_different_hosts_may_be_alike():
    fleet = make_fleet(3)
    add_bridge(fleet, 2, "one", "203.0.113.0/24", "203.0.113.1")
    add_bridge(fleet, 3, "two", "203.0.113.0/24", "203.0.113.1")
    assert found(run_case(fleet)) == []


# ---- overlay-ip-exhausted


def fill(fleet: Fleet) -> None:
    """A /29: six addresses, of which the gateway, three containers and two load balancers take all."""
    for number in (1, 2, 3):
        row = facts(fleet, number)["networks"][0]
        row["subnets"] = [{"subnet": "10.0.1.0/29", "gateway": "10.0.1.6"}]
        row["local"] = [{"owner": f"app-{number}", "ip": overlay_ip(number), "prefix": 29}]
    for number, ip in ((1, 4), (2, 5)):
        facts(fleet, number)["networks"][0]["local"].append({"owner": "lb-app", "ip": overlay_ip(ip), "prefix": 29})


def test_an_overlay_without_a_free_address():
    fleet = make_fleet(3)
    fill(fleet)
    case = run_case(fleet)
    assert found(case) == [("overlay-ip-exhausted", ["node1"], "info")]
    assert "6 of 6" in named(case, "overlay-ip-exhausted").summary


def test_one_free_address_is_enough():
    fleet = make_fleet(3)
    fill(fleet)
    facts(fleet, 2)["networks"][0]["local"].pop()
    assert found(run_case(fleet)) == []


def test_refused_containers_make_it_a_warning():
    fleet = make_fleet(3)
    fill(fleet)
    row = {"count": 2, "last": 1.0, "sample": "could not find an available IP while allocating VIP"}
    facts(fleet, 1)["log"] = {"patterns": {"address-exhausted": row}}
    assert found(run_case(fleet)) == [("overlay-ip-exhausted", ["node1"], "warning")]


def test_tasks_that_wait_for_an_address():
    fleet = make_fleet(3)
    fill(fleet)
    facts(fleet, 1)["swarm"]["tasks"] = [task("new", node="")]
    assert found(run_case(fleet)) == [("overlay-ip-exhausted", ["node1"], "info")]  # it may wait for something else
    facts(fleet, 1)["log"] = {"patterns": {"address-exhausted": {"count": 1, "last": 1.0, "sample": REFUSED}}}
    assert found(run_case(fleet)) == [("overlay-ip-exhausted", ["node1"], "critical")]


def test_another_network_that_was_full_is_another_one():
    fleet = make_fleet(3)
    fill(fleet)
    sample = REFUSED.replace(NETWORK, "another")
    facts(fleet, 1)["log"] = {"patterns": {"address-exhausted": {"count": 1, "last": 1.0, "sample": sample}}}
    assert found(run_case(fleet)) == [("overlay-ip-exhausted", ["node1"], "info")]


def test_virtual_addresses_count():
    fleet = make_fleet(3)
    fill(fleet)
    facts(fleet, 2)["networks"][0]["local"].pop()
    vip = {"network_id": NETWORK, "ip": "10.0.1.5/29"}
    facts(fleet, 1)["swarm"]["services"] = [{"id": "s1", "name": "web", "vips": [vip], "ports": []}]
    assert [cause for cause, _hosts, _severity in found(run_case(fleet))] == ["overlay-ip-exhausted"]


# ---- facts that are missing


def test_facts_that_are_missing_are_no_fault():
    fleet = make_fleet(3)
    facts(fleet, 1)["networks"] = [network("odd", ""), network("x", "") | {"subnets": [{}]}]
    facts(fleet, 2).update(networks=[], host={}, swarm={})
    facts(fleet, 3)["namespaces"] = []
    assert found(run_case(fleet)) == []

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engines, names, MACs and addresses that exist twice, on made fleets."""

from __future__ import annotations

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet
from tests.unit.made_fleet import address, make_fleet, run_case

FAMILY = {"cloned-identity", "duplicate-hostname", "duplicate-node-ip", "duplicate-vtep-ip"}


def fleet_with_macs(count: int = 3) -> Fleet:
    fleet = make_fleet(count)
    for number in range(1, count + 1):
        facts = root(fleet, number)
        facts["links"][0]["mac"] = f"0a:00:00:00:00:{number:02x}"
        entries = [[address(n), f"0a:00:00:00:00:{n:02x}"] for n in range(1, count + 1) if n != number]
        facts["neighbours"] = [{"index": 2, "state": "reachable", "flags": [], "entries": entries}]
    return fleet


def root(fleet: Fleet, number: int) -> dict:
    return fleet.hosts[f"node{number}"].facts.root.facts


def facts(fleet: Fleet, number: int) -> dict:
    return fleet.hosts[f"node{number}"].facts.facts


def between(*names: str):
    return lambda p, k: "timeout" if set(names) == set(p.hosts) and not k.startswith("udp") else None


def found(case) -> list[tuple]:
    return [(f.cause, f.hosts, f.severity) for f in case.findings if f.cause in FAMILY]


def loud(case) -> list[tuple]:
    return [(f.cause, f.hosts, f.severity) for f in case.findings if f.severity != "info"]


# ---- cloned-identity


@pytest.mark.parametrize(
    ("section", "key", "words"),
    [("engine", "id", "engine ID"), ("host", "machine_id", "machine-id"), ("swarm", "node_id", "swarm node ID")],
)
def test_an_identity_on_two_hosts_is_worth_knowing(section: str, key: str, words: str):
    fleet = fleet_with_macs()
    for number in (1, 2, 3):
        facts(fleet, number)[section][key] = "same" if number > 1 else "other"
    case = run_case(fleet)
    assert found(case) == [("cloned-identity", ["node2", "node3"], "info")]
    assert words in case.findings[0].summary
    assert case.findings[0].remedies


def test_one_copy_is_one_finding():
    fleet = fleet_with_macs()
    for number in (2, 3):
        facts(fleet, number)["engine"]["id"] = facts(fleet, number)["host"]["machine_id"] = "same"
    case = run_case(fleet)
    assert found(case) == [("cloned-identity", ["node2", "node3"], "info")]
    assert "engine ID, machine-id" in case.findings[0].summary


def test_a_mac_on_two_nics_of_one_link_breaks_both():
    fleet = fleet_with_macs()
    root(fleet, 3)["links"][0]["mac"] = root(fleet, 2)["links"][0]["mac"]
    for number in (1, 2):
        stranger(fleet, number, 3, root(fleet, 2)["links"][0]["mac"])
    case = run_case(fleet, between("node2", "node3"))
    assert loud(case) == [("cloned-identity", ["node2", "node3"], "critical")]
    assert set(case.findings[0].explains) == {o.pair.id for o in case.broken}


def test_a_mac_that_exists_again_on_another_link_is_nothing():
    fleet = fleet_with_macs()
    root(fleet, 3)["links"][0]["mac"] = root(fleet, 2)["links"][0]["mac"]
    root(fleet, 3)["addresses"][0]["prefix"] = 25
    assert found(run_case(fleet)) == []


def test_macs_and_addresses_of_container_bridges_are_alike_on_every_host():
    fleet = fleet_with_macs()
    for number in (1, 2, 3):
        root(fleet, number)["links"].append(
            {"index": 5, "name": "docker_gwbridge", "kind": "bridge", "up": True, "mac": "02:42:00:00:00:01"}
        )
        root(fleet, number)["addresses"] += [
            {"index": 5, "family": 4, "ip": "172.18.0.1", "prefix": 16},
            {"index": 2, "family": 6, "ip": "fe80::1", "prefix": 64},
        ]
    assert found(run_case(fleet)) == []


def test_one_host_under_two_names_of_the_inventory_is_no_copy():
    fleet = fleet_with_macs(2)
    for number in (1, 2):
        facts(fleet, number)["engine"]["id"] = "same"
        facts(fleet, number)["host"] |= {"boot_id": "b", "hostname": "one"}
        root(fleet, number)["key"] = "0"
        host = fleet.hosts[f"node{number}"]
        host.snapshots["before"] = HostFacts(host.name, host.facts.facts)
    assert found(run_case(fleet)) == []


# ---- duplicate-hostname


def test_two_hosts_of_one_name_are_worth_knowing():
    fleet = fleet_with_macs()
    facts(fleet, 3)["host"]["hostname"] = "node2"
    case = run_case(fleet)
    assert found(case) == [("duplicate-hostname", ["node2", "node3"], "info")]


def test_names_of_hosts_without_an_engine_do_not_matter():
    fleet = fleet_with_macs()
    facts(fleet, 3)["host"]["hostname"] = "node2"
    facts(fleet, 3)["engine"] = {"state": "absent"}
    assert found(run_case(fleet)) == []


# ---- duplicate-node-ip


def add_address(fleet: Fleet, number: int, ip: str) -> None:
    root(fleet, number)["addresses"].append({"index": 2, "family": 4, "ip": ip, "prefix": 32})
    fleet.hosts[f"node{number}"].facts.__dict__.pop("addresses", None)


def test_the_address_of_a_node_on_anothers_nic():
    fleet = fleet_with_macs()
    add_address(fleet, 2, address(3))
    case = run_case(fleet, between("node2", "node3"))
    assert loud(case) == [("duplicate-node-ip", ["node2"], "critical")]
    finding = case.findings[0]
    assert set(finding.explains) == {o.pair.id for o in case.broken}
    assert "ip address del 192.0.2.3 dev eth0" in finding.remedies[0].manual[0]
    assert found(run_case(fleet)) == [("duplicate-node-ip", ["node2"], "info")]


def test_a_virtual_address_is_no_nodes_own():
    fleet = fleet_with_macs()
    for number in (2, 3):
        add_address(fleet, number, "192.0.2.100")
    assert found(run_case(fleet)) == []


def stranger(fleet: Fleet, number: int, of: int, mac: str, state: str = "stale") -> None:
    root(fleet, number)["neighbours"] = [{"index": 2, "state": state, "flags": [], "entries": [[address(of), mac]]}]


@pytest.mark.parametrize(("who", "guilty"), [((1,), ["node1"]), ((1, 2), ["node3"])])
def test_another_machine_answers_for_a_nodes_address(who: tuple[int, ...], guilty: list[str]):
    """The entry of one host alone is that host's; one that every host has is the address's."""
    fleet = fleet_with_macs()
    for number in who:
        stranger(fleet, number, 3, "0a:00:00:00:00:99")
    names = [f"node{number}" for number in who]
    lost = [between(name, "node3") for name in names]
    case = run_case(fleet, lambda p, k: next((status for one in lost if (status := one(p, k))), None))
    assert loud(case) == [("duplicate-node-ip", guilty, "critical")]
    assert "0a:00:00:00:00:99" in case.findings[0].summary
    assert set(case.findings[0].explains) == {o.pair.id for o in case.broken}


@pytest.mark.parametrize(
    ("mac", "state", "broken"),
    [
        ("0a:00:00:00:00:99", "stale", False),  # a router that answers ARP for others: it works
        ("0a:00:00:00:00:99", "failed", True),
        ("0a:00:00:00:00:03", "stale", True),  # its own
        (None, "incomplete", True),
    ],
)
def test_neighbours_that_say_nothing(mac: str | None, state: str, broken: bool):
    fleet = fleet_with_macs()
    stranger(fleet, 1, 3, mac, state)
    case = run_case(fleet, between("node1", "node3") if broken else lambda p, k: None)
    assert found(case) == []


# ---- duplicate-vtep-ip


def test_two_nodes_that_advertise_one_address():
    fleet = fleet_with_macs()
    facts(fleet, 2)["swarm"]["node_addr"] = address(3)
    case = run_case(fleet, lambda p, k: "timeout" if p.kind == "overlay" and "node2" in p.hosts else None)
    assert loud(case) == [("duplicate-vtep-ip", ["node2"], "critical")]
    assert set(case.findings[0].explains) == {o.pair.id for o in case.broken}
    assert "the address of node3" in case.findings[0].summary


def test_two_nodes_that_advertise_a_translators_address():
    fleet = fleet_with_macs()
    for number in (2, 3):
        facts(fleet, number)["swarm"]["node_addr"] = "198.51.100.1"
    case = run_case(
        fleet, lambda p, k: "timeout" if p.kind == "overlay" and {"node2", "node3"} & set(p.hosts) else None
    )
    assert ("duplicate-vtep-ip", ["node2", "node3"], "critical") in loud(case)


def test_facts_that_are_missing_are_no_fault():
    fleet = make_fleet(3)
    for number in (1, 2, 3):
        facts(fleet, number).update(host={}, engine={}, swarm={}, namespaces=[])
    assert found(run_case(fleet)) == []

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""MTUs on made fleets: which of them are a finding, whose, and which only look like one."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes import mtu
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case, Finding
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Pair
from tests.unit.made_fleet import make_fleet, run_case


def facts(fleet: Fleet, number: int) -> dict[str, Any]:
    return fleet.hosts[f"node{number}"].facts.facts


def sized(count: int = 3, nic: int = 1500, inner: int = 1450) -> Fleet:
    """A fleet whose NICs and containers have an MTU, and whose containers leave through a gateway bridge."""
    fleet = make_fleet(count)
    for number in range(1, count + 1):
        root, container, _overlay = facts(fleet, number)["namespaces"]
        root["links"][0]["mtu"] = nic
        root["links"].append({"index": 7, "name": "docker_gwbridge", "kind": "bridge", "up": True, "mtu": 1500})
        root["addresses"].append({"index": 7, "family": 4, "ip": "172.18.0.1", "prefix": 16})
        root["routes"].append({"family": 4, "table": 254, "dst": "default", "oif": 2, "gateway": "192.0.2.1"})
        container["links"][0]["mtu"] = inner
        container["links"].append({"index": 12, "name": "eth1", "kind": "veth", "up": True, "mtu": min(nic, 1500)})
        container["routes"].append({"family": 4, "table": 254, "dst": "default", "oif": 12, "gateway": "172.18.0.1"})
    return fleet


def nic(fleet: Fleet, number: int, mtu: int) -> None:
    facts(fleet, number)["namespaces"][0]["links"][0]["mtu"] = mtu


def inner(fleet: Fleet, number: int, mtu: int) -> None:
    facts(fleet, number)["namespaces"][1]["links"][0]["mtu"] = mtu


def option(fleet: Fleet, **options: str) -> None:
    for host in fleet.hosts.values():
        host.facts.facts["networks"][0]["options"] = options


def mine(case: Case) -> list[Finding]:
    """What concerns this family: its own causes, and whatever is louder than information."""
    own = {cause.id for cause in mtu.CAUSES}
    return [f for f in case.findings if f.cause in own or f.severity != "info"]


def named(case: Case) -> list[tuple[str, str, list[str]]]:
    return [(f.cause, f.severity, f.hosts) for f in mine(case)]


def test_an_overlay_that_fits_every_nic_is_healthy():
    assert named(run_case(sized())) == []


def test_a_nic_below_what_its_overlay_sends_is_one_finding_with_its_bridges():
    fleet = sized()
    nic(fleet, 2, 1400)
    case = run_case(fleet)
    assert named(case) == [("overlay-mtu-gt-local-nic", "warning", ["node2"])]
    assert any("docker_gwbridge" in item.source for item in mine(case)[0].evidence)


def test_on_old_kernels_large_packets_stay_lost():
    fleet = sized()
    nic(fleet, 2, 1400)
    assert mine(run_case(fleet))[0].confidence == "possible"
    facts(fleet, 2)["host"]["kernel"] = "4.19.0"
    assert mine(run_case(fleet))[0].confidence == "likely"


def test_pages_that_never_come_while_echo_passes_are_explained():
    fleet = sized()
    nic(fleet, 2, 1400)

    def stall(pair: Pair, key: str) -> str | None:
        return "incomplete" if pair.kind == "overlay" and "node2" in pair.hosts and key.startswith("http") else None

    case = run_case(fleet, stall)
    assert named(case) == [("overlay-mtu-gt-local-nic", "critical", ["node2"])]
    assert len(mine(case)[0].explains) == 4


def test_a_whole_fleet_of_small_nics_is_one_finding():
    fleet = sized(nic=1460)
    everybody = ["node1", "node2", "node3"]
    assert named(run_case(fleet)) == [("overlay-mtu-gt-local-nic", "info", everybody)]  # as in a cloud: all alike
    seen: set[str] = set()

    def first_page(pair: Pair, key: str) -> str | None:
        first = pair.id not in seen
        if key == pair.probes[-1].key:
            seen.add(pair.id)
        return "timeout" if pair.kind == "overlay" and first else None

    lossy = sized(nic=1460)
    assert named(run_case(lossy, first_page)) == [("overlay-mtu-gt-local-nic", "warning", everybody)]


def test_two_hosts_of_three_are_two_findings():
    fleet = sized()
    nic(fleet, 1, 1400)
    nic(fleet, 2, 1400)
    assert sorted(f.hosts for f in mine(run_case(fleet))) == [["node1"], ["node2"]]


@pytest.mark.parametrize(("inner_mtu", "loud"), [(1424, False), (1450, True)])
def test_encryption_takes_its_bytes_too(inner_mtu: int, loud: bool):
    fleet = sized(inner=inner_mtu)
    option(fleet, encrypted="")
    assert [f.cause for f in mine(run_case(fleet))] == ["overlay-mtu-gt-local-nic"] * loud


def test_an_underlay_of_ipv6_takes_twenty_bytes_more():
    fleet = sized(inner=1440)
    assert named(run_case(fleet)) == []
    for number, host in enumerate(fleet.hosts.values(), start=1):
        root = host.facts.facts["namespaces"][0]
        root["addresses"].append({"index": 2, "family": 6, "ip": f"2001:db8::{number}", "prefix": 64})
        host.facts.facts["swarm"]["node_addr"] = f"2001:db8::{number}"
        host.__dict__.pop("underlay_ip", None)
        host.facts.__dict__.pop("addresses", None)
    assert {f.cause for f in mine(run_case(fleet))} >= {"overlay-mtu-gt-local-nic"}


def test_a_nic_that_the_tunnel_does_not_leave_by_does_not_matter():
    fleet = sized()
    root = facts(fleet, 2)["namespaces"][0]
    nic(fleet, 2, 1400)
    root["links"].append({"index": 3, "name": "eth1", "kind": "veth", "up": True, "mtu": 1500})
    root["paths"] = [{"dst": "192.0.2.1", "oif": 3, "error": None}]
    root["routes"][-1]["oif"] = 3
    assert named(run_case(fleet)) == []


def test_the_nic_of_the_management_network_may_be_smaller():
    fleet = sized(nic=9000, inner=8950)
    root = facts(fleet, 2)["namespaces"][0]
    root["links"].append({"index": 3, "name": "eth1", "kind": "veth", "up": True, "mtu": 1500})
    root["paths"] = [{"dst": "192.0.2.1", "oif": 2, "error": None}, {"dst": "198.51.100.7", "oif": 3, "error": None}]
    assert named(run_case(fleet)) == []


def test_stalled_pages_over_nics_that_fit_are_not_their_fault():
    def stall(pair: Pair, key: str) -> str | None:
        return "incomplete" if pair.kind == "overlay" and "node2" in pair.hosts and key.startswith("http") else None

    rejected = [row for finding in run_case(sized(), stall).findings for row in finding.rejected]
    because = dict(rejected)["overlay-mtu-gt-local-nic"]
    assert because.startswith("the overlay sends up to 1500 bytes and every NIC takes 1500")


def test_a_jumbo_host_among_ordinary_ones_sends_what_they_do_not_take():
    fleet = sized()
    nic(fleet, 2, 9000)
    inner(fleet, 2, 8950)
    assert named(run_case(fleet)) == [("mixed-mtu-peers", "warning", ["node2"])]


def test_an_ordinary_host_among_jumbo_ones_is_the_odd_one():
    fleet = sized(nic=9000, inner=8950)
    nic(fleet, 2, 1500)
    inner(fleet, 2, 1450)
    assert named(run_case(fleet)) == [("mixed-mtu-peers", "warning", ["node2"])]


def test_jumbo_nics_below_an_ordinary_overlay_are_healthy():
    assert named(run_case(sized(nic=9000))) == []
    fleet = sized()
    nic(fleet, 2, 9000)
    assert named(run_case(fleet)) == []


def test_a_bridge_wider_than_the_way_out_where_the_overlay_was_adapted():
    fleet = sized(inner=1350)
    nic(fleet, 2, 1400)
    assert named(run_case(fleet)) == [("docker-gwbridge-mtu", "warning", ["node2"])]
    facts(fleet, 2)["namespaces"][1]["links"][1]["mtu"] = 1400
    assert named(run_case(fleet)) == []


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"com.docker.network.driver.mtu": "1450"}, ["mtu-option-double-subtract"]),
        ({"com.docker.network.driver.mtu": "1424", "encrypted": ""}, ["mtu-option-double-subtract"]),
        ({"com.docker.network.driver.mtu": "1500"}, []),
        ({"com.docker.network.driver.mtu": "1400"}, []),
        ({"com.docker.network.driver.mtu": "large"}, []),
    ],
)
def test_only_the_exact_overhead_tells_an_option_that_was_subtracted_twice(options: dict[str, str], cause: list[str]):
    fleet = sized(inner=1350)
    option(fleet, **options)
    case = run_case(fleet)
    assert [f.cause for f in mine(case)] == cause
    assert {f.severity for f in mine(case)} <= {"info"}


def test_an_option_that_is_the_smallest_nic_is_right():
    fleet = sized(inner=1400)
    nic(fleet, 2, 1450)
    facts(fleet, 2)["namespaces"][1]["links"][1]["mtu"] = 1450
    option(fleet, **{"com.docker.network.driver.mtu": "1450"})
    assert named(run_case(fleet)) == []


def test_links_without_an_mtu_and_hosts_without_facts_are_no_error():
    fleet = sized()
    del facts(fleet, 1)["namespaces"][0]["links"][0]["mtu"]
    facts(fleet, 2)["namespaces"] = []
    assert not [f for f in mine(run_case(fleet)) if f.severity == "warning"]

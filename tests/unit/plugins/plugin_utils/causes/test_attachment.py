# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Attachment of containers decided on made fleets: bridges, ports, routes. The lab proves the same on real hosts."""

from __future__ import annotations

import copy
import typing as t

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.registry import decide_all
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import observe
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Pair
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.plan import first_round
from tests.unit.made_fleet import answer, run_case
from tests.unit.plugins.plugin_utils.causes.docker_fleet import (
    BRIDGE,
    WEB,
    dnat,
    docker_fleet,
    fails,
    first,
    ip,
    iptables,
    loud,
    port,
    quiet,
    replace_chains,
)
from tests.unit.plugins.plugin_utils.filter_eval.rulesets import ACCEPT

Facts = dict[str, t.Any]
PORT = "veth21"
ROUTED = ("egress", "published", "hairpin")


def host_of(fleet: Fleet, number: int = 2) -> Facts:
    return fleet.hosts[f"node{number}"].facts.facts["namespaces"][0]


def web_of(fleet: Fleet, number: int = 2) -> Facts:
    return fleet.hosts[f"node{number}"].facts.facts["namespaces"][3]


def container_of(fleet: Fleet, number: int = 2) -> Facts:
    return fleet.hosts[f"node{number}"].facts.facts["containers"][1]


def network_of(fleet: Fleet, number: int = 2) -> Facts:
    return fleet.hosts[f"node{number}"].facts.facts["networks"][1]


def link_of(namespace: Facts, name: str) -> Facts:
    return next(link for link in namespace["links"] if link["name"] == name)


def wired_fleet(count: int = 3) -> Fleet:
    """The made fleet with the host's ends of the containers' veths, and what engines say of the bridge."""
    fleet = docker_fleet(count)
    for number in range(1, count + 1):
        network_of(fleet, number).update(
            options={"com.docker.network.bridge.name": BRIDGE, "com.docker.network.bridge.default_bridge": "true"},
            subnets=[{"subnet": "172.17.0.0/16", "gateway": None}],
        )
        host_of(fleet, number)["links"].append(
            {
                "index": 21,
                "name": PORT,
                "kind": "veth",
                "up": True,
                "lower_up": True,
                "link": 20,
                "master": 3,
                "bridge_port": {"state": "forwarding", "hairpin": False},
            }
        )
        host_of(fleet, number)["sysctls"]["net.bridge.bridge-nf-call-iptables"] = 1
        container_of(fleet, number)["endpoints"][0]["gateway"] = "172.17.0.1"
    return fleet


def test_containers_that_are_attached_are_no_news():
    case = run_case(wired_fleet())
    assert loud(case) == []
    assert quiet(case) == []


# -- bridge-down


def down(fleet: Fleet) -> None:
    link_of(host_of(fleet), BRIDGE)["up"] = False


def gone(fleet: Fleet) -> None:
    host_of(fleet)["links"].remove(link_of(host_of(fleet), BRIDGE))


def without_address(fleet: Fleet) -> None:
    host_of(fleet)["addresses"] = [row for row in host_of(fleet)["addresses"] if row["index"] != 3]


def without_route(fleet: Fleet) -> None:
    host_of(fleet)["routes"] = [row for row in host_of(fleet)["routes"] if row["oif"] != 3]


def port_down(fleet: Fleet) -> None:
    link_of(host_of(fleet), PORT)["up"] = False


def detached(fleet: Fleet) -> None:
    link_of(host_of(fleet), PORT)["master"] = None


def inner_down(fleet: Fleet) -> None:
    web_of(fleet)["links"][0]["up"] = False


DEFECTS = (
    (down, "docker0 on node2 is down"),
    (gone, "docker0 on node2 is absent"),
    (without_address, "without an address in 172.17.0.0/16"),
    (without_route, "without a route to 172.17.0.0/16"),
    (port_down, "veth21 on node2 is down"),
    (detached, "not a port of the bridge"),
    (inner_down, "without carrier"),
)


@pytest.mark.parametrize(("change", "words"), DEFECTS)
def test_a_bridge_that_does_not_work_is_bridge_down(change, words):
    fleet = wired_fleet()
    change(fleet)
    case = run_case(fleet, fails(*ROUTED))
    assert loud(case) == [("bridge-down", ["node2"], "critical")]
    assert words in first(case).summary
    assert {o.pair.id for o in case.broken} == set(first(case).explains)


@pytest.mark.parametrize(("change", "words"), DEFECTS)
def test_a_bridge_that_nobody_needs_now_is_only_worth_knowing(change, words):
    fleet = wired_fleet()
    change(fleet)
    case = run_case(fleet)
    assert loud(case) == []
    assert ("bridge-down", ["node2"]) in quiet(case)


@pytest.mark.parametrize("change", [down, without_address, without_route])
def test_a_bridge_without_containers_has_no_carrier_by_design(change):
    fleet = wired_fleet()
    facts = fleet.hosts["node2"].facts.facts
    facts["containers"].pop()
    facts["namespaces"].pop()
    change(fleet)
    assert "bridge-down" not in {f.cause for f in run_case(fleet).findings}


@pytest.mark.parametrize("option", ["inhibit_ipv4", "gateway_mode_ipv4"])
def test_a_bridge_that_is_to_have_no_address_needs_none(option):
    fleet = wired_fleet()
    without_address(fleet)
    value = {"inhibit_ipv4": "true", "gateway_mode_ipv4": "isolated"}[option]
    network_of(fleet)["options"][f"com.docker.network.bridge.{option}"] = value
    assert "bridge-down" not in {f.cause for f in run_case(fleet).findings}


def test_a_bridge_that_came_back_during_the_run_is_not_blamed():
    fleet = wired_fleet()
    down(fleet)
    host = fleet.hosts["node2"]
    again = copy.deepcopy(host.facts.facts)
    link_of(again["namespaces"][0], BRIDGE)["up"] = True
    host.snapshots["again"] = HostFacts(host.name, again)
    plans = {"first": first_round(fleet)}
    for each in fleet.answering:
        mine = [p for p in plans["first"] if p.src.host == each.name]
        each.probes["first"] = {"results": [row for p in mine for row in answer(p, lambda pair, key: None)]}
    case = Case(fleet, observe(fleet, plans))
    decide_all(case)
    assert "bridge-down" not in {f.cause for f in case.findings}


# -- container-route-wrong


def routes(fleet: Fleet, *gateways: str | None) -> None:
    rows = [{"family": 4, "dst": "default", "gateway": gateway, "oif": 20} for gateway in gateways]
    web_of(fleet)["routes"] = [*rows, {"family": 4, "dst": "172.17.0.0/16", "oif": 20}]


@pytest.mark.parametrize(("ways", "words"), [((), "no default route"), (("172.17.0.9",), "default via 172.17.0.9")])
def test_a_default_route_that_is_not_what_the_engine_gave_is_container_route_wrong(ways, words):
    fleet = wired_fleet()
    routes(fleet, *ways)
    case = run_case(fleet, fails("egress", "published"))
    assert loud(case) == [("container-route-wrong", ["node2"], "critical")]
    assert words in first(case).summary
    assert "default via 172.17.0.1" in first(case).summary
    assert {o.pair.id for o in case.broken} == set(first(case).explains)


def test_a_container_without_a_default_route_is_asked_for_its_way_out():
    fleet = wired_fleet()
    routes(fleet)
    assert [p for p in first_round(fleet) if p.kind == "egress" and p.src.container_id == "w2"]


def test_a_route_of_the_operators_own_that_works_is_left_alone():
    fleet = wired_fleet()
    routes(fleet, "172.17.0.9")
    assert "container-route-wrong" not in {f.cause for f in run_case(fleet).findings}


def test_an_internal_network_has_no_default_route_by_design():
    fleet = wired_fleet()
    for number in (1, 2, 3):
        network_of(fleet, number)["internal"] = True
    routes(fleet)
    assert not [p for p in first_round(fleet) if p.kind == "egress" and p.src.container_id == "w2"]
    assert "container-route-wrong" not in {f.cause for f in run_case(fleet).findings}


def overlay_fleet() -> Fleet:
    """The overlay's containers leave through docker_gwbridge."""
    fleet = wired_fleet()
    for number in (1, 2, 3):
        facts = fleet.hosts[f"node{number}"].facts.facts
        subnets = [{"subnet": "172.18.0.0/16", "gateway": "172.18.0.1"}]
        facts["networks"].append(
            {"id": f"gw{number}", "name": "docker_gwbridge", "driver": "bridge", "scope": "local", "subnets": subnets}
        )
        facts["namespaces"][1]["routes"] = [{"family": 4, "dst": "default", "gateway": "172.18.0.1", "oif": 12}]
    return fleet


def test_an_overlay_container_leaves_through_the_gateway_bridge_and_not_the_overlay():
    fleet = overlay_fleet()
    assert "container-route-wrong" not in {f.cause for f in run_case(fleet, fails("egress")).findings}
    namespace = fleet.hosts["node2"].facts.facts["namespaces"][1]
    namespace["routes"][0]["gateway"] = "10.0.1.1"
    case = run_case(fleet, lambda p, k: "timeout" if p.kind == "egress" and p.src.container_id == "c2" else None)
    assert loud(case) == [("container-route-wrong", ["node2"], "critical")]
    assert "default via 10.0.1.1" in first(case).summary
    assert "expected: default via 172.18.0.1" in first(case).summary


# -- veth-drops


def counted(fleet: Fleet, *values: int, name: str = "tx_dropped", number: int = 2) -> None:
    """A counter of the port in the readings before, after, quiet and again."""
    host = fleet.hosts[f"node{number}"]
    for label, value, moment in zip(("before", "after", "quiet", "again"), values, (0.0, 10.0, 20.0, 30.0)):
        facts = copy.deepcopy(host.facts.facts)
        facts["namespaces"][0]["counters"]["links"] = {"21": {name: value}}
        host.snapshots[label] = HostFacts(host.name, {**facts, "started": moment, "finished": moment + 1})


def measured(fleet: Fleet, broken: t.Callable[[Pair, str], str | None]) -> Case:
    """Both rounds, with the counters as they are."""
    plans = {label: first_round(fleet) for label in ("first", "again")}
    for host in fleet.answering:
        for label, pairs in plans.items():
            rows = [row for pair in pairs if pair.src.host == host.name for row in answer(pair, broken)]
            host.probes[label] = {"results": rows, "missing": []}
    case = Case(fleet, observe(fleet, plans))
    decide_all(case)
    return case


@pytest.mark.parametrize("name", ["tx_dropped", "rx_dropped"])
def test_drops_that_rise_with_the_probes_are_veth_drops(name):
    fleet = wired_fleet()
    counted(fleet, 5, 25, 25, 45, name=name)
    case = measured(fleet, fails(*ROUTED))
    assert loud(case) == [("veth-drops", ["node2"], "critical")]
    assert first(case).confidence == "confirmed"
    assert f"{name} of {PORT}" in first(case).summary
    assert {o.pair.id for o in case.broken} == set(first(case).explains)


@pytest.mark.parametrize("values", [(9000, 9000, 9000, 9000), (10, 20, 900, 910)])
def test_old_drops_and_drops_of_others_prove_nothing(values):
    fleet = wired_fleet()
    counted(fleet, *values)
    case = measured(fleet, fails(*ROUTED))
    assert "veth-drops" not in {f.cause for f in case.findings}


def test_drops_without_a_pair_that_suffers_are_nobodys_business():
    fleet = wired_fleet()
    counted(fleet, 5, 25, 25, 45)
    assert "veth-drops" not in {f.cause for f in measured(fleet, lambda pair, key: None).findings}


def test_a_queue_on_the_port_of_a_container_that_fails_is_veth_drops():
    fleet = wired_fleet()
    host_of(fleet)["tc"] = [{"index": 21, "attach": "root", "kind": "tbf", "id": None}]
    assert "veth-drops" not in {f.cause for f in run_case(fleet).findings}
    case = run_case(fleet, fails(*ROUTED))
    assert loud(case) == [("veth-drops", ["node2"], "critical")]
    assert f"a tbf queue shapes {PORT}" in first(case).summary


def test_a_queue_elsewhere_is_not_blamed():
    fleet = wired_fleet()
    host_of(fleet)["tc"] = [{"index": 2, "attach": "root", "kind": "tbf", "id": None}]
    assert "veth-drops" not in {f.cause for f in run_case(fleet, fails(*ROUTED)).findings}


# -- hairpin-off


def without_proxy(fleet: Fleet) -> None:
    """Rules as an engine without userland proxy makes them: also for packets from the bridge."""
    chain = iptables("DOCKER", [ip(protocol=6), port(8080), dnat(WEB)], table="nat")
    both = iptables("FORWARD", [ip(oif=BRIDGE), ACCEPT], [ip(iif=BRIDGE), ACCEPT], hook="forward", policy="drop")
    replace_chains(fleet, **{"NAT-DOCKER": chain, "FORWARD": both})


def test_a_port_that_sends_nothing_back_is_hairpin_off():
    fleet = wired_fleet()
    without_proxy(fleet)
    case = run_case(fleet, fails("hairpin"))
    assert loud(case) == [("hairpin-off", ["node2"], "critical")]
    assert PORT in first(case).summary


@pytest.mark.parametrize(
    "change",
    [
        lambda fleet: link_of(host_of(fleet), PORT)["bridge_port"].update(hairpin=True),
        lambda fleet: host_of(fleet)["sysctls"].update({"net.bridge.bridge-nf-call-iptables": 0}),
        replace_chains,
        lambda fleet: host_of(fleet)["filter"].update(error="permission denied"),
    ],
    ids=["hairpin is on", "packets are routed back", "the userland proxy answers", "rules are not known"],
)
def test_hairpin_is_not_blamed_where_it_is_not_needed(change):
    fleet = wired_fleet()
    without_proxy(fleet)
    change(fleet)
    assert "hairpin-off" not in {f.cause for f in run_case(fleet, fails("hairpin")).findings}


def test_hairpin_off_where_the_container_reaches_itself_is_ordinary():
    assert "hairpin-off" not in {f.cause for f in run_case(wired_fleet()).findings}


# -- macvlan-promisc


def macvlan_fleet(target: str) -> Fleet:
    fleet = wired_fleet()
    for number in (1, 2, 3):
        options = {"parent": "eth0"}
        network_of(fleet, number).update(driver="macvlan", name="lan", options=options, subnets=[])
    fleet.run["question"] = {"from": "node2/web-2", "to": target}
    return fleet


def test_macvlan_containers_that_nobody_hears_are_macvlan_promisc():
    case = run_case(macvlan_fleet("node3"), fails("egress"))
    assert loud(case) == [("macvlan-promisc", ["node2"], "critical")]
    assert first(case).confidence == "possible"


def test_a_macvlan_container_does_not_reach_its_own_host_by_design():
    case = run_case(macvlan_fleet("node2"), fails("egress"))
    assert loud(case) == []
    assert quiet(case) == [("isolated-by-design", ["node2"])]


def test_what_the_host_does_not_reach_either_is_no_fault_of_macvlan():
    case = run_case(macvlan_fleet("node3"), lambda p, k: "timeout")
    assert "macvlan-promisc" not in {f.cause for f in case.findings}


# -- ipv6-data-path-broken


def test_ipv6_off_on_the_nic_of_an_ipv6_underlay_is_ipv6_data_path_broken():
    fleet = wired_fleet()
    for number in (1, 2, 3):
        facts = fleet.hosts[f"node{number}"].facts.facts
        facts["swarm"]["node_addr"] = f"2001:db8::{number}"
        facts["namespaces"][0]["addresses"].append({"index": 2, "family": 6, "ip": f"2001:db8::{number}", "prefix": 64})
    assert "ipv6-data-path-broken" not in {f.cause for f in run_case(fleet).findings}
    host_of(fleet)["addresses"].pop()
    host_of(fleet)["sysctls"]["net.ipv6.conf.eth0.disable_ipv6"] = 1
    kinds = ("host", "overlay")
    case = run_case(fleet, lambda p, k: "timeout" if p.kind in kinds and "node2" in p.hosts else None)
    assert ("ipv6-data-path-broken", ["node2"], "critical") in loud(case)


def test_ipv6_off_where_nothing_is_built_on_it_is_ordinary():
    fleet = wired_fleet()
    host_of(fleet)["sysctls"]["net.ipv6.conf.all.disable_ipv6"] = 1
    assert "ipv6-data-path-broken" not in {f.cause for f in run_case(fleet).findings}


def test_a_container_that_lost_the_ipv6_address_of_its_network_is_ipv6_data_path_broken():
    fleet = wired_fleet()
    container_of(fleet)["endpoints"][0]["ip6"] = "2001:db8:5::2"
    web_of(fleet)["addresses"].append({"index": 20, "family": 6, "ip": "2001:db8:5::2", "prefix": 64})
    assert "ipv6-data-path-broken" not in {f.cause for f in run_case(fleet).findings}
    web_of(fleet)["addresses"].pop()
    web_of(fleet)["sysctls"] = {"net.ipv6.conf.eth0.disable_ipv6": 1}
    case = run_case(fleet)
    assert loud(case) == []
    assert quiet(case) == [("ipv6-data-path-broken", ["node2"])]


def test_ipv6_is_asked_beside_ipv4_where_a_network_has_it():
    fleet = wired_fleet()
    facts = fleet.hosts["node2"].facts.facts
    twin = copy.deepcopy(facts["containers"][1])
    twin.update(id="v2", name="twin-2", netns="42", ports=[])
    twin["endpoints"][0].update(ip="172.17.0.3", ip6="2001:db8:5::3")
    space = {**copy.deepcopy(web_of(fleet)), "key": "42", "container": "v2", "path": "/proc/402/ns/net"}
    space["addresses"] = [
        {"index": 20, "family": 4, "ip": "172.17.0.3", "prefix": 16},
        {"index": 20, "family": 6, "ip": "2001:db8:5::3", "prefix": 64},
    ]
    for each in (space, web_of(fleet)):
        each["sockets"].append({"protocol": "tcp", "family": 6, "ip": "::", "port": 80})
    container_of(fleet)["endpoints"][0]["ip6"] = "2001:db8:5::2"
    facts["containers"].append(twin)
    facts["namespaces"].append(space)
    pair = next(p for p in first_round(fleet) if p.kind == "local")
    assert "tcp6:80" in [probe.key for probe in pair.probes]
    # One end has lost its address: IPv4 still answers, so the pair fails by nothing but IPv6.
    case = run_case(fleet, lambda p, k: "timeout" if p.kind == "local" and k == "tcp6:80" else None)
    assert loud(case) == [("ipv6-data-path-broken", ["node2"], "critical")]


# -- facts that are missing


@pytest.mark.parametrize("key", ["links", "addresses", "routes", "counters", "sysctls", "filter", "tc"])
def test_facts_that_were_not_read_are_not_blamed(key):
    causes = {"bridge-down", "veth-drops", "hairpin-off", "macvlan-promisc"}
    fleet = wired_fleet()
    for namespace in fleet.hosts["node2"].facts.facts["namespaces"]:
        namespace[key] = None
    case = run_case(fleet, fails("hairpin") if key != "links" else lambda pair, k: None)
    found = {f.cause for f in case.findings if "node2" in f.hosts}
    assert not found & causes or key in ("addresses", "routes")

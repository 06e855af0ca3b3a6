# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtual addresses, the routing mesh and what stands behind names, decided on made fleets."""

from __future__ import annotations

import copy
import typing as t

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case, Finding
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.registry import decide_all
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import observe
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Pair
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.plan import first_round, second_round
from tests.unit.made_fleet import NETWORK, address, answer, make_fleet, overlay_ip, run_case

VIP = "10.0.1.200"
INGRESS = "ingress1"
PORT = 8090


def with_service(fleet: Fleet, mode: str = "vip", published: bool = False) -> Fleet:
    """A service with a task on every host; the made fleet's containers are its tasks."""
    manager = fleet.hosts["node1"].facts
    count = len(fleet.hosts)
    ports = [{"protocol": "tcp", "target": 80, "published": PORT, "mode": "ingress"}] if published else []
    vips = [{"network_id": NETWORK, "ip": VIP}] if mode == "vip" else []
    manager.swarm["services"] = [{"id": "s1", "name": "svc", "endpoint_mode": mode, "vips": vips, "ports": ports}]
    manager.swarm["tasks"] = [
        {"id": f"t{n}", "service_id": "s1", "node_id": f"id{n}", "state": "running", "desired": "running"}
        for n in range(1, count + 1)
    ]
    manager.swarm["nodes"] = [
        {"id": f"id{n}", "hostname": f"node{n}", "state": "ready", "addr": address(n), "availability": "active"}
        for n in range(1, count + 1)
    ]
    for host in fleet.hosts.values():
        for container in host.facts.facts["containers"]:
            container["service"] = "svc"
    return fleet


def with_mesh(fleet: Fleet) -> Fleet:
    """Every host's part of the routing mesh, as the engine makes it where the kernel has IPVS."""
    for host in fleet.hosts.values():
        host.facts.facts["networks"].append(
            {"id": INGRESS, "name": "ingress", "driver": "overlay", "scope": "swarm", "ingress": True, "vnis": [4096]}
        )
        host.facts.facts["namespaces"].append(
            {
                "key": f"3{host.name}",
                "kind": "ingress",
                "path": "/run/docker/netns/ingress_sbox",
                "links": [],
                "filter": {},
            }
        )
        host.facts.root.facts["filter"] = {
            "chains": [
                chain("PREROUTING", "fib daddr type local jump DOCKER-INGRESS", hook="prerouting"),
                chain("DOCKER-INGRESS", f"tcp dport {PORT} -j DNAT --to-destination 172.18.0.2:{PORT}"),
            ]
        }
    return fleet


def chain(name: str, *texts: str, hook: str | None = None) -> dict[str, t.Any]:
    rules = [
        {"text": text, "handle": i, "ref": f"nft:ip:nat:{name}:{i}", "exprs": [], "counter": None}
        for i, text in enumerate(texts)
    ]
    return {
        "backend": "nft",
        "family": "ip",
        "table": "nat",
        "name": name,
        "hook": hook,
        "type": "nat" if hook else None,
        "devices": [],
        "priority": -100 if hook else None,
        "policy": "accept" if hook else None,
        "ref": f"nft:ip:nat:{name}",
        "rules": rules,
    }


def no_ipvs(fleet: Fleet, *names: str, module: str | None = "absent") -> Fleet:
    for name in names or fleet.hosts:
        fleet.hosts[name].facts.facts["host"].update(ipvs=False, modules={"ip_vs": module})
    return fleet


def kinds(*wanted: str) -> t.Callable[[Pair, str], str | None]:
    return lambda pair, key: "timeout" if pair.kind in wanted else None


def named(case: Case, cause: str) -> list[Finding]:
    return [finding for finding in case.findings if finding.cause == cause]


# ---- ipvs-missing


def test_ipvs_missing_is_one_finding_for_all_hosts():
    case = run_case(no_ipvs(with_service(make_fleet(3))), kinds("service"))
    [finding] = [f for f in case.findings if f.severity == "critical"]
    assert (finding.cause, finding.hosts) == ("ipvs-missing", ["node1", "node2", "node3"])
    assert len(finding.explains) == 3


def test_ipvs_missing_on_one_host_is_that_hosts():
    fleet = no_ipvs(with_service(make_fleet(3)), "node2")
    case = run_case(fleet, lambda p, k: "timeout" if p.kind == "service" and p.src.host == "node2" else None)
    assert [(f.cause, f.hosts) for f in case.findings if f.severity != "info"] == [("ipvs-missing", ["node2"])]


def test_ipvs_missing_breaks_the_mesh_where_it_is_asked_for():
    fleet = no_ipvs(with_mesh(with_service(make_fleet(3), published=True)), "node2")
    case = run_case(fleet, lambda p, k: "timeout" if p.kind == "mesh" and p.dst.host == "node2" else None)
    [finding] = named(case, "ipvs-missing")
    assert (finding.severity, finding.hosts, len(finding.explains)) == ("critical", ["node2"], 2)


def test_ipvs_missing_is_information_while_no_virtual_address_is_used():
    case = run_case(no_ipvs(with_service(make_fleet(3), mode="dnsrr")))
    assert [(f.cause, f.severity) for f in named(case, "ipvs-missing")] == [("ipvs-missing", "info")]


def test_ipvs_that_nobody_asked_for_yet_is_not_missing():
    case = run_case(no_ipvs(with_service(make_fleet(3), mode="dnsrr"), module="available"))
    assert named(case, "ipvs-missing") == []


def test_a_swarm_without_a_service_needs_no_ipvs():
    assert run_case(no_ipvs(make_fleet(3))).findings == []


def test_a_virtual_address_whose_backend_is_cut_off_is_the_tunnels_fault():
    fleet = with_service(make_fleet(3))
    drop = {"chains": [dropping("input", "udp", 4789)]}
    fleet.hosts["node3"].facts.root.facts["filter"] = drop
    lossy = ("overlay", "service")
    case = run_case(fleet, lambda p, k: "timeout" if p.kind in lossy and "node3" in p.hosts else None)
    assert [f.cause for f in case.findings if f.severity != "info"] == ["data-udp-blocked-host-fw"]
    assert any("svc" in pair for pair in case.findings[0].explains)


def test_a_mesh_port_that_a_host_does_not_forward_is_that_hosts_forwarding():
    fleet = with_mesh(with_service(make_fleet(3), published=True))
    host = fleet.hosts["node2"]
    host.facts.root.facts["sysctls"] = {"net.ipv4.ip_forward": 0, "net.ipv4.conf.eth0.forwarding": 0}
    host.facts.namespace("12").facts["routes"] = [{"family": 4, "dst": "default", "gateway": "172.18.0.1", "oif": 10}]

    def lost(pair: Pair, key: str) -> str | None:
        enters = pair.kind == "mesh" and pair.dst.host == "node2"
        return "timeout" if enters or (pair.kind == "egress" and pair.src.host == "node2") else None

    case = run_case(fleet, lost)
    assert [(f.cause, f.hosts) for f in case.findings if f.severity == "critical"] == [("ip-forward-zero", ["node2"])]
    assert case.unexplained == []


def dropping(hook: str, protocol: str, port: int) -> dict[str, t.Any]:
    exprs = [
        {"name": "meta", "key": "l4proto", "dreg": 1},
        {"name": "cmp", "op": "eq", "sreg": 1, "data": "11" if protocol == "udp" else "06"},
        {"name": "payload", "base": "transport", "offset": 2, "len": 2, "dreg": 1},
        {"name": "cmp", "op": "eq", "sreg": 1, "data": f"{port:04x}"},
        {"name": "immediate", "dreg": 0, "verdict": "drop"},
    ]
    rule = {
        "handle": 1,
        "ref": "nft:inet:f:input:1",
        "exprs": exprs,
        "counter": None,
        "text": f"{protocol} dport {port} drop",
    }
    return {
        "backend": "nft",
        "family": "inet",
        "table": "f",
        "name": "input",
        "hook": hook,
        "type": "filter",
        "devices": [],
        "priority": 0,
        "policy": "accept",
        "ref": "nft:inet:f:input",
        "rules": [rule],
    }


# ---- ipvs-idle-900s, ipvs-conntrack-invalid


def asked(seconds: int | None, ipvs: bool = True) -> Case:
    fleet = make_fleet(3, **{"from": "app-1", "to": "svc", "port": 80})
    with_service(fleet)
    for host in fleet.hosts.values():
        host.facts.facts["host"]["ipvs"] = ipvs
    namespace = fleet.hosts["node1"].facts.namespace("11")
    namespace.facts["sysctls"] = {} if seconds is None else {"net.ipv4.tcp_keepalive_time": seconds}
    return run_case(fleet)


def test_ipvs_idle_900s_is_said_when_somebody_asks_about_that_path():
    [finding] = named(asked(7200), "ipvs-idle-900s")
    assert (finding.severity, finding.hosts) == ("info", ["node1"])
    assert "7200" in finding.summary


@pytest.mark.parametrize(("seconds", "ipvs"), [(600, True), (None, True), (7200, False)])
def test_no_ipvs_idle_900s_with_a_short_keepalive_or_without_ipvs(seconds, ipvs):
    assert named(asked(seconds, ipvs), "ipvs-idle-900s") == []


def test_no_ipvs_idle_900s_unless_asked():
    fleet = with_service(make_fleet(3))
    for number in (1, 2, 3):
        fleet.hosts[f"node{number}"].facts.namespace(f"1{number}").facts["sysctls"] = {
            "net.ipv4.tcp_keepalive_time": 7200
        }
    assert named(run_case(fleet), "ipvs-idle-900s") == []


def shaky(statuses: tuple[str, str], invalid: tuple[int, int, int, int], liberal: int = 0) -> Case:
    """Virtual addresses asked twice from node1, and conntrack's invalid counter around both bursts."""
    fleet = with_service(make_fleet(3))
    plans = {"first": first_round(fleet)}
    for label, status in zip(("first", "again"), statuses):
        pairs = plans["first"] if label == "first" else plans["again"]

        def broken(pair: Pair, key: str, status: str = status) -> str | None:
            return status if pair.kind == "service" and pair.src.host == "node1" else None

        for host in fleet.answering:
            rows = [row for pair in pairs if pair.src.host == host.name for row in answer(pair, broken)]
            host.probes[label] = {"results": rows, "missing": []}
        plans["again"] = second_round(observe(fleet, {"first": plans["first"]})) if label == "first" else plans["again"]
    host = fleet.hosts["node1"]
    for index, label in enumerate(("before", "after", "quiet", "again")):
        facts = copy.deepcopy(fleet.hosts["node1"].facts.facts) if index else host.facts.facts
        facts["started"] = facts["finished"] = 10.0 * index
        root = facts["namespaces"][0]
        root["counters"] = {**root["counters"], "conntrack": {"invalid": invalid[index]}}
        root["sysctls"] = {**root["sysctls"], "net.netfilter.nf_conntrack_tcp_be_liberal": liberal}
        host.snapshots[label] = HostFacts("node1", facts)
    case = Case(fleet, observe(fleet, plans))
    decide_all(case)
    return case


def test_ipvs_conntrack_invalid():
    [finding] = named(shaky(("refused", "open"), (0, 9, 9, 20)), "ipvs-conntrack-invalid")
    assert (finding.severity, finding.hosts) == ("warning", ["node1"])


@pytest.mark.parametrize(
    ("statuses", "invalid", "liberal"),
    [
        (("refused", "open"), (0, 0, 0, 0), 0),  # nothing invalid
        (("refused", "open"), (0, 9, 90, 99), 0),  # it rises by itself
        (("refused", "open"), (0, 9, 9, 20), 1),  # already liberal
        (("refused", "refused"), (0, 9, 9, 20), 0),  # nobody listens
    ],
)
def test_no_ipvs_conntrack_invalid(statuses, invalid, liberal):
    assert named(shaky(statuses, invalid, liberal), "ipvs-conntrack-invalid") == []


# ---- ingress-missing, ingress-inconsistent


def test_ingress_missing_is_critical_where_a_service_publishes():
    [finding] = named(run_case(with_service(make_fleet(3), published=True)), "ingress-missing")
    assert (finding.severity, finding.hosts) == ("critical", ["node1"])
    assert "svc" in finding.summary


def test_ingress_missing_is_information_while_none_does():
    assert [f.severity for f in named(run_case(with_service(make_fleet(3))), "ingress-missing")] == ["info"]


@pytest.mark.parametrize("why", ["there", "no service", "unread"])
def test_no_ingress_missing(why):
    fleet = make_fleet(3)
    if why != "no service":
        with_service(fleet)
    if why == "there":
        with_mesh(fleet)
    if why == "unread":
        fleet.hosts["node1"].facts.facts["missing"] = [{"section": "networks", "what": "networks", "why": "timeout"}]
    assert named(run_case(fleet), "ingress-missing") == []


def mesh_of(change: t.Callable[[HostFacts], None], *, dead: bool = True) -> Case:
    fleet = with_mesh(with_service(make_fleet(3), published=True))
    change(fleet.hosts["node2"].facts)
    return run_case(fleet, lambda p, k: "timeout" if dead and p.kind == "mesh" and p.dst.host == "node2" else None)


def no_chain(facts: HostFacts) -> None:
    facts.root.facts["filter"]["chains"].pop()


def no_jump(facts: HostFacts) -> None:
    facts.root.facts["filter"]["chains"][0]["rules"] = []


def no_rule(facts: HostFacts) -> None:
    facts.root.facts["filter"]["chains"][1]["rules"] = []


def other_vni(facts: HostFacts) -> None:
    facts.networks[-1]["vnis"] = [4097]


def no_sandbox(facts: HostFacts) -> None:
    facts.facts["namespaces"].pop()


@pytest.mark.parametrize("change", [no_chain, no_jump, no_rule, other_vni])
def test_ingress_inconsistent(change):
    case = mesh_of(change)
    assert [(f.cause, f.hosts, f.severity) for f in case.findings if f.severity != "info"] == [
        ("ingress-inconsistent", ["node2"], "critical")
    ]


def test_ingress_inconsistent_without_ingress_sbox():
    fleet = with_mesh(with_service(make_fleet(3), published=True))
    no_sandbox(fleet.hosts["node2"].facts)
    fleet.hosts["node2"].facts.__dict__.pop("namespaces", None)
    case = run_case(fleet, lambda p, k: "timeout" if p.kind == "mesh" and p.dst.host == "node2" else None)
    [finding] = named(case, "ingress-inconsistent")
    assert "ingress_sbox" in finding.summary


def test_ingress_inconsistent_that_breaks_nothing_is_information():
    assert [f.severity for f in named(mesh_of(no_jump, dead=False), "ingress-inconsistent")] == ["info"]


def test_what_no_host_has_is_no_difference():
    fleet = with_mesh(with_service(make_fleet(3), published=True))
    for host in fleet.hosts.values():
        no_chain(host.facts)
    assert named(run_case(fleet), "ingress-inconsistent") == []


def test_a_node_that_catches_up_between_two_readings_is_not_odd():
    fleet = with_mesh(with_service(make_fleet(3), published=True))
    later = copy.deepcopy(fleet.hosts["node2"].facts.facts)
    no_rule(fleet.hosts["node2"].facts)
    fleet.hosts["node2"].snapshots["again"] = HostFacts("node2", later)
    case = Case(fleet, [])
    decide_all(case)
    assert named(case, "ingress-inconsistent") == []


# ---- service-backends-stale


def gossip(fleet: Fleet, ip: str, *tellers: str, vtep: str | None = None) -> Fleet:
    """What every engine knows of the network's endpoints, and an address more on the named hosts."""
    for host in fleet.hosts.values():
        tasks = [{"name": e.container, "ip": e.ip, "vtep": fleet.hosts[e.host].underlay_ip} for e in fleet.endpoints]
        if host.name in tellers:
            tasks.append({"name": "svc.9", "ip": ip, "vtep": vtep})
        host.facts.facts["networks"][0]["services"] = [{"name": "svc", "tasks": tasks}]
    return fleet


def test_service_backends_stale():
    fleet = gossip(with_service(make_fleet(3)), "10.0.1.99", "node1", "node2", "node3")
    case = run_case(fleet, kinds("backend"))
    [finding] = [f for f in case.findings if f.severity == "critical"]
    assert (finding.cause, finding.hosts) == ("service-backends-stale", ["node1", "node2", "node3"])
    assert "10.0.1.99" in finding.summary


def test_service_backends_stale_names_the_host_that_is_said_to_have_it():
    fleet = gossip(with_service(make_fleet(3)), "10.0.1.99", "node1", "node2", "node3", vtep=address(2))
    [finding] = named(run_case(fleet, kinds("backend")), "service-backends-stale")
    assert finding.hosts == ["node2"]


def test_a_rolling_update_is_not_stale():
    fleet = gossip(with_service(make_fleet(3)), "10.0.1.99", "node1", "node2", "node3")
    plans = {"first": first_round(fleet)}
    plans["again"] = [pair for pair in plans["first"] if pair.kind == "backend"]
    assert plans["again"]
    for label, pairs in plans.items():
        for host in fleet.answering:
            rows = [row for p in pairs if p.src.host == host.name for row in answer(p, kinds("backend"))]
            host.probes[label] = {"results": rows, "missing": []}
    for host in fleet.answering:
        later = copy.deepcopy(host.facts.facts)
        later["networks"][0]["services"][0]["tasks"].pop()
        host.snapshots["again"] = HostFacts(host.name, later)
    case = Case(fleet, observe(fleet, plans))
    decide_all(case)
    assert [f for f in case.findings if f.severity != "info"] == []
    assert case.broken == []


@pytest.mark.parametrize("why", ["answers", "foreign host", "owned", "unread"])
def test_addresses_that_are_not_stale(why):
    fleet = with_service(make_fleet(3))
    ip = overlay_ip(2) if why == "owned" else "10.0.1.99"
    gossip(fleet, ip, "node1", "node2", "node3", vtep="203.0.113.9" if why == "foreign host" else None)
    if why == "unread":
        fleet.hosts["node3"].facts.facts["missing"] = [
            {"section": "containers", "what": "containers", "why": "timeout"}
        ]
    case = run_case(fleet) if why == "answers" else run_case(fleet, kinds("backend"))
    assert named(case, "service-backends-stale") == []
    assert case.broken == []


def test_load_balancers_of_the_engine_are_no_stale_backends():
    fleet = gossip(with_service(make_fleet(3)), "10.0.1.99", "node1", "node2", "node3")
    fleet.hosts["node2"].facts.networks[0]["local"] = [{"owner": "lb-app", "ip": "10.0.1.99"}]
    assert run_case(fleet, kinds("backend")).broken == []


def test_facts_that_are_missing_raise_nothing():
    fleet = with_mesh(with_service(make_fleet(3), published=True))
    for host in fleet.hosts.values():
        for key in ("host", "engine", "log"):
            host.facts.facts.pop(key, None)
        host.facts.facts["swarm"].update(services=[{"id": "s1", "name": "svc"}], tasks=[])
    case = Case(fleet, [])
    decide_all(case)
    assert [f for f in case.findings if f.severity == "critical"] == []

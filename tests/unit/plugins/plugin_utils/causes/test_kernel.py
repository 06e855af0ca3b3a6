# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernel tables, modules and modes decided on made fleets: most cannot be provoked on a lab that shares a kernel."""

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
from tests.unit.made_fleet import answer, make_fleet, run_case
from tests.unit.plugins.plugin_utils.causes.docker_fleet import (
    dnat,
    docker_fleet,
    first,
    ip,
    iptables,
    loud,
    port,
    quiet,
    replace_chains,
)

Facts = dict[str, t.Any]
Broken = t.Callable[[Pair, str], str | None]
START = 1_000_000.0


def facts_of(fleet: Fleet, number: int = 2) -> Facts:
    return fleet.hosts[f"node{number}"].facts.facts


def healthy(pair: Pair, key: str) -> str | None:
    return None


def overlay_of(host: str) -> Broken:
    return lambda pair, key: "timeout" if pair.kind == "overlay" and host in pair.hosts else None


def log(fleet: Fleet, group: str, name: str, sample: str, age: float = 5.0) -> None:
    facts = facts_of(fleet)
    facts.setdefault("log", {}).setdefault(group, {})[name] = {"count": 3, "last": START - age, "sample": sample}


def measured(fleet: Fleet, change: t.Callable[[Facts, int], None], broken: Broken = healthy) -> Case:
    """Readings before, after, quiet and again of node2, each with its own counters, and both rounds of probes."""
    host = fleet.hosts["node2"]
    base = copy.deepcopy(host.facts.facts)
    for step, label in enumerate(("before", "after", "quiet", "again")):
        facts = copy.deepcopy(base)
        change(facts["namespaces"][0], step)
        host.snapshots[label] = HostFacts(
            host.name, {**facts, "started": START + 10 * step, "finished": START + 10 * step}
        )
    plans = {label: first_round(fleet) for label in ("first", "again")}
    for each in fleet.answering:
        for label, pairs in plans.items():
            rows = [row for pair in pairs if pair.src.host == each.name for row in answer(pair, broken)]
            each.probes[label] = {"results": rows, "missing": []}
    case = Case(fleet, observe(fleet, plans))
    decide_all(case)
    return case


def causes(case: Case) -> set[str]:
    return {finding.cause for finding in case.findings}


# -- conntrack-full


def conntrack(count: int, *drops: int, name: str = "drop") -> t.Callable[[Facts, int], None]:
    def change(namespace: Facts, step: int) -> None:
        value = drops[step] if drops else 0
        namespace["counters"]["conntrack"] = {"count": count, "max": 1000, name: value}

    return change


@pytest.mark.parametrize("name", ["drop", "early_drop", "insert_failed"])
def test_a_full_table_that_refuses_flows_now_is_conntrack_full(name):
    case = measured(make_fleet(), conntrack(990, 0, 40, 40, 90, name=name), overlay_of("node2"))
    assert loud(case) == [("conntrack-full", ["node2"], "critical")]
    assert first(case).confidence == "confirmed"
    assert "990 of 1000" in first(case).summary
    assert {o.pair.id for o in case.broken} == set(first(case).explains)


def test_a_full_table_breaks_at_random_so_it_warns_before_a_pair_fails():
    case = measured(make_fleet(), conntrack(990, 0, 4, 4, 9))
    assert loud(case) == [("conntrack-full", ["node2"], "warning")]


def test_the_kernels_own_word_of_the_last_minutes_counts_as_well():
    fleet = make_fleet()
    log(fleet, "kernel", "conntrack-full", "nf_conntrack: table full, dropping packet")
    case = measured(fleet, conntrack(990))
    assert loud(case) == [("conntrack-full", ["node2"], "warning")]
    assert "table full, dropping packet" in {e.observed.partition(": ")[2] for e in first(case).evidence}


def test_an_old_kernel_log_says_nothing_of_conntrack_full():
    fleet = make_fleet()
    log(fleet, "kernel", "conntrack-full", "nf_conntrack: table full, dropping packet", age=86400)
    assert causes(measured(fleet, conntrack(990), overlay_of("node2"))) & {"conntrack-full"} == set()


@pytest.mark.parametrize(
    "change", [conntrack(500, 0, 40, 40, 90), conntrack(990, 7, 7, 7, 7), conntrack(0), lambda n, s: None]
)
def test_half_full_or_full_without_a_loss_is_ordinary(change):
    assert "conntrack-full" not in causes(measured(make_fleet(), change, overlay_of("node2")))


# -- neigh-overflow


def neighbours(entries: int, *fulls: int) -> t.Callable[[Facts, int], None]:
    def change(namespace: Facts, step: int) -> None:
        namespace["counters"]["neighbours"] = {"entries": entries, "table_fulls": fulls[step] if fulls else 12}
        namespace["sysctls"]["net.ipv4.neigh.default.gc_thresh3"] = 1024

    return change


def test_a_neighbour_table_that_overflows_now_is_neigh_overflow():
    case = measured(make_fleet(), neighbours(1024, 5, 60, 60, 120), overlay_of("node2"))
    assert loud(case) == [("neigh-overflow", ["node2"], "critical")]
    assert first(case).confidence == "confirmed"
    assert loud(measured(make_fleet(), neighbours(1024, 5, 60, 60, 120))) == [("neigh-overflow", ["node2"], "warning")]


@pytest.mark.parametrize(("entries", "age", "named"), [(1020, 5.0, True), (1020, 86400.0, False), (40, 5.0, False)])
def test_a_kernel_log_counts_only_when_recent_and_the_table_is_full(entries, age, named):
    fleet = make_fleet()
    log(fleet, "kernel", "neighbour-overflow", "neighbour: arp_cache: neighbor table overflow!", age)
    assert ("neigh-overflow" in causes(measured(fleet, neighbours(entries)))) == named


# -- br-netfilter-missing

VIRTUAL = "203.0.113.10"


def translated_fleet(value: int | None = 0) -> Fleet:
    """A neighbour of the published container on its bridge, and a rule that translates an address to the container."""
    fleet = docker_fleet()
    facts = facts_of(fleet)
    root = facts["namespaces"][0]
    root["links"] += [
        {"index": 21, "name": "veth21", "kind": "veth", "up": True, "link": 20, "master": 3},
        {"index": 22, "name": "veth22", "kind": "veth", "up": True, "link": 20, "master": 3},
    ]
    web = facts["containers"][1]
    near = {**copy.deepcopy(web), "id": "n2", "name": "near-2", "netns": "42", "ports": []}
    near["endpoints"][0]["ip"] = "172.17.0.3"
    facts["containers"].append(near)
    space = {**copy.deepcopy(facts["namespaces"][3]), "key": "42", "container": "n2", "path": "/proc/402/ns/net"}
    space["addresses"][0]["ip"] = "172.17.0.3"
    space["links"][0]["link"] = 22
    facts["namespaces"].append(space)
    rule = [ip(dst=f"{VIRTUAL}/32", protocol=6), port(80), dnat("172.17.0.2")]
    chain = iptables("PREROUTING", rule, table="nat", hook="prerouting")
    chain["rules"][0]["text"] = f"ip daddr {VIRTUAL} tcp dport 80 -j DNAT --to-destination 172.17.0.2:80"
    replace_chains(fleet, PREROUTING=chain)
    if value is not None:
        root["sysctls"]["net.bridge.bridge-nf-call-iptables"] = value
    facts["host"]["br_netfilter"] = value is not None
    return fleet


def virtual(pair: Pair, key: str) -> str | None:
    return "timeout" if pair.kind == "translated" else None


@pytest.mark.parametrize("value", [0, None])
def test_answers_that_bypass_their_translation_are_br_netfilter_missing(value):
    case = run_case(translated_fleet(value), virtual)
    assert loud(case) == [("br-netfilter-missing", ["node2"], "critical")]
    assert f"{VIRTUAL}:80" in first(case).summary
    assert "172.17.0.2" in first(case).evidence[1].observed
    assert {o.pair.id for o in case.broken} == set(first(case).explains)


def test_the_translated_address_is_asked_from_the_neighbour_on_the_same_bridge():
    asked = [p for p in first_round(translated_fleet()) if p.kind == "translated"]
    assert [(p.src.name, p.dst.ip, p.probes[0].port) for p in asked] == [("near-2", VIRTUAL, 80)]


def test_a_rule_that_names_a_containers_own_address_translates_nothing():
    """The engine masquerades what a container sends to its own published port: `-s IP -d IP --dport PORT`."""
    fleet = translated_fleet()
    chain = next(c for c in facts_of(fleet)["namespaces"][0]["filter"]["chains"] if c["name"] == "PREROUTING")
    own = copy.deepcopy(chain["rules"][0])
    own["text"] = "-s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE"
    chain["rules"].append(own)
    asked = [p for p in first_round(fleet) if p.kind == "translated"]
    assert [p.dst.ip for p in asked] == [VIRTUAL]


def test_frames_that_do_pass_the_filter_are_not_blamed():
    assert "br-netfilter-missing" not in causes(run_case(translated_fleet(1), virtual))


def test_a_translated_address_that_answers_is_no_news():
    assert "br-netfilter-missing" not in causes(run_case(translated_fleet(0)))


def test_a_fleet_of_swarm_alone_does_not_need_bridge_nf():
    fleet = docker_fleet()
    for number in (1, 2, 3):
        facts_of(fleet, number)["namespaces"][0]["sysctls"]["net.bridge.bridge-nf-call-iptables"] = 0
    assert [p for p in first_round(fleet) if p.kind == "translated"] == []
    assert causes(run_case(fleet)) <= {"posture"}


# -- vxlan-module-missing

REFUSAL = (
    "network sandbox join failed: subnet sandbox join failed: error creating vxlan interface: operation not supported"
)


def without_vxlan(module: str | None = "absent") -> Fleet:
    fleet = make_fleet()
    facts_of(fleet)["namespaces"].pop()
    facts_of(fleet)["host"]["modules"] = {"vxlan": module}
    return fleet


@pytest.mark.parametrize("module", ["absent", "available", None])
def test_a_task_that_gets_no_vxlan_device_is_vxlan_module_missing(module):
    fleet = without_vxlan(module)
    task = {"id": "t1", "node_id": "id2", "state": "rejected", "desired": "shutdown", "error": REFUSAL}
    facts_of(fleet, 1)["swarm"]["tasks"] = [task]
    case = run_case(fleet)
    assert [row for row in loud(case) if row[0] == "vxlan-module-missing"] == [
        ("vxlan-module-missing", ["node2"], "critical")
    ]


def test_the_engines_log_says_so_too():
    fleet = without_vxlan()
    log(fleet, "patterns", "vxlan-create-failed", REFUSAL)
    assert "vxlan-module-missing" in causes(run_case(fleet))


@pytest.mark.parametrize("text", [REFUSAL, "error creating vxlan interface: file exists"])
def test_another_error_or_a_device_that_exists_is_not_vxlan_module_missing(text):
    fleet = make_fleet() if text is REFUSAL else without_vxlan()
    log(fleet, "patterns", "vxlan-create-failed", text)
    assert "vxlan-module-missing" not in causes(run_case(fleet))


def test_a_module_that_is_there_is_not_missing():
    fleet = without_vxlan("builtin")
    log(fleet, "patterns", "vxlan-create-failed", REFUSAL)
    assert "vxlan-module-missing" not in causes(run_case(fleet))


# -- rootless-overlay


def test_a_rootless_engine_on_an_overlay_is_rootless_overlay():
    fleet = make_fleet()
    facts_of(fleet)["engine"]["security_options"] = ["name=seccomp,profile=default", "name=rootless"]
    assert quiet(run_case(fleet)) == [("rootless-overlay", ["node2"])]
    case = run_case(fleet, overlay_of("node2"))
    assert loud(case) == [("rootless-overlay", ["node2"], "critical")]


def test_a_rootless_engine_outside_of_every_overlay_is_no_fault():
    fleet = make_fleet()
    facts_of(fleet)["engine"]["security_options"] = ["name=rootless"]
    facts_of(fleet)["swarm"] = {"state": "inactive"}
    facts_of(fleet)["containers"] = []
    assert "rootless-overlay" not in causes(run_case(fleet))


# -- live-restore-swarm

SAID = "Error starting cluster component: --live-restore daemon configuration is incompatible with swarm mode"


def test_an_engine_that_live_restore_keeps_from_starting_is_live_restore_swarm():
    fleet = make_fleet()
    facts_of(fleet)["engine"] = {"state": "down", "error": SAID, "daemon_config": {"live-restore": True}}
    case = run_case(fleet, overlay_of("node2"))
    assert loud(case) == [("live-restore-swarm", ["node2"], "critical")]
    assert {o.pair.id for o in case.broken} == set(first(case).explains)


def test_an_engine_that_is_down_for_another_reason_is_engine_down():
    fleet = make_fleet()
    facts_of(fleet)["engine"] = {"state": "down", "error": SAID, "daemon_config": {}}
    assert loud(run_case(fleet, overlay_of("node2"))) == [("engine-down", ["node2"], "critical")]


def test_a_host_that_could_not_join_is_worth_knowing():
    fleet = make_fleet()
    facts_of(fleet)["engine"]["live_restore"] = True
    facts_of(fleet)["swarm"] = {"state": "inactive", "error": SAID}
    assert ("live-restore-swarm", ["node2"]) in quiet(run_case(fleet))


@pytest.mark.parametrize("swarm", [{"state": "inactive"}, None])
def test_live_restore_outside_of_swarm_is_ordinary(swarm):
    fleet = make_fleet()
    facts_of(fleet)["engine"]["live_restore"] = True
    facts_of(fleet)["swarm"] = swarm
    assert "live-restore-swarm" not in causes(run_case(fleet))


# -- lsm-denial

AVC = 'type=AVC avc:  denied  { create } for comm="dockerd" scontext=container_runtime_t tclass=netlink_route_socket'


def test_a_denial_about_the_engine_is_lsm_denial():
    fleet = make_fleet()
    fleet.hosts["node2"].facts.facts["started"] = START
    log(fleet, "patterns", "permission-denied", AVC)
    assert quiet(run_case(fleet)) == [("lsm-denial", ["node2"])]
    case = run_case(fleet, overlay_of("node2"))
    assert loud(case) == [("lsm-denial", ["node2"], "critical")]
    assert first(case).confidence == "possible"


@pytest.mark.parametrize(("sample", "age"), [(AVC, 86400.0), ('avc:  denied  { read } for comm="httpd" name="x"', 5.0)])
def test_old_denials_and_denials_of_others_are_not_blamed(sample, age):
    fleet = make_fleet()
    fleet.hosts["node2"].facts.facts["started"] = START
    log(fleet, "patterns", "permission-denied", sample, age)
    assert "lsm-denial" not in causes(run_case(fleet, overlay_of("node2")))


# -- stale-udp-conntrack


def udp_fleet(target: str = "172.17.0.99", host_port: int = 5353) -> Fleet:
    fleet = docker_fleet()
    facts = facts_of(fleet)
    facts["networks"][1]["subnets"] = [{"subnet": "172.17.0.0/16", "gateway": None}]
    facts["containers"][1]["ports"].append(
        {"protocol": "udp", "port": 53, "host_ip": "0.0.0.0", "host_port": host_port}
    )
    facts["namespaces"][0]["conntrack"] = [
        {
            "protocol": "udp",
            "src": "198.51.100.1",
            "dst": "192.0.2.2",
            "sport": 40000,
            "dport": 5353,
            "reply_src": target,
            "reply_dst": "198.51.100.1",
            "reply_sport": 53,
            "reply_dport": 40000,
            "status": ["dst_nat"],
            "timeout": 25,
        }
    ]
    return fleet


def test_a_flow_to_a_container_that_is_gone_is_stale_udp_conntrack():
    case = run_case(udp_fleet())
    assert loud(case) == []
    assert quiet(case) == [("stale-udp-conntrack", ["node2"])]
    found = next(f for f in case.findings if f.cause == "stale-udp-conntrack")
    assert "172.17.0.99" in found.summary
    assert "198.51.100.1" in found.remedies[0].manual[0]


@pytest.mark.parametrize(
    "fleet",
    [udp_fleet("172.17.0.2"), udp_fleet("192.0.2.2"), udp_fleet("203.0.113.5"), udp_fleet(host_port=6000)],
    ids=["a running container", "not translated", "not a container's address", "nobody publishes the port"],
)
def test_flows_that_lead_somewhere_are_not_stale(fleet):
    assert "stale-udp-conntrack" not in causes(run_case(fleet))


@pytest.mark.parametrize("key", ["host", "engine", "swarm", "log", "networks"])
def test_sections_that_were_not_read_say_nothing(key):
    fleet = make_fleet()
    fleet.hosts["node2"].facts.facts[key] = None if key != "networks" else []
    named = {f.cause for f in run_case(fleet).findings if f.severity != "info" and "node2" in f.hosts}
    assert named & {"conntrack-full", "vxlan-module-missing", "live-restore-swarm", "lsm-denial"} == set()

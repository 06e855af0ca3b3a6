# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""System managers that take away what container networks made, decided on made fleets."""

from __future__ import annotations

import copy
import typing as t

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case, Finding
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.registry import decide_all
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet
from tests.unit.made_fleet import address, make_fleet, run_case

RULE = {"family": 4, "priority": 109, "action": "lookup", "table": 2004, "fwmark": 0x200, "src": None}
KERNEL_RULE = {"family": 4, "priority": 0, "action": "lookup", "table": 255, "fwmark": None, "src": None}


def named(case: Case, cause: str) -> list[Finding]:
    return [finding for finding in case.findings if finding.cause == cause]


def manager(fleet: Fleet, host: str, name: str, running: bool = True, **config: t.Any) -> None:
    fleet.hosts[host].facts.facts["host"]["managers"] = [{"name": name, "running": running, "config": config}]


# ---- networkd-foreign-flush


def ruled(without: str | None = "node2", logged: int = 2, **config: t.Any) -> Fleet:
    """Every host has a container network's rule and routes to the others' subnets; one host may lack them."""
    fleet = make_fleet(3)
    for number in (1, 2, 3):
        host = fleet.hosts[f"node{number}"]
        root = host.facts.root.facts
        own = {"family": 4, "dst": f"10.244.{number}.0/24", "scope": "link", "protocol": "kernel", "table": 254}
        others = [
            {"family": 4, "dst": f"10.244.{n}.0/24", "gateway": address(n), "protocol": "bird", "table": 254}
            for n in (1, 2, 3)
            if n != number
        ]
        bare = host.name == without
        root["rules"] = [KERNEL_RULE] if bare else [KERNEL_RULE, RULE]
        root["routes"] = root["routes"] + [{**row, "type": "unicast"} for row in [own, *([] if bare else others)]]
    settings = {"manage_foreign_routes": True, "manage_foreign_rules": True, "foreign_log": logged, **config}
    manager(fleet, without or "node2", "systemd-networkd", **settings)
    return fleet


def egress_lost(pair: t.Any, key: str) -> str | None:
    return "timeout" if pair.kind == "overlay" and "node2" in pair.hosts else None


def test_networkd_foreign_flush_that_breaks_nothing_is_information():
    [finding] = named(run_case(ruled()), "networkd-foreign-flush")
    assert (finding.severity, finding.hosts) == ("info", ["node2"])
    assert "109" in finding.summary and "10.244.1.0/24" in finding.summary


def test_networkd_foreign_flush_explains_what_is_broken_there_alone():
    case = run_case(ruled(), egress_lost)
    assert [(f.cause, f.hosts) for f in case.findings if f.severity == "critical"] == [
        ("networkd-foreign-flush", ["node2"])
    ]


def test_networkd_foreign_flush_is_not_blamed_without_a_word_in_its_log():
    case = run_case(ruled(logged=0), egress_lost)
    assert [(f.severity, f.confidence) for f in named(case, "networkd-foreign-flush")] == [("info", "possible")]


def test_only_what_networkd_manages_counts():
    [finding] = named(run_case(ruled(manage_foreign_routes=False)), "networkd-foreign-flush")
    assert "109" in finding.summary and "10.244" not in finding.summary


@pytest.mark.parametrize("why", ["nothing missing", "not managing", "not running", "not common"])
def test_no_networkd_foreign_flush(why):
    fleet = ruled(None if why == "nothing missing" else "node2")
    if why == "not managing":
        fleet = ruled(manage_foreign_routes=False, manage_foreign_rules=False)
    if why == "not running":
        manager(fleet, "node2", "systemd-networkd", False, manage_foreign_routes=True, manage_foreign_rules=True)
    if why == "not common":
        root = fleet.hosts["node3"].facts.root.facts
        root["rules"] = [KERNEL_RULE]
        root["routes"] = [row for row in root["routes"] if not row["dst"].startswith("10.244.")]
    assert named(run_case(fleet), "networkd-foreign-flush") == []


# ---- nm-managed-cni


def seized(state: str = "connected", up: bool = True, kind: str = "vxlan") -> Fleet:
    fleet = make_fleet(3)
    link = {"index": 9, "name": "vxlan.calico", "kind": kind, "up": up, "vxlan": {"vni": 4096, "port": 4789}}
    fleet.hosts["node2"].facts.root.facts["links"].append(link)
    manager(fleet, "node2", "NetworkManager", unmanaged=[], devices={"vxlan.calico": state, "eth0": "connected"})
    return fleet


def test_nm_managed_cni_is_information_while_its_link_is_up():
    [finding] = named(run_case(seized()), "nm-managed-cni")
    assert (finding.severity, finding.hosts) == ("info", ["node2"])


def test_nm_managed_cni_explains_what_a_link_it_took_down_carried():
    case = run_case(seized("disconnected", up=False), egress_lost)
    [finding] = named(case, "nm-managed-cni")
    assert (finding.severity, len(finding.explains)) == ("critical", 4)
    assert named(case, "unexplained-loss") == []


@pytest.mark.parametrize(
    ("state", "kind"), [("unmanaged", "vxlan"), ("connected (externally)", "vxlan"), ("connected", "bridge")]
)
def test_no_nm_managed_cni(state, kind):
    assert named(run_case(seized(state, kind=kind)), "nm-managed-cni") == []


# ---- mac-policy-rewrite


def flannel(actual: str = "02:00:00:00:00:99") -> Fleet:
    """A VXLAN device in every host's own namespace; node2's has another MAC than its peers know."""
    fleet = make_fleet(3)
    for number in (1, 2, 3):
        root = fleet.hosts[f"node{number}"].facts.root.facts
        mac = actual if number == 2 else f"02:00:00:00:00:0{number}"
        device = {"index": 9, "name": "flannel.1", "kind": "vxlan", "up": True, "mac": mac}
        root["links"].append({**device, "vxlan": {"vni": 1, "port": 8472}})
        root["fdb"] = [
            {"index": 9, "dst": address(n), "macs": [f"02:00:00:00:00:0{n}"]} for n in (1, 2, 3) if n != number
        ]
    return fleet


def test_mac_policy_rewrite():
    [finding] = named(run_case(flannel()), "mac-policy-rewrite")
    assert (finding.severity, finding.hosts, finding.segment) == ("info", ["node2"], "vtep")
    assert "02:00:00:00:00:99" in finding.summary and "02:00:00:00:00:02" in finding.summary


def test_right_macs_say_nothing():
    assert named(run_case(flannel("02:00:00:00:00:02")), "mac-policy-rewrite") == []


def test_docker_overlays_are_immune():
    """Their devices are in namespaces of their own: the same MACs there are the containers', not the device's."""
    assert named(run_case(make_fleet(3)), "mac-policy-rewrite") == []


def test_a_mac_that_others_learn_between_two_readings_is_not_rewritten():
    fleet = flannel()
    for name in ("node1", "node3"):
        later = copy.deepcopy(fleet.hosts[name].facts.facts)
        for row in later["namespaces"][0]["fdb"]:
            row["macs"] = ["02:00:00:00:00:99"] if row["dst"] == address(2) else row["macs"]
        fleet.hosts[name].snapshots["again"] = HostFacts(name, later)
    case = Case(fleet, [])
    decide_all(case)
    assert named(case, "mac-policy-rewrite") == []


def test_facts_that_are_missing_raise_nothing():
    fleet = ruled()
    for host in fleet.hosts.values():
        host.facts.facts["host"] = {"managers": [{"name": "systemd-networkd", "running": True, "config": None}]}
        host.facts.root.facts["rules"] = [{"priority": 5}]
        host.facts.root.facts["routes"] = [{"family": 4, "dst": "10.9.0.0/16"}]
    case = Case(fleet, [])
    decide_all(case)
    assert named(case, "networkd-foreign-flush") == []

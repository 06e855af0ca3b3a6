# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules that another tool made, flushed or moved, decided on made fleets; the lab proves most of it on real hosts."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet
from tests.unit.made_fleet import run_case
from tests.unit.plugins.plugin_utils.causes.docker_fleet import (
    diagnosed,
    docker_fleet,
    first,
    ip,
    iptables,
    loud,
    quiet,
    replace_chains,
    rules,
)
from tests.unit.plugins.plugin_utils.filter_eval.rulesets import ACCEPT, DROP, filter_of, jump

NAT = ("PREROUTING", "NAT-DOCKER", "POSTROUTING")
FILTER = ("FORWARD", "DOCKER", "DOCKER-USER")


def flushed(*parts: str) -> Fleet:
    fleet = docker_fleet()
    replace_chains(fleet, drop=parts)
    return fleet


# ---- ruleset-flushed


def test_a_flushed_ruleset_breaks_what_has_to_be_translated():
    case = diagnosed(flushed(*NAT, *FILTER), "egress")
    assert loud(case) == [("ruleset-flushed", ["node2"], "critical")]
    assert quiet(case) == []
    assert first(case).explains == sorted(o.pair.id for o in case.broken)
    assert "systemctl restart docker" in first(case).remedies[0].manual[0]


def test_an_emptied_forward_chain_whose_policy_stays():
    fleet = docker_fleet()
    replace_chains(fleet, FORWARD=iptables("FORWARD", hook="forward", policy="drop"))
    case = diagnosed(fleet, "egress", "published")
    assert loud(case) == [("ruleset-flushed", ["node2"], "critical")]
    assert "(filter)" in first(case).summary
    assert first(case).explains == sorted(o.pair.id for o in case.broken)


def test_a_flushed_nat_table_is_one_fault_and_not_three():
    fleet = docker_fleet()
    empty = [iptables(name, table="nat", hook=name.lower()) for name in ("PREROUTING", "POSTROUTING")]
    replace_chains(fleet, drop=NAT)
    rules(fleet).extend(empty)
    case = diagnosed(fleet, "egress")
    assert (loud(case), quiet(case)) == ([("ruleset-flushed", ["node2"], "critical")], [])


def test_a_flush_that_breaks_nothing_yet_is_info():
    case = run_case(flushed(*NAT, *FILTER))
    assert (loud(case), quiet(case)) == ([], [("ruleset-flushed", ["node2"])])


def test_what_the_missing_rules_do_not_explain_stays_unexplained():
    """Only nat is gone; what comes for the published port is answered by the proxy, whatever breaks it is another."""
    case = diagnosed(flushed(*NAT), "published")
    assert [cause for cause, _h, _s in loud(case)] == ["unexplained-loss"]


@pytest.mark.parametrize(
    "engine",
    [
        {"security_options": ["name=rootless"]},
        {"firewall_backend": {"driver": "nftables", "info": []}},
        {"state": "down"},
        {"state": "absent"},
    ],
    ids=["rootless", "nftables backend", "down", "no engine"],
)
def test_an_engine_that_keeps_its_rules_elsewhere_has_lost_none(engine: dict[str, t.Any]):
    fleet = flushed(*NAT, *FILTER)
    fleet.hosts["node2"].facts.facts["engine"].update(engine)
    assert "ruleset-flushed" not in {f.cause for f in run_case(fleet).findings}


def test_a_filter_that_was_not_read_says_nothing():
    fleet = docker_fleet()
    fleet.hosts["node2"].facts.root.facts["filter"] = {"error": "no root"}
    fleet.hosts["node3"].facts.root.facts["filter"] = None
    assert [f.cause for f in run_case(fleet).findings if f.cause != "posture"] == []


# ---- docker-iptables-false


@pytest.mark.parametrize("where", ["daemon_config", "daemon_flags"])
@pytest.mark.parametrize("value", [False, "false"])
def test_the_same_picture_by_configuration(where: str, value: t.Any):
    fleet = flushed(*NAT, *FILTER)
    fleet.hosts["node2"].facts.facts["engine"][where] = {"iptables": value}
    case = diagnosed(fleet, "egress")
    assert loud(case) == [("docker-iptables-false", ["node2"], "critical")]
    assert quiet(case) == []


def test_the_setting_is_not_blamed_where_the_rules_are_there():
    fleet = docker_fleet()
    fleet.hosts["node2"].facts.facts["engine"]["daemon_config"] = {"iptables": False}
    assert quiet(run_case(fleet)) == []


# ---- firewalld-reload


def reloaded(info: t.Any = None, config: t.Any = None, elsewhere: bool = True) -> Fleet:
    fleet = docker_fleet()
    facts = fleet.hosts["node2"].facts.facts
    if info is not None:
        facts["engine"]["firewall_backend"] = {"driver": "iptables+firewalld", "info": info}
    if config is not None:
        facts["host"]["managers"] = [{"name": "firewalld", "running": True, "config": config}]
    if elsewhere:
        for name in ("node1", "node3"):
            rules(fleet, name).append(iptables("DOCKER-INGRESS", table="nat"))
    return fleet


STAMP = [["ReloadedAt", "2026-11-20T10:00:00Z"]]


@pytest.mark.parametrize(
    "fleet",
    [reloaded(STAMP), reloaded(config={"backend": "nftables", "reloaded": 1795000000.5})],
    ids=["the engine tells", "firewalld tells"],
)
def test_a_reload_that_took_the_ingress_chains(fleet: Fleet):
    case = run_case(fleet)
    assert (loud(case), quiet(case)) == ([], [("firewalld-reload", ["node2"])])


def test_a_reload_breaks_what_the_mesh_publishes():
    fleet = reloaded(STAMP)
    service = {"id": "s", "name": "shop", "vips": [], "ports": [{"published": 8080, "target": 80, "protocol": "tcp"}]}
    fleet.hosts["node1"].facts.facts["swarm"]["services"] = [service]
    case = diagnosed(fleet, "published")
    assert loud(case) == [("firewalld-reload", ["node2"], "critical")]


@pytest.mark.parametrize(
    "fleet",
    [
        reloaded(STAMP, elsewhere=False),
        reloaded([["ReloadedAt", ""]]),
        reloaded(),
        reloaded(config={"backend": "nftables", "reloaded": None}),
    ],
    ids=["nothing is published by the mesh", "never reloaded", "no firewalld", "not told"],
)
def test_no_reload_no_finding(fleet: Fleet):
    assert quiet(run_case(fleet)) == []


def test_a_reload_after_which_the_chains_are_back():
    fleet = reloaded(STAMP)
    rules(fleet).append(iptables("DOCKER-INGRESS", table="nat"))
    assert quiet(run_case(fleet)) == []


# ---- docker29-nft-backend


def test_an_engine_that_refuses_the_swarm_for_its_backend():
    fleet = docker_fleet()
    refusal = 'failed to start: "--firewall-backend=nftables is incompatible with swarm mode"'
    fleet.hosts["node2"].facts.facts["engine"].update(state="down", error=refusal)
    found = {f.cause: f for f in run_case(fleet).findings}
    assert found["docker29-nft-backend"].hosts == ["node2"]
    assert refusal in found["docker29-nft-backend"].evidence[0].observed
    assert found["engine-down"].severity == "critical"


def test_the_nftables_backend_leaves_forwarding_off():
    fleet = docker_fleet()
    facts = fleet.hosts["node2"].facts.facts
    facts["engine"]["firewall_backend"] = {"driver": "nftables", "info": []}
    assert "docker29-nft-backend" not in {f.cause for f in run_case(fleet).findings}
    facts["namespaces"][0]["sysctls"]["net.ipv4.ip_forward"] = 0
    case = diagnosed(fleet, "egress")
    assert loud(case) == [("ip-forward-zero", ["node2"], "critical")]
    assert ("docker29-nft-backend", ["node2"]) in quiet(case)


# ---- owners in other findings


def test_a_zone_of_firewalld_that_drops_what_is_forwarded_is_named_as_its_own():
    fleet = docker_fleet()
    rules(fleet).append(
        {
            **iptables("filter_FORWARD", [jump("filter_FWD_public")], table="firewalld", hook="forward"),
            "priority": 10,
        }
    )
    rules(fleet).append(iptables("filter_FWD_public", [ip(iif="docker0"), DROP], [ACCEPT], table="firewalld"))
    case = diagnosed(fleet, "egress")
    assert loud(case) == [("container-port-filtered", ["node2"], "critical")]
    assert "firewalld" in first(case).summary
    assert "firewalld's own configuration" in first(case).remedies[0].manual[1]


def test_facts_without_most_sections_raise_nothing():
    fleet = docker_fleet()
    facts = fleet.hosts["node2"].facts.facts
    for key in ("engine", "swarm", "networks", "host", "log"):
        facts.pop(key, None)
    facts["namespaces"][0]["filter"] = filter_of()
    run_case(fleet)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Translation and rules for containers, decided on made fleets; the lab proves the same on real hosts."""

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
    LOCAL,
    SUBNET,
    WEB,
    diagnosed,
    dnat,
    docker_fleet,
    engine_chains,
    fails,
    first,
    ip,
    iptables,
    loud,
    port,
    quiet,
    replace_chains,
    rules,
    states,
)
from tests.unit.plugins.plugin_utils.filter_eval.rulesets import ACCEPT, DROP, LIMIT, RETURN, chain, filter_of, jump


def put_first(
    fleet: Fleet, name: str, *exprs: t.Any, text: str = "", comment: str | None = None, **where: t.Any
) -> None:
    """A rule in front of a chain of node2."""
    place = next(c for c in rules(fleet, **where) if c["name"] == name and c["table"] != "nat")
    rule = iptables(name, list(exprs))["rules"][0]
    place["rules"].insert(0, {**rule, "ref": f"{place['ref']}:new", "text": text or "new", "comment": comment})


def test_what_an_engine_makes_is_healthy():
    case = run_case(docker_fleet())
    assert (loud(case), quiet(case)) == ([], [])


def test_what_breaks_though_every_filter_lets_it_pass_is_none_of_these():
    case = diagnosed(docker_fleet(), "egress", "published")
    assert {cause for cause, _hosts, _severity in loud(case)} == {"unexplained-loss"}


# ---- masquerade-missing


def without_masquerade() -> Fleet:
    fleet = docker_fleet()
    replace_chains(fleet, POSTROUTING=iptables("POSTROUTING", table="nat", hook="postrouting"))
    return fleet


def test_containers_that_leave_untranslated():
    case = diagnosed(without_masquerade(), "egress")
    assert loud(case) == [("masquerade-missing", ["node2"], "critical")]
    finding = first(case)
    assert SUBNET in finding.summary
    assert finding.explains == sorted(o.pair.id for o in case.broken)
    assert any(f"-s {SUBNET} ! -o {BRIDGE} -j MASQUERADE" in line for line in finding.remedies[0].manual)


def test_an_exemption_before_the_masquerading_rule_is_named_too():
    fleet = docker_fleet()
    chains = engine_chains()["POSTROUTING"]
    exempt = iptables("POSTROUTING", [ip(src="172.16.0.0/12"), ACCEPT], table="nat", hook="postrouting")
    rules_ = exempt["rules"] + chains["rules"]
    for rule, text in zip(rules_, ("-s 172.16.0.0/12 -j ACCEPT", f"-s {SUBNET} ! -o {BRIDGE} -j MASQUERADE")):
        rule["text"] = text
    replace_chains(fleet, POSTROUTING={**exempt, "rules": rules_})
    case = diagnosed(fleet, "egress")
    assert loud(case) == [("masquerade-missing", ["node2"], "critical")]
    (remedy,) = first(case).remedies
    assert (remedy.role, remedy.disruptive) == (None, False)
    assert remedy.manual[0].endswith("or iptables -t nat -D POSTROUTING 1   # -s 172.16.0.0/12 -j ACCEPT")


def test_networks_that_are_routed_by_design_need_no_masquerading():
    assert loud(run_case(without_masquerade())) == []
    fleet = without_masquerade()
    for number in (1, 3):
        route = {"family": 4, "table": 254, "dst": f"{WEB}/32", "gateway": "192.0.2.2", "oif": 2, "type": "unicast"}
        fleet.hosts[f"node{number}"].facts.facts["namespaces"][0]["routes"].append(route)
    assert [cause for cause, _h, _s in loud(diagnosed(fleet, "egress"))] == ["unexplained-loss"]


@pytest.mark.parametrize("setting", ["daemon", "network"])
def test_masquerading_that_is_switched_off_is_taken_back_there(setting: str):
    fleet = without_masquerade()
    facts = fleet.hosts["node2"].facts.facts
    if setting == "daemon":
        facts["engine"]["daemon_config"] = {"ip-masq": False}
    else:
        facts["networks"][-1]["options"] = {"com.docker.network.bridge.enable_ip_masquerade": "false"}
    finding = first(diagnosed(fleet, "egress"))
    assert finding.cause == "masquerade-missing"
    assert "masq" in finding.remedies[0].manual[0]
    assert finding.evidence[0].observed == "false"


def test_a_translation_that_is_there_is_ruled_out_in_another_finding():
    case = diagnosed(docker_fleet(), "egress")
    rejected = dict(first(case).rejected)
    assert "translates" in rejected["masquerade-missing"]


def test_forward_chains_that_accept_are_ruled_out():
    rejected = dict(first(diagnosed(without_masquerade(), "egress")).rejected)
    assert rejected["forward-policy-drop"] == "every forward chain of node2 accepts these packets"
    fleet = docker_fleet()
    put_first(fleet, "FORWARD", ip(iif=BRIDGE, oif="eth0"), DROP)
    finding = first(diagnosed(fleet, "egress"))
    assert finding.cause == "container-port-filtered"
    assert "forward-policy-drop" not in dict(finding.rejected)


def test_nothing_is_said_of_a_filter_that_was_not_read():
    fleet = without_masquerade()
    fleet.hosts["node2"].facts.root.facts["filter"] = {"error": "no root"}
    assert [cause for cause, _h, _s in loud(diagnosed(fleet, "egress"))] == ["unexplained-loss"]


# ---- forward-policy-drop


def test_a_forward_policy_without_the_accept_of_the_bridge():
    fleet = docker_fleet()
    kept = iptables("FORWARD", [jump("DOCKER-USER")], [ip(oif=BRIDGE), jump("DOCKER")], hook="forward", policy="drop")
    replace_chains(fleet, FORWARD=kept)
    case = diagnosed(fleet, "egress", "published")
    assert loud(case) == [("forward-policy-drop", ["node2"], "critical")]
    assert first(case).segment == "host-stack"
    assert first(case).explains == sorted(o.pair.id for o in case.broken)


def test_a_second_forward_chain_with_policy_drop():
    fleet = docker_fleet()
    rules(fleet).append(chain("forward", table="hardening", hook="forward", policy="drop"))
    case = diagnosed(fleet, "egress", "published")
    assert loud(case) == [("forward-policy-drop", ["node2"], "critical")]
    assert "nft insert rule inet hardening forward" in first(case).remedies[0].manual[0]


def test_a_policy_is_not_blamed_where_the_kernel_does_not_forward():
    fleet = docker_fleet()
    rules(fleet).append(chain("forward", table="hardening", hook="forward", policy="drop"))
    fleet.hosts["node2"].facts.root.sysctls["net.ipv4.ip_forward"] = 0
    assert [cause for cause, _h, _s in loud(diagnosed(fleet, "egress", "published"))] == ["ip-forward-zero"]


def test_overlay_pairs_do_not_cross_forward():
    fleet = docker_fleet()
    rules(fleet).append(chain("forward", table="hardening", hook="forward", policy="drop"))
    case = run_case(fleet, lambda pair, key: "timeout" if pair.kind == "overlay" and "node2" in pair.hosts else None)
    assert [cause for cause, _h, _s in loud(case)] == ["unexplained-loss"]


# ---- container-port-filtered


def test_a_rule_in_forward_for_one_port():
    fleet = docker_fleet()
    put_first(fleet, "FORWARD", ip(dst=f"{WEB}/32", protocol=6), port(80), DROP)
    case = diagnosed(fleet, "published")
    assert loud(case) == [("container-port-filtered", ["node2"], "critical")]
    assert "owner not known" in first(case).evidence[0].source


def test_a_rule_in_docker_user_is_the_operators_intent():
    fleet = docker_fleet()
    put_first(fleet, "DOCKER-USER", ip(iif="eth0", protocol=6), port(80), DROP, comment="ticket 7")
    case = diagnosed(fleet, "published")
    assert loud(case) == [("container-port-filtered", ["node2"], "warning")]
    assert "ticket 7" in first(case).summary
    assert "the operator" in first(case).evidence[0].source
    assert "ticket 7" in first(case).remedies[0].manual[0]


def test_a_chain_that_docker_user_leads_to_is_the_operators_too():
    fleet = docker_fleet()
    put_first(fleet, "DOCKER-USER", ip(iif="eth0"), jump("SITE"))
    rules(fleet).append(iptables("SITE", [ip(protocol=6), port(80), DROP]))
    assert loud(diagnosed(fleet, "published")) == [("container-port-filtered", ["node2"], "warning")]


def test_a_rule_of_the_engines_own_is_left_to_the_engine():
    fleet = docker_fleet()
    put_first(fleet, "DOCKER", ip(iif=f"!{BRIDGE}", oif=BRIDGE), DROP)
    case = diagnosed(fleet, "published")
    assert loud(case) == [("container-port-filtered", ["node2"], "critical")]
    assert "systemctl restart docker" in first(case).remedies[0].manual[1]


@pytest.mark.parametrize(
    "rule",
    [
        [ip(src="203.0.113.7/32"), DROP],
        [ip(iif="eth0", protocol=6), port(3306), DROP],
        [ip(iif="eth1"), DROP],
        [states("invalid"), DROP],
    ],
    ids=["another address", "another port", "another interface", "invalid packets"],
)
def test_rules_that_do_not_concern_the_pair_are_not_blamed(rule: list[t.Any]):
    fleet = docker_fleet()
    put_first(fleet, "DOCKER-USER", *rule)
    assert [cause for cause, _h, _s in loud(diagnosed(fleet, "published", "egress"))] == ["unexplained-loss"] * 2


def test_the_answers_of_a_container_are_followed_too():
    fleet = docker_fleet()
    body = chain("output", [ip(protocol=6), port(80, "sport"), DROP], table="guard", hook="output")
    fleet.hosts["node2"].facts.namespace("32").facts["filter"] = filter_of(body)
    case = diagnosed(fleet, "published", "hairpin")
    assert loud(case) == [("container-port-filtered", ["node2"], "critical")]
    assert first(case).segment == "container"
    assert "nsenter --net=/proc/302/ns/net" in (first(case).evidence[0].verify or "")


def test_a_port_closed_in_a_container_of_the_overlay():
    fleet = docker_fleet()
    body = chain("input", [ip(protocol=6), port(80), DROP], table="guard", hook="input")
    fleet.hosts["node2"].facts.namespace("12").facts["filter"] = filter_of(body)

    def hit(pair: Pair, key: str) -> str | None:
        meant = pair.kind == "overlay" and pair.dst.host == "node2" and key in ("tcp:80", "http:80")
        return "timeout" if meant else None

    case = run_case(fleet, hit)
    assert loud(case) == [("container-port-filtered", ["node2"], "critical")]
    assert first(case).explains == sorted(o.pair.id for o in case.broken)


def test_a_bridge_table_in_the_overlays_namespace():
    fleet = docker_fleet()
    body = chain("forward", [ip(), DROP], family="bridge", table="guard", hook="forward")
    fleet.hosts["node2"].facts.namespace("22").facts["filter"] = filter_of(body)
    case = run_case(fleet, lambda pair, key: "timeout" if pair.kind == "overlay" and "node2" in pair.hosts else None)
    assert loud(case) == [("container-port-filtered", ["node2"], "critical")]
    assert first(case).segment == "bridge"


def test_a_containers_way_to_its_own_hosts_ports_is_a_warning():
    fleet = docker_fleet()
    rules(fleet).append(iptables("INPUT", [ip(iif="eth0"), ACCEPT], hook="input", policy="drop"))
    case = diagnosed(fleet, "hairpin")
    assert loud(case) == [("container-port-filtered", ["node2"], "warning")]


def counted(fleet: Fleet, ref: str, first: tuple[int, int], rest: int, second: int) -> Case:
    """Both rounds with a rule's counter read around them."""
    broken = fails("published")
    plans = {"first": first_round(fleet)}
    plans["again"] = [pair for pair in plans["first"] if broken(pair, "tcp:8080") or pair.kind == "host"]
    values = {"before": first[0], "after": first[1], "quiet": first[1] + rest, "again": first[1] + rest + second}
    for host in fleet.answering:
        base = host.facts.facts
        for at, (label, value) in enumerate(values.items()):
            facts = copy.deepcopy(base)
            facts.update(started=10.0 * at, finished=10.0 * at + 1)
            facts["namespaces"][0]["counters"]["filter"] = {ref: [value, value * 60]}
            host.snapshots[label] = HostFacts(host.name, facts)
        for label, pairs in plans.items():
            results = [row for pair in pairs if pair.src.host == host.name for row in answer(pair, broken)]
            host.probes[label] = {"results": results, "missing": []}
    case = Case(fleet, observe(fleet, plans))
    decide_all(case)
    return case


@pytest.mark.parametrize(
    ("second", "cause"), [(4, "container-port-filtered"), (0, "unexplained-loss")], ids=["tied", "not tied"]
)
def test_a_rule_that_may_drop_is_blamed_by_its_counter_alone(second: int, cause: str):
    fleet = docker_fleet()
    put_first(fleet, "DOCKER-USER", ip(iif="eth0"), LIMIT, DROP)
    case = counted(fleet, "nft:ip:filter:DOCKER-USER:new", (0, 4), 0, second)
    assert [name for name, _h, _s in loud(case)] == [cause]


# ---- docker28-raw-drop


NFT_GUARD = f'iifname != "{BRIDGE}" ip daddr {WEB} drop'
LEGACY_GUARD = f"-d {WEB}/32 ! -i {BRIDGE} -j DROP"


def guard(packets: int, text: str = NFT_GUARD) -> t.Any:
    raw = iptables("PREROUTING", [ip(dst=f"{WEB}/32", iif=f"!{BRIDGE}"), DROP], table="raw", hook="prerouting")
    raw["rules"][0].update(text=text, counter=[packets, packets * 84])
    return {**raw, "priority": -300}


@pytest.mark.parametrize("text", [NFT_GUARD, LEGACY_GUARD])
def test_packets_routed_to_a_container_address_are_told(text: str):
    fleet = docker_fleet()
    rules(fleet).append(guard(5, text))
    case = run_case(fleet)
    assert (loud(case), quiet(case)) == ([], [("docker28-raw-drop", ["node2"])])
    assert "5 packet(s)" in next(f.summary for f in case.findings if f.cause == "docker28-raw-drop")


def test_the_guard_itself_is_ordinary():
    fleet = docker_fleet()
    rules(fleet).append(guard(0))
    assert quiet(run_case(fleet)) == []


# ---- published-port-rule-missing


def nat_docker(*more: t.Any) -> t.Any:
    return iptables("DOCKER", *more, [ip(iif=BRIDGE), RETURN], table="nat")


def test_a_stale_rule_leads_astray():
    fleet = docker_fleet()
    replace_chains(fleet, **{"NAT-DOCKER": nat_docker([ip(protocol=6), port(8080), dnat("172.17.0.99")])})
    case = diagnosed(fleet, "published", "hairpin")
    assert loud(case) == [("published-port-rule-missing", ["node2"], "critical")]
    assert "172.17.0.99:80" in first(case).summary
    assert first(case).explains == sorted(o.pair.id for o in case.broken)


def test_a_stale_rule_before_the_engines_own_is_all_that_has_to_go():
    """An engine that misses no rule would make none anew."""
    fleet = docker_fleet()
    own = [ip(iif=f"!{BRIDGE}", protocol=6), port(8080), dnat(WEB)]
    docker = nat_docker([ip(protocol=6), port(8080), dnat("172.17.0.99")], own)
    for number, address in enumerate(("172.17.0.99", WEB)):
        docker["rules"][number]["text"] = f"-p tcp --dport 8080 -j DNAT --to-destination {address}:80"
    replace_chains(fleet, **{"NAT-DOCKER": docker})
    (remedy,) = first(diagnosed(fleet, "published", "hairpin")).remedies
    assert (remedy.role, remedy.disruptive) == (None, False)
    rule = docker["rules"][0]["text"]
    assert remedy.manual == (f"on node2: iptables -t nat -D DOCKER 1   # {rule}",)


def test_where_the_proxy_answers_a_missing_rule_is_worth_knowing_and_no_more():
    fleet = docker_fleet()
    replace_chains(fleet, **{"NAT-DOCKER": nat_docker()})
    case = run_case(fleet)
    assert (loud(case), quiet(case)) == ([], [("published-port-rule-missing", ["node2"])])


def test_without_rule_and_proxy_nothing_answers():
    fleet = docker_fleet()
    replace_chains(fleet, **{"NAT-DOCKER": nat_docker()})
    root = fleet.hosts["node2"].facts.root.facts
    root["sockets"] = [row for row in root["sockets"] if row["port"] != 8080]
    case = diagnosed(fleet, "published", "hairpin", status="refused")
    assert loud(case) == [("published-port-rule-missing", ["node2"], "critical")]
    assert first(case).explains == sorted(o.pair.id for o in case.broken)


def test_a_proxy_that_is_gone_is_missed_by_the_hosts_own_containers_alone():
    fleet = docker_fleet()
    root = fleet.hosts["node2"].facts.root.facts
    root["sockets"] = [row for row in root["sockets"] if row["port"] != 8080]
    case = diagnosed(fleet, "hairpin", status="refused")
    assert loud(case) == [("published-port-rule-missing", ["node2"], "warning")]


def test_networks_in_mode_routed_have_no_translation():
    fleet = docker_fleet()
    replace_chains(fleet, **{"NAT-DOCKER": nat_docker()})
    options = {"com.docker.network.bridge.gateway_mode_ipv4": "routed"}
    fleet.hosts["node2"].facts.facts["networks"][-1]["options"] = options
    assert quiet(run_case(fleet)) == []


def test_several_faults_have_a_finding_each():
    fleet = without_masquerade()
    rules(fleet, "node3").append(
        iptables("INPUT", [ip(protocol=17), port(4789, protocol="udp"), DROP], [LOCAL, ACCEPT], hook="input")
    )
    egress = fails("egress")
    case = run_case(
        fleet,
        lambda pair, key: "timeout" if pair.kind == "overlay" and "node3" in pair.hosts else egress(pair, key),
    )
    assert sorted(loud(case)) == [
        ("data-udp-blocked-host-fw", ["node3"], "critical"),
        ("masquerade-missing", ["node2"], "critical"),
    ]

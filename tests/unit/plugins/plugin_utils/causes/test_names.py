# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Name resolution decided on made fleets. The lab proves the same on real hosts."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.engine import checks_skipped
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Pair
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.plan import first_round
from tests.unit.made_fleet import make_fleet, run_case
from tests.unit.plugins.plugin_utils.causes.docker_fleet import (
    BRIDGE,
    docker_fleet,
    first,
    ip,
    iptables,
    port,
    replace_chains,
)
from tests.unit.plugins.plugin_utils.filter_eval.rulesets import DROP

Facts = dict[str, t.Any]
UPSTREAM = ["192.0.2.1"]


def container_of(fleet: Fleet, number: int) -> Facts:
    return fleet.hosts[f"node{number}"].facts.facts["containers"][0]


def namespace_of(fleet: Fleet, number: int) -> Facts:
    return fleet.hosts[f"node{number}"].facts.facts["namespaces"][1]


def translation(port: int = 40000) -> Facts:
    """The filter of a container's namespace as its engine makes it."""
    rule = {
        "ref": "nft:ip:nat:OUTPUT:1",
        "handle": 1,
        "comment": None,
        "counter": [0, 0],
        "text": f"ip daddr 127.0.0.11 udp dport 53 -j DNAT --to-destination 127.0.0.11:{port}",
        "exprs": [
            {"name": "meta", "key": "l4proto", "dreg": 0},
            {"name": "cmp", "sreg": 0, "op": "eq", "data": "11"},
            {"name": "payload", "base": "network", "offset": 16, "len": 4, "dreg": 0},
            {"name": "cmp", "sreg": 0, "op": "eq", "data": "7f00000b"},
            {"name": "payload", "base": "transport", "offset": 2, "len": 2, "dreg": 0},
            {"name": "cmp", "sreg": 0, "op": "eq", "data": "0035"},
            {
                "name": "target",
                "target": "DNAT",
                "rev": 2,
                "info": {"addresses": ["127.0.0.11", "127.0.0.11"], "ports": [port, port], "flags": []},
            },
        ],
    }
    chain = {
        "backend": "nft",
        "family": "ip",
        "table": "nat",
        "name": "OUTPUT",
        "ref": "nft:ip:nat:OUTPUT",
        "hook": "output",
        "type": "nat",
        "priority": -100,
        "policy": "accept",
        "policy_counter": None,
        "devices": [],
        "rules": [rule],
    }
    return {"error": None, "legacy_tables": {"ip": [], "ip6": []}, "chains": [chain], "sets": [], "notes": []}


def named_fleet(count: int = 3) -> Fleet:
    """Every container asks the engine's DNS, and the engine its host's resolver; one of each host has a way out."""
    fleet = docker_fleet(count)
    for number in range(1, count + 1):
        facts = fleet.hosts[f"node{number}"].facts.facts
        facts["networks"][1].update(name="front", options={"com.docker.network.bridge.name": "docker0"})
        for container, namespace in zip(facts["containers"], (facts["namespaces"][1], facts["namespaces"][3])):
            container["dns"] = {
                "nameservers": ["127.0.0.11"],
                "search": [],
                "options": [],
                "upstreams": list(UPSTREAM),
                "mounted": False,
            }
            container["network_mode"] = container["endpoints"][0]["network"]
            namespace["filter"] = translation()
            resolver = {"protocol": "udp", "family": 4, "ip": "127.0.0.11", "port": 40000}
            namespace["sockets"] = [*namespace["sockets"], resolver]
    return fleet


def names_of(host: str, status: str = "timeout") -> t.Callable[[Pair, str], str | None]:
    def broken(pair: Pair, key: str) -> str | None:
        asks = key == "dns" and pair.src.host == host and pair.src.name.startswith("app")
        return status if asks else None

    return broken


def seen(case: t.Any) -> list[tuple[str, list[str], str]]:
    return [(f.cause, f.hosts, f.severity) for f in case.findings if f.cause != "posture"]


def test_names_that_resolve_are_no_news():
    assert seen(run_case(named_fleet())) == []


def test_an_upstream_costs_one_question_per_host_and_one_for_the_host():
    fleet = named_fleet(5)
    asked = [p for p in first_round(fleet) if p.kind == "upstream"]
    assert len(asked) == 10
    assert {p.src.kind for p in asked} == {"container", "host"}
    assert all(p.probes[0].options["name"].endswith(".invalid.") for p in asked)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda ns: ns.update(filter={**translation(), "chains": []}), "no rule translates port 53 to"),
        (lambda ns: ns.update(filter=translation(40001)), "translated to 40001, where nothing listens"),
        (lambda ns: ns.update(filter={**translation(), "chains": []}, sockets=ns["sockets"][:1]), "no socket"),
    ],
)
def test_a_question_that_cannot_arrive_is_embedded_dns_broken(change, why):
    fleet = named_fleet()
    change(namespace_of(fleet, 2))
    case = run_case(fleet, names_of("node2", "refused"))
    assert seen(case) == [("embedded-dns-broken", ["node2"], "critical")]
    assert why in first(case).summary
    assert {o.pair.id for o in case.broken} == set(first(case).explains)


def test_an_engine_that_answers_nothing_is_embedded_dns_broken_too():
    case = run_case(named_fleet(), names_of("node2"))
    assert seen(case) == [("embedded-dns-broken", ["node2"], "critical")]
    assert "although rules and socket are there" in first(case).summary


def test_rules_that_nobody_read_are_not_blamed():
    fleet = named_fleet()
    namespace_of(fleet, 2)["filter"] = {"error": "permission denied", "chains": []}
    case = run_case(fleet, names_of("node2", "refused"))
    assert "embedded-dns-broken" not in {f.cause for f in case.findings}


def test_the_dns_of_an_engine_that_is_down_is_the_engines_fault():
    fleet = named_fleet()
    fleet.hosts["node2"].facts.facts["engine"] = {"state": "down", "error": "Connection refused"}
    namespace_of(fleet, 2)["filter"] = {**translation(), "chains": []}
    case = run_case(fleet, names_of("node2", "refused"))
    assert seen(case) == [("engine-down", ["node2"], "critical")]


def bypass(fleet: Fleet, **dns: t.Any) -> Facts:
    container = container_of(fleet, 2)
    container["dns"] = {"nameservers": ["192.0.2.1"], "search": [], "options": [], "upstreams": [], **dns}
    return container


def test_a_resolv_conf_without_the_engine_is_container_dns_bypassed():
    fleet = named_fleet()
    bypass(fleet, mounted=True)
    case = run_case(
        fleet, lambda p, k: "nxdomain" if k == "dns" and p.src.host == "node2" and p.kind == "overlay" else None
    )
    assert seen(case) == [("container-dns-bypassed", ["node2"], "critical")]
    assert "mounted over" in first(case).evidence[0].source


def test_a_bypass_whose_names_resolve_all_the_same_is_only_worth_knowing():
    fleet = named_fleet()
    bypass(fleet)
    assert seen(run_case(fleet)) == [("container-dns-bypassed", ["node2"], "info")]


@pytest.mark.parametrize("mode", ["host", "none", "container:abc"])
def test_a_container_without_a_resolver_of_its_own_bypasses_nothing(mode):
    fleet = named_fleet()
    bypass(fleet)["network_mode"] = mode
    assert "container-dns-bypassed" not in {f.cause for f in run_case(fleet).findings}


@pytest.mark.parametrize(
    "network", [{"name": "bridge"}, {"options": {"com.docker.network.bridge.default_bridge": "true"}}]
)
def test_the_default_bridge_has_no_embedded_dns_to_bypass(network):
    fleet = named_fleet()
    for host in fleet.hosts.values():
        host.facts.facts["networks"][0].update(driver="bridge", scope="local", **network)
    bypass(fleet)
    case = run_case(fleet)
    assert [f.cause for f in case.findings if f.cause == "container-dns-bypassed"] == []


def upstream_of(hosts: t.Container[str | None], kinds: t.Container[str], status: str = "timeout"):
    def broken(pair: Pair, key: str) -> str | None:
        return status if pair.kind == "upstream" and pair.src.host in hosts and pair.src.kind in kinds else None

    return broken


@pytest.mark.parametrize("kinds", [("container",), ("container", "host")])
def test_a_resolver_that_one_host_does_not_reach_is_upstream_dns_unreachable(kinds):
    case = run_case(named_fleet(), upstream_of(["node2"], kinds))
    assert seen(case) == [("upstream-dns-unreachable", ["node2"], "critical")]
    summary = first(case).summary
    assert ("neither does the host itself" in summary) == ("host" in kinds)
    assert UPSTREAM[0] in summary


def test_the_rule_of_the_host_that_drops_the_question_is_named():
    fleet = named_fleet()
    rule = [ip(iif=BRIDGE, protocol=17), port(53, protocol="udp"), DROP]
    replace_chains(fleet, FORWARD=iptables("FORWARD", rule, hook="forward"))
    case = run_case(fleet, upstream_of(["node2"], ("container",)))
    found = next(f for f in case.findings if f.cause == "upstream-dns-unreachable")
    assert any(row.source.startswith("packet filter") for row in found.evidence)


def test_hosts_that_miss_one_resolver_together_are_one_finding():
    case = run_case(named_fleet(), upstream_of(["node2", "node3"], ("container",)))
    assert seen(case) == [("upstream-dns-unreachable", ["node2", "node3"], "critical")]


@pytest.mark.parametrize("status", ["nxdomain", "nodata", "ok"])
def test_any_answer_proves_the_upstream(status):
    case = run_case(named_fleet(), upstream_of(["node1", "node2", "node3"], ("container", "host"), status))
    assert seen(case) == []


def test_a_fleet_without_any_resolver_is_worth_knowing_and_no_more():
    case = run_case(named_fleet(), upstream_of(["node1", "node2", "node3"], ("container", "host")))
    assert seen(case) == [("upstream-dns-unreachable", ["node1", "node2", "node3"], "info")]
    assert case.broken == []
    assert any("no resolver answers anybody" in row["why"] for row in checks_skipped(case))


def test_a_resolver_that_fails_the_host_in_the_same_way_did_get_the_question():
    case = run_case(named_fleet(), upstream_of(["node2"], ("container", "host"), "servfail"))
    assert seen(case) == []
    alone = run_case(named_fleet(), upstream_of(["node2"], ("container",), "servfail"))
    assert seen(alone) == [("upstream-dns-unreachable", ["node2"], "critical")]


def test_what_only_the_host_does_not_resolve_is_not_container_networking():
    assert seen(run_case(named_fleet(), upstream_of(["node2"], ("host",)))) == []


def test_a_container_whose_whole_way_out_is_broken_has_another_fault():
    fleet = named_fleet()
    fleet.hosts["node2"].facts.root.sysctls["net.ipv4.ip_forward"] = 0

    def cut(pair: Pair, key: str) -> str | None:
        out = pair.kind in ("egress", "upstream") and pair.src.kind == "container"
        return "timeout" if out and pair.src.host == "node2" else None

    case = run_case(fleet, cut)
    assert seen(case) == [("ip-forward-zero", ["node2"], "critical")]
    assert {o.pair.id for o in case.broken} == set(first(case).explains)


def test_facts_without_resolvers_ask_and_say_nothing():
    fleet = make_fleet(3)
    container_of(fleet, 2)["dns"] = {}
    assert not [p for p in first_round(fleet) if p.kind == "upstream"]
    assert seen(run_case(fleet)) == []

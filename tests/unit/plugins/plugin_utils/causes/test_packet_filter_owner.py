# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a rule that drops the tunnel is called, whose it is, and in whose words it is repaired."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet
from tests.unit.made_fleet import run_case
from tests.unit.plugins.plugin_utils.causes.docker_fleet import (
    docker_fleet,
    first,
    ip,
    iptables,
    loud,
    port,
    quiet,
    rules,
    states,
)
from tests.unit.plugins.plugin_utils.filter_eval.rulesets import ACCEPT, DROP, LIMIT, chain, jump, udp

TUNNEL = (ip(protocol=17), port(4789, protocol="udp"))


def lost(fleet: Fleet) -> Case:
    return run_case(fleet, lambda pair, key: "timeout" if pair.kind == "overlay" and "node2" in pair.hosts else None)


def dropped_by(*chains: t.Any) -> Fleet:
    fleet = docker_fleet()
    rules(fleet).extend(chains)
    return fleet


def named(chain_: t.Any, comment: str | None = None, text: str = "drop") -> t.Any:
    chain_["rules"][-1].update(comment=comment, text=text)
    return chain_


def through(name: str, comment: str | None = None) -> Fleet:
    """INPUT jumps to a chain of this name, which drops the tunnel."""
    return dropped_by(
        iptables("INPUT", [jump(name)], hook="input"), named(iptables(name, [*TUNNEL, DROP]), comment=comment)
    )


# ---- nft-basechain-override


def second(**more: t.Any) -> t.Any:
    return {**chain("input", table="guard", hook="input", priority=10, policy="drop"), **more}


def test_an_accept_in_one_base_chain_does_not_help_against_another():
    fleet = dropped_by(iptables("INPUT", [*TUNNEL, ACCEPT], hook="input"), second())
    case = lost(fleet)
    assert loud(case) == [("nft-basechain-override", ["node2"], "critical")]
    evidence = next(e for e in first(case).evidence if "another base chain" in e.source)
    assert "ip filter INPUT: `1`" in evidence.observed
    assert first(case).explains == sorted(o.pair.id for o in case.broken)


def test_an_accept_in_a_chain_that_is_jumped_to_counts_too():
    fleet = dropped_by(iptables("INPUT", [jump("SITE")], hook="input"), iptables("SITE", [*TUNNEL, ACCEPT]), second())
    assert loud(lost(fleet)) == [("nft-basechain-override", ["node2"], "critical")]


@pytest.mark.parametrize(
    "other",
    [
        iptables("INPUT", hook="input"),
        iptables("INPUT", [states("established"), ACCEPT], hook="input"),
        iptables("INPUT", [*TUNNEL, LIMIT, ACCEPT], hook="input"),
        iptables("OUTPUT", [*TUNNEL, ACCEPT], hook="output"),
    ],
    ids=["a policy", "established", "at a limited rate", "at another hook"],
)
def test_what_is_no_accept_for_the_tunnel(other: t.Any):
    assert loud(lost(dropped_by(other, second()))) == [("data-udp-blocked-host-fw", ["node2"], "critical")]


# ---- legacy-nft-mix


def legacy(*chains: t.Any) -> list[t.Any]:
    found = []
    for one in chains:
        text = one["ref"].replace("nft:", "legacy:")
        kept = [{**rule, "ref": rule["ref"].replace("nft:", "legacy:")} for rule in one["rules"]]
        found.append({**one, "backend": "legacy", "ref": text, "rules": kept})
    return found


def test_a_drop_in_legacy_tables_beside_an_engine_that_uses_nf_tables():
    case = lost(dropped_by(*legacy(iptables("INPUT", [*TUNNEL, DROP], hook="input"))))
    assert loud(case) == [("legacy-nft-mix", ["node2"], "critical")]
    assert (first(case).evidence[0].verify or "").startswith("iptables-legacy ")


def test_a_host_whose_iptables_is_the_legacy_one_throughout():
    fleet = docker_fleet()
    kept = rules(fleet)
    kept[:] = legacy(*kept, iptables("INPUT", [*TUNNEL, DROP], hook="input"))
    kept.append(chain("count", [udp(53)], hook="input", table="site"))
    assert loud(lost(fleet)) == [("data-udp-blocked-host-fw", ["node2"], "critical")]


def test_legacy_tables_that_are_empty_are_nothing():
    fleet = dropped_by(*legacy(iptables("INPUT", hook="input"), iptables("FORWARD", hook="forward")))
    case = run_case(fleet)
    assert (loud(case), quiet(case)) == ([], [])


# ---- calico-drops-foreign-vxlan


def test_calicos_rule_against_foreign_vxlan():
    fleet = through("cali-INPUT", "cali:abc Drop IPv4 VXLAN packets from non-allowed hosts")
    case = lost(fleet)
    assert loud(case) == [("calico-drops-foreign-vxlan", ["node2"], "critical")]
    assert any("externalNodesList" in line for line in first(case).remedies[0].manual)


def test_another_rule_of_calicos_is_a_rule_that_drops():
    assert loud(lost(through("cali-INPUT", "cali:abc host endpoint policy"))) == [
        ("data-udp-blocked-host-fw", ["node2"], "critical")
    ]


# ---- owners


@pytest.mark.parametrize(
    ("name", "owner", "words"),
    [
        ("ufw-user-input", "ufw", "ufw allow from 192.0.2.1 to any port 4789 proto udp"),
        ("IN_public_deny", "firewalld", 'firewall-cmd --permanent --add-rich-rule=\'rule family="ipv4"'),
        ("KUBE-FIREWALL", "kube-proxy", "kube-proxy made the rule"),
        ("DOCKER-USER", "the operator", "ip filter DOCKER-USER"),
        ("LIBVIRT_INP", "libvirt", "libvirt made the rule"),
        ("HARDENING", "not known", "from 192.0.2.1, 192.0.2.3: udp/4789"),
    ],
)
def test_the_owner_is_named_and_spoken_to_in_its_own_words(name: str, owner: str, words: str):
    finding = first(lost(through(name)))
    assert finding.cause == "data-udp-blocked-host-fw"
    assert finding.evidence[0].source.endswith(f"owner {owner}")
    assert any(words in line for line in finding.remedies[0].manual)
    if owner != "not known":
        assert finding.summary.endswith(f", of {owner}")


@pytest.mark.parametrize(("running", "owner"), [(True, "ufw"), (False, "not known")])
def test_the_policy_of_input_is_ufws_where_it_runs(running: bool, owner: str):
    fleet = dropped_by(
        iptables("INPUT", [jump("ufw-before-input")], hook="input", policy="drop"),
        iptables("ufw-before-input", [ip(protocol=6), ACCEPT], [ip(protocol=1), ACCEPT]),
    )
    fleet.hosts["node2"].facts.facts["host"]["managers"] = [{"name": "ufw", "running": running, "config": {}}]
    finding = next(f for f in lost(fleet).findings if f.cause == "data-udp-blocked-host-fw")
    assert finding.evidence[0].source.endswith(f"owner {owner}")


# ---- ruled out


def test_filters_that_let_the_tunnel_pass_are_ruled_out():
    case = lost(docker_fleet())
    assert "let udp/4789 pass" in dict(first(case).rejected)["data-udp-blocked-host-fw"]
    fleet = docker_fleet()
    fleet.hosts["node2"].facts.root.facts["filter"] = {"error": "no root"}
    assert "data-udp-blocked-host-fw" not in dict(first(lost(fleet)).rejected)

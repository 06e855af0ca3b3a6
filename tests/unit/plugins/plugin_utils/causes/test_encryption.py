# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Encrypted overlays on made fleets: the lab's kernel has no ESP, so most of them can be proven nowhere else."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes import encryption
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case, Finding
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.registry import decide_all
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Pair
from tests.unit.made_fleet import make_fleet, run_case

DROP = "meta l4proto udp -m policy --dir in --pol none udp dport 4789 -m u32 ? drop"
SET_MARK = "udp dport 4789 -m u32 ? -j MARK --set-xmark 0xd0c4e3/0xffffffff"
RISING, RESTING = (0, 6, 6, 12), (3, 3, 3, 3)


def facts(fleet: Fleet, number: int) -> dict[str, Any]:
    return fleet.hosts[f"node{number}"].facts.facts


def encrypt(fleet: Fleet, value: str = "") -> Fleet:
    for host in fleet.hosts.values():
        host.facts.facts["networks"][0]["options"] = {"encrypted": value}
    return fleet


def plain_twin(fleet: Fleet) -> Fleet:
    """A second overlay, not encrypted, with a container on every host."""
    for number, host in enumerate(fleet.hosts.values(), start=1):
        row = host.facts.facts
        row["networks"].append({**row["networks"][0], "id": "net2", "name": "open", "options": {}, "vnis": [4098]})
        row["networks"][1]["subnets"] = [{"subnet": "10.0.2.0/24", "gateway": "10.0.2.1"}]
        twin = copy.deepcopy(row["containers"][0])
        twin.update(id=f"d{number}", name=f"open-{number}", netns=f"3{number}")
        twin["endpoints"][0].update(network_id="net2", network="open", ip=f"10.0.2.{number}")
        row["containers"].append(twin)
        space = copy.deepcopy(row["namespaces"][1])
        space.update(key=f"3{number}", container=f"d{number}", path=f"/proc/{200 + number}/ns/net")
        space["addresses"][0]["ip"] = f"10.0.2.{number}"
        row["namespaces"].append(space)
    return fleet


def chain(name: str, hook: str, *rules: str, policy: str = "accept", table: str = "filter") -> dict[str, Any]:
    ref = f"nft:ip:{table}:{name}"
    return {
        "backend": "nft",
        "family": "ip",
        "table": table,
        "name": name,
        "hook": hook,
        "priority": 0,
        "ref": ref,
        "policy": policy,
        "policy_counter": None,
        "type": "filter",
        "devices": [],
        "rules": [
            {"ref": f"{ref}:{n}", "handle": n, "text": text, "counter": [0, 0], "comment": None, "exprs": OPAQUE}
            for n, text in enumerate(rules, start=1)
        ],
    }


OPAQUE = [{"match": "u32", "name": "match", "rev": 0, "unknown": True}]


def filtered(fleet: Fleet, number: int, *chains: dict[str, Any]) -> None:
    facts(fleet, number)["namespaces"][0]["filter"] = {"byteorder": "little", "chains": list(chains), "error": None}


def counting(case: Case, **counters: dict[str, tuple[int, ...]]) -> Case:
    """The case once more, with counters of hosts around both bursts: "xfrm.NAME" or the reference of a rule."""
    for name, rows in counters.items():
        host = case.fleet.hosts[name]
        for position, label in enumerate(("before", "after", "quiet", "again")):
            if label not in host.snapshots:
                space = {"key": host.facts.root.key, "kind": "host", "counters": {}}
                moment = {"started": 10.0 * position, "finished": 10.0 * position + 1, "namespaces": [space]}
                host.snapshots[label] = HostFacts(name, moment)
            held = copy.deepcopy(host.snapshots[label].root.counters)
            for key, values in rows.items():
                if key.startswith("xfrm."):
                    held.setdefault("xfrm", {})[key[5:]] = values[position]
                else:
                    held.setdefault("filter", {})[key] = [values[position], 0]
            host.snapshots[label].root.facts["counters"] = held
    for host in case.fleet.answering:
        second = host.snapshots.get("again")
        if second is not None:  # a second reading is of namespaces alone: no engine, no log, no packet filter
            second.facts.update(containers=[], networks=[], log={"patterns": {}}, swarm={})
            second.root.facts["filter"] = {"chains": []}
    again = Case(case.fleet, case.observations)
    decide_all(again)
    return again


def lost(*hosts: str, network: str = "app"):
    def broken(pair: Pair, key: str) -> str | None:
        meant = pair.kind == "overlay" and pair.network == network and set(hosts) <= set(pair.hosts)
        return "timeout" if meant else None

    return broken


def mine(case: Case) -> list[Finding]:
    """What concerns this family: its own causes, and whatever is louder than information."""
    own = {cause.id for cause in encryption.CAUSES}
    return [f for f in case.findings if f.cause in own or f.severity != "info"]


def named(findings: list[Finding]) -> list[tuple[str, str, list[str]]]:
    return [(f.cause, f.severity, f.hosts) for f in findings]


def only(case: Case, decide: Any) -> list[Finding]:
    return list(decide(Case(case.fleet, case.observations)))


# ---- encrypted-no-esp-kernel


def without_esp(fleet: Fleet, *numbers: int) -> None:
    for number in numbers:
        row = {"count": 4, "last": 1.0, "sample": "Failed Adding rSA{...}: function not implemented"}
        facts(fleet, number)["log"] = {"patterns": {"esp-failed": row}}


def test_a_kernel_without_a_state_for_what_it_sends_is_named():
    fleet = encrypt(make_fleet(2))
    without_esp(fleet, 1, 2)
    rows = {"xfrm.XfrmOutNoStates": RISING}
    case = counting(run_case(fleet, lost()), node1=rows, node2=rows)
    assert named(mine(case)) == [("encrypted-no-esp-kernel", "critical", ["node1", "node2"])]
    assert mine(case)[0].confidence == "confirmed"
    assert len(mine(case)[0].explains) == 2


def test_old_complaints_without_a_counter_that_moves_are_not_it():
    fleet = encrypt(make_fleet(2))
    without_esp(fleet, 1, 2)
    rows = {"xfrm.XfrmOutNoStates": RESTING}
    case = counting(run_case(fleet, lost()), node1=rows, node2=rows)
    assert [f.cause for f in mine(case)] == ["unexplained-loss"]
    assert ("encrypted-no-esp-kernel" in dict(mine(case)[0].rejected)) is True


def test_a_missing_module_says_it_before_anything_is_lost():
    fleet = encrypt(make_fleet(2))
    facts(fleet, 2)["host"]["modules"] = {"esp4": "absent"}
    assert named(mine(run_case(fleet))) == [("encrypted-no-esp-kernel", "info", ["node2"])]


def test_an_encrypted_network_without_containers_needs_no_esp():
    fleet = encrypt(make_fleet(2))
    for number in (1, 2):
        facts(fleet, number)["host"]["modules"] = {"esp4": "absent"}
        facts(fleet, number)["containers"] = []
    assert mine(run_case(fleet)) == []


# ---- encrypted-false-is-true


@pytest.mark.parametrize(("value", "said"), [("false", True), ("0", True), ("", False), ("true", False)])
def test_encrypted_false_is_true(value: str, said: bool):
    findings = mine(run_case(encrypt(make_fleet(3), value)))
    assert named(findings) == [("encrypted-false-is-true", "info", ["node1"])] * said


# ---- encrypted-stale-rules


def test_a_rule_of_a_network_that_is_gone_and_counts_our_probes_is_the_fault():
    fleet = make_fleet(3)
    filtered(fleet, 2, chain("INPUT", "input", DROP))
    case = counting(run_case(fleet, lost("node2")), node2={"nft:ip:filter:INPUT:1": RISING})
    assert named(mine(case)) == [("encrypted-stale-rules", "critical", ["node2"])]
    assert (mine(case)[0].confidence, mine(case)[0].direction) == ("confirmed", "in")


def test_a_rule_of_a_network_that_is_gone_and_counts_nothing_is_information():
    fleet = make_fleet(3)
    filtered(fleet, 2, chain("INPUT", "input", DROP))
    filtered(fleet, 3, chain("INPUT", "input", DROP), chain("OUTPUT", "output", SET_MARK, table="mangle"))
    case = counting(run_case(fleet), node2={"nft:ip:filter:INPUT:1": RESTING})
    assert named(mine(case)) == [("encrypted-stale-rules", "info", ["node2", "node3"])]


def test_marks_alone_break_nothing_unless_the_kernel_lacks_the_state():
    fleet = make_fleet(3)
    filtered(fleet, 2, chain("OUTPUT", "output", SET_MARK, table="mangle"))
    mark = {"nft:ip:mangle:OUTPUT:1": RISING}
    loss = run_case(fleet, lost("node2"))
    case = counting(loss, node2={**mark, "xfrm.XfrmOutNoStates": RESTING})
    assert sorted(f.cause for f in mine(case)) == ["encrypted-stale-rules", "unexplained-loss"]
    case = counting(loss, node2={**mark, "xfrm.XfrmOutNoStates": RISING})
    assert named(mine(case)) == [("encrypted-stale-rules", "critical", ["node2"])]
    assert mine(case)[0].direction == "out"


def test_the_rules_of_a_live_encrypted_network_are_its_own():
    fleet = plain_twin(encrypt(make_fleet(3)))
    filtered(fleet, 2, chain("INPUT", "input", DROP), chain("OUTPUT", "output", SET_MARK, table="mangle"))
    assert mine(run_case(fleet)) == []
    filtered(fleet, 2, chain("INPUT", "input", DROP, DROP))
    assert [f.cause for f in mine(run_case(fleet))] == ["encrypted-stale-rules"]


# ---- encrypted-inner-4789-input and esp-blocked by a host's filter


def test_what_comes_out_of_esp_needs_an_accept_of_its_own():
    """encrypted-inner-4789-input: INPUT drops by policy, and nothing accepts the decrypted packet."""
    fleet = encrypt(make_fleet(2))
    filtered(fleet, 2, chain("INPUT", "input", policy="drop"))
    case = run_case(fleet, lost())
    findings = only(case, encryption.decide_inner)
    assert named(findings) == [("encrypted-inner-4789-input", "critical", ["node2"])]
    assert len(findings[0].explains) == 2
    loud = [f.cause for f in case.findings if f.severity != "info"]
    assert loud == ["encrypted-inner-4789-input"]  # and not the tunnel port, which nothing plain needs here
    filtered(fleet, 2, chain("INPUT", "input", policy="accept"))
    assert only(case, encryption.decide_inner) == []


def test_a_plain_network_has_nothing_that_comes_out_of_esp():
    fleet = make_fleet(2)
    filtered(fleet, 2, chain("INPUT", "input", policy="drop"))
    assert only(run_case(fleet, lost()), encryption.decide_inner) == []


def test_a_hosts_own_filter_that_drops_esp_is_named_there():
    """esp-blocked, in the host's filter: the policy drops protocol 50."""
    fleet = encrypt(make_fleet(2))
    filtered(fleet, 2, chain("INPUT", "input", policy="drop"))
    findings = only(run_case(fleet, lost()), encryption.decide_esp_filtered)
    assert [(f.cause, f.hosts, f.segment) for f in findings] == [("esp-blocked", ["node2"], "host-filter-in")]


# ---- esp-blocked on the network


def test_only_encrypted_overlays_fail_so_the_network_drops_esp():
    fleet = plain_twin(encrypt(make_fleet(3)))
    for number in (1, 2, 3):
        filtered(fleet, number)
    rows = {"xfrm.XfrmOutNoStates": RESTING, "xfrm.XfrmInNoStates": RESTING}
    case = counting(run_case(fleet, lost("node2")), node1=rows, node2=rows, node3=rows)
    assert named(mine(case)) == [("esp-blocked", "critical", ["node2"])]
    assert (mine(case)[0].segment, mine(case)[0].confidence) == ("underlay", "likely")
    assert len(mine(case)[0].explains) == 4


def test_without_a_plain_overlay_that_passes_nobody_speaks_of_esp():
    case = run_case(encrypt(make_fleet(3)), lost("node2"))
    assert [f.cause for f in mine(case)] == ["unexplained-loss"]


# ---- encrypted-xtables-match-missing, windows-node-encrypted


def match_missing(fleet: Fleet) -> None:
    row = {
        "count": 2,
        "last": 1.0,
        "sample": "iptables: Extension u32 revision 0 not supported, missing kernel module?",
    }
    facts(fleet, 2)["log"] = {"patterns": {"xtables-match-missing": row}}
    facts(fleet, 2)["host"]["modules"] = {"xt_u32": "absent"}


def test_an_engine_without_the_match_has_no_rules_and_peers_refuse_it():
    """encrypted-xtables-match-missing"""
    fleet = encrypt(make_fleet(3))
    match_missing(fleet)
    filtered(fleet, 2, chain("INPUT", "input"))
    case = run_case(fleet, lost("node2"))
    assert named(mine(case)) == [("encrypted-xtables-match-missing", "critical", ["node2"])]
    assert "xt_u32" in mine(case)[0].summary


def test_an_old_line_about_a_match_is_nothing_once_the_rules_are_there():
    fleet = encrypt(make_fleet(3))
    match_missing(fleet)
    filtered(fleet, 2, chain("INPUT", "input", DROP))
    assert mine(run_case(fleet)) == []


def windows(fleet: Fleet) -> None:
    nodes = [{"id": "idw", "hostname": "win1", "os": "windows", "state": "ready", "role": "worker"}]
    facts(fleet, 1)["swarm"]["nodes"] = nodes


def test_a_windows_node_in_a_swarm_with_encrypted_networks_is_information():
    """windows-node-encrypted"""
    fleet = encrypt(make_fleet(2))
    windows(fleet)
    assert [(f.cause, f.severity) for f in mine(run_case(fleet))] == [("windows-node-encrypted", "info")]


def test_a_windows_nodes_task_that_is_asked_for_and_silent_is_critical():
    fleet = encrypt(make_fleet(2))
    windows(fleet)
    facts(fleet, 1)["swarm"]["tasks"] = [{"id": "t1", "node_id": "idw", "addresses": ["10.0.1.2/24"]}]
    case = run_case(fleet, lambda p, k: "timeout" if p.kind == "overlay" and p.dst.ip == "10.0.1.2" else None)
    assert [(f.cause, f.severity, len(f.explains)) for f in mine(case)] == [("windows-node-encrypted", "critical", 1)]


def test_windows_nodes_without_encryption_are_nobodys_business():
    fleet = make_fleet(2)
    windows(fleet)
    assert mine(run_case(fleet)) == []


def test_hosts_that_told_nothing_are_no_error():
    fleet = encrypt(make_fleet(3))
    for name in ("namespaces", "networks", "log", "host", "swarm"):
        facts(fleet, 2).pop(name, None)
    assert not [f for f in mine(run_case(fleet, lost("node3"))) if f.cause.startswith(("esp", "encrypted"))]

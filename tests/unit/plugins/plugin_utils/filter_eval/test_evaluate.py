# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What becomes of a packet: chains, certainty, paths. tests/system/test_filter_truth.py asks the kernel itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import (
    FORWARDED,
    INBOUND,
    OUTBOUND,
    Packet,
    concerns,
    counted,
    fate,
    path_fate,
    prepare,
)
from tests.unit.plugins.plugin_utils.filter_eval.rulesets import (
    ACCEPT,
    DROP,
    LIMIT,
    NOTRACK,
    REJECT,
    RETURN,
    UNKNOWN,
    chain,
    compare,
    dnat,
    filter_of,
    jump,
    lookup,
    make_set,
    mark,
    meta,
    payload,
    saddr,
    set_mark,
    state,
    udp,
)

VXLAN = Packet.vxlan("192.0.2.11", "192.0.2.12", 4789, iif="eth0", oif="", sport=50000)
SSH = Packet(src="192.0.2.11", dst="192.0.2.12", protocol="tcp", sport=50000, dport=22, iif="eth0", ct_state=("new",))


def refs(found: list[Any]) -> list[str]:
    return [ref.ref.removeprefix("nft:") for ref in found]


def at_input(*rules: Any, policy: str = "accept", **more: Any) -> dict[str, Any]:
    return chain("input", *rules, hook="input", policy=policy, **more)


class TestVerdicts:
    def test_an_empty_filter_accepts(self) -> None:
        found = path_fate(filter_of(), VXLAN, INBOUND)
        assert (found.verdict, found.drops, found.may_drop, found.notes) == ("accept", [], [], [])
        assert [hook for hook, _fate in found.steps] == ["ingress", "prerouting", "input"]

    def test_the_rule_that_drops_is_named(self) -> None:
        facts = filter_of(at_input([udp(4789), DROP]))
        found = fate(facts, VXLAN, "input")
        (ref,) = found.drops
        assert found.verdict == "drop"
        assert (ref.ref, ref.why, ref.verdict, ref.hook, ref.priority) == (
            "nft:inet:t:input:1",
            "rule",
            "drop",
            "input",
            0,
        )
        assert (ref.family, ref.table, ref.chain, ref.handle, ref.base) == ("inet", "t", "input", 1, "nft:inet:t:input")
        assert fate(facts, SSH, "input").verdict == "accept"

    def test_a_policy_is_named_as_the_chain(self) -> None:
        facts = filter_of(at_input([udp(53), ACCEPT], policy="drop", policy_counter=[4, 400]))
        (ref,) = fate(facts, VXLAN, "input").drops
        assert (ref.ref, ref.why, ref.text, ref.counter, ref.handle) == (
            "nft:inet:t:input",
            "policy",
            "policy drop",
            (4, 400),
            None,
        )

    def test_an_accept_is_final_in_its_own_base_chain_only(self) -> None:
        """The trap of CATALOGUE: an accept in one table, a drop in another."""
        late = at_input([udp(4789), DROP], table="guard", priority=10)
        found = fate(filter_of(late, at_input([udp(4789), ACCEPT])), VXLAN, "input")
        assert (found.verdict, refs(found.drops)) == ("drop", ["inet:guard:input:1"])

    def test_every_base_chain_that_would_drop_is_named_in_order(self) -> None:
        early, late = at_input([DROP], table="a", priority=-5), at_input([udp(4789), REJECT], table="b", priority=10)
        found = fate(filter_of(late, early), VXLAN, "input")
        assert refs(found.drops) == ["inet:a:input:1", "inet:b:input:1"]
        assert [ref.verdict for ref in found.drops] == ["drop", "reject"]

    def test_other_families_and_sleeping_tables_do_not_count(self) -> None:
        six, asleep = at_input([DROP], family="ip6"), at_input([DROP], table="z", dormant=True)
        facts = filter_of(six, asleep, at_input([DROP], family="bridge"))
        assert fate(facts, VXLAN, "input").verdict == "accept"
        assert fate(facts, Packet(family=6), "input").verdict == "drop"
        assert fate(facts, VXLAN, "bridge:input").verdict == "drop"

    def test_devices_decide_at_ingress(self) -> None:
        wire = chain("wire", [udp(4789), DROP], hook="ingress", family="netdev", devices=["eth0", "ens*"])
        facts = filter_of(wire)
        assert fate(facts, VXLAN, "ingress", "eth0").verdict == "drop"
        assert fate(facts, VXLAN, "ingress", "ens3").verdict == "drop"
        assert fate(facts, VXLAN, "ingress", "eth1").verdict == "accept"
        unsure = fate(facts, Packet.vxlan("192.0.2.11", "192.0.2.12", 4789), "ingress")
        assert (unsure.verdict, refs(unsure.may_drop)) == ("unknown", ["netdev:netdev:t:wire:1"[7:]])

    def test_what_could_not_be_read_is_unknown(self) -> None:
        found = fate(filter_of(error="nf_tables: no permission"), VXLAN, "input")
        assert (found.verdict, found.notes) == ("unknown", ["nf_tables: no permission"])
        assert fate(filter_of(at_input([DROP]), error="x"), VXLAN, "input").verdict == "drop"


class TestJumps:
    def test_a_user_chain_returns_to_its_caller(self) -> None:
        facts = filter_of(at_input([jump("u")], [DROP]), chain("u", [udp(53), ACCEPT], [RETURN], [ACCEPT]))
        assert refs(fate(facts, VXLAN, "input").drops) == ["inet:t:input:2"]

    def test_goto_does_not_come_back(self) -> None:
        facts = filter_of(at_input([jump("u", "goto")], [DROP]), chain("u", [udp(53), ACCEPT]))
        assert fate(facts, VXLAN, "input").verdict == "accept"
        facts = filter_of(at_input([jump("u", "goto")], [ACCEPT], policy="drop"), chain("u", [RETURN]))
        assert refs(fate(facts, VXLAN, "input").drops) == ["inet:t:input"]

    def test_the_rule_is_named_with_its_base_chain(self) -> None:
        facts = filter_of(at_input([jump("u")]), chain("u", [jump("v")]), chain("v", [udp(4789), DROP]))
        (ref,) = fate(facts, VXLAN, "input").drops
        assert (ref.ref, ref.base) == ("nft:inet:t:v:1", "nft:inet:t:input")

    def test_a_chain_that_was_not_read_is_unknown(self) -> None:
        found = fate(filter_of(at_input([jump("gone")])), VXLAN, "input")
        assert found.verdict == "unknown" and "gone" in found.notes[0]

    def test_endless_jumps_end(self) -> None:
        """The kernel refuses loops; facts can be anything."""
        found = fate(filter_of(at_input([jump("u")]), chain("u", [LIMIT, jump("u")], [jump("u")])), VXLAN, "input")
        assert found.verdict == "unknown"

    def test_a_verdict_map_takes_the_way_of_the_port(self) -> None:
        ports = make_set(
            "m", {"key": "12b5", "verdict": "jump", "chain": "u"}, {"key": "0016", "verdict": "accept"}, map="verdict"
        )
        rule = [*lookup(payload("transport", 2, 2), "m", dreg=-1)]
        facts = filter_of(at_input(rule, [DROP]), chain("u", [DROP]), sets=(ports,))
        assert refs(fate(facts, VXLAN, "input").drops) == ["inet:t:u:1"]
        assert fate(facts, SSH, "input").verdict == "accept"
        other = fate(facts, Packet.vxlan("192.0.2.11", "192.0.2.12", 8472), "input")
        assert refs(other.drops) == ["inet:t:input:2"]

    def test_an_unknown_port_may_take_any_way(self) -> None:
        ports = make_set("m", {"key": "12b5", "verdict": "drop"}, {"key": "0016", "verdict": "accept"}, map="verdict")
        facts = filter_of(at_input(lookup(payload("transport", 2, 2), "m", dreg=-1)), sets=(ports,))
        found = fate(facts, Packet(protocol="udp"), "input")
        assert (found.verdict, found.drops, refs(found.may_drop)) == ("unknown", [], ["inet:t:input:1"])


class TestCertainty:
    def test_a_limit_may_drop(self) -> None:
        found = fate(filter_of(at_input([udp(4789), LIMIT, DROP])), VXLAN, "input")
        assert (found.verdict, found.drops, refs(found.may_drop)) == ("unknown", [], ["inet:t:input:1"])
        assert found.notes == ["limit depends on other traffic"]

    def test_every_way_out_a_drop_is_a_drop_with_no_certain_rule(self) -> None:
        found = fate(filter_of(at_input([LIMIT, DROP], policy="drop")), VXLAN, "input")
        assert (found.verdict, found.drops, refs(found.may_drop)) == ("drop", [], ["inet:t:input:1", "inet:t:input"])

    def test_an_uncertain_accept_makes_later_drops_uncertain(self) -> None:
        found = fate(filter_of(at_input([UNKNOWN, ACCEPT], [udp(4789), DROP])), VXLAN, "input")
        assert (found.verdict, found.drops, refs(found.may_drop)) == ("unknown", [], ["inet:t:input:2"])

    def test_an_uncertain_jump_that_always_returns_changes_nothing(self) -> None:
        facts = filter_of(at_input([LIMIT, jump("u")], [udp(4789), DROP]), chain("u", [udp(53), ACCEPT], [RETURN]))
        assert refs(fate(facts, VXLAN, "input").drops) == ["inet:t:input:2"]

    def test_an_uncertain_match_that_cannot_hold_is_no_match(self) -> None:
        assert fate(filter_of(at_input([LIMIT, udp(53), DROP])), VXLAN, "input").verdict == "accept"

    def test_an_unknown_expression_is_no_guess(self) -> None:
        for strange in ({"name": "teleport", "unknown": True}, {"name": "cmp", "op": "eq"}, {"name": "bitwise"}):
            found = fate(filter_of(at_input([udp(4789), strange, DROP])), VXLAN, "input")
            assert (found.verdict, refs(found.may_drop)) == ("unknown", ["inet:t:input:1"])
            assert strange["name"] in found.notes[0]

    def test_an_unknown_target_may_drop(self) -> None:
        target = {"name": "target", "target": "TARPIT", "rev": 0, "unknown": True}
        found = fate(filter_of(at_input([udp(4789), target])), VXLAN, "input")
        assert (found.verdict, [ref.verdict for ref in found.may_drop]) == ("unknown", ["unknown"])

    def test_a_queue_may_drop(self) -> None:
        found = fate(filter_of(at_input([udp(4789), {"name": "queue", "num": 3}])), VXLAN, "input")
        assert (found.verdict, [ref.verdict for ref in found.may_drop]) == ("unknown", ["queue"])

    def test_fields_nobody_knows_may_match(self) -> None:
        facts = filter_of(at_input([saddr("192.0.2.99"), DROP]))
        assert fate(facts, VXLAN, "input").verdict == "accept"
        assert fate(facts, Packet(protocol="udp", dport=4789), "input").verdict == "unknown"

    def test_a_packet_of_which_nothing_is_known(self) -> None:
        facts = filter_of(at_input([udp(4789), DROP], [state("invalid"), DROP], [mark(1), DROP]))
        assert len(fate(facts, Packet(), "input").may_drop) == 3


class TestConntrack:
    def test_a_tunnel_packet_is_new_for_ever(self) -> None:
        facts = filter_of(at_input([state("established", "related"), ACCEPT], [udp(4789), state("new"), DROP]))
        assert refs(fate(facts, VXLAN, "input").drops) == ["inet:t:input:2"]

    def test_several_states_are_certain_where_each_is(self) -> None:
        facts = filter_of(at_input([state("established"), ACCEPT], [udp(4789), DROP]))
        either = Packet.vxlan("192.0.2.11", "192.0.2.12", 4789, ct_state=("new", "established"))
        found = fate(facts, either, "input")
        assert (found.verdict, found.drops, refs(found.may_drop)) == ("unknown", [], ["inet:t:input:2"])
        assert refs(fate(filter_of(at_input([udp(4789), DROP])), either, "input").drops) == ["inet:t:input:1"]

    def test_before_conntrack_every_packet_is_invalid(self) -> None:
        facts = filter_of(chain("raw", [state("new"), DROP], hook="prerouting", priority=-300))
        assert path_fate(facts, VXLAN, INBOUND).verdict == "accept"
        facts = filter_of(chain("late", [state("new"), DROP], hook="prerouting", priority=-150))
        assert path_fate(facts, VXLAN, INBOUND).verdict == "drop"

    def test_notrack_carries_on_along_the_path(self) -> None:
        raw = chain("raw", [udp(4789), NOTRACK], hook="prerouting", priority=-300)
        facts = filter_of(raw, at_input([state("untracked"), ACCEPT], policy="drop"))
        found = path_fate(facts, VXLAN, INBOUND)
        assert (found.verdict, [ref.verdict for ref in found.changes]) == ("accept", ["notrack"])
        assert found.packet.ct_state == ("untracked",)
        assert path_fate(facts, SSH, INBOUND).verdict == "drop"

    def test_nat_chains_see_new_flows_only(self) -> None:
        facts = filter_of(chain("n", [DROP], hook="prerouting", priority=-100, kind="nat"))
        assert fate(facts, VXLAN, "prerouting").verdict == "drop"
        for other in ("established", "untracked", "invalid"):
            packet = Packet.vxlan("192.0.2.11", "192.0.2.12", 4789, ct_state=(other,))
            assert fate(facts, packet, "prerouting").verdict == "accept"


class TestPaths:
    def test_a_mark_is_carried_to_later_hooks(self) -> None:
        marking = chain("m", [udp(4789), set_mark(7)], hook="prerouting", priority=-150)
        facts = filter_of(marking, at_input([mark(7), DROP]))
        assert refs(path_fate(facts, VXLAN, INBOUND).drops) == ["inet:t:input:1"]
        assert path_fate(facts, SSH, INBOUND).verdict == "accept"
        assert fate(facts, VXLAN, "input").verdict == "unknown"  # by itself, nobody knows what set the mark

    def test_a_mark_that_may_be_set_is_unknown(self) -> None:
        marking = chain("m", [LIMIT, set_mark(7)], hook="prerouting", priority=-150)
        found = path_fate(filter_of(marking, at_input([mark(7), DROP])), VXLAN, INBOUND)
        assert (found.verdict, refs(found.may_drop)) == ("unknown", ["inet:t:input:1"])

    def test_dnat_changes_what_later_hooks_see(self) -> None:
        nat = chain("n", [udp(4789), *dnat("172.17.0.2", 9)], hook="prerouting", priority=-100, kind="nat", family="ip")
        forward = chain("forward", [udp(9), DROP], hook="forward")
        found = path_fate(filter_of(nat, forward), VXLAN, FORWARDED)
        assert (found.verdict, [ref.verdict for ref in found.changes]) == ("drop", ["dnat"])
        assert (found.packet.dst, found.packet.dport, found.packet.dnat) == ("172.17.0.2", 9, True)

    def test_dnat_that_may_happen_leaves_the_address_unknown(self) -> None:
        nat = chain("n", [LIMIT, *dnat("172.17.0.2")], hook="prerouting", priority=-100, kind="nat", family="ip")
        found = path_fate(filter_of(nat), VXLAN, INBOUND)
        assert (found.packet.dst, found.packet.dport, found.packet.dnat) == (None, 4789, None)

    def test_interfaces_follow_the_hook(self) -> None:
        name = b"eth0".ljust(16, b"\0")
        leaving = chain("o", [*compare(meta("oifname"), name), DROP], hook="postrouting")
        packet = Packet.vxlan("192.0.2.11", "192.0.2.12", 4789, iif="", oif="eth0")
        assert path_fate(filter_of(leaving), packet, OUTBOUND).verdict == "drop"
        at_output = chain("o", [*compare(meta("iifname"), name), DROP], hook="output")
        assert path_fate(filter_of(at_output), VXLAN, OUTBOUND).verdict == "accept"

    def test_routing_takes_one_from_the_ttl(self) -> None:
        dying = chain("f", [*compare(payload("network", 8, 1), b"\x3f"), DROP], hook="forward")
        packet = Packet.vxlan("192.0.2.11", "192.0.2.12", 4789, ttl=64)
        assert path_fate(filter_of(dying), packet, FORWARDED).verdict == "drop"

    def test_the_verdict_of_a_path_is_the_worst_of_its_hooks(self) -> None:
        maybe = chain("p", [LIMIT, DROP], hook="prerouting")
        found = path_fate(filter_of(maybe, at_input([DROP])), VXLAN, INBOUND)
        assert (found.verdict, refs(found.drops), refs(found.may_drop)) == ("drop", ["inet:t:input:1"], ["inet:t:p:1"])


class TestEvidence:
    FACTS = filter_of(
        at_input([udp(4789), ACCEPT], [jump("u")], [udp(53), DROP], policy="drop"),
        chain("u", [udp(4789), DROP], [saddr("192.0.2.99"), DROP], [udp(4789), NOTRACK]),
        chain("n", [udp(4789), *dnat("172.17.0.2")], hook="prerouting", priority=-100, kind="nat", family="ip"),
    )

    def test_rules_that_could_match_whatever_rules_before_do(self) -> None:
        found = [(ref.verdict, ref.ref.removeprefix("nft:")) for ref in concerns(self.FACTS, VXLAN)]
        assert found == [("dnat", "ip:t:n:1"), ("drop", "inet:t:u:1"), ("drop", "inet:t:input")]
        assert concerns(self.FACTS, VXLAN, hooks=("output",)) == []

    def test_less_knowledge_concerns_more_rules(self) -> None:
        known, unknown = concerns(self.FACTS, VXLAN), concerns(self.FACTS, Packet(protocol="udp"))
        assert {ref.ref for ref in known} < {ref.ref for ref in unknown}

    def test_counted_lists_rules_and_policies(self) -> None:
        facts = copy.deepcopy(self.FACTS)
        facts["chains"][0]["policy_counter"] = [1, 100]
        facts["chains"][1]["rules"][0]["counter"] = [2, 200]
        assert counted(facts) == {"nft:inet:t:input": (1, 100), "nft:inet:t:u:1": (2, 200)}

    def test_a_prepared_filter_answers_alike_and_nothing_is_changed(self) -> None:
        before = copy.deepcopy(self.FACTS)
        ready = prepare(self.FACTS)
        for packet in (VXLAN, SSH, Packet()):
            assert path_fate(ready, packet, INBOUND) == path_fate(self.FACTS, packet, INBOUND)
        assert before == self.FACTS and prepare(ready) is ready


@pytest.mark.parametrize(
    "hook", ["prerouting", "input", "forward", "output", "postrouting", "arp:input", "bridge:forward"]
)
@pytest.mark.parametrize("family", [4, 6, 0])
def test_any_packet_at_any_hook(family: int, hook: str) -> None:
    facts = filter_of(*(chain("c", [udp(1), DROP], hook=name, family=scope) for scope in ("inet", "ip", "arp", "bridge")
                        for name in ("input", "forward", "output")))  # fmt: skip
    assert fate(facts, Packet(family=family), hook).verdict in ("accept", "unknown")

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Expression by expression, target by target: what one rule does."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import (
    INBOUND,
    OUTBOUND,
    Packet,
    concerns,
    fate,
    path_fate,
)
from tests.unit.plugins.plugin_utils.filter_eval.rulesets import (
    ACCEPT,
    DROP,
    LIMIT,
    NOTRACK,
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

KNOWN = Packet(
    src="192.0.2.11",
    dst="192.0.2.12",
    protocol="udp",
    sport=50000,
    dport=4789,
    iif="eth0",
    oif="eth1",
    iifindex=2,
    oifindex=3,
    smac="02:00:00:00:00:01",
    dmac="02:00:00:00:00:02",
    ct_state=("new",),
    ct_mark=5,
    mark=6,
    src_type="unicast",
    dst_type="local",
    pkttype="host",
    ttl=64,
    tos=0xB8,
    length=100,
    ipsec=False,
    payload=b"\x08\0\0\0",
)
SIX = dataclasses.replace(KNOWN, family=6, src="2001:db8::1", dst="2001:db8::2")
ESTABLISHED = dataclasses.replace(KNOWN, ct_state=("established",), ct_direction="reply")
RESULT = {True: "drop", False: "accept", None: "unknown"}


def le(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "little")


def ct(key: str, direction: str | None = None) -> dict[str, Any]:
    return {"name": "ct", "key": key, **({"dir": direction} if direction else {})}


def verdict(exprs: list[Any], packet: Packet = KNOWN, hook: str = "input", **more: Any) -> str:
    return fate(filter_of(chain("c", [*exprs, DROP], hook=hook), **more), packet, hook).verdict


@pytest.mark.parametrize(
    ("load", "data", "packet", "hook", "wanted"),
    [
        (meta("iif"), le(2), KNOWN, "input", True),
        (meta("oif"), le(3), KNOWN, "forward", True),
        (meta("oif"), le(0), KNOWN, "input", True),  # no such interface here
        (meta("iif"), le(0), KNOWN, "output", True),
        (meta("oifname"), b"eth1", KNOWN, "forward", True),
        (meta("oifname"), bytes(16), KNOWN, "prerouting", True),
        (meta("iiftype"), le(1, 2), KNOWN, "input", True),
        (meta("iiftype"), le(1, 2), dataclasses.replace(KNOWN, iiftype=65534), "input", False),
        (meta("iiftype"), le(1, 2), Packet(iif="eth0"), "input", None),
        (meta("oiftype"), le(1, 2), KNOWN, "input", False),  # ends the rule
        (meta("skuid"), le(0), KNOWN, "forward", False),
        (meta("skuid"), le(0), KNOWN, "input", None),
        (meta("nfproto"), b"\x02", KNOWN, "input", True),
        (meta("nfproto"), b"\x0a", SIX, "input", True),
        (meta("protocol"), b"\x86\xdd", SIX, "input", True),
        (meta("pkttype"), b"\0", KNOWN, "input", True),
        (meta("len"), le(100), KNOWN, "input", True),
        (meta("secpath"), b"\0", KNOWN, "input", True),
        (meta("l4proto"), b"\x3a", dataclasses.replace(SIX, protocol="icmp6"), "input", True),
        (meta("l4proto"), b"\x11", Packet(), "input", None),
        (meta("cgroup"), le(1), KNOWN, "input", None),
        (payload("link", 6, 6), "020000000001", KNOWN, "input", True),
        (payload("link", 12, 2), "0800", KNOWN, "output", False),  # not there yet
        (payload("link", 0, 6), "020000000002", KNOWN, "bridge:output", True),
        (payload("network", 8, 1), "40", KNOWN, "input", True),
        (payload("network", 7, 1), "40", SIX, "input", True),
        (payload("network", 1, 1), "b8", KNOWN, "input", True),
        (payload("network", 0, 1), "6b", SIX, "input", True),
        (payload("network", 0, 2), "6b80", SIX, "input", None),  # part of it is the flow label
        (payload("network", 2, 2), "0064", KNOWN, "input", True),
        (payload("network", 6, 1), "20", dataclasses.replace(KNOWN, df=True), "input", False),
        (payload("transport", 8, 1), "08", KNOWN, "input", True),  # VXLAN flags
        (payload("inner", 0, 1), "08", KNOWN, "input", True),
        (payload("tunnel", 0, 1), "08", KNOWN, "input", None),
        (payload("transport", 100, 2), "0000", KNOWN, "input", None),
        (payload("transport", 2, 2), "12b5", dataclasses.replace(KNOWN, fragment=True), "input", False),
        (payload("transport", 2, 2), "12b5", dataclasses.replace(KNOWN, fragment=None), "input", None),
        (payload("transport", 13, 1), "02", Packet(protocol="tcp", tcp_flags=2), "input", True),
        (payload("transport", 0, 1), "08", Packet(protocol="icmp", icmp_type=8), "input", True),
        (ct("direction"), b"\0", KNOWN, "input", True),
        (ct("direction"), b"\x01", ESTABLISHED, "input", True),
        (ct("direction"), b"\0", dataclasses.replace(KNOWN, ct_state=("invalid",)), "input", False),
        (ct("direction"), b"\0", dataclasses.replace(KNOWN, ct_state=None), "input", None),
        (ct("mark"), le(5), KNOWN, "input", True),
        (ct("l3proto"), b"\x02", KNOWN, "input", True),
        (ct("protocol"), b"\x11", KNOWN, "input", True),
        (ct("ip saddr", "original"), "c000020b", dataclasses.replace(KNOWN, snat=False), "input", True),
        (ct("ip saddr", "original"), "c000020b", dataclasses.replace(KNOWN, snat=None), "input", None),
        (ct("ip6 saddr", "original"), bytes(16), KNOWN, "input", False),
        (ct("proto-dst", "original"), "12b5", dataclasses.replace(KNOWN, dnat=False), "input", True),
        (ct("saddr", "reply"), "c000020b", KNOWN, "input", None),
        (ct("zone"), "0000", KNOWN, "input", None),
        ({"name": "fib", "result": "type", "flags": ["daddr"]}, le(2), KNOWN, "input", True),
        ({"name": "fib", "result": "type", "flags": ["saddr"]}, le(1), KNOWN, "input", True),
        ({"name": "fib", "result": "type", "flags": ["daddr", "iif"]}, le(2), KNOWN, "input", None),
        ({"name": "fib", "result": "oif", "flags": ["saddr", "iif"]}, le(0), KNOWN, "input", None),
        ({"name": "numgen", "modulus": 2, "type": "random", "offset": 0}, le(1), KNOWN, "input", None),
        ({"name": "socket", "key": "transparent"}, b"\x01", KNOWN, "input", None),
    ],
)
def test_loads(load: dict[str, Any], data: Any, packet: Packet, hook: str, wanted: bool | None) -> None:
    family = "bridge" if hook.startswith("bridge") else "inet"
    base = chain("c", [*compare(load, data), DROP], hook=hook.rpartition(":")[2], family=family)
    assert fate(filter_of(base), packet, hook).verdict == RESULT[wanted]


@pytest.mark.parametrize(
    ("state_", "bit", "wanted"),
    [("new", 2, False), ("established", 2, True), ("new", 4, False), ("established", 4, None), ("new", 32, None)],
)
def test_ct_status_has_known_and_unknown_bits(state_: str, bit: int, wanted: bool | None) -> None:
    mask = {"name": "bitwise", "sreg": 0, "dreg": 0, "len": 4, "mask": le(bit).hex(), "xor": "00000000"}
    exprs = [{**ct("status"), "dreg": 0}, mask, {"name": "cmp", "sreg": 0, "op": "neq", "data": "00000000"}]
    assert verdict(exprs, dataclasses.replace(KNOWN, ct_state=(state_,))) == RESULT[wanted]


class TestOperations:
    def on_mark(self, *exprs: dict[str, Any], packet: Packet = KNOWN) -> str:
        return verdict([{**meta("mark"), "dreg": 0}, *exprs], packet)

    def test_shifts_are_of_integers(self) -> None:
        for op, data in (("lshift", le(12)), ("rshift", le(3))):
            shift = {"name": "bitwise", "sreg": 0, "dreg": 0, "len": 4, "op": op, "data": le(1).hex()}
            equal = {"name": "cmp", "sreg": 0, "op": "eq", "data": data.hex()}
            assert self.on_mark(shift, equal) == "drop"
            assert self.on_mark(shift, equal, packet=dataclasses.replace(KNOWN, mark=None)) == "unknown"

    def test_masks_of_unknown_bits(self) -> None:
        """What the mask clears is known, whatever the value."""
        mask = {"name": "bitwise", "sreg": 0, "dreg": 0, "len": 4, "mask": "00000000", "xor": "01000000"}
        unknown = dataclasses.replace(KNOWN, mark=None)
        for data, wanted in (("01000000", "drop"), ("00000000", "accept")):
            assert self.on_mark(mask, {"name": "cmp", "sreg": 0, "op": "eq", "data": data}, packet=unknown) == wanted

    def test_byte_order_before_a_comparison(self) -> None:
        swap = {"name": "byteorder", "sreg": 0, "dreg": 0, "op": "hton", "len": 4, "size": 4}
        for op, data, wanted in (("lt", "00000007", "drop"), ("lt", "00000006", "accept"), ("gte", "00000006", "drop")):
            assert self.on_mark(swap, {"name": "cmp", "sreg": 0, "op": op, "data": data}) == wanted

    def test_ranges(self) -> None:
        port = {**payload("transport", 2, 2), "dreg": 0}
        for op, low, wanted in (("eq", "1200", "drop"), ("neq", "1200", "accept"), ("eq", "12b6", "accept")):
            assert verdict([port, {"name": "range", "sreg": 0, "op": op, "from": low, "to": "12ff"}]) == wanted

    def test_registers_overlap_as_in_the_kernel(self) -> None:
        """A load fills whole words and leaves the next ones alone."""
        loads = [{**payload("network", 12, 4), "dreg": 0}, {**payload("transport", 2, 2), "dreg": 1}]
        peers = make_set("p", "c000020b12b50000")
        found = {"name": "lookup", "set": "p", "sreg": 0}
        assert verdict([*loads, found], sets=(peers,)) == "drop"
        assert verdict([*loads, found], dataclasses.replace(KNOWN, dport=53), sets=(peers,)) == "accept"


class TestStatements:
    @pytest.mark.parametrize(
        ("statement", "wanted"),
        [
            ({"name": "counter"}, True),
            ({"name": "log", "prefix": "x"}, True),
            ({"name": "dup"}, True),
            ({"name": "dynset", "set": "s", "op": "add", "sreg_key": 0, "flags": [], "exprs": []}, True),
            ({"name": "dynset", "set": "s", "op": "add", "sreg_key": 0, "flags": [], "exprs": [LIMIT]}, None),
            ({"name": "dynset", "set": "s", "op": "add", "sreg_key": 0, "flags": ["invert"], "exprs": []}, None),
            ({"name": "objref", "type": "counter", "object": "n"}, True),
            ({"name": "objref", "type": "quota", "object": "n"}, None),
            ({"name": "quota", "bytes": 1}, None),
            ({"name": "connlimit", "count": 1}, None),
            ({"name": "tproxy", "family": "ip"}, None),
            ({"name": "synproxy", "mss": 1460}, False),  # for TCP only
            ({"name": "meta", "key": "priority", "sreg": 0}, True),
        ],
    )
    def test_what_goes_on_to_the_verdict(self, statement: dict[str, Any], wanted: bool | None) -> None:
        assert verdict([*udp(4789), statement]) == RESULT[wanted]

    def test_forwarding_to_another_device_takes_the_packet_away(self) -> None:
        wire = chain("w", [{"name": "fwd", "sreg_dev": 0}], hook="ingress", family="netdev", devices=["eth0"])
        found = fate(filter_of(wire), KNOWN, "ingress")
        assert (found.verdict, found.drops[0].verdict) == ("drop", "fwd")

    def test_nat_of_the_other_family_does_nothing(self) -> None:
        nat = chain("n", dnat("172.17.0.2"), hook="prerouting", priority=-100, kind="nat")
        assert fate(filter_of(nat), KNOWN, "prerouting").packet.dst == "172.17.0.2"
        assert fate(filter_of(nat), SIX, "prerouting").packet.dst == "2001:db8::2"

    def test_only_the_first_nat_chain_that_matches_translates(self) -> None:
        first = chain("a", dnat("172.17.0.2"), hook="prerouting", priority=-110, kind="nat")
        second = chain("b", dnat("172.17.0.3"), hook="prerouting", priority=-100, kind="nat", table="z")
        assert fate(filter_of(second, first), KNOWN, "prerouting").packet.dst == "172.17.0.2"
        source = {"name": "nat", "type": "snat", "family": "ip", "reg_addr_min": 0, "flags": []}
        third = chain("c", [*dnat("192.0.2.77")[:1], source], hook="input", priority=100, kind="nat")
        found = path_fate(filter_of(first, third), KNOWN, INBOUND)
        assert (found.packet.dst, found.packet.src) == ("172.17.0.2", "192.0.2.77")

    def test_nat_runs_at_its_own_place_whatever_its_priority(self) -> None:
        nat = chain("n", dnat("172.17.0.2"), hook="prerouting", priority=500, kind="nat")
        to = compare(payload("network", 16, 4), "ac110002")
        later = chain("f", [*to, DROP], hook="prerouting", priority=-50, table="z")
        assert fate(filter_of(nat, later), KNOWN, "prerouting").verdict == "drop"

    def test_masquerade_leaves_the_source_unknown(self) -> None:
        nat = chain("n", [{"name": "masq", "flags": []}], hook="postrouting", priority=100, kind="nat")
        found = path_fate(filter_of(nat), dataclasses.replace(KNOWN, iif=""), OUTBOUND)
        assert (found.packet.src, found.packet.dst, found.packet.snat) == (None, "192.0.2.12", True)
        assert [ref.verdict for ref in found.changes] == ["masquerade"]

    def test_redirect_stays_on_the_host(self) -> None:
        port = {"name": "immediate", "dreg": 4, "data": "0035"}
        rule = [port, {"name": "redir", "reg_proto_min": 4, "flags": []}]
        nat = chain("n", rule, hook="prerouting", priority=-100, kind="nat")
        assert path_fate(filter_of(nat), KNOWN, INBOUND).packet.dport == 53
        at_output = chain("n", rule, hook="output", priority=-100, kind="nat")
        assert fate(filter_of(at_output), KNOWN, "output").packet.dst == "127.0.0.1"
        local = chain("c", [*compare({"name": "fib", "result": "type", "flags": ["daddr"]}, le(2)), DROP], hook="input")
        routed = dataclasses.replace(KNOWN, dst_type="unicast")
        assert path_fate(filter_of(nat, local), routed, INBOUND).verdict == "drop"

    def test_a_flow_tracked_already_stays_so(self) -> None:
        late = chain("l", [NOTRACK], hook="input", priority=-1)
        facts = filter_of(late, chain("c", [*state("untracked"), DROP], hook="input"))
        assert fate(facts, KNOWN, "input").verdict == "accept"


def target(name: str, **info: Any) -> dict[str, Any]:
    return {"name": "target", "target": name, "rev": 0, "info": info}


class TestTargets:
    def after(self, rule: list[Any], check: list[Any], packet: Packet = KNOWN) -> str:
        """Whether the second rule drops what the first has changed."""
        return fate(filter_of(chain("c", rule, [*check, DROP], hook="input")), packet, "input").verdict

    @pytest.mark.parametrize("name", ["LOG", "NFLOG", "TCPMSS", "TRACE", "CLASSIFY", "CHECKSUM", "TEE", "SET"])
    def test_targets_that_only_look(self, name: str) -> None:
        assert self.after([target(name)], udp(4789)) == "drop"
        assert self.after([target(name)], udp(53)) == "accept"

    def test_reject_and_friends(self) -> None:
        for name, wanted in (
            ("REJECT", "drop"),
            ("NFQUEUE", "unknown"),
            ("TPROXY", "unknown"),
            ("SYNPROXY", "unknown"),
        ):
            assert fate(filter_of(chain("c", [target(name)], hook="input")), KNOWN, "input").verdict == wanted

    def test_mark(self) -> None:
        rule = [target("MARK", mark=0x10, mask=0xF0)]
        assert self.after(rule, mark(0x16)) == "drop"
        assert self.after(rule, mark(0x06)) == "accept"
        assert self.after(rule, mark(0x16), dataclasses.replace(KNOWN, mark=None)) == "unknown"
        assert self.after([LIMIT, *rule], mark(0x16)) == "unknown"

    def test_connmark(self) -> None:
        every = {"mask": 0xFFFFFFFF, "nfmask": 0xFFFFFFFF}
        assert self.after([target("CONNMARK", mode="restore", mark=0, **every)], mark(5)) == "drop"
        assert self.after([target("CONNMARK", mode="save", mark=0, **every)], compare(ct("mark"), le(6))) == "drop"
        assert self.after([target("CONNMARK", mode="set", mark=9, **every)], compare(ct("mark"), le(9))) == "drop"

    def test_header_fields(self) -> None:
        ttl, tos = payload("network", 8, 1), payload("network", 1, 1)
        assert self.after([target("TTL", op="set", value=5)], compare(ttl, "05")) == "drop"
        assert self.after([target("TTL", op="dec", value=5)], compare(ttl, "3b")) == "unknown"
        assert self.after([target("TOS", value=0x20, mask=0xFC)], compare(tos, "20")) == "drop"
        assert self.after([target("DSCP", dscp=10)], compare(tos, "28")) == "drop"
        class_six = [
            {**payload("network", 0, 2), "dreg": 0},
            {"name": "bitwise", "sreg": 0, "dreg": 0, "len": 2, "mask": "0ff0", "xor": "0000"},
            {"name": "cmp", "sreg": 0, "op": "eq", "data": "0200"},
        ]
        assert self.after([target("TOS", value=0x20, mask=0xFC)], class_six, SIX) == "drop"

    def test_nat_targets(self) -> None:
        info = {"flags": [], "addresses": ["172.17.0.2", "172.17.0.2"], "ports": [80, 80]}
        for name, side, other in (("DNAT", "dst", "src"), ("SNAT", "src", "dst")):
            hook = "prerouting" if name == "DNAT" else "postrouting"
            nat = chain("n", [*udp(4789), target(name, **info)], hook=hook, priority=0, kind="nat", family="ip")
            left = fate(filter_of(nat), KNOWN, hook).packet
            assert (getattr(left, side), getattr(left, other)) == ("172.17.0.2", getattr(KNOWN, other))
            assert (left.dport if name == "DNAT" else left.sport) == 80
        spread = {**info, "addresses": ["172.17.0.2", "172.17.0.9"], "ports": [80, 90]}
        nat = chain("n", [target("DNAT", **spread)], hook="prerouting", kind="nat", family="ip")
        left = fate(filter_of(nat), KNOWN, "prerouting").packet
        assert (left.dst, left.dport) == (None, None)

    def test_notrack(self) -> None:
        seen = chain("c", [*state("untracked"), DROP], hook="input")
        for rule in (target("NOTRACK"), target("CT", notrack=True, zone=0, helper="")):
            raw = chain("r", [rule], hook="prerouting", priority=-300)
            assert path_fate(filter_of(raw, seen), KNOWN, INBOUND).verdict == "drop"
        raw = chain("r", [target("CT", notrack=False, zone=7, helper="")], hook="prerouting", priority=-300)
        found = path_fate(filter_of(raw, seen), KNOWN, INBOUND)
        assert (found.verdict, found.changes) == ("accept", [])

    def test_a_target_nobody_knows(self) -> None:
        facts = filter_of(chain("c", [target("DELUDE")], [udp(53), DROP], hook="input"))
        found = fate(facts, KNOWN, "input")
        assert found.verdict == "unknown" and "DELUDE is not known" in found.notes[0]


def test_a_return_from_a_user_chain_is_not_an_end() -> None:
    """One way returns, one ends: the caller goes on, perhaps."""
    user = chain("u", [LIMIT, ACCEPT], [LIMIT, jump("v")], [saddr("192.0.2.11"), jump("v", "goto")], [DROP])
    facts = filter_of(chain("c", [jump("u")], [DROP], hook="input"), user, chain("v", [udp(53), ACCEPT]))
    found = fate(facts, KNOWN, "input")
    assert (found.verdict, found.drops, [ref.ref for ref in found.may_drop]) == ("unknown", [], ["nft:inet:t:c:2"])


def test_a_missing_chain_may_do_anything() -> None:
    found = fate(
        filter_of(chain("c", [jump("gone")], [udp(4789), ACCEPT], hook="input", policy="drop")), KNOWN, "input"
    )
    assert (found.verdict, [ref.verdict for ref in found.may_drop]) == ("unknown", ["unknown"])


def test_marks_of_rules_before_do_not_hide_a_concern() -> None:
    facts = filter_of(chain("c", [set_mark(1)], [mark(1), DROP], [mark(6), ACCEPT], hook="input"))
    assert [ref.handle for ref in concerns(facts, KNOWN, hooks=("input",))] == [2]


def test_lookups_of_addresses_with_unknown_ports() -> None:
    peers = make_set("p", "12b5-12ff", "0035", flags=["interval"])
    rule = [*lookup(payload("transport", 2, 2), "p"), DROP]
    facts = filter_of(chain("c", rule, hook="input"), sets=(peers,))
    for port, wanted in ((4789, "drop"), (0x12FF, "drop"), (0x1300, "accept"), (53, "drop"), (None, "unknown")):
        assert fate(facts, dataclasses.replace(KNOWN, dport=port), "input").verdict == wanted


class TestPlaces:
    """What is known depends on the hook, and on how the packet came there."""

    def test_routing_has_taken_its_share_before_a_question_about_forward_alone(self) -> None:
        dying = chain("f", [*compare(payload("network", 8, 1), "40"), DROP], hook="forward")
        assert fate(filter_of(dying), KNOWN, "forward").verdict == "drop"

    def test_a_forwarded_packet_has_a_link_header_at_postrouting(self) -> None:
        rule = chain("p", [*compare(payload("link", 6, 6), "020000000001"), DROP], hook="postrouting")
        assert fate(filter_of(rule), KNOWN, "postrouting").verdict == "drop"
        assert fate(filter_of(rule), dataclasses.replace(KNOWN, iif=""), "postrouting").verdict == "accept"

    def test_a_new_flow_is_not_yet_translated(self) -> None:
        rule = [{"name": "match", "match": "conntrack", "rev": 3, "info": {"state": [["snat", "dnat"], False]}}]
        seen = chain("c", [*rule, DROP], hook="prerouting")
        assert fate(filter_of(seen), KNOWN, "prerouting").verdict == "accept"
        assert fate(filter_of(chain("c", [*rule, DROP], hook="forward")), KNOWN, "forward").verdict == "unknown"

    def test_a_redirect_that_only_may_happen_leaves_the_type_unknown(self) -> None:
        nat = chain("n", [LIMIT, {"name": "redir", "flags": []}], hook="prerouting", priority=-100, kind="nat")
        local = chain("c", [*compare({"name": "fib", "result": "type", "flags": ["daddr"]}, le(2)), DROP], hook="input")
        assert path_fate(filter_of(nat, local), KNOWN, INBOUND).verdict == "drop"  # local either way
        routed = dataclasses.replace(KNOWN, dst_type="unicast")
        assert path_fate(filter_of(nat, local), routed, INBOUND).verdict == "unknown"

    def test_part_of_a_connection_mark_is_unknown(self) -> None:
        part = target("CONNMARK", mode="restore", mark=0, mask=0xFFFFFFFF, nfmask=0xFF)
        facts = filter_of(chain("c", [part], [*mark(5), DROP], hook="input"))
        assert fate(facts, KNOWN, "input").verdict == "unknown"


@pytest.mark.parametrize(
    ("address", "kind", "types", "wanted"),
    [
        ("2001:db8::2", "local", ["local"], True),
        ("2001:db8::2", "local", ["unicast"], True),  # by the address alone, unlike IPv4
        ("2001:db8::2", "unicast", ["local", "unicast"], False),  # both must hold (match_type6)
        ("2001:db8::2", "local", ["local", "unicast"], True),
        ("2001:db8::2", None, ["local"], None),
        ("ff02::1", None, ["multicast"], True),
        ("ff02::1", None, ["unicast"], False),
        ("::", None, ["unspec"], True),
    ],
)
def test_ipv6_address_types(address: str, kind: str | None, types: list[str], wanted: bool | None) -> None:
    info = {"src": [[], False], "dst": [types, False], "limit_iface": None}
    packet = dataclasses.replace(SIX, dst=address, dst_type=kind)
    assert verdict([{"name": "match", "match": "addrtype", "rev": 1, "info": info}], packet) == RESULT[wanted]


@pytest.mark.parametrize(("wanted", "bridged"), [(True, False), (False, True)])
def test_a_packet_that_is_not_bridged_matches_inverted_conditions_only(wanted: bool, bridged: bool) -> None:
    rule = {"name": "match", "match": "physdev", "rev": 0, "info": {"is-bridged": bridged}}
    packet = dataclasses.replace(KNOWN, physin="", physout="")
    assert verdict([rule], packet) == RESULT[wanted]

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Partly known bytes, sets with partly known keys, and xt matches."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import Packet, bits, fate, path_fate
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.bits import Bytes
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.sets import Elements
from tests.unit.plugins.plugin_utils.filter_eval.rulesets import (
    ACCEPT,
    DROP,
    chain,
    filter_of,
    lookup,
    make_set,
    payload,
    saddr,
    udp,
)

VXLAN = Packet.vxlan("192.0.2.11", "192.0.2.12", 4789, iif="eth0", oif="", sport=50000)
OPERATORS = st.sampled_from(["eq", "neq", "lt", "lte", "gt", "gte"])


def plain(value: int, operator: str, wanted: int) -> bool:
    return {
        "eq": value == wanted,
        "neq": value != wanted,
        "lt": value < wanted,
        "lte": value <= wanted,
        "gt": value > wanted,
        "gte": value >= wanted,
    }[operator]


def possible(value: int, known: int) -> list[int]:
    """Every byte it can be."""
    return [byte for byte in range(256) if (byte ^ value) & known == 0]


@given(st.integers(0, 255), st.integers(0, 255), OPERATORS, st.integers(0, 255))
def test_a_comparison_says_only_what_holds_for_every_possible_value(
    value: int, known: int, op: str, wanted: int
) -> None:
    answers = {plain(byte, op, wanted) for byte in possible(value, known)}
    found = bits.compare(Bytes(bytes([value & known]), bytes([known])), op, bytes([wanted]))
    assert found is None or answers == {found}
    # Bounds are exact for order, and equality is exact.
    assert found is not None or len(answers) == 2


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_a_range_says_only_what_holds_for_every_possible_value(value: int, known: int, low: int, high: int) -> None:
    answers = {low <= byte <= high for byte in possible(value, known)}
    found = bits.within(Bytes(bytes([value & known]), bytes([known])), bytes([low]), bytes([high]))
    assert found is None or answers == {found}


@given(*(st.integers(0, 255) for _time in range(4)))
def test_masking_keeps_what_is_known(value: int, known: int, mask: int, xor: int) -> None:
    found = bits.masked(Bytes(bytes([value & known]), bytes([known])), bytes([mask]), bytes([xor]))
    for byte in possible(value, known):
        assert ((byte & mask ^ xor) ^ found.data[0]) & found.known[0] == 0


@given(*(st.integers(0, 255) for _time in range(4)))
def test_merging_keeps_what_both_say(one: int, known_one: int, two: int, known_two: int) -> None:
    found = bits.merge(Bytes(bytes([one]), bytes([known_one])), Bytes(bytes([two]), bytes([known_two])))
    for byte in (*possible(one, known_one), *possible(two, known_two)):
        assert (byte ^ found.data[0]) & found.known[0] == 0


class TestSets:
    @given(
        st.lists(st.tuples(st.integers(0, 255), st.integers(0, 20)), max_size=5),
        st.integers(0, 255),
        st.integers(0, 255),
    )
    def test_membership_says_only_what_holds_for_every_possible_key(
        self, ranges: list[tuple[int, int]], value: int, known: int
    ) -> None:
        spans: list[tuple[int, int]] = []
        for low, size in sorted(ranges):
            high = min(low + size, 255)
            if not spans or low > spans[-1][1]:
                spans.append((low, high))
        elements = [f"{low:02x}-{high:02x}" if high > low else f"{low:02x}" for low, high in spans]
        found = Elements({"key_len": 1, "flags": ["interval"], "elements": elements}, False)
        hit = found.look_up(Bytes(bytes([value & known]), bytes([known]))).hit
        answers = {any(low <= byte <= high for low, high in spans) for byte in possible(value, known)}
        assert hit is None or answers == {hit}
        assert hit is not None or known != 0xFF

    def key(self, address: str, port: int | None) -> Bytes:
        """An address and a port, perhaps unknown, each on registers of its own."""
        raw = bytes(int(part) for part in address.split(".")) + (port or 0).to_bytes(2, "big") + bytes(2)
        return Bytes(raw, b"\xff\xff\xff\xff" + (b"\xff\xff" if port else b"\0\0") + b"\xff\xff")

    def test_concatenations_match_field_by_field(self) -> None:
        elements = ["0a00000000500000-0affffff005a0000", "c000020b12b50000"]
        found = Elements({"key_len": 8, "field_lens": [4, 2], "flags": ["interval"], "elements": elements}, False)
        assert found.look_up(self.key("10.1.2.3", 85)).hit is True
        assert found.look_up(self.key("10.1.2.3", 100)).hit is False
        assert found.look_up(self.key("192.0.2.11", 4789)).hit is True
        assert found.look_up(self.key("192.0.2.11", None)).hit is None
        assert found.look_up(self.key("203.0.113.1", None)).hit is False

    def look(self, key: str, known: str = "ffff", filled: bool = False, **facts: Any) -> Any:
        shape = {"key_len": 2, "flags": [], "elements": ["0050"], **facts}
        return Elements(shape, filled).look_up(Bytes(bytes.fromhex(key), bytes.fromhex(known)))

    def test_what_can_be_added_or_expire_is_unknown(self) -> None:
        assert self.look("0050").hit is True
        assert self.look("0051").hit is False
        assert self.look("0051", filled=True).hit is None  # a rule adds to the set
        assert self.look("0051", truncated=True).hit is None
        assert self.look("0050", elements=[{"key": "0050", "expires": 3.0}]).hit is None
        assert self.look("0051", elements=[{"key": "0050", "expires": 3.0}], flags=["timeout"]).hit is False
        limit = [{"name": "limit"}]
        assert self.look("0050", elements=[{"key": "0050", "exprs": limit}]).hit is None
        assert self.look("0050", elements=[{"key": "0050", "exprs": [{"name": "counter"}]}]).hit is True

    def test_the_catch_all_takes_the_rest(self) -> None:
        elements = [{"key": "0050", "verdict": "accept"}, {"key": "*", "verdict": "drop"}]
        assert [item["verdict"] for item in self.look("0050", elements=elements).items] == ["accept"]
        assert [item["verdict"] for item in self.look("0051", elements=elements).items] == ["drop"]
        unsure = self.look("0000", "0000", elements=elements)
        assert unsure.hit is True and len(unsure.items) == 2

    def test_a_set_that_was_not_read_is_unknown(self) -> None:
        facts = filter_of(chain("input", [*lookup(payload("transport", 2, 2), "gone"), DROP], hook="input"))
        found = fate(facts, VXLAN, "input")
        assert found.verdict == "unknown" and "gone" in found.notes[0]

    def test_an_inverted_lookup_of_trusted_peers(self) -> None:
        trusted = make_set("trusted", "c000020a", "c000020c")
        rule = [*udp(4789), *lookup(payload("network", 12, 4), "trusted", flags=["invert"]), DROP]
        facts = filter_of(chain("input", rule, hook="input"), sets=(trusted,))
        assert fate(facts, VXLAN, "input").verdict == "drop"
        assert fate(facts, Packet.vxlan("192.0.2.10", None, 4789), "input").verdict == "accept"

    def test_a_map_of_marks(self) -> None:
        marks = make_set("m", {"key": "c000020b", "data": "07000000"}, map="data", data_len=4)
        rule = [*lookup(payload("network", 12, 4), "m", dreg=4), {"name": "meta", "key": "mark", "sreg": 4}]
        facts = filter_of(chain("p", rule, hook="prerouting"), sets=(marks,))
        assert path_fate(facts, VXLAN, ("ingress", "prerouting")).packet.mark == 7
        assert path_fate(facts, Packet.vxlan("192.0.2.1", None, 4789), ("ingress", "prerouting")).packet.mark == 0


def matched(name: str, info: dict[str, Any], packet: Packet = VXLAN, hook: str = "input") -> bool | None:
    rule = [{"name": "match", "match": name, "rev": 0, "info": info}, DROP]
    verdict = fate(filter_of(chain("c", rule, hook=hook)), packet, hook).verdict
    return {"drop": True, "accept": False, "unknown": None}[verdict]


TCP = Packet(
    src="192.0.2.11", dst="192.0.2.12", protocol="tcp", sport=1, dport=80, tcp_flags=["syn"], ct_state=("new",)
)
ECHO = Packet(src="192.0.2.11", protocol="icmp", icmp_type=8, icmp_code=0)


@pytest.mark.parametrize(
    ("name", "info", "packet", "wanted"),
    [
        ("udp", {"sport": [0, 65535, False], "dport": [4000, 5000, False]}, VXLAN, True),
        ("udp", {"sport": [0, 65535, False], "dport": [4000, 5000, True]}, VXLAN, False),
        ("udp", {"sport": [1, 2, False], "dport": [0, 65535, False]}, Packet(protocol="udp"), None),
        ("udp", {"sport": [0, 65535, False], "dport": [0, 65535, False]}, Packet(protocol="udp", fragment=True), False),
        ("tcp", {"sport": [0, 65535, False], "dport": [80, 80, False], "flags": [0x17, 2, False]}, TCP, True),
        ("tcp", {"sport": [0, 65535, False], "dport": [80, 80, False], "flags": [0x17, 2, True]}, TCP, False),
        ("multiport", {"on": "dst", "ranges": [[80, 80], [4700, 4800]], "invert": False}, VXLAN, True),
        ("multiport", {"on": "either", "ranges": [[50000, 50000]], "invert": True}, VXLAN, False),
        ("multiport", {"on": "either", "ranges": [[1, 1]], "invert": False}, Packet(protocol="udp", dport=2), None),
        ("conntrack", {"state": [["established", "related"], False]}, VXLAN, False),
        ("conntrack", {"state": [["new"], True]}, VXLAN, False),
        ("conntrack", {"direction": "reply"}, VXLAN, False),
        ("conntrack", {"proto": [17, False]}, VXLAN, True),
        ("conntrack", {"status": [["seen-reply"], False]}, VXLAN, False),
        ("state", {"state": [["new"], False]}, VXLAN, True),
        ("mark", {"mark": 1, "mask": 0xFF, "invert": False}, VXLAN, None),
        ("addrtype", {"src": [[], False], "dst": [["local"], False], "limit_iface": None}, VXLAN, None),
        (
            "addrtype",
            {"src": [[], False], "dst": [["multicast"], False], "limit_iface": None},
            Packet(dst="224.0.0.1"),
            True,
        ),
        ("iprange", {"src": ["192.0.2.1", "192.0.2.20", False]}, VXLAN, True),
        ("iprange", {"dst": ["192.0.2.1", "192.0.2.20", True]}, VXLAN, False),
        ("mac", {"src": "00:11:22:33:44:55", "invert": False}, VXLAN, None),
        ("policy", {"dir": "in", "none": True, "strict": False, "elements": []}, VXLAN, True),
        ("policy", {"dir": "in", "none": False, "strict": False, "elements": []}, VXLAN, False),
        ("physdev", {"in": ["eth+", False]}, Packet(physin="", physout=""), False),
        ("physdev", {"in": ["eth+", False]}, Packet(physin="eth1"), True),
        ("icmp", {"type": 8, "code": [0, 255], "invert": False}, ECHO, True),
        ("icmp", {"type": 255, "code": [0, 255], "invert": True}, ECHO, False),
        ("ttl", {"op": "lt", "value": 5}, Packet(ttl=4), True),
        ("length", {"min": 0, "max": 100, "invert": False}, Packet(length=200), False),
        ("set", {"index": 1, "directions": ["src"], "invert": False, "set": "peers"}, VXLAN, None),
        ("statistic", {"mode": "random", "probability": 0.5, "invert": False}, VXLAN, None),
        ("comment", {"comment": "why"}, VXLAN, True),
    ],
)
def test_xt_matches(name: str, info: dict[str, Any], packet: Packet, wanted: bool | None) -> None:
    assert matched(name, info, packet) is wanted


@pytest.mark.parametrize(
    ("fixed", "wanted"),
    [
        ({"src": ["192.0.2.0/24", False], "protocol": [17, False]}, "drop"),
        ({"src": ["192.0.2.0/24", True]}, "accept"),
        ({"src": ["0.0.0.11/0.0.0.255", False]}, "drop"),
        ({"dst": ["192.0.2.12", False], "iif": ["eth+", False]}, "drop"),
        ({"iif": ["eth1", False]}, "accept"),
        ({"oif": ["eth0", True]}, "drop"),
        ({"protocol": [6, False]}, "accept"),
        ({"fragment": True}, "accept"),
    ],
)
def test_the_fixed_part_of_legacy_rules(fixed: dict[str, Any], wanted: str) -> None:
    base = chain("INPUT", [{"name": "ip", **fixed}, DROP], hook="input", family="ip", backend="legacy")
    assert fate(filter_of(base), VXLAN, "input").verdict == wanted


def test_both_byte_orders() -> None:
    """Values the kernel keeps in host order are compared in that of the host the facts come from."""
    rule = [
        {"name": "meta", "key": "mark", "dreg": 0},
        {"name": "cmp", "sreg": 0, "op": "eq", "data": "00000007"},
        DROP,
    ]
    packet = Packet(mark=7)
    facts = filter_of(chain("c", rule, hook="input"))
    assert fate({**facts, "byteorder": "big"}, packet, "input").verdict == "drop"
    assert fate(facts, packet, "input").verdict == "accept"


def test_a_rule_that_writes_the_packet() -> None:
    write = [
        {"name": "immediate", "dreg": 0, "data": "0016"},
        {"name": "payload", "sreg": 0, "base": "transport", "offset": 2, "len": 2},
    ]
    facts = filter_of(
        chain("a", [*udp(4789), *write], hook="input", priority=-1), chain("b", [*udp(22), DROP], hook="input")
    )
    assert fate(facts, VXLAN, "input").verdict == "drop"


def test_packets_name_their_parts() -> None:
    packet = Packet(protocol="tcp", tcp_flags=["syn", "ack"], ct_state={"new", "established"})
    assert (packet.number, packet.flags, packet.states) == (6, 18, ("established", "new"))
    assert Packet.vxlan("2001:db8::1", "2001:db8::2", 4789).family == 6
    assert Packet(dst="127.0.0.1").type_of("dst") == "local"
    assert Packet(dst="192.0.2.1").type_of("dst") is None
    facts = filter_of(chain("c", [*saddr("192.0.2.11"), ACCEPT], hook="input", policy="drop"))
    assert fate(facts, Packet(family=4, src="192.0.2.11"), "input").verdict == "accept"

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A rule matches, does not, or may: what is not understood may, and a chain that may drop is one that does."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.crosshost.doctor.plugins.module_utils._accept_flow import Flow
from ansible_collections.crosshost.doctor.plugins.module_utils._accept_match import Packet, evaluate
from ansible_collections.crosshost.doctor.plugins.module_utils._accept_walk import Rules

from .accept_state import ACCEPT, DROP, chain, face, filter_of, jump, named_set, port, row, state

TUNNEL = Flow(4, "udp", 4789, "192.0.2.11", None, None, None)
ROUTED = Flow(4, None, None, "10.1.0.0/16", None, "docker0", None)
ANSWERS = Flow(4, "tcp", 7946, "192.0.2.11", None, None, None, True)
PORT = port(4789)[:3]
FLAGS = {"name": "payload", "dreg": 0, "base": "transport", "offset": 13, "len": 1}
SOURCE = {"name": "payload", "dreg": 0, "base": "network", "offset": 12, "len": 4}
RETURN = {"name": "immediate", "dreg": -1, "verdict": "return"}


def looked_up(elements: list[Any], **options: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return [*PORT, {"name": "lookup", "sreg": 0, "set": "s"}], named_set("s", elements, **options)


def xt(name: str, info: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    return [{"name": "match", "match": name, "rev": 0, "info": info, **options}]


@pytest.mark.parametrize(
    ("exprs", "matches"),
    [
        (port(4789), True),
        (port(4790), False),
        (port(4789, "tcp"), False),
        ([*PORT, {"name": "cmp", "sreg": 0, "op": "neq", "data": "12b5"}], False),
        ([*PORT, {"name": "cmp", "sreg": 0, "op": "gte", "data": "0400"}], True),
        ([*PORT, {"name": "cmp", "sreg": 0, "op": "lt", "data": "0400"}], False),
        ([*PORT, {"name": "cmp", "sreg": 0, "op": "lte", "data": "12b5"}], True),
        ([*PORT, {"name": "cmp", "sreg": 0, "op": "gt", "data": "12b5"}], False),
        ([*PORT, {"name": "range", "sreg": 0, "op": "eq", "from": "0001", "to": "ffff"}], True),
        ([*PORT, {"name": "range", "sreg": 0, "op": "neq", "from": "0001", "to": "ffff"}], False),
        ([SOURCE, {"name": "cmp", "sreg": 0, "op": "eq", "data": "c000020b"}], True),
        ([SOURCE, {"name": "cmp", "sreg": 0, "op": "eq", "data": "c000020c"}], False),
        ([{**SOURCE, "len": 3}, {"name": "cmp", "sreg": 0, "op": "eq", "data": "c00002"}], True),
        ([{**SOURCE, "offset": 16}, {"name": "cmp", "sreg": 0, "op": "eq", "data": "c0000201"}], None),
        (state(8), True),
        (state(6), False),
        (state(1), False),
        (face("iifname", "eth0", whole=True), None),
        ([{"name": "limit"}], None),
        ([{"name": "dynset", "op": "add", "set": "s", "sreg_key": 0}], None),
        ([{"name": "fib", "dreg": 0}, {"name": "cmp", "sreg": 0, "op": "eq", "data": "00"}], None),
        ([{"name": "something-new"}], None),
        (xt("multiport", {"on": "dst", "ranges": [[1, 2], [4000, 5000]], "invert": False}), True),
        (xt("multiport", {"on": "dst", "ranges": [[1, 2]], "invert": True}), True),
        (xt("multiport", {"on": "src", "ranges": [[1, 2]], "invert": False}), None),
        (xt("conntrack", {"state": [["related", "established"], False]}), False),
        (xt("conntrack", {"state": [["new"], True]}), False),
        (xt("conntrack", {"state": [["new"], False], "status": [["dnat"], False]}), None),
        (xt("udp", {"sport": [0, 65535, False], "dport": [4789, 4789, True]}), False),
        (xt("udp", {"sport": [5, 5, False], "dport": [4789, 4789, False]}), None),
        (xt("u32", {}, unknown=True), None),
        ([{"name": "ip", "src": ["192.0.2.0/24", False], "protocol": [17, False]}], True),
        ([{"name": "ip", "src": ["192.0.2.0/24", True]}], False),
        ([{"name": "ip", "dst": ["192.0.2.0/24", False]}], None),
        ([{"name": "ip", "frag": True}], None),
    ],
)
def test_what_a_rule_says_of_the_tunnels_packets(exprs: list[dict[str, Any]], matches: bool | None) -> None:
    found = evaluate({}, chain("input", "input"), row([*exprs, DROP]), Packet(TUNNEL, 4))
    assert found == (matches, [] if matches is False else [("drop", None)])


@pytest.mark.parametrize(
    ("exprs", "matches"),
    [
        (face("iifname", "docker0", whole=True), True),
        (face("iifname", "docker0", whole=False), True),
        (face("iifname", "docker1", whole=True), False),
        (face("oifname", "eth0", whole=True), None),
        ([{"name": "ip", "iif": ["docker+", False]}], True),
        ([{"name": "ip", "iif": ["docker0", True]}], False),
        ([{"name": "ip", "oif": ["docker0", True]}], None),
        ([{"name": "ip", "src": ["10.0.0.0/8", False]}], True),
        ([{"name": "ip", "src": ["10.1.2.0/24", False]}], None),
        ([{"name": "ip", "src": ["10.2.0.0/16", False]}], False),
        ([{**SOURCE, "len": 1}, {"name": "cmp", "sreg": 0, "op": "eq", "data": "0a"}], True),
        ([SOURCE, {"name": "cmp", "sreg": 0, "op": "eq", "data": "0a010203"}], None),
        (port(80, "tcp"), None),
    ],
)
def test_what_a_rule_says_of_routed_packets(exprs: list[dict[str, Any]], matches: bool | None) -> None:
    assert evaluate({}, chain("f", "forward"), row([*exprs, DROP]), Packet(ROUTED, 4))[0] is matches


@pytest.mark.parametrize(
    ("elements", "options", "matches"),
    [
        (["0035", "12b5"], {}, True),
        (["0035"], {}, False),
        (["1000-2000"], {"flags": ["interval"]}, True),
        (["0035"], {"flags": ["dynamic"]}, None),
        (["12b5"], {"truncated": True}, None),
        ([{"key": "12b5", "expires": 3.0}], {}, None),
        (["*"], {}, None),
    ],
)
def test_sets(elements: list[Any], options: dict[str, Any], matches: bool | None) -> None:
    exprs, made = looked_up(elements, **options)
    found = evaluate(
        Rules(filter_of(sets=(made,))).sets, chain("input", "input"), row([*exprs, DROP]), Packet(TUNNEL, 4)
    )
    assert found[0] is matches


def flags(mask: str, wanted: str) -> list[dict[str, Any]]:
    masked = {"name": "bitwise", "dreg": 0, "sreg": 0, "len": 1, "op": "mask_xor", "mask": mask, "xor": "00"}
    return [FLAGS, masked, {"name": "cmp", "sreg": 0, "op": "eq", "data": wanted}]


@pytest.mark.parametrize(
    ("exprs", "matches"),
    [
        (port(7946, "tcp", 0), True),
        (port(7946, "udp", 0), False),
        (port(7946, "tcp"), None),
        (port(22, "tcp", 0), False),
        (state(2), True),
        (state(8), False),
        (flags("17", "02"), False),  # fin, syn, rst, ack: a first packet
        (flags("10", "10"), True),
        (flags("01", "01"), None),
        (xt("conntrack", {"state": [["related", "established"], False]}), True),
        (xt("multiport", {"on": "src", "ranges": [[7000, 8000]], "invert": False}), True),
        (xt("multiport", {"on": "dst", "ranges": [[7000, 8000]], "invert": False}), None),
        (xt("tcp", {"sport": [7946, 7946, False], "dport": [0, 65535, False]}), True),
        (xt("tcp", {"sport": [0, 65535, False], "dport": [7946, 7946, False]}), None),
    ],
)
def test_what_a_rule_says_of_answers(exprs: list[dict[str, Any]], matches: bool | None) -> None:
    found = evaluate({}, chain("input", "input"), row([*exprs, DROP]), Packet(ANSWERS, 4))
    assert found == (matches, [] if matches is False else [("drop", None)])


@pytest.mark.parametrize(
    ("rules", "policy", "drops"),
    [
        ([], "accept", False),
        ([], "drop", True),
        ([[*port(4789), ACCEPT]], "drop", False),
        ([[*face("iifname", "eth0", whole=True), ACCEPT]], "drop", True),
        ([[*face("iifname", "eth0", whole=True), DROP]], "accept", True),
        ([[*port(4789), ACCEPT], [DROP]], "accept", False),
        ([jump("inner")], "accept", True),
        ([[*port(53), *jump("inner")]], "accept", False),
        ([[*port(4789), RETURN], [ACCEPT]], "drop", True),
        (
            [[*port(4789), {"name": "immediate", "dreg": -1, "verdict": "goto", "chain": "empty"}], [ACCEPT]],
            "drop",
            True,
        ),
        ([jump("empty"), [ACCEPT]], "drop", False),
        ([jump("loop")], "accept", True),
        ([jump("gone")], "accept", True),
        ([[{"name": "target", "target": "REJECT", "rev": 0}]], "accept", True),
        ([[{"name": "target", "target": "LOG", "rev": 0}]], "accept", False),
        ([[{"name": "queue", "num": 1}]], "accept", True),
    ],
)
def test_whether_a_base_chain_may_drop(rules: list[list[dict[str, Any]]], policy: str, drops: bool) -> None:
    base = chain("input", "input", *rules, policy=policy)
    inner = chain("inner", None, [*port(4789), DROP])
    found = filter_of(base, inner, chain("empty", None), chain("loop", None, jump("loop")))
    assert Rules(found).may_drop(base, Packet(TUNNEL, 4)) is drops

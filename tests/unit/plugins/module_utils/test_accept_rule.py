# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is written is read back as the same flows, and every program gets its own words for them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils._accept_flow import Flow, forwards, services
from ansible_collections.crosshost.doctor.plugins.module_utils._accept_rule import (
    Place,
    groups,
    iptables_match,
    iptables_save_line,
    nft_rule,
    nft_text,
    read_rule,
)

from .accept_state import ACCEPT, DROP, chain, encoded, filter_of, legacy, port, row, state

INPUT = Place("nft", "inet", "guard", "input")
COMMENT = "crosshost.doctor: in udp/4789"
PEERS = ["192.0.2.12", "192.0.2.11", "2001:db8::11"]
names = st.sampled_from(["eth0", "docker0", "bond0.100", "br-0123456789ab"])
networks = st.sampled_from(["192.0.2.1", "10.0.0.0/8", "172.16.0.0/12", "10.1.2.0/24"])


def sets_of(found: dict[str, Any]) -> dict[tuple[str, str, str], Any]:
    return {(item["family"], item["table"], item["name"]): item for item in found["sets"]}


def test_services_of_one_family_are_one_rule_with_a_set() -> None:
    (item,) = services([{"protocol": "udp", "port": 4789}], PEERS, "in")
    four, six = groups(item.flows)
    ending = f'udp dport 4789 counter accept comment "{COMMENT}"'
    assert nft_text(four, COMMENT) == "ip saddr { 192.0.2.11, 192.0.2.12 } " + ending
    assert nft_text(six, COMMENT) == "ip6 saddr 2001:db8::11 " + ending
    right = [expr["match"]["right"] for expr in nft_rule(INPUT, four, COMMENT)["expr"] if "match" in expr]
    assert right == [{"set": ["192.0.2.11", "192.0.2.12"]}, 4789]


def test_iptables_gets_arguments_in_the_form_it_saves_them_in() -> None:
    flow = Flow(4, "udp", 4789, "192.0.2.11", None, None, None)
    assert iptables_match(flow, COMMENT) == [
        "-s", "192.0.2.11/32", "-p", "udp", "-m", "udp", "--dport", "4789", "-m", "comment", "--comment", COMMENT,
        "-j", "ACCEPT",
    ]  # fmt: skip
    assert iptables_save_line("INPUT", flow, COMMENT).startswith(
        "-A INPUT -s 192.0.2.11/32 -p udp -m udp --dport 4789 "
    )
    esp = Flow(6, "esp", None, None, "2001:db8::1", None, "eth0")
    assert iptables_match(esp, COMMENT)[:6] == ["-d", "2001:db8::1/128", "-o", "eth0", "-p", "esp"]


@given(st.sampled_from(["in", "out"]), st.lists(st.sampled_from(PEERS), min_size=1, unique=True))
def test_services_are_read_back(direction: str, peers: list[str]) -> None:
    management = {"protocol": "tcp", "port": 2377}
    offered = [{"protocol": "udp", "port": 4789}, management, {**management, "answers": True}, {"protocol": "esp"}]
    for item in services(offered, peers, direction):
        for family, made in (("inet", "nft"), ("ip", "iptables"), ("ip6", "iptables")):
            flows = [flow for flow in item.flows if family == "inet" or (flow.version == 4) == (family == "ip")]
            place = chain("INPUT", "input", family=family, table="filter")
            for group in groups(flows):
                found = filter_of()
                rule = row(encoded(found, place, group, made))
                again = read_rule(rule, place, sets_of(found))
                assert again is not None
                assert set(again) <= set(flows)
                assert {flow.source or flow.destination for flow in again} == {*group.sources, *group.destinations}
        for flow in item.flows:
            place = chain("INPUT", "input", family="ip" if flow.version == 4 else "ip6", backend="legacy")
            assert read_rule(row(legacy(flow)), place, {}) == [flow]


@given(names, st.none() | names, st.none() | networks, st.none() | networks)
def test_forwards_are_read_back(iif: str, oif: str | None, source: str | None, destination: str | None) -> None:
    row_ = {"in_interface": iif, "out_interface": oif, "source": source, "destination": destination}
    (item,) = forwards([row_])
    for family, made in (("inet", "nft"), ("ip", "iptables")):
        place = chain("FORWARD", "forward", family=family, table="filter")
        (group,) = groups(item.flows)
        found = filter_of()
        assert read_rule(row(encoded(found, place, group, made)), place, sets_of(found)) == list(item.flows)


@pytest.mark.parametrize(
    "exprs",
    [
        [*port(4789), DROP],
        [*port(4789)],
        [*port(4789), {"name": "log"}, ACCEPT],
        [*port(4789), ACCEPT, {"name": "counter"}],
        [*state(6), ACCEPT],
        [*state(2), DROP],
        [*port(4789, offset=0), ACCEPT],
        [*port(4789)[:3], {"name": "cmp", "sreg": 0, "op": "neq", "data": "12b5"}, ACCEPT],
        [*port(4789)[:3], {"name": "lookup", "sreg": 0, "set": "gone"}, ACCEPT],
        [{"name": "meta", "dreg": 0, "key": "iifname"}, {"name": "cmp", "sreg": 0, "op": "eq", "data": "6574"}, ACCEPT],
        [{"name": "ip", "src": ["192.0.2.1", True]}, ACCEPT],
        [{"name": "ip", "iif": ["eth+", False]}, ACCEPT],
        [{"name": "ip", "protocol": [1, False]}, ACCEPT],
    ],
)
def test_a_rule_that_says_anything_else_is_not_taken_for_one_of_ours(exprs: list[dict[str, Any]]) -> None:
    assert read_rule(row(exprs), chain("input", "input"), {}) is None

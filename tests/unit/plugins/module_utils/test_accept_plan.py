# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Accepts are planned for chains that may drop the traffic, once, for the peers alone, and never where others fill."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _accept_plan
from ansible_collections.crosshost.doctor.plugins.module_utils._accept_flow import (
    AcceptError,
    Wanted,
    forwards,
    services,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._accept_match import Packet
from ansible_collections.crosshost.doctor.plugins.module_utils._accept_walk import Rules

from .accept_state import ACCEPT, DROP, applied, chain, face, filter_of, iptables, jump, named_set, port, state

TUNNEL = {"protocol": "udp", "port": 4789}
ANSWERS = {"protocol": "tcp", "port": 7946, "answers": True}
PEERS = ["192.0.2.11", "192.0.2.12", "2001:db8::11"]


def planned(found: dict[str, Any], wanted: list[Wanted], direction: str = "in", **options: Any) -> _accept_plan.Plan:
    return _accept_plan.make(found, wanted, direction, **options)


def tunnel(peers: list[str] | None = None, direction: str = "in") -> list[Wanted]:
    return services([TUNNEL], PEERS if peers is None else peers, direction)


def places(plan: _accept_plan.Plan) -> list[str]:
    return [f"{edit.place.backend} {edit.place.table} {edit.place.chain}" for edit in plan.edits if edit.changed]


# ---- properties

addresses = st.one_of(
    st.integers(1, 254).map(lambda last: f"192.0.2.{last}"),
    st.integers(1, 65535).map(lambda last: str(ipaddress.ip_address(f"2001:db8::{last:x}"))),
)
peer_lists = st.lists(addresses, min_size=1, max_size=6, unique=True)
ports = st.sampled_from([4789, 4790, 7946, 53])
offers = st.lists(
    st.one_of(
        st.fixed_dictionaries({"protocol": st.sampled_from(["udp", "tcp"]), "port": ports}),
        st.just({"protocol": "esp"}),
        st.fixed_dictionaries({"protocol": st.just("tcp"), "port": ports, "answers": st.booleans()}),
    ),
    min_size=1,
    max_size=3,
)
rules_ = st.lists(
    st.sampled_from(
        [
            [*port(4789), DROP],
            [*port(7946, "tcp"), {"name": "counter"}, DROP],
            [*state(1), DROP],
            [*state(6), ACCEPT],
            [*port(7946, "tcp"), ACCEPT],
            [*face("iifname", "lo", whole=True), ACCEPT],
            [{"name": "reject", "type": "icmpx"}],
            [{"name": "match", "match": "u32", "rev": 0, "unknown": True}, DROP],
        ]
    ),
    max_size=4,
)


@st.composite
def filters(draw: st.DrawFn) -> dict[str, Any]:
    chains = []
    for family, table, name, backend in (
        ("inet", "guard", "input", "nft"),
        ("ip", "filter", "INPUT", "nft"),
        ("ip6", "filter", "INPUT", "nft"),
        ("ip", "filter", "INPUT", "legacy"),
        ("ip6", "filter", "INPUT", "legacy"),
    ):
        if draw(st.booleans()):
            policy = draw(st.sampled_from(["accept", "drop"]))
            options = {"family": family, "table": table, "backend": backend, "policy": policy}
            chains.append(chain(name, "input", *draw(rules_), **options))
    return filter_of(*chains)


def passes(found: dict[str, Any], wanted: list[Wanted]) -> bool:
    """Whether every base chain lets every flow pass."""
    rules = Rules(found)
    for base in found["chains"]:
        flows = [flow for item in wanted for flow in item.flows]
        versions = {"ip": 4, "ip6": 6}
        flows = [flow for flow in flows if versions.get(base["family"], flow.version) == flow.version]
        if any(rules.may_drop(base, Packet(flow, flow.version or 4)) for flow in flows):
            return False
    return True


@given(filters(), offers, peer_lists, peer_lists)
def test_once_applied_nothing_is_left_to_do_and_all_of_it_passes(
    found: dict[str, Any], offered: list[dict[str, Any]], peers: list[str], later: list[str]
) -> None:
    for wanted in (services(offered, peers, "in"), services(offered, later, "in")):
        found = applied(found, planned(found, wanted))
        assert not planned(found, wanted).changed
        assert passes(found, wanted)


@given(filters(), offers, peer_lists)
def test_every_rule_is_for_one_of_the_peers_and_stands_in_a_table_of_its_family(
    found: dict[str, Any], offered: list[dict[str, Any]], peers: list[str]
) -> None:
    for edit in planned(found, services(offered, peers, "in")).edits:
        for flow in edit.flows:
            assert flow.source in peers
            assert flow.version == ipaddress.ip_address(str(flow.source)).version
            assert edit.place.family in ("inet", "ip" if flow.version == 4 else "ip6")


@given(filters(), offers, peer_lists)
def test_other_rules_stay_as_they_are_in_their_order(
    found: dict[str, Any], offered: list[dict[str, Any]], peers: list[str]
) -> None:
    after = applied(found, planned(found, services(offered, peers, "in")))
    for old, new in zip(found["chains"], after["chains"]):
        assert [rule for rule in new["rules"] if not _accept_plan.is_own(rule["comment"])] == old["rules"]
        assert (new["policy"], new["hook"]) == (old["policy"], old["hook"])


@given(filters(), offers, peer_lists)
def test_a_chain_that_lets_it_pass_is_left_alone(
    found: dict[str, Any], offered: list[dict[str, Any]], peers: list[str]
) -> None:
    wanted = services(offered, peers, "in")
    if passes(found, wanted):
        assert not planned(found, wanted).edits


# ---- where


def test_every_base_chain_that_may_drop_gets_its_own_accept() -> None:
    found = filter_of(
        chain("input", "input", policy="drop"),
        chain("late", "input", [*port(4789), DROP], priority=10),
        chain("other", "input", [*port(53), DROP]),
        chain("early", "prerouting", [*port(4789), DROP]),
        chain("wire", "ingress", [*port(4789), DROP], family="netdev", devices=["eth0"]),
        chain("output", "output", policy="drop"),
        chain("dnat", "prerouting", policy="drop", type="nat"),
    )
    assert places(planned(found, tunnel())) == [f"nft guard {name}" for name in ("input", "late", "early", "wire")]
    assert places(planned(found, tunnel(direction="out"), "out")) == ["nft guard output"]


def test_a_drop_is_found_behind_jumps_and_verdict_maps() -> None:
    verdicts = named_set("services", [{"key": "12b5", "verdict": "jump", "chain": "closed"}], map="verdict")
    lookup = [*port(4789)[:3], {"name": "lookup", "sreg": 0, "set": "services", "dreg": -1}]
    closed = chain("closed", None, [{"name": "limit"}, {"name": "log"}], [DROP])
    found = filter_of(chain("input", "input", lookup), closed, sets=(verdicts,))
    assert places(planned(found, tunnel())) == ["nft guard input"]
    user = iptables("HARDENING", [{"name": "counter"}, DROP])
    found = filter_of(iptables("INPUT", jump("HARDENING")), user)
    assert places(planned(found, tunnel())) == ["iptables-nft filter INPUT"]


def test_a_named_chain_stands_for_the_base_chains_that_lead_to_it() -> None:
    found = filter_of(iptables("INPUT", jump("HARDENING")), iptables("HARDENING", [*port(4789), DROP]))
    row = {"backend": "iptables-nft", "family": "ip", "table": "filter", "chain": "HARDENING"}
    assert places(planned(found, tunnel(), chains=[row])) == ["iptables-nft filter INPUT"]


def test_a_named_chain_gets_the_accept_though_nothing_seems_to_drop() -> None:
    found = filter_of(chain("input", "input"), chain("late", "input", policy="drop"))
    named = {"backend": "nft", "family": "inet", "table": "guard", "chain": "input"}
    assert places(planned(found, tunnel(), chains=[named])) == ["nft guard input"]
    with pytest.raises(AcceptError, match="no chain gone"):
        planned(found, tunnel(), chains=[{**named, "chain": "gone"}])


def test_forwarding_is_let_through_in_docker_user_and_in_every_other_chain() -> None:
    wanted = forwards([{"in_interface": "docker0"}])
    user = iptables("DOCKER-USER", [{"name": "counter"}, {"name": "immediate", "dreg": -1, "verdict": "return"}])
    forward = iptables("FORWARD", jump("DOCKER-USER"), jump("DOCKER"), policy="drop")
    other = chain("forward", "forward", policy="drop", table="hardening")
    found = filter_of(forward, user, iptables("DOCKER"), other)
    plan = planned(found, wanted, "forward")
    assert places(plan) == ["iptables-nft filter DOCKER-USER", "nft hardening forward"]
    assert not planned(applied(found, plan), wanted, "forward").changed


def test_docker_user_is_no_place_when_something_drops_before_it_or_nothing_leads_there() -> None:
    wanted = forwards([{"in_interface": "docker0"}])
    user = iptables("DOCKER-USER")
    early = iptables("FORWARD", [DROP], jump("DOCKER-USER"))
    assert places(planned(filter_of(early, user), wanted, "forward")) == ["iptables-nft filter FORWARD"]
    unlinked = iptables("FORWARD", policy="drop")
    assert places(planned(filter_of(unlinked, user), wanted, "forward")) == ["iptables-nft filter FORWARD"]


@pytest.mark.parametrize("table", ["firewalld", "docker-bridges", "kube-proxy", "calico"])
def test_a_table_that_a_program_fills_is_named_and_left_alone(table: str) -> None:
    found = filter_of(chain("filter_INPUT", "input", policy="drop", table=table))
    plan = planned(found, tunnel())
    assert not plan.edits
    assert [row["table"] for row in plan.managed] == [table]
    assert not planned(found, tunnel(), spare=False).edits


def test_the_built_in_chain_that_ufw_fills_is_ufws_unless_it_is_asked_for() -> None:
    found = filter_of(iptables("INPUT", jump("ufw-before-input"), policy="drop"), iptables("ufw-before-input"))
    plan = planned(found, tunnel())
    assert (plan.edits, [row["owner"] for row in plan.managed]) == ([], ["ufw"])
    assert places(planned(found, tunnel(), spare=False)) == ["iptables-nft filter INPUT"]


def test_only_chains_of_the_asked_kind_are_looked_at() -> None:
    found = filter_of(chain("input", "input", policy="drop"), iptables("INPUT", policy="drop", backend="legacy"))
    assert places(planned(found, tunnel(), backends=["iptables-legacy"])) == ["iptables-legacy filter INPUT"]


def test_a_packet_filter_that_could_not_be_read_is_not_touched() -> None:
    with pytest.raises(AcceptError, match="nothing is changed: no permission"):
        planned({**filter_of(), "error": "no permission"}, tunnel())


def test_what_keeps_containers_addresses_for_their_bridge_does_not_drop_what_comes_for_the_host() -> None:
    """Docker 28 and later have such rules in raw PREROUTING."""
    to = [{"name": "payload", "dreg": 0, "base": "network", "offset": 16, "len": 4}]
    container = [*to, {"name": "cmp", "sreg": 0, "op": "eq", "data": "ac110002"}, DROP]
    found = filter_of(iptables("PREROUTING", container, table="raw"))
    assert places(planned(found, tunnel())) == ["iptables-nft raw PREROUTING"]  # where the host is, is not known
    assert places(planned(found, tunnel(), here=["192.0.2.13", "172.17.0.1", "2001:db8::13"])) == []
    assert places(planned(found, tunnel(), here=["172.17.0.2"])) == ["iptables-nft raw PREROUTING"]


# ---- own rules


def test_an_accept_that_came_to_stand_behind_a_drop_is_put_first_again() -> None:
    found = filter_of(chain("input", "input", policy="drop"))
    found = applied(found, planned(found, tunnel()))
    found["chains"][0]["rules"].insert(0, chain("x", None, [*port(4789), DROP])["rules"][0])
    plan = planned(found, tunnel())
    assert plan.changed
    assert not planned(applied(found, plan), tunnel()).changed


def test_a_rule_with_our_comment_that_says_something_else_is_replaced_in_nft() -> None:
    found = filter_of(chain("input", "input", [{"name": "log"}, ACCEPT]))
    found["chains"][0]["rules"][0]["comment"] = "crosshost.doctor: in udp/4789"
    plan = planned(found, tunnel())
    assert [edit.readable for edit in plan.edits] == [False]
    assert plan.changed


def test_accepts_of_peers_that_are_gone_from_a_family_go_too() -> None:
    found = filter_of(iptables("INPUT", policy="drop"), iptables("INPUT", policy="drop", family="ip6"))
    found = applied(found, planned(found, tunnel()))
    plan = planned(found, tunnel(["192.0.2.11"]))
    assert [(edit.place.family, len(edit.remove), len(edit.add)) for edit in plan.edits] == [
        ("ip", 1, 0),
        ("ip6", 1, 0),
    ]


def test_answers_are_accepted_where_no_rule_admits_established_connections() -> None:
    bare = chain("input", "input", [*port(22, "tcp"), ACCEPT], policy="drop")
    usual = chain("late", "input", [*state(6), ACCEPT], policy="drop")
    plan = planned(filter_of(bare, usual), services([ANSWERS], PEERS[:2], "in"))
    assert [_accept_plan.lines(edit, edit.flows) for edit in plan.edits] == [
        [
            (
                "ip saddr { 192.0.2.11, 192.0.2.12 } tcp sport 7946 ct state established counter accept "
                'comment "crosshost.doctor: in tcp/7946 answers"'
            )
        ]
    ]
    assert places(plan) == ["nft guard input"]


@pytest.mark.parametrize(
    ("hook", "priority", "known"),
    [("prerouting", -300, False), ("prerouting", -200, False), ("prerouting", -150, True), ("ingress", 0, False)],
)
def test_before_connection_tracking_nothing_is_an_answer(hook: str, priority: int, known: bool) -> None:
    early = chain("early", hook, [*port(7946, "tcp", 0), DROP], priority=priority)
    plan = planned(filter_of(early), services([ANSWERS], PEERS[:2], "in"))
    assert places(plan) == (["nft guard early"] if known else [])
    assert ["before connection tracking" in found["words"] for found in plan.managed] == ([] if known else [True])


# ---- hostile values


@pytest.mark.parametrize(
    ("rows", "peers", "why"),
    [
        ([TUNNEL], [], "from everywhere nothing"),
        ([TUNNEL], ["0.0.0.0/0"], "every address"),
        ([TUNNEL], ["::/0"], "every address"),
        ([TUNNEL], ["192.0.2.0/24"], "is a network"),
        ([TUNNEL], ["0.0.0.0"], "no address of another host"),
        ([TUNNEL], ["127.0.0.1"], "no address of another host"),
        ([TUNNEL], ["192.0.2.1; reboot"], "neither an address"),
        ([TUNNEL], ["192.0.2.1 }"], "neither an address"),
        ([TUNNEL], ["-j"], "neither an address"),
        ([{"protocol": "udp", "port": 0}], PEERS, "needs a port"),
        ([{"protocol": "udp", "port": 65536}], PEERS, "needs a port"),
        ([{"protocol": "udp", "port": True}], PEERS, "needs a port"),
        ([{"protocol": "udp", "port": "4789 accept"}], PEERS, "needs a port"),
        ([{"protocol": "udp"}], PEERS, "needs a port"),
        ([{"protocol": "esp", "port": 1}], PEERS, "no ports"),
        ([{**TUNNEL, "answers": True}], PEERS, "no connections"),
        ([{"protocol": "all", "port": 1}], PEERS, "none of"),
    ],
)
def test_what_is_no_service_or_peer_is_refused(rows: list[dict[str, Any]], peers: list[str], why: str) -> None:
    with pytest.raises(AcceptError, match=why):
        services(rows, peers, "in")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({}, "accept everything"),
        ({"source": "0.0.0.0/0"}, "every address"),
        ({"in_interface": "-j"}, "not the name"),
        ({"in_interface": "docker+"}, "not the name"),
        ({"in_interface": "eth*"}, "not the name"),
        ({"out_interface": "@set"}, "not the name"),
        ({"out_interface": "a" * 16}, "not the name"),
        ({"out_interface": 'x" accept'}, "not the name"),
        ({"out_interface": "../x"}, "not the name"),
        ({"source": "192.0.2.1", "destination": "2001:db8::1"}, "two families"),
        ({"source": "$(reboot)"}, "neither an address"),
    ],
)
def test_what_is_no_forwarding_is_refused(row: dict[str, Any], why: str) -> None:
    with pytest.raises(AcceptError, match=why):
        forwards([row])


@given(st.text(max_size=20))
def test_no_text_becomes_a_name_that_means_something_to_a_program(text: str) -> None:
    try:
        (item,) = forwards([{"in_interface": text}])
    except AcceptError:
        return
    assert not set(text) & set("\"'`$;&|<>(){}[]*+!@\\ \n\t%/")
    assert not text.startswith("-")
    assert item.comment.isascii()
    assert len(item.comment) < 128


def test_a_chain_with_a_hostile_name_is_refused() -> None:
    found = filter_of(chain("-j ACCEPT", "input", policy="drop"))
    with pytest.raises(AcceptError, match="name that is not dealt with"):
        planned(found, tunnel())


def test_long_comments_differ() -> None:
    ends = [{"source": "2001:db8:1111:2222::/64", "destination": f"2001:db8:3333:{n:x}::/64"} for n in (0x4441, 0x4442)]
    faces = {"in_interface": "a" * 15, "out_interface": "b" * 15}
    comments = [item.comment for item in forwards([{**faces, **row} for row in ends])]
    assert len(set(comments)) == 2
    assert max(map(len, comments)) <= 100

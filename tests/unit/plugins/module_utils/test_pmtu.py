# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""mtu_probe on real paths: who is named, which way is meant, what loss does, what is left behind."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.crosshost.doctor.plugins.module_utils import _pmtu_route
from tests.unit.descriptors import nothing_left_open
from tests.unit.plugins.module_utils.pmtu_network import PmtuNetwork
from tests.unit.plugins.module_utils.test_pmtu_truth import why_not


@pytest.fixture(scope="module")
def network() -> t.Iterator[PmtuNetwork]:
    if reason := why_not():
        pytest.skip(reason)
    made = PmtuNetwork()
    try:
        yield made
    finally:
        made.close()


def test_a_black_hole_names_the_router_before_it(network: PmtuNetwork):
    network.mtu("a_r1", 2000)
    network.mtu("b_r1", 1413)
    network.forget()
    network.silence()
    try:
        for address, router in (("10.0.3.1", "10.0.1.2"), ("fc00:3::1", "fc00:1::2")):
            found = network.search(address)
            assert (found["verdict"], found["path_mtu"]) == ("black-hole", 1413)
            assert found["hop"] == {"ttl": 1, "address": router}
            assert found["reported"] is None
    finally:
        network.reset()


def test_the_cache_is_told_and_not_obeyed(network: PmtuNetwork):
    network.mtu("a_r1", 1500)
    network.mtu("b_r1", 1400)
    network.forget()
    assert network.search("10.0.3.1")["cached"] is None
    network.mtu("b_r1", 1500)
    found = network.search("10.0.3.1")
    assert (found["cached"], found["path_mtu"], found["verdict"]) == (1400, 1500, "clean")
    network.forget()


def test_echoes_filtered(network: PmtuNetwork):
    network.mtu("a_r1", 1500)
    network.mtu("b_r1", 1391)
    network.forget()
    for drop, method in (("icmp type echo-request drop", "tcp"), ("meta l4proto != udp drop", "udp")):
        rules = [drop, "icmpv6 type echo-request drop"]
        network.r1.filter("forward", "icmp type destination-unreachable accept", "icmpv6 type 1 accept", *rules)
        both = network.search_all([{"address": "10.0.3.1"}, {"address": "fc00:3::1"}], timeout=1.0)["results"]
        for found in both:
            assert (found["path_mtu"], found["method"], found["verdict"]) == (1391, method, "frag-needed")
    forward = "type filter hook forward priority 0;\nicmp type echo-request drop\nmeta l4proto tcp drop"
    output = "type filter hook output priority 0;\nicmp type destination-unreachable drop"
    chains = f"chain forward {{\n{forward}\n}}\nchain output {{\n{output}\n}}"
    network.r1.run("nft", "-f", "-", stdin=f"flush ruleset\ntable ip test {{\n{chains}\n}}\n")
    try:
        found = network.search("10.0.3.1", timeout=1.0)
        assert (found["path_mtu"], found["method"], found["verdict"]) == (1391, "udp", "black-hole")
    finally:
        network.reset()


def test_loss_is_no_black_hole(network: PmtuNetwork):
    network.mtu("a_r1", 1500)
    network.mtu("b_r1", 1500)
    network.forget()
    network.r1.filter("forward", "numgen random mod 100 < 30 drop")
    try:
        report = network.search_all([{"address": "10.0.3.1"} for _number in range(12)])
        verdicts = {row["verdict"] for row in report["results"]}
        assert verdicts <= {"clean", "inconclusive"}, report["results"]
        assert "clean" in verdicts
    finally:
        network.reset()


def test_replies_that_vanish_are_told_from_requests(network: PmtuNetwork):
    network.mtu("a_r1", 1500)
    network.mtu("b_r1", 1500)
    network.forget()
    network.r1.filter("forward", "ip saddr 10.0.3.1 ip length > 1200 drop")
    try:
        there, back = network.search("10.0.3.1"), network.search("10.0.1.1", network.b)
        assert (there["verdict"], there["path_mtu"], there["method"]) == ("clean", 1500, "tcp")
        assert "the way back" in there["detail"]
        assert (back["verdict"], back["path_mtu"]) == ("black-hole", 1200)
    finally:
        network.reset()


def test_fragments_that_are_dropped(network: PmtuNetwork):
    network.mtu("a_r1", 1500)
    network.mtu("b_r1", 1500)
    network.forget()
    found = network.search("10.0.3.1")
    assert found["fragmented"] == {"length": 2012, "answered": True}
    network.drop_fragments()
    try:
        found = network.search("10.0.3.1")
        assert (found["verdict"], found["fragmented"]) == ("clean", {"length": 2012, "answered": False})
    finally:
        network.reset()


def test_many_targets_cost_two_timeouts_at_most(network: PmtuNetwork):
    absent = [{"address": f"10.0.1.{number}"} for number in range(100, 150)]
    report = network.search_all([*absent, {"address": "10.0.3.1"}], timeout=0.4)
    assert report["finished"] - report["started"] < 1.3
    assert [row["verdict"] for row in report["results"]] == ["inconclusive"] * 50 + ["clean"]


def test_what_cannot_be_probed_is_said(network: PmtuNetwork):
    report = network.search_all(
        [
            {"address": "no-address"},
            {"address": "10.0.3.1", "protocols": ["sctp"]},
            {"address": "10.0.3.1", "port": 70000},
            {"address": "224.0.0.1"},
            {"address": "10.0.3.1", "source": "fc00:1::1"},
            {"address": "10.0.3.1", "largest": 1200},
        ]
    )
    *wrong, right = report["results"]
    assert all(row["verdict"] == "inconclusive" and row["detail"] for row in wrong)
    assert (right["verdict"], right["tried"], right["path_mtu"]) == ("clean", 1200, 1200)


def test_a_namespace_that_is_gone(network: PmtuNetwork):
    node = type("Gone", (), {"path": "/proc/999999999/ns/net"})
    report = network.search_all([{"address": "10.0.3.1"}], node)  # type: ignore[arg-type]
    assert report["missing"][0]["section"] == "namespace"
    assert "cannot be entered" in report["results"][0]["detail"]


def test_nothing_is_left_open(network: PmtuNetwork):
    with nothing_left_open():
        network.search_all([{"address": "10.0.3.1"}, {"address": "fc00:3::1"}, {"address": "10.0.1.77"}], timeout=0.2)


def test_a_route_that_says_less_than_its_interface(network: PmtuNetwork):
    network.a.ip("route", "add", "10.0.3.1/32", "via", "10.0.1.2", "mtu", "1200")
    try:
        found = network.search("10.0.3.1")
        assert (found["local_mtu"], found["tried"], found["cached"], found["verdict"]) == (1200, 1200, None, "clean")
    finally:
        network.a.ip("route", "del", "10.0.3.1/32")


def test_a_short_netlink_answer_is_no_route():
    assert _pmtu_route.parse(b"", 0, 0)["oif"] is None

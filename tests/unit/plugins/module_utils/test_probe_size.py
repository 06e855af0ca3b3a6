# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Echoes of an exact size: what passes, what is too big and who says so, and what vanishes."""

from __future__ import annotations

import typing as t

import pytest

from tests.unit.plugins.module_utils import probe_network as net
from tests.unit.plugins.module_utils.test_pmtu_truth import why_not

BOTH = (net.SERVER, net.SERVER6)


@pytest.fixture(scope="module")
def network() -> t.Iterator[net.Network]:
    if reason := why_not():
        pytest.skip(reason)
    made = net.Network()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def narrow(network: net.Network) -> t.Iterator[net.Network]:
    """The far link takes 1373 bytes."""
    for node, device in ((network.router, "far"), (network.server, "eth0")):
        node.ip("link", "set", device, "mtu", "1373")
    try:
        yield network
    finally:
        for node, device in ((network.router, "far"), (network.server, "eth0")):
            node.ip("link", "set", device, "mtu", "1500")
        network.client.run("sh", "-c", "ip route flush cache; ip -6 route flush cache")
        network.reset()


def sized(network: net.Network, *sizes: int, **more: t.Any) -> list[dict[str, t.Any]]:
    """Results for each size to both addresses of the server, IPv4 first."""
    probes = [{"layer": "icmp", "address": address, "size": size, "df": True} for address in BOTH for size in sizes]
    results: list[dict[str, t.Any]] = net.probe(*probes, node=network.client, timeout=0.6, **more)["results"]
    return results


def test_one_answer_is_enough(network: net.Network):
    for result in sized(network, 1500, 68):
        assert (result["status"], result["sent"], result["received"]) == ("ok", 1, 1)


def test_more_than_the_interface_takes_does_not_leave(network: net.Network):
    for result in sized(network, 1501):
        assert (result["status"], result["sent"], result["errno"]) == ("error", 0, "EMSGSIZE")
        assert "does not take" in result["detail"]


def test_too_big_is_an_answer_with_its_mtu(narrow: net.Network):
    four, four_fits, six, six_fits = sized(narrow, 1374, 1373)
    assert {row["status"] for row in (four_fits, six_fits)} == {"ok"}
    for row, name, sender in ((four, "fragmentation-needed", net.ROUTER), (six, "packet-too-big", net.ROUTER6)):
        error = row["icmp_error"]
        assert (row["status"], error["name"], error["mtu"], error["sender"]) == ("unreachable", name, 1373, sender)


def test_what_the_kernel_has_cached_is_not_obeyed(narrow: net.Network):
    assert {row["status"] for row in sized(narrow, 1500)} == {"unreachable"}
    for node, device in ((narrow.router, "far"), (narrow.server, "eth0")):
        node.ip("link", "set", device, "mtu", "1500")
    assert "1373" in narrow.client.ip("route", "get", net.SERVER)
    assert {row["status"] for row in sized(narrow, 1500)} == {"ok"}


def test_nobody_says_that_it_is_too_big(narrow: net.Network):
    rules = ("meta l4proto icmp icmp type destination-unreachable drop", "icmpv6 type packet-too-big drop")
    narrow.router.filter("output", *rules)
    for row in sized(narrow, 1374):
        assert (row["status"], row["sent"], row["received"], row["icmp_error"]) == ("timeout", 3, 0, None)
    assert {row["status"] for row in sized(narrow, 1373)} == {"ok"}


def test_small_echoes_beside_large_ones_are_left_alone(narrow: net.Network):
    echoes = [
        {"layer": "icmp", "address": net.SERVER},
        {"layer": "icmp", "address": net.SERVER, "size": 1500, "df": True},
    ]
    small, large = net.probe(*echoes, node=narrow.client, timeout=0.6)["results"]
    assert (small["status"], small["received"], small["icmp_error"]) == ("ok", 3, None)
    assert large["status"] == "unreachable"


@pytest.mark.parametrize(
    "wrong",
    [{"layer": "tcp", "port": 80, "size": 1500}, {"layer": "icmp", "size": 5}, {"layer": "icmp", "size": 70000}],
)
def test_only_echoes_have_a_size_that_holds_their_headers(network: net.Network, wrong: dict[str, t.Any]):
    result = net.only(net.probe({"address": net.SERVER, **wrong}, node=network.client))
    assert (result["status"], result["sent"]) == ("error", 0)
    assert "size" in result["detail"]


def test_a_probe_that_begins_later_does_so_and_is_as_good_as_the_others(network: net.Network):
    probes = [
        {"layer": layer, "address": net.SERVER, "port": 7, **({"delay": delay} if delay else {})}
        for layer in ("icmp", "tcp")
        for delay in (0, 0.3)
    ]
    report = net.probe(*probes, node=network.client, timeout=2.0, count=1)
    assert [result["status"] for result in report["results"]] == ["ok", "ok", "refused", "refused"]
    assert 0.3 <= report["finished"] - report["started"] < 1.5
    assert all(result["seconds"] < 0.3 for result in report["results"])


@pytest.mark.parametrize("delay", [-0.1, 2.1])
def test_a_delay_has_a_limit(network: net.Network, delay: float):
    (result,) = net.probe({"layer": "icmp", "address": net.SERVER, "delay": delay}, node=network.client)["results"]
    assert (result["status"], result["sent"]) == ("error", 0)
    assert "delay" in result["detail"]

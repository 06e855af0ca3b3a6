# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Finding a container's taps in facts, and reading a filter."""

from __future__ import annotations

import copy
import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.action.capture_result import describe
from ansible_collections.crosshost.doctor.plugins.module_utils._capture import Settings
from ansible_collections.crosshost.doctor.plugins.module_utils._tap_filter import Match
from ansible_collections.crosshost.doctor.plugins.plugin_utils.capture_target import (
    PROTOCOLS,
    TargetError,
    arguments,
    find_target,
    parse_filter,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet, Host
from tests.unit.made_fleet import host_facts

ID = "27de117cd2be09306944b2bd3a8460f025159e5f0de18e9d3a17d9a8563753b6"


def fleet(change: t.Callable[[dict[int, dict[str, t.Any]]], None] | None = None, silent: str | None = None) -> Fleet:
    """Three hosts with a container each."""
    facts = {number: copy.deepcopy(host_facts(number, 3)) for number in (1, 2, 3)}
    if change:
        change(facts)
    hosts = [
        Host(f"node{number}", snapshots={"before": HostFacts(f"node{number}", row)})
        for number, row in facts.items()
        if f"node{number}" != silent
    ]
    if silent:
        hosts.append(Host(silent, error="no route to host", unreachable=True))
    return Fleet(hosts, {})


def test_both_ends_of_a_containers_veth_are_tapped() -> None:
    target = find_target(fleet(), "app-2")
    assert (target.host, target.container) == ("node2", "app-2")
    inner, outer = target.taps
    assert (inner["interface"], inner["ifindex"], inner["netns"], inner["inode"]) == (
        "eth0",
        10,
        "/proc/102/ns/net",
        "12",
    )
    assert (outer["interface"], outer["ifindex"], outer["inode"]) == ("veth0", 11, "22")
    assert inner["id"] != outer["id"]
    Settings.parse(arguments(target, parse_filter("tcp port 80"), [4789]))


def test_a_tap_of_the_host_has_no_path() -> None:
    def on_a_bridge(facts: dict[int, dict[str, t.Any]]) -> None:
        host, container, _overlay = facts[2]["namespaces"]
        container["links"].append({"index": 20, "name": "eth1", "kind": "veth", "link": 21})
        container["links"].insert(0, {"index": 1, "name": "lo", "kind": None})
        host["links"].append({"index": 21, "name": "vethabc", "kind": "veth", "link": 20, "master": 3})

    taps = find_target(fleet(on_a_bridge), "app-2").taps
    assert [tap["interface"] for tap in taps] == ["eth0", "veth0", "eth1", "vethabc"]
    assert "netns" not in taps[3]
    assert taps[3]["inode"] == "02"


def test_two_possible_ends_are_none() -> None:
    def twice(facts: dict[int, dict[str, t.Any]]) -> None:
        host = facts[2]["namespaces"][0]
        host["links"].append({"index": 11, "name": "vethabc", "kind": "veth", "link": 10, "master": 3})

    def only_one_on_a_bridge(facts: dict[int, dict[str, t.Any]]) -> None:
        twice(facts)
        del facts[2]["namespaces"][0]["links"][-1]["master"]

    assert [tap["interface"] for tap in find_target(fleet(twice), "app-2").taps] == ["eth0"]
    assert [tap["interface"] for tap in find_target(fleet(only_one_on_a_bridge), "app-2").taps] == ["eth0", "veth0"]


def test_an_id_or_its_beginning_will_do() -> None:
    def long_id(facts: dict[int, dict[str, t.Any]]) -> None:
        facts[3]["containers"][0]["id"] = ID

    assert find_target(fleet(long_id), ID[:6]).host == "node3"
    assert find_target(fleet(long_id), f"node3/{ID[:12]}").host == "node3"
    with pytest.raises(TargetError, match="none of the 3 running containers of 3 hosts"):
        find_target(fleet(long_id), ID[:5])


def same_name(facts: dict[int, dict[str, t.Any]]) -> None:
    for row in facts.values():
        row["containers"][0]["name"] = "web"


def shares_the_host(facts: dict[int, dict[str, t.Any]]) -> None:
    facts[2]["containers"][0].update(netns="02", network_mode="host")


def has_no_network(facts: dict[int, dict[str, t.Any]]) -> None:
    facts[2]["containers"][0]["network_mode"] = "none"
    facts[2]["namespaces"][1]["links"] = [{"index": 1, "name": "lo", "kind": None}]


def has_no_namespace(facts: dict[int, dict[str, t.Any]]) -> None:
    facts[2]["containers"][0]["netns"] = None


def has_no_engine(facts: dict[int, dict[str, t.Any]]) -> None:
    facts[3].update(engine={"state": "down"}, containers=[])


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        (None, "ap-2", ["did you mean app-2", "3 hosts"]),
        (None, "zzz", ["known: app-1, app-2, app-3"]),
        (None, "node2", ["is a host"]),
        (None, "node9/app-2", ["no host 'node9'", "node1, node2, node3"]),
        (None, "node1/app-2", ["none of the 1 running containers of 1 hosts"]),
        (same_name, "web", ["names 3 containers", "HOST/CONTAINER", "node1/web, node2/web, node3/web"]),
        (shares_the_host, "app-2", ["network_mode=host"]),
        (has_no_network, "app-2", ["no network interface", "network_mode=none"]),
        (has_no_namespace, "app-2", ["namespace of node2/app-2 could not be found"]),
        (has_no_engine, "app-3", ["Containers could not be read on node3"]),
    ],
)
def test_what_cannot_be_captured_says_what_was_looked_at(change: t.Any, name: str, words: list[str]) -> None:
    with pytest.raises(TargetError) as told:
        find_target(fleet(change), name)
    assert all(word in str(told.value) for word in words), told.value


def test_one_of_several_is_named_with_its_host() -> None:
    assert find_target(fleet(same_name), "node3/web").host == "node3"


def test_hosts_that_did_not_answer_are_named() -> None:
    with pytest.raises(TargetError, match=r"Not looked at: node3 \(no route to host\)"):
        find_target(fleet(silent="node3"), "app-3")
    assert find_target(fleet(silent="node3"), "app-2").host == "node2"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", {}),
        ("  ", {}),
        ("tcp", {"protocol": "tcp"}),
        ("tcp port 80", {"protocol": "tcp", "ports": [80]}),
        ("tcp and port 80", {"protocol": "tcp", "ports": [80]}),
        ("port 80 port 40000", {"ports": [80, 40000]}),
        ("host 10.0.1.7 and host 10.0.1.8", {"hosts": ["10.0.1.7", "10.0.1.8"]}),
        ("net 10.0.1.7/24 and icmp", {"hosts": ["10.0.1.0/24"], "protocol": "icmp"}),
        ("ip6 host 2001:DB8::1", {"hosts": ["2001:db8::1"], "protocol": "ip6"}),
        ("tcp tcp", {"protocol": "tcp"}),
    ],
)
def test_filters(text: str, match: dict[str, t.Any]) -> None:
    assert parse_filter(text) == match
    Match.parse(match)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("tcp or udp", "'or' is not understood"),
        ("not tcp", "'not' is not understood"),
        ("; reboot", "not understood"),
        ("$(reboot)", "not understood"),
        ("and tcp", "between two conditions"),
        ("tcp and and udp", "between two conditions"),
        ("tcp and", "has to follow 'and'"),
        ("host", "an IP address has to follow"),
        ("host web", "not 'web'"),
        ("host 10.0.0.0/8", "an IP address"),
        ("net nowhere", "a network such as"),
        ("port", "65535"),
        ("port http", "not 'http'"),
        ("port 0", "65535"),
        ("port 65536", "65535"),
        ("port ²", "65535"),
        ("tcp udp", "tcp and udp at once"),
        ("icmp port 8", "icmp has no ports"),
        ("port 1 port 2 port 3", "two ends"),
        ("host 10.0.0.1 host 10.0.0.2 host 10.0.0.3", "two ends"),
        ("tcp " * 30, "at most 20"),
    ],
)
def test_what_is_no_filter_says_why(text: str, word: str) -> None:
    with pytest.raises(TargetError) as told:
        parse_filter(text)
    assert word in str(told.value)


@given(
    st.lists(
        st.sampled_from([*PROTOCOLS, "and", "host", "net", "port", "80", "10.0.0.1", "10.0.0.0/8", "x"]), max_size=8
    )
)
def test_a_filter_is_refused_or_one_the_kernel_gets(words: list[str]) -> None:
    try:
        match = parse_filter(" ".join(words))
    except TargetError:
        return
    Settings.parse({"match": match, "taps": [{"interface": "lo"}]})


def test_loss_is_told() -> None:
    tap = {"id": "web eth0", "frames": 10, "bytes": 900, "dropped": 0, "truncated": 0}
    facts = {"taps": [tap, {**tap, "id": "x", "dropped": 3, "truncated": 2}], "started": 1.0, "finished": 3.5}
    facts.update(ended="packets", missing=[{"what": "y", "why": "gone"}], anomalies=[], file="/x")
    text = describe("node1", facts)
    assert "20 frames in 2.5 s at 2 taps" in text
    assert "2 cut short, 3 LOST" in text
    assert "Frames were lost" in text
    assert "the limit of frames was reached" in text
    assert "y: gone" in text
    assert text.endswith("Written to /x")
    clean = describe("node1", {**facts, "taps": [tap], "ended": "time", "missing": []})
    assert "lost" not in clean.lower()
    assert "early" not in clean

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.crosshost.doctor.plugins.module_utils import _engine_rules as rules

Rule = dict[str, str]


def chain(table: str, name: str, *texts: str, hook: str | None = None) -> dict[str, Any]:
    return {"family": "ip", "table": table, "name": name, "hook": hook, "rules": [{"text": text} for text in texts]}


# Debian 12, docker.io 20.10.24, iptables 1.8.9 (nf_tables): as read by _netfilter.
COMPLETE = [
    chain("nat", "PREROUTING", "-m addrtype --dst-type LOCAL -j DOCKER", hook="prerouting"),
    chain("nat", "OUTPUT", "-m addrtype --dst-type LOCAL ! -d 127.0.0.0/8 -j DOCKER", hook="output"),
    chain("nat", "POSTROUTING", "-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE", hook="postrouting"),
    chain(
        "nat",
        "DOCKER",
        "-i docker0 -j RETURN",
        "! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80",
    ),
    chain(
        "filter",
        "FORWARD",
        "-j DOCKER-USER",
        "-o docker0 -j DOCKER",
        "-i docker0 ! -o docker0 -j ACCEPT",
        hook="forward",
    ),
    chain("filter", "DOCKER", "-d 172.17.0.2 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT"),
]
# The same rules as nft shows those that are no xtables expressions.
IN_NFT_WORDS = [
    chain("nat", "PREROUTING", "fib daddr type local jump DOCKER", hook="prerouting"),
    chain("nat", "POSTROUTING", 'oifname != "docker0" ip saddr 172.17.0.0/16 masquerade', hook="postrouting"),
    chain("nat", "DOCKER", 'iifname != "docker0" tcp dport 8080 dnat to 172.17.0.2:80'),
    chain("filter", "FORWARD", "jump DOCKER-USER", 'oifname "docker0" jump DOCKER', hook="forward"),
    chain("filter", "DOCKER", "ip daddr 172.17.0.2 tcp dport 80 accept"),
]
BRIDGE = {
    "Name": "bridge",
    "Id": "f" * 64,
    "Driver": "bridge",
    "IPAM": {"Config": [{"Subnet": "172.17.0.0/16"}, {"Subnet": "fd00::/64"}]},
    "Options": {"com.docker.network.bridge.name": "docker0", "com.docker.network.bridge.enable_ip_masquerade": "true"},
}
WEB = {
    "Names": ["/web"],
    "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080}, {"IP": "::", "PublicPort": 8080}],
    "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2"}}},
}


def missing(
    chains: list[dict[str, Any]],
    network: dict[str, Any] | None = None,
    container: dict[str, Any] | None = None,
    mesh: frozenset[int] = frozenset(),
    **settings: Any,
) -> list[str]:
    named = {name.replace("_", "-"): value for name, value in settings.items()}
    return rules.missing({"chains": chains}, [network or BRIDGE], [container or WEB], set(mesh), named)


def without(table: str, name: str, word: str = "") -> list[dict[str, Any]]:
    """The complete set without a chain, or without its rules that hold a word."""
    others = [one for one in COMPLETE if (one["table"], one["name"]) != (table, name)]
    (gone,) = [one for one in COMPLETE if one not in others]
    rest = {**gone, "rules": [rule for rule in gone["rules"] if word not in rule["text"]]}
    return [*others, rest] if word else others


@pytest.mark.parametrize("chains", [COMPLETE, IN_NFT_WORDS], ids=["iptables", "nft"])
def test_nothing_is_missing_where_all_is_there(chains: list[dict[str, Any]]) -> None:
    assert missing(chains) == []


@pytest.mark.parametrize(
    ("chains", "words"),
    [
        (without("nat", "POSTROUTING", "MASQUERADE"), ["MASQUERADE of 172.17.0.0/16"]),
        (without("nat", "DOCKER", "DNAT"), ["DNAT of port 8080 to web"]),
        (without("nat", "DOCKER"), ["chain DOCKER of table nat", "DNAT of port 8080"]),
        (without("nat", "PREROUTING", "DOCKER"), ["PREROUTING of table nat"]),
        (without("filter", "FORWARD", "DOCKER"), ["FORWARD of table filter"]),
        (without("filter", "DOCKER"), ["chain DOCKER of table filter"]),
        ([], ["chain DOCKER of table nat", "chain DOCKER of table filter", "jump", "MASQUERADE", "docker0", "DNAT"]),
    ],
)
def test_what_is_missing_is_named(chains: list[dict[str, Any]], words: list[str]) -> None:
    found = missing(chains)
    assert all(any(word in one for one in found) for word in words), found
    if chains:
        assert len(found) == len(words)


@pytest.mark.parametrize(
    "network",
    [
        {**BRIDGE, "Options": {**BRIDGE["Options"], "com.docker.network.bridge.enable_ip_masquerade": "false"}},
        {**BRIDGE, "Options": {**BRIDGE["Options"], "com.docker.network.bridge.gateway_mode_ipv4": "routed"}},
        {**BRIDGE, "Internal": True},
    ],
    ids=["not masqueraded", "routed", "internal"],
)
def test_what_is_switched_off_is_not_missing(network: dict[str, Any]) -> None:
    assert "MASQUERADE" not in str(missing(without("nat", "POSTROUTING", "MASQUERADE"), network))


def test_an_engine_that_is_to_leave_the_filter_alone_misses_nothing() -> None:
    assert missing([], iptables=False) == []
    assert missing(without("nat", "POSTROUTING", "MASQUERADE"), ip_masq=False) == []
    assert len(missing(without("nat", "POSTROUTING", "MASQUERADE"), ip_masq=True)) == 1


def test_a_rule_for_another_port_or_address_is_not_the_one() -> None:
    texts = (
        "! -i docker0 -p tcp --dport 80 -j DNAT --to-destination 172.17.0.2:8080",
        "--dport 8080 -j DNAT --to 172.17.0.22:80",
    )
    chains = [*without("nat", "DOCKER"), chain("nat", "DOCKER", *texts)]
    assert len(missing(chains)) == 1


def test_ports_of_the_routing_mesh_are_those_its_namespace_marks() -> None:
    sandbox = {
        "chains": [chain("mangle", "PREROUTING", "-p tcp -m tcp --dport 8081 -j MARK --set-xmark 0x100/0xffffffff")]
    }
    ports = rules.mesh_ports(sandbox)
    assert ports == {8081}
    assert missing(COMPLETE, mesh=frozenset(ports)) == ["the DNAT of port 8081 in chain DOCKER-INGRESS of table nat"]
    ingress = chain("nat", "DOCKER-INGRESS", "-p tcp -m tcp --dport 8081 -j DNAT --to-destination 172.18.0.2:8081")
    assert missing([*COMPLETE, ingress], mesh=frozenset(ports)) == []


def test_an_engine_that_writes_nftables_is_not_judged_by_iptables() -> None:
    assert missing([chain("docker-bridges", "filter-FORWARD")]) == []

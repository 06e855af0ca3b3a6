# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Chains that let in what is asked of a host, and not what answers the host itself."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case, Finding
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.rule_owner import accepting
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import Packet
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.walk import ref_of
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Pair
from tests.unit.made_fleet import run_case
from tests.unit.plugins.plugin_utils.causes.docker_fleet import docker_fleet, ip, iptables, loud, port, rules, states
from tests.unit.plugins.plugin_utils.filter_eval.rulesets import ACCEPT, chain

SSH = [port(22), ACCEPT]
SWARM = [[port(number), ACCEPT] for number in (2377, 7946)] + [
    [port(number, protocol="udp"), ACCEPT] for number in (4789, 7946)
]
ESTABLISHED = [states("established", "related"), ACCEPT]


def asking_fleet() -> Fleet:
    """Whose hosts' own connections come from known ports."""
    fleet = docker_fleet()
    for host in fleet.hosts.values():
        host.facts.root.facts["sysctls"]["net.ipv4.ip_local_port_range"] = "32768 60999"
    return fleet


def cut_off(*accepts: t.Any, lost: t.Callable[[Pair, str], str | None]) -> Case:
    """node2 with a policy of drop and these accepts."""
    fleet = asking_fleet()
    rules(fleet).append(iptables("INPUT", *accepts, hook="input", policy="drop"))
    return run_case(fleet, lost)


def everything(pair: Pair, key: str) -> str | None:
    """All that node2 asks of another host, and all that it is asked but for ssh."""
    crossing = pair.hosts[0] != pair.hosts[1] and "node2" in pair.hosts
    forwarded = pair.kind in ("published", "egress") and pair.src.host != "node2"
    own = pair.kind == "egress" or key == "tcp:22"
    return "timeout" if crossing and not forwarded and not own else None


def asked_by_node2(pair: Pair, key: str) -> str | None:
    return "timeout" if pair.src.host == "node2" and pair.kind in ("host", "published") and "tcp" in key else None


def only(case: Case, cause: str) -> Finding:
    (found,) = [finding for finding in case.findings if finding.cause == cause]
    return found


def test_ssh_alone():
    case = cut_off(SSH, lost=everything)
    finding = only(case, "data-udp-blocked-host-fw")
    assert "node2 drops answers of tcp/2377, answers of tcp/7946, answers of tcp/8080, tcp/7946" in finding.summary
    assert {"node2>node1:8080", "node2>node1", "node2/app-2>node1/app-1@app"} <= set(finding.explains)
    assert loud(case) == [("data-udp-blocked-host-fw", ["node2"], "critical")]
    services = finding.remedies[0].vars["firewall_ports_services"]
    assert {"protocol": "tcp", "port": 7946, "answers": True} in services
    assert {"protocol": "tcp", "port": 8080, "answers": True} in services
    assert {"protocol": "udp", "port": 4789} in services
    # What nobody needs is not opened.
    assert not [row for row in services if row["port"] == 22]
    assert not [line for line in finding.remedies[0].manual if "22" in line.partition("(")[0]]


def test_what_leaves_is_told_along_with_the_tunnel_too():
    fleet = asking_fleet()
    ssh = [ip(protocol=6), port(22, "sport"), ACCEPT]
    rules(fleet).append(iptables("OUTPUT", ssh, hook="output", policy="drop"))
    case = run_case(fleet, everything)
    finding = only(case, "data-udp-blocked-host-fw")
    assert loud(case) == [("data-udp-blocked-host-fw", ["node2"], "critical")]
    assert finding.direction == "out"
    assert {"node2>node1:8080", "node2>node1"} <= set(finding.explains)
    assert {"protocol": "tcp", "port": 8080} in finding.remedies[0].vars["firewall_ports_services"]


def test_the_swarms_ports_without_their_answers():
    case = cut_off(SSH, *SWARM, lost=asked_by_node2)
    finding = only(case, "gossip-7946-blocked")
    assert loud(case) == [("gossip-7946-blocked", ["node2"], "critical")]
    assert finding.remedies[0].vars["firewall_ports_services"] == [
        {"protocol": "tcp", "port": port_, "answers": True} for port_ in (2377, 7946, 8080)
    ]


def test_what_answers_other_ports_is_a_matter_of_the_published_ports():
    accepted = [[port(number, "sport"), ACCEPT] for number in (2377, 7946)]
    case = cut_off(
        SSH, *SWARM, *accepted, lost=lambda pair, key: asked_by_node2(pair, key) and "8080" in key and "timeout"
    )
    assert loud(case) == [("container-port-filtered", ["node2"], "critical")]
    finding = only(case, "container-port-filtered")
    assert "what answers from published ports of other hosts" in finding.summary
    assert (
        "iptables -t filter -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT" in finding.remedies[0].manual
    )


@pytest.mark.parametrize(
    "accept",
    [ESTABLISHED, [{**port(1), "info": {**port(1)["info"], "dport": (32768, 65535, False)}}, ACCEPT]],
)
def test_a_filter_that_lets_answers_in_is_not_blamed(accept: t.Any):
    case = cut_off(SSH, *SWARM, accept, lost=asked_by_node2)
    assert not [finding for finding in case.findings if finding.segment.startswith("host-filter")]


@pytest.mark.parametrize(
    ("family", "table", "hook", "faces", "words"),
    [
        (
            "ip",
            "filter",
            "input",
            {"iif": "docker0"},
            "iptables -t filter -A CHAIN -i docker0 -p tcp --dport 80 -j ACCEPT",
        ),
        ("ip6", "filter", "output", {"oif": "br1"}, "ip6tables -t filter -A CHAIN -o br1 -p tcp --dport 80 -j ACCEPT"),
        ("inet", "guard", "output", {"oif": "br1"}, "nft add rule inet guard CHAIN oifname br1 tcp dport 80 accept"),
        ("bridge", "guard", "bridge:input", {}, "nft add rule bridge guard CHAIN tcp dport 80 accept"),
        ("ip", "filter", "input", {}, "iptables -t filter -A CHAIN -p tcp --dport 80 -j ACCEPT"),
    ],
)
def test_the_advice_names_an_interface_only_where_it_is_known(family, table, hook, faces, words):
    made = {**chain("CHAIN", family=family, table=table, hook=hook.rpartition(":")[2], policy="drop")}
    policy = ref_of(made, made, None, hook, "drop")
    assert accepting(policy, Packet(protocol="tcp", dport=80, ct_state=("new",), **faces)) == words

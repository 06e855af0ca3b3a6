# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A fleet made of facts: any number of hosts of one Swarm with one overlay, healthy unless a test changes it."""

from __future__ import annotations

import copy
import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.registry import CAUSES, decide_all
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet, Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import observe
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Facts, Pair
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.plan import first_round, second_round
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.services import again_sections

NETWORK = "net1"


def address(number: int) -> str:
    return f"192.0.2.{number}"


def overlay_ip(number: int) -> str:
    return f"10.0.1.{number}"


def mac(number: int) -> str:
    return f"02:42:0a:00:01:{number:02x}"


def host_facts(number: int, count: int) -> Facts:
    """Facts of host C(number) of C(count), as overlay_facts returns them, reduced to what the engine reads."""
    others = [n for n in range(1, count + 1) if n != number]
    return {
        "schema": "1",
        "started": 0.0,
        "finished": 1.0,
        "missing": [],
        "host": {"hostname": f"node{number}", "kernel": "6.1", "python": "3.11", "ipvs": True},
        "engine": {"state": "running", "version": "20.10.24"},
        "swarm": {
            "state": "active",
            "node_id": f"id{number}",
            "node_addr": address(number),
            "control_available": number == 1,
            "nodes": [],
            "services": [],
        },
        "networks": [
            {
                "id": NETWORK,
                "name": "app",
                "driver": "overlay",
                "scope": "swarm",
                "vnis": [4097],
                "subnets": [{"subnet": "10.0.1.0/24", "gateway": "10.0.1.1"}],
            }
        ],
        "containers": [
            {
                "id": f"c{number}",
                "name": f"app-{number}",
                "state": "running",
                "netns": f"1{number}",
                "ports": [],
                "pid": 100 + number,
                "endpoints": [{"network_id": NETWORK, "network": "app", "ip": overlay_ip(number), "mac": mac(number)}],
            }
        ],
        "namespaces": [
            {
                "key": f"0{number}",
                "kind": "host",
                "path": "/proc/1/ns/net",
                "links": [{"index": 2, "name": "eth0", "kind": "veth", "up": True, "lower_up": True}],
                "addresses": [{"index": 2, "family": 4, "ip": address(number), "prefix": 24}],
                "routes": [{"family": 4, "table": 254, "dst": "192.0.2.0/24", "oif": 2, "type": "unicast"}],
                "sysctls": {"net.ipv4.ip_forward": 1},
                "sockets": [{"protocol": "tcp", "family": 4, "ip": "0.0.0.0", "port": port} for port in (22, 7946)],
                "filter": {},
                "counters": {"snmp": {"Ip.InAddrErrors": 0}, "filter": {}, "links": {}},
            },
            {
                "key": f"1{number}",
                "kind": "container",
                "container": f"c{number}",
                "path": f"/proc/{100 + number}/ns/net",
                "links": [{"index": 10, "name": "eth0", "kind": "veth", "up": True, "lower_up": True, "link": 11}],
                "addresses": [{"index": 10, "family": 4, "ip": overlay_ip(number), "prefix": 24}],
                "routes": [],
                "sockets": [{"protocol": "tcp", "family": 4, "ip": "0.0.0.0", "port": 80}],
                "counters": {},
            },
            {
                "key": f"2{number}",
                "kind": "overlay",
                "network": NETWORK,
                "path": "/run/docker/netns/1-net1",
                "links": [
                    {"index": 1, "name": "br0", "kind": "bridge", "up": True},
                    {
                        "index": 2,
                        "name": "vxlan0",
                        "kind": "vxlan",
                        "up": True,
                        "master": 1,
                        "vxlan": {"vni": 4097, "port": 4789},
                    },
                    {"index": 11, "name": "veth0", "kind": "veth", "up": True, "master": 1, "link": 10},
                ],
                "fdb": [{"index": 2, "dst": address(n), "macs": [mac(n)]} for n in others],
                "neighbours": [
                    {
                        "index": 2,
                        "state": "PERMANENT",
                        "flags": [],
                        "entries": [[overlay_ip(n), mac(n)] for n in others],
                    }
                ],
                "counters": {"links": {}},
            },
        ],
    }


def make_fleet(count: int = 3, run_id: str = "run1", **question: t.Any) -> Fleet:
    hosts = []
    for number in range(1, count + 1):
        host = Host(f"node{number}")
        host.snapshots["before"] = HostFacts(host.name, host_facts(number, count))
        hosts.append(host)
    return Fleet(hosts, {"run_id": run_id, "question": question})


def answer(pair: Pair, broken: t.Callable[[Pair, str], str | None]) -> list[Facts]:
    """What path_probe would return for a pair, given what is broken: a status by layer, None for a good answer."""
    good = {"icmp": "ok", "mtu": "ok", "tcp": "open", "udp": "silent", "http": "ok", "dns": "ok"}
    results = []
    for probe in pair.probes:
        status = broken(pair, probe.key) or good[probe.layer]
        received = 3 if status in ("ok", "open", "answered") else 0
        results.append(
            {
                "id": pair.probe_id(probe),
                "layer": probe.layer,
                "address": probe.address,
                "port": probe.port,
                "status": status,
                "sent": 0 if status == "error" else 3,
                "received": received,
                "icmp_error": None,
                "detail": None,
            }
        )
    return results


def run_case(fleet: Fleet, broken: t.Callable[[Pair, str], str | None] = lambda pair, key: None) -> Case:
    """Both rounds as the playbook runs them, then every cause."""
    plans = {"first": first_round(fleet)}
    _probe(fleet, "first", plans["first"], broken)
    plans["again"] = second_round(observe(fleet, plans))
    if plans["again"]:
        for host in fleet.answering:
            host.snapshots["again"] = HostFacts(host.name, _second_reading(host.facts.facts, plans["again"]))
        _probe(fleet, "again", plans["again"], broken)
    case = Case(fleet, observe(fleet, plans))
    decide_all(case)
    assert {finding.cause for finding in case.findings} <= {cause.id for cause in CAUSES}
    return case


def _second_reading(facts: Facts, pairs: list[Pair]) -> Facts:
    """As the playbook reads it: namespaces and counters, and only what the suspect pairs need besides."""
    sections = ["netns", "counters", *again_sections(pairs)]
    kept = {"schema", "missing", "host", "namespaces"} | set(sections)
    again = copy.deepcopy({key: value for key, value in facts.items() if key in kept})
    for namespace in again.get("namespaces") or []:
        if "filter" not in sections:
            namespace["filter"] = {}
    return {
        **again,
        "sections": sections,
        "started": facts.get("started", 0) + 20,
        "finished": facts.get("started", 0) + 21,
    }


def _probe(fleet: Fleet, label: str, pairs: list[Pair], broken: t.Callable[[Pair, str], str | None]) -> None:
    for host in fleet.answering:
        results = [row for pair in pairs if pair.src.host == host.name for row in answer(pair, broken)]
        host.probes[label] = {"results": results, "missing": []}

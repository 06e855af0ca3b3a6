# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A made fleet whose hosts have a published container on docker0, with the rules an engine makes for it."""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case, Finding
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Pair
from tests.unit.made_fleet import make_fleet, run_case
from tests.unit.plugins.plugin_utils.filter_eval.rulesets import ACCEPT, RETURN, chain, filter_of, jump

Facts = dict[str, t.Any]
WEB, BRIDGE, SUBNET = "172.17.0.2", "docker0", "172.17.0.0/16"


def ip(**fixed: t.Any) -> Facts:
    """The fixed part of an iptables rule; a value with a leading ! is inverted."""
    parts: Facts = {"name": "ip"}
    for name, value in fixed.items():
        inverted = isinstance(value, str) and value.startswith("!")
        parts[name] = [value[1:] if inverted else value, inverted]
    return parts


def port(number: int, side: str = "dport", protocol: str = "tcp") -> Facts:
    ends = {"sport": (0, 65535, False), "dport": (0, 65535, False), side: (number, number, False)}
    return {"name": "match", "match": protocol, "info": {**ends, "flags": (0, 0, False)}}


def states(*names: str) -> Facts:
    return {"name": "match", "match": "conntrack", "info": {"state": (list(names), False)}}


LOCAL = {
    "name": "match",
    "match": "addrtype",
    "info": {"src": ([], False), "dst": (["local"], False), "limit_iface": 0},
}
MASQUERADE = {"name": "target", "target": "MASQUERADE", "info": {}}


def dnat(address: str, number: int = 80) -> Facts:
    info = {"addresses": [address, address], "ports": [number, number]}
    return {"name": "target", "target": "DNAT", "info": info}


def iptables(name: str, *rules: t.Any, table: str = "filter", **more: t.Any) -> Facts:
    kind = "nat" if table == "nat" else "filter"
    return chain(name, *rules, family="ip", table=table, kind=kind, **more)


def engine_chains() -> dict[str, Facts]:
    """What an engine of version 20.10 makes, by chain."""
    established = states("established", "related")
    return {
        "PREROUTING": iptables("PREROUTING", [LOCAL, jump("DOCKER")], table="nat", hook="prerouting"),
        "NAT-DOCKER": iptables(
            "DOCKER",
            [ip(iif=BRIDGE), RETURN],
            [ip(iif=f"!{BRIDGE}", protocol=6), port(8080), dnat(WEB)],
            table="nat",
        ),
        "POSTROUTING": iptables(
            "POSTROUTING", [ip(src=SUBNET, oif=f"!{BRIDGE}"), MASQUERADE], table="nat", hook="postrouting"
        ),
        "FORWARD": iptables(
            "FORWARD",
            [jump("DOCKER-USER")],
            [ip(oif=BRIDGE), established, ACCEPT],
            [ip(oif=BRIDGE), jump("DOCKER")],
            [ip(iif=BRIDGE, oif=f"!{BRIDGE}"), ACCEPT],
            hook="forward",
            policy="drop",
        ),
        "DOCKER": iptables("DOCKER", [ip(dst=f"{WEB}/32", iif=f"!{BRIDGE}", oif=BRIDGE, protocol=6), port(80), ACCEPT]),
        "DOCKER-USER": iptables("DOCKER-USER", [RETURN]),
    }


def docker_fleet(count: int = 3) -> Fleet:
    fleet = make_fleet(count)
    for number in range(1, count + 1):
        facts = fleet.hosts[f"node{number}"].facts.facts
        facts["networks"].append(
            {"id": f"br{number}", "name": "bridge", "driver": "bridge", "scope": "local", "options": {}}
        )
        facts["containers"].append(
            {
                "id": f"w{number}",
                "name": f"web-{number}",
                "state": "running",
                "netns": f"3{number}",
                "pid": 300 + number,
                "ports": [{"host_ip": "0.0.0.0", "host_port": 8080, "port": 80, "protocol": "tcp"}],
                "endpoints": [
                    {"network_id": f"br{number}", "network": "bridge", "ip": WEB, "mac": "02:42:ac:11:00:02"}
                ],
            }
        )
        root = facts["namespaces"][0]
        root["links"].append({"index": 3, "name": BRIDGE, "kind": "bridge", "up": True, "lower_up": True})
        root["addresses"].append({"index": 3, "family": 4, "ip": "172.17.0.1", "prefix": 16})
        root["routes"].append({"family": 4, "table": 254, "dst": SUBNET, "oif": 3, "type": "unicast"})
        root["sockets"].append({"protocol": "tcp", "family": 4, "ip": "0.0.0.0", "port": 8080})
        root["filter"] = filter_of(*engine_chains().values())
        facts["namespaces"].append(
            {
                "key": f"3{number}",
                "kind": "container",
                "container": f"w{number}",
                "path": f"/proc/{300 + number}/ns/net",
                "links": [{"index": 20, "name": "eth0", "kind": "veth", "up": True, "lower_up": True, "link": 21}],
                "addresses": [{"index": 20, "family": 4, "ip": WEB, "prefix": 16}],
                "routes": [
                    {"family": 4, "dst": "default", "gateway": "172.17.0.1", "oif": 20},
                    {"family": 4, "dst": SUBNET, "oif": 20},
                ],
                "sockets": [{"protocol": "tcp", "family": 4, "ip": "0.0.0.0", "port": 80}],
                "filter": filter_of(),
                "counters": {},
            }
        )
    return fleet


def rules(fleet: Fleet, name: str = "node2", namespace: int = 0) -> list[Facts]:
    """The chains of one namespace of a host, to be changed in place; the host's own by default."""
    return fleet.hosts[name].facts.facts["namespaces"][namespace]["filter"]["chains"]


def replace_chains(fleet: Fleet, name: str = "node2", drop: t.Container[str] = (), **changed: Facts) -> None:
    """The engine's chains of a host again: some left out, some replaced (by their key in engine_chains)."""
    kept = {key: value for key, value in {**engine_chains(), **changed}.items() if key not in drop}
    rules(fleet, name)[:] = list(kept.values())


def fails(*kinds: str, host: str = "node2", status: str = "timeout") -> t.Callable[[Pair, str], str | None]:
    """Pairs of these kinds fail whose container is on the host."""

    def broken(pair: Pair, key: str) -> str | None:
        end = pair.src.host if pair.kind == "egress" else pair.dst.host
        return status if pair.kind in kinds and end == host and key != "dns" else None

    return broken


def loud(case: Case) -> list[tuple[str, list[str], str]]:
    return [(f.cause, f.hosts, f.severity) for f in case.findings if f.severity != "info"]


def first(case: Case) -> Finding:
    """The first finding above info."""
    return next(f for f in case.findings if f.severity != "info")


def quiet(case: Case) -> list[tuple[str, list[str]]]:
    return [(f.cause, f.hosts) for f in case.findings if f.severity == "info" and f.cause != "posture"]


def diagnosed(fleet: Fleet, *kinds: str, **more: t.Any) -> Case:
    return run_case(fleet, fails(*kinds, **more))

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A made fleet with broken pairs, the counters around their probes, and what taps saw of them."""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case, Finding
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.registry import decide_all
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.hops import Hop
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Facts, Pair
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace import REPLY
from tests.unit.made_fleet import address, make_fleet, run_case
from tests.unit.made_trace import follow

LABELS = ("before", "after", "quiet", "again")
Alter = t.Callable[[str, Hop, Facts], Facts | None]


def overlay_between(*hosts: str, keys: t.Container[str] = ("icmp", "tcp:80", "http:80")):
    """A judge for run_case: these layers of overlay pairs that touch all of the hosts time out."""

    def broken(pair: Pair, key: str) -> str | None:
        return "timeout" if pair.kind == "overlay" and set(hosts) <= set(pair.hosts) and key in keys else None

    return broken


def filters_known(fleet: Fleet) -> Fleet:
    """Every host's packet filter was read, and there is nothing in it."""
    for host in fleet.hosts.values():
        host.facts.root.facts["filter"] = {"byteorder": "little", "chains": [], "error": None}
    return fleet


def lost_case(*hosts: str, count: int = 3, **options: t.Any) -> Case:
    return run_case(filters_known(make_fleet(count)), overlay_between(*hosts, **options))


def again(case: Case) -> Case:
    """The case once more, decided with what was added to it."""
    fresh = Case(case.fleet, case.observations, case.traces)
    decide_all(fresh)
    return fresh


def count(case: Case, host: str, key: str, table: str, name: str, *values: int) -> None:
    """A counter of a namespace in the four readings around both bursts; C(table): snmp, softnet, or a link's index."""
    record = case.fleet.hosts[host]
    for position, (label, value) in enumerate(zip(LABELS, values, strict=True)):
        if label not in record.snapshots:
            moment = {"started": 10.0 * position, "finished": 10.0 * position + 1, "namespaces": []}
            record.snapshots[label] = HostFacts(host, moment)
        facts = record.snapshots[label]
        namespace = facts.namespace(key)
        if namespace is None:
            facts.facts["namespaces"].append({"key": key, "kind": "counted", "counters": {}})
            record.snapshots[label] = facts = HostFacts(host, facts.facts)
            namespace = facts.namespace(key)
        assert namespace is not None
        counters = namespace.facts.setdefault("counters", {})
        held = (
            counters.setdefault("links", {}).setdefault(table, {})
            if table.isdigit()
            else counters.setdefault(table, {})
        )
        held[name] = value


RISING, FLAT = (10, 20, 20, 30), (10, 10, 10, 10)


def devices(case: Case, **moves: tuple[tuple[int, ...], tuple[int, ...]]) -> Case:
    """(tx_packets, rx_packets) of every named host's VXLAN device."""
    for host, (sent, received) in moves.items():
        number = host.removeprefix("node")
        count(case, host, f"2{number}", "2", "tx_packets", *sent)
        count(case, host, f"2{number}", "2", "rx_packets", *received)
    return again(case)


def host_of(ip: str) -> str:
    """The host of a made container, by its address on the overlay."""
    return f"node{ip.rpartition('.')[2]}"


def vanish(*ways: tuple[str, str], at: str = "") -> Alter:
    """Sightings of what is lost from one host to another: behind the NIC of the first, or before hop C(at) of the last.

    What is answered to a packet that was lost is taken away as well.
    """
    order = ["nic", "vtep", "veth", "container"]

    def alter(direction: str, hop: Hop, sighting: Facts) -> Facts | None:
        way = host_of(sighting["src"]), host_of(sighting["dst"])
        if direction == REPLY and way[::-1] in ways:
            return None
        beyond = not at or order.index(hop.name) >= order.index(at)
        return None if way in ways and hop.host == way[1] and beyond else addressed(direction, hop, sighting)

    return alter


def addressed(_direction: str, hop: Hop, sighting: Facts) -> Facts:
    """The tunnel's own addresses, as they should be."""
    if sighting.get("outer"):
        ends = [address(int(host_of(sighting[end]).removeprefix("node"))) for end in ("src", "dst")]
        sighting["outer"].update(src=ends[0], dst=ends[1])
    return sighting


def trace(case: Case, lost: tuple[str, int] | None = None, alter: Alter = addressed, **options: t.Any) -> Case:
    """All broken overlay pairs followed, and decided again."""
    follow(case, watched(case), lost, alter=alter, **options)
    return again(case)


def watched(case: Case) -> list[Observation]:
    return [o for o in case.broken if o.pair.kind in ("overlay", "routed")]


def loud(case: Case) -> list[Finding]:
    return [f for f in case.findings if f.severity != "info"]


def found(case: Case) -> list[tuple[str, list[str], str, str | None, str, str]]:
    """Findings above info: cause, hosts, segment, direction, confidence, severity."""
    return [(f.cause, f.hosts, f.segment, f.direction, f.confidence, f.severity) for f in loud(case)]


def causes(case: Case) -> list[tuple[str, list[str]]]:
    return [(f.cause, f.hosts) for f in loud(case)]

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Traces made of facts: what the taps of a made fleet would have seen of a pair's packets, lost where a test says."""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.hops import Hop
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Facts, Pair
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace import FORWARD, REPLY, traces
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace_plan import TracePlan

START = 1000.0
STEP = 0.0001  # seconds from hop to hop: farther apart than a clock's slack, nearer than the window of a drop
GAP = 0.2  # seconds between two packets
SYN = 7000  # initial sequence number of a made connection request; each pair adds its own


def follow(
    case: Case,
    observations: list[Observation],
    lost: tuple[str, int] | None,
    *,
    count: int = 5,
    losing: t.Callable[[int], bool] = lambda number: True,
    reason: str | None = None,
    alter: t.Callable[[str, Hop, Facts], Facts | None] = lambda direction, hop, sighting: sighting,
) -> TracePlan:
    """Fill captures and probes of the fleet as if these pairs had been followed, and C(case.traces) from them.

    @param lost: (direction, position): packets are seen up to this hop, counted in the direction's own order, and not
        after it; None where all come through. Position -1 of the forward direction: no hop sees them.
    @param losing: which packets, by number, are lost.
    @param reason: the kernel's reason, on the host of the last sighting.
    @param alter: changes a sighting, or takes it away with None.
    """
    plan = TracePlan(case, observations)
    fleet = case.fleet
    for host, arguments in plan.captures().items():
        taps = [{**tap, "frames": 9, "dropped": 0} for tap in arguments["taps"]]
        reasons: Facts = {"available": True, "calibration": {"NO_SOCKET": 3}, "lost": 0, "events": []}
        fleet.hosts[host].captures["trace"] = {"taps": taps, "sightings": [], "reasons": reasons}
    for number, (pair, path) in enumerate(plan.rows):
        for sequence in range(count):
            lost_here = lost if losing(sequence) else None
            _packet(fleet, pair, path, (number, sequence), lost_here, reason, alter)
        _results(fleet, pair, count, number)
    case.traces = traces(fleet, plan.dump())
    return plan


def _packet(
    fleet: Fleet,
    pair: Pair,
    path: list[Hop],
    order: tuple[int, int],
    lost: tuple[str, int] | None,
    reason: str | None,
    alter: t.Callable[[str, Hop, Facts], Facts | None],
) -> None:
    moment = START + order[0] + order[1] * GAP
    for probe in pair.probes:
        if probe.layer not in ("icmp", "tcp") or (probe.layer == "tcp" and order[1]):
            continue
        moment += GAP / 10
        for direction, hops in ((FORWARD, path), (REPLY, path[::-1])):
            for position, hop in enumerate(hops):
                if lost is not None and direction == lost[0] and position > lost[1]:
                    if reason and position == lost[1] + 1 and position:
                        _drop(fleet, hops[position - 1].host, moment, reason)
                    break
                moment += STEP
                sighting = alter(
                    direction, hop, _sighting(pair, probe.layer, probe.port, direction, order, hop, moment)
                )
                if sighting is not None:
                    fleet.hosts[hop.host].captures["trace"]["sightings"].append(sighting)
            else:
                continue
            break


def _drop(fleet: Fleet, host: str, moment: float, reason: str) -> None:
    event = {"time": moment + STEP / 2, "reason": reason, "protocol": 0x0800, "location": "nft_do_chain"}
    fleet.hosts[host].captures["trace"]["reasons"]["events"].append(event)


def _sighting(
    pair: Pair, layer: str, port: int | None, direction: str, order: tuple[int, int], hop: Hop, moment: float
) -> Facts:
    kinds = {
        ("icmp", FORWARD): "echo",
        ("icmp", REPLY): "echo-reply",
        ("tcp", FORWARD): "syn",
        ("tcp", REPLY): "syn-ack",
    }
    ends = [(pair.src.ip, 40000 + order[0]), (pair.dst.ip, port)]
    (src, sport), (dst, dport) = ends if direction == FORWARD else ends[::-1]
    tcp = layer == "tcp"
    outer = None
    if pair.kind == "overlay" and hop.name == "nic":
        outer = {"src": None, "dst": None, "sport": 50000, "dport": 4789, "flags": 8, "length": 134, "df": False}
        outer.update(ttl=64, id=1, fragment=None, checksum="unknown")
    return {
        "tap": hop.tap,
        "time": moment,
        "out": None,
        "kind": kinds[layer, direction],
        "probe": None if tcp else f"{pair.id}#icmp",
        "seq": SYN + order[0] if tcp else order[1],
        "src": src,
        "dst": dst,
        "sport": sport if tcp else None,
        "dport": dport if tcp else None,
        "smac": None,
        "dmac": None,
        "length": 84,
        "df": False,
        "ttl": 64,
        "fragment": None,
        "vni": 4097 if outer else None,
        "outer": outer,
        "checksum": "unknown",
        "error": None,
    }


def _results(fleet: Fleet, pair: Pair, count: int, number: int) -> None:
    """What path_probe said of it: the sender knows what it sent, and the source port of its connections."""
    rows = fleet.hosts[str(pair.src.host)].probes.setdefault("trace", {"results": []})["results"]
    for probe in pair.probes:
        row: Facts = {"id": pair.probe_id(probe), "layer": probe.layer, "port": probe.port, "sent": count}
        row.update(received=0, local_port=40000 + number if probe.layer == "tcp" else None)
        rows.append(row)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pairs that cross from one host to another: what the causes that look at them share."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    Case,
    Evidence,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.deltas import Rise, link_counter, rise
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace import Trace

Lost = tuple[str, str]  # from host, to host


@dataclass
class LostWay:
    """Packets that one host sent to another and that did not come through."""

    pairs: list[Observation] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)


def ends(observation: Observation) -> Lost:
    return str(observation.pair.src.host), str(observation.pair.dst.host)


def crossing(observations: t.Iterable[Observation], kinds: t.Container[str] = ("overlay",)) -> list[Observation]:
    """Those that go from one host of the fleet to another."""
    return [
        o for o in observations if o.pair.kind in kinds and None not in o.pair.hosts and len(set(o.pair.hosts)) == 2
    ]


def device_rise(case: Case, host_name: str, network_id: str | None, counter: str) -> Rise | None:
    """How a counter of the one VXLAN device that a host has for a network moved."""
    host = case.host(host_name)
    namespace = host.facts.overlay_namespace(network_id or "")
    links = namespace.vxlan_links if namespace else []
    if namespace is None or len(links) != 1:
        return None
    return rise(host, namespace.key, link_counter(links[0]["index"], counter))


def direction_of(place: frozenset[str], ways: t.Iterable[Lost]) -> str | None:
    """As seen from the host the fault is at; None where it is between two hosts or cannot be told."""
    if len(place) != 1:
        return None
    host = next(iter(place))
    found = {"out" if way[0] == host else "in" for way in ways}
    return "both" if len(found) > 1 else next(iter(found), None)


def probe_evidence(observation: Observation, number: int) -> Evidence:
    failed = [f"{key} {observation.results[key]['status']}" for key in observation.failed_layers()]
    words = f"{', '.join(failed)}; {number} pair(s) broken"
    return Evidence(observation.pair.src.host, f"probes {observation.pair.id}", words, "answered")


def beside(case: Case, between: set[frozenset[str]], network_id: str | None = None) -> list[Observation]:
    """Unexplained overlay pairs between the same hosts that no trace followed."""
    return [
        o
        for o in crossing(case.unexplained)
        if frozenset(ends(o)) in between and case.trace(o) is None and network_id in (None, o.pair.network_id)
    ]


def port_words(case: Case) -> str:
    return str(case.fleet.tunnel_port or "PORT")


def passes_instead(case: Case, pairs: list[Observation]) -> list[Evidence]:
    """What the same two hosts answer one another."""
    src, dst = ends(pairs[0])
    for observation in (case.host_pair(src, dst), case.host_pair(dst, src)):
        if observation is not None and observation.reached:
            answered = [f"{key} {r['status']}" for key, r in observation.results.items() if r.get("received")]
            words = ", ".join(answered) or "answers"
            return [Evidence(observation.pair.src.host, f"probes {observation.pair.id}", words, None)]
    return []

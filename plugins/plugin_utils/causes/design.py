# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Paths that do not exist, and are not meant to."""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    INFO,
    Case,
    Cause,
    Evidence,
    Facts,
    Finding,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation

ICC = "com.docker.network.bridge.enable_icc"


def decide_isolated(case: Case) -> t.Iterator[Finding]:
    """The operator asked about two ends that share no network."""
    for observation in case.observations:
        pair = observation.pair
        if pair.kind != "isolated":
            continue
        networks = {
            end.label: sorted({e.network for e in case.fleet.endpoints if e.container_id == end.container_id})
            for end in (pair.src, pair.dst)
            if end.container_id
        }
        observed = "; ".join(f"{name} is on {', '.join(names) or 'no network'}" for name, names in networks.items())
        yield Finding(
            cause="isolated-by-design",
            severity=INFO,
            confidence=CONFIRMED,
            hosts=sorted({name for name in pair.hosts if name}),
            segment="container",
            summary=f"There is no path from {pair.src.label} to {pair.dst.label}, and none is meant: {observed}",
            evidence=[
                Evidence(
                    pair.dst.host,
                    "networks of both ends",
                    observed,
                    "one network in common, or a published port",
                    f"docker inspect {pair.dst.name}",
                )
            ],
            explains=[pair.id],
        )


def decide_refused(case: Case) -> t.Iterator[Finding]:
    """A path that fails because its network was made so."""
    for observation in case.broken:
        why = _intent(case, observation)
        if why is None:
            continue
        pair, (summary, option, verify) = observation.pair, why
        yield Finding(
            cause="isolated-by-design",
            severity=INFO,
            confidence=CONFIRMED,
            hosts=sorted({name for name in pair.hosts if name}),
            segment="container",
            network=pair.network,
            summary=f"There is no path from {pair.src.label} to {pair.dst.label}, and none is meant: {summary}",
            evidence=[Evidence(pair.src.host, f"network {pair.network}", option, "a network without it", verify)],
            explains=[pair.id],
        )


def _intent(case: Case, observation: Observation) -> tuple[str, str, str] | None:
    """(why, the setting, how to read it again) where a pair's network forbids what the pair asks."""
    pair = observation.pair
    network = case.fleet.networks.get(pair.network_id or "")
    if network is None or pair.src.host is None or pair.src.container_id is None:
        return None
    verify = f"docker network inspect {network.name}"
    if pair.kind == "local" and network.options.get(ICC) == "false":
        return f"containers of network {network.name} may not talk to each other", f"{ICC}=false", verify
    if pair.kind not in ("egress", "upstream"):
        return None
    known: dict[str, Facts] = {row["id"]: row for row in case.host(pair.src.host).facts.networks}
    mine = [e.network_id for e in case.fleet.endpoints if e.container_id == pair.src.container_id]
    if mine and all((known.get(one) or {}).get("internal") for one in mine):
        return f"network {network.name} is internal and has no way out", "internal", verify
    if pair.kind == "egress" and network.driver == "macvlan" and pair.dst.host == pair.src.host:
        why = f"a container of macvlan network {network.name} does not reach its own host through the shared interface"
        return why, "driver macvlan", verify
    return None


CAUSES = [
    Cause(
        "isolated-by-design",
        "The two ends share no network",
        "the networks of both ends, published ports",
        "it is intent: information, never a fault",
        decide_isolated,
        remedy="connect both to one network, or publish the port",
    ),
    Cause(
        "isolated-by-design",
        "The network was made to refuse it",
        "internal networks, icc=false, containers with network none, macvlan containers and their own host",
        "it is intent: information, never a fault",
        decide_refused,
        remedy="another network, where the path is wanted: internal and icc are set when a network is made",
    ),
]

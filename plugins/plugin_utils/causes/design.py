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
    Finding,
)


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


CAUSES = [
    Cause(
        "isolated-by-design",
        "The two ends share no network",
        "the networks of both ends, published ports",
        "it is intent: information, never a fault",
        decide_isolated,
    ),
]

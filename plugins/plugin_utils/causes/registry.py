# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every cause the engine knows, in the order in which they are decided."""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes import (
    addressing,
    arp,
    attachment,
    balancing,
    checksum,
    cloud,
    cluster,
    container_way,
    data_plane,
    design,
    encryption,
    engine,
    filter_ownership,
    forwarding,
    identity,
    ipam,
    kernel,
    loss,
    managers,
    mtu,
    names,
    nat,
    overlay_state,
    packet_filter,
    path_mtu,
    ports,
    posture,
    remainder,
    service,
    tun,
    tunnel_packets,
    underlay,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    INFO,
    TRACED,
    Case,
    Cause,
    Finding,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.confirm import confirm, refuted_rows

FAMILIES = (
    design,
    engine,
    cluster,
    packet_filter,
    filter_ownership,
    ports,
    encryption,
    identity,
    addressing,
    overlay_state,
    attachment,
    container_way,
    forwarding,
    nat,
    names,
    service,
    balancing,
    ipam,
    mtu,
    kernel,
    managers,
    underlay,
    path_mtu,
    checksum,
    tunnel_packets,
    data_plane,
    arp,
    cloud,
    tun,
    loss,
    remainder,
    posture,
)

CAUSES: list[Cause] = sorted((cause for family in FAMILIES for cause in family.CAUSES), key=lambda cause: cause.stage)


# Findings at info that are no wrong setting: what is meant to be so, and what could be better.
WRONG = {cause.id for cause in CAUSES} - {"isolated-by-design", "node-not-active", "posture"}


def seen_by_packets_alone(causes: t.Collection[str]) -> bool:
    """Whether steps 1 and 2 see none of these causes."""
    return all(cause.packets or cause.stage >= TRACED for cause in CAUSES if cause.id in causes)


def decide_all(case: Case) -> None:
    """Run every cause; each sees what those before it found. Traces judge that before those causes they alone tell."""
    for cause in CAUSES:
        if cause.stage < TRACED:
            case.findings += list(cause.decide(case))
    confirm(case)
    for cause in CAUSES:
        if cause.stage >= TRACED:
            case.findings += list(cause.decide(case))
    for finding in case.findings:
        if finding.explains:
            rows = [*refuted_rows(case, finding), *_alternatives(case, finding)]
            finding.rejected += [row for row in rows if row not in finding.rejected]


def _alternatives(case: Case, finding: Finding) -> list[tuple[str, str]]:
    """What else could have broken these pairs, and what was read that speaks against it."""
    found = []
    for cause in CAUSES:
        because = cause.rules_out(case, finding) if cause.rules_out and cause.id != finding.cause else None
        if because:
            found.append((cause.id, because))
    return found + [(latent.cause, f"it breaks nothing: {latent.summary}") for latent in _latent(case, finding)]


def _latent(case: Case, finding: Finding) -> list[Finding]:
    """Wrong settings on the same hosts that break no pair."""
    return [
        other
        for other in case.findings
        if other.severity == INFO and other.cause in WRONG and set(other.hosts) & set(finding.hosts)
    ]

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every cause the engine knows, in the order in which they are decided."""

from __future__ import annotations

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes import (
    design,
    engine,
    forwarding,
    overlay_state,
    packet_filter,
    remainder,
    service,
    underlay,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case, Cause

FAMILIES = (design, engine, packet_filter, overlay_state, forwarding, service, underlay, remainder)

CAUSES: list[Cause] = sorted((cause for family in FAMILIES for cause in family.CAUSES), key=lambda cause: cause.stage)


def decide_all(case: Case) -> None:
    """Run every cause; each sees what those before it found."""
    for cause in CAUSES:
        case.findings += list(cause.decide(case))

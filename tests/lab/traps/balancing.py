# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services that are as they should be."""

from __future__ import annotations

from ..faults.balancing import MESH, PUBLISHED, HandMadeMesh, Service
from ..faults.model import Fault, trap

TRAPS: tuple[Fault, ...] = (
    trap(
        "dnsrr-service",
        "a service found by name (dnsrr), on a kernel without IPVS",
        Service("crosshost-dnsrr", "dnsrr"),
        info=("ipvs-missing",),
    ),
    trap(
        "global-service-updating",
        "a global service in the middle of a rolling update: tasks and addresses come and go",
        Service("crosshost-global", "dnsrr", everywhere=True, updating="3s"),
        info=("ipvs-missing",),
    ),
    trap(
        "routing-mesh",
        "a published port that every node answers for, one task behind it",
        PUBLISHED,
        HandMadeMesh(MESH),
        info=("ipvs-missing",),
    ),
)

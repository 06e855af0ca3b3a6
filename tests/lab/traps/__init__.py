# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The trap library: oddities of healthy fleets that a diagnosis must not take for a fault.

A trap is put in and taken out like a fault; it breaks nothing, and a diagnosis says nothing of it above info.
"""

from __future__ import annotations

from ..faults.model import Fault
from . import (
    addressing,
    attachment,
    balancing,
    cluster,
    data_plane,
    encryption,
    filter_ownership,
    identity,
    ipam,
    kernel,
    managers,
    mtu,
    names,
    nat,
    path_mtu,
    ports,
)

FAMILIES = (
    filter_ownership,
    nat,
    ports,
    encryption,
    mtu,
    path_mtu,
    addressing,
    identity,
    ipam,
    attachment,
    names,
    kernel,
    cluster,
    balancing,
    managers,
    data_plane,
)
TRAPS: dict[str, Fault] = {trap.name: trap for family in FAMILIES for trap in family.TRAPS}

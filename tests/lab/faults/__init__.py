# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The fault library: one small definition each, gathered by family."""

from __future__ import annotations

from .. import state
from . import (
    addressing,
    attachment,
    balancing,
    checksum,
    cluster,
    control_plane,
    data_plane,
    encryption,
    filter_ownership,
    host_stack,
    identity,
    ipam,
    kernel,
    loss,
    managers,
    mtu,
    names,
    nat,
    overlay,
    owners,
    path_mtu,
    ports,
    service,
    tunnel_filter,
    underlay,
)
from .model import Fault

FAMILIES = (
    tunnel_filter,
    owners,
    control_plane,
    host_stack,
    overlay,
    underlay,
    service,
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
    checksum,
    loss,
)
FAULTS: dict[str, Fault] = {fault.name: fault for family in FAMILIES for fault in family.FAULTS}


def find(name: str) -> Fault:
    from ..traps import TRAPS

    if name in FAULTS or name in TRAPS:
        return FAULTS.get(name) or TRAPS[name]
    near = [known for known in FAULTS if known.startswith(name.partition(":")[0])]
    hint = ", ".join(near) if near else "see the list: python -m tests.lab faults"
    raise state.LabError(f"there is no fault {name!r}; {hint}")

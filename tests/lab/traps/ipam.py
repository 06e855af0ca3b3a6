# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Subnets: overlaps, and pools that are used up."""

from __future__ import annotations

from ..faults.ipam import DockerNetwork
from ..faults.model import Fault, trap

TRAPS: tuple[Fault, ...] = (
    trap(
        "macvlan-on-lan",
        "a macvlan network lives in the subnet of the underlay, by design",
        DockerNetwork("192.0.2.0/24", "192.0.2.1", "macvlan", "lan", (("parent", "eth0"),)),
    ),
)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""System managers that leave others' things alone."""

from __future__ import annotations

from ..faults.managers import Flannel, ForeignRule, StandIn
from ..faults.model import Fault, trap

TRAPS: tuple[Fault, ...] = (
    trap(
        "networkd-with-foreign-rules",
        "systemd-networkd runs, and the rules of a container network are there on every host",
        ForeignRule(),
        StandIn("systemd-networkd"),
    ),
    trap("flannel-beside-docker", "a VXLAN device of another network beside Docker's, with the right MACs", Flannel()),
)

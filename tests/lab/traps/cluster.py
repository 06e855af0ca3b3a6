# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Clusters that are as they should be."""

from __future__ import annotations

from ..faults.changes import Command, ExtraContainer
from ..faults.cluster import Store, StoreConfigured
from ..faults.model import Fault, trap

TRAPS: tuple[Fault, ...] = (
    trap(
        "worker-without-task",
        "an overlay that only one host has a container on: the other hosts do not even know it",
        Command("docker network create --driver overlay --attachable seldom", "docker network rm seldom"),
        ExtraContainer("seldom-$host", "80", network="seldom"),
        host="node1",
    ),
    trap("kv-store", "the engines are configured with a store that is well", StoreConfigured(), Store()),
)

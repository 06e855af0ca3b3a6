# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernel tables and modes: oddities that break nothing."""

from __future__ import annotations

from ..faults.changes import Sysctl
from ..faults.kernel import NEIGHBOUR, SERVICE_RULE
from ..faults.model import Fault, trap

TRAPS: tuple[Fault, ...] = (
    trap(
        "bridge-nf-off",
        "bridged frames are not filtered, in a fleet of Swarm alone",
        Sysctl("net/bridge/bridge-nf-call-iptables", "0"),
    ),
    trap(
        "bridge-nf-on-translated",
        "a virtual address is translated to a container on the client's own bridge, and bridged frames are filtered",
        NEIGHBOUR,
        SERVICE_RULE,
    ),
    trap("loopback-forwarding-off", "lo does not forward", Sysctl("net/ipv4/conf/lo/forwarding", "0")),
    trap(
        "conntrack-liberal",
        "connection tracking is liberal about TCP windows",
        Sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1"),
    ),
)

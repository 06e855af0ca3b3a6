# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Addresses and routes of the underlay: which address a host sends from, and which way its packets go."""

from __future__ import annotations

from ..faults.addressing import SECOND_ADDRESS, DeadDevice, ForgetTunnel, route, rule
from ..faults.changes import Iptables, Sysctl
from ..faults.model import Fault, trap

VPN = DeadDevice("vpn0")

TRAPS: tuple[Fault, ...] = (
    trap(
        "strict-rp-filter",
        "rp_filter = 1 on the only NIC and on all",
        Sysctl("net/ipv4/conf/eth0/rp_filter", "1"),
        Sysctl("net/ipv4/conf/all/rp_filter", "1"),
    ),
    trap(
        "vpn-rule-without-route",
        "a VPN's policy rule whose table has no route to the peers",
        VPN,
        route("203.0.113.0/24 dev vpn0 table 52"),
        route("throw 192.0.2.0/24 table 52"),
        rule("pref 5270 lookup 52"),
    ),
    trap(
        "vpn-mark-rule",
        "a policy rule for marked packets only, whose table leads into a VPN's device",
        VPN,
        route("default dev vpn0 table 51820"),
        rule("pref 5209 fwmark 0xca6c lookup 51820"),
    ),
    trap(
        "masquerade-same-address",
        "everything that leaves the NIC is masqueraded, the tunnel too: to the address it has anyway",
        ForgetTunnel("back"),
        Iptables("-o eth0 -j MASQUERADE", "nat", "POSTROUTING"),
        ForgetTunnel("after"),
    ),
    trap("virtual-address", "a node has a virtual address of a high-availability pair besides its own", SECOND_ADDRESS),
    trap(
        "second-nic",
        "a node has a second NIC with a network of its own",
        DeadDevice("eth1", "203.0.113.12/24"),
    ),
)

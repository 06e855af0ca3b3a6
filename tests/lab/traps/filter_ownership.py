# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packet filters that look dangerous and let everything pass that has to."""

from __future__ import annotations

import dataclasses

from ..faults.changes import Command, Iptables, NftTable, Sysctl
from ..faults.filter_ownership import LEGACY, TUNNEL
from ..faults.model import Fault, trap

STRICT_INPUT = """\
  set peers { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 } }
  chain input {
    type filter hook input priority filter; policy drop;
    iifname { "lo", "docker0", "docker_gwbridge" } accept
    ct state established,related accept
    ct state invalid drop
    meta l4proto { icmp, ipv6-icmp } accept
    tcp dport { 22, 8080 } accept
    ip saddr @peers tcp dport { 2377, 7946 } accept
    ip saddr @peers udp dport { $tunnel, 7946 } accept
  }"""
STRICT_FORWARD = """\
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    ct state invalid drop
    iifname { "docker0", "docker_gwbridge" } oifname "eth0" accept
    iifname "eth0" oifname "docker0" ct status dnat accept
  }"""
COUNTERS = """\
  chain input {
    type filter hook input priority filter - 20; policy accept;
    udp dport $tunnel counter comment "tunnel"
    ct state established counter
  }
  chain forward {
    type filter hook forward priority filter - 20; policy accept;
    counter
  }"""
MARKS = """\
  chain early {
    type filter hook prerouting priority mangle; policy accept;
    udp dport $tunnel meta mark set 0x7 ct mark set meta mark
  }
  chain late {
    type filter hook postrouting priority mangle; policy accept;
    udp dport $tunnel ip dscp set cs3
  }"""

TRAPS: tuple[Fault, ...] = (
    trap(
        "strict-input",
        "INPUT has policy drop and accepts just what is needed, from the peers",
        NftTable("inet", "site", STRICT_INPUT),
    ),
    trap(
        "strict-forward",
        "a second forward chain has policy drop and accepts what the engine's accepts",
        NftTable("inet", "site", STRICT_FORWARD),
    ),
    trap(
        "drops-for-other-ports",
        "rules drop and reject ports nobody here uses, Linux's default VXLAN port among them",
        Iptables("-p udp --dport 8472 -j DROP"),
        Iptables("-p udp -m multiport --dports 111,2049,4788 -j REJECT"),
        Iptables("-p tcp --dport 3306 -j DROP"),
    ),
    trap(
        "tunnel-dropped-from-strangers",
        "the tunnel port is dropped from addresses outside of the fleet",
        Iptables(f"-s 203.0.113.0/24 {TUNNEL} -j DROP"),
        Iptables(f"-s 198.51.100.0/24 {TUNNEL} -j DROP"),
    ),
    trap("nft-counters-only", "an nft table counts the tunnel's packets", NftTable("inet", "count", COUNTERS)),
    trap("marks-and-dscp", "an nft table marks the tunnel's packets and sets their DSCP", NftTable("ip", "qos", MARKS)),
    dataclasses.replace(
        trap(
            "legacy-tables-empty",
            "the legacy tables are loaded, as by one look with iptables-legacy, and empty",
            Command("iptables-legacy -w -L -n", "true"),
        ),
        residue=LEGACY,
    ),
    trap(
        "bridge-nf-off",
        "bridged packets do not pass iptables: a Swarm does not need it",
        Sysctl("net/bridge/bridge-nf-call-iptables", "0"),
        info=("br-netfilter-missing",),
    ),
)

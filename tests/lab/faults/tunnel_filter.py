# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tunnel's port dropped by a host's own packet filter, in every place and way a filter can do that."""

from __future__ import annotations

from typing import Literal

from .changes import Command, Iptables, NftTable
from .model import ANY, Broken, Change, Expect, Fault, overlay_between, overlay_touching

CAUSE = "data-udp-blocked-host-fw"
TUNNEL = "-p udp --dport $tunnel"


def blocked(
    variant: str,
    summary: str,
    *changes: Change,
    out: bool = False,
    pairs: tuple[Broken, ...] | None = None,
    host: str = "node2",
    withdraws: Literal["", "others", "all"] = "",
    settle: float = 60,
) -> Fault:
    segment, direction = ("host-filter-out", "out") if out else ("host-filter-in", "in")
    expect = Expect((CAUSE,), (segment,), pairs or overlay_touching(), direction=direction)
    name = CAUSE + (variant and f":{variant}")
    return Fault(name, summary, changes, expect, host, settle=settle, withdraws=withdraws)


def table(family: str, body: str) -> NftTable:
    return NftTable(family, "guard", body)


POLICY_DROP = """\
  chain input {
    type filter hook input priority filter; policy drop;
    iifname { "lo", "docker0", "docker_gwbridge" } accept
    ct state established,related accept
    ip protocol icmp accept
    meta l4proto ipv6-icmp accept
    tcp dport { 22, 2377, 7946, 8080 } accept
    udp dport 7946 accept
  }"""
BARE_POLICY = """\
  chain input {
    type filter hook input priority filter; policy drop;
    iifname { "lo", "docker0", "docker_gwbridge" } accept
    meta l4proto { icmp, ipv6-icmp } accept
    tcp dport 22 accept
  }"""
NO_COUNTER = """\
  chain late {
    type filter hook input priority filter + 10; policy accept;
    udp dport $tunnel drop
  }"""
PORT_SET = """\
  set closed { type inet_service; elements = { 111, 2049, $tunnel, 8472 } }
  chain input {
    type filter hook input priority filter - 5; policy accept;
    meta l4proto udp th dport @closed counter drop
  }"""
INTERVAL_SET = """\
  set closed { type inet_service; flags interval; elements = { 1024-2376, 4000-5000, 60000-65535 } }
  chain input {
    type filter hook input priority filter; policy accept;
    ct state established,related accept
    udp dport @closed drop
  }"""
VERDICT_MAP = """\
  map services {
    type inet_proto . inet_service : verdict
    elements = { tcp . 7946 : accept, udp . $tunnel : jump closed, udp . 7946 : accept }
  }
  chain closed {
    limit rate 5/minute burst 5 packets log prefix "closed: "
    drop
  }
  chain input {
    type filter hook input priority filter; policy accept;
    meta l4proto . th dport vmap @services
  }"""
PEER_SET = """\
  set trusted { type ipv4_addr; flags interval; elements = { 203.0.113.0/24, 127.0.0.0/8 } }
  chain input {
    type filter hook input priority filter; policy accept;
    udp dport $tunnel ip saddr != @trusted counter drop comment "tunnel from trusted peers only"
  }"""
NETDEV_INGRESS = """\
  chain wire {
    type filter hook ingress device "eth0" priority 0; policy accept;
    udp dport $tunnel drop
  }"""
NETDEV_EGRESS = """\
  chain wire {
    type filter hook egress device "eth0" priority 0; policy accept;
    udp dport $tunnel drop
  }"""
PREROUTING = """\
  chain early {
    type filter hook prerouting priority raw; policy accept;
    iifname "eth0" udp dport $tunnel drop
  }"""
POSTROUTING = """\
  chain last {
    type filter hook postrouting priority mangle; policy accept;
    oifname "eth0" meta l4proto udp udp dport $tunnel counter drop
  }"""
OUTPUT_POLICY = """\
  chain output {
    type filter hook output priority filter; policy drop;
    oifname != "eth0" accept
    ct state established,related accept
    meta l4proto { tcp, icmp, ipv6-icmp } accept
    udp dport { 53, 7946 } accept
  }"""
BARE_OUTPUT = """\
  chain output {
    type filter hook output priority filter; policy drop;
    oifname { "lo", "docker0", "docker_gwbridge" } accept
    meta l4proto { icmp, ipv6-icmp } accept
    tcp sport 22 accept
  }"""
CT_NEW = """\
  chain input {
    type filter hook input priority filter; policy accept;
    iifname "eth0" meta l4proto udp udp dport != { 53, 7946 } ct state new counter drop
  }"""
RAW_PAYLOAD = """\
  chain input {
    type filter hook input priority filter; policy accept;
    ip protocol udp @th,16,16 $tunnel drop
  }"""

FAULTS = (
    blocked("", "iptables drops the tunnel port in INPUT", Iptables(f"{TUNNEL} -j DROP")),
    blocked("reject", "iptables rejects the tunnel port in INPUT", Iptables(f"{TUNNEL} -j REJECT")),
    blocked(
        "raw", "iptables drops the tunnel port in raw PREROUTING", Iptables(f"{TUNNEL} -j DROP", "raw", "PREROUTING")
    ),
    blocked(
        "mangle", "iptables drops the tunnel port in mangle INPUT", Iptables(f"{TUNNEL} -j DROP", "mangle", "INPUT")
    ),
    blocked(
        "user-chain",
        "iptables INPUT jumps to a chain that drops the tunnel port among others",
        Command("iptables -w -N HARDENING", "iptables -w -X HARDENING"),
        Iptables(
            '-p udp -m multiport --dports 111,2049,$tunnel -m comment --comment "site policy 12" -j DROP',
            chain="HARDENING",
        ),
        Iptables("-i eth0 -j HARDENING"),
    ),
    blocked(
        "one-peer",
        "iptables drops the tunnel port in INPUT from one peer only",
        Iptables(f"-s $peer_address {TUNNEL} -j DROP"),
        pairs=overlay_between(),
    ),
    blocked(
        "nft-no-counter", "a second base chain, after Docker's, drops without a counter", table("inet", NO_COUNTER)
    ),
    blocked(
        "nft-policy", "a base chain with policy drop accepts everything but the tunnel port", table("inet", POLICY_DROP)
    ),
    blocked(
        "bare-policy",
        "a base chain with policy drop accepts echo and ssh, and not even what answers the host itself",
        table("inet", BARE_POLICY),
        pairs=(*overlay_touching(), Broken("node", ANY, "$host", "$host is down for the managers")),
        withdraws="all",
        settle=120,
    ),
    blocked("nft-set", "an nft set of ports holds the tunnel port", table("inet", PORT_SET)),
    blocked("nft-interval", "an nft interval set covers the tunnel port", table("ip", INTERVAL_SET)),
    blocked(
        "nft-verdict-map",
        "an nft verdict map sends the tunnel port to a chain that logs and drops",
        table("inet", VERDICT_MAP),
    ),
    blocked(
        "nft-trusted",
        "the tunnel port is for trusted sources only, and the peers are not among them",
        table("inet", PEER_SET),
    ),
    blocked("nft-prerouting", "an nft chain at hook prerouting drops the tunnel port", table("inet", PREROUTING)),
    blocked("nft-ct-new", "nft drops what conntrack calls new: tunnel packets always are", table("inet", CT_NEW)),
    blocked("nft-payload", "nft drops by raw bytes of the transport header", table("ip", RAW_PAYLOAD)),
    blocked(
        "netdev-ingress",
        "an nft chain at the NIC's ingress hook drops the tunnel port",
        table("netdev", NETDEV_INGRESS),
    ),
    blocked(
        "output", "iptables drops the tunnel port in OUTPUT", Iptables(f"{TUNNEL} -j DROP", chain="OUTPUT"), out=True
    ),
    blocked(
        "output-one-peer",
        "iptables drops the tunnel port in OUTPUT to one peer only",
        Iptables(f"-d $peer_address {TUNNEL} -j DROP", chain="OUTPUT"),
        out=True,
        pairs=overlay_between(),
    ),
    blocked(
        "output-policy",
        "an nft chain at hook output with policy drop forgets the tunnel port",
        table("inet", OUTPUT_POLICY),
        out=True,
    ),
    blocked(
        "bare-output",
        "an nft chain at hook output with policy drop accepts echo and what answers ssh",
        table("inet", BARE_OUTPUT),
        out=True,
        pairs=(*overlay_touching(), Broken("node", ANY, "$host", "$host is down for the managers")),
        withdraws="others",
        settle=120,
    ),
    blocked(
        "postrouting", "an nft chain at hook postrouting drops the tunnel port", table("inet", POSTROUTING), out=True
    ),
    blocked(
        "netdev-egress",
        "an nft chain at the NIC's egress hook drops the tunnel port",
        table("netdev", NETDEV_EGRESS),
        out=True,
    ),
)

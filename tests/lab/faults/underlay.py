# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The underlay: hosts cut off, peers unrouted, and the tunnel's port dropped in the fabric, where no host sees why."""

from __future__ import annotations

from typing import Literal

from .changes import AddressLost, Command, LinkDown, NftTable
from .model import ANY, Broken, Change, Expect, Fault, overlay_between, overlay_touching

UNREACHABLE = "underlay-unreachable"
BLOCKED = "data-udp-blocked-network"

CUT_OFF = (
    Broken("host", "$host", ANY, "$host to every other host"),
    Broken("host", ANY, "$host", "every other host to $host"),
    Broken("node", ANY, "$host", "$host is down for the managers"),
    Broken("node", "$host", ANY, "every other node is down for the manager $host"),
    Broken("published", "outside", "$host", "published ports of $host"),
    Broken("egress-overlay", "$host", "outside", "containers of $host to the outside"),
    Broken("egress-bridge", "$host", "outside", "containers of $host to the outside"),
    *overlay_touching(),
)
ONE_PEER = (
    Broken("host", "$host", "$peer", "$host to $peer"),
    Broken("host", "$peer", "$host", "$peer to $host"),
    *overlay_between(),
)


def cut_off(variant: str, summary: str, change: Change, withdraws: Literal["others", "all"] = "all") -> Fault:
    expect = Expect((UNREACHABLE,), ("underlay",), CUT_OFF)
    return Fault(UNREACHABLE + variant, summary, (change,), expect, settle=90, withdraws=withdraws)


def no_route(variant: str, summary: str, kind: str) -> Fault:
    route = f"{kind} $peer_address/32"
    return one_peer(variant, summary, Command(f"ip route add {route}", f"ip route del {route}"))


def one_peer(variant: str, summary: str, change: Change) -> Fault:
    return Fault(
        UNREACHABLE + variant, summary, (change,), Expect((UNREACHABLE,), ("underlay", "host-stack"), ONE_PEER)
    )


def lost(
    variant: str,
    summary: str,
    rule: str,
    pairs: tuple[Broken, ...],
    hosts: tuple[str, ...] = ("$host",),
    direction: str | None = None,
) -> Fault:
    body = f"  chain forward {{\n    type filter hook forward priority 0; policy accept;\n    {rule}\n  }}"
    change = NftTable("bridge", "loss_$host", body, "fabric")
    expect = Expect((BLOCKED,), ("underlay",), pairs, hosts, direction)
    return Fault(BLOCKED + variant, summary, (change,), expect)


BOTH_WAYS = 'udp dport $tunnel meta iifname "$port" drop; udp dport $tunnel meta oifname "$port" drop'
SILENCE = """\
  chain forward {
    type filter hook forward priority 0; policy accept;
    iifname "$port" drop
    oifname "$port" drop
  }
  chain input {
    type filter hook input priority 0; policy accept;
    iifname "$port" drop
  }
  chain output {
    type filter hook output priority 0; policy accept;
    oifname "$port" drop
  }"""

FAULTS = (
    cut_off("", "eth0 is down on the host", LinkDown("eth0"), "others"),
    cut_off(":address", "the host has lost its address, and all routes with it", AddressLost("eth0"), "others"),
    cut_off(":port", "the host's port on the switch is down: its NIC has no carrier", LinkDown("$port", "fabric")),
    cut_off(
        ":silence",
        "the fabric drops everything from and to the host",
        NftTable("bridge", "silence_$host", SILENCE, "fabric"),
    ),
    no_route(":blackhole", "a blackhole route to a peer", "blackhole"),
    no_route(":unreachable", "an unreachable route to a peer", "unreachable"),
    no_route(":wrong-gateway", "a route to a peer through an address nobody has", "via 192.0.2.250"),
    one_peer(
        ":policy-rule",
        "a policy rule prohibits what is for a peer",
        Command(
            "ip rule add to $peer_address prohibit priority 100", "ip rule del to $peer_address prohibit priority 100"
        ),
    ),
    one_peer(
        ":ipsec",
        "an IPsec policy blocks what is for a peer",
        Command(
            "ip xfrm policy add src $address dst $peer_address dir out action block",
            "ip xfrm policy delete src $address dst $peer_address dir out",
        ),
    ),
    lost("", "the fabric drops the tunnel port, both ways", BOTH_WAYS, overlay_touching(), direction="both"),
    lost(
        ":in",
        "the fabric drops the tunnel port towards the host",
        'udp dport $tunnel oifname "$port" drop',
        overlay_touching(),
        direction="in",
    ),
    lost(
        ":out",
        "the fabric drops the tunnel port from the host",
        'udp dport $tunnel iifname "$port" drop',
        overlay_touching(),
        direction="out",
    ),
    lost(
        ":one-pair",
        "the fabric drops the tunnel port from the host to one peer",
        'udp dport $tunnel iifname "$port" oifname "$peer_port" drop',
        overlay_between(),
        ("$host", "$peer"),
    ),
)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The control plane cut: gossip (7946) and management (2377) dropped by hosts, engines that are down."""

from __future__ import annotations

from typing import Literal

from .changes import EngineFreeze, EngineStop, Iptables, NftTable
from .model import ANY, Broken, Change, Expect, Fault, overlay_touching

GOSSIP = "gossip-7946-blocked"
MANAGEMENT = "mgmt-2377-blocked"
ENGINE = "engine-down"


ALL_DOWN = Broken("node", "$host", ANY, "every other node is down for $host")
NODE_DOWN = Broken("node", ANY, "$host", "$host is down for the managers")


def gossip(
    variant: str,
    summary: str,
    *changes: Change,
    out: bool = False,
    withdraws: Literal["", "others"] = "others",
    pairs: tuple[Broken, ...] | None = None,
) -> Fault:
    segments = ("host-filter-out" if out else "host-filter-in", "control-plane")
    expect = Expect((GOSSIP,), segments, pairs or overlay_touching(), direction="out" if out else "in")
    # Whether the host itself withdraws is open: its own questions by TCP are still answered, and at OUTPUT a dropped
    # datagram is an error to its sender, which then suspects nobody.
    name = GOSSIP + (variant and f":{variant}")
    return Fault(name, summary, changes, expect, settle=120, withdraws=withdraws)


def management(
    variant: str,
    summary: str,
    *changes: Change,
    host: str = "node1",
    out: bool = False,
    node: Broken = NODE_DOWN,
    settle: float = 60,
) -> Fault:
    segments = ("host-filter-out" if out else "host-filter-in", "control-plane")
    expect = Expect((MANAGEMENT,), segments, (node,), direction="out" if out else "in")
    return Fault(MANAGEMENT + (variant and f":{variant}"), summary, changes, expect, host, settle=settle)


def engine_down(variant: str, summary: str, number: int, *more: Broken) -> Fault:
    pairs = (Broken("engine", "$host", "$host", "the engine of $host"), NODE_DOWN, *overlay_touching(), *more)
    return Fault(
        ENGINE + (variant and f":{variant}"),
        summary,
        (EngineStop(number),),
        Expect((ENGINE,), ("engine",), pairs),
        settle=90,
        withdraws="others",
        residue="containers that are started anew have new addresses, links and namespaces",
    )


NFT_GOSSIP = """\
  chain input {
    type filter hook input priority filter; policy accept;
    meta l4proto { tcp, udp } th dport 7946 drop
  }"""
NFT_MANAGEMENT = """\
  chain input {
    type filter hook input priority filter; policy accept;
    iifname "eth0" tcp dport { 2375, 2376, 2377 } counter reject with tcp reset
  }"""

NO_ANSWERS = """\
  chain input {
    type filter hook input priority filter; policy drop;
    iifname { "lo", "docker0", "docker_gwbridge" } accept
    meta l4proto { icmp, ipv6-icmp } accept
    tcp dport { 22, 2377, 7946, 8080 } accept
    udp dport { 4789, 7946 } accept
  }"""

FAULTS = (
    gossip(
        "",
        "iptables drops gossip (tcp and udp) in INPUT",
        Iptables("-p tcp --dport 7946 -j DROP"),
        Iptables("-p udp --dport 7946 -j DROP"),
    ),
    gossip("nft", "an nft table drops gossip in one rule without a counter", NftTable("inet", "guard", NFT_GOSSIP)),
    gossip(
        "output",
        "iptables drops gossip (tcp and udp, questions and answers) in OUTPUT",
        Iptables("-p tcp -m multiport --ports 7946 -j DROP", chain="OUTPUT"),
        Iptables("-p udp -m multiport --ports 7946 -j DROP", chain="OUTPUT"),
        out=True,
    ),
    gossip(
        "answers",
        "an nft chain with policy drop accepts the Swarm's ports, and not what answers the host itself",
        NftTable("inet", "guard", NO_ANSWERS),
        withdraws="",
        pairs=(NODE_DOWN,),
    ),
    management(
        "",
        "iptables drops 2377 in INPUT of a manager",
        Iptables("-i eth0 -p tcp --dport 2377 -j DROP"),
        node=ALL_DOWN,
    ),
    management(
        "one-node",
        "iptables drops 2377 in INPUT of a manager from one node only",
        Iptables("-s $peer_address -p tcp --dport 2377 -j DROP"),
        node=Broken("node", "$host", "$peer", "$peer is down for $host"),
    ),
    management(
        "nft-reset",
        "an nft table resets 2377 on a manager",
        NftTable("inet", "guard", NFT_MANAGEMENT),
        node=ALL_DOWN,
    ),
    management(
        "output",
        "iptables drops 2377 in OUTPUT of a worker",
        Iptables("-p tcp --dport 2377 -j DROP", chain="OUTPUT"),
        host="node2",
        out=True,
    ),
    engine_down("", "dockerd was killed (SIGKILL): its containers run on, gossip takes it for failed", 9),
    engine_down(
        "stopped",
        "dockerd was stopped (SIGTERM): its containers are stopped with it",
        15,
        Broken("published", "outside", "$host", "published ports of $host"),
        Broken("egress-overlay", "$host", "outside", "containers of $host to the outside"),
        Broken("egress-bridge", "$host", "outside", "containers of $host to the outside"),
    ),
    Fault(
        f"{ENGINE}:hangs",
        "dockerd stands still (SIGSTOP): it accepts connections and answers nothing",
        (EngineFreeze(),),
        Expect((ENGINE,), ("engine",), (NODE_DOWN,)),
        settle=120,
    ),
)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who owns the packet filter: rules and chains that another tool made, flushed, moved or hides."""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import Any

from .. import engine
from .changes import Command, EngineStop, Iptables, NftTable
from .model import (
    Broken,
    Change,
    Expect,
    Fault,
    Place,
    egress,
    overlay_touching,
    published,
)

TUNNEL = "-p udp --dport $tunnel"
WEB = "web-$host"
ROUTED = (egress("egress-bridge"), egress("egress-overlay"))


def web_address(place: Place) -> str:
    """The address of the host's published container on its bridge."""
    return place.host.container_address(place.fill(WEB), "bridge")


@dataclasses.dataclass(frozen=True)
class Ruleset:
    """Commands that change what iptables made; afterwards every table, chain and rule of it is back, in its order.

    $web is the published container's address.
    """

    commands: tuple[str, ...]

    def apply(self, place: Place) -> dict[str, str]:
        saved = {
            "rules": place.host.run(["iptables-save", "-c"]).stdout,
            "order": skeleton(json.loads(place.host.run(["nft", "-j", "list", "ruleset"]).stdout)["nftables"]),
        }
        for command in self.commands:
            place.run("host", shlex.split(command.replace("$web", web_address(place))))
        return saved

    def undo(self, place: Place, saved: dict[str, str]) -> None:
        place.host.run(["nft", "-f", "-"], input=saved["order"])
        # With a flush of its own it would put the chains into another order.
        place.host.run(["iptables-restore", "-c", "--noflush"], input=saved["rules"])


@dataclasses.dataclass(frozen=True)
class WebRule:
    """An iptables rule for the host's published container, put first in a chain; $web is its address."""

    rule: str
    table: str = "filter"
    chain: str = "FORWARD"

    def _rule(self, address: str) -> Iptables:
        return Iptables(self.rule.replace("$web", address), self.table, self.chain)

    def apply(self, place: Place) -> str:
        address = web_address(place)
        self._rule(address).apply(place)
        return address

    def undo(self, place: Place, saved: str) -> None:
        self._rule(saved).undo(place, None)


def skeleton(objects: list[dict[str, Any]]) -> str:
    """iptables' tables and chains without their rules, in the order they were made: iptables-restore has its own."""
    lines = []
    for item in objects:
        table, chain = item.get("table"), item.get("chain")
        if table and table["family"] == "ip":
            lines.append(f"add table ip {table['name']}")
        if chain and chain["family"] == "ip":
            base = (
                "type {type} hook {hook} priority {prio}; policy {policy};".format(**chain) if "hook" in chain else ""
            )
            lines += [f"add chain ip {chain['table']} {chain['name']} {{ {base} }}"]
            lines += [f"flush chain ip {chain['table']} {chain['name']}"]
    return "\n".join(lines) + "\n"


@dataclasses.dataclass(frozen=True)
class EngineOption:
    """The engine started anew with one more key in daemon.json, as after a boot: without the rules it once made."""

    key: str
    value: Any

    def apply(self, place: Place) -> str:
        before = place.host.path("/etc/docker/daemon.json").read_text()
        EngineStop(15).apply(place)
        place.host.run(["nft", "flush", "ruleset"])
        place.host.write("/etc/docker/daemon.json", json.dumps({**json.loads(before), self.key: self.value}, indent=2))
        engine.start_engine(place.host)
        return before

    def undo(self, place: Place, saved: str) -> None:
        EngineStop(15).apply(place)
        place.host.write("/etc/docker/daemon.json", saved)
        engine.start_engine(place.host)


def tunnel(name: str, summary: str, *changes: Change, residue: str = "") -> Fault:
    cause = name.partition(":")[0]
    expect = Expect((cause,), ("host-filter-in",), overlay_touching(), direction="in")
    return Fault(name, summary, changes, expect, residue=residue)


def routed(
    name: str, summary: str, change: Change, *pairs: Broken, segments: tuple[str, ...], residue: str = ""
) -> Fault:
    cause = name.partition(":")[0]
    return Fault(name, summary, (change,), Expect((cause,), segments, pairs), residue=residue)


LEGACY = "the legacy filter table stays loaded (empty): the kernel cannot unload it from a namespace"

SECOND_POLICY = """\
  chain input {
    type filter hook input priority filter + 10; policy drop;
    iifname { "lo", "docker0", "docker_gwbridge" } accept
    ct state established,related accept
    meta l4proto { icmp, ipv6-icmp } accept
    tcp dport { 22, 2377, 7946, 8080 } accept
    udp dport 7946 accept
  }"""
FIREWALLD = """\
  chain filter_INPUT {
    type filter hook input priority filter + 10; policy accept;
    ct state { established, related } accept
    iifname "lo" accept
    iifname "eth0" jump filter_IN_public
  }
  chain filter_IN_public {
    tcp dport { 22, 2377, 7946, 8080 } accept
    udp dport 7946 accept
    meta l4proto { icmp, ipv6-icmp } accept
    udp dport 1024-65535 reject with icmpx admin-prohibited
  }"""
FORWARD_POLICY = """\
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
  }"""
CALICO = '-m comment --comment "cali:JG2ey8cuTZGE7S Drop IPv4 VXLAN packets from non-allowed hosts"'

FAULTS = (
    tunnel(
        "nft-basechain-override",
        "iptables accepts the tunnel port from the peers; an nft table with policy drop does not",
        Iptables(f"-s 192.0.2.0/24 {TUNNEL} -j ACCEPT"),
        NftTable("inet", "guard", SECOND_POLICY),
    ),
    tunnel(
        "nft-basechain-override:firewalld",
        "iptables accepts the tunnel port; firewalld's own table rejects it",
        Iptables(f"{TUNNEL} -j ACCEPT"),
        NftTable("inet", "firewalld", FIREWALLD),
    ),
    tunnel(
        "legacy-nft-mix",
        "iptables-legacy drops the tunnel port: nft and iptables do not show it",
        Iptables(f"{TUNNEL} -j DROP", tool="iptables-legacy"),
        residue=LEGACY,
    ),
    routed(
        "legacy-nft-mix:forward",
        "the legacy FORWARD chain has policy drop, and Docker's accepts are in nf_tables",
        Command("iptables-legacy -w -P FORWARD DROP", "iptables-legacy -w -P FORWARD ACCEPT"),
        *ROUTED,
        published(),
        segments=("host-filter-out", "host-filter-in"),
        residue=LEGACY,
    ),
    tunnel(
        "calico-drops-foreign-vxlan",
        "Calico's rule drops VXLAN of nodes that are not its own; the Swarm shares its port",
        Command("iptables -w -N cali-INPUT", "iptables -w -X cali-INPUT"),
        Iptables(
            f"{TUNNEL} {CALICO} ! -s 203.0.113.0/24 -m addrtype --dst-type LOCAL -j DROP",
            chain="cali-INPUT",
        ),
        Iptables("-j cali-INPUT"),
    ),
    routed(
        "ruleset-flushed",
        "nft flush ruleset: nothing of Docker's is left; its proxy still answers for published ports",
        Ruleset(("nft flush ruleset",)),
        *ROUTED,
        segments=("nat",),
    ),
    routed(
        "ruleset-flushed:filter",
        "iptables -F: the filter chains are empty, the policy of FORWARD is still drop",
        Ruleset(("iptables -w -F",)),
        *ROUTED,
        published(),
        segments=("nat",),
    ),
    routed(
        "ruleset-flushed:nat",
        "iptables -t nat -F: no address translation is left; Docker's proxy still answers for published ports",
        Ruleset(("iptables -w -t nat -F",)),
        *ROUTED,
        segments=("nat",),
    ),
    routed(
        "forward-policy-drop",
        "FORWARD has policy drop, and the rule that accepts what comes from docker0 is gone",
        Ruleset(("iptables -w -D FORWARD -i docker0 ! -o docker0 -j ACCEPT",)),
        egress("egress-bridge"),
        published(),
        segments=("host-stack",),
    ),
    routed(
        "forward-policy-drop:nft-table",
        "a hardened nftables.conf: a forward chain of its own with policy drop",
        NftTable("inet", "hardening", FORWARD_POLICY),
        *ROUTED,
        published(),
        segments=("host-stack",),
    ),
    Fault(
        "docker-iptables-false",
        "the engine was started with iptables: false, so nothing is masqueraded",
        (EngineOption("iptables", False),),
        Expect(("docker-iptables-false",), ("engine", "nat"), ROUTED),
        settle=90,
        withdraws="",
        residue="containers that are started anew have new addresses, links and namespaces",
    ),
)

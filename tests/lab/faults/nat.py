# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Address translation and what containers publish: masquerading, published ports, rules for one container or port."""

from __future__ import annotations

import dataclasses
import time

from .. import reach
from .changes import Iptables, NftTable
from .filter_ownership import Ruleset, WebRule, web_address
from .model import Broken, Change, Expect, Fault, Place, egress, latent, overlay_touching, published

MASQUERADE = "masquerade-missing"
PUBLISHED = "published-port-rule-missing"
FILTERED = "container-port-filtered"
DNAT = "iptables -w -t nat -D DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination $web:80"


@dataclasses.dataclass(frozen=True)
class ContainerTable:
    """An nftables table in a container's own network namespace."""

    container: str
    body: str
    name: str = "guard"

    def _run(self, place: Place, *argv: str, text: str | None = None) -> None:
        netns = place.host.container_netns(place.fill(self.container))
        place.host.run(argv, input=text, netns=netns)

    def apply(self, place: Place) -> None:
        self._run(place, "nft", "-f", "-", text=place.fill(f"table inet {self.name} {{\n{self.body}\n}}\n"))

    def undo(self, place: Place, saved: None) -> None:
        self._run(place, "nft", "delete", "table", "inet", self.name)


@dataclasses.dataclass(frozen=True)
class DirectRequest:
    """The peer asks for the published container by its address, over a route it is given for that moment."""

    def apply(self, place: Place) -> None:
        address = web_address(place)
        place.peer.run(["ip", "route", "add", f"{address}/32", "via", place.host.address])
        try:
            reach.echo(place.peer.netns, {address}, 0.5)
        finally:
            place.peer.run(["ip", "route", "del", f"{address}/32"])

    def undo(self, place: Place, saved: None) -> None:
        """Nothing stays."""


@dataclasses.dataclass(frozen=True)
class WithoutProxy:
    """The engine's userland proxies killed; they are started again by hand with the same words."""

    def apply(self, place: Place) -> list[list[str]]:
        found = []
        for entry in place.host.path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            words = (entry / "cmdline").read_text().split("\0")[:-1]
            if words and words[0].endswith("docker-proxy"):
                found.append(words)
                place.host.run(["kill", "-9", entry.name])
        return found

    def undo(self, place: Place, saved: list[list[str]]) -> None:
        for words in saved:
            # The engine gives it descriptor 3 to report to; it closes that, whatever it is.
            place.host.start(["sh", "-c", 'exec "$@" 3>/dev/null', "sh", *words], log="/dev/null")
        time.sleep(0.5)


def masquerade(variant: str, summary: str, change: Change, *pairs: Broken) -> Fault:
    return Fault(MASQUERADE + (variant and f":{variant}"), summary, (change,), Expect((MASQUERADE,), ("nat",), pairs))


def filtered(
    variant: str,
    summary: str,
    change: Change,
    *pairs: Broken,
    segment: str = "host-filter-in",
    severity: str = "critical",
    direction: str | None = None,
) -> Fault:
    name = FILTERED + (variant and f":{variant}")
    expect = Expect((FILTERED,), (segment,), pairs, direction=direction, severity=severity)
    return Fault(name, summary, (change,), expect)


ONLY_WEB = Broken("published", "outside", "$host:8080", "port 8080 of $host")
PAGE_INPUT = """\
  chain input {
    type filter hook input priority filter; policy accept;
    tcp dport 80 counter drop comment "no plain http"
  }"""
PAGE_OUTPUT = """\
  chain output {
    type filter hook output priority filter; policy accept;
    tcp sport 80 drop
  }"""
BRIDGE = """\
  chain forward {
    type filter hook forward priority filter; policy accept;
    ether type ip ip protocol icmp counter drop
    ether type ip tcp dport 80 counter drop
  }"""

FAULTS = (
    masquerade(
        "",
        "the MASQUERADE rule of docker0's subnet is gone",
        Ruleset(("iptables -w -t nat -D POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",)),
        egress("egress-bridge"),
    ),
    masquerade(
        "gwbridge",
        "the MASQUERADE rule of docker_gwbridge's subnet is gone",
        Ruleset(("iptables -w -t nat -D POSTROUTING -s 172.18.0.0/16 ! -o docker_gwbridge -j MASQUERADE",)),
        egress("egress-overlay"),
    ),
    masquerade(
        "exempted",
        "a rule before Docker's exempts private addresses from masquerading",
        Ruleset(("iptables -w -t nat -I POSTROUTING -s 172.16.0.0/12 -j ACCEPT",)),
        egress("egress-bridge"),
        egress("egress-overlay"),
    ),
    Fault(
        f"{PUBLISHED}:stale",
        "a DNAT rule of a container that is gone catches the published port",
        (Ruleset(("iptables -w -t nat -I DOCKER -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.99:80",)),),
        Expect((PUBLISHED,), ("nat",), (published(),)),
    ),
    Fault(
        PUBLISHED,
        "the DNAT rule of a published port is gone, and no proxy listens",
        (Ruleset((DNAT,)), WithoutProxy()),
        Expect((PUBLISHED,), ("nat",), (published(),)),
    ),
    latent(
        f"{PUBLISHED}:proxy",
        "the DNAT rule of a published port is gone; the engine's proxy still answers",
        Ruleset((DNAT,)),
        segments=("nat",),
    ),
    filtered(
        "",
        "a rule in FORWARD drops what goes to the container",
        WebRule("-d $web -p tcp --dport 80 -j DROP"),
        ONLY_WEB,
    ),
    filtered(
        "docker-user",
        "the operator's DOCKER-USER drops the container's port, with a comment",
        Iptables('-i eth0 -p tcp --dport 80 -m comment --comment "ticket 7" -j DROP', chain="DOCKER-USER"),
        ONLY_WEB,
        severity="warning",
    ),
    filtered(
        "docker-user-egress",
        "the operator's DOCKER-USER rejects what the container sends out",
        WebRule("-s $web -o eth0 -m conntrack --ctstate NEW -j REJECT", chain="DOCKER-USER"),
        egress("egress-bridge"),
        segment="host-filter-out",
        severity="warning",
    ),
    filtered(
        "raw",
        "raw PREROUTING drops the published port before it is translated",
        Iptables("-i eth0 -p tcp --dport 8080 -j DROP", "raw", "PREROUTING"),
        ONLY_WEB,
    ),
    filtered(
        "container",
        "the filter of the published container's own namespace drops its port",
        ContainerTable("web-$host", PAGE_INPUT),
        ONLY_WEB,
        segment="container",
    ),
    filtered(
        "container-answers",
        "the filter of the published container's own namespace drops its answers",
        ContainerTable("web-$host", PAGE_OUTPUT),
        ONLY_WEB,
        segment="container",
    ),
    filtered(
        "bridge",
        "a bridge table in the overlay's namespace drops echo and HTTP on its bridge",
        NftTable("bridge", "guard", BRIDGE, where="overlay"),
        *overlay_touching(),
        segment="bridge",
    ),
    latent(
        "docker28-raw-drop",
        "the rule engines from 28 on have against direct routing, and a peer that routes to the container",
        WebRule("-d $web ! -i docker0 -j DROP", "raw", "PREROUTING"),
        DirectRequest(),
        segments=("host-filter-in",),
    ),
)

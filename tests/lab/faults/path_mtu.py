# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Paths that take less than the NICs at their ends, in the fabric where no host can see it.

The survey's echoes are small and pass all of these, so each fault proves itself, with a page and with echoes.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from .. import engine, reach, state
from ..fleet import Host
from ..network import BRIDGE, GATEWAY, index_of, netlink, set_link
from .changes import NftTable
from .model import Change, Expect, Fault, Place

TOO_LARGE = "overlay-mtu-gt-path"
BLACK_HOLE = "pmtu-blackhole-icmp"
FRAGMENTS = "fragments-dropped"
SMALL = 1400
CALL_IPTABLES = "net.bridge.bridge-nf-call-iptables"
FABRIC_SYSCTLS = (
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.send_redirects",
    f"net.ipv4.conf.{BRIDGE}.send_redirects",
)


@dataclasses.dataclass(frozen=True)
class PortMtu:
    """The MTU of the host's port on the fabric's bridge: a switch port, which can only drop what is larger.

    br_netfilter would have the bridge fragment like a router, which no switch does.
    """

    mtu: int = SMALL

    def apply(self, place: Place) -> dict[str, Any]:
        def work(ip: Any) -> dict[str, int]:
            names = (place.host.port, BRIDGE)
            before = {name: int(ip.get_links(index_of(ip, name))[0].get("mtu")) for name in names}
            set_link(ip, place.host.port, mtu=self.mtu)
            return before

        saved = sysctl(place, "fabric", CALL_IPTABLES)
        sysctl(place, "fabric", CALL_IPTABLES, "0")
        return {"sysctl": saved, "mtu": netlink(place.lab.fabric.netns, work)}

    def undo(self, place: Place, saved: dict[str, Any]) -> None:
        def work(ip: Any) -> None:
            for name, mtu in saved["mtu"].items():
                set_link(ip, name, mtu=mtu)

        netlink(place.lab.fabric.netns, work)
        sysctl(place, "fabric", CALL_IPTABLES, saved["sysctl"])


@dataclasses.dataclass(frozen=True)
class Routed:
    """The host and its peer send to one another through a router, the fabric, that takes C(mtu) bytes between them.

    Each gets a route to the other by the gateway; C(mtu lock) makes the router obey it for what it forwards.
    """

    mtu: int = SMALL

    def apply(self, place: Place) -> dict[str, Any]:
        saved: dict[str, Any] = {"fabric": {}}
        for key, value in zip(FABRIC_SYSCTLS, ("1", "0", "0")):
            saved["fabric"][key] = sysctl(place, "fabric", key)
            sysctl(place, "fabric", key, value)
        for one, other in ((place.host, place.peer), (place.peer, place.host)):
            route = ["ip", "route", "add", f"{other.address}/32"]
            place.lab.fabric.run([*route, "dev", BRIDGE, "mtu", "lock", str(self.mtu)])
            one.run(["ip", "route", "add", f"{other.address}/32", "via", GATEWAY])
        return saved

    def undo(self, place: Place, saved: dict[str, Any]) -> None:
        for one, other in ((place.host, place.peer), (place.peer, place.host)):
            one.run(["ip", "route", "del", f"{other.address}/32", "via", GATEWAY])
            place.lab.fabric.run(["ip", "route", "del", f"{other.address}/32", "dev", BRIDGE])
        for key, value in saved["fabric"].items():
            sysctl(place, "fabric", key, value)


def sysctl(place: Place, where: str, key: str, value: str | None = None) -> str:
    word = key if value is None else f"{key}={value}"
    return place.run(where, ["sysctl", "-n", word] if value is None else ["sysctl", "-q", "-w", word]).stdout.strip()


@dataclasses.dataclass(frozen=True)
class ForgottenPaths:
    """Path MTUs that kernels have cached, forgotten when the fault comes and when it goes."""

    def apply(self, place: Place) -> None:
        for host in place.lab.docker_hosts:
            spaces = [host.netns, host.overlay_netns()]
            spaces += [host.container_netns(c.name) for c in host.docker.containers.list() if c.name.startswith("app-")]
            for netns in spaces:
                host.run(["ip", "route", "flush", "cache"], netns=netns)

    def undo(self, place: Place, saved: None) -> None:
        self.apply(place)


@dataclasses.dataclass(frozen=True)
class NewConnections:
    """The TCP connections of the host with the others are made anew, as if the path had always been what it is.

    One from before still sends segments of the old size: the Swarm's own would stall at the first message of that size.
    """

    seconds: float = 30.0

    def apply(self, place: Place) -> None:
        peers = [host for host in place.lab.docker_hosts if host is not place.host]
        for peer in peers:
            place.host.run(["ss", "-K", "-Htn", "state", "established", "dst", peer.address])
        if not state.wait_for(lambda: self._joined(place.host), self.seconds, 0.5):
            raise state.LabError(f"{place.host.name} has no connection to a manager of its Swarm any more")

    def _joined(self, host: Host) -> bool:
        ports = "( sport = 2377 or dport = 2377 )"
        return bool(host.run(["ss", "-Htn", "state", "established", ports]).stdout)

    def undo(self, place: Place, saved: None) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class Proof:
    """Changes nothing: waits until a page between two containers stalls, or goes on coming, each way as said.

    C(stalls): (from, to) of containers that fetch a page of the other; C(comes): those that still get it.
    """

    stalls: tuple[tuple[str, str], ...] = ()
    comes: tuple[tuple[str, str], ...] = ()
    seconds: float = 20.0

    def _body(self, place: Place, ends: tuple[str, str]) -> int:
        places: dict[str, Host] = {"host": place.host, "peer": place.peer, "other": place.other}
        src, dst = places[ends[0]], places[ends[1]]
        address = dst.container_address(f"app-{dst.name}")
        return reach.http_body(src.container_netns(f"app-{src.name}"), address, 80, 1.5)

    def apply(self, place: Place) -> None:
        deadline = time.monotonic() + self.seconds
        while True:
            wrong = [f"{ends} gets its page" for ends in self.stalls if self._body(place, ends) == engine.BODY_SIZE]
            wrong += [f"{ends} gets no page" for ends in self.comes if self._body(place, ends) != engine.BODY_SIZE]
            if not wrong:
                return
            if time.monotonic() > deadline:
                raise state.LabError(f"it does not bite: {', '.join(wrong)}")
            time.sleep(0.5)

    def undo(self, place: Place, saved: None) -> None:
        pass


def larger_dropped(name: str, *rules: str) -> NftTable:
    """Frames whose packets are larger vanish in the fabric: a switch on the way between two ports."""
    lines = "\n".join(f"    {rule} meta length > {SMALL} drop" for rule in rules)
    chain = f"  chain forward {{\n    type filter hook forward priority 0; policy accept;\n{lines}\n  }}"
    return NftTable("bridge", f"{name}_$host", chain, "fabric")


def clamped(*rules: str) -> NftTable:
    """The same by a router that clamps the TCP it sees, as many do on narrow lines: the hosts' own, none in tunnels."""
    syn = f"tcp flags & (syn | rst) == syn tcp option maxseg size set {SMALL - 40}"
    lines = "\n".join(f"    {rule} {what}" for rule in rules for what in (syn, f"meta length > {SMALL} drop"))
    chain = f"  chain forward {{\n    type filter hook forward priority 0; policy accept;\n{lines}\n  }}"
    return NftTable("bridge", "clamped_$host", chain, "fabric")


NO_ERRORS = NftTable(
    "ip",
    "silent_$host",
    "  chain output {\n    type filter hook output priority 0; policy accept;\n"
    "    icmp type destination-unreachable icmp code frag-needed drop\n  }",
    "fabric",
)
LATER = "type filter hook {hook} priority 0; policy accept;\n    ip frag-off & 0x1fff != 0 drop"
CHAINS = "\n".join(f"  chain {hook} {{\n    {LATER.format(hook=hook)}\n  }}" for hook in ("output", "forward"))
NO_FRAGMENTS = NftTable("bridge", "fragments_$host", CHAINS, "fabric")
BOTH = (("host", "peer"), ("peer", "host"))
BETWEEN = ("$host", "$peer")


def fault(
    name: str,
    summary: str,
    *changes: Change,
    hosts: tuple[str, ...] = ("$host",),
    direction: str | None = "both",
    severity: str = "critical",
) -> Fault:
    expect = Expect((name.partition(":")[0],), ("underlay",), (), hosts, direction, severity)
    return Fault(name, summary, (ForgottenPaths(), *changes), expect)


FAULTS = (
    fault(
        TOO_LARGE,
        "the switch port of one host takes 1400 bytes, its NIC and its overlay send 1500",
        PortMtu(),
        Proof(stalls=(*BOTH, ("host", "other"))),
    ),
    fault(
        f"{TOO_LARGE}:out",
        "what one host sends is dropped in the network when it is larger than 1400 bytes",
        larger_dropped("large", 'iifname "$port"'),
        Proof(stalls=(("peer", "host"),), comes=(("peer", "other"),)),
        direction="out",
    ),
    fault(
        f"{TOO_LARGE}:in",
        "what is sent to one host is dropped in the network when it is larger than 1400 bytes",
        larger_dropped("large", 'oifname "$port"'),
        Proof(stalls=(("host", "peer"),), comes=(("peer", "other"),)),
        direction="in",
    ),
    fault(
        f"{TOO_LARGE}:one-pair",
        "the network between two hosts takes 1400 bytes, that to the others 1500",
        larger_dropped("large", 'iifname "$port" oifname "$peer_port"', 'iifname "$peer_port" oifname "$port"'),
        Proof(stalls=BOTH, comes=(("host", "other"),)),
        hosts=BETWEEN,
    ),
    fault(
        f"{TOO_LARGE}:clamped",
        "the network takes 1400 bytes from and to one host, and clamps the TCP of the hosts themselves",
        clamped('iifname "$port"', 'oifname "$port"'),
        NewConnections(),
        Proof(stalls=(*BOTH, ("host", "other"))),
    ),
    fault(
        f"{TOO_LARGE}:told",
        "a router between two hosts takes 1400 bytes and says so, their overlay sends 1500",
        Routed(),
        Proof(comes=BOTH),
        hosts=BETWEEN,
        severity="warning",
    ),
    fault(
        BLACK_HOLE,
        "a router between two hosts takes 1400 bytes, and its ICMP errors are filtered",
        Routed(),
        NO_ERRORS,
        Proof(comes=BOTH),
        hosts=BETWEEN,
    ),
    fault(
        FRAGMENTS,
        "a router between two hosts fragments what is larger than 1400 bytes, and later fragments are dropped",
        Routed(),
        NO_ERRORS,
        NO_FRAGMENTS,
        Proof(stalls=BOTH),
        hosts=BETWEEN,
    ),
)

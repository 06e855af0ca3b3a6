# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What becomes of the tunnel between two NICs, and of what it carries beyond them: faults only a capture can place."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from typing import Any

import docker

from .. import engine, state
from ..fleet import Host
from .changes import NftTable
from .model import Change, Expect, Fault, Place, overlay_touching
from .xdp import XdpProgram

VNI = "vxlan-vni-invalid"
ARP = "arp-unanswered"
SOURCE_CHECK = "cloud-src-dst-check"
NAT = "tunnel-through-nat"
FILTER = "data-udp-blocked-host-fw"
TRANSLATED = "198.51.100.77"  # the address the tunnel has behind the NAT; no host's
ROUTED = {"host": "203.0.113.0/26", "peer": "203.0.113.64/26"}

QUIET = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
DETACHED: dict[str, Any] = {"file_actions": QUIET, "setsid": True}
TRAFFIC = """\
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end, target = time.time() + float(sys.argv[2]), (sys.argv[1], 9)
while time.time() < end:
    try:
        sock.sendto(b"other containers' traffic " * 8, target)
    except OSError:
        pass
    time.sleep(1 / float(sys.argv[3]))
"""


@dataclasses.dataclass(frozen=True)
class OtherTraffic:
    """Datagrams from the third host's container to those of the host and its peer, for C(seconds) at the longest.

    They cross the same NICs, tunnels and bridges as the probes, and are lost where those are.
    """

    seconds: float = 180.0
    rate: float = 200.0

    def apply(self, place: Place) -> list[list[int]]:
        netns = place.other.container_netns(f"app-{place.other.name}")
        started = []
        for target in (place.host, place.peer):
            address = target.container_address(f"app-{target.name}")
            words = [sys.executable, "-c", TRAFFIC, address, str(self.seconds), str(self.rate)]
            # No Popen: whoever puts the fault in need not be there when it is taken out.
            pid = os.posix_spawnp("nsenter", ["nsenter", f"--net={netns}", *words], os.environ, **DETACHED)
            started.append(state.process_record(pid))
        return started

    def undo(self, place: Place, saved: list[list[int]]) -> None:
        for record in saved:
            state.kill(record)


@dataclasses.dataclass(frozen=True)
class ForgetNeighbours:
    """The containers of the host forget what they resolved, so that they have to ask again at once."""

    def _flush(self, place: Place) -> None:
        for host in (place.host, place.peer, place.other):
            netns = host.container_netns(f"app-{host.name}")
            host.run(["ip", "neigh", "flush", "dev", "eth0"], netns=netns)

    def apply(self, place: Place) -> None:
        self._flush(place)

    def undo(self, place: Place, saved: Any) -> None:
        self._flush(place)


@dataclasses.dataclass(frozen=True)
class RoutedNetworks:
    """A bridge network and a container on the host and its peer, and routes between them without translation."""

    name: str = "routed"

    def _ends(self, place: Place) -> tuple[tuple[Host, str, Host, str], ...]:
        one, other = ROUTED["host"], ROUTED["peer"]
        return (place.host, one, place.peer, other), (place.peer, other, place.host, one)

    @staticmethod
    def _rules(subnet: str, far: str) -> tuple[tuple[str, ...], ...]:
        """Forwarded both ways, and not translated on the way there."""
        return (
            ("filter", "DOCKER-USER", "-s", far, "-d", subnet),
            ("filter", "DOCKER-USER", "-s", subnet, "-d", far),
            ("nat", "POSTROUTING", "-s", subnet, "-d", far),
        )

    def apply(self, place: Place) -> None:
        for host, subnet, far, far_subnet in self._ends(place):
            pool = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=subnet)])
            host.docker.networks.create(
                f"{self.name}-{host.name}",
                driver="bridge",
                ipam=pool,
                options={"com.docker.network.bridge.name": self.name},
            )
            engine.run_container(
                host, f"{self.name}-{host.name}", command=engine.httpd_command("80"), network=f"{self.name}-{host.name}"
            )
            host.run(["ip", "route", "add", far_subnet, "via", far.address])
            for rule in self._rules(subnet, far_subnet):
                host.run(["iptables", "-w", "-t", rule[0], "-I", *rule[1:], "-j", "ACCEPT"])

    def undo(self, place: Place, saved: None) -> None:
        for host, subnet, _far, far_subnet in self._ends(place):
            for rule in self._rules(subnet, far_subnet):
                host.run(["iptables", "-w", "-t", rule[0], "-D", *rule[1:], "-j", "ACCEPT"])
            host.run(["ip", "route", "del", far_subnet])
            host.docker.containers.get(f"{self.name}-{host.name}").remove(force=True, v=True)
            host.docker.networks.get(f"{self.name}-{host.name}").remove()
        time.sleep(0.2)


def in_fabric(table: str, rules: str) -> NftTable:
    body = f"  chain forward {{\n    type filter hook forward priority 0; policy accept;\n    {rules}\n  }}"
    return NftTable("bridge", table + "_$host", body, "fabric")


# The VXLAN header begins 8 bytes into the UDP one: its flags at bit 64, its VNI at bit 96 (RFC 7348 section 5).
FROM_HOST = 'iifname "$port" udp dport $tunnel'
NO_FLAG = in_fabric("header", f"{FROM_HOST} @th,64,8 set 0x00 udp checksum set 0")
NO_VNI = in_fabric("header", f"{FROM_HOST} @th,96,24 set 0x000000 udp checksum set 0")
OTHER_VNI = in_fabric("header", f"{FROM_HOST} @th,96,24 set 0x001b59 udp checksum set 0")
SOURCE_NAT = in_fabric("nat", f"{FROM_HOST} ip saddr set {TRANSLATED}")
SILENT_ARP = """\
  chain forward {
    type filter hook forward priority 0; policy accept;
    oifname "vxlan0" ether type arp drop
  }"""


# Neither rule can be evaluated from outside, neither counts, and each drops a part: only taps and the kernel can tell.
UNDECIDABLE = """\
  chain late {
    type filter hook input priority filter; policy accept;
    udp dport $tunnel numgen inc mod 2 == 0 drop
    udp dport $tunnel numgen inc mod 1 == 0 drop
  }"""


def undecidable(variant: str, summary: str, *question: tuple[str, str]) -> Fault:
    expect = Expect((FILTER,), ("host-filter-in",), overlay_touching(), direction="in")
    return Fault(FILTER + variant, summary, (NftTable("inet", "guard", UNDECIDABLE),), expect, question=question)


def bad_header(variant: str, summary: str, *changes: Change) -> Fault:
    expect = Expect((VNI,), ("underlay", "vtep"), overlay_touching(), direction="out")
    return Fault(VNI + variant, summary, changes, expect)


FAULTS = (
    undecidable(
        ":undecidable", "two rules without counters drop the tunnel, by matches nobody can evaluate from outside"
    ),
    undecidable(
        ":undecidable-traced", "the same two rules, and a trace of rules was asked for", ("doctor_trace", "true")
    ),
    bad_header("", "the tunnel packets of the host lose the VXLAN flag on the network", NO_FLAG),
    bad_header(":zero", "the tunnel packets of the host have VNI 0 behind its NIC", NO_VNI),
    bad_header(":other", "the tunnel packets of the host have a VNI nobody has behind its NIC", OTHER_VNI),
    Fault(
        ARP,
        "the overlay's namespace on the host passes no ARP: its containers do not learn their peers' addresses",
        (NftTable("bridge", "quiet", SILENT_ARP, "overlay"), ForgetNeighbours()),
        Expect((ARP,), ("vtep", "bridge"), overlay_touching()),
        settle=90,
    ),
    Fault(
        SOURCE_CHECK,
        "the network takes from the host's port only what has the host's own address: routed containers are cut off",
        (
            RoutedNetworks(),
            in_fabric("check", f'iifname "$port" meta protocol ip ip saddr {ROUTED["host"]} drop'),
        ),
        Expect((SOURCE_CHECK,), ("underlay",), ()),
    ),
    Fault(
        NAT,
        "the tunnel packets of the host pass a NAT and have another source behind it",
        (SOURCE_NAT,),
        Expect((NAT,), ("underlay",), overlay_touching(), direction="out"),
    ),
    Fault(
        "unexplained-loss:xdp",
        "an XDP program on the host's NIC drops the tunnel before any tap sees it: nobody can tell it from the network",
        (XdpProgram(drop=True),),
        Expect(("unexplained-loss",), ("underlay",), overlay_touching()),
    ),
)

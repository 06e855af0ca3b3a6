# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernel tables that are full, modules that are missing, and modes of the engine that exclude an overlay."""

from __future__ import annotations

import dataclasses
import json
import socket

from .. import engine, state
from ..network import inside
from .changes import EngineStop, HostFile, Iptables, Sysctl
from .model import ANY, Broken, Expect, Fault, Place, latent, overlay_touching
from .names import OddContainer

BRIDGE_NF = "br-netfilter-missing"
LIVE_RESTORE = "live-restore-swarm"
STALE = "stale-udp-conntrack"
DAEMON_JSON = "/etc/docker/daemon.json"
VIRTUAL = "203.0.113.10"
SERVICE_RULE = Iptables(f"-d {VIRTUAL}/32 -p tcp --dport 80 -j DNAT --to 172.17.0.2:80", "nat", "PREROUTING")
NEIGHBOUR = OddContainer("near-$host")


@dataclasses.dataclass(frozen=True)
class EngineRefusesToStart:
    """dockerd stopped and started again with a setting it does not start with."""

    setting: str
    value: bool

    def apply(self, place: Place) -> str:
        before = place.host.path(DAEMON_JSON).read_text()
        EngineStop(15).apply(place)
        place.host.write(DAEMON_JSON, json.dumps({**json.loads(before), self.setting: self.value}, indent=2) + "\n")
        log = place.host.path(engine.DOCKERD_LOG)
        size = log.stat().st_size
        place.host.path("/run/docker.pid").unlink(missing_ok=True)
        place.host.start(["dockerd"], log=engine.DOCKERD_LOG)
        refused = state.wait_for(lambda: b"level=fatal" in log.read_bytes()[size:], 90)
        if not refused:
            place.host.write(DAEMON_JSON, before)
            raise state.LabError(f"dockerd on {place.host.name} does start with {self.setting}")
        return before

    def undo(self, place: Place, saved: str) -> None:
        place.host.write(DAEMON_JSON, saved)
        engine.start_engine(place.host)


@dataclasses.dataclass(frozen=True)
class UdpFlow:
    """One datagram from outside to a port of the host."""

    port: int
    source: int = 40053

    def apply(self, place: Place) -> None:
        def work() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind(("", self.source))
                sock.sendto(b"crosshost-lab", (place.host.address, self.port))

        inside(place.lab.fabric.netns, work)

    def undo(self, place: Place, saved: None) -> None:
        pass  # the entry expires


@dataclasses.dataclass(frozen=True)
class Passing:
    """Rules that are there for one datagram to pass, and gone before the fault is in."""

    rules: tuple[Iptables, ...]
    meanwhile: UdpFlow

    def apply(self, place: Place) -> None:
        put: list[Iptables] = []
        try:
            for rule in self.rules:
                rule.apply(place)
                put.append(rule)
            self.meanwhile.apply(place)
        finally:
            for rule in reversed(put):
                rule.undo(place, None)

    def undo(self, place: Place, saved: None) -> None:
        pass


FAULTS = (
    Fault(
        BRIDGE_NF,
        "a virtual address leads to a container on the client's own bridge, and bridged frames are not filtered",
        (NEIGHBOUR, SERVICE_RULE, Sysctl("net/bridge/bridge-nf-call-iptables", "0")),
        Expect((BRIDGE_NF,), ("bridge",), ()),
    ),
    Fault(
        f"{BRIDGE_NF}:persisted",
        "the same, and a hardening file keeps it so",
        (
            NEIGHBOUR,
            SERVICE_RULE,
            HostFile("/etc/sysctl.d/90-hardening.conf", "net.bridge.bridge-nf-call-iptables = 0\n"),
            Sysctl("net/bridge/bridge-nf-call-iptables", "0"),
        ),
        Expect((BRIDGE_NF,), ("bridge",), ()),
    ),
    Fault(
        LIVE_RESTORE,
        "the engine of a Swarm node was given live-restore, and does not start any more",
        (EngineRefusesToStart("live-restore", True),),
        Expect(
            (LIVE_RESTORE,),
            ("engine",),
            (
                Broken("engine", "$host", "$host", "the engine of $host"),
                Broken("node", ANY, "$host", "$host is down for the managers"),
                *overlay_touching(),
                # Containers without an overlay are started again before the engine sees that it must not run: their
                # ports answer, and those the survey remembers are gone.
                Broken("egress-overlay", "$host", "outside", "containers of $host to the outside"),
                Broken("egress-bridge", "$host", "outside", "containers of $host to the outside"),
            ),
        ),
        settle=90,
        withdraws="others",
        residue="containers that are started anew have new addresses, links and namespaces",
    ),
    latent(
        STALE,
        "a client's UDP flow is still translated to a container that is gone",
        Sysctl("net/netfilter/nf_conntrack_udp_timeout", "300"),
        OddContainer("names-$host", None, (("ports", {"53/udp": 5353}),)),
        Passing(
            (
                Iptables("-p udp --dport 5353 -j DNAT --to 172.17.0.99:53", "nat", "PREROUTING"),
                Iptables("-p udp -d 172.17.0.99 -j ACCEPT", "filter", "FORWARD"),
            ),
            UdpFlow(5353),
        ),
        segments=("nat",),
    ),
)

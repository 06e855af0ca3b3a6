# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""MTUs as state shows them: interfaces, networks and options that do not fit one another.

On the lab (kernel 6.18) a NIC below what the overlay sends loses the first large packets; then the sender's kernel has
learned the path MTU and, by the segment size it announces, so have its peers. Nothing stays broken that a probe sees.
"""

from __future__ import annotations

import contextlib
import dataclasses

from pyroute2 import IPRoute

from ..fleet import Host
from ..network import netlink, set_link
from .changes import Command
from .model import Expect, Fault, Place

NIC = "overlay-mtu-gt-local-nic"
MIXED = "mixed-mtu-peers"
OPTION = "mtu-option-double-subtract"
BRIDGE = "docker-gwbridge-mtu"
FABRIC_BRIDGE = "underlay"


@dataclasses.dataclass(frozen=True)
class NicMtu:
    """The MTU of the host's NIC, or of all hosts'; C(fabric): the other end of the cable follows."""

    mtu: int
    everywhere: bool = False
    fabric: bool = False

    def _set(self, place: Place, mtu: int) -> None:
        for host in place.lab.docker_hosts if self.everywhere else [place.host]:
            netlink(host.netns, lambda ip: set_link(ip, "eth0", mtu=mtu))
            if self.fabric:
                netlink(place.lab.fabric.netns, lambda ip, port=host.port: set_link(ip, port, mtu=mtu))  # type: ignore[misc]

    def apply(self, place: Place) -> int:
        before = netlink(place.host.netns, lambda ip: int(ip.get_links(ip.link_lookup(ifname="eth0")[0])[0].get("mtu")))
        self._set(place, self.mtu)
        return before

    def undo(self, place: Place, saved: int) -> None:
        self._set(place, saved)


@dataclasses.dataclass(frozen=True)
class OverlayMtu:
    """The MTU of the overlay network's devices and of its containers, on the host or on all: as an engine sets it."""

    mtu: int
    everywhere: bool = False

    def apply(self, place: Place) -> list[tuple[str, str, int]]:
        saved = []
        for host in place.lab.docker_hosts if self.everywhere else [place.host]:
            for netns in spaces(host):
                saved += netlink(netns, lambda ip, netns=netns: [(netns, *row) for row in self._set(ip)])  # type: ignore[misc]
        return saved

    def _set(self, ip: IPRoute) -> list[tuple[str, int]]:
        changed = []
        for link in ip.get_links():
            name = link.get("ifname")
            if name.startswith(("veth", "vxlan")) or name == "eth0":
                changed.append((name, int(link.get("mtu"))))
                set_link(ip, name, mtu=self.mtu)
        return changed

    def undo(self, place: Place, saved: list[tuple[str, str, int]]) -> None:
        for netns, name, mtu in saved:
            with contextlib.suppress(FileNotFoundError, LookupError):  # a container that is gone took its link along
                netlink(netns, lambda ip, name=name, mtu=mtu: set_link(ip, name, mtu=mtu))  # type: ignore[misc]


def spaces(host: Host) -> list[str]:
    """The namespace of the overlay network on the host, and those of its containers."""
    names = [c.name for c in host.docker.containers.list() if c.name.startswith("app-")]
    return [host.overlay_netns(), *(host.container_netns(name) for name in names)]


def network_option(mtu: int) -> Command:
    create = f"docker network create -d overlay --attachable --opt com.docker.network.driver.mtu={mtu} sized-$host"
    return Command(create, "docker network rm sized-$host")


FAULTS = (
    Fault(
        NIC,
        "the NIC of one host has an MTU of 1400, its overlay sends up to 1500",
        (NicMtu(1400),),
        Expect((NIC,), ("host-stack",), (), severity="warning"),
    ),
    Fault(
        f"{NIC}:jumbo-overlay",
        "the overlay of every host sends up to 9000, the NIC of one takes 1500",
        (NicMtu(9000, everywhere=True, fabric=True), OverlayMtu(8950, everywhere=True), NicMtu(1500, fabric=True)),
        Expect((NIC,), ("host-stack",), (), severity="warning"),
    ),
    Fault(
        MIXED,
        "one host has a jumbo NIC and an overlay that fills it; the NICs of its peers take 1500",
        (NicMtu(9000, fabric=True), OverlayMtu(8950)),
        Expect((MIXED,), ("underlay",), (), severity="warning"),
    ),
    Fault(
        BRIDGE,
        "the NIC of one host has an MTU of 1400 and the overlay was adapted to it, docker_gwbridge was not",
        (NicMtu(1400), OverlayMtu(1350, everywhere=True)),
        Expect((BRIDGE,), ("host-stack",), (), severity="warning"),
    ),
    Fault(
        OPTION,
        "an overlay network's MTU option is the underlay's MTU less the overhead, which the driver subtracts again",
        (network_option(1450),),
        Expect((OPTION,), ("vtep",), (), severity="info"),
        host="node1",
    ),
)

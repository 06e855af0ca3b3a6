# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A container's attachment: oddities of bridges, ports and routes that break nothing."""

from __future__ import annotations

import dataclasses

from ..faults.attachment import NO_QUEUE, ContainerRoute, HostPort, InContainer, Ipv6Network
from ..faults.changes import Command
from ..faults.model import Fault, Place, trap
from ..faults.names import OddContainer


@dataclasses.dataclass(frozen=True)
class BridgeNetwork:
    """A bridge network of the host's own, with or without a way out."""

    name: str
    internal: bool = False
    options: tuple[tuple[str, str], ...] = ()

    def apply(self, place: Place) -> None:
        place.host.docker.networks.create(
            self.name, driver="bridge", internal=self.internal, options=dict(self.options) or None
        )

    def undo(self, place: Place, saved: None) -> None:
        place.host.docker.networks.get(self.name).remove()


TRAPS: tuple[Fault, ...] = (
    trap("bridge-unused", "a bridge network without containers: its bridge has no carrier", BridgeNetwork("idle")),
    trap(
        "bridge-unused-down",
        "the bridge of a network without containers is down",
        BridgeNetwork("idle", options=(("com.docker.network.bridge.name", "br-idle"),)),
        Command("ip link set br-idle down", "ip link set br-idle up"),
    ),
    trap(
        "network-internal",
        "a container on an internal network has no default route",
        BridgeNetwork("inner", internal=True),
        OddContainer("inner-$host", "inner"),
    ),
    trap(
        "icc-off",
        "two containers on a network whose containers may not talk to each other",
        BridgeNetwork("apart", options=(("com.docker.network.bridge.enable_icc", "false"),)),
        OddContainer("apart-$host-a", "apart"),
        OddContainer("apart-$host-b", "apart"),
    ),
    trap(
        "queue-ample",
        "a queue on the port of a container that lets everything pass",
        HostPort("tc qdisc add dev $link root tbf rate 1gbit burst 1mb limit 4mb", NO_QUEUE),
    ),
    trap(
        "default-route-metric",
        "a container's default route was set by hand, to the same gateway",
        ContainerRoute("172.17.0.1"),
    ),
    trap(
        "hairpin-on",
        "hairpin mode is on where nothing needs it",
        HostPort("bridge link set dev $link hairpin on", "bridge link set dev $link hairpin off"),
    ),
    trap("ipv6-network", "a network with IPv6 that works", Ipv6Network()),
    trap(
        "second-default-overlay",
        "an overlay container with a route of its own beside the default one",
        InContainer("ip route add 203.0.113.0/24 via 172.18.0.1", "ip route del 203.0.113.0/24", "app-$host"),
    ),
)

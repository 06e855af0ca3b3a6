# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A container's attachment: its bridge, its veth, its routes."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

from pyroute2 import IPRoute

from .. import engine
from ..network import inside, netlink
from .changes import Command, Iptables, LinkDown, attributes
from .model import Broken, Change, Expect, Fault, Place, egress, overlay_touching, published

BRIDGE = "bridge-down"
DROPS = "veth-drops"
HAIRPIN = "hairpin-off"
ROUTE = "container-route-wrong"
IPV6 = "ipv6-data-path-broken"


def host_port(place: Place, container: str, inner: str) -> str:
    """The name, on the host, of the other end of a container's interface."""

    def index() -> int:
        with IPRoute() as ip:
            return int(ip.link_lookup(ifname=inner)[0]) and int(
                next(link for link in ip.get_links() if link.get("ifname") == inner).get("link")
            )

    wanted = inside(place.host.container_netns(place.fill(container)), index)
    return str(netlink(place.host.netns, lambda ip: ip.get_links(wanted)[0].get("ifname")))


@dataclasses.dataclass(frozen=True)
class HostPort:
    """Commands on the host's end of a container's interface, $link."""

    do: str
    back: str
    container: str = "web-$host"
    inner: str = "eth0"

    def apply(self, place: Place) -> str:
        link = host_port(place, self.container, self.inner)
        place.run("host", shlex.split(self.do.replace("$link", link)))
        return link

    def undo(self, place: Place, saved: str) -> None:
        place.run("host", shlex.split(self.back.replace("$link", saved)))


@dataclasses.dataclass(frozen=True)
class ContainerRoute:
    """The default route of a container's namespace: taken away, or led to another gateway."""

    to: str = ""
    container: str = "web-$host"

    def apply(self, place: Place) -> dict[str, Any]:
        def work(ip: IPRoute) -> dict[str, Any]:
            route = next(r for r in ip.get_routes(family=2, table=254) if not r["dst_len"])
            names = ("family", "dst_len", "gateway", "priority", "table", "prefsrc", "proto", "scope", "type", "oif")
            saved = attributes(route, *names)
            ip.route("del", **saved)
            if self.to:
                ip.route("add", dst="default", gateway=self.to)
            return saved

        return netlink(place.host.container_netns(place.fill(self.container)), work)

    def undo(self, place: Place, saved: dict[str, Any]) -> None:
        def work(ip: IPRoute) -> None:
            if self.to:
                ip.route("del", dst="default", gateway=self.to)
            ip.route("add", **saved)

        netlink(place.host.container_netns(place.fill(self.container)), work)


@dataclasses.dataclass(frozen=True)
class InContainer:
    """A command in the network namespace of a container, and its opposite."""

    do: str
    back: str
    container: str

    def _run(self, place: Place, command: str) -> None:
        netns = place.host.container_netns(place.fill(self.container))
        place.host.run(shlex.split(place.fill(command)), netns=netns)

    def apply(self, place: Place) -> None:
        self._run(place, self.do)

    def undo(self, place: Place, saved: None) -> None:
        self._run(place, self.back)


@dataclasses.dataclass(frozen=True)
class Ipv6Network:
    """A bridge network with IPv6 and two containers on it; taken away with them."""

    name: str = "six"
    subnet: str = "2001:db8:5::/64"

    def apply(self, place: Place) -> None:
        pools = [{"Subnet": self.subnet}, {"Subnet": "172.30.6.0/24"}]
        place.host.docker.api.create_network(
            self.name, driver="bridge", enable_ipv6=True, ipam={"Driver": "default", "Config": pools}
        )
        for number in ("a", "b"):
            engine.run_container(place.host, f"six-{place.host.name}-{number}", network=self.name)

    def undo(self, place: Place, saved: None) -> None:
        for number in ("a", "b"):
            place.host.docker.containers.get(f"six-{place.host.name}-{number}").remove(force=True, v=True)
        place.host.docker.networks.get(self.name).remove()


def bridge(variant: str, summary: str, change: Change, *pairs: Broken) -> Fault:
    return Fault(BRIDGE + variant, summary, (change,), Expect((BRIDGE,), ("bridge",), pairs))


# With a queue the kernel gives a veth a length for it as well, and keeps that.
NO_QUEUE = "sh -c 'tc qdisc del dev $link root && ip link set dev $link txqueuelen 0'"
WEB = (published(), egress("egress-bridge"))

FAULTS = (
    bridge("", "docker0 is down", LinkDown("docker0"), *WEB),
    bridge(":gwbridge", "docker_gwbridge is down", LinkDown("docker_gwbridge"), egress("egress-overlay")),
    bridge(
        ":address",
        "docker0 has lost its address",
        Command(
            "ip address del 172.17.0.1/16 dev docker0", "ip address add 172.17.0.1/16 brd 172.17.255.255 dev docker0"
        ),
        *WEB,
    ),
    bridge(
        ":port", "the port of a container is down", HostPort("ip link set $link down", "ip link set $link up"), *WEB
    ),
    bridge(
        ":detached",
        "the port of a container is not on its bridge",
        HostPort("ip link set $link nomaster", "ip link set $link master docker0"),
        *WEB,
    ),
    Fault(
        DROPS,
        "a queue that lets next to nothing pass is on the port of a container",
        (HostPort("tc qdisc add dev $link root tbf rate 8bit burst 40 limit 40", NO_QUEUE),),
        Expect((DROPS,), ("bridge",), WEB),
    ),
    Fault(
        HAIRPIN,
        "rules send a container's packets to its own published port back to it, and its bridge port refuses",
        (Iptables("-i docker0 -p tcp -d $address --dport 8080 -j DNAT --to 172.17.0.2:80", "nat", "PREROUTING"),),
        Expect((HAIRPIN,), ("bridge",), ()),
    ),
    Fault(
        ROUTE,
        "a container on the bridge has no default route",
        (ContainerRoute(),),
        Expect((ROUTE,), ("container",), WEB, direction="out"),
    ),
    Fault(
        f"{ROUTE}:gateway",
        "a container's default route leads to an address nobody has",
        (ContainerRoute("172.17.0.250"),),
        Expect((ROUTE,), ("container",), WEB, direction="out"),
    ),
    Fault(
        f"{ROUTE}:overlay",
        "an overlay container's default route leads into the overlay instead of to docker_gwbridge",
        (ContainerRoute("10.0.1.1", "app-$host"),),
        Expect((ROUTE,), ("container",), (egress("egress-overlay"),), direction="out"),
    ),
    Fault(
        f"{ROUTE}:peers",
        "a blackhole route in an overlay container covers its peers",
        (InContainer("ip route add blackhole 10.0.1.0/25", "ip route del blackhole 10.0.1.0/25", "app-$host"),),
        Expect((ROUTE,), ("container",), overlay_touching(), direction="out"),
    ),
    Fault(
        IPV6,
        "IPv6 is switched off in a container of a network with IPv6",
        (
            Ipv6Network(),
            InContainer(
                "sh -c 'echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6'",
                "true",
                "six-$host-b",
            ),
        ),
        Expect((IPV6,), ("container",), ()),
    ),
)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Addresses and routes of the underlay: which address a host sends from, and which way its packets go."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING, Any

import docker
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

from .. import engine, state
from ..network import inside, netlink
from .changes import Command, Iptables, Sysctl
from .model import TUNNEL_PORT, Broken, Change, Expect, Fault, Place, overlay_between, overlay_touching

if TYPE_CHECKING:
    from ..fleet import Host

SECOND = "192.0.2.200"  # a second address of the host on the underlay
NOWHERE = "198.51.100.77"  # an address no other host comes to
AF_INET = 2
IPPROTO_UDP = 17
REJOINED = "the host is another node of the swarm, and its container on the overlay is a new one"


@dataclasses.dataclass(frozen=True)
class ForgetTunnel:
    """The connection tracking entries of the tunnel removed: what a rule did to a flow lasts as long as they do."""

    when: str  # "after" a change before it, or "back": when it is taken out

    def apply(self, place: Place) -> None:
        if self.when == "after":
            inside(place.host.netns, forget_tunnel)

    def undo(self, place: Place, saved: None) -> None:
        if self.when == "back":
            inside(place.host.netns, forget_tunnel)


def forget_tunnel() -> None:
    with NFCTSocket() as socket:
        for entry in list(socket.dump()):
            if entry["nfgen_family"] != AF_INET:
                continue
            flow = NFCTAttrTuple.from_netlink(AF_INET, entry.get_attr("CTA_TUPLE_ORIG"))
            if (flow.proto, flow.dport) == (IPPROTO_UDP, TUNNEL_PORT):
                with contextlib.suppress(NetlinkError):  # it ended meanwhile
                    socket.entry("del", tuple_orig=flow)


@dataclasses.dataclass(frozen=True)
class SecondCable:
    """A second cable from the host to its peer, with addresses of its own at both ends: two hosts, two ways."""

    name: str = "eth1"
    subnet: str = "203.0.113."

    def apply(self, place: Place) -> None:
        with open(place.peer.netns) as peer:

            def lay(ip: Any) -> None:
                ip.link("add", ifname=self.name, kind="veth", peer={"ifname": self.name, "net_ns_fd": peer.fileno()})

            netlink(place.host.netns, lay)
        for host in (place.host, place.peer):

            def set_up(ip: Any, number: int = host.index) -> None:
                index = ip.link_lookup(ifname=self.name)[0]
                ip.link("set", index=index, state="up")
                ip.addr("add", index=index, address=f"{self.subnet}{10 + number}", prefixlen=24)

            netlink(host.netns, set_up)

    def undo(self, place: Place, saved: None) -> None:
        netlink(place.host.netns, lambda ip: ip.link("del", index=ip.link_lookup(ifname=self.name)[0]))


@dataclasses.dataclass(frozen=True)
class DeadDevice:
    """A device of the host whose other end leads nowhere, with an address or none."""

    name: str
    address: str | None = None

    def apply(self, place: Place) -> None:
        far = f"{self.name}-far"
        place.run("host", ["ip", "link", "add", self.name, "type", "veth", "peer", "name", far])
        if self.address:
            place.run("host", ["ip", "addr", "add", self.address, "dev", self.name])
        for link in (far, self.name):
            place.run("host", ["ip", "link", "set", link, "up"])

    def undo(self, place: Place, saved: None) -> None:
        place.run("host", ["ip", "link", "del", self.name])


@dataclasses.dataclass(frozen=True)
class RouteByCable:
    """The host's way to its peer is the second cable, with the source of the first."""

    def _route(self, place: Place, action: str) -> None:
        gateway = f"{SecondCable.subnet}{10 + place.peer.index}"
        place.run("host", ["ip", "route", action, "$peer_address/32", "via", gateway, "src", "$address"])

    def apply(self, place: Place) -> None:
        self._route(place, "add")

    def undo(self, place: Place, saved: None) -> None:
        self._route(place, "del")


@dataclasses.dataclass(frozen=True)
class Rejoin:
    """The host, a worker, leaves the swarm and joins it with other addresses; its container on the overlay is anew."""

    advertise: str = "$address"
    data_path: str | None = None

    def apply(self, place: Place) -> None:
        try:
            self._join(place, place.fill(self.advertise), place.fill(self.data_path) if self.data_path else None)
        except BaseException:
            self.undo(place, None)
            raise

    def undo(self, place: Place, saved: None) -> None:
        self._join(place, place.host.address, None)

    @staticmethod
    def _join(place: Place, advertise: str, data_path: str | None) -> None:
        host, manager = place.host, place.lab.manager
        if host.name in place.lab.managers:
            raise state.LabError(f"{host.name} is a manager: only a worker may leave")
        node = host.docker.info()["Swarm"]["NodeID"]
        remove_container(host, f"app-{host.name}")
        leave(host)
        manager.docker.api.remove_node(node, force=True)
        host.docker.swarm.join(
            [f"{manager.address}:2377"],
            manager.docker.swarm.attrs["JoinTokens"]["Worker"],
            advertise_addr=advertise,
            listen_addr=f"{host.address}:2377",
            data_path_addr=data_path,
        )
        attach(host, f"app-{host.name}")


def leave(host: Host, attempts: int = 3) -> None:
    """The engine waits for what still attaches to a network, and may give up doing so."""
    for left in reversed(range(attempts)):
        try:
            if host.docker.info()["Swarm"]["LocalNodeState"] != "inactive":
                host.docker.swarm.leave(force=True)
            return
        except docker.errors.APIError as error:
            if not left or "deadline exceeded" not in str(error):
                raise


def remove_container(host: Host, name: str) -> None:
    for container in host.docker.containers.list(all=True, filters={"name": f"^/{name}$"}):
        container.remove(force=True, v=True)


def attach(host: Host, name: str, attempts: int = 4) -> None:
    """Run a container on the overlay of a node that joined just now.

    Its first exchange of the whole table may wait 30 s for an answer, longer than an attachment does.
    """
    for left in reversed(range(attempts)):
        time.sleep(2)
        try:
            engine.run_on_overlay(host, name)
            return
        except docker.errors.APIError as error:
            remove_container(host, name)
            if not left or "deadline exceeded" not in str(error):
                raise


def one_way(cause: str, variant: str, summary: str, *changes: Change, pairs: tuple[Broken, ...], segment: str) -> Fault:
    return Fault(cause + variant, summary, changes, Expect((cause,), (segment,), pairs, direction="out"))


def host_between() -> tuple[Broken, ...]:
    text = "$host and $peer"
    return Broken("host", "$host", "$peer", text), Broken("host", "$peer", "$host", text)


SECOND_ADDRESS = Command(f"ip addr add {SECOND}/24 dev eth0", f"ip addr del {SECOND}/24 dev eth0")


def route_from_second(target: str) -> Command:
    route = f"{target}/32 dev eth0 src {SECOND}"
    return Command(f"ip route add {route}", f"ip route del {route}")


def source(variant: str, summary: str, *targets: str, pairs: tuple[Broken, ...]) -> Fault:
    routes = [route_from_second(target) for target in targets]
    return one_way("source-vtep-mismatch", variant, summary, SECOND_ADDRESS, *routes, pairs=pairs, segment="host-stack")


def snat(variant: str, summary: str, rule: str, pairs: tuple[Broken, ...]) -> Fault:
    rewriting = Iptables(rule, "nat", "POSTROUTING")
    changes = (SECOND_ADDRESS, ForgetTunnel("back"), rewriting, ForgetTunnel("after"))
    return one_way("snat-outer", variant, summary, *changes, pairs=pairs, segment="nat")


def rejoin(variant: str, summary: str, *changes: Change) -> Fault:
    cause = "wrong-advertise-addr"
    expect = Expect((cause,), ("control-plane",), overlay_touching(), direction="in")
    return Fault(cause + variant, summary, changes, expect, settle=90, withdraws="others", residue=REJOINED)


def detour(variant: str, summary: str, table: int, *more: Change, pairs: tuple[Broken, ...]) -> Fault:
    changes = (DeadDevice("vpn0"), *more)
    return one_way("vpn-policy-route", variant, summary, *changes, pairs=pairs, segment="host-stack")


def rule(text: str) -> Command:
    return Command(f"ip rule add {text}", f"ip rule del {text}")


def route(text: str) -> Command:
    return Command(f"ip route add {text}", f"ip route del {text}")


FAULTS: tuple[Fault, ...] = (
    source(
        "",
        "the host has a second address, and its routes to the peers prefer it",
        "$peer_address",
        "$other_address",
        pairs=overlay_touching(),
    ),
    source(":one-peer", "the same towards one peer only", "$peer_address", pairs=overlay_between()),
    snat(
        "",
        "a nat rule gives the tunnel a second address of the host as its source",
        f"-p udp --dport $tunnel -j SNAT --to-source {SECOND}",
        overlay_touching(),
    ),
    snat(
        ":one-peer",
        "a nat rule rewrites everything towards one peer by UDP, without naming the tunnel",
        f"-d $peer_address -p udp -m multiport ! --dports 7946 -j SNAT --to-source {SECOND}",
        overlay_between(),
    ),
    rejoin("", "the node joined with a data path address that is on none of its NICs", Rejoin(data_path=NOWHERE)),
    rejoin(
        ":other-nic",
        "the node joined with a data path address on a device no other host comes to",
        DeadDevice("priv0", f"{NOWHERE}/32"),
        Rejoin(data_path=NOWHERE),
    ),
    Fault(
        "multi-nic-rpfilter",
        "strict filtering on the first NIC, and the way to a peer that is cabled twice is the second",
        (
            SecondCable(),
            Sysctl("net/ipv4/conf/eth0/rp_filter", "1"),
            RouteByCable(),
        ),
        Expect(("multi-nic-rpfilter",), ("host-stack",), (*host_between(), *overlay_between()), direction="in"),
        settle=90,
    ),
    detour(
        "",
        "a policy rule sends what is for one peer into a VPN's device",
        52,
        route("default dev vpn0 table 52"),
        rule("pref 5270 to $peer_address/32 lookup 52"),
        pairs=(*host_between(), *overlay_between()),
    ),
    detour(
        ":fwmark",
        "wg-quick's rule: all that the VPN did not mark itself looks up its table, which has the peer's route",
        51820,
        route("$peer_address/32 dev vpn0 table 51820"),
        rule("pref 5209 not fwmark 0xca6c lookup 51820"),
        pairs=(*host_between(), *overlay_between()),
    ),
)

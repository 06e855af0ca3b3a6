# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The changes faults are made of: each knows how to take itself back exactly."""

from __future__ import annotations

import dataclasses
import shlex
import signal
import time
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from .. import engine, state
from ..network import index_of, inside, netlink, set_link
from .model import Place

NUD_PERMANENT = 0x80
NTF_SELF = 0x02  # the entry is the device's own; without it the bridge above it would get one
RTPROT_KERNEL = 2


@dataclasses.dataclass(frozen=True)
class Command:
    """Any program that has an opposite."""

    do: str
    back: str
    where: str = "host"

    def apply(self, place: Place) -> None:
        place.run(self.where, shlex.split(self.do))

    def undo(self, place: Place, saved: None) -> None:
        place.run(self.where, shlex.split(self.back))


@dataclasses.dataclass(frozen=True)
class Iptables:
    """A rule put first in a chain."""

    rule: str
    table: str = "filter"
    chain: str = "INPUT"
    tool: str = "iptables"

    def _run(self, place: Place, action: str) -> None:
        place.run("host", [self.tool, "-w", "-t", self.table, action, self.chain, *shlex.split(self.rule)])

    def apply(self, place: Place) -> None:
        self._run(place, "-I")

    def undo(self, place: Place, saved: None) -> None:
        self._run(place, "-D")


@dataclasses.dataclass(frozen=True)
class NftTable:
    """An nftables table of its own."""

    family: str
    name: str
    body: str
    where: str = "host"

    def apply(self, place: Place) -> None:
        text = f"table {self.family} {self.name} {{\n{self.body}\n}}\n"
        place.run(self.where, ["nft", "-f", "-"], input=place.fill(text))

    def undo(self, place: Place, saved: None) -> None:
        place.run(self.where, ["nft", "delete", "table", self.family, self.name])


@dataclasses.dataclass(frozen=True)
class Sysctl:
    """A kernel parameter in the host's network namespace; ``watched``: more (a glob) that the kernel changes along."""

    key: str
    value: str
    watched: str = ""

    def apply(self, place: Place) -> dict[str, str]:
        def work() -> dict[str, str]:
            root = Path("/proc/sys")
            target = root / self.key.replace(".", "/")
            paths = [target, *root.glob(self.watched)] if self.watched else [target]
            before = {str(path): path.read_text().strip() for path in paths}
            target.write_text(self.value)
            return before

        return inside(place.host.netns, work)

    def undo(self, place: Place, saved: dict[str, str]) -> None:
        def work() -> None:
            for path, value in saved.items():
                entry = Path(path)
                if entry.exists() and entry.read_text().strip() != value:
                    entry.write_text(value)

        inside(place.host.netns, work)


@dataclasses.dataclass(frozen=True)
class HostFile:
    """A file the host did not have."""

    path: str
    text: str

    def apply(self, place: Place) -> None:
        if place.host.path(self.path).exists():
            raise state.LabError(f"{place.host.name} has a file {self.path} already")
        place.host.write(self.path, self.text)

    def undo(self, place: Place, saved: None) -> None:
        place.host.path(self.path).unlink()


def attributes(message: Any, *wanted: str) -> dict[str, Any]:
    return {name: value for name in wanted if (value := message.get(name)) is not None}


def lost_with_link(ip: IPRoute, index: int) -> dict[str, list[dict[str, Any]]]:
    """What the kernel forgets when a link goes down: routes through it and permanent neighbours."""
    routes = [
        attributes(
            route,
            "family",
            "dst",
            "dst_len",
            "gateway",
            "priority",
            "table",
            "prefsrc",
            "proto",
            "scope",
            "type",
            "oif",
        )
        for route in ip.get_routes()
        if route.get("oif") == index and route["proto"] != RTPROT_KERNEL
    ]
    neighbours = [
        attributes(entry, "family", "dst", "lladdr", "state", "flags") | {"ifindex": index}
        for entry in ip.get_neighbours(ifindex=index)
        if entry["state"] & NUD_PERMANENT
    ]
    return {"routes": routes, "neighbours": neighbours}


def bring_back(ip: IPRoute, lost: dict[str, list[dict[str, Any]]]) -> None:
    for entry in lost["neighbours"]:
        ip.neigh("replace", **entry)
    for route in lost["routes"]:
        ip.route("replace", **route)


@dataclasses.dataclass(frozen=True)
class LinkDown:
    """A link set down; what the kernel forgets with it is brought back."""

    link: str
    where: str = "host"

    def apply(self, place: Place) -> dict[str, Any]:
        def work(ip: IPRoute) -> dict[str, Any]:
            name = place.fill(self.link)
            lost = lost_with_link(ip, index_of(ip, name))
            set_link(ip, name, state="down")
            return lost

        return netlink(place.netns(self.where), work)

    def undo(self, place: Place, saved: dict[str, Any]) -> None:
        def work(ip: IPRoute) -> None:
            set_link(ip, place.fill(self.link), state="up")
            bring_back(ip, saved)

        netlink(place.netns(self.where), work)


def container_port(place: Place, ip: IPRoute, container: str) -> int:
    """The index, in the overlay's namespace, of the bridge port that leads to a container."""
    address = place.host.container_address(container)
    mac = place.host.docker.containers.get(container).attrs["NetworkSettings"]["Networks"][engine.OVERLAY]["MacAddress"]

    def peer_index() -> int:
        with IPRoute() as inner:
            for link in inner.get_links():
                if link.get("address") == mac:
                    return int(link.get("link"))
        raise LookupError(f"no link with {mac} ({address}) in {container}")

    return inside(place.host.container_netns(container), peer_index)


@dataclasses.dataclass(frozen=True)
class ContainerPort:
    """The overlay bridge's port of a container: set "down", or "detach"-ed from the bridge."""

    how: str
    container: str = "app-$host"

    def apply(self, place: Place) -> dict[str, int]:
        def work(ip: IPRoute) -> dict[str, int]:
            index = container_port(place, ip, place.fill(self.container))
            master = int(ip.get_links(index)[0].get("master"))
            ip.link("set", index=index, **({"state": "down"} if self.how == "down" else {"master": 0}))
            return {"index": index, "master": master}

        return netlink(place.netns("overlay"), work)

    def undo(self, place: Place, saved: dict[str, int]) -> None:
        back = {"state": "up"} if self.how == "down" else {"master": saved["master"]}
        netlink(place.netns("overlay"), lambda ip: ip.link("set", index=saved["index"], **back))


@dataclasses.dataclass(frozen=True)
class FdbDestination:
    """Where the host sends frames for a container of the peer."""

    to: str
    container: str = "app-$peer"

    def apply(self, place: Place) -> dict[str, Any]:
        name = place.fill(self.container)
        mac = place.peer.docker.containers.get(name).attrs["NetworkSettings"]["Networks"][engine.OVERLAY]["MacAddress"]
        self._set(place, mac, place.fill(self.to))
        return {"mac": mac, "dst": place.peer.address}

    def undo(self, place: Place, saved: dict[str, Any]) -> None:
        self._set(place, saved["mac"], saved["dst"])

    @staticmethod
    def _set(place: Place, mac: str, dst: str) -> None:
        def work(ip: IPRoute) -> None:
            ip.fdb("replace", ifindex=index_of(ip, "vxlan0"), lladdr=mac, dst=dst, state=NUD_PERMANENT, flags=NTF_SELF)

        netlink(place.netns("overlay"), work)


@dataclasses.dataclass(frozen=True)
class EngineStop:
    """dockerd ended by a signal: 9 as by a crash (containers stay), 15 as by its unit (containers stop)."""

    number: int

    def apply(self, place: Place) -> list[str]:
        running = [str(container.name) for container in place.host.docker.containers.list()]
        engine.stop_engine(place.host, self.number)
        return running

    def undo(self, place: Place, saved: list[str]) -> None:
        engine.start_engine(place.host)
        for name in saved:
            # One on the overlay that the engine restarts before its Swarm is back finds no network, and stays down.
            if not state.wait_for(lambda name=name: engine.started(place.host, name), 90, 0.5):
                raise state.LabError(f"{name} on {place.host.name} does not start again")


@dataclasses.dataclass(frozen=True)
class AddressLost:
    """The host's IPv4 address is gone from an interface, and the routes by it with it."""

    interface: str

    def apply(self, place: Place) -> list[str]:
        listed = place.run("host", ["ip", "-4", "route", "show", "dev", self.interface])
        place.run("host", ["ip", "address", "del", "$address/24", "dev", self.interface])
        return [line for line in listed.stdout.splitlines() if line.startswith("default")]

    def undo(self, place: Place, saved: list[str]) -> None:
        place.run("host", ["ip", "address", "add", "$address/24", "dev", self.interface])
        for line in saved:
            place.run("host", ["ip", "route", "add", *line.split(), "dev", self.interface])


@dataclasses.dataclass(frozen=True)
class EngineFreeze:
    """dockerd stands still: its sockets accept, and nobody answers."""

    def apply(self, place: Place) -> None:
        engine.signal_engine(place.host, signal.SIGSTOP)

    def undo(self, place: Place, saved: None) -> None:
        engine.signal_engine(place.host, signal.SIGCONT)


@dataclasses.dataclass(frozen=True)
class ExtraContainer:
    """One more container on the host."""

    name: str
    listen: str
    ports: tuple[tuple[str, int], ...] = ()
    network: str | None = None

    def apply(self, place: Place) -> None:
        options: dict[str, Any] = {"ports": dict(self.ports)} if self.ports else {}
        options |= {"network": self.network} if self.network else {}
        engine.run_container(place.host, place.fill(self.name), command=engine.httpd_command(self.listen), **options)

    def undo(self, place: Place, saved: None) -> None:
        place.host.docker.containers.get(place.fill(self.name)).remove(force=True, v=True)
        time.sleep(0.2)

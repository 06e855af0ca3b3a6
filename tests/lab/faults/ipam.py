# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Subnets: overlaps, and pools that are used up."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import docker
from docker.types import IPAMConfig, IPAMPool

from .. import engine, state
from .addressing import host_between, remove_container, route
from .changes import Command, ExtraContainer
from .model import Expect, Fault, Place, latent, overlay_between

if TYPE_CHECKING:
    from ..fleet import Host

CLASH = "clash"
OVERLAP = "subnet-overlap-host"
RESOLVER = "198.51.100.53"


@dataclasses.dataclass(frozen=True)
class DockerNetwork:
    """One more network of the host's engine."""

    subnet: str
    gateway: str | None = None
    driver: str = "bridge"
    name: str = CLASH
    options: tuple[tuple[str, str], ...] = ()
    attachable: bool = False

    def apply(self, place: Place) -> None:
        pool = IPAMPool(subnet=place.fill(self.subnet), gateway=self.gateway and place.fill(self.gateway))
        more: dict[str, Any] = {"attachable": True} if self.attachable else {}
        place.host.docker.networks.create(
            self.name, driver=self.driver, ipam=IPAMConfig(pool_configs=[pool]), options=dict(self.options), **more
        )

    def undo(self, place: Place, saved: None) -> None:
        remove_network(place.host, self.name)


@dataclasses.dataclass(frozen=True)
class OtherText:
    """A file of the host with another text in it."""

    path: str
    text: str

    def apply(self, place: Place) -> str:
        before = place.host.path(self.path).read_text()
        place.host.path(self.path).write_text(place.fill(self.text))
        return before

    def undo(self, place: Place, saved: str) -> None:
        place.host.path(self.path).write_text(saved)


@dataclasses.dataclass(frozen=True)
class SmallOverlay:
    """An overlay of six addresses, which containers of the manager take: the gateway and a load balancer have two.

    With C(refused) one more container is asked for, and refused.
    """

    refused: bool
    name: str = "small"
    containers: int = 4

    def apply(self, place: Place) -> None:
        try:
            DockerNetwork("10.99.0.0/29", None, "overlay", self.name, attachable=True).apply(place)
            for number in range(self.containers):
                engine.run_container(place.host, f"{self.name}-{number}", network=self.name)
            if self.refused:
                self._one_more(place.host)
        except BaseException:
            self.undo(place, None)
            raise

    def _one_more(self, host: Host) -> None:
        name = f"{self.name}-refused"
        try:
            engine.run_container(host, name, network=self.name)
        except docker.errors.APIError:
            remove_container(host, name)
        else:
            raise state.LabError(f"{self.name} has an address for {name}")

    def undo(self, place: Place, saved: None) -> None:
        for name in (*(f"{self.name}-{number}" for number in range(self.containers)), f"{self.name}-refused"):
            remove_container(place.host, name)
        remove_network(place.host, self.name)


def remove_network(host: Host, name: str) -> None:
    """The managers may hold a network for a moment on account of attachments that just ended."""

    def gone() -> bool:
        try:
            for network in host.docker.networks.list(names=[name]):
                network.remove()
        except docker.errors.APIError:
            return False
        return not host.docker.networks.list(names=[name])

    if not state.wait_for(gone, 90, 0.5):
        raise state.LabError(f"{host.name} keeps the network {name}")


FAULTS: tuple[Fault, ...] = (
    Fault(
        OVERLAP,
        "a bridge network of node2 has the addresses of node2 and node3 in its subnet (fixed: for node2 only)",
        (DockerNetwork("192.0.2.12/30", "192.0.2.14"),),
        Expect((OVERLAP,), ("host-stack",), (*host_between(), *overlay_between()), direction="out"),
    ),
    Fault(
        f"{OVERLAP}:resolver",
        "a bridge network of the host has its resolver in its subnet: names outside fail, which no path here shows",
        (
            Command(f"ip addr add {RESOLVER}/32 dev lo", f"ip addr del {RESOLVER}/32 dev lo", "fabric"),
            OtherText("/etc/resolv.conf", f"nameserver {RESOLVER}\n"),
            ExtraContainer("asks-$host", "80", network=engine.OVERLAY),
            DockerNetwork("198.51.100.48/28", "198.51.100.49"),
        ),
        Expect((OVERLAP,), ("host-stack",), ()),
    ),
    latent(
        f"{OVERLAP}:unused",
        "a bridge network overlaps a route of the host into a network nobody asks for",
        route("203.0.113.0/24 via 192.0.2.1"),
        DockerNetwork("203.0.113.0/25"),
        segments=("host-stack",),
    ),
    Fault(
        "subnet-overlap-docker",
        "two overlays were made with one subnet: the second is never allocated, and nobody uses it yet",
        (
            DockerNetwork("10.98.0.0/24", None, "overlay", "first", attachable=True),
            DockerNetwork("10.98.0.0/24", None, "overlay", "second", attachable=True),
        ),
        Expect(("subnet-overlap-docker",), ("engine",), (), severity="warning"),
        host="node1",
    ),
    Fault(
        "overlay-ip-exhausted",
        "an overlay of six addresses is full, and a container was refused (no path is lost: it never ran)",
        (SmallOverlay(refused=True),),
        Expect(("overlay-ip-exhausted",), ("control-plane",), (), severity="warning"),
        host="node1",
    ),
    latent(
        "overlay-ip-exhausted:unused",
        "an overlay of six addresses is full, and nobody asks for more",
        SmallOverlay(refused=False),
        segments=("control-plane",),
        host="node1",
    ),
)

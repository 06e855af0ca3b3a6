# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lab's own judgement of what works: every path of every kind, tried. Faults and tests are held against it.

Kinds: ``host`` (host to host), ``overlay`` (container to container on the overlay, by echo), ``egress-overlay`` and
``egress-bridge`` (container to the outside address), ``published`` (outside to a published port), ``page`` (a
container's page, from a container of the same host), ``node`` (from a manager to a node: whether it takes it for
ready), ``engine``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import docker
import requests

from . import engine, network, reach

if TYPE_CHECKING:
    from .fleet import Host, Lab

ECHO_TIMEOUT = 0.6
PAGE_TIMEOUT = 1.2


@dataclasses.dataclass(frozen=True, order=True)
class Path:
    """One path that was tried: kind, the two ends' names, and the hosts they are on."""

    kind: str
    src: str
    dst: str
    src_host: str
    dst_host: str

    def __str__(self) -> str:
        return f"{self.kind} {self.src} → {self.dst}"

    def matches(self, pair: dict[str, str]) -> bool:
        """Whether an expectation of a fault (kind, src, dst) speaks of this path; "*" stands for any other host."""
        if self.kind != pair["kind"]:
            return False
        ends = [(pair["src"], self.src, self.src_host), (pair["dst"], self.dst, self.dst_host)]
        if any(wanted not in ("*", name, host) for wanted, name, host in ends):
            return False
        return "*" not in (pair["src"], pair["dst"]) or self.src_host != self.dst_host


@dataclasses.dataclass(frozen=True)
class Container:
    """What the survey needs of a container. It is remembered with a fault: an engine that is down tells nothing."""

    host: str
    name: str
    netns: str
    overlay: str | None
    ports: list[int]


@dataclasses.dataclass(frozen=True)
class Survey:
    """Every path and whether it works."""

    works: dict[Path, bool]

    @property
    def broken(self) -> set[Path]:
        return {path for path, well in self.works.items() if not well}

    def expected(self, pairs: Iterable[dict[str, str]]) -> set[Path]:
        return {path for path in self.works if any(path.matches(pair) for pair in pairs)}

    def not_yet(self, pairs: list[dict[str, str]]) -> list[str]:
        """What should be broken and is not."""
        expected = self.expected(pairs)
        if not expected:
            return [f"nothing was tried that should be broken: {pairs}"]
        return [f"{path} works, but should be broken" for path in sorted(expected - self.broken)]

    def unexpected(self, pairs: list[dict[str, str]]) -> list[str]:
        """How what is broken differs from what was expected to be; empty if it is just that."""
        beyond = sorted(self.broken - self.expected(pairs))
        return [*self.not_yet(pairs), *(f"{path} is broken, but should work" for path in beyond)]


def containers(lab: Lab, remembered: Iterable[Container] = ()) -> list[Container]:
    """The lab's running containers; of hosts whose engine does not answer, those remembered from before."""
    found: list[Container] = []
    for host in lab.docker_hosts:
        if engine.engine_answers(host):
            found += of_host(host)
        else:
            found += [container for container in remembered if container.host == host.name]
    return found


def of_host(host: Host) -> Iterator[Container]:
    for entry in host.docker.api.containers():
        try:
            inspected = host.docker.api.inspect_container(entry["Id"])
        except docker.errors.NotFound:
            continue  # gone between two questions
        settings = inspected["NetworkSettings"]
        yield Container(
            host.name,
            inspected["Name"].lstrip("/"),
            host.process_netns(inspected["State"]["Pid"]),
            settings["Networks"].get(engine.OVERLAY, {}).get("IPAddress") or None,
            sorted({int(item["HostPort"]) for items in settings["Ports"].values() for item in items or ()}),
        )


def take(lab: Lab, fleet: list[Container]) -> Survey:
    """Try every path between the lab's hosts and these containers."""
    tasks: list[Callable[[], dict[Path, bool]]] = [lambda: nodes(lab)]
    tasks += [functools.partial(from_host, lab, host) for host in lab.docker_hosts]
    tasks += [functools.partial(from_container, lab, container, fleet) for container in fleet]
    works: dict[Path, bool] = {}
    with ThreadPoolExecutor(max_workers=16) as pool:
        for result in pool.map(lambda task: task(), tasks):
            works.update(result)
    return Survey(works)


def nodes(lab: Lab) -> dict[Path, bool]:
    """The nodes as the first manager that answers sees them; nothing if none does."""
    manager = next((lab.hosts[name] for name in lab.managers if engine.engine_answers(lab.hosts[name])), None)
    states: dict[str, str] = {}
    if manager:
        with contextlib.suppress(docker.errors.DockerException, requests.exceptions.RequestException):
            for node in manager.docker.api.nodes():
                states[node["Description"]["Hostname"]] = node["Status"]["State"]
        return {
            Path("node", manager.name, host.name, manager.name, host.name): states.get(host.name) == "ready"
            for host in lab.docker_hosts
        }
    return {}


def from_host(lab: Lab, host: Host) -> dict[Path, bool]:
    others = {other.address: other.name for other in lab.docker_hosts if other is not host}
    answered = reach.echo(host.netns, others, ECHO_TIMEOUT)
    works = {Path("host", host.name, name, host.name, name): address in answered for address, name in others.items()}
    works[Path("engine", host.name, host.name, host.name, host.name)] = engine.engine_answers(host)
    return works


def from_container(lab: Lab, container: Container, fleet: list[Container]) -> dict[Path, bool]:
    works = {}
    egress = "egress-overlay" if container.overlay else "egress-bridge"
    others = (
        {other.overlay: other for other in fleet if other.overlay and other is not container}
        if container.overlay
        else {}
    )
    try:
        answered = reach.echo(container.netns, [*others, network.OUTSIDE], ECHO_TIMEOUT)
    except (FileNotFoundError, ProcessLookupError):
        answered = set()  # it was stopped together with its engine
    works[Path(egress, container.name, "outside", container.host, "outside")] = network.OUTSIDE in answered
    for address, other in others.items():
        works[Path("overlay", container.name, other.name, container.host, other.host)] = address in answered
        if other.host == container.host:
            works[Path("page", container.name, other.name, container.host, other.host)] = page(
                container.netns, address, 80
            )
    for port in container.ports:
        path = Path("published", "outside", f"{container.host}:{port}", "outside", container.host)
        works[path] = page(lab.fabric.netns, lab.hosts[container.host].address, port)
    return works


def page(netns: str, address: str, port: int) -> bool:
    try:
        return reach.http_body(netns, address, port, PAGE_TIMEOUT) == engine.BODY_SIZE
    except (FileNotFoundError, ProcessLookupError):
        return False

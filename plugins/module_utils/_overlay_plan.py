# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What it takes to make an overlay network anew with another MTU: commands, as a person would type them.

The engine cannot change a network. Everything has to come off it, it is removed and made again with the options it has,
and everything goes back. The same commands are shown, noted as what undoes one another, and run.
"""

from __future__ import annotations

import re
import typing as t
from collections.abc import Iterable
from dataclasses import dataclass, field

MTU_OPTION = "com.docker.network.driver.mtu"
# Given by the allocator; a network that is made anew gets one of its own.
ALLOCATED = ("com.docker.network.driver.overlay.vxlanid_list",)
SERVICE_LABEL = "com.docker.swarm.service.id"
LEAST, MOST = 68, 65535
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
Row = dict[str, t.Any]
Command = list[str]


class OverlayError(Exception):
    """The request cannot be met; the message says why and what to do."""


@dataclass
class Member:
    """A service or a container on the network: how it comes off and goes back on."""

    name: str
    off: Command
    on: Command


@dataclass
class Network:
    """One network: what its MTU option is and shall be, and the way there."""

    name: str
    mtu: int
    now: str | None = None
    differs: bool = False
    why: str | None = None  # why it cannot be done from here
    create: Command = field(default_factory=list)
    recreate_old: Command = field(default_factory=list)
    services: list[Member] = field(default_factory=list)
    elsewhere: list[Row] = field(default_factory=list)  # containers of no service: name and the host's address

    @property
    def remove(self) -> Command:
        return ["docker", "network", "rm", self.name]

    def commands(self) -> list[Command]:
        """The whole plan, containers left out: those are typed on their own hosts."""
        off = [member.off for member in self.services]
        on = [member.on for member in self.services]
        return [*off, self.remove, self.create, *on]


def checked_name(name: str) -> str:
    """@raises OverlayError: it is no name of a network."""
    if not _NAME.fullmatch(name):
        raise OverlayError(f"networks: {name!r} is not the name of a network.")
    return name


def wanted(rows: Iterable[Row]) -> list[Network]:
    """The networks that are asked for.

    @raises OverlayError: a name or an MTU is not one, or a name is there twice.
    """
    found: dict[str, Network] = {}
    for row in rows:
        network = Network(checked_name(row["name"]), row["mtu"])
        if not LEAST <= network.mtu <= MOST:
            raise OverlayError(f"networks: {network.name} has an MTU of {network.mtu}, not of {LEAST} to {MOST} bytes.")
        if found.setdefault(network.name, network).mtu != network.mtu:
            raise OverlayError(f"networks: {network.name} is named twice, with different MTUs.")
    return list(found.values())


def complete(network: Network, inspected: Row, services: Iterable[Row]) -> None:
    """Fill in the plan.

    @param inspected: what C(docker network inspect --verbose) says of it.
    @param services: what C(docker service inspect) says of all.
    """
    options = inspected.get("Options") or {}
    network.now = options.get(MTU_OPTION)
    network.differs = network.now != str(network.mtu)
    network.services = [
        service_member(row, network.name, target)
        for row in services
        for target in networks_of(row)
        if target.get("Target") in (inspected.get("Id"), network.name)
    ]
    network.elsewhere = loose_endpoints(inspected)
    network.recreate_old = create_command(inspected, options)
    network.create = create_command(inspected, {**options, MTU_OPTION: str(network.mtu)})
    if inspected.get("Driver") != "overlay" or inspected.get("Scope") != "swarm":
        network.why = "It is no overlay network of a Swarm."
    elif inspected.get("Ingress"):
        network.why = (
            "It is the routing mesh. Services that publish ports in mode ingress must be removed first, and be created "
            "again afterwards."
        )
    elif inspected.get("ConfigOnly") or (inspected.get("ConfigFrom") or {}).get("Network"):
        network.why = "It takes its options from another network, which must be changed instead."


def create_command(inspected: Row, options: Row) -> Command:
    """The command that makes a network with what an inspected one has, and these driver options."""
    words = ["docker", "network", "create", "--driver", "overlay"]
    for flag, key in (("--attachable", "Attachable"), ("--internal", "Internal"), ("--ingress", "Ingress")):
        words += [flag] if inspected.get(key) else []
    words += ["--ipv6"] if inspected.get("EnableIPv6") else []
    ipam = inspected.get("IPAM") or {}
    if ipam.get("Driver") not in (None, "", "default"):
        words += ["--ipam-driver", str(ipam["Driver"])]
    for key, value in sorted((ipam.get("Options") or {}).items()):
        words += ["--ipam-opt", f"{key}={value}"]
    for pool in ipam.get("Config") or []:
        for flag, key in (("--subnet", "Subnet"), ("--ip-range", "IPRange"), ("--gateway", "Gateway")):
            words += [flag, str(pool[key])] if pool.get(key) else []
        for name, address in sorted((pool.get("AuxiliaryAddresses") or {}).items()):
            words += ["--aux-address", f"{name}={address}"]
    for key, value in sorted(options.items()):
        if key not in ALLOCATED:
            words += ["--opt", f"{key}={value}" if value else str(key)]
    for key, value in sorted((inspected.get("Labels") or {}).items()):
        words += ["--label", f"{key}={value}"]
    return [*words, str(inspected.get("Name"))]


def networks_of(service: Row) -> list[Row]:
    """The networks of a service; before API 1.25 they stood outside its tasks' template."""
    spec = service.get("Spec") or {}
    return (spec.get("TaskTemplate") or {}).get("Networks") or spec.get("Networks") or []


def service_member(service: Row, network: str, target: Row) -> Member:
    name = str((service.get("Spec") or {}).get("Name"))
    words = ["docker", "service", "update", "--quiet", "--detach=false"]
    parts = [f"name={network}", *(f"alias={alias}" for alias in target.get("Aliases") or [])]
    parts += [f"driver-opt={key}={value}" for key, value in sorted((target.get("DriverOpts") or {}).items())]
    return Member(name, [*words, "--network-rm", network, name], [*words, "--network-add", ",".join(parts), name])


def loose_endpoints(inspected: Row) -> list[Row]:
    """Containers of no service, on any host, as far as the engine that was asked takes part in the network."""
    tasks = ((inspected.get("Services") or {}).get("") or {}).get("Tasks") or []
    return [
        {"name": str(task.get("Name")), "host": (task.get("Info") or {}).get("Host IP")}
        for task in tasks
        if not str(task.get("Name")).endswith(("-endpoint", "-sbox"))
    ]


def container_member(container: Row, network: str) -> Member | None:
    """How a container of this host comes off the network and back on; None for a task of a service."""
    if SERVICE_LABEL in ((container.get("Config") or {}).get("Labels") or {}):
        return None
    endpoint = ((container.get("NetworkSettings") or {}).get("Networks") or {}).get(network) or {}
    name, full_id = str(container.get("Name")).lstrip("/"), str(container.get("Id"))
    words = ["docker", "network", "connect"]
    fixed = endpoint.get("IPAMConfig") or {}
    for flag, key in (("--ip", "IPv4Address"), ("--ip6", "IPv6Address")):
        words += [flag, str(fixed[key])] if fixed.get(key) else []
    for alias in endpoint.get("Aliases") or []:
        words += ["--alias", alias] if alias != full_id[:12] else []
    for link in endpoint.get("Links") or []:
        words += ["--link", link]
    for key, value in sorted((endpoint.get("DriverOpts") or {}).items()):
        words += ["--driver-opt", f"{key}={value}"]
    off = ["docker", "network", "disconnect", network, name]
    return Member(name, off, [*words, network, name])

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Name resolution: the engine's own resolver, containers that bypass it, resolvers behind it."""

from __future__ import annotations

import dataclasses
import json
import time

from .. import engine
from .changes import EngineStop, HostFile, NftTable
from .model import Expect, Fault, Place

EMBEDDED = "embedded-dns-broken"
BYPASSED = "container-dns-bypassed"
UPSTREAM = "upstream-dns-unreachable"
DEAD_SERVER = "203.0.113.53"
RESOLV_CONF = "/etc/site-resolv.conf"
DAEMON_JSON = "/etc/docker/daemon.json"


@dataclasses.dataclass(frozen=True)
class ContainerRules:
    """Rules of one table of a container's own namespace taken out: those of a chain that hold a text, or all."""

    table: str = "nat"
    chain: str = ""
    text: str = ""
    container: str = "app-$host"

    def apply(self, place: Place) -> str:
        netns = place.host.container_netns(place.fill(self.container))
        saved = place.host.run(["iptables-save", "-t", self.table], netns=netns).stdout
        if not self.chain:
            place.host.run(["iptables", "-w", "-t", self.table, "-F"], netns=netns)
        for line in saved.splitlines():
            if self.chain and line.startswith(f"-A {self.chain} ") and self.text in line:
                place.host.run(["iptables", "-w", "-t", self.table, "-D", *line.split()[1:]], netns=netns)
        return saved

    def undo(self, place: Place, saved: str) -> None:
        netns = place.host.container_netns(place.fill(self.container))
        place.host.run(["iptables-restore", "-w", "-T", self.table], input=saved, netns=netns)


@dataclasses.dataclass(frozen=True)
class OddContainer:
    """One more container, with options of the engine's own."""

    name: str
    network: str | None = None
    options: tuple[tuple[str, object], ...] = ()
    listen: str = "80"

    def apply(self, place: Place) -> None:
        options: dict[str, object] = {"network": self.network} if self.network else {}
        for key, value in self.options:
            options[key] = list(value) if isinstance(value, tuple) else value
        engine.run_container(place.host, place.fill(self.name), command=engine.httpd_command(self.listen), **options)

    def undo(self, place: Place, saved: None) -> None:
        place.host.docker.containers.get(place.fill(self.name)).remove(force=True, v=True)
        time.sleep(0.2)


@dataclasses.dataclass(frozen=True)
class EngineDns:
    """The name servers in the engine's configuration, after a restart with it; what ran is started again."""

    servers: tuple[str, ...]

    def apply(self, place: Place) -> str:
        saved = place.host.path(DAEMON_JSON).read_text()
        self._configure(place, json.dumps(json.loads(saved) | {"dns": self.servers}, indent=2) + "\n")
        return saved

    def _configure(self, place: Place, text: str) -> None:
        stop = EngineStop(15)
        running = stop.apply(place)
        place.host.write(DAEMON_JSON, text)
        stop.undo(place, running)

    def undo(self, place: Place, saved: str) -> None:
        self._configure(place, saved)


def deaf_resolver(ports: str) -> NftTable:
    """Questions to the resolver of the underlay are lost in the fabric."""
    rules = "".join(f"{ports} {protocol} dport 53 drop\n" for protocol in ("udp", "tcp"))
    return NftTable(
        "bridge", "lab_names", f"chain names {{ type filter hook prerouting priority -300;\n{rules} }}", "fabric"
    )


FAULTS = (
    Fault(
        EMBEDDED,
        "the nat rules in a container's namespace are flushed",
        (ContainerRules(),),
        Expect((EMBEDDED,), ("name-service",), ()),
    ),
    Fault(
        f"{EMBEDDED}:rule",
        "the rule that leads a container's questions by UDP to the engine is gone",
        (ContainerRules(chain="DOCKER_OUTPUT", text="-p udp"),),
        Expect((EMBEDDED,), ("name-service",), ()),
    ),
    Fault(
        BYPASSED,
        "a container on the overlay has another resolv.conf mounted over its own",
        (
            HostFile(RESOLV_CONF, "nameserver 192.0.2.1\n"),
            OddContainer("mounted-$host", engine.OVERLAY, (("volumes", (f"{RESOLV_CONF}:/etc/resolv.conf:ro",)),)),
        ),
        Expect((BYPASSED,), ("name-service",), ()),
    ),
    Fault(
        UPSTREAM,
        "the network loses a host's questions to the resolver",
        (deaf_resolver('iifname "$port"'),),
        Expect((UPSTREAM,), ("name-service",), (), direction="out"),
    ),
    Fault(
        f"{UPSTREAM}:option",
        "a container was given a resolver that does not exist",
        (OddContainer("lost-$host", engine.OVERLAY, (("dns", (DEAD_SERVER,)),)),),
        Expect((UPSTREAM,), ("name-service",), (), direction="out"),
    ),
    Fault(
        f"{UPSTREAM}:engine",
        "the engine of one host was given a resolver that does not exist",
        (EngineDns((DEAD_SERVER,)),),
        Expect((UPSTREAM,), ("name-service",), (), direction="out"),
        residue="containers that are started anew have new addresses, links and namespaces",
    ),
)

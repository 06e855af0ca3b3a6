# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tunnel's port blocked by a firewall that another program owns: firewalld or ufw, and so that it lasts."""

from __future__ import annotations

import dataclasses
from typing import Any

from .. import firewall
from .changes import EngineStop
from .model import Place
from .tunnel_filter import blocked

ZONE = "/etc/firewalld/zones/public.xml"
ZONES = "/etc/firewalld/zones"
# Everything the Swarm needs between its nodes but the tunnel's port, and what is published.
PUBLIC = """\
<?xml version="1.0" encoding="utf-8"?>
<zone>
  <short>Public</short>
  <service name="ssh"/>
  <service name="dhcpv6-client"/>
  <port port="2377" protocol="tcp"/>
  <port port="8080" protocol="tcp"/>
  <port port="7946" protocol="tcp"/>
  <port port="7946" protocol="udp"/>
  <forward/>
</zone>
"""
UFW_FILES = ("/etc/ufw/ufw.conf", "/etc/ufw/user.rules", "/etc/ufw/user6.rules")
UFW_ALLOWED = ("22/tcp", "8080/tcp", "2377/tcp", "7946/tcp", "7946/udp")


@dataclasses.dataclass(frozen=True)
class Firewalld:
    """A host that has booted with firewalld, and the engine after it: started later, it would flush Docker's rules."""

    def apply(self, place: Place) -> list[str]:
        host = place.host
        zones = sorted(entry.name for entry in host.path(ZONES).iterdir())
        host.write(ZONE, PUBLIC)
        firewall.enable_firewalld(host)
        stop = EngineStop(15)
        running = stop.apply(place)
        firewall.start_firewalld(host)
        stop.undo(place, running)
        return zones

    def undo(self, place: Place, saved: list[str]) -> None:
        host = place.host
        stop = EngineStop(15)
        running = stop.apply(place)
        firewall.stop_firewalld(host)
        firewall.disable_firewalld(host)
        for entry in host.path(ZONES).iterdir():
            if entry.name not in saved:
                entry.unlink()
        stop.undo(place, running)


@dataclasses.dataclass(frozen=True)
class Ufw:
    """ufw enabled with its defaults: what comes in is denied, but for SSH and what is allowed here."""

    def apply(self, place: Place) -> dict[str, Any]:
        host = place.host
        saved = {
            "files": {path: host.path(path).read_text() for path in UFW_FILES},
            "policies": {tool: firewall.policies(host, tool) for tool in firewall.TOOLS},
            "parameters": firewall.ufw_parameters(host),
        }
        for service in UFW_ALLOWED:
            host.run(["ufw", "allow", service])
        host.run(["ufw", "--force", "enable"])
        return saved

    def undo(self, place: Place, saved: dict[str, Any]) -> None:
        host = place.host
        host.run(["ufw", "--force", "disable"])
        for path, text in saved["files"].items():
            host.write(path, text, 0o640 if path.endswith(".rules") else 0o644)
        for tool, policies in saved["policies"].items():
            firewall.remove_ufw_chains(host, tool)
            for chain, policy in policies.items():
                host.run([tool, "-w", "-P", chain, policy])
        for path, value in saved["parameters"].items():
            host.run(["tee", path], input=value)
        host.path("/run/ufw.lock").unlink(missing_ok=True)


FAULTS = (
    dataclasses.replace(
        blocked("firewalld", "firewalld's zone knows the Swarm's ports but the tunnel's", Firewalld()),
        residue="an engine that was started anew has new namespaces and links",
    ),
    dataclasses.replace(
        blocked("ufw", "ufw denies what comes in but for the Swarm's ports without the tunnel's", Ufw()),
        residue="ufw's files are the host's own now, with the same content, and so is an empty table for IPv6",
    ),
)

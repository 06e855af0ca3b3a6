# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""System managers that change interfaces, routes and rules which are not theirs."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from .. import state
from .model import Fault, Place, latent

if TYPE_CHECKING:
    from ..fleet import Host

RULE = ["priority", "109", "fwmark", "0x200/0xf00", "lookup", "2004"]
FLANNEL_PORT = "8472"


@dataclasses.dataclass(frozen=True)
class ForeignRule:
    """A policy rule, as container networks make them, on every host; ``spare`` leaves it out on the fault's own."""

    spare: bool = False

    def apply(self, place: Place) -> list[str]:
        names = [h.name for h in place.lab.docker_hosts if not (self.spare and h.name == place.host.name)]
        for name in names:
            place.lab.hosts[name].run(["ip", "rule", "add", *RULE])
        return names

    def undo(self, place: Place, saved: list[str]) -> None:
        for name in saved:
            place.lab.hosts[name].run(["ip", "rule", "del", *RULE])


@dataclasses.dataclass(frozen=True)
class StandIn:
    """A process under another's name that does nothing: what is looked for is only whether it runs."""

    name: str

    def apply(self, place: Place) -> str:
        program = f"/run/{self.name}"
        place.host.run(["cp", "/bin/sleep", program])
        place.host.start([program, "86400"], log="/dev/null")
        found = state.wait_for(lambda: bool(self._pids(place.host)), 30)
        if not found:
            raise state.LabError(f"{program} does not run on {place.host.name}")
        return program

    def undo(self, place: Place, saved: str) -> None:
        place.host.run(["kill", *self._pids(place.host)])
        place.host.path(saved).unlink()

    def _pids(self, host: Host) -> list[str]:
        found = []
        for entry in host.path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (entry / "cmdline").read_text().startswith(f"/run/{self.name}\0"):
                    found.append(entry.name)
            except OSError:
                continue  # it has ended
        return found


@dataclasses.dataclass(frozen=True)
class Flannel:
    """A VXLAN device in every host's own namespace with entries for the others, as flannel makes them."""

    device: str = "flannel.1"

    def apply(self, place: Place) -> None:
        hosts = place.lab.docker_hosts
        macs = {}
        for host in hosts:
            words = ["type", "vxlan", "id", "1", "dev", "eth0", "local", host.address, "dstport", FLANNEL_PORT]
            host.run(["ip", "link", "add", self.device, *words, "nolearning"])
            host.run(["ip", "link", "set", self.device, "up"])
            macs[host.name] = json.loads(host.run(["ip", "-j", "link", "show", self.device]).stdout)[0]["address"]
        for host in hosts:
            for peer in hosts:
                if peer is not host:
                    entry = ["dev", self.device, "dst", peer.address, "self", "permanent"]
                    host.run(["bridge", "fdb", "add", macs[peer.name], *entry])

    def undo(self, place: Place, saved: None) -> None:
        for host in place.lab.docker_hosts:
            host.run(["ip", "link", "del", self.device])


@dataclasses.dataclass(frozen=True)
class NewMac:
    """A link whose MAC somebody sets anew; gone with the link."""

    link: str
    mac: str

    def apply(self, place: Place) -> None:
        place.host.run(["ip", "link", "set", self.link, "address", self.mac])

    def undo(self, place: Place, saved: None) -> None:
        pass


FAULTS: tuple[Fault, ...] = (
    latent(
        "networkd-foreign-flush",
        "a policy rule that all other hosts have is missing where a program called systemd-networkd runs",
        ForeignRule(spare=True),
        StandIn("systemd-networkd"),
        segments=("host-stack",),
    ),
    latent(
        "mac-policy-rewrite",
        "a tunnel device made by hand has another MAC than its peers send to; no container uses it",
        Flannel(),
        NewMac("flannel.1", "02:00:5e:00:53:01"),
        segments=("vtep",),
    ),
)

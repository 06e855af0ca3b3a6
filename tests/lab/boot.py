# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a host boots: what its files say, by the programs of a real machine, in their order. It stands in for systemd.

A unit that is enabled (a link in ``*.wants``) and is known here is started. One that fails stops no boot: it is named.
Kernel modules are the machine's, and so is every kernel parameter outside C(net.): a host has none of its own to set.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import engine, firewall, network, udev
from .units import Unit, enabled, own_units

if TYPE_CHECKING:
    from .fleet import Host

RULES = {"rules.v4": "iptables-restore", "rules.v6": "ip6tables-restore"}
INTERFACES = "/proc/sys/net/ipv4/conf"


@dataclass
class Boot:
    """One boot of one host; C(failed): what could not be started, and why."""

    host: Host
    failed: list[str] = field(default_factory=list)

    def run(self, what: str, *argv: str, input: str | None = None) -> None:
        done = self.host.run(argv, check=False, timeout=60, input=input)
        if done.returncode:
            self.failed.append(f"{what}: {shlex.join(argv)}: {(done.stderr or done.stdout).strip()}")

    def attempt(self, what: str, function: Callable[[Host], object]) -> None:
        try:
            function(self.host)
        except Exception as error:  # whatever it is, the boot goes on
            self.failed.append(f"{what}: {error}")


def boot(host: Host) -> list[str]:
    """Boot a host whose NIC is in and has no address yet; returns what could not be started."""
    boot = Boot(host)
    for folder in ("/run/sshd", "/run/lock"):
        host.path(folder).mkdir(parents=True, exist_ok=True)
    udev.add_nic(boot)
    set_parameters(boot, "^-?net[./]")
    start_packet_filters(boot)
    network.configure(host.netns, host.index)
    for unit in own_units(host):
        if not unit.after_engine:
            start(boot, unit)
    engine.start_sshd(host)
    if host.kind == "docker":
        first = interfaces(host)
        engine.start_engine(host)
        if late := interfaces(host) - first:
            names = "|".join(sorted(re.escape(name) for name in late))
            set_parameters(boot, rf"^-?net[./]ipv[46][./](conf|neigh)[./]({names})[./]")
        for unit in own_units(host):
            if unit.after_engine:
                start(boot, unit)
    return boot.failed


def set_parameters(boot: Boot, pattern: str) -> None:
    """What procps does at boot where systemd is not init, as here. A file that does not apply is reported by nobody."""
    boot.host.run(["sysctl", "--quiet", "--pattern", pattern, "--system"], check=False)


def interfaces(host: Host) -> set[str]:
    return set(host.run(["ls", INTERFACES]).stdout.split()) - {"all", "default"}


# ---- packet filters


def start_packet_filters(boot: Boot) -> None:
    """All of them come before the network does."""
    host = boot.host
    if enabled(host, "nftables.service"):
        boot.run("nftables.service", "nft", "-f", "/etc/nftables.conf")
    if enabled(host, "netfilter-persistent.service"):
        for name, tool in RULES.items():
            if (path := host.path(f"/etc/iptables/{name}")).is_file():
                boot.run("netfilter-persistent.service", tool, input=path.read_text())
    if firewall.ufw_is_enabled(host):
        boot.run("ufw.service", *firewall.UFW_START)
    if enabled(host, "firewalld.service"):
        boot.attempt("firewalld.service", firewall.start_firewalld)


def start(boot: Boot, unit: Unit) -> None:
    """Run a unit's commands in order, as systemd does: a failure ends them, unless "-" says that it may be."""
    if not unit.commands:
        boot.failed.append(f"{unit.name}: it is enabled, but there is no such unit or no ExecStart= in it")
    for command in unit.commands:
        before = len(boot.failed)
        words = shlex.split(command.lstrip("-"))
        boot.run(unit.name, *(word.replace("%%", "%").replace("$$", "$") for word in words))
        if command.startswith("-"):
            del boot.failed[before:]
        if boot.failed[before:]:
            return

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""firewalld and ufw on a host, for real. Installed on the machine, they do nothing on a host that does not ask."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from . import state, units

if TYPE_CHECKING:
    from .fleet import Host

FIREWALLD_UNIT = "/etc/systemd/system/multi-user.target.wants/firewalld.service"
FIREWALLD_LOG = "/var/log/firewalld.log"
UFW_CONF = "/etc/ufw/ufw.conf"
UFW_START = ("/usr/lib/ufw/ufw-init", "start", "quiet")
BUS = "/run/dbus"


def ufw_is_enabled(host: Host) -> bool:
    path = host.path(UFW_CONF)
    return path.is_file() and bool(re.search(r"(?m)^\s*ENABLED=yes", path.read_text()))


def enable_firewalld(host: Host) -> None:
    """So that it starts at the next boot."""
    link = host.path(FIREWALLD_UNIT)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to("/lib/systemd/system/firewalld.service")


def disable_firewalld(host: Host) -> None:
    host.path(FIREWALLD_UNIT).unlink(missing_ok=True)


def firewalld_runs(host: Host) -> bool:
    return host.run(["firewall-cmd", "--state"], check=False).returncode == 0


def start_firewalld(host: Host, timeout: float = 90.0) -> None:
    """Start the system bus and firewalld, and wait until it answers; nothing to do if it does already."""
    start_bus(host)
    if firewalld_runs(host):
        return
    host.start(["firewalld", "--nofork", "--nopid"], log=FIREWALLD_LOG)
    if not state.wait_for(lambda: firewalld_runs(host), timeout, 0.2):
        tail = host.path(FIREWALLD_LOG).read_text(errors="replace").splitlines()[-5:]
        raise state.LabError(f"firewalld on {host.name} does not answer; its log ends:\n" + "\n".join(tail))


def start_bus(host: Host) -> None:
    if host.path(f"{BUS}/system_bus_socket").exists():
        return
    host.path(BUS).mkdir(exist_ok=True)
    host.start(["dbus-daemon", "--system", "--nofork", "--nopidfile", "--nosyslog"], log="/var/log/dbus.log")
    if not state.wait_for(host.path(f"{BUS}/system_bus_socket").exists, 30):
        raise state.LabError(f"the system bus of {host.name} does not come up; see its /var/log/dbus.log")


def stop_firewalld(host: Host) -> None:
    """End firewalld, which takes its tables with it, and the bus."""
    for name in ("firewalld", "dbus-daemon"):
        end(host, name)
    for path in sorted(host.path(BUS).glob("*")):
        path.unlink()
    if host.path(BUS).is_dir():
        host.path(BUS).rmdir()


def end(host: Host, name: str) -> None:
    """Terminate the host's own processes of this name, and wait for it."""

    def running() -> list[str]:
        return [
            entry.name
            for entry in host.path("/proc").iterdir()
            if entry.name.isdigit() and name in words(entry / "cmdline")
        ]

    if found := running():
        host.run(["kill", *found], check=False)
    if not state.wait_for(lambda: not running(), 60, 0.1):
        raise state.LabError(f"{name} on {host.name} does not end")


def words(path: Path) -> set[str]:
    """The names of the program, and of the script if an interpreter runs it."""
    try:
        parts = path.read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return {part.rpartition("/")[2] for part in parts[:3]}


def forget_machine(host: Host) -> None:
    """Leave the host the programs only: what the machine's own firewalls are told is none of its business."""
    for name in ("firewalld", "ufw", "nftables", "netfilter-persistent", "crosshost-doctor-*"):
        for link in units.links(host, f"{name}.service"):
            link.unlink()
    host.path(f"{units.UNITS}/dbus-org.fedoraproject.FirewallD1.service").unlink(missing_ok=True)
    if ufw_is_enabled(host):
        text = host.path(UFW_CONF).read_text()
        host.write(UFW_CONF, re.sub(r"(?m)^\s*ENABLED=yes", "ENABLED=no", text))


# ---- taking ufw back


TOOLS = ("iptables", "ip6tables")


def ufw_parameters(host: Host) -> dict[str, str]:
    """The kernel parameters that ufw sets when it starts, by path, as they are now."""
    lines = host.path("/etc/ufw/sysctl.conf").read_text().splitlines()
    paths = [f"/proc/sys/{line.partition('=')[0].strip()}" for line in lines if line.strip() and line[0] != "#"]
    found = {path: host.run(["cat", path], check=False) for path in paths}  # not through /proc: that shows our own
    return {path: value.stdout.strip() for path, value in found.items() if value.returncode == 0}


def policies(host: Host, tool: str) -> dict[str, str]:
    """The policies of the chains of table filter; asking makes the table where there was none."""
    lines = host.run([tool, "-w", "-S"]).stdout.splitlines()
    return {words[1]: words[2] for line in lines if (words := line.split())[0] == "-P"}


def remove_ufw_chains(host: Host, tool: str) -> None:
    """What C(ufw disable) leaves: its chains, empty, and the jumps to them."""
    rules = host.run([tool, "-w", "-S"]).stdout.splitlines()
    for rule in rules:
        if " -j ufw" in rule and rule.startswith("-A "):
            host.run([tool, "-w", "-D", *rule.split()[1:]])
    for rule in rules:
        if rule.startswith("-N ufw"):
            host.run([tool, "-w", "-F", rule.split()[1]])
    for rule in rules:
        if rule.startswith("-N ufw"):
            host.run([tool, "-w", "-X", rule.split()[1]])

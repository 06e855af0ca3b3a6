# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who brings an interface's routes back at boot, and the routes to peers written down in that owner's way.

NetworkManager and systemd-networkd own an interface when they run and say so of this one. Everywhere else systemd runs
a unit of ours once the network is up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils import _commands
from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_text
from ansible_collections.crosshost.doctor.plugins.module_utils._host_routes import RouteError
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal, link_file, replace_file
from ansible_collections.crosshost.doctor.plugins.module_utils._managers import assignments, parse_devices
from ansible_collections.crosshost.doctor.plugins.module_utils._source_plan import PeerRoute

NETWORKMANAGER, NETWORKD, UNIT, NOBODY = "NetworkManager", "systemd-networkd", "systemd", "nobody"
UNIT_NAME = "crosshost-doctor-routes.service"
UNIT_PATH = f"/etc/systemd/system/{UNIT_NAME}"
WANTS = "/etc/systemd/system/multi-user.target.wants"
DROP_IN = "crosshost-doctor.conf"
UNIT_FOLDERS = ("usr/lib/systemd/system", "lib/systemd/system")
HEADER = "# Written by crosshost.doctor.source_address.\n"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NETWORK_FILE = re.compile(r"/[A-Za-z0-9_./@:+-]+\.network")
_EXEC = re.compile(r"ExecStart=(\S+) (-[46] route replace (\S+) .*)")
MODE = 0o644

Run = Callable[["list[str]"], "tuple[int, str, str]"]


@dataclass
class Owner:
    """What keeps the routes of one interface: a file of ours, or a connection of NetworkManager."""

    name: str
    device: str
    path: str | None = None  # the file
    connection: str | None = None  # NetworkManager's UUID of the connection
    says: list[str] = field(default_factory=list)


@dataclass
class Persist:
    """What is to be written for one interface: a file's texts, links, and commands with their opposites."""

    owner: Owner
    before: str | None = None
    after: str | None = None
    link: str | None = None  # a missing symbolic link to the file
    commands: list[tuple[list[str], list[str]]] = field(default_factory=list)

    @property
    def changes(self) -> bool:
        return self.before != self.after or self.link is not None or bool(self.commands)


# ---- who owns the interface


def find_owner(device: str, index: int, running: set[str], run: Run, root: str = "/") -> Owner:
    """The owner of an interface.

    @param running: the managers that run, as _managers.running_programs tells.
    """
    if NETWORKMANAGER in running:
        found = network_manager(device, run)
        if found:
            return found
    if NETWORKD in running:
        state = _link_state(root, index)
        path = state.get("NETWORK_FILE", "")
        if NETWORK_FILE.fullmatch(path) and ".." not in path and state.get("ADMIN_STATE") != "unmanaged":
            base = os.path.basename(path)
            owner = Owner(NETWORKD, device, f"/etc/systemd/network/{base}.d/{DROP_IN}")
            if base.startswith("10-netplan-"):
                owner.says.append(
                    f"{path} is made by netplan, which cannot name a source for routes on every release: the drop-in "
                    "stays beside it. Move the routes to /etc/netplan when you can."
                )
            return owner
    if any(os.path.isdir(os.path.join(root, folder)) for folder in UNIT_FOLDERS):
        return Owner(UNIT, device, UNIT_PATH)
    return Owner(
        NOBODY, device, says=[f"Nothing known here brings routes of {device} back at boot: add them to what does."]
    )


def _link_state(root: str, index: int) -> dict[str, str]:
    text = read_text(os.path.join(root, f"run/systemd/netif/links/{index}"), 65536) or ""
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, equals, value in pairs if equals}


def network_manager(device: str, run: Run) -> Owner | None:
    """The connection that a running NetworkManager has an interface in, unless somebody else had made it."""
    code, output, _error = run(["nmcli", "-t", "-f", "DEVICE,STATE", "device"])
    state = parse_devices(output).get(device, "") if code == 0 else ""
    if not state.startswith("connected") or "externally" in state:
        return None
    code, output, _error = run(["nmcli", "-g", "GENERAL.CON-UUID", "device", "show", device])
    uuid = output.strip()
    return Owner(NETWORKMANAGER, device, connection=uuid) if code == 0 and UUID.fullmatch(uuid) else None


# ---- what is to be written


def plan(owner: Owner, rows: list[PeerRoute], run: Run, root: str = "/") -> Persist:
    """What makes the routes of one interface last.

    @raises RouteError: a file of ours is not one of ours, or NetworkManager does not answer.
    """
    persist = Persist(owner)
    if owner.name == NETWORKMANAGER:
        persist.commands = _profile_commands(owner, rows, run)
    elif owner.path:
        persist.before = _own_text(root, owner.path)
        if owner.name == NETWORKD:
            persist.after = network_text(persist.before, rows)
        else:
            persist.after = unit_text(persist.before, rows)
            link = f"{WANTS}/{UNIT_NAME}"
            persist.link = None if os.path.lexists(os.path.join(root, link.lstrip("/"))) else link
    return persist


def _own_text(root: str, path: str) -> str | None:
    full = os.path.join(root, path.lstrip("/"))
    if not os.path.lexists(full):
        return None
    text = None if os.path.islink(full) else read_text(full)
    if text is None or HEADER not in text:
        raise RouteError(f"{path} is there and was not written by this module: it is left alone.")
    return text


def unit_text(before: str | None, rows: list[PeerRoute]) -> str:
    """The unit, with the routes of peers that another run wrote kept."""
    lines = _unit_lines(before)
    lines.update((row.wanted.dst, " ".join(row.apply[1:])) for row in rows)
    return _unit(lines)


def joined(one: str | None, other: str | None) -> str:
    """Two units with the routes of both."""
    return _unit({**_unit_lines(one), **_unit_lines(other)})


def _unit_lines(text: str | None) -> dict[str, str]:
    return {match.group(3): match.group(2) for match in _EXEC.finditer(text or "")}


def _unit(lines: dict[str, str]) -> str:
    ip = _commands.find("ip") or "/usr/sbin/ip"
    starts = "".join(f"ExecStart={ip} {lines[dst]}\n" for dst in sorted(lines))
    return (
        f"{HEADER}[Unit]\nDescription=Source addresses of routes to overlay peers\n"
        "Wants=network-online.target\nAfter=network-online.target\nBefore=docker.service\n\n"
        f"[Service]\nType=oneshot\nRemainAfterExit=yes\n{starts}\n[Install]\nWantedBy=multi-user.target\n"
    )


def network_text(before: str | None, rows: list[PeerRoute]) -> str:
    """The drop-in of a .network file, with the routes of peers that another run wrote kept."""
    sections: dict[str, str] = {}
    for block in re.split(r"(?m)^(?=\[Route\]$)", before or ""):
        keys = {key: value for section, key, value in assignments(block) if section == "Route"}
        if "Destination" in keys:
            sections[keys["Destination"]] = block.rstrip("\n") + "\n"
    sections.update((row.wanted.dst, _section(row)) for row in rows)
    return HEADER + "\n".join(sections[dst] for dst in sorted(sections))


def _section(row: PeerRoute) -> str:
    route = row.wanted
    lines = ["[Route]", f"Destination={route.dst}"]
    if route.gateway:
        lines.append(f"Gateway={route.gateway}")
        if route.onlink:
            lines.append("GatewayOnLink=yes")
    elif ":" not in route.dst:
        lines.append("Scope=link")
    lines.append(f"PreferredSource={route.source}")
    if route.metric:
        lines.append(f"Metric={route.metric}")
    lines += [f"MTUBytes={value}" for name, value in route.metrics if name == "mtu"]
    return "\n".join(lines) + "\n"


def profile_route(row: PeerRoute) -> str:
    """A route in the words of nmcli's ipv4.routes."""
    route = row.wanted
    words = [route.dst]
    if route.gateway:
        words.append(route.gateway)
    if route.metric:
        words += [str(route.metric)] if route.gateway else ["::" if ":" in route.dst else "0.0.0.0", str(route.metric)]
    words += ["onlink=true"] * route.onlink
    words += [f"mtu={value}" for name, value in route.metrics if name == "mtu"]
    return " ".join([*words, f"src={route.source}"])


def _profile_commands(owner: Owner, rows: list[PeerRoute], run: Run) -> list[tuple[list[str], list[str]]]:
    key = "ipv6.routes" if ":" in rows[0].peer else "ipv4.routes"
    code, output, error = run(["nmcli", "-g", key, "connection", "show", "uuid", owner.connection or ""])
    if code:
        raise RouteError(f"NetworkManager does not show the connection of {owner.device}: {error.strip()}")
    known = profile_routes(output)
    modify = ["nmcli", "connection", "modify", "uuid", owner.connection or ""]
    commands = []
    for row in rows:
        text, old = profile_route(row), known.get(row.wanted.dst)
        if old and f"src={row.wanted.source}" in old.split():
            continue
        if old:  # a route is the same to NetworkManager whatever its source: the new one would not be added
            commands.append(([*modify, f"-{key}", old], [*modify, f"+{key}", old]))
        commands.append(([*modify, f"+{key}", text], [*modify, f"-{key}", text]))
    return commands


def profile_routes(output: str) -> dict[str, str]:
    """The routes that C(nmcli -g ipv4.routes) shows, by destination, in the words that nmcli takes.

    Releases spell them C(192.0.2.12/32 192.0.2.1 100 src=192.0.2.11) or
    C({ ip = 192.0.2.12/32, nh = 192.0.2.1, mt = 100, src=192.0.2.11 }).
    """
    found: dict[str, str] = {}
    text = output.replace("\\", "")
    for block in re.findall(r"\{([^}]*)\}", text) or re.split(r"[,;]", text):
        words = block.replace(",", " ").replace(" = ", "=").split()
        named = dict(word.split("=", 1) for word in words if "=" in word)
        plain = [word for word in words if "=" not in word]
        place = [named.pop(name) for name in ("ip", "nh", "mt") if name in named] or plain
        if place and "/" in place[0]:
            found[place[0]] = " ".join([*place, *(f"{name}={value}" for name, value in named.items())])
    return found


# ---- writing it


def apply(persist: Persist, journal: Journal, run: Run, root: str = "/", systemd: bool = False) -> None:
    """Write it, each step noted before.

    @param systemd: systemd runs, and is to be told of the unit.
    @raises RouteError: NetworkManager or systemd refused.
    @raises OSError: a file cannot be written.
    """
    owner = persist.owner
    for command, opposite in persist.commands:
        journal.command(opposite)
        _do(command, run)
    if owner.name == UNIT and systemd:
        journal.command(["systemctl", "daemon-reload"], tolerate=True)
    if owner.path and persist.after is not None and persist.before != persist.after:
        journal.file(owner.path)
        replace_file(os.path.join(root, owner.path.lstrip("/")), persist.after.encode(), MODE)
    if persist.link:
        journal.file(persist.link)
        link_file(os.path.join(root, persist.link.lstrip("/")), UNIT_PATH)
    if owner.name == UNIT and systemd:
        _do(["systemctl", "daemon-reload"], run)


def _do(command: list[str], run: Run) -> None:
    code, _output, error = run(command)
    if code:
        raise RouteError(f"{' '.join(command)}: {error.strip() or f'exit {code}'}")


def row(persist: Persist) -> dict[str, Any]:
    """What keeps the routes of one interface, as the module returns it."""
    owner = persist.owner
    return {
        "interface": owner.device,
        "owner": owner.name,
        "file": owner.path,
        "connection": owner.connection,
        "commands": [" ".join(command) for command, _opposite in persist.commands],
        "says": owner.says,
    }

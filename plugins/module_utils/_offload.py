# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checksum offload of interfaces: what is on, what is switched off now, and what switches it off at boot.

At boot it is a udev rule: it says this one thing of one interface. A .link file would be the only one that counts for
the interface, and silently undo what the distribution's says about its name and MAC address.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils import _commands
from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_text
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal, replace_file
from ansible_collections.crosshost.doctor.plugins.module_utils._source_owner import NOBODY, network_manager

NETWORKMANAGER, UDEV = "NetworkManager", "udev"
RULES_PATH = "/etc/udev/rules.d/90-crosshost-doctor.rules"
UDEV_FOLDERS = ("etc/udev", "usr/lib/udev", "lib/udev", "run/udev")
HEADER = "# Written by crosshost.doctor.checksum_offload.\n"
INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,14}")
FEATURE = re.compile(r"[rt]x-[a-z0-9_-]*(checksum|csum)[a-z0-9_-]*")
_LINE = re.compile(r"\s*([a-z0-9_-]+): (on|off)( \[fixed\])?( \[requested (on|off)\])?")
_RULE = re.compile(r'.*KERNEL=="([^"]+)".*RUN\+="\S+ -K (\S+) (\S+) off"')
MODE = 0o644

Run = Callable[["list[str]"], "tuple[int, str, str]"]


class OffloadError(Exception):
    """It cannot be switched off; the message is for the user."""


@dataclass(frozen=True)
class Feature:
    """One feature of one interface."""

    interface: str
    name: str
    on: bool
    fixed: bool
    there: bool = True

    @property
    def changes(self) -> bool:
        return self.on

    @property
    def apply(self) -> list[str]:
        return ["ethtool", "-K", self.interface, self.name, "off"]

    @property
    def undo(self) -> list[str]:
        return ["ethtool", "-K", self.interface, self.name, "on"]


@dataclass
class Persist:
    """What switches features off at boot: the text of the rules file, or commands with their opposites."""

    before: str | None = None
    after: str | None = None
    commands: list[tuple[list[str], list[str]]] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)  # by interface

    @property
    def changes(self) -> bool:
        return self.before != self.after or bool(self.commands)


def parse(output: str) -> dict[str, tuple[bool, bool]]:
    """(on, fixed) of each feature that C(ethtool -k) lists."""
    rows = filter(None, map(_LINE.fullmatch, output.splitlines()))
    return {row.group(1): (row.group(2) == "on", row.group(3) is not None) for row in rows}


def read(interfaces: list[str], names: list[str], run: Run) -> list[Feature]:
    """The features as they are.

    @raises OffloadError: an interface is not there, or a feature is none or cannot be switched off.
    """
    for name in names:
        if not FEATURE.fullmatch(name):
            raise OffloadError(f"features: {name!r} is no feature about checksums; see ethtool -k.")
    rows = []
    for interface in dict.fromkeys(interfaces):
        if not INTERFACE.fullmatch(interface):
            raise OffloadError(f"interfaces: {interface!r} is not the name of an interface.")
        code, output, error = run(["ethtool", "-k", interface])
        if code:
            raise OffloadError(f"ethtool -k {interface}: {error.strip() or f'exit {code}'}")
        found = parse(output)
        for name in dict.fromkeys(names):
            on, fixed = found.get(name, (False, True))
            if on and fixed:
                raise OffloadError(f"{interface}: the driver does not let {name} be switched off.")
            rows.append(Feature(interface, name, on, fixed, name in found))
    return rows


# ---- at boot


def plan(rows: list[Feature], managed: bool, run: Run, root: str = "/") -> Persist:
    """What makes it last. A feature that the driver has fixed needs nothing.

    @param managed: NetworkManager runs.
    @raises OffloadError: the rules file is not ours, or NetworkManager does not answer.
    """
    persist = Persist()
    for_udev = []
    for interface in dict.fromkeys(row.interface for row in rows):
        wanted = [row for row in rows if row.interface == interface and not row.fixed]
        owner = network_manager(interface, run) if managed else None
        if owner and owner.connection:
            persist.owners[interface] = NETWORKMANAGER
            for row in wanted:
                persist.commands += _profile(owner.connection, row.name, run)
        elif any(os.path.isdir(os.path.join(root, folder)) for folder in UDEV_FOLDERS):
            persist.owners[interface] = UDEV
            for_udev += wanted
        else:
            persist.owners[interface] = NOBODY
    if for_udev:
        persist.before = _own_text(root)
        persist.after = rules_text(persist.before, for_udev)
    return persist


def _own_text(root: str) -> str | None:
    full = os.path.join(root, RULES_PATH.lstrip("/"))
    if not os.path.lexists(full):
        return None
    text = None if os.path.islink(full) else read_text(full)
    if text is None or HEADER not in text:
        raise OffloadError(f"{RULES_PATH} is there and was not written by this module: it is left alone.")
    return text


def rules_text(before: str | None, rows: list[Feature]) -> str:
    """The rules, with those that another run wrote kept. A device that udev renames has its name in a move event."""
    ethtool = _commands.find("ethtool") or "/usr/sbin/ethtool"
    found = filter(None, map(_RULE.fullmatch, (before or "").splitlines()))
    pairs = {(row.group(2), row.group(3)) for row in found} | {(row.interface, row.name) for row in rows}
    lines = [
        f'ACTION=="add|move", SUBSYSTEM=="net", KERNEL=="{interface}", RUN+="{ethtool} -K {interface} {name} off"\n'
        for interface, name in sorted(pairs)
    ]
    return HEADER + "".join(lines)


def _profile(connection: str, feature: str, run: Run) -> list[tuple[list[str], list[str]]]:
    key = f"ethtool.feature-{feature}"
    code, output, error = run(["nmcli", "-g", key, "connection", "show", "uuid", connection])
    if code:
        raise OffloadError(f"NetworkManager does not show {key} of connection {connection}: {error.strip()}")
    now = output.strip()
    if now == "off":
        return []
    modify = ["nmcli", "connection", "modify", "uuid", connection, key]
    return [([*modify, "off"], [*modify, now if now == "on" else "ignore"])]


# ---- doing it


def switch_off(rows: list[Feature], journal: Journal, run: Run) -> None:
    """Switch off what is on, each noted before.

    @raises OffloadError: the driver refused.
    @raises JournalError: it could not be noted; nothing more was changed.
    """
    for row in rows:
        if row.changes:
            journal.command(row.undo)
            _do(row.apply, run)


def write(persist: Persist, journal: Journal, run: Run, root: str = "/") -> None:
    """Write what makes it last, each step noted before.

    @raises OffloadError: NetworkManager refused.
    @raises OSError: the file cannot be written.
    """
    for command, opposite in persist.commands:
        journal.command(opposite)
        _do(command, run)
    if persist.after is not None and persist.before != persist.after:
        journal.file(RULES_PATH)
        replace_file(os.path.join(root, RULES_PATH.lstrip("/")), persist.after.encode(), MODE)


def _do(command: list[str], run: Run) -> None:
    code, _output, error = run(command)
    if code:
        raise OffloadError(f"{' '.join(command)}: {error.strip() or f'exit {code}'}")


def row(feature: Feature, owner: str | None) -> dict[str, Any]:
    """A feature as the module returns it."""
    return {
        "interface": feature.interface,
        "feature": feature.name,
        "there": feature.there,
        "before": "on" if feature.on else "off",
        "fixed": feature.fixed,
        "owner": owner,
    }

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The units of a host as their files say: which are wanted at boot, and what the collection's own would run."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .fleet import Host

UNITS = "/etc/systemd/system"
OWN_UNITS = "crosshost-doctor-*.service"


def enabled(host: Host, unit: str) -> bool:
    """Whether a unit of this name is wanted and not masked. Links are not followed: they are the host's, not ours."""
    return bool(enabled_units(host, unit))


def enabled_units(host: Host, pattern: str) -> list[str]:
    names = {link.name for link in links(host, pattern)}
    return sorted(name for name in names if not is_masked(host.path(UNITS) / name))


def links(host: Host, pattern: str) -> list[Path]:
    """What wants units of such names. A glob would leave out links that lead nowhere when followed from here."""
    folders = [*host.path(UNITS).glob("*.wants"), *host.path(UNITS).glob("*.requires")]
    return [entry for folder in folders for entry in folder.iterdir() if fnmatchcase(entry.name, pattern)]


def is_masked(path: Path) -> bool:
    return path.is_symlink() and str(path.readlink()) == "/dev/null"


@dataclass(frozen=True)
class Unit:
    """An enabled oneshot service of the collection."""

    name: str
    commands: list[str]
    after_engine: bool


def own_units(host: Host) -> list[Unit]:
    found = []
    for name in enabled_units(host, OWN_UNITS):
        path = host.path(f"{UNITS}/{name}")
        entries = parse(path.read_text()) if path.is_file() else []
        after = [
            unit for section, key, value in entries if (section, key) == ("Unit", "After") for unit in value.split()
        ]
        commands = [
            value for wanted in ("ExecStartPre", "ExecStart") for _section, key, value in entries if key == wanted
        ]
        found.append(Unit(name, commands, "docker.service" in after))
    return found


def parse(text: str) -> list[tuple[str, str, str]]:
    """Section, key and value of every line of a systemd file; an empty value takes back what was assigned before."""
    entries: list[tuple[str, str, str]] = []
    section = ""
    for raw in text.replace("\\\n", " ").splitlines():
        line = raw.strip()
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif "=" in line and line[0] not in "#;":
            key, _equals, value = (part.strip() for part in line.partition("="))
            if not value:
                entries = [entry for entry in entries if entry[:2] != (section, key)]
            else:
                entries.append((section, key, value))
    return entries

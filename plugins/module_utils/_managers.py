# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs of the host that rewrite its network on their own: whether they run, and the settings that decide.

Files are read, by the rules of each program for which of them wins; a program is asked only while it runs.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._commands import find, run_bounded
from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_text

FILES_LIMIT = 128
ITEMS_LIMIT = 512
ASK_SECONDS = 2.0
JOURNAL_LINES = 1000
NETWORKD = ("/usr/lib/systemd/systemd-networkd", "/lib/systemd/systemd-networkd")
SYSTEMD_DIRS = ("/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd", "/lib/systemd")
NM_DIRS = ("/usr/lib/NetworkManager/conf.d", "/run/NetworkManager/conf.d", "/etc/NetworkManager/conf.d")
TRUE, FALSE = frozenset(("1", "yes", "y", "true", "t", "on")), frozenset(("0", "no", "n", "false", "f", "off"))
# The name of the process, which the kernel cuts off at 15 characters, by that of the program.
PROCESSES = {"systemd-network": "systemd-networkd", "NetworkManager": "NetworkManager", "firewalld": "firewalld"}


def read_managers(root: str = "") -> list[dict[str, Any]]:
    """The C(managers) of the host facts: those that are installed."""
    running = running_programs(f"{root}/proc")
    rows = []
    for name, read in (
        ("systemd-networkd", _networkd),
        ("NetworkManager", _network_manager),
        ("firewalld", _firewalld),
        ("ufw", _ufw),
        ("cloud-init", _cloud_init),
    ):
        found = read(root, name in running)
        if found is not None:
            rows.append({"name": name, "running": found[0], "config": found[1]})
    return rows


def running_programs(proc: str = "/proc") -> set[str]:
    """Which of L(PROCESSES) run in this network namespace; the same program in a container is another matter."""
    found = set()
    own: int | None = None
    with contextlib.suppress(OSError):
        own = os.stat(f"{proc}/self/ns/net").st_ino
    for pid in filter(str.isdigit, os.listdir(proc)):
        name = PROCESSES.get((read_text(f"{proc}/{pid}/comm", 64) or "").strip())
        if name is None:
            continue
        words = (read_text(f"{proc}/{pid}/cmdline", 4096) or "").split("\0")[:3]
        inode = own
        with contextlib.suppress(OSError):  # not root: what it is called is all there is to go by
            inode = os.stat(f"{proc}/{pid}/ns/net").st_ino
        if inode == own and any(os.path.basename(word) == name for word in words):
            found.add(name)
    return found


def assignments(text: str) -> Iterator[tuple[str, str, str]]:
    """(section, key, value) of each line of an ini file; C(key+=value) has the key C(key+)."""
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif line and line[0] not in "#;":
            key, equals, value = line.partition("=")
            if equals:
                yield section, key.strip(), value.strip()


def boolean(value: str | None, default: bool) -> bool:
    """A boolean as systemd reads it; what is none leaves the default."""
    word = (value or "").lower()
    return True if word in TRUE else False if word in FALSE else default


def _names(directory: str, ending: str = ".conf") -> list[str]:
    try:
        return sorted(name for name in os.listdir(directory) if name.endswith(ending))[:FILES_LIMIT]
    except OSError:
        return []


def layered(root: str, name: str, directories: tuple[str, ...] = SYSTEMD_DIRS) -> list[str]:
    """Texts of a systemd configuration in the order in which a later one wins: the file, then its drop-ins.

    @param directories: from the strongest to the weakest; a drop-in hides those of its name in weaker ones.
    """
    main = next(filter(None, (read_text(f"{root}{one}/{name}", 65536) for one in directories)), "")
    paths: dict[str, str] = {}
    for directory in reversed(directories):
        folder = f"{root}{directory}/{name}.d"
        paths.update((entry, f"{folder}/{entry}") for entry in _names(folder))
    return [main, *(read_text(paths[entry], 65536) or "" for entry in sorted(paths)[:FILES_LIMIT])]


def _networkd(root: str, running: bool) -> tuple[bool, dict[str, Any]] | None:
    if not running and not any(os.path.exists(root + path) for path in NETWORKD):
        return None
    settings = {"ManageForeignRoutes": True, "ManageForeignRoutingPolicyRules": True}
    for text in layered(root, "networkd.conf"):
        for section, key, value in assignments(text):
            if section == "Network" and key in settings:
                settings[key] = boolean(value, True if not value else settings[key])
    return running, {
        "manage_foreign_routes": settings["ManageForeignRoutes"],
        "manage_foreign_rules": settings["ManageForeignRoutingPolicyRules"],
        "foreign_log": _foreign_log() if running else None,
    }


def _foreign_log() -> int | None:
    """How often networkd wrote that it removed what it had not made, in its last lines since the boot."""
    journalctl = find("journalctl")
    if journalctl is None:
        return None
    command = [journalctl, "-u", "systemd-networkd", "-b", "-o", "cat", "-n", str(JOURNAL_LINES), "--no-pager", "-q"]
    raw, _truncated, error = run_bounded(command, ASK_SECONDS, 1 << 20)
    return None if error else len(re.findall(rb"Removing (?:foreign|unmanaged) ", raw))


def _network_manager(root: str, running: bool) -> tuple[bool, dict[str, Any]] | None:
    main = f"{root}/etc/NetworkManager/NetworkManager.conf"
    if not running and not os.path.exists(main) and not os.path.exists(f"{root}/usr/sbin/NetworkManager"):
        return None
    texts = [read_text(main, 65536) or ""]
    paths: dict[str, str] = {}
    for directory in NM_DIRS:
        paths.update((entry, f"{root}{directory}/{entry}") for entry in _names(root + directory))
    texts += [read_text(paths[entry], 65536) or "" for entry in sorted(paths)[:FILES_LIMIT]]
    return running, {"unmanaged": unmanaged(texts), "devices": _devices() if running else {}}


def unmanaged(texts: list[str]) -> list[str]:
    """The device patterns that NetworkManager leaves alone, from its files in the order in which a later one wins."""
    patterns: list[str] = []
    devices: dict[str, dict[str, str]] = {}
    for section, key, value in (found for text in texts for found in assignments(text)):
        if section == "keyfile" and key.rstrip("+-") == "unmanaged-devices":
            words = [word.strip() for word in re.split(r"[;,]", value) if word.strip()]
            if key.endswith("-"):
                patterns = [one for one in patterns if one not in words]
            else:
                patterns = (patterns if key.endswith("+") else []) + words
        elif section.startswith("device"):
            devices.setdefault(section, {})[key] = value
    for settings in devices.values():
        if not boolean(settings.get("managed"), True):
            patterns += [word.strip() for word in re.split(r"[;,]", settings.get("match-device", "*")) if word.strip()]
    return patterns[:ITEMS_LIMIT]


def _devices() -> dict[str, str]:
    """The state of each device as a running NetworkManager tells it."""
    nmcli = find("nmcli")
    if nmcli is None:
        return {}
    raw, _truncated, error = run_bounded([nmcli, "-t", "-f", "DEVICE,STATE", "device"], ASK_SECONDS, 1 << 18)
    return {} if error else parse_devices(raw.decode("utf-8", "replace"))


def parse_devices(text: str) -> dict[str, str]:
    """Name and state of the lines of C(nmcli -t -f DEVICE,STATE device)."""
    pairs = (line.rpartition(":") for line in text.splitlines()[:ITEMS_LIMIT])
    return {re.sub(r"\\(.)", r"\1", name): state for name, _colon, state in pairs if name}


def _firewalld(root: str, running: bool) -> tuple[bool, dict[str, Any]] | None:
    text = read_text(f"{root}/etc/firewalld/firewalld.conf", 65536)
    if not running and text is None and not os.path.exists(f"{root}/usr/sbin/firewalld"):
        return None
    found = [value for _section, key, value in assignments(text or "") if key == "FirewallBackend" and value]
    return running, {"backend": found[-1] if found else "nftables", "reloaded": None}


def _ufw(root: str, running: bool) -> tuple[bool, dict[str, Any]] | None:
    text = read_text(f"{root}/etc/ufw/ufw.conf", 65536)
    if text is None:
        return None
    found = [value.strip("\"'") for _section, key, value in assignments(text) if key == "ENABLED"]
    return bool(found) and found[-1].lower() == "yes", {}


def _cloud_init(root: str, running: bool) -> tuple[bool, dict[str, Any]] | None:
    """It runs at every boot unless it is switched off."""
    if not os.path.isdir(f"{root}/etc/cloud") and not os.path.exists(f"{root}/usr/bin/cloud-init"):
        return None
    folder = f"{root}/etc/cloud/cloud.cfg.d"
    texts = [read_text(f"{root}/etc/cloud/cloud.cfg", 65536) or ""]
    texts += [read_text(f"{folder}/{name}", 65536) or "" for name in _names(folder, ".cfg")]
    disabled = re.compile(r"^network:\s*(?:\{\s*|\n\s+)config:\s*[\"']?disabled", re.MULTILINE)
    network = not any(disabled.search(text) for text in texts)
    return not os.path.exists(f"{root}/etc/cloud/cloud-init.disabled"), {"network": network}

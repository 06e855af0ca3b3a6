# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host itself: names, kernel, distribution."""

from __future__ import annotations

import calendar
import os
import platform
import re
import socket
from collections.abc import Callable
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_text
from ansible_collections.crosshost.doctor.plugins.module_utils._libraries import Libraries

OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")


def parse_os_release(text: str) -> dict[str, str]:
    """The assignments of an os-release file, without their quotes."""
    found = {}
    for line in text.splitlines():
        name, equals, words = line.strip().partition("=")
        if equals and name and not name.startswith("#"):
            found[name] = words.strip("\"'")
    return found


def _line(path: str) -> str | None:
    return (read_text(path, 4096) or "").strip() or None


def read_host(libraries: Libraries) -> dict[str, Any]:
    """The C(host) facts that are always read; the rest of them, empty, is for L(host_parts)."""
    release = parse_os_release(next(filter(None, map(read_text, OS_RELEASE)), ""))
    uptime = (read_text("/proc/uptime", 64) or "").split()
    return {
        "hostname": socket.gethostname(),
        "kernel": os.uname().release,
        "machine": os.uname().machine,
        "python": platform.python_version(),
        "distribution": {"id": release.get("ID"), "version": release.get("VERSION_ID")},
        "machine_id": _line("/etc/machine-id"),
        "boot_id": _line("/proc/sys/kernel/random/boot_id"),
        "uptime": float(uptime[0]) if uptime else None,
        "root": os.geteuid() == 0,
        "ipvs": os.path.exists("/proc/net/ip_vs"),
        "br_netfilter": os.path.isdir("/proc/sys/net/bridge"),
        "libraries": {**libraries.versions, "origin": libraries.origin},
        "resolver": {"nameservers": [], "search": [], "options": []},
        "managers": [],
        "cni": [],
        "modules": {},
        "persisted_sysctls": {},
    }


def host_parts() -> dict[str, Callable[[], Any]]:
    """The readers of what only the section C(host) reads: files of other programs that shape the network."""
    from ansible_collections.crosshost.doctor.plugins.module_utils._cni import read_cni
    from ansible_collections.crosshost.doctor.plugins.module_utils._daemon import read_resolver
    from ansible_collections.crosshost.doctor.plugins.module_utils._kernel_modules import read_modules
    from ansible_collections.crosshost.doctor.plugins.module_utils._managers import read_managers

    return {"resolver": read_resolver, "managers": read_managers, "cni": read_cni, "modules": read_modules}


def note_reload(managers: list[dict[str, Any]], backend: dict[str, Any] | None) -> None:
    """When firewalld was last reloaded, which only an engine that stood by writes down."""
    text = str(((backend or {}).get("info") or {}).get("ReloadedAt") or "")
    match = re.match(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)", text, re.ASCII)
    if not match:
        return
    try:
        seconds = calendar.timegm(tuple(int(part) for part in match.groups()[:6]))
    except ValueError:
        return  # the 13th month
    zone = match.group(7)
    if zone != "Z":
        offset = int(zone[1:3]) * 3600 + int(zone[4:]) * 60
        seconds += offset if zone[0] == "-" else -offset
    for manager in managers:
        if manager["name"] == "firewalld":
            manager["config"]["reloaded"] = seconds

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The state of every host that a diagnosis must leave as it was and a healed fault must give back, as text to compare.

Read through the machine's own programs and through /proc, so that it does not depend on the code under test. Left out
is what changes by itself: counters, timers, learned and resolved entries.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .network import inside
from .state import wait_for

if TYPE_CHECKING:
    from .fleet import Host, Lab

VOLATILE = {
    *("ifindex", "gc_timer", "hello_timer", "tcn_timer", "topology_change_timer", "hold_timer", "message_age_timer"),
    *("forward_delay_timer", "used", "updated", "confirmed", "probes", "valid_life_time", "preferred_life_time"),
    *("topology_change", "topology_change_detected", "dadfailed", "tentative", "hash_elasticity"),
}
LINKS = ["ip", "-d", "-j", "link", "show"]
READERS: dict[str, list[str]] = {
    "links": LINKS,
    "addresses": ["ip", "-j", "address", "show"],
    "routes": ["ip", "-j", "route", "show", "table", "all"],
    "routes6": ["ip", "-6", "-j", "route", "show", "table", "all"],
    "rules": ["ip", "-j", "rule", "show"],
    "neighbours": ["ip", "-j", "neigh", "show", "nud", "permanent"],
    "fdb": ["bridge", "-j", "fdb", "show"],
}
RULESET = ["nft", "-s", "list", "ruleset"]
FILE_ROOTS = ("/run", "/tmp")
ENGINE_FILES = ("var/lib/docker", "var/log", "var/lib/containerd", "docker", "containerd", "var/run")
VOLATILE_SYSCTLS = ("nf_conntrack_count", "route/flush")


def take(lab: Lab) -> dict[str, str]:
    """Everything, by "host/namespace/what"."""
    spaces = [(f"{host.name}/{name}", netns) for host in lab.hosts.values() for name, netns in namespaces(host)]
    spaces.append(("fabric", lab.fabric.netns))
    for host in lab.hosts.values():
        # a young link's address counts as its own only after duplicate address detection
        wait_for(lambda host=host: not host.run(["ip", "-6", "address", "show", "tentative"]).stdout, 5, 0.2)  # type: ignore[misc]
    found = {f"{host.name}/files": "\n".join(files(host)) for host in lab.hosts.values()}
    with ThreadPoolExecutor(max_workers=4) as pool:
        for (name, _netns), state in zip(spaces, pool.map(namespace_state, [netns for _name, netns in spaces])):
            found |= {f"{name}/{what}": text for what, text in state.items()}
    return found


def difference(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """The lines in which two snapshots differ, marked - and +."""
    lines = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key, "").splitlines(), after.get(key, "").splitlines()
        lines += [f"- {key}: {line}" for line in old if line not in new]
        lines += [f"+ {key}: {line}" for line in new if line not in old]
        if old != new and sorted(old) == sorted(new):
            lines.append(f"± {key}: the same lines in another order")
    return lines


def without(state: dict[str, str], patterns: list[str]) -> dict[str, str]:
    """A snapshot without the lines that one of these regular expressions finds something in, as ``key: line``."""
    if not patterns:
        return state
    found = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
    return {
        key: "\n".join(line for line in text.splitlines() if not found.search(f"{key}: {line}"))
        for key, text in state.items()
    }


def namespaces(host: Host) -> list[tuple[str, str]]:
    """The host's own network namespace, those the engine keeps, and those of its containers."""
    return [("host", host.netns), *((entry.name, str(entry)) for entry in host.engine_netns())]


def namespace_state(netns: str) -> dict[str, str]:
    """What is in one network namespace. The programs are the machine's: a child starts in its thread's namespace."""

    def work() -> dict[str, str]:
        found = {what: normal(json.loads(output(command) or "[]"), what) for what, command in READERS.items()}
        return found | {"ruleset": output(RULESET), "legacy": legacy_tables(), "sysctls": sysctls()}

    return inside(netns, work)


def output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def normal(entries: list[dict[str, Any]], what: str) -> str:
    """One line an entry, sorted, without what changes by itself."""
    if what == "fdb":
        entries = [entry for entry in entries if entry.get("state") == "permanent"]
    return "\n".join(sorted(json.dumps(strip(entry), sort_keys=True) for entry in entries))


def strip(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: strip(inner) for key, inner in value.items() if key not in VOLATILE}
    return [strip(inner) for inner in value] if isinstance(value, list) else value


def legacy_tables() -> str:
    found = []
    for family in ("ip", "ip6"):
        path = Path(f"/proc/thread-self/net/{family}_tables_names")
        found += [f"{family} {name}" for name in path.read_text().split()] if path.exists() else []
    return "\n".join(sorted(found))


def sysctls() -> str:
    """The namespace's kernel parameters; call inside it."""
    lines = []
    for folder, folders, names in os.walk("/proc/sys/net"):
        folders[:] = sorted(set(folders) - {"neigh"})
        for name in sorted(names):
            path = f"{folder}/{name}"
            if not any(part in path for part in VOLATILE_SYSCTLS):
                with contextlib.suppress(OSError), open(path, "rb") as file:
                    lines.append(f"{path[10:]} = {file.read().strip().decode('utf-8', 'replace')}")
    return "\n".join(lines)


def files(host: Host, skip: Callable[[str], bool] | None = None) -> list[str]:
    """The host's files that differ from the machine's, with their digests: its overlay's upper layer, /run and /tmp."""
    lines = []
    roots = [(host.upper, ""), *((host.path(root), root) for root in FILE_ROOTS)]
    for root, prefix in roots:
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if path.is_dir() and not prefix and Path("/", name).is_dir():
                continue  # copied up on account of a file in it
            if name.startswith(ENGINE_FILES) or (skip and skip(f"{prefix}/{name}")):
                continue
            try:
                lines.append(f"{prefix}/{name} {describe(path)}")
            except FileNotFoundError:
                continue
    return lines


def describe(path: Path) -> str:
    status = path.lstat()
    kind = stat.filemode(status.st_mode)
    if stat.S_ISREG(status.st_mode):
        return f"{kind} {status.st_size} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    return f"{kind} {path.readlink()}" if stat.S_ISLNK(status.st_mode) else kind

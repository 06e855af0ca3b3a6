# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which playbook is running, told so that a later one on the same controller knows whether it still runs.

A process id alone is reused and means nothing on another machine or in another container. It becomes an identity
with the boot, the process id namespace and the time the process started.
"""

from __future__ import annotations

import hashlib
import os
import platform
import typing as t

Owner = dict[str, str | int | None]


def identity() -> str | None:
    """The process table of this controller; None where the system does not tell (anything but Linux)."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            boot = stream.read().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return None
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:12]


def started(pid: int) -> int | None:
    """When a process started, in clock ticks after boot; None when it has ended. Field 22 of proc_pid_stat(5)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            # The name of the program may hold blanks and brackets: fields count from the last bracket.
            fields = stream.read().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def playbook() -> Owner:
    """The running playbook: the parent of the worker process that an action plugin lives in."""
    pid = os.getppid()
    return {"controller": identity(), "pid": pid, "start": started(pid)}


def run_id(owner: Owner) -> str:
    """A run id that is the same in every task of one running playbook and of no other."""
    where = owner["controller"] or hashlib.sha256(platform.node().encode()).hexdigest()[:12]
    return f"{where}-{owner['pid']}-{owner['start'] or 0}"


def has_ended(owner: t.Mapping[str, t.Any]) -> bool:
    """Whether a playbook of this controller is certainly over. Not knowing is no."""
    if owner.get("controller") != identity() or not isinstance(owner.get("pid"), int) or not owner.get("start"):
        return False
    return started(owner["pid"]) != owner["start"]

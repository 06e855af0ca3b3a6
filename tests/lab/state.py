# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a lab writes down what it made, who holds it, and how it is cleared away.

``/run/crosshost-lab/NAME/`` holds one lab. Its ``lock`` is locked by the lab's watchdog and supervisor for as long as
one of them lives: a directory whose lock can be taken belongs to a dead lab, and only such a directory is ever swept.
Control groups carry the same prefix and name. Nothing else of a lab outlives its processes (see init.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PREFIX = "crosshost-lab"
BASE = Path("/run") / PREFIX
CGROUPS = Path("/sys/fs/cgroup")
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}\Z")


class LabError(Exception):
    """The lab cannot do what was asked; the text says what was tried, what was seen, and what to do."""


def directory(name: str) -> Path:
    if not NAME.match(name):
        raise LabError(f"{name!r} is no name for a lab: lower-case letters, digits and dashes, at most 31")
    return BASE / name


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: with its id it names one process for ever. None: none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def process_record(pid: int) -> list[int]:
    return [pid, start_time(pid) or 0]


def alive(record: list[int]) -> bool:
    return start_time(record[0]) == record[1]


def kill(record: list[int], number: int = signal.SIGKILL) -> bool:
    """Signal exactly the recorded process; False if it is gone."""
    try:
        handle = os.pidfd_open(record[0])
    except ProcessLookupError:
        return False
    try:
        if not alive(record):
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


def wait_for(condition: Callable[[], Any], timeout: float, step: float = 0.02) -> Any:
    """Poll until the condition holds; return its value, or its last (false) value at the deadline."""
    deadline = time.monotonic() + timeout
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(step)
    return value


@contextlib.contextmanager
def registry() -> Iterator[None]:
    """Serialise creation and sweeping of labs; the base directory goes when it is left empty."""
    while True:
        BASE.mkdir(mode=0o755, exist_ok=True)
        try:
            handle = os.open(BASE, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        fcntl.flock(handle, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.stat(BASE).st_ino == os.fstat(handle).st_ino:
                break
        os.close(handle)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            BASE.rmdir()
        os.close(handle)


def claim(name: str) -> int:
    """Make a new lab's directory and take its lock; return the descriptor that holds it. Call inside registry()."""
    path = directory(name)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        raise LabError(f"the lab {name!r} exists already: take it down first, or choose another --name") from None
    handle = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def is_dead(path: Path) -> bool:
    """Whether nobody holds the lab at this path any more."""
    try:
        handle = os.open(path / "lock", os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(handle)


def write_record(name: str, record: dict[str, Any]) -> None:
    path = directory(name) / "lab.json"
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(record, indent=1))
    temporary.replace(path)


def read_record(name: str) -> dict[str, Any]:
    path = directory(name)
    if not path.is_dir():
        raise LabError(f"there is no lab {name!r}: bring it up first (python -m tests.lab up --name {name})")
    if is_dead(path):
        raise LabError(f"the lab {name!r} is dead; sweep it (python -m tests.lab sweep)")
    try:
        record: dict[str, Any] = json.loads((path / "lab.json").read_text())
    except FileNotFoundError:
        raise LabError(f"the lab {name!r} is still coming up") from None
    return record


def names() -> list[str]:
    return sorted(entry.name for entry in BASE.iterdir() if entry.is_dir()) if BASE.is_dir() else []


def cgroup_roots() -> list[Path]:
    """The hierarchies of control groups: one under the unified version 2, one per controller under version 1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return (
        [entry for entry in CGROUPS.iterdir() if entry.is_dir() and not entry.is_symlink()] if CGROUPS.is_dir() else []
    )


def remove_cgroups(name: str, timeout: float = 60.0) -> list[Path]:
    """Remove the lab's control groups bottom-up, also while their last processes still exit; return what stayed."""

    def attempt() -> bool:
        for root in cgroup_roots():
            for folder, _folders, _files in os.walk(root / PREFIX / name, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
            with contextlib.suppress(OSError):
                os.rmdir(root / PREFIX)
        return not left()

    def left() -> list[Path]:
        return [path for root in cgroup_roots() if (path := root / PREFIX / name).exists()]

    wait_for(attempt, timeout, 0.05)
    return left()


def clear(name: str) -> None:
    """Remove all that is left of a lab nobody holds any more: surviving processes, control groups, its directory."""
    path = directory(name)
    processes = path / "processes"
    records = [json.loads(line) for line in processes.read_text().splitlines()] if processes.exists() else []
    for record in records:
        kill(record)
    wait_for(lambda: not any(alive(record) for record in records), 60)
    stuck = remove_cgroups(name)
    if stuck:
        raise LabError(f"control groups of lab {name!r} are still busy: {', '.join(map(str, stuck))}")
    shutil.rmtree(path, ignore_errors=False)


def note_process(name: str, pid: int) -> None:
    """Write down a process that may have to be killed by whoever clears the lab."""
    with open(directory(name) / "processes", "a") as out:
        out.write(json.dumps(process_record(pid)) + "\n")


def sweep(only: str | None = None) -> list[str]:
    """Clear away labs that died without clearing up; a living lab is never touched. Returns the names swept."""
    if not BASE.is_dir():
        return []
    swept = []
    with registry():
        for name in names():
            if (only is None or name == only) and is_dead(directory(name)):
                clear(name)
                swept.append(name)
    return swept

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Restart the engine of this host: by systemd where that started it, else with its own command line and environment.

Every wait is bounded. What ran before and does not run afterwards is told, and started again if that is wanted.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils import _commands
from ansible_collections.crosshost.doctor.plugins.module_utils._docker import PID_FILES
from ansible_collections.crosshost.doctor.plugins.module_utils._engine_api import Api, EngineError
from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_int, read_text

OF_A_TASK = "com.docker.swarm.task.id"
START_SECONDS = 20.0  # one container
UNIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:\\-]*\.service")
_PAUSE = 0.25


@dataclass
class Engine:
    """How the engine runs now."""

    pid: int
    unit: str | None  # of systemd; None: started by something else
    words: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    program: str = ""
    folder: str = "/"
    log: str | None = None  # the file its output goes to


@dataclass
class Before:
    """What a restart must bring back."""

    containers: dict[str, str]  # id and name of those that run; a service's tasks are the Swarm's business
    swarm: str | None
    live_restore: bool


# ---- how it runs


def find_engine(proc: str = "/proc", systemd: bool | None = None) -> Engine:
    """The engine's process, as its pid file names it.

    @raises EngineError: there is none, or it is something else by now.
    """
    pid = next((pid for pid in map(read_int, PID_FILES) if pid and os.path.isdir(f"{proc}/{pid}")), None)
    if pid is None:
        raise EngineError(f"No engine runs here: {PID_FILES[0]} names no process.")
    words = [word for word in (read_text(f"{proc}/{pid}/cmdline", 131072) or "").split("\0") if word]
    if not words or not os.path.basename(words[0]).startswith("dockerd"):
        raise EngineError(f"Process {pid} of {PID_FILES[0]} is not dockerd: it is left alone.")
    systemd = os.path.isdir("/run/systemd/system") if systemd is None else systemd
    unit = unit_of(read_text(f"{proc}/{pid}/cgroup", 65536) or "") if systemd else None
    engine = Engine(pid, unit, words)
    if unit is None:
        _read_process(engine, proc)
    return engine


def unit_of(cgroup: str) -> str | None:
    """The service of systemd in the control group path of a process."""
    for line in cgroup.splitlines():
        parts = [part for part in line.rpartition(":")[2].split("/") if UNIT.fullmatch(part)]
        if parts:
            return parts[-1]
    return None


def _read_process(engine: Engine, proc: str) -> None:
    base = f"{proc}/{engine.pid}"
    pairs = (entry.partition("=") for entry in (read_text(f"{base}/environ", 1 << 20) or "").split("\0"))
    engine.environment = {name: value for name, equals, value in pairs if equals}
    try:
        program = os.readlink(f"{base}/exe")
        engine.folder = os.readlink(f"{base}/cwd")
        log = os.readlink(f"{base}/fd/1")
    except OSError as exc:
        raise EngineError(f"How the engine was started cannot be read: {exc}") from exc
    # Updated meanwhile: the name leads to the new program, which is the one to start.
    found = program if os.path.isfile(program) else _commands.find(engine.words[0])
    if found is None:
        raise EngineError(f"The engine's program {engine.words[0]} is not there any more.")
    engine.program = found
    with contextlib.suppress(OSError):
        engine.log = log if stat.S_ISREG(os.stat(log).st_mode) else None


def before(api: Api) -> Before:
    """What runs now.

    @raises EngineError: the engine does not answer.
    """
    info = api.get("/info")
    rows = api.get("/containers/json") or []
    containers = {
        str(row["Id"]): str((row.get("Names") or [row["Id"]])[0]).lstrip("/")
        for row in rows
        if OF_A_TASK not in (row.get("Labels") or {})
    }
    swarm = (info.get("Swarm") or {}).get("LocalNodeState") or None
    return Before(containers, swarm, bool(info.get("LiveRestoreEnabled")))


def endangers_quorum(api: Api) -> str | None:
    """Why this manager cannot be spared, or None. Where the managers have no quorum there is none to lose."""
    try:
        info = api.get("/info")
        if not (info.get("Swarm") or {}).get("ControlAvailable"):
            return None
        nodes = api.get("/nodes") or []
    except EngineError:
        return None
    managers = [node["ManagerStatus"] for node in nodes if node.get("ManagerStatus")]
    reachable = sum(one.get("Reachability") == "reachable" for one in managers)
    if len(managers) > 1 and reachable - 1 < len(managers) // 2 + 1:
        return (
            f"{reachable} of {len(managers)} managers are reachable: without this one the Swarm has no quorum while "
            "its engine starts"
        )
    return None


# ---- doing it


def restart(engine: Engine, seconds: float) -> None:
    """Stop the engine and start it anew.

    @raises EngineError: it does not stop, or cannot be started.
    """
    if engine.unit:
        _by_systemd(engine.unit, seconds)
        return
    log: Any = subprocess.DEVNULL
    if engine.log:
        try:
            log = os.open(engine.log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            log = subprocess.DEVNULL
    try:
        os.kill(engine.pid, signal.SIGTERM)
        if not wait(lambda: _ended(engine.pid), seconds):
            raise EngineError(f"dockerd ({engine.pid}) has not ended {seconds:g} s after SIGTERM: it is left alone.")
        subprocess.Popen(
            engine.words,
            executable=engine.program,
            env=engine.environment,
            cwd=engine.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    except OSError as exc:
        raise EngineError(f"dockerd could not be started again: {exc}. Start it as it was: {engine.words}") from exc
    finally:
        if isinstance(log, int) and log >= 0:
            os.close(log)


def _by_systemd(unit: str, seconds: float) -> None:
    systemctl = _commands.find("systemctl") or "systemctl"
    try:
        done = subprocess.run(
            [systemctl, "restart", unit],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise EngineError(f"systemctl restart {unit}: {exc}") from exc
    if done.returncode:
        raise EngineError(f"systemctl restart {unit}: {done.stderr.strip()[-300:] or done.returncode}")


def _ended(pid: int) -> bool:
    text = read_text(f"/proc/{pid}/stat", 512)
    return text is None or text.rpartition(")")[2].split()[:1] in (["Z"], ["X"], [])


def wait(holds: Callable[[], bool], seconds: float, pause: float = _PAUSE) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def come_back(api: Api, old: Before, seconds: float, start: bool) -> dict[str, list[str]]:
    """Wait until what ran before runs again; containers that do not are started when C(start) is set.

    @returns: names of containers that were C(started) here, and of those that do not run (C(missing)).
    @raises EngineError: the engine does not answer in time, or is not in its Swarm again.
    """
    deadline = time.monotonic() + seconds

    def left() -> float:
        return max(0.0, deadline - time.monotonic())

    if not wait(api.answers, left()):
        raise EngineError(f"The engine does not answer {seconds:g} s after it was started. Its log tells why.")
    if old.swarm == "active" and not wait(lambda: _in_swarm(api), left(), 0.5):
        raise EngineError("The engine runs, and is not in its Swarm again. See docker info.")
    patient = min(left(), 5.0)  # what has a restart policy comes back by itself
    wait(lambda: not _stopped(api, old), patient)
    started: dict[str, str] = {}
    while (stopped := _stopped(api, old)) and start and left() > 0:
        for identifier, name in stopped.items():
            with contextlib.suppress(EngineError):  # one of an overlay that the engine does not know yet
                api.post(f"/containers/{identifier}/start", seconds=START_SECONDS)
                started[identifier] = name
        time.sleep(_PAUSE)
    return {"started": sorted(started.values()), "missing": sorted(stopped.values())}


def _in_swarm(api: Api) -> bool:
    try:
        return before(api).swarm == "active"
    except EngineError:
        return False


def _stopped(api: Api, old: Before) -> dict[str, str]:
    running: dict[str, str] = {}
    with contextlib.suppress(EngineError):  # busy: asked again until the time is up
        running = before(api).containers
    return {identifier: name for identifier, name in old.containers.items() if identifier not in running}

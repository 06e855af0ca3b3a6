# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The two processes that hold a lab: a watchdog, and its child the supervisor, which builds it and parents its hosts.

However the supervisor ends, the watchdog clears up after it; if the watchdog dies, the supervisor is told by the
kernel and clears up itself; if both are killed at once, the kernel kills the hosts and the next ``up``, ``down`` or
``sweep`` removes the files and the empty control groups. The one who asked for the lab holds one end of a socket, its
lifeline: if that closes before the word "keep" came, the lab goes.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from . import state

PR_SET_PDEATHSIG = 1


@dataclasses.dataclass(frozen=True)
class Spec:
    """What was asked for."""

    name: str
    hosts: int = 3
    managers: int = 1
    bare: int = 0
    service: bool = False
    interpreters: dict[str, str] = dataclasses.field(default_factory=dict)
    roots: dict[str, str] = dataclasses.field(default_factory=dict)
    size: str = "2g"

    def check(self) -> None:
        state.directory(self.name)
        if not 1 <= self.hosts <= 100 or self.bare < 0 or self.hosts + self.bare > 200:
            raise state.LabError("between 1 and 100 Docker hosts, and no more than 200 hosts in all")
        if not 1 <= self.managers <= self.hosts:
            raise state.LabError(f"{self.managers} managers of {self.hosts} hosts: at least one, at most all")
        unknown = (set(self.interpreters) | set(self.roots)) - set(self.names)
        if unknown:
            raise state.LabError(
                f"this lab will have no host {', '.join(sorted(unknown))}; it has {', '.join(self.names)}"
            )
        for host, root in self.roots.items():
            if not (Path(root) / "usr/bin/python3").exists():
                raise state.LabError(f"{root} (for {host}) is no root tree: it has no usr/bin/python3")

    @property
    def names(self) -> list[str]:
        return [f"node{index}" for index in range(1, self.hosts + self.bare + 1)]


class Stop(BaseException):
    """Somebody wants the lab to go."""


def launch(spec: Spec, root: Path) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start watchdog and supervisor in a session of their own; return the lifeline and the watchdog."""
    ours, theirs = socket.socketpair()
    argument = json.dumps(dataclasses.asdict(spec))
    command = [sys.executable, "-m", "tests.lab.supervisor", argument, str(theirs.fileno())]
    watchdog = subprocess.Popen(
        command,
        cwd=root,
        pass_fds=[theirs.fileno()],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    theirs.close()
    return ours, watchdog


def follow(lifeline: socket.socket, progress: Callable[[str], None]) -> None:
    """Relay the supervisor's progress until the lab stands; LabError with its reason if it does not come to that."""
    with lifeline.makefile("r") as reader:  # left open, it would keep the socket open past its close()
        for line in reader:
            message = json.loads(line)
            if "error" in message:
                raise state.LabError(message["error"])
            if "ready" in message:
                return
            progress(message["step"])
    raise state.LabError("the lab's supervisor ended before the lab stood")


class Supervisor:
    """Builds one lab and holds it until it is told to stop."""

    def __init__(self, spec: Spec, lifeline: socket.socket) -> None:
        self.spec = spec
        self.lifeline = lifeline
        self.directory = state.directory(spec.name)
        self.children: list[subprocess.Popen[bytes]] = []
        self.inits: list[list[int]] = []

    def say(self, **message: Any) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more: the watch on the lifeline deals with that
            self.lifeline.sendall(json.dumps(message).encode() + b"\n")

    def watch_lifeline(self) -> None:
        kept = b""
        with contextlib.suppress(OSError):
            while data := self.lifeline.recv(64):
                kept += data
        if b"keep" not in kept:
            os.kill(os.getpid(), signal.SIGTERM)

    def spawn(self, script: str, config: dict[str, Any]) -> int:
        """Start a namespace holder; return its pid when its namespaces stand. Main thread only: it is their parent."""
        path = self.directory / f"{config['name']}.json"
        path.write_text(json.dumps(config | {"supervisor": os.getpid()}))
        reader, writer = os.pipe()
        command = ["/usr/bin/python3", "-I", "-S", str(Path(__file__).with_name(script)), str(path), str(writer)]
        self.children.append(subprocess.Popen(command, pass_fds=[writer], stdin=subprocess.DEVNULL))
        os.close(writer)
        pid, ready = 0, False
        with open(reader) as report:
            for line in report:
                word, _space, rest = line.strip().partition(" ")
                if word == "error":
                    raise state.LabError(f"{config['name']} could not be made: {rest}")
                if word == "pid":
                    pid = int(rest)
                    self.inits.append(state.process_record(pid))
                    state.note_process(self.spec.name, pid)
                ready |= word == "ready"
        if not (pid and ready):
            raise state.LabError(
                f"{config['name']} could not be made: its first process ended; see {self.directory}/log"
            )
        return pid

    def build(self) -> None:
        from .build import build

        self.say(step="namespaces")
        build(self)
        self.say(ready=True)

    def tear_down(self) -> None:
        for record in self.inits:
            state.kill(record)
        for child in self.children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
        state.wait_for(lambda: not any(state.alive(record) for record in self.inits), 60)

    def run(self) -> None:
        try:
            self.build()
            while True:
                signal.pause()
        except Stop:
            pass
        except state.LabError as error:
            self.say(error=str(error))
        except BaseException as error:
            traceback.print_exc()
            self.say(error=f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self.tear_down()


def supervise(spec: Spec, lifeline: socket.socket, watchdog: int) -> NoReturn:
    def stop(number: int, frame: object) -> NoReturn:
        raise Stop

    try:
        signal.signal(signal.SIGTERM, stop)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != watchdog:
            raise Stop
        (state.directory(spec.name) / "supervisor").write_text(json.dumps(state.process_record(os.getpid())))
        supervisor = Supervisor(spec, lifeline)
        threading.Thread(target=supervisor.watch_lifeline, daemon=True).start()
        supervisor.run()
        if os.getppid() != watchdog:
            with state.registry():
                state.clear(spec.name)
    except Stop:
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)  # threads that still wait for an engine that is gone must not hold this process


def main() -> int:
    spec = Spec(**json.loads(sys.argv[1]))
    lifeline = socket.socket(fileno=int(sys.argv[2]))
    lifeline.set_inheritable(False)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        with state.registry():
            state.claim(spec.name)
    except state.LabError as error:
        lifeline.sendall(json.dumps({"error": str(error)}).encode() + b"\n")
        return 1
    log = os.open(state.directory(spec.name) / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 2)
    watchdog = os.getpid()
    child = os.fork()
    if child == 0:
        supervise(spec, lifeline, watchdog)
    lifeline.close()
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, signal.SIGTERM))
    os.waitpid(child, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the child's number may be somebody else's from here on
    with state.registry():
        state.clear(spec.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())

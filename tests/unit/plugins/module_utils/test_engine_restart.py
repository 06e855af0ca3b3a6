# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.crosshost.doctor.plugins.module_utils import _engine_restart as engine
from ansible_collections.crosshost.doctor.plugins.module_utils._engine_api import Api, EngineError
from tests.unit.plugins.module_utils.engine import INFO
from tests.unit.plugins.module_utils.engine import engine as answering


class Answers(Api):
    """An engine whose containers come back only when they are started, and not at the first attempt."""

    def __init__(self, running: list[str], refusals: int = 0) -> None:
        self.running, self.refusals = running, refusals
        self.started: list[str] = []

    def answers(self) -> bool:
        return True

    def get(self, path: str) -> Any:
        if path == "/info":
            return {"Swarm": {"LocalNodeState": "active"}}
        return [{"Id": one, "Names": [f"/{one}"], "Labels": {}} for one in self.running]

    def post(self, path: str, body: Any = None, seconds: float | None = None) -> Any:
        name = path.split("/")[2]
        self.started.append(name)
        if self.refusals:
            self.refusals -= 1
            raise EngineError("network not found", 404)
        self.running.append(name)


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/docker.service\n", "docker.service"),
        ("0::/system.slice/snap.docker.dockerd.service\n", "snap.docker.dockerd.service"),
        ("12:pids:/system.slice/docker.service\n0::/system.slice/docker.service\n", "docker.service"),
        ("0::/user.slice/user-0.slice/session-1.scope\n", None),
        ("0::/\n", None),
        ("0::/system.slice/-x.service\n", None),
        ("", None),
    ],
)
def test_the_unit_is_told_by_the_control_group(cgroup: str, unit: str | None) -> None:
    assert engine.unit_of(cgroup) == unit


def test_tasks_of_services_are_not_what_is_to_come_back(tmp_path: Path) -> None:
    rows = [
        {"Id": "a" * 64, "Names": ["/web"], "Labels": {}},
        {"Id": "b" * 64, "Names": ["/svc.1.x"], "Labels": {"com.docker.swarm.task.id": "x"}},
    ]
    path = str(tmp_path / "docker.sock")
    with answering(path, {"/info": INFO, "/containers/json": rows}):
        before = engine.before(Api(path))
    assert before == engine.Before({"a" * 64: "web"}, "inactive", False)


def test_an_engine_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    api = Api(str(tmp_path / "docker.sock"))
    assert not api.answers()
    with pytest.raises(EngineError, match="does not answer"):
        api.get("/info")


def test_an_error_of_the_engine_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "docker.sock")
    refusal = {"/nodes": (503, {"message": "This node is not a swarm manager."})}
    with answering(path, refusal), pytest.raises(EngineError, match="not a swarm manager") as found:
        Api(path).get("/nodes")
    assert found.value.status == 503


def test_what_does_not_come_back_is_started_again_and_again() -> None:
    api = Answers(["db"], refusals=2)
    back = engine.come_back(api, engine.Before({"web": "web", "db": "db"}, "active", False), 10, start=True)
    assert back == {"started": ["web"], "missing": []}
    assert api.started == ["web"] * 3


def test_what_does_not_come_back_is_named_where_it_is_not_to_be_started() -> None:
    api = Answers(["db"])
    back = engine.come_back(api, engine.Before({"web": "web", "db": "db"}, "active", False), 0.5, start=False)
    assert back == {"started": [], "missing": ["web"]}
    assert api.started == []


@pytest.mark.parametrize(
    ("reachable", "managers", "spared"),
    [(1, 1, True), (3, 3, True), (2, 3, False), (2, 2, False), (4, 5, True), (3, 5, False)],
)
def test_a_manager_the_swarm_cannot_spare_is_not_restarted(
    tmp_path: Path, reachable: int, managers: int, spared: bool
) -> None:
    states = ["reachable"] * reachable + ["unreachable"] * (managers - reachable)
    nodes = [{"ManagerStatus": {"Reachability": one}} for one in states] + [{"ManagerStatus": None}]
    path = str(tmp_path / "docker.sock")
    with answering(path, {"/info": {**INFO, "Swarm": {"ControlAvailable": True}}, "/nodes": nodes}):
        assert (engine.endangers_quorum(Api(path)) is None) == spared


# ---- a process that is restarted

PROGRAM = """
import os, signal, sys, time
def end(*unused):
    if "deaf" not in sys.argv:
        os.unlink(os.environ["PID_FILE"])
        sys.exit(0)
signal.signal(signal.SIGTERM, end)
with open(os.environ["PID_FILE"], "w") as file:
    file.write(str(os.getpid()))
print("started in", os.getcwd(), flush=True)
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Something called dockerd, with a pid file and a log."""
    pid_file, log = tmp_path / "docker.pid", tmp_path / "docker.log"
    monkeypatch.setattr(engine, "PID_FILES", (str(pid_file),))
    started: set[int] = set()

    def number() -> int:
        text = pid_file.read_text() if pid_file.exists() else ""
        if text:
            started.add(int(text))
        return int(text or 0)

    def start(*words: str) -> int:
        with open(log, "ab") as out:
            subprocess.Popen(
                ["dockerd", "-c", PROGRAM, *words],
                executable=sys.executable,
                env={"PID_FILE": str(pid_file), "SECRET": "kept"},
                cwd=tmp_path,
                stdout=out,
                stderr=out,
            )
        assert engine.wait(lambda: number() > 0, 10, 0.05)
        return number()

    start.number, start.log = number, log  # type: ignore[attr-defined]
    yield start
    number()
    for pid in started:
        if not engine._ended(pid):
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            pass


def test_the_process_is_started_as_it_was(daemon: Any, tmp_path: Path) -> None:
    old = daemon("--data-root", "/var/lib/docker x")
    found = engine.find_engine(systemd=False)
    assert (found.pid, found.unit, found.log) == (old, None, str(daemon.log))
    engine.restart(found, 10)
    assert engine.wait(lambda: daemon.number() not in (0, old), 10, 0.05)
    new = daemon.number()
    assert engine._ended(old)
    assert Path(f"/proc/{new}/cmdline").read_bytes().split(b"\0")[-3:] == [b"--data-root", b"/var/lib/docker x", b""]
    assert b"SECRET=kept" in Path(f"/proc/{new}/environ").read_bytes()
    assert os.getsid(new) == new
    assert engine.wait(lambda: daemon.log.read_text().count(f"started in {tmp_path}") == 2, 5, 0.05)


def test_one_that_does_not_end_is_left_alone(daemon: Any) -> None:
    old = daemon("deaf")
    begun = time.monotonic()
    with pytest.raises(EngineError, match="has not ended"):
        engine.restart(engine.find_engine(systemd=False), 0.5)
    assert time.monotonic() - begun < 5
    assert daemon.number() == old
    assert not engine._ended(old)


def test_what_is_not_dockerd_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid_file = tmp_path / "docker.pid"
    monkeypatch.setattr(engine, "PID_FILES", (str(pid_file),))
    with pytest.raises(EngineError, match="names no process"):
        engine.find_engine(systemd=False)
    pid_file.write_text(str(os.getpid()))
    with pytest.raises(EngineError, match="is not dockerd"):
        engine.find_engine(systemd=False)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The background reader: it works without whoever started it, and ends whatever happens."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.crosshost.doctor.plugins.module_utils import _host_folder, _reader
from ansible_collections.crosshost.doctor.plugins.module_utils._reader import Reader, ReaderError

Announce = Callable[[dict[str, Any]], None]
Asked = Callable[[], bool]


def alive(folder: Path, label: str = "x") -> bool:
    """Whether somebody holds the lock."""
    try:
        handle = os.open(folder / f"capture-{label}.lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def pid_of(folder: Path, label: str = "x") -> int:
    return int((folder / f"capture-{label}.lock").read_text().split()[0])


def running(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def patient(announce: Announce, asked: Asked) -> dict[str, Any]:
    """Works until it is asked to end."""
    announce({"pid": os.getpid(), "session": os.getsid(0)})
    while not asked():
        time.sleep(0.01)
    return {"ended": "asked", "text": "é", "umask": os.umask(0)}


def test_what_is_started_is_collected(tmp_path: Path) -> None:
    first = Reader(str(tmp_path), "x").start(patient, 10)
    assert first["pid"] == pid_of(tmp_path)
    assert first["pid"] != os.getpid()
    assert first["session"] != os.getsid(0)
    assert alive(tmp_path)
    assert _host_folder.in_use(str(tmp_path))
    assert Reader(str(tmp_path), "x").collect(5) == {"ended": "asked", "text": "é", "umask": 0o077}
    assert os.listdir(tmp_path) == []
    assert until(lambda: not running(first["pid"]))


def test_the_files_are_nobody_elses(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        Reader(str(tmp_path), "x").start(lambda announce, _asked: announce({}) or {"done": True}, 10)  # type: ignore[func-returns-value]
        assert until((tmp_path / "capture-x.json").exists)
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    finally:
        os.umask(previous)
    assert Reader(str(tmp_path), "x").collect(5) == {"done": True}


def test_two_labels_do_not_disturb_each_other_and_one_label_runs_once(tmp_path: Path) -> None:
    one, other = Reader(str(tmp_path), "one"), Reader(str(tmp_path), "other")
    one.start(patient, 10)
    other.start(patient, 10)
    with pytest.raises(ReaderError, match="still running"):
        Reader(str(tmp_path), "one").start(patient, 10)
    assert alive(tmp_path, "one")
    assert other.collect(5)["ended"] == "asked"
    assert alive(tmp_path, "one")
    assert one.collect(5)["ended"] == "asked"
    one.start(patient, 10)
    assert one.collect(5)["ended"] == "asked"


def test_without_a_reader_there_is_nothing_to_collect(tmp_path: Path) -> None:
    with pytest.raises(ReaderError, match="no capture with label 'x' was started"):
        Reader(str(tmp_path), "x").collect(5)


def test_it_holds_no_descriptor_of_whoever_started_it(tmp_path: Path) -> None:
    held, other_end = os.pipe()

    def descriptors(announce: Announce, asked: Asked) -> dict[str, Any]:
        links = []
        for number in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(FileNotFoundError):  # the directory that is being listed
                links.append((number, os.readlink(f"/proc/self/fd/{number}")))
        announce({"links": links, "cwd": os.getcwd()})
        return patient(lambda _first: None, asked)

    first = Reader(str(tmp_path), "x").start(descriptors, 10)
    links = dict(first["links"])
    assert [links.pop(number) for number in (0, 1, 2)] == ["/dev/null"] * 3
    # The lock, and the pipe to whoever started it.
    assert sorted(link.split(":")[0] for link in links.values()) == sorted([str(tmp_path / "capture-x.lock"), "pipe"])
    assert first["cwd"] == "/"
    os.close(other_end)
    assert os.read(held, 1) == b""  # end of file: nobody else holds the other end
    os.close(held)
    Reader(str(tmp_path), "x").collect(5)


PROGRAM = """
import sys, time
from ansible_collections.crosshost.doctor.plugins.module_utils._reader import Reader
def work(announce, asked):
    announce({})
    while not asked():
        time.sleep(0.01)
    return {"ended": "asked"}
print("before", end="")
Reader(sys.argv[1], "x").start(work, float(sys.argv[2]))
print(" after")
if len(sys.argv) > 3:
    time.sleep(60)
"""


def test_the_task_that_starts_it_returns_at_once_and_prints_once(tmp_path: Path) -> None:
    started = time.monotonic()
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), "20"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=15, check=True)
    assert (done.stdout, done.stderr) == ("before after\n", "")
    assert time.monotonic() - started < 10
    assert alive(tmp_path)
    assert Reader(str(tmp_path), "x").collect(5) == {"ended": "asked"}


def test_it_ends_by_itself_when_everybody_else_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), "1.5", "stay"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline()
        pid = pid_of(tmp_path)
        os.killpg(starter.pid, signal.SIGKILL)
        starter.wait()
    assert running(pid)  # not of the killed group
    assert until(lambda: not running(pid), 4)
    with pytest.raises(ReaderError, match="killed before it could write"):
        Reader(str(tmp_path), "x").collect(1)


def test_its_alarm_ends_it_in_whatever_call_it_is_stuck(tmp_path: Path) -> None:
    def stuck(announce: Announce, asked: Asked) -> dict[str, Any]:
        announce({"pid": os.getpid()})
        os.read(os.pipe()[0], 1)
        return {}

    started = time.monotonic()
    pid = Reader(str(tmp_path), "x").start(stuck, 0.5)["pid"]
    assert until(lambda: not running(pid), 4)
    assert time.monotonic() - started >= 0.4
    with pytest.raises(ReaderError, match="killed before it could write"):
        Reader(str(tmp_path), "x").collect(1)


def test_one_that_does_not_listen_is_killed_by_whoever_collects(tmp_path: Path) -> None:
    def deaf(announce: Announce, asked: Asked) -> dict[str, Any]:
        announce({"pid": os.getpid()})
        while True:
            time.sleep(0.01)

    pid = Reader(str(tmp_path), "x").start(deaf, 30)["pid"]
    with pytest.raises(ReaderError, match=r"did not end within 0\.3 s"):
        Reader(str(tmp_path), "x").collect(0.3)
    assert until(lambda: not running(pid))
    assert os.listdir(tmp_path) == []


def test_only_the_process_that_wrote_the_lock_is_killed(tmp_path: Path) -> None:
    innocent = subprocess.Popen(["sleep", "20"])
    lock = tmp_path / "capture-x.lock"
    lock.write_text(f"{innocent.pid} 1\n")
    handle = os.open(lock, os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(ReaderError, match="did not end"):
        Reader(str(tmp_path), "x").collect(0.1)
    os.close(handle)
    assert innocent.poll() is None
    innocent.kill()
    innocent.wait()


def test_it_ends_when_its_folder_is_removed(tmp_path: Path) -> None:
    base = tmp_path / "base"
    folder = _host_folder.HostFolder(str(base), "run")
    with folder.alone():
        folder.claim({}, 3600, time.time())
    pid = Reader(folder.path, "x").start(patient, 30)["pid"]
    assert folder.remove()
    assert until(lambda: not running(pid))
    assert not base.exists()  # and it has not been made again


def test_a_folder_made_anew_under_its_name_is_not_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    pid = Reader(str(folder), "x").start(patient, 30)["pid"]
    shutil.rmtree(folder)
    folder.mkdir()
    Reader(str(folder), "x").start(patient, 30)
    assert until(lambda: not running(pid))
    assert alive(folder)
    assert Reader(str(folder), "x").collect(5)["ended"] == "asked"


def test_what_goes_wrong_in_it_is_told(tmp_path: Path) -> None:
    def broken(announce: Announce, asked: Asked) -> dict[str, Any]:
        announce({})
        raise ValueError("the disk is made of cheese")

    def stillborn(announce: Announce, asked: Asked) -> dict[str, Any]:
        raise ValueError("never mind")

    reader = Reader(str(tmp_path), "x")
    reader.start(broken, 10)
    with pytest.raises(ReaderError, match="ValueError: the disk is made of cheese"):
        reader.collect(5)
    with pytest.raises(ReaderError, match="ValueError: never mind"):
        reader.start(stillborn, 10)


def test_one_that_is_never_ready_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_reader, "READY_SECONDS", 0.4)

    def slow(announce: Announce, asked: Asked) -> dict[str, Any]:
        while not asked():
            time.sleep(0.01)
        return {}

    with pytest.raises(ReaderError, match=r"not ready within 0\.4 s"):
        Reader(str(tmp_path), "x").start(slow, 30)
    assert until(lambda: not alive(tmp_path))


def test_links_in_the_folder_are_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "capture-x.lock").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        Reader(str(folder), "x").start(patient, 5)
    assert not target.exists()

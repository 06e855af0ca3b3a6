# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A process that goes on reading after its module has returned, and never longer than it was told.

One task starts it, others send probes, a later one collects what it saw. In the run's folder on the host:

    NOUN-LABEL.lock    who it is (process id and start); it holds an flock on it for as long as it lives
    NOUN-LABEL.stop    made by whoever collects: "end now"
    NOUN-LABEL.json    its result, written whole when it ends

It ends by itself when its time is up, when it is asked to, when the run's folder is removed, and whatever it is doing
when its alarm rings: a controller that was killed leaves nothing running. It is forked twice into a session of its
own, holds none of the connection's descriptors (a task would hang on them), and needs no module that is not imported
when it is forked, because the module's own files are gone a moment later.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import time
import typing as t
from collections.abc import Callable

Result = dict[str, t.Any]
Work = t.Callable[[t.Callable[[Result], None], t.Callable[[], bool]], Result]

MAX_RESULT = 256 << 20
READY_SECONDS = 20.0  # opening taps and calibrating drop reasons
_PAUSE = 0.01


class ReaderError(Exception):
    """There is no reader, it could not be started, or it left no result; the text is for the user."""


class Reader:
    """The background reader C(label) of a run's folder C(folder) on this host."""

    def __init__(self, folder: str, label: str, noun: str = "capture") -> None:
        self.label = label
        self._folder = folder
        self._noun = noun
        self._lock, self._stop = (os.path.join(folder, f"{noun}-{label}.{kind}") for kind in ("lock", "stop"))
        self._result = result_path(folder, label, noun)

    def start(self, work: Work, seconds: float) -> Result:
        """Run C(work(announce, asked)) in the background for at most C(seconds); returns what it announces.

        C(work) calls C(announce) once, as soon as it is at work, and polls C(asked), which is true when it shall end.
        What it returns is kept for L(collect).

        @raises ReaderError: one with this label still runs, or it died before it announced anything.
        @raises OSError: the folder cannot be written.
        """
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise ReaderError(f"a {self._noun} with label {self.label!r} is still running in {self._folder}") from None
        for path in (self._stop, self._result):
            _remove(path)
        receive, send = os.pipe()
        try:
            child = os.fork()
            if child == 0:
                _second_fork(lambda: self._live(work, seconds, lock, send), (lock, send))
        finally:
            # The lock is the grandchild's by now: it stays as long as one descriptor of this opening does.
            os.close(send)
            os.close(lock)
        os.waitpid(child, 0)
        try:
            first = _announced(receive, min(READY_SECONDS, seconds), self._noun)
        except ReaderError:
            self._ask()
            raise
        finally:
            os.close(receive)
        if first is None:
            self._read()  # it says why there is nothing to announce
            raise ReaderError(f"the {self._noun} ended while it started")
        return first

    def collect(self, seconds: float) -> Result:
        """Ask the reader to end, wait at most C(seconds), and return its result; then nothing of it is left.

        @raises ReaderError: there was none, or it ended without a result.
        """
        try:
            lock = os.open(self._lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ReaderError(f"no {self._noun} with label {self.label!r} was started in {self._folder}") from None
        try:
            self._ask()
            if not _taken(lock, seconds):
                _kill(lock)
                _taken(lock, 1.0)
                raise ReaderError(f"the {self._noun} did not end within {seconds:g} s and was killed")
            return self._read()
        finally:
            os.close(lock)
            for path in (self._result, self._stop, self._lock):
                _remove(path)

    def _ask(self) -> None:
        with contextlib.suppress(OSError):
            os.close(os.open(self._stop, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))

    def _read(self) -> Result:
        try:
            if os.path.getsize(self._result) > MAX_RESULT:
                raise ReaderError(f"the result of the {self._noun} is larger than {MAX_RESULT} bytes")
            with open(self._result, encoding="utf-8") as stream:
                found = json.load(stream)
        except FileNotFoundError:
            raise ReaderError(f"the {self._noun} was killed before it could write its result") from None
        except (OSError, ValueError) as exc:
            raise ReaderError(f"the result of the {self._noun} cannot be read: {exc}") from None
        if "error" in found:
            raise ReaderError(str(found["error"]))
        return found

    def _live(self, work: Work, seconds: float, lock: int, send: int) -> None:
        """The life of the background process."""
        # The last resort against being stuck in whatever call; nobody handles SIGALRM, so it ends the process.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        identity = os.fstat(lock)
        os.pwrite(lock, f"{os.getpid()} {_started(os.getpid())}\n".encode(), 0)

        def announce(first: Result) -> None:
            os.write(send, json.dumps(first).encode() + b"\n")
            os.close(send)

        def asked() -> bool:
            return os.path.exists(self._stop) or not self._wanted(identity)

        try:
            result = work(announce, asked)
        except Exception as exc:  # whoever collects shall know
            result = {"error": f"the {self._noun} ended with {type(exc).__name__}: {exc}"}
        if self._wanted(identity):
            self._write(result)

    def _wanted(self, identity: os.stat_result) -> bool:
        """Whether the run's folder is still there, and our files in it are ours."""
        try:
            return os.path.samestat(os.stat(self._lock), identity)
        except OSError:
            return False

    def _write(self, result: Result) -> None:
        unfinished = f"{self._result}.part"
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(result, stream, separators=(",", ":"))
        os.replace(unfinished, self._result)


def result_path(folder: str, label: str, noun: str) -> str:
    """The file that is there when a reader has ended by itself, until somebody collects it."""
    return os.path.join(folder, f"{noun}-{label}.json")


def _second_fork(live: Callable[[], None], keep: tuple[int, ...]) -> t.NoReturn:
    """In the first child: the grandchild lives, belongs to nobody's session, and the first child is gone at once."""
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        _detach(keep)
        live()
    finally:
        # Never back into the module, and no exit handler of it: what it has buffered must not be written twice.
        os._exit(0)
    raise AssertionError("unreachable")


def _detach(keep: tuple[int, ...]) -> None:
    os.chdir("/")
    os.umask(0o077)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    for descriptor in [int(name) for name in os.listdir("/proc/self/fd")]:
        if descriptor > 2 and descriptor not in keep:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _announced(receive: int, seconds: float, noun: str) -> Result | None:
    """What the reader says when it is at work; None if it ends before."""
    deadline = time.monotonic() + seconds
    text = b""
    while not text.endswith(b"\n"):
        if not select.select([receive], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise ReaderError(f"the {noun} was not ready within {seconds:g} s")
        part = os.read(receive, 65536)
        if not part:
            return None
        text += part
    return json.loads(text)


def _taken(lock: int, seconds: float) -> bool:
    """Whether the lock could be taken within the time: its former holder has ended."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE)


def _started(pid: int) -> str | None:
    """When a process started, in clock ticks after boot: field 22 of proc_pid_stat(5), counted behind the name."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            return stream.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return None


def _kill(lock: int) -> None:
    """Kill the process that the lock names, if it is that one."""
    parts = os.pread(lock, 100, 0).decode("ascii", "replace").split()
    if len(parts) == 2 and parts[0].isdigit() and _started(int(parts[0])) == parts[1]:
        with contextlib.suppress(OSError):
            os.kill(int(parts[0]), signal.SIGKILL)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A process on the host that rolls a journal back unless somebody who still reaches the host calls it off.

It is one of the bounded background readers (_reader.py): forked away from the connection, and ended by its own alarm
at the latest. A controller that dies, a host that loses its route and a rule set that cuts the connection off all look
the same to it: nobody called it off. A module that is at work when the time is up is waited for, and none begins
afterwards. One guard at a time stands on a host, because two changes at once could not be undone one without the other.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import typing as t

from ansible_collections.crosshost.doctor.plugins.module_utils._host_folder import FolderError, check_private
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import (
    GUARD,
    GUARDS,
    Entry,
    Journal,
    JournalError,
    hold,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._reader import Reader, ReaderError

ROLL_BACK_SECONDS = 300.0  # for undoing everything, before the alarm ends the process
_PAUSE = 0.2


class GuardError(Exception):
    """The guard cannot be set up or called off; the message is for the user."""


class Guard:
    """The guard over the journal C(name)."""

    def __init__(self, name: str, folder: str = GUARDS) -> None:
        self.journal = Journal(name, guards=folder)
        self._folder = folder
        self._reader = Reader(folder, name, GUARD)

    def arm(self, seconds: float) -> None:
        """Roll the journal back C(seconds) from now, unless L(call_off) comes before.

        @raises GuardError: another change of this host is under guard, or it cannot be set up.
        """
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._folder, 0o700)
            check_private(self._folder)
        except (OSError, FolderError) as exc:
            raise GuardError(f"No guard can be set up in {self._folder}: {exc}") from exc
        if others := standing(self._folder):
            raise GuardError(
                f"Another change of this host is under guard ({', '.join(others)}). "
                "It is confirmed or rolled back within minutes: try again then."
            )

        def work(announce: t.Callable[[dict[str, t.Any]], None], asked: t.Callable[[], bool]) -> dict[str, t.Any]:
            deadline = time.monotonic() + seconds
            announce({"armed": True})
            while time.monotonic() < deadline:
                if asked() and os.path.isdir(self._folder):  # a folder that is gone calls nothing off
                    return {"undone": None}
                time.sleep(_PAUSE)
            with contextlib.suppress(JournalError):  # a module that hangs: what it has done by now is undone
                hold(self._folder, fcntl.LOCK_EX)  # until this process ends, which is when the result is there
            return {"undone": _undone(self.journal)}

        try:
            self._reader.start(work, seconds + ROLL_BACK_SECONDS)
        except (OSError, ReaderError) as exc:
            raise GuardError(f"The guard could not be set up: {exc}") from exc

    def call_off(self) -> list[Entry] | None:
        """End the guard. What it undid before it was called off, or None when it undid nothing.

        One that is not there any more (a boot, or nobody armed it) undid nothing as far as can be told.

        @raises GuardError: it neither ended nor told what it did.
        """
        try:
            found = self._reader.collect(ROLL_BACK_SECONDS)
        except ReaderError as exc:
            if not os.path.isdir(self._folder) or not standing(self._folder):
                return None
            raise GuardError(str(exc)) from exc
        finally:
            with contextlib.suppress(OSError):  # not there, or another guard's results are in it
                os.rmdir(self._folder)
        undone: list[Entry] | None = found["undone"]
        return undone


def _undone(journal: Journal) -> list[Entry]:
    try:
        return journal.roll_back()
    except JournalError as exc:
        return [{"kind": "journal", "what": journal.path, "error": str(exc)}]


def standing(folder: str = GUARDS) -> list[str]:
    """The names of the guards that are alive on this host."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for entry in sorted(os.listdir(folder)):
            if entry.startswith(f"{GUARD}-") and entry.endswith(".lock"):
                with contextlib.suppress(FileNotFoundError):
                    handle = os.open(os.path.join(folder, entry), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                    try:
                        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        found.append(entry[len(GUARD) + 1 : -len(".lock")])
                    finally:
                        os.close(handle)
    return found

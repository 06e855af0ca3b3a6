# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A module's way out of the host, for results that nobody may be there to take.

A controller that is interrupted leaves a shared SSH connection behind, and that may keep a session open without ever
reading from it: whoever has more to say than a pipe holds would wait for good. So each piece has to be taken in time.
"""

from __future__ import annotations

import io
import os
import signal
import sys

PIECE = 16384  # bytes
SECONDS = 15.0  # for each piece: the slowest link that Ansible can work over takes it much sooner


class _Steady(io.RawIOBase):
    """Writes to a descriptor piece by piece; a piece that is not taken in time ends the process (SIGALRM)."""

    def __init__(self, descriptor: int, seconds: float) -> None:
        self._descriptor = descriptor
        self._seconds = seconds

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        previous = signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, self._seconds)
        try:
            return os.write(self._descriptor, bytes(data[:PIECE]))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)


def steady_output(seconds: float = SECONDS) -> None:
    """From now on standard output goes out piece by piece, each of which has to be taken within C(seconds)."""
    out = sys.stdout
    try:
        descriptor = out.fileno()
    except (AttributeError, OSError, ValueError):
        return  # what stands there is no descriptor, and cannot be stuck
    steady = io.BufferedWriter(_Steady(descriptor, seconds))  # type: ignore[type-var]
    sys.stdout = io.TextIOWrapper(steady, encoding=out.encoding or "utf-8", errors=out.errors)

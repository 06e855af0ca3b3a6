# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether code gives back the descriptors it opens."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator


def open_descriptors() -> set[tuple[int, str]]:
    """The number and the target of every descriptor of this process, e.g. (7, "socket:[4711]")."""
    found = set()
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(FileNotFoundError):  # the directory that is being listed
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
    return found


@contextlib.contextmanager
def nothing_left_open() -> Iterator[None]:
    """Fails if a descriptor that was opened inside is still open at the end.

    A count would not do: an object that an earlier test left to the garbage collector may go at any moment, and take
    its descriptor with it. Nothing is collected at the end: code that relies on that has not given anything back.
    """
    gc.collect()
    before = open_descriptors()
    yield
    left = open_descriptors() - before
    assert not left, f"left open: {sorted(left)}"

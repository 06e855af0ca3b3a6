# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Network namespaces for tests that need a real kernel: created by pyroute2, removed whatever happens."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("bridge"), reason="creates network namespaces: needs root and iproute2"
)
_numbers = itertools.count()


@contextlib.contextmanager
def namespace() -> Iterator[str]:
    """Name of a fresh network namespace."""
    from pyroute2 import netns

    name = f"cdtest-{os.getpid()}-{next(_numbers)}"
    netns.create(name)
    try:
        yield name
    finally:
        netns.remove(name)


def run(name: str, *command: str) -> str:
    """Output of a command inside."""
    inside = ["nsenter", f"--net=/run/netns/{name}", *command]
    return subprocess.run(inside, check=True, capture_output=True, text=True, timeout=20).stdout

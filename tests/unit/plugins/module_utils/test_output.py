# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A module ends also when nobody takes its result, and a slow reader gets all of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

SAY = """
from ansible_collections.crosshost.doctor.plugins.module_utils._output import steady_output
steady_output(0.5)
print("x\\u00e9" * 200000)
"""


def test_a_result_that_nobody_takes_ends_the_process():
    started = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", SAY], stdout=subprocess.PIPE) as process:
        assert process.wait(timeout=20) == -signal.SIGALRM
    assert time.monotonic() - started < 15


def test_a_slow_reader_gets_everything():
    with subprocess.Popen([sys.executable, "-c", SAY], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        taken = b""
        while part := process.stdout.read1(40000):  # type: ignore[attr-defined]
            taken += part
            time.sleep(0.1)
        assert process.wait(timeout=20) == 0
    assert taken == "xé".encode() * 200000 + b"\n"

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import sys
import time

from ansible_collections.crosshost.doctor.plugins.module_utils import _commands


def test_output_is_returned() -> None:
    assert _commands.run_bounded(["echo", "one"], 5, 100) == (b"one\n", False, None)


def test_a_command_that_writes_without_end_is_cut_off() -> None:
    output, truncated, error = _commands.run_bounded(["yes"], 5, 1000)
    assert (len(output), truncated, error) == (1000, True, None)


def test_a_command_that_hangs_is_ended() -> None:
    started = time.monotonic()
    output, _truncated, error = _commands.run_bounded(["sh", "-c", "echo begun; exec sleep 60"], 0.3, 1000)
    assert output == b"begun\n"
    assert error is not None
    assert "no end within" in error
    assert time.monotonic() - started < 10


def test_failure_and_absence_are_errors() -> None:
    assert "exit status 3" in str(_commands.run_bounded(["sh", "-c", "exit 3"], 5, 100)[2])
    assert "No such file" in str(_commands.run_bounded(["/nonexistent/command"], 5, 100)[2])


def test_the_language_is_c() -> None:
    output = _commands.run_bounded([sys.executable, "-c", "import os; print(os.environ['LC_ALL'])"], 5, 100)[0]
    assert output == b"C\n"

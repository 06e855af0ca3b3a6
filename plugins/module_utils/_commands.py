# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run a reading command within limits of time and output: the one place of the facts that starts a process."""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import time
import typing as t

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin"


def find(name: str) -> str | None:
    """Path of a program; sshd's PATH often lacks the sbin directories."""
    return shutil.which(name, path=PATH)


def run_bounded(command: list[str], seconds: float, limit: int) -> tuple[bytes, bool, str | None]:
    """Standard output of a command, whether it was cut off, and why the command is not to be trusted (or None).

    The process is killed, by its own handle, when it takes longer than C(seconds) or has written C(limit) bytes.
    """
    environment = dict(os.environ, PATH=PATH, LC_ALL="C", TZ="UTC", SYSTEMD_COLORS="0")
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
    except OSError as exc:
        return b"", False, f"{command[0]}: {exc.strerror or exc}"
    output, deadline, error = bytearray(), time.monotonic() + seconds, None
    with t.cast("t.IO[bytes]", process.stdout) as stream, selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while len(output) < limit:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                error = f"{command[0]}: no end within {seconds:g} s"
                break
            part = os.read(stream.fileno(), min(65536, limit - len(output)))
            if not part:
                break
            output += part
    truncated = len(output) >= limit
    if truncated or error:
        process.kill()
    try:
        code = process.wait(timeout=2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        return bytes(output), True, f"{command[0]}: does not end"
    if code and not truncated and not error:
        error = f"{command[0]}: exit status {code}"
    return bytes(output), truncated, error

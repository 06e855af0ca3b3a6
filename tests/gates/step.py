# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run one command: a single line when it succeeds, everything it said when it fails.

python tests/gates/step.py NAME COMMAND [ARGUMENT...]
"""

from __future__ import annotations

import subprocess
import sys
import time


def main(name: str, command: list[str]) -> int:
    begun = time.monotonic()
    done = subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    verdict = "ok" if done.returncode == 0 else f"FAILED (exit status {done.returncode})"
    if done.returncode:
        sys.stdout.buffer.write(done.stdout)
    sys.stdout.write(f"{name:<22} {verdict}  {time.monotonic() - begun:.1f} s\n")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))

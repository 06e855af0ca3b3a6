# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Python interpreters of this machine that a host could have."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

HOSTS_HAVE = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")


@functools.cache
def find(version: str) -> str | None:
    """An interpreter of a version like 3.9, from pyenv or the PATH, that really is one; None if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [str(path / "bin" / "python3") for path in sorted(pyenv.glob(f"{version}.*"))]
    for candidate in [*candidates, f"python{version}", "/usr/bin/python3"]:
        command = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        except OSError:
            continue
        if done.returncode == 0 and done.stdout.strip() == version:
            return candidate
    return None


def found() -> dict[str, str]:
    """Version to path, of all that a host may have."""
    return {version: path for version in HOSTS_HAVE if (path := find(version))}

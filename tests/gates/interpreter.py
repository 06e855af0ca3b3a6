# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Check that this Python can make the virtual environment; on Debian and Ubuntu install what it lacks for that.

Runs with whatever python3 a machine has: it keeps to old syntax and to the standard library.
"""

import os
import shutil
import subprocess
import sys

OLDEST = (3, 11)


def lacks_venv():
    """Debian splits ensurepip, without which a virtual environment has no pip, into a package of its own."""
    command = [sys.executable, "-c", "import ensurepip, venv"]
    return subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) != 0


def main():
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if sys.version_info < OLDEST:
        return (
            f"Python {version} at {sys.executable} is too old: 3.11 or later is needed. "
            "If there is one, name it: make setup PYTHON=python3.12"
        )
    if not lacks_venv():
        return 0
    package = "python3-venv" if os.path.realpath(sys.executable).startswith("/usr/bin/") else ""
    if package and shutil.which("apt-get") and os.geteuid() == 0:
        environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", package]):
            subprocess.call(["apt-get", "--quiet=2", *arguments], env=environment, stdout=subprocess.DEVNULL)
    if lacks_venv():
        return (
            f"{sys.executable} has no venv or no ensurepip, so that no virtual environment can be made. Debian and "
            "Ubuntu: apt-get install python3-venv. Elsewhere: install your system's package for them."
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

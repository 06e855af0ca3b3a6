# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""antsibull-docs on a copy of the collection, with no other collection in sight.

It copies the folder it is given, and beside the sources lie caches of a gigabyte. And it loads the documentation of
every collection it can find to check references, which takes minutes: a reference to any other is reported as unknown.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.gates.tree import CACHE, copy

COMMAND = [
    "lint-collection-docs",
    "--plugin-docs",
    *("--validate-collection-refs", "all"),
    "--disallow-unknown-collection-refs",
    ".",
]


def main() -> int:
    collection = copy(CACHE / "docs")
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_SCAN_SYS_PATH": "false",
        "ANSIBLE_COLLECTIONS_PATH": str(CACHE / "docs"),
    }
    program = str(Path(sys.executable).parent / "antsibull-docs")
    return subprocess.run([program, *COMMAND], cwd=collection, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

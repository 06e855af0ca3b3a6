# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A copy of the collection in the folders ansible-test insists on, as it would be committed now."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache"


def files() -> list[Path]:
    """What git tracks or would track, relative to the repository. Without git, what is no cache."""
    command = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
        found = [Path(name) for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        found = [
            path.relative_to(REPOSITORY)
            for path in REPOSITORY.rglob("*")
            if "__pycache__" not in path.parts and not path.relative_to(REPOSITORY).parts[0].startswith((".venv", ".c"))
        ]
    return sorted(path for path in found if (REPOSITORY / path).is_file())


def copy(target: Path, paths: list[Path] | None = None) -> Path:
    """Make C(target)/ansible_collections/crosshost/doctor anew and return it."""
    collection = target / "ansible_collections" / "crosshost" / "doctor"
    shutil.rmtree(collection, ignore_errors=True)
    for path in files() if paths is None else paths:
        destination = collection / path
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / path, destination, follow_symlinks=False)
    if shutil.which("git"):
        # The copy lies in a folder that the repository around it ignores, and tools that ask git would see no file.
        for command in (["init", "--quiet"], ["add", "--all", "--force"]):
            subprocess.run(["git", *command], cwd=collection, check=True, stdin=subprocess.DEVNULL)
    return collection

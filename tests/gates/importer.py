# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Build the archive that would be published, look at what is in it, and let Galaxy's own importer judge it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.gates.tree import CACHE, copy

RUNTIME = {"meta", "plugins", "roles", "playbooks"}
BESIDE = {"docs", "changelogs", "LICENSES"}
FILES = {"CHANGELOG.md", "COPYING", "FILES.json", "MANIFEST.json", "README.md", "requirements.txt", "requirements.yml"}


def main() -> int:
    collection = copy(CACHE / "importer")
    artifacts = CACHE / "importer" / "artifacts"
    shutil.rmtree(artifacts, ignore_errors=True)
    binaries = Path(sys.executable).parent
    environment = {**os.environ, "GALAXY_IMPORTER_RUN_ANSIBLE_LINT": "false"}  # a gate of its own
    build = [str(binaries / "ansible-galaxy"), "collection", "build", "--output-path", str(artifacts)]
    subprocess.run(build, cwd=collection, env=environment, check=True)
    (archive,) = artifacts.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        top = {Path(name).parts[0] for name in tar.getnames()}
    if wrong := (top - RUNTIME - BESIDE - FILES) | (RUNTIME - top):
        sys.stderr.write(f"The archive has too much or too little at its top: {', '.join(sorted(wrong))}\n")
        return 1
    done = subprocess.run(
        [sys.executable, "-m", "galaxy_importer.main", str(archive)],
        cwd=artifacts,
        env=environment,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    sys.stdout.write(done.stdout)
    # It ends with 0 also when it refuses the collection.
    return int(done.returncode != 0 or "ERROR" in done.stdout or "Importer processing completed" not in done.stdout)


if __name__ == "__main__":
    sys.exit(main())

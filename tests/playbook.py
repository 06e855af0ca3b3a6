# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the collection's playbooks against an inventory, as an operator does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Run:
    """A finished ansible-playbook run."""

    code: int
    output: str
    seconds: float
    folder: Path

    @property
    def report(self) -> dict[str, Any]:
        path = self.folder / "report.json"
        assert path.exists(), f"no report was written:\n{self.output}"
        return json.loads(path.read_text())

    @property
    def loud(self) -> list[dict[str, Any]]:
        """Findings above info."""
        return [finding for finding in self.report["findings"] if finding["severity"] != "info"]


def environment() -> dict[str, str]:
    return os.environ | {"ANSIBLE_NOCOWS": "1", "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_HOST_KEY_CHECKING": "False"}


def command(inventory: Path, folder: Path, playbook: str = "diagnose", **extra: Any) -> list[str]:
    values = json.dumps({"doctor_report_dir": str(folder), **extra})
    return [str(BIN / "ansible-playbook"), f"crosshost.doctor.{playbook}", "-i", str(inventory), "-e", values]


def diagnose(inventory: Path, folder: Path, *arguments: str, **extra: Any) -> Run:
    """Run crosshost.doctor.diagnose from a directory that has nothing to do with the collection."""
    started = time.monotonic()
    done = subprocess.run(
        [*command(inventory, folder, **extra), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder.parent,
        env=environment(),
        check=False,
    )
    return Run(done.returncode, done.stdout + done.stderr, time.monotonic() - started, folder)

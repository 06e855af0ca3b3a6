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
    def remediation(self) -> dict[str, Any]:
        path = self.folder / "remediation.json"
        assert path.exists(), f"no repair was planned:\n{self.output}"
        return json.loads(path.read_text())

    @property
    def outcomes(self) -> dict[str, str]:
        """What became of each step of a repair."""
        return {name: row["outcome"] for name, row in self.remediation["outcomes"].items()}

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
    return play([*command(inventory, folder, **extra), *arguments], folder)


def remediate(inventory: Path, folder: Path, *arguments: str, **extra: Any) -> Run:
    """Run crosshost.doctor.remediate."""
    return play([*command(inventory, folder, "remediate", **extra), *arguments], folder)


def roll_back(inventory: Path, done: Run) -> Run:
    """Take a repair back on another day, as its summary says."""
    return remediate(inventory, done.folder, doctor_undo=str(done.folder))


def own_playbook(inventory: Path, path: Path, **extra: Any) -> Run:
    """Run a playbook of a test."""
    values = json.dumps(extra)
    return play([str(BIN / "ansible-playbook"), str(path), "-i", str(inventory), "-e", values], path.parent / "none")


def play(argv: list[str], folder: Path) -> Run:
    started = time.monotonic()
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=420, cwd=folder.parent, env=environment(), check=False
    )
    return Run(done.returncode, done.stdout + done.stderr, time.monotonic() - started, folder)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way from a fault to a whole fleet through the playbook; `make repairs` goes it for every fault a role repairs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.faults import FAULTS
from tests.repairs import measure

MAIN = ("data-udp-blocked-host-fw", "source-vtep-mismatch")


@pytest.mark.parametrize("name", MAIN)
def test_shown_applied_verified_and_taken_back(lab: Lab, tmp_path: Path, name: str) -> None:
    case = measure(lab, FAULTS[name], tmp_path)
    assert case["steps"], case
    assert case["problems"] == []

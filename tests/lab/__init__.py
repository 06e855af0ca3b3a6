# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A fleet of real Docker hosts on one machine, with a library of faults. See README.md in this folder."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """``Lab`` and ``LabError`` on demand: tests.lab.packages must be importable without any library."""
    if name == "Lab":
        from .fleet import Lab

        return Lab
    if name == "LabError":
        from .state import LabError

        return LabError
    raise AttributeError(name)

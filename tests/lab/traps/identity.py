# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Identities that exist twice: engines, host names, addresses."""

from __future__ import annotations

from ..faults.model import Fault

TRAPS: tuple[Fault, ...] = ()

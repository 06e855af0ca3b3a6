# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""netaddr, which decides what overlaps. A run that lacks it says so at its start."""

from __future__ import annotations

try:
    from netaddr import AddrFormatError, IPAddress, IPNetwork

    MISSING: str | None = None
except ImportError as exc:
    AddrFormatError = ValueError
    IPAddress = IPNetwork = None
    MISSING = f"{exc}: install it beside ansible-core on the controller, pip install -r requirements.txt"

__all__ = ("MISSING", "AddrFormatError", "IPAddress", "IPNetwork")

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Encrypted networks that do no harm, and the rules that belong to them."""

from __future__ import annotations

from ..faults.encryption import stale_drop, stale_mark
from ..faults.model import trap
from ..faults.ports import FREE_VNI, OverlayNetwork

ENCRYPTED = OverlayNetwork(
    "secret-$host", (("encrypted", ""), ("com.docker.network.driver.overlay.vxlanid_list", str(FREE_VNI)))
)

TRAPS = (
    trap("encrypted-without-containers", "an encrypted network has no container: nothing needs ESP", ENCRYPTED),
    trap(
        "live-encryption-rules",
        "the rules of an encrypted network that exists",
        ENCRYPTED,
        stale_drop(hex(FREE_VNI << 8)),
        stale_mark(hex(FREE_VNI << 8)),
    ),
)

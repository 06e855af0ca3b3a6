# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Paths that lose some of what they carry.

Every third packet, and not one in three by chance: a test that fails now and then says nothing. What a real NIC drops
(full rings, limits of a provider) no veth has: nic-drops is proven on made facts.
"""

from __future__ import annotations

from .changes import NftTable
from .data_plane import in_fabric
from .model import Expect, Fault

LOSSY = "path-lossy"


def every_third(match: str) -> str:
    """Of what is asked, not of what is answered as well: a packet and its answer are one loss, not two."""
    return f"{match} numgen inc mod 3 == 0 drop"


def lossy(match: str) -> NftTable:
    return in_fabric("lossy", every_third(match))


FAULTS = (
    Fault(
        LOSSY,
        "the fabric loses every third packet from the host to one peer",
        (lossy('iifname "$port" oifname "$peer_port"'),),
        Expect((LOSSY,), ("underlay",), (), ("$host", "$peer"), severity="warning"),
        partial=True,
    ),
    Fault(
        f"{LOSSY}:host",
        "the fabric loses every third packet that the host sends",
        (lossy('iifname "$port"'),),
        Expect((LOSSY,), ("underlay",), (), severity="warning"),
        partial=True,
    ),
)

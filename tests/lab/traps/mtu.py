# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""MTUs that differ and fit all the same."""

from __future__ import annotations

from ..faults.model import trap
from ..faults.mtu import NicMtu, OverlayMtu, network_option

TRAPS = (
    trap("jumbo-underlay", "every NIC is jumbo, the overlay ordinary", NicMtu(9000, everywhere=True, fabric=True)),
    trap("mixed-nic-mtu", "one NIC is jumbo, the overlay fits all", NicMtu(9000, fabric=True)),
    trap("small-overlay", "the overlay's MTU is far below what the underlay takes", OverlayMtu(1280, everywhere=True)),
    trap("small-mtu-option", "an overlay network is kept small by intent", network_option(1400), host="node1"),
)

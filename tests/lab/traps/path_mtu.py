# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Paths that look too small and are not, or are and it does not matter."""

from __future__ import annotations

import dataclasses
import socket
import time

from ..faults.changes import NftTable
from ..faults.model import Place, trap
from ..faults.mtu import NicMtu, OverlayMtu
from ..faults.path_mtu import ForgottenPaths, Routed
from ..network import inside

IP_MTU_DISCOVER, PMTUDISC_DO = 10, 2


@dataclasses.dataclass(frozen=True)
class StaleException:
    """A path MTU that the host's kernel learned from a router that is gone: it stays cached for ten minutes."""

    def apply(self, place: Place) -> None:
        routed = Routed()
        saved = routed.apply(place)
        try:
            inside(place.host.netns, lambda: self._learn(place.peer.address))
        finally:
            routed.undo(place, saved)

    def _learn(self, address: str) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
            sock.connect((address, 9))
            for _try in range(10):
                try:
                    sock.send(bytes(1450))
                except OSError:
                    return  # too big: it has been learned
                time.sleep(0.1)

    def undo(self, place: Place, saved: None) -> None:
        ForgottenPaths().undo(place, None)


NO_ICMP = NftTable(
    "bridge",
    "no_icmp_$host",
    "  chain forward {\n    type filter hook forward priority 0; policy accept;\n    ip protocol icmp drop\n  }",
    "fabric",
)

TRAPS = (
    trap("jumbo-nics-on-an-ordinary-path", "every NIC is jumbo, the path and the overlay are not", NicMtu(9000, True)),
    trap("icmp-filtered-on-the-underlay", "the network between the hosts carries no ICMP at all", NO_ICMP),
    trap(
        "overlay-fits-a-small-path",
        "a router between two hosts takes 1400 bytes, and the overlay was lowered to fit",
        ForgottenPaths(),
        OverlayMtu(1350, everywhere=True),
        Routed(),
    ),
    trap("stale-path-mtu", "the kernel has a path MTU cached that is no longer true", StaleException()),
)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Name resolution: oddities that break nothing."""

from __future__ import annotations

from .. import engine
from ..faults.model import Fault, trap
from ..faults.names import UPSTREAM, OddContainer, deaf_resolver

TRAPS: tuple[Fault, ...] = (
    trap(
        "dns-option-bridge",
        "a container on the default bridge with a resolver of its own: there is no embedded DNS there",
        OddContainer("own-dns-$host", None, (("dns", ("192.0.2.1",)),)),
    ),
    trap(
        "dns-option-overlay",
        "a container on the overlay with --dns and a search list: the engine forwards to it",
        OddContainer("own-dns-$host", engine.OVERLAY, (("dns", ("192.0.2.1",)), ("dns_search", ("example",)))),
    ),
    trap(
        "host-network",
        "a container in the host's own namespace has the host's resolv.conf",
        OddContainer("host-$host", "host", listen="127.0.0.1:8099"),
    ),
    trap(
        "no-network",
        "a container without any network",
        OddContainer("none-$host", "none"),
    ),
    trap(
        "air-gapped",
        "no resolver answers anybody, as in a fleet without a way out",
        deaf_resolver(""),
        info=(UPSTREAM,),
    ),
)

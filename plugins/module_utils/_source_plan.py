# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which source address the kernel takes to some peers, what is to change, and how that is done now."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._host_routes import (
    Route,
    RouteError,
    read_addresses,
    read_route,
    sourced,
    taken_source,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal
from ansible_collections.crosshost.doctor.plugins.module_utils._routes import Kernel

DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,14}")
PEERS_LIMIT = 1024

Run = Callable[["list[str]"], "tuple[int, str, str]"]


@dataclass(frozen=True)
class PeerRoute:
    """One peer: the route the kernel takes now, its source, and the route that is wanted."""

    peer: str
    now: Route
    source: str | None
    wanted: Route

    @property
    def own(self) -> bool:
        """Whether the peer has a route of its own."""
        return self.now.dst == self.wanted.dst

    def changes(self, address: str) -> bool:
        return self.source != address

    @property
    def apply(self) -> list[str]:
        return ["ip", *self._family, "route", "replace", *self.wanted.words()]

    @property
    def undo(self) -> list[str]:
        if self.own:
            return ["ip", *self._family, "route", "replace", *self.now.words()]
        return ["ip", *self._family, "route", "del", *self.wanted.words()]

    @property
    def _family(self) -> list[str]:
        return ["-6" if ":" in self.peer else "-4"]


def unicast(value: Any, what: str) -> str:
    """A unicast address in its usual spelling.

    @raises RouteError: it is none.
    """
    try:
        found = ipaddress.ip_address(str(value))
    except ValueError:
        raise RouteError(f"{what}: {value!r} is not an IP address.") from None
    if found.is_multicast or found.is_unspecified or found.is_loopback or "%" in str(found):
        raise RouteError(f"{what}: {found} is not the address of one host.")
    if found.version == 4 and str(found) == "255.255.255.255":
        raise RouteError(f"{what}: {found} is not the address of one host.")
    return str(found)


def make(address: str, peers: list[str]) -> list[PeerRoute]:
    """The routes of all peers.

    @raises RouteError: the address is not on this host, or a peer cannot be given a route.
    @raises OSError: the kernel does not answer.
    """
    address = unicast(address, "address")
    names = list(dict.fromkeys(unicast(peer, "peers") for peer in peers))
    if len(names) > PEERS_LIMIT:
        raise RouteError(f"peers: {len(names)} are more than {PEERS_LIMIT}.")
    own = read_addresses()
    if address not in own:
        raise RouteError(f"No interface of this host has the address {address}: the kernel would refuse it.")
    rows = []
    with Kernel() as kernel:
        for peer in names:
            if peer in own:
                raise RouteError(f"peers: {peer} is this host's own address.")
            if (":" in peer) != (":" in address):
                raise RouteError(f"peers: {peer} is not of the same family as {address}.")
            now = read_route(kernel, peer)
            if not DEVICE.fullmatch(now.device):
                raise RouteError(f"{now.device!r} is an interface name that is left alone.")
            rows.append(PeerRoute(peer, now, taken_source(kernel, peer), sourced(now, peer, address)))
    return rows


def apply(rows: list[PeerRoute], address: str, journal: Journal, run: Run) -> None:
    """Set the routes of the peers that are reached from another address, each noted before, and look again.

    @raises RouteError: the kernel did not take one, or takes another way all the same.
    @raises JournalError: one could not be noted; nothing more was changed.
    """
    for row in rows:
        if not row.changes(address):
            continue
        journal.command(row.undo, tolerate=not row.own)
        code, _output, error = run(row.apply)
        if code:
            raise RouteError(f"{' '.join(row.apply)}: {error.strip() or f'exit {code}'}")
    with Kernel() as kernel:
        for row in rows:
            source = taken_source(kernel, row.peer)
            if source != address:
                raise RouteError(f"Packets to {row.peer} still leave from {source}, not from {address}. See ip rule.")

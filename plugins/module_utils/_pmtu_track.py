# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One method at work on one target: sends what the search asks for, waits a few round trips, asks again.

How long silence is waited for comes from the round trips seen, not from the timeout: an answer that comes later than
that still counts when it comes, and all that is lost is a packet that was sent once more.
"""

from __future__ import annotations

import errno
import time
import typing as t
from collections.abc import Callable

from ansible_collections.crosshost.doctor.plugins.module_utils import _icmp, _probe_socket
from ansible_collections.crosshost.doctor.plugins.module_utils._pmtu_channel import Ticket, Trouble
from ansible_collections.crosshost.doctor.plugins.module_utils._pmtu_search import (
    FLOOR,
    TRIES,
    Search,
    frugal,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_loop import Loop

PATIENCE = 0.06  # seconds, and no less than PATIENCE_FACTOR round trips, until silence is taken for a loss
PATIENCE_FACTOR = 4
FIRST_PATIENCE = 0.25  # of the timeout, while no round trip is known
PAID_ANSWERS = 4  # port unreachables that a host may still send us: Linux allows six at once, then one a second
BUSY_WAIT = 0.01
MAX_PACKETS = 600  # of one method to one target

Transmit = Callable[[Ticket], None]


class Track:
    """The search by one method. C(transmit) sends a ticket's packet and raises OSError when the kernel refuses."""

    def __init__(
        self,
        method: str,
        loop: Loop,
        version: int,
        largest: int,
        timeout: float,
        transmit: Transmit,
        on_done: Callable[[], None],
    ) -> None:
        self.method, self.loop, self.timeout = method, loop, timeout
        self.search = Search(version, largest)
        self.rtts: list[float] = []
        self.sent = 0
        self.troubles: list[tuple[int, Trouble]] = []
        self.error: str | None = None
        self.remote: str | None = None
        self.done = False
        self._transmit, self._on_done = transmit, on_done
        self._round = 0
        self._open: set[int] = set()  # sizes of this round that are not answered yet
        self._failures = 0

    @property
    def patience(self) -> float:
        if not self.rtts:
            return self.timeout * FIRST_PATIENCE
        return min(max(PATIENCE, PATIENCE_FACTOR * sum(self.rtts) / len(self.rtts)), self.timeout)

    @property
    def reported(self) -> Trouble | None:
        """The frag-needed that announces least; one that announces nothing if there is no other."""
        found = [trouble for _size, trouble in self.troubles if trouble.mtu is not None]
        return min(found, key=lambda trouble: trouble.mtu or 1 << 16, default=None)

    @property
    def refusal(self) -> Trouble | None:
        """The last ICMP error that is about something else than size."""
        found = [trouble for _size, trouble in self.troubles if trouble.mtu is None]
        return found[-1] if found else None

    def start(self) -> None:
        self._volley(self.search.first)

    def stop(self) -> None:
        """No more packets; what was seen stays."""
        if not self.done:
            self.done = True
            self._on_done()

    def _volley(self, sizes: list[int]) -> None:
        self._round += 1
        self._open = set()
        for size in sizes:
            if self._put(size):
                self._open.add(size)
        number = self._round
        if self._open:
            self.loop.at(time.monotonic() + self.patience, lambda: self._next(number))
        elif self.error is None and not self.done:
            self.loop.at(time.monotonic() + BUSY_WAIT, lambda: self._next(number))

    def _put(self, size: int) -> bool:
        """Whether a packet is under way."""
        try:
            self._transmit(Ticket(size, self._answered, self._trouble))
        except OSError as exc:
            if exc.errno == errno.ENOBUFS:
                # The device took it and dropped it: a full queue, or one that takes less than it says (veth).
                self._count(size)
                return True
            if exc.errno not in _probe_socket.TRY_AGAIN and not self._too_big_here(exc, size):
                self._failures += 1
                if self._failures > TRIES:
                    self.error = _probe_socket.meaning(exc.errno) if exc.errno else str(exc)
                    self.stop()
            return False
        self._count(size)
        return True

    def _count(self, size: int) -> None:
        self.sent += 1
        self.search.sent(size)

    def _too_big_here(self, exc: OSError, size: int) -> bool:
        """The own kernel takes less than its interface says, for example because of IPsec (EMSGSIZE)."""
        if _probe_socket.errno_name(exc.errno) != "EMSGSIZE":
            return False
        self.search.sent(size)
        self.search.too_big(size, 0)
        self.troubles.append((size, Trouble(0, 0, None, 0, local=True)))
        return True

    def _answered(self, ticket: Ticket, at: float, sender: str) -> None:
        self.rtts.append(max(0.0, at - ticket.sent_at))
        self.remote = sender
        self.search.answered(ticket.size)
        self._resolved(ticket.size)

    def _trouble(self, ticket: Ticket, trouble: Trouble) -> None:
        self.troubles.append((ticket.size, trouble))
        if trouble.mtu is not None:
            self.search.too_big(ticket.size, trouble.mtu)
            self._resolved(ticket.size)

    def _resolved(self, size: int) -> None:
        self._open.discard(size)
        if self.search.done or not self._open:
            number = self._round
            self.loop.at(time.monotonic(), lambda: self._next(number))

    def _next(self, number: int) -> None:
        if self.done or number != self._round:
            return
        if self.search.done or self.sent >= MAX_PACKETS:
            self.stop()
            return
        left = max(0.0, self.loop.deadline - time.monotonic())
        # Some rounds at the end are for making sure.
        self._volley(self.search.ask(max(1, int(left / self.patience) - TRIES)))


class FrugalTrack(Track):
    """One packet at a time, because the target pays for few answers: port unreachables are rate-limited."""

    def start(self) -> None:
        self._paid = 0
        self._volley([self.search.largest])

    def _answered(self, ticket: Ticket, at: float, sender: str) -> None:
        self._paid += 1
        super()._answered(ticket, at, sender)

    def _next(self, number: int) -> None:
        if self.done or number != self._round:
            return
        if self.search.done:
            self.stop()
            return
        self._volley([self._choose()])

    def _choose(self) -> int:
        search = self.search
        low, high = search.low, search.high
        largest = search.largest
        hint = search.hint
        if low is None:
            # The largest twice, what a router announced, then something that every path takes.
            if hint and search.sends[hint] < TRIES:
                return hint
            return largest if search.sends[largest] < 2 and largest not in search.refused else FLOOR
        if hint and low < hint and search.sends[hint] < TRIES:
            return hint
        if high is None:
            raise AssertionError("the largest is sent before anything is searched for")
        if high - low > 1 and self._paid < PAID_ANSWERS + 1:
            return frugal(low, high, PAID_ANSWERS + 1 - self._paid)
        return high


class Trace:
    """Packets that expire on the way, large ones beside small ones: how far a size gets before it vanishes."""

    HOPS = 16

    def __init__(self, large: int, small: int) -> None:
        self.large, self.small = large, small
        self.sent = 0
        self.seen: dict[int, dict[int, str]] = {large: {}, small: {}}  # size -> TTL -> router
        self._expired = {(11, 0), (3, 0)}  # time exceeded, hop limit exceeded

    def tickets(self) -> list[Ticket]:
        return [
            Ticket(size, lambda ticket, at, sender: None, self._trouble, ttl=ttl)
            for ttl in range(1, self.HOPS + 1)
            for size in (self.small, self.large)
        ]

    def _trouble(self, ticket: Ticket, trouble: Trouble) -> None:
        if trouble.sender and (trouble.type, trouble.code) in self._expired and ticket.ttl is not None:
            self.seen[ticket.size][ticket.ttl] = trouble.sender

    @property
    def last(self) -> dict[str, t.Any] | None:
        """The last router that the large packet reached."""
        ttl = max(self.seen[self.large], default=None)
        return None if ttl is None else {"ttl": ttl, "address": self.seen[self.large][ttl]}

    @property
    def beyond(self) -> dict[str, t.Any] | None:
        """The next router, which only the small packet reached."""
        last = self.last
        ttl = (last["ttl"] if last else 0) + 1
        router = self.seen[self.small].get(ttl)
        return None if router is None else {"ttl": ttl, "address": router}


def describe(trouble: Trouble, family: int) -> str:
    """An ICMP error in words, with its sender."""
    name = _icmp.error_name(family, trouble.type, trouble.code)
    return f"{name} from {trouble.sender or 'the own kernel'}"

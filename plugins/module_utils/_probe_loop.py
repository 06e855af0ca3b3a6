# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One event loop for all sockets of all namespaces, ended by one deadline.

That the loop is shared is what makes fifty dead peers cost one timeout. Callbacks never block and never wait.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import selectors
import socket
import time
from collections.abc import Callable

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_LONGEST_SLEEP = 1.0  # so that a clock which was suspended is noticed


class Loop:
    """Sockets and timers until C(deadline) (monotonic seconds) or until everybody is done."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()

    def watch(self, sock: socket.socket, events: int, callback: Callable[[], None]) -> None:
        """Call back when the socket is ready; calling again changes events and callback."""
        try:
            self._selector.modify(sock, events, callback)
        except KeyError:
            self._selector.register(sock, events, callback)

    def forget(self, sock: socket.socket) -> None:
        """Stop watching; has to happen before the socket is closed."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(sock)

    def at(self, when: float, callback: Callable[[], object]) -> None:
        """Call back at a monotonic time, never if that is past the deadline."""
        if when < self.deadline:
            heapq.heappush(self._timers, (when, next(self._order), callback))

    def run(self, finished: Callable[[], bool]) -> None:
        """Serve sockets and timers; an error of a callback ends the loop, so callbacks guard themselves."""
        while not finished():
            if time.monotonic() >= self.deadline:
                return
            self._fire()
            if finished():
                return
            until = min(self.deadline, self._timers[0][0] if self._timers else self.deadline)
            self._serve(min(max(0.0, until - time.monotonic()), _LONGEST_SLEEP))

    def poll(self) -> None:
        """Serve what is due and ready now, without waiting."""
        self._fire()
        self._serve(0.0)

    def drain(self, seconds: float) -> None:
        """Serve, for so long at most, what has come by the deadline while this process waited for a processor.

        An answer that lies in its socket is not lost, however busy the host is that asked.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until and (ready := self._selector.select(0.0)):
            for key, _events in ready:
                if self._selector.get_map().get(key.fd) is key:
                    key.data()

    def close(self) -> None:
        """Release the loop's own descriptor; the sockets belong to the probes."""
        self._timers.clear()
        self._selector.close()

    def _serve(self, wait: float) -> None:
        for key, _events in self._selector.select(wait):
            if time.monotonic() >= self.deadline:
                return
            # A callback earlier in this round may have closed the socket and let its number go to another one.
            if self._selector.get_map().get(key.fd) is key:
                key.data()

    def _fire(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now and time.monotonic() < self.deadline:
            heapq.heappop(self._timers)[2]()

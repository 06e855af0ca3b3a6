# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""TCP connect: open, refused, timed out or unreachable; for the tcp layer itself, and under HTTP and DNS."""

from __future__ import annotations

import errno
import ipaddress
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from ansible_collections.crosshost.doctor.plugins.module_utils import _probe_socket
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_base import (
    Probe,
    Result,
    check_target,
    icmp_error,
    local_name,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_channel import IcmpError
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_loop import WRITE

RETRY_AFTER = 1 / 3  # of the time that is left: before the kernel repeats a SYN (1 s) on short deadlines
_SEEN_LATE = 0.005  # seconds


@dataclass
class _Attempt:
    socket: socket.socket
    started: float
    local_port: int
    icmp_error: IcmpError | None = None


class Connector:
    """Connects a probe to an address, with a second attempt in parallel when the first is not answered.

    Calls C(opened) with the connected socket, or C(ended) with a status. Fills C(sent) (SYNs, the kernel's repeats
    included), C(received), C(rtts), C(errno), C(icmp_error), C(retransmits), C(mss) and the addresses of C(result):
    the probe's own, if no other is given.
    """

    def __init__(
        self,
        probe: Probe,
        address: str,
        opened: Callable[[socket.socket], None],
        ended: Callable[[str, str | None], None],
        result: Result | None = None,
    ) -> None:
        self._probe = probe
        self._result = result or probe.result
        self._family = check_target(address)
        self._address = address
        self._remote = str(ipaddress.ip_address(address.partition("%")[0]))
        self._opened, self._ended = opened, ended
        self._attempts: list[_Attempt] = []
        self._over = False

    def start(self) -> None:
        """Make the first attempt; C(opened) or C(ended) may be called before this returns."""
        now = time.monotonic()
        self._probe.at(now + (self._probe.loop.deadline - now) * RETRY_AFTER, self._again)
        self._attempt()

    def stop(self) -> None:
        """Count what was sent and let go of every attempt; without a verdict."""
        self._over = True
        for attempt in list(self._attempts):
            self._abandon(attempt)

    def _again(self) -> None:
        if not self._over and len(self._attempts) == 1:
            with self._probe.source.entered():
                try:
                    self._attempt()
                except OSError as exc:
                    # The first attempt is still under way: lacking a descriptor for the second is no verdict.
                    if exc.errno not in _probe_socket.NO_DESCRIPTORS:
                        raise

    def _attempt(self) -> None:
        probe = self._probe
        channel = probe.source.watch_errors(self._family)  # open before the first error can come
        sock = probe.open(self._family, socket.SOCK_STREAM)
        started = time.monotonic()
        number = sock.connect_ex(_probe_socket.socket_address(self._family, self._address, probe.request.port))
        self._result.local, self._result.local_port = local_name(sock)
        attempt = _Attempt(sock, started, self._result.local_port or 0)
        self._attempts.append(attempt)
        if number not in (0, errno.EINPROGRESS):
            self._failed(attempt, number)
            return
        if channel:
            channel.follow(
                socket.IPPROTO_TCP,
                self._remote,
                probe.request.port,
                attempt.local_port,
                lambda error: setattr(attempt, "icmp_error", error),
            )
        probe.watch(sock, WRITE, lambda: self._ready(attempt))

    def _ready(self, attempt: _Attempt) -> None:
        if self._over:
            return
        number = attempt.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._failed(attempt, number)
        else:
            self._connected(attempt)

    def _connected(self, attempt: _Attempt) -> None:
        result = self._result
        elapsed = time.monotonic() - attempt.started
        info = _probe_socket.tcp_info(attempt.socket)
        # The kernel's measure of the handshake, when it is one: after a repeated SYN it has none (RFC 6298, Karn).
        rtt = info.rtt if info and not info.retransmits and 0 < info.rtt <= elapsed else elapsed
        if info:
            result.mss = info.mss
        result.received += 1
        result.rtts.append(rtt)
        result.remote = attempt.socket.getpeername()[0].partition("%")[0]
        self._result.local, self._result.local_port = local_name(attempt.socket)
        self._over = True
        self._count(attempt)
        self._attempts.remove(attempt)
        self._withdraw(rtt)
        self._unfollow(attempt)
        self._probe.loop.forget(attempt.socket)
        self._opened(attempt.socket)

    def _failed(self, attempt: _Attempt, number: int) -> None:
        """A verdict from the peer (RST), from a router or filter (ICMP), or from our own kernel."""
        result = self._result
        error = self._find_icmp_error(attempt)
        elapsed = time.monotonic() - attempt.started
        self._over = True
        if attempt.local_port:  # else there was no route and no SYN
            self._count(attempt)
        result.errno = _probe_socket.errno_name(number)
        if number == errno.ECONNREFUSED and error is None:
            result.received += 1
            result.rtts.append(elapsed)
            result.remote = self._remote
            status, detail = "refused", None
        elif error is not None:
            result.icmp_error = error
            status, detail = "unreachable", None
            if number == errno.ECONNREFUSED and error["sender"] != result.local:
                detail = "rejected with an ICMP port-unreachable, as packet filters do: a closed port answers with RST"
        elif number in _probe_socket.UNREACHABLE:
            status, detail = "unreachable", _probe_socket.meaning(number)
        else:
            status = "timeout" if number == errno.ETIMEDOUT else "error"
            detail = _probe_socket.meaning(number)
        self._drop(attempt)
        self._withdraw(elapsed)
        self._ended(status, detail)

    def _find_icmp_error(self, attempt: _Attempt) -> IcmpError | None:
        """The ICMP error behind an errno: from the socket's queue (kernel 5.8 on), else from the raw ICMP socket.

        The raw socket gets its copy before TCP does, so it is there by now, only not read yet.
        """
        for error in _probe_socket.queued_errors(attempt.socket):
            if error.icmp and error.number != errno.EMSGSIZE:
                return icmp_error(self._family, error.type, error.code, error.sender)
        channel = self._probe.source.watch_errors(self._family)
        if channel:
            channel.drain()
        return attempt.icmp_error

    def _withdraw(self, rtt: float) -> None:
        """Let go of the other attempt. One that was made too recently to be answered yet is not counted as sent."""
        for other in list(self._attempts):
            if time.monotonic() - other.started < 2 * rtt + _SEEN_LATE:
                self._drop(other)
            else:
                self._abandon(other)

    def _abandon(self, attempt: _Attempt) -> None:
        self._count(attempt)
        if attempt.icmp_error:
            self._result.icmp_error = attempt.icmp_error
        self._drop(attempt)

    def _count(self, attempt: _Attempt) -> None:
        info = _probe_socket.tcp_info(attempt.socket)
        repeats = info.retransmits if info else 0
        self._result.sent += 1 + repeats
        self._result.retransmits = (self._result.retransmits or 0) + repeats

    def _unfollow(self, attempt: _Attempt) -> None:
        channel = self._probe.source.watch_errors(self._family)
        if channel:
            channel.unfollow(socket.IPPROTO_TCP, self._remote, self._probe.request.port, attempt.local_port)

    def _drop(self, attempt: _Attempt) -> None:
        self._unfollow(attempt)
        self._attempts.remove(attempt)
        self._probe.drop(attempt.socket)


class TcpProbe(Probe):
    """Connects and closes at once."""

    def start(self) -> None:
        self._connector = Connector(self, self.request.address or "", lambda sock: self.finish("open"), self.finish)
        self._connector.start()

    def expire(self) -> None:
        self._connector.stop()
        self.finish("unreachable" if self.result.icmp_error else "timeout")

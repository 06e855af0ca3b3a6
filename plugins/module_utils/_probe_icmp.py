# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ICMP echo: the only layer whose sent and received measure loss, because every request deserves its own reply."""

from __future__ import annotations

import errno
import functools
import socket
import time
import typing as t

from ansible_collections.crosshost.doctor.plugins.module_utils import _probe_socket
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_base import Probe, payload
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_channel import IcmpChannel, IcmpError, Reply

_BUSY_WAIT = 0.01  # seconds until a full sending queue is tried again
_BUSY_TRIES = 20


_HEADERS: dict[int, int] = {socket.AF_INET: 20 + 8, socket.AF_INET6: 40 + 8}


class IcmpProbe(Probe):
    """C(count) echo requests, spaced by C(interval). Ends early when each has its reply or its error.

    When they have a size, that is the question and not how many are lost: one that is answered is enough.
    """

    _channel: IcmpChannel
    _target: tuple[t.Any, ...]

    def start(self) -> None:
        address = self.request.address or ""
        self._open: dict[int, float] = {}  # sequence number on the wire -> when it was sent
        self._answered: set[int] = set()
        self._to_send = self.settings.count
        try:
            self._channel = self.source.icmp(self.family, self.request.source)
        except PermissionError as exc:
            self.finish("error", exc.strerror)
            return
        self._target = _probe_socket.socket_address(self.family, address, 0)
        if self.family == socket.AF_INET6 and len(self._target) == 4:
            self._target = (self._target[0], 0, 0, self._target[3])
        for number in range(self.settings.count):
            self.at(self.started + number * self.settings.interval, functools.partial(self._send, number))

    def _text(self, number: int) -> bytes:
        text = payload(self.settings.mark, self.request.id, number)
        if not self.request.size:
            return text
        length = max(0, self.request.size - _HEADERS[self.family])
        return text[:length].ljust(length, b"\0")

    def _send(self, number: int, tries: int = 0) -> None:
        text = self._text(number)
        sent_at = time.monotonic()
        seqs: list[int] = []
        try:
            seq = self._channel.send(
                self._target,
                text,
                lambda reply: self.guard(lambda: self._on_reply(seqs[0], reply))(),
                lambda error, local: self.guard(lambda: self._on_error(seqs[0], error, local))(),
                self.request.df,
            )
        except OSError as exc:
            if exc.errno in _probe_socket.TRY_AGAIN and tries < _BUSY_TRIES:
                self.at(sent_at + _BUSY_WAIT, lambda: self._send(number, tries + 1))
                return
            if self.request.df and exc.errno == errno.ENOBUFS:
                # The device drops it, however often: one that takes less than its MTU says (veth).
                self.result.sent += 1
                self._to_send -= 1
                self._maybe_end()
                return
            self._refused_locally(exc)
            return
        seqs.append(seq)
        self._open[seq] = sent_at
        self.result.sent += 1
        self._to_send -= 1

    def _refused_locally(self, exc: OSError) -> None:
        """The kernel did not take it. One that a rule stopped (EPERM) counts as sent: the rule's counter has it too."""
        self.result.sent += exc.errno == errno.EPERM
        self._to_send -= 1
        self.result.errno = _probe_socket.errno_name(exc.errno)
        self.result.detail = _probe_socket.meaning(exc.errno) if exc.errno else str(exc)
        if exc.errno not in _probe_socket.UNREACHABLE:
            self.finish("error")
            return
        self._maybe_end()

    def _on_reply(self, seq: int, reply: Reply) -> None:
        if seq in self._answered:
            self.result.duplicates += 1
            return
        sent_at = self._open.pop(seq, None)
        if sent_at is None:
            return
        self._answered.add(seq)
        self.result.received += 1
        self.result.rtts.append(max(0.0, reply.at - sent_at))
        self.result.remote, self.result.local = reply.sender, reply.local
        self.result.ttl = reply.ttl
        if self.request.size:
            self.expire()
            return
        self._maybe_end()

    def _on_error(self, seq: int, error: IcmpError, local: str | None) -> None:
        self.result.icmp_error = error
        self.result.local = self.result.local or local
        self._open.pop(seq, None)
        self._maybe_end()

    def _maybe_end(self) -> None:
        if not self._to_send and not self._open:
            self.expire()

    def expire(self) -> None:
        if self.result.received:
            self.finish("ok", self._told())
        elif self.result.icmp_error or self.result.errno:
            self.finish("unreachable", self.result.detail)
        else:
            self.finish("timeout")

    def _told(self) -> str | None:
        """A "too big" about an earlier echo of the size that was then answered."""
        error = self.result.icmp_error
        return f"answered after {error['name']} from {error['sender']}" if self.request.size and error else None

    def close(self) -> None:
        for seq in [*getattr(self, "_open", ()), *getattr(self, "_answered", ())]:
            self._channel.forget_echo(seq)
        super().close()

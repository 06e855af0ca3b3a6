# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""UDP: a marked datagram, and whatever comes back: an answer, a port unreachable (the path is open), or an error.

The payload C(tunnel) is for VXLAN ports. It is a VXLAN header (RFC 7348 §5) whose I flag, "the VNI is valid", is
clear: every VXLAN receiver has to discard it, so whatever follows can never be taken for a frame of an overlay. It
is still the right port and protocol for every packet filter on the way, which is what the probe is about.
"""

from __future__ import annotations

import errno
import functools
import socket
import time

from ansible_collections.crosshost.doctor.plugins.module_utils import _icmp, _probe_socket
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_base import (
    Probe,
    check_address,
    explain,
    local_name,
    payload,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_loop import READ

VXLAN_WITHOUT_VNI = bytes(8)
_BUSY_WAIT = 0.01
_BUSY_TRIES = 20
_LINGER = 0.2  # seconds to wait for further answers behind the last datagram, once there was one
_BATCH = 32


class UdpProbe(Probe):
    """C(count) datagrams from one connected socket, spaced by C(interval); none after a refusal or an error.

    Hosts limit the rate of ICMP errors they send (net.ipv4.icmp_ratelimit: after a burst, one per second and peer):
    for C(refused), fewer received than sent is no loss.
    """

    expects_answer = False
    _socket: socket.socket

    def start(self) -> None:
        self._sent_at: list[float] = []
        self._remote = str(check_address((self.request.address or "").partition("%")[0]))
        self._socket = self.open(self.family, socket.SOCK_DGRAM)
        _probe_socket.arrival_details(self._socket)
        self._socket.connect(_probe_socket.socket_address(self.family, self.request.address or "", self.request.port))
        self.result.local, self.result.local_port = local_name(self._socket)
        self.watch(self._socket, READ, self._read)
        for number in range(self.settings.count):
            self.at(self.started + number * self.settings.interval, functools.partial(self._send, number))

    def _text(self, number: int) -> bytes:
        head = VXLAN_WITHOUT_VNI if self.request.payload == "tunnel" else b""
        return head + payload(self.settings.mark, self.request.id, number)

    def _send(self, number: int, tries: int = 0) -> None:
        now = time.monotonic()
        try:
            self._socket.send(self._text(number))
        except OSError as exc:
            if exc.errno in _probe_socket.TRY_AGAIN and tries < _BUSY_TRIES:
                self.at(now + _BUSY_WAIT, lambda: self._send(number, tries + 1))
                return
            self.result.sent += exc.errno == errno.EPERM  # stopped by a rule, which has counted it
            self._read()  # what is queued says more than the errno, which may be about an earlier datagram
            if not self.done:
                self._end_by_errno(exc)
            return
        self._sent_at.append(now)
        self.result.sent += 1

    def _end_by_errno(self, exc: OSError) -> None:
        if self.result.received:
            self.result.errno = _probe_socket.errno_name(exc.errno)
            self.finish("answered")
        else:
            self.fail(exc)

    def _read(self) -> None:
        self._read_errors()
        for _turn in range(_BATCH):
            if self.done:
                return
            try:
                datagram = _probe_socket.receive(self._socket)
            except BlockingIOError:
                return
            except OSError:  # the error is read from the queue
                self._read_errors()
                continue
            self._on_answer(datagram)

    def _read_errors(self) -> None:
        for error in self.queued(self._socket):
            if self.done:
                return
            if not error.icmp:
                continue
            if (error.type, error.code) == _icmp.PORT_UNREACHABLE[self.family]:
                self._on_refusal(error)
            elif not self.result.received:
                self.result.errno = _probe_socket.errno_name(error.number)
                self.finish("unreachable")

    def _on_refusal(self, error: _probe_socket.QueuedError) -> None:
        """A closed port, or a filter's REJECT: only the sender of the error and the rules can tell which."""
        self.result.errno = _probe_socket.errno_name(errno.ECONNREFUSED)
        self.result.remote = error.sender
        if error.sender != self._remote:
            why = explain(self.result) or "the port unreachable came from another address than the one probed"
            self.finish("unreachable", why)
            return
        self.result.received += 1
        number = self._number(error.payload)
        if number is not None:
            self.result.rtts.append(time.monotonic() - self._sent_at[number])
        self.finish("refused")

    def _number(self, text: bytes) -> int | None:
        """Which of our datagrams this repeats."""
        return next((number for number in range(len(self._sent_at)) if text == self._text(number)), None)

    def _on_answer(self, datagram: _probe_socket.Datagram) -> None:
        if self.result.received >= self.result.sent:
            self.result.duplicates += 1
            return
        number = self._number(datagram.data)
        sent_at = self._sent_at[self.result.received if number is None else number]
        self.result.received += 1
        self.result.bytes = (self.result.bytes or 0) + len(datagram.data)
        self.result.rtts.append(max(0.0, datagram.at - sent_at))
        self.result.remote, self.result.ttl = datagram.sender.partition("%")[0], datagram.ttl
        if self.result.received == self.settings.count:
            self.finish("answered")
        elif self.result.received == 1:
            self.at(max(self.last_send, datagram.at) + max(_LINGER, 4 * self.result.rtts[0]), self.expire)

    def expire(self) -> None:
        self.finish("answered" if self.result.received else "silent")

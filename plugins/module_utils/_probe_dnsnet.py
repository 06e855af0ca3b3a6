# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How DNS messages travel: datagrams from one socket per server, or one connection per question (RFC 7766)."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable

from ansible_collections.crosshost.doctor.plugins.module_utils import _probe_socket
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_base import (
    Probe,
    Result,
    check_target,
    local_name,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_loop import READ, WRITE
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_tcp import Connector

_LARGEST = 2 + 65535
_BATCH = 32

# (message, monotonic time of its arrival, TTL)
OnMessage = Callable[[bytes, float, "int | None"], None]
# (status of the probe's vocabulary, explanation)
OnFailure = Callable[[str, str], None]


class UdpServer:
    """A nameserver asked by datagrams; the socket is connected, so that ICMP errors find their way back."""

    def __init__(self, probe: Probe, address: str, on_message: OnMessage, on_failure: OnFailure) -> None:
        self._probe, self._address = probe, address
        self._on_message, self._on_failure = on_message, on_failure
        self._socket: socket.socket | None = None

    def ask(self, message: bytes) -> None:
        """Send a query. What stands in its way is told to C(on_failure).

        @raises OSError: no descriptor is free.
        """
        try:
            if self._socket is None:
                self._socket = self._connect()
            self._socket.send(message)
        except OSError as exc:
            if exc.errno in _probe_socket.NO_DESCRIPTORS:
                raise
            if exc.errno != errno.EPERM:  # that one met a rule, which has counted it
                self._probe.result.sent -= 1
            self._fail(exc.errno)

    def _connect(self) -> socket.socket:
        probe, family = self._probe, check_target(self._address)
        with probe.source.entered():
            sock = probe.open(family, socket.SOCK_DGRAM)
            _probe_socket.arrival_details(sock)
            sock.connect(_probe_socket.socket_address(family, self._address, probe.request.port))
        probe.result.local, probe.result.local_port = local_name(sock)
        probe.watch(sock, READ, lambda: self._read(sock))
        return sock

    def _read(self, sock: socket.socket) -> None:
        for error in self._probe.queued(sock):
            self._fail(error.number)
            return
        for _turn in range(_BATCH):
            if self._probe.done:
                return
            try:
                datagram = _probe_socket.receive(sock)
            except OSError:
                return
            self._on_message(datagram.data, datagram.at, datagram.ttl)

    def _fail(self, number: int | None) -> None:
        result = self._probe.result
        result.errno = _probe_socket.errno_name(number)
        if number in _probe_socket.REFUSED:
            self._on_failure("refused", f"nothing listens on {self._probe.request.port}/udp of {self._address}")
        else:
            status = "unreachable" if number in _probe_socket.UNREACHABLE else "error"
            why = result.icmp_error["name"] if result.icmp_error else _probe_socket.meaning(number or 0)
            self._on_failure(status, f"{self._address}: {why}")


class TcpQuestion:
    """One question to one server over a connection of its own."""

    def __init__(
        self, probe: Probe, address: str, message: bytes, on_message: OnMessage, on_failure: OnFailure
    ) -> None:
        self._probe, self._address = probe, address
        self._outgoing = len(message).to_bytes(2, "big") + message
        self._incoming = bytearray()
        self._on_message, self._on_failure = on_message, on_failure
        self._socket: socket.socket | None = None
        # The handshake's counts are not those of questions and answers.
        self._handshake = Result(probe.result.id, "tcp")
        self._connector = Connector(probe, address, self._opened, self._refused, self._handshake)

    def ask(self) -> None:
        with self._probe.source.entered():
            self._connector.start()

    def stop(self) -> str:
        """Give up; returns how far it came, as a status."""
        self._connector.stop()
        self._note()
        if self._socket:
            self._probe.drop(self._socket)
        return "unreachable" if self._handshake.icmp_error else "timeout"

    def _note(self) -> None:
        for key in ("errno", "icmp_error", "retransmits", "mss", "local", "local_port"):
            value = getattr(self._handshake, key)
            if value is not None:
                setattr(self._probe.result, key, value)

    def _refused(self, status: str, detail: str | None) -> None:
        self._note()
        if status == "refused":
            detail = f"nothing listens on {self._probe.request.port}/tcp of it"
        self._on_failure(status, f"{self._address}: {detail or status}")

    def _opened(self, sock: socket.socket) -> None:
        self._note()
        self._socket = sock
        self._probe.watch(sock, WRITE, lambda: self._write(sock))

    def _write(self, sock: socket.socket) -> None:
        self._outgoing = self._outgoing[sock.send(self._outgoing) :]
        if not self._outgoing:
            self._probe.watch(sock, READ, lambda: self._read(sock))

    def _read(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(_LARGEST)
        except BlockingIOError:
            return
        except OSError as exc:
            self._broken(sock, f"{self._address}: {_probe_socket.meaning(exc.errno or 0)}")
            return
        self._incoming += data
        end = 2 + int.from_bytes(self._incoming[:2], "big")
        if len(self._incoming) >= max(3, end):
            self._probe.drop(sock)
            self._socket = None
            self._on_message(bytes(self._incoming[2:end]), time.monotonic(), None)
        elif not data:
            self._broken(sock, f"{self._address} closed the connection without an answer")

    def _broken(self, sock: socket.socket, why: str) -> None:
        self._probe.drop(sock)
        self._socket = None
        self._on_failure("error", why)

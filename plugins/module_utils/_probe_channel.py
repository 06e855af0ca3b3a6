# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ICMP socket that all probes of one namespace and family share.

A raw socket sees every ICMP message that reaches the namespace: replies to our echoes, and errors about our echoes
and our TCP connections, which it hands to the probe whose packet they quote. Without the right to a raw socket an
unprivileged ping socket (net.ipv4.ping_group_range) serves for echoes; errors then come from its error queue.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import typing as t
from collections.abc import Callable
from dataclasses import dataclass

from ansible_collections.crosshost.doctor.plugins.module_utils import _icmp, _probe_base, _probe_socket
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_loop import READ, Loop

if t.TYPE_CHECKING:
    from ansible_collections.crosshost.doctor.plugins.module_utils._probe_source import Source

_PROTOCOL: dict[int, int] = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
_SOL_RAW, _ICMP_FILTER, _ICMP6_FILTER = 255, 1, 1
_RECEIVE_BUFFER = 1 << 20
_BATCH = 64  # datagrams read per wake-up, so that a flood cannot hold the loop
MAX_ECHOES = 1 << 16

IcmpError = dict[str, t.Any]
# (the error, the address of ours that it was sent to)
OnError = Callable[[IcmpError, "str | None"], None]


@dataclass(frozen=True)
class Reply:
    """An echo reply; C(at) on the monotonic clock."""

    at: float
    sender: str
    ttl: int | None
    local: str | None


@dataclass
class _Echo:
    payload: bytes
    on_reply: Callable[[Reply], None]
    on_error: OnError
    df: bool = False  # its size is the question, so that "too big" is an answer


class IcmpChannel:
    """Sends echoes and sorts what comes back to those who asked."""

    def __init__(self, source: Source, loop: Loop, family: int, address: str | None) -> None:
        self.family = family
        self.raw = True
        self._loop = loop
        try:
            self._socket = source.open(family, socket.SOCK_RAW, _PROTOCOL[family])
        except PermissionError as exc:
            self.raw = False
            self._socket = _ping_socket(source, family, exc)
        self.ident = int.from_bytes(os.urandom(2), "big")
        self._next = int.from_bytes(os.urandom(2), "big")
        self._echoes: dict[int, _Echo] = {}
        self._flows: dict[tuple[int, str, int, int], Callable[[IcmpError], None]] = {}
        try:
            self._configure(address)
        except OSError:
            self._socket.close()
            raise
        loop.watch(self._socket, READ, self.drain)

    def _configure(self, address: str | None) -> None:
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        _probe_socket.arrival_details(self._socket)
        if not self.raw:
            _probe_socket.error_queue(self._socket)
        elif self.family == socket.AF_INET6:
            self._socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _filter6())
        else:
            self._socket.setsockopt(_SOL_RAW, _ICMP_FILTER, _filter4())
        if address:
            self._socket.bind(_probe_socket.socket_address(self.family, address, 0))

    def send(
        self,
        address: tuple[t.Any, ...],
        text: bytes,
        on_reply: Callable[[Reply], None],
        on_error: OnError,
        df: bool = False,
    ) -> int:
        """Send an echo request and return its sequence number, the key for C(forget_echo).

        With C(df) it is not fragmented, and the path MTU that the kernel has cached is not looked at.

        @raises OSError: the kernel did not take it.
        """
        if len(self._echoes) >= MAX_ECHOES:
            raise OSError("all 65536 echo sequence numbers are in use")
        while self._next in self._echoes:
            self._next = (self._next + 1) & 0xFFFF
        seq, self._next = self._next, (self._next + 1) & 0xFFFF
        self._echoes[seq] = _Echo(text, on_reply, on_error, df)
        try:
            with _probe_socket.whole(self._socket) if df else contextlib.nullcontext():
                self._socket.sendto(_icmp.echo_request(self.family, self.ident, seq, text), address)
        except OSError:
            self.forget_echo(seq)
            raise
        return seq

    def forget_echo(self, seq: int) -> None:
        """Let go of an echo that is answered or given up."""
        self._echoes.pop(seq, None)

    def follow(self, protocol: int, remote: str, port: int, local_port: int, tell: Callable[[IcmpError], None]) -> None:
        """Tell of ICMP errors that quote a packet of this flow."""
        self._flows[(protocol, remote, port, local_port)] = tell

    def unfollow(self, protocol: int, remote: str, port: int, local_port: int) -> None:
        self._flows.pop((protocol, remote, port, local_port), None)

    def drain(self) -> None:
        """Read what has arrived, at most a batch."""
        if not self.raw:
            self._drain_errors()
        for _turn in range(_BATCH):
            try:
                datagram = _probe_socket.receive(self._socket)
            except OSError:
                return
            self._sort(datagram)

    def close(self) -> None:
        self._loop.forget(self._socket)
        self._socket.close()
        self._echoes.clear()
        self._flows.clear()

    def _sort(self, datagram: _probe_socket.Datagram) -> None:
        data, ttl, local = datagram.data, datagram.ttl, datagram.local
        if self.raw and self.family == socket.AF_INET:
            packet = _icmp.parse_packet(data)
            if packet is None:
                return
            data, ttl, local = packet.body, packet.ttl, packet.dst
        message = _icmp.parse_message(self.family, data)
        if message is None:
            return
        if message.type == _icmp.ECHO_REPLY[self.family]:
            # A ping socket's ident is the kernel's, which has matched it already.
            echo = self._echoes.get(message.seq or 0) if not self.raw or message.ident == self.ident else None
            if echo and message.payload == echo.payload:
                echo.on_reply(Reply(datagram.at, datagram.sender.partition("%")[0], ttl, local))
        elif message.quote and self.raw:
            self._sort_error(message, message.quote, datagram.sender.partition("%")[0], local)

    def _sort_error(self, message: _icmp.Message, quote: _icmp.Quote, sender: str, local: str | None) -> None:
        too_big = (message.type, message.code) == _icmp.TOO_BIG[self.family]
        error = _probe_base.icmp_error(self.family, message.type, message.code, sender)
        if too_big:
            error["mtu"] = message.mtu or None
        if quote.ident == self.ident and quote.seq is not None and quote.protocol == _PROTOCOL[self.family]:
            echo = self._echoes.get(quote.seq)
            if echo and echo.payload.startswith(quote.payload[: len(echo.payload)]) and (echo.df or not too_big):
                echo.on_error(error, local)
        elif too_big:
            return
        elif quote.sport is not None and quote.dport is not None:
            tell = self._flows.get((quote.protocol, quote.dst, quote.dport, quote.sport))
            if tell:
                tell(error)

    def _drain_errors(self) -> None:
        """A ping socket's errors: the queue holds the start of our own request, from its ICMP header on."""
        for queued in _probe_socket.queued_errors(self._socket):
            if not queued.icmp:
                continue
            message = _icmp.parse_message(self.family, queued.payload)
            echo = self._echoes.get(message.seq or 0) if message else None
            too_big = (queued.type, queued.code) == _icmp.TOO_BIG[self.family]
            if echo and (echo.df or not too_big):
                error = _probe_base.icmp_error(self.family, queued.type, queued.code, queued.sender)
                echo.on_error({**error, "mtu": queued.info or None} if too_big else error, None)


def _ping_socket(source: Source, family: int, denied: OSError) -> socket.socket:
    """@raises OSError: the first refusal, with what would help."""
    try:
        return source.open(family, socket.SOCK_DGRAM, _PROTOCOL[family])
    except OSError as exc:
        why = "raw sockets need root, ping sockets a group inside net.ipv4.ping_group_range"
        raise OSError(denied.errno, why) from exc


def _filter4() -> bytes:
    """A set bit keeps a type away (raw(7), ICMP_FILTER)."""
    wanted = _icmp.ERROR_TYPES[socket.AF_INET] | {_icmp.ECHO_REPLY[socket.AF_INET]}
    return struct.pack("=I", 0xFFFFFFFF & ~sum(1 << kind for kind in wanted))


def _filter6() -> bytes:
    """The same for ICMPv6: 256 bits (RFC 3542 §3.2)."""
    words = [0xFFFFFFFF] * 8
    for kind in _icmp.ERROR_TYPES[socket.AF_INET6] | {_icmp.ECHO_REPLY[socket.AF_INET6]}:
        words[kind >> 5] &= ~(1 << (kind & 31)) & 0xFFFFFFFF
    return struct.pack("=8I", *words)

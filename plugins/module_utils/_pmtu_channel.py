# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packets of an exact size, with "don't fragment" and past the kernel's cached path MTU, and what comes back on them.

C(IP_PMTUDISC_PROBE) (ip(7)) sets DF and looks only at the interface's MTU. Errors come from the sockets' error queues:
with the router that sent them and, for "too big", the MTU it announced.

Three ways to be answered: an echo; a connection request (SYN) that carries data, which no receiver hands to anybody
and every one answers with SYN-ACK or RST (RFC 9293 §3.10.7.1, §3.10.7.2); a datagram to a closed port. The answers of
the last two are small: they prove one direction. The kernel resets the half-open connections, which are not its own.
"""

from __future__ import annotations

import abc
import ctypes
import errno
import ipaddress
import os
import socket
import struct
import time
import typing as t
from collections.abc import Callable
from dataclasses import dataclass

from ansible_collections.crosshost.doctor.plugins.module_utils import _icmp, _probe_socket
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_loop import READ, Loop

if t.TYPE_CHECKING:
    from ansible_collections.crosshost.doctor.plugins.module_utils._probe_source import Source

IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DONT, PMTUDISC_PROBE = 10, 23, 0, 3
IPV6_MTU, IPV6_DONTFRAG, IPV6_CHECKSUM = 24, 62, 7
IP_TTL, IPV6_HOPLIMIT = 2, 52
SO_RCVBUFFORCE, SO_SNDBUFFORCE, SO_ATTACH_FILTER = 33, 32, 26
SOL_RAW, ICMP_FILTER, ICMP6_FILTER = 255, 1, 1
IP_HEADER: dict[int, int] = {socket.AF_INET: 20, socket.AF_INET6: 40}
ICMP_HEADER, UDP_HEADER, TCP_HEADER = 8, 8, 20
SYN, RST, ACK = 0x02, 0x04, 0x10
FIRST_PORT, LAST_PORT = 61000, 65535  # above what kernels give out by default (net.ipv4.ip_local_port_range)
SMALLEST_FRAGMENT_6 = 1280
BUFFER = 8 << 20
_BATCH = 256
_RETRIES = 3
_ICMP: dict[int, int] = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
_TCP = struct.Struct("!HHIIBBHHH")


@dataclass(frozen=True)
class Trouble:
    """An ICMP error about one of our packets; C(mtu) is set when it says "too big"."""

    type: int
    code: int
    sender: str | None
    mtu: int | None
    local: bool = False  # our own kernel would not send it


@dataclass
class Ticket:
    """One packet under way: whom to tell. The size is that of the whole IP packet."""

    size: int
    on_answer: Callable[[Ticket, float, str], None]  # (ticket, when on the monotonic clock, who answered)
    on_trouble: Callable[[Ticket, Trouble], None]
    sent_at: float = 0.0
    ttl: int | None = None
    fragment: bool = False  # without DF, larger than the interface takes: the kernel fragments it


def probing(sock: socket.socket, fragment: bool = False) -> None:
    """Set DF and ignore what is cached; or the opposite: let the packet be fragmented."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DONT if fragment else PMTUDISC_PROBE)
        return
    sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DONT if fragment else PMTUDISC_PROBE)
    sock.setsockopt(socket.IPPROTO_IPV6, IPV6_DONTFRAG, 0 if fragment else 1)
    # The size of fragments also bounds what may be sent whole, so it is taken back afterwards.
    sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU, SMALLEST_FRAGMENT_6 if fragment else 0)


def buffers(sock: socket.socket) -> None:
    """Room for a volley to every peer; only root may go beyond the host's limit."""
    for forced, ordinary in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, BUFFER)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, ordinary, BUFFER)


def trouble(family: int, error: _probe_socket.QueuedError) -> Trouble:
    """What an entry of an error queue says; the announced MTU is 0 where an old router does not give one."""
    too_big = error.number == errno.EMSGSIZE
    return Trouble(error.type, error.code, error.sender, error.info if too_big else None, not error.icmp)


def put(sock: socket.socket, data: bytes, address: tuple[t.Any, ...] | None, ttl: int | None, drain: t.Any) -> None:
    """Send; an error that an earlier packet left on the socket is read from the queue instead of believed.

    @raises OSError: the kernel did not take this packet.
    """
    ancillary: list[tuple[int, int, bytes]] = []
    if ttl is not None:
        four = sock.family == socket.AF_INET
        level, kind = (socket.IPPROTO_IP, IP_TTL) if four else (socket.IPPROTO_IPV6, IPV6_HOPLIMIT)
        ancillary = [(level, kind, struct.pack("=i", ttl))]
    for turn in range(_RETRIES):
        try:
            if address is None:
                sock.sendmsg([data], ancillary)
            else:
                sock.sendmsg([data], ancillary, 0, address)
            return
        except OSError as exc:
            if turn == _RETRIES - 1 or exc.errno in _probe_socket.TRY_AGAIN:
                raise
            drain()


class _Channel(abc.ABC):
    """One socket for the packets of many targets; whose answer came is told by what it holds."""

    _socket: socket.socket
    _loop: Loop
    _tickets: dict[t.Any, t.Any]

    def drain(self) -> None:
        """Read what has arrived, at most a batch."""
        self.read_errors()
        for _turn in range(_BATCH):
            try:
                datagram = _probe_socket.receive(self._socket)
            except BlockingIOError:
                return
            except OSError:
                self.read_errors()
                continue
            self._sort(datagram)

    @abc.abstractmethod
    def _sort(self, datagram: _probe_socket.Datagram) -> None:
        """Give an answer to its ticket."""

    @abc.abstractmethod
    def read_errors(self) -> None:
        """Give queued ICMP errors to their tickets."""

    def close(self) -> None:
        self._loop.forget(self._socket)
        self._socket.close()
        self._tickets.clear()


class EchoChannel(_Channel):
    """Echoes of one family from one namespace, to all targets. Without root an unprivileged ping socket serves."""

    def __init__(self, source: Source, loop: Loop, family: int, address: str | None) -> None:
        self.family, self._loop = family, loop
        self.raw = True
        try:
            self._socket = source.open(family, socket.SOCK_RAW, _ICMP[family])
        except PermissionError:
            self.raw = False
            self._socket = source.open(family, socket.SOCK_DGRAM, _ICMP[family])
        self._ident = int.from_bytes(os.urandom(2), "big")
        self._next = int.from_bytes(os.urandom(2), "big")
        self._tickets: dict[int, tuple[Ticket, bytes]] = {}
        try:
            self._configure(address)
        except OSError:
            self._socket.close()
            raise
        loop.watch(self._socket, READ, self.drain)

    def _configure(self, address: str | None) -> None:
        buffers(self._socket)
        probing(self._socket)
        _probe_socket.error_queue(self._socket)
        _probe_socket.arrival_details(self._socket)
        reply = _icmp.ECHO_REPLY[self.family]
        if self.raw and self.family == socket.AF_INET:
            self._socket.setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("=I", 0xFFFFFFFF & ~(1 << reply)))
        elif self.raw:
            words = [0xFFFFFFFF] * 8
            words[reply >> 5] &= ~(1 << (reply & 31)) & 0xFFFFFFFF
            self._socket.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, struct.pack("=8I", *words))
        if address:
            self._socket.bind(_probe_socket.socket_address(self.family, address, 0))

    def send(self, address: tuple[t.Any, ...], text: bytes, ticket: Ticket) -> None:
        """Send an echo request of C(ticket.size) bytes.

        @raises OSError: the kernel did not take it.
        """
        while self._next in self._tickets:
            self._next = (self._next + 1) & 0xFFFF
        number, self._next = self._next, (self._next + 1) & 0xFFFF
        body = padded(text, ticket.size - IP_HEADER[self.family] - ICMP_HEADER)
        self._tickets[number] = (ticket, body)
        ticket.sent_at = time.monotonic()
        packet = _icmp.echo_request(self.family, self._ident, number, body)
        try:
            if ticket.fragment:
                probing(self._socket, fragment=True)
            put(self._socket, packet, address, ticket.ttl, self.read_errors)
        except OSError:
            self._tickets.pop(number, None)
            raise
        finally:
            if ticket.fragment:
                probing(self._socket)

    def _sort(self, datagram: _probe_socket.Datagram) -> None:
        data = datagram.data
        if self.raw and self.family == socket.AF_INET:
            packet = _icmp.parse_packet(data)
            if packet is None:
                return
            data = packet.body
        message = _icmp.parse_message(self.family, data)
        if message is None or message.type != _icmp.ECHO_REPLY[self.family]:
            return
        if self.raw and message.ident != self._ident:
            return
        found = self._tickets.get(message.seq or 0)
        if found and message.payload == found[1]:
            del self._tickets[message.seq or 0]
            found[0].on_answer(found[0], datagram.at, datagram.sender.partition("%")[0])

    def read_errors(self) -> None:
        """Errors about our echoes; the queue holds the start of the request, from its ICMP header on."""
        for error in _probe_socket.queued_errors(self._socket, _BATCH):
            message = _icmp.parse_message(self.family, error.payload)
            if message is None or message.seq is None or (self.raw and message.ident != self._ident):
                continue
            found = self._tickets.get(message.seq)
            if found:
                found[0].on_trouble(found[0], trouble(self.family, error))


class SynChannel(_Channel):
    """Connection requests with data, one for each packet, from ports that no socket has. Needs a raw socket."""

    def __init__(self, source: Source, loop: Loop, family: int, address: str | None) -> None:
        self.family, self._loop, self._bound = family, loop, address
        self._socket = source.open(family, socket.SOCK_RAW, socket.IPPROTO_TCP)
        self._tickets: dict[tuple[str, int], tuple[Ticket, int, int]] = {}  # (remote, own port) -> ticket, ISN, data
        self._port = FIRST_PORT + int.from_bytes(os.urandom(2), "big") % (LAST_PORT - FIRST_PORT)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, answers_only(family))
            buffers(self._socket)
            probing(self._socket)
            _probe_socket.error_queue(self._socket)
            _probe_socket.arrival_details(self._socket)
            if family == socket.AF_INET6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM, 16)
            if address:
                self._socket.bind(_probe_socket.socket_address(family, address, 0))
        except OSError:
            self._socket.close()
            raise
        loop.watch(self._socket, READ, self.drain)

    def send(self, address: tuple[t.Any, ...], own: str, port: int, text: bytes, ticket: Ticket) -> None:
        """Send a SYN of C(ticket.size) bytes from the address C(own), which the checksum covers.

        @raises OSError: the kernel did not take it.
        """
        remote = str(ipaddress.ip_address(str(address[0]).partition("%")[0]))
        self._port = self._port + 1 if self._port < LAST_PORT else FIRST_PORT
        number = int.from_bytes(os.urandom(4), "big")
        body = padded(text, ticket.size - IP_HEADER[self.family] - TCP_HEADER)
        segment = _TCP.pack(self._port, port, number, 0, TCP_HEADER // 4 << 4, SYN, 1024, 0, 0) + body
        if self.family == socket.AF_INET:
            pseudo = socket.inet_aton(own) + socket.inet_aton(remote)
            pseudo += struct.pack("!HH", socket.IPPROTO_TCP, len(segment))
            segment = segment[:16] + struct.pack("!H", _icmp.checksum(pseudo + segment)) + segment[18:]
        key = (remote, self._port)
        self._tickets[key] = (ticket, number, len(body))
        ticket.sent_at = time.monotonic()
        try:
            put(self._socket, segment, address, ticket.ttl, self.read_errors)
        except OSError:
            self._tickets.pop(key, None)
            raise

    def _sort(self, datagram: _probe_socket.Datagram) -> None:
        data = datagram.data
        if self.family == socket.AF_INET:
            packet = _icmp.parse_packet(data)
            if packet is None:
                return
            data = packet.body
        if len(data) < TCP_HEADER:
            return
        fields = _TCP.unpack_from(data)
        sender = datagram.sender.partition("%")[0]
        key = (sender, fields[1])
        found = self._tickets.get(key)
        if not found or not fields[5] & ACK or not fields[5] & (SYN | RST):
            return
        ticket, number, length = found
        # A listener acknowledges the SYN and leaves its data; a closed port acknowledges both.
        if (fields[3] - number - 1) & 0xFFFFFFFF in (0, length):
            del self._tickets[key]
            ticket.on_answer(ticket, datagram.at, sender)

    def read_errors(self) -> None:
        """Errors about our segments; what is quoted starts with the TCP header."""
        for error in _probe_socket.queued_errors(self._socket, _BATCH):
            if len(error.payload) < 8:
                continue
            port, _remote_port, number = struct.unpack_from("!HHI", error.payload)
            for (remote, own_port), found in list(self._tickets.items()) if port >= FIRST_PORT else []:
                if own_port == port and found[1] == number and remote:
                    found[0].on_trouble(found[0], trouble(self.family, error))


class DatagramChannel:
    """Datagrams to one closed port of one target: the port unreachable that comes back proves the arrival."""

    def __init__(self, source: Source, loop: Loop, family: int, address: str | None) -> None:
        self.family, self._loop, self._address = family, loop, address
        self._socket = source.open(family, socket.SOCK_DGRAM)
        self._latest: Ticket | None = None
        self._tickets: dict[bytes, Ticket] = {}
        self.answered_service = False
        try:
            probing(self._socket)
            _probe_socket.error_queue(self._socket)
            if address:
                self._socket.bind(_probe_socket.socket_address(family, address, 0))
        except OSError:
            self._socket.close()
            raise
        loop.watch(self._socket, READ, self.drain)

    def connect(self, address: tuple[t.Any, ...]) -> None:
        """@raises OSError: no route."""
        self._socket.connect(address)

    def send(self, text: bytes, ticket: Ticket) -> None:
        """Send a datagram of C(ticket.size) bytes, as an IP packet.

        @raises OSError: the kernel did not take it.
        """
        self._tickets[text] = self._latest = ticket
        ticket.sent_at = time.monotonic()
        data = padded(text + b" ", ticket.size - IP_HEADER[self.family] - UDP_HEADER)
        put(self._socket, data, None, ticket.ttl, self.read_errors)

    def drain(self) -> None:
        """Read errors, which are the answers here, and throw away what a service says."""
        self.read_errors()
        for _turn in range(_BATCH):
            try:
                datagram = _probe_socket.receive(self._socket)
            except BlockingIOError:
                return
            except OSError:
                self.read_errors()
                continue
            self.answered_service = bool(datagram.data) or self.answered_service

    def read_errors(self) -> None:
        for error in _probe_socket.queued_errors(self._socket, _BATCH):
            # Many hosts quote no more than the UDP header: then it is about the newest datagram.
            text = error.payload.rstrip(b"\0").rstrip(b" ")
            ticket = self._tickets.get(text) or self._latest
            if ticket is None:
                continue
            if error.icmp and (error.type, error.code) == _icmp.PORT_UNREACHABLE[self.family]:
                ticket.on_answer(ticket, time.monotonic(), error.sender or "")
            else:
                ticket.on_trouble(ticket, trouble(self.family, error))

    def close(self) -> None:
        self._loop.forget(self._socket)
        self._socket.close()


def padded(text: bytes, length: int) -> bytes:
    """The mark, filled up or cut to a length."""
    return text[: max(0, length)].ljust(max(0, length), b"\0")


def answers_only(family: int) -> bytes:
    """A socket filter (classic BPF) that lets SYN and RST to our ports in: raw sockets get a copy of all TCP.

    Raw IPv4 sockets see the IP header, IPv6 ones do not.
    """
    four = family == socket.AF_INET
    port = (0x48, 0, 0, 2) if four else (0x28, 0, 0, 2)  # ldh [x + 2] or ldh [2]
    flags = (0x50, 0, 0, 13) if four else (0x30, 0, 0, 13)  # ldb
    program = [(0xB1, 0, 0, 0)] if four else []  # ldxb 4*([0]&0xf)
    program += [
        port,
        (0x35, 0, 3, FIRST_PORT),  # jge
        flags,
        (0x45, 0, 1, SYN | RST),  # jset
        (0x06, 0, 0, 0x40000),
        (0x06, 0, 0, 0),
    ]
    code = b"".join(struct.pack("=HBBI", *line) for line in program)
    _KEPT[family] = ctypes.create_string_buffer(code, len(code))
    return struct.pack("@HP", len(program), ctypes.addressof(_KEPT[family]))


_KEPT: dict[int, t.Any] = {}  # programs that a pointer leads to must stay where they are

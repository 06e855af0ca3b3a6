# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the kernel tells about a socket beyond its data: arrival times, TTLs, queued ICMP errors, TCP's own counts.

Numbers are Linux's (include/uapi/asm-generic/socket.h, linux/in.h, linux/in6.h, linux/tcp.h); Python's socket module
names only some of them, and not in every version.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

IP_RECVTTL, IP_TTL, IP_RECVERR = 12, 2, 11
IPV6_RECVERR, IPV6_RECVPKTINFO, IPV6_PKTINFO, IPV6_RECVHOPLIMIT, IPV6_HOPLIMIT = 25, 49, 50, 51, 52
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, IPV6_DONTFRAG, PMTUDISC_PROBE = 10, 23, 62, 3
SO_TIMESTAMPNS = 35
MSG_ERRQUEUE = 0x2000
ORIGIN_ICMP: dict[int, int] = {socket.AF_INET: 2, socket.AF_INET6: 3}

MAX_DATAGRAM = 65535
_MAX_AGE = 5.0  # seconds a datagram can have waited in a queue; beyond it the clock was set
_EXTENDED_ERROR = struct.Struct("=IBBBBII")
_TIMESPEC = struct.Struct("@ll")

# What the network, a route or the local packet filter answers instead of carrying the packet. EINVAL is what a
# blackhole route gives, EACCES a prohibiting one (or a broadcast address), EPERM a rule in the OUTPUT hook.
UNREACHABLE = frozenset(
    {
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EPERM,
        errno.EACCES,
        errno.EINVAL,
        errno.ENOPROTOOPT,  # protocol unreachable
        errno.EPROTO,
        errno.EOPNOTSUPP,
    }
)
REFUSED = frozenset({errno.ECONNREFUSED})
NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
TRY_AGAIN = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN})

_MEANING = {
    errno.EPERM: "the local packet filter refused to let the packet out (a rule in an output hook)",
    errno.EINVAL: "the route to it is a blackhole",
    errno.EACCES: "a route prohibits it, or it is a broadcast address",
    errno.ENETUNREACH: "no route to it",
    errno.EHOSTUNREACH: "no answer to ARP or neighbour discovery, or an unreachable route",
    errno.EADDRNOTAVAIL: "the namespace has no such source address, none that fits, or no free port",
    errno.EMSGSIZE: "the interface or a tunnel on it does not take a packet of this size",
    errno.ENOBUFS: "the sending queue stayed full",
}


@dataclass(frozen=True)
class Datagram:
    """A received datagram; C(at) is the kernel's arrival time on the monotonic clock."""

    data: bytes
    sender: str
    at: float
    ttl: int | None
    local: str | None = None


@dataclass(frozen=True)
class QueuedError:
    """One entry of a socket's error queue; C(payload) is the start of what we had sent, C(info) the MTU if too big."""

    number: int
    icmp: bool
    type: int
    code: int
    sender: str | None
    payload: bytes
    info: int = 0


@dataclass(frozen=True)
class TcpInfo:
    """From C(struct tcp_info): SYN retransmissions so far, the handshake's round trip in seconds, the send MSS."""

    retransmits: int
    rtt: float
    mss: int


def errno_name(number: int | None) -> str | None:
    """V(ECONNREFUSED) for 111."""
    return None if number is None else errno.errorcode.get(number, str(number))


def meaning(number: int) -> str:
    """What an errno of a send or connect says, in words."""
    return _MEANING.get(number, os.strerror(number).lower())


def error_queue(sock: socket.socket) -> None:
    """Let ICMP errors be queued with their sender instead of showing as a bare errno (ip(7), IP_RECVERR)."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)


@contextlib.contextmanager
def whole(sock: socket.socket) -> Iterator[None]:
    """What the body sends is not fragmented, and the path MTU the kernel has cached does not matter (ip(7), ipv6(7)).

    What is larger than the interface takes is refused with EMSGSIZE.
    """
    level, option = (socket.IPPROTO_IP, IP_MTU_DISCOVER)
    if sock.family == socket.AF_INET6:
        level, option = socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER
    before = sock.getsockopt(level, option)
    sock.setsockopt(level, option, PMTUDISC_PROBE)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(level, IPV6_DONTFRAG, 1)
    try:
        yield
    finally:
        sock.setsockopt(level, option, before)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(level, IPV6_DONTFRAG, 0)


def arrival_details(sock: socket.socket) -> None:
    """Ask for arrival times, TTLs and, for IPv6, the address a datagram came to; a kernel may decline."""
    options = [(socket.SOL_SOCKET, SO_TIMESTAMPNS)]
    if sock.family == socket.AF_INET6:
        options += [(socket.IPPROTO_IPV6, IPV6_RECVHOPLIMIT), (socket.IPPROTO_IPV6, IPV6_RECVPKTINFO)]
    else:
        options += [(socket.IPPROTO_IP, IP_RECVTTL)]
    for level, option in options:
        with contextlib.suppress(OSError):
            sock.setsockopt(level, option, 1)


def receive(sock: socket.socket) -> Datagram:
    """The next datagram.

    @raises OSError: nothing is there (BlockingIOError), or the error pending on the socket.
    """
    data, ancillary, _flags, sender = sock.recvmsg(MAX_DATAGRAM, 512)
    at, ttl, local = time.monotonic(), None, None
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(value) == _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack(value)
            age = time.time() - (seconds + nanoseconds / 1e9)
            at -= age if 0 <= age <= _MAX_AGE else 0
        elif (level, kind) in ((socket.IPPROTO_IP, IP_TTL), (socket.IPPROTO_IPV6, IPV6_HOPLIMIT)):
            ttl = int.from_bytes(value[:4], sys.byteorder)
        elif (level, kind) == (socket.IPPROTO_IPV6, IPV6_PKTINFO) and len(value) >= 16:
            local = socket.inet_ntop(socket.AF_INET6, value[:16])
    return Datagram(data, sender[0] if sender else "", at, ttl, local)


def queued_errors(sock: socket.socket, limit: int = 32) -> list[QueuedError]:
    """Drain the error queue. Reading it also clears the errno the next send would have failed with."""
    found: list[QueuedError] = []
    while len(found) < limit:
        try:
            payload, ancillary, _flags, _destination = sock.recvmsg(2048, 512, MSG_ERRQUEUE)
        except OSError:
            break
        wanted = ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR))
        for level, kind, value in ancillary:
            if (level, kind) in wanted and len(value) >= _EXTENDED_ERROR.size:
                found.append(_extended_error(sock.family, value, payload))
    return found


def _extended_error(family: int, value: bytes, payload: bytes) -> QueuedError:
    """C(struct sock_extended_err), followed by the offender's address (SO_EE_OFFENDER)."""
    number, origin, kind, code, _pad, info, _data = _EXTENDED_ERROR.unpack_from(value)
    offender = value[_EXTENDED_ERROR.size :]
    sender = None
    if len(offender) >= 2:
        offender_family = int.from_bytes(offender[:2], sys.byteorder)
        if offender_family == socket.AF_INET and len(offender) >= 8:
            sender = socket.inet_ntop(socket.AF_INET, offender[4:8])
        elif offender_family == socket.AF_INET6 and len(offender) >= 24:
            sender = socket.inet_ntop(socket.AF_INET6, offender[8:24])
    return QueuedError(number, origin == ORIGIN_ICMP[family], kind, code, sender, payload, info)


def tcp_info(sock: socket.socket) -> TcpInfo | None:
    """TCP's own view of the connection; None where the kernel does not give it."""
    try:
        raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    except OSError:
        return None
    if len(raw) < 104:
        return None
    # Eight single bytes, then 32-bit counters: tcpi_snd_mss is the third, tcpi_rtt the 16th,
    # tcpi_total_retrans the 24th.
    words = struct.unpack_from("=24I", raw, 8)
    return TcpInfo(words[23], words[15] / 1e6, words[2])


def socket_address(family: int, address: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """What connect(2) takes for an address literal; a zone (C(fe80::1%eth0)) is looked up in the current namespace.

    @raises OSError: the zone names no interface.
    """
    if family == socket.AF_INET:
        return address, port
    host, _percent, zone = address.partition("%")
    index = 0
    if zone:
        index = int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
    return host, port, 0, index

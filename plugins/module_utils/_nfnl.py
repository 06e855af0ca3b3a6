# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nfnetlink dumps as raw bytes: one socket, one request, the messages' attributes.

Only what a reader needs (include/uapi/linux/netlink.h, nfnetlink.h). Python objects are made for what the caller asks
for and nothing else: a set of 50,000 elements is one pass over a few hundred buffers.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
import typing as t

NETLINK_NETFILTER = 12
SUBSYS_NFTABLES = 10

_NLM_F_REQUEST = 0x1
_NLM_F_DUMP = 0x300
_NLM_F_DUMP_INTR = 0x10
_NLMSG_NOOP = 1
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLMSG_OVERRUN = 4
_NLA_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
# Above the 32 KiB skb the kernel uses at most for a dump (af_netlink.c, netlink_dump).
_BUFFER = 1 << 18

_HEADER = struct.Struct("=IHHII")
_ATTR = struct.Struct("=HH")
_CODE = struct.Struct("=i")


class NetlinkError(OSError):
    """The kernel refused the request (errno), or did not answer in time (ETIMEDOUT)."""


class UnsupportedError(NetlinkError):
    """The kernel has no nf_tables."""


class DumpInterruptedError(NetlinkError):
    """The ruleset changed while it was dumped (NLM_F_DUMP_INTR): what was read may be inconsistent."""


class DecodeError(ValueError):
    """Bytes that are not what the kernel's format says. The only exception decoders of this family raise."""


def _interrupted() -> DumpInterruptedError:
    return DumpInterruptedError(11, "the ruleset changed while it was read")


def attributes(data: bytes) -> dict[int, bytes]:
    """Attributes of one level, by type; of a type that repeats, the last."""
    return dict(pairs(data))


def pairs(data: bytes) -> list[tuple[int, bytes]]:
    """Attributes of one level in order, for lists (NFTA_LIST_ELEM)."""
    found = []
    position, end = 0, len(data)
    unpack = _ATTR.unpack_from
    while position + 4 <= end:
        length, kind = unpack(data, position)
        if length < 4 or position + length > end:
            raise DecodeError(f"attribute of {length} bytes at {position} of {end}")
        found.append((kind & _NLA_TYPE_MASK, data[position + 4 : position + length]))
        position += (length + 3) & ~3
    return found


def attribute(kind: int, value: bytes) -> bytes:
    """One encoded attribute, padded."""
    return _ATTR.pack(len(value) + 4, kind) + value + b"\0" * (-len(value) % 4)


def text(value: bytes) -> str:
    """A NUL-terminated string; names are bytes to the kernel, so nothing is refused."""
    return value.split(b"\0", 1)[0].decode("utf-8", "replace")


class Connection:
    """A netfilter netlink socket of the network namespace the calling thread is in."""

    def __init__(self, deadline: float) -> None:
        """deadline: time.monotonic() after which every read fails with ETIMEDOUT."""
        self.deadline = deadline
        self._sequence = 0
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        except OSError as error:
            if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
                raise UnsupportedError(error.errno, str(error)) from error
            raise
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind((0, 0))

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def dump(self, message: int, family: int = 0, attrs: bytes = b"") -> t.Iterator[tuple[int, bytes]]:
        """(family, attribute bytes) of each object. After leaving early the connection is not to be used again."""
        return self._ask(message, family, attrs, _NLM_F_DUMP)

    def get(self, message: int, family: int = 0, attrs: bytes = b"") -> tuple[int, bytes]:
        """The one answer to a request that is no dump."""
        return next(self._ask(message, family, attrs, 0))

    def _ask(self, message: int, family: int, attrs: bytes, flags: int) -> t.Iterator[tuple[int, bytes]]:
        self._sequence += 1
        body = struct.pack("=BBH", family, 0, 0) + attrs
        kind = (SUBSYS_NFTABLES << 8) | message
        try:
            self._socket.send(_HEADER.pack(16 + len(body), kind, _NLM_F_REQUEST | flags, self._sequence, 0) + body)
            while True:
                self._socket.settimeout(max(0.001, self.deadline - time.monotonic()))
                for kind, header_flags, body in messages(self._socket.recv(_BUFFER), self._sequence):
                    if header_flags & _NLM_F_DUMP_INTR:
                        raise _interrupted()
                    if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                        check(body[:4])
                        return
                    yield body[0], body[4:]
        except socket.timeout as error:
            raise NetlinkError(110, "the kernel did not answer in time") from error


def messages(data: bytes, sequence: int) -> t.Iterator[tuple[int, int, bytes]]:
    """(type, flags, body) of the messages in one buffer that answer `sequence`."""
    position, end = 0, len(data)
    while position + 16 <= end:
        length, kind, flags, number, _port = _HEADER.unpack_from(data, position)
        if length < 16 or position + length > end:
            raise DecodeError(f"message of {length} bytes at {position} of {end}")
        if number == sequence and kind not in (_NLMSG_NOOP, _NLMSG_OVERRUN):
            if length < 20:
                raise DecodeError(f"message of {length} bytes is too short for its header")
            yield kind, flags, data[position + 16 : position + length]
        position += (length + 3) & ~3


def check(code: bytes) -> None:
    """Raise what a DONE or ERROR message says; zero is success."""
    error = -_CODE.unpack(code)[0] if len(code) == 4 else 0
    if error == 11 or error == 4:
        raise _interrupted()
    if error:
        raise NetlinkError(error, os.strerror(error))

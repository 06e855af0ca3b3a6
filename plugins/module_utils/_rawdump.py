# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Netlink dumps as raw messages, with the two things a reader of tables must not overlook.

A table that changes while it is dumped is marked NLM_F_DUMP_INTR, possibly on the closing message only, and an error
in the middle of a dump travels inside NLMSG_DONE. pyroute2 0.9 reports neither, and building its objects for 50,000
entries takes seconds: so the transport is here, pyroute2 decodes what is small, and the compact parsers what is large.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE = 1, 2, 3
NLM_F_REQUEST, NLM_F_DUMP, NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
NLA_TYPE_MASK = 0x3FFF
HEADER = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")
_TIMEVAL = struct.Struct("@ll")
TIMEOUT = 5.0
TRIES = 3
RECEIVE = 65536

Result = TypeVar("Result")
Message = "tuple[bytes, int, int]"


@dataclass
class Progress:
    """What the walk over one dump found out about the dump itself."""

    interrupted: bool = False
    done: bool = False


def walk(chunk: bytes, sequence: int, progress: Progress) -> Iterator[tuple[bytes, int, int]]:
    """The payload messages of one received datagram as (buffer, start, end); start is at the netlink header.

    @raises OSError: the kernel answered with an error, also when it did so in the middle of the dump.
    """
    offset, size = 0, len(chunk)
    while offset + HEADER.size <= size:
        length, kind, flags, number, _port = HEADER.unpack_from(chunk, offset)
        end = offset + length
        if length < HEADER.size or end > size:
            raise OSError(f"malformed netlink message: length {length} at {offset} of {size} bytes")
        if number == sequence:
            if flags & NLM_F_DUMP_INTR:
                progress.interrupted = True
            if kind > NLMSG_DONE:
                yield chunk, offset, end
            elif kind in (NLMSG_ERROR, NLMSG_DONE):
                code = _ERROR.unpack_from(chunk, offset + 16)[0] if length >= 20 else 0
                if code < 0:
                    raise OSError(-code, os.strerror(-code))
                progress.done = True
                return
        offset = (end + 3) & ~3


def attributes(buffer: bytes, offset: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(type, start of the value, end of the value) of each attribute; stops at one that is malformed."""
    while offset + 4 <= end:
        length, kind = ATTRIBUTE.unpack_from(buffer, offset)
        if length < 4 or offset + length > end:
            return
        yield kind & NLA_TYPE_MASK, offset + 4, offset + length
        offset = (offset + length + 3) & ~3


def _stream(protocol: int, kind: int, body: bytes, progress: Progress) -> Iterator[tuple[bytes, int, int]]:
    """Send one dump request in the current namespace and yield its messages."""
    sequence = 1
    request = HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as netlink:
        # SO_RCVTIMEO bounds a recv without the poll that settimeout() adds to each.
        timeval = _TIMEVAL.pack(int(TIMEOUT), 0)
        netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        netlink.bind((0, 0))
        netlink.send(request)
        while not progress.done:
            try:
                chunk = netlink.recv(RECEIVE)
            except BlockingIOError:
                raise TimeoutError(f"no answer to netlink request {kind} within {TIMEOUT:g} s") from None
            yield from walk(chunk, sequence, progress)


def dump(
    kind: int,
    body: bytes,
    consume: Callable[[Iterator[tuple[bytes, int, int]]], Result],
    protocol: int = socket.NETLINK_ROUTE,
) -> tuple[Result, bool]:
    """What C(consume) makes of the messages of a dump, and whether the dump is consistent.

    C(consume) is called anew for each attempt and must read to the end. A table that changed during each of three
    attempts is returned as it was last seen, with False.

    @raises OSError: the kernel refused, or did not answer in time.
    """
    for _attempt in range(TRIES):
        progress = Progress()
        result = consume(_stream(protocol, kind, body, progress))
        if not progress.interrupted:
            return result, True
    return result, False


def copies(messages: Iterator[tuple[bytes, int, int]]) -> list[bytes]:
    """The messages as separate bytes objects, for decoders that want to own them."""
    return [buffer[start:end] for buffer, start, end in messages]

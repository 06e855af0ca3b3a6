# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Netlink messages as the kernel lays them out, for tests of what reads them."""

from __future__ import annotations

import struct
from collections.abc import Iterator

NEWNEIGH = 28


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, body: bytes, flags: int = 2, sequence: int = 1) -> bytes:
    """One message, padded."""
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body + bytes(-len(body) % 4)


def neighbour(family: int, index: int, state: int, flags: int, *attributes: bytes) -> bytes:
    """One RTM_NEWNEIGH."""
    return message(NEWNEIGH, struct.pack("=B3xiHBB", family, index, state, flags, 0) + b"".join(attributes))


def spans(messages: list[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """The messages in one buffer, as a walk over a dump yields them."""
    buffer, offset = b"".join(messages), 0
    while offset < len(buffer):
        length = struct.unpack_from("=I", buffer, offset)[0]
        yield buffer, offset, offset + length
        offset += (length + 3) & ~3

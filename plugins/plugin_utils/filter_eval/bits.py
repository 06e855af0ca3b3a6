# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Partly known bytes and the comparisons nf_tables makes on them."""

from __future__ import annotations

import typing as t

Truth: t.TypeAlias = bool | None


class Bytes(t.NamedTuple):
    """Bytes in packet or register order; a bit is known where `known` has a one."""

    data: bytes
    known: bytes

    @property
    def certain(self) -> bool:
        return self.known.count(0xFF) == len(self.known)


def exactly(data: bytes) -> Bytes:
    return Bytes(data, b"\xff" * len(data))


def unknown(length: int) -> Bytes:
    return Bytes(bytes(length), bytes(length))


def number(value: int | None, length: int, order: t.Any = "big") -> Bytes:
    """An integer, or unknown bytes for None."""
    if value is None:
        return unknown(length)
    return exactly((value & ((1 << 8 * length) - 1)).to_bytes(length, order))


def bounds(value: Bytes) -> tuple[int, int]:
    """Smallest and largest integer the bytes can be (big endian, as memcmp compares)."""
    data, known = int.from_bytes(value.data, "big"), int.from_bytes(value.known, "big")
    return data & known, (data & known) | (~known & ((1 << 8 * len(value.data)) - 1))


def equal(value: Bytes, wanted: bytes) -> Truth:
    """Three-valued equality over the length of `wanted`."""
    size = len(wanted)
    data, known = value.data[:size], value.known[:size]
    if known.count(0xFF) == size:
        return data == wanted
    if len(data) < size:
        return None
    differs = int.from_bytes(data, "big") ^ int.from_bytes(wanted, "big")
    return False if differs & int.from_bytes(known, "big") else None


def within(value: Bytes, low: bytes, high: bytes) -> Truth:
    """Three-valued low <= value <= high."""
    least, most = bounds(Bytes(value.data[: len(low)], value.known[: len(low)]))
    first, last = int.from_bytes(low, "big"), int.from_bytes(high, "big")
    if most < first or least > last:
        return False
    return True if least >= first and most <= last else None


def compare(value: Bytes, operator: str, wanted: bytes) -> Truth:
    """nft_cmp: memcmp of the register with a constant."""
    if operator in ("eq", "neq"):
        return invert(equal(value, wanted), operator == "neq")
    size = len(wanted)
    least, most = bounds(Bytes(value.data[:size], value.known[:size]))
    limit = int.from_bytes(wanted, "big")
    if operator in ("lt", "gte"):
        below = True if most < limit else False if least >= limit else None
        return invert(below, operator == "gte")
    if operator in ("gt", "lte"):
        above = True if least > limit else False if most <= limit else None
        return invert(above, operator == "lte")
    return None


def invert(truth: Truth, do: t.Any = True) -> Truth:
    return truth if truth is None or not do else not truth


def both(first: Truth, second: Truth) -> Truth:
    if first is False or second is False:
        return False
    return True if first and second else None


def either(first: Truth, second: Truth) -> Truth:
    return invert(both(invert(first), invert(second)))


def merge(old: Bytes, new: Bytes) -> Bytes:
    """What is known when either may be the value."""
    known = bytes(a & b & ~(x ^ y) & 0xFF for a, b, x, y in zip(old.known, new.known, old.data, new.data))
    return Bytes(old.data, known)


def splice(value: Bytes, offset: int, part: Bytes) -> Bytes:
    """`value` with `part` written at `offset`."""
    end = offset + len(part.data)
    return Bytes(
        value.data[:offset] + part.data + value.data[end:], value.known[:offset] + part.known + value.known[end:]
    )


def masked(value: Bytes, mask: bytes, xor: bytes) -> Bytes:
    """(value & mask) ^ xor; a bit the mask clears is known to be what xor says."""
    data = bytes((v & m) ^ x for v, m, x in zip(value.data, mask, xor))
    known = bytes(k | (~m & 0xFF) for k, m in zip(value.known, mask))
    return Bytes(data, known)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookups in nf_tables sets and maps with partly known keys."""

from __future__ import annotations

import bisect
import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.bits import (
    Bytes,
    Truth,
    both,
    equal,
    within,
)

Item = t.Mapping[str, t.Any]
_PASSIVE = {"counter", "last"}


class Found(t.NamedTuple):
    """What a lookup says: whether the key is in the set, and which elements it can be (with what they hold)."""

    hit: Truth
    items: list[Item]


class _Entry(t.NamedTuple):
    low: bytes
    high: bytes
    item: Item
    steady: bool  # in the set for sure, whenever the packet comes


class Elements:
    """One set, indexed."""

    def __init__(self, facts: t.Mapping[str, t.Any], filled: bool) -> None:
        """filled: rules of the packet path add to the set."""
        flags = facts.get("flags") or ()
        self.key_len: int = facts.get("key_len") or 0
        self.data_len: int = facts.get("data_len") or 4
        self.fields = _fields(facts.get("field_lens") or (), self.key_len)
        # A key that was not there when the set was read may be there when the packet comes.
        self.open = bool(facts.get("truncated")) or filled
        self.catchall: Item | None = None
        self._exact: dict[bytes, _Entry] = {}
        self._ranges: list[_Entry] = []
        for element in facts.get("elements") or ():
            self._add(element)
        self._sorted = "interval" in flags and len(self.fields) == 1
        if self._sorted:
            self._ranges = sorted([*self._ranges, *self._exact.values()], key=lambda entry: entry.low)
            self._lows = [entry.low for entry in self._ranges]

    def _add(self, element: t.Any) -> None:
        item: Item = {"key": element} if isinstance(element, str) else element
        if item["key"] == "*":
            self.catchall = item
            return
        first, _dash, last = item["key"].partition("-")
        steady = "expires" not in item and all(expr["name"] in _PASSIVE for expr in item.get("exprs") or ())
        entry = _Entry(bytes.fromhex(first), bytes.fromhex(last or first), item, steady)
        if last:
            self._ranges.append(entry)
        else:
            self._exact[entry.low] = entry

    def look_up(self, key: Bytes) -> Found:
        """Three-valued membership; `items` has every element the key can be."""
        if key.certain:
            entry = self._find(key.data)
            if entry is not None:
                return Found(True, [entry.item]) if entry.steady else self._missed(None, [entry.item])
            return self._missed(None if self.open else False, [])
        possible = [entry.item for entry in self._all() if self._matches(key, entry) is not False]
        if possible or self.open:
            return self._missed(None, possible)
        return self._missed(False, [])

    def _missed(self, hit: Truth, items: list[Item]) -> Found:
        """The catch-all element takes what no other does."""
        if self.catchall is None:
            return Found(hit, items)
        return Found(True, [*items, self.catchall])

    def _all(self) -> t.Iterator[_Entry]:
        yield from self._ranges
        if not self._sorted:
            yield from self._exact.values()

    def _find(self, key: bytes) -> _Entry | None:
        if self._sorted:
            place = bisect.bisect_right(self._lows, key) - 1
            if place >= 0 and self._ranges[place].high >= key:
                return self._ranges[place]
            return None
        exact = self._exact.get(key)
        if exact is not None:
            return exact
        whole = Bytes(key, b"\xff" * len(key))
        return next((entry for entry in self._ranges if self._matches(whole, entry)), None)

    def _matches(self, key: Bytes, entry: _Entry) -> Truth:
        result: Truth = True
        for start, end in self.fields:
            part = Bytes(key.data[start:end], key.known[start:end])
            low, high = entry.low[start:end], entry.high[start:end]
            result = both(result, equal(part, low) if low == high else within(part, low, high))
            if result is False:
                return False
        return result


def _fields(lengths: t.Iterable[int], key_len: int) -> list[tuple[int, int]]:
    """Where the fields of a concatenation are: each begins on a four-byte register."""
    found, start = [], 0
    for length in lengths:
        found.append((start, start + length))
        start += (length + 3) // 4 * 4
    return found or [(0, key_len)]

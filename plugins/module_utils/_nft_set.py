# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nf_tables sets and maps with their elements.

Elements are strings as far as possible, since a blocklist has tens of thousands: "0a000001" is one key,
"0a000000-0a0000ff" the keys between both ends, ends included. Anything more (map data, verdict, expiry, comment,
statements) is a dictionary {"key": as before or "*" for the catch-all, "data"|"verdict"|"object": …}.
"""

from __future__ import annotations

import errno
import struct
import typing as t

from ansible_collections.crosshost.doctor.plugins.module_utils import _nfnl, _nft_expr
from ansible_collections.crosshost.doctor.plugins.module_utils._nfnl import (
    DecodeError,
    attribute,
    attributes,
    pairs,
    text,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._nft_expr import be32, be64

Element = t.Union[str, dict[str, t.Any]]
Raw = tuple[bytes, dict[int, bytes]]

GETSET = 10
GETSETELEM = 13
_FLAGS = {
    0x1: "anonymous",
    0x2: "constant",
    0x4: "interval",
    0x8: "map",
    0x10: "timeout",
    0x20: "dynamic",
    0x40: "object",
    0x80: "concat",
    0x100: "expr",
}
_VERDICT_TYPE = 0xFFFFFF00
_END = 0x1
_CATCHALL = 0x2
_KEY, _DATA, _ELEM_FLAGS, _TIMEOUT, _EXPIRATION, _USERDATA, _EXPR, _OBJREF, _KEY_END, _EXPRESSIONS = (
    1, 2, 3, 4, 5, 6, 7, 9, 10, 11
)  # fmt: skip

_LENGTH = struct.Struct("=H").unpack_from
_PLAIN_KEY = (struct.pack("=H", _KEY), struct.pack("=H", _KEY | 0x8000))  # with or without NLA_F_NESTED
_PLAIN_DATA = struct.pack("=H", 1)


def decode_set(body: bytes, family: str) -> dict[str, t.Any]:
    """The description of a set (NFTA_SET_*) with no elements yet."""
    attrs = attributes(body)
    flags = be32(attrs.get(3, b""))
    fields: list[int] = []
    for item_kind, item in pairs(attributes(attrs.get(9, b"")).get(2, b"")):
        if item_kind == 1:
            fields.append(be32(attributes(item).get(1, b"")))
    kind = None
    if flags & 0x8:
        kind = "verdict" if be32(attrs.get(6, b"")) == _VERDICT_TYPE else "data"
    if flags & 0x40:
        kind = "object"
    return {
        "family": family,
        "table": text(attrs.get(1, b"")),
        "name": text(attrs.get(2, b"")),
        "flags": [name for bit, name in _FLAGS.items() if flags & bit],
        "key_type": be32(attrs.get(4, b"")),
        "key_len": be32(attrs.get(5, b"")),
        "field_lens": fields,
        "map": kind,
        "data_len": be32(attrs[7]) if 7 in attrs else None,
        "truncated": False,
        "elements": [],
    }


def decode_elements(body: bytes, seen: dict[bytes, dict[int, bytes]] | None = None) -> list[Raw]:
    """(key, other attributes) of the elements in one message (NFTA_SET_ELEM_LIST_ELEMENTS).

    Elements of a set differ in their key only, or at most in a flag: what surrounds the key is remembered in `seen`,
    which makes 50,000 elements a matter of 50 ms.
    """
    block = attributes(body).get(3, b"")
    seen = {} if seen is None else seen
    found: list[Raw] = []
    position, end = 0, len(block)
    while position + 4 <= end:
        length = _LENGTH(block, position)[0]
        if length < 4 or position + length > end:
            raise DecodeError(f"element of {length} bytes at {position} of {end}")
        item = block[position : position + length]
        position += (length + 3) & ~3
        # <element <key <data …>> …>: three attribute headers, the key, the rest.
        after = 12 + ((_LENGTH(item, 8)[0] - 1) & ~3) if length >= 12 else 0
        around = item[:12] + item[after:]
        attrs = seen.get(around)
        if attrs is not None:
            found.append((item[12 : 8 + _LENGTH(item, 8)[0]], attrs))
            continue
        attrs = attributes(item[4:])
        plain = item[6:8] in _PLAIN_KEY and item[10:12] == _PLAIN_DATA
        key = attributes(attrs.pop(_KEY)).get(1, b"") if _KEY in attrs else b""
        if plain and len(around) <= 20 and key and key == item[12 : 8 + _LENGTH(item, 8)[0]]:
            seen[around] = attrs
        found.append((key, attrs))
    return found


def _value(key: str, attrs: dict[int, bytes], family: str) -> Element:
    """The element in its shortest form."""
    found: dict[str, t.Any] = {}
    if _DATA in attrs:
        found.update(_nft_expr.data(attrs[_DATA]))
    if _OBJREF in attrs:
        found["object"] = text(attrs[_OBJREF])
    if _TIMEOUT in attrs:
        found["timeout"] = be64(attrs[_TIMEOUT]) / 1000
    if _EXPIRATION in attrs:
        found["expires"] = be64(attrs[_EXPIRATION]) / 1000
    if _USERDATA in attrs:
        comment = comment_of(attrs[_USERDATA], 0)
        if comment:
            found["comment"] = comment
    if _EXPRESSIONS in attrs:
        found["exprs"] = _nft_expr.decode_list(attrs[_EXPRESSIONS], family)
    elif _EXPR in attrs:
        found["exprs"] = [_nft_expr.decode(attrs[_EXPR], family)]
    return {"key": key, **found} if found else key


def comment_of(userdata: bytes, kind: int) -> str | None:
    """Comment in nft's userdata (libnftnl TLV: one byte type, one byte length). Foreign userdata is no error."""
    position = 0
    while position + 2 <= len(userdata):
        tag, length = userdata[position], userdata[position + 1]
        if tag == kind and position + 2 + length <= len(userdata):
            return text(userdata[position + 2 : position + 2 + length])
        position += 2 + length
    return None


def assemble(raw: list[Raw], interval: bool, concat: bool, family: str) -> list[Element]:
    """Elements as the kernel lists them to the elements of FILTER: pairs of start and end become ranges."""
    catchall = [attrs for key, attrs in raw if not key and be32(attrs.get(_ELEM_FLAGS, b"")) & _CATCHALL]
    found: list[Element] = []
    if interval and not concat:
        found = _intervals([item for item in raw if item[0]], family)
    else:
        for key, attrs in raw:
            if not key:
                continue
            name = key.hex()
            if attrs:
                if _KEY_END in attrs:
                    last = attributes(attrs[_KEY_END]).get(1, b"").hex()
                    name = name if last == name else f"{name}-{last}"
                found.append(_value(name, attrs, family))
            else:
                found.append(name)
    for attrs in catchall:
        value = _value("*", attrs, family)
        found.append(value if isinstance(value, dict) else {"key": "*"})
    return found


def _intervals(raw: list[Raw], family: str) -> list[Element]:
    """Half-open intervals (an element at its start, one flagged END after its last key) to inclusive ranges."""
    edges = sorted(
        ((key, not be32(attrs.get(_ELEM_FLAGS, b"")) & _END, attrs) for key, attrs in raw), key=lambda edge: edge[:2]
    )
    found: list[Element] = []
    opened: tuple[bytes, dict[int, bytes]] | None = None

    def close(last: bytes) -> None:
        if opened is None:
            return
        first = opened[0].hex()
        name = first if last == opened[0] else f"{first}-{last.hex()}"
        found.append(_value(name, opened[1], family) if opened[1] else name)

    for key, is_start, attrs in edges:
        if key.strip(b"\0"):
            close((int.from_bytes(key, "big") - 1).to_bytes(len(key), "big"))
        opened = (key, attrs) if is_start else None
    if opened is not None:
        close(b"\xff" * len(opened[0]))
    return found


def read_elements(
    connection: _nfnl.Connection, number: int, description: dict[str, t.Any], limit: int
) -> tuple[list[Element], bool]:
    """(elements, complete). Reading stops above `limit`: then the connection cannot be used any more."""
    request = attribute(1, description["table"].encode() + b"\0") + attribute(2, description["name"].encode() + b"\0")
    family, flags = description["family"], description["flags"]
    raw: list[Raw] = []
    complete = True
    seen: dict[bytes, dict[int, bytes]] = {}
    try:
        for _family, body in connection.dump(GETSETELEM, number, request):
            raw.extend(decode_elements(body, seen))
            if len(raw) > limit:
                complete = False
                break
    except _nfnl.NetlinkError as error:
        if error.errno == errno.ENOENT:  # deleted since the sets were listed
            raise _nfnl.DumpInterruptedError(errno.EINTR, "the ruleset changed while it was read") from error
        raise
    interval = "interval" in flags
    # A half-read interval set has starts without ends: what was read would be wrong, not just short.
    if not complete and interval and "concat" not in flags:
        return [], False
    return assemble(raw[:limit], interval, "concat" in flags, family), complete

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long a node's certificate is valid. Only the certificate is opened; the key beside it never is.

Two times out of a few hundred bytes of DER need no program and no library: RFC 5280, 4.1.
"""

from __future__ import annotations

import binascii
import calendar
import re
from collections.abc import Iterator
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_text

SEQUENCE, VERSION, UTC_TIME, GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


def read_certificate(path: str) -> dict[str, Any] | None:
    """C(not_before), C(not_after) in seconds since the epoch, and C(path), of the first certificate in a file."""
    dates = validity(read_text(path, 65536) or "")
    return None if dates is None else {"not_before": dates[0], "not_after": dates[1], "path": path}


def validity(text: str) -> tuple[int, int] | None:
    """The two dates of the first certificate in a PEM text, None where there is none to be read."""
    match = _PEM.search(text)
    if not match:
        return None
    try:
        der = binascii.a2b_base64("".join(match.group(1).split()))
        certificate = _first(der, 0, len(der), SEQUENCE)
        signed = _first(der, *certificate, SEQUENCE)
        fields = [span for tag, *span in _elements(der, *signed) if tag != VERSION]
        # serial number, signature, issuer, validity
        times = [_time(tag, der[start:end]) for tag, start, end in _elements(der, *fields[3])]
        return times[0], times[1]
    except (ValueError, IndexError):
        return None


def _elements(der: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(tag, start of the value, end of the value) of each element; raises ValueError at one that does not fit."""
    while start < end:
        tag, length, start = der[start], der[start + 1], start + 2
        if length & 0x80:
            size = length & 0x7F
            if not 0 < size <= 4 or start + size > end:
                raise ValueError("length of an element")
            length, start = int.from_bytes(der[start : start + size], "big"), start + size
        if start + length > end:
            raise ValueError("an element is longer than what it is in")
        yield tag, start, start + length
        start += length


def _first(der: bytes, start: int, end: int, wanted: int) -> tuple[int, int]:
    for tag, first, last in _elements(der, start, end):
        if tag == wanted:
            return first, last
        break
    raise ValueError("not the structure of a certificate")


def _time(tag: int, value: bytes) -> int:
    """Seconds since the epoch of C(YYMMDDHHMMSSZ) or C(YYYYMMDDHHMMSSZ)."""
    text = value.decode("ascii")
    size = {UTC_TIME: 2, GENERALIZED_TIME: 4}.get(tag, 0)
    match = re.fullmatch(rf"(\d{{{size}}})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z", text, re.ASCII) if size else None
    if not match:
        raise ValueError("not a time")
    year, month, day, hour, minute, second = map(int, match.groups())
    if size == 2:
        year += 1900 if year >= 50 else 2000
    if not 1 <= month <= 12 or year < 1:
        raise ValueError("not a month")
    return calendar.timegm((year, month, day, hour, minute, second))

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Connection tracking entries of given addresses, of any protocol: the tuples of flows that fail.

Layouts: CTA_* of linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils import _conntrack as ct
from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_int
from ansible_collections.crosshost.doctor.plugins.module_utils._rawdump import attributes, dump

LIMIT = 2000
SECONDS = 2.0
ICMP_ID, ICMP_TYPE, ICMP_CODE = (4, 7), (5, 8), (6, 9)  # of ICMP and of ICMPv6
NAMES = {1: "icmp", 6: "tcp", 17: "udp", 50: "esp", 58: "icmpv6", 132: "sctp"}
_U16, _U32 = struct.Struct("!H"), struct.Struct("!I")


def read_flows(addresses: Iterable[str]) -> list[dict[str, Any]]:
    """Entries of the namespace the calling thread is in that have one of the addresses at an end; at most L(LIMIT).

    @raises OSError: the kernel refused.
    @raises ValueError: an address is none.
    """
    wanted = [ipaddress.ip_address(address.split("%", maxsplit=1)[0]) for address in addresses]
    if not wanted or not read_int(ct.COUNT) or not ct.askable():
        return []
    rows: list[dict[str, Any]] = []
    deadline = time.monotonic() + SECONDS
    for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
        packed = [address.packed for address in wanted if address.version == version]
        if packed:
            # The table may change while it is read: what is consistent does not matter to a sample.
            rows += dump(ct.GET, ct.request(family, False), _consumer(packed, deadline), ct.NETLINK_NETFILTER)[0]
    return rows[:LIMIT]


def _consumer(packed: list[bytes], deadline: float) -> Any:
    def consume(messages: Iterator[tuple[bytes, int, int]]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for number, (buffer, start, end) in enumerate(messages):
            if any(buffer.find(address, start, end) >= 0 for address in packed) and len(rows) < LIMIT:
                row = flow(buffer, start, end)
                if row is not None and _has(row, packed):
                    rows.append(row)
            if number & 255 == 255 and time.monotonic() > deadline:
                break
        return rows

    return consume


def _has(row: dict[str, Any], packed: list[bytes]) -> bool:
    ends = (row["src"], row["dst"], row["reply_src"], row["reply_dst"])
    return any(ipaddress.ip_address(end).packed in packed for end in ends)


def flow(buffer: bytes, start: int, end: int) -> dict[str, Any] | None:
    """One entry: protocol, both tuples, status and timeout in seconds; None for one that has no two tuples."""
    row: dict[str, Any] = {"protocol": None, "status": [], "timeout": None}
    for kind, first, last in attributes(buffer, start + ct.BODY, end):
        if kind in (ct.TUPLE_ORIG, ct.TUPLE_REPLY):
            found = _tuple(buffer, first, last)
            row["protocol"] = found.pop("protocol") or row["protocol"]
            row.update(found if kind == ct.TUPLE_ORIG else {f"reply_{name}": value for name, value in found.items()})
        elif kind == ct.STATUS and last - first == 4:
            status = _U32.unpack_from(buffer, first)[0]
            row["status"] = [name for bit, name in enumerate(ct.STATUSES) if status >> bit & 1]
        elif kind == ct.TIMEOUT and last - first == 4:
            row["timeout"] = _U32.unpack_from(buffer, first)[0]
    return row if row.get("src") and row.get("dst") and row.get("reply_src") and row.get("reply_dst") else None


def _tuple(buffer: bytes, start: int, end: int) -> dict[str, Any]:
    found: dict[str, Any] = {"protocol": None, "src": None, "dst": None, "sport": None, "dport": None, "icmp": None}
    for kind, first, last in attributes(buffer, start, end):
        for inner, low, high in attributes(buffer, first, last):
            size = high - low
            if kind == ct.TUPLE_IP and size in (4, 16) and inner in ct.SOURCES + ct.DESTINATIONS:
                found["src" if inner in ct.SOURCES else "dst"] = str(ipaddress.ip_address(buffer[low:high]))
            elif kind == ct.TUPLE_PROTO and inner == ct.PROTO_NUM and size:
                found["protocol"] = NAMES.get(buffer[low], str(buffer[low]))
            elif kind == ct.TUPLE_PROTO and inner in (ct.PROTO_SPORT, ct.PROTO_DPORT) and size == 2:
                found["sport" if inner == ct.PROTO_SPORT else "dport"] = _U16.unpack_from(buffer, low)[0]
            elif kind == ct.TUPLE_PROTO and inner in ICMP_ID and size == 2:
                found["icmp"] = {**(found["icmp"] or {}), "id": _U16.unpack_from(buffer, low)[0]}
            elif kind == ct.TUPLE_PROTO and inner in ICMP_TYPE + ICMP_CODE and size:
                name = "type" if inner in ICMP_TYPE else "code"
                found["icmp"] = {**(found["icmp"] or {}), name: buffer[low]}
    return found

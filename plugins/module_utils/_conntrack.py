# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The few connection tracking entries that tell about tunnels and translated UDP, out of a table of any size.

The kernel is asked for UDP only (since 5.8 it filters, before it sends all); of the entries that are at their usual
place in a message, the ordinary ones are passed over without looking further. Layouts: CTA_* of
linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_int
from ansible_collections.crosshost.doctor.plugins.module_utils._kernel_modules import read_modules
from ansible_collections.crosshost.doctor.plugins.module_utils._rawdump import ATTRIBUTE, attributes, dump

LIMIT = 500
SECONDS = 1.5  # for one namespace's table
NETLINK_NETFILTER = 12
GET = (1 << 8) | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
PROC_MODULES = "/proc/modules"
COUNT = "/proc/sys/net/netfilter/nf_conntrack_count"
BODY = 20  # netlink header and nfgenmsg
TUPLE_ORIG, TUPLE_REPLY, STATUS, TIMEOUT, FILTER = 1, 2, 3, 7, 25
TUPLE_IP, TUPLE_PROTO = 1, 2
PROTO_NUM, PROTO_SPORT, PROTO_DPORT = 1, 2, 3
SOURCES, DESTINATIONS = (1, 3), (2, 4)  # CTA_IP_V4_SRC and CTA_IP_V6_SRC, …_DST
FILTER_PROTO_NUM = 1 << 3
NESTED = 0x8000
UDP = 17
STATUSES = (
    "expected",
    "seen_reply",
    "assured",
    "confirmed",
    "src_nat",
    "dst_nat",
    "seq_adjust",
    "src_nat_done",
    "dst_nat_done",
    "dying",
    "fixed_timeout",
    "template",
    "nat_clash",
    "helper",
    "offload",
    "hw_offload",
)
# An IPv4 entry begins with its two tuples, of 52 bytes each: the heads are compared, the values taken.
_USUAL = struct.Struct("=I12x4s4x4s8xB7x2s6x2s2x I12x4s4x4s8xB7x2s6x2s2x")
_HEADS = tuple(struct.unpack("=I", struct.pack("=HH", 52, NESTED | kind))[0] for kind in (TUPLE_ORIG, TUPLE_REPLY))
_U16, _U32 = struct.Struct("!H"), struct.Struct("!I")


def askable() -> bool:
    """Whether the kernel can be asked without loading a module for it."""
    try:
        with open(PROC_MODULES, encoding="ascii", errors="replace"):
            pass
    except FileNotFoundError:
        return True  # a kernel without modules
    except OSError:
        return False
    return read_modules(("nf_conntrack_netlink",))["nf_conntrack_netlink"] in ("loaded", "builtin")


def read_conntrack(ports: frozenset[int], families: tuple[int, ...] = (socket.AF_INET,)) -> list[dict[str, Any]]:
    """The C(conntrack) rows of the namespace the calling thread is in.

    The kernel keeps one table for all namespaces and walks through all of it, some milliseconds, for each family.

    @param ports: the UDP ports of tunnels.
    """
    if not read_int(COUNT):
        return []  # no connection tracking here, or nothing tracked
    deadline = time.monotonic() + SECONDS
    chosen = Chosen(ports)
    for family in families:
        try:
            _dump(request(family, only_udp=True), chosen, deadline)
        except OSError as exc:
            if exc.errno in (errno.EPERM, errno.EACCES):
                return []  # that this is not root has been said
            if exc.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            _dump(request(family, only_udp=False), chosen, deadline)
    return chosen.rows()


def _dump(body: bytes, chosen: Chosen, deadline: float) -> None:
    def consume(messages: Iterator[tuple[bytes, int, int]]) -> None:
        for number, (buffer, start, end) in enumerate(messages):
            chosen.take(buffer, start, end)
            if number & 255 == 255 and time.monotonic() > deadline:
                return

    dump(GET, body, consume, NETLINK_NETFILTER)


def request(family: int, only_udp: bool) -> bytes:
    """The body of a dump of one family."""
    body = struct.pack("=BBH", family, 0, 0)
    if only_udp:
        number = _attribute(PROTO_NUM, bytes((UDP,)))
        body += _attribute(TUPLE_ORIG | NESTED, _attribute(TUPLE_PROTO | NESTED, number))
        body += _attribute(FILTER | NESTED, _attribute(1, struct.pack("=I", FILTER_PROTO_NUM)))
    return body


def _attribute(kind: int, value: bytes) -> bytes:
    return ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


class Chosen:
    """Picks at most L(LIMIT) rows out of a stream of entries: one of each kind first, more of each as space is left."""

    def __init__(self, ports: frozenset[int]) -> None:
        self.ports = ports
        self._raw_ports = {_U16.pack(port) for port in ports}
        self._first: list[dict[str, dict[str, Any]]] = [{}, {}, {}]
        self._more: list[dict[str, Any]] = []

    def take(self, buffer: bytes, start: int, end: int) -> None:
        """Look at one message."""
        if end - start >= BODY + _USUAL.size:
            head, src, dst, proto, sport, dport, rhead, rsrc, rdst, _proto, rsport, rdport = _USUAL.unpack_from(
                buffer, start + BODY
            )
            if (head, rhead) == _HEADS and (
                proto != UDP
                or (
                    src == rdst
                    and dst == rsrc
                    and sport == rdport
                    and dport == rsport
                    and dport not in self._raw_ports
                    and sport not in self._raw_ports
                )
            ):
                return
        row = entry(buffer, start, end)
        if row is not None:
            self._sort(row)

    def _sort(self, row: dict[str, Any]) -> None:
        tunnel = not self.ports.isdisjoint((row["sport"], row["dport"], row["reply_sport"], row["reply_dport"]))
        mirror = (row["src"], row["dst"], row["sport"], row["dport"]) == (
            row["reply_dst"],
            row["reply_src"],
            row["reply_dport"],
            row["reply_sport"],
        )
        if mirror and not tunnel:
            return
        if row["dst"].startswith("127.") and row["reply_src"].startswith("127."):
            return  # a container's questions to the engine's own resolver
        kind = (row["src"], row["dst"], row["dport"], row["reply_src"], row["reply_dst"], row["reply_sport"])
        key = repr((kind, row["status"]))
        group = self._first[0 if tunnel and not mirror else 1 if tunnel else 2]
        if key not in group and len(group) < LIMIT:
            group[key] = row
        elif len(self._more) < LIMIT:
            self._more.append(row)

    def rows(self) -> list[dict[str, Any]]:
        """Translated tunnel packets first, then other tunnel packets, then other translated ones."""
        first = [row for group in self._first for row in group.values()]
        return (first + self._more)[:LIMIT]


def entry(buffer: bytes, start: int, end: int) -> dict[str, Any] | None:
    """The row of one message; None when it is not of UDP, or not complete."""
    tuples: dict[int, dict[str, Any] | None] = {}
    status, timeout = 0, None
    for kind, first, last in attributes(buffer, start + BODY, end):
        if kind in (TUPLE_ORIG, TUPLE_REPLY):
            tuples[kind] = _tuple(buffer, first, last)
            if tuples[kind] is None:
                return None
        elif kind == STATUS and last - first == 4:
            status = _U32.unpack_from(buffer, first)[0]
        elif kind == TIMEOUT and last - first == 4:
            timeout = _U32.unpack_from(buffer, first)[0]
    original, reply = tuples.get(TUPLE_ORIG), tuples.get(TUPLE_REPLY)
    if original is None or reply is None:
        return None
    return {
        "protocol": "udp",
        **original,
        **{f"reply_{name}": value for name, value in reply.items()},
        "status": [name for bit, name in enumerate(STATUSES) if status >> bit & 1],
        "timeout": timeout,
    }


def _tuple(buffer: bytes, start: int, end: int) -> dict[str, Any] | None:
    found: dict[str, Any] = {"src": None, "dst": None, "sport": None, "dport": None}
    number = None
    for kind, first, last in attributes(buffer, start, end):
        for inner, low, high in attributes(buffer, first, last):
            size = high - low
            if kind == TUPLE_IP and size in (4, 16):
                if inner in SOURCES + DESTINATIONS:
                    found["src" if inner in SOURCES else "dst"] = str(ipaddress.ip_address(buffer[low:high]))
            elif kind == TUPLE_PROTO and inner == PROTO_NUM and size:
                number = buffer[low]
            elif kind == TUPLE_PROTO and inner in (PROTO_SPORT, PROTO_DPORT) and size == 2:
                found["sport" if inner == PROTO_SPORT else "dport"] = _U16.unpack_from(buffer, low)[0]
    return found if number == UDP and None not in found.values() else None

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The route of the table that the kernel takes to a host, whole, and as words that put it back.

RTM_GETROUTE with RTM_F_FIB_MATCH answers with the entry itself, not with what is made of it for one packet: whether it
is for this host alone, its metric, and its own source.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._netlink import ROUTE_TYPES
from ansible_collections.crosshost.doctor.plugins.module_utils._rawdump import ATTRIBUTE, HEADER, attributes, dump
from ansible_collections.crosshost.doctor.plugins.module_utils._routes import (
    BODY,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTA_PREFSRC,
    RTA_TABLE,
    RTA_VIA,
    RTM_F_LOOKUP_TABLE,
    RTMSG,
    Kernel,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._routes import question as packet_question

RTA_PRIORITY, RTA_METRICS, RTA_MULTIPATH, RTA_CACHEINFO, RTA_PREF, RTA_ENCAP = 6, 8, 9, 12, 20, 22
RTM_F_FIB_MATCH, RTM_F_CLONED = 0x2000, 0x200
RTNH_F_ONLINK = 4
RT_TABLE_MAIN, RTPROT_STATIC, RTN_UNICAST, SCOPE_LINK, SCOPE_GLOBAL = 254, 4, 1, 253, 0
RTM_GETADDR = 22
IFADDR = struct.Struct("=BBBBi")
IFA_ADDRESS, IFA_LOCAL = 1, 2
_U32 = struct.Struct("=I")
# RTAX_*: metrics that ip(8) takes as a plain number; a route with others is not put into words.
METRICS = {2: "mtu", 3: "window", 7: "cwnd", 8: "advmss", 9: "reordering", 10: "hoplimit", 11: "initcwnd"}
METRICS.update({14: "initrwnd", 15: "quickack"})
PASSED_OVER = {RTA_PREF, RTA_CACHEINFO}


@dataclass(frozen=True)
class Route:
    """One route of a table."""

    dst: str  # with its prefix length
    device: str
    gateway: str | None = None
    source: str | None = None
    metric: int = 0
    table: int = RT_TABLE_MAIN
    protocol: int = RTPROT_STATIC
    scope: int = SCOPE_GLOBAL
    kind: int = RTN_UNICAST
    onlink: bool = False
    metrics: tuple[tuple[str, int], ...] = ()
    unknown: tuple[int, ...] = field(default=(), compare=False)

    def words(self) -> list[str]:
        """The route as ip(8) takes it behind C(ip route replace)."""
        words = [self.dst]
        if self.gateway:
            family = ipaddress.ip_address(self.gateway).version
            inet6 = ["inet6"] if family == 6 and ":" not in self.dst else []
            words += ["via", *inet6, self.gateway]
        words += ["dev", self.device]
        if self.source:
            words += ["src", self.source]
        if self.metric:
            words += ["metric", str(self.metric)]
        if self.table != RT_TABLE_MAIN:
            words += ["table", str(self.table)]
        words += ["proto", str(self.protocol)]
        if ":" not in self.dst:
            words += ["scope", str(self.scope)]
        if self.onlink:
            words += ["onlink"]
        for name, value in self.metrics:
            words += [name, str(value)]
        return words


class RouteError(Exception):
    """The route cannot be read or is one that is left alone; the message is for the user."""


def question(dst: str) -> bytes:
    """The body of an RTM_GETROUTE that asks for the entry."""
    packed = ipaddress.ip_address(dst).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    head = RTMSG.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, RTM_F_FIB_MATCH | RTM_F_LOOKUP_TABLE)
    return head + ATTRIBUTE.pack(4 + len(packed), RTA_DST) + packed


def entry(buffer: bytes, start: int, end: int) -> dict[str, Any]:
    """The fields of an RTM_NEWROUTE; empty for an answer that is none."""
    if end - start < BODY:
        return {}
    fields = RTMSG.unpack_from(buffer, start + HEADER.size)
    family, bits, _source, _tos, table, protocol, scope, kind, flags = fields
    any_address = "0.0.0.0" if family == socket.AF_INET else "::"
    row: dict[str, Any] = {
        "dst": f"{any_address}/{bits}",
        "table": table,
        "protocol": protocol,
        "scope": scope,
        "kind": kind,
        "onlink": bool(flags & RTNH_F_ONLINK),
        "cloned": bool(flags & RTM_F_CLONED),
        "oif": None,
        "gateway": None,
        "source": None,
        "metric": 0,
        "metrics": (),
        "unknown": [],
    }
    for name, first, last in attributes(buffer, start + BODY, end):
        _attribute(row, name, buffer[first:last], bits)
    return row


def _attribute(row: dict[str, Any], name: int, value: bytes, bits: int) -> None:
    if name == RTA_DST:
        row["dst"] = f"{ipaddress.ip_address(value)}/{bits}"
    elif name == RTA_OIF:
        row["oif"] = _U32.unpack(value)[0]
    elif name == RTA_TABLE:
        row["table"] = _U32.unpack(value)[0]
    elif name == RTA_PRIORITY:
        row["metric"] = _U32.unpack(value)[0]
    elif name == RTA_GATEWAY:
        row["gateway"] = str(ipaddress.ip_address(value))
    elif name == RTA_VIA:
        row["gateway"] = str(ipaddress.ip_address(value[2:]))
    elif name == RTA_PREFSRC:
        row["source"] = str(ipaddress.ip_address(value))
    elif name == RTA_METRICS:
        found = [
            (kind, _U32.unpack_from(value, first)[0])
            for kind, first, last in attributes(value, 0, len(value))
            if last - first == 4
        ]
        row["metrics"] = tuple((METRICS[kind], number) for kind, number in found if kind in METRICS)
        row["unknown"] += [RTA_METRICS for kind, _number in found if kind not in METRICS]
    elif name not in PASSED_OVER:
        row["unknown"].append(name)


def read_route(kernel: Kernel, peer: str) -> Route:
    """The entry that the kernel takes to the peer.

    @raises RouteError: there is none, or it is of a kind that is left alone.
    @raises OSError: the kernel does not answer.
    """
    row, error = kernel.ask(question(peer), entry)
    if error or not row:
        raise RouteError(f"There is no route to {peer}: {error or 'no answer'}.")
    kind = ROUTE_TYPES.get(row["kind"], str(row["kind"]))
    if row["kind"] != RTN_UNICAST:
        raise RouteError(f"The route to {peer} is of type {kind}: it is left alone.")
    if row["cloned"]:
        raise RouteError("This kernel does not tell which entry of its tables a route comes from (needs 4.13).")
    if row["table"] != RT_TABLE_MAIN:
        raise RouteError(
            f"The route to {peer} comes from table {row['table']}, by a policy rule: a route in table main would not "
            "be asked. See ip rule."
        )
    if row["oif"] is None or RTA_MULTIPATH in row["unknown"] or RTA_ENCAP in row["unknown"]:
        raise RouteError(f"The route to {peer} has several next hops or an encapsulation: it is left alone.")
    fields = {name: row[name] for name in ("dst", "gateway", "source", "metric", "table", "protocol", "scope", "kind")}
    device = socket.if_indextoname(row["oif"])
    return Route(device=device, onlink=row["onlink"], metrics=row["metrics"], unknown=tuple(row["unknown"]), **fields)


def taken_source(kernel: Kernel, peer: str) -> str | None:
    """The source address that a packet to the peer gets."""
    row, _error = kernel.ask(packet_question(peer))
    source: str | None = row["src"]
    return source


def read_addresses() -> dict[str, str]:
    """The name of the interface that holds each address of this namespace.

    @raises OSError: the kernel does not answer.
    """

    def consume(messages: Iterable[tuple[bytes, int, int]]) -> dict[str, int]:
        found: dict[str, int] = {}
        for buffer, start, end in messages:
            index = IFADDR.unpack_from(buffer, start + HEADER.size)[4]
            held = {kind: buffer[first:last] for kind, first, last in attributes(buffer, start + 24, end)}
            value = held.get(IFA_LOCAL) or held.get(IFA_ADDRESS) or b""
            if len(value) in (4, 16):
                found[str(ipaddress.ip_address(value))] = index
        return found

    found, _consistent = dump(RTM_GETADDR, IFADDR.pack(0, 0, 0, 0, 0), consume)
    return {address: socket.if_indextoname(index) for address, index in found.items()}


def sourced(route: Route, peer: str, address: str) -> Route:
    """The route to this peer alone that keeps the way of C(route) and has C(address) as its source.

    @raises RouteError: the peer has a route of its own with something this would lose.
    """
    bits = ipaddress.ip_address(peer).max_prefixlen
    if route.dst == f"{peer}/{bits}":
        if route.unknown:
            raise RouteError(f"The peer {peer} has a route of its own with attributes that are not understood here.")
        return replace(route, source=address)
    scope = SCOPE_GLOBAL if route.gateway or ":" in peer else SCOPE_LINK
    return replace(route, dst=f"{peer}/{bits}", source=address, scope=scope, protocol=RTPROT_STATIC, unknown=())

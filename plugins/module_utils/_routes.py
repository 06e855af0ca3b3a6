# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel's own answer to where a packet would go: RTM_GETROUTE, to each peer and, as if received, from it.

One question is one small message and changes nothing; rules, tables, source filters and forwarding are all in the
answer. Layouts: struct rtmsg and RTA_* of linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_int
from ansible_collections.crosshost.doctor.plugins.module_utils._netlink import ROUTE_TYPES, RTM_GETROUTE
from ansible_collections.crosshost.doctor.plugins.module_utils._rawdump import (
    ATTRIBUTE,
    HEADER,
    NLM_F_REQUEST,
    Progress,
    attributes,
    walk,
)

PEERS_LIMIT = 256
SECONDS = 2.0  # for all questions together; one takes some microseconds
RTA_DST, RTA_SRC, RTA_IIF, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_TABLE, RTA_VIA = 1, 2, 3, 4, 5, 7, 15, 18
RTM_F_LOOKUP_TABLE = 0x1000  # answer with the table of the route, not with that of the cache
RTMSG = struct.Struct("=BBBBBBBBI")
BODY = HEADER.size + RTMSG.size
_U32 = struct.Struct("=I")
_TIMEVAL = struct.Struct("@ll")
CONF = "/proc/sys/net/ipv4/conf"

Parser = Callable[[bytes, int, int], dict[str, Any]]


def address(value: Any) -> str | None:
    """The unicast address of C(192.0.2.11), C(192.0.2.11:2377) or C([2001:db8::1]:2377); None for anything else."""
    text = str(value or "")
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return None if found.is_unspecified or found.is_multicast or found.is_loopback else str(found)


def peers(facts: dict[str, Any]) -> list[str]:
    """Every other host this one knows: VTEPs of its tunnels, the Swarm's nodes and managers, peers of networks."""
    swarm = facts["swarm"]
    known: list[Any] = [swarm["node_addr"], swarm["data_path_addr"]]
    known += [manager["addr"] for manager in swarm["managers"]]
    known += [node["addr"] for node in swarm["nodes"]]
    for network in facts["networks"]:
        known += [peer["ip"] for peer in network["peers"]]
    own = set()
    for namespace in facts["namespaces"]:
        tunnels = {link["index"]: link["vxlan"] for link in namespace["links"] if link["vxlan"]}
        known += [tunnel["group"] for tunnel in tunnels.values()]
        known += [entry["dst"] for entry in namespace["fdb"] if entry["index"] in tunnels]
        if namespace["kind"] == "host":
            own = {one["ip"] for one in namespace["addresses"]}
    found = {one for one in map(address, known) if one is not None and one not in own}
    return sorted(found, key=_order)[:PEERS_LIMIT]


def _order(text: str) -> tuple[int, int]:
    one = ipaddress.ip_address(text)
    return one.version, int(one)


def underlay(facts: dict[str, Any]) -> str | None:
    """The address by which other hosts reach this one's tunnels, as far as it is configured: None leaves the choice
    to the routes."""
    swarm = facts["swarm"]
    locals_ = [link["vxlan"]["local"] for one in facts["namespaces"] for link in one["links"] if link["vxlan"]]
    return next(filter(None, map(address, [swarm["data_path_addr"], swarm["node_addr"], *locals_])), None)


def question(dst: str, src: str | None = None, iif: int | None = None) -> bytes:
    """The body of an RTM_GETROUTE: to C(dst), and when C(iif) is given for a packet from C(src) received there."""
    parts = [(RTA_DST, ipaddress.ip_address(dst).packed)]
    if src is not None:
        parts.append((RTA_SRC, ipaddress.ip_address(src).packed))
    if iif is not None:
        parts.append((RTA_IIF, _U32.pack(iif)))
    bits = len(parts[0][1]) * 8
    family = socket.AF_INET if bits == 32 else socket.AF_INET6
    head = RTMSG.pack(family, bits, bits if src is not None else 0, 0, 0, 0, 0, 0, RTM_F_LOOKUP_TABLE)
    return head + b"".join(ATTRIBUTE.pack(4 + len(value), kind) + value for kind, value in parts)


def answer(buffer: bytes, start: int, end: int) -> dict[str, Any]:
    """C(oif), C(src), C(gateway), C(table) and C(type) of a RTM_NEWROUTE."""
    row: dict[str, Any] = {"oif": None, "src": None, "gateway": None, "table": None, "type": None}
    if end - start < BODY:
        return row
    fields = RTMSG.unpack_from(buffer, start + HEADER.size)
    row["table"], kind = fields[4], fields[7]
    row["type"] = ROUTE_TYPES.get(kind, str(kind))
    for name, first, last in attributes(buffer, start + BODY, end):
        value = buffer[first:last]
        if name in (RTA_OIF, RTA_TABLE) and len(value) == 4:
            row["oif" if name == RTA_OIF else "table"] = _U32.unpack(value)[0]
        elif name in (RTA_GATEWAY, RTA_PREFSRC):
            row["gateway" if name == RTA_GATEWAY else "src"] = _ip(value)
        elif name == RTA_VIA:
            row["gateway"] = _ip(value[2:])
    return row


def _ip(value: bytes) -> str | None:
    return str(ipaddress.ip_address(value)) if len(value) in (4, 16) else None


class Kernel:
    """One socket for all questions, in the namespace the calling thread is in."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(1, 0))
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *unused: object) -> None:
        self._socket.close()

    def ask(self, body: bytes, parse: Parser | None = None) -> tuple[dict[str, Any], str | None]:
        """(answer, name of the error or None). No route is an answer, a socket that breaks is an exception.

        C(parse) reads the answer instead of L(answer), for those who want to know something else of it.
        """
        parse = parse or answer
        self._sequence += 1
        header = HEADER.pack(HEADER.size + len(body), RTM_GETROUTE, NLM_F_REQUEST, self._sequence, 0)
        self._socket.send(header + body)
        while True:
            try:
                chunk = self._socket.recv(65536)
            except BlockingIOError:
                raise TimeoutError("no answer to RTM_GETROUTE within 1 s") from None
            progress = Progress()
            try:
                for buffer, start, end in walk(chunk, self._sequence, progress):
                    return parse(buffer, start, end), None
            except OSError as exc:
                if exc.errno is None:
                    raise  # the bytes are no netlink message
                return parse(b"", 0, 0), errno.errorcode.get(exc.errno, str(exc.errno))
            if progress.done:
                return parse(b"", 0, 0), None


def read_paths(facts: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The C(paths) and C(return_paths) of the host's namespace, which the calling thread is in."""
    host = facts["namespaces"][0]
    holders = {one["ip"]: one["index"] for one in host["addresses"]}
    names = {link["index"]: link["name"] for link in host["links"]}
    own = underlay(facts)
    paths: list[dict[str, Any]] = []
    back: list[dict[str, Any]] = []
    found = peers(facts)
    if not found:
        return paths, back
    deadline = time.monotonic() + SECONDS
    with Kernel() as kernel:
        for peer in _until(deadline, found):
            row, error = kernel.ask(question(peer))
            paths.append({"dst": peer, **row, "error": error})
            target = own if own in holders and _same_family(own, peer) else row["src"]
            iif = holders.get(target)
            # The kernel would log the refusal of a packet that nobody sent.
            if target is None or iif is None or logs_martians(names.get(iif)):
                continue
            row, error = kernel.ask(question(target, peer, iif))
            back.append({"src": peer, "iif": iif, "error": error, "oif": row["oif"]})
    return paths, back


def _until(deadline: float, items: Iterable[str]) -> Iterator[str]:
    for item in items:
        if time.monotonic() > deadline:
            return
        yield item


def _same_family(one: str | None, other: str) -> bool:
    return (":" in str(one)) == (":" in other)


def logs_martians(name: str | None, conf: str = CONF) -> bool:
    """Whether the kernel logs the packets that a source filter of this interface refuses."""
    return any(read_int(f"{conf}/{one}/log_martians") for one in ("all", name) if one)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which rule decided about a probe: nftables' own trace of marked packets, for as long as a socket is open.

The packets are chosen by a table of our own that belongs to the netlink socket (C(flags owner), Linux 5.12): the
kernel removes it when the socket is closed, whatever becomes of the process. It changes no verdict. Still it is a table
in the host's ruleset while it lasts, which is why it is only made when the operator has asked for it.

Seen are rules and policies of nf_tables, also those written by iptables-nft; the legacy backend has no such trace, and
neither have hooks of family netdev, which run before ours.

Structures and numbers of linux/netfilter/nf_tables.h and nfnetlink.h.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils import _nft
from ansible_collections.crosshost.doctor.plugins.module_utils._nfnl import (
    NETLINK_NETFILTER,
    SUBSYS_NFTABLES,
    DecodeError,
    attribute,
    attributes,
    text,
)

LIMIT = 5000
PACKETS = 1024  # traces whose packet is remembered
PORTS, ADDRESSES = 16, 32  # one rule each way and kind: more would cost every packet
MARK = b"crosshost.doctor"  # 16 bytes: what one register holds
TABLE = "crosshost-doctor-trace"
PRIORITY = -500  # before conntrack's defragmentation (-400) and every customary chain (raw is -300)
RATE, BURST = 100, 50  # packets in a second of what carries no mark
READS, DRAINS = 256, 64  # messages taken at once, and how often at the end

_BATCH_BEGIN, _BATCH_END = 16, 17
_NEWTABLE, _NEWCHAIN, _NEWRULE, _TRACE = 0, 3, 6, 17
_REQUEST, _ACK, _EXCL, _CREATE, _APPEND = 0x1, 0x4, 0x200, 0x400, 0x800
_NLMSG_ERROR = 2
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_GROUP_TRACE = 9
_TABLE_OWNER = 0x2
_FAMILY_INET = 1
_HOOKS = {"prerouting": 0, "output": 3}
_NESTED = 0x8000
_HEADER = struct.Struct("=IHHII")
_REGISTER = 1  # NFT_REG_1: 16 bytes
_NETWORK, _TRANSPORT = 1, 2  # NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER
_META_NFPROTO, _META_L4PROTO, _META_NFTRACE = 15, 16, 12
_TYPES = {1: "policy", 2: "return", 3: "rule"}
_VERDICTS = {0: "drop", 1: "accept", 2: "stolen", 3: "queue", 4: "repeat"}
_VERDICTS.update({-1: "continue", -2: "break", -3: "jump", -4: "goto", -5: "return"})
# From the transport header of the outer UDP: 8 UDP + 8 VXLAN + 14 Ethernet + IP, then the inner transport header.
_INNER = 30
_INNER_TRANSPORT = {4: _INNER + 20, 6: _INNER + 40}


def unavailable(why: str) -> dict[str, Any]:
    """The result where nothing could be traced."""
    return {"available": False, "why": why, "lost": 0, "events": []}


def _be32(number: int) -> bytes:
    return struct.pack(">I", number & 0xFFFFFFFF)


def _expression(name: str, *attrs: bytes) -> bytes:
    data = attribute(1, name.encode() + b"\0") + attribute(2 | _NESTED, b"".join(attrs))
    return attribute(1 | _NESTED, data)


def _compare(value: bytes) -> bytes:
    """The register is equal to C(value), else the rule does not match."""
    data = attribute(3 | _NESTED, attribute(1, value))
    return _expression("cmp", attribute(1, _be32(_REGISTER)), attribute(2, _be32(0)), data)


def _payload(base: int, offset: int, value: bytes) -> bytes:
    """The packet holds C(value) at an offset of one of its headers; a shorter packet does not match."""
    words = (_REGISTER, base, offset, len(value))
    return _expression("payload", *(attribute(n, _be32(word)) for n, word in enumerate(words, 1))) + _compare(value)


def _meta(key: int, value: bytes) -> bytes:
    return _expression("meta", attribute(1, _be32(_REGISTER)), attribute(2, _be32(key))) + _compare(value)


def _bit(base: int, offset: int, mask: int) -> bytes:
    """One byte of the packet has all bits of C(mask) set."""
    load = _expression("payload", *(attribute(n, _be32(w)) for n, w in enumerate((_REGISTER, base, offset, 1), 1)))
    words = tuple(attribute(n, _be32(word)) for n, word in enumerate((_REGISTER, _REGISTER, 1), 1))
    data = [attribute(n | _NESTED, attribute(1, bytes([byte]))) for n, byte in ((4, mask), (5, 0))]
    return load + _expression("bitwise", *words, *data) + _compare(bytes([mask]))


def _rate() -> bytes:
    words = [
        attribute(1, struct.pack(">Q", RATE)),
        attribute(2, struct.pack(">Q", 1)),
        attribute(3, _be32(BURST)),
    ]
    return _expression("limit", *words, attribute(4, _be32(0)), attribute(5, _be32(0)))


def _trace() -> bytes:
    """meta nftrace set 1."""
    one = _expression("immediate", attribute(1, _be32(_REGISTER)), attribute(2 | _NESTED, attribute(1, b"\1")))
    return one + _expression("meta", attribute(2, _be32(_META_NFTRACE)), attribute(3, _be32(_REGISTER)))


def _address(address: str, source: bool) -> bytes:
    parsed = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    offset = {4: (16, 12), 6: (24, 8)}[parsed.version][source]
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    return _meta(_META_NFPROTO, bytes([family])) + _payload(_NETWORK, offset, parsed.packed)


def selectors(ports: Iterable[int], addresses: Iterable[str]) -> list[bytes]:
    """The expressions of the rules that choose packets, each without its last, C(meta nftrace set 1).

    Chosen are datagrams to a tunnel port whose inner packet carries the mark of our probes, begins a TCP connection or
    is ARP, without which no probe is ever sent (the last two at a limited rate), and packets from or to one of the
    addresses that carry the mark or begin a connection.
    """
    udp, tcp = _meta(_META_L4PROTO, b"\x11"), _meta(_META_L4PROTO, b"\x06")
    rules = []
    for port in sorted(set(ports))[:PORTS]:
        tunnel = udp + _payload(_TRANSPORT, 2, struct.pack(">H", port))
        for version, inner in _INNER_TRANSPORT.items():
            # Echo and UDP headers have 8 bytes each: the mark begins at one place for both.
            rules.append(tunnel + _payload(_TRANSPORT, inner + 8, MARK))
            protocol = _payload(_TRANSPORT, _INNER + {4: 9, 6: 6}[version], b"\x06")
            rules.append(tunnel + protocol + _bit(_TRANSPORT, inner + 13, 0x02) + _rate())
        rules.append(tunnel + _payload(_TRANSPORT, 8, MARK))
        rules.append(tunnel + _payload(_TRANSPORT, _INNER - 2, b"\x08\x06") + _rate())
    for address in sorted(set(addresses))[:ADDRESSES]:
        for source in (True, False):
            ends = _address(address, source)
            rules.append(ends + _payload(_TRANSPORT, 8, MARK))
            rules.append(ends + tcp + _bit(_TRANSPORT, 13, 0x02) + _rate())
    return rules


class NfTrace:
    """A source of rule traces for a capture: C(fileno), C(drain), C(stop), C(result), C(close).

    It traces in the network namespace the calling thread is in when it is made.
    """

    def __init__(self, ports: Iterable[int], addresses: Iterable[str] = (), limit: int = LIMIT) -> None:
        """Starts tracing.

        @param ports: UDP ports of tunnels.
        @param addresses: of hosts and containers whose packets are not in a tunnel.
        @param limit: events kept at most.
        @raises OSError: this kernel, or these rights, do not allow it; the text says why.
        @raises ValueError: an address is none.
        """
        rules = selectors(ports, addresses)
        if not rules:
            raise OSError(errno.EINVAL, "neither a tunnel port nor an address to trace was given")
        if _nft.unloaded():
            raise OSError(errno.EOPNOTSUPP, "nf_tables is not loaded on this host: there is no rule to trace")
        self._events: list[dict[str, Any]] = []
        self._packets: dict[int, dict[str, Any]] = {}
        self._order: deque[int] = deque()
        self._limit = limit
        self._lost = 0
        self._table = f"{TABLE}-{secrets.token_hex(4)}"  # two runs at once may trace one host
        self._socket: socket.socket | None = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
        )
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            self._socket.bind((0, 0))
            self._install(self._socket, rules)
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_TRACE)
            self._socket.setblocking(False)
        except OSError as exc:
            self.close()
            if exc.errno in (errno.EPERM, errno.EACCES):
                who = "no CAP_NET_ADMIN" if os.geteuid() == 0 else "not root"
                raise OSError(exc.errno, f"nftrace: {exc.strerror} ({who})") from exc
            if exc.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                why = "this kernel has no tables that vanish with their owner (Linux 5.12), or no nf_tables"
                raise OSError(exc.errno, f"nftrace: {why}: {exc.strerror}") from exc
            raise

    def _install(self, sock: socket.socket, rules: list[bytes]) -> None:
        """Table, chains and rules in one transaction: all or nothing."""
        table = attribute(1, self._table.encode() + b"\0")
        batch = [_message(_BATCH_BEGIN, _REQUEST, 0, b"", resource=SUBSYS_NFTABLES, subsystem=0)]
        create = _REQUEST | _ACK | _CREATE
        batch.append(_message(_NEWTABLE, create | _EXCL, 1, table + attribute(2, _be32(_TABLE_OWNER))))
        for name, hook in _HOOKS.items():
            chain = attribute(3, name.encode() + b"\0")
            where = attribute(1, _be32(hook)) + attribute(2, _be32(PRIORITY))
            body = attribute(1, table[4:].rstrip(b"\0") + b"\0") + chain + attribute(4 | _NESTED, where)
            batch.append(_message(_NEWCHAIN, create | _EXCL, 2, body + attribute(7, b"filter\0")))
            for rule in rules:
                body = table + attribute(2, name.encode() + b"\0") + attribute(4 | _NESTED, rule + _trace())
                batch.append(_message(_NEWRULE, create | _APPEND, 3, body))
        batch.append(_message(_BATCH_END, _REQUEST, 4, b"", resource=SUBSYS_NFTABLES, subsystem=0))
        sock.settimeout(5.0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sock.send(b"".join(batch))
        expected = len(batch) - 2
        while expected > 0:
            expected -= acknowledged(sock.recv(1 << 16))

    def fileno(self) -> int:
        return self._open().fileno()

    def _open(self) -> socket.socket:
        if self._socket is None:
            raise ValueError("the trace is closed")
        return self._socket

    def drain(self) -> None:
        """Take what has arrived, at most L(READS) messages. Messages have no time: the moment they are taken counts."""
        now = time.time()
        for _count in range(READS):
            try:
                data = self._open().recv(1 << 16)
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    raise
                self._lost += 1  # at least one; the kernel does not say how many
                continue
            for family, attrs in trace_messages(data):
                self._add(now, family, attrs)

    def _add(self, now: float, family: int, attrs: dict[int, bytes]) -> None:
        if text(attrs.get(1, b"")).startswith(TABLE):
            return  # rules and policies of our own, or of another run
        identifier = _number(attrs.get(6))
        packet = packet_of(attrs)
        if packet is not None and identifier not in self._packets:
            if len(self._order) >= PACKETS:
                self._packets.pop(self._order.popleft(), None)
            self._order.append(identifier)
            self._packets[identifier] = packet
        if len(self._events) >= self._limit:
            self._lost += 1
            return
        self._events.append({"time": now, **event_of(family, attrs), "packet": packet or self._packets.get(identifier)})

    def stop(self) -> None:
        """End the trace: take what has arrived, and have the kernel remove the table."""
        if self._socket is not None:
            # Messages are queued by the kernel while it handles the packet: nothing is still on its way.
            for _count in range(DRAINS):
                if not select.select([self._socket], [], [], 0)[0]:
                    break
                self.drain()
            self.close()

    def result(self, near: Iterable[float] = ()) -> dict[str, Any]:
        """What was traced (NFTRACE of L(vxlan_capture)), after L(stop). C(near) is for other sources."""
        self.stop()
        return {"available": True, "why": None, "lost": self._lost, "events": self._events}

    def close(self) -> None:
        """Close the socket: the kernel removes the table."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _message(
    kind: int, flags: int, sequence: int, attrs: bytes, resource: int = 0, subsystem: int = SUBSYS_NFTABLES
) -> bytes:
    body = struct.pack(">BBH", _FAMILY_INET if subsystem else 0, 0, resource) + attrs
    return _HEADER.pack(16 + len(body), (subsystem << 8) | kind, flags, sequence, 0) + body


def acknowledged(data: bytes) -> int:
    """How many requests the messages acknowledge.

    @raises OSError: one was refused.
    """
    count, position = 0, 0
    while position + 16 <= len(data):
        length, kind, _flags, _sequence, _port = _HEADER.unpack_from(data, position)
        if length < 16 or position + length > len(data):
            raise DecodeError(f"message of {length} bytes at {position} of {len(data)}")
        if kind == _NLMSG_ERROR and length >= 20:
            code = -struct.unpack_from("=i", data, position + 16)[0]
            if code:
                raise OSError(code, os.strerror(code))
            count += 1
        position += (length + 3) & ~3
    return count


def trace_messages(data: bytes) -> list[tuple[int, dict[int, bytes]]]:
    """(family, attributes) of the trace messages of one buffer; what is malformed is left out."""
    found, position = [], 0
    while position + 20 <= len(data):
        length, kind, _flags, _sequence, _port = _HEADER.unpack_from(data, position)
        if length < 20 or position + length > len(data):
            break
        if kind == (SUBSYS_NFTABLES << 8) | _TRACE:
            try:
                found.append((data[position + 16], attributes(data[position + 20 : position + length])))
            except DecodeError:
                pass
        position += (length + 3) & ~3
    return found


def _number(value: bytes | None) -> int:
    return int.from_bytes(value[:8], "big") if value else 0


def event_of(family: int, attrs: dict[int, bytes]) -> dict[str, Any]:
    """One step of a packet through the ruleset: NFTRACE without time and packet."""
    kind = _number(attrs.get(4))
    verdict: str | None = None
    jump: str | None = None
    try:
        inner = attributes(attrs.get(5, b""))
    except DecodeError:
        inner = {}
    code = inner.get(1)
    if code is None and 16 in attrs:
        code = attrs[16]
    if code is not None and len(code) == 4:
        # The verdict of NF_QUEUE and NF_DROP may carry a number in its upper half.
        value = struct.unpack(">i", code)[0]
        verdict = _VERDICTS.get(value, _VERDICTS.get(value & 0xFF, str(value)))
        jump = text(inner[2]) if 2 in inner else None
    return {
        "family": _nft.FAMILIES.get(family, str(family)),
        "table": text(attrs.get(1, b"")),
        "chain": text(attrs.get(2, b"")),
        "handle": _number(attrs.get(3)) or None,
        "type": _TYPES.get(kind, str(kind)),
        "verdict": verdict,
        "jump": jump,
        "trace": _number(attrs.get(6)),
    }


def packet_of(attrs: dict[int, bytes]) -> dict[str, Any] | None:
    """Addresses, ports and devices of a message that carries the packet's headers, else None."""
    network, transport = attrs.get(8, b""), attrs.get(9, b"")
    if not network:
        return None
    packet: dict[str, Any] = dict.fromkeys(("src", "dst", "sport", "dport", "protocol"))
    version = network[0] >> 4
    if version == 4 and len(network) >= 20:
        packet.update(src=socket.inet_ntop(socket.AF_INET, network[12:16]), protocol=network[9])
        packet["dst"] = socket.inet_ntop(socket.AF_INET, network[16:20])
    elif version == 6 and len(network) >= 40:
        packet.update(src=socket.inet_ntop(socket.AF_INET6, network[8:24]), protocol=network[6])
        packet["dst"] = socket.inet_ntop(socket.AF_INET6, network[24:40])
    if packet["protocol"] in (socket.IPPROTO_TCP, socket.IPPROTO_UDP) and len(transport) >= 4:
        packet["sport"], packet["dport"] = struct.unpack(">HH", transport[:4])
    packet["iif"] = _number(attrs.get(10)) or None
    packet["oif"] = _number(attrs.get(12)) or None
    return packet

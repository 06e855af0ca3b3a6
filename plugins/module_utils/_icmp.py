# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ICMP and ICMPv6 messages: echo requests, their replies, and errors with the packet they quote.

Everything that parses takes bytes from the network: anything may come, nothing but a record or None goes out.
Sources: RFC 792, RFC 1122 §3.2.2, RFC 1812 §5.2.7 (ICMP); RFC 4443 (ICMPv6); RFC 8200 §4 (extension headers).
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass

ECHO_REPLY: dict[int, int] = {socket.AF_INET: 0, socket.AF_INET6: 129}
ECHO_REQUEST: dict[int, int] = {socket.AF_INET: 8, socket.AF_INET6: 128}
# Types that quote the packet they complain about.
ERROR_TYPES: dict[int, frozenset[int]] = {
    socket.AF_INET: frozenset({3, 4, 11, 12}),
    socket.AF_INET6: frozenset({1, 2, 3, 4}),
}
# "It was too big": a hint to the sender's path MTU discovery and no verdict about the path.
TOO_BIG: dict[int, tuple[int, int]] = {socket.AF_INET: (3, 4), socket.AF_INET6: (2, 0)}
PORT_UNREACHABLE: dict[int, tuple[int, int]] = {socket.AF_INET: (3, 3), socket.AF_INET6: (1, 4)}

_EXTENSION_HEADERS = frozenset({0, 43, 60})  # hop-by-hop, routing, destination options
_FRAGMENT_HEADER = 44
_MAX_EXTENSIONS = 8
_ECHO = struct.Struct("!BBHHH")

_NAMES_4 = {
    (3, 0): "net-unreachable",
    (3, 1): "host-unreachable",
    (3, 2): "protocol-unreachable",
    (3, 3): "port-unreachable",
    (3, 4): "fragmentation-needed",
    (3, 5): "source-route-failed",
    (3, 6): "net-unknown",
    (3, 7): "host-unknown",
    (3, 8): "source-host-isolated",
    (3, 9): "net-prohibited",
    (3, 10): "host-prohibited",
    (3, 11): "net-unreachable-tos",
    (3, 12): "host-unreachable-tos",
    (3, 13): "admin-prohibited",
    (3, 14): "host-precedence-violation",
    (3, 15): "precedence-cutoff",
    (4, 0): "source-quench",
    (11, 0): "ttl-exceeded",
    (11, 1): "reassembly-time-exceeded",
    (12, 0): "parameter-problem",
}
_NAMES_6 = {
    (1, 0): "no-route",
    (1, 1): "admin-prohibited",
    (1, 2): "beyond-scope",
    (1, 3): "address-unreachable",
    (1, 4): "port-unreachable",
    (1, 5): "policy-fail",
    (1, 6): "reject-route",
    (2, 0): "packet-too-big",
    (3, 0): "hop-limit-exceeded",
    (3, 1): "reassembly-time-exceeded",
    (4, 0): "parameter-problem",
    (4, 1): "unknown-next-header",
    (4, 2): "unknown-option",
}


@dataclass(frozen=True)
class Quote:
    """The head of the packet an ICMP error is about. Ports for TCP and UDP, ident and seq for echoes, else None."""

    protocol: int
    src: str
    dst: str
    sport: int | None = None
    dport: int | None = None
    ident: int | None = None
    seq: int | None = None
    payload: bytes = b""


@dataclass(frozen=True)
class Message:
    """An echo (C(ident), C(seq), C(payload)) or an error (C(quote), None when it was cut off too early)."""

    type: int
    code: int
    ident: int | None = None
    seq: int | None = None
    payload: bytes = b""
    quote: Quote | None = None
    mtu: int | None = None  # what a "too big" announces, 0 where it does not


@dataclass(frozen=True)
class Packet:
    """An IPv4 packet as a raw socket hands it over, options removed."""

    src: str
    dst: str
    ttl: int
    protocol: int
    body: bytes


def error_name(family: int, kind: int, code: int) -> str:
    """A word for an ICMP error: C(admin-prohibited), or C(icmp-3-77) for a code nobody defined."""
    if family == socket.AF_INET:
        return _NAMES_4.get((kind, code), f"icmp-{kind}-{code}")
    return _NAMES_6.get((kind, code), f"icmpv6-{kind}-{code}")


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def echo_request(family: int, ident: int, seq: int, payload: bytes) -> bytes:
    """An echo request. The kernel fills in ICMPv6's checksum, which covers the addresses (RFC 3542 §3.1)."""
    blank = _ECHO.pack(ECHO_REQUEST[family], 0, 0, ident, seq) + payload
    if family == socket.AF_INET6:
        return blank
    return _ECHO.pack(ECHO_REQUEST[family], 0, checksum(blank), ident, seq) + payload


def parse_packet(data: bytes) -> Packet | None:
    """The IPv4 packet in C(data), or None if it is none. The length field bounds the body."""
    if len(data) < 20 or data[0] >> 4 != 4:
        return None
    header = (data[0] & 0x0F) * 4
    total = int.from_bytes(data[2:4], "big")
    if header < 20 or len(data) < header:
        return None
    # Quoted and reassembled packets may be shorter or longer than they say.
    end = min(len(data), total) if total >= header else len(data)
    return Packet(_text4(data[12:16]), _text4(data[16:20]), data[8], data[9], data[header:end])


def parse_message(family: int, data: bytes) -> Message | None:
    """The ICMP message in C(data): echo request or reply, or error; None for all others and for fragments of one."""
    if len(data) < 8:
        return None
    kind, code, _checksum, ident, seq = _ECHO.unpack_from(data)
    if kind in (ECHO_REPLY[family], ECHO_REQUEST[family]):
        return Message(kind, code, ident, seq, data[8:])
    if kind in ERROR_TYPES[family]:
        # RFC 1191 §4 has the MTU in the last two of these bytes, RFC 4443 §3.2 in all four.
        mtu = seq if family == socket.AF_INET else int.from_bytes(data[4:8], "big")
        too_big = (kind, code) == TOO_BIG[family]
        return Message(kind, code, quote=parse_quote(family, data[8:]), mtu=mtu if too_big else None)
    return None


def parse_quote(family: int, data: bytes) -> Quote | None:
    """The packet quoted in an ICMP error; at least eight bytes behind the IP header are there, seldom more."""
    if family == socket.AF_INET:
        packet = parse_packet(data)
        if packet is None:
            return None
        later_fragment = int.from_bytes(data[6:8], "big") & 0x1FFF
        body = b"" if later_fragment else packet.body
        return _transport(packet.protocol, packet.src, packet.dst, body)
    return _parse_quote6(data)


def _parse_quote6(data: bytes) -> Quote | None:
    if len(data) < 40 or data[0] >> 4 != 6:
        return None
    src, dst = _text6(data[8:24]), _text6(data[24:40])
    protocol, body = data[6], data[40:]
    for _step in range(_MAX_EXTENSIONS):
        if protocol == _FRAGMENT_HEADER and len(body) >= 8:
            if int.from_bytes(body[2:4], "big") & 0xFFF8:
                return Quote(body[0], src, dst)
            protocol, body = body[0], body[8:]
        elif protocol in _EXTENSION_HEADERS and len(body) >= 8:
            protocol, body = body[0], body[(body[1] + 1) * 8 :]
        else:
            break
    return _transport(protocol, src, dst, body)


def _transport(protocol: int, src: str, dst: str, body: bytes) -> Quote:
    """Only the first eight bytes are promised (RFC 792), so neither flags nor TCP's window are looked at."""
    if len(body) < 8:
        return Quote(protocol, src, dst)
    if protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
        sport, dport = struct.unpack_from("!HH", body)
        return Quote(protocol, src, dst, sport, dport, payload=body[8:] if protocol == socket.IPPROTO_UDP else b"")
    request = {socket.IPPROTO_ICMP: socket.AF_INET, socket.IPPROTO_ICMPV6: socket.AF_INET6}.get(protocol)
    if request is not None and body[0] == ECHO_REQUEST[request]:
        ident, seq = struct.unpack_from("!HH", body, 4)
        return Quote(protocol, src, dst, ident=ident, seq=seq, payload=body[8:])
    return Quote(protocol, src, dst)


def _text4(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET, packed)


def _text6(packed: bytes) -> str:
    return str(ipaddress.IPv6Address(packed))

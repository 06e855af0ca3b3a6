# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Frames and capture files as bytes, made from the RFCs and not from the decoder."""

from __future__ import annotations

import ipaddress
import struct

A, B = "192.0.2.1", "192.0.2.2"
MAC_A, MAC_B = "02:42:0a:00:00:02", "02:42:0a:00:00:03"
BROADCAST = "ff:ff:ff:ff:ff:ff"
IN_A, IN_B = "10.0.0.2", "10.0.0.3"
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def rfc1071(data: bytes) -> int:
    """The Internet checksum, the slow way of the RFC."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def address(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def ethernet(
    payload: bytes, kind: int = 0x0800, src: str = MAC_A, dst: str = MAC_B, tags: tuple[int, ...] = ()
) -> bytes:
    """C(tags): VLAN identifiers, the outer one an 802.1ad tag if there are two."""
    kinds = [0x8100] * len(tags)
    if len(tags) > 1:
        kinds[0] = 0x88A8
    tagged = b"".join(struct.pack("!HH", tpid, vlan) for tpid, vlan in zip(kinds, tags, strict=True))
    return mac(dst) + mac(src) + tagged + struct.pack("!H", kind) + payload


def ip4(
    payload: bytes,
    protocol: int,
    src: str = A,
    dst: str = B,
    *,
    ident: int = 1,
    df: bool = False,
    mf: bool = False,
    offset: int = 0,
    ttl: int = 64,
    tos: int = 0,
    options: bytes = b"",
    total: int | None = None,
) -> bytes:
    bits = (0x4000 if df else 0) | (0x2000 if mf else 0) | offset // 8
    words = 5 + len(options) // 4
    length = words * 4 + len(payload) if total is None else total
    head = struct.pack("!BBHHHBBH", 0x40 | words, tos, length, ident & 0xFFFF, bits, ttl, protocol, 0)
    head += address(src) + address(dst) + options
    return head[:10] + struct.pack("!H", rfc1071(head)) + head[12:] + payload


def ip6(payload: bytes, protocol: int, src: str, dst: str, *, tos: int = 0, ttl: int = 64) -> bytes:
    head = struct.pack("!IHBB", 6 << 28 | tos << 20, len(payload), protocol, ttl)
    return head + address(src) + address(dst) + payload


def _summed(segment: bytes, place: int, protocol: int, src: str, dst: str) -> bytes:
    pseudo = address(src) + address(dst) + struct.pack("!II", len(segment), protocol)
    value = rfc1071(pseudo + segment)
    if protocol == UDP and not value:
        value = 0xFFFF
    return segment[:place] + struct.pack("!H", value) + segment[place + 2 :]


def udp(payload: bytes, sport: int, dport: int, src: str = A, dst: str = B, *, summed: bool = True) -> bytes:
    segment = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    return _summed(segment, 6, UDP, src, dst) if summed else segment


def tcp(
    payload: bytes,
    sport: int,
    dport: int,
    seq: int,
    flags: int = ACK,
    src: str = IN_A,
    dst: str = IN_B,
    *,
    ack: int = 0,
    options: bytes = b"",
) -> bytes:
    words = 5 + len(options) // 4
    segment = struct.pack("!HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, ack, words << 4, flags, 512, 0, 0)
    return _summed(segment + options + payload, 16, TCP, src, dst)


def icmp(kind: int, code: int, rest: bytes = bytes(4), payload: bytes = b"") -> bytes:
    message = struct.pack("!BBH", kind, code, 0) + rest + payload
    return message[:2] + struct.pack("!H", rfc1071(message)) + message[4:]


def icmp6(kind: int, code: int, rest: bytes, payload: bytes, src: str, dst: str) -> bytes:
    return _summed(struct.pack("!BBH", kind, code, 0) + rest + payload, 2, ICMP6, src, dst)


def echo(ident: int = 7, seq: int = 1, payload: bytes = b"abcdefgh", reply: bool = False) -> bytes:
    return icmp(0 if reply else 8, 0, struct.pack("!HH", ident, seq), payload)


def arp(operation: int, sha: str, spa: str, tpa: str, tha: str = "00:00:00:00:00:00") -> bytes:
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    return head + mac(sha) + address(spa) + mac(tha) + address(tpa)


def header(vni: int, flags: int = 0x08, middle: bytes = bytes(3), last: int = 0) -> bytes:
    return bytes([flags]) + middle + vni.to_bytes(3, "big") + bytes([last])


def vxlan(
    inner: bytes,
    vni: int = 4097,
    src: str = A,
    dst: str = B,
    *,
    sport: int = 40000,
    dport: int = 4789,
    head: bytes | None = None,
    summed: bool = False,
    tags: tuple[int, ...] = (),
    **ip: int,
) -> bytes:
    """A whole frame: Ethernet, IP, UDP, VXLAN and the inner frame."""
    datagram = udp((head or header(vni)) + inner, sport, dport, src, dst, summed=summed)
    smac, dmac = "02:00:00:00:00:01", "02:00:00:00:00:02"
    if ":" in src:
        return ethernet(ip6(datagram, UDP, src, dst), 0x86DD, smac, dmac, tags)
    return ethernet(ip4(datagram, UDP, src, dst, **ip), 0x0800, smac, dmac, tags)


def inner_tcp(payload: bytes, seq: int, flags: int = ACK, sport: int = 41000, dport: int = 80, **ip: int) -> bytes:
    return ethernet(ip4(tcp(payload, sport, dport, seq, flags), TCP, IN_A, IN_B, df=True, **ip))


def inner_echo(seq: int = 1, payload: bytes = b"abcdefgh" * 4, **ip: int) -> bytes:
    return ethernet(ip4(echo(7, seq, payload), ICMP, IN_A, IN_B, df=True, **ip))


def pcap(
    records: list[tuple[int, bytes]] | list[tuple[int, bytes, int]],
    *,
    order: str = "<",
    nano: bool = False,
    link: int = 1,
    snaplen: int = 262144,
) -> bytes:
    """C(records): (nanoseconds, data[, length on the wire])."""
    found = struct.pack(order + "IHHiIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, snaplen, link)
    for time, data, *wire in records:
        fraction = time % 10**9 // (1 if nano else 1000)
        found += struct.pack(order + "IIII", time // 10**9, fraction, len(data), wire[0] if wire else len(data)) + data
    return found


def block(kind: int, body: bytes, order: str = "<", length: int | None = None, trailer: int | None = None) -> bytes:
    body += bytes(-len(body) % 4)
    total = len(body) + 12 if length is None else length
    return (
        struct.pack(order + "II", kind, total) + body + struct.pack(order + "I", total if trailer is None else trailer)
    )


def option(code: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str = "<", options: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, *version, -1) + options, order)


def interface(order: str = "<", link: int = 1, snaplen: int = 0, options: bytes = b"") -> bytes:
    return block(1, struct.pack(order + "HHI", link, 0, snaplen) + options, order)


def enhanced(
    data: bytes, order: str = "<", number: int = 0, time: int = 0, options: bytes = b"", wire: int = 0
) -> bytes:
    head = struct.pack(order + "IIIII", number, time >> 32, time & 0xFFFFFFFF, len(data), wire or len(data))
    return block(6, head + data + bytes(-len(data) % 4) + options, order)

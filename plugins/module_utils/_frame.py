# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One captured frame, decoded: link layer, VLAN tags, ARP or IP, transport, tunnels and what is inside, ICMP's quotes.

Bytes from a network or from a file: anything may come. Whatever is missing or contradicts itself is named in
C(Frame.problems), and what could be decoded before it stays. Every walk is bounded.
Sources: RFC 791, 8200 (IP), 768, 9293 (UDP, TCP), 792, 4443, 4884 (ICMP), 826 (ARP), 7348 (VXLAN), 8926 (Geneve),
draft-ietf-nvo3-vxlan-gpe, draft-smith-vxlan-group-policy, 4303 and 3948 (ESP), LINKTYPE_LINUX_SLL and SLL2.
"""

from __future__ import annotations

import struct
from collections.abc import Collection

from ansible_collections.crosshost.doctor.plugins.module_utils import _checksum
from ansible_collections.crosshost.doctor.plugins.module_utils._packet import (
    ESP,
    ESP_PORT,
    ETHERNET,
    GBP_FLAG,
    GENEVE_PORT,
    GPE_FLAG,
    GPE_PORT,
    I_FLAG,
    ICMP,
    ICMP6,
    LOOP,
    NULL,
    RAW,
    SLL,
    SLL2,
    TCP,
    UDP,
    VXLAN_PORTS,
    Frame,
    Packet,
    Tunnel,
)

_IPV4, _IPV6, _ARP, _TEB = 0x0800, 0x86DD, 0x0806, 0x6558
_TAGS = frozenset({0x8100, 0x88A8, 0x9100, 0x9200})
_LOOPBACK_FAMILIES = {2: _IPV4, 24: _IPV6, 28: _IPV6, 30: _IPV6, 10: _IPV6}
# Hop-by-hop, routing, destination options, mobility, HIP, shim6: all of the form "next, length in 8 bytes".
_EXTENSIONS = frozenset({0, 43, 60, 135, 139, 140})
_FRAGMENT, _AUTHENTICATION = 44, 51
_MAX_EXTENSIONS, _MAX_TAGS, MAX_DEPTH = 8, 4, 4
# What path_probe sends to a tunnel's port: a header that makes no claim, and the mark. Nobody's foreign protocol.
_OWN_PROBE = bytes(8) + b"crosshost.doctor "

_IP4 = struct.Struct("!BBHHHBBH4s4s").unpack_from
_IP6 = struct.Struct("!IHBB16s16s").unpack_from
_TCP = struct.Struct("!HHIIBBHH").unpack_from
_FOUR = struct.Struct("!HHHH").unpack_from
_ARP_4 = struct.Struct("!HHBBH6s4s6s4s").unpack_from


def decode(data: bytes, link_type: int, wire_length: int, ports: Collection[int] = VXLAN_PORTS) -> Frame:
    """Decode C(data), the captured part of a frame of C(wire_length) bytes; C(ports): where VXLAN is expected."""
    frame = Frame(data, link_type, wire_length)
    decoder = _Decoder(frame, ports)
    if link_type == ETHERNET:
        decoder.ethernet(0, 0)
    elif link_type == SLL:
        decoder.cooked()
    elif link_type == SLL2:
        decoder.cooked2()
    elif link_type in RAW:
        decoder.raw(0)
    elif link_type in (NULL, LOOP):
        decoder.loopback()
    else:
        frame.problems.append("link type not known")
    return frame


class _Decoder:
    def __init__(self, frame: Frame, ports: Collection[int]) -> None:
        self.frame, self.ports = frame, ports
        self.data = frame.data
        self.problems = frame.problems
        # Where packets go: into the frame, or into the quote of an ICMP error.
        self.into = frame.packets
        # The end of what may be decoded; quotes are cut off by nature, and not malformed for it.
        self.end = len(frame.data)
        self.quoting = False
        # Inside the first fragment of something: what is missing comes with the others.
        self.partial = False

    def cut(self, what: str) -> None:
        """Note that a header is not all there: cut by the capture, or too short by itself."""
        if self.quoting or self.partial:
            return
        self.problems.append(f"{what} {'not captured' if self.frame.truncated else 'cut off'}")

    # Link layers

    def ethernet(self, at: int, depth: int, tunnel_end: int | None = None) -> None:
        packet = Packet()
        end = self.end if tunnel_end is None else tunnel_end
        if at + 14 > end:
            self.cut("Ethernet header")
            return
        data = self.data
        packet.dmac, packet.smac = data[at : at + 6], data[at + 6 : at + 12]
        self.into.append(packet)
        self._after_link(packet, int.from_bytes(data[at + 12 : at + 14], "big"), at + 14, end, depth)

    def _after_link(self, packet: Packet, ethertype: int, at: int, end: int, depth: int) -> None:
        while ethertype in _TAGS:
            if at + 4 > end:
                self.cut("VLAN tag")
                return
            if len(packet.vlans) >= _MAX_TAGS:
                self.problems.append("too many VLAN tags")
                return
            packet.vlans += (int.from_bytes(self.data[at : at + 2], "big") & 0xFFF,)
            ethertype = int.from_bytes(self.data[at + 2 : at + 4], "big")
            at += 4
        packet.ethertype = ethertype
        if ethertype == _IPV4:
            self.ip4(packet, at, end, depth)
        elif ethertype == _IPV6:
            self.ip6(packet, at, end, depth)
        elif ethertype == _ARP:
            self.arp(packet, at, end)

    def cooked(self) -> None:
        """LINKTYPE_LINUX_SLL: packet type, ARPHRD type, address length, address, protocol."""
        if self.end < 16:
            self.cut("cooked header")
            return
        kind, _device, size, address, protocol = struct.unpack_from("!HHH8sH", self.data)
        self._cooked(kind, size, address, protocol, 16)

    def cooked2(self) -> None:
        """LINKTYPE_LINUX_SLL2: protocol, interface index, ARPHRD type, packet type, address length, address."""
        if self.end < 20:
            self.cut("cooked header")
            return
        protocol, self.frame.ifindex, _device, kind, size, address = struct.unpack_from("!HxxIHBB8s", self.data)
        self._cooked(kind, size, address, protocol, 20)

    def _cooked(self, kind: int, size: int, address: bytes, protocol: int, at: int) -> None:
        self.frame.out = kind == 4
        packet = Packet()
        if size == 6:
            packet.smac = address[:6]
        self.into.append(packet)
        self._after_link(packet, protocol, at, self.end, 0)

    def loopback(self) -> None:
        """BSD loopback: the address family in the byte order of the host that captured, or (LOOP) of the network."""
        if self.end < 4:
            self.cut("loopback header")
            return
        little, big = int.from_bytes(self.data[:4], "little"), int.from_bytes(self.data[:4], "big")
        packet = Packet()
        self.into.append(packet)
        ethertype = _LOOPBACK_FAMILIES.get(min(little, big))
        if ethertype:
            self._after_link(packet, ethertype, 4, self.end, 0)

    def raw(self, at: int) -> None:
        packet = Packet()
        self.into.append(packet)
        self._by_version(packet, at, self.end, 0)

    def _by_version(self, packet: Packet, at: int, end: int, depth: int) -> None:
        if at >= end:
            self.cut("IP header")
            return
        version = self.data[at] >> 4
        if version == 4:
            self.ip4(packet, at, end, depth)
        elif version == 6:
            self.ip6(packet, at, end, depth)
        else:
            self.problems.append("neither IPv4 nor IPv6")

    # Network layer

    def arp(self, packet: Packet, at: int, end: int) -> None:
        if at + 28 > end:
            self.cut("ARP")
            return
        hardware, protocol, hlen, plen, operation, sha, spa, tha, tpa = _ARP_4(self.data, at)
        if (hardware, protocol, hlen, plen) != (1, _IPV4, 6, 4):
            self.problems.append("ARP of another kind than Ethernet and IPv4")
            return
        packet.arp = (operation, sha, spa, tha, tpa)

    def ip4(self, packet: Packet, at: int, end: int, depth: int) -> None:
        if at + 20 > end:
            self.cut("IPv4 header")
            return
        first, tos, length, ident, bits, ttl, protocol, _sum, src, dst = _IP4(self.data, at)
        header = (first & 15) * 4
        if first >> 4 != 4 or header < 20:
            self.problems.append("no IPv4 header")
            return
        packet.version, packet.src, packet.dst = 4, src, dst
        packet.tos, packet.ttl, packet.ident, packet.protocol = tos, ttl, ident, protocol
        packet.df, packet.mf, packet.offset = bool(bits & 0x4000), bool(bits & 0x2000), (bits & 0x1FFF) * 8
        if at + header > end:
            self.cut("IPv4 options")
            return
        packet.header_ok = _checksum.header_ok(self.data[at : at + header])
        if not self._extent(packet, at, end, header, length):
            return
        packet.body = at + header
        self._transport(packet, protocol, depth)

    def ip6(self, packet: Packet, at: int, end: int, depth: int) -> None:
        if at + 40 > end:
            self.cut("IPv6 header")
            return
        first, payload, following, ttl, src, dst = _IP6(self.data, at)
        if first >> 28 != 6:
            self.problems.append("no IPv6 header")
            return
        packet.version, packet.src, packet.dst = 6, src, dst
        packet.tos, packet.ttl, packet.df = first >> 20 & 255, ttl, True
        packet.protocol = following
        if not self._extent(packet, at, end, 40, payload + 40 if payload else 0):
            return
        self._extensions(packet, following, at + 40, depth)

    def _extensions(self, packet: Packet, following: int, at: int, depth: int) -> None:
        for _number in range(_MAX_EXTENSIONS):
            if following not in _EXTENSIONS and following not in (_FRAGMENT, _AUTHENTICATION):
                packet.protocol, packet.body = following, at
                self._transport(packet, following, depth)
                return
            packet.protocol = following
            if at + 8 > packet.end:
                self.cut("IPv6 extension header")
                return
            if following == _FRAGMENT:
                bits = int.from_bytes(self.data[at + 2 : at + 4], "big")
                packet.offset, packet.mf, packet.df = bits & 0xFFF8, bool(bits & 1), False
                packet.ident = int.from_bytes(self.data[at + 4 : at + 8], "big")
                size = 8
            elif following == _AUTHENTICATION:
                size = (self.data[at + 1] + 2) * 4
            else:
                size = (self.data[at + 1] + 1) * 8
            following = self.data[at]
            at += size
            if packet.offset:
                # What follows is a piece of something: the fragment header's "next" is of the whole.
                packet.protocol, packet.body = following, at
                return
        self.problems.append("too many IPv6 extension headers")

    def _extent(self, packet: Packet, at: int, end: int, header: int, length: int) -> bool:
        """Where the IP packet ends; false where its length is impossible."""
        frame = self.frame
        # What the frame had on the wire from here on, whether captured or not.
        there = end - at + (max(0, frame.wire_length - len(self.data)) if end == len(self.data) else 0)
        if not length and there > 65535:
            length = there  # BIG TCP: longer than the field can say
        elif length < header:
            self.problems.append("IP length shorter than its header")
            return False
        packet.start, packet.length = at, length
        packet.end = min(at + length, end)
        packet.whole = at + length <= end
        if length > there and not self.quoting and not self.partial:
            self.problems.append("IP length longer than its frame")
        return True

    # Transport

    def _transport(self, packet: Packet, protocol: int, depth: int) -> None:
        if packet.offset:
            return
        self.partial = self.partial or packet.mf
        at, end = packet.body, packet.end
        if protocol == UDP:
            self.udp(packet, at, end, depth)
        elif protocol == TCP:
            self.tcp(packet, at, end)
        elif protocol in (ICMP, ICMP6):
            self.icmp(packet, at, end, depth)
        elif protocol == ESP:
            if at + 8 <= end:
                packet.spi = int.from_bytes(self.data[at : at + 4], "big")
            else:
                self.cut("ESP header")

    def tcp(self, packet: Packet, at: int, end: int) -> None:
        remaining = packet.start + packet.length - at
        if at + 20 > end:
            self.cut("TCP header")
            if at + 8 <= end:
                packet.sport, packet.dport, high, low = _FOUR(self.data, at)
                packet.seq = (high << 16) + low
            if at + 14 > end or remaining < 20:
                return
            # Its flags were captured, its checksum was not.
            size, packet.tcp_flags = self.data[at + 12], self.data[at + 13]
            packet.ack = int.from_bytes(self.data[at + 8 : at + 12], "big")
        else:
            packet.sport, packet.dport, packet.seq, packet.ack, size, packet.tcp_flags, _window, packet.sum = _TCP(
                self.data, at
            )
        header = (size >> 4) * 4
        if header < 20 or header > remaining:
            self.problems.append("TCP header of an impossible length")
            return
        packet.data, packet.data_length = min(at + header, end), remaining - header

    def udp(self, packet: Packet, at: int, end: int, depth: int) -> None:
        if at + 8 > end:
            self.cut("UDP header")
            return
        packet.sport, packet.dport, length, packet.sum = _FOUR(self.data, at)
        remaining = packet.start + packet.length - at
        if not length and remaining > 65535:
            length = remaining
        if length < 8:
            self.problems.append("UDP length shorter than its header")
            return
        if length > remaining and not packet.mf and not self.partial:
            self.problems.append("UDP length longer than its packet")
        packet.data, packet.data_length = at + 8, length - 8
        stop = min(end, at + length)
        if packet.dport in self.ports:
            self._vxlan(packet, at + 8, stop, depth)
        elif packet.dport == GPE_PORT:
            self._vxlan(packet, at + 8, stop, depth, gpe=True)
        elif packet.dport == GENEVE_PORT:
            self._geneve(packet, at + 8, stop, depth)
        elif ESP_PORT in (packet.sport, packet.dport) and at + 16 <= stop and any(self.data[at + 8 : at + 12]):
            packet.spi = int.from_bytes(self.data[at + 8 : at + 12], "big")

    def icmp(self, packet: Packet, at: int, end: int, depth: int) -> None:
        if at + 8 > end:
            self.cut("ICMP header")
            return
        data = self.data
        packet.icmp_type, packet.icmp_code = data[at], data[at + 1]
        packet.sum = int.from_bytes(data[at + 2 : at + 4], "big")
        packet.icmp_id, packet.icmp_seq = struct.unpack_from("!HH", data, at + 4)
        packet.data, packet.data_length = at + 8, packet.start + packet.length - at - 8
        if packet.protocol == ICMP:
            error = packet.icmp_type in (3, 11, 12)
            if (packet.icmp_type, packet.icmp_code) == (3, 4):
                packet.mtu = packet.icmp_seq
        else:
            error = 0 < packet.icmp_type < 5
            if packet.icmp_type == 2:
                packet.mtu = (packet.icmp_id << 16) + packet.icmp_seq
        if error and not self.quoting:
            self._quote(packet, at + 8, end, depth)

    def _quote(self, packet: Packet, at: int, end: int, depth: int) -> None:
        """The packet that an ICMP error complains about, as far as it is quoted (RFC 792, RFC 4443 §2.4(c))."""
        packet.quote = []
        before, self.into, self.quoting = self.into, packet.quote, True
        problems, self.problems = self.problems, []
        quoted = Packet()
        packet.quote.append(quoted)
        self._by_version(quoted, at, end, depth)
        self.into, self.quoting, self.problems = before, False, problems

    # Tunnels

    def _vxlan(self, packet: Packet, at: int, end: int, depth: int, gpe: bool = False) -> None:
        if at + 8 > end:
            # A quote of eight bytes ends here by design.
            self.cut("VXLAN header")
            return
        raw = self.data[at : at + 8]
        if self.data.startswith(_OWN_PROBE, at):
            return
        tunnel = packet.tunnel = Tunnel("vxlan", raw)
        following = _TEB
        if gpe or _is_gpe(raw):
            tunnel.kind = "gpe"
            following = {1: _IPV4, 2: _IPV6, 3: _TEB, 4: 0x894F}.get(raw[3], 0) if raw[0] & GPE_FLAG else _TEB
            tunnel.reserved = raw[7]
        else:
            if not raw[0] & I_FLAG and self._foreign(tunnel, at, end):
                if tunnel.kind == "geneve":
                    self._geneve(packet, at, end, depth)
                return
            _reserved(tunnel)
        self._inside(following, at + 8, end, depth)

    def _foreign(self, tunnel: Tunnel, at: int, end: int) -> bool:
        """Whether what has no I flag is no VXLAN at all; sets the kind."""
        raw = tunnel.raw
        if raw[0] >> 6 == 0 and not raw[1] & 0x3F and raw[2:4] == b"\x65\x58":
            tunnel.kind = "geneve"
            return True
        # VXLAN but for the flag: nothing reserved is set, and an Ethernet frame of a known kind is inside.
        inner = int.from_bytes(self.data[at + 20 : at + 22], "big") if at + 22 <= end else 0
        if not any(raw[:4]) and not raw[7] and inner in (_IPV4, _IPV6, _ARP, *_TAGS):
            return False
        tunnel.kind = "foreign"
        return True

    def _geneve(self, packet: Packet, at: int, end: int, depth: int) -> None:
        if at + 8 > end:
            self.cut("Geneve header")
            return
        raw = self.data[at : at + 8]
        packet.tunnel = Tunnel("geneve", raw)
        if raw[0] >> 6:
            self.problems.append("Geneve of a version nobody knows")
            return
        self._inside(int.from_bytes(raw[2:4], "big"), at + 8 + (raw[0] & 0x3F) * 4, end, depth)

    def _inside(self, ethertype: int, at: int, end: int, depth: int) -> None:
        if depth + 1 >= MAX_DEPTH:
            self.problems.append("too many tunnels inside each other")
        elif ethertype == _TEB:
            self.ethernet(at, depth + 1, end)
        elif ethertype in (_IPV4, _IPV6):
            packet = Packet()
            self.into.append(packet)
            self._by_version(packet, at, end, depth + 1)


def _is_gpe(raw: bytes) -> bool:
    """Whether the P bit says what it means in VXLAN-GPE: no version, nothing else set, and a known next protocol."""
    return raw[0] & 0xF7 == GPE_FLAG and not raw[1] and not raw[2] and 0 < raw[3] < 5


def _reserved(tunnel: Tunnel) -> None:
    """Set C(policy) and C(reserved)."""
    word = int.from_bytes(tunnel.raw[:4], "big") & ~(I_FLAG << 24)
    if tunnel.flags & GBP_FLAG:
        # G, D and A bits and the policy ID are defined; Linux takes no other with them.
        tunnel.policy = word & 0xFFFF
        word &= ~0x8048FFFF
    tunnel.reserved = word & 0xFFFFFF00 | word & 0xFF | tunnel.raw[7]

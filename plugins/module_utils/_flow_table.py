# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Flows: the packets of a capture that go from one end to one other, each direction by itself, seen by one tap."""

from __future__ import annotations

import socket
import typing as t
from collections.abc import Hashable

from ansible_collections.crosshost.doctor.plugins.module_utils import _packet
from ansible_collections.crosshost.doctor.plugins.module_utils._packet import Frame, Packet

NAMES = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 51: "ah", 58: "icmp6", 132: "sctp"}
ARP = "arp"
# A segment that comes this much after it was passed over was reordered by the network, not sent again.
_REORDERED_NS = 3_000_000
_HALF = 1 << 31
_SEQUENCE = 0xFFFFFFFF
# More different values of a field are not listed.
_MAX_VALUES = 16

Key = tuple[Hashable, ...]
Endpoints = tuple[t.Union[int, str, None], bytes, bytes, int, int]


def mac_text(mac: bytes | None) -> str | None:
    """A MAC address as people write it."""
    return mac.hex(":") if mac else None


def ip_text(address: bytes) -> str | None:
    """An address of four or sixteen bytes as people write it."""
    if len(address) == 4:
        return socket.inet_ntop(socket.AF_INET, address)
    return socket.inet_ntop(socket.AF_INET6, address) if len(address) == 16 else None


def endpoints(packet: Packet) -> Endpoints:
    """Protocol, source, destination, and what tells flows between the same two hosts apart: ports; of ICMP the type
    with the code, and the identifier."""
    if packet.arp:
        return ARP, packet.arp[2], packet.arp[4], packet.arp[0], 0
    if packet.icmp_type >= 0:
        return packet.protocol, packet.src, packet.dst, packet.icmp_type << 8 | packet.icmp_code, packet.icmp_id
    if packet.spi is not None:
        return "esp", packet.src, packet.dst, packet.sport, packet.spi
    return packet.protocol, packet.src, packet.dst, packet.sport, packet.dport


def protocol_text(protocol: int | str | None, ethertype: int | None) -> str:
    """The name of what a packet carries; numbers where there is none."""
    if isinstance(protocol, str):
        return protocol
    if protocol is not None:
        return NAMES.get(protocol, f"ip-{protocol}")
    return f"ethertype-0x{ethertype:04x}" if ethertype is not None else "unknown"


class Flow:
    """A flow and what is counted of it. C(bytes): on the wire, link layer included. Times in nanoseconds."""

    __slots__ = (
        "bad_checksums",
        "bytes",
        "checksum",
        "dns",
        "ends",
        "ethertype",
        "first",
        "fragments",
        "holes",
        "hop",
        "largest",
        "largest_outer",
        "last",
        "macs",
        "next",
        "out",
        "outer",
        "outer_tos",
        "packets",
        "passed",
        "reordered",
        "retransmissions",
        "tap",
        "tcp_flags",
        "tos",
        "ttls",
        "tunnel",
        "vlans",
    )

    def __init__(self, tap: str, packet: Packet, outer: Packet | None, time_ns: int, out: bool | None) -> None:
        self.tap, self.out = tap, out
        self.ends = endpoints(packet)
        self.ethertype = packet.ethertype
        self.macs = (packet.smac, packet.dmac)
        self.vlans = packet.vlans
        # What is not decoded further ends at its tunnel's header: then the packet is its own outer one.
        self.outer = endpoints(outer) if outer else None
        self.tunnel = outer.tunnel if outer else packet.tunnel
        self.hop = outer.vlans if outer else ()
        self.first = self.last = time_ns
        self.packets = self.bytes = self.fragments = 0
        self.largest = self.largest_outer = 0
        self.tos: set[int] = set()
        self.outer_tos: set[int] = set()
        self.ttls: set[int] = set()
        self.checksum = "unknown"
        self.bad_checksums = 0
        self.tcp_flags = 0
        # TCP: the sequence number after the last byte sent so far, how often it jumped ahead, and when.
        self.next: int | None = None
        self.holes = self.passed = 0
        self.retransmissions = self.reordered = 0
        self.dns: dict[str, t.Any] | None = None

    def segment(self, sequence: int, length: int, time_ns: int) -> None:
        """Count a TCP segment with C(length) > 0 bytes of data from C(sequence) on (RFC 9293 §3.4: modulo 2^32)."""
        end = (sequence + length) & _SEQUENCE
        if self.next is None:
            self.next = end
            return
        ahead = (end - self.next) & _SEQUENCE
        if 0 < ahead < _HALF:
            if 0 < (sequence - self.next) & _SEQUENCE < _HALF:
                self.holes += 1
                self.passed = time_ns
            self.next = end
        elif self.holes and time_ns - self.passed < _REORDERED_NS:
            self.holes -= 1
            self.reordered += 1
        else:
            self.retransmissions += 1

    def as_dict(self) -> dict[str, t.Any]:
        """The flow as the module returns it."""
        protocol, src, dst, first, second = self.ends
        name = protocol_text(protocol, self.ethertype)
        ported = protocol in (_packet.TCP, _packet.UDP, 132)
        row: dict[str, t.Any] = {
            "tap": self.tap,
            "out": self.out,
            "protocol": name,
            "src": ip_text(src),
            "dst": ip_text(dst),
            "sport": first if ported else None,
            "dport": second if ported else None,
            "smac": mac_text(self.macs[0]),
            "dmac": mac_text(self.macs[1]),
            "vlans": list(self.vlans),
            "tunnel": self.tunnel.kind if self.tunnel else None,
            "vni": self.tunnel.vni if self.tunnel and self.tunnel.valid else None,
            "policy": self.tunnel.policy if self.tunnel else None,
            "outer": self._outer(),
            "packets": self.packets,
            "bytes": self.bytes,
            "first": self.first / 1e9,
            "last": self.last / 1e9,
            "largest": self.largest,
            "fragments": self.fragments,
            "dscp": sorted({tos >> 2 for tos in self.tos}),
            "ecn": sorted({tos & 3 for tos in self.tos}),
            "ttl": sorted(self.ttls),
            "checksum": self.checksum,
            "bad_checksums": self.bad_checksums,
            "icmp": None,
            "tcp": None,
            "spi": second if protocol == "esp" else None,
            "dns": self._dns(),
        }
        if protocol in (_packet.ICMP, _packet.ICMP6):
            row["icmp"] = {"type": first >> 8, "code": first & 255, "id": second}
        elif protocol == _packet.TCP:
            flags = self.tcp_flags
            row["tcp"] = {
                "syn": bool(flags & _packet.SYN),
                "fin": bool(flags & _packet.FIN),
                "rst": bool(flags & _packet.RST),
                "retransmissions": self.retransmissions,
                "reordered": self.reordered,
            }
        return row

    def _outer(self) -> dict[str, t.Any] | None:
        if not self.outer:
            return None
        _protocol, src, dst, sport, dport = self.outer
        return {
            "src": ip_text(src),
            "dst": ip_text(dst),
            "sport": sport,
            "dport": dport,
            "vlans": list(self.hop),
            "dscp": sorted({tos >> 2 for tos in self.outer_tos}),
            "ecn": sorted({tos & 3 for tos in self.outer_tos}),
            "largest": self.largest_outer,
        }

    def _dns(self) -> dict[str, t.Any] | None:
        if not self.dns:
            return None
        found = dict(self.dns)
        times = found.pop("times")
        count, total, low, high = times
        found["latency"] = (
            {"min": round(low / 1e9, 6), "avg": round(total / count / 1e9, 6), "max": round(high / 1e9, 6)}
            if count
            else None
        )
        return found


class FlowTable:
    """All flows of a capture, at most C(limit); what belongs to further ones is counted."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.flows: dict[Key, Flow] = {}
        # To recognise a packet that somebody quotes, whatever tap saw it.
        self.known: set[Endpoints] = set()
        self.overflow = 0

    def find(
        self, tap: str, frame: Frame, packet: Packet, outer: Packet | None, time_ns: int, out: bool | None
    ) -> Flow | None:
        """The flow of C(packet), made if it is new; None: there is no room for it."""
        ends = endpoints(packet)
        tunnel = outer.tunnel if outer else packet.tunnel
        key: Key = (tap, frame.ifindex, ends, packet.ethertype, packet.vlans)
        if ends[0] is None:
            key += (packet.smac, packet.dmac)
        if tunnel:
            key += (tunnel.kind, tunnel.vni, endpoints(outer) if outer else None)
        flow = self.flows.get(key)
        if flow is None:
            if len(self.flows) >= self.limit:
                self.overflow += 1
                return None
            flow = self.flows[key] = Flow(tap, packet, outer, time_ns, out)
            self.known.add(ends)
        return flow

    def rows(self, limit: int) -> list[dict[str, t.Any]]:
        """The flows with the most bytes first, at most C(limit)."""
        ordered = sorted(self.flows.values(), key=_by_weight)
        return [flow.as_dict() for flow in ordered[:limit]]


def _by_weight(flow: Flow) -> tuple[int, int]:
    return -flow.bytes, flow.first


def note(values: set[int], value: int) -> None:
    """Add to a set that does not grow beyond what anybody reads."""
    if len(values) < _MAX_VALUES:
        values.add(value)

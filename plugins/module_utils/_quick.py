# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The short way of a frame that is like one seen before: one look at what stays the same, one at what changes.

All headers that stay the same all through a flow are compared at once, as one number with the rest masked out. What
remains is lengths, TCP's sequence number and flags, and checksums where they can be judged. Anything unexpected there
sends the frame the long way, C(examine), which decodes it in full. That also happens to the first of its kind.
"""

from __future__ import annotations

import struct
import typing as t
from collections import Counter
from collections.abc import Callable, Collection

from ansible_collections.crosshost.doctor.plugins.module_utils import _checksum, _packet
from ansible_collections.crosshost.doctor.plugins.module_utils._anomalies import Anomaly
from ansible_collections.crosshost.doctor.plugins.module_utils._flow_table import Flow
from ansible_collections.crosshost.doctor.plugins.module_utils._packet import Frame
from ansible_collections.crosshost.doctor.plugins.module_utils._pcap import MAX_WIRE, Consume

# time_ns, length on the wire, data, out, csum_ready, gso: see Analysis.add
Feed = Callable[[int, int, t.Union[bytes, memoryview], t.Optional[bool], t.Optional[bool], bool], None]
# Of a frame that came before: its flow, its innermost protocol, the anomalies that every frame like it repeats.
Known = tuple[Flow, int, tuple[Anomaly, ...]]
Examine = Callable[
    [str, int, int, int, bytes, t.Optional[bool], t.Optional[bool], bool],
    t.Optional[Known],
]

_TCP, _UDP, _ICMP = _packet.TCP, _packet.UDP, _packet.ICMP
# Of a segment that is more than data: these are answers or want one, and FIN has to be noted.
_OPENING = _packet.SYN | _packet.RST
_SPECIAL = _OPENING | _packet.FIN


def _mask(size: int, *kept: tuple[int, int]) -> int:
    """A mask of C(size) bytes that keeps the given stretches (first, last)."""
    mask = bytearray(size)
    for first, last in kept:
        for place in range(first, last + 1):
            mask[place] = 0xFF
    return int.from_bytes(mask, "big")


# Where what stays the same stands in an untagged Ethernet frame of IPv4 without options, plain and in VXLAN. Not:
# lengths, identifications, checksums. Of ICMP the checksum gives way to the identifier behind it.
_PLAIN_SIZE, _VXLAN_SIZE = 40, 90
_PLAIN = _mask(_PLAIN_SIZE, (0, 15), (20, 23), (26, 37))
_PLAIN_ICMP = _mask(_PLAIN_SIZE, (0, 15), (20, 23), (26, 35), (38, 39))
_VXLAN = _mask(_VXLAN_SIZE, (0, 15), (20, 23), (26, 37), (42, 65), (70, 73), (76, 87))
_VXLAN_ICMP = _mask(_VXLAN_SIZE, (0, 15), (20, 23), (26, 37), (42, 65), (70, 73), (76, 85), (88, 89))
_PROTOCOL, _INNER_PROTOCOL = 23, 73
# The same with the lengths, and TCP's header length and flags: what stays the same in most frames of most flows. One
# that is like another even in these has nothing left to be compared but its sequence number.
_EXACT_SIZE = 98
_EXACT_TCP = _mask(_EXACT_SIZE, (0, 17), (20, 23), (26, 39), (42, 67), (70, 73), (76, 87), (96, 97))
_EXACT_UDP = _mask(_EXACT_SIZE, (0, 17), (20, 23), (26, 39), (42, 67), (70, 73), (76, 89))
_EXACT_ICMP = _mask(_EXACT_SIZE, (0, 17), (20, 23), (26, 39), (42, 67), (70, 73), (76, 85), (88, 89))
_MOST_EXACT = 16384
# What changes: IP length; UDP length and the inner IP length; TCP's sequence number, or UDP's length before its
# checksum; TCP's header length and flags.
_PLAIN_FIELDS = struct.Struct("!16xH20xI4xH").unpack_from
_VXLAN_FIELDS = struct.Struct("!16xH20xH26xH20xI4xH").unpack_from
# A frame must reach this far: to the end of UDP's header and of an echo's, of TCP to its flags.
_PLAIN_LEAST, _VXLAN_LEAST = 42, 92
_PLAIN_TCP_LEAST, _VXLAN_TCP_LEAST = 48, 98


class Seams(t.NamedTuple):
    """What the short way has of the analysis: the long way; what is counted; the mark's bytes, which make a frame take
    the long way; the largest IP packet that is not too long; how many kinds of frames are remembered."""

    examine: Examine
    counts: Counter[str]
    pattern: bytes
    path_mtu: int
    most: int


class Quick:
    """The short way of one Ethernet tap."""

    def __init__(self, tap: str, seams: Seams) -> None:
        self.tap, self.seams = tap, seams
        self.inside: dict[int, Known] = {}
        self.outside: dict[int, Known] = {}
        self.feed = self._feeder()

    def learn(self, data: bytes | memoryview, known: Known) -> None:
        """Remember what a frame is, for others like it."""
        flow, protocol, _repeated = known
        if flow.outer:
            size, mask, into = _VXLAN_SIZE, _VXLAN_ICMP if protocol == _ICMP else _VXLAN, self.inside
        else:
            size, mask, into = _PLAIN_SIZE, _PLAIN_ICMP if protocol == _ICMP else _PLAIN, self.outside
        if len(data) >= size and len(into) < self.seams.most:
            into[int.from_bytes(data[:size], "big") & mask] = known

    def _feeder(self) -> Feed:
        inside_get, outside_get, from_bytes = self.inside.get, self.outside.get, int.from_bytes
        examine, learn, tap, mark = self.seams.examine, self.learn, self.tap, self.seams.pattern
        counts = self.seams.counts
        # Frames that reach further are looked at for their length.
        largest = self.seams.path_mtu + 14

        def feed(
            time_ns: int,
            wire: int,
            data: bytes | memoryview,
            out: bool | None = None,
            ready: bool | None = None,
            gso: bool = False,
        ) -> None:
            size = len(data)
            if mark and mark in bytes(data):
                known = None
            elif size >= _VXLAN_LEAST and (
                known := inside_get(
                    from_bytes(data[:_VXLAN_SIZE], "big") & (_VXLAN_ICMP if data[_INNER_PROTOCOL] == _ICMP else _VXLAN)
                )
            ):
                head = data if size >= _VXLAN_TCP_LEAST else bytes(data).ljust(_VXLAN_TCP_LEAST, b"\0")
                whole, datagram, length, number, flags = _VXLAN_FIELDS(head)
                if (
                    whole == datagram + 20 == length + 50
                    and size <= wire == whole + 14
                    and wire <= largest
                    and (size >= _VXLAN_TCP_LEAST or known[1] != _TCP)
                    and (not ready or out or gso or _right(data, size == wire))
                    and _regular(known, length, whole, number, flags, wire, time_ns)
                ):
                    if size < wire:
                        counts["truncated"] += 1
                    return
            elif size >= _PLAIN_LEAST and (
                known := outside_get(
                    from_bytes(data[:_PLAIN_SIZE], "big") & (_PLAIN_ICMP if data[_PROTOCOL] == _ICMP else _PLAIN)
                )
            ):
                head = data if size >= _PLAIN_TCP_LEAST else bytes(data).ljust(_PLAIN_TCP_LEAST, b"\0")
                length, number, flags = _PLAIN_FIELDS(head)
                # Short frames are filled up to 60 bytes.
                if (
                    size <= wire
                    and (wire == length + 14 or length + 14 < wire == 60)
                    and (size >= _PLAIN_TCP_LEAST or known[1] != _TCP)
                    and (not ready or out or gso or _right_plain(data, length, size >= length + 14))
                    and _regular(known, length, 0, number, flags, wire, time_ns)
                ):
                    if size < wire:
                        counts["truncated"] += 1
                    return
            known = examine(tap, _packet.ETHERNET, time_ns, wire, bytes(data), out, ready, gso)
            if known:
                learn(data, known)

        return feed

    def consumer(self, order: str, unit: int, odd: Callable[[bool, int, int], int]) -> Consume | None:  # noqa: C901
        """Takes in the records of a classic pcap file in one loop; C(order): their byte order as C(struct) has it,
        C(unit): nanoseconds per fraction, C(odd): to count a record that contradicts itself, and its length to go on
        with. None: with a mark every frame has to be searched, C(feed) does that.

        It is C(feed) for VXLAN once more, without the calls: they would cost as much as all the rest.
        """
        if self.seams.pattern:
            return None
        inside_get, from_bytes, feed, counts = self.inside.get, int.from_bytes, self.feed, self.seams.counts
        largest = min(self.seams.path_mtu, 65535) + 14
        header, short_header = struct.Struct(f"{order}IIII{_EXACT_SIZE}s"), struct.Struct(f"{order}IIII")
        look, look_short = header.unpack_from, short_header.unpack_from
        fields = struct.Struct("!16x16xH20xH26xH20xI4xH").unpack_from
        least = 16 + _VXLAN_TCP_LEAST
        sequence_at = struct.Struct("!104xI").unpack_from
        over = 10**9 // unit
        # Flow, length on the wire, bytes of TCP's data.
        exact: dict[int, tuple[Flow, int, int]] = {}
        exact_get = exact.get

        def consume(data: bytes, at: int, most: int) -> tuple[int, int]:  # noqa: C901
            end, number, short, second, base = len(data), 0, 0, 0, 0
            final, tcp_least = end - least, _VXLAN_TCP_LEAST
            vxlan, vxlan_icmp, tcp, udp, icmp, special = _VXLAN, _VXLAN_ICMP, _TCP, _UDP, _ICMP, _SPECIAL
            exact_tcp, exact_udp, exact_icmp = _EXACT_TCP, _EXACT_UDP, _EXACT_ICMP
            while at + 16 <= end and number < most:
                if at > final:
                    # The file's last frames, and those that reach into what has not been read yet.
                    seconds, fraction, size, wire = look_short(data, at)
                    after = at + 16 + size
                    if after > end:
                        break
                else:
                    seconds, fraction, size, wire, head = look(data, at)
                    after = at + 16 + size
                    if after > end:
                        break
                    whole_head = from_bytes(head, "big")
                    kind = head[73]
                    key = whole_head & (exact_tcp if kind == tcp else exact_udp if kind == udp else exact_icmp)
                    same = exact_get(key)
                    if same is not None:
                        flow, length, payload = same
                        if tcp_least <= size <= wire == length and fraction < over:
                            if seconds != second:
                                second, base = seconds, seconds * 1_000_000_000
                            if payload:
                                (sequence,) = sequence_at(data, at)
                                if sequence == flow.next:
                                    flow.next = (sequence + payload) & 0xFFFFFFFF
                                else:
                                    flow.segment(sequence, payload, base + fraction * unit)
                            flow.packets += 1
                            flow.bytes += wire
                            flow.last = base + fraction * unit
                            if size < wire:
                                short += 1
                            at = after
                            number += 1
                            continue
                    known = inside_get(whole_head >> 64 & (vxlan_icmp if kind == icmp else vxlan))
                    if known is not None:
                        whole, datagram, length, sequence, flags = fields(data, at)
                        if (
                            whole == datagram + 20 == length + 50
                            and _VXLAN_LEAST <= size <= wire == whole + 14 <= largest
                            and fraction < over
                        ):
                            if seconds != second:
                                second, base = seconds, seconds * 1_000_000_000
                            flow, protocol, repeated = known
                            if protocol == tcp:
                                payload = length - 20 - (flags >> 10 & 60)
                                regular = not flags & special and flags >= 0x5000 and payload >= 0 and size >= tcp_least
                                if payload and regular:
                                    if sequence == flow.next:
                                        flow.next = (sequence + payload) & 0xFFFFFFFF
                                    else:
                                        flow.segment(sequence, payload, base + fraction * unit)
                            elif protocol == udp:
                                regular = sequence >> 16 == length - 20
                            else:
                                regular = length >= 28
                            if regular:
                                flow.packets += 1
                                flow.bytes += wire
                                flow.last = base + fraction * unit
                                if length > flow.largest:
                                    flow.largest, flow.largest_outer = length, whole
                                if size < wire:
                                    short += 1
                                if repeated:
                                    _repeat(repeated, flow.last)
                                elif size >= tcp_least and len(exact) < _MOST_EXACT:
                                    exact[key] = (flow, wire, payload if protocol == tcp else 0)
                                at = after
                                number += 1
                                continue
                if fraction >= over or not size <= wire <= MAX_WIRE:
                    wire = odd(fraction >= over, size, wire)
                feed(seconds * 1_000_000_000 + fraction * unit, wire, data[at + 16 : after], None, None, False)
                at = after
                number += 1
            if short:
                counts["truncated"] += short
            return at, number

        return consume


def _regular(known: Known, length: int, whole: int, number: int, flags: int, wire: int, time_ns: int) -> bool:
    """Count a frame whose headers are known, if what changes in them is nothing special.

    C(length): of the innermost IP packet, C(whole): of the outer one. C(number): the 32 bits that begin TCP's sequence
    number or UDP's length; C(flags): TCP's header length and flags.
    """
    flow, protocol, repeated = known
    if protocol == _TCP:
        payload = length - 20 - (flags >> 10 & 60)
        if flags & _OPENING or flags < 0x5000 or payload < 0:
            return False
        if flags & _packet.FIN:
            flow.tcp_flags |= _packet.FIN
        elif payload:
            flow.segment(number, payload, time_ns)
    elif not (number >> 16 == length - 20 if protocol == _UDP else length >= 28):
        return False
    flow.packets += 1
    flow.bytes += wire
    flow.last = time_ns
    if length > flow.largest:
        flow.largest, flow.largest_outer = length, whole
    _repeat(repeated, time_ns)
    return True


def _repeat(anomalies: tuple[Anomaly, ...], time_ns: int) -> None:
    for anomaly in anomalies:
        anomaly.count += 1
        anomaly.first = min(anomaly.first, time_ns)
        anomaly.last = max(anomaly.last, time_ns)


def alike(frame: Frame, ports: Collection[int]) -> bool:
    """Whether others with the same headers may take the short way: untagged Ethernet, IPv4 without options, TCP, UDP
    or an echo, in no tunnel or in one of VXLAN; nothing wrong, and nothing that has to be looked into each time."""
    packets = frame.packets
    if frame.problems or not 1 <= len(packets) <= 2 or frame.link_type != _packet.ETHERNET:
        return False
    for packet in packets:
        if (
            packet.version != 4
            or packet.vlans
            or packet.body - packet.start != 20
            or not packet.data
            or packet.fragment
        ):
            return False
    inner = packets[-1]
    if len(packets) == 2 and (packets[0].tunnel is None or packets[0].tunnel.kind != "vxlan" or inner.start != 64):
        return False
    if inner.tunnel or inner.protocol not in (_TCP, _UDP, _ICMP) or inner.spi is not None:
        return False
    if inner.protocol == _UDP:
        special = (53, _packet.GPE_PORT, _packet.GENEVE_PORT, _packet.ESP_PORT)
        return not (inner.sport in special or inner.dport in special or inner.dport in ports)
    return inner.protocol == _TCP or inner.icmp_type in (0, 8)


def _right(data: bytes | memoryview, whole: bool) -> bool:
    """Whether all checksums of a VXLAN frame of the short way are right; of one that was cut, those of the IP headers.

    The addresses stand right before UDP's and TCP's header: summed from there on, only protocol and length are missing
    for the pseudo header.
    """
    frame = bytes(data)
    if _checksum.total(frame[14:34]) or _checksum.total(frame[64:84]):
        return False
    if not whole:
        return True
    if frame[40:42] != b"\0\0" and (_checksum.total(frame[26:]) + _UDP + len(frame) - 34) % 65535:
        return False
    return _right_transport(frame, 76)


def _right_plain(data: bytes | memoryview, length: int, whole: bool) -> bool:
    frame = bytes(data[: 14 + length])
    return not _checksum.total(frame[14:34]) and (not whole or _right_transport(frame, 26))


def _right_transport(frame: bytes, addresses: int) -> bool:
    protocol, start = frame[addresses - 3], addresses + 8
    if protocol == _ICMP:
        return _checksum.total(frame[start:]) == 0
    if protocol == _UDP and frame[start + 6 : start + 8] == b"\0\0":
        return True
    return (_checksum.total(frame[addresses:]) + protocol + len(frame) - start) % 65535 == 0

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sightings: what a tap saw of our probes, packet by packet, so that one can be followed from tap to tap.

Echoes, datagrams and requests carry the mark in their payload. TCP's first segment carries none: it is known by its
initial sequence number, which network address translation leaves alone. ARP, ESP and ICMP errors between the hosts of
a path are sightings too, whoever caused them: the engine decides which of them belong.
"""

from __future__ import annotations

import typing as t
from collections.abc import Hashable

from ansible_collections.crosshost.doctor.plugins.module_utils import _checksum, _faults, _flow_table, _packet
from ansible_collections.crosshost.doctor.plugins.module_utils._packet import Frame, Packet

_ECHO = {(_packet.ICMP, 8): "echo", (_packet.ICMP6, 128): "echo", (_packet.ICMP, 0): "echo-reply"}
_ECHO[(_packet.ICMP6, 129)] = "echo-reply"
_MAX_PROBE_ID = 96
_MAX_FRAGMENTS = 4096
_MAX_SEQUENCES = 8192

Probe = tuple[t.Union[str, None], t.Union[int, None]]


class Sightings:
    """All sightings of the mark, at most C(limit); half of them may be of packets that carry no mark."""

    def __init__(self, mark: str, limit: int) -> None:
        self.pattern = b"crosshost.doctor " + mark.encode("ascii", "replace") + b" "
        self.limit = limit
        self.rows: list[dict[str, t.Any]] = []
        self.unmarked = 0
        self.overflow = 0
        # First fragments, for the later ones: what probe they are of, and what kind of packet.
        self.fragments: dict[tuple[Hashable, ...], tuple[Probe, str]] = {}
        self.sequences: set[int] = set()

    def see(self, tap: str, time_ns: int, frame: Frame, out: bool | None, ready: bool | None, gso: bool) -> None:
        """Take in a frame."""
        if not frame.packets:
            return
        packet = frame.packets[-1]
        marked = self._mark(frame.data)
        kind, probe = self._kind(frame, packet, marked)
        if kind is None:
            return
        if packet.fragment == "first":
            self._remember(tap, packet, probe, kind)
        carrier = frame.packets[0]
        if carrier.fragment == "first" and carrier is not packet:
            self._remember(tap, carrier, probe, kind)
        if len(self.rows) >= self.limit or (probe[0] is None and self.unmarked >= self.limit // 2):
            self.overflow += 1
            return
        self.unmarked += probe[0] is None
        self.rows.append(_row(tap, time_ns, frame, packet, kind, probe, out, _faults.judge(out, ready, gso)))

    def _mark(self, data: bytes) -> Probe | None:
        """The probe's id and number, where C(data) has the mark; either is None where it was cut off."""
        at = data.find(self.pattern)
        if at < 0:
            return None
        at += len(self.pattern)
        words = data[at : at + _MAX_PROBE_ID + 24].split(b" ", 1)
        if len(words) < 2:
            # Not even the whole name: a part of it could be another's.
            return None, None
        digits = 0
        rest = words[1]
        while digits < len(rest) and digits < 10 and rest[digits : digits + 1].isdigit():
            digits += 1
        return words[0].decode("ascii", "replace"), int(rest[:digits]) if digits else None

    def _kind(self, frame: Frame, packet: Packet, marked: Probe | None) -> tuple[str | None, Probe]:
        """What the packet is to us, None if nothing, and the probe."""
        nobody: Probe = (None, None)
        if packet.arp:
            return {1: "arp-request", 2: "arp-reply"}.get(packet.arp[0]), nobody
        if packet.offset or (not packet.data and packet.spi is None and packet.version):
            probe, kind = self.fragments.get(_fragment(packet), (nobody, None))
            return kind, probe
        if packet.spi is not None:
            return "esp", nobody
        if packet.quote is not None:
            return "icmp-error", marked or self._quoted(packet.quote)
        if packet.protocol == _packet.TCP:
            return self._segment(packet, marked)
        if not marked:
            return None, nobody
        if packet.protocol == _packet.UDP:
            return "udp", marked
        return _ECHO.get((packet.protocol or 0, packet.icmp_type)), marked

    def _segment(self, packet: Packet, marked: Probe | None) -> tuple[str | None, Probe]:
        flags = packet.tcp_flags
        if flags & _packet.RST:
            return "rst", (None, (packet.ack - 1) & 0xFFFFFFFF if flags & _packet.ACK else packet.seq)
        if flags & _packet.SYN:
            if flags & _packet.ACK:
                return "syn-ack", (None, (packet.ack - 1) & 0xFFFFFFFF)
            if len(self.sequences) < _MAX_SEQUENCES:
                self.sequences.add(packet.seq)
            return "syn", (None, packet.seq)
        return ("data", marked) if marked else (None, (None, None))

    def _quoted(self, quote: list[Packet]) -> Probe:
        inner = quote[-1]
        if inner.protocol == _packet.TCP and inner.seq in self.sequences:
            return None, inner.seq
        return None, None

    def _remember(self, tap: str, packet: Packet, probe: Probe, kind: str) -> None:
        if len(self.fragments) >= _MAX_FRAGMENTS:
            # Fragments of one packet come together: the oldest is of no use any more.
            del self.fragments[next(iter(self.fragments))]
        self.fragments[_fragment(packet)] = (probe, kind)


def _fragment(packet: Packet) -> tuple[Hashable, ...]:
    """What the fragments of a packet have in common (RFC 791 §3.2, RFC 8200 §4.5)."""
    return packet.src, packet.dst, packet.ident, packet.protocol


def _state(found: str | None, judge: bool | None) -> str:
    if judge is False or found is None:
        return "unknown"
    if found in (_checksum.OK, _checksum.NONE):
        return "ok"
    return "bad" if judge else "unknown"


def _row(
    tap: str, time_ns: int, frame: Frame, packet: Packet, kind: str, probe: Probe, out: bool | None, judge: bool | None
) -> dict[str, t.Any]:
    outer = frame.packets[-2] if len(frame.packets) > 1 else None
    carrier = outer or (packet if packet.tunnel else None)
    src, dst = (packet.arp[2], packet.arp[4]) if packet.arp else (packet.src, packet.dst)
    ported = packet.protocol in (_packet.TCP, _packet.UDP) and not packet.offset
    return {
        "tap": tap,
        "time": time_ns / 1e9,
        "out": out,
        "kind": kind,
        "probe": probe[0],
        "seq": probe[1],
        "src": _flow_table.ip_text(src),
        "dst": _flow_table.ip_text(dst),
        "sport": packet.sport if ported else None,
        "dport": packet.dport if ported else None,
        "smac": _flow_table.mac_text(packet.smac),
        "dmac": _flow_table.mac_text(packet.dmac),
        "length": packet.length,
        "df": packet.df,
        "ttl": packet.ttl,
        "fragment": packet.fragment,
        "vni": carrier.tunnel.vni if carrier and carrier.tunnel and carrier.tunnel.valid else None,
        "outer": _outer(frame, outer, judge) if outer else None,
        "checksum": _state(_packet.transport_sum(frame, packet), judge),
        "error": _error(packet),
    }


def _outer(frame: Frame, outer: Packet, judge: bool | None) -> dict[str, t.Any]:
    return {
        "src": _flow_table.ip_text(outer.src),
        "dst": _flow_table.ip_text(outer.dst),
        "sport": outer.sport,
        "dport": outer.dport,
        "flags": outer.tunnel.flags if outer.tunnel else None,
        "length": outer.length,
        "df": outer.df,
        "ttl": outer.ttl,
        "id": outer.ident,
        "fragment": outer.fragment,
        "checksum": _state(_packet.transport_sum(frame, outer), judge),
    }


def _error(packet: Packet) -> dict[str, t.Any] | None:
    if packet.quote is None:
        return None
    return {
        "type": packet.icmp_type,
        "code": packet.icmp_code,
        "mtu": packet.mtu,
        "sender": _flow_table.ip_text(packet.src),
    }

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The packet as the kernel sees it at a hook: headers as partly known bytes, meta data, and what rules changed."""

from __future__ import annotations

import dataclasses
import ipaddress
import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.bits import (
    Bytes,
    Truth,
    exactly,
    merge,
    number,
    splice,
    unknown,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.packet import Packet

_ETHERTYPE = {4: 0x0800, 6: 0x86DD, 0: 0x0806}
_ICMP = (1, 58)
_HEADER = 60  # bytes of a header that are modelled; what lies beyond is unknown


def join(*parts: Bytes) -> Bytes:
    return Bytes(b"".join(part.data for part in parts), b"".join(part.known for part in parts))


def ip_address(text: str | None, width: int) -> Bytes:
    return unknown(width) if text is None else exactly(ipaddress.ip_address(text).packed)


def mac_address(text: str | None) -> Bytes:
    return unknown(6) if text is None else exactly(bytes.fromhex(text.replace(":", "")))


def _ipv4(packet: Packet) -> Bytes:
    # No options: version and header length are known. Fragment offset and MF are zero unless it is a fragment.
    more = unknown(2) if packet.fragment is not False else Bytes(b"\0\0", b"\xbf\xff")
    if packet.fragment is False and packet.df is not None:
        more = exactly(b"\x40\0" if packet.df else b"\0\0")
    return join(
        exactly(b"\x45"),
        number(packet.tos, 1),
        number(packet.length, 2),
        unknown(2),
        more,
        number(packet.ttl, 1),
        number(packet.number, 1),
        unknown(2),
        ip_address(packet.src, 4),
        ip_address(packet.dst, 4),
    )


def _ipv6(packet: Packet) -> Bytes:
    traffic = Bytes(b"\x60\0\0\0", b"\xf0\0\0\0")
    if packet.tos is not None:
        traffic = Bytes((0x60000000 | packet.tos << 20).to_bytes(4, "big"), b"\xff\xf0\0\0")
    payload = None if packet.length is None else packet.length - 40
    ends = (ip_address(packet.src, 16), ip_address(packet.dst, 16))
    return join(traffic, number(payload, 2), number(packet.number, 1), number(packet.ttl, 1), *ends)


def _arp(packet: Packet) -> Bytes:
    ends = (mac_address(packet.smac), ip_address(packet.src, 4), unknown(6), ip_address(packet.dst, 4))
    return join(exactly(bytes.fromhex("0001080006 04".replace(" ", ""))), unknown(2), *ends)


def _transport(packet: Packet) -> Bytes:
    ports = join(number(packet.sport, 2), number(packet.dport, 2))
    protocol = packet.number
    if protocol == 6:
        return join(ports, unknown(9), number(packet.flags, 1), unknown(6))
    if protocol in _ICMP:
        return join(number(packet.icmp_type, 1), number(packet.icmp_code, 1), unknown(6))
    if protocol == 17 and packet.payload is not None:
        return join(ports, number(8 + len(packet.payload), 2), unknown(2), exactly(packet.payload[:_HEADER]))
    if protocol in (17, 33, 132, 136):
        return join(ports, unknown(4))
    return unknown(8)


@dataclasses.dataclass
class State:
    """Mutable while a hook is evaluated; `packet` stays what was asked about."""

    packet: Packet
    hook: str
    iif: str | None
    oif: str | None
    link: Bytes | None  # None: the packet has no link-layer header here
    network: Bytes
    transport: Bytes
    mark: Bytes
    ct_mark: Bytes
    ct_state: str | None
    order: str
    original: tuple[Bytes, Bytes, Bytes, Bytes]  # conntrack's tuple before NAT: src, dst, sport, dport
    dnat: Truth
    snat: Truth
    tracked: Truth = True  # False after notrack
    done: dict[str, Truth] = dataclasses.field(default_factory=dict)  # NAT set up, per kind
    # Sides ("src", "dst") NAT has or may have replaced, with the routing type the address then has.
    moved: dict[str, str | None] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    @property
    def width(self) -> int:
        return 16 if self.packet.family == 6 else 4

    def _where(self, side: str) -> int:
        if self.packet.family == 6:
            return 8 if side == "src" else 24
        if self.packet.family == 0:
            return 14 if side == "src" else 24
        return 12 if side == "src" else 16

    def address(self, side: str) -> Bytes:
        start = self._where(side)
        end = start + self.width
        return Bytes(self.network.data[start:end], self.network.known[start:end])

    def set_address(self, side: str, value: Bytes, certain: bool) -> None:
        self.network = self._write(self.network, self._where(side), value, certain)

    def port(self, side: str) -> Bytes:
        start = 0 if side == "src" else 2
        return Bytes(self.transport.data[start : start + 2], self.transport.known[start : start + 2])

    def set_port(self, side: str, value: Bytes, certain: bool) -> None:
        if self.packet.number not in _ICMP:
            self.transport = self._write(self.transport, 0 if side == "src" else 2, value, certain)

    @staticmethod
    def _write(header: Bytes, offset: int, value: Bytes, certain: bool) -> Bytes:
        old = Bytes(header.data[offset : offset + len(value.data)], header.known[offset : offset + len(value.data)])
        return splice(header, offset, value if certain else merge(old, value))

    def write(self, base: str, offset: int, value: Bytes, certain: bool) -> None:
        """A `payload set` statement."""
        header = {"link": self.link, "network": self.network, "transport": self.transport}.get(base)
        if header is None or offset + len(value.data) > len(header.data):
            return  # beyond what is modelled: unknown before and after
        setattr(self, base, self._write(header, offset, value, certain))

    def traffic_class(self) -> Bytes:
        """TOS byte, or the traffic class that lies across two bytes of the IPv6 header."""
        if self.packet.family == 4:
            return Bytes(self.network.data[1:2], self.network.known[1:2])
        data, known = (int.from_bytes(part[:2], "big") >> 4 & 0xFF for part in self.network)
        return Bytes(bytes([data]), bytes([known]))

    def set_traffic_class(self, value: Bytes, certain: bool) -> None:
        if self.packet.family == 4:
            self.write("network", 1, value, certain)
            return
        data, known = (
            (old[0] & 0xF0) << 8 | new[0] << 4 | old[1] & 0x0F for new, old in zip(value, self.network, strict=True)
        )
        self.write("network", 0, Bytes(data.to_bytes(2, "big"), known.to_bytes(2, "big")), certain)

    def set_mark(self, value: Bytes, certain: bool) -> None:
        self.mark = value if certain else merge(self.mark, value)

    def set_ct_mark(self, value: Bytes, certain: bool) -> None:
        self.ct_mark = value if certain else merge(self.ct_mark, value)

    def untrack(self, certain: bool) -> None:
        self.tracked = False if certain else None

    def integer(self, value: Bytes) -> int | None:
        return int.from_bytes(value.data, self.order) if value.certain else None  # type: ignore[arg-type]

    def left(self) -> Packet:
        """The packet as it leaves the hook."""
        ends = {}
        for side, name in (("src", "sport"), ("dst", "dport")):
            value = self.address(side)
            ends[side] = str(ipaddress.ip_address(value.data)) if value.certain else None
            port = self.port(side)
            if self.packet.number not in _ICMP:
                ends[name] = int.from_bytes(port.data, "big") if port.certain else None  # type: ignore[assignment]
        states: t.Any = self.packet.ct_state
        if self.tracked is not True:
            states = ("untracked",) if self.tracked is False else None
        changed = {"mark": self.integer(self.mark), "ct_mark": self.integer(self.ct_mark)}
        return dataclasses.replace(self.packet, **ends, **changed, ct_state=states, dnat=self.dnat, snat=self.snat)  # type: ignore[arg-type]


def _link(packet: Packet, hook: str) -> Bytes | None:
    """Ethernet header. A packet the host sends has none yet at output and postrouting."""
    scope, _colon, name = hook.rpartition(":")
    if not scope and (name == "output" or (name == "postrouting" and packet.iif == "")):
        return None
    if scope == "arp" and name == "output":
        return unknown(14)
    ethertype = _ETHERTYPE[packet.family].to_bytes(2, "big")
    return join(mac_address(packet.dmac), mac_address(packet.smac), exactly(ethertype))


def begin(packet: Packet, hook: str, order: str) -> State:
    """The state before the first rule of a hook; one conntrack state or none known (see evaluate.fate)."""
    states = packet.states
    state = states[0] if states is not None and len(states) == 1 else None
    network = {4: _ipv4, 6: _ipv6, 0: _arp}[packet.family](packet)
    transport = _transport(packet)
    fresh = state == "new" and hook in ("ingress", "prerouting", "output")
    known = State(
        packet=packet,
        hook=hook,
        iif=packet.iif,
        oif=packet.oif,
        link=None,
        network=network,
        transport=transport,
        mark=number(packet.mark, 4, order),
        ct_mark=number(packet.ct_mark, 4, order),
        ct_state=state,
        order=order,
        original=(unknown(0), unknown(0), unknown(0), unknown(0)),
        dnat=False if fresh and packet.dnat is None else packet.dnat,
        snat=False if fresh and packet.snat is None else packet.snat,
    )
    width = known.width
    before_src = known.address("src") if known.snat is False else unknown(width)
    before_dst = known.address("dst") if known.dnat is False else unknown(width)
    before_sport = known.port("src") if known.snat is False else unknown(2)
    before_dport = known.port("dst") if known.dnat is False else unknown(2)
    known.original = (before_src, before_dst, before_sport, before_dport)
    if state == "untracked":
        known.tracked = False
    enter(known, hook)
    return known


def enter(state: State, hook: str) -> None:
    """Move the state to the next hook of its path."""
    packet = state.packet
    if hook == "forward" and state.hook == "prerouting":
        _age(state)
    state.hook = hook
    state.link = _link(packet, hook)
    name = hook.rpartition(":")[2]
    state.iif = "" if name == "output" else packet.iif
    state.oif = "" if name in ("ingress", "prerouting", "input") else packet.oif


def _age(state: State) -> None:
    """Routing takes one from TTL or hop limit before the forward hook (ip_forward, ip6_forward)."""
    place = 7 if state.packet.family == 6 else 8
    old = state.network.data[place]
    if state.network.known[place] == 0xFF:
        state.write("network", place, exactly(bytes([max(0, old - 1)])), True)

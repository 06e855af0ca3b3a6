# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What asks for an answer, and whether it came: ARP requests, DNS queries, TCP's first segment.

An answer counts as missing only when the capture went on for long enough after the question. What a tap's filter
withheld looks missing too: whoever judges has to know the filter.
"""

from __future__ import annotations

import typing as t
from collections.abc import Hashable

from ansible_collections.crosshost.doctor.plugins.module_utils import _anomalies, _dns, _flow_table, _packet
from ansible_collections.crosshost.doctor.plugins.module_utils._anomalies import Anomalies
from ansible_collections.crosshost.doctor.plugins.module_utils._flow_table import Flow
from ansible_collections.crosshost.doctor.plugins.module_utils._packet import Frame, Packet

SECOND = 1_000_000_000
# What resolvers wait before they ask again (resolv.conf(5), timeout).
DNS_WAIT = 5 * SECOND
_NOBODY = bytes(4)
_MAX_ADDRESSES = 16384
_MAX_MACS = 8

Where = tuple[Hashable, ...]


class Question:
    """Something asked and not answered yet."""

    __slots__ = ("count", "extra", "first", "flow", "last", "packets", "tap", "wire")

    def __init__(self, tap: str, time_ns: int, frame: Frame, extra: t.Any, flow: Flow | None) -> None:
        self.tap, self.extra, self.flow = tap, extra, flow
        self.first = self.last = time_ns
        self.count = 1
        # The decoded headers, not the data.
        self.packets, self.wire = frame.packets, frame.wire_length


class Pending:
    """Open questions by key, at most C(limit); what has waited for longer than C(wait) is given up first."""

    def __init__(self, limit: int, wait: int, give_up: t.Callable[[Hashable, Question], None]) -> None:
        self.limit, self.wait, self.give_up = limit, wait, give_up
        self.open: dict[Hashable, Question] = {}
        self.overflow = 0

    def ask(
        self, key: Hashable, tap: str, time_ns: int, frame: Frame, extra: t.Any = None, flow: Flow | None = None
    ) -> Question | None:
        """Note a question, or that it was repeated; None: there is no room."""
        question = self.open.get(key)
        if question is not None:
            question.count += 1
            question.last = time_ns
            return question
        if len(self.open) >= self.limit:
            self.close(time_ns)
            if len(self.open) >= self.limit:
                self.overflow += 1
                return None
        question = self.open[key] = Question(tap, time_ns, frame, extra, flow)
        return question

    def close(self, now: int) -> None:
        """Give up what has waited too long."""
        old = [key for key, question in self.open.items() if now - question.first >= self.wait]
        for key in old:
            self.give_up(key, self.open.pop(key))


class Arp:
    """ARP requests without an answer within a second, and addresses that two MACs answer for (RFC 826, RFC 5227)."""

    def __init__(self, anomalies: Anomalies, limit: int) -> None:
        self.anomalies = anomalies
        self.pending = Pending(limit, SECOND, self._unanswered)
        self.answers: dict[tuple[Hashable, ...], dict[bytes, int]] = {}
        self.overflow = 0

    def see(self, tap: str, where: Where, time_ns: int, frame: Frame, packet: Packet) -> None:
        """Take in an ARP packet."""
        if packet.arp is None:
            return
        operation, sha, spa, _tha, tpa = packet.arp
        if operation == 1:
            # Asking for one's own address, or before one has any, hopes for silence.
            if spa not in (_NOBODY, tpa):
                self.pending.ask((*where, tpa, spa), tap, time_ns, frame)
        elif operation == 2:
            question = self.pending.open.pop((*where, spa, tpa), None)
            if question and time_ns - question.first >= SECOND:
                self._unanswered(None, question, time_ns - question.first)
            self._answer(tap, where, time_ns, frame, sha, spa)

    def _answer(self, tap: str, where: Where, time_ns: int, frame: Frame, mac: bytes, address: bytes) -> None:
        macs = self.answers.get((*where, address))
        if macs is None:
            if len(self.answers) >= _MAX_ADDRESSES:
                self.overflow += 1
                return
            macs = self.answers[(*where, address)] = {}
        if mac not in macs and len(macs) >= _MAX_MACS:
            return
        macs[mac] = time_ns
        if len(macs) > 1:
            anomaly = self.anomalies.note(
                _anomalies.ARP_DUPLICATE, tap, time_ns, (*where, address), frame.packets, frame.wire_length
            )
            if anomaly:
                anomaly.fields["address"] = _flow_table.ip_text(address)
                anomaly.fields["macs"] = sorted(mac.hex(":") for mac in macs)

    def _unanswered(self, _key: Hashable, question: Question, late: int | None = None) -> None:
        packet = question.packets[-1]
        if packet.arp is None:
            return
        _operation, _sha, spa, _tha, tpa = packet.arp
        tunnel = question.packets[-2].tunnel if len(question.packets) > 1 else None
        anomaly = self.anomalies.note(
            _anomalies.ARP_UNANSWERED,
            question.tap,
            question.first,
            (spa, tpa, tunnel.vni if tunnel else None),
            question.packets,
            question.wire,
            question.count,
            target=_flow_table.ip_text(tpa),
            asker=_flow_table.ip_text(spa),
            answered_after=round(late / 1e9, 6) if late else None,
        )
        if anomaly:
            anomaly.last = max(anomaly.last, question.last)


class Syn:
    """Connections that nobody answers: no SYN-ACK and no RST within a second of the first SYN (RFC 9293 §3.5)."""

    def __init__(self, anomalies: Anomalies, limit: int) -> None:
        self.anomalies = anomalies
        self.pending = Pending(limit, SECOND, self._unanswered)

    def see(self, tap: str, where: Where, time_ns: int, frame: Frame, packet: Packet) -> None:
        """Take in a TCP segment with SYN or RST."""
        if packet.tcp_flags & (_packet.SYN | _packet.ACK | _packet.RST) == _packet.SYN:
            key = (*where, packet.src, packet.sport, packet.dst, packet.dport, packet.seq)
            self.pending.ask(key, tap, time_ns, frame)
        elif packet.tcp_flags & _packet.ACK:
            began = (packet.ack - 1) & 0xFFFFFFFF
            self.pending.open.pop((*where, packet.dst, packet.dport, packet.src, packet.sport, began), None)

    def _unanswered(self, _key: Hashable, question: Question) -> None:
        packet = question.packets[-1]
        tunnel = question.packets[-2].tunnel if len(question.packets) > 1 else None
        anomaly = self.anomalies.note(
            _anomalies.SYN_UNANSWERED,
            question.tap,
            question.first,
            (packet.src, packet.dst, packet.dport, tunnel.vni if tunnel else None),
            question.packets,
            question.wire,
        )
        if anomaly:
            anomaly.fields["segments"] = anomaly.fields.get("segments", 0) + question.count
            anomaly.last = max(anomaly.last, question.last)


class Names:
    """DNS over UDP: queries without answer, answers with an error, and how long they took (RFC 1035 §4.1.1)."""

    def __init__(self, anomalies: Anomalies, limit: int) -> None:
        self.anomalies = anomalies
        self.pending = Pending(limit, DNS_WAIT, self._unanswered)

    def see(self, tap: str, where: Where, time_ns: int, frame: Frame, packet: Packet, flow: Flow | None) -> None:
        """Take in a datagram from or to port 53."""
        data = frame.data[packet.data : packet.end]
        if len(data) < 12:
            return
        ident, flags = int.from_bytes(data[:2], "big"), int.from_bytes(data[2:4], "big")
        if packet.dport == 53 and not flags & 0x8000:
            key = (*where, packet.src, packet.sport, packet.dst, ident)
            name = _question_name(data)
            new = key not in self.pending.open
            self.pending.ask(key, tap, time_ns, frame, name, flow)
            if flow and new:
                _statistics(flow)["queries"] += 1
        elif packet.sport == 53 and flags & 0x8000:
            question = self.pending.open.pop((*where, packet.dst, packet.dport, packet.src, ident), None)
            self._answered(tap, time_ns, frame, packet, flags & 15, question)

    def _answered(
        self, tap: str, time_ns: int, frame: Frame, packet: Packet, code: int, question: Question | None
    ) -> None:
        rcode = _dns.RCODES.get(code, str(code))
        if question and question.flow:
            found = _statistics(question.flow)
            found["answers"] += 1
            waited = max(0, time_ns - question.first)
            count, total, low, high = found["times"]
            found["times"] = (count + 1, total + waited, min(low, waited) if count else waited, max(high, waited))
            if code:
                found["errors"][rcode] = found["errors"].get(rcode, 0) + 1
        if code:
            name = question.extra if question else _question_name(frame.data[packet.data : packet.end])
            self.anomalies.note(
                _anomalies.DNS_ERROR,
                tap,
                time_ns,
                (packet.src, rcode, name),
                frame.packets,
                frame.wire_length,
                rcode=rcode,
                name=name,
                server=_flow_table.ip_text(packet.src),
            )

    def _unanswered(self, _key: Hashable, question: Question) -> None:
        packet = question.packets[-1]
        self.anomalies.note(
            _anomalies.DNS_UNANSWERED,
            question.tap,
            question.first,
            (packet.src, packet.dst, question.extra),
            question.packets,
            question.wire,
            name=question.extra,
            server=_flow_table.ip_text(packet.dst),
        )


def _statistics(flow: Flow) -> dict[str, t.Any]:
    if flow.dns is None:
        flow.dns = {"queries": 0, "answers": 0, "errors": {}, "times": (0, 0, 0, 0)}
    return flow.dns


def _question_name(data: bytes) -> str | None:
    """The name asked for, where it was captured."""
    if data[4:6] == b"\0\0":
        return None
    try:
        return _dns.decode_name(data, 12)[0][:255]
    except ValueError:
        return None

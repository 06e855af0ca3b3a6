# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From frames to flows, anomalies and sightings, as they come from taps or out of a file.

Nearly all frames of a capture belong to a flow that has been seen before, and nothing about them is new but lengths and
sequence numbers. Those take the short way in C(_quick). The first frame of everything, and every frame that is odd, is
decoded in full. Both ways lead to the same result; the tests hold them against each other.

Memory is bounded by the limits, however long it lasts: what does not fit is counted in C(counts["overflow"]).
"""

from __future__ import annotations

import time
import typing as t
from collections import Counter
from collections.abc import Collection, Hashable, Mapping

from ansible_collections.crosshost.doctor.plugins.module_utils import (
    _anomalies,
    _faults,
    _flow_table,
    _frame,
    _packet,
    _quick,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._anomalies import Anomalies
from ansible_collections.crosshost.doctor.plugins.module_utils._faults import Expected, Faults
from ansible_collections.crosshost.doctor.plugins.module_utils._flow_table import Flow, FlowTable
from ansible_collections.crosshost.doctor.plugins.module_utils._packet import Frame, Packet
from ansible_collections.crosshost.doctor.plugins.module_utils._pcap import Capture, Pcap
from ansible_collections.crosshost.doctor.plugins.module_utils._quick import Feed, Known, Quick, Seams
from ansible_collections.crosshost.doctor.plugins.module_utils._sightings import Sightings
from ansible_collections.crosshost.doctor.plugins.module_utils._trackers import Arp, Names, Syn

_NO_LIMIT = 1 << 62


class Limits(t.NamedTuple):
    """How much is remembered: flows, and how many are returned; anomalies; questions waiting for an answer, of each
    kind; sightings; packets in fragments; senders' MACs."""

    flows: int = 20000
    flow_rows: int = 2000
    anomalies: int = 1000
    pending: int = 8192
    sightings: int = 20000
    fragments: int = 4096
    macs: int = 16384


class Analysis:
    """Takes frames with C(add) or C(feeder), and says with C(result) what they were.

    C(ports): where VXLAN is expected; none given: 4789 and 8472. C(mark): of our probes; without it there are no
    sightings. C(vteps): addresses that VXLAN may come from, C(vnis): networks there are, C(macs): MACs that
    belong to somebody; what is empty is not judged. C(path_mtu): the largest IP packet for the path, in bytes.
    C(quick): false decodes every frame in full, for tests.
    """

    def __init__(
        self,
        ports: Collection[int] = (),
        mark: str = "",
        vteps: Collection[str] = (),
        vnis: Collection[int] = (),
        path_mtu: int | None = None,
        macs: Collection[str] = (),
        limits: Limits | None = None,
        quick: bool = True,
    ) -> None:
        self.limits = limits or Limits()
        self.ports = frozenset(ports) or _packet.VXLAN_PORTS
        self.path_mtu = path_mtu or _NO_LIMIT
        self.quick = quick
        self.counts: Counter[str] = Counter()
        self.malformed: Counter[str] = Counter()
        self.flows = FlowTable(self.limits.flows)
        self.anomalies = Anomalies(self.limits.anomalies)
        self.sightings = Sightings(mark, self.limits.sightings) if mark else None
        right = Expected(
            self.ports,
            frozenset(vteps),
            frozenset(vnis),
            frozenset(bytes.fromhex(mac.replace(":", "")) for mac in macs),
            self.path_mtu,
        )
        self.faults = Faults(self.anomalies, right, self.flows.known, self.limits.macs)
        self.arp = Arp(self.anomalies, self.limits.pending)
        self.syn = Syn(self.anomalies, self.limits.pending)
        self.names = Names(self.anomalies, self.limits.pending)
        self._fragments: dict[tuple[Hashable, ...], tuple[Flow | None, str]] = {}
        self._feeds: dict[tuple[str, int], Feed] = {}
        self._quicks: dict[str, Quick] = {}
        self._last = 0

    def add(
        self,
        tap_id: str,
        link_type: int,
        time_ns: int,
        wire_length: int,
        data: bytes | memoryview,
        out: bool | None = None,
        csum_ready: bool | None = None,
        gso: bool = False,
    ) -> None:
        """Take in a frame.

        C(time_ns): nanoseconds since 1970. C(wire_length): its length before it was cut to C(data). C(out): sent by
        the host of the tap. C(csum_ready): whether its checksums are final. C(gso): it is a super-frame. None: unknown.
        """
        feed = self._feeds.get((tap_id, link_type))
        if feed is None:
            feed = self.feeder(tap_id, link_type)
        feed(time_ns, wire_length, data, out, csum_ready, gso)

    def feeder(self, tap_id: str, link_type: int) -> Feed:
        """C(add) for one tap, its first two arguments given: the faster way in for many frames."""
        feed = self._feeds.get((tap_id, link_type))
        if feed is None:
            quick = self.short_way(tap_id) if link_type == _packet.ETHERNET else None
            feed = self._feeds[tap_id, link_type] = quick.feed if quick else self._slow(tap_id, link_type)
        return feed

    def result(self, end_ns: int | None = None) -> dict[str, t.Any]:
        """C(counts), C(flows), C(anomalies), C(sightings) as the module returns them.

        C(end_ns): when the capture ended, if that is known; otherwise with its last frame.
        """
        end = max([flow.last for flow in self.flows.flows.values()], default=0)
        end = max(end, self._last, end_ns or 0)
        for pending in (self.arp.pending, self.syn.pending, self.names.pending):
            pending.close(end)
        self._retransmissions()
        return {
            "counts": self._counts(),
            "flows": self.flows.rows(self.limits.flow_rows),
            "anomalies": self.anomalies.rows(),
            "sightings": self.sightings.rows if self.sightings else [],
        }

    def short_way(self, tap_id: str) -> Quick | None:
        """The short way of an Ethernet tap, if there is to be one."""
        if not self.quick:
            return None
        found = self._quicks.get(tap_id)
        if found is None:
            pattern = self.sightings.pattern if self.sightings else b""
            seams = Seams(self._examine, self.counts, pattern, self.path_mtu, self.limits.flows * 4)
            found = self._quicks[tap_id] = Quick(tap_id, seams)
        return found

    def _slow(self, tap: str, link_type: int) -> Feed:
        def feed(
            time_ns: int,
            wire: int,
            data: bytes | memoryview,
            out: bool | None = None,
            ready: bool | None = None,
            gso: bool = False,
        ) -> None:
            self._examine(tap, link_type, time_ns, wire, bytes(data), out, ready, gso)

        return feed

    # The long way

    def _examine(
        self,
        tap: str,
        link_type: int,
        time_ns: int,
        wire: int,
        data: bytes,
        out: bool | None,
        ready: bool | None,
        gso: bool,
    ) -> Known | None:
        """Decode a frame and take it in; what the short way needs for others like it, None if it must not."""
        frame = _frame.decode(data, link_type, wire, self.ports)
        if frame.out is not None and out is None:
            out = frame.out
        self._last = max(self._last, time_ns)
        self._note_shape(frame, link_type)
        if not frame.packets:
            self.counts["unclassified"] += 1
            return None
        if self.sightings:
            self.sightings.see(tap, time_ns, frame, out, ready, gso)
        packet = frame.packets[-1]
        outer = frame.packets[-2] if len(frame.packets) > 1 else None
        flow, level = self._flow(tap, time_ns, frame, packet, outer, out)
        if flow is None:
            self.counts["unclassified"] += 1
        else:
            self._count(flow, frame, packet, outer, time_ns)
        if level:
            self._fragment(tap, time_ns, frame, flow, level)
        repeated = self.faults.headers(tap, time_ns, frame)
        self.faults.length(tap, time_ns, frame, ready, gso)
        self.faults.sums(tap, time_ns, frame, flow, _faults.judge(out, ready, gso))
        self._conversation(tap, time_ns, frame, packet, outer, flow)
        if flow is None or level or not _quick.alike(frame, self.ports):
            return None
        return flow, packet.protocol or 0, tuple(repeated)

    def _note_shape(self, frame: Frame, link_type: int) -> None:
        if frame.truncated:
            self.counts["truncated"] += 1
        if link_type not in _packet.LINK_TYPES:
            self.malformed[f"link type {link_type} is not decoded"] += 1
            return
        for problem in frame.problems:
            # What the capture cut off is no fault of the packet.
            if not problem.endswith("not captured"):
                self.malformed[problem] += 1

    def _flow(
        self, tap: str, time_ns: int, frame: Frame, packet: Packet, outer: Packet | None, out: bool | None
    ) -> tuple[Flow | None, str]:
        """The frame's flow, and where it is in fragments: C(outer), C(inner), C(plain) or nowhere.

        Later fragments belong to the flow of the first, whose ports they do not carry.
        """
        fragmented = [one for one in frame.packets if one.fragment]
        if not fragmented:
            return self.flows.find(tap, frame, packet, outer, time_ns, out), ""
        one = fragmented[0]
        key = (tap, frame.ifindex, one.src, one.dst, one.ident, one.protocol)
        if one.offset:
            flow, level = self._fragments.get(key, (None, "inner" if outer else "unknown"))
            return flow or self.flows.find(tap, frame, packet, outer, time_ns, out), level
        level = "outer" if one.tunnel else "inner" if outer else "plain"
        flow = self.flows.find(tap, frame, packet, outer, time_ns, out)
        if len(self._fragments) >= self.limits.fragments:
            # Fragments of one packet come together: the oldest is of no use any more.
            del self._fragments[next(iter(self._fragments))]
        self._fragments[key] = (flow, level)
        return flow, level

    def _count(self, flow: Flow, frame: Frame, packet: Packet, outer: Packet | None, time_ns: int) -> None:
        flow.packets += 1
        flow.bytes += frame.wire_length
        flow.last = time_ns
        if packet.length > flow.largest:
            flow.largest = packet.length
            flow.largest_outer = outer.length if outer else 0
        if packet.version:
            _flow_table.note(flow.tos, packet.tos)
            _flow_table.note(flow.ttls, packet.ttl)
        if outer:
            _flow_table.note(flow.outer_tos, outer.tos)
        if packet.protocol == _packet.TCP and packet.data:
            flow.tcp_flags |= packet.tcp_flags
            # A cooked capture of all interfaces may have each packet several times, and version 1 does not say where.
            if packet.data_length > 0 and not packet.tcp_flags & 7 and frame.link_type != _packet.SLL:
                flow.segment(packet.seq, packet.data_length, time_ns)

    def _fragment(self, tap: str, time_ns: int, frame: Frame, flow: Flow | None, level: str) -> None:
        if flow:
            flow.fragments += 1
        self.counts["fragments"] += 1
        one = next(packet for packet in frame.packets if packet.fragment)
        about = (level, one.src, one.dst)
        self.anomalies.note(
            _anomalies.FRAGMENTS, tap, time_ns, about, frame.packets, frame.wire_length, level=level, df=one.df
        )

    def _conversation(
        self, tap: str, time_ns: int, frame: Frame, packet: Packet, outer: Packet | None, flow: Flow | None
    ) -> None:
        """What asks, answers, or complains."""
        where = (tap, frame.ifindex, outer.tunnel.vni if outer and outer.tunnel else None, packet.vlans)
        if packet.arp:
            self.arp.see(tap, where, time_ns, frame, packet)
        elif packet.protocol == _packet.TCP:
            if packet.tcp_flags & (_packet.SYN | _packet.RST):
                self.syn.see(tap, where, time_ns, frame, packet)
        elif packet.protocol == _packet.UDP:
            if packet.data and 53 in (packet.sport, packet.dport):
                self.names.see(tap, where, time_ns, frame, packet, flow)
        elif packet.quote is not None:
            self.counts["icmp_errors"] += 1
            self.faults.error(tap, time_ns, frame, packet, packet.quote)

    def _retransmissions(self) -> None:
        for flow in self.flows.flows.values():
            if flow.retransmissions:
                about = (flow.ends, flow.outer)
                row = flow.as_dict()
                anomaly = self.anomalies.note(_anomalies.RETRANSMISSIONS, flow.tap, flow.first, about, None)
                if anomaly:
                    keys = ("protocol", "src", "dst", "sport", "dport", "smac", "dmac", "vni", "outer")
                    anomaly.sample = {key: row[key] for key in keys}
                    anomaly.count, anomaly.last = flow.retransmissions, flow.last
                    anomaly.fields["packets"] = flow.packets

    def _counts(self) -> dict[str, t.Any]:
        kinds: Counter[str] = Counter()
        frames = self.counts["unclassified"]
        for flow in self.flows.flows.values():
            frames += flow.packets
            if flow.tunnel:
                kinds[flow.tunnel.kind] += flow.packets
            name = _flow_table.protocol_text(flow.ends[0], flow.ethertype)
            kinds[name] += flow.packets
        overflow = Counter(
            flows=self.flows.overflow,
            anomalies=self.anomalies.overflow,
            sightings=self.sightings.overflow if self.sightings else 0,
            arp=self.arp.pending.overflow + self.arp.overflow,
            syn=self.syn.pending.overflow,
            dns=self.names.pending.overflow,
            macs=self.faults.overflow,
        )
        return {
            "frames": frames,
            "vxlan": kinds["vxlan"] + kinds["gpe"],
            "geneve": kinds["geneve"],
            "foreign": kinds["foreign"],
            "arp": kinds["arp"],
            "esp": kinds["esp"],
            "tcp": kinds["tcp"],
            "udp": kinds["udp"],
            "icmp": kinds["icmp"] + kinds["icmp6"],
            "icmp_errors": self.counts["icmp_errors"],
            "fragments": self.counts["fragments"],
            "truncated": self.counts["truncated"],
            "unclassified": self.counts["unclassified"],
            "flows": len(self.flows.flows),
            "malformed": dict(self.malformed),
            "not_judged": dict(self.faults.not_judged),
            "overflow": {name: count for name, count in overflow.items() if count},
        }


def analyse(
    capture: Capture,
    analysis: Analysis,
    packets: int | None = None,
    until: float | None = None,
    names: Mapping[int, str] | None = None,
) -> tuple[int, str]:
    """Feed a capture file to C(analysis): how many packets, and why it ended: C(end of file), C(packets), C(bytes)
    (the capture's own limit) or C(time).

    C(until): as C(time.monotonic) counts. A tap has the name that C(names) gives its interface, or the file
    does, or its number.
    """

    def name(index: int) -> str:
        return (names or {}).get(index) or capture.interfaces[index].name or str(index)

    left = _NO_LIMIT if packets is None else packets
    if isinstance(capture, Pcap) and capture.plain and capture.interfaces[0].link_type == _packet.ETHERNET:
        short = analysis.short_way(name(0))
        consume = short.consumer(capture.order, capture.unit, capture.odd) if short else None
        if consume:
            number, ended = capture.consume(consume, left, until)
            return number, "bytes" if capture.limited else ended
    feeds: dict[int, Feed] = {}
    number, ended = 0, "end of file"
    for interface, time_ns, wire, data, out, ready, gso in capture:
        if number >= left:
            ended = "packets"
            break
        feed = feeds.get(interface.index)
        if feed is None:
            feed = feeds[interface.index] = analysis.feeder(name(interface.index), interface.link_type)
        feed(time_ns, wire, data, out, ready, gso)
        number += 1
        if until is not None and not number & 0xFFF and time.monotonic() > until:
            ended = "time"
            break
    return number, "bytes" if capture.limited else ended

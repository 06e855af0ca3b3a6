# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is wrong with a frame by itself: tunnel headers, length, checksums; and ICMP errors about others.

C(_anomalies) has the kinds, docs/frame.md what they mean and what is not judged.
"""

from __future__ import annotations

import socket
import typing as t
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator

from ansible_collections.crosshost.doctor.plugins.module_utils import (
    _anomalies,
    _checksum,
    _flow_table,
    _icmp,
    _packet,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._anomalies import Anomalies, Anomaly
from ansible_collections.crosshost.doctor.plugins.module_utils._flow_table import Endpoints, Flow
from ansible_collections.crosshost.doctor.plugins.module_utils._packet import Frame, Packet

# More different values of a field are not listed.
_MAX_VALUES = 16
# More VTEPs with one MAC are not remembered.
_MAX_VTEPS = 8


def judge(out: bool | None, ready: bool | None, gso: bool) -> bool | None:
    """Whether a wrong checksum is a fault here: on what was received and is final. None: a plain capture file does
    not tell, where a right one still proves itself."""
    if out or gso or ready is False:
        return False
    return True if ready else None


class Expected(t.NamedTuple):
    """What is right here; what is empty is not judged. C(vteps) and C(macs) as text and as bytes."""

    ports: Collection[int]
    vteps: Collection[str]
    vnis: Collection[int]
    macs: Collection[bytes]
    path_mtu: int


class Faults:
    """Looks at frames. C(not_judged) counts what could not be; C(known) are the ends of all flows there are."""

    def __init__(self, anomalies: Anomalies, expected: Expected, known: Collection[Endpoints], most_macs: int) -> None:
        self.anomalies, self.known, self.most_macs = anomalies, known, most_macs
        self.ports, self.vteps, self.vnis, self.macs, self.path_mtu = expected
        self.not_judged: Counter[str] = Counter()
        self.overflow = 0
        self._mac_vteps: dict[tuple[int, bytes], dict[bytes, None]] = {}

    def headers(self, tap: str, time_ns: int, frame: Frame) -> list[Anomaly]:
        """What every frame with the same tunnel headers has wrong with it."""
        found: list[Anomaly | None] = []
        packets = frame.packets
        for index, packet in enumerate(packets):
            tunnel = packet.tunnel
            if tunnel is None:
                continue
            inner = packets[index + 1] if index + 1 < len(packets) else None
            until = packets[: index + 2]
            ends = (packet.src, packet.dst)
            note: Callable[..., Anomaly | None] = self.anomalies.note
            if tunnel.kind == "foreign" or (tunnel.kind == "geneve" and packet.dport in self.ports):
                note(_anomalies.FOREIGN, tap, time_ns, (ends, tunnel.kind), until, frame.wire_length, what=tunnel.kind)
                continue
            if tunnel.kind == "geneve":
                continue
            if tunnel.kind == "gpe" and packet.dport in self.ports:
                note(_anomalies.GPE, tap, time_ns, ends, until, frame.wire_length, next_protocol=tunnel.raw[3])
            for kind, about, name, value in self._of_header(packet, inner):
                anomaly = note(kind, tap, time_ns, (ends, about), until, frame.wire_length)
                if anomaly and name:
                    values = anomaly.fields.setdefault(name, [])
                    if value not in values and len(values) < _MAX_VALUES:
                        values.append(value)
                found.append(anomaly)
            if inner and inner.smac and tunnel.valid:
                self._sender(tap, time_ns, until, frame.wire_length)
        return [anomaly for anomaly in found if anomaly]

    def _of_header(self, packet: Packet, inner: Packet | None) -> Iterator[tuple[str, Hashable, str | None, t.Any]]:
        """Kind, what tells two of a kind between the same VTEPs apart, and the name and value of what to list."""
        tunnel = packet.tunnel
        if tunnel is None:
            return
        if not tunnel.flags & _packet.I_FLAG:
            yield _anomalies.I_FLAG_UNSET, None, "flags", tunnel.flags
        elif not tunnel.vni:
            yield _anomalies.VNI_ZERO, None, None, None
        elif self.vnis and tunnel.vni not in self.vnis:
            yield _anomalies.VNI_UNKNOWN, tunnel.vni, "vnis", tunnel.vni
        if tunnel.reserved:
            yield _anomalies.RESERVED_BITS, None, "bits", f"0x{tunnel.reserved:08x}"
        if tunnel.policy is not None:
            yield _anomalies.GROUP_POLICY, None, "policies", tunnel.policy
        if self.vteps and _flow_table.ip_text(packet.src) not in self.vteps:
            yield _anomalies.VTEP_UNEXPECTED, None, "vteps", _flow_table.ip_text(packet.src)
        if self.macs and inner and inner.smac and inner.smac not in self.macs:
            yield _anomalies.MAC_UNKNOWN, inner.smac, "macs", _flow_table.mac_text(inner.smac)

    def _sender(self, tap: str, time_ns: int, packets: list[Packet], wire: int) -> None:
        """Remember which VTEP a MAC is behind; counts each further one, not each frame."""
        outer, inner = packets[-2:]
        if outer.tunnel is None or inner.smac is None:
            return
        key = (outer.tunnel.vni, inner.smac)
        vteps = self._mac_vteps.get(key)
        if vteps is None:
            if len(self._mac_vteps) >= self.most_macs:
                self.overflow += 1
                return
            vteps = self._mac_vteps[key] = {}
        if outer.src in vteps or len(vteps) >= _MAX_VTEPS:
            return
        vteps[outer.src] = None
        if len(vteps) > 1:
            anomaly = self.anomalies.note(_anomalies.MAC_TWO_VTEPS, tap, time_ns, key, packets, wire)
            if anomaly:
                anomaly.fields.update(
                    mac=_flow_table.mac_text(inner.smac),
                    vni=key[0],
                    vteps=[_flow_table.ip_text(vtep) for vtep in vteps],
                )

    def length(self, tap: str, time_ns: int, frame: Frame, ready: bool | None, gso: bool) -> None:
        """Compare the outer packet with what the path takes."""
        packet = frame.packets[0]
        if not packet.tunnel or packet.length <= self.path_mtu:
            return
        if gso or ready is None:
            # A super-frame is cut up later; a file does not say whether it is one.
            self.not_judged["oversize"] += 1
            return
        about = (packet.src, packet.dst, packet.df)
        anomaly = self.anomalies.note(_anomalies.OVERSIZE, tap, time_ns, about, frame.packets, frame.wire_length)
        if anomaly:
            anomaly.fields["path_mtu"] = self.path_mtu
            anomaly.fields["df"] = packet.df
            anomaly.fields["largest"] = max(anomaly.fields.get("largest", 0), packet.length)

    def sums(self, tap: str, time_ns: int, frame: Frame, flow: Flow | None, judged: bool | None) -> None:
        """Check the checksums: of every frame where C(judge) says yes, of a flow's first where it cannot say."""
        if judged is False or (judged is None and (flow is None or flow.packets > 1)):
            return
        for index, packet in enumerate(frame.packets):
            last = index == len(frame.packets) - 1
            state = _packet.transport_sum(frame, packet)
            if last and flow and flow.packets == 1 and state in (_checksum.OK, _checksum.NONE):
                flow.checksum = "ok" if state == _checksum.OK else "none"
            faults = [("ip", "wrong")] if packet.header_ok is False else []
            if state in (_checksum.WRONG, _checksum.OFFLOADED):
                faults.append((_flow_table.NAMES.get(packet.protocol or 0, "?"), state))
            for layer, fault in faults:
                if not judged:
                    self.not_judged["checksum"] += 1
                    continue
                if flow:
                    flow.bad_checksums += 1
                    flow.checksum = "bad" if last else flow.checksum
                kind = _anomalies.OUTER_CHECKSUM if packet.tunnel else _anomalies.INNER_CHECKSUM
                self.anomalies.note(
                    kind,
                    tap,
                    time_ns,
                    (packet.src, packet.dst, layer, fault),
                    frame.packets,
                    frame.wire_length,
                    layer=layer,
                    # What the sender's card should have put in: it never did.
                    unfinished=fault == _checksum.OFFLOADED,
                )

    def error(self, tap: str, time_ns: int, frame: Frame, packet: Packet, quote: list[Packet]) -> None:
        """An ICMP error, if it is about a flow that was seen or about VXLAN."""
        about = [one for one in quote if one.version]
        ours = any(one.dport in self.ports for one in about if one.protocol == _packet.UDP)
        if not ours and not any(_flow_table.endpoints(one) in self.known for one in about):
            return
        version4 = packet.protocol == _packet.ICMP
        if packet.mtu is not None:
            kind = _anomalies.FRAG_NEEDED
        elif packet.icmp_type == (11 if version4 else 3):
            kind = _anomalies.TTL_EXCEEDED
        else:
            kind = _anomalies.UNREACHABLE
        family = socket.AF_INET if version4 else socket.AF_INET6
        self.anomalies.note(
            kind,
            tap,
            time_ns,
            (packet.src, packet.icmp_type, packet.icmp_code, packet.mtu, about[0].src, about[0].dst, about[0].dport),
            frame.packets,
            frame.wire_length,
            name=_icmp.error_name(family, packet.icmp_type, packet.icmp_code),
            sender=_flow_table.ip_text(packet.src),
            mtu=packet.mtu,
            quoted=_anomalies.sample(about),
        )

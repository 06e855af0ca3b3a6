# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is odd in a capture, gathered: not each packet, but each kind of oddity between the same two ends, counted."""

from __future__ import annotations

import typing as t
from collections.abc import Hashable

from ansible_collections.crosshost.doctor.plugins.module_utils import _flow_table
from ansible_collections.crosshost.doctor.plugins.module_utils._packet import Packet

# Kinds that a receiver finds in headers which stay the same all through a flow.
I_FLAG_UNSET = "i-flag-unset"
RESERVED_BITS = "reserved-bits"
GROUP_POLICY = "group-policy"
VNI_ZERO = "vni-zero"
VNI_UNKNOWN = "vni-unknown"
VTEP_UNEXPECTED = "vtep-unexpected"
MAC_UNKNOWN = "mac-unknown"
# Kinds found packet by packet.
FOREIGN = "foreign-protocol"
GPE = "vxlan-gpe"
OVERSIZE = "oversize"
FRAGMENTS = "fragments"
OUTER_CHECKSUM = "outer-checksum"
INNER_CHECKSUM = "inner-checksum"
MAC_TWO_VTEPS = "mac-two-vteps"
FRAG_NEEDED = "icmp-frag-needed"
UNREACHABLE = "icmp-unreachable"
TTL_EXCEEDED = "icmp-ttl-exceeded"
# Kinds found from what did not follow.
ARP_UNANSWERED = "arp-unanswered"
ARP_DUPLICATE = "arp-duplicate"
DNS_UNANSWERED = "dns-unanswered"
DNS_ERROR = "dns-error"
SYN_UNANSWERED = "syn-unanswered"
RETRANSMISSIONS = "retransmissions"


class Anomaly:
    """One oddity: how often, when first and last (nanoseconds), and what its first packet looked like."""

    __slots__ = ("count", "fields", "first", "kind", "last", "sample", "tap")

    def __init__(self, kind: str, tap: str, time_ns: int, sample: dict[str, t.Any], fields: dict[str, t.Any]) -> None:
        self.kind, self.tap, self.sample, self.fields = kind, tap, sample, fields
        self.count = 0
        self.first = self.last = time_ns

    def as_dict(self) -> dict[str, t.Any]:
        """The anomaly as the module returns it."""
        return {
            "kind": self.kind,
            "tap": self.tap,
            "count": self.count,
            "first": self.first / 1e9,
            "last": self.last / 1e9,
            "sample": self.sample,
            **self.fields,
        }


class Anomalies:
    """All of a capture, at most C(limit) different ones; further ones are counted."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.found: dict[tuple[Hashable, ...], Anomaly] = {}
        self.overflow = 0

    def note(
        self,
        kind: str,
        tap: str,
        time_ns: int,
        about: Hashable,
        packets: list[Packet] | None,
        wire_length: int | None = None,
        count: int = 1,
        **fields: t.Any,
    ) -> Anomaly | None:
        """Count one. C(about) tells those of one kind and tap apart; C(fields) go into its first report."""
        key = (kind, tap, about)
        anomaly = self.found.get(key)
        if anomaly is None:
            if len(self.found) >= self.limit:
                self.overflow += count
                return None
            anomaly = self.found[key] = Anomaly(kind, tap, time_ns, sample(packets, wire_length), fields)
        anomaly.count += count
        anomaly.first = min(anomaly.first, time_ns)
        anomaly.last = max(anomaly.last, time_ns)
        return anomaly

    def rows(self) -> list[dict[str, t.Any]]:
        """All of them in the order of time."""
        return [anomaly.as_dict() for anomaly in sorted(self.found.values(), key=_by_time)]


def _by_time(anomaly: Anomaly) -> tuple[int, str]:
    return anomaly.first, anomaly.kind


def sample(packets: list[Packet] | None, wire_length: int | None = None) -> dict[str, t.Any]:
    """What a packet looked like: the innermost headers, and those of the tunnel around them."""
    if not packets:
        return {}
    inner = packets[-1]
    outer = packets[-2] if len(packets) > 1 else None
    found = describe(inner)
    carrier = outer or (inner if inner.tunnel else None)
    if carrier and carrier.tunnel:
        tunnel = carrier.tunnel
        found["vni"] = tunnel.vni
        found["header"] = tunnel.raw.hex()
    found["outer"] = describe(outer) if outer else None
    found["wire_length"] = wire_length
    return found


def describe(packet: Packet) -> dict[str, t.Any]:
    """One packet's addresses, ports and length."""
    protocol, src, dst, first, second = _flow_table.endpoints(packet)
    ported = bool(packet.sport or packet.dport)
    found: dict[str, t.Any] = {
        "protocol": _flow_table.protocol_text(protocol, packet.ethertype),
        "src": _flow_table.ip_text(src),
        "dst": _flow_table.ip_text(dst),
        "sport": packet.sport if ported else None,
        "dport": packet.dport if ported else None,
        "smac": _flow_table.mac_text(packet.smac),
        "dmac": _flow_table.mac_text(packet.dmac),
        "length": packet.length,
    }
    if packet.icmp_type >= 0:
        found["icmp"] = {"type": first >> 8, "code": first & 255, "id": second}
    return found

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The packet a question is about: what is known of it, None for the rest."""

from __future__ import annotations

import dataclasses
import ipaddress
import typing as t

PROTOCOLS = {"icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "ah": 51, "icmp6": 58}
PROTOCOLS.update({"icmpv6": 58, "ipv6-icmp": 58, "sctp": 132, "udplite": 136})
CT_STATES = ("invalid", "established", "related", "new", "untracked")
TCP_FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ece": 64, "cwr": 128}


@dataclasses.dataclass(frozen=True)
class Packet:
    """One packet at one place. None means unknown, also for interfaces; "" means "no interface".

    family: 4, 6, or 0 for ARP. protocol: a name of PROTOCOLS or a number. tcp_flags: a number or names.
    ct_state: the states conntrack may give it, out of CT_STATES. Addresses and MACs as text, integers in host order.
    fragment: True for a later fragment (no transport header). ipsec: it was, or will be, transformed by IPsec.
    """

    family: int = 4
    src: str | None = None
    dst: str | None = None
    protocol: str | int | None = None
    sport: int | None = None
    dport: int | None = None
    iif: str | None = None
    oif: str | None = None
    iifindex: int | None = None
    oifindex: int | None = None
    iiftype: int | None = None  # ARPHRD_*; taken as Ethernet (1) when a MAC is given
    oiftype: int | None = None
    ct_state: t.Iterable[str] | None = None
    ct_direction: str | None = None  # "original" | "reply"
    ct_mark: int | None = None
    dnat: bool | None = None  # whether conntrack has translated the destination (source) of this flow
    snat: bool | None = None
    mark: int | None = None
    smac: str | None = None
    dmac: str | None = None
    src_type: str | None = None  # "local", "unicast", "broadcast", "multicast"…: how the host routes the address
    dst_type: str | None = None
    pkttype: str | None = None  # "host", "broadcast", "multicast", "other"
    ttl: int | None = None
    tos: int | None = None
    length: int | None = None  # of the IP packet, bytes
    icmp_type: int | None = None
    icmp_code: int | None = None
    tcp_flags: int | t.Iterable[str] | None = None
    payload: bytes | None = None  # what follows the UDP header
    fragment: bool | None = False
    df: bool | None = None
    ipsec: bool | None = None
    physin: str | None = None  # bridge ports, for `-m physdev`
    physout: str | None = None

    @classmethod
    def vxlan(cls, src: str | None, dst: str | None, port: int, **more: t.Any) -> Packet:
        """The outer packet of a VXLAN tunnel.

        Each direction is a conntrack flow of its own that never sees a reply (the source port is a hash of the inner
        flow, RFC 7348 §5), so it is `new` for ever and no rule for established traffic lets it through.
        """
        family = 6 if ":" in (dst or src or "") else 4
        known: dict[str, t.Any] = {"protocol": "udp", "dport": port, "ct_state": ("new",), "ipsec": False}
        return cls(**{"family": family, "src": src, "dst": dst, **known, **more})

    @property
    def number(self) -> int | None:
        """Protocol number."""
        return PROTOCOLS[self.protocol] if isinstance(self.protocol, str) else self.protocol

    @property
    def flags(self) -> int | None:
        """TCP flags as the byte in the header."""
        if self.tcp_flags is None or isinstance(self.tcp_flags, int):
            return self.tcp_flags
        return sum({TCP_FLAGS[name] for name in self.tcp_flags})

    @property
    def states(self) -> tuple[str, ...] | None:
        return None if self.ct_state is None else tuple(state for state in CT_STATES if state in set(self.ct_state))

    def type_of(self, side: str) -> str | None:
        """Routing type of an address: given, or what the address alone tells (net/ipv4/fib_frontend.c)."""
        given = self.src_type if side == "src" else self.dst_type
        text = self.src if side == "src" else self.dst
        if given or text is None:
            return given
        parsed = ipaddress.ip_address(text)
        if parsed.is_multicast:
            return "multicast"
        if parsed.is_loopback:
            return "local"
        if parsed.version == 4 and (str(parsed) == "255.255.255.255" or parsed.packed[0] == 0):
            return "broadcast"
        return None

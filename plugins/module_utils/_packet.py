# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a decoded frame consists of: packets in one another, and the headers of the tunnels between them.

Sources: RFC 7348 §5 (VXLAN), RFC 8926 (Geneve), draft-smith-vxlan-group-policy, LINKTYPE_ numbers of tcpdump.org.
"""

from __future__ import annotations

from ansible_collections.crosshost.doctor.plugins.module_utils import _checksum

NULL, ETHERNET, LOOP, SLL, SLL2 = 0, 1, 108, 113, 276
# Raw IP: the DLT numbers that BSDs gave it, LINKTYPE_RAW, LINKTYPE_IPV4, LINKTYPE_IPV6.
RAW = frozenset({12, 14, 101, 228, 229})
LINK_TYPES = frozenset({NULL, ETHERNET, LOOP, SLL, SLL2}) | RAW

TCP, UDP, ICMP, ICMP6, ESP = 6, 17, 1, 58, 50
FIN, SYN, RST, ACK = 1, 2, 4, 16
VXLAN_PORTS = frozenset({4789, 8472})
GPE_PORT, GENEVE_PORT, ESP_PORT = 4790, 6081, 4500
I_FLAG, GBP_FLAG, GPE_FLAG = 0x08, 0x80, 0x04


class Tunnel:
    """A tunnel header: C(kind) is C(vxlan), C(gpe), C(geneve) or C(foreign), for what is not VXLAN on its port.

    C(raw): the header's eight bytes. C(flags): its first. C(vni): 24 bits. C(policy): the group policy ID, where the
    header has one. C(reserved): bits set that RFC 7348 §5 wants zero, other than those of a group policy, as a number
    of 32 bits: the first word without the I flag, and the last byte.
    """

    __slots__ = ("flags", "kind", "policy", "raw", "reserved", "vni")

    def __init__(self, kind: str, raw: bytes) -> None:
        self.kind, self.raw = kind, raw
        self.flags = raw[0]
        self.vni = int.from_bytes(raw[4:7], "big")
        self.policy: int | None = None
        self.reserved = 0

    @property
    def valid(self) -> bool:
        """Whether the VNI means anything: the I flag of VXLAN; Geneve has no such flag."""
        return self.kind == "geneve" or bool(self.flags & I_FLAG)


class Packet:
    """One packet of a frame: a link-layer header if it has one, then ARP or IP, then what IP carries.

    What is absent has the value below; addresses are bytes. C(length): of the IP packet, as its header says it;
    C(start) and C(end): where it stands in the frame, as far as captured; C(whole): all of it was captured;
    C(body): where the transport header begins. C(offset): of a fragment, in bytes. C(sum): the checksum field of the
    transport header.
    """

    smac: bytes | None = None
    dmac: bytes | None = None
    vlans: tuple[int, ...] = ()
    ethertype: int | None = None
    arp: tuple[int, bytes, bytes, bytes, bytes] | None = None  # operation, sender's MAC and IP, target's MAC and IP
    version = 0
    src = b""
    dst = b""
    protocol: int | None = None
    tos = 0
    ttl = 0
    ident = 0
    df = False
    mf = False
    offset = 0
    length = 0
    start = 0
    body = 0
    end = 0
    whole = False
    header_ok: bool | None = None
    sport = 0
    dport = 0
    sum = 0
    seq = 0
    ack = 0
    tcp_flags = 0
    data = 0  # where the transport's payload begins; 0: there is no transport header
    data_length = 0  # as the headers say it
    icmp_type = -1
    icmp_code = 0
    icmp_id = 0
    icmp_seq = 0
    mtu: int | None = None
    quote: list[Packet] | None = None  # of an ICMP error
    spi: int | None = None
    tunnel: Tunnel | None = None

    @property
    def fragment(self) -> str | None:
        """C(first), C(later) or, for a packet that is whole, None."""
        return "later" if self.offset else "first" if self.mf else None


class Frame:
    """A decoded frame: its packets, the outermost first, each one inside the tunnel of the one before."""

    __slots__ = ("data", "ifindex", "link_type", "out", "packets", "problems", "wire_length")

    def __init__(self, data: bytes, link_type: int, wire_length: int) -> None:
        self.data, self.link_type, self.wire_length = data, link_type, wire_length
        self.packets: list[Packet] = []
        self.problems: list[str] = []
        # Of Linux cooked captures: the interface's index (version 2), and whether the host sent it.
        self.ifindex: int | None = None
        self.out: bool | None = None

    @property
    def truncated(self) -> bool:
        return len(self.data) < self.wire_length


def transport_sum(frame: Frame, packet: Packet) -> str | None:
    """The state of the packet's transport checksum, see C(_checksum.transport); None where it cannot be computed:
    fragments, what was not captured whole, super-frames of 64 KiB and more."""
    if not packet.data or not packet.whole or packet.fragment or packet.end - packet.body > 65535:
        return None
    return _checksum.transport(packet.protocol or 0, packet.src, packet.dst, frame.data[packet.body : packet.end])

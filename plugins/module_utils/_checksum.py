# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Internet checksums of packets in a capture (RFC 1071), and what a wrong one may mean.

A sender that leaves the sum to its network card puts the sum of the pseudo header in its place: on the sending host
such a packet looks broken and is not. So a wrong sum is not yet a fault: see C(OFFLOADED), and docs/frame.md.
"""

from __future__ import annotations

OK = "ok"
WRONG = "wrong"
# Wrong, but exactly what the kernel leaves for the card to complete (CHECKSUM_PARTIAL).
OFFLOADED = "offloaded"
# UDP's "none computed": allowed over IPv4 (RFC 768), and for tunnels over IPv6 (RFC 6935).
NONE = "none"

_TCP, _UDP, _ICMP, _ICMP6 = 6, 17, 1, 58
# Where the sum stands in the header.
_FIELD = {_TCP: 16, _UDP: 6, _ICMP: 2, _ICMP6: 2}


def total(data: bytes) -> int:
    """The ones' complement sum of C(data) modulo 65535: 0 for a packet whose sum is right.

    The number formed by the bytes has the remainder of the sum of its 16-bit digits, because 65536 leaves 1: one
    division in C in place of a loop. An odd byte at the end counts as the high one (RFC 1071 §2).
    """
    number = int.from_bytes(data, "big")
    return (number << 8 if len(data) & 1 else number) % 65535


def header_ok(header: bytes) -> bool:
    """Whether an IPv4 header's own sum is right (RFC 791 §3.1)."""
    return total(header) == 0


def transport(protocol: int, src: bytes, dst: bytes, segment: bytes) -> str | None:
    """The state of the sum of a whole TCP, UDP, ICMP or ICMPv6 message: C(OK), C(WRONG), C(OFFLOADED) or C(NONE).

    C(src) and C(dst) are the addresses as bytes. None: another protocol, or too short to have a sum.
    """
    place = _FIELD.get(protocol)
    if place is None or len(segment) < place + 2:
        return None
    field = int.from_bytes(segment[place : place + 2], "big")
    if protocol == _UDP and not field:
        return NONE
    # The pseudo header (RFC 9293 §3.1, RFC 8200 §8.1): ICMP has one over IPv6 only.
    pseudo = 0 if protocol == _ICMP else (total(src + dst) + protocol + len(segment)) % 65535
    if (pseudo + total(segment)) % 65535 == 0:
        return OK
    return OFFLOADED if field % 65535 == pseudo and protocol != _ICMP else WRONG

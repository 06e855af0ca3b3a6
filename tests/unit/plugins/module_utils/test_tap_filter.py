# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel's own judgement of frames by our filters: datagrams of a socket pair stand for frames, no root needed."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _probe_base, _tap_filter
from ansible_collections.crosshost.doctor.plugins.module_utils._tap_filter import ETHERNET, RAW_IP, Match

MARK = "20261121-013000-5a1f9c"
TEXT = _probe_base.payload(MARK, "overlay:web:db", 2)
A, B, C = "192.0.2.11", "192.0.2.12", "198.51.100.9"
A6, B6, C6 = "2001:db8::11", "2001:db8::12", "2001:db8::99"
PORT = 4789


def ethernet(kind: int, body: bytes, *tags: int) -> bytes:
    tagged = b"".join(struct.pack("!HH", tag, 7) for tag in tags)
    return b"\x02" * 6 + b"\x04" * 6 + tagged + struct.pack("!H", kind) + body


def ip(protocol: int, body: bytes, src: str = A, dst: str = B, offset: int = 0, options: bytes = b"") -> bytes:
    """IPv4, or IPv6 by the addresses; C(offset) in units of eight bytes."""
    if ":" not in src:
        head = struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, 0, 20 + len(body), 9, offset, 64, protocol, 0)
        return head + socket.inet_aton(src) + socket.inet_aton(dst) + options + body
    if offset:
        body = struct.pack("!BBHI", protocol, 0, offset << 3, 9) + body
        protocol = 44
    addresses = ipaddress.ip_address(src).packed + ipaddress.ip_address(dst).packed
    return struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + addresses + body


def packet(protocol: int, body: bytes, src: str = A, dst: str = B, **more: int | bytes) -> bytes:
    return ethernet(0x86DD if ":" in src else 0x0800, ip(protocol, body, src, dst, **more))  # type: ignore[arg-type]


def udp(body: bytes, sport: int = 40000, dport: int = 9000) -> bytes:
    return struct.pack("!HHHH", sport, dport, 8 + len(body), 0) + body


def tcp(flags: int, sport: int = 40000, dport: int = 80, body: bytes = b"") -> bytes:
    return struct.pack("!HHIIBBHHH", sport, dport, 1, 0, 0x50, flags, 1024, 0, 0) + body


def echo(text: bytes = TEXT, kind: int = 8) -> bytes:
    return struct.pack("!BBHHH", kind, 0, 0, 1, 1) + text


def tunnel(frame: bytes, flags: int = 8, src: str = A, dst: str = B, **ports: int) -> bytes:
    """A VXLAN packet with an inner frame."""
    vxlan = struct.pack("!BxxxI", flags, 4097 << 8)
    return packet(17, udp(vxlan + frame, **{"dport": PORT, **ports}), src, dst)


def kept(program: Sequence[_tap_filter.Instruction], frame: bytes) -> int:
    """How many bytes of a frame pass."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver:
        _tap_filter.attach(receiver, program)
        sender.send(frame)
        receiver.setblocking(False)
        try:
            return len(receiver.recv(1 << 16))
        except BlockingIOError:
            return 0


SYN, RST, SYN_ACK, ACK = 2, 4, 18, 16
PASS = {
    "echo": packet(1, echo()),
    "echo reply": packet(1, echo(kind=0)),
    "echo behind options": packet(1, echo(), options=b"\x01" * 12),
    "echo in a VLAN": ethernet(0x0800, ip(1, echo()), 0x8100),
    "echo in two VLANs": ethernet(0x0800, ip(1, echo()), 0x88A8, 0x8100),
    "echo6": packet(58, echo(kind=128), A6, B6),
    "first fragment of an echo": packet(1, echo(), offset=0x2000),
    "datagram": packet(17, udp(TEXT)),
    "datagram6": packet(17, udp(TEXT), A6, B6),
    "SYN": packet(6, tcp(SYN)),
    "SYN-ACK": packet(6, tcp(SYN_ACK)),
    "RST": packet(6, tcp(RST)),
    "RST-ACK": packet(6, tcp(RST | ACK)),
    "SYN6": packet(6, tcp(SYN), A6, B6),
    "unreachable": packet(1, echo(b"whatever", 3)),
    "time exceeded": packet(1, echo(b"whatever", 11)),
    "too big6": packet(58, echo(b"whatever", 2), A6, B6),
    "ARP": ethernet(0x0806, bytes(28)),
    "neighbour solicitation": packet(58, echo(b"whatever", 135), A6, B6),
    "later fragment": packet(17, b"x" * 40, offset=7),
    "later fragment6": packet(17, b"x" * 40, A6, B6, offset=7),
    "ESP": packet(50, b"x" * 40),
    "ESP6": packet(50, b"x" * 40, A6, B6),
    "tunnelled echo": tunnel(packet(1, echo())),
    "tunnelled echo, from the port": tunnel(packet(1, echo()), sport=PORT, dport=999),
    "tunnelled echo in a VLAN": tunnel(ethernet(0x0800, ip(1, echo()), 0x8100)),
    "tunnelled echo over IPv6": tunnel(packet(1, echo()), src=A6, dst=B6),
    "tunnelled echo6": tunnel(packet(58, echo(kind=128), A6, B6)),
    "tunnelled echo with a group policy": tunnel(packet(1, echo()), flags=0x88),
    "tunnelled datagram": tunnel(packet(17, udp(TEXT))),
    "tunnelled SYN": tunnel(packet(6, tcp(SYN))),
    "tunnelled ARP": tunnel(ethernet(0x0806, bytes(28))),
    "tunnelled error": tunnel(packet(1, echo(b"whatever", 3))),
    "tunnelled later fragment of peers": tunnel(packet(17, b"x" * 40, A, "10.0.1.2", offset=7)),
    "no VNI": tunnel(packet(6, tcp(ACK)), flags=0),
    "a tunnel probe": packet(17, udp(bytes(8) + TEXT, dport=PORT)),
    "nothing in the tunnel": packet(17, udp(b"xy", dport=PORT)),
}
DROP = {
    "somebody's echo": packet(1, echo(b"abcdefgh" * 8)),
    "another run's echo": packet(1, echo(TEXT.replace(MARK.encode(), b"20261121-013000-5a1f9d"))),
    "a longer mark": packet(1, echo(TEXT.replace(MARK.encode(), MARK.encode() + b"x"))),
    "short echo": packet(1, echo(b"crosshost")),
    "bulk TCP": packet(6, tcp(ACK, body=b"x" * 1400)),
    "FIN": packet(6, tcp(ACK | 1)),
    "bulk TCP6": packet(6, tcp(ACK, body=b"x" * 1400), A6, B6),
    "bulk UDP": packet(17, udp(b"x" * 1400)),
    "mark in a stream": packet(6, tcp(ACK, body=TEXT)),
    "tunnelled bulk TCP": tunnel(packet(6, tcp(ACK, body=b"x" * 1300))),
    "tunnelled bulk UDP": tunnel(packet(17, udp(b"x" * 1300))),
    "tunnelled bulk TCP6": tunnel(packet(6, tcp(ACK, body=b"x" * 1300), A6, B6)),
    "tunnelled echo of others": tunnel(packet(1, echo(b"abcdefgh" * 8))),
    "a tunnel in the tunnel": tunnel(tunnel(packet(6, tcp(ACK)))),
    "fragments of strangers": packet(17, b"x" * 40, C, "203.0.113.1", offset=7),
    "fragments of strangers6": packet(17, b"x" * 40, C6, "2001:db8::98", offset=7),
    "ESP of strangers": packet(50, b"x" * 40, C, "203.0.113.1"),
    "LLDP": ethernet(0x88CC, bytes(60)),
    "multicast listener report": packet(58, echo(b"whatever", 143), A6, B6),
    "a frame that ends early": packet(1, echo())[:30],
    "nothing": b"\x00",
}
PROBES = _tap_filter.probes(ETHERNET, [4788, PORT], MARK, [A, B, A6, B6], 200)


@pytest.mark.parametrize("name", PASS)
def test_probes_and_what_tells_about_them_pass(name: str) -> None:
    limit = _tap_filter.SHORT if name.startswith("ESP") else 200
    assert kept(PROBES, PASS[name]) == min(len(PASS[name]), limit)


@pytest.mark.parametrize("name", DROP)
def test_what_others_send_does_not(name: str) -> None:
    assert kept(PROBES, DROP[name]) == 0


@pytest.mark.parametrize("name", [name for name in PASS if "VLAN" not in name and "ARP" not in name])
def test_without_a_link_layer_it_is_the_same(name: str) -> None:
    bare = PASS[name][14:]
    assert kept(_tap_filter.probes(RAW_IP, [4788, PORT], MARK, [A, B, A6, B6], 2000), bare) == (
        min(len(bare), _tap_filter.SHORT) if name.startswith("ESP") else len(bare)
    )


def test_without_peers_everybodys_fragments_and_esp_pass() -> None:
    program = _tap_filter.probes(ETHERNET, [PORT], MARK)
    for name in ("fragments of strangers", "fragments of strangers6", "ESP of strangers"):
        assert kept(program, DROP[name])
    assert kept(program, DROP["bulk TCP"]) == 0


def test_with_ports_only_their_connections_pass() -> None:
    program = _tap_filter.probes(ETHERNET, [PORT], MARK, tcp_ports=[80, 8080])
    assert kept(program, packet(6, tcp(SYN, dport=8080)))
    assert kept(program, packet(6, tcp(SYN_ACK, sport=80, dport=40000)))
    assert kept(program, tunnel(packet(6, tcp(RST, sport=80, dport=40000))))
    assert kept(program, packet(6, tcp(SYN, dport=443))) == 0
    assert kept(program, packet(6, tcp(ACK, dport=80))) == 0


def test_the_largest_programs_are_accepted() -> None:
    many = [f"192.0.2.{number}" for number in range(1, 121)]
    six = [f"2001:db8::{number:x}" for number in range(1, 21)]
    program = _tap_filter.probes(ETHERNET, list(range(4000, 4050)), "m" * 64, many + six, 256, list(range(1, 101)))
    assert kept(program, packet(50, b"x", "192.0.2.120", C))
    assert kept(program, packet(50, b"x", C, "203.0.113.1")) == 0
    more = _tap_filter.probes(ETHERNET, [PORT], MARK, [*many, "192.0.2.121"], 256)
    assert kept(more, packet(50, b"x", C, "203.0.113.1"))
    assert kept(program, packet(50, b"x", C6, "2001:db8::14"))
    assert kept(program, packet(50, b"x", C6, "2001:db8::15")) == 0
    more = _tap_filter.probes(ETHERNET, [PORT], MARK, [*six, "2001:db8::15"], 256)
    assert kept(more, packet(50, b"x", C6, C6))


@settings(max_examples=300, deadline=None)
@given(
    mark=st.text("abc0-9.:_", max_size=64),
    text=st.binary(max_size=120),
    position=st.integers(0, 140),
    where=st.sampled_from(["plain", "tunnel"]),
)
def test_an_echo_passes_if_and_only_if_it_begins_with_the_mark(
    mark: str, text: bytes, position: int, where: str
) -> None:
    wanted = b"crosshost.doctor" + (b" " + mark.encode() + b" " if mark else b"")
    sent = wanted[:position] + text
    frame = packet(1, echo(sent))
    program = _tap_filter.probes(ETHERNET, [PORT], mark)
    assert bool(kept(program, frame if where == "plain" else tunnel(frame))) == sent.startswith(wanted)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(PASS)), st.integers(0, 160), st.binary(min_size=1, max_size=4), st.booleans())
def test_damaged_frames_harm_nobody(name: str, position: int, damage: bytes, cut: bool) -> None:
    frame = PASS[name]
    damaged = frame[:position] + damage + (b"" if cut else frame[position + len(damage) :])
    assert 0 <= kept(PROBES, damaged) <= len(damaged)


MATCHES = [
    ("", packet(6, tcp(ACK)), True),
    ("tcp", packet(6, tcp(ACK)), True),
    ("tcp", packet(6, tcp(ACK), A6, B6), True),
    ("tcp", packet(17, udp(b"x")), False),
    ("tcp", tunnel(packet(6, tcp(ACK))), True),
    ("tcp", tunnel(packet(17, udp(b"x"))), False),
    ("udp", tunnel(packet(6, tcp(ACK))), True),
    ("udp 4789", tunnel(packet(6, tcp(ACK))), True),
    ("tcp 80", packet(6, tcp(ACK, dport=80)), True),
    ("tcp 80", packet(6, tcp(ACK, sport=80, dport=1)), True),
    ("tcp 80", packet(6, tcp(ACK, dport=81)), False),
    ("tcp 80", packet(17, udp(b"x", dport=80)), False),
    ("tcp 80", packet(6, tcp(ACK), options=b"\x01" * 8), True),
    ("tcp 80", ethernet(0x0800, ip(6, tcp(ACK)), 0x8100), True),
    ("tcp 80", packet(6, b"x" * 30, offset=4), True),
    ("tcp 80", packet(17, b"x" * 30, offset=4), False),
    (" 80", packet(6, tcp(ACK)), True),
    (" 80", packet(1, echo()), False),
    (" 80 40000", packet(6, tcp(ACK)), True),
    (" 80 40001", packet(6, tcp(ACK)), False),
    ("icmp", packet(1, echo()), True),
    ("icmp", packet(58, echo(), A6, B6), True),
    ("icmp", packet(6, tcp(ACK)), False),
    ("ip", packet(6, tcp(ACK)), True),
    ("ip", packet(6, tcp(ACK), A6, B6), False),
    ("ip6", packet(6, tcp(ACK), A6, B6), True),
    ("ip6", packet(6, tcp(ACK)), False),
    ("arp", ethernet(0x0806, bytes(28)), True),
    ("arp", packet(6, tcp(ACK)), False),
    ("arp", tunnel(ethernet(0x0806, bytes(28))), True),
    ("esp", packet(50, b"x"), True),
    (f"{A}", packet(6, tcp(ACK)), True),
    (f"{B}", packet(6, tcp(ACK)), True),
    (f"{C}", packet(6, tcp(ACK)), False),
    (f"{A} {B}", packet(6, tcp(ACK)), True),
    (f"{A} {C}", packet(6, tcp(ACK)), False),
    ("192.0.2.0/24", packet(6, tcp(ACK)), True),
    ("192.0.2.0/30", packet(6, tcp(ACK)), False),
    ("2001:db8::/32", packet(6, tcp(ACK), A6, B6), True),
    ("2001:db8::/123", packet(6, tcp(ACK), A6, B6), True),
    ("2001:db8::/124", packet(6, tcp(ACK), A6, B6), False),
    (f"{A6}", packet(6, tcp(ACK)), False),
    (f"{A}", ethernet(0x0806, struct.pack("!8x6s4s6s4s", b"", socket.inet_aton(C), b"", socket.inet_aton(A))), True),
    (f"{A}", ethernet(0x0806, struct.pack("!8x6s4s6s4s", b"", socket.inet_aton(C), b"", socket.inet_aton(B))), False),
    ("10.0.1.2", tunnel(packet(6, tcp(ACK), "10.0.1.2", "10.0.1.3")), True),
    ("10.0.1.4", tunnel(packet(6, tcp(ACK), "10.0.1.2", "10.0.1.3")), False),
    ("tcp 80 10.0.1.2", tunnel(packet(6, tcp(ACK), "10.0.1.2", "10.0.1.3")), True),
    ("tcp 80 10.0.1.2", tunnel(packet(6, tcp(ACK), "10.0.1.2", "10.0.1.3"), flags=0), False),
    ("tcp 80 10.0.1.2", packet(17, udp(b"", dport=PORT)), False),
]


def match_of(text: str) -> Match:
    words = text.split()
    return Match.parse(
        {
            "protocol": next((word for word in words if word.isalnum() and not word.isdigit()), None),
            "ports": [int(word) for word in words if word.isdigit()],
            "hosts": [word for word in words if "." in word or ":" in word],
        }
    )


@pytest.mark.parametrize(("text", "frame", "passes"), MATCHES)
def test_a_match_is_that_of_the_packet_or_of_what_it_carries(text: str, frame: bytes, passes: bool) -> None:
    assert kept(_tap_filter.matching(ETHERNET, [PORT], match_of(text), 1500), frame) == (len(frame) if passes else 0)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"protocol": "smtp"}, "smtp"),
        ({"ports": [0]}, "65535"),
        ({"ports": [65536]}, "65535"),
        ({"protocol": "icmp", "ports": [80]}, "no ports"),
        ({"ports": [1, 2, 3]}, "two ends"),
        ({"hosts": ["web"]}, "web"),
        ({"hosts": ["10.0.0.1", "10.0.0.2", "10.0.0.3"]}, "two ends"),
    ],
)
def test_what_cannot_match_is_refused(options: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Match.parse(options)


def test_a_frame_is_cut_to_the_snapshot_length() -> None:
    assert kept(_tap_filter.everything(100), b"x" * 200) == 100
    assert kept(_tap_filter.nothing(), b"x" * 200) == 0

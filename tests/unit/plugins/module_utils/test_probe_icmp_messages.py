# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ICMP as other people's software reads and writes it, and as nobody should."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _icmp

scapy = pytest.importorskip("scapy.all")

FAMILIES = st.sampled_from([socket.AF_INET, socket.AF_INET6])
WORD = st.integers(0, 0xFFFF)
ADDRESS4 = st.ip_addresses(v=4).map(str)
ADDRESS6 = st.ip_addresses(v=6).map(str)


@given(WORD, WORD, st.binary(max_size=200))
def test_scapy_reads_our_echo_request(ident, seq, payload):
    packet = scapy.ICMP(_icmp.echo_request(socket.AF_INET, ident, seq, payload))
    assert (packet.type, packet.code, packet.id, packet.seq) == (8, 0, ident, seq)
    assert bytes(packet.payload) == payload
    given_sum = packet.chksum
    del packet.chksum
    assert scapy.ICMP(bytes(packet)).chksum == given_sum


@given(WORD, WORD, st.binary(max_size=200))
def test_scapy_reads_our_icmpv6_echo_request(ident, seq, payload):
    packet = scapy.ICMPv6EchoRequest(_icmp.echo_request(socket.AF_INET6, ident, seq, payload))
    assert (packet.type, packet.id, packet.seq, bytes(packet.data)) == (128, ident, seq, payload)


@given(WORD, WORD, st.binary(max_size=100))
def test_echo_replies_made_by_scapy_are_read(ident, seq, payload):
    reply = bytes(scapy.ICMP(type=0, id=ident, seq=seq) / payload)
    expected = _icmp.Message(0, 0, ident, seq, payload)
    assert _icmp.parse_message(socket.AF_INET, reply) == expected
    reply6 = bytes(scapy.ICMPv6EchoReply(id=ident, seq=seq, data=payload))
    assert _icmp.parse_message(socket.AF_INET6, reply6) == _icmp.Message(129, 0, ident, seq, payload)


@given(ADDRESS4, ADDRESS4, WORD, WORD, st.integers(0, 15), st.integers(0, 20))
def test_quoted_tcp_header_is_found_behind_any_ip_header(src, dst, sport, dport, code, options):
    quoted = bytes(
        scapy.IP(src=src, dst=dst, options=[scapy.IPOption(b"\x01")] * options)
        / scapy.TCP(sport=sport, dport=dport, flags="S")
    )
    header = (quoted[0] & 15) * 4
    error = bytes(scapy.ICMP(type=3, code=code)) + quoted[: header + 8]  # all a router has to quote
    message = _icmp.parse_message(socket.AF_INET, error)
    assert message is not None
    assert message.quote is not None
    quote = message.quote
    assert (quote.protocol, quote.src, quote.dst, quote.sport, quote.dport) == (6, src, dst, sport, dport)
    assert (message.type, message.code) == (3, code)


@given(ADDRESS6, ADDRESS6, WORD, WORD, st.booleans(), st.booleans())
def test_quoted_udp_header_is_found_behind_ipv6_extension_headers(src, dst, sport, dport, hop, fragment):
    packet = scapy.IPv6(src=src, dst=dst)
    if hop:
        packet /= scapy.IPv6ExtHdrHopByHop()
    if fragment:
        packet /= scapy.IPv6ExtHdrFragment(offset=0, m=1)
    packet /= scapy.UDP(sport=sport, dport=dport) / b"text"
    error = bytes([1, 4, 0, 0, 0, 0, 0, 0]) + bytes(packet)
    message = _icmp.parse_message(socket.AF_INET6, error)
    assert message is not None
    assert message.quote is not None
    quote = message.quote
    assert (quote.protocol, quote.src, quote.dst, quote.sport, quote.dport) == (17, src, dst, sport, dport)
    assert quote.payload == b"text"


@given(ADDRESS4, WORD, WORD)
def test_quoted_echo_gives_ident_and_number(dst, ident, seq):
    quoted = bytes(scapy.IP(dst=dst, src="192.0.2.1") / scapy.ICMP(type=8, id=ident, seq=seq) / b"mark")
    quote = _icmp.parse_quote(socket.AF_INET, quoted)
    assert quote is not None
    assert (quote.ident, quote.seq, quote.payload, quote.sport) == (ident, seq, b"mark", None)


def test_later_fragment_has_no_ports():
    quoted = bytes(scapy.IP(dst="192.0.2.1", src="192.0.2.2", proto=17, frag=5) / (b"\x00\x35" * 20))
    quote = _icmp.parse_quote(socket.AF_INET, quoted)
    assert quote is not None
    assert quote.sport is None
    quoted6 = bytes(scapy.IPv6(dst="::1") / scapy.IPv6ExtHdrFragment(offset=8, nh=17) / (b"\x00\x35" * 20))
    quote = _icmp.parse_quote(socket.AF_INET6, quoted6)
    assert quote is not None
    assert (quote.protocol, quote.sport) == (17, None)


def test_ipv6_header_chain_without_an_end_is_given_up():
    endless = bytes(scapy.IPv6(dst="::1", nh=60)) + bytes([60, 0, 1, 4, 0, 0, 0, 0]) * 40
    quote = _icmp.parse_quote(socket.AF_INET6, endless)
    assert quote is not None
    assert quote.sport is None


@given(FAMILIES, st.binary(max_size=300))
def test_no_bytes_break_the_parsers(family, data):
    _icmp.parse_message(family, data)
    _icmp.parse_quote(family, data)
    _icmp.parse_packet(data)


@given(FAMILIES, st.sampled_from([1, 2, 3, 4, 11, 12]), st.binary(max_size=120), st.integers(0, 15))
def test_no_quote_breaks_the_parser(family, kind, data, start):
    first = bytes([0x40 | start if family == socket.AF_INET else 0x60])
    _icmp.parse_message(family, bytes([kind, 0, 0, 0, 0, 0, 0, 0]) + first + data)


@pytest.mark.parametrize(
    ("family", "kind", "code", "name"),
    [
        (socket.AF_INET, 3, 13, "admin-prohibited"),
        (socket.AF_INET, 3, 3, "port-unreachable"),
        (socket.AF_INET, 3, 77, "icmp-3-77"),
        (socket.AF_INET6, 1, 1, "admin-prohibited"),
        (socket.AF_INET6, 3, 0, "hop-limit-exceeded"),
        (socket.AF_INET6, 9, 9, "icmpv6-9-9"),
    ],
)
def test_errors_have_names(family, kind, code, name):
    assert _icmp.error_name(family, kind, code) == name

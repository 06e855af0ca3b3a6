# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The frame decoder on frames made from the RFCs, against scapy, and on bytes that are no frames."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _checksum, _frame, _packet
from ansible_collections.crosshost.doctor.plugins.module_utils._flow_table import ip_text

from . import frames as f

A6, B6 = "2001:db8::1", "2001:db8::2"


def decode(data: bytes, link: int = 1, wire: int | None = None, **options: Any) -> _packet.Frame:
    return _frame.decode(data, link, len(data) if wire is None else wire, **options)


def ends(packet: _packet.Packet) -> tuple[str | None, str | None, int, int]:
    return ip_text(packet.src), ip_text(packet.dst), packet.sport, packet.dport


@pytest.mark.parametrize("underlay", [(f.A, f.B), (A6, B6)], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("tags", [(), (100,), (200, 300)], ids=["untagged", "VLAN", "QinQ"])
@pytest.mark.parametrize("link", [1, 113, 276, 101])
def test_vxlan_over_every_underlay_and_link(underlay: tuple[str, str], tags: tuple[int, ...], link: int) -> None:
    frame = f.vxlan(f.inner_tcp(b"data", 1000), 0xABCDEF, *underlay, tags=tags, summed=True)
    kind, payload = frame[12:14], frame[14:]
    if link == 113:
        frame = struct.pack("!HHH", 4, 1, 6) + f.mac(f.MAC_A) + bytes(2) + kind + payload
    elif link == 276:
        frame = kind + bytes(2) + struct.pack("!IHBB", 9, 1, 0, 6) + f.mac(f.MAC_A) + bytes(2) + payload
    elif link == 101:
        frame = payload[4 * len(tags) :]
        tags = ()
    found = decode(frame, link)
    assert not found.problems
    outer, inner = found.packets
    assert ends(outer) == (*underlay, 40000, 4789)
    assert outer.vlans == tags
    assert outer.tunnel is not None
    assert (outer.tunnel.kind, outer.tunnel.vni, outer.tunnel.flags) == ("vxlan", 0xABCDEF, 8)
    assert (outer.tunnel.reserved, outer.tunnel.policy) == (0, None)
    assert ends(inner) == (f.IN_A, f.IN_B, 41000, 80)
    assert (inner.smac, inner.dmac) == (f.mac(f.MAC_A), f.mac(f.MAC_B))
    assert (inner.seq, inner.data_length, inner.length, inner.df) == (1000, 4, 44, True)
    assert [_packet.transport_sum(found, packet) for packet in found.packets] == ["ok", "ok"]
    assert (found.out, found.ifindex) == {1: (None, None), 101: (None, None), 113: (True, None), 276: (False, 9)}[link]


@pytest.mark.parametrize(("family", "order"), [(2, "<"), (2, ">"), (30, "<"), (24, ">")])
def test_the_loopback_header_is_in_the_byte_order_of_the_host_that_captured(family: int, order: str) -> None:
    body = f.ip4(f.echo(), f.ICMP) if family == 2 else f.ip6(b"", 59, A6, B6)
    found = decode(struct.pack(order + "I", family) + body, 0)
    assert found.packets[0].version == (4 if family == 2 else 6)


def test_an_ipv4_header_with_options_and_one_with_a_bad_sum() -> None:
    good = decode(f.ethernet(f.ip4(f.udp(b"x", 1, 2), f.UDP, options=b"\x94\x04\0\0")))
    assert (good.packets[0].header_ok, good.packets[0].dport) == (True, 2)
    data = bytearray(f.ethernet(f.ip4(f.udp(b"x", 1, 2), f.UDP)))
    data[22] ^= 1
    assert decode(bytes(data)).packets[0].header_ok is False


def test_ipv6_extension_headers_are_walked_and_a_fragment_is_known() -> None:
    datagram = f.udp(b"x" * 9, 5, 6, A6, B6)
    hop, dst = bytes([60, 0]) + bytes(6), bytes([44, 1]) + bytes(14)
    first = bytes([17, 0]) + struct.pack("!HI", 1, 77)
    found = decode(f.ethernet(f.ip6(hop + dst + first + datagram, 0, A6, B6), 0x86DD)).packets[0]
    assert (found.fragment, found.ident, found.dport, found.df) == ("first", 77, 6, False)
    later = bytes([17, 0]) + struct.pack("!HI", 16, 77)
    found = decode(f.ethernet(f.ip6(later + b"y" * 8, 44, A6, B6), 0x86DD)).packets[0]
    assert (found.fragment, found.offset, found.protocol, found.sport) == ("later", 16, 17, 0)
    endless = bytes([0, 0]) + bytes(6)
    assert decode(f.ethernet(f.ip6(endless * 40, 0, A6, B6), 0x86DD)).problems == ["too many IPv6 extension headers"]


def test_arp_inside_vxlan() -> None:
    found = decode(f.vxlan(f.ethernet(f.arp(1, f.MAC_A, f.IN_A, f.IN_B), 0x0806)))
    assert found.packets[1].arp == (1, f.mac(f.MAC_A), f.address(f.IN_A), bytes(6), f.address(f.IN_B))


def test_the_first_fragment_of_an_outer_datagram_shows_what_is_inside_and_nothing_is_called_malformed() -> None:
    whole = f.vxlan(f.inner_echo(payload=bytes(1400)))[34:]
    first = decode(f.ethernet(f.ip4(whole[:800], f.UDP, mf=True, ident=9)))
    assert [packet.fragment for packet in first.packets] == ["first", None]
    assert first.packets[1].length == 1428
    assert not first.problems
    later = decode(f.ethernet(f.ip4(whole[800:], f.UDP, offset=800, ident=9)))
    assert [packet.fragment for packet in later.packets] == ["later"]


@pytest.mark.parametrize(
    ("head", "kind", "reserved", "policy"),
    [
        (f.header(5), "vxlan", 0, None),
        (f.header(5, flags=0x0C, middle=b"\0\0\3"), "gpe", 0, None),
        (f.header(5, flags=0x0C), "vxlan", 0x04000000, None),
        (f.header(5, flags=0x88, middle=b"\x48\0\x64"), "vxlan", 0, 100),
        (f.header(5, flags=0x88, middle=b"\x01\0\x64"), "vxlan", 0x00010000, 100),
        (f.header(5, last=3), "vxlan", 3, None),
        (f.header(5, flags=0xFF, middle=b"\1\xd1\xf2"), "vxlan", 0x77010000, 0xD1F2),
        (f.header(5, flags=0), "vxlan", 0, None),
        (bytes.fromhex("0000655800000500"), "geneve", 0, None),
        (b"GET / HT", "foreign", 0, None),
    ],
)
def test_what_a_tunnel_header_says(head: bytes, kind: str, reserved: int, policy: int | None) -> None:
    found = decode(f.vxlan(f.inner_echo(), head=head))
    tunnel = found.packets[0].tunnel
    assert tunnel is not None
    assert (tunnel.kind, tunnel.reserved, tunnel.policy) == (kind, reserved, policy)
    assert len(found.packets) == (1 if kind == "foreign" else 2)
    if kind != "foreign":
        assert ends(found.packets[1])[:2] == (f.IN_A, f.IN_B)


def test_our_own_probe_to_a_tunnel_port_is_nobody_s_foreign_protocol() -> None:
    found = decode(f.vxlan(b"crosshost.doctor run p1 0", head=bytes(8)))
    assert found.packets[0].tunnel is None


def test_geneve_with_options_and_gpe_with_ip_inside_are_followed() -> None:
    geneve = bytes([2, 0, 0x65, 0x58, 0, 0, 9, 0]) + bytes(8) + f.inner_echo()
    found = decode(f.ethernet(f.ip4(f.udp(geneve, 1, 6081), f.UDP)))
    assert found.packets[0].tunnel is not None
    assert (found.packets[0].tunnel.kind, found.packets[0].tunnel.vni) == ("geneve", 9)
    assert found.packets[1].icmp_type == 8
    gpe = f.header(9, flags=0x0C, middle=b"\0\0\1") + f.ip4(f.echo(), f.ICMP, f.IN_A, f.IN_B)
    found = decode(f.ethernet(f.ip4(f.udp(gpe, 1, 4790), f.UDP)))
    assert found.packets[1].icmp_type == 8


def test_another_port_is_vxlan_only_when_told_so() -> None:
    frame = f.vxlan(f.inner_echo(), dport=4800)
    assert len(decode(frame).packets) == 1
    assert len(decode(frame, ports={4800}).packets) == 2
    assert len(decode(f.vxlan(f.inner_echo()), ports={4800}).packets) == 1


def test_tunnels_in_tunnels_end_somewhere() -> None:
    frame = f.inner_echo()
    for _number in range(12):
        frame = f.vxlan(frame)
    found = decode(frame)
    assert len(found.packets) == _frame.MAX_DEPTH
    assert found.problems == ["too many tunnels inside each other"]


@pytest.mark.parametrize("size", [28, 36, 200])
def test_icmp_fragmentation_needed_quotes_the_packet_as_far_as_it_goes(size: int) -> None:
    quoted = f.vxlan(f.inner_echo(payload=bytes(1400)))[14:]
    found = decode(
        f.ethernet(f.ip4(f.icmp(3, 4, struct.pack("!HH", 0, 1400), quoted[:size]), f.ICMP, "192.0.2.9", f.A))
    )
    packet = found.packets[0]
    assert (packet.mtu, found.problems) == (1400, [])
    assert packet.quote is not None
    assert ends(packet.quote[0]) == (f.A, f.B, 40000, 4789)
    assert len(packet.quote) == (2 if size == 200 else 1)
    assert (packet.quote[0].tunnel is not None) == (size > 28)


def test_icmpv6_packet_too_big_and_a_quoted_tcp_segment_of_eight_bytes() -> None:
    segment = f.tcp(b"", 5, 6, 0x01020304, f.SYN, A6, B6)[:8]
    quoted = f.ip6(segment, f.TCP, A6, B6)
    message = f.icmp6(2, 0, struct.pack("!I", 1280), quoted, B6, A6)
    packet = decode(f.ethernet(f.ip6(message, f.ICMP6, B6, A6), 0x86DD)).packets[0]
    assert packet.mtu == 1280
    assert packet.quote is not None
    assert (packet.quote[0].seq, packet.quote[0].dport) == (0x01020304, 6)


@pytest.mark.parametrize("encapsulated", [False, True])
def test_esp_by_itself_and_in_udp(encapsulated: bool) -> None:
    esp = struct.pack("!II", 0xD0C4E3, 1) + bytes(40)
    data = f.ip4(f.udp(esp, 4500, 4500), f.UDP) if encapsulated else f.ip4(esp, 50)
    assert decode(f.ethernet(data)).packets[0].spi == 0xD0C4E3
    assert decode(f.ethernet(f.ip4(f.udp(bytes(4) + esp, 4500, 4500), f.UDP))).packets[0].spi is None


def test_big_tcp_has_lengths_of_zero_and_is_decoded() -> None:
    inner = f.ethernet(f.ip4(f.tcp(bytes(70000), 1, 2, 3), f.TCP, f.IN_A, f.IN_B, total=0))
    datagram = struct.pack("!HHHH", 9, 4789, 0, 0) + f.header(7) + inner
    found = decode(f.ethernet(f.ip4(datagram, f.UDP, total=0)))
    assert not found.problems
    assert [packet.length for packet in found.packets] == [20 + 16 + 14 + 70040, 70040]
    assert _packet.transport_sum(found, found.packets[1]) is None


def test_a_frame_cut_by_the_capture_is_not_malformed_and_one_cut_on_the_wire_is() -> None:
    frame = f.vxlan(f.inner_tcp(b"x" * 100, 5))
    for size in range(len(frame)):
        cut = decode(frame[:size], wire=len(frame))
        assert all(problem.endswith("not captured") for problem in cut.problems), (size, cut.problems)
        short = decode(frame[:size])
        assert short.problems, size


PROTOCOLS = st.sampled_from([f.TCP, f.UDP, f.ICMP, f.ICMP6])


@given(
    PROTOCOLS, st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4), st.binary(min_size=8, max_size=90)
)
def test_a_computed_sum_is_right_and_any_flipped_bit_is_seen(
    protocol: int, src: bytes, dst: bytes, body: bytes
) -> None:
    place = {f.TCP: 16, f.UDP: 6}.get(protocol, 2)
    body = body.ljust(20, b"\1")
    source, target = ip_text(src) or "", ip_text(dst) or ""
    empty = body[:place] + b"\0\0" + body[place + 2 :]
    pseudo = (
        b"" if protocol == f.ICMP else f.address(source) + f.address(target) + struct.pack("!II", len(body), protocol)
    )
    value = f.rfc1071(pseudo + empty) or 0xFFFF
    good = body[:place] + struct.pack("!H", value) + body[place + 2 :]
    assert _checksum.transport(protocol, src, dst, good) == "ok"
    assert _checksum.transport(protocol, src, dst, good[:-1] + bytes([good[-1] ^ 1])) == "wrong"
    if protocol != f.ICMP:
        left = empty[:place] + struct.pack("!H", ~f.rfc1071(pseudo) & 0xFFFF) + empty[place + 2 :]
        if f.rfc1071(empty) != 0xFFFF:
            assert _checksum.transport(protocol, src, dst, left) in ("offloaded", "none")


def test_what_a_card_would_have_filled_in_is_told_from_what_is_wrong() -> None:
    data = bytearray(f.inner_tcp(b"data", 5))
    pseudo = f.address(f.IN_A) + f.address(f.IN_B) + struct.pack("!II", 24, f.TCP)
    data[50:52] = struct.pack("!H", ~f.rfc1071(pseudo) & 0xFFFF)
    found = decode(bytes(data))
    assert _packet.transport_sum(found, found.packets[0]) == "offloaded"
    data[51] ^= 1
    found = decode(bytes(data))
    assert _packet.transport_sum(found, found.packets[0]) == "wrong"


IPV4 = st.ip_addresses(v=4).map(str)
IPV6 = st.ip_addresses(v=6).map(str)
PORTS = st.integers(49152, 65535)  # dynamic ones (RFC 6335): scapy takes others for what is registered there


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_scapy_sees_the_same(data: st.DataObject) -> None:
    scapy = pytest.importorskip("scapy.layers.inet", reason="scapy is not installed")
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import ARP, Dot1Q, Ether
    from scapy.layers.vxlan import VXLAN
    from scapy.packet import Raw

    sixth = data.draw(st.booleans())
    a, b = (data.draw(IPV6), data.draw(IPV6)) if sixth else (data.draw(IPV4), data.draw(IPV4))
    outer = IPv6(src=a, dst=b) if sixth else scapy.IP(src=a, dst=b, id=data.draw(st.integers(0, 65535)), flags="DF")
    payload = data.draw(st.binary(max_size=64))
    c, d = data.draw(IPV4), data.draw(IPV4)
    sport, dport = data.draw(PORTS), data.draw(PORTS)
    inner: Any = data.draw(
        st.sampled_from(
            [
                scapy.IP(src=c, dst=d, tos=0xB8) / scapy.TCP(sport=sport, dport=dport, seq=7) / Raw(payload),
                scapy.IP(src=c, dst=d) / scapy.UDP(sport=sport, dport=dport) / Raw(payload),
                scapy.IP(src=c, dst=d) / scapy.ICMP(type=8, id=sport, seq=3) / Raw(payload),
                ARP(op=2, psrc=c, pdst=d, hwsrc="02:00:00:00:00:07"),
            ]
        )
    )
    vlan = data.draw(st.none() | st.integers(1, 4094))
    link: Any = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    if vlan:
        link /= Dot1Q(vlan=vlan)
    vni = data.draw(st.integers(0, 0xFFFFFF))
    made = link / outer / scapy.UDP(sport=sport, dport=4789) / VXLAN(vni=vni, flags="Instance")
    raw = bytes(made / Ether(src="02:00:00:00:00:03", dst="02:00:00:00:00:04") / inner)
    theirs: Any = Ether(raw)
    found = decode(raw)
    assert not found.problems
    carrier, packet = found.packets
    layer = theirs[IPv6] if sixth else theirs[scapy.IP]
    assert ends(carrier) == (ip_text(f.address(layer.src)), ip_text(f.address(layer.dst)), sport, 4789)
    assert carrier.tunnel is not None
    assert carrier.tunnel.vni == theirs[VXLAN].vni
    assert carrier.vlans == ((vlan,) if vlan else ())
    assert _packet.transport_sum(found, carrier) == "ok"
    inside: Any = theirs[VXLAN].payload
    if ARP in inside:
        assert packet.arp is not None
        assert (packet.arp[0], ip_text(packet.arp[2])) == (inside[ARP].op, inside[ARP].psrc)
        return
    assert ends(packet)[:2] == (inside[scapy.IP].src, inside[scapy.IP].dst)
    assert (packet.length, packet.tos, packet.ttl) == (inside[scapy.IP].len, inside[scapy.IP].tos, inside[scapy.IP].ttl)
    assert packet.header_ok
    assert _packet.transport_sum(found, packet) == "ok"
    for kind in (scapy.TCP, scapy.UDP):
        if kind in inside:
            assert ends(packet)[2:] == (inside[kind].sport, inside[kind].dport)
    assert packet.data_length == len(payload)


SEEDS = [
    f.vxlan(f.inner_tcp(b"x" * 20, 5)),
    f.vxlan(f.ethernet(f.arp(1, f.MAC_A, f.IN_A, f.IN_B), 0x0806), tags=(5, 6)),
    f.vxlan(f.inner_echo(), 5, A6, B6),
    f.ethernet(f.ip4(f.icmp(3, 4, bytes(4), f.vxlan(f.inner_echo())[14:]), f.ICMP)),
    f.ethernet(
        f.ip6(bytes([60, 0]) + bytes(6) + bytes([44, 1]) + bytes(14) + b"\x11\0\0\1\0\0\0\1", 0, A6, B6), 0x86DD
    ),
]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SEEDS), st.sampled_from([*sorted(_packet.LINK_TYPES), 77]), st.data())
def test_no_bytes_break_the_decoder(start: bytes, link: int, data: st.DataObject) -> None:
    changed = bytearray(start)
    for _number in range(data.draw(st.integers(0, 8))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(changed[: data.draw(st.integers(0, len(changed)))])
    found = _frame.decode(cut, link, len(cut) + data.draw(st.sampled_from([0, 1, 70000])))
    assert len(found.packets) <= _frame.MAX_DEPTH + 1
    for packet in found.packets:
        assert 0 <= packet.start <= packet.end <= len(cut)
        assert packet.data <= len(cut)
        _packet.transport_sum(found, packet)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120), st.sampled_from(sorted(_packet.LINK_TYPES)))
def test_no_noise_breaks_the_decoder(data: bytes, link: int) -> None:
    decode(data, link)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""DNS messages against scapy and against garbage, and resolv.conf as the C library reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _dns

scapy = pytest.importorskip("scapy.all")

LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=20)
NAME = st.lists(LABEL, min_size=1, max_size=6).map(".".join)
WORD = st.integers(0, 0xFFFF)


@given(WORD, NAME, st.sampled_from(["A", "AAAA"]))
def test_scapy_reads_our_query(ident, name, qtype):
    packet = scapy.DNS(_dns.encode_query(ident, name, qtype))
    assert (packet.id, packet.qr, packet.opcode, packet.rd, packet.qdcount, packet.ancount) == (ident, 0, 0, 1, 1, 0)
    question = packet.qd[0]
    assert question.qname.decode() == name + "."
    assert (question.qtype, question.qclass) == (_dns.TYPES[qtype], 1)


@given(WORD, NAME, st.lists(st.ip_addresses(v=4).map(str), max_size=10), st.sampled_from([0, 2, 3, 5]))
def test_answers_made_by_scapy_are_read(ident, name, addresses, rcode):
    records = [scapy.DNSRR(rrname=name, type="A", rdata=address, ttl=5) for address in addresses]
    message = bytes(scapy.DNS(id=ident, qr=1, rcode=rcode, qd=scapy.DNSQR(qname=name), an=records))
    answer = _dns.decode(message)
    assert (answer.ident, answer.rcode, answer.truncated) == (ident, rcode, False)
    assert answer.question == (name, 1)
    assert answer.addresses == addresses


@given(NAME, st.ip_addresses(v=6).map(str))
def test_alias_before_the_address_is_passed_over(name, address):
    records = [
        scapy.DNSRR(rrname=name, type="CNAME", rdata="alias.example."),
        scapy.DNSRR(rrname="alias.example.", type="AAAA", rdata=address),
    ]
    message = scapy.DNS(qr=1, qd=scapy.DNSQR(qname=name, qtype="AAAA"), an=records)
    for wire in (bytes(message), bytes(message.compress())):
        assert _dns.decode(wire).addresses == [address]


def test_truncated_answer_says_so_and_its_records_are_not_trusted():
    message = bytes(scapy.DNS(qr=1, tc=1, qd=scapy.DNSQR(qname="a.example"), ancount=9))
    assert _dns.decode(message).truncated


@pytest.mark.parametrize(
    "tail",
    [
        b"\xc0\x0c",  # points at itself
        b"\xc0\xff",  # points forwards
        b"\x01a\xc0\x0c",  # points at its own start
        b"\x3f" + b"a" * 10,  # label longer than the message
        b"\x80a",  # undefined label type
        b"\xc0",  # half a pointer
        (b"\x3f" + b"a" * 63) * 5 + b"\0",  # longer than a name may be
        b"",
    ],
)
def test_malformed_name_is_an_error_not_a_loop(tail):
    with pytest.raises(_dns.DnsError):
        _dns.decode_name(bytes(12) + tail, 12)


def test_pointers_may_only_go_backwards_so_that_chains_end():
    chain = b"".join((0xC000 | max(0, 2 * n - 2)).to_bytes(2, "big") for n in range(1, 3000))
    assert _dns.decode_name(b"\0\0" + chain, 40)[0] == ""


@given(st.binary(max_size=600))
def test_no_bytes_break_the_decoder(data):
    try:
        _dns.decode(data)
    except _dns.DnsError:
        pass


@given(WORD, NAME, st.data())
def test_no_damaged_answer_breaks_the_decoder(ident, name, data):
    records = [scapy.DNSRR(rrname=name, type="A", rdata="192.0.2.1")] * 3
    wire = bytearray(bytes(scapy.DNS(id=ident, qr=1, qd=scapy.DNSQR(qname=name), an=records)))
    for _damage in range(data.draw(st.integers(1, 8))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(wire)))
    try:
        answer = _dns.decode(bytes(wire[:cut]))
    except _dns.DnsError:
        return
    assert len(answer.addresses) <= 512


@pytest.mark.parametrize("name", ["", "a..b", "a" * 64, ".".join(["a" * 60] * 5), "bücher.example", ".a"])
def test_names_that_cannot_be_asked_for_are_told(name):
    with pytest.raises(_dns.DnsError):
        _dns.encode_name(name)


RESOLV_CONF = """\
# by the engine
; another comment
domain ignored.example
search example.com corp.example.com.
nameserver 127.0.0.11
nameserver not-an-address
nameserver 2001:db8::53
nameserver fe80::1%eth0
nameserver 192.0.2.4
options ndots:2 timeout:1
sortlist
"""


def test_resolv_conf_is_read_as_the_c_library_reads_it():
    config = _dns.ResolverConfig.parse(RESOLV_CONF)
    assert config.nameservers == ["127.0.0.11", "2001:db8::53", "fe80::1%eth0"]
    assert config.search == ["example.com", "corp.example.com"]
    assert config.ndots == 2


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        ("db", ["db.x.org", "db.y.org", "db"]),
        ("db.prod", ["db.prod.x.org", "db.prod.y.org", "db.prod"]),
        ("a.b.c", ["a.b.c", "a.b.c.x.org", "a.b.c.y.org"]),
        ("db.", ["db"]),
    ],
)
def test_search_list_is_tried_in_the_order_that_ndots_asks_for(name, candidates):
    assert _dns.ResolverConfig([], ["x.org", "y.org"], 2).candidates(name) == candidates


@given(st.text(max_size=400))
def test_any_text_is_a_resolver_configuration(text):
    config = _dns.ResolverConfig.parse(text)
    assert len(config.nameservers) <= 3
    assert len(config.search) <= 6
    assert 0 <= config.ndots <= 15

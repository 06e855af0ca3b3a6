# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What comes from the kernel and from the network is taken apart without a crash, and believed only when it fits."""

from __future__ import annotations

import socket
import struct
import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _icmp, _pmtu_channel, _pmtu_route
from ansible_collections.crosshost.doctor.plugins.module_utils._pmtu_channel import EchoChannel, SynChannel, Ticket
from ansible_collections.crosshost.doctor.plugins.module_utils._pmtu_track import Trace, Trouble
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_socket import Datagram

SENDER = "192.0.2.7"


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def route(flags: int = 0, *attributes: bytes) -> bytes:
    """An RTM_NEWROUTE with its netlink header."""
    return bytes(16) + struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 0, 0, 1, flags) + b"".join(attributes)


def read(message: bytes) -> dict[str, t.Any]:
    return _pmtu_route.parse(message, 0, len(message))


def test_a_cached_mtu_is_told_with_its_expiry():
    metrics = attribute(8, attribute(2, struct.pack("=I", 1400)))
    cache = attribute(12, struct.pack("=8I", 0, 0, 59000, 0, 0, 0, 0, 0))
    row = read(route(0x200, attribute(4, struct.pack("=I", 7)), metrics, cache))
    assert row == {"oif": 7, "source": None, "mtu": 1400, "expires": 59000, "cloned": True}


@given(st.binary(max_size=300))
def test_any_bytes_are_a_route_or_none(data: bytes):
    row = read(data)
    assert set(row) == {"oif", "source", "mtu", "expires", "cloned"}


@given(st.binary(max_size=200))
def test_attributes_of_any_shape(data: bytes):
    assert read(route(0, data))["cloned"] is False


def echoes(family: int) -> tuple[EchoChannel, list[Ticket], bytes]:
    """A channel with one echo under way, whose answers are collected."""
    channel = object.__new__(EchoChannel)
    came: list[Ticket] = []
    body = _pmtu_channel.padded(b"crosshost.doctor run t0 0", 72)
    ticket = Ticket(100, lambda ticket, at, sender: came.append(ticket), lambda ticket, trouble: None)
    channel.__dict__.update(family=family, raw=True, _ident=77, _tickets={5: (ticket, body)})
    return channel, came, body


def reply(ident: int, seq: int, body: bytes) -> bytes:
    return struct.pack("!BBHHH", 129, 0, 0, ident, seq) + body


@pytest.mark.parametrize(("ident", "seq", "cut", "taken"), [(77, 5, 0, 1), (78, 5, 0, 0), (77, 6, 0, 0), (77, 5, 1, 0)])
def test_only_a_reply_of_the_same_size_to_our_own_echo_counts(ident: int, seq: int, cut: int, taken: int):
    channel, came, body = echoes(socket.AF_INET6)
    for _again in range(2):  # the second is a duplicate
        channel._sort(Datagram(reply(ident, seq, body[: len(body) - cut]), SENDER, 1.0, 64))
    assert len(came) == taken


@given(st.binary(max_size=200), st.sampled_from((socket.AF_INET, socket.AF_INET6)))
def test_no_packet_is_taken_for_a_reply_by_accident(data: bytes, family: int):
    channel, came, _body = echoes(family)
    channel._sort(Datagram(data, SENDER, 1.0, 64))
    assert came == []


def syns(length: int) -> tuple[SynChannel, list[Ticket]]:
    channel = object.__new__(SynChannel)
    came: list[Ticket] = []
    ticket = Ticket(1500, lambda ticket, at, sender: came.append(ticket), lambda ticket, trouble: None)
    channel.__dict__.update(family=socket.AF_INET6, _tickets={(SENDER, 61000): (ticket, 0xFFFFFFF0, length)})
    return channel, came


def segment(port: int, ack: int, flags: int) -> bytes:
    return struct.pack("!HHIIBBHHH", 80, port, 1, ack & 0xFFFFFFFF, 80, flags, 0, 0, 0)


@pytest.mark.parametrize(
    ("port", "ack", "flags", "taken"),
    [
        (61000, 0xFFFFFFF1, 0x12, 1),  # a listener: its SYN-ACK acknowledges the SYN alone
        (61000, 0xFFFFFFF1 + 1440, 0x14, 1),  # a closed port: its RST acknowledges the data too
        (61000, 0xFFFFFFF1 + 7, 0x14, 0),
        (61001, 0xFFFFFFF1, 0x12, 0),
        (61000, 0xFFFFFFF1, 0x10, 0),
        (61000, 0xFFFFFFF1, 0x04, 0),
    ],
)
def test_only_an_answer_to_our_own_syn_counts(port: int, ack: int, flags: int, taken: int):
    channel, came = syns(1440)
    channel._sort(Datagram(segment(port, ack, flags), SENDER, 1.0, 64))
    assert len(came) == taken


@given(st.binary(max_size=80))
def test_no_segment_is_taken_for_an_answer_by_accident(data: bytes):
    channel, came = syns(1440)
    channel._sort(Datagram(data, SENDER, 1.0, 64))
    assert came == []


@given(st.integers(-5, 3000), st.binary(max_size=200))
def test_a_packet_has_just_its_size(length: int, text: bytes):
    body = _pmtu_channel.padded(text, length)
    assert len(body) == max(0, length)


def test_a_too_big_message_has_its_mtu():
    quoted = bytes([0x45]) + bytes(8) + bytes([1]) + bytes(10) + bytes(8)
    four = _icmp.parse_message(socket.AF_INET, struct.pack("!BBHHH", 3, 4, 0, 0, 1400) + quoted)
    six = _icmp.parse_message(socket.AF_INET6, struct.pack("!BBHI", 2, 0, 0, 1280))
    other = _icmp.parse_message(socket.AF_INET, struct.pack("!BBHHH", 3, 1, 0, 0, 1400) + quoted)
    assert [message.mtu if message else -1 for message in (four, six, other)] == [1400, 1280, None]


def test_a_trace_names_the_last_router_that_large_packets_reach():
    trace = Trace(1500, 100)
    for ticket in trace.tickets():
        routers = {1: "192.0.2.1", 2: "198.51.100.1"} if ticket.size == 100 else {1: "192.0.2.1"}
        if ticket.ttl in routers:
            ticket.on_trouble(ticket, Trouble(11, 0, routers[ticket.ttl], None))
        ticket.on_trouble(ticket, Trouble(3, 13, "203.0.113.9", None))  # another error is no hop
    assert trace.last == {"ttl": 1, "address": "192.0.2.1"}
    assert trace.beyond == {"ttl": 2, "address": "198.51.100.1"}
    assert Trace(1500, 100).last is None

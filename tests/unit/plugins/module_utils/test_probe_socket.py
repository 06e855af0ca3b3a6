# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the kernel tells about datagrams and connections."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from ansible_collections.crosshost.doctor.plugins.module_utils import _probe_socket

LOOPBACK = pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["ipv4", "ipv6"]
)


@contextlib.contextmanager
def datagram_pair(family, address):
    with socket.socket(family, socket.SOCK_DGRAM) as receiver, socket.socket(family, socket.SOCK_DGRAM) as sender:
        receiver.bind((address, 0))
        _probe_socket.arrival_details(receiver)
        sender.connect(receiver.getsockname()[:2])
        yield receiver, sender


@LOOPBACK
def test_arrival_is_when_it_came_not_when_it_was_read(family, address):
    with datagram_pair(family, address) as (receiver, sender):
        time.sleep(0.2)  # the kernel turns stamping on a moment after the first socket asked for it
        before = time.monotonic()
        sender.send(b"text")
        after = time.monotonic()
        time.sleep(0.3)
        datagram = _probe_socket.receive(receiver)
    assert before - 0.01 <= datagram.at <= after + 0.1
    assert (datagram.data, datagram.sender, datagram.ttl) == (b"text", address, 64)


@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_clock_that_is_set_meanwhile_does_not_spoil_round_trips(step, monkeypatch):
    with datagram_pair(socket.AF_INET, "127.0.0.1") as (receiver, sender):
        sender.send(b"text")
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + step)
        assert _probe_socket.receive(receiver).at == pytest.approx(time.monotonic(), abs=0.2)


@LOOPBACK
def test_queued_error_names_sender_and_what_was_sent(family, address):
    with socket.socket(family, socket.SOCK_DGRAM) as taken:
        taken.bind((address, 0))
        port = taken.getsockname()[1]
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        _probe_socket.error_queue(sender)
        sender.connect((address, port))
        sender.send(b"first")
        (error,) = _probe_socket.queued_errors(sender)
        assert sender.send(b"second") == 6  # reading the queue has cleared the pending error
    assert error.icmp
    assert (error.sender, error.payload) == (address, b"first")
    assert _probe_socket.errno_name(error.number) == "ECONNREFUSED"


def test_connection_tells_its_segment_size_and_repeats():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        assert _probe_socket.tcp_info(client).retransmits == 0
        client.connect(listener.getsockname())
        info = _probe_socket.tcp_info(client)
    assert info.retransmits == 0
    assert info.mss > 500
    assert 0 < info.rtt < 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        assert _probe_socket.tcp_info(other) is None


def test_every_errno_has_a_name_and_a_meaning():
    assert _probe_socket.errno_name(None) is None
    assert _probe_socket.errno_name(113) == "EHOSTUNREACH"
    assert _probe_socket.errno_name(99999) == "99999"
    for number in _probe_socket.UNREACHABLE:
        assert _probe_socket.meaning(number)

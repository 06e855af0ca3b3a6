# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HTTP probes: what counts is the body that arrives."""

from __future__ import annotations

import socket
import struct
import time

import pytest

from tests.unit.plugins.module_utils import probe_network as net

pytestmark = [pytest.mark.root, pytest.mark.skipif(not net.is_root(), reason="needs root")]

BODY = b"x" * 65536
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture(scope="module")
def network():
    network = net.Network()
    yield network
    network.close()


@pytest.fixture(autouse=True)
def _unfiltered(network):
    yield
    network.reset()


def get(network, handler, *, family=socket.AF_INET, timeout=1.0, **probe):
    """The result of one GET from a server whose connections C(handler) serves."""
    address = net.SERVER if family == socket.AF_INET else net.SERVER6
    with net.serving(network.server, handler, family) as port:
        one = {"layer": "http", "address": address, "port": port, **probe}
        return net.only(net.probe(one, node=network.client, timeout=timeout))


def replying(*pieces):
    def handler(connection):
        connection.recv(4096)
        for piece in pieces:
            connection.sendall(piece)

    return handler


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_whole_body_is_ok(network, family):
    result = get(network, replying(HEAD % len(BODY), BODY), family=family)
    assert (result["status"], result["http_status"], result["bytes"], result["stage"]) == ("ok", 200, 65536, "done")
    assert result["rtt"]["min"] < 0.5
    assert result["sent"] == result["received"] == 1


def test_status_line_is_not_what_counts(network):
    result = get(network, replying(b"HTTP/1.0 503 Busy\r\n\r\nsorry"))
    assert (result["status"], result["http_status"], result["bytes"]) == ("ok", 503, 5)


def test_chunked_body_is_counted(network):
    chunks = b"".join(b"%x\r\n%s\r\n" % (1000, b"y" * 1000) for _chunk in range(5)) + b"0\r\n\r\n"
    result = get(network, replying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunks))
    assert (result["status"], result["bytes"]) == ("ok", 5000)


@pytest.mark.parametrize("sent", [0, 1000])
def test_body_that_hangs_is_incomplete(network, sent):
    def handler(connection):
        connection.recv(4096)
        connection.sendall(HEAD % len(BODY) + BODY[:sent])
        time.sleep(0.8)

    result = get(network, handler, timeout=0.5)
    assert (result["status"], result["http_status"], result["bytes"]) == ("incomplete", 200, sent)
    assert result["stage"] == "body"
    assert f"{sent} of 65536" in result["detail"]


def test_large_packets_lost_on_the_way_leave_the_header_only(network):
    """The classic of a path MTU black hole: handshake and header pass, the body does not."""
    network.router.filter("forward", "meta length > 1000 drop")

    def handler(connection):
        connection.recv(4096)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(HEAD % len(BODY))
        time.sleep(0.1)
        connection.sendall(BODY)
        time.sleep(0.6)

    result = get(network, handler, timeout=0.6)
    assert (result["status"], result["http_status"], result["bytes"]) == ("incomplete", 200, 0)


def test_connection_closed_too_early_is_incomplete(network):
    result = get(network, replying(HEAD % len(BODY), BODY[:10]))
    assert (result["status"], result["bytes"]) == ("incomplete", 10)
    assert result["seconds"] < 0.5


def test_connection_closed_without_an_answer_is_incomplete(network):
    result = get(network, replying())
    assert (result["status"], result["bytes"], result["http_status"]) == ("incomplete", 0, None)
    assert result["stage"] == "request"


def test_connection_reset_in_the_body_is_incomplete(network):
    def handler(connection):
        connection.recv(4096)
        connection.sendall(HEAD % len(BODY) + BODY[:10])
        time.sleep(0.1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    result = get(network, handler)
    assert (result["status"], result["bytes"], result["errno"]) == ("incomplete", 10, "ECONNRESET")


def test_no_byte_of_an_answer_is_a_timeout_behind_the_connection(network):
    result = get(network, lambda connection: time.sleep(0.6), timeout=0.4)
    assert (result["status"], result["bytes"], result["stage"]) == ("timeout", 0, "request")
    assert "connected" in result["detail"]


def test_other_protocol_is_an_error(network):
    result = get(network, replying(b"SSH-2.0-OpenSSH_9.2\r\n"))
    assert result["status"] == "error"
    assert "not an HTTP answer" in result["detail"]


def test_endless_body_is_read_to_the_limit_only(network):
    def handler(connection):
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(BODY)

    result = get(network, handler, timeout=3)
    assert result["status"] == "ok"
    assert 1 << 20 <= result["bytes"] < (1 << 20) + 65536
    assert "stopped reading" in result["detail"]


def test_request_says_what_was_asked_for(network):
    seen = []

    def handler(connection):
        seen.append(connection.recv(4096))
        connection.sendall(HEAD % 0)

    get(network, handler, path="/health?x=1", name="db.example")
    assert b"GET /health?x=1 HTTP/1.1\r\nHost: db.example\r\n" in seen[0]
    assert b"User-Agent: crosshost.doctor/test-run\r\n" in seen[0]
    get(network, handler, family=socket.AF_INET6)
    assert f"\r\nHost: [{net.SERVER6}]:".encode() in seen[1]


def test_request_that_cannot_be_made_is_an_error(network):
    assert get(network, replying(), path="/a b")["status"] == "error"


def test_connection_fails_as_for_tcp(network):
    probe = {"layer": "http", "address": net.SERVER, "port": 81}
    assert net.only(net.probe(probe, node=network.client))["status"] == "refused"
    network.router.filter("forward", "reject with icmpx type admin-prohibited")
    result = net.only(net.probe(probe, node=network.client))
    assert (result["status"], result["icmp_error"]["name"]) == ("unreachable", "admin-prohibited")
    network.router.filter("forward", policy="drop")
    result = net.only(net.probe(probe, node=network.client, timeout=0.4))
    assert (result["status"], result["stage"], result["bytes"]) == ("timeout", "connect", None)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ICMP, TCP and UDP probes through real namespaces, routes and packet filters."""

from __future__ import annotations

import socket
import time

import pytest

from ansible_collections.crosshost.doctor.plugins.module_utils import _probe_socket
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_loop import Loop
from tests.unit.plugins.module_utils import probe_network as net

pytestmark = [pytest.mark.root, pytest.mark.skipif(not net.is_root(), reason="needs root")]

BOTH = pytest.mark.parametrize("address", [net.SERVER, net.SERVER6], ids=["ipv4", "ipv6"])
FAMILY = {net.SERVER: socket.AF_INET, net.SERVER6: socket.AF_INET6}
ROUTER = {net.SERVER: net.ROUTER, net.SERVER6: net.ROUTER6}
CLIENT = {net.SERVER: net.CLIENT, net.SERVER6: net.CLIENT6}


@pytest.fixture(scope="module")
def network():
    network = net.Network()
    yield network
    network.close()


@pytest.fixture(autouse=True)
def _unfiltered(network):
    yield
    network.reset()


def icmp(address, **options):
    return {"layer": "icmp", "address": address, **options}


def tcp(address, port=80, **options):
    return {"layer": "tcp", "address": address, "port": port, **options}


def udp(address, port=99, **options):
    return {"layer": "udp", "address": address, "port": port, **options}


# -- ICMP --------------------------------------------------------------------------------------------------------------


@BOTH
def test_echo_measures_round_trips_and_the_ttl_of_replies(network, address):
    result = net.only(net.probe(icmp(address), node=network.client, count=5))
    assert (result["status"], result["sent"], result["received"], result["duplicates"]) == ("ok", 5, 5, 0)
    assert result["ttl"] == 63  # one router
    assert (result["remote"], result["local"]) == (address, CLIENT[address])
    rtt = result["rtt"]
    assert 0 < rtt["min"] <= rtt["avg"] <= rtt["max"] < 0.5
    assert rtt["mdev"] >= 0


@BOTH
def test_echoes_and_datagrams_carry_mark_probe_and_number(network, address):
    with net.tap(network.server) as frames:
        net.probe(icmp(address, id="a>b#icmp"), udp(address, id="a>b#udp"), node=network.client, count=1)
    for layer in (b"icmp", b"udp"):
        assert any(b"crosshost.doctor test-run a>b#%s 0" % layer in frame for frame in frames)


@BOTH
def test_loss_on_the_way_is_counted(network, address):
    network.router.filter("forward", 'iifname "near" numgen inc mod 2 == 1 drop')
    result = net.only(net.probe(icmp(address), node=network.client, count=6))
    assert (result["status"], result["sent"], result["received"]) == ("ok", 6, 3)


@BOTH
def test_dropped_echo_times_out(network, address):
    network.router.filter("forward", policy="drop")
    result = net.only(net.probe(icmp(address), node=network.client, timeout=0.5))
    assert (result["status"], result["sent"], result["received"], result["rtt"]) == ("timeout", 3, 0, None)
    assert result["seconds"] == pytest.approx(0.5, abs=0.1)


@BOTH
def test_error_about_an_echo_names_its_sender(network, address):
    network.router.filter("forward", "reject with icmpx type admin-prohibited")
    result = net.only(net.probe(icmp(address), node=network.client, count=1))
    assert result["status"] == "unreachable"
    assert result["icmp_error"]["name"] == "admin-prohibited"
    assert result["icmp_error"]["sender"] == ROUTER[address]


def test_echo_answered_twice_is_received_once(network):
    with net.echoing(network.server, lambda body: [body, body]):
        result = net.only(net.probe(icmp(net.SERVER), node=network.client, count=4, interval=0.05))
    assert (result["status"], result["sent"], result["received"]) == ("ok", 4, 4)
    assert result["duplicates"] >= 3  # the last echo's second answer may come when all is done


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body[:-1] + b"?",
        lambda body: bytes([body[0] ^ 1]) + body[1:],
        lambda body: body[:2] + bytes([body[2] ^ 0x80]) + body[3:],
    ],
    ids=["payload", "ident", "number"],
)
def test_reply_that_is_not_exactly_ours_does_not_count(network, change):
    with net.echoing(network.server, lambda body: [change(body)]):
        result = net.only(net.probe(icmp(net.SERVER), node=network.client, timeout=0.4))
    assert (result["status"], result["received"]) == ("timeout", 0)


# -- TCP ---------------------------------------------------------------------------------------------------------------


@BOTH
def test_open_port_is_told_with_round_trip_and_addresses(network, address):
    with net.serving(network.server, lambda _connection: None, FAMILY[address]) as port:
        result = net.only(net.probe(tcp(address, port), node=network.client))
    assert (result["status"], result["sent"], result["received"], result["retransmits"]) == ("open", 1, 1, 0)
    assert (result["remote"], result["local"]) == (address, CLIENT[address])
    assert 0 < result["rtt"]["min"] < 0.5
    assert result["mss"] == (1448 if address == net.SERVER else 1428)


def test_open_connection_is_closed_without_a_reset(network):
    ends = []
    with net.serving(network.server, lambda connection: ends.append(connection.recv(1))) as port:
        net.probe(tcp(net.SERVER, port), node=network.client)
        time.sleep(0.2)
    assert ends == [b""]  # a reset would have been an OSError


@BOTH
def test_closed_port_is_refused_and_proves_the_path(network, address):
    result = net.only(net.probe(tcp(address), node=network.client))
    assert (result["status"], result["errno"], result["sent"], result["received"]) == ("refused", "ECONNREFUSED", 1, 1)
    assert result["icmp_error"] is None
    assert result["seconds"] < 0.5


@BOTH
def test_dropped_connection_request_is_made_twice_and_times_out(network, address):
    network.router.filter("forward", policy="drop")
    with net.tap(network.client) as frames:
        result = net.only(net.probe(tcp(address, 1234), node=network.client, timeout=0.9))
    assert (result["status"], result["received"]) == ("timeout", 0)
    ether, offset = (b"\x08\x00", 34) if address == net.SERVER else (b"\x86\xdd", 54)
    requests = [f for f in frames if f[12:14] == ether and f[offset + 2 : offset + 4] == (1234).to_bytes(2, "big")]
    assert result["sent"] == len(requests) == 2


def test_repeats_of_the_kernel_are_counted_as_sent(network):
    network.router.filter("forward", policy="drop")
    result = net.only(net.probe(tcp(net.SERVER), node=network.client, timeout=1.8))
    # One attempt at 0 s, repeated by the kernel at 1 s; one at 0.6 s, repeated at 1.6 s.
    assert (result["sent"], result["retransmits"]) == (4, 2)


def test_second_attempt_gets_through_when_the_first_was_lost(network):
    network.router.filter("forward", "tcp flags syn limit rate 1/day burst 1 packets drop")
    with net.serving(network.server, lambda _connection: None) as port:
        result = net.only(net.probe(tcp(net.SERVER, port), node=network.client, timeout=0.9))
    assert (result["status"], result["sent"], result["received"]) == ("open", 2, 1)
    assert 0.3 <= result["seconds"] < 0.6
    assert result["rtt"]["max"] < 0.25


@BOTH
@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ("reject with icmpx type admin-prohibited", "admin-prohibited"),
        ("reject with icmpx type port-unreachable", "port-unreachable"),
    ],
)
def test_connection_rejected_by_a_filter_is_told_apart_from_a_closed_port(network, address, rule, name):
    network.router.filter("forward", rule)
    result = net.only(net.probe(tcp(address), node=network.client))
    assert (result["status"], result["received"]) == ("unreachable", 0)
    assert (result["icmp_error"]["name"], result["icmp_error"]["sender"]) == (name, ROUTER[address])


def test_icmp_error_about_tcp_is_found_without_the_error_queue(network, monkeypatch):
    """Kernels before 5.8 queue no ICMP errors for TCP: the raw socket has to do."""
    monkeypatch.setattr(_probe_socket, "queued_errors", lambda _sock: [])
    watch = Loop.watch

    def late(loop, sock, events, callback):
        """The loop never comes to the raw socket by itself."""
        if getattr(callback, "__name__", "") != "drain":
            watch(loop, sock, events, callback)

    monkeypatch.setattr(Loop, "watch", late)
    network.router.filter("forward", "reject with icmpx type port-unreachable")
    for address in (net.SERVER, net.SERVER6):
        result = net.only(net.probe(tcp(address), node=network.client))
        assert (result["status"], result["errno"]) == ("unreachable", "ECONNREFUSED")
        assert (result["icmp_error"]["name"], result["icmp_error"]["sender"]) == ("port-unreachable", ROUTER[address])


def test_reset_by_a_filter_looks_like_a_closed_port(network):
    network.router.filter("forward", "meta l4proto tcp reject with tcp reset")
    assert net.only(net.probe(tcp(net.SERVER), node=network.client))["status"] == "refused"


# -- UDP ---------------------------------------------------------------------------------------------------------------


@BOTH
def test_answered_datagrams_are_counted_and_timed(network, address):
    with net.answering(network.server, lambda data: [data], family=FAMILY[address]) as port:
        result = net.only(net.probe(udp(address, port), node=network.client))
    assert (result["status"], result["sent"], result["received"]) == ("answered", 3, 3)
    assert (result["remote"], result["ttl"]) == (address, 63)
    assert result["bytes"] == 3 * len("crosshost.doctor test-run p0 0")
    assert 0 < result["rtt"]["min"] < 0.5


def test_service_that_answers_once_does_not_cost_the_whole_deadline(network):
    first = []

    def once(data):
        if first:
            return []
        first.append(data)
        return [b"hello"]

    with net.answering(network.server, once) as port:
        result = net.only(net.probe(udp(net.SERVER, port), node=network.client, timeout=5))
    assert (result["status"], result["received"]) == ("answered", 1)
    assert result["seconds"] < 1


@BOTH
def test_port_unreachable_of_the_target_is_refused(network, address):
    result = net.only(net.probe(udp(address), node=network.client))
    assert (result["status"], result["sent"], result["received"], result["remote"]) == ("refused", 1, 1, address)
    assert result["icmp_error"]["name"] == "port-unreachable"


@BOTH
def test_port_unreachable_of_a_router_is_unreachable(network, address):
    network.router.filter("forward", "reject with icmpx type port-unreachable")
    time.sleep(1)  # the router's limit on ICMP errors
    result = net.only(net.probe(udp(address), node=network.client))
    assert (result["status"], result["received"]) == ("unreachable", 0)
    assert result["icmp_error"]["sender"] == ROUTER[address]


@BOTH
def test_unanswered_datagrams_are_silent(network, address):
    with net.answering(network.server, lambda _data: [], family=FAMILY[address]) as port:
        result = net.only(net.probe(udp(address, port), node=network.client, timeout=0.4))
    assert (result["status"], result["sent"], result["received"]) == ("silent", 3, 0)


def test_tunnel_payload_is_a_vxlan_header_that_nobody_may_decapsulate(network):
    got = []
    with net.answering(network.server, lambda data: got.append(data) or []) as port:
        net.probe(udp(net.SERVER, port, payload="tunnel"), node=network.client, count=1, timeout=0.3)
    assert got[0][:8] == bytes(8)
    assert got[0][0] & 0x08 == 0  # RFC 7348: the I flag
    assert got[0][8:].startswith(b"crosshost.doctor test-run ")


def test_vxlan_device_discards_the_tunnel_payload(network):
    network.server.ip("link", "add", "vx0", "type", "vxlan", "id", "0", "dstport", "4789", "local", net.SERVER)
    network.server.ip("link", "set", "vx0", "up")
    try:
        result = net.only(net.probe(udp(net.SERVER, 4789, payload="tunnel"), node=network.client, timeout=0.4))
        statistics = network.server.run("cat", "/proc/net/dev")
    finally:
        network.server.ip("link", "del", "vx0")
    assert (result["status"], result["sent"]) == ("silent", 3)
    (line,) = [line for line in statistics.splitlines() if "vx0:" in line]
    assert line.split()[1:3] == ["0", "0"]  # bytes and packets received


def test_interval_shrinks_to_fit_the_deadline(network):
    with net.answering(network.server, lambda _data: []) as port:
        result = net.only(net.probe(udp(net.SERVER, port), node=network.client, count=10, interval=5, timeout=0.5))
    assert (result["status"], result["sent"]) == ("silent", 10)


# -- what our own kernel says ------------------------------------------------------------------------------------------


@BOTH
def test_packet_stopped_by_the_own_output_hook_is_told(network, address):
    network.client.filter("output", policy="drop")
    results = net.probe(icmp(address), udp(address), node=network.client)["results"]
    assert [(r["status"], r["errno"]) for r in results] == [("unreachable", "EPERM")] * 2
    assert [r["sent"] for r in results] == [3, 1]  # as many as the rule's counter has
    assert "packet filter" in results[0]["detail"]


@BOTH
def test_connection_rejected_by_the_own_output_hook_is_told(network, address):
    network.client.filter("output", "meta l4proto tcp reject")
    result = net.only(net.probe(tcp(address), node=network.client))
    assert (result["status"], result["icmp_error"]["sender"]) == ("unreachable", CLIENT[address])
    assert "own namespace" in result["detail"]


@BOTH
@pytest.mark.parametrize(
    ("route", "number"), [("blackhole", "EINVAL"), ("prohibit", "EACCES"), ("unreachable", "EHOSTUNREACH")]
)
def test_route_that_leads_nowhere_is_told_at_once(network, address, route, number):
    network.client.ip("route", "add", route, address)
    try:
        report = net.probe(icmp(address), tcp(address), udp(address), node=network.client)
    finally:
        network.client.ip("route", "del", address)
    for result in report["results"]:
        assert (result["status"], result["errno"], result["sent"]) == ("unreachable", number, 0)
    assert report["finished"] - report["started"] < 0.5


def test_missing_route_is_told(network):
    network.client.ip("route", "del", "default")
    try:
        results = net.probe(icmp(net.SERVER), tcp(net.SERVER), udp(net.SERVER), node=network.client)["results"]
    finally:
        network.client.ip("route", "add", "default", "via", net.ROUTER)
    assert [(r["status"], r["errno"]) for r in results] == [("unreachable", "ENETUNREACH")] * 3


@pytest.mark.slow
def test_neighbour_that_does_not_answer_is_told_after_three_seconds(network):
    results = net.probe(icmp(net.ABSENT), tcp(net.ABSENT), udp(net.ABSENT), node=network.client, timeout=4)["results"]
    for result in results:
        assert (result["status"], result["icmp_error"]["name"]) == ("unreachable", "host-unreachable")
        assert result["detail"] == "no answer to ARP or neighbour discovery"


def test_source_address_is_used_and_one_that_is_not_there_is_told(network):
    network.client.ip("address", "add", "192.0.2.11/24", "dev", "eth0")
    try:
        for probe in (icmp(net.SERVER), tcp(net.SERVER), udp(net.SERVER)):
            good, bad = net.probe(
                {**probe, "source": "192.0.2.11"}, {**probe, "source": "203.0.113.9"}, node=network.client
            )["results"]
            assert good["local"] == "192.0.2.11"
            assert good["received"]
            assert (bad["status"], bad["errno"], bad["sent"]) == ("error", "EADDRNOTAVAIL", 0)
    finally:
        network.client.ip("address", "del", "192.0.2.11/24", "dev", "eth0")


def test_link_local_target_is_reached_through_the_interface_named(network):
    lines = network.router.ip("-6", "-o", "address", "show", "dev", "near", "scope", "link").split()
    address = lines[lines.index("inet6") + 1].split("/")[0]
    target = f"{address}%eth0"
    results = net.probe(icmp(target), tcp(target), udp(target), node=network.client)["results"]
    assert [r["status"] for r in results] == ["ok", "refused", "refused"]
    assert {r["remote"] for r in results} == {address}
    wrong = net.probe(icmp(f"{address}%eth9"), tcp(address), node=network.client)["results"]
    assert [r["status"] for r in wrong] == ["error", "error"]
    assert "name the interface" in wrong[1]["detail"]

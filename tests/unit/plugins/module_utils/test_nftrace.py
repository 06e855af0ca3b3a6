# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _netns, _nftrace
from ansible_collections.crosshost.doctor.plugins.module_utils._nftrace import NfTrace
from tests.unit.plugins.module_utils import probe_network as net

needs_nft = pytest.mark.skipif(
    not net.is_root() or not shutil.which("nft"), reason="makes namespaces and rules: needs root and nft"
)
INNER_CLIENT, INNER_SERVER = "203.0.113.1", "203.0.113.2"
MACS = {INNER_CLIENT: "02:00:00:00:00:01", INNER_SERVER: "02:00:00:00:00:02"}
ECHO = {"layer": "icmp", "address": net.SERVER}


@pytest.fixture(scope="module")
def network() -> Iterator[net.Network]:
    made = net.Network()
    for node, address, peer, inner in (
        (made.client, net.CLIENT, net.SERVER, INNER_CLIENT),
        (made.server, net.SERVER, net.CLIENT, INNER_SERVER),
    ):
        words = f"link add vx type vxlan id 5 dstport 4789 local {address} remote {peer}"
        node.ip(*words.split())
        node.ip("address", "add", f"{inner}/24", "dev", "vx")
        node.ip("link", "set", "vx", "address", MACS[inner])
        node.ip("link", "set", "vx", "up")
    made.client.ip("neighbour", "replace", INNER_SERVER, "lladdr", MACS[INNER_SERVER], "dev", "vx")
    yield made
    made.close()


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "network" in request.fixturenames:
        request.getfixturevalue("network").reset()


@contextlib.contextmanager
def tracing(
    node: net.Node, ports: Iterable[int] = (), addresses: Iterable[str] = (), limit: int = 5000
) -> Iterator[Any]:
    with _netns.inside(node.path):
        trace = NfTrace(ports, addresses, limit)
    try:
        yield trace
    finally:
        trace.close()


def ruleset(node: net.Node) -> str:
    return node.run("nft", "-s", "-a", "list", "ruleset")


def handle(node: net.Node, words: str) -> int:
    (line,) = [line for line in node.run("nft", "-a", "list", "ruleset").splitlines() if words in line]
    return int(line.rpartition("# handle ")[2])


def deciding(result: dict[str, Any], verdict: str) -> list[dict[str, Any]]:
    return [row for row in result["events"] if row["verdict"] == verdict and row["type"] == "rule"]


@needs_nft
def test_the_rule_that_drops_the_tunnel_is_named_by_its_handle(network: net.Network) -> None:
    server = network.server
    server.filter("input", "tcp dport 22 accept", "ip saddr 192.0.2.0/24 udp dport 4789 drop", "accept")
    before = ruleset(server)
    number = handle(server, "4789 drop")
    with tracing(server, [4789]) as trace:
        echo = {"layer": "icmp", "address": INNER_SERVER}
        assert net.only(net.probe(echo, node=network.client, timeout=0.3))["received"] == 0
        result = trace.result()
        assert trace.result() == result
        assert ruleset(server) == before  # it ends with the result
    rows = deciding(result, "drop")
    assert len(rows) == 3, result
    for row in rows:
        assert (row["family"], row["table"], row["chain"], row["handle"]) == ("inet", "test", "test", number)
        assert row["packet"]["src"] == net.CLIENT
        assert row["packet"]["dst"] == net.SERVER
        assert (row["packet"]["dport"], row["packet"]["protocol"]) == (4789, 17)
        assert abs(row["time"] - time.time()) < 10
    assert ruleset(server) == before


@needs_nft
def test_an_address_request_through_the_tunnel_is_traced_too(network: net.Network) -> None:
    """Without an answer to it no echo is ever sent."""
    network.server.filter("input", "udp dport 4789 drop")
    with tracing(network.server, [4789]) as trace:
        unknown = {"layer": "icmp", "address": "203.0.113.77"}
        net.probe(unknown, node=network.client, timeout=0.2)
        rows = deciding(trace.result(), "drop")
    assert {row["handle"] for row in rows} == {handle(network.server, "4789")}


@needs_nft
def test_a_connection_through_the_tunnel_is_traced_by_its_syn(network: net.Network) -> None:
    network.server.filter("input", "udp dport 4789 counter accept")
    number = handle(network.server, "4789")
    with tracing(network.server, [4789]) as trace:
        connection = {"layer": "tcp", "address": INNER_SERVER, "port": 81}
        assert net.only(net.probe(connection, node=network.client))["status"] == "refused"
        result = trace.result()
    rows = deciding(result, "accept")
    assert rows
    assert {row["handle"] for row in rows} == {number}


@needs_nft
def test_a_policy_and_a_sender_s_own_rule(network: net.Network) -> None:
    server, client = network.server, network.client
    server.filter("input", policy="drop")
    with tracing(server, addresses=[net.CLIENT]) as trace:
        net.probe(ECHO, node=client, timeout=0.3)
        policies = [row for row in trace.result()["events"] if row["type"] == "policy"]
    assert [(row["verdict"], row["handle"]) for row in policies] == [("drop", None)] * 3
    server.unfilter()
    client.filter("output", f"ip daddr {net.SERVER} drop")
    with tracing(client, addresses=[net.SERVER]) as trace:
        net.probe(ECHO, node=client, timeout=0.3)
        rows = deciding(trace.result(), "drop")
    assert rows
    assert {row["handle"] for row in rows} == {handle(client, "drop")}


@needs_nft
def test_ipv6_is_traced_too(network: net.Network) -> None:
    network.server.filter("input", "icmpv6 type echo-request drop")
    with tracing(network.server, addresses=[net.CLIENT6]) as trace:
        net.probe({"layer": "icmp", "address": net.SERVER6}, node=network.client, timeout=0.3)
        rows = deciding(trace.result(), "drop")
    assert {row["handle"] for row in rows} == {handle(network.server, "drop")}
    assert rows[0]["packet"]["src"] == net.CLIENT6


@needs_nft
def test_other_traffic_is_not_traced(network: net.Network) -> None:
    network.server.filter("input", "counter accept")
    with (
        tracing(network.server, [4789], [net.CLIENT]) as trace,
        network.client.socket(socket.AF_INET, socket.SOCK_DGRAM, (net.CLIENT, 0)) as sock,
    ):
        for _number in range(20):
            with contextlib.suppress(ConnectionRefusedError):
                sock.sendto(b"somebody else's datagram", (net.SERVER, 99))
        time.sleep(0.05)
        assert trace.result()["events"] == []


@needs_nft
def test_events_are_bounded_and_the_rest_is_counted(network: net.Network) -> None:
    network.server.filter("input", "counter", "counter", "accept")
    with tracing(network.server, addresses=[net.CLIENT], limit=5) as trace:
        assert net.only(net.probe(ECHO, node=network.client, count=10))["received"] == 10
        result = trace.result()
    assert len(result["events"]) == 5
    assert result["lost"] >= 15


@needs_nft
def test_the_table_is_gone_after_closing_and_after_a_kill(network: net.Network) -> None:
    server = network.server
    server.filter("forward", "ip saddr 10.0.0.0/8 drop")
    before = ruleset(server)
    with tracing(server, [4789], [net.CLIENT]):
        assert "flags owner" in server.run("nft", "list", "ruleset")
    assert ruleset(server) == before
    code = (
        "import sys, time\n"
        "from ansible_collections.crosshost.doctor.plugins.module_utils import _netns, _nftrace\n"
        "with _netns.inside(sys.argv[1]): trace = _nftrace.NfTrace([4789])\n"
        "print('traces', flush=True); time.sleep(30)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, server.path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"traces\n"
        assert "crosshost-doctor-trace" in server.run("nft", "list", "tables")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert ruleset(server) == before


@needs_nft
def test_the_verdicts_of_the_host_stay_what_they_are(network: net.Network) -> None:
    """Our chains have the policy accept and only mark: what was dropped or let through still is."""
    network.server.filter("input", "udp dport 4789 accept", "icmp type echo-request drop")
    with tracing(network.server, [4789], [net.CLIENT]):
        assert net.only(net.probe(ECHO, node=network.client, timeout=0.3))["received"] == 0
    network.server.unfilter()
    with tracing(network.server, [4789], [net.CLIENT]):
        assert net.only(net.probe(ECHO, node=network.client))["received"] == 3


@needs_nft
def test_two_traces_of_one_host_do_not_see_each_other(network: net.Network) -> None:
    network.server.filter("input", "counter accept")
    with (
        tracing(network.server, addresses=[net.CLIENT]) as first,
        tracing(network.server, addresses=[net.CLIENT]) as second,
    ):
        net.probe(ECHO, node=network.client, count=1)
        tables = [{row["table"] for row in trace.result()["events"]} for trace in (first, second)]
    assert tables == [{"test"}, {"test"}]


@needs_nft
def test_without_rights_the_reason_is_told() -> None:
    code = """
import os
from ansible_collections.crosshost.doctor.plugins.module_utils import _nftrace
os.setgroups([])
os.setresuid(65534, 65534, 65534)
try:
    _nftrace.NfTrace([4789])
except OSError as exc:
    print(exc.strerror)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert "not root" in done.stdout, done.stderr


def test_nothing_to_trace_is_said() -> None:
    with pytest.raises(OSError, match="neither a tunnel port nor an address"):
        NfTrace([], [])
    with pytest.raises(ValueError, match="does not appear"):
        NfTrace([4789], ["nonsense"])


def test_the_number_of_rules_is_bounded() -> None:
    addresses = [f"192.0.{number // 250}.{number % 250}" for number in range(2000)]
    assert len(_nftrace.selectors(range(1000, 1500), addresses)) <= 16 * 6 + 32 * 4


@given(st.binary(max_size=300))
def test_any_bytes_are_trace_messages_or_nothing(data: bytes) -> None:
    for family, attrs in _nftrace.trace_messages(data):
        _nftrace.event_of(family, attrs)
        _nftrace.packet_of(attrs)


@given(st.integers(0, 255), st.dictionaries(st.integers(0, 24), st.binary(max_size=48), max_size=16))
def test_any_attributes_make_an_event(family: int, attrs: dict[int, bytes]) -> None:
    event = _nftrace.event_of(family, attrs)
    assert set(event) == {"family", "table", "chain", "handle", "type", "verdict", "jump", "trace"}
    packet = _nftrace.packet_of(attrs)
    assert packet is None or set(packet) == {"src", "dst", "sport", "dport", "protocol", "iif", "oif"}


@given(st.integers(0, 2**63), st.sampled_from([0, 1, -3, -5]), st.integers(0, 2**32 - 1))
def test_a_written_message_is_read_back(number: int, verdict: int, trace: int) -> None:
    attribute = _nftrace.attribute
    attrs = attribute(1, b"filter\0") + attribute(2, b"INPUT\0") + attribute(3, struct.pack(">Q", number))
    attrs += attribute(4, struct.pack(">I", 3)) + attribute(6, struct.pack(">I", trace))
    attrs += attribute(5 | 0x8000, attribute(1, struct.pack(">i", verdict)) + attribute(2, b"DOCKER\0"))
    body = struct.pack(">BBH", 2, 0, 0) + attrs
    message = struct.pack("=IHHII", 16 + len(body), (10 << 8) | 17, 0, 0, 0) + body
    ((family, found),) = _nftrace.trace_messages(message + b"\0" * 3)
    assert _nftrace.event_of(family, found) == {
        "family": "ip",
        "table": "filter",
        "chain": "INPUT",
        "handle": number or None,
        "type": "rule",
        "verdict": {0: "drop", 1: "accept", -3: "jump", -5: "return"}[verdict],
        "jump": "DOCKER",
        "trace": trace,
    }


def test_an_unavailable_result_says_why() -> None:
    assert _nftrace.unavailable("why") == {"available": False, "why": "why", "lost": 0, "events": []}

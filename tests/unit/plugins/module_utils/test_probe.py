# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Many probes in one call: one deadline, limits, namespaces, and evidence that survives."""

from __future__ import annotations

import json
import resource
import socket
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _probe, _probe_base, _probe_tcp
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_loop import Loop
from tests.unit.descriptors import nothing_left_open
from tests.unit.plugins.module_utils import probe_network as net

root = pytest.mark.root
needs_root = pytest.mark.skipif(not net.is_root(), reason="needs root")
REPORT_KEYS = {"schema", "started", "finished", "deadline", "mark", "missing", "results"}
CONTRACT_KEYS = {
    "id", "layer", "address", "port", "status", "sent", "received", "rtt", "ttl", "seconds", "remote", "icmp_error",
    "errno", "detail", "bytes", "http_status", "answers", "server", "transport",
}  # fmt: skip
STATUS = {
    "icmp": {"ok", "timeout", "unreachable", "error"},
    "tcp": {"open", "refused", "timeout", "unreachable", "error"},
    "udp": {"answered", "refused", "silent", "unreachable", "error"},
    "dns": {"ok", "nxdomain", "nodata", "servfail", "refused", "timeout", "unreachable", "error"},
    "http": {"ok", "incomplete", "timeout", "refused", "unreachable", "error"},
}
CLOSED = {"layer": "tcp", "address": "127.0.0.1", "port": 9}


@pytest.fixture(scope="module")
def network():
    network = net.Network()
    yield network
    network.close()


# -- one deadline ------------------------------------------------------------------------------------------------------


@root
@needs_root
def test_fifty_dead_peers_cost_one_timeout(network):
    network.router.filter("forward", policy="drop")
    dead = [probe for host in range(100, 150) for probe in net.all_layers(f"198.51.100.{host}")]
    alive = {"layer": "tcp", "address": net.ROUTER, "port": 9}
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with nothing_left_open():
            started = time.monotonic()
            report = net.probe(*dead, alive, node=network.client, timeout=1.5)
            finished = time.monotonic()
    finally:
        network.reset()
    assert finished - started < 2 * 1.5
    assert {r["status"] for r in report["results"][:-1]} == {"timeout", "silent"}
    assert report["results"][-1]["status"] == "refused"
    assert report["results"][-1]["seconds"] < 1
    assert all(r["sent"] for r in report["results"])
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits


@root
@needs_root
@pytest.mark.slow
def test_the_largest_call_keeps_to_its_deadline(network):
    network.router.filter("forward", policy="drop")
    layers = net.all_layers("198.51.100.77")
    probes = [layers[number % len(layers)] for number in range(_probe.MAX_PROBES)]
    started = time.monotonic()
    try:
        report = net.probe(*probes, node=network.client, timeout=2)
    finally:
        network.reset()
    assert time.monotonic() - started < 2 + 1
    assert len(report["results"]) == _probe.MAX_PROBES
    late = [r for r in report["results"] if r["detail"] == "not probed: the deadline came first"]
    assert {r["status"] for r in report["results"] if r not in late} <= {"timeout", "silent"}
    assert len(late) < _probe.MAX_PROBES / 2  # none, unless the machine is very busy


@root
@needs_root
def test_flood_of_answers_does_not_hold_the_call_up(network):
    flood = [b"x" * 1000] * 3000
    with net.answering(network.server, lambda _data: flood) as port:
        probes = [{"layer": "udp", "address": net.SERVER, "port": port}] * 4 + [
            {"layer": "icmp", "address": net.SERVER}
        ]
        report = net.probe(*probes, node=network.client, timeout=0.5, count=50)
    assert report["finished"] - report["started"] < 1.5
    assert report["results"][-1]["status"] == "ok"


@root
@needs_root
def test_an_answer_that_came_while_the_process_had_to_wait_is_not_lost(network, monkeypatch):
    """On a host that does much else, the deadline may be over before what was answered at once is read."""
    monkeypatch.setattr(Loop, "poll", Loop._fire)
    monkeypatch.setattr(Loop, "run", lambda loop, _finished: time.sleep(max(0, loop.deadline - time.monotonic()) + 0.1))
    echo, closed = {"layer": "icmp", "address": net.SERVER}, {"layer": "tcp", "address": net.SERVER, "port": 9}
    report = net.probe(echo, closed, node=network.client, timeout=0.5)
    assert [(r["status"], r["sent"], r["received"]) for r in report["results"]] == [("ok", 1, 1), ("refused", 1, 1)]


def test_all_answered_ends_before_the_deadline():
    report = net.probe(CLOSED, timeout=30)
    assert report["finished"] - report["started"] < 5


@root
@needs_root
def test_silence_is_waited_for_as_long_as_an_answer_could_take(network):
    with net.answering(network.server, lambda _data: []) as port:
        silent = {"layer": "udp", "address": net.SERVER, "port": port}
        echo = {"layer": "icmp", "address": net.SERVER}
        quick = net.probe(silent, echo, node=network.client, timeout=4, count=2)
        alone = net.probe(silent, node=network.client, timeout=1, count=2)
    assert [r["status"] for r in quick["results"]] == ["silent", "ok"]
    assert quick["results"][0]["sent"] == 2
    assert 0.2 < quick["results"][0]["seconds"] < 3
    assert alone["results"][0]["seconds"] > 0.9  # nothing tells how far it is


# -- results -----------------------------------------------------------------------------------------------------------


def test_every_result_has_every_key_in_the_order_asked_for():
    good, bad = net.all_layers("127.0.0.1"), [{"layer": "tcp", "address": "nowhere"}, {"layer": "carrier-pigeon"}]
    report = net.probe_all(
        {"netns": None, "probes": [{"id": f"a{n}", **probe} for n, probe in enumerate(good + bad)]},
        {"netns": "/proc/1/no-such", "container": "gone", "probes": [{"id": "b0", **CLOSED}]},
        {"netns": None, "probes": [{"id": "c0", **CLOSED}]},
        timeout=0.3,
    )
    assert set(report) == REPORT_KEYS
    assert [r["id"] for r in report["results"]] == [f"a{n}" for n in range(8)] + ["b0", "c0"]
    for result in report["results"]:
        assert set(result) >= CONTRACT_KEYS
        assert result["status"] in STATUS.get(result["layer"], {"error"})
    json.dumps(report, allow_nan=False)
    assert report["started"] <= report["finished"] <= report["deadline"] + 1
    assert 0.3 <= report["deadline"] - report["started"] <= 0.3 + _probe.GRACE


def test_nothing_asked_is_nothing_found():
    for sources in ([], [{"probes": []}], [{"netns": "/none", "probes": []}]):
        report = net.probe_all(*sources)
        assert (report["results"], report["missing"]) == ([], [])


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        ({"layer": "icmp"}, "needs an address"),
        ({"layer": "icmp", "address": "db.example"}, "not an IP address"),
        ({"layer": "icmp", "address": "224.0.0.1"}, "not the address of one host"),
        ({"layer": "icmp", "address": "255.255.255.255"}, "not the address of one host"),
        ({"layer": "icmp", "address": "0.0.0.0"}, "not the address of one host"),
        ({"layer": "icmp", "address": "ff02::1"}, "not the address of one host"),
        ({"layer": "icmp", "address": "fe80::1"}, "link-local"),
        ({"layer": "icmp", "address": "192.0.2.1%eth0"}, "not an IP address"),
        ({"layer": "tcp", "address": "127.0.0.1"}, "port"),
        ({"layer": "tcp", "address": "127.0.0.1", "port": 70000}, "port"),
        ({"layer": "udp", "address": "127.0.0.1", "port": 9, "payload": "poison"}, "payload"),
        ({"layer": "dns", "server": "127.0.0.1"}, "needs a name"),
        ({"layer": "dns", "name": "a", "server": "dns.example"}, "not an IP address"),
        ({"layer": "dns", "name": "a", "server": "127.0.0.1", "transport": "tls"}, "transport"),
        ({"layer": "dns", "name": "a", "server": "127.0.0.1", "qtype": "ANY"}, "qtype"),
        ({"layer": "tcp", "address": "127.0.0.1", "port": 9, "source": "::1"}, "different families"),
    ],
)
def test_probe_that_makes_no_sense_is_told_and_hurts_no_other(probe, words):
    bad, good = net.probe(probe, CLOSED)["results"]
    assert (bad["status"], bad["sent"]) == ("error", 0)
    assert words in bad["detail"]
    assert good["status"] == "refused"


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"layer": st.sampled_from(["icmp", "tcp", "udp", "dns", "http", "x", None])},
            optional={
                "address": st.sampled_from(["127.0.0.1", "::1", "x", "", None]),
                "server": st.sampled_from(["127.0.0.1", "::1", "x", None]),
                "source": st.sampled_from(["127.0.0.1", "::1", "x", None]),
                "port": st.sampled_from([0, 9, -1, 65536, None]),
                "name": st.text(max_size=8),
                "path": st.text(max_size=8),
                "payload": st.sampled_from(["mark", "tunnel", "x", None]),
                "transport": st.sampled_from(["udp", "tcp", "x", None]),
            },
        ),
        max_size=5,
    ),
    st.text(max_size=100),
)
def test_whatever_is_asked_for_gets_a_result(probes, mark):
    report = _probe.new_report(mark)
    source = {"probes": [{"id": str(number), **probe} for number, probe in enumerate(probes)]}
    _probe.run({"timeout": 0.1, "count": 2, "interval": 0, "sources": [source]}, report)
    assert [r["id"] for r in report["results"]] == [str(number) for number in range(len(probes))]
    assert all(r["status"] in STATUS.get(r["layer"], {"error"}) for r in report["results"])
    assert not any("internal error" in (r["detail"] or "") for r in report["results"])
    assert not any("internal error" in entry["why"] for entry in report["missing"])


@given(st.lists(st.floats(0, 10), min_size=1, max_size=50))
def test_deviation_is_a_number_and_order_holds(rtts):
    found = _probe_base.summary(rtts)
    assert found["min"] <= found["avg"] + 1e-6
    assert found["avg"] <= found["max"] + 1e-6
    assert 0 <= found["mdev"] <= 10


def test_payload_is_bounded():
    assert len(_probe_base.payload("m" * 64, "i" * 10000, 99)) < 200


# -- limits ------------------------------------------------------------------------------------------------------------


def test_probes_beyond_the_limit_are_left_out_and_told(monkeypatch):
    monkeypatch.setattr(_probe, "MAX_PROBES", 5)
    probes = [{"id": str(number), **CLOSED} for number in range(4)]
    report = net.probe_all({"probes": probes}, {"probes": probes})
    assert len(report["results"]) == 5
    assert report["missing"] == [{"section": "probes", "what": "3 of 8 probes", "why": "one call takes at most 5"}]


def test_packets_beyond_the_limit_are_not_sent(monkeypatch):
    monkeypatch.setattr(_probe, "MAX_PACKETS", 10)
    report = net.probe(*[{"layer": "icmp", "address": "127.0.0.1"}] * 4, count=100)
    assert sum(r["sent"] for r in report["results"]) <= 10
    assert len(report["missing"]) == 1


def test_bodies_share_a_limit(monkeypatch):
    monkeypatch.setattr(_probe, "MAX_BODIES", 1000)
    call = _probe._Call({"sources": []}, _probe.new_report())
    probes = [{"layer": "http"}] * 4
    assert call._settings([({}, probes)]).body_limit == 250


def test_too_few_descriptors_make_probes_wait_for_their_turn():
    """Everything is answered, though never more than a handful can be open."""
    report = net.run_apart(
        """
        free = len(os.listdir("/proc/self/fd")) + 8
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
        print(json.dumps(net.probe(*[{"layer": "tcp", "address": "127.0.0.1", "port": 9}] * 100, timeout=20)))
        """
    )
    assert [r["status"] for r in report["results"]] == ["refused"] * 100
    assert report["missing"] == []


def test_limit_on_descriptors_is_raised_for_the_call_only():
    report = net.run_apart(
        """
        free = len(os.listdir("/proc/self/fd")) + 8
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, free + 500))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            probe = {"layer": "udp", "address": "127.0.0.1", "port": silent.getsockname()[1]}
            report = net.probe(*[probe] * 50, timeout=0.4)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (free, free + 500)
        print(json.dumps(report))
        """
    )
    assert {r["status"] for r in report["results"]} == {"silent"}
    assert report["missing"] == []


@root
@needs_root
def test_probes_whose_turn_never_came_say_so(network):
    network.router.filter("forward", policy="drop")
    try:
        report = net.run_apart(
            """
            free = len(os.listdir("/proc/self/fd")) + 12
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
            probe = {"layer": "tcp", "address": net.SERVER, "port": 9}
            source = {"netns": sys.argv[1], "probes": [{"id": str(n), **probe} for n in range(30)]}
            print(json.dumps(net.probe_all(source, timeout=0.5)))
            """,
            network.client.path,
        )
    finally:
        network.reset()
    statuses = {r["status"]: r for r in report["results"]}
    assert set(statuses) == {"timeout", "error"}
    assert "file descriptor" in statuses["error"]["detail"]
    assert any("RLIMIT_NOFILE" in entry["why"] for entry in report["missing"])


# -- evidence survives -------------------------------------------------------------------------------------------------


def test_defect_in_one_probe_is_its_own_result(monkeypatch):
    def broken(_self):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(_probe_tcp.TcpProbe, "start", broken)
    report = net.probe(CLOSED, {"layer": "icmp", "address": "127.0.0.1"})
    assert [r["status"] for r in report["results"]] == ["error", "ok"]
    assert report["results"][0]["detail"] == "internal error: ZeroDivisionError: oops"


def test_defect_of_the_loop_leaves_what_was_seen(monkeypatch):
    def broken(loop, finished):
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            loop.poll()
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(Loop, "run", broken)
    with nothing_left_open():
        report = net.probe(
            CLOSED, {"layer": "icmp", "address": "127.0.0.1"}, {"layer": "dns", "name": "a", "server": "::1"}
        )
    assert [r["status"] for r in report["results"]][:2] == ["refused", "ok"]
    assert report["missing"] == [
        {"section": "probes", "what": "the rest of the probes", "why": "internal error: ZeroDivisionError: oops"}
    ]


def test_socket_that_a_callback_closed_is_not_served_again():
    """Its number may belong to another socket by then."""
    loop = Loop(time.monotonic() + 0.5)
    pairs = [socket.socketpair() for _pair in range(2)]
    served = []

    def serve(own, other):
        served.append(own)
        for sock in (pairs[own][0], pairs[other][0]):
            loop.forget(sock)
            sock.close()

    for number, (mine, theirs) in enumerate(pairs):
        theirs.send(b"x")
        loop.watch(mine, 1, lambda number=number: serve(number, 1 - number))
    loop.run(lambda: False)
    loop.close()
    assert len(served) == 1
    for _mine, theirs in pairs:
        theirs.close()

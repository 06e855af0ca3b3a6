# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""DNS lookups against nameservers that behave, and that do not."""

from __future__ import annotations

import contextlib
import ipaddress
import struct
import threading
import time

import pytest

from tests.unit.plugins.module_utils import probe_network as net

pytestmark = [pytest.mark.root, pytest.mark.skipif(not net.is_root(), reason="needs root")]

A, AAAA = 1, 28
NXDOMAIN, SERVFAIL, REFUSED = 3, 2, 5
SECOND = "198.51.100.21"  # another address of the server's


@pytest.fixture(scope="module")
def network():
    network = net.Network()
    network.server.ip("address", "add", f"{SECOND}/24", "dev", "eth0")
    yield network
    network.close()


@pytest.fixture(autouse=True)
def _unfiltered(network):
    yield
    network.reset()


class Zone:
    """A nameserver's data and manners. C(asked) lists (name, type) of every question."""

    def __init__(self, records=None, rcode=0, truncate=False, mangle=None, delay=0.0):
        self.records = records or {}
        self.rcode, self.truncate, self.mangle, self.delay = rcode, truncate, mangle, delay
        self.asked = []

    def answer(self, query, tcp=False):
        name, qtype = self._question(query)
        self.asked.append((name, "A" if qtype == A else "AAAA"))
        time.sleep(self.delay)
        addresses = [ipaddress.ip_address(text) for text in self.records.get(name, [])]
        wanted = [one.packed for one in addresses if one.version == (4 if qtype == A else 6)]
        rcode = self.rcode or (0 if name in self.records else NXDOMAIN)
        truncated = 0x0200 if self.truncate and not tcp else 0
        if truncated:
            wanted = []
        head = query[:2] + struct.pack("!HHHHH", 0x8180 | truncated | rcode, 1, len(wanted), 0, 0)
        rows = [b"\xc0\x0c" + struct.pack("!HHIH", qtype, 1, 60, len(row)) + row for row in wanted]
        reply = head + query[12:] + b"".join(rows)
        return self.mangle(reply) if self.mangle else reply

    @staticmethod
    def _question(query):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += query[at] + 1
        return ".".join(labels).lower(), struct.unpack_from("!H", query, at + 1)[0]


@contextlib.contextmanager
def nameserver(network, zone, address=net.SERVER):
    """Serves a zone by UDP and TCP on port 53 of an address in the server's namespace."""
    udp = network.server.socket(net.socket.AF_INET, net.socket.SOCK_DGRAM, (address, 53))
    tcp = network.server.socket(net.socket.AF_INET, net.socket.SOCK_STREAM, (address, 53))
    tcp.listen(8)
    udp.settimeout(0.1)
    tcp.settimeout(0.1)
    over = threading.Event()

    def datagrams():
        while not over.is_set():
            with contextlib.suppress(OSError):
                query, sender = udp.recvfrom(4096)
                reply = zone.answer(query)
                if reply is not None:
                    udp.sendto(reply, sender)

    def connections():
        while not over.is_set():
            with contextlib.suppress(OSError):
                connection, _peer = tcp.accept()
                with connection:
                    connection.settimeout(2)
                    reply = zone.answer(connection.recv(4096)[2:], tcp=True)
                    if reply is not None:
                        wire = len(reply).to_bytes(2, "big") + reply
                        connection.sendall(wire[:5])  # in two pieces, as networks do
                        time.sleep(0.02)
                        connection.sendall(wire[5:])

    threads = [threading.Thread(target=work) for work in (datagrams, connections)]
    for thread in threads:
        thread.start()
    try:
        yield zone
    finally:
        over.set()
        for thread in threads:
            thread.join()
        udp.close()
        tcp.close()


def lookup(network, name, *, dns=None, **options):
    """One lookup from the client; C(dns) is the resolver configuration of the source."""
    probe = {"layer": "dns", "name": name}
    probe.update({key: options.pop(key) for key in ("server", "transport", "qtype") if key in options})
    if dns is None:
        probe.setdefault("server", net.SERVER)
    return net.only(net.probe(probe, node=network.client, source={"dns": dns}, **options))


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_name_is_found(network, transport):
    with nameserver(network, Zone({"db.example": ["10.0.1.7", "10.0.1.8"]})) as zone:
        result = lookup(network, "db.example", transport=transport)
    assert (result["status"], result["answers"]) == ("ok", ["10.0.1.7", "10.0.1.8"])
    assert (result["server"], result["transport"], result["rcode"]) == (net.SERVER, transport, "NOERROR")
    assert (result["sent"], result["received"]) == (1, 1)
    assert 0 < result["rtt"]["avg"] < 0.5
    assert zone.asked == [("db.example", "A")]


def test_ipv6_address_is_looked_for_when_there_is_none_of_ipv4(network):
    with nameserver(network, Zone({"six.example": ["2001:db8::7"]})) as zone:
        result = lookup(network, "six.example")
    assert (result["status"], result["answers"]) == ("ok", ["2001:db8::7"])
    assert zone.asked == [("six.example", "A"), ("six.example", "AAAA")]


def test_only_the_type_asked_for_is_looked_up(network):
    with nameserver(network, Zone({"six.example": ["2001:db8::7"]})):
        assert lookup(network, "six.example", qtype="A")["status"] == "nodata"


@pytest.mark.parametrize(
    ("zone", "status"),
    [
        (Zone(), "nxdomain"),
        (Zone({"x.example": []}), "nodata"),
        (Zone(rcode=SERVFAIL), "servfail"),
        (Zone(rcode=REFUSED), "refused"),
        (Zone(rcode=4), "error"),
    ],
    ids=["nxdomain", "nodata", "servfail", "refused", "notimp"],
)
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_answer_without_address_is_a_status_of_its_own(network, zone, status, transport):
    with nameserver(network, zone):
        result = lookup(network, "x.example", transport=transport)
    assert (result["status"], result["answers"]) == (status, [])
    assert result["received"] >= 1
    assert result["rcode"] in ("NXDOMAIN", "NOERROR", "SERVFAIL", "REFUSED", "NOTIMP")
    assert result["seconds"] < 0.5


@pytest.mark.parametrize("count", [1, 3])
def test_truncated_answer_is_asked_for_again_by_tcp(network, count):
    with nameserver(network, Zone({"big.example": ["10.0.0.1"]}, truncate=True)) as zone:
        result = lookup(network, "big.example", count=count)
    assert (result["status"], result["transport"], result["answers"]) == ("ok", "tcp", ["10.0.0.1"])
    assert len(zone.asked) == 2
    assert "truncated" in result["detail"]


def test_truncated_answer_and_no_tcp_is_no_success(network):
    network.router.filter("forward", "tcp dport 53 drop")
    with nameserver(network, Zone({"big.example": ["10.0.0.1"]}, truncate=True)):
        result = lookup(network, "big.example", timeout=0.6)
    assert (result["status"], result["answers"]) == ("timeout", [])


def test_nameserver_that_drops_times_out(network):
    network.router.filter("forward", "udp dport 53 drop")
    result = lookup(network, "db.example", timeout=0.6)
    assert (result["status"], result["sent"], result["received"]) == ("timeout", 3, 0)
    assert net.SERVER in result["detail"]


def test_nothing_listening_is_told_at_once(network):
    for transport in ("udp", "tcp"):
        result = lookup(network, "db.example", transport=transport)
        assert (result["status"], result["errno"], result["rcode"]) == ("refused", "ECONNREFUSED", None)
        assert "nothing listens" in result["detail"]
        assert result["seconds"] < 0.5


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_nameserver_behind_a_rejecting_filter_is_unreachable(network, transport):
    network.router.filter("forward", "reject with icmpx type admin-prohibited")
    result = lookup(network, "db.example", transport=transport)
    assert (result["status"], result["icmp_error"]["sender"]) == ("unreachable", net.ROUTER)


def test_slow_nameserver_is_waited_for_within_the_deadline(network):
    with nameserver(network, Zone({"db.example": ["10.0.1.7"]}, delay=0.4)):
        result = lookup(network, "db.example", timeout=1.5)
    assert result["status"] == "ok"
    assert result["rtt"]["min"] >= 0.4
    assert result["sent"] == result["received"] == 1  # repeating was no loss


def test_lost_question_is_repeated_and_counted_as_lost(network):
    network.router.filter("forward", "udp dport 53 limit rate 1/day burst 1 packets drop")
    with nameserver(network, Zone({"db.example": ["10.0.1.7"]})):
        result = lookup(network, "db.example")
    assert (result["status"], result["sent"], result["received"]) == ("ok", 2, 1)


@pytest.mark.parametrize(
    ("mangle", "status", "words"),
    [
        (lambda reply: reply[:7], "error", "malformed"),
        (lambda reply: reply[:-3], "error", "malformed"),
        (lambda reply: bytes([reply[0] ^ 0xFF]) + reply[1:], "timeout", "id that was not asked"),
        (lambda reply: reply.replace(b"example", b"exbmple", 1), "timeout", "another question"),
        (lambda reply: b"", "error", "malformed"),
    ],
    ids=["cut", "short record", "wrong id", "other question", "empty"],
)
def test_strange_answer_is_not_believed(network, mangle, status, words):
    with nameserver(network, Zone({"db.example": ["10.0.1.7"]}, mangle=mangle)):
        result = lookup(network, "db.example", timeout=0.5)
    assert (result["status"], result["answers"]) == (status, [])
    assert words in result["detail"]


def test_answer_to_what_another_nameserver_was_asked_is_not_believed(network):
    seen = []
    silent = Zone({"db": ["10.0.1.7"]}, mangle=seen.append)
    thief = Zone(mangle=lambda _reply: seen[-1] if seen else None)
    with nameserver(network, thief), nameserver(network, silent, SECOND):
        result = lookup(network, "db", dns=dns(net.SERVER, SECOND), timeout=0.6)
    assert seen
    assert (result["status"], result["answers"]) == ("timeout", [])
    assert "not asked" in result["detail"]


@pytest.mark.parametrize("reply", [None, b""], ids=["closed", "empty"])
def test_tcp_connection_that_brings_no_answer_is_an_error(network, reply):
    with nameserver(network, Zone(mangle=lambda _reply: reply)):
        result = lookup(network, "db.example", transport="tcp", timeout=0.5)
    assert result["status"] == "error"
    assert result["seconds"] < 0.4


# -- through a resolver configuration ----------------------------------------------------------------------------------


def dns(*nameservers, search=(), options=()):
    return {"nameservers": list(nameservers), "search": list(search), "options": list(options)}


def test_search_list_is_tried_in_order(network):
    with nameserver(network, Zone({"db.b.example": ["10.0.1.7"]})) as zone:
        result = lookup(network, "db", dns=dns(net.SERVER, search=["a.example", "b.example"]))
    assert (result["status"], result["name"]) == ("ok", "db.b.example")
    assert zone.asked == [("db.a.example", "A"), ("db.b.example", "A")]


def test_name_found_nowhere_has_been_tried_everywhere(network):
    with nameserver(network, Zone()) as zone:
        result = lookup(network, "db.prod", dns=dns(net.SERVER, search=["a.example"], options=["ndots:3"]))
    assert result["status"] == "nxdomain"
    assert [name for name, _type in zone.asked] == ["db.prod.a.example", "db.prod"]


def test_name_without_address_outweighs_one_that_does_not_exist(network):
    with nameserver(network, Zone({"db.a.example": []})):
        result = lookup(network, "db", dns=dns(net.SERVER, search=["a.example", "b.example"]))
    assert (result["status"], result["name"]) == ("nodata", "db.a.example")


@pytest.mark.parametrize("rcode", [SERVFAIL, REFUSED])
def test_second_nameserver_helps_when_the_first_fails(network, rcode):
    with nameserver(network, Zone(rcode=rcode)), nameserver(network, Zone({"db": ["10.0.1.7"]}), SECOND):
        result = lookup(network, "db", dns=dns(net.SERVER, SECOND))
    assert (result["status"], result["server"]) == ("ok", SECOND)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_second_nameserver_helps_when_the_first_is_dead(network, transport):
    network.router.filter("forward", f"ip daddr {net.SERVER} drop")
    with nameserver(network, Zone({"db": ["10.0.1.7"]}), SECOND):
        result = lookup(network, "db", dns=dns(net.SERVER, SECOND), transport=transport)
    assert (result["status"], result["server"]) == ("ok", SECOND)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_second_nameserver_helps_when_nothing_listens_on_the_first(network, transport):
    with nameserver(network, Zone({"db": ["10.0.1.7"]}), SECOND):
        result = lookup(network, "db", dns=dns(net.SERVER, SECOND), transport=transport)
    assert (result["status"], result["server"]) == ("ok", SECOND)
    assert result["seconds"] < 0.3


def test_failure_of_all_nameservers_is_told(network):
    with nameserver(network, Zone(rcode=SERVFAIL)), nameserver(network, Zone(rcode=SERVFAIL), SECOND):
        result = lookup(network, "db", dns=dns(net.SERVER, SECOND, search=["a.example"]))
    assert result["status"] == "servfail"


def test_resolv_conf_of_the_container_is_read(network, tmp_path):
    path = tmp_path / "resolv.conf"
    path.write_text(f"search b.example\nnameserver {net.SERVER}\n", encoding="ascii")
    probe = {"layer": "dns", "name": "db"}
    with nameserver(network, Zone({"db.b.example": ["10.0.1.7"]})):
        result = net.only(net.probe(probe, node=network.client, source={"resolv_conf": str(path)}))
    assert (result["status"], result["name"]) == ("ok", "db.b.example")


def test_without_a_known_nameserver_nothing_is_asked(network, tmp_path):
    probe = {"layer": "dns", "name": "db"}
    fifo = tmp_path / "fifo"
    net.os.mkfifo(fifo)
    for source in (
        {},
        {"dns": dns()},
        {"dns": dns("db.example", "0.0.0.0")},
        {"resolv_conf": str(tmp_path / "none")},
        {"resolv_conf": str(fifo)},
    ):
        result = net.only(net.probe(probe, node=network.client, source=source))
        assert (result["status"], result["sent"]) == ("error", 0), source
        assert result["detail"]
    assert "not a regular file" in result["detail"]


def test_names_that_cannot_be_asked_for_are_an_error(network):
    assert lookup(network, "a..b")["status"] == "error"
    assert lookup(network, "x" * 64)["status"] == "error"

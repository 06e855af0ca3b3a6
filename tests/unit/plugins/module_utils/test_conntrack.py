# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _conntrack as conntrack
from ansible_collections.crosshost.doctor.plugins.module_utils import _netns
from tests.unit.plugins.module_utils.namespace import namespace, needs_root, run
from tests.unit.plugins.module_utils.netlink_messages import attribute, message

# From a kernel 6.18: a tunnel's packet, which nobody ever answers, and a connection of TCP.
RECORDED = bytes.fromhex(
    "a40000000001220001000000ebde000002000000340001801400018008000100c000020b08000200c000020d1c00028005000100110000000600"
    "0200cafd00000600030012b50000340002801400018008000100c000020d08000200c000020b1c00028005000100110000000600020012b50000"
    "06000300cafd00000800030000000188080008000000000008000c004884855508000b0000000001080007000000001d"
)
RECORDED_TCP = bytes.fromhex(
    "d40000000001220001000000ebde000002000000340001801400018008000100c000020b08000200c000020d1c00028005000100060000000600"
    "0200a1d60000060003001f0a0000340002801400018008000100c000020d08000200c000020b1c0002800500010006000000060002001f0a0000"
    "06000300a1d60000080003000000018e080008000000000008000c0019304e7408000b00000000010800070000000038300004802c0001800500"
    "010007000000050002000a000000050003000a00000006000400270000000600050023000000"
)
TUNNEL = frozenset((4789,))
TUNNEL_ROW = {
    "protocol": "udp",
    "src": "192.0.2.11",
    "dst": "192.0.2.13",
    "sport": 51965,
    "dport": 4789,
    "reply_src": "192.0.2.13",
    "reply_dst": "192.0.2.11",
    "reply_sport": 4789,
    "reply_dport": 51965,
    "status": ["confirmed", "src_nat_done", "dst_nat_done"],
    "timeout": 29,
}


def tuple_of(kind: int, src: str, sport: int, dst: str, dport: int, proto: int = 17, extra: bytes = b"") -> bytes:
    six = ":" in src
    pack = (lambda text: socket.inet_pton(socket.AF_INET6, text)) if six else socket.inet_aton
    ips = attribute(3 if six else 1, pack(src)) + attribute(4 if six else 2, pack(dst))
    ports = attribute(2, struct.pack("!H", sport)) + attribute(3, struct.pack("!H", dport))
    inner = attribute(0x8001, ips) + attribute(0x8002, attribute(1, bytes((proto,))) + ports)
    return attribute(0x8000 | kind, inner + extra)


def flow(
    original: tuple[str, int, str, int], reply: tuple[str, int, str, int], proto: int = 17, extra: bytes = b""
) -> bytes:
    """One entry."""
    body = struct.pack("=BBH", 2, 0, 0)
    body += tuple_of(1, *original, proto=proto, extra=extra) + tuple_of(2, *reply, proto=proto)
    body += attribute(3, struct.pack("!I", 0x188)) + attribute(7, struct.pack("!I", 29))
    return message(0x100, body)


def mirror(src: str, sport: int, dst: str, dport: int, **options: Any) -> bytes:
    return flow((src, sport, dst, dport), (dst, dport, src, sport), **options)


def chosen(*messages: bytes, ports: frozenset[int] = TUNNEL) -> list[dict[str, Any]]:
    found = conntrack.Chosen(ports)
    for one in messages:
        found.take(one, 0, len(one))
    return found.rows()


DNAT = flow(("198.51.100.1", 5000, "192.0.2.11", 53), ("172.18.0.3", 53, "198.51.100.1", 5000))
SNAT = flow(("192.0.2.11", 51965, "192.0.2.13", 4789), ("192.0.2.13", 4789, "192.0.2.99", 51965))


def test_what_a_kernel_sent() -> None:
    assert conntrack.entry(RECORDED, 0, len(RECORDED)) == TUNNEL_ROW
    assert conntrack.entry(RECORDED_TCP, 0, len(RECORDED_TCP)) is None
    assert chosen(RECORDED, RECORDED_TCP) == [TUNNEL_ROW]
    # The made ones below are like it.
    made = mirror("192.0.2.11", 51965, "192.0.2.13", 4789)
    assert made[16:128] == RECORDED[16:128]


def test_ordinary_entries_are_left_out() -> None:
    assert chosen(mirror("192.0.2.11", 7946, "192.0.2.12", 7946)) == []
    assert chosen(mirror("192.0.2.11", 51965, "192.0.2.13", 4789), ports=frozenset()) == []
    assert chosen(mirror("192.0.2.11", 4789, "192.0.2.13", 51965))[0]["sport"] == 4789
    # Unusual layouts go another way to the same answer: a zone in the tuple, IPv6.
    zone = attribute(3, b"\0\1")
    assert chosen(mirror("192.0.2.11", 1, "192.0.2.13", 2, extra=zone)) == []
    assert chosen(mirror("192.0.2.11", 1, "192.0.2.13", 4789, extra=zone))[0]["dport"] == 4789
    assert chosen(mirror("2001:db8::1", 1, "2001:db8::2", 2)) == []
    assert chosen(mirror("2001:db8::1", 1, "2001:db8::2", 4789))[0]["src"] == "2001:db8::1"
    assert chosen(mirror("2001:db8::1", 1, "2001:db8::2", 4789, proto=6)) == []


def test_translated_entries_are_kept() -> None:
    rows = chosen(DNAT, SNAT, mirror("192.0.2.11", 1, "192.0.2.13", 4789))
    assert [(row["dst"], row["reply_src"], row["reply_dst"]) for row in rows] == [
        ("192.0.2.13", "192.0.2.13", "192.0.2.99"),  # a translated tunnel first
        ("192.0.2.13", "192.0.2.13", "192.0.2.11"),
        ("192.0.2.11", "172.18.0.3", "198.51.100.1"),
    ]
    port = flow(("192.0.2.11", 5000, "192.0.2.13", 53), ("192.0.2.13", 53, "192.0.2.11", 1024))
    assert chosen(port)[0]["reply_dport"] == 1024
    tcp = flow(("198.51.100.1", 5000, "192.0.2.11", 53), ("172.18.0.3", 53, "198.51.100.1", 5000), proto=6)
    assert chosen(tcp) == []


def test_questions_to_the_engines_resolver_are_left_out() -> None:
    assert chosen(flow(("127.0.0.1", 5000, "127.0.0.11", 53), ("127.0.0.11", 40000, "127.0.0.1", 5000))) == []


def test_a_large_table_leaves_one_of_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conntrack, "LIMIT", 10)
    many = [mirror("192.0.2.11", port, "192.0.2.13", 4789) for port in range(1000, 1100)]
    rows = chosen(*many, mirror("192.0.2.12", 1, "192.0.2.11", 4789), DNAT, SNAT)
    assert len(rows) == 10
    assert [row["src"] for row in rows[:4]] == ["192.0.2.11", "192.0.2.11", "192.0.2.12", "198.51.100.1"]
    kinds = [flow((f"10.0.0.{n}", 1, "192.0.2.1", 53), ("172.18.0.3", 53, f"10.0.0.{n}", 1)) for n in range(100)]
    assert len(chosen(*kinds)) == 10


def test_what_is_cut_off_or_broken_has_no_row() -> None:
    for end in range(len(RECORDED)):
        row = conntrack.entry(RECORDED[:end], 0, end)
        assert row is None or (row["src"], row["reply_dport"]) == ("192.0.2.11", 51965)
    no_reply = message(0x100, struct.pack("=BBH", 2, 0, 0) + tuple_of(1, "192.0.2.1", 1, "192.0.2.2", 4789))
    assert chosen(no_reply) == []


@given(st.integers(0, len(RECORDED) - 1), st.integers(0, 255), st.binary(max_size=300))
def test_no_bytes_end_the_reading(place: int, value: int, garbage: bytes) -> None:
    broken = bytearray(RECORDED)
    broken[place] = value
    chosen(bytes(broken), garbage, bytes(20) + garbage)


@pytest.fixture
def inside() -> Any:
    """A namespace that tracks connections, with a flow of a tunnel's port, a translated one, and an ordinary one."""
    with namespace() as name:
        run(name, "ip", "link", "set", "lo", "up")
        run(name, "ip", "addr", "add", "192.0.2.11/32", "dev", "lo")
        run(name, "nft", "add table ip t; add chain ip t o { type nat hook output priority -100; }")
        run(name, "nft", "add rule ip t o udp dport 5353 dnat to 192.0.2.11:5454")
        with _netns.inside(f"/run/netns/{name}"):
            yield name


def send(*ports: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("192.0.2.11", 0))
        for port in ports:
            one.sendto(b"x", ("192.0.2.11", port))


@needs_root
def test_the_table_of_a_namespace(inside: str) -> None:
    assert conntrack.read_conntrack(TUNNEL) == []
    send(4789, 5353, 9999)
    rows = conntrack.read_conntrack(TUNNEL)
    assert [(row["dport"], row["reply_sport"]) for row in rows] == [(4789, 4789), (5353, 5454)]
    assert "dst_nat" in rows[1]["status"]
    assert rows[0]["timeout"] > 0
    # Kernels before 5.8 do not filter.
    everything: list[bytes] = []
    for only_udp in (True, False):
        body = conntrack.request(socket.AF_INET, only_udp)
        conntrack.dump(conntrack.GET, body, lambda found: everything.extend(b[s:e] for b, s, e in found), 12)
    rows = chosen(*everything, ports=frozenset((4789, 9999)))
    assert sorted(row["dport"] for row in rows) == [4789, 4789, 5353, 5353, 9999, 9999]


@needs_root
def test_a_kernel_that_cannot_filter_is_asked_for_everything(inside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    send(4789)
    real = conntrack.dump
    asked = []

    def refuse(kind: int, body: bytes, consume: Any, protocol: int) -> Any:
        asked.append(len(body))
        if len(body) > 4:
            raise OSError(22, "Invalid argument")
        return real(kind, body, consume, protocol)

    monkeypatch.setattr(conntrack, "dump", refuse)
    assert [row["dport"] for row in conntrack.read_conntrack(TUNNEL)] == [4789]
    assert [size > 4 for size in asked] == [True, False]


@pytest.mark.parametrize(("number", "raises"), [(1, False), (13, False), (5, True)])
def test_without_permission_there_are_no_rows(number: int, raises: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_options: Any) -> Any:
        raise OSError(number, "refused")

    monkeypatch.setattr(conntrack, "dump", refuse)
    monkeypatch.setattr(conntrack, "read_int", lambda path: 1)
    if raises:
        with pytest.raises(OSError, match="refused"):
            conntrack.read_conntrack(TUNNEL)
    else:
        assert conntrack.read_conntrack(TUNNEL) == []


def test_a_namespace_that_tracks_nothing_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conntrack, "dump", None)
    for count in (0, None):
        monkeypatch.setattr(conntrack, "read_int", lambda path, count=count: count)
        assert conntrack.read_conntrack(TUNNEL) == []


def test_the_reading_stops_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def endless(kind: int, body: bytes, consume: Any, protocol: int) -> None:
        def messages() -> Any:
            while True:
                read.append(1)
                yield RECORDED, 0, len(RECORDED)

        consume(messages())

    monkeypatch.setattr(conntrack, "dump", endless)
    monkeypatch.setattr(conntrack, "read_int", lambda path: 1)
    monkeypatch.setattr(conntrack, "SECONDS", 0.0)
    assert conntrack.read_conntrack(TUNNEL) == [TUNNEL_ROW] * min(len(read), conntrack.LIMIT)
    assert len(read) <= 512


def test_no_module_is_loaded_by_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    for state in ("loaded", "builtin", "available", "absent", None):
        monkeypatch.setattr(conntrack, "read_modules", lambda names, state=state: dict.fromkeys(names, state))
        monkeypatch.setattr(conntrack, "PROC_MODULES", __file__)
        assert conntrack.askable() is (state in ("loaded", "builtin"))
    monkeypatch.setattr(conntrack, "PROC_MODULES", "/nonexistent")
    assert conntrack.askable()

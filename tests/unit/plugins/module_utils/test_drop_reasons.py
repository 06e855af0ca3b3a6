# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The reader sees the whole machine: tests look for what they cause and tolerate what others cause meanwhile."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _drop_reasons, _netns
from ansible_collections.crosshost.doctor.plugins.module_utils._drop_reasons import Decoder, DropReader, Kept, Site
from ansible_collections.crosshost.doctor.plugins.module_utils._perf import Format
from tests.unit.plugins.module_utils import probe_network as net

needs_root = pytest.mark.skipif(not net.is_root(), reason="makes namespaces and reads a tracepoint: needs root")
FIELDS = {"location": (16, 8), "protocol": (32, 2), "reason": (36, 4)}
HIDDEN = "0000000000000000 T _stext\n0000000000000000 t nft_do_chain\t[nf_tables]\n"


@contextlib.contextmanager
def reading(limit: int = _drop_reasons.LIMIT, calibrated: bool = False) -> Iterator[DropReader]:
    reader = DropReader(limit)
    try:
        if calibrated:
            reader.calibrate()
        yield reader
    finally:
        reader.close()


def found(result: dict[str, Any], reason: str, location: str) -> list[dict[str, Any]]:
    return [row for row in result["events"] if (row["reason"], row["location"]) == (reason, location)]


@needs_root
def test_reasons_of_a_filter_a_reverse_path_filter_and_an_unknown_vni() -> None:
    network = net.Network()
    try:
        with reading(calibrated=True) as reader:
            started = time.time()
            for provoke in (_filtered, _spoofed, _unknown_vni):
                provoke(network)
                reader.drain()
            finished = time.time()
            result = reader.result()
            assert reader.result() is result
    finally:
        network.close()
    assert result["available"] is True
    assert result["why"] is None
    for reason, location, least in (
        ("NETFILTER_DROP", "nft_do_chain", 3),
        ("IP_RPFILTER", "ip_rcv_finish_core", 4),
        ("VXLAN_VNI_NOT_FOUND", "vxlan_rcv", 5),
    ):
        # Compilers may inline or split the function: the reason is what must be right.
        rows = [row for row in result["events"] if row["reason"] == reason]
        assert len(rows) >= least, (reason, result["totals"])
        assert all(started <= row["time"] <= finished and row["protocol"] == 0x0800 for row in rows[:least])
        assert any(location in row["location"] for row in rows), rows
    assert sorted(row["time"] for row in result["events"]) == [row["time"] for row in result["events"]]


def _filtered(network: net.Network) -> None:
    network.server.filter("input", "icmp type echo-request drop")
    echo = {"layer": "icmp", "address": net.SERVER}
    assert net.only(net.probe(echo, node=network.client, timeout=0.2))["received"] == 0
    network.server.unfilter()


def _spoofed(network: net.Network) -> None:
    """From an address behind the router's other side."""
    network.router.sysctl("net.ipv4.conf.near.rp_filter", 1)
    packet = bytearray(28)
    packet[0], packet[8], packet[9] = 0x45, 64, 17
    packet[2:4] = (28).to_bytes(2, "big")
    packet[12:16], packet[16:20] = socket.inet_aton("198.51.100.77"), socket.inet_aton(net.ROUTER)
    with _netns.inside(network.client.path), socket.socket(socket.AF_INET, socket.SOCK_RAW, 255) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        for _number in range(4):
            sock.sendto(bytes(packet), (net.ROUTER, 0))
    time.sleep(0.02)


def _unknown_vni(network: net.Network) -> None:
    network.server.ip("link", "add", "vx", "type", "vxlan", "id", "7", "dstport", "4789", "local", net.SERVER)
    network.server.ip("link", "set", "vx", "up")
    with network.client.socket(socket.AF_INET, socket.SOCK_DGRAM, (net.CLIENT, 0)) as sock:
        for _number in range(5):
            sock.sendto(struct.pack(">II", 0x08000000, 99 << 8) + bytes(60), (net.SERVER, 4789))
    time.sleep(0.05)
    network.server.ip("link", "delete", "vx")


@needs_root
def test_what_our_own_sockets_cause_is_left_out() -> None:
    with reading(calibrated=True) as reader:
        own = reader.result()["calibration"]
    assert any(key.startswith("NO_SOCKET@") for key in own), own
    node = net.Node()
    try:
        node.ip("link", "set", "lo", "up")
        with reading(calibrated=True) as reader:
            with _netns.inside(node.path):
                assert all(_drop_reasons.exchange() for _number in range(5))
            result = reader.result()
    finally:
        node.close()
    calibrated = [key.partition("@") for key in result["calibration"]]
    assert calibrated
    for reason, _at, location in calibrated:
        assert found(result, reason, location) == []


@needs_root
def test_a_closed_port_is_not_left_out_with_the_echoes() -> None:
    """Both are NO_SOCKET: one is a healthy echo's, the other a tunnel port without a device."""
    node = net.Node()
    try:
        node.ip("link", "set", "lo", "up")
        with reading(calibrated=True) as reader:
            with node.socket(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)) as sock:
                for _number in range(3):
                    with contextlib.suppress(ConnectionRefusedError):
                        sock.sendto(b"x", ("127.0.0.1", 4789))
            result = reader.result()
    finally:
        node.close()
    rows = [row for row in result["events"] if row["reason"] == "NO_SOCKET" and "udp" in row["location"]]
    assert len(rows) >= 3, result["totals"]


@needs_root
def test_a_loopback_that_is_filtered_calibrates_nothing() -> None:
    node = net.Node()
    try:
        node.filter("input", "icmp type echo-reply drop")
        with _netns.inside(node.path), reading() as reader:
            reader.calibrate()
            result = reader.result()
    finally:
        node.close()
    assert result["calibration"] == {}


@needs_root
def test_a_flood_is_bounded_and_what_did_not_fit_is_told() -> None:
    node = net.Node()
    try:
        node.filter("input", "udp dport 7 drop")
        with node.socket(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)) as sock, reading(limit=50) as reader:
            for number in range(3000):
                sock.sendto(b"x", ("127.0.0.1", 7))
                if number % 500 == 0:
                    reader.drain()
            middle = time.time()
            for _number in range(200):
                sock.sendto(b"x", ("127.0.0.1", 7))
            everything = sum(row["count"] for row in _totals(reader))
            result = reader.result(near=[middle - 3600])
    finally:
        node.close()
    assert everything + result["lost"] >= 3200
    assert result["events"] == []  # an hour ago nothing was dropped
    assert result["available"]


def _totals(reader: DropReader) -> list[dict[str, Any]]:
    reader.drain()
    return [{"count": count} for count in reader._kept.totals.values()]


@needs_root
def test_more_than_the_rings_hold_is_counted_as_lost() -> None:
    node = net.Node()
    try:
        node.filter("input", "udp dport 7 drop")
        with node.socket(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)) as sock, reading() as reader:
            for _number in range(12000):  # nobody drains
                sock.sendto(b"x", ("127.0.0.1", 7))
            result = reader.result()
    finally:
        node.close()
    seen = sum(row["count"] for row in result["totals"])
    assert result["lost"] > 0
    assert seen + result["lost"] >= 12000
    assert len(result["events"]) <= _drop_reasons.LIMIT
    assert result["complete_since"] is None or result["complete_since"] <= result["events"][-1]["time"]


def test_an_older_kernel_has_places_but_no_reasons() -> None:
    decoder = Decoder(Format(1, {"location": (16, 8), "protocol": (24, 2)}, {}))
    site = decoder.site(struct.pack("=16xQHxx", 0xFFFF, 0x0806))
    assert site == Site(0, 0xFFFF, 0x0806)
    assert decoder.name(site.reason) == "NOT_SPECIFIED"


def test_a_layout_nobody_expects_is_refused() -> None:
    for fields in ({}, {"location": (16, 8), "reason": (24, 3)}, {"location": (16, 8), "reason": (20, 4)}):
        with pytest.raises(ValueError, match="skb:kfree_skb"):
            Decoder(Format(1, fields, {}))


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(0, 0xFFFF), st.binary(max_size=8))
def test_records_decode_as_the_layout_says(reason: int, address: int, protocol: int, rest: bytes) -> None:
    decoder = Decoder(Format(1, FIELDS, {2: "NO_SOCKET"}))
    raw = struct.pack("=16xQ8xHxxI", address, protocol, reason)
    assert decoder.site(raw + rest) == Site(reason, address, protocol)
    assert all(decoder.site(raw[:length]) is None for length in range(len(raw)))
    assert decoder.name(reason) == ("NO_SOCKET" if reason == 2 else decoder.name(reason))


@given(st.permutations(["location", "protocol", "reason"]), st.lists(st.integers(0, 9), min_size=3, max_size=3))
def test_fields_may_lie_in_any_order(order: list[str], gaps: list[int]) -> None:
    fields, position = {}, 0
    for name, gap in zip(order, gaps):
        size = FIELDS[name][1]
        fields[name] = (position + gap, size)
        position += gap + size
    raw = bytearray(position)
    values = {"location": 0x1122334455667788, "protocol": 0x0800, "reason": 77}
    for name, (offset, size) in fields.items():
        raw[offset : offset + size] = values[name].to_bytes(size, "little" if struct.pack("=H", 1)[0] else "big")
    assert Decoder(Format(1, fields, {})).site(bytes(raw)) == Site(77, values["location"], 0x0800)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 5), max_size=200), st.integers(1, 40))
def test_the_busiest_gives_way_first(kinds: list[int], limit: int) -> None:
    kept = Kept(limit)
    for stamp, kind in enumerate(kinds):
        kept.add(Site(kind, 0, 0), stamp)
    events = kept.events()
    assert len(events) == min(limit, len(kinds))
    assert sum(kept.totals.values()) == len(kinds)
    for site, stamps in kept.times.items():
        own = [stamp for stamp, kind in enumerate(kinds) if kind == site.reason]
        assert list(stamps) == own[len(own) - len(stamps) :]  # the newest of each
    share = limit // max(1, len(kept.times))
    for site, stamps in kept.times.items():
        assert len(stamps) >= min(share, kept.totals[site]) - 1  # a fair share is nobody's to take
    if kept.complete_since is not None:
        assert [s for s, _site in events if s > kept.complete_since] == list(range(kept.complete_since + 1, len(kinds)))


def test_more_sites_than_there_is_room_for_are_counted() -> None:
    kept = Kept(10000)
    for number in range(_drop_reasons.GROUPS + 5):
        kept.add(Site(number, 0, 0), number)
    assert kept.beyond == 5


SYMBOLS = st.lists(
    st.tuples(st.integers(1, 1 << 32), st.sampled_from("tTwWdDrb"), st.from_regex(r"[a-z_]{1,8}", fullmatch=True)),
    min_size=1,
    max_size=30,
)


@settings(max_examples=60)
@given(SYMBOLS, st.lists(st.integers(1, 1 << 32), max_size=6))
def test_places_are_named_by_the_function_before_them(rows: list[tuple[int, str, str]], wanted: list[int]) -> None:
    path = Path(f"/tmp/crosshost-doctor-test-{os.getpid()}-kallsyms")
    path.write_text("".join(f"{address:016x} {kind} {name}\t[mod]\n" for address, kind, name in rows))
    try:
        named = _drop_reasons.locate(set(wanted), str(path))
    finally:
        path.unlink()
    for address in wanted:
        code = [row[0] for row in rows if row[1] in "tTwW" and row[0] < address]
        names = {row[2] for row in rows if code and row[0] == max(code) and row[1] in "tTwW"}
        assert named[address] in (names or {f"{address:#x}"})


def test_hidden_symbols_leave_the_address(tmp_path: Path) -> None:
    (tmp_path / "symbols").write_text(HIDDEN)
    assert _drop_reasons.locate({0xFFFF1234}, str(tmp_path / "symbols")) == {0xFFFF1234: "0xffff1234"}
    assert _drop_reasons.locate({7}, str(tmp_path / "absent")) == {7: "0x7"}
    (tmp_path / "empty").write_text("")
    assert _drop_reasons.locate({7}, str(tmp_path / "empty")) == {7: "0x7"}


def test_an_unavailable_result_has_the_same_keys() -> None:
    assert _drop_reasons.unavailable("why not") == {
        **_drop_reasons.unavailable(""),
        "why": "why not",
    }
    assert _drop_reasons.unavailable("x")["available"] is False

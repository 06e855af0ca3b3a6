# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Taps on a real veth pair between two namespaces, and whole captures from them."""

from __future__ import annotations

import dataclasses
import io
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.crosshost.doctor.plugins.module_utils import (
    _analysis,
    _capture,
    _netns,
    _pcap,
    _pcapng,
    _probe_base,
    _tap_filter,
    _taps,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._taps import Ring, Spot, Tap
from tests.unit.plugins.module_utils.namespace import needs_root
from tests.unit.plugins.module_utils.probe_network import Node

pytestmark = needs_root
LEFT, RIGHT = "192.0.2.1", "192.0.2.2"
UDP_FRAME = (
    b"\xff" * 6
    + b"\x02" * 6
    + b"\x08\x00"
    + struct.pack("!BBHHHBBH4s4s", 0x45, 0, 34, 1, 0, 64, 17, 0, b"\xcb\0\x71\1", b"\xcb\0\x71\2")
    + struct.pack("!HHHH", 1, 9, 14, 0)
    + b"tagged"
)


@dataclasses.dataclass
class Pair:
    """left va - vb right."""

    left: Node
    right: Node
    sender: socket.socket
    receiver: socket.socket

    def spots(self) -> list[Spot]:
        return [Spot("left", self.left.path, interface="va"), Spot("right", self.right.path, interface="vb")]

    def taps(self, snaplen: int = 2000) -> list[Tap]:
        missing: list[Any] = []
        found = _taps.open_taps(
            self.spots(),
            Ring.of(1 << 20),
            lambda link: _tap_filter.matching(link, (), _tap_filter.Match(protocol="udp"), snaplen),
            True,
            lambda *row: missing.append(row),
        )
        assert not missing
        return found

    def send(self, count: int = 1, size: int = 100) -> None:
        for number in range(count):
            self.sender.sendto(struct.pack("!I", number) + bytes(size - 4), (RIGHT, 9))


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    left, right = Node(), Node()
    try:
        for node in (left, right):
            node.sysctl("net.ipv6.conf.default.disable_ipv6", 1)
        left.ip("link", "add", "va", "type", "veth", "peer", "name", "vb", "netns", str(right.pid))
        for node, name, address in ((left, "va", LEFT), (right, "vb", RIGHT)):
            node.ip("addr", "add", f"{address}/24", "dev", name)
            node.ip("link", "set", name, "up")
        sender = left.socket(socket.AF_INET, socket.SOCK_DGRAM, (LEFT, 0))
        receiver = right.socket(socket.AF_INET, socket.SOCK_DGRAM, (RIGHT, 9))
        with sender, receiver:
            yield Pair(left, right, sender, receiver)
    finally:
        left.close()
        right.close()


def frames(tap: Tap, count: int, seconds: float = 2.0) -> list[_taps.Frame]:
    """What the tap has; waits until there are so many."""
    found: list[_taps.Frame] = []
    end = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < end:
        for block in tap.blocks():
            found += tap.read(block)
        time.sleep(0.01)
    return found


def close(taps: list[Tap]) -> None:
    for tap in taps:
        tap.close()


def test_each_side_sees_a_frame_once_with_its_direction_and_time(pair: Pair) -> None:
    taps = pair.taps()
    before = time.time_ns()
    pair.send(3)
    seen = [frames(tap, 3) for tap in taps]
    after = time.time_ns()
    assert [len(found) for found in seen] == [3, 3]
    for found, out in zip(seen, (True, False)):
        for number, (when, wire, data, direction, ready, gso) in enumerate(found):
            assert before <= when <= after
            assert (wire, len(data)) == (142, 142)
            assert data[42:46] == struct.pack("!I", number)
            assert (direction, gso) == (out, False)
            assert not ready  # a veth leaves the checksum to a card that never comes
    assert seen[0][0][0] <= seen[1][0][0]
    assert [tap.count_drops() for tap in taps] == [0, 0]
    assert [(tap.interface, tap.link_type) for tap in taps] == [("va", 1), ("vb", 1)]
    close(taps)


def test_a_checksum_that_is_in_the_frame_is_final(pair: Pair) -> None:
    pair.left.run("ethtool", "-K", "va", "tx", "off")
    taps = pair.taps()
    pair.send()
    assert [frame[4] for tap in taps for frame in frames(tap, 1)] == [True, True]
    close(taps)
    pair.left.run("ethtool", "-K", "va", "tx", "on")


def test_a_frame_that_stands_for_several_says_so(pair: Pair) -> None:
    taps = pair.taps()
    pair.sender.setsockopt(socket.SOL_UDP, 103, 500)  # UDP_SEGMENT
    try:
        pair.send(size=5000)
    finally:
        pair.sender.setsockopt(socket.SOL_UDP, 103, 0)
    found = frames(taps[0], 1)
    assert [(wire, gso) for _when, wire, _data, _out, _ready, gso in found] == [(5042, True)]
    close(taps)


def test_a_vlan_tag_is_where_it_was_on_the_wire(pair: Pair) -> None:
    frame = UDP_FRAME[:12] + b"\x81\x00\x00\x07" + UDP_FRAME[12:]
    with _netns.inside(pair.left.path), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
        sender.bind(("va", 0))
        taps = pair.taps()
        sender.send(frame)
    for tap in taps:
        blocks: list[bytes] = []
        while not blocks:
            blocks += tap.blocks()
        ((_when, wire, data, *_rest),) = tap.read(blocks[0])
        assert data == frame
        assert wire == len(frame)
        file = io.BytesIO()
        _pcapng.PcapngWriter(file, [("x", 1, 2000)])
        file.write(tap.pack(blocks[0], 0)[1])
        file.seek(0)
        assert [record[2:4] for record in _pcap.open_capture(file)] == [(len(frame), frame)]
    close(taps)


def test_packed_frames_are_what_a_writer_writes(pair: Pair) -> None:
    taps = pair.taps(snaplen=101)
    pair.send(5, size=90)
    pair.send(5, size=61)
    end = time.monotonic() + 2
    blocks: list[bytes] = []
    while sum(_taps.frame_count(block) for block in blocks) < 10 and time.monotonic() < end:
        blocks += taps[0].blocks()
    interfaces = [("left", 1, 101), ("right", 1, 101)]
    packed, written = io.BytesIO(), io.BytesIO()
    own, other = (_pcapng.PcapngWriter(stream, interfaces) for stream in (packed, written))
    for block in blocks:
        packed.write(taps[0].pack(block, 1)[1])
        for when, wire, data, out, ready, gso in taps[0].read(block):
            other.write(1, when, wire, data, out, ready, gso)
    assert own.packets == 0
    assert packed.getvalue() == written.getvalue()
    assert (taps[0].frames, taps[0].bytes, taps[0].truncated) == (10, 10 * 101, 10)
    read = list(_pcap.open_capture(io.BytesIO(packed.getvalue())))
    assert [(record[0].name, record[2]) for record in read] == [("right", 132)] * 5 + [("right", 103)] * 5
    close(taps)


def test_what_finds_no_room_is_counted(pair: Pair) -> None:
    taps = pair.taps()
    pair.send(2000, size=1400)
    seen = len(frames(taps[1], 2000, 0.3))
    dropped = taps[1].count_drops()
    assert dropped > 0
    assert seen + dropped == 2000
    assert taps[1].count_drops() == dropped  # nothing is counted twice
    close(taps)


def test_nothing_comes_after_the_stop(pair: Pair) -> None:
    taps = pair.taps()
    pair.send(2)
    for tap in taps:
        tap.stop()
    pair.send(5)
    time.sleep(0.12)
    assert [len(frames(tap, 2)) for tap in taps] == [2, 2]
    close(taps)


def test_a_tap_that_cannot_stand_there_is_named(pair: Pair) -> None:
    missing: list[tuple[str, str, str]] = []
    spots = [
        Spot("typo", pair.left.path, interface="eth9"),
        Spot("moved", pair.left.path, interface="va", ifindex=77),
        Spot("unknown", pair.left.path, ifindex=77),
        Spot("other", pair.left.path, inode="4026531840", interface="va"),
        Spot("gone", "/proc/1/ns/nothing", interface="va"),
        Spot("good", pair.left.path, inode=str(os.stat(pair.left.path).st_ino), interface="va"),
    ]
    taps = _taps.open_taps(
        spots,
        Ring.of(0),
        _tap_filter_for_all,
        True,
        lambda *row: missing.append(row),  # type: ignore[arg-type]
    )
    assert [tap.id for tap in taps] == ["good"]
    assert [row[:2] for row in missing] == [("tap", spot.id) for spot in spots[:5]]
    why = {row[1]: row[2] for row in missing}
    assert "no such interface" in why["typo"]
    assert "has index" in why["moved"]
    assert "no such interface" in why["unknown"]
    assert "not 4026531840" in why["other"]
    assert "No such file" in why["gone"]
    close(taps)


def _tap_filter_for_all(link_type: int) -> list[_tap_filter.Instruction]:
    return _tap_filter.everything(256)


def test_a_ring_has_room_for_the_time_a_reader_may_need() -> None:
    for size, count in ((0, 1), (2 << 20, 12), (16 << 20, 256), (64 << 20, 1), (1 << 40, 1)):
        ring = Ring.of(size, count)
        assert ring.blocks * _taps.RETIRE_MS >= 800
        assert ring.size * count <= _taps.ALL_RINGS or ring.size == _taps.MIN_RING
        assert ring.block >= _capture.MAX_SNAPLEN - 1 + 512 or ring.block == _taps.BLOCK


@pytest.mark.parametrize(
    ("release", "expected"), [("6.2.0", True), ("6.18.44-x", True), ("6.1.0-18-amd64", False), ("5.15", False), ("", 1)]
)
def test_kernels_that_describe_every_frame(release: str, expected: bool) -> None:
    found = _taps.has_vnet_header_for_all(release)
    assert found == expected or (release == "" and isinstance(found, bool))


# Whole captures


def options(pair: Pair, **more: Any) -> dict[str, Any]:
    taps = [{"id": spot.id, "netns": spot.netns, "interface": spot.interface} for spot in pair.spots()]
    return {"taps": taps, "match": {"protocol": "udp", "ports": [9]}, **more}


def captured(pair: Pair, path: str | None = None, send: Any = None, **more: Any) -> dict[str, Any]:
    """A capture during which something is sent."""
    capture = _capture.Live(_capture.Settings.parse(options(pair, **more)), "captured", path)
    capture.open()
    thread = threading.Thread(target=send or pair.send)
    thread.start()
    try:
        capture.run(lambda: not thread.is_alive())
        return capture.finish()
    finally:
        thread.join()
        capture.close()


def test_a_capture_counts_what_it_saw_and_says_why_it_ended(pair: Pair) -> None:
    report = captured(pair, send=lambda: pair.send(7), seconds=5)
    assert report["ended"] == "asked"
    assert [(tap["frames"], tap["bytes"], tap["dropped"]) for tap in report["taps"]] == [(7, 994, 0)] * 2
    assert report["counts"]["frames"] == 14
    assert report["missing"] == []
    assert set(report) == set(_capture.new_report(""))


def test_a_capture_ends_when_its_time_is_up(pair: Pair) -> None:
    started = time.monotonic()
    report = captured(pair, send=lambda: time.sleep(1), seconds=0.2)
    assert report["ended"] == "time"
    assert 0.2 <= report["finished"] - report["started"] < 0.9
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(("limit", "ended"), [({"packets": 3}, "packets"), ({"bytes": 1024}, "bytes")])
@pytest.mark.parametrize("to_file", [False, True])
def test_a_capture_ends_at_its_limits(
    pair: Pair, tmp_path: Path, limit: dict[str, int], ended: str, to_file: bool
) -> None:
    path = str(tmp_path / "x.pcapng") if to_file else None
    report = captured(pair, path, send=lambda: (pair.send(20), time.sleep(0.5)), seconds=5, **limit)
    assert report["ended"] == ended
    if path:
        assert os.path.getsize(path) <= limit.get("bytes", 1 << 20)
    if "packets" in limit:
        assert report["counts"]["frames"] == 3
    else:
        assert report["counts"]["frames"] * 142 <= 1024 + 142


def test_a_file_holds_the_frames_with_the_names_of_their_taps(pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    path.write_bytes(b"something longer that was there before" * 1000)
    path.chmod(0o644)
    report = captured(pair, str(path), send=lambda: pair.send(4), seconds=5, snaplen=64)
    assert report["file"] == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with _pcap.open_capture(str(path)) as capture:
        read = [(record[0].name, record[2], len(record[3]), record[4]) for record in capture]
        assert not capture.malformed
    assert sorted(read) == [("left", 142, 64, True)] * 4 + [("right", 142, 64, False)] * 4
    assert [(tap["frames"], tap["truncated"]) for tap in report["taps"]] == [(4, 4)] * 2
    assert report["counts"]["frames"] == 8


def test_a_file_that_cannot_be_written_is_named_and_the_capture_goes_on(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for path in (tmp_path, tmp_path / "link", Path("/dev/null"), tmp_path / "no" / "folder"):
        report = captured(pair, str(path), send=lambda: pair.send(2), seconds=5)
        assert report["file"] is None
        assert [(row["section"], row["what"]) for row in report["missing"]] == [("file", str(path))]
        assert report["counts"]["frames"] == 4
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("comes_back", [True, False])
def test_an_interface_that_goes_down_is_named_and_read_on(pair: Pair, comes_back: bool) -> None:
    pair.left.ip("link", "add", "passing", "type", "veth", "peer", "name", "passing2")
    pair.left.ip("link", "set", "passing2", "up")
    pair.left.ip("link", "set", "passing", "up")
    asked = options(pair, seconds=5)
    asked["match"] = {"protocol": "udp"}
    asked["taps"].append({"id": "passing", "netns": pair.left.path, "interface": "passing"})
    capture = _capture.Live(_capture.Settings.parse(asked), "captured")
    capture.open()
    if comes_back:
        pair.left.ip("link", "set", "passing", "down")
        pair.left.ip("link", "set", "passing", "up")
        with _netns.inside(pair.left.path), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
            sender.bind(("passing", 0))
            sender.send(UDP_FRAME)
        pair.left.ip("link", "del", "passing2")
    else:
        pair.left.ip("link", "del", "passing")
    pair.send(2)
    polls = iter(range(4))
    capture.run(lambda: next(polls, None) is None)
    report = capture.finish()
    capture.close()
    assert [row["what"] for row in report["missing"]] == ["passing"]
    assert "went down" in report["missing"][0]["why"]
    assert [tap["frames"] for tap in report["taps"]] == [2, 2, int(comes_back)]


def test_without_any_tap_a_capture_ends_at_once() -> None:
    capture = _capture.Live(_capture.Settings.parse({"taps": [{"interface": "nothing0"}], "seconds": 30}), "captured")
    capture.open()
    started = time.monotonic()
    capture.run(lambda: False)
    report = capture.finish()
    assert time.monotonic() - started < 1
    assert (report["ended"], report["taps"]) == (None, [])
    assert [row["what"] for row in report["missing"]] == ["host:nothing0"]


class Readable:
    """A source beside the taps."""

    def __init__(self, fails: bool = False) -> None:
        self.read, self.write = os.pipe()
        self.drained = 0
        self.stopped = self.closed = False
        self.fails = fails

    def fileno(self) -> int:
        return self.read

    def drain(self) -> None:
        if self.fails:
            raise OSError("no more")
        self.drained += len(os.read(self.read, 100))

    def stop(self) -> None:
        self.stopped = True

    def result(self, near: Iterable[float] = ()) -> dict[str, Any]:
        assert self.stopped
        return {"available": True, "why": None, "events": [self.drained]}

    def close(self) -> None:
        self.closed = True
        os.close(self.read)
        os.close(self.write)


def test_other_sources_are_read_along(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    source, bad = Readable(), Readable(fails=True)
    monkeypatch.setitem(_capture._OPEN_SOURCE, "reasons", lambda _settings: source)
    monkeypatch.setitem(_capture._OPEN_SOURCE, "nftrace", lambda _settings: bad)
    report = captured(
        pair,
        send=lambda: (os.write(source.write, b"abc"), os.write(bad.write, b"x"), pair.send(2), time.sleep(0.2)),
        seconds=5,
        reasons=True,
        nftrace=True,
    )
    assert report["reasons"]["events"] == [3]
    assert [(row["section"], row["why"]) for row in report["missing"]] == [("nftrace", "reading ended: no more")]
    assert report["counts"]["frames"] == 4
    assert source.closed
    assert bad.closed


def test_a_source_that_cannot_be_opened_leaves_the_rest(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_settings: _capture.Settings) -> Any:
        raise OSError(1, "not allowed")

    monkeypatch.setitem(_capture._OPEN_SOURCE, "reasons", refuse)
    report = captured(pair, send=lambda: pair.send(2), seconds=5, reasons=True)
    assert (report["reasons"]["available"], report["reasons"]["why"]) == (False, "not allowed")
    assert report["reasons"]["events"] == []
    assert report["counts"]["frames"] == 4


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"seconds": 61}, "seconds"),
        ({"seconds": 0}, "seconds"),
        ({"packets": 0}, "packets"),
        ({"snaplen": 10}, "snaplen"),
        ({"ring_bytes": 1}, "ring_bytes"),
        ({"taps": [{"id": "x"}]}, "interface or ifindex"),
        ({"taps": [{"id": "x", "interface": "a"}, {"id": "x", "interface": "b"}]}, "same id"),
        ({"taps": [{"interface": f"v{number}"} for number in range(257)]}, "at most 256"),
        ({"mark": "m", "match": {"protocol": "tcp"}}, "filter=all"),
        ({"match": {"protocol": "smtp"}}, "smtp"),
        ({"macs": ["02:42:0a:00:01:0g"]}, "not a MAC address"),
        ({"peers": ["web"], "mark": "m"}, "web"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        _capture.Settings.parse(given)


def test_a_file_is_read_instead_of_taps(pair: Pair, tmp_path: Path) -> None:
    path = str(tmp_path / "x.pcapng")
    live = captured(pair, path, send=lambda: pair.send(6), seconds=5)
    report = _capture.offline(_capture.Settings.parse({}), path)
    assert report["ended"] == "end of file"
    assert [(tap["id"], tap["frames"], tap["dropped"]) for tap in report["taps"]] == [
        ("left", None, None),
        ("right", None, None),
    ]
    assert report["counts"] == live["counts"]
    cut = _capture.offline(_capture.Settings.parse({"packets": 5}), path)
    assert (cut["ended"], cut["counts"]["frames"]) == ("packets", 5)


def test_a_file_that_is_no_capture_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"hello")
    for path in (tmp_path / "x", tmp_path / "absent", tmp_path):
        report = _capture.offline(_capture.Settings.parse({}), str(path))
        assert report["ended"] is None
        assert [row["what"] for row in report["missing"]] == [str(path)]
        assert set(report) == set(_capture.new_report(""))


def test_a_full_backlog_is_worked_off_first(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_capture, "BACKLOG", 0)
    report = captured(pair, send=lambda: pair.send(300), seconds=5)
    assert [(tap["frames"], tap["dropped"]) for tap in report["taps"]] == [(300, 0)] * 2
    assert report["counts"]["frames"] == 600


def test_what_memory_has_no_room_for_waits_on_disk(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spilled: list[str] = []
    spill = _capture.Backlog.spill
    monkeypatch.setattr(_capture, "BACKLOG", 60_000)
    monkeypatch.setattr(_capture.Backlog, "spill", lambda self, folder: (spilled.append(folder), spill(self, folder)))
    path = tmp_path / "x.pcapng"
    report = captured(pair, str(path), send=lambda: pair.send(2000), seconds=5)
    assert set(spilled) == {str(tmp_path)}
    assert os.listdir(tmp_path) == ["x.pcapng"]
    assert [(tap["frames"], tap["dropped"]) for tap in report["taps"]] == [(2000, 0)] * 2
    numbers: dict[str | None, list[int]] = {"left": [], "right": []}
    with _pcap.open_capture(str(path)) as capture:
        for interface, _when, _wire, data, *_rest in capture:
            numbers[interface.name].append(int.from_bytes(data[42:46], "big"))
    assert numbers == {"left": list(range(2000)), "right": list(range(2000))}


@pytest.mark.parametrize(("limit", "ended"), [({"packets": 500}, "packets"), ({"bytes": 50_000}, "bytes")])
def test_what_waits_counts_for_the_limits(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: dict[str, int], ended: str
) -> None:
    started = time.monotonic()
    path = tmp_path / "x.pcapng"
    report = captured(pair, str(path), send=lambda: (pair.send(2000), time.sleep(1)), seconds=5, **limit)
    assert report["ended"] == ended
    assert report["finished"] - report["started"] < 0.9, time.monotonic() - started
    with _pcap.open_capture(str(path)) as capture:
        count = len(list(capture))
    assert count == report["counts"]["frames"]
    assert count == 500 if ended == "packets" else 49_000 < path.stat().st_size <= 50_000


def test_a_defect_of_ours_is_said_and_costs_not_more_than_it_must(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_frame: Any) -> None:
        raise KeyError("left")

    monkeypatch.setattr(_analysis.Analysis, "feeder", lambda *_tap: broken)
    for path in (None, str(tmp_path / "x")):
        report = captured(pair, path, send=lambda: pair.send(2), seconds=5)
        assert report["missing"]
        assert all("internal error: KeyError" in row["why"] for row in report["missing"])
        assert [tap["dropped"] for tap in report["taps"]] == [0, 0]
        assert report["file"] == path


def test_what_went_through_a_file_is_seen_alike(pair: Pair, tmp_path: Path) -> None:
    asked = options(pair, mark="m", filter="probes", match=None, snaplen=100, seconds=5)
    captures = [_capture.Live(_capture.Settings.parse(asked), "captured", path) for path in (None, str(tmp_path / "x"))]
    for capture in captures:
        capture.open()
    pair.sender.setsockopt(socket.SOL_UDP, 103, 100)  # UDP_SEGMENT
    pair.sender.sendto(_probe_base.payload("m", "p", 1) + bytes(300), (RIGHT, 9))
    pair.sender.setsockopt(socket.SOL_UDP, 103, 0)
    pair.left.run("ethtool", "-K", "va", "tx", "off")
    pair.sender.sendto(_probe_base.payload("m", "p", 2), (RIGHT, 9))
    pair.left.run("ethtool", "-K", "va", "tx", "on")
    reports = []
    for capture in captures:
        polls = iter(range(3))
        capture.run(lambda polls=polls: next(polls, None) is None)  # type: ignore[misc]
        reports.append(capture.finish())
        capture.close()
    inline, read_back = (
        {
            section: sorted(str({key: row[key] for key in row if key not in ("time", "first", "last")}) for row in rows)
            for section, rows in report.items()
            if isinstance(rows, list)
        }
        for report in reports
    )
    assert inline == read_back
    assert reports[0]["counts"] == reports[1]["counts"]
    assert {row["checksum"] for row in reports[1]["sightings"]} == {"ok", "unknown"}
    assert [row["seq"] for row in reports[0]["sightings"] if row["tap"] == "left" and row["kind"] == "udp"] == [1, 2]

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Capture files: what the readers make of good ones, and that bad ones cost neither a traceback nor memory nor time."""

from __future__ import annotations

import io
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _analysis, _pcap, _pcapng

from . import frames as f

T = 1_700_000_000 * 10**9 + 123_456_789
FRAME = f.vxlan(f.inner_echo())


def read(data: bytes, limit: int | None = None) -> tuple[list[Any], _pcap.Capture]:
    capture = _pcap.open_capture(io.BytesIO(data), limit)
    return list(capture), capture


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nano", [False, True])
def test_pcap_in_both_byte_orders_and_both_resolutions(order: str, nano: bool) -> None:
    found, capture = read(f.pcap([(T, FRAME), (T + 10**9, FRAME[:60], len(FRAME))], order=order, nano=nano, link=276))
    first = T if nano else T // 1000 * 1000
    assert [record[1:4] for record in found] == [
        (first, len(FRAME), FRAME),
        (first + 10**9, len(FRAME), FRAME[:60]),
    ]
    assert capture.interfaces[0].link_type == 276
    assert not capture.malformed


def test_pcap_with_kuznetsov_s_packet_types_tells_the_direction() -> None:
    data = struct.pack("<IHHiIII", 0xA1B2CD34, 2, 4, 0, 0, 65535, 1)
    for kind in (0, 4):
        data += struct.pack("<IIIIIHBB", 5, 7, len(FRAME), len(FRAME), 3, 0x0800, kind, 0) + FRAME
    found, _capture = read(data)
    assert [(record[1], record[3] == FRAME, record[4]) for record in found] == [
        (5 * 10**9 + 7000, True, False),
        (5 * 10**9 + 7000, True, True),
    ]


def test_the_length_of_the_check_sequence_in_the_link_type_is_not_part_of_it() -> None:
    _found, capture = read(f.pcap([], link=1 | 0x24000000))
    assert capture.interfaces[0].link_type == 1


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"\xd4\xc3", "neither"),
        (b"\0" * 64, "neither"),
        (b"45614,1,2,3", "neither"),
        (b"\x1f\x8b\x08\0" + bytes(60), "gzip"),
        (f.pcap([])[:20], "header"),
        (f.pcap([])[:4] + b"\x02\0\x63\0" + f.pcap([])[8:], "version 2.99"),
        (f.section()[:11], "header"),
        (f.section(version=(9, 0)), "version 9.0"),
        (f.section()[:8] + b"\1\2\3\4" + f.section()[12:], "byte order"),
        (f.section()[:4] + b"\x08\0\0\0" + f.section()[8:], "impossible length"),
    ],
)
def test_what_is_no_capture_says_why(data: bytes, why: str) -> None:
    with pytest.raises(_pcap.CaptureError, match=why):
        read(data)


@pytest.mark.parametrize(
    ("tail", "frames", "reason"),
    [
        (b"\1\2\3", 1, "cut off"),
        (struct.pack("<IIII", 1, 1, 60, 60) + bytes(59), 1, "cut off"),
        (struct.pack("<IIII", 1, 1, 0xFFFFFFFF, 60) + bytes(59), 1, "longer than any capture"),
        (struct.pack("<IIII", 1, 1, 262145, 262145) + bytes(262145), 1, "longer than any capture"),
        (struct.pack("<IIII", 1, 1, 60, 59) + bytes(60), 2, "record longer than the packet"),
        (struct.pack("<IIII", 1, 1, 60, 0x7FFFFFFF) + bytes(60), 2, "packet longer than any"),
        (struct.pack("<IIII", 1, 1_000_000, 60, 60) + bytes(60), 2, "fraction of a second"),
    ],
)
def test_a_broken_record_is_counted_and_what_came_before_stays(tail: bytes, frames: int, reason: str) -> None:
    data = f.pcap([(T, FRAME)]) + tail
    found, capture = read(data)
    assert len(found) == frames
    assert [count for name, count in capture.malformed.items() if reason in name] == [1], capture.malformed
    # The short way through the same file counts the same.
    again = _pcap.open_capture(io.BytesIO(data))
    analysis = _analysis.Analysis()
    assert _analysis.analyse(again, analysis)[0] == frames
    assert again.malformed == capture.malformed


@pytest.mark.parametrize(
    ("fraction", "size", "wire", "reason"),
    [
        (1_000_000, len(FRAME), len(FRAME), "fraction of a second above one"),
        (1, len(FRAME) + 5, len(FRAME), "record longer than the packet"),
        (1, len(FRAME), len(FRAME) - 1, "record longer than the packet"),
    ],
)
def test_a_broken_record_of_a_known_flow_is_counted_too(fraction: int, size: int, wire: int, reason: str) -> None:
    record = struct.pack("<IIII", 1_700_000_000, fraction, size, wire) + FRAME.ljust(size, b"\0")
    data = f.pcap([(T, FRAME)] * 3) + record + f.pcap([(T, FRAME)] * 3)[24:]
    results = []
    for quick in (True, False):
        capture = _pcap.open_capture(io.BytesIO(data))
        analysis = _analysis.Analysis(quick=quick)
        assert _analysis.analyse(capture, analysis) == (7, "end of file")
        assert capture.malformed == {reason: 1}
        results.append(analysis.result())
    assert results[0] == results[1]


def test_a_limit_in_bytes_ends_reading_and_is_no_fault_of_the_file() -> None:
    data = f.pcap([(T, FRAME)] * 10)
    found, capture = read(data, limit=24 + 3 * (16 + len(FRAME)) + 5)
    assert len(found) == 3
    assert capture.limited
    assert not capture.malformed


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_sections_interfaces_resolutions_and_directions(order: str) -> None:
    def flags(value: int) -> bytes:
        return f.option(2, struct.pack(order + "I", value), order)

    other = ">" if order == "<" else "<"
    data = f.section(order)
    data += f.interface(order, options=f.option(2, b"eth0", order) + f.option(0, b"", order))
    data += f.interface(
        order, 113, options=f.option(9, b"\x09", order) + f.option(14, struct.pack(order + "q", -2), order)
    )
    data += f.interface(order, 101, options=f.option(9, b"\x8a", order))  # 2^-10 s
    data += f.enhanced(FRAME, order, 0, 5_000_001, flags(1))
    data += f.enhanced(FRAME, order, 1, 5 * 10**9 + 1, flags(2 | 1 << 9 | 1 << 11))
    data += f.enhanced(FRAME, order, 2, 1536, flags(1 | 1 << 10), wire=2000)
    data += (
        f.section(other)
        + f.interface(other, 1)
        + f.enhanced(FRAME, other, 0, 3, f.option(1, b"\1\0\0\0", other) + bytes(4))
    )
    found, capture = read(data)
    assert not capture.malformed
    assert [(record[0].index, *record[1:3], *record[4:]) for record in found] == [
        (0, 5_000_001_000, len(FRAME), False, None, False),
        (1, 3 * 10**9 + 1, len(FRAME), True, False, True),
        (2, 1_500_000_000, 2000, False, True, False),
        (3, 3000, len(FRAME), None, None, False),
    ]
    assert all(record[3] == FRAME for record in found)
    assert [one.link_type for one in capture.interfaces] == [1, 113, 101, 1]
    assert capture.interfaces[0].name == "eth0"


def test_pcapng_simple_and_obsolete_packets_and_blocks_nobody_knows() -> None:
    data = f.section() + f.interface(snaplen=50) + f.block(3, struct.pack("<I", 200) + FRAME[:50])
    data += f.block(0xBAD, bytes(32)) + f.block(5, bytes(20)) + f.block(4, b"")
    data += f.block(2, struct.pack("<HHIIII", 0, 3, 0, 7, 44, 44) + FRAME[:44])
    found, capture = read(data)
    assert [record[1:4] for record in found] == [(0, 200, FRAME[:50]), (7000, 44, FRAME[:44])]
    assert not capture.malformed


GOOD = f.section() + f.interface()


@pytest.mark.parametrize(
    ("tail", "frames", "reason"),
    [
        (f.block(6, bytes(20), length=4), 0, "impossible length"),
        (f.block(6, bytes(20), length=33), 0, "impossible length"),
        (f.block(6, bytes(20), length=1 << 31), 0, "longer than any packet"),
        (f.block(0x77, bytes(20), length=1 << 31), 0, "cut off"),
        (f.enhanced(FRAME)[:-6], 0, "cut off"),
        (f.enhanced(FRAME)[:7], 0, "cut off"),
        (f.block(6, bytes(8)) + f.enhanced(FRAME), 1, "without room"),
        (f.enhanced(FRAME, number=3) + f.enhanced(FRAME), 1, "nobody described"),
        (f.block(6, struct.pack("<IIIII", 0, 0, 0, 999, 999)) + f.enhanced(FRAME), 1, "longer than its block"),
        (f.enhanced(FRAME)[:-4] + bytes(4) + f.enhanced(FRAME), 2, "two lengths differ"),
        (f.enhanced(FRAME, options=struct.pack("<HH", 2, 400)), 1, "option longer"),
        (f.enhanced(FRAME, options=f.option(1, b"") * 400), 1, "too many options"),
        (f.enhanced(FRAME, wire=1), 1, "record longer than the packet"),
        (f.block(1, b"\1\0") + f.enhanced(FRAME, number=1), 1, "without a description"),
        (f.section(version=(7, 0)), 0, "version 7.0"),
    ],
)
def test_a_broken_block_is_counted_and_the_next_one_read_if_it_can_be_found(
    tail: bytes, frames: int, reason: str
) -> None:
    found, capture = read(GOOD + tail)
    assert len(found) == frames
    assert any(reason in name for name in capture.malformed), capture.malformed


def test_interfaces_without_end_are_not_remembered_without_end() -> None:
    _found, capture = read(f.section() + f.interface() * (_pcapng.MAX_INTERFACES + 5))
    assert len(capture.interfaces) == _pcapng.MAX_INTERFACES
    assert capture.malformed == {"too many interfaces": 1}


class Endless:
    """A file that goes on with the same bytes."""

    def __init__(self, head: bytes, body: bytes, size: int) -> None:
        self.head, self.body, self.left = head, body * (65536 // len(body)), size

    def read(self, size: int) -> bytes:
        if self.head:
            found, self.head = self.head[:size], self.head[size:]
            return found
        size = min(size, self.left, len(self.body))
        self.left -= size
        return self.body[:size]

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("head", "body", "size"),
    [
        (GOOD, f.block(0x77, b""), 3 << 20),
        (GOOD, bytes(16), 3 << 20),
        (GOOD + f.block(0x77, b"", length=0xFFFFFFFC)[:8], bytes(16), 64 << 20),
        (f.pcap([]), bytes(16), 3 << 20),
        (f.pcap([]), f.pcap([(T, FRAME)])[24:], 16 << 20),
    ],
    ids=["empty blocks", "no blocks", "a block of 4 GiB", "empty records", "frames"],
)
def test_memory_does_not_grow_with_the_file(head: bytes, body: bytes, size: int) -> None:
    tracemalloc.start()
    try:
        capture = _pcap.open_capture(Endless(head, body, size))  # type: ignore[arg-type]
        for _record in capture:
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 << 19


def test_the_writer_s_file_reads_back_as_it_was() -> None:
    stream = io.BytesIO()
    writer = _pcapng.PcapngWriter(stream, [("eth0", 1, 256), ("vx-ü", 276, 0)])
    cases = [
        (0, T, 2000, FRAME, False, True, False),
        (1, T + 1, len(FRAME), memoryview(FRAME), True, False, True),
        (0, T + 2, 3, b"abc", None, None, False),
        (0, T + 3, 3, b"abc", True, True, False),
    ]
    for case in cases:
        assert writer.write(*case)  # type: ignore[arg-type]
    assert writer.written == len(stream.getvalue())
    found, capture = read(stream.getvalue())
    assert [(record[0].index, *record[1:]) for record in found] == [
        (number, when, wire, bytes(data), out, None if out and ready else ready, gso)
        for number, when, wire, data, out, ready, gso in cases
    ]
    assert [(one.name, one.link_type) for one in capture.interfaces] == [("eth0", 1), ("vx-ü", 276)]
    assert not capture.malformed


def test_the_writer_stops_at_its_limit_and_the_file_stays_whole() -> None:
    stream = io.BytesIO()
    writer = _pcapng.PcapngWriter(stream, [("eth0", 1, 0)], limit=500)
    written = sum(writer.write(0, T, len(FRAME), FRAME) for _number in range(10))
    assert 0 < written < 10
    assert writer.left_out == 10 - written
    assert len(stream.getvalue()) <= 500
    found, capture = read(stream.getvalue())
    assert len(found) == written
    assert not capture.malformed


STARTS = [
    GOOD + f.enhanced(FRAME, options=f.option(2, struct.pack("<I", 1))) + f.block(3, struct.pack("<I", 9) + bytes(12)),
    f.section(">") + f.interface(">") + f.enhanced(FRAME, ">"),
    f.pcap([(T, FRAME), (T, FRAME[:70], 900), (T, b"")]),
    f.pcap([(T, FRAME)], order=">", nano=True),
]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(STARTS), st.data())
def test_no_bytes_break_the_readers(start: bytes, data: st.DataObject) -> None:
    changed = bytearray(start)
    for _number in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(changed)))
    whole = bytes(changed[:cut]) + data.draw(st.binary(max_size=40))
    try:
        found, capture = read(whole)
    except _pcap.CaptureError:
        return
    assert all(len(record[3]) <= record[2] <= _pcap.MAX_WIRE for record in found)
    # However it is read, it is the same file.
    analysis = _analysis.Analysis()
    again = _pcap.open_capture(io.BytesIO(whole))
    assert _analysis.analyse(again, analysis) == (len(found), "end of file")
    assert again.malformed == capture.malformed
    assert analysis.result()["counts"]["frames"] == len(found)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_no_file_breaks_the_readers(data: bytes) -> None:
    for start in (b"", f.pcap([]), GOOD):
        try:
            read(start + data)
        except _pcap.CaptureError:
            assert not start

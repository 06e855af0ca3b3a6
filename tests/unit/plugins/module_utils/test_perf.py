# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _perf
from tests.unit.descriptors import nothing_left_open

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="reads a tracepoint of all processors: needs root")

# skb:kfree_skb as kernel 6.1 has it; the list of names is cut, and | stands for a tab.
FORMAT = """\
name: kfree_skb
ID: 1654
format:
|field:unsigned short common_type;|offset:0;|size:2;|signed:0;
|field:int common_pid;|offset:4;|size:4;|signed:1;

|field:void * skbaddr;|offset:8;|size:8;|signed:0;
|field:void * location;|offset:16;|size:8;|signed:0;
|field:unsigned short protocol;|offset:24;|size:2;|signed:0;
|field:enum skb_drop_reason reason;|offset:28;|size:4;|signed:0;
|field:char comm[16];|offset:32;|size:16;|signed:0;

print fmt: "reason: %s", __print_symbolic(REC->reason, { 1, "NOT_SPECIFIED" }, { 2, "NO_SOCKET" }, { 0x30001, "FOREIGN" })
""".replace("|", "\t")  # noqa: E501


def record(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHH", kind, 0, 8 + len(body)) + body


def sample(stamp: int, raw: bytes) -> bytes:
    return record(_perf.RECORD_SAMPLE, struct.pack("=QI", stamp, len(raw)) + raw)


def test_a_format_tells_number_fields_and_names() -> None:
    found = _perf.parse_format(FORMAT)
    assert found.id == 1654
    assert found.fields["location"] == (16, 8)
    assert found.fields["reason"] == (28, 4)
    assert found.fields["comm"] == (32, 16)
    assert found.symbols == {1: "NOT_SPECIFIED", 2: "NO_SOCKET", 0x30001: "FOREIGN"}


def test_a_text_that_is_no_format_is_refused() -> None:
    with pytest.raises(ValueError, match="no ID"):
        _perf.parse_format("name: kfree_skb\n")


@given(st.text())
def test_any_text_is_a_format_or_refused(text: str) -> None:
    for candidate in (text, "ID: 7\n" + text, FORMAT + text):
        try:
            found = _perf.parse_format(candidate)
        except ValueError:
            continue
        assert all(offset >= 0 and size >= 0 for offset, size in found.fields.values())


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.binary(max_size=60)), max_size=20), st.binary(max_size=12))
def test_written_samples_are_read_back_among_other_records(rows: list[tuple[int, bytes]], other: bytes) -> None:
    data = b"".join(record(2, other) + sample(stamp, raw) for stamp, raw in rows)
    assert [(stamp, data[start:end]) for stamp, start, end in _perf.samples(data)] == rows


@given(st.binary(max_size=400))
def test_any_bytes_are_read_within_their_bounds(data: bytes) -> None:
    for _stamp, start, end in _perf.samples(data):
        assert 0 <= start <= len(data)
        assert end <= len(data)


@given(st.lists(st.integers(0, 2**40), max_size=6), st.binary(max_size=40))
def test_lost_records_are_added_up(numbers: list[int], rest: bytes) -> None:
    data = b"".join(sample(7, b"x" * 8) + record(2, struct.pack("=QQ", 1, number)) for number in numbers)
    assert _perf.lost_in(data) == sum(numbers)
    assert _perf.lost_in(data + rest) >= 0


def test_a_record_cut_off_ends_the_reading() -> None:
    data = sample(1, b"a" * 40) + sample(2, b"b" * 40)
    assert [stamp for stamp, _start, _end in _perf.samples(data[:-1])] == [1]


@needs_root
def test_tracefs_is_read_and_nothing_is_mounted_or_changed() -> None:
    def state() -> dict[str, bytes]:
        root = _perf.open_tracefs()
        try:
            found = {"mounts": Path("/proc/self/mountinfo").read_bytes()}
            for name in ("tracing_on", "current_tracer", "set_event", "events/skb/kfree_skb/enable", "trace_options"):
                with open(os.open(name, os.O_RDONLY, dir_fd=root), "rb") as stream:
                    found[name] = stream.read()
            listing = os.open("instances", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root)
            found["instances"] = " ".join(sorted(os.listdir(listing))).encode()
            os.close(listing)
            return found
        finally:
            os.close(root)

    before = state()
    layout = _perf.parse_format(_perf.read_format("skb", "kfree_skb"))
    tracepoint = _perf.Tracepoint(layout.id)
    try:
        tracepoint.set_filter("protocol == 1 && location != 0xffffffff81234567")
        during = state()
    finally:
        tracepoint.close()
    assert before == during == state()


@needs_root
def test_descriptors_and_rings_are_given_back() -> None:
    layout = _perf.parse_format(_perf.read_format("skb", "kfree_skb"))
    before = Path("/proc/self/maps").read_text().count("perf_event")
    with nothing_left_open():
        for _round in range(3):
            tracepoint = _perf.Tracepoint(layout.id)
            assert Path("/proc/self/maps").read_text().count("perf_event") > before
            tracepoint.close()
    assert Path("/proc/self/maps").read_text().count("perf_event") == before


@needs_root
def test_what_is_missing_is_named() -> None:
    with pytest.raises(OSError, match="no tracepoint skb:nothing_like_it"):
        _perf.read_format("skb", "nothing_like_it")
    layout = _perf.parse_format(_perf.read_format("skb", "kfree_skb"))
    tracepoint = _perf.Tracepoint(layout.id)
    try:
        with pytest.raises(OSError, match="filter of the tracepoint"):
            tracepoint.set_filter("no_such_field == 1")
    finally:
        tracepoint.close()


@needs_root
def test_without_rights_the_reason_is_told() -> None:
    code = """
import os
from ansible_collections.crosshost.doctor.plugins.module_utils import _drop_reasons
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
try:
    _drop_reasons.DropReader()
except OSError as exc:
    print(exc.strerror)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert "not root" in out.stdout, out.stdout + out.stderr

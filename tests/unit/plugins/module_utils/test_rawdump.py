# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _rawdump
from tests.unit.plugins.module_utils.netlink_messages import attribute, message

DONE = message(_rawdump.NLMSG_DONE, struct.pack("=i", 0))


def walk(chunk: bytes) -> tuple[list[bytes], _rawdump.Progress]:
    progress = _rawdump.Progress()
    return [buffer[start:end] for buffer, start, end in _rawdump.walk(chunk, 1, progress)], progress


def test_messages_up_to_the_end_are_yielded() -> None:
    first, second = message(28, b"abcd"), message(28, b"efghi")
    found, progress = walk(first + second + DONE + first)
    assert [raw[16:] for raw in found] == [b"abcd", b"efghi"]
    assert progress.done
    assert not progress.interrupted


def test_messages_of_another_request_are_skipped() -> None:
    found, progress = walk(message(28, b"late", sequence=7) + DONE)
    assert found == []
    assert progress.done


@pytest.mark.parametrize("where", ["payload", "done"])
def test_an_interrupted_dump_is_noticed(where: str) -> None:
    flags = 2 | _rawdump.NLM_F_DUMP_INTR
    chunk = message(28, b"abcd", flags=flags) + DONE
    if where == "done":
        chunk = message(28, b"abcd") + message(_rawdump.NLMSG_DONE, struct.pack("=i", 0), flags=flags)
    assert walk(chunk)[1].interrupted


@pytest.mark.parametrize("kind", [_rawdump.NLMSG_ERROR, _rawdump.NLMSG_DONE])
def test_an_error_of_the_kernel_is_raised_also_when_it_comes_with_done(kind: int) -> None:
    with pytest.raises(OSError, match="Permission denied"):
        walk(message(28, b"abcd") + message(kind, struct.pack("=i", -13)))


@pytest.mark.parametrize("length", [0, 15, 4096])
def test_a_length_that_does_not_fit_is_an_error(length: int) -> None:
    with pytest.raises(OSError, match="malformed"):
        walk(struct.pack("=IHHII", length, 28, 2, 1, 0))


@given(st.binary(max_size=300))
def test_any_bytes_are_walked_or_refused(chunk: bytes) -> None:
    try:
        found, _progress = walk(chunk)
    except OSError:
        return
    assert sum(map(len, found)) <= len(chunk)


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)), max_size=10))
def test_attributes_come_back_as_they_went_in(pairs: list[tuple[int, bytes]]) -> None:
    raw = b"".join(attribute(kind, value) for kind, value in pairs)
    assert [(kind, raw[start:end]) for kind, start, end in _rawdump.attributes(raw, 0, len(raw))] == pairs


@given(st.binary(max_size=200))
def test_attributes_of_any_bytes_stay_inside(raw: bytes) -> None:
    for _kind, start, end in _rawdump.attributes(raw, 0, len(raw)):
        assert 4 <= start <= end <= len(raw)


def test_a_dump_is_repeated_while_the_table_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[int] = []

    def stream(protocol: int, kind: int, body: bytes, progress: _rawdump.Progress):  # type: ignore[no-untyped-def]
        attempts.append(1)
        progress.interrupted = len(attempts) < 3
        yield b"x", 0, 1

    monkeypatch.setattr(_rawdump, "_stream", stream)
    assert _rawdump.dump(30, b"", lambda messages: len(list(messages))) == (1, True)
    assert len(attempts) == 3


def test_a_table_that_never_rests_is_returned_and_said_to_be_inconsistent(monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(protocol: int, kind: int, body: bytes, progress: _rawdump.Progress):  # type: ignore[no-untyped-def]
        progress.interrupted = True
        yield b"x", 0, 1

    monkeypatch.setattr(_rawdump, "_stream", stream)
    assert _rawdump.dump(30, b"", lambda messages: len(list(messages))) == (1, False)


def test_a_request_the_kernel_does_not_know_is_an_error_at_once() -> None:
    with pytest.raises(OSError, match=r"not supported|Invalid argument"):
        _rawdump.dump(0x7FF0, bytes(16), list)

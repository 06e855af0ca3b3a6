# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HTTP responses in every cut, whole and broken."""

from __future__ import annotations

import http.client
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _http


def read(*pieces: bytes, eof: bool = False) -> _http.Response:
    response = _http.Response()
    for piece in pieces:
        response.feed(piece)
    if eof:
        response.eof()
    return response


def chunked(body: bytes, sizes: list[int], extension: bytes = b"") -> bytes:
    wire = b""
    for size in sizes:
        piece, body = body[:size], body[size:]
        if piece:
            wire += b"%x%s\r\n%s\r\n" % (len(piece), extension, piece)
    if body:
        wire += b"%X\r\n%s\r\n" % (len(body), body)
    return wire + b"0\r\n"


def cuts(data: st.DataObject, wire: bytes) -> list[bytes]:
    marks = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    return [wire[a:b] for a, b in zip([0, *marks], [*marks, len(wire)])]


class _Socket:
    """What http.client wants of a socket."""

    def __init__(self, wire: bytes) -> None:
        self.wire = wire

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self.wire)


@given(st.binary(max_size=300), st.data(), st.sampled_from([200, 204, 301, 304, 404, 500]), st.booleans())
def test_length_is_believed_in_any_cut(body, data, status, lf_only):
    end = b"\n" if lf_only else b"\r\n"
    wire = end.join([b"HTTP/1.1 %d Some Thing" % status, b"Server: x", b"content-length:%d" % len(body), b"", body])
    response = read(*cuts(data, wire))
    assert response.state == "done"
    assert response.status == status
    assert response.body == (0 if status in (204, 304) else len(body))


@given(st.binary(max_size=300), st.lists(st.integers(1, 60), max_size=8), st.data())
def test_chunks_are_counted_without_their_framing(body, sizes, data):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    wire = head + chunked(body, sizes, b";name=value") + b"Trailer: x\r\n\r\n"
    response = read(*cuts(data, wire))
    assert (response.state, response.status, response.body) == ("done", 200, len(body))
    theirs = http.client.HTTPResponse(_Socket(wire.replace(b"gzip, ", b"")))
    theirs.begin()
    assert len(theirs.read()) == response.body


@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_body_that_stops_is_not_done(body, data):
    wire = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    kept = data.draw(st.integers(0, len(wire) - 1))
    response = read(wire[:kept], eof=True)
    assert response.state != "done"
    assert response.body < len(body)


def test_a_body_without_length_ends_with_the_connection():
    response = read(b"HTTP/1.0 200 OK\r\n\r\nabc")
    assert response.state == "body"
    response.eof()
    assert (response.state, response.body) == ("done", 3)


def test_chunked_body_does_not_end_with_the_connection():
    assert read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", eof=True).state == "body"


def test_interim_responses_are_passed_over():
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n"
    response = read(interim + b"HTTP/1.1 200 OK\r\n", b"Content-Length: 2\r\n\r\nhi")
    assert (response.state, response.status, response.body) == ("done", 200, 2)


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 two\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 10000,
    ],
    ids=lambda wire: repr(wire[:40]),
)
def test_what_is_no_http_is_told(wire):
    response = read(wire)
    assert response.state == "bad"
    assert response.error


@given(st.lists(st.binary(max_size=100), max_size=8), st.booleans())
def test_no_bytes_break_the_reader(pieces, proper_start):
    start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" if proper_start else b""
    response = read(start, *pieces, eof=True)
    assert response.body <= sum(map(len, pieces))


def test_request_names_host_path_and_who_asks():
    lines = _http.request("db:8080", "/a?b=c", "crosshost.doctor/r1").decode().split("\r\n")
    assert lines[0] == "GET /a?b=c HTTP/1.1"
    assert "Host: db:8080" in lines
    assert "User-Agent: crosshost.doctor/r1" in lines
    assert "Connection: close" in lines
    assert lines[-2:] == ["", ""]


@pytest.mark.parametrize("path", ["/a b", "/\r\nX: y", "/ü"])
def test_nothing_can_be_smuggled_into_the_request(path):
    with pytest.raises(ValueError, match="cannot be put"):
        _http.request("db", path, "x")

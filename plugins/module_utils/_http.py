# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read an HTTP/1.x response as it arrives and tell whether the whole body came (RFC 9112 §6 and §7).

The body is counted and thrown away. What is judged is bytes: through a path that loses large packets the header
arrives, status 200 and all, and the body never does.
"""

from __future__ import annotations

MAX_HEADER = 65536
MAX_LINE = 8192
_NO_BODY = frozenset({204, 304})


class Response:
    """Feed it what the connection delivers; it says how far the response has come.

    C(state): C(header), C(body), C(done) or C(bad); C(status) the code of the final response; C(body) bytes of body
    received, without chunk framing; C(expected) bytes announced, None if they were not.
    """

    def __init__(self) -> None:
        self.state = "header"
        self.status: int | None = None
        self.body = 0
        self.expected: int | None = None
        self.received = 0
        self.error: str | None = None
        self._buffer = bytearray()
        self._chunked = False
        self._chunk = "size"  # size, data, end or trailer
        self._left = 0

    @property
    def finished(self) -> bool:
        return self.state in ("done", "bad")

    def feed(self, data: bytes) -> None:
        """Take the next bytes; those behind the end of the response are ignored."""
        self.received += len(data)
        if self.state == "body" and not self._chunked:
            self._plain(len(data))
            return
        self._buffer += data
        while not self.finished and self._step():
            pass

    def eof(self) -> None:
        """The peer closed: the end of a body without an announced length, and too early for any other."""
        if self.state == "body" and self.expected is None and not self._chunked:
            self.state = "done"

    def _step(self) -> bool:
        """Consume one piece of the buffer; False when more bytes are needed."""
        if self.state == "header":
            return self._header()
        if self._chunked:
            return self._chunk_step()
        self._plain(len(self._buffer))
        self._buffer.clear()
        return False

    def _plain(self, count: int) -> None:
        if self.expected is not None:
            count = min(count, self.expected - self.body)
        self.body += count
        if self.body == self.expected:
            self.state = "done"

    def _header(self) -> bool:
        end, width = _end_of_header(self._buffer)
        if end < 0:
            if not b"HTTP/".startswith(bytes(self._buffer[:5])):
                self._bad("no HTTP status line")
            elif len(self._buffer) > MAX_HEADER:
                self._bad(f"a header of more than {MAX_HEADER} bytes")
            return False
        lines = bytes(self._buffer[:end]).decode("latin-1").splitlines()
        del self._buffer[: end + width]
        self._status_line(lines[0] if lines else "")
        if self.state == "bad":
            return False
        if self.status is not None and 100 <= self.status < 200:
            self.status = None  # interim: the final one follows
            return True
        self._framing(lines[1:])
        return not self.finished

    def _status_line(self, line: str) -> None:
        version, _space, rest = line.partition(" ")
        code = rest.strip()[:3]
        if not version.startswith("HTTP/1.") or len(code) != 3 or not (code.isascii() and code.isdigit()):
            self._bad(f"no HTTP/1 status line: {line[:60]!r}")
            return
        self.status = int(code)

    def _framing(self, lines: list[str]) -> None:
        lengths: set[str] = set()
        for line in lines:
            key, _colon, value = line.partition(":")
            key, value = key.strip().lower(), value.strip()
            if key == "content-length":
                lengths.update(part.strip() for part in value.split(","))
            elif key == "transfer-encoding" and value.lower().split(",")[-1].strip() == "chunked":
                self._chunked = True
        self.state = "body"
        if self.status in _NO_BODY:
            self.expected = 0
        elif not self._chunked and lengths:
            text = lengths.pop()
            if lengths or not (text.isascii() and text.isdigit()) or len(text) > 18:
                self._bad("no usable Content-Length")
                return
            self.expected = int(text)
        if self.expected == 0:
            self.state = "done"

    def _chunk_step(self) -> bool:
        if self._chunk == "data":
            taken = min(self._left, len(self._buffer))
            del self._buffer[:taken]
            self.body += taken
            self._left -= taken
            if self._left == 0:
                self._chunk = "end"
            return taken > 0
        newline = self._buffer.find(b"\n")
        if newline < 0:
            if len(self._buffer) > MAX_LINE:
                self._bad("a chunk without an end of line")
            return False
        line = bytes(self._buffer[:newline]).strip()
        del self._buffer[: newline + 1]
        if self._chunk == "size":
            self._chunk_size(line)
        elif self._chunk == "end":
            if line:
                self._bad("a chunk longer than announced")
            self._chunk = "size"
        elif not line:  # an empty line ends the trailer
            self.state = "done"
        return not self.finished

    def _chunk_size(self, line: bytes) -> None:
        digits = line.split(b";")[0].strip()
        if not digits or len(digits) > 15 or digits.strip(b"0123456789abcdefABCDEF"):
            self._bad("no chunk size where one should be")
            return
        self._left = int(digits, 16)
        self._chunk = "data" if self._left else "trailer"

    def _bad(self, why: str) -> None:
        self.state, self.error = "bad", why


def _end_of_header(buffer: bytearray) -> tuple[int, int]:
    """(where the header ends, length of the empty line), (-1, 0) if it has not ended; bare LF is tolerated."""
    found = [(position, len(mark)) for mark in (b"\r\n\r\n", b"\n\n") if (position := buffer.find(mark)) >= 0]
    return min(found) if found else (-1, 0)


def request(host: str, path: str, agent: str) -> bytes:
    """A GET that asks the server to close afterwards.

    @raises ValueError: a host or path with white space, control characters or anything outside ASCII.
    """
    for word in (host, path, agent):
        if not word.isascii() or any(character <= " " or character == "\x7f" for character in word):
            raise ValueError(f"{word!r} cannot be put into an HTTP request")
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    ).encode("ascii")

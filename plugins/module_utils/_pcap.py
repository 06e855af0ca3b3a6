# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading capture files: classic pcap here, pcapng in C(_pcapng), both in one pass and in constant memory.

A capture comes from anywhere. Whatever is wrong with it is counted with its reason in C(malformed) and reading ends or
goes on behind it; nothing is believed that a length field says before it has been compared with what there is.
Sources: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import struct
import time
import typing as t
from collections import Counter
from collections.abc import Callable, Iterator

ETHERNET = 1
# No sniffer takes more of a packet (libpcap's MAXIMUM_SNAPLEN); a record that says so is no record.
MAX_SNAPLEN = 262144
# Longer on the wire than any packet of the kernel, BIG TCP included: the length is made up.
MAX_WIRE = 1 << 20
# What is read at a time stays in the processor's cache until it has been looked at, and is less than what the allocator
# gets from the kernel anew each time (mallopt(3), M_MMAP_THRESHOLD).
CHUNK = 120 << 10

_GLOBAL_HEADER = 24
# magic as read little endian -> (byte order, nanoseconds per unit, length of a record's header)
_MAGIC: dict[int, tuple[str, int, int]] = {
    0xA1B2C3D4: ("<", 1000, 16),
    0xD4C3B2A1: (">", 1000, 16),
    0xA1B23C4D: ("<", 1, 16),
    0x4D3CB2A1: (">", 1, 16),
    # Kuznetsov's: interface, protocol and packet type behind each record's header.
    0xA1B2CD34: ("<", 1000, 24),
    0x34CDB2A1: (">", 1000, 24),
}
_PCAPNG = b"\x0a\x0d\x0d\x0a"
_OTHER_FILES = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd", b"\x04\x22": "lz4", b"BZ": "bzip2", b"\xfd7": "xz"}
_PACKET_OUTGOING = 4


class CaptureError(ValueError):
    """Nothing of it can be read, and why."""


class Interface:
    """Where packets were captured, as far as the file says; C(link_type) is a LINKTYPE number."""

    def __init__(self, index: int, link_type: int, snaplen: int = 0) -> None:
        self.index, self.link_type, self.snaplen = index, link_type, snaplen
        self.name: str | None = None
        # Nanoseconds per unit of time as a fraction, and nanoseconds to add.
        self.unit = (1000, 1)
        self.offset = 0


# One captured packet: where; nanoseconds since 1970; its length on the wire, before it was cut to the data; the data;
# whether the host sent it (true) or received it; whether its checksums are final; whether it stands for several packets
# of the wire, as the kernel passes them to and from the card. None where the file does not say. A plain tuple: making
# anything else of it costs as much as all the rest of reading.
Record = tuple[Interface, int, int, bytes, t.Optional[bool], t.Optional[bool], bool]

# data, where the first record begins, how many at most -> where the first one left begins, how many there were.
Consume = Callable[[bytes, int, int], tuple[int, int]]


class Window:
    """A file's bytes in order, a chunk at a time: C(data[at:]) is what has been read and not been used."""

    def __init__(self, stream: t.BinaryIO, limit: int | None) -> None:
        self.stream, self.limit = stream, limit
        self.data = b""
        self.at = 0
        self.taken = 0
        self.limited = False

    def want(self, size: int) -> bool:
        """Make C(size) bytes available from C(at) on; false where the file ends before."""
        missing = size - (len(self.data) - self.at)
        if missing <= 0:
            return True
        parts = [self.data[self.at :]]
        while missing > 0:
            part = self._read(max(CHUNK, missing))
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        self.data, self.at = b"".join(parts), 0
        return missing <= 0

    def skip(self, size: int) -> bool:
        """Go C(size) bytes on without keeping them; false where the file ends before."""
        held = len(self.data) - self.at
        if size <= held:
            self.at += size
            return True
        size -= held
        self.data, self.at = b"", 0
        while size > 0:
            part = self._read(min(CHUNK, size))
            if not part:
                return False
            size -= len(part)
        return True

    def left(self) -> int:
        """How much has been read and not been used."""
        return len(self.data) - self.at

    def _read(self, size: int) -> bytes:
        if self.limit is not None:
            size = min(size, self.limit - self.taken)
            if size <= 0:
                self.limited = True
                return b""
        part = self.stream.read(size)
        self.taken += len(part)
        return part


class Capture:
    """A capture file. Iterate over it once for its C(Record)s; then C(malformed) is complete.

    Attributes: C(format) (C(pcap), C(pcapng)), C(interfaces), C(malformed) (reason to count), C(limited): the file has
    more than the limit in bytes.
    """

    format = "pcap"

    def __init__(self, stream: t.BinaryIO, limit: int | None = None) -> None:
        self.window = Window(stream, limit)
        self.interfaces: list[Interface] = []
        self.malformed: Counter[str] = Counter()

    @property
    def limited(self) -> bool:
        return self.window.limited

    def __iter__(self) -> Iterator[Record]:
        raise NotImplementedError

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.window.stream.close()


class Pcap(Capture):
    """Classic pcap: one interface, records one behind the other."""

    def __init__(self, stream: t.BinaryIO, limit: int | None, order: str, unit: int, record: int) -> None:
        super().__init__(stream, limit)
        self.order, self.unit, self.record = order, unit, record
        self._header = struct.Struct(order + ("IIII" if record == 16 else "IIII4xHBx")).unpack_from

    def start(self) -> None:
        """Read the file's header.

        @raises CaptureError: there is none, or it is of a version nobody knows.
        """
        if not self.window.want(_GLOBAL_HEADER):
            raise CaptureError("the file ends inside its header")
        _magic, major, minor, _zone, _sigfigs, snaplen, link = struct.unpack_from(
            self.order + "IHHiIII", self.window.data
        )
        # Before 2.3 a record had its two lengths the other way round; no such file is younger than 1998.
        if major != 2 or minor not in (3, 4):
            raise CaptureError(f"pcap version {major}.{minor} is not known")
        self.window.at = _GLOBAL_HEADER
        # The upper bits tell the length of a frame check sequence.
        self.interfaces.append(Interface(0, link & 0x03FFFFFF, snaplen))

    @property
    def plain(self) -> bool:
        """Whether records have nothing but two times and two lengths before their data."""
        return self.record == 16

    def __iter__(self) -> Iterator[Record]:
        window, interface, head, nano = self.window, self.interfaces[0], self.record, self.unit
        header, extended = self._header, not self.plain
        # A fraction of a second that is more than a second.
        over = 10**9 // nano
        out = None
        while True:
            data, at = window.data, window.at
            end = len(data)
            while at + head <= end:
                if extended:
                    seconds, fraction, size, wire, _protocol, kind = header(data, at)
                    out = kind == _PACKET_OUTGOING
                else:
                    seconds, fraction, size, wire = header(data, at)
                start = at + head
                stop = start + size
                if stop > end:
                    break
                at = stop
                if fraction >= over or not size <= wire <= MAX_WIRE:
                    wire = self.odd(fraction >= over, size, wire)
                yield interface, seconds * 1_000_000_000 + fraction * nano, wire, data[start:stop], out, None, False
            window.at = at
            if not self._more():
                return

    def consume(self, consumer: Consume, packets: int, until: float | None) -> tuple[int, str]:
        """Give all records to C(consumer) as they stand in the file, without making anything of them, at most
        C(packets) of them and until the clock C(time.monotonic) says C(until); how many there were, and C(end of file),
        C(packets) or C(time)."""
        window = self.window
        number = 0
        while True:
            window.at, taken = consumer(window.data, window.at, packets - number)
            number += taken
            if number >= packets:
                return number, "packets"
            if until is not None and time.monotonic() > until:
                return number, "time"
            if not self._more():
                return number, "end of file"

    def _more(self) -> bool:
        """See that the next record is there as a whole; false where there is none, the reason counted."""
        window, head = self.window, self.record
        if window.want(head):
            size = self._header(window.data, window.at)[2]
            if size > min(max(MAX_SNAPLEN, self.interfaces[0].snaplen), MAX_WIRE):
                # Nothing says where the next record is.
                self.malformed["record longer than any capture takes"] += 1
                return False
            if window.want(head + size):
                return True
        if window.left() and not window.limited:
            self.malformed["record cut off by the end of the file"] += 1
        return False

    def odd(self, time: bool, size: int, wire: int) -> int:
        """Count what is odd about a record; the length on the wire to go on with."""
        if time:
            self.malformed["fraction of a second above one"] += 1
        if wire < size:
            self.malformed["record longer than the packet"] += 1
            return size
        if wire > MAX_WIRE:
            self.malformed["packet longer than any"] += 1
            return MAX_WIRE
        return wire


def open_capture(source: str | t.BinaryIO, limit: int | None = None) -> Capture:
    """Begin to read a capture: a path or an open binary file; at most C(limit) bytes of it.

    @raises CaptureError: not a capture, or a kind that cannot be read; the text is for the user.
    @raises OSError: the file cannot be read.
    """
    stream: t.BinaryIO = open(source, "rb") if isinstance(source, str) else source  # noqa: SIM115 - Capture closes it
    try:
        return _start(stream, limit)
    except BaseException:
        if isinstance(source, str):
            stream.close()
        raise


def _start(stream: t.BinaryIO, limit: int | None) -> Capture:
    from ansible_collections.crosshost.doctor.plugins.module_utils import _pcapng

    first = stream.read(4)
    rest: t.BinaryIO = t.cast(t.BinaryIO, _Pushed(first, stream))
    if first == _PCAPNG:
        found = _pcapng.Pcapng(rest, limit)
        found.start()
        return found
    order, unit, record = _MAGIC.get(int.from_bytes(first, "little"), ("", 0, 0))
    if len(first) == 4 and order:
        classic = Pcap(rest, limit, order, unit, record)
        classic.start()
        return classic
    for magic, name in _OTHER_FILES.items():
        if first.startswith(magic):
            raise CaptureError(f"compressed with {name}: unpack it first")
    raise CaptureError("the file is empty" if not first else "neither pcap nor pcapng")


class _Pushed:
    """A stream with its first bytes put back."""

    def __init__(self, first: bytes, stream: t.BinaryIO) -> None:
        self.first, self.stream = first, stream

    def read(self, size: int) -> bytes:
        if self.first:
            head, self.first = self.first[:size], self.first[size:]
            return head
        return self.stream.read(size)

    def close(self) -> None:
        self.stream.close()

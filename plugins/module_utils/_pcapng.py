# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading and writing pcapng (draft-ietf-opsawg-pcapng): sections, interfaces, packets; other blocks are passed over.

Every block says twice how long it is. A block that contradicts itself or the file is counted and, where its end is
known, passed over; where it is not, reading ends there.
"""

from __future__ import annotations

import struct
import typing as t
from collections.abc import Iterator, Sequence

from ansible_collections.crosshost.doctor.plugins.module_utils._pcap import (
    MAX_SNAPLEN,
    MAX_WIRE,
    Capture,
    CaptureError,
    Interface,
    Record,
)

SECTION, INTERFACE, OBSOLETE_PACKET, SIMPLE_PACKET, ENHANCED_PACKET = 0x0A0D0D0A, 1, 2, 3, 6
# Larger than any packet with its options, and more than is ever kept of a block in memory.
MAX_BLOCK = MAX_WIRE + 65536
# Interfaces of all sections together; each is remembered.
MAX_INTERFACES = 4096
_MAX_OPTIONS = 256
# Who wrote the file: in ours, epb_flags say of every received packet whether its checksums are final.
_WRITER = b"crosshost.doctor"

_BYTE_ORDER = 0x1A2B3C4D
_OPT_END, _SHB_USERAPPL, _IF_NAME, _IF_TSRESOL, _IF_TSOFFSET, _EPB_FLAGS = 0, 4, 2, 9, 14, 2
_INBOUND, _OUTBOUND, _NOT_READY, _VALID, _SEGMENTED = 1, 2, 1 << 9, 1 << 10, 1 << 11


class Pcapng(Capture):
    """A pcapng file; C(interfaces) holds those of all sections, numbered through."""

    format = "pcapng"
    _order = "<"
    _ours = False
    # The interfaces of the section being read begin here in self.interfaces.
    _first = 0
    _ended = False

    def start(self) -> None:
        """Read the first section's header.

        @raises CaptureError: it is not one, or of a version nobody knows.
        """
        if not self.window.want(12):
            raise CaptureError("the file ends inside its header")
        reason = self._section()
        if reason:
            raise CaptureError(reason)

    def __iter__(self) -> Iterator[Record]:
        while not self._ended:
            yield from self._usual()
            yield from self._next()

    def _usual(self) -> Iterator[Record]:
        """The packets up to the next block that is anything but an enhanced packet block as most writers make them:
        nothing wrong, and no options but the flags. What it does not like it leaves to C(_next)."""
        window, interfaces, first = self.window, self.interfaces, self._first
        header = struct.Struct(self._order + "IIIIIII").unpack_from
        option = struct.Struct(self._order + "HHII").unpack_from
        trailer = struct.Struct(self._order + "I").unpack_from
        data, at, end, there = window.data, window.at, len(window.data), len(interfaces) - first
        states: dict[int | None, tuple[bool | None, bool | None, bool]] = {}
        flags: int | None
        while at + 32 <= end:
            kind, length, number, high, low, size, wire = header(data, at)
            stop, start = at + length, at + 28
            after = start + (size + 3 & ~3)
            if kind != ENHANCED_PACKET or stop > end or number >= there or not size <= wire <= MAX_WIRE:
                break
            if trailer(data, stop - 4)[0] != length:
                break
            if after + 4 == stop:
                flags = None
            elif after + 16 == stop:
                code, width, flags, rest = option(data, after)
                if code != _EPB_FLAGS or width != 4 or rest:
                    break
            else:
                break
            interface = interfaces[first + number]
            times, parts = interface.unit
            when = (high << 32) + low
            if times != parts:
                when = when * times // parts
            state = states.get(flags)
            if state is None:
                state = states[flags] = self._state(flags)
            # Before the packet is handed over: whoever takes it may stop there.
            at = window.at = stop
            yield (interface, when + interface.offset, wire, data[start : start + size], *state)

    def _next(self) -> Iterator[Record]:
        """The next block, whatever it is."""
        window, malformed = self.window, self.malformed
        if not window.want(12):
            self._ended = True
            if window.left() and not window.limited:
                malformed["block cut off by the end of the file"] += 1
            return
        if window.data[window.at : window.at + 4] == b"\n\r\r\n":
            reason = self._section()
            if reason:
                malformed[reason] += 1
                self._ended = True
            return
        kind, length = struct.unpack_from(self._order + "II", window.data, window.at)
        if length < 12 or length % 4:
            malformed["block with an impossible length"] += 1
            self._ended = True
            return
        if kind in (ENHANCED_PACKET, OBSOLETE_PACKET, SIMPLE_PACKET, INTERFACE) and length <= MAX_BLOCK:
            yield from self._block(kind, length)
        else:
            if kind in (ENHANCED_PACKET, OBSOLETE_PACKET, SIMPLE_PACKET, INTERFACE):
                malformed["block longer than any packet"] += 1
            self._pass_over(length)

    def _block(self, kind: int, length: int) -> Iterator[Record]:
        window = self.window
        if not window.want(length):
            if not window.limited:
                self.malformed["block cut off by the end of the file"] += 1
            self._ended = True
            return
        start, end = window.at, window.at + length - 4
        if struct.unpack_from(self._order + "I", window.data, end)[0] != length:
            self.malformed["block whose two lengths differ"] += 1
        window.at = end + 4
        if kind == INTERFACE:
            self._interface(window.data, start + 8, end)
            return
        record = (
            self._simple(window.data, start + 8, end)
            if kind == SIMPLE_PACKET
            else self._packet(kind, window.data, start + 8, end)
        )
        if record:
            yield record

    def _pass_over(self, length: int) -> None:
        if not self.window.skip(length):
            self._ended = True
            if not self.window.limited:
                self.malformed["block cut off by the end of the file"] += 1

    def _section(self) -> str | None:
        """Begin the section at the window's place; the reason why it cannot be."""
        window = self.window
        mark = window.data[window.at + 8 : window.at + 12]
        if mark not in (b"\x4d\x3c\x2b\x1a", b"\x1a\x2b\x3c\x4d"):
            return "section without a byte order"
        order = "<" if mark[0] == 0x4D else ">"
        length = struct.unpack_from(order + "I", window.data, window.at + 4)[0]
        if length < 28 or length % 4 or length > MAX_BLOCK:
            return "section with an impossible length"
        if not window.want(length):
            return "block cut off by the end of the file"
        major, minor = struct.unpack_from(order + "HH", window.data, window.at + 12)
        # 1.2 is what some writers put for 1.0.
        if major != 1 or minor not in (0, 2):
            return f"pcapng version {major}.{minor} is not known"
        self._order, self._first, self._ours = order, len(self.interfaces), False
        for code, value in self._options(window.data, window.at + 24, window.at + length - 4):
            if code == _SHB_USERAPPL:
                self._ours = value == _WRITER
        window.at += length
        return None

    def _interface(self, data: bytes, at: int, end: int) -> None:
        if at + 8 > end:
            self.malformed["interface without a description"] += 1
        if len(self.interfaces) >= MAX_INTERFACES:
            self.malformed["too many interfaces"] += 1
            self._ended = True
            return
        # A broken description still counts: packets name interfaces by their number.
        link, snaplen = struct.unpack_from(self._order + "HxxI", data, at) if at + 8 <= end else (0xFFFF, 0)
        found = Interface(len(self.interfaces), link, snaplen)
        for code, value in self._options(data, at + 8, end):
            if code == _IF_NAME:
                found.name = value.rstrip(b"\0").decode("utf-8", "replace")[:64]
            elif code == _IF_TSRESOL and value:
                power = value[0] & 0x7F
                # Nanoseconds per unit: 10^9 / 10^power or 10^9 / 2^power.
                found.unit = (10**9, 2**power if value[0] & 0x80 else 10**power)
            elif code == _IF_TSOFFSET and len(value) >= 8:
                found.offset = struct.unpack(self._order + "q", value[:8])[0] * 10**9
        if found.unit == (10**9, 10**9):
            found.unit = (1, 1)
        self.interfaces.append(found)

    def _packet(self, kind: int, data: bytes, at: int, end: int) -> Record | None:
        """An enhanced packet block, or its obsolete ancestor: the same but for a 16-bit interface and a drop count."""
        if at + 20 > end:
            self.malformed["packet block without room for its fields"] += 1
            return None
        number, high, low, size, wire = struct.unpack_from(self._order + "IIIII", data, at)
        if kind == OBSOLETE_PACKET:
            number = struct.unpack_from(self._order + "H", data, at)[0]
        at += 20
        index = self._first + number
        if index >= len(self.interfaces):
            self.malformed["packet of an interface nobody described"] += 1
            return None
        if size > end - at:
            self.malformed["packet longer than its block"] += 1
            return None
        flags = None
        after = at + (size + 3 & ~3)
        if after + 4 <= end:
            for code, value in self._options(data, after, end):
                if code == _EPB_FLAGS and len(value) == 4:
                    flags = struct.unpack(self._order + "I", value)[0]
        return self._record(self.interfaces[index], (high << 32) + low, size, wire, data[at : at + size], flags)

    def _simple(self, data: bytes, at: int, end: int) -> Record | None:
        """A simple packet block: interface 0, no time, and the data fills the block or the snapshot length."""
        if at + 4 > end:
            self.malformed["packet block without room for its fields"] += 1
            return None
        if self._first >= len(self.interfaces):
            self.malformed["packet of an interface nobody described"] += 1
            return None
        wire = struct.unpack_from(self._order + "I", data, at)[0]
        interface = self.interfaces[self._first]
        size = min(wire, end - at - 4, interface.snaplen or MAX_SNAPLEN)
        if size < min(wire, interface.snaplen or wire):
            self.malformed["packet longer than its block"] += 1
        return interface, 0, min(wire, MAX_WIRE), data[at + 4 : at + 4 + size], None, None, False

    def _record(self, interface: Interface, time: int, size: int, wire: int, data: bytes, flags: int | None) -> Record:
        if wire < size:
            self.malformed["record longer than the packet"] += 1
            wire = size
        elif wire > MAX_WIRE:
            self.malformed["packet longer than any"] += 1
            wire = MAX_WIRE
        times, parts = interface.unit
        when = time * times // parts + interface.offset
        return (interface, when, wire, data, *self._state(flags))

    def _state(self, flags: int | None) -> tuple[bool | None, bool | None, bool]:
        """What epb_flags say: sent or received, whether the checksums are final, whether it is a super-frame."""
        if flags is None:
            return None, None, False
        ready: bool | None = None
        if flags & _NOT_READY:
            ready = False
        elif flags & _VALID or (self._ours and flags & 3 == _INBOUND):
            ready = True
        return {_INBOUND: False, _OUTBOUND: True}.get(flags & 3), ready, bool(flags & _SEGMENTED)

    def _options(self, data: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The options from C(at) on; those that lie about their length end the list and are counted."""
        form = struct.Struct(self._order + "HH")
        for _number in range(_MAX_OPTIONS):
            if at + 4 > end:
                return
            code, length = form.unpack_from(data, at)
            if code == _OPT_END:
                return
            if at + 4 + length > end:
                self.malformed["option longer than its block"] += 1
                return
            yield code, data[at + 4 : at + 4 + length]
            at += 4 + (length + 3 & ~3)
        self.malformed["block with too many options"] += 1


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length


class PcapngWriter:
    """Writes packets to a pcapng file until C(limit) bytes are full.

    C(interfaces): (name, link type, snapshot length) of each; packets name them by their place. Times have nanoseconds.
    What is known of direction, checksums and segmentation is kept in epb_flags, so that reading the file back judges as
    the tap would have.
    """

    def __init__(
        self, stream: t.BinaryIO, interfaces: Sequence[tuple[str, int, int]], limit: int | None = None
    ) -> None:
        """@raises OSError: the file cannot be written."""
        self.stream, self.limit = stream, limit
        self.written = self.packets = self.left_out = 0
        head = struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1) + _option(_SHB_USERAPPL, _WRITER) + _option(_OPT_END, b"")
        blocks = [_block(SECTION, head)]
        for name, link_type, snaplen in interfaces:
            body = struct.pack("<HxxI", link_type, snaplen) + _option(_IF_NAME, name.encode("utf-8", "replace"))
            blocks.append(_block(INTERFACE, body + _option(_IF_TSRESOL, b"\x09") + _option(_OPT_END, b"")))
        self._write(b"".join(blocks))

    def write(
        self,
        interface: int,
        time_ns: int,
        wire_length: int,
        data: bytes | memoryview,
        out: bool | None = None,
        csum_ready: bool | None = None,
        gso: bool = False,
    ) -> bool:
        """Append a packet; false, and nothing written, where it would exceed the limit.

        @raises OSError: the file cannot be written.
        """
        size = len(data)
        flags = 0 if out is None else _OUTBOUND if out else _INBOUND
        flags |= (_NOT_READY if csum_ready is False else 0) | (_SEGMENTED if gso else 0)
        options = struct.pack("<HHIHH", _EPB_FLAGS, 4, flags, 0, 0) if flags else b""
        length = 32 + (size + 3 & ~3) + len(options)
        if self.limit is not None and self.written + length > self.limit:
            self.left_out += 1
            return False
        self._write(
            struct.pack(
                "<IIIIIII", ENHANCED_PACKET, length, interface, time_ns >> 32, time_ns & 0xFFFFFFFF, size, wire_length
            )
        )
        self._write(data)
        self._write(bytes(-size % 4) + options + struct.pack("<I", length))
        self.packets += 1
        return True

    def _write(self, data: bytes | memoryview) -> None:
        self.stream.write(data)
        self.written += len(data)

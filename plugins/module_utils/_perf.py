# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One kernel tracepoint read through perf_event_open(2): a ring of samples for each processor.

An event hangs on its file descriptor and on nothing else: it ends with the process, also on kill -9, and no file of
tracefs is written. tracefs is only read, for the number and the layout of the tracepoint; where nobody has mounted it,
from a mount that is attached nowhere (fsmount(2)) and vanishes when its descriptor is closed.

Structures and numbers of linux/perf_event.h and linux/mount.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import platform
import re
import select
import struct
import sys
import time
import typing as t

from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_text

PERF_EVENT_OPEN = {
    "x86_64": 298,
    "aarch64": 241,
    "riscv64": 241,
    "loongarch64": 241,
    "ppc64le": 319,
    "ppc64": 319,
    "s390x": 331,
    "armv7l": 364,
    "i686": 336,
}
FSOPEN, FSCONFIG, FSMOUNT = 430, 431, 432  # the same on every architecture
FSCONFIG_CMD_CREATE = 6
MOUNT_ATTR_RDONLY_NOSUID_NODEV_NOEXEC = 0xF

TYPE_TRACEPOINT = 2
SAMPLE_TIME, SAMPLE_RAW = 1 << 2, 1 << 10
DISABLED, WATERMARK, USE_CLOCKID = 1 << 0, 1 << 14, 1 << 25
FLAG_FD_CLOEXEC = 8
FORMAT_LOST = 1 << 4  # Linux 6.0
RECORD_LOST, RECORD_SAMPLE = 2, 9
CLOCK_MONOTONIC = 1
ATTRIBUTE_SIZE = 112  # PERF_ATTR_SIZE_VER5, Linux 4.1
HEAD, TAIL = 1024, 1032  # struct perf_event_mmap_page: data_head, data_tail
RING_PAGES, RING_PAGES_LARGE_MACHINE, LARGE_MACHINE = 64, 16, 16  # pages of one ring; processors
MAX_PROCESSORS = 512
FORMAT_LIMIT = 1 << 18

_HEADER = struct.Struct("=IHH")
_SAMPLE = struct.Struct("=QI")
_FIELD = re.compile(
    r"^\s*field:(?P<type>.*?)(?P<name>\w+)(?:\[\d*\])?;\s*offset:(?P<offset>\d+);\s*size:(?P<size>\d+);"
)
_SYMBOL = re.compile(r'\{\s*(0x[0-9a-fA-F]{1,16}|\d{1,20})\s*,\s*"([^"]{1,200})"\s*\}')
_TRACEFS = re.compile(r"^\S+ \S+ \S+ / (\S+) .* - tracefs ", re.MULTILINE)


def _direction_bits() -> tuple[int, int]:
    """(none, write) as ioctl(2) numbers encode them; PowerPC has its own."""
    return (1 << 29, 4 << 29) if platform.machine().startswith("ppc") else (0, 1 << 30)


IOC_ENABLE = _direction_bits()[0] | 0x2400
IOC_DISABLE = _direction_bits()[0] | 0x2401
IOC_SET_FILTER = _direction_bits()[1] | (struct.calcsize("P") << 16) | 0x2406


def _call(what: str, number: int, *arguments: t.Any) -> int:
    """A system call that the C library need not know.

    @raises OSError: with the errno, and C(what) in the text.
    """
    result: int = ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def open_tracefs() -> int:
    """A directory descriptor of tracefs: where it is mounted, else a mount of our own that nobody can see.

    The directory C(tracing) of debugfs is not tried: touching it would mount tracefs there for everybody.

    @raises OSError: there is none for us; the text says why.
    """
    match = _TRACEFS.search(read_text("/proc/self/mountinfo") or "")
    if match:
        with contextlib.suppress(OSError):
            return os.open(match.group(1), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        context = _call("fsopen", FSOPEN, b"tracefs", ctypes.c_uint(1))
        try:
            _call("fsconfig", FSCONFIG, ctypes.c_int(context), ctypes.c_uint(FSCONFIG_CMD_CREATE), None, None, 0)
            attributes = ctypes.c_uint(MOUNT_ATTR_RDONLY_NOSUID_NODEV_NOEXEC)
            return _call("fsmount", FSMOUNT, ctypes.c_int(context), ctypes.c_uint(1), attributes)
        finally:
            os.close(context)
    except OSError as exc:
        if exc.errno == errno.ENODEV:
            raise OSError(exc.errno, "this kernel has no tracefs") from exc
        who = "" if os.geteuid() == 0 else " (not root)"
        where = "cannot be read" if match else "is not mounted and cannot be opened"
        raise OSError(exc.errno, f"tracefs {where}: {exc.strerror}{who}") from exc


def read_format(category: str, name: str) -> str:
    """The C(format) file of a tracepoint.

    @raises OSError: no tracefs, or no such tracepoint.
    """
    root = open_tracefs()
    try:
        try:
            descriptor = os.open(f"events/{category}/{name}/format", os.O_RDONLY | os.O_CLOEXEC, dir_fd=root)
        except FileNotFoundError as exc:
            raise OSError(errno.ENOENT, f"this kernel has no tracepoint {category}:{name}") from exc
        except OSError as exc:
            raise OSError(exc.errno, f"tracepoint {category}:{name}: {exc.strerror}") from exc
        with os.fdopen(descriptor, "rb") as stream:
            return stream.read(FORMAT_LIMIT).decode("utf-8", "replace")
    finally:
        os.close(root)


class Format(t.NamedTuple):
    """A tracepoint's number, where its fields are in the raw data, and the names of a symbolic field."""

    id: int
    fields: dict[str, tuple[int, int]]  # name: (offset, size)
    symbols: dict[int, str]


def parse_format(text: str) -> Format:
    """A C(format) file of tracefs. Fields of the layout are numbered from the start of the raw data.

    @raises ValueError: it is no such file.
    """
    number = re.search(r"^ID:\s*(\d{1,9})\s*$", text, re.MULTILINE)
    if not number:
        raise ValueError("the tracepoint's format has no ID")
    fields = {}
    for line in text.splitlines():
        match = _FIELD.match(line)
        if match and len(match.group("offset")) < 6 and len(match.group("size")) < 6:
            fields[match.group("name")] = (int(match.group("offset")), int(match.group("size")))
    symbols = {int(value, 0) if value.startswith("0x") else int(value): name for value, name in _SYMBOL.findall(text)}
    return Format(int(number.group(1)), fields, symbols)


def processors() -> list[int]:
    """Numbers of the processors that are online."""
    text = read_text("/sys/devices/system/cpu/online") or "0"
    found: list[int] = []
    for part in text.strip().split(","):
        first, _dash, last = part.partition("-")
        if first.isdigit():
            found.extend(range(int(first), int(last if last.isdigit() else first) + 1))
    return found[:MAX_PROCESSORS] or [0]


def epoch_offset() -> int:
    """Nanoseconds to add to CLOCK_MONOTONIC to get the time of day: the tightest of a few readings."""
    best = None
    for _try in range(5):
        before = time.monotonic_ns()
        now = time.time_ns()
        after = time.monotonic_ns()
        if best is None or after - before < best[0]:
            best = (after - before, now - (before + after) // 2)
    return best[1] if best else 0


def samples(data: bytes) -> t.Iterator[tuple[int, int, int]]:
    """(time in ns, start, end of the raw data within C(data)) of each sample in records as they lie in a ring.

    What does not fit together ends the iteration: nothing behind it can be trusted.
    """
    position, end = 0, len(data)
    while position + 8 <= end:
        kind, _misc, size = _HEADER.unpack_from(data, position)
        if size < 8 or position + size > end:
            return
        if kind == RECORD_SAMPLE and size >= 20:
            stamp, length = _SAMPLE.unpack_from(data, position + 8)
            yield stamp, position + 20, min(position + 20 + length, position + size)
        position += size


def lost_in(data: bytes) -> int:
    """Samples for which there was no room, as the records tell; of a ring that stayed full nobody tells the last."""
    total, position = 0, 0
    while position + 8 <= len(data):
        kind, _misc, size = _HEADER.unpack_from(data, position)
        if size < 8 or position + size > len(data):
            break
        if kind == RECORD_LOST and size >= 24:
            total += int.from_bytes(data[position + 16 : position + 24], sys.byteorder)
        position += size
    return total


class Ring:
    """One processor's event and its ring of samples."""

    def __init__(self, tracepoint: int, cpu: int, pages: int) -> None:
        self.lost = 0
        self.counts_lost = True
        try:
            self._open(tracepoint, cpu, pages, FORMAT_LOST)
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            self.counts_lost = False  # records of type LOST alone tell
            self._open(tracepoint, cpu, pages, 0)

    def _open(self, tracepoint: int, cpu: int, pages: int, read_format: int) -> None:
        number = PERF_EVENT_OPEN.get(platform.machine())
        if number is None:
            raise OSError(errno.ENOSYS, f"perf_event_open(2) is not known for {platform.machine()}")
        size = pages * mmap.PAGESIZE
        flags = DISABLED | WATERMARK | USE_CLOCKID
        attribute = struct.pack(
            "=IIQQQQQIIQQQQIiQIHH",
            *(TYPE_TRACEPOINT, ATTRIBUTE_SIZE, tracepoint, 1, SAMPLE_TIME | SAMPLE_RAW, read_format, flags, size // 2),
            *(0, 0, 0, 0, 0, 0, CLOCK_MONOTONIC, 0, 0, 0, 0),
        )
        if len(attribute) != ATTRIBUTE_SIZE:
            raise AssertionError(f"perf_event_attr has {ATTRIBUTE_SIZE} bytes, not {len(attribute)}")
        # pid -1: whatever runs on this processor, in every namespace.
        words = (ctypes.c_int(-1), ctypes.c_int(cpu), ctypes.c_int(-1), ctypes.c_ulong(FLAG_FD_CLOEXEC))
        self.descriptor = _call("perf_event_open", number, attribute, *words)
        try:
            self._map = mmap.mmap(
                self.descriptor, size + mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
            )
        except (OSError, ValueError) as exc:
            os.close(self.descriptor)
            why = getattr(exc, "strerror", None) or str(exc)
            raise OSError(getattr(exc, "errno", None) or errno.ENOMEM, f"mmap of a perf ring: {why}") from exc
        # As numbers of 64 bits: struct would go byte by byte while the kernel moves the head, and clear the tail first.
        self._numbers = memoryview(self._map).cast("Q")
        self._start, self._size = mmap.PAGESIZE, size

    def take(self) -> bytes:
        """The records written since the last call, and room for new ones."""
        head, tail = self._numbers[HEAD // 8], self._numbers[TAIL // 8]
        length = min(head - tail, self._size)
        if length <= 0:
            return b""
        first = tail % self._size
        data = self._map[self._start + first : self._start + min(first + length, self._size)]
        if len(data) < length:
            data += self._map[self._start : self._start + length - len(data)]
        self._numbers[TAIL // 8] = head
        return data

    def count_lost(self) -> int:
        """Samples the ring had no room for."""
        if not self.counts_lost:
            return self.lost
        return int.from_bytes(os.read(self.descriptor, 16)[8:], sys.byteorder)

    def close(self) -> None:
        self._numbers.release()
        self._map.close()
        os.close(self.descriptor)


class Tracepoint:
    """A tracepoint on all processors. Times of samples are CLOCK_MONOTONIC, in nanoseconds.

    Open it in the process that reads it: the rings are not inherited by fork(2) (VM_DONTCOPY).
    """

    def __init__(self, number: int) -> None:
        """@raises OSError: EACCES or EPERM without CAP_PERFMON; the text says which setting stands in the way."""
        self.rings: list[Ring] = []
        self._epoll = select.epoll()
        cpus = processors()
        pages = RING_PAGES if len(cpus) <= LARGE_MACHINE else RING_PAGES_LARGE_MACHINE
        try:
            for cpu in cpus:
                self._add(number, cpu, pages)
            if not self.rings:
                raise OSError(errno.ENODEV, "perf_event_open: no processor could be opened")
            for ring in self.rings:
                fcntl.ioctl(ring.descriptor, IOC_ENABLE, 0)
        except OSError as exc:
            self.close()
            if exc.errno in (errno.EACCES, errno.EPERM):
                level = (read_text("/proc/sys/kernel/perf_event_paranoid", 16) or "?").strip()
                who = "" if os.geteuid() == 0 else ", not root"
                why = f"{exc.strerror} (kernel.perf_event_paranoid is {level}{who})"
                raise OSError(exc.errno, why) from exc
            raise

    def _add(self, number: int, cpu: int, pages: int) -> None:
        try:
            ring = Ring(number, cpu, pages)
        except OSError as exc:
            if exc.errno == errno.ENODEV:
                return  # went offline between the two reads
            raise
        self.rings.append(ring)
        self._epoll.register(ring.descriptor, select.EPOLLIN)

    def fileno(self) -> int:
        """Readable when a ring is half full; a quiet one is emptied at the end."""
        return self._epoll.fileno()

    def set_filter(self, text: str) -> None:
        """Let the kernel throw away what does not match, before it costs anything.

        @raises OSError: EINVAL, the kernel does not understand the expression.
        """
        for ring in self.rings:
            buffer = ctypes.create_string_buffer(text.encode("ascii"))
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.ioctl(ctypes.c_int(ring.descriptor), ctypes.c_ulong(IOC_SET_FILTER), buffer) < 0:
                code = ctypes.get_errno()
                raise OSError(code, f"filter of the tracepoint: {os.strerror(code)}")

    def read(self) -> t.Iterator[tuple[int, bytes]]:
        """(time, raw data) of what has arrived since; at most one ring's content of each processor."""
        for ring in self.rings:
            data = ring.take()
            if not ring.counts_lost:
                ring.lost += lost_in(data)
            for stamp, start, end in samples(data):
                yield stamp, data[start:end]

    def stop(self) -> None:
        """Record nothing more; what is in the rings can still be read."""
        for ring in self.rings:
            fcntl.ioctl(ring.descriptor, IOC_DISABLE, 0)

    def lost(self) -> int:
        """Samples the rings had no room for. Only after L(stop) and a last L(read) nothing is still on its way."""
        return sum(ring.count_lost() for ring in self.rings)

    def close(self) -> None:
        for ring in self.rings:
            ring.close()
        self.rings = []
        self._epoll.close()

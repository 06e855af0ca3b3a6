# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One capture: from taps or from a file, into an analysis and perhaps a file. What vxlan_capture does on a host.

Rings are emptied before anything else is done: blocks are copied and given back, and looked into while nothing arrives.
Only when more than BACKLOG bytes wait does looking come first, and the kernel drops, and counts, what finds no room.
Where a file is wanted, nothing else is done while frames come, and what exceeds BACKLOG waits on disk: packing takes a
processor that whoever sends may need. The file is written, and analysed, when the capture has ended.
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import os
import re
import select
import stat
import tempfile
import time
import typing as t
from collections.abc import Callable
from dataclasses import dataclass

from ansible_collections.crosshost.doctor.plugins.module_utils import _tap_filter, _taps
from ansible_collections.crosshost.doctor.plugins.module_utils._analysis import Analysis, analyse
from ansible_collections.crosshost.doctor.plugins.module_utils._pcap import CaptureError, Interface, open_capture
from ansible_collections.crosshost.doctor.plugins.module_utils._pcapng import PcapngWriter

SCHEMA = "1"
MIN_SECONDS, MAX_SECONDS = 0.1, 60.0
MAX_TAPS = 256
MAX_PACKETS = 10_000_000
MAX_BYTES = 1 << 30
MIN_SNAPLEN, MAX_SNAPLEN = 64, 65535
FINISH_SECONDS = 10.0  # for looking into what is left when a capture has ended, and again for reading the file back
BACKLOG = 64 << 20
FILE_SECONDS = 300.0  # for reading a file
FILE_BYTES = 4 << 30
SLICE = 0.005  # seconds of looking into frames before the rings are looked at again
TICK = 0.05
READABLE = select.POLLIN | select.POLLPRI

_MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")
_PACKAGE = __name__.rpartition(".")[0]

Report = dict[str, t.Any]


class Source(t.Protocol):
    """Something else to read while capturing, as drop reasons are."""

    def fileno(self) -> int: ...
    def drain(self) -> None: ...
    def stop(self) -> None: ...
    def result(self, near: t.Iterable[float] = ()) -> dict[str, t.Any]: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Settings:
    """What a capture is asked for, checked; the module documents each."""

    spots: tuple[_taps.Spot, ...]
    ports: tuple[int, ...]
    mark: str
    peers: tuple[str, ...]
    tcp_ports: tuple[int, ...]
    probes_only: bool
    match: _tap_filter.Match
    vteps: tuple[str, ...]
    vnis: tuple[int, ...]
    macs: tuple[str, ...]
    path_mtu: int | None
    seconds: float
    packets: int
    bytes: int
    snaplen: int
    ring_bytes: int
    reasons: bool
    nftrace: bool

    @classmethod
    def parse(cls, options: dict[str, t.Any]) -> Settings:
        """From the module's options.

        @raises ValueError: something cannot be done; the text is for the user.
        """
        mark = options.get("mark") or ""
        probes_only = (options.get("filter") or ("probes" if mark else "all")) == "probes"
        spots = tuple(_taps.Spot.parse(tap) for tap in options.get("taps") or [])
        if len(spots) > MAX_TAPS:
            raise ValueError(f"{len(spots)} taps, and one capture takes at most {MAX_TAPS}")
        if len({spot.id for spot in spots}) < len(spots):
            raise ValueError("two taps have the same id")
        if wrong := [mac for mac in options.get("macs") or [] if not _MAC.fullmatch(mac)]:
            raise ValueError(f"macs: {wrong[0]!r} is not a MAC address such as 02:42:0a:00:01:07")
        match = _tap_filter.Match.parse(options.get("match"))
        if match and probes_only:
            raise ValueError("match needs filter=all: with filter=probes the probes are what is matched")
        found = cls(
            spots=spots,
            ports=tuple(int(port) for port in options.get("ports") or []),
            mark=mark,
            peers=tuple(options.get("peers") or []),
            tcp_ports=tuple(int(port) for port in options.get("tcp_ports") or []),
            probes_only=probes_only,
            match=match,
            vteps=tuple(options.get("vteps") or []),
            vnis=tuple(options.get("vnis") or []),
            macs=tuple(options.get("macs") or []),
            path_mtu=options.get("path_mtu"),
            seconds=_within("seconds", options.get("seconds"), 10.0, MIN_SECONDS, MAX_SECONDS),
            packets=int(_within("packets", options.get("packets"), 200_000, 1, MAX_PACKETS)),
            bytes=int(_within("bytes", options.get("bytes"), 64 << 20, 1024, MAX_BYTES)),
            snaplen=int(
                _within("snaplen", options.get("snaplen"), 256 if probes_only else 1600, MIN_SNAPLEN, MAX_SNAPLEN)
            ),
            ring_bytes=int(
                _within(
                    "ring_bytes",
                    options.get("ring_bytes"),
                    2 << 20 if probes_only else 16 << 20,
                    _taps.MIN_RING,
                    _taps.MAX_RING,
                )
            ),
            reasons=bool(options.get("reasons")),
            nftrace=bool(options.get("nftrace")),
        )
        found.filter_for(_tap_filter.ETHERNET)  # what cannot be compiled is said before anything starts
        return found

    def filter_for(self, link_type: int) -> list[_tap_filter.Instruction]:
        """The kernel's filter for a tap of this link type."""
        if self.probes_only:
            return _tap_filter.probes(link_type, self.ports, self.mark, self.peers, self.snaplen, self.tcp_ports)
        return _tap_filter.matching(link_type, self.ports, self.match, self.snaplen)


def _within(name: str, value: float | None, default: float, low: float, high: float) -> float:
    found = default if value is None else value
    if not low <= found <= high:
        raise ValueError(f"{name} is {found}, and must be from {low:g} to {high:g}")
    return found


def new_report(state: str) -> Report:
    """A result with all its keys, and nothing found."""
    return {
        "schema": SCHEMA,
        "state": state,
        "started": 0.0,
        "finished": 0.0,
        "ended": None,
        "missing": [],
        "taps": [],
        "counts": {},
        "flows": [],
        "anomalies": [],
        "sightings": [],
        "reasons": None,
        "nftrace": None,
        "file": None,
    }


def new_analysis(settings: Settings) -> Analysis:
    """What frames are given to."""
    return Analysis(
        ports=settings.ports,
        mark=settings.mark,
        vteps=settings.vteps,
        vnis=settings.vnis,
        macs=settings.macs,
        path_mtu=settings.path_mtu,
    )


def preload(settings: Settings) -> None:
    """Import everything that a capture may need: a background reader cannot any more."""
    names = [("_drop_reasons", settings.reasons), ("_nftrace", settings.nftrace)]
    for name in [name for name, wanted in names if wanted]:
        with contextlib.suppress(ImportError):
            importlib.import_module(f"{_PACKAGE}.{name}")


def _open_reasons(settings: Settings) -> Source:
    from ansible_collections.crosshost.doctor.plugins.module_utils._drop_reasons import DropReader

    reader = DropReader()
    try:
        reader.calibrate()
    except BaseException:
        reader.close()
        raise
    return reader


def _open_nftrace(settings: Settings) -> Source:
    from ansible_collections.crosshost.doctor.plugins.module_utils._nftrace import NfTrace

    return NfTrace(settings.ports, settings.peers)


_OPEN_SOURCE: dict[str, Callable[[Settings], Source]] = {"reasons": _open_reasons, "nftrace": _open_nftrace}


def _unavailable(name: str, why: str) -> Report:
    """What a source returns that could not be read."""
    found: Report = {"available": False, "why": why, "lost": 0, "events": []}
    return {**found, "calibration": {}, "complete_since": None, "totals": []} if name == "reasons" else found


def _words(exc: Exception) -> str:
    """An exception in one line; what is no error of the system's or of the input is one of ours."""
    if isinstance(exc, OSError):
        return exc.strerror or str(exc)
    return str(exc) if isinstance(exc, ValueError) else f"internal error: {type(exc).__name__}: {exc}"


class Output:
    """The capture as a pcapng file of mode 0600 and bounded size."""

    def __init__(self, path: str, taps: list[_taps.Tap], settings: Settings) -> None:
        """@raises OSError: the file cannot be made."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        self._stream = os.fdopen(handle, "wb", 1 << 20)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(f"{path} is not a regular file")
            os.fchmod(handle, 0o600)
            os.ftruncate(handle, 0)
            interfaces = [(tap.id, tap.link_type, settings.snaplen) for tap in taps]
            self.writer = PcapngWriter(self._stream, interfaces, settings.bytes)
        except BaseException:
            self._stream.close()
            raise
        self.path = path

    def append(self, packets: int, packed: bytes) -> None:
        """Frames that are packed already.

        @raises OSError: no room.
        """
        self._stream.write(packed)
        self.writer.written += len(packed)
        self.writer.packets += packets

    def close(self) -> None:
        self._stream.close()


class Backlog:
    """Blocks that wait to be looked into, the oldest first: in memory, and, if there is a folder for it, on disk.

    C(size) and C(frames): of all that wait.
    """

    def __init__(self) -> None:
        self.size = self.frames = 0
        self._memory: collections.deque[tuple[int, bytes]] = collections.deque()
        self._in_memory = 0
        # Older than what is in memory: (tap, length) of blocks in a file that has no name.
        self._on_disk: collections.deque[tuple[int, int]] = collections.deque()
        self._file: t.BinaryIO | None = None
        self._start = self._end = 0

    def __bool__(self) -> bool:
        return self.size > 0

    def add(self, number: int, block: bytes) -> None:
        self._memory.append((number, block))
        self._in_memory += len(block)
        self.size += len(block)
        self.frames += _taps.frame_count(block)

    @property
    def is_full(self) -> bool:
        """Whether memory is."""
        return self._in_memory > BACKLOG

    def spill(self, folder: str) -> None:
        """Make room in memory.

        @raises OSError: the disk is full.
        """
        if self._file is None:
            self._file = t.cast(t.BinaryIO, tempfile.TemporaryFile(dir=folder, buffering=0))  # noqa: SIM115 - close()
        while self._in_memory > BACKLOG // 2:
            number, block = self._memory[0]
            position = 0
            while position < len(block):
                position += os.pwrite(self._file.fileno(), memoryview(block)[position:], self._end + position)
            self._memory.popleft()
            self._in_memory -= len(block)
            self._on_disk.append((number, len(block)))
            self._end += len(block)

    def take(self) -> tuple[int, bytes]:
        """The oldest block and its tap."""
        if self._on_disk and self._file is not None:
            number, length = self._on_disk.popleft()
            block = os.pread(self._file.fileno(), length, self._start)
            self._start += length
            if not self._on_disk:
                self._start = self._end = 0
        else:
            number, block = self._memory.popleft()
            self._in_memory -= len(block)
        self.size -= len(block)
        self.frames -= _taps.frame_count(block)
        return number, block

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Live:
    """A capture from taps. C(open), C(run), C(finish); C(report) is valid at any time."""

    def __init__(self, settings: Settings, state: str, path: str | None = None) -> None:
        self.report = new_report(state)
        self._settings = settings
        self._path = path
        self._taps: list[_taps.Tap] = []
        self._sources: dict[str, Source] = {}
        self._output: Output | None = None
        self._analysis = new_analysis(settings)
        self._backlog = Backlog()
        self._packets = self._bytes = 0
        self._full: str | None = None
        self._poll = select.poll()
        self._polled: dict[int, _taps.Tap | str] = {}

    def missing(self, section: str, what: str, why: str) -> None:
        self.report["missing"].append({"section": section, "what": what, "why": why})

    @property
    def open_taps(self) -> int:
        return len(self._taps)

    def open(self) -> None:
        """Open sources, file and taps, as far as they can be opened."""
        settings = self._settings
        for name, wanted in (("reasons", settings.reasons), ("nftrace", settings.nftrace)):
            if wanted:
                self._open_source(name)
        ring = _taps.Ring.of(settings.ring_bytes, len(settings.spots))
        vnet = settings.probes_only or _taps.has_vnet_header_for_all()
        self._taps = _taps.open_taps(settings.spots, ring, settings.filter_for, vnet, self.missing)
        self.report["started"] = time.time()
        if self._path:
            try:
                self._output = Output(self._path, self._taps, settings)
            except OSError as exc:
                self.missing("file", self._path, exc.strerror or str(exc))
        for tap in self._taps:
            self._watch(tap.fileno(), tap)
        for name, source in self._sources.items():
            self._watch(source.fileno(), name)
        self._facts()

    def _watch(self, descriptor: int, what: _taps.Tap | str) -> None:
        self._poll.register(descriptor, READABLE)
        self._polled[descriptor] = what

    def _open_source(self, name: str) -> None:
        try:
            self._sources[name] = _OPEN_SOURCE[name](self._settings)
        except (OSError, ValueError, ImportError) as exc:
            why = exc.strerror or str(exc) if isinstance(exc, OSError) else str(exc)
            self.report[name] = _unavailable(name, why)
            self.missing(name, "host", why)

    def run(self, asked: Callable[[], bool]) -> None:
        """Capture until a limit is reached, C(asked()) is true, or there is no tap left."""
        deadline = time.monotonic() + self._settings.seconds
        ended = None
        look = 0.0
        while ended is None:
            now = time.monotonic()
            waits = self._output is not None or not self._backlog
            self._take(max(0.0, min(TICK, deadline - now)) if waits else 0.0)
            if not waits:
                self._work(time.monotonic() + SLICE)
            now = time.monotonic()
            if self._full or self._enough():
                ended = self._full or self._enough()
            elif now >= deadline:
                ended = "time"
            elif not self._polled:
                break
            elif now >= look:
                look = now + TICK
                ended = "asked" if asked() else None
        self.report["ended"] = ended

    def _enough(self) -> str | None:
        """The limit that what waits to be written will reach; a block takes less in a file, but never half of it."""
        if self._packets + self._backlog.frames >= self._settings.packets:
            return "packets"
        if self._output and self._output.writer.written + self._backlog.size // 2 >= self._settings.bytes:
            return "bytes"
        return None

    def _take(self, seconds: float) -> None:
        """Empty the rings into the backlog, waiting at most so long for something to come."""
        for descriptor, event in self._poll.poll(seconds * 1000):
            what = self._polled[descriptor]
            if isinstance(what, str):
                self._drain(what)
                continue
            for block in what.blocks():
                self._backlog.add(self._taps.index(what), block)
                if self._backlog.is_full:
                    break
            if event & ~READABLE:
                before = what.gone
                what.check()
                if what.gone and not before:  # one that only went down is read on: it may come up again
                    self.missing("tap", what.id, what.gone)
        if self._backlog.is_full and self._output:
            try:
                self._backlog.spill(os.path.dirname(os.path.abspath(self._output.path)))
            except OSError as exc:
                self.missing("file", self._output.path, f"the rest: {_words(exc)}")
                self._full = "bytes"
        while self._backlog.is_full and not self._full:
            self._look()

    def _forget(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        del self._polled[descriptor]

    def _drain(self, name: str) -> None:
        source = self._sources[name]
        try:
            source.drain()
        except Exception as exc:  # what the taps see is worth more than one source
            self._forget(source.fileno())
            self.missing(name, "host", f"reading ended: {_words(exc)}")

    def _work(self, until: float) -> None:
        while self._backlog and not self._full and time.monotonic() < until:
            self._look()

    def _look(self) -> None:
        """Look into the oldest block of the backlog, or write it."""
        number, block = self._backlog.take()
        if self._output:
            try:
                self._write(self._output, number, block)
            except OSError as exc:
                self._full = "bytes"
                self.missing("file", self._output.path, f"the rest: {exc.strerror or exc}")
            return
        tap = self._taps[number]
        feed = self._analysis.feeder(tap.id, tap.link_type)
        try:
            for when, wire, data, out, ready, gso in tap.read(block):
                self._count(tap, len(data), wire)
                feed(when, wire, data, out, ready, gso)
                if self._full:
                    return
        except Exception as exc:  # a defect of ours costs one block, not the evidence of all taps
            self.missing("frames", tap.id, _words(exc))

    def _write(self, output: Output, number: int, block: bytes) -> None:
        tap, settings = self._taps[number], self._settings
        # Whether a limit is near is asked of the block's size: its frames with their headers are smaller in the file.
        if (
            self._packets + _taps.frame_count(block) < settings.packets
            and output.writer.written + len(block) < settings.bytes
        ):
            before = tap.bytes
            count, packed = tap.pack(block, number)
            output.append(count, packed)
            self._packets += count
            self._bytes += tap.bytes - before
            return
        for when, wire, data, out, ready, gso in tap.read(block):
            if not output.writer.write(number, when, wire, data, out, ready, gso):
                self._full = "bytes"
                return
            self._count(tap, len(data), wire)
            if self._full:
                return

    def _count(self, tap: _taps.Tap, size: int, wire: int) -> None:
        tap.frames += 1
        tap.bytes += size
        tap.truncated += size < wire
        self._packets += 1
        self._bytes += size
        if self._packets >= self._settings.packets:
            self._full = "packets"
        elif self._bytes >= self._settings.bytes:
            self._full = "bytes"

    def finish(self) -> Report:
        """Take what is left in the rings, and complete the report."""
        self.finish_taps()
        for source in self._sources.values():
            with contextlib.suppress(Exception):  # the result will tell
                source.stop()
        if self._output:
            self._read_back(self._output)
            self._output = None
        self.report.update(self._analysis.result(int(self.report["finished"] * 1e9)))
        for name, source in self._sources.items():
            self._complete(name, source)
        self._sources = {}
        return self.report

    def finish_taps(self) -> None:
        """Take what is left in the rings, and count what the kernel had no room for."""
        for tap in self._taps:
            tap.stop()
        end = time.monotonic() + 2 * _taps.RETIRE_MS / 1000
        while not self._full and self._polled and (left := end - time.monotonic()) > 0:
            self._take(left)
        self._work(time.monotonic() + FINISH_SECONDS)
        if self._backlog and not self._full:
            self.missing("frames", f"{self._backlog.frames} frames", f"not looked into within {FINISH_SECONDS:g} s")
        self.report["ended"] = self._full or self.report["ended"]
        self._backlog.close()
        self.report["finished"] = time.time()
        for tap in self._taps:
            tap.count_drops()
        self._facts()

    def _read_back(self, output: Output) -> None:
        """Analyse what was written; a file that took more than there is time for is analysed from its beginning."""
        try:
            output.close()
            self.report["file"] = output.path
            with open_capture(output.path) as capture:
                _number, ended = analyse(capture, self._analysis, until=time.monotonic() + FINISH_SECONDS)
            if ended != "end of file":
                self.missing("frames", "the end of the capture", f"not analysed within {FINISH_SECONDS:g} s")
        except Exception as exc:  # the file is there all the same
            self.missing("file", output.path, _words(exc))

    def _complete(self, name: str, source: Source) -> None:
        try:
            self.report[name] = source.result([sighting["time"] for sighting in self.report["sightings"]])
        except Exception as exc:  # as in _drain
            self.report[name] = _unavailable(name, _words(exc))
        with contextlib.suppress(OSError):
            source.close()

    def _facts(self) -> None:
        self.report["taps"] = [tap.facts() for tap in self._taps]

    def close(self) -> None:
        """Close the taps; apart from C(finish), because each takes the kernel some 25 ms."""
        self._backlog.close()
        for tap in self._taps:
            tap.close()
        self._taps = []
        for source in self._sources.values():
            with contextlib.suppress(OSError):
                source.close()
        self._sources = {}


def live(settings: Settings, path: str | None = None) -> Report:
    """Capture now, in this process."""
    capture = Live(settings, "captured", path)
    try:
        capture.open()
        capture.run(lambda: False)
        return capture.finish()
    finally:
        capture.close()


def background(
    settings: Settings, path: str | None, announce: Callable[[Report], None], asked: Callable[[], bool]
) -> Report:
    """Capture as the work of a L(Reader)."""
    capture = Live(settings, "collected", path)
    capture.open()
    announce({**capture.report, "state": "started"})
    capture.run(asked)
    # Not closed: that waits for the kernel for each tap, and the end of the process does it as well.
    return capture.finish()


def offline(settings: Settings, source: str, path: str | None = None) -> Report:
    """Read a capture file of this host; what is wrong with it is in C(counts) and C(missing), nothing is raised."""
    report = new_report("captured")
    report["started"] = time.time()
    analysis = new_analysis(settings)
    malformed: dict[str, int] = {}
    try:
        with open_capture(source, FILE_BYTES) as capture:
            number, report["ended"] = analyse(capture, analysis, settings.packets, time.monotonic() + FILE_SECONDS)
            malformed = dict(capture.malformed)
            report["taps"] = [_interface(interface) for interface in capture.interfaces]
            if len(report["taps"]) == 1:
                report["taps"][0]["frames"] = number
    except (CaptureError, OSError) as exc:
        report["missing"].append({"section": "file", "what": source, "why": getattr(exc, "strerror", None) or str(exc)})
    report.update(analysis.result())
    counted = report["counts"].setdefault("malformed", {})
    for reason, count in malformed.items():
        counted[reason] = counted.get(reason, 0) + count
    report["finished"] = time.time()
    return report


def _interface(interface: Interface) -> dict[str, t.Any]:
    """An interface of a file as a tap: how much there was is not counted for each, and what was lost nobody knows."""
    return {
        "id": interface.name or str(interface.index),
        "interface": interface.name,
        "ifindex": None,
        "netns": None,
        "link_type": interface.link_type,
        "frames": None,
        "bytes": None,
        "dropped": None,
        "truncated": None,
    }

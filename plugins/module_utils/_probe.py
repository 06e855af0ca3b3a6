# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run many probes of many namespaces in the time of one: the whole of what path_probe does on a host."""

from __future__ import annotations

import collections
import contextlib
import functools
import resource
import time
import typing as t
from collections.abc import Iterator

from ansible_collections.crosshost.doctor.plugins.module_utils._probe_base import (
    Probe,
    Request,
    Result,
    Settings,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_dns import DnsProbe
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_http import HttpProbe
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_icmp import IcmpProbe
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_loop import Loop
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_source import Source
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_tcp import TcpProbe
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_udp import UdpProbe

SCHEMA = "1"
MAX_PROBES = 2000
MAX_PACKETS = 20000  # echoes and datagrams of one call
MAX_COUNT = 100
MIN_TIMEOUT, MAX_TIMEOUT = 0.1, 60.0
SILENCE = 0.25  # seconds after the last datagram, or times the longest round trip, until silence is silence
SILENCE_FACTOR = 10
DRAIN = 0.1  # seconds after the deadline to read what has come by then
GRACE = 0.5  # seconds by which starting may delay the deadline
MAX_BODY = 1 << 20  # bytes of one HTTP body
MAX_BODIES = 1 << 26  # of all HTTP bodies of a call
MAX_MARK = 64
_SEND_SPAN = 0.6  # of the deadline; what is sent later has too little time to be answered
_DESCRIPTORS_PER_PROBE = 3
_OTHER_DESCRIPTORS = 64
_BATCH = 16  # probes started before looking at those under way

_KINDS: dict[str, type[Probe]] = {
    "icmp": IcmpProbe,
    "tcp": TcpProbe,
    "udp": UdpProbe,
    "dns": DnsProbe,
    "http": HttpProbe,
}

_PROMPT = ("icmp", "tcp", "http")  # whose round trips are the network's, not a service's

Report = dict[str, t.Any]


def new_report(mark: str = "") -> Report:
    """An empty result: all keys, nothing found."""
    return {
        "schema": SCHEMA,
        "started": 0.0,
        "finished": 0.0,
        "deadline": 0.0,
        "mark": mark,
        "missing": [],
        "results": [],
    }


def run(options: dict[str, t.Any], report: Report) -> None:
    """Probe as O(options) say and fill C(report), which stays valid whatever happens.

    Never takes longer than the timeout, GRACE and a moment. Errors of a probe are in its result; what could not be
    probed at all is in C(missing); nothing is raised for what is found on the network or missing on the host.
    """
    call = _Call(options, report)
    try:
        call.prepare()
        call.run()
    except Exception as exc:  # the evidence collected so far is worth more than the traceback
        call.missing("probes", "the rest of the probes", f"internal error: {type(exc).__name__}: {exc}")
    finally:
        call.finish()


class _Call:
    """The probes of one call and where they stand."""

    def __init__(self, options: dict[str, t.Any], report: Report) -> None:
        self._options = options
        self._report = report
        self._begun = time.monotonic()
        timeout = min(max(float(options.get("timeout") or 2.0), MIN_TIMEOUT), MAX_TIMEOUT)
        self._loop = Loop(self._begun + timeout)
        self._timeout = timeout
        self._results: list[Result] = []
        self._probes: list[Probe] = []
        self._waiting: collections.deque[Probe] = collections.deque()
        self._sources: list[Source] = []
        self._unfinished = 0
        self._expecting = 0  # of them, those whose target answers if it can be reached
        report["started"] = time.time()
        report["deadline"] = report["started"] + timeout

    def missing(self, section: str, what: str, why: str) -> None:
        self._report["missing"].append({"section": section, "what": what, "why": why})

    def prepare(self) -> None:
        """Check what is asked for and open the namespaces; nothing is sent yet."""
        wanted = self._take_probes()
        settings = self._settings(wanted)
        for options, requests in wanted:
            source = Source(options, self._loop, self._report["missing"])
            self._sources.append(source)
            error = self._open(source) if requests else None
            for request in requests:
                self._add(request, source, settings, error)

    def _take_probes(self) -> list[tuple[dict[str, t.Any], list[dict[str, t.Any]]]]:
        """The sources with the probes that are within the limit."""
        room, wanted, total = MAX_PROBES, [], 0
        for source in self._options.get("sources") or []:
            probes = source.get("probes") or []
            total += len(probes)
            wanted.append((source, probes[:room]))
            room -= len(probes[:room])
        if total > MAX_PROBES:
            self.missing("probes", f"{total - MAX_PROBES} of {total} probes", f"one call takes at most {MAX_PROBES}")
        return wanted

    def _settings(self, wanted: list[tuple[dict[str, t.Any], list[dict[str, t.Any]]]]) -> Settings:
        layers = collections.Counter(probe.get("layer") for _source, probes in wanted for probe in probes)
        count = min(max(int(self._options.get("count") or 1), 1), MAX_COUNT)
        sending = layers["icmp"] + layers["udp"]
        if sending * count > MAX_PACKETS:
            count = max(1, MAX_PACKETS // sending)
            self.missing("probes", "repetitions", f"{count} each: one call sends at most {MAX_PACKETS} packets")
        interval = max(0.0, float(self._options.get("interval") or 0.0))
        interval = min(interval, self._timeout * _SEND_SPAN / max(1, count - 1))
        body = min(MAX_BODY, MAX_BODIES // max(1, layers["http"]))
        mark = "".join(c if c.isascii() and (c.isalnum() or c in "._:-") else "_" for c in self._report["mark"])
        return Settings(mark[:MAX_MARK], count, interval, body)

    def _open(self, source: Source) -> str | None:
        """Open the namespace; why that failed, or None."""
        try:
            source.prepare()
            with source.entered():
                pass
        except OSError as exc:
            why = f"{exc.strerror}: {exc.filename}" if exc.strerror and exc.filename else exc.strerror or str(exc)
            self.missing("namespace", source.label, why)
            return f"its network namespace cannot be entered: {why}"
        return None

    def _add(self, options: dict[str, t.Any], source: Source, settings: Settings, error: str | None) -> None:
        """Make the result, and the probe if there is one to make."""
        result = Result(
            id=str(options.get("id", "")),
            layer=options.get("layer"),
            address=options.get("address"),
            port=options.get("port"),
            server=options.get("server"),
            transport=options.get("transport") or "udp" if options.get("layer") == "dns" else None,
            name=options.get("name"),
            detail=error or "not started",
        )
        self._results.append(result)
        if error:
            return
        try:
            request = Request.parse(options)
        except (ValueError, KeyError, TypeError) as exc:
            result.detail = str(exc)
            return
        result.port = request.port or None
        probe = _KINDS[request.layer](request, result, source, self._loop, settings)
        probe.on_done = functools.partial(self._one_done, probe)
        self._probes.append(probe)
        self._unfinished += 1
        self._expecting += probe.expects_answer

    def run(self) -> None:
        """Start everything, source by source, then serve all of it until it is done or the deadline has come."""
        with _descriptors(len(self._probes) * _DESCRIPTORS_PER_PROBE + len(self._sources) * 4 + _OTHER_DESCRIPTORS):
            by_source: dict[int, list[Probe]] = collections.defaultdict(list)
            late = [probe for probe in self._probes if probe.request.delay]
            for probe in self._probes:
                probe.result.detail = None
                if not probe.request.delay:
                    by_source[id(probe.source)].append(probe)
            for probes in by_source.values():
                for first in range(0, len(probes), _BATCH):
                    self._begin_batch(probes[first : first + _BATCH])
            # Starting takes time of its own when there is much to start or the host is busy.
            now = time.monotonic()
            self._loop.deadline = min(now + self._timeout, self._loop.deadline + GRACE)
            for probe in late:
                self._loop.at(now + probe.request.delay, functools.partial(self._begin, probe))
            self._report["deadline"] = self._report["started"] + self._loop.deadline - self._begun
            self._loop.run(lambda: self._unfinished == 0)
            if self._unfinished:
                self._loop.drain(DRAIN)

    def _begin_batch(self, probes: list[Probe]) -> None:
        """Start some probes of one source, then look after those under way: answers must not wait to be timed."""
        if time.monotonic() < self._loop.deadline + GRACE:
            with probes[0].source.entered():
                for probe in probes:
                    self._begin(probe)
            self._loop.poll()

    def _begin(self, probe: Probe) -> bool:
        """Start a probe, or let it wait for a descriptor."""
        try:
            with probe.source.entered():
                probe.begin()
        except OSError:
            self._waiting.append(probe)
            return False
        return True

    def _one_done(self, probe: Probe) -> None:
        self._unfinished -= 1
        self._expecting -= probe.expects_answer
        if self._unfinished and not self._expecting:
            self._leave_silence(time.monotonic())
        if self._waiting:
            # Not from inside the probe that just ended: its callers are still at work.
            self._loop.at(time.monotonic(), self._begin_waiting)

    def _begin_waiting(self) -> None:
        for _probe in range(len(self._waiting)):
            if not self._begin(self._waiting.popleft()):
                self._waiting.rotate(1)  # it keeps its place
                return

    def _leave_silence(self, now: float) -> None:
        """Only datagrams are left that nobody has to answer: wait as long as an answer could take, by all others."""
        rtts = [rtt for result in self._results if result.layer in _PROMPT for rtt in result.rtts]
        left = [probe for probe in self._probes if not probe.done]
        if not rtts or not all(probe.started for probe in left):
            return
        end = max(probe.last_send for probe in left) + max(SILENCE, SILENCE_FACTOR * max(rtts))
        if now < end:
            self._loop.at(end, lambda: self._leave_silence(time.monotonic()))
            return
        for probe in left:
            _expire(probe)

    def finish(self) -> None:
        """Judge what is unfinished, close everything, write the results."""
        never = set(map(id, self._waiting))
        for probe in self._probes:
            if probe.done:
                continue
            if id(probe) in never:
                probe.finish("error", "not probed: no file descriptor was free before the deadline")
            elif not probe.started:
                probe.finish("error", "not probed: the deadline came first")
            else:
                _expire(probe)
        if never:
            self.missing("probes", f"{len(never)} probes", "the limit on open files (RLIMIT_NOFILE) is too low")
        self._waiting.clear()
        for source in self._sources:
            with contextlib.suppress(OSError):
                source.close()
        self._loop.close()
        self._report["results"] = [result.as_dict() for result in self._results]
        self._report["finished"] = time.time()


def _expire(probe: Probe) -> None:
    try:
        probe.expire()
    except OSError as exc:
        probe.fail(exc)
    except Exception as exc:  # as in Probe.begin()
        probe.crash(exc)


@contextlib.contextmanager
def _descriptors(wanted: int) -> Iterator[None]:
    """Raise the soft limit on open files for the body, as far as it may be raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    raised = soft != resource.RLIM_INFINITY and target > soft
    if raised:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    try:
        yield
    finally:
        if raised:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The path MTU to many targets from many namespaces in two timeouts: the whole of what mtu_probe does on a host.

All targets are searched at the same time and share one deadline. Sources of the method: RFC 1191, RFC 8201 (what
routers answer), RFC 4821 and RFC 8899 (searching where they do not), ip(7), ipv6(7).
"""

from __future__ import annotations

import contextlib
import socket
import time
import typing as t

from ansible_collections.crosshost.doctor.plugins.module_utils import _pmtu_route, _probe_socket
from ansible_collections.crosshost.doctor.plugins.module_utils._pmtu_channel import (
    DatagramChannel,
    EchoChannel,
    SynChannel,
    Ticket,
    Trouble,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._pmtu_search import FLOOR
from ansible_collections.crosshost.doctor.plugins.module_utils._pmtu_track import FrugalTrack, Trace, Track, describe
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_base import (
    check_address,
    check_target,
    payload,
    summary,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_loop import Loop
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_source import Source

SCHEMA = "1"
PROTOCOLS = ("icmp", "tcp", "udp")
MIN_TIMEOUT, MAX_TIMEOUT = 0.1, 30.0
MAX_TARGETS = 512
MAX_PACKETS, MAX_BYTES = 50000, 256 << 20  # of one call
MAX_MARK = 64
CLOSED_PORT = 33434  # where traceroute(8) begins, for the same reason: nobody listens there
DEFAULT_TCP_PORT = 7
BEYOND = 512  # bytes by which a packet that may be fragmented exceeds the interface, so that it has to be
FALLBACK_AFTER = 0.4  # of the timeout
SPACING = 0.3  # of the timeout, between the tries of a packet that may be fragmented
FRAGMENT_TRIES = 3
LINGER = 0.2  # seconds, for what a trace brings

Report = dict[str, t.Any]


def _known(size: int | None) -> int:
    """A size that has to be known by now."""
    if size is None:
        raise AssertionError("the first volley settles what is asked for here")
    return size


def new_report(mark: str = "") -> Report:
    """An empty result: all keys, nothing found."""
    return {"schema": SCHEMA, "started": 0.0, "finished": 0.0, "mark": mark, "missing": [], "results": []}


def run(options: dict[str, t.Any], report: Report) -> None:
    """Search as O(options) say and fill C(report), which stays valid whatever happens.

    Takes two timeouts at most, and a moment. Nothing is raised for what is found on the network or missing on the host.
    """
    call = _Call(options, report)
    try:
        call.prepare()
        call.run()
    except Exception as exc:  # what was found so far is worth more than the traceback
        call.missing("mtu", "the rest of the targets", f"internal error: {type(exc).__name__}: {exc}")
    finally:
        call.finish()


class Budget:
    """Packets and bytes that the whole call may still send."""

    def __init__(self) -> None:
        self.packets, self.bytes = MAX_PACKETS, MAX_BYTES

    def take(self, size: int) -> None:
        """@raises OSError: it is used up."""
        if self.packets <= 0 or self.bytes < size:
            raise OSError("the call has sent all it may")
        self.packets -= 1
        self.bytes -= size


class Channels:
    """The sockets of one source, opened when first needed and shared by its targets."""

    def __init__(self, source: Source, loop: Loop) -> None:
        self.source, self._loop = source, loop
        self._echo: dict[tuple[int, str | None], EchoChannel] = {}
        self._syn: dict[tuple[int, str | None], SynChannel] = {}
        self._datagram: list[DatagramChannel] = []

    def echo(self, family: int, address: str | None) -> EchoChannel:
        """@raises OSError: neither a raw nor a ping socket is allowed."""
        if (family, address) not in self._echo:
            with self.source.entered():
                self._echo[family, address] = EchoChannel(self.source, self._loop, family, address)
        return self._echo[family, address]

    def syn(self, family: int, address: str | None) -> SynChannel:
        """@raises OSError: a raw socket is not allowed."""
        if (family, address) not in self._syn:
            with self.source.entered():
                self._syn[family, address] = SynChannel(self.source, self._loop, family, address)
        return self._syn[family, address]

    def datagram(self, family: int, address: str | None) -> DatagramChannel:
        """@raises OSError: no descriptor, or the address is not there."""
        with self.source.entered():
            channel = DatagramChannel(self.source, self._loop, family, address)
        self._datagram.append(channel)
        return channel

    def close(self) -> None:
        channels: list[EchoChannel | SynChannel | DatagramChannel] = [*self._echo.values(), *self._syn.values()]
        for channel in [*channels, *self._datagram]:
            channel.close()
        self.source.close()


class Target:
    """One address, the methods at work on it, and what they found."""

    def __init__(
        self, options: dict[str, t.Any], channels: Channels, loop: Loop, timeout: float, mark: str, budget: Budget
    ) -> None:
        self.id = str(options.get("id", ""))
        self.address = str(options.get("address") or "")
        self._options, self._channels, self._loop = options, channels, loop
        self._timeout, self._mark, self._budget = timeout, mark, budget
        self.error: str | None = None
        self.done = False
        self.tracks: dict[str, Track] = {}
        self._route: _pmtu_route.Route | None = None
        self._route_after: _pmtu_route.Route | None = None
        self._tried: int | None = None
        self._number = 0
        self._fragment_length = 0
        self._fragment_answered = False
        self._fragments_sent = 0
        self._fragments_over = False
        self._fell_back = False
        self._trace: Trace | None = None
        self._trace_until = 0.0
        self._family: int = socket.AF_INET
        self._source: str | None = options.get("source") or None
        self._protocols: list[str] = []

    def prepare(self) -> None:
        """Check what is asked for and look up the route, inside the namespace."""
        try:
            self._family = check_target(self.address)
            if self._source and check_address(self._source).version != self._version:
                raise ValueError(f"source {self._source} and target are of different families")
            self._protocols = [str(word) for word in self._options.get("protocols") or PROTOCOLS]
            if strange := [word for word in self._protocols if word not in PROTOCOLS]:
                raise ValueError(f"protocol {strange[0]!r} must be one of {', '.join(PROTOCOLS)}")
            if not 0 < int(self._options.get("port") or DEFAULT_TCP_PORT) < 65536:
                raise ValueError("a port is a number from 1 to 65535")
            self._sockaddr = _probe_socket.socket_address(self._family, self.address, 0)
            self._route = _pmtu_route.look_up(self.address, self._source)
        except (OSError, ValueError) as exc:
            self.fail(str(exc))
            return
        largest = self._options.get("largest") or self._route.local_mtu
        self._tried = max(FLOOR, min(int(largest), self._route.local_mtu))

    @property
    def _version(self) -> int:
        return 4 if self._family == socket.AF_INET else 6

    def fail(self, why: str) -> None:
        self.error, self.done = why, True

    def start(self) -> None:
        """Send the first volley."""
        if self.done:
            return
        if "icmp" in self._protocols:
            self._begin("icmp")
            self._send_fragmented()
            self._loop.at(time.monotonic() + self._timeout * FALLBACK_AFTER, self._fall_back)
        else:
            self._fall_back()

    def _fall_back(self) -> None:
        """Echo is not answered: try what cannot be filtered without breaking more."""
        track = self.tracks.get("icmp")
        if self.done or self._fell_back or (track is not None and track.search.low is not None):
            return
        self._fell_back = True
        for method in ("tcp", "udp"):
            if method in self._protocols and method not in self.tracks:
                self._begin(method)
        self._check()

    def _begin(self, method: str, first: list[int] | None = None) -> None:
        """Open what the method needs and start it, with the sizes C(first); without the right to, it is not tried."""
        kind = FrugalTrack if method == "udp" else Track
        tried = _known(self._tried)
        transmit = {"icmp": self._echo, "tcp": self._syn, "udp": self._datagram}[method]
        track = kind(method, self._loop, self._version, tried, self._timeout, transmit, self._check)
        track.search.first = sorted(set(first)) if first else track.search.first
        self.tracks[method] = track
        try:
            with self._channels.source.entered():
                if method == "icmp":
                    self._channels.echo(self._family, self._source)
                elif method == "tcp":
                    self._channels.syn(self._family, self._source)
                else:
                    self._udp = self._channels.datagram(self._family, self._source)
                    self._udp.connect((self._sockaddr[0], CLOSED_PORT, *self._sockaddr[2:]))
        except OSError as exc:
            track.error = exc.strerror or str(exc)
            track.done = True
            return
        track.start()

    def _text(self) -> bytes:
        self._number += 1
        return payload(self._mark, self.id, self._number - 1)

    def _echo(self, ticket: Ticket) -> None:
        self._budget.take(ticket.size)
        address: tuple[t.Any, ...] = self._sockaddr
        if self._family == socket.AF_INET6:
            address = (address[0], 0, 0, address[3])
        self._channels.echo(self._family, self._source).send(address, self._text(), ticket)

    def _syn(self, ticket: Ticket) -> None:
        self._budget.take(ticket.size)
        own = self._source or (self._route.source if self._route else None) or self.address
        port = int(self._options.get("port") or DEFAULT_TCP_PORT)
        self._channels.syn(self._family, self._source).send(self._sockaddr, own, port, self._text(), ticket)

    def _datagram(self, ticket: Ticket) -> None:
        self._budget.take(ticket.size)
        self._udp.send(self._text(), ticket)

    def _send_fragmented(self) -> None:
        """A packet that has to be fragmented: by this host at least, by routers where the path takes less."""
        if self._fragment_answered or self.done or self._route is None:
            return
        if self._fragments_sent >= FRAGMENT_TRIES:
            self._fragments_over = True
            self._check()
            return
        self._fragment_length = min(self._route.local_mtu + BEYOND, _pmtu_route.MAX_PACKET)
        if self._fragment_length <= self._route.local_mtu:
            return
        ticket = Ticket(self._fragment_length, self._came_fragmented, _ignore, fragment=True)
        with contextlib.suppress(OSError):
            self._echo(ticket)
            self._fragments_sent += 1
            self._loop.at(time.monotonic() + self._timeout * SPACING, self._send_fragmented)

    def _came_fragmented(self, ticket: Ticket, at: float, sender: str) -> None:
        self._fragment_answered = True
        self._check()

    def _check(self) -> None:
        """Look whether everything that is under way has come to its end."""
        if self.done:
            return
        echo = self.tracks.get("icmp")
        if echo is not None and echo.done and echo.search.low is None and not self._fell_back:
            self._fall_back()  # which looks again
            return
        if self._pending(echo):
            return
        if echo is not None and self._is_black_hole(echo) and self._trace is None:
            self._follow_up(echo)
            return
        if self._trace is not None and time.monotonic() < self._trace_until:
            return
        if self._fragments_sent and not (self._fragment_answered or self._fragments_over):
            return
        self.done = True
        for track in self.tracks.values():
            track.stop()

    def _pending(self, echo: Track | None) -> bool:
        """Whether a method is still at work whose outcome matters."""
        under_way = [track for track in self.tracks.values() if not track.done]
        if echo is not None and echo.search.low is None:
            # Silent echoes are repeated to the end; what answered instead decides.
            return not any(track.done and track.search.low is not None for track in self.tracks.values()) and (
                bool(under_way) or not self._fell_back
            )
        return bool(under_way)

    def _is_black_hole(self, track: Track) -> bool:
        high = track.search.high
        return track.search.limited and high is not None and high not in track.search.refused

    def _follow_up(self, echo: Track) -> None:
        """Large echoes vanish: on which hop, and is it the request or the reply? A SYN's answer is small."""
        low, high = _known(echo.search.low), _known(echo.search.high)
        self._trace = Trace(high, FLOOR)
        for ticket in self._trace.tickets():
            with contextlib.suppress(OSError):
                self._echo(ticket)
                self._trace.sent += 1
        self._trace_until = time.monotonic() + max(LINGER, echo.patience)
        self._loop.at(self._trace_until, self._check)
        if "tcp" in self._protocols and "tcp" not in self.tracks:
            # Most likely the same limit: what fits, the next byte, and all of it in case only replies are lost.
            self._begin("tcp", [FLOOR, low, high, echo.search.largest])

    def look_again(self) -> None:
        """What the kernel has learned meanwhile, inside the namespace.

        An error about the outer packet of a tunnel reaches no socket of the inner one: the kernel alone learns of it.
        """
        if self._route is not None and self._best() is not None:
            with contextlib.suppress(OSError):
                self._route_after = _pmtu_route.look_up(self.address, self._source)

    @property
    def _learned(self) -> int | None:
        """A path MTU that the kernel has cached since the search began, or confirmed."""
        before, after = self._route, self._route_after
        if before is None or after is None or after.cached is None:
            return None
        return after.cached if before.cached != after.cached or after.expires >= before.expires else None

    def result(self) -> dict[str, t.Any]:
        """The row of the report."""
        row: dict[str, t.Any] = {
            "id": self.id,
            "address": self.address,
            "family": 6 if self._family == socket.AF_INET6 else 4,
            "verdict": "inconclusive",
            "path_mtu": None,
            "local_mtu": self._route.local_mtu if self._route else None,
            "interface": self._route.interface if self._route else None,
            "tried": self._tried,
            "reported": None,
            "cached": self._route.cached if self._route else None,
            "method": None,
            "exact": False,
            "fragmented": None,
            "hop": None,
            "next_hop": None,
            "sent": sum(track.sent for track in self.tracks.values()) + self._fragments_sent,
            "received": sum(len(track.rtts) for track in self.tracks.values()) + self._fragment_answered,
            "loss": None,
            "rtt": None,
            "detail": self.error,
        }
        if self._trace:
            row["sent"] += self._trace.sent
            row["hop"], row["next_hop"] = self._trace.last, self._trace.beyond
        echo = self.tracks.get("icmp")
        if self._fragments_sent and echo is not None and echo.search.low is not None:
            row["fragmented"] = {"length": self._fragment_length, "answered": self._fragment_answered}
        row["reported"] = self._reported()
        best = self._best()
        if best is None:
            row["detail"] = self.error or self._silence()
            return row
        row.update(self._verdict(best))
        row["method"], row["rtt"] = best.method, summary(best.rtts)
        row["loss"] = round(best.search.loss, 3)
        if row["verdict"] != "black-hole":
            row["hop"] = row["next_hop"] = None
        return row

    def _best(self) -> Track | None:
        """The method that proved the largest size; the first in order among equals."""
        found = [self.tracks[name] for name in PROTOCOLS if name in self.tracks]
        found = [track for track in found if track.search.low is not None]
        return max(found, key=lambda track: track.search.low or 0, default=None)

    def _reported(self) -> dict[str, t.Any] | None:
        found = [trouble for track in self.tracks.values() if (trouble := track.reported) is not None]
        if not found:
            learned, best = self._learned, self._best()
            known = learned is not None and best is not None and best.search.low == learned
            return {"mtu": learned, "sender": None} if known else None
        least = min(found, key=lambda trouble: trouble.mtu or 1 << 16)
        return {"mtu": least.mtu or None, "sender": least.sender}

    def _verdict(self, track: Track) -> dict[str, t.Any]:
        search = track.search
        low, high = _known(search.low), search.high
        found: dict[str, t.Any] = {"path_mtu": low, "exact": search.exact, "detail": None}
        if low >= search.largest:
            return {**found, "verdict": "clean", "detail": self._way_back(track)}
        if high is not None and not search.exact:
            found["detail"] = f"the limit is from {low} to {high - 1}: there was no time to find it to the byte"
        if high in search.refused or (search.exact and self._learned == low):
            return {**found, "verdict": "frag-needed"}
        if not search.limited:
            share = round(100 * search.loss)
            words = f"{share} % of the packets that fit were lost as well" if share else "too few packets were sent"
            return {**found, "verdict": "inconclusive", "detail": f"larger packets stay unanswered, but {words}"}
        if not found["detail"] and search.hint:
            found["detail"] = f"a router announced {search.hint}, which does not pass either"
        return {**found, "verdict": "black-hole"}

    def _way_back(self, track: Track) -> str | None:
        """What it means that connection requests of full size are answered and echoes are not."""
        echo = self.tracks.get("icmp")
        if track is echo or echo is None or echo.search.low is None:
            return None
        return (
            f"echoes above {echo.search.low} bytes stay unanswered, connection requests of {track.search.low} are "
            "answered: it is the way back that takes less"
        )

    def _silence(self) -> str:
        """Why nothing is known."""
        refusals = [trouble for track in self.tracks.values() if (trouble := track.refusal) is not None]
        if refusals:
            return f"nothing was answered: {describe(refusals[-1], self._family)}"
        errors = sorted({track.error for track in self.tracks.values() if track.error})
        if errors and all(track.error for track in self.tracks.values()):
            return f"nothing could be sent: {'; '.join(errors)}"
        return f"nothing was answered by {', '.join(self.tracks) or 'any protocol'}"


def _ignore(ticket: Ticket, trouble: Trouble) -> None:
    """Errors about a packet that only asks whether fragments arrive."""


class _Call:
    """The targets of one call."""

    def __init__(self, options: dict[str, t.Any], report: Report) -> None:
        self._options, self._report = options, report
        timeout = min(max(float(options.get("timeout") or 1.0), MIN_TIMEOUT), MAX_TIMEOUT)
        self._timeout = timeout
        self._loop = Loop(time.monotonic() + 2 * timeout)
        self._budget = Budget()
        self._channels: list[Channels] = []
        self._targets: list[tuple[Channels, list[Target]]] = []
        mark = "".join(c if c.isascii() and (c.isalnum() or c in "._:-") else "_" for c in report["mark"])
        self._mark = mark[:MAX_MARK]
        report["started"] = time.time()

    def missing(self, section: str, what: str, why: str) -> None:
        self._report["missing"].append({"section": section, "what": what, "why": why})

    def prepare(self) -> None:
        """Open the namespaces and look up the routes; nothing is sent yet."""
        room, total = MAX_TARGETS, 0
        for options in self._options.get("sources") or []:
            wanted = options.get("targets") or []
            total += len(wanted)
            source = Source(options, self._loop, self._report["missing"])
            channels = Channels(source, self._loop)
            self._channels.append(channels)
            targets = [
                Target(one, channels, self._loop, self._timeout, self._mark, self._budget) for one in wanted[:room]
            ]
            room -= len(targets)
            self._targets.append((channels, targets))
            why = self._open(source, targets)
            for target in targets if why else []:
                target.fail(f"its network namespace cannot be entered: {why}")
        if total > MAX_TARGETS:
            self.missing("mtu", f"{total - MAX_TARGETS} of {total} targets", f"one call takes at most {MAX_TARGETS}")

    def _open(self, source: Source, targets: list[Target]) -> str | None:
        try:
            source.prepare()
            with source.entered():
                for target in targets:
                    target.prepare()
        except OSError as exc:
            why = f"{exc.strerror}: {exc.filename}" if exc.strerror and exc.filename else exc.strerror or str(exc)
            self.missing("namespace", source.label, why)
            return why
        return None

    def run(self) -> None:
        """Send every first volley, then serve all of them until they are done or the deadline has come."""
        everything = [target for _channels, targets in self._targets for target in targets]
        # Opening namespaces takes a moment of its own, and sending to many as well.
        self._loop.deadline = time.monotonic() + 2 * self._timeout
        for channels, targets in self._targets:
            for target in targets:
                with channels.source.entered():
                    target.start()
                self._loop.poll()
        self._loop.run(lambda: all(target.done for target in everything))

    def finish(self) -> None:
        for channels, targets in self._targets:
            with contextlib.suppress(OSError), channels.source.entered():
                for target in targets:
                    target.look_again()
        for channels in self._channels:
            with contextlib.suppress(OSError):
                channels.close()
        self._loop.close()
        self._report["results"] = [target.result() for _channels, targets in self._targets for target in targets]
        self._report["finished"] = time.time()

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""DNS: ask nameservers for a name's addresses as a resolver does, and keep what each step showed."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ansible_collections.crosshost.doctor.plugins.module_utils import _dns, _probe_base
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_dnsnet import TcpQuestion, UdpServer

_RETRY_SPAN = 0.75  # of the time left is for repeating the question; the rest for the last answer
_SEEN_LATE = 0.005  # seconds
_MAX_NOTES = 16
# A name without an address says more than a failure of a server, and that more than "no such name".
_PRECEDENCE = ("nodata", "servfail", "refused", "error", "nxdomain")


@dataclass
class _Query:
    server: str
    sent_at: float
    name: str
    qtype: str


class DnsProbe(_probe_base.Probe):
    """Looks up one name.

    With a server the name is asked as it is; without, the source's nameservers and search list are used the way the
    GNU C library does: the next name after "no such name" or "no address", the next server after a failure or when
    an answer is late. The same question goes to each server C(count) times within the deadline. A truncated answer
    is asked for again by TCP. The first conclusive answer ends it.
    """

    def start(self) -> None:
        self._questions: list[tuple[str, str]] = []
        self._position = -1
        self._turns: Iterator[str] = iter(())
        self._turn_number = 0
        self._pending: dict[int, _Query] = {}
        self._udp: dict[str, UdpServer] = {}
        self._tcp: TcpQuestion | None = None
        self._dead: dict[str, str] = {}  # server -> status: cannot be reached, not asked again
        self._failed: dict[str, str] = {}  # server -> status, for the question under way
        self._seen: dict[str, str] = {}  # status of a question that got no address -> its name
        self._notes: list[str] = []
        try:
            self._servers, names = self._plan()
        except (OSError, ValueError) as exc:
            self.finish("error", str(exc))
            return
        types = [self.request.qtype] if self.request.qtype else list(_dns.TYPES)
        self._questions = [(name, qtype) for name in names for qtype in types]
        self.result.server = self._servers[0]
        self._next_question()

    def _plan(self) -> tuple[list[str], list[str]]:
        """(nameservers, names to try).

        @raises OSError: there is no resolver configuration.
        @raises ValueError: it names no usable server, or the name is none.
        """
        name = self.request.name or ""
        if self.request.server:
            servers, names = [self.request.server], [name.rstrip(".")]
        else:
            config = self.source.resolver
            servers, names = [one for one in config.nameservers if _usable(one)], config.candidates(name)
        if not servers:
            raise ValueError("the resolver configuration names no usable nameserver")
        for candidate in names:
            _dns.encode_name(candidate)
        return servers, names

    # -- which question to which server ------------------------------------------------------------------------------

    def _next_question(self, skip_name: str | None = None) -> None:
        self._position += 1
        while self._position < len(self._questions) and self._questions[self._position][0] == skip_name:
            self._position += 1
        if self._position >= len(self._questions):
            status = next(status for status in _PRECEDENCE if status in self._seen)
            self.result.name = self._seen[status]
            self.finish(status)
            return
        self._transport = self.request.transport
        self._failed = dict(self._dead)
        self._pending.clear()
        rounds = max(1, self.settings.count) * len(self._servers)
        self._step = max(0.02, (self.loop.deadline - time.monotonic()) * _RETRY_SPAN / rounds)
        self._turns = itertools.islice(itertools.cycle(self._servers), rounds)
        self._turn()

    def _turn(self) -> None:
        """Ask the next server that has not failed; and the one behind it, if no answer comes in time."""
        self._turn_number += 1
        number = self._turn_number
        server = next((one for one in self._turns if one not in self._failed), None)
        if server is None:
            return  # all were asked often enough: an answer or the deadline will come
        if self._transport == "udp":
            self.at(time.monotonic() + self._step, lambda: self._late(number))
            self._ask_udp(server)
        else:
            others = [one for one in self._servers if one not in self._failed and one != server]
            if others:
                left = self.loop.deadline - time.monotonic()
                self.at(time.monotonic() + left / (len(others) + 1), lambda: self._late(number))
            self._ask_tcp(server)

    def _late(self, number: int) -> None:
        if number != self._turn_number:
            return
        if self._tcp:
            self._tcp.stop()
            self._tcp = None
        self._turn()

    def _message(self, server: str) -> bytes:
        name, qtype = self._questions[self._position]
        ident = int.from_bytes(os.urandom(2), "big")
        self._pending[ident] = _Query(server, time.monotonic(), name, qtype)
        self.result.sent += 1
        return _dns.encode_query(ident, name, qtype)

    def _ask_udp(self, server: str) -> None:
        if server not in self._udp:
            self._udp[server] = UdpServer(
                self,
                server,
                lambda data, at, ttl: self._on_message(server, "udp", data, at, ttl),
                lambda status, detail: self._unusable(server, status, detail),
            )
        self._udp[server].ask(self._message(server))

    def _ask_tcp(self, server: str) -> None:
        self._tcp = TcpQuestion(
            self,
            server,
            self._message(server),
            lambda data, at, ttl: self._on_message(server, "tcp", data, at, ttl),
            lambda status, detail: self._unusable(server, status, detail),
        )
        self._tcp.ask()

    # -- what came back ----------------------------------------------------------------------------------------------

    def _on_message(self, server: str, transport: str, data: bytes, at: float, ttl: int | None) -> None:
        try:
            answer = _dns.decode(data)
        except _dns.DnsError as exc:
            self._note(server, transport, f"a malformed answer: {exc}")
            return
        query = self._pending.get(answer.ident)
        if query is None or query.server != server:
            self._note(server, transport, "an answer with an id that was not asked for (late, or forged)")
            return
        if answer.question and answer.question != (query.name.lower(), _dns.TYPES[query.qtype]):
            self._note(server, transport, f"an answer to another question: {answer.question[0]}")
            return
        self._book(query, at, transport)
        self.result.ttl = ttl
        if answer.truncated and transport == "udp":
            self._transport = "tcp"
            self._pending.clear()
            self._turns = itertools.chain([server], self._turns)
            self.result.detail = "the answer by UDP was truncated: asked again by TCP"
            self._turn()
            return
        self._on_answer(answer, query)

    def _note(self, server: str, transport: str, what: str) -> None:
        """Something that is no answer. By UDP the answer may still come; a connection has no second one."""
        if len(self._notes) < _MAX_NOTES:
            self._notes.append(f"{server} sent {what}")
        if transport == "tcp":
            self._server_failed(server, "error")

    def _book(self, query: _Query, at: float, transport: str) -> None:
        """Count an answer. Questions sent too recently to be answered yet no longer count as sent."""
        rtt = max(0.0, at - query.sent_at)
        later = [one for one in self._pending.values() if one.sent_at > query.sent_at]
        self.result.sent -= sum(1 for one in later if at - one.sent_at < 2 * rtt + _SEEN_LATE)
        self.result.received += 1
        self.result.rtts.append(rtt)
        self.result.server = self.result.remote = query.server
        self.result.transport = transport

    def _on_answer(self, answer: _dns.Answer, query: _Query) -> None:
        self.result.rcode = answer.rcode_name
        self.result.name = query.name
        if answer.rcode == 0 and answer.addresses:
            self.result.answers = answer.addresses[: _probe_base.MAX_ANSWERS]
            self.result.errno = None
            self.finish("ok")
        elif answer.rcode == 0:
            self._seen.setdefault("nodata", query.name)
            self._next_question()
        elif answer.rcode_name == "NXDOMAIN":
            self._seen.setdefault("nxdomain", query.name)
            self._next_question(query.name)
        else:
            status = {"SERVFAIL": "servfail", "REFUSED": "refused"}.get(answer.rcode_name, "error")
            self.result.detail = f"{query.server} answered {answer.rcode_name}"
            self._server_failed(query.server, status)

    def _unusable(self, server: str, status: str, detail: str) -> None:
        """The network, not the server, said no: it would say so again."""
        self.result.detail = detail
        self._dead[server] = status
        self._server_failed(server, status)

    def _server_failed(self, server: str, status: str) -> None:
        self._failed[server] = status
        self._pending = {ident: one for ident, one in self._pending.items() if one.server != server}
        if any(one not in self._failed for one in self._servers):
            if not self._pending:
                self._turn()
            return
        told = {self._failed[one] for one in self._servers if one not in self._dead}
        if told:  # as the C library: at least one server answered, so the next name may have more luck
            name = self._questions[self._position][0]
            self._seen.setdefault(next(status for status in _PRECEDENCE if status in told), name)
            self._next_question(name)
        else:
            statuses = set(self._dead.values())
            self.finish(next((one for one in ("refused", "unreachable", "timeout") if one in statuses), "error"))

    def expire(self) -> None:
        status = self._tcp.stop() if self._tcp else "timeout"
        if self.result.icmp_error:
            status = "unreachable"
        asked = " and ".join(self._servers)
        if self._notes:
            malformed = any("malformed" in note for note in self._notes)
            more = f" (and {len(self._notes) - 1} more)" if len(self._notes) > 1 else ""
            self.finish("error" if malformed else status, self._notes[0] + more)
        elif 0 <= self._position < len(self._questions):
            self.result.name = self._questions[self._position][0]
            self.finish(status, f"no answer for {self.result.name} from {asked}")
        else:
            self.finish(status)


def _usable(server: str) -> bool:
    try:
        _probe_base.check_target(server)
    except ValueError:
        return False
    return True

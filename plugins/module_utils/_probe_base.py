# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every probe has in common: what was asked, what was found, and a life from start to finish.

A result is filled in place from the first packet on, so that whatever happens later, what was seen stays.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import ipaddress
import math
import socket
import time
import typing as t
from collections.abc import Callable
from dataclasses import dataclass, field

from ansible_collections.crosshost.doctor.plugins.module_utils import _dns, _icmp, _probe_socket
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_loop import Loop

if t.TYPE_CHECKING:
    from ansible_collections.crosshost.doctor.plugins.module_utils._probe_source import Source

LAYERS = ("icmp", "tcp", "udp", "dns", "http")
PAYLOADS = ("mark", "tunnel")
TRANSPORTS = ("udp", "tcp")
MARK_PREFIX = b"crosshost.doctor"
MAX_ID_IN_PAYLOAD = 96
MAX_ANSWERS = 64
MAX_DELAY = 2.0
MIN_SIZE, MAX_SIZE = 68, 65535  # what every IPv4 path takes (RFC 791), and what a length field holds
_DEFAULT_PORT = {"dns": 53, "http": 80}


@dataclass(frozen=True)
class Settings:
    """What holds for all probes of a call; C(interval) in seconds, C(body_limit) in bytes."""

    mark: str
    count: int
    interval: float
    body_limit: int


@dataclass(frozen=True)
class Request:
    """One probe as asked for, checked."""

    id: str
    layer: str
    address: str | None = None
    family: int = socket.AF_INET
    port: int = 0
    payload: str = "mark"
    name: str | None = None
    server: str | None = None
    transport: str = "udp"
    source: str | None = None
    path: str = "/"
    qtype: str | None = None
    size: int = 0  # bytes of the whole IP packet, 0 for as small as it is
    df: bool = False
    delay: float = 0.0  # seconds after the others

    @classmethod
    def parse(cls, options: dict[str, t.Any]) -> Request:
        """From the module's options.

        @raises ValueError: what is asked for cannot be probed; the text is for the user.
        """
        layer = options.get("layer")
        if layer not in LAYERS:
            raise ValueError(f"there is no layer {layer!r}")
        given = {
            key: options[key]
            for key in ("address", "payload", "name", "server", "transport", "source", "path", "qtype")
            if options.get(key)
        }
        for key, choices in (("payload", PAYLOADS), ("transport", TRANSPORTS), ("qtype", tuple(_dns.TYPES))):
            if given.get(key, choices[0]) not in choices:
                raise ValueError(f"{key} is {given[key]!r}, and must be {' or '.join(choices)}")
        if options.get("delay"):
            given["delay"] = float(options["delay"])
            if not 0 <= given["delay"] <= MAX_DELAY:
                raise ValueError(f"delay is {options['delay']}, and must be from 0 to {MAX_DELAY} seconds")
        if options.get("size") or options.get("df"):
            given.update(_sized(layer, options))
        port = options.get("port") or _DEFAULT_PORT.get(layer, 0)
        if layer != "icmp" and not 0 < port < 65536:
            raise ValueError(f"layer {layer} needs a port from 1 to 65535")
        if layer == "dns":
            if not given.get("name"):
                raise ValueError("layer dns needs a name")
            address = given.get("server")
        else:
            address = given.get("address")
            if not address:
                raise ValueError(f"layer {layer} needs an address")
        family = check_target(address) if address else socket.AF_INET
        if given.get("source") and check_address(given["source"]).version != (4 if family == socket.AF_INET else 6):
            raise ValueError(f"source {given['source']} and target are of different families")
        return cls(str(options["id"]), layer, port=port, family=family, **given)


def _sized(layer: str, options: dict[str, t.Any]) -> dict[str, t.Any]:
    """@raises ValueError: only an echo has a size, and it has to hold its own headers."""
    size = int(options.get("size") or 0)
    if layer != "icmp":
        raise ValueError(f"layer {layer} has no size and no df, only icmp has")
    if size and not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size is {size}, and must be from {MIN_SIZE} to {MAX_SIZE}")
    return {"size": size, "df": bool(options.get("df"))}


def check_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address in C(text), with or without a zone.

    @raises ValueError: it is a name or nothing at all: names are the dns layer's, looking one up would block.
    """
    host, percent, zone = text.partition("%")
    try:
        address = ipaddress.ip_address(host)
    except ValueError as exc:
        raise ValueError(f"{text!r} is not an IP address") from exc
    if percent and (address.version == 4 or not zone):
        raise ValueError(f"{text!r} is not an IP address")
    return address


def check_target(text: str) -> int:
    """The address family of a target that one host can answer for.

    @raises ValueError: not an address, or one that stands for many or for none.
    """
    address = check_address(text)
    if address.is_multicast or address.is_unspecified or text == "255.255.255.255":
        raise ValueError(f"{text} is not the address of one host")
    if address.version == 6 and address.is_link_local and "%" not in text:
        raise ValueError(f"{text} is link-local: name the interface, as in {text}%eth0")
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


@dataclass
class Result:
    """What a probe found, in the words of the module's RETURN."""

    id: str
    layer: str | None
    address: str | None = None
    port: int | None = None
    status: str = "error"
    sent: int = 0
    received: int = 0
    duplicates: int = 0
    ttl: int | None = None
    seconds: float = 0.0
    remote: str | None = None
    local: str | None = None
    local_port: int | None = None
    icmp_error: dict[str, t.Any] | None = None
    errno: str | None = None
    detail: str | None = None
    bytes: int | None = None
    http_status: int | None = None
    stage: str | None = None
    retransmits: int | None = None
    mss: int | None = None
    answers: list[str] = field(default_factory=list)
    rcode: str | None = None
    name: str | None = None
    server: str | None = None
    transport: str | None = None
    rtts: list[float] = field(default_factory=list)

    def as_dict(self) -> dict[str, t.Any]:
        """The result as the module returns it, C(rtts) reduced to C(rtt)."""
        found = dict(vars(self))
        found["rtt"] = summary(found.pop("rtts"))
        found["seconds"] = round(self.seconds, 6)
        return found


def summary(rtts: list[float]) -> dict[str, float] | None:
    """Minimum, average, maximum and mean deviation of round trips, as ping(8) computes them."""
    if not rtts:
        return None
    average = sum(rtts) / len(rtts)
    variance = sum(value * value for value in rtts) / len(rtts) - average * average
    found = {"min": min(rtts), "avg": average, "max": max(rtts), "mdev": math.sqrt(max(0.0, variance))}
    return {key: round(value, 6) for key, value in found.items()}


def payload(mark: str, probe_id: str, seq: int) -> bytes:
    """What our datagrams carry, for taps and for people who read packet dumps: prefix, mark, probe, number."""
    name = probe_id.encode("ascii", "replace")[:MAX_ID_IN_PAYLOAD]
    return b" ".join((MARK_PREFIX, mark.encode("ascii", "replace"), name, b"%d" % seq))


def icmp_error(family: int, kind: int, code: int, sender: str | None) -> dict[str, t.Any]:
    """An ICMP error as results show it."""
    return {"type": kind, "code": code, "sender": sender, "name": _icmp.error_name(family, kind, code)}


def explain(result: Result) -> str | None:
    """What an ICMP error means that our own kernel sent, in words; None for one from somebody else."""
    error = result.icmp_error
    if not error or not result.local or error["sender"] != result.local:
        return None
    if error["name"] in ("host-unreachable", "address-unreachable"):
        return "no answer to ARP or neighbour discovery"
    return "rejected by a packet filter on the way out of its own namespace"


def local_name(sock: socket.socket) -> tuple[str | None, int | None]:
    """The address and port the kernel chose, if it has: with them the packet filter's view of a flow is known."""
    try:
        name = sock.getsockname()
    except OSError:
        return None, None
    address = str(name[0]).partition("%")[0]
    return (None, None) if address in ("0.0.0.0", "::") else (address, int(name[1]))


class Probe(abc.ABC):
    """A probe under way. Subclasses send and listen; they end with C(finish), or at the deadline with C(expire)."""

    expects_answer: t.ClassVar[bool] = True

    def __init__(self, request: Request, result: Result, source: Source, loop: Loop, settings: Settings) -> None:
        self.request, self.result, self.source, self.loop, self.settings = request, result, source, loop, settings
        self.family = request.family
        self.done = False
        self.on_done: Callable[[], None] = lambda: None
        self.started = 0.0
        self._sockets: list[socket.socket] = []

    def begin(self) -> None:
        """Start; runs inside the source's namespace.

        @raises OSError: EMFILE, ENFILE: no descriptor is free now; it can be begun again later.
        """
        self.started = time.monotonic()
        try:
            self.start()
        except OSError as exc:
            if exc.errno in _probe_socket.NO_DESCRIPTORS and not self.result.sent:
                self.close()
                self.started = 0.0
                raise
            self.fail(exc)
        except Exception as exc:  # one probe's defect must not cost the others' evidence
            self.crash(exc)

    @abc.abstractmethod
    def start(self) -> None:
        """Send the first packets."""

    @abc.abstractmethod
    def expire(self) -> None:
        """The deadline has come: judge by what there is and C(finish)."""

    @property
    def last_send(self) -> float:
        """When the last of C(count) packets is or was due."""
        return self.started + (self.settings.count - 1) * self.settings.interval

    def guard(self, callback: Callable[[], None]) -> Callable[[], None]:
        """The callback for the loop: silent once the probe is done, and never raising."""

        def guarded() -> None:
            if self.done:
                return
            try:
                callback()
            except OSError as exc:
                self.fail(exc)
            except Exception as exc:  # as in begin()
                self.crash(exc)

        return guarded

    def at(self, when: float, callback: Callable[[], None]) -> None:
        self.loop.at(when, self.guard(callback))

    def watch(self, sock: socket.socket, events: int, callback: Callable[[], None]) -> None:
        self.loop.watch(sock, events, self.guard(callback))

    def open(self, family: int, kind: int) -> socket.socket:
        """A non-blocking socket in the source's namespace, closed with the probe at the latest.

        @raises OSError: no descriptor, or the asked-for source address is not there.
        """
        sock = self.source.open(family, kind)
        self._sockets.append(sock)
        _probe_socket.error_queue(sock)
        if self.request.source:
            sock.bind(_probe_socket.socket_address(family, self.request.source, 0))
        return sock

    def drop(self, sock: socket.socket) -> None:
        """Close one socket."""
        self.loop.forget(sock)
        with contextlib.suppress(OSError):
            sock.close()
        if sock in self._sockets:
            self._sockets.remove(sock)

    def close(self) -> None:
        """Close every socket of the probe."""
        for sock in list(self._sockets):
            self.drop(sock)

    def finish(self, status: str, detail: str | None = None) -> None:
        """Set the verdict, once; what is asked for later is ignored."""
        if self.done:
            return
        self.done = True
        self.result.status = status
        detail = detail or (explain(self.result) if status == "unreachable" else None)
        if detail:
            self.result.detail = detail
        self.result.seconds = time.monotonic() - self.started if self.started else 0.0
        self.close()
        self.on_done()

    def fail(self, exc: OSError) -> None:
        """End with the error of a system call: the network or a filter said no, or something is wrong here."""
        if exc.errno is None:
            self.finish("error", str(exc))
            return
        self.result.errno = _probe_socket.errno_name(exc.errno)
        if exc.errno in _probe_socket.REFUSED:
            status = "refused" if self.request.layer != "icmp" else "unreachable"
        else:
            status = "unreachable" if exc.errno in _probe_socket.UNREACHABLE else "error"
        self.finish(status, _probe_socket.meaning(exc.errno))

    def crash(self, exc: Exception) -> None:
        """End with a defect of ours, in one line."""
        self.finish("error", f"internal error: {type(exc).__name__}: {exc}")

    def queued(self, sock: socket.socket) -> list[_probe_socket.QueuedError]:
        """The socket's queued errors; ICMP errors other than "too big" are noted in the result."""
        errors = []
        for error in _probe_socket.queued_errors(sock):
            if error.number == errno.EMSGSIZE:
                continue
            if error.icmp:
                self.result.icmp_error = icmp_error(sock.family, error.type, error.code, error.sender)
            errors.append(error)
        return errors

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Why the kernel dropped packets: the tracepoint skb:kfree_skb for a few seconds.

A record has a reason (enum skb_drop_reason, Linux 5.17; its names are read from the running kernel, because numbers
change with every version), the address of the code that dropped, and the packet's protocol. It has no device and no
namespace: what belongs to a lost packet is told by the moment alone.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import select
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ansible_collections.crosshost.doctor.plugins.module_utils import _icmp
from ansible_collections.crosshost.doctor.plugins.module_utils._perf import (
    Format,
    Tracepoint,
    epoch_offset,
    parse_format,
    read_format,
)

LIMIT = 5000
KEPT = 100000  # times kept until it is known which moments matter
NEAR = 0.005  # seconds around such a moment
GROUPS = 128  # different (reason, place, protocol) kept; the rest is counted as lost
NO_REASON = "NOT_SPECIFIED"  # what the kernel itself says where it gives none
CALIBRATION_BURSTS = 5
CALIBRATION_ATTEMPTS = 3
CALIBRATION_PACKETS = 4
CALIBRATION_SLOT, CALIBRATION_SETTLE = 0.01, 0.03  # seconds
CALIBRATION_SECONDS = 0.25  # for one answer on loopback
CALIBRATION_SITES = 32  # more would make the kernel's filter expression longer than it accepts
CALIBRATION_PAYLOAD = b"crosshost.doctor calibration"
SYMBOLS = "/proc/kallsyms"
SYMBOLS_LIMIT = 128 << 20
SYMBOLS_BACK = 64  # lines before an address among which its function is looked for
_FIELDS = {"reason": "reason", "address": "location", "protocol": "protocol"}
_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


class Site(NamedTuple):
    """What a record says beyond its time."""

    reason: int
    address: int
    protocol: int  # ethertype


def unavailable(why: str) -> dict[str, Any]:
    """The result where nothing could be read."""
    return {
        "available": False,
        "why": why,
        "calibration": {},
        "lost": 0,
        "complete_since": None,
        "totals": [],
        "events": [],
    }


class Decoder:
    """Raw data of skb:kfree_skb as L(Site)."""

    def __init__(self, layout: Format) -> None:
        """@raises ValueError: the tracepoint has no place, or a field of a size nobody expects."""
        if "location" not in layout.fields:
            raise ValueError("skb:kfree_skb has no field location on this kernel")
        self.names = layout.symbols
        self.has_reason = "reason" in layout.fields
        pattern, position, order = "=", 0, []
        wanted = ((name, layout.fields[field]) for name, field in _FIELDS.items() if field in layout.fields)
        for name, (offset, size) in sorted(wanted, key=lambda row: row[1]):
            if size not in _CODES or offset < position:
                raise ValueError(f"skb:kfree_skb: field {name} of {size} bytes at {offset} was not expected")
            pattern += "x" * (offset - position) + _CODES[size]
            position = offset + size
            order.append(name)
        self._struct = struct.Struct(pattern)
        self._index = [order.index(name) if name in order else len(order) for name in Site._fields]

    def site(self, raw: bytes) -> Site | None:
        """None for data that is shorter than the layout says."""
        if len(raw) < self._struct.size:
            return None
        values = (*self._struct.unpack_from(raw), 0)  # a field this kernel does not have is 0
        reason, address, protocol = self._index
        return Site(values[reason], values[address], values[protocol])

    def name(self, reason: int) -> str:
        """C(NETFILTER_DROP); a number the kernel does not name stays a number."""
        if not self.has_reason:
            return NO_REASON
        return self.names.get(reason, f"{reason:#x}" if reason > 0xFFFF else str(reason))


class Kept:
    """A bounded number of times for each site: where it gets tight, the site with most gives its oldest away."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.times: dict[Site, deque[int]] = {}
        self.totals: Counter[Site] = Counter()
        self.beyond = 0  # of sites there was no room for at all
        self.complete_since: int | None = None  # nothing newer was given away
        self._count = 0

    def add(self, site: Site, stamp: int) -> None:
        kept = self.times.get(site)
        if kept is None:
            if len(self.times) >= GROUPS:
                self.beyond += 1
                return
            kept = self.times[site] = deque()
        self.totals[site] += 1
        kept.append(stamp)
        self._count += 1
        if self._count > self.limit:
            largest = max(self.times.values(), key=len)
            self.complete_since = max(self.complete_since or 0, largest.popleft())
            self._count -= 1

    def events(self) -> list[tuple[int, Site]]:
        """(time, site), oldest first."""
        return sorted((stamp, site) for site, stamps in self.times.items() for stamp in stamps)


class DropReader:
    """A source of drop reasons for a capture: C(fileno), C(drain), C(stop), C(result), C(close).

    Open it in the process that reads it (see L(Tracepoint)); it needs root, and sees the drops of every namespace.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        """Starts recording.

        @param limit: events kept at most.
        @raises OSError: this kernel, or these rights, have none; the text says why.
        """
        try:
            layout = parse_format(read_format("skb", "kfree_skb"))
            self._decoder = Decoder(layout)
        except ValueError as exc:
            raise OSError(str(exc)) from exc
        self._limit = limit
        self._kept = Kept(max(KEPT, limit))
        self._offset = epoch_offset()
        self._calibrated: dict[tuple[int, int], int] = {}
        self._lost = 0
        self._stopped = False
        self._result: dict[str, Any] | None = None
        self._tracepoint: Tracepoint | None = Tracepoint(layout.id)

    def fileno(self) -> int:
        return self._open().fileno()

    def _open(self) -> Tracepoint:
        if self._tracepoint is None:
            raise ValueError("the reader of drop reasons is closed")
        return self._tracepoint

    def drain(self) -> None:
        """Take what has arrived; bounded by the size of the rings."""
        known, site_of, kept = self._calibrated, self._decoder.site, self._kept
        for stamp, raw in self._open().read():
            site = site_of(raw)
            if site is not None and site[:2] not in known:
                kept.add(site, stamp)

    def calibrate(self) -> None:
        """Find out what sockets like those of our probes cause on a path that works, and leave it out from here on.

        A site (reason and place in the code) is left out when exchanges on loopback, all of them answered, hit it again
        and again, and it is at rest before and after. Reason alone would be too wide: NO_SOCKET in ping_rcv is an echo
        reply that a raw socket has already got, in __udp4_lib_rcv a tunnel port without a device.
        It takes a fifth of a second, or thrice that amid others' echoes; what was recorded before is forgotten.
        """
        for _attempt in range(CALIBRATION_ATTEMPTS):
            found = self._caused()
            if found is None:
                return  # loopback itself is filtered: nothing is known to be healthy
            self._calibrated = dict(Counter(found).most_common(CALIBRATION_SITES))
            if self._calibrated:
                break  # an echo always leaves something: if nothing stood out, too much else was going on
        if self._calibrated and self._decoder.has_reason:
            terms = (f"(reason != {reason} || location != {address:#x})" for reason, address in self._calibrated)
            # A kernel that cannot filter by place leaves it to L(drain).
            with contextlib.suppress(OSError):
                self._open().set_filter(" && ".join(terms))

    def _caused(self) -> dict[tuple[int, int], int] | None:
        """How often our exchanges hit which sites, as far as nobody else does; None when they are not answered."""
        self._counted()  # what came before
        slots, rests = [], [self._counted(CALIBRATION_BURSTS * CALIBRATION_SLOT)]
        for _burst in range(CALIBRATION_BURSTS):
            if not exchange():
                return None
            slots.append(self._counted(CALIBRATION_SLOT))
        # The kernel frees some sockets, and what is in their queues, only after an RCU grace period.
        slots.append(self._counted(CALIBRATION_SETTLE))
        rests.append(self._counted(CALIBRATION_BURSTS * CALIBRATION_SLOT))
        active, rest = _sum(slots), _sum(rests)
        found = {}
        for site, count in active.items():
            often = count >= CALIBRATION_BURSTS and sum(site in slot for slot in slots) >= CALIBRATION_BURSTS - 1
            # Once for each socket, or once for each packet; the latter may be amid others' of the same kind.
            if often and (
                not rest[site] or (count >= CALIBRATION_BURSTS * CALIBRATION_PACKETS and rest[site] * 2 < count)
            ):
                found[site] = count
        return found

    def _counted(self, wait: float = 0.0) -> Counter[tuple[int, int]]:
        """Hits by site since the last call and for C(wait) seconds from now on; they are not kept."""
        time.sleep(wait)
        found: Counter[tuple[int, int]] = Counter()
        for _stamp, raw in self._open().read():
            site = self._decoder.site(raw)
            if site is not None:
                found[site[:2]] += 1
        self._kept = Kept(self._kept.limit)
        return found

    def stop(self) -> None:
        """End the recording; what it found can still be asked for."""
        if not self._stopped:
            self._stopped = True
            self._open().stop()
            self.drain()
            self._lost = self._open().lost()

    def result(self, near: Iterable[float] = ()) -> dict[str, Any]:
        """End the recording and return what it found (REASONS of L(vxlan_capture)); the same again when asked again.

        @param near: moments that matter, as seconds of the epoch: where more events were recorded than may be returned,
            those around them are taken first. Without them it is the newest.
        """
        if self._result is None:
            self.stop()
            self._result = self._report([round(moment * 1e9) - self._offset for moment in near])
        return self._result

    def _selected(self, near: list[int]) -> Kept:
        if sum(len(stamps) for stamps in self._kept.times.values()) <= self._limit:
            return self._kept
        chosen, moments, width = Kept(self._limit), sorted(near), round(NEAR * 1e9)
        for stamp, site in self._kept.events():
            position = bisect.bisect_left(moments, stamp - width)
            if not moments or (position < len(moments) and moments[position] <= stamp + width):
                chosen.add(site, stamp)
        chosen.complete_since = max(chosen.complete_since or 0, self._kept.complete_since or 0) or None
        return chosen

    def _report(self, near: list[int]) -> dict[str, Any]:
        kept, name, offset = self._kept, self._decoder.name, self._offset
        chosen = self._selected(near)
        addresses = {site.address for site in kept.totals} | {address for _reason, address in self._calibrated}
        places = locate(addresses)
        return {
            "available": True,
            "why": None,
            "calibration": {
                f"{name(reason)}@{places[address]}": count for (reason, address), count in self._calibrated.items()
            },
            "lost": self._lost + kept.beyond,
            "complete_since": None if chosen.complete_since is None else (chosen.complete_since + offset) / 1e9,
            "totals": [{**_words(site, name, places), "count": count} for site, count in kept.totals.most_common()],
            "events": [
                {"time": (stamp + offset) / 1e9, **_words(site, name, places)} for stamp, site in chosen.events()
            ],
        }

    def close(self) -> None:
        """Give everything back to the kernel; nothing of the recording is left."""
        if self._tracepoint is not None:
            self._tracepoint.close()
            self._tracepoint = None


def _sum(counters: list[Counter[tuple[int, int]]]) -> Counter[tuple[int, int]]:
    total: Counter[tuple[int, int]] = Counter()
    for counter in counters:
        total.update(counter)
    return total


def _words(site: Site, name: Callable[[int], str], places: dict[int, str]) -> dict[str, Any]:
    return {"reason": name(site.reason), "protocol": site.protocol, "location": places[site.address]}


def locate(addresses: set[int], path: str = SYMBOLS) -> dict[int, str]:
    """Names of the functions that addresses lie in; the address itself where the kernel hides its symbols."""
    found = {address: f"{address:#x}" for address in addresses}
    if not addresses:
        return found
    try:
        with open(path, "rb") as stream:
            lines = sorted(stream.read(SYMBOLS_LIMIT).splitlines())
    except OSError:
        return found
    # Lines are C(address type name [module]) with addresses of one width: text sorts as the numbers do.
    width = lines[-1].find(b" ") if lines else 0
    if width <= 0 or not lines[-1][:width].strip(b"0"):
        return found  # all 0: kernel.kptr_restrict
    for address in addresses:
        # The address is that of the instruction after the call: one less is still inside of the function.
        position = bisect.bisect_right(lines, b"%0*x\xff" % (width, max(0, address - 1))) - 1
        for line in reversed(lines[max(0, position - SYMBOLS_BACK) : position + 1]):
            if line[width + 1 : width + 2] in (b"t", b"T", b"w", b"W"):
                found[address] = line[width + 3 :].split(maxsplit=1)[0].decode("utf-8", "replace")
                break
    return found


def exchange(packets: int = CALIBRATION_PACKETS) -> bool:
    """Echoes, datagrams and a TCP connection on loopback, as probes make them; False when one stays unanswered."""
    try:
        return _echoes(packets) and _datagrams(packets) and all(_connection() for _number in range(packets))
    except OSError:
        return False


def _echoes(packets: int) -> bool:
    """The raw socket sees requests and replies, and is closed with some of them unread, as probes' sockets are."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        ident = os.getpid() & 0xFFFF
        for seq in range(packets):
            request = _icmp.echo_request(socket.AF_INET, ident, seq, CALIBRATION_PAYLOAD)
            sock.sendto(request, ("127.0.0.1", 0))
        deadline = time.monotonic() + CALIBRATION_SECONDS
        answered: set[bytes] = set()
        while len(answered) < packets:
            if not _readable(sock, deadline):
                return False
            packet = _icmp.parse_packet(sock.recv(512, socket.MSG_PEEK if len(answered) == packets - 1 else 0))
            body = packet.body if packet else b""
            if len(body) >= 8 and body[0] == 0 and body[4:6] == ident.to_bytes(2, "big"):
                answered.add(body[6:8])
            elif len(answered) == packets - 1:
                sock.recv(512)
    return True


def _datagrams(packets: int) -> bool:
    """Half of them stay unread until the socket is closed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(receiver.getsockname())
            for _number in range(packets * 2):
                sender.send(CALIBRATION_PAYLOAD)
        for _number in range(packets):
            if not _readable(receiver, time.monotonic() + CALIBRATION_SECONDS):
                return False
            receiver.recv(512)
    return True


def _connection() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.settimeout(CALIBRATION_SECONDS)
            client.connect(listener.getsockname())
            if not _readable(listener, time.monotonic() + CALIBRATION_SECONDS):
                return False
            with listener.accept()[0] as server:
                client.send(CALIBRATION_PAYLOAD)
                client.shutdown(socket.SHUT_WR)
                return _readable(server, time.monotonic() + CALIBRATION_SECONDS) and bool(server.recv(512))


def _readable(sock: socket.socket, deadline: float) -> bool:
    return bool(select.select([sock], [], [], max(0.0, deadline - time.monotonic()))[0])

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Traces: where along their path the marked packets of a pair were seen, and what the kernel said when they vanished.

A packet is recognised by the mark and number that an echo or datagram carries and, for TCP, by the initial sequence
number of its SYN, which translation of addresses leaves alone. Nothing here decides a cause.
"""

from __future__ import annotations

import typing as t
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.hops import NIC, Hop, between
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Facts, Pair
from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder

LABEL = "trace"
FORWARD, REPLY = "forward", "reply"
DIRECTIONS = (FORWARD, REPLY)
DROP_WINDOW = 0.001  # seconds between the last sighting of a packet and the drop that ended it; measured: 50 µs
CLOCK_SLACK = 0.00005  # a drop may be stamped before the tap on another processor has its time
SENT_KINDS = ("echo", "syn", "udp")
TOO_SOON = ("time", "packets", "bytes", "died")  # how a capture ends that was not told to: perhaps before the probes
REPLY_KINDS = ("echo-reply", "syn-ack", "rst")

Key = tuple[str, t.Any]  # ("syn", initial sequence number) or (probe id, number)


@dataclass(frozen=True)
class Drop:
    """A reason the kernel gave, on one host, for C(hits) of C(of) lost packets at the moment they were last seen."""

    host: str
    reason: str
    location: str
    hits: int
    of: int


@dataclass(frozen=True)
class Broken:
    """The stretch that packets do not get over: the last hop that saw them and the first that missed them."""

    direction: str
    last: Hop | None
    missing: Hop | None
    sent: int  # packets the last hop saw
    arrived: int  # and how many of them the next

    @property
    def segment(self) -> str:
        return between(self.last, self.missing)

    @property
    def hosts(self) -> list[str]:
        return list(dict.fromkeys(hop.host for hop in (self.last, self.missing) if hop))

    @property
    def words(self) -> str:
        last = f"{self.last.name} of {self.last.host}" if self.last else "the sending socket"
        missing = f"{self.missing.name} of {self.missing.host}" if self.missing else "anywhere after it"
        return f"last seen at {last}, {self.sent - self.arrived} of {self.sent} never at {missing} ({self.direction})"


@dataclass
class Trace:
    """One pair's packets along its hops."""

    pair_id: str
    hops: list[Hop]
    sent: int = 0  # packets sent; a TCP connection request and its repetitions count as one
    answered: int = 0
    rows: list[tuple[str, int, Key, Facts]] = field(
        default_factory=list
    )  # direction, forward hop index, packet, sighting
    signals: frozenset[str] = frozenset()  # probes that nobody has to answer: to arrive is all they do
    blind: frozenset[int] = frozenset()  # hops whose tap could not be opened or lost frames
    events: dict[str, list[Facts]] = field(default_factory=dict)  # host -> drops the kernel reported, noise taken out
    rules: list[tuple[str, Facts]] = field(default_factory=list)  # host, row of nftrace

    def path(self, direction: str) -> list[int]:
        """Indexes of the hops in the order in which packets of this direction pass them."""
        order = list(range(len(self.hops)))
        return order if direction == FORWARD else order[::-1]

    @cached_property
    def _seen(self) -> dict[str, dict[int, dict[Key, list[Facts]]]]:
        table: dict[str, dict[int, dict[Key, list[Facts]]]] = {d: {i: {} for i in self.path(d)} for d in DIRECTIONS}
        for direction, hop, key, sighting in self.rows:
            table[direction][hop].setdefault(key, []).append(sighting)
        return table

    def seen(self, direction: str) -> list[int]:
        """How many different packets each hop saw, in the direction's own order."""
        return [len(self._seen[direction][hop]) for hop in self.path(direction)]

    def sightings(self, direction: str, position: int) -> list[Facts]:
        """Sightings at one hop; C(position) counts in the direction's own order."""
        packets = self._seen[direction][self.path(direction)[position]]
        return [sighting for found in packets.values() for sighting in found]

    def sightings_at(self, direction: str, name: str, host: str) -> list[Facts]:
        """Sightings at the hop of this name on this host; none where the path has no such hop."""
        for position, index in enumerate(self.path(direction)):
            if (self.hops[index].name, self.hops[index].host) == (name, host):
                return self.sightings(direction, position)
        return []

    @property
    def complete(self) -> bool:
        """Every hop had a tap, and none of them lost a frame."""
        return not self.blind and bool(self.hops)

    @cached_property
    def packets(self) -> list[Key]:
        """Every packet that was seen on its way."""
        return list(dict.fromkeys(key for direction, _h, key, _s in self.rows if direction == FORWARD))

    def _last(self, direction: str, key: Key) -> int | None:
        """The position of the farthest hop that saw a packet, in the direction's own order."""
        order = self.path(direction)
        seen = [position for position, hop in enumerate(order) if key in self._seen[direction][hop]]
        return max(seen, default=None)

    @cached_property
    def lost(self) -> list[Key]:
        """Packets that were seen on their way and whose answer did not come back to the first hop."""
        if 0 in self.blind:
            return []
        answered, arrived = self._seen[REPLY].get(0) or {}, self._seen[FORWARD].get(len(self.hops) - 1) or {}
        unsure = len(self.hops) - 1 in self.blind
        signals = {key for key in self.packets if key[0] in self.signals}
        gone = {key for key in signals if not unsure and key not in arrived and key not in answered}
        return [key for key in self.packets if (key in gone if key in signals else key not in answered)]

    def _end(self, key: Key) -> tuple[str, int | None]:
        """Direction and position of a lost packet's last sighting; None where it never reached the first hop."""
        reply = self._last(REPLY, key)
        if reply is not None:
            return REPLY, reply
        return FORWARD, self._last(FORWARD, key)

    @cached_property
    def broken(self) -> Broken | None:
        """Where most of the lost packets were last seen; None where none was lost or a blind tap is in the way."""
        if not self.hops:
            return None
        if not self.packets:
            return Broken(FORWARD, None, self.hops[0], self.sent, 0) if self.sent and 0 not in self.blind else None
        if not self.lost:
            return None
        (direction, position), _count = Counter(self._end(key) for key in self.lost).most_common(1)[0]
        order = self.path(direction)
        last = self.hops[order[position]] if position is not None else None
        following = order[position + 1] if position is not None and position + 1 < len(order) else None
        if following is None and direction == FORWARD:  # it arrived, and nothing came back out
            return Broken(REPLY, None, last, len(self._seen[FORWARD][order[-1]]), self.seen(REPLY)[0])
        if following is None or following in self.blind:
            return None
        sent = set(self._seen[direction][order[position or 0]])
        return Broken(
            direction, last, self.hops[following], len(sent), len(sent & set(self._seen[direction][following]))
        )

    @cached_property
    def drops(self) -> list[Drop]:
        """Reasons the kernel gave on the host of the last sighting, at that moment, commonest first.

        Between two NICs a reason of either host says nothing: both taps stand outside of what can drop there.
        """
        broken = self.broken
        if broken is None or broken.last is None or (broken.last.name == NIC and broken.segment == "underlay"):
            return []
        host, hits = broken.last.host, Counter[tuple[str, str]]()
        ends = [self._end(key) for key in self.lost]
        times = []
        for key, (direction, position) in zip(self.lost, ends):
            if position is not None and self.hops[self.path(direction)[position]] == broken.last:
                sightings = self._seen[direction][self.path(direction)[position]][key]
                times.append([sighting["time"] for sighting in sightings])
        for moments in times:
            found = {
                (event["reason"], str(event.get("location") or ""))
                for event in self.events.get(host) or []
                for moment in moments
                if -CLOCK_SLACK <= event["time"] - moment <= DROP_WINDOW
            }
            hits.update(found)
        return [Drop(host, reason, location, count, len(times)) for (reason, location), count in hits.most_common()]


def load_traces(folder: RunFolder, fleet: Fleet) -> dict[str, Trace]:
    """The traces of a run by pair."""
    return traces(fleet, folder.read(f"plan/{LABEL}/pairs.json") or [])


def traces(fleet: Fleet, plan: list[Facts]) -> dict[str, Trace]:
    """Each planned pair with what the taps of all hosts saw of it; C(plan) as TracePlan dumps it."""
    found = {}
    for row in plan:
        pair, hops = Pair.load(row["pair"]), [Hop(**hop) for hop in row["hops"]]
        signals = frozenset(pair.probe_id(probe) for probe in pair.probes if probe.layer == "udp")
        trace = found[pair.id] = Trace(pair.id, hops, signals=signals)
        _sent(trace, fleet, pair)
        _blind(trace, fleet)
        _sightings(trace, fleet, pair)
        _reasons(trace, fleet)
    return found


def _results(fleet: Fleet, pair: Pair) -> dict[str, Facts]:
    host = fleet.hosts.get(pair.src.host or "")
    rows = ((host.probes.get(LABEL) or {}).get("results") or []) if host else []
    wanted = {pair.probe_id(probe) for probe in pair.probes}
    return {row["id"]: row for row in rows if row["id"] in wanted}


def _sent(trace: Trace, fleet: Fleet, pair: Pair) -> None:
    for row in _results(fleet, pair).values():
        if row.get("sent"):
            number = 1 if row["layer"] in ("tcp", "http") else row["sent"]
            trace.sent += number
            trace.answered += min(row.get("received") or 0, number)


def _blind(trace: Trace, fleet: Fleet) -> None:
    blind = set()
    for position, hop in enumerate(trace.hops):
        capture = _capture(fleet, hop.host)
        taps = {tap["id"]: tap for tap in capture.get("taps") or []}
        if hop.tap not in taps or taps[hop.tap].get("dropped") or capture.get("ended") in TOO_SOON:
            blind.add(position)
    trace.blind = frozenset(blind)


def _capture(fleet: Fleet, host: str) -> Facts:
    return fleet.hosts[host].captures.get(LABEL) or {} if host in fleet.hosts else {}


def _sightings(trace: Trace, fleet: Fleet, pair: Pair) -> None:
    """File every sighting of the pair's own packets under its hop."""
    results = _results(fleet, pair)
    by_tap: dict[tuple[str, str], list[Facts]] = {}
    for host in dict.fromkeys(hop.host for hop in trace.hops):
        for sighting in _capture(fleet, host).get("sightings") or []:
            by_tap.setdefault((host, sighting["tap"]), []).append(sighting)
    connections = {
        (row.get("local_port"), row.get("port")) for row in results.values() if row["layer"] in ("tcp", "http")
    }
    numbers = set()
    for position, hop in enumerate(trace.hops):
        for sighting in by_tap.get((hop.host, hop.tap)) or []:
            ports = (sighting.get("sport"), sighting.get("dport"))
            if sighting["kind"] == "syn" and hop.host == pair.src.host and ports in connections:
                numbers.add(sighting.get("seq"))
        if numbers or position:
            break  # by the second hop an address may have been translated, but the number is known
    for position, hop in enumerate(trace.hops):
        for sighting in by_tap.get((hop.host, hop.tap)) or []:
            direction, key = _key(sighting, set(results), numbers)
            if direction is not None and key is not None and _passes(trace, position, direction, sighting):
                trace.rows.append((direction, position, key, sighting))


def _key(sighting: Facts, probes: set[str], numbers: set[int | None]) -> tuple[str | None, Key | None]:
    """Direction and identity of a sighting, if it is one of the pair's packets."""
    kind, number = sighting["kind"], sighting.get("seq")
    direction = FORWARD if kind in SENT_KINDS else REPLY if kind in REPLY_KINDS else None
    if kind == "icmp-error":
        direction = REPLY
    if direction is None or sighting.get("fragment") == "later":
        return None, None
    if sighting.get("probe") in probes:
        return direction, (str(sighting["probe"]), number)
    if number in numbers and kind in ("syn", "syn-ack", "rst", "icmp-error"):
        return direction, ("syn", number)
    return None, None


def _passes(trace: Trace, position: int, direction: str, sighting: Facts) -> bool:
    """Whether the packet crossed the tap the way its direction says.

    A NIC and a VXLAN device send what leaves the source's host (forward) or the destination's (reply), and receive it
    on the other; two hops of one host that share an interface are told apart by nothing else.
    """
    twins = [hop for hop in trace.hops if (hop.host, hop.tap) == (trace.hops[position].host, trace.hops[position].tap)]
    if len(twins) < 2 or sighting.get("out") is None:
        return True
    first = trace.hops.index(trace.hops[position]) == position
    return bool(sighting["out"]) == (first == (direction == FORWARD))


def _reasons(trace: Trace, fleet: Fleet) -> None:
    """Drops and traced rules of the hosts on the path, without the reasons that our own sockets cause."""
    for host in dict.fromkeys(hop.host for hop in trace.hops):
        capture = _capture(fleet, host)
        reasons = capture.get("reasons") or {}
        noise = reasons.get("calibration") or {}  # by reason and the place in the kernel that gave it
        events = reasons.get("events") or []
        trace.events[host] = [e for e in events if not {e["reason"], f"{e['reason']}@{e.get('location')}"} & set(noise)]
        trace.rules += [(host, row) for row in (capture.get("nftrace") or {}).get("events") or []]

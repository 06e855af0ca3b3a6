# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Paths that take less than the NICs at their ends: measured by mtu_probe, else guessed from echoes of full size.

VXLAN's outer packets carry no DF as engines make them. What is too large for the path is then fragmented by the first
router that finds it so, and put together again at the other end: slow, and working. It is lost where a switch cannot
fragment, where something drops fragments, and for everything that does set DF and is never told. Which of these it is
decides between a warning and a fault.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    CRITICAL,
    LIKELY,
    POSSIBLE,
    UNDERLAY,
    WARNING,
    Case,
    Cause,
    Evidence,
    Facts,
    Finding,
    Remedy,
    culprits,
    pair_ids,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.mtu import (
    MTU_OPTION,
    Fit,
    clamps,
    fits,
    links_of,
    overhead,
    overlays,
    tunnel_nic,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.deltas import protocol_counter, rise
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Network
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies import roles

TOO_LARGE, BLACK_HOLE, FRAGMENTS = "overlay-mtu-gt-path", "pmtu-blackhole-icmp", "fragments-dropped"
OWN = {TOO_LARGE, BLACK_HOLE, FRAGMENTS}
LIMITED = ("frag-needed", "black-hole")
BELIEVABLE_LOSS = 0.1  # of what fits; with more, fragments that do not arrive prove nothing
LARGE = ("mtu", "http")
TCP_HEADERS = 40  # of IPv4 and TCP, without options
COUNTERS = (
    ("Ip.ReasmFails", "packets whose fragments did not all come"),
    ("Ip.FragCreates", "fragments made"),
    ("Ip.FragFails", "packets too big that must not be fragmented"),
)


@dataclass
class Way:
    """One direction between two hosts: what it takes, what overlays send on it, and which pairs fail for it."""

    src: str
    dst: str
    row: Facts | None  # what mtu_probe found between the hosts
    limit: int | None  # bytes that pass whole; None where only echoes of full size vanished
    needs: list[Fit] = field(default_factory=list)  # networks that send more
    stalled: list[Observation] = field(default_factory=list)
    datagrams: list[Observation] = field(default_factory=list)  # pairs that lose only those: TCP has adapted
    fragmenting: list[Facts] = field(default_factory=list)  # rows of containers whose too large packets do arrive

    @property
    def hop(self) -> Facts | None:
        return (self.row or {}).get("hop")

    @property
    def overlay_lost(self) -> bool:
        return any(observation.pair.kind == "overlay" for observation in [*self.stalled, *self.datagrams])

    @property
    def fragments_lost(self) -> bool:
        row = self.row or {}
        fragmented = row.get("fragmented") or {}
        return fragmented.get("answered") is False and (row.get("loss") or 0.0) <= BELIEVABLE_LOSS

    @property
    def routed(self) -> bool:
        """A router showed: it can fragment, and say that a packet is too big."""
        return bool(self.hop or (self.row or {}).get("next_hop"))

    @property
    def cause(self) -> str:
        told = (self.row or {}).get("verdict") == "frag-needed"
        if self.overlay_lost and self.routed and self.fragments_lost:
            return FRAGMENTS
        if self.row and not told and (self.routed or not self.overlay_lost):
            return BLACK_HOLE
        return TOO_LARGE


def stalls(observation: Observation) -> bool:
    """Small packets pass, and what fails is what is large: a full-sized echo, or a page that never ends."""
    failed = observation.failed_layers()
    states = observation.layers()
    small = any(state == "ok" for key, state in states.items() if key.split(":")[0] in ("icmp", "tcp"))
    return observation.broken and small and bool(failed) and all(key.split(":")[0] in LARGE for key in failed)


def ways(case: Case) -> list[Way]:
    """Every direction between two hosts on which something larger is sent than the path takes whole."""
    taken = {pair for finding in case.findings if finding.cause not in OWN for pair in finding.explains}
    broken = [o for o in case.broken if o.pair.id not in taken and stalls(o)]
    large = {network.id: {fit.host.name: fit for fit in fits(case, network)} for network in overlays(case)}
    found = []
    for observation in case.host_pairs:
        src, dst = map(str, observation.pair.hosts)
        row = case.path_mtu(src, dst)
        limit = _limit(case, src, dst, row)
        if limit is None and not _vanishes(case, observation, row):
            continue
        way = Way(src, dst, row, limit)
        for senders in large.values():
            fit = senders.get(src)
            if fit and dst in senders and (limit is None or fit.needed > limit):
                way.needs.append(fit)
        ends = {src, dst}
        way.stalled = [o for o in broken if set(o.pair.hosts) == ends]
        way.datagrams = [o for o in case.observations if set(o.pair.hosts) == ends and _loses_datagrams(o)]
        way.fragmenting = [r for o in case.observations if (r := _arrives(case, o, src, dst, way.needs)) is not None]
        if way.stalled or (way.needs and (limit is not None or way.datagrams)):
            found.append(way)
    return found


def _loses_datagrams(observation: Observation) -> bool:
    """A full-sized echo vanished in each round, and whole pages come."""
    rounds = [observation.layers(label) for label in observation.rounds]
    return not observation.broken and bool(rounds) and all(states.get("mtu") == "failed" for states in rounds)


def _limit(case: Case, src: str, dst: str, row: Facts | None) -> int | None:
    """What the path takes, where that is less than the NICs at both ends: those are other causes."""
    if row is None or row.get("verdict") not in LIMITED or not row.get("path_mtu"):
        return None
    links = [tunnel_nic(case, case.host(name)) for name in (src, dst)]
    nics = [link["mtu"] for link in links if link]
    return row["path_mtu"] if not nics or row["path_mtu"] < min(nics) else None


def _vanishes(case: Case, observation: Observation, row: Facts | None) -> bool:
    """Nobody measured, and a full-sized echo between the hosts vanished in each round while small ones came back."""
    if row is not None:
        return False
    asked = [label for label in observation.rounds if "mtu" in observation.rounds[label]]
    states = [observation.layers(label) for label in asked]
    return bool(states) and all(state.get("icmp") == "ok" and _lost(observation, state) for state in states)


def _lost(observation: Observation, states: dict[str, str]) -> bool:
    return states.get("mtu") == "failed" and (observation.results.get("mtu") or {}).get("status") == "timeout"


def _arrives(case: Case, observation: Observation, src: str, dst: str, needs: list[Fit]) -> Facts | None:
    """The row of a container whose packets are larger than the path and arrive: in fragments."""
    pair = observation.pair
    row = case.mtu(pair.id) if pair.kind == "overlay" and pair.hosts == (src, dst) else None
    inner = {fit.network.id: fit.inner for fit in needs}.get(pair.network_id or "")
    if row is None or inner is None or row.get("verdict") != "clean":
        return None
    return row if (row.get("path_mtu") or 0) >= inner else None


def decide(case: Case) -> t.Iterator[Finding]:
    """One finding for each place and kind of fault."""
    groups: dict[str, list[Way]] = {}
    found = ways(case)
    for way in found:
        groups.setdefault(way.cause, []).append(way)
    limited = {(way.src, way.dst) for way in found}
    working = [(str(o.pair.src.host), str(o.pair.dst.host)) for o in case.host_pairs]
    working = [ends for ends in working if ends not in limited and ends[::-1] not in limited]
    for cause, group in groups.items():
        same = _with_the_way_back(cause, group, found)
        for place in culprits([(way.src, way.dst) for way in same], working):
            yield _finding(case, cause, place, [way for way in same if place <= {way.src, way.dst}])


def _with_the_way_back(cause: str, group: list[Way], found: list[Way]) -> list[Way]:
    """A pair of hosts is one place: the worse of its two directions says what it is."""
    order = (FRAGMENTS, TOO_LARGE, BLACK_HOLE)
    kept = []
    for way in group:
        back = next((one for one in found if (one.src, one.dst) == (way.dst, way.src)), None)
        if back is None or order.index(back.cause) >= order.index(cause):
            kept.append(way)
    return kept


def _finding(case: Case, cause: str, place: frozenset[str], group: list[Way]) -> Finding:
    names = sorted(place)
    measured = [way for way in group if way.limit is not None]
    limit = min((way.limit for way in measured if way.limit is not None), default=None)
    worst = min(measured, key=lambda way: way.limit or 0) if measured else group[0]
    stalled = list({o.pair.id: o for way in group for o in way.stalled}.values())
    networks = sorted({fit.network.name for way in group for fit in way.needs})
    needs = [fit for way in group for fit in way.needs]
    return Finding(
        cause=cause,
        severity=CRITICAL if stalled else WARNING,
        confidence=_confidence(case, group, stalled),
        hosts=names,
        segment="underlay",
        direction=_direction(place, group),
        network=networks[0] if len(networks) == 1 else None,
        summary=_summary(cause, names, worst, needs, stalled, limit),
        evidence=[
            *[_row_evidence(way) for way in measured[:4]],
            *[_echo_evidence(way) for way in group if way.limit is None][:2],
            *_fit_evidence(needs),
            *_container_evidence(case, group),
            *_fragment_evidence(case, group),
            *_largest(case, needs, limit),
            *_counter_evidence(case, group),
            *[_stall_evidence(observation) for observation in stalled[:2]],
        ],
        explains=pair_ids(stalled),
        remedies=_remedies(case, cause, worst, needs, limit, place),
    )


def _confidence(case: Case, group: list[Way], stalled: list[Observation]) -> str:
    """Confirmed where the limit was measured to the byte, and between containers just as much less as a tunnel adds."""
    exact = [way for way in group if way.limit is not None and (way.row or {}).get("exact")]
    if not exact:
        return LIKELY if stalled else POSSIBLE
    if any(way.fragmenting for way in exact):
        return CONFIRMED
    if any(o.pair.kind != "overlay" for way in exact for o in way.stalled):
        return CONFIRMED  # what fails goes from host to host, where it was measured
    for way in exact:
        for observation in case.observations:
            pair = observation.pair
            row = case.mtu(pair.id) if pair.kind == "overlay" and pair.hosts == (way.src, way.dst) else None
            fit = next((fit for fit in way.needs if fit.network.id == pair.network_id), None)
            if row and fit and row.get("exact") and row["path_mtu"] + fit.needed - fit.inner == way.limit:
                return CONFIRMED
    return LIKELY


def _direction(place: frozenset[str], group: list[Way]) -> str | None:
    if len(place) != 1:
        return "both" if {(w.src, w.dst) for w in group} == {(w.dst, w.src) for w in group} else None
    leaving, arriving = any(w.src in place for w in group), any(w.dst in place for w in group)
    return "both" if leaving and arriving else ("out" if leaving else "in")


def _summary(
    cause: str, names: list[str], worst: Way, needs: list[Fit], stalled: list[Observation], limit: int | None
) -> str:
    where = f"{worst.src} and {worst.dst}" if len(names) == 2 else f"{names[0]} and other hosts"
    takes = f"takes {limit} bytes" if limit else "does not take packets as large as the NICs at its ends"
    sends = f", {', '.join(sorted({f.network.name for f in needs}))} sends up to {max(f.needed for f in needs)}"
    head = f"The path between {where} {takes}{sends if needs else ''}"
    lost = f"{len(stalled)} pair(s) lose what is larger"
    if cause == FRAGMENTS:
        return f"{head}: routers fragment it and the fragments are dropped on the way; {lost}"
    if cause == BLACK_HOLE:
        behind = f" behind {worst.hop['address']}" if worst.hop else ""
        cost = f"; the tunnel's packets are fragmented ({_cost(needs, limit)})" if needs else ""
        tail = f"; {lost}" if worst.overlay_lost else f"{f'; {lost}' if stalled else ''}{cost}"
        return f"{head}, and nobody says so: larger packets with DF vanish{behind} without an ICMP error{tail}"
    if stalled:
        return f"{head}: {lost}"
    if worst.datagrams:
        return f"{head}: larger datagrams are lost, TCP gets through with smaller segments"
    if worst.fragmenting:
        return f"{head}: they arrive in fragments ({_cost(needs, limit)})"
    return f"{head}: the first large packets of a connection are lost, then their senders are told"


def _cost(needs: list[Fit], limit: int | None) -> str:
    """What fragmenting the largest packets costs."""
    if not needs or not limit:
        return "each full-sized packet travels as several"
    needed = max(fit.needed for fit in needs)
    payload = max(8, (limit - 20) // 8 * 8)
    count = -(-(needed - 20) // payload)
    return (
        f"{count} packets for each full-sized one, {(count - 1) * 20} bytes more, and all is lost when one of them is"
    )


def _row_evidence(way: Way) -> Evidence:
    row = way.row or {}
    words = [f"{row['path_mtu']} bytes pass, {row['verdict']}"]
    if row.get("reported"):
        said = row["reported"]
        words.append(f"{said.get('sender') or 'the kernel'} announced {said.get('mtu') or 'no size'}")
    if way.hop:
        words.append(f"larger ones reach {way.hop['address']} and nothing behind it")
    if row.get("cached"):
        words.append(f"the kernel had {row['cached']} cached")
    size = (row.get("path_mtu") or 0) - 28
    return Evidence(
        way.src,
        f"mtu_probe to {way.dst} ({row.get('address')})",
        "; ".join(words),
        f"{row.get('tried')}, what {row.get('interface') or 'the NIC'} takes",
        f"ping -M do -c 3 -s {size} {row.get('address')}; ping -M do -c 3 -s {size + 1} {row.get('address')}",
    )


def _echo_evidence(way: Way) -> Evidence:
    return Evidence(
        way.src,
        f"echo of full size to {way.dst}",
        "vanishes in each round, small ones are answered",
        "answered",
        f"ping -M do -c 3 -s SIZE {way.dst}   # SIZE: MTU of the NIC less 28",
    )


def _fit_evidence(needs: list[Fit]) -> list[Evidence]:
    """What each network sends, once for each network and host."""
    rows = {(fit.network.id, fit.host.name): fit for fit in needs}
    return [
        Evidence(
            fit.host.name,
            f"MTU of {fit.container} on {fit.network.name}",
            f"{fit.inner}, in the tunnel {fit.needed}",
            None,
            links_of(fit.container),
        )
        for fit in list(rows.values())[:3]
    ]


def _container_evidence(case: Case, group: list[Way]) -> list[Evidence]:
    """What mtu_probe found between containers."""
    found = []
    for way in group:
        for observation in case.observations:
            pair = observation.pair
            row = case.mtu(pair.id) if pair.kind == "overlay" and pair.hosts == (way.src, way.dst) else None
            if row and row.get("path_mtu"):
                words = f"{row['path_mtu']} of {row['tried']} bytes pass, {row['verdict']}"
                if row in way.fragmenting:
                    words += ": the tunnel's packets are larger than the path and arrive in fragments"
                found.append(Evidence(pair.src.host, f"mtu_probe {pair.id}", words, f"{row['tried']}, unfragmented"))
    return found[:3]


def _fragment_evidence(case: Case, group: list[Way]) -> list[Evidence]:
    """Whether fragments arrive: an echo that has to be fragmented, and fragments that taps saw."""
    found = []
    for way in group:
        fragmented = (way.row or {}).get("fragmented")
        if fragmented and (way.routed or fragmented["answered"]):
            words = "answered" if fragmented["answered"] else "not answered, although small ones are"
            source = f"echo of {fragmented['length']} bytes in fragments to {way.dst}"
            found.append(Evidence(way.src, source, words, "answered", f"ping -M dont -c 3 -s 2000 {way.dst}"))
    for name in sorted({way.dst for way in group}):
        first, later = seen_fragments(case, name)
        if first and not later:
            words = f"{first} first fragments arrived, none of the later ones"
            found.append(Evidence(name, "taps on the NIC", words, "all fragments of a packet"))
    return found[:4]


def seen_fragments(case: Case, host: str) -> tuple[int, int]:
    """(first, later) fragments that the taps of step 3 saw arriving at a host's NIC."""
    first = later = 0
    for facts in case.host(host).captures.values():
        for row in facts.get("sightings") or []:
            if row.get("out") or not str(row.get("tap") or "").startswith("nic"):
                continue
            kind = (row.get("outer") or {}).get("fragment") or row.get("fragment")
            first += kind == "first"
            later += kind == "later"
    return first, later


def largest_overlay(case: Case, network: Network) -> tuple[int, str] | None:
    """(the largest MTU of the underlay's packets that every path of a network takes, who limits it)."""
    limits: list[tuple[int, str]] = []
    members = {fit.host.name for fit in fits(case, network)}
    for name in sorted(members):
        nic = tunnel_nic(case, case.host(name))
        if nic:
            limits.append((nic["mtu"], f"{nic['name']} of {name}"))
    for src in sorted(members):
        for dst in sorted(members):
            row = case.path_mtu(src, dst)
            if row and row.get("verdict") in LIMITED and row.get("path_mtu"):
                hop = row.get("hop") or {}
                behind = f", behind {hop['address']}" if hop else ""
                limits.append((row["path_mtu"], f"the path from {src} to {dst}{behind}"))
    return min(limits, default=None)


def _largest(case: Case, needs: list[Fit], limit: int | None) -> list[Evidence]:
    """What each overlay may have at most, and who limits it."""
    found = []
    for network in {fit.network.id: fit.network for fit in needs}.values():
        most = largest_overlay(case, network)
        fit = next(fit for fit in needs if fit.network.id == network.id)
        if most is None or limit is None:
            continue
        inner = most[0] - overhead(network, fit.host.underlay_ip)
        words = f"{inner}, as {most[1]} takes {most[0]}"
        found.append(Evidence(None, f"largest MTU that works for {network.name} on all its hosts", words, None))
    return found


def _counter_evidence(case: Case, group: list[Way]) -> list[Evidence]:
    found = []
    for name in sorted({end for way in group for end in (way.src, way.dst)}):
        host = case.host(name)
        for counter, meaning in COUNTERS:
            moved = rise(host, host.facts.root.key, protocol_counter("snmp", counter))
            if moved is not None and moved.tied:
                verify = f"nstat -az {counter.replace('.', '')}"
                found.append(Evidence(name, f"{counter} ({meaning})", str(moved), "no rise", verify))
    return found[:4]


def _stall_evidence(observation: Observation) -> Evidence:
    failed = {key: observation.results.get(key) or {} for key in observation.failed_layers()}
    words = [f"{key} {result.get('status')}" for key, result in failed.items()]
    words += [f"{result['bytes']} bytes of body" for result in failed.values() if result.get("bytes") is not None]
    observed = f"{', '.join(words)}; small packets pass"
    return Evidence(observation.pair.src.host, f"probes {observation.pair.id}", observed, "answered and complete")


def _remedies(
    case: Case, cause: str, worst: Way, needs: list[Fit], limit: int | None, place: frozenset[str]
) -> list[Remedy]:
    """Make the overlay fit, or the path; until then let TCP agree on smaller segments."""
    value = str(limit) if limit else "THE PATH'S MTU"
    names = sorted({fit.network.name for fit in needs})
    found = []
    if names:
        option = f"--opt {MTU_OPTION}={value}"
        found.append(
            roles.overlay_mtu(case, _options(case, needs, limit)).remedy(
                "cure",
                (
                    *(
                        f"docker network rm {name} && docker network create -d overlay --attachable {option} {name}   "
                        "# the MTU of the underlay: the driver subtracts the tunnel's overhead itself"
                        for name in names
                    ),
                    f"docker network rm ingress && docker network create --ingress -d overlay {option} ingress",
                    f"docker_gwbridge likewise, before a node joins: {option}",
                ),
                "Recreating a network means to redeploy what is on it.",
                disruptive=True,
            )
        )
    found.append(_path_cure(cause, worst, needs))
    if limit:
        found += _clamp(case, needs, limit, place)
    return found


def _options(case: Case, needs: list[Fit], limit: int | None) -> dict[str, int]:
    """The MTU option for each network: what every path of it takes."""
    found = {}
    for network in {fit.network.id: fit.network for fit in needs}.values():
        most = largest_overlay(case, network)
        if limit and most:
            found[network.name] = min(limit, most[0])
    return found


def _path_cure(cause: str, worst: Way, needs: list[Fit]) -> Remedy:
    size = max((fit.needed for fit in needs), default=(worst.row or {}).get("tried") or 0)
    where = f"behind {worst.hop['address']}" if worst.hop else f"between {worst.src} and {worst.dst}"
    lines = [f"or raise the MTU of every switch port, tunnel and router {where} to {size} or more"]
    if cause == BLACK_HOLE:
        lines.append(
            "and let ICMP type 3 code 4 (ICMPv6 type 2) through wherever it is filtered on that path: without it "
            "every sender of packets with DF is blind"
        )
    if cause == FRAGMENTS:
        lines.append("and let fragments through on that path: a stateless filter that asks for a port drops later ones")
    return Remedy("cure", tuple(lines), "Outside the hosts this cannot be done from here.")


def _clamp(case: Case, needs: list[Fit], limit: int, place: frozenset[str]) -> list[Remedy]:
    """TCP only: nothing helps datagrams but a smaller MTU."""
    lines = [f"iptables -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss {limit - TCP_HEADERS}"]
    for fit in list({f.network.id: f for f in needs}.values())[:2]:
        namespace = case.host(fit.host.name).facts.overlay_namespace(fit.network.id)
        path = (namespace.facts.get("path") if namespace else None) or "/run/docker/netns/NETWORK"
        mss = limit - overhead(fit.network, fit.host.underlay_ip) - TCP_HEADERS
        lines.append(
            f"nsenter --net={path} nft 'add table bridge clamp; add chain bridge clamp forward {{ type filter hook "
            f"forward priority 0; }}; add rule bridge clamp forward tcp flags syn tcp option maxseg size set {mss}'   "
            f"# {fit.network.name}, on every host"
        )
    risk = "New TCP connections only; gone with the namespace or a restart."
    networks = {fit.network.id: fit.network for fit in needs}.values()
    rows = [fit for network in networks for fit in fits(case, network) if fit.host.name in place]
    steps = clamps(case, rows, {network.id: limit for network in networks})
    return [step.remedy("mitigation", lines, risk) for step in steps or [roles.NOBODY]]


def decide_black_hole(case: Case) -> t.Iterator[Finding]:
    """Between hosts, and on the way to the addresses outside of the fleet that were asked for."""
    yield from _only(BLACK_HOLE)(case)
    known = {(end, way.limit) for way in ways(case) for end in (way.src, way.dst)}
    outside: dict[tuple[str, int, str], list[tuple[str, Facts]]] = {}
    for path, row in sorted(case.mtu_rows.items()):
        source, _arrow, target = path.partition(">")
        if (source.partition("/")[0], row.get("path_mtu")) in known:
            continue  # the same bottleneck, which stands before the way out as well
        if target == row.get("address") and row.get("verdict") == "black-hole" and row.get("exact"):
            behind = (row.get("hop") or {}).get("address") or ""
            outside.setdefault((target, row["path_mtu"], behind), []).append((source, row))
    for (target, limit, behind), rows in outside.items():
        yield _outside(target, limit, behind, rows)


def _outside(target: str, limit: int, behind: str, rows: list[tuple[str, Facts]]) -> Finding:
    """One finding for each address, limit and place where larger packets vanish."""
    hosts = sorted({source.partition("/")[0] for source, _row in rows})
    largest = max(row["tried"] for _source, row in rows)
    where = f" behind {behind}" if behind else ""
    clamp = f"iptables -t mangle -A POSTROUTING -d {target} -p tcp --tcp-flags SYN,RST SYN -j TCPMSS"
    return Finding(
        cause=BLACK_HOLE,
        severity=WARNING,
        confidence=CONFIRMED,
        hosts=hosts,
        segment="underlay",
        direction="out",
        summary=f"The path from {', '.join(hosts)} to {target} takes {limit} bytes, and nobody says so: larger packets "
        f"with DF, up to {largest}, vanish{where} without an ICMP error",
        evidence=[
            Evidence(
                source.partition("/")[0],
                f"mtu_probe from {source} to {target}",
                f"{limit} bytes pass, black-hole",
                f"{row['tried']}, what {row.get('interface') or 'the interface'} takes",
                f"ping -M do -c 3 -s {limit - 28} {target}; ping -M do -c 3 -s {limit - 27} {target}",
            )
            for source, row in rows[:6]
        ],
        remedies=[
            Remedy(
                "mitigation",
                (f"{clamp} --set-mss {limit - TCP_HEADERS}",),
                "New TCP connections to that address only; gone with a restart.",
            ),
            Remedy(
                "cure",
                (f"let ICMP type 3 code 4 (ICMPv6 type 2) through wherever it is filtered{where}",),
                "Outside the hosts this cannot be done from here.",
            ),
        ],
    )


def path_is_wide(case: Case, finding: Finding) -> str | None:
    """Large packets of a finding's pairs vanish, and mtu_probe found that the path takes them whole."""
    stalled = [o for o in case.observations if o.pair.id in set(finding.explains) and stalls(o)]
    ends = sorted({(str(o.pair.hosts[0]), str(o.pair.hosts[1])) for o in stalled if all(o.pair.hosts)})
    rows = [(src, dst, row) for src, dst in ends if (row := case.path_mtu(src, dst)) is not None]
    if not rows or any(row.get("verdict") != "clean" for _src, _dst, row in rows):
        return None
    src, dst, row = rows[0]
    sends = f"all that {row.get('interface') or 'the NIC'} sends"
    return f"mtu_probe: {row['path_mtu']} bytes, {sends}, pass from {src} to {dst}"


def _only(cause: str) -> t.Callable[[Case], t.Iterator[Finding]]:
    """All three are told from one another in one go; each yields its own."""

    def decide_one(case: Case) -> t.Iterator[Finding]:
        return (finding for finding in decide(case) if finding.cause == cause)

    return decide_one


CAUSES = [
    Cause(
        TOO_LARGE,
        "The path between hosts takes less than what an overlay sends",
        "path MTUs that mtu_probe measured between hosts and between containers, echoes of full size, pages",
        "NICs that are smaller themselves are another cause; jumbo NICs over an ordinary path below an overlay that "
        "fits; a clean result inside an overlay, whose outer packets may be fragmented",
        _only(TOO_LARGE),
        stage=UNDERLAY,
        packets=True,
        remedy="recreate the network with the path's MTU as its option, or raise the path's",
        rules_out=path_is_wide,
    ),
    Cause(
        BLACK_HOLE,
        "A router takes less and does not say so",
        "path MTUs that mtu_probe measured, the last router that large packets reach, ICMP errors that did not come",
        "a filter for ICMP is no fault by itself: only with something larger than the path; the tunnel's own packets "
        "carry no DF and are fragmented instead",
        decide_black_hole,
        stage=UNDERLAY,
        packets=True,
        remedy="let ICMP fragmentation-needed through, or raise the MTU behind that router",
    ),
    Cause(
        FRAGMENTS,
        "Fragments of the tunnel's packets are dropped",
        "path MTUs, an echo that has to be fragmented, fragments that taps saw, reassembly counters",
        "fragments that are lost on a path where everything is; a switch that takes less cannot fragment at all",
        _only(FRAGMENTS),
        stage=UNDERLAY,
        packets=True,
        remedy="make the overlay fit the path, or let fragments through",
    ),
]

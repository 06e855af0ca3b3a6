# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tunnel packets that arrive and are not what was sent: another source, another header."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    CRITICAL,
    LIKELY,
    TRACED,
    Case,
    Cause,
    Evidence,
    Facts,
    Finding,
    Remedy,
    pair_ids,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.crossing import (
    Lost,
    beside,
    crossing,
    ends,
    port_words,
    probe_evidence,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.traced import (
    at,
    behind_nic,
    between_nics,
    broken_traces,
    outers,
    reasons,
    trace_evidence,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.hops import NIC, Hop
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace import LABEL, Broken, Trace

HEADER_ANOMALIES = {
    "i-flag-unset": "a header without the flag that says the VNI is valid",
    "vni-zero": "VNI 0",
    "vni-unknown": "a VNI no device of the receiver has",
}
VXLAN_FLAG = 0x08  # the I flag: the VNI is valid (RFC 7348 section 5)
Changed = tuple[Observation, Trace, str, str]  # outer source as it left and as it arrived


def decide_nat(case: Case) -> t.Iterator[Finding]:
    """The tunnel leaves one NIC with the node's address and arrives at the other with another one."""
    groups: dict[str, list[Changed]] = {}
    for observation, trace, broken in broken_traces(case, crossing(case.broken)):
        if broken.last is None or broken.last.name != NIC:
            continue
        receiver = broken.last.host
        sender = next((name for name in ends(observation) if name != receiver), "")
        arrived = outers(at(trace, broken.direction, broken.last))
        left = outers(at(trace, broken.direction, Hop(NIC, sender, "", 0)))
        if not arrived or not left or not behind_nic(broken, receiver):
            continue
        strange = [outer.src for outer in arrived if outer.src not in {o.src for o in left}]
        if strange:
            groups.setdefault(sender, []).append((observation, trace, left[0].src, strange[0]))
    for sender, rows in groups.items():
        yield _nat_finding(case, sender, rows)


def _nat_finding(case: Case, sender: str, rows: list[Changed]) -> Finding:
    own, strange = rows[0][2:]
    traced = [row[0] for row in rows]
    peers = sorted({name for o in traced for name in ends(o)} - {sender})
    pairs = traced + beside(case, {frozenset((sender, peer)) for peer in peers})
    entry_exists = "VXLAN_ENTRY_EXISTS" in reasons(rows[0][1])
    because = ", whose VXLAN devices take it from the address in their static entries only" if entry_exists else ""
    return Finding(
        cause="tunnel-through-nat",
        severity=CRITICAL,
        confidence=CONFIRMED,
        hosts=[sender],
        segment="underlay",
        direction="out",
        summary=f"The tunnel of {sender} passes a NAT: it leaves with {own} and arrives with {strange} at "
        f"{', '.join(peers)}{because}",
        evidence=[
            Evidence(sender, "outer source at the NIC", own, None, f"tcpdump -nni any udp port {port_words(case)}"),
            Evidence(
                peers[0] if peers else None,
                f"outer source of the same packets at the NIC of {peers[0] if peers else 'the receiver'}",
                strange,
                own,
                f"tcpdump -nni any udp port {port_words(case)}",
            ),
            *trace_evidence(rows[0][1]),
            probe_evidence(traced[0], len(pairs)),
        ],
        explains=pair_ids(pairs),
        remedies=[
            Remedy(
                "cure",
                (
                    "no NAT between nodes: route their addresses",
                    (
                        "or a tunnel below (WireGuard) in whose addresses the nodes join: "
                        "docker swarm join --advertise-addr ADDRESS --data-path-addr ADDRESS …"
                    ),
                ),
                "A node that leaves and joins gets a new id; its tasks move.",
                disruptive=True,
            )
        ],
    )


@dataclass
class BadHeader:
    """A VXLAN header that the receiver cannot take, and whether it left the sender like that."""

    words: str
    sent_so: bool
    trace: Trace | None
    pairs: list[Observation] = field(default_factory=list)
    samples: list[Evidence] = field(default_factory=list)


def decide_vni(case: Case) -> t.Iterator[Finding]:
    """Tunnel packets arrive with a header no VXLAN device of the receiver takes."""
    groups: dict[str, BadHeader] = {}
    for observation, trace, broken in broken_traces(case, crossing(case.broken)):
        if broken.last is None or broken.missing is None:
            continue
        sender, receiver = _sender(observation, broken)
        seen = at(trace, broken.direction, Hop(NIC, receiver, "", 0))
        sent = at(trace, broken.direction, Hop(NIC, sender, "", 0))
        known = _vnis(case, receiver)
        words = next((w for row in seen if (w := _header_fault(row, known))), None)
        if words is None:
            words = _reported(case, sender, receiver, broken, reasons(trace))
        if words is None:
            continue
        left = [row for row in sent if _header_fault(row, known)]
        group = groups.setdefault(sender, BadHeader(words, bool(left), trace))
        group.pairs.append(observation)
        group.samples += _anomaly_evidence(case, sender, receiver)
    for sender, group in groups.items():
        yield _vni_finding(case, sender, group)


def _sender(observation: Observation, broken: Broken) -> Lost:
    src, dst = ends(observation)
    return (src, dst) if broken.direction == "forward" else (dst, src)


def _vnis(case: Case, host: str) -> set[int]:
    return {
        link["vxlan"]["vni"]
        for facts in case.host(host).readings
        for namespace in facts.namespaces
        for link in namespace.vxlan_links
        if link["vxlan"].get("vni") is not None
    }


def _header_fault(sighting: Facts, known: set[int]) -> str | None:
    outer = sighting.get("outer")
    if not outer:
        return None
    flags = outer.get("flags")
    if isinstance(flags, int) and not flags & VXLAN_FLAG:
        return f"flags 0x{flags:02x}, without the one that says the VNI is valid"
    vni = sighting.get("vni")
    if vni is None or not known or vni in known:
        return None
    return "VNI 0" if vni == 0 else f"VNI {vni}, which no device of the receiver has"


def _reported(case: Case, sender: str, receiver: str, broken: Broken, given: set[str]) -> str | None:
    """What the capture noticed about frames it could not follow, or what the kernel gave as its reason."""
    if behind_nic(broken, receiver):
        if "VXLAN_INVALID_HDR" in given:
            return "a header the kernel calls invalid"
        if "VXLAN_VNI_NOT_FOUND" in given:
            return "a VNI no device of the receiver has"
    if not between_nics(broken):
        return None
    rows = _anomalies(case, sender, receiver)
    return HEADER_ANOMALIES[str(rows[0]["kind"])] if rows else None


def _anomalies(case: Case, sender: str, receiver: str) -> list[Facts]:
    """Frames with a bad header that came from the sender to a tap of the receiver."""
    addresses = case.host(sender).facts.addresses | {case.host(sender).underlay_ip}
    found = []
    for row in (case.host(receiver).captures.get(LABEL) or {}).get("anomalies") or []:
        kind = str(row.get("kind"))
        sample = row.get("sample") or {}
        source = (sample.get("outer") or {}).get("src") or sample.get("src") or row.get("src")
        if kind in HEADER_ANOMALIES and source in addresses:
            found.append(row)
    return found


def _anomaly_evidence(case: Case, sender: str, receiver: str) -> list[Evidence]:
    return [
        Evidence(
            receiver, f"frames from {sender} at {row.get('tap')}", f"{row['kind']}, {row.get('count')} times", None
        )
        for row in _anomalies(case, sender, receiver)[:1]
    ]


def _vni_finding(case: Case, sender: str, group: BadHeader) -> Finding:
    peers = sorted({name for o in group.pairs for name in ends(o)} - {sender})
    pairs = group.pairs + beside(case, {frozenset((sender, peer)) for peer in peers})
    where = f"{sender} sends it so" if group.sent_so else f"it left {sender} right: something on the way changed it"
    return Finding(
        cause="vxlan-vni-invalid",
        severity=CRITICAL,
        confidence=CONFIRMED if group.trace is not None and group.trace.complete else LIKELY,
        hosts=[sender],
        segment="vtep" if group.sent_so else "underlay",
        direction="out",
        summary=f"Tunnel packets of {sender} arrive at {', '.join(peers)} with {group.words}: no VXLAN device "
        f"takes them; {where}",
        evidence=[
            *(trace_evidence(group.trace) if group.trace else []),
            *group.samples[:1],
            probe_evidence(group.pairs[0], len(pairs)),
        ],
        explains=pair_ids(pairs),
        remedies=[
            Remedy(
                "cure",
                (
                    f"on {sender}: ip -d link show type vxlan   # in the overlay's namespace: id and flags (vni, gpe)"
                    if group.sent_so
                    else "find what rewrites the VXLAN header between the hosts: a gateway, a hypervisor",
                ),
                "None.",
            )
        ],
    )


CAUSES = [
    Cause(
        "vxlan-vni-invalid",
        "Tunnel packets carry a header or VNI that the receiver does not take",
        "captured frames at both NICs, the VNIs of the receiver's devices, the kernel's drop reasons",
        "other overlays on the same port have VNIs of their own: only the probes' own frames count",
        decide_vni,
        stage=TRACED,
        remedy="repair the sender's device, or what rewrites the packets on the way",
    ),
    Cause(
        "tunnel-through-nat",
        "The tunnel passes a NAT between the hosts",
        "the outer source of the same packet at the sender's and at the receiver's NIC",
        "a host that translates to the address its peers expect anyway; translation on the host itself is snat-outer",
        decide_nat,
        stage=TRACED,
        remedy="no NAT between nodes, or a tunnel below it",
    ),
]

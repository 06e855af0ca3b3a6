# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a trace says to a cause: the stretch, the kernel's reasons, and the words a person reads.

A trace is asked only where its taps can be believed. What a program of the host's own may have dropped before the tap
saw it is never the network's fault: see O(hidden_by).
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case, Evidence, Facts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.bpf_programs import IN, programs_before
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.hops import NIC, VTEP, Hop
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace import (
    CLOCK_SLACK,
    DROP_WINDOW,
    FORWARD,
    REPLY,
    Broken,
    Drop,
    Trace,
)

ENOUGH = 0.5  # of the lost packets that a reason has to coincide with before it says why they are lost

# What the kernel's drop reasons mean here (include/net/dropreason-core.h of Linux 6.18). Those of VXLAN came with 6.13.
REASON_WORDS = {
    "NETFILTER_DROP": "a rule of the packet filter",
    "IP_RPFILTER": "the reverse path filter",
    "NO_SOCKET": "no socket or device takes the port",
    "UDP_CSUM": "a wrong UDP checksum",
    "TCP_CSUM": "a wrong TCP checksum",
    "ICMP_CSUM": "a wrong ICMP checksum",
    "IP_CSUM": "a wrong IP checksum",
    "SKB_CSUM": "a checksum that could not be computed",
    "VXLAN_INVALID_HDR": "an invalid VXLAN header",
    "VXLAN_VNI_NOT_FOUND": "a VNI no device has",
    "VXLAN_ENTRY_EXISTS": "a sender other than its static forwarding entry says",
    "VXLAN_NO_REMOTE": "no forwarding entry for the destination",
    "MAC_INVALID_SOURCE": "an invalid source MAC",
    "LOCAL_MAC": "a source MAC that is its own",
    "TUNNEL_TXINFO": "an external device without a tunnel's metadata",
    "IP_TUNNEL_ECN": "ECN bits that contradict one another",
    "XFRM_POLICY": "an IPsec policy",
    "OTHERHOST": "a destination MAC of somebody else",
    "IP_INADDRERRORS": "an address it does not route",
    "IP_INNOROUTES": "no route for what arrived",
    "IP_OUTNOROUTES": "no route out",
    "NEIGH_FAILED": "a neighbour that does not answer",
    "NEIGH_QUEUEFULL": "a neighbour that does not answer",
    "NEIGH_CREATEFAIL": "a full neighbour table",
    "PKT_TOO_BIG": "its size",
    "FRAG_REASM_TIMEOUT": "fragments that never came",
    "QDISC_DROP": "the queueing discipline",
    "TC_EGRESS": "a tc filter",
    "TC_INGRESS": "a tc filter",
    "XDP": "an XDP program",
    "BPF_CGROUP_EGRESS": "a BPF program of the cgroup",
    "SOCKET_FILTER": "a filter on the socket",
    "DEV_READY": "a device that is not up",
    "CPU_BACKLOG": "a full backlog of a processor",
    "FULL_RING": "a full ring of the device",
    "SOCKET_RCVBUFF": "a full receive buffer",
    "UNHANDLED_PROTO": "a protocol nobody handles",
    "BRIDGE_INGRESS_STP_STATE": "a bridge port that does not forward",
}
# Given for whatever ends without an error of its own: they say nothing.
SILENT_REASONS = {"NOT_SPECIFIED", "CONSUMED", "QUEUE_PURGE"}


def reason_name(reason: str) -> str:
    """Without the prefix that some kernels' names have."""
    return reason.removeprefix("SKB_DROP_REASON_").removeprefix("SKB_")


def reason_words(reason: str) -> str:
    name = reason_name(reason)
    return f"{name} ({REASON_WORDS[name]})" if name in REASON_WORDS else name


def broken_traces(case: Case, observations: t.Iterable[Observation]) -> list[tuple[Observation, Trace, Broken]]:
    """Those of the pairs that were traced and lost packets in a place the taps agree on."""
    found = []
    for observation in observations:
        trace = case.trace(observation)
        broken = trace.broken if trace is not None else None
        if trace is None or broken is None or broken.arrived * 2 > broken.sent or _is_hidden(case, observation, broken):
            continue
        found.append((observation, trace, broken))
    return found


def _is_hidden(case: Case, observation: Observation, broken: Broken) -> bool:
    """ESP hides the mark: at the NICs of an encrypted network nothing is recognised, lost or not."""
    return is_encrypted(case, observation) and NIC in [hop.name for hop in (broken.last, broken.missing) if hop]


def is_encrypted(case: Case, observation: Observation) -> bool:
    """An overlay network whose tunnel goes in ESP; the option counts whatever its value."""
    network = case.fleet.networks.get(observation.pair.network_id or "")
    return network is not None and network.is_overlay and "encrypted" in network.options


def drops_at(trace: Trace) -> list[Drop]:
    """The kernel's reasons for the packets that were lost, also of those that reached the last hop and no further.

    What a destination's container received and did not answer was dropped in its own stack: the reason coincides with
    the sighting at its interface.
    """
    broken = trace.broken
    if broken is None or broken.last is not None or broken.missing is None:
        return list(trace.drops)
    if broken.direction != REPLY:
        return []
    hop = broken.missing
    last = trace.sightings(FORWARD, len(trace.hops) - 1)
    hits: dict[tuple[str, str], int] = {}
    for sighting in last:
        found = {
            (event["reason"], str(event.get("location") or ""))
            for event in trace.events.get(hop.host) or []
            if -CLOCK_SLACK <= event["time"] - sighting["time"] <= DROP_WINDOW
        }
        for key in found:
            hits[key] = hits.get(key, 0) + 1
    ordered = sorted(hits.items(), key=lambda item: -item[1])
    return [Drop(hop.host, reason, location, count, len(last)) for (reason, location), count in ordered]


def telling(trace: Trace) -> list[Drop]:
    """Reasons that coincide with most of the losses, and say something."""
    return [
        drop
        for drop in drops_at(trace)
        if drop.of and drop.hits >= ENOUGH * drop.of and reason_name(drop.reason) not in SILENT_REASONS
    ]


def reasons(trace: Trace) -> set[str]:
    return {reason_name(drop.reason) for drop in telling(trace)}


def counts(trace: Trace, direction: str) -> str:
    """How many packets each hop saw: node1 container 3, veth 3, vtep 3, nic 3; node2 nic 0, …"""
    words: list[str] = []
    last_host = None
    order = trace.path(direction)
    for position, number in enumerate(trace.seen(direction)):
        hop = trace.hops[order[position]]
        seen = "blind" if order[position] in trace.blind else str(number)
        words.append(f"{'; ' + hop.host if hop.host != last_host else ','} {hop.name} {seen}")
        last_host = hop.host
    return "".join(words).lstrip("; ")


def trace_evidence(trace: Trace) -> list[Evidence]:
    """The row of counts, the kernel's reason and the rule that a trace of rules named."""
    broken = trace.broken
    if broken is None:
        return []
    shown = [FORWARD, REPLY] if broken.direction == REPLY else [FORWARD]
    rows = [
        Evidence(
            (broken.last or broken.missing or trace.hops[0]).host,
            f"taps along {trace.pair_id}",
            " | ".join(f"{direction}: {counts(trace, direction)}" for direction in shown) + f"; {broken.words}",
            "every hop sees every packet, both ways",
            _capture_command(broken),
        )
    ]
    for drop in telling(trace)[:1]:  # the commonest; others are somebody else's
        rows.append(
            Evidence(
                drop.host,
                "skb:kfree_skb at the last sighting",
                f"{reason_words(drop.reason)} for {drop.hits} of {drop.of} lost packets"
                + (f", at {drop.location}" if drop.location else ""),
                "no drop",
                "perf record -e skb:kfree_skb -a sleep 5; perf script   # while probing",
            )
        )
    for host, row in dropping_rules(trace)[:1]:
        rows.append(Evidence(host, "nftrace", rule_text(row), "accepted", "nft -a list ruleset"))
    return rows


def dropping_rules(trace: Trace) -> list[tuple[str, Facts]]:
    """The rules that a trace of rules saw drop something, on the host where packets vanish."""
    place = {hop.host for hop in (trace.broken.last, trace.broken.missing) if hop} if trace.broken else set()
    return [(host, row) for host, row in trace.rules if host in place and row.get("verdict") == "drop"]


def rule_text(row: Facts) -> str:
    handle = f" handle {row['handle']}" if row.get("handle") is not None else " (policy)"
    return f"{row.get('family')} {row.get('table')} {row.get('chain')}{handle}: {row.get('verdict')}"


def _capture_command(broken: Broken) -> str | None:
    missing = broken.missing or broken.last
    if missing is None:
        return None
    return f"tcpdump -nni any   # on {missing.host}, at its {missing.name}, while probing"


def between_nics(broken: Broken) -> bool:
    """Lost after the one host's NIC and before the other's."""
    last, missing = broken.last, broken.missing
    return bool(last and missing and last.name == missing.name == NIC and last.host != missing.host)


def behind_nic(broken: Broken, host: str | None = None) -> bool:
    """Lost after the receiving host's NIC and before its VXLAN device."""
    last, missing = broken.last, broken.missing
    here = bool(last and missing and last.name == NIC and missing.name == VTEP and last.host == missing.host)
    return here and host in (None, last.host if last else None)


@dataclass(frozen=True)
class Outer:
    """The tunnel's own header, as it left one NIC."""

    src: str
    dst: str


def outers(sightings: t.Iterable[Facts]) -> list[Outer]:
    """The tunnel's addresses as seen at a NIC, each pair of them once."""
    found = [row.get("outer") or {} for row in sightings]
    return list(dict.fromkeys(Outer(row["src"], row["dst"]) for row in found if row.get("src") and row.get("dst")))


def at(trace: Trace, direction: str, hop: Hop) -> list[Facts]:
    """Sightings at a hop, in one direction."""
    return trace.sightings_at(direction, hop.name, hop.host)


def well_addressed(case: Case, trace: Trace, broken: Broken) -> bool:
    """What left the last NIC had the right addresses: from one of that host's own, to one of the other's.

    Else it is no wonder that it did not arrive, and no network's fault.
    """
    if broken.last is None or broken.missing is None:
        return False
    seen = outers(at(trace, broken.direction, broken.last))
    ours, theirs = _addresses(case, broken.last.host), _addresses(case, broken.missing.host)
    return all(outer.src in ours and outer.dst in theirs for outer in seen)


def _addresses(case: Case, host: str) -> set[str]:
    known = case.host(host)
    return known.facts.addresses | ({known.underlay_ip} if known.underlay_ip else set())


def hidden_by(case: Case, hop: Hop | None) -> list[str]:
    """Programs of the receiving host that may drop a packet before a tap at this hop sees it arrive."""
    if hop is None or hop.host not in case.fleet.hosts:
        return []
    return programs_before(case.host(hop.host), hop, IN)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Traces confirm or refute what state and probes suggested.

A finding that is likely becomes confirmed when the packets of its pairs vanish in the very place it blames and the
kernel gives the reason that goes with it. It loses its pairs when their packets were seen beyond that place: what it
blames exists, but it is not what breaks them.
"""

from __future__ import annotations

import itertools
import typing as t
from dataclasses import dataclass

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    INFO,
    POSSIBLE,
    Case,
    Finding,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.traced import (
    between_nics,
    broken_traces,
    outers,
    reasons,
    telling,
    trace_evidence,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.hops import NIC, Hop
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace import FORWARD, REPLY, Broken, Trace

HERE, PEER, ANYWHERE = "here", "peer", "anywhere"


@dataclass(frozen=True)
class Proof:
    """The kernel's reasons that go with a cause, and on which host it gives them: that of the finding, or its peer."""

    reasons: frozenset[str]
    where: str = HERE


def _proof(*reasons: str, where: str = HERE) -> Proof:
    return Proof(frozenset(reasons), where)


FILTER = _proof("NETFILTER_DROP")
ROUTING = _proof("IP_INADDRERRORS", "IP_INNOROUTES", "IP_OUTNOROUTES")

# Reasons by cause (include/net/dropreason-core.h, Linux 6.18). A cause without a row is never raised by a reason.
PROOFS: dict[str, Proof] = {
    "data-udp-blocked-host-fw": FILTER,
    "nft-basechain-override": FILTER,
    "legacy-nft-mix": FILTER,
    "calico-drops-foreign-vxlan": FILTER,
    "encrypted-inner-4789-input": FILTER,
    "encrypted-stale-rules": FILTER,
    "container-port-filtered": FILTER,
    "forward-policy-drop": FILTER,
    "docker28-raw-drop": FILTER,
    "esp-blocked": FILTER,
    "multi-nic-rpfilter": _proof("IP_RPFILTER"),
    "ip-forward-zero": ROUTING,
    "if-forwarding-off": ROUTING,
    "networkd-foreign-flush": ROUTING,
    "source-vtep-mismatch": _proof("VXLAN_ENTRY_EXISTS", where=PEER),
    "snat-outer": _proof("VXLAN_ENTRY_EXISTS", where=PEER),
    "duplicate-vtep-ip": _proof("VXLAN_ENTRY_EXISTS", where=PEER),
    "data-path-port-mismatch": _proof("NO_SOCKET", where=ANYWHERE),
    "data-port-userland-taken": _proof("NO_SOCKET", "SOCKET_FILTER", "SOCKET_RCVBUFF"),
    "overlay-entry-missing": _proof("VXLAN_NO_REMOTE"),
    # What comes from an endpoint whose entry points elsewhere is refused as well: by the host that has the entry.
    "overlay-entry-wrong": _proof("VXLAN_ENTRY_EXISTS", "VXLAN_NO_REMOTE", "OTHERHOST", "LOCAL_MAC", where=ANYWHERE),
    "mac-policy-rewrite": _proof("OTHERHOST", "LOCAL_MAC", where=ANYWHERE),
    "vtep-down": _proof("DEV_READY"),
    "bridge-down": _proof("DEV_READY", "BRIDGE_INGRESS_STP_STATE"),
    "underlay-unreachable": _proof("NEIGH_FAILED", "NEIGH_QUEUEFULL", "IP_OUTNOROUTES"),
    "neigh-overflow": _proof("NEIGH_CREATEFAIL"),
    "encrypted-no-esp-kernel": _proof("XFRM_POLICY", where=ANYWHERE),
    "encrypted-xtables-match-missing": _proof("XFRM_POLICY", where=ANYWHERE),
    "tx-csum-inner-bug": _proof("TCP_CSUM", "UDP_CSUM", where=PEER),
    "tx-csum-outer-bug": _proof("UDP_CSUM", where=PEER),
}
# Where a stretch between two hops may be called by several names; the reason decides (DESIGN.md 4.3).
ALSO = {
    "host-filter-out": {"host-stack", "nat", "vtep"},
    "host-filter-in": {"host-stack", "nat", "vtep"},
    "bridge": {"vtep", "container", "host-filter-out", "host-filter-in"},
    "container": {"bridge", "vtep"},
    "host-stack": {"host-filter-out", "host-filter-in", "nat", "bridge"},
    "nat": {"host-stack", "host-filter-in", "host-filter-out", "service", "bridge"},
    "underlay": {"control-plane"},
}


def confirm(case: Case) -> None:
    """Hold every finding that explains pairs against their traces."""
    for finding in list(case.findings):
        explained = set(finding.explains)
        traced = broken_traces(case, [o for o in case.broken if o.pair.id in explained])
        if not traced:
            continue
        agreeing = [row for row in traced if _agrees(case, finding, *row)]
        if agreeing:
            if finding.confidence != CONFIRMED:
                finding.confidence = CONFIRMED
            _add_evidence(finding, agreeing[0][1])
        elif finding.confidence != CONFIRMED:
            _doubt(case, finding, traced)


def _add_evidence(finding: Finding, trace: Trace) -> None:
    finding.evidence += [row for row in trace_evidence(trace) if row not in finding.evidence]


def _agrees(case: Case, finding: Finding, observation: Observation, trace: Trace, broken: Broken) -> bool:
    """The packets vanish where the finding says, for the reason that goes with it."""
    if finding.cause == "overlay-entry-wrong" and _sent_astray(case, finding, broken, trace):
        return True
    proof = PROOFS.get(finding.cause)
    if proof is None or not proof.reasons & reasons(trace):
        return False
    given = {drop.host for drop in telling(trace) if drop.reason.removeprefix("SKB_DROP_REASON_") in proof.reasons}
    ends = {str(name) for name in observation.pair.hosts}
    hosts = set(finding.hosts)
    if proof.where == HERE:
        return bool(given & hosts) and _same_place(finding, broken)
    if proof.where == PEER:
        return bool(given & (ends - hosts)) and bool(ends & hosts)
    return bool(given & ends) and bool(ends & hosts)


def _same_place(finding: Finding, broken: Broken) -> bool:
    segment = broken.segment
    if finding.segment != segment and finding.segment not in ALSO.get(segment, set()):
        return False
    return not (segment.startswith("host-filter") and finding.direction in ("in", "out")) or segment.endswith(
        f"-{finding.direction}"
    )


def _sent_astray(case: Case, finding: Finding, broken: Broken, trace: Trace) -> bool:
    """The tunnel packets left the finding's host for an address that is not their destination's."""
    if not between_nics(broken) or broken.last is None or broken.last.host not in finding.hosts:
        return False
    other = case.host(broken.missing.host)  # type: ignore[union-attr]
    theirs = other.facts.addresses | ({other.underlay_ip} if other.underlay_ip else set())
    seen = outers(trace.sightings_at(broken.direction, NIC, broken.last.host))
    return bool(seen) and all(outer.dst not in theirs for outer in seen)


def _doubt(case: Case, finding: Finding, traced: list[tuple[Observation, Trace, Broken]]) -> None:
    """Take from a finding the pairs whose packets were seen beyond the place it blames."""
    beyond = [(o, broken) for o, trace, broken in traced if _beyond(finding, trace, broken)]
    if not beyond:
        return
    because = f"packets were seen beyond it: {beyond[0][1].words}"
    if len(beyond) == len(traced):
        gone = set(finding.explains)
        finding.severity, finding.confidence = INFO, POSSIBLE
        finding.summary += "; but its pairs' packets were seen beyond it"
        finding.evidence += [row for row in trace_evidence(traced[0][1])[:1] if row not in finding.evidence]
    else:
        gone = {o.pair.id for o, _broken in beyond}
    finding.explains = [pair for pair in finding.explains if pair not in gone]
    case.refuted.append((finding.cause, because, frozenset(gone)))


def _stretches(trace: Trace) -> list[tuple[str, Hop, Hop]]:
    """The stretches of the round trip, in order of travel."""
    found = []
    for direction in (FORWARD, REPLY):
        order = [trace.hops[index] for index in trace.path(direction)]
        found += [(direction, first, second) for first, second in itertools.pairwise(order)]
    return found


def _beyond(finding: Finding, trace: Trace, broken: Broken) -> bool:
    """Whether the packets got past every place on their way that the finding may mean; only where that is one place.

    Of a cause whose packets are dropped elsewhere than where the fault is, that says nothing.
    """
    proof = PROOFS.get(finding.cause)
    if proof is None or proof.where != HERE:
        return False
    if finding.direction not in ("in", "out") or len(finding.hosts) != 1:
        return False
    if finding.segment not in ("host-filter-in", "host-filter-out", "host-stack"):
        return False
    host, stretches = finding.hosts[0], _stretches(trace)
    blamed = [
        number
        for number, (_direction, first, second) in enumerate(stretches)
        if first.host == second.host == host and (first if finding.direction == "in" else second).name == NIC
    ]
    return bool(blamed) and _position(trace, stretches, broken) > max(blamed)


def _position(trace: Trace, stretches: list[tuple[str, Hop, Hop]], broken: Broken) -> float:
    """Where on the round trip packets vanish; between the two ways when the far end took them and said nothing."""
    if broken.last is None:
        return -1.0 if broken.direction == FORWARD else len(trace.hops) - 1.5
    place = (broken.direction, broken.last, broken.missing)
    return next((float(number) for number, row in enumerate(stretches) if row == place), -1.0)


def refuted_rows(case: Case, finding: Finding) -> t.Iterator[tuple[str, str]]:
    """What was blamed for a finding's pairs before traces spoke against it."""
    for cause, because, pairs in case.refuted:
        if cause != finding.cause and pairs & set(finding.explains):
            yield cause, because

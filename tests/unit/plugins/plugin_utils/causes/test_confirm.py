# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Traces confirm a finding whose place and reason they show, and refute one beyond whose place packets were seen."""

from __future__ import annotations

import re

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes import base, confirm
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case, Evidence, Finding
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.registry import CAUSES
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.traced import REASON_WORDS
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace import FORWARD, REPLY
from tests.unit.made_fleet import make_fleet, run_case
from tests.unit.made_trace import follow
from tests.unit.plugins.plugin_utils.causes.traced_fleet import addressed, filters_known, overlay_between

PAIR = "node1/app-1>node2/app-2@app"


def traced_case(lost: tuple[str, int], reason: str | None = None) -> Case:
    """One pair, node1 to node2, lost in a place."""
    case = run_case(filters_known(make_fleet(2)), overlay_between("node1", "node2"))
    case.observations[:] = [o for o in case.observations if o.pair.kind != "overlay" or o.pair.id == PAIR]
    follow(case, [o for o in case.observations if o.pair.id == PAIR], lost, reason=reason, alter=addressed)
    return Case(case.fleet, case.observations, case.traces)


def finding(cause: str, host: str, segment: str, direction: str | None, confidence: str = base.LIKELY) -> Finding:
    return Finding(
        cause, base.CRITICAL, confidence, [host], segment, "It is so", [Evidence(host, "a rule", "drop")], [PAIR],
        direction=direction,
    )  # fmt: skip


def judged(case: Case, *findings: Finding) -> list[Finding]:
    case.findings = list(findings)
    confirm.confirm(case)
    return case.findings


@pytest.mark.parametrize(
    ("cause", "host", "segment", "direction", "lost", "reason"),
    [
        ("data-udp-blocked-host-fw", "node2", "host-filter-in", "in", (FORWARD, 4), "NETFILTER_DROP"),
        ("data-udp-blocked-host-fw", "node1", "host-filter-out", "out", (FORWARD, 2), "NETFILTER_DROP"),
        ("data-udp-blocked-host-fw", "node2", "host-filter-out", "out", (REPLY, 2), "NETFILTER_DROP"),
        ("multi-nic-rpfilter", "node2", "host-stack", "in", (FORWARD, 4), "IP_RPFILTER"),
        ("source-vtep-mismatch", "node1", "underlay", "out", (FORWARD, 4), "VXLAN_ENTRY_EXISTS"),
        ("source-vtep-mismatch", "node1", "underlay", "out", (FORWARD, 4), "SKB_DROP_REASON_VXLAN_ENTRY_EXISTS"),
        ("data-path-port-mismatch", "node2", "vtep", None, (FORWARD, 4), "NO_SOCKET_HERE"),
        ("overlay-entry-wrong", "node2", "vtep", "out", (FORWARD, 4), "VXLAN_ENTRY_EXISTS"),
    ],
)
def test_the_place_and_its_reason_confirm(cause, host, segment, direction, lost, reason):
    case = traced_case(lost, reason)
    if reason == "NO_SOCKET_HERE":  # what our own sockets cause is calibrated out; here none of them does
        for record in case.fleet.hosts.values():
            for event in record.captures["trace"]["reasons"]["events"]:
                event["reason"] = "NO_SOCKET"
        for events in case.traces[PAIR].events.values():
            for event in events:
                event["reason"] = "NO_SOCKET"
    (row,) = judged(case, finding(cause, host, segment, direction))
    assert row.confidence == "confirmed" and row.explains == [PAIR]
    assert any(item.source == f"taps along {PAIR}" for item in row.evidence)
    assert any("lost packets" in item.observed for item in row.evidence)


@pytest.mark.parametrize(
    ("cause", "host", "segment", "direction", "lost", "reason"),
    [
        ("data-udp-blocked-host-fw", "node2", "host-filter-in", "in", (FORWARD, 4), None),
        ("data-udp-blocked-host-fw", "node2", "host-filter-in", "in", (FORWARD, 4), "SOCKET_RCVBUFF"),
        ("data-udp-blocked-host-fw", "node2", "host-filter-in", "in", (FORWARD, 3), "NETFILTER_DROP"),
        ("data-udp-blocked-host-fw", "node1", "host-filter-in", "in", (FORWARD, 4), "NETFILTER_DROP"),
        ("data-udp-blocked-host-fw", "node2", "host-filter-out", "out", (FORWARD, 4), "NETFILTER_DROP"),
        ("if-forwarding-off", "node2", "host-stack", None, (FORWARD, 4), "NETFILTER_DROP"),
        ("service-not-listening", "node2", "service", None, (FORWARD, 4), "NETFILTER_DROP"),
    ],
)
def test_another_place_or_reason_does_not(cause, host, segment, direction, lost, reason):
    (row,) = judged(traced_case(lost, reason), finding(cause, host, segment, direction))
    assert (row.confidence, row.severity) == ("likely", "critical")


def test_packets_seen_beyond_the_blamed_place_refute_it():
    case = traced_case((FORWARD, 5))
    (row,) = judged(case, finding("data-udp-blocked-host-fw", "node2", "host-filter-in", "in"))
    assert (row.severity, row.confidence, row.explains) == ("info", "possible", [])
    assert case.refuted[0][0] == "data-udp-blocked-host-fw" and "vtep of node2" in case.refuted[0][1]


@pytest.mark.parametrize(
    ("host", "segment", "direction", "lost"),
    [
        ("node2", "host-filter-in", "in", (FORWARD, 3)),  # lost before it gets there: another fault hides this one
        ("node2", "host-filter-out", "out", (FORWARD, 5)),  # its answer never came so far
        ("node1", "host-filter-in", "in", (REPLY, 3)),
        ("node2", "host-filter-in", None, (FORWARD, 5)),  # which way is not said
        ("node2", "vtep", "in", (FORWARD, 5)),
    ],
)
def test_what_was_lost_before_refutes_nothing(host, segment, direction, lost):
    (row,) = judged(traced_case(lost), finding("data-udp-blocked-host-fw", host, segment, direction))
    assert (row.severity, row.confidence, row.explains) == ("critical", "likely", [PAIR])


def test_what_is_dropped_elsewhere_is_seen_beyond_its_cause():
    case = traced_case((FORWARD, 4))
    (row,) = judged(case, finding("tx-csum-outer-bug", "node1", "host-stack", "out"))
    assert (row.severity, row.explains) == ("critical", [PAIR]) and not case.refuted


def test_what_a_counter_confirmed_is_not_refuted():
    case = traced_case((FORWARD, 5))
    (row,) = judged(case, finding("data-udp-blocked-host-fw", "node2", "host-filter-in", "in", base.CONFIRMED))
    assert row.explains == [PAIR] and not case.refuted


def test_the_finding_that_takes_over_says_what_was_refuted(monkeypatch):
    case = traced_case((FORWARD, 5))
    wrong = finding("data-udp-blocked-host-fw", "node2", "host-filter-in", "in")
    monkeypatch.setattr("ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.registry.CAUSES", [
        base.Cause("data-udp-blocked-host-fw", "", "", "", lambda case: [wrong]),
        *[cause for cause in CAUSES if cause.stage == base.REMAINDER],
    ])  # fmt: skip
    from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.registry import decide_all

    decide_all(case)
    left = next(f for f in case.findings if f.cause == "unexplained-loss")
    assert left.explains == [PAIR] and left.segment == "bridge"
    assert ("data-udp-blocked-host-fw", case.refuted[0][1]) in left.rejected


def test_packets_sent_astray_confirm_a_wrong_entry():
    case = run_case(filters_known(make_fleet(2)), overlay_between("node1", "node2"))
    case.observations[:] = [o for o in case.observations if o.pair.kind != "overlay" or o.pair.id == PAIR]

    def astray(direction, hop, sighting):
        sighting = addressed(direction, hop, sighting)
        if sighting.get("outer"):
            sighting["outer"]["dst"] = "203.0.113.9"
        return sighting

    follow(case, [o for o in case.observations if o.pair.id == PAIR], (FORWARD, 3), alter=astray)
    fresh = Case(case.fleet, case.observations, case.traces)
    (row,) = judged(fresh, finding("overlay-entry-wrong", "node1", "vtep", None))
    assert row.confidence == "confirmed"


def test_every_cause_with_a_proof_is_a_cause_and_every_reason_has_words():
    assert set(confirm.PROOFS) <= {cause.id for cause in CAUSES}
    assert {reason for proof in confirm.PROOFS.values() for reason in proof.reasons} <= set(REASON_WORDS)


def test_reasons_are_names_as_kernels_give_them():
    assert all(re.fullmatch(r"[A-Z0-9_]+", name) for name in REASON_WORDS)

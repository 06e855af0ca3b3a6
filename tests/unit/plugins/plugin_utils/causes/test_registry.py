# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all causes have in common: ids of their own, the order of deciding, and the alternatives they rule out."""

from __future__ import annotations

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.registry import CAUSES
from tests.unit.made_fleet import make_fleet, run_case


def overlay_of(name: str):
    return lambda pair, key: "timeout" if pair.kind == "overlay" and name in pair.hosts else None


def test_causes_are_decided_by_stage():
    stages = [cause.stage for cause in CAUSES]
    assert stages == sorted(stages)


def test_a_finding_records_what_else_it_could_have_been_and_why_it_was_not():
    (finding,) = run_case(make_fleet(3), overlay_of("node2")).findings
    rejected = dict(finding.rejected)
    assert "node1 and node2" in rejected["underlay-unreachable"]


def test_an_alternative_that_was_not_looked_at_is_not_ruled_out():
    fleet = make_fleet(3)
    case = run_case(fleet, lambda p, k: "timeout" if "node2" in p.hosts else None)
    assert all("underlay-unreachable" not in dict(finding.rejected) for finding in case.findings)


def test_a_wrong_setting_that_breaks_nothing_is_named_beside_the_one_that_does():
    fleet = make_fleet(3)
    facts = fleet.hosts["node2"].facts
    facts.facts["containers"][0]["ports"] = [{"protocol": "tcp", "port": 80, "host_ip": "0.0.0.0", "host_port": 8080}]
    facts.root.facts["sysctls"] = {"net.ipv4.ip_forward": 0}
    case = run_case(fleet, overlay_of("node2"))
    severities = {finding.cause: finding.severity for finding in case.findings}
    assert severities["ip-forward-zero"] == "info"
    (loud,) = [finding for finding in case.findings if finding.severity == "critical"]
    assert "breaks nothing" in dict(loud.rejected)["ip-forward-zero"]

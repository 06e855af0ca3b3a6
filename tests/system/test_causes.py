# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Causes that state, probes and counters show: a fault of each family. The whole library: make accuracy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.faults import FAULTS, find
from tests.lab.faults.model import place_for
from tests.system.expectations import judge, run, words

CHOSEN = [
    "nft-basechain-override",
    "ruleset-flushed",
    "masquerade-missing",
    "container-port-filtered",
    "source-vtep-mismatch",
    "vpn-policy-route",
    "duplicate-node-ip",
    "embedded-dns-broken",
    "upstream-dns-unreachable",
    "bridge-down",
    "container-route-wrong",
    "br-netfilter-missing",
    "overlay-mtu-gt-local-nic",
    "ipvs-missing",
    "node-not-active",
    "cloned-identity",
]


@pytest.mark.parametrize("name", CHOSEN)
def test_a_fault_is_named_where_it_is_and_nothing_else_is(lab: Lab, tmp_path: Path, name: str) -> None:
    fault = FAULTS[name]
    options = fault.options(place_for(lab, fault, None))
    with lab.broken(fault) as expected:
        done = run(lab, tmp_path, **options)
    assert done.code == 0, done.output
    assert judge(done.report, expected, fault.also) == []


def test_three_faults_on_three_hosts_are_all_named(lab: Lab, tmp_path: Path) -> None:
    faults = {
        "data-udp-blocked-host-fw": "node3",
        "if-forwarding-off:docker_gwbridge": "node2",
        "embedded-dns-broken": "node1",
    }
    for name, host in faults.items():
        lab.break_(name, host)
    done = run(lab, tmp_path)
    lab.heal()
    assert done.code == 0, done.output
    found = {(finding["cause"], *finding["hosts"]) for finding in done.loud}
    assert found == {(find(name).cause, host) for name, host in faults.items()}, words(done.loud)
    failed = {pair["id"] for pair in done.report["pairs"] if pair["verdict"] == "failed"}
    assert failed == {pair for finding in done.loud for pair in finding["explains"]}

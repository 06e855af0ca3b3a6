# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The data plane on real hosts: two faults on one path, other containers' traffic beside the probes, proof by taps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import Lab
from tests.system.expectations import assert_named, run, words

pytestmark = [pytest.mark.lab, pytest.mark.root]


def test_two_faults_on_one_path_are_both_named(lab: Lab, tmp_path: Path) -> None:
    """node3's own filter drops what arrives, and the network drops what node2 sends to it."""
    lab.break_("data-udp-blocked-host-fw:nft-no-counter", "node3")
    lab.break_("data-udp-blocked-network:one-pair", "node2")
    done = run(lab, tmp_path)
    lab.heal()
    assert done.code == 0, done.output
    found = {(finding["cause"], *finding["hosts"], finding["confidence"]) for finding in done.loud}
    assert found == {
        ("data-udp-blocked-host-fw", "node3", "confirmed"),
        ("data-udp-blocked-network", "node2", "node3", "confirmed"),
    }, words(done.loud)
    failed = {pair["id"] for pair in done.report["pairs"] if pair["verdict"] == "failed"}
    assert failed == {pair for finding in done.loud for pair in finding["explains"]}


@pytest.mark.parametrize(
    ("fault", "host"),
    [("data-udp-blocked-network:in", "node2"), ("vxlan-vni-invalid", "node3"), ("tunnel-through-nat", "node1")],
)
def test_other_containers_traffic_does_not_blur_where_the_probes_vanish(
    lab: Lab, tmp_path: Path, fault: str, host: str
) -> None:
    expected = lab.break_(fault, host)
    lab.break_("trap:busy-containers", "node1")
    done = run(lab, tmp_path)
    lab.heal()
    assert_named(done, expected)
    assert [finding["confidence"] for finding in done.loud] == ["confirmed"]


def test_a_rule_without_a_counter_is_confirmed_by_taps_and_the_kernels_reason(lab: Lab, tmp_path: Path) -> None:
    expected = lab.break_("data-udp-blocked-host-fw:nft-no-counter", "node2")
    done = run(lab, tmp_path)
    lab.heal()
    assert_named(done, expected)
    (finding,) = done.loud
    assert finding["confidence"] == "confirmed"
    observed = " ".join(row["observed"] for row in finding["evidence"])
    assert "NETFILTER_DROP" in observed and "nic of node2" in observed

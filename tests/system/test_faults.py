# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The fault library: each fault breaks just what it says, and healing gives everything back."""

from __future__ import annotations

import os

import pytest

from tests.lab import Lab, LabError
from tests.lab.faults import FAULTS
from tests.lab.snapshot import difference

pytestmark = [pytest.mark.lab, pytest.mark.root]

HANDFUL = [
    "data-udp-blocked-host-fw:raw",
    "data-udp-blocked-host-fw:one-peer",
    "data-udp-blocked-host-fw:netdev-egress",
    "if-forwarding-off:docker_gwbridge",
    "ip-forward-zero:persisted",
    "overlay-entry-wrong:live",
    "vtep-down:detached",
    "underlay-unreachable:blackhole",
    "data-udp-blocked-network:one-pair",
    "service-not-listening:other-port",
]
# CROSSHOST_ALL_FAULTS=1 goes through the whole library: half an hour
CHOSEN = sorted(FAULTS) if os.environ.get("CROSSHOST_ALL_FAULTS") else HANDFUL


@pytest.mark.parametrize("fault", CHOSEN)
def test_a_fault_breaks_what_it_says_and_heals_without_a_trace(lab: Lab, fault: str) -> None:
    before = lab.snapshot()
    expected = lab.break_(fault)
    if not FAULTS[fault].partial:
        assert lab.survey().unexpected(expected["pairs"]) == []
    lab.heal(fault)
    after = lab.snapshot()
    if not FAULTS[fault].residue:
        assert difference(before, after) == []
    assert not lab.survey().broken


def test_a_fault_that_takes_long_to_heal_is_followed_by_a_new_lab(ground: None) -> None:
    with Lab.up(f"renew-{os.getpid()}", hosts=2) as lab:
        first = lab.hosts["node1"].pid
        with lab.broken("engine-down") as expected:
            assert lab.survey().unexpected(expected["pairs"]) == []
        assert lab.hosts["node1"].pid != first
        assert lab.present() == []
        assert not lab.survey().broken


def test_faults_on_several_hosts_are_healed_in_any_order(lab: Lab) -> None:
    before = lab.snapshot()
    first, second = "data-udp-blocked-host-fw:raw", "data-udp-blocked-host-fw:mangle"
    lab.break_(first, "node1")
    lab.break_(second, "node1")
    lab.break_(first, "node3")
    assert lab.present() == [(first, "node1"), (second, "node1"), (first, "node3")]
    with pytest.raises(LabError, match="already"):
        lab.break_(first, "node1")
    lab.heal(first, wait=False)
    assert lab.present() == [(second, "node1")]
    Lab.load(lab.name).heal()  # as another process would: all it knows is in the lab's folder
    assert lab.present() == []
    assert difference(before, lab.snapshot()) == []


def test_a_fault_that_cannot_be_put_in_changes_nothing(lab: Lab) -> None:
    before = lab.snapshot()
    with pytest.raises(LabError, match="no Docker host"):
        lab.break_("vtep-down", "node99")
    with pytest.raises(LabError, match="no fault"):
        lab.break_("vtep-dwon")
    with pytest.raises(LabError, match="is not in"):
        lab.heal("vtep-down")
    assert difference(before, lab.snapshot()) == []

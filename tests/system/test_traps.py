# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Healthy fleets with oddities: whatever looks like a fault and is none yields nothing above info.

Those that do not disturb one another are put in together, so that a run of the tests can afford them all at once.
Each by itself: make accuracy ONLY='trap:*'
"""

from __future__ import annotations

from pathlib import Path

from tests.lab import Lab
from tests.lab.traps import TRAPS
from tests.system.expectations import judge, run

TOGETHER = [
    "strict-input",
    "drops-for-other-ports",
    "tunnel-dropped-from-strangers",
    "nft-counters-only",
    "marks-and-dscp",
    "bridge-nf-off",
    "docker-user-for-a-stranger",
    "docker28-guard",
    "container-with-its-own-filter",
    "second-vxlan-same-port",
    "second-vxlan-other-port",
    "strict-rp-filter",
    "vpn-mark-rule",
    "virtual-address",
    "second-nic",
    "jumbo-underlay",
    "loopback-forwarding-off",
    "dns-option-bridge",
    "no-network",
    "icc-off",
    "network-internal",
]
NOTHING = {"cause": None, "causes": [], "hosts": [], "segments": [], "direction": None, "severity": "info", "pairs": []}


def test_many_oddities_at_once_are_no_fault(lab: Lab, tmp_path: Path) -> None:
    traps = [TRAPS[f"trap:{name}"] for name in TOGETHER]
    before = set(lab.survey().works)
    for trap in traps:
        lab.break_(trap)
    assert not lab.survey().broken & before  # containers that have no way out by design come with the traps
    done = run(lab, tmp_path)
    lab.heal()
    assert done.code == 0, done.output
    assert judge(done.report, NOTHING, frozenset().union(*(trap.also for trap in traps))) == []

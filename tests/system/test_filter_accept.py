# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""In whatever way a host's own filter drops the tunnel: an accept for the peers lets it pass, and is taken back."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab
from tests.lab.fleet import Host
from tests.lab.snapshot import difference
from tests.playbook import BIN, environment

pytestmark = [pytest.mark.lab, pytest.mark.root]

FW = "data-udp-blocked-host-fw"
JOURNAL = "test-filter-accept"
# (fault, direction): every kind of hook, set and backend that the module tells apart.
WAYS = [
    (f"{FW}:reject", "in"),
    (f"{FW}:raw", "in"),
    (f"{FW}:user-chain", "in"),
    (f"{FW}:one-peer", "in"),
    (f"{FW}:nft-interval", "in"),
    (f"{FW}:nft-verdict-map", "in"),
    (f"{FW}:nft-trusted", "in"),
    (f"{FW}:nft-prerouting", "in"),
    (f"{FW}:nft-payload", "in"),
    (f"{FW}:netdev-ingress", "in"),
    (f"{FW}:output-one-peer", "out"),
    (f"{FW}:postrouting", "out"),
    (f"{FW}:netdev-egress", "out"),
    ("nft-basechain-override", "in"),
    ("legacy-nft-mix", "in"),
    ("calico-drops-foreign-vxlan", "in"),
]


def accept(*, check: bool = False, **arguments: Any) -> dict[str, Any]:
    return {"crosshost.doctor.filter_accept": arguments, "check_mode": check, "diff": True}


def rolled_back() -> dict[str, Any]:
    return {"crosshost.doctor.guard": {"name": JOURNAL, "state": "rolled_back"}}


def play(lab: Lab, host: Host, folder: Path, *tasks: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of these tasks on a host, in one run."""
    made = [{**task, "register": f"r{number}"} for number, task in enumerate(tasks)]
    results = "{{ [" + ", ".join(f"r{number}" for number in range(len(tasks))) + "] | to_json }}"
    keep = {"ansible.builtin.copy": {"content": results, "dest": str(folder / "results")}, "delegate_to": "localhost"}
    text = json.dumps([{"hosts": host.name, "gather_facts": False, "tasks": [*made, {**keep, "diff": False}]}])
    (folder / "play.yml").write_text(text)
    command = [str(BIN / "ansible-playbook"), "-i", str(lab.write_inventory(folder / "inventory.ini"))]
    done = subprocess.run(
        [*command, str(folder / "play.yml")],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads((folder / "results").read_text())
    return found


@pytest.mark.parametrize(("fault", "direction"), WAYS)
def test_the_tunnel_passes_and_all_is_taken_back(lab: Lab, tmp_path: Path, fault: str, direction: str) -> None:
    with lab.broken(fault) as expected:
        host = lab.hosts[expected["hosts"][0]]
        peers = [other.address for other in lab.docker_hosts if other.name != host.name]
        wanted = {"direction": direction, "services": [{"protocol": "udp", "port": 4789}], "peers": peers}
        before = lab.snapshot()
        (foretold,) = play(lab, host, tmp_path, accept(check=True, **wanted))
        assert foretold["changed"]
        assert difference(before, lab.snapshot()) == []
        assert lab.survey().unexpected(expected["pairs"]) == []

        done, again = play(lab, host, tmp_path, accept(journal=JOURNAL, **wanted), accept(journal=JOURNAL, **wanted))
        assert [done["edits"], done["diff"]] == [foretold["edits"], foretold["diff"]]
        assert not again["changed"]
        assert not lab.survey().broken
        own = [line for line in difference(before, lab.snapshot()) if "/ruleset: " in line or "/legacy: " in line]
        assert not [line for line in own if line.startswith(("-", "±"))]

        (undone,) = play(lab, host, tmp_path, rolled_back())
        assert undone["changed"]
        assert difference(before, lab.snapshot()) == []
        assert lab.survey().unexpected(expected["pairs"]) == []


def test_a_host_that_drops_nothing_is_left_alone(lab: Lab, tmp_path: Path) -> None:
    host = lab.docker_hosts[-1]
    services = [{"protocol": "udp", "port": 4789}, {"protocol": "tcp", "port": 7946}, {"protocol": "esp"}]
    before = lab.snapshot()
    (done,) = play(lab, host, tmp_path, accept(services=services, peers=[lab.docker_hosts[0].address]))
    assert (done["changed"], done["edits"], done["managed"]) == (False, [], [])
    assert difference(before, lab.snapshot()) == []

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A repair shows itself first, verifies itself, and takes back what did not help; and no accident locks anybody out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab
from tests.lab.fleet import Host
from tests.lab.snapshot import difference
from tests.playbook import BIN, Run, diagnose, environment, own_playbook, remediate, roll_back

FAULT = "if-forwarding-off"
JOURNALS = "/var/lib/crosshost-doctor"
GUARDS = "/run/crosshost.doctor-guard"


@pytest.fixture
def host(lab: Lab) -> Host:
    return lab.hosts["node2"]


@pytest.fixture
def report(lab: Lab, tmp_path: Path) -> Iterator[Run]:
    """A lab with one fault, and a diagnosis of it."""
    with lab.broken(FAULT):
        yield diagnose(lab.write_inventory(tmp_path / "inventory.ini"), tmp_path / "run")


def repair(lab: Lab, tmp_path: Path, **extra: Any) -> Run:
    return remediate(lab.write_inventory(tmp_path / "inventory.ini"), tmp_path / "run", **extra)


def edited(run: Run, change: dict[str, Any]) -> None:
    """The report of a run with other values for the first remedy of its first loud finding."""
    made = run.report
    finding = next(entry for entry in made["findings"] if entry["cause"] == FAULT)
    next(entry for entry in finding["remedies"] if entry["role"])["vars"] |= change
    (run.folder / "report.json").write_text(json.dumps(made))


def undo_all(host: Host, inventory: Path) -> None:
    """Roll back every journal of a host, the newest first."""
    folder = host.path(f"{JOURNALS}/journal")
    names = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns) if folder.is_dir() else []
    for path in reversed(names):
        argument = json.dumps({"name": path.stem, "state": "rolled_back"})
        argv = [str(BIN / "ansible"), host.name, "-i", str(inventory), "-m", "crosshost.doctor.guard", "-a", argument]
        subprocess.run(argv, check=True, env=environment(), timeout=60, capture_output=True)


def test_without_consent_everything_is_shown_and_nothing_changes(lab: Lab, report: Run, tmp_path: Path) -> None:
    before = lab.snapshot()
    done = repair(lab, tmp_path)
    assert done.code == 0, done.output
    assert difference(before, lab.snapshot()) == []
    assert "+net.ipv4.conf.docker0.forwarding = 1" in done.output
    assert "node2: ip_forwarding cures if-forwarding-off" in done.output
    assert "nothing changed" in done.output


def test_with_consent_it_is_applied_and_verified_and_a_second_run_has_nothing_to_do(
    lab: Lab, report: Run, host: Host, tmp_path: Path
) -> None:
    before = lab.snapshot()
    done = repair(lab, tmp_path, doctor_apply=True)
    assert done.code == 0, done.output
    assert list(done.outcomes.values()) == ["helped"], done.output
    assert host.path("/etc/sysctl.d/zz-crosshost-doctor.conf").read_text().endswith("docker0.forwarding = 1\n")
    assert not host.path(GUARDS).exists()
    again = remediate(tmp_path / "inventory.ini", tmp_path / "again", doctor_apply=True)
    assert again.code == 0, again.output
    assert again.report["verdict"] == "healthy"
    assert "nothing to do" in again.output
    same = repair(lab, tmp_path, doctor_apply=True)  # in the folder of the repair: nobody may lose the way back
    assert same.code == 0, same.output
    assert same.report["verdict"] == "healthy", "the report that was gone by is used up"
    assert "nothing to do" in same.output
    undone = roll_back(tmp_path / "inventory.ini", same)
    assert undone.code == 0, undone.output
    assert list(undone.outcomes.values()) == ["taken back"]
    assert difference(before, lab.snapshot()) == []


def test_two_hosts_that_break_the_same_path_are_both_repaired(lab: Lab, tmp_path: Path) -> None:
    """The first step alone brings nothing back between the two: that is not held against it."""
    before = lab.snapshot()
    with lab.broken("data-udp-blocked-host-fw", "node2"), lab.broken("data-udp-blocked-host-fw", "node3"):
        done = remediate(lab.write_inventory(tmp_path / "inventory.ini"), tmp_path / "run", doctor_apply=True)
        assert done.code == 0, done.output
        assert list(done.outcomes.values()) == ["helped", "helped"], done.output
        assert "wait for data-udp-blocked-host-fw@node3" in " ".join(done.output.split())
        assert lab.survey().broken == set()
        undone = roll_back(tmp_path / "inventory.ini", done)
        assert undone.code == 0, undone.output
        assert "2 steps TAKEN BACK" in undone.output
        assert lab.survey().broken != set()
    at_rest(lab, before)


def test_what_does_not_help_is_taken_back_byte_for_byte(lab: Lab, report: Run, tmp_path: Path) -> None:
    edited(report, {"ip_forwarding_interfaces": ["eth0"]})
    before = lab.snapshot()
    done = repair(lab, tmp_path, doctor_apply=True, doctor_settle=1)
    assert done.code != 0
    assert list(done.outcomes.values()) == ["did not help"], done.output
    assert "is still found" in done.output
    assert difference(before, lab.snapshot()) == []


def test_a_remedy_that_fails_half_way_is_taken_back(lab: Lab, report: Run, host: Host, tmp_path: Path) -> None:
    before = lab.snapshot()
    for argv in (
        ["mount", "--bind", "/etc/sysctl.d", "/etc/sysctl.d"],
        ["mount", "-o", "remount,bind,ro", "/etc/sysctl.d"],
    ):
        host.run(argv)
    try:
        done = repair(lab, tmp_path, doctor_apply=True)
    finally:
        host.run(["umount", "/etc/sysctl.d"])
        host.run(["rm", "-rf", "/run/mount"])  # what mount keeps for itself
    assert done.code != 0
    assert list(done.outcomes.values()) == ["failed"], done.output
    assert difference(before, lab.snapshot()) == []


def test_a_report_older_than_the_state_is_refused_unless_forced(lab: Lab, tmp_path: Path) -> None:
    inventory = lab.write_inventory(tmp_path / "inventory.ini")
    with lab.broken(FAULT):
        diagnose(inventory, tmp_path / "run")
    before = lab.snapshot()
    done = repair(lab, tmp_path, doctor_apply=True)
    assert list(done.outcomes.values()) == ["outdated"], done.output
    assert "older than the state" in " ".join(done.output.split())
    assert difference(before, lab.snapshot()) == []
    forced = repair(lab, tmp_path, doctor_apply=True, doctor_force=True)
    assert list(forced.outcomes.values()) == ["helped"], forced.output
    undo_all(lab.hosts["node2"], inventory)
    assert difference(before, lab.snapshot()) == []


HOSTILE: tuple[tuple[dict[str, Any], str], ...] = (
    ({"ip_forwarding_interfaces": ["{{ lookup('ansible.builtin.pipe', 'touch PWNED') }}"]}, "template"),
    ({"ip_forwarding_interfaces": ["eth0; touch PWNED"]}, "interface"),
    ({"ip_forwarding_interfaces": ["$(touch PWNED)"]}, "interface"),
    ({"ansible_connection": "local"}, "no variable"),
    ({"ip_forwarding_global": "sometimes"}, "ip_forwarding_global"),
)


def test_a_report_edited_with_hostile_values_changes_nothing(lab: Lab, report: Run, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    honest = (report.folder / "report.json").read_text()
    before = lab.snapshot()
    for change, word in HOSTILE:
        (report.folder / "report.json").write_text(honest)
        edited(report, json.loads(json.dumps(change).replace("PWNED", str(planted))))
        done = repair(lab, tmp_path, doctor_apply=True, doctor_settle=1, doctor_force=True)
        assert done.code != 0, change
        assert word in done.output
        assert not planted.exists()
    assert difference(before, lab.snapshot()) == []
    assert all(not entry.path(str(planted)).exists() for entry in lab.docker_hosts)


def test_a_report_that_is_none_is_refused(lab: Lab, report: Run, tmp_path: Path) -> None:
    made = report.report
    made["findings"][0]["remedies"] = [{"role": "../../../etc", "kind": "cure"}]
    (report.folder / "report.json").write_text(json.dumps(made))
    done = repair(lab, tmp_path, doctor_report=str(report.folder / "report.json"))
    assert done.code != 0
    assert "not a report of this version" in done.output


# ---- the guard

PLAY = """
- hosts: node2
  gather_facts: false
  tasks:
    - crosshost.doctor.guard: {{name: test, state: armed, timeout: 20}}
    - crosshost.doctor.guard: {{name: test, state: noted, commands: [{{argv: {undo}, tolerate: true}}]}}
    - ansible.builtin.command: {{argv: {change}}}
    - {end}
"""
CONFIRM = "crosshost.doctor.guard: {name: test, state: confirmed}"
SYSCTL = ["sysctl", "-w", "net.ipv4.conf.eth0.rp_filter=2"]
# The change may cut its own task off, or the confirmation, or be undone by the time either gets through.
TOLD = ("rolled the change back", "does not answer a new connection", "UNREACHABLE!")
CUT = "add table inet cut; add chain inet cut in { type filter hook input priority -300; policy drop; }"


def own_play(tmp_path: Path, undo: list[str], change: list[str], end: str = CONFIRM) -> Path:
    path = tmp_path / "play.yml"
    path.write_text(PLAY.format(undo=json.dumps(undo), change=json.dumps(change), end=end))
    return path


@pytest.mark.parametrize(
    ("undo", "change"),
    [
        (["nft", "delete", "table", "inet", "cut"], ["nft", CUT]),
        (["ip", "link", "set", "lo", "up"], ["ip", "link", "set", "lo", "down"]),
    ],
    ids=["a-rule-set-that-cuts-the-controller-off", "a-host-that-loses-its-route"],
)
def test_a_host_that_is_cut_off_comes_back_by_itself(
    lab: Lab, host: Host, tmp_path: Path, undo: list[str], change: list[str]
) -> None:
    before = lab.snapshot()
    inventory = lab.write_inventory(tmp_path / "inventory.ini")
    done = own_playbook(inventory, own_play(tmp_path, undo, change))
    assert done.code != 0
    assert any(text in done.output for text in TOLD), done.output
    wait_gone(host)
    undo_all(host, inventory)
    at_rest(lab, before)


def test_a_controller_killed_between_apply_and_cancel(lab: Lab, host: Host, tmp_path: Path) -> None:
    old = host.run(["sysctl", "-n", "net.ipv4.conf.eth0.rp_filter"]).stdout.strip()
    assert old != "2"
    path = own_play(
        tmp_path,
        ["sysctl", "-w", f"net.ipv4.conf.eth0.rp_filter={old}"],
        SYSCTL,
        "ansible.builtin.pause: {seconds: 100}",
    )
    inventory = lab.write_inventory(tmp_path / "inventory.ini")
    with open(tmp_path / "output", "w") as output:
        argv = [str(BIN / "ansible-playbook"), str(path), "-i", str(inventory)]
        playbook = subprocess.Popen(argv, stdout=output, stderr=output, env=environment(), start_new_session=True)
        wait(lambda: "[ansible.builtin.pause]" in (tmp_path / "output").read_text(), 120, "no pause")
        assert host.run(["sysctl", "-n", "net.ipv4.conf.eth0.rp_filter"]).stdout.strip() == "2"
        os.killpg(playbook.pid, signal.SIGKILL)
        playbook.wait(timeout=60)
    wait(lambda: host.run(["sysctl", "-n", "net.ipv4.conf.eth0.rp_filter"]).stdout.strip() == old, 90, "not taken back")
    assert not host.path(JOURNALS).exists()
    host.run(["rm", "-rf", GUARDS])  # what the guard did is kept for whoever asks; nobody does


def test_confirmed_in_time_it_stays(lab: Lab, host: Host, tmp_path: Path) -> None:
    old = host.run(["sysctl", "-n", "net.ipv4.conf.eth0.rp_filter"]).stdout.strip()
    inventory = lab.write_inventory(tmp_path / "inventory.ini")
    before = lab.snapshot()
    done = own_playbook(inventory, own_play(tmp_path, ["sysctl", "-w", f"net.ipv4.conf.eth0.rp_filter={old}"], SYSCTL))
    assert done.code == 0, done.output
    assert not host.path(GUARDS).exists()
    time.sleep(21)
    assert host.run(["sysctl", "-n", "net.ipv4.conf.eth0.rp_filter"]).stdout.strip() == "2"
    undo_all(host, inventory)
    assert difference(before, lab.snapshot()) == []


def wait(condition: Any, seconds: float, text: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, text
        time.sleep(0.2)


def wait_gone(host: Host) -> None:
    """Until no guard stands on the host: it left its result, or somebody took that. Then that is cleared away."""
    wait(
        lambda: not host.path(GUARDS).exists() or host.path(f"{GUARDS}/guard-test.json").exists(), 120, "a guard stands"
    )
    host.run(["rm", "-rf", GUARDS])


def at_rest(lab: Lab, before: dict[str, str]) -> None:
    """Everything is as before, as soon as gossip has seen the host again."""
    left: list[str] = []

    def same() -> bool:
        left[:] = difference(without(before), without(lab.snapshot()))
        return not left

    deadline = time.monotonic() + 120
    while not same():
        assert time.monotonic() < deadline, left


def without(snapshot: dict[str, str]) -> dict[str, str]:
    """A loopback that was down has its IPv6 address anew, and its local routes in another order."""
    return {key: "\n".join(sorted(text.splitlines())) for key, text in snapshot.items()}

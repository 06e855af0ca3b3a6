# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever the inventory holds, the run ends with a report, and what could not be looked at is said in one line."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

from tests.lab import Lab, engine
from tests.playbook import Run, diagnose


def skipped(done: Run, host: str) -> str:
    return " | ".join(f"{row['check']}: {row['why']}" for row in done.report["checks_skipped"] if row["host"] == host)


def inventory(lab: Lab, path: Path, *more: str, change: tuple[str, str] | None = None) -> Path:
    text = lab.inventory()
    if change:
        host, words = change
        text = "\n".join(f"{line} {words}" if line.startswith(f"{host} ") else line for line in text.splitlines())
    path.write_text(text + "\n[more]\n" + "\n".join(more) + "\n")
    return path


def test_hosts_that_cannot_be_reached_do_not_stop_the_run(lab: Lab, tmp_path: Path) -> None:
    lines = (
        "nosuch.invalid ansible_ssh_common_args='-o ConnectTimeout=3'",
        "dead ansible_host=127.0.0.1 ansible_port=1 ansible_ssh_common_args='-o ConnectTimeout=3'",
    )
    done = diagnose(inventory(lab, tmp_path / "hosts", *lines), tmp_path / "report")
    assert done.code == 0, done.output
    assert "Traceback" not in done.output
    report = done.report
    assert report["verdict"] == "inconclusive"
    assert done.loud == []
    for name in ("nosuch.invalid", "dead"):
        assert report["hosts"][name]["reachable"] is False
        assert skipped(done, name).startswith("all checks: ")
    assert {pair["verdict"] for pair in report["pairs"]} == {"ok"}


def test_a_fault_is_still_found_beside_a_host_that_cannot_be_reached(lab: Lab, tmp_path: Path) -> None:
    hosts = inventory(lab, tmp_path / "hosts", "dead ansible_host=127.0.0.1 ansible_port=1")
    with lab.broken("vtep-down"):
        done = diagnose(hosts, tmp_path / "report")
    assert [(f["cause"], f["hosts"]) for f in done.loud] == [("vtep-down", ["node2"])]


def test_only_unreachable_hosts_is_inconclusive(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("dead ansible_host=127.0.0.1 ansible_port=1\n")
    done = diagnose(tmp_path / "hosts", tmp_path / "report")
    assert done.code == 0, done.output
    assert done.report["verdict"] == "inconclusive"
    assert "Traceback" not in done.output


def test_sudo_that_fails_is_said(lab: Lab, tmp_path: Path) -> None:
    change = (
        "node3",
        "ansible_become_method=ansible.builtin.sudo ansible_become_exe=/bin/false ansible_become_user=daemon",
    )
    done = diagnose(inventory(lab, tmp_path / "hosts", change=change), tmp_path / "report")
    assert done.code == 0, done.output
    assert "Traceback" not in done.output
    assert "all checks" in skipped(done, "node3"), done.report["checks_skipped"]
    assert done.loud == []


def test_a_host_without_an_engine_is_no_fault(tmp_path: Path) -> None:
    lab = Lab.up("bare", hosts=2, bare=1)
    try:
        done = diagnose(lab.write_inventory(tmp_path / "hosts"), tmp_path / "report")
    finally:
        lab.down()
    bare = next(host.name for host in lab.hosts.values() if host.kind == "bare")
    assert done.code == 0, done.output
    assert done.loud == []
    assert "engine" in skipped(done, bare)
    assert done.report["verdict"] == "healthy"


def test_containers_that_come_and_go_are_no_fault(lab: Lab, tmp_path: Path) -> None:
    """A container that disappears between two reads leaves a note at most."""
    host, stop = lab.hosts["node2"], threading.Event()
    rounds = itertools.count()

    def churn() -> None:
        while not stop.is_set():
            name = f"brief-{next(rounds)}"
            engine.run_container(host, name, network=engine.OVERLAY)
            time.sleep(0.5)
            host.docker.containers.get(name).remove(force=True)

    worker = threading.Thread(target=churn)
    worker.start()
    try:
        done = diagnose(lab.write_inventory(tmp_path / "hosts"), tmp_path / "report")
    finally:
        stop.set()
        worker.join()
        lab.wait_converged()
    assert done.code == 0, done.output
    assert "Traceback" not in done.output
    assert done.loud == [], done.loud
    assert next(rounds) > 3

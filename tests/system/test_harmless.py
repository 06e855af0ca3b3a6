# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A diagnosis leaves every host as it found it, also when it is cut short."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.fleet import Host
from tests.lab.snapshot import difference
from tests.playbook import command, environment
from tests.system.expectations import run

RUN_BASE = "/run/crosshost.doctor"
OUTLIVES = 120.0  # seconds: what a killed run may still be busy with on a host, also on a machine that does much else


def test_every_host_is_byte_identical_after_a_diagnosis(lab: Lab, tmp_path: Path) -> None:
    with lab.broken("data-udp-blocked-host-fw:nft-no-counter"):  # so that both rounds run
        before = lab.snapshot()
        done = run(lab, tmp_path)
        after = lab.snapshot()
    assert done.report["verdict"] == "broken"
    assert difference(before, after) == []


def test_a_diagnosis_in_check_mode_is_the_same_diagnosis(lab: Lab, tmp_path: Path) -> None:
    before = lab.snapshot()
    done = run(lab, tmp_path, "--check", "--diff")
    assert done.code == 0, done.output
    assert done.report["verdict"] == "healthy"
    assert {pair["verdict"] for pair in done.report["pairs"]} == {"ok"}
    assert difference(before, lab.snapshot()) == []


@pytest.mark.parametrize(
    ("number", "task", "module"),
    [(signal.SIGINT, "Probe]", "path_probe"), (signal.SIGKILL, "Read cluster", "overlay_facts")],
)
def test_a_run_that_is_cut_short_leaves_nothing_running_and_the_next_clears_up(
    lab: Lab, tmp_path: Path, number: signal.Signals, task: str, module: str
) -> None:
    baseline = {host.name: len(python_processes(host)) for host in lab.docker_hosts}
    inventory = lab.write_inventory(tmp_path / "inventory.ini")
    cut_short(lab, command(inventory, tmp_path / "cut"), tmp_path / "output", task, module, number)
    for host in lab.docker_hosts:
        wait_ended(host, baseline[host.name])
        assert [p.name for p in host.path("/tmp").iterdir() if "ansible" in p.name or "crosshost" in p.name] == []
    done = run(lab, tmp_path)
    assert done.report["verdict"] == "healthy"
    for host in lab.docker_hosts:
        assert not host.path(RUN_BASE).exists()


def test_taps_that_nobody_closes_close_themselves(lab: Lab, tmp_path: Path) -> None:
    """The controller dies between opening the taps and closing them."""
    baseline = {host.name: len(python_processes(host)) for host in lab.docker_hosts}
    inventory = lab.write_inventory(tmp_path / "inventory.ini")
    with lab.broken("data-udp-blocked-host-fw:nft-no-counter"):
        before = lab.snapshot()
        argv = command(inventory, tmp_path / "cut", doctor_trace=True)
        cut_short(lab, argv, tmp_path / "output", "Send marked probes]", "path_probe", signal.SIGKILL)
        listening = [host.name for host in lab.docker_hosts if len(python_processes(host)) > baseline[host.name]]
        assert listening, "nobody listened: this proves nothing"
        for host in lab.docker_hosts:
            wait_ended(host, baseline[host.name])
        done = run(lab, tmp_path)
        assert [finding["cause"] for finding in done.loud] == ["data-udp-blocked-host-fw"]
        for host in lab.docker_hosts:
            assert not host.path(RUN_BASE).exists()
        assert difference(before, lab.snapshot()) == []


def cut_short(lab: Lab, argv: list[str], output: Path, task: str, module: str, number: signal.Signals) -> None:
    """Start a playbook and end it while a task's module is at work: every host has it, not all are done with it.

    Not while a module is on its way: of the half that came Python says, on one line of some hundred kilobytes, that it
    is no program, to an sshd that no longer listens, and waits until the connection ends. Nothing of it has run.
    """
    for _attempt in range(5):
        begun: set[str] = set()
        with open(output, "w") as text:
            playbook = subprocess.Popen(argv, stdout=text, stderr=text, env=environment(), start_new_session=True)
        while playbook.poll() is None:
            time.sleep(0.01)
            if task not in output.read_text():
                continue
            at_work = {host.name for host in lab.docker_hosts if works(host, module)}
            begun |= at_work
            if at_work and len(begun) == len(lab.docker_hosts):
                os.killpg(playbook.pid, number)
                playbook.wait(timeout=60)
                return
    pytest.fail(f"never was {module} at work after it had begun everywhere:\n{output.read_text()}")


def works(host: Host, module: str) -> bool:
    return any(host.path("/tmp").glob(f"ansible_*{module}_payload_*"))


def wait_ended(host: Host, baseline: int) -> None:
    """Wait until a run's processes have ended; else say what they are, and what they wait for."""
    deadline = time.monotonic() + OUTLIVES
    while len(python_processes(host)) > baseline:
        if time.monotonic() > deadline:
            script = "for p in /proc/[0-9]*; do grep -qs python3 $p/cmdline && head $p/wchan && ls -l $p/fd; done"
            held = host.run(["sh", "-c", script], check=False).stdout
            pytest.fail(f"{host.name} still runs {python_processes(host)} after {OUTLIVES:.0f} s\n{held}")
        time.sleep(0.1)


def python_processes(host: Host) -> list[str]:
    lines = host.run(["ps", "-eo", "pid,args"]).stdout.splitlines()
    return [line for line in lines if "python3" in line and "ps -eo" not in line]

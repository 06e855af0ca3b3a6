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


def wait_ended(host: Host, baseline: int, seconds: float) -> None:
    """Wait until a run's processes have ended; else say what they are, and what they wait for."""
    deadline = time.monotonic() + seconds
    while len(python_processes(host)) > baseline:
        if time.monotonic() > deadline:
            script = "for p in /proc/[0-9]*; do grep -qs python3 $p/cmdline && head $p/wchan && ls -l $p/fd; done"
            held = host.run(["sh", "-c", script], check=False).stdout
            pytest.fail(f"{host.name} still runs {python_processes(host)} after {seconds:.0f} s\n{held}")
        time.sleep(0.1)


def python_processes(host: Host) -> list[str]:
    lines = host.run(["ps", "-eo", "pid,args"]).stdout.splitlines()
    return [line for line in lines if "python3" in line and "ps -eo" not in line]


@pytest.mark.parametrize(("number", "after"), [(signal.SIGINT, "path_probe"), (signal.SIGKILL, "overlay_facts")])
def test_a_run_that_is_cut_short_leaves_nothing_running_and_the_next_clears_up(
    lab: Lab, tmp_path: Path, number: signal.Signals, after: str
) -> None:
    baseline = {host.name: len(python_processes(host)) for host in lab.docker_hosts}
    inventory, folder = lab.write_inventory(tmp_path / "inventory.ini"), tmp_path / "cut"
    with open(tmp_path / "output", "w") as output:
        playbook = subprocess.Popen(
            command(inventory, folder), stdout=output, stderr=output, env=environment(), start_new_session=True
        )
        wanted = "Probe]" if after == "path_probe" else "Read cluster"
        wait(lambda: wanted in (tmp_path / "output").read_text(), 180, f"no task {wanted}")
        time.sleep(0.3)
        os.killpg(playbook.pid, number)
        playbook.wait(timeout=60)
    for host in lab.docker_hosts:
        wait_ended(host, baseline[host.name], OUTLIVES)
        assert [p.name for p in host.path("/tmp").iterdir() if "ansible" in p.name or "crosshost" in p.name] == []
    done = run(lab, tmp_path)
    assert done.report["verdict"] == "healthy"
    for host in lab.docker_hosts:
        assert not host.path(RUN_BASE).exists()


def test_taps_that_nobody_closes_close_themselves(lab: Lab, tmp_path: Path) -> None:
    """The controller dies between opening the taps and closing them."""
    baseline = {host.name: len(python_processes(host)) for host in lab.docker_hosts}
    inventory, folder = lab.write_inventory(tmp_path / "inventory.ini"), tmp_path / "cut"
    with lab.broken("data-udp-blocked-host-fw:nft-no-counter"), open(tmp_path / "output", "w") as output:
        before = lab.snapshot()
        playbook = subprocess.Popen(
            command(inventory, folder, doctor_trace=True),
            stdout=output,
            stderr=output,
            env=environment(),
            start_new_session=True,
        )
        wait(lambda: "Send marked probes]" in (tmp_path / "output").read_text(), 180, "no task Send marked probes")
        os.killpg(playbook.pid, signal.SIGKILL)
        playbook.wait(timeout=60)
        listening = [host.name for host in lab.docker_hosts if len(python_processes(host)) > baseline[host.name]]
        assert listening, "nobody listened: this proves nothing"
        for host in lab.docker_hosts:
            wait_ended(host, baseline[host.name], OUTLIVES)
        done = run(lab, tmp_path)
        assert [finding["cause"] for finding in done.loud] == ["data-udp-blocked-host-fw"]
        for host in lab.docker_hosts:
            assert not host.path(RUN_BASE).exists()
        assert difference(before, lab.snapshot()) == []


def wait(condition: object, seconds: float, why: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, why
        time.sleep(0.1)

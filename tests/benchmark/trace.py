# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""python -m tests.benchmark.trace: how long it takes to follow one pair and twenty, and whether every packet is found.

The hosts are prepared once; each run opens the taps, probes and collects, as role data_plane does. The peer is one
module call that does nothing on the same hosts in the same run: `ansible all -m ping`.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible_collections.crosshost.doctor.plugins.plugin_utils.engine import load
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.hops import hops
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.plan import schedule
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace import FORWARD, REPLY
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace_plan import TracePlan
from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder, safe_name
from tests.lab import Lab
from tests.playbook import BIN, diagnose, environment

ROUNDS = 3
PAIRS = (1, 20)
PLAY = """\
- hosts: all
  gather_facts: false
  become: true
  vars:
    data_plane_run_dir: {folder}
    data_plane_run_id: {run_id}
    data_plane_count: 5
    data_plane_timeout: 3.0
    data_plane_plan: {{mtu: [], suspects: []}}
  tasks:
    - ansible.builtin.import_role:
        name: crosshost.doctor.prepare
      vars:
        prepare_run_dir: {folder}
        prepare_run_id: {run_id}
    - ansible.builtin.command: date +%s.%N
      register: began
    - ansible.builtin.import_role:
        name: crosshost.doctor.data_plane
        tasks_from: follow.yml
    - ansible.builtin.command: date +%s.%N
      register: ended
    - ansible.builtin.copy:
        content: "{{{{ ended.stdout | float - began.stdout | float }}}}"
        dest: {folder}/seconds
        mode: "0600"
      delegate_to: localhost
      become: false
      run_once: true
    - ansible.builtin.import_role:
        name: crosshost.doctor.prepare
        tasks_from: absent.yml
      vars:
        prepare_run_dir: {folder}
        prepare_run_id: {run_id}
"""


def follow(inventory: Path, folder: Path, count: int) -> tuple[float, int, int]:
    """Follow C(count) pairs of a diagnosed fleet: seconds, packets sent, packets seen at every hop both ways."""
    run = RunFolder(str(folder))
    case = load(run)
    traceable = [o for o in case.observations if hops(case.fleet, o.pair) and o.verdict() == "ok"][:count]
    if len(traceable) < count:
        raise SystemExit(f"the lab has only {len(traceable)} pairs that can be followed")
    plan = TracePlan(case, traceable)
    run.write("plan/trace/pairs.json", plan.dump())
    for name, content in (("trace", schedule(case.fleet, plan.pairs)), ("capture", plan.captures())):
        for host, row in content.items():
            run.write(f"plan/{name}/{safe_name(host)}.json", row)
    play = folder / "follow.yml"
    play.write_text(PLAY.format(folder=folder, run_id=case.fleet.run["run_id"]))
    command = [str(BIN / "ansible-playbook"), "-i", str(inventory), str(play)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300, check=False)
    if done.returncode:
        raise SystemExit(done.stdout[-3000:] + done.stderr[-2000:])
    found = load(run).traces
    for path in folder.glob("plan/*/*.json"):
        if path.parent.name in ("trace", "capture"):
            path.unlink()
    sent = sum(len(trace.packets) for trace in found.values())
    whole = sum(
        all(key in trace._seen[way][hop] for hop in range(len(trace.hops)) for way in (FORWARD, REPLY))
        for trace in found.values()
        for key in trace.packets
        if key[0] not in trace.signals
    )
    return float((folder / "seconds").read_text()), sent, whole


def ping_seconds(inventory: Path) -> float:
    started = time.monotonic()
    command = [str(BIN / "ansible"), "all", "-i", str(inventory), "-m", "ansible.builtin.ping"]
    subprocess.run(command, check=True, capture_output=True, env=environment(), timeout=300)
    return time.monotonic() - started


def rows() -> list[dict[str, Any]]:
    lab = Lab.up("bench-trace", hosts=3)
    found = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            inventory = lab.write_inventory(Path(folder) / "inventory.ini")
            diagnose(inventory, Path(folder) / "run")
            for count in PAIRS:
                runs = [
                    (ping_seconds(inventory), *follow(inventory, Path(folder) / "run", count))
                    for _round in range(ROUNDS)
                ]
                theirs, ours = (statistics.median(row[column] for row in runs) for column in (0, 1))
                found.append(
                    {
                        "what": f"follow {count} pair(s) on 3 hosts; {runs[0][2]} packets, "
                        f"{runs[0][3]} of them seen at every hop both ways",
                        "ours": round(ours, 2),
                        "peer": "ansible -m ping",
                        "theirs": round(theirs, 2),
                        "unit": "s",
                        "ratio": round(theirs / ours, 2),
                        "aim": None,
                        "note": "Datagrams that nobody has to answer are packets, but are not seen both ways.",
                    }
                )
    finally:
        lab.down()
    return found


if __name__ == "__main__":
    for row in rows():
        print(row)

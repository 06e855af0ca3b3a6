# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""python -m tests.benchmark.diagnose: false alarms on healthy labs, and the time of a diagnosis against `setup`.

Each round runs `ansible all -m setup` and the diagnosis on the same hosts, one after the other. Absolute times depend
on the machine; the ratio is what counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.lab import Lab
from tests.playbook import BIN, diagnose, environment


def setup_seconds(inventory: Path) -> float:
    started = time.monotonic()
    command = [str(BIN / "ansible"), "all", "-i", str(inventory), "-m", "ansible.builtin.setup"]
    subprocess.run(command, check=True, capture_output=True, env=environment(), timeout=300)
    return time.monotonic() - started


def measure(hosts: int, rounds: int) -> dict[str, Any]:
    lab = Lab.up(f"bench-{hosts}", hosts=hosts)
    rows = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            inventory = lab.write_inventory(Path(folder) / "inventory.ini")
            setup_seconds(inventory)  # the first connection pays for the key exchange
            for number in range(rounds):
                peer = setup_seconds(inventory)
                run = diagnose(inventory, Path(folder) / f"report-{number}")
                verdicts = {pair["verdict"] for pair in run.report["pairs"]}
                rows.append(
                    {
                        "setup": peer,
                        "diagnose": run.seconds,
                        "verdict": run.report["verdict"],
                        "loud": len(run.loud),
                        "pairs": len(run.report["pairs"]),
                        "pair_verdicts": sorted(verdicts),
                    }
                )
                print(f"{hosts} hosts, round {number + 1}: {rows[-1]}", file=sys.stderr)
    finally:
        lab.down()
    ratio = statistics.median(row["diagnose"] / row["setup"] for row in rows)
    return {"hosts": hosts, "rounds": rows, "median_ratio": round(ratio, 2), "loud": sum(row["loud"] for row in rows)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmark.diagnose", description=__doc__)
    parser.add_argument("--hosts", type=int, nargs="+", default=[3, 6])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = [measure(count, arguments.rounds) for count in arguments.hosts]
    for result in results:
        rows = result["rounds"]
        print(
            f"{result['hosts']} hosts: {len(rows)} runs, {result['loud']} findings above info, "
            f"setup {statistics.median(r['setup'] for r in rows):.1f} s, "
            f"diagnose {statistics.median(r['diagnose'] for r in rows):.1f} s, ratio {result['median_ratio']}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

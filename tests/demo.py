# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""make demo: a real Swarm, a real fault, what the diagnosis says of it, and the repair: shown, applied, verified."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.lab import Lab, LabError
from tests.playbook import command, environment

DEFAULT_FAULT = "data-udp-blocked-host-fw"


def say(text: str) -> None:
    print(f"\n==> {text}", flush=True)


def demo(fault: str, hosts: int) -> int:
    say(f"Bringing up {hosts} Docker hosts in one Swarm on this machine")
    lab = Lab.up("demo", hosts=hosts, progress=lambda text: print(f"    {text}", flush=True))
    try:
        with tempfile.TemporaryDirectory(prefix="crosshost-demo-") as folder:
            inventory = lab.write_inventory(Path(folder) / "inventory.ini")
            say(f"Breaking it: {fault}")
            lab.break_(fault)
            steps: list[tuple[str, dict[str, Any]]] = [
                ("diagnose", {}),
                ("remediate", {}),
                ("remediate", {"doctor_apply": True}),
                ("diagnose", {}),
            ]
            for playbook, extra in steps:
                words = "".join(f" -e {name}={str(value).lower()}" for name, value in extra.items())
                say(f"ansible-playbook crosshost.doctor.{playbook}{words}")
                argv = command(inventory, Path(folder) / "report", playbook, **extra)
                if code := subprocess.run(argv, env=environment(), timeout=420, check=False).returncode:
                    return code
            report = json.loads((Path(folder) / "report" / "report.json").read_text())
            say(f"The fleet is {report['verdict']}")
            return int(report["verdict"] != "healthy")
    finally:
        say("Cleaning up")
        lab.down()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--fault", default=DEFAULT_FAULT, help="a fault of the library (default: %(default)s)")
    parser.add_argument("--hosts", type=int, default=3, help="number of hosts (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        return demo(arguments.fault, arguments.hosts)
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

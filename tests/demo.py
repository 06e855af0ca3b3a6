# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""make demo: a real Swarm, a real fault, and what the diagnosis says of it."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

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
            say("ansible-playbook crosshost.doctor.diagnose")
            done = subprocess.run(
                command(inventory, Path(folder) / "report"), env=environment(), timeout=300, check=False
            )
            return done.returncode
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

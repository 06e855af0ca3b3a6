# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long reading takes on large hosts, against the tools everybody has, in the same run.

    python -m tests.benchmark.facts [--entries 50000] [--namespaces 500] [--rounds 5] [--json FILE]

1. a namespace with a vxlan device and many forwarding entries: our reader against C(bridge -j fdb show), with and
   without parsing its JSON;
2. many namespaces, each with a veth into the host's: the whole of overlay_facts, and its counters section alone, as
   Ansible runs it, against ansible.builtin.setup on the same machine.

Ratios matter, not seconds; on a busy machine those of processor time. Needs root; everything is made in namespaces of
its own and removed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils import _fdb, _netns

PREFIX = f"cdbench-{os.getpid()}"


@dataclass
class Cost:
    """Median seconds by the clock, and of processor time of this process and its children."""

    clock: float
    processor: float


def processor() -> float:
    """Seconds of processor time this process and its ended children have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def compare(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Cost]:
    """What each call costs, in rounds of one after the other, so that a busy moment of the machine hits them alike."""
    clock: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for _round in range(rounds):
        for name, call in calls.items():
            started, used = time.perf_counter(), processor()
            call()
            clock[name].append(time.perf_counter() - started)
            cpu[name].append(processor() - used)
    return {name: Cost(statistics.median(clock[name]), statistics.median(cpu[name])) for name in calls}


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[list[str]]:
    """Fresh network namespaces, removed in any case."""
    from pyroute2 import netns

    names = [f"{PREFIX}-{number}" for number in range(count)]
    made: list[str] = []
    try:
        for name in names:
            netns.create(name)
            made.append(name)
        yield names
    finally:
        for name in made:
            netns.remove(name)


def forwarding(entries: int, rounds: int) -> list[dict[str, Any]]:
    """Forwarding database and neighbours of one large overlay."""
    with namespaces(1) as (name,), tempfile.TemporaryDirectory() as folder:
        inside = ["nsenter", f"--net=/run/netns/{name}"]
        vxlan = ["type", "vxlan", "id", "4097", "dstport", "4789", "nolearning"]
        subprocess.run([*inside, "ip", "link", "add", "vxlan0", *vxlan], check=True)
        fdb, neighbours = Path(folder) / "fdb", Path(folder) / "neighbours"
        with fdb.open("w") as fdb_file, neighbours.open("w") as neighbour_file:
            for number in range(entries):
                octets = (10, number >> 16, number >> 8 & 255, number & 255)
                mac, ip = "02:42:" + bytes(octets).hex(":"), ".".join(map(str, octets))
                fdb_file.write(f"fdb append {mac} dev vxlan0 dst 192.0.2.{number % 100 + 1} self permanent\n")
                neighbour_file.write(f"neigh replace {ip} lladdr {mac} dev vxlan0 nud permanent\n")
        subprocess.run([*inside, "bridge", "-batch", str(fdb)], check=True)
        subprocess.run([*inside, "ip", "-batch", str(neighbours)], check=True)
        path = f"/run/netns/{name}"

        def shown(*command: str) -> bytes:
            return subprocess.run([*inside, *command], check=True, stdout=subprocess.PIPE).stdout

        def ours(read: Callable[[], Any]) -> Any:
            with _netns.inside(path):
                return read()

        tables = (
            ("fdb", ("bridge", "-j", "fdb", "show"), _fdb.read_fdb, "macs"),
            ("neighbours", ("ip", "-j", "neigh", "show"), _fdb.read_neighbours, "entries"),
        )
        rows = []
        for what, command, read, member in tables:
            expected, found = len(json.loads(shown(*command))), sum(len(row[member]) for row in ours(read)[0])
            if expected != found:
                raise SystemExit(f"{what}: {command[0]} shows {expected} entries, we read {found}")
            calls: dict[str, Callable[[], Any]] = {
                "own": lambda read=read: ours(read),  # type: ignore[misc]
                " ".join(command): lambda command=command: shown(*command),  # type: ignore[misc]
                " ".join(command) + " + json": lambda command=command: json.loads(shown(*command)),  # type: ignore[misc]
            }
            costs = compare(calls, rounds)
            own = costs.pop("own")
            rows.extend(row(what, f"{found} entries", own, name, cost) for name, cost in costs.items())
        return rows


def row(what: str, size: str, own: Cost, reference: str, cost: Cost) -> dict[str, Any]:
    """One line of the result."""
    return {
        "what": what,
        "size": size,
        "seconds": round(own.clock, 4),
        "processor_seconds": round(own.processor, 4),
        "reference": reference,
        "reference_seconds": round(cost.clock, 4),
        "reference_processor_seconds": round(cost.processor, 4),
        "ratio": round(own.clock / cost.clock, 2),
        "processor_ratio": round(own.processor / cost.processor, 2) if cost.processor else None,
    }


def module(name: str, arguments: dict[str, Any]) -> bytes:
    """Run a module on this machine as Ansible does."""
    ansible = Path(sys.executable).with_name("ansible")
    command = [str(ansible), "localhost", "-i", "localhost,", "-c", "local", "-m", name]
    command += ["-a", json.dumps(arguments)] if arguments else []
    environment = dict(os.environ, ANSIBLE_PYTHON_INTERPRETER=sys.executable, ANSIBLE_DEPRECATION_WARNINGS="0")
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stdout.decode()[-2000:]}{done.stderr.decode()[-2000:]}")
    return done.stdout


def whole(count: int, rounds: int) -> list[dict[str, Any]]:
    """Everything of a host with many namespaces."""
    from pyroute2 import IPRoute

    with namespaces(count) as names, IPRoute() as ip:
        for number, name in enumerate(names):
            with open(f"/run/netns/{name}", "rb") as target:
                peer = {"ifname": "eth0", "net_ns_fd": target.fileno()}
                ip.link("add", ifname=f"cdb{os.getpid()}v{number}"[-15:], kind="veth", peer=peer)
        found = json.loads(module("crosshost.doctor.overlay_facts", {}).split(b"=>", 1)[1])
        facts = found["ansible_facts"]["crosshost"]["overlay_facts"]
        own = [one for one in facts["namespaces"] if PREFIX in one["path"] and len(one["links"]) == 2]
        if len(own) != count:
            raise SystemExit(f"{len(own)} of {count} namespaces were read in full")
        calls: dict[str, Callable[[], Any]] = {
            "setup": lambda: module("ansible.builtin.setup", {}),
            "setup, network only": lambda: module("ansible.builtin.setup", {"gather_subset": ["!all", "network"]}),
            "everything": lambda: module("crosshost.doctor.overlay_facts", {}),
            "counters": lambda: module("crosshost.doctor.overlay_facts", {"sections": ["counters"]}),
        }
        costs = compare(calls, rounds)
        size = f"{count} namespaces, {len(json.dumps(facts)) // 1024} KiB"
        return [
            row("overlay_facts", size, costs["everything"], "setup", costs["setup"]),
            row("overlay_facts", size, costs["everything"], "setup, network only", costs["setup, network only"]),
            row("counters only", f"{count} namespaces", costs["counters"], "setup", costs["setup"]),
        ]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmark.facts", description="reading on large hosts")
    parser.add_argument("--entries", type=int, default=50000)
    parser.add_argument("--namespaces", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("bridge"):
        parser.error("needs root and iproute2")
    rows = []
    if options.entries:
        rows += forwarding(options.entries, options.rounds)
    if options.namespaces:
        rows += whole(options.namespaces, max(1, min(3, options.rounds)))
    print(f"{'':<42}{'clock':>8} {'cpu':>8}  {'':<28}{'clock':>8} {'cpu':>8}  {'ratio':>6} {'cpu':>6}")
    for one in rows:
        print(
            f"{one['what']:<14} {one['size']:<27}{one['seconds']:>8.3f} {one['processor_seconds']:>8.3f}  "
            f"{one['reference']:<28}{one['reference_seconds']:>8.3f} {one['reference_processor_seconds']:>8.3f}  "
            f"{one['ratio']:>6.2f} {one['processor_ratio'] or 0:>6.2f}"
        )
    machine = {"kernel": platform.release(), "machine": platform.machine(), "cpus": os.cpu_count()}
    figures = {"host": {**machine, "python": platform.python_version()}, "rows": rows}
    print(json.dumps(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

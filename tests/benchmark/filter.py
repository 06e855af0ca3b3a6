# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading a large packet filter against what operators run: `python -m tests.benchmark.filter` (root).

10,000 rules and a set of 50,000 elements in a namespace of their own; every candidate in a process of its own, in
turns, the best of several runs each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable

_READ = """
import sys, time
from ansible_collections.crosshost.doctor.plugins.module_utils import _netfilter
start = time.perf_counter()
found = _netfilter.read_filter(); middle = time.perf_counter()
counters = _netfilter.read_counters(); end = time.perf_counter()
assert found["error"] is None, found["error"]
print(middle - start, end - middle, sum(len(chain["rules"]) for chain in found["chains"]), len(counters))
"""
_EVALUATE = """
import time
from ansible_collections.crosshost.doctor.plugins.module_utils import _netfilter
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import INBOUND, Packet, path_fate, prepare
found = prepare(_netfilter.read_filter())
packet = Packet.vxlan("192.0.2.1", "192.0.2.2", 4789, iif="eth0", sport=40000)
path_fate(found, packet, INBOUND)
start = time.perf_counter(); fate = path_fate(found, packet, INBOUND)
print(time.perf_counter() - start)
assert fate.verdict == "accept", fate
"""


def ruleset(rules: int, elements: int) -> tuple[str, str]:
    """(nft, iptables-restore): half of the rules native with the set, half as iptables writes them."""
    addresses = ", ".join(f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in range(elements))
    sources = (f"172.16.{n >> 8 & 255}.{n & 255}" for n in range(rules // 2))
    lines = [f"ip saddr {source} udp dport {n % 60000 + 1} counter drop" for n, source in enumerate(sources)]
    native = "\n".join(lines)
    nft = (
        f"table inet bench {{\nset blocked {{ type ipv4_addr; elements = {{ {addresses} }} }}\n"
        f"chain input {{ type filter hook input priority 10;\nip saddr @blocked counter drop\n{native}\n}}\n}}\n"
    )
    xt = [
        f"-A INPUT -s 172.17.{n >> 8 & 255}.{n & 255}/32 -p tcp -m tcp --dport {n % 60000 + 1}"
        " -m conntrack --ctstate NEW -j DROP"
        for n in range(rules - rules // 2)
    ]
    head = ["*filter", ":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]"]
    return nft, "\n".join([*head, *xt, "COMMIT", ""])


def measure(run: Callable[[], object], times: int) -> float:
    best = float("inf")
    for _time in range(times):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rules", type=int, default=10_000)
    parser.add_argument("--elements", type=int, default=50_000)
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    from pyroute2 import netns

    name = f"cdbench-{os.getpid()}"
    netns.create(name)
    try:
        report(name, given)
    finally:
        netns.remove(name)


def report(name: str, given: argparse.Namespace) -> None:
    def inside(*command: str, text: str = "", keep: bool = False) -> str:
        whole = ["nsenter", f"--net=/run/netns/{name}", *command]
        output = subprocess.PIPE if keep else subprocess.DEVNULL
        return subprocess.run(whole, input=text, stdout=output, stderr=subprocess.DEVNULL, text=True, check=True).stdout

    nft, xt = ruleset(given.rules, given.elements)
    inside("nft", "-f", "-", text=nft)
    inside("iptables-nft-restore", text=xt)
    ours = [inside(sys.executable, "-c", _READ, keep=True).split() for _time in range(given.times)]
    read, counters = min(float(row[0]) for row in ours), min(float(row[1]) for row in ours)
    nft_list = measure(lambda: inside("nft", "-j", "list", "ruleset"), given.times)
    save = measure(lambda: inside("iptables-nft-save", "-c"), given.times)
    walk = min(float(inside(sys.executable, "-c", _EVALUATE, keep=True)) for _time in range(given.times))
    print(f"{ours[0][2]} rules, {given.elements} elements, {ours[0][3]} counters; best of {given.times}")
    for label, seconds in (
        ("read_filter", read),
        ("read_counters", counters),
        ("nft -j list ruleset", nft_list),
        ("iptables-nft-save -c (half of the rules, no set)", save),
        ("evaluation of one packet", walk),
    ):
        print(f"  {label:50} {seconds * 1000:8.1f} ms   {seconds / nft_list:5.2f} x nft")


if __name__ == "__main__":
    main()

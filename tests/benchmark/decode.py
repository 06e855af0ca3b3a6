# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Decoding a large capture against the tools everybody has, in the same run.

    python -m tests.benchmark.decode [--frames 200000] [--rounds 5] [--json FILE]

A file of VXLAN frames of many flows, TCP, UDP and ICMP, with a hundredth of what takes the long way (ARP, SYN). Each
tool is a process of its own from its start to its end, in turns. What counts is processor time, of the process and the
kernel for it: that is what a host pays, and on a busy machine it means more than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.unit.plugins.module_utils import frames as f

FLOWS = 256
SIZES = (0, 64, 256, 1348)
_OURS = """
import json, sys
from ansible_collections.crosshost.doctor.plugins.module_utils import _analysis, _pcap
analysis = _analysis.Analysis()
with _pcap.open_capture(sys.argv[1]) as capture:
    _analysis.analyse(capture, analysis)
print(json.dumps(analysis.result()["counts"]))
"""
_CONVERT = """
import sys
from ansible_collections.crosshost.doctor.plugins.module_utils import _pcap, _pcapng
with _pcap.open_capture(sys.argv[1]) as capture, open(sys.argv[2], "wb") as out:
    writer = _pcapng.PcapngWriter(out, [("eth0", 1, 262144)])
    for _interface, time_ns, wire, data, *_flags in capture:
        writer.write(0, time_ns, wire, data)
"""
_SCAPY = """
import sys
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.utils import RawPcapReader
flows = {}
for data, _meta in RawPcapReader(sys.argv[1]):
    packet = Ether(data)
    inner = packet[VXLAN].payload if VXLAN in packet else packet
    key = (packet.payload.fields.get("src"), inner.payload.fields.get("src"), inner.payload.fields.get("dst"))
    flows[key] = flows.get(key, 0) + 1
print(len(flows))
"""
_FIELDS = ("frame.time_epoch", "ip.src", "ip.dst", "udp.srcport", "vxlan.flags", "vxlan.vni", "tcp.seq", "frame.len")


@dataclass
class Cost:
    """Medians: seconds by the clock and of processor time; the most memory it ever had, in KiB."""

    clock: float
    processor: float
    memory: int


def flow(number: int) -> list[bytearray]:
    """A frame of each size."""
    near, far = 10 + number % 8, 20 + number // 8 % 8
    src, dst = f"10.0.{number % 4}.{number % 250 + 1}", f"10.0.{number % 4}.{number // 3 % 250 + 1}"
    found = []
    for size in SIZES:
        body = bytes(size)
        kind = number % 5
        if kind < 3:
            packet = f.ip4(
                f.tcp(body, 30000 + number, (80, 443, 5432)[kind], 1, f.ACK, src, dst), f.TCP, src, dst, df=True
            )
        elif kind == 3:
            packet = f.ip4(f.udp(body, 30000 + number, 8125, src, dst), f.UDP, src, dst)
        else:
            packet = f.ip4(f.echo(number, 1, body.ljust(56, b"\0")), f.ICMP, src, dst)
        inner = f.ethernet(packet, src=f"02:42:0a:00:{number % 4:02x}:{number % 250:02x}")
        ends = {"src": f"192.0.2.{near}", "dst": f"192.0.2.{far}"}
        found.append(bytearray(f.vxlan(inner, 4097 + number % 4, sport=32768 + number, **ends)))
    return found


def records(count: int) -> Iterator[bytes]:
    """The file, piece by piece; the same every time."""
    draw = random.Random(4789)
    flows = [flow(number) for number in range(FLOWS)]
    sequences = [draw.randrange(1 << 32) for _number in range(FLOWS)]
    rare = [
        f.vxlan(f.ethernet(f.arp(1, f.MAC_A, f.IN_A, f.IN_B), 0x0806)),
        f.vxlan(f.ethernet(f.arp(2, f.MAC_B, f.IN_B, f.IN_A), 0x0806)),
        f.vxlan(f.inner_tcp(b"", 9, f.SYN)),
        f.vxlan(
            f.ethernet(f.ip4(f.tcp(b"", 80, 41000, 1, f.SYN | f.ACK, f.IN_B, f.IN_A, ack=10), f.TCP, f.IN_B, f.IN_A))
        ),
    ]
    yield f.pcap([])
    now = 1_700_000_000_000_000
    for number in range(count):
        now += draw.randrange(1, 30)
        if number % 100 == 99:
            frame: bytes | bytearray = rare[number // 100 % len(rare)]
        else:
            which, size = draw.randrange(FLOWS), draw.randrange(len(SIZES))
            frame = flows[which][size]
            if which % 5 < 3:
                struct.pack_into("!I", frame, 88, sequences[which])
                sequences[which] = (sequences[which] + SIZES[size]) & 0xFFFFFFFF
        yield struct.pack("<IIII", now // 1_000_000, now % 1_000_000, len(frame), len(frame)) + frame


def write(path: Path, count: int) -> None:
    with path.open("wb") as stream:
        stream.writelines(records(count))


def run(command: list[str]) -> Cost:
    """One process from start to end."""
    start = time.monotonic()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    null = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=null, stderr=null, env=environment) as process:
        _pid, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}")
    return Cost(time.monotonic() - start, used.ru_utime + used.ru_stime, used.ru_maxrss)


def compare(commands: dict[str, list[str]], rounds: int) -> dict[str, Cost]:
    """Medians of each command, in rounds of one after the other."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _round in range(rounds):
        for name, command in commands.items():
            costs[name].append(run(command))
    return {
        name: Cost(
            statistics.median(cost.clock for cost in found),
            statistics.median(cost.processor for cost in found),
            max(cost.memory for cost in found),
        )
        for name, found in costs.items()
    }


def row(what: str, unit: str, ours: float, peer: str, theirs: float, aim: str, **more: Any) -> dict[str, Any]:
    ratio = theirs / ours if unit == "s" else ours / theirs
    return {
        "what": what, "unit": unit, "ours": round(ours, 3), "peer": peer, "theirs": round(theirs, 3),
        "ratio": round(ratio, 2), "aim": aim, **more,
    }  # fmt: skip


def figures(count: int, rounds: int) -> list[dict[str, Any]]:
    """The rows of the table."""
    with tempfile.TemporaryDirectory() as folder:
        large, small, few = (Path(folder) / f"{name}.pcap" for name in ("large", "small", "few"))
        native = Path(folder) / "large.pcapng"
        write(large, count)
        write(small, count // 4)
        write(few, max(1, count // 100))
        # Compiled once, as programs are that are installed; the folder of the sources stays as it is.
        cached = [sys.executable, "-X", f"pycache_prefix={folder}/compiled", "-c"]
        run([*cached, _CONVERT, str(large), str(native)])
        ours = [*cached, _OURS]
        run([*ours, str(few)])
        commands = {
            "ours": [*ours, str(large)],
            "tcpdump": ["tcpdump", "-nn", "-r", str(large)],
            "pcapng": [*ours, str(native)],
            "small": [*ours, str(small)],
        }
        if shutil.which("tshark"):
            fields = [word for field in _FIELDS for word in ("-e", field)]
            commands["tshark"] = ["tshark", "-r", str(large), "-T", "fields", *fields]
        costs = compare(commands, rounds)
        try:
            imports = "import scapy.layers.l2, scapy.layers.vxlan, scapy.utils"
            run([*cached, imports])
            both = compare({"imports": [*cached, imports], "scapy": [*cached, _SCAPY, str(few)]}, max(1, rounds // 2))
            scapy, start = both["scapy"], both["imports"]
        except RuntimeError:
            scapy = None
    cost = costs["ours"]
    size = f"{count:,} VXLAN frames"
    note = (
        "Processor time of whole processes, from start to end; frames of 92 to 1,440 bytes, "
        f"{FLOWS} flows. By the clock: ours {cost.clock:.2f} s, tcpdump {costs['tcpdump'].clock:.2f} s."
    )
    found = [row(size, "s", cost.processor, "tcpdump -nn -r", costs["tcpdump"].processor, "3", note=note)]
    found.append(
        row(f"{size}, pcapng", "s", costs["pcapng"].processor, "tcpdump -nn -r, pcap", costs["tcpdump"].processor, "")
    )
    if "tshark" in costs:
        found.append(row(size, "s", cost.processor, "tshark -T fields", costs["tshark"].processor, "25"))
    if scapy:
        each = (scapy.processor - start.processor) / max(1, count // 100)
        rate = count / cost.processor
        found.append(row("frames in a second of processor time", "frames/s", rate, "scapy", 1 / each, "150"))
    memory = row(
        f"memory for {count:,} frames",
        "MiB",
        cost.memory / 1024,
        f"for {count // 4:,}",
        costs["small"].memory / 1024,
        "1",
    )
    return [*found, memory]


def rows() -> list[dict[str, Any]]:
    """For the page of all benchmarks."""
    return figures(200_000, 5)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not shutil.which("tcpdump"):
        raise SystemExit("the decode benchmark compares with tcpdump, which is not here")
    found = figures(given.frames, given.rounds)
    print(f"{'':<40}{'ours':>12}  {'':<22}{'theirs':>12}  {'unit':<9}{'ratio':>8} {'aim':>5}")
    for line in found:
        print(
            f"{line['what']:<40}{line['ours']:>12,.3f}  {line['peer']:<22}{line['theirs']:>12,.3f}  {line['unit']:<9}"
            f"{line['ratio']:>8.2f} {line['aim']:>5}"
        )
    print(found[0]["note"])
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

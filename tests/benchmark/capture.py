# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The highest rate captured to a file without loss, against tcpdump on the same veth pair, in the same run.

    python -m tests.benchmark.capture [--seconds 2] [--rounds 3] [--rates 100000,200000,…] [--json FILE]

VXLAN frames of 142 bytes go from one namespace to another, at one rate after the other; a UDP socket has the kernel cut
them from large ones. At each rate both capture in turns, with the same snapshot length, buffer and target; a rate is
held when nothing is lost in the median of the rounds. The sender never sends longer than it was told. Ratios matter,
not figures: the sender shares the machine with the captures. Needs root, ethtool and tcpdump; everything is made in
namespaces of its own and goes with them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import re
import resource
import select
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils import _capture, _netns
from tests.unit.plugins.module_utils.probe_network import Node

SNAPLEN = 256
FRAME = 142
BUFFER = 32 << 20
BATCH = 64  # UDP_MAX_SEGMENTS
BURST_SECONDS = 0.05  # how far behind its rate the sender may fall and still make it good
PRIORITY = -10  # of sender and captures alike: what else runs on the machine weighs less
RATES = (200_000, 400_000, 600_000, 800_000, 1_000_000, 1_200_000)
UDP_SEGMENT = 103  # linux/udp.h: the kernel cuts what is sent into datagrams
SENDER, RECEIVER = "192.0.2.11", "192.0.2.12"


def payload() -> bytes:
    """What one UDP datagram carries: a VXLAN header and a frame with an echo, so that the whole has C(FRAME) bytes."""
    size = FRAME - 14 - 20 - 8
    inner = bytes(6) + b"\x02" + bytes(5) + b"\x08\x00"
    head = struct.pack("!BBHHHBBH", 0x45, 0, size - 8 - 14, 0, 0, 64, 1, 0)
    inner += head + socket.inet_aton("10.0.1.2") + socket.inet_aton("10.0.1.3") + b"\x08\x00"
    return (struct.pack("!II", 8 << 24, 4097 << 8) + inner).ljust(size, b"\0")


def prefer(pid: int) -> None:
    """Give a process that leads its own session priority: where sessions share the processor, for its session."""
    os.setpriority(os.PRIO_PROCESS, pid, PRIORITY)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(PRIORITY))


def send(path: str, rate: int, seconds: float, answer: Any) -> None:
    """Send at a rate for a time from within a namespace; the time it took goes to C(answer)."""
    os.setsid()
    prefer(os.getpid())
    with _netns.inside(path):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((SENDER, 50000))
    sock.connect((RECEIVER, 4789))
    one = payload()
    sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, len(one))
    batch = one * BATCH
    sent = skipped = 0
    burst = max(BATCH, int(rate * BURST_SECONDS))
    started = time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        due = int(passed * rate) - sent - skipped
        if due < BATCH:
            time.sleep(BATCH / rate / 2)
            continue
        # What a busy moment of the machine held up is not made good in one go: that would be another rate.
        if due > burst:
            skipped += due - burst
            due = burst
        for _batch in range(due // BATCH):
            sock.send(batch)
            sent += BATCH
    answer.send(time.perf_counter() - started)
    sock.close()


class Bench:
    """Two namespaces joined by a veth, and what is measured in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sender, self.receiver = Node(), Node()
        for node in (self.sender, self.receiver):
            for kind in ("all", "default"):
                node.sysctl(f"net.ipv6.conf.{kind}.disable_ipv6", 1)
        self.sender.ip("link", "add", "out", "type", "veth", "peer", "name", "in", "netns", str(self.receiver.pid))
        self.sender.ip("link", "set", "out", "up")
        self.receiver.ip("link", "set", "in", "up")
        self.sender.ip("address", "add", f"{SENDER}/24", "dev", "out")
        # For somebody else: the receiver's stack has no work with it beyond the taps.
        self.sender.ip("neighbour", "add", RECEIVER, "lladdr", "02:00:00:00:00:63", "dev", "out")
        # Cut before the tap: it shall see frames as the wire has them.
        self.sender.run("ethtool", "-K", "out", "tx-udp-segmentation", "off")

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()

    def delivered(self) -> int:
        """How many frames the receiving device has had so far: what the queue before it drops, no tap can see."""
        rows = json.loads(self.receiver.ip("-json", "-statistics", "link", "show", "in"))
        return int(rows[0]["stats64"]["rx"]["packets"])

    def sending(self, rate: int, seconds: float) -> tuple[int, float]:
        """(frames that came to the receiving device, seconds)."""
        before = self.delivered()
        receive, answer = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.Process(target=send, args=(self.sender.path, rate, seconds, answer))
        process.start()
        lasted = receive.recv() if receive.poll(seconds + 10) else seconds
        process.join(5)
        return self.delivered() - before, lasted

    def ours(self, rate: int, seconds: float) -> dict[str, Any]:
        """The module's own code, in a process of its own, writing pcapng."""
        receive, answer = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.Process(
            target=listen, args=(self.receiver.path, str(self.folder / "own.pcapng"), answer)
        )
        process.start()
        receive.recv()
        sent, lasted = self.sending(rate, seconds)
        (self.folder / "stop").touch()
        facts, processor = receive.recv()
        process.join(30)
        return _outcome(sent, lasted, facts["taps"][0]["frames"], facts["taps"][0]["dropped"], processor)

    def tcpdump(self, rate: int, seconds: float) -> dict[str, Any]:
        target = str(self.folder / "tcpdump.pcap")
        command = ["nsenter", f"--net={self.receiver.path}", "tcpdump", "-i", "in", "-nn", "-s", str(SNAPLEN)]
        command += ["-B", str(BUFFER // 1024), "-w", target, "-Z", "root"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
            prefer(process.pid)
            assert process.stderr is not None
            while "listening" not in process.stderr.readline():
                pass
            sent, lasted = self.sending(rate, seconds)
            used_by_sender = resource.getrusage(resource.RUSAGE_CHILDREN)
            time.sleep(1.5)  # it is handed what is left in a block after a second
            process.send_signal(signal.SIGINT)
            assert select.select([process.stderr], [], [], 30)[0]
            text = process.stderr.read()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = _used(after) - _used(used_by_sender)
        captured, dropped = (
            int(re.search(rf"(\d+) packets? {what}", text)[1])  # type: ignore[index]
            for what in ("captured", "dropped by kernel")
        )
        return _outcome(sent, lasted, captured, dropped, processor)


def listen(path: str, target: str, answer: Any) -> None:
    """Capture into a file until there is one named C(stop) beside it."""
    os.setsid()
    prefer(os.getpid())
    stop = Path(target).with_name("stop")
    stop.unlink(missing_ok=True)
    settings = _capture.Settings.parse(
        {
            "taps": [{"id": "in", "netns": path, "interface": "in"}],
            "snaplen": SNAPLEN,
            "seconds": _capture.MAX_SECONDS,
            "packets": _capture.MAX_PACKETS,
            "bytes": _capture.MAX_BYTES,
            "ring_bytes": BUFFER,
        }
    )
    capture = _capture.Live(settings, "captured", target)
    capture.open()
    before = _used(resource.getrusage(resource.RUSAGE_SELF))
    answer.send(None)
    capture.run(stop.exists)
    capture.finish_taps()
    processor = _used(resource.getrusage(resource.RUSAGE_SELF)) - before
    answer.send((capture.report, processor))
    capture.close()


def _used(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


def _outcome(sent: int, lasted: float, captured: int, dropped: int, processor: float) -> dict[str, Any]:
    return {
        "sent": sent,
        "rate": round(sent / lasted),
        "captured": captured,
        "dropped": dropped,
        "lost": max(0, sent - captured),
        "processor_seconds": round(processor, 3),
    }


def measure(bench: Bench, rates: list[int], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """A row for each rate, with the medians of both."""
    rows = []
    for rate in rates:
        found: dict[str, list[dict[str, Any]]] = {"own": [], "tcpdump": []}
        for _round in range(rounds):
            found["own"].append(bench.ours(rate, seconds))
            found["tcpdump"].append(bench.tcpdump(rate, seconds))
        row: dict[str, Any] = {"asked": rate}
        for name, outcomes in found.items():
            for key in ("rate", "lost", "processor_seconds"):
                row[f"{name}_{key}"] = statistics.median(outcome[key] for outcome in outcomes)
        rows.append(row)
        print(json.dumps(row), file=sys.stderr)
        if row["own_lost"] and row["tcpdump_lost"]:
            break
    return rows


def figures(seconds: float, rounds: int, rates: list[int]) -> dict[str, Any]:
    """What was measured at each rate, and the rows of the table."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        try:
            measured = measure(bench, rates, seconds, rounds)
        finally:
            bench.close()
    held = {name: [row for row in measured if not row[f"{name}_lost"]] for name in ("own", "tcpdump")}
    ours, theirs = (max([row[f"{name}_rate"] for row in rows], default=0) for name, rows in held.items())
    note = f"Both have a buffer of {BUFFER >> 20} MiB and share the machine with the sender."
    if len(held["own"]) == len(held["tcpdump"]) == len(measured):
        note += " Neither lost a frame at any rate: the sender was the limit."
    row = {
        "what": f"highest rate without loss, frames of {FRAME} bytes, snaplen {SNAPLEN}, into a file",
        "ours": ours,
        "peer": "tcpdump -w",
        "theirs": theirs,
        "unit": "frames/s",
        "ratio": round(ours / theirs, 2) if theirs else None,
        "aim": "0.9 of tcpdump, 400,000",
        "note": note,
    }
    return {"rows": [row], "rates": measured}


def rows() -> list[dict[str, Any]]:
    """For the page of all benchmarks."""
    found: list[dict[str, Any]] = figures(2.0, 3, list(RATES))["rows"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rates", default=",".join(map(str, RATES)))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("tcpdump"):
        raise SystemExit("the capture benchmark makes network namespaces and compares with tcpdump: root and tcpdump")
    machine = {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    rates = [int(rate) for rate in options.rates.split(",")]
    found = {"machine": machine, **figures(options.seconds, options.rounds, rates)}
    print(json.dumps(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

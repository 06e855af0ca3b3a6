# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""python -m tests.benchmark.mtu: the path MTU to 1, 10 and 50 peers, against a ping bisection and tracepath.

The peers are addresses of one namespace behind a router, both made here; the router's far link takes 1413 bytes. With a
black hole the router's ICMP errors are filtered. ping and tracepath (iputils) ask one peer after the other, as their
users do; where that takes long a few peers are asked and the rest is reckoned, and the row says so.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
import typing as t

from tests.unit.plugins.module_utils.pmtu_network import PmtuNetwork

PEERS = (1, 10, 50)
ROUNDS = 3
LIMIT = 1413
ASKED = {False: 10, True: 2}  # peers that ping is run for, without and with a black hole
NOTE = (
    "A path of 1,413 bytes behind a router; every true value was found unless it says so. ping: bisection from 68 to "
    "1,500 bytes, `-c 1 -W 1`, one peer after the other; tracepath: stopped at its third hop."
)


def peers(network: PmtuNetwork, count: int) -> list[str]:
    """Addresses of the host behind the router."""
    wanted = [f"10.0.3.{number}" for number in range(100, 100 + count)]
    script = [f"ip address replace {address}/24 dev b_r1" for address in wanted]
    network.b.run("sh", "-ec", "\n".join(script))
    return wanted


def ours(network: PmtuNetwork, targets: list[str]) -> tuple[float, int, float]:
    """(seconds, packets of one peer, how many were found right) of one call."""
    started = time.monotonic()
    report = network.search_all([{"address": address} for address in targets], timeout=1.0)
    seconds = time.monotonic() - started
    rows = report["results"]
    right = sum(row["path_mtu"] == LIMIT for row in rows) / len(rows)
    return seconds, round(sum(row["sent"] for row in rows) / len(rows)), right


def bisect(network: PmtuNetwork, address: str) -> int:
    """What a careful person does with ping -M do."""
    low, high = 68, 1501
    while high - low > 1:
        size = (low + high) // 2
        script = f"ping -n -q -M do -c 1 -W 1 -s {size - 28} {address} >/dev/null 2>&1 && echo yes || echo no"
        if network.a.run("sh", "-c", script).strip() == "yes":
            low = size
        else:
            high = size
    return low


def tracepath(network: PmtuNetwork, address: str) -> int | None:
    """The path MTU in its last line."""
    lines = network.a.run("sh", "-c", f"tracepath -n -m 3 {address} 2>/dev/null || true").strip().splitlines()
    words = lines[-1].split() if lines else []
    return int(words[words.index("pmtu") + 1]) if "pmtu" in words else None


def timed(work: t.Callable[[str], int | None], targets: list[str]) -> tuple[float, bool]:
    """(seconds for each, whether each was right)."""
    started = time.monotonic()
    right = [work(address) == LIMIT for address in targets]
    return (time.monotonic() - started) / len(targets), all(right)


def rows() -> list[dict[str, t.Any]]:
    """One row for each number of peers, with and without a black hole, and each peer program."""
    found: list[dict[str, t.Any]] = []
    network = PmtuNetwork()
    try:
        network.mtu("b_r1", LIMIT)
        for black_hole in (False, True):
            if black_hole:
                network.silence()
            for count in PEERS:
                found += measure(network, peers(network, count), black_hole)
    finally:
        network.close()
    return found


def measure(network: PmtuNetwork, targets: list[str], black_hole: bool) -> list[dict[str, t.Any]]:
    results = []
    for _round in range(ROUNDS):
        network.forget()
        results.append(ours(network, targets))
    seconds = statistics.median(row[0] for row in results)
    right = min(row[2] for row in results)
    kind = "black hole" if black_hole else "ICMP comes"
    what = f"path MTU to {len(targets)} peer{'s' if len(targets) > 1 else ''}, {kind}"
    row = {"what": what, "ours": round(seconds, 4), "unit": "s", "note": NOTE}
    row["detail"] = f"{results[0][1]} packets for each peer, {right:.0%} right"
    rows_ = []
    for name, work in (("ping bisection", bisect), ("tracepath", tracepath)):
        if not shutil.which(name.split(maxsplit=1)[0]):
            rows_.append({**row, "peer": f"{name} (not installed)", "theirs": None, "ratio": None})
            continue
        asked = targets[: 1 if name == "tracepath" and black_hole else ASKED[black_hole]]
        network.forget()
        each, true = timed(lambda address, work=work: work(network, address), asked)  # type: ignore[misc]
        label = name + ("" if len(asked) == len(targets) else f", {len(asked)} asked")
        label += "" if true else ", not found"
        theirs = each * len(targets)
        rows_.append({**row, "peer": label, "theirs": round(theirs, 4), "ratio": round(theirs / seconds, 1)})
    return rows_


def main() -> int:
    print(json.dumps(rows(), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

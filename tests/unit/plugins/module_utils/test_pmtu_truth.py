# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What mtu_probe finds against what is true, in the topologies of the kernel's own path MTU tests.

The rows wait for timeouts most of the time, so several topologies go through them side by side, once; each row is then
a test of its own.
"""

from __future__ import annotations

import contextlib
import csv
import queue
import re
import shutil
import typing as t
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.unit.plugins.module_utils.pmtu_network import PmtuNetwork
from tests.unit.plugins.module_utils.probe_network import is_root

TRUTH = Path(__file__).absolute().parents[5] / "shared" / "corpus" / "pmtu-true.tsv"
NEEDED = ("nft", "unshare", "nsenter", "ip")
TOPOLOGIES = 6
Row = dict[str, str]


def rows() -> list[Row]:
    if not TRUTH.exists():
        return []
    with TRUTH.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def name_of(row: Row) -> str:
    return "-".join(re.sub(r"[^\w=]+", "_", row[key]) for key in ("case", "mtus", "df", "icmp", "dst"))


def why_not() -> str | None:
    if not is_root():
        return "makes network namespaces: needs root"
    absent = [tool for tool in NEEDED if not shutil.which(tool)]
    return f"needs {', '.join(absent)}" if absent else None


@pytest.fixture(scope="module")
def found() -> t.Iterator[dict[str, Future[dict[str, t.Any] | str]]]:
    """Row -> what was found, or why this kernel cannot have such a path."""
    if reason := why_not():
        pytest.skip(reason)
    free: queue.SimpleQueue[PmtuNetwork] = queue.SimpleQueue()
    made = [PmtuNetwork() for _number in range(TOPOLOGIES)]
    for network in made:
        free.put(network)

    def work(row: Row) -> dict[str, t.Any] | str:
        network = free.get()
        try:
            return measure(network, row)
        finally:
            free.put(network)

    try:
        with ThreadPoolExecutor(TOPOLOGIES) as pool:
            yield {name_of(row): pool.submit(work, row) for row in rows()}
            pool.shutdown(cancel_futures=True)
    finally:
        for network in made:
            network.close()


def measure(network: PmtuNetwork, row: Row) -> dict[str, t.Any] | str:
    """Arrange the row's path and look for its MTU."""
    sizes = {name: int(value) for name, value in (word.split("=") for word in row["mtus"].split())}
    tunnel = sizes.pop("vx", 0)
    back = row["case"].endswith("return_route_added")
    try:
        for segment, value in sizes.items():
            network.mtu(("a_" if segment.startswith("A") else "b_") + ("r1" if "R1" in segment else "r2"), value)
        network.forget()
        if back:
            network.b.ip("route", "add", "10.0.2.0/24", "via", "10.0.4.2")
        try:
            if tunnel:
                network.tunnel(6 if "vxlan6" in row["case"] else 4, tunnel, row["df"])
        except AssertionError as exc:
            return f"this kernel has no such tunnel: {exc}"
        if row["icmp"].startswith("off"):
            network.silence()
        if "fragdrop=yes" in row["icmp"]:
            network.drop_fragments()
        if "after_local" in row["case"]:  # its name is the story: the cache was made stale by raising the own MTU
            for mtu in (2000, 1300, 1700):
                network.mtu("a_r1", mtu)
                network.search(row["dst"])
        result = network.search(row["dst"])
        if not result["received"] and not row["true_max_ip_packet"].startswith("none"):
            result = network.search(row["dst"])  # a busy machine that answered nothing at all, not even the smallest
        return result
    finally:
        network.reset()
        with contextlib.suppress(AssertionError):
            if tunnel:
                network.untunnel()
        if back:
            network.b.ip("route", "del", "10.0.2.0/24")
        if min(sizes.values()) < 1280:
            network.unplug()
            network.plug()


@pytest.mark.skipif(not TRUTH.exists(), reason=f"{TRUTH.name} is not in ../shared/corpus beside this repository")
@pytest.mark.parametrize("row", rows(), ids=name_of)
def test_every_true_path_mtu_is_found(row: Row, found: dict[str, Future[dict[str, t.Any] | str]]):
    result = found[name_of(row)].result()
    if isinstance(result, str):
        pytest.skip(result)
    if row["true_max_ip_packet"].startswith("none"):
        assert (result["verdict"], result["path_mtu"]) == ("inconclusive", None)
        return
    true = int(row["true_max_ip_packet"])
    assert (result["path_mtu"], result["exact"]) == (true, True), result
    if true == result["local_mtu"]:
        assert result["verdict"] == "clean"
    elif row["icmp"].startswith("off") or "fragdrop=yes" in row["icmp"]:
        assert result["verdict"] in ("black-hole", "frag-needed")
    else:
        assert result["verdict"] == "frag-needed"


def test_the_table_is_whole_where_it_is_there():
    assert len(rows()) in (0, 74)

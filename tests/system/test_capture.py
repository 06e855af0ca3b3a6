# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Captures on real Docker hosts: a container's frames brought back, and probes seen at every hop of a busy fleet."""

from __future__ import annotations

import contextlib
import json
import stat
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils import _pcap
from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder
from tests.lab import Lab
from tests.lab.reach import http_body
from tests.lab.snapshot import difference
from tests.playbook import BIN, command, environment

RUN_BASE = "/run/crosshost.doctor"
MARK = "capture-test"
COUNT = 3


def play(lab: Lab, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        list(words), cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return done


def capture(lab: Lab, tmp_path: Path, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    inventory = lab.write_inventory(tmp_path / "inventory.ini")
    return play(lab, tmp_path, *command(inventory, tmp_path / "report", "capture", **options), *words)


@contextlib.contextmanager
def fetching(lab: Lab, *ways: tuple[str, str]) -> Iterator[Counter[tuple[str, str]]]:
    """Pages are fetched from one container by another, again and again; how many bytes came."""
    over = threading.Event()
    came: Counter[tuple[str, str]] = Counter()

    def fetch(way: tuple[str, str]) -> None:
        source, target = (next(h for h in lab.docker_hosts if name.startswith(f"app-{h.name}")) for name in way)
        netns, address = source.container_netns(way[0]), target.container_address(way[1])
        while not over.wait(0.05):
            came[way] += http_body(netns, address, 80)

    threads = [threading.Thread(target=fetch, args=(way,)) for way in ways]
    for thread in threads:
        thread.start()
    try:
        yield came
    finally:
        over.set()
        for thread in threads:
            thread.join()


def hops(facts: dict[str, Any], container: str, address: str) -> list[dict[str, Any]]:
    """The taps on a container's way out of its host, by what overlay_facts saw."""
    spaces = {row["key"]: row for row in facts["namespaces"]}
    inner = spaces[next(row["netns"] for row in facts["containers"] if row["name"] == container)]
    index = next(row["index"] for row in inner["addresses"] if row["ip"] == address)
    link = next(row for row in inner["links"] if row["index"] == index)
    overlay, port = next(
        (space, row)
        for space in facts["namespaces"]
        for row in space["links"]
        if space["kind"] == "overlay"
        and (row["index"], row["link"]) == (link["link"], index)
        and any(other["kind"] == "vxlan" for other in space["links"])
    )
    vtep = next(row for row in overlay["links"] if row["kind"] == "vxlan")
    places = [("container", inner, link), ("veth", overlay, port), ("vtep", overlay, vtep)]
    taps = [
        {"id": name, "netns": space["path"], "inode": space["key"], "ifindex": row["index"]}
        for name, space, row in places
    ]
    return [*taps, {"id": "nic", "interface": "eth0"}]


def test_a_containers_frames_come_back_and_probes_are_seen_at_every_hop(lab: Lab, tmp_path: Path) -> None:
    client = lab.hosts["node1"].container_address("app-node1")
    before = lab.snapshot()
    # One way is asked for, the other one is noise on the same interface.
    with fetching(lab, ("app-node1", "app-node2"), ("app-node3", "app-node2")) as came:
        done = capture(
            lab,
            tmp_path,
            doctor_target="app-node2",
            doctor_filter=f"tcp port 80 and host {client}",
            doctor_seconds=2,
        )
    assert done.returncode == 0, done.stdout
    assert min(came.values()) > 65536
    path = tmp_path / "report" / "captures" / "node2-app-node2.pcapng"
    assert f"Written to {path}" in done.stdout
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (path.parent, path.parent.parent)} == {0o700}
    seen: Counter[str | None] = Counter()
    with _pcap.open_capture(str(path)) as frames:
        for interface, _time, _wire, data, *_rest in frames:
            seen[interface.name] += 1
            assert data[23] == 6
            assert {data[26:30], data[30:34]} >= {bytes(map(int, client.split(".")))}
            assert b"\x00\x50" in (data[34:36], data[36:38])
    container, outside = sorted(name or "" for name in seen)
    assert container == "app-node2 eth0"
    assert outside.startswith("app-node2 eth0 host side veth")
    assert f"node2: {seen.total()} frames" in done.stdout
    assert min(seen.values()) > 10
    assert difference(before, lab.snapshot()) == []
    followed(lab, tmp_path)


def followed(lab: Lab, tmp_path: Path) -> None:
    """Probes between two containers while others fetch pages: eight taps, each way once at each."""
    folder = RunFolder(str(tmp_path / "report"))
    facts = {name: (folder.read_record(name, "overlay_facts", "before") or {})["facts"] for name in ("node1", "node2")}
    ends = {name: lab.hosts[name].container_address(f"app-{name}") for name in facts}
    links = [link for space in facts["node1"]["namespaces"] for link in space["links"]]
    tunnel = {link["vxlan"]["port"] for link in links if link.get("vxlan")}
    for name, address in ends.items():
        taps = hops(facts[name], f"app-{name}", address)
        plan = {"taps": taps, "mark": MARK, "ports": sorted(tunnel), "seconds": 40, "tcp_ports": [80]}
        folder.write(f"plan/capture/{name}.json", {**plan, "reasons": True})
    source = {
        "netns": hops(facts["node1"], "app-node1", ends["node1"])[0]["netns"],
        "probes": [
            {"id": "echo", "layer": "icmp", "address": ends["node2"]},
            {"id": "page", "layer": "tcp", "address": ends["node2"], "port": 80},
        ],
    }
    common = {"run_dir": folder.path, "label": "trace"}
    tasks = [
        {"crosshost.doctor.vxlan_capture": {"state": "started", **common}},
        {
            "crosshost.doctor.path_probe": {"mark": MARK, "count": COUNT, "sources": [source]},
            "when": "inventory_hostname == 'node1'",
        },
        {"crosshost.doctor.vxlan_capture": {"state": "collected", **common}},
    ]
    book = tmp_path / "trace.yml"
    book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "become": True, "tasks": tasks}]))
    with fetching(lab, ("app-node1-b", "app-node3"), ("app-node3", "app-node1-b")) as came:
        done = play(lab, tmp_path, str(BIN / "ansible-playbook"), "-i", str(tmp_path / "inventory.ini"), str(book))
    assert done.returncode == 0, done.stdout
    assert min(came.values()) > 65536
    for name in ends:
        record = (folder.read_record(name, "vxlan_capture", "trace") or {})["facts"]
        assert [row for row in record["missing"] if row["section"] == "tap"] == []
        assert {tap["id"]: tap["dropped"] for tap in record["taps"]} == dict.fromkeys(
            ("container", "veth", "vtep", "nic"), 0
        )
        seen = Counter((row["tap"], row["kind"]) for row in record["sightings"] if row["probe"] == "echo")
        assert seen == {
            (tap, kind): COUNT for tap in ("container", "veth", "vtep", "nic") for kind in ("echo", "echo-reply")
        }
        numbers = {row["seq"] for row in record["sightings"] if row["kind"] == "syn" and row["dst"] == ends["node2"]}
        hit = Counter(row["tap"] for row in record["sightings"] if row["kind"] == "syn" and row["seq"] in numbers)
        assert set(hit) == {"container", "veth", "vtep", "nic"}
        # A page is 65,536 bytes in some fifty frames, of which the three of the handshake may pass.
        fetched = sum(came.values()) // 65536
        assert record["counts"]["frames"] < 400 + 12 * fetched, record["counts"]
        assert max(row["largest"] for row in record["flows"]) < 700, record["flows"]
        assert record["reasons"]["available"], record["reasons"]["why"]
    for host in lab.docker_hosts:
        assert not host.path(RUN_BASE).exists()


def test_what_cannot_be_captured_is_said_at_once(lab: Lab, tmp_path: Path) -> None:
    done = capture(lab, tmp_path, doctor_target="app-node2", doctor_filter="tcp or udp")
    assert done.returncode != 0
    assert "'or' is not understood" in done.stdout
    assert "Bring what the modules need" not in done.stdout
    done = capture(lab, tmp_path, "--check", doctor_target="app-nod2")
    assert done.returncode != 0
    assert "did you mean app-node2" in done.stdout
    for host in lab.docker_hosts:
        assert not host.path(RUN_BASE).exists()


def test_a_capture_that_nobody_collects_ends_with_the_runs_folder(lab: Lab, tmp_path: Path) -> None:
    folder = RunFolder.create(str(tmp_path / "report"), {"run_id": "r-1", "collection_version": "1", "hosts": {}})
    taps = [{"id": "nic", "interface": "eth0"}]
    start = {"state": "started", "taps": taps, "mark": MARK, "seconds": 60, "run_dir": folder.path, "label": "trace"}
    tasks = [
        {"crosshost.doctor.prepare": {"run_id": "r-1"}},
        {"crosshost.doctor.vxlan_capture": start},
        {"ansible.builtin.command": "cat /run/crosshost.doctor/r-1/capture-trace.lock", "register": "held"},
        {"crosshost.doctor.prepare": {"run_id": "r-1", "state": "absent"}},
        {
            "ansible.builtin.wait_for": {
                "path": "/proc/{{ held.stdout.split()[0] }}/stat",
                "state": "absent",
                "timeout": 5,
            }
        },
    ]
    book = tmp_path / "absent.yml"
    book.write_text(json.dumps([{"hosts": "node1,node2", "gather_facts": False, "become": True, "tasks": tasks}]))
    inventory = lab.write_inventory(tmp_path / "inventory.ini")
    done = play(lab, tmp_path, str(BIN / "ansible-playbook"), "-i", str(inventory), str(book))
    assert done.returncode == 0, done.stdout

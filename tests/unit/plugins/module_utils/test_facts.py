# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.crosshost.doctor.plugins.module_utils import _conntrack, _docker, _facts, _logs, _netns
from tests.unit.descriptors import nothing_left_open
from tests.unit.plugins.module_utils.namespace import namespace, needs_root, run
from tests.unit.plugins.module_utils.test_certificate import FIRST, GOOD, LAST, pem

TOP = "schema sections started finished missing host engine swarm networks containers namespaces log".split()
NAMESPACE = "key kind path container network error links addresses routes rules neighbours fdb sysctls sockets".split()
NAMESPACE += ["tc", "bpf_links", "paths", "return_paths", "conntrack", "filter", "counters"]
CHEAP = """
import json, sys
from ansible_collections.crosshost.doctor.plugins.module_utils._facts import gather
facts = gather(["counters"], [], None, 0)
print(json.dumps([facts, sorted({"pyroute2", "docker", "requests", "asyncio"} & set(sys.modules))]))
"""


@pytest.fixture(autouse=True)
def _no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own engine and logs are nobody's business."""
    monkeypatch.setattr(_docker, "SOCKETS", (str(tmp_path / "docker.sock"),))
    monkeypatch.setattr(_docker, "find", lambda name: None)
    monkeypatch.setattr(_docker, "DAEMON_JSON", str(tmp_path / "daemon.json"))
    monkeypatch.setattr(_docker, "DATA_ROOT", str(tmp_path))
    monkeypatch.setattr(_logs, "_journal", lambda limit: None)
    monkeypatch.setattr(_logs, "FILES", ((str(tmp_path / "docker.log"), None),))


def read(*sections: str, networks: tuple[str, ...] = ()) -> dict[str, Any]:
    """The facts of this machine."""
    return _facts.gather(list(sections), list(networks), None, 100000)


@pytest.mark.parametrize("sections", [[], ["host"], ["counters"], ["netns"], ["filter"], ["log"], ["engine", "swarm"]])
def test_every_key_is_present_whatever_is_read(sections: list[str]) -> None:
    facts = read(*sections)
    json.dumps(facts)
    assert list(facts) == TOP
    assert facts["sections"] == (sections or list(_facts.SECTIONS))
    assert facts["started"] <= facts["finished"]
    for one in facts["namespaces"]:
        assert list(one) == NAMESPACE
        assert set(one["counters"]) == set(_facts.empty_counters())
    assert facts["namespaces"][0]["kind"] == "host"
    assert facts["engine"].keys() == _docker.EMPTY_ENGINE.keys()
    assert facts["swarm"].keys() == _docker.EMPTY_SWARM.keys()


def test_the_second_reading_of_counters_imports_no_library_and_knows_all_namespaces() -> None:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    command = [sys.executable, "-c", CHEAP]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, env=environment)
    facts, loaded = json.loads(done.stdout)
    assert loaded == []
    assert facts["namespaces"][0]["counters"]["snmp"]
    assert facts["namespaces"][0]["links"] == []


@needs_root
def test_a_namespace_is_read_in_full() -> None:
    with namespace() as name:
        run(name, "ip", "link", "add", "br0", "type", "bridge")
        run(name, "ip", "link", "add", "vxlan0", "type", "vxlan", "id", "4097", "dstport", "4789", "nolearning")
        run(name, "ip", "link", "set", "vxlan0", "master", "br0")
        run(
            name, "bridge", "fdb", "add", "02:42:0a:00:01:02", "dev", "vxlan0", "dst", "192.0.2.12", "self", "permanent"
        )
        run(name, "ip", "neigh", "add", "10.0.1.2", "lladdr", "02:42:0a:00:01:02", "dev", "vxlan0", "nud", "permanent")
        run(name, "nft", "add table inet t; add chain inet t c { type filter hook input priority 0; policy drop; }")
        facts = read("netns", "filter", "counters")
        one = next(one for one in facts["namespaces"] if one["path"] == f"/run/netns/{name}")
    assert one["error"] is None
    vxlan = next(link for link in one["links"] if link["name"] == "vxlan0")
    assert [(row["dst"], row["macs"]) for row in one["fdb"] if row["index"] == vxlan["index"] and row["dst"]] == [
        ("192.0.2.12", ["02:42:0a:00:01:02"])
    ]
    assert one["neighbours"][0]["entries"] == [["10.0.1.2", "02:42:0a:00:01:02"]]
    assert one["sysctls"]["net.ipv4.conf.br0.forwarding"] in (0, 1)
    assert [(chain["table"], chain["policy"]) for chain in one["filter"]["chains"]] == [("t", "drop")]
    assert set(one["counters"]["links"]) == {str(link["index"]) for link in one["links"]}
    assert [note for note in facts["missing"] if name in note["what"]] == []


@needs_root
def test_a_namespace_with_nothing_but_a_loopback_stays_small() -> None:
    with namespace() as name:
        facts = read("netns", "filter", "counters")
        one = next(one for one in facts["namespaces"] if one["path"] == f"/run/netns/{name}")
    assert [link["name"] for link in one["links"]] == ["lo"]
    assert (one["sysctls"], one["rules"], one["counters"]["snmp"]) == ({}, [], {})
    assert len(json.dumps(one)) < 1500


@needs_root
def test_a_namespace_that_vanishes_is_a_record_and_not_created(monkeypatch: pytest.MonkeyPatch) -> None:
    real = _facts.enumerate_namespaces

    def with_a_ghost() -> tuple[list[_netns.Namespace], list[dict[str, str]]]:
        found, missing = real()
        return [*found, _netns.Namespace("1", "overlay", "/run/netns/cdtest-vanished")], missing

    monkeypatch.setattr(_facts, "enumerate_namespaces", with_a_ghost)
    ghost = read("netns", "counters")["namespaces"][-1]
    assert (ghost["kind"], ghost["error"], ghost["links"]) == ("overlay", "No such file or directory", [])
    assert not Path("/run/netns/cdtest-vanished").exists()


@needs_root
def test_reading_creates_no_namespace_no_mount_and_leaves_no_descriptor() -> None:
    def state() -> list[Any]:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
        found = [
            one.key
            for one in _netns.enumerate_namespaces()[0]
            if one.path.startswith("/run/netns/cdtest-") or one.kind == "host"
        ]
        return [mounts, found]

    with namespace() as name:
        run(name, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
        read()
        before = state()
        with nothing_left_open():
            read()
        assert state() == before


@needs_root
def test_without_root_the_own_namespace_is_read_and_the_rest_is_said_to_be_missing() -> None:
    import pyroute2.netlink.rtnl.fibmsg
    import pyroute2.netlink.rtnl.ifaddrmsg
    import pyroute2.netlink.rtnl.ifinfmsg
    import pyroute2.netlink.rtnl.rtmsg
    import pyroute2.netlink.rtnl.tcmsg  # noqa: F401

    with namespace() as name:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            with os.fdopen(writer, "w", encoding="utf-8") as stream:
                json.dump(read(), stream)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, encoding="utf-8") as stream:
            facts = json.load(stream)
        os.waitpid(child, 0)
    assert facts["host"]["root"] is False
    assert facts["namespaces"][0]["links"][0]["name"] == "lo"
    assert facts["namespaces"][0]["counters"]["snmp"]
    other = next(one for one in facts["namespaces"] if one["path"] == f"/run/netns/{name}")
    assert other["error"] in ("setns: Operation not permitted", "Operation not permitted")
    assert any("not root" in note["why"] for note in facts["missing"])
    assert not any("Traceback" in note["why"] for note in facts["missing"])


def test_one_part_that_fails_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise KeyError("a kernel of tomorrow")

    monkeypatch.setattr(_facts, "read_neighbours", fail)
    facts = read("netns")
    host = facts["namespaces"][0]
    assert host["neighbours"] == []
    assert host["sysctls"]
    assert any(note["what"].startswith("neighbours of namespace") for note in facts["missing"])


def test_a_table_that_keeps_changing_is_said_to_be_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_facts, "read_neighbours", lambda: ([], False))
    assert any("changed during each" in note["why"] for note in read("netns")["missing"])


@needs_root
def test_no_way_back_ends_the_reading_of_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost:
        def __enter__(self) -> None:
            raise _netns.StrandedError("cannot return")

        def __exit__(self, *error: object) -> None:
            """Not reached."""

    monkeypatch.setattr(_facts, "inside", lambda path: Lost())
    facts = read("counters")
    assert len(facts["namespaces"]) == 1
    assert any("cannot return" in note["why"] for note in facts["missing"])


def test_the_list_of_what_is_missing_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    def many() -> tuple[list[_netns.Namespace], list[dict[str, str]]]:
        note = {"section": "netns", "what": "x", "why": "y"}
        return [], [note] * 1000

    monkeypatch.setattr(_facts, "enumerate_namespaces", many)
    facts = read("counters")
    assert len(facts["missing"]) == _facts.MISSING_LIMIT + 1
    assert "more of these" in facts["missing"][-1]["why"]


def reading(*networks: str) -> _facts.Reading:
    """A reading that has seen one network and one container."""
    facts: dict[str, Any] = {
        "missing": [],
        "networks": [{"id": "7h6828w6y7jkhsry9ns84h753"}],
        "containers": [
            {"id": "c1", "netns": "100", "network_mode": "app"},
            {"id": "c2", "netns": "100", "network_mode": "container:c1"},
            {"id": "c3", "netns": "1", "network_mode": "host"},
        ],
    }
    return _facts.Reading(facts, frozenset(("networks", "containers", "netns")), list(networks))


def test_namespaces_are_booked_to_containers_and_networks() -> None:
    found = [
        _netns.Namespace("1", "host", "/proc/self/ns/net"),
        _netns.Namespace("100", "other", "/run/docker/netns/x"),
        _netns.Namespace("200", "overlay", "/run/docker/netns/1-7h6828w6y7", network_prefix="7h6828w6y7"),
        _netns.Namespace("300", "lb", "/run/docker/netns/lb_zzzzzzzzz", network_prefix="zzzzzzzzz"),
    ]
    one = reading()
    one._name(found)
    assert [(each.kind, each.container) for each in found[:2]] == [("host", None), ("container", "c1")]
    assert [one._network_id(each) for each in found] == [None, None, "7h6828w6y7jkhsry9ns84h753", None]


def test_namespaces_of_other_networks_are_left_out() -> None:
    one = reading("app")
    found = [
        _netns.Namespace("1", "host", ""),
        _netns.Namespace("100", "container", "", container="c1"),
        _netns.Namespace("101", "container", "", container="c9"),
        _netns.Namespace("200", "overlay", "", network_prefix="7h6828w6y7"),
        _netns.Namespace("300", "overlay", "", network_prefix="zzzzzzzzzz"),
        _netns.Namespace("400", "other", ""),
    ]
    assert [each.key for each in found if one._selected(each)] == ["1", "100", "200", "400"]


def test_the_files_of_other_programs_belong_to_the_section_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise ValueError("broken")

    parts = {"resolver": fail, "cni": lambda: [{"type": "flannel"}]}
    monkeypatch.setattr(_facts, "host_parts", lambda: parts)
    facts = read("host")
    assert facts["host"]["cni"] == [{"type": "flannel"}]
    assert facts["host"]["resolver"] == {"nameservers": [], "search": [], "options": []}
    assert {"section": "host", "what": "resolver", "why": "ValueError: broken"} in facts["missing"]
    assert read("counters")["host"]["cni"] == []


def test_a_host_without_an_engine_has_every_new_key_and_misses_nothing() -> None:
    facts = read()
    assert (facts["swarm"]["certificate"], facts["swarm"]["managers_view"]) == (None, [])
    assert (facts["engine"]["daemon_flags"], facts["engine"]["kv"]) == ({}, None)
    host = facts["namespaces"][0]
    assert {row["error"] for row in host["paths"]} <= {None, "ENETUNREACH", "EHOSTUNREACH"}
    what = ("paths of", "conntrack of", "drivers of", "resolver", "managers", "cni", "modules")
    assert [note for note in facts["missing"] if note["what"].startswith(what)] == []


def test_the_certificate_of_a_node_is_read_also_while_its_engine_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_docker, "find", lambda name: "/usr/sbin/dockerd")
    monkeypatch.setattr(_docker, "unit_state", lambda: None)
    folder = tmp_path / "swarm" / "certificates"
    folder.mkdir(parents=True)
    (folder / "swarm-node.crt").write_text(pem(GOOD))
    (folder / "swarm-node.key").write_text("SECRET")
    found = read("engine", "swarm")["swarm"]["certificate"]
    assert found == {"not_before": FIRST, "not_after": LAST, "path": str(folder / "swarm-node.crt")}
    assert read("engine")["swarm"]["certificate"] is None


def test_the_ports_of_tunnels() -> None:
    def link(port: Any) -> dict[str, Any]:
        return {"vxlan": {"port": port}}

    facts = {
        "swarm": {"data_path_port": 7789},
        "namespaces": [{"links": [link(4789), {"vxlan": None}]}, {"links": [link(8472), link(None), link(0)]}],
    }
    assert _facts.tunnel_ports(facts) == {7789, 4789, 8472}


@needs_root
def test_the_host_is_asked_for_its_paths_when_all_tunnels_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tunnel in another namespace names the peer."""
    asked = []
    monkeypatch.setattr(_conntrack, "askable", lambda: True)
    monkeypatch.setattr(_conntrack, "read_conntrack", lambda ports, families: asked.append((ports, families)) or [])
    tunnels = {"192.0.2.77": ("vxlan4", "192.0.2.1", "4790"), "2001:db8::77": ("vxlan6", "2001:db8::1", "4791")}
    with namespace() as name:
        for peer, (device, local, port) in tunnels.items():
            run(name, *f"ip link add {device} type vxlan id 4097 dstport {port} nolearning local {local}".split())
            run(name, *f"bridge fdb append 02:42:0a:00:01:02 dev {device} dst {peer} self".split())
            host = read("netns")["namespaces"][0]
            assert peer in [path["dst"] for path in host["paths"]]
            assert int(port) in asked[-1][0]
    assert socket.AF_INET6 in asked[-1][1]


def test_a_host_without_an_engine_misses_no_log_of_it() -> None:
    facts = read("engine", "log")
    assert facts["engine"]["state"] == "absent"
    assert facts["log"]["source"] is None
    assert [note for note in facts["missing"] if note["section"] in ("engine", "log")] == []


def test_an_engine_that_is_down_says_why_from_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_docker, "find", lambda name: "/usr/sbin/dockerd")
    monkeypatch.setattr(_docker, "unit_state", lambda: None)
    line = 'time="2026-11-21T01:09:49Z" level=fatal msg="failed to start daemon: pid file found"\n'
    (tmp_path / "docker.log").write_text(line, encoding="ascii")
    facts = read("engine", "log")
    assert facts["engine"]["state"] == "down"
    assert "pid file found" in facts["engine"]["error"]
    assert any(note["section"] == "engine" for note in facts["missing"])


def test_receive_lists_of_devices_are_no_forwarding_entries() -> None:
    links = [
        {"index": 1, "kind": None, "master": None},
        {"index": 2, "kind": "bridge", "master": None},
        {"index": 3, "kind": "veth", "master": 2},
        {"index": 4, "kind": "vxlan", "master": 2},
    ]

    def row(index: int, *macs: str, master: int | None = None, own: bool = True) -> dict[str, Any]:
        return {"index": index, "master": master, "flags": ["self"] if own else [], "macs": list(macs)}

    group, unicast = "33:33:00:00:00:01", "02:42:0a:00:01:02"
    rows = [
        row(1, group, unicast),
        row(2, group),
        row(3, group, unicast),
        row(3, unicast, master=2, own=False),
        row(4, group, unicast),
    ]
    assert _facts.relevant_fdb(rows, links) == [row(3, unicast), row(3, unicast, master=2, own=False), rows[4]]
    assert _facts.relevant_fdb(rows, []) == rows

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.crosshost.doctor.plugins.module_utils import _docker
from tests.unit.plugins.module_utils.engine import HANG, INFO, engine
from tests.unit.plugins.module_utils.test_docker_rows import INSPECTED, LISTED, NETWORK, NODE, SERVICE, SWARM, task

docker = pytest.importorskip("docker")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The path of the engine's socket in this test. AF_UNIX paths are short, so it is made relative."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_docker, "SOCKETS", ("s",))
    monkeypatch.setattr(_docker, "PID_FILES", (str(tmp_path / "pid"),))
    monkeypatch.setattr(_docker, "DAEMON_JSON", str(tmp_path / "daemon.json"))
    monkeypatch.setattr(_docker, "unit_state", lambda: None)
    return "s"


def connect(path: str, missing: list[dict[str, str]], seconds: float = 20) -> _docker.Engine:
    """A client of the test's engine."""
    return _docker.Engine(docker, f"{os.getcwd()}/{path}", time.monotonic() + seconds, missing)


def test_an_engine_that_accepts_is_running(place: str) -> None:
    with engine(place, {}):
        assert _docker.socket_state() == ("running", None, place)


def test_a_socket_nobody_listens_at_is_an_engine_that_is_down(place: str) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(place)
    state, error, _path = _docker.socket_state()
    assert (state, error) == ("down", "s: Connection refused")


@pytest.mark.parametrize(("binary", "state"), [("/usr/sbin/dockerd", "down"), (None, "absent")])
def test_no_socket_is_down_where_the_engine_is_installed(
    place: str, monkeypatch: pytest.MonkeyPatch, binary: str | None, state: str
) -> None:
    monkeypatch.setattr(_docker, "find", lambda name: binary)
    assert _docker.socket_state()[0] == state


def test_the_configuration_and_the_process_are_read_without_the_engine(place: str, tmp_path: Path) -> None:
    (tmp_path / "daemon.json").write_text(json.dumps({"mtu": 1450, "tlskey": "x"}), encoding="ascii")
    (tmp_path / "pid").write_text(str(os.getpid()), encoding="ascii")
    missing: list[dict[str, str]] = []
    facts, path = _docker.read_engine(missing)
    assert (facts["daemon_config"], facts["pid"], path) == ({"mtu": 1450}, os.getpid(), None)
    (tmp_path / "pid").write_text("4194999", encoding="ascii")
    assert _docker.read_engine(missing)[0]["pid"] is None
    assert missing == []
    (tmp_path / "daemon.json").write_text("{broken", encoding="ascii")
    assert _docker.read_engine(missing)[0]["daemon_config"] == {}
    assert "not JSON" in missing[0]["why"]


def test_everything_a_manager_tells(place: str) -> None:
    answers: dict[str, Any] = {
        "/info": dict(INFO, Swarm=SWARM),
        "/nodes": [NODE],
        "/services": [SERVICE],
        "/tasks": [task("t", "running", "running")],
        "/networks": [dict(NETWORK, Peers=None, Services=None, Containers=None)],
        f"/networks/{NETWORK['Id']}": NETWORK,
        "/containers/json": [LISTED],
        "/containers/27de117c/json": dict(INSPECTED, State={"Status": "running", "Pid": os.getpid()}),
    }
    missing: list[dict[str, str]] = []
    with engine(place, answers):
        client = connect(place, missing)
        facts = dict(_docker.EMPTY_ENGINE)
        info = _docker.complete_engine(facts, client)
        swarm = _docker.read_swarm(client, info)
        networks = _docker.read_networks(client, [])
        containers = _docker.read_containers(client, [])
        client.close()
    assert facts["version"] == "20.10.24"
    assert (len(swarm["nodes"]), len(swarm["services"]), len(swarm["tasks"])) == (1, 1, 1)
    manager = {"node_id": NODE["ID"], "addr": "192.0.2.11:2377", "leader": True, "reachability": "reachable"}
    assert swarm["managers_view"] == [manager]
    assert networks[0]["peers"] == [{"name": "39c27df89bc4", "ip": "192.0.2.13"}]
    assert containers[0]["netns"] == str(os.stat("/proc/self/ns/net").st_ino)
    assert missing == []
    assert "SECRET" not in json.dumps([facts, swarm, networks, containers])


def test_a_container_that_disappears_between_two_reads_is_skipped_with_a_note(place: str) -> None:
    missing: list[dict[str, str]] = []
    with engine(place, {"/containers/json": [LISTED, dict(LISTED, Id="gone")], "/containers/27de117c/json": INSPECTED}):
        client = connect(place, missing)
        containers = _docker.read_containers(client, [])
        client.close()
    assert [row["id"] for row in containers] == ["27de117c"]
    assert {"section": "containers", "what": "container gone", "why": "disappeared between two reads"} in missing


def test_networks_can_be_chosen_by_name_id_or_its_beginning(place: str) -> None:
    other = dict(NETWORK, Id="zzzzzzzzzzzzzzzzzzzzzzzzz", Name="other", Scope="local")
    answers = {
        "/networks": [NETWORK, other],
        f"/networks/{NETWORK['Id']}": NETWORK,
        "/containers/json": [LISTED],
        "/containers/27de117c/json": INSPECTED,
    }
    missing: list[dict[str, str]] = []
    with engine(place, answers):
        client = connect(place, missing)
        for wanted in ("app", NETWORK["Id"], "7h6828w6y7"):
            assert [row["name"] for row in _docker.read_networks(client, [str(wanted)])] == ["app"]
            assert len(_docker.read_containers(client, [str(wanted)])) == 1
        assert [row["name"] for row in _docker.read_networks(client, ["other"])] == ["other"]
        assert _docker.read_networks(client, ["7h6828"]) == []
        assert _docker.read_containers(client, ["other"]) == []
        client.close()


def test_a_manager_without_quorum_says_so_and_the_rest_is_read(place: str) -> None:
    refusal = (503, {"message": "The swarm does not have a leader. It's possible that too few managers are online."})
    answers = {"/info": dict(INFO, Swarm=SWARM), "/nodes": refusal, "/services": refusal, "/tasks": refusal}
    missing: list[dict[str, str]] = []
    with engine(place, answers):
        client = connect(place, missing)
        swarm = _docker.read_swarm(client, _docker.complete_engine(dict(_docker.EMPTY_ENGINE), client))
        assert _docker.read_networks(client, []) == []
        client.close()
    assert (swarm["state"], swarm["nodes"]) == ("active", [])
    assert [note["what"] for note in missing] == ["nodes", "services", "tasks"]
    assert "does not have a leader" in missing[0]["why"]


def test_an_engine_that_hangs_is_asked_twice_at_most(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_docker, "CALL_SECONDS", 0.3)
    hanging = dict.fromkeys(("/nodes", "/services", "/tasks", "/networks", "/containers/json"), HANG)
    missing: list[dict[str, str]] = []
    started = time.monotonic()
    with engine(place, {"/info": dict(INFO, Swarm=SWARM), **hanging}) as asked:
        client = connect(place, missing)
        _docker.read_swarm(client, _docker.complete_engine(dict(_docker.EMPTY_ENGINE), client))
        _docker.read_networks(client, [])
        _docker.read_containers(client, [])
        client.close()
        assert time.monotonic() - started < 3
        assert [path for path in asked if path in hanging] == ["/nodes", "/services"]
    assert "did not answer twice" in missing[-1]["why"]


def test_an_engine_that_hangs_from_the_beginning_is_an_error(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_docker, "FIRST_SECONDS", (0.1, 0.2))
    missing: list[dict[str, str]] = []
    with engine(place, {"/version": HANG}) as asked:
        client = connect(place, missing)
    assert client.client is None
    assert client.silent
    assert client.error == "no answer within 0.3 s"
    assert asked == ["/version", "/version"]
    assert [row["why"] for row in missing] == ["no answer within 0.3 s"]


def test_nothing_is_asked_when_the_time_is_over(place: str) -> None:
    missing: list[dict[str, str]] = []
    with engine(place, {}) as asked:
        client = connect(place, missing, seconds=0)
        before = list(asked)
        assert _docker.read_containers(client, []) == []
        assert list(asked) == before
        client.close()
    assert "out of time" in missing[-1]["why"]


def test_what_the_engine_wrote_down_about_its_swarm(tmp_path: Path) -> None:
    (tmp_path / "swarm").mkdir()
    assert _docker.swarm_on_disk(str(tmp_path)) == {}
    state = {"LocalAddr": "192.0.2.11", "AdvertiseAddr": "192.0.2.21:2377", "DataPathAddr": "", "DataPathPort": 7789}
    (tmp_path / "swarm" / "docker-state.json").write_text(json.dumps(state), encoding="ascii")
    expected = {"node_addr": "192.0.2.21", "data_path_addr": None, "data_path_port": 7789, "managers": []}
    assert _docker.swarm_on_disk(str(tmp_path)) == expected
    managers = [{"node_id": "igt3bct6twlph0chekyiz1qmr", "addr": "192.0.2.11:2377", "weight": 1}, "broken"]
    (tmp_path / "swarm" / "state.json").write_text(json.dumps(managers), encoding="ascii")
    manager = {"node_id": "igt3bct6twlph0chekyiz1qmr", "addr": "192.0.2.11:2377"}
    assert _docker.swarm_on_disk(str(tmp_path))["managers"] == [manager]


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("192.0.2.11:2377", "192.0.2.11"),
        ("192.0.2.11", "192.0.2.11"),
        ("[2001:db8::1]:2377", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("", None),
        (None, None),
    ],
)
def test_the_address_without_its_port(text: str | None, host: str | None) -> None:
    assert _docker._host(text) == host


def test_a_container_without_a_resolver_configuration_is_noted(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(root: str, path: str) -> str:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(_docker, "read_below", refuse)
    dns: dict[str, Any] = {"nameservers": [], "upstreams": [], "mounted": False}
    row = {"pid": os.getpid(), "name": "app", "id": "x", "netns": None, "dns": dns, "endpoints": []}
    missing: list[dict[str, str]] = []
    _docker._complete_container(row, missing)
    assert missing[0]["what"] == "resolv.conf of container app"
    assert row["netns"] is not None


def test_the_resolver_of_a_container_is_completed_from_its_own_files(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"resolv.conf": "nameserver 127.0.0.11\n", "mountinfo": ""}
    monkeypatch.setattr(_docker, "read_below", lambda root, path: texts["resolv.conf"])
    monkeypatch.setattr(_docker, "read_text", lambda path: texts["mountinfo"])

    def read(fallback: list[str]) -> dict[str, Any]:
        row = _docker.container_row(LISTED, dict(INSPECTED, State={"Status": "running", "Pid": os.getpid()}))
        _docker._complete_container(row, [], fallback)
        found: dict[str, Any] = row["dns"]
        return found

    expected = {
        "nameservers": ["127.0.0.11"],
        "search": [],
        "options": [],
        "upstreams": ["192.0.2.1"],
        "mounted": False,
    }
    assert read(["192.0.2.1"]) == expected
    texts["mountinfo"] = "753 736 0:148 /srv/resolv.conf /etc/resolv.conf rw - ext4 /dev/vda rw"
    texts["resolv.conf"] = "nameserver 192.0.2.9\n"
    assert read(["192.0.2.1"]) == {**expected, "nameservers": ["192.0.2.9"], "mounted": True}


def test_the_daemons_own_name_servers_are_those_behind_its_embedded_one(place: str) -> None:
    answers = {
        "/containers/json": [LISTED],
        "/containers/27de117c/json": dict(INSPECTED, State={"Status": "running", "Pid": os.getpid()}),
    }
    missing: list[dict[str, str]] = []
    with engine(place, answers):
        client = connect(place, missing)
        rows = _docker.read_containers(client, [], ["192.0.2.53"])
        client.close()
    assert rows[0]["dns"]["upstreams"] == ["192.0.2.53"]


def test_the_command_line_and_its_store_are_read(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_docker, "read_daemon_flags", lambda pid: {"mtu": 1400} if pid else {})
    (tmp_path / "pid").write_text(str(os.getpid()), encoding="ascii")
    facts, _path = _docker.read_engine([])
    assert (facts["daemon_flags"], facts["kv"]) == ({"mtu": 1400}, None)
    store = {"cluster-store": "etcd://192.0.2.1:2379", "data-root": "/srv/docker"}
    (tmp_path / "daemon.json").write_text(json.dumps(store), encoding="ascii")
    facts, _path = _docker.read_engine([])
    assert facts["kv"] == {"url": "etcd://192.0.2.1:2379", "endpoints": ["192.0.2.1:2379"]}
    assert _docker.configured_root(facts) == "/srv/docker"
    assert _docker.configured_root(dict(facts, daemon_flags={"data-root": "/x"})) == "/x"
    assert _docker.configured_root(dict(facts, daemon_config={"data-root": 5})) is None
    assert _docker.node_certificate("/x") == "/x/swarm/certificates/swarm-node.crt"

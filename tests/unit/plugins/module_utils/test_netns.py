# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _netns
from tests.unit.descriptors import nothing_left_open
from tests.unit.plugins.module_utils.namespace import namespace, needs_root

MOUNTINFO = """\
24 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw
414 451 0:4 net:[4026534169] /run/docker/netns/ingress_sbox rw - nsfs nsfs rw
420 451 0:4 net:[4026534518] /run/netns/with\\040space rw shared:7 - nsfs nsfs rw
421 451 0:4 mnt:[4026534519] /run/snapd/ns/lxd.mnt rw - nsfs nsfs rw
422 451 0:4 net:[4026534863] /run/docker/netns/gone//deleted rw - nsfs nsfs rw
"""


@pytest.mark.parametrize(
    ("name", "directory", "expected"),
    [
        ("1-7h6828w6y7", _netns.DOCKER_DIR, ("overlay", "7h6828w6y7")),
        ("12-hc7uktotsr", _netns.DOCKER_DIR, ("overlay", "hc7uktotsr")),
        ("lb_7h6828w6y", _netns.DOCKER_DIR, ("lb", "7h6828w6y")),
        ("ingress_sbox", _netns.DOCKER_DIR, ("ingress", None)),
        ("6a7be624bfc0", _netns.DOCKER_DIR, ("container", None)),
        ("default", _netns.DOCKER_DIR, ("other", None)),
        ("cni-6a7be624-bfc0", _netns.NAMED_DIR, ("container", None)),
        ("ingress_sbox", _netns.NAMED_DIR, ("other", None)),
    ],
)
def test_the_name_tells_the_kind(name: str, directory: str, expected: tuple[str, str]) -> None:
    assert _netns.classify(name, directory) == expected


@given(st.text(max_size=40))
def test_any_name_has_a_kind(name: str) -> None:
    assert _netns.classify(name)[0] in ("overlay", "ingress", "lb", "container", "other")


def test_mount_points_of_network_namespaces_are_found_wherever_they_are() -> None:
    assert _netns._bind_mounts(MOUNTINFO) == [
        "/run/docker/netns/ingress_sbox",
        "/run/netns/with space",
        "/run/docker/netns/gone//deleted",
    ]


@given(st.text())
def test_any_text_is_a_mountinfo(text: str) -> None:
    assert isinstance(_netns._bind_mounts(text), list)


def test_a_container_is_known_by_its_control_group(tmp_path: Path) -> None:
    identifier = "27de117cd2be09306944b2bd3a8460f025159e5f0de18e9d3a17d9a8563753b6"
    for number, line in enumerate((f"0::/system.slice/docker-{identifier}.scope", f"8:pids:/docker/{identifier}")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "cgroup").write_text(line + "\n", encoding="ascii")
        assert _netns.container_id(number, str(tmp_path)) == identifier
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text(f"0::/user.slice/{identifier}{identifier}\n", encoding="ascii")
    assert _netns.container_id(7, str(tmp_path)) is None
    assert _netns.container_id(8, str(tmp_path)) is None


def test_the_own_namespace_is_first_and_the_host() -> None:
    found, _missing = _netns.enumerate_namespaces()
    assert found[0].kind == "host"
    assert found[0].key == str(os.stat("/proc/self/ns/net").st_ino)
    assert len({namespace.key for namespace in found}) == len(found)


def test_a_path_that_vanished_is_not_created(tmp_path: Path) -> None:
    path = tmp_path / "vanished"
    with pytest.raises(FileNotFoundError), _netns.inside(str(path)):
        pytest.fail("entered")
    assert not path.exists()


def test_a_file_that_is_no_namespace_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stale"
    path.touch()
    with pytest.raises(OSError, match="is not a network namespace"):
        _netns.open_namespace(str(path))
    with pytest.raises(OSError, match="is not a network namespace"):
        _netns.open_namespace("/proc/self/ns/mnt")


def test_a_pipe_in_the_place_of_a_namespace_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is not a network namespace"):
        _netns.open_namespace(str(tmp_path / "pipe"))


def test_a_stale_file_becomes_a_record_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "docker" / "netns"
    directory.mkdir(parents=True)
    (directory / "1-7h6828w6y7").touch()
    (directory / "lb_7h6828w6y").symlink_to("nowhere")
    monkeypatch.setattr(_netns, "DOCKER_DIR", str(directory))
    monkeypatch.setattr(_netns, "_daemon_root", lambda proc: None)
    found = {namespace.path: namespace for namespace in _netns.enumerate_namespaces()[0]}
    stale, dangling = found[str(directory / "1-7h6828w6y7")], found[str(directory / "lb_7h6828w6y")]
    assert (stale.kind, stale.network_prefix) == ("overlay", "7h6828w6y7")
    assert "not a namespace" in (stale.error or "")
    assert dangling.error == "No such file or directory"


@needs_root
def test_a_named_namespace_is_found_entered_and_left() -> None:
    with namespace() as name:
        path = f"/run/netns/{name}"
        key = str(os.stat(path).st_ino)
        found = {one.key: one for one in _netns.enumerate_namespaces()[0]}
        assert (found[key].kind, found[key].path, found[key].error) == ("other", path, None)
        before = os.stat("/proc/thread-self/ns/net").st_ino
        with _netns.inside(path):
            assert str(os.stat("/proc/thread-self/ns/net").st_ino) == key
        assert os.stat("/proc/thread-self/ns/net").st_ino == before


@needs_root
def test_an_error_inside_still_leads_home_and_closes_every_descriptor() -> None:
    with namespace() as name:
        before = os.stat("/proc/thread-self/ns/net").st_ino
        with (
            nothing_left_open(),
            pytest.raises(ValueError, match="inside"),
            _netns.inside(f"/run/netns/{name}"),
        ):
            raise ValueError("inside")
        assert os.stat("/proc/thread-self/ns/net").st_ino == before


@needs_root
def test_no_way_back_is_not_an_ordinary_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with namespace() as name:
        entered: list[int] = []
        real = _netns.setns

        def setns(descriptor: int) -> None:
            entered.append(descriptor)
            if len(entered) == 2:
                real(descriptor)
                raise OSError(1, "Operation not permitted")
            real(descriptor)

        monkeypatch.setattr(_netns, "setns", setns)
        with pytest.raises(_netns.StrandedError), _netns.inside(f"/run/netns/{name}"):
            pass


@needs_root
def test_a_namespace_that_only_a_process_holds_is_found() -> None:
    code = "import sys; print('ready', flush=True); sys.stdin.read()"
    command = ["unshare", "--net", sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        key = str(os.stat(f"/proc/{process.pid}/ns/net").st_ino)
        found = {one.key: one for one in _netns.enumerate_namespaces()[0]}
        assert found[key].pid == process.pid
        process.communicate("")


@needs_root
def test_the_files_of_an_engine_with_private_mounts_are_opened_through_its_root(tmp_path: Path) -> None:
    with namespace() as name:
        (tmp_path / "stale").touch()
        target = tmp_path / "root" / str(tmp_path)[1:]
        target.mkdir(parents=True)
        (target / "stale").symlink_to(f"/run/netns/{name}")
        device = os.stat("/proc/self/ns/net").st_dev
        key, path, error = _netns._identify(str(tmp_path / "stale"), device, str(tmp_path / "root"))
        assert key == _netns.identity(f"/run/netns/{name}")
        assert path == str(target / "stale")
        assert error is None

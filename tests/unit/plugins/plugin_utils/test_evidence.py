# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which hosts evidence is kept of, and what becomes of what a host sends."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.plugin_utils import evidence
from ansible_collections.crosshost.doctor.plugins.plugin_utils.evidence import HostileArchiveError, pack, plan
from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder
from tests.unit import made_fleet

PLAYBOOK = str(Path(sys.executable).parent / "ansible-playbook")


def archive(*members: tuple[Any, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as made:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if info.type == tarfile.REGTYPE:
                info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_a_healthy_fleet_has_nothing_to_keep() -> None:
    assert plan(made_fleet.run_case(made_fleet.make_fleet(3))) == {}


def test_both_ends_of_what_is_broken_are_involved_and_nobody_else() -> None:
    def broken(pair: Any, _key: str) -> str | None:
        overlay = pair.kind == "overlay" and set(pair.hosts) == {"node1", "node2"}
        return "timeout" if overlay else None

    case = made_fleet.run_case(made_fleet.make_fleet(3), broken)
    found = plan(case)
    assert set(found) == {"node1", "node2"}
    for number, name in ((1, "node1"), (2, "node2")):
        wanted = {made_fleet.address(1), made_fleet.address(2)}
        assert wanted <= set(found[name]["addresses"])
        known = {ns["path"]: ns["key"] for ns in made_fleet.host_facts(number, 3)["namespaces"] if ns.get("path")}
        for row in found[name]["namespaces"]:
            assert known.get(row["path"]) == row["inode"]


def test_what_the_host_sent_and_what_the_run_has_are_in_one_archive(tmp_path: Path) -> None:
    folder = RunFolder.create(str(tmp_path / "run"), {"run_id": "x", "collection_version": "0"})
    folder.write_record("node1", "overlay_facts", "before", {"facts": {"schema": "1"}})
    folder.write_record("node2", "overlay_facts", "before", {"facts": {"schema": "1"}})
    folder.write("plan/first/node1.json", [{"probes": []}])
    folder.write("plan/first/node11.json", [])
    os.makedirs(folder.file("captures"))
    Path(folder.file("captures", "node1.pcapng")).write_bytes(b"frames")
    Path(folder.file("captures", "node11.pcapng")).write_bytes(b"others")
    path = folder.file("evidence", "node1.tar.gz")
    size = pack(folder, "node1", archive(("host/links.txt", b"1: lo")), path)
    assert size == os.path.getsize(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    with tarfile.open(path) as packed:
        assert sorted(packed.getnames()) == [
            "captures/node1.pcapng",
            "facts/overlay_facts-before.json",
            "host/links.txt",
            "plan/first/node1.json",
        ]
    assert [name for name in os.listdir(os.path.dirname(path)) if name.endswith(".part")] == []


def test_facts_lose_their_secrets_and_nothing_else() -> None:
    facts = {"filter": [{"text": "-m comment --comment password=hunter2hunter2 -j ACCEPT"}], "token": None, "auth": 5}
    kept = json.loads(evidence.without_secrets(json.dumps(facts).encode()))
    assert kept == {**facts, "filter": [{"text": "-m comment --comment password=*** -j ACCEPT"}]}
    plain = b'{"a": ["udp dport 4789 drop"]}\n'
    assert evidence.without_secrets(plain) is plain


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "host//x", "./x", "x" * 300])
def test_a_host_cannot_name_a_file_outside(tmp_path: Path, name: str) -> None:
    with pytest.raises(HostileArchiveError, match="no plain file"):
        pack(None, "h", archive((name, b"")), str(tmp_path / "a.tar.gz"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_a_host_sends_plain_files_only(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("host/x")
    info.type, info.linkname = kind, "/etc/shadow"
    with pytest.raises(HostileArchiveError, match="no plain file"):
        pack(None, "h", archive((info, b"")), str(tmp_path / "a.tar.gz"))


def test_a_host_cannot_send_a_compression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "EXPANDED", 1 << 20)
    with pytest.raises(HostileArchiveError, match="expands to more than"):
        pack(None, "h", gzip.compress(bytes(20 << 20)), str(tmp_path / "a.tar.gz"))
    assert list(tmp_path.iterdir()) == []


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=400).map(gzip.compress)))
def test_any_bytes_are_an_archive_or_refused(content: bytes) -> None:
    try:
        for name, _data in evidence.unpacked(content):
            assert ".." not in name
    except HostileArchiveError:
        pass


def test_alone_in_a_play_it_needs_no_run(tmp_path: Path) -> None:
    task = {"crosshost.doctor.evidence": {"dest": str(tmp_path / "kept" / "here.tar.gz")}}
    (tmp_path / "play.yml").write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": [task]}]))
    python = f"ansible_python_interpreter={sys.executable}"
    command = [PLAYBOOK, "-i", "localhost,", "-c", "local", "-e", python, str(tmp_path / "play.yml")]
    environment = {**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout
    result = json.loads(done.stdout)["plays"][0]["tasks"][0]["hosts"]["localhost"]
    assert "content" not in result
    assert result["changed"] is False
    assert result["bytes"] == os.path.getsize(tmp_path / "kept" / "here.tar.gz")
    with tarfile.open(result["archive"]) as packed:
        assert {row["name"] for row in result["members"]} | {"manifest.json"} == set(packed.getnames())

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A run folder of somebody else gives the same findings, and a hostile one gives a message and nothing else."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.action.diagnose import decided
from ansible_collections.crosshost.doctor.plugins.plugin_utils import replay
from ansible_collections.crosshost.doctor.plugins.plugin_utils.engine import diagnose
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.plan import first_round, schedule
from ansible_collections.crosshost.doctor.plugins.plugin_utils.replay import BundleError, take_over
from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder, RunFolderError
from tests.unit import made_fleet

RUN = {
    "run_id": "20261121-013000-5a1f9c",
    "collection_version": "0.1.0",
    "started_at": "2026-11-21T01:30:00Z",
    "hosts": {f"node{number}": {"underlay_ip": None} for number in (1, 2, 3)},
    "question": {},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run in which node2 was down, and which holds more than the engine reads."""
    folder = RunFolder.create(str(tmp_path / "run"), RUN)
    fleet = made_fleet.make_fleet(3)
    for number, host in enumerate(fleet.hosts.values(), 1):
        facts = made_fleet.host_facts(number, 3)
        if number == 2:
            facts["engine"] = {"state": "down", "error": "connection refused"}
        folder.write_record(host.name, "overlay_facts", "before", {"facts": facts})
    pairs = first_round(fleet)
    folder.write("plan/first/pairs.json", [pair.dump() for pair in pairs])
    for host, sources in schedule(fleet, pairs).items():
        folder.write(f"plan/first/{host}.json", sources)
    folder.write("report.json", {"verdict": "whatever was said then"})
    os.makedirs(tmp_path / "run" / "captures")
    (tmp_path / "run" / "captures" / "node1.pcapng").write_bytes(b"\x0a\x0d\x0d\x0a")
    return tmp_path / "run"


def packed(source: Path, target: Path, mode: str = "w:gz", name: str = "run") -> Path:
    with tarfile.open(target, mode) as archive:
        archive.add(source, name)
    return target


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def words(folder: str) -> list[str]:
    return [finding["id"] for finding in diagnose(RunFolder(folder))["findings"]]


@pytest.mark.parametrize("kind", ["folder", "tar.gz", "tar", "flat.tar.gz", "dotted.tar.gz"])
def test_a_replay_finds_the_same(run: Path, tmp_path: Path, kind: str) -> None:
    source = run
    if kind != "folder":
        name = {"flat.tar.gz": "", "dotted.tar.gz": "."}.get(kind, "crosshost-doctor-1")
        source = packed(run, tmp_path / f"bundle.{kind}", "w" if kind == "tar" else "w:gz", name)
    before = contents(run)
    found = take_over(str(source), str(tmp_path / "again"))
    assert words(found.path) == words(str(run))
    assert any("node2" in word for word in words(found.path))
    assert contents(run) == before
    taken = contents(tmp_path / "again")
    assert set(taken) == {name for name in before if not name.startswith("captures") and name != "report.json"}
    assert json.loads(taken["run.json"]) == {**RUN, "replayed_from": str(source)}
    assert stat.S_IMODE((tmp_path / "again").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "again" / "run.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("target", [".", "hosts", "again", ".."])
def test_the_evidence_is_never_written_into(run: Path, target: str) -> None:
    before = contents(run)
    with pytest.raises(BundleError, match="give another doctor_report_dir"):
        take_over(str(run), str(run / target))
    assert contents(run) == before


def test_a_linked_way_to_the_evidence_is_the_evidence(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    with pytest.raises(BundleError, match="give another doctor_report_dir"):
        take_over(str(run), str(tmp_path / "link"))


def test_a_folder_that_is_no_run_s_is_not_emptied(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.json").write_text('{"my": "own"}')
    with pytest.raises(RunFolderError, match="no run wrote"):
        take_over(str(run), str(tmp_path / "mine"))
    assert contents(tmp_path / "mine") == {"run.json": b'{"my": "own"}'}


def refused(source: Path, tmp_path: Path) -> str:
    target = tmp_path / "target"
    with pytest.raises(BundleError) as caught:
        take_over(str(source), str(target))
    left = contents(target) if target.exists() else {}
    assert left == {}, left
    return str(caught.value)


def archive(tmp_path: Path, *members: tuple[Any, bytes]) -> Path:
    """A tar.gz of (name or TarInfo, content) beside a whole run.json."""
    path = tmp_path / "hostile.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT) as made:
        for name, content in (("run/run.json", json.dumps(RUN).encode()), *members):
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if info.type == tarfile.REGTYPE:
                info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/cron.d/x",
        "run/../../x",
        "/etc/passwd",
        "run/hosts/../../../x/overlay_facts-before.json",
        "run/hosts/./overlay_facts-before.json",
        "run\\..\\x",
        "run//hosts/x",
        "./../x",
    ],
)
def test_a_path_that_climbs_is_refused(tmp_path: Path, name: str) -> None:
    assert "outside of its folder" in refused(archive(tmp_path, (name, b"{}")), tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_an_archive_are_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("run/hosts/node1/overlay_facts-before.json")
    info.type, info.linkname = kind, "/etc/shadow"
    assert "neither a plain file nor a folder" in refused(archive(tmp_path, (info, b"")), tmp_path)


@pytest.mark.parametrize("place", ["run.json", "hosts", "hosts/node1", "hosts/node1/overlay_facts-before.json", "plan"])
def test_links_in_a_folder_are_refused(run: Path, tmp_path: Path, place: str) -> None:
    (run / place).rename(tmp_path / "elsewhere")
    (run / place).symlink_to(tmp_path / "elsewhere")
    assert "neither a plain file nor a folder" in refused(run, tmp_path)


def test_a_pipe_in_a_folder_is_refused_and_does_not_wait(run: Path, tmp_path: Path) -> None:
    os.mkfifo(run / "hosts" / "node1" / "path_probe-first.json")
    assert "neither a plain file nor a folder" in refused(run, tmp_path)


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [("MAX_FILE", 500, "a record has at most 500"), ("MAX_TOTAL", 900, "900 bytes"), ("MAX_FILES", 3, "more than 3")],
)
def test_what_is_too_large_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, words: str
) -> None:
    monkeypatch.setattr(replay, limit, value)
    assert words in refused(run, tmp_path)
    bundle = packed(run, tmp_path / "bundle.tar.gz")
    message = refused(bundle, tmp_path)
    assert words in message or "expands to more than 1800" in message or "more than 12 members" in message


def test_a_compression_bomb_ends_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MAX_TOTAL", 10 << 20)
    path = tmp_path / "bomb.tar.gz"
    with gzip.open(path, "wb", compresslevel=9) as stream:
        for _number in range(64):
            stream.write(bytes(1 << 20))
    assert path.stat().st_size < 100_000
    assert "expands to more than" in refused(path, tmp_path)


def test_a_forged_header_cannot_ask_for_gigabytes(tmp_path: Path) -> None:
    info = tarfile.TarInfo("./PaxHeaders/x")
    info.type, info.size = tarfile.XHDTYPE, 3 << 30
    path = tmp_path / "forged.tar"
    path.write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + bytes(10240))
    assert "header of more than 64 MiB" in refused(path, tmp_path)


def test_a_sparse_member_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("run/hosts/node1/overlay_facts-before.json")
    info.type = tarfile.GNUTYPE_SPARSE
    message = refused(archive(tmp_path, (info, b"")), tmp_path)
    assert "neither a plain file" in message or "not a tar archive" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"run_id": 7}, "run_id is not a short text"),
        ({"run_id": "x\x1b[31m"}, "run_id is not a short text"),
        ({"hosts": ["node1"]}, "hosts or question is not a table"),
        ({"hosts": {"node1": 5}}, "is not a host"),
        ({"hosts": {"no\nde": {}}}, "is not a host"),
        ({"question": "who"}, "hosts or question is not a table"),
    ],
)
def test_a_run_json_of_another_shape_is_refused(run: Path, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    (run / "run.json").write_text(json.dumps({**RUN, **change}))
    assert words in refused(run, tmp_path)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b"[]", "not the record of a module"),
        (b'{"facts": []}', "not the record of a module"),
        (b'{"error": 5}', "the error is not a text"),
        (b'{"facts": {"schema": "2"}}', "has schema '2'"),
        (b'{"facts": {"schema": "1", "namespaces": {}}}', "namespaces is not a list"),
        (b'{"facts": {"schema": "1", "namespaces": [7]}}', "namespaces is not a list of tables"),
        (b'{"facts": {"schema": "1", "engine": []}}', "engine is not a dict"),
        (b"{", "is not JSON"),
        (b'{"facts": NaN}', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
    ],
)
def test_a_record_of_another_shape_is_refused(run: Path, tmp_path: Path, record: bytes, words: str) -> None:
    (run / "hosts" / "node3" / "overlay_facts-before.json").write_bytes(record)
    assert words in refused(run, tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"\x1f\x8b" + b"x" * 600, b"x" * 2000, b"PK\x03\x04" * 200])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    refused(tmp_path / "file", tmp_path)


def test_an_archive_cut_short_is_refused(run: Path, tmp_path: Path) -> None:
    bundle = packed(run, tmp_path / "bundle.tar.gz")
    bundle.write_bytes(bundle.read_bytes()[:-200])
    assert "damaged" in refused(bundle, tmp_path)


def test_nothing_and_something_else_are_told_apart(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "absent", tmp_path)
    (tmp_path / "empty").mkdir()
    assert "holds no run" in refused(tmp_path / "empty", tmp_path)
    assert "neither a folder nor a file" in refused(Path("/dev/null"), tmp_path)


def test_two_runs_in_one_archive_are_refused(run: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "two.tar", "w") as made:
        made.add(run, "one")
        made.add(run, "two")
    assert "more than one run" in refused(tmp_path / "two.tar", tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 40_000), change=st.binary(min_size=1, max_size=30))
def test_a_damaged_archive_is_taken_or_refused_and_never_more(
    run: Path, tmp_path: Path, place: int, change: bytes
) -> None:
    data = bytearray(packed(run, tmp_path / "bundle.tar", "w").read_bytes())
    place %= len(data)
    data[place : place + len(change)] = change
    (tmp_path / "damaged.tar").write_bytes(data)
    outside = contents(tmp_path / "run")
    try:
        take_over(str(tmp_path / "damaged.tar"), str(tmp_path / "target"))
    except RunFolderError:
        pass
    assert contents(tmp_path / "run") == outside
    assert {path.name for path in tmp_path.iterdir()} <= {"run", "bundle.tar", "damaged.tar", "target"}


def test_facts_that_make_no_sense_end_in_one_sentence(run: Path, tmp_path: Path) -> None:
    path = run / "hosts" / "node1" / "overlay_facts-before.json"
    record = json.loads(path.read_text())
    record["facts"]["namespaces"][0]["links"] = 5
    path.write_text(json.dumps(record))
    folder = take_over(str(run), str(tmp_path / "again"))
    with pytest.raises(RunFolderError, match=f"doctor_replay: the facts in {run} make no sense: TypeError"):
        decided(folder, folder.read("run.json"))
    with pytest.raises(TypeError):  # of our own modules' facts it would be a defect
        decided(RunFolder(str(run)), RUN)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The folder of a run on a host: made safely, shared by nobody, cleared away by the next run."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _host_folder
from ansible_collections.crosshost.doctor.plugins.module_utils._host_folder import FolderError, HostFolder

OWNER = {"controller": "here", "pid": 1, "start": 1}
LIFETIME = 3600.0
NOW = 1_800_000_000.0


@pytest.fixture(name="base")
def base_folder(tmp_path: Path) -> Path:
    return tmp_path / "base"


def claimed(base: Path, run_id: str = "mine", owner: dict[str, Any] | None = None, now: float = NOW) -> HostFolder:
    folder = HostFolder(str(base), run_id)
    with folder.alone():
        folder.claim(OWNER if owner is None else owner, LIFETIME, now)
    return folder


def zipped(members: dict[str, bytes]) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue(), hashlib.sha256(buffer.getvalue()).hexdigest()


def mode(path: Path | str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


class TestClaim:
    def test_makes_private_folders(self, base: Path) -> None:
        old = os.umask(0)
        try:
            folder = HostFolder(str(base), "mine")
            with folder.alone():
                assert folder.claim(OWNER, LIFETIME, NOW) is True
        finally:
            os.umask(old)
        assert (mode(base), mode(folder.path), mode(f"{folder.path}/run.json")) == (0o700, 0o700, 0o600)
        record = json.loads(Path(folder.path, "run.json").read_text())
        assert record == {"run_id": "mine", "created": NOW, "deadline": NOW + LIFETIME, "owner": OWNER}

    def test_again_takes_up_the_same_folder(self, base: Path) -> None:
        folder = claimed(base)
        Path(folder.path, "kept").touch()
        before = os.stat(f"{folder.path}/run.json")
        assert folder.claim(OWNER, LIFETIME, NOW + 10) is False
        assert Path(folder.path, "kept").exists()
        assert os.stat(f"{folder.path}/run.json").st_mtime_ns == before.st_mtime_ns

    def test_a_long_run_puts_its_deadline_off(self, base: Path) -> None:
        folder = claimed(base)
        folder.claim(OWNER, LIFETIME, NOW + 3000)
        record = json.loads(Path(folder.path, "run.json").read_text())
        assert (record["created"], record["deadline"]) == (NOW, NOW + 3000 + LIFETIME)

    @pytest.mark.parametrize("run_id", ["", ".", "..", "../x", "a/b", "/etc", "-x", ".hidden", "a b", "a\n", "x" * 101])
    def test_refuses_what_is_no_name(self, base: Path, run_id: str) -> None:
        with pytest.raises(FolderError, match="is not a run id"):
            HostFolder(str(base), run_id)

    @given(st.text(max_size=120))
    def test_no_run_id_leads_out_of_the_base(self, run_id: str) -> None:
        try:
            folder = HostFolder("/base", run_id)
        except FolderError:
            return
        assert os.path.dirname(os.path.normpath(folder.path)) == "/base"

    def test_refuses_a_symbolic_link_in_place_of_the_base(self, base: Path, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        base.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(FolderError, match="is not a directory"):
            claimed(base)
        assert not list((tmp_path / "elsewhere").iterdir())

    def test_refuses_a_symbolic_link_in_place_of_the_folder(self, base: Path, tmp_path: Path) -> None:
        base.mkdir(mode=0o700)
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        (base / "mine").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(FolderError, match="is not a directory"):
            claimed(base)

    def test_refuses_a_base_that_others_may_write_to(self, base: Path) -> None:
        base.mkdir()
        base.chmod(0o770)
        with pytest.raises(FolderError, match="mode 0770; it must"):
            claimed(base)

    @pytest.mark.root
    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a folder away")
    def test_refuses_a_base_of_somebody_else(self, base: Path) -> None:
        base.mkdir(mode=0o700)
        os.chown(base, 65534, 65534)
        with pytest.raises(FolderError, match="belongs to user 65534"):
            claimed(base)

    def test_says_why_it_could_not_be_made(self) -> None:
        with pytest.raises(FolderError, match="cannot be made"):
            claimed(Path("/proc/nowhere"))

    @pytest.mark.root
    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
    def test_users_have_folders_of_their_own(self) -> None:
        assert _host_folder.default_base() == "/run/crosshost.doctor"
        os.seteuid(65534)
        try:
            assert _host_folder.default_base().endswith("/crosshost.doctor-65534")
        finally:
            os.seteuid(0)

    def test_a_base_that_is_held_for_good_says_so(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_host_folder, "LOCK_SECONDS", 0.2)
        with HostFolder(str(base), "other").alone(), pytest.raises(FolderError, match="Another run has held"):
            claimed(base)


class TestOthers:
    def clear(self, base: Path, dead: list[str] | None = None, now: float = NOW) -> _host_folder.Others:
        return claimed(base, now=now).clear_others(dead or [], "here", LIFETIME, now)

    def test_an_expired_run_is_removed(self, base: Path) -> None:
        claimed(base, "old", now=NOW - LIFETIME - 1)
        assert self.clear(base).removed == ["old"]
        assert sorted(os.listdir(base)) == ["mine"]

    def test_a_run_of_another_controller_is_kept_until_its_deadline(self, base: Path) -> None:
        claimed(base, "theirs", {"controller": "there", "pid": 1, "start": 1}, now=NOW - LIFETIME + 1)
        others = self.clear(base)
        assert (others.removed, others.unsure) == ([], [])
        assert self.clear(base, now=NOW + 2).removed == ["theirs"]

    def test_an_unexpired_run_of_the_same_controller_is_asked_about(self, base: Path) -> None:
        claimed(base, "ours")
        others = self.clear(base)
        assert (others.removed, others.unsure) == ([], [{"run_id": "ours", "owner": OWNER}])

    def test_a_dead_run_is_removed_before_its_deadline(self, base: Path) -> None:
        claimed(base, "dead")
        claimed(base, "alive")
        others = self.clear(base, dead=["dead"])
        assert (others.removed, [run["run_id"] for run in others.unsure]) == (["dead"], ["alive"])

    @pytest.mark.parametrize("lock", ["lock", "taps/7/lock"])
    def test_a_run_that_a_process_holds_is_kept_whatever_else_is_true(self, base: Path, lock: str) -> None:
        folder = claimed(base, "held", now=NOW - 10 * LIFETIME)
        path = Path(folder.path, lock)
        path.parent.mkdir(parents=True, exist_ok=True)
        program = """if True:
            import fcntl, sys, time
            stream = open(sys.argv[1], "w")
            fcntl.flock(stream, fcntl.LOCK_SH)
            print("held", flush=True)
            time.sleep(60)
        """
        process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.readline()
        try:
            assert self.clear(base, dead=["held"]).removed == []
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        assert self.clear(base).removed == ["held"]

    @pytest.mark.parametrize("record", [None, "", "{", "[]", '{"created": "x", "deadline": null}'])
    def test_without_a_readable_record_the_age_of_the_folder_decides(self, base: Path, record: str | None) -> None:
        claimed(base)
        (base / "odd").mkdir()
        if record is not None:
            (base / "odd" / "run.json").write_text(record)
        now = time.time()
        assert self.clear(base, now=now).removed == []
        os.utime(base / "odd", (now - LIFETIME - 1,) * 2)
        assert self.clear(base, now=now).removed == ["odd"]

    def test_a_folder_from_the_future_is_of_a_clock_set_back(self, base: Path) -> None:
        claimed(base, "future", now=NOW + 86400)
        assert self.clear(base).removed == ["future"]

    def test_half_removed_folders_are_removed_without_being_named(self, base: Path) -> None:
        claimed(base)
        (base / ".removing-x" / "it").mkdir(parents=True)
        (base / ".removing-x" / "it" / "file").touch()
        assert self.clear(base).removed == []
        assert os.listdir(base) == ["mine"]

    def test_what_is_no_folder_is_left_alone(self, base: Path) -> None:
        claimed(base)
        (base / "note").touch()
        (base / "link").symlink_to("/etc")
        os.mkfifo(base / "pipe")
        assert self.clear(base, dead=["note", "link", "pipe"]).removed == []
        assert sorted(os.listdir(base)) == ["link", "mine", "note", "pipe"]
        assert os.path.isdir("/etc")

    def test_a_pipe_in_a_folder_does_not_stop_it(self, base: Path) -> None:
        folder = claimed(base, "old", now=NOW - 2 * LIFETIME)
        os.mkfifo(os.path.join(folder.path, "pipe"))
        assert self.clear(base).removed == ["old"]


class TestExtract:
    MEMBERS: ClassVar[dict[str, bytes]] = {
        "docker/__init__.py": b"x = 1\n",
        "docker-7.2.0.dist-info/METADATA": b"",
        "pyroute2/a/b.py": b"",
    }

    def test_extracts_once(self, base: Path) -> None:
        folder = claimed(base)
        content, digest = zipped(self.MEMBERS)
        assert folder.library_path() is None
        assert folder.extract(content, digest) is True
        assert folder.library_path() == f"{folder.path}/lib"
        assert Path(folder.path, "lib/docker/__init__.py").read_bytes() == b"x = 1\n"
        assert mode(f"{folder.path}/lib/docker/__init__.py") == 0o600
        before = os.stat(f"{folder.path}/lib")
        assert folder.extract(content, digest) is False
        assert os.stat(f"{folder.path}/lib") == before
        assert sorted(os.listdir(folder.path)) == ["lib", "run.json"]

    def test_another_bundle_takes_the_place_of_the_first(self, base: Path) -> None:
        folder = claimed(base)
        folder.extract(*zipped(self.MEMBERS))
        assert folder.extract(*zipped({"only.py": b""})) is True
        assert sorted(os.listdir(f"{folder.path}/lib")) == [".bundle-sha256", "only.py"]
        assert sorted(os.listdir(folder.path)) == ["lib", "run.json"]

    def test_a_damaged_bundle_is_refused(self, base: Path) -> None:
        folder = claimed(base)
        content, digest = zipped(self.MEMBERS)
        with pytest.raises(FolderError, match="checksum"):
            folder.extract(content[:-1] + b"?", digest)
        assert os.listdir(folder.path) == ["run.json"]

    @pytest.mark.parametrize("content", [b"", b"no zip", zipped({"a": b"b"})[0][:-30]], ids=["empty", "text", "torn"])
    def test_what_is_no_zip_is_refused(self, base: Path, content: bytes) -> None:
        folder = claimed(base)
        with pytest.raises(FolderError, match="cannot be extracted"):
            folder.extract(content, hashlib.sha256(content).hexdigest())
        assert os.listdir(folder.path) == ["run.json"]

    @pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "a\\out", "a//out", "./out", "..", "a/./b"])
    def test_a_name_that_leads_out_is_refused_before_anything_is_written(self, base: Path, name: str) -> None:
        folder = claimed(base)
        content, digest = zipped({"first.py": b"", name: b"evil"})
        with pytest.raises(FolderError, match="no plain file"):
            folder.extract(content, digest)
        assert os.listdir(folder.path) == ["run.json"]
        assert os.listdir(base) == ["mine"]

    @given(st.lists(st.sampled_from(["..", ".", "", "a", "b.py", "/", "\\", "lib"]), min_size=1, max_size=6))
    def test_no_name_writes_outside_of_the_folder(
        self, tmp_path_factory: pytest.TempPathFactory, parts: list[str]
    ) -> None:
        root = tmp_path_factory.mktemp("zip")
        (root / "in").mkdir()
        try:
            _host_folder.unpack(zipped({"/".join(parts) or "x": b""})[0], str(root / "in"))
        except FolderError:
            pass
        assert os.listdir(root) == ["in"]

    def test_a_symbolic_link_in_the_zip_is_refused(self, base: Path) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            info = zipfile.ZipInfo("link")
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc")
        content = buffer.getvalue()
        with pytest.raises(FolderError, match="no plain file"):
            claimed(base).extract(content, hashlib.sha256(content).hexdigest())

    def test_a_bomb_is_refused(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_host_folder, "MAX_BYTES", 1000)
        with pytest.raises(FolderError, match="more than"):
            claimed(base).extract(*zipped({"big": bytes(1001)}))

    def test_versions_are_read_from_the_metadata(self, base: Path) -> None:
        folder = claimed(base)
        folder.extract(*zipped(self.MEMBERS))
        found = _host_folder.versions(f"{folder.path}/lib", ("docker", "pyroute2"))
        assert found == {"docker": "7.2.0", "pyroute2": None}


class TestRemove:
    def test_leaves_nothing(self, base: Path) -> None:
        folder = claimed(base)
        folder.extract(*zipped({"a/b/c.py": b""}))
        assert folder.remove() is True
        assert not base.exists()
        assert folder.remove() is False

    def test_leaves_the_runs_of_others(self, base: Path) -> None:
        claimed(base, "theirs")
        assert claimed(base).remove() is True
        assert os.listdir(base) == ["theirs"]

    def test_does_not_follow_links_out(self, base: Path, tmp_path: Path) -> None:
        (tmp_path / "precious").mkdir()
        (tmp_path / "precious" / "file").touch()
        folder = claimed(base)
        os.symlink(tmp_path / "precious", os.path.join(folder.path, "link"))
        folder.remove()
        assert (tmp_path / "precious" / "file").exists()

    def test_a_foreign_base_is_not_touched(self, base: Path) -> None:
        base.mkdir()
        base.chmod(0o777)
        (base / "mine").mkdir()
        with pytest.raises(FolderError, match="it must belong"):
            HostFolder(str(base), "mine").remove()
        assert (base / "mine").exists()


@pytest.mark.slow
def test_runs_that_come_and_go_do_not_disturb_each_other(base: Path) -> None:
    """The last run to leave removes the base while the next one makes its folder in it."""
    program = """if True:
        import sys, time
        from ansible_collections.crosshost.doctor.plugins.module_utils._host_folder import HostFolder
        for turn in range(200):
            folder = HostFolder(sys.argv[1], f"{sys.argv[2]}-{turn}")
            with folder.alone():
                assert folder.claim({"controller": sys.argv[2]}, 3600, time.time())
                folder.clear_others([], sys.argv[2], 3600, time.time())
            assert folder.remove()
    """
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(base), name], stderr=subprocess.PIPE, text=True)
        for name in ("a", "b", "c")
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], "\n".join(errors)
    assert not base.exists()

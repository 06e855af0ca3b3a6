# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What was noted is undone, byte for byte, whatever happened in between; and a guard does it when nobody comes."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _guard, _journal
from ansible_collections.crosshost.doctor.plugins.module_utils._guard import Guard, GuardError
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal, JournalError


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal("change", str(tmp_path / "state" / "journal"))


def picture(folder: Path) -> dict[str, tuple[str, int, bytes | str, int]]:
    """Everything below a folder: kind, mode, content, time of change."""
    found: dict[str, tuple[str, int, bytes | str, int]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        if path.is_symlink():
            found[str(path)] = ("link", 0, str(path.readlink()), 0)
        elif path.is_dir():
            found[str(path)] = ("folder", stat.S_IMODE(status.st_mode), b"", 0)
        else:
            found[str(path)] = ("file", stat.S_IMODE(status.st_mode), path.read_bytes(), status.st_mtime_ns)
    return found


def test_files_come_back_byte_for_byte(tmp_path: Path, journal: Journal):
    place = tmp_path / "etc"
    place.mkdir()
    (place / "kept").write_bytes(bytes(range(256)))
    (place / "kept").chmod(0o640)
    (place / "link").symlink_to("kept")
    before = picture(place)
    for name in ("kept", "link", "new", "made/for/it"):
        journal.file(str(place / name))
    (place / "kept").write_text("changed")
    (place / "kept").chmod(0o600)
    (place / "link").unlink()
    (place / "link").write_text("no link any more")
    (place / "new").write_text("new")
    (place / "made" / "for").mkdir(parents=True)
    (place / "made" / "for" / "it").write_text("new")
    assert [row["error"] for row in journal.roll_back()] == [None] * 4
    assert picture(place) == before
    assert not (tmp_path / "state").exists()  # nothing is left of the journal either


@given(st.binary(max_size=2000), st.binary(max_size=2000))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, old: bytes, new: bytes):
    folder = tmp_path_factory.mktemp("bytes")
    journal = Journal("change", str(folder / "journal"))
    (folder / "file").write_bytes(old)
    journal.file(str(folder / "file"))
    journal.file(str(folder / "file"))  # noted twice: the older state wins
    (folder / "file").write_bytes(new)
    journal.roll_back()
    assert (folder / "file").read_bytes() == old


def test_the_newest_change_is_undone_first(tmp_path: Path, journal: Journal):
    target = str(tmp_path / "order")
    for word in ("first", "second", "third"):
        journal.command(["tee", "-a", target], input=f"{word} ")
    journal.roll_back()
    assert Path(target).read_text() == "third second first "


def test_a_change_that_was_noted_and_never_made_does_no_harm(tmp_path: Path, journal: Journal):
    (tmp_path / "file").write_text("same")
    before = picture(tmp_path / "file")
    journal.file(str(tmp_path / "file"))
    journal.command(["false"], tolerate=True)
    assert [row["error"] for row in journal.roll_back()] == [None, None]
    assert picture(tmp_path / "file") == before


def test_what_cannot_be_undone_stays_noted(journal: Journal):
    journal.command(["false"])
    journal.command(["true"])
    assert [bool(row["error"]) for row in journal.roll_back()] == [False, True]
    assert [entry["argv"] for entry in journal.entries()] == [["false"]]


def test_a_program_that_is_not_there_is_an_error_not_a_traceback(journal: Journal):
    journal.command(["no-such-program-here"])
    assert "is not on this host" in journal.roll_back()[0]["error"]


def test_words_never_reach_a_shell(tmp_path: Path, journal: Journal):
    journal.command(["echo", f"; touch {tmp_path}/pwned", f"$(touch {tmp_path}/pwned)"])
    journal.roll_back()
    assert not (tmp_path / "pwned").exists()


def test_a_torn_last_line_is_of_a_change_that_was_never_made(journal: Journal):
    journal.command(["true"])
    with open(journal.path, "a") as stream:
        stream.write('{"kind": "command", "argv": ["fal')
    assert len(journal.entries()) == 1


def test_the_empty_name_notes_nothing(tmp_path: Path):
    silent = Journal("", str(tmp_path / "journal"))
    silent.file("/etc/hostname")
    silent.command(["true"])
    assert not (tmp_path / "journal").exists()


def test_only_root_reads_a_journal(journal: Journal):
    journal.command(["true"])
    assert stat.S_IMODE(os.stat(journal.path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(journal.path)).st_mode) == 0o700


def test_a_journal_that_others_may_write_is_refused(journal: Journal):
    journal.command(["true"])
    os.chmod(journal.path, 0o666)
    with pytest.raises(JournalError):
        journal.roll_back()


def test_a_link_in_the_journals_place_is_refused(tmp_path: Path, journal: Journal):
    journal.command(["true"])
    os.rename(journal.path, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", journal.path)
    with pytest.raises(JournalError):
        journal.command(["true"])


@pytest.mark.parametrize("name", ["../escape", "a/b", ".hidden", "x" * 200, "a b"])
def test_names_that_are_paths_are_refused(name: str):
    with pytest.raises(JournalError):
        Journal(name)


@pytest.mark.parametrize("name", ["../../etc/passwd", "net/../../x", "/net/x", "net", ""])
def test_sysctls_outside_of_their_folder_are_refused(journal: Journal, name: str):
    with pytest.raises(JournalError):
        journal.sysctl(name)


def test_folders_and_large_files_are_left_alone(tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(JournalError):
        journal.file(str(tmp_path))
    monkeypatch.setattr(_journal, "MAX_FILE", 10)
    (tmp_path / "large").write_bytes(b"x" * 11)
    with pytest.raises(JournalError):
        journal.file(str(tmp_path / "large"))


def test_old_journals_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_journal, "KEPT", 3)
    for number in range(6):
        made = Journal(f"j{number}", str(tmp_path / "journal"))
        made.command(["true"])
        os.utime(made.path, (number, number))
    assert sorted(os.listdir(tmp_path / "journal")) == ["j3.jsonl", "j4.jsonl", "j5.jsonl"]


# ---- the guard


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of guards and journals of a test; returns the file that a change is made to."""
    folders = (str(tmp_path / "state" / "journal"), str(tmp_path / "guard"))
    monkeypatch.setattr(_guard.Journal.__init__, "__defaults__", folders)
    (tmp_path / "file").write_text("before")
    return tmp_path


SOON = 2.0  # seconds until a guard acts: longer than a busy machine takes for the change before


def make_guard(folder: Path, name: str = "change") -> Guard:
    return Guard(name, str(folder / "guard"))


def change(folder: Path) -> None:
    """What a module does; it is at work no longer when this returns."""
    Journal("change", guards=str(folder / "guard")).file(str(folder / "file"))
    (folder / "file").write_text("after")


def wait_until(path: Path, text: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while path.read_text() != text and time.monotonic() < deadline:
        time.sleep(0.05)
    assert path.read_text() == text


def test_nobody_comes_and_the_host_undoes_it_by_itself(guarded: Path):
    guard = make_guard(guarded)
    guard.arm(SOON)
    change(guarded)
    wait_until(guarded / "file", "before")
    undone = make_guard(guarded).call_off()
    assert undone is not None
    assert [row["error"] for row in undone] == [None]
    assert not (guarded / "guard").exists()
    assert not (guarded / "state").exists()


def test_called_off_it_undoes_nothing_and_the_journal_stays(guarded: Path):
    guard = make_guard(guarded)
    guard.arm(SOON)
    change(guarded)
    assert make_guard(guarded).call_off() is None
    time.sleep(SOON + 0.5)
    assert (guarded / "file").read_text() == "after"
    assert len(guard.journal.entries()) == 1
    assert not (guarded / "guard").exists()


def test_one_guard_at_a_time(guarded: Path):
    make_guard(guarded).arm(5.0)
    with pytest.raises(GuardError, match="change"):
        make_guard(guarded, "other").arm(5.0)
    make_guard(guarded).call_off()
    make_guard(guarded, "other").arm(5.0)
    make_guard(guarded, "other").call_off()


def test_removing_its_folder_does_not_call_it_off(guarded: Path):
    guard = make_guard(guarded)
    guard.arm(SOON)
    change(guarded)
    for entry in (guarded / "guard").iterdir():
        entry.unlink()
    (guarded / "guard").rmdir()
    wait_until(guarded / "file", "before")


def test_who_is_at_work_when_the_time_is_up_is_waited_for(guarded: Path):
    make_guard(guarded).arm(SOON)
    journal = Journal("change", guards=str(guarded / "guard"))
    journal.file(str(guarded / "file"))
    time.sleep(SOON + 0.7)
    (guarded / "file").write_text("after")
    assert not (guarded / "guard" / "guard-change.json").exists()
    del journal
    wait_until(guarded / "file", "before")
    assert make_guard(guarded).call_off() is not None


def test_nothing_is_noted_any_more_once_the_guard_has_rolled_back(guarded: Path):
    make_guard(guarded).arm(SOON)
    change(guarded)
    wait_until(guarded / "file", "before")
    with pytest.raises(JournalError, match="time was up"):
        change(guarded)
    assert (guarded / "file").read_text() == "before"
    assert not (guarded / "state").exists()
    assert make_guard(guarded).call_off() is not None
    change(guarded)
    assert (guarded / "file").read_text() == "after"


def test_who_hangs_is_not_waited_for_forever(guarded: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_journal, "BUSY_SECONDS", SOON)
    make_guard(guarded).arm(SOON)
    journal = Journal("change", guards=str(guarded / "guard"))
    journal.file(str(guarded / "file"))
    (guarded / "file").write_text("after")
    wait_until(guarded / "file", "before")
    assert journal.entries() == []
    assert make_guard(guarded).call_off() is not None


def test_calling_off_what_was_never_set(guarded: Path):
    assert make_guard(guarded).call_off() is None


def test_a_journal_that_cannot_be_read_is_told(guarded: Path):
    guard = make_guard(guarded)
    guard.arm(SOON)
    change(guarded)
    Path(guard.journal.path).write_text("not json\n")
    outcome, patience = guarded / "guard" / "guard-change.json", time.monotonic() + 60.0
    while not outcome.exists() and time.monotonic() < patience:
        time.sleep(0.05)
    undone = make_guard(guarded).call_off()
    assert undone is not None
    assert "damaged" in undone[0]["error"]
    json.dumps(undone)

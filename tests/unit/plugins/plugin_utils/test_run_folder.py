# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The run folder takes any host name, keeps its files private, and never leaves itself."""

from __future__ import annotations

import os
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import (
    RunFolder,
    RunFolderError,
    safe_name,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(host=st.text(min_size=1, max_size=30).filter(lambda s: "\x00" not in s and s.isprintable()))
def test_any_host_name_is_one_file_inside_the_folder(tmp_path, host):
    folder = RunFolder(str(tmp_path))
    path = folder.write_record(host, "overlay_facts", "before", {"facts": {"name": host}})
    assert os.path.realpath(path).startswith(str(tmp_path / "hosts") + os.sep)
    assert folder.records(host)["overlay_facts", "before"]["facts"]["name"] == host


def test_names_that_climb_stay_inside():
    assert "/" not in safe_name("../../etc/passwd")
    assert safe_name("..") not in ("..", ".")


def test_files_and_folders_are_private(tmp_path):
    folder = RunFolder.create(str(tmp_path / "run"), {"run_id": "x"})
    path = folder.write_record("h", "m", "l", {})
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(folder.path).st_mode) == 0o700


def test_a_folder_that_is_no_runs_is_refused_and_kept(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "hosts").mkdir()
    (tmp_path / "hosts" / "mine").write_text("dear")
    with pytest.raises(RunFolderError, match="that no run wrote"):
        RunFolder.create(str(tmp_path), {"run_id": "1"})
    assert (tmp_path / "hosts" / "mine").read_text() == "dear"


def test_a_second_run_replaces_the_first_and_nothing_else(tmp_path):
    folder = RunFolder.create(str(tmp_path), {"run_id": "1", "collection_version": "0"})
    folder.write_record("gone", "m", "l", {})
    (tmp_path / "notes.txt").write_text("mine")
    again = RunFolder.create(str(tmp_path), {"run_id": "2"})
    assert again.hosts() == []
    assert again.read("run.json")["run_id"] == "2"
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_that_is_not_json_is_named(tmp_path):
    folder = RunFolder.create(str(tmp_path), {})
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"report\.json cannot be read"):
        folder.read("report.json")

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which playbook runs, and whether it still does."""

from __future__ import annotations

import os
import re
import subprocess
import time

from ansible_collections.crosshost.doctor.plugins.module_utils._host_folder import RUN_ID
from ansible_collections.crosshost.doctor.plugins.plugin_utils import controller


def owner_of(process: subprocess.Popen[bytes]) -> controller.Owner:
    return {"controller": controller.identity(), "pid": process.pid, "start": controller.started(process.pid)}


def test_the_playbook_is_the_parent_of_the_worker() -> None:
    assert controller.playbook()["pid"] == os.getppid()


def test_a_run_id_is_the_same_all_along_and_fits_the_host() -> None:
    first = controller.run_id(controller.playbook())
    assert first == controller.run_id(controller.playbook())
    assert RUN_ID.fullmatch(first)


def test_two_playbooks_have_two_run_ids() -> None:
    owner = controller.playbook()
    assert controller.run_id(owner) != controller.run_id({**owner, "start": 1})


def test_without_proc_there_is_a_run_id_too() -> None:
    assert re.fullmatch(r"[0-9a-f]{12}-7-0", controller.run_id({"controller": None, "pid": 7, "start": None}))


def test_a_running_process_has_not_ended_and_a_killed_one_has() -> None:
    process = subprocess.Popen(["sleep", "60"])
    owner = owner_of(process)
    assert not controller.has_ended(owner)
    process.kill()
    while controller.started(process.pid) is not None:  # a zombie counts as ended, before anybody waited for it
        time.sleep(0.01)
    assert controller.has_ended(owner)
    process.wait()
    assert controller.has_ended(owner)


def test_another_process_with_the_same_id_is_another() -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        owner = owner_of(process)
        assert controller.has_ended({**owner, "start": int(owner["start"] or 0) - 1})
    finally:
        process.kill()
        process.wait()


def test_of_another_controller_nothing_is_known() -> None:
    assert not controller.has_ended({"controller": "elsewhere", "pid": 1, "start": 1})
    assert not controller.has_ended({"controller": None, "pid": 1, "start": 1})
    assert not controller.has_ended({})


def test_a_process_whose_name_holds_brackets_and_blanks(tmp_path: str) -> None:
    program = os.path.join(tmp_path, "a) (b 1 2")
    os.symlink("/bin/sleep", program)
    process = subprocess.Popen([program, "60"])
    try:
        plain = controller.started(os.getpid())
        assert plain is not None
        assert plain <= int(controller.started(process.pid) or 0) < plain + 100 * 86400
    finally:
        process.kill()
        process.wait()

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""prepare as a playbook runs it, over the local connection, with interpreters that have the libraries or lack them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils import bundle
from tests.unit import interpreters

PLAYBOOK = str(Path(sys.executable).parent / "ansible-playbook")
Task = dict[str, Any]


class Host:
    """localhost with a given interpreter and a base folder of its own."""

    def __init__(self, folder: Path, interpreter: str) -> None:
        self.folder = folder
        self.base = folder / "base"
        self.interpreter = interpreter
        self.environment = {
            **os.environ,
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_LOCALHOST_WARNING": "0",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "0",
        }

    def prepare(self, **arguments: Any) -> Task:
        return {"crosshost.doctor.prepare": {"base_path": str(self.base), **arguments}, "register": "result"}

    def command(self, tasks: list[Task], *options: str) -> list[str]:
        playbook = self.folder / "play.yml"
        playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
        variables = ["-c", "local", "-e", f"ansible_python_interpreter={self.interpreter}"]
        return [PLAYBOOK, "-i", "localhost,", *variables, *options, str(playbook)]

    def play(self, *tasks: Task, options: tuple[str, ...] = ()) -> dict[str, Any]:
        """Run the tasks: what the last one returned, its facts, how the play ended, and all that was said."""
        done = subprocess.run(
            self.command(list(tasks), *options),
            env={**self.environment, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"},
            capture_output=True,
            text=True,
            check=False,
        )
        told = json.loads(done.stdout[done.stdout.index("{\n") :])
        result = told["plays"][0]["tasks"][-1]["hosts"]["localhost"]
        facts = result.get("ansible_facts", {}).get("crosshost", {})
        return {"result": result, "facts": facts, "code": done.returncode, "output": done.stdout + done.stderr}

    def runs(self) -> list[str]:
        return sorted(os.listdir(self.base)) if self.base.exists() else []


@pytest.fixture(name="bare", scope="session")
def bare_interpreter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has no library but its own."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return str(folder / "bin" / "python")


@pytest.fixture(name="host")
def host_without_libraries(tmp_path: Path, bare: str) -> Host:
    if bundle.at_hand() is None:
        pytest.skip("the library bundle is not built: make setup")
    return Host(tmp_path, bare)


@pytest.mark.bundle
def test_a_host_that_lacks_libraries_gets_the_bundle_and_is_left_as_it_was(host: Host) -> None:
    told = host.play(host.prepare())
    facts = told["facts"]["prepare"]
    assert told["result"]["actions"] == ["created", "extracted"]
    assert facts["run_path"] == f"{host.base}/{facts['run_id']}"
    assert facts["library_path"] == f"{facts['run_path']}/lib"
    assert (facts["libraries"]["origin"], facts["root"]) == ("bundle", os.geteuid() == 0)
    assert facts["executable"] == host.interpreter
    assert re.search(r"pyroute2 >= .* cannot be imported", facts["libraries"]["lacking"][0])
    program = "import sys; sys.path.insert(0, sys.argv[1]); import docker, pyroute2; print(pyroute2.__version__)"
    done = subprocess.run(
        [host.interpreter, "-c", program, facts["library_path"]], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == facts["libraries"]["pyroute2"]
    gone = host.play(host.prepare(run_id=facts["run_id"], state="absent"))
    assert gone["result"]["changed"]
    assert (gone["facts"]["prepare"]["library_path"], gone["facts"]["prepare"]["run_path"]) == (None, None)
    assert not host.base.exists()


@pytest.mark.bundle
def test_in_check_mode_too_the_second_task_finds_everything_done_and_facts_of_others_are_kept(host: Host) -> None:
    other = {"ansible.builtin.set_fact": {"crosshost": {"other": 1}, "cacheable": True}}
    told = host.play(other, host.prepare(), host.prepare(), options=("--check",))
    assert (told["result"]["changed"], told["result"]["actions"]) == (False, [])
    assert told["facts"]["prepare"]["libraries"]["origin"] == "bundle"
    assert set(told["facts"]) == {"other", "prepare"}
    assert len(host.runs()) == 1


def test_a_host_that_has_the_libraries_uses_its_own(tmp_path: Path) -> None:
    host = Host(tmp_path, sys.executable)
    host.environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PIP_NO_INDEX": "1"}  # nothing is there to carry
    facts = host.play(host.prepare())["facts"]["prepare"]
    assert facts["library_path"] is None
    assert facts["libraries"]["origin"] == "host"
    assert facts["libraries"]["lacking"] == []
    assert os.listdir(facts["run_path"]) == ["run.json"]


def test_a_controller_that_cannot_build_says_what_to_do_and_leaves_the_host(tmp_path: Path, bare: str) -> None:
    host = Host(tmp_path, bare)
    host.environment |= {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "",
        "PIP_CONFIG_FILE": os.devnull,
    }
    told = host.play(host.prepare())
    assert told["code"] == 2
    assert "set prepare_bundle" in told["output"]
    assert "Traceback" not in told["output"]
    assert not host.base.exists()


def test_a_given_bundle_that_is_none_fails_before_the_host_is_touched(tmp_path: Path, bare: str) -> None:
    host = Host(tmp_path, bare)
    (tmp_path / "given.zip").write_text("no zip")
    told = host.play(host.prepare(bundle=str(tmp_path / "given.zip")))
    assert told["code"] == 2
    assert "cannot be read" in told["output"]
    assert not host.base.exists()


def test_a_python_that_is_too_old_is_told(tmp_path: Path) -> None:
    old = interpreters.find("3.8")
    if old is None:
        pytest.skip("there is no Python 3.8 on this machine")
    told = Host(tmp_path, old).play(Host(tmp_path, old).prepare())
    assert told["code"] == 2
    assert "Python 3.8" in told["output"] and "ansible_python_interpreter" in told["output"]
    assert "Traceback" not in told["output"]


@pytest.mark.bundle
def test_a_foreign_folder_in_the_way_is_an_error_without_traceback(host: Host) -> None:
    host.base.mkdir()
    host.base.chmod(0o777)
    told = host.play(host.prepare())
    assert told["code"] == 2
    assert "mode 0777" in told["output"] and "Traceback" not in told["output"]


@pytest.mark.bundle
def test_what_a_playbook_may_not_set_is_refused(host: Host) -> None:
    told = host.play(host.prepare(content="UEsDBA=="))
    assert told["code"] == 2
    assert "content: set by the action plugin" in told["output"]


@pytest.mark.bundle
def test_with_a_run_folder_the_answer_is_filed_and_a_failure_does_not_stop_the_play(host: Host) -> None:
    filed = host.folder / "run" / "hosts" / "localhost" / "prepare-before.json"
    host.play(host.prepare(run_dir=str(host.folder / "run")))
    assert json.loads(filed.read_text())["facts"]["libraries"]["origin"] == "bundle"
    host.base.chmod(0o777)
    told = host.play(host.prepare(run_dir=str(host.folder / "run")))
    assert told["code"] == 0
    assert "mode 0777" in json.loads(filed.read_text())["error"]


@pytest.mark.bundle
def test_the_next_run_removes_what_a_killed_one_left_and_nothing_of_a_living_one(host: Host) -> None:
    pause = {"ansible.builtin.wait_for": {"timeout": 60}, "vars": {"ansible_python_interpreter": sys.executable}}
    command = host.command([host.prepare(), pause])
    process = subprocess.Popen(command, env=host.environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout
        for line in process.stdout:
            if "wait_for" in line:
                break
        (living,) = host.runs()
        second = host.play(host.prepare(run_id="second"))
        assert second["result"]["actions"] == ["created", "extracted"]
        assert host.runs() == sorted([living, "second"])
        assert os.path.isdir(host.base / living / "lib")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout
        process.stdout.close()
    # "second" was given by its playbook, which has ended as well.
    third = host.play(host.prepare(run_id="third"))
    assert sorted(third["result"]["actions"]) == sorted(["created", "extracted", f"removed {living}", "removed second"])
    assert host.runs() == ["third"]


@pytest.mark.bundle
@pytest.mark.slow
def test_an_interrupted_playbook_leaves_only_its_folder(host: Host) -> None:
    before = set(os.listdir("/tmp"))
    pause = {"ansible.builtin.wait_for": {"timeout": 60}, "vars": {"ansible_python_interpreter": sys.executable}}
    process = subprocess.Popen(
        host.command([host.prepare(), pause]), env=host.environment, stdout=subprocess.DEVNULL, start_new_session=True
    )

    def left() -> set[str]:
        return {name for name in set(os.listdir("/tmp")) - before if "prepare" in name}

    # Ansible's own wrapper takes a module's files away at its end, and is not to be interrupted in that.
    while left() or not any((host.base / name / "lib").exists() for name in host.runs()):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=30)
    assert len(host.runs()) == 1
    assert left() == set()

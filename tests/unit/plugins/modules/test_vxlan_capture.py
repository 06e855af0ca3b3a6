# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vxlan_capture as a module, and as playbooks run it: the loopback carries the probes."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args

from ansible_collections.crosshost.doctor.plugins.module_utils import _pcap, _probe_base
from ansible_collections.crosshost.doctor.plugins.modules import vxlan_capture
from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder
from tests.unit.plugins.module_utils.namespace import needs_root

PLAYBOOK = str(Path(sys.executable).parent / "ansible-playbook")
MARK = "capture-test"
LOOPBACK = [{"id": "lo", "interface": "lo"}]
ECHO = [{"probes": [{"id": "self", "layer": "icmp", "address": "127.0.0.1"}]}]


def call(capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    """What the module prints."""
    with patch_module_args(arguments), pytest.raises(SystemExit):
        vxlan_capture.main()
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


def facts(result: dict[str, Any]) -> dict[str, Any]:
    assert not result.get("failed"), result
    found: dict[str, Any] = result["ansible_facts"]["crosshost"]["vxlan_capture"]
    return found


@needs_root
def test_every_returned_key_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        timer = threading.Timer(0.3, lambda: sender.sendto(_probe_base.payload(MARK, "p", 1), ("127.0.0.1", 9)))
        timer.start()
        found = facts(call(capsys, taps=LOOPBACK, mark=MARK, seconds=1))
        timer.join()
    returned = yaml.safe_load(vxlan_capture.RETURN)["ansible_facts"]["contains"]["crosshost"]["contains"]
    documented = returned["vxlan_capture"]["contains"]
    assert list(documented) == list(found)
    assert found["flows"]
    assert found["sightings"]
    for section in ("taps", "flows", "sightings"):
        assert list(documented[section]["contains"]) == list(found[section][0]), section
    assert list(documented["counts"]["contains"]) == list(found["counts"])


def test_every_option_is_documented_and_the_other_way_round() -> None:
    documented = yaml.safe_load(vxlan_capture.DOCUMENTATION)["options"]
    assert set(documented) == set(vxlan_capture.ARGUMENTS)
    for name, options in vxlan_capture.ARGUMENTS.items():
        assert documented[name].get("default") == options.get("default"), name
        assert documented[name].get("choices") == options.get("choices"), name


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"taps": [{"id": "x"}]}, "interface or ifindex"),
        ({"taps": LOOPBACK, "seconds": 1000}, "seconds"),
        ({"taps": LOOPBACK, "label": "../x"}, "label"),
        ({"taps": LOOPBACK, "state": "started"}, "run_id is missing"),
        ({"taps": LOOPBACK, "src": "/x"}, "neither taps nor dest"),
        ({"src": "/x", "state": "started", "run_id": "r"}, "state=captured"),
        ({"taps": LOOPBACK, "match": {"ports": [99999]}}, "65535"),
        ({"taps": LOOPBACK, "match": {"protocol": "smtp"}}, "protocol"),
        ({"taps": LOOPBACK, "state": "started", "run_id": "../../etc"}, "not a run id"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_bad_options_are_refused(capsys: pytest.CaptureFixture[str], arguments: dict[str, Any], why: str) -> None:
    result = call(capsys, **arguments)
    assert result["failed"]
    assert why in result["msg"]


@needs_root
def test_a_file_is_written_but_not_in_check_mode(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "x.pcapng"
    for check in (True, False):
        result = call(capsys, taps=LOOPBACK, seconds=0.1, dest=str(target), _ansible_check_mode=check)
        assert result["changed"] is not check
        assert target.exists() is not check
        assert facts(result)["file"] == (None if check else str(target))


@needs_root
def test_start_and_collect_without_anybody_who_prepared(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    common = {"base_path": str(tmp_path / "base"), "run_id": "run", "label": "t"}
    first = facts(call(capsys, state="started", taps=LOOPBACK, seconds=20, **common))
    assert (first["state"], first["ended"], [tap["id"] for tap in first["taps"]]) == ("started", None, ["lo"])
    again = call(capsys, state="started", taps=LOOPBACK, **common)
    assert again["failed"]
    assert "still running" in again["msg"]
    last = facts(call(capsys, state="collected", **common))
    assert (last["state"], last["ended"]) == ("collected", "asked")
    assert first["started"] == last["started"] < last["finished"]
    assert list(tmp_path.iterdir()) == []
    none = facts(call(capsys, state="collected", **common))
    assert (none["ended"], none["missing"][0]["section"]) == ("died", "reader")
    assert "no capture with label 't'" in none["missing"][0]["why"]


@needs_root
def test_a_folder_that_was_prepared_stays(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "run").mkdir(parents=True)
    for folder in (base, base / "run"):
        folder.chmod(0o700)
    (base / "run" / "run.json").write_text(json.dumps({"owner": {"pid": 1}, "created": 1, "deadline": 2}))
    common = {"base_path": str(base), "run_id": "run", "label": "t"}
    facts(call(capsys, state="started", taps=LOOPBACK, seconds=20, **common))
    facts(call(capsys, state="collected", **common))
    assert os.listdir(base / "run") == ["run.json"]


@needs_root
def test_a_folder_of_somebody_else_is_not_used(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "base").mkdir(mode=0o755)
    result = call(capsys, state="started", taps=LOOPBACK, base_path=str(tmp_path / "base"), run_id="r")
    assert result["failed"]
    assert "must belong to" in result["msg"]


def play(
    tmp_path: Path, tasks: list[dict[str, Any]], *arguments: str, pipelining: bool
) -> tuple[list[dict[str, Any]], float]:
    """Run tasks on three hosts that are all this machine: what each task returned by host, and how long all took."""
    book = tmp_path / "play.yml"
    book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    command = [PLAYBOOK, "-i", "good,bad,idle,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"]
    environment = {
        **os.environ,
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        "ANSIBLE_PIPELINING": str(int(pipelining)),
        "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
        "ANSIBLE_REMOTE_TEMP": str(tmp_path / "remote"),
    }
    command += [*arguments, str(book)]
    started = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout[done.stdout.index("{") :])
    return [task["hosts"] for task in said["plays"][0]["tasks"]], time.monotonic() - started


@needs_root
@pytest.mark.parametrize(
    ("pipelining", "check"), [(True, ()), (False, ("--check",))], ids=["pipelined", "copied, check"]
)
def test_three_tasks_see_the_probes(tmp_path: Path, pipelining: bool, check: tuple[str, ...]) -> None:
    folder = RunFolder.create(str(tmp_path / "run"), {"run_id": "r-1", "collection_version": "1", "hosts": {}})
    folder.write("plan/capture/good.json", {"taps": LOOPBACK, "mark": MARK, "seconds": 50})
    folder.write("plan/capture/bad.json", {"taps": LOOPBACK, "seconds": 999})
    fetched = tmp_path / "report" / "lo.pcapng"
    where = {"base_path": str(tmp_path / "base"), "label": "trace", "run_dir": folder.path, "fetch": str(fetched)}
    tasks: list[dict[str, Any]] = [
        {"crosshost.doctor.vxlan_capture": {"state": "started", **where}},
        {
            "crosshost.doctor.path_probe": {"mark": MARK, "sources": ECHO, "count": 2},
            "when": "inventory_hostname == 'good'",
        },
        {"crosshost.doctor.vxlan_capture": {"state": "collected", **where}},
        {"crosshost.doctor.vxlan_capture": {"content": True}, "ignore_errors": True},
    ]
    (started, _probed, collected, refused), seconds = play(tmp_path, tasks, *check, pipelining=pipelining)
    assert seconds < 45  # a reader that held the connection would take its 50 seconds
    # What travels on is a digest; the facts are in the record.
    assert "ansible_facts" not in collected["good"]
    assert "content" not in collected["good"]
    assert (collected["good"]["ended"], collected["good"]["taps"], collected["good"]["missing"]) == ("asked", 1, 0)
    facts = (folder.read_record("good", "vxlan_capture", "trace") or {})["facts"]
    assert facts["state"] == "collected"
    seen = [(row["kind"], row["probe"], row["seq"], row["out"]) for row in facts["sightings"]]
    expected = [
        (kind, "self", number, out) for number in (0, 1) for kind in ("echo", "echo-reply") for out in (True, False)
    ]
    assert sorted(row for row in seen if row[1] == "self") == sorted(expected)
    # The frames came along, and nothing is left on the host.
    assert facts["file"] == str(fetched)
    assert stat.S_IMODE(fetched.stat().st_mode) == 0o600
    with _pcap.open_capture(str(fetched)) as capture:
        assert len(list(capture)) == facts["counts"]["frames"] >= 8
    assert not (tmp_path / "base").exists()
    # Nothing is collected where the start has failed: its reason stays. A host without a plan is not asked.
    assert "seconds is 999" in started["bad"]["msg"]
    assert collected["bad"]["skipped"]
    assert "seconds is 999" in (folder.read_record("bad", "vxlan_capture", "trace") or {})["error"]
    assert started["idle"]["skipped"]
    assert collected["idle"]["skipped"]
    assert folder.read_record("idle", "vxlan_capture", "trace") is None
    assert "set by the action plugin" in refused["good"]["msg"]

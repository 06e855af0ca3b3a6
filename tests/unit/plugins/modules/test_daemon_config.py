# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Named keys are set; everything else in the file stays, or the file is left alone with a sentence."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _daemon_config as config
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal
from ansible_collections.crosshost.doctor.plugins.modules import daemon_config

Call = Callable[..., dict[str, Any]]
SERVERS = {"dns": ["192.0.2.53"]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "docker" / "daemon.json"


@pytest.fixture
def call(file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setattr(config, "PID_FILES", (str(tmp_path / "docker.pid"),))

    def ask(settings: dict[str, Any], check: bool = False, **arguments: Any) -> dict[str, Any]:
        given = {"settings": settings, "path": str(file), **arguments}
        given |= {"_ansible_check_mode": check, "_ansible_diff": True}
        with patch_module_args(given), pytest.raises(SystemExit):
            daemon_config.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return ask


def put(file: Path, text: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(text.encode())


def test_other_keys_order_indentation_and_mode_stay(file: Path, call: Call) -> None:
    put(file, '{\n    "log-driver": "json-file",\n    "dns": [\n        "203.0.113.53"\n    ],\n    "mtu": 1400\n}\n')
    file.chmod(0o600)
    result = call(SERVERS)
    assert file.read_text() == (
        '{\n    "log-driver": "json-file",\n    "dns": [\n        "192.0.2.53"\n    ],\n    "mtu": 1400\n}\n'
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert result["changes"] == {"dns": {"before": ["203.0.113.53"], "after": ["192.0.2.53"], "takes": "restart"}}
    assert not call(SERVERS)["changed"]


def test_check_mode_says_the_same_and_writes_nothing(file: Path, call: Call) -> None:
    put(file, '{"mtu": 1400}')
    pretended = call(SERVERS, check=True)
    assert file.read_text() == '{"mtu": 1400}'
    done = call(SERVERS)
    assert {name: done[name] for name in ("changed", "changes", "diff")} == {
        name: pretended[name] for name in ("changed", "changes", "diff")
    }


def test_a_file_that_is_not_there_is_made(file: Path, call: Call) -> None:
    assert call(SERVERS)["changed"]
    assert json.loads(file.read_text()) == SERVERS
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_a_link_is_followed_and_stays(file: Path, call: Call, tmp_path: Path) -> None:
    real = tmp_path / "site.json"
    real.write_text("{}")
    file.parent.mkdir()
    file.symlink_to(real)
    assert call(SERVERS)["path"] == str(real)
    assert file.is_symlink()
    assert json.loads(real.read_text()) == SERVERS


def test_objects_are_merged_and_lists_replaced(file: Path, call: Call) -> None:
    put(file, '{"log-opts": {"max-size": "10m", "tag": "x"}, "labels": ["a=1", "b=2"]}')
    call({"log-opts": {"max-size": "20m"}, "labels": ["c=3"]})
    assert json.loads(file.read_text()) == {"log-opts": {"max-size": "20m", "tag": "x"}, "labels": ["c=3"]}


def test_the_diff_shows_no_other_key(file: Path, call: Call) -> None:
    put(file, '{"log-opts": {"splunk-token": "secret"}}')
    assert "secret" not in json.dumps(call(SERVERS))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"dns": [', "not valid JSON"),
        ("[1]", "no JSON object"),
        ('{"mtu": 1, "mtu": 2}', "has 'mtu' twice"),
        ('\ufeff{"mtu": 1}', "not valid JSON"),
    ],
)
def test_what_is_not_understood_is_left_alone(file: Path, call: Call, text: str, says: str) -> None:
    put(file, text)
    result = call(SERVERS)
    assert result["failed"]
    assert says in result["msg"]
    assert file.read_bytes() == text.encode()


def test_bytes_that_are_no_text_are_left_alone(file: Path, call: Call) -> None:
    file.parent.mkdir()
    file.write_bytes(b'{"mtu": "\xff"}')
    assert "cannot be read as text" in call(SERVERS)["msg"]


def test_an_option_on_the_command_line_is_not_written(file: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "engine_flags", lambda: {"dns": ["203.0.113.53"]})
    assert "does not start with the same option" in call(SERVERS)["msg"]
    assert not file.exists()
    assert call({"mtu": 1400})["changed"]


def test_a_file_that_dockerd_does_not_accept_is_not_written(
    file: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "dockerd"
    program.write_text(
        '#!/bin/sh\ncase $1 in --help) echo --validate;; *) echo "unknown key in $3" >&2; exit 1;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(config._commands, "find", lambda name: str(program))
    put(file, "{}")
    assert f"unknown key in {file}" in call(SERVERS)["msg"]
    assert file.read_text() == "{}"
    program.write_text("#!/bin/sh\necho --validate\n")
    assert call(SERVERS)["validation"] == "valid"


def test_whether_an_engine_has_what_the_file_says(file: Path, call: Call, tmp_path: Path) -> None:
    assert not call(SERVERS)["restart_needed"], "no engine runs"
    (tmp_path / "docker.pid").write_text(str(os.getpid()))
    os.utime(file, (1, 1))
    assert not call(SERVERS)["restart_needed"]
    os.utime(file)
    assert call(SERVERS)["restart_needed"], "it began before the file was written"
    os.utime(file, (1, 1))
    result = call({"labels": ["a=1"]})
    assert (result["restart_needed"], result["reload_needed"]) == (False, True)
    os.utime(file, (1, 1))
    assert call({"mtu": 1400})["restart_needed"]


def test_the_roll_back_is_the_file_before(file: Path, tmp_path: Path) -> None:
    put(file, '{"mtu":1400}')
    journal = Journal("test", str(tmp_path / "journal"))
    config.apply(config.make(str(file), SERVERS), journal)
    journal.roll_back()
    assert file.read_text() == '{"mtu":1400}'


def test_a_key_is_a_key(call: Call) -> None:
    assert "is not a key" in call({"--host": "x"})["msg"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
KEYS = st.from_regex(r"[a-z][a-z-]{0,8}", fullmatch=True)


@given(st.dictionaries(st.text(), VALUES), st.dictionaries(KEYS, VALUES))
def test_merging_keeps_what_is_not_named_and_is_done_once(old: dict[str, Any], settings: dict[str, Any]) -> None:
    new = config.merge(old, settings)
    assert list(new)[: len(old)] == list(old)
    assert {key: new[key] for key in old if key not in settings} == {k: v for k, v in old.items() if k not in settings}
    assert config.merge(new, settings) == new
    assert config.parse(config.render(new, None)) == new

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args

from ansible_collections.crosshost.doctor.plugins.modules import overlay_facts


def call(capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    """What the module prints."""
    with patch_module_args(arguments), pytest.raises(SystemExit):
        overlay_facts.main()
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


def test_check_mode_reads_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    for check in (False, True):
        result = call(capsys, sections=["counters"], _ansible_check_mode=check)
        assert result["changed"] is False
        facts = result["ansible_facts"]["crosshost"]["overlay_facts"]
        assert facts["sections"] == ["counters"]
        assert facts["namespaces"][0]["counters"]["snmp"]


def test_options_reach_the_reading(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(overlay_facts, "gather", lambda *options: seen.append(options) or {})
    call(
        capsys,
        sections=["log"],
        networks=["app"],
        library_path="/nonexistent",
        log_bytes=10,
        run_dir="/x",
        label="after",
    )
    assert seen == [(["log"], ["app"], "/nonexistent", 10)]


@pytest.mark.parametrize("arguments", [{"sections": ["nonsense"]}, {"log_bytes": -1}, {"unknown": 1}])
def test_bad_options_are_refused(capsys: pytest.CaptureFixture[str], arguments: dict[str, Any]) -> None:
    assert call(capsys, **arguments)["failed"]


def test_every_returned_key_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    facts = call(capsys, sections=["host"])["ansible_facts"]["crosshost"]["overlay_facts"]
    returned = yaml.safe_load(overlay_facts.RETURN)["ansible_facts"]["contains"]["crosshost"]["contains"]
    documented = returned["overlay_facts"]["contains"]
    assert list(documented) == list(facts)
    assert list(documented["namespaces"]["contains"]) == list(facts["namespaces"][0])
    for section in ("host", "engine", "swarm", "log"):
        assert list(documented[section]["sample"]) == list(facts[section]), section
    counters = documented["namespaces"]["contains"]["counters"]["sample"]
    assert set(counters) == set(facts["namespaces"][0]["counters"])

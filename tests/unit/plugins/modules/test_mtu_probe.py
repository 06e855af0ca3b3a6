# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args

from ansible_collections.crosshost.doctor.plugins.modules import mtu_probe

LOOPBACK = [{"targets": [{"id": "self", "address": "127.0.0.1", "largest": 1500}]}]


def call(capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    """What the module prints."""
    with patch_module_args(arguments), pytest.raises(SystemExit):
        mtu_probe.main()
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


def test_check_mode_measures_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    for check in (False, True):
        result = call(capsys, sources=LOOPBACK, mark="run", timeout=0.5, _ansible_check_mode=check)
        assert result["changed"] is False
        facts = result["ansible_facts"]["crosshost"]["mtu_probe"]
        assert facts["mark"] == "run"
        assert facts["results"][0]["id"] == "self"


def test_options_reach_the_search(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(mtu_probe._pmtu, "run", lambda options, report: seen.append(options))
    call(capsys, sources=LOOPBACK, timeout=3.5)
    (target,) = seen[0]["sources"][0]["targets"]
    assert seen[0]["timeout"] == 3.5
    assert (target["port"], target["protocols"], target["largest"]) == (7, ["icmp", "tcp", "udp"], 1500)


@pytest.mark.parametrize(
    "arguments",
    [
        {"timeout": 0},
        {"timeout": 100},
        {"unknown": 1},
        {"sources": [{"targets": [{"id": "x"}]}]},
        {"sources": [{"targets": [{"id": "x", "address": "127.0.0.1", "protocols": ["sctp"]}]}]},
    ],
)
def test_bad_options_are_refused(capsys: pytest.CaptureFixture[str], arguments: dict[str, Any]) -> None:
    assert call(capsys, **arguments)["failed"]


def test_every_returned_key_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    facts = call(capsys, sources=LOOPBACK, timeout=0.5)["ansible_facts"]["crosshost"]["mtu_probe"]
    returned = yaml.safe_load(mtu_probe.RETURN)["ansible_facts"]["contains"]["crosshost"]["contains"]
    documented = returned["mtu_probe"]["contains"]
    assert set(documented) == set(facts)
    assert set(documented["results"]["contains"]) == set(facts["results"][0])

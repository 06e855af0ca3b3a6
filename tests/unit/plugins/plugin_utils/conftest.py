# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every remedy that any of these tests makes the engine name is one that the catalogue and its role know."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Finding
from tests.unit.remedies import unknown


@pytest.fixture(autouse=True)
def made_findings(monkeypatch: pytest.MonkeyPatch) -> t.Iterator[list[Finding]]:
    """All findings a test makes, in order."""
    made: list[Finding] = []
    init = Finding.__init__

    def record(finding: Finding, *args: t.Any, **more: t.Any) -> None:
        init(finding, *args, **more)
        made.append(finding)

    monkeypatch.setattr(Finding, "__init__", record)
    yield made
    assert [problem for finding in made for problem in unknown(finding)] == []

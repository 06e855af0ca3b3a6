# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _host
from ansible_collections.crosshost.doctor.plugins.module_utils._libraries import Libraries


def test_quotes_and_comments_of_os_release() -> None:
    text = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n# comment=1\nVERSION_ID="12"\n\nbroken\n'
    found = _host.parse_os_release(text)
    assert (found["ID"], found["VERSION_ID"], found["PRETTY_NAME"]) == (
        "debian",
        "12",
        "Debian GNU/Linux 12 (bookworm)",
    )
    assert "# comment" not in found


@given(st.text())
def test_any_text_is_an_os_release(text: str) -> None:
    assert isinstance(_host.parse_os_release(text), dict)


def test_this_host_has_every_key() -> None:
    host = _host.read_host(Libraries())
    assert host["kernel"] == os.uname().release
    assert host["root"] == (os.geteuid() == 0)
    assert host["libraries"] == {"pyroute2": None, "docker": None, "origin": "host"}
    assert host["uptime"] > 0
    assert list(host["resolver"]) == ["nameservers", "search", "options"]
    assert (host["managers"], host["cni"], host["modules"]) == ([], [], {})
    assert set(_host.host_parts()) <= set(host)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-21T12:44:00Z", 1795265040),
        ("2026-11-21T12:44:00.123456789Z", 1795265040),
        ("2026-11-21T13:44:00.5+01:00", 1795265040),
        ("2026-11-21T07:14:00-05:30", 1795265040),
        ("2026-13-21T12:44:00Z", None),
        ("0001-01-01", None),
        ("", None),
        (None, None),
    ],
)
def test_when_firewalld_was_reloaded_is_what_the_engine_wrote_down(text: Any, expected: int | None) -> None:
    managers = [
        {"name": "ufw", "config": {}},
        {"name": "firewalld", "config": {"backend": "nftables", "reloaded": None}},
    ]
    _host.note_reload(managers, {"driver": "iptables+firewalld", "info": {"ReloadedAt": text}})
    assert [one["config"].get("reloaded") for one in managers] == [None, expected]
    _host.note_reload(managers, None)
    _host.note_reload(managers, {"driver": "iptables"})

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import calendar
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _logs

# Recorded from dockerd 20.10.24 (Debian 12) on the lab, node2's 7946 being blocked: pattern, tabulator, message.
RECORDED = Path(__file__).parents[3] / "fixtures" / "logs" / "dockerd-20.10-debian12.tsv"
LINES = dict(line.split("\t", 1) for line in RECORDED.read_text(encoding="utf-8").splitlines() if "\t" in line)
# In the words of the engine's and its libraries' sources; not recorded.
LINES |= {
    "session-failed": 'time="2026-11-21T01:09:49Z" level=error msg="agent: session failed" error="rpc error: code"',
    "vxlan-create-failed": 'level=error msg="fatal task error" error="error creating vxlan interface: file exists"',
    "iptables-chain-missing": "Nov 21 01:09:49 node1 dockerd[812]: iptables: No chain/target/match by that name.",
    "pool-overlap": 'level=error msg="Pool overlaps with other one on this address space"',
}


@pytest.mark.parametrize(("name", "line"), LINES.items())
def test_known_messages_are_counted(name: str, line: str) -> None:
    found = _logs.reduce_lines([line, "something else", line])
    assert found[name]["count"] == 2
    assert found[name]["sample"][:20] == line[:20]


def test_the_last_one_is_timed_and_sampled() -> None:
    first = 'time="2026-11-21T01:09:47.5Z" level=error msg="first"'
    last = 'time="2026-11-21T02:09:47.25+01:00" level=error msg="last"'
    row = _logs.reduce_lines([first, last])["error"]
    assert (row["count"], "last" in row["sample"]) == (2, True)
    assert row["last"] == calendar.timegm((2026, 11, 21, 1, 9, 47)) + 0.25


def test_what_the_engine_says_about_our_own_reading_is_no_error() -> None:
    line = 'time="2026-11-21T01:09:49Z" level=error msg="Inconsistent driver and libnetwork state for endpoint 5a5c"'
    assert _logs.reduce_lines([line]) == {}


def test_a_journal_line_is_timed_by_its_prefix() -> None:
    row = _logs.reduce_lines(
        ["1795223388.123456 node1 systemd[1]: Failed to start Docker Application Container Engine."]
    )
    assert row["start-failed"]["last"] == 1795223388.123456
    assert row["start-failed"]["sample"].startswith("node1 systemd")


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (
            "docker swarm join --token SWMTKN-1-3pu6hszjas19xyp7ghgosyx9k8atbfcr8p2is99znpy26u2lkl-7p73s1dx5",
            "3pu6hszjas",
        ),
        ("unlock with SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8", "7c37Cc8654"),
        ('level=error msg="Handler" password=hunter2secret', "hunter2secret"),
        ('{"auth":"dXNlcjpwYXNzd29yZA=="}', "dXNlcjpwYXNz"),
        ("Authorization: Bearer abcdef0123456789", "abcdef0123456789"),
        ("pull https://user:s3cr3tpass@registry.example/v2/ failed", "s3cr3tpass"),
        ("env MYSQL_PASSWORD='topsecretvalue'", "topsecretvalue"),
        ('api_key=\\"AKIAIOSFODNN7EXAMPLE\\"', "AKIAIOSFODNN7EXAMPLE"),
        ("-----BEGIN RSA PRIVATE KEY-----MIIEowIBAAKCAQEA", "MIIEowIBAAKCAQEA"),
        ("token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N", "eyJzdWIiOiIxMjM0"),
    ],
)
def test_secrets_are_taken_out_of_samples(text: str, secret: str) -> None:
    assert secret in text
    assert secret not in _logs.redact(text)
    assert "***" in _logs.redact(text)


@given(st.text(max_size=800))
def test_any_text_is_redacted_to_a_bounded_sample(text: str) -> None:
    assert len(_logs.redact(text)) <= _logs.SAMPLE


@given(st.from_regex(r"[0-9a-z]{25}-[0-9a-z]{25}", fullmatch=True), st.text(max_size=40), st.text(max_size=40))
def test_no_join_token_survives_whatever_stands_around_it(token: str, before: str, after: str) -> None:
    assert token not in _logs.redact(f"{before}SWMTKN-1-{token}{after}")


@given(st.lists(st.text(max_size=120), max_size=20))
def test_any_lines_are_reduced(lines: list[str]) -> None:
    for row in _logs.reduce_lines(lines).values():
        assert row["count"] >= 1
        assert len(row["sample"]) <= _logs.SAMPLE


@given(st.text(max_size=60))
def test_any_line_has_a_time_or_none(line: str) -> None:
    assert _logs.timestamp(line) is None or isinstance(_logs.timestamp(line), float)


@pytest.mark.parametrize("line", ['time="2026-99-99T99:99:99Z"', 'time="0000-00-00T00:00:00Z"', "no time"])
def test_an_impossible_time_does_not_end_the_reading(line: str) -> None:
    assert _logs.timestamp(line) is None or isinstance(_logs.timestamp(line), float)


def test_the_end_of_a_file_begins_with_a_whole_line(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("first line\nsecond line\nthird\n", encoding="ascii")
    assert _logs.tail(str(tmp_path / "log"), 12) == ("third\n", 6, True)
    assert _logs.tail(str(tmp_path / "log"), 1000) == ("first line\nsecond line\nthird\n", 29, False)


def test_a_syslog_is_read_for_the_engines_lines_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "syslog").write_text(
        "Nov 21 01:09:49 node1 kernel: The swarm does not have a leader\n" + LINES["iptables-chain-missing"] + "\n",
        encoding="ascii",
    )
    monkeypatch.setattr(_logs, "_journal", lambda limit: None)
    monkeypatch.setattr(_logs, "_kernel", lambda limit, missing: {})
    monkeypatch.setattr(_logs, "FILES", (("/nonexistent/docker.log", None), (str(tmp_path / "syslog"), "dockerd")))
    missing: list[dict[str, str]] = []
    log = _logs.read_log(100000, missing)
    assert (log["source"], log["path"], list(log["patterns"])) == (
        "file",
        str(tmp_path / "syslog"),
        ["iptables-chain-missing"],
    )
    assert missing == []


def test_an_empty_journal_gives_way_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docker.log").write_text(LINES["pool-overlap"] + "\n", encoding="ascii")
    monkeypatch.setattr(_logs, "_journal", lambda limit: ([], 0, False, None))
    monkeypatch.setattr(_logs, "FILES", ((str(tmp_path / "docker.log"), None),))
    assert _logs.read_log(100000, [])["source"] == "file"


def test_no_log_anywhere_is_said_with_the_places_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_logs, "_journal", lambda limit: None)
    monkeypatch.setattr(_logs, "FILES", (("/nonexistent/docker.log", None),))
    missing: list[dict[str, str]] = []
    assert _logs.read_log(100000, missing)["source"] is None
    assert "/nonexistent/docker.log" in missing[-1]["why"]

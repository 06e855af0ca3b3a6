# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _offload as offload
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal

UUID = "0f3a1c22-6a4b-4a35-9d3a-0123456789ab"
NAME = "tx-checksum-ip-generic"
# ethtool 6.1 on a veth, Linux 6.18, and on a vmxnet3 whose generic feature was requested.
LISTING = """Features for eth0:
rx-checksumming: on
tx-checksumming: on
\ttx-checksum-ipv4: off [fixed]
\ttx-checksum-ip-generic: {}
\ttx-checksum-sctp: on
scatter-gather: on
tx-tcp-segmentation: off [requested on]
"""


class Host:
    """ethtool and nmcli of a host."""

    def __init__(self, generic: str = "on", profile: str = "") -> None:
        self.generic, self.profile = generic, profile
        self.told: list[list[str]] = []

    def __call__(self, argv: list[str]) -> tuple[int, str, str]:
        if argv[:2] == ["ethtool", "-k"]:
            return 0, LISTING.format(self.generic), ""
        if argv[:2] == ["ethtool", "-K"]:
            self.generic = argv[-1]
        elif argv[-1] == "device":
            return 0, "eth0:connected\n", ""
        elif "GENERAL.CON-UUID" in argv:
            return 0, f"{UUID}\n", ""
        elif "show" in argv:
            return 0, f"{self.profile}\n", ""
        self.told.append(argv)
        return 0, "", ""


@pytest.mark.parametrize(
    ("interfaces", "features"),
    [
        (["eth0; reboot"], [NAME]),
        (["--help"], [NAME]),
        (["eth*"], [NAME]),
        (['eth0", RUN+="/bin/sh'], [NAME]),
        (["eth0\n"], [NAME]),
        (["a" * 16], [NAME]),
        (["eth0"], ["gro"]),
        (["eth0"], ["tx-checksum-ip-generic on rx"]),
        (["eth0"], ["--statistics"]),
    ],
)
def test_what_is_no_interface_or_checksum_feature_is_refused(interfaces: list[str], features: list[str]) -> None:
    with pytest.raises(offload.OffloadError):
        offload.read(interfaces, features, Host())


@pytest.mark.parametrize(
    ("generic", "changes"), [("on", True), ("off", False), ("off [fixed]", False), ("off [requested on]", False)]
)
def test_only_what_is_on_is_switched_off(tmp_path: Path, generic: str, changes: bool) -> None:
    host = Host(generic)
    rows = offload.read(["eth0"], [NAME, "tx-checksum-unheard-of"], host)
    assert [row.changes for row in rows] == [changes, False]
    assert [row.there for row in rows] == [True, False]
    journal = Journal("offload", str(tmp_path / "journal"))
    offload.switch_off(rows, journal, host)
    assert host.told == [["ethtool", "-K", "eth0", NAME, "off"]] * changes
    assert [entry["argv"][-1] for entry in journal.entries()] == ["on"] * changes


def test_what_the_driver_keeps_on_is_an_error() -> None:
    with pytest.raises(offload.OffloadError, match="the driver does not let"):
        offload.read(["eth0"], [NAME], Host("on [fixed]"))


def test_at_boot_a_udev_rule_does_it_and_keeps_what_others_wrote(tmp_path: Path) -> None:
    root, host, journal = tmp_path / "root", Host(), Journal("", str(tmp_path))
    (root / "usr/lib/udev").mkdir(parents=True)
    rows = offload.read(["eth0"], [NAME], host)
    offload.write(offload.plan(rows, False, host, str(root)), journal, host, str(root))
    assert not offload.plan(rows, False, host, str(root)).changes
    more = offload.read(["eth1"], [NAME], host)
    persist = offload.plan(more, False, host, str(root))
    assert persist.owners == {"eth1": "udev"}
    offload.write(persist, journal, host, str(root))
    lines = (root / offload.RULES_PATH.lstrip("/")).read_text().splitlines()
    assert lines[0] == offload.HEADER.strip()
    assert [line.partition("RUN+=")[0] for line in lines[1:]] == [
        'ACTION=="add|move", SUBSYSTEM=="net", KERNEL=="eth0", ',
        'ACTION=="add|move", SUBSYSTEM=="net", KERNEL=="eth1", ',
    ]
    assert lines[2].endswith(f'/ethtool -K eth1 {NAME} off"')
    assert not offload.plan(rows, False, host, str(root)).changes


def test_what_the_driver_has_fixed_off_needs_no_rule(tmp_path: Path) -> None:
    (tmp_path / "etc/udev").mkdir(parents=True)
    rows = offload.read(["eth0"], [NAME], Host("off [fixed]"))
    assert not offload.plan(rows, False, Host(), str(tmp_path)).changes


def test_a_rules_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / offload.RULES_PATH.lstrip("/")
    path.parent.mkdir(parents=True)
    path.write_text("# mine\n")
    with pytest.raises(offload.OffloadError, match="was not written by this module"):
        offload.plan(offload.read(["eth0"], [NAME], Host()), False, Host(), str(tmp_path))


@pytest.mark.parametrize(("profile", "undo"), [("", "ignore"), ("on", "on"), ("ignore", "ignore"), ("off", None)])
def test_networkmanager_gets_it_in_its_connection(tmp_path: Path, profile: str, undo: str | None) -> None:
    host = Host(profile=profile)
    persist = offload.plan(offload.read(["eth0"], [NAME], host), True, host, str(tmp_path))
    journal = Journal("nm", str(tmp_path / "journal"))
    offload.write(persist, journal, host, str(tmp_path))
    modify = ["nmcli", "connection", "modify", "uuid", UUID, f"ethtool.feature-{NAME}"]
    assert host.told == ([[*modify, "off"]] if undo else [])
    assert [entry["argv"] for entry in journal.entries()] == ([[*modify, undo]] if undo else [])
    assert persist.owners == {"eth0": "NetworkManager"}


@given(st.text())
def test_any_listing_is_read(text: str) -> None:
    assert isinstance(offload.parse(text), dict)


@given(st.text())
def test_any_text_in_our_file_is_read(text: str) -> None:
    rows = offload.read(["eth0"], [NAME], Host())
    assert f"-K eth0 {NAME} off" in offload.rules_text(offload.HEADER + text, rows)

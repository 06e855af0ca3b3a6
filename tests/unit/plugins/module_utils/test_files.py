# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _files
from tests.unit.descriptors import nothing_left_open


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A container's root beside a secret of the host."""
    (tmp_path / "secret").write_text("of the host", encoding="ascii")
    (tmp_path / "root" / "etc").mkdir(parents=True)
    return tmp_path / "root"


def test_a_file_is_read_up_to_the_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 200000)
    assert _files.read_text(str(tmp_path / "file"), 150000) == "x" * 150000


def test_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert _files.read_text(str(tmp_path / "gone")) is None
    assert _files.read_text(str(tmp_path)) is None
    assert _files.read_int(str(tmp_path / "gone")) is None


@pytest.mark.parametrize(("text", "number"), [("42\n", 42), ("-1", -1), ("", None), ("max\n", None)])
def test_one_value_files_are_numbers(tmp_path: Path, text: str, number: int | None) -> None:
    (tmp_path / "value").write_text(text, encoding="ascii")
    assert _files.read_int(str(tmp_path / "value")) == number


def test_a_pipe_without_a_writer_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert _files.read_text(str(tmp_path / "pipe")) == ""


def test_a_plain_file_below_a_root_is_read(root: Path) -> None:
    (root / "etc" / "resolv.conf").write_text("nameserver 127.0.0.11\n", encoding="ascii")
    assert _files.read_below(str(root), "/etc/resolv.conf") == "nameserver 127.0.0.11\n"


@pytest.mark.parametrize("target", ["/run/resolv", "../run/resolv", "../../../../run/./resolv", "../etc/../run/resolv"])
def test_links_are_followed_within_the_root(root: Path, target: str) -> None:
    (root / "run").mkdir()
    (root / "run" / "resolv").write_text("of the container", encoding="ascii")
    (root / "etc" / "resolv.conf").symlink_to(target)
    assert _files.read_below(str(root), "/etc/resolv.conf") == "of the container"


@pytest.mark.parametrize("up", ["../../secret", "../../../../../secret"])
def test_no_link_leads_out_of_the_root(root: Path, up: str) -> None:
    (root / "etc" / "resolv.conf").symlink_to(up)
    with pytest.raises(OSError, match="No such file"):
        _files.read_below(str(root), "/etc/resolv.conf")


def test_an_absolute_link_means_the_containers_root(root: Path) -> None:
    (root / "etc" / "resolv.conf").symlink_to(root.parent / "secret")
    with pytest.raises(OSError, match="No such file"):
        _files.read_below(str(root), "/etc/resolv.conf")


def test_a_linked_directory_does_not_lead_out_either(root: Path) -> None:
    (root.parent / "outside").mkdir()
    (root.parent / "outside" / "resolv.conf").write_text("of the host", encoding="ascii")
    (root / "etc").rmdir()
    (root / "etc").symlink_to("../outside")
    with pytest.raises(OSError, match="No such file"):
        _files.read_below(str(root), "/etc/resolv.conf")


def test_a_loop_of_links_ends(root: Path) -> None:
    (root / "etc" / "resolv.conf").symlink_to("resolv.conf")
    with pytest.raises(OSError, match="too many symbolic links"):
        _files.read_below(str(root), "/etc/resolv.conf")


def test_pipes_and_directories_are_refused(root: Path) -> None:
    os.mkfifo(root / "etc" / "resolv.conf")
    with pytest.raises(OSError, match="not a regular file"):
        _files.read_below(str(root), "/etc/resolv.conf")
    with pytest.raises(OSError, match="is a directory"):
        _files.read_below(str(root), "/etc")


def test_no_descriptor_is_left_open(root: Path) -> None:
    (root / "etc" / "resolv.conf").symlink_to("resolv.conf")
    with nothing_left_open():
        for path in ("/etc/resolv.conf", "/etc/nothing", "/etc", "/.."):
            with pytest.raises(OSError):
                _files.read_below(str(root), path)


@given(st.lists(st.sampled_from(["..", ".", "etc", "resolv.conf", "secret", ""]), max_size=12))
def test_no_path_leads_out_of_the_root(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    base = tmp_path_factory.getbasetemp() / "rooted"
    (base / "root" / "etc").mkdir(parents=True, exist_ok=True)
    (base / "secret").write_text("of the host", encoding="ascii")
    (base / "root" / "etc" / "resolv.conf").write_text("of the container", encoding="ascii")
    try:
        assert _files.read_below(str(base / "root"), "/".join(parts)) == "of the container"
    except OSError:
        pass

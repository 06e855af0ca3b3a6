# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _libraries


def _loaded() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.split(".")[0] in _libraries.NAMES}


@pytest.fixture(autouse=True)
def _own_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test imports anew, and leaves the interpreter as it was."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = _loaded()
    for name in before:
        del sys.modules[name]
    yield
    for name in _loaded():
        del sys.modules[name]
    sys.modules.update(before)


def bundle(folder: Path, **versions: str) -> str:
    """A folder with packages that have nothing but a version."""
    for name, version in versions.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"__version__ = {version!r}\n", encoding="utf-8")
    return str(folder)


def test_everything_comes_from_a_complete_bundle(tmp_path: Path) -> None:
    path = bundle(tmp_path / "b", pyroute2="99.0", docker="98.0")
    libraries = _libraries.load(path)
    assert libraries.origin == "bundle"
    assert libraries.versions == {"pyroute2": "99.0", "docker": "98.0"}
    assert libraries.missing == []
    assert libraries.pyroute2.__file__.startswith(path)  # type: ignore[union-attr]


def test_nothing_comes_from_an_incomplete_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [bundle(tmp_path / "host", pyroute2="97.0", docker="97.0")])
    libraries = _libraries.load(bundle(tmp_path / "b", pyroute2="99.0"))
    assert libraries.origin == "host"
    assert libraries.versions == {"pyroute2": "97.0", "docker": "97.0"}
    assert "does not contain docker" in libraries.missing[0]["why"]


def test_a_bundle_without_what_is_not_wanted_serves(tmp_path: Path) -> None:
    libraries = _libraries.load(bundle(tmp_path / "b", pyroute2="99.0"), ("pyroute2",))
    assert (libraries.origin, libraries.docker, libraries.missing) == ("bundle", None, [])


def test_a_missing_bundle_is_said_and_the_host_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [bundle(tmp_path / "host", pyroute2="97.0", docker="97.0")])
    libraries = _libraries.load(str(tmp_path / "gone"))
    assert libraries.pyroute2 is not None
    assert "is not a directory" in libraries.missing[0]["why"]


def test_a_library_that_is_too_old_is_refused_with_its_version_and_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bundle(tmp_path / "host", pyroute2="0.7.2", docker="97.0")
    monkeypatch.setattr(sys, "path", [folder])
    libraries = _libraries.load(None)
    assert libraries.pyroute2 is None
    assert libraries.docker is not None
    assert libraries.versions["pyroute2"] == "0.7.2"
    why = libraries.missing[0]["why"]
    assert "0.7.2" in why
    assert str(Path(folder) / "pyroute2") in why
    assert "0.9.2" in why


def test_no_library_at_all_is_two_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    libraries = _libraries.load(None)
    assert [note["what"] for note in libraries.missing] == ["pyroute2", "docker"]
    assert all("cannot be imported" in note["why"] for note in libraries.missing)


def test_a_broken_library_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bundle(tmp_path / "host", docker="97.0")
    (tmp_path / "host" / "docker" / "__init__.py").write_text("raise RuntimeError('half installed')", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [folder])
    libraries = _libraries.load(None, ("docker",))
    assert "half installed" in libraries.missing[0]["why"]


def test_one_that_is_loaded_already_from_elsewhere_is_not_mixed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [bundle(tmp_path / "host", pyroute2="97.0")])
    _libraries.load(None, ("pyroute2",))
    libraries = _libraries.load(bundle(tmp_path / "b", pyroute2="99.0"), ("pyroute2",))
    assert libraries.pyroute2 is None
    assert "was already loaded from" in libraries.missing[0]["why"]


def test_wanting_nothing_imports_nothing(tmp_path: Path) -> None:
    _libraries.load(bundle(tmp_path / "b", pyroute2="99.0", docker="99.0"), ())
    assert not set(_libraries.NAMES) & set(sys.modules)


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("0.9.7", (0, 9, 7)), ("7.1.0.post1", (7, 1, 0)), ("0.9.2rc1", (0, 9, 2)), ("unknown", ()), ("", ())],
)
def test_versions_compare_by_number(version: str, numbers: tuple[int, ...]) -> None:
    assert _libraries.version_tuple(version) == numbers


@given(st.text(max_size=30))
def test_any_text_is_a_version_or_none(text: str) -> None:
    assert isinstance(_libraries.version_tuple(text), tuple)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The library bundle: built from pinned wheels by the real pip, from a folder of wheels made here."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils import bundle
from tests.unit import interpreters

Files = dict[str, bytes]


def wheel(folder: Path, name: str, version: str, files: Files | None = None) -> str:
    """A pure wheel that pip accepts, and its line for the pins."""
    info = f"{name}-{version}.dist-info"
    contents = {
        **(files or {f"{name}/__init__.py": f"__version__ = {version!r}\n".encode()}),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in contents.items():
            archive.writestr(member, content)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


class Index:
    """A folder of wheels that is all pip knows, and the pins that name them."""

    def __init__(self, folder: Path) -> None:
        self.wheels = folder / "wheels"
        self.wheels.mkdir()
        self.pins = folder / "pins.txt"
        self.cache = folder / "cache" / "crosshost.doctor"
        self.add("pyroute2", "0.9.7")
        self.add("docker", "7.2.0")

    def add(self, name: str, version: str, files: Files | None = None) -> None:
        line = wheel(self.wheels, name, version, files)
        with open(self.pins, "a", encoding="utf-8") as stream:
            stream.write(line)

    def obtain(self) -> bundle.Bundle:
        return bundle.obtain(pins=self.pins)

    def kept(self) -> list[str]:
        return sorted(path.name for path in self.cache.glob("*") if path.suffix != ".lock")


@pytest.fixture(name="index")
def make_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    index = Index(tmp_path)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index.wheels))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return index


def forget_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, whoever builds fails."""
    monkeypatch.setattr(sys, "executable", "/bin/false")


def test_holds_the_files_of_all_wheels_and_their_versions(index: Index) -> None:
    built = index.obtain()
    with zipfile.ZipFile(built.path) as archive:
        assert {"pyroute2/__init__.py", "docker/__init__.py"} <= set(archive.namelist())
    assert built.libraries == {"pyroute2": "0.9.7", "docker": "7.2.0"}
    assert built.sha256 == hashlib.sha256(built.content).hexdigest()
    assert stat.S_IMODE(built.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(built.path.parent.stat().st_mode) == 0o700


def test_same_wheels_give_the_same_bytes(index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = index.obtain()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    os.utime(index.wheels / "docker-7.2.0-py3-none-any.whl", (0, 0))
    second = index.obtain()
    assert first.path != second.path
    assert first.content == second.content


def test_is_built_once(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    first = index.obtain()
    forget_pip(monkeypatch)
    assert index.obtain() == first
    assert bundle.at_hand(pins=index.pins) == first


def test_at_hand_never_builds(index: Index) -> None:
    assert bundle.at_hand(pins=index.pins) is None
    assert not index.cache.exists()


def test_changed_pins_make_another_bundle(index: Index) -> None:
    first = index.obtain()
    index.add("idna", "3.20")
    second = index.obtain()
    assert second.path != first.path
    assert second.libraries["idna"] == "3.20"


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 torn", None], ids=["emptied", "torn", "a byte flipped"])
def test_a_damaged_cache_is_built_anew(index: Index, damage: bytes | None) -> None:
    good = index.obtain()
    content = bytearray(good.content)
    content[len(content) // 2] ^= 1
    good.path.write_bytes(bytes(content) if damage is None else damage)
    assert bundle.at_hand(pins=index.pins) is None
    assert index.obtain().content == good.content
    assert index.kept() == [good.path.name]


def test_what_a_killed_builder_left_is_cleared(index: Index) -> None:
    index.cache.mkdir(parents=True)
    (index.cache / ".wheels-dead").mkdir()
    (index.cache / ".wheels-dead" / "a.whl").touch()
    prefix = hashlib.sha256(b"%d\n%s" % (bundle.FORMAT, index.pins.read_bytes())).hexdigest()[:16]
    (index.cache / f".bundle-{prefix}.zip").write_bytes(b"half")
    assert index.kept() != [index.obtain().path.name]
    assert index.kept() == [index.obtain().path.name]


def _run_pip_with(python: str) -> None:
    sys.executable = python


def _obtain(pins: str) -> str:
    return bundle.obtain(pins=Path(pins)).sha256


def test_many_workers_at_once_share_one_build(index: Index) -> None:
    calls = index.cache.parent.parent / "calls"
    wrapper = calls.with_name("python")
    wrapper.write_text(f'#!/bin/sh\necho call >> "{calls}"\nexec "{sys.executable}" "$@"\n')
    wrapper.chmod(0o755)
    context = multiprocessing.get_context("spawn")
    context.set_executable(sys.executable)
    with context.Pool(4, initializer=_run_pip_with, initargs=(str(wrapper),)) as pool:
        results = pool.map(_obtain, [str(index.pins)] * 8, chunksize=1)
    assert len(set(results)) == 1
    assert calls.read_text().count("call") == 1


def test_a_wheel_that_differs_from_its_pin_is_refused(index: Index) -> None:
    wheel(index.wheels, "docker", "7.2.0", {"docker/__init__.py": b"import evil\n"})
    with pytest.raises(bundle.BundleError, match="DO NOT MATCH THE HASHES"):
        index.obtain()
    assert index.kept() == []


def test_a_dependency_that_is_not_pinned_is_not_fetched(index: Index) -> None:
    wheel(index.wheels, "requests", "2.32.5")
    assert "requests" not in index.obtain().libraries


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"other/fast.cpython-311-x86_64-linux-gnu.so": b"\x7fELF"}, "compiled"),
        ({"other/../../escape.py": b""}, "leads out"),
        ({"/etc/escape.py": b""}, "leads out"),
        ({"docker/__init__.py": b"another docker"}, "another wheel"),
    ],
)
def test_a_wheel_with_unfit_files_is_refused(index: Index, files: Files, why: str) -> None:
    index.add("other", "1.0", files)
    with pytest.raises(bundle.BundleError, match=why):
        index.obtain()


def test_scripts_of_wheels_are_left_out(index: Index) -> None:
    index.add("other", "1.0", {"other-1.0.data/scripts/run": b"#!python\n", "other/__init__.py": b""})
    with zipfile.ZipFile(index.obtain().path) as archive:
        assert "other/__init__.py" in archive.namelist()
        assert not [name for name in archive.namelist() if ".data/" in name]


def test_no_index_says_what_to_do(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(bundle.BundleError) as caught:
        index.obtain()
    for hint in ("package index", "PIP_INDEX_URL", "prepare_bundle", "--output"):
        assert hint in str(caught.value)


def test_no_pip_says_what_to_do(index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(bundle.BundleError, match="has no pip"):
        index.obtain()


def test_a_cache_path_in_the_way_says_what_to_do(index: Index) -> None:
    index.cache.parent.mkdir()
    index.cache.write_text("a file")
    with pytest.raises(bundle.BundleError, match="XDG_CACHE_HOME"):
        index.obtain()


def made_zip(path: Path, members: Files) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return str(path)


WHOLE: Files = {
    "pyroute2/__init__.py": b"",
    "pyroute2-0.9.7.dist-info/METADATA": b"",
    "docker/__init__.py": b"",
    "docker-7.2.0.dist-info/METADATA": b"",
}


def test_a_given_bundle_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_pip(monkeypatch)
    given = made_zip(tmp_path / "given.zip", WHOLE)
    assert bundle.obtain(given).libraries == {"pyroute2": "0.9.7", "docker": "7.2.0"}
    assert bundle.at_hand(given) == bundle.obtain(given)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({}, "does not contain pyroute2 and docker"),
        ({name: content for name, content in WHOLE.items() if "docker" not in name}, "does not contain docker"),
        ({**WHOLE, "../outside.py": b""}, "leads out"),
        ({**WHOLE, "/outside.py": b""}, "leads out"),
        ({**WHOLE, "x\\y.py": b""}, "leads out"),
        ({**WHOLE, "_speed.so": b""}, "compiled"),
    ],
)
def test_a_given_bundle_that_is_none_is_refused(tmp_path: Path, members: Files, why: str) -> None:
    given = made_zip(tmp_path / "given.zip", members)
    with pytest.raises(bundle.BundleError, match=why):
        bundle.obtain(given)


@pytest.mark.parametrize("content", [b"", b"no zip at all", None], ids=["empty", "text", "missing"])
def test_a_given_file_that_is_no_zip_is_refused(tmp_path: Path, content: bytes | None) -> None:
    given = tmp_path / "given.zip"
    if content is not None:
        given.write_bytes(content)
    with pytest.raises(bundle.BundleError, match="cannot be read"):
        bundle.obtain(str(given))


def test_the_command_writes_the_bundle_where_it_is_told(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    built = index.obtain()
    output = index.pins.with_name("bundle.zip")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "PINS", index.pins)
        patch.setattr(bundle.obtain, "__defaults__", (None, index.pins))
        assert bundle.main(["--output", str(output)]) == 0
    assert output.read_bytes() == built.content
    assert json.loads(capsys.readouterr().out)["sha256"] == built.sha256


def test_every_pin_has_a_version_and_a_hash() -> None:
    lines = bundle.PINS.read_text().replace("\\\n", " ").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert {pin.split("==")[0] for pin in pins} >= set(bundle.REQUIRED)
    for pin in pins:
        assert "==" in pin and "--hash=sha256:" in pin, pin


@pytest.fixture(name="real", scope="module")
def extracted_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = bundle.at_hand()
    if found is None:
        pytest.skip("the library bundle is not built: make setup")
    folder = tmp_path_factory.mktemp("bundle")
    with zipfile.ZipFile(found.path) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.bundle
@pytest.mark.parametrize("version", interpreters.HOSTS_HAVE)
def test_the_real_bundle_works_on_this_python(real: Path, version: str, tmp_path: Path) -> None:
    python = interpreters.find(version)
    if python is None:
        pytest.skip(f"there is no Python {version} on this machine")
    program = """if True:
        import sys
        sys.path.insert(0, sys.argv[1])
        import docker, pyroute2, requests, urllib3, idna, certifi, charset_normalizer
        from pyroute2 import IPRoute
        from pyroute2.nftables.main import NFTSocket
        for module in (docker, pyroute2, requests, urllib3, idna, certifi, charset_normalizer):
            assert module.__file__.startswith(sys.argv[1]), module.__file__
        with IPRoute() as route:
            assert any(link.get_attr("IFLA_IFNAME") == "lo" for link in route.get_links())
        docker.DockerClient(base_url="unix:///nowhere.sock", version="1.41")
    """
    command = [python, "-I", "-S", "-B", "-c", program, str(real)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

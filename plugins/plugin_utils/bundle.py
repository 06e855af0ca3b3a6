# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The library bundle: one zip of pure wheels that runs on every Python a host may have.

Built once on the controller by pip from meta/host-libraries.txt, where every wheel is pinned by hash, and kept in the
user's cache. The name of the file holds the hash of the pins and of the content, so that a changed pin, a torn write
and a damaged disk are all one case: the bundle is not there, build it.

    python3 plugins/plugin_utils/bundle.py [--output FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

FORMAT = 1
OLDEST_PYTHON = "3.9"
REQUIRED = ("pyroute2", "docker")
PINS = Path(__file__).resolve().parents[2] / "meta" / "host-libraries.txt"
BUILD_SECONDS = 300.0
MAX_BYTES = 64 * 1024 * 1024
MAX_FILES = 5000
EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time a zip can hold
ELSEWHERE = (
    "On a machine that reaches a Python package index, run this collection's "
    "`python3 plugins/plugin_utils/bundle.py --output bundle.zip`, copy the file to the controller "
    "and set prepare_bundle (doctor_bundle) to its path."
)


class BundleError(Exception):
    """There is no usable bundle; the message says why and what to do."""


@dataclass(frozen=True)
class Bundle:
    """The bytes of a verified bundle, their checksum, where they were read, and the versions of what is inside."""

    content: bytes = field(repr=False)
    sha256: str
    path: Path
    libraries: dict[str, str]


def cache_path() -> Path:
    """The folder of the user's that bundles are kept in."""
    root = os.environ.get("XDG_CACHE_HOME") or ""
    return (Path(root) if os.path.isabs(root) else Path.home() / ".cache") / "crosshost.doctor"


def at_hand(given: str | None = None, pins: Path = PINS) -> Bundle | None:
    """The bundle given, or the cached one; None where one would have to be built."""
    if given:
        return inspect(Path(given).expanduser())
    return _cached(cache_path(), _prefix(pins))


def obtain(given: str | None = None, pins: Path = PINS) -> Bundle:
    """The bundle to carry: the one given, or the cached one, or one built now. Safe to call from many processes."""
    if found := at_hand(given, pins):
        return found
    directory, prefix = cache_path(), _prefix(pins)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        with _locked(directory / f"{prefix}.lock"):
            return _cached(directory, prefix) or _build_into(directory, prefix, pins)
    except OSError as exc:
        raise BundleError(
            f"The controller cannot keep a library bundle in {directory}: {exc.strerror}. "
            "Set XDG_CACHE_HOME to a folder of yours, or prepare_bundle to a bundle built elsewhere."
        ) from exc


def inspect(path: Path) -> Bundle:
    """Verify a bundle: a whole zip of pure Python that holds the required libraries and stays inside its folder."""
    try:
        content = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
            if len(infos) > MAX_FILES or sum(info.file_size for info in infos) > MAX_BYTES:
                raise BundleError(f"{path} holds more than {MAX_FILES} files or {MAX_BYTES} bytes: no library bundle.")
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, zlib.error) as exc:
        raise BundleError(f"The library bundle {path} cannot be read: {exc}. {ELSEWHERE}") from exc
    if damaged:
        raise BundleError(f"The library bundle {path} is damaged at {damaged}. {ELSEWHERE}")
    names = [info.filename for info in infos]
    for name in names:
        if why := _unfit(name):
            raise BundleError(f"The library bundle {path} holds {name!r}, which {why}. {ELSEWHERE}")
    libraries = _distributions(names)
    absent = [name for name in REQUIRED if name not in libraries or f"{name}/__init__.py" not in names]
    if absent:
        raise BundleError(f"The library bundle {path} does not contain {' and '.join(absent)}. {ELSEWHERE}")
    return Bundle(content, hashlib.sha256(content).hexdigest(), path, libraries)


def build(target: Path, pins: Path = PINS) -> None:
    """Let pip fetch the pinned wheels and write them into one zip, the same bytes for the same wheels."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".wheels-") as folder:
        _download(Path(folder), pins)
        wheels = sorted(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(target, "x", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name, content in sorted(_contents(wheels).items()):
                info = zipfile.ZipInfo(name, EPOCH)
                info.create_system = 3
                info.external_attr = (stat.S_IFREG | 0o644) << 16
                archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    target.chmod(0o600)


def _prefix(pins: Path) -> str:
    return hashlib.sha256(b"%d\n%s" % (FORMAT, pins.read_bytes())).hexdigest()[:16]


def _cached(directory: Path, prefix: str) -> Bundle | None:
    """A bundle of these pins that is what it was when it was verified: its name says so."""
    for path in sorted(directory.glob(f"{prefix}-*.zip")):
        with contextlib.suppress(OSError, zipfile.BadZipFile):
            content = path.read_bytes()
            sha256 = hashlib.sha256(content).hexdigest()
            if path.stem == f"{prefix}-{sha256}":
                names = zipfile.ZipFile(io.BytesIO(content)).namelist()
                return Bundle(content, sha256, path, _distributions(names))
    return None


def _build_into(directory: Path, prefix: str, pins: Path) -> Bundle:
    for leftover in directory.glob(".*"):  # of a builder that was killed; the lock is ours now
        if leftover.name.startswith((".wheels-", ".bundle-")):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    unfinished = directory / f".bundle-{prefix}.zip"
    build(unfinished, pins)
    bundle = inspect(unfinished)
    final = directory / f"{prefix}-{bundle.sha256}.zip"
    os.replace(unfinished, final)
    for other in directory.glob(f"{prefix}-*.zip"):
        if other != final:  # did not verify, else it would have been used
            other.unlink(missing_ok=True)
    return replace(bundle, path=final)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One builder at a time: with forks, every host's worker wants the bundle at once."""
    with open(path, "w", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _download(folder: Path, pins: Path) -> None:
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"),
        *("--no-deps", "--require-hashes", "--only-binary=:all:", "--python-version", OLDEST_PYTHON),
        *("--implementation", "py", "--abi", "none", "--platform", "any"),
        *("--requirement", str(pins), "--dest", str(folder)),
    ]
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=BUILD_SECONDS,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except subprocess.TimeoutExpired as exc:
        raise BundleError(f"pip did not finish within {BUILD_SECONDS:.0f} s on the controller. {ELSEWHERE}") from exc
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise BundleError(
            f"Hosts lack pyroute2 or docker, and Ansible's Python on the controller ({sys.executable}) has no pip to "
            f"fetch them with. Install pip for it (Debian: apt-get install python3-pip). Or: {ELSEWHERE}"
        )
    errors = [line.strip() for line in done.stderr.splitlines() if line.strip().startswith("ERROR")]
    why = " ".join(errors[:3]) or done.stderr.strip()[-400:] or f"exit status {done.returncode}"
    raise BundleError(
        "Hosts lack pyroute2 or docker, and the controller could not fetch them from its Python package index "
        f"(pip said: {why}). Give the controller an index it reaches (PIP_INDEX_URL). Or: {ELSEWHERE}"
    )


def _contents(wheels: list[Path]) -> dict[str, bytes]:
    """Every file of every wheel by its path in the bundle."""
    contents: dict[str, bytes] = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for info in archive.infolist():
                name = info.filename
                if info.is_dir() or ".data/" in name or name.endswith(".dist-info/RECORD"):
                    continue
                if why := _unfit(name):
                    raise BundleError(f"{wheel.name} holds {name!r}, which {why}.")
                if name in contents:
                    raise BundleError(f"{wheel.name} holds {name!r}, and so does another wheel of the bundle.")
                contents[name] = archive.read(info)
    return contents


def _unfit(name: str) -> str | None:
    """Why a member has no place in a bundle, or None."""
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        return "leads out of the bundle's folder"
    if name.endswith((".so", ".pyd", ".dll", ".dylib")):
        return "is compiled for one platform; a bundle is pure Python"
    return None


def _distributions(names: list[str]) -> dict[str, str]:
    found = (re.match(r"([A-Za-z0-9_.]+)-([^-/]+)\.dist-info/METADATA$", name) for name in names)
    return {match[1].lower(): match[2] for match in found if match}


def main(arguments: list[str] | None = None) -> int:
    """Build the bundle into the cache, or into a file to carry to a controller that reaches no package index."""
    parser = argparse.ArgumentParser(prog="bundle", description=main.__doc__)
    parser.add_argument("--output", type=Path, help="write the bundle to this file as well")
    options = parser.parse_args(arguments)
    try:
        bundle = obtain()
        if options.output:
            options.output.write_bytes(bundle.content)
    except (BundleError, OSError) as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    described = {"path": str(options.output or bundle.path), "sha256": bundle.sha256, "libraries": bundle.libraries}
    sys.stdout.write(json.dumps(described) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The folder of one run on a host: the only thing a run may leave there, and the next run clears away.

    <base>/                 0700, of the user who runs: /run/crosshost.doctor for root
    <base>/<run id>/        0700
        run.json            who made it and until when it is certainly wanted
        lib/                the extracted library bundle, when the host has no libraries of its own
        ...                 whatever modules of the run need; a process that outlives its module holds an flock here

This file also runs where it will refuse to go on: it keeps to the syntax of Python 3.8.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import stat
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

RECORD = "run.json"
LIBRARY = "lib"
DIGEST = ".bundle-sha256"
DOOMED = ".removing-"
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MAX_BYTES = 64 * 1024 * 1024
MAX_FILES = 5000
MAX_RECORD = 65536
CLOCK_SLACK = 300.0
LOCK_SECONDS = 30.0


class FolderError(Exception):
    """The folder cannot be used; the message names the path and what to do."""


@dataclass
class Others:
    """What was found beside the run's own folder."""

    removed: list[str] = field(default_factory=list)
    # Folders of runs of the same controller that may have died: only the controller can tell.
    unsure: list[dict[str, Any]] = field(default_factory=list)


def is_root() -> bool:
    return os.geteuid() == 0


def default_base() -> str:
    """Where run folders are: root has /run; anybody else a folder of their own in the temporary directory."""
    if is_root():
        return "/run/crosshost.doctor"
    return os.path.join(tempfile.gettempdir(), f"crosshost.doctor-{os.geteuid()}")


class HostFolder:
    """One run's folder below C(base)."""

    def __init__(self, base: str, run_id: str) -> None:
        if not RUN_ID.fullmatch(run_id):
            raise FolderError(f"{run_id!r} is not a run id: letters, digits, '.', '_' and '-', at most 100 of them.")
        self.base = os.path.abspath(base)
        self.path = os.path.join(self.base, run_id)
        self.run_id = run_id

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs of the host out, and the base in existence: making, clearing and removing take turns."""
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            handle = self._open_base()
            try:
                self._lock(handle, deadline)
                if _same(handle, self.base):  # else the run before us removed it while we waited
                    yield
                    return
            finally:
                os.close(handle)

    def _open_base(self) -> int:
        for _attempt in range(100):
            try:
                with contextlib.suppress(FileExistsError):  # what is there is looked at next; it may also just vanish
                    os.makedirs(self.base, mode=0o700, exist_ok=True)
                check_private(self.base)
                return os.open(self.base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # another run removed it between two of our steps
            except OSError as exc:
                raise FolderError(f"{self.base} cannot be made: {exc.strerror}.") from exc
        raise FolderError(f"{self.base} cannot be made: it vanishes as soon as it is there.")

    def _lock(self, handle: int, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as exc:
                if time.monotonic() > deadline:
                    raise FolderError(
                        f"Another run has held {self.base} for {LOCK_SECONDS:.0f} s: `fuser {self.base}` names it."
                    ) from exc
                time.sleep(0.02)

    def claim(self, owner: dict[str, Any], lifetime: float, now: float) -> bool:
        """Make the folder, or take up the one this run made before; True if it was made. Call it inside L(alone)."""
        try:
            os.mkdir(self.path, 0o700)
            created = True
        except FileExistsError:
            check_private(self.path)
            created = False
        except OSError as exc:
            raise FolderError(f"The run's folder {self.path} cannot be made: {exc.strerror}.") from exc
        record = read_record(self.path) or {}
        if created or record.get("deadline", 0) < now + lifetime / 2:
            fresh = {"run_id": self.run_id, "created": record.get("created", now), "deadline": now + lifetime}
            write_file(os.path.join(self.path, RECORD), json.dumps({**fresh, "owner": owner}).encode())
        return created

    def remove(self) -> bool:
        """Remove the folder, and the base when nothing else is in it; True if there was something to remove."""
        if not os.path.lexists(self.base):
            return False
        with self.alone():
            existed = os.path.lexists(self.path)
            if existed:
                discard(self.path)
            try:
                os.rmdir(self.base)
            except OSError:
                return existed  # other runs are in it
        return True

    def clear_others(self, dead: list[str], controller: str | None, lifetime: float, now: float) -> Others:
        """Remove what killed runs left. Kept: what a process still holds, and what may still be wanted.

        Call it inside L(alone).

        @param dead: run ids whose controller process is known to have ended.
        @param controller: identity of the controller asking; its own unexpired runs come back as C(unsure).
        """
        others = Others()
        for name in sorted(os.listdir(self.base)):
            path = os.path.join(self.base, name)
            if name == self.run_id or not stat.S_ISDIR(os.lstat(path).st_mode):
                continue
            if name.startswith(DOOMED):
                discard(path)
                continue
            record = read_record(path) or {}
            owner = record.get("owner") or {}
            wanted = name not in dead and not expired(record, path, lifetime, now)
            if wanted and controller and owner.get("controller") == controller:
                others.unsure.append({"run_id": name, "owner": owner})
            elif not wanted and not in_use(path):
                discard(path)
                others.removed.append(name)
        return others

    def library_path(self) -> str | None:
        """The extracted bundle, or None."""
        path = os.path.join(self.path, LIBRARY)
        return path if os.path.isfile(os.path.join(path, DIGEST)) else None

    def extract(self, content: bytes, sha256: str) -> bool:
        """Extract the bundle unless this very one is there; it appears complete or not at all."""
        if hashlib.sha256(content).hexdigest() != sha256:
            raise FolderError("The library bundle arrived damaged: its checksum differs. Run again.")
        final = os.path.join(self.path, LIBRARY)
        if _first_line(os.path.join(final, DIGEST)) == sha256:
            return False
        unfinished = tempfile.mkdtemp(prefix=".lib-", dir=self.path)
        try:
            unpack(content, unfinished)
            write_file(os.path.join(unfinished, DIGEST), sha256.encode())
            if os.path.lexists(final):
                discard(final)
            os.rename(unfinished, final)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        return True


def versions(library_path: str, names: Sequence[str]) -> dict[str, str | None]:
    """The versions of distributions in an extracted bundle, from the names of their metadata folders."""
    found = (re.match(r"(.+)-([^-]+)\.dist-info$", entry) for entry in sorted(os.listdir(library_path)))
    known = {match[1].lower(): match[2] for match in found if match}
    return {name: known.get(name) for name in names}


def check_private(path: str) -> None:
    """Refuse a folder that somebody else made or may change: what lies in it is executed."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise FolderError(f"{path} cannot be looked at: {exc.strerror}.") from exc
    if not stat.S_ISDIR(found.st_mode):
        raise FolderError(f"{path} is in the way: it is not a directory. Remove it or set base_path.")
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise FolderError(
            f"{path} belongs to user {found.st_uid} with mode {stat.S_IMODE(found.st_mode):04o}; it must belong to "
            f"user {os.geteuid()} with mode 0700. Remove it or set base_path."
        )


def expired(record: dict[str, Any], path: str, lifetime: float, now: float) -> bool:
    """Whether nobody can want the folder any more, also where its record is missing or the clock was set back."""
    created, deadline = record.get("created"), record.get("deadline")
    if not isinstance(created, (int, float)) or not isinstance(deadline, (int, float)):
        created = os.lstat(path).st_mtime
        deadline = created + lifetime
    return now > deadline or now < created - CLOCK_SLACK


def in_use(path: str) -> bool:
    """Whether a process holds an flock on a file of the folder: its identity and sign of life (see the module)."""
    for name in _regular_files(path):
        try:
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            continue
        finally:
            os.close(handle)
    return False


def _regular_files(path: str) -> Iterator[str]:
    for folder, folders, files in os.walk(path):
        if LIBRARY in folders:
            folders.remove(LIBRARY)
        yield from (os.path.join(folder, name) for name in files)


def discard(path: str) -> None:
    """Remove a tree. It gets a name of its own first: what is half removed is never mistaken for a run."""
    doomed = tempfile.mkdtemp(prefix=DOOMED, dir=os.path.dirname(path))
    os.rename(path, os.path.join(doomed, "it"))
    shutil.rmtree(doomed, ignore_errors=True)


def _same(handle: int, path: str) -> bool:
    """Whether an open directory is still the one at the path."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def unpack(content: bytes, target: str) -> None:
    """Extract a zip of plain files below C(target), and refuse anything else before the first byte is written."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            if len(infos) > MAX_FILES or sum(info.file_size for info in infos) > MAX_BYTES:
                raise FolderError(f"The library bundle holds more than {MAX_FILES} files or {MAX_BYTES} bytes.")
            for info in infos:
                kind = stat.S_IFMT(info.external_attr >> 16)
                parts = info.filename.split("/")
                if kind not in (0, stat.S_IFREG) or "\\" in info.filename or {"", ".", ".."} & set(parts):
                    raise FolderError(f"The library bundle holds {info.filename!r}, which is no plain file inside it.")
            for info in infos:
                name = os.path.join(target, *info.filename.split("/"))
                os.makedirs(os.path.dirname(name), mode=0o700, exist_ok=True)
                write_file(name, archive.read(info))
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as exc:
        raise FolderError(f"The library bundle cannot be extracted: {exc}.") from exc
    except OSError as exc:
        raise FolderError(f"The library bundle cannot be extracted to {target}: {exc.strerror}.") from exc


def write_file(path: str, content: bytes) -> None:
    """Write a file of mode 0600; a symbolic link in its place is refused."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)


def read_record(path: str) -> dict[str, Any] | None:
    """run.json of a folder; None where it is missing or torn."""
    try:
        with open(os.path.join(path, RECORD), "rb") as stream:
            record = json.loads(stream.read(MAX_RECORD))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _first_line(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            return stream.readline(200).strip()
    except OSError:
        return None

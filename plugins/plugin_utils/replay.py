# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Takes over the run folder of somebody else, as a folder or as a tar archive of it, and trusts it with nothing.

Only what the engine reads is taken: run.json, the records of hosts, the plans. Captures, evidence archives and
whatever else is beside them are passed over unread. Everything is checked before it is used: names, kinds and sizes
of files, and the shape of what is in them. The source is never written to.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import os
import re
import stat
import tarfile
import tempfile
import typing as t
import zlib

from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder, RunFolderError, safe_name

Facts = dict[str, t.Any]

MAX_FILES = 50000
MAX_FILE = 128 << 20
MAX_TOTAL = 2 << 30
MAX_HOSTS = 10000
MAX_READ = 64 << 20  # at once by the reader of tar headers, which reads what a header says
SCHEMA = "1"
_NAME = r"[A-Za-z0-9%._~-]{1,255}"
_WANTED = re.compile(rf"run\.json|hosts/{_NAME}/[a-z_]{{1,64}}-{_NAME}\.json|plan/{_NAME}/{_NAME}\.json")
# What a record of a module has to be for the engine to read it: the type of each key that it goes through.
_TABLES: dict[str, dict[str, type]] = {
    "overlay_facts": {
        **dict.fromkeys(("host", "engine", "swarm", "log"), dict),
        **dict.fromkeys(("networks", "containers", "namespaces", "missing"), list),
    },
    "path_probe": {"results": list, "missing": list},
    "mtu_probe": {"results": list, "missing": list},
    "vxlan_capture": {"taps": list, "sightings": list, "anomalies": list, "missing": list},
}

Entry = tuple[str, t.Callable[[], bytes]]


class BundleError(RunFolderError):
    """The bundle is not taken; the message says what is wrong with it."""


def take_over(source: str, target: str) -> RunFolder:
    """Make a run folder at C(target) of what is at C(source).

    @raises RunFolderError: the source is no run, or is not to be trusted; or the target cannot be written.
    """
    source, target = (os.path.abspath(os.path.expanduser(path)) for path in (source, target))
    _apart(source, target)
    folder: RunFolder | None = None
    with contextlib.ExitStack() as stack:
        entries = _of_folder(source) if os.path.isdir(source) else _of_archive(stack.enter_context(_opened(source)))
        try:
            for name, read in entries:  # run.json comes first
                content = _checked(name, read())
                if folder is None:
                    if name != "run.json":
                        break
                    folder = RunFolder.create(target, {**content, "replayed_from": source})
                else:
                    folder.write(name, content)
        except BaseException:
            if folder is not None:
                folder.forget()
            raise
    if folder is None:
        raise BundleError(f"{source} holds no run: there is no run.json in it.")
    return folder


def _apart(source: str, target: str) -> None:
    """The run folder of a replay is emptied before it is written: it must have nothing to do with the source."""
    if not os.path.exists(source):
        raise BundleError(
            f"{source} does not exist. doctor_replay is the folder of an earlier run, or a .tar.gz of it."
        )
    inner, outer = os.path.realpath(target), os.path.realpath(source)
    for one, other in ((inner, outer), (outer, inner)):
        if one == other or one.startswith(other + os.sep):
            raise BundleError(
                f"The replay of {source} would be written into it ({target}): give another doctor_report_dir."
            )


class _Budget:
    """Counts what is read, and ends it."""

    def __init__(self) -> None:
        self.files = 0
        self.bytes = 0

    def take(self, name: str, size: int) -> None:
        self.files += 1
        self.bytes += size
        if size > MAX_FILE:
            raise BundleError(f"{name[:200]!r} has {size} bytes; a record has at most {MAX_FILE}.")
        if self.files > MAX_FILES or self.bytes > MAX_TOTAL:
            raise BundleError(f"It holds more than {MAX_FILES} records or {MAX_TOTAL} bytes of them.")


def _of_folder(source: str) -> t.Iterator[Entry]:
    """The wanted files of a folder. A link anywhere among them is refused: it could lead to any file."""
    budget = _Budget()
    for place, depth in (("run.json", 0), ("hosts", 2), ("plan", 2)):
        path = os.path.join(source, place)
        if os.path.lexists(path):
            yield from _below(path, place, depth, budget)


def _below(path: str, name: str, depth: int, budget: _Budget) -> t.Iterator[Entry]:
    found = os.lstat(path)
    if stat.S_ISDIR(found.st_mode) and depth:
        for entry in sorted(os.listdir(path)):
            yield from _below(os.path.join(path, entry), f"{name}/{entry}", depth - 1, budget)
    elif not stat.S_ISREG(found.st_mode):
        raise BundleError(f"{path!r} is neither a plain file nor a folder where one is expected.")
    elif _WANTED.fullmatch(name):
        budget.take(name, found.st_size)
        yield name, functools.partial(_plain, path)


def _plain(path: str) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as stream:
            return stream.read(MAX_FILE)
    except OSError as exc:
        raise BundleError(f"{path} cannot be read: {exc.strerror}") from exc


class _Guarded(io.RawIOBase):
    """A file that gives no more than a header may honestly need: a forged one asks for gigabytes."""

    def __init__(self, raw: t.IO[bytes]) -> None:
        self._raw = raw

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_READ:
            raise BundleError("It has a header of more than 64 MiB.")
        return self._raw.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


@contextlib.contextmanager
def _opened(source: str) -> t.Iterator[t.IO[bytes]]:
    """The tar at C(source), expanded into a file without a name where it is compressed, up to a limit."""
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        raise BundleError(f"{source} cannot be read: {exc.strerror}") from exc
    with os.fdopen(descriptor, "rb") as raw:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BundleError(f"{source} is neither a folder nor a file.")
        magic = raw.read(2)
        raw.seek(0)
        if magic != b"\x1f\x8b":
            yield raw
            return
        with tempfile.TemporaryFile(prefix="crosshost-doctor-") as expanded:
            _expand(source, raw, t.cast("t.IO[bytes]", expanded))
            yield t.cast("t.IO[bytes]", expanded)


def _expand(source: str, raw: t.IO[bytes], expanded: t.IO[bytes]) -> None:
    size = 0
    try:
        with gzip.GzipFile(fileobj=raw) as stream:
            while part := stream.read(1 << 20):
                size += len(part)
                if size > 2 * MAX_TOTAL:
                    raise BundleError(f"{source} expands to more than {2 * MAX_TOTAL} bytes.")
                expanded.write(part)
    except (OSError, EOFError, zlib.error) as exc:
        raise BundleError(f"{source} is damaged: {exc}") from exc
    expanded.seek(0)


def _of_archive(stream: t.IO[bytes]) -> t.Iterator[Entry]:
    """The wanted members of a tar archive of a run folder, whatever the folder was called."""
    budget = _Budget()
    try:
        with tarfile.open(fileobj=t.cast("t.IO[bytes]", _Guarded(stream)), mode="r:") as archive:
            members = []
            for number, member in enumerate(archive):
                if number >= 4 * MAX_FILES:
                    raise BundleError(f"It holds more than {4 * MAX_FILES} members.")
                members.append((_inside(member), member))
            prefix = _prefix([name for name, _member in members])
            wanted = [(name[len(prefix) :], member) for name, member in members if name.startswith(prefix)]
            for name, member in sorted(wanted, key=lambda row: (row[0] != "run.json", row[0])):
                if member.isreg() and _WANTED.fullmatch(name):
                    budget.take(name, member.size)
                    yield name, functools.partial(_content, archive, member)
    except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError) as exc:
        raise BundleError(f"It is not a tar archive that can be read: {exc}") from exc


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    return stream.read(MAX_FILE) if stream else b""


def _inside(member: tarfile.TarInfo) -> str:
    """The member's normal name, if it is a plain file or a folder below where it is unpacked."""
    name = member.name[2:] if member.name.startswith("./") else member.name
    strange = {"", ".", ".."} & set(name.split("/")) if name not in ("", ".") else set()
    if strange or "\\" in name or len(name) > 1000:
        raise BundleError(f"It holds {member.name[:200]!r}, which would be unpacked outside of its folder.")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise BundleError(f"It holds {member.name[:200]!r}, which is neither a plain file nor a folder.")
    return name


def _prefix(names: list[str]) -> str:
    """C(""), or the one folder that everything is in."""
    places = {name[: -len("run.json")] for name in names if re.fullmatch(r"(?:[^/]+/)?run\.json", name)}
    if len(places) > 1 and "" not in places:
        raise BundleError("It holds more than one run.")
    return "" if "" in places or not places else places.pop()


def _checked(name: str, data: bytes) -> t.Any:
    """The content of one file, if it has the shape that the engine expects of it.

    @raises BundleError: it has not.
    """
    try:
        content = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as exc:
        raise BundleError(f"{name[:200]!r} is not JSON: {str(exc)[:200]}") from exc
    if name == "run.json":
        _run(content)
    elif name.startswith("hosts/"):
        _record(name, content)
    elif not isinstance(content, (list, dict)):
        raise BundleError(f"{name[:200]!r} is not a plan.")
    return content


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _run(run: t.Any) -> None:
    if not isinstance(run, dict) or not {"run_id", "collection_version", "started_at", "hosts"} <= run.keys():
        raise BundleError("run.json is not that of a run of crosshost.doctor.")
    for key in ("run_id", "collection_version", "started_at"):
        if not isinstance(run[key], str) or not run[key].isprintable() or len(run[key]) > 100:
            raise BundleError(f"run.json: {key} is not a short text.")
    hosts, question = run["hosts"], run.get("question") or {}
    if not isinstance(hosts, dict) or len(hosts) > MAX_HOSTS or not isinstance(question, dict):
        raise BundleError(f"run.json: hosts or question is not a table, or there are more than {MAX_HOSTS} hosts.")
    for host, options in hosts.items():
        if not host.isprintable() or not 0 < len(safe_name(host)) <= 255 or not isinstance(options, dict):
            raise BundleError(f"run.json: {host[:100]!r} is not a host.")


def _record(name: str, record: t.Any) -> None:
    module = os.path.basename(name).partition("-")[0]
    if not isinstance(record, dict) or not ("error" in record or isinstance(record.get("facts"), dict)):
        raise BundleError(f"{name[:200]!r} is not the record of a module: it holds neither facts nor an error.")
    if not isinstance(record.get("error") or "", str):
        raise BundleError(f"{name[:200]!r}: the error is not a text.")
    facts = record.get("facts")
    if module not in _TABLES or not isinstance(facts, dict) or record.get("error"):
        return
    if facts.get("schema") != SCHEMA:
        raise BundleError(
            f"{name[:200]!r} has schema {str(facts.get('schema'))[:40]!r}; "
            f"this version of crosshost.doctor reads {SCHEMA!r}."
        )
    for key, kind in _TABLES[module].items():
        rows = facts.get(key)
        if rows is not None and not isinstance(rows, kind):
            raise BundleError(f"{name[:200]!r}: {key} is not a {kind.__name__}.")
        if isinstance(rows, list) and not all(isinstance(row, dict) for row in rows):
            raise BundleError(f"{name[:200]!r}: {key} is not a list of tables.")

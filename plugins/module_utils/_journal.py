# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What undoes the changes that were made on a host, written down before each of them was made.

One file of JSON lines for each journal, of mode 0600 in a folder of root's. Rolling back takes the lines in reverse
order; an entry that finds nothing to undo does nothing, so a change that was noted and never made, or was undone by
hand meanwhile, does no harm. Entries that could not be undone stay in the journal.

Who notes something is at work until its process ends, or the journal object does: a guard (_guard.py) whose time is up
waits for that before it rolls back, and nothing more can be noted once it has. So no change is made behind its back.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import re
import stat
import subprocess
import tempfile
import time
import typing as t
import weakref
from collections.abc import Iterator, Sequence

from ansible_collections.crosshost.doctor.plugins.module_utils import _commands, _sysctl_own_file
from ansible_collections.crosshost.doctor.plugins.module_utils._host_folder import FolderError, check_private
from ansible_collections.crosshost.doctor.plugins.module_utils._netns import inside
from ansible_collections.crosshost.doctor.plugins.module_utils._reader import result_path

Entry = dict[str, t.Any]

FOLDER = "/var/lib/crosshost-doctor/journal"
GUARDS = "/run/crosshost.doctor-guard"
GUARD = "guard"  # the beginning of the names of a guard's files
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
MAX_FILE = 8 << 20
MAX_JOURNAL = 64 << 20
KEPT = 50  # journals of one host; older ones can no longer be rolled back
SECONDS = 30.0  # for one command
BUSY_SECONDS = 60.0  # that a guard waits for a module at work, and a module for a guard that rolls back
_SYSCTL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+-]*(/[A-Za-z0-9_][A-Za-z0-9_.:@+-]*)+")


class JournalError(Exception):
    """The journal cannot be written or read; nothing may be changed then. The message is for the user."""


class Journal:
    """The journal C(name) of this host. The empty name notes nothing, which is what check mode needs."""

    def __init__(self, name: str, folder: str = FOLDER, guards: str = GUARDS) -> None:
        if name and not NAME.fullmatch(name):
            raise JournalError(f"{name!r} is no name of a journal: letters, digits, '.', '_' and '-', at most 120.")
        self.name = name
        self._folder = folder
        self._guards = guards
        self._at_work = False
        self.path = os.path.join(folder, f"{name}.jsonl")

    # ---- noting, always before the change

    def file(self, path: str) -> None:
        """Bytes, mode and owner of a file or symbolic link as they are, or that there is none.

        @raises JournalError: it cannot be read, is neither, or is larger than 8 MiB.
        """
        if self.name:
            self._note({"kind": "file", "path": path, "state": _file_state(path), "made": _missing_folders(path)})

    def sysctl(self, name: str, netns: str | None = None) -> None:
        """The value of C(net/ipv4/conf/eth0/rp_filter) now. One that is not there needs no undoing."""
        if not self.name:
            return
        value = _read_sysctl(name, netns)
        if value is not None:
            self._note({"kind": "sysctl", "name": name, "value": value, "netns": netns})

    def sysctl_lines(self, path: str, keys: Sequence[str]) -> None:
        """A sysctl file whose lines about C(keys) (net/ipv4/ip_forward) will be changed.

        Undone are these lines alone where others have changed the file since, else the whole file, byte for byte.
        """
        if self.name:
            state, made = _file_state(path), _missing_folders(path)
            self._note({"kind": "sysctl-lines", "path": path, "keys": list(keys), "state": state, "made": made})

    def command(
        self, argv: Sequence[str], input: str | None = None, netns: str | None = None, tolerate: bool = False
    ) -> None:
        """A command that undoes the change. C(tolerate): that it fails means there is nothing to undo any more."""
        if self.name:
            entry = {"kind": "command", "argv": list(argv), "input": input, "netns": netns, "tolerate": tolerate}
            self._note(entry)

    def nft_comment(self, family: str, table: str, chain: str, comment: str, netns: str | None = None) -> None:
        """That rules of the chain with this very comment are ours, and deleted when this is undone."""
        if self.name:
            entry = {"kind": "nft-comment", "family": family, "table": table, "chain": chain, "comment": comment}
            self._note({**entry, "netns": netns})

    def _begin(self) -> None:
        """Be at work, unless the guard over this journal has rolled it back."""
        if self._at_work:
            return
        handle = hold(self._guards, fcntl.LOCK_SH)
        if handle is None:
            return  # nobody ever stood guard on this host since it booted
        weakref.finalize(self, os.close, handle)
        if os.path.exists(result_path(self._guards, self.name, GUARD)):
            raise JournalError(
                "The guard has rolled this change back: its time was up before the change was complete, and nothing "
                "more of it is done. Where a host is that slow, raise the guard's timeout (doctor_guard_timeout)."
            )
        self._at_work = True

    def _note(self, entry: Entry) -> None:
        self._begin()
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            check_private(self._folder)
            with open_private(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as handle:
                size = os.fstat(handle).st_size
                if size + len(line) > MAX_JOURNAL:
                    raise JournalError(f"{self.path} would grow beyond {MAX_JOURNAL} bytes.")
                if size == 0:
                    self._forget_old()
                os.write(handle, line)
                os.fsync(handle)
        except (OSError, FolderError) as exc:
            raise JournalError(f"What undoes the change cannot be noted in {self.path}: {exc}") from exc

    def _forget_old(self) -> None:
        found = [os.path.join(self._folder, name) for name in os.listdir(self._folder) if name.endswith(".jsonl")]
        found = sorted((path for path in found if path != self.path), key=os.path.getmtime)
        for path in found[: max(0, len(found) + 1 - KEPT)]:
            os.unlink(path)

    # ---- rolling back

    def entries(self) -> list[Entry]:
        """The entries in the order they were noted. A torn last line is of a change that was never made.

        @raises JournalError: it cannot be read.
        """
        try:
            with open_private(self.path, os.O_RDONLY) as handle, os.fdopen(os.dup(handle), "rb") as stream:
                lines = stream.read(MAX_JOURNAL + 1).splitlines(keepends=True)
        except FileNotFoundError:
            return []
        except (OSError, FolderError) as exc:
            raise JournalError(f"{self.path} cannot be read: {exc}") from exc
        try:
            return [json.loads(line) for line in lines if line.endswith(b"\n")]
        except ValueError as exc:
            raise JournalError(f"{self.path} is damaged: {exc}") from exc

    def roll_back(self) -> list[Entry]:
        """Undo everything, the newest first, and forget what is undone: C({kind, what, error}) of each entry.

        @raises JournalError: the journal cannot be read, or what could not be undone cannot be kept.
        """
        done: list[Entry] = []
        left: list[Entry] = []
        for entry in reversed(self.entries()):
            error = undo(entry)
            done.append({"kind": entry.get("kind"), "what": what(entry), "error": error})
            if error:
                left.insert(0, entry)
        self._keep(left)
        return done

    def _keep(self, entries: list[Entry]) -> None:
        try:
            if entries:
                text = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries)
                replace_file(self.path, text.encode(), 0o600)
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
            with contextlib.suppress(OSError):  # other journals are in it, or it was never made
                os.removedirs(self._folder)
        except OSError as exc:
            raise JournalError(f"{self.path} cannot be written: {exc}") from exc


def hold(folder: str, how: int) -> int | None:
    """The lock of the folder of guards, held while the descriptor is open; none where there is no such folder.

    @raises JournalError: somebody else had it for all of L(BUSY_SECONDS), or the folder cannot be opened.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise JournalError(f"{folder} cannot be opened: {exc}") from exc
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(handle)
                raise JournalError(f"{folder} was in use for more than {BUSY_SECONDS:g} s.") from None
            time.sleep(0.1)


def what(entry: Entry) -> str:
    """An entry in words."""
    kind = entry.get("kind")
    if kind == "command":
        return " ".join(str(word) for word in entry.get("argv") or [])
    if kind == "nft-comment":
        return f"rules of {entry['family']} {entry['table']} {entry['chain']} with comment {entry['comment']}"
    if kind == "sysctl":
        return f"{entry['name']} = {entry['value']}"
    return f"{entry.get('path')} {' '.join(entry.get('keys') or [])}".strip()


def undo(entry: Entry) -> str | None:
    """Undo one change; why it could not be done, or None."""
    try:
        return _UNDO[entry["kind"]](entry)
    except KeyError as exc:
        return f"the journal has an entry that is not understood: {exc}"
    except (OSError, ValueError, JournalError, _sysctl_own_file.PlanError, subprocess.SubprocessError) as exc:
        return str(exc)


def _undo_file(entry: Entry) -> str | None:
    path, state = entry["path"], entry["state"]
    if _file_state(path) == state:
        return None
    if state is None:
        os.unlink(path)
        _remove_folders(entry["made"])
    elif "link" in state:
        link_file(path, state["link"])
    else:
        content = base64.b64decode(state["content"], validate=True)
        replace_file(path, content, state["mode"], (state["uid"], state["gid"]), state["mtime"])
    return None


def _undo_sysctl(entry: Entry) -> str | None:
    now = _read_sysctl(entry["name"], entry["netns"])
    if now is None or now == entry["value"]:
        return None  # the interface is gone, or has its value
    with inside(entry["netns"]), open(f"/proc/sys/{entry['name']}", "w", encoding="utf-8") as stream:
        stream.write(entry["value"])
    return None


def _undo_sysctl_lines(entry: Entry) -> str | None:
    path, state = entry["path"], entry["state"]
    before = base64.b64decode(state["content"], validate=True).decode() if state else None
    now, _mend = _sysctl_own_file.read("/", path)
    text = _sysctl_own_file.take_back(before, now, entry["keys"])
    if text == before:
        return _undo_file(entry)
    if text is None:
        os.unlink(path)
        _remove_folders(entry["made"])
    elif text != now:
        replace_file(path, text.encode(), _sysctl_own_file.MODE)
    return None


def _undo_command(entry: Entry) -> str | None:
    netns = entry["netns"]
    if netns and not os.path.exists(netns):
        return None  # what was changed went with the namespace
    argv = entry["argv"]
    program = _commands.find(argv[0])
    if program is None:
        return f"{argv[0]} is not on this host"
    code, _output, error = run([program, *argv[1:]], entry["input"], netns)
    return f"exit status {code}: {error.strip()[-300:]}" if code and not entry["tolerate"] else None


def _undo_nft_comment(entry: Entry) -> str | None:
    netns = entry["netns"]
    program = _commands.find("nft")
    if (netns and not os.path.exists(netns)) or program is None:
        return None
    place = [entry["family"], entry["table"], entry["chain"]]
    code, output, _error = run([program, "--json", "--handle", "list", "chain", *place], None, netns)
    if code:
        return None  # the chain is gone, and its rules with it
    for row in json.loads(output)["nftables"]:
        rule = row.get("rule") or {}
        if rule.get("comment") == entry["comment"]:
            handle = str(int(rule["handle"]))
            code, _output, error = run([program, "delete", "rule", *place, "handle", handle], None, netns)
            if code:
                return f"nft delete rule … handle {handle}: {error.strip()[-300:]}"
    return None


_UNDO: dict[str, t.Callable[[Entry], str | None]] = {
    "file": _undo_file,
    "sysctl": _undo_sysctl,
    "sysctl-lines": _undo_sysctl_lines,
    "command": _undo_command,
    "nft-comment": _undo_nft_comment,
}


def run(argv: list[str], input: str | None = None, netns: str | None = None) -> tuple[int, str, str]:
    """(exit status, output, errors) of a program in a network namespace, killed after half a minute.

    @raises OSError: it cannot be started, or the namespace cannot be entered.
    @raises subprocess.SubprocessError: it did not end in time.
    """
    environment = {"PATH": _commands.PATH, "LC_ALL": "C", "HOME": "/root"}
    stdin: dict[str, t.Any] = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
    with inside(netns):
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
            env=environment,
            **stdin,
        )
    return done.returncode, done.stdout, done.stderr


def _read_sysctl(name: str, netns: str | None) -> str | None:
    if not _SYSCTL.fullmatch(name):
        raise JournalError(f"{name!r} is not the name of a sysctl with slashes")
    if netns and not os.path.exists(netns):
        return None
    try:
        with inside(netns), open(f"/proc/sys/{name}", encoding="utf-8") as stream:
            return stream.read(4096).strip()
    except FileNotFoundError:
        return None


def _file_state(path: str) -> Entry | None:
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(found.st_mode):
        return {"link": os.readlink(path)}
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE:
        raise JournalError(f"{path} is no regular file of at most {MAX_FILE} bytes: it is left alone")
    with open(path, "rb") as stream:
        content = base64.b64encode(stream.read(MAX_FILE + 1)).decode()
    owner = {"uid": found.st_uid, "gid": found.st_gid}
    return {"content": content, "mode": stat.S_IMODE(found.st_mode), **owner, "mtime": found.st_mtime_ns}


def _missing_folders(path: str) -> list[str]:
    """The folders above a file that will have to be made for it, the innermost first."""
    missing = []
    parent = os.path.dirname(path)
    while parent and not os.path.lexists(parent):
        missing.append(parent)
        parent = os.path.dirname(parent)
    return missing


def _remove_folders(made: list[str]) -> None:
    for folder in made:
        try:
            os.rmdir(folder)
        except OSError:
            return  # somebody else's file is in it, or it is gone


@contextlib.contextmanager
def open_private(path: str, flags: int) -> Iterator[int]:
    """A file that only root reads; a link, or somebody else's file in its place, is refused."""
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise FolderError(f"{path} is not a file that only its owner reads.")
        yield handle
    finally:
        os.close(handle)


def replace_file(
    path: str, content: bytes, mode: int, owner: tuple[int, int] | None = None, mtime: int | None = None
) -> None:
    """Put a file in another's place in one step. The parent folders are made where they are missing.

    @raises OSError: it cannot be written.
    """
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o755, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(prefix=".crosshost-", suffix=".new", dir=folder)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            if owner and os.geteuid() == 0:
                os.fchown(stream.fileno(), *owner)
            os.fchmod(stream.fileno(), mode)
            stream.flush()
            os.fsync(stream.fileno())
        if mtime is not None:
            os.utime(unfinished, ns=(mtime, mtime))
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)
        raise


def link_file(path: str, target: str) -> None:
    """Put a symbolic link in a file's place in one step.

    @raises OSError: it cannot be made.
    """
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o755, exist_ok=True)
    unfinished = os.path.join(folder, f".crosshost-{os.getpid()}.new")
    os.symlink(target, unfinished)
    os.replace(unfinished, path)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one file that sysctl_forwarding writes: read, edited line by line, and replaced as a whole."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping

from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_below
from ansible_collections.crosshost.doctor.plugins.module_utils._sysctl_files import BYTES_LIMIT, dotted, parse_line
from ansible_collections.crosshost.doctor.plugins.module_utils._sysctl_kernel import V4_FORWARD, split, words

DEFAULT_PATH = "/etc/sysctl.d/zz-crosshost-doctor.conf"
HEADER = "# Written by crosshost.doctor.sysctl_forwarding. Other lines of this file are kept.\n"
MODE = 0o644
_OWN_FILE = re.compile(r"/(etc|run)/sysctl\.d/[A-Za-z0-9_@+-][A-Za-z0-9._@+-]*\.conf")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


class PlanError(Exception):
    """The request cannot be met; the message says why and what to do."""


def rank(path: str) -> int:
    """What is written first: what rewrites others, then the default of interfaces to come, then interfaces."""
    found = split(path)
    if path in V4_FORWARD or (found and found[1] == "all"):
        return 0
    return 1 if found and found[1] == "default" else 2


def edit(text: str | None, named: Mapping[str, str | None]) -> str | None:
    """A file with the named keys set once each (None: not at all) and every other line as it is.

    What rewrites others is put before what it would rewrite: systemd-sysctl and sysctl apply a file from its top. A
    file without any setting left that this module began is not needed: None.
    """
    left = dict(named)
    lines: list[str] = []
    for number, line in enumerate(_LINE.findall(text or ""), 1):
        statement = parse_line(line, "", number)
        if statement is None or statement.path not in named:
            lines.append(line)
            continue
        wanted = left.pop(statement.path, None)
        if wanted is not None:
            same = statement.value is not None and words(statement.value) == wanted
            lines.append(line if same else f"{dotted(statement.path)} = {wanted}\n")
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    missing = {path: value for path, value in left.items() if value is not None}
    for path in sorted(missing, key=lambda path: (rank(path), dotted(path))):
        lines.insert(_place(lines, rank(path)), f"{dotted(path)} = {missing[path]}\n")
    if text is None and lines:
        lines.insert(0, HEADER)
    if all(line == HEADER or not line.strip() for line in lines) and (text is None or HEADER in text):
        return None
    return "".join(lines)


def take_back(before: str | None, now: str | None, keys: Iterable[str]) -> str | None:
    """The text of a file without an edit of C(keys) that was once made to C(before). None: no file.

    Where nothing else was changed since, that is C(before), byte for byte. Else only the lines of the keys are put back
    to the values they had: others have written their own lines into the file meanwhile.
    """
    keys = list(keys)
    if now == before or edit(before, values(now, keys)) == now:
        return before
    return edit(now, values(before, keys))


def values(text: str | None, keys: Iterable[str]) -> dict[str, str | None]:
    """What a file sets the keys to; None for those it says nothing about."""
    found: dict[str, str | None] = dict.fromkeys(keys)
    for number, line in enumerate(_LINE.findall(text or ""), 1):
        statement = parse_line(line, "", number)
        if statement and statement.path in found:
            found[statement.path] = None if statement.value is None else words(statement.value)
    return found


def _place(lines: list[str], own: int) -> int:
    for index, line in enumerate(lines):
        statement = parse_line(line, "", index)
        if statement and rank(statement.path) > own:
            return index
    return len(lines)


def read(root: str, path: str) -> tuple[str | None, bool]:
    """The text of the module's file (None: not there), and whether its owner or mode must be mended.

    @raises PlanError: it is not a file this module may write.
    """
    if not _OWN_FILE.fullmatch(path):
        raise PlanError(f"path: {path} is not a name ending in .conf in /etc/sysctl.d or /run/sysctl.d.")
    full = os.path.join(root, path.lstrip("/"))
    try:
        found = os.lstat(full)
    except FileNotFoundError:
        return None, False
    except OSError as exc:
        raise PlanError(f"{path} cannot be looked at: {exc.strerror}.") from exc
    if not stat.S_ISREG(found.st_mode):
        raise PlanError(
            f"{path} is not a regular file. Choose another path, so that this module has a file of its own."
        )
    try:
        text = read_below(root, path, BYTES_LIMIT + 1)
    except OSError as exc:
        raise PlanError(f"{path} cannot be read: {exc.strerror or exc}.") from exc
    if len(text) > BYTES_LIMIT or "\ufffd" in text:
        raise PlanError(f"{path} is longer than {BYTES_LIMIT} bytes or not UTF-8. Choose another path.")
    foreign = os.geteuid() == 0 and (found.st_uid, found.st_gid) != (0, 0)
    return text, stat.S_IMODE(found.st_mode) != MODE or foreign


def replace(root: str, path: str, text: str | None, move: Callable[[str, str], None]) -> None:
    """Put a new text in the file's place, in one step; None removes the file.

    @raises OSError: it cannot be written.
    """
    full = os.path.join(root, path.lstrip("/"))
    if text is None:
        os.unlink(full)
        return
    os.makedirs(os.path.dirname(full), mode=0o755, exist_ok=True)
    # No name that ends in .conf: nothing may read it before it is whole.
    handle, unfinished = tempfile.mkstemp(prefix=".crosshost-", suffix=".new", dir=os.path.dirname(full))
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            os.fchmod(stream.fileno(), MODE)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        move(unfinished, full)
    except BaseException:
        if os.path.lexists(unfinished):
            os.unlink(unfinished)
        raise
    if os.geteuid() == 0:
        os.chown(full, 0, 0)
    os.chmod(full, MODE)

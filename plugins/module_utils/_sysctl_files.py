# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sysctls as files set them: which file wins, by the rules of the program that applies them.

Two programs read these files, and they differ:

- systemd-sysctl (at boot where systemd is init; sysctl.d(5)) reads C(*.conf) of L(DIRECTORIES) and nothing else:
  /etc/sysctl.conf counts only through a link such as Debian's and Ubuntu's /etc/sysctl.d/99-sysctl.conf, and then at
  that name's place. A later assignment of the same key replaces the earlier one, also a later C(-key) without a value.
- C(sysctl --system) of procps (at boot elsewhere, and by hand; sysctl(8), SYSTEM FILE PRECEDENCE) reads the same files
  in the same order, and /etc/sysctl.conf after all of them. C(-key) without a value ends no assignment. Globs are known
  to procps 4 and later only.

Both sort by file name, whatever the directory, and a name in an earlier directory masks the same name in a later one.
Both let an explicit key, or C(-key) without a value, win over every glob, also a later one. C(sysctl -p) reads
/etc/sysctl.conf alone. ufw, where it is enabled, loads a file of its own when it starts, after all that.

Not seen: what a boot loader (C(sysctl.*=) on the kernel's command line), systemd's credential C(sysctl.extra), or a
program writes by itself (NetworkManager, systemd-networkd, tuned, an engine).
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_below

DIRECTORIES = ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d")
CONF = "/etc/sysctl.conf"
SYSTEMD = "systemd-sysctl"
PROCPS = "sysctl --system"
UFW = "ufw"
FILES_LIMIT = 500
BYTES_LIMIT = 262144
STATEMENTS_LIMIT = 50_000
LOSERS_LIMIT = 8
ROWS_LIMIT = 1000
_GLOB = re.compile(r"[*?\[]")
_SPACE = " \t\n\r"


@dataclass(frozen=True)
class Statement:
    """One line of a file. C(path) is the key below /proc/sys; C(value) is None for C(-key) without a value."""

    path: str
    value: str | None
    file: str
    line: int
    ignore_failure: bool = False

    @property
    def is_glob(self) -> bool:
        return bool(_GLOB.search(self.path))

    @property
    def key(self) -> str:
        """The key as sysctl(8) prints it."""
        return dotted(self.path)


def normalize(name: str) -> str:
    """The path below /proc/sys of a key. The first separator decides: after a dot, dots and slashes are swapped.

    C(net.ipv4.conf.eth0/100.forwarding) and C(net/ipv4/conf/eth0.100/forwarding) are the same key.
    """
    first = re.search(r"[/.]", name)
    if first and first.group() == ".":
        name = name.translate(str.maketrans("./", "/."))
    return "/".join(part for part in name.split("/") if part and part != ".")


def dotted(path: str) -> str:
    """The other way round: a dot in an interface name is a slash, as sysctl(8) writes it."""
    return path.translate(str.maketrans("./", "/."))


def matches(pattern: str, path: str) -> bool:
    """Whether a glob(7) pattern matches a key: an asterisk crosses no slash."""
    wanted, parts = pattern.split("/"), path.split("/")
    return len(wanted) == len(parts) and all(
        fnmatch.fnmatchcase(part, want.replace("[^", "[!")) for want, part in zip(wanted, parts)
    )


def parse_line(line: str, file: str, number: int) -> Statement | None:
    """The statement in a line; None where it holds none. C(;) begins a comment as C(#) does."""
    text = line.strip(_SPACE)
    if not text or text[0] in "#;":
        return None
    left, equals, right = text.partition("=")
    dash = left.startswith("-")
    if not equals and not dash:
        return None
    path = normalize((left[1:] if dash else left).strip(_SPACE))
    if not path:
        return None
    return Statement(path, right.strip(_SPACE) if equals else None, file, number, dash and bool(equals))


def parse(text: str, file: str) -> list[Statement]:
    """The statements of a file, in its order."""
    found = (parse_line(line, file, number) for number, line in enumerate(text.split("\n"), 1))
    return [statement for statement in found if statement]


class Order:
    """What one program applies, in its order.

    C(statements) of systemd-sysctl are what is left after replacing: at most one for each key or pattern.
    """

    def __init__(self, statements: Iterable[Statement]) -> None:
        self.statements = list(statements)
        self._explicit: dict[str, list[int]] = {}
        self._globs: list[int] = []
        for index, statement in enumerate(self.statements):
            if statement.is_glob:
                self._globs.append(index)
            else:
                self._explicit.setdefault(statement.path, []).append(index)

    def applied(self, path: str) -> list[int]:
        """Where the statements stand that are written into a key, the last of them last."""
        explicit = self._explicit.get(path)
        if explicit is not None:  # also C(-key) without a value keeps globs away
            return [index for index in explicit if self.statements[index].value is not None]
        return [
            index
            for index in self._globs
            if self.statements[index].value is not None and matches(self.statements[index].path, path)
        ]

    def winner(self, path: str) -> Statement | None:
        """The statement that sets a key last."""
        applied = self.applied(path)
        return self.statements[applied[-1]] if applied else None


def systemd_order(statements: Iterable[Statement]) -> Order:
    """As systemd-sysctl keeps them: a new value moves a key to the end, the same value again leaves it where it was."""
    kept: dict[str, Statement] = {}
    for statement in statements:
        known = kept.get(statement.path)
        if known is not None and known.value != statement.value:
            del kept[statement.path]
        kept[statement.path] = statement
    return Order(kept.values())


@dataclass
class Persisted:
    """What the files of a host say. C(tool) is the program that applies them when the host boots."""

    tool: str = SYSTEMD
    files: list[str] = field(default_factory=list)
    masked: list[dict[str, str]] = field(default_factory=list)
    notes: list[dict[str, str]] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    conf: list[Statement] = field(default_factory=list)
    ufw: list[Statement] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.orders: dict[str, Order] = {}
        self.arrange()

    def arrange(self) -> None:
        """Work the orders out, after the lists were filled."""
        self.orders = {
            SYSTEMD: systemd_order(self.statements),
            PROCPS: Order([*self.statements, *self.conf]),
            UFW: Order(self.ufw),
        }

    def setting(self, path: str) -> tuple[Statement | None, list[str]]:
        """The statement that holds for a key after boot, and which programs agree.

        A key that only the other program finds (in an /etc/sysctl.conf that systemd does not read) is still somebody's
        setting: it is returned with that program alone.
        """
        final = self.orders[UFW].winner(path)
        if final:
            return final, [UFW]
        found = {tool: self.orders[tool].winner(path) for tool in (self.tool, *({SYSTEMD, PROCPS} - {self.tool}))}
        chosen = found[self.tool] or next(filter(None, found.values()), None)
        if chosen is None:
            return None, []
        return chosen, [tool for tool, other in found.items() if other and other.value == chosen.value]

    def losers(self, path: str, winner: Statement | None) -> list[Statement]:
        """The other statements for a key, those read last first; at most L(LOSERS_LIMIT)."""
        found: list[Statement] = []
        for statement in reversed([*self.statements, *self.conf, *self.ufw]):
            if len(found) == LOSERS_LIMIT:
                break
            if statement != winner and (
                statement.path == path or (statement.is_glob and matches(statement.path, path))
            ):
                found.append(statement)
        return found


def scan(root: str = "/", instead: dict[str, str | None] | None = None) -> Persisted:
    """Read the files of a host.

    @param root: where its file system begins.
    @param instead: the text that a file will have, by its path; None for a file that will not be there.
    """
    found = Persisted(tool=SYSTEMD if os.path.isdir(_at(root, "/run/systemd/system")) else PROCPS)
    changed = instead or {}
    chosen = _choose(root, changed, found)
    for name in sorted(chosen, key=os.fsencode)[:FILES_LIMIT]:
        found.files.append(chosen[name])
        if os.path.islink(_at(root, chosen[name])) and os.readlink(_at(root, chosen[name])) == "/dev/null":
            continue
        _take(root, chosen[name], changed, found.statements, found)
    if len(chosen) > FILES_LIMIT:
        found.notes.append({"file": DIRECTORIES[0], "why": f"{len(chosen) - FILES_LIMIT} more files were not read"})
    if CONF in changed or os.path.lexists(_at(root, CONF)):
        _take(root, CONF, changed, found.conf, found)
    ufw = _ufw(root)
    if ufw:
        _take(root, ufw, changed, found.ufw, found)
    found.arrange()
    return found


def _at(root: str, path: str) -> str:
    return os.path.join(root, path.lstrip("/"))


def _choose(root: str, changed: dict[str, str | None], found: Persisted) -> dict[str, str]:
    """The path of each file name: the first directory that has it."""
    chosen: dict[str, str] = {}
    seen: list[str] = []
    for directory in DIRECTORIES:
        real = os.path.realpath(_at(root, directory))
        if real in seen:  # /lib is a link to /usr/lib
            continue
        seen.append(real)
        try:
            names = set(os.listdir(_at(root, directory)))
        except FileNotFoundError:
            names = set()
        except OSError as exc:
            found.notes.append({"file": directory, "why": exc.strerror or str(exc)})
            names = set()
        for path, text in changed.items():
            if os.path.dirname(path) == directory:
                (names.discard if text is None else names.add)(os.path.basename(path))
        for name in sorted(names):
            if not name.endswith(".conf") or name.startswith("."):
                continue
            path = f"{directory}/{name}"
            if name in chosen:
                found.masked.append({"file": path, "by": chosen[name]})
            else:
                chosen[name] = path
    return chosen


def _take(root: str, path: str, changed: dict[str, str | None], into: list[Statement], found: Persisted) -> None:
    """Add a file's statements; a file that cannot be read leaves a note, as it leaves a line in a program's log."""
    text = changed.get(path)
    if text is None:
        try:
            text = read_below(root, path, BYTES_LIMIT + 1)
        except FileNotFoundError:  # a link to nothing, or gone meanwhile: no program minds
            return
        except OSError as exc:
            found.notes.append({"file": path, "why": exc.strerror or str(exc)})
            return
        if len(text) > BYTES_LIMIT:
            found.notes.append({"file": path, "why": f"longer than {BYTES_LIMIT} bytes: the rest was not read"})
            text = text[:BYTES_LIMIT]
    statements = parse(text, path)
    room = STATEMENTS_LIMIT - len(found.statements) - len(found.conf)
    if len(statements) > room:
        found.notes.append({"file": path, "why": f"more than {STATEMENTS_LIMIT} settings: the rest was not read"})
    into.extend(statements[: max(room, 0)])


def _ufw(root: str) -> str | None:
    """The file that ufw loads when it starts (IPT_SYSCTL), where ufw is enabled."""

    def assigned(path: str, name: str) -> str | None:
        try:
            text = read_below(root, path, BYTES_LIMIT)
        except OSError:
            return None
        values = re.findall(rf"(?m)^\s*{name}=(.*)$", text)
        return values[-1].strip().strip("\"'") if values else None

    if (assigned("/etc/ufw/ufw.conf", "ENABLED") or "").lower() != "yes":
        return None
    path = assigned("/etc/default/ufw", "IPT_SYSCTL")
    return path if path and path.startswith("/") else None


def persisted_sysctls(keys: Iterable[str], missing: list[dict[str, str]], root: str = "/") -> dict[str, Any]:
    """The value and the winning file of those of C(keys) that some file sets, at most L(ROWS_LIMIT) of them.

    @param keys: as sysctl(8) writes them, C(net.ipv4.conf.eth0/100.forwarding).
    @param missing: takes a line for each file that could not be read.
    """
    found = scan(root)
    missing.extend({"section": "host", "what": note["file"], "why": note["why"]} for note in found.notes)
    rows: dict[str, Any] = {}
    for key in sorted(keys, key=lambda key: not {"all", "default"} & set(key.split("."))):
        statement, _tools = found.setting(normalize(key))
        if statement:
            rows[key] = {"value": statement.value, "file": statement.file}
            if len(rows) == ROWS_LIMIT:
                break
    return rows

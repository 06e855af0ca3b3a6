# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Accepts that last over a boot: where the rules of a chain come from at boot, and the texts of those files with them.

A plain nftables table comes back from nftables.service's file, iptables' tables from saved rules where something loads
them; else a unit of this collection puts the rules in after the engine is up. What loads any other table is not known,
and said to be so.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import typing as t

from ansible_collections.crosshost.doctor.plugins.module_utils._accept_apply import Find, Run, iptables_argv, program
from ansible_collections.crosshost.doctor.plugins.module_utils._accept_flow import AcceptError
from ansible_collections.crosshost.doctor.plugins.module_utils._accept_plan import Edit, Plan
from ansible_collections.crosshost.doctor.plugins.module_utils._accept_rule import (
    Place,
    groups,
    iptables_save_line,
    nft_text,
)

NFT_FILE = "/etc/nftables.d/crosshost-doctor.nft"
NFT_MAINS = ("/etc/sysconfig/nftables.conf", "/etc/nftables.conf")
NFT_HEADER = (
    "# Written by crosshost.doctor.filter_accept: accepts for traffic between the hosts, before what drops it.\n"
)
UNIT = "crosshost-doctor-filter.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
UNIT_LINK = f"/etc/systemd/system/multi-user.target.wants/{UNIT}"
UNIT_HEAD = """\
# Written by crosshost.doctor.filter_accept.
[Unit]
Description=Accept traffic between the hosts in the chains that drop it
After=docker.service netfilter-persistent.service iptables.service ip6tables.service

[Service]
Type=oneshot
RemainAfterExit=yes
"""
UNIT_TAIL = "\n[Install]\nWantedBy=multi-user.target\n"
# Saved rules, and the unit that loads them.
SAVED = {
    "ip": (("/etc/iptables/rules.v4", "netfilter-persistent.service"), ("/etc/sysconfig/iptables", "iptables.service")),
    "ip6": (
        ("/etc/iptables/rules.v6", "netfilter-persistent.service"),
        ("/etc/sysconfig/ip6tables", "ip6tables.service"),
    ),
}
LIMIT = 4 << 20
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_INCLUDE = re.compile(r'^\s*include\s+"([^"\n]+)"\s*;?\s*$', re.MULTILINE)
_TOKEN = re.compile(r'"[^"\n]*"|[{};]|[^\s{};"]+')


class FileEdit(t.NamedTuple):
    """One file as it is (None: not there) and as it has to be. test: a command that must take the new text first."""

    path: str
    before: str | None
    after: str
    link: bool = False  # a symbolic link, the texts being its targets
    test: tuple[list[str], str] | None = None


class Lasting(t.NamedTuple):
    """Files to write, and for each chain whether its accepts come back after a boot, where from, or why not."""

    files: list[FileEdit]
    places: list[dict[str, t.Any]]

    @property
    def changed(self) -> list[FileEdit]:
        return [file for file in self.files if file.before != file.after]


class Host:
    """What is read of the host; root: where its files are."""

    def __init__(self, run: Run, find: Find, root: str = "") -> None:
        self.run, self.find, self.root = run, find, root

    def text(self, path: str) -> str | None:
        """@raises AcceptError: it is there and cannot be taken."""
        try:
            with open(self.root + path, encoding="utf-8", newline="") as stream:
                text = stream.read(LIMIT + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeError) as error:
            raise AcceptError(f"{path} cannot be read: {error}.") from error
        if len(text) > LIMIT:
            raise AcceptError(f"{path} is longer than {LIMIT} bytes.")
        return text

    def link(self, path: str) -> str | None:
        try:
            return os.readlink(self.root + path)
        except OSError:
            return None

    def enabled(self, unit: str) -> bool:
        """Whether systemd starts a unit at boot."""
        pattern = f"{glob.escape(self.root)}/etc/systemd/system/*.wants/{unit}"
        masked = self.link(f"/etc/systemd/system/{unit}") == "/dev/null"
        return not masked and any(os.path.lexists(path) for path in glob.glob(pattern))


def make(plan: Plan, host: Host) -> Lasting:
    """@raises AcceptError: a file that would have to be changed cannot be read."""
    lasting = Lasting([], [])
    edits = [edit for edit in plan.edits if edit.flows or edit.old]
    on_nft = [edit for edit in edits if edit.place.backend == "nft"]
    saved: dict[str, list[Edit]] = {}
    unit: list[Edit] = []
    if on_nft:
        _nftables(lasting, on_nft, host)
    for edit in edits:
        if edit.place.backend != "nft":
            path = _saved_file(edit.place, host)
            if path:
                saved.setdefault(path, []).append(edit)
            elif edit.place.backend == "iptables-legacy":
                # A unit of ours would make the legacy tables at a boot after which nobody else does.
                _say(lasting, edit, None, "no unit loads saved legacy rules: add the rule where they are made")
            else:
                unit.append(edit)
    for path, of_file in saved.items():
        _iptables_file(lasting, path, of_file, host)
    if unit or saved:
        _unit(lasting, unit, host)
    return lasting


def _say(lasting: Lasting, edit: Edit, path: str | None, why: str | None = None) -> None:
    place = edit.place
    row = {**place._asdict(), "comment": edit.comment, "persistent": path is not None, "file": path, "why": why}
    words = f"{edit.comment} in chain {place.chain} of table {place.family} {place.table}"
    lasting.places.append({**row, "words": f"{words} does not last: {why}." if why else f"{words} lasts by {path}."})


# ---- nftables


def _nftables(lasting: Lasting, edits: list[Edit], host: Host) -> None:
    main = next((path for path in NFT_MAINS if host.text(path) is not None), None)
    text = host.text(main) if main else None
    if main is None or text is None or not host.enabled("nftables.service"):
        for edit in edits:
            _say(lasting, edit, None, "nftables.service does not load this table: add the rule where it is made")
        return
    without = text.replace(_include_line(), "")
    defined = _chains_in(without, host, 0)
    kept: list[Edit] = []
    for edit in edits:
        place = edit.place
        if (place.family, place.table, place.chain) not in defined:
            _say(lasting, edit, None, f"{main} does not define this chain: add the rule where it is made")
        elif not _IDENTIFIER.fullmatch(place.table) or not _IDENTIFIER.fullmatch(place.chain):
            _say(lasting, edit, None, "the chain's name cannot be written into a file safely")
        else:
            kept.append(edit)
    if any(fnmatch.fnmatch(NFT_FILE, pattern) for pattern in _INCLUDE.findall(without)):
        for edit in kept:
            _say(lasting, edit, None, f"{main} includes {NFT_FILE} by a pattern, perhaps before the table is made")
        return
    if not kept:
        return
    before = host.text(NFT_FILE)
    after = _own_nft(before, kept)
    whole = without if without.endswith("\n") or not without else without + "\n"
    nft = host.find("nft")
    if nft is None:
        raise AcceptError("The program nft is needed, and is not installed.")
    lasting.files.append(FileEdit(NFT_FILE, before, after, test=([nft, "-c", "-f", "-"], whole + after)))
    lasting.files.append(FileEdit(main, text, text if _include_line() in text else whole + _include_line()))
    for edit in kept:
        _say(lasting, edit, NFT_FILE)


def _include_line() -> str:
    return f'include "{NFT_FILE}"\n'


def _own_nft(before: str | None, edits: list[Edit]) -> str:
    lines = [line for line in (before or "").splitlines() if line.startswith("insert rule ")]
    for edit in edits:
        place = edit.place
        start = f"insert rule {place.family} {place.table} {place.chain} "
        end = f' comment "{edit.comment}"'
        lines = [line for line in lines if not (line.startswith(start) and line.endswith(end))]
        # Each goes to the head of the chain.
        lines += [start + nft_text(group, edit.comment) for group in reversed(groups(edit.flows))]
    return NFT_HEADER + "".join(f"{line}\n" for line in sorted(lines))


def _chains_in(text: str, host: Host, depth: int) -> set[tuple[str, str, str]]:
    """(family, table, chain) that a file defines, with those it includes, as far as plain tokens tell."""
    found: set[tuple[str, str, str]] = set()
    text = re.sub(r"#[^\n]*", "", text)
    if depth < 4:
        for name in _INCLUDE.findall(text):
            for path in sorted(glob.glob(host.root + (name if name.startswith("/") else f"/etc/{name}")))[:64]:
                found |= _chains_in(host.text(path[len(host.root) :]) or "", host, depth + 1)
    words = _TOKEN.findall(text)
    table: tuple[str, str] | None = None
    level = 0
    for index, word in enumerate(words):
        if word == "{":
            level += 1
        elif word == "}":
            level -= 1
            table = table if level else None
        elif word == "table" and level == 0:
            table = _table(words[index + 1 : index + 4])
        elif word == "chain" and level == 1 and table and words[index + 2 : index + 3] == ["{"]:
            found.add((*table, words[index + 1]))
        elif word == "chain" and level == 0 and words[index - 1] in ("add", "create") and len(words) > index + 3:
            found.add((words[index + 1], words[index + 2], words[index + 3]))
    return found


def _table(words: list[str]) -> tuple[str, str] | None:
    """Family and name of a table whose block begins; without a family it is of IPv4."""
    if len(words) == 3 and words[2] == "{":
        return words[0], words[1]
    return ("ip", words[0]) if len(words) > 1 and words[1] == "{" else None


# ---- iptables


def _saved_file(place: Place, host: Host) -> str | None:
    """The file of saved rules that this chain comes back from at boot."""
    for path, unit in SAVED.get(place.family, ()):
        text = host.text(path) if host.enabled(unit) else None
        if text is not None and _section(text, place) is not None:
            return path if _restore(place, host) else None
    return None


def _restore(place: Place, host: Host) -> str | None:
    """iptables-restore, if it is of the kind the chain is of: that is what loads the file."""
    name = "iptables-restore" if place.family == "ip" else "ip6tables-restore"
    path = host.find(name)
    if path is None:
        return None
    _code, output, _error = host.run([path, "-V"], None)
    return path if ("nf_tables" in output) == (place.backend == "iptables-nft") else None


def _section(text: str, place: Place) -> tuple[int, int] | None:
    """The lines of a table that has the chain, from its first to its COMMIT."""
    lines = text.splitlines()
    if f"*{place.table}" not in lines:
        return None
    start = lines.index(f"*{place.table}")
    end = next((n for n in range(start, len(lines)) if lines[n].strip() == "COMMIT"), None)
    has = any(line.startswith(f":{place.chain} ") for line in lines[start:end])
    return (start, end) if end is not None and has else None


def _iptables_file(lasting: Lasting, path: str, edits: list[Edit], host: Host) -> None:
    before = host.text(path) or ""
    after = before
    for edit in edits:
        after = put_line(after, edit)
        _say(lasting, edit, path)
    place = edits[0].place
    # Of the legacy kind it would make tables even when it only tests.
    test = ([str(_restore(place, host)), "--test"], after) if place.backend == "iptables-nft" else None
    lasting.files.append(FileEdit(path, before, after, test=test))


def put_line(text: str, edit: Edit) -> str:
    """Saved rules with this edit's rules at the head of their chain, once, and every other line as it is."""
    lines = text.splitlines()
    start, end = _section(text, edit.place) or (0, 0)
    rule = re.compile(rf"(\[\d+:\d+\] )?-A {re.escape(edit.place.chain)} ")
    own = re.compile(rf'.* --comment "{re.escape(edit.comment)}" .*')
    wanted = [iptables_save_line(edit.place.chain, flow, edit.comment) for flow in edit.flows]
    section = lines[start:end]
    there = [re.sub(r"^\[\d+:\d+\] ", "", line) for line in section if rule.match(line) and own.match(line)]
    if sorted(there) == sorted(wanted):
        return text
    section = [line for line in section if not (rule.match(line) and own.match(line))]
    first = next((n for n, line in enumerate(section) if rule.match(line)), len(section))
    section[first:first] = wanted
    return "\n".join([*lines[:start], *section, *lines[end:]]) + "\n"


def _unit(lasting: Lasting, edits: list[Edit], host: Host) -> None:
    before = host.text(UNIT_FILE)
    if before is None and not edits:
        return
    if not os.path.isdir(f"{host.root}/etc/systemd/system"):
        for edit in edits:
            _say(lasting, edit, None, "there is no systemd: add the rule to what sets up this host's packet filter")
        return
    wanted = {(edit.place, edit.comment): _commands(edit, host) for edit in edits}
    lines = [line for line in (before or "").splitlines() if line.startswith("Exec")]
    for edit in edits:
        lines = [line for line in lines if not _belongs(line, edit)]
    for commands in wanted.values():
        lines += commands
    after = UNIT_HEAD + "".join(f"{line}\n" for line in lines) + UNIT_TAIL
    lasting.files.append(FileEdit(UNIT_FILE, before, after))
    lasting.files.append(FileEdit(UNIT_LINK, host.link(UNIT_LINK), f"../{UNIT}", link=True))
    for edit in edits:
        _say(lasting, edit, UNIT_FILE)


def _commands(edit: Edit, host: Host) -> list[str]:
    """For each rule: take it out should it be there, and put it in. systemd runs them without a shell."""
    path = program(edit.place, host.run, host.find)
    lines = []
    for flow in reversed(edit.flows):
        for prefix, action in (("ExecStartPre=-", "-D"), ("ExecStart=", "-I")):
            argv = iptables_argv(path, edit.place, action, flow, edit.comment)
            lines.append(prefix + " ".join(_quoted(word) for word in argv))
    return lines


def _quoted(word: str) -> str:
    """A word of a unit's command line (systemd.service(5)): specifiers and variables are none."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if " " in word or not word else word


def _belongs(line: str, edit: Edit) -> bool:
    place = edit.place
    name = ("ip6tables" if place.family == "ip6" else "iptables", "legacy" if "legacy" in place.backend else "")
    ours = line.split("=", 1)[1].lstrip("-").split(" ")
    chain = f" -t {place.table} -D {place.chain} " in line or f" -t {place.table} -I {place.chain} 1 " in line
    binary = os.path.basename(ours[0])
    same = binary.startswith(name[0]) and ("legacy" in binary) == bool(name[1])
    return same and chain and f"--comment {_quoted(edit.comment)} " in line

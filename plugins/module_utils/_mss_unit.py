# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files that load the clamp of forwarded traffic at boot: a rule set of nft's and a unit of systemd's."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.crosshost.doctor.plugins.module_utils import _journal, _mss

RULES = "/etc/crosshost-doctor/mss.nft"
NAME = "crosshost-doctor-mss.service"
UNIT = f"/etc/systemd/system/{NAME}"
WANTED = f"/etc/systemd/system/multi-user.target.wants/{NAME}"
RUNNING = "/run/systemd/system"  # sd_booted(3)
MODE = 0o644
HEADER = "# Written by crosshost.doctor.mss_clamp.\n"


@dataclass
class File:
    """A file of ours as it is and as it shall be: its text, or where the link points; None is no file."""

    path: str
    before: str | None
    after: str | None
    mends_mode: bool = False
    link: bool = False

    @property
    def changed(self) -> bool:
        return self.before != self.after or (self.mends_mode and self.after is not None)


def unit(start: Sequence[Sequence[str]], stop: Sequence[Sequence[str]], after: str, part_of: str) -> str:
    """The unit. Its commands are words without spaces; a leading minus lets one fail."""
    lines = [f"ExecStart={' '.join(words)}\n" for words in start] + [f"ExecStop={' '.join(words)}\n" for words in stop]
    return (
        f"{HEADER}[Unit]\n"
        "Description=Clamp the segment size of TCP connections that this host forwards\n"
        f"After={after}\n" + (f"PartOf={part_of}\n" if part_of else "") + "\n[Service]\n"
        "Type=oneshot\n"
        "RemainAfterExit=yes\n" + "".join(lines) + "\n[Install]\nWantedBy=multi-user.target\n"
    )


def nft_files(nft: str, table: str) -> dict[str, str]:
    """Texts by path. C(systemctl restart nftables) flushes every table: the unit is restarted together with it."""
    delete = [f"-{nft}", "delete", "table", _mss.FORWARD_FAMILY, _mss.TABLE]
    service = unit([[nft, "-f", RULES]], [delete], "nftables.service", "nftables.service")
    return {RULES: HEADER + _mss.replacing(_mss.FORWARD_FAMILY, table), UNIT: service}


def plan(texts: dict[str, str], root: str = "/") -> list[File]:
    """What is and what shall be. No texts at all: our files shall not be there.

    @raises _mss.MssError: something else stands where one of them belongs.
    """
    files = [_file(path, texts.get(path), root) for path in (RULES, UNIT)]
    before = _link(WANTED, root)
    files.append(File(WANTED, before, UNIT if texts else None, link=True))
    return files


def _file(path: str, after: str | None, root: str) -> File:
    full = os.path.join(root, path.lstrip("/"))
    try:
        found = os.lstat(full)
    except FileNotFoundError:
        return File(path, None, after)
    if not stat.S_ISREG(found.st_mode) or found.st_size > 65536:
        raise _mss.MssError(f"{path} is no file that this module wrote. Move it away first.")
    with open(full, encoding="utf-8", errors="replace") as stream:
        return File(path, stream.read(), after, stat.S_IMODE(found.st_mode) != MODE or found.st_uid != os.geteuid())


def _link(path: str, root: str) -> str | None:
    full = os.path.join(root, path.lstrip("/"))
    if os.path.islink(full):
        return os.readlink(full)
    if os.path.lexists(full):
        raise _mss.MssError(f"{path} is no link. Move it away first.")
    return None


def write(files: list[File], journal: _journal.Journal, systemctl: str | None) -> None:
    """Write what differs, what undoes it first, and let a systemd that runs know.

    @raises OSError: a file cannot be written.
    @raises _mss.MssError: systemd does not start the unit.
    """
    changed = [file for file in files if file.changed]
    running = systemctl if systemctl and os.path.isdir(RUNNING) else None
    starts = any(file.after for file in files)
    if running:
        journal.command(["systemctl", "daemon-reload"], tolerate=True)
    for file in changed:
        journal.file(file.path)
    if running:
        journal.command(["systemctl", "stop" if starts else "start", NAME], tolerate=True)
        if not starts:
            _journal.run([running, "stop", NAME])
    for file in changed:
        _write(file)
    if running:
        for words in (["daemon-reload"], ["restart", NAME]) if starts else (["daemon-reload"],):
            code, _output, error = _journal.run([running, *words])
            if code:
                raise _mss.MssError(f"systemctl {' '.join(words)}: {error.strip()[-300:]}")


def _write(file: File) -> None:
    if file.after is None:
        os.unlink(file.path)
    elif file.link:
        _journal.link_file(file.path, file.after)
    else:
        _journal.replace_file(file.path, file.after.encode(), MODE, (0, 0))

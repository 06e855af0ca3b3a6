# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The run folder: everything one run reads and writes, in files on the controller.

The layout is the contract between gathering and deciding: a live run, the replay of a bundle and a unit test
all hand the engine a folder like this one and nothing else.

    run.json                        what was asked: run id, start, options, the hosts of the play
    hosts/<host>/<module>-<label>.json   what one module call returned, or why it returned nothing
    plan/<label>/pairs.json         the pairs a round probes
    plan/<label>/<host>.json        the probes one host sends in that round
    captures/<host>.pcapng          what taps saw, and
    evidence/<host>.tar.gz          the archive of a host, both on request; the engine reads neither
    report.json                     the verdict
    remediation.json                what was to be repaired on account of it, and what came of it
    after/<round>/                  a run folder of its own: what was read again after a repair

Folders are 0700 and files 0600: facts tell a lot about a network.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import typing as t
from urllib.parse import quote, unquote

Record = dict[str, t.Any]

MAX_FILE_BYTES = 512 * 1024 * 1024


class RunFolderError(Exception):
    """The folder cannot be read or written; the message names the path and what to do."""


def safe_name(host: str) -> str:
    """An inventory name as a file name: unique, reversible, never a path."""
    name = quote(host, safe="")
    return name.replace(".", "%2E") if name.strip(".") == "" else name


class RunFolder:
    """Reads and writes the files of one run."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(os.path.expanduser(path))

    @classmethod
    def create(cls, path: str, run: Record) -> RunFolder:
        folder = cls(path)
        try:
            os.makedirs(folder.path, mode=0o700, exist_ok=True)
            if os.path.exists(folder.file("run.json")):
                folder.forget()
        except OSError as exc:
            raise RunFolderError(
                f"The run folder {folder.path} cannot be created: {exc.strerror}. "
                "Set doctor_report_dir to a folder you may write to."
            ) from exc
        folder.write("run.json", run)
        return folder

    def forget(self) -> None:
        """Remove what an earlier run left in this folder; a folder that is no run's is refused, not emptied.

        The record of a repair stays: it tells how to take back what is in force.
        """
        earlier = self.read("run.json")
        if not isinstance(earlier, dict) or not {"run_id", "collection_version"} <= earlier.keys():
            raise RunFolderError(f"{self.path} holds a run.json that no run wrote. Give another doctor_report_dir.")
        for name in ("hosts", "plan", "captures", "evidence", "after", "outcomes"):
            shutil.rmtree(self.file(name), ignore_errors=True)
        for name in ("run.json", "report.json"):
            if os.path.exists(self.file(name)):
                os.unlink(self.file(name))

    def file(self, *parts: str) -> str:
        return os.path.join(self.path, *parts)

    def write(self, relative: str, content: t.Any) -> str:
        """Write JSON atomically with mode 0600 and return the path."""
        target = self.file(relative)
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".tmp-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(content, stream, indent=None, separators=(",", ":"), sort_keys=True)
                stream.write("\n")
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
        return target

    def read(self, relative: str) -> t.Any:
        """Read one JSON file; None where it does not exist."""
        target = self.file(relative)
        try:
            if os.path.getsize(target) > MAX_FILE_BYTES:
                raise RunFolderError(f"{target} is larger than {MAX_FILE_BYTES} bytes and was not read.")
            with open(target, encoding="utf-8") as stream:
                return json.load(stream)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as exc:
            raise RunFolderError(f"{target} cannot be read: {exc}") from exc

    def write_record(self, host: str, module: str, label: str, record: Record) -> str:
        return self.write(f"hosts/{safe_name(host)}/{module}-{label}.json", record)

    def read_record(self, host: str, module: str, label: str) -> Record | None:
        return self.read(f"hosts/{safe_name(host)}/{module}-{label}.json")

    def records(self, host: str) -> dict[tuple[str, str], Record]:
        """Every record of one host by (module, label)."""
        folder = self.file("hosts", safe_name(host))
        found: dict[tuple[str, str], Record] = {}
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            stem, extension = os.path.splitext(name)
            module, separator, label = stem.rpartition("-")
            if extension == ".json" and separator and not name.startswith("."):
                found[module, label] = self.read(f"hosts/{safe_name(host)}/{name}")
        return found

    def hosts(self) -> list[str]:
        folder = self.file("hosts")
        return sorted(unquote(name) for name in os.listdir(folder)) if os.path.isdir(folder) else []

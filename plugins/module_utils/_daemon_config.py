# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine's configuration file: merged key by key, everything else in it kept.

An engine that finds an error in this file, or an option both in it and on its command line, does not start again. So
nothing is written that was not understood before, and dockerd itself is asked where it can be (23.0 and later).
"""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.crosshost.doctor.plugins.module_utils import _commands, _journal
from ansible_collections.crosshost.doctor.plugins.module_utils._daemon import read_daemon_flags
from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_int, read_text

PATH = "/etc/docker/daemon.json"
PID_FILES = ("/run/docker.pid", "/var/run/docker.pid")
BYTES_LIMIT = 1 << 20
MODE = 0o644
# What SIGHUP makes the engine read again (moby, daemon/reload.go). All else takes a restart.
RELOADED = frozenset(
    (
        "authorization-plugins",
        "debug",
        "default-runtime",
        "features",
        "insecure-registries",
        "labels",
        "live-restore",
        "max-concurrent-downloads",
        "max-concurrent-uploads",
        "max-download-attempts",
        "registry-mirrors",
        "runtimes",
        "shutdown-timeout",
    )
)
_KEY = re.compile(r"[a-z][a-z0-9-]{0,63}")
_INDENT = re.compile(r"\A\s*\{[ \t]*\r?\n([ \t]+)\"")
Settings = dict[str, t.Any]


class ConfigError(Exception):
    """The request cannot be met; the message says why and what to do."""


@dataclass
class Plan:
    """What the file says and shall say."""

    path: str
    before: str | None
    after: str
    mode: int = MODE
    owner: tuple[int, int] = (0, 0)
    keys: dict[str, dict[str, t.Any]] = field(default_factory=dict)  # of the changed ones: before, after, takes

    @property
    def changed(self) -> bool:
        return self.before != self.after


def make(path: str, settings: Settings, flags: Settings | None = None) -> Plan:
    """The plan.

    @param flags: what the running engine was told on its command line, by key.
    @raises ConfigError: the file is not understood, or the engine would not start with it.
    """
    for key in settings:
        if not _KEY.fullmatch(key):
            raise ConfigError(f"settings: {key!r} is not a key of daemon.json.")
    place = os.path.realpath(path)
    text, mode, owner = _read(place)
    old = parse(text, path)
    clash = sorted(key for key in settings if key in (flags or {}) and not _settled(old, key, settings[key]))
    if clash:
        raise ConfigError(
            f"The engine has {' and '.join(clash)} on its command line, and does not start with the same option in "
            f"{path}. Change it where the engine is started, for example in its systemd unit."
        )
    new = merge(old, settings)
    plan = Plan(place, text, text or "" if new == old else render(new, text), mode, owner)
    for key in settings:
        if old.get(key) != new[key] or key not in old:
            takes = "reload" if key in RELOADED else "restart"
            plan.keys[key] = {"before": old.get(key), "after": new[key], "takes": takes}
    return plan


def _settled(old: Settings, key: str, value: t.Any) -> bool:
    return key in old and merge(old, {key: value}) == old


def _read(place: str) -> tuple[str | None, int, tuple[int, int]]:
    try:
        found = os.stat(place)
    except FileNotFoundError:
        return None, MODE, (0, 0)
    except OSError as exc:
        raise ConfigError(f"{place} cannot be looked at: {exc.strerror}.") from exc
    if not stat.S_ISREG(found.st_mode) or found.st_size > BYTES_LIMIT:
        raise ConfigError(f"{place} is not a regular file of at most {BYTES_LIMIT} bytes: it is left alone.")
    try:
        with open(place, encoding="utf-8", newline="") as stream:
            return stream.read(), stat.S_IMODE(found.st_mode), (found.st_uid, found.st_gid)
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{place} cannot be read as text: {exc}.") from exc


def parse(text: str | None, path: str = PATH) -> Settings:
    """The settings in a file; an absent or empty file has none.

    @raises ConfigError: it is not a JSON object whose keys are each there once.
    """
    if text is None or not text.strip():
        return {}

    def once(pairs: list[tuple[str, t.Any]]) -> Settings:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _value in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigError(f"{path} has {twice!r} twice: it is left alone. Remove one of them first.")
        return found

    try:
        found = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{path} is not valid JSON ({exc}): it is left alone. Mend it first.") from exc
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds no JSON object: it is left alone. Mend it first.")
    return found


def merge(old: Settings, settings: Settings) -> Settings:
    """The settings put over the old ones: objects key by key, everything else as a whole. The order stays."""
    new = dict(old)
    for key, value in settings.items():
        known = new.get(key)
        new[key] = merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return new


def render(settings: Settings, like: str | None) -> str:
    """The text of a file, indented like the one before."""
    found = _INDENT.match(like or "")
    text = json.dumps(settings, indent=found.group(1) if found else 2, ensure_ascii=False)
    if found and "\r\n" in (like or ""):
        text = text.replace("\n", "\r\n")
    ending = "" if like and like.strip() and not like.endswith("\n") else "\n"
    return text + ending


def engine_pid() -> int | None:
    """The process of the running engine."""
    for path in PID_FILES:
        pid = read_int(path)
        if pid and os.path.isdir(f"/proc/{pid}"):
            return pid
    return None


def engine_flags() -> Settings:
    """What the running engine was told on its command line, by key of daemon.json."""
    return read_daemon_flags(engine_pid())


def started_at(pid: int, proc: str = "/proc") -> float | None:
    """When a process began, in seconds of the clock as it is now set, or None."""
    fields = (read_text(f"{proc}/{pid}/stat", 4096) or "").rpartition(")")[2].split()
    uptime = (read_text(f"{proc}/uptime", 64) or "").split()
    try:
        age = float(uptime[0]) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (IndexError, ValueError):
        return None
    return time.time() - age


def outdated(path: str) -> bool:
    """Whether the engine runs and began before the file was last written: it may not have what the file says."""
    pid = engine_pid()
    began = started_at(pid) if pid else None
    try:
        return began is not None and os.stat(path).st_mtime > began
    except OSError:
        return False


def validate(plan: Plan) -> str:
    """Have dockerd judge the new file: C(valid), or why nobody could be asked.

    @raises ConfigError: it does not accept the file.
    """
    program = _commands.find("dockerd")
    if program is None:
        return "dockerd is not in the path"
    code, output, error = _journal.run([program, "--help"])
    if code or "--validate" not in output + error:
        return "dockerd knows no --validate: it is older than 23.0"
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", prefix="crosshost-", suffix=".json") as file:
        file.write(plan.after)
        file.flush()
        code, output, error = _journal.run([program, "--validate", "--config-file", file.name])
    if code:
        said = (error or output).strip().replace(file.name, plan.path)
        raise ConfigError(f"dockerd does not accept the new {plan.path}, which was not written: {said[-400:]}")
    return "valid"


def apply(plan: Plan, journal: _journal.Journal) -> None:
    """Write the file and read it again.

    @raises ConfigError: it is not there as written.
    @raises OSError: it cannot be written.
    @raises _journal.JournalError: what undoes it cannot be noted; it was not written.
    """
    journal.file(plan.path)
    _journal.replace_file(plan.path, plan.after.encode(), plan.mode, plan.owner)
    if _read(plan.path)[0] != plan.after:
        raise ConfigError(f"{plan.path} is not what was written: another program changes it.")


def difference(plan: Plan) -> dict[str, str]:
    """The changed keys, before and after, for diff mode. The others may hold secrets: a proxy's, a log driver's."""
    rows = plan.keys.items()
    before = {key: row["before"] for key, row in rows if row["before"] is not None}
    texts = {"before": before, "after": {key: row["after"] for key, row in rows}}
    shown = {
        name: json.dumps(part, indent=2, ensure_ascii=False) + "\n" if part else "" for name, part in texts.items()
    }
    return {"before_header": plan.path, "after_header": plan.path, **shown}

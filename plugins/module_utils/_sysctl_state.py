# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runtime and persisted sysctls side by side: the facts of L(sysctl_forwarding)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._sysctl import value as typed
from ansible_collections.crosshost.doctor.plugins.module_utils._sysctl_files import (
    PROCPS,
    SYSTEMD,
    UFW,
    Persisted,
    Statement,
    dotted,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._sysctl_kernel import (
    INTERFACE_4,
    INTERFACE_6,
    INTERFACES_LIMIT,
    V4_FORWARD,
    Runtime,
    along,
    effective,
    split,
    wide_for,
    words,
)

SCHEMA = "1"
ROWS_LIMIT = 4000
FILES_LIMIT = 200


@dataclass(frozen=True)
class Lasting:
    """What a key has after a boot, and the statement that makes it so."""

    value: str
    statement: Statement
    tools: tuple[str, ...]


def after(found: Persisted, tool: str, path: str) -> tuple[str, Statement] | None:
    """A key after C(tool) has run at boot, ufw after it, with what the kernel rewrites along; None when nobody sets it.

    Interfaces that come later start from C(default); systemd applies their own keys again (99-systemd.rules).
    """
    wide = wide_for(path)
    result: tuple[str, Statement] | None = None
    general = "0"  # what the wide ones are when the kernel starts
    for order in (found.orders[tool], found.orders[UFW]):
        applied = {name: order.applied(name) for name in (path, *wide)}
        # One line, a glob, may write several of them.
        for index, name in sorted((index, name) for name, indices in applied.items() for index in indices):
            statement = order.statements[index]
            value = words(statement.value or "")
            if name != path and value == general and order is found.orders[SYSTEMD]:
                continue  # it does not write what is there already, so nothing is rewritten along
            new = value if name == path else along(path, name, value, general)
            if new is not None:
                result = (new, statement)
            if name != path or path in V4_FORWARD:
                general = value
    return result


def lasting(found: Persisted, path: str) -> Lasting | None:
    """What holds after a boot. A key that only the other program sets is returned with that program alone."""
    answers = {tool: after(found, tool, path) for tool in (found.tool, *({SYSTEMD, PROCPS} - {found.tool}))}
    chosen = answers[found.tool] or next(filter(None, answers.values()), None)
    if chosen is None:
        return None
    value, statement = chosen
    if statement in found.ufw:
        return Lasting(value, statement, (UFW,))
    return Lasting(value, statement, tuple(tool for tool, answer in answers.items() if answer and answer[0] == value))


def row(found: Persisted, path: str, runtime: str | None, holds: Lasting | None) -> dict[str, Any]:
    """One sysctl: runtime value, persisted value, the file that wins and the settings that lose."""
    statement = holds.statement if holds else None
    return {
        "runtime": None if runtime is None else typed(runtime),
        "persisted": typed(holds.value) if holds else None,
        "file": statement.file if statement else None,
        "line": statement.line if statement else None,
        "setting": statement.key if statement else None,
        "tools": list(holds.tools) if holds else [],
        "drift": bool(holds and runtime is not None and holds.value != runtime),
        "others": [
            {"file": other.file, "line": other.line, "setting": other.key, "value": other.value}
            for other in found.losers(path, statement)
        ],
    }


def read_state(found: Persisted, runtime: Runtime) -> dict[str, Any]:
    """The facts.

    Listed are the sysctls of the host, of C(all) and of C(default), and of interfaces those that some file decides.
    """
    named = tuple(
        dict.fromkeys(
            s.path
            for s in (*found.statements, *found.conf, *found.ufw)
            if s.path.startswith("net/") and not s.is_glob and s.value is not None
        )
    )[:ROWS_LIMIT]
    state = runtime.snapshot(named)
    notes: list[dict[str, Any]] = [*found.notes]
    rows: dict[str, Any] = {}
    for path in state:
        parts = split(path)
        holds = lasting(found, path)
        if holds is None and parts and parts[1] not in ("all", "default"):
            continue
        if len(rows) == ROWS_LIMIT:
            notes.append({"file": None, "why": f"more than {ROWS_LIMIT} sysctls: the rest is left out"})
            break
        rows[dotted(path)] = row(found, path, state[path], holds)
    names = [name for name in runtime.interfaces("ipv4") if name not in ("all", "default")]
    if len(names) > INTERFACES_LIMIT:
        notes.append({"file": None, "why": f"{len(names) - INTERFACES_LIMIT} more interfaces are left out"})
    return {
        "schema": SCHEMA,
        "tool": found.tool,
        "files": found.files[:FILES_LIMIT],
        "masked": found.masked[:FILES_LIMIT],
        "notes": notes[:FILES_LIMIT],
        "interfaces": [_interface(name, state) for name in names[:INTERFACES_LIMIT]],
        "sysctls": rows,
        "drift": [key for key, fields in rows.items() if fields["drift"]],
        "pending": {dotted(path): row(found, path, None, lasting(found, path)) for path in named if path not in state},
    }


def _interface(name: str, state: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, dict[str, Any]] = {"ipv4": {}, "ipv6": {}}
    holding: dict[str, dict[str, Any]] = {"ipv4": {}, "ipv6": {}}
    for family, names in (("ipv4", INTERFACE_4), ("ipv6", INTERFACE_6)):
        for key in names:
            path = f"net/{family}/conf/{name}/{key}"
            if path in state:
                values[family][key] = typed(state[path])
                holding[family][key] = effective(path, state)
    return {"name": name, **values, "effective": holding}

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From named sysctls to what is written: one plan for check mode, diff mode and the real thing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils import _sysctl_own_file
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal
from ansible_collections.crosshost.doctor.plugins.module_utils._sysctl_files import (
    PROCPS,
    SYSTEMD,
    UFW,
    Persisted,
    Statement,
    dotted,
    normalize,
    scan,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._sysctl_kernel import (
    V4_FORWARD,
    Runtime,
    consequences,
    split,
    wide_for,
    words,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._sysctl_own_file import PlanError, rank
from ansible_collections.crosshost.doctor.plugins.module_utils._sysctl_state import after, lasting

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+-]*")
_VALUE = re.compile(r"-?[A-Za-z0-9_.,:-]+( -?[A-Za-z0-9_.,:-]+)*")
VALUE_LENGTH = 256
NAMES_LIMIT = 20  # in one sentence; the result lists all
_LATER = ("net/bridge/", "net/netfilter/", "net/ipv4/vs/", "net/ipv4/netfilter/", "net/mptcp/", "net/sctp/")


@dataclass
class Plan:
    """What will be written, and what comes of it."""

    file: str
    named: dict[str, str | None]
    before: dict[str, str] = field(default_factory=dict)
    writes: list[tuple[str, str]] = field(default_factory=list)
    rewritten: dict[str, tuple[str, str]] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)
    locked: list[str] = field(default_factory=list)
    text_before: str | None = None
    text: str | None = None
    mends_mode: bool = False
    persisted_before: Persisted = field(default_factory=Persisted)
    persisted: Persisted = field(default_factory=Persisted)
    overrides: list[Override] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def writes_file(self) -> bool:
        return self.text != self.text_before or self.mends_mode

    @property
    def changed(self) -> bool:
        return bool(self.writes) or self.writes_file


def key_path(name: Any) -> str:
    """The path of a key that may be set.

    @raises PlanError: it is not below net., or not a plain name.
    """
    path = normalize(name) if isinstance(name, str) else ""
    parts = path.split("/")
    if not path.startswith("net/") or len(parts) < 3 or ".." in parts or not all(map(_PART.fullmatch, parts)):
        raise PlanError(
            f"{name!r} is not a sysctl this module sets: a plain name below net., such as "
            "net.ipv4.conf.eth0.forwarding, without wildcards."
        )
    if parts[1] in ("ipv4", "ipv6") and parts[2] in ("conf", "neigh") and len(parts) != 5:
        raise PlanError(
            f"{name!r} has {len(parts) - 4} parts between {parts[2]} and {parts[-1]}, where one interface belongs. A "
            f"dot in an interface name is written as a slash: net.{parts[1]}.{parts[2]}.eth0/100.{parts[-1]}."
        )
    return path


def key_value(name: str, value: Any) -> str:
    """A value as it is written.

    @raises PlanError: it is neither an integer nor a few plain words.
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise PlanError(f"{name}: {value!r} is not a value; write an integer or a word, 1 and not true.")
    text = words(str(value))
    if len(text) > VALUE_LENGTH or not _VALUE.fullmatch(text):
        raise PlanError(f"{name}: {value!r} is neither an integer nor a few plain words.")
    return text


def make(
    settings: Mapping[Any, Any], present: bool, path: str, reload: bool, root: str = "/", persistent: bool = True
) -> Plan:
    """The plan.

    @param settings: values by key; values are ignored when the keys are to be removed.
    @param reload: removing them also sets what the remaining files say.
    @param persistent: False leaves the file as it is.
    @raises PlanError: the request cannot be met.
    """
    if not (present or persistent):
        raise PlanError("state: absent removes from the file, which persistent: false leaves alone.")
    named: dict[str, str | None] = {}
    for name, value in settings.items():
        key = key_path(name)
        wanted = key_value(name, value) if present else None
        if named.setdefault(key, wanted) != wanted:
            raise PlanError(f"{name} is named twice, with different values.")
    text, mends_mode = _sysctl_own_file.read(root, path)
    plan = Plan(path, named, text_before=text, text=_sysctl_own_file.edit(text, named) if persistent else text)
    plan.mends_mode = mends_mode and plan.text is not None and persistent
    plan.persisted_before = scan(root)
    plan.persisted = scan(root, {path: plan.text})
    if present and persistent:
        _must_not_hide(plan)
    runtime = Runtime(root)
    plan.before = runtime.snapshot(tuple(named))
    goal = {key: value for key, value in named.items() if value is not None}
    if not present and reload:
        held = {key: lasting(plan.persisted, key) for key in named}
        goal = {key: found.value for key, found in held.items() if found and key in plan.before}
    for key in goal:
        if key not in plan.before:
            _must_be_possible(key, runtime)
            plan.pending.append(key)
        elif plan.before[key] != goal[key] and runtime.locked(key):
            plan.locked.append(key)
    _plan_runtime(plan, {key: goal[key] for key in goal if key in plan.before and key not in plan.locked})
    if present and persistent:
        plan.overrides = overriding(plan)
        plan.warnings += map(warn_of, plan.overrides)
    plan.warnings += cautions(plan, goal, persistent)
    return plan


def _must_not_hide(plan: Plan) -> None:
    """Refuse a name that another directory has too: of two files of one name only one is read.

    @raises PlanError: the file would not be read, or would hide another.
    """
    for row in plan.persisted.masked:
        if row["file"] == plan.file:
            raise PlanError(f"{plan.file} is not read, because {row['by']} has the same name. Choose another path.")
        if row["by"] == plan.file and plan.text_before is None:
            raise PlanError(f"{plan.file} would hide {row['file']}, which has the same name. Choose another path.")


def _must_be_possible(path: str, runtime: Runtime) -> None:
    """Refuse a name that this kernel will never have; one of an interface to come, or of a module, is fine.

    @raises PlanError: a typing error, most likely.
    """
    if path.startswith(_LATER):
        return
    found = split(path)
    sample = f"net/{found[0]}/conf/default/{found[2]}" if found else path
    if path.startswith(("net/ipv4/neigh/", "net/ipv6/neigh/")):
        sample = "/".join([*path.split("/")[:3], "default", os.path.basename(path)])
    if runtime.read(sample) is None or runtime.has_folder(path):
        raise PlanError(f"This kernel has no {dotted(path)}. Nothing was changed.")


def _plan_runtime(plan: Plan, goal: Mapping[str, str]) -> None:
    """Which sysctls are written in which order, and what that rewrites along.

    @raises PlanError: two named keys exclude each other.
    """
    state = dict(plan.before)
    for path in sorted(goal, key=lambda path: (rank(path), dotted(path))):
        if state[path] != goal[path]:
            plan.writes.append((path, goal[path]))
            state.update(consequences(path, goal[path], state))
    wrong = [path for path, value in goal.items() if state[path] != value]
    if wrong:
        raise PlanError(f"{' and '.join(map(dotted, sorted(wrong)))} cannot be had together with the other keys.")
    plan.rewritten = {
        path: (plan.before[path], value)
        for path, value in state.items()
        if value != plan.before[path] and path not in goal
    }


@dataclass(frozen=True)
class Override:
    """A setting that gives a named key another value than the file does."""

    path: str
    value: str
    statement: Statement
    tools: tuple[str, ...]


def overriding(plan: Plan) -> list[Override]:
    """What still defeats the file once it is written."""
    found: dict[tuple[str, str, Statement], list[str]] = {}
    for path, wanted in plan.named.items():
        for tool in (plan.persisted.tool, *({SYSTEMD, PROCPS} - {plan.persisted.tool})):
            answer = after(plan.persisted, tool, path)
            if answer and answer[0] != wanted:
                who = UFW if answer[1] in plan.persisted.ufw else tool
                tools = found.setdefault((path, *answer), [])
                tools += [who] * (who not in tools)
    return [Override(*key, tuple(tools)) for key, tools in found.items()]


def warn_of(override: Override) -> str:
    """The sentence about a setting that defeats the file."""
    statement = override.statement
    return (
        f"{dotted(override.path)} does not last: {statement.file} line {statement.line} ({statement.key}) makes it "
        f"{override.value} when {' or '.join(override.tools)} applies its files."
    )


def some(paths: Iterable[str]) -> str:
    """Keys for a sentence."""
    names = sorted(map(dotted, paths))
    more = f" and {len(names) - NAMES_LIMIT} more" if len(names) > NAMES_LIMIT else ""
    return ", ".join(names[:NAMES_LIMIT]) + more


def forwards_of_its_own(path: str) -> bool:
    """Whether it is forwarding of an interface; nothing is forwarded from the loopback."""
    found = split(path)
    return found is not None and (found[0], found[2]) == ("ipv4", "forwarding") and found[1] not in ("all", "lo")


def cautions(plan: Plan, goal: Mapping[str, str], persistent: bool = True) -> list[str]:
    """What somebody who wrote this by hand would want to have known."""
    said = []
    written = dict(plan.writes)
    for path in V4_FORWARD:
        if path in written and plan.rewritten:
            said.append(
                f"Writing {dotted(path)} {plan.before[path]} -> {written[path]} makes the kernel rewrite "
                f"{some(plan.rewritten)}. Where one interface is enough, name its forwarding instead."
            )
            if written[path] != "0":
                said.append(
                    "The host then forwards between all its interfaces: look at what its FORWARD chains accept, their "
                    "policy included, before anybody else routes through it."
                )
            break
        still = [
            name
            for name, value in plan.before.items()
            if value == "0" and name not in goal and forwards_of_its_own(name)
        ]
        if goal.get(path) not in (None, "0") and path not in written and still:
            said.append(
                f"{dotted(path)} is {plan.before.get(path)} already and is not written; "
                f"{some(still)} stay 0 unless named."
            )
            break
    if written.get("net/ipv6/conf/all/forwarding", "0") != "0":
        said.append(
            "With net.ipv6.conf.all.forwarding = 1 the kernel drops default routes learned from router advertisements, "
            "except on interfaces with accept_ra = 2."
        )
    if plan.pending and persistent:
        said.append(
            f"Not at runtime yet, and only persisted: {some(plan.pending)}. systemd applies "
            "the keys of an interface when it appears; elsewhere run this module again."
        )
    elif plan.pending:
        said.append(f"Not set, because this kernel does not have them yet: {some(plan.pending)}.")
    if plan.locked:
        said.append(
            f"Not set at runtime: {some(plan.locked)}. It is one value of the whole machine, and this host is a "
            "network namespace that may not set it. Set it on the machine itself."
        )
    return said


def note(plan: Plan, journal: Journal) -> None:
    """Write down what undoes the plan.

    It is undone from the last entry to the first, and what rewrites others has to be undone before them: it is noted
    after them. Noted is all that writing it back rewrites, also where writing it now does not.

    @raises JournalError: it cannot be written down, and nothing must be changed.
    """
    if plan.writes_file:
        journal.sysctl_lines(plan.file, list(plan.named))
    written = dict(plan.writes)
    touched = {*written, *(path for path in plan.before if any(wide in written for wide in wide_for(path)))}
    for path in sorted(touched, key=lambda path: (path in V4_FORWARD, -rank(path), path)):
        journal.sysctl(path)


def apply(plan: Plan, root: str, move: Callable[[str, str], None]) -> None:
    """Write what was planned, then read it all again.

    The kernel comes first: a value it refuses must not be in a file for the next boot.

    @param move: puts a finished file in its place, in one step.
    @raises PlanError: the kernel or the file did not take it.
    """
    runtime = Runtime(root)
    done: list[str] = []
    for path, value in plan.writes:
        try:
            runtime.write(path, value)
        except OSError as exc:
            raise PlanError(
                f"The kernel did not take {dotted(path)} = {value}: {exc.strerror}. Written before it: "
                f"{', '.join(done) or 'nothing'}. {plan.file} was not touched."
            ) from exc
        done.append(f"{dotted(path)} = {value}")
    if plan.writes_file:
        try:
            _sysctl_own_file.replace(root, plan.file, plan.text, move)
        except OSError as exc:
            raise PlanError(
                f"{plan.file} could not be written: {exc.strerror or exc}. Set at runtime only: "
                f"{', '.join(done) or 'nothing'}."
            ) from exc
    # The last value written counts: what is rewritten along may be set again afterwards.
    for path, value in dict(plan.writes).items():
        found = runtime.read(path)
        if found != value:
            raise PlanError(
                f"The kernel did not keep {dotted(path)} = {value}: it reads {found}. Another program may set it too."
            )
    text, wrong_mode = _sysctl_own_file.read(root, plan.file)
    if text != plan.text or wrong_mode:
        raise PlanError(f"{plan.file} is not what was written: another program changes it.")


def listing(values: Mapping[str, str]) -> str:
    return "".join(f"{dotted(path)} = {values[path]}\n" for path in sorted(values, key=dotted))


def difference(plan: Plan) -> list[dict[str, str]]:
    """Runtime and file, before and after, for diff mode. The keys that are rewritten along are in it."""
    touched = {**{path: value for path, (_old, value) in plan.rewritten.items()}, **dict(plan.writes)}
    return [
        {
            "before_header": "runtime",
            "after_header": "runtime",
            "before": listing({path: plan.before[path] for path in touched}),
            "after": listing(touched),
        },
        {
            "before_header": plan.file,
            "after_header": plan.file,
            "before": plan.text_before or "",
            "after": plan.text or "",
        },
    ]

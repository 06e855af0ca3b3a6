# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Puts a plan of accepts into the packet filter: one nft transaction, and iptables' programs, argument by argument."""

from __future__ import annotations

import json
import typing as t

from ansible_collections.crosshost.doctor.plugins.module_utils import _commands
from ansible_collections.crosshost.doctor.plugins.module_utils._accept_flow import AcceptError, Flow
from ansible_collections.crosshost.doctor.plugins.module_utils._accept_plan import Edit, Plan
from ansible_collections.crosshost.doctor.plugins.module_utils._accept_rule import (
    Place,
    groups,
    iptables_match,
    nft_rule,
)

Run = t.Callable[[list[str], t.Optional[str]], tuple[int, str, str]]
Find = t.Callable[[str], t.Optional[str]]


class Notes(t.Protocol):
    """What this needs of a journal."""

    def command(self, argv: t.Sequence[str], input: str | None = None, *, tolerate: bool = False) -> None: ...

    def nft_comment(self, family: str, table: str, chain: str, comment: str) -> None: ...


def program(place: Place, run: Run, find: Find = _commands.find) -> str:
    """The iptables program that writes into this very table.

    @raises AcceptError: there is none. Another one would make tables of the other kind.
    """
    name = "iptables" if place.family == "ip" else "ip6tables"
    kind = "legacy" if place.backend == "iptables-legacy" else "nft"
    path = find(f"{name}-{kind}")
    if path:
        return path
    path = find(name)
    if path:
        _code, output, _error = run([path, "-V"], None)
        # Before 1.8 there was no other kind, and no word about it.
        if (kind == "nft") == ("nf_tables" in output):
            return path
    raise AcceptError(f"{name}-{kind} is needed for chain {place.chain} of table {place.table}, and is not installed.")


def iptables_argv(path: str, place: Place, action: str, flow: Flow, comment: str) -> list[str]:
    where = [place.chain, "1"] if action == "-I" else [place.chain]
    return [path, "-w", "10", "-t", place.table, action, *where, *iptables_match(flow, comment)]


def apply(plan: Plan, journal: Notes, run: Run, find: Find = _commands.find) -> None:
    """Carry out a plan, every undoing noted before.

    @raises AcceptError: a program is missing, or refuses. What was done until then is in the journal.
    """
    edits = [edit for edit in plan.edits if edit.changed]
    on_nft = [edit for edit in edits if edit.place.backend == "nft"]
    programs = {edit.place: program(edit.place, run, find) for edit in edits if edit.place.backend != "nft"}
    for edit in edits:
        if edit.place in programs and not edit.readable:
            raise AcceptError(
                f"A rule of chain {edit.place.chain} has the comment {edit.comment!r} and is not this module's: "
                "remove it, or change its comment."
            )
    if on_nft:
        _nft(on_nft, journal, run, find)
    for edit in edits:
        if edit.place in programs:
            _iptables(edit, programs[edit.place], journal, run)


def _nft(edits: list[Edit], journal: Notes, run: Run, find: Find) -> None:
    path = find("nft")
    if path is None:
        raise AcceptError("The program nft is needed for these chains, and is not installed.")
    commands: list[dict[str, t.Any]] = []
    for edit in edits:
        place = edit.place
        for rule in edit.old:
            where = {"family": place.family, "table": place.table, "chain": place.chain}
            commands.append({"delete": {"rule": {**where, "handle": rule["handle"]}}})
        commands += insertions(place, edit.flows, edit.comment)
        if edit.had:
            journal.command([path, "-j", "-f", "-"], document(insertions(place, edit.had, edit.comment)))
        journal.nft_comment(place.family, place.table, place.chain, edit.comment)
    _succeed(run, [path, "-j", "-f", "-"], document(commands))


def insertions(place: Place, flows: t.Iterable[Flow], comment: str) -> list[dict[str, t.Any]]:
    """Each at the head of the chain, so in reverse."""
    return [{"insert": {"rule": nft_rule(place, group, comment)}} for group in reversed(groups(flows))]


def document(commands: list[dict[str, t.Any]]) -> str:
    return json.dumps({"nftables": commands})


def _iptables(edit: Edit, path: str, journal: Notes, run: Run) -> None:
    def change(action: str, flow: Flow) -> None:
        opposite = iptables_argv(path, edit.place, "-D" if action == "-I" else "-I", flow, edit.comment)
        journal.command(opposite, tolerate=action == "-I")
        _succeed(run, iptables_argv(path, edit.place, action, flow, edit.comment), None)

    again = set(edit.add) & set(edit.remove)  # deleting by content would meet the new one
    for flow in edit.remove:
        if flow in again:
            change("-D", flow)
    for flow in reversed(edit.add):
        change("-I", flow)
    for flow in edit.remove:
        if flow not in again:
            change("-D", flow)


def _succeed(run: Run, argv: list[str], input: str | None) -> None:
    code, _output, error = run(argv, input)
    if code:
        raise AcceptError(f"{' '.join(argv)} failed with status {code}: {error.strip()[:500]}")

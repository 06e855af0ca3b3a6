# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The same clamp of forwarded traffic by iptables, for hosts without nft."""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.crosshost.doctor.plugins.module_utils import _commands, _journal, _mss, _mss_unit

TOOLS = ("iptables", "ip6tables")
CHAIN = "FORWARD"
Rule = list[str]


def rules(interfaces: Sequence[str]) -> list[Rule]:
    """The rules of the mangle table's forward chain, without the word that adds or deletes them."""
    mark = ["-m", "comment", "--comment", _mss.TABLE]
    syn = ["-p", "tcp", "-m", "tcp", "--tcp-flags", "SYN,RST", "SYN"]
    ways = [[way, name] for name in interfaces for way in ("-i", "-o")] or [[]]
    return [[*way, *syn, *mark, "-j", "TCPMSS", "--clamp-mss-to-pmtu"] for way in ways]


def programs() -> list[str]:
    """The programs of both families that this host has."""
    return [found for found in map(_commands.find, TOOLS) if found]


def words(program: str, action: str, rule: Rule) -> list[str]:
    return [program, "-w", "-t", "mangle", action, CHAIN, *rule]


def stands(program: str, rule: Rule) -> bool:
    return _journal.run(words(program, "-C", rule))[0] == 0


def line(program: str, rule: Rule) -> str:
    return " ".join(words(program.rpartition("/")[2], "-A", rule)) + "\n"


def change(program: str, rule: Rule, adds: bool, journal: _journal.Journal) -> None:
    """Put the rule first, where no rule that ends the chain stands before it, or take it out; what undoes it first.

    @raises _mss.MssError: the program refused.
    """
    do, undo = ("-I", "-D") if adds else ("-D", "-I")
    journal.command(words(program.rpartition("/")[2], undo, rule), tolerate=adds)
    code, _output, error = _journal.run(words(program, do, rule))
    if code:
        raise _mss.MssError(f"{program} does not take the clamp: {error.strip()[-300:]}")


def unit_files(found: Sequence[str], wanted: Sequence[Rule]) -> dict[str, str]:
    """The unit. Adding what stands already would double it: it is deleted first, which may fail."""
    start = []
    for program in found:
        for rule in wanted:
            start += [words(f"-{program}", "-D", rule), words(program, "-I", rule)]
    stop = [words(f"-{program}", "-D", rule) for program in found for rule in wanted]
    return {_mss_unit.UNIT: _mss_unit.unit(start, stop, "iptables.service netfilter-persistent.service", "")}

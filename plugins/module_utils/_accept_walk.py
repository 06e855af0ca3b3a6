# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a base chain may drop given packets, the chains it leads to included.

A chain accepts a packet only when an accept that matches for certain comes before any drop that may match.
"""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.module_utils._accept_match import Chain, Packet, evaluate

_LOST = ("drop", "reject", "queue")


class Rules:
    """The packet filter as _netfilter.read_filter read it, with verdicts remembered per packet."""

    def __init__(self, found: t.Mapping[str, t.Any]) -> None:
        self.chains: dict[tuple[str, str, str, str], Chain] = {
            (c["backend"], c["family"], c["table"], c["name"]): c for c in found["chains"]
        }
        self.sets = {(s["family"], s["table"], s["name"]): s for s in found["sets"]}

    def may_drop(self, base: Chain, packet: Packet, accepting: t.Optional[str] = None) -> bool:
        """Whether the base chain can end this packet. accepting: a chain to be taken as accepting it at once."""
        dropped, falls = Walk(self, packet, accepting).chain(base)
        return dropped or (falls and base["policy"] == "drop")

    def bases_of(self, chain: Chain) -> list[Chain]:
        """The base chains from which a chain is reached; a base chain itself."""
        if chain["hook"]:
            return [chain]
        table = [c for c in self.chains.values() if all(c[k] == chain[k] for k in ("backend", "family", "table"))]
        reached, grown = {chain["name"]}, True
        while grown:
            more = {c["name"] for c in table if any(target in reached for target in self.targets(c))} - reached
            reached |= more
            grown = bool(more)
        return [c for c in table if c["hook"] and c["name"] in reached]

    def targets(self, chain: Chain) -> t.Iterator[str]:
        """The chains a chain leads to directly, by a verdict or a verdict map."""
        for rule in chain["rules"]:
            for expr in rule["exprs"]:
                if expr.get("chain"):
                    yield expr["chain"]
                elif expr["name"] == "lookup" and expr.get("dreg") == -1:
                    found = self.sets.get((chain["family"], chain["table"], expr["set"])) or {"elements": ()}
                    yield from (e["chain"] for e in found["elements"] if isinstance(e, dict) and "chain" in e)


class Walk:
    """One packet through one base chain."""

    def __init__(self, rules: Rules, packet: Packet, accepting: t.Optional[str]) -> None:
        self.rules, self.packet, self.accepting = rules, packet, accepting
        self._known: dict[str, tuple[bool, bool]] = {}

    def chain(self, chain: Chain) -> tuple[bool, bool]:
        """(may be dropped in it, may come out at its end)."""
        name = chain["name"]
        if name == self.accepting:
            return False, False
        if name not in self._known:
            self._known[name] = (True, True)  # a loop, which the kernel refuses
            self._known[name] = self._walk(chain)
        return self._known[name]

    def _walk(self, chain: Chain) -> tuple[bool, bool]:
        dropped = False
        for rule in chain["rules"]:
            matched, verdicts = evaluate(self.rules.sets, chain, rule, self.packet)
            if matched is False or not verdicts:
                continue
            ends = True
            for verdict, target in verdicts:
                lost, stays = self._verdict(chain, verdict, target)
                dropped |= lost
                if verdict in ("return", "goto") and stays:
                    if matched and len(verdicts) == 1:
                        return dropped, True
                    ends = False
                ends &= not stays
            if matched and ends:
                return dropped, False
        return dropped, True

    def _verdict(self, chain: Chain, verdict: str, target: t.Optional[str]) -> tuple[bool, bool]:
        """(may be dropped, goes on)."""
        if verdict in _LOST:
            return True, False
        if verdict in ("accept", "stolen"):
            return False, False
        if verdict in ("jump", "goto"):
            to = self.rules.chains.get((chain["backend"], chain["family"], chain["table"], str(target)))
            return self.chain(to) if to is not None else (True, True)
        return False, True

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A base chain and everything it jumps to, walked with what may and what must happen."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.bits import Truth
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.result import LOST, RuleRef
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.rules import Outcome, evaluate
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.ruleset import Chain, Ruleset
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.state import State

# The kernel's own bound on jumps (NFT_JUMP_STACK_SIZE), and one on work: with unknown conditions every branch of a
# jump tree is walked.
_DEPTH = 16
_BUDGET = 400_000
_MAYBE_LOST = ("queue", "tproxy", "synproxy", "unknown")


def ref_of(base: Chain, chain: Chain, rule: t.Mapping[str, t.Any] | None, hook: str, verdict: str) -> RuleRef:
    """A rule, or for None the policy of the base chain."""
    counter = chain["policy_counter"] if rule is None else rule.get("counter")
    return RuleRef(
        ref=chain["ref"] if rule is None else rule["ref"],
        text=f"policy {chain['policy']}" if rule is None else rule["text"],
        backend=chain["backend"],
        family=chain["family"],
        table=chain["table"],
        chain=chain["name"],
        hook=hook,
        priority=base["priority"],
        base=base["ref"],
        handle=None if rule is None else rule["handle"],
        comment=None if rule is None else rule.get("comment"),
        counter=None if counter is None else (counter[0], counter[1]),
        why="policy" if rule is None else "rule",
        verdict=verdict,
    )


@dataclasses.dataclass
class Found:
    """What a base chain can do: the verdicts that are possible, and by which rules."""

    passes: bool = False
    drops: list[RuleRef] = dataclasses.field(default_factory=list)
    may_drop: list[RuleRef] = dataclasses.field(default_factory=list)
    changes: list[RuleRef] = dataclasses.field(default_factory=list)

    @property
    def lost(self) -> bool:
        """No way through."""
        return not self.passes

    @property
    def touched(self) -> bool:
        return bool(self.drops or self.may_drop)


class Walk:
    """One walk over one base chain."""

    def __init__(self, rules: Ruleset, state: State, base: Chain, hook: str, priority: int, reached: bool) -> None:
        self.rules = rules
        self.state = state
        self.base = base
        self.hook = hook
        self.priority = priority
        self.reached = reached
        self.found = Found()
        self.budget = _BUDGET

    def run(self) -> Found:
        falls = self._chain(self.base, self.reached, 0)
        if falls is not False:
            if self.base["policy"] == "drop":
                certain = falls is True and self.reached
                self._lost(ref_of(self.base, self.base, None, self.hook, "drop"), certain)
            else:
                self.found.passes = True
        if not self.reached:
            self.found.passes = True
        return self.found

    def _lost(self, ref: RuleRef, certain: bool) -> None:
        into = self.found.drops if certain else self.found.may_drop
        if ref not in into:
            into.append(ref)

    def _chain(self, chain: Chain, reached: bool, depth: int) -> Truth:
        """Whether a packet that enters the chain comes out at its end: always, maybe, never."""
        ends = returns = False  # whether some way ends, or returns to the caller
        for rule in chain["rules"]:
            self.budget -= 1
            if self.budget < 0:
                self.state.note("the ruleset branches too much to be followed to the end")
                self.found.passes = True
                return None
            result = evaluate(self.rules, self.state, chain, rule, self.priority, reached)
            for kind in result.changes:
                self.found.changes.append(ref_of(self.base, chain, rule, self.hook, kind))
            alone = len(result.outcomes) == 1 and not result.falls
            ways: list[Truth] = [True] if result.falls else []
            for outcome in result.outcomes:
                onward, back = self._outcome(chain, rule, outcome, reached and alone, depth)
                ways.append(onward)
                # A way that neither goes on nor returns has ended; one that only may go on may have.
                returns = returns or back is not False
                ends = ends or (onward is not True and back is not True)
            if any(way is not False for way in ways):
                reached = reached and all(way is True for way in ways)
            else:
                return False if not returns else None if ends else True
        return None if ends else True

    def _outcome(self, chain: Chain, rule: t.Any, outcome: Outcome, certain: bool, depth: int) -> tuple[Truth, Truth]:
        """(goes on with the next rule, returns to the caller of this chain)."""
        verdict = outcome.verdict
        if verdict in ("jump", "goto"):
            target = self.rules.chain(chain, outcome.chain or "")
            if target is None or depth >= _DEPTH:
                self.state.note(f"chain {outcome.chain} of {chain['ref']} was not read")
                self._lost(ref_of(self.base, chain, rule, self.hook, "unknown"), False)
                self.found.passes = True
                return (None, False) if verdict == "jump" else (False, None)
            falls = self._chain(target, certain, depth + 1)
            return (falls, False) if verdict == "jump" else (False, falls)
        if verdict == "return":
            return False, True
        if verdict in LOST:
            self._lost(ref_of(self.base, chain, rule, self.hook, verdict), certain)
        elif verdict in _MAYBE_LOST:
            self._lost(ref_of(self.base, chain, rule, self.hook, verdict), False)
            self.found.passes = True
            if verdict == "unknown":
                return None, False
        else:
            self.found.passes = True
        return False, False

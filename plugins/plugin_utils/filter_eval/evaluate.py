# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The questions: what becomes of a packet at a hook and along a path, and which rules concern it."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import fields
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.packet import Packet
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.result import (
    LOST,
    Fate,
    PathFate,
    RuleRef,
    joined,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.rules import Result, evaluate
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.ruleset import (
    Chain,
    Filter,
    Ruleset,
    prepare,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.state import State, begin, enter
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.walk import Found, Walk, ref_of

Facts: t.TypeAlias = Filter | Ruleset
_NAT_SIDE = {"prerouting": "dst", "output": "dst", "input": "src", "postrouting": "src"}
_EVERY_HOOK = ("ingress", "prerouting", "input", "forward", "output", "postrouting", "egress")


def fate(facts: Facts, packet: Packet, hook: str, device: str | None = None) -> Fate:
    """What the filter does with the packet at one hook.

    hook: prerouting, input, forward, output, postrouting; ingress, egress (device: the interface, else iif or oif of
    the packet); bridge:<hook>; arp:input, arp:output.
    """
    return path_fate(facts, packet, (hook,), device).steps[0][1]


def path_fate(facts: Facts, packet: Packet, path: t.Sequence[str], device: str | None = None) -> PathFate:
    """The same over the hooks of a path (INBOUND, OUTBOUND, FORWARDED). Marks, NAT and notrack carry on.

    Several possible conntrack states are evaluated one by one: certain is what is certain in each.
    """
    rules = prepare(facts)
    if packet.mark is None and path[0] == "ingress":
        packet = dataclasses.replace(packet, mark=0)  # a packet from the wire has none
    states = packet.states or (None,)
    return _agreed([_along(rules, _with(packet, state), path, device) for state in states], packet)


def _with(packet: Packet, state: str | None) -> Packet:
    return packet if state is None else dataclasses.replace(packet, ct_state=(state,))


def _along(rules: Ruleset, packet: Packet, path: t.Sequence[str], device: str | None) -> PathFate:
    state = begin(packet, path[0], rules.order)
    steps = []
    for hook in path:
        enter(state, hook)
        steps.append((hook, _at(rules, state, hook, device)))
    return _path(steps)


def _path(steps: list[tuple[str, Fate]]) -> PathFate:
    fates = [found for _hook, found in steps]
    return PathFate(
        verdict=joined(found.verdict for found in fates),
        drops=[ref for found in fates for ref in found.drops],
        may_drop=[ref for found in fates for ref in found.may_drop],
        changes=[ref for found in fates for ref in found.changes],
        notes=list(dict.fromkeys(note for found in fates for note in found.notes)),
        packet=fates[-1].packet,
        steps=steps,
    )


def _at(rules: Ruleset, state: State, hook: str, device: str | None) -> Fate:
    """All base chains of one hook, in order; each as if the ones before had let the packet pass."""
    state.notes = list(rules.notes)
    name = hook.rpartition(":")[2]
    if device is None and name in ("ingress", "egress"):
        device = state.iif if name == "ingress" else state.oif
    result = Fate("accept")
    verdicts = []
    for priority, base in rules.at(state.packet.family, hook, device):
        reached = _enters(state, base, name, device)
        if reached is False:
            continue
        found = Walk(rules, state, base, hook, priority, reached is True).run()
        result.drops += found.drops
        result.may_drop += found.may_drop
        result.changes += found.changes
        verdicts.append(_verdict(found))
    result.verdict = joined(verdicts)
    if rules.error:
        # What was not read may hold anything.
        result.verdict = "drop" if result.verdict == "drop" else "unknown"
        state.note(rules.error)
    result.notes, result.packet = state.notes, state.left()
    return result


def _verdict(found: Found) -> str:
    if found.lost:
        return "drop"
    return "unknown" if found.touched else "accept"


def _enters(state: State, base: Chain, hook: str, device: str | None) -> bool | None:
    """NAT chains see the first packet of a flow only, and each kind of NAT is decided once."""
    if hook in ("ingress", "egress") and device is None:
        return None
    if base["type"] != "nat":
        return True
    now = fields.ct_of(state, 0)
    if now in ("invalid", "untracked", "established"):
        return False
    decided = state.done.get(_NAT_SIDE.get(hook, ""), False)
    if decided is True:
        return False
    return True if now == "new" and decided is False else None


def _agreed(found: list[PathFate], packet: Packet) -> PathFate:
    """One answer out of those for each possible conntrack state."""
    if len(found) == 1:
        return found[0]
    steps: list[tuple[str, Fate]] = []
    for number, (hook, first) in enumerate(found[0].steps):
        fates = [one.steps[number][1] for one in found]
        steps.append((hook, _merged(fates, first, packet)))
    whole = _path(steps)
    verdicts = {one.verdict for one in found}
    whole.verdict = verdicts.pop() if len(verdicts) == 1 else "unknown"
    return whole


def _merged(fates: list[Fate], first: Fate, packet: Packet) -> Fate:
    verdicts = {one.verdict for one in fates}
    drops = [ref for ref in first.drops if all(ref in one.drops for one in fates)]
    some = [ref for one in fates for ref in (*one.drops, *one.may_drop) if ref not in drops]
    left = [dataclasses.replace(one.packet, ct_state=packet.ct_state) for one in fates]
    return Fate(
        verdict=verdicts.pop() if len(verdicts) == 1 else "unknown",
        drops=drops,
        may_drop=list(dict.fromkeys(some)),
        changes=list(dict.fromkeys(ref for one in fates for ref in one.changes)),
        notes=list(dict.fromkeys(note for one in fates for note in one.notes)),
        packet=left[0] if all(one == left[0] for one in left) else packet,
    )


def concerns(facts: Facts, packet: Packet, hooks: t.Sequence[str] | None = None) -> list[RuleRef]:
    """Rules that drop, reject, queue, translate or untrack and could match the packet, whatever rules before them do.

    Also the drop policies. A rule of a user chain counts when a jump that could match leads to it. hooks: all of the
    packet's family by default, bridge hooks only when named.
    """
    rules = prepare(facts)
    found: list[RuleRef] = []
    for hook in hooks or _EVERY_HOOK:
        name = hook.rpartition(":")[2]
        device = {"ingress": packet.iif, "egress": packet.oif}.get(name)
        for priority, base in rules.at(packet.family, hook, device):
            if base["type"] == "nat" and packet.states and not {"new", "related"} & set(packet.states):
                continue
            _concerned(rules, packet, base, base, hook, priority, found, set())
            if base["policy"] == "drop":
                found.append(ref_of(base, base, None, hook, "drop"))
    return list(dict.fromkeys(found))


def _concerned(
    rules: Ruleset,
    packet: Packet,
    base: Chain,
    chain: Chain,
    hook: str,
    priority: int,
    found: list[RuleRef],
    seen: set[str],
) -> None:
    """One chain and those it leads to, each once."""
    seen.add(chain["ref"])
    for rule in chain["rules"]:
        result = _alone(rules, packet, chain, rule, hook, priority)
        kinds = [*result.changes, *(o.verdict for o in result.outcomes if o.verdict in (*LOST, "queue", "synproxy"))]
        found.extend(ref_of(base, chain, rule, hook, kind) for kind in kinds)
        for outcome in result.outcomes:
            target = rules.chain(chain, outcome.chain) if outcome.chain else None
            if target is not None and target["ref"] not in seen:
                _concerned(rules, packet, base, target, hook, priority, found, seen)


def _alone(rules: Ruleset, packet: Packet, chain: Chain, rule: t.Any, hook: str, priority: int) -> Result:
    """A rule by itself: marks are unknown, since any rule before may have set one."""
    states = packet.states
    several = packet if states is None or len(states) == 1 else dataclasses.replace(packet, ct_state=None)
    state = begin(dataclasses.replace(several, mark=None, ct_mark=None), hook.rpartition(":")[2], rules.order)
    return evaluate(rules, state, chain, rule, priority, False)


def counted(facts: Facts) -> dict[str, tuple[int, int]]:
    """{ref: (packets, bytes)} of every rule and policy that has a counter."""
    rules = prepare(facts)
    found: dict[str, tuple[int, int]] = {}
    for chain in rules.chains.values():
        if chain["policy_counter"] is not None:
            found[chain["ref"]] = (chain["policy_counter"][0], chain["policy_counter"][1])
        for rule in chain["rules"]:
            if rule["counter"] is not None:
                found[rule["ref"]] = (rule["counter"][0], rule["counter"][1])
    return found

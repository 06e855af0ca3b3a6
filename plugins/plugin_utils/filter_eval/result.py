# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an evaluation returns."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.packet import Packet

# Hooks a packet passes, in order. The device of ingress is the packet's iif, of egress its oif.
INBOUND = ("ingress", "prerouting", "input")
OUTBOUND = ("output", "postrouting", "egress")
FORWARDED = ("ingress", "prerouting", "forward", "postrouting", "egress")

# Verdicts of a rule after which the packet does not go on along its path.
LOST = ("drop", "reject", "fwd", "stolen")


@dataclasses.dataclass(frozen=True)
class RuleRef:
    """A rule, or the policy of a base chain, and what it does.

    verdict: drop, reject, fwd, stolen (the packet is gone); queue, tproxy, synproxy, unknown (it may be); dnat, snat,
    masquerade, redirect, notrack (it is changed). counter: [packets, bytes] when it was read, None without a counter.
    """

    ref: str
    text: str
    backend: str
    family: str
    table: str
    chain: str
    hook: str
    priority: int
    base: str  # ref of the base chain
    handle: int | None
    comment: str | None
    counter: tuple[int, int] | None
    why: str  # "rule" | "policy"
    verdict: str


@dataclasses.dataclass
class Fate:
    """What one hook does with the packet.

    drops: certain ones in order; the first acts, the others would if the earlier base chain let the packet pass.
    may_drop: rules that may drop it. `verdict` can be "drop" with no certain rule: when every way out is a drop.
    changes: NAT and notrack rules that match or may match. notes: why something could not be told.
    packet: as it leaves the hook.
    """

    verdict: str
    drops: list[RuleRef] = dataclasses.field(default_factory=list)
    may_drop: list[RuleRef] = dataclasses.field(default_factory=list)
    changes: list[RuleRef] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    packet: Packet = dataclasses.field(default_factory=Packet)


@dataclasses.dataclass
class PathFate(Fate):
    """The same over all hooks of a path; steps are (hook, its Fate)."""

    steps: list[tuple[str, Fate]] = dataclasses.field(default_factory=list)


def joined(verdicts: t.Iterable[str]) -> str:
    """One verdict of several places a packet has to pass."""
    found = set(verdicts)
    if "drop" in found:
        return "drop"
    return "unknown" if "unknown" in found else "accept"

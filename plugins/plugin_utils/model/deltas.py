# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Counters around the probes: what rose in each burst and not between.

A counter proves something only when it rises every time we probe and rests when we do not. An equal count alone
proves nothing: other traffic counts too.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts, Namespace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host

BURSTS = (("before", "after"), ("quiet", "again"))
REST = ("after", "quiet")

Reader = t.Callable[[Namespace], int | None]


@dataclass(frozen=True)
class Rise:
    """How a counter moved in each burst of probes, and between the bursts."""

    bursts: tuple[int, ...]
    rest: int | None
    rest_share: float  # the part of the rest's rise that a burst of average length would have seen anyway

    @property
    def tied(self) -> bool:
        """It rose in each of several bursts, by more than twice what it does by itself."""
        if len(self.bursts) < 2 or self.rest is None:
            return False
        return all(burst > 0 and burst > 2 * self.rest_share for burst in self.bursts)

    @property
    def rose(self) -> bool:
        return any(burst > 0 for burst in self.bursts)

    @property
    def flat(self) -> bool:
        return bool(self.bursts) and not any(self.bursts)

    def __str__(self) -> str:
        text = " and ".join(f"+{burst}" for burst in self.bursts)
        return f"{text} with our probes, +{self.rest} between" if self.rest is not None else f"{text} with our probes"


def rise(host: Host, namespace_key: str, read: Reader) -> Rise | None:
    """The movement of one counter of one namespace; None where it was not read around a burst."""
    bursts, lengths = [], []
    for start, end in BURSTS:
        movement = _movement(host, namespace_key, read, start, end)
        if movement is not None:
            bursts.append(movement[0])
            lengths.append(movement[1])
    if not bursts:
        return None
    rest = _movement(host, namespace_key, read, *REST)
    share = rest[0] / max(rest[1], 0.1) * (sum(lengths) / len(lengths)) if rest else 0.0
    return Rise(tuple(bursts), rest[0] if rest else None, share)


def _movement(host: Host, key: str, read: Reader, start: str, end: str) -> tuple[int, float] | None:
    first, second = host.snapshots.get(start), host.snapshots.get(end)
    if first is None or second is None:
        return None
    values = [_value(snapshot, key, read) for snapshot in (first, second)]
    if values[0] is None or values[1] is None:
        return None
    seconds = max(0.0, second.facts.get("started", 0.0) - first.facts.get("finished", 0.0))
    return max(0, values[1] - values[0]), seconds


def _value(snapshot: HostFacts, key: str, read: Reader) -> int | None:
    namespace = snapshot.namespace(key)
    return read(namespace) if namespace is not None else None


def protocol_counter(table: str, name: str) -> Reader:
    """A counter of /proc/net/snmp or /proc/net/netstat, such as ("snmp", "Ip.InAddrErrors")."""

    def read(namespace: Namespace) -> int | None:
        counters = namespace.counters.get(table)
        return counters.get(name, 0) if counters else None  # counters that are zero are not listed

    return read


def link_counter(index: int, name: str) -> Reader:
    return lambda namespace: ((namespace.counters.get("links") or {}).get(str(index)) or {}).get(name)


def rule_counter(ref: str) -> Reader:
    """Packets of one rule or chain policy."""

    def read(namespace: Namespace) -> int | None:
        counted = (namespace.counters.get("filter") or {}).get(ref)
        return counted[0] if counted else None

    return read

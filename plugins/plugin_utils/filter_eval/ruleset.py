# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""FILTER prepared for evaluation: chains by name, base chains by hook in kernel order, sets as lookup structures."""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.sets import Elements

Chain = t.Mapping[str, t.Any]
Filter = t.Mapping[str, t.Any]

_FAMILIES = {4: ("ip", "inet"), 6: ("ip6", "inet"), 0: ("arp",)}
# NAT chains all run where the NAT core is registered, whatever their own priority (nf_nat_core.c); theirs only
# orders them among themselves.
_NAT_PRIORITY = {"prerouting": -100, "output": -100, "postrouting": 100, "input": 100}


class Ruleset:
    """Prepared once, asked many times."""

    def __init__(self, facts: Filter) -> None:
        self.error: str | None = facts.get("error")
        self.notes: list[str] = list(facts.get("notes") or ())
        self.order: str = facts.get("byteorder") or "little"
        self.chains: dict[tuple[str, str, str, str], Chain] = {}
        self.bases: list[Chain] = []
        self._sets: dict[tuple[str, str, str], t.Mapping[str, t.Any]] = {
            (item["family"], item["table"], item["name"]): item for item in facts.get("sets") or ()
        }
        self._elements: dict[tuple[str, str, str], Elements | None] = {}
        filled: set[tuple[str, str, str]] = set()
        for chain in facts.get("chains") or ():
            self.chains[chain["backend"], chain["family"], chain["table"], chain["name"]] = chain
            if chain.get("hook") and not chain.get("dormant"):
                self.bases.append(chain)
            for rule in chain["rules"]:
                filled.update(
                    (chain["family"], chain["table"], str(expr.get("set")))
                    for expr in rule["exprs"]
                    if expr["name"] == "dynset"
                )
        self._filled = filled

    def chain(self, base: Chain, name: str) -> Chain | None:
        """A chain of the same table."""
        return self.chains.get((base["backend"], base["family"], base["table"], name))

    def elements(self, chain: Chain, name: str) -> Elements | None:
        """A set of the chain's table."""
        key = (chain["family"], chain["table"], name)
        if key not in self._elements:
            found = self._sets.get(key)
            self._elements[key] = None if found is None else Elements(found, key in self._filled)
        return self._elements[key]

    def at(self, family: int, hook: str, device: str | None) -> list[tuple[int, Chain]]:
        """(priority, base chain) a packet meets at a hook, in the order the kernel runs them.

        hook: "input"…, "ingress" or "egress" (with a device), "bridge:input"…, "arp:input"…
        """
        scope, _colon, name = hook.rpartition(":")
        found: list[tuple[tuple[int, int, int], Chain]] = []
        for number, chain in enumerate(self.bases):
            if chain["hook"] != name:
                continue
            if name in ("ingress", "egress"):
                if not (chain["family"] in ("netdev", "inet") and _on(chain["devices"], device)):
                    continue
            elif chain["family"] not in ((scope,) if scope else _FAMILIES[family]):
                continue
            nat = chain["type"] == "nat"
            own: int = chain["priority"]
            priority = _NAT_PRIORITY.get(name, own) if nat else own
            # Of equal priority the one registered last runs first (nf_hook_entries_grow).
            found.append(((priority, own if nat else 0, -number), chain))
        found.sort(key=lambda item: item[0])
        return [(order[0], chain) for order, chain in found]


def _on(devices: t.Iterable[str], device: str | None) -> bool:
    if device is None:
        return True
    return any(name == device or (name.endswith("*") and device.startswith(name[:-1])) for name in devices)


def prepare(facts: Filter | Ruleset) -> Ruleset:
    """A FILTER ready for many questions; a Ruleset is returned as it is."""
    return facts if isinstance(facts, Ruleset) else Ruleset(facts)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which rules have to be put where so that base chains accept given traffic: the plan of filter_accept, pure.

It is made from the packet filter as it was read, for check mode, diff and the real run alike; made again from what is
loaded afterwards it has to be empty.
"""

from __future__ import annotations

import dataclasses
import re
import typing as t

from ansible_collections.crosshost.doctor.plugins.module_utils._accept_flow import (
    MARK,
    AcceptError,
    Flow,
    Wanted,
    fits,
    order,
    version_of,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._accept_match import Chain, Packet
from ansible_collections.crosshost.doctor.plugins.module_utils._accept_rule import (
    Place,
    groups,
    iptables_save_line,
    nft_text,
    read_rule,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._accept_walk import Rules

HOOKS = {
    "in": ("ingress", "prerouting", "input"),
    "out": ("output", "postrouting", "egress"),
    "forward": ("forward",),
}
BACKENDS = ("nft", "iptables-nft", "iptables-legacy")
DOCKER_USER = "DOCKER-USER"
_IPTABLES_TABLES = ("filter", "mangle", "raw", "security")
# The names that programs give their nftables tables, and their chains of iptables: both are theirs to fill.
_TABLES = (
    ("firewalld", "firewalld"), ("docker-", "Docker"), ("calico", "Calico"), ("kube-proxy", "kube-proxy"),
    ("flannel", "flannel"), ("cilium", "cilium"), ("libvirt", "libvirt"), ("netavark", "Podman"), ("lxd", "LXD"),
    ("incus", "Incus"), ("f2b-", "fail2ban"), ("crowdsec", "CrowdSec"),
)  # fmt: skip
_TRACKED = -200  # NF_IP_PRI_CONNTRACK: in chains before it no packet belongs to a connection
_UFW, _FIREWALLD = re.compile(r"ufw6?-"), re.compile(r"(IN|FWDI|FWDO|FWD)_|.*_(ZONES|POLICIES_pre|direct)$")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@/+-]{0,127}")

Row = dict[str, t.Any]


@dataclasses.dataclass
class Edit:
    """Own rules of one purpose in one chain: those that are there, and those that have to be."""

    place: Place
    comment: str
    flows: list[Flow]
    old: list[Row]  # the rules with this comment, as they were read
    had: list[Flow]  # what they accept
    add: list[Flow]
    remove: list[Flow]
    readable: bool  # whether all of the old rules say what this module would write

    @property
    def changed(self) -> bool:
        return bool(self.add or self.remove or not self.readable)


@dataclasses.dataclass
class Plan:
    edits: list[Edit]
    managed: list[Row]  # chains that may drop it, and where an own rule would not last or not do

    @property
    def changed(self) -> bool:
        return any(edit.changed for edit in self.edits)


def backend_of(chain: Chain) -> str:
    """Whether a chain is iptables' (its table then holds what iptables can say), and of which kind."""
    if chain["backend"] == "legacy":
        return "iptables-legacy"
    builtin = chain["family"] in ("ip", "ip6") and chain["table"] in _IPTABLES_TABLES
    return "iptables-nft" if builtin and (chain["name"] == (chain["hook"] or "").upper()) else "nft"


def owner_of(rules: Rules, base: Chain) -> str | None:
    """The program that fills a base chain by itself, or None."""
    for start, name in _TABLES:
        if base["backend"] == "nft" and base["table"].startswith(start):
            return name
    names, waiting = set(), [base["name"]]
    while waiting:
        name = waiting.pop()
        chain = rules.chains.get((base["backend"], base["family"], base["table"], name))
        if chain is not None and name not in names:
            names.add(name)
            waiting += rules.targets(chain)
    if any(_UFW.match(name) for name in names):
        return "ufw"
    return "firewalld" if any(_FIREWALLD.match(name) for name in names) else None


def make(
    found: t.Mapping[str, t.Any],
    wanted: t.Sequence[Wanted],
    direction: str,
    chains: t.Sequence[t.Mapping[str, t.Any]] = (),
    backends: t.Collection[str] = BACKENDS,
    spare: bool = True,
    here: t.Collection[str] = (),
) -> Plan:
    """@param found: what _netfilter.read_filter returned
    @param chains: the chains to accept in; none: every base chain of the direction that may drop some of it
    @param spare: leave chains that ufw or firewalld fill through iptables alone too
    @param here: the host's own addresses, which are an end of all that is not forwarded; none: they are not known
    @raises AcceptError: the packet filter is not known, or a chain is not there.
    """
    if found["error"]:
        raise AcceptError(f"The packet filter cannot be read, so nothing is changed: {found['error']}.")
    rules = Rules(found)
    judge = Judge(rules, "" if direction == "forward" else "destination" if direction == "in" else "source", here)
    plan = Plan([], [])
    for base in _bases(rules, direction, chains):
        if backend_of(base) not in backends:
            continue
        concerned = [item._replace(flows=_fitting(item.flows, base["family"])) for item in wanted]
        for item in concerned:
            _decide(plan, judge, base, item, bool(chains), spare)
    return plan


def _bases(rules: Rules, direction: str, chains: t.Sequence[t.Mapping[str, t.Any]]) -> list[Chain]:
    if not chains:
        hooks = HOOKS[direction]
        return [
            chain
            for chain in rules.chains.values()
            if chain["hook"] in hooks
            and chain["type"] in ("filter", "route")
            and chain["family"] in ("ip", "ip6", "inet", "netdev")
            and not chain.get("dormant")
        ]
    bases: dict[str, Chain] = {}
    for row in chains:
        kind = "legacy" if row["backend"] == "iptables-legacy" else "nft"
        chain = rules.chains.get((kind, row["family"], row["table"], row["chain"]))
        if chain is None:
            raise AcceptError(
                f"There is no chain {row['chain']} in table {row['family']} {row['table']} ({row['backend']}) on this "
                "host any more: read the host anew."
            )
        bases.update((base["ref"], base) for base in rules.bases_of(chain))
    return list(bases.values())


def _fitting(flows: t.Iterable[Flow], family: str) -> tuple[Flow, ...]:
    return tuple(flow for flow in flows if fits(flow, family))


class Judge:
    """Says whether some packet of flows may end in a base chain."""

    def __init__(self, rules: Rules, own: str, here: t.Collection[str]) -> None:
        self.rules = rules
        self.own = own  # the end of a flow that is this host
        self.here = [(version_of(address), address) for address in here] if own else []

    def may_drop(self, base: Chain, flows: t.Iterable[Flow], accepting: str | None = None) -> bool:
        of_family = {"ip": (4,), "ip6": (6,)}.get(base["family"], (4, 6))
        return any(
            self.rules.may_drop(base, Packet(flow, version), accepting)
            and any(self.rules.may_drop(base, Packet(one, version), accepting) for one in self._placed(flow, version))
            for flow in flows
            for version in ((flow.version,) if flow.version else of_family)
        )

    def _placed(self, flow: Flow, version: int) -> list[Flow]:
        """The flow with each of the host's addresses: rules for containers' addresses are not about it."""
        own = [address for known, address in self.here if known == version]
        if self.own == "source":
            return [flow._replace(source=address) for address in own] or [flow]
        return [flow._replace(destination=address) for address in own] or [flow]


def _decide(plan: Plan, judge: Judge, base: Chain, item: Wanted, named: bool, spare: bool) -> None:
    rules = judge.rules
    chain = _room(judge, base, item)
    old = [rule for rule in chain["rules"] if rule["comment"] == item.comment]
    drops = judge.may_drop(base, item.flows)
    if not (old or drops or (named and item.flows)):
        return
    # DOCKER-USER is the operator's, whoever else fills the base chain.
    owner = owner_of(rules, base) if chain is base else None
    if owner and (spare or backend_of(base) == "nft"):
        if drops or named:
            words = _words(base, owner, item)
            plan.managed.append({**_row(base), "owner": owner, "comment": item.comment, "words": words})
        return
    if _before_tracking(base) and any(flow.answers for flow in item.flows):
        if drops or named:
            words = (
                f"Chain {base['name']} of table {base['family']} {base['table']} may drop {item.comment[len(MARK) :]}, "
                "and comes before connection tracking: what is an answer cannot be told there. Narrow what drops it."
            )
            plan.managed.append({**_row(base), "owner": None, "comment": item.comment, "words": words})
        return
    place = Place(backend_of(base), base["family"], base["table"], chain["name"])
    if not _NAME.fullmatch(place.table) or not _NAME.fullmatch(place.chain):
        raise AcceptError(f"The chain {place.chain!r} of table {place.table!r} has a name that is not dealt with.")
    decoded = [read_rule(rule, chain, rules.sets) for rule in old]
    had = [flow for flows in decoded for flow in flows or ()]
    readable = None not in decoded
    same = readable and len(set(had)) == len(had)
    # One that stands behind what drops, or stands there twice, is taken out and put in anew.
    anew = not same or (bool(old) and set(had) >= set(item.flows) and drops)
    add = [flow for flow in item.flows if anew or flow not in had]
    remove = [flow for flow in had if anew or flow not in item.flows]
    flows = sorted(item.flows, key=_order)
    if any((edit.place, edit.comment) == (place, item.comment) for edit in plan.edits):
        return
    plan.edits.append(Edit(place, item.comment, flows, old, had, add, remove, readable))


def _before_tracking(base: Chain) -> bool:
    return base["hook"] in ("ingress", "egress") or (
        base["hook"] in ("prerouting", "output") and base["priority"] <= _TRACKED
    )


def _room(judge: Judge, base: Chain, item: Wanted) -> Chain:
    """The chain for an own rule: the base chain, or DOCKER-USER where an accept there is early enough."""
    key = (base["backend"], base["family"], base["table"], DOCKER_USER)
    user = judge.rules.chains.get(key)
    if base["hook"] != "forward" or user is None or base["name"] not in [b["name"] for b in judge.rules.bases_of(user)]:
        return base
    return base if judge.may_drop(base, item.flows, accepting=DOCKER_USER) else user


def _order(flow: Flow) -> tuple[t.Any, ...]:
    ends = (order(end) if end else (0, (0, 0)) for end in (flow.source, flow.destination))
    return flow.version or 0, *ends, flow.iif or "", flow.oif or ""


def _row(chain: Chain) -> Row:
    return {
        "backend": backend_of(chain),
        "family": chain["family"],
        "table": chain["table"],
        "chain": chain["name"],
        "hook": chain["hook"],
        "policy": chain["policy"],
    }


def _words(base: Chain, owner: str, item: Wanted) -> str:
    return (
        f"Chain {base['name']} of table {base['family']} {base['table']} may drop {item.comment[len(MARK) :]}, and is "
        f"filled by {owner}: tell {owner} to accept it."
    )


def lines(edit: Edit, flows: t.Iterable[Flow]) -> list[str]:
    """Rules as people read them."""
    if edit.place.backend == "nft":
        return [nft_text(group, edit.comment) for group in groups(flows)]
    return [iptables_save_line(edit.place.chain, flow, edit.comment) for flow in flows]


def summary(edit: Edit) -> Row:
    """An edit for the module's result."""
    added = edit.flows if edit.place.backend == "nft" else edit.add
    removed = edit.had if edit.place.backend == "nft" else edit.remove
    return {
        **edit.place._asdict(),
        "comment": edit.comment,
        "added": lines(edit, added) if edit.changed else [],
        "removed": lines(edit, removed) if edit.changed else [],
    }


def difference(plan: Plan) -> list[Row]:
    """For diff mode: this module's own rules of each chain, before and after."""
    found = []
    for edit in (edit for edit in plan.edits if edit.changed):
        place = edit.place
        header = f"{place.backend} {place.family} {place.table} {place.chain}"
        before = lines(edit, edit.had) + [f"{rule['text']}" for rule in edit.old if not edit.readable]
        found.append(
            {
                "before_header": header,
                "after_header": header,
                "before": "".join(f"{line}\n" for line in before),
                "after": "".join(f"{line}\n" for line in lines(edit, edit.flows)),
            }
        )
    return found


def is_own(comment: str | None) -> bool:
    return (comment or "").startswith(MARK)

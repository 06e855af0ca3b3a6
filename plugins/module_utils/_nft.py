# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nf_tables of the current network namespace, all families, read over netlink.

The ruleset is read as several dumps; the generation id before and after tells whether they belong together, as nft
itself does it. Names of families, hooks and priorities are the kernel's (uapi nf_tables.h, netfilter.h).
"""

from __future__ import annotations

import errno
import glob
import os
import struct
import time
import typing as t

from ansible_collections.crosshost.doctor.plugins.module_utils import _nfnl, _nft_expr, _nft_set
from ansible_collections.crosshost.doctor.plugins.module_utils._nfnl import attributes, pairs, text
from ansible_collections.crosshost.doctor.plugins.module_utils._nft_expr import be32, be64
from ansible_collections.crosshost.doctor.plugins.module_utils._nft_text import rule_text

FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_INET_HOOKS = ("prerouting", "input", "forward", "output", "postrouting", "ingress")
_HOOKS = {
    "arp": ("input", "output", "forward"),
    "netdev": ("ingress", "egress"),
    "bridge": ("prerouting", "input", "forward", "output", "postrouting", "brouting"),
}
_GETTABLE, _GETCHAIN, _GETRULE, _GETGEN, _GETOBJ = 1, 4, 7, 16, 19
_DORMANT = 0x1
_COUNTER_OBJECT = 1
_EXPR_COUNTER = struct.pack("=HH", 12, 1) + b"counter\0"
_EXPR_CMP = struct.pack("=HH", 8, 1) + b"cmp\0"
_CMP_DATA = 36  # name, the list's header, register, operator, two headers
_EXPR_OBJREF = struct.pack("=HH", 11, 1) + b"objref\0"
_COUNTER: dict[str, t.Any] = {"name": "counter"}
_TRIES = 3

Chain = dict[str, t.Any]
Counters = dict[str, list[int]]
Rule = tuple[str, str, int, list[bytes], bytes]


def unloaded() -> bool:
    """True when nf_tables is a module that is not loaded: there can be no ruleset, and asking would load it."""
    try:
        with open("/proc/modules", encoding="ascii", errors="replace") as stream:
            if any(line.startswith("nf_tables ") for line in stream):
                return False
    except OSError:
        return False  # a kernel without modules
    return bool(glob.glob(f"/lib/modules/{os.uname().release}/kernel/net/netfilter/nf_tables.ko*"))


def _chains(connection: _nfnl.Connection) -> dict[tuple[str, str, str], Chain]:
    dormant = set()
    for number, body in connection.dump(_GETTABLE):
        attrs = attributes(body)
        if be32(attrs.get(2, b"")) & _DORMANT:
            dormant.add((number, text(attrs.get(1, b""))))
    found: dict[tuple[str, str, str], Chain] = {}
    for number, body in connection.dump(_GETCHAIN):
        attrs = attributes(body)
        chain = decode_chain(attrs, FAMILIES.get(number, str(number)))
        if (number, chain["table"]) in dormant:
            chain["dormant"] = True
        found[chain["family"], chain["table"], chain["name"]] = chain
    return found


def decode_chain(attrs: dict[int, bytes], family: str) -> Chain:
    """One chain with no rules yet."""
    table, name = text(attrs.get(1, b"")), text(attrs.get(3, b""))
    chain: Chain = {
        "ref": f"nft:{family}:{table}:{name}",
        "backend": "nft",
        "family": family,
        "table": table,
        "name": name,
        "type": None,
        "hook": None,
        "priority": None,
        "policy": None,
        "policy_counter": None,
        "devices": [],
        "rules": [],
    }
    if 4 not in attrs:
        return chain
    hook = attributes(attrs[4])
    names = _HOOKS.get(family, _INET_HOOKS)
    number = be32(hook.get(1, b""))
    # NFTA_DEVICE_PREFIX (2): every device whose name begins so.
    devices = [text(value) + ("*" if kind == 2 else "") for kind, value in pairs(hook.get(4, b""))]
    if 3 in hook and not devices:
        devices = [text(hook[3])]
    chain.update(
        type=text(attrs.get(7, b"")) or None,
        hook=names[number] if number < len(names) else str(number),
        priority=int.from_bytes(hook.get(2, b""), "big", signed=True),
        policy="drop" if 5 in attrs and be32(attrs[5]) == 0 else "accept",
        policy_counter=_counter(attrs[8]) if 8 in attrs else None,
        devices=devices,
    )
    return chain


def _counter(body: bytes) -> list[int]:
    """[packets, bytes] of NFTA_COUNTER_*."""
    attrs = attributes(body)
    return [be64(attrs.get(2, b"")), be64(attrs.get(1, b""))]


def split_rule(body: bytes) -> Rule:
    """(table, chain, handle, raw expressions, userdata) of a rule."""
    attrs = attributes(body)
    exprs = [item for kind, item in pairs(attrs.get(4, b"")) if kind == 1]
    return text(attrs.get(1, b"")), text(attrs.get(2, b"")), be64(attrs.get(3, b"")), exprs, attrs.get(7, b"")


class Seen:
    """Expressions decoded so far, per family: a large ruleset says the same few things about many addresses."""

    def __init__(self, family: str) -> None:
        self.family = family
        self._whole: dict[bytes, t.Any] = {}
        self._compared: dict[bytes, tuple[int, dict[str, t.Any]]] = {}

    def decode(self, item: bytes) -> t.Any:
        """The expression; equal ones are one object, never to be modified."""
        expr = self._whole.get(item)
        if expr is not None:
            return expr
        # A comparison differs from the next one in its data only, which comes last (see uapi nf_tables.h).
        known = self._compared.get(item[:_CMP_DATA])
        if known is not None and len(item) == known[0]:
            expr = dict(known[1])
            expr["data"] = item[_CMP_DATA : _CMP_DATA + len(known[1]["data"]) // 2].hex()
            return expr
        expr = _nft_expr.decode(item, self.family)
        if item.startswith(_EXPR_CMP) and item[_CMP_DATA:].hex().startswith(expr.get("data") or "-"):
            self._compared[item[:_CMP_DATA]] = (len(item), expr)
        else:
            self._whole[item] = expr
        return expr


def expressions(raw: list[bytes], seen: Seen) -> tuple[list[t.Any], list[int] | None]:
    """(expressions, first counter)."""
    found: list[t.Any] = []
    counter = None
    for item in raw:
        if item.startswith(_EXPR_COUNTER):
            if counter is None:
                counter = _counter(item[16:])
            found.append(_COUNTER)
        else:
            found.append(seen.decode(item))
    return found, counter


def _rules(connection: _nfnl.Connection, chains: dict[tuple[str, str, str], Chain], limit: int) -> tuple[int, bool]:
    """Fill in the rules, without their text. (number, complete)."""
    seen = {number: Seen(name) for number, name in FAMILIES.items()}
    count = 0
    for number, body in connection.dump(_GETRULE):
        table, name, handle, raw, userdata = split_rule(body)
        family = FAMILIES.get(number, str(number))
        chain = chains.get((family, table, name))
        if chain is None:
            continue
        if count >= limit:
            return count, False
        count += 1
        exprs, counter = expressions(raw, seen[number])
        chain["rules"].append(
            {
                "ref": f"{chain['ref']}:{handle}",
                "handle": handle,
                "exprs": exprs,
                "counter": counter,
                "comment": _comment(userdata, exprs),
            }
        )
    return count, True


def _comment(userdata: bytes, exprs: list[t.Any]) -> str | None:
    if userdata:
        found = _nft_set.comment_of(userdata, 0)
        if found:
            return found
    for expr in exprs:
        if expr.get("match") == "comment":
            return t.cast(str, expr.get("info", {}).get("comment"))
    return None


def _sets(deadline: float, limit: int, notes: list[str]) -> list[dict[str, t.Any]]:
    found = []
    with _nfnl.Connection(deadline) as connection:
        for number, body in connection.dump(_nft_set.GETSET):
            found.append((number, _nft_set.decode_set(body, FAMILIES.get(number, str(number)))))
    left = limit
    connection = _nfnl.Connection(deadline)
    try:
        for number, description in found:
            elements, complete = _nft_set.read_elements(connection, number, description, left)
            description["elements"] = elements
            left -= len(elements)
            if not complete:
                description["truncated"] = True
                notes.append(
                    f"set {description['family']} {description['table']} {description['name']}: "
                    f"more elements than the limit of {limit} for all sets together; what is in it is not known"
                )
                connection.close()
                connection = _nfnl.Connection(deadline)
    finally:
        connection.close()
    return [description for _number, description in found]


def _named_counters(connection: _nfnl.Connection) -> dict[tuple[str, str, str], list[int]]:
    found = {}
    for number, body in connection.dump(_GETOBJ):
        attrs = attributes(body)
        if be32(attrs.get(3, b"")) == _COUNTER_OBJECT:
            key = (FAMILIES.get(number, str(number)), text(attrs.get(1, b"")), text(attrs.get(2, b"")))
            found[key] = _counter(attrs.get(4, b""))
    return found


def _own_counters(chains: t.Iterable[Chain], objects: dict[tuple[str, str, str], list[int]]) -> None:
    """A named counter that a single rule uses is that rule's counter; a shared one tells nothing about one rule."""
    users: dict[tuple[str, str, str], list[dict[str, t.Any]]] = {}
    for chain in chains:
        for rule in chain["rules"]:
            for expr in rule["exprs"]:
                if expr["name"] == "objref" and expr.get("type") == "counter" and "object" in expr:
                    users.setdefault((chain["family"], chain["table"], expr["object"]), []).append(rule)
    for key, rules in users.items():
        if len(rules) == 1 and rules[0]["counter"] is None:
            rules[0]["counter"] = objects.get(key)


def _generation(deadline: float) -> int:
    """Generation id. The first request: a kernel without the subsystem answers EINVAL to it (nfnetlink_rcv_msg)."""
    with _nfnl.Connection(deadline) as connection:
        try:
            return be32(attributes(connection.get(_GETGEN)[1]).get(1, b""))
        except _nfnl.NetlinkError as error:
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                raise _nfnl.UnsupportedError(error.errno, str(error)) from error
            raise


Everything = tuple[list[Chain], list[t.Any], list[str], t.Optional[str]]


def _read_once(deadline: float, rule_limit: int, element_limit: int) -> Everything:
    notes: list[str] = []
    with _nfnl.Connection(deadline) as connection:
        chains = _chains(connection)
        objects = _named_counters(connection) if chains else {}
        count, complete = _rules(connection, chains, rule_limit) if chains else (0, True)
    cut = None if complete else f"more than {rule_limit} nf_tables rules: only the first {count} were read"
    sets = _sets(deadline, element_limit, notes) if chains else []
    _own_counters(chains.values(), objects)
    return list(chains.values()), sets, notes, cut


def read(rule_limit: int, element_limit: int, timeout: float) -> Everything:
    """(chains with rules, sets, notes, what was cut). Raises OSError (NetlinkError) or DecodeError."""
    deadline = time.monotonic() + timeout
    for attempt in range(_TRIES):
        try:
            before = _generation(deadline)
            chains, sets, notes, cut = _read_once(deadline, rule_limit, element_limit)
            if before == _generation(deadline):
                break
        except _nfnl.DumpInterruptedError:
            if attempt == _TRIES - 1:
                raise
    else:
        notes.append(f"the ruleset changed during each of {_TRIES} readings: parts of the last may not fit together")
    by_name = {(item["family"], item["table"], item["name"]): item for item in sets}
    for chain in chains:
        for rule in chain["rules"]:
            rule["text"] = rule_text(rule, chain, by_name)
    return chains, sets, notes, cut


def read_counters(timeout: float) -> Counters:
    """Rule and policy counters only; of a rule nothing else is decoded."""
    deadline = time.monotonic() + timeout
    for attempt in range(_TRIES):
        try:
            return _counters_once(deadline)
        except _nfnl.DumpInterruptedError:
            if attempt == _TRIES - 1:
                raise
    return {}


def _counters_once(deadline: float) -> Counters:
    found: Counters = {}
    users: dict[tuple[str, str, str], list[str]] = {}
    with _nfnl.Connection(deadline) as connection:
        for number, body in connection.dump(_GETCHAIN):
            attrs = attributes(body)
            if 8 in attrs:
                name = f"{text(attrs.get(1, b''))}:{text(attrs.get(3, b''))}"
                found[f"nft:{FAMILIES.get(number, number)}:{name}"] = _counter(attrs[8])
        for number, body in connection.dump(_GETRULE):
            if b"counter\0" not in body and b"objref\0" not in body:
                continue
            table, chain, handle, raw, _userdata = split_rule(body)
            family = FAMILIES.get(number, str(number))
            ref = f"nft:{family}:{table}:{chain}:{handle}"
            for item in raw:
                if item.startswith(_EXPR_COUNTER):
                    found[ref] = _counter(item[16:])
                    break
                if item.startswith(_EXPR_OBJREF):
                    expr = _nft_expr.decode(item, family)
                    if expr.get("type") == "counter" and "object" in expr:
                        users.setdefault((family, table, expr["object"]), []).append(ref)
        named = _named_counters(connection) if users else {}
    for key, refs in users.items():
        if len(refs) == 1 and key in named:
            found.setdefault(refs[0], named[key])
    return found

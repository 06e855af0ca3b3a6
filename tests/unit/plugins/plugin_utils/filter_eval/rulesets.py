# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small FILTERs written by hand, as the reader would return them."""

from __future__ import annotations

import ipaddress
from typing import Any

Expr = dict[str, Any]

DROP: Expr = {"name": "immediate", "dreg": -1, "verdict": "drop"}
ACCEPT: Expr = {"name": "immediate", "dreg": -1, "verdict": "accept"}
RETURN: Expr = {"name": "immediate", "dreg": -1, "verdict": "return"}
REJECT: Expr = {"name": "reject", "type": "icmpx", "code": 1}
LIMIT: Expr = {"name": "limit", "rate": 5, "unit": 1, "burst": 5, "type": "packets", "flags": []}
NOTRACK: Expr = {"name": "notrack"}
UNKNOWN: Expr = {"name": "match", "match": "recent", "rev": 1, "unknown": True}


def jump(chain: str, kind: str = "jump") -> Expr:
    return {"name": "immediate", "dreg": -1, "verdict": kind, "chain": chain}


def compare(load: Expr, data: bytes | str, operator: str = "eq") -> list[Expr]:
    text = data if isinstance(data, str) else data.hex()
    return [{**load, "dreg": 0}, {"name": "cmp", "sreg": 0, "op": operator, "data": text}]


def payload(base: str, offset: int, size: int) -> Expr:
    return {"name": "payload", "base": base, "offset": offset, "len": size}


def meta(key: str) -> Expr:
    return {"name": "meta", "key": key}


def udp(port: int, operator: str = "eq") -> list[Expr]:
    return compare(meta("l4proto"), b"\x11") + compare(payload("transport", 2, 2), port.to_bytes(2, "big"), operator)


def saddr(address: str, operator: str = "eq") -> list[Expr]:
    return compare(payload("network", 12, 4), ipaddress.ip_address(address).packed, operator)


def mark(value: int, operator: str = "eq") -> list[Expr]:
    return compare(meta("mark"), value.to_bytes(4, "little"), operator)


def set_mark(value: int) -> list[Expr]:
    constant = {"name": "immediate", "dreg": 0, "data": value.to_bytes(4, "little").hex()}
    return [constant, {"name": "meta", "key": "mark", "sreg": 0}]


def state(*names: str) -> list[Expr]:
    bits = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
    mask = sum(bits[name] for name in names).to_bytes(4, "little").hex()
    load = {"name": "ct", "key": "state", "dreg": 0}
    bitwise = {"name": "bitwise", "sreg": 0, "dreg": 0, "len": 4, "mask": mask, "xor": "00000000"}
    return [load, bitwise, {"name": "cmp", "sreg": 0, "op": "neq", "data": "00000000"}]


def lookup(load: Expr, name: str, **more: Any) -> list[Expr]:
    return [{**load, "dreg": 0}, {"name": "lookup", "set": name, "sreg": 0, **more}]


def dnat(address: str, port: int | None = None) -> list[Expr]:
    found: list[Expr] = [{"name": "immediate", "dreg": 0, "data": ipaddress.ip_address(address).packed.hex()}]
    nat: Expr = {"name": "nat", "type": "dnat", "family": "ip", "reg_addr_min": 0, "reg_addr_max": 0, "flags": []}
    if port is not None:
        found.append({"name": "immediate", "dreg": 4, "data": port.to_bytes(2, "big").hex()})
        nat.update(reg_proto_min=4, reg_proto_max=4)
    return [*found, nat]


def chain(
    name: str,
    *rules: Any,
    hook: str | None = None,
    priority: int = 0,
    policy: str = "accept",
    family: str = "inet",
    table: str = "t",
    kind: str = "filter",
    **more: Any,
) -> dict[str, Any]:
    """rules: expressions, or lists of them; the text of a rule is its number."""
    ref = f"nft:{family}:{table}:{name}"
    built = []
    for number, exprs in enumerate(rules, 1):
        flat = [one for expr in exprs for one in (expr if isinstance(expr, list) else [expr])]
        built.append(
            {
                "ref": f"{ref}:{number}",
                "handle": number,
                "exprs": flat,
                "counter": None,
                "comment": None,
                "text": str(number),
            }
        )
    base = {"type": kind, "hook": hook, "priority": priority, "policy": policy} if hook else {}
    empty = {"type": None, "hook": None, "priority": None, "policy": None}
    whole = {"ref": ref, "backend": "nft", "family": family, "table": table, "name": name, **empty, **base}
    return {**whole, "policy_counter": None, "devices": [], "rules": built, **more}


def make_set(name: str, *elements: Any, family: str = "inet", table: str = "t", **more: Any) -> dict[str, Any]:
    first = elements[0] if isinstance(elements[0], str) else elements[0]["key"]
    size = len(first.partition("-")[0]) // 2
    shape = {"key_len": size, "field_lens": [], "map": None, "data_len": None, "truncated": False, "flags": []}
    return {"family": family, "table": table, "name": name, **shape, "elements": list(elements), **more}


def filter_of(*chains: dict[str, Any], sets: tuple[dict[str, Any], ...] = (), **more: Any) -> dict[str, Any]:
    found = {"error": None, "byteorder": "little", "legacy_tables": {}, "notes": [], "chains": list(chains)}
    return {**found, "sets": list(sets), **more}

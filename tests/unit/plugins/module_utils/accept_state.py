# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A packet filter in memory, in the form that _netfilter reads: chains to be planned for, and what applying does.

Rules are encoded as the kernel lists those that nft 1.0.6, iptables-nft and iptables-legacy 1.8.9 make.
"""

from __future__ import annotations

import copy
import ipaddress
import itertools
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._accept_flow import PROTOCOLS, Flow
from ansible_collections.crosshost.doctor.plugins.module_utils._accept_plan import Edit, Plan
from ansible_collections.crosshost.doctor.plugins.module_utils._accept_rule import Group, groups

ACCEPT = {"name": "immediate", "dreg": -1, "verdict": "accept"}
DROP = {"name": "immediate", "dreg": -1, "verdict": "drop"}
ESTABLISHED = {"name": "match", "match": "conntrack", "rev": 3, "info": {"state": [["established"], False]}}
_handles = itertools.count(10)


def chain(name: str, hook: str | None, *rules: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    made = {
        "backend": "nft", "family": "inet", "table": "guard", "name": name, "hook": hook, "policy": "accept",
        "type": "filter" if hook else None, "priority": 0, "devices": [], "policy_counter": None, **options,
    }  # fmt: skip
    made["ref"] = ":".join(made[key] for key in ("backend", "family", "table", "name"))
    made["rules"] = [row(exprs) for exprs in rules]
    return made


def row(exprs: list[dict[str, Any]], comment: str | None = None) -> dict[str, Any]:
    handle = next(_handles)
    return {"handle": handle, "ref": f"r{handle}", "exprs": exprs, "counter": None, "comment": comment, "text": "…"}


def filter_of(*chains: dict[str, Any], sets: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {
        "error": None,
        "byteorder": "little",
        "legacy_tables": {},
        "notes": [],
        "chains": [*chains],
        "sets": [*sets],
    }


def iptables(name: str, *rules: list[dict[str, Any]], family: str = "ip", **options: Any) -> dict[str, Any]:
    hook = name.lower() if name in ("INPUT", "OUTPUT", "FORWARD", "PREROUTING") else None
    return chain(name, hook, *rules, family=family, table=options.pop("table", "filter"), **options)


def jump(to: str) -> list[dict[str, Any]]:
    return [{"name": "counter"}, {"name": "immediate", "dreg": -1, "verdict": "jump", "chain": to}]


def port(number: int, protocol: str = "udp", offset: int = 2) -> list[dict[str, Any]]:
    return [
        {"name": "meta", "dreg": 0, "key": "l4proto"},
        {"name": "cmp", "sreg": 0, "op": "eq", "data": f"{PROTOCOLS[protocol]:02x}"},
        {"name": "payload", "dreg": 0, "base": "transport", "offset": offset, "len": 2},
        {"name": "cmp", "sreg": 0, "op": "eq", "data": f"{number:04x}"},
    ]


def state(bits: int) -> list[dict[str, Any]]:
    mask = bits.to_bytes(4, "little").hex()
    return [
        {"name": "ct", "dreg": 0, "key": "state"},
        {"name": "bitwise", "dreg": 0, "sreg": 0, "len": 4, "op": "mask_xor", "mask": mask, "xor": "00000000"},
        {"name": "cmp", "sreg": 0, "op": "neq", "data": "00000000"},
    ]


def named_set(name: str, elements: list[Any], **options: Any) -> dict[str, Any]:
    made = {"family": "inet", "table": "guard", "name": name, "flags": [], "key_len": 2, "field_lens": [], "map": None}
    return {**made, "key_type": 13, "data_len": None, "truncated": False, "elements": elements, **options}


# ---- own rules as the kernel lists them


def face(key: str, name: str, whole: bool) -> list[dict[str, Any]]:
    data = name.encode().ljust(16, b"\0") if whole else name.encode() + b"\0"
    return [{"name": "meta", "dreg": 0, "key": key}, {"name": "cmp", "sreg": 0, "op": "eq", "data": data.hex()}]


def end(found: dict[str, Any], place: dict[str, Any], values: tuple[str, ...], source: bool) -> list[dict[str, Any]]:
    nets = [ipaddress.ip_network(value) for value in values]
    four = nets[0].version == 4
    width, offset = (4, 12 if source else 16) if four else (16, 8 if source else 24)
    if len(nets) > 1:
        name = f"__set{next(_handles)}"
        keys = sorted(net.network_address.packed.hex() for net in nets)
        owner = {"family": place["family"], "table": place["table"]}
        found["sets"].append(named_set(name, keys, flags=["anonymous", "constant"], key_len=width, **owner))
        load = {"name": "payload", "dreg": 0, "base": "network", "offset": offset, "len": width}
        return [load, {"name": "lookup", "sreg": 0, "set": name}]
    net, bits = nets[0], nets[0].prefixlen
    whole = bits // 8 if bits % 8 == 0 else width
    exprs: list[dict[str, Any]] = [{"name": "payload", "dreg": 0, "base": "network", "offset": offset, "len": whole}]
    if bits % 8:
        mask = {"mask": net.netmask.packed.hex(), "xor": bytes(width).hex()}
        exprs.append({"name": "bitwise", "dreg": 0, "sreg": 0, "len": width, "op": "mask_xor", **mask})
    return [*exprs, {"name": "cmp", "sreg": 0, "op": "eq", "data": net.network_address.packed[:whole].hex()}]


def encoded(found: dict[str, Any], place: dict[str, Any], group: Group, own: str) -> list[dict[str, Any]]:
    flow, iptables_made = group.flow, own == "iptables"
    exprs = []
    for key, name in (("iifname", flow.iif), ("oifname", flow.oif)):
        exprs += face(key, name, whole=not iptables_made) if name else []
    if flow.version and place["family"] == "inet":
        family = "02" if flow.version == 4 else "0a"
        exprs += [
            {"name": "meta", "dreg": 0, "key": "nfproto"},
            {"name": "cmp", "sreg": 0, "op": "eq", "data": family},
        ]
    for values, source in ((group.sources, True), (group.destinations, False)):
        exprs += end(found, place, values, source) if values else []
    if flow.port:
        exprs += port(flow.port, str(flow.protocol), 0 if flow.answers else 2)
    elif flow.protocol:
        exprs += port(0, flow.protocol)[:2]
    if flow.answers:
        exprs += [ESTABLISHED] if iptables_made else state(2)
    comment = [{"name": "match", "match": "comment", "rev": 0, "info": {"comment": "…"}}] if iptables_made else []
    return [*exprs, *comment, {"name": "counter"}, ACCEPT]


def legacy(flow: Flow) -> list[dict[str, Any]]:
    fixed: dict[str, Any] = {"name": "ip"}
    for key, value in (("src", flow.source), ("dst", flow.destination), ("iif", flow.iif), ("oif", flow.oif)):
        if value:
            fixed[key] = [value, False]
    if flow.protocol:
        fixed["protocol"] = [PROTOCOLS[flow.protocol], False]
    exprs = [fixed]
    if flow.port:
        info: dict[str, Any] = {"sport": [0, 65535, False], "dport": [0, 65535, False]}
        info["sport" if flow.answers else "dport"] = [flow.port, flow.port, False]
        if flow.protocol == "tcp":
            info |= {"option": [0, False], "flags": [0, 0, False]}
        exprs.append({"name": "match", "match": flow.protocol, "rev": 0, "info": info})
    if flow.answers:
        exprs.append(ESTABLISHED)
    return [*exprs, {"name": "match", "match": "comment", "rev": 0, "info": {"comment": "…"}}, ACCEPT]


def applied(found: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The packet filter after a plan was carried out."""
    found = copy.deepcopy(found)
    for edit in plan.edits:
        if edit.changed:
            _apply(found, edit)
    return found


def _apply(found: dict[str, Any], edit: Edit) -> None:
    kind = "legacy" if edit.place.backend == "iptables-legacy" else "nft"
    key = (kind, edit.place.family, edit.place.table, edit.place.chain)
    place = next(c for c in found["chains"] if (c["backend"], c["family"], c["table"], c["name"]) == key)
    own = {rule["handle"] for rule in edit.old}
    place["rules"] = [rule for rule in place["rules"] if rule["handle"] not in own]
    if edit.place.backend == "nft":
        new = [encoded(found, place, group, "nft") for group in groups(edit.flows)]
    elif kind == "nft":
        new = [encoded(found, place, group, "iptables") for flow in edit.flows for group in groups([flow])]
    else:
        new = [legacy(flow) for flow in edit.flows]
    place["rules"][:0] = [row(exprs, edit.comment) for exprs in new]

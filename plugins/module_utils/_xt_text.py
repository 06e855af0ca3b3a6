# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""xt matches, targets and the fixed part of legacy rules, in the words of iptables(8)."""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.module_utils._nft_value import PROTOCOLS

Expr = t.Mapping[str, t.Any]


def _not(invert: t.Any) -> str:
    return "! " if invert else ""


def _span(low: t.Any, high: t.Any) -> str:
    return str(low) if low == high else f"{low}:{high}"


def _ports(info: Expr) -> str:
    parts = []
    for field in ("sport", "dport"):
        low, high, invert = info[field]
        if (low, high) != (0, 65535) or invert:
            parts.append(f"{_not(invert)}--{field} {_span(low, high)}")
    mask, flags, invert = info.get("flags", (0, 0, False))
    if mask or invert:
        parts.append(f"{_not(invert)}--tcp-flags 0x{mask:02x} 0x{flags:02x}")
    return " ".join(parts)


def _multiport(info: Expr) -> str:
    option = {"src": "sports", "dst": "dports"}.get(info["on"], "ports")
    return f"{_not(info['invert'])}--{option} " + ",".join(_span(*item) for item in info["ranges"])


def _conntrack(info: Expr) -> str:
    parts = []
    for field, (*what, invert) in ((k, v) for k, v in info.items() if isinstance(v, list)):
        if field in ("state", "status"):
            shown = ",".join(what[0]).upper()
        elif field.endswith("_port") or field == "expires":
            shown = _span(*what)
        elif field == "proto":
            shown = PROTOCOLS.get(what[0], str(what[0]))
        else:
            shown = "/".join(what)
        parts.append(f"{_not(invert)}--ct{field.replace('_', '')} {shown}")
    if "direction" in info:
        parts.append(f"--ctdir {info['direction'].upper()}")
    return " ".join(parts)


def _addrtype(info: Expr) -> str:
    parts = []
    for side in ("src", "dst"):
        types, invert = info[side]
        if types:
            parts.append(f"{_not(invert)}--{side}-type {','.join(types).upper()}")
    if info["limit_iface"]:
        parts.append(f"--limit-iface-{info['limit_iface']}")
    return " ".join(parts)


def _mark(info: Expr) -> str:
    mask = "" if info["mask"] == 0xFFFFFFFF else f"/0x{info['mask']:x}"
    return f"{_not(info['invert'])}--mark 0x{info['mark']:x}{mask}"


def _set(info: Expr) -> str:
    name = info.get("set") or f"#{info['index']}"
    return f"{_not(info['invert'])}--match-set {name} {','.join(info['directions'])}"


def _iprange(info: Expr) -> str:
    return " ".join(f"{_not(v[2])}--{side}-range {v[0]}-{v[1]}" for side, v in info.items())


def _physdev(info: Expr) -> str:
    parts = []
    for field, found in info.items():
        if field in ("in", "out"):
            parts.append(f"{_not(found[1])}--physdev-{field} {found[0]}")
        else:
            parts.append(f"{_not(not found)}--physdev-{field}")
    return " ".join(parts)


def _policy(info: Expr) -> str:
    fields = [f"--{name} {found}" for element in info["elements"] for name, found in element.items()]
    return " ".join([f"--dir {info['dir']} --pol {'none' if info['none'] else 'ipsec'}", *fields])


def _owner(info: Expr) -> str:
    parts = []
    for field, option in (("uid", "uid-owner"), ("gid", "gid-owner")):
        if field in info:
            low, high, invert = info[field]
            parts.append(f"{_not(invert)}--{option} {low if low == high else f'{low}-{high}'}")
    if "socket-exists" in info:
        parts.append(f"{_not(not info['socket-exists'])}--socket-exists")
    return " ".join(parts)


def _icmp(info: Expr) -> str:
    low, high = info["code"]
    code = "" if (low, high) == (0, 255) else f"/{low}"
    return f"{_not(info['invert'])}--icmp-type {'any' if info['type'] == 255 else info['type']}{code}"


def _statistic(info: Expr) -> str:
    if info["mode"] == "random":
        return f"--mode random {_not(info['invert'])}--probability {info['probability']}"
    return f"--mode nth {_not(info['invert'])}--every {info['every']} --packet {info['packet']}"


def _generic(info: Expr) -> str:
    return " ".join(f"--{name} {found}" for name, found in info.items() if name != "invert" and found is not False)


_MATCHES: dict[str, t.Callable[[Expr], str]] = {
    "tcp": _ports,
    "udp": _ports,
    "udplite": _ports,
    "multiport": _multiport,
    "conntrack": _conntrack,
    "state": _conntrack,
    "addrtype": _addrtype,
    "mark": _mark,
    "connmark": _mark,
    "set": _set,
    "iprange": _iprange,
    "physdev": _physdev,
    "policy": _policy,
    "owner": _owner,
    "icmp": _icmp,
    "icmp6": _icmp,
    "statistic": _statistic,
    "comment": lambda info: f'--comment "{info["comment"]}"',
    "pkttype": lambda info: f"{_not(info['invert'])}--pkt-type {info['type']}",
    "mac": lambda info: f"{_not(info['invert'])}--mac-source {info['src']}",
    "length": lambda info: f"{_not(info['invert'])}--length {_span(info['min'], info['max'])}",
    "tcpmss": lambda info: f"{_not(info['invert'])}--mss {_span(info['min'], info['max'])}",
    "limit": lambda info: f"--limit {info['per_second']}/sec --limit-burst {info['burst']}",
}


def match_text(expr: Expr) -> str:
    """`-m NAME options`; `-m NAME ?` where the options are not decoded. A comment is not part of the line."""
    name = expr["match"]
    if name == "comment":
        return ""
    if "info" not in expr:
        return f"-m {name} ?"
    return f"-m {name} {_MATCHES.get(name, _generic)(expr['info'])}".rstrip()


def _nat(name: str, info: Expr) -> str:
    low, high = info.get("addresses", ("", ""))
    to = low if low == high else f"{low}-{high}"
    if "ports" in info:
        first, last = info["ports"]
        to += (":" if to else "") + (str(first) if first == last else f"{first}-{last}")
    option = {"DNAT": "--to-destination", "SNAT": "--to-source", "NETMAP": "--to"}.get(name, "--to-ports")
    flags = " ".join(f"--{flag}" for flag in info["flags"] if flag != "netmap")
    return " ".join(item for item in (f"{option} {to}" if to else "", flags) if item)


def target_text(expr: Expr) -> str:
    """`-j NAME options`."""
    name, info = expr["target"], expr.get("info")
    if info is None:
        return f"-j {name} ?"
    if name in ("DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP"):
        shown = _nat(name, info)
    elif name == "REJECT":
        shown = f"--reject-with {info['with']}"
    elif name == "MARK":
        shown = f"--set-xmark 0x{info['mark']:x}/0x{info['mask']:x}"
    elif name == "CT":
        shown = "--notrack" if info["notrack"] else _generic({k: v for k, v in info.items() if v})
    elif name == "NFQUEUE":
        shown = f"--queue-num {info['num']}" + (" --queue-bypass" if info["bypass"] else "")
    elif name in ("LOG", "NFLOG"):
        shown = f'--{"nflog" if name == "NFLOG" else "log"}-prefix "{info["prefix"]}"' if info["prefix"] else ""
    elif name == "TCPMSS":
        shown = "--clamp-mss-to-pmtu" if info["clamp"] else f"--set-mss {info['mss']}"
    elif name in ("CONNMARK", "SET"):
        shown = ""
    else:
        shown = _generic(info)
    return f"-j {name} {shown}".rstrip()


def entry_text(expr: Expr) -> str:
    """The fixed part of a legacy rule: addresses, interfaces, protocol."""
    parts = []
    for field, option in (("src", "-s"), ("dst", "-d"), ("iif", "-i"), ("oif", "-o")):
        if field in expr:
            found, invert = expr[field]
            parts.append(f"{_not(invert)}{option} {found}")
    if "protocol" in expr:
        number, invert = expr["protocol"]
        parts.append(f"{_not(invert)}-p {PROTOCOLS.get(number, number)}")
    if "fragment" in expr:
        parts.append(f"{_not(not expr['fragment'])}-f")
    return " ".join(parts)

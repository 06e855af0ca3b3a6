# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nf_tables expressions: netlink attributes to plain dictionaries, by table (include/uapi/linux/netfilter/nf_tables.h).

`{"name": "cmp", "sreg": 0, "op": "eq", "data": "11"}`: data as hexadecimal in register order; registers as indices of
32-bit words (the four old 128-bit registers are words 0, 4, 8, 12), -1 the verdict register. An expression that is not
in the table is `{"name": …, "unknown": true}`: the evaluator then says "cannot tell", never a guess.
"""

from __future__ import annotations

import struct
import typing as t

from ansible_collections.crosshost.doctor.plugins.module_utils._nfnl import DecodeError, attributes, pairs, text
from ansible_collections.crosshost.doctor.plugins.module_utils._xt_match import decode_match
from ansible_collections.crosshost.doctor.plugins.module_utils._xt_target import decode_target

Expr = dict[str, t.Any]
Field = tuple[str, t.Callable[[bytes], t.Any]]

VERDICT_REGISTER = -1
_VERDICTS = {0: "drop", 1: "accept", 2: "stolen", 3: "queue", -1: "continue", -2: "break", -3: "jump", -4: "goto"}
_VERDICTS[-5] = "return"
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_MAX_DEPTH = 4


def be32(value: bytes) -> int:
    return int.from_bytes(value[:4], "big")


def be64(value: bytes) -> int:
    return int.from_bytes(value[:8], "big")


def _i32(value: bytes) -> int:
    return int.from_bytes(value[:4], "big", signed=True)


def _register(value: bytes) -> int:
    number = be32(value)
    if number == 0:
        return VERDICT_REGISTER
    return (number - 1) * 4 if number <= 4 else number - 8


def _enum(*names: str) -> t.Callable[[bytes], t.Any]:
    def decode(value: bytes) -> t.Any:
        number = be32(value)
        return names[number] if number < len(names) else number

    return decode


def _bits(names: dict[int, str]) -> t.Callable[[bytes], list[str]]:
    def decode(value: bytes) -> list[str]:
        flags = be32(value)
        return [name for bit, name in names.items() if flags & bit]

    return decode


def _family(value: bytes) -> t.Any:
    return _FAMILIES.get(be32(value), be32(value))


def data(value: bytes) -> Expr:
    """NFTA_DATA: {"data": hex} or {"verdict": …, "chain": …}."""
    attrs = attributes(value)
    if 1 in attrs:
        return {"data": attrs[1].hex()}
    if 2 not in attrs:
        return {}
    verdict = attributes(attrs[2])
    code = _i32(verdict.get(1, b""))
    found: Expr = {"verdict": _VERDICTS.get(code if code < 0 else code & 0xFF, "unknown")}
    if 2 in verdict:
        found["chain"] = text(verdict[2])
    return found


def _hex(value: bytes) -> str:
    return t.cast(str, data(value).get("data", ""))


_META = (
    "len protocol priority mark iif oif iifname oifname iiftype oiftype skuid skgid nftrace rtclassid secmark nfproto "
    "l4proto ibrname obrname pkttype cpu iifgroup oifgroup cgroup prandom secpath iifkind oifkind ibrpvid ibrvproto "
    "time day hour sdif sdifname broute unspec ibrhwaddr"
).split()
_CT = (
    *"state direction status mark secmark expiration helper l3proto saddr daddr protocol proto-src proto-dst".split(),
    *"label packets bytes avgpkt zone event".split(),
    *("ip saddr", "ip daddr", "ip6 saddr", "ip6 daddr", "id"),
)
_NAT_FLAGS = {4: "random", 16: "fully-random", 8: "persistent", 64: "netmap"}
_FIB_FLAGS = {1: "saddr", 2: "daddr", 4: "mark", 8: "iif", 16: "oif", 32: "present"}
_OBJECTS = ("unspec counter quota ct-helper limit connlimit tunnel ct-timeout secmark ct-expectation synproxy").split()

REG = _register
_PROTO = {"min": ("reg_proto_min", REG), "max": ("reg_proto_max", REG)}
_TABLE: dict[str, dict[int, Field]] = {
    "bitwise": {
        1: ("sreg", REG),
        2: ("dreg", REG),
        3: ("len", be32),
        4: ("mask", _hex),
        5: ("xor", _hex),
        6: ("op", _enum("mask_xor", "lshift", "rshift", "and", "or", "xor")),
        7: ("data", _hex),
        8: ("sreg2", REG),
    },
    "byteorder": {
        1: ("sreg", REG),
        2: ("dreg", REG),
        3: ("op", _enum("ntoh", "hton")),
        4: ("len", be32),
        5: ("size", be32),
    },
    "cmp": {1: ("sreg", REG), 2: ("op", _enum("eq", "neq", "lt", "lte", "gt", "gte")), 3: ("data", _hex)},
    "range": {1: ("sreg", REG), 2: ("op", _enum("eq", "neq")), 3: ("from", _hex), 4: ("to", _hex)},
    "lookup": {1: ("set", text), 2: ("sreg", REG), 3: ("dreg", REG), 5: ("flags", _bits({1: "invert"}))},
    "dynset": {
        1: ("set", text),
        3: ("op", _enum("add", "update", "delete")),
        4: ("sreg_key", REG),
        5: ("sreg_data", REG),
        6: ("timeout", lambda v: be64(v) / 1000),
        9: ("flags", _bits({1: "invert", 2: "expr"})),
    },
    "payload": {
        1: ("dreg", REG),
        2: ("base", _enum("link", "network", "transport", "inner", "tunnel")),
        3: ("offset", be32),
        4: ("len", be32),
        5: ("sreg", REG),
    },
    "exthdr": {
        1: ("dreg", REG),
        2: ("type", lambda v: v[0] if v else 0),
        3: ("offset", be32),
        4: ("len", be32),
        5: ("flags", _bits({1: "present"})),
        6: ("op", _enum("ipv6", "tcpopt", "ipv4", "sctp", "dccp")),
        7: ("sreg", REG),
    },
    "meta": {1: ("dreg", REG), 2: ("key", _enum(*_META)), 3: ("sreg", REG)},
    "ct": {
        1: ("dreg", REG),
        2: ("key", _enum(*_CT)),
        3: ("dir", lambda v: "reply" if v[:1] == b"\1" else "original"),
        4: ("sreg", REG),
    },
    "rt": {1: ("dreg", REG), 2: ("key", _enum("classid", "nexthop4", "nexthop6", "mtu", "ipsec"))},
    "hash": {
        1: ("sreg", REG),
        2: ("dreg", REG),
        3: ("len", be32),
        4: ("modulus", be32),
        5: ("seed", be32),
        6: ("offset", be32),
        7: ("type", _enum("jhash", "symhash")),
    },
    "numgen": {
        1: ("dreg", REG),
        2: ("modulus", be32),
        3: ("type", _enum("inc", "random")),
        4: ("offset", be32),
    },
    "socket": {1: ("key", _enum("transparent", "mark", "wildcard", "cgroupv2")), 2: ("dreg", REG), 3: ("level", be32)},
    "osf": {1: ("dreg", REG)},
    "xfrm": {
        1: ("dreg", REG),
        2: ("key", _enum("unspec", "daddr4", "daddr6", "saddr4", "saddr6", "reqid", "spi")),
        3: ("dir", lambda v: "out" if v[:1] == b"\1" else "in"),
        4: ("spnum", be32),
    },
    "tunnel": {1: ("key", _enum("path", "id")), 2: ("dreg", REG), 3: ("mode", be32)},
    "fib": {
        1: ("dreg", REG),
        2: ("result", _enum("unspec", "oif", "oifname", "type")),
        3: ("flags", _bits(_FIB_FLAGS)),
    },
    "counter": {2: ("packets", be64), 1: ("bytes", be64)},
    "last": {1: ("set", be32), 2: ("msecs", be64)},
    "limit": {
        1: ("rate", be64),
        2: ("unit", be64),
        3: ("burst", be32),
        4: ("type", _enum("packets", "bytes")),
        5: ("flags", _bits({1: "invert"})),
    },
    "connlimit": {1: ("count", be32), 2: ("flags", _bits({1: "invert"}))},
    "quota": {1: ("bytes", be64), 2: ("flags", _bits({1: "invert", 2: "depleted"})), 4: ("consumed", be64)},
    "log": {
        1: ("group", lambda v: int.from_bytes(v[:2], "big")),
        2: ("prefix", text),
        3: ("snaplen", be32),
        4: ("qthreshold", lambda v: int.from_bytes(v[:2], "big")),
        5: ("level", be32),
        6: ("flags", be32),
    },
    "reject": {1: ("type", _enum("icmp", "tcp-reset", "icmpx")), 2: ("code", lambda v: v[0] if v else 0)},
    "nat": {
        1: ("type", _enum("snat", "dnat")),
        2: ("family", _family),
        3: ("reg_addr_min", REG),
        4: ("reg_addr_max", REG),
        5: _PROTO["min"],
        6: _PROTO["max"],
        7: ("flags", _bits(_NAT_FLAGS)),
    },
    "masq": {1: ("flags", _bits(_NAT_FLAGS)), 2: _PROTO["min"], 3: _PROTO["max"]},
    "redir": {1: _PROTO["min"], 2: _PROTO["max"], 3: ("flags", _bits(_NAT_FLAGS))},
    "tproxy": {1: ("family", _family), 2: ("reg_addr", REG), 3: ("reg_port", REG)},
    "queue": {
        1: ("num", lambda v: int.from_bytes(v[:2], "big")),
        2: ("total", lambda v: int.from_bytes(v[:2], "big")),
        3: ("flags", lambda v: [n for b, n in ((1, "bypass"), (2, "fanout")) if int.from_bytes(v[:2], "big") & b]),
        4: ("sreg", REG),
    },
    "dup": {1: ("sreg_addr", REG), 2: ("sreg_dev", REG)},
    "fwd": {1: ("sreg_dev", REG), 2: ("sreg_addr", REG), 3: ("family", _family)},
    "objref": {1: ("type", _enum(*_OBJECTS)), 2: ("object", text), 3: ("sreg", REG), 4: ("set", text)},
    "synproxy": {1: ("mss", lambda v: int.from_bytes(v[:2], "big")), 2: ("wscale", lambda v: v[0] if v else 0)},
    "flow_offload": {1: ("flowtable", text)},
    "notrack": {},
}


def decode(value: bytes, family: str = "ip", depth: int = 0) -> Expr:
    """One expression (NFTA_EXPR_NAME, NFTA_EXPR_DATA). Raises DecodeError only for a broken attribute structure."""
    attrs = attributes(value)
    name = text(attrs.get(1, b""))
    body = attributes(attrs.get(2, b""))
    if name == "immediate":
        return {"name": name, "dreg": _register(body.get(1, b"")), **data(body.get(2, b""))}
    if name in ("match", "target"):
        decoder = decode_match if name == "match" else decode_target
        return decoder(text(body.get(1, b"")), be32(body.get(2, b"")), body.get(3, b""), family)
    spec = _TABLE.get(name)
    if spec is None:
        return {"name": name, "unknown": True}
    try:
        found = {"name": name, **{field[0]: field[1](body[kind]) for kind, field in spec.items() if kind in body}}
    except (struct.error, IndexError, ValueError):
        return {"name": name, "unknown": True}
    if name == "dynset":
        found["exprs"] = _nested(body.get(10) or _one(body.get(7)), family, depth)
    return found


def _one(value: bytes | None) -> bytes:
    """The older single NFTA_DYNSET_EXPR as a list of one."""
    return b"" if value is None else struct.pack("=HH", len(value) + 4, 1) + value


def _nested(value: bytes, family: str, depth: int) -> list[Expr]:
    if depth >= _MAX_DEPTH:
        raise DecodeError("expressions nested too deeply")
    return [decode(item, family, depth + 1) for kind, item in pairs(value) if kind == 1]


def decode_list(value: bytes, family: str) -> list[Expr]:
    """NFTA_RULE_EXPRESSIONS, or the expressions of a set element."""
    return _nested(value, family, 0)

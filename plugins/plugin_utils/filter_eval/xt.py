# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""xt matches over a partly known packet (net/netfilter/xt_*.c), three-valued."""

from __future__ import annotations

import ipaddress
import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import fields
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.bits import (
    Bytes,
    Truth,
    both,
    either,
    equal,
    invert,
    masked,
    number,
    within,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.state import State, mac_address

Info = t.Mapping[str, t.Any]
_STATE_BITS = ("invalid", "established", "related", "new", "untracked")
_STATUS = {"expected": 1, "seen-reply": 2, "assured": 4, "confirmed": 8, "snat": 16, "dnat": 32}


def _octets(value: int) -> bytes:
    return value.to_bytes(2, "big")


def _transport(state: State) -> Truth:
    """Whether there is a transport header: matches on ports never match a later fragment."""
    return invert(state.packet.fragment)


def _port_range(state: State, side: str, low: int, high: int, inverted: bool) -> Truth:
    return invert(within(state.port(side), _octets(low), _octets(high)), inverted)


def _ports(state: State, info: Info, priority: int) -> Truth:
    result = _transport(state)
    for field, side in (("sport", "src"), ("dport", "dst")):
        low, high, inverted = info[field]
        if (low, high, inverted) != (0, 65535, False):
            result = both(result, _port_range(state, side, low, high, inverted))
    mask, flags, inverted = info.get("flags", (0, 0, False))
    if mask or inverted:
        byte = Bytes(state.transport.data[13:14], state.transport.known[13:14])
        if not byte.data:
            return both(result, None)
        result = both(result, invert(equal(masked(byte, bytes([mask]), b"\0"), bytes([flags])), inverted))
    option, _inverted = info.get("option", (0, False))
    return both(result, None) if option else result


def _multiport(state: State, info: Info, priority: int) -> Truth:
    sides = {"src": ("src",), "dst": ("dst",)}.get(info["on"], ("src", "dst"))
    result: Truth = False
    for low, high in info["ranges"]:
        for side in sides:
            result = either(result, _port_range(state, side, low, high, False))
    return both(_transport(state), invert(result, info["invert"]))


def _prefix(value: Bytes, wanted: str, mask: str) -> Truth:
    bits = ipaddress.ip_address(mask).packed
    want = bytes(a & b for a, b in zip(ipaddress.ip_address(wanted).packed, bits))
    if len(value.data) != len(bits):
        return None
    return equal(masked(value, bits, bytes(len(bits))), want)


def _state(state: State, wanted: list[str], priority: int) -> Truth:
    now = fields.ct_of(state, priority)
    result: Truth = None if now is None else now in wanted
    if now is None and not set(wanted) & set(_STATE_BITS):
        result = False
    for name, truth in (("snat", state.snat), ("dnat", state.dnat)):
        if name in wanted:
            # The bit exists only with a conntrack entry.
            result = either(result, both(truth, None if now is None else now not in ("invalid", "untracked")))
    return result


def _conntrack(state: State, info: Info, priority: int) -> Truth:
    result: Truth = True
    if "state" in info:
        wanted, inverted = info["state"]
        result = invert(_state(state, wanted, priority), inverted)
    now = fields.ct_of(state, priority)
    others = set(info) - {"state"}
    if not others or result is False:
        return result
    if now in ("invalid", "untracked"):
        # No entry: the kernel then answers by the state alone (conntrack_mt).
        return both(result, "state" in info)
    way = state.packet.ct_direction or ("original" if now == "new" else None)
    if "direction" in info:
        result = both(result, None if way is None else way == info["direction"])
    if "proto" in info:
        number_, inverted = info["proto"]
        known = state.packet.number if now != "related" else None
        result = both(result, None if known is None else invert(known == number_, inverted))
    if "status" in info:
        wanted, inverted = info["status"]
        result = both(result, invert(_status(state, wanted, priority), inverted))
    for place, field in enumerate(("origsrc", "origdst")):
        tuple_known = way == "original"
        if field in info:
            address, mask, inverted = info[field]
            found = _prefix(state.original[place], address, mask) if tuple_known else None
            result = both(result, invert(found, inverted))
        if field + "_port" in info:
            low, high, inverted = info[field + "_port"]
            found = within(state.original[place + 2], _octets(low), _octets(high)) if tuple_known else None
            result = both(result, invert(found, inverted))
    if others & {"replsrc", "repldst", "replsrc_port", "repldst_port", "expires"}:
        result = both(result, None)
    return result if now is not None else both(result, None)


def _status(state: State, wanted: list[str], priority: int) -> Truth:
    bits = fields.status_bits(state, priority)
    if bits is None:
        return False
    value, known = bits
    mask = sum(_STATUS[name] for name in wanted)
    if mask == 0:
        return None  # --ctstatus NONE
    if value & known & mask:
        return True
    return False if known & mask == mask else None


def _addrtype(state: State, info: Info, priority: int) -> Truth:
    result: Truth = True
    for side in ("src", "dst"):
        types, inverted = info[side]
        if types:
            found = None if info["limit_iface"] else fields.type_in(state, side, types)
            result = both(result, invert(found, inverted))
    return result


def _marked(value: Bytes, info: Info, order: t.Any) -> Truth:
    mask = info["mask"].to_bytes(4, order)
    wanted = info["mark"].to_bytes(4, order)
    return invert(equal(masked(value, mask, bytes(4)), wanted), info["invert"])


def _mark(state: State, info: Info, priority: int) -> Truth:
    return _marked(state.mark, info, state.order)


def _connmark(state: State, info: Info, priority: int) -> Truth:
    now = fields.ct_of(state, priority)
    if now in ("invalid", "untracked"):
        return False
    found = _marked(state.ct_mark, info, state.order)
    return found if now is not None else both(found, None)


def _iprange(state: State, info: Info, priority: int) -> Truth:
    result: Truth = True
    for side in ("src", "dst"):
        if side in info:
            low, high, inverted = info[side]
            first, last = ipaddress.ip_address(low).packed, ipaddress.ip_address(high).packed
            result = both(result, invert(within(state.address(side), first, last), inverted))
    return result


def _mac(state: State, info: Info, priority: int) -> Truth:
    if state.link is None:
        return False
    found = equal(Bytes(state.link.data[6:12], state.link.known[6:12]), mac_address(info["src"]).data)
    return invert(found, info["invert"])


def _pkttype(state: State, info: Info, priority: int) -> Truth:
    known = state.packet.pkttype
    return None if known is None else invert(known == info["type"], info["invert"])


def _byte(state: State, ip4: int, ip6: int) -> Bytes:
    place = ip6 if state.packet.family == 6 else ip4
    return Bytes(state.network.data[place : place + 1], state.network.known[place : place + 1])


def _hop(state: State, info: Info, priority: int) -> Truth:
    value = _byte(state, 8, 7)
    if not value.certain:
        return None
    have, limit = value.data[0], info["value"]
    return {"eq": have == limit, "ne": have != limit, "lt": have < limit, "gt": have > limit}[info["op"]]


def _dscp(state: State, info: Info, priority: int) -> Truth:
    found = equal(masked(state.traffic_class(), b"\xfc", b"\0"), bytes([info["dscp"] << 2 & 0xFF]))
    return invert(found, info["invert"])


def _tos(state: State, info: Info, priority: int) -> Truth:
    found = equal(masked(state.traffic_class(), bytes([info["mask"]]), b"\0"), bytes([info["value"]]))
    return invert(found, info["invert"])


def _length(state: State, info: Info, priority: int) -> Truth:
    return invert(within(number(state.packet.length, 2), _octets(info["min"]), _octets(info["max"])), info["invert"])


def _icmp(state: State, info: Info, priority: int) -> Truth:
    kind = Bytes(state.transport.data[0:1], state.transport.known[0:1])
    code = Bytes(state.transport.data[1:2], state.transport.known[1:2])
    low, high = info["code"]
    same = both(equal(kind, bytes([info["type"]])), within(code, bytes([low]), bytes([high])))
    # 255 means any, for IPv4 (icmp_type_code_match).
    if info["type"] == 255 and state.packet.family == 4:
        same = True
    return both(_transport(state), invert(same, info["invert"]))


def _physdev(state: State, info: Info, priority: int) -> Truth:
    packet = state.packet
    ports = {"in": packet.physin, "out": packet.physout}
    if packet.physin == "" and packet.physout in ("", None):
        # Not bridged: only inverted conditions hold.
        wanted = [info[side][1] for side in ("in", "out") if side in info]
        wanted += [not info[name] for name in ("is-bridged", "is-in", "is-out") if name in info]
        return all(wanted)
    result: Truth = True
    for side, name in ports.items():
        if side in info:
            pattern, inverted = info[side]
            result = both(result, invert(interface(name, pattern), inverted))
        if f"is-{side}" in info:
            result = both(result, None if name is None else invert(bool(name), not info[f"is-{side}"]))
    return both(result, None) if "is-bridged" in info else result


def interface(name: str | None, pattern: str) -> Truth:
    """Whether an interface name is what `-i`/`-o` says."""
    if name is None:
        return None
    return name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern


def _policy(state: State, info: Info, priority: int) -> Truth:
    secured = state.packet.ipsec
    if secured is None:
        return None
    if not secured:
        return bool(info["none"])
    return False if info["none"] else None


_MATCHES: dict[str, t.Callable[[State, Info, int], Truth]] = {
    "tcp": _ports,
    "udp": _ports,
    "udplite": _ports,
    "multiport": _multiport,
    "conntrack": _conntrack,
    "state": _conntrack,
    "addrtype": _addrtype,
    "mark": _mark,
    "connmark": _connmark,
    "iprange": _iprange,
    "mac": _mac,
    "pkttype": _pkttype,
    "ttl": _hop,
    "hl": _hop,
    "dscp": _dscp,
    "tos": _tos,
    "length": _length,
    "icmp": _icmp,
    "icmp6": _icmp,
    "physdev": _physdev,
    "policy": _policy,
    "comment": lambda state, info, priority: True,
}


def match(state: State, expr: t.Mapping[str, t.Any], priority: int) -> Truth:
    """A `match` expression; what is not known here (limit, statistic, recent, ipsets…) cannot be told."""
    name = expr["match"]
    evaluate = _MATCHES.get(name)
    if evaluate is None or "info" not in expr:
        state.note(f"match {name} cannot be told from here")
        return None
    return evaluate(state, expr["info"], priority)


def fixed(state: State, expr: t.Mapping[str, t.Any]) -> Truth:
    """The fixed part of a legacy rule."""
    result: Truth = True
    for side in ("src", "dst"):
        if side in expr:
            shown, inverted = expr[side]
            address, _slash, mask = shown.partition("/")
            width = state.width
            if mask.isdigit() or not mask:
                bits = int(mask) if mask else width * 8
                full = ((1 << width * 8) - (1 << (width * 8 - bits))).to_bytes(width, "big")
                mask = str(ipaddress.ip_address(full))
            result = both(result, invert(_prefix(state.address(side), address, mask), inverted))
    for field, name in (("iif", state.iif), ("oif", state.oif)):
        if field in expr:
            pattern, inverted = expr[field]
            result = both(result, invert(interface(name, pattern), inverted))
    if "protocol" in expr:
        wanted, inverted = expr["protocol"]
        known = state.packet.number
        result = both(result, None if known is None else invert(known == wanted, inverted))
    if "fragment" in expr:
        result = both(result, invert(state.packet.fragment, not expr["fragment"]))
    return both(result, None) if "operation" in expr else result

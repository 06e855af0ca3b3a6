# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `meta`, `ct`, `fib` and `payload` put into a register.

Each function returns the bytes, or None where the kernel would end the rule (NFT_BREAK): the field does not exist here.
"""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.bits import (
    Bytes,
    Truth,
    both,
    exactly,
    number,
    unknown,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.packet import Packet
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.state import State

ADDRESS_TYPES = (
    "unspec unicast local broadcast anycast multicast blackhole unreachable prohibit throw nat xresolve".split()
)
_NFPROTO = {"ip": 2, "ip6": 10, "arp": 3, "netdev": 5, "bridge": 7}
_PKTTYPE = {"host": 0, "broadcast": 1, "multicast": 2, "other": 3, "outgoing": 4}
_CT_BIT = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
_CT_SIZES = {"direction": 1, "l3proto": 1, "protocol": 1, "proto-src": 2, "proto-dst": 2, "zone": 2, "packets": 8}
_CT_SIZES.update({"bytes": 8, "avgpkt": 8, "label": 16, "helper": 16})
_TUPLE = ("saddr", "daddr", "proto-src", "proto-dst")
_WITH_CT = ("established", "related", "new")
_IFNAMSIZ = 16
_ETHERNET = 1
# Hooks where a packet has no socket yet (input has one only by early demultiplexing).
_NO_SOCKET = ("ingress", "prerouting", "forward")
_SIZES = {"priority": 4, "cpu": 4, "skuid": 4, "skgid": 4, "cgroup": 4, "nftrace": 1, "time": 8, "day": 1}


def load(state: State, family: str, expr: t.Mapping[str, t.Any]) -> Bytes | None:
    """payload expression."""
    offset, size, base = expr.get("offset", 0), expr.get("len", 0), expr.get("base")
    if base == "link":
        header = state.link
        if header is None:
            return None
    elif base == "network":
        header = state.network
    elif base == "transport":
        if state.packet.fragment:
            return None
        header = state.transport if state.packet.fragment is False else unknown(0)
    elif base == "inner" and state.packet.number == 17:
        header = Bytes(state.transport.data[8:], state.transport.known[8:])
    else:
        header = unknown(0)
    pad = offset + size - len(header.data)
    data, known = header.data[offset : offset + size], header.known[offset : offset + size]
    missing = size - len(data) if pad > 0 else 0
    return Bytes(data + bytes(missing), known + bytes(missing))


def _name(value: str | None) -> Bytes:
    return unknown(_IFNAMSIZ) if value is None else exactly(value.encode()[:15].ljust(_IFNAMSIZ, b"\0"))


def _index(name: str | None, index: int | None, order: str) -> Bytes:
    return number(0 if name == "" else index, 4, order)


def _device_type(packet: Packet, name: str | None, given: int | None) -> Bytes | None:
    if name == "":
        return None
    if given is None and (packet.smac or packet.dmac):
        given = _ETHERNET
    return unknown(2) if given is None else number(given, 2, "little")


def meta(state: State, family: str, key: str) -> Bytes | None:
    """meta expression. family: of the chain."""
    packet, order = state.packet, state.order
    protocol = {4: 0x0800, 6: 0x86DD, 0: 0x0806}[packet.family]
    if key in ("iif", "oif"):
        name, index = (state.iif, packet.iifindex) if key == "iif" else (state.oif, packet.oifindex)
        return _index(name, index, order)
    if key in ("iifname", "oifname"):
        return _name(state.iif if key == "iifname" else state.oif)
    if key in ("iiftype", "oiftype"):
        into = key == "iiftype"
        name, given = (state.iif, packet.iiftype) if into else (state.oif, packet.oiftype)
        found = _device_type(packet, name, given)
        return found if found is None or order == "little" else Bytes(found.data[::-1], found.known)
    if key in ("ibrname", "obrname"):
        return unknown(_IFNAMSIZ)
    if key == "nfproto":
        return number(_NFPROTO[family] if family != "inet" else {4: 2, 6: 10, 0: 3}[packet.family], 1)
    if key == "l4proto":
        return None if packet.family == 0 else number(packet.number, 1)
    if key in ("skuid", "skgid") and state.hook.rpartition(":")[2] in _NO_SOCKET:
        return None
    if key == "pkttype":
        return number(None if packet.pkttype is None else _PKTTYPE[packet.pkttype], 1)
    plain = {
        "protocol": number(protocol, 2),
        "mark": state.mark,
        "len": number(packet.length if packet.family else None, 4, order),
        "secpath": number(None if packet.ipsec is None else int(packet.ipsec), 1),
    }
    return plain.get(key, unknown(_SIZES.get(key, 4 if "name" not in key and "kind" not in key else _IFNAMSIZ)))


def ct_of(state: State, priority: int) -> str | None:
    """Conntrack state a rule sees: before conntrack has run (priority -200) a packet has none, which is `invalid`."""
    hook = state.hook.rpartition(":")[2]
    if state.tracked is not True:
        return "untracked" if state.tracked is False else None
    if hook == "ingress":
        return "invalid"
    if hook in ("prerouting", "output") and priority <= -200 and state.iif != "lo":  # lo keeps the sender's entry
        return "invalid" if priority < -200 and state.iif is not None else None
    return state.ct_state


def ct(state: State, priority: int, key: str, direction: str | None) -> Bytes | None:
    """ct expression."""
    now = ct_of(state, priority)
    if key == "state":
        return number(None if now is None else _CT_BIT[now], 4, state.order)
    if now is not None and now not in _WITH_CT:
        return None
    if key.startswith("ip"):
        if key.startswith("ip6") != (state.packet.family == 6):
            return None
        key = key.partition(" ")[2]
    size = state.width if key in ("saddr", "daddr") else _CT_SIZES.get(key, 4)
    # With no state known, not even whether there is an entry is.
    found = None if now is None else _entry(state, now, key, direction)
    return unknown(size) if found is None else found


def _entry(state: State, now: str, key: str, direction: str | None) -> Bytes | None:
    """A field of the conntrack entry, None for one that is not known here."""
    packet = state.packet
    way = packet.ct_direction or ("original" if now == "new" else None)
    if key == "direction":
        return number(None if way is None else int(way == "reply"), 1)
    if key == "status":
        return _status(state, now)
    if key == "mark":
        return state.ct_mark
    if key == "l3proto":
        return number({4: 2, 6: 10}.get(packet.family), 1)
    if key == "protocol":
        return number(packet.number if now != "related" else None, 1)
    if key in _TUPLE and direction == "original" and way == "original":
        return state.original[_TUPLE.index(key)]
    return None


def _status(state: State, now: str | None) -> Bytes:
    """Known bits of ct status: no reply was seen of a flow that is new."""
    value = known = 0
    for bit, truth in ((16, state.snat), (32, state.dnat)):
        if truth is not None:
            known |= bit
            value |= bit if truth else 0
    if now == "new":
        known |= 2 | 4
    elif now == "established":
        known, value = known | 2, value | 2
    order: t.Any = state.order
    return Bytes(value.to_bytes(4, order), known.to_bytes(4, order))


def status_bits(state: State, priority: int) -> tuple[int, int] | None:
    """(value, known) of ct status; None where there is no conntrack entry."""
    found = ct(state, priority, "status", None)
    order: t.Any = state.order
    return None if found is None else (int.from_bytes(found.data, order), int.from_bytes(found.known, order))


def fib(state: State, expr: t.Mapping[str, t.Any]) -> Bytes | None:
    """fib expression: only the type of an address can be known here, never a route."""
    flags = expr.get("flags", ())
    size = _IFNAMSIZ if expr.get("result") == "oifname" else 4
    if "present" in flags:
        size = 1
    if expr.get("result") != "type" or "iif" in flags or "oif" in flags:
        return unknown(size)
    return number(_type_number(state, "src" if "saddr" in flags else "dst"), 4, state.order)


def _type_number(state: State, side: str) -> int | None:
    kind = address_type(state, side)
    return None if kind is None else ADDRESS_TYPES.index(kind)


def address_type(state: State, side: str) -> str | None:
    """Routing type of the address; what was known of it is void once NAT may have replaced it."""
    return state.moved[side] if side in state.moved else state.packet.type_of(side)


def type_in(state: State, side: str, types: t.Iterable[str]) -> Truth:
    """Whether xt_addrtype finds the address to be one of the types."""
    wanted = set(types)
    kind = address_type(state, side)
    if state.packet.family != 6:
        return None if kind is None else kind in wanted
    # IPv6 (match_type6): what the address shows must all hold, and then one of what a route lookup shows.
    address = state.address(side)
    result: Truth = True
    if wanted & {"multicast", "unicast", "unspec"}:
        if not address.certain:
            return None
        shown = "multicast" if address.data[0] == 0xFF else "unicast" if any(address.data) else "unspec"
        result = wanted & {"multicast", "unicast", "unspec"} == {shown}
    routed = wanted & {"local", "anycast", "unreachable"}
    if routed:
        result = both(result, None if kind is None else kind in routed)
    return result

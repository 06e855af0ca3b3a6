# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""xt matches: the kernel's binary structures (include/uapi/linux/netfilter/xt_*.h) to typed dictionaries.

The same structures sit in legacy tables and in the `match` expressions of iptables-nft. A match that is not decoded is
`{"unknown": true}`: whether it matches cannot be told from here.
"""

from __future__ import annotations

import ipaddress
import struct
import typing as t

Info = dict[str, t.Any]

CT_STATES = {1: "invalid", 2: "established", 4: "related", 8: "new"}
_CT_STATES3 = {**CT_STATES, 64: "snat", 128: "dnat", 256: "untracked"}
_CT_STATUS = {1: "expected", 2: "seen-reply", 4: "assured", 8: "confirmed", 16: "snat", 32: "dnat"}
_CT_FIELDS = "origsrc origdst replsrc repldst".split()
ADDRESS_TYPES = (
    "unspec unicast local broadcast anycast multicast blackhole unreachable prohibit throw nat xresolve".split()
)
TCP_FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")
PKT_TYPES = ("host", "broadcast", "multicast", "other", "outgoing")


def names_of(mask: int, names: dict[int, str]) -> list[str]:
    return [name for bit, name in names.items() if mask & bit]


def address(raw: bytes, family: str) -> str:
    """An address of union nf_inet_addr (16 bytes, of which IPv4 uses the first four)."""
    return str(ipaddress.IPv6Address(raw[:16]) if family == "ip6" else ipaddress.IPv4Address(raw[:4]))


def ifname(raw: bytes, mask: bytes) -> str:
    """Interface name of a rule; the mask says whether `+` (any end) was meant."""
    used = sum(1 for byte in mask if byte)
    name = raw[:used].split(b"\0", 1)[0].decode("utf-8", "replace")
    return name + "+" if used and used <= len(name) else name


def _address_types(mask: int) -> list[str]:
    return [name for bit, name in enumerate(ADDRESS_TYPES) if mask & (1 << bit)]


def _ports(raw: bytes, udp: bool) -> Info:
    low_s, high_s, low_d, high_d = struct.unpack_from("=4H", raw)
    if udp:
        invert = raw[8]
        flags = mask = option = 0
    else:
        option, mask, flags, invert = struct.unpack_from("=4B", raw, 8)
    info: Info = {"sport": [low_s, high_s, bool(invert & 1)], "dport": [low_d, high_d, bool(invert & 2)]}
    if not udp:
        info["flags"] = [mask, flags, bool(invert & 4)]
        info["option"] = [option, bool(invert & 8)]
    return info


def _multiport(raw: bytes) -> Info:
    direction, count = raw[0], raw[1]
    ports = struct.unpack_from("=15H", raw, 2)
    starts = raw[32:47]
    ranges: list[list[int]] = []
    index = 0
    while index < min(count, 15):
        last = index + 1 if starts[index] and index + 1 < 15 else index
        ranges.append([ports[index], ports[last]])
        index = last + 1
    return {"on": ("src", "dst", "either")[direction], "ranges": ranges, "invert": bool(raw[47])}


def _conntrack(raw: bytes, revision: int, family: str) -> Info:
    head = struct.unpack_from("=II5H2H", raw, 128)
    narrow = revision == 1
    state, status = struct.unpack_from("=2B" if narrow else "=2H", raw, 150)
    flags, invert = head[7], head[8]
    info: Info = {}
    if flags & 0x0001:
        info["state"] = [names_of(state, _CT_STATES3), bool(invert & 0x0001)]
    if flags & 0x0002:
        info["proto"] = [head[2], bool(invert & 0x0002)]
    for number, field in enumerate(_CT_FIELDS):
        if flags & (0x0004 << number):
            start = number * 32
            pair = [address(raw[start:], family), address(raw[start + 16 :], family)]
            info[field] = [*pair, bool(invert & (0x0004 << number))]
    if flags & 0x0040:
        info["status"] = [names_of(status, _CT_STATUS), bool(invert & 0x0040)]
    if flags & 0x0080:
        info["expires"] = [head[0], head[1], bool(invert & 0x0080)]
    for number, field in enumerate(_CT_FIELDS):
        if flags & (0x0100 << number):
            low = head[3 + number]
            if revision < 3:  # network order and no range before revision 3 (xt_conntrack.h)
                low = high = int.from_bytes(struct.pack("=H", low), "big")
            else:
                high = struct.unpack_from("=H", raw, 154 + 2 * number)[0]
            info[field + "_port"] = [low, high, bool(invert & (0x0100 << number))]
    if flags & 0x1000:
        # The inverted sense of this flag is the reply direction.
        info["direction"] = "reply" if invert & 0x1000 else "original"
    return info


def _state(raw: bytes) -> Info:
    return {"state": [names_of(struct.unpack_from("=I", raw)[0], {**CT_STATES, 64: "untracked"}), False]}


def _addrtype(raw: bytes, revision: int) -> Info:
    source, dest, first = struct.unpack_from("=HHI", raw)
    if revision:
        not_source, not_dest = first & 1, first & 2
        limit = "in" if first & 4 else "out" if first & 8 else None
    else:
        not_source, not_dest, limit = first, struct.unpack_from("=I", raw, 8)[0], None
    return {
        "src": [_address_types(source), bool(not_source)],
        "dst": [_address_types(dest), bool(not_dest)],
        "limit_iface": limit,
    }


def _mark(raw: bytes) -> Info:
    mark, mask, invert = struct.unpack_from("=IIB", raw)
    return {"mark": mark, "mask": mask, "invert": bool(invert)}


def set_info(raw: bytes, revision: int) -> Info:
    """struct xt_set_info: kernel index, dimensions and their directions (enum ip_set_kopt)."""
    if revision:
        index, dimensions, flags = struct.unpack_from("=HBB", raw)
    else:
        index, dimensions, flags = struct.unpack_from("=H2x24xBB", raw)
    ways = ["src" if flags & (1 << (n + 1)) else "dst" for n in range(min(dimensions, 6))]
    return {"index": index, "directions": ways, "invert": bool(flags & 1)}


def _iprange(raw: bytes, family: str) -> Info:
    flags = raw[64]
    ends = [address(raw[start:], family) for start in (0, 16, 32, 48)]
    info: Info = {}
    if flags & 1:
        info["src"] = [ends[0], ends[1], bool(flags & 16)]
    if flags & 2:
        info["dst"] = [ends[2], ends[3], bool(flags & 32)]
    return info


def _physdev(raw: bytes) -> Info:
    invert, used = raw[64], raw[65]
    info: Info = {}
    if used & 1:
        info["in"] = [ifname(raw[:16], raw[16:32]), bool(invert & 1)]
    if used & 2:
        info["out"] = [ifname(raw[32:48], raw[48:64]), bool(invert & 2)]
    for bit, name in ((4, "is-bridged"), (8, "is-in"), (16, "is-out")):
        if used & bit:
            info[name] = not invert & bit
    return info


def _policy(raw: bytes) -> Info:
    flags, count = struct.unpack_from("=HH", raw, 304)
    elements = []
    for number in range(min(count, 4)):
        reqid, proto, mode, match = struct.unpack_from("=IBBB", raw, number * 76 + 68)
        spi = int.from_bytes(raw[number * 76 + 64 : number * 76 + 68], "big")
        fields = {
            "proto": (4, proto),
            "mode": (8, "tunnel" if mode else "transport"),
            "spi": (16, spi),
            "reqid": (32, reqid),
        }
        elements.append({name: value for name, (bit, value) in fields.items() if match & bit})
    way = "in" if flags & 1 else "out"
    return {"dir": way, "none": bool(flags & 4), "strict": bool(flags & 8), "elements": elements}


def _owner(raw: bytes) -> Info:
    low_u, high_u, low_g, high_g, match, invert = struct.unpack_from("=4I2B", raw)
    info: Info = {}
    if match & 1:
        info["uid"] = [low_u, high_u, bool(invert & 1)]
    if match & 2:
        info["gid"] = [low_g, high_g, bool(invert & 2)]
    if match & 4:
        info["socket-exists"] = not invert & 4
    return info


def _icmp(raw: bytes) -> Info:
    kind, low, high, invert = struct.unpack_from("=4B", raw)
    return {"type": kind, "code": [low, high], "invert": bool(invert & 1)}


def _statistic(raw: bytes) -> Info:
    mode, flags, first, packet = struct.unpack_from("=HHII", raw)
    if mode == 0:
        return {"mode": "random", "probability": round(first / 0x80000000, 6), "invert": bool(flags & 1)}
    return {"mode": "nth", "every": first + 1, "packet": packet, "invert": bool(flags & 1)}


def _limit(raw: bytes) -> Info:
    average, burst = struct.unpack_from("=II", raw)
    return {"per_second": round(10000 / average, 4) if average else None, "burst": burst}


def _three(raw: bytes, form: str, names: str) -> Info:
    values = dict(zip(names.split(), struct.unpack_from(form, raw)))
    return {**values, "invert": bool(values["invert"])}


def _hop(raw: bytes) -> Info:
    return {"op": ("eq", "ne", "lt", "gt")[raw[0]], "value": raw[1]}


def _comment(raw: bytes) -> Info:
    return {"comment": raw.split(b"\0", 1)[0].decode("utf-8", "replace")}


def _pkttype(raw: bytes) -> Info:
    kind, invert = struct.unpack_from("=ii", raw)
    return {"type": PKT_TYPES[kind] if 0 <= kind < len(PKT_TYPES) else kind, "invert": bool(invert)}


def _mac(raw: bytes) -> Info:
    return {"src": ":".join(f"{byte:02x}" for byte in raw[:6]), "invert": bool(struct.unpack_from("=i", raw, 8)[0])}


def _rpfilter(raw: bytes) -> Info:
    return {"loose": bool(raw[0] & 1), "invert": bool(raw[0] & 8)}


_Decoder = t.Callable[[bytes, int, str], Info]
# Revisions whose layout is known; another one is "unknown" rather than misread.
_MATCHES: dict[str, tuple[t.Container[int], _Decoder]] = {
    "tcp": ((0,), lambda raw, rev, fam: _ports(raw, False)),
    "udp": ((0,), lambda raw, rev, fam: _ports(raw, True)),
    "udplite": ((0,), lambda raw, rev, fam: _ports(raw, True)),
    "multiport": ((1,), lambda raw, rev, fam: _multiport(raw)),
    "conntrack": ((1, 2, 3), _conntrack),
    "state": ((0,), lambda raw, rev, fam: _state(raw)),
    "addrtype": ((0, 1), lambda raw, rev, fam: _addrtype(raw, rev)),
    "mark": ((1,), lambda raw, rev, fam: _mark(raw)),
    "connmark": ((1,), lambda raw, rev, fam: _mark(raw)),
    "set": ((0, 1, 2, 3, 4), lambda raw, rev, fam: set_info(raw, rev)),
    "iprange": ((1,), lambda raw, rev, fam: _iprange(raw, fam)),
    "physdev": ((0,), lambda raw, rev, fam: _physdev(raw)),
    "policy": ((0,), lambda raw, rev, fam: _policy(raw)),
    "owner": ((1,), lambda raw, rev, fam: _owner(raw)),
    "icmp": ((0,), lambda raw, rev, fam: _icmp(raw)),
    "icmp6": ((0,), lambda raw, rev, fam: _icmp(raw)),
    "statistic": ((0,), lambda raw, rev, fam: _statistic(raw)),
    "limit": ((0,), lambda raw, rev, fam: _limit(raw)),
    "length": ((0,), lambda raw, rev, fam: _three(raw, "=HHB", "min max invert")),
    "tcpmss": ((0,), lambda raw, rev, fam: _three(raw, "=HHB", "min max invert")),
    "dscp": ((0,), lambda raw, rev, fam: _three(raw, "=BB", "dscp invert")),
    "tos": ((1,), lambda raw, rev, fam: _three(raw, "=BBB", "mask value invert")),
    "ttl": ((0,), lambda raw, rev, fam: _hop(raw)),
    "hl": ((0,), lambda raw, rev, fam: _hop(raw)),
    "comment": ((0,), lambda raw, rev, fam: _comment(raw)),
    "pkttype": ((0,), lambda raw, rev, fam: _pkttype(raw)),
    "mac": ((0,), lambda raw, rev, fam: _mac(raw)),
    "rpfilter": ((0,), lambda raw, rev, fam: _rpfilter(raw)),
}


def decode_match(name: str, revision: int, raw: bytes, family: str = "ip") -> Info:
    """{"name": "match", "match": name, "rev": revision, "info": {…}} or …"unknown": true. Never raises."""
    found: Info = {"name": "match", "match": name, "rev": revision}
    known = _MATCHES.get(name)
    if known is not None and revision in known[0]:
        try:
            found["info"] = known[1](raw, revision, family)
            return found
        except (struct.error, IndexError, ValueError):
            pass
    found["unknown"] = True
    return found

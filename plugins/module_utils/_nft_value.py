# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of nf_tables registers in the words people use for them: addresses, ports, states, flags."""

from __future__ import annotations

import functools
import ipaddress
import sys

from ansible_collections.crosshost.doctor.plugins.module_utils._xt_match import TCP_FLAGS

PROTOCOLS = {
    1: "icmp", 2: "igmp", 4: "ipencap", 6: "tcp", 17: "udp", 33: "dccp", 47: "gre", 50: "esp", 51: "ah",
    58: "ipv6-icmp", 108: "comp", 132: "sctp", 136: "udplite",
}  # fmt: skip
_ETHERTYPES = {0x0800: "ip", 0x0806: "arp", 0x86DD: "ip6", 0x8100: "vlan", 0x88A8: "8021ad"}
_NFPROTO = {2: "ipv4", 10: "ipv6"}
_PKTTYPE = {0: "unicast", 1: "broadcast", 2: "multicast", 3: "other"}
_FIBTYPE = {1: "unicast", 2: "local", 3: "broadcast", 4: "anycast", 5: "multicast", 6: "blackhole"}
_ICMP = {0: "echo-reply", 3: "destination-unreachable", 5: "redirect", 8: "echo-request", 11: "time-exceeded"}
_ICMP6 = {
    1: "destination-unreachable", 2: "packet-too-big", 3: "time-exceeded", 128: "echo-request", 129: "echo-reply",
    133: "nd-router-solicit", 134: "nd-router-advert", 135: "nd-neighbor-solicit", 136: "nd-neighbor-advert",
}  # fmt: skip
_CT_STATE = {1: "invalid", 2: "established", 4: "related", 8: "new", 64: "untracked"}
_CT_STATUS = {1: "expected", 2: "seen-reply", 4: "assured", 8: "confirmed", 16: "snat", 32: "dnat", 512: "dying"}
_FLAGS = {
    "ctstate": _CT_STATE,
    "ctstatus": _CT_STATUS,
    "tcpflags": {1 << bit: name for bit, name in enumerate(TCP_FLAGS)},
}
_NAMES = {
    "proto": PROTOCOLS,
    "ethertype": _ETHERTYPES,
    "nfproto": _NFPROTO,
    "pkttype": _PKTTYPE,
    "icmptype": _ICMP,
    "icmp6type": _ICMP6,
    "ctdir": {0: "original", 1: "reply"},
}
_HOST_ORDER = {"mark", "host", "ctstate", "ctstatus", "fibtype"}


def number(kind: str, data: str) -> int:
    """The integer in a register; what the kernel puts there in host order is so read."""
    return int.from_bytes(bytes.fromhex(data), sys.byteorder if kind in _HOST_ORDER else "big")


@functools.lru_cache(maxsize=4096)
def value(kind: str, data: str, length: int = 0) -> str:
    """One value. data: hexadecimal in register order."""
    try:
        return _value(kind, data[: length * 2] if length and kind != "ifname" else data)
    except ValueError:
        return f"0x{data}"


def _value(kind: str, data: str) -> str:
    raw = bytes.fromhex(data)
    if kind in ("ip", "ip6", "address"):
        return _address(kind, raw)
    if kind == "ifname":
        name = raw.split(b"\0", 1)[0].decode("utf-8", "replace")
        return f'"{name}"' if b"\0" in raw else f'"{name}*"'
    if kind == "ether":
        return ":".join(f"{byte:02x}" for byte in raw)
    if kind in ("hex", "immediate") or not raw:
        return f"0x{data}"
    plain = number(kind, data)
    if kind in _FLAGS:
        return flags(kind, plain)
    if kind == "fibtype":
        return _FIBTYPE.get(plain, str(plain))
    if kind == "mark":
        return f"0x{plain:x}"
    names = _NAMES.get(kind)
    return names.get(plain, str(plain)) if names else str(plain)


def _address(kind: str, raw: bytes) -> str:
    if len(raw) == 4 and kind != "ip6":
        return f"{raw[0]}.{raw[1]}.{raw[2]}.{raw[3]}"
    width = 16 if kind == "ip6" or len(raw) == 16 else 4
    if 0 < len(raw) < width:  # the bytes of a prefix only
        network = raw + bytes(width - len(raw))
        return f"{ipaddress.ip_address(network)}/{len(raw) * 8}"
    return str(ipaddress.ip_address(raw))


def flags(kind: str, mask: int) -> str:
    names = [name for bit, name in _FLAGS[kind].items() if mask & bit]
    return ",".join(names) if names else f"0x{mask:x}"


def bits(kind: str, mask: str, operator: str, data: str) -> str | None:
    """Comparison of a masked value as people write it (`10.0.0.0/8`, `established,related`), else None."""
    if kind in ("ip", "ip6"):
        try:
            plain = bytes.fromhex(mask)
            prefix = bin(int.from_bytes(plain, "big")).count("1")
            network = ipaddress.ip_network((bytes.fromhex(data), prefix))
        except ValueError:
            return None
        if network.netmask.packed != plain:
            return None
        return {"eq": "", "neq": "!= "}.get(operator, operator + " ") + str(network)
    if kind in _FLAGS:
        wanted, compared = number(kind, mask), number(kind, data)
        if compared == 0 and operator in ("eq", "neq"):
            return ("" if operator == "neq" else "! ") + flags(kind, wanted)
        if kind == "tcpflags":
            return f"{flags(kind, compared)} / {flags(kind, wanted)}" if operator == "eq" else None
    if kind == "dscp" and mask == "fc":
        return {"eq": "", "neq": "!= "}.get(operator, operator + " ") + str(int(data or "0", 16) >> 2)
    if kind == "mark":
        sign = {"eq": "==", "neq": "!="}.get(operator)
        return f"& 0x{number(kind, mask):x} {sign} 0x{number(kind, data):x}" if sign else None
    return None


def words(kind: str, low: str, high: str, length: int) -> str:
    """A range; an aligned range of addresses as its prefix."""
    first, last = value(kind, low, length), value(kind, high, length)
    if kind in ("ip", "ip6"):
        try:
            networks = list(ipaddress.summarize_address_range(ipaddress.ip_address(first), ipaddress.ip_address(last)))
        except (ValueError, TypeError):
            return f"{first}-{last}"
        if len(networks) == 1:
            return str(networks[0])
    return f"{first}-{last}"

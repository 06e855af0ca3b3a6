# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""xt targets: the kernel's binary structures (include/uapi/linux/netfilter/xt_*.h, ipt_*.h) to typed dictionaries."""

from __future__ import annotations

import struct
import typing as t

from ansible_collections.crosshost.doctor.plugins.module_utils._xt_match import Info, address, set_info

_REJECT4 = (
    "icmp-net-unreachable icmp-host-unreachable icmp-proto-unreachable icmp-port-unreachable echo-reply "
    "icmp-net-prohibited icmp-host-prohibited tcp-reset icmp-admin-prohibited"
).split()
_REJECT6 = (
    "icmp6-no-route icmp6-adm-prohibited icmp6-not-neighbour icmp6-addr-unreachable icmp6-port-unreachable echo-reply "
    "tcp-reset icmp6-policy-fail icmp6-reject-route"
).split()
_RANGE_FLAGS = {4: "random", 16: "fully-random", 8: "persistent", 64: "netmap"}


def _reject(raw: bytes, revision: int, family: str) -> Info:
    names = _REJECT6 if family == "ip6" else _REJECT4
    return {"with": names[struct.unpack_from("=I", raw)[0]]}


def _nat_info(flags: int, low: str, high: str, first: int, last: int) -> Info:
    info: Info = {"flags": [name for bit, name in _RANGE_FLAGS.items() if flags & bit]}
    if flags & 1:
        info["addresses"] = [low, high]
    if flags & 2:
        info["ports"] = [first, last]
    return info


def _nat_compat(raw: bytes, revision: int, family: str) -> Info:
    """struct nf_nat_ipv4_multi_range_compat, one range."""
    (flags,) = struct.unpack_from("=I", raw, 4)
    first, last = struct.unpack_from(">HH", raw, 16)
    return _nat_info(flags, address(raw[8:12], "ip"), address(raw[12:16], "ip"), first, last)


def _nat_range(raw: bytes, revision: int, family: str) -> Info:
    """struct nf_nat_range and nf_nat_range2 (the latter adds a base port for shifted ranges)."""
    (flags,) = struct.unpack_from("=I", raw)
    first, last = struct.unpack_from(">HH", raw, 36)
    return _nat_info(flags, address(raw[4:20], family), address(raw[20:36], family), first, last)


def _nat(raw: bytes, revision: int, family: str) -> Info:
    return (_nat_range if revision else _nat_compat)(raw, revision, family)


def _local_nat(raw: bytes, revision: int, family: str) -> Info:
    """MASQUERADE and REDIRECT have one revision and the structure of their family."""
    return (_nat_range if family == "ip6" else _nat_compat)(raw, revision, family)


def _mark(raw: bytes, revision: int, family: str) -> Info:
    mark, mask = struct.unpack_from("=II", raw)
    return {"mark": mark, "mask": mask}


def _connmark(raw: bytes, revision: int, family: str) -> Info:
    mark, mask, nfmask = struct.unpack_from("=III", raw)
    mode = raw[14] if revision == 2 else raw[12]
    return {"mode": ("set", "save", "restore")[mode], "mark": mark, "mask": mask, "nfmask": nfmask}


def _ct(raw: bytes, revision: int, family: str) -> Info:
    flags, zone = struct.unpack_from("=HH", raw)
    helper = raw[12:28].split(b"\0", 1)[0].decode("ascii", "replace")
    return {"notrack": bool(flags & 3 if revision else flags & 1), "zone": zone, "helper": helper}


def _nfqueue(raw: bytes, revision: int, family: str) -> Info:
    (number,) = struct.unpack_from("=H", raw)
    flags = struct.unpack_from("=H", raw, 4)[0] if revision >= 2 else 0
    return {"num": number, "bypass": bool(flags & 1)}


def _string(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")


def _log(raw: bytes, revision: int, family: str) -> Info:
    return {"level": raw[0], "prefix": _string(raw[2:32])}


def _nflog(raw: bytes, revision: int, family: str) -> Info:
    return {"group": struct.unpack_from("=H", raw, 4)[0], "prefix": _string(raw[12:76])}


def _tcpmss(raw: bytes, revision: int, family: str) -> Info:
    (mss,) = struct.unpack_from("=H", raw)
    return {"mss": None, "clamp": True} if mss == 0xFFFF else {"mss": mss, "clamp": False}


def _dscp(raw: bytes, revision: int, family: str) -> Info:
    return {"dscp": raw[0]}


def _tos(raw: bytes, revision: int, family: str) -> Info:
    return {"value": raw[0], "mask": raw[1]}


def _hop(raw: bytes, revision: int, family: str) -> Info:
    return {"op": ("set", "inc", "dec")[raw[0]], "value": raw[1]}


def _classify(raw: bytes, revision: int, family: str) -> Info:
    return {"priority": struct.unpack_from("=I", raw)[0]}


def _tproxy(raw: bytes, revision: int, family: str) -> Info:
    mask, value = struct.unpack_from("=II", raw)
    where = 24 if revision else 12
    (port,) = struct.unpack_from(">H", raw, where)
    return {"mark": value, "mask": mask, "port": port, "address": address(raw[8:24], family)}


def _set(raw: bytes, revision: int, family: str) -> Info:
    return {"add": set_info(raw[:4], revision), "del": set_info(raw[4:8], revision)}


def _nothing(raw: bytes, revision: int, family: str) -> Info:
    return {}


_Decoder = t.Callable[[bytes, int, str], Info]
_TARGETS: dict[str, tuple[t.Container[int], _Decoder]] = {
    "REJECT": ((0,), _reject),
    "DNAT": ((0, 1, 2), _nat),
    "SNAT": ((0, 1, 2), _nat),
    "MASQUERADE": ((0,), _local_nat),
    "REDIRECT": ((0,), _local_nat),
    "NETMAP": ((0,), _local_nat),
    "MARK": ((2,), _mark),
    "CONNMARK": ((1, 2), _connmark),
    "CT": ((0, 1, 2), _ct),
    "NOTRACK": ((0,), _nothing),
    "NFQUEUE": ((0, 1, 2, 3), _nfqueue),
    "LOG": ((0,), _log),
    "NFLOG": ((0,), _nflog),
    "TCPMSS": ((0,), _tcpmss),
    "TCPOPTSTRIP": ((0,), _nothing),
    "TPROXY": ((0, 1), _tproxy),
    "DSCP": ((0,), _dscp),
    "TOS": ((1,), _tos),
    "TTL": ((0,), _hop),
    "HL": ((0,), _hop),
    "CLASSIFY": ((0,), _classify),
    "CHECKSUM": ((0,), _nothing),
    "TRACE": ((0,), _nothing),
    "AUDIT": ((0, 1), _nothing),
    "TEE": ((0, 1), _nothing),
    "SET": ((2, 3), _set),
    "SECMARK": ((0, 1), _nothing),
    "CONNSECMARK": ((0,), _nothing),
}


def decode_target(name: str, revision: int, raw: bytes, family: str = "ip") -> Info:
    """{"name": "target", "target": name, "rev": revision, "info": {…}} or …"unknown": true. Never raises."""
    found: Info = {"name": "target", "target": name, "rev": revision}
    known = _TARGETS.get(name)
    if known is not None and revision in known[0]:
        try:
            found["info"] = known[1](raw, revision, family)
            return found
        except (struct.error, IndexError, ValueError):
            pass
    found["unknown"] = True
    return found

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Forwarding databases and neighbour tables: compact parsers of the raw netlink dump.

These are the two tables that grow with the fleet (one entry per remote endpoint). Entries are grouped by everything
but the address, which loses nothing and turns 50,000 overlay entries into one row per VTEP.
Layouts: struct ndmsg and NDA_* of linux/neighbour.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._rawdump import attributes, dump

RTM_GETNEIGH = 30
NDA_DST, NDA_LLADDR, NDA_CACHEINFO, NDA_VLAN, NDA_PORT, NDA_VNI, NDA_IFINDEX, NDA_MASTER = 1, 2, 3, 5, 6, 7, 8, 9
NDMSG = struct.Struct("=B3xiHBB")
BODY = 28  # netlink header and ndmsg
NUD_NOARP = 0x40
STATES = (
    (0x80, "permanent"),
    (0x40, "noarp"),
    (0x20, "failed"),
    (0x10, "probe"),
    (0x08, "delay"),
    (0x04, "stale"),
    (0x02, "reachable"),
    (0x01, "incomplete"),
)
FLAGS = (
    (0x01, "use"),
    (0x02, "self"),
    (0x04, "master"),
    (0x08, "proxy"),
    (0x10, "extern_learn"),
    (0x20, "offload"),
    (0x40, "sticky"),
    (0x80, "router"),
)
# Attribute headers as they lie in memory (native byte order): length, type.
_MAC = struct.pack("=HH", 10, NDA_LLADDR)
_CACHE = struct.pack("=HH", 20, NDA_CACHEINFO)
_DST4 = struct.pack("=HH", 8, NDA_DST)
_U16 = struct.Struct("=H")
_BE16 = struct.Struct("!H")
_U32 = struct.Struct("=I")


def state_name(state: int) -> str:
    """C(permanent), C(reachable) …; several bits are joined by a plus sign, none is C(none)."""
    return "+".join(name for bit, name in STATES if state & bit) or "none"


def flag_names(flags: int) -> list[str]:
    """NTF_* flags in the words of bridge(8)."""
    return [name for bit, name in FLAGS if flags & bit]


def address(raw: bytes) -> str | None:
    """4 or 16 bytes as an IP address; a non-IP destination (IB, tunnel) as None."""
    if len(raw) == 4:
        return socket.inet_ntop(socket.AF_INET, raw)
    if len(raw) == 16:
        return socket.inet_ntop(socket.AF_INET6, raw)
    return None


class _Row:
    """One group of entries under construction: its attributes once, its MACs as raw bytes."""

    def __init__(self, head: bytes) -> None:
        _family, index, state, flags, _type = NDMSG.unpack(head)
        self.fields: dict[str, Any] = {
            "index": index,
            "master": None,
            "dst": None,
            "port": None,
            "vni": None,
            "via": None,
            "vlan": None,
            "state": state_name(state),
            "flags": flag_names(flags),
        }
        self.macs: list[bytes] = []
        self.exact = False  # the attributes fill the bytes they were parsed from without a rest

    def parse(self, raw: bytes) -> _Row:
        """Fill the fields from raw attributes without address and cache information."""
        end = 0
        for kind, start, end in attributes(raw, 0, len(raw)):
            self._attribute(kind, raw[start:end])
        self.exact = (end + 3) & ~3 == len(raw)
        return self

    def _attribute(self, kind: int, value: bytes) -> None:
        size = len(value)
        if kind == NDA_DST:
            self.fields["dst"] = address(value)
        elif kind == NDA_MASTER and size == 4:
            self.fields["master"] = _U32.unpack(value)[0]
        elif kind == NDA_VLAN and size == 2:
            self.fields["vlan"] = _U16.unpack(value)[0]
        elif kind == NDA_PORT and size == 2:
            self.fields["port"] = _BE16.unpack(value)[0]
        elif kind == NDA_VNI and size == 4:
            self.fields["vni"] = _U32.unpack(value)[0]
        elif kind == NDA_IFINDEX and size == 4:
            self.fields["via"] = _U32.unpack(value)[0]

    def key(self) -> tuple[Any, ...]:
        """Identity of the group."""
        values = dict(self.fields, flags=tuple(self.fields["flags"]))
        return tuple(values.values())


def parse_fdb(messages: Iterable[tuple[bytes, int, int]]) -> list[dict[str, Any]]:
    """Group RTM_NEWNEIGH messages of family AF_BRIDGE; see the C(fdb) key of the facts.

    Nearly all entries are LLADDR, a few attributes shared by thousands, CACHEINFO. What lies between is the key of a
    memo, so those attributes are parsed once per group; whether the trailing 20 bytes really are one attribute is
    decided by that parse too (it must end exactly there), and anything else takes the exact way.
    """
    memo: dict[bytes, _Row] = {}
    others: list[tuple[bytes, bytes]] = []
    for buffer, start, end in messages:
        if buffer[start + 28 : start + 32] == _MAC and buffer[end - 20 : end - 16] == _CACHE and end - start >= 60:
            key = buffer[start + 16 : start + 28] + buffer[start + 40 : end - 20]
            row = memo.get(key)
            if row is None:
                row = memo[key] = _Row(key[:12]).parse(key[12:])
            if row.exact:
                row.macs.append(buffer[start + 32 : start + 38])
                continue
        if end - start >= BODY:
            others.append((buffer[start + 16 : start + BODY], buffer[start + BODY : end]))
    groups: dict[tuple[Any, ...], _Row] = {}
    for row in memo.values():
        if row.macs and groups.setdefault(row.key(), row) is not row:
            groups[row.key()].macs.extend(row.macs)
    for head, raw in others:
        row, mac = _exact(head, raw)
        if mac is not None:
            groups.setdefault(row.key(), row).macs.append(mac)
    return [dict(row.fields, macs=_mac_texts(row.macs)) for row in groups.values()]


def _exact(head: bytes, raw: bytes) -> tuple[_Row, bytes | None]:
    """One entry parsed attribute by attribute, in whatever order they come."""
    row, mac = _Row(head), None
    for kind, start, end in attributes(raw, 0, len(raw)):
        if kind == NDA_LLADDR:
            mac = raw[start:end] if end - start == 6 else None
        else:
            row._attribute(kind, raw[start:end])
    return row, mac


def _mac_texts(macs: list[bytes]) -> list[str]:
    """Sorted canonical texts; one hex() for all is several times faster than one for each."""
    macs.sort()
    text = b"".join(macs).hex(":")
    return [text[position : position + 17] for position in range(0, len(text), 18)]


def parse_neighbours(messages: Iterable[tuple[bytes, int, int]]) -> list[dict[str, Any]]:
    """Group RTM_NEWNEIGH messages of the IP families; see the C(neighbours) key of the facts.

    Multicast mappings and loopback (state NOARP alone) are computed by the kernel and left out, as C(ip neigh) does.
    """
    groups: dict[bytes, tuple[list[bytes], list[list[str | None]]]] = {}
    for buffer, start, end in messages:
        if end - start < BODY:
            continue
        head = buffer[start + 20 : start + 27]
        group = groups.get(head)
        if group is None:
            group = groups[head] = ([], [])
        if buffer[start + 28 : start + 32] == _DST4 and buffer[start + 36 : start + 40] == _MAC:
            group[0].append(buffer[start + 32 : start + 46])
        else:
            ip, mac = _neighbour(buffer, start, end)
            if ip is not None:
                group[1].append([ip, mac])
    rows = []
    for head, (short, exact) in groups.items():
        index, state, flags = struct.unpack("=iHB", head)
        if state in (0, NUD_NOARP) or not (short or exact):
            continue
        short.sort()
        macs = b"".join([raw[8:] for raw in short]).hex(":")
        entries: list[list[str | None]] = [
            [socket.inet_ntoa(raw[:4]), macs[position : position + 17]]
            for raw, position in zip(short, range(0, len(macs), 18))
        ]
        entries.extend(sorted(exact, key=lambda entry: entry[0] or ""))
        rows.append({"index": index, "state": state_name(state), "flags": flag_names(flags), "entries": entries})
    return rows


def _neighbour(buffer: bytes, start: int, end: int) -> tuple[str | None, str | None]:
    """(IP, MAC or None) of one entry, attribute by attribute: unresolved ones have no MAC."""
    ip = mac = None
    for kind, first, last in attributes(buffer, start + BODY, end):
        if kind == NDA_DST:
            ip = address(buffer[first:last])
        elif kind == NDA_LLADDR and last - first == 6:
            mac = buffer[first:last].hex(":")
    return ip, mac


def read_fdb() -> tuple[list[dict[str, Any]], bool]:
    """The forwarding databases of all devices of the current namespace; False when it changed while being read."""
    return dump(RTM_GETNEIGH, NDMSG.pack(socket.AF_BRIDGE, 0, 0, 0, 0), parse_fdb)


def read_neighbours() -> tuple[list[dict[str, Any]], bool]:
    """The IPv4 and IPv6 neighbours of the current namespace; False when they changed while being read."""
    return dump(RTM_GETNEIGH, NDMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0), parse_neighbours)

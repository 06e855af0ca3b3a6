# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Legacy xtables (ip, ip6, arp) of the current network namespace by getsockopt, with no iptables binary.

Asking the kernel for a table that is not there *creates* it (xt_find_table_lock instantiates from its template), so
only tables that /proc/thread-self/net/*_tables_names lists are asked for. Structures: uapi ip_tables.h, ip6_tables.h,
arp_tables.h, in their 64-bit layout.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import typing as t

from ansible_collections.crosshost.doctor.plugins.module_utils._nfnl import DecodeError
from ansible_collections.crosshost.doctor.plugins.module_utils._nft_text import rule_text
from ansible_collections.crosshost.doctor.plugins.module_utils._xt_match import address, decode_match, ifname
from ansible_collections.crosshost.doctor.plugins.module_utils._xt_target import decode_target

_INET = ("prerouting", "input", "forward", "output", "postrouting")
_NAT = {"prerouting": -100, "output": -100, "input": 100, "postrouting": 100}
_PRIORITY = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}
_STANDARD = {-1: "drop", -2: "accept", -4: "queue", -5: "return"}
_RETURN = "return"
_TRIES = 3


class Layout(t.NamedTuple):
    """Where things are in the structures of one family."""

    family: str
    names: str  # file under /proc/thread-self/net
    domain: int
    level: int
    option: int  # *_SO_GET_INFO; *_SO_GET_ENTRIES is the next
    hooks: tuple[str, ...]
    offsets: int  # of target_offset, next_offset (u16 each)
    counters: int
    size: int  # of the entry before its matches
    goto: tuple[int, int]  # byte and bit of the goto flag


LAYOUTS = (
    Layout("ip", "ip_tables_names", socket.AF_INET, socket.IPPROTO_IP, 64, _INET, 88, 96, 112, (82, 2)),
    Layout("ip6", "ip6_tables_names", socket.AF_INET6, socket.IPPROTO_IPV6, 64, _INET, 140, 152, 168, (131, 4)),
    Layout(
        "arp", "arp_tables_names", socket.AF_INET, socket.IPPROTO_IP, 96, ("input", "output", "forward"), 164, 176, 192,
        (158, 0),
    ),
)  # fmt: skip
# Loaded modules of ebtables, whose tables no file lists (see read).
_EBTABLES = ("ebtable_filter", "ebtable_nat", "ebtable_broute")


class Info(t.NamedTuple):
    """struct ipt_getinfo."""

    valid: int
    entry: tuple[int, ...]
    underflow: tuple[int, ...]
    entries: int
    size: int


def table_names(layout: Layout) -> list[str]:
    """Tables that exist in this namespace. thread-self: /proc/net shows the main thread's namespace."""
    try:
        with open(f"/proc/thread-self/net/{layout.names}", encoding="ascii", errors="replace") as stream:
            return sorted(stream.read().split())
    except OSError:
        return []


def _getsockopt(sock: socket.socket, level: int, option: int, request: bytes) -> bytes:
    """getsockopt with a request in the buffer and answers above 1 kB, which Python's own does not offer."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(request, len(request))
    length = ctypes.c_uint32(len(request))
    if libc.getsockopt(sock.fileno(), level, option, buffer, ctypes.byref(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return buffer.raw[: length.value]


def decode_info(raw: bytes, hooks: int) -> Info:
    form = f"=32xI{hooks}I{hooks}III"
    try:
        found = struct.unpack_from(form, raw)
    except struct.error as error:
        raise DecodeError(str(error)) from error
    return Info(found[0], found[1 : 1 + hooks], found[1 + hooks : 1 + 2 * hooks], found[-2], found[-1])


def read_table(layout: Layout, table: str) -> tuple[Info, bytes]:
    """(info, entries) of a table that exists. Raises OSError."""
    name = table.encode().ljust(32, b"\0")
    hooks = len(layout.hooks)
    with socket.socket(layout.domain, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as sock:
        for attempt in range(_TRIES):
            request = name + bytes(4 * (1 + 2 * hooks + 2))
            info = decode_info(_getsockopt(sock, layout.level, layout.option, request), hooks)
            request = name + struct.pack("=I4x", info.size) + bytes(info.size)
            try:
                return info, _getsockopt(sock, layout.level, layout.option + 1, request)[40:]
            except OSError as error:
                # The table was replaced between the two calls.
                if error.errno != errno.EAGAIN or attempt == _TRIES - 1:
                    raise
    raise OSError(errno.EAGAIN, "the table kept changing")


def ipset_name(index: int) -> str | None:
    """Name of an ipset by its kernel index (uapi ip_set.h, IP_SET_OP_GET_BYINDEX)."""
    request = struct.pack("=IIH30x", 7, 6, index)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as sock:
            answer = _getsockopt(sock, socket.IPPROTO_IP, 83, request)
    except (OSError, AttributeError):
        return None
    return answer[8:].split(b"\0", 1)[0].decode("ascii", "replace") or None


class Entry(t.NamedTuple):
    offset: int
    exprs: list[t.Any]
    target: str  # "" standard, "ERROR" a chain's name, else an extension
    label: str  # of an ERROR entry
    verdict: int | None
    goto: bool
    counter: list[int]


def split_entries(raw: bytes, layout: Layout) -> list[Entry]:
    """All entries of a table. Raises DecodeError for a broken structure only."""
    found: list[Entry] = []
    start = 0
    while start + layout.size <= len(raw):
        target_at, next_at = struct.unpack_from("=HH", raw, start + layout.offsets)
        if not layout.size <= target_at <= next_at - 32 or start + next_at > len(raw):
            raise DecodeError(f"entry at {start}: target at {target_at}, next at {next_at}, {len(raw)} bytes")
        found.append(_entry(raw[start : start + next_at], start, target_at, layout))
        start += next_at
    return found


def _entry(raw: bytes, offset: int, target_at: int, layout: Layout) -> Entry:
    exprs: list[t.Any] = [{"name": "ip", **fixed_part(raw, layout.family)}]
    position = layout.size
    while position + 32 <= target_at:
        size, name, revision = _header(raw, position)
        if size < 32 or position + size > target_at:
            raise DecodeError(f"match of {size} bytes at {position} of {target_at}")
        exprs.append(decode_match(name, revision, raw[position + 32 : position + size], layout.family))
        position += size
    _size, name, revision = _header(raw, target_at)
    body = raw[target_at + 32 :]
    verdict, label = None, ""
    if name == "":
        verdict = struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
    elif name == "ERROR":
        label = body[:30].split(b"\0", 1)[0].decode("utf-8", "replace")
    else:
        exprs.append(decode_target(name, revision, body, layout.family))
    byte, bit = layout.goto
    packets, size_ = struct.unpack_from("=QQ", raw, layout.counters)
    return Entry(offset, exprs, name, label, verdict, bool(raw[byte] & bit), [packets, size_])


def _header(raw: bytes, position: int) -> tuple[int, str, int]:
    size, name, revision = struct.unpack_from("=H29sB", raw, position)
    return size, name.split(b"\0", 1)[0].decode("ascii", "replace"), revision


def _prefix(raw: bytes, mask: bytes, family: str) -> str:
    bits = bin(int.from_bytes(mask, "big"))[2:].zfill(len(mask) * 8)
    shown = address(raw, family)
    if "01" in bits:  # not a prefix: iptables allows any mask
        return f"{shown}/{address(mask, family)}"
    ones = bits.count("1")
    return shown if ones == len(bits) else f"{shown}/{ones}"


def fixed_part(raw: bytes, family: str) -> dict[str, t.Any]:
    """struct ipt_ip, ip6t_ip6 or arpt_arp: what every rule has. Only what the rule restricts is listed."""
    width = 16 if family == "ip6" else 4
    if family == "arp":
        inverted, faces, source, dest = struct.unpack_from("=H", raw, 160)[0], 94, 4, 8
    else:
        inverted, faces, source, dest = raw[132 if width == 16 else 83], 4 * width, 8, 16
    found: dict[str, t.Any] = {}
    for field, where, bit in (("src", 0, source), ("dst", width, dest)):
        mask = raw[2 * width + where : 3 * width + where]
        if mask.strip(b"\0"):
            found[field] = [_prefix(raw[where : where + width], mask, family), bool(inverted & bit)]
    for field, where, bit in (("iif", faces, 1), ("oif", faces + 16, 2)):
        name = ifname(raw[where : where + 16], raw[where + 32 : where + 48])
        if name:
            found[field] = [name, bool(inverted & bit)]
    if family == "arp":
        operation, mask = struct.unpack_from(">HH", raw, 82)
        if mask:
            found["operation"] = [operation, bool(inverted & 0x40)]
        return found
    protocol = struct.unpack_from("=H", raw, faces + 64)[0]
    if protocol:
        found["protocol"] = [protocol, bool(inverted & 0x40)]
    if family == "ip" and raw[82] & 1:
        found["fragment"] = not inverted & 0x20
    return found


def _hook_type(table: str, hook: str) -> str:
    if table == "nat":
        return "nat"
    return "route" if (table, hook) == ("mangle", "output") else "filter"


def build_chains(entries: list[Entry], info: Info, layout: Layout, table: str) -> list[dict[str, t.Any]]:
    """Entries to chains: a built-in chain starts at its hook entry, a user chain after the ERROR entry naming it."""
    starts = {info.entry[n]: hook for n, hook in enumerate(layout.hooks) if info.valid & (1 << n)}
    chains: list[dict[str, t.Any]] = []
    members: list[list[Entry]] = []
    first: dict[int, str] = {}
    for entry in entries:
        hook = starts.get(entry.offset)
        if entry.target == "ERROR":
            chains.append(_chain(layout, table, entry.label, None))
            members.append([])
            continue
        if hook is not None:
            chains.append(_chain(layout, table, hook.upper(), hook))
            members.append([])
        if not chains:
            raise DecodeError(f"entry at {entry.offset} is in no chain")
        if not members[-1]:
            first[entry.offset] = chains[-1]["name"]
        members[-1].append(entry)
    for chain, content in zip(chains, members):
        _fill(chain, content, first)
    if chains and chains[-1]["name"] == "ERROR" and not members[-1]:
        chains.pop()  # the entry that ends every table
    return chains


def _chain(layout: Layout, table: str, name: str, hook: str | None) -> dict[str, t.Any]:
    priority = _NAT.get(hook or "", 0) if table == "nat" else _PRIORITY.get(table, 0)
    return {
        "ref": f"legacy:{layout.family}:{table}:{name}",
        "backend": "legacy",
        "family": layout.family,
        "table": table,
        "name": name,
        "type": _hook_type(table, hook) if hook else None,
        "hook": hook,
        "priority": priority if hook else None,
        "policy": None,
        "policy_counter": None,
        "devices": [],
        "rules": [],
    }


def _fill(chain: dict[str, t.Any], content: list[Entry], first: dict[int, str]) -> None:
    """The last entry is the policy of a built-in chain, or the implicit return of a user chain."""
    rules, last = content[:-1], content[-1:]
    if chain["hook"] and last:
        chain["policy"] = "drop" if last[0].verdict == -1 else "accept"
        chain["policy_counter"] = last[0].counter
    for number, entry in enumerate(rules, 1):
        comment = next((e["info"]["comment"] for e in entry.exprs if e.get("match") == "comment" and "info" in e), None)
        following = content[number].offset
        rule = {
            "ref": f"{chain['ref']}:{number}",
            "handle": number,
            "exprs": entry.exprs + _verdict(entry, following, first),
            "counter": entry.counter,
            "comment": comment,
        }
        rule["text"] = rule_text(rule, chain, {})
        chain["rules"].append(rule)


def _verdict(entry: Entry, following: int, first: dict[int, str]) -> list[t.Any]:
    """A standard target as nf_tables' immediate verdict, so that both backends are evaluated by one code."""
    if entry.verdict is None or entry.verdict == following:
        return []  # a rule without a target jumps to the next entry
    expr: dict[str, t.Any] = {"name": "immediate", "dreg": -1}
    if entry.verdict < 0:
        expr["verdict"] = _STANDARD.get(entry.verdict, "unknown")
    else:
        expr.update(verdict="goto" if entry.goto else "jump", chain=first.get(entry.verdict, "?"))
    return [expr]


def read() -> tuple[list[dict[str, t.Any]], dict[str, list[str]], list[str], list[str]]:
    """(chains, {"ip": tables, "ip6": …, "arp": …}, notes, errors). A table that cannot be read is one of the errors."""
    chains: list[dict[str, t.Any]] = []
    tables: dict[str, list[str]] = {}
    notes: list[str] = []
    errors: list[str] = []
    for layout in LAYOUTS:
        tables[layout.family] = table_names(layout)
        for table in tables[layout.family]:
            try:
                info, raw = read_table(layout, table)
                chains.extend(build_chains(split_entries(raw, layout), info, layout, table))
            except (OSError, DecodeError, struct.error, IndexError, AttributeError) as error:
                errors.append(f"legacy {layout.family} table {table}: {error}")
    name_sets(chains)
    loaded = _loaded_ebtables()
    if loaded:
        # No file lists the tables that exist, and GET_INFO would create one.
        notes.append(f"legacy ebtables ({', '.join(loaded)} loaded): cannot be read without creating its tables")
    return chains, tables, notes, errors


def name_sets(chains: list[dict[str, t.Any]]) -> None:
    """Names for the ipsets of `-m set` matches, which the kernel's structure holds by index only."""
    names: dict[int, str | None] = {}
    for chain in chains:
        for rule in chain["rules"]:
            for expr in rule["exprs"]:
                if expr.get("match") != "set" or "info" not in expr:
                    continue
                index = expr["info"]["index"]
                if index not in names:
                    names[index] = ipset_name(index)
                expr["info"]["set"] = names[index]
                if names[index]:
                    rule["text"] = rule["text"].replace(f"#{index} ", f"{names[index]} ")


def _loaded_ebtables() -> list[str]:
    try:
        with open("/proc/modules", encoding="ascii", errors="replace") as stream:
            return sorted({line.split(" ", 1)[0] for line in stream} & set(_EBTABLES))
    except OSError:
        return []


def read_counters() -> dict[str, list[int]]:
    """Rule and policy counters."""
    return {
        ref: counter
        for chain in read()[0]
        for ref, counter in [
            (chain["ref"], chain["policy_counter"]),
            *((rule["ref"], rule["counter"]) for rule in chain["rules"]),
        ]
        if counter is not None
    }

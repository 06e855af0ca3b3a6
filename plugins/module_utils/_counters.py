# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Counters of the namespace the calling thread is in.

/proc/thread-self/net and not /proc/net, which is the main thread's namespace; link statistics over netlink, because
/proc/net/dev has no C(rx_otherhost) and /sys/class/net does not follow setns(2) at all.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_int, read_text
from ansible_collections.crosshost.doctor.plugins.module_utils._rawdump import attributes, dump

BASE = "/proc/thread-self/net"
SYS = "/proc/sys/net"
RTM_GETSTATS = 94
IFLA_STATS_LINK_64 = 1
# struct rtnl_link_stats64 (linux/if_link.h); rx_otherhost_dropped is the last, since 5.19.
STATS = (
    "rx_packets",
    "tx_packets",
    "rx_bytes",
    "tx_bytes",
    "rx_errors",
    "tx_errors",
    "rx_dropped",
    "tx_dropped",
    "multicast",
    "collisions",
    "rx_length_errors",
    "rx_over_errors",
    "rx_crc_errors",
    "rx_frame_errors",
    "rx_fifo_errors",
    "rx_missed_errors",
    "tx_aborted_errors",
    "tx_carrier_errors",
    "tx_fifo_errors",
    "tx_heartbeat_errors",
    "tx_window_errors",
    "rx_compressed",
    "tx_compressed",
    "rx_nohandler",
    "rx_otherhost",
)
ALWAYS = (*STATS[:8], "rx_otherhost")
CONNTRACK = ("drop", "early_drop", "insert_failed", "invalid", "search_restart")


def parse_stats(messages: Iterable[tuple[bytes, int, int]]) -> dict[str, dict[str, int | None]]:
    """RTM_NEWSTATS messages as counters by interface index; C(rx_otherhost) is None on kernels without it.

    The rare ones (collisions, missed, nohandler …) are listed only where they are not 0.
    """
    found: dict[str, dict[str, int | None]] = {}
    for buffer, start, end in messages:
        if end - start < 28:
            continue
        index = struct.unpack_from("=I", buffer, start + 20)[0]
        for kind, first, last in attributes(buffer, start + 28, end):
            if kind == IFLA_STATS_LINK_64:
                count = min((last - first) // 8, len(STATS))
                numbers = dict(zip(STATS, struct.unpack_from(f"={count}Q", buffer, first)))
                row: dict[str, int | None] = {name: numbers.get(name) for name in ALWAYS}
                row.update({name: number for name, number in numbers.items() if number and name not in ALWAYS})
                found[str(index)] = row
    return found


def parse_pairs(text: str) -> dict[str, int]:
    """/proc/net/snmp and netstat: a line of names, then a line of values, both led by the same C(Group:)."""
    found: dict[str, int] = {}
    lines = text.splitlines()
    for names, values in zip(lines[::2], lines[1::2]):
        group, _colon, fields = names.partition(":")
        same, _colon, numbers = values.partition(":")
        if group == same:
            for name, number in zip(fields.split(), numbers.split()):
                try:
                    found[f"{group}.{name}"] = int(number)
                except ValueError:
                    continue
    return found


def parse_single(text: str, prefix: str = "") -> dict[str, int]:
    """/proc/net/snmp6 and xfrm_stat: C(Ip6InReceives   12) in each line."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 2:
            try:
                found[prefix + fields[0]] = int(fields[1])
            except ValueError:
                continue
    return found


def parse_per_cpu(text: str, skip: tuple[str, ...] = ("entries",)) -> dict[str, int]:
    """/proc/net/stat/*: one line of names, then one line of hexadecimal numbers for each processor; the sums.

    C(entries) is the same total in every line and stands for itself.
    """
    lines = [line.split() for line in text.splitlines()]
    if not lines:
        return {}
    totals = dict.fromkeys(lines[0], 0)
    for values in lines[1:]:
        for name, number in zip(lines[0], values):
            try:
                totals[name] = int(number, 16) if name in skip else totals[name] + int(number, 16)
            except ValueError:
                continue
    return totals


def _conntrack(base: str, sys_base: str) -> dict[str, int | None]:
    stat = parse_per_cpu(read_text(f"{base}/stat/nf_conntrack") or "")
    row: dict[str, int | None] = {
        "count": read_int(f"{sys_base}/netfilter/nf_conntrack_count"),
        "max": read_int(f"{sys_base}/netfilter/nf_conntrack_max"),
    }
    row.update({name: stat.get(name) for name in CONNTRACK})
    return row


def _softnet(base: str) -> dict[str, int]:
    """Sums over processors of /proc/net/softnet_stat, whose columns have no names."""
    rows = [line.split() for line in (read_text(f"{base}/softnet_stat") or "").splitlines()]
    columns = (("processed", 0), ("dropped", 1), ("time_squeeze", 2))
    return {name: sum(int(row[column], 16) for row in rows if len(row) > 2) for name, column in columns}


def read_counters(complete: bool, base: str = BASE, sys_base: str = SYS) -> dict[str, Any]:
    """The COUNTERS of the current namespace without those of the packet filter (C(filter) is empty).

    @param complete: list counters that are 0 too, and those of the whole machine. It is done for the host's
        namespace: its names tell what the kernel can count, and 500 container namespaces stay small.
    """
    links, _consistent = dump(RTM_GETSTATS, struct.pack("=BBHII", 0, 0, 0, 0, 1), parse_stats)
    snmp = parse_pairs(read_text(f"{base}/snmp") or "")
    snmp.update(parse_single(read_text(f"{base}/snmp6") or ""))
    netstat = parse_pairs(read_text(f"{base}/netstat") or "")
    xfrm = parse_single(read_text(f"{base}/xfrm_stat") or "")
    if not complete:
        snmp, netstat, xfrm = ({name: n for name, n in table.items() if n} for table in (snmp, netstat, xfrm))
    return {
        "links": links,
        "snmp": snmp,
        "netstat": netstat,
        "xfrm": xfrm,
        "conntrack": _conntrack(base, sys_base),
        "neighbours": parse_per_cpu(read_text(f"{base}/stat/arp_cache") or "") if complete else {},
        "softnet": _softnet(base) if complete else {},
        "filter": {},
    }

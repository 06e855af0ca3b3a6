# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Listening TCP and bound UDP sockets of the namespace the calling thread is in.

From /proc/thread-self/net, except that listening TCP sockets come from socket diagnosis where the kernel has it at
hand: /proc/net/tcp walks the connection table of the whole machine for each namespace (7 ms here, 0.05 ms by netlink).
A kernel that would first load a module to answer is not asked.
"""

from __future__ import annotations

import gzip
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterable
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_text
from ansible_collections.crosshost.doctor.plugins.module_utils._rawdump import dump

LISTEN, CLOSE = "0A", "07"
BASE = "/proc/thread-self/net"
LINES_LIMIT = 200000
SOCKETS_LIMIT = 5000
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, TCP_LISTEN = 4, 20, 10
FAMILIES = ((4, "", socket.AF_INET), (6, "6", socket.AF_INET6))


def address(text: str) -> str:
    """The address of C(0100007F) or of 32 digits: 32-bit words printed in the byte order of the machine.

    @raises ValueError: not such a text.
    """
    raw = bytes.fromhex(text)
    if len(raw) not in (4, 16):
        raise ValueError(f"not an address: {text}")
    if sys.byteorder == "little":
        raw = b"".join(raw[position : position + 4][::-1] for position in range(0, len(raw), 4))
    return str(ipaddress.ip_address(raw))


def parse_sockets(lines: Iterable[str], protocol: str, family: int) -> list[dict[str, Any]]:
    """Sockets of a /proc/net/{tcp,udp}{,6} table: those that listen, or are bound and not connected.

    The kernel prints all listening TCP sockets first, so reading ends with them: a host with 100,000 connections
    costs no more than an idle one.
    """
    found: list[dict[str, Any]] = []
    seen: set[tuple[str, int]] = set()
    for number, line in enumerate(lines):
        fields = line.split()
        if len(fields) < 4 or ":" not in fields[1]:
            continue
        if protocol == "tcp" and fields[3] != LISTEN:
            break
        if number > LINES_LIMIT or len(found) >= SOCKETS_LIMIT:
            break
        remote_port = fields[2].rpartition(":")[2]
        if protocol == "udp" and (fields[3] != CLOSE or remote_port.strip("0")):
            continue
        local, _colon, port = fields[1].rpartition(":")
        try:
            entry = (address(local), int(port, 16))
        except ValueError:
            continue
        if entry not in seen:  # SO_REUSEPORT: one line for each worker
            seen.add(entry)
            found.append({"protocol": protocol, "family": family, "ip": entry[0], "port": entry[1]})
    return found


def parse_diag(messages: Iterable[tuple[bytes, int, int]]) -> list[dict[str, Any]]:
    """Answers of socket diagnosis (struct inet_diag_msg of linux/inet_diag.h) as listening TCP sockets."""
    found: list[dict[str, Any]] = []
    seen: set[tuple[str, int]] = set()
    for buffer, start, end in messages:
        if end - start < 88 or len(found) >= SOCKETS_LIMIT:
            continue
        number = buffer[start + 16]
        family, size = (6, 16) if number == socket.AF_INET6 else (4, 4)
        port = struct.unpack_from("!H", buffer, start + 20)[0]
        entry = (str(ipaddress.ip_address(buffer[start + 24 : start + 24 + size])), port)
        if entry not in seen:
            seen.add(entry)
            found.append({"protocol": "tcp", "family": family, "ip": entry[0], "port": port})
    return found


def diag_at_hand(release: str | None = None) -> bool:
    """Whether tcp_diag is loaded or built in, so that asking it loads nothing."""
    release = release or os.uname().release
    if os.path.isdir("/sys/module/tcp_diag"):
        return True
    if "/tcp_diag.ko" in (read_text(f"/lib/modules/{release}/modules.builtin") or ""):
        return True
    try:
        with gzip.open("/proc/config.gz", "rt", encoding="ascii", errors="replace") as stream:
            return "\nCONFIG_INET_TCP_DIAG=y\n" in stream.read(1 << 20)
    except (OSError, EOFError):
        return False


def _listening(number: int) -> list[dict[str, Any]]:
    """Listening TCP sockets of one address family by netlink."""
    request = struct.pack("=BBBxI", number, socket.IPPROTO_TCP, 0, 1 << TCP_LISTEN) + bytes(48)
    return dump(SOCK_DIAG_BY_FAMILY, request, parse_diag, NETLINK_SOCK_DIAG)[0]


def read_sockets(diag: bool = False, base: str = BASE) -> list[dict[str, Any]]:
    """TCP and UDP of both families; a table that does not exist (IPv6 disabled) has none.

    @param diag: what L(diag_at_hand) said, once for all namespaces.
    """
    found: list[dict[str, Any]] = []
    for protocol in ("tcp", "udp"):
        for family, suffix, number in FAMILIES:
            try:
                if diag and protocol == "tcp":
                    found.extend(_listening(number))
                    continue
                with open(f"{base}/{protocol}{suffix}", encoding="ascii", errors="replace") as lines:
                    found.extend(parse_sockets(lines, protocol, family))
            except OSError:
                continue
    return found

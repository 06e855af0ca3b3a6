# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a kernel already believes about the size of packets to an address: its interface, its route, its cache.

The cache (a route exception, RFC 1191) is only told: a stale one is itself a finding, and the search must not obey it.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from dataclasses import dataclass
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._rawdump import attributes
from ansible_collections.crosshost.doctor.plugins.module_utils._routes import BODY, RTMSG, Kernel, question

RTA_OIF, RTA_PREFSRC, RTA_METRICS, RTA_CACHEINFO = 4, 7, 8, 12
RTAX_MTU = 2
RTM_F_CLONED = 0x200
SIOCGIFNAME, SIOCGIFMTU = 0x8910, 0x8921
MAX_PACKET = 65535
_U32 = struct.Struct("=I")
_HEADER_SIZE = BODY - RTMSG.size
_EXPIRES = 8  # offset in struct rta_cacheinfo


@dataclass(frozen=True)
class Route:
    """C(local_mtu): the smaller of interface and configured route; C(cached): what the kernel has learned since."""

    local_mtu: int
    interface: str
    source: str | None = None
    cached: int | None = None
    expires: int = 0  # of what is cached, in the kernel's ticks


def parse(buffer: bytes, start: int, end: int) -> dict[str, Any]:
    """C(oif), C(source), C(mtu), C(expires) and C(cloned) of an RTM_NEWROUTE."""
    row: dict[str, Any] = {"oif": None, "source": None, "mtu": None, "expires": 0, "cloned": False}
    if end - start < BODY:
        return row
    row["cloned"] = bool(RTMSG.unpack_from(buffer, start + _HEADER_SIZE)[8] & RTM_F_CLONED)
    for name, first, last in attributes(buffer, start + BODY, end):
        value = buffer[first:last]
        if name == RTA_OIF and len(value) == 4:
            row["oif"] = _U32.unpack(value)[0]
        elif name == RTA_PREFSRC and len(value) in (4, 16):
            row["source"] = socket.inet_ntop(socket.AF_INET if len(value) == 4 else socket.AF_INET6, value)
        elif name == RTA_METRICS:
            for metric, at, stop in attributes(buffer, first, last):
                if metric == RTAX_MTU and stop - at == 4:
                    row["mtu"] = _U32.unpack_from(buffer, at)[0] or None
        elif name == RTA_CACHEINFO and len(value) >= _EXPIRES + 4:
            row["expires"] = _U32.unpack_from(value, _EXPIRES)[0]
    return row


def look_up(address: str, source: str | None = None) -> Route:
    """The route to an address, in the namespace the calling thread is in.

    @raises OSError: there is none, or the kernel does not tell.
    """
    host, _percent, zone = address.partition("%")
    with Kernel() as kernel:
        row, error = kernel.ask(question(host, source), parse)
    if error:
        raise OSError(f"no route: {error}")
    index = socket.if_nametoindex(zone) if zone else row["oif"]
    if not index:
        raise OSError("no route: the kernel names no interface")
    name, mtu = _interface(index)
    learned = bool(row["expires"]) and (row["cloned"] or ":" not in host)
    local = mtu if learned or not row["mtu"] else min(mtu, row["mtu"])
    return Route(min(local, MAX_PACKET), name, row["source"], row["mtu"] if learned else None, row["expires"])


def _interface(index: int) -> tuple[str, int]:
    """(name, MTU) of an interface.

    @raises OSError: it is gone.
    """
    request = bytearray(40)
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)) as sock:
        struct.pack_into("=i", request, 16, index)
        fcntl.ioctl(sock, SIOCGIFNAME, request)
        name = bytes(request[:16]).split(b"\0", maxsplit=1)[0].decode("utf-8", "replace")
        fcntl.ioctl(sock, SIOCGIFMTU, request)
        return name, int(struct.unpack_from("=i", request, 16)[0])

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An XDP program on a NIC, made of a handful of instructions and without any compiler.

It runs before every tap (generic mode: behind the driver, before AF_PACKET), so what it drops no capture of its host
ever sees. Instructions as in Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import platform
import socket
import struct
from typing import Any

from .. import state
from ..network import index_of, inside, netlink
from .model import TUNNEL_PORT, Place

SYSCALL = {"x86_64": 321, "aarch64": 280}  # bpf(2)
PROG_LOAD, TYPE_XDP = 5, 6
DROP, PASS = 1, 2
RTM_SETLINK, NLM_F_REQUEST_ACK = 19, 5
IFLA_XDP, IFLA_XDP_FD, IFLA_XDP_FLAGS, NLA_F_NESTED = 43, 1, 3, 0x8000
GENERIC = 2  # XDP_FLAGS_SKB_MODE


def _step(code: int, dst: int = 0, src: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("<BBhi", code, src << 4 | dst, offset, value)


def passing() -> bytes:
    return _step(0xB7, 0, value=PASS) + _step(0x95)


def dropping(port: int) -> bytes:
    """Drops UDP for a port in IPv4 without options, and lets all else pass."""
    return b"".join(
        (
            _step(0x61, 2, 1, 0),  # r2 = data
            _step(0x61, 3, 1, 4),  # r3 = data_end
            _step(0xBF, 4, 2),  # r4 = r2
            _step(0x07, 4, value=38),  # r4 += 38: Ethernet, IPv4, the ports
            _step(0x2D, 4, 3, 6),  # beyond the end: pass
            _step(0x71, 5, 2, 23),  # r5 = protocol
            _step(0x55, 5, offset=4, value=socket.IPPROTO_UDP),  # not UDP: pass
            _step(0x69, 5, 2, 36),  # r5 = destination port as it stands in the packet
            _step(0x55, 5, offset=2, value=socket.htons(port)),  # another port: pass
            _step(0xB7, 0, value=DROP),
            _step(0x95),
            passing(),
        )
    )


def load(program: bytes) -> int:
    """A file descriptor of the loaded program."""
    number = SYSCALL.get(platform.machine())
    if number is None:
        raise state.LabError(f"no number of bpf(2) is known for {platform.machine()}")
    instructions, licence = ctypes.create_string_buffer(program), ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "<IIQQIIQ", TYPE_XDP, len(program) // 8, ctypes.addressof(instructions), ctypes.addressof(licence), 0, 0, 0
    ).ljust(128, b"\0")
    buffer = ctypes.create_string_buffer(attributes, 128)
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.syscall(number, PROG_LOAD, buffer, 128)
    if handle < 0:
        raise state.LabError(f"the kernel does not load the XDP program: {os.strerror(ctypes.get_errno())}")
    return int(handle)


def attach(index: int, handle: int) -> None:
    """Attach a program to an interface of the current namespace; -1 takes it away."""
    body = struct.pack("<HHi", 8, IFLA_XDP_FD, handle) + struct.pack("<HHI", 8, IFLA_XDP_FLAGS, GENERIC)
    nested = struct.pack("<HH", 4 + len(body), IFLA_XDP | NLA_F_NESTED) + body
    payload = struct.pack("<BxHiII", socket.AF_UNSPEC, 0, index, 0, 0) + nested
    message = struct.pack("<IHHII", 16 + len(payload), RTM_SETLINK, NLM_F_REQUEST_ACK, 1, 0) + payload
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as link:
        link.bind((0, 0))
        link.send(message)
        error = struct.unpack_from("<i", link.recv(4096), 16)[0]
    if error:
        raise state.LabError(f"the kernel does not attach the XDP program: {os.strerror(-error)}")


@dataclasses.dataclass(frozen=True)
class XdpProgram:
    """A program on the host's NIC; C(drop): one that drops the tunnel's port, else one that lets everything pass."""

    drop: bool = False

    def apply(self, place: Place) -> Any:
        index = netlink(place.host.netns, lambda ip: index_of(ip, "eth0"))
        handle = load(dropping(TUNNEL_PORT) if self.drop else passing())
        try:
            inside(place.host.netns, lambda: attach(index, handle))
        finally:
            os.close(handle)
        return {"index": index}

    def undo(self, place: Place, saved: Any) -> None:
        inside(place.host.netns, lambda: attach(saved["index"], -1))

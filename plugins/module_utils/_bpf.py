# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""BPF programs that could drop a packet before or beside netfilter: which are attached, by the bpf(2) system call.

Commands, structures and numbers of linux/bpf.h. Links are global to the machine: of a netfilter link the kernel does
not tell the namespace; tcx programs are asked for device by device, in the namespace of the device.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import Any

SYSCALL = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "ppc64le": 361,
    "ppc64": 361,
    "s390x": 351,
    "armv7l": 386,
    "i686": 357,
}
PROG_QUERY, OBJ_GET_INFO_BY_FD, LINK_GET_FD_BY_ID, LINK_GET_NEXT_ID = 16, 15, 30, 31
TYPE_NETNS, TYPE_XDP, TYPE_NETFILTER, TYPE_TCX, TYPE_NETKIT = 5, 6, 10, 11, 13
NAMES = {TYPE_NETNS: "netns", TYPE_XDP: "xdp", TYPE_NETFILTER: "netfilter", TYPE_TCX: "tcx", TYPE_NETKIT: "netkit"}
FAMILIES = {2: "ip", 10: "ip6"}
HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
NETNS_ATTACH = {17: "flow_dissector", 36: "sk_lookup"}
DEVICE_ATTACH = {46: "ingress", 47: "egress", 54: "netkit-primary", 55: "netkit-peer"}
LINKS_LIMIT = 2048
PROGRAMS = 64
_ATTRIBUTE_SIZE = 144


def _bpf(command: int, attribute: bytes) -> tuple[int, bytes]:
    """(result, attribute as the kernel left it).

    @raises OSError: the kernel refused, or this machine's system call number is not known.
    """
    number = SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"bpf(2) is not known for {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attribute.ljust(_ATTRIBUTE_SIZE, b"\0"), _ATTRIBUTE_SIZE)
    result = libc.syscall(ctypes.c_long(number), ctypes.c_int(command), buffer, ctypes.c_uint(_ATTRIBUTE_SIZE))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf: {os.strerror(code)}")
    return result, buffer.raw


def link_row(info: bytes) -> dict[str, Any] | None:
    """struct bpf_link_info as a row, None for links that have nothing to do with packets on a device or hook."""
    kind, identifier, program = struct.unpack_from("=III", info)
    name = NAMES.get(kind)
    if name is None:
        return None
    row: dict[str, Any] = {"type": name, "id": identifier, "program": program, "attach": None, "family": None}
    row.update(priority=None, index=None, netns=None)
    if kind == TYPE_NETFILTER:
        family, hook, priority = struct.unpack_from("=IIi", info, 16)
        row.update(family=FAMILIES.get(family, str(family)), priority=priority)
        row["attach"] = HOOKS[hook] if hook < len(HOOKS) else str(hook)
    elif kind == TYPE_NETNS:
        inode, attach = struct.unpack_from("=II", info, 16)
        row.update(netns=str(inode), attach=NETNS_ATTACH.get(attach, str(attach)))
    else:
        index, attach = struct.unpack_from("=II", info, 16)
        row.update(index=index, attach=None if kind == TYPE_XDP else DEVICE_ATTACH.get(attach, str(attach)))
    return row


def read_links() -> list[dict[str, Any]]:
    """Every BPF link of the machine that concerns packets.

    @raises OSError: EPERM without CAP_SYS_ADMIN, EINVAL or ENOSYS on a kernel without BPF links.
    """
    rows: list[dict[str, Any]] = []
    identifier = 0
    for _count in range(LINKS_LIMIT):
        try:
            identifier = struct.unpack_from("=I", _bpf(LINK_GET_NEXT_ID, struct.pack("=I", identifier))[1], 4)[0]
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                return rows
            raise
        row = _link(identifier)
        if row is not None:
            rows.append(row)
    return rows


def _link(identifier: int) -> dict[str, Any] | None:
    try:
        descriptor = _bpf(LINK_GET_FD_BY_ID, struct.pack("=I", identifier))[0]
    except OSError:
        return None  # detached between the two calls
    try:
        info = ctypes.create_string_buffer(256)
        _bpf(OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", descriptor, len(info), ctypes.addressof(info)))
        return link_row(info.raw)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def device_programs(index: int, kinds: tuple[int, ...] = (46, 47)) -> list[dict[str, Any]]:
    """tcx (and netkit) programs of a device of the current namespace, as rows of the C(tc) facts.

    A kernel before 6.6 knows none and answers EINVAL: no rows.
    """
    rows = []
    for attach in kinds:
        programs = (ctypes.c_uint32 * PROGRAMS)()
        request = struct.pack("=IIIIQI", index, attach, 0, 0, ctypes.addressof(programs), PROGRAMS)
        try:
            count = struct.unpack_from("=I", _bpf(PROG_QUERY, request)[1], 24)[0]
        except OSError:
            continue
        for program in programs[: min(count, PROGRAMS)]:
            rows.append({"index": index, "attach": DEVICE_ATTACH[attach], "kind": "tcx", "id": program})
    return rows

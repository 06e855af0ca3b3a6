# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Taps: packet sockets with a memory-mapped ring, in any network namespace, all in one process.

AF_PACKET with TPACKET_V3 (Documentation/networking/packet_mmap.rst): the kernel fills blocks of a ring, hands over one
that is full or older than C(RETIRE_MS), and gets it back at once, because all we do meanwhile is copy it. A tap shows
what its device sent (C(out)) and received; nothing is sent, and the device is not made promiscuous.

A socket stays in the namespace it was opened in. It sees nothing before it is bound, and it has its filter by then.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import platform
import re
import socket
import struct
import typing as t
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ansible_collections.crosshost.doctor.plugins.module_utils import _netns, _tap_filter

ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION, PACKET_VNET_HDR = 5, 6, 10, 15
TPACKET_V3 = 2
RETIRE_MS = 50  # block count x this must exceed the time we may be kept from reading
BLOCK = 1 << 16
MIN_BLOCKS, MAX_BLOCKS = 16, 128
MIN_RING, MAX_RING, ALL_RINGS = 1 << 20, 64 << 20, 256 << 20
VNET_HEADER = 10
SIOCGIFMTU = 0x8921
_MTU_ROOM = 18  # Ethernet header and a VLAN tag

ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772
_WITH_ETHERNET = (ARPHRD_ETHER, ARPHRD_LOOPBACK)

_STATUS = 8  # of a block, in struct tpacket_block_desc
_USER = b"\x01\x00\x00\x00" if struct.pack("=I", 1) == b"\x01\x00\x00\x00" else b"\x00\x00\x00\x01"
_KERNEL = bytes(4)
_BLOCK = struct.Struct("=III")  # num_pkts, offset_to_first_pkt, blk_len
# struct tpacket3_hdr, then struct sockaddr_ll of which only the packet type matters.
_FRAME = struct.Struct("=IIIIIIH2x4xIH2x8x10xB")
_REQUEST = struct.Struct("=7I")
_COUNTS = struct.Struct("=III")
_CSUMNOTREADY, _VLAN_VALID, _VLAN_TPID_VALID, _GSO_TCP = 1 << 3, 1 << 4, 1 << 6, 1 << 8
_OUTGOING = 4

# draft-ietf-opsawg-pcapng: the fixed part of an enhanced packet block, and the bits of epb_flags.
_PACKET = struct.Struct("<7I")
_EPB_NOT_READY, _EPB_SEGMENTED = 1 << 9, 1 << 11

# Nanoseconds since 1970; length on the wire; what was kept of it; sent by the device; its checksums are final; stands
# for several packets of the wire.
Frame = t.Tuple[int, int, bytes, bool, bool, bool]  # noqa: UP006 - evaluated, and hosts have Python 3.9
FilterFor = t.Callable[[int], Sequence[_tap_filter.Instruction]]


@dataclass(frozen=True)
class Spot:
    """Where a tap is to stand: as in the module's O(taps)."""

    id: str
    netns: str | None = None
    inode: str | None = None
    interface: str | None = None
    ifindex: int | None = None

    @classmethod
    def parse(cls, options: dict[str, t.Any]) -> Spot:
        """@raises ValueError: neither interface nor index."""
        interface, index = options.get("interface") or None, options.get("ifindex")
        if not interface and not index:
            raise ValueError("a tap needs interface or ifindex")
        name = options.get("id") or f"{options.get('netns') or 'host'}:{interface or index}"
        inode = options.get("inode")
        return cls(str(name), options.get("netns") or None, str(inode) if inode else None, interface, index)


@dataclass(frozen=True)
class Ring:
    """The size of a tap's ring."""

    block: int
    blocks: int

    @classmethod
    def of(cls, size: int, taps: int = 1) -> Ring:
        """A ring of about C(size) bytes, less where many taps together would take too much."""
        size = max(MIN_RING, min(size, MAX_RING, ALL_RINGS // max(1, taps)))
        block = BLOCK
        while size // block > MAX_BLOCKS:
            block *= 2
        return cls(block, max(MIN_BLOCKS, size // block))

    @property
    def size(self) -> int:
        return self.block * self.blocks


def has_vnet_header_for_all(release: str = "") -> bool:
    """Whether this kernel describes every frame in a virtio_net_hdr: before 6.2 it dropped those of UDP offload."""
    found = re.match(r"(\d+)\.(\d+)", release or platform.release())
    return bool(found) and (int(found[1]), int(found[2])) >= (6, 2)  # type: ignore[index]


class Tap:
    """A packet socket on one device.

    C(frames), C(bytes) (kept), C(truncated) are counted by whoever reads the frames, C(dropped) is the kernel's count
    of frames that passed the filter and found no room. C(gone): why the tap sees nothing any more.
    """

    def __init__(self, spot: Spot, ring: Ring, filter_for: FilterFor, vnet: bool) -> None:
        """Open the tap in the namespace the calling thread is in.

        @raises OSError: no such device, or not allowed.
        """
        self.id, self.netns = spot.id, spot.netns
        self.interface = spot.interface or socket.if_indextoname(spot.ifindex or 0)
        self.ifindex = socket.if_nametoindex(self.interface)
        if spot.ifindex and spot.ifindex != self.ifindex:
            raise OSError(errno.ENODEV, f"{self.interface} has index {self.ifindex} now, not {spot.ifindex}")
        self.frames = self.bytes = self.dropped = self.truncated = 0
        self.gone: str | None = None
        self._tails: dict[tuple[int, int], bytes] = {}
        self._ring = ring
        self._next = 0
        kind, self.mtu = _device(self.interface)
        ethernet = kind in _WITH_ETHERNET
        self.link_type = _tap_filter.ETHERNET if ethernet else _tap_filter.RAW_IP
        self.vnet = vnet and ethernet
        mode = socket.SOCK_RAW if ethernet else socket.SOCK_DGRAM
        self._socket = socket.socket(socket.AF_PACKET, mode | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
        try:
            self._socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
            if self.vnet:
                try:
                    self._socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
                except OSError:
                    self.vnet = False  # not together with this ring before Linux 4.6
            # The frame size only has to divide the block: V3 packs frames of any length.
            request = (ring.block, ring.blocks, 2048, ring.block // 2048 * ring.blocks, RETIRE_MS, 0, 0)
            self._socket.setsockopt(SOL_PACKET, PACKET_RX_RING, _REQUEST.pack(*request))
            _tap_filter.attach(self._socket, filter_for(self.link_type))
            self._map = mmap.mmap(self._socket.fileno(), ring.size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except BaseException:
            self._socket.close()
            raise
        try:
            self._socket.bind((self.interface, ETH_P_ALL))
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def blocks(self) -> Iterator[bytes]:
        """Copies of the blocks that are ready, each given back before the next is looked at; once around at most."""
        ring, size = self._map, self._ring.block
        for _block in range(self._ring.blocks):
            start = self._next * size
            status = start + _STATUS
            if not ring[status] & 1 if _USER[0] else not ring[status + 3] & 1:
                return
            length = _BLOCK.unpack_from(ring, start + 12)[2]
            block = ring[start : start + min(length, size)]
            ring[status : status + 4] = _KERNEL
            self._next = (self._next + 1) % self._ring.blocks
            yield block

    def read(self, block: bytes) -> Iterator[Frame]:
        """The frames of a block."""
        count, offset, _length = _BLOCK.unpack_from(block, 12)
        unpack, vnet, longest = _FRAME.unpack_from, self.vnet, self.mtu + _MTU_ROOM
        for _frame in range(count):
            step, seconds, nano, size, wire, status, head, tci, tpid, kind = unpack(block, offset)
            start = offset + head
            data = block[start : start + size]
            gso = bool(block[start - VNET_HEADER + 1]) if vnet else bool(status & _GSO_TCP) or wire > longest
            if status & _VLAN_VALID:
                # The card or the kernel took the tag out of the frame; on the wire it was there.
                tag = struct.pack("!HH", tpid if status & _VLAN_TPID_VALID else 0x8100, tci)
                data, wire = data[:12] + tag + data[12:], wire + 4
            yield seconds * 1_000_000_000 + nano, wire, data, kind == _OUTGOING, not status & _CSUMNOTREADY, gso
            offset += step

    def pack(self, block: bytes, number: int) -> tuple[int, bytes]:
        """The frames of a block as pcapng's enhanced packet blocks of interface C(number), and how many there are.

        What L(read) and a writer do together, in one loop without calls: a busy tap needs it. Counts the frames.
        """
        count, offset, _length = _BLOCK.unpack_from(block, 12)
        unpack, pack, tails, longest = _FRAME.unpack_from, _PACKET.pack, self._tails, self.mtu + _MTU_ROOM
        vnet, bits = self.vnet, _CSUMNOTREADY | _VLAN_VALID | _GSO_TCP
        parts: list[bytes] = []
        kept = cut = 0
        for _frame in range(count):
            step, seconds, nano, size, wire, status, head, tci, tpid, kind = unpack(block, offset)
            start = offset + head
            data = block[start : start + size]
            flags = 2 if kind == _OUTGOING else 1
            if block[start - VNET_HEADER + 1] if vnet else wire > longest:
                flags |= _EPB_SEGMENTED
            if status & bits:
                flags |= (_EPB_NOT_READY if status & _CSUMNOTREADY else 0) | (
                    _EPB_SEGMENTED if status & _GSO_TCP and not vnet else 0
                )
                if status & _VLAN_VALID:
                    tag = struct.pack("!HH", tpid if status & _VLAN_TPID_VALID else 0x8100, tci)
                    data, wire, size = data[:12] + tag + data[12:], wire + 4, size + 4
            when = seconds * 1_000_000_000 + nano
            tail = tails.get((size, flags))
            if tail is None:
                tail = tails[size, flags] = _tail(size, flags)
            parts += (
                pack(6, 44 + (size + 3 & ~3), number, when >> 32, when & 0xFFFFFFFF, size, wire),
                data,
                tail,
            )
            kept += size
            cut += size < wire
            offset += step
        self.frames += count
        self.bytes += kept
        self.truncated += cut
        return count, b"".join(parts)

    def stop(self) -> None:
        """Take no more frames; what is in the ring can still be read once its block has been handed over."""
        with contextlib.suppress(OSError):
            _tap_filter.attach(self._socket, _tap_filter.nothing())

    def check(self) -> None:
        """Look why poll(2) reports an error: a device that went down or away."""
        number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number == errno.ENETDOWN:
            self.gone = f"{self.interface} went down or away while it was captured"
        elif number:
            self.gone = os.strerror(number)

    def count_drops(self) -> int:
        """Add what the kernel has dropped since the last call (reading its statistics resets them)."""
        with contextlib.suppress(OSError):
            raw = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, _COUNTS.size)
            self.dropped += _COUNTS.unpack(raw)[1]
        return self.dropped

    def facts(self) -> dict[str, t.Any]:
        """The tap as the module returns it."""
        return {
            "id": self.id,
            "interface": self.interface,
            "ifindex": self.ifindex,
            "netns": self.netns,
            "link_type": self.link_type,
            "frames": self.frames,
            "bytes": self.bytes,
            "dropped": self.dropped,
            "truncated": self.truncated,
        }

    def close(self) -> None:
        self._map.close()
        self._socket.close()


def _tail(size: int, flags: int) -> bytes:
    """What follows a packet's data: padding, epb_flags, end of options, and the block's length once more."""
    return bytes(-size % 4) + struct.pack("<HHIHHI", 2, 4, flags, 0, 0, 44 + (size + 3 & ~3))


def _device(name: str) -> tuple[int, int]:
    """(hardware type, MTU) of a device of the calling thread's namespace."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as sock:
        sock.bind((name, 0))
        kind = sock.getsockname()[3]
        answer = fcntl.ioctl(sock.fileno(), SIOCGIFMTU, struct.pack("16sI12x", name.encode(), 0))
    return kind, struct.unpack_from("=I", answer, 16)[0]


def frame_count(block: bytes) -> int:
    """How many frames a block holds."""
    return _BLOCK.unpack_from(block, 12)[0]


def open_taps(
    spots: Sequence[Spot], ring: Ring, filter_for: FilterFor, vnet: bool, missing: Callable[[str, str, str], None]
) -> list[Tap]:
    """Open every tap that can be opened; C(missing) takes (section, what, why) for the others."""
    opened = []
    for spot in spots:
        try:
            with _netns.inside(spot.netns):
                if spot.inode:
                    found = os.stat(_netns.OWN).st_ino
                    if str(found) != spot.inode:
                        raise OSError(f"{spot.netns or 'the host'} is namespace {found} now, not {spot.inode}")
                opened.append(Tap(spot, ring, filter_for, vnet))
        except (OSError, ValueError) as exc:
            missing("tap", spot.id, explain(exc))
    return opened


def explain(exc: Exception) -> str:
    """Why a tap could not be opened, in words."""
    number = getattr(exc, "errno", None)
    if number in (errno.EPERM, errno.EACCES):
        return "permission denied: a tap needs CAP_NET_RAW, and CAP_SYS_ADMIN for other namespaces (not root?)"
    if number in (errno.ENODEV, errno.ENXIO) or "no interface" in str(exc):
        return f"no such interface: {exc}"
    return str(exc)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A network card that gets tunnel checksums wrong, and only when it is asked to fill them in.

Run as ``python3 -I -S -c TEXT PORT BRIDGE TUNNEL_PORT inner|outer PIDFILE`` in the fabric; the file with its number is
there as soon as it works. It takes the tunnel packets that
come in at the host's port, which the fabric's rules must drop, and hands them to the bridge as bytes: what the sender
left to its card to fill in is then wrong for good. A sender that fills in its checksums itself is not affected.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from pathlib import Path

SOL_PACKET, PACKET_AUXDATA, PACKET_OUTGOING = 263, 8, 4
TP_STATUS_CSUMNOTREADY = 1 << 3
ETH_P_ALL = 0x0003  # of all others the kernel thinks only after the bridge and the packet filter
ETHERNET, UDP = 14, 17
WRONG = b"\xde\xad"
MTU_ROOM = 65536


def tunnel_header(frame: bytes, port: int) -> int | None:
    """Where the UDP header of a tunnel packet begins; None for any other frame."""
    if len(frame) < ETHERNET + 28 or frame[12:14] != b"\x08\x00" or frame[ETHERNET + 9] != UDP:
        return None
    start = ETHERNET + (frame[ETHERNET] & 0x0F) * 4
    return start if struct.unpack_from("!H", frame, start + 2)[0] == port else None


def spoil(frame: bytearray, start: int, mode: str) -> None:
    """The outer checksum is wrong; or it is left out (0), so that the inner one, which nobody filled in, is seen."""
    frame[start + 6 : start + 8] = WRONG if mode == "outer" else b"\0\0"


def main() -> int:
    port, bridge, tunnel, mode, numbers = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], Path(sys.argv[5])
    receive = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    receive.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    receive.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    receive.bind((port, ETH_P_ALL))
    send = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    send.bind((bridge, 0))
    unfinished = numbers.with_suffix(".part")
    unfinished.write_text(str(os.getpid()))
    unfinished.rename(numbers)
    while True:
        data, ancillary, _flags, address = receive.recvmsg(MTU_ROOM, 128)
        start = tunnel_header(data, tunnel)
        if start is None or address[2] == PACKET_OUTGOING:
            continue
        status = next(
            (struct.unpack_from("=I", value)[0] for level, kind, value in ancillary if kind == PACKET_AUXDATA), 0
        )
        frame = bytearray(data)
        if status & TP_STATUS_CSUMNOTREADY:
            spoil(frame, start, mode)
        try:
            send.send(frame)
        except OSError as error:  # too long for the bridge: lost, as on a wire
            print(error, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

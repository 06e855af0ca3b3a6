# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who reaches whom: ICMP echoes sent from inside network namespaces, with nothing but a raw socket."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterable
from pathlib import Path

from .network import inside


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def echo_request(identifier: int, sequence: int) -> bytes:
    body = b"crosshost-lab-echo"
    head = struct.pack("!BBHHH", 8, 0, 0, identifier, sequence)
    return struct.pack("!BBHHH", 8, 0, checksum(head + body), identifier, sequence) + body


def echo(netns: str | Path, targets: Iterable[str], timeout: float = 1.0) -> set[str]:
    """Send one echo to every target from inside the namespace; return those that answered before the timeout."""
    wanted = set(targets)
    identifier = int.from_bytes(os.urandom(2), "big")

    def work() -> set[str]:
        answered: set[str] = set()
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
            for sequence, target in enumerate(sorted(wanted)):
                try:
                    sock.sendto(echo_request(identifier, sequence), (target, 0))
                except OSError:
                    continue  # no route, or the neighbour is known to be away: not reached
            deadline = time.monotonic() + timeout
            while answered != wanted and (left := deadline - time.monotonic()) > 0:
                if not select.select([sock], [], [], left)[0]:
                    break
                try:
                    packet, (sender, _port) = sock.recvfrom(2048)
                except OSError:
                    continue
                start = (packet[0] & 0xF) * 4
                kind, _code, _sum, found, _sequence = struct.unpack_from("!BBHHH", packet, start)
                if kind == 0 and found == identifier and sender in wanted:
                    answered.add(sender)
        return answered

    return inside(netns, work)


def http_body(netns: str | Path, address: str, port: int, timeout: float = 3.0) -> int:
    """How many bytes of body a page brings, fetched from inside the namespace; -1 if there was no connection."""

    def work() -> int:
        received = b""
        try:
            with socket.create_connection((address, port), timeout) as sock:
                sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                while data := sock.recv(65536):
                    received += data
        except OSError:
            if not received:
                return -1
        return len(received.partition(b"\r\n\r\n")[2])

    return inside(netns, work)

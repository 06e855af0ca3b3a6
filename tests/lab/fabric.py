# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The fabric: the namespace that holds the underlay's bridge, and what hosts and containers find outside.

Run as ``python3 -I -S fabric.py CONFIG.json REPORT_FD`` by the supervisor. It makes its network namespace and then
serves in it, on the gateway and on the outside address: names (UDP and TCP 53: the records of the configuration,
NXDOMAIN for the rest) and a page on port 80.
"""

from __future__ import annotations

import http.server
import json
import os
import socket
import socketserver
import struct
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.lab.init import CLONE_NEWNET, CLONE_NEWNS, MS_PRIVATE, MS_REC, check, die_with, libc, mount

RECORDS: dict[str, str] = {}
PAGE = b"outside\n" * 1024


def answer(query: bytes) -> bytes:
    """A DNS answer (RFC 1035): one A record, an empty answer for other types of a known name, else NXDOMAIN."""
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii", "replace").lower())
        at += 1 + query[at]
    question = query[12 : at + 5]
    (kind,) = struct.unpack_from("!H", query, at + 1)
    address = RECORDS.get(".".join(labels))
    records = b""
    if address and kind == 1:
        records = struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(address)
    flags = 0x8580 if address else 0x8583
    return query[:2] + struct.pack("!HHHHH", flags, 1, 1 if records else 0, 0, 0) + question + records


class NamesOverUdp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, sock = self.request
        if len(data) > 16:
            sock.sendto(answer(data), self.client_address)


class NamesOverTcp(socketserver.StreamRequestHandler):
    timeout = 5

    def handle(self) -> None:
        while len(head := self.rfile.read(2)) == 2:
            reply = answer(self.rfile.read(struct.unpack("!H", head)[0]))
            self.wfile.write(struct.pack("!H", len(reply)) + reply)


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *args: object) -> None:
        pass


class TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text())
    report = int(sys.argv[2])
    die_with(config["supervisor"])
    check(libc.unshare(CLONE_NEWNET | CLONE_NEWNS), "unshare")
    mount("none", "/", "none", MS_REC | MS_PRIVATE)
    mount("sysfs", "/sys", "sysfs")
    RECORDS.update(config["records"])
    servers = [
        socketserver.ThreadingUDPServer(("0.0.0.0", 53), NamesOverUdp),
        TcpServer(("0.0.0.0", 53), NamesOverTcp),
        TcpServer(("0.0.0.0", 80), Page),
    ]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    os.write(report, f"pid {os.getpid()}\nready\n".encode())
    os.close(report)
    threading.Event().wait()


if __name__ == "__main__":
    main()

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An engine that answers what a test wants, on a Unix socket."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

VERSION = {"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12"}
INFO: dict[str, Any] = {
    "ID": "AAAA:BBBB",
    "Name": "node1",
    "ServerVersion": "20.10.24",
    "Driver": "overlay2",
    "LiveRestoreEnabled": False,
    "SecurityOptions": ["name=seccomp,profile=default"],
    "DockerRootDir": "/nonexistent/docker",
    "Swarm": {"LocalNodeState": "inactive", "NodeID": "", "ControlAvailable": False},
}
HANG = object()


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    answers: dict[str, Any]
    asked: list[str]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        # The SDK puts the version it agreed on before every path.
        path = urlsplit(self.path).path
        path = "/" + path.split("/", 2)[2] if path.startswith("/v1.") else path
        self.server.asked.append(path)
        answer = self.server.answers.get(path, (404, {"message": f"no such thing: {path}"}))
        if answer is HANG:
            time.sleep(3)
            return
        status, body = answer if isinstance(answer, tuple) else (200, answer)
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


@contextlib.contextmanager
def engine(path: str, answers: dict[str, Any]) -> Iterator[list[str]]:
    """Serve C(answers) by path, (status, body) or the body alone; yields the paths that were asked for."""
    with _Server(path, _Handler) as server:
        server.answers = {"/version": VERSION, "/info": INFO, "/networks": [], "/containers/json": [], **answers}
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server.asked
        finally:
            server.shutdown()
            thread.join()

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HTTP: connect, ask, and count the bytes of body that arrive."""

from __future__ import annotations

import socket

from ansible_collections.crosshost.doctor.plugins.module_utils import _http, _probe_socket
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_base import Probe
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_loop import READ, WRITE
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_tcp import Connector

_PIECE = 65536
_BATCH = 16


class HttpProbe(Probe):
    """One GET. C(stage) of the result tells how far it came: connect, request, header, body or done."""

    _socket: socket.socket

    def start(self) -> None:
        address = self.request.address or ""
        host = self.request.name or (f"[{address}]" if self.family == socket.AF_INET6 else address)
        if self.request.port != 80 and not self.request.name:
            host = f"{host}:{self.request.port}"
        agent = f"crosshost.doctor/{self.settings.mark or '0'}"
        try:
            self._request = _http.request(host, self.request.path, agent)
        except ValueError as exc:
            self.finish("error", str(exc))
            return
        self.result.stage = "connect"
        self._response = _http.Response()
        self._connector = Connector(self, address, self._opened, self.finish)
        self._connector.start()

    def _opened(self, sock: socket.socket) -> None:
        self._socket = sock
        self.result.stage = "request"
        self.result.bytes = 0
        self.watch(sock, WRITE, self._write)

    def _write(self) -> None:
        sent = self._socket.send(self._request)
        self._request = self._request[sent:]
        if not self._request:
            self.watch(self._socket, READ, self._read)

    def _read(self) -> None:
        for _turn in range(_BATCH):
            try:
                data = self._socket.recv(_PIECE)
            except BlockingIOError:
                break
            except OSError as exc:
                self.result.errno = _probe_socket.errno_name(exc.errno)
                self._stopped(f"the connection broke: {_probe_socket.meaning(exc.errno or 0)}")
                return
            if not data:
                self._response.eof()
                self._note()
                if self._response.state != "done":
                    self._stopped("the connection was closed too early")
                    return
                break
            self._response.feed(data)
            if self._response.finished or self._enough():
                break
        self._note()
        self._judge()

    def _enough(self) -> bool:
        """The limit on the body, or endless framing around little body, is reached."""
        limit = self.settings.body_limit
        return self._response.body >= limit or self._response.received >= limit + _http.MAX_HEADER

    def _note(self) -> None:
        """Keep the result up to date: it is what remains at the deadline."""
        response = self._response
        self.result.bytes, self.result.http_status = response.body, response.status
        if response.received:
            self.result.stage = {"done": "done", "body": "body"}.get(response.state, "header")

    def _judge(self) -> None:
        response = self._response
        if response.state == "bad":
            self.finish("error", f"not an HTTP answer: {response.error}")
        elif response.state == "done":
            self.finish("ok")
        elif self._enough():
            announced = f" of {response.expected}" if response.expected else ""
            self.finish("ok", f"stopped reading after {response.body} bytes{announced}")

    def _stopped(self, why: str) -> None:
        self._note()
        expected = self._response.expected
        announced = f" of {expected}" if expected is not None else ""
        self.finish("incomplete", f"{why} after {self._response.body}{announced} bytes of body")

    def expire(self) -> None:
        if self.result.stage == "connect":
            self._connector.stop()
            self.finish("unreachable" if self.result.icmp_error else "timeout")
        elif self._response.received:
            self._stopped("no more arrived")
        else:
            self.finish("timeout", "connected, but no byte of an answer came")

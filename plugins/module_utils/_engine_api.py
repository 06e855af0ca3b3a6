# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine's API over its socket, by the standard library: a remedy must not depend on what a host has installed."""

from __future__ import annotations

import http.client
import json
import os
import socket
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._docker import SOCKETS

SECONDS = 10.0
MAX_ANSWER = 32 << 20


class EngineError(Exception):
    """The engine did not do what it was asked; the message is for the user. C(status) is None without an answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Api:
    """The engine behind a socket; one connection for each question."""

    def __init__(self, path: str | None = None, seconds: float = SECONDS) -> None:
        self._path = path or next((one for one in SOCKETS if os.path.exists(one)), SOCKETS[0])
        self._seconds = seconds

    def get(self, path: str) -> Any:
        """What the engine answers.

        @raises EngineError: it does not, or refuses.
        """
        return self._ask("GET", path, None)

    def post(self, path: str, body: Any = None, seconds: float | None = None) -> Any:
        """The same for a request that changes something."""
        return self._ask("POST", path, body, seconds)

    def answers(self) -> bool:
        try:
            self._ask("GET", "/_ping", None, 2.0)
        except EngineError:
            return False
        return True

    def _ask(self, method: str, path: str, body: Any, seconds: float | None = None) -> Any:
        connection = _Connection(self._path, seconds or self._seconds)
        text = None if body is None else json.dumps(body)
        try:
            connection.request(method, path, text, {"Content-Type": "application/json"} if text else {})
            answer = connection.getresponse()
            raw = answer.read(MAX_ANSWER)
        except (OSError, http.client.HTTPException) as exc:
            raise EngineError(f"The engine does not answer at {self._path}: {exc}") from exc
        finally:
            connection.close()
        try:
            found = json.loads(raw) if raw and raw != b"OK" else None
        except ValueError:
            found = None
        if answer.status >= 400:
            message = found.get("message") if isinstance(found, dict) else None
            raise EngineError(f"The engine refused {method} {path}: {message or answer.reason}", answer.status)
        return found

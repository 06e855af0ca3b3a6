# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where probes start: a network namespace, with its raw ICMP sockets and its resolver configuration.

A namespace is opened once, by descriptor, and entered once for all its probes; their sockets stay bound to it. A
second try or a change to TCP enters it again through the same descriptor, also when its path has vanished meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import typing as t
from collections.abc import Iterator

from ansible_collections.crosshost.doctor.plugins.module_utils import _netns, _probe_socket
from ansible_collections.crosshost.doctor.plugins.module_utils._dns import ResolverConfig
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_channel import IcmpChannel
from ansible_collections.crosshost.doctor.plugins.module_utils._probe_loop import Loop

HOST_RESOLV_CONF = "/etc/resolv.conf"
_MAX_RESOLV_CONF = 65536


class Source:
    """A namespace and what is opened in it.

    C(missing) takes what cannot be used, each entry once. The namespace of the calling thread when a Source is made
    is the one that is returned to.
    """

    def __init__(self, options: dict[str, t.Any], loop: Loop, missing: list[dict[str, str]]) -> None:
        self.path: str | None = options.get("netns")
        self.label = str(options.get("container") or self.path or "host")
        self._options = options
        self._loop = loop
        self._missing = missing
        self._descriptor: int | None = None
        self._home: int | None = None
        self._depth = 0
        self._channels: dict[tuple[int, str | None], IcmpChannel | OSError] = {}
        self._resolver: ResolverConfig | None = None

    def prepare(self) -> None:
        """Open the namespace, not yet entering it.

        @raises OSError: it is gone, is none, or is another than the caller meant.
        """
        if self.path is None:
            if self._options.get("container"):
                raise OSError(f"container {self.label} has no network namespace path: is it running?")
            return
        self._descriptor = _netns.open_namespace(self.path)
        wanted = self._options.get("inode")
        found = str(os.fstat(self._descriptor).st_ino)
        if wanted and wanted != found:
            raise OSError(f"{self.path} is namespace {found} now, not {wanted}: the container was replaced")
        self._home = os.open(_netns.OWN, os.O_RDONLY | os.O_CLOEXEC)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Run the body inside the namespace. Entering it again from inside costs nothing."""
        if self._descriptor is None or self._home is None or self._depth:
            yield
            return
        _netns.setns(self._descriptor)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            _netns.setns(self._home)

    def open(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A new non-blocking socket of the namespace.

        @raises OSError: from socket(2) or setns(2).
        """
        with self.entered():
            return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)

    def icmp(self, family: int, address: str | None = None) -> IcmpChannel:
        """The shared ICMP socket of a family, bound to a source address if one is given.

        @raises OSError: it could not be opened, now or at the first try.
        """
        key = (family, address)
        found = self._channels.get(key)
        if found is None:
            try:
                with self.entered():
                    found = IcmpChannel(self, self._loop, family, address)
            except OSError as exc:
                if exc.errno in _probe_socket.NO_DESCRIPTORS:
                    raise  # passes when other probes are done
                found = exc
                what = f"ICMP{'v6' if family == socket.AF_INET6 else ''} from {self.label}"
                self._missing.append({"section": "icmp", "what": what, "why": str(exc)})
            self._channels[key] = found
        if isinstance(found, OSError):
            raise OSError(found.errno, found.strerror or str(found))
        return found

    def watch_errors(self, family: int) -> IcmpChannel | None:
        """The raw ICMP socket that sees errors about other sockets' packets; None where only root may have one."""
        with contextlib.suppress(OSError):
            channel = self.icmp(family)
            return channel if channel.raw else None
        return None

    @property
    def resolver(self) -> ResolverConfig:
        """What names are looked up with: O(sources[].dns), else O(sources[].resolv_conf), else the host's own file.

        @raises OSError: the file cannot be read.
        """
        if self._resolver is None:
            given = self._options.get("dns")
            if given:
                lists = [[str(word) for word in given.get(key) or []] for key in ("nameservers", "search", "options")]
                self._resolver = ResolverConfig.build(*lists)
            else:
                path = self._options.get("resolv_conf")
                if not path and self.path is not None:
                    raise OSError("no nameserver is known for this container: give sources.dns or sources.resolv_conf")
                self._resolver = ResolverConfig.parse(read_regular(path or HOST_RESOLV_CONF))
        return self._resolver

    def close(self) -> None:
        """Close the ICMP sockets and the namespace's descriptors."""
        for channel in self._channels.values():
            if isinstance(channel, IcmpChannel):
                channel.close()
        for descriptor in (self._descriptor, self._home):
            if descriptor is not None:
                os.close(descriptor)
        self._descriptor = self._home = None


def read_regular(path: str) -> str:
    """The first 64 KiB of a regular file: a container may have put a FIFO where its resolv.conf was.

    @raises OSError: it cannot be opened or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not a regular file")
        return os.read(descriptor, _MAX_RESOLV_CONF).decode("utf-8", "replace")
    finally:
        os.close(descriptor)

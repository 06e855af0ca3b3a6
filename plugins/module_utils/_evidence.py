# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The state of a host as a person would look at it, in one archive: outputs of commands and copies of kernel files.

Everything is read: commands come from a fixed list and never from a shell, and none is run that would load a kernel
module or create a table. Every text passes through the removal of secrets; what could hold a key by its nature is not
read at all. What is missing is said in C(manifest.json).
"""

from __future__ import annotations

import io
import json
import os
import re
import socket
import stat
import tarfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils import _flows, _nft, _xtables
from ansible_collections.crosshost.doctor.plugins.module_utils._commands import find, run_bounded
from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_text
from ansible_collections.crosshost.doctor.plugins.module_utils._kernel_modules import read_modules
from ansible_collections.crosshost.doctor.plugins.module_utils._logs import engine_lines, without_secrets
from ansible_collections.crosshost.doctor.plugins.module_utils._netns import identity, inside
from ansible_collections.crosshost.doctor.plugins.module_utils._sockets import diag_at_hand

SCHEMA = "1"
MEMBER_BYTES = 4 << 20  # of one text
TOTAL_BYTES = 64 << 20  # of all, before compression
COMMAND_SECONDS = 5.0
TOTAL_SECONDS = 40.0
LOG_BYTES = 1 << 20
SYSCTLS = 20000
NAMESPACES = 32
PROC = "/proc/thread-self/net"

# (file name, command): what is asked in the host's namespace and in each other one.
COMMANDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("links.txt", ("ip", "-d", "-s", "-s", "link", "show")),
    ("addresses.txt", ("ip", "-d", "address", "show")),
    ("routes.txt", ("ip", "-4", "-d", "route", "show", "table", "all")),
    ("routes6.txt", ("ip", "-6", "-d", "route", "show", "table", "all")),
    ("rules.txt", ("ip", "-4", "rule", "show")),
    ("rules6.txt", ("ip", "-6", "rule", "show")),
    ("neighbours.txt", ("ip", "-s", "neighbour", "show")),
    ("fdb.txt", ("bridge", "-d", "fdb", "show")),
    ("bridge-ports.txt", ("bridge", "-d", "link", "show")),
    ("queues.txt", ("tc", "-s", "qdisc", "show")),
)
FILES = (
    *("snmp", "snmp6", "netstat", "dev", "sockstat", "sockstat6", "xfrm_stat", "stat/nf_conntrack", "stat/arp_cache"),
    *("ip_vs", "ip_vs_stats", "ip_vs_conn"),
)
HOST_FILES = ("/proc/net/softnet_stat", "/proc/version", "/proc/modules", "/etc/os-release")
SYSCTL_TREES = ("core", "ipv4", "ipv6", "bridge", "netfilter", "unix")
# Values that are keys: RFC 7217's secret of an interface, the cookie key of TCP Fast Open.
_SECRET_SYSCTL = re.compile(r"secret|key|cookie", re.IGNORECASE)
# `ip xfrm state` is asked for without keys; this is for an `ip` that does not know the word.
_XFRM_KEY = re.compile(r"^(\s*(?:auth|auth-trunc|enc|comp|aead)\s+\S+\s+)0x[0-9a-fA-F]+", re.MULTILINE)
_SAFE = re.compile(r"[^A-Za-z0-9._-]+")


def safe(name: str) -> str:
    """A name for a file or directory of the archive."""
    return _SAFE.sub("_", name).strip(".")[:80] or "unnamed"


class Archive:
    """A gzipped tar in memory that never grows beyond its limits."""

    def __init__(self, limit: int) -> None:
        """@param limit: of the compressed archive, in bytes."""
        self.limit = limit
        self.members: list[dict[str, Any]] = []
        self.missing: list[dict[str, str]] = []
        self.secrets = 0
        self._raw = 0
        self._buffer = io.BytesIO()
        self._tar = tarfile.TarFile.gzopen("", "w", self._buffer, 6)
        self._when = int(time.time())

    def miss(self, what: str, why: str) -> None:
        self.missing.append({"section": "evidence", "what": what, "why": why})

    def text(self, name: str, text: str, source: str, truncated: bool = False) -> None:
        """Add a text without its secrets."""
        cut = len(text) > MEMBER_BYTES
        clean, count = without_secrets(text[:MEMBER_BYTES])
        clean, keys = _XFRM_KEY.subn(r"\1***", clean)
        self.secrets += count + keys
        self._add(name, clean.encode("utf-8", "replace"), source, truncated or cut, 2)

    def raw(self, name: str, data: bytes, source: str) -> None:
        """Add bytes as they are: a capture."""
        self._add(name, data, source, False, 1)

    def _add(self, name: str, data: bytes, source: str, truncated: bool, shrinks: int) -> None:
        # How small it gets is known afterwards only: text becomes half at least.
        if self._raw + len(data) > TOTAL_BYTES or self._buffer.tell() + len(data) // shrinks > self.limit:
            self.miss(name, f"left out: the archive would become larger than {self.limit} bytes")
            return
        self._raw += len(data)
        self._write(name, data)
        self.members.append({"name": name, "bytes": len(data), "truncated": truncated, "source": source})

    def _write(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(data), 0o600, self._when
        self._tar.addfile(info, io.BytesIO(data))

    def close(self, manifest: dict[str, Any]) -> bytes:
        """The archive with its manifest."""
        rows = {"schema": SCHEMA, **manifest, "members": self.members, "missing": self.missing}
        rows["secrets_removed"] = self.secrets
        self._write("manifest.json", json.dumps(rows, indent=1, sort_keys=True).encode())
        self._tar.close()
        return self._buffer.getvalue()


def gather(
    namespaces: list[dict[str, Any]], addresses: list[str], files: list[str], limit: int, started: float | None = None
) -> tuple[bytes, dict[str, Any]]:
    """(archive, what is in it): the host's own namespace first, then the given ones, then the files.

    @param namespaces: C(name), C(path) and optionally C(inode) of each.
    @param addresses: whose connection tracking entries are wanted.
    @param files: regular files of the host to add as they are.
    @param limit: bytes of the archive.
    """
    archive = Archive(limit)
    manifest = {"host": socket.gethostname(), "started": time.time() if started is None else started}
    deadline = time.monotonic() + TOTAL_SECONDS
    _host(archive, deadline)
    _namespace(archive, "host", addresses, deadline)
    for row in namespaces[:NAMESPACES]:
        _other(archive, row, addresses, deadline)
    if len(namespaces) > NAMESPACES:
        archive.miss("namespaces", f"{len(namespaces) - NAMESPACES} beyond the first {NAMESPACES} were not read")
    for path in files:
        _file(archive, path)
    content = archive.close(manifest)
    return content, {"members": archive.members, "missing": archive.missing, "secrets_removed": archive.secrets}


def _host(archive: Archive, deadline: float) -> None:
    for path in HOST_FILES:
        text = read_text(path, MEMBER_BYTES)
        if text is None:
            archive.miss(path, "cannot be read")
        else:
            archive.text(f"host/{safe(os.path.basename(path))}.txt", text, path)
    found = engine_lines(LOG_BYTES, archive.missing)
    if found is not None:
        _source, path, lines, _size, truncated = found
        archive.text("host/engine-log.txt", "\n".join(lines) + "\n", path, truncated)


def _other(archive: Archive, row: dict[str, Any], addresses: list[str], deadline: float) -> None:
    name, path = safe(str(row.get("name") or row["path"])), row["path"]
    try:
        if row.get("inode") and str(identity(path)[1]) != str(row["inode"]):
            archive.miss(name, f"{path} is another namespace by now")
            return
        with inside(path):
            _namespace(archive, name, addresses, deadline)
    except OSError as exc:
        archive.miss(name, f"{path}: {exc.strerror or exc}")


def _namespace(archive: Archive, directory: str, addresses: list[str], deadline: float) -> None:
    """Everything of the namespace the calling thread is in; the commands' processes inherit it."""
    for name, command in (*COMMANDS, *optional_commands()):
        _command(archive, f"{directory}/{name}", command, deadline)
    for name in FILES:
        text = read_text(f"{PROC}/{name}", MEMBER_BYTES)
        if text:
            archive.text(f"{directory}/{safe(name.replace('/', '-'))}.txt", text, f"/proc/net/{name}")
    archive.text(f"{directory}/sysctl.txt", "".join(sysctls(deadline)), "/proc/sys/net")
    if addresses:
        _attempt(archive, f"{directory}/conntrack.json", lambda: _flows.read_flows(addresses))


def _attempt(archive: Archive, name: str, read: Callable[[], list[dict[str, Any]]]) -> None:
    try:
        rows = read()
    except (OSError, ValueError) as exc:
        archive.miss(name, str(exc))
        return
    archive.text(name, json.dumps(rows, indent=0) + "\n", "netlink")


def optional_commands() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Commands that would load a module, or create tables, where what they ask for does not exist.

    iptables of the legacy backend creates its tables by looking at them, so it is run for a family only where the
    kernel lists tables of it.
    """
    if not _nft.unloaded():
        yield "nft.txt", ("nft", "-a", "list", "ruleset")
        for number in ("", "6"):
            yield f"ip{number}tables-nft.txt", (f"ip{number}tables-nft-save", "-c")
    for layout, number in zip(_xtables.LAYOUTS, ("", "6")):
        if _xtables.table_names(layout):
            # Without a name of its own for the legacy backend there is only that one.
            named = f"ip{number}tables-legacy-save"
            yield f"ip{number}tables-legacy.txt", (named if find(named) else f"ip{number}tables-save", "-c")
    if diag_at_hand():
        yield "sockets.txt", ("ss", "-s")
        yield "listening.txt", ("ss", "-l", "-n", "-t", "-u")
    if read_modules(("xfrm_user",))["xfrm_user"] in ("loaded", "builtin"):
        yield "xfrm-state.txt", ("ip", "-s", "xfrm", "state", "list", "nokeys")
        yield "xfrm-policy.txt", ("ip", "-s", "xfrm", "policy", "show")


def _command(archive: Archive, name: str, command: tuple[str, ...], deadline: float) -> None:
    words = " ".join(command)
    program = find(command[0])
    if program is None:
        archive.miss(name, f"{command[0]} is not installed")
        return
    seconds = min(COMMAND_SECONDS, deadline - time.monotonic())
    if seconds <= 0:
        archive.miss(name, f"not run: the reading took longer than {TOTAL_SECONDS:g} s")
        return
    output, truncated, error = run_bounded([program, *command[1:]], seconds, MEMBER_BYTES)
    if error:
        archive.miss(name, error)
    if output or not error:
        archive.text(name, output.decode("utf-8", "replace"), words, truncated)


def sysctls(deadline: float, root: str = "/proc/sys/net") -> Iterator[str]:
    """C(net.ipv4.ip_forward = 1) for each value below the trees; keys are left out."""
    count = 0
    for tree in SYSCTL_TREES:
        for folder, folders, names in os.walk(f"{root}/{tree}"):
            folders.sort()
            for name in sorted(names):
                if count >= SYSCTLS or time.monotonic() > deadline:
                    yield f"# the rest was left out after {count} values\n"
                    return
                if _SECRET_SYSCTL.search(name):
                    continue
                value = read_text(f"{folder}/{name}", 4096)
                if value is not None:
                    count += 1
                    key = os.path.relpath(f"{folder}/{name}", os.path.dirname(root)).replace(".", "\0")
                    yield f"{key.replace('/', '.').replace(chr(0), '/')} = {' '.join(value.split())}\n"


def _file(archive: Archive, path: str) -> None:
    """A capture of this run. Neither a link nor a device is followed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        archive.miss(path, exc.strerror or str(exc))
        return
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            archive.miss(path, "is not a regular file")
        elif found.st_size > TOTAL_BYTES:
            archive.miss(path, f"left out: {found.st_size} bytes")
        else:
            with os.fdopen(os.dup(descriptor), "rb") as stream:
                archive.raw(f"files/{safe(os.path.basename(path))}", stream.read(TOTAL_BYTES), path)
    finally:
        os.close(descriptor)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What evidence to keep: the hosts that something broken involves, the namespaces and the flows on them.

Pure: a function of what the run has read.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import typing as t
import zlib

from ansible_collections.crosshost.doctor.plugins.module_utils._logs import without_secrets as redacted
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import CRITICAL, WARNING, Case
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.registry import decide_all
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Pair
from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder, safe_name

Facts = dict[str, t.Any]

NAMESPACES = 16
ADDRESSES = 64
MEMBERS = 2000
EXPANDED = 256 << 20  # bytes of an archive that came from a host, once it is expanded
FACTS_BYTES = 128 << 20  # of the run's own records that are added


class HostileArchiveError(Exception):
    """What a host sent is not the archive it was asked for."""


def plan(case: Case) -> dict[str, Facts]:
    """The arguments of the module evidence for each host involved, by host."""
    decide_all(case)
    loud = [finding for finding in case.findings if finding.severity in (CRITICAL, WARNING)]
    named = {name for finding in loud for name in finding.hosts}
    pairs = [o.pair for o in case.observations if o.verdict() in ("failed", "degraded")]
    involved = named | {name for pair in pairs for name in pair.hosts if name}
    return {
        host.name: _arguments(case, host, [pair for pair in pairs if host.name in pair.hosts])
        for host in case.fleet.answering
        if host.name in involved
    }


def _arguments(case: Case, host: Host, pairs: list[Pair]) -> Facts:
    keys: dict[str, str] = {}
    networks = {pair.network_id for pair in pairs if pair.network_id}
    containers = {node.container_id for pair in pairs for node in (pair.src, pair.dst) if node.host == host.name}
    for namespace in host.facts.namespaces:
        of_network = namespace.kind in ("overlay", "lb") and namespace.network_id in networks
        if of_network or (namespace.kind == "ingress" and pairs):
            keys.setdefault(namespace.key, f"{namespace.kind}-{(namespace.network_id or namespace.key)[:10]}")
    for container in host.facts.containers:
        if container["id"] in containers and container.get("netns"):
            keys.setdefault(container["netns"], f"container-{container['name']}")
    rows = []
    for key, name in list(keys.items())[:NAMESPACES]:
        found = host.facts.namespace(key)
        if found is not None and found.facts.get("path") and found.kind != "host":
            rows.append({"name": name, "path": found.facts["path"], "inode": key})
    ends = [node.ip for pair in pairs for node in (pair.src, pair.dst) if node.ip]
    ends += [ip for pair in pairs for name in pair.hosts if name and (ip := case.host(name).underlay_ip)]
    return {"namespaces": rows, "addresses": sorted(set(ends))[:ADDRESSES]}


def pack(folder: RunFolder | None, host: str, content: bytes, path: str) -> int:
    """Write one archive: what the host sent, and what the run, if there is one, has of it. Returns its size in bytes.

    @raises HostileArchiveError: the host's part is no archive of plain files, or expands beyond all bounds.
    @raises OSError: it cannot be written.
    """
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    unfinished = f"{path}.part"
    handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream, tarfile.open(fileobj=stream, mode="w:gz", compresslevel=6) as archive:
            for name, data in unpacked(content):
                _add(archive, name, data)
            budget = FACTS_BYTES
            for name, source in own_records(folder, host) if folder else ():
                size = os.path.getsize(source)
                if size <= budget:
                    budget -= size
                    with open(source, "rb") as record:
                        data = record.read()
                    _add(archive, name, without_secrets(data) if name.endswith(".json") else data)
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise
    return os.path.getsize(path)


def own_records(folder: RunFolder, host: str) -> t.Iterator[tuple[str, str]]:
    """(name in the archive, file) of what the run folder has of a host."""
    name = safe_name(host)
    places = [("facts", folder.file("hosts", name), "")]
    for label in _listing(folder.file("plan")):
        places.append((f"plan/{label}", folder.file("plan", label), f"{name}.json"))
    places.append(("captures", folder.file("captures"), f"{name}."))
    for target, directory, prefix in places:
        for entry in _listing(directory):
            path = os.path.join(directory, entry)
            if entry.startswith(prefix) and not entry.startswith(".") and os.path.isfile(path):
                yield f"{target}/{entry}", path


def without_secrets(data: bytes) -> bytes:
    """A record without what looks like a secret in its texts: facts quote rules, and a rule may have any comment."""
    if not redacted(data.decode("utf-8", "replace"))[1]:
        return data
    # Not in the text as it is: what follows a key called "token" need not be a secret, and must stay JSON.
    return json.dumps(_clean(json.loads(data)), separators=(",", ":"), sort_keys=True).encode() + b"\n"


def _clean(value: t.Any) -> t.Any:
    if isinstance(value, str):
        return redacted(value)[0]
    if isinstance(value, list):
        return [_clean(row) for row in value]
    return {key: _clean(row) for key, row in value.items()} if isinstance(value, dict) else value


def _listing(path: str) -> list[str]:
    return sorted(os.listdir(path)) if os.path.isdir(path) else []


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o600
    archive.addfile(info, io.BytesIO(data))


def unpacked(content: bytes) -> t.Iterator[tuple[str, bytes]]:
    """(name, content) of the members of an archive that a host sent, which is trusted with nothing."""
    expanded = 0
    try:
        with tarfile.open(fileobj=_expanded(content), mode="r:") as archive:
            for number, member in enumerate(archive):
                parts = member.name.split("/")
                if number >= MEMBERS or not member.isreg() or {"", ".", ".."} & set(parts) or len(member.name) > 200:
                    raise HostileArchiveError(f"the host's archive holds {member.name[:80]!r}, which is no plain file")
                expanded += member.size
                stream = archive.extractfile(member)
                if expanded > EXPANDED or stream is None:
                    raise HostileArchiveError(f"the host's archive expands to more than {EXPANDED} bytes")
                yield member.name, stream.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError) as exc:
        raise HostileArchiveError(f"what the host sent is not an archive: {exc}") from exc


def _expanded(content: bytes) -> io.BytesIO:
    """The expanded tar, of at most L(EXPANDED) bytes: a few bytes of gzip can stand for any number."""
    inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
    data = inflate.decompress(content, EXPANDED)
    if inflate.unconsumed_tail:
        raise HostileArchiveError(f"the host's archive expands to more than {EXPANDED} bytes")
    return io.BytesIO(data)

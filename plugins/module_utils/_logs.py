# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine's log, wherever this host keeps it, reduced to the messages that mean something.

Bounded in bytes and time; a sample of each message is returned with tokens and passwords taken out.
"""

from __future__ import annotations

import calendar
import os
import re
import time
from collections.abc import Iterable
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._commands import find, run_bounded
from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_int, read_text

JOURNAL_SECONDS = 5.0
SAMPLE = 300
KMSG_RECORDS = 20000
# (path, only lines with this text): syslog files hold everybody's messages.
FILES = (
    ("/var/log/docker.log", None),
    ("/var/log/upstart/docker.log", None),
    ("/var/log/syslog", "dockerd"),
    ("/var/log/messages", "dockerd"),
    ("/var/log/daemon.log", "dockerd"),
)
# Any of the texts makes the pattern. The words are those of moby, swarmkit, libnetwork and memberlist sources.
PATTERNS: dict[str, tuple[str, ...]] = {
    "gossip-probe-failed": ("but other probes failed, network may be misconfigured", "via TCP but not UDP"),
    "gossip-suspect": ("has failed, no acks received",),
    "gossip-node-failed": ("change state NodeActive --> NodeFailed", "NodeActive --> NodeFailed"),
    "gossip-node-left": ("NodeActive --> NodeLeft",),
    "gossip-decrypt-failed": ("No installed keys could decrypt", "no installed keys could decrypt"),
    "gossip-bulk-sync-failed": ("Bulk sync to node", "bulk sync to node", "bulk sync failed"),
    "gossip-join-failed": ("failed to join memberlist", "Failed to join memberlist", "cannot join cluster"),
    "session-failed": ("agent: session failed", "session initiation timed out"),
    "heartbeat-failed": ("heartbeat failure", "heartbeat to manager"),
    "no-leader": ("The swarm does not have a leader",),
    "certificate-invalid": ("certificate has expired or is not yet valid", "x509: certificate"),
    "fdb-add-failed": ("could not add fdb entry", "could not add neighbor entry", "Peer add failed"),
    "fdb-delete-failed": ("could not delete fdb entry", "could not delete neighbor entry", "Peer delete operation"),
    "neighbour-entry-present": ("Neighbor entry already present",),
    "vxlan-create-failed": ("error creating vxlan interface",),
    "vxlan-vni-exists": ("A VXLAN device with the specified VNI already exists",),
    "ipvs-missing": ("Could not get ipvs family information from the kernel",),
    "esp-failed": ("Failed Adding rSA", "Failed Adding fSA", "Failed Adding fSP"),
    "xtables-match-missing": ("Couldn't load match", "Extension u32", "Extension bpf", "missing kernel module"),
    "iptables-chain-missing": ("No chain/target/match by that name",),
    "iptables-failed": ("iptables failed:",),
    "ingress-missing": ("service needs ingress network, but no ingress network is present",),
    "pool-overlap": ("Pool overlaps with other one on this address space",),
    "address-exhausted": ("could not find an available IP", "no available IPv4 addresses"),
    "firewalld-reloaded": ("Firewalld reloaded", "firewalld reloaded", "reloading firewalld"),
    "firewall-backend-refused": ("is incompatible with swarm mode",),
    "forwarding-disabled": ("IPv4 forwarding is disabled", "IPv6 forwarding is disabled"),
    "bridge-netfilter-missing": ("bridge-nf-call-iptables", "br_netfilter"),
    "port-taken": ("address already in use", "port is already allocated"),
    "resolver-upstream-failed": ("[resolver] failed to query", "[resolver] connect failed", "failed to query DNS"),
    "resolver-failed": ("[resolver] error", "failed to query external DNS server"),
    "start-failed": ("failed to start daemon", "Error starting daemon", "Failed to start Docker"),
    "permission-denied": ("avc:  denied", 'apparmor="DENIED"'),
}
KERNEL_PATTERNS: dict[str, tuple[str, ...]] = {
    "conntrack-full": ("nf_conntrack: table full, dropping packet", "table full, dropping packet"),
    "neighbour-overflow": ("neighbor table overflow", "neighbour table overflow", "Neighbour table overflow"),
    "udp-bad-checksum": ("UDP: bad checksum",),
    "martian-source": ("martian source",),
    "syn-flooding": ("possible SYN flooding",),
    "link-down": ("NIC Link is Down", "Link is Down"),
    "transmit-timeout": ("NETDEV WATCHDOG",),
    "dead-loop": ("Dead loop on virtual device",),
}
# Said by engines up to 20.10 in answer to our own reading of networks.
NOISE = ("Inconsistent driver and libnetwork state for endpoint",)

_TIME = re.compile(r'time="?(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)')
_UNIX = re.compile(r"^(\d{9,11}\.\d+) ")
_SECRETS = (
    (re.compile(r"SWM(TKN|KEY)-[0-9A-Za-z_+/=-]+"), r"SWM\1-***"),
    (re.compile(r"(://[^/\s:@]*):[^@/\s]+@"), r"\1:***@"),
    (
        re.compile(
            r"(?i)((?:pass(?:word|wd|phrase)?|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credentials?|auth(?:orization)?)"
            r"[\"'\\]*\s*[=:]\s*[\"'\\]*)(?:(?:bearer|basic)\s+)?[^\s\"'\\,;&]+"
        ),
        r"\1***",
    ),
    (re.compile(r"(?i)\b(bearer|basic) [0-9a-z._~+/=-]{8,}"), r"\1 ***"),
    (re.compile(r"-----BEGIN [A-Z ]+-----.*?(?:-----END [A-Z ]+-----|$)", re.DOTALL), "***"),
    (re.compile(r"\beyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]+(?:\.[0-9A-Za-z_-]+)?"), "***"),
)


def without_secrets(text: str) -> tuple[str, int]:
    """The text without tokens, passwords and keys, and how many were taken out."""
    total = 0
    for pattern, replacement in _SECRETS:
        text, count = pattern.subn(replacement, text)
        total += count
    return text, total


def redact(text: str) -> str:
    """The text without tokens, passwords and keys, at most 300 characters."""
    text, _count = without_secrets(text)
    return text if len(text) <= SAMPLE else text[: SAMPLE - 1] + "…"


def timestamp(line: str) -> float | None:
    """Seconds since the epoch of a line with the engine's C(time="…") or journalctl's C(short-unix) prefix."""
    match = _TIME.search(line)
    if match:
        numbers = [int(part) for part in match.groups()[:6]]
        try:
            seconds = calendar.timegm((*numbers, 0, 0, 0))
        except (ValueError, OverflowError):
            return None
        zone = match.group(8)
        if zone != "Z":
            offset = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
            seconds -= offset if zone[0] == "+" else -offset
        return seconds + float(match.group(7) or 0)
    match = _UNIX.match(line)
    return float(match.group(1)) if match else None


def reduce_lines(lines: Iterable[str], patterns: dict[str, tuple[str, ...]] | None = None) -> dict[str, dict[str, Any]]:
    """Count, time of the last and a redacted sample of the last, for each pattern that occurs.

    Beside the patterns, C(error) and C(fatal) hold the engine's own levels, whatever the text.
    """
    patterns = PATTERNS if patterns is None else patterns
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        names = [name for name, texts in patterns.items() if any(text in line for text in texts)]
        if not any(text in line for text in NOISE):
            names.extend(level for level in ("error", "fatal") if f"level={level}" in line)
        for name in names:
            row = found.setdefault(name, {"count": 0, "last": None, "sample": ""})
            row["count"] += 1
            row["line"] = line
    for row in found.values():
        line = row.pop("line")
        row["last"] = timestamp(line)
        row["sample"] = redact(_UNIX.sub("", line.strip()))
    return found


def tail(path: str, limit: int) -> tuple[str, int, bool]:
    """(text, bytes read, truncated) of the end of a file, beginning with a whole line.

    @raises OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    with os.fdopen(descriptor, "rb") as stream:
        size = os.fstat(descriptor).st_size
        stream.seek(max(0, size - limit))
        raw = stream.read(limit)
    truncated = size > limit
    if truncated:
        raw = raw[raw.find(b"\n") + 1 :]
    return raw.decode("utf-8", "replace"), len(raw), truncated


def _journal(limit: int) -> tuple[list[str], int, bool, str | None] | None:
    """The newest lines of the engine's unit, oldest first; None where there is no journal to ask."""
    journalctl = find("journalctl")
    if journalctl is None or not os.path.isdir("/run/systemd/system"):
        return None
    command = [journalctl, "-u", "docker.service", "-u", "snap.docker.dockerd.service", "-q", "--no-pager", "-r"]
    raw, truncated, error = run_bounded([*command, "-o", "short-unix"], JOURNAL_SECONDS, limit)
    lines = raw.decode("utf-8", "replace").splitlines()
    if truncated:
        lines = lines[:-1]
    return list(reversed(lines)), len(raw), truncated, error


def read_log(limit: int, missing: list[dict[str, str]]) -> dict[str, Any]:
    """The C(log) of the facts; what could not be read is appended to C(missing)."""
    log: dict[str, Any] = {"source": None, "path": None, "bytes": 0, "truncated": False, "patterns": {}, "kernel": {}}
    log["kernel"] = _kernel(limit, missing)
    found = engine_lines(limit, missing)
    if found is not None:
        log.update(source=found[0], path=found[1], bytes=found[3], truncated=found[4])
        log["patterns"] = reduce_lines(found[2])
    return log


def engine_lines(limit: int, missing: list[dict[str, str]]) -> tuple[str, str, list[str], int, bool] | None:
    """(source, path, newest lines, bytes read, truncated) of the engine's log, secrets and all; None: there is none."""
    journal = _journal(limit)
    if journal is not None and journal[0]:
        lines, size, truncated, error = journal
        if error:
            missing.append({"section": "log", "what": "journalctl", "why": error})
        return "journal", "docker.service", lines, size, truncated
    tried = [] if journal is None else ["the journal of docker.service (empty)"]
    for path, needle in FILES:
        tried.append(path)
        try:
            text, size, truncated = tail(path, limit)
        except FileNotFoundError:
            continue
        except OSError as exc:
            missing.append({"section": "log", "what": path, "why": exc.strerror or str(exc)})
            continue
        lines = [line for line in text.splitlines() if needle is None or needle in line]
        if lines or needle is None:
            return "file", path, lines, size, truncated
    missing.append({"section": "log", "what": "engine log", "why": f"not found in {', '.join(tried)}"})
    return None


def _kernel(limit: int, missing: list[dict[str, str]]) -> dict[str, dict[str, Any]]:
    """Known messages of the kernel's ring buffer. Every reader of /dev/kmsg has its own position: nothing is taken."""
    wanted = [text for texts in KERNEL_PATTERNS.values() for text in texts]
    if read_int("/proc/sys/kernel/dmesg_restrict") and os.geteuid() != 0:
        missing.append({"section": "log", "what": "/dev/kmsg", "why": "kernel.dmesg_restrict is set and not root"})
        return {}
    try:
        descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        missing.append({"section": "log", "what": "/dev/kmsg", "why": exc.strerror or str(exc)})
        return {}
    uptime = float((read_text("/proc/uptime") or "0").split()[0])
    boot, size, lines = time.time() - uptime, 0, []
    try:
        for _record in range(KMSG_RECORDS):
            try:
                raw = os.read(descriptor, 8192)
            except BrokenPipeError:
                continue  # overwritten while we read: the next read goes on with the oldest that is left
            except OSError:
                break
            size += len(raw)
            head, _semicolon, text = raw.decode("utf-8", "replace").partition(";")
            if any(needle in text for needle in wanted):
                fields = head.split(",")
                moment = boot + int(fields[2]) / 1e6 if len(fields) > 2 and fields[2].isdigit() else boot
                lines.append(f"{moment:.3f} {text.splitlines()[0]}")
            if size > 8 * limit:
                break
    finally:
        os.close(descriptor)
    return reduce_lines(lines, KERNEL_PATTERNS)

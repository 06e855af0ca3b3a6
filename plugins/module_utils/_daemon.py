# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the engine was configured beside its answers: its command line, its key-value store, the name servers it asks.

Pure functions but for the reading of two files; nothing of a command line is kept that is not a known key.
"""

from __future__ import annotations

import os
import re
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._docker_rows import daemon_config, resolv_conf
from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_text

RESOLV_CONF = "/etc/resolv.conf"
# What the engine reads instead where the host's resolver is systemd's stub, which answers on the loopback only.
RESOLVED_CONF = "/run/systemd/resolve/resolv.conf"
STUB = "127.0.0.53"
EMBEDDED_DNS = "127.0.0.11"
# Flags whose key in daemon.json is another word; those that may be repeated have a plural there.
LISTS = {
    "default-address-pool": "default-address-pools",
    "default-network-opt": "default-network-opts",
    "dns": "dns",
    "dns-opt": "dns-opts",
    "dns-search": "dns-search",
    "feature": "features",
    "host": "hosts",
}
SHORT = {"D": "debug", "G": "group", "H": "host", "b": "bridge", "s": "storage-driver"}
BOOLEANS = frozenset(
    (
        "allow-direct-routing",
        "debug",
        "experimental",
        "icc",
        "ip-forward",
        "ip-forward-no-drop",
        "ip-masq",
        "ip6tables",
        "iptables",
        "ipv6",
        "live-restore",
        "tls",
        "tlsverify",
        "userland-proxy",
    )
)
NUMBERS = frozenset(("mtu", "network-control-plane-mtu"))
TRUE, FALSE = frozenset(("1", "t", "true")), frozenset(("0", "f", "false"))  # strconv.ParseBool, in lower case
ADDRESSES_LIMIT = 64
# Since 26.0 the engine writes down in a container's resolv.conf whom it asks; a loopback address of the host's
# is in host(…) there.
_EXT_SERVERS = r"(?m)^# ExtServers: \[([^\]]*)\]"
_OWN_FILE = r"/[0-9a-f]{64}(?:/userdata)?/resolv\.conf$"  # of a container of dockerd or podman


def daemon_flags(words: list[str]) -> dict[str, Any]:
    """The keys of daemon.json that the words of a dockerd command line set, without their first word."""
    found: dict[str, Any] = {}
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not word.startswith("-") or word.strip("-") == "":
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("--"):  # -H unix://x, -Hunix://x, -H=unix://x, -D
            name, value = SHORT.get(word[1], ""), word[2:].lstrip("=")
            equals = value
        if name in BOOLEANS:
            text = (value or "true").lower()
            found[name] = True if text in TRUE else False if text in FALSE else value
            continue
        if not equals:
            if position >= len(words) or words[position].startswith("-"):
                continue  # a flag this table does not know to be boolean
            value, position = words[position], position + 1
        if name in LISTS:
            found.setdefault(LISTS[name], []).append(value)
        else:
            found[name] = int(value) if name in NUMBERS and value.isdecimal() else value
    return daemon_config(found)


def read_daemon_flags(pid: int | None, proc: str = "/proc") -> dict[str, Any]:
    """The same of a running dockerd; nothing where that process is something else by now."""
    words = (read_text(f"{proc}/{pid}/cmdline", 65536) or "").split("\0") if pid else []
    if not words or not os.path.basename(words[0]).startswith("docker"):
        return {}
    return daemon_flags([word for word in words[1:] if word])


def kv_store(config: dict[str, Any]) -> dict[str, Any] | None:
    """The key-value store of C(cluster-store), by which overlays worked before there was Swarm mode.

    C(etcd://192.0.2.1:2379,192.0.2.2:2379/path) has two endpoints; credentials are left out.
    """
    value = config.get("cluster-store")
    if not isinstance(value, str) or not value:
        return None
    scheme, separator, rest = value.partition("://")
    if not separator:
        scheme, rest = "", value
    authority, slash, path = rest.rpartition("@")[2].partition("/")
    endpoints = [one.strip() for one in authority.split(",") if one.strip()][:ADDRESSES_LIMIT]
    return {"url": f"{scheme}{separator}{','.join(endpoints)}{slash}{path}", "endpoints": endpoints}


def read_resolver(path: str = RESOLV_CONF) -> dict[str, list[str]]:
    """The host's own resolver configuration."""
    return resolv_conf(read_text(path, 65536) or "")


def host_upstreams(config: dict[str, Any], flags: dict[str, Any]) -> list[str]:
    """The name servers the engine asks for containers that have none of their own: the daemon's, or the host's."""
    for settings in (flags, config):
        if isinstance(settings.get("dns"), list) and settings["dns"]:
            return [str(one) for one in settings["dns"]][:ADDRESSES_LIMIT]
    servers = read_resolver()["nameservers"]
    return (read_resolver(RESOLVED_CONF)["nameservers"] or servers) if servers == [STUB] else servers


def upstreams(row: dict[str, Any], text: str, fallback: list[str] | None) -> list[str]:
    """The name servers behind the embedded DNS of a container; none where it has no embedded DNS.

    @param row: the container, C(dns.upstreams) being what it was started with, C(dns.nameservers) from C(text).
    @param text: its resolv.conf.
    """
    own = [each for each in row["endpoints"] if each["network"] not in ("bridge", "host", "none")]
    if EMBEDDED_DNS not in row["dns"]["nameservers"] and not own:
        return []
    written = re.search(_EXT_SERVERS, text)
    if written and not row["dns"]["mounted"]:
        words = (re.sub(r"^host\((.*)\)$", r"\1", word) for word in written.group(1).split())
        return [word for word in words if word][:ADDRESSES_LIMIT]
    return row["dns"]["upstreams"] or fallback or []


def is_mounted_over(mountinfo: str) -> bool:
    """Whether what a container has at /etc/resolv.conf is another file than the one its engine made for it."""
    last = None
    for line in mountinfo.splitlines():
        fields = line.split(" ", 5)
        if len(fields) > 5 and fields[4] == RESOLV_CONF:
            last = fields[3]  # the root of the mount within its file system; a later mount covers an earlier
    return last is not None and not re.search(_OWN_FILE, last)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The networks that container runtimes beside Docker are configured for: names, types and subnets, nothing else."""

from __future__ import annotations

import ipaddress
import json
import os
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_text

DIRECTORY = "/etc/cni/net.d"
FLANNEL = "/run/flannel/subnet.env"
ENDINGS = (".conf", ".conflist", ".json")  # the others are backups, or kubeconfig files with secrets
FILES_LIMIT = 64
SUBNETS_LIMIT = 64


def read_cni(root: str = "") -> list[dict[str, Any]]:
    """The C(cni) rows of the host facts."""
    rows = []
    try:
        names = sorted(name for name in os.listdir(root + DIRECTORY) if name.endswith(ENDINGS))[:FILES_LIMIT]
    except OSError:
        names = []
    for name in names:
        row = network(f"{DIRECTORY}/{name}", read_text(f"{root}{DIRECTORY}/{name}", 262144) or "")
        if row is not None:
            rows.append(row)
    text = read_text(root + FLANNEL, 4096)
    if text is not None:
        rows.append(flannel(FLANNEL, text))
    return rows


def network(path: str, text: str) -> dict[str, Any] | None:
    """The row of a network configuration or a list of them; None when the file is neither."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(config, dict):
        return None
    plugins = config.get("plugins")
    plugins = [one for one in plugins if isinstance(one, dict)] if isinstance(plugins, list) else [config]
    types = [one["type"] for one in plugins if isinstance(one.get("type"), str)]
    if not types:
        return None
    subnets: list[str] = []
    for plugin in plugins:
        subnets += _subnets(plugin.get("ipam"))
    name = config.get("name")
    return {
        "path": path,
        "name": name if isinstance(name, str) else None,
        "type": types[0],
        "subnets": list(dict.fromkeys(subnets))[:SUBNETS_LIMIT],
    }


def _subnets(ipam: Any) -> list[str]:
    """The subnets of host-local: one, or lists of ranges."""
    if not isinstance(ipam, dict):
        return []
    found = [ipam.get("subnet")]
    for ranges in ipam["ranges"] if isinstance(ipam.get("ranges"), list) else []:
        found += [one.get("subnet") for one in (ranges if isinstance(ranges, list) else []) if isinstance(one, dict)]
    return [subnet for subnet in map(_network, found) if subnet]


def _network(value: Any) -> str | None:
    """C(10.244.1.0/24) of C(10.244.1.1/24)."""
    if not isinstance(value, str) or "/" not in value:
        return None
    try:
        return str(ipaddress.ip_network(value.strip(), strict=False))
    except ValueError:
        return None


def flannel(path: str, text: str) -> dict[str, Any]:
    """The row of the file in which flanneld writes down the subnet it got for this host."""
    pairs = [line.strip().partition("=") for line in text.splitlines()]
    values = {key: value.strip("\"'") for key, _equals, value in pairs}
    found = [_network(values.get(key)) for key in ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET")]
    return {"path": path, "name": None, "type": "flannel", "subnets": [subnet for subnet in found if subnet]}

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What udev does when eth0 appears, as far as files of the host's own say: offloads, MTU, and programs to run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from .units import is_masked, parse

if TYPE_CHECKING:
    from .boot import Boot
    from .fleet import Host

NIC = "eth0"
# Those of the distribution are about names, and not read.
LINK_FILES = ("/etc/systemd/network", "/run/systemd/network", "/usr/local/lib/systemd/network")
LINK_FACTS = {"OriginalName": NIC, "Type": "ether", "Driver": "veth"}
FEATURES = {
    "ReceiveChecksumOffload": "rx",
    "TransmitChecksumOffload": "tx",
    "TCPSegmentationOffload": "tso",
    "GenericSegmentationOffload": "gso",
    "GenericReceiveOffload": "gro",
}
YES = {"yes": "on", "true": "on", "on": "on", "1": "on", "no": "off", "false": "off", "off": "off", "0": "off"}
RULE_FILES = ("/etc/udev/rules.d", "/run/udev/rules.d")
RULE_FACTS = {"ACTION": "add", "SUBSYSTEM": "net", "KERNEL": NIC, "NAME": NIC, "DRIVERS": "veth"}
RUN = ("RUN", "RUN{program}")
PART = re.compile(r'\s*([A-Z]+(?:\{[^}]*\})?)\s*(==|!=|\+=|:=|=)\s*"((?:[^"\\]|\\.)*)"\s*')


def add_nic(boot: Boot) -> None:
    """The first .link file that matches counts, and then every rule that does."""
    for path in files(boot.host, LINK_FILES, "*.link"):
        entries = parse(path.read_text())
        if link_matches([(key, value) for section, key, value in entries if section == "Match"]):
            set_link(boot, path.name, {key: value for section, key, value in entries if section == "Link"})
            break
    for path in files(boot.host, RULE_FILES, "*.rules"):
        for line in path.read_text().replace("\\\n", " ").splitlines():
            for command in programs(line):
                boot.run(path.name, *shlex.split(command.replace("$name", NIC).replace("%k", NIC)))


def files(host: Host, folders: Iterable[str], pattern: str) -> list[Path]:
    """In the order of their names; one in an earlier folder takes the place of one of the same name."""
    chosen: dict[str, Path] = {}
    for folder in folders:
        for path in host.path(folder).glob(pattern):
            chosen.setdefault(path.name, path)
    return [chosen[name] for name in sorted(chosen) if not is_masked(chosen[name]) and chosen[name].is_file()]


def link_matches(conditions: list[tuple[str, str]]) -> bool:
    """Whether a [Match] section means eth0. By other keys than those of LINK_FACTS it never does here; empty: never."""
    return bool(conditions) and all(
        key in LINK_FACTS and any(fnmatchcase(LINK_FACTS[key], pattern) for pattern in value.split())
        for key, value in conditions
    )


def set_link(boot: Boot, name: str, settings: dict[str, str]) -> None:
    for key, feature in FEATURES.items():
        if value := YES.get(settings.get(key, "").lower()):
            boot.run(name, "ethtool", "-K", NIC, feature, value)
    if mtu := settings.get("MTUBytes"):
        boot.run(name, "ip", "link", "set", NIC, "mtu", mtu)


def programs(line: str) -> list[str]:
    """What a rule runs when eth0 appears; nothing if it means another event, or asks for what is not known here."""
    parts = [part.groups() for part in PART.finditer(line)] if line.lstrip()[:1] not in ("", "#") else []
    for key, operator, value in parts:
        if operator in ("==", "!="):
            equal = any(fnmatchcase(RULE_FACTS.get(key, ""), pattern) for pattern in value.split("|"))
            if key not in RULE_FACTS or equal != (operator == "=="):
                return []
    return [value.replace('\\"', '"') for key, operator, value in parts if key in RUN and operator in ("+=", "=")]

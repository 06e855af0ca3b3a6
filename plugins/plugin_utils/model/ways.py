# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ways: how a host sends to an address, as its kernel answers, else as its rules and routes say."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import Facts, Namespace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host

COMMON_TABLES = (253, 254, 255)  # default, main, local: linux/rtnetlink.h


@dataclass(frozen=True)
class Way:
    """How a host sends to an address: the device, the source, and the policy rule that decided, if one did."""

    oif: int | None
    device: str
    src: str | None
    gateway: str | None = None
    rule: str | None = None
    table: int | None = None

    @property
    def words(self) -> str:
        via = f" via {self.gateway}" if self.gateway else ""
        return f"dev {self.device}{via}" + (f" src {self.src}" if self.src else "")


def advertised(host: Host) -> str | None:
    """The address the host's engine gives to the others as its end of the tunnels."""
    swarm = host.facts.swarm
    address = (swarm.get("data_path_addr") or swarm.get("node_addr")) if host.facts.in_swarm else None
    try:
        return None if address is None or ipaddress.ip_address(address).is_unspecified else address
    except ValueError:
        return None


def way(host: Host, dst: str) -> Way | None:
    """How the host sends to an address: as its kernel answers in every reading, else as its rules and routes say."""
    found = {_way(facts.root, dst) for facts in host.readings}
    return found.pop() if len(found) == 1 else None


def _way(root: Namespace, dst: str) -> Way | None:
    derived = routed(root, dst)
    row = next((row for row in root.facts.get("paths") or [] if row.get("dst") == dst), None)
    if row is None:
        return _way_of(root, *derived) if derived else None
    if row.get("error") or row.get("oif") is None:
        return None
    rule, route = derived if derived and derived[1].get("oif") == row["oif"] else (None, {})
    name = (root.link_by_index.get(row["oif"]) or {}).get("name") or f"interface {row['oif']}"
    table = route.get("table") or row.get("table")
    return Way(row["oif"], name, row.get("src"), row.get("gateway"), _rule_words(rule), table)


def _way_of(root: Namespace, rule: Facts, route: Facts) -> Way | None:
    index = route.get("oif")
    if index is None or (route.get("type") or "unicast") != "unicast":
        return None
    name = (root.link_by_index.get(index) or {}).get("name") or f"interface {index}"
    src = route.get("src") or first_address(root, index, route.get("gateway") or route["dst"])
    return Way(index, name, src, route.get("gateway"), _rule_words(rule), route.get("table"))


def first_address(root: Namespace, index: int, near: str) -> str | None:
    """The address the kernel takes on a device: the first primary one on the target's subnet, else the first."""
    rows = [row for row in root.addresses if row["index"] == index and row.get("family") == 4]
    primary = [row for row in rows if not row.get("secondary")]
    try:
        target = ipaddress.ip_address(near.split("/", maxsplit=1)[0])
    except ValueError:
        target = None
    for row in primary:
        if target is not None and target in ipaddress.ip_network(f"{row['ip']}/{row['prefix']}", strict=False):
            return row["ip"]
    return primary[0]["ip"] if primary else None


ENDS = ("blackhole", "unreachable", "prohibit")


def routed(root: Namespace, dst: str) -> tuple[Facts, Facts] | None:
    """The policy rule and the route that a packet of the namespace itself takes, without marks, as the tables say.

    A rule that ends the packet is told as a route of its kind (blackhole, unreachable, prohibit) to what it is for.
    """
    try:
        address = ipaddress.ip_address(dst)
    except ValueError:
        return None
    main: Facts = {"priority": 32766, "table": 254, "action": "lookup"}
    rules = [rule for rule in root.facts.get("rules") or [] if rule.get("family") == address.version] or [main]
    for rule in sorted(rules, key=lambda rule: rule.get("priority") or 0):
        action = rule.get("action", "lookup")
        if action in ENDS and _applies(rule, address):
            return rule, {"type": action, "dst": rule.get("dst") or "default", "family": address.version}
        if action != "lookup" or not _applies(rule, address):
            continue
        route = _longest(root, address, rule.get("table") or 254)
        if route is None or route.get("type") == "throw":
            continue
        suppress = rule.get("suppress_prefix")
        if suppress is not None and _network(route).prefixlen <= suppress:
            continue
        return rule, route
    return None


def _applies(rule: Facts, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether a rule takes a packet to this address that no socket has marked or bound to a source."""
    if any(rule.get(key) for key in ("iif", "oif", "uid_range", "ip_proto", "sport", "dport")):
        return False
    if rule.get("fwmark"):
        return bool(rule.get("invert"))
    if rule.get("src"):
        return False
    inside = not rule.get("dst") or address in ipaddress.ip_network(rule["dst"], strict=False)
    return inside is not bool(rule.get("invert"))


def _network(route: Facts) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    if route["dst"] == "default":
        return ipaddress.ip_network("0.0.0.0/0" if route.get("family") == 4 else "::/0")
    return ipaddress.ip_network(route["dst"], strict=False)


def _longest(root: Namespace, address: ipaddress.IPv4Address | ipaddress.IPv6Address, table: int) -> Facts | None:
    routes = [
        route
        for route in root.facts.get("routes") or []
        if route.get("table") == table and route.get("family") == address.version and address in _network(route)
    ]
    return max(routes, key=lambda route: (_network(route).prefixlen, -(route.get("metric") or 0)), default=None)


def _rule_words(rule: Facts | None) -> str | None:
    """A rule as `ip rule` prints it; None for the three every host has."""
    if not rule or rule.get("table") in COMMON_TABLES:
        return None
    words = [f"{rule.get('priority')}:", "not" if rule.get("invert") else ""]
    words += ["from", rule.get("src") or "all"]
    words += ["to", rule["dst"]] if rule.get("dst") else []
    words += ["fwmark", hex(rule["fwmark"])] if rule.get("fwmark") else []
    return " ".join(word for word in [*words, "lookup", str(rule.get("table"))] if word)

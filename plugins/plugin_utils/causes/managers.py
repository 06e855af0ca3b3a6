# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""System managers that change interfaces, routes and rules which are not theirs."""

from __future__ import annotations

import typing as t
from collections import Counter

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    LIKELY,
    POSSIBLE,
    Case,
    Cause,
    Evidence,
    Facts,
    Finding,
    Remedy,
    pair_ids,
    severity_of,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.deltas import link_counter, rise
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies import roles

OWN_RULES = (0, 32766, 32767)  # the kernel's rules: local, main, default
OWN_TABLES = (0, 254, 255, "main", "local", None)
OWN_PROTOCOLS = ("kernel", "boot", "static", "dhcp", "ra", "redirect", None)
DRIVEN = ("vxlan", "veth", "ipip", "geneve", "wireguard")  # kinds of links that container networks make
HANDS_OFF = ("unmanaged", "(externally)")


def _manager(facts: HostFacts, name: str) -> Facts:
    """A running system manager's settings, empty where it does not run."""
    rows = (facts.facts.get("host") or {}).get("managers") or []
    return next((row.get("config") or {} for row in rows if row.get("name") == name and row.get("running")), {})


# ---- systemd-networkd


def decide_networkd(case: Case) -> t.Iterator[Finding]:
    """Rules and routes of a container network that every other host has, missing where networkd may remove them."""
    hosts = [h for h in case.fleet.answering if h.readings and h.has_engine and h.facts.root.facts.get("rules")]
    if len(hosts) < 3 or not any(_manager(host.facts, "systemd-networkd") for host in hosts):
        return
    rules = {host.name: _anywhere(host, _rules) for host in hosts}
    made = {host.name: _anywhere(host, _routes) for host in hosts}
    routes = {host.name: made[host.name] | _local_subnets(host) for host in hosts}
    foreign = set().union(*made.values())
    having_rule = Counter(rule for rows in rules.values() for rule in rows)
    having_route = Counter(route for rows in routes.values() for route in rows)
    for host in hosts:
        config = _manager(host.facts, "systemd-networkd")
        missing: list[str] = []
        if config.get("manage_foreign_rules"):
            missing += [
                r for r in sorted(having_rule) if r not in rules[host.name] and having_rule[r] == len(hosts) - 1
            ]
        if config.get("manage_foreign_routes"):
            absent = sorted(foreign - routes[host.name])
            missing += [route for route in absent if having_route[route] == len(hosts) - 1]
        if missing:
            yield _flushed(case, host, missing, config.get("foreign_log") or 0)


def _rules(facts: HostFacts) -> set[str]:
    """Policy rules that are not the kernel's, without the addresses that differ from host to host."""
    found = set()
    for rule in facts.root.facts.get("rules") or []:
        if rule.get("priority") in OWN_RULES:
            continue
        mark = f" fwmark {rule['fwmark']:#x}" if isinstance(rule.get("fwmark"), int) else ""
        what = f" lookup {rule['table']}" if rule.get("action") == "lookup" else f" {rule.get('action')}"
        found.add(f"ip rule {rule.get('priority')}{' from …' if rule.get('src') else ''}{mark}{what}")
    return found


def _routes(facts: HostFacts) -> set[str]:
    """Destinations of routes that nobody but a routing daemon or container network makes."""
    return {
        str(route["dst"])
        for route in facts.root.facts.get("routes") or []
        if route.get("family") == 4 and route.get("dst") != "default" and _foreign(route)
    }


def _foreign(route: Facts) -> bool:
    """Through a gateway or a tunnel, and not configured the way an administrator or a lease does it."""
    by_hand = (
        route.get("table") in OWN_TABLES
        and route.get("protocol") in OWN_PROTOCOLS
        and "onlink" not in (route.get("flags") or [])
    )
    return not by_hand and route.get("type") == "unicast" and route.get("table") != 255


def _anywhere(host: Host, read: t.Callable[[HostFacts], set[str]]) -> set[str]:
    return set().union(*(read(reading) for reading in host.readings))


def _local_subnets(host: Host) -> set[str]:
    return {str(route["dst"]) for route in host.latest.root.facts.get("routes") or [] if route.get("scope") == "link"}


def _flushed(case: Case, host: Host, missing: list[str], logged: int) -> Finding:
    # Which packets need a rule cannot be told from here: what is broken at this host and nowhere else may be due to it.
    elsewhere = [o for o in case.broken if host.name not in o.pair.hosts]
    broken = [o for o in case.broken if host.name in o.pair.hosts and o.pair.kind != "host"] if not elsewhere else []
    broken = broken if logged else []
    words = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
    log = f"; networkd says {logged} times that it removed foreign ones" if logged else ""
    return Finding(
        cause="networkd-foreign-flush",
        severity=severity_of(broken),
        confidence=LIKELY if logged else POSSIBLE,
        hosts=[host.name],
        segment="host-stack",
        summary=f"{host.name} lacks what every other host has ({words}), and systemd-networkd there removes routes and "
        f"rules it did not make{log}",
        evidence=[
            Evidence(
                host.name,
                "policy rules and routes",
                f"missing: {words}",
                "as on every other host",
                "ip rule; ip route show table all",
            ),
            Evidence(
                host.name,
                "networkd.conf: ManageForeignRoutes, ManageForeignRoutingPolicyRules",
                "yes (the default)",
                "no, where a container network makes routes",
                "networkctl --version; cat /etc/systemd/networkd.conf /etc/systemd/networkd.conf.d/*",
            ),
        ],
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (
                    (
                        "/etc/systemd/networkd.conf.d/50-foreign.conf: [Network] ManageForeignRoutes=no "
                        "ManageForeignRoutingPolicyRules=no"
                    ),
                    "restart the container network's agent, which makes them anew",
                ),
                "Restarting networkd itself removes them once more: do that first, the agent last.",
            )
        ],
    )


# ---- NetworkManager


def decide_network_manager(case: Case) -> t.Iterator[Finding]:
    """Links of a container network that NetworkManager takes for its own."""
    for host in case.fleet.answering:
        seized: dict[str, str] = {}
        for name, state in (_manager(host.facts, "NetworkManager").get("devices") or {}).items():
            link = host.latest.root.link(name)
            if link is None or link.get("kind") not in DRIVEN or any(word in state for word in HANDS_OFF):
                continue
            if link["kind"] != "veth" or not _has_address(host, link):  # a veth with an address is a host's own NIC
                seized[name] = state
        if not seized:
            continue
        down = [n for n in seized if all(not (r.root.link(n) or {}).get("up", False) for r in host.readings)]
        broken = [o for o in case.broken if down and _through_containers(o, host.name)]
        words = ", ".join(f"{name} ({state})" for name, state in sorted(seized.items())[:4])
        yield Finding(
            cause="nm-managed-cni",
            severity=severity_of(broken),
            confidence=LIKELY if broken else POSSIBLE,
            hosts=[host.name],
            segment="host-stack",
            summary=f"NetworkManager on {host.name} manages links of a container network: {words}"
            + (f"; {', '.join(down)} is down" if down else ""),
            evidence=[
                Evidence(
                    host.name,
                    f"NetworkManager's device {name}",
                    state + ("; the link is down" if name in down else ""),
                    "unmanaged",
                    "nmcli -t -f DEVICE,STATE device",
                )
                for name, state in sorted(seized.items())[:6]
            ],
            explains=pair_ids(broken),
            remedies=[
                roles.nm_unmanaged(host, seized).remedy(
                    "cure",
                    (
                        (
                            "/etc/NetworkManager/conf.d/50-containers.conf: [keyfile] unmanaged-devices="
                            + ";".join(f"interface-name:{name}" for name in sorted(seized)[:4])
                        ),
                        "nmcli general reload   # not a restart",
                    ),
                    "None for links that NetworkManager did not configure itself.",
                )
            ],
        )


def _has_address(host: Host, link: Facts) -> bool:
    return any(row["index"] == link["index"] and row["ip"] in host.facts.addresses for row in host.facts.root.addresses)


def _through_containers(observation: Observation, name: str) -> bool:
    return name in observation.pair.hosts and observation.pair.kind not in ("host", "local", "hairpin")


# ---- udev's MAC addresses


def decide_mac_rewrite(case: Case) -> t.Iterator[Finding]:
    """Tunnel devices in a host's own namespace whose MAC is not the one the other hosts send to."""
    told = {host.name: _told(host) for host in case.fleet.answering if host.latest.root.vxlan_links}
    for host in case.fleet.answering:
        for link in host.latest.root.vxlan_links:
            actual, key = link.get("mac"), (link["vxlan"].get("vni"), host.underlay_ip)
            stale = {
                name: macs
                for name, rows in told.items()
                if name != host.name and (macs := rows.get(key)) and actual and actual not in macs
            }
            if stale and {_mac(reading, link["name"]) for reading in host.readings} == {actual}:
                yield _rewritten(case, host, link, stale)


def _mac(facts: HostFacts, name: str) -> str | None:
    return (facts.root.link(name) or {}).get("mac")


def _told(host: Host) -> dict[tuple[int | None, str | None], set[str]]:
    """(VNI, VTEP) to the MACs that a host sends there, the same in every reading."""
    readings: list[dict[tuple[int | None, str | None], set[str]]] = []
    for reading in host.readings:
        found: dict[tuple[int | None, str | None], set[str]] = {}
        for link in reading.root.vxlan_links:
            for mac, dst in reading.root.fdb(link["index"]).items():
                if mac != "00:00:00:00:00:00":
                    found.setdefault((link["vxlan"].get("vni"), dst), set()).add(mac)
        readings.append(found)
    first, *rest = readings or [{}]
    return {key: macs.intersection(*(other.get(key, set()) for other in rest)) for key, macs in first.items()}


def _rewritten(case: Case, host: Host, link: Facts, stale: dict[str, set[str]]) -> Finding:
    broken = [o for o in case.broken if _through_containers(o, host.name) and set(o.pair.hosts) & set(stale)]
    broken = [o for o in broken if o.pair.kind not in ("overlay", "service", "mesh", "published")]
    moved = rise(host, host.facts.root.key, link_counter(link["index"], "rx_otherhost"))
    tied = moved is not None and moved.tied
    device, actual = link["name"], link.get("mac")
    senders = ", ".join(f"{name} to {'/'.join(sorted(macs))}" for name, macs in sorted(stale.items())[:3])
    evidence = [
        Evidence(
            name,
            f"forwarding entry of {device} for {host.underlay_ip}",
            ", ".join(sorted(macs)),
            str(actual),
            f"bridge fdb show dev {device}; ip neigh show dev {device}",
        )
        for name, macs in sorted(stale.items())
    ]
    evidence.append(Evidence(host.name, f"MAC of {device}", str(actual), None, f"ip -d link show dev {device}"))
    if moved is not None and moved.rose:
        evidence.append(Evidence(host.name, f"rx_otherhost of {device}", str(moved), "no rise"))
    return Finding(
        cause="mac-policy-rewrite",
        severity=severity_of(broken),
        confidence=CONFIRMED if tied and broken else LIKELY,
        hosts=[host.name],
        segment="vtep",
        summary=f"{device} of {host.name} has the MAC {actual}, but others send elsewhere ({senders}): the kernel "
        "drops what arrives",
        evidence=evidence,
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (
                    f"on {host.name}: restart the agent that made {device}, so that it announces the MAC it has",
                    "/etc/systemd/network/50-tunnel.link: [Match] OriginalName=flannel* [Link] MACAddressPolicy=none",
                ),
                "A short outage of this host's containers while the others learn.",
            )
        ],
    )


CAUSES = [
    Cause(
        "networkd-foreign-flush",
        "systemd-networkd removed routes or rules of a container network",
        "policy rules and routes that every other host has, networkd's ManageForeign settings, its log",
        "hosts without networkd; rules and routes that differ by design: only what all others have counts",
        decide_networkd,
        remedy="ManageForeignRoutes=no and ManageForeignRoutingPolicyRules=no, then restart the network's agent",
    ),
    Cause(
        "nm-managed-cni",
        "NetworkManager manages links of a container network",
        "NetworkManager's own list of devices, kinds and states of the host's links",
        "devices it only watches: unmanaged, or connected (externally)",
        decide_network_manager,
        remedy="declare them unmanaged in /etc/NetworkManager/conf.d and reload",
    ),
    Cause(
        "mac-policy-rewrite",
        "A tunnel device has another MAC than the one its peers send to",
        "MAC of VXLAN devices in the host's own namespace against the peers' forwarding entries, rx_otherhost",
        "Docker's overlays are immune: their devices live in namespaces of their own; both readings have to agree",
        decide_mac_rewrite,
        remedy="MACAddressPolicy=none for the tunnel devices, and restart the agent",
    ),
]

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Recommendations: nothing of this breaks anything today.

All of them are one finding, one row of evidence each, so that they never stand in the way of a fault.
"""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    INFO,
    Case,
    Cause,
    Evidence,
    Finding,
    Remedy,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import (
    INBOUND,
    Packet,
    path_fate,
    prepare,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host

Advice = tuple[Evidence, str]


def decide_posture(case: Case) -> t.Iterator[Finding]:
    """One finding with every recommendation of the fleet; none for somebody who asked about one path."""
    if (case.fleet.run.get("question") or {}).get("to"):
        return
    advice = [row for look in LOOKS for row in look(case)]
    if not advice:
        return
    hosts = sorted({evidence.host for evidence, _what in advice if evidence.host})
    steps = list(dict.fromkeys(what for _evidence, what in advice))
    topics = list(dict.fromkeys(evidence.source for evidence, _what in advice))
    yield Finding(
        cause="posture",
        severity=INFO,
        confidence=CONFIRMED,
        hosts=hosts,
        segment="engine",
        summary=f"{len(steps)} recommendation(s), nothing of it breaks anything now: {'; '.join(topics)}",
        evidence=[evidence for evidence, _what in advice],
        remedies=[Remedy("mitigation", tuple(steps), "See each step: none of them is urgent.")],
    )


def open_tunnel(case: Case) -> t.Iterator[Advice]:
    """Tunnel ports that accept from anybody: VXLAN is not authenticated (moby advisory GHSA-vwm3-crmr-xfxw)."""
    port = case.fleet.tunnel_port
    if not port:
        return
    for host in case.fleet.answering:
        if not host.underlay_ip or not case.filter_is_known(host.name) or not host.facts.root.filter:
            continue
        link = (host.underlay_link or {}).get("name")
        anybody = Packet.vxlan(None, host.underlay_ip, port, iif=link)
        if path_fate(prepare(host.facts.root.filter), anybody, INBOUND).verdict == "accept":
            yield (
                Evidence(
                    host.name,
                    "tunnel port open to every sender",
                    f"the packet filter accepts udp/{port} from any address",
                    "accepted from the nodes of the fleet only",
                    f"nft list ruleset | grep -w {port}; iptables-save | grep -w {port}",
                ),
                (
                    f"accept udp/{port} from the nodes' addresses only, in the tool that owns the packet filter "
                    "(or keep it closed in front of the hosts): whoever may send there can put frames into "
                    "unencrypted overlays"
                ),
            )


def open_engine(case: Case) -> t.Iterator[Advice]:
    """Engines that listen on TCP without asking for a client certificate."""
    for host in case.fleet.answering:
        config = host.facts.engine.get("daemon_config") or {}
        flags = host.facts.engine.get("daemon_flags") or {}
        settings = {**config, **flags}
        verified = str(settings.get("tlsverify", "")).lower() == "true"
        sockets = [str(name) for name in _listed(settings.get("hosts")) if str(name).startswith("tcp://")]
        if sockets and not verified:
            yield (
                Evidence(
                    host.name,
                    "engine socket without authentication",
                    ", ".join(sockets),
                    "unix socket only, or tlsverify",
                    "ss -ltnp | grep dockerd",
                ),
                "remove the tcp:// socket of the engine or set tlsverify: whoever reaches it is root on the host",
            )


def _listed(value: t.Any) -> list[t.Any]:
    return value if isinstance(value, list) else [value] if value else []


def even_managers(case: Case) -> t.Iterator[Advice]:
    """A quorum that loses with the first manager: two of them are worse than one."""
    managers = [node for node in case.fleet.swarm_nodes.values() if node.get("role") == "manager"]
    if len(managers) < 2 or len(managers) % 2:
        return
    need = len(managers) // 2 + 1
    names = ", ".join(sorted(str(node.get("hostname")) for node in managers))
    yield (
        Evidence(
            case.fleet.managers[0].name if case.fleet.managers else None,
            "even number of managers",
            f"{len(managers)} ({names})",
            "an odd number",
            "docker node ls",
        ),
        f"add or demote a manager: {len(managers)} need {need} for a quorum and survive no more losses than one fewer",
    )


def contradicted_at_boot(case: Case) -> t.Iterator[Advice]:
    """Forwarding that works now, and that a file will switch off with the next boot or `sysctl --system`."""
    for host in case.fleet.answering:
        persisted = (host.facts.facts.get("host") or {}).get("persisted_sysctls") or {}
        for key, row in sorted(persisted.items()):
            if not _forwards(key) or str(row.get("value")) != "0" or not _needed(case, host, key):
                continue
            yield (
                Evidence(
                    host.name,
                    f"{key} will be switched off",
                    f"{host.facts.root.sysctls.get(key)} now, 0 in {row.get('file')}",
                    "the same now and after the next boot",
                    f"sysctl {key}; grep -n forward {row.get('file')}",
                ),
                f"remove '{key} = 0' from {row.get('file')} on {host.name}, or set it to 1 in a file that sorts later",
            )


def _forwards(key: str) -> bool:
    return key == "net.ipv4.ip_forward" or (key.startswith("net.ipv4.conf.") and key.endswith(".forwarding"))


def _needed(case: Case, host: Host, key: str) -> bool:
    """It is on now, and containers here are routed: their bridges need it."""
    bridges = [n for n in case.fleet.networks.values() if n.driver == "bridge"]
    return host.facts.root.sysctls.get(key) == 1 and bool(bridges) and bool(host.facts.containers)


LOOKS = (open_tunnel, open_engine, even_managers, contradicted_at_boot)

CAUSES = [
    Cause(
        "posture",
        "Recommendations that break nothing today",
        (
            "the tunnel port's fate for an unknown sender, the engine's sockets, the number of managers, forwarding "
            "settings that files contradict"
        ),
        "information only, one finding for the fleet; what cannot be told for certain is not said",
        decide_posture,
        remedy="each recommendation says its own",
    ),
]

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""IP forwarding: what stops routed traffic on a host and leaves overlay traffic alone."""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    LIKELY,
    Case,
    Cause,
    Evidence,
    Finding,
    Remedy,
    pair_ids,
    severity_of,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.deltas import Rise, protocol_counter, rise
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies import roles

ROUTED = ("egress", "published", "hairpin")


def routed_pairs(case: Case, host: Host) -> list[Observation]:
    """Pairs whose packets this host forwards between a container bridge and its NIC."""
    found = []
    for observation in case.observations:
        src, dst = observation.pair.hosts
        kind = observation.pair.kind
        if (kind == "egress" and src == host.name) or (kind in ("published", "hairpin") and dst == host.name):
            found.append(observation)
    return found


def interfaces(host: Host, observations: list[Observation]) -> dict[str, list[Observation]]:
    """The interfaces that receive what has to be forwarded for these pairs: the container's bridge and the NIC."""
    found: dict[str, list[Observation]] = {}
    for observation in observations:
        container = observation.pair.src.container_id if observation.pair.src.host == host.name else None
        if observation.pair.dst.kind == "published-port":
            container = publisher(host.facts, observation) or container
        names = [gateway_bridge(host.facts, container), (host.underlay_link or {}).get("name")]
        for name in names:
            if name:
                found.setdefault(name, []).append(observation)
    return found


def publisher(facts: HostFacts, observation: Observation) -> str | None:
    """The container behind a published port."""
    port = observation.pair.probes[0].port
    for container in facts.containers:
        if any(row.get("host_port") == port for row in container.get("ports") or []):
            return container["id"]
    return None


def gateway_bridge(facts: HostFacts, container_id: str | None) -> str | None:
    """The host interface that is a container's default gateway."""
    container = next((c for c in facts.containers if c["id"] == container_id), None)
    namespace = facts.namespace(container.get("netns")) if container else None
    routes = (namespace.facts.get("routes") or []) if namespace else []
    gateway = next((route.get("gateway") for route in routes if route["dst"] == "default"), None)
    link = facts.root.link_of_address(gateway) if gateway else None
    return link["name"] if link else None


def _address_errors(host: Host) -> Rise | None:
    """Packets the kernel refused because it may not forward what arrives on that interface."""
    return rise(host, host.facts.root.key, protocol_counter("snmp", "Ip.InAddrErrors"))


def decide_global(case: Case) -> t.Iterator[Finding]:
    for host in case.fleet.answering:
        if host.latest.root.sysctls.get("net.ipv4.ip_forward") != 0:
            continue
        pairs = routed_pairs(case, host)
        if pairs:
            key = "net.ipv4.ip_forward"
            yield _finding(case, host, "ip-forward-zero", key, [o for o in pairs if o.broken], "every interface")


def decide_interface(case: Case) -> t.Iterator[Finding]:
    for host in case.fleet.answering:
        sysctls = host.latest.root.sysctls
        if sysctls.get("net.ipv4.ip_forward") == 0:
            continue
        for name, pairs in interfaces(host, routed_pairs(case, host)).items():
            key = f"net.ipv4.conf.{name.replace('.', '/')}.forwarding"
            if sysctls.get(key) == 0:
                yield _finding(case, host, "if-forwarding-off", key, [o for o in pairs if o.broken], name)


def forwards_instead(case: Case, finding: Finding) -> str | None:
    """The hosts that forward a finding's routed pairs do forward, on every interface of the path."""
    explained = set(finding.explains)
    tested = []
    for host in case.fleet.answering:
        pairs = [o for o in routed_pairs(case, host) if o.pair.id in explained]
        sysctls = host.latest.root.sysctls
        if not pairs or "net.ipv4.ip_forward" not in sysctls:
            continue
        keys = ["net.ipv4.ip_forward"]
        keys += [f"net.ipv4.conf.{name.replace('.', '/')}.forwarding" for name in interfaces(host, pairs)]
        if any(sysctls.get(key) == 0 for key in keys):
            return None
        tested.append(host.name)
    return f"{', '.join(tested)} forwards on every interface of the path" if tested else None


def _finding(case: Case, host: Host, cause: str, key: str, broken: list[Observation], scope: str) -> Finding:
    moved = _address_errors(host)
    evidence = [
        Evidence(
            host.name, f"sysctl {key}", "0", "1 on every interface a container's traffic arrives on", f"sysctl {key}"
        )
    ]
    if moved is not None:
        evidence.append(
            Evidence(
                host.name,
                "/proc/net/snmp Ip: InAddrErrors",
                str(moved),
                "no rise with the probes",
                "nstat -az IpInAddrErrors",
            )
        )
    kinds = sorted({{"egress": "containers to the outside"}.get(o.pair.kind, "published ports") for o in broken})
    return Finding(
        cause=cause,
        severity=severity_of(broken),
        confidence=CONFIRMED if broken and moved is not None and moved.tied else LIKELY,
        hosts=[host.name],
        segment="host-stack",
        summary=f"{host.name} does not forward what arrives on {scope} ({key} = 0)"
        + (f": {' and '.join(kinds)} fail, {len(broken)} pair(s)" if broken else ""),
        evidence=evidence,
        explains=pair_ids(broken),
        remedies=[_remedy(host, cause, key, scope)],
    )


def _remedy(host: Host, cause: str, key: str, interface: str) -> Remedy:
    if cause == "if-forwarding-off":
        return roles.ip_forwarding(host, interface).remedy(
            "cure",
            (
                f"on {host.name}: sysctl -w {key}=1",
                (
                    f"lasting: '{key} = 1' in a file of /etc/sysctl.d that sorts last, or IPv4Forwarding=yes in the "
                    "interface's systemd-networkd file"
                ),
            ),
            "Only this interface starts to forward. Do not toggle net.ipv4.ip_forward: that rewrites every interface.",
        )
    return roles.ip_forwarding(host, None).remedy(
        "cure",
        (
            f"on {host.name}: sysctl -w net.ipv4.ip_forward=1",
            (
                "lasting: 'net.ipv4.ip_forward = 1' in a file of /etc/sysctl.d that sorts last; remove the hardening "
                "line that sets it to 0"
            ),
        ),
        "Every interface of the host becomes a router's: check that the FORWARD chains refuse what should not pass.",
    )


CAUSES = [
    Cause(
        "ip-forward-zero",
        "IP forwarding is off for the whole host",
        "net.ipv4.ip_forward, Ip InAddrErrors around the probes, egress and published-port pairs",
        "overlay traffic between hosts does not suffer; a host without routed containers needs none",
        decide_global,
        remedy="net.ipv4.ip_forward = 1, at runtime and in a file of /etc/sysctl.d that sorts last",
        rules_out=forwards_instead,
    ),
    Cause(
        "if-forwarding-off",
        "IP forwarding is off on one interface",
        "net.ipv4.conf.<interface>.forwarding of the interfaces on the path, Ip InAddrErrors around the probes",
        "conf.all.forwarding still reads 1; lo and interfaces off the path may be 0",
        decide_interface,
        remedy="forwarding = 1 on that one interface; never toggle ip_forward, which rewrites them all",
    ),
]

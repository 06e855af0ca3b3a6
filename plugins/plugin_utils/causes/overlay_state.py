# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The overlay's own state in the kernel: devices, bridge ports, forwarding and neighbour entries.

What an entry should say comes from the fleet: an endpoint lives on the host whose engine runs it, and its VTEP is
any address of that host.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    AFTERMATH,
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
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import Facts, HostFacts, Namespace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Endpoint, Host, Network
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies import roles

OVERLAY_KINDS = ("overlay", "local", "service")


@dataclass(frozen=True)
class Entry:
    """A forwarding or neighbour entry that differs from where the endpoint is."""

    kind: str  # fdb | neighbour
    endpoint: Endpoint
    device: str
    namespace: str
    observed: str | None
    expected: str


def overlays(case: Case, host: Host, facts: HostFacts) -> t.Iterator[tuple[Network, Namespace]]:
    for namespace in facts.namespaces:
        network = case.fleet.networks.get(namespace.network_id or "")
        if network is not None and network.is_overlay and namespace.vxlan_links:
            yield network, namespace


def entries(case: Case, host: Host, facts: HostFacts, missing: bool) -> list[Entry]:
    """Entries of one host that are wrong (or, with C(missing), absent) against the fleet's truth."""
    found: list[Entry] = []
    for network, namespace in overlays(case, host, facts):
        for endpoint in case.fleet.endpoints_by_network.get(network.id) or []:
            owner = case.host(endpoint.host)
            if owner is host or not owner.answered or not endpoint.mac:
                continue
            known = owner.facts.addresses | ({owner.underlay_ip} if owner.underlay_ip else set())
            for link in namespace.vxlan_links:
                found += _compare(endpoint, link, namespace, known, missing, owner.underlay_ip or "")
    return found


def _compare(
    endpoint: Endpoint, link: Facts, namespace: Namespace, known: set[str], missing: bool, vtep: str
) -> t.Iterator[Entry]:
    path = namespace.facts.get("path") or ""
    dst = namespace.fdb(link["index"]).get(endpoint.mac)
    mac = (namespace.neighbours(link["index"]).get(endpoint.ip) or (None, ""))[0]
    if dst not in known and (dst is None) == missing:
        yield Entry("fdb", endpoint, link["name"], path, dst, vtep)
    if mac != endpoint.mac and (mac is None) == missing:
        yield Entry("neighbour", endpoint, link["name"], path, mac, endpoint.mac)


def lasting(case: Case, host: Host, missing: bool) -> list[Entry]:
    """Entries that say the same in every reading of this host: what is in flux is not a fault."""
    found = [set(entries(case, host, facts, missing)) for facts in host.readings]
    return sorted(set.intersection(*found), key=lambda e: (e.endpoint.ip, e.kind)) if found else []


def decide_wrong(case: Case) -> t.Iterator[Finding]:
    """Forwarding or neighbour entries that point where the endpoint is not."""
    for host in case.fleet.answering:
        groups: dict[str, list[Entry]] = {}
        for entry in lasting(case, host, missing=False):
            groups.setdefault(entry.endpoint.network_id, []).append(entry)
        for network_id, group in groups.items():
            finding = _entry_finding(case, host, case.fleet.networks[network_id], group, "overlay-entry-wrong")
            if finding is not None:
                yield finding


def decide_missing(case: Case) -> t.Iterator[Finding]:
    """Entries that are absent, where a pair that needs them is broken and nothing else explains it."""
    open_ids = {o.pair.id for o in case.unexplained}
    for host in case.fleet.answering:
        groups: dict[str, list[Entry]] = {}
        for entry in lasting(case, host, missing=True):
            if any(o.pair.id in open_ids for o in _needing(case, host, entry)):
                groups.setdefault(entry.endpoint.network_id, []).append(entry)
        for network_id, group in groups.items():
            finding = _entry_finding(case, host, case.fleet.networks[network_id], group, "overlay-entry-missing")
            if finding is not None and finding.explains:
                yield finding


def _needing(case: Case, host: Host, entry: Entry) -> list[Observation]:
    """Pairs whose packets this host sends to the entry's endpoint, asking or answering."""
    target = (entry.endpoint.host, entry.endpoint.ip)
    return [
        o
        for o in case.observations
        if o.pair.network_id == entry.endpoint.network_id
        and o.pair.kind == "overlay"
        and (
            (o.pair.src.host == host.name and (o.pair.dst.host, o.pair.dst.ip) == target)
            or (o.pair.dst.host == host.name and (o.pair.src.host, o.pair.src.ip) == target)
        )
    ]


def _entry_finding(case: Case, host: Host, network: Network, group: list[Entry], cause: str) -> Finding | None:
    needing = [o for entry in group for o in _needing(case, host, entry)]
    if any(entry.kind == "fdb" and entry.observed in host.facts.addresses for entry in group):
        # The frames come back to their own host, whose bridge then learns every address on the wrong port.
        needing = [o for o in case.observations if o.pair.network_id == network.id and host.name in o.pair.hosts]
    broken = [o for o in needing if o.broken]
    if needing and not broken:
        return None  # the traffic arrives: the fleet's idea of the address is what is wrong, not the kernel's
    first = group[0]
    names = ", ".join(sorted({entry.endpoint.container for entry in group}))
    word = "points" if cause == "overlay-entry-wrong" else "is absent,"
    return Finding(
        cause=cause,
        severity=severity_of(broken),
        confidence=LIKELY,
        hosts=[host.name],
        segment="vtep",
        direction="out",
        network=network.name,
        summary=f"{host.name}'s {first.kind} entry for {names} on {network.name} {word} "
        f"{'to ' + first.observed if first.observed else 'although the endpoint is up'}; "
        f"{first.endpoint.container} is on {first.endpoint.host} ({first.expected})",
        evidence=[_entry_evidence(host, entry) for entry in group[:6]],
        explains=pair_ids(broken),
        remedies=[_entry_remedy(case, host, group)],
    )


def _entry_evidence(host: Host, entry: Entry) -> Evidence:
    inside = f"nsenter --net={entry.namespace} " if entry.namespace else ""
    if entry.kind == "fdb":
        return Evidence(
            host.name,
            f"bridge FDB of {entry.device}, {entry.endpoint.mac} ({entry.endpoint.container})",
            f"dst {entry.observed}" if entry.observed else "no entry",
            f"dst {entry.expected}",
            f"{inside}bridge fdb show dev {entry.device} | grep {entry.endpoint.mac}",
        )
    return Evidence(
        host.name,
        f"neighbour {entry.endpoint.ip} on {entry.device} ({entry.endpoint.container})",
        entry.observed or "no entry",
        entry.expected,
        f"{inside}ip neigh show {entry.endpoint.ip} dev {entry.device}",
    )


def _entry_remedy(case: Case, host: Host, group: list[Entry]) -> Remedy:
    steps = []
    for entry in group[:4]:
        inside = f"nsenter --net={entry.namespace} " if entry.namespace else ""
        if entry.kind == "fdb":
            steps.append(
                f"on {host.name}: {inside}bridge fdb replace {entry.endpoint.mac} dev {entry.device} "
                f"dst {entry.expected} self permanent"
            )
        else:
            steps.append(
                f"on {host.name}: {inside}ip neigh replace {entry.endpoint.ip} lladdr {entry.expected} "
                f"dev {entry.device} nud permanent"
            )
    steps.append("lasting: update the engine (moby pull requests 50236 and 53663), or recreate the endpoint")
    risk = "An entry set by hand vanishes with the engine's next event for this endpoint."
    return roles.overlay_entries(host, _right_entries(case, host, group)).remedy("cure", steps, risk)


def _right_entries(case: Case, host: Host, group: list[Entry]) -> list[Facts]:
    """What each endpoint's entries should be; the address only where the neighbour entry is wrong too."""
    found: dict[Endpoint, Facts] = {}
    for entry in group:
        endpoint = entry.endpoint
        row = found.setdefault(
            endpoint,
            {
                "network": endpoint.network_id,
                "mac": endpoint.mac,
                "ip": None,
                "vtep": _standing(case, host, endpoint) or case.host(endpoint.host).underlay_ip,
            },
        )
        if entry.kind == "fdb":
            row["vtep"] = entry.expected
        else:
            row["ip"] = endpoint.ip
    return list(found.values())


def _standing(case: Case, host: Host, endpoint: Endpoint) -> str | None:
    """The address of the endpoint's host that the kernel forwards to, if it does: any of its addresses is right."""
    owner = case.host(endpoint.host)
    namespace = host.latest.overlay_namespace(endpoint.network_id)
    known = [namespace.fdb(link["index"]).get(endpoint.mac) for link in namespace.vxlan_links] if namespace else []
    return next((dst for dst in known if dst and (dst in owner.facts.addresses or dst == owner.underlay_ip)), None)


def decide_vtep_down(case: Case) -> t.Iterator[Finding]:
    """Devices of an overlay namespace that are down or detached."""
    for host in case.fleet.answering:
        for network, namespace in overlays(case, host, host.latest):
            if not case.endpoints_of(network.id, host.name):
                continue
            faults = list(_device_faults(case, host, network, namespace))
            if faults:
                yield _device_finding(case, host, network, faults)


def _device_faults(
    case: Case, host: Host, network: Network, namespace: Namespace
) -> t.Iterator[tuple[Evidence, Endpoint | None]]:
    path = namespace.facts.get("path") or ""
    inside = f"nsenter --net={path} " if path else ""
    bridges = {link["index"]: link for link in namespace.links if link.get("kind") == "bridge"}
    for link in [*namespace.vxlan_links, *bridges.values()]:
        if not link.get("up"):
            yield (
                Evidence(
                    host.name,
                    f"link {link['name']} in the overlay namespace of {network.name}",
                    "down",
                    "up",
                    f"{inside}ip link show dev {link['name']}",
                ),
                None,
            )
        elif link["index"] not in bridges and link.get("master") not in bridges:
            yield (
                Evidence(
                    host.name,
                    f"link {link['name']} in the overlay namespace of {network.name}",
                    "not a port of the bridge",
                    "a port of the bridge",
                    f"{inside}bridge link show dev {link['name']}",
                ),
                None,
            )
    for endpoint in case.endpoints_of(network.id, host.name):
        container = case.fleet.container_namespace(endpoint)
        inner = container.link_of_address(endpoint.ip) if container else None
        if inner is None or inner.get("link") is None:
            continue
        port = namespace.link_by_index.get(inner["link"])
        if port is None:
            continue
        state = _port_state(port, inner, bridges)
        if state:
            yield (
                Evidence(
                    host.name,
                    f"port {port['name']} of {endpoint.container} in the overlay namespace of {network.name}",
                    state,
                    "up, and a port of the bridge",
                    f"{inside}ip link show dev {port['name']}",
                ),
                endpoint,
            )


def _port_state(port: Facts, inner: Facts, bridges: t.Container[int]) -> str | None:
    if not port.get("up"):
        return "down"
    if port.get("master") not in bridges:
        return "not a port of the bridge"
    if not inner.get("up"):
        return f"without carrier: {inner['name']} in the container is down"
    return None


def _device_finding(
    case: Case, host: Host, network: Network, faults: list[tuple[Evidence, Endpoint | None]]
) -> Finding:
    """One finding for all devices of one network on one host; a shared device cuts off every endpoint there."""
    cut = {endpoint.ip for _fault, endpoint in faults if endpoint is not None}
    shared = any(endpoint is None for _fault, endpoint in faults)
    broken = [
        o
        for o in case.touching(host.name)
        if o.pair.network_id == network.id
        and o.pair.kind in OVERLAY_KINDS
        and (shared or cut & {o.pair.src.ip, o.pair.dst.ip})
    ]
    first, endpoint = faults[0]
    scope = network.name if endpoint is None else f"{endpoint.container} on {network.name}"
    steps = [
        f"on {host.name}: {fault.verify.replace('show dev', 'set up dev')}"
        for fault, _endpoint in faults
        if fault.verify
    ]
    return Finding(
        cause="vtep-down",
        severity=severity_of(broken),
        confidence=CONFIRMED if broken else LIKELY,
        hosts=[host.name],
        segment="vtep",
        direction="both",
        network=network.name,
        summary=f"{scope} is cut off on {host.name}: {first.source} is {first.observed}",
        evidence=[fault for fault, _endpoint in faults],
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (*steps, "lasting: recreate the endpoint (docker network disconnect, connect), or restart the engine"),
                "None for the link; recreating an endpoint interrupts that container.",
            )
        ],
    )


CAUSES = [
    Cause(
        "vtep-down",
        "A device of the overlay namespace is down or detached",
        "links and bridge ports of every overlay namespace",
        "a network without endpoints on a host has no device there",
        decide_vtep_down,
        remedy="set the device up or put the port back; else recreate the endpoint",
    ),
    Cause(
        "overlay-entry-wrong",
        "A forwarding or neighbour entry points where the endpoint is not",
        "FDB and neighbours of every VXLAN device against the endpoints every engine runs",
        "a task being rescheduled: read twice; an engine heals missing entries by itself, wrong ones stay",
        decide_wrong,
        remedy="replace the entry by what the endpoint's own host says; update the engine, or recreate the endpoint",
    ),
    Cause(
        "overlay-entry-missing",
        "A forwarding or neighbour entry is absent",
        "FDB and neighbours of every VXLAN device against the endpoints every engine runs",
        "gossip that is cut withdraws entries: then gossip is the cause",
        decide_missing,
        stage=AFTERMATH,
        remedy="add both entries, neighbour and FDB; update the engine, or recreate the endpoint",
    ),
]

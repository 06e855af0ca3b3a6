# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""MTUs as state shows them: interfaces, networks and options that do not fit one another.

Everything is compared with what the hosts' own NICs take; no number is expected of itself. What a smaller MTU on the
path beyond the NICs does cannot be seen here. Small packets pass all of these faults, so the probes seldom break:
what will hang large transfers is a warning, what only wastes bytes is information.
"""

from __future__ import annotations

import ipaddress
import re
import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    CRITICAL,
    INFO,
    LIKELY,
    POSSIBLE,
    WARNING,
    Case,
    Cause,
    Evidence,
    Facts,
    Finding,
    Remedy,
    pair_ids,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host, Network
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies import roles

VXLAN_OVERHEAD = {4: 50, 6: 70}  # inner Ethernet 14, VXLAN 8, UDP 8, and the outer IP header
ESP_OVERHEAD = 26  # what moby subtracts for an encrypted network, rounded down to a multiple of four
DEFAULT_BRIDGE = "docker0"
MTU_OPTION = "com.docker.network.driver.mtu"
BRIDGED_PMTU = (5, 9)  # since this kernel a tunnel under a bridge tells the sender of a path MTU


def links_of(container: str | None) -> str:
    """How a person reads a container's MTUs: with the host's own tool, whatever the container holds."""
    return f"nsenter -t $(docker inspect -f '{{{{.State.Pid}}}}' {container}) -n ip link"


def overhead(network: Network, underlay_ip: str | None) -> int:
    """Bytes the tunnel adds to what a container sends."""
    version = ipaddress.ip_address(underlay_ip.split("%")[0]).version if underlay_ip else 4
    return VXLAN_OVERHEAD[version] + (ESP_OVERHEAD if "encrypted" in network.options else 0)


def inside(network: Network, underlay_ip: str | None, limit: int) -> int:
    """The largest packet of a container that an underlay of this MTU takes in the tunnel, as the engine rounds it."""
    inner = limit - overhead(network, underlay_ip)
    return inner // 4 * 4 if "encrypted" in network.options else inner


class Fit(t.NamedTuple):
    """What the containers of a network on one host may send through the tunnel, and what the host's NIC takes."""

    host: Host
    network: Network
    container: str
    inner: int
    needed: int
    nic: str
    nic_mtu: int


def tunnel_nic(case: Case, host: Host) -> Facts | None:
    """The link that tunnel packets leave by: as the kernel itself answers for the other VTEPs, else the underlay's."""
    root = host.latest.root
    peers = {other.underlay_ip for other in case.fleet.answering if other is not host}
    rows = [row for row in root.facts.get("paths") or [] if row.get("dst") in peers and not row.get("error")]
    links = [link for index in {row.get("oif") or -1 for row in rows} if (link := root.link_by_index.get(index))]
    links = [link for link in links if link.get("mtu") and link["name"] != "lo"]
    if links:
        return min(links, key=lambda link: (link["mtu"], link["name"]))
    link = host.latest.root.link_of_address(host.underlay_ip) if host.underlay_ip else None
    return link if link and link.get("mtu") else None


def fits(case: Case, network: Network) -> list[Fit]:
    """One row for each host that runs containers of an overlay network: its largest sender."""
    found = []
    for host in case.fleet.answering:
        nic = tunnel_nic(case, host)
        senders = []
        for endpoint in case.endpoints_of(network.id, host.name) if nic else []:
            namespace = host.latest.namespace(endpoint.netns)
            link = namespace.link_of_address(endpoint.ip) if namespace else None
            if link and link.get("mtu"):
                senders.append((link["mtu"], endpoint.container))
        if nic and senders:
            inner, name = max(senders)
            needed = inner + overhead(network, host.underlay_ip)
            found.append(Fit(host, network, name, inner, needed, nic["name"], nic["mtu"]))
    return found


def overlays(case: Case) -> list[Network]:
    return [network for network in case.fleet.networks.values() if network.is_overlay and not network.ingress]


def too_large(case: Case) -> dict[str, list[Fit]]:
    """host -> the networks on it whose packets its own NIC does not take."""
    found: dict[str, list[Fit]] = {}
    for network in overlays(case):
        for fit in fits(case, network):
            if fit.needed > fit.nic_mtu:
                found.setdefault(fit.host.name, []).append(fit)
    return found


def decide_local_nic(case: Case) -> t.Iterator[Finding]:
    """Overlays whose largest packets do not fit the NIC they leave by."""
    wrong = too_large(case)
    everybody = {fit.host.name for network in overlays(case) for fit in fits(case, network)}
    groups = [sorted(wrong)] if len(wrong) > 1 and set(wrong) == everybody else [[name] for name in sorted(wrong)]
    for names in groups:
        yield _local_nic(case, names, everybody, [fit for name in names for fit in wrong[name]])


def _severity(case: Case, names: list[str], everybody: set[str], heals: bool) -> str:
    """Of an MTU that no probe failed on: one host unlike the others is a mistake, all alike are an environment.

    Clouds whose networks take less than 1500 bytes run whole fleets like that, and the kernel tells the senders.
    """
    lossy = any(_lossy(o) and set(names) & set(o.pair.hosts) for o in case.observations)
    return INFO if heals and not lossy and everybody <= set(names) and len(everybody) > 1 else WARNING


def _lossy(observation: Observation) -> bool:
    """It lost something small; that a full-sized echo is too big is no loss."""
    if observation.verdict() != "degraded":
        return False
    rounds = [observation.layers(label) for label in observation.rounds]
    return any(key != "mtu" and state in ("degraded", "failed") for states in rounds for key, state in states.items())


def _local_nic(case: Case, names: list[str], everybody: set[str], rows: list[Fit]) -> Finding:
    worst = max(rows, key=lambda fit: fit.needed - fit.nic_mtu)
    networks = sorted({fit.network.name for fit in rows})
    broken = [o for o in case.broken if _stalls(o, {fit.network.id for fit in rows}, set(names))]
    heals = all(_kernel(fit.host) >= BRIDGED_PMTU for fit in rows)
    words = "the first large packets of a connection are lost" if heals else "large packets are lost"
    evidence = []
    for fit in rows[:4]:
        evidence.append(
            Evidence(
                fit.host.name,
                f"MTU of {fit.container} on {fit.network.name}",
                f"{fit.inner}, in the tunnel {fit.needed}",
                f"at most {fit.nic_mtu}, the MTU of {fit.nic}",
                f"ip -br link show {fit.nic}; {links_of(fit.container)}",
            )
        )
    evidence += _icmp_evidence(case, names)
    measured = _measured(case, rows)
    evidence += measured[:2]
    if broken:
        evidence.append(_stall_evidence(broken))
    for name in names:
        for bridge, mtu, nic in wide_bridges(case.host(name))[:2]:
            observed, expected = f"MTU {mtu}", f"at most {nic['mtu']}, the MTU of {nic['name']}"
            evidence.append(Evidence(name, f"containers behind {bridge}", observed, expected, f"ip link show {bridge}"))
    return Finding(
        cause="overlay-mtu-gt-local-nic",
        severity=CRITICAL if broken else _severity(case, names, everybody, heals),
        confidence=CONFIRMED if measured else (LIKELY if broken or not heals else POSSIBLE),
        hosts=names,
        segment="host-stack",
        direction="both",
        network=networks[0] if len(networks) == 1 else None,
        summary=f"{', '.join(networks)} sends up to {worst.needed} bytes through {worst.nic} of {', '.join(names)}, "
        f"which takes {worst.nic_mtu}: {words}" + (f", {len(broken)} pair(s) fail" if broken else ""),
        evidence=evidence,
        explains=pair_ids(broken),
        remedies=_mtu_remedies(case, worst, rows),
    )


def _kernel(host: Host) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", (host.facts.facts.get("host") or {}).get("kernel") or "")
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _stalls(observation: Observation, networks: set[str], hosts: set[str]) -> bool:
    """Small packets pass and a page never comes: an overlay pair of these hosts that fails as large packets do."""
    pair = observation.pair
    if pair.kind != "overlay" or pair.network_id not in networks or not hosts & set(pair.hosts):
        return False
    states = observation.layers()
    small = [state for key, state in states.items() if key.split(":")[0] in ("icmp", "tcp")]
    return (
        "ok" in small
        and bool(observation.failed_layers())
        and all(key.split(":")[0] in ("http", "mtu") for key in observation.failed_layers())
    )


def _measured(case: Case, rows: list[Fit]) -> list[Evidence]:
    """Full-sized packets of these containers that are too big by just what the tunnel adds beyond the NIC's MTU."""
    found = []
    for fit in rows:
        most = fit.nic_mtu - (fit.needed - fit.inner)
        for observation in case.observations:
            pair = observation.pair
            if pair.kind != "overlay" or pair.network_id != fit.network.id or pair.src.host != fit.host.name:
                continue
            error = (observation.results.get("mtu") or {}).get("icmp_error") or {}
            row = case.mtu(pair.id) or {}
            if row.get("path_mtu") == most and row.get("exact"):
                words = f"{most} of {row['tried']} bytes pass, {row['verdict']}"
                found.append(Evidence(fit.host.name, f"mtu_probe {pair.id}", words, f"{row['tried']}"))
            elif error.get("mtu") == most:
                words = f"too big, {most} announced"
                found.append(Evidence(fit.host.name, f"echo of full size, {pair.id}", words, "answered"))
    return found


def _stall_evidence(broken: list[Observation]) -> Evidence:
    first = broken[0]
    key = first.failed_layers()[0]
    result = first.results.get(key) or {}
    observed = f"{key} {result.get('status')} after {result.get('bytes')} bytes, echo and connections pass"
    return Evidence(first.pair.src.host, f"probes {first.pair.id}", observed, "a whole page")


def _icmp_evidence(case: Case, names: list[str]) -> list[Evidence]:
    lossy = [o for o in case.observations if _lossy(o) and o.pair.kind == "overlay"]
    found = [o for o in lossy if set(names) & set(o.pair.hosts)]
    words = "failed in one round and passed in the other"
    return [Evidence(o.pair.src.host, f"probes {o.pair.id}", words, "passed in each round") for o in found[:1]]


def smallest(case: Case, network: Network) -> int:
    """The largest MTU that the NICs of all hosts of a network take: what its option has to say."""
    return min((fit.nic_mtu for fit in fits(case, network)), default=0)


def clamps(case: Case, rows: list[Fit], limits: t.Mapping[str, int]) -> list[roles.Step]:
    """TCP segments that fit, inside the overlays of these hosts; C(limits): what passes, by the network's id."""
    found = []
    for name in sorted({fit.host.name for fit in rows}):
        host = case.host(name)
        networks = {fit.network.id: fit.network for fit in rows if fit.host is host}
        parts = [
            roles.segments(host, key, inside(network, host.underlay_ip, limits[key]))
            for key, network in sorted(networks.items())
            if limits.get(key)
        ]
        outgoing = {row[2]["name"] for row in wide_bridges(host)}
        if any(parts):
            found.append(roles.mss_clamp(host, [part for part in parts if part], outgoing))
    return found


def clamp_remedies(steps: list[roles.Step]) -> list[Remedy]:
    """The mitigation, where a role can do it: by hand it takes the values the role is given."""
    risk = "New TCP connections only; datagrams are not helped. Gone with the overlay's namespace unless persistent."
    found = []
    for step in steps:
        words = [f"{row['id'][:12]}: {row['mss4']} (IPv6: {row['mss6']})" for row in step.vars["mss_clamp_networks"]]
        manual = f"on {step.hosts[0]}: have TCP agree on segments of at most {', '.join(words)} bytes in these overlays"
        found.append(step.remedy("mitigation", [manual], risk))
    return found


def _mtu_remedies(case: Case, fit: Fit, rows: list[Fit]) -> list[Remedy]:
    value = fit.nic_mtu
    limits = {row.network.id: smallest(case, row.network) for row in rows}
    named = {row.network.name: limits[row.network.id] for row in rows}
    return [
        roles.overlay_mtu(case, named).remedy(
            "cure",
            (
                (
                    f"where {value} is right for {fit.nic}: recreate {fit.network.name}, --opt {MTU_OPTION}={value} "
                    "(the underlay's MTU: the driver subtracts the tunnel's overhead itself); the ingress network too"
                ),
                f"where it is not: ip link set {fit.nic} mtu {fit.needed}, and in the file that configures the NIC",
            ),
            "Recreating a network means to redeploy what is on it.",
            disruptive=True,
        ),
        *clamp_remedies(clamps(case, rows, limits)),
    ]


def fits_instead(case: Case, finding: Finding) -> str | None:
    """Pages of a finding's pairs never came while echo passed, and every NIC takes what the overlay sends."""
    pairs = [o for o in case.observations if o.pair.id in set(finding.explains)]
    stalled = {o.pair.network_id for o in pairs if _stalls(o, {o.pair.network_id or ""}, set(case.fleet.hosts))}
    rows = [fit for network in overlays(case) if network.id in stalled for fit in fits(case, network)]
    if len(rows) < 2 or max(fit.needed for fit in rows) > min(fit.nic_mtu for fit in rows):
        return None
    largest, smallest = max(fit.needed for fit in rows), min(fit.nic_mtu for fit in rows)
    return f"the overlay sends up to {largest} bytes and every NIC takes {smallest}; only a smaller path could be it"


def decide_mixed(case: Case) -> t.Iterator[Finding]:
    """Hosts whose overlay fits their own NIC and not that of a peer."""
    wrong, seen = too_large(case), set()
    for network in overlays(case):
        rows = [fit for fit in fits(case, network) if fit.host.name not in wrong]
        smallest = min((fit.nic_mtu for fit in rows), default=0)
        large = [fit for fit in rows if fit.needed > smallest]
        if not large:
            continue
        small = [fit for fit in rows if any(fit.nic_mtu < other.needed for other in large)]
        place = large if len(large) <= len(small) else small
        names = sorted(fit.host.name for fit in place)
        if tuple(names) in seen:
            continue  # the same NICs, seen from a second network
        seen.add(tuple(names))
        yield _mixed(case, network, names, max(large, key=lambda f: f.needed), min(small, key=lambda f: f.nic_mtu))


def _mixed(case: Case, network: Network, names: list[str], large: Fit, small: Fit) -> Finding:
    broken = [o for o in case.broken if _stalls(o, {network.id}, {large.host.name}) and small.host.name in o.pair.hosts]
    row = case.path_mtu(large.host.name, small.host.name)
    measured = row is not None and row.get("exact") and row.get("path_mtu") == small.nic_mtu < (row.get("tried") or 0)
    return Finding(
        cause="mixed-mtu-peers",
        severity=CRITICAL if broken else WARNING,
        confidence=CONFIRMED if measured else (LIKELY if broken else POSSIBLE),
        hosts=names,
        segment="underlay",
        direction="both",
        network=network.name,
        summary=f"{large.host.name} sends up to {large.needed} bytes on {network.name}, {small.nic} of "
        f"{small.host.name} takes {small.nic_mtu}: large packets in that direction are lost",
        evidence=[
            Evidence(
                large.host.name,
                f"MTU of {large.container} on {network.name}",
                f"{large.inner}, in the tunnel {large.needed}",
                f"at most {small.nic_mtu}, the smallest NIC of the network",
                links_of(large.container),
            ),
            Evidence(
                small.host.name,
                f"MTU of {small.nic}",
                str(small.nic_mtu),
                f"{large.needed}",
                f"ip link show {small.nic}",
            ),
            *([_path_evidence(large.host.name, small.host.name, row)] if measured and row else []),
            *([_stall_evidence(broken)] if broken else []),
        ],
        explains=pair_ids(broken),
        remedies=[
            roles.overlay_mtu(case, {network.name: small.nic_mtu}).remedy(
                "cure",
                (
                    (
                        f"one MTU for all nodes of {network.name}: that of the smallest NIC and path, {small.nic_mtu} "
                        f"(--opt {MTU_OPTION}={small.nic_mtu})"
                    ),
                    f"else raise {small.nic} of {small.host.name} and what it is plugged into",
                ),
                "Recreating a network means to redeploy what is on it.",
                disruptive=True,
            ),
            *clamp_remedies(
                clamps(case, [f for f in fits(case, network) if f.host.name in names], {network.id: small.nic_mtu})
            ),
        ],
    )


def _path_evidence(src: str, dst: str, row: Facts) -> Evidence:
    words = f"{row['path_mtu']} of {row['tried']} bytes pass, {row['verdict']}"
    return Evidence(src, f"mtu_probe to {dst} ({row.get('address')})", words, f"{row['tried']}")


def decide_option(case: Case) -> t.Iterator[Finding]:
    """Networks whose MTU option has the overhead subtracted already, which the driver does once more."""
    nics = {host.name: nic for host in case.fleet.swarm_hosts if (nic := tunnel_nic(case, host))}
    least = min((nic["mtu"] for nic in nics.values()), default=None)
    for network in overlays(case):
        option = network.options.get(MTU_OPTION) or ""
        if least is None or not option.isdigit():
            continue
        tellers = [
            host for host in case.fleet.swarm_hosts if any(row["id"] == network.id for row in host.facts.networks)
        ]
        tellers = [host for host in tellers if host.facts.is_manager] or tellers
        host = tellers[0] if tellers else None
        wasted = overhead(network, host.underlay_ip) if host else 0
        if host is None or (int(option) != least - wasted and int(option) != (least - wasted) // 4 * 4):
            continue
        yield Finding(
            cause="mtu-option-double-subtract",
            severity=INFO,
            confidence=POSSIBLE,
            hosts=[host.name],
            segment="vtep",
            network=network.name,
            summary=f"{network.name} has the MTU option {option}, from which the driver subtracts {wasted} once more: "
            f"its containers get {int(option) - wasted} where {least - wasted} fits",
            evidence=[
                Evidence(
                    host.name,
                    f"option {MTU_OPTION} of {network.name}",
                    option,
                    f"{least}, the smallest NIC of the nodes",
                    f"docker network inspect {network.name} -f '{{{{json .Options}}}}'",
                )
            ],
            remedies=[
                roles.overlay_mtu(case, {network.name: least}).remedy(
                    "cure",
                    (f"recreate {network.name} with --opt {MTU_OPTION}={least}, the MTU of the underlay",),
                    "Recreating a network means to redeploy what is on it. Nothing is broken: it wastes some bytes.",
                    disruptive=True,
                )
            ],
        )


def wide_bridges(host: Host) -> list[tuple[str, int, Facts]]:
    """(bridge, MTU of the containers behind it, NIC) where containers may send more than the host's way out takes."""
    facts = host.facts  # a second reading tells no containers
    found: dict[str, tuple[str, int, Facts]] = {}
    routes = [
        r for r in facts.root.facts.get("routes") or [] if r.get("dst") == "default" and r.get("table") in (254, 0)
    ]
    routes.sort(key=lambda route: route.get("metric") or 0)
    nic = facts.root.link_by_index.get(routes[0].get("oif") or -1) if routes else None
    if nic is None or not nic.get("mtu"):
        return []
    for container in facts.containers:
        namespace = facts.namespace(container.get("netns"))
        if namespace is None or namespace.kind != "container":
            continue  # one that shares the host's namespace has no bridge
        for route in namespace.facts.get("routes") or []:
            link = namespace.link_by_index.get(route.get("oif") or -1)
            bridge = facts.root.link_of_address(route.get("gateway") or "")
            if route.get("dst") == "default" and link and bridge and (link.get("mtu") or 0) > nic["mtu"]:
                found[bridge["name"]] = (bridge["name"], link["mtu"], nic)
    return sorted(found.values(), key=lambda row: row[0])


def _outward(case: Case, name: str, nic_mtu: int) -> list[Evidence]:
    """What mtu_probe found from a container of the host to addresses outside of the fleet."""
    found = []
    for path, row in case.mtu_rows.items():
        source, _arrow, target = path.partition(">")
        outside = source.startswith(f"{name}/") and target == row.get("address")
        if outside and row.get("path_mtu") == nic_mtu < (row.get("tried") or 0):
            words = f"{nic_mtu} of {row['tried']} bytes pass, {row['verdict']}"
            found.append(Evidence(name, f"mtu_probe from {source} to {target}", words, f"{row['tried']}"))
    return found


def decide_bridge(case: Case) -> t.Iterator[Finding]:
    """Containers behind a bridge that may send, and ask for, more than the NIC of the way out takes."""
    wrong = too_large(case)  # there the NIC is the finding, and its bridges are named with it
    found = {h.name: rows for h in case.fleet.answering if h.name not in wrong and (rows := wide_bridges(h))}
    users = {h.name for h in case.fleet.answering if h.facts.containers}
    groups = [sorted(found)] if len(found) > 1 and set(found) == users else [[name] for name in sorted(found)]
    for names in groups:
        _bridge, mtu, nic = found[names[0]][0]
        bridges = sorted({row[0] for name in names for row in found[name]})
        outward = [e for name in names for e in _outward(case, name, found[name][0][2]["mtu"])]
        yield Finding(
            cause="docker-gwbridge-mtu",
            severity=_severity(case, names, users, heals=True),
            confidence=CONFIRMED if outward else POSSIBLE,
            hosts=names,
            segment="host-stack",
            direction="both",
            summary=f"Containers behind {', '.join(bridges)} on {', '.join(names)} have an MTU of {mtu}, the way out "
            f"by {nic['name']} takes {nic['mtu']}: large transfers from outside may hang",
            evidence=[
                Evidence(
                    name,
                    f"MTU of containers behind {row[0]}",
                    str(row[1]),
                    f"at most {row[2]['mtu']}, the MTU of {row[2]['name']}",
                    f"ip -br link show {row[0]}; ip link show {row[2]['name']}",
                )
                for name in names
                for row in found[name][:3]
            ]
            + outward[:2],
            remedies=_bridge_remedies(case, {name: found[name] for name in names}),
        )


def _bridge_remedies(case: Case, found: dict[str, list[tuple[str, int, Facts]]]) -> list[Remedy]:
    """Segments that fit at once; the MTU of the bridge itself with a restart, or by recreating it."""
    remedies = []
    for name, rows in found.items():
        nic = rows[0][2]
        others = [bridge for bridge, _mtu, _nic in rows if bridge != DEFAULT_BRIDGE]
        default = len(others) < len(rows)
        step = roles.daemon_mtu(case.host(name), nic["mtu"]) if default else roles.NOBODY
        manual = [f'{DEFAULT_BRIDGE}: "mtu": {nic["mtu"]} in /etc/docker/daemon.json, then restart the engine']
        manual = manual if default else []
        manual += [
            f"{bridge}: recreate it with --opt {MTU_OPTION}={nic['mtu']} while no container uses it "
            "(docker_gwbridge: before the node joins)"
            for bridge in others
        ]
        lines = [f"on {name}: {line}" for line in manual]
        remedies.append(step.remedy("cure", lines, "The node's containers are interrupted.", disruptive=True))
    for name, rows in found.items():
        step = roles.mss_clamp(case.host(name), [], {row[2]["name"] for row in rows})
        line = (
            f"on {name}: iptables -t mangle -A FORWARD -o {rows[0][2]['name']} -p tcp --tcp-flags SYN,RST SYN "
            "-j TCPMSS --clamp-mss-to-pmtu"
        )
        remedies.append(step.remedy("mitigation", [line], "New TCP connections only; datagrams are not helped."))
    return remedies


CAUSES = [
    Cause(
        "overlay-mtu-gt-local-nic",
        "What an overlay sends does not fit the NIC of its own host",
        "MTU of the containers' interfaces, overhead of the tunnel (and of ESP), MTU of the NIC the tunnel leaves by",
        "a jumbo underlay below ordinary overlays; on kernels since 5.9 the sender learns the path MTU and only the "
        "first large packets are lost",
        decide_local_nic,
        remedy="recreate the network with the underlay's MTU as its option, or raise the NIC's MTU",
        rules_out=fits_instead,
    ),
    Cause(
        "mixed-mtu-peers",
        "What one host sends on an overlay does not fit the NIC of another",
        "MTU of the containers' interfaces and of the NICs of all hosts of a network",
        "NICs that differ, with an overlay that fits the smallest; a host whose own NIC is too small is another cause",
        decide_mixed,
        remedy="one overlay MTU for all nodes: that of the smallest NIC and path",
    ),
    Cause(
        "docker-gwbridge-mtu",
        "Containers behind a bridge have a larger MTU than the way out",
        "MTU of the containers' default interface, MTU of the NIC with the default route",
        "containers in the host's own namespace; where an overlay does not fit the same NIC, that is the finding",
        decide_bridge,
        remedy="give the bridge the NIC's MTU: daemon.json for docker0, recreation for docker_gwbridge",
    ),
    Cause(
        "mtu-option-double-subtract",
        "A network's MTU option has the tunnel's overhead subtracted twice",
        "the option com.docker.network.driver.mtu against the smallest NIC of the nodes",
        "an MTU that is smaller by intent, for a VPN or other nodes: only the exact difference counts",
        decide_option,
        remedy="set the option to the MTU of the underlay",
    ),
]

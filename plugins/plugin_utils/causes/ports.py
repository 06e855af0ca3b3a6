# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""UDP ports and VXLAN identifiers that two parties want, and gossip that does not converge.

A kernel gives the tunnel's UDP port to the first device that comes up and refuses what does not fit beside it: a
second device with the same identifier, one that takes every identifier (external), a socket of a process. A VXLAN
device that is down has no socket, which is how the holder of the port is told from the kernel itself.
"""

from __future__ import annotations

import re
import typing as t
from collections import Counter

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    CRITICAL,
    INFO,
    LIKELY,
    POSSIBLE,
    SYMPTOM,
    WARNING,
    Case,
    Cause,
    Evidence,
    Facts,
    Finding,
    Remedy,
    culprits,
    pair_ids,
    severity_of,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.builders import SWARM_GOSSIP_PORT
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.deltas import protocol_counter, rise
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts, Namespace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host, Network
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation

OVERLAY_KINDS = ("overlay", "service")
BLAMED = re.compile(r"(?:able to connect to|able to reach) (\S+)")
PROBE_CYCLES = 3  # memberlist asks one peer a second, each in turn: a standing complaint is not older than this many
SLACK = 2.0  # seconds the log may lag behind


def overlay_devices(facts: HostFacts) -> list[tuple[Namespace, Facts]]:
    """The VXLAN devices of the engine's overlay networks on one host."""
    return [(ns, link) for ns in facts.namespaces if ns.kind in ("overlay", "ingress") for link in ns.vxlan_links]


def host_devices(facts: HostFacts) -> list[Facts]:
    """VXLAN devices in the host's own namespace: those of other tunnels, or what an engine left behind."""
    return facts.root.vxlan_links


def _port(link: Facts) -> int | None:
    return (link.get("vxlan") or {}).get("port")


def _vni(link: Facts) -> int | None:
    return (link.get("vxlan") or {}).get("vni")


def swarm_port(case: Case, host: Host) -> int | None:
    """The tunnel port this host's Swarm uses: as its own kernel has it, else as its cluster says, else the fleet's."""
    own = Counter(_port(link) for _ns, link in overlay_devices(host.latest) if _port(link))
    if own:
        return own.most_common(1)[0][0]
    return declared_port(case, host) or case.fleet.tunnel_port


def declared_port(case: Case, host: Host) -> int | None:
    """The data-path port that a manager of the host's cluster declares."""
    cluster = host.facts.swarm.get("cluster_id")
    for manager in case.fleet.managers:
        port = manager.facts.swarm.get("data_path_port")
        if port and cluster in (None, manager.facts.swarm.get("cluster_id")):
            return int(port)
    return None


# ---- one port for all


def _ports_of(case: Case, network: Network, reading: int) -> dict[str, tuple[int, Namespace, Facts]]:
    """host -> (port, namespace, device) of one network, in the host's newest or oldest reading."""
    found = {}
    for host in case.fleet.answering:
        facts = host.readings[reading] if host.readings else host.facts
        for namespace, link in overlay_devices(facts):
            port = _port(link)
            if namespace.network_id == network.id and port:
                found[host.name] = (port, namespace, link)
    return found


def _expected_port(case: Case, network: Network, ports: dict[str, tuple[int, Namespace, Facts]]) -> int | None:
    present = Counter(port for port, _ns, _link in ports.values())
    declared = next((p for name in ports if (p := declared_port(case, case.host(name)))), None)
    if declared in present:
        return declared
    (first, count), *others = present.most_common(2)
    if not others or others[0][1] < count:
        return first
    return case.fleet.tunnel_port


def decide_mismatch(case: Case) -> t.Iterator[Finding]:
    """A host whose device of a network speaks on another UDP port than the others of that network."""
    odd: dict[tuple[str, int, int], list[tuple[Network, Namespace, Facts]]] = {}
    for network in case.fleet.networks.values():
        ports = _ports_of(case, network, -1) if network.is_overlay else {}
        if len({port for port, _ns, _link in ports.values()}) < 2:
            continue
        expected, before = _expected_port(case, network, ports), _ports_of(case, network, 0)
        for name, (port, namespace, link) in ports.items():
            if expected and port != expected and before.get(name, (port,))[0] == port:
                odd.setdefault((name, port, expected), []).append((network, namespace, link))
    for (name, port, expected), rows in odd.items():
        yield _mismatch(case, case.host(name), port, expected, rows)


def _mismatch(
    case: Case, host: Host, port: int, expected: int, rows: list[tuple[Network, Namespace, Facts]]
) -> Finding:
    ids = {network.id for network, _ns, _link in rows}
    broken = [o for o in case.touching(host.name) if o.pair.network_id in ids and _crosses_hosts(o)]
    peers = sorted({name for o in broken for name in o.pair.hosts if name and name != host.name})
    moved = {p: rise(case.host(p), case.host(p).facts.root.key, protocol_counter("snmp", "Udp.NoPorts")) for p in peers}
    evidence = [
        Evidence(
            host.name,
            f"{link['name']} in the overlay namespace of {network.name}",
            f"dstport {port}",
            f"dstport {expected}, as on the other hosts of the network",
            f"nsenter --net={ns.facts.get('path')} ip -d link show dev {link['name']}",
        )
        for network, ns, link in rows
    ]
    declared = declared_port(case, host)
    if declared:
        evidence.append(
            Evidence(None, "data-path port of the cluster", str(declared), None, "docker info | grep 'Data Path Port'")
        )
    evidence += [
        Evidence(name, "/proc/net/snmp Udp: NoPorts", str(row), "no rise with the probes", "nstat -az UdpNoPorts")
        for name, row in moved.items()
        if row is not None
    ][:2]
    names = ", ".join(sorted(network.name for network, _ns, _link in rows))
    return Finding(
        cause="data-path-port-mismatch",
        severity=severity_of(broken),
        confidence=CONFIRMED if broken and any(row is not None and row.tied for row in moved.values()) else LIKELY,
        hosts=[host.name],
        segment="vtep",
        direction="both",
        network=rows[0][0].name if len(ids) == 1 else None,
        summary=f"{host.name} sends {names} to UDP {port}, the other hosts expect {expected}"
        + (f": {len(broken)} pair(s) fail" if broken else ""),
        evidence=evidence,
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (
                    f"on {host.name}: docker swarm leave, then docker swarm join: the node takes the cluster's port",
                    "the port is set once, by docker swarm init --data-path-port, and cannot be changed later",
                ),
                "Leaving moves the node's tasks away; containers on its overlays lose their networks.",
                disruptive=True,
            )
        ],
    )


def _crosses_hosts(observation: Observation) -> bool:
    src, dst = observation.pair.hosts
    return observation.pair.kind in OVERLAY_KINDS and src != dst


def same_port_instead(case: Case, finding: Finding) -> str | None:
    """Every VXLAN device of the networks a finding's pairs are on has one and the same port."""
    ids = {o.pair.network_id for o in case.observations if o.pair.id in set(finding.explains) and _crosses_hosts(o)}
    devices = [
        (host.name, _port(link))
        for host in case.fleet.answering
        for ns, link in overlay_devices(host.latest)
        if ns.network_id in ids
    ]
    ports = {port for _name, port in devices}
    if len(ports) != 1 or len({name for name, _port in devices}) < 2:
        return None
    return f"the VXLAN devices of all {len({name for name, _port in devices})} hosts use UDP {ports.pop()}"


# ---- who holds the port


def _all_down(facts: HostFacts, port: int) -> list[tuple[Namespace, Facts]]:
    """The engine's devices on the port, if not one of them is up: then none of them holds a socket."""
    devices = [(ns, link) for ns, link in overlay_devices(facts) if _port(link) == port]
    return [] if any(link.get("up") for _ns, link in devices) else devices


def _holders(facts: HostFacts, port: int) -> list[Facts]:
    return [link for link in host_devices(facts) if _port(link) == port and link.get("up")]


def _bound(facts: HostFacts, port: int) -> list[str]:
    return [ip for ip, number in facts.root.listeners("udp") if number == port]


def _cut_off(case: Case, host: Host, down: list[tuple[Namespace, Facts]]) -> list[Observation]:
    ids = {ns.network_id for ns, _link in down}
    return [
        o for o in case.touching(host.name) if o.pair.network_id in ids and o.pair.kind in (*OVERLAY_KINDS, "local")
    ]


def _device_evidence(case: Case, host: Host, down: list[tuple[Namespace, Facts]]) -> list[Evidence]:
    found = []
    for ns, link in down[:4]:
        network = case.fleet.networks.get(ns.network_id or "")
        found.append(
            Evidence(
                host.name,
                f"{link['name']} in the overlay namespace {network.name if network else ns.facts.get('path')}",
                f"down, UDP {_port(link)}",
                "up",
                f"nsenter --net={ns.facts.get('path')} ip -d link show dev {link['name']}",
            )
        )
    return found


def _log_evidence(host: Host, *patterns: str, needle: str = "") -> list[Evidence]:
    rows = (host.facts.facts.get("log") or {}).get("patterns") or {}
    found = [rows[name].get("sample") or "" for name in patterns if rows.get(name)]
    return [Evidence(host.name, "engine log", text, "no such line") for text in found if needle in text][:1]


def decide_taken(case: Case) -> t.Iterator[Finding]:
    """A socket on the tunnel port that is not the kernel's: no VXLAN device of the host that has the port is up."""
    for host in case.fleet.swarm_hosts:
        port = swarm_port(case, host)
        if not port or not host.readings or not all(_is_taken(facts, port) for facts in host.readings):
            continue
        down = _all_down(host.latest, port)
        refused = bool(down) or bool(_log_evidence(host, "port-taken", needle="vxlan"))
        ips = ", ".join(_bound(host.latest, port))
        yield Finding(
            cause="data-port-userland-taken",
            severity=CRITICAL if refused else INFO,
            confidence=LIKELY,
            hosts=[host.name],
            segment="vtep",
            direction="both",
            summary=f"A process on {host.name} holds the tunnel port, UDP {port}: "
            + (
                f"{len(down)} VXLAN device(s) of overlay networks cannot come up, containers on them are refused"
                if refused
                else "the first container on an overlay will be refused"
            ),
            evidence=[
                Evidence(
                    host.name,
                    f"UDP socket {ips}:{port}",
                    "bound, though no VXLAN device with this port is up",
                    "only the kernel's own socket",
                    f"ss -lunp 'sport = :{port}'",
                ),
                *_device_evidence(case, host, down),
                *_log_evidence(host, "port-taken", "vxlan-create-failed", needle="vxlan"),
            ],
            explains=pair_ids(_cut_off(case, host, down)),
            remedies=[
                Remedy(
                    "cure",
                    (
                        f"on {host.name}: ss -lunp 'sport = :{port}'   # who it is; stop it or give it another port",
                        "systemctl restart docker   # the engine makes its devices anew",
                    ),
                    "Restarting the engine restarts the node's containers.",
                    disruptive=True,
                )
            ],
        )


def _is_taken(facts: HostFacts, port: int) -> bool:
    up = any(link.get("up") and _port(link) == port for ns in facts.namespaces for link in ns.vxlan_links)
    # A file that is no namespace, which an engine left behind, is listed under its path: nothing can be in it.
    unread = any(ns.facts.get("error") and not ns.key.startswith("/") for ns in facts.namespaces)
    return bool(_bound(facts, port)) and not up and not unread


def decide_external(case: Case) -> t.Iterator[Finding]:
    """Two devices with one port, one of which takes every identifier: the kernel lets only the first come up."""
    for host in case.fleet.answering:
        if not host.readings:
            continue
        engines = overlay_devices(host.latest)
        own = [(host.latest.root, link) for link in host_devices(host.latest)]
        for port in sorted({port for _ns, link in own if (port := _port(link))}):
            here = [(ns, link) for ns, link in engines + own if _port(link) == port]
            external = [(ns, link) for ns, link in here if link["vxlan"].get("external")]
            plain = [(ns, link) for ns, link in here if not link["vxlan"].get("external")]
            for losers, winners in ((plain, external), (external, plain)):
                stopped = [(ns, link) for ns, link in losers if not link.get("up")]
                if len(stopped) == len(losers) > 0 and any(link.get("up") for _ns, link in winners):
                    yield _external(case, host, port, stopped, winners)


def _external(
    case: Case,
    host: Host,
    port: int,
    stopped: list[tuple[Namespace, Facts]],
    winners: list[tuple[Namespace, Facts]],
) -> Finding:
    refused = [(ns, link) for ns, link in stopped if ns.kind in ("overlay", "ingress")]
    loser, winner = stopped[0][1]["name"], next(link["name"] for _ns, link in winners if link.get("up"))
    names = f"{len(refused)} device(s) of overlay networks" if refused else loser
    first = next((ns for ns, link in winners if link.get("up")), host.latest.root)
    inside = f"nsenter --net={first.facts.get('path')} " if first.kind != "host" else ""
    evidence = [
        Evidence(
            host.name, winner, f"up, UDP {port}", f"a port other than {loser}'s", f"{inside}ip -d link show {winner}"
        )
    ]
    if refused:
        evidence += _device_evidence(case, host, refused)
    else:
        evidence.append(Evidence(host.name, loser, f"down, UDP {port}, external", "up", f"ip -d link show {loser}"))
    return Finding(
        cause="vxlan-port-external-conflict",
        severity=CRITICAL if refused else INFO,
        confidence=LIKELY,
        hosts=[host.name],
        segment="vtep",
        direction="both",
        summary=f"{names} on {host.name} cannot come up: {winner} has UDP {port}, and of two devices on one port none "
        "may be external",
        evidence=evidence + _log_evidence(host, "port-taken", needle="vxlan"),
        explains=pair_ids(_cut_off(case, host, refused)),
        remedies=[
            Remedy(
                "cure",
                (
                    (
                        "give one of the two another port: Cilium tunnelPort, Calico vxlanPort, flannel Port, or a new "
                        "Swarm with docker swarm init --data-path-port"
                    ),
                    f"a leftover: on {host.name}: ip link del {winner if refused else loser}",
                ),
                "The tunnel whose port changes is interrupted on every host at once.",
                disruptive=True,
            )
        ],
    )


# ---- who holds the identifier


def _swarm_vnis(case: Case, host: Host) -> dict[int, Network]:
    """The identifiers of the overlay networks of the host's cluster."""
    cluster = host.facts.swarm.get("cluster_id")
    found: dict[int, Network] = {}
    for other in case.fleet.swarm_hosts:
        if cluster not in (None, other.facts.swarm.get("cluster_id")):
            continue
        for row in other.facts.networks:
            network = case.fleet.networks.get(row["id"])
            if network is not None and network.is_overlay:
                found.update(dict.fromkeys(row.get("vnis") or [], network))
    return found


def decide_vni(case: Case) -> t.Iterator[Finding]:
    """A device of the host's own with the identifier and port of a Swarm network that has none there."""
    for host in case.fleet.swarm_hosts:
        port, vnis = swarm_port(case, host), _swarm_vnis(case, host)
        if not host.readings:
            continue
        own = {(_vni(link), _port(link)) for _ns, link in overlay_devices(host.latest)}
        for link in host_devices(host.latest):
            key = (_vni(link), _port(link))
            network = vnis.get(key[0] or 0)
            if network is None or key[1] != port or key in own or link["vxlan"].get("external"):
                continue
            yield _vni_finding(case, host, link, network)


def _vni_finding(case: Case, host: Host, link: Facts, network: Network) -> Finding:
    refusals = _refusals(case, host, network)
    broken = [o for o in case.touching(host.name) if o.pair.network_id == network.id and o.pair.kind in OVERLAY_KINDS]
    name, vni, port = link["name"], _vni(link), _port(link)
    leftover = name.startswith("vx-")  # what an engine that was killed half-way calls its own
    return Finding(
        cause="vni-collision-calico-docker",
        severity=CRITICAL if refusals or broken else INFO,
        confidence=LIKELY,
        hosts=[host.name],
        segment="vtep",
        direction="both",
        network=network.name,
        summary=f"{name} on {host.name} has VNI {vni} and UDP {port}, which are {network.name}'s: the engine "
        + ("is refused its own device" if refusals or broken else "will be refused its device for the first container"),
        evidence=[
            Evidence(
                host.name,
                f"VXLAN device {name} in the host's namespace",
                f"VNI {vni}, UDP {port}",
                f"another VNI or port: {vni} on {port} is {network.name}",
                f"ip -d link show {name}",
            ),
            *refusals,
        ],
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (
                    (
                        f"on {host.name}: ip link del {name}   # left behind by an engine"
                        if leftover
                        else f"change the VNI or the port of {name} (Calico: FelixConfiguration vxlanVNI, vxlanPort)"
                    ),
                    "else a new Swarm with docker swarm init --data-path-port",
                ),
                "The other tunnel is interrupted while its identifier changes, on every host.",
                disruptive=True,
            )
        ],
    )


def _refusals(case: Case, host: Host, network: Network) -> list[Evidence]:
    """What shows that the engine tried to make its device of this network here, and failed."""
    found = []
    for namespace in host.latest.namespaces:
        path = namespace.facts.get("path")
        mine = namespace.kind in ("overlay", "ingress") and namespace.network_id == network.id
        if mine and path and namespace.links and not namespace.vxlan_links:
            where, verify = f"overlay namespace of {network.name}", f"nsenter --net={path} ip -br link"
            found.append(Evidence(host.name, where, "no VXLAN device in it", "the network's device", verify))
    if network.ingress and not found:
        others = [h for h in case.fleet.swarm_hosts if h is not host and h.latest.overlay_namespace(network.id)]
        if others and not host.latest.overlay_namespace(network.id):
            words = f"absent; {others[0].name} has it"
            found.append(
                Evidence(host.name, f"device of {network.name}", words, "one on every node", "docker network ls")
            )
    for manager in case.fleet.managers:
        for task in manager.facts.swarm.get("tasks") or []:
            if task.get("node_id") == host.facts.swarm.get("node_id") and "vxlan" in (task.get("error") or ""):
                found.append(
                    Evidence(manager.name, f"task {task.get('id')}", task["error"], "running", "docker node ps")
                )
    subnets = {str(row["subnet"]) for h in case.fleet.swarm_hosts for row in _subnets(h, network) if row.get("subnet")}
    for subnet in sorted(subnets):
        found += _log_evidence(host, "vxlan-create-failed", "vxlan-vni-exists", needle=subnet)
    return found


def _subnets(host: Host, network: Network) -> list[Facts]:
    return next((row.get("subnets") or [] for row in host.facts.networks if row["id"] == network.id), [])


# ---- gossip


def _members(case: Case) -> dict[str, str]:
    """Names that nodes have in gossip -> hosts of the fleet."""
    found = {}
    for host in case.fleet.swarm_hosts:
        for row in host.facts.networks:
            for peer in row.get("peers") or []:
                owner = case.fleet.host_of_address(peer.get("ip") or "")
                if owner is not None:
                    found[peer.get("name") or ""] = owner.name
    return found


def _complaints(case: Case) -> dict[str, tuple[str, Facts]]:
    """host -> (the host its engine cannot probe by UDP, the log row): only complaints that still go on."""
    names, window = _members(case), PROBE_CYCLES * max(len(case.fleet.swarm_hosts) - 1, 1) + SLACK
    found = {}
    for host in case.fleet.swarm_hosts:
        facts = host.facts.facts
        row = ((facts.get("log") or {}).get("patterns") or {}).get("gossip-probe-failed") or {}
        match = BLAMED.search(row.get("sample") or "")
        blamed = names.get(match.group(1)) if match else None
        last, read = row.get("last"), facts.get("started")
        if blamed and blamed != host.name and last is not None and read is not None and read - last <= window:
            found[host.name] = (blamed, row)
    return found


def decide_gossip_udp(case: Case) -> t.Iterator[Finding]:
    """Engines that reach a node by TCP and get no answer by UDP, and no host's filter says why."""
    complaints = _complaints(case)
    loud = {name for finding in case.findings if finding.severity != INFO for name in finding.hosts}
    for place in culprits([(name, blamed) for name, (blamed, _row) in complaints.items()], []):
        if len(place) == 1:
            voices = [name for name, (blamed, _row) in complaints.items() if blamed in place]
        else:
            voices = [name for name, (blamed, _row) in complaints.items() if {name, blamed} == place]
        if len(voices) < 2 or place & loud:
            continue  # one voice may be a host short of time; a louder fault may have many consequences
        yield _gossip_udp(case, sorted(place), {name: complaints[name] for name in sorted(voices)})


def _gossip_udp(case: Case, hosts: list[str], voices: dict[str, tuple[str, Facts]]) -> Finding:
    addresses = ", ".join(case.host(name).underlay_ip or name for name in hosts)
    unread = sorted(name for name in {*hosts, *voices} if not case.filter_is_known(name))
    return Finding(
        cause="gossip-udp-7946-blocked",
        severity=WARNING,
        confidence=POSSIBLE if unread else LIKELY,
        hosts=hosts,
        segment="underlay",
        summary=f"Gossip over UDP ({SWARM_GOSSIP_PORT}) with {' and '.join(hosts)} is lost on the network: "
        f"{', '.join(voices)} reach it by TCP only, and no packet filter that was read drops it",
        evidence=[
            Evidence(
                name,
                "engine log",
                f"{row.get('sample')} ({row.get('count')} times, still going on)",
                "no such line",
                "journalctl -u docker --since -1min | grep 'other probes failed'",
            )
            for name, (_blamed, row) in list(voices.items())[:4]
        ],
        remedies=[
            Remedy(
                "cure",
                (f"open udp/{SWARM_GOSSIP_PORT} to and from {addresses} in what filters the network between them",),
                "From the nodes' addresses only. Until then entries are learned late and nodes flap.",
            )
        ],
    )


def _peers(facts: HostFacts, network_id: str) -> set[str] | None:
    """Addresses of the nodes an engine knows on a network; None where it does not tell."""
    row = next((row for row in facts.networks if row["id"] == network_id), None)
    return {peer.get("ip") or "" for peer in row["peers"]} if row and row.get("peers") else None


def _knows(case: Case, host: Host, other: Host, network_id: str) -> bool | None:
    """Whether a host's engine ever listed the other as a peer of the network, over all readings that tell."""
    known = [peers for facts in host.readings if (peers := _peers(facts, network_id)) is not None]
    wanted = other.facts.addresses | ({other.underlay_ip} if other.underlay_ip else set())
    return any(peers & wanted for peers in known) if known else None


def decide_not_converged(case: Case) -> t.Iterator[Finding]:
    """Engines that lack one another as peers of a network both have containers on, though gossip's port is open."""
    open_pairs = [o for o in case.unexplained if o.pair.kind == "overlay"]
    for network_id in sorted({o.pair.network_id for o in open_pairs if o.pair.network_id}):
        hosts = [h for h in case.fleet.swarm_hosts if case.endpoints_of(network_id, h.name)]
        lacking, working = [], []
        for host in hosts:
            for other in hosts:
                known = _knows(case, host, other, network_id) if other is not host else None
                if known:
                    working.append((host.name, other.name))
                elif known is False and _gossip_open(case, host.name, other.name):
                    lacking.append((host.name, other.name))
        for place in culprits(lacking, working):
            ends = [{one, other} for one, other in lacking if place <= {one, other}]
            broken = [o for o in open_pairs if o.pair.network_id == network_id and set(o.pair.hosts) in ends]
            if broken:
                rows = [(one, other) for one, other in lacking if {one, other} in ends]
                yield _not_converged(case, case.fleet.networks[network_id], sorted(place), rows, broken)


def _gossip_open(case: Case, one: str, other: str) -> bool:
    pairs = (case.host_pair(one, other), case.host_pair(other, one))
    return all(o is not None and o.layers().get(f"tcp:{SWARM_GOSSIP_PORT}") == "ok" for o in pairs)


def _not_converged(
    case: Case, network: Network, hosts: list[str], rows: list[tuple[str, str]], broken: list[Observation]
) -> Finding:
    one, other = rows[0]
    logs = [
        item
        for name in sorted({name for row in rows for name in row})
        for item in _log_evidence(case.host(name), "gossip-decrypt-failed", "gossip-bulk-sync-failed")
    ]
    return Finding(
        cause="gossip-not-converged",
        severity=CRITICAL,
        confidence=LIKELY,
        hosts=hosts,
        segment="control-plane",
        network=network.name,
        summary=f"{one} does not know {other} as a peer of {network.name} though gossip's port is open both ways and "
        f"both run containers on it: {len(broken)} pair(s) fail",
        evidence=[
            *(
                Evidence(
                    name,
                    f"peers of {network.name}",
                    f"without {lost} ({case.host(lost).underlay_ip})",
                    "every node that runs a container of the network",
                    f"docker network inspect {network.name} -f '{{{{json .Peers}}}}'",
                )
                for name, lost in rows[:4]
            ),
            *logs[:2],
        ],
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (
                    f"on {', '.join(hosts)}: systemctl restart docker",
                    "if it does not help: docker swarm leave, then join, on the node that the others lack",
                ),
                "Restarting the engine restarts the node's containers.",
                disruptive=True,
            )
        ],
    )


CAUSES = [
    Cause(
        "data-path-port-mismatch",
        "The hosts of an overlay do not speak on the same UDP port",
        "the port of every VXLAN device, by network; the data-path port the managers declare; Udp NoPorts of the peers",
        "clusters with ports of their own: only devices of one network are compared; a worker's engine does not tell "
        "the port",
        decide_mismatch,
        remedy="let the odd node leave the Swarm and join again; the firewall has to follow the port",
        rules_out=same_port_instead,
    ),
    Cause(
        "data-port-userland-taken",
        "A process holds the tunnel port",
        "bound UDP sockets of the host, the state of every VXLAN device with that port, the engine's log",
        "the kernel's own VXLAN socket is listed like any other: as long as one device with the port is up it is that",
        decide_taken,
        remedy="stop the process or give it another port, then restart the engine",
    ),
    Cause(
        "vni-collision-calico-docker",
        "A VXLAN device of the host has the identifier and port of a Swarm network",
        "VXLAN devices in the host's own namespace, the identifiers of all Swarm networks, overlay namespaces without "
        "a device, task errors, the engine's log",
        "a device with another identifier shares the port; the same identifier on another port is free",
        decide_vni,
        remedy="change the identifier or port of the other tunnel, delete a device an engine left behind",
    ),
    Cause(
        "vxlan-port-external-conflict",
        "Two VXLAN devices want one port, and one of them is external",
        "port, state and the external flag of every VXLAN device of the host",
        "an external device on a port of its own; devices with different identifiers on one port",
        decide_external,
        remedy="give one of the two another port, or delete the leftover device",
    ),
    Cause(
        "gossip-udp-7946-blocked",
        "Gossip over UDP is lost on the network, TCP passes",
        "the engines' complaints that other probes failed, whom they name and how old they are",
        "complaints of a cut that was healed: only those that go on count; one engine alone may be short of time",
        decide_gossip_udp,
        stage=SYMPTOM,
        remedy="open udp/7946 between the nodes in what filters the network between them",
    ),
    Cause(
        "gossip-not-converged",
        "Engines do not know one another as peers although gossip's port is open",
        "the peers of every network on every engine that runs containers of it; TCP probes of 7946; lines of the log "
        "on keys and bulk syncs",
        "a node without a container on a network is nobody's peer there; old lines of the log; the first minute after "
        "a join",
        decide_not_converged,
        stage=SYMPTOM,
        remedy="restart the engine of the node that is not known; else let it leave and join again",
    ),
]

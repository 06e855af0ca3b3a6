# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Identities that exist twice: engines, host names, addresses.

What is the same by design is left out: addresses and MACs of container bridges, which every host has alike, and
link-local addresses.
"""

from __future__ import annotations

import ipaddress
import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CRITICAL,
    INFO,
    LIKELY,
    Case,
    Cause,
    Evidence,
    Facts,
    Finding,
    Remedy,
    pair_ids,
    severity_of,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.ways import advertised

# Links that are no NIC of the host's own: what is on them is alike on every host with containers.
VIRTUAL = {"bridge", "vxlan", "dummy", "ipvlan", "macvlan", "ipip", "gre", "tun", "wireguard"}
RESOLVED = {"reachable", "stale", "delay", "probe", "permanent"}
ACROSS = ("host", "overlay", "egress", "published", "service")

IDENTITIES: tuple[tuple[str, str, str, str], ...] = (
    # (name, section of the facts, key, how a person reads it)
    ("engine ID", "engine", "id", "docker info --format '{{.ID}}'"),
    ("machine-id", "host", "machine_id", "cat /etc/machine-id"),
    ("swarm node ID", "swarm", "node_id", "docker info --format '{{.Swarm.NodeID}}'"),
)
CURES = {
    "engine ID": "systemctl stop docker; rm -f /etc/docker/key.json /var/lib/docker/engine-id; systemctl start docker",
    "machine-id": "rm /etc/machine-id; systemd-machine-id-setup   # then reboot: leases and host names may change",
    "swarm node ID": "docker swarm leave --force; docker swarm join …   # the copied state must not be used twice",
    "NIC MAC": "give the interface a MAC of its own (the virtual machine's definition, or ip link set address)",
}


def _twice(rows: t.Iterable[tuple[str, Host]]) -> dict[str, list[Host]]:
    found: dict[str, list[Host]] = {}
    for value, host in rows:
        if host not in found.setdefault(value, []):
            found[value].append(host)
    return {value: hosts for value, hosts in found.items() if len(hosts) > 1}


def _same_machine(hosts: list[Host]) -> bool:
    """One host that the inventory lists under two names: it booted once, and it is one node."""
    boots = {(host.facts.facts.get("host") or {}).get("boot_id") for host in hosts}
    names = {(host.facts.facts.get("host") or {}).get("hostname") for host in hosts}
    keys = {host.facts.root.key for host in hosts}
    return len(boots) == 1 and None not in boots and len(names) == 1 and len(keys) == 1


def decide_cloned(case: Case) -> t.Iterator[Finding]:
    """One finding for each set of hosts that share identities."""
    groups: dict[tuple[str, ...], list[tuple[str, str, str]]] = {}
    for name, section, key, verify in IDENTITIES:
        rows = [
            (str(value), host)
            for host in case.fleet.answering
            if (value := (host.facts.facts.get(section) or {}).get(key))
        ]
        for value, hosts in _twice(rows).items():
            groups.setdefault(tuple(sorted(h.name for h in hosts)), []).append((name, value, verify))
    for value, hosts in _twice(_macs(case)).items():
        verify = "ip -br link"
        groups.setdefault(tuple(sorted(h.name for h in hosts)), []).append(("NIC MAC", value, verify))
    for names, found in groups.items():
        hosts = [case.host(name) for name in names]
        if not _same_machine(hosts):
            yield _cloned_finding(case, hosts, found)


def _macs(case: Case) -> t.Iterator[tuple[str, Host]]:
    """The MACs of the NICs that carry the underlay, with the link they are on: elsewhere a MAC may exist again."""
    for host in case.fleet.answering:
        link, subnet = host.underlay_link, _subnet(host)
        mac = (link or {}).get("mac")
        if mac and subnet and any(int(part, 16) for part in mac.split(":")):
            yield f"{mac} in {subnet}", host


def _subnet(host: Host) -> str | None:
    for row in host.facts.root.addresses:
        if row["ip"] == host.underlay_ip and row.get("prefix"):
            return str(ipaddress.ip_network(f"{row['ip']}/{row['prefix']}", strict=False))
    return None


def _cloned_finding(case: Case, hosts: list[Host], found: list[tuple[str, str, str]]) -> Finding:
    """A MAC takes traffic, a node ID membership; the other identities break nothing by themselves."""
    names = [host.name for host in hosts]
    what = [name for name, _value, _verify in found]
    broken: list[Observation] = []
    if "NIC MAC" in what:
        broken = [o for o in case.broken if set(names) & set(o.pair.hosts)]
    elif "swarm node ID" in what:
        broken = [o for o in case.broken if o.pair.kind == "overlay" and set(names) & set(o.pair.hosts)]
    return Finding(
        cause="cloned-identity",
        severity=severity_of(broken),
        confidence=LIKELY,
        hosts=names,
        segment="underlay" if "NIC MAC" in what else "engine",
        summary=f"{' and '.join(names)} have the same {', '.join(what)}: one is a copy of the other",
        evidence=[
            Evidence(names[0], name, f"{value}, on {', '.join(names)}", "one host only", verify)
            for name, value, verify in found
        ],
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                tuple(f"on {names[-1]}: {CURES[name]}" for name in what),
                "The host gets another identity: leases, cluster membership and monitoring follow the old one.",
                disruptive=True,
            )
        ],
    )


def decide_hostname(case: Case) -> t.Iterator[Finding]:
    rows = [
        (str(name), host)
        for host in case.fleet.answering
        if host.has_engine and (name := (host.facts.facts.get("host") or {}).get("hostname"))
    ]
    for name, hosts in _twice(rows).items():
        if _same_machine(hosts):
            continue
        names = sorted(host.name for host in hosts)
        yield Finding(
            cause="duplicate-hostname",
            severity=INFO,
            confidence=LIKELY,
            hosts=names,
            segment="control-plane",
            summary=f"{' and '.join(names)} have the same host name, {name}: a Swarm tolerates it, "
            "Kubernetes and Calico do not",
            evidence=[Evidence(one, "host name", name, "a name of its own", "hostname") for one in names],
            remedies=[
                Remedy(
                    "cure",
                    (f"on {names[-1]}: hostnamectl set-hostname OTHER-NAME", "systemctl restart docker"),
                    "The engine has to be restarted to take the new name; its containers stop unless they live on.",
                    disruptive=True,
                )
            ],
        )


def decide_address(case: Case) -> t.Iterator[Finding]:
    """A node's address on the NIC of another, or answered for by another MAC."""
    claimed: set[str] = set()
    touched = {name for o in case.broken for name in o.pair.hosts}
    for owner in case.fleet.answering:
        address = owner.underlay_ip
        if not address or address in claimed or address not in owner.facts.addresses:
            continue
        holders = [host for host in case.fleet.answering if host is not owner and _holds(host, address)]
        holders = [host for host in holders if not _same_machine([owner, host])]
        if holders:
            claimed.add(address)
            yield _address_finding(case, owner, address, holders)
            continue
        taken = _neighbour_macs(case, owner, address) if owner.name in touched else {}
        own = {link.get("mac") for facts in owner.readings for link in facts.root.links}
        strangers = {name: mac for name, mac in taken.items() if mac not in own}
        broken = [o for name in strangers for o in case.between(owner.name, name, ACROSS) if o.broken]
        if broken:
            agreed = len(strangers) < len(taken)
            yield _stranger_finding(case, owner, address, strangers, broken, agreed)


def _holds(host: Host, address: str) -> Facts | None:
    """The NIC that holds the address on every reading of this host."""
    links = [facts.root.link_of_address(address) for facts in host.readings]
    return links[0] if links and all(links) else None


def _address_finding(case: Case, owner: Host, address: str, holders: list[Host]) -> Finding:
    """Where both use the address as theirs, the fault is on both; else on the one that took it besides its own."""
    guilty = [host for host in holders if host.underlay_ip != address] or [owner, *holders]
    names = sorted(host.name for host in guilty)
    ends = {owner.name, *(host.name for host in holders)}
    broken = [o for o in case.broken if ends & set(o.pair.hosts) and _needs(case, o, ends)]
    evidence = []
    for host in [owner, *holders]:
        link = _holds(host, address) or {}
        expected = "its own" if host is owner else f"on {owner.name} only"
        evidence.append(
            Evidence(
                host.name,
                f"addresses of {link.get('name')}",
                f"{address}, MAC {link.get('mac')}",
                expected,
                f"ip -br address show to {address}",
            )
        )
    link_name = (_holds(guilty[0], address) or {}).get("name")
    return Finding(
        cause="duplicate-node-ip",
        severity=severity_of(broken),
        confidence=LIKELY,
        hosts=names,
        segment="underlay",
        summary=f"{address}, the address of {owner.name}, is on {', '.join(h.name for h in holders)} as well: "
        f"what is for {owner.name} goes astray",
        evidence=evidence,
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (
                    f"on {guilty[0].name}: ip address del {address} dev {link_name}",
                    f"on the others: ip neigh flush to {address}",
                ),
                "What the address was added for stops working there.",
            )
        ],
    )


def _needs(case: Case, observation: Observation, ends: set[str]) -> bool:
    """Between the hosts that share the address; from elsewhere, what asks or answers one of them."""
    return observation.pair.kind in ACROSS and len({name for name in observation.pair.hosts if name}) > 1


def _neighbour_macs(case: Case, owner: Host, address: str) -> dict[str, str]:
    """The MAC that each host on the owner's link has for its address, the same in every reading."""
    subnet = _subnet(owner)
    found: dict[str, str] = {}
    for host in case.fleet.answering:
        link = host.underlay_link
        if host is owner or link is None or subnet is None or _subnet(host) != subnet:
            continue
        macs = set()
        for facts in host.readings:
            mac, state = facts.root.neighbours(link["index"]).get(address, (None, ""))
            macs.add(mac if state.lower() in RESOLVED else None)
        if len(macs) == 1 and (mac := macs.pop()):
            found[host.name] = mac
    return found


def _stranger_finding(
    case: Case, owner: Host, address: str, strangers: dict[str, str], broken: list[Observation], agreed: bool
) -> Finding:
    """Where other hosts have the owner's own MAC, the entries that differ are at fault; else its address is."""
    macs = sorted(set(strangers.values()))
    link = owner.underlay_link or {}
    flush = f"on {', '.join(strangers)}: ip neigh flush nud all to {address}"
    return Finding(
        cause="duplicate-node-ip",
        severity=CRITICAL,
        confidence=LIKELY,
        hosts=sorted(strangers) if agreed else [owner.name],
        segment="underlay",
        summary=f"{', '.join(strangers)} take{'s' if len(strangers) == 1 else ''} {address}, the address of "
        f"{owner.name}, to {', '.join(macs)}, but {owner.name}'s NIC is {link.get('mac')}: "
        "another machine answers for it, or an entry is set by hand",
        evidence=[
            Evidence(name, f"neighbour {address}", mac, str(link.get("mac")), f"ip neigh show {address}")
            for name, mac in strangers.items()
        ],
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (
                    f"arping -D -I {link.get('name')} {address}   # elsewhere: who answers",
                    f"take {address} from the machine with {macs[0]}, if there is one",
                    flush,
                ),
                "The other machine loses the address.",
            )
        ],
    )


def decide_vtep(case: Case) -> t.Iterator[Finding]:
    """Nodes that advertise one and the same address, though it is not on both (then it is duplicate-node-ip)."""
    rows = [(own, host) for host in case.fleet.swarm_hosts if (own := advertised(host))]
    for address, hosts in _twice(rows).items():
        holders = [host for host in hosts if address in host.facts.addresses]
        if len(holders) > 1 or _same_machine(hosts):
            continue
        wrong = [host for host in hosts if host not in holders] or hosts
        names = sorted(host.name for host in wrong)
        broken = [
            o
            for o in case.broken
            if o.pair.kind in ACROSS and len(set(o.pair.hosts)) > 1 and set(names) & set(o.pair.hosts)
        ]
        owner = f", the address of {holders[0].name}" if holders else ""
        yield Finding(
            cause="duplicate-vtep-ip",
            severity=severity_of(broken),
            confidence=LIKELY,
            hosts=names,
            segment="control-plane",
            summary=f"{' and '.join(names)} advertise{'s' if len(names) == 1 else ''} {address}{owner} as VTEP: "
            f"the others send the tunnel to one host only",
            evidence=[
                Evidence(
                    host.name,
                    "the address the engine advertises",
                    address,
                    "an address of its own",
                    "docker info --format '{{.Swarm.NodeAddr}}'",
                )
                for host in hosts
            ],
            explains=pair_ids(broken),
            remedies=[
                Remedy(
                    "cure",
                    (
                        f"on {names[0]}: docker swarm leave",
                        f"on {names[0]}: docker swarm join --advertise-addr OWN-ADDRESS --token … MANAGER:2377",
                    ),
                    "The node gets a new id; its tasks move.",
                    disruptive=True,
                )
            ],
        )


CAUSES: list[Cause] = [
    Cause(
        "cloned-identity",
        "Hosts that are copies of one another",
        "engine IDs, machine-ids, swarm node IDs and the MACs of the underlay's NICs, across the fleet",
        "MACs of container interfaces, which are alike on every host; one host listed twice in the inventory; product "
        "UUIDs, which vendors ship alike, are not read",
        decide_cloned,
        remedy="give the copy an identity of its own",
    ),
    Cause(
        "duplicate-hostname",
        "Two hosts have the same name",
        "host names across the fleet",
        "a Swarm tells nodes apart by their IDs",
        decide_hostname,
        remedy="rename one of them and restart its engine",
    ),
    Cause(
        "duplicate-node-ip",
        "The address of a node exists twice",
        "addresses of all hosts, neighbour entries for every node against the MACs it has",
        "a virtual address that moves between hosts is no node's own; a router may answer ARP for others; "
        "docker_gwbridge has the same address everywhere",
        decide_address,
        remedy="take the address from the machine it does not belong to",
    ),
    Cause(
        "duplicate-vtep-ip",
        "Two nodes advertise the same tunnel address",
        "the addresses that engines advertise, against the interfaces that hold them",
        "the node list of a manager may show 0.0.0.0 or 127.0.0.1: each node is asked itself",
        decide_vtep,
        remedy="leave the swarm and join with an address of its own",
    ),
]

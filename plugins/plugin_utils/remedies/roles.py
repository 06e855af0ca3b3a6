# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which role repairs what, and with which values: what was read on the fleet in the words of the roles' variables.

A value that was not read is never made up: then C(Step.role) is None, and a person does what the manual steps say.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import typing as t
from dataclasses import dataclass, field

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case, Facts, Remedy
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.rule_owner import (
    FIREWALLD,
    IPTABLES_TABLES,
    UFW,
    UNKNOWN,
    Service,
    owner_of,
    runs,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import RuleRef
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host

ROLES = (
    "br_netfilter",
    "checksum_offload",
    "conntrack_limits",
    "engine_dns",
    "engine_rules",
    "firewall_ports",
    "forward_policy",
    "ip_forwarding",
    "mss_clamp",
    "nm_unmanaged",
    "overlay_entries",
    "overlay_mtu",
    "rp_filter",
    "source_address",
    "swarm_node",
)
CURE, MITIGATION = "cure", "mitigation"
BUILT_IN = ("INPUT", "OUTPUT", "FORWARD", "PREROUTING", "POSTROUTING")
CONTAINER_LINKS = ("docker*", "br-*", "veth*", "vxlan*", "cali*", "flannel*", "cilium*")
TCP_IPV4, TCP_IPV6 = 40, 60  # headers without options
SMALLEST_SEGMENT, SMALLEST_MTU = 88, 68  # what kernel and IPv4 (RFC 791) let a path be
# Whose rules may be amended: firewalld and ufw in their own words, and what no program makes anew.
AMENDABLE = (FIREWALLD, UFW, UNKNOWN)


@dataclass(frozen=True)
class Step:
    """A role with its variables, or neither."""

    role: str | None = None
    vars: Facts = field(default_factory=dict)
    hosts: tuple[str, ...] = ()

    def remedy(self, kind: str, manual: t.Iterable[str], risk: str, disruptive: bool = False) -> Remedy:
        return Remedy(kind, tuple(manual), risk, disruptive, self.role, self.vars, self.hosts)


NOBODY = Step()


def step(role: str, host: str, **values: t.Any) -> Step:
    """A role on one host; C(values) by the names of its variables without the role's own."""
    return Step(role, {f"{role}_{name}": value for name, value in values.items()}, (host,))


def addresses(values: t.Iterable[str | None]) -> list[str]:
    """What of these are addresses, once each, in order."""
    found = set()
    for value in values:
        try:
            one = ipaddress.ip_address(str(value))
        except ValueError:
            continue
        if not getattr(one, "scope_id", None):  # else good on its own link only
            found.add(one)
    return [str(one) for one in sorted(found, key=lambda known: (known.version, int(known)))]


# ---- packet filter


def chain_of(facts: Facts, rule: RuleRef) -> Facts | None:
    """The base chain that leads to a rule, as the roles want it named."""
    base = next((chain for chain in facts.get("chains") or [] if chain["ref"] == rule.base), None)
    if base is None:
        return None
    return {
        "backend": _backend(base),
        "family": base["family"],
        "table": base["table"],
        "chain": base["name"],
    }


def _backend(chain: Facts) -> str:
    if chain["backend"] == "legacy":
        return "iptables-legacy"
    made = chain["family"] in ("ip", "ip6") and chain["table"] in IPTABLES_TABLES and chain["name"] in BUILT_IN
    return "iptables-nft" if made else "nft"


def owner_word(rule: RuleRef, chain: Facts, host: Host) -> str | None:
    """What the roles call the owner of a rule; None where its maker would put it back, or means it."""
    owner = owner_of(rule, host)
    if owner not in AMENDABLE:
        return None
    if owner in (FIREWALLD, UFW) and runs(host, owner):
        return owner
    if owner == FIREWALLD and chain["backend"] == "nft":
        return None  # a table that firewalld fills when it runs again
    return "nftables" if chain["backend"] == "nft" else "iptables"


def _chains_by_owner(host: Host, rules: t.Iterable[RuleRef]) -> dict[str, list[Facts]] | None:
    """The base chains to amend, by owner; None where one of these rules cannot be amended."""
    found: dict[str, list[Facts]] = {}
    for rule in rules:
        chain = chain_of(host.facts.root.filter, rule)
        owner = owner_word(rule, chain, host) if chain else None
        if chain is None or owner is None:
            return None
        members = found.setdefault(owner, [])
        if chain not in members:
            members.append(chain)
    return found


def firewall_ports(
    host: Host,
    rules: t.Iterable[RuleRef],
    direction: str,
    services: t.Iterable[Service],
    peers: t.Iterable[str | None],
) -> list[Step]:
    """Accept these services from (or to) these peers in every base chain that drops them: a step for each owner."""
    wanted = sorted({one for one in services if one.can_be_opened}, key=str)
    known, chains = addresses(peers), _chains_by_owner(host, rules)
    if not wanted or not known or not chains or (direction == "out" and FIREWALLD in chains):
        return [NOBODY]  # what leaves a host is no matter of firewalld's zones
    steps = [
        step(
            "firewall_ports",
            host.name,
            services=[one.row for one in wanted if not one.answers or owner not in (FIREWALLD, UFW)],
            peers=known,
            direction=direction,
            chains=members,
            owner=owner,
        )
        for owner, members in chains.items()
    ]
    # firewalld and ufw accept established connections by themselves: who drops them there is another rule's matter.
    return [one for one in steps if one.vars["firewall_ports_services"]] or [NOBODY]


def forward_policy(host: Host, rules: t.Iterable[RuleRef], accepts: list[Facts]) -> list[Step]:
    """Accept what is forwarded between these interfaces in every forward chain whose policy drops it."""
    chains = _chains_by_owner(host, rules)
    if not accepts or not chains or FIREWALLD in chains:
        return [NOBODY]  # what firewalld forwards is decided by zones and policies of the site
    return [
        step("forward_policy", host.name, accepts=accepts, chains=members, owner=owner)
        for owner, members in chains.items()
    ]


def peers_of(case: Case, name: str) -> list[str | None]:
    """The underlay addresses of the other nodes of the fleet's Swarm, those that were not asked among them."""
    return [*(host.underlay_ip for host in case.fleet.swarm_hosts if host.name != name), *sorted(case.fleet.unasked)]


# ---- the host's stack


def ip_forwarding(host: Host, interface: str | None) -> Step:
    """Of one interface, or of the whole host where none is named."""
    if interface is None:
        return step("ip_forwarding", host.name, interfaces=[], **{"global": True})
    return step("ip_forwarding", host.name, interfaces=[interface], **{"global": False})


def rp_filter(host: Host, interface: str | None) -> Step:
    return step("rp_filter", host.name, interfaces=[interface], value=2) if interface else NOBODY


# ---- the overlay


def overlay_entries(host: Host, entries: list[Facts]) -> Step:
    """C(entries): network (its id), mac, ip (None leaves the neighbour entry alone), vtep."""
    whole = all(entry["network"] and entry["mac"] and addresses([entry["vtep"]]) for entry in entries)
    return step("overlay_entries", host.name, entries=entries) if entries and whole else NOBODY


def source_address(host: Host, own: str | None, peers: t.Iterable[str | None]) -> Step:
    """Routes to exactly these peers leave from C(own)."""
    source, known = addresses([own]), addresses(peers)
    return step("source_address", host.name, address=source[0], peers=known) if source and known else NOBODY


def checksum_offload(host: Host, interface: str | None) -> Step:
    """The one feature that computes checksums of what the tunnel carries as well."""
    if not interface:
        return NOBODY
    return step("checksum_offload", host.name, interfaces=[interface], features=["tx-checksum-ip-generic"])


def conntrack_limits(host: Host, most: int) -> Step:
    return step("conntrack_limits", host.name, max=most)


def br_netfilter(host: Host) -> Step:
    return step("br_netfilter", host.name, keys=["bridge-nf-call-iptables"])


def nm_unmanaged(host: Host, names: t.Iterable[str]) -> Step:
    """By the pattern of their kind where there is one: veths come and go by other names."""
    wanted = []
    for name in sorted(names):
        pattern = next((one for one in CONTAINER_LINKS if fnmatch.fnmatchcase(name, one)), name)
        if pattern not in wanted:
            wanted.append(pattern)
    return step("nm_unmanaged", host.name, interfaces=[f"interface-name:{one}" for one in wanted])


# ---- MTU


def mss_clamp(host: Host, networks: list[Facts], outgoing: t.Iterable[str] = ()) -> Step:
    """Inside the overlays of this host (C(networks): id, mss4, mss6), and for what it forwards out of C(outgoing)."""
    interfaces = sorted(outgoing)
    if not networks and not interfaces:
        return NOBODY
    return step("mss_clamp", host.name, forward=bool(interfaces), interfaces=interfaces, networks=networks)


def segments(host: Host, network_id: str, inner: int) -> Facts | None:
    """The largest TCP segments that fit into C(inner) bytes on a network, where this host has a part of it."""
    if host.facts.overlay_namespace(network_id) is None or inner - TCP_IPV6 < SMALLEST_SEGMENT:
        return None
    return {"id": network_id, "mss4": inner - TCP_IPV4, "mss6": inner - TCP_IPV6}


def overlay_mtu(case: Case, networks: dict[str, int]) -> Step:
    """C(networks): the MTU option by name. Networks are made on a manager."""
    manager = next((host for host in case.fleet.managers), None)
    rows = [{"name": name, "mtu": mtu} for name, mtu in sorted(networks.items()) if mtu >= SMALLEST_MTU]
    if manager is None or not rows:
        return NOBODY
    return step("overlay_mtu", manager.name, networks=rows, daemon_mtu=0)


def daemon_mtu(host: Host, mtu: int) -> Step:
    """Of the engine's default bridge."""
    return step("overlay_mtu", host.name, networks=[], daemon_mtu=mtu) if mtu >= SMALLEST_MTU else NOBODY


# ---- the engine and its cluster


def engine_rules(host: Host) -> Step:
    """The engine makes its chains anew; the role needs no more than to be run there."""
    return step("engine_rules", host.name)


def engine_dns(host: Host, servers: t.Iterable[str | None]) -> Step:
    """Name servers that were seen to answer; those of the loopback are another's in a container."""
    known = [one for one in addresses(servers) if not ipaddress.ip_address(one).is_loopback]
    return step("engine_dns", host.name, servers=known) if known else NOBODY


def activate(manager: Host, node_id: str) -> Step:
    return step("swarm_node", manager.name, nodes=[node_id], rejoin=False)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who made a rule of the packet filter, how a person reads it again, and in whose words it is repaired."""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Facts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import Packet, RuleRef
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host

UNKNOWN = "not known"
OPERATOR = "the operator"
FIREWALLD, UFW, DOCKER, CALICO, KUBE_PROXY, FLANNEL = "firewalld", "ufw", "Docker", "Calico", "kube-proxy", "flannel"

# The names these programs give their chains (iptables) and tables (nftables).
_CHAINS = (
    ("DOCKER-USER", OPERATOR),
    ("DOCKER", DOCKER),
    ("ufw", UFW),
    ("cali-", CALICO),
    ("KUBE-", KUBE_PROXY),
    ("FLANNEL-", FLANNEL),
    ("CILIUM_", "cilium"),
    ("OLD_CILIUM_", "cilium"),
    ("LIBVIRT_", "libvirt"),
    ("NETAVARK", "Podman"),
    ("CNI-", "a CNI plugin"),
    ("WEAVE", "Weave"),
    ("f2b-", "fail2ban"),
    ("ts-", "Tailscale"),
)
_ZONE_CHAINS = ("IN_", "FWDI_", "FWDO_", "FWD_", "POST_", "PRE_")
_ZONE_PARTS = ("_ZONES", "_ZONES_SOURCE", "_direct", "_POLICIES_pre", "_POLICIES_post")
_TABLES = (
    ("firewalld", FIREWALLD),
    ("docker-", DOCKER),
    ("calico", CALICO),
    ("kube-proxy", KUBE_PROXY),
    ("flannel", FLANNEL),
    ("cilium", "cilium"),
    ("libvirt", "libvirt"),
    ("netavark", "Podman"),
    ("lxd", "LXD"),
    ("incus", "Incus"),
    ("f2b-", "fail2ban"),
    ("crowdsec", "CrowdSec"),
)
IPTABLES_TABLES = ("filter", "nat", "mangle", "raw", "security")


def owner_of(rule: RuleRef, host: Host) -> str:
    """The program (or person) whose rule this is, by what it calls its chains and tables."""
    if (rule.comment or "").startswith("cali:"):
        return CALICO
    for start, name in _TABLES:
        if rule.table.startswith(start):
            return name
    owner = _owner_of_chain(rule, host, rule.chain, set())
    if owner:
        return owner
    if rule.why == "policy" and rule.table in IPTABLES_TABLES and runs(host, UFW) and _has_chain(host, rule, "ufw"):
        return UFW  # it sets the policies of the built-in chains besides its own chains
    return UNKNOWN


def _owner_of_chain(rule: RuleRef, host: Host, chain: str, seen: set[str]) -> str | None:
    """Whose chain it is, or else whose chain leads to it."""
    for start, name in _CHAINS:
        if chain.startswith(start):
            return name
    if chain.startswith(_ZONE_CHAINS) or chain.endswith(_ZONE_PARTS):
        return FIREWALLD
    seen.add(chain)
    for other in host.facts.root.filter.get("chains") or []:
        here = (other["backend"], other["family"], other["table"]) == (rule.backend, rule.family, rule.table)
        leads = any(expr.get("chain") == chain for one in other["rules"] for expr in one["exprs"])
        if here and leads and other["name"] not in seen:
            owner = _owner_of_chain(rule, host, other["name"], seen)
            if owner:
                return owner
    return None


def _has_chain(host: Host, rule: RuleRef, start: str) -> bool:
    return any(
        chain["table"] == rule.table and chain["family"] == rule.family and chain["name"].startswith(start)
        for chain in host.facts.root.filter.get("chains") or []
    )


def manager(host: Host, name: str) -> Facts | None:
    """What the host says of one of the programs that manage networking or the filter."""
    managers = (host.facts.facts.get("host") or {}).get("managers") or []
    return next((row for row in managers if row.get("name") == name), None)


def runs(host: Host, name: str) -> bool:
    return bool((manager(host, name) or {}).get("running"))


def rule_words(rule: RuleRef) -> str:
    if rule.why == "policy":
        return f"policy {rule.verdict} of {rule.family} {rule.table} {rule.chain}"
    comment = f' (comment "{rule.comment}")' if rule.comment else ""
    return f"rule `{rule.text}` in {rule.family} {rule.table} {rule.chain}{comment}"


def owner_words(owner: str) -> str:
    """For a summary: nothing where nobody is known."""
    return "" if owner == UNKNOWN else f", of {owner}"


def rule_source(rule: RuleRef, owner: str) -> str:
    return f"packet filter, {rule.backend} {rule.family} {rule.table} {rule.chain}, hook {rule.hook}, owner {owner}"


def verify(rule: RuleRef, inside: str = "") -> str:
    """The command that shows the rule with its counter. C(inside): what has to stand before it, for a namespace."""
    if tool := _iptables(rule):
        return f"{inside}{tool} -t {rule.table} -vnL {rule.chain} --line-numbers"
    return f"{inside}nft -a list chain {rule.family} {rule.table} {rule.chain}"


def _iptables(rule: RuleRef) -> str | None:
    """The program whose chain it is; None where it is nft's."""
    tool = "ip6tables" if rule.family == "ip6" else "iptables"
    if rule.backend == "legacy":
        return f"{tool}-legacy"
    return tool if rule.family in ("ip", "ip6") and rule.table in IPTABLES_TABLES else None


def accepting(policy: RuleRef, packet: Packet, inside: str = "") -> str:
    """The command that lets such packets pass a chain whose policy drops them: at its end, where no rule is before."""
    arrives = policy.hook.rpartition(":")[2] in ("ingress", "prerouting", "input")
    face = packet.iif if arrives else packet.oif  # none where it is not known
    answer = packet.ct_state == ("established",)
    if tool := _iptables(policy):
        words = [f"{'-i' if arrives else '-o'} {face}"] if face else []
        words += [f"-p {packet.protocol}", *([f"--dport {packet.dport}"] if packet.dport else [])]
        words = ["-m conntrack --ctstate ESTABLISHED,RELATED"] if answer else words
        return f"{inside}{tool} -t {policy.table} -A {policy.chain} {' '.join(words)} -j ACCEPT"
    words = [f"{'iifname' if arrives else 'oifname'} {face}"] if face else []
    words += [f"{packet.protocol} dport {packet.dport}" if packet.dport else f"meta l4proto {packet.protocol}"]
    words = ["ct state established,related"] if answer else words
    return f"{inside}nft add rule {policy.family} {policy.table} {policy.chain} {' '.join(words)} accept"


class Service(t.NamedTuple):
    """What a packet filter has to let pass: a port of whoever is asked, or what answers from it (TCP)."""

    protocol: str
    port: int | None = None
    answers: bool = False

    @property
    def words(self) -> str:
        what = f"{self.protocol}/{self.port}" if self.port else self.protocol
        return f"answers of {what}" if self.answers else what

    @property
    def can_be_opened(self) -> bool:
        return self.protocol == "esp" or (self.protocol in ("tcp", "udp") and bool(self.port))

    @property
    def row(self) -> dict[str, t.Any]:
        """For the variables of firewall_ports."""
        found: dict[str, t.Any] = {"protocol": self.protocol}
        return found | ({"port": self.port} if self.port else {}) | ({"answers": True} if self.answers else {})


def opening(
    rule: RuleRef, owner: str, host: str, direction: str, peers: t.Sequence[str], services: t.Sequence[Service]
) -> list[str]:
    """How the owner of a rule is told to let these ports pass from (or to) these peers only."""
    incoming = direction == "in"
    ports = [(one.protocol, one.port) for one in services if not one.answers]
    if owner == FIREWALLD and incoming:
        steps = [f"on {host}:"]
        for protocol, port in ports:
            for peer in peers:
                family = "ipv6" if ":" in peer else "ipv4"
                rich = f'rule family="{family}" source address="{peer}" port port="{port}" protocol="{protocol}" accept'
                steps.append(f"  firewall-cmd --permanent --add-rich-rule='{rich}'")
        return [*steps, "  firewall-cmd --reload   # then restart docker, unless it has the fix of moby PR 50443"]
    if owner == UFW:
        words = "allow from {peer} to any port {port} proto {protocol}"
        if not incoming:
            words = "allow out to {peer} port {port} proto {protocol}"
        lines = [
            f"  ufw {words.format(peer=peer, port=port, protocol=protocol)}"
            for protocol, port in ports
            for peer in peers
        ]
        return [f"on {host}:", *lines]
    if owner == CALICO:
        return [
            (
                "give one of the two another port: FelixConfiguration vxlanPort, or docker swarm init --data-path-port "
                "(only when a swarm is made anew);"
            ),
            f"or name the peers to Calico: FelixConfiguration externalNodesList: [{', '.join(peers)}]",
        ]
    if owner in (KUBE_PROXY, DOCKER, FLANNEL, "cilium", "libvirt", "Podman"):
        return [f"on {host}: {owner} made the rule and makes it again: change its configuration, not the rule; then:"]
    side, ends = ("saddr", "from") if incoming else ("daddr", "to")
    place = f"{rule.family} {rule.table} {rule.chain}"
    maker = "look in nftables.conf, scripts, saved rulesets" if owner == UNKNOWN else f"made by {owner}"
    steps = [f"On {host}, in the chain that drops ({place}; {maker}), accept before the dropping rule:"]
    family = "ip6" if any(":" in peer for peer in peers) else "ip"
    for one in services:
        match = f"sport {one.port} ct state established" if one.answers else f"dport {one.port}"
        steps.append(
            f"  {ends} {', '.join(peers)}: {one.words}  (nft: {family} {side} {{ {', '.join(peers)} }} "
            f"{one.protocol} {match} accept)"
        )
    return steps


def hidden_in_legacy(rule: RuleRef, host: Host) -> bool:
    """A legacy rule on a host whose rules, the engine's among them, are otherwise in nf_tables."""
    if rule.backend != "legacy":
        return False
    chains = host.facts.root.filter.get("chains") or []
    used = {chain["backend"] for chain in chains if chain["rules"]}
    engines = {chain["backend"] for chain in chains if chain["name"].startswith("DOCKER")}
    return "nft" in used and "legacy" not in engines

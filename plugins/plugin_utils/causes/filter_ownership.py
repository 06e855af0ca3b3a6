# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who owns the packet filter: rules and chains that another tool made, flushed, moved or hides."""

from __future__ import annotations

import typing as t
from datetime import UTC, datetime

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes import routed
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
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
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.forwarding import routed_pairs
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.rule_owner import FIREWALLD, manager
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies import roles

FLUSHED, WITHOUT_IPTABLES = "ruleset-flushed", "docker-iptables-false"
INGRESS_CHAIN = "DOCKER-INGRESS"
NFT_AND_SWARM = "firewall-backend=nftables is incompatible with swarm"


# ---- what the engine has in the packet filter


def engine_option(facts: HostFacts, key: str) -> t.Any:
    """A setting of the engine, from its command line or daemon.json; None where neither has it."""
    for source in ("daemon_flags", "daemon_config"):
        value = (facts.engine.get(source) or {}).get(key)
        if value is not None:
            return value
    return None


def says_no(value: t.Any) -> bool:
    return str(value).lower() == "false"


def nft_backend(facts: HostFacts) -> bool:
    driver = (facts.engine.get("firewall_backend") or {}).get("driver") or engine_option(facts, "firewall-backend")
    return str(driver or "").startswith("nftables")


def uses_iptables(facts: HostFacts) -> bool:
    """An engine that runs in the host's own namespace, and should have its chains among iptables' tables."""
    rootless = any("rootless" in str(option) for option in facts.engine.get("security_options") or [])
    bridged = any(network.get("driver") == "bridge" for network in facts.networks)
    return facts.engine.get("state") == "running" and bridged and not rootless and not nft_backend(facts)


def _jumps(chain: Facts, start: str) -> bool:
    targets = [expr.get("chain") or expr.get("target") for rule in chain["rules"] for expr in rule["exprs"]]
    return any(str(target).startswith(start) for target in targets if target)


def lost_parts(facts: HostFacts) -> list[str]:
    """The parts of iptables that have nothing of the engine's any more, of "nat" and "filter"."""
    chains = facts.root.filter.get("chains") or []
    bases = [chain for chain in chains if chain["family"] == "ip" and chain.get("hook")]
    wanted = {"nat": ("prerouting", "DOCKER"), "filter": ("forward", "DOCKER")}
    return [
        table
        for table, (hook, start) in wanted.items()
        if not any(c["table"] == table and c["hook"] == hook and _jumps(c, start) for c in bases)
    ]


# ---- ruleset-flushed and docker-iptables-false: the same picture, by accident or by configuration


def decide_flushed(case: Case) -> t.Iterator[Finding]:
    for host in case.fleet.answering:
        if host.readings and not says_no(engine_option(host.facts, "iptables")):
            parts = _lost_throughout(case, host)
            if parts:
                yield _flushed(case, host, parts)


def decide_without_iptables(case: Case) -> t.Iterator[Finding]:
    for host in case.fleet.answering:
        if host.readings and says_no(engine_option(host.facts, "iptables")) and _lost_throughout(case, host):
            finding = _without_iptables(case, host)
            if finding.explains or _has_users(host):
                yield finding


def _lost_throughout(case: Case, host: Host) -> list[str]:
    """What is missing in every reading of a host whose filter was read in full."""
    if not case.filter_is_known(host.name) or not all(uses_iptables(facts) for facts in host.readings[:1]):
        return []
    gone = [set(lost_parts(facts)) for facts in host.readings if facts.root.facts.get("filter") is not None]
    return sorted(set.intersection(*gone)) if gone else []


def _has_users(host: Host) -> bool:
    """Containers whose traffic the engine's rules would carry."""
    return any(container.get("endpoints") or container.get("ports") for container in host.facts.containers)


def _broken_by_it(case: Case, host: Host) -> list[Observation]:
    """Open pairs of the host that need what is missing: untranslated, dropped by FORWARD's policy, or refused."""
    open_pairs = {o.pair.id for o in case.unexplained}
    found = []
    for observation in routed_pairs(case, host):
        if observation.pair.id in open_pairs and (
            _untranslated(case, observation) or _by_policy(case, observation) or _nobody_answers(observation)
        ):
            found.append(observation)
    return found


def _untranslated(case: Case, observation: Observation) -> bool:
    return observation.pair.kind == "egress" and translates(case, observation) is False


def translates(case: Case, observation: Observation) -> bool | None:
    """Whether nat gives a container's packet the host's address on its way out."""
    pair = observation.pair
    for probe in pair.probes:
        protocol = routed.protocol_of(probe)
        out = routed.way_out(case, observation, protocol, probe.port) if protocol else None
        if out is not None:
            fate = out.fate()
            return False if fate is None else fate.packet.snat
    return None


def _by_policy(case: Case, observation: Observation) -> bool:
    stop = routed.stopped(case, observation)
    return stop is not None and stop.rule.hook == "forward" and stop.rule.why == "policy"


def _nobody_answers(observation: Observation) -> bool:
    refused = any(result["status"] == "refused" for result in observation.results.values())
    return observation.pair.kind != "egress" and refused


def _flushed(case: Case, host: Host, parts: list[str]) -> Finding:
    broken = _broken_by_it(case, host)
    words = " and ".join(parts)
    effect = f": {_effect(broken)}" if broken else "; nothing is broken by it now, but new published ports will be"
    return Finding(
        cause=FLUSHED,
        severity=severity_of(broken),
        confidence=LIKELY,
        hosts=[host.name],
        segment="nat",
        summary=f"The engine's rules on {host.name} were flushed ({words}){effect}",
        evidence=[*_missing_evidence(host, parts), *probe_evidence(broken)],
        explains=pair_ids(broken),
        remedies=[
            roles.engine_rules(host).remedy(
                "cure",
                (
                    f"on {host.name}: systemctl restart docker   # only at its start the engine makes its chains",
                    "lasting: no 'flush ruleset' in /etc/nftables.conf or a script; flush a table of your own",
                ),
                "Containers stop with the engine unless live-restore is set (which a Swarm node refuses).",
                disruptive=True,
            )
        ],
    )


def _effect(broken: list[Observation]) -> str:
    egress = [o for o in broken if o.pair.kind == "egress"]
    words = [f"{len(egress)} pair(s) from containers to the outside"] if egress else []
    others = len(broken) - len(egress)
    return " and ".join([*words, *([f"{others} to published ports"] if others else [])]) + " fail"


def _missing_evidence(host: Host, parts: list[str]) -> t.Iterator[Evidence]:
    expected = {"nat": ("PREROUTING", "a jump to DOCKER"), "filter": ("FORWARD", "jumps to DOCKER-USER and the like")}
    for part in parts:
        chain, wanted = expected[part]
        yield Evidence(
            host.name,
            f"packet filter, ip {part} {chain}",
            "nothing of the engine's: no jump to a chain of its own",
            wanted,
            f"iptables -t {part} -S {chain}",
        )


def probe_evidence(broken: list[Observation]) -> list[Evidence]:
    """The first broken pair, in numbers."""
    for observation in broken[:1]:
        results = [
            f"{key} {observation.results[key]['status']}"
            for key in observation.failed_layers()
            if key in observation.results
        ]
        return [
            Evidence(
                observation.pair.src.host,
                f"probes {observation.pair.id}",
                f"{', '.join(results)}; {len(broken)} pair(s) broken",
                "answered",
            )
        ]
    return []


def _without_iptables(case: Case, host: Host) -> Finding:
    broken = _broken_by_it(case, host)
    return Finding(
        cause=WITHOUT_IPTABLES,
        severity=severity_of(broken),
        confidence=LIKELY,
        hosts=[host.name],
        segment="engine",
        summary=f"The engine on {host.name} is configured not to touch iptables, and nothing else masquerades or "
        f"publishes for it{': ' + _effect(broken) if broken else ''}",
        evidence=[
            Evidence(
                host.name,
                "engine configuration, iptables",
                "false",
                "true (the default)",
                "grep -n iptables /etc/docker/daemon.json; ps -o args= -C dockerd",
            ),
            *_missing_evidence(host, ["nat", "filter"]),
            *probe_evidence(broken),
        ],
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (
                    f'on {host.name}: remove "iptables": false from /etc/docker/daemon.json or dockerd\'s command line',
                    "own rules for containers: in the chain DOCKER-USER, which the engine never changes",
                    f"on {host.name}: systemctl restart docker",
                ),
                "Published ports are open to everyone again who reaches the host: limit them in DOCKER-USER first.",
                disruptive=True,
            )
        ],
    )


# ---- firewalld-reload


def reloaded_at(host: Host) -> float | None:
    """When firewalld last threw everybody's rules away, as the engine or firewalld says."""
    info = (host.facts.engine.get("firewall_backend") or {}).get("info") or []
    for row in info:
        name, value = (row[0], row[1]) if isinstance(row, (list, tuple)) and len(row) == 2 else (None, None)
        if name == "ReloadedAt" and value:
            try:
                return datetime.fromisoformat(str(value)[:19]).replace(tzinfo=UTC).timestamp()
            except ValueError:
                return 0.0
    told = ((manager(host, FIREWALLD) or {}).get("config") or {}).get("reloaded")
    return float(told) if told else None


def ingress_ports(case: Case) -> set[int]:
    """Ports the routing mesh publishes on every node."""
    return {
        port["published"]
        for host in case.fleet.managers
        for service in host.facts.swarm.get("services") or []
        for port in service.get("ports") or []
        if port.get("published") and port.get("mode", port.get("publish_mode", "ingress")) == "ingress"
    }


def has_chain(facts: HostFacts, name: str) -> bool:
    return any(chain["name"] == name for chain in facts.root.filter.get("chains") or [])


def decide_firewalld_reload(case: Case) -> t.Iterator[Finding]:
    """The ingress chains gone after a reload, while other nodes have them or services publish ports."""
    ports = ingress_ports(case)
    elsewhere = [h.name for h in case.fleet.swarm_hosts if has_chain(h.facts, INGRESS_CHAIN)]
    for host in case.fleet.swarm_hosts:
        when = reloaded_at(host)
        if when is None or not case.filter_is_known(host.name) or not uses_iptables(host.facts):
            continue
        if any(has_chain(facts, INGRESS_CHAIN) for facts in host.readings) or not (ports or elsewhere):
            continue
        if "nat" in _lost_throughout(case, host):
            continue  # more than a reload's loss: ruleset-flushed says so
        broken = [o for o in case.unexplained if o.pair.dst.host == host.name and _asks_for(o, ports)]
        yield _reloaded(host, when, elsewhere, broken)


def _asks_for(observation: Observation, ports: set[int]) -> bool:
    return observation.pair.kind == "published" and any(probe.port in ports for probe in observation.pair.probes)


def _reloaded(host: Host, when: float, elsewhere: list[str], broken: list[Observation]) -> Finding:
    stamp = datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds") if when else "a time not told"
    others = f"; {', '.join(elsewhere[:3])} has it" if elsewhere else ""
    return Finding(
        cause="firewalld-reload",
        severity=severity_of(broken),
        confidence=LIKELY,
        hosts=[host.name],
        segment="nat",
        summary=f"{host.name} lost the chain {INGRESS_CHAIN} when firewalld was reloaded: the routing mesh's ports do "
        f"not lead anywhere there",
        evidence=[
            Evidence(
                host.name,
                "packet filter, nat",
                f"no chain {INGRESS_CHAIN}{others}",
                f"{INGRESS_CHAIN} with a DNAT rule for each published port",
                f"iptables -t nat -S {INGRESS_CHAIN}",
            ),
            Evidence(
                host.name, "firewalld", f"reloaded at {stamp}", None, "docker info -f '{{json .FirewallBackend}}'"
            ),
            *probe_evidence(broken),
        ],
        explains=pair_ids(broken),
        remedies=[
            roles.engine_rules(host).remedy(
                "cure",
                (
                    f"on {host.name}: systemctl restart docker",
                    (
                        "lasting: an engine that has the fix of moby pull request 50443; until then restart docker "
                        "after every firewall-cmd --reload"
                    ),
                ),
                "Containers stop with the engine unless live-restore is set (which a Swarm node refuses).",
                disruptive=True,
            )
        ],
    )


# ---- docker29-nft-backend


def decide_nft_backend(case: Case) -> t.Iterator[Finding]:
    """The nftables backend where it does not work: on a Swarm node, or where nobody turned forwarding on."""
    for host in case.fleet.answering:
        refused = _refusal(host.facts)
        sysctls = host.latest.root.sysctls
        unforwarded = nft_backend(host.facts) and sysctls.get("net.ipv4.ip_forward") == 0 and _has_users(host)
        if not refused and not unforwarded:
            continue
        observed = refused or "net.ipv4.ip_forward = 0: with this backend the engine does not turn it on"
        what = "refuses to be a Swarm node" if refused else "does not turn IP forwarding on"
        yield Finding(
            cause="docker29-nft-backend",
            # What is broken by it has a finding of its own: engine-down, node-down or ip-forward-zero.
            severity=INFO,
            confidence=CONFIRMED if refused else LIKELY,
            hosts=[host.name],
            segment="engine",
            summary=f"With firewall-backend nftables the engine on {host.name} {what}",
            evidence=[
                Evidence(
                    host.name,
                    "engine" if refused else "firewall backend nftables",
                    observed,
                    "the iptables backend on Swarm nodes" if refused else "forwarding turned on by the host",
                    "docker info -f '{{json .FirewallBackend}}'; journalctl -u docker -n 50",
                )
            ],
            remedies=[
                Remedy(
                    "cure",
                    (
                        f'on {host.name}: "firewall-backend": "iptables" in /etc/docker/daemon.json on Swarm nodes',
                        "elsewhere: 'net.ipv4.ip_forward = 1' in a file of /etc/sysctl.d",
                        f"on {host.name}: systemctl restart docker",
                    ),
                    "Containers stop with the engine.",
                    disruptive=True,
                )
            ],
        )


def _refusal(facts: HostFacts) -> str | None:
    """What the engine said when the backend and the Swarm did not go together."""
    patterns = (facts.facts.get("log") or {}).get("patterns") or {}
    told = [facts.engine.get("error"), facts.swarm.get("error"), *(row.get("sample") for row in patterns.values())]
    return next((str(text) for text in told if text and NFT_AND_SWARM in str(text)), None)


# ---- named by packet_filter.py, which finds the dropping rule


def decided_with_the_rule(case: Case) -> t.Iterator[Finding]:
    """These are names of a dropping rule that packet_filter.py (or nat.py) finds: nothing is left to be said here."""
    return iter(())


CAUSES: list[Cause] = [
    Cause(
        FLUSHED,
        "The engine's rules were flushed by somebody else",
        "jumps from nat PREROUTING and filter FORWARD to the engine's chains; egress and published pairs",
        "none of it affects overlay traffic between containers; the userland proxy still answers published ports; an "
        "engine told to leave iptables alone; rootless engines and the nftables backend keep their rules elsewhere",
        decide_flushed,
        remedy="restart the engine; no 'flush ruleset' in nftables.conf or a script",
    ),
    Cause(
        WITHOUT_IPTABLES,
        "The engine is configured not to make iptables rules",
        "iptables: false in daemon.json or on dockerd's command line, and no chain of the engine's",
        "rules somebody else made for the same networks; the userland proxy still answers published ports",
        decide_without_iptables,
        remedy="remove the setting and keep own rules in DOCKER-USER",
    ),
    Cause(
        "firewalld-reload",
        "A reload of firewalld took the routing mesh's chains away",
        "the chain DOCKER-INGRESS in nat, ReloadedAt of the engine's firewall backend, other nodes' chains",
        "a Swarm that publishes nothing by the routing mesh has no such chain; engines with the fix put it back",
        decide_firewalld_reload,
        remedy="restart the engine after every reload, or upgrade it",
    ),
    Cause(
        "docker29-nft-backend",
        "The engine's nftables backend does not go with a Swarm, and leaves IP forwarding alone",
        "the engine's firewall backend, its last error, net.ipv4.ip_forward",
        "the backend itself is no fault on a host without a Swarm that has forwarding on",
        decide_nft_backend,
        remedy="the iptables backend on Swarm nodes; ip_forward = 1 in a file of /etc/sysctl.d",
    ),
    Cause(
        "nft-basechain-override",
        "One base chain accepts the tunnel, another one of the same hook drops it",
        "every base chain of the hook evaluated by itself: which accepts by a rule, which drops; rule counters",
        "a policy of accept, or a rule for established traffic, is no accept for the tunnel",
        decided_with_the_rule,
        remedy="accept in the chain that drops, in its owner's words: an accept ends only its own base chain",
    ),
    Cause(
        "legacy-nft-mix",
        "A rule of iptables-legacy drops what the nf_tables rules let pass, and neither nft nor iptables shows it",
        "legacy tables and nf_tables evaluated together; where the engine's chains are",
        "legacy tables that are loaded but empty; a host whose iptables is the legacy one throughout",
        decided_with_the_rule,
        remedy="move the rule to the backend in use, or remove it there: iptables-legacy-save shows it",
    ),
    Cause(
        "calico-drops-foreign-vxlan",
        "Calico drops VXLAN from hosts that are not its own, on a port the Swarm shares",
        "the dropping rule's comment and chain (cali-), the tunnel's port",
        "for Calico's own nodes the rule is right",
        decided_with_the_rule,
        remedy="another port for one of the two, or the peers in FelixConfiguration externalNodesList",
    ),
]

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Encrypted overlays: ESP, the marks and rules that belong to it, and kernels without it.

An encrypted network's packet crosses the sender's OUTPUT as VXLAN with a mark, leaves as ESP (IP protocol 50),
and at the receiver crosses INPUT twice: as ESP, and decrypted as VXLAN once more. The engine tells networks apart in
these rules by a match on bytes of the VXLAN header (u32, later bpf), which cannot be evaluated from outside: how many
such rules there are, and whose counter moves with the probes, has to do.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    CRITICAL,
    INFO,
    LIKELY,
    POSSIBLE,
    SYMPTOM,
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
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.rule_owner import Service
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import (
    INBOUND,
    Packet,
    RuleRef,
    path_fate,
    prepare,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.deltas import (
    Rise,
    protocol_counter,
    rise,
    rule_counter,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host, Network
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies import roles

OPTION = "encrypted"
OFF_WORDS = ("false", "0", "no", "off", "f", "n", "disabled")
VXLAN_BYTES = re.compile(r"-m (u32|bpf)\b")
PLAIN_ONLY = re.compile(r"--pol none\b")
DROPS = re.compile(r"\b(drop|DROP)\b")
MARK = "0xd0c4e3"  # moby's mark, reqid and nothing else's


def encrypted_networks(case: Case) -> list[Network]:
    return [network for network in case.fleet.networks.values() if network.is_overlay and OPTION in network.options]


def across(case: Case, networks: t.Iterable[Network]) -> list[Observation]:
    """Broken pairs between hosts on these networks."""
    ids = {network.id for network in networks}
    return [
        o
        for o in case.broken
        if o.pair.network_id in ids and o.pair.kind == "overlay" and o.pair.src.host != o.pair.dst.host
    ]


def xfrm(host: Host, name: str) -> Rise | None:
    return rise(host, host.facts.root.key, protocol_counter("xfrm", name))


def log_row(host: Host, pattern: str) -> Facts | None:
    return ((host.facts.facts.get("log") or {}).get("patterns") or {}).get(pattern)


def module(host: Host, name: str) -> str | None:
    return ((host.facts.facts.get("host") or {}).get("modules") or {}).get(name)


def teller(case: Case, network: Network) -> Host | None:
    """The host whose engine can be asked about a network: a manager, else any that has it."""
    hosts = [h for h in case.fleet.swarm_hosts if any(row["id"] == network.id for row in h.facts.networks)]
    return next((h for h in hosts if h.facts.is_manager), hosts[0] if hosts else None)


# ---- a kernel without ESP


def without_esp(case: Case, hosts: t.Iterable[str]) -> dict[str, list[Evidence]]:
    """Hosts that send on encrypted networks and cannot: no security association comes to be in their kernel."""
    found = {}
    for name in sorted(set(hosts)):
        host = case.host(name)
        missing, failed = module(host, "esp4") == "absent", log_row(host, "esp-failed")
        moved = xfrm(host, "XfrmOutNoStates")
        if not missing and not (failed and moved is not None and moved.rose):
            continue
        evidence = []
        if missing:
            words = "neither built in nor installed for this kernel"
            evidence.append(Evidence(name, "kernel module esp4", words, "present", "modprobe -n -v esp4"))
        if moved is not None:
            evidence.append(
                Evidence(
                    name,
                    "/proc/net/xfrm_stat XfrmOutNoStates",
                    str(moved),
                    "no rise with the probes",
                    "grep XfrmOutNoStates /proc/net/xfrm_stat; ip -s xfrm state",
                )
            )
        if failed:
            words = f"{(failed.get('sample') or '')[:160]} ({failed.get('count')} times)"
            verify = "journalctl -u docker | grep 'Failed Adding'"
            evidence.append(Evidence(name, "engine log", words, "no such line", verify))
        found[name] = evidence
    return found


def decide_no_esp(case: Case) -> t.Iterator[Finding]:
    networks = encrypted_networks(case)
    users = {e.host for network in networks for e in case.fleet.endpoints_by_network.get(network.id) or []}
    lacking = without_esp(case, users)
    if not lacking:
        return
    broken = [o for o in across(case, networks) if set(lacking) & set(o.pair.hosts)]
    names = ", ".join(sorted({o.pair.network or "" for o in broken}) or sorted(network.name for network in networks))
    moves = [xfrm(case.host(name), "XfrmOutNoStates") for name in lacking]
    yield Finding(
        cause="encrypted-no-esp-kernel",
        severity=severity_of(broken),
        confidence=CONFIRMED if broken and any(row is not None and row.tied for row in moves) else LIKELY,
        hosts=sorted(lacking),
        segment="engine",
        direction="both",
        network=names if ", " not in names else None,
        summary=f"The kernel of {', '.join(sorted(lacking))} makes no ESP state for the encrypted network {names}"
        + (f": nothing leaves, {len(broken)} pair(s) fail" if broken else ""),
        evidence=[item for rows in list(lacking.values())[:3] for item in rows],
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (
                    (
                        "modprobe esp4 (package kernel-modules-extra or linux-modules-extra of the running kernel), "
                        "then restart the engine"
                    ),
                ),
                "Restarting the engine restarts the node's containers.",
                disruptive=True,
            ),
            Remedy(
                "mitigation",
                (f"recreate {names} without the option {OPTION}, over an underlay that encrypts (WireGuard)",),
                "Until then what crosses the underlay is readable there.",
                disruptive=True,
            ),
        ],
    )


# ---- the option


def decide_false(case: Case) -> t.Iterator[Finding]:
    """Networks whose option says no, which the driver takes for yes: it looks only whether the key is there."""
    for network in encrypted_networks(case):
        value, host = (network.options[OPTION] or "").strip(), teller(case, network)
        if value.lower() not in OFF_WORDS or host is None:
            continue
        yield Finding(
            cause="encrypted-false-is-true",
            severity=INFO,
            confidence=LIKELY,
            hosts=[host.name],
            segment="vtep",
            network=network.name,
            summary=f"{network.name} has the option {OPTION}={value}, and is encrypted all the same: the driver only "
            "looks whether the option is there",
            evidence=[
                Evidence(
                    host.name,
                    f"options of {network.name}",
                    f"{OPTION}={value}",
                    "no such option on a network that is not to be encrypted",
                    f"docker network inspect {network.name} -f '{{{{json .Options}}}}'",
                )
            ],
            remedies=[
                Remedy(
                    "cure",
                    (f"recreate {network.name} without the option {OPTION}",),
                    "What is attached to the network is redeployed.",
                    disruptive=True,
                )
            ],
        )


# ---- rules that outlived their network


class Leftover(t.NamedTuple):
    """One of the engine's rules for encrypted networks: what it does, and where it is."""

    purpose: str  # drop | mark
    ref: str
    text: str
    place: str
    backend: str


def encryption_rules(host: Host, port: int | None) -> list[Leftover]:
    """The rules by which an engine refuses what is not encrypted, and marks what is to be."""
    found = []
    for chain in host.facts.root.filter.get("chains") or []:
        place = f"{chain.get('family')} {chain.get('table')} {chain.get('name')}"
        for rule in chain.get("rules") or []:
            text = rule.get("text") or ""
            if not VXLAN_BYTES.search(text) or (port and not re.search(rf"dport {port}\b", text)):
                continue
            purpose = "mark" if MARK in text else "drop" if PLAIN_ONLY.search(text) and DROPS.search(text) else None
            if purpose:
                found.append(Leftover(purpose, rule.get("ref") or "", text, place, chain.get("backend") or "nft"))
    return found


def owned(case: Case) -> int:
    """How many identifiers the encrypted networks of today have: one rule of a kind each."""
    ids = {network.id for network in encrypted_networks(case)}
    return len(
        {vni for h in case.fleet.answering for row in h.facts.networks if row["id"] in ids for vni in row["vnis"]}
    )


def decide_stale(case: Case) -> t.Iterator[Finding]:
    """More rules of one kind than encrypted networks: some belong to networks that are gone."""
    live, plain = owned(case), [n for n in case.fleet.networks.values() if n.is_overlay and OPTION not in n.options]
    idle: dict[str, dict[Leftover, Rise | None]] = {}
    for host in case.fleet.swarm_hosts:
        rules = encryption_rules(host, case.fleet.tunnel_port)
        lost = [o for o in across(case, plain) if host.name in o.pair.hosts]
        for purpose in ("drop", "mark"):
            same = [rule for rule in rules if rule.purpose == purpose]
            if len(same) <= live:
                continue
            moves = {rule: rise(host, host.facts.root.key, rule_counter(rule.ref)) for rule in same}
            acting = [rule for rule, moved in moves.items() if moved is not None and moved.rose]
            if purpose == "mark" and acting:
                refused = xfrm(host, "XfrmOutNoStates")
                acting = acting if refused is not None and refused.rose else []
            if lost and acting:
                yield _acting(host, live, acting, moves, lost)
            else:
                idle.setdefault(host.name, {}).update(moves)
    if idle:
        yield _idle(live, idle)


def _acting(
    host: Host, live: int, rules: list[Leftover], moves: dict[Leftover, Rise | None], broken: list[Observation]
) -> Finding:
    drops = rules[0].purpose == "drop"
    does = "drops what arrives unencrypted" if drops else "marks what leaves for encryption"
    networks = sorted({o.pair.network or "" for o in broken})
    return Finding(
        cause="encrypted-stale-rules",
        severity=CRITICAL,
        confidence=CONFIRMED if any((moved := moves[rule]) is not None and moved.tied for rule in rules) else LIKELY,
        hosts=[host.name],
        segment="host-filter-in" if drops else "host-filter-out",
        direction="in" if drops else "out",
        network=networks[0] if len(networks) == 1 else None,
        summary=f"{host.name} {does} on {', '.join(networks)}, by a rule of an encrypted network that is gone "
        f"({len(moves)} such rule(s), {live} encrypted network(s)): {len(broken)} pair(s) fail",
        evidence=[_rule_evidence(host.name, rule, moves[rule]) for rule in rules[:4]],
        explains=pair_ids(broken),
        remedies=[_stale_remedy([host.name])],
    )


def _idle(live: int, idle: dict[str, dict[Leftover, Rise | None]]) -> Finding:
    """Leftovers that act on no packet: one finding for all hosts, for the network was removed on all of them."""
    count = sum(len(moves) for moves in idle.values())
    first = [(name, rule, moved) for name, moves in idle.items() for rule, moved in moves.items()]
    return Finding(
        cause="encrypted-stale-rules",
        severity=INFO,
        confidence=POSSIBLE if live else LIKELY,
        hosts=sorted(idle),
        segment="host-filter-in" if any(rule.purpose == "drop" for _name, rule, _moved in first) else "host-filter-out",
        summary=f"{', '.join(sorted(idle))} keep(s) {count} rule(s) of encrypted networks, of which {live or 'none'} "
        "exist(s): a plain network that gets one of their VNIs will be cut off",
        evidence=[_rule_evidence(*row) for row in first[:4]],
        remedies=[_stale_remedy(sorted(idle))],
    )


def _rule_evidence(name: str, rule: Leftover, moved: Rise | None) -> Evidence:
    counted = f"; counter {moved}" if moved is not None else ""
    return Evidence(
        name,
        f"packet filter, {rule.backend} {rule.place}",
        f"rule `{rule.text}`{counted}",
        "a rule only for encrypted networks that exist",
        f"iptables -t {rule.place.split()[1]} -vnL {rule.place.split()[2]} --line-numbers",
    )


def _stale_remedy(names: list[str]) -> Remedy:
    return Remedy(
        "cure",
        (
            (
                f"on {', '.join(names)}: iptables-save | grep -E 'u32|bpf'; iptables -t TABLE -D CHAIN with the rule "
                "whose last number is the VNI of no encrypted network, times 256"
            ),
            f"ip xfrm policy   # those with mark {MARK} go along",
            "lasting: newer engines take them away with the network",
        ),
        "Without the rules of an encrypted network that exists its traffic is not protected: delete exactly.",
    )


# ---- what the filter does to ESP and to what comes out of it


def _inner_drop(case: Case, src: Host, dst: Host, packet: Packet) -> RuleRef | None:
    """The rule of the receiver that certainly drops this packet from the sender."""
    filters = dst.facts.root.filter
    fate = path_fate(prepare(filters), packet, INBOUND) if filters else None
    return fate.drops[0] if fate is not None and fate.verdict == "drop" and fate.drops else None


def _filter_findings(
    case: Case,
    cause: str,
    packet: t.Callable[[Host, Host, str | None], Packet],
    what: str,
    remedies: t.Callable[[str, RuleRef], list[Remedy]],
) -> t.Iterator[Finding]:
    """One finding for each receiver whose filter certainly drops a packet that encrypted networks live on."""
    networks = encrypted_networks(case)
    open_ids = {o.pair.id for o in case.unexplained}
    lacking = without_esp(case, {name for o in across(case, networks) for name in o.pair.hosts if name})
    groups: dict[tuple[str, str], tuple[RuleRef, list[Observation]]] = {}
    for observation in across(case, networks):
        if observation.pair.id not in open_ids or set(lacking) & set(observation.pair.hosts):
            continue
        one, other = (case.host(name) for name in observation.pair.hosts if name)
        for src, dst in ((one, other), (other, one)):
            rule = _inner_drop(case, src, dst, packet(src, dst, (dst.underlay_link or {}).get("name")))
            if rule is not None:
                groups.setdefault((dst.name, rule.ref), (rule, []))[1].append(observation)
    for (name, ref), (rule, broken) in groups.items():
        moved = rise(case.host(name), case.host(name).facts.root.key, rule_counter(ref))
        words = f"rule `{rule.text}`" if rule.why == "rule" else f"policy {rule.verdict}"
        place = f"{rule.family} {rule.table} {rule.chain}"
        yield Finding(
            cause=cause,
            severity=CRITICAL,
            confidence=CONFIRMED if moved is not None and moved.tied else LIKELY,
            hosts=[name],
            segment="host-filter-in",
            direction="in",
            summary=f"{name} drops {what}: {words} of {place}; {len(broken)} pair(s) of encrypted networks fail",
            evidence=[
                Evidence(
                    name,
                    f"packet filter, {rule.backend} {place}, hook {rule.hook}",
                    f"{words}" + (f"; counter {moved}" if moved is not None else "; it has no counter"),
                    "accepted from the nodes of the Swarm",
                    f"iptables -t {rule.table} -vnL {rule.chain} --line-numbers",
                )
            ],
            explains=pair_ids(broken),
            remedies=remedies(name, rule),
        )


def decide_inner(case: Case) -> t.Iterator[Finding]:
    """The decrypted VXLAN packet crosses INPUT once more, and nothing accepts it there."""
    port = case.fleet.tunnel_port
    if port is None:
        return

    def decrypted(src: Host, dst: Host, nic: str | None) -> Packet:
        return Packet.vxlan(src.underlay_ip, dst.underlay_ip, port, iif=nic, ipsec=True)

    remedy = Remedy(
        "cure",
        (
            f"accept before the drop: iptables -I INPUT -p udp --dport {port} -m policy --dir in --pol ipsec -j ACCEPT",
            f"nft: udp dport {port} meta ipsec exists accept   # in the chain that drops",
        ),
        "Only what came out of ESP is let in; engines before 23.0 put the rule in themselves.",
    )
    what = f"udp/{port} that came out of ESP"
    yield from _filter_findings(case, "encrypted-inner-4789-input", decrypted, what, lambda _name, _rule: [remedy])


def decide_esp_filtered(case: Case) -> t.Iterator[Finding]:
    """A host's own filter drops ESP."""

    def esp(src: Host, dst: Host, nic: str | None) -> Packet:
        family = 6 if ":" in (dst.underlay_ip or "") else 4
        return Packet(
            family=family,
            src=src.underlay_ip,
            dst=dst.underlay_ip,
            protocol="esp",
            iif=nic,
            ct_state=("new",),
            ipsec=False,
        )

    def remedies(name: str, rule: RuleRef) -> list[Remedy]:
        host = case.host(name)
        manual = ["accept IP protocol 50 (esp) from the other nodes: iptables -I INPUT -p esp -s PEER -j ACCEPT"]
        steps = roles.firewall_ports(host, [rule], "in", [Service("esp")], roles.peers_of(case, name))
        return [step.remedy("cure", manual, "From the nodes' addresses only.") for step in steps]

    yield from _filter_findings(case, "esp-blocked", esp, "ESP (IP protocol 50)", remedies)


def decide_esp_lost(case: Case) -> t.Iterator[Finding]:
    """Only encrypted networks fail between two hosts, states exist, and no host's filter drops ESP."""
    open_ids = {o.pair.id for o in case.unexplained}
    candidates = [o for o in across(case, encrypted_networks(case)) if o.pair.id in open_ids]
    lacking = without_esp(case, {name for o in candidates for name in o.pair.hosts if name})
    failing, working = [], []
    encrypted = {network.id for network in encrypted_networks(case)}
    for observation in case.observations:
        one, other = (str(name) for name in observation.pair.hosts)
        if observation.pair.network_id in encrypted and one != other and observation.verdict() == "ok":
            working.append((one, other))
    for observation in candidates:
        one, other = (str(name) for name in observation.pair.hosts)
        plain = [o for o in case.between(one, other) if o.pair.network_id not in encrypted]
        if (
            not set(lacking) & {one, other}
            and any(o.verdict() == "ok" for o in plain)
            and _states_hold(case, one, other)
        ):
            failing.append((one, other))
    for place in culprits(failing, working):
        ends = [{one, other} for one, other in failing if place <= {one, other}]
        broken = [o for o in candidates if set(o.pair.hosts) in ends]
        yield _esp_lost(case, sorted(place), broken)


def _states_hold(case: Case, one: str, other: str) -> bool:
    """Neither kernel lacks a state for what it sends: the packets do leave, as ESP."""
    moves = [xfrm(case.host(name), "XfrmOutNoStates") for name in (one, other)]
    return not any(moved is not None and moved.rose for moved in moves)


def _esp_lost(case: Case, hosts: list[str], broken: list[Observation]) -> Finding:
    first = broken[0]
    names = [str(name) for name in first.pair.hosts]
    moves = {name: xfrm(case.host(name), "XfrmInNoStates") for name in names}
    unread = [name for name in names if not case.filter_is_known(name)]
    network = first.pair.network
    return Finding(
        cause="esp-blocked",
        severity=CRITICAL,
        confidence=POSSIBLE if unread else LIKELY,
        hosts=hosts,
        segment="underlay",
        network=network,
        summary=f"Only the encrypted network {network} fails between {' and '.join(names)}: plain overlays pass, ESP "
        f"(IP protocol 50) does not come through; {len(broken)} pair(s) fail",
        evidence=[
            Evidence(names[0], f"probes {first.pair.id}", ", ".join(first.failed_layers()), "answered"),
            Evidence(None, f"plain overlay pairs between {' and '.join(names)}", "ok", None),
            *(
                Evidence(
                    name,
                    "/proc/net/xfrm_stat XfrmInNoStates",
                    str(moved),
                    "no rise",
                    "ip -s xfrm state; tcpdump -ni any 'ip proto 50'",
                )
                for name, moved in moves.items()
                if moved is not None
            ),
        ],
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                ("permit IP protocol 50 between the nodes in what filters the network between them",),
                "From the nodes' addresses only. Some clouds drop ESP and have no switch for it: then the other way.",
            ),
            Remedy(
                "mitigation",
                (f"recreate {network} without the option {OPTION}, over an underlay that encrypts (WireGuard)",),
                "What is attached to the network is redeployed.",
                disruptive=True,
            ),
        ],
    )


# ---- engines and nodes that cannot


def decide_match_missing(case: Case) -> t.Iterator[Finding]:
    """An engine that could not put its rules in, because the kernel lacks the match it uses."""
    networks = encrypted_networks(case)
    users = {e.host for network in networks for e in case.fleet.endpoints_by_network.get(network.id) or []}
    lacking = without_esp(case, users)
    for name in sorted(users - set(lacking)):
        host = case.host(name)
        row = log_row(host, "xtables-match-missing")
        absent = sorted(match for match in ("xt_u32", "xt_bpf", "xt_policy") if module(host, match) == "absent")
        if not case.filter_is_known(name) or encryption_rules(host, None) or not row:
            continue
        broken = [o for o in across(case, networks) if name in o.pair.hosts]
        evidence = [
            Evidence(
                name,
                "packet filter",
                "no rule that marks or refuses the encrypted network's packets",
                "one of each for every encrypted network",
                "iptables-save | grep -E 'u32|bpf'",
            )
        ]
        words = f"{row.get('sample') or ''} ({row.get('count')} times)"
        evidence.append(Evidence(name, "engine log", words, "no such line", "journalctl -u docker | grep -i match"))
        if absent:
            words = "neither built in nor installed"
            evidence.append(Evidence(name, f"kernel modules {', '.join(absent)}", words, "present", "lsmod | grep xt_"))
        yield Finding(
            cause="encrypted-xtables-match-missing",
            severity=severity_of(broken),
            confidence=LIKELY,
            hosts=[name],
            segment="engine",
            direction="both",
            summary=f"The engine of {name} could not put in its rules for encrypted networks: the kernel has no match"
            + (f" {', '.join(absent)}" if absent else "")
            + (f"; {len(broken)} pair(s) fail" if broken else "; what it sends may not be encrypted"),
            evidence=evidence,
            explains=pair_ids(broken),
            remedies=[
                Remedy(
                    "cure",
                    (
                        "install the kernel's extra modules (kernel-modules-extra: xt_u32), or an engine that uses bpf",
                        "then restart the engine",
                    ),
                    "Restarting the engine restarts the node's containers.",
                    disruptive=True,
                )
            ],
        )


def decide_windows(case: Case) -> t.Iterator[Finding]:
    """Windows nodes do not take part in encrypted overlays."""
    networks = encrypted_networks(case)
    nodes = [node for node in case.fleet.swarm_nodes.values() if (node.get("os") or "").lower() == "windows"]
    if not networks or not nodes:
        return
    ids = {node["id"] for node in nodes}
    tasks = [
        task for m in case.fleet.managers for task in m.facts.swarm.get("tasks") or [] if task.get("node_id") in ids
    ]
    theirs = {str(ip).split("/", maxsplit=1)[0] for task in tasks for ip in task.get("addresses") or []}
    encrypted = {network.id for network in networks}
    broken = [o for o in case.broken if o.pair.network_id in encrypted and o.pair.dst.ip in theirs]
    names = ", ".join(sorted(node.get("hostname") or node["id"] for node in nodes))
    yield Finding(
        cause="windows-node-encrypted",
        severity=severity_of(broken),
        confidence=LIKELY if broken else POSSIBLE,
        hosts=sorted(name for name in case.fleet.hosts if (case.fleet.node_of_host(name) or {}).get("id") in ids),
        segment="engine",
        summary=f"Windows node(s) {names} cannot take part in the encrypted network(s) "
        f"{', '.join(sorted(network.name for network in networks))}"
        + (f": {len(broken)} pair(s) fail" if broken else ""),
        evidence=[
            Evidence(
                case.fleet.managers[0].name,
                "swarm node list and network options",
                f"{names}: windows; {', '.join(sorted(n.name for n in networks))}: {OPTION}",
                "Linux nodes only on encrypted networks",
                "docker node ls; docker network inspect",
            )
        ],
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (
                    "keep the services of encrypted networks on Linux: --constraint node.platform.os==linux",
                    f"else a network without the option {OPTION}",
                ),
                "Services whose placement changes are redeployed.",
                disruptive=True,
            )
        ],
    )


def states_instead(case: Case, finding: Finding) -> str | None:
    """The pairs of a finding that are on encrypted networks: their kernels had a state for everything they sent."""
    encrypted = {network.id for network in encrypted_networks(case)}
    pairs = [o for o in case.observations if o.pair.id in set(finding.explains) and o.pair.network_id in encrypted]
    names = sorted({str(name) for o in pairs for name in o.pair.hosts})
    moves = [xfrm(case.host(name), "XfrmOutNoStates") for name in names if name in case.fleet.hosts]
    if not moves or not all(moved is not None and moved.flat for moved in moves):
        return None
    return f"XfrmOutNoStates of {', '.join(names)} did not rise: every packet had its ESP state"


CAUSES = [
    Cause(
        "encrypted-no-esp-kernel",
        "The kernel cannot do ESP, and an overlay is encrypted",
        "the option encrypted, XfrmOutNoStates around the probes, the engine's complaints on security associations, "
        "the module esp4",
        "an encrypted network without containers; old lines of the log without a counter that moves",
        decide_no_esp,
        remedy="install and load esp4, or recreate the network without encryption over an underlay that encrypts",
        rules_out=states_instead,
    ),
    Cause(
        "encrypted-false-is-true",
        "A network is encrypted although its option says false",
        "the value of the option encrypted",
        "an empty value is how the option is meant to be set",
        decide_false,
        remedy="recreate the network without the option",
    ),
    Cause(
        "encrypted-stale-rules",
        "Rules of an encrypted network that is gone act on a plain one",
        "the engine's rules that match bytes of the VXLAN header, their number against the encrypted networks there "
        "are, their counters around the probes",
        "the rules of encrypted networks that exist",
        decide_stale,
        remedy="delete exactly the rules whose VNI no encrypted network has",
    ),
    Cause(
        "encrypted-inner-4789-input",
        "The host's filter drops what came out of ESP",
        "the evaluation of INPUT for a VXLAN packet that was decrypted",
        "engines before 23.0 accept it themselves",
        decide_inner,
        remedy="accept the tunnel port with a policy match on ipsec",
    ),
    Cause(
        "encrypted-xtables-match-missing",
        "The engine could not put in its rules for encrypted networks",
        "the engine's log on matches, the absence of its rules, the modules xt_u32, xt_bpf, xt_policy",
        "a packet filter that was not read in full",
        decide_match_missing,
        remedy="install the kernel's extra modules or a newer engine, then restart it",
    ),
    Cause(
        "windows-node-encrypted",
        "A Windows node in a Swarm with encrypted overlays",
        "the nodes' operating system, the option encrypted",
        "Windows nodes without a task on such a network: information",
        decide_windows,
        remedy="keep services of encrypted networks on Linux nodes",
    ),
    Cause(
        "esp-blocked",
        "A host's own filter drops ESP",
        "the evaluation of INPUT for IP protocol 50, rule counters around the probes",
        "networks that are not encrypted do not need it",
        decide_esp_filtered,
        stage=SYMPTOM,
        remedy="accept IP protocol 50 from the other nodes",
    ),
    Cause(
        "esp-blocked",
        "The network between the hosts drops ESP",
        "pairs of encrypted and of plain overlays between the same hosts, the kernel's xfrm counters",
        "without a plain overlay that passes it cannot be told from other losses, and is not said",
        decide_esp_lost,
        stage=SYMPTOM,
        remedy="permit IP protocol 50 between the nodes in what filters the network between them",
    ),
]

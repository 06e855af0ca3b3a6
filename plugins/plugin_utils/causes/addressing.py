# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Addresses and routes of the underlay: which address a host sends from, and which way its packets go.

A receiver drops tunnel packets whose source is not the VTEP its forwarding entries name for the inner sender. So what
the kernel would send from is held against what the engine advertises; the kernel's own answers come before anything
that is derived from routes and rules, which then only say why.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    CRITICAL,
    LIKELY,
    Case,
    Cause,
    Evidence,
    Finding,
    Remedy,
    pair_ids,
    severity_of,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import (
    OUTBOUND,
    Packet,
    RuleRef,
    path_fate,
    prepare,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.deltas import Rise, protocol_counter, rise
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import Namespace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.ways import Way, advertised, first_address, way
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies import roles

STRICT = 1  # rp_filter: the source must be routed out of the interface it came in by
ACROSS = ("host", "overlay", "egress", "published")


def tunnels(case: Case) -> list[tuple[Host, str]]:
    """The hosts that take part in overlays, with the address each of them advertises."""
    return [(host, own) for host in case.fleet.swarm_hosts if (own := advertised(host))]


def _asked(case: Case, host: Host, peer: Host) -> bool:
    """Whether one of them asked the other: in a small fleet everybody asks everybody."""
    return bool(case.host_pair(host.name, peer.name) or case.host_pair(peer.name, host.name))


def asked_peers(case: Case, host: Host) -> list[tuple[Host, str]]:
    """The tunnel's peers that this host asked or was asked by, with their VTEPs."""
    return [(peer, own) for peer, own in tunnels(case) if peer is not host and _asked(case, host, peer)]


def across(case: Case, one: str, other: str, kinds: t.Container[str] = ACROSS) -> list[Observation]:
    """Broken pairs whose packets travel between these two hosts."""
    return [o for o in case.between(one, other, kinds) if o.broken]


# ---- source-vtep-mismatch


def mismatches(case: Case, host: Host, own: str) -> dict[str, Way]:
    """The peers this host sends to from another address than the one it advertises."""
    if own not in host.facts.addresses or _pins_source(host):
        return {}  # an address on no NIC is wrong-advertise-addr; a tunnel with a local address asks no route
    found = {}
    for peer, target in asked_peers(case, host):
        path = way(host, target)
        if path is None or path.rule or path.src in (None, own) or ":" in target:
            continue
        back = case.host_pair(peer.name, host.name)
        unreached = back is not None and back.pair.dst.ip == own and not back.reached and back.verdict() != "untested"
        if not unreached and not any(o.verdict() == "ok" for o in case.between(host.name, peer.name)):
            found[peer.name] = path
    return found


def _pins_source(host: Host) -> bool:
    return any(
        (link["vxlan"] or {}).get("local")
        for namespace in host.facts.namespaces
        if namespace.kind in ("overlay", "ingress")
        for link in namespace.vxlan_links
    )


def decide_source(case: Case) -> t.Iterator[Finding]:
    for host, own in tunnels(case):
        wrong = mismatches(case, host, own)
        if not wrong:
            continue
        broken = [o for name in wrong for o in across(case, host.name, name, ("overlay",))]
        first, path = list(wrong.items())[0]  # noqa: RUF015  a generator must not raise StopIteration
        arrived = [e for name, found in wrong.items() for e in _arrived(case, case.host(name), found.src)]
        evidence = [
            Evidence(
                host.name,
                f"the kernel's route to {name}'s VTEP {advertised(case.host(name))}",
                found.words,
                f"src {own}",
                f"ip route get {advertised(case.host(name))}",
            )
            for name, found in wrong.items()
        ]
        yield Finding(
            cause="source-vtep-mismatch",
            severity=severity_of(broken),
            confidence=CONFIRMED if broken and arrived else LIKELY,
            hosts=[host.name],
            segment="host-stack",
            direction="out",
            summary=f"{host.name} sends the tunnel to {', '.join(wrong)} from {path.src}, but advertises {own}: "
            f"the receivers drop it",
            evidence=[*evidence, *arrived[:3], *_expected_by(case, case.host(first), own)],
            explains=pair_ids(broken),
            remedies=[_source_remedy(case, host, own, wrong)],
        )


def _arrived(case: Case, receiver: Host, src: str | None) -> list[Evidence]:
    """The receiver's connection tracking saw the tunnel come from that address."""
    for snapshot in receiver.snapshots.values():
        for row in snapshot.root.facts.get("conntrack") or []:
            if row.get("dport") == case.fleet.tunnel_port and row.get("src") == src:
                return [
                    Evidence(
                        receiver.name,
                        "connection tracking, arriving tunnel packets",
                        f"udp {src} to port {row['dport']}",
                        "from the VTEPs of the fleet only",
                        f"grep 'dport={row['dport']}' /proc/net/nf_conntrack",
                    )
                ]
    return []


def _expected_by(case: Case, peer: Host, own: str) -> list[Evidence]:
    """That the peer's forwarding entries name the advertised address."""
    for namespace in peer.facts.namespaces:
        for link in namespace.vxlan_links if namespace.kind in ("overlay", "ingress") else []:
            if own in namespace.fdb(link["index"]).values():
                path = namespace.facts.get("path")
                return [
                    Evidence(
                        peer.name,
                        f"bridge FDB of {link['name']}",
                        f"dst {own}",
                        "the source of what arrives",
                        f"nsenter --net={path} bridge fdb show dev {link['name']} | grep {own}" if path else None,
                    )
                ]
    return []


def _source_remedy(case: Case, host: Host, own: str, wrong: dict[str, Way]) -> Remedy:
    steps = []
    for name, path in wrong.items():
        via = f"via {path.gateway} " if path.gateway else ""
        steps.append(
            f"on {host.name}: ip route replace {advertised(case.host(name))}/32 {via}dev {path.device} src {own}"
        )
    steps.append("lasting: the same routes in netplan, NetworkManager or systemd-networkd; or leave the swarm and join")
    steps.append("with --data-path-addr set to the address the kernel sends from")
    peers = [advertised(case.host(name)) for name in wrong]
    return roles.source_address(host, own, peers).remedy(
        "cure",
        (*steps[:-2], f"{steps[-2]} {steps[-1]}"),
        "Other traffic to these peers gets the same source: limit the routes to the peers' /32.",
    )


def sources_agree(case: Case, finding: Finding) -> str | None:
    """The kernels of a finding's overlay pairs send from the addresses that are advertised."""
    explained = set(finding.explains)
    ends = {o.pair.hosts for o in case.observations if o.pair.id in explained and o.pair.kind == "overlay"}
    vteps = {host.name: own for host, own in tunnels(case)}
    checked = set()
    for src, dst in ends:
        for one, other in ((src, dst), (dst, src)):
            path = way(case.host(str(one)), vteps[str(other)]) if one in vteps and other in vteps else None
            if path is None or path.src != vteps[str(one)]:
                return None
            checked.add(str(one))
    return f"{', '.join(sorted(checked))} send from the address they advertise" if checked else None


# ---- snat-outer


@dataclass(frozen=True)
class Rewrite:
    """The tunnel to one peer leaves with another source, as connection tracking has it or a rule says."""

    peer: str
    source: str
    seen: bool
    rule: RuleRef | None = None


def rewrites(case: Case, host: Host, own: str) -> list[Rewrite]:
    port, vteps = case.fleet.tunnel_port, {vtep: peer.name for peer, vtep in asked_peers(case, host)}
    found: dict[str, Rewrite] = {}
    for snapshot in host.snapshots.values():
        for row in snapshot.root.facts.get("conntrack") or []:
            target = vteps.get(row.get("dst"))
            if (
                target
                and row.get("src") == own
                and row.get("dport") == port
                and row.get("reply_dst") not in (None, own)
            ):
                found[target] = Rewrite(target, row["reply_dst"], True)
    if port and host.facts.root.filter:
        rules = prepare(host.facts.root.filter)
        for target, name in vteps.items():
            path = way(host, target)
            packet = Packet.vxlan(own, target, port, iif="", oif=path.device if path else None)
            fate = path_fate(rules, packet, OUTBOUND)
            for rule in fate.changes:
                source = _new_source(host, fate.packet, path) if rule.verdict in ("snat", "masquerade") else None
                if name in found:
                    seen = found[name]
                    found[name] = Rewrite(name, seen.source, seen.seen, seen.rule or _snat(rule))
                elif source not in (None, own) and _snat(rule):
                    found[name] = Rewrite(name, str(source), False, rule)
    return list(found.values())


def _snat(rule: RuleRef) -> RuleRef | None:
    return rule if rule.verdict in ("snat", "masquerade") else None


def _new_source(host: Host, left: Packet, path: Way | None) -> str | None:
    """The source after translation; a masquerade takes the device's first address."""
    if left.src is not None:
        return left.src
    return first_address(host.facts.root, path.oif, "") if path and path.oif is not None else None


def decide_snat(case: Case) -> t.Iterator[Finding]:
    for host, own in tunnels(case):
        found = [
            item
            for item in rewrites(case, host, own)
            if not any(o.verdict() == "ok" for o in case.between(host.name, item.peer))
        ]
        broken = [o for item in found for o in across(case, host.name, item.peer, ("overlay",))]
        if found and (broken or any(item.rule for item in found)):
            yield _snat_finding(case, host, own, found, broken)


def _snat_finding(case: Case, host: Host, own: str, found: list[Rewrite], broken: list[Observation]) -> Finding:
    port = case.fleet.tunnel_port
    rule = next((item.rule for item in found if item.rule), None)
    evidence = [
        Evidence(
            host.name,
            f"connection tracking, udp/{port} to {item.peer}",
            f"source rewritten to {item.source}",
            f"source {own}",
            f"grep 'dport={port}' /proc/net/nf_conntrack",
        )
        for item in found
        if item.seen
    ]
    if rule is not None:
        place = f"{rule.backend} {rule.family} {rule.table} {rule.chain}"
        verify = f"iptables -t {rule.table} -vnL {rule.chain} --line-numbers"
        if rule.family not in ("ip", "ip6"):
            verify = f"nft -a list chain {rule.family} {rule.table} {rule.chain}"
        evidence.append(Evidence(host.name, f"packet filter, {place}", rule.text, "no rule for the tunnel", verify))
    evidence += [e for item in found for e in _arrived(case, case.host(item.peer), item.source)][:2]
    because = f": rule `{rule.text}` in {rule.table} {rule.chain}" if rule else ""
    return Finding(
        cause="snat-outer",
        severity=severity_of(broken),
        confidence=CONFIRMED if broken and any(item.seen for item in found) else LIKELY,
        hosts=[host.name],
        segment="nat",
        direction="out",
        summary=f"{host.name} rewrites the source of its tunnel to {', '.join(i.peer for i in found)} from {own} to "
        f"{found[0].source}{because}",
        evidence=evidence,
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (
                    f"on {host.name}: iptables -t nat -I POSTROUTING -p udp --dport {port} -j ACCEPT",
                    "lasting: narrow the rule that rewrites, so that it leaves the tunnel port out",
                    f"on {host.name}: conntrack -D -p udp --orig-port-dst {port}   # else it stays rewritten",
                ),
                "Only the tunnel is exempt from translation.",
            )
        ],
    )


def not_translated(case: Case, finding: Finding) -> str | None:
    """Connection tracking has the tunnel of a finding's overlay pairs with an untouched source."""
    explained = set(finding.explains)
    ends = {o.pair.hosts for o in case.observations if o.pair.id in explained and o.pair.kind == "overlay"}
    names = sorted({str(name) for pair in ends for name in pair if name})
    for name in names:
        rows = [
            row
            for snapshot in case.host(name).snapshots.values()
            for row in snapshot.root.facts.get("conntrack") or []
            if row.get("dport") == case.fleet.tunnel_port and row.get("src") == advertised(case.host(name))
        ]
        if not rows or any(row.get("reply_dst") != row["src"] for row in rows):
            return None
    return f"connection tracking of {', '.join(names)} has the tunnel with its own source" if names else None


# ---- wrong-advertise-addr


def decide_advertised(case: Case) -> t.Iterator[Finding]:
    for host, own in tunnels(case):
        on_nic = own in host.facts.addresses
        if any(own in other.facts.addresses for other in case.fleet.answering if other is not host):
            continue  # duplicate-vtep-ip or duplicate-node-ip
        others = [peer for peer, vtep in asked_peers(case, host) if vtep != own]
        reached = [o for peer in others if (o := case.host_pair(host.name, peer.name)) is not None and o.reached]
        asked = [
            o
            for peer in others
            if (o := case.host_pair(peer.name, host.name)) is not None
            and o.pair.dst.ip == own
            and o.verdict() != "untested"
        ]
        answered = any(o.reached for o in asked)
        if answered and on_nic:
            continue
        broken = [o for peer in others for o in across(case, host.name, peer.name, ("overlay",))]
        if any(o.verdict() == "ok" for peer in others for o in case.between(host.name, peer.name)):
            continue  # the tunnels work: whatever translates the address does so both ways
        if answered and not broken:
            continue
        if not answered and (not reached or not asked):
            continue  # the host reaches nobody either, or nobody asked: not the address
        if on_nic and all(_source(host, advertised(peer)) == own for peer in others):
            continue  # it sends from there too: the underlay is at fault
        broken += [o for o in case.broken if o.pair.dst.ip == own]
        yield _advertised_finding(case, host, own, on_nic, asked, reached, broken)


def _source(host: Host, target: str | None) -> str | None:
    path = way(host, target) if target else None
    return path.src if path else None


def _advertised_finding(
    case: Case,
    host: Host,
    own: str,
    on_nic: bool,
    asked: list[Observation],
    reached: list[Observation],
    broken: list[Observation],
) -> Finding:
    better = _source(host, reached[0].pair.dst.ip) if reached else None
    link = host.facts.root.link_of_address(own) or {}
    place = f"is on {link.get('name')}, where no other host comes" if on_nic else "is on none of its interfaces"
    evidence = [
        Evidence(
            host.name,
            "the address the engine advertises",
            own,
            f"an address the others reach{f', such as {better}' if better else ''}",
            "docker info --format '{{.Swarm.NodeAddr}}'",
        ),
        Evidence(host.name, "addresses of the host", f"{own} {place}", "on the underlay's interface", "ip -br address"),
    ]
    for peer in sorted({str(o.pair.src.host) for o in asked}):
        evidence += _expected_by(case, case.host(peer), own)
    for o in [o for o in asked if not o.reached][:2]:
        words = ", ".join(f"{key} {o.results[key]['status']}" for key in o.failed_layers())
        evidence.append(Evidence(o.pair.src.host, f"probes {o.pair.id}", words, "an answer", f"ping -c 3 {own}"))
    option = "--data-path-addr" if host.facts.swarm.get("data_path_addr") else "--advertise-addr"
    return Finding(
        cause="wrong-advertise-addr",
        severity=severity_of(broken),
        confidence=CONFIRMED if broken and asked and not any(o.reached for o in asked) else LIKELY,
        hosts=[host.name],
        segment="control-plane",
        direction="in",
        summary=f"{host.name} advertises {own} as its VTEP, which {place}"
        + (f"; it reaches the others from {better}" if better and better != own else ""),
        evidence=evidence,
        explains=pair_ids(broken),
        remedies=[
            roles.NOBODY.remedy(
                "cure",
                _rejoining(case, host, f"{option} {better or 'REACHED-ADDRESS'}"),
                "The node gets a new id; tasks move, containers on attachable networks have to be started anew.",
                disruptive=True,
            )
        ],
    )


def _rejoining(case: Case, host: Host, option: str) -> list[str]:
    """How a node leaves and joins again with another address.

    The only manager corrects it in place, where its engine knows of no other, asked or not: else it would split them.
    """
    leads = host.facts.is_manager
    others = [peer for peer in case.fleet.swarm_hosts if peer.facts.is_manager and peer is not host]
    known = {manager.get("node_id") for manager in host.facts.swarm.get("managers") or []}
    if leads and not others and known == {host.facts.swarm.get("node_id")}:
        return [f"on {host.name}: docker swarm init --force-new-cluster {option}   # services and networks stay"]
    manager = others[0].name if others else "another manager"
    entrance = (advertised(others[0]) if others else None) or "MANAGER"
    entrance = f"[{entrance}]" if ":" in entrance else entrance
    node = host.facts.swarm.get("node_id") or host.name
    return [
        f"on {manager}: docker node update --availability drain {node}",
        *([f"on {manager}: docker node demote {node}   # while the other managers are a majority"] if leads else []),
        f"on {host.name}: docker swarm leave",
        f"on {manager}: docker node rm {node}; docker swarm join-token {'manager' if leads else 'worker'}",
        f"on {host.name}: docker swarm join {option} --token TOKEN {entrance}:2377",
    ]


# ---- multi-nic-rpfilter


def strictness(host: Host, device: str) -> int | None:
    """rp_filter as it acts on a device: the larger of its own and that of all."""
    sysctls = host.latest.root.sysctls
    values = [sysctls.get(f"net.ipv4.conf.{name}.rp_filter") for name in ("all", device.replace(".", "/"))]
    known = [value for value in values if value is not None]
    return max(known) if known else None


def _refused(host: Host) -> Rise | None:
    """Packets that reverse path filtering dropped."""
    return rise(host, host.facts.root.key, protocol_counter("netstat", "TcpExt.IPReversePathFilter"))


def turned_back(case: Case, host: Host) -> dict[str, Way | None]:
    """Peers whose packets the strict filter drops: they arrive on one interface and are routed out of another."""
    link = host.underlay_link
    if link is None or strictness(host, link["name"]) != STRICT:
        return {}
    found: dict[str, Way | None] = {}
    for peer in case.fleet.answering:
        target = peer.underlay_ip
        if peer is host or not target or ":" in target or not _asked(case, host, peer):
            continue
        verdicts = {_return_error(facts.root, target, link["index"]) for facts in host.readings}
        path = way(host, target)
        elsewhere = path is not None and path.oif not in (None, link["index"])
        # EINVAL, as newer kernels say it, is also said of sources that are no unicast address
        if verdicts == {"EXDEV"} or (verdicts in ({"EINVAL"}, {"unread"}) and elsewhere):
            found[peer.name] = path
    return found


def _return_error(root: Namespace, src: str, iif: int) -> str | None:
    """The kernel's verdict on a packet from a peer; "unread" where it was not asked."""
    rows = [row for row in root.facts.get("return_paths") or [] if row.get("src") == src]
    name = (root.link_by_index.get(iif) or {}).get("name")
    mine = [row for row in rows if row.get("iif") in (iif, name, None)]
    return mine[0].get("error") if mine else "unread"


def decide_rpfilter(case: Case) -> t.Iterator[Finding]:
    for host in case.fleet.answering:
        found = turned_back(case, host)
        moved = _refused(host)
        if not found or (moved is not None and moved.flat):
            continue
        broken = [o for name in found for o in across(case, host.name, name)]
        if broken:
            yield _rpfilter_finding(case, host, found, moved, broken)


def _rpfilter_finding(
    case: Case, host: Host, found: dict[str, Way | None], moved: Rise | None, broken: list[Observation]
) -> Finding:
    nic = (host.underlay_link or {}).get("name", "")
    keys = [f"net.ipv4.conf.{name}.rp_filter" for name in ("all", nic.replace(".", "/"))]
    values = ", ".join(f"{key} = {host.latest.root.sysctls.get(key)}" for key in keys)
    evidence = [Evidence(host.name, "sysctl", values, "not 1 as the larger of both", f"sysctl {' '.join(keys)}")]
    first, path = next(iter(found.items()))
    for name, found_path in found.items():
        target = case.host(name).underlay_ip
        evidence.append(
            Evidence(
                host.name,
                f"the kernel's answer to a packet from {name} on {nic}",
                f"dropped: it is routed {found_path.words}" if found_path else "dropped",
                f"routed out of {nic}",
                f"ip route get {target}; ip route get {host.underlay_ip} from {target} iif {nic}",
            )
        )
    if moved is not None:
        evidence.append(
            Evidence(
                host.name,
                "/proc/net/netstat TcpExt: IPReversePathFilter",
                str(moved),
                "no rise with the probes",
                "nstat -az TcpExtIPReversePathFilter",
            )
        )
    target = case.host(first).underlay_ip
    return Finding(
        cause="multi-nic-rpfilter",
        severity=CRITICAL,
        confidence=CONFIRMED if moved is not None and moved.tied else LIKELY,
        hosts=[host.name],
        segment="host-stack",
        direction="in",
        summary=f"{host.name} drops what arrives from {', '.join(found)} on {nic}: strict reverse path filter, and its "
        f"way back is {path.words if path else 'another interface'}",
        evidence=evidence,
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (
                    f"on {host.name}: make the route to {target} leave by {nic}, as its packets arrive there",
                    f"ip route get {target}   # shows the route that does not",
                ),
                "Other traffic to this peer changes its way as well.",
            ),
            roles.rp_filter(host, nic).remedy(
                "mitigation",
                (
                    f"on {host.name}: sysctl -w net.ipv4.conf.{nic}.rp_filter=2",
                    f"lasting: 'net.ipv4.conf.{nic}.rp_filter = 2' in a file of /etc/sysctl.d that sorts last",
                ),
                "Loosens the protection against forged sources on this interface.",
            ),
        ],
    )


def not_refused(case: Case, finding: Finding) -> str | None:
    """Reverse path filtering dropped nothing on the hosts of a finding's pairs."""
    explained = set(finding.explains)
    ends = {
        name
        for o in case.observations
        if o.pair.id in explained and o.pair.kind in ("host", "overlay")
        for name in o.pair.hosts
        if name
    }
    moves = {name: _refused(case.host(name)) for name in sorted(ends)}
    if not moves or not all(moved is not None and moved.flat for moved in moves.values()):
        return None
    return f"IPReversePathFilter of {', '.join(moves)} did not rise"


# ---- vpn-policy-route


def decide_policy_route(case: Case) -> t.Iterator[Finding]:
    for host in case.fleet.answering:
        link = host.underlay_link or {}
        groups: dict[tuple[str, str], dict[str, Way]] = {}
        for peer in case.fleet.answering:
            targets = {peer.underlay_ip, advertised(peer)} - {None} if _asked(case, host, peer) else set()
            for target in sorted(str(one) for one in targets):
                path = way(host, target)
                if path is not None and path.rule and path.oif not in (None, link.get("index")):
                    groups.setdefault((path.rule, path.device), {})[peer.name] = path
        for (rule, device), detours in groups.items():
            broken = [o for name in detours for o in across(case, host.name, name)]
            if broken:
                yield _policy_finding(case, host, rule, device, detours, broken)


def _policy_finding(
    case: Case, host: Host, rule: str, device: str, detours: dict[str, Way], broken: list[Observation]
) -> Finding:
    nic = (host.underlay_link or {}).get("name") or "the underlay's interface"
    table = next(iter(detours.values())).table
    pref = rule.partition(":")[0]
    evidence = [
        Evidence(
            host.name,
            f"the kernel's route to {name}, {case.host(name).underlay_ip}",
            f"{path.words} table {path.table}",
            f"dev {nic}",
            f"ip route get {case.host(name).underlay_ip}",
        )
        for name, path in list(detours.items())[:4]
    ]
    evidence.append(Evidence(host.name, "policy rule", rule, "none for the peers of the fleet", "ip rule show"))
    peers = " ".join(f"{case.host(name).underlay_ip}/32" for name in detours)
    before = int(pref) - 10 if pref.isdigit() else 100
    return Finding(
        cause="vpn-policy-route",
        severity=CRITICAL,
        confidence=LIKELY,
        hosts=[host.name],
        segment="host-stack",
        direction="out",
        summary=f"{host.name} sends what is for {', '.join(detours)} into {device} instead of {nic}: "
        f"rule `{rule}`, table {table}",
        evidence=evidence,
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (
                    f"on {host.name}, for each of {peers}: ip rule add pref {max(1, before)} to PEER/32 lookup main",
                    "lasting: exclude the nodes' and the containers' subnets from the routes of the VPN",
                ),
                "Traffic to these peers no longer goes through the VPN: check that its policy allows that.",
            )
        ],
    )


CAUSES: list[Cause] = [
    Cause(
        "source-vtep-mismatch",
        "The tunnel leaves from another address than the one the host advertises",
        "the kernel's route to every VTEP, the addresses engines advertise, tunnel packets in the receivers' "
        "connection tracking, forwarding entries",
        "a VXLAN device with a local address of its own asks no route; a tunnel made by hand accepts any source",
        decide_source,
        remedy="give the routes to the peers the advertised address as source, or advertise the one the kernel takes",
        rules_out=sources_agree,
    ),
    Cause(
        "snat-outer",
        "Address translation rewrites the source of the tunnel",
        "connection tracking of the tunnel port, the nat rules a tunnel packet meets on its way out",
        "a MASQUERADE that yields the same address changes nothing",
        decide_snat,
        remedy="exempt the tunnel port from translation, and remove the connection tracking entries that exist",
        rules_out=not_translated,
    ),
    Cause(
        "wrong-advertise-addr",
        "A node advertises an address the others do not reach",
        "the advertised address against the host's interfaces, probes to it and from it, forwarding entries",
        "the node list of a manager may show 0.0.0.0 or 127.0.0.1, which is cosmetic; an address that is translated "
        "one to one is on no interface and works",
        decide_advertised,
        remedy="leave the swarm and join with --advertise-addr or --data-path-addr of the underlay",
    ),
    Cause(
        "multi-nic-rpfilter",
        "Strict reverse path filtering drops what arrives on the wrong interface",
        "rp_filter as it acts (the larger of all and the interface), the kernel's answer to packets of the peers, "
        "IPReversePathFilter around the probes",
        "rp_filter = 1 with symmetric routes, or with a single interface, drops nothing; 2 on either key is loose",
        decide_rpfilter,
        remedy="make the way back leave by the interface the packets arrive on; else rp_filter = 2 there",
        rules_out=not_refused,
    ),
    Cause(
        "vpn-policy-route",
        "A policy rule sends traffic between nodes into another device",
        "the kernel's route to every peer, policy rules and their tables",
        "a rule whose table has no route to the peers decides nothing; a way through a VPN that works is no fault",
        decide_policy_route,
        remedy="a rule before it that looks the peers up in the main table",
    ),
]

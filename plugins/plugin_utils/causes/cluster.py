# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The cluster: nodes, managers, their quorum, their certificates, and stores beside it."""

from __future__ import annotations

import time
import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    AFTERMATH,
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
    pair_ids,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.packet_filter import withdrawn
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.builders import SWARM_GOSSIP_PORT
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.services import newest, readings
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.stores import PAGES
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies import roles

NO_LEADER = ("does not have a leader", "too few managers are online")
SILENT_RAFT = "context deadline exceeded"  # what a manager says before it has noticed that the others are gone
WAITING = ("new", "pending")  # states of a task that the Swarm cannot place (docs.docker.com, swarm task states)
CERTIFICATE = ("x509", "certificate")
CERTIFICATE_FILE = "/var/lib/docker/swarm/certificates/swarm-node.crt"
RENEWED_BY = 0.9  # share of a certificate's life; swarmkit renews between one half and four fifths of it
TIMED_OUT = ("timed out", "timeout", "larger than limit")  # memberlist's words for an exchange that was too big


# ---- nodes


def _view(case: Case) -> tuple[Host | None, dict[str, Facts]]:
    """The manager to believe, the leader if it is in the play, and its node list."""
    listing = [host for host in case.fleet.managers if _swarm(host).get("nodes")]
    leaders = [host for host in listing if _leads(newest(host, "swarm"))]
    for host in leaders or listing:
        return host, {node["id"]: node for node in _swarm(host)["nodes"]}
    return None, {}


def _swarm(host: Host) -> Facts:
    return newest(host, "swarm").swarm


def _leads(facts: HostFacts) -> bool:
    own = facts.swarm.get("node_id")
    return any(n["id"] == own and (n.get("manager") or {}).get("leader") for n in facts.swarm.get("nodes") or [])


def _host_of(case: Case, node: Facts) -> Host | None:
    """The host of the play that a node of the list is, or was before it left or went silent."""
    hosts = list(case.fleet.hosts.values())
    for host in hosts:
        if host.facts.swarm.get("node_id") == node["id"]:
            return host
    for host in hosts:
        hostname = (host.facts.facts.get("host") or {}).get("hostname") or host.name
        address = node.get("addr")
        if node.get("hostname") in (hostname, host.name) or (address and address == host.declared_ip):
            return host
    return None


def decide_node_down(case: Case) -> t.Iterator[Finding]:
    """Nodes the managers list as down, where no engine of the play says why."""
    manager, nodes = _view(case)
    if manager is None:
        return
    for node in nodes.values():
        if node.get("state") != "down" or not _always_down(manager, node["id"]):
            continue
        host = _host_of(case, node)
        if host is None or not host.answered:
            yield _gone(case, manager, node, host)
        elif host.facts.engine.get("state") != "running":
            continue  # engine-down, or no engine any more: that is what is wrong with it
        elif host.facts.swarm.get("node_id") != node["id"]:
            yield _left(manager, node, host)
        elif not _explained(case, host.name):
            yield _unheard(manager, node, host)


def _always_down(manager: Host, node_id: str) -> bool:
    """In every reading that lists it."""
    states = [
        row.get("state")
        for reading in readings(manager, "swarm")
        for row in reading.swarm.get("nodes") or []
        if row["id"] == node_id
    ]
    return set(states) <= {"down"}


def _explained(case: Case, name: str) -> bool:
    """Something that is wrong with this host, or on its paths, has been found already."""
    return any(f.severity != INFO and name in f.hosts for f in case.findings) or any(
        f.explains and any(name in o.pair.hosts for o in case.broken if o.pair.id in f.explains) for f in case.findings
    )


def _listed(manager: Host, node: Facts) -> Evidence:
    words = f"{node.get('hostname')} ({node.get('addr')}) is {node.get('state')}: {node.get('message') or 'no message'}"
    return Evidence(manager.name, "swarm node list", words, "ready", "docker node ls")


def _gone(case: Case, manager: Host, node: Facts, host: Host | None) -> Finding:
    wanted = [task for task in _swarm(manager).get("tasks") or [] if task.get("desired") == "running"]
    held = [task for task in wanted if task.get("node_id") == node["id"]]
    waiting = [task for task in wanted if not task.get("node_id") and task.get("state") in WAITING]
    name = node.get("hostname") or node["id"]
    is_manager = node.get("role") == "manager"
    carries = [f"{len(held)} task(s)"] if held else []
    carries += [f"{len(waiting)} task(s) that find no other node"] if waiting else []
    carries += ["a manager"] if is_manager else []
    where = f"host {host.name} was not reached" if host else "its host is not in the play"
    reached = Evidence(host.name, "this run", host.error or "it gave no facts", "an answer") if host else None
    return Finding(
        cause="node-down",
        severity=CRITICAL if carries else WARNING,
        confidence=CONFIRMED if host else LIKELY,
        hosts=[host.name] if host else [],
        segment="control-plane",
        summary=f"Node {name} ({node.get('addr')}) is down for the managers, and {where}; "
        f"it carries {' and '.join(carries) or 'no task of a service and no manager'}",
        evidence=[_listed(manager, node), *([reached] if reached else [])],
        explains=[],
        remedies=[
            Remedy(
                "cure",
                (
                    f"on {name} (console, if the network does not lead there): systemctl start docker",
                    f"if it is gone for good: docker node rm {name}"
                    + ("   # after docker node demote, and keep an odd number of managers" if is_manager else ""),
                ),
                "Tasks that were moved away stay where they are.",
            )
        ],
    )


def _left(manager: Host, node: Facts, host: Host) -> Finding:
    state = host.facts.swarm.get("state") or "in no Swarm"
    return Finding(
        cause="node-down",
        severity=INFO,
        confidence=CONFIRMED,
        hosts=[host.name],
        segment="control-plane",
        summary=f"The managers still list {node.get('hostname')} ({node['id'][:12]}) as down: {host.name} left the "
        "Swarm, or joined it anew under another id",
        evidence=[_listed(manager, node), Evidence(host.name, "its own state", str(state), None, "docker info")],
        remedies=[Remedy("cure", (f"docker node rm {node['id']}",), "None: nothing runs under that id.")],
    )


def _unheard(manager: Host, node: Facts, host: Host) -> Finding:
    """The engine runs and thinks it is in the Swarm: seconds after a start that is so by itself."""
    lasting = len(readings(manager, "swarm")) > 1
    return Finding(
        cause="node-down",
        severity=WARNING if lasting else INFO,
        confidence=POSSIBLE,
        hosts=[host.name],
        segment="control-plane",
        summary=f"{host.name} is down for the managers though its engine runs"
        + ("" if lasting else "; read once only: it may just have started"),
        evidence=[
            _listed(manager, node),
            Evidence(
                host.name,
                "its own state",
                f"{host.facts.swarm.get('state')}, error: {host.facts.swarm.get('error') or 'none'}",
                "active",
                "docker info",
            ),
        ],
        remedies=[
            Remedy(
                "cure",
                (f"on {host.name}: journalctl -u docker -n 50   # why its session fails", "systemctl restart docker"),
                "Its containers restart.",
                disruptive=True,
            )
        ],
    )


def decide_node_not_active(case: Case) -> t.Iterator[Finding]:
    """Nodes that somebody took out of scheduling."""
    manager, nodes = _view(case)
    for node in nodes.values():
        availability = node.get("availability")
        if manager is None or availability not in ("drain", "pause"):
            continue
        host = _host_of(case, node)
        effect = "its service tasks were moved away" if availability == "drain" else "no new task is placed there"
        yield Finding(
            cause="node-not-active",
            severity=INFO,
            confidence=CONFIRMED,
            hosts=[host.name] if host else [],
            segment="control-plane",
            summary=f"Node {node.get('hostname')} is set to {availability}: {effect}; containers started by hand "
            "and the overlays they are on keep working",
            evidence=[
                Evidence(
                    manager.name,
                    "swarm node list",
                    f"{node.get('hostname')}: availability {availability}",
                    "active, unless it is meant so",
                    "docker node ls",
                )
            ],
            remedies=[
                roles.activate(manager, node["id"]).remedy(
                    "cure",
                    (f"docker node update --availability active {node.get('hostname')}",),
                    "Tasks may be scheduled there again.",
                )
            ],
        )


# ---- managers


def decide_no_quorum(case: Case) -> t.Iterator[Finding]:
    """Managers without a leader, because too few of them are there."""
    managers = case.fleet.managers
    orphans = [host for host in managers if all(_has_no_leader(reading) for reading in readings(host, "swarm"))]
    if not orphans or any(_has_leader(reading) for host in managers for reading in readings(host, "swarm")):
        return
    known = {row["node_id"]: row.get("addr") for host in orphans for row in host.facts.swarm.get("managers") or []}
    here = {host.facts.swarm.get("node_id") for host in managers}
    lost = {node_id: addr for node_id, addr in known.items() if node_id not in here}
    need = len(known) // 2 + 1
    lost_hosts = _lost_hosts(case, lost)
    explained = [f for f in case.findings if f.severity != INFO and set(f.hosts) & set(lost_hosts)]
    covered = bool(lost_hosts) and all(any(name in f.hosts for f in explained) for name in lost_hosts)
    severity = INFO if covered or not lost or len(known) - len(lost) >= need else CRITICAL
    hosts = lost_hosts or sorted(host.name for host in orphans)
    because = f": what follows from {', '.join(sorted({f.cause for f in explained}))}" if covered else ""
    yield Finding(
        cause="raft-no-quorum",
        severity=severity,
        confidence=CONFIRMED if lost else POSSIBLE,
        hosts=hosts,
        segment="control-plane",
        summary=f"The Swarm has no leader: {len(known) - len(lost)} of {len(known)} managers are there and {need} "
        f"are needed{because}; containers keep running, nothing can be changed",
        evidence=[
            *(
                Evidence(
                    host.name,
                    "what the manager says",
                    str(_swarm(host).get("error") or "it lists no nodes"),
                    "a leader",
                    "docker node ls; docker info",
                )
                for host in orphans
            ),
            Evidence(
                orphans[0].name,
                "managers it knows, and that are not in the play or did not answer",
                ", ".join(sorted(str(addr or node_id) for node_id, addr in lost.items())) or "none",
                "fewer than half",
                "docker info --format '{{json .Swarm.RemoteManagers}}'",
            ),
        ],
        remedies=[
            Remedy("cure", ("start the engines of the lost managers again: the quorum returns by itself",), "None."),
            Remedy(
                "mitigation",
                (
                    (
                        f"only if they are lost for good, on ONE survivor ({orphans[0].name}): docker swarm init "
                        "--force-new-cluster, then add managers anew"
                    ),
                ),
                "The Swarm splits in two if the lost managers come back: wipe them before they do.",
                disruptive=True,
            ),
        ],
    )


def _has_no_leader(facts: HostFacts) -> bool:
    error = str(facts.swarm.get("error") or "")
    return not facts.swarm.get("nodes") and (any(words in error for words in NO_LEADER) or SILENT_RAFT in error)


def _has_leader(facts: HostFacts) -> bool:
    return any((node.get("manager") or {}).get("leader") for node in facts.swarm.get("nodes") or [])


def _lost_hosts(case: Case, lost: dict[str, str | None]) -> list[str]:
    """The hosts of the play that the lost managers are: by address, else those that are silent, if the number fits."""
    addresses = {str(addr).rpartition(":")[0].strip("[]") for addr in lost.values() if addr}
    found = {
        host.name
        for host in case.fleet.hosts.values()
        if {host.declared_ip, host.underlay_ip if host.answered else None} & addresses
    }
    silent = {host.name for host in case.fleet.hosts.values() if not host.answered}
    return sorted(found | silent if len(found | silent) <= len(lost) else found)


def decide_partitioned(case: Case) -> t.Iterator[Finding]:
    """Managers of one Swarm that disagree on who leads it and who belongs to it."""
    yield from decide_cut_off(case)
    clusters: dict[str, list[Host]] = {}
    for host in case.fleet.managers:
        if host.facts.swarm.get("cluster_id") and host.facts.swarm.get("nodes"):
            clusters.setdefault(host.facts.swarm["cluster_id"], []).append(host)
    for members in clusters.values():
        leaders = [host for host in members if all(_leads(reading) for reading in readings(host, "swarm"))]
        parts = [(leader, [host for host in members if _follows(host, leader)]) for leader in leaders]
        if len(parts) < 2 or not all(
            _strangers(one, other) for one, _m in parts for other, _n in parts if one is not other
        ):
            continue
        parts.sort(key=lambda part: (len(_managers_of(part[0])), len(part[1]), part[0].name))
        minority = [host.name for _leader, part in parts[:-1] for host in part]
        explained = any(f.severity != INFO and f.explains and set(f.hosts) & set(minority) for f in case.findings)
        words = "; ".join(f"{leader.name} leads {len(_managers_of(leader))} manager(s)" for leader, _part in parts)
        yield Finding(
            cause="swarm-partitioned",
            severity=INFO if explained else CRITICAL,
            confidence=CONFIRMED,
            hosts=sorted(minority),
            segment="control-plane",
            summary=f"The Swarm has {len(parts)} leaders that do not know each other as managers: {words}"
            + ("; it follows from what cuts them off" if explained else ""),
            evidence=[
                Evidence(
                    leader.name,
                    "managers, as it lists them",
                    ", ".join(_managers_of(leader)),
                    "the same on every manager",
                    "docker node ls",
                )
                for leader, _part in parts
            ],
            remedies=[
                Remedy(
                    "cure",
                    (
                        (
                            f"on {', '.join(sorted(minority))}: docker swarm leave --force, then join the others "
                            "with a manager's token"
                        ),
                    ),
                    "Services created on that side are lost; never run --force-new-cluster on two.",
                    disruptive=True,
                )
            ],
        )


def decide_cut_off(case: Case) -> t.Iterator[Finding]:
    """A manager without a leader while the others have one: the smaller side of a Swarm that is split."""
    leading = [host for host in case.fleet.managers if all(_has_leader(reading) for reading in readings(host, "swarm"))]
    for host in case.fleet.managers:
        own = host.facts.swarm.get("node_id")
        listed = [m for m in leading if any(n["id"] == own and n.get("manager") for n in _swarm(m)["nodes"])]
        if (
            not listed
            or not readings(host, "swarm")
            or not all(_has_no_leader(reading) for reading in readings(host, "swarm"))
        ):
            continue
        because = sorted({f.cause for f in case.findings if f.severity != INFO and host.name in f.hosts})
        lasting = len(readings(host, "swarm")) > 1
        yield Finding(
            cause="swarm-partitioned",
            severity=WARNING if lasting and not because else INFO,
            confidence=CONFIRMED if lasting else POSSIBLE,
            hosts=[host.name],
            segment="control-plane",
            summary=f"{host.name} is cut off from the managers that have a leader ({', '.join(m.name for m in listed)})"
            + (f"; it follows from {', '.join(because)}" if because else ""),
            evidence=[
                Evidence(
                    host.name,
                    "what the manager says",
                    str(_swarm(host).get("error")),
                    "a leader",
                    "docker node ls",
                ),
                *(
                    Evidence(m.name, "managers, as it lists them", ", ".join(_states_of(m)), "all reachable")
                    for m in listed
                ),
            ],
            remedies=[
                Remedy(
                    "cure",
                    (f"restore the path between {host.name} and the other managers: it follows them by itself",),
                    "Never run --force-new-cluster on it: that makes two Swarms of one.",
                )
            ],
        )


def _states_of(host: Host) -> list[str]:
    rows = [n for n in _swarm(host).get("nodes") or [] if n.get("manager")]
    return sorted(f"{n.get('hostname')} {(n.get('manager') or {}).get('reachability')}" for n in rows)


def _follows(host: Host, leader: Host) -> bool:
    own = leader.facts.swarm.get("node_id")
    return any(n["id"] == own and (n.get("manager") or {}).get("leader") for n in _swarm(host).get("nodes") or [])


def _strangers(one: Host, other: Host) -> bool:
    """The one leader does not count the other as a reachable manager: more than a list that lags by seconds."""
    node = next((n for n in _swarm(one).get("nodes") or [] if n["id"] == other.facts.swarm.get("node_id")), None)
    return node is None or (node.get("manager") or {}).get("reachability") != "reachable"


def _managers_of(host: Host) -> list[str]:
    return sorted(str(n.get("hostname")) for n in _swarm(host).get("nodes") or [] if n.get("manager"))


# ---- certificates, gossip's state, stores


def decide_certificate(case: Case) -> t.Iterator[Finding]:
    """Nodes whose certificate the clock has overtaken, or that are refused on account of it."""
    for host in case.fleet.swarm_hosts:
        facts = newest(host, "swarm")
        dates, now = facts.swarm.get("certificate") or {}, facts.facts.get("started")
        before, after = dates.get("not_before"), dates.get("not_after")
        error = str(facts.swarm.get("error") or "")
        refused = any(word in error for word in CERTIFICATE)
        state, severity = None, CRITICAL
        if now and after and now > after:
            state = f"it expired {_ago(now - after)} ago by the host's clock"
        elif now and before and now < before:
            state = f"it begins in {_ago(before - now)} by the host's clock"
        elif refused:
            state = "the managers refuse it"
        elif now and before and after and now > before + RENEWED_BY * (after - before):
            state, severity = f"it expires in {_ago(after - now)} and was not renewed in time", WARNING
        if state is None:
            continue
        shown = f"{_date(before)} to {_date(after)}; now {_date(now)}" if after else "dates unknown"
        yield Finding(
            cause="swarm-cert-invalid",
            severity=severity,
            confidence=CONFIRMED if refused and after else LIKELY,
            hosts=[host.name],
            segment="control-plane",
            summary=f"The Swarm certificate of {host.name} is of no use: {state}"
            + (f" ({error[:80]})" if refused else ""),
            evidence=[
                Evidence(
                    host.name,
                    dates.get("path") or CERTIFICATE_FILE,
                    shown,
                    "a date within, on every node",
                    f"date; openssl x509 -noout -dates -in {dates.get('path') or CERTIFICATE_FILE}",
                ),
                *([Evidence(host.name, "the engine's Swarm error", error, "none", "docker info")] if error else []),
                *_clock(case, host),
            ],
            explains=[],
            remedies=[
                roles.NOBODY.remedy(
                    "cure",
                    (
                        "set the clock right first (chronyc makestep; timedatectl), then: systemctl restart docker",
                        "a worker that stays refused: docker swarm leave --force, then join again",
                    ),
                    "A worker that joins anew has another id, its tasks are moved; a manager must not leave so.",
                    disruptive=True,
                )
            ],
        )


def _ago(seconds: float) -> str:
    for size, word in ((86400, "day(s)"), (3600, "hour(s)"), (60, "minute(s)")):
        if seconds >= size:
            return f"{seconds / size:.0f} {word}"
    return f"{seconds:.0f} s"


def _date(epoch: float | None) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch)) if epoch is not None else "unknown"


def _clock(case: Case, host: Host) -> list[Evidence]:
    """How far this host's clock is from the others', which were all read within this run."""
    times = sorted(
        h.facts.facts["started"] for h in case.fleet.answering if h is not host and h.facts.facts.get("started")
    )
    own = host.facts.facts.get("started")
    if not times or not own or abs(own - times[len(times) // 2]) < 60:
        return []
    away = own - times[len(times) // 2]
    words = f"{_ago(abs(away))} {'ahead of' if away > 0 else 'behind'} the other hosts"
    return [
        Evidence(host.name, "the host's clock", words, "the same time on all hosts", "timedatectl; chronyc tracking")
    ]


def decide_networkdb(case: Case) -> t.Iterator[Finding]:
    """Exchanges of gossip's whole table that time out on several hosts, though its ports are open everywhere.

    The lines stay in the log for an hour after a cut that is healed: alone, without a pair whose entries an engine
    lacks, they say nothing.
    """
    rows = {}
    for host in case.fleet.swarm_hosts:
        row = ((host.facts.facts.get("log") or {}).get("patterns") or {}).get("gossip-bulk-sync-failed") or {}
        recent = row.get("last") and host.facts.facts.get("started", 0) - row["last"] < 3600
        if row.get("count", 0) >= 3 and recent and any(words in str(row.get("sample")) for words in TIMED_OUT):
            rows[host.name] = row
    if len(rows) < 2 or _gossip_is_cut(case):
        return
    open_pairs = [o for o in case.unexplained if o.pair.kind == "overlay" and set(o.pair.hosts) & set(rows)]
    lost = [o for o in open_pairs if withdrawn(case, o)]
    if not lost:
        return
    sizes = {
        case.fleet.networks[key].name: len(rows_)
        for key, rows_ in case.fleet.endpoints_by_network.items()
        if key in case.fleet.networks
    }
    largest = max(sizes, key=lambda name: sizes[name], default=None)
    yield Finding(
        cause="networkdb-too-big",
        severity=CRITICAL,
        confidence=POSSIBLE,
        hosts=sorted(rows),
        segment="control-plane",
        summary=f"Gossip cannot exchange its whole table in time on {len(rows)} hosts, though its ports are open"
        + (f"; the largest network, {largest}, has {sizes[largest]} endpoints here" if largest else ""),
        evidence=[
            Evidence(
                name, "engine log", f"{row.get('sample')} ({row.get('count')} times)", "no bulk sync that times out"
            )
            for name, row in rows.items()
        ],
        explains=pair_ids(lost),
        remedies=[
            Remedy(
                "mitigation",
                ("spread the services over several networks, so that each node exchanges less",),
                "A redesign: services move to other networks.",
                disruptive=True,
            )
        ],
    )


def _gossip_is_cut(case: Case) -> bool:
    """A gossip port that does not answer, or nodes that left: then exchanges time out whatever their size."""
    layer = f"tcp:{SWARM_GOSSIP_PORT}"
    if any(o.layers().get(layer) == "failed" for o in case.host_pairs):
        return True
    if any(host.facts.engine.get("state") == "down" or not host.answered for host in case.fleet.hosts.values()):
        return True
    return any(node.get("state") == "down" for node in _view(case)[1].values())


def decide_store(case: Case) -> t.Iterator[Finding]:
    """Stores that engines keep their networks in, and that do not answer or are not well."""
    asked: dict[str, list[Observation]] = {}
    for observation in case.observations:
        if observation.pair.kind == "kv" and observation.verdict() != "untested":
            asked.setdefault(str(observation.pair.dst.name), []).append(observation)
    for store, observations in sorted(asked.items()):
        open_ids = {o.pair.id for o in case.unexplained}
        silent = [o for o in observations if o.pair.id in open_ids]
        ill = [o for o in observations if not o.broken and _ill(o)]
        if not silent and not ill:
            continue
        everywhere = len(silent) + len(ill) == len(observations)
        statuses = sorted(
            {str(row.get("http_status") or row.get("status")) for o in silent + ill for row in o.results.values()}
        )
        sources = sorted({str(o.pair.src.host) for o in silent + ill})
        hosts = (
            sources if not everywhere else sorted({o.pair.dst.host for o in observations if o.pair.dst.host}) or sources
        )
        what = "says that it is not well" if ill and not silent else "does not answer"
        yield Finding(
            cause="kv-store-unhealthy",
            severity=CRITICAL,
            confidence=CONFIRMED if everywhere else LIKELY,
            hosts=hosts,
            segment="control-plane",
            summary=f"The store {store} {what} ({', '.join(statuses)}), asked from {', '.join(sources)}: what engines "
            "know of each other ages",
            evidence=[
                Evidence(
                    o.pair.src.host,
                    f"GET {store}",
                    ", ".join(
                        f"{key} {row['status']} {row.get('http_status') or ''}".strip()
                        for key, row in o.results.items()
                    ),
                    "200",
                    f"curl -sS http://{store}",
                )
                for o in (silent + ill)[:6]
            ],
            explains=pair_ids(silent),
            remedies=[
                Remedy(
                    "cure",
                    (
                        (
                            "bring back the store's members until more than half are there (etcdctl endpoint status; "
                            "consul operator raft list-peers)"
                        ),
                    ),
                    "Restore from a backup only when more than half are lost for good.",
                )
            ],
        )


def _ill(observation: Observation) -> bool:
    """It answered, and not well: etcd with an error, Consul without the name of a leader between the quotes."""
    nameless = any(probe.options.get("path") == PAGES["consul"][1] for probe in observation.pair.probes)
    rows = [row for row in observation.results.values() if row.get("http_status")]
    return bool(rows) and all(
        int(row["http_status"]) >= 500 or (nameless and row["http_status"] == 200 and (row.get("bytes") or 0) < 5)
        for row in rows
    )


CAUSES = [
    Cause(
        "node-down",
        "A node is down for the managers, and its host is not there to say why",
        "the managers' node list in every reading, whether the host is in the play and answers, its engine and node id",
        (
            "a running engine whose session is cut is another cause; a node that left, or joined anew under another "
            "id, leaves a dead record; seconds after an engine's start"
        ),
        decide_node_down,
        stage=AFTERMATH,
        remedy="start the host and its engine; docker node rm for one that will not come back",
    ),
    Cause(
        "node-not-active",
        "A node is drained or paused",
        "availability in the managers' node list",
        "it is somebody's decision: information only; containers started by hand keep working there",
        decide_node_not_active,
        remedy="docker node update --availability active",
    ),
    Cause(
        "raft-no-quorum",
        "Too few managers for a quorum: the Swarm has no leader",
        "every manager's own error and node list, the managers they know against those that answer",
        (
            "an election lasts seconds; a single manager that is cut off while the others have a leader; engines "
            "known to be down are the fault, the missing quorum what follows"
        ),
        decide_no_quorum,
        stage=AFTERMATH,
        remedy="bring the lost managers back; --force-new-cluster on one survivor only when they are lost for good",
    ),
    Cause(
        "swarm-partitioned",
        "Managers of one Swarm follow different leaders",
        "cluster id, leader and managers as every manager lists them, in every reading",
        "a manager whose list lags by seconds still counts the other as reachable; two Swarms in one inventory",
        decide_partitioned,
        stage=AFTERMATH,
        remedy="let the minority leave and join anew; never --force-new-cluster on two",
    ),
    Cause(
        "swarm-cert-invalid",
        "A node's Swarm certificate has expired, is not valid yet, or is refused",
        "the certificate's dates against the host's clock, the engine's Swarm error, the clocks of all hosts",
        "certificates are renewed from half of their life on: only one that is nearly over is worth a warning",
        decide_certificate,
        remedy="set the clock right and restart the engine; a worker that stays refused leaves and joins anew",
    ),
    Cause(
        "networkdb-too-big",
        "Gossip's table is too big to be exchanged in time",
        "the engines' logs: bulk syncs that time out, again and again and on several hosts; gossip ports open",
        "bulk syncs also fail when a node goes away or a gossip port is closed; old lines of the log",
        decide_networkdb,
        stage=SYMPTOM,
        remedy="fewer endpoints in one network: split it",
    ),
    Cause(
        "kv-store-unhealthy",
        "A key-value store that engines rely on does not answer or has no leader",
        "the store's own health page, asked from each host that is configured to use it",
        "asked only where the daemon's configuration or the operator names one; a page that is not found says nothing",
        decide_store,
        stage=SYMPTOM,
        remedy="restore the store's quorum",
    ),
]

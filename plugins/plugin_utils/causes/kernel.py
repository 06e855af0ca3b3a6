# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernel tables that are full, modules that are missing, and modes of the engine that exclude an overlay."""

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
    SYMPTOM,
    WARNING,
    Case,
    Cause,
    Evidence,
    Facts,
    Finding,
    Remedy,
    pair_ids,
    severity_of,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.deltas import Reader, Rise, rise
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts, Namespace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.translations import Translation, translations
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies import roles

NEARLY_FULL = 0.9
RECENT = 600.0  # seconds before the run: what a log said earlier is history
BRIDGE_NF = "net.bridge.bridge-nf-call-iptables"
LOSING = ("drop", "early_drop", "insert_failed")
REFUSED = re.compile(r"live-restore.*incompatible with swarm mode")
DENIED_ABOUT = re.compile(r"docker|containerd|runc|vxlan|netlink|net_admin|netns|/ns/net", re.IGNORECASE)


def log_line(host: Host, group: str, name: str) -> Facts | None:
    """A known message of a host's engine log (C(patterns)) or kernel (C(kernel))."""
    return ((host.latest.facts.get("log") or host.facts.facts.get("log") or {}).get(group) or {}).get(name)


def is_recent(host: Host, line: Facts | None) -> bool:
    """Whether the last message of its kind is of this run, or of the minutes before."""
    began = host.facts.facts.get("started")
    last = (line or {}).get("last")
    return began is not None and last is not None and last >= began - RECENT


def conntrack_counter(name: str) -> Reader:
    return lambda namespace: (namespace.counters.get("conntrack") or {}).get(name)


def _neighbour_counter(namespace: Namespace) -> int | None:
    return (namespace.counters.get("neighbours") or {}).get("table_fulls")


# -- tables --------------------------------------------------------------------------------------------------------


def decide_conntrack(case: Case) -> t.Iterator[Finding]:
    """A connection tracking table that is full and refuses flows now."""
    for host in case.fleet.answering:
        for namespace in host.latest.namespaces:
            table = namespace.counters.get("conntrack") or {}
            count, most = table.get("count"), table.get("max")
            if not count or not most or count / most <= NEARLY_FULL or namespace.kind not in ("host", "ingress"):
                continue
            moved = {name: rise(host, namespace.key, conntrack_counter(name)) for name in LOSING}
            risen = {name: each for name, each in moved.items() if each is not None and each.rose}
            line = log_line(host, "kernel", "conntrack-full")
            if risen or is_recent(host, line):
                yield _conntrack_finding(case, host, namespace, (count, most), risen, line)


def _conntrack_finding(
    case: Case, host: Host, namespace: Namespace, filled: tuple[int, int], risen: dict[str, Rise], line: Facts | None
) -> Finding:
    broken = [o for o in case.unexplained if host.name in o.pair.hosts and o.pair.kind != "local"]
    degraded = [o for o in case.observations if host.name in o.pair.hosts and o.verdict() == "degraded"]
    evidence = [
        Evidence(
            host.name,
            f"connection tracking table ({namespace.kind})",
            f"{filled[0]} of {filled[1]} entries",
            f"below {NEARLY_FULL:.0%}",
            "sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max",
        )
    ]
    evidence += [
        Evidence(host.name, f"/proc/net/stat/nf_conntrack {name}", str(each), "no rise", "conntrack -S")
        for name, each in risen.items()
    ]
    if is_recent(host, line) and line:
        evidence.append(Evidence(host.name, "kernel log", line.get("sample") or "", "no such line", "dmesg -T"))
    tied = any(each.tied for each in risen.values())
    return Finding(
        cause="conntrack-full",
        severity=CRITICAL if broken else WARNING,
        confidence=CONFIRMED if tied and broken else LIKELY,
        hosts=[host.name],
        segment="host-stack",
        summary=f"The connection tracking table of {host.name} is full ({filled[0]} of {filled[1]}) and refuses new "
        "flows, tunnel packets among them",
        evidence=evidence,
        explains=pair_ids(broken or degraded),
        remedies=[
            roles.conntrack_limits(host, 2 * filled[1]).remedy(
                "mitigation",
                (
                    f"on {host.name}: sysctl -w net.netfilter.nf_conntrack_max={2 * filled[1]}, and in /etc/sysctl.d",
                    "find who fills it: conntrack -L | awk '{print $4, $5}' | sort | uniq -c | sort -n | tail",
                ),
                "About 300 bytes of kernel memory for each entry.",
            )
        ],
    )


def decide_neighbours(case: Case) -> t.Iterator[Finding]:
    """A neighbour table that overflows now; it is one table for all namespaces of a machine."""
    for host in case.fleet.answering:
        root = host.latest.root
        entries = (root.counters.get("neighbours") or {}).get("entries")
        limit = root.sysctls.get("net.ipv4.neigh.default.gc_thresh3")
        moved = rise(host, root.key, _neighbour_counter)
        line = log_line(host, "kernel", "neighbour-overflow")
        full = bool(entries and limit and entries / limit > NEARLY_FULL)
        if not (moved is not None and moved.rose) and not (full and is_recent(host, line)):
            continue
        broken = [o for o in case.unexplained if host.name in o.pair.hosts]
        evidence = [
            Evidence(
                host.name,
                "neighbour table of the machine",
                f"{entries} entries, gc_thresh3 {limit}",
                "well below gc_thresh3",
                "ip -s neigh | wc -l; sysctl net.ipv4.neigh.default.gc_thresh3",
            )
        ]
        if moved is not None and moved.rose:
            evidence.append(Evidence(host.name, "table_fulls", str(moved), "no rise", "cat /proc/net/stat/arp_cache"))
        if is_recent(host, line) and line:
            evidence.append(Evidence(host.name, "kernel log", line.get("sample") or "", "no such line", "dmesg -T"))
        yield Finding(
            cause="neigh-overflow",
            severity=CRITICAL if broken else WARNING,
            confidence=CONFIRMED if broken and moved is not None and moved.tied else LIKELY,
            hosts=[host.name],
            segment="host-stack",
            summary=f"The neighbour table of {host.name} overflows ({entries} entries, limit {limit}): addresses are "
            "not resolved any more, in any namespace",
            evidence=evidence,
            explains=pair_ids(broken),
            remedies=[
                Remedy(
                    "cure",
                    (
                        (
                            f"on {host.name}: raise net.ipv4.neigh.default.gc_thresh1, 2 and 3 (8192, 49152, 65536 are "
                            "what the engine itself sets where it can), and in /etc/sysctl.d"
                        ),
                    ),
                    "Kernel memory for the entries.",
                )
            ],
        )


# -- bridge netfilter ----------------------------------------------------------------------------------------------


def decide_bridge_nf(case: Case) -> t.Iterator[Finding]:
    """A translated address whose server is on the client's own bridge, and answers that bypass the translation."""
    for host in case.fleet.answering:
        asked = [o for o in case.broken if o.pair.kind == "translated" and o.pair.src.host == host.name]
        if not asked or any(_filters_bridged(facts) is not False for facts in host.readings):
            continue
        local = [endpoint for endpoint in case.fleet.endpoints if endpoint.host == host.name]
        rows = {(row.client.container_id, row.address, row.port): row for row in translations(case.fleet, host, local)}
        pairs = [
            (o, rows[key])
            for o in asked
            if (key := (o.pair.src.container_id or "", o.pair.dst.ip or "", o.pair.probes[0].port or 0)) in rows
            and _server_answers(case, host, rows[key])
        ]
        if pairs:
            yield _bridge_nf_finding(host, pairs)


def _filters_bridged(facts: HostFacts) -> bool | None:
    """Whether frames between ports of a bridge pass the IP packet filter of this host."""
    value = facts.root.sysctls.get(BRIDGE_NF)
    if value is None:
        present = (facts.facts.get("host") or {}).get("br_netfilter")
        return False if present is False else None
    return bool(value)


def _server_answers(case: Case, host: Host, row: Translation) -> bool:
    namespace = host.latest.namespace(row.server.netns)
    return namespace is None or not namespace.facts.get("sockets") or bool(namespace.listeners("tcp"))


def _bridge_nf_finding(host: Host, pairs: list[tuple[Observation, Translation]]) -> Finding:
    row = pairs[0][1]
    state = "0" if BRIDGE_NF in host.latest.root.sysctls else "absent: br_netfilter is not loaded"
    evidence = [
        Evidence(host.name, f"sysctl {BRIDGE_NF}", state, "1", f"sysctl {BRIDGE_NF}"),
        Evidence(
            host.name,
            f"nat PREROUTING, {row.address}:{row.port}",
            f"translated to {row.server.ip} ({row.server.container}), on {row.bridge} as {row.client.container} is"
            + (f": {row.rule.text}" if row.rule else ""),
            "answers that pass the translation again",
            "iptables -t nat -S",
        ),
    ]
    return Finding(
        cause="br-netfilter-missing",
        severity=CRITICAL,
        confidence=LIKELY,
        hosts=[host.name],
        segment="bridge",
        direction=None,
        summary=f"{host.name} does not filter bridged frames ({BRIDGE_NF} {state.partition(':')[0]}): answers from "
        f"{row.server.container} to {row.client.container} keep their address, {row.address}:{row.port} times out",
        evidence=evidence,
        explains=pair_ids(o for o, _row in pairs),
        remedies=[
            roles.br_netfilter(host).remedy(
                "cure",
                (
                    f"on {host.name}: modprobe br_netfilter; sysctl -w {BRIDGE_NF}=1",
                    "lasting: br_netfilter in /etc/modules-load.d, the sysctl in /etc/sysctl.d",
                ),
                "Frames of every bridge of the host pass its packet filter then, those of virtual machines too.",
            )
        ],
    )


# -- modules and modes ---------------------------------------------------------------------------------------------


def decide_vxlan_module(case: Case) -> t.Iterator[Finding]:
    """Engines that cannot make a VXLAN device, because the running kernel has none."""
    for host in case.fleet.answering:
        said = _vxlan_refusal(case, host)
        module = ((host.facts.facts.get("host") or {}).get("modules") or {}).get("vxlan")
        if said is None or module in ("loaded", "builtin"):
            continue
        if any(namespace.vxlan_links for namespace in host.latest.namespaces):
            continue  # it does make them: what was said is history
        broken = [o for o in case.unexplained if host.name in o.pair.hosts and o.pair.network_id]
        kernel = (host.facts.facts.get("host") or {}).get("kernel")
        yield Finding(
            cause="vxlan-module-missing",
            severity=CRITICAL,
            confidence=CONFIRMED if module == "absent" else LIKELY,
            hosts=[host.name],
            segment="engine",
            summary=f"The running kernel of {host.name} ({kernel}) cannot make VXLAN devices: overlay networks do not "
            "start there",
            evidence=[
                said,
                Evidence(
                    host.name,
                    "kernel module vxlan",
                    str(module or "unknown"),
                    "loaded or built in",
                    "modprobe -n -v vxlan; ls /lib/modules; uname -r",
                ),
            ],
            explains=pair_ids(broken),
            remedies=[
                Remedy(
                    "cure",
                    (
                        (
                            f"on {host.name}: install the package with the extra modules of the running kernel "
                            "(linux-modules-extra-…), then modprobe vxlan, and vxlan in /etc/modules-load.d"
                        ),
                        "if the kernel was upgraded and its modules are gone: reboot into the installed one",
                    ),
                    "A reboot interrupts every container of the host.",
                    disruptive=True,
                )
            ],
        )


def _vxlan_refusal(case: Case, host: Host) -> Evidence | None:
    """What the engine or a task said about it."""
    node = host.facts.swarm.get("node_id")
    for manager in case.fleet.managers:
        for task in manager.facts.swarm.get("tasks") or []:
            error = task.get("error") or ""
            if node and task.get("node_id") == node and _is_vxlan_refusal(error):
                return Evidence(
                    manager.name, f"task {task.get('id')}", error, "running", "docker service ps --no-trunc"
                )
    line = log_line(host, "patterns", "vxlan-create-failed")
    sample = (line or {}).get("sample") or ""
    return Evidence(host.name, "engine log", sample, "no such line") if _is_vxlan_refusal(sample) else None


def _is_vxlan_refusal(text: str) -> bool:
    return "error creating vxlan interface" in text and "operation not supported" in text.lower()


def decide_rootless(case: Case) -> t.Iterator[Finding]:
    """A rootless engine whose containers are to be on an overlay."""
    for host in case.fleet.answering:
        options = host.facts.engine.get("security_options") or []
        if not any("rootless" in option for option in options):
            continue
        overlays = {network.id for network in case.fleet.networks.values() if network.is_overlay}
        mine = [e for e in case.fleet.endpoints if e.host == host.name and e.network_id in overlays]
        if not host.facts.in_swarm and not mine:
            continue
        broken = [
            o
            for o in case.unexplained
            if host.name in o.pair.hosts and o.pair.kind in ("overlay", "service") and o.pair.network_id in overlays
        ]
        yield Finding(
            cause="rootless-overlay",
            severity=severity_of(broken),
            confidence=LIKELY,
            hosts=[host.name],
            segment="engine",
            summary=f"The engine of {host.name} runs rootless: it cannot carry overlay networks to other hosts"
            + (f", {len(broken)} pair(s) fail" if broken else ""),
            evidence=[
                Evidence(
                    host.name,
                    "engine security options",
                    ", ".join(options),
                    "no rootless, for overlay networks",
                    "docker info -f '{{.SecurityOptions}}'",
                )
            ],
            explains=pair_ids(broken),
            remedies=[
                Remedy(
                    "cure",
                    (f"run the engine of {host.name} as root, or publish ports instead of an overlay",),
                    "Containers and volumes of the rootless engine stay with it.",
                    disruptive=True,
                )
            ],
        )


def wants_live_restore(host: Host) -> bool:
    """live-restore is on: as the engine says, or as it is configured."""
    engine = host.facts.engine
    settings = (engine.get("daemon_config") or {}, engine.get("daemon_flags") or {})
    return bool(engine.get("live_restore")) or any(str(row.get("live-restore")).lower() == "true" for row in settings)


def live_restore_refusal(host: Host) -> str | None:
    """The engine's own words that live-restore and Swarm exclude each other, where live-restore is on."""
    if not wants_live_restore(host):
        return None
    log = host.facts.facts.get("log") or {}
    said = [host.facts.engine.get("error") or "", host.facts.swarm.get("error") or ""]
    said += [row.get("sample") or "" for row in (log.get("patterns") or {}).values()]
    return next((text for text in said if REFUSED.search(text)), None)


def decide_live_restore(case: Case) -> t.Iterator[Finding]:
    """An engine that does not start, or a host that does not join, because live-restore excludes Swarm."""
    for host in case.fleet.answering:
        said = live_restore_refusal(host)
        down = host.facts.engine.get("state") == "down"
        if said is None or (not down and host.facts.in_swarm):
            continue
        broken = [
            o
            for o in case.touching(host.name)
            if down
            and (
                o.pair.kind != "host"
                or any(case.underlay_works(host.name, n) for n in o.pair.hosts if n != host.name and n)
            )
        ]
        what = "does not start" if down else "is not in the Swarm"
        yield Finding(
            cause="live-restore-swarm",
            severity=CRITICAL if down else INFO,
            confidence=CONFIRMED,
            hosts=[host.name],
            segment="engine",
            summary=f"The engine of {host.name} {what}: live-restore is on, and Swarm mode excludes it",
            evidence=[
                Evidence(
                    host.name,
                    "engine log",
                    said,
                    "live-restore off on a Swarm node",
                    "grep -n live-restore /etc/docker/daemon.json; dockerd --validate",
                )
            ],
            explains=pair_ids(broken),
            remedies=[
                Remedy(
                    "cure",
                    (
                        f'on {host.name}: remove "live-restore" from /etc/docker/daemon.json (or the unit\'s flags)',
                        "systemctl restart docker",
                    ),
                    "Containers stop with the engine from then on.",
                    disruptive=True,
                )
            ],
        )


def decide_lsm(case: Case) -> t.Iterator[Finding]:
    """A denial of SELinux or AppArmor that names the engine or the network."""
    for host in case.fleet.answering:
        line = log_line(host, "patterns", "permission-denied") or log_line(host, "kernel", "permission-denied")
        sample = (line or {}).get("sample") or ""
        if not line or not DENIED_ABOUT.search(sample) or not is_recent(host, line):
            continue
        broken = [o for o in case.unexplained if host.name in o.pair.hosts]
        yield Finding(
            cause="lsm-denial",
            severity=severity_of(broken),
            confidence=POSSIBLE,
            hosts=[host.name],
            segment="engine",
            summary=f"A security module of {host.name} denied the engine something, {line.get('count')} time(s)"
            + (": nothing else was found that explains what fails there" if broken else ""),
            evidence=[
                Evidence(
                    host.name,
                    "log",
                    sample,
                    "no denial",
                    "ausearch -m avc -ts recent; dmesg | grep -i -e avc -e apparmor",
                )
            ],
            explains=pair_ids(broken),
            remedies=[
                Remedy(
                    "cure",
                    (f"on {host.name}: install or update the engine's policy package (container-selinux, apparmor)",),
                    "Do not switch the module off: the policy is what is wrong.",
                )
            ],
        )


# -- entries left behind -------------------------------------------------------------------------------------------


def decide_stale_udp(case: Case) -> t.Iterator[Finding]:
    """UDP flows that are still translated to an address no container has, where the port now leads elsewhere."""
    for host in case.fleet.answering:
        found = [_stale_rows(case, host, facts) for facts in host.readings]
        lasting = sorted(set.intersection(*found)) if found else []
        if lasting:
            yield _stale_finding(host, lasting)


def _stale_rows(case: Case, host: Host, facts: HostFacts) -> set[tuple[str, str, int, str]]:
    """(client, asked address, asked port, dead address) of each such flow of the host's own namespace."""
    alive = {a["ip"] for namespace in facts.namespaces for a in namespace.addresses}
    subnets = [
        ipaddress.ip_network(row["subnet"])
        for network in facts.networks
        if network.get("driver") == "bridge"
        for row in network.get("subnets") or []
        if row.get("subnet")
    ]
    published = {
        row["host_port"]
        for container in facts.containers
        for row in container.get("ports") or []
        if row.get("protocol") == "udp" and row.get("host_port")
    }
    found = set()
    for row in facts.root.facts.get("conntrack") or []:
        target = row.get("reply_src")
        if row.get("protocol") != "udp" or row.get("dport") not in published or not target or target == row.get("dst"):
            continue
        address = ipaddress.ip_address(target)
        if target not in alive and any(address in subnet for subnet in subnets):
            found.add((row["src"], row["dst"], row["dport"], target))
    return found


def _stale_finding(host: Host, rows: list[tuple[str, str, int, str]]) -> Finding:
    client, asked, port, dead = rows[0]
    return Finding(
        cause="stale-udp-conntrack",
        severity=INFO,
        confidence=CONFIRMED,
        hosts=[host.name],
        segment="nat",
        summary=f"{len(rows)} UDP flow(s) to port {port} of {host.name} are still translated to {dead}, which no "
        f"container has any more: {client} is not heard until it pauses",
        evidence=[
            Evidence(
                host.name,
                f"connection tracking, udp {source} to {target}:{number}",
                f"translated to {old}",
                "the address of the container that publishes the port now",
                f"conntrack -L -p udp --dport {number}",
            )
            for source, target, number, old in rows[:4]
        ],
        remedies=[
            Remedy(
                "cure",
                (f"on {host.name}: conntrack -D -p udp -s {client} -d {asked} --dport {port} --reply-src {dead}",),
                "Only this flow is forgotten; its next packet is translated anew.",
            )
        ],
    )


CAUSES: list[Cause] = [
    Cause(
        "conntrack-full",
        "The connection tracking table is full",
        "nf_conntrack count against max; drop, early_drop and insert_failed around the probes; recent kernel log lines",
        "half full is ordinary; a kernel log line of last week says nothing; full without a refused flow neither",
        decide_conntrack,
        stage=SYMPTOM,
        remedy="raise nf_conntrack_max and its buckets; find who fills it",
    ),
    Cause(
        "neigh-overflow",
        "The neighbour table overflows",
        "table_fulls around the probes; entries against gc_thresh3; recent kernel log lines",
        "the table is one for the whole machine: its limits are read where they can be set; old log lines are history",
        decide_neighbours,
        stage=SYMPTOM,
        remedy="raise gc_thresh1, gc_thresh2 and gc_thresh3",
    ),
    Cause(
        "br-netfilter-missing",
        "Bridged frames bypass the packet filter, and answers the translation they need",
        "bridge-nf-call-iptables, br_netfilter; rules that translate an address to a neighbour on the same bridge; a "
        "question to that address from a container there",
        "a fleet of Swarm alone does not need it: there 0 is no fault; published ports go through the userland proxy",
        decide_bridge_nf,
        remedy="load br_netfilter and set bridge-nf-call-iptables = 1",
    ),
    Cause(
        "vxlan-module-missing",
        "The running kernel has no VXLAN",
        "task errors and engine log ('error creating vxlan interface: operation not supported'); the kernel's modules",
        "a kernel that was upgraded has lost the modules of the one that runs; a device that exists disproves it",
        decide_vxlan_module,
        stage=SYMPTOM,
        remedy="install the modules of the running kernel, or reboot into the installed one",
    ),
    Cause(
        "rootless-overlay",
        "A rootless engine is to carry an overlay",
        "security options of the engine; overlay networks and pairs of its host",
        "a rootless engine outside of a Swarm is no fault",
        decide_rootless,
        stage=SYMPTOM,
        remedy="a rootful engine, or published ports instead of an overlay",
    ),
    Cause(
        "live-restore-swarm",
        "live-restore keeps an engine out of Swarm mode",
        "live-restore in daemon.json, flags and the engine; its log's refusal; the state of the engine and the Swarm",
        "live-restore on a host outside of every Swarm is ordinary",
        decide_live_restore,
        remedy="remove live-restore and restart the engine",
    ),
    Cause(
        "lsm-denial",
        "A security module denied the engine something",
        "AVC and AppArmor lines that name the engine or the network, during the run or in the minutes before",
        "never without such a line; the kernel's VXLAN has no container domain; old denials are history",
        decide_lsm,
        stage=SYMPTOM,
        remedy="the engine's own policy package",
    ),
    Cause(
        "stale-udp-conntrack",
        "A UDP flow is translated to a container that is gone",
        "translated UDP entries of connection tracking against the addresses of running containers and published ports",
        "entries of a port that nobody publishes any more expire unheard; TCP finds out by itself",
        decide_stale_udp,
        remedy="delete that entry: the client's next packet finds the new container",
    ),
]

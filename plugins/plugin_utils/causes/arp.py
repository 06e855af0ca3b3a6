# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ARP on container networks that nobody answers, where no missing entry is the reason."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    AFTERMATH,
    CONFIRMED,
    CRITICAL,
    LIKELY,
    Case,
    Cause,
    Evidence,
    Finding,
    Remedy,
    pair_ids,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.crossing import (
    crossing,
    ends,
    probe_evidence,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.traced import (
    trace_evidence,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.hops import CONTAINER
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace import LABEL

UNRESOLVED = {"failed", "incomplete"}


@dataclass(frozen=True)
class Unanswered:
    """A container that asks for a neighbour and hears nothing."""

    host: str
    container: str
    target: str
    state: str


def decide_arp(case: Case) -> t.Iterator[Finding]:
    """A container's ARP request for its peer stays unanswered, and no entry of the overlay explains it."""
    groups: dict[tuple[str, str | None, str | None], list[tuple[Observation, Unanswered]]] = {}
    for observation in case.unexplained:
        if observation.pair.kind not in ("overlay", "local"):
            continue
        found = next((u for u in _asking(case, observation) if u), None)
        if found is not None:
            key = (found.host, observation.pair.network_id, observation.pair.network)
            groups.setdefault(key, []).append((observation, found))
    for (host, network_id, network), rows in groups.items():
        yield _arp_finding(case, host, network_id, network, rows)


def _asking(case: Case, observation: Observation) -> t.Iterator[Unanswered | None]:
    pair = observation.pair
    for asker, target in ((pair.src, pair.dst), (pair.dst, pair.src)):
        if asker.host is None or asker.container_id is None or target.ip is None or asker.ip is None:
            continue
        host = case.host(asker.host)
        container = next((c for c in host.facts.containers if c["id"] == asker.container_id), None)
        states = _neighbour_states(host, (container or {}).get("netns"), asker.ip, target.ip)
        if (states and not states - UNRESOLVED) or _unanswered_request(case, observation, asker.host, target.ip):
            yield Unanswered(asker.host, asker.name, target.ip, min(states, default="asked for, no answer"))


def _neighbour_states(host: Host, netns: str | None, own: str, ip: str) -> set[str]:
    """What every reading says of a container's neighbour. The kernel forgets one that failed after a few seconds."""
    found = set()
    for facts in host.readings:
        namespace = facts.namespace(netns)
        link = namespace.link_of_address(own) if namespace else None
        state = namespace.neighbours(link["index"]).get(ip, (None, ""))[1] if namespace and link else ""
        found.add(state.lower())
    return found - {""}


def _unanswered_request(case: Case, observation: Observation, host: str, ip: str) -> bool:
    """The capture saw a request for the address at a container's interface, and no reply that gives it."""
    trace = case.trace(observation)
    taps = {hop.tap for hop in trace.hops if hop.name == CONTAINER and hop.host == host} if trace else set()
    rows = [r for r in (case.host(host).captures.get(LABEL) or {}).get("sightings") or [] if r.get("tap") in taps]
    asked = any(row["kind"] == "arp-request" and row.get("dst") == ip for row in rows)
    return asked and not any(row["kind"] == "arp-reply" and row.get("src") == ip for row in rows)


def _arp_finding(
    case: Case, host: str, network_id: str | None, network: str | None, rows: list[tuple[Observation, Unanswered]]
) -> Finding:
    asked = list(dict.fromkeys((row.container, row.target, row.state) for _o, row in rows))
    container, target, state = asked[0]
    across = any(o.pair.kind == "overlay" for o, _row in rows)
    more = f" and {len(asked) - 1} more" if len(asked) > 1 else ""
    pairs = [o for o, _row in rows]
    if across:
        pairs += [o for o in _no_pair_works(case, host, network_id) if o not in pairs]
    device = (
        "the VXLAN device has the entry and should answer for it" if across else "the other container should answer"
    )
    traces = [trace for o in pairs if (trace := case.trace(o)) is not None and trace.broken is not None]
    return Finding(
        cause="arp-unanswered",
        severity=CRITICAL,
        confidence=CONFIRMED if any(_unanswered_request(case, o, host, r.target) for o, r in rows) else LIKELY,
        hosts=[host],
        segment="vtep" if across else "bridge",
        network=network,
        summary=f"{container} on {host} gets no answer to ARP for {target}{more} on {network}: {device}",
        evidence=[
            Evidence(
                host,
                f"neighbour {target} in {container}",
                state,
                "reachable",
                f"nsenter --net=/proc/PID/ns/net ip neigh show {target}",
            ),
            *_entry_evidence(case, host, network_id, target),
            *(trace_evidence(traces[0]) if traces else []),
            probe_evidence(pairs[0], len(pairs)),
        ],
        explains=pair_ids(pairs),
        remedies=[
            Remedy(
                "cure",
                (
                    f"on {host}, in the overlay's namespace: nft list ruleset; bridge link; ip -d link show type vxlan",
                    "remove what drops ARP there; the device has to be a proxy for ARP and up",
                ),
                "None.",
            )
        ],
    )


def _no_pair_works(case: Case, host: str, network_id: str | None) -> list[Observation]:
    """The unexplained pairs of a host on a network none of whose pairs works: the kernel forgets failed neighbours."""
    same = [o for o in crossing(case.observations) if o.pair.network_id == network_id and host in ends(o)]
    if any(o.verdict() in ("ok", "degraded") for o in same):
        return []
    return [o for o in crossing(case.unexplained) if o in same]


def _entry_evidence(case: Case, host: str, network_id: str | None, target: str) -> list[Evidence]:
    """The VXLAN device's own entry for the address, from which it answers."""
    namespace = case.host(host).latest.overlay_namespace(network_id or "")
    for link in namespace.vxlan_links if namespace else []:
        entry = namespace.neighbours(link["index"]).get(target)  # type: ignore[union-attr]
        if entry:
            words = f"{entry[0]} {entry[1]}"
            verify = f"ip neigh show {target} dev {link['name']}   # in the overlay's namespace"
            return [Evidence(host, f"neighbour {target} on {link['name']}", words, None, verify)]
    return []


CAUSES = [
    Cause(
        "arp-unanswered",
        "ARP on a container network stays unanswered",
        "neighbour entries of containers, captured requests without a reply",
        "an entry that is missing on the overlay is reported as that; proxies answer locally",
        decide_arp,
        stage=AFTERMATH,
        remedy="remove what drops ARP in the overlay's namespace",
    ),
]

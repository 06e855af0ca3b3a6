# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a cloud or hypervisor does to packets that are not from or to the address it gave to a machine."""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    CRITICAL,
    POSSIBLE,
    TRACED,
    Case,
    Cause,
    Evidence,
    Finding,
    Remedy,
    culprits,
    pair_ids,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.crossing import (
    LostWay,
    crossing,
    ends,
    passes_instead,
    probe_evidence,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.traced import (
    at,
    between_nics,
    broken_traces,
    hidden_by,
    trace_evidence,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation


def decide_source_check(case: Case) -> t.Iterator[Finding]:
    """Packets with a container's source are lost between two NICs, those with a node's own address pass."""
    candidates = [o for o in crossing(case.unexplained, ("routed",)) if case.underlay_works(*ends(o))]
    ways: dict[str, LostWay] = {}
    for observation, trace, broken in broken_traces(case, candidates):
        sources = {row.get("src") for row in at(trace, broken.direction, broken.last)} if broken.last else set()
        own = case.host(broken.last.host).facts.addresses if broken.last else set()
        if between_nics(broken) and sources and not sources & own and not hidden_by(case, broken.missing):
            way = ways.setdefault(broken.last.host, LostWay())  # type: ignore[union-attr]
            way.pairs.append(observation)
            way.traces.append(trace)
    for host, way in ways.items():
        yield _source_finding(case, frozenset({host}), way.pairs, CONFIRMED, trace_evidence(way.traces[0]))
    plain = [o for o in candidates if case.trace(o) is None]
    known = {o.pair.id for way in ways.values() for o in way.pairs}
    plain = [o for o in plain if o.pair.id not in known and not o.reached and _keeps_source(case, o)]
    working = [ends(o) for o in crossing(case.observations, ("routed",)) if o.reached]
    for place in culprits([ends(o) for o in plain], working):
        pairs = [o for o in plain if place <= set(ends(o))]
        yield _source_finding(case, place, pairs, POSSIBLE, [])


def _keeps_source(case: Case, observation: Observation) -> bool:
    """The engine does not masquerade what leaves this network: the packets keep the container's address."""
    network = case.fleet.networks.get(observation.pair.network_id or "")
    return network is not None and network.options.get("com.docker.network.bridge.enable_ip_masquerade") == "false"


def _source_finding(
    case: Case, place: frozenset[str], pairs: list[Observation], confidence: str, evidence: list[Evidence]
) -> Finding:
    names = sorted(place)
    source = pairs[0].pair.src.ip if pairs[0].pair.src.host in place else pairs[0].pair.dst.ip
    return Finding(
        cause="cloud-src-dst-check",
        severity=CRITICAL,
        confidence=confidence,
        hosts=names,
        segment="underlay",
        direction="out" if len(names) == 1 else None,
        summary=f"The network takes from {' and '.join(names)} what has the host's own address and drops what has a "
        f"container's ({source}): a source/destination check, as clouds have it for every NIC",
        evidence=[*evidence, *passes_instead(case, pairs), probe_evidence(pairs[0], len(pairs))],
        explains=pair_ids(pairs),
        remedies=[
            Remedy(
                "cure",
                (
                    (
                        f"switch the source/destination check off for the NIC of {' and '.join(names)} in the cloud "
                        "(AWS: aws ec2 modify-instance-attribute --no-source-dest-check; Google: --can-ip-forward; "
                        "OpenStack: allowed-address-pairs with the containers' subnets)"
                    ),
                ),
                "The host may then send with any address: limit it to the containers' subnets if possible.",
            )
        ],
    )


CAUSES = [
    Cause(
        "cloud-src-dst-check",
        "The network drops what has a container's address as its source",
        "probes between routed container networks, taps at both NICs, probes between the hosts themselves",
        "VXLAN is not concerned: its packets have the nodes' addresses",
        decide_source_check,
        stage=TRACED,
        remedy="switch the source/destination check of the NIC off, or permit the containers' subnets",
    ),
]

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The container engine itself: running, answering, or not."""

from __future__ import annotations

import typing as t

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
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.kernel import live_restore_refusal
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation


def decide_down(case: Case) -> t.Iterator[Finding]:
    """A host that has an engine whose socket nobody serves, or which accepts and never answers."""
    for host in case.fleet.answering:
        engine = host.facts.engine
        state = engine.get("state")
        if state not in ("down", "silent") or live_restore_refusal(host):
            continue
        broken = [o for o in case.touching(host.name) if _needs_engine(case, o, host)]
        error = engine.get("error") or "its socket does not answer"
        evidence = [
            Evidence(host.name, "engine socket", error, "an answer on the API socket", "docker info"),
            *_last_error(host),
            *_node_state(case, host),
        ]
        yield Finding(
            cause="engine-down",
            severity=CRITICAL,
            confidence=CONFIRMED if state == "down" else LIKELY,
            hosts=[host.name],
            segment="engine",
            summary=f"The container engine on {host.name} is not running ({error})"
            if state == "down"
            else f"The container engine on {host.name} hangs: it accepts connections and answers nothing ({error})",
            evidence=evidence,
            explains=pair_ids(broken),
            remedies=[_start() if state == "down" else _restart()],
        )


def _start() -> Remedy:
    return Remedy(
        "cure",
        ("systemctl start docker", "journalctl -u docker -n 50   # why it stopped"),
        "Containers with a restart policy start again; nothing else changes.",
    )


def _restart() -> Remedy:
    return Remedy(
        "cure",
        (
            "kill -USR1 $(pidof dockerd)   # writes where it hangs into a file that its log names",
            "systemctl restart docker   # where that hangs too: systemctl kill -s KILL docker, then start",
        ),
        "Containers stop with the engine; killed, it leaves them running.",
        disruptive=True,
    )


def _needs_engine(case: Case, observation: Observation, host: Host) -> bool:
    """A pair that fails although the hosts reach each other, or that ends in this host's containers."""
    if observation.pair.kind != "host":
        return True
    return any(case.underlay_works(host.name, name) for name in observation.pair.hosts if name and name != host.name)


def _last_error(host: Host) -> list[Evidence]:
    patterns = (host.facts.facts.get("log") or {}).get("patterns") or {}
    samples = [row.get("sample") for name, row in sorted(patterns.items()) if "error" in name or "fatal" in name]
    return [Evidence(host.name, "engine log", sample, "no error at the end") for sample in samples[:1] if sample]


def _node_state(case: Case, host: Host) -> list[Evidence]:
    node = case.fleet.node_of_host(host.name)
    if node is None or node.get("state") == "ready":
        return []
    manager = case.fleet.managers[0].name
    return [
        Evidence(
            manager,
            "swarm node list",
            f"{node['hostname']} is {node.get('state')} {node.get('message') or ''}".strip(),
            "ready",
            "docker node ls",
        )
    ]


CAUSES = [
    Cause(
        "engine-down",
        "The container engine does not run, or hangs",
        "the engine's API socket, its last log lines, the node list of a manager",
        "a host without any engine is not a fault; a node that a manager calls Down may have a running engine; a busy "
        "machine is asked twice",
        decide_down,
        remedy="start the engine, or restart the one that hangs; its log's last error says why",
    ),
]

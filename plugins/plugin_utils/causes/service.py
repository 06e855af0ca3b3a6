# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services: what should answer on a port, and whether it can."""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    CONFIRMED,
    Case,
    Cause,
    Evidence,
    Facts,
    Finding,
    Remedy,
    pair_ids,
    severity_of,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import Namespace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation


def decide_not_listening(case: Case) -> t.Iterator[Finding]:
    """Ports that are published or asked for, and no socket of the container accepts them."""
    wanted: dict[tuple[str, str, int], list[Observation]] = {}
    for observation in case.observations:
        for host, container, port in _wanted(case, observation):
            wanted.setdefault((host.name, container["id"], port), []).append(observation)
    for (name, container_id, port), observations in wanted.items():
        host = case.host(name)
        container = host.facts.container(container_id) or {}
        namespace = host.latest.namespace(container.get("netns"))
        if namespace is None or namespace.facts.get("error") or namespace.listens("tcp", port):
            continue
        yield _finding(host, container, namespace, port, observations)


def _wanted(case: Case, observation: Observation) -> t.Iterator[tuple[Host, Facts, int]]:
    """(host, container, port in the container) behind a pair that asks for a service."""
    pair = observation.pair
    if pair.dst.host is None:
        return
    host = case.host(pair.dst.host)
    for probe in pair.probes:
        if probe.layer != "tcp" or probe.expects != "service":
            continue
        for container in host.facts.containers:
            if pair.dst.kind == "container" and container["id"] == pair.dst.container_id and probe.port:
                yield host, container, probe.port
            for row in container.get("ports") or []:
                published = pair.dst.kind == "published-port" and row.get("host_port") == probe.port
                if published and row.get("protocol") == "tcp":
                    yield host, container, row["port"]


def _finding(host: Host, container: Facts, namespace: Namespace, port: int, observations: list[Observation]) -> Finding:
    broken = [o for o in observations if o.broken]
    local = sorted({ip for ip, number in namespace.listeners("tcp") if number == port})
    others = sorted({number for _ip, number in namespace.listeners("tcp") if namespace.listens("tcp", number)})
    seen = f"it listens only on {', '.join(local)}" if local else "nothing listens there"
    heard = f"; other ports that listen: {', '.join(map(str, others[:6]))}" if others else ""
    path = namespace.facts.get("path") or f"/proc/{container.get('pid')}/ns/net"
    refused = [o for o in broken if any(r["status"] == "refused" for r in o.results.values())]
    evidence = [
        Evidence(
            host.name,
            f"listening sockets of container {container['name']}",
            seen + heard,
            f"a socket on port {port} that is not loopback's",
            f"nsenter --net={path} ss -ltn",
        )
    ]
    for observation in refused[:1]:
        evidence.append(
            Evidence(
                observation.pair.src.host,
                f"probes {observation.pair.id}",
                "refused: the packet arrived and was answered",
                "open",
            )
        )
    return Finding(
        cause="service-not-listening",
        severity=severity_of(broken),
        confidence=CONFIRMED,
        hosts=[host.name],
        segment="container",
        summary=f"Container {container['name']} on {host.name} does not accept port {port}: {seen}; the path is fine",
        evidence=evidence,
        explains=pair_ids(broken),
        remedies=[
            Remedy(
                "cure",
                (
                    (
                        f"make the application in {container['name']} listen on 0.0.0.0:{port} (or ::), "
                        "or publish the port it does listen on"
                    ),
                ),
                "The application's own configuration; nothing in the network has to change.",
            )
        ],
    )


CAUSES = [
    Cause(
        "service-not-listening",
        "Nothing accepts the port in the container, or only its loopback does",
        "listening sockets of the container's namespace; a refused connection proves the path",
        "a service that binds late: the sockets are read again before anything is said",
        decide_not_listening,
        remedy="make the application listen on the port and not only on loopback, or publish the port it listens on",
    ),
]

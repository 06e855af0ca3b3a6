# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan of the search for path MTUs: whom mtu_probe is sent to in step 3.

Only paths on which large packets are suspect, both ways: between the hosts, which tells what the underlay takes whole,
and between the containers above, which tells what becomes of packets that are larger. A healthy fleet asks nothing.
"""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.mtu import fits, overlays
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.builders import second_proof
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Facts

TARGETS = 32  # of one host
CONTAINER_PAIRS = 2  # of one network between two hosts
EXTERNAL = 8  # addresses outside of the fleet
BULK = ("incomplete",)  # a page that began and did not come to its end


def plan(case: Case, external: t.Iterable[str] = ()) -> dict[str, list[Facts]]:
    """mtu_probe's O(sources) for every host that has a path to measure. C(external): addresses outside of the fleet."""
    sources = _Sources(case)
    misfits = unequal(case)
    suspects = [o for o in case.observations if suspect(o) or (o.pair.kind == "host" and o.pair.hosts in misfits)]
    for one, other in sorted({tuple(sorted(map(str, o.pair.hosts))) for o in suspects if _two_hosts(o)}):
        for src, dst in ((one, other), (other, one)):
            sources.add_host(src, dst)
    taken: dict[tuple[str | None, frozenset[str | None]], int] = {}
    for observation in sorted(suspects, key=lambda o: (not o.broken, o.pair.id)):
        pair = observation.pair
        place = (pair.network_id, frozenset(pair.hosts))
        if pair.kind == "overlay" and _two_hosts(observation) and taken.get(place, 0) < CONTAINER_PAIRS:
            taken[place] = taken.get(place, 0) + 1
            sources.add_containers(observation)
    for address in list(external)[:EXTERNAL]:
        sources.add_external(str(address))
    return sources.by_host()


def unequal(case: Case) -> set[tuple[str | None, str | None]]:
    """(sender, receiver) where an overlay's packets fit the NIC of the one and not that of the other."""
    found: set[tuple[str | None, str | None]] = set()
    for network in overlays(case):
        rows = fits(case, network)
        for large in rows:
            for small in rows:
                if small.nic_mtu < large.needed <= large.nic_mtu:
                    found.add((large.host.name, small.host.name))
    return found


def suspect(observation: Observation) -> bool:
    """Large packets do not pass as small ones do, or somebody says that they are too big."""
    if observation.pair.kind not in ("host", "overlay"):
        return False
    for label in observation.rounds:
        states = observation.layers(label)
        if states.get("mtu") in ("failed", "degraded"):
            return True
        results = observation.rounds[label]
        small = any(states.get(key) == "ok" for key in states if key.split(":")[0] in ("icmp", "tcp"))
        if small and any(r["status"] in BULK for key, r in results.items() if key.startswith("http")):
            return True
    return False


def _two_hosts(observation: Observation) -> bool:
    src, dst = observation.pair.hosts
    return bool(src and dst and src != dst)


class _Sources:
    """The sources of every host, each namespace once, each target once."""

    def __init__(self, case: Case) -> None:
        self.case, self.fleet = case, case.fleet
        self._hosts: dict[str, dict[str | None, Facts]] = {}

    def add_host(self, src: str, dst: str) -> None:
        target = self.fleet.hosts[dst]
        if target.underlay_ip:
            row = {"id": f"{src}>{dst}", "address": target.underlay_ip, "port": second_proof(target)}
            self._add(src, None, row)

    def add_containers(self, observation: Observation) -> None:
        """The pair and its way back."""
        pair = observation.pair
        port = next((probe.port for probe in pair.probes if probe.layer == "tcp" and probe.port), None)
        back = f"{pair.dst.label}>{pair.src.label}@{pair.network}"
        for host, container, ip, name in (
            (pair.src.host, pair.src.container_id, pair.dst.ip, pair.id),
            (pair.dst.host, pair.dst.container_id, pair.src.ip, back),
        ):
            row: Facts = {"id": name, "address": ip}
            if port and name == pair.id:
                row["port"] = port
            if host and ip and container:
                self._add(host, container, row)

    def add_external(self, address: str) -> None:
        """From every host, and from one of its containers."""
        for host in self.fleet.answering:
            self._add(host.name, None, {"id": f"{host.name}>{address}", "address": address})
            for container in host.facts.containers:
                namespace = host.facts.namespace(container.get("netns"))
                routes = (namespace.facts.get("routes") or []) if namespace else []
                if namespace and namespace.kind == "container" and any(r.get("dst") == "default" for r in routes):
                    name = f"{host.name}/{container['name']}>{address}"
                    self._add(host.name, container["id"], {"id": name, "address": address})
                    break

    def _add(self, host: str, container: str | None, row: Facts) -> None:
        place = self.fleet.hosts.get(host)
        if place is None or not place.answered:
            return
        source: Facts = {"targets": []}
        key = None
        if container is not None:
            found = next((c for c in place.facts.containers if c["id"] == container), {})
            namespace = place.facts.namespace(found.get("netns"))
            if namespace is None or not namespace.facts.get("path"):
                return
            key = namespace.facts["path"]
            source = {"container": container, "netns": key, "inode": namespace.key, "targets": []}
        sources = self._hosts.setdefault(host, {})
        count = sum(len(one["targets"]) for one in sources.values())
        targets = sources.setdefault(key, source)["targets"]
        if count < TARGETS and all(known["id"] != row["id"] for known in targets):
            targets.append({name: value for name, value in row.items() if value is not None})

    def by_host(self) -> dict[str, list[Facts]]:
        found = {host: [one for one in rows.values() if one["targets"]] for host, rows in self._hosts.items()}
        return {host: rows for host, rows in found.items() if rows}

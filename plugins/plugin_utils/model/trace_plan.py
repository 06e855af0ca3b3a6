# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan of step 3: which pairs are followed packet by packet, and the taps their hosts open for it.

Only pairs that steps 1 and 2 leave unexplained, or explain without proof. Of many that fail alike a few are followed,
so that every distinct suspect is covered and the cost stays bounded.
"""

from __future__ import annotations

import typing as t
from collections import Counter
from dataclasses import replace

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import CONFIRMED, INFO, Case
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import Facts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet, Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.hops import Hop, hops
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Pair, Probe

PAIRS = 24  # followed in one run
ALIKE = 2  # of those that fail alike
TAPS = 32  # on one host
APART = 0.008  # seconds between the packets of two pairs: far longer than from a sighting to a drop
# Until a host that is not asked again closes its taps by itself: for a few hosts, for each more, at most.
SECONDS = (30.0, 1.5, 60.0)
TRACED_LAYERS = ("icmp", "tcp", "udp")  # what carries a mark or a number of its own


def suspects(case: Case, proven: bool = False) -> list[Observation]:
    """Pairs to follow: broken or losing packets, and nothing confirmed explains why.

    @param proven: also those whose cause is confirmed, for the sake of their packets.
    """
    confirmed = {
        pair
        for finding in case.findings
        if finding.confidence == CONFIRMED and finding.severity != INFO
        for pair in finding.explains
    }
    wanted = [
        o for o in case.observations if o.verdict() in ("failed", "degraded") and (proven or o.pair.id not in confirmed)
    ]
    said = {pair: finding.cause for finding in case.findings for pair in finding.explains}
    chosen: list[Observation] = []
    alike: Counter[tuple[t.Any, ...]] = Counter()
    for observation in sorted(wanted, key=_worth):
        kind = (observation.pair.kind, observation.pair.network, observation.pair.hosts, said.get(observation.pair.id))
        if len(chosen) < PAIRS and alike[kind] < ALIKE and hops(case.fleet, observation.pair):
            alike[kind] += 1
            chosen.append(observation)
    return chosen


def _worth(observation: Observation) -> tuple[bool, str, str]:
    """Broken before degraded; then by name, so that a second run follows the same pairs."""
    return not observation.broken, observation.pair.kind, observation.pair.id


class TracePlan:
    """What every host of the chosen pairs does: probes, taps, and what its kernel is asked."""

    def __init__(self, case: Case, observations: list[Observation]) -> None:
        self.fleet: Fleet = case.fleet
        self.mark = str(case.fleet.run.get("run_id") or "")
        self.taps: dict[str, dict[str, Facts]] = {}
        self.rows: list[tuple[Pair, list[Hop]]] = []
        for observation in observations:
            self._add(observation.pair)

    def _add(self, pair: Pair) -> None:
        probes = [probe for probe in pair.probes if _traced(probe)]
        path = hops(self.fleet, pair)
        added: dict[str, dict[str, Facts]] = {}
        for hop in path:
            if hop.tap not in self.taps.get(hop.host, {}):
                added.setdefault(hop.host, {})[hop.tap] = self._tap(hop)
        if not probes or any(len(self.taps.get(host, {})) + len(taps) > TAPS for host, taps in added.items()):
            return
        for host, taps in added.items():
            self.taps.setdefault(host, {}).update(taps)
        apart = round(len(self.rows) * APART, 3)
        timed = [replace(probe, options={**probe.options, "delay": apart}) for probe in probes]
        self.rows.append((Pair(**{**vars(pair), "probes": timed}), path))

    def _tap(self, hop: Hop) -> Facts:
        facts = self.fleet.hosts[hop.host].facts
        namespace = facts.namespace(hop.namespace)
        tap = {"id": hop.tap, "ifindex": hop.index}
        if namespace is not None and namespace.kind != "host":
            tap.update(netns=namespace.facts.get("path"), inode=hop.namespace)
        return tap

    @property
    def pairs(self) -> list[Pair]:
        return [pair for pair, _path in self.rows]

    def dump(self) -> list[Facts]:
        """plan/trace/pairs.json"""
        return [{"pair": pair.dump(), "hops": [hop.dump() for hop in path]} for pair, path in self.rows]

    def captures(self, nftrace: bool = False) -> dict[str, Facts]:
        """plan/capture/<host>.json: the arguments of vxlan_capture."""
        fleet = self.fleet
        addresses = sorted({host.underlay_ip for host in fleet.answering if host.underlay_ip})
        ends = sorted({node.ip for pair in self.pairs for node in (pair.src, pair.dst) if node.ip} - set(addresses))
        return {
            host: {
                "taps": list(taps.values()),
                "ports": _ports(fleet),
                "mark": self.mark,
                "filter": "probes",
                "tcp_ports": self._tcp_ports(),
                "peers": [ip for ip in addresses if ip != fleet.hosts[host].underlay_ip] + ends,
                "vteps": addresses,
                "vnis": _vnis(fleet.hosts[host]),
                "seconds": min(SECONDS[0] + SECONDS[1] * len(self.taps), SECONDS[2]),
                "reasons": True,
                "nftrace": nftrace,
            }
            for host, taps in self.taps.items()
        }

    def _tcp_ports(self) -> list[int]:
        """The ports that are probed, and what a host may translate them to."""
        probed = {probe.port for pair in self.pairs for probe in pair.probes if probe.port}
        behind = {
            port["port"]
            for host in self.taps
            for container in self.fleet.hosts[host].facts.containers
            for port in container.get("ports") or []
            if port.get("host_port") in probed and port.get("port")
        }
        return sorted(probed | behind)


def _vnis(host: Host) -> list[int]:
    """The VNIs that devices of this host terminate."""
    links = [link["vxlan"] for namespace in host.facts.namespaces for link in namespace.vxlan_links]
    return sorted({link["vni"] for link in links if link.get("vni") is not None})


def _ports(fleet: Fleet) -> list[int]:
    """Every port a VXLAN device of the fleet listens on."""
    return sorted(
        {
            link["vxlan"]["port"]
            for host in fleet.answering
            for namespace in host.facts.namespaces
            for link in namespace.vxlan_links
            if link["vxlan"].get("port")
        }
        | ({fleet.tunnel_port} if fleet.tunnel_port else set())
    )


def _traced(probe: Probe) -> bool:
    return probe.layer in TRACED_LAYERS

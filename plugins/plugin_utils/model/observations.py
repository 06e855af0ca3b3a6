# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Observations: what the probes of each pair showed, over one or two rounds.

A pair that failed in the first round is asked again before anything is said about it: a loss that does not come
back is the network's ordinary life, or a state that was still in flux.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet, Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import (
    FULL,
    PATH,
    REACH,
    SERVICE,
    SIGNAL,
    Facts,
    Pair,
    Probe,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.services import named_addresses, newest

ANSWERED = {"ok", "open", "answered", "nodata"}
TOO_BIG = ("fragmentation-needed", "packet-too-big")
RESOLVED = ANSWERED | {"nxdomain"}  # of a name that need not exist: a resolver looked, and said what it found
PROVES_PATH = ANSWERED | {"refused", "nxdomain", "servfail", "incomplete"}
ROUNDS = ("first", "again")


def _not_sent(result: Facts) -> bool:
    """Nothing left: the namespace was gone, or a socket not allowed. That says nothing about the path.

    A packet that the host's own filter refuses (EPERM) counts as sent.
    """
    return result["status"] == "error" and not result.get("sent")


def layer_state(probe: Probe, result: Facts | None) -> str:
    """One layer of a pair: ok, degraded, failed, unknown, skipped."""
    if result is None or result["status"] == "skipped" or _not_sent(result):
        return "skipped"
    status = result["status"]
    if probe.layer == "mtu":
        return _size_state(result)
    if probe.expects == SIGNAL:
        return "failed" if status == "unreachable" else ("ok" if status in PROVES_PATH else "unknown")
    if probe.layer == "dns" and probe.expects == REACH:
        working = RESOLVED
    else:
        working = ANSWERED if probe.expects == SERVICE or probe.layer in ("http", "dns") else PROVES_PATH
    if status not in working:
        return "failed"
    lost = probe.layer == "icmp" and 0 < result.get("received", 0) < result.get("sent", 0)
    return "degraded" if lost else "ok"


def _size_state(result: Facts) -> str:
    """Of an echo of full size that must not be fragmented: ok, degraded where the path says that it is too big.

    A sender that is told can adapt; failed is one that vanished.
    """
    if result["status"] == "ok":
        return "ok"
    too_big = (result.get("icmp_error") or {}).get("name") in TOO_BIG
    return "degraded" if too_big or result.get("errno") == "EMSGSIZE" else "failed"


@dataclass
class Observation:
    """A pair and what each round saw of it."""

    pair: Pair
    rounds: dict[str, dict[str, Facts]] = field(default_factory=dict)  # round -> layer key -> result
    forgiven: str | None = None  # why its failure says nothing about the path

    @property
    def results(self) -> dict[str, Facts]:
        """The newest result of each layer."""
        newest: dict[str, Facts] = {}
        for label in ROUNDS:
            newest.update(self.rounds.get(label) or {})
        return newest

    def layers(self, label: str | None = None) -> dict[str, str]:
        results = self.results if label is None else self.rounds.get(label) or {}
        states = {probe.key: layer_state(probe, results.get(probe.key)) for probe in self.pair.probes}
        if "mtu" in states and states.get("icmp") != "ok":
            states["mtu"] = "skipped"  # where small echoes are lost, the size of large ones is not to blame
        return states

    def verdict(self, label: str | None = None) -> str:
        """ok, degraded, failed or untested; over all rounds a pair has failed only if it failed in each."""
        if self.forgiven:
            return "untested"
        if label is None and len(self._asked) > 1:
            verdicts = [self.verdict(one) for one in self._asked]
            if "failed" in verdicts:
                return "failed" if set(verdicts) == {"failed"} else "degraded"
        states = self.layers(label)
        by_need: dict[str, list[str]] = {}
        for probe in self.pair.probes:
            if states[probe.key] != "skipped":
                by_need.setdefault(probe.expects, []).append(states[probe.key])
        asked = [state for need, group in by_need.items() if need != SIGNAL for state in group]
        if not asked:
            return "untested"
        required = (by_need.get(PATH) or []) + (by_need.get(SERVICE) or [])
        if not any(probe.layer == "http" and states[probe.key] == "ok" for probe in self.pair.probes):
            # A page that came whole was large enough: TCP gets by with smaller segments, and only datagrams are lost.
            required += by_need.get(FULL) or []
        if "failed" in required or all(state == "failed" for state in asked):
            return "failed"
        return "degraded" if "degraded" in asked or "failed" in (by_need.get(FULL) or []) else "ok"

    @property
    def _asked(self) -> list[str]:
        return [label for label in ROUNDS if label in self.rounds]

    @property
    def broken(self) -> bool:
        """It failed in every round that asked."""
        return self.verdict() == "failed"

    def failed_layers(self) -> list[str]:
        return [key for key, state in self.layers().items() if state == "failed"]

    @property
    def reached(self) -> bool:
        """Something came back: whatever fails above it, the path is there."""
        return any(result["status"] in PROVES_PATH for key, result in self.results.items() if key != "dns")

    def public(self, explained_by: list[str], broken_at: Facts | None) -> Facts:
        """The pair as report.json has it."""
        return {
            "id": self.pair.id,
            "src": self.pair.src.public(),
            "dst": self.pair.dst.public(),
            "network": self.pair.network,
            "layers": self.layers(),
            "verdict": self.verdict(),
            "broken_at": broken_at,
            "explained_by": explained_by,
        }


def observe(fleet: Fleet, plans: dict[str, list[Pair]]) -> list[Observation]:
    """Join the plans of all rounds with the results of all hosts."""
    results: dict[str, dict[str, Facts]] = {}
    for host in fleet.hosts.values():
        for label, probes in host.probes.items():
            for result in probes.get("results") or []:
                results.setdefault(label, {})[result["id"]] = result
    observations: dict[str, Observation] = {}
    for label in ROUNDS:
        for pair in plans.get(label) or []:
            observation = observations.setdefault(pair.id, Observation(pair))
            found = {
                probe.key: results.get(label, {})[pair.probe_id(probe)]
                for probe in pair.probes
                if pair.probe_id(probe) in results.get(label, {})
            }
            if found:
                observation.rounds[label] = found
    for observation in observations.values():
        if _end_is_gone(fleet, observation.pair):
            observation.rounds.clear()
    _forgive_policy(list(observations.values()))
    _forgive_resolvers(list(observations.values()))
    return list(observations.values())


def _end_is_gone(fleet: Fleet, pair: Pair) -> bool:
    """A container at either end stopped while the run went on: the newest reading has its namespace no longer.

    Namespaces are told by inode numbers, which the kernel gives away anew at once: one that belongs to another
    container by now, or lost the address it had, is not the one that was meant. An address without a container is
    gone when the engine that named it no longer does.
    """
    if pair.kind == "backend":
        source = fleet.hosts.get(pair.src.host or "")
        return source is None or pair.dst.ip not in named_addresses(newest(source, "networks"), pair.network_id or "")
    for end in (pair.src, pair.dst):
        host = fleet.hosts.get(end.host or "")
        if host is None or len(host.readings) < 2:
            continue
        ports = {probe.port for probe in pair.probes} if end.kind == "published-port" else set()
        for container in host.facts.containers:
            published = {row.get("host_port") for row in container.get("ports") or []}
            meant = container["id"] == end.container_id or bool(ports & published)
            if meant and container.get("netns") and not _still_there(host, container["netns"], end.ip):
                return True
    return False


def _still_there(host: Host, netns: str, ip: str | None) -> bool:
    """The newest reading has the namespace that the first one had under this number."""
    before, now = host.facts.namespace(netns), host.latest.namespace(netns)
    if now is None:
        return False
    owners = {container["id"] for container in host.facts.containers if container.get("netns") == netns}
    if now.container_id and owners and now.container_id not in owners:
        return False
    had = ip is not None and before is not None and before.link_of_address(ip) is not None
    return not had or now.link_of_address(str(ip)) is not None


def _forgive_policy(observations: list[Observation]) -> None:
    """Take a container's way out only by what answers its own host: the rest is the policy of the one asked."""
    hosts = {o.pair.hosts: o for o in observations if o.pair.kind == "host"}
    for observation in observations:
        below = hosts.get(observation.pair.hosts)
        if observation.pair.kind != "egress" or below is None or not below.reached:
            continue
        for label, results in observation.rounds.items():
            states = below.layers(label if label in below.rounds else None)
            observation.rounds[label] = {k: r for k, r in results.items() if states.get(k) not in ("failed", "skipped")}


def _forgive_resolvers(observations: list[Observation]) -> None:
    """Take a container's upstream resolver only by what it does for others.

    Where nobody of the fleet gets an answer, the hosts included, there is no resolver by design or it is down: no path
    of a container's is wrong. What a host itself does not get is not container networking. A resolver that fails with
    the question for the host as well did get it.
    """
    asked = [o for o in observations if o.pair.kind == "upstream"]
    own = {o.pair.src.host: o for o in asked if o.pair.src.kind == "host"}
    nobody = bool(own) and not any(o.verdict() == "ok" for o in asked)
    for observation in asked:
        if observation.verdict() != "failed":
            continue
        beside = own.get(observation.pair.src.host)
        status = _dns_status(observation)
        if nobody:
            observation.forgiven = "no resolver answers anybody of the fleet, the hosts included"
        elif observation is beside:
            observation.forgiven = "the host's own resolver gave no answer"
        elif status == "servfail" and beside is not None and _dns_status(beside) == status:
            observation.forgiven = "the resolver answers the host with a failure as well"


def _dns_status(observation: Observation) -> str | None:
    return (observation.results.get("dns") or {}).get("status")

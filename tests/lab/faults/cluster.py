# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The cluster: nodes, managers, their quorum, their certificates, and stores beside it."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from .. import engine, state
from .balancing import Service
from .changes import NftTable
from .control_plane import NODE_DOWN
from .model import ANY, Broken, Expect, Fault, Place, latent, overlay_touching

if TYPE_CHECKING:
    from ..fleet import Host


@dataclasses.dataclass(frozen=True)
class HostGone:
    """A host as if it had crashed, as far as anybody sees: neither its engine nor its sshd is there any more."""

    who: str = "$host"

    def apply(self, place: Place) -> None:
        host = place.lab.hosts[place.fill(self.who)]
        engine.stop_engine(host, 9)
        host.run(["kill", "-9", *processes(host, "sshd")])
        if not state.wait_for(lambda: not processes(host, "sshd"), 30):
            raise state.LabError(f"sshd on {host.name} survives")

    def undo(self, place: Place, saved: None) -> None:
        host = place.lab.hosts[place.fill(self.who)]
        if not processes(host, "sshd"):
            engine.start_sshd(host)
        engine.start_engine(host)


def processes(host: Host, name: str) -> list[str]:
    """The numbers, on the host, of its processes of that name."""
    found = []
    for entry in host.path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "comm").read_text().strip() == name:
                found.append(entry.name)
        except OSError:
            continue  # it has ended
    return found


@dataclasses.dataclass(frozen=True)
class Availability:
    """A node drained or paused."""

    value: str

    def _set(self, place: Place, value: str) -> None:
        place.lab.manager.run(["docker", "node", "update", "--availability", value, place.host.name])

    def apply(self, place: Place) -> None:
        self._set(place, self.value)

    def undo(self, place: Place, saved: None) -> None:
        self._set(place, "active")


STORE_PORT = 2379
RESIDUE = "containers that are started anew have new addresses, links and namespaces"


@dataclasses.dataclass(frozen=True)
class StoreConfigured:
    """Every daemon.json names a store on the host. The engines do not read it again: with a Swarm they would refuse."""

    def apply(self, place: Place) -> dict[str, str]:
        before = {}
        for host in place.lab.docker_hosts:
            before[host.name] = host.path("/etc/docker/daemon.json").read_text()
            store = f"etcd://{place.host.address}:{STORE_PORT}"
            host.write("/etc/docker/daemon.json", json.dumps(json.loads(before[host.name]) | {"cluster-store": store}))
        return before

    def undo(self, place: Place, saved: dict[str, str]) -> None:
        for name, text in saved.items():
            place.lab.hosts[name].write("/etc/docker/daemon.json", text)


@dataclasses.dataclass(frozen=True)
class Store:
    """etcd on the host, in memory: alone and well, or one of three members whose others are not there."""

    members: int = 1

    def apply(self, place: Place) -> None:
        host, client = place.host, f"http://{place.host.address}:{STORE_PORT}"
        peers = [f"http://{address}:2380" for address in (host.address, "198.51.100.8", "198.51.100.9")]
        cluster = ",".join(f"m{number}={url}" for number, url in enumerate(peers[: self.members]))
        options = ["--name", "m0", "--data-dir", "/run/lab-etcd", "--initial-cluster", cluster]
        options += ["--listen-client-urls", client, "--advertise-client-urls", client]
        options += ["--listen-peer-urls", peers[0], "--initial-advertise-peer-urls", peers[0]]
        host.start(["etcd", *options], log="/run/lab-etcd.log")

        def listens() -> bool:
            return f":{STORE_PORT} " in host.run(["ss", "-Hltn"]).stdout

        if not state.wait_for(listens, 60):
            log = host.path("/run/lab-etcd.log").read_text()[-500:]
            self.undo(place, None)
            raise state.LabError(f"etcd does not listen on {host.name}: {log}")

    def undo(self, place: Place, saved: None) -> None:
        place.host.run(["kill", "-9", *processes(place.host, "etcd")])
        state.wait_for(lambda: not processes(place.host, "etcd"), 10)
        place.host.run(["rm", "-r", "-f", "/run/lab-etcd", "/run/lab-etcd.log"])


def store(variant: str, summary: str, *changes: Store) -> Fault:
    expect = Expect(("kv-store-unhealthy",), ("control-plane",), ())
    text = f"{summary} (seen by the diagnosis alone)"
    return Fault(f"kv-store-unhealthy{variant}", text, (StoreConfigured(), *changes), expect)


def node_down(variant: str, summary: str, severity: str, *before: Service) -> Fault:
    pairs = (Broken("engine", "$host", "$host", "the engine of $host"), NODE_DOWN, *overlay_touching())
    return Fault(
        f"node-down{variant}",
        summary,
        (*before, HostGone()),
        Expect(("node-down",), ("control-plane",), pairs, severity=severity),
        settle=90,
        withdraws="others",
        residue=RESIDUE,
    )


NFT_MANAGEMENT = """\
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname $port ip protocol tcp tcp dport 2377 drop
    oifname $port ip protocol tcp tcp dport 2377 drop
  }"""
SURVIVOR = "$manager"

FAULTS: tuple[Fault, ...] = (
    node_down("", "a worker's host is gone: neither engine nor sshd", "warning"),
    node_down(
        ":tasks",
        "the host of a worker is gone, and with it the task of a service that may run nowhere else",
        "critical",
        Service("crosshost-here", "dnsrr", only_here=True),
    ),
    latent("node-not-active", "a node is drained", Availability("drain"), segments=("control-plane",)),
    latent("node-not-active:pause", "a node is paused", Availability("pause"), segments=("control-plane",)),
    Fault(
        "raft-no-quorum",
        "two of three managers are gone, hosts and all",
        (HostGone(), HostGone("$peer")),
        Expect(
            ("raft-no-quorum",),
            ("control-plane",),
            (
                Broken("node", ANY, ANY, "the node list of the manager that is left"),
                Broken("node", SURVIVOR, SURVIVOR, "the node list of the manager that is left"),
                *(Broken("engine", who, who, f"the engine of {who}") for who in ("$host", "$peer")),
                *(Broken("overlay", SURVIVOR, who, f"{SURVIVOR} to {who}") for who in ("$host", "$peer")),
                *(Broken("overlay", who, SURVIVOR, f"{who} to {SURVIVOR}") for who in ("$host", "$peer")),
            ),
            hosts=("$host", "$peer"),
        ),
        settle=90,
        managers=3,
        residue=RESIDUE,
    ),
    Fault(
        "swarm-partitioned",
        "one of three managers is cut off from the others' port 2377, and they from its, in the network between; what "
        "cuts it off is the fault, that the managers disagree is said at info",
        (NftTable("bridge", "partition", NFT_MANAGEMENT, where="fabric"),),
        Expect(
            ("swarm-partitioned", "mgmt-2377-blocked"),
            ("control-plane", "underlay"),
            (Broken("node", "$manager", "$host", "$host is down for the others"),),
        ),
        host="node3",
        settle=90,
        managers=3,
    ),
    store("", "the engines are configured with a store that nothing listens for"),
    store(":no-leader", "the engines are configured with an etcd that has lost two of its three members", Store(3)),
)

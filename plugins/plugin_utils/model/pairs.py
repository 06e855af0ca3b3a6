# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pairs: who should reach whom, and the probes that ask."""

from __future__ import annotations

import typing as t
from dataclasses import asdict, dataclass, field

Facts = dict[str, t.Any]

# What a probe has to show.
REACH = "reach"  # one of several proofs of the same path: the pair is reached if any of them comes back
PATH = "path"  # something has to come back; a refused connection proves the path
SERVICE = "service"  # the service itself has to answer
FULL = "full"  # as large as both ends take: one that vanishes breaks the pair, unless a whole page comes all the same
SIGNAL = "signal"  # nothing needs to come back: the probe exists to be counted at the receiver


@dataclass(frozen=True)
class Node:
    """One end of a pair."""

    host: str | None
    kind: str  # host | container | service | published-port | external | name
    name: str
    ip: str | None
    container_id: str | None = None

    def public(self) -> Facts:
        return {"host": self.host, "kind": self.kind, "name": self.name, "ip": self.ip}

    @property
    def label(self) -> str:
        if self.kind == "container":
            return f"{self.host}/{self.name}"
        return self.name


@dataclass
class Probe:
    """One probe of a pair, in the words of path_probe; the layer mtu is an echo of full size."""

    layer: str
    address: str | None = None
    port: int | None = None
    expects: str = REACH
    options: Facts = field(default_factory=dict)
    tag: str = ""  # tells probes of one layer apart: "6" for the other address family

    @property
    def key(self) -> str:
        """The layer's name in a report: icmp, mtu, tcp:7946, udp:4789, http:80, dns."""
        return f"{self.layer}{self.tag}:{self.port}" if self.port and self.layer != "dns" else self.layer + self.tag


@dataclass
class Pair:
    """A directed pair with its probes. C(kind) says which path the packets take."""

    kind: str  # host | overlay | local | published | hairpin | egress | routed | service | upstream | translated
    src: Node
    dst: Node
    network_id: str | None = None
    network: str | None = None
    netns: str | None = None
    probes: list[Probe] = field(default_factory=list)

    @property
    def id(self) -> str:
        network = f"@{self.network}" if self.network and self.kind in ("overlay", "local", "service") else ""
        return f"{self.src.label}>{self.dst.label}{network}"

    @property
    def hosts(self) -> tuple[str | None, str | None]:
        return self.src.host, self.dst.host

    def probe_id(self, probe: Probe) -> str:
        return f"{self.id}#{probe.key}"

    def request(self, probe: Probe) -> Facts:
        """The probe as path_probe takes it."""
        return {
            "id": self.probe_id(probe),
            "layer": "icmp" if probe.layer == "mtu" else probe.layer,
            "address": probe.address,
            "port": probe.port,
            **probe.options,
        }

    def dump(self) -> Facts:
        return asdict(self)

    @classmethod
    def load(cls, row: Facts) -> Pair:
        return cls(
            kind=row["kind"],
            src=Node(**row["src"]),
            dst=Node(**row["dst"]),
            network_id=row["network_id"],
            network=row["network"],
            netns=row["netns"],
            probes=[Probe(**probe) for probe in row["probes"]],
        )

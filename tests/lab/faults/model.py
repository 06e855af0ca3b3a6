# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a fault is: changes to make on one host or in the fabric, and what a diagnosis must say about them.

Every text of a fault may hold $host, $address, $port (the host's port in the fabric), $peer, $peer_address, $peer_port,
$other_address, $manager and $tunnel: they are filled in when the fault is put in, so the same definition serves every
host. The peer is the next Docker host, the other a third one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from string import Template
from typing import TYPE_CHECKING, Any, Literal, Protocol

from .. import state

if TYPE_CHECKING:
    from ..fleet import Host, Lab, Result

TUNNEL_PORT = 4789
HOLD = 32.0
ANY = "*"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a fault is put in."""

    lab: Lab
    host: Host
    peer: Host

    @property
    def other(self) -> Host:
        """A third host; the peer again where there are but two."""
        third = [entry for entry in self.lab.docker_hosts if entry not in (self.host, self.peer)]
        return third[0] if third else self.peer

    @property
    def values(self) -> dict[str, str]:
        return {
            "host": self.host.name,
            "address": self.host.address,
            "port": self.host.port,
            "peer": self.peer.name,
            "peer_address": self.peer.address,
            "peer_port": self.peer.port,
            "other_address": self.other.address,
            "manager": self.lab.manager.name,
            "tunnel": str(TUNNEL_PORT),
        }

    def fill(self, text: str) -> str:
        return Template(text).substitute(self.values)

    def netns(self, where: str) -> str:
        """The network namespace named "host", "fabric" or "overlay" (the one of the overlay network on the host)."""
        if where == "fabric":
            return self.lab.fabric.netns
        return self.host.overlay_netns() if where == "overlay" else self.host.netns

    def run(self, where: str, argv: Sequence[str], input: str | None = None) -> Result:
        filled = [self.fill(word) for word in argv]
        if where == "fabric":
            return self.lab.fabric.run(filled, input=input)
        return self.host.run(filled, input=input, netns=self.netns(where))


class Change(Protocol):
    """One reversible change. What ``apply`` returns is kept as JSON for ``undo``, perhaps in another process."""

    def apply(self, place: Place) -> Any: ...

    def undo(self, place: Place, saved: Any) -> None: ...


@dataclasses.dataclass(frozen=True)
class Broken:
    """Paths that a fault breaks, as survey.py names them: a kind, and the hosts the two ends are on ("*": any)."""

    kind: str
    src: str
    dst: str
    text: str

    def as_dict(self, place: Place) -> dict[str, str]:
        return {name: place.fill(value) for name, value in dataclasses.asdict(self).items()}


def overlay_touching() -> tuple[Broken, ...]:
    text = "overlay pairs between $host and other hosts"
    return Broken("overlay", "$host", ANY, text), Broken("overlay", ANY, "$host", text)


def overlay_between() -> tuple[Broken, ...]:
    text = "overlay pairs between $host and $peer"
    return Broken("overlay", "$host", "$peer", text), Broken("overlay", "$peer", "$host", text)


def published() -> Broken:
    return Broken("published", "outside", "$host", "published ports of $host, from outside")


def egress(kind: str) -> Broken:
    return Broken(kind, "$host", "outside", f"{kind.partition('-')[2]} containers of $host to the outside")


@dataclasses.dataclass(frozen=True)
class Expect:
    """What the diagnosis must say. Where several words are right, the first is the best."""

    causes: tuple[str, ...]
    segments: tuple[str, ...]
    pairs: tuple[Broken, ...]
    hosts: tuple[str, ...] = ("$host",)
    direction: str | None = None
    severity: str = "critical"

    def as_dict(self, place: Place) -> dict[str, Any]:
        return {
            "cause": self.causes[0] if self.causes else None,
            "causes": list(self.causes),
            "hosts": [place.fill(host) for host in self.hosts],
            "segments": list(self.segments),
            "direction": self.direction,
            "severity": self.severity,
            "pairs": [pair.as_dict(place) for pair in self.pairs],
        }


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault. The name is the cause's id, with ":variant" behind it for all but the plainest form."""

    name: str
    summary: str
    changes: tuple[Change, ...]
    expect: Expect
    host: str = "node2"
    settle: float = 60.0
    """How long it may take, in seconds, until every expected pair is broken."""
    withdraws: Literal["", "others", "all"] = ""
    """Where gossip withdraws entries after a while: on the other hosts (the host's), or on all. Settled when it has.

    Such a fault is healed only HOLD seconds later: until each host has exchanged its whole table with the others, which
    engines do every 30 s, entries that are back may be withdrawn once more without a word in any log.
    """
    stands_in: str = ""
    """What the lab made in the place of an engine that cannot make it here: it would not make it anew in a repair."""
    residue: str = ""
    """What healing cannot take back, and why."""

    managers: int = 1
    """How many of the lab's hosts have to be managers of the Swarm."""
    question: tuple[tuple[str, str], ...] = ()
    """Options of the diagnosis (doctor_to …) without which nothing would be asked of what the fault breaks."""
    partial: bool = False
    """It loses some packets of many: what the lab's survey tries once may work or not."""

    also: frozenset[str] = frozenset()
    """Causes a diagnosis may name besides, at info: what the fault leaves lying about and breaks nothing."""

    @property
    def cause(self) -> str | None:
        """None for a trap."""
        return self.expect.causes[0] if self.expect.causes else None

    def options(self, place: Place) -> dict[str, str]:
        """What the diagnosis has to be asked with."""
        return {name: place.fill(value) for name, value in self.question}

    @property
    def hold(self) -> float:
        """How long after healing it is before the lab's wholeness means anything, in seconds."""
        return HOLD if self.withdraws else 0.0


def trap(name: str, summary: str, *changes: Change, info: tuple[str, ...] = (), host: str = "node2") -> Fault:
    """An oddity that breaks nothing. C(info): causes a diagnosis may name at info severity, none louder."""
    nothing = Expect(causes=(), segments=(), pairs=(), hosts=(), severity="info")
    return Fault(f"trap:{name}", summary, changes, nothing, host=host, also=frozenset(info))


def latent(name: str, summary: str, *changes: Change, segments: tuple[str, ...], host: str = "node2") -> Fault:
    """A wrong setting that breaks nothing now: a diagnosis names it, at info."""
    expect = Expect((name.partition(":")[0],), segments, (), severity="info")
    return Fault(name, summary, changes, expect, host=host)


def place_for(lab: Lab, fault: Fault, host: str | None) -> Place:
    name = host or fault.host
    dockers = {entry.name: entry for entry in lab.docker_hosts}
    if name not in dockers:
        raise state.LabError(f"lab {lab.name!r} has no Docker host {name!r}; it has {', '.join(dockers)}")
    if len(dockers) < 2:
        raise state.LabError("a fault needs a host and a peer: bring the lab up with two Docker hosts or more")
    order = list(dockers)
    return Place(lab, dockers[name], dockers[order[(order.index(name) + 1) % len(order)]])

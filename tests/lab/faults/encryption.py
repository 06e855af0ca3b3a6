# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Encrypted overlays: ESP, the marks and rules that belong to it, and kernels without it.

The lab's kernel has no ESP: containers on an encrypted network reach nobody on other hosts, without further ado.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from typing import Any

import docker

from .. import engine, state
from ..fleet import Host
from .changes import Command, Iptables
from .model import Expect, Fault, Place, latent, overlay_between, overlay_touching
from .ports import OverlayNetwork, removed

NO_ESP = "encrypted-no-esp-kernel"
FALSE = "encrypted-false-is-true"
STALE = "encrypted-stale-rules"
MARK = "0xd0c4e3"
APP_VNI = "0x100100"  # 4097, the lab's overlay network, as the rules have it: times 256
NOBODYS_VNI = "0x271100"  # 10001


@dataclasses.dataclass(frozen=True)
class EncryptedNetwork:
    """An encrypted overlay network with a container on the host and on its peer; what 20.10 leaves behind goes too."""

    value: str = ""
    name: str = "secret"

    def apply(self, place: Place) -> dict[str, Any]:
        from .apply import base_chains

        hosts = [place.host, place.peer]
        chains = {host.name: list(base_chains(Place(place.lab, host, place.peer))) for host in hosts}
        network = place.lab.manager.docker.networks.create(
            self.name, driver="overlay", attachable=True, options={"encrypted": self.value}
        )
        for host in hosts:
            engine.run_container(host, f"{self.name}-{host.name}", network=self.name)
        state.wait_for(lambda: all(rules(host) for host in hosts), 60, 0.5)
        return {"network": network.id, "chains": chains}

    def undo(self, place: Place, saved: dict[str, Any]) -> None:
        from .apply import drop_empty

        for host in (place.host, place.peer):
            with contextlib.suppress(docker.errors.NotFound):
                host.docker.containers.get(f"{self.name}-{host.name}").remove(force=True, v=True)
        network = place.lab.manager.docker.networks.get(saved["network"])
        state.wait_for(lambda: removed(network), 60, 0.5)
        for host in (place.host, place.peer):
            for table, rule in rules(host):
                host.run(["iptables", "-w", "-t", table, "-D", *shlex.split(rule)])
            host.run(["ip", "xfrm", "policy", "flush"])
            drop_empty(Place(place.lab, host, place.peer), saved["chains"][host.name])


def rules(host: Host) -> list[tuple[str, str]]:
    """(table, rule) of what the engine put in for encrypted networks, as iptables-save words it."""
    found, table = [], ""
    for line in host.run(["iptables-save"]).stdout.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A ") and "-m u32" in line:
            found.append((table, line[3:]))
    return found


def header_match(vni: str) -> str:
    """As libnetwork writes it: the word of the VXLAN header that holds the identifier, its last byte masked out."""
    return f'-p udp -m udp --dport $tunnel -m u32 --u32 "0x0>>0x16&0x3c@0xc&0xffffff00={vni}"'


@dataclasses.dataclass(frozen=True)
class EngineRule(Iptables):
    """A rule with the fault's values filled in."""

    def _run(self, place: Place, action: str) -> None:
        rule = shlex.split(place.fill(self.rule))
        place.run("host", [self.tool, "-w", "-t", self.table, action, self.chain, *rule])


def stale_drop(vni: str) -> EngineRule:
    return EngineRule(f"-m policy --dir in --pol none {header_match(vni)} -j DROP")


def stale_mark(vni: str) -> EngineRule:
    return EngineRule(f"{header_match(vni)} -j MARK --set-mark {MARK}", table="mangle", chain="OUTPUT")


POLICY = f"src $address dst $peer_address proto udp dport $tunnel dir out mark {MARK}"
TEMPLATE = "tmpl src $address dst $peer_address proto esp spi 0x1 reqid 13681891 mode transport"

FAULTS = (
    Fault(
        NO_ESP,
        "containers of two hosts are on an encrypted network, and the kernel has no ESP",
        (EncryptedNetwork(),),
        Expect((NO_ESP,), ("engine",), (), hosts=("$host", "$peer")),
    ),
    Fault(
        f"{NO_ESP}:false",
        "a network was meant not to be encrypted, with encrypted=false, and the kernel has no ESP",
        (EncryptedNetwork(value="false"),),
        Expect((NO_ESP,), ("engine",), (), hosts=("$host", "$peer")),
        also=frozenset({FALSE}),
    ),
    latent(
        FALSE,
        "a network without containers has the option encrypted=false",
        OverlayNetwork("open-$host", (("encrypted", "false"),)),
        segments=("vtep",),
        host="node1",
    ),
    Fault(
        STALE,
        "the rule of an encrypted network that is gone drops a plain network that has its VNI",
        (stale_drop(APP_VNI),),
        Expect((STALE,), ("host-filter-in",), overlay_touching(), direction="in"),
    ),
    Fault(
        f"{STALE}:mark",
        "the mark and policy of an encrypted network that is gone take a plain network's packets for ESP",
        (stale_mark(APP_VNI), Command(f"ip xfrm policy add {POLICY} {TEMPLATE}", f"ip xfrm policy delete {POLICY}")),
        Expect((STALE,), ("host-filter-out",), overlay_between(), direction="out"),
    ),
    latent(
        f"{STALE}:idle",
        "the rules of an encrypted network that is gone, whose VNI nobody has",
        stale_drop(NOBODYS_VNI),
        stale_mark(NOBODYS_VNI),
        segments=("host-filter-in",),
    ),
)

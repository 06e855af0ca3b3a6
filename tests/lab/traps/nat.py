# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Translations and rules for containers that are unusual and right."""

from __future__ import annotations

import dataclasses

from ..faults.changes import Command, ExtraContainer, Iptables
from ..faults.filter_ownership import Ruleset, WebRule
from ..faults.model import Fault, Place, trap
from ..faults.nat import ContainerTable

OWN_FILTER = """\
  chain input {
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    ct state established,related accept
    meta l4proto { icmp, ipv6-icmp } accept
    tcp dport 80 accept
  }"""


@dataclasses.dataclass(frozen=True)
class InternalNetwork:
    """An internal bridge network: no way out, by design."""

    name: str

    def apply(self, place: Place) -> None:
        place.host.docker.networks.create(self.name, driver="bridge", internal=True)

    def undo(self, place: Place, saved: None) -> None:
        place.host.docker.networks.get(self.name).remove()


TRAPS: tuple[Fault, ...] = (
    dataclasses.replace(
        trap(
            "internal-network",
            "an internal network has no MASQUERADE rule, and its container no way out",
            InternalNetwork("inner"),
            ExtraContainer("inner-$host", "80", network="inner"),
            info=("isolated-by-design",),
        ),
        residue="the engine puts its rules in another order when a network comes and goes",
    ),
    trap(
        "docker-user-for-a-stranger",
        "DOCKER-USER drops an address that is nobody's here, and another port",
        Iptables("-s 203.0.113.7 -j DROP", chain="DOCKER-USER"),
        Iptables("-i eth0 -p tcp --dport 3306 -j REJECT", chain="DOCKER-USER"),
    ),
    trap(
        "snat-instead-of-masquerade",
        "SNAT to the host's address stands where the engine's MASQUERADE was",
        Ruleset(
            (
                "iptables -w -t nat -D POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
                "iptables -w -t nat -A POSTROUTING -s 172.17.0.0/16 -o eth0 -j SNAT --to-source $address",
            )
        ),
    ),
    trap(
        "docker28-guard",
        "the rule engines from 28 on have against direct routing; nobody routes to the container",
        WebRule("-d $web ! -i docker0 -j DROP", "raw", "PREROUTING"),
    ),
    trap(
        "container-with-its-own-filter",
        "a container's own filter has policy drop and accepts what it serves",
        ContainerTable("web-$host", OWN_FILTER),
    ),
    trap(
        "docker-user-logs",
        "DOCKER-USER logs what comes for containers, at a limited rate, and drops nothing",
        Command(
            "iptables -w -I DOCKER-USER -i eth0 -m limit --limit 5/min -j LOG",
            "iptables -w -D DOCKER-USER -i eth0 -m limit --limit 5/min -j LOG",
        ),
    ),
)

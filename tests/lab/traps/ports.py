# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VXLAN devices, sockets and log lines beside the engine's that are in nobody's way."""

from __future__ import annotations

from ..faults.changes import Command, ExtraContainer
from ..faults.model import trap
from ..faults.ports import OldLogLines, OverlayNetwork, UdpHolder, vxlan_device

OLD_GOSSIP = (
    "memberlist: Was able to connect to 0123456789ab but other probes failed, network may be misconfigured",
    "memberlist: Suspect 0123456789ab has failed, no acks received",
    "Bulk sync to node 0123456789ab timed out",
    "error creating vxlan interface: file exists",
)

TRAPS = (
    trap(
        "second-vxlan-same-port",
        "a second VXLAN device on the tunnel port has a VNI of no Swarm network",
        vxlan_device("vxlan.calico", "id 7002 dstport $tunnel"),
        Command("ip link set vxlan.calico up", "ip link set vxlan.calico down"),
    ),
    trap(
        "second-vxlan-other-port",
        "a VXLAN device has the ingress network's VNI on a port of its own, and one without a VNI has another",
        vxlan_device("flannel.1", "id 4096 dstport 8472"),
        vxlan_device("cilium_vxlan", "external dstport 8473"),
        Command("ip link set cilium_vxlan up", "ip link set cilium_vxlan down"),
    ),
    trap("udp-holder-elsewhere", "a process holds a UDP port that is no tunnel's", UdpHolder(4790)),
    trap("old-gossip-log", "the engine's log tells of a gossip cut that was healed long ago", OldLogLines(OLD_GOSSIP)),
    trap(
        "worker-without-a-task",
        "no container of a network runs on one host: its peers lack it, and it lacks the network",
        OverlayNetwork("lazy-$host"),
        ExtraContainer("lazy-$host", "80", network="lazy-node2"),
        host="node2",
    ),
)

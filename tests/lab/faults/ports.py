# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""UDP ports and VXLAN identifiers that two parties want, and gossip that does not converge."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from typing import Any

import docker
from pyroute2 import IPRoute

from .. import engine, state
from ..network import index_of, netlink
from .changes import NTF_SELF, NUD_PERMANENT, Command, EngineStop, NftTable, attributes
from .model import HOLD, Change, Expect, Fault, Place, latent, overlay_touching

MISMATCH = "data-path-port-mismatch"
TAKEN = "data-port-userland-taken"
VNI = "vni-collision-calico-docker"
EXTERNAL = "vxlan-port-external-conflict"
GOSSIP_UDP = "gossip-udp-7946-blocked"
TEMPORARY = "vx-lab"
FREE_VNI = 7001  # of no network of the lab
NEW_ADDRESSES = "containers that are started anew have new addresses, links and namespaces"


@dataclasses.dataclass(frozen=True)
class VxlanPort:
    """The overlay's VXLAN device made anew with another UDP port, its bridge, neighbours and entries as they were."""

    port: int

    def apply(self, place: Place) -> dict[str, Any]:
        netns = place.netns("overlay")
        saved = netlink(netns, self._read)
        self._make(place, netns, saved, self.port)
        return saved

    def undo(self, place: Place, saved: dict[str, Any]) -> None:
        self._make(place, place.netns("overlay"), saved, saved["port"])

    @staticmethod
    def _read(ip: IPRoute) -> dict[str, Any]:
        index = index_of(ip, "vxlan0")
        link = ip.get_links(index)[0]
        data = link.get(("linkinfo", "data"))
        neighbours = ip.get_neighbours(ifindex=index)
        return {
            "index": index,
            "mac": link.get("address"),
            "mtu": link.get("mtu"),
            "queue": link.get("txqlen"),
            "master": link.get("master"),
            "vni": data.get("vxlan_id"),
            "port": data.get("vxlan_port"),
            "neighbours": [
                attributes(entry, "family", "dst", "lladdr", "state")
                for entry in neighbours
                if entry["state"] & NUD_PERMANENT
            ],
            "fdb": [
                {"lladdr": entry.get("lladdr"), "dst": entry.get("dst")}
                for entry in ip.fdb("dump")
                if entry["ifindex"] == index and entry["state"] & NUD_PERMANENT and entry.get("dst")
            ],
        }

    @staticmethod
    def _make(place: Place, netns: str, saved: dict[str, Any], port: int) -> None:
        """Made in the host's namespace and moved: there its socket stays, as with the engine's own."""
        netlink(netns, lambda ip: ip.link("del", index=index_of(ip, "vxlan0")))
        kind = {"kind": "vxlan", "vxlan_id": saved["vni"], "vxlan_port": port, "vxlan_learning": 1}
        kind |= {"vxlan_proxy": 1, "vxlan_l2miss": 1, "vxlan_l3miss": 1, "vxlan_udp_csum": 1}
        handle = os.open(netns, os.O_RDONLY)
        try:

            def make(ip: IPRoute) -> None:
                ip.link("add", ifname=TEMPORARY, address=saved["mac"], mtu=saved["mtu"], **kind)
                index = index_of(ip, TEMPORARY)
                ip.link("set", index=index, net_ns_fd=handle, new_ifindex=saved["index"])

            netlink(place.host.netns, make)
        finally:
            os.close(handle)

        def furnish(ip: IPRoute) -> None:
            index = index_of(ip, TEMPORARY)
            ip.link("set", index=index, ifname="vxlan0", master=saved["master"], txqlen=saved["queue"])
            ip.link("set", index=index, state="up")
            for entry in saved["neighbours"]:
                ip.neigh("replace", ifindex=index, **entry)
            for entry in saved["fdb"]:
                ip.fdb("replace", ifindex=index, state=NUD_PERMANENT, flags=NTF_SELF, **entry)

        netlink(netns, furnish)


@dataclasses.dataclass(frozen=True)
class UdpHolder:
    """A process that binds a UDP port of the host, and nothing else."""

    port: int
    pidfile: str = "/run/udp-holder.pid"

    def apply(self, place: Place) -> None:
        program = (
            "import os, socket, sys, time\n"
            "holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            "holder.bind(('0.0.0.0', int(sys.argv[1])))\n"
            "open(sys.argv[2], 'w').write(str(os.getpid()))\n"
            "time.sleep(86400)\n"
        )
        place.host.start(["python3", "-c", program, str(self.port), self.pidfile], log="/var/log/udp-holder.log")
        if not state.wait_for(lambda: place.host.path(self.pidfile).exists(), 30):
            raise state.LabError(f"nobody could bind UDP {self.port} on {place.host.name}")

    def undo(self, place: Place, saved: None) -> None:
        pidfile = place.host.path(self.pidfile)
        place.host.run(["kill", "-9", pidfile.read_text()])
        pidfile.unlink()


@dataclasses.dataclass(frozen=True)
class Rest:
    """Time for engines to begin to complain of what was put in, and for their complaints to grow old afterwards."""

    before: float
    after: float

    def apply(self, place: Place) -> None:
        time.sleep(self.before)

    def undo(self, place: Place, saved: None) -> None:
        time.sleep(self.after)


@dataclasses.dataclass(frozen=True)
class WhileStopped:
    """A change made while the engine is stopped in an orderly way: it has to live with it when it starts again."""

    change: Change

    def apply(self, place: Place) -> dict[str, Any]:
        running = EngineStop(15).apply(place)
        try:
            saved = self.change.apply(place)
        finally:
            engine.start_engine(place.host)
        return {"running": running, "saved": saved}

    def undo(self, place: Place, saved: dict[str, Any]) -> None:
        EngineStop(15).apply(place)
        self.change.undo(place, saved["saved"])
        EngineStop(15).undo(place, saved["running"])
        time.sleep(HOLD)  # until every engine has exchanged its whole table, entries may be withdrawn once more


@dataclasses.dataclass(frozen=True)
class OverlayNetwork:
    """One more attachable overlay network, without a container."""

    name: str
    options: tuple[tuple[str, str], ...] = ()

    def apply(self, place: Place) -> None:
        place.lab.manager.docker.networks.create(
            place.fill(self.name), driver="overlay", attachable=True, options=dict(self.options)
        )

    def undo(self, place: Place, saved: None) -> None:
        network = place.lab.manager.docker.networks.get(place.fill(self.name))
        # a manager lets go of a network only when the last task on it is known to be gone
        state.wait_for(lambda: removed(network), 60, 0.5)


def removed(network: Any) -> bool:
    with contextlib.suppress(docker.errors.APIError):
        network.remove()
        return True
    return False


@dataclasses.dataclass(frozen=True)
class RefusedContainer:
    """A container that the engine makes and cannot start."""

    name: str
    network: str

    def apply(self, place: Place) -> str:
        identifier = str(place.lab.manager.docker.networks.get(place.fill(self.network)).id)
        try:
            engine.run_container(place.host, place.fill(self.name), network=place.fill(self.network))
        except docker.errors.APIError:
            return identifier
        self.undo(place, identifier)
        raise state.LabError(f"{place.fill(self.name)} was started, and should have been refused")

    def undo(self, place: Place, saved: str) -> None:
        place.host.docker.containers.get(place.fill(self.name)).remove(force=True, v=True)
        for entry in place.host.engine_netns():  # which the engine leaves behind when it fails half-way
            if entry.name.endswith(f"-{saved[:10]}"):
                path = f"/run/docker/netns/{entry.name}"
                place.host.run(["python3", "-c", UNMOUNT, path])  # umount(8) would leave a folder in /run
                place.host.run(["rm", path])


@dataclasses.dataclass(frozen=True)
class OldLogLines:
    """Lines of an hour ago in the engine's log."""

    lines: tuple[str, ...]
    age: float = 3600.0

    def apply(self, place: Place) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000000000Z", time.gmtime(time.time() - self.age))
        text = "".join(f'time="{stamp}" level=warning msg={json.dumps(place.fill(line))}\n' for line in self.lines)
        with open(place.host.path(engine.DOCKERD_LOG), "a") as file:
            file.write(text)
        return text

    def undo(self, place: Place, saved: str) -> None:
        path = place.host.path(engine.DOCKERD_LOG)
        with open(path, "r+") as file:  # the same file: the engine appends to it
            text = file.read().replace(saved, "")
            file.seek(0)
            file.write(text)
            file.truncate()


def vxlan_device(name: str, what: str) -> Command:
    return Command(f"ip link add {name} type vxlan {what}", f"ip link del {name}")


UNMOUNT = "import ctypes, sys; sys.exit(ctypes.CDLL(None).umount2(sys.argv[1].encode(), 2))"
EXTERNAL_UP = "ip link add cilium_vxlan type vxlan external dstport $tunnel && ip link set cilium_vxlan up"
UDP_ONLY = """\
  chain forward {
    type filter hook forward priority 0; policy accept;
    oifname "$port" ip daddr $address udp dport 7946 drop
  }"""

FAULTS = (
    Fault(
        MISMATCH,
        "the overlay's VXLAN device of one host speaks on another UDP port than the fleet",
        (VxlanPort(8472),),
        Expect((MISMATCH,), ("vtep",), overlay_touching()),
    ),
    Fault(
        TAKEN,
        "a process holds the tunnel port when the engine starts: its VXLAN devices stay down, containers are refused",
        (WhileStopped(UdpHolder(4789)),),
        Expect((TAKEN,), ("vtep",), ()),
        residue=NEW_ADDRESSES,
    ),
    Fault(
        VNI,
        "a VXLAN device of the host has the VNI and port of a Swarm network: its container is refused",
        (
            OverlayNetwork("taken-$host", (("com.docker.network.driver.overlay.vxlanid_list", str(FREE_VNI)),)),
            vxlan_device("vxlan.calico", f"id {FREE_VNI} dstport $tunnel"),
            RefusedContainer("taken-$host", "taken-$host"),
        ),
        Expect((VNI,), ("vtep",), ()),
    ),
    Fault(
        f"{VNI}:ingress",
        "a VXLAN device of the host has the VNI of the ingress network when the engine starts",
        (WhileStopped(vxlan_device("vxlan.calico", "id 4096 dstport $tunnel")),),
        Expect((VNI,), ("vtep",), ()),
        residue=NEW_ADDRESSES,
    ),
    latent(
        f"{VNI}:waiting",
        "a VXLAN device of the host has the VNI of a Swarm network that has no container there yet",
        OverlayNetwork("taken-$host", (("com.docker.network.driver.overlay.vxlanid_list", str(FREE_VNI)),)),
        vxlan_device("vxlan.calico", f"id {FREE_VNI} dstport $tunnel"),
        segments=("vtep",),
    ),
    Fault(
        EXTERNAL,
        "a VXLAN device without a VNI of its own holds the tunnel port when the engine starts",
        (
            WhileStopped(
                Command(f"sh -c '{EXTERNAL_UP}'", "ip link del cilium_vxlan"),
            ),
        ),
        Expect((EXTERNAL,), ("vtep",), ()),
        residue=NEW_ADDRESSES,
    ),
    latent(
        f"{EXTERNAL}:late",
        "a VXLAN device without a VNI of its own came after the engine's and cannot be brought up",
        vxlan_device("cilium_vxlan", "external dstport $tunnel"),
        segments=("vtep",),
    ),
    Fault(
        f"{GOSSIP_UDP}:fabric",
        "the network drops gossip over UDP towards one host, TCP passes",
        (Rest(0, 12), NftTable("bridge", "acl", UDP_ONLY, where="fabric"), Rest(6, 0)),
        Expect((GOSSIP_UDP,), ("underlay",), (), severity="warning"),
    ),
)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services: virtual addresses, the routing mesh, the records behind names.

The lab's kernel has no IPVS, so virtual addresses are broken by nature. Where a fault is about something else, a
routing mesh is made by hand that leads to one task (HandMadeMesh).
"""

from __future__ import annotations

import base64
import dataclasses
import json
import secrets
import shlex
import time
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import docker
from docker.types import EndpointSpec, IPAMConfig, IPAMPool, ServiceMode

from .. import engine, state
from ..network import inside
from .changes import Command
from .model import Change, Expect, Fault, Place, latent

if TYPE_CHECKING:
    from ..fleet import Host

MESH_PORT = 8090
DIAGNOSTIC_PORT = 20001
MESH = "crosshost-mesh"


@dataclasses.dataclass(frozen=True)
class Service:
    """A service of the lab's image with one task on each host, created and waited for."""

    name: str
    mode: str = "vip"
    ports: tuple[tuple[int, int], ...] = ()
    networks: tuple[str, ...] = (engine.OVERLAY,)
    everywhere: bool = False
    only_here: bool = False
    """One task, which may run on the fault's host alone."""
    updating: str = ""
    """Begin an update that takes this long at each task, and do not wait for it."""

    def apply(self, place: Place) -> None:
        manager, count = place.lab.manager, 1 if self.only_here else len(place.lab.docker_hosts)
        service = manager.docker.services.create(
            engine.IMAGE,
            name=self.name,
            command=engine.httpd_command()[:1],
            args=engine.httpd_command()[1:],
            networks=list(self.networks),
            constraints=[f"node.hostname=={place.host.name}"] if self.only_here else [],
            stop_grace_period=500_000_000,  # its only process ignores SIGTERM
            mode=ServiceMode("global") if self.everywhere else ServiceMode("replicated", count),
            endpoint_spec=EndpointSpec(mode=self.mode, ports=dict(self.ports) or None),
        )

        def running() -> bool:
            states = [task["Status"]["State"] for task in service.tasks({"desired-state": "running"})]
            return states.count("running") >= count

        if not state.wait_for(running, 120, 0.25):
            self.undo(place, None)
            raise state.LabError(f"service {self.name} does not start: {[t['Status'] for t in service.tasks()]}")
        if self.updating:
            options = ["--update-delay", self.updating, "--force", "--detach"]
            manager.run(["docker", "service", "update", *options, self.name])

    def undo(self, place: Place, saved: None) -> None:
        place.lab.manager.docker.services.get(self.name).remove()
        label = {"label": f"com.docker.swarm.service.name={self.name}"}

        def gone() -> bool:
            return not any(
                host.docker.containers.list(all=True, filters=label, ignore_removed=True)
                for host in place.lab.docker_hosts
            )

        if not state.wait_for(gone, 120, 0.25):
            raise state.LabError(f"tasks of service {self.name} stay")


def ingress_sandbox(host: Host) -> str:
    return str(host.path("/run/docker/netns/ingress_sbox"))


@dataclasses.dataclass(frozen=True)
class NoIngress:
    """The ingress network removed (the API asks nobody); made anew with the same subnet."""

    def apply(self, place: Place) -> dict[str, Any]:
        network = self._ingress(place)
        pool = network.attrs["IPAM"]["Config"][0]
        network.remove()
        if not state.wait_for(lambda: not any(self._mounted(host) for host in place.lab.docker_hosts), 90):
            raise state.LabError("the ingress network stays")
        options = network.attrs["Options"]  # with its VNI
        return {"name": network.name, "subnet": pool["Subnet"], "gateway": pool["Gateway"], "options": options}

    def undo(self, place: Place, saved: dict[str, Any]) -> None:
        pool = IPAMPool(subnet=saved["subnet"], gateway=saved["gateway"])
        settings = {"ipam": IPAMConfig(pool_configs=[pool]), "options": saved["options"]}

        def create() -> bool:
            try:
                place.lab.manager.docker.networks.create(saved["name"], driver="overlay", ingress=True, **settings)
            except docker.errors.APIError:
                return False  # the removed one's addresses are not free yet
            return True

        if not state.wait_for(create, 90, 0.5):
            raise state.LabError("the ingress network cannot be created")
        for host in place.lab.docker_hosts:  # a node is given its part of it when its own record changes
            for option in ("--label-add", "--label-rm"):
                label = "ingress=anew" if option == "--label-add" else "ingress"
                place.lab.manager.run(["docker", "node", "update", option, label, host.name])
        if not state.wait_for(lambda: all(self._mounted(host) for host in place.lab.docker_hosts), 120):
            raise state.LabError("the ingress network does not come back on every host")

    @staticmethod
    def _ingress(place: Place) -> Any:
        return next(n for n in place.lab.manager.docker.networks.list() if n.attrs.get("Ingress"))

    @staticmethod
    def _mounted(host: Host) -> bool:
        return any(entry.name == "ingress_sbox" for entry in host.engine_netns())


@dataclasses.dataclass(frozen=True)
class HandMadeMesh:
    """What the engine makes of a published port where the kernel has IPVS, with one task in the place of all.

    As libnetwork does it: DOCKER-INGRESS leads the port to ingress_sbox; there IPVS would choose a task, here a DNAT
    rule names the one of the lab's first host.
    """

    service: str
    port: int = MESH_PORT

    def _lines(self, place: Place, host: Host, task: str) -> list[tuple[str, str]]:
        """(where, iptables arguments with ACTION for -A or -D)."""
        sandbox = self._addresses(host)
        gateway, inner = sandbox["eth1"], sandbox["eth0"]
        port = f"-p tcp --dport {self.port}"
        return [
            ("host", f"-t nat -A DOCKER-INGRESS {port} -j DNAT --to-destination {gateway}:{self.port}"),
            ("host", "-t nat -I PREROUTING -m addrtype --dst-type LOCAL -j DOCKER-INGRESS"),
            ("host", f"-t filter -A DOCKER-INGRESS {port} -j ACCEPT"),
            ("host", f"-t filter -A DOCKER-INGRESS -p tcp --sport {self.port} -m state --state ESTABLISHED -j ACCEPT"),
            ("host", "-t filter -I FORWARD -j DOCKER-INGRESS"),
            ("sandbox", f"-t nat -A PREROUTING {port} -j DNAT --to-destination {task}:{self.port}"),
            ("sandbox", f"-t nat -A POSTROUTING -d {task} {port} -j SNAT --to-source {inner}"),
        ]

    @staticmethod
    def _addresses(host: Host) -> dict[str, str]:
        rows = json.loads(host.run(["ip", "-4", "-j", "address"], netns=ingress_sandbox(host)).stdout)
        return {row["ifname"]: row["addr_info"][0]["local"] for row in rows if row["addr_info"]}

    def _task(self, place: Place) -> str:
        service = place.lab.manager.docker.services.get(self.service)
        for task in service.tasks({"desired-state": "running"}):
            for attachment in task.get("NetworksAttachments") or []:
                if attachment["Network"]["Spec"].get("Ingress"):
                    return str(attachment["Addresses"][0].partition("/")[0])
        raise state.LabError(f"no task of {self.service} is on the ingress network")

    def apply(self, place: Place) -> dict[str, Any]:
        task, bare = self._task(place), []
        for host in place.lab.docker_hosts:
            chain = ["nft", "list", "chain", "ip", "nat", "PREROUTING"]
            if host.run(chain, netns=ingress_sandbox(host), check=False).returncode:
                bare.append(host.name)
            for table in ("nat", "filter"):
                host.run(["iptables", "-w", "-t", table, "-N", "DOCKER-INGRESS"])
            for where, rule in self._lines(place, host, task):
                netns = ingress_sandbox(host) if where == "sandbox" else None
                host.run(["iptables", "-w", *shlex.split(rule)], netns=netns)
            self._forwarding(host, "1")
        return {"task": task, "bare": bare}

    def undo(self, place: Place, saved: dict[str, Any]) -> None:
        for host in place.lab.docker_hosts:
            self._forwarding(host, "0")
            for where, rule in reversed(self._lines(place, host, saved["task"])):
                words = ["-D" if word in ("-A", "-I") else word for word in shlex.split(rule)]
                netns = ingress_sandbox(host) if where == "sandbox" else None
                host.run(["iptables", "-w", *words], netns=netns)
            for table in ("nat", "filter"):
                host.run(["iptables", "-w", "-t", table, "-X", "DOCKER-INGRESS"])
            if host.name in saved["bare"]:
                host.run(["nft", "delete", "chain", "ip", "nat", "PREROUTING"], netns=ingress_sandbox(host))

    @staticmethod
    def _forwarding(host: Host, value: str) -> None:
        """IPVS forwards by itself; rules need the parameter. eth0's and eth1's own are all that is touched."""

        def work() -> None:
            for device in ("eth0", "eth1"):
                with open(f"/proc/sys/net/ipv4/conf/{device}/forwarding", "w") as file:
                    file.write(value)

        inside(ingress_sandbox(host), work)


@dataclasses.dataclass(frozen=True)
class EmptyChain:
    """A chain of the host without the rules it had."""

    table: str
    chain: str

    def apply(self, place: Place) -> list[str]:
        rules = place.host.run(["iptables", "-w", "-t", self.table, "-S", self.chain]).stdout.splitlines()
        place.host.run(["iptables", "-w", "-t", self.table, "-F", self.chain])
        return [rule for rule in rules if rule.startswith("-A ")]

    def undo(self, place: Place, saved: list[str]) -> None:
        for rule in saved:
            place.host.run(["iptables", "-w", "-t", self.table, *shlex.split(rule)])


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def record(name: str, address: str) -> bytes:
    """libnetwork's EndpointRecord (agent.proto) of a container outside any service: name, VIP, address, alias."""
    fields = {1: name, 4: "<nil>", 5: address, 8: name}
    parts = ((number << 3 | 2, text.encode()) for number, text in fields.items())
    return b"".join(varint(tag) + varint(len(data)) + data for tag, data in parts)


@dataclasses.dataclass(frozen=True)
class GossipRecord:
    """An endpoint's record that the host's engine announces though the endpoint is no more.

    Put in through the engine's own network diagnostic server, which is on only for that moment.
    """

    name: str
    address: str

    def apply(self, place: Place) -> str:
        key = secrets.token_hex(32)  # a deleted key cannot be used again for half an hour
        value = base64.b64encode(record(place.fill(self.name), self.address)).decode()
        self._ask(place, "createentry", key=key, value=value)

        def known() -> bool:
            return all(self._is_known(host) for host in place.lab.docker_hosts)

        if not state.wait_for(known, 60, 0.5):
            raise state.LabError(f"{self.address} is not known on every host")
        return key

    def undo(self, place: Place, saved: str) -> None:
        self._ask(place, "deleteentry", key=saved)
        if not state.wait_for(lambda: not any(self._is_known(host) for host in place.lab.docker_hosts), 60, 0.5):
            raise state.LabError(f"{self.address} stays known")

    def _is_known(self, host: Host) -> bool:
        network = host.docker.networks.get(host.docker.networks.get(engine.OVERLAY).id, verbose=True).attrs
        listed = (network.get("Services") or {}).values()
        return any(task["EndpointIP"] == self.address for service in listed for task in service["Tasks"] or [])

    def _ask(self, place: Place, what: str, **entry: str) -> None:
        host = place.host
        path = host.path("/etc/docker/daemon.json")
        before, mode = path.read_text(), path.stat().st_mode & 0o777
        pid = host.path("/run/docker.pid").read_text().strip()
        query = {"nid": host.docker.networks.get(engine.OVERLAY).id, "tname": "endpoint_table", **entry}
        url = f"http://127.0.0.1:{DIAGNOSTIC_PORT}/{what}?{urllib.parse.urlencode(query)}&json"

        def call() -> str:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return str(answer.read().decode())

        def answered() -> bool:
            try:
                reply = json.loads(inside(host.netns, call))
            except OSError:
                return False  # the server is not there yet
            if reply.get("message") != "OK":
                raise state.LabError(f"{what}: {reply}")
            return True

        settings = json.loads(before) | {"network-diagnostic-port": DIAGNOSTIC_PORT}
        try:
            host.write("/etc/docker/daemon.json", json.dumps(settings), mode)
            host.run(["kill", "-HUP", pid])
            if not state.wait_for(answered, 60, 0.5):
                raise state.LabError("the engine's diagnostic server does not answer")
        finally:
            host.write("/etc/docker/daemon.json", before, mode)
            host.run(["kill", "-HUP", pid])
            time.sleep(0.5)


ALL = ("node1", "node2", "node3")
PUBLISHED = Service(MESH, ports=((MESH_PORT, 80),), networks=())


def mesh_fault(variant: str, summary: str, change: Change) -> Fault:
    expect = Expect(("ingress-inconsistent",), ("service",), ())
    return Fault(
        f"ingress-inconsistent{variant}",
        f"{summary}; its port of the routing mesh is dead (seen by the diagnosis alone)",
        (PUBLISHED, HandMadeMesh(MESH), change),
        expect,
        stands_in="the routing mesh: the kernel has no IPVS",
    )


FAULTS = (
    Fault(
        "ipvs-missing",
        "a service with a virtual address, on a kernel without IPVS (seen by the diagnosis alone)",
        (Service("crosshost-vip"),),
        Expect(("ipvs-missing",), ("service",), (), hosts=ALL),
    ),
    Fault(
        "ipvs-missing:mesh",
        "a service that publishes through the routing mesh, on a kernel without IPVS (seen by the diagnosis alone)",
        (PUBLISHED,),
        Expect(("ipvs-missing",), ("service",), (), hosts=ALL),
    ),
    dataclasses.replace(
        latent(
            "ingress-missing",
            "the ingress network was removed while there was a service, but none that published",
            Service("crosshost-dnsrr", "dnsrr"),
            NoIngress(),
            segments=("service",),
            host="node1",
        ),
        residue="the ingress network, its namespaces and links are new ones",
    ),
    mesh_fault("", "the rules of DOCKER-INGRESS are missing on one host", EmptyChain("nat", "DOCKER-INGRESS")),
    mesh_fault(
        ":jump",
        "the jump to DOCKER-INGRESS is missing on one host",
        Command(
            "iptables -w -t nat -D PREROUTING -m addrtype --dst-type LOCAL -j DOCKER-INGRESS",
            "iptables -w -t nat -I PREROUTING -m addrtype --dst-type LOCAL -j DOCKER-INGRESS",
        ),
    ),
    Fault(
        "service-backends-stale",
        "an engine still announces an address for a container's name that no container has (seen by the diagnosis "
        "alone)",
        (GossipRecord("app-$host", "10.0.1.199"),),
        Expect(("service-backends-stale",), ("name-service",), (), hosts=ALL),
    ),
)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lab as tests see it: bring it up, reach its hosts, break and heal it, take it down."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from . import engine, inventory, network, reach, state, survey
from .survey import Survey

if TYPE_CHECKING:
    import docker

    from .faults.model import Fault
    from .supervisor import Spec

ROOT = Path(__file__).resolve().parents[2]
HOST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
Result = subprocess.CompletedProcess[str]


def execute(
    command: list[str], check: bool, timeout: float, input: str | None, env: dict[str, str] | None = None
) -> Result:
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout, input=input, env=env, check=False)
    if check and result.returncode:
        raise state.LabError(
            f"command failed with {result.returncode}: {shlex.join(command)}\n"
            + (result.stderr or result.stdout).strip()
        )
    return result


@dataclass(frozen=True)
class Namespace:
    """A network namespace in which programs of the machine can run: the fabric."""

    netns: str

    def run(self, argv: Sequence[str], *, check: bool = True, timeout: float = 60, input: str | None = None) -> Result:
        return execute(["nsenter", f"--net={self.netns}", "--", *argv], check, timeout, input)


@dataclass(frozen=True)
class Host:
    """One host of the lab."""

    lab: str
    name: str
    index: int
    pid: int
    kind: str = "docker"
    interpreter: str | None = None

    @property
    def address(self) -> str:
        """Its address on the underlay."""
        return network.address_of(self.index)

    @property
    def port(self) -> str:
        """The name of its port on the fabric's bridge."""
        return network.port_of(self.index)

    @property
    def netns(self) -> str:
        return f"/proc/{self.pid}/ns/net"

    def path(self, path: str) -> Path:
        """A path of the host, as the machine sees it."""
        return Path(f"/proc/{self.pid}/root") / path.lstrip("/")

    @functools.cached_property
    def upper(self) -> Path:
        """The writable layer of its root: everything in which it differs from the machine's tree."""
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            if entry.is_dir() and entry.readlink().name == "upper":
                return entry
        raise state.LabError(f"the first process of {self.name} does not hold its upper layer open")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the host anew; a symbolic link is replaced, not followed."""
        target = self.path(path)
        target.unlink(missing_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def enter(self, netns: str | None = None) -> list[str]:
        """The command that puts a program into the host's namespaces (or into another network namespace of it)."""
        net = f"--net={netns or self.netns}"
        return ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--pid", net, "--"]

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": HOST_PATH, "LC_ALL": "C.UTF-8", "HOME": "/root"}

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float = 60,
        input: str | None = None,
        netns: str | None = None,
    ) -> Result:
        """Run a program on the host; ``netns`` names another network namespace of the host to run it in."""
        return execute([*self.enter(netns), *argv], check, timeout, input, self.environment)

    def start(self, argv: Sequence[str], log: str) -> None:
        """Start a daemon that lives until the host dies; its output is appended to the host's file."""
        with open(self.path(log), "ab") as out:
            command = [*self.enter(), "setsid", "--fork", *argv]
            subprocess.run(command, check=True, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    @functools.cached_property
    def docker(self) -> docker.DockerClient:
        """The Docker SDK's client of this host's engine."""
        return engine.connect(self)

    def process_netns(self, pid: int) -> str:
        """The network namespace of a process of the host, by its number there (the engine's State.Pid)."""
        return str(self.path(f"/proc/{pid}/ns/net"))

    def container_netns(self, name: str) -> str:
        return self.process_netns(self.docker.containers.get(name).attrs["State"]["Pid"])

    def container_address(self, name: str, network_name: str = engine.OVERLAY) -> str:
        networks = self.docker.containers.get(name).attrs["NetworkSettings"]["Networks"]
        return str(networks[network_name]["IPAddress"])

    def engine_netns(self) -> list[Path]:
        """The network namespaces the engine keeps; it leaves plain files behind for a while after one is gone."""
        folder = self.path("/run/docker/netns")
        device = os.stat(self.netns).st_dev
        return sorted(entry for entry in folder.iterdir() if entry.stat().st_dev == device) if folder.is_dir() else []

    def overlay_netns(self, network_name: str = engine.OVERLAY) -> str:
        """The namespace the engine keeps an overlay network's bridge and VXLAN device in, on this host."""
        identifier = self.docker.networks.get(network_name).id
        found = [entry for entry in self.engine_netns() if entry.name.endswith(f"-{identifier[:10]}")]
        if not found:
            raise state.LabError(
                f"{self.name} has no namespace for network {network_name!r}: no container of it runs there"
            )
        return str(found[0])


class Lab:
    """A living lab. ``up`` makes one, ``load`` finds one by name."""

    def __init__(self, name: str, record: Mapping[str, Any]) -> None:
        self.name = name
        self.record = record
        self.directory = state.directory(name)
        self.hosts = {entry["name"]: Host(lab=name, **entry) for entry in record["hosts"]}
        self.fabric = Namespace(f"/proc/{record['fabric']}/ns/net")
        self.managers: list[str] = record["managers"]
        self.gateway, self.outside = network.GATEWAY, network.OUTSIDE
        self._lifeline: socket.socket | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._spec: Spec | None = None

    @classmethod
    def up(
        cls,
        name: str,
        hosts: int = 3,
        managers: int = 1,
        *,
        bare: int = 0,
        service: bool = False,
        interpreters: Mapping[str, str] | None = None,
        roots: Mapping[str, str] | None = None,
        keep: bool = False,
        progress: Callable[[str], None] = lambda text: None,
    ) -> Lab:
        """Bring up a lab: ``hosts`` Docker hosts in one Swarm, then ``bare`` hosts without an engine.

        ``interpreters`` sets a host's Python for Ansible, ``roots`` another root tree for it than the machine's own.
        Without ``keep`` the lab lives at most as long as the calling process: however that ends, the lab goes with it.
        """
        from .supervisor import Spec

        spec = Spec(name, hosts, managers, bare, service, dict(interpreters or {}), dict(roots or {}))
        return cls.build(spec, keep, progress)

    @classmethod
    def build(cls, spec: Spec, keep: bool, progress: Callable[[str], None]) -> Lab:
        from . import supervisor

        spec.check()
        state.sweep()
        lifeline, watchdog = supervisor.launch(spec, ROOT)
        try:
            supervisor.follow(lifeline, progress)
            lab = cls.load(spec.name)
            if keep:
                lifeline.sendall(b"keep\n")
                lifeline.close()
                return lab
        except BaseException:
            lifeline.close()  # the supervisor takes down whatever stands when its lifeline ends
            watchdog.wait()
            raise
        lab._lifeline, lab._watchdog, lab._spec = lifeline, watchdog, spec
        return lab

    def renew(self) -> None:
        """Build the lab anew, in place. Only for a lab that lives no longer than this process."""
        if not self._spec:
            raise state.LabError(f"lab {self.name!r} is not this process's own")
        self.down()
        self.__dict__ = self.build(self._spec, False, lambda text: None).__dict__

    @classmethod
    def load(cls, name: str) -> Lab:
        return cls(name, state.read_record(name))

    def down(self) -> None:
        """Take the lab down and wait until nothing of it is left."""
        if self._lifeline:
            self._lifeline.close()
        take_down(self.name)
        if self._watchdog:
            self._watchdog.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.down()

    @property
    def docker_hosts(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.kind == "docker"]

    @property
    def manager(self) -> Host:
        return self.hosts[self.managers[0]]

    def host(self, name: str) -> Host:
        if name not in self.hosts:
            raise state.LabError(f"lab {self.name!r} has no host {name!r}; it has {', '.join(self.hosts)}")
        return self.hosts[name]

    def inventory(self) -> str:
        return inventory.text(self)

    def write_inventory(self, path: Path) -> Path:
        path.write_text(self.inventory())
        return path

    # ---- convergence

    def missing(self) -> list[str]:
        """What keeps the lab from being whole; empty if every node is ready and every container reaches every other."""
        reasons = []
        try:
            reasons += [
                f"node {node.attrs['Description']['Hostname']} is {node.attrs['Status']['State']}"
                for node in self.manager.docker.nodes.list()
                if node.attrs["Status"]["State"] != "ready"
            ]
            meshed = {host.name for host in self.docker_hosts if host.path("/run/docker/netns/ingress_sbox").exists()}
            if meshed:  # an engine is given its part of the routing mesh some time after it has joined
                reasons += [
                    f"{host.name} has no routing mesh yet" for host in self.docker_hosts if host.name not in meshed
                ]
            containers = {}
            for host in self.docker_hosts:
                for container in host.docker.containers.list():
                    networks = container.attrs["NetworkSettings"]["Networks"]
                    if engine.OVERLAY in networks:
                        key = (container.name, host.process_netns(container.attrs["State"]["Pid"]))
                        containers[key] = networks[engine.OVERLAY]["IPAddress"]
            expected = len(self.docker_hosts) + 1
            if len(containers) < expected:
                reasons.append(f"{len(containers)} of {expected} containers run on the overlay")
            for (name, netns), address in containers.items():
                others = set(containers.values()) - {address}
                silent = others - reach.echo(netns, others, 0.5)
                reasons += [f"{name} does not reach {other}" for other in sorted(silent)]
        except Exception as error:  # engines that restart, containers that vanish between two reads: not whole yet
            reasons.append(f"{type(error).__name__}: {error}")
        return reasons

    def wait_converged(self, timeout: float = 180.0, hold: float = 0.0) -> None:
        """Wait until the lab is whole; whether it is before ``hold`` seconds have passed does not count."""
        begun = time.monotonic()
        time.sleep(hold)
        while reasons := self.missing():
            if time.monotonic() - begun > timeout:
                raise state.LabError(f"lab {self.name!r} is not whole after {timeout:.0f} s: " + "; ".join(reasons[:6]))
            time.sleep(0.25)

    # ---- reboot

    def reboot(self, host: Host | str, *, wait: bool = True) -> list[str]:
        """Reboot a host: only what is persistent stays. Returns what could not be started; else waits for the lab.

        All its processes are killed as by a loss of power, and its network namespace, /run and /tmp are new ones (see
        init.py); then it boots (boot.py). Containers that ran before run again.
        """
        from .reboot import reboot

        failed = reboot(self, host if isinstance(host, Host) else self.host(host))
        if wait and not failed:
            self.wait_converged()
        return failed

    # ---- faults

    def break_(self, fault: str | Fault, host: str | None = None) -> dict[str, Any]:
        """Put a fault in and wait until it bites; returns what a diagnosis is expected to say."""
        from .faults import apply

        return apply.break_(self, fault, host)

    def heal(self, fault: str | Fault | None = None, host: str | None = None, *, wait: bool = True) -> list[str]:
        """Take a fault out (None: all; on one host or on all). With the last one, wait until the lab is whole."""
        from .faults import apply

        healed = apply.heal(self, fault, host)
        if wait and not self.present():
            self.wait_converged(hold=max((entry.hold for entry, _host in healed), default=0))
        return [f"{entry.name} on {name}" for entry, name in healed]

    def present(self) -> list[tuple[str, str]]:
        """The faults that are in, oldest first: name and host."""
        from .faults import apply

        return [(entry["fault"], entry["host"]) for entry in apply.present(self)]

    @contextlib.contextmanager
    def broken(self, fault: str | Fault, host: str | None = None) -> Iterator[dict[str, Any]]:
        """A fault for as long as the block lasts.

        Where healing takes long, a lab that belongs to this process is built anew instead: its hosts are others then.
        """
        from .faults import find

        expected = self.break_(fault, host)
        try:
            yield expected
        finally:
            definition = find(fault) if isinstance(fault, str) else fault
            if definition.hold and self._lifeline and len(self.present()) == 1:
                self.renew()
            else:
                self.heal(definition, host)

    def survey(self) -> Survey:
        """Try every path of the lab (survey.py)."""
        from .faults import apply

        return survey.take(self, survey.containers(self, apply.remembered(self)))

    def snapshot(self) -> dict[str, str]:
        """Everything a fault may change and a diagnosis must not, as text to compare."""
        from .snapshot import take

        return take(self)


def take_down(name: str, timeout: float = 120.0) -> bool:
    """Take a lab down by its name, in whatever state it is; False if there is none."""
    path = state.directory(name)
    if not path.is_dir():
        return False
    if state.is_dead(path):
        return bool(state.sweep(name))
    record = path / "supervisor"
    if not state.wait_for(record.exists, 5):
        raise state.LabError(f"lab {name!r} is held by a process that does not build it; see {path}")
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(FileNotFoundError):
            state.kill(json.loads(record.read_text()), number)
        if state.wait_for(lambda: not path.exists(), timeout):
            return True
    raise state.LabError(f"lab {name!r} did not go away; see {path}/log")


def require_root() -> None:
    if os.geteuid() != 0:
        raise state.LabError("the lab makes network namespaces and mounts: run it as root")

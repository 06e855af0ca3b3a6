# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What runs on the hosts: sshd, dockerd, the Swarm, the networks and the containers."""

from __future__ import annotations

import io
import json
import secrets
import shutil
import signal
import tarfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import requests
from docker.types import EndpointSpec

from . import firewall, network, packages, state

if TYPE_CHECKING:
    from .fleet import Host

IMAGE = "crosshost-lab/httpd:1"
OVERLAY = "app"
PUBLISHED = 8080
BODY_SIZE = 64 * 1024
DOCKERD_LOG = "/var/log/docker.log"
ENGINE_PROGRAMS = ("docker", "dockerd", "docker-proxy", "containerd", "ctr", "runc")

SSHD_CONFIG = """\
Port 22
HostKey /etc/ssh/lab_host_key
AuthorizedKeysFile /etc/ssh/lab_authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
UseDNS no
StrictModes no
MaxStartups 200
MaxSessions 200
PrintMotd no
Subsystem sftp internal-sftp
"""


def furnish(host: Host, addresses: dict[str, str], host_key: Path, client_key: Path) -> None:
    """Give the host its identity: name, machine-id, names of its peers, resolver, SSH keys, engine configuration."""
    hosts = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
    host.write("/etc/hostname", host.name + "\n")
    host.write("/etc/machine-id", secrets.token_hex(16) + "\n")
    host.write("/etc/hosts", "\n".join(hosts) + "\n")
    host.write("/etc/resolv.conf", f"nameserver {network.GATEWAY}\n")
    host.write("/etc/ssh/sshd_config", SSHD_CONFIG)
    host.write("/etc/ssh/lab_authorized_keys", client_key.with_suffix(".pub").read_text(), 0o600)
    host.write("/etc/ssh/lab_host_key", host_key.read_text(), 0o600)
    unlock_root(host)
    forget_machine(host)
    firewall.forget_machine(host)
    if host.kind == "docker":
        host.path("/etc/docker").mkdir(exist_ok=True)
        host.write("/etc/docker/daemon.json", json.dumps(daemon_config(host), indent=2) + "\n")
    else:
        for folder in packages.PATH.split(":"):
            for name in ENGINE_PROGRAMS:
                host.path(f"{folder}/{name}").unlink(missing_ok=True)


def forget_machine(host: Host) -> None:
    """Hide what the machine's tree would lend the host: its engine's identity, and the libraries a host is to lack."""
    for name in ("daemon.json", "key.json"):
        host.path(f"/etc/docker/{name}").unlink(missing_ok=True)
    for packages_of in ("usr/lib/python3", "usr/local/lib/python3*"):
        for library in ("docker", "pyroute2"):
            for found in host.path("/").glob(f"{packages_of}/dist-packages/{library}"):
                shutil.rmtree(found)


def unlock_root(host: Host) -> None:
    """sshd without PAM refuses an account whose password starts with an exclamation mark, keys or no keys."""
    shadow = host.path("/etc/shadow")
    lines = [
        ":".join(["root", "*", *line.split(":")[2:]]) if line.startswith("root:!") else line
        for line in shadow.read_text().splitlines()
    ]
    host.write("/etc/shadow", "\n".join(lines) + "\n", 0o640)


def daemon_config(host: Host) -> dict[str, Any]:
    return {
        "storage-driver": "vfs",
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "cgroup-parent": f"/{state.PREFIX}/{host.lab}/{host.name}",
        "hosts": ["unix:///run/docker.sock"],
        "log-driver": "json-file",
        "shutdown-timeout": 1,
    }


def start_sshd(host: Host) -> None:
    host.run(["/usr/sbin/sshd", "-f", "/etc/ssh/sshd_config"])


def start_engine(host: Host, timeout: float = 120.0) -> None:
    """Start dockerd and wait until it answers; nothing to do if it does already."""
    if engine_answers(host):
        return
    host.path("/run/docker.pid").unlink(missing_ok=True)
    host.start(["dockerd"], log=DOCKERD_LOG)
    if not state.wait_for(lambda: engine_answers(host), timeout, 0.1):
        raise state.LabError(f"dockerd on {host.name} does not answer after {timeout:.0f} s{_log_end(host)}")


def signal_engine(host: Host, number: int) -> str:
    """Signal dockerd; its process id in the host's namespace."""
    pid = host.path("/run/docker.pid").read_text().strip()
    host.run(["kill", f"-{int(number)}", pid])
    return pid


def stop_engine(host: Host, number: int = signal.SIGTERM, timeout: float = 120.0) -> None:
    """Signal dockerd and wait until it is gone; on a busy machine an orderly end takes more than half a minute."""
    pid = signal_engine(host, number)
    if not state.wait_for(lambda: not host.path(f"/proc/{pid}").exists(), timeout, 0.1):
        raise state.LabError(
            f"dockerd on {host.name} survives signal {int(number)} for {timeout:.0f} s{_log_end(host)}"
        )


def _log_end(host: Host) -> str:
    return "; its log ends:\n" + "\n".join(host.path(DOCKERD_LOG).read_text(errors="replace").splitlines()[-8:])


def started(host: Host, name: str) -> bool:
    """Whether a container runs, after telling it to if it does not."""
    try:
        container = host.docker.containers.get(name)
        if container.status != "running":
            container.start()
        return True
    except (docker.errors.DockerException, requests.exceptions.RequestException):
        return False


def engine_answers(host: Host) -> bool:
    if not host.path("/run/docker.sock").exists():
        return False
    try:
        return bool(host.docker.ping())
    except (docker.errors.DockerException, requests.exceptions.RequestException):
        return False


def connect(host: Host) -> docker.DockerClient:
    return docker.DockerClient(base_url=f"unix://{host.path('/run/docker.sock')}", timeout=60)


def image_archive() -> bytes:
    """An image of two files: busybox under the name of the one applet it is to be, and the page it serves."""
    program = packages.static_busybox()
    if program is None:
        raise state.LabError(
            "no statically linked busybox here: install busybox-static (python3 -m tests.lab.packages --install)"
        )
    busybox = program.read_bytes()
    page = (b"crosshost lab page\n" * (BODY_SIZE // 19 + 1))[:BODY_SIZE]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data, mode in (("httpd", busybox, 0o755), ("www/index.html", page, 0o644)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def httpd_command(listen: str = "80") -> list[str]:
    return ["/httpd", "-f", "-p", listen, "-h", "/www"]


def load_image(host: Host, archive: bytes) -> None:
    repository, tag = IMAGE.split(":")
    host.docker.api.import_image_from_data(archive, repository=repository, tag=tag)


def run_container(host: Host, name: str, **options: Any) -> None:
    options.setdefault("command", httpd_command())
    host.docker.containers.run(
        IMAGE, name=name, hostname=name, detach=True, restart_policy={"Name": "always"}, **options
    )


def form_swarm(
    hosts: list[Host], managers: int, each: Callable[[Callable[[Host], None], Iterable[Host]], None]
) -> None:
    """One Swarm of all hosts, the first ``managers`` of them managers, and its attachable overlay network."""
    first, *others = hosts
    first.docker.swarm.init(advertise_addr=first.address, listen_addr=f"{first.address}:2377")
    tokens = first.docker.swarm.attrs["JoinTokens"]
    first.docker.networks.create(OVERLAY, driver="overlay", attachable=True)

    def join(host: Host) -> None:
        role = "Manager" if host in hosts[:managers] else "Worker"
        options = {"advertise_addr": host.address, "listen_addr": f"{host.address}:2377"}
        host.docker.swarm.join([f"{first.address}:2377"], tokens[role], **options)

    for manager in others[: managers - 1]:  # one after the other: raft changes its members one at a time
        join(manager)
    each(join, others[managers - 1 :])


def run_containers(host: Host, first: bool) -> None:
    """One on the overlay (two on the first host: the pair that needs no underlay), one published on the bridge."""
    run_on_overlay(host, f"app-{host.name}")
    if first:
        run_on_overlay(host, f"app-{host.name}-b")
    run_container(host, f"web-{host.name}", ports={"80/tcp": PUBLISHED})


def run_on_overlay(host: Host, name: str, attempts: int = 40) -> None:
    """A node that has just joined may not know the network yet, or take half a minute to attach: then try again."""
    for left in reversed(range(attempts)):
        try:
            run_container(host, name, network=OVERLAY)
            break
        except docker.errors.APIError as error:
            text = str(error).lower()
            early = any(words in text for words in ("not found", "could not find", "attaching to network failed"))
            if not (left and early):
                raise
        for container in host.docker.containers.list(all=True, filters={"name": f"^/{name}$"}):
            container.remove(force=True)
        time.sleep(0.25)


def create_service(manager: Host, name: str, replicas: int) -> None:
    """A replicated service that is found by name (dnsrr): VIPs need IPVS, which not every kernel has."""
    manager.docker.services.create(
        IMAGE,
        name=name,
        command=httpd_command()[:1],
        args=httpd_command()[1:],
        networks=[OVERLAY],
        mode=docker.types.ServiceMode("replicated", replicas),
        endpoint_spec=EndpointSpec(mode="dnsrr"),
    )

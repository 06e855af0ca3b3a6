# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a lab is built, step by step, by its supervisor."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from . import boot, engine, network, state
from .fleet import Host, Lab

if TYPE_CHECKING:
    from .supervisor import Supervisor

T = TypeVar("T")


def each(function: Callable[[T], object], items: Iterable[T]) -> None:
    """Call the function for all items at once; the first error is raised.

    The pool is not a context manager: leaving one waits for its threads, and on the way out of a stopped lab there is
    nothing to wait for.
    """
    pool = ThreadPoolExecutor(max_workers=8)
    for future in [pool.submit(function, item) for item in items]:
        future.result()
    pool.shutdown()


def make_key(path: Path, comment: str) -> Path:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return path


def build(supervisor: Supervisor) -> None:
    spec, directory = supervisor.spec, supervisor.directory
    names = spec.names
    addresses = {name: network.address_of(index) for index, name in enumerate(names, 1)}
    records = {**addresses, "outside.example": network.OUTSIDE, "gateway.example": network.GATEWAY}
    fabric = supervisor.spawn("fabric.py", {"name": "fabric", "records": records})
    hosts = []
    for index, name in enumerate(names, 1):
        base = directory / "hosts" / name
        base.mkdir(parents=True)
        lower = spec.roots.get(name, "/")
        pid = supervisor.spawn("init.py", {"name": name, "base": str(base), "size": spec.size, "lower": lower})
        kind = "docker" if index <= spec.hosts else "bare"
        hosts.append(Host(spec.name, name, index, pid, kind, spec.interpreters.get(name)))
    supervisor.say(step="underlay")
    network.build_fabric(f"/proc/{fabric}/ns/net")
    client_key = make_key(directory / "key", f"lab {spec.name}")
    host_key = make_key(directory / "host_key", f"hosts of lab {spec.name}")

    def install(host: Host) -> None:
        network.lay_cable(f"/proc/{fabric}/ns/net", host.netns, host.index)
        engine.furnish(host, addresses, host_key, client_key)
        if failed := boot.boot(host):
            raise state.LabError(f"{host.name} did not boot: " + "; ".join(failed))
        if host.kind == "docker":
            engine.load_image(host, archive)

    archive = engine.image_archive()
    supervisor.say(step="sshd and dockerd")
    each(install, hosts)
    dockers = [host for host in hosts if host.kind == "docker"]
    supervisor.say(step="swarm")
    engine.form_swarm(dockers, spec.managers, each)
    supervisor.say(step="containers")
    each(lambda host: engine.run_containers(host, host.index == 1), dockers)
    if spec.service:
        engine.create_service(dockers[0], "svc", spec.hosts)
    record = {
        "hosts": [
            {
                "name": host.name,
                "index": host.index,
                "pid": host.pid,
                "kind": host.kind,
                "interpreter": host.interpreter,
            }
            for host in hosts
        ],
        "managers": names[: spec.managers],
        "fabric": fabric,
    }
    state.write_record(spec.name, record)
    supervisor.say(step="convergence")
    Lab(spec.name, record).wait_converged()

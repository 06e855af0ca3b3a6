# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The reboot of a host: off, without a warning to anything that runs on it, and on again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import docker
import requests

from . import boot, engine, network, state
from .init import REBOOT

if TYPE_CHECKING:
    from .fleet import Host, Lab

OF_A_TASK = "com.docker.swarm.task.id"


def reboot(lab: Lab, host: Host) -> list[str]:
    """Power cycle and boot; returns what could not be started."""
    running = containers(host, all=False)
    network.take_nic(lab.fabric.netns, host.netns, host.index)
    power_cycle(host)
    state.remove_cgroups(f"{lab.name}/{host.name}")
    network.give_nic(lab.fabric.netns, host.netns, host.index)
    failed = boot.boot(host)
    if host.kind == "docker":
        failed += start_containers(host, running)
    return failed


def power_cycle(host: Host, timeout: float = 30.0) -> None:
    """Have the host's first process do it, and wait until it has."""
    mark = Path(f"/proc/{host.pid}/ns/ipc")
    before = os.readlink(mark)
    state.kill(state.process_record(host.pid), REBOOT)
    try:
        done = state.wait_for(lambda: os.readlink(mark) != before, timeout)
    except FileNotFoundError:
        done = False
    if not done:
        raise state.LabError(f"{host.name} did not reboot; see {state.directory(host.lab)}/log")


def containers(host: Host, all: bool) -> dict[str, str]:
    """The containers that somebody runs here: id and name. A service's tasks are the Swarm's business."""
    if host.kind != "docker" or not engine.engine_answers(host):
        return {}
    entries = host.docker.api.containers(all=all)
    return {entry["Id"]: entry["Names"][0].lstrip("/") for entry in entries if OF_A_TASK not in (entry["Labels"] or {})}


def start_containers(host: Host, running: dict[str, str]) -> list[str]:
    """Have those run that ran before, or that are always to run if the engine was down then.

    One on the overlay that the engine restarts before its Swarm is back finds no network, and stays down.
    """
    wanted = running or {
        identity: name for identity, name in containers(host, all=True).items() if always(host, identity)
    }
    return [
        f"container {name}"
        for identity, name in wanted.items()
        if not state.wait_for(lambda identity=identity: engine.started(host, identity), 90, 0.5)  # type: ignore[misc]
    ]


def always(host: Host, identity: str) -> bool:
    try:
        policy = host.docker.api.inspect_container(identity)["HostConfig"]["RestartPolicy"]["Name"]
    except (docker.errors.DockerException, requests.exceptions.RequestException):
        return False
    return bool(policy in ("always", "unless-stopped"))

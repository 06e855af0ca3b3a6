# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ask the engine, within limits: every call has a timeout, and an engine that stopped answering is not asked again."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._commands import find, run_bounded
from ansible_collections.crosshost.doctor.plugins.module_utils._daemon import (
    is_mounted_over,
    kv_store,
    read_daemon_flags,
    upstreams,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._docker_rows import (
    container_row,
    daemon_config,
    engine_row,
    managers_view,
    network_row,
    node_row,
    relevant_tasks,
    resolv_conf,
    service_row,
    swarm_row,
    task_row,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_below, read_int, read_text
from ansible_collections.crosshost.doctor.plugins.module_utils._netns import identity

SOCKETS = ("/run/docker.sock", "/var/run/docker.sock")
PID_FILES = ("/run/docker.pid", "/var/run/docker.pid")
DAEMON_JSON = "/etc/docker/daemon.json"
DATA_ROOT = "/var/lib/docker"
CALL_SECONDS = 10.0
# A daemon that hangs does so at the first question; one on a busy machine answers the second time.
FIRST_SECONDS = (5.0, 10.0)
CONNECT_SECONDS = 3.0
UNIT_PROPERTIES = ("ActiveState", "SubState", "UnitFileState", "Result", "ExecMainStatus", "NRestarts", "FragmentPath")
EMPTY_ENGINE: dict[str, Any] = {
    "state": "unknown",
    "error": None,
    "id": None,
    "name": None,
    "version": None,
    "api_version": None,
    "storage_driver": None,
    "live_restore": None,
    "security_options": [],
    "firewall_backend": None,
    "data_root": None,
    "daemon_config": {},
    "daemon_flags": {},
    "kv": None,
    "pid": None,
    "unit": None,
}
EMPTY_SWARM: dict[str, Any] = {
    "state": None,
    "error": None,
    "node_id": None,
    "node_addr": None,
    "role": None,
    "control_available": False,
    "cluster_id": None,
    "data_path_addr": None,
    "data_path_port": None,
    "managers": [],
    "managers_view": [],
    "certificate": None,
    "nodes": [],
    "services": [],
    "tasks": [],
}


def socket_state() -> tuple[str, str | None, str | None]:
    """(state, error, path) from connecting to the engine's socket: C(running) means that somebody accepts."""
    path = next((path for path in SOCKETS if os.path.exists(path)), None)
    if path is None:
        if find("dockerd") or os.path.exists("/snap/docker/current"):
            return "down", f"{SOCKETS[0]} does not exist", None
        return "absent", None, None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
            probe.settimeout(CONNECT_SECONDS)
            probe.connect(path)
    except OSError as exc:
        state = "unknown" if exc.errno in (errno.EACCES, errno.EPERM) else "down"
        return state, f"{path}: {exc.strerror or exc}", path
    return "running", None, path


def unit_state(seconds: float = 3.0) -> dict[str, Any] | None:
    """What systemd says about the engine's unit, or None on a host without systemd."""
    systemctl = find("systemctl")
    if systemctl is None or not os.path.isdir("/run/systemd/system"):
        return None
    properties = ",".join(UNIT_PROPERTIES)
    raw, _truncated, error = run_bounded([systemctl, "show", "docker.service", "-p", properties], seconds, 65536)
    if error:
        return None
    pairs = (line.partition("=") for line in raw.decode("utf-8", "replace").splitlines())
    found = {name: text for name, equals, text in pairs if equals and name in UNIT_PROPERTIES}
    return {name: found.get(name) for name in UNIT_PROPERTIES} if found else None


def _json_file(path: str) -> Any:
    text = read_text(path)
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def read_engine(missing: list[dict[str, str]]) -> tuple[dict[str, Any], str | None]:
    """The C(engine) facts that need no answer from it, and the socket to ask, None when nobody accepts there."""
    state, error, path = socket_state()
    config = _json_file(DAEMON_JSON)
    if config is None and os.path.exists(DAEMON_JSON):
        missing.append({"section": "engine", "what": DAEMON_JSON, "why": "unreadable, or not JSON"})
    pid = next((pid for pid in map(read_int, PID_FILES) if pid), None)
    if pid is not None and not os.path.isdir(f"/proc/{pid}"):
        pid = None  # a pid file that outlived its engine
    engine = dict(EMPTY_ENGINE, state=state, error=error, daemon_config=daemon_config(config), pid=pid)
    engine["daemon_flags"] = read_daemon_flags(pid)
    engine["kv"] = kv_store({**engine["daemon_config"], **engine["daemon_flags"]})
    engine["unit"] = None if state == "absent" else unit_state()
    return engine, path if state == "running" else None


class Engine:
    """One connection to the engine. A call that fails is noted and yields None, a second timeout ends the asking."""

    def __init__(self, docker: ModuleType, path: str, deadline: float, missing: list[dict[str, str]]) -> None:
        self.missing = missing
        self.deadline = deadline
        self.timeouts = 0
        self.error: str | None = None
        self.silent = False
        self.client: Any = None
        self._not_found = docker.errors.NotFound
        for seconds in FIRST_SECONDS:
            try:
                self.client = docker.APIClient(base_url=f"unix://{path}", version="auto", timeout=seconds)
                return
            except Exception as exc:  # the SDK lets exceptions of docker, requests and urllib3 through
                self.silent = _timed_out(exc)
                self.error = f"no answer within {sum(FIRST_SECONDS):g} s" if self.silent else _reason(exc)
            if not self.silent:
                break
        missing.append({"section": "engine", "what": path, "why": str(self.error)})

    def ask(self, section: str, what: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """The answer of one SDK method, or None."""
        left = self.deadline - time.monotonic()
        if self.timeouts > 1 or left <= 0:
            why = "the engine did not answer twice" if left > 0 else "out of time"
            self.missing.append({"section": section, "what": what, "why": f"not asked: {why}"})
            return None
        self.client.timeout = min(CALL_SECONDS, left)
        try:
            return call(*arguments, **options)
        except self._not_found:
            self.missing.append({"section": section, "what": what, "why": "disappeared between two reads"})
        except Exception as exc:  # see __init__; whatever it is, the other answers are wanted
            if _timed_out(exc):
                self.timeouts += 1
            self.missing.append({"section": section, "what": what, "why": _reason(exc)})
        return None

    def close(self) -> None:
        """Close the connections."""
        if self.client is not None:
            self.client.close()


def _timed_out(exc: Exception) -> bool:
    """The SDK wraps a timeout in exceptions of three libraries; the words survive."""
    return "timed out" in str(exc).lower()


def _reason(exc: Exception) -> str:
    """One line of an exception; the SDK's APIError keeps the engine's own words in explanation."""
    words = str(getattr(exc, "explanation", None) or exc).strip().splitlines()
    return f"{type(exc).__name__}: {words[0][:300] if words else ''}"


def complete_engine(engine: dict[str, Any], client: Engine) -> dict[str, Any]:
    """Fill the C(engine) facts from the engine's answers; returns its information, empty when there is none."""
    version = client.ask("engine", "version", client.client.version) or {}
    info = client.ask("engine", "info", client.client.info)
    if info is None:
        engine.update(state="unknown", error=client.missing[-1]["why"])
        return {}
    engine.update(engine_row(info, version))
    return dict(info)


def swarm_on_disk(data_root: str | None) -> dict[str, Any]:
    """What the engine wrote down about its Swarm, also while it is down: addresses only, its keys are elsewhere.

    The data path address is in no answer of the API at all.
    """
    folder = os.path.join(data_root or DATA_ROOT, "swarm")
    state, managers = (_json_file(os.path.join(folder, name)) for name in ("docker-state.json", "state.json"))
    if not isinstance(state, dict):
        return {}
    return {
        "node_addr": _host(state.get("AdvertiseAddr")) or _host(state.get("LocalAddr")),
        "data_path_addr": _host(state.get("DataPathAddr")),
        "data_path_port": state.get("DataPathPort") or None,
        "managers": [
            {"node_id": str(one.get("node_id") or "") or None, "addr": str(one.get("addr") or "") or None}
            for one in (managers if isinstance(managers, list) else [])
            if isinstance(one, dict)
        ],
    }


def configured_root(engine: dict[str, Any]) -> str | None:
    """The data root that the daemon's configuration sets, which an engine that is down cannot tell."""
    configured = {**engine["daemon_config"], **engine["daemon_flags"]}.get("data-root")
    return configured if isinstance(configured, str) and configured else None


def node_certificate(data_root: str | None) -> str:
    """Where a Swarm node keeps its certificate."""
    return os.path.join(data_root or DATA_ROOT, "swarm", "certificates", "swarm-node.crt")


def _host(value: Any) -> str | None:
    """The address of C(192.0.2.11:2377), C([2001:db8::1]:2377) or of an address alone."""
    text = str(value or "")
    if text.count(":") == 1 or text.startswith("["):
        text = text.rpartition(":")[0] if not text.endswith("]") else text
    return text.strip("[]") or None


def read_swarm(client: Engine, info: dict[str, Any]) -> dict[str, Any]:
    """The C(swarm) facts; nodes, services and tasks where this node is a manager that answers."""
    swarm = dict(EMPTY_SWARM, **swarm_row(info.get("Swarm") or {}))
    if swarm["state"] not in (None, "inactive"):
        disk = swarm_on_disk(info.get("DockerRootDir"))
        swarm["data_path_addr"] = disk.get("data_path_addr")
        swarm["data_path_port"] = swarm["data_path_port"] or disk.get("data_path_port")
    if swarm["control_available"]:
        rows = (
            ("nodes", client.client.nodes, node_row),
            ("services", client.client.services, service_row),
            ("tasks", client.client.tasks, task_row),
        )
        for name, call, row in rows:
            answers = client.ask("swarm", name, call) or []
            if name == "tasks":
                answers = relevant_tasks(answers)
            swarm[name] = [row(answer) for answer in answers]
        swarm["managers_view"] = managers_view(swarm["nodes"])
    return swarm


def read_networks(client: Engine, wanted: list[str]) -> list[dict[str, Any]]:
    """The C(networks) facts. Swarm networks are inspected verbosely: also a worker tells all endpoints and VTEPs."""
    rows = []
    for listed in client.ask("networks", "networks", client.client.networks) or []:
        if wanted and not chosen(listed.get("Name"), listed.get("Id"), wanted):
            continue
        detailed = None
        if listed.get("Scope") == "swarm":
            inspect = client.client.inspect_network
            detailed = client.ask("networks", f"network {listed.get('Name')}", inspect, listed["Id"], verbose=True)
        rows.append(network_row(dict(listed, **detailed) if detailed else listed))
    return rows


def chosen(name: str | None, identifier: str | None, wanted: list[str]) -> bool:
    """Whether a network is among those asked for by name, id, or the first digits of the id (ten or more)."""
    return any(word == name or (len(word) >= 10 and (identifier or "").startswith(word)) for word in wanted)


def read_containers(client: Engine, wanted: list[str], fallback: list[str] | None = None) -> list[dict[str, Any]]:
    """The C(containers) facts of those that have a process; one that ends while we read is noted and left out.

    @param fallback: the name servers behind the engine's own for containers that have none of theirs.
    """
    rows = []
    for listed in client.ask("containers", "containers", client.client.containers) or []:
        identifier = str(listed.get("Id"))
        what = f"container {identifier[:12]}"
        inspected = client.ask("containers", what, client.client.inspect_container, identifier)
        if inspected is None:
            continue
        row = container_row(listed, inspected)
        if wanted and not any(chosen(each["network"], each["network_id"], wanted) for each in row["endpoints"]):
            continue
        _complete_container(row, client.missing, fallback)
        rows.append(row)
    return rows


def _complete_container(row: dict[str, Any], missing: list[dict[str, str]], fallback: list[str] | None = None) -> None:
    """The namespace and the resolver configuration, which only the process can tell."""
    if not row["pid"]:
        return
    with contextlib.suppress(OSError):
        row["netns"] = str(identity(f"/proc/{row['pid']}/ns/net")[1])
    try:
        text = read_below(f"/proc/{row['pid']}/root", "/etc/resolv.conf")
        row["dns"].update(resolv_conf(text))
        mountinfo = read_text(f"/proc/{row['pid']}/mountinfo") or ""
        row["dns"]["mounted"] = row["dns"]["mounted"] or is_mounted_over(mountinfo)
        row["dns"]["upstreams"] = upstreams(row, text, fallback)
    except OSError as exc:
        what = f"resolv.conf of container {row['name'] or row['id']}"
        missing.append({"section": "containers", "what": what, "why": exc.strerror or str(exc)})

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lab itself: it comes up, it does what it says, and it leaves nothing behind however it ends."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import Lab, LabError, reach, state
from tests.lab.fleet import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.root]

NAMESPACES = ("net", "mnt", "pid", "uts", "ipc")
COMMAND = [sys.executable, "-m", "tests.lab"]


def namespaces_of(pid: int | str) -> set[str]:
    found = set()
    for kind in NAMESPACES:
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
        except OSError:
            return found
    return found


def pids() -> list[str]:
    return [entry for entry in os.listdir("/proc") if entry.isdigit()]


class Traces:
    """Everything by which one lab could be seen on the machine. Other labs may come and go beside it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.namespaces: set[str] = set()

    def look(self) -> None:
        """Remember the namespaces of the lab's hosts and of everything that runs in them."""
        record = state.read_record(self.name)
        roots = [entry["pid"] for entry in record["hosts"]] + [record["fabric"]]
        own = namespaces_of("self")
        self.namespaces = set().union(*(namespaces_of(pid) for pid in roots)) - own
        for pid in pids():
            if (found := namespaces_of(pid)) & self.namespaces:
                self.namespaces |= found - own

    def left(self) -> list[str]:
        """What is still there."""
        found = []
        folder = str(state.directory(self.name))
        for pid in pids():
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
            except OSError:
                continue
            holds = folder in line or namespaces_of(pid) & self.namespaces
            supervises = "tests.lab.supervisor" in line and f'"name": "{self.name}"' in line
            if holds or supervises:
                found.append(f"process {pid}: {line}")
            marks = {f"{folder}/", *self.namespaces}
            found += [f"mount in {pid}: {mount}" for mount in mounts if any(mark in mount for mark in marks)]
        groups = [root / state.PREFIX / self.name for root in state.cgroup_roots()]
        found += [f"control group {path}" for path in groups if path.exists()]
        if state.directory(self.name).exists():
            found.append(str(state.directory(self.name)))
        return found

    def gone(self, timeout: float = 60.0) -> list[str]:
        """Wait until nothing is left; return what stayed."""
        state.wait_for(lambda: not self.left(), timeout, 0.2)
        return self.left()


def links() -> list[str]:
    """The links of the machine's own namespace: a lab makes none there."""
    return sorted(os.listdir("/sys/class/net"))


@pytest.fixture
def name(ground: None) -> Iterator[str]:
    """A name for a lab of the test's own; whatever carries it afterwards is taken down."""
    name = f"own-{os.getpid()}-{time.monotonic_ns() % 100000}"
    yield name
    with_name = state.directory(name)
    if with_name.exists():
        subprocess.run([*COMMAND, "down", "--name", name], cwd=ROOT, check=True, timeout=120)


def watchdog_of(name: str) -> list[int]:
    supervisor = json.loads((state.directory(name) / "supervisor").read_text())
    fields = Path(f"/proc/{supervisor[0]}/stat").read_text().rpartition(")")[2].split()
    return state.process_record(int(fields[1]))


def supervisor_of(name: str) -> list[int]:
    record: list[int] = json.loads((state.directory(name) / "supervisor").read_text())
    return record


def end_by_down(lab: Lab) -> None:
    lab.down()


def end_by_killing_the_supervisor(lab: Lab) -> None:
    assert state.kill(supervisor_of(lab.name))


def end_by_killing_the_watchdog(lab: Lab) -> None:
    assert state.kill(watchdog_of(lab.name))


def end_by_killing_both(lab: Lab) -> None:
    """Only files and empty control groups can stay, and the next command removes them."""
    watchdog, supervisor = watchdog_of(lab.name), supervisor_of(lab.name)
    os.kill(watchdog[0], signal.SIGSTOP)  # so that it cannot act on the supervisor's end
    assert state.kill(supervisor)
    assert state.kill(watchdog)
    hosts = [[host.pid, state.start_time(host.pid) or 0] for host in lab.hosts.values()]
    assert state.wait_for(lambda: not any(state.alive(host) for host in hosts), 60)
    subprocess.run([*COMMAND, "sweep"], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize(
    "end", [end_by_down, end_by_killing_the_supervisor, end_by_killing_the_watchdog, end_by_killing_both]
)
def test_nothing_remains_of_a_lab_however_it_ends(name: str, tmp_path: Path, end: Callable[[Lab], None]) -> None:
    before = links()
    lab = Lab.up(name, hosts=2)
    traces = Traces(name)
    inventory = lab.write_inventory(tmp_path / "inventory.ini")
    ansible = [str(Path(sys.executable).with_name("ansible")), "all", "-i", str(inventory), "-m", "ping"]
    subprocess.run(
        ansible, check=True, timeout=120, capture_output=True
    )  # leaves SSH connections that wait for more work
    traces.look()
    assert len(traces.left()) > 10
    end(lab)
    assert traces.gone() == []
    assert links() == before


def interrupted_up(name: str, number: int, script: str | None = None) -> subprocess.Popen[str]:
    """Start bringing a lab up and end that, once it is under way, with a signal."""
    command = [sys.executable, "-c", script] if script else [*COMMAND, "up", "--name", name, "--hosts", "2"]
    # What runs in the background ignores SIGINT, and its children with it: env gives them the default back.
    command = ["env", "--default-signal=INT", *command]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    for line in process.stderr:
        if "swarm" in line:
            break
    process.send_signal(number)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_nothing_remains_when_up_is_cut_short(name: str, number: int) -> None:
    process = interrupted_up(name, number)
    assert process.wait(60) != 0
    assert Traces(name).gone() == []


def test_a_lab_of_a_program_goes_with_the_program(name: str) -> None:
    script = f"from tests.lab import Lab; import os; Lab.up({name!r}, hosts=1); os.kill(os.getpid(), 9)"
    assert (
        subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=120, check=False).returncode == -signal.SIGKILL
    )
    assert Traces(name).gone() == []


def test_nothing_remains_when_a_host_cannot_be_made(name: str, tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/python3").touch()
    with pytest.raises(LabError, match="node2"):
        Lab.up(name, hosts=2, roots={"node2": str(tmp_path)})
    assert Traces(name).gone() == []


def test_a_living_lab_is_neither_swept_nor_replaced(lab: Lab) -> None:
    assert lab.name not in state.sweep()
    with pytest.raises(LabError, match="exists already"):
        Lab.up(lab.name, hosts=1)
    assert lab.missing() == []


def test_hosts_without_an_engine_and_with_a_python_of_their_own(name: str) -> None:
    lab = Lab.up(name, hosts=1, bare=1, interpreters={"node2": "/opt/python/bin/python"})
    try:
        bare = lab.hosts["node2"]
        assert bare.run(["sh", "-c", "command -v dockerd"], check=False).returncode != 0
        assert "node2 " in lab.inventory()
        assert "ansible_python_interpreter=/opt/python/bin/python" in lab.inventory()
        assert lab.hosts["node1"].run(["hostname"]).stdout == "node1\n"
        assert lab.hosts["node1"].path("/etc/machine-id").read_text() != bare.path("/etc/machine-id").read_text()
    finally:
        lab.down()


@pytest.mark.parametrize(
    "arguments", [{"hosts": 0}, {"managers": 4}, {"interpreters": {"node9": "/x"}}, {"roots": {"node1": "/x"}}]
)
def test_a_lab_that_cannot_be_is_refused_before_anything_is_made(name: str, arguments: dict[str, object]) -> None:
    with pytest.raises(LabError):
        Lab.up(name, **arguments)
    assert Traces(name).left() == []


@pytest.mark.parametrize("bad", ["", "Lab", "../lab", "a/b", "x" * 40])
def test_names_that_would_leave_the_labs_folder_are_refused(bad: str) -> None:
    with pytest.raises(LabError, match="no name for a lab"):
        state.directory(bad)


def test_every_path_of_a_whole_lab_works(lab: Lab) -> None:
    survey = lab.survey()
    assert not survey.broken
    kinds = {path.kind for path in survey.works}
    assert kinds == {"host", "overlay", "egress-overlay", "egress-bridge", "published", "page", "node", "engine"}


def test_a_container_has_neither_shell_nor_network_tool(lab: Lab) -> None:
    host = lab.hosts["node1"]
    archive = host.docker.api.export("app-node1")
    with tarfile.open(fileobj=io.BytesIO(b"".join(archive))) as tree:
        programs = [entry.name for entry in tree if entry.isfile() and entry.mode & 0o111 and entry.size]
    assert programs == ["httpd"]


def test_no_link_carries_more_than_its_mtu(lab: Lab) -> None:
    for host in lab.hosts.values():
        for where, link in ((host, "eth0"), (lab.fabric, host.port)):
            features = dict(
                line.strip().split(": ", 1) for line in where.run(["ethtool", "-k", link]).stdout.splitlines()[1:]
            )
            for feature in ("tcp-segmentation-offload", "generic-segmentation-offload", "generic-receive-offload"):
                assert features[feature].startswith("off"), f"{feature} of {link}"


def test_the_outside_has_names_and_a_page(lab: Lab) -> None:
    host = lab.hosts["node2"]
    assert reach.http_body(host.container_netns("app-node2"), lab.outside, 80) == 8192
    resolve = "import socket; print(socket.gethostbyname('outside.example'))"
    assert host.run(["/usr/bin/python3", "-c", resolve]).stdout.strip() == lab.outside

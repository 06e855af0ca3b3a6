# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A lab host that reboots keeps what is persistent and nothing else, and is part of the fleet again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab, state
from tests.lab.fleet import Host
from tests.lab.snapshot import difference
from tests.playbook import BIN, environment, own_playbook
from tests.system.test_lab import Traces
from tests.system.test_remediate import GUARDS, JOURNALS, own_play, undo_all, wait

pytestmark = [pytest.mark.lab, pytest.mark.root]

WANTS = "/etc/systemd/system/multi-user.target.wants"
NFTABLES = """\
flush ruleset
table inet kept {
  chain input {
    type filter hook input priority filter; policy accept;
    udp dport 9999 drop
  }
}
"""
PARAMETERS = """\
net.ipv4.conf.eth0.rp_filter = 2
net.ipv4.conf.docker_gwbridge.arp_ignore = 1
kernel.crosshost_doctor_has_none = 1
"""
LINK = "[Match]\nOriginalName=eth0\n\n[Link]\nTransmitChecksumOffload=no\n"
OTHER_LINK = "[Match]\nOriginalName=eth1\n\n[Link]\nMTUBytes=1300\n"
RULES = """\
ACTION=="add|move", SUBSYSTEM=="net", KERNEL=="eth1", RUN+="/usr/bin/false"
ACTION=="add|move", SUBSYSTEM=="net", KERNEL=="eth0", RUN+="/usr/sbin/ip link set $name txqueuelen 77"
"""
EARLY = "[Service]\nType=oneshot\nExecStart=/usr/sbin/ip route add 198.51.100.64/26 via 192.0.2.1\n"
LATE = """\
[Unit]
After=network-online.target docker.service

[Service]
Type=oneshot
ExecStart=-/usr/bin/false
ExecStart=/usr/sbin/ip route add 198.51.100.128/26 \\
  dev docker0
"""


@pytest.fixture(scope="module")
def own(ground: None) -> Iterator[Lab]:
    lab = Lab.up(f"reboot-{os.getpid()}", hosts=3)
    yield lab
    lab.down()


def enable(host: Host, unit: str) -> None:
    host.path(WANTS).mkdir(parents=True, exist_ok=True)
    host.path(f"{WANTS}/{unit}").symlink_to(f"/etc/systemd/system/{unit}")


def write(host: Host, path: str, text: str) -> None:
    host.path(path).parent.mkdir(parents=True, exist_ok=True)
    host.write(path, text)


def parameter(host: Host, name: str) -> str:
    return host.run(["cat", f"/proc/sys/net/ipv4/conf/{name}"]).stdout.strip()


def feature(host: Host, name: str) -> str:
    lines = host.run(["ethtool", "-k", "eth0"]).stdout.splitlines()[1:]
    return dict(line.strip().split(": ") for line in lines)[name]


def started(host: Host) -> dict[str, str]:
    containers = host.docker.containers.list()
    return {str(container.name): container.attrs["State"]["StartedAt"] for container in containers}


def test_a_reboot_keeps_what_is_persistent_and_nothing_else(own: Lab) -> None:
    host, others = own.hosts["node2"], [own.hosts["node1"], own.hosts["node3"]]
    for path, text in (
        ("/etc/sysctl.d/60-reboot.conf", PARAMETERS),
        ("/etc/nftables.conf", NFTABLES),
        ("/etc/systemd/network/10-other.link", OTHER_LINK),
        ("/etc/systemd/network/50-eth0.link", LINK),
        ("/etc/udev/rules.d/90-reboot.rules", RULES),
        ("/etc/systemd/system/crosshost-doctor-early.service", EARLY),
        ("/etc/systemd/system/crosshost-doctor-late.service", LATE),
    ):
        write(host, path, text)
    host.path("/etc/systemd/system/crosshost-doctor-masked.service").symlink_to("/dev/null")
    for unit in ("nftables", "crosshost-doctor-early", "crosshost-doctor-late", "crosshost-doctor-masked"):
        enable(host, f"{unit}.service")
    write(host, "/tmp/file", "")
    write(host, "/run/file", "")
    for command in (
        "ip route add 203.0.113.0/24 via 192.0.2.1",
        "ip link add runtime0 type bridge",
        "ip link set eth0 mtu 1400",
        "nft add table inet runtime",
        "sysctl -q net.ipv4.conf.eth0.arp_announce=2",
        "hostname other",
    ):
        host.run(command.split())
    host.start(["sleep", "4321"], log="/var/log/sleep.log")
    address = host.run(["cat", "/sys/class/net/eth0/address"]).stdout
    own.fabric.run(["ip", "link", "set", host.port, "alias", "set-by-test"])
    before, ran = own.snapshot(), {other.name: started(other) for other in others}

    assert own.reboot(host) == []

    assert parameter(host, "eth0/rp_filter") == "2"
    assert parameter(host, "docker_gwbridge/arp_ignore") == "1"
    assert parameter(host, "eth0/arp_announce") == "0"
    tables = host.run(["nft", "list", "tables"]).stdout
    assert "table inet kept" in tables
    assert "runtime" not in tables
    routes = host.run(["ip", "route"]).stdout
    assert "198.51.100.64/26 via 192.0.2.1" in routes
    assert "198.51.100.128/26 dev docker0" in routes
    assert "203.0.113.0" not in routes
    links = os.listdir(host.path("/sys/class/net"))
    assert "runtime0" not in links
    assert "docker0" in links
    nic = host.run(["sh", "-c", "cd /sys/class/net/eth0; cat mtu tx_queue_len address"]).stdout
    assert nic == f"1500\n77\n{address}"
    assert feature(host, "tx-checksumming") == "off"
    assert feature(host, "tcp-segmentation-offload").startswith("off")
    assert host.run(["hostname"]).stdout == "node2\n"
    assert not host.path("/tmp/file").exists()
    assert not host.path("/run/file").exists()
    assert "4321" not in host.run(["ps", "-eo", "args"]).stdout
    assert not own.survey().broken

    lines = difference(before, own.snapshot())
    port = f'"ifname": "{host.port}"'  # its other end has another number in another namespace
    changed = [line for line in lines if line[2:].partition("/")[0] != host.name and port not in line]
    assert {line.split()[1].split("/")[-1] for line in changed} <= {"fdb:", "neighbours:"}, changed
    assert {other.name: started(other) for other in others} == ran
    assert "set-by-test" in own.fabric.run(["ip", "link", "show", host.port]).stdout


def test_what_does_not_start_is_named_and_the_host_boots_all_the_same(own: Lab) -> None:
    host = own.hosts["node3"]
    write(host, "/etc/nftables.conf", "table inet broken {\n")
    write(
        host, "/etc/systemd/system/crosshost-doctor-bad.service", "[Service]\nExecStart=/usr/bin/false\nExecStart=/x\n"
    )
    for unit in ("nftables.service", "crosshost-doctor-bad.service", "crosshost-doctor-gone.service"):
        enable(host, unit)
    failed = own.reboot(host)
    assert [line.partition(":")[0] for line in failed] == [
        "nftables.service",
        "crosshost-doctor-bad.service",
        "crosshost-doctor-gone.service",
    ]
    for entry in host.path(WANTS).iterdir():
        entry.unlink()
    own.wait_converged()


@pytest.mark.parametrize("owner", ["ufw", "firewalld"])
def test_a_firewall_that_is_enabled_is_there_after_a_reboot(own: Lab, owner: str) -> None:
    fault = f"data-udp-blocked-host-fw:{owner}"
    with own.broken(fault, "node2") as expected:
        assert own.reboot("node2", wait=False) == []
        assert state.wait_for(lambda: not own.survey().unexpected(expected["pairs"]), 60, 1)
    assert not own.survey().broken


def test_a_host_that_reboots_while_a_guard_stands_can_be_repaired_again(own: Lab, tmp_path: Path) -> None:
    """What was changed at runtime is gone with the boot; what undoes it was noted, and harms nothing."""
    host, inventory = own.hosts["node2"], own.write_inventory(tmp_path / "inventory.ini")
    key = "net.ipv4.conf.eth0.log_martians"  # of which no other test of this lab keeps a value for the boot
    assert parameter(host, "eth0/log_martians") == "0"
    undo, change = ["sysctl", "-w", f"{key}=0"], ["sysctl", "-w", f"{key}=1"]
    path = own_play(tmp_path, undo, change, "ansible.builtin.pause: {seconds: 300}")
    with open(tmp_path / "output", "w") as output:
        argv = [str(BIN / "ansible-playbook"), str(path), "-i", str(inventory)]
        playbook = subprocess.Popen(argv, stdout=output, stderr=output, env=environment(), start_new_session=True)
        wait(lambda: "[ansible.builtin.pause]" in (tmp_path / "output").read_text(), 120, "no pause")
        assert own.reboot(host) == []
        os.killpg(playbook.pid, signal.SIGKILL)
        playbook.wait(timeout=60)
    assert parameter(host, "eth0/log_martians") == "0"
    again = own_playbook(inventory, own_play(tmp_path, undo, change))
    assert again.code == 0, again.output
    assert parameter(host, "eth0/log_martians") == "1"
    undo_all(host, inventory)
    assert parameter(host, "eth0/log_martians") == "0"
    assert not host.path(JOURNALS).exists()
    assert not host.path(GUARDS).exists()
    assert not own.survey().broken


def test_the_only_manager_reboots_and_nothing_remains_of_the_lab(own: Lab) -> None:
    traces = Traces(own.name)
    traces.look()
    assert own.reboot(own.manager) == []
    assert not own.survey().broken
    traces.look()
    own.down()
    assert traces.gone() == []

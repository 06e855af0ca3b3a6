# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Roles that set sysctls and write small files, where a molecule scenario does not reach.

No host of a lab has NetworkManager or kernel modules: stand-ins write down what they are told.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.community.general.plugins.modules import modprobe

from tests.lab import Lab
from tests.lab.fleet import Host
from tests.lab.snapshot import difference
from tests.playbook import own_playbook

OWN = "/etc/sysctl.d/zz-crosshost-doctor.conf"
LINK = "cdrole0"
NMCLI = """#!/bin/sh
case "$*" in
"--terse --fields RUNNING general") echo running ;;
"general reload") ls /etc/NetworkManager/conf.d 2>/dev/null | tr '\\n' ' ' >> /run/nmcli.log; echo >> /run/nmcli.log ;;
*) exit 2 ;;
esac
"""
MODPROBE = """#!/bin/sh
echo "$*" >> /run/modprobe.log
case "$*" in
br_netfilter) echo "br_netfilter 1" >> /run/modules; umount /proc/sys/net/bridge ;;
"-r br_netfilter") : > /run/modules; mount -t tmpfs none /proc/sys/net/bridge ;;
esac
"""
Apply = Callable[..., str]


@pytest.fixture
def host(lab: Lab) -> Iterator[Host]:
    """A host with a link of its own, and nothing left behind."""
    host = lab.docker_hosts[-1]
    host.run(["ip", "link", "add", LINK, "type", "bridge"])
    before = host.run(["cat", "/proc/sys/net/ipv4/conf/all/rp_filter"]).stdout.strip()
    try:
        yield host
    finally:
        host.run(["ip", "link", "del", LINK])
        host.run(["sysctl", "-qw", f"net.ipv4.conf.all.rp_filter={before}"])


@pytest.fixture
def apply(lab: Lab, host: Host, tmp_path: Path) -> Apply:
    """Apply a role to the host, or one of its task files; returns what Ansible printed."""
    inventory = lab.write_inventory(tmp_path / "inventory.ini")

    def ask(role: str, file: str = "main.yml", check: bool = False, changes: bool = True, **variables: object) -> str:
        task = {"ansible.builtin.include_role": {"name": f"crosshost.doctor.{role}", "tasks_from": file}}
        play = [{"hosts": host.name, "gather_facts": False, "check_mode": check, "tasks": [task]}]
        (tmp_path / "play.yml").write_text(json.dumps(play))
        done = own_playbook(inventory, tmp_path / "play.yml", **variables)
        assert done.code == 0, done.output
        assert ("changed=0" not in done.output) is changes, done.output
        return done.output

    return ask


def value(host: Host, key: str) -> str:
    return host.run(["sysctl", "-n", key]).stdout.strip()


def test_roles_that_share_a_file_are_undone_in_any_order(lab: Lab, host: Host, apply: Apply) -> None:
    key, other = f"net.ipv4.conf.{LINK}.rp_filter", f"net.ipv4.conf.{LINK}.forwarding"
    host.run(["sysctl", "-qw", f"{key}=1", f"{other}=0"])
    before = lab.snapshot()
    apply("rp_filter", rp_filter_interfaces=[LINK])
    apply("ip_forwarding", ip_forwarding_interfaces=[LINK])
    assert host.path(OWN).read_text().splitlines()[1:] == [f"{key} = 2", f"{other} = 1"]
    apply("rp_filter", "rollback.yml")
    assert host.path(OWN).read_text().splitlines()[1:] == [f"{other} = 1"]
    assert (value(host, key), value(host, other)) == ("1", "1")
    apply("ip_forwarding", "rollback.yml")
    assert difference(before, lab.snapshot()) == []
    apply("ip_forwarding", "rollback.yml", changes=False)


@pytest.mark.parametrize(
    ("general", "own", "holds"), [("1", "0", "2"), ("1", "1", "2"), ("0", "1", "2"), ("2", "1", "1"), ("0", "0", "0")]
)
def test_only_what_is_strict_is_loosened(host: Host, apply: Apply, general: str, own: str, holds: str) -> None:
    key = f"net.ipv4.conf.{LINK}.rp_filter"
    host.run(["sysctl", "-qw", f"net.ipv4.conf.all.rp_filter={general}", f"{key}={own}"])
    named = {"rp_filter_interfaces": [LINK, "nowhere0"]}
    loosens = own != holds
    said = apply("rp_filter", changes=loosens, **named)
    assert ("That is the route's fault" in said) is loosens
    assert value(host, key) == holds
    assert value(host, "net.ipv4.conf.all.rp_filter") == general
    assert host.path(OWN).exists() is loosens
    apply("rp_filter", changes=False, **named)
    apply("rp_filter", "rollback.yml", changes=loosens)
    assert value(host, key) == own


def test_what_was_set_until_the_next_boot_is_made_to_last(host: Host, apply: Apply) -> None:
    key = f"net.ipv4.conf.{LINK}.rp_filter"
    host.run(["sysctl", "-qw", f"{key}=1"])
    apply("rp_filter", rp_filter_interfaces=[LINK], rp_filter_persistent=False)
    assert (value(host, key), host.path(OWN).exists()) == ("2", False)
    apply("rp_filter", rp_filter_interfaces=[LINK], rp_filter_persistent=False, changes=False)
    apply("rp_filter", rp_filter_interfaces=[LINK])
    assert host.path(OWN).read_text().splitlines()[1:] == [f"{key} = 2"]
    apply("rp_filter", "rollback.yml")
    assert (value(host, key), host.path(OWN).exists()) == ("1", False)


def test_network_manager_reads_the_file_and_reads_it_again_when_it_is_undone(
    lab: Lab, host: Host, apply: Apply
) -> None:
    log = host.path("/run/nmcli.log")
    host.write("/usr/bin/nmcli", NMCLI, 0o755)
    log.write_text("")
    before = lab.snapshot()
    try:
        apply("nm_unmanaged", check=True)
        assert difference(before, lab.snapshot()) == []
        apply("nm_unmanaged")
        apply("nm_unmanaged", changes=False)
        assert log.read_text().splitlines() == ["crosshost-doctor-unmanaged.conf "]
        apply("nm_unmanaged", "rollback.yml")
        assert log.read_text().splitlines() == ["crosshost-doctor-unmanaged.conf ", ""]
        log.write_text("")
        assert difference(before, lab.snapshot()) == []
    finally:
        host.path("/usr/bin/nmcli").unlink()
        log.unlink()


def test_a_module_is_loaded_now_and_at_boot(
    lab: Lab, host: Host, apply: Apply, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sysctls are hidden until the stand-in for modprobe is called; what no lab has is in /run."""
    folder = tmp_path / "collections/ansible_collections/community/general/plugins/modules"
    folder.mkdir(parents=True)
    text = Path(modprobe.__file__).read_text().replace("/proc/modules", "/run/modules")
    (folder / "modprobe.py").write_text(text.replace("/lib/modules/", "/run/lib-modules/"))
    monkeypatch.setenv("ANSIBLE_COLLECTIONS_PATH", str(tmp_path / "collections"))
    shutil.copy(Path(modprobe.__file__).parents[2] / "MANIFEST.json", folder.parents[1])
    host.write("/usr/sbin/modprobe", MODPROBE, 0o755)
    for name in ("/run/modules", "/run/modprobe.log"):
        host.path(name).write_text("")
    host.path(f"/run/lib-modules/{platform.release()}").mkdir(parents=True)
    host.path(f"/run/lib-modules/{platform.release()}/modules.builtin").write_text("kernel/net/ipv4/other.ko\n")
    host.run(["mount", "-t", "tmpfs", "none", "/proc/sys/net/bridge"])
    before = lab.snapshot()
    try:
        apply("br_netfilter", check=True)
        assert host.path("/run/modprobe.log").read_text() == "-n br_netfilter\n" * 2
        host.path("/run/modprobe.log").write_text("")
        assert difference(before, lab.snapshot()) == []
        apply("br_netfilter")
        assert host.path("/run/modprobe.log").read_text() == "-n br_netfilter\nbr_netfilter\n"
        assert host.path("/etc/modules-load.d/br_netfilter.conf").read_text() == "br_netfilter\n"
        assert value(host, "net.bridge.bridge-nf-call-ip6tables") == "1"
        apply("br_netfilter", changes=False)
        apply("br_netfilter", "rollback.yml")
        assert host.path("/run/modprobe.log").read_text().splitlines()[2:] == ["-r br_netfilter"]
        host.path("/run/modprobe.log").write_text("")
        assert difference(before, lab.snapshot()) == []
    finally:
        host.run(["umount", "/proc/sys/net/bridge"], check=False)
        for name in ("/usr/sbin/modprobe", "/run/modules", "/run/modprobe.log"):
            host.path(name).unlink()
        shutil.rmtree(host.path("/run/lib-modules"))

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way most operators come: as an ordinary user who becomes root by sudo, with modules sent as files.

And from an inventory whose names are not those that the hosts have for themselves.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.fleet import Host
from tests.lab.snapshot import difference
from tests.playbook import command as playbook
from tests.playbook import diagnose, play, remediate, roll_back
from tests.system.test_remediate import at_rest

USER = "operator"
ACCOUNT = {"/etc/passwd": f"{USER}:x:4711:100::/home/{USER}:/bin/sh\n", "/etc/shadow": f"{USER}:*:19000:0:99999:7:::\n"}
NAMES = {"node1": "manager.example.com", "node2": "192.0.2.12", "node3": "2001:db8::3"}
SUDOERS = f"/etc/sudoers.d/{USER}"
KEYS = "/etc/ssh/lab_authorized_keys"


@pytest.fixture
def inventory(lab: Lab, tmp_path: Path) -> Iterator[Path]:
    before = {host.name: {path: host.path(path).read_text() for path in ACCOUNT} for host in lab.docker_hosts}
    for host in lab.docker_hosts:
        for path, line in ACCOUNT.items():
            rewrite(host, path, before[host.name][path] + line)
        host.run(["install", "-d", "-o", USER, f"/home/{USER}"])
        host.write(SUDOERS, f"{USER} ALL=(ALL) NOPASSWD: ALL\n", 0o440)
        host.path(KEYS).chmod(0o644)
    path = tmp_path / "inventory.ini"
    text = lab.inventory()
    words = {"ansible_user=root": f"ansible_user={USER}", "pipelining=true": "pipelining=false"}
    for old, new in (words | {f"\n{name} ": f"\n{other} " for name, other in NAMES.items()}).items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    yield path
    for host in lab.docker_hosts:
        for name, content in before[host.name].items():
            rewrite(host, name, content)
        host.path(KEYS).chmod(0o600)
        host.run(["rm", "-r", SUDOERS, f"/home/{USER}"])


def rewrite(host: Host, path: str, text: str) -> None:
    host.write(path, text, stat.S_IMODE(host.path(path).stat().st_mode))


def test_everything_works_for_an_ordinary_user_who_may_become_root(lab: Lab, inventory: Path, tmp_path: Path) -> None:
    first = diagnose(inventory, tmp_path / "healthy")
    assert first.report["verdict"] == "healthy", first.output
    assert first.report["hosts"].keys() == {NAMES[host.name] for host in lab.docker_hosts}
    before = lab.snapshot()  # with what Ansible made in the user's home
    with lab.broken("data-udp-blocked-host-fw:nft-no-counter"):
        broken = lab.snapshot()
        done = remediate(inventory, tmp_path / "run", doctor_apply=True, doctor_trace=True, doctor_evidence=True)
        assert done.code == 0, done.output
        assert "Traceback" not in done.output, done.output
        assert list(done.outcomes.values()) == ["helped"], done.output
        assert f"{NAMES['node2']}: firewall_ports cures data-udp-blocked-host-fw" in done.output
        assert not lab.survey().broken
        undone = roll_back(inventory, done)
        assert list(undone.outcomes.values()) == ["taken back"], undone.output
        assert difference(broken, lab.snapshot()) == []
    at_rest(lab, before)


def test_a_capture_is_brought_back_to_an_ordinary_user_who_may_become_root(
    lab: Lab, inventory: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "capture"
    done = play(playbook(inventory, folder, "capture", doctor_target="app-node2", doctor_seconds=2), folder)
    assert done.code == 0, done.output
    (found,) = folder.rglob("*.pcapng")
    assert stat.S_IMODE(found.stat().st_mode) == 0o600
    assert found.read_bytes()[:4] == b"\x0a\x0d\x0d\x0a"

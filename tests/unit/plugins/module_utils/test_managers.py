# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _managers as managers

NETWORK = "[Network]\nManageForeignRoutes={}\n"
DEFAULT = {"manage_foreign_routes": True, "manage_foreign_rules": True, "foreign_log": None}


def put(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host where nothing is installed and nothing runs."""
    (tmp_path / "proc").mkdir()
    return tmp_path


def start(root: Path, pid: int, name: str, *words: str, namespace: str = "net:[1]") -> None:
    """A process of the made host."""
    put(root, {f"proc/{pid}/comm": f"{name[:15]}\n", f"proc/{pid}/cmdline": "\0".join(words) + "\0"})
    for one, target in (("self", "net:[1]"), (str(pid), namespace)):
        (root / f"proc/{one}/ns").mkdir(parents=True, exist_ok=True)
        (root / target).touch()
        link = root / f"proc/{one}/ns/net"
        if not link.is_symlink():
            link.symlink_to(root / target)


def read(root: Path) -> dict[str, Any]:
    return {row["name"]: (row["running"], row["config"]) for row in managers.read_managers(str(root))}


def test_a_host_without_any_has_none(root: Path) -> None:
    assert read(root) == {}


def test_networkd_manages_what_is_foreign_unless_it_is_told_not_to(root: Path) -> None:
    put(root, {"usr/lib/systemd/systemd-networkd": ""})
    assert read(root) == {"systemd-networkd": (False, DEFAULT)}
    put(root, {"etc/systemd/networkd.conf": "[Network]\n#ManageForeignRoutes=no\n[DHCPv4]\nManageForeignRoutes=no\n"})
    assert read(root)["systemd-networkd"][1] == DEFAULT
    text = "[Network]\nManageForeignRoutes = off\nManageForeignRoutingPolicyRules=no\n"
    put(root, {"etc/systemd/networkd.conf": text})
    expected = {"manage_foreign_routes": False, "manage_foreign_rules": False, "foreign_log": None}
    assert read(root)["systemd-networkd"][1] == expected


def test_drop_ins_of_networkd_win_by_name_and_hide_by_folder(root: Path) -> None:
    put(
        root,
        {
            "usr/lib/systemd/systemd-networkd": "",
            "usr/lib/systemd/networkd.conf": NETWORK.format("no"),
            "usr/lib/systemd/networkd.conf.d/50-x.conf": NETWORK.format("yes"),
            "run/systemd/networkd.conf.d/10-y.conf": NETWORK.format("no"),
            "etc/systemd/networkd.conf.d/README": NETWORK.format("no"),
        },
    )

    def foreign() -> bool:
        found: bool = read(root)["systemd-networkd"][1]["manage_foreign_routes"]
        return found

    assert foreign() is True
    put(root, {"etc/systemd/networkd.conf.d/50-x.conf": ""})
    assert foreign() is False
    put(root, {"etc/systemd/networkd.conf.d/60-z.conf": NETWORK.format("perhaps")})
    assert foreign() is False
    put(root, {"etc/systemd/networkd.conf.d/60-z.conf": NETWORK.format("")})
    assert foreign() is True


def test_what_runs_is_told_by_its_process_in_this_namespace(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managers, "find", lambda name: None)
    start(root, 10, "systemd-networkd", "/usr/lib/systemd/systemd-networkd")
    start(root, 12, "firewalld", "/usr/bin/python3", "/usr/sbin/firewalld", "--nofork", namespace="net:[2]")
    start(root, 13, "NetworkManager", "/usr/sbin/NetworkManager", "--no-daemon")
    start(root, 14, "firewalld")
    assert managers.running_programs(str(root / "proc")) == {"systemd-networkd", "NetworkManager"}
    assert {name: running for name, (running, _config) in read(root).items()} == {
        "systemd-networkd": True,
        "NetworkManager": True,
    }
    start(root, 15, "firewalld", "/usr/bin/python3", "-s", "/usr/sbin/firewalld", "--nofork")
    assert read(root)["firewalld"] == (True, {"backend": "nftables", "reloaded": None})


def test_a_name_that_is_cut_off_may_be_that_of_another_program(root: Path) -> None:
    start(root, 11, "systemd-networkd-wait-online", "/usr/lib/systemd/systemd-networkd-wait-online")
    assert managers.running_programs(str(root / "proc")) == set()


def test_a_running_networkd_is_asked_for_what_it_removed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(root, 10, "systemd-networkd", "/usr/lib/systemd/systemd-networkd")
    lines = b"eth0: Link UP\neth0: Removing foreign route: dst: 10.0.0.0/8\nRemoving foreign routing policy rule: x\n"
    answers = {"journalctl": (lines, False, None)}
    monkeypatch.setattr(managers, "find", lambda name: name)
    monkeypatch.setattr(managers, "run_bounded", lambda command, seconds, limit: answers[command[0]])
    assert read(root)["systemd-networkd"][1]["foreign_log"] == 2
    answers["journalctl"] = (b"", False, "journalctl: no end within 2 s")
    assert read(root)["systemd-networkd"][1]["foreign_log"] is None


def test_devices_that_networkmanager_leaves_alone() -> None:
    key = "[keyfile]\nunmanaged-devices"
    main = f"{key}=interface-name:docker*;interface-name:veth*\n"
    assert managers.unmanaged([main]) == ["interface-name:docker*", "interface-name:veth*"]
    more = managers.unmanaged([main, f"{key}+=type:vxlan,mac:00:11:22:33:44:55\n"])
    assert more[2:] == ["type:vxlan", "mac:00:11:22:33:44:55"]
    assert managers.unmanaged([main, f"{key}-=interface-name:veth*"]) == ["interface-name:docker*"]
    assert managers.unmanaged([main, f"{key}=none"]) == ["none"]
    device = "[device-cni]\nmatch-device=interface-name:cali*;interface-name:flannel*\nmanaged=0\n"
    assert managers.unmanaged([device]) == ["interface-name:cali*", "interface-name:flannel*"]
    assert managers.unmanaged([device, "[device-cni]\nmanaged=1\n"]) == []
    assert managers.unmanaged(["[device]\nmanaged=false\n"]) == ["*"]


def test_the_files_of_networkmanager(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyfile = "[keyfile]\nunmanaged-devices={}\n"
    put(
        root,
        {
            "etc/NetworkManager/NetworkManager.conf": keyfile.format("a"),
            "usr/lib/NetworkManager/conf.d/10-x.conf": keyfile.format("b"),
        },
    )
    assert read(root) == {"NetworkManager": (False, {"unmanaged": ["b"], "devices": {}})}
    put(root, {"etc/NetworkManager/conf.d/10-x.conf": ""})
    assert read(root)["NetworkManager"][1]["unmanaged"] == ["a"]
    start(root, 10, "NetworkManager", "/usr/sbin/NetworkManager")
    answer = b"eth0:connected\nveth1:unmanaged\nodd\\:name:connected (externally)\nbroken\n"
    monkeypatch.setattr(managers, "find", lambda name: name)
    monkeypatch.setattr(managers, "run_bounded", lambda command, seconds, limit: (answer, False, None))
    expected = {"eth0": "connected", "veth1": "unmanaged", "odd:name": "connected (externally)"}
    assert read(root)["NetworkManager"] == (True, {"unmanaged": ["a"], "devices": expected})
    monkeypatch.setattr(managers, "run_bounded", lambda command, seconds, limit: (answer, False, "exit status 8"))
    assert read(root)["NetworkManager"][1]["devices"] == {}


def test_firewalld_ufw_and_cloud_init(root: Path) -> None:
    put(
        root,
        {
            "etc/firewalld/firewalld.conf": "# comment\nDefaultZone=public\nFirewallBackend=iptables\n",
            "etc/ufw/ufw.conf": "# comment\nENABLED=yes\nLOGLEVEL=low\n",
            "etc/cloud/cloud.cfg.d/99-x.cfg": "network: {config: disabled}\n",
        },
    )
    assert read(root) == {
        "firewalld": (False, {"backend": "iptables", "reloaded": None}),
        "ufw": (True, {}),
        "cloud-init": (True, {"network": False}),
    }
    put(root, {"etc/ufw/ufw.conf": "ENABLED=no\n", "etc/cloud/cloud-init.disabled": ""})
    put(root, {"etc/cloud/cloud.cfg.d/99-x.cfg": "network:\n  config: {version: 2}\n"})
    found = read(root)
    assert (found["ufw"], found["cloud-init"]) == ((False, {}), (False, {"network": True}))
    put(root, {"etc/cloud/cloud.cfg": "users: []\nnetwork:\n  config: disabled\n"})
    assert read(root)["cloud-init"][1] == {"network": False}


@given(st.text())
def test_any_text_is_a_configuration(text: str) -> None:
    list(managers.assignments(text))
    managers.unmanaged([text, f"[keyfile]\n{text}", f"[device]\nmanaged={text}"])
    managers.parse_devices(text)
    assert managers.boolean(text, True) in (True, False)


def test_this_machine_can_be_read() -> None:
    for row in managers.read_managers():
        assert list(row) == ["name", "running", "config"]

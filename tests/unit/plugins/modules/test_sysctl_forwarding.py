# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible.module_utils.testing import patch_module_args
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.action import sysctl_forwarding as action
from ansible_collections.crosshost.doctor.plugins.module_utils import _sysctl_files as files
from ansible_collections.crosshost.doctor.plugins.module_utils import _sysctl_kernel as kernel
from ansible_collections.crosshost.doctor.plugins.module_utils import _sysctl_own_file as own_file
from ansible_collections.crosshost.doctor.plugins.module_utils import _sysctl_plan as planning
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import JournalError
from ansible_collections.crosshost.doctor.plugins.modules import sysctl_forwarding
from tests.unit.plugins.module_utils.namespace import namespace, needs_root, run

OWN = own_file.DEFAULT_PATH
INTERFACES = ("all", "default", "lo", "eth0", "eth0.5")
Call = Callable[..., dict[str, Any]]


class Host:
    """A made host: files, and a kernel without the kernel's own reactions."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for directory in ("etc/sysctl.d", "run/systemd/system", "run/sysctl.d", "usr/lib/sysctl.d"):
            (root / directory).mkdir(parents=True)
        self.set("net/ipv4/ip_forward", "0")
        self.set("net/core/somaxconn", "4096")
        for name in INTERFACES:
            for key in kernel.INTERFACE_4:
                self.set(f"net/ipv4/conf/{name}/{key}", "0")
            for key in kernel.INTERFACE_6:
                self.set(f"net/ipv6/conf/{name}/{key}", "0")
        self.set("net/ipv4/conf/all/accept_redirects", "1")

    def set(self, path: str, value: str) -> None:
        file = self.root / "proc/sys" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")

    def get(self, path: str) -> str:
        return (self.root / "proc/sys" / path).read_text().strip()

    def write(self, path: str, text: str) -> None:
        file = self.root / path[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def state(self) -> dict[str, tuple[str, int]]:
        """Every file, with its mode."""
        return {
            str(path.relative_to(self.root)): (path.read_text(), path.stat().st_mode)
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
        }

    @property
    def own(self) -> Path:
        return self.root / OWN[1:]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(sysctl_forwarding, "ROOT", str(tmp_path / "root"))
    return Host(tmp_path / "root")


@pytest.fixture
def call(host: Host, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    said: list[str] = []
    monkeypatch.setattr(sysctl_forwarding.AnsibleModule, "warn", lambda _self, warning: said.append(warning))

    def ask(check: bool = False, **arguments: Any) -> dict[str, Any]:
        """What the module prints, and what it warns of."""
        said.clear()
        given = {**arguments, "_ansible_check_mode": check, "_ansible_diff": True}
        with patch_module_args(given), pytest.raises(SystemExit):
            sysctl_forwarding.main()
        printed: dict[str, Any] = json.loads(capsys.readouterr().out)
        return {**printed, "warnings": list(said)}

    return ask


def facts(result: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = result["ansible_facts"]["crosshost"]["sysctl_forwarding"]
    return found


def warned(result: dict[str, Any]) -> str:
    return "\n".join(result["warnings"])


class TestReading:
    def test_runtime_persisted_and_the_file_that_wins(self, host: Host, call: Call) -> None:
        host.write("/usr/lib/sysctl.d/50-a.conf", "net.ipv4.ip_forward = 1\nnet.ipv4.conf.*.rp_filter = 1\n")
        host.write("/etc/sysctl.d/90-hardening.conf", "# CIS\nnet.ipv4.ip_forward = 0\n")
        host.set("net/ipv4/ip_forward", "1")
        before = host.state()
        result = call()
        assert (result["changed"], "settings" in result, "diff" in result) == (False, False, False)
        found = facts(result)
        assert found["sysctls"]["net.ipv4.ip_forward"] == {
            "runtime": 1,
            "persisted": 0,
            "file": "/etc/sysctl.d/90-hardening.conf",
            "line": 2,
            "setting": "net.ipv4.ip_forward",
            "tools": ["systemd-sysctl", "sysctl --system"],
            "drift": True,
            "others": [
                {"file": "/usr/lib/sysctl.d/50-a.conf", "line": 1, "setting": "net.ipv4.ip_forward", "value": "1"}
            ],
        }
        assert found["sysctls"]["net.ipv4.conf.eth0/5.rp_filter"]["setting"] == "net.ipv4.conf.*.rp_filter"
        assert "net.ipv4.ip_forward" in found["drift"]
        assert host.state() == before

    def test_an_interface_without_a_setting_is_no_sysctl_row(self, host: Host, call: Call) -> None:
        found = facts(call())
        assert [row["name"] for row in found["interfaces"]] == ["eth0", "eth0.5", "lo"]
        assert not any(".eth0." in key for key in found["sysctls"])
        assert found["sysctls"]["net.ipv4.conf.default.rp_filter"]["persisted"] is None
        assert found["drift"] == []

    def test_forwarding_of_an_interface_is_persisted_by_what_rewrites_it(self, host: Host, call: Call) -> None:
        host.write("/etc/sysctl.d/50-a.conf", "net.ipv4.ip_forward = 1\n")
        host.set("net/ipv4/ip_forward", "1")
        row = facts(call())["sysctls"]["net.ipv4.conf.eth0.forwarding"]
        assert (row["runtime"], row["persisted"], row["setting"], row["drift"]) == (0, 1, "net.ipv4.ip_forward", True)

    @pytest.mark.parametrize(
        ("key", "general", "own", "holds"),
        [
            ("rp_filter", "0", "1", 1),
            ("rp_filter", "1", "0", 1),
            ("rp_filter", "2", "1", 2),
            ("rp_filter", "1", "2", 2),
            ("arp_ignore", "1", "2", 2),
            ("forwarding", "1", "0", 0),
            ("send_redirects", "1", "0", 1),
            ("accept_source_route", "1", "0", 0),
            ("accept_source_route", "1", "1", 1),
        ],
    )
    def test_what_holds_for_an_interface(
        self, host: Host, call: Call, key: str, general: str, own: str, holds: int
    ) -> None:
        host.set(f"net/ipv4/conf/all/{key}", general)
        host.set(f"net/ipv4/conf/eth0/{key}", own)
        assert facts(call())["interfaces"][0]["effective"]["ipv4"][key] == holds

    @pytest.mark.parametrize(("forwarding", "holds"), [("0", 1), ("1", 0)])
    def test_a_router_accepts_redirects_only_when_both_are_set(
        self, host: Host, call: Call, forwarding: str, holds: int
    ) -> None:
        host.set("net/ipv4/conf/eth0/forwarding", forwarding)
        assert facts(call())["interfaces"][0]["effective"]["ipv4"]["accept_redirects"] == holds

    @pytest.mark.parametrize(
        ("general", "own", "forced", "holds"), [("0", "1", "0", 0), ("1", "0", "0", 1), ("0", "0", "1", 1)]
    )
    def test_ipv6_forwards_when_all_does(
        self, host: Host, call: Call, general: str, own: str, forced: str, holds: int
    ) -> None:
        host.set("net/ipv6/conf/all/forwarding", general)
        host.set("net/ipv6/conf/eth0/forwarding", own)
        host.set("net/ipv6/conf/eth0/force_forwarding", forced)
        assert facts(call())["interfaces"][0]["effective"]["ipv6"]["forwarding"] == holds

    def test_what_the_kernel_does_not_have_is_pending(self, host: Host, call: Call) -> None:
        host.write("/etc/sysctl.d/50-a.conf", "net.bridge.bridge-nf-call-iptables = 1\nvm.swappiness = 1\n")
        found = facts(call())
        assert list(found["pending"]) == ["net.bridge.bridge-nf-call-iptables"]
        assert found["pending"]["net.bridge.bridge-nf-call-iptables"]["runtime"] is None

    def test_every_returned_key_is_documented(self, host: Host, call: Call) -> None:
        host.write("/etc/sysctl.d/50-a.conf", "net.ipv4.ip_forward = 1\n")
        result = call(settings={"net.ipv4.ip_forward": 1})
        documented = yaml.safe_load(sysctl_forwarding.RETURN)
        assert set(documented) == set(result) - {"changed", "invocation", "diff", "warnings"}
        contains = documented["ansible_facts"]["contains"]["crosshost"]["contains"]["sysctl_forwarding"]["contains"]
        assert set(contains) == set(facts(result))
        sample = contains["sysctls"]["sample"]["net.ipv4.ip_forward"]
        assert set(sample) == set(facts(result)["sysctls"]["net.ipv4.ip_forward"])
        assert set(documented["settings"]["sample"][0]) == set(result["settings"][0])

    def test_every_option_is_documented(self) -> None:
        options = yaml.safe_load(sysctl_forwarding.DOCUMENTATION)["options"]
        assert set(options) == set(sysctl_forwarding.ARGUMENTS)
        for name, option in options.items():
            assert option.get("default") == sysctl_forwarding.ARGUMENTS[name].get("default"), name


class TestSetting:
    def test_check_mode_foretells_and_changes_nothing(self, host: Host, call: Call) -> None:
        wanted = {"net.ipv4.conf.eth0.forwarding": 1, "net/ipv4/conf/eth0.5/rp_filter": "2"}
        before = host.state()
        foretold = call(check=True, settings=wanted)
        assert host.state() == before
        done = call(settings=wanted)
        assert foretold["changed"] is done["changed"] is True
        for key in ("settings", "rewritten", "pending", "overrides", "diff", "path"):
            assert foretold[key] == done[key], key
        assert host.get("net/ipv4/conf/eth0/forwarding") == "1"
        assert host.get("net/ipv4/conf/eth0.5/rp_filter") == "2"
        assert host.own.read_text() == (
            own_file.HEADER + "net.ipv4.conf.eth0.forwarding = 1\nnet.ipv4.conf.eth0/5.rp_filter = 2\n"
        )
        assert stat.S_IMODE(host.own.stat().st_mode) == 0o644
        changed = {path for path, value in host.state().items() if before.get(path) != value}
        assert changed == {
            OWN[1:],
            "proc/sys/net/ipv4/conf/eth0/forwarding",
            "proc/sys/net/ipv4/conf/eth0.5/rp_filter",
        }
        assert done["settings"][0] == {
            "name": "net.ipv4.conf.eth0.forwarding",
            "value": 1,
            "runtime_before": 0,
            "runtime": 1,
            "persisted_before": None,
            "file_before": None,
            "persisted": 1,
            "file": OWN,
        }

    def test_a_second_time_there_is_nothing_to_do(self, host: Host, call: Call) -> None:
        wanted = {"net.ipv4.conf.eth0.forwarding": 1}
        call(settings=wanted)
        before, times = host.state(), host.own.stat().st_mtime_ns
        again = call(settings=wanted)
        assert again["changed"] is False
        assert all(part["before"] == part["after"] for part in again["diff"])
        assert (host.state(), host.own.stat().st_mtime_ns) == (before, times)

    def test_other_lines_of_the_file_stay(self, host: Host, call: Call) -> None:
        text = "; mine\nnet.core.somaxconn=1\n\nnet.ipv4.ip_forward=0\n-net.ipv4.ip_forward = 1\nnet.core.x = 1"
        host.write(OWN, text)
        host.set("net/ipv4/ip_forward", "1")
        call(settings={"net.ipv4.ip_forward": 1})
        assert host.own.read_text() == "; mine\nnet.core.somaxconn=1\n\nnet.ipv4.ip_forward = 1\nnet.core.x = 1\n"

    def test_what_rewrites_comes_before_what_it_rewrites(self, host: Host, call: Call) -> None:
        call(settings={"net.ipv4.conf.eth0.forwarding": 0, "net.ipv4.conf.default.rp_filter": 2})
        call(check=False, settings={"net.ipv4.ip_forward": 0})
        assert host.own.read_text().splitlines()[1:] == [
            "net.ipv4.ip_forward = 0",
            "net.ipv4.conf.default.rp_filter = 2",
            "net.ipv4.conf.eth0.forwarding = 0",
        ]

    def test_a_wrong_mode_is_mended(self, host: Host, call: Call) -> None:
        call(settings={"net.ipv4.ip_forward": 0})
        host.own.chmod(0o600)
        assert call(settings={"net.ipv4.ip_forward": 0})["changed"] is True
        assert stat.S_IMODE(host.own.stat().st_mode) == 0o644

    def test_no_unfinished_file_stays_behind_when_the_move_fails(
        self, host: Host, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_arguments: Any, **_more: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(sysctl_forwarding.AnsibleModule, "atomic_move", refuse)
        result = call(settings={"net.ipv4.conf.eth0.forwarding": 1})
        assert result["failed"]
        assert "No space left" in result["msg"] and "net.ipv4.conf.eth0.forwarding = 1" in result["msg"]
        assert os.listdir(host.own.parent) == []

    def test_a_value_the_kernel_does_not_keep_is_an_error(
        self, host: Host, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(kernel.Runtime, "write", lambda *_arguments: None)
        result = call(settings={"net.ipv4.conf.eth0.forwarding": 1})
        assert result["failed"]
        assert "did not keep net.ipv4.conf.eth0.forwarding = 1: it reads 0" in result["msg"]

    def test_a_value_the_kernel_refuses_reaches_no_file(
        self, host: Host, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_arguments: Any) -> None:
            raise OSError(22, "Invalid argument")

        monkeypatch.setattr(kernel.Runtime, "write", refuse)
        result = call(settings={"net.ipv4.conf.eth0.rp_filter": 9})
        assert result["failed"]
        assert "did not take net.ipv4.conf.eth0.rp_filter = 9: Invalid argument" in result["msg"]
        assert not host.own.exists()


class TestForwarding:
    def test_ip_forward_that_is_set_already_is_not_written(
        self, host: Host, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written: list[str] = []
        monkeypatch.setattr(kernel.Runtime, "write", lambda _self, path, _value: written.append(path))
        host.set("net/ipv4/ip_forward", "1")
        host.set("net/ipv4/conf/all/forwarding", "1")
        result = call(settings={"net.ipv4.ip_forward": 1})
        assert written == []
        assert result["rewritten"] == []
        assert "net.ipv4.conf.eth0.forwarding" in warned(result) and "stay 0 unless named" in warned(result)

    def test_what_ip_forward_rewrites_is_in_the_diff_and_in_a_warning(self, host: Host, call: Call) -> None:
        result = call(check=True, settings={"net.ipv4.ip_forward": 1})
        names = [row["name"] for row in result["rewritten"]]
        assert names == [
            "net.ipv4.conf.all.accept_redirects",
            "net.ipv4.conf.all.forwarding",
            "net.ipv4.conf.default.forwarding",
            "net.ipv4.conf.eth0.forwarding",
            "net.ipv4.conf.eth0/5.forwarding",
            "net.ipv4.conf.lo.forwarding",
        ]
        for name in names:
            assert name in result["diff"][0]["after"] and name in warned(result)
        assert "net.ipv4.conf.all.accept_redirects = 0" in result["diff"][0]["after"]

    def test_one_interface_is_enough_for_one_interface(self, host: Host, call: Call) -> None:
        result = call(check=True, settings={"net.ipv4.conf.eth0.forwarding": 1})
        assert (result["rewritten"], result["warnings"]) == ([], [])
        assert result["diff"][0]["after"] == "net.ipv4.conf.eth0.forwarding = 1\n"

    def test_a_named_interface_is_set_again_after_ip_forward_rewrote_it(self, host: Host) -> None:
        wanted = {"net.ipv4.conf.eth0.forwarding": 0, "net.ipv4.ip_forward": 1}
        plan = planning.make(wanted, True, OWN, False, str(host.root))
        assert plan.writes == [("net/ipv4/ip_forward", "1"), ("net/ipv4/conf/eth0/forwarding", "0")]
        assert "net/ipv4/conf/eth0/forwarding" not in plan.rewritten

    def test_the_two_names_of_one_variable_cannot_differ(self, host: Host, call: Call) -> None:
        result = call(settings={"net.ipv4.ip_forward": 1, "net.ipv4.conf.all.forwarding": 0})
        assert result["failed"] and "cannot be had together" in result["msg"]
        assert not host.own.exists()

    def test_ipv6_forwarding_warns_of_router_advertisements(self, host: Host, call: Call) -> None:
        result = call(check=True, settings={"net.ipv6.conf.all.forwarding": 1})
        assert "accept_ra = 2" in warned(result)
        assert "net.ipv6.conf.eth0.forwarding" in [row["name"] for row in result["rewritten"]]


class TestOverrides:
    def test_a_file_that_sorts_later_is_named(self, host: Host, call: Call) -> None:
        host.write("/etc/sysctl.d/zzz.conf", "\nnet.ipv4.conf.eth0.rp_filter = 1\n")
        result = call(settings={"net.ipv4.conf.eth0.rp_filter": 2})
        assert result["overrides"] == [
            {
                "name": "net.ipv4.conf.eth0.rp_filter",
                "value": 1,
                "file": "/etc/sysctl.d/zzz.conf",
                "line": 2,
                "setting": "net.ipv4.conf.eth0.rp_filter",
                "tools": ["systemd-sysctl", "sysctl --system"],
            }
        ]
        assert "/etc/sysctl.d/zzz.conf line 2" in warned(result)
        assert (result["settings"][0]["persisted"], result["settings"][0]["runtime"]) == (1, 2)
        assert call(settings={"net.ipv4.conf.eth0.rp_filter": 2})["changed"] is False

    def test_sysctl_conf_defeats_it_only_for_procps(self, host: Host, call: Call) -> None:
        host.write("/etc/sysctl.conf", "net.ipv4.ip_forward=1\n")
        (host.own.parent / "99-sysctl.conf").symlink_to("../sysctl.conf")
        result = call(settings={"net.ipv4.ip_forward": 0})
        assert [(row["file"], row["tools"]) for row in result["overrides"]] == [
            ("/etc/sysctl.conf", ["sysctl --system"])
        ]
        assert result["settings"][0]["file"] == OWN

    def test_a_wildcard_that_sorts_later_does_not(self, host: Host, call: Call) -> None:
        host.write("/etc/sysctl.d/zzz.conf", "net.ipv4.conf.*.rp_filter = 1\n")
        assert call(settings={"net.ipv4.conf.eth0.rp_filter": 2})["overrides"] == []

    def test_an_earlier_same_value_before_ip_forward_is_found_out(self, host: Host, call: Call) -> None:
        host.write("/etc/sysctl.d/10-a.conf", "net.ipv4.conf.eth0.forwarding = 0\n")
        host.write("/etc/sysctl.d/50-b.conf", "net.ipv4.ip_forward = 1\n")
        result = call(settings={"net.ipv4.conf.eth0.forwarding": 0})
        assert [(row["setting"], row["tools"]) for row in result["overrides"]] == [
            ("net.ipv4.ip_forward", ["systemd-sysctl"])
        ]


class TestLater:
    @pytest.mark.parametrize(
        "name",
        ["net.ipv4.conf.eth9.forwarding", "net.bridge.bridge-nf-call-iptables", "net.ipv6.conf.eth9/5.forwarding"],
    )
    def test_what_is_not_there_yet_is_persisted_only(self, host: Host, call: Call, name: str) -> None:
        result = call(settings={name: 1})
        assert result["pending"] == [name]
        assert result["settings"][0]["runtime"] is None
        assert f"{name} = 1\n" in host.own.read_text()
        assert "Not at runtime yet" in warned(result)
        assert call(settings={name: 1})["changed"] is False

    @pytest.mark.parametrize(
        "name",
        ["net.ipv4.conf.eth9.forwadring", "net.ipv4.conf.eth0.forwadring", "net.ipv4.ip_forwrad", "net.ipv4.no.way"],
    )
    def test_what_this_kernel_never_has_is_an_error(self, host: Host, call: Call, name: str) -> None:
        before = host.state()
        result = call(settings={name: 1})
        assert result["failed"] and f"This kernel has no {name}" in result["msg"]
        assert host.state() == before


class TestAbsent:
    def test_the_named_keys_leave_the_file_and_the_kernel_stays(self, host: Host, call: Call) -> None:
        call(settings={"net.ipv4.conf.eth0.forwarding": 1, "net.core.somaxconn": 9})
        result = call(settings={"net.ipv4.conf.eth0.forwarding": None}, state="absent")
        assert (result["changed"], result["settings"][0]["runtime"]) == (True, 1)
        assert host.own.read_text() == own_file.HEADER + "net.core.somaxconn = 9\n"
        assert host.get("net/ipv4/conf/eth0/forwarding") == "1"
        assert call(settings={"net.ipv4.conf.eth0.forwarding": None}, state="absent")["changed"] is False

    def test_the_last_key_takes_the_file_along(self, host: Host, call: Call) -> None:
        call(settings={"net.core.somaxconn": 9})
        assert call(check=True, settings={"net.core.somaxconn": None}, state="absent")["changed"] is True
        assert host.own.exists()
        call(settings={"net.core.somaxconn": None}, state="absent")
        assert not host.own.exists()
        assert call(settings={"net.core.somaxconn": None}, state="absent")["changed"] is False

    def test_reload_takes_what_the_other_files_say(self, host: Host, call: Call) -> None:
        host.write("/etc/sysctl.d/50-a.conf", "net.core.somaxconn = 7\n")
        call(settings={"net.core.somaxconn": 9, "net.ipv4.conf.eth0.rp_filter": 2})
        gone = {"net.core.somaxconn": None, "net.ipv4.conf.eth0.rp_filter": None}
        call(settings=gone, state="absent", reload=True)
        assert (host.get("net/core/somaxconn"), host.get("net/ipv4/conf/eth0/rp_filter")) == ("7", "2")
        assert call(settings=gone, state="absent", reload=True)["changed"] is False


class TestRefusals:
    @pytest.mark.parametrize(
        "name",
        [
            "kernel.core_pattern",
            "vm.swappiness",
            "net",
            "net.ipv4",
            "net/../kernel/core_pattern",
            "net.ipv4.conf.*.forwarding",
            "net.ipv4.conf.eth0;id.forwarding",
            "net.ipv4.conf.$(id).forwarding",
            "net.ipv4.conf.eth0.forwarding\nkernel.core_pattern",
            "net.ipv4.conf.eth0.forwarding = 1 #",
            "-net.ipv4.ip_forward",
            "",
        ],
    )
    def test_names(self, host: Host, call: Call, name: str) -> None:
        before = host.state()
        result = call(settings={name: 1})
        assert result["failed"] and "is not a sysctl this module sets" in result["msg"]
        assert host.state() == before

    def test_a_dot_in_an_interface_name_is_explained(self, host: Host, call: Call) -> None:
        result = call(settings={"net.ipv4.conf.eth0.5.forwarding": 1})
        assert result["failed"] and "eth0/100" in result["msg"]

    @pytest.mark.parametrize("value", [True, None, "", "1;id", "$(id)", "1\n2 = 3", "a" * 300, [1], "#1", "1 # on"])
    def test_values(self, host: Host, call: Call, value: Any) -> None:
        if value == "1\n2 = 3":
            value = "1\nkernel.x=3"
        result = call(settings={"net.core.somaxconn": value})
        assert result["failed"] and "net.core.somaxconn" in result["msg"]
        assert not host.own.exists()

    @pytest.mark.parametrize(
        "path",
        [
            *(
                "/etc/passwd",
                "/etc/sysctl.conf",
                "/etc/sysctl.d/x",
                "/etc/sysctl.d/../x.conf",
                "/etc/sysctl.d/a/b.conf",
            ),
            *("/etc/sysctl.d/.x.conf", "etc/sysctl.d/x.conf", "/usr/lib/sysctl.d/x.conf"),
        ],
    )
    def test_paths(self, host: Host, call: Call, path: str) -> None:
        result = call(settings={"net.core.somaxconn": 1}, path=path)
        assert result["failed"] and path in result["msg"]

    @pytest.mark.parametrize(
        ("path", "other", "words"),
        [
            ("/etc/sysctl.d/50-default.conf", "/usr/lib/sysctl.d/50-default.conf", "would hide /usr/lib"),
            ("/run/sysctl.d/50-a.conf", "/etc/sysctl.d/50-a.conf", "is not read, because /etc/sysctl.d/50-a.conf"),
        ],
    )
    def test_a_name_that_another_directory_has(self, host: Host, call: Call, path: str, other: str, words: str) -> None:
        host.write(other, "vm.swappiness = 1\n")
        before = host.state()
        result = call(settings={"net.core.somaxconn": 1}, path=path)
        assert result["failed"] and words in result["msg"]
        assert host.state() == before

    def test_a_link_is_nobodys_own_file(self, host: Host, call: Call) -> None:
        host.write("/etc/sysctl.conf", "vm.swappiness = 1\n")
        (host.own.parent / "99-sysctl.conf").symlink_to("../sysctl.conf")
        result = call(settings={"net.core.somaxconn": 1}, path="/etc/sysctl.d/99-sysctl.conf")
        assert result["failed"] and "not a regular file" in result["msg"]


MAXIMUM = "net.netfilter.nf_conntrack_max"


class TestRuntimeOnly:
    def test_the_file_is_left_alone(self, host: Host, call: Call) -> None:
        wanted = {"net.ipv4.conf.eth0.forwarding": 1, "net.ipv4.conf.eth9.forwarding": 1}
        result = call(settings=wanted, persistent=False)
        assert (result["changed"], result["pending"]) == (True, ["net.ipv4.conf.eth9.forwarding"])
        assert "Not set, because this kernel does not have them yet" in warned(result)
        assert not host.own.exists()
        assert host.get("net/ipv4/conf/eth0/forwarding") == "1"
        assert call(settings=wanted, persistent=False)["changed"] is False

    def test_what_defeats_a_file_that_is_not_written_is_no_news(self, host: Host, call: Call) -> None:
        host.write("/etc/sysctl.d/zzz-site.conf", "net.ipv4.conf.eth0.forwarding = 0\n")
        result = call(settings={"net.ipv4.conf.eth0.forwarding": 1}, persistent=False)
        assert (result["overrides"], result["warnings"]) == ([], [])

    def test_removing_is_about_the_file(self, host: Host, call: Call) -> None:
        result = call(settings={"net.ipv4.ip_forward": None}, state="absent", persistent=False)
        assert result["failed"] and "persistent: false" in result["msg"]


class TestMachineWide:
    def test_what_only_the_machine_may_set_is_persisted_and_named(self, host: Host, call: Call) -> None:
        host.set("net/netfilter/nf_conntrack_max", "1000")
        (host.root / "proc/sys/net/netfilter/nf_conntrack_max").chmod(0o444)
        foretold = call(check=True, settings={MAXIMUM: 2000})
        result = call(settings={MAXIMUM: 2000})
        assert (result["changed"], result["locked"], foretold["locked"]) == (True, [MAXIMUM], [MAXIMUM])
        assert "one value of the whole machine" in warned(result)
        assert result["settings"][0]["runtime"] == 1000
        assert host.own.read_text().endswith(f"{MAXIMUM} = 2000\n")
        assert call(settings={MAXIMUM: 2000})["changed"] is False

    def test_it_is_not_locked_where_it_is_set_or_has_its_value(self, host: Host, call: Call) -> None:
        host.set("net/netfilter/nf_conntrack_max", "1000")
        assert call(settings={MAXIMUM: 2000})["locked"] == []
        (host.root / "proc/sys/net/netfilter/nf_conntrack_max").chmod(0o444)
        result = call(settings={MAXIMUM: 2000})
        assert (result["locked"], result["warnings"]) == ([], [])


class Noted:
    """A journal that remembers what the host was like when something was noted."""

    def __init__(self, host: Host) -> None:
        self.host, self.entries, self.states = host, [], []  # type: ignore[var-annotated]

    def sysctl(self, name: str) -> None:
        self.entries.append(name)
        self.states.append(self.host.state())

    def sysctl_lines(self, path: str, keys: list[str]) -> None:
        self.entries.append((path, tuple(keys)))
        self.states.append(self.host.state())


class TestJournal:
    @pytest.fixture
    def noted(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> Noted:
        journal = Noted(host)
        monkeypatch.setattr(sysctl_forwarding, "Journal", lambda name: journal if name == "one" else Noted(host))
        return journal

    def test_all_is_noted_before_anything_is_written(self, host: Host, call: Call, noted: Noted) -> None:
        before = host.state()
        call(settings={"net.ipv4.conf.eth0.rp_filter": 2, "net.ipv4.conf.eth0/5.rp_filter": 0}, journal="one")
        keys = ("net/ipv4/conf/eth0/rp_filter", "net/ipv4/conf/eth0.5/rp_filter")
        assert noted.entries == [(OWN, keys), keys[0]]
        assert noted.states == [before, before]

    def test_what_rewrites_others_is_undone_before_them(self, host: Host, call: Call, noted: Noted) -> None:
        # eth0 forwards already: nothing rewrites it now, and taking ip_forward back would.
        host.set("net/ipv4/conf/eth0/forwarding", "1")
        call(settings={"net.ipv4.ip_forward": 1}, journal="one", persistent=False)
        assert noted.entries[-1] == "net/ipv4/ip_forward"
        assert {"net/ipv4/conf/eth0/forwarding", "net/ipv4/conf/all/accept_redirects"} <= set(noted.entries)
        assert not [entry for entry in noted.entries if "rp_filter" in entry or not isinstance(entry, str)]

    def test_check_mode_and_a_second_run_note_nothing(self, host: Host, call: Call, noted: Noted) -> None:
        wanted = {"net.ipv4.conf.eth0.rp_filter": 2}
        call(check=True, settings=wanted, journal="one")
        assert noted.entries == []
        call(settings=wanted)
        call(settings=wanted, journal="one")
        assert noted.entries == []

    def test_what_cannot_be_noted_is_not_changed(
        self, host: Host, call: Call, noted: Noted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_arguments: Any) -> None:
            raise JournalError("no room")

        monkeypatch.setattr(noted, "sysctl", refuse)
        before = host.state()
        result = call(settings={"net.ipv4.conf.eth0.rp_filter": 2}, journal="one")
        assert result["failed"] and result["msg"] == "no room"
        assert host.state() == before


KEYS = [
    "net/ipv4/ip_forward",
    "net/ipv4/conf/eth0.5/rp_filter",
    "net/core/somaxconn",
    "net/ipv4/conf/default/rp_filter",
]
OTHERS = [
    "# words",
    "",
    "; x = y",
    "vm.swappiness = 3",
    "-net.ipv4.conf.eth1.rp_filter",
    "garbage",
    "net.ipv4.conf.*.x=1",
]


@given(
    lines=st.one_of(
        st.none(),
        st.lists(
            st.one_of(
                st.sampled_from(OTHERS),
                st.builds("{}={}".format, st.sampled_from(KEYS), st.integers(0, 2)),
                st.builds("-{} = {}".format, st.sampled_from([files.dotted(key) for key in KEYS]), st.integers(0, 2)),
                st.sampled_from(KEYS).map("-{}".format),
            ),
            max_size=8,
        ),
    ),
    named=st.dictionaries(st.sampled_from(KEYS), st.one_of(st.none(), st.sampled_from("012")), min_size=1),
    newline=st.booleans(),
)
def test_an_edit_sets_the_named_keys_once_and_keeps_the_rest(
    lines: list[str] | None, named: dict[str, str | None], newline: bool
) -> None:
    text = None if lines is None else "\n".join(lines) + "\n" * newline
    edited = own_file.edit(text, named)
    statements = files.parse(edited or "", "f")
    for path, value in named.items():
        assert [s.value for s in statements if s.path == path] == ([value] if value is not None else [])

    def rest(content: str | None) -> list[str]:
        kept = [line for line in (content or "").split("\n") if line.strip() and line + "\n" != own_file.HEADER]
        return [line for line in kept if getattr(files.parse_line(line, "f", 1), "path", None) not in named]

    assert rest(edited) == rest(text)
    assert own_file.edit(edited, named) == edited


def test_a_run_folder_takes_only_what_was_read() -> None:
    task = SimpleNamespace(args={"run_dir": "/nonexistent", "settings": {"net.ipv4.ip_forward": 1}})
    with pytest.raises(AnsibleActionFail, match="run_dir is for reading"):
        action.ActionModule.run(cast("action.ActionModule", SimpleNamespace(_task=task)), None, {})


@needs_root
class TestKernel:
    """The real kernel rewrites along what the planner foretells."""

    @pytest.mark.parametrize(
        ("start", "path", "value"),
        [
            ("", "net/ipv4/ip_forward", "1"),
            ("net.ipv4.ip_forward=1", "net/ipv4/ip_forward", "0"),
            ("net.ipv4.ip_forward=1 net.ipv4.conf.v0.forwarding=0", "net/ipv4/conf/all/forwarding", "0"),
            ("net.ipv4.ip_forward=1", "net/ipv4/conf/v0/forwarding", "0"),
            ("net.ipv6.conf.v0.forwarding=1", "net/ipv6/conf/all/forwarding", "1"),
            ("", "net/ipv6/conf/all/disable_ipv6", "1"),
            ("", "net/ipv6/conf/all/addr_gen_mode", "1"),
            ("", "net/ipv6/conf/all/ignore_routes_with_linkdown", "1"),
            ("", "net/ipv4/conf/default/forwarding", "1"),
            ("", "net/ipv4/conf/all/rp_filter", "2"),
        ],
    )
    def test_consequences(self, start: str, path: str, value: str) -> None:
        from ansible_collections.crosshost.doctor.plugins.module_utils import _netns

        with namespace() as name:
            run(name, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1.5")
            for assignment in start.split():
                run(name, "sysctl", "-qw", assignment)
            with _netns.inside(f"/run/netns/{name}"):
                runtime = kernel.Runtime()
                before = runtime.snapshot((path,))
                runtime.write(path, value)
                after = runtime.snapshot((path,))
        assert {key: new for key, new in after.items() if new != before[key]} == kernel.consequences(
            path, value, before
        )

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module as Ansible calls it: check mode foretells the run, a second run does nothing, a rollback restores all."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args

from ansible_collections.crosshost.doctor.plugins.module_utils import _journal
from ansible_collections.crosshost.doctor.plugins.module_utils._netns import inside
from ansible_collections.crosshost.doctor.plugins.modules import filter_accept
from tests.unit.plugins.module_utils.namespace import namespace, needs_root

FOLDER = Path(filter_accept.__file__).parents[2]
PROGRAMS = ("nft", "iptables-nft")
TUNNEL = {"services": [{"protocol": "udp", "port": 4789}], "peers": ["192.0.2.11", "192.0.2.12"]}
MAIN = """\
#!/usr/sbin/nft -f
flush ruleset
table inet guard {
  chain input { type filter hook input priority filter; policy drop; }
}
"""
FORETOLD = ("changed", "edits", "managed", "persistence", "files", "diff")
needs_programs = pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason="needs nft and iptables-nft")


def sh(*argv: str, input: str | None = None) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, input=input).stdout


class Host:
    """A network namespace, files of its own, and a journal."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        (root / "etc/systemd/system/multi-user.target.wants").mkdir(parents=True)
        (root / "proc").mkdir()
        monkeypatch.setattr(filter_accept, "ROOT", str(root))
        monkeypatch.setattr(_journal.Journal.__init__, "__defaults__", (str(root / "journal"), str(root / "guard")))

    def state(self) -> dict[str, Any]:
        files = {
            str(path.relative_to(self.root)): os.readlink(path) if path.is_symlink() else path.read_text()
            for path in sorted(self.root.rglob("*"))
            if (path.is_file() or path.is_symlink()) and "journal" not in path.parts
        }
        return {"files": files, "ruleset": sh("nft", "-s", "list", "ruleset")}

    def persist(self) -> None:
        (self.root / "etc/nftables.conf").write_text(MAIN)
        (self.root / "etc/nftables.conf").chmod(0o755)
        (self.root / "etc/systemd/system/multi-user.target.wants/nftables.service").symlink_to("/x")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    with namespace() as name, inside(f"/run/netns/{name}"):
        yield Host(tmp_path, monkeypatch)


def call(capsys: pytest.CaptureFixture[str], *, check: bool = False, **arguments: Any) -> dict[str, Any]:
    given = {**arguments, "_ansible_check_mode": check, "_ansible_diff": True}
    with patch_module_args(given), pytest.raises(SystemExit):
        filter_accept.main()
    return dict(json.loads(capsys.readouterr().out))


def part(result: dict[str, Any]) -> dict[str, Any]:
    return {key: result.get(key) for key in FORETOLD}


@needs_root
@needs_programs
@pytest.mark.root
def test_check_mode_foretells_the_run_and_a_rollback_restores_everything(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host.persist()
    sh("nft", "-f", "-", input=MAIN)
    sh("iptables-nft", "-w", "-A", "INPUT", "-p", "udp", "-j", "DROP")
    before = host.state()
    foretold = call(capsys, check=True, **TUNNEL)
    assert foretold["changed"]
    assert host.state() == before
    done = call(capsys, journal="test", **TUNNEL)
    assert part(done) == part(foretold)
    assert done["files"] == [
        "/etc/nftables.d/crosshost-doctor.nft",
        "/etc/nftables.conf",
        "/etc/systemd/system/crosshost-doctor-filter.service",
        "/etc/systemd/system/multi-user.target.wants/crosshost-doctor-filter.service",
    ]
    assert (host.root / "etc/nftables.conf").stat().st_mode & 0o777 == 0o755
    again = call(capsys, journal="test", **TUNNEL)
    assert not again["changed"]
    assert [row["persistent"] for row in again["persistence"]] == [True, True]
    assert [row for row in _journal.Journal("test").roll_back() if row["error"]] == []
    assert host.state() == before


@needs_root
@needs_programs
@pytest.mark.root
def test_runtime_alone_writes_no_file(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.persist()
    sh("nft", "-f", "-", input=MAIN)
    before = host.state()["files"]
    done = call(capsys, persistent=False, **TUNNEL)
    assert (done["changed"], "files" in done) == (True, False)
    assert host.state()["files"] == before
    assert call(capsys, **TUNNEL)["files"]


@needs_root
@needs_programs
@pytest.mark.root
def test_a_file_that_would_not_load_is_not_written(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.persist()
    sh("nft", "-f", "-", input=MAIN)
    (host.root / "etc/nftables.conf").write_text(MAIN + "table inet broken { chain x { nonsense } }\n")
    before = host.state()
    for check in (True, False):
        done = call(capsys, check=check, **TUNNEL)
        assert done["failed"]
        assert "/etc/nftables.d/crosshost-doctor.nft was not written" in done["msg"]
        assert host.state() == before


@needs_root
@pytest.mark.root
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({**TUNNEL, "peers": ["192.0.2.0/24"]}, "is a network"),
        ({**TUNNEL, "peers": []}, "from everywhere nothing"),
        ({"services": [{"protocol": "udp", "port": 70000}], "peers": ["192.0.2.1"]}, "needs a port"),
        ({"direction": "forward", "accepts": [{}]}, "accept everything"),
        ({"direction": "forward", "accepts": [{"in_interface": "eth0; reboot"}]}, "not the name"),
        ({**TUNNEL, "journal": "../../etc/x"}, "no name of a journal"),
        (
            {**TUNNEL, "chains": [{"backend": "nft", "family": "ip", "table": "$(x)", "chain": "y"}]},
            r"There is no chain y in table ip \$\(x\)",
        ),
    ],
)
def test_hostile_values_are_refused(
    host: Host, capsys: pytest.CaptureFixture[str], arguments: dict[str, Any], why: str
) -> None:
    before = host.state()
    done = call(capsys, **arguments)
    assert done["failed"]
    assert re.search(why, done["msg"])
    assert host.state() == before


def test_the_documentation_names_every_option() -> None:
    documented = yaml.safe_load(filter_accept.DOCUMENTATION)["options"]
    assert list(documented) == list(filter_accept.ARGUMENTS)
    for name, option in documented.items():
        spec = filter_accept.ARGUMENTS[name]
        assert {key: option.get(key) for key in ("type", "default", "choices", "elements")} == {
            key: spec.get(key) for key in ("type", "default", "choices", "elements")
        }


@pytest.mark.parametrize("role", ["firewall_ports", "forward_policy"])
def test_the_roles_defaults_are_their_argument_specs(role: str) -> None:
    folder = FOLDER / "roles" / role
    specs = yaml.safe_load((folder / "meta/argument_specs.yml").read_text())["argument_specs"]
    defaults = yaml.safe_load((folder / "defaults/main.yml").read_text())
    for entry in specs.values():
        assert {name: option["default"] for name, option in entry["options"].items()} == defaults

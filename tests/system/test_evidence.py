# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run keeps on request, and that it can be decided about again where no host is."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from tests.lab import Lab
from tests.playbook import BIN, environment
from tests.system.expectations import run, words

TOKEN = "SWMTKN-1-3pu6hszjas19xyp7ghgosyx9k8atbfcr8p2is99znpy26u2lkl-7p73s1dx5in4tatdymyhg9hu2"


def replay(source: Path, target: Path, *arguments: str, **extra: Any) -> subprocess.CompletedProcess[str]:
    """As somebody runs it who has the bundle and nothing else: no inventory, no network, no connection plugin."""
    values = json.dumps({"doctor_replay": str(source), "doctor_report_dir": str(target), **extra})
    variables = {"ANSIBLE_INVENTORY": os.devnull}
    return subprocess.run(
        # In a network namespace without any interface up, there is no host to be reached, not even by mistake.
        ["unshare", "--net", *arguments, str(BIN / "ansible-playbook"), "crosshost.doctor.diagnose", "-e", values],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=target.parent,
        env=environment() | variables,
        check=False,
    )


def findings(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "report.json").read_text())["findings"]


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path, "r:gz") as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def test_evidence_is_kept_and_replays_to_the_same_findings(lab: Lab, tmp_path: Path) -> None:
    node2 = lab.hosts["node2"]
    rule = f"INPUT -i lo -p tcp --dport 9 -m comment --comment token={TOKEN} -j ACCEPT".split()
    with lab.broken("data-udp-blocked-host-fw"):
        node2.run(["iptables", "-w", "-A", *rule])
        try:
            done = run(lab, tmp_path, doctor_evidence=True)
            rules = node2.run(["iptables-save"]).stdout
        finally:
            node2.run(["iptables", "-w", "-D", *rule])
    assert done.code == 0, done.output
    assert [(f["cause"], f["hosts"]) for f in done.loud] == [("data-udp-blocked-host-fw", ["node2"])], words(done.loud)
    assert TOKEN in rules
    kept = {path.name: path for path in (done.folder / "evidence").iterdir()}
    assert "node2.tar.gz" in kept, kept
    for path in kept.values():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_size < 16 << 20
    _look_into(members(kept["node2.tar.gz"]))
    _again(done.folder, tmp_path)


def _look_into(found: dict[str, bytes]) -> None:
    ruleset = b"".join(text for name, text in found.items() if re.match(r"host/(nft|ip6?tables.*)\.txt", name))
    assert b"4789" in ruleset
    assert b"DROP" in ruleset or b"drop" in ruleset
    assert b"vxlan id" in b"".join(text for name, text in found.items() if name.endswith("/links.txt"))
    assert any(name.startswith("overlay-") for name in found), sorted(found)
    assert "facts/overlay_facts-before.json" in found
    assert "host/sysctl.txt" in found
    assert "host/engine-log.txt" in found
    (capture,) = [content for name, content in found.items() if name.startswith("captures/")]
    assert capture[:4] == b"\x0a\x0d\x0d\x0a"  # pcapng, section header block
    assert json.loads(found["manifest.json"])["members"]
    for secret in (TOKEN.encode(), b"SWMTKN-1-", b"SWMKEY-1-", b"PRIVATE KEY"):
        assert [name for name, text in found.items() if secret in text] == []


def _again(folder: Path, tmp_path: Path) -> None:
    live = findings(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with tarfile.open(tmp_path / "bundle.tar.gz", "w:gz") as archive:
        archive.add(folder, "colleague")
    trace = tmp_path / "calls"
    watched = ("strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(trace))
    done = replay(folder, tmp_path / "again", *(watched if shutil.which("strace") else ()))
    assert done.returncode == 0, done.stdout + done.stderr
    assert findings(tmp_path / "again") == live
    if trace.exists():
        assert re.findall(r".*AF_INET.*", trace.read_text()) == []
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    from_archive = replay(tmp_path / "bundle.tar.gz", tmp_path / "third", doctor_fail_on="critical")
    assert from_archive.returncode == 2
    assert "doctor_fail_on=critical: data-udp-blocked-host-fw@node2" in from_archive.stdout
    assert findings(tmp_path / "third") == live
    asked = replay(folder, tmp_path / "fourth", doctor_from="app-node1", doctor_to="app-node2")
    assert asked.returncode != 0
    assert "mutually exclusive" in asked.stdout
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

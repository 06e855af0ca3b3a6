# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sysctls are set on a real host: exactly the named ones, once, and so that they last."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab
from tests.lab.fleet import Host
from tests.lab.snapshot import difference
from tests.playbook import BIN, environment

LINK = "cdsys0.5"
CONF = f"/proc/sys/net/ipv4/conf/{LINK}"
KEY = "net.ipv4.conf.cdsys0/5"
LATER_KEY = "net.ipv4.conf.cdsys1.forwarding"
OWN = "/etc/sysctl.d/zz-crosshost-doctor.conf"
HARDENING, LATER = "/etc/sysctl.d/90-cdsys.conf", "/etc/sysctl.d/zzz-cdsys.conf"
FORETOLD = ("changed", "settings", "rewritten", "pending", "overrides", "diff")
RULED = ("ip_forward", "conf/all/accept_redirects")


@pytest.fixture
def host(lab: Lab) -> Iterator[Host]:
    """A host with an interface and files of its own, which all go again."""
    host = lab.docker_hosts[-1]
    forwarding = "grep -H . /proc/sys/net/ipv4/conf/*/forwarding"
    before = [f"/proc/sys/net/ipv4/{name}" for name in RULED]
    saved = {path: host.run(["cat", path]).stdout.strip() for path in before}
    saved |= dict(line.split(":", 1) for line in host.run(["sh", "-c", forwarding]).stdout.splitlines())  # type: ignore[misc]
    host.run(["ip", "link", "add", LINK, "type", "bridge"])
    try:
        yield host
    finally:
        host.run(["ip", "link", "del", LINK], check=False)
        for path in (OWN, HARDENING, LATER):
            host.path(path).unlink(missing_ok=True)
        for path, value in saved.items():
            host.run(["sh", "-c", f"[ $(cat {path}) = {value} ] || echo {value} > {path}"])


def sysctl(*, check: bool = False, **arguments: Any) -> dict[str, Any]:
    """A task for L(play)."""
    return {"crosshost.doctor.sysctl_forwarding": arguments, "check_mode": check, "diff": True}


def play(lab: Lab, host: Host, folder: Path, *tasks: dict[str, Any] | str) -> list[Any]:
    """One playbook run on the host: the results of its tasks, and the output of those that are shell commands."""
    made = []
    for number, task in enumerate(tasks):
        step = {"ansible.builtin.raw": task} if isinstance(task, str) else task
        made.append({**step, "register": f"r{number}"})
    results = "{{ [" + ", ".join(f"r{number}" for number in range(len(tasks))) + "] | to_json }}"
    keep = {"ansible.builtin.copy": {"content": results, "dest": str(folder / "results")}, "delegate_to": "localhost"}
    made.append({**keep, "become": False, "diff": False})
    text = json.dumps([{"hosts": host.name, "gather_facts": False, "become": True, "tasks": made}])
    (folder / "play.yml").write_text(text)
    command = [str(BIN / "ansible-playbook"), "-i", str(lab.write_inventory(folder / "inventory.ini"))]
    done = subprocess.run(
        [*command, str(folder / "play.yml")],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((folder / "results").read_text())
    return [row["stdout"].split() if isinstance(task, str) else row for task, row in zip(tasks, found, strict=True)]


def facts(result: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = result["ansible_facts"]["crosshost"]["sysctl_forwarding"]
    return found


VALUES = f"cat {CONF}/forwarding {CONF}/rp_filter {CONF}/arp_ignore"


def test_the_named_keys_are_set_and_last(lab: Lab, host: Host, tmp_path: Path) -> None:
    host.write(HARDENING, "net.ipv4.conf.*.rp_filter = 1\nnet/ipv4/conf/cdsys0.5/forwarding = 0\n")
    host.write(LATER, f"# comes after everything\n{KEY}.arp_ignore = 2\n")
    host.run(["sh", "-c", f"echo 0 > {CONF}/forwarding; echo 1 > {CONF}/rp_filter; echo 0 > {CONF}/arp_ignore"])
    wanted = {f"{KEY}.forwarding": 1, f"{KEY}.rp_filter": 2, f"{KEY}.arp_ignore": 1, LATER_KEY: 1}

    before = lab.snapshot()
    seen, foretold = play(lab, host, tmp_path, sysctl(), sysctl(check=True, settings=wanted))
    assert difference(before, lab.snapshot()) == []
    row = facts(seen)["sysctls"][f"{KEY}.forwarding"]
    assert (row["runtime"], row["persisted"], row["file"], row["drift"]) == (0, 0, HARDENING, False)
    assert f"{KEY}.arp_ignore" in facts(seen)["drift"]

    done, values, mode = play(lab, host, tmp_path, sysctl(settings=wanted), VALUES, f"stat -c '%a %u %g' {OWN}")
    assert done["changed"] is True
    assert {key: done[key] for key in FORETOLD} == {key: foretold[key] for key in FORETOLD}
    assert (values, mode) == (["1", "2", "1"], ["644", "0", "0"])
    assert (done["rewritten"], done["pending"]) == ([], [LATER_KEY])
    assert [(row["name"], row["file"], row["value"]) for row in done["overrides"]] == [(f"{KEY}.arp_ignore", LATER, 2)]
    changes = [line for line in difference(before, lab.snapshot()) if "/sysctls: " in line]
    assert len(changes) == 6
    assert all(f"ipv4/conf/{LINK}/" in line for line in changes)

    again, _lost, _boot, booted, gone, values = play(
        lab,
        host,
        tmp_path,
        sysctl(settings=wanted),
        f"for name in forwarding rp_filter arp_ignore; do echo 0 > {CONF}/$name; done",
        # What a boot does, by the program itself, for this interface only.
        r"sysctl --quiet --pattern '^[^#]*cdsys0|^[^#]*[*]' --system || true",
        sysctl(),
        sysctl(settings=dict.fromkeys(wanted), state="absent", reload=True),
        VALUES,
    )
    assert again["changed"] is False
    assert all(part["before"] == part["after"] for part in again["diff"])
    for row in done["settings"][:3]:
        assert facts(booted)["sysctls"][row["name"]]["runtime"] == row["persisted"], row
    assert not [key for key in facts(booted)["drift"] if key.startswith(KEY)]
    assert gone["changed"] is True
    assert values == ["0", "1", "2"]
    assert not host.path(OWN).exists()


def test_ip_forward_is_written_only_when_it_changes(lab: Lab, host: Host, tmp_path: Path) -> None:
    forward, interface = {"net.ipv4.ip_forward": 1}, {f"{KEY}.forwarding": 1}
    value = f"cat {CONF}/forwarding"
    _off, foretold, kept, done, value_on, _off, again, value_off, enough, value_set = play(
        lab,
        host,
        tmp_path,
        "echo 0 > /proc/sys/net/ipv4/ip_forward",
        sysctl(check=True, settings=forward),
        value,
        sysctl(settings=forward),
        value,
        f"echo 0 > {CONF}/forwarding",
        sysctl(settings=forward),
        value,
        sysctl(settings=interface),
        value,
    )
    assert kept == ["0"]
    assert {key: done[key] for key in FORETOLD} == {key: foretold[key] for key in FORETOLD}
    names = {row["name"] for row in done["rewritten"]}
    assert {f"{KEY}.forwarding", "net.ipv4.conf.eth0.forwarding", "net.ipv4.conf.all.accept_redirects"} <= names
    assert names <= {line.partition(" = ")[0] for line in done["diff"][0]["after"].splitlines()}
    assert value_on == ["1"]

    assert (again["changed"], again["rewritten"], value_off) == (False, [], ["0"])
    assert f"{KEY}.forwarding" in facts(again)["drift"]
    assert (enough["changed"], enough["rewritten"], value_set) == (True, [], ["1"])

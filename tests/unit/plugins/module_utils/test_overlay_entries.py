# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _overlay_entries as entries
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal
from ansible_collections.crosshost.doctor.plugins.module_utils._netns import Namespace
from tests.unit.plugins.module_utils.namespace import namespace, needs_root, run

NETWORK = "ribwpcdmfxq0abcdefghijklm"
ROW = {"network": NETWORK, "mac": "02:42:0A:00:01:03", "ip": "10.0.1.3", "vtep": "192.0.2.11"}


@pytest.mark.parametrize(
    "change",
    [
        {"network": "app"},
        {"network": "../../etc/passwd"},
        {"mac": "02:42:0a:00:01"},
        {"mac": "01:00:5e:00:00:01"},
        {"mac": "00:00:00:00:00:00"},
        {"mac": "-4"},
        {"ip": "10.0.1.3; reboot"},
        {"vtep": "224.0.0.1"},
        {"vtep": "0.0.0.0"},
        {"vtep": "127.0.0.1"},
        {"vtep": "fe80::1%eth0"},
        {"vtep": None},
    ],
)
def test_what_is_no_endpoint_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(entries.EntryError):
        entries.entry_of({**ROW, **change})


@given(st.fixed_dictionaries({name: st.text() | st.none() for name in ("network", "mac", "ip", "vtep")}))
def test_hostile_values_are_refused_or_harmless(row: dict[str, Any]) -> None:
    try:
        entry = entries.entry_of(row)
    except entries.EntryError:
        return
    assert not any(word.startswith("-") for word in (entry.network, entry.mac, entry.ip or "0", entry.vtep))


def test_spelling_is_made_the_usual_one() -> None:
    entry = entries.entry_of({**ROW, "ip": "2001:DB8:0::3", "vtep": "2001:db8::0:11"})
    assert (entry.mac, entry.ip, entry.vtep) == ("02:42:0a:00:01:03", "2001:db8::3", "2001:db8::11")


def test_the_namespace_is_found_by_the_first_ten_characters() -> None:
    spaces = [
        Namespace("1", "host", "/proc/self/ns/net"),
        Namespace("2", "lb", "/run/docker/netns/lb_ribwpcdmfx", network_prefix="ribwpcdmfx"),
        Namespace("3", "overlay", "/run/docker/netns/1-ribwpcdmfx", network_prefix="ribwpcdmfx"),
    ]
    found = entries.find_namespace(NETWORK, spaces)
    assert found is spaces[2]
    assert entries.find_namespace("zzzzzzzzzzzz", spaces) is None


def test_a_network_that_is_not_here_can_lose_entries_and_get_none() -> None:
    entry = entries.entry_of(ROW)
    assert entries.plan({}, [], [entry]) == []
    with pytest.raises(entries.EntryError, match="no namespace on this host"):
        entries.plan({}, [entry], [])


# ---- on a real kernel


@pytest.fixture
def overlay() -> Iterator[tuple[str, str]]:
    """A namespace like the engine's, with two subnets: its name and its path."""
    with namespace() as name:
        for number, subnet in enumerate(("10.0.1.1/24", "10.0.2.1/24")):
            run(name, "ip", "link", "add", f"br{number}", "up", "type", "bridge")
            run(name, "ip", "addr", "add", subnet, "dev", f"br{number}")
            vxlan = f"type vxlan id {4097 + number} dstport 4789 nolearning proxy l2miss l3miss".split()
            run(name, "ip", "link", "add", f"tun{number}", "up", "master", f"br{number}", *vxlan)
        yield name, f"/run/netns/{name}"


def state(path: str) -> dict[str, entries.State]:
    return {NETWORK: entries.read_state(NETWORK, path)}


def call(argv: list[str], netns: str | None) -> tuple[int, str]:
    done = subprocess.run(["nsenter", f"--net={netns}", *argv], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def tables(name: str) -> tuple[str, str]:
    fdb = [line for line in run(name, "bridge", "fdb").splitlines() if "dst" in line]
    return "\n".join(sorted(fdb)), run(name, "ip", "neigh", "show", "nud", "permanent")


@needs_root
def test_entries_are_set_once_and_rolled_back_exactly(overlay: tuple[str, str], tmp_path: Path) -> None:
    name, path = overlay
    run(name, *"bridge fdb add 02:42:0a:00:01:03 dev tun0 dst 192.0.2.250 self permanent".split())
    run(name, *"ip neigh add 10.0.1.3 lladdr 02:42:0a:00:01:99 dev tun0 nud permanent".split())
    before = tables(name)
    wanted = [
        entries.entry_of(ROW),
        entries.entry_of({**ROW, "mac": "02:42:0a:00:02:07", "ip": "10.0.2.7", "vtep": "192.0.2.13"}),
    ]
    changes = entries.plan(state(path), wanted, [])
    assert [(one.kind, one.device, one.before and one.before[0], one.after) for one in changes] == [
        ("fdb", "tun0", "192.0.2.250", "192.0.2.11"),
        ("neighbour", "tun0", "02:42:0a:00:01:99", "02:42:0a:00:01:03"),
        ("fdb", "tun1", None, "192.0.2.13"),
        ("neighbour", "tun1", None, "02:42:0a:00:02:07"),
    ]
    assert tables(name) == before
    journal = Journal("entries", str(tmp_path / "journal"))
    entries.apply(changes, journal, call)
    assert entries.plan(state(path), wanted, []) == []
    assert "02:42:0a:00:02:07 dev tun1 dst 192.0.2.13" in tables(name)[0]
    assert [row["error"] for row in journal.roll_back()] == [None] * 4
    assert tables(name) == before


@needs_root
def test_only_the_very_entry_is_removed(overlay: tuple[str, str], tmp_path: Path) -> None:
    name, path = overlay
    run(name, *"bridge fdb add 02:42:0a:00:01:03 dev tun0 dst 192.0.2.12 self permanent".split())
    run(name, *"ip neigh add 10.0.1.3 lladdr 02:42:0a:00:01:03 dev tun0 nud permanent".split())
    before = tables(name)
    moved = entries.entry_of(ROW)
    assert [one.kind for one in entries.plan(state(path), [], [moved])] == ["neighbour"]
    stale = entries.entry_of({**ROW, "vtep": "192.0.2.12"})
    changes = entries.plan(state(path), [], [stale])
    journal = Journal("entries", str(tmp_path / "journal"))
    entries.apply(changes, journal, call)
    assert entries.plan(state(path), [], [stale]) == []
    journal.roll_back()
    assert tables(name) == before


@needs_root
def test_without_an_address_nothing_tells_the_subnet(overlay: tuple[str, str]) -> None:
    with pytest.raises(entries.EntryError, match="tun0, tun1"):
        entries.plan(state(overlay[1]), [entries.entry_of({**ROW, "ip": None})], [])


@needs_root
def test_one_entry_cannot_have_two_values(overlay: tuple[str, str]) -> None:
    both = [entries.entry_of(ROW), entries.entry_of({**ROW, "vtep": "192.0.2.12"})]
    with pytest.raises(entries.EntryError, match="each entry can have but one"):
        entries.plan(state(overlay[1]), both, [])


@needs_root
def test_a_refusal_says_which_command_failed(overlay: tuple[str, str], tmp_path: Path) -> None:
    changes = entries.plan(state(overlay[1]), [entries.entry_of(ROW)], [])
    with pytest.raises(entries.EntryError, match=r"bridge fdb replace .* dev tun0 dst 192.0.2.11 .*no such thing"):
        entries.apply(changes, Journal("", str(tmp_path)), lambda argv, netns: (2, "no such thing"))

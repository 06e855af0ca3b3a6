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

from ansible_collections.crosshost.doctor.plugins.module_utils import _source_owner as owners
from ansible_collections.crosshost.doctor.plugins.module_utils import _source_plan as source
from ansible_collections.crosshost.doctor.plugins.module_utils._host_routes import Route, RouteError
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal
from ansible_collections.crosshost.doctor.plugins.module_utils._netns import inside
from tests.unit.plugins.module_utils.namespace import namespace, needs_root, run

ADDRESS = "192.0.2.12"
UUID = "0f3a1c22-6a4b-4a35-9d3a-0123456789ab"


def peer_route(peer: str = "192.0.2.11", gateway: str | None = None, metric: int = 0) -> source.PeerRoute:
    bits = 128 if ":" in peer else 32
    wanted = Route(f"{peer}/{bits}", "eth0", gateway, ADDRESS, metric)
    return source.PeerRoute(peer, Route("0.0.0.0/0", "eth0", gateway), "192.0.2.200", wanted)


@pytest.mark.parametrize(
    ("address", "peers"),
    [
        ("192.0.2.12; reboot", ["192.0.2.11"]),
        ("", ["192.0.2.11"]),
        ("224.0.0.1", ["192.0.2.11"]),
        ("192.0.2.12", ["0.0.0.0"]),
        ("192.0.2.12", ["255.255.255.255"]),
        ("192.0.2.12", ["127.0.0.1"]),
        ("192.0.2.12", ["192.0.2.0/24"]),
        ("192.0.2.12", ["default"]),
        ("192.0.2.12", ["fe80::1%eth0"]),
    ],
)
def test_what_is_no_host_is_refused(address: str, peers: list[str]) -> None:
    with pytest.raises(RouteError):
        source.make(address, peers)


# ---- on a real kernel


@pytest.fixture
def host() -> Iterator[tuple[str, str]]:
    """A namespace with two addresses on one interface and a default route: its name and its path."""
    with namespace() as name:
        run(name, *"ip link add eth0 up type veth peer name peer0".split())
        run(name, *"ip link set peer0 up".split())
        for words in (
            "ip addr add 192.0.2.12/24 dev eth0",
            "ip addr add 192.0.2.200/24 dev eth0",
            "ip -6 addr add 2001:db8::12/64 dev eth0 nodad",
            "ip -6 addr add 2001:db8::200/64 dev eth0 nodad",
            "ip route add default via 192.0.2.1 dev eth0 src 192.0.2.200 metric 100 mtu 1400",
        ):
            run(name, *words.split())
        yield name, f"/run/netns/{name}"


def call(argv: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def routes(name: str) -> str:
    return run(name, "ip", "-d", "route") + run(name, "ip", "-6", "-d", "route")


@needs_root
@pytest.mark.parametrize(
    ("before", "peer", "expected"),
    [
        ("", "198.51.100.7", "198.51.100.7 via 192.0.2.1 dev eth0 proto static scope global src 192.0.2.12 metric 100"),
        (
            "ip route add 192.0.2.11/32 dev eth0 src 192.0.2.200",
            "192.0.2.11",
            "192.0.2.11 dev eth0 proto boot scope link src 192.0.2.12",
        ),
        (
            "ip route add 203.0.113.9/32 via 192.0.2.1 dev eth0 src 192.0.2.200 proto static metric 7 advmss 1200",
            "203.0.113.9",
            "203.0.113.9 via 192.0.2.1 dev eth0 proto static scope global src 192.0.2.12 metric 7",
        ),
    ],
    ids=["by default", "own", "own with metrics"],
)
def test_the_way_is_kept_and_comes_back_exactly(
    host: tuple[str, str], tmp_path: Path, before: str, peer: str, expected: str
) -> None:
    name, path = host
    if before:
        run(name, *before.split())
    was = routes(name)
    journal = Journal("routes", str(tmp_path / "journal"))
    with inside(path):
        rows = source.make(ADDRESS, [peer])
        assert rows[0].source == "192.0.2.200"
        assert routes(name) == was
        source.apply(rows, ADDRESS, journal, call)
        again = source.make(ADDRESS, [peer])
        assert [row.changes(ADDRESS) for row in again] == [False]
        assert again[0].own
        assert expected in routes(name).replace("unicast ", "")
        if not before:
            assert "mtu 1400" in run(name, "ip", "route", "show", peer)
        assert [row["error"] for row in journal.roll_back()] == [None]
    assert routes(name) == was


@needs_root
def test_ipv6_peers_get_a_route_of_their_own(host: tuple[str, str], tmp_path: Path) -> None:
    name, path = host
    was = routes(name)
    journal = Journal("routes", str(tmp_path / "journal"))
    with inside(path):
        for address in ("2001:db8::12", "2001:db8::200"):
            rows = source.make(address, ["2001:db8::11"])
            source.apply(rows, address, journal, call)
            assert not source.make(address, ["2001:db8::11"])[0].changes(address)
        journal.roll_back()
    assert routes(name) == was


@needs_root
@pytest.mark.parametrize(
    ("words", "peer", "why"),
    [
        ("ip route add blackhole 203.0.113.9/32", "203.0.113.9", "no route"),
        ("ip rule add to 203.0.113.9 lookup 51820", "203.0.113.9", "table 51820"),
        (
            "ip route add 203.0.113.0/24 nexthop via 192.0.2.1 dev eth0 nexthop via 192.0.2.2 dev eth0",
            "203.0.113.9",
            "several next hops",
        ),
        ("", "192.0.2.12", "own address"),
        ("", "2001:db8::11", "same family"),
    ],
)
def test_routes_that_cannot_be_kept_are_left_alone(host: tuple[str, str], words: str, peer: str, why: str) -> None:
    name, path = host
    run(name, *"ip route add default via 192.0.2.1 dev eth0 table 51820".split())
    if words:
        run(name, *words.split())
    with inside(path), pytest.raises(RouteError, match=why):
        source.make(ADDRESS, [peer])


@needs_root
def test_an_address_nobody_has_is_refused(host: tuple[str, str]) -> None:
    with inside(host[1]), pytest.raises(RouteError, match="No interface of this host has"):
        source.make("192.0.2.99", ["192.0.2.11"])


# ---- at boot


def silent(argv: list[str]) -> tuple[int, str, str]:
    return 1, "", "not running"


def test_without_a_manager_a_unit_of_its_own_keeps_what_others_wrote(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr/lib/systemd/system").mkdir(parents=True)
    owner = owners.find_owner("eth0", 2, set(), silent, str(root))
    assert (owner.name, owner.path) == ("systemd", owners.UNIT_PATH)
    journal = Journal("", str(tmp_path))
    first = owners.plan(owner, [peer_route()], silent, str(root))
    assert first.changes
    owners.apply(first, journal, silent, str(root))
    assert not owners.plan(owner, [peer_route()], silent, str(root)).changes
    owners.apply(owners.plan(owner, [peer_route("192.0.2.13")], silent, str(root)), journal, silent, str(root))
    text = (root / owners.UNIT_PATH.lstrip("/")).read_text()
    starts = [line.partition(" ")[2] for line in text.splitlines() if line.startswith("ExecStart=")]
    words = "-4 route replace {}/32 dev eth0 src 192.0.2.12 proto 4 scope 0"
    assert starts == [words.format("192.0.2.11"), words.format("192.0.2.13")]
    link = root / owners.WANTS.lstrip("/") / owners.UNIT_NAME
    assert str(link.readlink()) == owners.UNIT_PATH
    assert not owners.plan(owner, [peer_route()], silent, str(root)).changes


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / owners.UNIT_PATH.lstrip("/")
    path.parent.mkdir(parents=True)
    path.write_text("[Service]\nExecStart=/bin/true\n")
    with pytest.raises(RouteError, match="was not written by this module"):
        owners.plan(owners.Owner(owners.UNIT, "eth0", owners.UNIT_PATH), [peer_route()], silent, str(tmp_path))


def test_systemd_networkd_gets_a_drop_in_of_the_file_it_uses(tmp_path: Path) -> None:
    links = tmp_path / "run/systemd/netif/links"
    links.mkdir(parents=True)
    (links / "2").write_text(
        "# private\nADMIN_STATE=configured\nNETWORK_FILE=/run/systemd/network/10-netplan-eth0.network\n"
    )
    running = {owners.NETWORKD}
    owner = owners.find_owner("eth0", 2, running, silent, str(tmp_path))
    assert owner.path == "/etc/systemd/network/10-netplan-eth0.network.d/crosshost-doctor.conf"
    assert "netplan" in owner.says[0]
    rows = [peer_route("192.0.2.11", "192.0.2.1", 100), peer_route("192.0.2.13")]
    persist = owners.plan(owner, rows, silent, str(tmp_path))
    assert persist.after == (
        "# Written by crosshost.doctor.source_address.\n"
        "[Route]\nDestination=192.0.2.11/32\nGateway=192.0.2.1\nPreferredSource=192.0.2.12\nMetric=100\n\n"
        "[Route]\nDestination=192.0.2.13/32\nScope=link\nPreferredSource=192.0.2.12\n"
    )
    owners.apply(persist, Journal("", str(tmp_path)), silent, str(tmp_path))
    assert not owners.plan(owner, rows[1:], silent, str(tmp_path)).changes
    (links / "2").write_text("ADMIN_STATE=unmanaged\n")
    assert owners.find_owner("eth0", 2, running, silent, str(tmp_path)).name == owners.NOBODY


class Profile:
    """nmcli of one connection: what it is asked and told."""

    def __init__(self, routes: str = "", state: str = "connected") -> None:
        self.routes, self.state = routes, state
        self.told: list[list[str]] = []

    def __call__(self, argv: list[str]) -> tuple[int, str, str]:
        if "modify" in argv:
            self.told.append(argv)
            return 0, "", ""
        if argv[-1] == "device":
            return 0, f"lo:unmanaged\neth0:{self.state}\n", ""
        return 0, f"{UUID}\n" if "GENERAL.CON-UUID" in argv else self.routes, ""


@pytest.mark.parametrize(
    ("routes", "told"),
    [
        ("", [("+ipv4.routes", "192.0.2.11/32 192.0.2.1 100 src=192.0.2.12")]),
        ("192.0.2.11/32 192.0.2.1 100 src=192.0.2.12\n", []),
        ("{ ip = 192.0.2.11/32, nh = 192.0.2.1, mt = 100, src=192.0.2.12 }\n", []),
        (
            "10.0.0.0/8 192.0.2.1, 192.0.2.11/32 192.0.2.1 100 src=192.0.2.200\n",
            [
                ("-ipv4.routes", "192.0.2.11/32 192.0.2.1 100 src=192.0.2.200"),
                ("+ipv4.routes", "192.0.2.11/32 192.0.2.1 100 src=192.0.2.12"),
            ],
        ),
    ],
    ids=["none", "there", "there, in braces", "another source"],
)
def test_networkmanager_gets_the_route_in_its_connection(
    tmp_path: Path, routes: str, told: list[tuple[str, str]]
) -> None:
    nmcli = Profile(routes)
    owner = owners.find_owner("eth0", 2, {owners.NETWORKMANAGER}, nmcli, str(tmp_path))
    assert (owner.name, owner.connection) == (owners.NETWORKMANAGER, UUID)
    persist = owners.plan(owner, [peer_route(gateway="192.0.2.1", metric=100)], nmcli, str(tmp_path))
    journal = Journal("nm", str(tmp_path / "journal"))
    owners.apply(persist, journal, nmcli, str(tmp_path))
    assert [(argv[5], argv[6]) for argv in nmcli.told] == told
    undo = [(entry["argv"][5], entry["argv"][6]) for entry in journal.entries()]
    assert undo == [({"+": "-", "-": "+"}[key[0]] + key[1:], text) for key, text in told]


@pytest.mark.parametrize("state", ["unmanaged", "connected (externally)", "disconnected"])
def test_an_interface_networkmanager_leaves_alone_is_not_its_own(tmp_path: Path, state: str) -> None:
    owner = owners.find_owner("eth0", 2, {owners.NETWORKMANAGER}, Profile(state=state), str(tmp_path))
    assert owner.name == owners.NOBODY


@given(st.text())
def test_any_output_of_nmcli_is_read(output: str) -> None:
    assert isinstance(owners.profile_routes(output), dict)


@given(st.text(), st.sampled_from(["# Written by crosshost.doctor.source_address.\n", ""]))
def test_any_text_in_our_files_is_read(text: str, header: str) -> None:
    rows: list[Any] = [peer_route()]
    assert "192.0.2.11/32" in owners.unit_text(header + text, rows)
    assert "192.0.2.11/32" in owners.network_text(header + text, rows)

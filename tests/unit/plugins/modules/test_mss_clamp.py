# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Connections through a router, and through a bridge with a VXLAN device's name, announce what the way takes."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.crosshost.doctor.plugins.module_utils import _mss, _mss_plan, _mss_unit
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal
from ansible_collections.crosshost.doctor.plugins.module_utils._netns import inside
from ansible_collections.crosshost.doctor.plugins.modules import mss_clamp
from tests.unit.plugins.module_utils.namespace import namespace, needs_root, run

NETWORK = "n2xbur5cykzswslbs1yu9n8dy"
DEFAULTS: dict[str, Any] = {
    "state": "present",
    "forward": True,
    "interfaces": [],
    "networks": [],
    "backend": "auto",
    "runtime": True,
    "persistent": False,
}
Call = Callable[..., dict[str, Any]]
needs_tools = pytest.mark.skipif(
    not (shutil.which("nft") and shutil.which("ip6tables")), reason="needs nft and ip6tables"
)


def path(name: str) -> str:
    return f"/run/netns/{name}"


def plan(**options: Any) -> _mss_plan.Plan:
    return _mss_plan.make({**DEFAULTS, **options})


def segment(client: str, server: str, address: str) -> int:
    """The segment size that a client ends up with, of a connection to the server."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(path(server)):
        listener = socket.create_server((address, 0), family=family)
    with listener, inside(path(client)):
        connection = socket.create_connection(listener.getsockname()[:2], 3)
        with connection:
            return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)


def cable(one: str, name: str, other: str, peer: str) -> None:
    run(one, "ip", "link", "add", name, "type", "veth", "peer", "name", peer, "netns", other)
    run(one, "ip", "link", "set", name, "up")
    run(other, "ip", "link", "set", peer, "up")


@pytest.fixture
def spaces() -> Iterator[tuple[str, str, str]]:
    with ExitStack() as stack:
        names = [stack.enter_context(namespace()) for _number in range(3)]
        for name in names:
            run(name, "ip", "link", "set", "lo", "up")
        yield names[0], names[1], names[2]


@pytest.fixture
def routed(spaces: tuple[str, str, str]) -> tuple[str, str, str]:
    """A client, a router whose route to the server takes 1300 bytes, and the server."""
    client, router, server = spaces
    cable(client, "eth0", router, "in0")
    cable(server, "eth0", router, "out0")
    run(router, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    for net, link, end in ((1, "in0", client), (2, "out0", server)):
        run(router, "ip", "address", "add", f"10.9.{net}.1/24", "dev", link)
        run(router, "ip", "address", "add", f"fd09:{net}::1/64", "dev", link, "nodad")
        run(end, "ip", "address", "add", f"10.9.{net}.2/24", "dev", "eth0")
        run(end, "ip", "address", "add", f"fd09:{net}::2/64", "dev", "eth0", "nodad")
        run(end, "ip", "route", "add", "default", "via", f"10.9.{net}.1")
        run(end, "ip", "-6", "route", "add", "default", "via", f"fd09:{net}::1")
    run(router, "ip", "route", "change", "10.9.2.0/24", "dev", "out0", "mtu", "1300")
    run(router, "ip", "-6", "route", "add", "fd09:2::2/128", "dev", "out0", "mtu", "1300")
    return spaces


@needs_root
@needs_tools
class TestForwarded:
    @pytest.mark.parametrize("backend", ["nftables", "iptables"])
    def test_connections_fit_the_route_and_all_is_undone(
        self, routed: tuple[str, str, str], backend: str, tmp_path: Path
    ) -> None:
        client, router, server = routed
        before = segment(client, server, "10.9.2.2"), segment(client, server, "fd09:2::2")
        assert min(before) > 1300
        journal = Journal("test", str(tmp_path / "journal"))
        with inside(path(router)):
            rules = run(router, "nft", "--stateless", "list", "ruleset")
            made = plan(backend=backend)
            assert [place.changed for place in made.places] == [True]
            assert run(router, "nft", "--stateless", "list", "ruleset") == rules
            _mss_plan.apply(made, journal)
            assert plan(backend=backend).actions == []
        assert segment(client, server, "10.9.2.2") <= 1260
        assert segment(client, server, "fd09:2::2") <= 1240
        with inside(path(router)):
            assert {row["error"] for row in journal.roll_back()} == {None}
            assert plan(backend=backend).actions != []
            if backend == "nftables":
                assert run(router, "nft", "--stateless", "list", "ruleset") == rules
        assert (segment(client, server, "10.9.2.2"), segment(client, server, "fd09:2::2")) == before

    @pytest.mark.parametrize("backend", ["nftables", "iptables"])
    @pytest.mark.parametrize(("names", "clamps"), [(["out0", "wan.5"], True), (["wan.5"], False)])
    def test_only_connections_through_the_named_interfaces(
        self, routed: tuple[str, str, str], backend: str, names: list[str], clamps: bool, tmp_path: Path
    ) -> None:
        client, router, server = routed
        with inside(path(router)):
            _mss_plan.apply(plan(backend=backend, interfaces=names), Journal(""))
        assert (segment(client, server, "10.9.2.2") <= 1260) == clamps
        assert (segment(server, client, "10.9.1.2") <= 1260) == clamps

    def test_a_table_that_differs_is_replaced_and_comes_back(
        self, routed: tuple[str, str, str], tmp_path: Path
    ) -> None:
        journal = Journal("test", str(tmp_path / "journal"))
        with inside(path(routed[1])):
            _mss_plan.apply(plan(interfaces=["in0"]), Journal(""))
            old = run(routed[1], "nft", "--stateless", "list", "ruleset")
            _mss_plan.apply(plan(), journal)
            assert run(routed[1], "nft", "--stateless", "list", "ruleset") != old
            journal.roll_back()
            assert run(routed[1], "nft", "--stateless", "list", "ruleset") == old
            _mss_plan.apply(plan(state="absent"), Journal(""))
            assert run(routed[1], "nft", "list", "ruleset") == ""


@needs_root
@needs_tools
def test_an_overlay_bridge_lowers_what_is_larger(spaces: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    client, bridge, server = spaces
    run(bridge, "ip", "link", "add", "br0", "type", "bridge")
    run(bridge, "ip", "link", "set", "br0", "up")
    cable(client, "eth0", bridge, "veth0")
    cable(server, "eth0", bridge, "vxlan0")
    for port in ("veth0", "vxlan0"):
        run(bridge, "ip", "link", "set", port, "master", "br0")
    for number, name in ((1, client), (2, server)):
        run(name, "ip", "address", "add", f"10.9.1.{number}/24", "dev", "eth0")
        run(name, "ip", "address", "add", f"fd09:1::{number}/64", "dev", "eth0", "nodad")
    monkeypatch.setattr(_mss, "overlay_namespaces", lambda: {NETWORK[:10]: path(bridge)})

    def measured() -> tuple[int, ...]:
        return tuple(segment(client, server, address) for address in ("10.9.1.2", "fd09:1::2"))

    before = measured()
    _mss_plan.apply(plan(forward=False, networks=[{"id": NETWORK, "mss4": 1310, "mss6": None}]), Journal(""))
    assert all(low <= most for low, most in zip(measured(), (1310, 1290)))
    _mss_plan.apply(plan(forward=False, networks=[{"id": NETWORK, "mss4": 1310, "mss6": 1200}]), Journal(""))
    assert all(low <= most for low, most in zip(measured(), (1310, 1200)))
    run(bridge, "ip", "link", "set", "vxlan0", "down")
    run(bridge, "ip", "link", "set", "vxlan0", "name", "veth1", "up")
    assert measured() == before


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def ask(**arguments: Any) -> dict[str, Any]:
        with patch_module_args({**arguments, "_ansible_check_mode": True}), pytest.raises(SystemExit):
            mss_clamp.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return ask


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"interfaces": ['eth0" }; drop']}, "is not the name of a network interface"),
        ({"interfaces": ["-o"]}, "is not the name of a network interface"),
        ({"networks": [{"id": "../../etc", "mss4": 1310}]}, "is not the id"),
        ({"networks": [{"id": NETWORK, "mss4": 40}]}, "segment size of 40"),
        ({"networks": [{"id": NETWORK, "mss4": 1310}, {"id": NETWORK, "mss4": 1300}]}, "named twice"),
    ],
)
def test_a_value_that_is_none_is_refused(call: Call, options: dict[str, Any], says: str) -> None:
    result = call(**options)
    assert result["failed"]
    assert says in result["msg"]


@needs_root
@needs_tools
def test_a_network_that_is_not_here_is_passed_over(call: Call) -> None:
    result = call(forward=False, networks=[{"id": NETWORK, "mss4": 1310}])
    assert (result["changed"], result["notes"]) == (False, [f"{NETWORK}: {_mss_plan.NOBODY}"])
    assert "mitigation" in result["cure"]


def test_without_nft_forwarded_traffic_is_left_to_iptables_and_overlays_are_refused(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mss_plan._commands, "find", lambda name: None)
    assert "Neither nft nor iptables" in call()["msg"]
    assert "install nftables" in call(networks=[{"id": NETWORK, "mss4": 1310}])["msg"]


class TestFiles:
    @pytest.fixture
    def places(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        for name in ("RULES", "UNIT", "WANTED"):
            monkeypatch.setattr(_mss_unit, name, str(tmp_path / getattr(_mss_unit, name).lstrip("/")))
        monkeypatch.setattr(_mss_unit, "RUNNING", str(tmp_path / "nowhere"))
        return tmp_path

    def test_what_is_written_is_as_planned_and_undone_without_a_trace(self, places: Path) -> None:
        texts = _mss_unit.nft_files("/usr/sbin/nft", _mss.forward_table(["eth0"]))
        journal = Journal("test", str(places / "journal"))
        files = _mss_unit.plan(texts)
        assert all(file.changed for file in files)
        _mss_unit.write(files, journal, "/usr/bin/systemctl")
        assert not any(file.changed for file in _mss_unit.plan(texts))
        assert f"ExecStart=/usr/sbin/nft -f {_mss_unit.RULES}\n" in Path(_mss_unit.UNIT).read_text()
        assert Path(_mss_unit.WANTED).readlink() == Path(_mss_unit.UNIT)
        Path(_mss_unit.RULES).chmod(0o666)
        assert [file.changed for file in _mss_unit.plan(texts)] == [True, False, False]
        journal.roll_back()
        assert not list(places.glob("etc"))

    def test_absence_removes_them(self, places: Path) -> None:
        texts = _mss_unit.nft_files("/usr/sbin/nft", _mss.forward_table([]))
        _mss_unit.write(_mss_unit.plan(texts), Journal(""), None)
        _mss_unit.write(_mss_unit.plan({}), Journal(""), None)
        assert not [entry for entry in places.rglob("*") if not entry.is_dir()]

    def test_something_else_in_their_place_is_left_alone(self, places: Path) -> None:
        Path(_mss_unit.RULES).mkdir(parents=True)
        with pytest.raises(_mss.MssError, match="Move it away"):
            _mss_unit.plan({})

    @needs_root
    @needs_tools
    def test_nft_loads_the_file_any_number_of_times(self, places: Path) -> None:
        text = _mss_unit.nft_files("nft", _mss.forward_table(["eth0", "eth1.5"]))[_mss_unit.RULES]
        file = places / "mss.nft"
        file.write_text(text)
        with namespace() as name:
            for _number in range(2):
                run(name, "nft", "-f", str(file))
            assert run(name, "nft", "list", "ruleset").count("maxseg size set rt mtu") == 2

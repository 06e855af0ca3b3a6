# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _netlink, _netns, _routes
from tests.unit.plugins.module_utils.namespace import namespace, needs_root, run
from tests.unit.plugins.module_utils.netlink_messages import attribute, message

EMPTY = {"oif": None, "src": None, "gateway": None, "table": None, "type": None}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("192.0.2.11", "192.0.2.11"),
        ("192.0.2.11:2377", "192.0.2.11"),
        ("[2001:db8::1]:2377", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("0.0.0.0:2377", None),
        ("239.1.1.1", None),
        ("127.0.0.1", None),
        ("node1:2377", None),
        ("[", None),
        ("", None),
        (None, None),
        (5, None),
    ],
)
def test_addresses_of_peers(value: Any, expected: str | None) -> None:
    assert _routes.address(value) == expected


@given(st.text())
def test_any_text_may_stand_for_an_address(text: str) -> None:
    assert _routes.address(text) is None or isinstance(_routes.address(text), str)


def facts() -> dict[str, Any]:
    """What one host knows about others."""
    tunnel = {"index": 9, "name": "vxlan0", "vxlan": {"port": 4789, "local": None, "group": "239.1.1.1"}}
    return {
        "swarm": {
            "node_addr": "192.0.2.11",
            "data_path_addr": None,
            "managers": [{"node_id": "a", "addr": "192.0.2.11:2377"}, {"node_id": "b", "addr": "192.0.2.14:2377"}],
            "nodes": [{"addr": "192.0.2.12"}, {"addr": "0.0.0.0"}, {"addr": None}],
        },
        "networks": [{"peers": [{"name": "x", "ip": "192.0.2.13"}, {"name": "y", "ip": None}]}],
        "namespaces": [
            {
                "kind": "host",
                "links": [{"index": 4, "name": "eth0", "vxlan": None}],
                "addresses": [{"index": 4, "ip": "192.0.2.11"}],
                "fdb": [{"index": 4, "dst": "203.0.113.1"}],
            },
            {
                "kind": "overlay",
                "links": [tunnel],
                "addresses": [{"index": 9, "ip": "192.0.2.12"}],
                "fdb": [
                    {"index": 9, "dst": "192.0.2.9"},
                    {"index": 9, "dst": None},
                    {"index": 9, "dst": "2001:db8::9"},
                ],
            },
        ],
    }


def test_peers_are_all_others_that_tunnels_and_the_cluster_know() -> None:
    expected = ["192.0.2.9", "192.0.2.12", "192.0.2.13", "192.0.2.14", "2001:db8::9"]
    assert _routes.peers(facts()) == expected


def test_peers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_routes, "PEERS_LIMIT", 2)
    assert _routes.peers(facts()) == ["192.0.2.9", "192.0.2.12"]


def test_the_underlay_address_is_the_data_paths_then_the_nodes_then_a_tunnels() -> None:
    one = facts()
    assert _routes.underlay(one) == "192.0.2.11"
    one["swarm"]["data_path_addr"] = "198.51.100.11"
    assert _routes.underlay(one) == "198.51.100.11"
    one["swarm"].update(data_path_addr=None, node_addr=None)
    assert _routes.underlay(one) is None
    one["namespaces"][1]["links"][0]["vxlan"]["local"] = "192.0.2.77"
    assert _routes.underlay(one) == "192.0.2.77"


def test_a_host_that_knows_nobody_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one = facts()
    one["swarm"] = {"node_addr": None, "data_path_addr": None, "managers": [], "nodes": []}
    one["networks"], one["namespaces"][1]["fdb"] = [], []
    monkeypatch.setattr(_routes, "Kernel", None)
    assert _routes.read_paths(one) == ([], [])


def newroute(*attributes: bytes, table: int = 254, kind: int = 1) -> bytes:
    return message(24, _routes.RTMSG.pack(2, 32, 0, 0, table, 0, 0, kind, 0) + b"".join(attributes), flags=0)


def test_an_answer_of_the_kernel() -> None:
    u32 = struct.Struct("=I").pack
    raw = newroute(
        attribute(_routes.RTA_TABLE, u32(51820)),
        attribute(_routes.RTA_OIF, u32(4)),
        attribute(_routes.RTA_PREFSRC, bytes((192, 0, 2, 11))),
        attribute(_routes.RTA_GATEWAY, bytes((192, 0, 2, 1))),
        table=252,
    )
    expected = {"oif": 4, "src": "192.0.2.11", "gateway": "192.0.2.1", "table": 51820, "type": "unicast"}
    assert _routes.answer(raw, 0, len(raw)) == expected
    via = newroute(attribute(_routes.RTA_VIA, b"\x0a\x00" + bytes(15) + b"\1"), kind=77)
    assert _routes.answer(via, 0, len(via)) == {**EMPTY, "gateway": "::1", "table": 254, "type": "77"}


@given(st.binary(max_size=120))
def test_any_bytes_are_an_answer(raw: bytes) -> None:
    assert set(_routes.answer(raw, 0, len(raw))) == set(EMPTY)


SETUP = """\
ip link set lo up
ip link add v0 type veth peer name v1
ip link add w0 type veth peer name w1
ip addr add 192.0.2.11/24 dev v0
ip addr add 198.51.100.11/24 dev w0
ip link set v0 up
ip link set v1 up
ip link set w0 up
ip link set w1 up
ip route add 203.0.113.0/24 via 192.0.2.1
ip route add blackhole 203.0.113.9/32
ip route add unreachable 203.0.113.10/32
ip route add 203.0.113.11/32 via 192.0.2.2 table 77 src 198.51.100.11
ip rule add to 203.0.113.11 lookup 77
ip route add 192.0.2.14/32 dev w0
"""


@pytest.fixture
def kernel() -> Iterator[tuple[_routes.Kernel, dict[str, int], str]]:
    """A kernel to ask, the indexes of its links, and the name of its namespace."""
    pytest.importorskip("pyroute2")
    with namespace() as name:
        for line in SETUP.splitlines():
            run(name, *line.split())
        with _netns.inside(f"/run/netns/{name}"), _routes.Kernel() as one:
            yield one, {link["name"]: link["index"] for link in _netlink.read_links()[0]}, name


def as_facts(links: dict[str, int], *peers: str) -> dict[str, Any]:
    one = facts()
    one["swarm"].update(nodes=[{"addr": peer} for peer in peers], managers=[])
    one["networks"], one["namespaces"][1]["fdb"] = [], []
    one["namespaces"][0].update(
        links=[{"index": index, "name": name, "vxlan": None} for name, index in links.items()],
        addresses=[{"index": links["v0"], "ip": "192.0.2.11"}, {"index": links["w0"], "ip": "198.51.100.11"}],
    )
    return one


@needs_root
def test_where_a_packet_goes(kernel: tuple[_routes.Kernel, dict[str, int], str]) -> None:
    one, links, _name = kernel
    link = {"oif": links["v0"], "src": "192.0.2.11", "gateway": None, "table": 254, "type": "unicast"}
    assert one.ask(_routes.question("192.0.2.12")) == (link, None)
    assert one.ask(_routes.question("203.0.113.1")) == ({**link, "gateway": "192.0.2.1"}, None)
    policy = {**link, "gateway": "192.0.2.2", "src": "198.51.100.11", "table": 77}
    assert one.ask(_routes.question("203.0.113.11")) == (policy, None)
    assert one.ask(_routes.question("203.0.113.9")) == (EMPTY, "EINVAL")
    assert one.ask(_routes.question("203.0.113.10")) == (EMPTY, "EHOSTUNREACH")
    assert one.ask(_routes.question("10.9.9.9")) == (EMPTY, "ENETUNREACH")
    assert one.ask(_routes.question("2001:db8::9"))[1] == "ENETUNREACH"


@needs_root
def test_what_becomes_of_a_packet_that_is_received(kernel: tuple[_routes.Kernel, dict[str, int], str]) -> None:
    one, links, name = kernel
    run(name, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.v0.rp_filter=0")
    paths, back = _routes.read_paths(as_facts(links, "192.0.2.12", "192.0.2.14", "10.9.9.9"))
    assert [(path["dst"], path["oif"], path["error"]) for path in paths] == [
        ("10.9.9.9", None, "ENETUNREACH"),
        ("192.0.2.12", links["v0"], None),
        ("192.0.2.14", links["w0"], None),
    ]
    assert [(row["src"], row["iif"], row["error"]) for row in back if row["src"] != "10.9.9.9"] == [
        ("192.0.2.12", links["v0"], None),
        ("192.0.2.14", links["v0"], None),
    ]
    run(name, "sysctl", "-qw", "net.ipv4.conf.v0.rp_filter=1")
    before = run(name, "cat", "/proc/net/netstat")
    back = _routes.read_paths(as_facts(links, "192.0.2.12", "192.0.2.14"))[1]
    assert (back[0]["src"], back[0]["error"]) == ("192.0.2.12", None)
    assert back[1]["error"] in ("EINVAL", "EXDEV")  # since 6.15 or so, and before
    assert run(name, "cat", "/proc/net/netstat") == before
    # Not for this host: it would have to be forwarded, and may not.
    run(name, "sysctl", "-qw", "net.ipv4.conf.v0.rp_filter=0", "net.ipv4.conf.v0.forwarding=0")
    assert one.ask(_routes.question("203.0.113.1", "192.0.2.12", links["v0"]))[1] == "EHOSTUNREACH"


@needs_root
def test_nothing_is_asked_that_the_kernel_would_log(kernel: tuple[_routes.Kernel, dict[str, int], str]) -> None:
    _one, links, name = kernel
    run(name, "sysctl", "-qw", "net.ipv4.conf.v0.log_martians=1")
    paths, back = _routes.read_paths(as_facts(links, "192.0.2.12"))
    assert (len(paths), back) == (1, [])


@needs_root
def test_an_underlay_address_that_is_not_here_leaves_the_choice_to_the_route(
    kernel: tuple[_routes.Kernel, dict[str, int], str],
) -> None:
    _one, links, _name = kernel
    one = as_facts(links, "192.0.2.12", "198.51.100.12")
    one["swarm"]["node_addr"] = "203.0.113.200"  # what others see behind a translation
    back = {row["src"]: row["iif"] for row in _routes.read_paths(one)[1]}
    assert (back["192.0.2.12"], back["198.51.100.12"]) == (links["v0"], links["w0"])


def test_whether_refused_packets_are_logged(tmp_path: Path) -> None:
    for name, value in (("all", "0"), ("eth0", "1"), ("eth1", "0")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log_martians").write_text(f"{value}\n")
    conf = str(tmp_path)
    assert [_routes.logs_martians(name, conf) for name in ("eth0", "eth1", "gone", None)] == [True, False, False, False]
    (tmp_path / "all" / "log_martians").write_text("1\n")
    assert _routes.logs_martians("eth1", conf)


def test_a_time_that_is_over_ends_the_questions() -> None:
    assert list(_routes._until(0.0, ["a", "b"])) == []

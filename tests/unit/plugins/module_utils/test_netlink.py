# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.crosshost.doctor.plugins.module_utils import _netlink, _netns
from tests.unit.plugins.module_utils.namespace import namespace, needs_root, run

pytest.importorskip("pyroute2")

SETUP = """\
ip link set lo up
ip link add vxlan0 type vxlan id 4097 dstport 4789 nolearning proxy l2miss l3miss local 192.0.2.1 ttl 4 df set
ip link add vxlan6 type vxlan id 4098 dstport 8472 remote 2001:db8::9 local 2001:db8::1
ip link add br0 type bridge
ip link set vxlan0 master br0
ip link add v0 type veth peer name v1
ip link set v0 master br0
bridge link set dev v0 hairpin on isolated on
ip link set br0 up
ip link set vxlan0 up
ip link set v0 up
ip link set v1 up mtu 1400
ip addr add 10.0.1.5/24 dev v1
ip addr add 10.0.1.6/24 dev v1
ip -6 addr add 2001:db8::5/64 dev v1 nodad
ip route add default via 10.0.1.1
ip route add 10.9.0.0/16 nexthop via 10.0.1.2 weight 2 nexthop via 10.0.1.3
ip route add blackhole 10.8.0.0/16
ip route add local 10.6.0.0/16 dev lo
ip route add 10.7.0.0/16 via inet6 fe80::1 dev v1 mtu lock 1400 src 10.0.1.6 table 77 metric 5
ip rule add not fwmark 0xca6c/0xffff table 51820 pref 100
ip rule add table main suppress_prefixlength 0 pref 99
ip rule add from 10.1.0.0/16 iif v1 ipproto udp dport 4789-4800 lookup 52 pref 98
ip rule add blackhole to 10.3.0.1 pref 7
ip rule add pref 5 goto 99
tc qdisc add dev v1 clsact
tc filter add dev v1 ingress protocol ip prio 1 u32 match ip dst 192.0.2.4 flowid 1:1
tc qdisc add dev v0 root tbf rate 1mbit burst 10k latency 10ms
"""


@pytest.fixture(scope="module")
def read() -> Iterator[dict[str, Any]]:
    """What our readers and iproute2 say about one made namespace."""
    with namespace() as name:
        for line in SETUP.splitlines():
            run(name, *line.split())
        with _netns.inside(f"/run/netns/{name}"):
            answers: dict[str, Any] = {
                "links": _netlink.read_links(),
                "addresses": _netlink.read_addresses(),
                "routes": _netlink.read_routes(),
                "rules": _netlink.read_rules(),
                "tc": _netlink.read_tc(),
            }
        assert all(answer[1] for answer in answers.values())
        found = {what: answer[0] for what, answer in answers.items()}
        found["names"] = {link["name"]: link for link in found["links"]}
        found["ip link"] = json.loads(run(name, "ip", "-j", "-d", "link"))
        found["ip addr"] = json.loads(run(name, "ip", "-j", "addr"))
        yield found


@needs_root
def test_links_are_those_of_ip(read: dict[str, Any]) -> None:
    shown = [(one["ifindex"], one["ifname"], one["mtu"], one["address"], one["operstate"]) for one in read["ip link"]]
    ours = [(one["index"], one["name"], one["mtu"], one["mac"], one["operstate"]) for one in read["links"]]
    assert sorted(ours) == sorted(shown)
    assert {one["name"]: one["kind"] for one in read["links"]} == {
        one["ifname"]: one.get("linkinfo", {}).get("info_kind") for one in read["ip link"]
    }
    for one in read["ip link"]:
        assert read["names"][one["ifname"]]["up"] == ("UP" in one["flags"])
        assert read["names"][one["ifname"]]["lower_up"] == ("LOWER_UP" in one["flags"])


@needs_root
def test_a_tunnel_has_its_attributes(read: dict[str, Any]) -> None:
    assert read["names"]["vxlan0"]["vxlan"] == {
        "vni": 4097,
        "port": 4789,
        "local": "192.0.2.1",
        "group": None,
        "learning": False,
        "proxy": True,
        "l2miss": True,
        "l3miss": True,
        "ttl": 4,
        "df": "set",
        "external": False,
        "link": None,
    }
    six = read["names"]["vxlan6"]["vxlan"]
    assert (six["local"], six["group"], six["port"]) == ("2001:db8::1", "2001:db8::9", 8472)


@needs_root
def test_bridge_ports_and_veth_peers(read: dict[str, Any]) -> None:
    port, peer = read["names"]["v0"], read["names"]["v1"]
    assert port["master"] == read["names"]["br0"]["index"]
    assert port["bridge_port"] == {"state": "forwarding", "hairpin": True, "learning": True, "isolated": True}
    assert (port["link"], peer["link"]) == (peer["index"], port["index"])
    assert peer["bridge_port"] is None


@needs_root
def test_addresses_are_those_of_ip(read: dict[str, Any]) -> None:
    shown = {
        (one["ifindex"], entry["local"], entry["prefixlen"], entry["scope"])
        for one in read["ip addr"]
        for entry in one["addr_info"]
    }
    assert {(one["index"], one["ip"], one["prefix"], one["scope"]) for one in read["addresses"]} == shown
    assert [one["ip"] for one in read["addresses"] if one["secondary"]] == ["10.0.1.6"]


@needs_root
def test_routes_of_every_table(read: dict[str, Any]) -> None:
    routes = {(one["table"], one["dst"]): one for one in read["routes"] if one["family"] == 4}
    v1 = read["names"]["v1"]["index"]
    assert (routes[254, "default"]["gateway"], routes[254, "default"]["oif"]) == ("10.0.1.1", v1)
    assert routes[254, "10.8.0.0/16"]["type"] == "blackhole"
    assert routes[254, "10.0.1.0/24"]["src"] == "10.0.1.5"
    assert routes[254, "10.0.1.0/24"]["scope"] == "link"
    special = routes[77, "10.7.0.0/16"]
    assert (special["gateway"], special["mtu"], special["src"], special["metric"]) == ("fe80::1", 1400, "10.0.1.6", 5)
    assert [one["gateway"] for one in read["routes"] if one["dst"] == "10.9.0.0/16"] == ["10.0.1.2", "10.0.1.3"]


@needs_root
def test_local_routes_that_somebody_made_are_kept_and_the_kernels_are_not(read: dict[str, Any]) -> None:
    local = [one for one in read["routes"] if one["table"] == 255]
    assert [(one["dst"], one["type"]) for one in local] == [("10.6.0.0/16", "local")]


@needs_root
def test_rules_with_all_that_decides(read: dict[str, Any]) -> None:
    rules = {one["priority"]: one for one in read["rules"] if one["family"] == 4}
    assert (rules[100]["fwmark"], rules[100]["fwmask"], rules[100]["invert"]) == (0xCA6C, 0xFFFF, True)
    assert rules[99]["suppress_prefix"] == 0
    assert rules[100]["suppress_prefix"] is None
    selective = rules[98]
    assert (selective["src"], selective["iif"], selective["ip_proto"]) == ("10.1.0.0/16", "v1", 17)
    assert (selective["dport"], selective["table"]) == ([4789, 4800], 52)
    assert (rules[7]["action"], rules[7]["dst"]) == ("blackhole", "10.3.0.1/32")
    assert (rules[5]["action"], rules[5]["goto"]) == ("goto", 99)
    assert {0, 32766, 32767} <= set(rules)


@needs_root
def test_traffic_control_that_may_drop(read: dict[str, Any]) -> None:
    v0, v1 = read["names"]["v0"]["index"], read["names"]["v1"]["index"]
    assert read["tc"] == [
        {"index": v1, "attach": "ingress", "kind": "u32", "id": None},
        {"index": v0, "attach": "root", "kind": "tbf", "id": None},
    ] or read["tc"] == [
        {"index": v0, "attach": "root", "kind": "tbf", "id": None},
        {"index": v1, "attach": "ingress", "kind": "u32", "id": None},
    ]


def test_the_drivers_of_network_cards(tmp_path: Path) -> None:
    (tmp_path / "drivers" / "virtio_net").mkdir(parents=True)
    for name, index in (("eth0", 2), ("eth1", 7), ("docker0", 4), ("dummy", 5)):
        (tmp_path / name / "device").mkdir(parents=True)
        (tmp_path / name / "ifindex").write_text(f"{index}\n")
        if name != "dummy":
            (tmp_path / name / "device" / "driver").symlink_to(tmp_path / "drivers" / "virtio_net")
    kinds = {"lo": (1, None), "eth0": (2, None), "eth1": (3, None), "docker0": (4, "bridge"), "dummy": (5, None)}
    kinds["veth1"] = (6, "veth")
    links = [{"name": name, "index": index, "kind": kind, "driver": None} for name, (index, kind) in kinds.items()]
    _netlink.name_drivers(links, str(tmp_path))
    found = {link["name"]: link["driver"] for link in links}
    # eth1 of the files is a link of another namespace.
    assert found == dict.fromkeys(kinds) | {"eth0": "virtio_net", "veth1": "veth"}


def test_a_routing_table_beyond_the_limit_is_cut_off_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_netlink, "ROUTE_LIMIT", 2)
    consumer = _netlink._Routes()
    message = bytes(16) + bytes((2, 0, 0, 0, 254, 3, 0, 1)) + bytes(4)
    assert len(consumer(iter([(message, 0, len(message))] * 5))) == 2
    assert consumer.left_out == 3

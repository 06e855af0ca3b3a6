# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs that a tap cannot see the victims of are named, on the interface that they are on and on those below it."""

from __future__ import annotations

from typing import Any

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.bpf_programs import programs_after, programs_before
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.hops import NIC, Hop

NAMESPACE = "4026531840"


def host(links: list[dict[str, Any]], **facts: Any) -> Host:
    namespace = {"key": NAMESPACE, "kind": "host", "links": links, **facts}
    return Host("node1", snapshots={"before": HostFacts("node1", {"namespaces": [namespace]})})


def link(index: int, name: str, **facts: Any) -> dict[str, Any]:
    return {"index": index, "name": name, "kind": None, "master": None, "link": None, "xdp": None, **facts}


def hop(index: int, namespace: str = NAMESPACE) -> Hop:
    return Hop(NIC, "node1", namespace, index)


def test_xdp_comes_before_the_tap_of_what_is_received() -> None:
    made = host([link(2, "eth0", xdp={"mode": 2, "id": 12}), link(3, "eth1")])
    assert programs_before(made, hop(2)) == ["XDP program 12 on eth0"]
    assert programs_before(made, hop(2), "in") == ["XDP program 12 on eth0"]
    assert programs_before(made, hop(2), "out") == []
    assert programs_before(made, hop(3)) == []
    assert programs_after(made, hop(2)) == []


def test_tc_at_egress_comes_before_the_tap_and_at_ingress_after_it() -> None:
    tc = [
        {"index": 2, "attach": "egress", "kind": "bpf", "id": 5},
        {"index": 2, "attach": "ingress", "kind": "u32", "id": None},
        {"index": 2, "attach": "root", "kind": "netem", "id": None},
        {"index": 3, "attach": "egress", "kind": "tcx", "id": 6},
    ]
    made = host([link(2, "eth0"), link(3, "eth1")], tc=tc)
    assert programs_before(made, hop(2)) == ["bpf egress program 5 on eth0"]
    assert programs_before(made, hop(2), "in") == []
    assert programs_after(made, hop(2)) == ["u32 ingress program on eth0"]


def test_what_is_below_a_vlan_on_a_bond_sees_packets_first() -> None:
    made = host(
        [
            link(2, "eth0", master=4, xdp={"mode": 1, "id": 1}),
            link(3, "eth1", master=4, xdp={"mode": 1, "id": 2}),
            link(4, "bond0", kind="bond"),
            link(5, "bond0.7", kind="vlan", link=4, xdp={"mode": 2, "id": 3}),
            link(6, "veth1", kind="veth", link=2),
        ]
    )
    words = ["XDP program 3 on bond0.7", "XDP program 1 on eth0", "XDP program 2 on eth1"]
    assert programs_before(made, hop(5)) == words
    assert programs_before(made, hop(6)) == []  # the other end of a veth is not below it


def test_a_parent_in_another_namespace_is_not_looked_up_by_its_number() -> None:
    made = host([link(2, "eth0", xdp={"mode": 1, "id": 1}), link(5, "mv0", kind="macvlan", link=2, link_netnsid=0)])
    assert programs_before(made, hop(5)) == []


def test_links_that_hang_in_a_circle_end() -> None:
    made = host([link(2, "a", kind="vlan", link=3), link(3, "b", kind="vlan", link=2, xdp={"mode": 2, "id": 9})])
    assert programs_before(made, hop(2)) == ["XDP program 9 on b"]


def test_netfilter_programs_of_the_namespace_come_after_the_tap() -> None:
    rows = [
        {"type": "netfilter", "attach": "prerouting", "family": "ip", "program": 77},
        {"type": "netns", "attach": "flow_dissector", "program": 78},
    ]
    made = host([link(2, "eth0")], bpf_links=rows)
    assert programs_before(made, hop(2)) == []
    (words,) = programs_after(made, hop(2))
    assert "77" in words
    assert "prerouting" in words


def test_a_namespace_or_link_that_nobody_knows_has_none() -> None:
    made = host([link(2, "eth0", xdp={"mode": 2, "id": 12})])
    assert programs_before(made, hop(99)) == []
    assert programs_before(made, hop(2, "1")) == []
    assert programs_after(made, hop(2, "1")) == []

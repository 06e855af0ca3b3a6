# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Source addresses, translation, advertised addresses, reverse path filtering and policy routes, on made fleets."""

from __future__ import annotations

import copy

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts, Namespace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.ways import routed, way
from tests.unit.made_fleet import address, make_fleet, run_case

FAMILY = {"source-vtep-mismatch", "snat-outer", "wrong-advertise-addr", "multi-nic-rpfilter", "vpn-policy-route"}
SECOND = "192.0.2.200"


def root(fleet: Fleet, number: int) -> dict:
    return fleet.hosts[f"node{number}"].facts.root.facts


def answers(fleet: Fleet, number: int, **peers: dict) -> None:
    """The kernel's own answers of a host: right ones, but for the peers that are named."""
    others = [n for n in range(1, len(fleet.hosts) + 1) if n != number]
    root(fleet, number)["paths"] = [
        {"dst": address(n), "oif": 2, "src": address(number), "gateway": None, "table": 254, "error": None}
        | peers.get(f"node{n}", {})
        for n in others
    ]


def overlay_between(*names: str):
    return lambda p, k: "timeout" if p.kind == "overlay" and set(names) == set(p.hosts) else None


def all_between(*names: str):
    return lambda p, k: "timeout" if set(names) == set(p.hosts) and not k.startswith("udp") else None


def loud(case) -> list[tuple]:
    return [(f.cause, f.hosts, f.severity) for f in case.findings if f.severity != "info"]


def family(case) -> list[str]:
    return [f.cause for f in case.findings if f.cause in FAMILY]


# ---- source-vtep-mismatch


def test_a_source_that_is_not_the_advertised_address_breaks_the_tunnel():
    fleet = make_fleet(3)
    answers(fleet, 2, node3={"src": SECOND})
    case = run_case(fleet, overlay_between("node2", "node3"))
    assert loud(case) == [("source-vtep-mismatch", ["node2"], "critical")]
    finding = case.findings[0]
    assert (finding.segment, finding.direction, finding.confidence) == ("host-stack", "out", "likely")
    assert set(finding.explains) == {o.pair.id for o in case.broken}
    assert SECOND in finding.summary and address(2) in finding.summary
    assert "ip route replace 192.0.2.3/32 dev eth0 src 192.0.2.2" in finding.remedies[0].manual[0]


def test_what_the_receiver_saw_confirms_it():
    fleet = make_fleet(3)
    answers(fleet, 2, node3={"src": SECOND})
    root(fleet, 3)["conntrack"] = [{"protocol": "udp", "src": SECOND, "dst": address(3), "dport": 4789}]
    case = run_case(fleet, overlay_between("node2", "node3"))
    assert [f.confidence for f in case.findings] == ["confirmed"]


def test_a_source_nobody_drops_is_no_fault():
    fleet = make_fleet(3)
    answers(fleet, 2, node3={"src": SECOND})
    assert family(run_case(fleet)) == []


def test_a_tunnel_with_an_address_of_its_own_asks_no_route():
    fleet = make_fleet(3)
    answers(fleet, 2, node3={"src": SECOND})
    for namespace in fleet.hosts["node2"].facts.namespaces:
        for link in namespace.vxlan_links:
            link["vxlan"]["local"] = address(2)
    assert family(run_case(fleet, overlay_between("node2", "node3"))) == []


def test_without_the_kernels_answer_the_route_tells_the_source():
    fleet = make_fleet(3)
    row = {"family": 4, "table": 254, "dst": "192.0.2.3/32", "oif": 2, "type": "unicast", "src": SECOND}
    root(fleet, 2)["routes"].append(row)
    case = run_case(fleet, overlay_between("node2", "node3"))
    assert loud(case) == [("source-vtep-mismatch", ["node2"], "critical")]


def test_right_sources_are_named_as_the_reason_against_it():
    fleet = make_fleet(3)
    for number in (1, 2, 3):
        answers(fleet, number)
    case = run_case(fleet, overlay_between("node2", "node3"))
    rejected = {cause for f in case.findings for cause, _because in f.rejected}
    assert "source-vtep-mismatch" in rejected
    assert family(case) == []


# ---- snat-outer


def tracked(source: str) -> dict:
    return {
        "protocol": "udp",
        "src": address(2),
        "dst": address(3),
        "sport": 41785,
        "dport": 4789,
        "reply_src": address(3),
        "reply_dst": source,
        "status": [],
        "timeout": 29,
    }


def test_a_tunnel_whose_source_is_rewritten():
    fleet = make_fleet(3)
    root(fleet, 2)["conntrack"] = [tracked(SECOND)]
    case = run_case(fleet, overlay_between("node2", "node3"))
    assert loud(case) == [("snat-outer", ["node2"], "critical")]
    assert (case.findings[0].segment, case.findings[0].confidence) == ("nat", "confirmed")
    assert set(case.findings[0].explains) == {o.pair.id for o in case.broken}


@pytest.mark.parametrize("source", [address(2)])
def test_a_masquerade_to_the_same_address_changes_nothing(source: str):
    fleet = make_fleet(3)
    root(fleet, 2)["conntrack"] = [tracked(source)]
    assert family(run_case(fleet, overlay_between("node2", "node3"))) == []


def test_a_rewritten_tunnel_that_works_is_no_fault():
    fleet = make_fleet(3)
    root(fleet, 2)["conntrack"] = [tracked(SECOND)]
    assert family(run_case(fleet)) == []


def test_an_old_entry_to_another_port_is_not_the_tunnel():
    fleet = make_fleet(3)
    root(fleet, 2)["conntrack"] = [tracked(SECOND) | {"dport": 53}]
    assert family(run_case(fleet, overlay_between("node2", "node3"))) == []


def rejected(case) -> dict[str, str]:
    return {cause: because for finding in case.findings for cause, because in finding.rejected}


def test_an_untouched_tunnel_speaks_against_translation():
    fleet = make_fleet(3)
    root(fleet, 2)["conntrack"] = [tracked(address(2))]
    root(fleet, 3)["conntrack"] = [tracked(address(3)) | {"src": address(3), "dst": address(2)}]
    case = run_case(fleet, overlay_between("node2", "node3"))
    assert rejected(case)["snat-outer"] == "connection tracking of node2, node3 has the tunnel with its own source"
    root(fleet, 3)["conntrack"] = []
    assert "snat-outer" not in rejected(run_case(fleet, overlay_between("node2", "node3")))


def test_a_filter_that_refused_nothing_is_ruled_out():
    fleet = make_fleet(3)
    for number in (2, 3):
        host = fleet.hosts[f"node{number}"]
        root(fleet, number)["counters"]["netstat"] = {"TcpExt.IPReversePathFilter": 7}
        facts = copy.deepcopy(host.facts.facts) | {"started": 10.0, "finished": 11.0}
        host.snapshots["after"] = HostFacts(host.name, facts)
    case = run_case(fleet, overlay_between("node2", "node3"))
    assert rejected(case)["multi-nic-rpfilter"] == "IPReversePathFilter of node2, node3 did not rise"


# ---- wrong-advertise-addr


def advertise(fleet: Fleet, number: int, text: str, *, on_nic: bool = False) -> None:
    fleet.hosts[f"node{number}"].facts.facts["swarm"]["data_path_addr"] = text
    fleet.hosts[f"node{number}"].__dict__.pop("underlay_ip", None)
    if on_nic:
        root(fleet, number)["links"].append({"index": 9, "name": "priv0", "kind": "dummy", "up": True})
        root(fleet, number)["addresses"].append({"index": 9, "family": 4, "ip": text, "prefix": 24})
        fleet.hosts[f"node{number}"].facts.__dict__.pop("addresses", None)


def unreached(name: str):
    """What goes to a host's advertised address is lost; what it asks itself is answered."""

    def broken(pair, key):
        if key.startswith("udp"):
            return None
        return "timeout" if pair.dst.host == name or (pair.kind == "overlay" and name in pair.hosts) else None

    return broken


@pytest.mark.parametrize("on_nic", [False, True])
def test_an_advertised_address_nobody_comes_to(on_nic: bool):
    fleet = make_fleet(3)
    advertise(fleet, 2, "198.51.100.77", on_nic=on_nic)
    published = {"protocol": "tcp", "port": 80, "host_ip": "0.0.0.0", "host_port": 8080}
    fleet.hosts["node2"].facts.facts["containers"][0]["ports"] = [published]
    case = run_case(fleet, unreached("node2"))
    assert "hairpin" in {o.pair.kind for o in case.broken}
    assert loud(case) == [("wrong-advertise-addr", ["node2"], "critical")]
    finding = case.findings[0]
    assert (finding.segment, finding.direction) == ("control-plane", "in")
    assert set(finding.explains) == {o.pair.id for o in case.broken}
    (remedy,) = finding.remedies
    assert remedy.role is None and remedy.disruptive
    join = "on node2: docker swarm join --data-path-addr 192.0.2.2 --token TOKEN 192.0.2.1:2377"
    assert (remedy.manual[0].split(":")[0], remedy.manual[-1]) == ("on node1", join)


@pytest.mark.parametrize(("known", "alone"), [(["id1"], True), (["id1", "id9"], False), ([], False)])
def test_only_the_only_manager_corrects_its_address_where_it_is(known: list[str], alone: bool):
    """With managers that were not asked, a cluster made anew would be a second one."""
    fleet = make_fleet(3)
    advertise(fleet, 1, "198.51.100.77")
    fleet.hosts["node1"].facts.facts["swarm"]["managers"] = [
        {"node_id": name, "addr": "192.0.2.1:2377"} for name in known
    ]
    case = run_case(fleet, unreached("node1"))
    (found,) = [f for f in case.findings if f.cause == "wrong-advertise-addr"]
    steps = found.remedies[0].manual
    forced = "on node1: docker swarm init --force-new-cluster --data-path-addr 192.0.2.1 "
    assert (len(steps) == 1 and steps[0].startswith(forced)) is alone
    assert any("force-new-cluster" in step for step in steps) is alone


def test_an_address_that_is_translated_one_to_one_works():
    fleet = make_fleet(3)
    advertise(fleet, 2, "198.51.100.77")
    assert family(run_case(fleet)) == []


def test_a_host_that_reaches_nobody_is_not_blamed_for_its_address():
    fleet = make_fleet(3)
    case = run_case(fleet, lambda p, k: "timeout" if "node2" in p.hosts and not k.startswith("udp") else None)
    assert [f.cause for f in case.findings] == ["underlay-unreachable"]


@pytest.mark.parametrize("shown", ["0.0.0.0", "127.0.0.1"])
def test_what_a_managers_node_list_shows_is_not_taken_for_the_address(shown: str):
    fleet = make_fleet(3)
    fleet.hosts["node1"].facts.facts["swarm"]["nodes"] = [
        {"id": "id1", "hostname": "node1", "role": "manager", "state": "ready", "addr": shown, "availability": "active"}
    ]
    assert family(run_case(fleet)) == []


# ---- multi-nic-rpfilter


def two_ways(fleet: Fleet, own: int, every: int, *, error: str | None = "EXDEV") -> None:
    facts = root(fleet, 2)
    facts["links"].append({"index": 3, "name": "eth1", "kind": "veth", "up": True, "lower_up": True})
    facts["sysctls"] |= {"net.ipv4.conf.eth0.rp_filter": own, "net.ipv4.conf.all.rp_filter": every}
    answers(fleet, 2, node3={"oif": 3, "gateway": "203.0.113.3"})
    facts["return_paths"] = [
        {"src": address(1), "iif": 2, "error": None, "oif": 1},
        {"src": address(3), "iif": 2, "error": error, "oif": None},
    ]


@pytest.mark.parametrize(
    ("own", "every", "drops"), [(1, 0, True), (0, 1, True), (1, 2, False), (2, 1, False), (2, 0, False), (0, 0, False)]
)
def test_the_filter_acts_as_the_larger_of_both_keys(own: int, every: int, drops: bool):
    fleet = make_fleet(3)
    two_ways(fleet, own, every)
    case = run_case(fleet, all_between("node2", "node3"))
    assert ("multi-nic-rpfilter" in family(case)) is drops
    if drops:
        assert loud(case) == [("multi-nic-rpfilter", ["node2"], "critical")]
        assert set(case.findings[0].explains) == {o.pair.id for o in case.broken}


def test_a_newer_kernel_says_einval():
    fleet = make_fleet(3)
    two_ways(fleet, 1, 0, error="EINVAL")
    assert loud(run_case(fleet, all_between("node2", "node3"))) == [("multi-nic-rpfilter", ["node2"], "critical")]


def test_a_strict_filter_with_symmetric_routes_drops_nothing():
    fleet = make_fleet(3)
    root(fleet, 2)["sysctls"]["net.ipv4.conf.eth0.rp_filter"] = 1
    answers(fleet, 2)
    root(fleet, 2)["return_paths"] = [{"src": address(n), "iif": 2, "error": None, "oif": 1} for n in (1, 3)]
    assert "multi-nic-rpfilter" not in family(run_case(fleet, all_between("node2", "node3")))


def test_a_counter_that_did_not_move_speaks_against_the_filter():
    fleet = make_fleet(3)
    two_ways(fleet, 1, 0)
    root(fleet, 2)["counters"]["netstat"] = {"TcpExt.IPReversePathFilter": 7}
    host = fleet.hosts["node2"]
    for label, at in (("after", 10.0), ("quiet", 15.0)):
        facts = copy.deepcopy(host.facts.facts) | {"started": at, "finished": at + 1}
        host.snapshots[label] = HostFacts("node2", facts)
    assert "multi-nic-rpfilter" not in family(run_case(fleet, all_between("node2", "node3")))


# ---- vpn-policy-route


def vpn(fleet: Fleet, *, table_has: str | None = "default", rule: dict | None = None, paths: bool = True) -> None:
    facts = root(fleet, 2)
    facts["links"].append({"index": 7, "name": "tailscale0", "kind": "tun", "up": True, "lower_up": True})
    facts["rules"] = [
        {"family": 4, "priority": 0, "table": 255, "action": "lookup"},
        {"family": 4, "priority": 5270, "table": 52, "action": "lookup"} | (rule or {}),
        {"family": 4, "priority": 32766, "table": 254, "action": "lookup"},
    ]
    if table_has:
        facts["routes"].append({"family": 4, "table": 52, "dst": table_has, "oif": 7, "type": "unicast"})
    if paths:
        detour = {"oif": 7, "src": address(2), "table": 52}
        answers(fleet, 2, **({"node1": detour, "node3": detour} if table_has == "default" else {"node3": detour}))


@pytest.mark.parametrize("paths", [True, False])
def test_a_rule_that_sends_peers_into_a_vpn(paths: bool):
    fleet = make_fleet(3)
    vpn(fleet, table_has="192.0.2.3/32", paths=paths)
    case = run_case(fleet, all_between("node2", "node3"))
    assert loud(case) == [("vpn-policy-route", ["node2"], "critical")]
    finding = case.findings[0]
    assert "tailscale0" in finding.summary and "table 52" in finding.summary
    assert set(finding.explains) == {o.pair.id for o in case.broken}


def test_a_vpn_that_carries_the_underlay_and_changes_its_source():
    fleet = make_fleet(3)
    vpn(fleet, table_has="192.0.2.3/32")
    answers(fleet, 2, node3={"oif": 7, "src": "100.64.0.2", "table": 52})
    case = run_case(fleet, overlay_between("node2", "node3"))
    assert loud(case) == [("vpn-policy-route", ["node2"], "critical")]


def test_a_way_through_a_vpn_that_works_is_no_fault():
    fleet = make_fleet(3)
    vpn(fleet)
    assert family(run_case(fleet)) == []


@pytest.mark.parametrize(
    ("table_has", "rule"),
    [
        ("203.0.113.0/24", {}),  # no route to the peers
        (None, {}),  # an empty table
        ("default", {"fwmark": 0xCA6C}),  # marked packets only
        ("default", {"dst": "203.0.113.0/24"}),  # other targets only
        ("default", {"src": "10.0.0.0/8"}),  # packets of a container's source only
        ("default", {"iif": "docker0"}),  # forwarded packets only
        ("default", {"suppress_prefix": 0}),  # its default route is not taken
        ("default", {"invert": True}),  # not from all
    ],
)
def test_a_rule_that_decides_nothing_for_the_peers(table_has: str | None, rule: dict):
    fleet = make_fleet(3)
    vpn(fleet, table_has=table_has, rule=rule, paths=False)
    assert "vpn-policy-route" not in family(run_case(fleet, all_between("node2", "node3")))


def test_a_throw_route_ends_the_table():
    fleet = make_fleet(3)
    vpn(fleet, paths=False)
    thrown = {"family": 4, "table": 52, "dst": "192.0.2.0/24", "oif": None, "type": "throw"}
    root(fleet, 2)["routes"].append(thrown)
    found = routed(fleet.hosts["node2"].facts.root, address(3))
    assert found is not None and found[1]["table"] == 254


# ---- facts that are missing


@pytest.mark.parametrize("lost", ["paths", "routes", "rules", "addresses", "links", "sysctls", "filter", "counters"])
def test_facts_that_are_missing_are_no_fault(lost: str):
    fleet = make_fleet(3)
    root(fleet, 2).pop(lost, None)
    assert family(run_case(fleet, overlay_between("node2", "node3"))) == []


def test_no_swarm_and_an_engine_that_is_down():
    fleet = make_fleet(3)
    for host in fleet.hosts.values():
        host.facts.facts["swarm"] = {}
    fleet.hosts["node2"].facts.facts["namespaces"] = []
    assert family(run_case(fleet)) == []


def test_an_answer_that_changes_between_readings_is_none():
    fleet = make_fleet(2)
    host = fleet.hosts["node2"]
    answers(fleet, 2)
    again = copy.deepcopy(host.facts.facts)
    again["namespaces"][0]["paths"][0]["src"] = SECOND
    host.snapshots["again"] = HostFacts("node2", again)
    assert way(host, address(1)) is None


def test_the_first_primary_address_of_a_device_is_its_source():
    space = Namespace(
        {
            "kind": "host",
            "links": [{"index": 2, "name": "eth0"}],
            "addresses": [
                {"index": 2, "family": 4, "ip": "192.0.2.9", "prefix": 24, "secondary": True},
                {"index": 2, "family": 4, "ip": "203.0.113.2", "prefix": 24},
                {"index": 2, "family": 4, "ip": "192.0.2.2", "prefix": 24},
            ],
            "routes": [{"family": 4, "table": 254, "dst": "192.0.2.0/24", "oif": 2, "type": "unicast"}],
        }
    )
    host = make_fleet(1).hosts["node1"]
    facts = copy.deepcopy(host.facts.facts)
    facts["namespaces"] = [space.facts]
    host.snapshots["before"] = HostFacts("node1", facts)
    found = way(host, "192.0.2.3")
    assert found is not None and found.src == "192.0.2.2"

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is lost between two NICs or not taken behind one: decided by taps, else by counters, never by a guess."""

from __future__ import annotations

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.traced import broken_traces
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.plan import first_round
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace import FORWARD, REPLY
from tests.unit.made_fleet import make_fleet, run_case
from tests.unit.made_trace import follow
from tests.unit.plugins.plugin_utils.causes.docker_fleet import iptables
from tests.unit.plugins.plugin_utils.causes.traced_fleet import (
    FLAT,
    RISING,
    addressed,
    again,
    causes,
    count,
    devices,
    filters_known,
    found,
    lost_case,
    loud,
    overlay_between,
    trace,
    vanish,
    watched,
)
from tests.unit.plugins.plugin_utils.filter_eval.rulesets import filter_of

BLOCKED = "data-udp-blocked-network"
TO_NODE2 = (("node1", "node2"), ("node3", "node2"))
FROM_NODE2 = (("node2", "node1"), ("node2", "node3"))


# ---- data-udp-blocked-network


@pytest.mark.parametrize(
    ("ways", "direction"),
    [(TO_NODE2, "in"), (FROM_NODE2, "out"), (TO_NODE2 + FROM_NODE2, "both")],
)
def test_a_tunnel_lost_between_the_nics_is_the_networks_fault(ways, direction):
    case = trace(lost_case("node2"), alter=vanish(*ways))
    assert found(case) == [(BLOCKED, ["node2"], "underlay", direction, "confirmed", "critical")]
    assert len(loud(case)[0].explains) == 4


def test_between_two_hosts_it_is_on_both():
    case = trace(lost_case("node2", "node3"), alter=vanish(("node2", "node3")))
    assert found(case) == [(BLOCKED, ["node2", "node3"], "underlay", None, "confirmed", "critical")]
    assert "node2 to node3" in loud(case)[0].summary and "node3 to node2" not in loud(case)[0].summary


@pytest.mark.parametrize("traced", [True, False])
def test_a_port_blocked_for_the_whole_fleet_is_one_finding(traced):
    case = lost_case(count=4)
    names = ["node1", "node2", "node3", "node4"]
    if traced:
        case = trace(case, alter=vanish(*[(one, other) for one in names for other in names if one != other]))
    else:
        case = devices(case, **dict.fromkeys(names, (RISING, FLAT)))
    assert found(case) == [(BLOCKED, names, "underlay", None, "confirmed" if traced else "likely", "critical")]
    assert len(loud(case)[0].explains) == 12


def test_what_an_xdp_program_may_have_dropped_is_no_fault_of_the_network():
    case = lost_case("node2")
    link = case.fleet.hosts["node2"].facts.root.link("eth0")
    link["xdp"] = {"id": 12, "mode": 2}
    case = trace(case, alter=vanish(*TO_NODE2))
    assert BLOCKED not in [cause for cause, _hosts in causes(case)]
    assert any("XDP program 12 on eth0" in f.summary and "cannot be told" in f.summary for f in case.findings)


def test_what_leaves_with_a_wrong_address_is_no_fault_of_the_network():
    def astray(direction, hop, sighting):
        kept = vanish(*TO_NODE2)(direction, hop, sighting)
        if kept and kept.get("outer"):
            kept["outer"]["dst"] = "203.0.113.9"
        return kept

    assert BLOCKED not in [cause for cause, _hosts in causes(trace(lost_case("node2"), alter=astray))]


def test_hosts_that_answer_nothing_at_all_have_another_fault():
    case = run_case(filters_known(make_fleet(3)), lambda p, k: "timeout" if "node2" in p.hosts else None)
    case = trace(case, alter=vanish(*TO_NODE2))
    assert {cause for cause, _hosts in causes(case)} == {"underlay-unreachable"}


def test_a_second_nic_on_the_same_subnet_may_have_got_what_the_first_did_not():
    case = lost_case("node2")
    root = case.fleet.hosts["node2"].facts.root
    root.links.append({"index": 3, "name": "eth1", "kind": "veth", "up": True, "lower_up": True})
    root.addresses.append({"index": 3, "family": 4, "ip": "192.0.2.202", "prefix": 24})
    root.__dict__.pop("link_by_index", None)  # it is remembered, and was asked for already
    case = trace(case, alter=vanish(*TO_NODE2))
    assert [(row[0], row[4]) for row in found(case)] == [(BLOCKED, "likely")]


def test_without_taps_the_counters_of_both_devices_say_it_is_likely():
    case = devices(lost_case("node2"), node1=(RISING, RISING), node2=(RISING, FLAT), node3=(RISING, RISING))
    assert found(case) == [(BLOCKED, ["node2"], "underlay", None, "likely", "critical")]


def test_what_arrives_shows_that_the_way_back_is_lost():
    case = devices(lost_case("node2"), node1=(RISING, FLAT), node2=(RISING, RISING), node3=(RISING, FLAT))
    assert found(case) == [(BLOCKED, ["node2"], "underlay", "out", "likely", "critical")]


@pytest.mark.parametrize("unknown", ["filter", "receiver"])
def test_what_could_not_be_read_makes_it_but_possible(unknown):
    case = lost_case("node2")
    if unknown == "filter":
        case.fleet.hosts["node2"].facts.root.facts["filter"] = {"error": "no nft"}
    moved = (RISING, FLAT if unknown == "filter" else RISING)
    case = devices(case, node1=(RISING, RISING), node2=moved, node3=(RISING, RISING))
    assert [row[4] for row in found(case)] == ["possible"]


@pytest.mark.parametrize("trap", ["nothing sent", "xdp", "another network passes", "encrypted"])
def test_counters_alone_do_not_blame_the_network(trap):
    case = lost_case("node2")
    sent = FLAT if trap == "nothing sent" else RISING
    if trap == "xdp":
        case.fleet.hosts["node2"].facts.root.link("eth0")["xdp"] = {"id": 12, "mode": 2}
    if trap == "encrypted":
        next(iter(case.fleet.networks.values())).options["encrypted"] = ""
    if trap == "another network passes":
        for observation in case.broken:
            for results in observation.rounds.values():
                results["dns"] = {"status": "ok", "sent": 1, "received": 1}
                results["icmp"] = {"status": "ok", "sent": 3, "received": 3}
    case = devices(case, node1=(sent, RISING), node2=(sent, FLAT), node3=(sent, RISING))
    assert BLOCKED not in [cause for cause, _hosts in causes(case)]


# ---- tunnel-through-nat


def translated(*senders: str):
    def alter(direction, hop, sighting):
        kept = vanish(*FROM_NODE2, at="vtep")(direction, hop, sighting)
        outer = (kept or {}).get("outer")
        if outer and outer["src"] == "192.0.2.2" and hop.host in senders:
            outer["src"] = "198.51.100.77"
        return kept

    return alter


def test_a_source_that_changes_on_the_way_is_a_nat():
    case = trace(lost_case("node2"), alter=translated("node1", "node3"))
    assert found(case) == [("tunnel-through-nat", ["node2"], "underlay", "out", "confirmed", "critical")]
    assert "198.51.100.77" in loud(case)[0].summary and len(loud(case)[0].explains) == 4


def test_a_source_that_is_wrong_when_it_leaves_is_no_nat_on_the_way():
    case = trace(lost_case("node2"), alter=translated("node1", "node2", "node3"))
    assert "tunnel-through-nat" not in [cause for cause, _hosts in causes(case)]


def test_packets_that_arrive_as_they_left_passed_no_nat():
    case = trace(lost_case("node2"), alter=vanish(*FROM_NODE2, at="vtep"))
    assert "tunnel-through-nat" not in [cause for cause, _hosts in causes(case)]


# ---- vxlan-vni-invalid


def headers(flags: int, vni: int | None, *hosts: str):
    def alter(direction, hop, sighting):
        kept = vanish(*FROM_NODE2, at="vtep")(direction, hop, sighting)
        outer = (kept or {}).get("outer")
        if outer and outer["src"] == "192.0.2.2" and hop.host in hosts:
            outer["flags"] = flags
            kept["vni"] = vni
        return kept

    return alter


@pytest.mark.parametrize(("flags", "vni", "words"), [(0, 4097, "flags 0x00"), (8, 0, "VNI 0"), (8, 7001, "VNI 7001")])
def test_a_header_the_receiver_cannot_take(flags, vni, words):
    case = trace(lost_case("node2"), alter=headers(flags, vni, "node1", "node3"))
    assert found(case) == [("vxlan-vni-invalid", ["node2"], "underlay", "out", "confirmed", "critical")]
    assert words in loud(case)[0].summary
    assert "left node2 right" in loud(case)[0].summary


def test_a_header_that_was_sent_so_is_the_senders_device():
    case = trace(lost_case("node2"), alter=headers(0, 4097, "node1", "node2", "node3"))
    assert [row[:3] for row in found(case)] == [("vxlan-vni-invalid", ["node2"], "vtep")]


@pytest.mark.parametrize("reason", ["VXLAN_INVALID_HDR", "VXLAN_VNI_NOT_FOUND"])
def test_the_kernels_reason_tells_a_bad_header_too(reason):
    case = run_case(filters_known(make_fleet(2)), overlay_between("node1", "node2"))
    case.observations[:] = [o for o in case.observations if o.pair.src.host != "node2" or o.pair.kind != "overlay"]
    case = trace(case, (FORWARD, 4), reason=reason)
    assert [row[:2] for row in found(case)] == [("vxlan-vni-invalid", ["node1"])]


def test_frames_that_a_capture_could_not_follow_are_known_by_what_it_noticed():
    case = lost_case("node2")
    trace(case, alter=vanish(*FROM_NODE2))
    for name in ("node1", "node3"):
        sample = {"outer": {"src": "192.0.2.2", "dst": "192.0.2.1"}, "src": None}
        row = {"kind": "i-flag-unset", "tap": "nic", "count": 6, "sample": sample}
        case.fleet.hosts[name].captures["trace"]["anomalies"] = [row]
    assert found(again(case)) == [("vxlan-vni-invalid", ["node2"], "underlay", "out", "confirmed", "critical")]


def test_somebody_elses_frames_on_the_port_are_no_ones_fault():
    case = lost_case("node2")
    trace(case, alter=vanish(*FROM_NODE2))
    row = {"kind": "vni-unknown", "tap": "nic", "count": 6, "sample": {"outer": {"src": "203.0.113.4"}}}
    for name in ("node1", "node3"):
        case.fleet.hosts[name].captures["trace"]["anomalies"] = [row]
    assert causes(again(case)) == [(BLOCKED, ["node2"])]


# ---- data-udp-blocked-host-fw by the kernel's reason


@pytest.mark.parametrize(
    ("lost", "host", "direction"),
    [((FORWARD, 4), "node2", "in"), ((FORWARD, 2), "node1", "out"), ((REPLY, 2), "node2", "out")],
)
def test_a_filter_whose_rule_nobody_found_is_known_by_the_kernels_reason(lost, host, direction):
    case = run_case(filters_known(make_fleet(2)), overlay_between("node1", "node2"))
    case.observations[:] = [o for o in case.observations if o.pair.src.host != "node2" or o.pair.kind != "overlay"]
    case = trace(case, lost, reason="NETFILTER_DROP")
    expected = ("data-udp-blocked-host-fw", [host], f"host-filter-{direction}", direction, "confirmed", "critical")
    assert found(case) == [expected]


def test_a_traced_rule_is_named():
    case = run_case(filters_known(make_fleet(2)), overlay_between("node1", "node2"))
    case.observations[:] = [o for o in case.observations if o.pair.src.host != "node2" or o.pair.kind != "overlay"]
    trace(case, (FORWARD, 4), reason="NETFILTER_DROP")
    row = {"family": "inet", "table": "guard", "chain": "late", "handle": 7, "verdict": "drop", "type": "rule"}
    for followed in case.traces.values():
        followed.rules = [("node2", row)]
    case = again(case)
    assert "inet guard late handle 7" in loud(case)[0].summary


def test_a_reason_of_somebody_elses_packets_says_nothing():
    case = run_case(filters_known(make_fleet(2)), overlay_between("node1", "node2"))
    case.observations[:] = [o for o in case.observations if o.pair.src.host != "node2" or o.pair.kind != "overlay"]
    trace(case, (FORWARD, 4))
    followed = case.traces["node1/app-1>node2/app-2@app"]
    last = followed.sightings_at(FORWARD, "nic", "node2")[0]["time"]
    event = {"time": last + 0.00002, "reason": "NETFILTER_DROP", "protocol": 0x0800, "location": "x"}
    followed.events["node2"] = [event]
    followed.__dict__.pop("drops", None)
    assert [drop.hits for drop in followed.drops] == [1]
    assert causes(again(case)) == [("unexplained-loss", ["node2"])]


# ---- arp-unanswered


def failed_neighbour(case, number: int, target: int, state: str = "failed") -> None:
    namespace = case.fleet.hosts[f"node{number}"].facts.namespace(f"1{number}")
    row = {"index": 10, "state": state, "flags": [], "entries": [[f"10.0.1.{target}", None]]}
    namespace.facts.setdefault("neighbours", []).append(row)


def test_a_container_that_hears_nothing_to_its_arp_is_named():
    case = lost_case("node2")
    for target in (1, 3):
        failed_neighbour(case, 2, target)
    assert found(again(case)) == [("arp-unanswered", ["node2"], "vtep", None, "likely", "critical")]


def test_a_neighbour_that_was_known_in_one_reading_was_not_unanswered():
    case = lost_case("node2")
    for target in (1, 3):
        failed_neighbour(case, 2, target)
        later = case.fleet.hosts["node2"].snapshots["again"].namespace("12")
        later.facts.setdefault("neighbours", []).append(
            {"index": 10, "state": "reachable", "flags": [], "entries": [[f"10.0.1.{target}", "02:42:0a:00:01:01"]]}
        )
    assert causes(again(case)) == [("unexplained-loss", ["node2"])]


def test_a_failed_neighbour_of_a_pair_that_works_is_nothing():
    case = lost_case("node2", "node3")
    failed_neighbour(case, 2, 1)
    assert causes(again(case)) == [("unexplained-loss", ["node2", "node3"])]


def test_an_entry_that_is_missing_on_the_overlay_is_reported_as_that():
    fleet = filters_known(make_fleet(2))
    overlay = fleet.hosts["node2"].facts.overlay_namespace("net1")
    overlay.facts["neighbours"], overlay.facts["fdb"] = [], []
    case = run_case(fleet, overlay_between("node1", "node2"))
    failed_neighbour(case, 2, 1)
    assert "arp-unanswered" not in [cause for cause, _hosts in causes(again(case))]


@pytest.mark.parametrize("answered", [True, False])
def test_a_captured_request_without_a_reply_confirms_it(answered):
    case = lost_case("node1", "node2", count=2)
    trace(case, (FORWARD, -1))
    capture = case.fleet.hosts["node2"].captures["trace"]
    tap = next(tap["id"] for tap in capture["taps"] if tap["id"].startswith("container"))
    capture["sightings"].append({"tap": tap, "kind": "arp-request", "src": "10.0.1.2", "dst": "10.0.1.1", "time": 1.0})
    if answered:
        capture["sightings"].append(
            {"tap": tap, "kind": "arp-reply", "src": "10.0.1.1", "dst": "10.0.1.2", "time": 1.1}
        )
    named = [row for row in found(again(case)) if row[0] == "arp-unanswered"]
    assert [row[4] for row in named] == ([] if answered else ["confirmed"])


# ---- cloud-src-dst-check


def routed_fleet(both: bool = True, refused: bool = False):
    """Each host has a bridge network of its own with a container, and routes to the other's."""
    fleet = filters_known(make_fleet(2))
    for number, other in ((1, 2), (2, 1)):
        facts = fleet.hosts[f"node{number}"].facts.facts
        ip, gateway = f"172.3{number}.0.2", f"172.3{number}.0.1"
        options = {"com.docker.network.bridge.enable_ip_masquerade": "false"}
        facts["networks"].append(
            {"id": f"br{number}", "name": f"br{number}", "driver": "bridge", "scope": "local", "options": options}
        )
        row = {"network_id": f"br{number}", "network": f"br{number}", "ip": ip, "mac": f"02:42:ac:3{number}:00:02"}
        facts["containers"].append(
            {
                "id": f"r{number}",
                "name": f"routed-{number}",
                "state": "running",
                "netns": f"5{number}",
                "ports": [],
                "pid": 200 + number,
                "endpoints": [row],
            }
        )
        facts["namespaces"].append(
            {
                "key": f"5{number}",
                "kind": "container",
                "container": f"r{number}",
                "path": f"/proc/{200 + number}/ns/net",
                "links": [{"index": 20, "name": "eth0", "kind": "veth", "up": True, "lower_up": True, "link": 21}],
                "addresses": [{"index": 20, "family": 4, "ip": ip, "prefix": 24}],
                "routes": [{"family": 4, "table": 254, "dst": "default", "gateway": gateway, "oif": 20}],
                "counters": {},
            }
        )
        root = facts["namespaces"][0]
        root["links"] += [
            {"index": 30, "name": "br", "kind": "bridge", "up": True, "lower_up": True},
            {"index": 21, "name": "vethr", "kind": "veth", "up": True, "lower_up": True, "master": 30, "link": 20},
        ]
        root["addresses"].append({"index": 30, "family": 4, "ip": gateway, "prefix": 24})
        root["routes"].append({"family": 4, "table": 254, "dst": f"172.3{number}.0.0/24", "oif": 30, "type": "unicast"})
        if both or number == 1:
            root["routes"].append(
                {
                    "family": 4,
                    "table": 254,
                    "dst": f"172.3{other}.0.0/24",
                    "oif": 2,
                    "gateway": f"192.0.2.{other}",
                    "type": "unicast",
                }
            )
        if refused:
            root["filter"] = filter_of(iptables("FORWARD", hook="forward", policy="drop"))
        fleet.hosts[f"node{number}"].snapshots["before"] = HostFacts(f"node{number}", facts)
    return fleet


def routed(fleet) -> list[str]:
    return [pair.id for pair in first_round(fleet) if pair.kind == "routed"]


def test_networks_routed_both_ways_are_asked():
    assert routed(routed_fleet()) == ["node1/routed-1>node2/routed-2", "node2/routed-2>node1/routed-1"]


def test_what_is_routed_one_way_or_not_at_all_is_not_asked():
    assert routed(routed_fleet(both=False)) == []
    assert routed(make_fleet(3)) == []


def test_what_the_hosts_own_filter_refuses_is_not_asked():
    assert routed(routed_fleet(refused=True)) == []


def routed_loss(pair, key):
    return "timeout" if pair.kind == "routed" else None


def test_containers_cut_off_while_their_hosts_are_not_may_meet_a_source_check():
    case = run_case(routed_fleet(), routed_loss)
    assert found(case) == [("cloud-src-dst-check", ["node1", "node2"], "underlay", None, "possible", "critical")]


def routed_vanish(host: str, source: str | None = None):
    """What the host's own container sends, asking or answering, is lost behind the host's NIC."""
    own = {"node1": "172.31.0.2", "node2": "172.32.0.2"}

    def alter(direction, hop, sighting):
        if direction == REPLY and sighting["dst"] == own[host]:
            return None
        if sighting["src"] == own[host]:
            if hop.host != host:
                return None
            if source and hop.name == "nic":
                sighting["src"] = source
        return sighting

    return alter


def test_a_containers_source_lost_between_the_nics_is_a_source_check():
    case = trace(run_case(routed_fleet(), routed_loss), alter=routed_vanish("node1"))
    assert found(case) == [("cloud-src-dst-check", ["node1"], "underlay", "out", "confirmed", "critical")]
    assert "172.31.0.2" in loud(case)[0].summary and len(loud(case)[0].explains) == 2


def test_a_nodes_own_source_meets_no_source_check():
    case = trace(run_case(routed_fleet(), routed_loss), alter=routed_vanish("node1", "192.0.2.1"))
    assert "cloud-src-dst-check" not in [cause for cause, _hosts in causes(case)]


# ---- gro-udp-tun


@pytest.mark.parametrize(
    ("kernel", "kind", "expected"),
    [
        ("6.8.4-generic", "tun", [("gro-udp-tun", ["node1"])]),
        ("6.8.5-generic", "tun", [("unexplained-loss", ["node1", "node2"])]),
        ("6.1", "veth", [("unexplained-loss", ["node1", "node2"])]),
        ("unknown", "tun", [("unexplained-loss", ["node1", "node2"])]),
    ],
)
def test_coalesced_datagrams_on_a_tun_device(kernel, kind, expected):
    fleet = filters_known(make_fleet(2))
    facts = fleet.hosts["node1"].facts
    facts.facts["host"]["kernel"] = kernel
    facts.root.link("eth0")["kind"] = kind
    case = run_case(fleet, overlay_between("node1", "node2", keys=("http:80",)))
    assert causes(case) == expected


# ---- two faults, and what is left


def test_two_faults_on_one_path_are_both_named():
    """node2's filter drops what arrives; the network drops what it sends to node3."""
    case = lost_case("node2")
    trace(case, alter=vanish(("node2", "node3")))
    first = [o for o in watched(case) if o.pair.hosts != ("node2", "node3")]
    case.traces.clear()
    follow(case, first, (FORWARD, 4), reason="NETFILTER_DROP", alter=addressed)
    kept = {pair: followed for pair, followed in case.traces.items() if ">node2/" in pair}
    follow(case, [o for o in watched(case) if o.pair.hosts == ("node2", "node3")], (FORWARD, 3), alter=addressed)
    case.traces.update(kept)
    assert sorted(causes(again(case))) == [
        ("data-udp-blocked-host-fw", ["node2"]),
        ("data-udp-blocked-network", ["node2", "node3"]),
    ]


def test_unexplained_loss_carries_hop_direction_and_reason():
    case = run_case(filters_known(make_fleet(2)), overlay_between("node1", "node2"))
    case.observations[:] = [o for o in case.observations if o.pair.src.host != "node2" or o.pair.kind != "overlay"]
    case = trace(case, (FORWARD, 4), reason="SOCKET_RCVBUFF")
    assert found(case) == [("unexplained-loss", ["node2"], "host-filter-in", "in", "likely", "critical")]
    assert "last seen at nic of node2" in loud(case)[0].summary
    assert "SOCKET_RCVBUFF" in loud(case)[0].summary


@pytest.mark.parametrize(("position", "hidden"), [(2, True), (3, True), (4, True), (1, False), (5, False)])
def test_nothing_is_recognised_at_the_nics_of_an_encrypted_network(position, hidden):
    case = trace(lost_case("node2"), (FORWARD, position))
    assert len(broken_traces(case, watched(case))) == 4
    next(iter(case.fleet.networks.values())).options["encrypted"] = ""
    assert (broken_traces(case, watched(case)) == []) == hidden


def test_counters_that_were_not_read_say_nothing():
    case = lost_case("node2")
    count(case, "node2", "22", "2", "rx_packets", *FLAT)
    assert causes(again(case)) == [("unexplained-loss", ["node2"])]

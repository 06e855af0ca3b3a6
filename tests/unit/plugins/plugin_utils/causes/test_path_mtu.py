# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Path MTUs on made fleets: whose path it is, whether it breaks anything, and what may not be called a fault."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes import path_mtu
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case, Finding
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.mtu_plan import TARGETS, plan
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Pair
from tests.unit.made_fleet import address, run_case
from tests.unit.plugins.plugin_utils.causes.test_mtu import inner, nic, option, sized

Facts = dict[str, t.Any]
Broken = t.Callable[[Pair, str], "str | None"]
LARGE = ("mtu", "http:80")
ROUTER = {"ttl": 1, "address": "192.0.2.1"}


def row(path: str, found: int, **more: t.Any) -> Facts:
    """What mtu_probe returns for one path; by default one on which larger packets vanish."""
    tried = more.pop("tried", 1500)
    return {
        "id": path,
        "address": "192.0.2.9",
        "verdict": "clean" if found >= tried else "black-hole",
        "path_mtu": found,
        "exact": True,
        "local_mtu": tried,
        "interface": "eth0",
        "tried": tried,
        "reported": None,
        "cached": None,
        "method": "icmp",
        "fragmented": {"length": tried + 512, "answered": True},
        "hop": None,
        "next_hop": None,
        "loss": 0.0,
        "detail": None,
        **more,
    }


def told(path: str, found: int, **more: t.Any) -> Facts:
    return row(path, found, verdict="frag-needed", reported={"mtu": found, "sender": "192.0.2.1"}, **more)


def measured(fleet: Fleet, *rows: Facts) -> None:
    """What the hosts' calls of mtu_probe returned."""
    for one in rows:
        name = one["id"].partition(">")[0].partition("/")[0]
        fleet.hosts[name].mtu.setdefault("trace", {"results": []})["results"].append(one)


def both_ways(one: int, other: int, found: int, make: t.Callable[..., Facts] = row, **more: t.Any) -> list[Facts]:
    return [make(f"node{a}>node{b}", found, **more) for a, b in ((one, other), (other, one))]


def containers(one: int, other: int, found: int, **more: t.Any) -> list[Facts]:
    ends = ((one, other), (other, one))
    return [row(f"node{a}/app-{a}>node{b}/app-{b}@app", found, tried=1450, **more) for a, b in ends]


def stalled(*hosts: int, layers: tuple[str, ...] = LARGE, also: tuple[str, ...] = ()) -> Broken:
    """Large packets of overlay pairs vanish that touch the host, or that are between the two."""
    names = {f"node{number}" for number in hosts}

    def broken(pair: Pair, key: str) -> str | None:
        touched = names & set(pair.hosts)
        if pair.kind not in ("overlay", "host", *also) or touched != names or key not in layers:
            return None
        return "timeout" if key == "mtu" else ("incomplete" if pair.kind != "host" else None)

    return broken


def mine(case: Case) -> list[Finding]:
    own = {cause.id for cause in path_mtu.CAUSES}
    return [f for f in case.findings if f.cause in own or f.severity != "info"]


def named(case: Case) -> list[tuple[str, str, list[str]]]:
    return [(f.cause, f.severity, f.hosts) for f in mine(case)]


def words(finding: Finding) -> str:
    lines = [f"{e.source}: {e.observed} {e.expected} {e.verify}" for e in finding.evidence]
    lines += [line for remedy in finding.remedies for line in remedy.manual]
    return "\n".join([finding.summary, *lines])


def switch_port(fleet: Fleet, limit: int = 1400) -> None:
    """The switch port of node2 takes less: nothing tells, nothing fragments."""
    lost = {"fragmented": {"length": 2012, "answered": False}}
    measured(
        fleet,
        *both_ways(1, 2, limit, **lost),
        *both_ways(2, 3, limit, **lost),
        *containers(1, 2, limit - 50),
        *containers(2, 3, limit - 50),
    )


def test_a_switch_port_that_takes_less_is_the_fault_of_that_path():
    fleet = sized()
    switch_port(fleet)
    case = run_case(fleet, stalled(2))
    assert named(case) == [("overlay-mtu-gt-path", "critical", ["node2"])]
    finding = mine(case)[0]
    assert (finding.confidence, finding.direction, finding.segment) == ("confirmed", "both", "underlay")
    assert len(finding.explains) == 4
    assert "takes 1400 bytes, app sends up to 1500" in finding.summary
    text = words(finding)
    assert "com.docker.network.driver.mtu=1400" in text
    assert "1350, as the path from node1 to node2 takes 1400" in text
    assert "maxseg size set 1310" in text
    assert "--set-mss 1360" in text


def test_without_a_measurement_vanished_echoes_make_it_likely():
    case = run_case(sized(), stalled(2))
    assert named(case) == [("overlay-mtu-gt-path", "critical", ["node2"])]
    assert mine(case)[0].confidence == "likely"
    assert "THE PATH'S MTU" in words(mine(case)[0])


def test_one_pair_of_hosts_is_named_as_a_pair():
    fleet = sized()
    measured(fleet, *both_ways(2, 3, 1400), *containers(2, 3, 1350))
    assert named(run_case(fleet, stalled(2, 3))) == [("overlay-mtu-gt-path", "critical", ["node2", "node3"])]


@pytest.mark.parametrize(("direction", "ends"), [("out", ((2, 1), (2, 3))), ("in", ((1, 2), (3, 2)))])
def test_the_direction_is_that_of_the_paths_that_take_less(direction: str, ends: tuple[tuple[int, int], ...]):
    fleet = sized()
    for one, other in ends:
        measured(fleet, row(f"node{one}>node{other}", 1400), row(f"node{other}>node{one}", 1500, method="tcp"))
    case = run_case(fleet, stalled(2))
    assert [(f.cause, f.hosts, f.direction) for f in mine(case)] == [("overlay-mtu-gt-path", ["node2"], direction)]


def test_a_router_that_says_so_costs_fragments():
    fleet = sized()
    measured(fleet, *both_ways(2, 3, 1400, told), *containers(2, 3, 1450))
    case = run_case(fleet)
    assert named(case) == [("overlay-mtu-gt-path", "warning", ["node2", "node3"])]
    assert mine(case)[0].confidence == "confirmed"
    assert "2 packets for each full-sized one, 20 bytes more" in mine(case)[0].summary
    assert mine(case)[0].explains == []


def test_a_router_that_is_silent_is_named_with_its_hop():
    fleet = sized()
    measured(fleet, *both_ways(2, 3, 1400, hop=ROUTER), *containers(2, 3, 1450))
    case = run_case(fleet)
    assert named(case) == [("pmtu-blackhole-icmp", "warning", ["node2", "node3"])]
    assert "behind 192.0.2.1 without an ICMP error" in mine(case)[0].summary
    assert "ICMP type 3 code 4" in words(mine(case)[0])


def test_fragments_that_are_dropped_break_the_overlay():
    fleet = sized()
    lost = {"hop": ROUTER, "fragmented": {"length": 2012, "answered": False}}
    measured(fleet, *both_ways(2, 3, 1400, **lost), *containers(2, 3, 1350))
    case = run_case(fleet, stalled(2, 3))
    assert named(case) == [("fragments-dropped", "critical", ["node2", "node3"])]
    assert "let fragments through" in words(mine(case)[0])


def test_fragments_lost_where_everything_is_prove_nothing():
    fleet = sized()
    lossy = {"hop": ROUTER, "fragmented": {"length": 2012, "answered": False}, "loss": 0.4}
    measured(fleet, *both_ways(2, 3, 1400, **lossy), *containers(2, 3, 1350))
    assert named(run_case(fleet, stalled(2, 3))) == [("pmtu-blackhole-icmp", "critical", ["node2", "node3"])]


def test_taps_that_saw_first_fragments_alone_are_evidence():
    fleet = sized()
    lost = {"hop": ROUTER, "fragmented": {"length": 2012, "answered": False}}
    measured(fleet, *both_ways(2, 3, 1400, **lost), *containers(2, 3, 1350))
    rows = [{"tap": "nic:1:2", "out": False, "fragment": None, "outer": {"fragment": "first"}}] * 3
    fleet.hosts["node3"].captures["trace"] = {"sightings": rows}
    assert "3 first fragments arrived, none of the later ones" in words(mine(run_case(fleet, stalled(2, 3)))[0])
    rows.append({"tap": "nic:1:2", "out": False, "fragment": "later", "outer": None})
    assert "none of the later ones" not in words(mine(run_case(fleet, stalled(2, 3)))[0])


def test_jumbo_nics_over_an_ordinary_path_are_no_fault():
    fleet = sized(nic=9000)
    measured(fleet, *both_ways(1, 2, 1500, tried=9000), *both_ways(2, 3, 1500, told, tried=9000))
    assert named(run_case(fleet)) == []


def test_an_overlay_that_fits_a_small_path_is_healthy():
    fleet = sized(inner=1350)
    measured(fleet, *both_ways(2, 3, 1400, hop=ROUTER))
    assert named(run_case(fleet)) == []


def test_what_the_nics_at_the_ends_take_is_another_cause():
    fleet = sized()
    nic(fleet, 2, 1400)
    measured(fleet, *both_ways(1, 2, 1400, told))
    assert [f.cause for f in mine(run_case(fleet))] == ["overlay-mtu-gt-local-nic"]


def test_encryption_takes_its_bytes_on_the_path_too():
    fleet = sized(inner=1424)
    option(fleet, encrypted="")
    measured(fleet, *both_ways(2, 3, 1499))
    assert [f.cause for f in mine(run_case(fleet))] == ["overlay-mtu-gt-path"] * 0 + ["pmtu-blackhole-icmp"]
    fleet = sized(inner=1424)
    option(fleet, encrypted="")
    measured(fleet, *both_ways(2, 3, 1500))
    assert named(run_case(fleet)) == []


def test_stalled_pages_over_a_wide_path_are_not_its_fault():
    fleet = sized()
    measured(fleet, *both_ways(2, 3, 1500))
    case = run_case(fleet, stalled(2, 3, layers=("http:80",)))
    rejected = dict(r for finding in case.findings for r in finding.rejected)
    assert rejected["overlay-mtu-gt-path"].startswith("mtu_probe: 1500 bytes, all that eth0 sends, pass from node2")
    assert not [f for f in mine(case) if f.cause in path_mtu.OWN]


def test_inconclusive_and_missing_measurements_are_no_error():
    fleet = sized()
    measured(fleet, *both_ways(1, 2, 1400, verdict="inconclusive"), *both_ways(2, 3, 1500, path_mtu=None))
    assert named(run_case(fleet)) == []


# ---- whom the plan asks


def planned(fleet: Fleet, broken: Broken = lambda pair, key: None, **more: t.Any) -> dict[str, list[Facts]]:
    return plan(run_case(fleet, broken), **more)


def ids(sources: list[Facts]) -> list[str]:
    return [target["id"] for source in sources for target in source["targets"]]


def test_a_healthy_fleet_measures_nothing():
    assert planned(sized()) == {}
    assert planned(sized(nic=9000)) == {}


def test_vanished_echoes_are_measured_both_ways_and_on_both_levels():
    found = planned(sized(), stalled(2, 3))
    assert ids(found["node2"]) == ["node2>node3", "node2/app-2>node3/app-3@app"]
    assert ids(found["node3"]) == ["node3>node2", "node3/app-3>node2/app-2@app"]
    host, container = found["node2"]
    assert "netns" not in host
    assert host["targets"][0] == {"id": "node2>node3", "address": address(3), "port": 22}
    assert (container["netns"], container["inode"]) == ("/proc/102/ns/net", "12")


def test_pages_that_never_end_are_reason_enough():
    assert ids(planned(sized(), stalled(1, 2, layers=("http:80",)))["node1"])


def test_external_targets_are_asked_by_hosts_and_by_one_container_each():
    found = planned(sized(), external=["198.51.100.1"])
    assert sorted(found) == ["node1", "node2", "node3"]
    assert ids(found["node1"]) == ["node1>198.51.100.1", "node1/app-1>198.51.100.1"]


def test_a_black_hole_on_the_way_out_is_told_once_for_each_address():
    fleet = sized()
    more = {"hop": ROUTER, "address": "198.51.100.1"}
    measured(fleet, *[row(f"node{number}>198.51.100.1", 1400, **more) for number in (1, 2, 3)])
    measured(fleet, row("node1/app-1>198.51.100.1", 1400, **more))
    measured(fleet, told("node2>198.51.100.2", 1400, address="198.51.100.2"))
    case = run_case(fleet)
    assert named(case) == [("pmtu-blackhole-icmp", "warning", ["node1", "node2", "node3"])]
    assert "to 198.51.100.1 takes 1400 bytes" in mine(case)[0].summary
    assert "--set-mss 1360" in words(mine(case)[0])


def test_a_switch_port_before_the_way_out_is_one_fault():
    fleet = sized()
    switch_port(fleet)
    measured(fleet, row("node2>198.51.100.1", 1400, address="198.51.100.1"))
    assert named(run_case(fleet, stalled(2))) == [("overlay-mtu-gt-path", "critical", ["node2"])]


def test_the_plan_is_bounded():
    def everything(pair: Pair, key: str) -> str | None:
        return "timeout" if key == "mtu" else None

    found = planned(sized(count=24), everything)
    assert found
    assert all(len(ids(sources)) <= TARGETS for sources in found.values())


def test_a_full_size_echo_is_as_large_as_both_ends_take():
    fleet = sized(nic=9000)
    nic(fleet, 2, 1500)
    case = run_case(fleet)
    sizes = {
        o.pair.id: probe.options["size"] for o in case.observations for probe in o.pair.probes if probe.layer == "mtu"
    }
    assert sizes["node1>node2"] == 1500
    assert sizes["node1>node3"] == 9000
    assert sizes["node1/app-1>node2/app-2@app"] == 1450


def without_pages(fleet: Fleet) -> Fleet:
    """Containers that listen where no page is expected."""
    for host in fleet.hosts.values():
        host.facts.facts["namespaces"][1]["sockets"][0]["port"] = 5432
    return fleet


def test_large_datagrams_are_lost_where_tcp_has_adapted():
    fleet = sized()
    measured(fleet, *both_ways(2, 3, 1400), *containers(2, 3, 1350))
    case = run_case(fleet, stalled(2, 3, layers=("mtu",)))
    assert named(case) == [("overlay-mtu-gt-path", "warning", ["node2", "node3"])]
    assert "larger datagrams are lost" in mine(case)[0].summary
    verdicts = {o.pair.id: o.verdict() for o in case.observations}
    assert verdicts["node2/app-2>node3/app-3@app"] == "degraded"


def test_a_vanished_full_size_echo_breaks_an_overlay_pair_and_no_host_pair():
    case = run_case(without_pages(sized()), stalled(2, layers=("mtu",)))
    verdicts = {o.pair.id: o.verdict() for o in case.observations}
    assert verdicts["node1/app-1>node2/app-2@app"] == "failed"
    assert verdicts["node1>node2"] == "ok"


def test_where_small_echoes_are_lost_size_is_not_the_question():
    def silent(pair: Pair, key: str) -> str | None:
        return "timeout" if key in ("icmp", "mtu") and pair.kind == "overlay" else None

    case = run_case(sized(), silent)
    overlay = [o for o in case.observations if o.pair.kind == "overlay"]
    assert {o.layers()["mtu"] for o in overlay} == {"skipped"}
    assert not [f for f in case.findings if f.cause in path_mtu.OWN]


def test_nics_that_differ_are_confirmed_by_what_the_path_takes():
    fleet = sized()
    nic(fleet, 2, 9000)
    inner(fleet, 2, 8950)
    assert ids(planned(fleet)["node2"]) == ["node2>node1", "node2>node3"]
    measured(fleet, row("node2>node1", 1500, tried=9000), row("node2>node3", 1500, tried=9000))
    finding = mine(run_case(fleet))[0]
    assert (finding.cause, finding.confidence) == ("mixed-mtu-peers", "confirmed")
    assert "1500 of 9000 bytes pass" in words(finding)


def test_a_small_nic_is_confirmed_by_what_containers_are_told():
    fleet = sized()
    nic(fleet, 2, 1400)
    measured(fleet, told("node2/app-2>node1/app-1@app", 1350, tried=1450))
    finding = mine(run_case(fleet))[0]
    assert (finding.cause, finding.confidence) == ("overlay-mtu-gt-local-nic", "confirmed")
    assert "1350 of 1450 bytes pass, frag-needed" in words(finding)


def test_a_wide_bridge_is_confirmed_by_the_way_out():
    fleet = sized(inner=1350)
    nic(fleet, 2, 1400)
    measured(fleet, told("node2/app-2>198.51.100.1", 1400, address="198.51.100.1"))
    finding = mine(run_case(fleet))[0]
    assert (finding.cause, finding.confidence) == ("docker-gwbridge-mtu", "confirmed")

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The roles that findings name, and the values they are given: read on the fleet, or not given at all."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case, Finding, Remedy
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.registry import decide_all
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet, Host
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Pair
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies import roles
from ansible_collections.crosshost.doctor.plugins.plugin_utils.report.summary import summarise
from tests.unit.made_fleet import make_fleet, run_case
from tests.unit.plugins.plugin_utils.causes import test_checksum, test_mtu, test_nat
from tests.unit.plugins.plugin_utils.causes.docker_fleet import (
    BRIDGE,
    diagnosed,
    docker_fleet,
    ip,
    iptables,
    port,
    replace_chains,
    rules,
    states,
)
from tests.unit.plugins.plugin_utils.causes.test_names import UPSTREAM, named_fleet, upstream_of
from tests.unit.plugins.plugin_utils.causes.test_packet_filter_owner import lost
from tests.unit.plugins.plugin_utils.filter_eval.rulesets import ACCEPT, DROP, chain, jump

INPUT = {"backend": "iptables-nft", "family": "ip", "table": "filter", "chain": "INPUT"}
OTHERS = ["192.0.2.1", "192.0.2.3"]


def filtered(*chains: t.Any, on: str = "node2") -> Fleet:
    fleet = docker_fleet()
    rules(fleet, on).extend(chains)
    return fleet


def dropping(number: int, *protocols: str, hook: str = "input", **more: t.Any) -> t.Any:
    numbers = {"tcp": 6, "udp": 17}
    exprs = [[ip(protocol=numbers[name]), port(number, protocol=name), DROP] for name in protocols]
    return iptables(hook.upper(), *exprs, hook=hook, **more)


def closed(layer: str, host: str) -> t.Callable[[Pair, str], str | None]:
    return lambda pair, key: "timeout" if pair.kind == "host" and pair.dst.host == host and key == layer else None


def only(case: Case, cause: str) -> Finding:
    (finding,) = [f for f in case.findings if f.cause == cause]
    return finding


def remedy(case: Case, cause: str) -> Remedy:
    (found,) = only(case, cause).remedies
    return found


def values(found: Remedy) -> dict[str, t.Any]:
    """A remedy's variables by their names within the role."""
    return {name.removeprefix(f"{found.role}_"): value for name, value in found.vars.items()}


# ---- firewall_ports


def test_a_dropped_tunnel():
    found = remedy(lost(filtered(dropping(4789, "udp"))), "data-udp-blocked-host-fw")
    assert (found.role, found.kind, found.disruptive) == ("firewall_ports", "cure", False)
    assert found.public()["hosts"] == ["node2"]
    assert values(found) == {
        "services": [{"protocol": "udp", "port": 4789}],
        "peers": OTHERS,
        "direction": "in",
        "chains": [INPUT],
        "owner": "iptables",
    }


def test_a_tunnel_is_opened_to_nodes_that_were_not_asked_too():
    fleet = filtered(dropping(4789, "udp"))
    for host in fleet.hosts.values():
        host.facts.facts["swarm"] |= {"control_available": False, "managers": [{"addr": "192.0.2.77:2377"}]}
    assert values(remedy(lost(fleet), "data-udp-blocked-host-fw"))["peers"] == [*OTHERS, "192.0.2.77"]


def test_a_tunnel_that_is_dropped_as_it_leaves():
    found = remedy(lost(filtered(dropping(4789, "udp", hook="output"))), "data-udp-blocked-host-fw")
    assert values(found)["direction"] == "out"
    assert values(found)["chains"] == [{**INPUT, "chain": "OUTPUT"}]


def test_the_fleets_own_tunnel_port_is_opened():
    fleet = filtered(dropping(8472, "udp"))
    for host in fleet.hosts.values():
        host.facts.facts["namespaces"][2]["links"][1]["vxlan"]["port"] = 8472
    assert values(remedy(lost(fleet), "data-udp-blocked-host-fw"))["services"] == [{"protocol": "udp", "port": 8472}]


def test_dropped_gossip():
    fleet = filtered(dropping(7946, "tcp", "udp"))
    found = remedy(run_case(fleet, closed("tcp:7946", "node2")), "gossip-7946-blocked")
    assert values(found)["services"] == [{"protocol": "tcp", "port": 7946}, {"protocol": "udp", "port": 7946}]


def test_gossip_whose_answers_are_dropped_too():
    """Accepting the questions alone would bring nothing back: what answers them comes from the port, not to it."""
    fleet = filtered(iptables("OUTPUT", [ip(protocol=6), DROP], hook="output"))
    case = run_case(fleet, lambda pair, key: "timeout" if "node2" in pair.hosts and key == "tcp:7946" else None)
    found = remedy(case, "gossip-7946-blocked")
    assert values(found)["services"] == [
        {"protocol": "tcp", "port": 2377},
        {"protocol": "tcp", "port": 7946},
        {"protocol": "tcp", "port": 7946, "answers": True},
    ]
    assert (
        "answers of tcp/7946  (nft: ip daddr { 192.0.2.1, 192.0.2.3 } tcp sport 7946 ct state established accept)"
        in (found.manual[-1])
    )


def test_gossip_dropped_over_udp_alone():
    found = remedy(run_case(filtered(dropping(7946, "udp"))), "gossip-udp-7946-blocked")
    assert values(found)["services"] == [{"protocol": "udp", "port": 7946}]


def test_a_managers_port_that_is_closed():
    fleet = filtered(dropping(2377, "tcp"), on="node1")
    found = remedy(run_case(fleet, closed("tcp:2377", "node1")), "mgmt-2377-blocked")
    assert values(found)["services"] == [{"protocol": "tcp", "port": 2377}]
    assert (found.hosts, values(found)["peers"]) == (("node1",), ["192.0.2.2", "192.0.2.3"])


def test_the_base_chain_is_named_and_not_the_chain_it_leads_to():
    chains = [iptables("INPUT", [jump("SITE")], hook="input"), iptables("SITE", [ip(protocol=17), DROP])]
    assert values(remedy(lost(filtered(*chains)), "data-udp-blocked-host-fw"))["chains"] == [INPUT]


def test_every_base_chain_that_drops_has_to_accept():
    second = chain("input", table="guard", hook="input", priority=10, policy="drop")
    finding = only(lost(filtered(dropping(4789, "udp"), second)), "data-udp-blocked-host-fw")
    owners = {values(found)["owner"]: values(found)["chains"] for found in finding.remedies}
    guard = {"backend": "nft", "family": "inet", "table": "guard", "chain": "input"}
    assert owners == {"iptables": [INPUT], "nftables": [guard]}


def through(name: str) -> Fleet:
    """INPUT leads to a chain of this name, which drops the tunnel."""
    hit = [ip(protocol=17), port(4789, protocol="udp"), DROP]
    return filtered(iptables("INPUT", [jump(name)], hook="input"), iptables(name, hit))


@pytest.mark.parametrize(
    ("name", "runs", "owner"),
    [
        ("ufw-user-input", "ufw", "ufw"),
        ("ufw-user-input", None, "iptables"),
        ("IN_public_deny", "firewalld", "firewalld"),
        ("HARDENING", "firewalld", "iptables"),
    ],
)
def test_the_owner_is_who_would_put_the_rule_back(name: str, runs: str | None, owner: str):
    fleet = through(name)
    managers = [{"name": runs, "running": True, "config": {}}] if runs else []
    fleet.hosts["node2"].facts.facts["host"]["managers"] = managers
    assert values(remedy(lost(fleet), "data-udp-blocked-host-fw"))["owner"] == owner


@pytest.mark.parametrize("name", ["DOCKER-USER", "DOCKER", "KUBE-FIREWALL", "cali-INPUT", "LIBVIRT_INP", "f2b-sshd"])
def test_what_is_meant_or_made_again_by_a_program_is_left_to_people(name: str):
    found = remedy(lost(through(name)), "data-udp-blocked-host-fw")
    assert (found.role, dict(found.vars), found.hosts) == (None, {}, ())
    assert found.manual


def test_firewalld_is_not_asked_for_what_leaves_nor_where_it_does_not_run():
    table = chain("filter_OUTPUT", table="firewalld", hook="output", policy="drop")
    fleet = filtered(table)
    assert remedy(lost(fleet), "data-udp-blocked-host-fw").role is None
    fleet.hosts["node2"].facts.facts["host"]["managers"] = [{"name": "firewalld", "running": True, "config": {}}]
    assert remedy(lost(fleet), "data-udp-blocked-host-fw").role is None


@pytest.mark.parametrize("bad", [None, "", "0.0.0.0/0", "fe80::1%eth0", "node3; reboot", "$(id)"])
def test_only_addresses_are_peers(bad: str | None):
    assert roles.addresses([bad, "192.0.2.9", "2001:db8::1", "192.0.2.9"]) == ["192.0.2.9", "2001:db8::1"]
    assert roles.addresses([bad]) == []


# ---- forward_policy


def test_a_hardened_forward_chain_accepts_to_the_bridges_subnet_only():
    fleet = filtered(chain("forward", table="hardening", hook="forward", policy="drop"))
    found = remedy(diagnosed(fleet, "egress", "published"), "forward-policy-drop")
    accepts = {(row["in_interface"], row["out_interface"]): row["destination"] for row in values(found)["accepts"]}
    assert accepts == {("eth0", BRIDGE): "172.17.0.0/16", (BRIDGE, "eth0"): None}
    assert values(found)["chains"] == [{"backend": "nft", "family": "inet", "table": "hardening", "chain": "forward"}]


def test_what_containers_send_is_accepted_in_iptables_own_chain():
    fleet = docker_fleet()
    kept = [[jump("DOCKER-USER")], [ip(oif=BRIDGE), states("established", "related"), ACCEPT]]
    kept.append([ip(oif=BRIDGE), jump("DOCKER")])
    replace_chains(fleet, FORWARD=iptables("FORWARD", *kept, hook="forward", policy="drop"))
    found = remedy(diagnosed(fleet, "egress"), "forward-policy-drop")
    assert (found.role, found.disruptive) == ("forward_policy", False)
    assert values(found)["accepts"] == [
        {"in_interface": BRIDGE, "out_interface": "eth0", "source": None, "destination": None}
    ]


def test_what_comes_for_containers_is_left_to_the_engines_own_rules():
    fleet = docker_fleet()
    replace_chains(fleet, FORWARD=iptables("FORWARD", [jump("DOCKER-USER")], hook="forward", policy="drop"))
    found = remedy(diagnosed(fleet, "egress", "published"), "forward-policy-drop")
    assert (found.role, found.disruptive, found.hosts) == ("engine_rules", True, ("node2",))


def test_what_firewalld_does_not_forward_is_said_to_people():
    fleet = filtered(chain("filter_FORWARD", table="firewalld", hook="forward", policy="drop"))
    fleet.hosts["node2"].facts.facts["host"]["managers"] = [{"name": "firewalld", "running": True, "config": {}}]
    found = remedy(diagnosed(fleet, "egress"), "forward-policy-drop")
    assert (found.role, found.disruptive) == (None, False)
    assert "firewall-cmd" in found.manual[0]


def test_a_rule_for_one_port_stays_a_persons_matter():
    fleet = docker_fleet()
    test_nat.put_first(fleet, "DOCKER-USER", ip(iif="eth0", protocol=6), port(80), DROP)
    assert remedy(diagnosed(fleet, "published"), "container-port-filtered").role is None


# ---- the engine's rules


def test_flushed_rules():
    fleet = docker_fleet()
    rules(fleet).clear()
    found = remedy(diagnosed(fleet, "egress"), "ruleset-flushed")
    assert (found.role, found.disruptive, dict(found.vars), found.hosts) == ("engine_rules", True, {}, ("node2",))


def test_a_restart_does_not_help_against_a_setting_or_a_rule_in_front():
    fleet = test_nat.without_masquerade()
    fleet.hosts["node2"].facts.facts["engine"]["daemon_config"] = {"ip-masq": False}
    assert remedy(diagnosed(fleet, "egress"), "masquerade-missing").role is None
    fleet = docker_fleet()
    made = iptables("POSTROUTING", [ip(src="172.16.0.0/12"), ACCEPT], table="nat", hook="postrouting")
    made["rules"].append({**made["rules"][0], "exprs": [], "text": "-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"})
    replace_chains(fleet, POSTROUTING=made)
    assert remedy(diagnosed(fleet, "egress"), "masquerade-missing").role is None


# ---- forwarding, reverse path, entries


def test_an_interface_that_does_not_forward():
    fleet = docker_fleet()
    fleet.hosts["node2"].facts.root.facts["sysctls"][f"net.ipv4.conf.{BRIDGE}.forwarding"] = 0
    found = remedy(diagnosed(fleet, "egress"), "if-forwarding-off")
    assert values(found) == {"interfaces": [BRIDGE], "global": False}


def entry_case(kind: str) -> Case:
    fleet = make_fleet(3)
    overlay = fleet.hosts["node1"].facts.namespaces[2].facts
    if kind in ("fdb", "both"):
        overlay["fdb"] = [row for row in overlay["fdb"] if row["dst"] != "192.0.2.2"]
    if kind in ("neighbour", "both"):
        rows = overlay["neighbours"][0]
        rows["entries"] = [row for row in rows["entries"] if row[0] != "10.0.1.2"]
    ends = {"node1", "node2"}
    return run_case(fleet, lambda p, k: "timeout" if p.kind == "overlay" and set(p.hosts) == ends else None)


@pytest.mark.parametrize(("kind", "address"), [("fdb", None), ("neighbour", "10.0.1.2"), ("both", "10.0.1.2")])
def test_entries_are_written_as_the_endpoints_host_tells(kind: str, address: str | None):
    found = remedy(entry_case(kind), "overlay-entry-missing")
    assert found.hosts == ("node1",)
    assert values(found)["entries"] == [
        {"network": "net1", "mac": "02:42:0a:00:01:02", "ip": address, "vtep": "192.0.2.2"}
    ]


def test_an_entry_without_a_known_address_is_not_made_up():
    host = Host("node1")
    row = {"network": "net1", "mac": "02:42:0a:00:01:02", "ip": None, "vtep": ""}
    assert roles.overlay_entries(host, [row]) == roles.overlay_entries(host, []) == roles.NOBODY


# ---- MTU


def test_an_option_that_was_subtracted_twice():
    fleet = test_mtu.sized(inner=1350)
    test_mtu.option(fleet, **{test_mtu.mtu.MTU_OPTION: "1450"})
    found = remedy(run_case(fleet), "mtu-option-double-subtract")
    assert (found.hosts, values(found)) == (("node1",), {"networks": [{"name": "app", "mtu": 1500}], "daemon_mtu": 0})


def test_a_default_bridge_that_is_too_wide():
    fleet = test_mtu.sized(inner=1350)
    test_mtu.nic(fleet, 2, 1400)
    test_mtu.facts(fleet, 2)["namespaces"][0]["links"][1]["name"] = "docker0"
    cure, clamp = only(run_case(fleet), "docker-gwbridge-mtu").remedies
    assert (cure.role, cure.disruptive, values(cure)) == ("overlay_mtu", True, {"networks": [], "daemon_mtu": 1400})
    assert (clamp.role, clamp.kind) == ("mss_clamp", "mitigation")
    assert values(clamp) == {"forward": True, "interfaces": ["eth0"], "networks": []}


def test_networks_are_made_anew_on_a_manager_or_by_a_person():
    fleet = test_mtu.sized()
    test_mtu.nic(fleet, 2, 1400)
    cure = only(run_case(fleet), "overlay-mtu-gt-local-nic").remedies[0]
    assert (cure.hosts, values(cure)["networks"]) == (("node1",), [{"name": "app", "mtu": 1400}])
    fleet.hosts["node1"].facts.facts["swarm"]["control_available"] = False
    fleet.__dict__.pop("managers", None)
    assert only(run_case(fleet), "overlay-mtu-gt-local-nic").remedies[0].role is None


def test_segments_leave_room_for_tunnel_and_encryption():
    fleet = test_mtu.sized()
    test_mtu.nic(fleet, 2, 1400)
    clamp = only(run_case(fleet), "overlay-mtu-gt-local-nic").remedies[1]
    assert values(clamp)["networks"] == [{"id": "net1", "mss4": 1400 - 50 - 40, "mss6": 1400 - 50 - 60}]
    assert values(clamp)["forward"] is True  # its gateway bridge is too wide for the same NIC
    test_mtu.option(fleet, encrypted="")
    fleet.__dict__.pop("networks", None)
    clamp = only(run_case(fleet), "overlay-mtu-gt-local-nic").remedies[1]
    assert values(clamp)["networks"] == [{"id": "net1", "mss4": 1324 - 40, "mss6": 1324 - 60}]


def test_a_path_too_small_for_any_segment_is_not_clamped():
    host = make_fleet(1).hosts["node1"]
    assert roles.segments(host, "net1", 147) is None
    assert roles.segments(host, "another", 1350) is None
    assert roles.segments(host, "net1", 148) == {"id": "net1", "mss4": 108, "mss6": 88}


# ---- the Swarm, names, checksums


def told(*servers: str) -> Fleet:
    """The engine of node2 was told these servers, and its containers ask them."""
    fleet = named_fleet()
    facts = fleet.hosts["node2"].facts.facts
    facts["engine"]["daemon_config"] = {"dns": list(servers)}
    for container in facts["containers"]:
        container["dns"]["upstreams"] = list(servers)
    return fleet


def test_name_servers_of_the_engine_that_do_not_answer():
    case = run_case(told("198.51.100.53"), upstream_of(["node2"], ("container",)))
    own = next(o for o in case.observations if o.pair.kind == "upstream" and o.pair.src.name == "node2")
    own.results["dns"]["server"] = UPSTREAM[0]  # what answered the host itself
    again = Case(case.fleet, case.observations)
    decide_all(again)
    found = remedy(again, "upstream-dns-unreachable")
    assert (found.role, found.hosts, found.disruptive) == ("engine_dns", ("node2",), True)
    assert values(found) == {"servers": [UPSTREAM[0]]}


def test_name_servers_are_not_guessed():
    silent = upstream_of(["node2"], ("container",))
    assert remedy(run_case(told("198.51.100.53"), silent), "upstream-dns-unreachable").role is None
    assert remedy(run_case(named_fleet(), silent), "upstream-dns-unreachable").role is None
    assert roles.engine_dns(make_fleet(1).hosts["node1"], ["127.0.0.53", None, "::1"]) == roles.NOBODY


def test_the_receiver_of_wrong_checksums_is_not_told_to_send_others(made_findings: list[Finding]):
    for name in (name for name in dir(test_checksum) if name.startswith("test_")):
        marks = getattr(getattr(test_checksum, name), "pytestmark", [])
        if not marks and not getattr(test_checksum, name).__code__.co_argcount:
            getattr(test_checksum, name)()
    found = [f for f in made_findings if f.cause.startswith("tx-csum")]
    assert {f.direction for f in found} == {"in", "out"}
    assert all((f.direction == "out") == bool(f.remedies[0].role) for f in found)


def test_links_of_containers_are_told_by_the_pattern_of_their_kind():
    host = make_fleet(1).hosts["node1"]
    found = roles.nm_unmanaged(host, ["veth12ab", "veth34cd", "vxlan.calico", "tunl0"])
    names = ["interface-name:tunl0", "interface-name:veth*", "interface-name:vxlan*"]
    assert found.vars == {"nm_unmanaged_interfaces": names}


# ---- what the operator reads


def test_the_summary_tells_which_role_repairs_it_and_what_only_relieves():
    fleet = test_mtu.sized()
    test_mtu.nic(fleet, 2, 1400)
    finding = only(run_case(fleet), "overlay-mtu-gt-local-nic")
    report = {"verdict": "degraded", "findings": [finding.public()], "pairs": [], "hosts": {}, "checks_skipped": []}
    text = " ".join(summarise(report, "/r").split())
    assert "fix crosshost.doctor.remediate applies overlay_mtu, as a mitigation mss_clamp (shows it first)" in text


def test_the_summary_promises_nothing_where_no_role_does_it():
    finding = only(lost(through("KUBE-FIREWALL")), "data-udp-blocked-host-fw")
    report = {"verdict": "broken", "findings": [finding.public()], "pairs": [], "hosts": {}, "checks_skipped": []}
    assert "fix" not in summarise(report, "/r").split()

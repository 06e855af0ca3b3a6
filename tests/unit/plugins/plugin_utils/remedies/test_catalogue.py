# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalogue of remedies is whole, and says what the engine does.

That no finding of any test names another remedy is looked at in conftest.py; here, that every role the catalogue
names for a cause is what the engine then names, in the test that shows the cause.
"""

from __future__ import annotations

import functools
import re
import typing as t

import pytest

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Finding, Remedy
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.registry import CAUSES
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies.catalogue import DOES, ROWS
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies.roles import ROLES
from ansible_collections.crosshost.doctor.plugins.plugin_utils.report.schema import load_schema
from tests.gates import remedies
from tests.gates.tree import REPOSITORY
from tests.unit.plugins.plugin_utils import test_causes
from tests.unit.plugins.plugin_utils.causes import (
    test_addressing,
    test_balancing,
    test_checksum,
    test_cluster,
    test_encryption,
    test_filter_ownership,
    test_kernel,
    test_managers,
    test_mtu,
    test_nat,
    test_packet_filter_owner,
    test_path_mtu,
)
from tests.unit.plugins.plugin_utils.remedies import test_roles
from tests.unit.remedies import refused, unknown

CATALOGUE = REPOSITORY.parent / "shared" / "CATALOGUE.md"
Show = t.Callable[[], None]
SHOWN: dict[tuple[str, str], Show] = {
    ("data-udp-blocked-host-fw", "firewall_ports"): test_roles.test_a_dropped_tunnel,
    ("gossip-7946-blocked", "firewall_ports"): test_roles.test_dropped_gossip,
    ("gossip-udp-7946-blocked", "firewall_ports"): test_roles.test_gossip_dropped_over_udp_alone,
    ("mgmt-2377-blocked", "firewall_ports"): test_roles.test_a_managers_port_that_is_closed,
    ("esp-blocked", "firewall_ports"): test_encryption.test_a_hosts_own_filter_that_drops_esp_is_named_there,
    ("nft-basechain-override", "firewall_ports"): (
        test_packet_filter_owner.test_an_accept_in_one_base_chain_does_not_help_against_another
    ),
    ("legacy-nft-mix", "firewall_ports"): (
        test_packet_filter_owner.test_a_drop_in_legacy_tables_beside_an_engine_that_uses_nf_tables
    ),
    ("forward-policy-drop", "forward_policy"): test_nat.test_a_second_forward_chain_with_policy_drop,
    ("forward-policy-drop", "engine_rules"): test_nat.test_a_forward_policy_without_the_accept_of_the_bridge,
    ("ruleset-flushed", "engine_rules"): test_roles.test_flushed_rules,
    ("firewalld-reload", "engine_rules"): test_filter_ownership.test_a_reload_breaks_what_the_mesh_publishes,
    ("masquerade-missing", "engine_rules"): test_nat.test_containers_that_leave_untranslated,
    ("published-port-rule-missing", "engine_rules"): test_nat.test_a_stale_rule_leads_astray,
    ("ingress-inconsistent", "engine_rules"): (
        test_balancing.test_ingress_inconsistent_that_breaks_nothing_is_information
    ),
    ("overlay-mtu-gt-path", "overlay_mtu"): test_path_mtu.test_one_pair_of_hosts_is_named_as_a_pair,
    ("overlay-mtu-gt-path", "mss_clamp"): test_path_mtu.test_one_pair_of_hosts_is_named_as_a_pair,
    ("overlay-mtu-gt-local-nic", "overlay_mtu"): test_mtu.test_two_hosts_of_three_are_two_findings,
    ("overlay-mtu-gt-local-nic", "mss_clamp"): test_mtu.test_two_hosts_of_three_are_two_findings,
    ("pmtu-blackhole-icmp", "overlay_mtu"): test_path_mtu.test_a_router_that_is_silent_is_named_with_its_hop,
    ("pmtu-blackhole-icmp", "mss_clamp"): test_path_mtu.test_a_router_that_is_silent_is_named_with_its_hop,
    ("fragments-dropped", "overlay_mtu"): test_path_mtu.test_fragments_that_are_dropped_break_the_overlay,
    ("fragments-dropped", "mss_clamp"): test_path_mtu.test_fragments_that_are_dropped_break_the_overlay,
    ("mixed-mtu-peers", "overlay_mtu"): test_mtu.test_an_ordinary_host_among_jumbo_ones_is_the_odd_one,
    ("mixed-mtu-peers", "mss_clamp"): test_mtu.test_an_ordinary_host_among_jumbo_ones_is_the_odd_one,
    ("mtu-option-double-subtract", "overlay_mtu"): test_roles.test_an_option_that_was_subtracted_twice,
    ("docker-gwbridge-mtu", "overlay_mtu"): test_roles.test_a_default_bridge_that_is_too_wide,
    ("docker-gwbridge-mtu", "mss_clamp"): test_path_mtu.test_a_wide_bridge_is_confirmed_by_the_way_out,
    ("tx-csum-inner-bug", "checksum_offload"): test_checksum.test_the_kernels_reason_confirms_without_any_counter,
    ("tx-csum-outer-bug", "checksum_offload"): (test_checksum.test_of_two_hosts_the_one_that_does_not_count_sends_them),
    ("source-vtep-mismatch", "source_address"): test_addressing.test_what_the_receiver_saw_confirms_it,
    ("multi-nic-rpfilter", "rp_filter"): test_addressing.test_a_newer_kernel_says_einval,
    ("if-forwarding-off", "ip_forwarding"): test_roles.test_an_interface_that_does_not_forward,
    ("ip-forward-zero", "ip_forwarding"): test_nat.test_a_policy_is_not_blamed_where_the_kernel_does_not_forward,
    ("nm-managed-cni", "nm_unmanaged"): test_managers.test_nm_managed_cni_is_information_while_its_link_is_up,
    ("overlay-entry-wrong", "overlay_entries"): test_causes.test_a_wrong_forwarding_entry_is_found_where_it_is,
    ("overlay-entry-missing", "overlay_entries"): (
        test_causes.test_a_missing_entry_is_blamed_only_for_pairs_that_need_it
    ),
    ("node-not-active", "swarm_node"): functools.partial(test_cluster.test_node_not_active_is_information, "drain"),
    ("conntrack-full", "conntrack_limits"): (
        test_kernel.test_a_full_table_breaks_at_random_so_it_warns_before_a_pair_fails
    ),
    ("br-netfilter-missing", "br_netfilter"): functools.partial(
        test_kernel.test_answers_that_bypass_their_translation_are_br_netfilter_missing, 0
    ),
    ("upstream-dns-unreachable", "engine_dns"): test_roles.test_name_servers_of_the_engine_that_do_not_answer,
}


def test_every_cause_that_is_decided_has_a_row():
    assert {cause.id for cause in CAUSES} <= set(ROWS)


@pytest.mark.skipif(not CATALOGUE.is_file(), reason=f"there is no {CATALOGUE}")
def test_every_cause_of_the_catalogue_has_a_row():
    rows = (re.match(r"\| ([a-z0-9-]{3,}) \|", line) for line in CATALOGUE.read_text().splitlines())
    assert {row[1] for row in rows if row} - {"question"} <= set(ROWS)


def test_the_page_has_a_line_for_every_row():
    lines = [line for line in remedies.matrix() if line.startswith("| ")]
    assert len(lines) == len(ROWS) + 2
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 4 for line in lines)
    assert any(line.startswith("| bgp-session-down |") and "by hand only" in line for line in lines)


def test_a_row_tells_a_role_or_why_there_is_none():
    for cause, row in ROWS.items():
        assert bool(row.roles) != bool(row.why), cause
        assert row.repairs or cause == "isolated-by-design", cause
        assert all(bool(repair.role) != bool(repair.steps) for repair in row.repairs), cause


def test_the_roles_are_those_of_the_schema_and_of_the_collection():
    named = {role for row in ROWS.values() for role in row.roles}
    assert named == set(ROLES) == set(DOES)
    assert [*ROLES, None] == load_schema()["$defs"]["remedy"]["properties"]["role"]["enum"]
    missing = [role for role in ROLES if not (REPOSITORY / "roles" / role / "tasks" / "main.yml").is_file()]
    assert missing == []


def test_every_role_of_a_row_is_shown_by_a_test():
    assert set(SHOWN) == {(cause, role) for cause, row in ROWS.items() for role in row.roles}


@pytest.mark.parametrize(("cause", "role"), SHOWN)
def test_the_engine_names_the_role_of_the_row(cause: str, role: str, made_findings: list[Finding]):
    SHOWN[cause, role]()
    found = [remedy for finding in made_findings if finding.cause == cause for remedy in finding.remedies]
    assert role in {remedy.role for remedy in found}
    assert all(remedy.manual and remedy.hosts for remedy in found if remedy.role)


@pytest.mark.parametrize(
    ("role", "values", "words"),
    [
        ("rp_filter", {"rp_filter_interfaces": ["eth0"], "rp_filter_mode": 2}, "rp_filter_mode"),
        ("rp_filter", {"rp_filter_value": "loose"}, "rp_filter_value"),
        ("engine_rules", {"engine_rules_allow_disruption": True}, "not for a finding to say"),
        ("overlay_entries", {"overlay_entries_entries": [{"network": "n"}]}, "mac"),
        ("firewall_ports", {"firewall_ports_owner": "somebody"}, "somebody"),
    ],
)
def test_what_a_role_does_not_take_is_seen(role: str, values: dict[str, t.Any], words: str):
    problems = refused(Remedy("cure", ("by hand",), "none", role=role, vars=values))
    assert words in " ".join(problems)


def test_a_remedy_that_the_catalogue_does_not_know_is_seen():
    wrong = Remedy("cure", ("by hand",), "none", role="rp_filter", vars={})
    finding = Finding("vtep-down", "critical", "likely", ["node1"], "vtep", "words", [], remedies=[wrong])
    assert unknown(finding) == ["vtep-down: not in the catalogue: cure rp_filter False"]
    finding.remedies.clear()

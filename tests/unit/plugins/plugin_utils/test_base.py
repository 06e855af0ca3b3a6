# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who is the culprit of a set of failing pairs, and what a counter proves."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import culprits
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.deltas import Rise, protocol_counter, rise
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import HostFacts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Host

NAMES = ["a", "b", "c", "d", "e"]


@given(bad=st.sampled_from(NAMES))
def test_one_dead_host_is_named_alone(bad):
    pairs = list(itertools.permutations(NAMES, 2))
    failing = [pair for pair in pairs if bad in pair]
    assert culprits(failing, [pair for pair in pairs if bad not in pair]) == [frozenset({bad})]


@given(pair=st.sampled_from(list(itertools.combinations(NAMES, 2))))
def test_one_dead_path_names_both_its_ends(pair):
    pairs = list(itertools.combinations(NAMES, 2))
    assert culprits([pair], [p for p in pairs if p != pair]) == [frozenset(pair)]


@given(failing=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)).filter(lambda p: p[0] != p[1])))
def test_every_failing_pair_is_covered(failing):
    places = culprits(failing, [])
    assert all(any(place <= set(pair) for place in places) for pair in failing)


def test_two_hosts_cannot_be_told_apart():
    assert culprits([("a", "b"), ("b", "a")], []) == [frozenset({"a", "b"})]


def snapshots(*readings: tuple[str, float, int]) -> Host:
    host = Host("a")
    for label, at, value in readings:
        facts = {
            "started": at,
            "finished": at,
            "namespaces": [{"key": "1", "kind": "host", "counters": {"snmp": {"Ip.InAddrErrors": value}}}],
        }
        host.snapshots[label] = HostFacts("a", facts)
    return host


READ = protocol_counter("snmp", "Ip.InAddrErrors")


def test_a_counter_that_rises_with_each_burst_and_rests_between_is_tied():
    host = snapshots(("before", 0, 10), ("after", 3, 16), ("quiet", 5, 16), ("again", 8, 22))
    assert rise(host, "1", READ) == Rise((6, 6), 0, 0.0)
    assert rise(host, "1", READ).tied


def test_a_counter_that_rises_all_the_time_is_not_tied():
    host = snapshots(("before", 0, 10), ("after", 3, 16), ("quiet", 5, 22), ("again", 8, 28))
    assert not rise(host, "1", READ).tied


def test_one_burst_proves_nothing():
    host = snapshots(("before", 0, 10), ("after", 3, 16))
    assert rise(host, "1", READ).rose
    assert not rise(host, "1", READ).tied


def test_a_counter_nobody_read_is_unknown():
    assert rise(Host("a"), "1", READ) is None

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The search for a path MTU against made paths: it ends, it is right, and it is not fooled by loss."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _pmtu_search
from ansible_collections.crosshost.doctor.plugins.module_utils._pmtu_search import Search, frugal, spread, trials, width

SIZES = st.integers(_pmtu_search.FLOOR, 65535)
ROUNDS = 12


def walk(
    search: Search,
    limit: int,
    announced: int | None = None,
    lost: random.Random | None = None,
    rounds: int = 60,
    share: float = 0.3,
) -> int:
    """Send what the search asks for over a path that takes C(limit) bytes; the number of volleys."""
    sizes, count = search.first, 0
    while sizes and count < rounds:
        count += 1
        for size in sizes:
            search.sent(size)
            if lost is not None and lost.random() < share:
                continue
            if size <= limit:
                search.answered(size)
            elif announced is not None:
                search.too_big(size, announced)
        sizes = search.ask(ROUNDS - count)
    return count


@given(SIZES, SIZES, st.sampled_from((4, 6)))
def test_a_limit_is_found_to_the_byte(limit: int, largest: int, version: int):
    search = Search(version, largest)
    count = walk(search, limit)
    assert search.done
    assert (search.low, search.exact) == (min(limit, largest), True)
    assert search.limited == (limit < largest)
    assert count <= ROUNDS
    assert sum(search.sends.values()) < 250


@given(SIZES, SIZES)
def test_what_a_router_announces_is_found_at_once(limit: int, largest: int):
    search = Search(4, largest)
    assert walk(search, limit, announced=limit) <= 2
    assert (search.low, search.done) == (min(limit, largest), True)


@given(SIZES, SIZES, st.integers(0, 70000))
def test_a_wrong_announcement_does_not_mislead(limit: int, largest: int, announced: int):
    search = Search(4, largest)
    walk(search, limit, announced=announced)
    assert search.low == min(limit, largest)
    assert search.done


@settings(max_examples=60)
@given(st.integers(200, 9000), st.integers(200, 9000), st.integers())
def test_loss_is_not_taken_for_a_limit(limit: int, largest: int, seed: int):
    search = Search(4, largest)
    walk(search, limit, lost=random.Random(seed))
    assert search.low is None or search.low <= limit  # what was answered fits, whatever was lost
    if search.done and search.low is not None and search.low < min(limit, largest):
        # Unlucky, and not for want of trying: the next size was sent as often as the loss seen so far asks for.
        assert search.sends[search.low + 1] >= _pmtu_search.TRIES
        assert search.limited or search.sends[search.low + 1] >= _pmtu_search.MAX_TRIES


def test_loss_alone_is_seldom_taken_for_a_limit():
    wrong = 0
    for seed in range(400):
        search = Search(4, 1500)
        walk(search, 1500, lost=random.Random(seed), rounds=20)
        wrong += search.limited
    assert wrong <= 1  # a path that takes everything, and loses a third both ways


def test_nothing_is_certain_after_one_loss():
    search = Search(4, 1500)
    for size in search.first:
        search.sent(size)
        if size < 1500:
            search.answered(size)
    assert not search.limited
    assert 1500 in search.ask(5)
    search.sent(1500)
    search.sent(1500)
    assert not search.limited  # nothing else was lost, but nothing else was sent often
    for _try in range(2):
        search.sent(1500)
    assert search.limited
    assert not search.done  # from 1493 to 1499 nothing was tried


def test_without_any_answer_nothing_is_claimed():
    search = Search(4, 1500)
    for _try in range(50):
        for size in search.ask(5):
            search.sent(size)
    assert not search.done
    assert not search.limited
    assert search.low is None
    assert not search.exact


def test_the_first_volley_is_about_a_dozen():
    for largest in (100, 576, 1280, 1450, 1500, 9000, 65535):
        for version in (4, 6):
            sizes = _pmtu_search.volley(version, largest)
            assert sizes[-1] == largest
            assert sizes[0] == 100
            assert len(sizes) <= _pmtu_search.MAX_VOLLEY
    assert {576, 1280, 1400, 1450, 1492, 1500} <= set(_pmtu_search.volley(4, 1500))


@given(st.integers(0, 60000), st.integers(2, 5000), st.integers(1, 64))
def test_sizes_are_spread_inside_the_gap(low: int, gap: int, count: int):
    sizes = spread(low, low + gap, count)
    assert low + 1 in sizes
    assert all(low < size < low + gap for size in sizes)
    assert 1 <= len(sizes) <= count + 1


@given(st.integers(2, 65535), st.integers(1, 40))
def test_a_volley_is_never_too_wide(gap: int, rounds: int):
    assert 1 <= width(gap, rounds) <= max(_pmtu_search.MIN_WIDTH, _pmtu_search.MAX_WIDTH)


@given(st.integers(100, 9000), st.integers(101, 9000), st.integers(2, 6))
def test_few_answers_are_enough_one_after_the_other(limit: int, largest: int, answers: int):
    low, high, paid, count = 100, largest, answers, 0
    planned = trials(max(1, high - low), answers)
    while high - low > 1 and paid > 1:
        count += 1
        size = frugal(low, high, paid)
        assert low < size < high
        if size <= limit:
            low, paid = size, paid - 1
        else:
            high = size
    assert count <= planned + 1
    if high - low == 1 and limit < largest:
        assert low == max(100, min(limit, largest - 1))


@pytest.mark.parametrize(("gap", "answers", "packets"), [(1, 3, 0), (2, 3, 1), (8, 3, 3), (1400, 5, 12)])
def test_how_many_packets_few_answers_need(gap: int, answers: int, packets: int):
    assert trials(gap, answers) == packets

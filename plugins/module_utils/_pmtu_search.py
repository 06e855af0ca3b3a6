# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which sizes to send next to find a path MTU, and what the answers so far prove. Nothing here sends.

A volley of common sizes at once, then a few volleys inside the gap that is left, each of several sizes: to the byte in
three or four round trips. An answer proves its size for good; silence proves nothing until it has been repeated, beside
smaller packets that are answered (RFC 8899 §5.1.2 takes three tries), because packets are also lost for other reasons.
"""

from __future__ import annotations

from collections import Counter
from math import prod

TRIES = 3
CHANCE = 0.0002  # that what is taken for a limit was lost by accident, every time
MAX_TRIES = 40
MAX_VOLLEY = 14
MIN_WIDTH, MAX_WIDTH = 4, 64
FLOOR = 100  # bytes; any path takes it, and it has room for the mark
# Plateaus of RFC 1191 §7.1 below, and what encapsulations, access lines and clouds leave of 1500 and 9000. The least
# telling ones stand in DISPENSABLE, in the order in which they give way when there are too many.
LADDER = {
    4: (
        296,
        576,
        1006,
        1280,
        1350,
        1400,
        1420,
        1450,
        1460,
        1492,
        1500,
        2002,
        4352,
        8166,
        8500,
        8900,
        9000,
        17914,
        32000,
    ),
    6: (1280, 1350, 1400, 1420, 1430, 1450, 1460, 1492, 1500, 2002, 4352, 8166, 8500, 9000, 17914, 32000),
}
DISPENSABLE = (1006, 2002, 32000, 1430, 1350, 1420, 1460, 296, 17914)


def volley(version: int, largest: int) -> list[int]:
    """The sizes to begin with: the smallest first, so that an address is resolved by a packet that fits."""
    sizes = {FLOOR, largest} | {size for size in LADDER[version] if size < largest}
    for size in DISPENSABLE:
        if len(sizes) > MAX_VOLLEY:
            sizes.discard(size)
    return sorted(size for size in sizes if size <= largest)


def spread(low: int, high: int, count: int) -> set[int]:
    """C(count) sizes between two, both excluded, the one above C(low) always among them."""
    gap = high - low
    return {low + 1} | {low + gap * step // (count + 1) for step in range(1, count + 1)} - {low}


def width(gap: int, rounds: int) -> int:
    """How many sizes a volley needs for C(rounds) of them to close the gap."""
    needed = 1
    while needed < MAX_WIDTH and needed ** max(1, rounds) < gap:
        needed += 1
    return max(MIN_WIDTH, min(needed, MAX_WIDTH, gap - 1))


class Search:
    """What was sent and answered by size, in bytes of IP packet."""

    def __init__(self, version: int, largest: int) -> None:
        self.largest = largest
        self.first = volley(version, largest)
        self.sends: Counter[int] = Counter()
        self.answers: Counter[int] = Counter()
        self.refused: dict[int, int] = {}  # size -> the MTU that a frag-needed about it announced, 0 for none

    def sent(self, size: int) -> None:
        self.sends[size] += 1

    def answered(self, size: int) -> None:
        self.answers[size] += 1

    def too_big(self, size: int, mtu: int) -> None:
        """A frag-needed or packet-too-big about a packet of this size; an MTU no smaller than the packet is none."""
        self.refused[size] = mtu if 0 < mtu < size else 0

    @property
    def low(self) -> int | None:
        """The largest size that was answered."""
        return max(self.answers, default=None)

    @property
    def high(self) -> int | None:
        """The smallest size above it that was sent and not answered."""
        low = self.low or 0
        return min((size for size in self.sends if size > low), default=None)

    @property
    def hint(self) -> int | None:
        """What routers say the path takes: the smallest announced MTU above the largest answered size."""
        low = self.low or 0
        return min((mtu for size, mtu in self.refused.items() if mtu > low and size > mtu), default=None)

    def _fitting(self) -> tuple[int, int]:
        """(sent, lost) of the packets that fit."""
        low = self.low or 0
        sent = sum(count for size, count in self.sends.items() if size <= low)
        return sent, max(0, sent - sum(count for size, count in self.answers.items() if size <= low))

    @property
    def loss(self) -> float:
        """The share of packets lost among those of sizes that fit."""
        sent, lost = self._fitting()
        return lost / sent if sent else 1.0

    def _accident(self, tries: int) -> float:
        """How likely C(tries) packets that fit would all be lost, by what those that did fit went through.

        Laplace's rule of succession, try by try: few packets prove little about the loss of a path, and a run of losses
        makes the next one more likely. A plain power of the share that was lost calls a lossy path a black hole.
        """
        sent, lost = self._fitting()
        return prod((lost + 1 + number) / (sent + 2 + number) for number in range(tries))

    def settled(self, size: int) -> bool:
        """Whether it is certain that packets of this size do not come through."""
        if size in self.answers:
            return False
        if size in self.refused:
            return True
        tries = self.sends[size]
        return tries >= TRIES and self._accident(tries) <= CHANCE

    @property
    def limited(self) -> bool:
        """Whether it is certain that the path takes less than the largest size."""
        high = self.high
        return self.low is not None and high is not None and self.settled(high)

    @property
    def exact(self) -> bool:
        low, high = self.low, self.high
        return low is not None and (low >= self.largest or (high is not None and high == low + 1))

    @property
    def done(self) -> bool:
        low, high = self.low, self.high
        if low is None:
            return False
        if low >= self.largest:
            return True
        return high is not None and high == low + 1 and (self.settled(high) or self.sends[high] >= MAX_TRIES)

    def ask(self, rounds: int) -> list[int]:
        """The sizes of the next volley, when there is time for C(rounds) more; nothing once the search is done."""
        low, high = self.low, self.high
        if self.done:
            return []
        if low is None or high is None:
            return self._again()
        wanted: set[int] = set()
        hint = self.hint
        if hint is not None and low < hint < high:
            # Announced: true in most cases, and the next byte shows that it is the limit.
            wanted = {size for size in (hint, hint + 1) if size < high and self.sends[size] < TRIES}
        if not wanted and high - low > 1:
            wanted = spread(low, high, width(high - low, rounds))
        if not self.settled(high):
            wanted |= {high, low}  # what fits goes along, so that loss can be told from a limit
        return sorted(wanted)

    def _again(self) -> list[int]:
        """Nothing came back so far: the smallest, one in the middle and the largest once more."""
        return sorted({self.first[0], self.first[len(self.first) // 2], self.first[-1]})


def trials(gap: int, answers: int) -> int:
    """How many packets one after the other find a limit among C(gap) sizes when at most C(answers) may be answered.

    With t packets and a answers, sum(C(t, i), i = 0..a) places of the limit can be told apart.
    """
    count, rows = 0, [1] * (answers + 1)
    while rows[answers] < gap and count < gap:
        count += 1
        rows = [1] + [rows[index] + rows[index - 1] for index in range(1, answers + 1)]
    return count


def frugal(low: int, high: int, answers: int) -> int:
    """The next size to send between two where every answer is paid for, out of C(answers) that are left.

    Hosts limit how many port unreachables they send: of sizes that fit only a few are answered, however many come.
    """
    gap = high - low
    if answers <= 1 or gap <= 2:
        return low + gap // 2
    left = trials(gap, answers) - 1
    below = [1] * (answers + 1)  # places that C(left) more packets tell apart when this one is not answered
    for _trial in range(max(0, left)):
        below = [1] + [below[index] + below[index - 1] for index in range(1, answers + 1)]
    return low + max(1, min(gap - 1, below[answers]))

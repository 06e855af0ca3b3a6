# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the packet filter of a host does with a packet, from FILTER facts alone.

An interpreter of nf_tables and xtables over partly known packets. Every answer is three-valued: True, False, or None
for "cannot tell"; an unknown field, a rate limit or an undecoded match never becomes a guess.
"""

from __future__ import annotations

from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.evaluate import (
    concerns,
    counted,
    fate,
    path_fate,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.packet import Packet
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.result import (
    FORWARDED,
    INBOUND,
    OUTBOUND,
    Fate,
    PathFate,
    RuleRef,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.ruleset import Ruleset, prepare

__all__ = [
    "FORWARDED",
    "INBOUND",
    "OUTBOUND",
    "Fate",
    "Packet",
    "PathFate",
    "RuleRef",
    "Ruleset",
    "concerns",
    "counted",
    "fate",
    "path_fate",
    "prepare",
]

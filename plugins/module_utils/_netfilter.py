# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The packet filter of the network namespace the calling thread is in: nf_tables and legacy xtables, read only.

No binary is run and nothing is created: nf_tables is read over netlink, legacy tables only where the kernel lists them.
"""

from __future__ import annotations

import errno
import sys
import typing as t

from ansible_collections.crosshost.doctor.plugins.module_utils import _nft, _xtables
from ansible_collections.crosshost.doctor.plugins.module_utils._nfnl import UnsupportedError

Filter = dict[str, t.Any]


def empty_filter(error: str | None = None) -> Filter:
    """A FILTER with nothing in it."""
    return {
        "error": error,
        "byteorder": sys.byteorder,
        "legacy_tables": {"ip": [], "ip6": [], "arp": []},
        "notes": [],
        "chains": [],
        "sets": [],
    }


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.EPERM, errno.EACCES):
        return "no permission to read the packet filter: root is needed"
    return f"{type(error).__name__}: {error}"


def read_filter(rule_limit: int = 50_000, element_limit: int = 100_000, timeout: float = 10.0) -> Filter:
    """Everything that is loaded. Never raises.

    `error` says why rules are missing: then nothing can be said of a packet that the rest accepts. `notes` are about
    less: a set that was too large (marked as such), tables of another family that cannot be read.
    rule_limit, element_limit: nf_tables rules, and elements of all sets together; timeout: seconds.
    """
    found = empty_filter()
    errors = []
    try:
        if not _nft.unloaded():
            found["chains"], found["sets"], found["notes"], cut = _nft.read(rule_limit, element_limit, timeout)
            errors += [cut] if cut else []
            _xtables.name_sets(found["chains"])
    except UnsupportedError:
        pass  # an empty ruleset, not an error
    except Exception as error:  # pylint: disable=broad-exception-caught  # a kernel newer than this decoder
        errors.append(f"nf_tables: {_why(error)}")
    try:
        chains, found["legacy_tables"], notes, failed = _xtables.read()
        found["chains"].extend(chains)
        found["notes"].extend(notes)
        errors += failed
    except Exception as error:  # pylint: disable=broad-exception-caught
        errors.append(f"legacy tables: {_why(error)}")
    found["error"] = "; ".join(errors) or None
    return found


def read_counters(timeout: float = 10.0) -> dict[str, list[int]]:
    """{rule or chain ref: [packets, bytes]}: the cheap second read. Never raises; what cannot be read is missing."""
    found: dict[str, list[int]] = {}
    try:
        if not _nft.unloaded():
            found.update(_nft.read_counters(timeout))
    except Exception:  # pylint: disable=broad-exception-caught
        pass
    try:
        found.update(_xtables.read_counters())
    except Exception:  # pylint: disable=broad-exception-caught
        pass
    return found

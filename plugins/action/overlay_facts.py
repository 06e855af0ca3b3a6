# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs overlay_facts on the host and files what it returned."""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.gather import GatherAction


class ActionModule(GatherAction):
    """See the module of the same name."""

    module = "overlay_facts"

    def digest(self, facts: dict[str, t.Any]) -> dict[str, t.Any]:
        return {
            "engine": (facts.get("engine") or {}).get("state"),
            "containers": len(facts.get("containers") or []),
            "namespaces": len(facts.get("namespaces") or []),
            "missing": len(facts.get("missing") or []),
        }

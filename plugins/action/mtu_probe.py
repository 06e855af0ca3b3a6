# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs mtu_probe on the host: as asked, or what the run's plan asks of this host."""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.gather import GatherAction
from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder, safe_name


class ActionModule(GatherAction):
    """See the module of the same name."""

    module = "mtu_probe"

    def module_arguments(
        self, arguments: dict[str, t.Any], folder: RunFolder | None, host: str
    ) -> dict[str, t.Any] | None:
        if folder is None or "sources" in arguments:
            return arguments
        sources = folder.read(f"plan/mtu/{safe_name(host)}.json")
        if not sources:
            return None
        return {**arguments, "mark": (folder.read("run.json") or {}).get("run_id", ""), "sources": sources}

    def digest(self, facts: dict[str, t.Any]) -> dict[str, t.Any]:
        return {"targets": len(facts.get("results") or []), "missing": len(facts.get("missing") or [])}

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs sysctl_forwarding on the host and keeps its facts in the run folder, or returns them."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail

from ansible_collections.crosshost.doctor.plugins.plugin_utils.gather import GatherAction


class ActionModule(GatherAction):
    """See the module of the same name."""

    module = "sysctl_forwarding"

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        if self._task.args.get("run_dir") and self._task.args.get("settings") is not None:
            # A record of a run holds what was read. What a task changed belongs into its result, and its failure fails.
            raise AnsibleActionFail("run_dir is for reading: it cannot be given together with settings.")
        return super().run(tmp, task_vars)

    def digest(self, facts: dict[str, t.Any]) -> dict[str, t.Any]:
        return {
            "interfaces": len(facts.get("interfaces") or []),
            "drift": facts.get("drift") or [],
            "notes": len(facts.get("notes") or []),
        }

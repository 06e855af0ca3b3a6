# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Decides on the controller which probes every host sends in a round."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.crosshost.doctor.plugins.plugin_utils.engine import load
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.asked import AskedError
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.plan import first_round, schedule, second_round
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.services import again_sections
from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder, RunFolderError, safe_name


class ActionModule(ActionBase):
    """Reads the run folder and writes plan/<round>/; contacts no host."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _validated, arguments = self.validate_argument_spec(
            {
                "run_dir": {"type": "path", "required": True},
                "round": {"type": "str", "choices": ["first", "again"], "default": "first"},
            }
        )
        try:
            folder = RunFolder(arguments["run_dir"])
            case = load(folder)
            first = arguments["round"] == "first"
            pairs = first_round(case.fleet) if first else second_round(case.observations)
            folder.write(f"plan/{arguments['round']}/pairs.json", [pair.dump() for pair in pairs])
            for host, sources in schedule(case.fleet, pairs).items():
                folder.write(f"plan/{arguments['round']}/{safe_name(host)}.json", sources)
        except (RunFolderError, AskedError) as exc:
            raise AnsibleActionFail(str(exc)) from exc
        suspects = sorted({name for pair in pairs for name in pair.hosts if name})
        sections = ["netns", "counters", *again_sections(pairs)]
        return {**result, "changed": False, "pairs": len(pairs), "suspects": suspects, "sections": sections}

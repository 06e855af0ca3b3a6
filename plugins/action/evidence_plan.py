# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Decides on the controller of which hosts evidence is kept, and what."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.crosshost.doctor.plugins.plugin_utils.engine import load
from ansible_collections.crosshost.doctor.plugins.plugin_utils.evidence import plan
from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder, RunFolderError, safe_name


class ActionModule(ActionBase):
    """Reads the run folder and writes plan/evidence/; contacts no host."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _validated, arguments = self.validate_argument_spec({"run_dir": {"type": "path", "required": True}})
        try:
            folder = RunFolder(arguments["run_dir"])
            hosts = plan(load(folder))
            for host, content in hosts.items():
                folder.write(f"plan/evidence/{safe_name(host)}.json", content)
        except RunFolderError as exc:
            raise AnsibleActionFail(str(exc)) from exc
        return {**result, "changed": False, "hosts": sorted(hosts)}

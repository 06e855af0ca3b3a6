# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Finds on the controller where a container's frames can be captured."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.crosshost.doctor.plugins.plugin_utils.capture_target import (
    TargetError,
    arguments,
    find_target,
    parse_filter,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet
from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder, RunFolderError, safe_name


class ActionModule(ActionBase):
    """Reads the run folder and writes plan/capture/; contacts no host.

    A container that is not found does not fail the task: the hosts have to be left as they were first.
    """

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _validated, given = self.validate_argument_spec(
            {
                "run_dir": {"type": "path"},
                "target": {"type": "str", "required": True},
                "filter": {"type": "str", "default": ""},
            }
        )
        try:
            match = parse_filter(given["filter"])
            if not given["run_dir"]:
                return {**result, "changed": False, "match": match}
            folder = RunFolder(given["run_dir"])
            fleet = Fleet.load(folder)
            try:
                target = find_target(fleet, given["target"])
            except TargetError as exc:
                return {**result, "changed": False, "match": match, "host": None, "why": str(exc)}
            ports = [fleet.tunnel_port] if fleet.tunnel_port else []
            folder.write(f"plan/capture/{safe_name(target.host)}.json", arguments(target, match, ports))
        except (TargetError, RunFolderError) as exc:
            raise AnsibleActionFail(str(exc)) from exc
        name = f"{safe_name(target.host)}-{safe_name(target.container)}.pcapng"
        return {
            **result,
            "changed": False,
            "match": match,
            "host": target.host,
            "why": None,
            "container": target.container,
            "taps": [tap["id"] for tap in target.taps],
            "file": folder.file("captures", name),
        }

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Turns a run folder into report.json and the summary on the terminal."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.crosshost.doctor.plugins.action.run_start import utc_now
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import SEVERITIES
from ansible_collections.crosshost.doctor.plugins.plugin_utils.engine import diagnose
from ansible_collections.crosshost.doctor.plugins.plugin_utils.report.schema import problems
from ansible_collections.crosshost.doctor.plugins.plugin_utils.report.summary import summarise
from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder, RunFolderError


class ActionModule(ActionBase):
    """Runs the engine on the controller; contacts no host."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _validated, arguments = self.validate_argument_spec(
            {
                "run_dir": {"type": "path", "required": True},
                "fail_on": {"type": "str", "choices": ["never", "critical", "warning"], "default": "never"},
                "quiet": {"type": "bool", "default": False},
            }
        )
        folder = RunFolder(arguments["run_dir"])
        try:
            run = folder.read("run.json")
            if run is None:
                raise RunFolderError(f"{folder.path} holds no run (no run.json)")
            report = {
                **decided(folder, run),
                "collection_version": run["collection_version"],
                "run_id": run["run_id"],
                "started_at": run["started_at"],
                "finished_at": utc_now(),
            }
            if wrong := problems(report):
                raise RunFolderError("The report does not match its own schema, please report this: " + wrong[0])
            path = folder.write("report.json", report)
        except RunFolderError as exc:
            raise AnsibleActionFail(str(exc)) from exc
        if not arguments["quiet"]:
            Display().display(summarise(report, path))
        return {**result, **_outcome(report, path, arguments["fail_on"])}


def decided(folder: RunFolder, run: dict[str, t.Any]) -> dict[str, t.Any]:
    """What the engine says. On somebody else's facts it may stumble over what no module of ours would have returned."""
    try:
        return diagnose(folder)
    except RunFolderError:
        raise
    except Exception as exc:
        if "replayed_from" not in run:
            raise
        what = f"{type(exc).__name__}: {exc}"[:300]
        raise RunFolderError(f"doctor_replay: the facts in {run['replayed_from']} make no sense: {what}") from exc


def _outcome(report: dict[str, t.Any], path: str, fail_on: str) -> dict[str, t.Any]:
    bad = SEVERITIES[: SEVERITIES.index(fail_on) + 1] if fail_on != "never" else ()
    failing = [finding["id"] for finding in report["findings"] if finding["severity"] in bad]
    outcome: dict[str, t.Any] = {"changed": False, "verdict": report["verdict"], "report": path}
    if failing:
        outcome.update(failed=True, msg=f"doctor_fail_on={fail_on}: {', '.join(failing)}")
    return outcome

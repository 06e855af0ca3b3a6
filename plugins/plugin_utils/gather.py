# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The base of the action plugins that run a gathering module on a host.

Used in a plain play, a module returns its facts as usual. Given a run folder (O(run_dir)), what it returned is
written there and only a digest travels on: facts of large hosts in host variables were measured to slow a play
down to a few tasks a second. A host that cannot answer never stops the run: the reason goes into the run folder,
where the engine finds it, and the host is not contacted again.
"""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase

from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder, RunFolderError

FACTS = "crosshost"


def merged_facts(task_vars: dict[str, t.Any], key: str, value: t.Any) -> dict[str, t.Any]:
    """ansible_facts that add one key to the collection's facts and keep what other modules returned."""
    known = (task_vars.get("ansible_facts") or {}).get(FACTS) or {}
    return {FACTS: {**known, key: value}}


class GatherAction(ActionBase):
    """Runs C(module) on the host; O(run_dir) and O(label) are taken by the controller, the rest goes to the module."""

    module: t.ClassVar[str]
    TRANSFERS_FILES = False

    def digest(self, facts: dict[str, t.Any]) -> dict[str, t.Any]:
        """What a later task may want to know without reading the run folder."""
        return {}

    def module_arguments(
        self, arguments: dict[str, t.Any], folder: RunFolder | None, host: str
    ) -> dict[str, t.Any] | None:
        """The arguments for the module; None where there is nothing to ask this host."""
        return arguments

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        arguments = dict(self._task.args)
        run_dir, label = arguments.pop("run_dir", None), arguments.pop("label", "before")
        host = task_vars["inventory_hostname"]
        folder = RunFolder(run_dir) if run_dir else None
        if folder and (gone := self._known_failure(folder, host)):
            return {**result, "changed": False, "skipped": True, "skip_reason": gone}
        try:
            asked = self.module_arguments(arguments, folder, host)
        except RunFolderError as exc:
            raise AnsibleError(str(exc)) from exc
        if asked is None:
            return {**result, "changed": False, "skipped": True, "skip_reason": "nothing to ask this host"}
        try:
            answer = self._execute_module(
                module_name=f"{FACTS}.doctor.{self.module}", module_args=asked, task_vars=task_vars
            )
        except AnsibleConnectionFailure as exc:
            if folder:
                folder.write_record(host, self.module, label, {"error": str(exc), "unreachable": True})
            raise
        if answer.get("failed") or answer.get("unreachable"):
            return self._failed(answer, folder, host, label)
        facts = ((answer.get("ansible_facts") or {}).get(FACTS) or {}).get(self.module) or {}
        if folder is None:
            answer["ansible_facts"] = merged_facts(task_vars, self.module, facts)
            return {**result, **answer}
        path = folder.write_record(host, self.module, label, {"facts": facts})
        return {**result, "changed": False, "record": path, **self.digest(facts)}

    def _failed(self, answer: dict[str, t.Any], folder: RunFolder | None, host: str, label: str) -> dict[str, t.Any]:
        if folder is None:
            return answer
        why = str(answer.get("msg") or "the module returned no result").strip()
        stderr = str(answer.get("module_stderr") or "").strip().splitlines()
        if stderr and stderr[-1] not in why:
            why = f"{why}: {stderr[-1]}"
        record = {"error": why, "unreachable": bool(answer.get("unreachable"))}
        folder.write_record(host, self.module, label, record)
        if answer.get("unreachable"):
            return answer
        return {
            "changed": False,
            "gathered": False,
            "msg": why,
            "warnings": [f"{host}: {self.module} could not run: {why}. The report lists it under checks_skipped."],
        }

    def _known_failure(self, folder: RunFolder, host: str) -> str | None:
        """Why this host was given up earlier in the run, or None."""
        for module, label in (("prepare", "before"), ("overlay_facts", "before")):
            record = folder.read_record(host, module, label)
            if record and record.get("error"):
                return f"{host} could not be used earlier in this run: {record['error']}"
        return None

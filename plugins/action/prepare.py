# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs prepare on the host and sends the library bundle along.

A megabyte more on a connection that is open costs less than one more call, and hardly any host has the libraries: a
bundle that is at hand goes with the first call, and the host takes it if it lacks them. A bundle that must be built
first waits until a host asks for it. A second call is also made when dead runs of this controller were found.

The bundle travels in the arguments of the module, so that with pipelining nothing but the run's own folder is ever
written on the host, also when the controller is killed half-way.
"""

from __future__ import annotations

import base64
import typing as t

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from ansible_collections.crosshost.doctor.plugins.plugin_utils import bundle, controller
from ansible_collections.crosshost.doctor.plugins.plugin_utils.gather import FACTS, GatherAction, merged_facts
from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder

Vars = dict[str, t.Any]
INTERNAL = ("controller", "dead", "content", "sha256")


def _payload(found: bundle.Bundle | None) -> Vars:
    return {"content": base64.b64encode(found.content).decode(), "sha256": found.sha256} if found else {}


class ActionModule(GatherAction):
    """See the module of the same name."""

    module = "prepare"

    def run(self, tmp: str | None = None, task_vars: Vars | None = None) -> Vars:
        result: Vars = ActionBase.run(self, tmp, task_vars)
        task_vars = task_vars or {}
        arguments = dict(self._task.args)
        if set_by_hand := [name for name in INTERNAL if name in arguments]:
            raise AnsibleActionFail(f"{', '.join(set_by_hand)}: set by the action plugin, not by a playbook.")
        run_dir, given = arguments.pop("run_dir", None), arguments.pop("bundle", None)
        owner = controller.playbook()
        arguments = {**arguments, "run_id": arguments.get("run_id") or controller.run_id(owner), "controller": owner}
        present = arguments.get("state", "present") != "absent"
        label = "before" if present else "after"
        folder = RunFolder(run_dir) if run_dir else None
        host = task_vars["inventory_hostname"]
        if folder and (why := self._not_reached(folder, host)):
            return {**result, "changed": False, "skipped": True, "skip_reason": why}
        try:
            answer = self._prepare(arguments, given, task_vars) if present else self._ask(arguments, task_vars)
        except AnsibleConnectionFailure as exc:
            if folder:
                folder.write_record(host, self.module, label, {"error": str(exc), "unreachable": True})
            raise
        if answer.get("failed") or answer.get("unreachable"):
            return {**result, **self._failed(answer, folder, host, label)}
        facts = answer["ansible_facts"][FACTS][self.module]
        if folder:
            folder.write_record(host, self.module, label, {"facts": facts})
        answer.pop("unsure", None)
        return {**result, **answer, "ansible_facts": merged_facts(task_vars, self.module, facts)}

    def _ask(self, arguments: Vars, task_vars: Vars) -> Vars:
        return self._execute_module(
            module_name=f"{FACTS}.doctor.{self.module}", module_args=arguments, task_vars=task_vars
        )

    def _prepare(self, arguments: Vars, given: str | None, task_vars: Vars) -> Vars:
        """At most two calls, and a third that takes all back if they failed."""
        try:
            along = None if self._is_prepared(arguments, task_vars) else bundle.at_hand(given)
            answer = self._ask({**arguments, **_payload(along)}, task_vars)
            if answer.get("unreachable") or answer.get("failed"):
                return answer
            facts = answer["ansible_facts"][FACTS][self.module]
            unsure = answer.get("unsure") or []
            more: Vars = {"dead": [str(run["run_id"]) for run in unsure if controller.has_ended(run["owner"])]}
            if facts["libraries"]["origin"] is None:
                more |= _payload(bundle.obtain(given))
        except bundle.BundleError as exc:
            self._ask({**arguments, "state": "absent"}, task_vars)
            return {"failed": True, "changed": False, "msg": str(exc)}
        if not any(more.values()):
            return answer
        second = self._ask({**arguments, **more}, task_vars)
        if second.get("failed"):
            self._ask({**arguments, "state": "absent"}, task_vars)
        elif not second.get("unreachable"):
            second["actions"] = answer["actions"] + second["actions"]
            second["changed"] = bool(second["actions"])
        return second

    def _is_prepared(self, arguments: Vars, task_vars: Vars) -> bool:
        """Whether an earlier task of this run settled which libraries the host uses."""
        known = ((task_vars.get("ansible_facts") or {}).get(FACTS) or {}).get(self.module) or {}
        return known.get("run_id") == arguments["run_id"] and bool((known.get("libraries") or {}).get("origin"))

    def _not_reached(self, folder: RunFolder, host: str) -> str | None:
        """Why the host would only cost another time-out, or None."""
        for module in ("prepare", "overlay_facts"):
            record = folder.read_record(host, module, "before")
            if record and record.get("unreachable"):
                return f"{host} was not reached earlier in this run: {record.get('error')}"
        return None

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs evidence on the host and puts what it sent, with the run's own records of the host, into one archive."""

from __future__ import annotations

import base64
import binascii
import os
import typing as t

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from ansible_collections.crosshost.doctor.plugins.plugin_utils.evidence import HostileArchiveError, pack
from ansible_collections.crosshost.doctor.plugins.plugin_utils.gather import FACTS, GatherAction
from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder, RunFolderError, safe_name

Vars = dict[str, t.Any]


class ActionModule(GatherAction):
    """See the module of the same name."""

    module = "evidence"

    def run(self, tmp: str | None = None, task_vars: Vars | None = None) -> Vars:
        result: Vars = ActionBase.run(self, tmp, task_vars)
        task_vars = task_vars or {}
        arguments = dict(self._task.args)
        run_dir, label = arguments.pop("run_dir", None), arguments.pop("label", "before")
        dest = arguments.pop("dest", None)
        host = task_vars["inventory_hostname"]
        if not run_dir and not dest:
            raise AnsibleActionFail("evidence needs run_dir or dest: where to put the archive on the controller")
        folder = RunFolder(run_dir) if run_dir else None
        if folder and (gone := self._known_failure(folder, host)):
            return {**result, "changed": False, "skipped": True, "skip_reason": gone}
        try:
            plan = folder.read(f"plan/evidence/{safe_name(host)}.json") if folder else {}
        except RunFolderError as exc:
            raise AnsibleActionFail(str(exc)) from exc
        if plan is None:
            return {**result, "changed": False, "skipped": True, "skip_reason": "nothing broken involves this host"}
        try:
            answer = self._execute_module(
                module_name=f"{FACTS}.doctor.{self.module}", module_args={**plan, **arguments}, task_vars=task_vars
            )
        except AnsibleConnectionFailure as exc:
            if folder:
                folder.write_record(host, self.module, label, {"error": str(exc), "unreachable": True})
            raise
        if answer.get("failed") or answer.get("unreachable"):
            return self._failed(answer, folder, host, label)
        path = os.path.abspath(
            os.path.expanduser(dest or os.path.join(run_dir, "evidence", f"{safe_name(host)}.tar.gz"))
        )
        try:
            content = base64.b64decode(str(answer.pop("content", "")), validate=True)
            # The record is written first: it tells in the archive itself what the host has put in.
            if folder:
                folder.write_record(host, self.module, label, {"facts": _record(answer)})
            size = pack(folder, host, content, path)
        except (HostileArchiveError, binascii.Error) as exc:
            return self._failed({"failed": True, "msg": str(exc)}, folder, host, label)
        except OSError as exc:
            raise AnsibleActionFail(f"{path} cannot be written: {exc.strerror or exc}") from exc
        return {**result, **_record(answer), "changed": False, "archive": path, "bytes": size}


def _record(answer: Vars) -> Vars:
    return {key: answer.get(key) for key in ("members", "missing", "secrets_removed")}

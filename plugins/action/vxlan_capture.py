# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs vxlan_capture on the host: as asked, or what the run's plan asks of this host.

A capture in the background is two tasks: the one that starts it reads the plan and writes no record unless it fails,
the one that collects it asks for nothing but what was started.
"""

from __future__ import annotations

import base64
import os
import typing as t
import zlib

from ansible.errors import AnsibleActionFail

from ansible_collections.crosshost.doctor.plugins.plugin_utils import controller
from ansible_collections.crosshost.doctor.plugins.plugin_utils.gather import GatherAction
from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder, safe_name

Vars = dict[str, t.Any]
PLAN = "plan/capture/{}.json"
MAX_CONTENT = 2 << 30


class ActionModule(GatherAction):
    """See the module of the same name."""

    module = "vxlan_capture"

    def module_arguments(self, arguments: Vars, folder: RunFolder | None, host: str) -> Vars | None:
        """The host's part of the plan, unless the task says itself where to listen."""
        if "content" in arguments:
            raise AnsibleActionFail("content: set by the action plugin, not by a playbook.")
        asked = {**arguments, "label": self._task.args.get("label", "before")}
        fetch = asked.pop("fetch", None)
        if fetch:
            asked["content"] = True
        state = asked.get("state", "captured")
        if state != "captured":
            run = (folder.read("run.json") or {}) if folder else {}
            asked.setdefault("run_id", run.get("run_id") or controller.run_id(controller.playbook()))
        if folder is None or "taps" in asked or "src" in asked:
            return asked
        plan = folder.read(PLAN.format(safe_name(host)))
        if not plan:
            return None
        if state != "collected":
            return {**plan, **asked}
        # What could not be started has left its reason there.
        record = folder.read_record(host, self.module, asked["label"]) or {}
        return None if record.get("error") else asked

    def _execute_module(self, *args: t.Any, **kwargs: t.Any) -> Vars:
        """The module's answer, with the frames put where they are wanted."""
        answer: Vars = super()._execute_module(*args, **kwargs)
        content = answer.pop("content", None)
        target = self._task.args.get("fetch")
        if content and target:
            path = os.path.abspath(os.path.expanduser(target))
            facts = answer["ansible_facts"]["crosshost"][self.module]
            try:
                _write(path, content)
                facts["file"] = path
            except OSError as exc:
                raise AnsibleActionFail(f"fetch: {path} cannot be written: {exc.strerror}") from exc
        return answer

    def digest(self, facts: Vars) -> Vars:
        return {
            "state": facts.get("state"),
            "taps": len(facts.get("taps") or []),
            "frames": sum(tap.get("frames") or 0 for tap in facts.get("taps") or []),
            "dropped": sum(tap.get("dropped") or 0 for tap in facts.get("taps") or []),
            "sightings": len(facts.get("sightings") or []),
            "ended": facts.get("ended"),
            "file": facts.get("file"),
            "missing": len(facts.get("missing") or []),
        }


def _write(path: str, content: str) -> None:
    """@raises OSError: the folder or the file cannot be written."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    unfinished = f"{path}.part"
    handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as stream:
        inflate = zlib.decompressobj()
        stream.write(inflate.decompress(base64.b64decode(content), MAX_CONTENT))
    os.replace(unfinished, path)

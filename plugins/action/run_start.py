# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Opens a run: its id, its folder, the hosts of the play and what was asked."""

from __future__ import annotations

import os
import secrets
import time
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.crosshost.doctor.plugins.plugin_utils.replay import take_over
from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder, RunFolderError
from ansible_collections.crosshost.doctor.plugins.plugin_utils.subnets import MISSING
from ansible_collections.crosshost.doctor.plugins.plugin_utils.version import COLLECTION_VERSION

QUESTION = ("from", "to", "port")


def utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class ActionModule(ActionBase):
    """Creates the run folder on the controller; contacts no host."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _validated, arguments = self.validate_argument_spec(
            {
                "report_dir": {"type": "path"},
                "from": {"type": "str"},
                "to": {"type": "str"},
                "port": {"type": "int"},
                "kv_endpoints": {"type": "list", "elements": "str", "default": []},
                "replay": {"type": "path"},
                "after": {"type": "path"},
                "pairs": {"type": "list", "elements": "str"},
            },
            required_together=[("from", "to"), ("after", "pairs")],
            mutually_exclusive=[("replay", "from", "after")],
        )
        if MISSING:
            raise AnsibleActionFail(MISSING)
        if arguments["replay"]:
            return {**result, "changed": False, **self._replay(arguments["replay"], arguments["report_dir"])}
        run_id = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
        path = arguments["report_dir"] or os.path.join(os.getcwd(), f"crosshost-doctor-{run_id}")
        run = {
            "run_id": run_id,
            "started_at": utc_now(),
            "collection_version": COLLECTION_VERSION,
            "hosts": self._hosts(task_vars),
            "question": {key: arguments[key] for key in QUESTION if arguments[key] is not None},
            "kv_endpoints": arguments["kv_endpoints"],
        }
        try:
            if arguments["after"]:
                earlier = RunFolder(arguments["after"]).read("run.json") or {}
                run |= {key: earlier[key] for key in ("question", "kv_endpoints") if key in earlier}
                run["pairs"] = arguments["pairs"]
            folder = RunFolder.create(path, run)
        except RunFolderError as exc:
            raise AnsibleActionFail(str(exc)) from exc
        return {**result, "changed": False, "run_id": run_id, "run_dir": folder.path}

    def _replay(self, source: str, report_dir: str | None) -> dict[str, t.Any]:
        """A run folder of what an earlier run has read; no host is asked."""
        path = report_dir or os.path.join(os.getcwd(), f"crosshost-doctor-replay-{secrets.token_hex(3)}")
        try:
            folder = take_over(source, path)
            run_id = folder.read("run.json")["run_id"]
        except RunFolderError as exc:
            raise AnsibleActionFail(f"doctor_replay: {exc}") from exc
        return {"run_id": run_id, "run_dir": folder.path}

    def _hosts(self, task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        names = task_vars.get("ansible_play_hosts_all") or [task_vars["inventory_hostname"]]
        hosts = {}
        for name in names:
            declared = task_vars["hostvars"][name].get("doctor_underlay_ip")
            hosts[str(name)] = {"underlay_ip": self._templar.template(declared) if declared else None}
        return hosts

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Decides on the controller which probes every host sends in a round."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Case
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.registry import decide_all
from ansible_collections.crosshost.doctor.plugins.plugin_utils.engine import load
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.asked import AskedError
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.mtu_plan import plan as mtu_plan
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.pairs import Pair
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.plan import first_round, schedule, second_round
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.services import again_sections
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.trace_plan import TracePlan, suspects
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
                "round": {"type": "str", "choices": ["first", "again", "trace"], "default": "first"},
                "nftrace": {"type": "bool", "default": False},
                "evidence": {"type": "bool", "default": False},
                "external_targets": {"type": "list", "elements": "str", "default": []},
            }
        )
        try:
            folder = RunFolder(arguments["run_dir"])
            case = load(folder)
            if arguments["round"] == "trace":
                return {**result, "changed": False, **_trace(folder, case, arguments)}
            first = arguments["round"] == "first"
            pairs = first_round(case.fleet) if first else second_round(case.observations)
            folder.write(f"plan/{arguments['round']}/pairs.json", [pair.dump() for pair in pairs])
            _write(folder, arguments["round"], schedule(case.fleet, pairs))
        except (RunFolderError, AskedError) as exc:
            raise AnsibleActionFail(str(exc)) from exc
        sections = ["netns", "counters", *again_sections(pairs)]
        return {**result, "changed": False, **_digest(pairs), "sections": sections, "mtu": []}


def _trace(folder: RunFolder, case: Case, arguments: dict[str, t.Any]) -> dict[str, t.Any]:
    """Plan step 3 and return its digest."""
    decide_all(case)
    plan = TracePlan(case, suspects(case, arguments["evidence"]))
    folder.write("plan/trace/pairs.json", plan.dump())
    _write(folder, "trace", schedule(case.fleet, plan.pairs))
    _write(folder, "capture", plan.captures(arguments["nftrace"]))
    mtu = mtu_plan(case, arguments["external_targets"])
    _write(folder, "mtu", mtu)
    digest = _digest(plan.pairs)
    return {
        **digest,
        "suspects": sorted(set(digest["suspects"]) | set(mtu)),
        "mtu": sorted(mtu),
    }


def _write(folder: RunFolder, name: str, hosts: dict[str, t.Any]) -> None:
    for host, content in hosts.items():
        folder.write(f"plan/{name}/{safe_name(host)}.json", content)


def _digest(pairs: list[Pair]) -> dict[str, t.Any]:
    return {"pairs": len(pairs), "suspects": sorted({name for pair in pairs for name in pair.hosts if name})}

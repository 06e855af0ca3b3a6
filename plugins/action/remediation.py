# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's part of a repair: which report, which steps in which order, whether they helped, and what to say."""

from __future__ import annotations

import glob
import json
import os
import shutil
import time
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.crosshost.doctor.plugins.plugin_utils.remediation import story
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remediation.judge import (
    HELPED,
    NOT_HELPED,
    OUTDATED,
    RELIEVED,
    judge,
    outdated,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remediation.plan import (
    DOMAIN,
    Options,
    plan,
    with_pairs,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remediation.variables import (
    Facts,
    VariablesError,
    complete,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies.catalogue import ROWS
from ansible_collections.crosshost.doctor.plugins.plugin_utils.report.schema import problems
from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder, RunFolderError, safe_name

RECORD = "remediation.json"
REJOIN_SECONDS = 150  # an engine that was restarted is found again by the others' gossip once a minute
IN_FORCE = (HELPED, RELIEVED)
MAX_REPORT = 64 << 20


class ActionModule(ActionBase):
    """Reads and writes files on the controller; contacts no host."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _validated, arguments = self.validate_argument_spec(
            {
                "stage": {
                    "type": "str",
                    "choices": ["choose", "plan", "confirm", "note", "judge", "say", "recall"],
                    "required": True,
                },
                "report": {"type": "str"},
                "report_dir": {"type": "path"},
                "max_age": {"type": "int", "default": 900},
                "only": {"type": "list", "elements": "str", "default": []},
                "apply": {"type": "bool", "default": False},
                "allow_disruption": {"type": "bool", "default": False},
                "force": {"type": "bool", "default": False},
                "guard_timeout": {"type": "int", "default": 60},
                "run_dir": {"type": "path"},
                "after": {"type": "path"},
                "round": {"type": "int"},
                "settle": {"type": "int", "default": 60},
                "step": {"type": "str"},
                "outcome": {"type": "str"},
                "why": {"type": "str"},
            },
            required_if=[
                ("stage", "plan", ["report"]),
                ("stage", "confirm", ["run_dir", "after"]),
                ("stage", "note", ["run_dir", "step", "outcome", "why"]),
                ("stage", "judge", ["run_dir", "after", "round"]),
                ("stage", "say", ["run_dir"]),
                ("stage", "recall", ["run_dir"]),
            ],
        )
        stages: dict[str, t.Callable[[Facts, Facts], Facts]] = {
            "choose": self._choose,
            "plan": self._plan,
            "confirm": self._confirm,
            "note": self._note,
            "judge": self._judge,
            "say": self._say,
            "recall": self._recall,
        }
        try:
            found = stages[arguments["stage"]](arguments, task_vars or {})
        except (RunFolderError, VariablesError, OSError) as exc:
            raise AnsibleActionFail(str(exc)) from exc
        return {**result, "changed": False, **found}

    def _choose(self, arguments: Facts, task_vars: Facts) -> Facts:
        asked = arguments["report"] or ""
        if asked == "new":
            return {"report": ""}
        if asked and asked != "last":
            return {"report": os.path.abspath(os.path.expanduser(asked))}
        folders = [arguments["report_dir"]] if arguments["report_dir"] else glob.glob("crosshost-doctor-2*")
        paths = [path for folder in folders if os.path.isfile(path := os.path.join(folder, "report.json"))]
        newest = max(paths, key=os.path.getmtime, default=None)
        if newest is None:
            if asked:
                raise AnsibleActionFail("doctor_report=last: there is no report in this directory. Leave it out.")
            return {"report": ""}
        age = time.time() - os.path.getmtime(newest)
        stale = age > arguments["max_age"] or _is_used(newest)
        if not asked and (stale or not self._of_this_play(newest, task_vars)):
            return {"report": ""}
        Display().display(f"Going by {newest}, of {age / 60:.0f} minutes ago. Without it: -e doctor_report=new")
        return {"report": os.path.abspath(newest)}

    def _of_this_play(self, path: str, task_vars: Facts) -> bool:
        try:
            return set(read_report(path)["hosts"]) == set(map(str, self._hosts(task_vars)))
        except RunFolderError:
            return False

    def _hosts(self, task_vars: Facts) -> dict[str, Facts]:
        names = task_vars.get("ansible_play_hosts_all") or [task_vars["inventory_hostname"]]
        domains = {str(name): task_vars["hostvars"][name].get(DOMAIN) for name in names}
        return {name: {DOMAIN: self._templar.template(value) if value else ""} for name, value in domains.items()}

    def _plan(self, arguments: Facts, task_vars: Facts) -> Facts:
        report = read_report(arguments["report"])
        options = Options(
            only=arguments["only"],
            apply=arguments["apply"],
            allow_disruption=arguments["allow_disruption"],
            force=arguments["force"],
            guard_timeout=arguments["guard_timeout"],
            run_id=f"{report['run_id']}-{time.strftime('%H%M%S', time.gmtime())}",
        )
        hosts = self._hosts(task_vars)
        known = {*hosts, *ROWS, *report["hosts"], *(finding["id"] for finding in report["findings"])}
        if unknown := [name for name in options.only if name not in known]:
            what = "neither a cause, nor a host of this play, nor the id of a finding of this report"
            raise AnsibleActionFail(f"doctor_only: {', '.join(unknown)[:200]}: {what}.")
        found = plan(report, hosts, options).public()
        folder = RunFolder(os.path.dirname(arguments["report"]))
        earlier = _in_force(folder.read(RECORD) or {})
        outcomes = {step["journal"]: step.pop("was") for step in earlier}
        earlier = [{**step, "id": step["journal"]} for step in earlier]
        record = {"report": arguments["report"], "options": vars(options), **found}
        record |= {"outcomes": outcomes, "earlier": earlier}
        for name in ("after", "outcomes"):  # of an earlier repair by the same report
            shutil.rmtree(folder.file(name), ignore_errors=True)
        folder.write(RECORD, record)
        return {"run_dir": folder.path, "rounds": with_pairs(found["rounds"], report)}

    def _confirm(self, arguments: Facts, task_vars: Facts) -> Facts:
        folder, record = _record(arguments["run_dir"])
        before, after = read_report(record["report"]), read_report(arguments["after"])
        rounds = []
        for entry in record["rounds"]:
            gone = {step["id"]: why for step in entry["steps"] if (why := outdated(before, after, step))}
            for step_id, why in gone.items():
                record["outcomes"][step_id] = {"outcome": OUTDATED, "why": why}
            left = [step for step in entry["steps"] if step["id"] not in gone]
            rounds.append({"hosts": sorted({step["host"] for step in left}), "steps": left})
        folder.write(RECORD, record)
        return {"rounds": with_pairs(rounds, before)}

    def _note(self, arguments: Facts, task_vars: Facts) -> Facts:
        folder = RunFolder(arguments["run_dir"])
        what = {"outcome": arguments["outcome"], "why": arguments["why"]}
        folder.write(f"outcomes/{safe_name(arguments['step'])}.json", what)  # hosts of a round write at the same time
        return {}

    def _judge(self, arguments: Facts, task_vars: Facts) -> Facts:
        folder, record = _record(arguments["run_dir"])
        steps = _steps_of(record, arguments["round"])
        noted = _noted(folder, steps)
        record["outcomes"] |= noted
        asked = [step for step in steps if step["id"] not in noted]
        rows = _judged(record, read_report(arguments["after"]), asked)
        unasked = [row["id"] for row in rows if not row.pop("asked")]
        begun = record.setdefault("begun", {}).setdefault(str(arguments["round"]), time.time())
        patience = max(arguments["settle"], REJOIN_SECONDS if any(step["disruptive"] for step in steps) else 0)
        late = time.time() - begun > patience
        attempts = record.setdefault("attempts", {})
        attempts[str(arguments["round"])] = attempts.get(str(arguments["round"]), 0) + 1
        record["outcomes"] |= {row.pop("id"): row for row in rows}
        folder.write(RECORD, record)
        bad = [step for step in asked if _outcome(record, step) == NOT_HELPED]
        # What could not be asked yet may be in a moment: containers come back after their engine does.
        settled = late or not (bad or unasked)
        return {"settled": settled, "undo": bad[::-1], "attempt": attempts[str(arguments["round"])]}

    def _recall(self, arguments: Facts, task_vars: Facts) -> Facts:
        """The steps of an earlier repair that are in force, the last first, checked: a record can be edited too."""
        folder, record = _record(arguments["run_dir"])
        kept = _in_force(record)
        hosts = self._hosts(task_vars)
        for step in kept:
            if step["host"] not in hosts:
                raise AnsibleActionFail(
                    f"{step['host']} is not among the hosts of this play, and step {step['id']} is."
                )
            step["variables"] = complete(step["role"], step["variables"])
        folder.write(RECORD, {**record, "undoing": [step["id"] for step in kept]})
        return {"run_dir": folder.path, "undo": kept[::-1]}

    def _say(self, arguments: Facts, task_vars: Facts) -> Facts:
        folder, record = _record(arguments["run_dir"])
        record["outcomes"] |= _noted(folder, record.get("earlier", []))
        for number in range(len(record["rounds"])):
            record["outcomes"] |= _noted(folder, _steps_of(record, number))
        path = folder.write(RECORD, record)
        done = record["options"]["apply"] or record.get("undoing") is not None
        record["options"]["apply"] = done and not self._task.check_mode
        Display().display(story.tell(record, path))
        counts: dict[str, int] = {}
        for row in record["outcomes"].values():
            counts[row["outcome"]] = counts.get(row["outcome"], 0) + 1
        failing = story.failures(record)
        found: Facts = {"counts": counts}
        if record["options"]["apply"] and failing:
            found.update(failed=True, msg=f"{len(failing)} step(s) did not do what they were for, first {failing[0]}")
        return found


def read_report(path: str) -> Facts:
    """A report that matches its schema.

    @raises RunFolderError: there is none at C(path), or it does not.
    """
    try:
        if os.path.getsize(path) > MAX_REPORT:
            raise RunFolderError(f"{path} is larger than {MAX_REPORT} bytes and was not read.")
        with open(path, encoding="utf-8") as stream:
            report = json.load(stream)
    except (OSError, ValueError) as exc:
        raise RunFolderError(f"{path} cannot be read: {exc}") from exc
    if wrong := problems(report):
        why = f"{path} is not a report of this version: {wrong[0][:300]}"
        raise RunFolderError(f"{why}. Make a new one: -e doctor_report=new")
    return report


def _record(run_dir: str) -> tuple[RunFolder, Facts]:
    folder = RunFolder(run_dir)
    record = folder.read(RECORD)
    if record is None:
        raise RunFolderError(f"{folder.path} holds no plan ({RECORD}).")
    return folder, record


def _is_used(report: str) -> bool:
    """Whether a repair by this report is in force: what it says of the fleet is no longer so."""
    record = RunFolder(os.path.dirname(report)).read(RECORD) or {}
    same = record.get("report") == os.path.abspath(report)
    return same and any(_outcome(record, step) in IN_FORCE for step in _all_steps(record))


def _all_steps(record: Facts) -> list[Facts]:
    return [step for entry in record.get("rounds", []) for step in entry["steps"]]


def _in_force(record: Facts) -> list[Facts]:
    """Steps that can be taken back, the first one first, with their outcomes; also of repairs before in this folder."""
    steps = [*record.get("earlier", []), *_all_steps(record)]
    kept = [step for step in steps if _outcome(record, step) in IN_FORCE]
    return [{**step, "was": record["outcomes"][step["id"]]} for step in kept]


def _outcome(record: Facts, step: Facts) -> str | None:
    found: str | None = record["outcomes"].get(step["id"], {}).get("outcome")
    return found


def _judged(record: Facts, after: Facts, asked: list[Facts]) -> list[Facts]:
    """What became of these steps, and of those before them that could not be seen to help while something was left."""
    before = read_report(record["report"])
    steps = _all_steps(record)
    waiting = [step for step in steps if step not in asked and _outcome(record, step) not in (*IN_FORCE, OUTDATED)]
    planned = {name for step in steps for name in step["findings"]}
    left = {finding["id"] for finding in before["findings"] if finding["id"] not in planned}
    left |= {name for step in waiting for name in step["findings"]}
    there = {(name, step["host"]) for step in steps for name in step["findings"]}
    left |= {
        row["finding"] for row in record["refused"] for host in row["hosts"] if (row["finding"], host) not in there
    }
    names = {pair["id"] for pair in after["pairs"]}
    unseen = [step for step in steps if _outcome(record, step) == RELIEVED and step["kind"] == "cure"]
    unseen = [step for step in unseen if step not in asked and names.intersection(step["explains"])]
    seen = [row for row in judge(before, after, unseen, left) if row["outcome"] == HELPED]
    return judge(before, after, asked, left) + seen


def _steps_of(record: Facts, number: int) -> list[Facts]:
    steps = record["rounds"][number]["steps"] if number < len(record["rounds"]) else []
    return [step for step in steps if _outcome(record, step) != OUTDATED]


def _noted(folder: RunFolder, steps: list[Facts]) -> Facts:
    found = {step["id"]: folder.read(f"outcomes/{safe_name(step['id'])}.json") for step in steps}
    return {name: row for name, row in found.items() if row}

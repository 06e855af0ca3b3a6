# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the remedies help: faults of the lab, one at a time, diagnosed, repaired by the playbook, and taken back.

    python -m tests.repairs [--only PATTERN …] [--labs N]

Each fault whose cause has a role goes through: it breaks the lab; remediate without consent changes nothing; with
consent every step helps, the paths of the lab work and a new diagnosis is quiet; rolled back, the state is the broken
one byte for byte. The rows measured replace theirs in docs/repairs.json, from which docs/remedies.md is written.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies.catalogue import ROWS
from tests.accuracy import revision
from tests.lab import Lab
from tests.lab.faults import FAULTS
from tests.lab.faults.model import Fault, place_for
from tests.lab.snapshot import difference
from tests.playbook import Run, diagnose, remediate, roll_back
from tests.side_by_side import Case, measured, new_lab

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs" / "repairs.json"
SETTLE = 90


def measure(lab: Lab, fault: Fault, folder: Path) -> Case:
    """One fault, shown, repaired, looked at and taken back."""
    case: Case = {"name": fault.name, "cause": fault.cause, "steps": [], "disruptive": False, "problems": []}
    started = time.monotonic()
    try:
        lab.break_(fault)
        options = fault.options(place_for(lab, fault, None))
        inventory = lab.write_inventory(folder / "inventory.ini")
        before = lab.snapshot()
        shown = remediate(inventory, folder / "run", doctor_report="new", **options)
        case["problems"] += [f"shown: exit {shown.code}: {shown.output[-300:]}"] if shown.code else []
        case["problems"] += [f"shown: changed {line}" for line in difference(before, lab.snapshot())[:3]]
        done = apply(inventory, folder, case, options)
        if case["steps"]:
            case["problems"] += look(lab, fault, inventory, folder, case, options)
            roll_back(inventory, done)
            if not case["disruptive"]:  # a restarted engine does not come back byte for byte
                left = difference(*(at_rest(fault, state) for state in (before, lab.snapshot())))
                case["problems"] += [f"taken back: {line}" for line in left[:3]]
    except Exception as error:  # whatever goes wrong with one case is that case's result, and the others go on
        case["problems"].append(f"{type(error).__name__}: {str(error)[:300]}")
    return case | {"seconds": round(time.monotonic() - started, 1)}


def at_rest(fault: Fault, snapshot: dict[str, str]) -> dict[str, str]:
    """A snapshot without the entries that gossip withdraws and brings back by itself, where the fault is about that."""
    moving = ("/fdb", "/neighbours") if fault.withdraws else ()
    return {key: text for key, text in snapshot.items() if not key.endswith(moving)}


def apply(inventory: Path, folder: Path, case: Case, options: dict[str, str]) -> Run:
    """Repair; with the second consent where nothing can be done without it."""
    for disruptive in (False, True):
        extra = {"doctor_apply": True, "doctor_allow_disruption": disruptive, "doctor_settle": SETTLE, **options}
        done = remediate(inventory, folder / "run", doctor_report="last", **extra)
        record = done.remediation
        steps = {step["id"]: step for entry in record["rounds"] for step in entry["steps"]}
        if steps or disruptive or not record["refused"]:
            break
    case["disruptive"] = any(step["disruptive"] for step in steps.values())
    for name, row in record["outcomes"].items():
        step = steps[name]
        case["steps"].append({"role": step["role"], "kind": step["kind"], "host": step["host"], **row})
        if row["outcome"] not in ("helped", "applied"):
            case["problems"].append(f"{step['role']} {row['outcome']}: {row['why']}")
    if done.code and not case["problems"]:
        case["problems"].append(f"exit {done.code}: {done.output[-300:]}")
    return done


def look(lab: Lab, fault: Fault, inventory: Path, folder: Path, case: Case, options: dict[str, str]) -> list[str]:
    """What does not work after the repair. A mitigation leaves its cause in place: there the lab's paths tell."""
    problems = [f"still broken: {path}" for path in sorted(lab.survey().broken)[:3]]
    if all(step["kind"] == "cure" for step in case["steps"]):
        report = diagnose(inventory, folder / "after", **options).report
        loud = [finding["id"] for finding in report["findings"] if finding["severity"] != "info"]
        problems += [f"still found: {name}" for name in loud]
    return problems


def work(name: str, managers: int, names: Iterator[str]) -> Iterator[Case]:
    """A lab for each case, because a repair may leave an engine that is not the one before."""
    for case_name in names:
        lab = new_lab(f"repairs-{name}", managers)
        try:
            with tempfile.TemporaryDirectory() as folder:
                yield measure(lab, FAULTS[case_name], Path(folder))
        finally:
            lab.down()


def told(case: Case) -> Case:
    steps = [f"{step['role']} {step['outcome']}" for step in case.get("steps", [])]
    word = "WRONG" if case["problems"] else "helps" if steps else "hand "
    roles = ", ".join(steps) or "nothing that a role could do"
    print(f"{word}  {case['name']}: {roles}  {case.get('seconds')} s", flush=True)
    for problem in case["problems"]:
        print(f"       {problem}", flush=True)
    if case.get("steps"):
        keep({**case, "revision": revision()})
    return case


def keep(case: Case) -> None:
    """Put the row into the record."""
    rows = {row["name"]: row for row in json.loads(RECORD.read_text())} if RECORD.exists() else {}
    rows[case["name"]] = case
    left = [rows[name] for name in sorted(rows) if name in FAULTS and not FAULTS[name].stands_in]
    RECORD.write_text(json.dumps(left, indent=1) + "\n")


def chosen(patterns: list[str]) -> list[str]:
    """The faults that break something, whose cause a role repairs, with what the lab's engines make by themselves."""
    able = {cause for cause, row in ROWS.items() if row.roles}
    faults = [fault for fault in FAULTS.values() if fault.cause in able and not fault.stands_in]
    names = [fault.name for fault in faults if fault.expect.severity != "info"]
    return [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.repairs", description=__doc__)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="the faults of these names (globs)")
    parser.add_argument("--labs", type=int, default=2, help="labs side by side (default: %(default)s)")
    args = parser.parse_args()
    cases = [
        told(case or {"name": name, "problems": ["not measured: the process of its lab died"]})
        for name, case in measured(chosen(args.only), args.labs, work)
    ]
    wrong = [case for case in cases if case["problems"]]
    print(f"{len(cases) - len(wrong)} of {len(cases)} as they should be")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())

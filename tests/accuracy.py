# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How right the diagnosis is: every fault and every trap of the lab, one at a time, and what was said of each.

    python -m tests.accuracy [--only PATTERN …] [--without PATTERN …] [--host HOST] [--update] [--labs N]

Writes docs/accuracy.json, and docs/accuracy.md from it. With --only or --host (the faults on that host instead of their
own) it just prints; with --update the cases measured replace their rows in the record and the others stay.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.lab import Lab
from tests.lab.faults import FAULTS
from tests.lab.faults.model import Fault, place_for
from tests.lab.traps import TRAPS
from tests.playbook import diagnose
from tests.side_by_side import HOSTS, Case, measured, new_lab
from tests.system.expectations import NATIVE, judge

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs" / "accuracy.json"
PAGE = ROOT / "docs" / "accuracy.md"
HEALTHY = "healthy"
NOTHING = "(nothing)"


# Measuring ---------------------------------------------------------------------------------------------------------


def measure(lab: Lab, fault: Fault | None, folder: Path, host: str | None) -> Case:
    """One diagnosis of one fault or trap (on its own host, or on another), or of nothing at all."""
    case = blank(fault)
    expected = case["expected"]
    try:
        if fault:
            case["expected"] = expected = fault.expect.as_dict(place_for(lab, fault, host))
            lab.break_(fault, host)
        inventory = lab.write_inventory(folder / "inventory.ini")
        options = fault.options(place_for(lab, fault, host)) if fault else {}
        done = diagnose(inventory, folder / "report", **options)
        case["seconds"] = round(done.seconds, 1)
        if done.code != 0:
            raise RuntimeError(f"the play ended with {done.code}: {done.output[-500:]}")
        case["found"] = [
            {key: finding[key] for key in ("cause", "severity", "confidence", "hosts", "segment")}
            for finding in done.report["findings"]
        ]
        case["problems"] = judge(done.report, expected, fault.also if fault else ())
    except Exception as error:  # whatever goes wrong with one case is that case's result, and the others go on
        case["problems"] = [f"{type(error).__name__}: {str(error)[:300]}"]
    return case


def blank(fault: Fault | None) -> Case:
    """A case of which nothing has been seen yet."""
    causes, severity = (list(fault.expect.causes), fault.expect.severity) if fault else ([], "info")
    expected = {"causes": causes, "hosts": [], "segments": [], "direction": None, "severity": severity, "pairs": []}
    name = fault.name if fault else HEALTHY
    return {"name": name, "kind": kind_of(fault), "expected": expected, "found": [], "problems": [], "seconds": None}


def kind_of(fault: Fault | None) -> str:
    if fault is None:
        return HEALTHY
    if fault.cause is None:
        return "trap"
    return "latent" if fault.expect.severity == "info" else "fault"


def work(host: str | None, name: str, managers: int, names: Iterator[str]) -> Iterator[Case]:
    """Cases on one lab, which is replaced where it cannot be healed."""
    lab: Lab | None = None
    try:
        for case_name in names:
            fault = FAULTS.get(case_name) or TRAPS.get(case_name)
            lab = lab or new_lab(f"accuracy-{name}", managers)
            with tempfile.TemporaryDirectory() as folder:
                case = measure(lab, fault, Path(folder), host)
            try:
                if fault and fault.hold:
                    lab.renew()
                elif lab.present():
                    lab.heal()
            except Exception as error:  # the case says so
                case["problems"].append(f"healing: {type(error).__name__}: {str(error)[:300]}")
                lab.down()
                lab = None
            yield case
    finally:
        if lab is not None:
            lab.down()


# Judging -----------------------------------------------------------------------------------------------------------


def figures(cases: list[Case]) -> dict[str, Any]:
    """Recall, precision and localisation over all cases.

    Recall: faults whose cause was named at the severity asked for. Precision: of everything said above info, the part
    that was a fault's own cause. Localisation: of the faults named, those with the right hosts and segment.
    """
    faults = [case for case in cases if case["kind"] in ("fault", "latent")]
    named = [case for case in faults if hits(case)]
    placed = [case for case in named if any(in_place(finding, case["expected"]) for finding in hits(case))]
    loud = [(case, finding) for case in cases for finding in case["found"] if finding["severity"] != "info"]
    right = [finding for case, finding in loud if finding["cause"] in case["expected"].get("causes", [])]
    seconds = sorted(case["seconds"] for case in cases if case["seconds"] is not None)
    return {
        "cases": len(cases),
        "faults": len(faults),
        "traps": len([case for case in cases if case["kind"] == "trap"]),
        "causes": len({case["expected"]["causes"][0] for case in faults if case["expected"].get("causes")}),
        "recall": ratio(len(named), len(faults)),
        "precision": ratio(len(right), len(loud)),
        "localisation": ratio(len(placed), len(named)),
        "entirely_right": ratio(len([case for case in cases if not case["problems"]]), len(cases)),
        "median_seconds": seconds[len(seconds) // 2] if seconds else None,
    }


def ratio(part: int, whole: int) -> str:
    return f"{part} of {whole}" + (f" ({100 * part / whole:.1f} %)" if whole else "")


def hits(case: Case) -> list[dict[str, Any]]:
    expected = case["expected"]
    return [
        finding
        for finding in case["found"]
        if finding["cause"] in expected.get("causes", []) and finding["severity"] == expected["severity"]
    ]


def in_place(finding: dict[str, Any], expected: dict[str, Any]) -> bool:
    return sorted(finding["hosts"]) == sorted(expected["hosts"]) and finding["segment"] in expected["segments"]


def confusion(cases: list[Case]) -> dict[str, dict[str, int]]:
    """What was there (a cause, or nothing) against what was said of it: counts of cases."""
    table: dict[str, dict[str, int]] = {}
    for case in cases:
        causes = case["expected"].get("causes") or []
        truth = causes[0] if causes else NOTHING
        quiet = case["kind"] == "latent"
        said = [
            finding["cause"]
            for finding in case["found"]
            if finding["severity"] != "info" or (quiet and finding["cause"] not in NATIVE - set(causes))
        ]
        for cause in {truth if name in causes else name for name in said} or {NOTHING}:
            row = table.setdefault(truth, {})
            row[cause] = row.get(cause, 0) + 1
    return table


# Telling -----------------------------------------------------------------------------------------------------------


def page(record: dict[str, Any]) -> str:
    """docs/accuracy.md."""
    total, machine = record["figures"], record["machine"]
    lines = [
        "# How right the diagnosis is",
        "",
        "Generated by `make accuracy`, which puts every fault and every trap of the lab (`tests/lab`) in, one at a",
        "time, on real Docker hosts, runs the diagnosis and holds its report against what the fault is known to break.",
        "",
        f"Measured {record['date']} on {machine['cores']} cores, kernel {machine['kernel']}, {record['labs']} labs of",
        f"{HOSTS} hosts side by side; revision {', '.join(sorted({case['revision'] for case in record['cases']}))}.",
        "",
        "| | |",
        "|---|---|",
        f"| faults | {total['faults']} of {total['causes']} causes |",
        f"| traps | {total['traps']} |",
        f"| recall: the fault's cause is named | {total['recall']} |",
        f"| precision: what is said above info is the fault | {total['precision']} |",
        f"| localisation: host and segment are right | {total['localisation']} |",
        f"| cases without any difference, pairs included | {total['entirely_right']} |",
        f"| time of a diagnosis, median | {total['median_seconds']} s |",
        "",
        "## Confusion",
        "",
        "What was there, and what the report said of it. Anything outside of the diagonal is listed.",
        "",
        "| there | cases | said otherwise |",
        "|---|---|---|",
    ]
    for truth, row in sorted(record["confusion"].items()):
        other = ", ".join(f"{name} ({count})" for name, count in sorted(row.items()) if name != truth)
        lines.append(f"| {truth} | {row.get(truth, 0)} | {other or '-'} |")
    lines += ["", "## Cases", "", "| case | kind | seconds | result |", "|---|---|---|---|"]
    for case in record["cases"]:
        result = "right" if not case["problems"] else "; ".join(case["problems"])[:300].replace("|", "/")
        lines.append(f"| {case['name']} | {case['kind']} | {case['seconds']} | {' '.join(result.split())} |")
    if record["not_measured"]:
        names = ", ".join(f"`{name}`" for name in record["not_measured"])
        lines += ["", "## Not measured in this record", "", f"{names}."]
    return "\n".join(lines) + "\n"


def chosen(patterns: list[str]) -> list[str]:
    names = [HEALTHY, *FAULTS, *TRAPS]
    return [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def told(case: Case) -> Case:
    """One line for a case that is right, more for one that is not."""
    print(f"{'right' if not case['problems'] else 'WRONG'}  {case['name']}  {case['seconds']} s", flush=True)
    for problem in case["problems"]:
        print(f"       {problem}", flush=True)
    return case


def recorded() -> list[Case]:
    """What was measured before, of the cases that still exist."""
    cases = json.loads(RECORD.read_text())["cases"] if RECORD.exists() else []
    return [case for case in cases if case["name"] in {HEALTHY, *FAULTS, *TRAPS}]


def write(cases: list[Case], labs: int) -> None:
    cases = sorted(cases, key=lambda case: (case["kind"], case["name"]))
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "cores": os.cpu_count(),
            "kernel": platform.release().split("-")[0],
            "python": platform.python_version(),
        },
        "labs": labs,
        "figures": figures(cases),
        "confusion": confusion(cases),
        "not_measured": sorted({HEALTHY, *FAULTS, *TRAPS} - {case["name"] for case in cases}),
        "cases": cases,
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    PAGE.write_text(page(record))


def revision() -> str:
    """The commit that was measured; with a plus sign where the tree differed from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.accuracy", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="PATTERN", help="only the cases of these names (globs)")
    parser.add_argument("--without", nargs="+", default=[], metavar="PATTERN", help="not the cases of these names")
    parser.add_argument("--host", metavar="HOST", help="put the faults in on this host (default: each fault's own)")
    parser.add_argument("--update", action="store_true", help="keep the other cases of the record")
    parser.add_argument("--labs", type=int, default=2, help="labs side by side (default: %(default)s)")
    args = parser.parse_args()
    names = [name for name in chosen(args.only or ["*"]) if not any(fnmatch.fnmatch(name, out) for out in args.without)]
    tree, cases = revision(), {case["name"]: case for case in (recorded() if args.update else [])}
    for name, case in measured(names, args.labs, functools.partial(work, args.host)):
        dead = blank(FAULTS.get(name) or TRAPS.get(name)) | {"problems": ["not measured: the process of its lab died"]}
        cases[name] = told({**(case or dead), "revision": tree})
        if (args.update or not args.only) and not args.host:
            write(list(cases.values()), args.labs)  # after each case: a run that is cut short has measured something
    for name, value in figures(list(cases.values())).items():
        print(f"{name:16} {value}")
    cases = {name: case for name, case in cases.items() if name in names}
    return int(any(case["problems"] for case in cases.values()))


if __name__ == "__main__":
    sys.exit(main())

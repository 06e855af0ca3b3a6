# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Says what a capture of a run holds, and fails where there is none."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.crosshost.doctor.plugins.plugin_utils.run_folder import RunFolder, RunFolderError

Facts = dict[str, t.Any]
ENDED = {
    "time": "the time was up",
    "packets": "the limit of frames was reached",
    "bytes": "the limit of bytes was reached",
    "asked": "it was asked to",
}


class ActionModule(ActionBase):
    """Reads the run folder; contacts no host."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _validated, given = self.validate_argument_spec(
            {
                "run_dir": {"type": "path", "required": True},
                "host": {"type": "str"},
                "label": {"type": "str", "required": True},
                "why": {"type": "str"},
            },
            required_one_of=[("host", "why")],
        )
        if given["why"]:
            raise AnsibleActionFail(given["why"])
        host = given["host"]
        try:
            record = RunFolder(given["run_dir"]).read_record(host, "vxlan_capture", given["label"])
        except RunFolderError as exc:
            raise AnsibleActionFail(str(exc)) from exc
        facts = (record or {}).get("facts")
        if not facts:
            raise AnsibleActionFail(f"{host} captured nothing: {(record or {}).get('error') or 'it was not asked'}")
        lacking = [f"{row['what']}: {row['why']}" for row in facts["missing"]]
        if not facts["taps"] or not facts["file"]:
            raise AnsibleActionFail(f"{host} captured nothing: {'; '.join(lacking) or 'no reason is known'}")
        Display().display(describe(host, facts))
        return {
            **result,
            "changed": False,
            "file": facts["file"],
            "frames": sum(tap["frames"] for tap in facts["taps"]),
            "dropped": sum(tap["dropped"] or 0 for tap in facts["taps"]),
            "ended": facts["ended"],
        }


def describe(host: str, facts: Facts) -> str:
    """What was captured, for the terminal."""
    taps = facts["taps"]
    seconds = max(0.0, facts["finished"] - facts["started"])
    lines = [f"{host}: {sum(tap['frames'] for tap in taps)} frames in {seconds:.1f} s at {len(taps)} taps"]
    width = max(len(tap["id"]) for tap in taps)
    for tap in taps:
        line = f"  {tap['id']:{width}}  {tap['frames']:7} frames {tap['bytes']:10} bytes"
        line += f", {tap['truncated']} cut short" if tap["truncated"] else ""
        line += f", {tap['dropped']} LOST" if tap["dropped"] else ""
        lines.append(line)
    if any(tap["dropped"] for tap in taps):
        lines.append("Frames were lost: the kernel had no room for them. Give doctor_filter, or capture less of each.")
    if facts["ended"] != "time":
        lines.append(f"It ended early: {ENDED.get(facts['ended'], facts['ended'])}.")
    lines += [f"Not captured: {row['what']}: {row['why']}" for row in facts["missing"]]
    for row in facts["anomalies"][:20]:
        lines.append(f"  {row['kind']} at {row['tap']}: {row['count']} times")
    return "\n".join([*lines, f"Written to {facts['file']}"])

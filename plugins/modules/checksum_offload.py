#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: checksum_offload
short_description: Have the kernel fill in checksums instead of a card that gets them wrong
version_added: 0.1.0
description:
  - Switches checksum features of interfaces off, now and at boot. Some cards and hypervisors fill in wrong checksums of
    packets inside a tunnel, or of the tunnel's own.
  - At boot it is the interface's connection where NetworkManager runs and manages it, and otherwise one line for each
    feature in a file of udev rules (C(/etc/udev/rules.d/90-crosshost-doctor.rules)). No C(.link) file is written,
    because the first that matches an interface is the only one that counts, and would hide the distribution's.
author:
  - crosshost.doctor contributors (@crosshost)
extends_documentation_fragment:
  - crosshost.doctor.attributes
  - crosshost.doctor.attributes.no_facts
attributes:
  check_mode:
    details:
      - Check mode says what would be switched off, and changes nothing.
  diff_mode:
    support: full
    details:
      - The diff has the features, and the file or the commands that make it last.
  idempotent:
    details:
      - A feature that is off is left alone, and so is a file that says so.
options:
  interfaces:
    description: The interfaces, which are those of the underlay or tunnel devices of the host.
    type: list
    elements: str
    required: true
  features:
    description: Features about checksums, by the names that C(ethtool -k) lists.
    type: list
    elements: str
    default: [tx-checksum-ip-generic]
  persistent:
    description: Whether they are switched off at boot too.
    type: bool
    default: true
  journal:
    description:
      - The journal that notes what undoes each change before it is made, see M(crosshost.doctor.guard). Empty notes
        nothing.
    type: str
    default: ""
notes:
  - The kernel switches off what depends on a feature, such as segmentation offload, and switches it on again with the
    feature. It costs processor time and throughput.
  - Needs C(ethtool) on the host.
seealso:
  - module: crosshost.doctor.guard
"""

EXAMPLES = r"""
- name: Fill in checksums in software
  crosshost.doctor.checksum_offload:
    interfaces: [ens192]
"""

RETURN = r"""
features:
  description:
    - Each feature of each interface, as it was. C(there) tells whether the interface knows it, C(fixed) whether the
      driver allows no change, C(owner) what switches it off at boot (null when that was not asked for).
  returned: success
  type: list
  elements: dict
  sample:
    - {interface: ens192, feature: tx-checksum-ip-generic, there: true, before: "on", fixed: false, owner: udev}
actions:
  description: What was done, or would be done in check mode. Empty when everything is as asked for.
  returned: success
  type: list
  elements: str
  sample: [ethtool -K ens192 tx-checksum-ip-generic off]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.crosshost.doctor.plugins.module_utils import _commands, _offload
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal, JournalError
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import run as run_in
from ansible_collections.crosshost.doctor.plugins.module_utils._managers import running_programs
from ansible_collections.crosshost.doctor.plugins.module_utils._offload import OffloadError

ARGUMENTS: dict[str, t.Any] = {
    "interfaces": {"type": "list", "elements": "str", "required": True},
    "features": {"type": "list", "elements": "str", "default": ["tx-checksum-ip-generic"]},
    "persistent": {"type": "bool", "default": True},
    "journal": {"type": "str", "default": ""},
}


def call(argv: list[str]) -> tuple[int, str, str]:
    program = _commands.find(argv[0])
    return run_in([program, *argv[1:]]) if program else (127, "", f"{argv[0]} is not on this host")


def state(params: dict[str, t.Any]) -> tuple[list[_offload.Feature], _offload.Persist]:
    rows = _offload.read(params["interfaces"], params["features"], call)
    if not params["persistent"]:
        return rows, _offload.Persist()
    return rows, _offload.plan(rows, "NetworkManager" in running_programs(), call)


def actions(rows: list[_offload.Feature], persist: _offload.Persist) -> list[str]:
    said = [" ".join(row.apply) for row in rows if row.changes]
    said += [" ".join(command) for command, _opposite in persist.commands]
    return said + ([f"write {_offload.RULES_PATH}"] if persist.before != persist.after else [])


def differences(rows: list[_offload.Feature], persist: _offload.Persist) -> list[dict[str, str]]:
    names = [f"{row.interface} {row.name}" for row in rows if row.changes]
    now = {"before": "".join(f"{one} on\n" for one in names), "after": "".join(f"{one} off\n" for one in names)}
    found = [{"before_header": "features", "after_header": "features", **now}]
    path = _offload.RULES_PATH
    texts = {"before": persist.before or "", "after": persist.after or ""}
    found.append({"before_header": path, "after_header": path, **texts})
    commands = "".join(" ".join(command) + "\n" for command, _opposite in persist.commands)
    found.append({"before_header": "connections", "after_header": "connections", "before": "", "after": commands})
    return [one for one in found if one["before"] != one["after"]]


def run(module: AnsibleModule) -> dict[str, t.Any]:
    params = module.params
    rows, persist = state(params)
    done = actions(rows, persist)
    if done and not module.check_mode:
        journal = Journal(params["journal"])
        _offload.switch_off(rows, journal, call)
        _offload.write(persist, journal, call)
        if left := actions(*state(params)):
            raise OffloadError(f"Not as it was set when read again: {'; '.join(left)}.")
    result: dict[str, t.Any] = {
        "changed": bool(done),
        "actions": done,
        "features": [_offload.row(row, persist.owners.get(row.interface)) for row in rows],
    }
    if module._diff:
        result["diff"] = differences(rows, persist)
    return result


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        result = run(module)
    except (OffloadError, JournalError) as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg=f"{_offload.RULES_PATH} cannot be read or written: {exc}")
    for row in result["features"]:
        if not row["there"]:
            module.warn(f"{row['interface']} has no feature {row['feature']}; see ethtool -k {row['interface']}.")
        elif row["owner"] == _offload.NOBODY:
            module.warn(
                f"Nothing known here sets features of {row['interface']} at boot: switch them off there yourself."
            )
    module.exit_json(**result)


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: guard
short_description: Note what undoes a change, and undo it unless the host is still reached
version_added: 0.1.0
description:
  - Keeps a journal on the host of what undoes the changes that follow, written before each of them. The modules of this
    collection that change something write their own entries (their option C(journal)); for others O(state=noted) does.
  - O(state=armed) starts a process on the host that rolls the journal back after O(timeout) seconds.
    O(state=confirmed) calls it off, and comes over a connection made anew. A change that cuts the controller off, a
    host that loses its route and a controller that is killed are undone by the host itself.
  - O(state=rolled_back) undoes at once, the newest change first, and removes the journal. What could not be undone
    stays in the journal, and is an error.
author:
  - crosshost.doctor contributors (@crosshost)
extends_documentation_fragment:
  - crosshost.doctor.attributes
  - crosshost.doctor.attributes.no_facts
attributes:
  check_mode:
    details:
      - Nothing is noted, armed or undone in check mode. O(state=rolled_back) says what would be undone.
  diff_mode:
    support: none
  idempotent:
    details:
      - O(state=noted) adds its entries each time. The other states do nothing the second time.
options:
  name:
    description:
      - The name of the journal. It lies in C(/var/lib/crosshost-doctor/journal), is readable by root only, and is kept
        after a change was confirmed, so that it can be rolled back later. The newest 50 are kept.
    type: str
    required: true
  state:
    description:
      - V(noted) writes down how O(files) and O(sysctls) are now, and O(commands) that undo something.
      - V(armed) sets the guard, V(confirmed) calls it off.
      - V(rolled_back) calls it off and undoes everything in the journal.
    type: str
    choices: [noted, armed, confirmed, rolled_back]
    required: true
  timeout:
    description: Seconds until the guard rolls back, from 10 to 3600.
    type: int
    default: 60
  files:
    description: Files whose bytes, mode, owner and absence are restored.
    type: list
    elements: path
    default: []
  sysctls:
    description: Sysctls below C(/proc/sys), separated by slashes, whose values are restored.
    type: list
    elements: str
    default: []
  commands:
    description: Commands that undo something. They are run without a shell.
    type: list
    elements: dict
    default: []
    suboptions:
      argv:
        description: The program and its arguments.
        type: list
        elements: str
        required: true
      tolerate:
        description: Whether a failure means that there is nothing to undo any more.
        type: bool
        default: false
notes:
  - One guard at a time stands on a host. Arming a second one while a first stands fails.
seealso:
  - module: crosshost.doctor.remediation
"""

EXAMPLES = r"""
- name: Set the guard
  crosshost.doctor.guard:
    name: my-change
    state: armed
    timeout: 90

- name: Note what undoes the change
  crosshost.doctor.guard:
    name: my-change
    state: noted
    files: [/etc/ufw/user.rules, /etc/ufw/user6.rules]
    commands:
      - argv: [ufw, reload]

- name: Change something that may cut this connection
  ansible.builtin.command:
    argv: [ufw, allow, from, 192.0.2.12, to, any, port, "4789", proto, udp]
  changed_when: true

- name: Keep it, because the host still answers
  crosshost.doctor.guard:
    name: my-change
    state: confirmed

- name: Undo it on another day
  crosshost.doctor.guard:
    name: my-change
    state: rolled_back
"""

RETURN = r"""
undone:
  description:
    - What was undone, in this order. C(error) is null, or why it could not be undone.
    - In check mode, what would be undone.
  returned: O(state) is V(confirmed) or V(rolled_back)
  type: list
  elements: dict
  sample: [{kind: sysctl, what: net/ipv4/conf/eth0/rp_filter = 1, error: null}]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.crosshost.doctor.plugins.module_utils._guard import Guard, GuardError
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal, JournalError, what

ARGUMENTS: dict[str, t.Any] = {
    "name": {"type": "str", "required": True},
    "state": {
        "type": "str",
        "choices": ["noted", "armed", "confirmed", "rolled_back"],
        "required": True,
    },
    "timeout": {"type": "int", "default": 60},
    "files": {"type": "list", "elements": "path", "default": []},
    "sysctls": {"type": "list", "elements": "str", "default": []},
    "commands": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "argv": {"type": "list", "elements": "str", "required": True},
            "tolerate": {"type": "bool", "default": False},
        },
    },
}
SHORTEST = 10
LONGEST = 3600


def note(journal: Journal, params: dict[str, t.Any]) -> dict[str, t.Any]:
    for path in params["files"]:
        journal.file(path)
    for name in params["sysctls"]:
        journal.sysctl(name)
    for command in params["commands"]:
        journal.command(command["argv"], tolerate=command["tolerate"])
    return {"changed": False}


def confirm(guard: Guard) -> dict[str, t.Any]:
    undone = guard.call_off()
    if undone is None:
        return {"changed": False, "undone": []}
    why = "The guard had rolled the change back before it was called off: nobody had reached the host in time."
    return {"changed": True, "failed": True, "msg": why, "undone": undone}


def roll_back(guard: Guard) -> dict[str, t.Any]:
    undone = guard.call_off() or []
    undone += guard.journal.roll_back()
    left = [f"{row['what']}: {row['error']}" for row in undone if row["error"]]
    result: dict[str, t.Any] = {"changed": bool(undone), "undone": undone}
    if left:
        result.update(failed=True, msg=f"Not everything could be undone, see {guard.journal.path}: " + "; ".join(left))
    return result


def pretend(journal: Journal, state: str) -> dict[str, t.Any]:
    """What check mode says."""
    if state != "rolled_back":
        return {"changed": False, "undone": []}
    undone = [{"kind": row["kind"], "what": what(row), "error": None} for row in reversed(journal.entries())]
    return {"changed": bool(undone), "undone": undone}


def run(module: AnsibleModule) -> dict[str, t.Any]:
    params, state = module.params, module.params["state"]
    if not SHORTEST <= params["timeout"] <= LONGEST:
        raise GuardError(f"timeout: {params['timeout']} is not from {SHORTEST} to {LONGEST} seconds.")
    guard = Guard(params["name"])
    if module.check_mode:
        return pretend(guard.journal, state)
    if state == "noted":
        return note(guard.journal, params)
    if state == "confirmed":
        return confirm(guard)
    if state == "rolled_back":
        return roll_back(guard)
    guard.arm(params["timeout"])
    return {"changed": False}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        result = run(module)
    except (GuardError, JournalError) as exc:
        module.fail_json(msg=str(exc))
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()

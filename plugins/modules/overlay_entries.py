#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: overlay_entries
short_description: Set forwarding and neighbour entries of overlay networks on one host
version_added: 0.1.0
description:
  - Sets, in the namespace that the engine keeps for an overlay network on this host, to which host's tunnel end the
    frames for an endpoint are sent, and which MAC address its IP address has. Both as permanent entries, like the
    engine's own.
  - It is a repair of what the kernel has now. The engine replaces such an entry with its next event about the endpoint,
    and makes all of them anew when the network is set up again, after a boot for example. RV(advice) says what lasts.
  - What is set was read before and is read again afterwards. An entry that is as it should be is left alone.
author:
  - crosshost.doctor contributors (@crosshost)
extends_documentation_fragment:
  - crosshost.doctor.attributes
  - crosshost.doctor.attributes.no_facts
attributes:
  check_mode:
    details:
      - Check mode says what would be set, and changes nothing.
  diff_mode:
    support: full
    details:
      - The diff has the entries that change, as they are and as they will be.
  idempotent:
    details:
      - An entry that is as asked for is left alone.
options:
  entries:
    description: The endpoints to set.
    type: list
    elements: dict
    default: []
    suboptions: &entry
      network:
        description: The id of the overlay network, or the first ten or more characters of it.
        type: str
        required: true
      mac:
        description: The MAC address of the endpoint.
        type: str
        required: true
      ip:
        description: The IP address of the endpoint. Without it, only the forwarding entry is meant.
        type: str
      vtep:
        description: The address of the tunnel end of the host that the endpoint is on.
        type: str
        required: true
  absent:
    description:
      - Entries to remove. One is removed only if it is exactly as given; the neighbour entry only if O(absent[].ip) is
        given and has O(absent[].mac).
    type: list
    elements: dict
    default: []
    suboptions: *entry
  journal:
    description:
      - The journal that notes what undoes each change before it is made, see M(crosshost.doctor.guard). Empty notes
        nothing.
    type: str
    default: ""
seealso:
  - module: crosshost.doctor.guard
"""

EXAMPLES = r"""
- name: Send frames for a container to the host it is on
  crosshost.doctor.overlay_entries:
    entries:
      - network: ribwpcdmfxq0
        mac: 02:42:0a:00:01:03
        ip: 10.0.1.3
        vtep: 192.0.2.11

- name: Remove the entries of a container that is gone
  crosshost.doctor.overlay_entries:
    absent:
      - network: ribwpcdmfxq0
        mac: 02:42:0a:00:01:09
        ip: 10.0.1.9
        vtep: 192.0.2.13
"""

RETURN = r"""
entries:
  description:
    - The entries that were set or removed, or would be in check mode.
    - C(kind) is V(fdb), with the MAC address as C(key) and the tunnel end as value, or V(neighbour), with the IP
      address as C(key) and the MAC address as value. C(before) and C(after) are null where there is no entry.
      C(command) does the same by hand.
  returned: success
  type: list
  elements: dict
  sample:
    - network: ribwpcdmfxq0
      device: vxlan0
      kind: fdb
      key: 02:42:0a:00:01:03
      before: 192.0.2.250
      after: 192.0.2.11
      command: nsenter --net=/run/docker/netns/1-ribwpcdmfx bridge fdb replace 02:42:0a:00:01:03 dev vxlan0 dst
        192.0.2.11 self permanent
advice:
  description: What makes the repair last, or makes it unnecessary. Empty when there was nothing to repair.
  returned: success
  type: list
  elements: str
  sample:
    - "Update the engine on all hosts: later releases no longer lose or mix up entries when containers move."
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.crosshost.doctor.plugins.module_utils import _commands, _overlay_entries
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal, JournalError
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import run as run_in
from ansible_collections.crosshost.doctor.plugins.module_utils._overlay_entries import EntryError

ENTRY: dict[str, t.Any] = {
    "network": {"type": "str", "required": True},
    "mac": {"type": "str", "required": True},
    "ip": {"type": "str"},
    "vtep": {"type": "str", "required": True},
}
ARGUMENTS: dict[str, t.Any] = {
    "entries": {"type": "list", "elements": "dict", "default": [], "options": ENTRY},
    "absent": {"type": "list", "elements": "dict", "default": [], "options": ENTRY},
    "journal": {"type": "str", "default": ""},
}
ADVICE = [
    "Update the engine on all hosts: later releases no longer lose or mix up entries when containers move.",
    "Until then, 'docker service update --force SERVICE', or a container started anew, gets another address.",
    "Where entries go wrong again and again, restart the engine on this host: it builds all of them anew.",
]


def call(argv: list[str], netns: str | None) -> tuple[int, str]:
    program = _commands.find(argv[0])
    if program is None:
        return 127, f"{argv[0]} (iproute2) is not on this host"
    code, _output, error = run_in([program, *argv[1:]], None, netns)
    return code, error


def run(module: AnsibleModule) -> dict[str, t.Any]:
    present = [_overlay_entries.entry_of(row) for row in module.params["entries"]]
    absent = [_overlay_entries.entry_of(row) for row in module.params["absent"]]
    networks = [entry.network for entry in (*present, *absent)]
    changes = _overlay_entries.plan(_overlay_entries.read_states(networks), present, absent)
    if changes and not module.check_mode:
        _overlay_entries.apply(changes, Journal(module.params["journal"]), call)
        left = _overlay_entries.plan(_overlay_entries.read_states(networks), present, absent)
        if left:
            rows = ", ".join(f"{change.kind} {change.key}" for change in left)
            raise EntryError(f"Not as it was set when read again: {rows}. The engine or another program sets it too.")
    before, after = _overlay_entries.texts(changes)
    result: dict[str, t.Any] = {
        "changed": bool(changes),
        "entries": [_overlay_entries.row(change) for change in changes],
        "advice": ADVICE if changes else [],
    }
    if module._diff:
        result["diff"] = {"before_header": "entries", "after_header": "entries", "before": before, "after": after}
    return result


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        result = run(module)
    except (EntryError, JournalError) as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg=f"The networks' namespaces cannot be read: {exc}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()

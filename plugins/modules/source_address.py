#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: source_address
short_description: Reach given peers from a given address of this host, now and after a boot
version_added: 0.1.0
description:
  - A receiver takes tunnel packets only from the address that the sender advertises. Where the kernel chooses another
    one, this gives each peer a route of its own (C(/32) or C(/128), table C(main)) that keeps next hop, interface and
    metric of the route taken so far, and has O(address) as its source.
  - A peer that is reached from O(address) already is left alone.
  - So that the routes come back at boot they are written down with what owns the interface. That is the connection of
    NetworkManager or a drop-in for the interface's file of systemd-networkd, where one of them runs and manages the
    interface, and a unit of systemd's otherwise (C(crosshost-doctor-routes.service)).
author:
  - crosshost.doctor contributors (@crosshost)
extends_documentation_fragment:
  - crosshost.doctor.attributes
  - crosshost.doctor.attributes.no_facts
attributes:
  check_mode:
    details:
      - Check mode says what would be done, and changes nothing.
  diff_mode:
    support: full
    details:
      - The diff has the routes, and the file or the commands that make them last.
  idempotent:
    details:
      - Routes that have the source, and files that have the routes, are left alone.
options:
  address:
    description: The source address. An interface of this host has it.
    type: str
    required: true
  peers:
    description: The peers, which are addresses of single hosts and of the same family as O(address).
    type: list
    elements: str
    required: true
  runtime:
    description: Whether the running kernel is given the routes.
    type: bool
    default: true
  persistent:
    description: Whether the routes are written down for the next boot.
    type: bool
    default: true
  journal:
    description:
      - The journal that notes what undoes each change before it is made, see M(crosshost.doctor.guard). Empty notes
        nothing.
    type: str
    default: ""
notes:
  - A route that several next hops share, that has an encapsulation, or that comes from another table by a policy rule
    is not replaced. The module fails and says so.
  - All traffic of this host to the peers gets the source, unless a program chooses its own.
seealso:
  - module: crosshost.doctor.guard
"""

EXAMPLES = r"""
- name: Reach two peers from the address that this node advertises
  crosshost.doctor.source_address:
    address: 192.0.2.12
    peers: [192.0.2.11, 192.0.2.13]
"""

RETURN = r"""
routes:
  description:
    - Each peer, with the source it was reached from and the one it is reached from now (in check mode, would be).
    - C(command) is the route in words; C(changed) tells whether it was not so before.
  returned: success
  type: list
  elements: dict
  sample:
    - peer: 192.0.2.11
      source_before: 192.0.2.200
      source: 192.0.2.12
      changed: true
      command: ip -4 route replace 192.0.2.11/32 dev eth0 src 192.0.2.12 proto 4 scope 253
persisted:
  description:
    - What brings the routes back at boot, for each interface. C(owner) is V(NetworkManager), V(systemd-networkd),
      V(systemd) or V(nobody); C(file) or C(connection) is where they are written, C(commands) what does so, and C(says)
      what is worth knowing.
  returned: success
  type: list
  elements: dict
  sample:
    - interface: eth0
      owner: systemd
      file: /etc/systemd/system/crosshost-doctor-routes.service
      connection: null
      commands: []
      says: []
actions:
  description: What was done, or would be done in check mode, as sentences. Empty when everything is as asked for.
  returned: success
  type: list
  elements: str
  sample: ["route to 192.0.2.11 from 192.0.2.12 instead of 192.0.2.200"]
"""

import os
import socket
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.crosshost.doctor.plugins.module_utils import _commands, _source_owner, _source_plan
from ansible_collections.crosshost.doctor.plugins.module_utils._host_routes import RouteError
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal, JournalError
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import run as run_in
from ansible_collections.crosshost.doctor.plugins.module_utils._managers import running_programs

ARGUMENTS: dict[str, t.Any] = {
    "address": {"type": "str", "required": True},
    "peers": {"type": "list", "elements": "str", "required": True},
    "runtime": {"type": "bool", "default": True},
    "persistent": {"type": "bool", "default": True},
    "journal": {"type": "str", "default": ""},
}


def call(argv: list[str]) -> tuple[int, str, str]:
    program = _commands.find(argv[0])
    return run_in([program, *argv[1:]]) if program else (127, "", f"{argv[0]} is not on this host")


def persists(rows: list[_source_plan.PeerRoute], address: str) -> list[_source_owner.Persist]:
    """What is to be written, for each interface. A peer that needs no route of its own needs none at boot."""
    devices: dict[str, list[_source_plan.PeerRoute]] = {}
    for row in rows:
        if row.own or row.changes(address):
            devices.setdefault(row.wanted.device, []).append(row)
    running = running_programs()
    found = []
    for device, group in devices.items():
        owner = _source_owner.find_owner(device, socket.if_nametoindex(device), running, call)
        found.append(_source_owner.plan(owner, group, call))
    return merged(found)


def merged(plans: list[_source_owner.Persist]) -> list[_source_owner.Persist]:
    """Plans of several interfaces that write the same unit would each overwrite the other's: they become one."""
    units = [one for one in plans if one.owner.name == _source_owner.UNIT]
    for earlier, later in zip(units, units[1:]):
        later.after = _source_owner.joined(earlier.after, later.after)
        later.owner.device = f"{earlier.owner.device}, {later.owner.device}"
    return [one for one in plans if one not in units[:-1]]


def actions(rows: list[_source_plan.PeerRoute], plans: list[_source_owner.Persist], address: str) -> list[str]:
    said = [f"route to {row.peer} from {address} instead of {row.source}" for row in rows if row.changes(address)]
    for one in plans:
        if one.before != one.after:
            said.append(f"write {one.owner.path}")
        if one.link:
            said.append(f"enable {_source_owner.UNIT_NAME}")
        said += [" ".join(command) for command, _opposite in one.commands]
    return said


def differences(
    rows: list[_source_plan.PeerRoute], plans: list[_source_owner.Persist], address: str
) -> list[dict[str, str]]:
    changed = [row for row in rows if row.changes(address)]
    before = "".join(" ".join(row.now.words()) + "\n" for row in changed)
    after = "".join(" ".join(row.wanted.words()) + "\n" for row in changed)
    found = [{"before_header": "routes", "after_header": "routes", "before": before, "after": after}]
    for one in plans:
        header = one.owner.path or f"connection of {one.owner.device}"
        new = "".join(" ".join(command) + "\n" for command, _opposite in one.commands)
        texts = {"before": one.before or "", "after": one.after or new}
        found.append({"before_header": header, "after_header": header, **texts})
        if one.link:
            found.append({"before_header": one.link, "after_header": one.link, "before": "", "after": "link\n"})
    return found


def run(module: AnsibleModule) -> dict[str, t.Any]:
    params = module.params
    journal = Journal(params["journal"])
    rows = _source_plan.make(params["address"], params["peers"])
    address = _source_plan.unicast(params["address"], "address")
    plans = persists(rows, address) if params["persistent"] else []
    shown = rows if params["runtime"] else []
    done = actions(shown, plans, address)
    if done and not module.check_mode:
        if params["runtime"]:
            _source_plan.apply(rows, address, journal, call)
        for one in plans:
            if one.changes:
                _source_owner.apply(one, journal, call, systemd=os.path.isdir("/run/systemd/system"))
        if any(one.changes for one in persists(rows, address)) and params["persistent"]:
            raise RouteError("What was written for the next boot is not there when read again.")
    result: dict[str, t.Any] = {
        "changed": bool(done),
        "actions": done,
        "routes": [
            {
                "peer": row.peer,
                "source_before": row.source,
                "source": address if params["runtime"] else row.source,
                "changed": params["runtime"] and row.changes(address),
                "command": " ".join(row.apply),
            }
            for row in rows
        ],
        "persisted": [_source_owner.row(one) for one in plans],
    }
    if module._diff:
        result["diff"] = differences(shown, plans, address)
    return result


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        result = run(module)
    except (RouteError, JournalError) as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg=f"The routes cannot be read or written: {exc}")
    for one in result["persisted"]:
        for text in one["says"]:
            module.warn(text)
    module.exit_json(**result)


if __name__ == "__main__":
    main()

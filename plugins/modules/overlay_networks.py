#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: overlay_networks
short_description: Make overlay networks anew with another MTU, step by step
version_added: 0.1.0
description:
  - The engine cannot change the MTU of a network. Services and containers have to come off it, it is removed, is made
    again with the options it has, and they go back on. O(state=planned) says with which commands.
  - What is done takes three steps. O(state=detached) on every host takes containers off that belong to no service.
    O(state=recreated) on one manager does so with services, makes the networks anew and puts the services back.
    O(state=attached) on every host puts the containers back. Traffic of the network is interrupted meanwhile, and its
    services' tasks are started anew, twice.
  - Each host records what it has to put back before it takes anything off, in
    C(/var/lib/crosshost-doctor/overlay-networks). A run that ended half-way is gone on with by the next. With
    O(restore), the networks are made as they were before the first.
  - Names, subnets, gateways, labels and other options of the networks stay. Their ids, and virtual addresses of
    services, change. Containers get the address they had if it is still free.
author:
  - crosshost.doctor contributors (@crosshost)
extends_documentation_fragment:
  - crosshost.doctor.attributes
  - crosshost.doctor.attributes.no_facts
attributes:
  check_mode:
    details:
      - Says what would be done, and changes nothing.
  diff_mode:
    support: none
  idempotent:
    details:
      - A network whose option has the value is left alone.
options:
  state:
    description:
      - V(planned) only reads. V(detached) and V(attached) are about containers of this host, V(recreated) about the
        networks and their services, on a manager.
    type: str
    choices: [planned, detached, recreated, attached]
    default: planned
  networks:
    description: The networks, for V(planned) and V(recreated).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The name of the network.
        type: str
        required: true
      mtu:
        description:
          - The value for the driver's option C(com.docker.network.driver.mtu). It is what the underlay takes. The
            driver itself takes 50 bytes off for VXLAN, and more for an encrypted network.
        type: int
        required: true
  reached:
    description:
      - The names of the containers that can be taken off, for V(planned). RV(remains) has those that are in the way
        besides.
    type: list
    elements: str
    default: []
  names:
    description: The names of the networks to take containers off, for V(detached).
    type: list
    elements: str
    default: []
  restore:
    description: Instead of O(networks), those that the record has, as they were.
    type: bool
    default: false
  record:
    description: The name of the record.
    type: str
    default: overlay_mtu
  timeout:
    description: Seconds that each network, or all containers of a host, may take, from 10 to 3600.
    type: int
    default: 300
notes:
  - It runs the engine's own C(docker) program, with the very commands that the plan has.
  - The routing mesh (C(ingress)) is only planned. Services that publish ports in mode C(ingress) would have to be
    removed before, and created again.
seealso:
  - module: crosshost.doctor.daemon_config
"""

EXAMPLES = r"""
- name: Say what it would take
  crosshost.doctor.overlay_networks:
    networks:
      - name: app
        mtu: 1400
  register: plan

- name: Show it
  ansible.builtin.debug:
    msg: "{{ plan.networks | map(attribute='commands') }}"
"""

RETURN = r"""
manager:
  description: Whether the engine is a manager of a Swarm.
  returned: success
  type: bool
  sample: true
networks:
  description: The plan for each network.
  returned: O(state) is V(planned) or V(recreated)
  type: list
  elements: dict
  contains:
    name:
      description: The network.
      type: str
      sample: app
    mtu:
      description: The value of the option now; null where it is not set.
      type: str
      sample: "1500"
    differs:
      description: Whether it has to be made anew.
      type: bool
      sample: true
    why:
      description: Why it cannot be done by this module, or null.
      type: str
      sample: There is no such network, as far as this engine knows.
    services:
      description: The services on it.
      type: list
      elements: str
      sample: [web]
    containers:
      description:
        - The containers of no service on it, on all hosts, with C(name) and C(host), its address. Known only where this
          host takes part in the network.
      type: list
      elements: dict
      sample: [{name: app-node2, host: 192.0.2.12}]
    commands:
      description: What is run on the manager, in this order. Containers are taken off before and put back afterwards.
      type: list
      elements: list
      sample: [[docker, network, rm, app]]
lines:
  description: All commands of the plan, as they are typed.
  returned: O(state) is V(planned) or V(recreated)
  type: list
  elements: str
  sample: [docker network rm app]
remains:
  description: What is in the way of making the networks anew from here, as sentences.
  returned: O(state) is V(planned) or V(recreated)
  type: list
  elements: str
  sample: ["app-node2 on 192.0.2.12 has to come off app, and is on no host that was named."]
containers:
  description: The containers of this host that were, or would be, taken off or put back.
  returned: O(state) is V(detached) or V(attached)
  type: list
  elements: str
  sample: [app-node2]
actions:
  description: The commands that were run and succeeded.
  returned: success
  type: list
  elements: str
  sample: [docker network rm app]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.crosshost.doctor.plugins.module_utils import _overlay_apply
from ansible_collections.crosshost.doctor.plugins.module_utils._host_folder import FolderError
from ansible_collections.crosshost.doctor.plugins.module_utils._overlay_plan import Network, OverlayError, wanted
from ansible_collections.crosshost.doctor.plugins.module_utils._overlay_record import Record

ARGUMENTS: dict[str, t.Any] = {
    "state": {"type": "str", "choices": ["planned", "detached", "recreated", "attached"], "default": "planned"},
    "networks": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"name": {"type": "str", "required": True}, "mtu": {"type": "int", "required": True}},
    },
    "reached": {"type": "list", "elements": "str", "default": []},
    "names": {"type": "list", "elements": "str", "default": []},
    "restore": {"type": "bool", "default": False},
    "record": {"type": "str", "default": "overlay_mtu"},
    "timeout": {"type": "int", "default": 300},
}
SHORTEST = 10
LONGEST = 3600


def containers(
    engine: _overlay_apply.Engine, params: dict[str, t.Any], record: Record, pretend: bool
) -> dict[str, t.Any]:
    """The containers of this host, off or on."""
    if params["state"] == "detached":
        names = list(record.networks) if params["restore"] else params["names"]
        found = _overlay_apply.detach(engine, names, record, params["timeout"], pretend)
    else:
        found = _overlay_apply.attach(engine, record, params["timeout"], pretend)
    return {"changed": bool(found), "containers": found}


def networks(
    engine: _overlay_apply.Engine, params: dict[str, t.Any], record: Record, pretend: bool
) -> dict[str, t.Any]:
    """The networks, planned or made anew."""
    if params["restore"]:
        asked = [Network(name, 0) for name, entry in record.networks.items() if entry.get("create")]
    else:
        asked = wanted(params["networks"])
    found = _overlay_apply.plan(engine, asked, record, params["restore"])
    result = {
        "changed": False,
        "networks": _overlay_apply.rows(found),
        "lines": _overlay_apply.lines(found),
        "remains": _overlay_apply.remains(found, params["reached"]),
    }
    if params["state"] == "planned":
        return result
    todo = [row for row in found if row.differs or record.pending(row.name, "services")]
    result["changed"] = bool(todo)
    for network in todo:
        if network.why:
            raise OverlayError(f"{network.name}: {network.why}")
        if not pretend:
            _overlay_apply.recreate(engine, network, record, params["timeout"])
    if params["restore"] and not pretend:
        for network in found:
            record.entry(network.name)["create"] = None
        record.save()
    return result


def settle(module: AnsibleModule, engine: _overlay_apply.Engine) -> dict[str, t.Any]:
    params = module.params
    if not SHORTEST <= params["timeout"] <= LONGEST:
        raise OverlayError(f"timeout: {params['timeout']} is not from {SHORTEST} to {LONGEST} seconds.")
    record = Record(params["record"])
    manager = engine.manages()
    if params["state"] == "recreated" and not manager:
        raise OverlayError("This host is no manager of a Swarm; networks are made on one.")
    about = containers if params["state"] in ("detached", "attached") else networks
    return {"manager": manager, **about(engine, params, record, module.check_mode)}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    engine = _overlay_apply.Engine()
    try:
        result = settle(module, engine)
    except (OverlayError, FolderError, OSError, ValueError) as exc:
        module.fail_json(msg=str(exc), actions=engine.actions)
    module.exit_json(**result, actions=engine.actions)


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_node
short_description: Set nodes of a Swarm active, and tell how a node leaves and joins again
version_added: 0.1.0
description:
  - Sets the availability of nodes to active, on a manager. Nothing else about a node is changed.
  - With O(rejoin) it returns, instead, for each node the commands with which it leaves the Swarm and joins again. They
    are not executed and hold no token.
  - Neither the roles of nodes nor the number of managers are changed.
author:
  - crosshost.doctor contributors (@crosshost)
extends_documentation_fragment:
  - crosshost.doctor.attributes
  - crosshost.doctor.attributes.no_facts
attributes:
  check_mode:
    details:
      - Check mode says which nodes would be set active, and changes nothing.
  diff_mode:
    support: full
    details:
      - The diff has the availability of the nodes.
  idempotent:
    details:
      - A node that is active is left alone.
options:
  nodes:
    description:
      - Ids or host names of the nodes. A host name that several nodes have is refused.
      - Empty changes nothing, and means the node that the module runs on with O(rejoin). That need not be a manager.
    type: list
    elements: str
    default: []
  rejoin:
    description: Return the plan for leaving and joining again instead of changing anything.
    type: bool
    default: false
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
- name: Have the Swarm schedule tasks on two nodes again
  crosshost.doctor.swarm_node:
    nodes: [node2, node3]

- name: How does a node with a wrong address join again?
  crosshost.doctor.swarm_node:
    nodes: [node2]
    rejoin: true

- name: The same, on the node itself
  crosshost.doctor.swarm_node:
    rejoin: true
"""

RETURN = r"""
nodes:
  description:
    - The named nodes, with their availability before and after, or what it would be after in check mode.
  returned: success
  type: list
  elements: dict
  sample: [{id: rlnb0mz9xk2p5cb0n5l1bva4r, name: node2, before: drain, after: active}]
plan:
  description: The steps, when O(rejoin) is set. They hold no token.
  returned: success
  type: list
  elements: str
  sample:
    - "on node2: docker swarm leave"
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.crosshost.doctor.plugins.module_utils import _swarm_node
from ansible_collections.crosshost.doctor.plugins.module_utils._engine_api import Api, EngineError
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal, JournalError

ARGUMENTS: dict[str, t.Any] = {
    "nodes": {"type": "list", "elements": "str", "default": []},
    "rejoin": {"type": "bool", "default": False},
    "journal": {"type": "str", "default": ""},
}


def run(module: AnsibleModule) -> dict[str, t.Any]:
    params, api = module.params, Api()
    if not params["nodes"]:
        steps = _swarm_node.own_plan(api.get("/info") or {}) if params["rejoin"] else []
        return {"changed": False, "nodes": [], "plan": steps}
    nodes = _swarm_node.read_nodes(api)
    chosen = _swarm_node.choose(nodes, params["nodes"])
    if params["rejoin"]:
        rows = [{"id": n.id, "name": n.name, "before": n.availability, "after": n.availability} for n in chosen]
        steps = [step for node in chosen for step in _swarm_node.rejoin_plan(nodes, node)]
        return {"changed": False, "nodes": rows, "plan": steps}
    left = [node for node in chosen if node.availability != _swarm_node.ACTIVE]
    if left and not module.check_mode:
        journal = Journal(params["journal"])
        for node in left:
            _swarm_node.activate(api, node, journal)
        again = _swarm_node.choose(_swarm_node.read_nodes(api), [node.id for node in left])
        if wrong := [node.name for node in again if node.availability != _swarm_node.ACTIVE]:
            raise EngineError(f"Not active when read again: {', '.join(wrong)}.")
    rows = [{"id": n.id, "name": n.name, "before": n.availability, "after": _swarm_node.ACTIVE} for n in chosen]
    result: dict[str, t.Any] = {"changed": bool(left), "nodes": rows, "plan": []}
    if module._diff:
        before = "".join(f"{node.id} {node.name} {node.availability}\n" for node in left)
        after = "".join(f"{node.id} {node.name} {_swarm_node.ACTIVE}\n" for node in left)
        result["diff"] = {"before_header": "nodes", "after_header": "nodes", "before": before, "after": after}
    return result


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        result = run(module)
    except (EngineError, JournalError) as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**result)


if __name__ == "__main__":
    main()

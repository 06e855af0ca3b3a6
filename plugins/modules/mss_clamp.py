#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mss_clamp
short_description: Clamp the segment size of TCP connections where a path takes less than its ends believe
version_added: 0.1.0
description:
  - B(A mitigation.) It rewrites the maximum segment size that new TCP connections announce, so that their packets fit.
    UDP, and connections that stand already, are not helped. The cure is a network whose MTU fits the path.
  - B(Forwarded traffic) of the host, that is bridge networks, published ports and the way out of containers, crosses
    the forward hook of the host. With O(forward) a table of this collection's own, C(inet crosshost_doctor_mss),
    clamps IPv4 and IPv6 there to the MTU of the route, in both directions. Without nft, C(iptables) and C(ip6tables)
    do so in the chain C(FORWARD) of their table C(mangle). It helps where the host knows the smaller MTU, by an
    interface, a route or what routers told it.
  - B(Overlay traffic) never crosses that hook. It is bridged, in a network namespace of the engine's, between the
    containers and the VXLAN device. For each of O(networks) a table C(bridge crosshost_doctor_mss) in that namespace
    lowers larger values to the given ones, for what comes or goes through the VXLAN device.
  - Other tables, chains and rules are not touched. Check mode, diff mode and the real run follow the same plan, and
    what was loaded is read again.
author:
  - crosshost.doctor contributors (@crosshost)
extends_documentation_fragment:
  - crosshost.doctor.attributes
  - crosshost.doctor.attributes.no_facts
attributes:
  check_mode:
    details:
      - Says what would be loaded and written, and changes nothing. How nft will list a table is tried in a network
        namespace that is made for this and gone afterwards.
  diff_mode:
    support: full
    details:
      - The diff has the tables or rules, and the files.
  idempotent:
    details:
      - Tables, rules and files that are as wanted are left alone.
options:
  state:
    description: V(absent) takes away what this module makes for O(forward) and O(networks).
    type: str
    choices: [present, absent]
    default: present
  forward:
    description: Whether the forwarded traffic of the host is looked after. V(false) leaves that as it is.
    type: bool
    default: true
  interfaces:
    description:
      - The interfaces whose connections are clamped, for O(forward), whichever way they go through them. Empty means
        all.
    type: list
    elements: str
    default: []
  networks:
    description:
      - Overlay networks whose traffic is clamped on this host. One that no container on the host is attached to has no
        namespace there, and nothing is done for it.
    type: list
    elements: dict
    default: []
    suboptions:
      id:
        description: The id of the network, in full or its first ten digits or more.
        type: str
        required: true
      mss4:
        description:
          - The largest segment in bytes over IPv4, from 88 to 65495. It is what the underlay's path takes, less 50 for
            VXLAN over IPv4, less 40. An encrypted network takes more off.
        type: int
        required: true
      mss6:
        description: The same over IPv6. By default 20 less than O(networks[].mss4).
        type: int
  backend:
    description: What clamps forwarded traffic. V(auto) is V(nftables) where nft is, else V(iptables).
    type: str
    choices: [auto, nftables, iptables]
    default: auto
  runtime:
    description: Whether the running kernel is looked after.
    type: bool
    default: true
  persistent:
    description:
      - Whether files are looked after that load the clamp of forwarded traffic at boot,
        C(/etc/crosshost-doctor/mss.nft) and the unit C(crosshost-doctor-mss.service), which is enabled.
      - What is clamped in an overlay network does not last, see RV(places[].why).
    type: bool
    default: true
  journal:
    description: The journal that takes what undoes the change, see M(crosshost.doctor.guard). Empty notes nothing.
    type: str
    default: ""
seealso:
  - module: crosshost.doctor.guard
  - module: crosshost.doctor.mtu_probe
"""

EXAMPLES = r"""
- name: Clamp what the host forwards to what its routes take
  crosshost.doctor.mss_clamp:

- name: Clamp an overlay network whose path takes 1400 bytes
  crosshost.doctor.mss_clamp:
    forward: false
    networks:
      - id: n2xbur5cykzswslbs1yu9n8dy
        mss4: 1310
        mss6: 1290

- name: Take it away again
  crosshost.doctor.mss_clamp:
    state: absent
    networks:
      - id: n2xbur5cykzswslbs1yu9n8dy
        mss4: 1310
"""

RETURN = r"""
actions:
  description: What was done, or would be done in check mode. Empty where nothing differs.
  returned: success
  type: list
  elements: str
  sample: [clamp what the host forwards, write /etc/crosshost-doctor/mss.nft]
places:
  description: The places in the running kernel. Empty without O(runtime).
  returned: success
  type: list
  elements: dict
  contains:
    where:
      description: V(forward), or the id of the network.
      type: str
      sample: forward
    backend:
      description: V(nftables) or V(iptables).
      type: str
      sample: nftables
    clamped:
      description: Whether it is clamped now.
      type: bool
      sample: true
    changed:
      description: Whether this module changed it, or would.
      type: bool
      sample: true
    persistent:
      description: Whether files keep it over a boot, as far as this call was asked to look after them.
      type: bool
      sample: false
    why:
      description: Why it does not last, or why nothing was done.
      type: str
      sample: No container of the network runs on this host.
notes:
  description: What does not last, or was not done, and why.
  returned: success
  type: list
  elements: str
  sample: ["n2xbur5cykzswslbs1yu9n8dy: No container of the network runs on this host."]
cure:
  description: What should be done instead.
  returned: success
  type: str
  sample: "This is a mitigation: it helps TCP only, and connections that start from now on."
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.crosshost.doctor.plugins.module_utils import _mss, _mss_plan
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal, JournalError
from ansible_collections.crosshost.doctor.plugins.module_utils._netns import StrandedError

ARGUMENTS: dict[str, t.Any] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "forward": {"type": "bool", "default": True},
    "interfaces": {"type": "list", "elements": "str", "default": []},
    "networks": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "id": {"type": "str", "required": True},
            "mss4": {"type": "int", "required": True},
            "mss6": {"type": "int"},
        },
    },
    "backend": {"type": "str", "choices": ["auto", "nftables", "iptables"], "default": "auto"},
    "runtime": {"type": "bool", "default": True},
    "persistent": {"type": "bool", "default": True},
    "journal": {"type": "str", "default": ""},
}


def settle(module: AnsibleModule) -> dict[str, t.Any]:
    """Plan, apply unless in check mode, and say what came of it."""
    plan = _mss_plan.make(module.params)
    changed = bool(plan.actions)
    done = changed and not module.check_mode
    if done:
        _mss_plan.apply(plan, Journal(module.params["journal"]))
    places = [place.row(done) for place in plan.places]
    result = {"changed": changed, "actions": plan.actions, "places": places, "cure": _mss_plan.CURE}
    result["notes"] = [f"{place.where}: {place.why}" for place in plan.places if place.why]
    if module._diff:
        result["diff"] = _mss_plan.difference(plan)
    return result


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        result = settle(module)
    except (_mss.MssError, JournalError, OSError, StrandedError) as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**result)


if __name__ == "__main__":
    main()

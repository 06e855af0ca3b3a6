#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work, on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: capture_target
short_description: Find where in the fleet a container's frames can be captured
version_added: 0.1.0
description:
  - Finds a container among the facts in the run folder, with its host, its interfaces, and the host's ends of them, and
    writes there what M(crosshost.doctor.vxlan_capture) on that host has to listen to.
  - A container that is not found does not fail the task, so that a playbook can tidy up first;
    M(crosshost.doctor.capture_result) does.
  - Checks a filter. It is compiled to what the kernel takes by the module on the host; no shell or tool sees it.
  - Contacts no host. Use it with C(run_once).
author:
  - crosshost.doctor contributors (@crosshost)
extends_documentation_fragment:
  - crosshost.doctor.attributes
  - crosshost.doctor.attributes.no_facts
options:
  run_dir:
    description:
      - The run folder, with facts of the sections V(netns) and V(containers).
      - When omitted, only the filter is checked.
    type: path
  target:
    description: The container, by name, start of its id, or C(HOST/NAME) where a name stands twice.
    type: str
    required: true
  filter:
    description:
      - Conditions that all have to hold, V(tcp), V(udp), V(icmp), V(arp), V(ip), V(ip6), V(esp), V(gre), V(sctp),
        C(host ADDRESS), C(net NETWORK) and C(port NUMBER), with or without V(and) between them.
      - Each address, network and port may be that of either end. There is neither C(or) nor C(not).
    type: str
    default: ""
seealso:
  - module: crosshost.doctor.vxlan_capture
"""

EXAMPLES = r"""
- name: Find a container
  crosshost.doctor.capture_target:
    run_dir: "{{ run.run_dir }}"
    target: web
    filter: tcp port 80 and host 10.0.1.7
  run_once: true
"""

RETURN = r"""
match:
  description: The filter as O(crosshost.doctor.vxlan_capture#module:match).
  type: dict
  returned: success
  sample: {protocol: tcp, hosts: [10.0.1.7], ports: [80]}
host:
  description: The host that the container runs on, V(null) if it was not found.
  type: str
  returned: with O(run_dir)
  sample: node2
why:
  description: Why it was not found, V(null) if it was.
  type: str
  returned: with O(run_dir)
  sample: null
container:
  description: Its name.
  type: str
  returned: when it was found
  sample: web
taps:
  description: Where is listened.
  type: list
  elements: str
  returned: when it was found
  sample: [web eth0, web eth0 host side veth1]
file:
  description: Where in the run folder the capture belongs.
  type: str
  returned: when it was found
  sample: /home/operator/report/captures/node2-web.pcapng
"""

#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work, on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: probe_plan
short_description: Decide which probes every host sends
version_added: 0.1.0
description:
  - Reads the facts in the run folder and writes there, for every host, the probes it has to send.
  - Small fleets are probed in full; in larger ones every host probes a few others and is probed by as many,
    chosen from the run id.
  - Contacts no host. Use it with C(run_once).
author:
  - crosshost.doctor contributors (@crosshost)
extends_documentation_fragment:
  - crosshost.doctor.attributes
  - crosshost.doctor.attributes.no_facts
options:
  run_dir:
    description: The run folder.
    type: path
    required: true
  round:
    description:
      - V(first) plans from the facts, or from the operator's question where one was asked.
      - V(again) plans what failed or lost packets in the first round.
      - V(trace) plans which pairs are followed packet by packet, because nothing read so far proves what is wrong with
        them. It writes the taps of every host and the paths whose MTU is looked for, beside the probes.
    type: str
    choices: [first, again, trace]
    default: first
  nftrace:
    description: Have the kernel name the rules that the packets followed in round V(trace) meet.
    type: bool
    default: false
  evidence:
    description: In round V(trace), follow also pairs whose cause is proven, for the sake of their packets.
    type: bool
    default: false
  external_targets:
    description: Addresses outside of the fleet whose path MTU is looked for in round V(trace).
    type: list
    elements: str
    default: []
seealso:
  - module: crosshost.doctor.path_probe
  - module: crosshost.doctor.vxlan_capture
  - module: crosshost.doctor.mtu_probe
"""

EXAMPLES = r"""
- name: Plan the probes
  crosshost.doctor.probe_plan:
    run_dir: "{{ run.run_dir }}"
  run_once: true
"""

RETURN = r"""
pairs:
  description: How many pairs the round probes.
  type: int
  returned: success
  sample: 18
suspects:
  description: The hosts at either end of these pairs.
  type: list
  elements: str
  returned: success
  sample: [node1, node2]
mtu:
  description: The hosts that look for path MTUs in round V(trace).
  type: list
  elements: str
  returned: success
  sample: [node1, node2]
sections:
  description: What the second reading of M(crosshost.doctor.overlay_facts) has to hold to judge these pairs.
  type: list
  elements: str
  returned: success, in the rounds V(first) and V(again)
  sample: [netns, counters]
"""

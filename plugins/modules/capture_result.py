#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work, on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: capture_result
short_description: Say what a capture holds
version_added: 0.1.0
description:
  - Prints where a capture of the run is, how many frames each tap took up, and what was lost.
  - Fails when nothing could be captured, and says why.
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
  host:
    description: The host that captured. Needed unless O(why) is given.
    type: str
  label:
    description: The label of the capture.
    type: str
    required: true
  why:
    description: Why there is no capture. The task fails with it.
    type: str
seealso:
  - module: crosshost.doctor.vxlan_capture
"""

EXAMPLES = r"""
- name: Say what was captured
  crosshost.doctor.capture_result:
    run_dir: "{{ run.run_dir }}"
    host: node2
    label: capture
  run_once: true
"""

RETURN = r"""
file:
  description: The capture on the controller.
  type: str
  returned: success
  sample: /home/operator/report/captures/node2-web.pcapng
frames:
  description: Frames of all taps.
  type: int
  returned: success
  sample: 412
dropped:
  description: Frames the kernel had no room for.
  type: int
  returned: success
  sample: 0
ended:
  description: Why the capture ended.
  type: str
  returned: success
  sample: time
"""

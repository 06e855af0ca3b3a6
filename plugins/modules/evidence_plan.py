#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work, on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: evidence_plan
short_description: Decide of which hosts evidence is kept
version_added: 0.1.0
description:
  - Reads the run folder and writes there, for every host that a finding or a broken pair involves, which network
    namespaces and whose flows M(crosshost.doctor.evidence) has to keep.
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
seealso:
  - module: crosshost.doctor.evidence
"""

EXAMPLES = r"""
- name: Choose the hosts involved
  crosshost.doctor.evidence_plan:
    run_dir: "{{ run.run_dir }}"
  run_once: true
"""

RETURN = r"""
hosts:
  description: The hosts involved; none when nothing is wrong.
  type: list
  elements: str
  returned: success
  sample: [node1, node2]
"""

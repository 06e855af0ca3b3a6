#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work, on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: diagnose
short_description: Name the cause, the place, the evidence and the remedy
version_added: 0.1.0
description:
  - Runs the engine over a run folder, writes C(report.json) there and prints a summary.
  - A pure function of the folder. It contacts no host, so the folder of another machine gives the same report.
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
  fail_on:
    description: Fail the task when there is a finding of this severity or a worse one.
    type: str
    choices: [never, critical, warning]
    default: never
  quiet:
    description: Print no summary.
    type: bool
    default: false
seealso:
  - module: crosshost.doctor.overlay_facts
  - module: crosshost.doctor.path_probe
"""

EXAMPLES = r"""
- name: Diagnose
  crosshost.doctor.diagnose:
    run_dir: "{{ run.run_dir }}"
    fail_on: critical
  run_once: true
"""

RETURN = r"""
verdict:
  description: One word for the fleet.
  type: str
  returned: success
  sample: broken
report:
  description: The path of the report on the controller.
  type: str
  returned: success
  sample: /home/operator/report/report.json
"""

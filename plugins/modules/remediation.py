#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work, on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: remediation
short_description: Plan the repair that a report calls for, and judge whether it helped
version_added: 0.1.0
description:
  - The controller's part of a repair. It reads reports and writes C(remediation.json) beside the report it goes by.
  - Contacts no host. Use it with C(run_once), except O(stage=note).
author:
  - crosshost.doctor contributors (@crosshost)
extends_documentation_fragment:
  - crosshost.doctor.attributes
  - crosshost.doctor.attributes.no_facts
options:
  stage:
    description:
      - V(choose) looks for a report to go by.
      - V(plan) checks the report against its schema, and its values against the roles it names, and plans rounds.
      - V(confirm) drops the steps whose finding is not there any more, by a report made now.
      - V(note) writes down what became of one step.
      - V(judge) compares a report made after a round with the first one.
      - V(say) prints what was, or would be, done.
      - V(recall) looks up which steps of an earlier repair are in force, to take them back.
    type: str
    choices: [choose, plan, confirm, note, judge, say, recall]
    required: true
  report:
    description:
      - The report to go by. For O(stage=choose) V(last) is the newest one of the working directory, and empty takes
        that one if it is no older than O(max_age) seconds, and none otherwise.
    type: str
  report_dir:
    description: For O(stage=choose), the folder that reports are written to when it is not the default.
    type: path
  max_age:
    description: For O(stage=choose), how old a report may be that nobody named, in seconds.
    type: int
    default: 900
  only:
    description: Causes, hosts or ids of findings to which the repair is confined.
    type: list
    elements: str
    default: []
  apply:
    description: Whether the operator has consented to changes.
    type: bool
    default: false
  allow_disruption:
    description: Whether the operator has consented to what interrupts traffic.
    type: bool
    default: false
  force:
    description: Go by a report although its findings are not confirmed, and use managers that the quorum cannot spare.
    type: bool
    default: false
  guard_timeout:
    description: Seconds until a host undoes by itself what cut it off.
    type: int
    default: 60
  run_dir:
    description: The run folder of the report.
    type: path
  after:
    description: The report that was made now.
    type: path
  round:
    description: The number of the round, from zero.
    type: int
  settle:
    description: How long after a round its effect may take to show, in seconds.
    type: int
    default: 60
  step:
    description: The id of the step.
    type: str
  outcome:
    description: What became of it.
    type: str
  why:
    description: And why.
    type: str
seealso:
  - module: crosshost.doctor.guard
"""

EXAMPLES = r"""
- name: Plan the remedies
  crosshost.doctor.remediation:
    stage: plan
    report: /home/operator/report/report.json
    only: [data-udp-blocked-host-fw]
  register: plan
  run_once: true
"""

RETURN = r"""
report:
  description: The report to go by; empty where a diagnosis has to be made first.
  type: str
  returned: O(stage) is V(choose)
  sample: /home/operator/crosshost-doctor-20261121-120000-abcdef/report.json
run_dir:
  description: The folder of the report.
  type: str
  returned: O(stage) is V(plan) or V(recall)
  sample: /home/operator/crosshost-doctor-20261121-120000-abcdef
rounds:
  description: The hosts, the steps and the pairs to ask again, round by round.
  type: list
  elements: dict
  returned: O(stage) is V(plan) or V(confirm)
  sample: [{hosts: [node2], pairs: [], steps: []}]
settled:
  description: Whether there is nothing to wait for.
  type: bool
  returned: O(stage) is V(judge)
  sample: true
attempt:
  description: How often the round has been judged.
  type: int
  returned: O(stage) is V(judge)
  sample: 1
undo:
  description: The steps to take back, the last one first.
  type: list
  elements: dict
  returned: O(stage) is V(judge) or V(recall)
  sample: []
counts:
  description: How many steps had which outcome.
  type: dict
  returned: O(stage) is V(say)
  sample: {helped: 2}
"""

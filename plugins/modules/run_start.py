#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work, on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: run_start
short_description: Open a diagnosis run on the controller
version_added: 0.1.0
description:
  - Creates the run folder on the controller and notes the hosts of the play and what was asked.
  - Contacts no host. Use it with C(run_once).
author:
  - crosshost.doctor contributors (@crosshost)
extends_documentation_fragment:
  - crosshost.doctor.attributes
  - crosshost.doctor.attributes.no_facts
options:
  report_dir:
    description:
      - The folder for everything the run reads and writes. What an earlier run left in it is replaced.
      - By default a folder of the current directory that is named after the run.
    type: path
  from:
    description: The container (name, start of its id, or C(HOST/NAME)) or host that cannot reach O(to). Needs O(to).
    type: str
  to:
    description: The container, host, service, address or name that O(from) cannot reach. Needs O(from).
    type: str
  port:
    description: The TCP port in question.
    type: int
  kv_endpoints:
    description:
      - Key-value stores beside those of the daemons' configuration, such as V(etcd://192.0.2.13:2379) or
        V(consul://192.0.2.14:8500). They are asked for their health page and for nothing else.
    type: list
    elements: str
    default: []
  replay:
    description:
      - The folder of an earlier run, or a C(.tar.gz) of it. What that run has read is checked and copied into the run
        folder, for M(crosshost.doctor.diagnose) to decide about once more. Nothing else is needed of the hosts.
      - The question of that run stands; O(from) and O(to) cannot be given.
    type: path
  after:
    description:
      - The folder of an earlier run of which O(pairs) are asked again, after something was repaired. Its question and
        its key-value stores stand.
    type: path
  pairs:
    description: The ids of the pairs to ask again, and no others. Needs O(after).
    type: list
    elements: str
seealso:
  - module: crosshost.doctor.probe_plan
  - module: crosshost.doctor.diagnose
"""

EXAMPLES = r"""
- name: Open the run
  crosshost.doctor.run_start:
    report_dir: ./report
  register: run
  run_once: true
"""

RETURN = r"""
run_id:
  description: The run's id, from its start in UTC and a random part.
  type: str
  returned: success
  sample: 20261121-013000-5a1f9c
run_dir:
  description: The absolute path of the run folder on the controller.
  type: str
  returned: success
  sample: /home/operator/report
"""

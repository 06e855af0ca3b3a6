#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: evidence
short_description: Keep the network state of a host in one archive, without its secrets
version_added: 0.1.0
description:
  - Reads links, addresses, routes, neighbours, forwarding entries, rules of the packet filter with their counters,
    sysctls, statistics and the tail of the engine's log as a person would look at them, of the host and of other
    network namespaces, and returns them as one compressed archive.
  - Given O(run_dir), adds what the run has read from this host and captured on it.
  - Takes out what looks like a token, password or key, and does not read what is a key by its nature. See
    C(docs/evidence.md).
  - Nothing is written on the host, no kernel module is loaded and no table of a packet filter is made. In particular
    C(iptables) of the legacy backend is not run on a host that has no legacy tables.
  - "Bounded: each command has five seconds and all of it forty; the archive never exceeds O(max_bytes)."
notes:
  - A program that is not installed is said in RV(missing) and in the archive's C(manifest.json). It is no error.
requirements:
  - python >= 3.9
author:
  - crosshost.doctor contributors (@crosshost)
extends_documentation_fragment:
  - crosshost.doctor.attributes
  - crosshost.doctor.attributes.no_facts
options:
  namespaces:
    description: Network namespaces to read besides the host's own. At most 32.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The directory of the archive it is put into. By default the path.
        type: str
      path:
        description: Path of the namespace, for example C(/proc/4711/ns/net).
        type: str
        required: true
      inode:
        description: The namespace's inode. When the path is another one by now, it is not read.
        type: str
  addresses:
    description: Addresses whose connection tracking entries are wanted.
    type: list
    elements: str
    default: []
  files:
    description: Regular files of the host to add as they are, for example captures. Links are not followed.
    type: list
    elements: path
    default: []
  max_bytes:
    description: How large the archive may become. What would not fit is left out and named.
    type: int
    default: 8388608
  dest:
    description:
      - Where to put the archive on the controller, with mode 0600. Required without O(run_dir).
      - Taken by the action plugin.
    type: path
  run_dir:
    description:
      - Folder on the controller to take the arguments from (C(plan/evidence/HOST.json)), and below which the archive is
        put, as C(evidence/HOST.tar.gz).
      - Used by the playbooks of this collection, and taken by the action plugin. It does not reach the host.
    type: path
  label:
    description: Names the record in O(run_dir). Taken by the action plugin.
    type: str
    default: before
seealso:
  - module: crosshost.doctor.evidence_plan
  - module: crosshost.doctor.vxlan_capture
"""

EXAMPLES = r"""
- name: Keep the state of every host
  crosshost.doctor.evidence:
    dest: "evidence/{{ inventory_hostname }}.tar.gz"
"""

RETURN = r"""
archive:
  description: The archive on the controller.
  type: str
  returned: success
  sample: /home/operator/report/evidence/node1.tar.gz
bytes:
  description: Its size.
  type: int
  returned: success
  sample: 60214
members:
  description: What the host has put in, where it comes from, and whether it was cut off.
  type: list
  elements: dict
  returned: success
  sample:
    - name: host/links.txt
      source: ip -d -s -s link show
      bytes: 4211
      truncated: false
missing:
  description: What could not be read, and why.
  type: list
  elements: dict
  returned: success
  sample:
    - section: evidence
      what: host/fdb.txt
      why: bridge is not installed
secrets_removed:
  description: How many tokens, passwords and keys were taken out of the texts.
  type: int
  returned: success
  sample: 0
"""

import base64

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.crosshost.doctor.plugins.module_utils._evidence import gather
from ansible_collections.crosshost.doctor.plugins.module_utils._output import steady_output

LARGEST = 64 << 20


def main() -> None:
    """Read, compress, return."""
    module = AnsibleModule(
        argument_spec={
            "namespaces": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str"},
                    "path": {"type": "str", "required": True},
                    "inode": {"type": "str"},
                },
            },
            "addresses": {"type": "list", "elements": "str", "default": []},
            "files": {"type": "list", "elements": "path", "default": []},
            "max_bytes": {"type": "int", "default": 8388608},
            "dest": {"type": "path"},
            "run_dir": {"type": "path"},
            "label": {"type": "str", "default": "before"},
        },
        supports_check_mode=True,
    )
    limit = module.params["max_bytes"]
    if not 4096 <= limit <= LARGEST:
        module.fail_json(msg=f"max_bytes: {limit} is not between 4096 and {LARGEST}")
    if module.params["dest"] or module.params["run_dir"]:
        module.fail_json(msg="dest and run_dir are taken by the action plugin: run this as a task, not as a module")
    content, found = gather(module.params["namespaces"], module.params["addresses"], module.params["files"], limit)
    module.exit_json(changed=False, content=base64.b64encode(content).decode("ascii"), bytes=len(content), **found)


if __name__ == "__main__":
    steady_output()
    main()

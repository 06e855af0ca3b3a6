#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: prepare
short_description: Give a host what a diagnosis runs with
version_added: 0.1.0
description:
  - Makes the folder of one run on the host, and brings pyroute2 and the Docker SDK for Python there when the host lacks
    either. They come from the controller over Ansible's own connection; the host needs no network.
  - All libraries are the host's own, or all come from the bundle. They are never mixed.
  - Removes what killed runs left on the host. The folder of a run that may still be alive is kept.
  - Nothing is installed on the host. O(state=absent) removes the folder and leaves the host as it was.
author:
  - crosshost.doctor contributors (@crosshost)
extends_documentation_fragment:
  - crosshost.doctor.attributes
attributes:
  check_mode:
    support: partial
    details:
      - In check mode it does the same. A diagnosis reads, in check mode too, and the folder is nobody's but the run's.
  idempotent:
    details:
      - For the same O(run_id). Each run has a folder of its own.
options:
  state:
    description: Whether the run's folder is there.
    type: str
    choices: [present, absent]
    default: present
  run_id:
    description:
      - The run that the folder belongs to, and the folder's name.
      - By default one that is the same for all tasks of one running playbook.
    type: str
  base_path:
    description:
      - The folder on the host that holds the folders of all runs. It must belong to the user who runs the module, with
        mode 0700, and is made when missing.
      - By default C(/run/crosshost.doctor) for root, and C(crosshost.doctor-UID) in the temporary directory for others.
    type: path
  bundle:
    description:
      - A library bundle on the controller, to be carried instead of the one built there from meta/host-libraries.txt.
      - For controllers that reach no Python package index.
    type: path
  lifetime:
    description:
      - After how many seconds the folder of this run may be taken for left behind by a run on another controller.
      - A folder that a process on the host holds a lock in is never removed.
    type: int
    default: 3600
  run_dir:
    description:
      - The run folder on the controller (see M(crosshost.doctor.run_start)). What the host answered is written there,
        and a host that cannot be prepared does not fail the play.
    type: path
  controller:
    description: Who asks. Set by the action plugin.
    type: dict
    suboptions:
      controller:
        description: The identity of the controller's process table.
        type: str
      pid:
        description: The process id of the playbook.
        type: int
      start:
        description: When that process started, in clock ticks after boot.
        type: int
  dead:
    description: Runs of this controller that have ended. Set by the action plugin.
    type: list
    elements: str
    default: []
  content:
    description: The bundle, in base64, for the case that the host lacks libraries. Set by the action plugin.
    type: str
  sha256:
    description: The checksum of the bundle. Set by the action plugin.
    type: str
seealso:
  - module: crosshost.doctor.overlay_facts
  - module: crosshost.doctor.path_probe
"""

EXAMPLES = r"""
- name: Bring the libraries
  crosshost.doctor.prepare:

- name: Read the host
  crosshost.doctor.overlay_facts:
    library_path: "{{ ansible_facts['crosshost']['prepare']['library_path'] }}"

- name: Leave the host as it was
  crosshost.doctor.prepare:
    state: absent
"""

RETURN = r"""
ansible_facts:
  description: What later tasks of the run need to know.
  type: dict
  returned: success
  contains:
    crosshost:
      description: The facts of this collection.
      type: dict
      returned: success
      contains:
        prepare:
          description: How this host was prepared.
          type: dict
          returned: success
          contains:
            schema:
              description: The version of this dictionary's layout.
              type: str
              sample: "1"
            run_id:
              description: The run.
              type: str
              sample: 0d5f61c2-4711-98231
            run_path:
              description: The run's folder on the host. Null after O(state=absent).
              type: str
              sample: /run/crosshost.doctor/0d5f61c2-4711-98231
            library_path:
              description: The extracted bundle. Null where the host's own libraries are used.
              type: str
              sample: /run/crosshost.doctor/0d5f61c2-4711-98231/lib
            python:
              description: The version of the Python that modules run with.
              type: str
              sample: 3.11.2
            executable:
              description: Its path.
              type: str
              sample: /usr/bin/python3
            root:
              description: Whether the module ran as root. Without root most of a diagnosis cannot be read.
              type: bool
              sample: true
            libraries:
              description: The libraries in use.
              type: dict
              contains:
                origin:
                  description: V(host), V(bundle), or null where there are none.
                  type: str
                  sample: bundle
                pyroute2:
                  description: The version of pyroute2.
                  type: str
                  sample: 0.9.7
                docker:
                  description: The version of the Docker SDK for Python.
                  type: str
                  sample: 7.2.0
                lacking:
                  description: Why the host's own are not used. Empty also when the bundle was there already.
                  type: list
                  elements: str
                  sample: ["pyroute2 >= 0.9.2 cannot be imported from the host's Python"]
actions:
  description: What was done on the host.
  type: list
  elements: str
  returned: success
  sample: [created, extracted, "removed 0d5f61c2-4099-97120"]
unsure:
  description: Other runs of the same controller found on the host, which the action plugin looks up.
  type: list
  elements: dict
  returned: success
  sample: []
"""

import base64
import binascii
import platform
import sys
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.crosshost.doctor.plugins.module_utils import _host_folder, _libraries

OLDEST_PYTHON = (3, 9)
ARGUMENTS: dict[str, Any] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "run_id": {"type": "str"},
    "base_path": {"type": "path"},
    "bundle": {"type": "path"},
    "lifetime": {"type": "int", "default": 3600},
    "run_dir": {"type": "path"},
    "controller": {
        "type": "dict",
        "options": {"controller": {"type": "str"}, "pid": {"type": "int"}, "start": {"type": "int"}},
    },
    "dead": {"type": "list", "elements": "str", "default": []},
    # no_log: a megabyte has no place in the host's log nor in the result.
    "content": {"type": "str", "no_log": True},
    "sha256": {"type": "str"},
}


def host_libraries() -> _libraries.Libraries:
    """Import what the host has; docker is not paid for where pyroute2 is of no use."""
    found = _libraries.load(None, ("pyroute2",))
    return found if found.missing else _libraries.load(None)


def prepare(folder: _host_folder.HostFolder, params: dict[str, Any]) -> dict[str, Any]:
    """Make the folder, clear away the dead, and settle which libraries the run uses."""
    now = time.time()
    owner = params["controller"] or {}
    with folder.alone():
        actions = ["created"] if folder.claim(owner, params["lifetime"], now) else []
        others = folder.clear_others(params["dead"], owner.get("controller"), params["lifetime"], now)
    actions += [f"removed {name}" for name in others.removed]
    library_path = folder.library_path()
    lacking: list[str] = []
    libraries: dict[str, Any] = {}
    if not library_path:
        found = host_libraries()
        lacking = [item["why"] for item in found.missing]
        libraries = {"origin": None if lacking else "host", **found.versions}
        if lacking and params["content"]:
            folder.extract(base64.b64decode(params["content"], validate=True), params["sha256"] or "")
            library_path = folder.library_path()
            actions.append("extracted")
    if library_path:
        # Not imported here: compiling them is left to the module that needs them.
        libraries = {"origin": "bundle", **_host_folder.versions(library_path, _libraries.NAMES)}
    return {
        "facts": {
            "run_path": folder.path,
            "library_path": library_path,
            "libraries": {**libraries, "lacking": lacking},
        },
        "actions": actions,
        "unsure": others.unsure,
    }


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    params = module.params
    if sys.version_info < OLDEST_PYTHON:
        module.fail_json(
            msg=f"Python {platform.python_version()} ({sys.executable}) is too old: a diagnosis needs Python 3.9 or "
            "later on the host. If there is one, set ansible_python_interpreter to it."
        )
    if not params["run_id"]:
        module.fail_json(msg="run_id is missing: this module is run by its action plugin of the same name.")
    try:
        folder = _host_folder.HostFolder(params["base_path"] or _host_folder.default_base(), params["run_id"])
        if params["state"] == "absent":
            done: dict[str, Any] = {"facts": {}, "actions": ["removed"] if folder.remove() else [], "unsure": []}
        else:
            done = prepare(folder, params)
    except _host_folder.FolderError as exc:
        module.fail_json(msg=str(exc))
    except (OSError, binascii.Error) as exc:
        module.fail_json(msg=f"The run's folder could not be prepared: {exc}")
    libraries: dict[str, Any] = {"origin": None, "pyroute2": None, "docker": None, "lacking": []}
    facts = {
        "schema": "1",
        "run_id": params["run_id"],
        "run_path": None,
        "library_path": None,
        "python": platform.python_version(),
        "executable": sys.executable,
        "root": _host_folder.is_root(),
        "libraries": libraries,
        **done["facts"],
    }
    module.exit_json(
        changed=bool(done["actions"]),
        actions=done["actions"],
        unsure=done["unsure"],
        ansible_facts={"crosshost": {"prepare": facts}},
    )


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: daemon_config
short_description: Merge settings into the configuration file of the Docker engine
version_added: 0.1.0
description:
  - Sets the named keys of C(daemon.json). Other keys, the order, the indentation, the mode and the owner stay.
  - The engine is neither restarted nor reloaded. RV(restart_needed) and RV(reload_needed) say what it takes.
  - A file that is not valid JSON, or that has a key twice, is left alone, and so is one whose engine has a key to be
    set on its command line, because it would not start again. From Docker 23.0 on, dockerd itself judges the new file
    before it is written.
author:
  - crosshost.doctor contributors (@crosshost)
extends_documentation_fragment:
  - crosshost.doctor.attributes
  - crosshost.doctor.attributes.no_facts
attributes:
  check_mode:
    details:
      - Says what would be written, after the same checks, and changes nothing.
  diff_mode:
    support: full
    details:
      - The diff has the changed keys. Others may hold secrets, and are not shown.
  idempotent:
    details:
      - A file that says it already is left alone.
options:
  settings:
    description:
      - The values by key. Objects are merged key by key; lists and everything else are replaced as a whole.
    type: dict
    required: true
  path:
    description: The file. A link is followed, and the file it leads to is written.
    type: path
    default: /etc/docker/daemon.json
  journal:
    description: The journal that takes what undoes the change, see M(crosshost.doctor.guard). Empty notes nothing.
    type: str
    default: ""
notes:
  - It is not known of a running engine what it was configured with. One that began before the file was last written is
    taken to lack the settings.
seealso:
  - module: crosshost.doctor.guard
"""

EXAMPLES = r"""
- name: Name servers for containers that are given none
  crosshost.doctor.daemon_config:
    settings:
      dns: [192.0.2.53, 198.51.100.53]

- name: The MTU of bridge networks that say nothing else
  crosshost.doctor.daemon_config:
    settings:
      mtu: 1400
"""

RETURN = r"""
path:
  description: The file, where links led to.
  returned: success
  type: str
  sample: /etc/docker/daemon.json
changes:
  description:
    - The keys that were changed, or would be. Each has C(before) (null where it was not there), C(after) and C(takes),
      which is V(reload) where the engine reads it again on SIGHUP, else V(restart).
  returned: success
  type: dict
  sample: {dns: {before: null, after: [192.0.2.53], takes: restart}}
restart_needed:
  description:
    - Whether the engine runs and has to be restarted to have the settings, because a changed key takes it, or because
      it began before the file was last written.
  returned: success
  type: bool
  sample: true
reload_needed:
  description: Whether SIGHUP is enough for what was changed.
  returned: success
  type: bool
  sample: false
validation:
  description: V(valid) where dockerd accepted the file, else why it was not asked. Empty where nothing differs.
  returned: success
  type: str
  sample: valid
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.crosshost.doctor.plugins.module_utils import _daemon_config
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal, JournalError

ARGUMENTS: dict[str, t.Any] = {
    "settings": {"type": "dict", "required": True},
    "path": {"type": "path", "default": _daemon_config.PATH},
    "journal": {"type": "str", "default": ""},
}


def settle(module: AnsibleModule) -> dict[str, t.Any]:
    """Plan, apply unless in check mode, and say what came of it."""
    params = module.params
    plan = _daemon_config.make(params["path"], params["settings"], _daemon_config.engine_flags())
    validation = _daemon_config.validate(plan) if plan.changed else ""
    old = _daemon_config.outdated(plan.path) and any(key not in _daemon_config.RELOADED for key in params["settings"])
    if plan.changed and not module.check_mode:
        _daemon_config.apply(plan, Journal(params["journal"]))
    takes = {row["takes"] for row in plan.keys.values()}
    runs = _daemon_config.engine_pid() is not None
    restart = runs and (old or "restart" in takes)
    result: dict[str, t.Any] = {
        "changed": plan.changed,
        "path": plan.path,
        "changes": plan.keys,
        "restart_needed": restart,
        "reload_needed": runs and not restart and "reload" in takes,
        "validation": validation,
    }
    if module._diff:
        result["diff"] = [_daemon_config.difference(plan)]
    return result


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        result = settle(module)
    except (_daemon_config.ConfigError, JournalError, OSError) as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**result)


if __name__ == "__main__":
    main()

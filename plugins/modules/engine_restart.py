#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: engine_restart
short_description: Restart the engine of a host, or have it make its packet filter rules anew
version_added: 0.1.0
description:
  - Restarts the Docker engine with everything bounded in time, waits until it answers and is in its Swarm again, and
    tells which containers that ran before do not run afterwards. Those are started again.
  - The engine is restarted by systemd where systemd started it. Elsewhere it gets SIGTERM, and its own program is
    started again with the very command line, environment, folder and log that the old process had.
  - With O(condition=rules_missing) it does so only where rules are missing that the engine makes for its networks, for
    published ports and for the routing mesh. No release of the engine writes them anew on SIGHUP. Where the engine
    works with firewalld and says so, it writes them when firewalld reloads, and that is done instead of a restart.
  - Without O(allow_disruption) it says what it would do and does nothing.
author:
  - crosshost.doctor contributors (@crosshost)
extends_documentation_fragment:
  - crosshost.doctor.attributes
  - crosshost.doctor.attributes.no_facts
attributes:
  check_mode:
    details:
      - Check mode says what would be done, and changes nothing.
  diff_mode:
    support: full
    details:
      - The diff has the missing rules, with O(condition=rules_missing), and otherwise nothing.
  idempotent:
    support: partial
    details:
      - With O(condition=rules_missing), an engine whose rules are complete is left alone. With O(condition=always) it
        is restarted each time.
options:
  condition:
    description:
      - V(always) restarts the engine. V(rules_missing) acts only where rules of the engine are missing.
    type: str
    choices: [always, rules_missing]
    default: always
  allow_disruption:
    description:
      - Consent to a restart. Without live-restore all containers stop with the engine, and live-restore is refused in
        Swarm mode.
    type: bool
    default: false
  start_containers:
    description:
      - Whether containers that ran before and do not come back by themselves are started. Tasks of services are the
        Swarm's business and left to it.
    type: bool
    default: true
  timeout:
    description: Seconds that stopping may take, and that coming back may take, from 10 to 1800.
    type: int
    default: 120
notes:
  - A restart cannot be undone, and none of it is noted in a journal. Containers have other processes, namespaces and
    interfaces afterwards.
  - A manager is not restarted while its Swarm could not spare it.
seealso:
  - module: crosshost.doctor.guard
"""

EXAMPLES = r"""
- name: Have the engine make its rules anew where some are missing
  crosshost.doctor.engine_restart:
    condition: rules_missing
    allow_disruption: true

- name: Restart it for another reason
  crosshost.doctor.engine_restart:
    allow_disruption: true
"""

RETURN = r"""
missing_rules:
  description: Rules of the engine that were missing before. Empty with O(condition=always).
  returned: success
  type: list
  elements: str
  sample: [the MASQUERADE of 172.17.0.0/16 (network bridge) in table nat]
way:
  description:
    - What was done, or would be done. V(none), V(restart by systemd), V(restart of the process) or
      V(reload of firewalld).
  returned: success
  type: str
  sample: restart by systemd
needs_consent:
  description: Whether nothing was done because O(allow_disruption) was not given.
  returned: success
  type: bool
  sample: false
running_before:
  description: The names of the containers that ran before, without tasks of services.
  returned: success
  type: list
  elements: str
  sample: [web]
started:
  description: The names of containers that did not come back by themselves and were started.
  returned: success
  type: list
  elements: str
  sample: []
not_running:
  description: The names of containers that ran before and do not run now.
  returned: success
  type: list
  elements: str
  sample: []
msg:
  description: What was or would be done, and why.
  returned: success
  type: str
  sample: "Rules of the engine are missing. They are made anew by a restart, which stops 3 containers."
"""

import contextlib
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.crosshost.doctor.plugins.module_utils import (
    _commands,
    _engine_restart,
    _engine_rules,
    _netfilter,
    _netns,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._docker import read_engine
from ansible_collections.crosshost.doctor.plugins.module_utils._engine_api import Api, EngineError
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import run as run_in

ARGUMENTS: dict[str, t.Any] = {
    "condition": {"type": "str", "choices": ["always", "rules_missing"], "default": "always"},
    "allow_disruption": {"type": "bool", "default": False},
    "start_containers": {"type": "bool", "default": True},
    "timeout": {"type": "int", "default": 120},
}
SHORTEST = 10
LONGEST = 1800
INGRESS = f"{_netns.DOCKER_DIR}/ingress_sbox"
RELOAD = "reload of firewalld"


def missing_rules(api: Api) -> list[str]:
    """The rules of the engine that are missing now.

    @raises EngineError: it does not answer, or the packet filter cannot be read.
    """
    found = _netfilter.read_filter()
    mesh: set[int] = set()
    with contextlib.suppress(OSError), _netns.inside(INGRESS):  # no routing mesh here, or none yet
        mesh = _engine_rules.mesh_ports(_netfilter.read_filter())
    if found["error"]:
        raise EngineError(f"The packet filter cannot be read: {found['error']}")
    engine, _socket = read_engine([])
    settings = {**engine["daemon_config"], **engine["daemon_flags"]}
    networks, containers = api.get("/networks") or [], api.get("/containers/json") or []
    return _engine_rules.missing(found, networks, containers, mesh, settings)


def reloads_live(api: Api) -> bool:
    """Whether the engine writes its rules when firewalld reloads, and a reload loses nothing that somebody added."""
    driver = str(((api.get("/info") or {}).get("FirewallBackend") or {}).get("Driver") or "")
    program = _commands.find("firewall-cmd")
    if "firewalld" not in driver or program is None:
        return False
    for words in (["--list-all-zones"], ["--list-all-policies"], ["--direct", "--get-all-rules"]):
        now, kept = (run_in([program, *more, *words]) for more in ([], ["--permanent"]))
        if sorted(now[1].replace(" (active)", "").split()) != sorted(kept[1].replace(" (active)", "").split()):
            return False
    return True


def explain(way: str, missing: list[str], old: _engine_restart.Before, consent: bool) -> str:
    because = f"Rules of the engine are missing ({len(missing)}). " if missing else ""
    if way == RELOAD:
        return f"{because}The engine writes them anew when firewalld reloads; nothing stops."
    count = len(old.containers)
    stops = (
        "containers keep running (live-restore)" if old.live_restore else f"{count} container(s) stop and start again"
    )
    left = "" if consent else " It is not done without consent (allow_disruption)."
    return f"{because}The engine needs a {way}: {stops}.{left}"


def check_timeout(seconds: int) -> int:
    if not SHORTEST <= seconds <= LONGEST:
        raise EngineError(f"timeout: {seconds} is not from {SHORTEST} to {LONGEST} seconds.")
    return seconds


def run(module: AnsibleModule) -> dict[str, t.Any]:
    params, api = module.params, Api()
    seconds = check_timeout(params["timeout"])
    rules = params["condition"] == "rules_missing"
    missing = missing_rules(api) if rules else []
    old = _engine_restart.before(api)
    result: dict[str, t.Any] = {
        "changed": False,
        "missing_rules": missing,
        "way": "none",
        "needs_consent": False,
        "running_before": sorted(old.containers.values()),
        "started": [],
        "not_running": [],
        "msg": "No rule of the engine is missing.",
    }
    if rules and not missing:
        return result
    if module._diff:
        lines = "".join(f"{one}\n" for one in missing)
        result["diff"] = {"before_header": "rules", "after_header": "rules", "before": "", "after": lines}
    live = rules and reloads_live(api)
    engine = _engine_restart.find_engine()
    result["way"] = RELOAD if live else "restart by systemd" if engine.unit else "restart of the process"
    consent = live or params["allow_disruption"]
    result["msg"] = explain(result["way"], missing, old, consent)
    if not consent:
        return {**result, "needs_consent": True}
    if not live and (why := _engine_restart.endangers_quorum(api)):
        raise EngineError(f"The engine is not restarted: {why}.")
    if not module.check_mode:
        if live:
            reload_firewalld()
        else:
            _engine_restart.restart(engine, seconds)
        back = _engine_restart.come_back(api, old, seconds, params["start_containers"])
        result.update(started=back["started"], not_running=back["missing"])
        if rules and not _engine_restart.wait(lambda: not missing_rules(api), 30.0, 1.0):
            raise EngineError(f"Rules are still missing: {'; '.join(missing_rules(api))}. See the engine's log.")
    return {**result, "changed": True}


def reload_firewalld() -> None:
    code, _output, error = run_in([_commands.find("firewall-cmd") or "firewall-cmd", "--reload"])
    if code:
        raise EngineError(f"firewall-cmd --reload: {error.strip() or code}")


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        result = run(module)
    except EngineError as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg=f"The host cannot be read: {exc}")
    if result["not_running"]:
        module.warn(f"These containers ran before and do not run now: {', '.join(result['not_running'])}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: sysctl_forwarding
short_description: Read and set the sysctls that decide about forwarding, at runtime and for the next boot
version_added: 0.1.0
description:
  - Without O(settings) it only reads, and returns for each interface and for the host what the kernel has now, what
    files set, B(which file wins), what holds for the interface (C(rp_filter) is the larger of C(all) and the
    interface's own), and where runtime and files have drifted apart.
  - With O(settings) it sets exactly the named sysctls, in the running kernel and in one file of its own that is read
    after the others. Check mode, diff mode and the real run follow the same plan. What was written is read again, and a
    value the kernel did not take is an error.
  - A sysctl that has its value already is not written. That matters for C(net.ipv4.ip_forward)
    (C(net.ipv4.conf.all.forwarding) is the same variable), whose change makes the kernel rewrite C(forwarding) of every
    interface and of C(default), and C(net.ipv4.conf.all.accept_redirects). Several sysctls of C(net.ipv6.conf.all) do
    so too. Where it is asked for, RV(rewritten), the diff and a warning list what changes along.
  - Only the network namespace the module runs in is touched, which is the host's. Containers have sysctls of their own.
author:
  - crosshost.doctor contributors (@crosshost)
extends_documentation_fragment:
  - crosshost.doctor.attributes
attributes:
  check_mode:
    details:
      - Without O(settings) this module only reads. With them check mode says what would be done, and changes nothing.
  diff_mode:
    support: full
    details:
      - With O(settings) the diff has the runtime values, those that the kernel rewrites along included, and the file.
  idempotent:
    details:
      - A named sysctl that has its value in the kernel and in the file is left alone.
options:
  settings:
    description:
      - The desired values, by sysctl. Only names below C(net.) are taken; values are integers or a few plain words.
      - A dot in an interface name is written as a slash, C(net.ipv4.conf.eth0/100.forwarding), or all separators are
        slashes, C(net/ipv4/conf/eth0.100/forwarding). Wildcards are not taken.
      - A sysctl of an interface or of a kernel module that is not there yet goes into the file only, and is listed in
        RV(pending). Values of C(default) are taken by interfaces that come later; besides, the kernel gives them to
        interfaces without an IPv4 address whose own value nobody has set.
      - With O(state=absent) the values are not looked at.
    type: dict
  state:
    description:
      - V(present) sets the named sysctls. V(absent) removes them from the file at O(path), and leaves the kernel as it
        is unless O(reload) is set.
    type: str
    choices: [present, absent]
    default: present
  path:
    description:
      - The module's own file, in C(/etc/sysctl.d) or, until the next boot, in C(/run/sysctl.d). Lines about other
        sysctls are kept, and a file that holds nothing else is removed with its last setting.
      - The default sorts after names that begin with a digit, and after the C(99-sysctl.conf) that links to
        C(/etc/sysctl.conf) on Debian and Ubuntu. Whether a named sysctl really lasts is worked out with the new file,
        and what defeats it is in RV(overrides) and in a warning.
    type: str
    default: /etc/sysctl.d/zz-crosshost-doctor.conf
  reload:
    description:
      - With O(state=absent), also set in the kernel what the remaining files say. A sysctl that no file sets keeps its
        value.
    type: bool
    default: false
  persistent:
    description:
      - Whether O(path) is written. With V(false) only the running kernel is changed, until the next boot or until
        somebody applies the files again.
    type: bool
    default: true
  journal:
    description:
      - The journal on the host in which is noted, before anything is written, what undoes it (the module
        M(crosshost.doctor.guard) rolls it back), also the values that the kernel rewrites along. Of the file its lines
        about the named sysctls are undone, and others that were added meanwhile stay.
      - Empty notes nothing.
    type: str
    default: ""
  run_dir:
    description:
      - Folder on the controller to write the facts to, instead of returning them. Not together with O(settings).
      - Taken by the action plugin. It does not reach the host.
    type: path
  label:
    description: Names the record in O(run_dir), for example V(before) or V(after).
    type: str
    default: before
notes:
  - C(systemd-sysctl), which runs at boot where systemd does, reads C(*.conf) of C(/etc/sysctl.d), C(/run/sysctl.d),
    C(/usr/local/lib/sysctl.d) and C(/usr/lib/sysctl.d) in the order of their names; a name in an earlier directory
    hides the same name in a later one, and the later setting wins. It does not read C(/etc/sysctl.conf), except through
    a link such as C(99-sysctl.conf).
  - C(sysctl --system) of procps, which runs at boot elsewhere and by hand anywhere, reads the same files and
    C(/etc/sysctl.conf) last. A sysctl set there comes back whenever somebody runs it, also after this module's file.
  - An explicit sysctl wins over a wildcard, wherever that stands. C(-name) without a value keeps wildcards away.
  - C(ufw), where it is enabled, sets the sysctls of its own file (C(IPT_SYSCTL)) when it starts, after all others.
  - What a program sets by itself is not in a file, and not seen here. An engine sets C(net.ipv4.ip_forward) when it
    starts; so may NetworkManager, systemd-networkd and tuned.
seealso:
  - module: crosshost.doctor.overlay_facts
  - module: crosshost.doctor.guard
"""

EXAMPLES = r"""
- name: Read what decides about forwarding
  crosshost.doctor.sysctl_forwarding:

- name: Say which file will undo a runtime setting
  ansible.builtin.debug:
    msg: "{{ item }}: {{ facts[item].runtime }} now, {{ facts[item].persisted }} after a boot ({{ facts[item].file }})"
  loop: "{{ ansible_facts.crosshost.sysctl_forwarding.drift }}"
  vars:
    facts: "{{ ansible_facts.crosshost.sysctl_forwarding.sysctls }}"

- name: Let one interface forward, now and after a boot
  crosshost.doctor.sysctl_forwarding:
    settings:
      net.ipv4.conf.docker_gwbridge.forwarding: 1

- name: Loose source validation on a host with two uplinks, also for an interface that is not there yet
  crosshost.doctor.sysctl_forwarding:
    settings:
      net.ipv4.conf.eth0.rp_filter: 2
      net.ipv4.conf.eth1/100.rp_filter: 2

- name: Take it back, and let the other files decide at once
  crosshost.doctor.sysctl_forwarding:
    settings:
      net.ipv4.conf.docker_gwbridge.forwarding:
    state: absent
    reload: true
"""

RETURN = r"""
ansible_facts:
  description: Facts to add to C(ansible_facts), read after everything was done.
  returned: success
  type: dict
  contains:
    crosshost:
      description: The facts of this collection.
      returned: success
      type: dict
      contains:
        sysctl_forwarding:
          description: The sysctls of the host's namespace. Numbers are integers, other values are words.
          returned: success
          type: dict
          contains:
            schema:
              description: Version of this structure.
              returned: success
              type: str
              sample: "1"
            tool:
              description: What applies the files when this host boots, V(systemd-sysctl) or V(sysctl --system).
              returned: success
              type: str
              sample: systemd-sysctl
            files:
              description: The files that count, in the order they are read in. C(/etc/sysctl.conf) is not among them.
              returned: success
              type: list
              elements: str
              sample: [/usr/lib/sysctl.d/50-default.conf, /etc/sysctl.d/90-hardening.conf]
            masked:
              description: Files (C(file)) that are not read, because one of the same name comes before (C(by)).
              returned: success
              type: list
              elements: dict
              sample: [{file: /usr/lib/sysctl.d/50-default.conf, by: /etc/sysctl.d/50-default.conf}]
            notes:
              description: Files that could not be read, wholly or in part, and what was left out (C(file) is null).
              returned: success
              type: list
              elements: dict
              sample: [{file: /etc/sysctl.d/10-private.conf, why: Permission denied}]
            interfaces:
              description:
                - Each interface, with its runtime values (C(ipv4), C(ipv6)) and C(effective), what holds once C(all) is
                  taken into account as the kernel does it.
                - C(rp_filter) and C(arp_ignore) are the larger of the two. Most others count when either is set,
                  C(accept_source_route), and C(accept_redirects) of an interface that forwards, when both are.
                  C(forwarding) is the interface's own in IPv4; in IPv6 packets are forwarded when C(all) is set, or
                  C(force_forwarding) of the interface.
              returned: success
              type: list
              elements: dict
              sample:
                - name: eth0
                  ipv4: {forwarding: 1, rp_filter: 0, accept_redirects: 1}
                  ipv6: {forwarding: 0, disable_ipv6: 0}
                  effective:
                    ipv4: {forwarding: 1, rp_filter: 2, accept_redirects: 0}
                    ipv6: {forwarding: 0, disable_ipv6: 0}
            sysctls:
              description:
                - Sysctls of the host (forwarding, bridge-nf, connection tracking, neighbour tables), of C(all) and of
                  C(default), and of interfaces those that some file decides, by name. A dot in an interface name is a
                  slash.
                - C(runtime) is the kernel's value. C(persisted) is the value after a boot, set by C(setting) at C(line)
                  of C(file), and null where no file decides. C(setting) is another name where a wildcard decides, or
                  where the kernel rewrites this sysctl along with that one.
                - C(tools) are the programs with which C(persisted) comes true. Where V(systemd-sysctl) is not among
                  them on a host with systemd, the setting is in an C(/etc/sysctl.conf) that is not read at boot.
                - C(drift) tells that the two values differ. C(others) are the settings that lose, at most eight.
              returned: success
              type: dict
              sample:
                net.ipv4.ip_forward:
                  runtime: 1
                  persisted: 0
                  file: /etc/sysctl.d/90-hardening.conf
                  line: 3
                  setting: net.ipv4.ip_forward
                  tools: [systemd-sysctl, sysctl --system]
                  drift: true
                  others: [{file: /usr/lib/sysctl.d/50-a.conf, line: 1, setting: net.ipv4.ip_forward, value: "1"}]
            drift:
              description: The names of RV(ansible_facts.crosshost.sysctl_forwarding.sysctls) whose values differ.
              returned: success
              type: list
              elements: str
              sample: [net.ipv4.ip_forward]
            pending:
              description:
                - Sysctls below C(net.) that files set and the kernel does not have, because the interface or the kernel
                  module is not there. As C(sysctls), C(runtime) being null.
              returned: success
              type: dict
              sample: {}
settings:
  description:
    - What became of each named sysctl (C(name)). C(value) is the desired one, null when it is removed.
    - C(runtime) and C(persisted) are the values after the run, or after the run that check mode foretells, with the
      C(file) that decides; C(runtime_before), C(persisted_before) and C(file_before) were those found.
  returned: when O(settings) is given
  type: list
  elements: dict
  sample:
    - name: net.ipv4.conf.docker_gwbridge.forwarding
      value: 1
      runtime_before: 0
      runtime: 1
      persisted_before: null
      file_before: null
      persisted: 1
      file: /etc/sysctl.d/zz-crosshost-doctor.conf
rewritten:
  description:
    - Sysctls that were not named and that the kernel changes along with those that were, with C(before) and C(after).
    - In check mode what is expected, else what was found afterwards.
  returned: when O(settings) is given
  type: list
  elements: dict
  sample: [{name: net.ipv4.conf.eth0.forwarding, before: 0, after: 1}]
pending:
  description: Named sysctls that the kernel does not have yet. They are in the file only.
  returned: when O(settings) is given
  type: list
  elements: str
  sample: [net.ipv4.conf.eth1/100.rp_filter]
locked:
  description:
    - Named sysctls that have another value and that only the machine's own network namespace may set, such as
      C(net.netfilter.nf_conntrack_max), where this host is another one. They are in the file only.
  returned: when O(settings) is given
  type: list
  elements: str
  sample: []
overrides:
  description:
    - Settings that give a named sysctl another value than the module's file does, and so defeat it. C(tools) are the
      programs with which they do.
  returned: when O(settings) is given
  type: list
  elements: dict
  sample:
    - name: net.ipv4.ip_forward
      value: 0
      file: /etc/sysctl.conf
      line: 28
      setting: net.ipv4.ip_forward
      tools: [sysctl --system]
path:
  description: The module's own file.
  returned: when O(settings) is given
  type: str
  sample: /etc/sysctl.d/zz-crosshost-doctor.conf
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.crosshost.doctor.plugins.module_utils import _sysctl_own_file, _sysctl_plan
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal, JournalError
from ansible_collections.crosshost.doctor.plugins.module_utils._output import steady_output
from ansible_collections.crosshost.doctor.plugins.module_utils._sysctl import value as typed
from ansible_collections.crosshost.doctor.plugins.module_utils._sysctl_files import dotted, scan
from ansible_collections.crosshost.doctor.plugins.module_utils._sysctl_kernel import Runtime
from ansible_collections.crosshost.doctor.plugins.module_utils._sysctl_state import lasting, read_state

ROOT = "/"
ARGUMENTS: dict[str, Any] = {
    "settings": {"type": "dict"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "path": {"type": "str", "default": _sysctl_own_file.DEFAULT_PATH},
    "reload": {"type": "bool", "default": False},
    "persistent": {"type": "bool", "default": True},
    "journal": {"type": "str", "default": ""},
    "run_dir": {"type": "path"},
    "label": {"type": "str", "default": "before"},
}


def number(text: str | None) -> int | str | None:
    return None if text is None else typed(text)


def outcome(plan: _sysctl_plan.Plan, now: dict[str, str]) -> dict[str, Any]:
    """The part of the result about the named sysctls; C(now) are the runtime values to report."""
    rows = []
    for path, value in plan.named.items():
        earlier, later = lasting(plan.persisted_before, path), lasting(plan.persisted, path)
        rows.append(
            {
                "name": dotted(path),
                "value": number(value),
                "runtime_before": number(plan.before.get(path)),
                "runtime": number(now.get(path)),
                "persisted_before": number(earlier.value) if earlier else None,
                "file_before": earlier.statement.file if earlier else None,
                "persisted": number(later.value) if later else None,
                "file": later.statement.file if later else None,
            }
        )
    written = dict(plan.writes)
    return {
        "settings": rows,
        "rewritten": [
            {"name": dotted(path), "before": number(plan.before[path]), "after": number(value)}
            for path, value in sorted(now.items(), key=lambda item: dotted(item[0]))
            if plan.writes and path not in written and value != plan.before.get(path, value)
        ],
        "pending": [dotted(path) for path in plan.pending],
        "locked": [dotted(path) for path in plan.locked],
        "overrides": [
            {
                "name": dotted(found.path),
                "value": number(found.value),
                "file": found.statement.file,
                "line": found.statement.line,
                "setting": found.statement.key,
                "tools": list(found.tools),
            }
            for found in plan.overrides
        ],
        "path": plan.file,
    }


def settle(module: AnsibleModule) -> dict[str, Any]:
    """Plan, apply unless in check mode, and say what came of it."""
    params = module.params
    plan = _sysctl_plan.make(
        params["settings"],
        params["state"] == "present",
        params["path"],
        params["reload"],
        root=ROOT,
        persistent=params["persistent"],
    )
    now = {**plan.before, **{path: after for path, (_old, after) in plan.rewritten.items()}, **dict(plan.writes)}
    if plan.changed and not module.check_mode:
        journal = Journal(params["journal"])
        _sysctl_plan.note(plan, journal)
        _sysctl_plan.apply(plan, ROOT, module.atomic_move)
        now = Runtime(ROOT).snapshot(tuple(plan.named))
        plan.persisted = scan(ROOT)
    for warning in plan.warnings:
        module.warn(warning)
    done = {"changed": plan.changed, **outcome(plan, now)}
    if module._diff:
        done["diff"] = _sysctl_plan.difference(plan)
    return done


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    done: dict[str, Any] = {"changed": False}
    if module.params["settings"] is not None:
        try:
            done = settle(module)
        except (_sysctl_own_file.PlanError, JournalError) as exc:
            module.fail_json(msg=str(exc))
    facts = read_state(scan(ROOT), Runtime(ROOT))
    module.exit_json(**done, ansible_facts={"crosshost": {"sysctl_forwarding": facts}})


if __name__ == "__main__":
    steady_output()
    main()

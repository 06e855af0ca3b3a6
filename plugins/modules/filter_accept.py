#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: filter_accept
short_description: Accept exactly given traffic in the base chains that drop it
version_added: 0.1.0
description:
  - Reads the packet filter of the host (nftables, iptables over nf_tables, legacy iptables) and finds the base chains
    that may drop the traffic. In each of them it puts an accept at the head of the chain, for the peers' addresses or
    the interfaces and networks that are named, and for nothing else. Nothing is flushed, and no policy is changed.
  - Every base chain of a hook has to let a packet pass, so an accept in one does not help in another. A chain that
    accepts the traffic by its own rules before anything may drop it is left alone.
  - Check mode, diff mode and the real run follow the same plan. Afterwards the packet filter is read again, and the
    plan made from it has to be empty.
  - An own rule is known by its comment, C(crosshost.doctor) and what it is for. When the peers change, it is replaced;
    when it came to stand behind a rule that drops, it is put to the head again.
  - Chains of programs that make their rules anew by themselves (firewalld, ufw, the engine's own tables, Calico and
    others) are not edited but listed in RV(managed). Where C(DOCKER-USER) is, it takes the accepts of hook forward.
  - Legacy iptables programs run only for tables that the kernel lists as loaded.
author:
  - crosshost.doctor contributors (@crosshost)
extends_documentation_fragment:
  - crosshost.doctor.attributes
  - crosshost.doctor.attributes.no_facts
attributes:
  check_mode:
    details:
      - In check mode everything is read and planned, and nothing is changed.
  diff_mode:
    support: full
    details:
      - The diff has this module's own rules of every chain it changes, and the files.
  idempotent:
    details:
      - A chain whose own rules say what they have to, and let the traffic pass, is left alone.
options:
  direction:
    description:
      - V(in) is what arrives from the peers (hooks ingress, prerouting, input), V(out) what is sent to them (output,
        postrouting, egress), V(forward) what is routed.
    type: str
    choices: [in, out, forward]
    default: in
  services:
    description: What to accept from or to the peers, with directions V(in) and V(out).
    type: list
    elements: dict
    default: []
    suboptions:
      protocol:
        description: The protocol.
        type: str
        choices: [tcp, udp, esp]
        required: true
      port:
        description: The port of whoever is asked. Not with V(esp).
        type: int
      answers:
        description:
          - Whether to accept, instead of connections to the port, what comes back from it on established ones. Only
            with V(tcp). A host whose filter drops that cannot ask anybody.
        type: bool
        default: false
  peers:
    description: The addresses of the peers, IPv4 or IPv6. Each goes into the tables of its family.
    type: list
    elements: str
    default: []
  accepts:
    description: What to let pass with O(direction=forward). Each entry restricts something.
    type: list
    elements: dict
    default: []
    suboptions:
      in_interface:
        description: Name of the interface it comes by.
        type: str
      out_interface:
        description: Name of the interface it leaves by.
        type: str
      source:
        description: An address or a network.
        type: str
      destination:
        description: An address or a network, of the same family.
        type: str
  chains:
    description:
      - The chains to accept in, whether they would drop the traffic or not. Of a chain that is no base chain the base
        chains are taken that lead to it.
      - Empty takes every base chain of the direction that may drop some of the traffic.
    type: list
    elements: dict
    default: []
    suboptions:
      backend:
        description: Whose chain it is.
        type: str
        choices: [nft, iptables-nft, iptables-legacy]
        required: true
      family:
        description: The table's family.
        type: str
        choices: [ip, ip6, inet, bridge, netdev]
        required: true
      table:
        description: The table.
        type: str
        required: true
      chain:
        description: The chain.
        type: str
        required: true
  backends:
    description: The kinds of chains to look at.
    type: list
    elements: str
    choices: [nft, iptables-nft, iptables-legacy]
    default: [nft, iptables-nft, iptables-legacy]
  spare_managed:
    description:
      - Whether to leave alone the built-in chains of iptables that ufw, or firewalld over iptables, fill too. Their own
        chains and nftables tables are left alone in any case.
    type: bool
    default: true
  persistent:
    description:
      - Whether to write down the accepts for the next boot as well, see the notes.
    type: bool
    default: true
  journal:
    description:
      - Name of the journal (M(crosshost.doctor.guard)) that takes what undoes the changes. Empty notes nothing.
    type: str
    default: ""
notes:
  - A chain of nftables that the main file of an enabled C(nftables.service) defines (C(/etc/nftables.conf), on EL
    C(/etc/sysconfig/nftables.conf)) lasts by C(/etc/nftables.d/crosshost-doctor.nft), which that file includes at its
    end. Both are tried with C(nft -c) before they are put in place.
  - A chain of iptables that an enabled C(netfilter-persistent.service) loads (C(/etc/iptables/rules.v4), C(rules.v6);
    on EL C(iptables.service) and C(/etc/sysconfig/iptables)) lasts by lines in that file, which is tried with
    C(iptables-restore --test).
  - Accepts in other chains of iptables over nf_tables last by the unit C(crosshost-doctor-filter.service), which is
    enabled and runs after the engine.
  - Who loads any other chain is not known. RV(persistence) says so, and the accept has to be added there.
seealso:
  - module: crosshost.doctor.guard
  - module: ansible.builtin.iptables
"""

EXAMPLES = r"""
- name: Accept the tunnel and the gossip from two peers, wherever they would be dropped
  crosshost.doctor.filter_accept:
    services:
      - {protocol: udp, port: 4789}
      - {protocol: udp, port: 7946}
      - {protocol: tcp, port: 7946}
    peers: [192.0.2.12, 192.0.2.13]
    journal: firewall

- name: Let containers reach the outside through one chain
  crosshost.doctor.filter_accept:
    direction: forward
    accepts:
      - {in_interface: docker0, out_interface: eth0}
    chains:
      - {backend: nft, family: inet, table: hardening, chain: forward}
"""

RETURN = r"""
edits:
  description:
    - The chains that have or need an own rule (C(backend), C(family), C(table), C(chain), C(comment)), with the rules
      C(added) and C(removed), in the words of nft or iptables. Both are empty for one that is as it has to be.
    - In check mode, what would be done.
  returned: success
  type: list
  elements: dict
  sample:
    - backend: nft
      family: inet
      table: filter
      chain: input
      comment: "crosshost.doctor: in udp/4789"
      added: ['ip saddr 192.0.2.12 udp dport 4789 counter accept comment "crosshost.doctor: in udp/4789"']
      removed: []
managed:
  description:
    - Chains that may drop the traffic, or were named, and were not edited, because they are filled by a program
      (C(owner)), or come before connection tracking and so cannot tell what is an answer (C(owner) is null). C(words)
      is this for people.
  returned: success
  type: list
  elements: dict
  sample:
    - backend: nft
      family: inet
      table: firewalld
      chain: filter_INPUT
      hook: input
      policy: accept
      owner: firewalld
      comment: "crosshost.doctor: in udp/4789"
      words: >-
        Chain filter_INPUT of table inet firewalld may drop in udp/4789, and is filled by firewalld: tell firewalld to
        accept it.
managers:
  description: Which of firewalld and ufw are running or enabled on this host.
  returned: success
  type: list
  elements: str
  sample: [firewalld]
persistence:
  description:
    - For each chain with an own rule, whether it comes back after a boot (C(persistent)), from which C(file), or C(why)
      not. C(words) is this for people.
  returned: when O(persistent) is set
  type: list
  elements: dict
  sample:
    - backend: nft
      family: inet
      table: filter
      chain: input
      comment: "crosshost.doctor: in udp/4789"
      persistent: true
      file: /etc/nftables.d/crosshost-doctor.nft
      why: null
      words: >-
        crosshost.doctor: in udp/4789 in chain input of table inet filter lasts by /etc/nftables.d/crosshost-doctor.nft.
files:
  description: The files that were written, or would be.
  returned: when O(persistent) is set
  type: list
  elements: str
  sample: [/etc/nftables.d/crosshost-doctor.nft, /etc/nftables.conf]
"""

import json
import os
import stat
import subprocess
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.crosshost.doctor.plugins.module_utils import (
    _accept_apply,
    _accept_files,
    _accept_flow,
    _accept_plan,
    _commands,
    _journal,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._managers import read_managers
from ansible_collections.crosshost.doctor.plugins.module_utils._netfilter import read_filter
from ansible_collections.crosshost.doctor.plugins.module_utils._output import steady_output

ROOT = ""
MANAGERS = ("firewalld", "ufw")
FAMILIES = ["ip", "ip6", "inet", "bridge", "netdev"]
BACKENDS = ["nft", "iptables-nft", "iptables-legacy"]
ARGUMENTS: dict[str, t.Any] = {
    "direction": {"type": "str", "choices": ["in", "out", "forward"], "default": "in"},
    "services": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "protocol": {"type": "str", "choices": ["tcp", "udp", "esp"], "required": True},
            "port": {"type": "int"},
            "answers": {"type": "bool", "default": False},
        },
    },
    "peers": {"type": "list", "elements": "str", "default": []},
    "accepts": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "in_interface": {"type": "str"},
            "out_interface": {"type": "str"},
            "source": {"type": "str"},
            "destination": {"type": "str"},
        },
    },
    "chains": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "backend": {"type": "str", "choices": BACKENDS, "required": True},
            "family": {"type": "str", "choices": FAMILIES, "required": True},
            "table": {"type": "str", "required": True},
            "chain": {"type": "str", "required": True},
        },
    },
    "backends": {"type": "list", "elements": "str", "choices": BACKENDS, "default": BACKENDS},
    "spare_managed": {"type": "bool", "default": True},
    "persistent": {"type": "bool", "default": True},
    "journal": {"type": "str", "default": ""},
}


def planned(params: dict[str, t.Any]) -> _accept_plan.Plan:
    """The plan for what is loaded now."""
    direction = params["direction"]
    if direction == "forward":
        wanted = _accept_flow.forwards(params["accepts"])
    else:
        wanted = _accept_flow.services(params["services"], params["peers"], direction)
    chosen = (params["chains"], params["backends"], params["spare_managed"])
    return _accept_plan.make(read_filter(), wanted, direction, *chosen, own_addresses())


def own_addresses() -> list[str]:
    """The host's addresses, loopback's aside; none where nobody tells."""
    program = _commands.find("ip")
    if program is None:
        return []
    code, output, _error = _journal.run([program, "-json", "address", "show"])
    try:
        rows = json.loads(output) if code == 0 else []
    except ValueError:
        return []
    found = [one.get("local") for row in rows for one in row.get("addr_info") or () if one.get("scope") != "host"]
    return [address for address in found if isinstance(address, str)]


def try_files(files: list[_accept_files.FileEdit], run: _accept_apply.Run) -> None:
    """What loads a file at boot has to take the new text."""
    for file in files:
        if file.test is not None:
            code, _output, error = run(*file.test)
            if code:
                raise _accept_flow.AcceptError(f"{file.path} was not written, as it would not load: {error[:500]}")


def write(file: _accept_files.FileEdit, journal: _journal.Journal) -> None:
    path = ROOT + file.path
    journal.file(path)
    if file.link:
        _journal.link_file(path, file.after)
        return
    mode, owner = 0o644, None
    try:
        found = os.stat(path)
        mode, owner = stat.S_IMODE(found.st_mode), (found.st_uid, found.st_gid)
    except FileNotFoundError:
        pass
    # A link to the file stays a link.
    _journal.replace_file(os.path.realpath(path), file.after.encode(), mode, owner)


def settle(module: AnsibleModule) -> dict[str, t.Any]:
    """Plan, apply unless in check mode, and say what came of it."""
    params = module.params
    journal = _journal.Journal("" if module.check_mode else params["journal"])
    plan = planned(params)
    files: list[_accept_files.FileEdit] = []
    done: dict[str, t.Any] = {
        "edits": [_accept_plan.summary(edit) for edit in plan.edits],
        "managed": plan.managed,
        "managers": [
            row["name"] for row in read_managers(ROOT) if row["running"] and row["name"] in ("firewalld", "ufw")
        ],
    }
    if params["persistent"]:
        lasting = _accept_files.make(plan, _accept_files.Host(_journal.run, _commands.find, ROOT))
        files = lasting.changed
        try_files(files, _journal.run)
        done.update(persistence=lasting.places, files=[file.path for file in files])
    if module._diff:
        done["diff"] = _accept_plan.difference(plan) + [
            {
                "before_header": file.path,
                "after_header": file.path,
                "before": f"{file.before or ''}\n" if file.link and file.before else file.before or "",
                "after": f"{file.after}\n" if file.link else file.after,
            }
            for file in files
        ]
    done["changed"] = plan.changed or bool(files)
    if module.check_mode:
        return done
    if plan.changed:
        _accept_apply.apply(plan, journal, _journal.run)
        left = [_accept_plan.summary(edit) for edit in planned(params).edits if edit.changed]
        if left:
            raise _accept_flow.AcceptError(f"The rules were put in, and are not what was planned: {left}")
    for file in files:
        write(file, journal)
    return done


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        done = settle(module)
    except (_accept_flow.AcceptError, _journal.JournalError, OSError, subprocess.SubprocessError) as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**done)


if __name__ == "__main__":
    steady_output()
    main()

#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mtu_probe
short_description: Find the path MTU to many targets at once, from the host and from inside containers
version_added: 0.1.0
description:
  - Sends packets with "don't fragment" set in many sizes at once, first common ones, then inside the gap that is left,
    until the largest that is answered is known to the byte.
  - Tells a path that takes everything (V(clean)) from one that says what it takes (V(frag-needed)), from one that
    swallows large packets without a word (V(black-hole)), and from one of which nothing can be said
    (V(inconclusive)).
  - All targets of a call, from all namespaces, are searched at the same time. A call takes two timeouts at most,
    whatever the number of targets, and some milliseconds where every target answers.
  - Ignores the path MTU that the kernel has cached, and tells it.
  - Where echo is filtered, connection requests (TCP SYN) that carry data and datagrams to a closed port are used
    instead. What a SYN carries never reaches an application.
  - "Bounded: at most 512 targets, 50000 packets and 256 MiB in a call."
  - Returns what was seen. It judges no fault.
notes:
  - The way to a target is searched. The way back is another one; run the module on the other host as well. The reply to
    an echo is as large as the echo, though it may be fragmented. Where large echoes vanish, connection requests, whose
    answers are small, tell the two directions apart.
  - Packets carry C(crosshost.doctor), O(mark), the target's id and a number, separated by spaces, then zeros.
  - "Over a tunnel whose outer packets may be fragmented (VXLAN with C(df unset), as container engines make it), a
    packet that is larger than the underlay still arrives, in fragments: a V(clean) verdict inside an overlay does not
    mean that the underlay takes its packets whole. Compare with the path MTU between the hosts."
  - Connection requests leave from ports 61000 to 65535, above those that kernels give out by default. They need a raw
    socket, which only root has. Echoes use an unprivileged ping socket where there is no right to a raw one.
requirements:
  - python >= 3.9
author:
  - crosshost.doctor contributors (@crosshost)
options:
  mark:
    description:
      - Text that is part of what the packets carry, for example the id of the run.
      - Letters, digits and C(._:-), at most 64 characters.
    type: str
    default: ""
  timeout:
    description: Half of the time that the whole call may take, in seconds, from 0.1 to 30.
    type: float
    default: 1.0
  sources:
    description: Where to probe from, and what.
    type: list
    elements: dict
    default: []
    suboptions:
      container:
        description: Id or name of the container. Only for messages; nothing is looked up.
        type: str
      netns:
        description:
          - Path of the network namespace to probe from, for example C(/proc/4711/ns/net).
          - The host's own when omitted.
        type: str
      inode:
        description:
          - Inode of the namespace that O(sources[].netns) is expected to be.
          - When it is another one by now, the targets are not probed.
        type: str
      targets:
        description: The addresses to find the path MTU to.
        type: list
        elements: dict
        required: true
        suboptions:
          id:
            description: Name of the target, to recognise its result by.
            type: str
            required: true
          address:
            description: Address of the target, IPv4 or IPv6. Names are not looked up.
            type: str
            required: true
          port:
            description:
              - TCP port for connection requests, open or closed. Best is one that no packet filter drops.
              - UDP always goes to port 33434.
            type: int
            default: 7
          protocols:
            description:
              - What may be sent. V(icmp) is tried first.
              - V(tcp) and V(udp) are used where echoes are not answered, and V(tcp) where large ones are not.
            type: list
            elements: str
            choices: [icmp, tcp, udp]
            default: [icmp, tcp, udp]
          largest:
            description:
              - The largest packet to send, in bytes, with its IP header.
              - Never more than the MTU of the interface the packets leave by, which is also the default.
            type: int
          source:
            description: Address to send from.
            type: str
  library_path:
    description: Taken for the sake of uniformity with the other modules. This one needs no library.
    type: path
  run_dir:
    description:
      - Folder on the controller to write the result to, instead of returning it.
      - Used by the playbooks of this collection, and taken by the action plugin. It does not reach the host.
    type: path
  label:
    description: Names the record in O(run_dir).
    type: str
    default: before
extends_documentation_fragment:
  - crosshost.doctor.attributes
seealso:
  - module: crosshost.doctor.path_probe
  - module: crosshost.doctor.overlay_facts
"""

EXAMPLES = r"""
- name: Find the path MTU to the other hosts
  crosshost.doctor.mtu_probe:
    sources:
      - targets:
          - {id: node2, address: 192.0.2.12, port: 22}
          - {id: node3, address: 192.0.2.13, port: 22}

- name: Find it between containers
  crosshost.doctor.mtu_probe:
    sources:
      - container: web
        netns: /proc/4711/ns/net
        targets:
          - {id: database, address: 10.0.1.7, port: 5432}
  register: probed

- name: Show what does not take full-sized packets
  ansible.builtin.debug:
    msg: "{{ item.id }}: {{ item.verdict }}, {{ item.path_mtu }} of {{ item.tried }} bytes"
  loop: "{{ ansible_facts.crosshost.mtu_probe.results | rejectattr('verdict', 'equalto', 'clean') }}"
  loop_control:
    label: "{{ item.id }}"
"""

RETURN = r"""
ansible_facts:
  description: The facts of this collection.
  returned: always
  type: dict
  contains:
    crosshost:
      description: One key per module.
      returned: always
      type: dict
      contains:
        mtu_probe:
          description: What was probed and what came back. All keys are always there.
          returned: always
          type: dict
          contains:
            schema:
              description: Version of this structure.
              returned: always
              type: str
              sample: "1"
            started:
              description: When the call began, in seconds since the epoch.
              returned: always
              type: float
              sample: 1795223387.148
            finished:
              description: When it had ended.
              returned: always
              type: float
              sample: 1795223387.651
            mark:
              description: O(mark) as given.
              returned: always
              type: str
              sample: run-4711
            missing:
              description: What could not be probed, and why.
              returned: always
              type: list
              elements: dict
              sample:
                - {section: namespace, what: web, why: "No such file or directory: /proc/4711/ns/net"}
            results:
              description: One entry per target, in the order asked for. Sizes are bytes of whole IP packets.
              returned: always
              type: list
              elements: dict
              contains:
                id:
                  description: The target's id.
                  returned: always
                  type: str
                  sample: node2
                address:
                  description: Its address.
                  returned: always
                  type: str
                  sample: 192.0.2.12
                family:
                  description: V(4) or V(6).
                  returned: always
                  type: int
                  sample: 4
                verdict:
                  description:
                    - V(clean) when the largest packet that was tried was answered.
                    - V(frag-needed) when a router, a tunnel or the own kernel said that larger ones are too big.
                    - V(black-hole) when larger ones stayed unanswered again and again while smaller ones beside them
                      were answered, and nobody said why.
                    - V(inconclusive) when nothing was answered, or so much was lost that silence means nothing.
                  returned: always
                  type: str
                  sample: black-hole
                path_mtu:
                  description: The largest packet that was answered, V(null) if none was.
                  returned: always
                  type: int
                  sample: 1400
                exact:
                  description: Whether one byte more was tried and not answered, or nothing larger may leave.
                  returned: always
                  type: bool
                  sample: true
                local_mtu:
                  description: What the interface the packets leave by takes, or less where the route says so.
                  returned: always
                  type: int
                  sample: 1500
                interface:
                  description: The interface the packets leave by.
                  returned: always
                  type: str
                  sample: eth0
                tried:
                  description: The largest packet that was tried.
                  returned: always
                  type: int
                  sample: 1500
                reported:
                  description:
                    - The smallest MTU that an ICMP error announced (C(mtu), V(null) if it gave none) and who sent it
                      (C(sender), V(null) for the own kernel).
                    - V(null) when there was no such error.
                  returned: always
                  type: dict
                  sample: {mtu: 1400, sender: 192.0.2.1}
                cached:
                  description: The path MTU that the kernel had cached before, V(null) if none. It was not used.
                  returned: always
                  type: int
                  sample: 1400
                method:
                  description: What C(path_mtu) was found with, V(icmp), V(tcp) or V(udp).
                  returned: always
                  type: str
                  sample: icmp
                fragmented:
                  description:
                    - Whether an echo without "don't fragment" was answered (C(answered)) that is larger than the
                      interface takes (C(length)), so that it has to arrive in fragments.
                    - V(null) when it was not sent or no echo at all is answered.
                  returned: always
                  type: dict
                  sample: {length: 2012, answered: false}
                hop:
                  description:
                    - On a black hole, the last router that the large packets reached (C(ttl), C(address)).
                    - They vanish behind it. V(null) when no router showed, as where the path is not routed.
                  returned: always
                  type: dict
                  sample: {ttl: 1, address: 192.0.2.1}
                next_hop:
                  description: The router behind it, which only small packets reached.
                  returned: always
                  type: dict
                  sample: {ttl: 2, address: 198.51.100.1}
                sent:
                  description: Packets sent to the target.
                  returned: always
                  type: int
                  sample: 41
                received:
                  description: How many of them were answered.
                  returned: always
                  type: int
                  sample: 23
                loss:
                  description: The share of packets that stayed unanswered though their size fits, from 0 to 1.
                  returned: always
                  type: float
                  sample: 0.0
                rtt:
                  description: Round trips in seconds, as path_probe returns them.
                  returned: always
                  type: dict
                  sample: {min: 0.000087, avg: 0.000112, max: 0.000151, mdev: 0.000028}
                detail:
                  description: More about the verdict, for people.
                  returned: always
                  type: str
                  sample: a router announced 1400, which does not pass either
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.crosshost.doctor.plugins.module_utils import _pmtu
from ansible_collections.crosshost.doctor.plugins.module_utils._output import steady_output

_PROTOCOLS: dict[str, t.Any] = {
    "type": "list",
    "elements": "str",
    "choices": ["icmp", "tcp", "udp"],
    "default": ["icmp", "tcp", "udp"],
}
_TARGET: dict[str, t.Any] = {
    "id": {"type": "str", "required": True},
    "address": {"type": "str", "required": True},
    "port": {"type": "int", "default": 7},
    "protocols": _PROTOCOLS,
    "largest": {"type": "int"},
    "source": {"type": "str"},
}
_SOURCE: dict[str, t.Any] = {
    "container": {"type": "str"},
    "netns": {"type": "str"},
    "inode": {"type": "str"},
    "targets": {"type": "list", "elements": "dict", "required": True, "options": _TARGET},
}


def main() -> None:
    """Probe and return. Nothing here changes the host, so check mode is no different."""
    module = AnsibleModule(
        argument_spec={
            "mark": {"type": "str", "default": ""},
            "timeout": {"type": "float", "default": 1.0},
            "sources": {"type": "list", "elements": "dict", "default": [], "options": _SOURCE},
            "library_path": {"type": "path"},
            "run_dir": {"type": "path"},
            "label": {"type": "str", "default": "before"},
        },
        supports_check_mode=True,
    )
    options = module.params
    if not _pmtu.MIN_TIMEOUT <= options["timeout"] <= _pmtu.MAX_TIMEOUT:
        low, high = _pmtu.MIN_TIMEOUT, _pmtu.MAX_TIMEOUT
        module.fail_json(msg=f"timeout is {options['timeout']}, and must be from {low} to {high}")
    report = _pmtu.new_report(options["mark"])
    _pmtu.run(options, report)
    module.exit_json(changed=False, ansible_facts={"crosshost": {"mtu_probe": report}})


if __name__ == "__main__":
    steady_output()
    main()

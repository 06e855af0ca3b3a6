#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: path_probe
short_description: Probe many targets at once from the host and from inside containers' network namespaces
version_added: 0.1.0
description:
  - Sends ICMP echoes, TCP connection requests, UDP datagrams, DNS queries and HTTP requests, and tells for each target
    what came back and from whom.
  - All probes of a call, from all namespaces, run at the same time and share one deadline. Fifty dead peers cost one
    timeout, not fifty.
  - Nothing needs to be installed in a container. The probes' sockets are opened in its network namespace from outside.
  - "Bounded: at most 2000 probes, 20000 echoes and datagrams, and 64 MiB of HTTP bodies in a call; the call never
    takes much longer than O(timeout)."
  - Returns what was seen. It judges nothing.
notes:
  - Echoes and datagrams carry C(crosshost.doctor), O(mark), the probe's id and a number, separated by spaces.
  - Without root, echoes use unprivileged ping sockets where C(net.ipv4.ping_group_range) allows them, and namespaces
    cannot be entered. What could not be probed is in RV(ansible_facts.crosshost.path_probe.missing).
  - A host on the own link that does not answer ARP is V(unreachable) only after three seconds, which is longer than
    the default O(timeout).
  - When nothing is left but UDP that nobody has to answer, it is waited for ten times the longest round trip seen by
    then, at least a quarter of a second, instead of until the deadline.
  - Hosts limit the rate of the ICMP errors they send. That one probe got an error and its neighbour got none does not
    mean that they met different fates.
requirements:
  - python >= 3.9
author:
  - crosshost.doctor contributors (@crosshost)
options:
  mark:
    description:
      - Text that is part of what echoes, datagrams and HTTP requests carry, for example the id of the run.
      - Letters, digits and C(._:-), at most 64 characters.
    type: str
    default: ""
  count:
    description:
      - How many echoes and UDP datagrams are sent to a target, and how often a DNS question is put to a nameserver.
      - From 1 to 100.
    type: int
    default: 3
  interval:
    description: Time between two echoes or datagrams to a target, in seconds. Shortened if it does not fit O(timeout).
    type: float
    default: 0.2
  timeout:
    description: The deadline of all probes together, in seconds, from 0.1 to 60.
    type: float
    default: 2.0
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
          - Path of the network namespace to probe from, for example C(/proc/4711/ns/net) or
            C(/run/docker/netns/5f3a90c1b2d4).
          - The host's own when omitted.
        type: str
      inode:
        description:
          - Inode of the namespace that O(sources[].netns) is expected to be, as in C(namespaces[].key) of
            M(crosshost.doctor.overlay_facts).
          - When it is another one by now, the probes are not made.
        type: str
      dns:
        description:
          - The container's resolver configuration, for O(sources[].probes[].layer=dns) without a server.
          - The three lists of a C(resolv.conf), as in C(containers[].dns) of M(crosshost.doctor.overlay_facts).
        type: dict
        suboptions:
          nameservers:
            description: Addresses of nameservers. The first three are used.
            type: list
            elements: str
            default: []
          search:
            description: Search list. The first six domains are used.
            type: list
            elements: str
            default: []
          options:
            description: Options. Only C(ndots) matters here.
            type: list
            elements: str
            default: []
      resolv_conf:
        description:
          - Path of a C(resolv.conf) on the host to use instead of O(sources[].dns).
          - C(/etc/resolv.conf) when the source is the host and neither is given.
        type: str
      probes:
        description: What to probe from there.
        type: list
        elements: dict
        required: true
        suboptions:
          id:
            description: Name of the probe, to recognise its result by.
            type: str
            required: true
          layer:
            description: What to send.
            type: str
            required: true
            choices: [icmp, tcp, udp, dns, http]
          address:
            description:
              - Address of the target, IPv4 or IPv6. Names are not looked up.
              - Not used by O(sources[].probes[].layer=dns).
            type: str
          port:
            description: Port of the target. The default is 53 for DNS and 80 for HTTP.
            type: int
          payload:
            description:
              - What UDP datagrams carry, V(mark) if nothing is given.
              - V(mark) is just the mark. V(tunnel) is for VXLAN ports, there the mark follows a VXLAN header that says
                it has no VNI, so that no receiver can take it for a frame of an overlay network.
            type: str
          name:
            description: The name to look up with DNS; for HTTP what the header C(Host) says, by default the address.
            type: str
          server:
            description:
              - The nameserver to ask, and the name is asked for as it is.
              - When omitted, the nameservers and the search list of the source are used as a resolver uses them.
            type: str
          transport:
            description:
              - How to ask a nameserver, V(udp) or V(tcp), by UDP if nothing is given.
              - What is truncated by UDP is asked for again by TCP.
            type: str
          qtype:
            description: The type of address to look up. When omitted, V(A), and V(AAAA) if there is none.
            type: str
          source:
            description: Address to send from.
            type: str
          size:
            description:
              - How large an echo is, in bytes with its IP header. As small as it can be when omitted.
              - Such an echo is repeated, up to O(count) times, only until one is answered.
            type: int
          df:
            description:
              - Whether the echo must not be fragmented. The path MTU that the kernel has cached is not looked at.
              - That it is too big is then an answer, V(unreachable) with the MTU in C(icmp_error).
            type: bool
          delay:
            description:
              - How long after the others this probe begins, in seconds, at most 2.
              - Probes that begin apart can be told apart by what the kernel says at the moment one is lost.
            type: float
          path:
            description: What to request with HTTP, V(/) if nothing is given.
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
    description: Names the record in O(run_dir), for example V(first) or V(again).
    type: str
    default: before
extends_documentation_fragment:
  - crosshost.doctor.attributes
seealso:
  - module: crosshost.doctor.overlay_facts
"""

EXAMPLES = r"""
- name: Probe two hosts of the underlay
  crosshost.doctor.path_probe:
    mark: "{{ ansible_date_time.epoch | default('0') }}"
    sources:
      - probes:
          - {id: node2 echo, layer: icmp, address: 192.0.2.12}
          - {id: node2 gossip, layer: tcp, address: 192.0.2.12, port: 7946}
          - {id: node2 tunnel, layer: udp, address: 192.0.2.12, port: 4789, payload: tunnel}
          - {id: node3 echo, layer: icmp, address: 192.0.2.13}

- name: Probe from inside a container
  crosshost.doctor.path_probe:
    sources:
      - container: web
        netns: /proc/4711/ns/net
        dns: {nameservers: [127.0.0.11], options: ["ndots:0"]}
        probes:
          - {id: database, layer: tcp, address: 10.0.1.7, port: 5432}
          - {id: page, layer: http, address: 10.0.1.9, port: 8080, path: /health}
          - {id: name, layer: dns, name: database}
  register: probed

- name: Show what did not answer
  ansible.builtin.debug:
    msg: "{{ item.id }}: {{ item.status }} {{ item.detail or '' }}"
  loop: "{{ ansible_facts.crosshost.path_probe.results | rejectattr('status', 'in', ['ok', 'open', 'answered']) }}"
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
        path_probe:
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
              description: When the last probe had ended.
              returned: always
              type: float
              sample: 1795223389.151
            deadline:
              description: When the last probe had to end.
              returned: always
              type: float
              sample: 1795223389.148
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
              description: One entry per probe, in the order asked for.
              returned: always
              type: list
              elements: dict
              contains:
                id:
                  description: The probe's id.
                  returned: always
                  type: str
                  sample: node2 echo
                layer:
                  description: What was sent.
                  returned: always
                  type: str
                  sample: icmp
                address:
                  description: The target, V(null) for DNS.
                  returned: always
                  type: str
                  sample: 192.0.2.12
                port:
                  description: The target's port, V(null) for ICMP.
                  returned: always
                  type: int
                  sample: 7946
                status:
                  description:
                    - "ICMP: V(ok) (at least one reply), V(timeout), V(unreachable), V(error)."
                    - "TCP: V(open), V(refused) (the target answered with a reset, so the path is good), V(timeout),
                      V(unreachable), V(error)."
                    - "UDP: V(answered), V(refused) (port unreachable from the target itself), V(silent),
                      V(unreachable), V(error)."
                    - "DNS: V(ok), V(nxdomain), V(nodata), V(servfail), V(refused) (by the server, or nothing listens:
                      C(rcode) tells), V(timeout), V(unreachable), V(error)."
                    - "HTTP: V(ok) (the whole body came), V(incomplete) (it did not), V(timeout), V(refused),
                      V(unreachable), V(error) (not HTTP)."
                    - V(unreachable) means that the network or a packet filter said so, in C(icmp_error), or the own
                      kernel, in C(errno).
                    - V(error) with C(sent=0) means that nothing was probed; C(detail) says why.
                  returned: always
                  type: str
                  sample: ok
                sent:
                  description:
                    - Echoes, datagrams or DNS questions sent; for TCP and HTTP the connection requests (SYN), with
                      those that the kernel repeated. A packet that a rule stopped in an output hook is among them.
                    - A question or second connection that was made only a moment before the answer to an earlier one
                      came is not.
                  returned: always
                  type: int
                  sample: 3
                received:
                  description:
                    - How many of them were answered, a reset or port unreachable from the target included.
                    - Fewer than C(sent) but more than 0 is partial loss, except for UDP, where nobody has to answer
                      and hosts limit the rate of port unreachables.
                  returned: always
                  type: int
                  sample: 3
                duplicates:
                  description: Further answers to what had been answered.
                  returned: always
                  type: int
                  sample: 0
                rtt:
                  description:
                    - Round trips in seconds (C(min), C(avg), C(max), C(mdev)), V(null) if there was no answer.
                    - For TCP and HTTP of the handshake, for DNS from question to answer.
                  returned: always
                  type: dict
                  sample: {min: 0.000087, avg: 0.000112, max: 0.000151, mdev: 0.000028}
                ttl:
                  description: TTL or hop limit of the last answer, where known.
                  returned: always
                  type: int
                  sample: 63
                seconds:
                  description: How long the probe took.
                  returned: always
                  type: float
                  sample: 0.402113
                remote:
                  description: The address that answered.
                  returned: always
                  type: str
                  sample: 192.0.2.12
                local:
                  description: The own address of the probe, where known.
                  returned: always
                  type: str
                  sample: 192.0.2.11
                local_port:
                  description: The own port of the probe, where it has one.
                  returned: always
                  type: int
                  sample: 44782
                icmp_error:
                  description:
                    - The last ICMP error about the probe (C(type), C(code), C(sender), C(name)), or V(null).
                    - With C(mtu) when it says that an echo with O(sources[].probes[].df) is too big.
                  returned: always
                  type: dict
                  sample: {type: 3, code: 13, sender: 192.0.2.1, name: admin-prohibited}
                errno:
                  description: Name of the error the kernel gave.
                  returned: always
                  type: str
                  sample: EHOSTUNREACH
                detail:
                  description: More about the status, for people.
                  returned: always
                  type: str
                  sample: "no more arrived after 0 of 65536 bytes of body"
                bytes:
                  description: Bytes of HTTP body, or of UDP answers, V(null) if it did not come that far.
                  returned: always
                  type: int
                  sample: 65536
                http_status:
                  description: The status code of the HTTP response.
                  returned: always
                  type: int
                  sample: 200
                stage:
                  description: How far HTTP came, one of V(connect), V(request), V(header), V(body), V(done).
                  returned: always
                  type: str
                  sample: done
                retransmits:
                  description: How often the kernel repeated a SYN.
                  returned: always
                  type: int
                  sample: 0
                mss:
                  description: The maximum segment size agreed on, in bytes.
                  returned: always
                  type: int
                  sample: 1398
                answers:
                  description: Addresses found by DNS.
                  returned: always
                  type: list
                  elements: str
                  sample: [10.0.1.7]
                rcode:
                  description: The last response code of DNS.
                  returned: always
                  type: str
                  sample: NOERROR
                name:
                  description: The name asked for; after the search list was used, the one that C(status) is about.
                  returned: always
                  type: str
                  sample: database
                server:
                  description: The nameserver that answered last, else the first one asked.
                  returned: always
                  type: str
                  sample: 127.0.0.11
                transport:
                  description: How DNS was answered, or asked.
                  returned: always
                  type: str
                  sample: udp
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.crosshost.doctor.plugins.module_utils import _probe
from ansible_collections.crosshost.doctor.plugins.module_utils._output import steady_output

_STRINGS: dict[str, t.Any] = {"type": "list", "elements": "str", "default": []}
_PROBE: dict[str, t.Any] = {
    "id": {"type": "str", "required": True},
    "layer": {"type": "str", "required": True, "choices": ["icmp", "tcp", "udp", "dns", "http"]},
    "address": {"type": "str"},
    "port": {"type": "int"},
    "payload": {"type": "str"},
    "name": {"type": "str"},
    "server": {"type": "str"},
    "transport": {"type": "str"},
    "qtype": {"type": "str"},
    "source": {"type": "str"},
    "size": {"type": "int"},
    "df": {"type": "bool"},
    "delay": {"type": "float"},
    "path": {"type": "str"},
}
_DNS: dict[str, t.Any] = {"nameservers": _STRINGS, "search": _STRINGS, "options": _STRINGS}
_SOURCE: dict[str, t.Any] = {
    "container": {"type": "str"},
    "netns": {"type": "str"},
    "inode": {"type": "str"},
    "dns": {"type": "dict", "options": _DNS},
    "resolv_conf": {"type": "str"},
    "probes": {"type": "list", "elements": "dict", "required": True, "options": _PROBE},
}


def main() -> None:
    """Probe and return. Nothing here changes the host, so check mode is no different."""
    module = AnsibleModule(
        argument_spec={
            "mark": {"type": "str", "default": ""},
            "count": {"type": "int", "default": 3},
            "interval": {"type": "float", "default": 0.2},
            "timeout": {"type": "float", "default": 2.0},
            "sources": {"type": "list", "elements": "dict", "default": [], "options": _SOURCE},
            "library_path": {"type": "path"},
            "run_dir": {"type": "path"},
            "label": {"type": "str", "default": "before"},
        },
        supports_check_mode=True,
    )
    options = module.params
    for key, low, high in (
        ("count", 1, _probe.MAX_COUNT),
        ("timeout", _probe.MIN_TIMEOUT, _probe.MAX_TIMEOUT),
        ("interval", 0, _probe.MAX_TIMEOUT),
    ):
        if not low <= options[key] <= high:
            module.fail_json(msg=f"{key} is {options[key]}, and must be from {low} to {high}")
    report = _probe.new_report(options["mark"])
    _probe.run(options, report)
    module.exit_json(changed=False, ansible_facts={"crosshost": {"path_probe": report}})


if __name__ == "__main__":
    steady_output()
    main()

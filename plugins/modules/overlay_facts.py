#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: overlay_facts
short_description: Read everything that decides about traffic between containers on different hosts
version_added: 0.1.0
description:
  - In one call reads the engine, its Swarm, networks and containers, and of B(every) network namespace of the host
    (its own, containers, overlays, C(ingress_sbox), load balancers) links, addresses, routes, rules, neighbours,
    forwarding databases, sysctls, sockets, the packet filter and counters.
  - Returns what was read, raw and typed. It judges nothing.
  - "Looking creates nothing: no namespace, mount, table, module or file comes into being."
  - No secret is returned. Join tokens, unlock keys, certificates, environment, commands and labels are not read, or
    left out.
  - Whatever cannot be read, without root, without a library, with the engine down, or because a namespace vanished,
    is listed in RV(ansible_facts.crosshost.overlay_facts.missing), and the rest is returned.
requirements:
  - python >= 3.9
  - pyroute2 >= 0.9.2 for the section V(netns)
  - docker >= 5.0.0 (Python SDK) for the sections V(engine), V(swarm), V(networks) and V(containers)
author:
  - crosshost.doctor contributors (@crosshost)
options:
  sections:
    description:
      - What to read. All sections when empty.
      - V(counters) alone is the cheap second reading, of the counters of every namespace.
      - The host and the list of all namespaces are always part of the answer.
    type: list
    elements: str
    choices: [host, netns, engine, swarm, networks, containers, filter, counters, log]
    default: []
  networks:
    description:
      - Names, ids or beginnings of ids (at least ten characters) of networks to be restricted to.
      - Other networks, containers that are on none of them, and the namespaces of both are left out, as far as the
        sections V(networks) and V(containers) are read. Other namespaces are always read.
    type: list
    elements: str
    default: []
  library_path:
    description:
      - Directory with the Python libraries that the controller brought along.
      - When it contains all that is needed, everything is loaded from there, else everything from the host. The two
        are never mixed.
    type: path
  log_bytes:
    description: How much of the end of the engine's log is read, in bytes.
    type: int
    default: 1048576
  run_dir:
    description:
      - Folder on the controller to write the facts to, instead of returning them.
      - Used by the playbooks of this collection, and taken by the action plugin. It does not reach the host.
    type: path
  label:
    description: Names the record in O(run_dir), for example V(before) or V(after).
    type: str
    default: before
extends_documentation_fragment:
  - crosshost.doctor.attributes
notes:
  - Engines up to 20.10 write the line C(Inconsistent driver and libnetwork state for endpoint) into their own log when
    a network is inspected in detail. It means nothing, and is not counted among the errors of the log.
seealso:
  - module: crosshost.doctor.path_probe
"""

EXAMPLES = r"""
- name: Read everything
  crosshost.doctor.overlay_facts:

- name: Show forwarding entries per VTEP
  ansible.builtin.debug:
    msg: "{{ item.path }}: {{ item.fdb | selectattr('dst') | map(attribute='dst') | list }}"
  loop: "{{ ansible_facts.crosshost.overlay_facts.namespaces | selectattr('kind', 'eq', 'overlay') }}"
  loop_control:
    label: "{{ item.key }}"

- name: Read the counters a second time
  crosshost.doctor.overlay_facts:
    sections: [counters]

- name: Read one network, with libraries that the controller brought
  crosshost.doctor.overlay_facts:
    networks: [app]
    library_path: /run/crosshost-doctor/libraries
"""

RETURN = r"""
ansible_facts:
  description: Facts to add to C(ansible_facts).
  returned: always
  type: dict
  contains:
    crosshost:
      description: The facts of this collection.
      returned: always
      type: dict
      contains:
        overlay_facts:
          description:
            - What was read. Every key is always present, and empty where its section was not read.
            - Times are seconds since the epoch, sizes are bytes.
          returned: always
          type: dict
          contains:
            schema:
              description: Version of this structure.
              returned: always
              type: str
              sample: "1"
            sections:
              description: The sections that were read.
              returned: always
              type: list
              elements: str
              sample: [host, counters]
            started:
              description: When the reading began, in seconds since the epoch.
              returned: always
              type: float
              sample: 1795223789.858
            finished:
              description: When the reading ended, in seconds since the epoch.
              returned: always
              type: float
              sample: 1795223790.723
            missing:
              description: What could not be read (C(what)), in which C(section), and C(why).
              returned: always
              type: list
              elements: dict
              sample: [{section: engine, what: engine, why: "/run/docker.sock: Connection refused"}]
            host:
              description:
                - The host. C(root) is whether the module ran as root, C(uptime) is in seconds, C(ipvs) whether the
                  kernel has IPVS at hand, C(br_netfilter) whether bridged frames can pass the IP packet filter.
                - C(libraries) holds the versions loaded and their C(origin), V(host) or V(bundle).
                - C(resolver) is the host's own resolv.conf. C(managers) are the programs that may rewrite the network
                  behind an engine's back (V(systemd-networkd), V(NetworkManager), V(firewalld), V(ufw),
                  V(cloud-init)), C(cni) the networks of container runtimes that read C(/etc/cni/net.d) or flannel's
                  file, C(modules) V(loaded), V(builtin), V(available) or V(absent), null where it cannot be told.
                  All of these are read in the section V(host) only.
                - C(persisted_sysctls) are those of the host's sysctls that a file sets, with its C(value) and the
                  C(file) that wins when the host boots, at most a thousand, in the section V(host) only. See
                  M(crosshost.doctor.sysctl_forwarding) for the rules.
              returned: always
              type: dict
              sample:
                hostname: node1
                kernel: 6.1.0-31-amd64
                machine: x86_64
                python: 3.11.2
                distribution: {id: debian, version: "12"}
                machine_id: 6ced1a9d5fdeec08f32a1497bd4e2ea9
                boot_id: 2f9bf497-306a-4c01-8d4e-ef891857a479
                uptime: 2796.02
                root: true
                ipvs: true
                br_netfilter: true
                libraries: {pyroute2: 0.9.7, docker: 7.1.0, origin: bundle}
                resolver: {nameservers: [192.0.2.1], search: [example.test], options: ["ndots:1"]}
                managers:
                  - name: systemd-networkd
                    running: true
                    config: {manage_foreign_routes: true, manage_foreign_rules: true, foreign_log: 0}
                cni: [{path: /run/flannel/subnet.env, name: null, type: flannel, subnets: [10.244.1.0/24]}]
                modules: {vxlan: loaded, br_netfilter: available, ip_vs: absent, xt_u32: null}
                persisted_sysctls: {net.ipv4.ip_forward: {value: "0", file: /etc/sysctl.d/90-hardening.conf}}
            engine:
              description:
                - The engine. C(state) is V(running), V(down), V(silent) (it accepts connections and answers nothing),
                  V(absent) or V(unknown) (its socket may not be opened, or what it answers is no use), C(error) why,
                  with the last error of the log.
                - C(daemon_config) holds the keys of daemon.json that shape networking, C(daemon_flags) the same keys as
                  dockerd's command line sets them, C(unit) what systemd says.
                - C(kv) is the key-value store of C(cluster-store), null without one.
                - C(firewall_backend) has C(driver) and C(info) on engines that tell.
              returned: always
              type: dict
              sample:
                state: running
                error: null
                id: "KXBH:AFMG:OOH3:6OF6:3EMQ:SXCQ:VQZ2:32H2:VKI2:WBFF:W5VZ:IY3A"
                name: node1
                version: 20.10.24
                api_version: "1.41"
                storage_driver: overlay2
                live_restore: false
                security_options: ["name=seccomp,profile=default"]
                firewall_backend: null
                data_root: /var/lib/docker
                daemon_config: {mtu: 1450}
                daemon_flags: {hosts: ["fd://"]}
                kv: null
                pid: 812
                unit: {ActiveState: active, SubState: running, Result: success, NRestarts: "0"}
            swarm:
              description:
                - The Swarm as this node sees it. C(state) is V(active), V(inactive), V(pending), V(locked) or V(error).
                - C(data_path_addr) is set when the data path has an address of its own. C(data_path_port) may be
                  unknown on workers.
                - C(certificate) is the validity of the node's certificate (C(not_before), C(not_after), C(path)).
                  C(managers_view) is how this node, when it is a manager, sees all managers.
                - Of an engine that does not answer, C(state) is null, and C(node_addr) and C(managers) are what it
                  had written down.
                - C(nodes) (C(id), C(hostname), C(role), C(availability), C(state), C(message), C(addr),
                  C(engine_version), C(os), C(manager)), C(services) (C(id), C(name), C(endpoint_mode), C(vips),
                  C(ports)) and C(tasks) (C(id), C(service_id), C(node_id), C(container_id), C(state), C(desired),
                  C(error), C(addresses)) are told by managers only. Of tasks that ended, the newest that failed
                  of each service on each node is kept.
              returned: always
              type: dict
              sample:
                state: active
                error: null
                node_id: igt3bct6twlph0chekyiz1qmr
                node_addr: 192.0.2.11
                role: manager
                control_available: true
                cluster_id: ofe0gxpwpzzy3dgdhtcpgiu8u
                data_path_addr: null
                data_path_port: 4789
                managers: [{node_id: igt3bct6twlph0chekyiz1qmr, addr: "192.0.2.11:2377"}]
                managers_view:
                  - node_id: igt3bct6twlph0chekyiz1qmr
                    addr: "192.0.2.11:2377"
                    leader: true
                    reachability: reachable
                certificate:
                  not_before: 1795221540
                  not_after: 1803001140
                  path: /var/lib/docker/swarm/certificates/swarm-node.crt
                nodes: []
                services: []
                tasks: []
            networks:
              description:
                - The networks of the engine. C(peers), C(local) (endpoints on this node, load balancer included) and
                  C(services) with the VTEP of each endpoint are known for Swarm networks this node takes part in.
              returned: always
              type: list
              elements: dict
              sample:
                - id: 7h6828w6y7jkhsry9ns84h753
                  name: app
                  driver: overlay
                  scope: swarm
                  ingress: false
                  internal: false
                  attachable: true
                  ipv6: false
                  options: {com.docker.network.driver.overlay.vxlanid_list: "4097"}
                  subnets: [{subnet: 10.0.1.0/24, gateway: 10.0.1.1}]
                  vnis: [4097]
                  peers: [{name: 39c27df89bc4, ip: 192.0.2.13}]
                  local: [{owner: lb-app, endpoint_id: 5a5c55c7, ip: 10.0.1.7, prefix: 24, mac: "02:42:0a:00:01:07"}]
                  services:
                    - name: ""
                      vip: null
                      ports: []
                      tasks: [{name: web, endpoint_id: d1780ab5, ip: 10.0.1.4, vtep: 192.0.2.13}]
            containers:
              description:
                - The containers that have a process. C(netns) is the key of their namespace, C(dns) the resolver
                  configuration as the container sees it, C(service) and C(task) those of Swarm.
                - C(dns.upstreams) are the name servers the engine's own resolver asks, empty where it is not used;
                  engines before 26.0 do not write them down, and those of a container without own ones are what the
                  daemon or the host has now. C(dns.mounted) tells that the container's resolv.conf is a file of the
                  user's.
              returned: always
              type: list
              elements: dict
              sample:
                - id: 27de117cd2be09306944b2bd3a8460f025159e5f0de18e9d3a17d9a8563753b6
                  name: web
                  image: "web:1"
                  state: running
                  pid: 318
                  netns: "4026535115"
                  network_mode: app
                  service: null
                  task: null
                  ports: [{protocol: tcp, port: 80, host_ip: 0.0.0.0, host_port: 8080}]
                  dns:
                    nameservers: [127.0.0.11]
                    search: []
                    options: ["ndots:0"]
                    upstreams: [192.0.2.1]
                    mounted: false
                  endpoints:
                    - network_id: 7h6828w6y7jkhsry9ns84h753
                      network: app
                      endpoint_id: 3217421902fc5f7e
                      ip: 10.0.1.6
                      prefix: 24
                      mac: "02:42:0a:00:01:06"
                      gateway: null
                      ip6: null
                      aliases: [web]
            namespaces:
              description: Every network namespace of the host, its own first.
              returned: always
              type: list
              elements: dict
              contains:
                key:
                  description: Inode of the namespace; for a file that should be a namespace and is none, its path.
                  returned: always
                  type: str
                  sample: "4026534863"
                kind:
                  description: V(host), V(container), V(overlay), V(ingress), V(lb) (load balancer) or V(other).
                  returned: always
                  type: str
                  sample: overlay
                path:
                  description: Where it can be opened.
                  returned: always
                  type: str
                  sample: /run/docker/netns/1-7h6828w6y7
                container:
                  description: Id of the container, or null.
                  returned: always
                  type: str
                  sample: null
                network:
                  description: Id of the network of an overlay or load balancer; null where networks were not read.
                  returned: always
                  type: str
                  sample: 7h6828w6y7jkhsry9ns84h753
                error:
                  description: Why it could not be read, or null.
                  returned: always
                  type: str
                  sample: null
                links:
                  description:
                    - Links. The peer of a veth is the link whose C(index) and C(link) are swapped, in the namespace
                      that is C(link_netnsid) to this one.
                    - C(driver) is that of a network card, and of a veth, in the host's namespace.
                    - Of a namespace of kind V(other) with nothing but a loopback, only links and addresses are read.
                  returned: always
                  type: list
                  elements: dict
                  sample:
                    - index: 9
                      name: vxlan0
                      kind: vxlan
                      up: true
                      lower_up: true
                      operstate: UNKNOWN
                      mtu: 1450
                      mac: "92:fa:86:ba:f1:91"
                      master: 2
                      link: null
                      link_netnsid: 0
                      vxlan:
                        vni: 4097
                        port: 4789
                        local: null
                        group: null
                        learning: true
                        proxy: true
                        l2miss: true
                        l3miss: true
                        ttl: 0
                        df: unset
                        external: false
                        link: null
                      bridge_port: {state: forwarding, hairpin: false, learning: true, isolated: false}
                      xdp: null
                      driver: null
                addresses:
                  description: Addresses, C(index) being that of the link.
                  returned: always
                  type: list
                  elements: dict
                  sample: [{index: 2, family: 4, ip: 10.0.1.1, prefix: 24, scope: global, secondary: false}]
                routes:
                  description:
                    - Routes of all tables, one row for each next hop. What the kernel itself put into table local
                      (255) follows from the addresses and is left out. C(mtu) is that of the route, or null.
                  returned: always
                  type: list
                  elements: dict
                  sample:
                    - family: 4
                      table: 254
                      dst: default
                      gateway: 192.0.2.1
                      oif: 4
                      src: null
                      metric: 0
                      type: unicast
                      protocol: boot
                      scope: global
                      mtu: null
                      flags: []
                rules:
                  description: Policy routing rules.
                  returned: always
                  type: list
                  elements: dict
                  sample:
                    - family: 4
                      priority: 5270
                      table: 52
                      src: null
                      dst: null
                      fwmark: null
                      fwmask: null
                      iif: null
                      oif: null
                      action: lookup
                      goto: null
                      invert: false
                      suppress_prefix: null
                      uid_range: null
                      ip_proto: null
                      sport: null
                      dport: null
                neighbours:
                  description: Neighbours, grouped by link, state and flags; each entry is IP and MAC (null unresolved).
                  returned: always
                  type: list
                  elements: dict
                  sample: [{index: 9, state: permanent, flags: [], entries: [[10.0.1.2, "02:42:0a:00:01:02"]]}]
                fdb:
                  description: Forwarding entries of bridges, their ports and tunnels, grouped by all but the MAC.
                  returned: always
                  type: list
                  elements: dict
                  sample:
                    - index: 9
                      master: null
                      dst: 192.0.2.12
                      port: null
                      vni: null
                      via: null
                      vlan: null
                      state: permanent
                      flags: [self]
                      macs: ["02:42:0a:00:01:02"]
                sysctls:
                  description:
                    - Sysctls of forwarding and filtering, by name. A dot in an interface name is a slash, as in
                      sysctl(8).
                    - A sysctl that the kernel does not have is absent.
                  returned: always
                  type: dict
                  sample: {net.ipv4.ip_forward: 1, net.ipv4.conf.eth0.rp_filter: 2}
                sockets:
                  description: Listening TCP and bound, unconnected UDP sockets; the kernel's own (VXLAN) included.
                  returned: always
                  type: list
                  elements: dict
                  sample: [{protocol: udp, family: 4, ip: 0.0.0.0, port: 4789}]
                tc:
                  description:
                    - Traffic control that can drop (filters, tcx programs, shaping queues). C(id) is a BPF program's.
                  returned: always
                  type: list
                  elements: dict
                  sample: [{index: 4, attach: ingress, kind: bpf, id: 77}]
                bpf_links:
                  description:
                    - BPF links of the namespace. The kernel does not tell the namespace of netfilter programs, so all
                      of the machine are listed with the host's.
                  returned: always
                  type: list
                  elements: dict
                  sample:
                    - type: netfilter
                      id: 3
                      program: 77
                      attach: input
                      family: ip
                      priority: -100
                      index: null
                      netns: null
                paths:
                  description:
                    - Of the host's namespace, the kernel's answer where a packet to each VTEP and node this host knows
                      would go; C(oif) is the index of the link, C(table) that of the route.
                    - C(error) is the name of the error when there is no way (V(ENETUNREACH)), and null otherwise.
                  returned: always
                  type: list
                  elements: dict
                  sample:
                    - dst: 192.0.2.12
                      oif: 4
                      src: 192.0.2.11
                      gateway: null
                      table: 254
                      type: unicast
                      error: null
                return_paths:
                  description:
                    - Of the host's namespace, the kernel's answer to a packet from each of these that is received for
                      this host's underlay address on the link C(iif) that holds it. C(error) is V(EINVAL) or V(EXDEV)
                      where the source filter refuses it, V(EHOSTUNREACH) where it would have to be forwarded and may
                      not, and null where it arrives.
                    - Not asked where the kernel logs refused packets (log_martians), as it would log the question.
                  returned: always
                  type: list
                  elements: dict
                  sample: [{src: 192.0.2.12, iif: 4, error: null, oif: 1}]
                conntrack:
                  description:
                    - Connection tracking entries of UDP that concern the port of a tunnel or are address-translated
                      (the reply is not the mirror of the original), up to 500. C(timeout) is what is left, in seconds.
                    - Read of the kinds V(host), V(ingress) and V(lb), where no kernel module has to be loaded for it.
                  returned: always
                  type: list
                  elements: dict
                  sample:
                    - protocol: udp
                      src: 192.0.2.11
                      dst: 192.0.2.12
                      sport: 48190
                      dport: 4789
                      reply_src: 192.0.2.12
                      reply_dst: 192.0.2.11
                      reply_sport: 4789
                      reply_dport: 48190
                      status: [confirmed]
                      timeout: 24
                filter:
                  description:
                    - The packet filter of all families. C(chains) with their rules decoded, C(sets) with their
                      elements, C(legacy_tables) loaded for the older backend, C(notes) on what was cut off.
                  returned: always
                  type: dict
                  sample: {error: null, legacy_tables: {ip: [], ip6: []}, chains: [], sets: [], notes: []}
                counters:
                  description:
                    - C(links) by interface index (packets and bytes), C(snmp), C(netstat) and C(xfrm) by name,
                      C(conntrack), and C(filter) as [packets, bytes] by the reference of the rule or chain.
                    - Outside of the host's own namespace, counters of C(snmp), C(netstat) and C(xfrm) that are 0 are
                      left out. C(neighbours) and C(softnet), which belong to the whole machine, are the host's.
                  returned: always
                  type: dict
                  sample:
                    links: {"4": {rx_packets: 7764, tx_packets: 5145, rx_dropped: 0, tx_dropped: 0, rx_otherhost: 0}}
                    snmp: {Ip.InAddrErrors: 0, Udp.InCsumErrors: 0}
                    netstat: {TcpExt.IPReversePathFilter: 0}
                    xfrm: {XfrmOutNoStates: 0}
                    conntrack: {count: 12, max: 262144, drop: 0, early_drop: 0, insert_failed: 0, invalid: 0}
                    neighbours: {entries: 7, table_fulls: 0}
                    softnet: {processed: 91823, dropped: 0, time_squeeze: 3}
                    filter: {"nft:ip:filter:INPUT:12": [4, 240]}
            log:
              description:
                - Known messages in the end of the engine's log (C(patterns)) and in the kernel's ring buffer
                  (C(kernel)), each with C(count), the time of the C(last) in seconds since the epoch, and a C(sample)
                  without secrets.
                - C(source) is V(journal) or V(file); C(bytes) were read, C(truncated) tells that there is more.
              returned: always
              type: dict
              sample:
                source: file
                path: /var/log/docker.log
                bytes: 28156
                truncated: false
                patterns: {ipvs-missing: {count: 1, last: 1795223387.148, sample: "Could not get ipvs family"}}
                kernel: {}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.crosshost.doctor.plugins.module_utils._facts import SECTIONS, gather
from ansible_collections.crosshost.doctor.plugins.module_utils._output import steady_output


def main() -> None:
    """Read and return. Nothing here can change the host, so check mode is no different."""
    module = AnsibleModule(
        argument_spec={
            "sections": {"type": "list", "elements": "str", "choices": list(SECTIONS), "default": []},
            "networks": {"type": "list", "elements": "str", "default": []},
            "library_path": {"type": "path"},
            "log_bytes": {"type": "int", "default": 1048576},
            "run_dir": {"type": "path"},
            "label": {"type": "str", "default": "before"},
        },
        supports_check_mode=True,
    )
    options = module.params
    if options["log_bytes"] < 0:
        module.fail_json(msg=f"log_bytes is {options['log_bytes']}, and must not be negative")
    facts = gather(options["sections"], options["networks"], options["library_path"], options["log_bytes"])
    module.exit_json(changed=False, ansible_facts={"crosshost": {"overlay_facts": facts}})


if __name__ == "__main__":
    steady_output()
    main()

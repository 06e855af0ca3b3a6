#!/usr/bin/python
# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vxlan_capture
short_description: Capture at many places of a host at once, and tell what is wrong with the frames
version_added: 0.1.0
description:
  - Listens on any number of interfaces in any network namespaces of a host, in one process, for a bounded time, and
    returns flows, anomalies and sightings of marked probes rather than packets.
  - Reads a capture file of the host instead when O(src) is given.
  - Looks into VXLAN as RFC 7348 defines it, and decodes what it carries.
  - Nothing needs to be installed on the host or in a container. The sockets are opened in a container's network
    namespace from outside.
  - The kernel filters before it copies. With O(filter=probes), what other containers send is not taken up at all.
  - "Bounded in time, packets and bytes, also when the controller dies: a capture in the background ends by itself."
  - Frames that the kernel had no room for are counted for each tap. A capture that lost frames says so.
  - Returns what was seen. It judges no more than whether a frame is what the standards say.
notes:
  - Needs root (C(CAP_NET_RAW), and C(CAP_SYS_ADMIN) for other namespaces). What could not be captured is in
    RV(ansible_facts.crosshost.vxlan_capture.missing).
  - No interface is made promiscuous. A tap on a bridge itself sees nothing of what its ports exchange; place it on the
    ports.
  - A packet that an XDP program drops does not reach any tap.
  - On its way out a frame has no final checksum yet, and may stand for several packets of the wire, if the network card
    is to do that work. Length and checksum of such a frame are not judged.
requirements:
  - python >= 3.9
author:
  - crosshost.doctor contributors (@crosshost)
options:
  state:
    description:
      - V(captured) captures for O(seconds), or reads O(src).
      - V(started) leaves a process behind that captures in the background, and returns as soon as it listens.
      - V(collected) asks that process to end, waits for it, and returns what it saw.
    type: str
    choices: [captured, started, collected]
    default: captured
  taps:
    description: Where to listen. At most 256 places.
    type: list
    elements: dict
    default: []
    suboptions:
      id:
        description: Name of the tap, to recognise what it saw by. By default namespace and interface.
        type: str
      netns:
        description: Path of the network namespace, for example C(/proc/4711/ns/net). The host's own when omitted.
        type: str
      inode:
        description:
          - Inode of the namespace that O(taps[].netns) is expected to be, as in C(namespaces[].key) of
            M(crosshost.doctor.overlay_facts).
          - When it is another one by now, the tap is not opened.
        type: str
      interface:
        description: Name of the interface. Needed unless O(taps[].ifindex) is given.
        type: str
      ifindex:
        description: Index of the interface. When both are given they have to be of one interface.
        type: int
  ports:
    description: UDP ports that carry VXLAN. Frames from or to them are looked into.
    type: list
    elements: int
    default: []
  mark:
    description:
      - The mark of the probes to recognise, as given to M(crosshost.doctor.path_probe).
      - Only with a mark are there sightings.
    type: str
    default: ""
  filter:
    description:
      - V(probes) takes up our own probes and what tells about them, namely ICMP echoes and UDP datagrams that carry
        O(mark), TCP segments with SYN or RST, ICMP errors, ARP and neighbour discovery, tunnel frames without a valid
        VNI, and, if O(peers) are an end of them, later fragments and ESP. All this also inside of tunnels.
      - V(all) takes up everything that O(match) does.
      - The default is V(probes) with a O(mark), else V(all).
    type: str
    choices: [all, probes]
  peers:
    description:
      - Addresses of hosts and containers whose fragments and ESP are taken up with O(filter=probes). Everybody's if
        none is given, or more than 120, or more than 20 of IPv6.
      - Also those that O(nftrace) traces outside of tunnels.
    type: list
    elements: str
    default: []
  tcp_ports:
    description:
      - TCP ports whose connection requests, answers and resets are taken up with O(filter=probes). All if none is
        given, or more than 100.
      - The ports that are probed, before and after any translation, keep other connections of a busy host away.
    type: list
    elements: int
    default: []
  match:
    description:
      - What to take up with O(filter=all). All conditions have to hold, for a frame or for the one it carries in a
        tunnel.
    type: dict
    suboptions:
      protocol:
        description: The protocol. V(icmp) is that of IPv6, too.
        type: str
        choices: [arp, esp, gre, icmp, ip, ip6, sctp, tcp, udp]
      hosts:
        description: Addresses or networks. Each has to be that of an end; two at most.
        type: list
        elements: str
        default: []
      ports:
        description: Ports. Each has to be that of an end; two at most. Later fragments have none and are taken up.
        type: list
        elements: int
        default: []
  vteps:
    description: Addresses of all known VTEPs. Frames of others are reported. Nothing is when empty.
    type: list
    elements: str
    default: []
  vnis:
    description: VNIs that this host knows. Others are reported. Nothing is when empty.
    type: list
    elements: int
    default: []
  macs:
    description: MAC addresses of all containers. Frames of a tunnel from others are reported. Nothing is when empty.
    type: list
    elements: str
    default: []
  path_mtu:
    description: The largest packet that fits the path between hosts, in bytes. Larger ones are reported.
    type: int
  seconds:
    description: How long to capture, from 0.1 to 60. A background capture ends then also if nobody collects it.
    type: float
    default: 10.0
  packets:
    description: How many frames to take up, at most 10000000. 200000 if nothing is given, and 10000000 with O(src).
    type: int
  bytes:
    description: How many bytes to take up, and the largest size of the file that is written, at most 1 GiB.
    type: int
    default: 67108864
  snaplen:
    description:
      - How much of a frame is taken up, in bytes, from 64 to 65535.
      - The default is 256 with O(filter=probes), else 1600.
    type: int
  ring_bytes:
    description:
      - Memory for frames that have not been read yet, for each tap, from 1 to 64 MiB. All taps share 256 MiB.
      - The default is 2 MiB with O(filter=probes), else 16 MiB.
    type: int
  reasons:
    description: Also record why the kernel drops packets meanwhile (tracepoint C(skb:kfree_skb)).
    type: bool
    default: false
  nftrace:
    description:
      - Also trace the rules that packets of O(ports) and O(peers) meet in the host's own namespace.
      - For this the process owns a table of nftables, which the kernel removes with the process.
    type: bool
    default: false
  src:
    description:
      - A capture file on the host to read instead, pcap or pcapng.
      - It is read for at most 300 seconds, and 4 GiB of it.
    type: path
  dest:
    description:
      - Where on the host to write the frames, as pcapng with the taps' names and mode 0600. A file that is there is
        replaced.
      - In check mode nothing is written.
    type: path
  fetch:
    description:
      - Where on the controller to write the frames, as O(dest) does on the host.
      - Taken by the action plugin. For O(state=started) it only says that frames are wanted; give it to both.
    type: path
  run_id:
    description:
      - The run whose folder on the host (see M(crosshost.doctor.prepare)) holds what a background capture needs.
      - By default that of O(run_dir), else one that is the same for all tasks of one running playbook.
    type: str
  base_path:
    description: The folder on the host that holds the folders of all runs, as given to M(crosshost.doctor.prepare).
    type: path
  run_dir:
    description:
      - Folder on the controller to take the arguments from (C(plan/capture/HOST.json)) and to write the result to,
        instead of returning it.
      - Used by the playbooks of this collection, and taken by the action plugin. It does not reach the host.
    type: path
  label:
    description:
      - Names the record in O(run_dir), for example V(trace), and a background capture, of which there may be several.
      - Letters, digits and C(._-), at most 64.
    type: str
    default: before
  library_path:
    description: Taken for the sake of uniformity with the other modules. This one needs no library.
    type: path
  content:
    description: Return the frames themselves. Set by the action plugin.
    type: bool
    default: false
extends_documentation_fragment:
  - crosshost.doctor.attributes
attributes:
  check_mode:
    details:
      - This module only listens. In check mode it does the same, but writes no O(dest).
seealso:
  - module: crosshost.doctor.path_probe
  - module: crosshost.doctor.overlay_facts
"""

EXAMPLES = r"""
- name: Listen on the underlay for ten seconds
  crosshost.doctor.vxlan_capture:
    taps:
      - {id: nic, interface: eth0}
    ports: [4789]
    match: {protocol: udp, ports: [4789]}

- name: Show what is wrong with the frames
  ansible.builtin.debug:
    var: ansible_facts.crosshost.vxlan_capture.anomalies

- name: Listen in a container and on its host while probing
  block:
    - name: Listen
      crosshost.doctor.vxlan_capture:
        state: started
        label: trace
        mark: run-4711
        ports: [4789]
        taps:
          - {id: web, netns: /proc/4711/ns/net, interface: eth0}
          - {id: nic, interface: eth0}

    - name: Probe
      crosshost.doctor.path_probe:
        mark: run-4711
        sources:
          - netns: /proc/4711/ns/net
            probes:
              - {id: database, layer: icmp, address: 10.0.1.7}

    - name: See where the probes came by
      crosshost.doctor.vxlan_capture:
        state: collected
        label: trace

- name: Read a colleague's capture
  crosshost.doctor.vxlan_capture:
    src: /tmp/trouble.pcap
    ports: [4789]
    path_mtu: 1500
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
        vxlan_capture:
          description: What was captured. All keys are always there, and empty after O(state=started).
          returned: always
          type: dict
          contains:
            schema:
              description: Version of this structure.
              returned: always
              type: str
              sample: "1"
            state:
              description: O(state) as given.
              returned: always
              type: str
              sample: collected
            started:
              description: When all taps listened, in seconds since the epoch.
              returned: always
              type: float
              sample: 1795223387.148
            finished:
              description: When they had been read for the last time.
              returned: always
              type: float
              sample: 1795223389.151
            ended:
              description:
                - Why it ended, V(time), V(packets), V(bytes), V(asked) (by O(state=collected)), V(end of file) or
                  V(died) (without a result; C(missing) tells why).
                - V(null) if there was nothing to listen to.
              returned: always
              type: str
              sample: asked
            missing:
              description: What could not be captured, and why.
              returned: always
              type: list
              elements: dict
              sample:
                - {section: tap, what: web, why: "No such file or directory: /proc/4711/ns/net"}
            taps:
              description: The taps that listened, or the interfaces of the file.
              returned: always
              type: list
              elements: dict
              contains:
                id:
                  description: The tap's id.
                  returned: always
                  type: str
                  sample: web
                interface:
                  description: Name of the interface, V(null) where a file does not tell.
                  returned: always
                  type: str
                  sample: eth0
                ifindex:
                  description: Its index, V(null) for a file.
                  returned: always
                  type: int
                  sample: 14
                netns:
                  description: Path of its namespace, V(null) for the host's own.
                  returned: always
                  type: str
                  sample: /proc/4711/ns/net
                link_type:
                  description: Link type of its frames as in capture files, 1 for Ethernet, 101 for bare IP.
                  returned: always
                  type: int
                  sample: 1
                frames:
                  description: Frames taken up. V(null) for a file with several interfaces.
                  returned: always
                  type: int
                  sample: 40
                bytes:
                  description: Bytes taken up. V(null) for a file.
                  returned: always
                  type: int
                  sample: 3912
                dropped:
                  description:
                    - Frames that passed the filter and that the kernel had no room for. As long as it is not 0, what
                      the tap did not see may have been there all the same.
                    - V(null) for a file.
                  returned: always
                  type: int
                  sample: 0
                truncated:
                  description: Frames that were longer than O(snaplen). V(null) for a file, where C(counts) has them.
                  returned: always
                  type: int
                  sample: 0
            counts:
              description: Frames, by what the innermost packet is or what is special about them.
              returned: always
              type: dict
              contains:
                frames:
                  description: All of them.
                  returned: always
                  type: int
                  sample: 40
                vxlan:
                  description: With a VXLAN header.
                  returned: always
                  type: int
                  sample: 10
                geneve:
                  description: With a Geneve header on a tunnel port.
                  returned: always
                  type: int
                  sample: 0
                foreign:
                  description: Of a tunnel port, but of another protocol.
                  returned: always
                  type: int
                  sample: 0
                arp:
                  description: ARP.
                  returned: always
                  type: int
                  sample: 2
                esp:
                  description: ESP.
                  returned: always
                  type: int
                  sample: 0
                tcp:
                  description: TCP.
                  returned: always
                  type: int
                  sample: 12
                udp:
                  description: UDP, tunnels aside.
                  returned: always
                  type: int
                  sample: 6
                icmp:
                  description: ICMP and ICMPv6.
                  returned: always
                  type: int
                  sample: 20
                icmp_errors:
                  description: ICMP errors.
                  returned: always
                  type: int
                  sample: 0
                fragments:
                  description: Fragments of IP packets.
                  returned: always
                  type: int
                  sample: 0
                truncated:
                  description: Cut short by the snapshot length.
                  returned: always
                  type: int
                  sample: 0
                unclassified:
                  description: Too short or too strange to belong to a flow.
                  returned: always
                  type: int
                  sample: 0
                flows:
                  description: Different flows.
                  returned: always
                  type: int
                  sample: 8
                malformed:
                  description: Frames and parts of the file that contradict themselves, by reason.
                  returned: always
                  type: dict
                  sample: {}
                not_judged:
                  description: What could not be judged, by reason, such as checksums on their way out.
                  returned: always
                  type: dict
                  sample: {}
                overflow:
                  description: What there was no room to remember, by kind.
                  returned: always
                  type: dict
                  sample: {}
            flows:
              description:
                - Who talked to whom, by the innermost packet, each direction and each tap apart; at most 2000, the
                  largest.
              returned: always
              type: list
              elements: dict
              contains:
                tap:
                  description: Id of the tap.
                  returned: always
                  type: str
                  sample: nic
                out:
                  description: Whether the interface sent it; V(null) where not known.
                  returned: always
                  type: bool
                  sample: true
                protocol:
                  description: V(tcp), V(udp), V(icmp), V(icmp6), V(arp), V(esp), or the number, as in V(ip-89).
                  returned: always
                  type: str
                  sample: tcp
                src:
                  description: Source address.
                  returned: always
                  type: str
                  sample: 10.0.1.6
                dst:
                  description: Destination address.
                  returned: always
                  type: str
                  sample: 10.0.1.7
                sport:
                  description: Source port, V(null) where there is none.
                  returned: always
                  type: int
                  sample: 43122
                dport:
                  description: Destination port, V(null) where there is none.
                  returned: always
                  type: int
                  sample: 80
                smac:
                  description: Source MAC address.
                  returned: always
                  type: str
                  sample: "02:42:0a:00:01:06"
                dmac:
                  description: Destination MAC address.
                  returned: always
                  type: str
                  sample: "02:42:0a:00:01:07"
                vlans:
                  description: VLAN ids.
                  returned: always
                  type: list
                  elements: int
                  sample: []
                tunnel:
                  description: V(vxlan), V(gpe), V(geneve), V(foreign), or V(null) outside of tunnels.
                  returned: always
                  type: str
                  sample: vxlan
                vni:
                  description: The VNI, V(null) where there is no valid one.
                  returned: always
                  type: int
                  sample: 4097
                policy:
                  description: Group policy id of the VXLAN header, V(null) without.
                  returned: always
                  type: int
                  sample: null
                outer:
                  description: The packet that carries it, V(null) outside of tunnels.
                  returned: always
                  type: dict
                  sample:
                    src: 192.0.2.11
                    dst: 192.0.2.12
                    sport: 52144
                    dport: 4789
                    vlans: []
                    dscp: [0]
                    ecn: [0]
                    largest: 134
                packets:
                  description: Frames of the flow.
                  returned: always
                  type: int
                  sample: 12
                bytes:
                  description: Their bytes on the wire, link layer included.
                  returned: always
                  type: int
                  sample: 1810
                first:
                  description: Time of the first, in seconds since the epoch.
                  returned: always
                  type: float
                  sample: 1795223387.150811
                last:
                  description: Time of the last.
                  returned: always
                  type: float
                  sample: 1795223388.201044
                largest:
                  description: Length of the largest IP packet, in bytes.
                  returned: always
                  type: int
                  sample: 1450
                fragments:
                  description: Fragments among them.
                  returned: always
                  type: int
                  sample: 0
                dscp:
                  description: DSCP values seen.
                  returned: always
                  type: list
                  elements: int
                  sample: [0]
                ecn:
                  description: ECN values seen.
                  returned: always
                  type: list
                  elements: int
                  sample: [0]
                ttl:
                  description: TTLs or hop limits seen.
                  returned: always
                  type: list
                  elements: int
                  sample: [64]
                checksum:
                  description: V(ok), V(bad) (at least one was), or V(unknown).
                  returned: always
                  type: str
                  sample: ok
                bad_checksums:
                  description: How many were bad.
                  returned: always
                  type: int
                  sample: 0
                icmp:
                  description: C(type), C(code) and C(id) of ICMP, else V(null).
                  returned: always
                  type: dict
                  sample: null
                tcp:
                  description:
                    - Whether C(syn), C(fin) and C(rst) were seen, and counts of C(retransmissions) and C(reordered)
                      segments. V(null) for others.
                  returned: always
                  type: dict
                  sample: {syn: true, fin: true, rst: false, retransmissions: 0, reordered: 0}
                spi:
                  description: SPI of ESP, else V(null).
                  returned: always
                  type: int
                  sample: null
                dns:
                  description: Queries and answers of DNS with their latency in seconds, else V(null).
                  returned: always
                  type: dict
                  sample: null
            anomalies:
              description:
                - What is not as it should be, grouped by kind, tap and ends; at most 1000. Further keys depend on the
                  kind.
              returned: always
              type: list
              elements: dict
              contains:
                kind:
                  description:
                    - V(i-flag-unset), V(reserved-bits), V(group-policy), V(vni-zero), V(vni-unknown),
                      V(vtep-unexpected), V(mac-unknown), V(mac-two-vteps), V(foreign-protocol), V(vxlan-gpe),
                      V(oversize), V(fragments), V(outer-checksum), V(inner-checksum), V(icmp-frag-needed),
                      V(icmp-unreachable), V(icmp-ttl-exceeded), V(arp-unanswered), V(arp-duplicate),
                      V(dns-unanswered), V(dns-error), V(syn-unanswered) or V(retransmissions).
                  returned: always
                  type: str
                  sample: vni-unknown
                tap:
                  description: Id of the tap.
                  returned: always
                  type: str
                  sample: nic
                count:
                  description: How often.
                  returned: always
                  type: int
                  sample: 3
                first:
                  description: Time of the first, in seconds since the epoch.
                  returned: always
                  type: float
                  sample: 1795223387.150811
                last:
                  description: Time of the last.
                  returned: always
                  type: float
                  sample: 1795223388.201044
                sample:
                  description: The first one, with the keys of a flow.
                  returned: always
                  type: dict
                  sample: {protocol: icmp, src: 10.0.1.6, dst: 10.0.1.7, vni: 4242}
            sightings:
              description: Every time that a tap saw a probe with O(mark) or an answer to it, at most 20000.
              returned: always
              type: list
              elements: dict
              contains:
                tap:
                  description: Id of the tap.
                  returned: always
                  type: str
                  sample: nic
                time:
                  description: When, in seconds since the epoch.
                  returned: always
                  type: float
                  sample: 1795223387.150811
                out:
                  description: Whether the interface sent it, V(false) if it received it. V(null) where not known.
                  returned: always
                  type: bool
                  sample: true
                kind:
                  description:
                    - V(echo), V(echo-reply), V(syn), V(syn-ack), V(rst), V(data), V(udp), V(icmp-error),
                      V(arp-request), V(arp-reply) or V(esp).
                  returned: always
                  type: str
                  sample: echo
                probe:
                  description: Id of the probe, V(null) where the packet does not carry it.
                  returned: always
                  type: str
                  sample: database
                seq:
                  description:
                    - Number of the packet in its mark. For V(syn) the initial sequence number, for V(syn-ack) and
                      V(rst) the one they acknowledge less one. V(null) where there is none.
                  returned: always
                  type: int
                  sample: 1
                src:
                  description: Source address of the innermost packet.
                  returned: always
                  type: str
                  sample: 10.0.1.6
                dst:
                  description: Destination address of the innermost packet.
                  returned: always
                  type: str
                  sample: 10.0.1.7
                sport:
                  description: Source port, V(null) where there is none.
                  returned: always
                  type: int
                  sample: null
                dport:
                  description: Destination port, V(null) where there is none.
                  returned: always
                  type: int
                  sample: null
                smac:
                  description: Source MAC address of the innermost frame.
                  returned: always
                  type: str
                  sample: "02:42:0a:00:01:06"
                dmac:
                  description: Destination MAC address of the innermost frame.
                  returned: always
                  type: str
                  sample: "02:42:0a:00:01:07"
                length:
                  description: Length of the innermost IP packet, as its header says.
                  returned: always
                  type: int
                  sample: 84
                df:
                  description: Whether the innermost packet must not be fragmented.
                  returned: always
                  type: bool
                  sample: true
                ttl:
                  description: TTL or hop limit of the innermost packet.
                  returned: always
                  type: int
                  sample: 64
                fragment:
                  description: V(first), V(later), or V(null) for a whole packet.
                  returned: always
                  type: str
                  sample: null
                vni:
                  description: The VNI, V(null) outside of tunnels.
                  returned: always
                  type: int
                  sample: 4097
                outer:
                  description: The packet that carries it, V(null) outside of tunnels.
                  returned: always
                  type: dict
                  sample:
                    src: 192.0.2.11
                    dst: 192.0.2.12
                    sport: 52144
                    dport: 4789
                    flags: 8
                    length: 134
                    df: false
                    ttl: 64
                    id: 4711
                    fragment: null
                    checksum: ok
                checksum:
                  description: V(ok), V(bad) or V(unknown), of the innermost packet.
                  returned: always
                  type: str
                  sample: ok
                error:
                  description: Type, code, mtu and sender of an ICMP error, else V(null).
                  returned: always
                  type: dict
                  sample: null
            reasons:
              description: Why the kernel dropped packets meanwhile, V(null) unless O(reasons).
              returned: always
              type: dict
              contains:
                available:
                  description: Whether it could be read.
                  returned: always
                  type: bool
                  sample: true
                why:
                  description: Why it could not, else V(null).
                  returned: always
                  type: str
                  sample: null
                calibration:
                  description: What sockets like ours cause on a path that works, left out below.
                  returned: always
                  type: dict
                  sample: {"NO_SOCKET@ping_rcv": 12}
                lost:
                  description: Records that the kernel had no room for.
                  returned: always
                  type: int
                  sample: 0
                complete_since:
                  description: Time from which on no event was left out for want of room; V(null) if none was.
                  returned: always
                  type: float
                  sample: null
                totals:
                  description: How often for each reason, place and protocol.
                  returned: always
                  type: list
                  elements: dict
                  sample: [{reason: NETFILTER_DROP, protocol: 2048, location: nf_hook_slow, count: 3}]
                events:
                  description:
                    - Each one, with its time in seconds since the epoch, the kernel's C(reason), the C(protocol)
                      (EtherType), and the function that dropped (C(location)). At most 5000, those nearest to
                      sightings.
                  returned: always
                  type: list
                  elements: dict
                  sample: [{time: 1795223387.150859, reason: NETFILTER_DROP, protocol: 2048, location: nf_hook_slow}]
            nftrace:
              description:
                - Rules that traced packets met, V(null) unless O(nftrace). C(available), C(why) (not), C(lost) and
                  C(events), as in C(reasons).
              returned: always
              type: dict
              sample: null
            file:
              description: Where the frames were written on the host, else V(null).
              returned: always
              type: str
              sample: /tmp/trouble.pcapng
"""

import base64
import contextlib
import os
import re
import time
import typing as t
import zlib

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.crosshost.doctor.plugins.module_utils import _capture, _host_folder
from ansible_collections.crosshost.doctor.plugins.module_utils._output import steady_output
from ansible_collections.crosshost.doctor.plugins.module_utils._reader import Reader, ReaderError

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LIFETIME = 3600.0
SPARE_SECONDS = 30.0  # that a background capture may take to end, before its alarm ends it
_ADDRESSES: dict[str, t.Any] = {"type": "list", "elements": "str", "default": []}
_NUMBERS: dict[str, t.Any] = {"type": "list", "elements": "int", "default": []}
ARGUMENTS: dict[str, t.Any] = {
    "state": {"type": "str", "choices": ["captured", "started", "collected"], "default": "captured"},
    "taps": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "id": {"type": "str"},
            "netns": {"type": "str"},
            "inode": {"type": "str"},
            "interface": {"type": "str"},
            "ifindex": {"type": "int"},
        },
    },
    "ports": _NUMBERS,
    "mark": {"type": "str", "default": ""},
    "filter": {"type": "str", "choices": ["all", "probes"]},
    "peers": _ADDRESSES,
    "tcp_ports": _NUMBERS,
    "match": {
        "type": "dict",
        "options": {
            "protocol": {
                "type": "str",
                "choices": ["arp", "esp", "gre", "icmp", "ip", "ip6", "sctp", "tcp", "udp"],
            },
            "hosts": _ADDRESSES,
            "ports": _NUMBERS,
        },
    },
    "vteps": _ADDRESSES,
    "vnis": _NUMBERS,
    "macs": _ADDRESSES,
    "path_mtu": {"type": "int"},
    "seconds": {"type": "float", "default": 10.0},
    "packets": {"type": "int"},
    "bytes": {"type": "int", "default": 64 << 20},
    "snaplen": {"type": "int"},
    "ring_bytes": {"type": "int"},
    "reasons": {"type": "bool", "default": False},
    "nftrace": {"type": "bool", "default": False},
    "src": {"type": "path"},
    "dest": {"type": "path"},
    "fetch": {"type": "path"},
    "run_id": {"type": "str"},
    "base_path": {"type": "path"},
    "run_dir": {"type": "path"},
    "label": {"type": "str", "default": "before"},
    "library_path": {"type": "path"},
    "content": {"type": "bool", "default": False},
}


def ensure(folder: _host_folder.HostFolder) -> bool:
    """Make the run's folder where nobody prepared the host; whether it was made."""
    with folder.alone():
        if os.path.lexists(folder.path):
            _host_folder.check_private(folder.path)
            return False
        return folder.claim({}, LIFETIME, time.time())


def start(settings: _capture.Settings, folder: _host_folder.HostFolder, label: str, path: str | None) -> t.Any:
    """Leave a reader behind and return what it could open."""
    ensure(folder)
    _capture.preload(settings)
    reader = Reader(folder.path, label)
    return reader.start(
        lambda announce, asked: _capture.background(settings, path, announce, asked),
        settings.seconds + SPARE_SECONDS,
    )


def collect(folder: _host_folder.HostFolder, label: str) -> t.Any:
    """What the reader saw, or why there is nothing."""
    try:
        return Reader(folder.path, label).collect(SPARE_SECONDS)
    except ReaderError as exc:
        report = _capture.new_report("collected")
        report["ended"] = "died"
        report["missing"].append({"section": "reader", "what": label, "why": str(exc)})
        return report


def kept_file(folder: _host_folder.HostFolder, label: str) -> str:
    """Where a background capture keeps its frames for the controller."""
    return os.path.join(folder.path, f"capture-{label}.pcapng")


def content_of(path: str) -> str:
    """A capture file as text: zlib, base64."""
    with open(path, "rb") as stream:
        return base64.b64encode(zlib.compress(stream.read(_capture.MAX_BYTES), 1)).decode()


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Do what is asked and return the module's result."""
    options = module.params
    label, state = options["label"], options["state"]
    if not LABEL.fullmatch(label):
        raise ValueError(f"label is {label!r}, and must be letters, digits, '.', '_' and '-', at most 64")
    if state != "captured" and not options["run_id"]:
        raise ValueError("run_id is missing: this module is run by its action plugin of the same name")
    if options["src"] and (state != "captured" or options["taps"] or options["dest"]):
        raise ValueError("src is read as it is: it goes with neither taps nor dest, and with state=captured only")
    if options["src"] and options["packets"] is None:
        options["packets"] = _capture.MAX_PACKETS
    settings = _capture.Settings.parse(options)
    if options["src"]:
        return {"changed": False, "facts": _capture.offline(settings, options["src"])}
    base = options["base_path"] or _host_folder.default_base()
    folder = _host_folder.HostFolder(base, options["run_id"] or f"capture-{os.getpid()}")
    path = kept_file(folder, label) if options["content"] else options["dest"]
    outside = bool(path) and not options["content"]
    if outside and module.check_mode:
        path, outside = None, False
    if state == "started":
        return {"changed": outside, "facts": start(settings, folder, label, path)}
    if state == "collected":
        return collected(folder, label, options["content"])
    if not options["content"]:
        return {"changed": outside, "facts": _capture.live(settings, path)}
    created = ensure(folder)
    try:
        return with_content(_capture.live(settings, path))
    finally:
        if created:
            folder.remove()


def collected(folder: _host_folder.HostFolder, label: str, content: bool) -> dict[str, t.Any]:
    facts = collect(folder, label)
    found = with_content(facts) if content else {"changed": False, "facts": facts}
    # A folder that only held this capture was made by it; prepare's has more in it, or is removed by prepare.
    with contextlib.suppress(OSError):
        if os.listdir(folder.path) == [_host_folder.RECORD] and not _owned(folder):
            folder.remove()
    return found


def _owned(folder: _host_folder.HostFolder) -> bool:
    return bool((_host_folder.read_record(folder.path) or {}).get("owner"))


def with_content(facts: dict[str, t.Any]) -> dict[str, t.Any]:
    """The frames go along, and their file on the host with them."""
    found: dict[str, t.Any] = {"changed": False, "facts": facts}
    path = facts.get("file")
    if path:
        found["content"] = content_of(path)
        os.unlink(path)
        facts["file"] = None
    return found


def main() -> None:
    """Listen and return. Nothing here changes the host but the file that is asked for."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
        mutually_exclusive=[("dest", "content"), ("src", "content")],
    )
    try:
        found = run(module)
    except (ValueError, ReaderError, _host_folder.FolderError) as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg=f"The capture cannot be made: {exc}")
    facts = {**found.pop("facts"), "state": module.params["state"]}
    module.exit_json(**found, ansible_facts={"crosshost": {"vxlan_capture": facts}})


if __name__ == "__main__":
    steady_output()
    main()

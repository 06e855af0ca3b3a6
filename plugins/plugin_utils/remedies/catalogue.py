# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What repairs each cause: a role of this collection, or the steps of a person.

One row for every cause of the catalogue, those that no code decides yet among them. A finding's own remedies hold the
values of the fleet; here stands which there can be. Words in capitals are to be filled in.
"""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Remedy
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies.roles import CURE, MITIGATION


@dataclass(frozen=True)
class Repair:
    """One way: a role, or steps by hand."""

    kind: str
    disruptive: bool
    role: str | None = None
    steps: tuple[str, ...] = ()

    def fits(self, remedy: Remedy) -> bool:
        """Whether a finding's remedy is this one; with values missing a role's is done by hand."""
        same = (remedy.kind, remedy.disruptive) == (self.kind, self.disruptive)
        return same and remedy.role in (self.role, None)


@dataclass(frozen=True)
class Row:
    """The repairs of a cause, and why no role does it where none does."""

    repairs: tuple[Repair, ...]
    why: str = ""

    @property
    def roles(self) -> list[str]:
        return list(dict.fromkeys(repair.role for repair in self.repairs if repair.role))


def _role(name: str, kind: str = CURE, disruptive: bool = False) -> Repair:
    return Repair(kind, disruptive, role=name)


def _hand(*steps: str, kind: str = CURE, disruptive: bool = False) -> Repair:
    return Repair(kind, disruptive, steps=steps)


def _between(what: str) -> Repair:
    return _hand(f"dropped between the hosts: permit {what} between the nodes' addresses in what filters there")


def _roles(*repairs: Repair) -> Row:
    return Row(repairs)


DOES = {
    "br_netfilter": "loads br_netfilter, now and at boot, and sets its sysctls",
    "checksum_offload": "switches the feature tx-checksum-ip-generic of the sender's NIC off",
    "conntrack_limits": "raises nf_conntrack_max",
    "engine_dns": "gives the engine name servers that were seen to answer, merged into daemon.json",
    "engine_rules": "has the engine make its chains anew: by a live reload where there is one, else by a restart",
    "firewall_ports": "accepts the ports from the peers' addresses only, in the chain that drops, as its owner does it",
    "forward_policy": "accepts what is forwarded between bridge and NIC, in the chain whose policy drops it",
    "ip_forwarding": "switches forwarding on where it is off, and keeps it so",
    "mss_clamp": "lets TCP agree on segments that fit",
    "nm_unmanaged": "tells NetworkManager to leave the links of containers alone",
    "overlay_entries": "writes the forwarding and neighbour entries that the fleet shows to be right",
    "overlay_mtu": "gives network or daemon the MTU that fits; making a network anew is a plan until consented to",
    "rp_filter": "sets the reverse path filter of that one interface to loose (2)",
    "source_address": "gives the routes to exactly these peers the advertised address as source",
    "swarm_node": "sets the node active; to leave and join again is a plan that it prints",
}

OUTSIDE = "what has to change is outside of the hosts"
MEANT = "it may be meant: its owner decides"
SITE = "addresses, names and routes are the site's own"
ANEW = "containers, services or networks are made anew: whoever runs them decides when"
INSTALLED = "a package, a kernel or an engine has to be installed"
AGENT = "the container network's own agent holds this state and its configuration"
UNKNOWN_MAKER = "what did it would do it again: it has to be found first"
CLUSTER = "nodes leave and join: identities, quorum and tasks are at stake"

_MADE = _hand("a rule that a program makes (Docker, kube-proxy, Calico …): change the program's configuration")
_RESTART = "systemctl restart docker"
_CLAMP = (_role("overlay_mtu", disruptive=True), _role("mss_clamp", MITIGATION))
_PATH = (
    *_CLAMP,
    _hand("raise the MTU of every switch port, tunnel and router on the path to what the overlay sends"),
)

ROWS: dict[str, Row] = {
    # -- ports and the hosts' own packet filters
    "data-udp-blocked-host-fw": _roles(_role("firewall_ports"), _MADE),
    "data-udp-blocked-network": Row(
        (
            _hand(
                "permit udp/PORT between the nodes' addresses, in both directions, in the security group, switch ACL "
                "or hypervisor between them",
            ),
            _hand(
                "where a hypervisor keeps the port for itself: a new Swarm, docker swarm init --data-path-port 7789",
                kind=MITIGATION,
                disruptive=True,
            ),
        ),
        OUTSIDE,
    ),
    "gossip-udp-7946-blocked": _roles(_role("firewall_ports"), _between("udp/7946")),
    "gossip-7946-blocked": _roles(_role("firewall_ports"), _between("7946, tcp and udp,")),
    "mgmt-2377-blocked": _roles(_role("firewall_ports"), _between("tcp/2377 to the managers")),
    "esp-blocked": _roles(
        _role("firewall_ports"),
        _between("IP protocol 50"),
        _hand(
            "where the cloud has no switch for it: recreate the network without the option encrypted, over an "
            "underlay that encrypts",
            kind=MITIGATION,
            disruptive=True,
        ),
    ),
    "nft-basechain-override": _roles(_role("firewall_ports"), _MADE),
    "legacy-nft-mix": _roles(
        _role("firewall_ports"),
        _hand(
            "containers' traffic: iptables-legacy -D CHAIN RULE, or the rule into the backend in use",
        ),
    ),
    "calico-drops-foreign-vxlan": Row(
        (
            _hand(
                'kubectl patch felixconfiguration default --type merge -p \'{"spec":{"vxlanPort":4790}}\'',
                'or name the peers to Calico: {"spec":{"externalNodesList":["PEER", "PEER"]}}',
            ),
        ),
        MEANT,
    ),
    "encrypted-inner-4789-input": Row(
        (
            _hand(
                "iptables -I INPUT -p udp --dport PORT -m policy --dir in --pol ipsec -j ACCEPT",
                "nft: udp dport PORT meta ipsec exists accept   # in the chain that drops",
            ),
        ),
        "a plain accept of the port would let in what is not encrypted",
    ),
    "encrypted-no-esp-kernel": Row(
        (
            _hand(
                "install the kernel's extra modules (linux-modules-extra, kernel-modules-extra)",
                f"modprobe esp4; echo esp4 > /etc/modules-load.d/esp4.conf; {_RESTART}",
                disruptive=True,
            ),
            _hand(
                "recreate the network without the option encrypted, over an underlay that encrypts (WireGuard)",
                kind=MITIGATION,
                disruptive=True,
            ),
        ),
        INSTALLED,
    ),
    "encrypted-xtables-match-missing": Row(
        (
            _hand(
                "install the kernel's extra modules (xt_u32 for engines up to 20.10, xt_bpf from 23.0 on)",
                _RESTART,
                disruptive=True,
            ),
        ),
        INSTALLED,
    ),
    "encrypted-false-is-true": Row(
        (
            _hand(
                "docker network create -d overlay NEW   # without any option encrypted",
                "docker service update --network-add NEW --network-rm OLD SERVICE; docker network rm OLD",
                disruptive=True,
            ),
        ),
        ANEW,
    ),
    "encrypted-stale-rules": Row(
        (
            _hand(
                "iptables-save | grep -E 'u32|bpf'   # the last number of a rule is VNI times 256",
                "iptables -t TABLE -D CHAIN RULE   # only for a VNI that no encrypted network has",
            ),
        ),
        "which rules are stale is told by their number, not by their bytes: a person compares the VNIs",
    ),
    "tunnel-through-nat": Row(
        (
            _hand(
                "route the nodes' addresses without translation",
                "or a tunnel below (WireGuard) in whose addresses the nodes join: docker swarm join --advertise-addr "
                "ADDRESS --data-path-addr ADDRESS --token TOKEN MANAGER:2377",
                disruptive=True,
            ),
        ),
        OUTSIDE,
    ),
    # -- who owns the packet filter
    "ruleset-flushed": _roles(_role("engine_rules", disruptive=True)),
    "firewalld-reload": _roles(_role("engine_rules", disruptive=True)),
    "forward-policy-drop": _roles(_role("forward_policy"), _role("engine_rules", disruptive=True)),
    "docker28-raw-drop": Row(
        (
            _hand(
                "ask for a published port",
                "or docker network create --opt com.docker.network.bridge.trusted_host_interfaces=IFACE NEW",
            ),
        ),
        "the engine protects addresses that are not published: opening them is a decision",
    ),
    "docker29-nft-backend": Row(
        (
            _hand(
                'on Swarm nodes: "firewall-backend": "iptables" in /etc/docker/daemon.json',
                "elsewhere: echo net.ipv4.ip_forward = 1 > /etc/sysctl.d/99-forward.conf; sysctl --system",
                _RESTART,
                disruptive=True,
            ),
        ),
        "another backend makes every rule of the host anew",
    ),
    "docker-iptables-false": Row(
        (
            _hand(
                'remove "iptables": false from /etc/docker/daemon.json or from dockerd\'s command line',
                f"own rules into DOCKER-USER first; then {_RESTART}",
                disruptive=True,
            ),
        ),
        MEANT,
    ),
    "container-port-filtered": Row(
        (
            _hand(
                "iptables -vnL CHAIN --line-numbers   # or nft -a list chain FAMILY TABLE CHAIN",
                "is it meant? else iptables -D CHAIN NUMBER, and in its owner's configuration",
            ),
            _hand(f"a rule of the engine: recreate the container, or {_RESTART}", disruptive=True),
        ),
        MEANT,
    ),
    "network-policy-block": Row(
        (
            _hand(
                "kubectl get networkpolicy -A; cilium policy trace, calicoctl get globalnetworkpolicy",
                "change the policy that names the port, if it is not meant",
            ),
        ),
        MEANT,
    ),
    # -- MTU and checksums
    "overlay-mtu-gt-path": _roles(*_PATH),
    "overlay-mtu-gt-local-nic": _roles(*_CLAMP),
    "pmtu-blackhole-icmp": _roles(
        *_PATH,
        _hand(
            "to one address outside: iptables -t mangle -A POSTROUTING -d ADDRESS -p tcp --tcp-flags SYN,RST SYN "
            "-j TCPMSS --set-mss SIZE",
            kind=MITIGATION,
        ),
    ),
    "fragments-dropped": _roles(*_PATH),
    "mixed-mtu-peers": _roles(*_CLAMP),
    "mtu-option-double-subtract": _roles(_role("overlay_mtu", disruptive=True)),
    "docker-gwbridge-mtu": _roles(*_CLAMP),
    "tx-csum-inner-bug": _roles(_role("checksum_offload")),
    "tx-csum-outer-bug": _roles(_role("checksum_offload")),
    "double-nat-random-fully": Row(
        (
            _hand(
                "a kube-proxy with pull request 92035 of kubernetes, a flannel with its pull request 1681",
                "until then: ethtool -K flannel.1 tx-checksum-ip-generic off",
            ),
        ),
        AGENT,
    ),
    "gro-udp-tun": Row(
        (
            _hand("a kernel of 6.8.5 or newer, and a reboot", disruptive=True),
            _hand("ethtool -K TUN gro off gso off", kind=MITIGATION),
        ),
        INSTALLED,
    ),
    # -- addresses, routes, VTEPs
    "source-vtep-mismatch": _roles(_role("source_address")),
    "snat-outer": Row(
        (
            _hand(
                "iptables -t nat -I POSTROUTING -p udp --dport PORT -j ACCEPT   # and narrow the rule that rewrites",
                "conntrack -D -p udp --orig-port-dst PORT   # else what is known stays rewritten",
            ),
        ),
        "the rule that rewrites is somebody's: it has to leave the port out by itself, or it comes back",
    ),
    "wrong-advertise-addr": Row(
        (
            _hand(
                "docker node update --availability drain NODE; then on the node: docker swarm leave",
                "docker node rm NODE; docker swarm join-token worker",
                "on the node: docker swarm join --advertise-addr ADDRESS --token TOKEN MANAGER:2377",
                "the only manager: docker swarm init --force-new-cluster --advertise-addr ADDRESS",
                disruptive=True,
            ),
        ),
        CLUSTER,
    ),
    "multi-nic-rpfilter": _roles(
        _hand(
            "make the route to the peer leave by the interface its packets arrive on: ip route replace PEER/32 dev NIC"
        ),
        _role("rp_filter", MITIGATION),
    ),
    "if-forwarding-off": _roles(_role("ip_forwarding")),
    "ip-forward-zero": _roles(_role("ip_forwarding")),
    "subnet-overlap-host": Row(
        (
            _hand(
                "docker network rm NETWORK; docker network create --subnet FREE NETWORK",
                "lasting: default-address-pools in daemon.json; docker swarm init --default-addr-pool",
                disruptive=True,
            ),
        ),
        ANEW,
    ),
    "subnet-overlap-docker": Row(
        (_hand("docker network rm TWIN; docker network create --subnet FREE TWIN", disruptive=True),), ANEW
    ),
    "overlay-ip-exhausted": Row(
        (
            _hand(
                "docker network create -d overlay --subnet LARGER NEW",
                "docker service update --network-add NEW --network-rm OLD SERVICE   # for each",
                disruptive=True,
            ),
        ),
        ANEW,
    ),
    "vni-collision-calico-docker": Row(
        (
            _hand(
                'kubectl patch felixconfiguration default --type merge -p \'{"spec":{"vxlanVNI":5000}}\'',
                "a leftover device: ip link del DEVICE",
                disruptive=True,
            ),
        ),
        AGENT,
    ),
    "vxlan-port-external-conflict": Row(
        (
            _hand(
                "another port for one of the two: Cilium tunnelPort, Calico vxlanPort, flannel Backend.Port",
                "a leftover device: ip link del DEVICE",
                disruptive=True,
            ),
        ),
        AGENT,
    ),
    "data-port-userland-taken": Row(
        (_hand("ss -lunp 'sport = :PORT'   # stop it, or give it another port", _RESTART, disruptive=True),),
        "the program that has the port may be needed",
    ),
    "data-path-port-mismatch": Row(
        (_hand("docker swarm leave; docker swarm join --token TOKEN MANAGER:2377", disruptive=True),), CLUSTER
    ),
    "vpn-policy-route": Row(
        (
            _hand(
                "ip rule add pref BEFORE to PEER/32 lookup main   # for each peer",
                "lasting: leave the nodes' addresses out of the VPN's routes (AllowedIPs, --accept-routes)",
            ),
        ),
        "which traffic may leave the VPN is its policy",
    ),
    "networkd-foreign-flush": Row(
        (
            _hand(
                "/etc/systemd/networkd.conf.d/50-foreign.conf: [Network] ManageForeignRoutes=no "
                "ManageForeignRoutingPolicyRules=no; systemctl restart systemd-networkd",
                "then restart the container network's agent, which makes its routes and rules anew",
            ),
        ),
        "restarting networkd removes them once more: the agent's restart has to follow",
    ),
    "nm-managed-cni": _roles(_role("nm_unmanaged")),
    "mac-policy-rewrite": Row(
        (
            _hand(
                "/etc/systemd/network/50-tunnel.link: [Match] OriginalName=flannel* [Link] MACAddressPolicy=none",
                "restart the agent that made the device (flanneld), so that it announces the MAC it has",
            ),
        ),
        AGENT,
    ),
    "cloud-src-dst-check": Row(
        (
            _hand(
                "aws ec2 modify-instance-attribute --no-source-dest-check --instance-id ID; Google: --can-ip-forward; "
                "OpenStack: openstack port set --allowed-address ip-address=SUBNET PORT",
            ),
        ),
        OUTSIDE,
    ),
    "ipip-blocked": Row(
        (
            _hand(
                "permit IP protocol 4 between the nodes in the security group",
                "where the cloud has no switch for it: calicoctl patch ippool POOL -p "
                '\'{"spec":{"ipipMode":"Never","vxlanMode":"Always"}}\'',
            ),
        ),
        OUTSIDE,
    ),
    "duplicate-vtep-ip": Row(
        (
            _hand(
                "docker swarm leave; docker swarm join --advertise-addr OWN-ADDRESS --token TOKEN MANAGER:2377",
                "flannel: --iface NIC; Calico: IP_AUTODETECTION_METHOD=interface=NIC",
                disruptive=True,
            ),
        ),
        CLUSTER,
    ),
    "cloned-identity": Row(
        (
            _hand(
                "rm /etc/machine-id; systemd-machine-id-setup; rm -f /var/lib/docker/engine-id /etc/docker/key.json",
                "docker swarm leave --force; docker swarm join …   # a copied state must not be used twice",
                disruptive=True,
            ),
            _hand("a MAC address of its own for the copied NIC"),
        ),
        CLUSTER,
    ),
    "duplicate-node-ip": Row(
        (_hand("ip address del ADDRESS dev NIC   # on the one that should not have it", "ip neigh flush to ADDRESS"),),
        SITE,
    ),
    "duplicate-hostname": Row(
        (_hand("hostnamectl set-hostname OTHER-NAME", _RESTART, disruptive=True), _hand("hostnamectl set-hostname")),
        SITE,
    ),
    # -- the Swarm and its state
    "overlay-entry-wrong": _roles(_role("overlay_entries")),
    "overlay-entry-missing": _roles(_role("overlay_entries")),
    "networkdb-too-big": Row(
        (
            _hand(
                "docker network create -d overlay SECOND; move half of the services there",
                kind=MITIGATION,
                disruptive=True,
            ),
        ),
        ANEW,
    ),
    "node-not-active": _roles(_role("swarm_node")),
    "raft-no-quorum": Row(
        (
            _hand("start the engines of the lost managers: the quorum returns by itself"),
            _hand(
                "only if they are lost for good, on ONE survivor: docker swarm init --force-new-cluster",
                kind=MITIGATION,
                disruptive=True,
            ),
        ),
        CLUSTER,
    ),
    "swarm-cert-invalid": Row(
        (
            _hand(
                "set the clock right first (chronyc makestep; timedatectl), then: systemctl restart docker",
                "a worker that stays refused: docker swarm leave --force, then join again",
                disruptive=True,
            ),
        ),
        CLUSTER,
    ),
    "ingress-missing": Row(
        (_hand("docker network create --driver overlay --ingress ingress   # on a manager"),),
        "its subnet and MTU are chosen once, with the services that publish stopped",
    ),
    "ipvs-missing": Row(
        (
            _hand("modprobe ip_vs; echo ip_vs > /etc/modules-load.d/ip_vs.conf   # extra modules of the kernel"),
            _hand(
                "docker service create --endpoint-mode dnsrr --publish mode=host,target=80,published=80 …",
                kind=MITIGATION,
                disruptive=True,
            ),
        ),
        INSTALLED,
    ),
    "ipvs-idle-900s": Row(
        (
            _hand(
                "docker service update --sysctl-add net.ipv4.tcp_keepalive_time=600 SERVICE   # and keepalive in the "
                "application; or --endpoint-mode dnsrr",
                disruptive=True,
            ),
        ),
        ANEW,
    ),
    "ipvs-conntrack-invalid": Row(
        (_hand("nsenter --net=NAMESPACE sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1"),),
        "the namespace is the engine's and goes with its next restart",
    ),
    "vxlan-module-missing": Row(
        (
            _hand(
                "install the running kernel's extra modules (linux-modules-extra-…); modprobe vxlan; echo vxlan > "
                "/etc/modules-load.d/vxlan.conf",
                "after an upgrade of the kernel: reboot",
                disruptive=True,
            ),
        ),
        INSTALLED,
    ),
    "live-restore-swarm": Row(
        (_hand('remove "live-restore" from /etc/docker/daemon.json or dockerd\'s flags', _RESTART, disruptive=True),),
        MEANT,
    ),
    "rootless-overlay": Row(
        (_hand("run the engine as root, or publish ports instead of an overlay", disruptive=True),), INSTALLED
    ),
    "gossip-not-converged": Row(
        (
            _hand(
                _RESTART,
                "if it does not help: docker swarm leave, then join, on the node that the others lack",
                disruptive=True,
            ),
        ),
        CLUSTER,
    ),
    "node-down": Row(
        (
            _hand("systemctl start docker; if it is gone for good: docker node rm NODE"),
            _hand(f"journalctl -u docker -n 50; {_RESTART}", disruptive=True),
        ),
        "the host does not answer, or its engine says why",
    ),
    "engine-down": Row(
        (
            _hand("journalctl -u docker -n 50   # why it stopped", "systemctl start docker"),
            _hand("where it hangs: systemctl restart docker", disruptive=True),
        ),
        "what stopped it has to be repaired first",
    ),
    "swarm-partitioned": Row(
        (
            _hand("restore the path between the managers: they follow the leader by themselves"),
            _hand("on the minority: docker swarm leave --force, then join with a manager's token", disruptive=True),
        ),
        CLUSTER,
    ),
    "kv-store-unhealthy": Row(
        (
            _hand(
                "etcdctl endpoint status --cluster; consul operator raft list-peers",
                "start members until more than half are there",
            ),
        ),
        OUTSIDE,
    ),
    "windows-node-encrypted": Row(
        (
            _hand(
                "docker service update --constraint-add node.platform.os==linux SERVICE",
                "or a network without the option encrypted",
                disruptive=True,
            ),
        ),
        ANEW,
    ),
    "ingress-inconsistent": _roles(_role("engine_rules", disruptive=True)),
    "service-backends-stale": Row(
        (
            _hand(
                "docker service update --force SERVICE",
                f"else on the host that announces it: {_RESTART}",
                disruptive=True,
            ),
        ),
        ANEW,
    ),
    # -- kernel tables, Kubernetes, names
    "conntrack-full": _roles(_role("conntrack_limits", MITIGATION)),
    "neigh-overflow": Row(
        (
            _hand(
                "sysctl -w net.ipv4.neigh.default.gc_thresh1=8192 net.ipv4.neigh.default.gc_thresh2=49152 "
                "net.ipv4.neigh.default.gc_thresh3=65536   # and in /etc/sysctl.d",
            ),
        ),
        "one table for every namespace of the machine: its size is a matter of memory and of what else runs there",
    ),
    "br-netfilter-missing": _roles(_role("br_netfilter")),
    "hairpin-off": Row(
        (
            _hand(
                "bridge link set dev PORT hairpin on",
                "lasting: userland-proxy of the engine; hairpinMode of the CNI plugin",
            ),
        ),
        "the port is gone with its container",
    ),
    "coredns-loop": Row(
        (
            _hand(
                "resolvConf: /run/systemd/resolve/resolv.conf in kubelet's configuration; systemctl restart kubelet",
                "kubectl -n kube-system rollout restart deployment coredns",
            ),
        ),
        AGENT,
    ),
    "coredns-misforwarding": Row(
        (
            _hand(
                "kubectl -n kube-system edit configmap coredns   # forward . SERVER that answers from the pod",
                "kubectl -n kube-system rollout restart deployment coredns",
                "take mounts over /etc/resolv.conf out of the pods",
            ),
        ),
        AGENT,
    ),
    "dns-conntrack-race": Row(
        (
            _hand(
                "NodeLocal DNSCache (k8s.io/dns/node-cache), or in the pods: dnsConfig.options single-request-reopen, "
                "use-vc",
            ),
        ),
        AGENT,
    ),
    "embedded-dns-broken": Row(
        (
            _hand(
                "docker restart CONTAINER   # the engine makes rules and sockets anew",
                "lasting: keep what flushes rules out of the containers' namespaces",
                disruptive=True,
            ),
        ),
        ANEW,
    ),
    "container-dns-bypassed": Row(
        (_hand("recreate the container without the mount over /etc/resolv.conf, with --dns SERVER", disruptive=True),),
        ANEW,
    ),
    "upstream-dns-unreachable": _roles(_role("engine_dns", disruptive=True)),
    "stale-udp-conntrack": Row(
        (_hand("conntrack -D -p udp -s CLIENT -d HOST --dport PORT --reply-src GONE"),),
        "one entry, gone at once; what left it behind is the engine's",
    ),
    "leftover-cni": Row(
        (
            _hand(
                "ls /etc/cni/net.d   # move away what belongs to no network in use",
                "iptables-save | grep -E 'FLANNEL|cali-|KUBE-|CILIUM' ; ip -d link   # then drain the node and reboot",
                disruptive=True,
            ),
        ),
        "what looks left behind may be chained: deleting the wrong one cuts the node off",
    ),
    "podcidr-missing-or-overlapping": Row(
        (
            _hand(
                "kubectl get nodes -o custom-columns=NAME:.metadata.name,CIDR:.spec.podCIDR",
                "kube-controller-manager --allocate-node-cidrs=true --cluster-cidr=RANGE; a node with a wrong range: "
                "kubectl delete node NODE, then join it again",
                disruptive=True,
            ),
        ),
        AGENT,
    ),
    "lsm-denial": Row(
        (_hand("install or update the policy package (container-selinux, k3s-selinux, apparmor)"),),
        INSTALLED,
    ),
    "ipv6-data-path-broken": Row(
        (_hand("sysctl -w net.ipv6.conf.IFACE.disable_ipv6=0; give the interface its address back"),), SITE
    ),
    "nic-drops": Row(
        (
            _hand(
                "ethtool -G NIC rx MAXIMUM; ethtool -L NIC combined N",
                "where a provider limits packets per second: a larger instance",
            ),
        ),
        "ring sizes and queues are the machine's; a provider's limit is outside of it",
    ),
    "macvlan-promisc": Row(
        (
            _hand(
                "on the virtual switch: accept promiscuous mode and forged transmits for this port",
                "or docker network create -d ipvlan, whose containers share the parent's MAC address",
            ),
        ),
        OUTSIDE,
    ),
    # -- from the method
    "underlay-unreachable": Row(
        (
            _hand(
                "ip link set NIC up; ip route get PEER; ip neigh show PEER",
                "where link, address and route are right: the switch, VLAN or security group between the hosts",
            ),
        ),
        SITE,
    ),
    "vtep-down": Row(
        (
            _hand(
                "nsenter --net=/run/docker/netns/EPOCH-NETWORK ip link set up dev DEVICE",
                "lasting: docker network disconnect NETWORK CONTAINER, then connect",
            ),
        ),
        UNKNOWN_MAKER,
    ),
    "bridge-down": Row(
        (
            _hand(
                "ip link set dev BRIDGE up; bridge link; ip address add GATEWAY/PREFIX dev BRIDGE",
                f"lasting: recreate the endpoint, or {_RESTART}; exempt the interface from what manages it",
            ),
        ),
        UNKNOWN_MAKER,
    ),
    "veth-drops": Row(
        (_hand("tc -s qdisc show dev PORT; tc qdisc del dev PORT root", "else recreate the endpoint"),), UNKNOWN_MAKER
    ),
    "container-route-wrong": Row(
        (_hand("nsenter --net=NAMESPACE ip route replace default via GATEWAY", "lasting: docker restart CONTAINER"),),
        "the container itself, or a program in it, changed its routes",
    ),
    "masquerade-missing": _roles(
        _role("engine_rules", disruptive=True),
        _hand("where an earlier rule takes the packets: narrow it, or iptables -t nat -D POSTROUTING NUMBER"),
    ),
    "published-port-rule-missing": _roles(
        _role("engine_rules", disruptive=True),
        _hand("where an earlier rule leads astray: iptables -t nat -D DOCKER NUMBER"),
    ),
    "bgp-session-down": Row(
        (
            _hand(
                "calicoctl node status; birdcl show protocols   # which session is not Established",
                "permit tcp/179 from the peers' addresses, and compare AS numbers and peer addresses of both ends",
            ),
        ),
        AGENT,
    ),
    "bgp-foreign-subnet-announced": Row(
        (
            _hand(
                "birdcl show route   # which announced subnet is Docker's",
                "reject it in the export filter; a Calico pool: calicoctl patch ippool POOL -p "
                '\'{"spec":{"disableBGPExport":true}}\'',
            ),
        ),
        AGENT,
    ),
    "vxlan-vni-invalid": Row(
        (_hand("find what rewrites the VXLAN header between the hosts: a gateway, a hypervisor, another sender"),),
        OUTSIDE,
    ),
    "arp-unanswered": Row(
        (
            _hand(
                "nsenter --net=/run/docker/netns/EPOCH-NETWORK nft list ruleset   # and: bridge link; ip -d link",
                "remove what drops ARP there; the device has to be up and a proxy for ARP",
            ),
        ),
        UNKNOWN_MAKER,
    ),
    "service-not-listening": Row(
        (_hand("make the application listen on 0.0.0.0 (or ::), or publish the port that it listens on"),),
        "the application's own configuration",
    ),
    "path-lossy": Row(
        (
            _hand(
                "ethtool -S NIC; tc -s qdisc show dev NIC; ethtool NIC | grep -i duplex",
                "then the link between: cable, duplex, rate limit or queue of switch, hypervisor or provider",
            ),
        ),
        OUTSIDE,
    ),
    "isolated-by-design": Row((), "nothing is wrong"),
    "posture": Row((_hand("what the finding recommends, one by one", kind=MITIGATION),), "nothing is broken"),
    "unexplained-loss": Row(
        (
            _hand(
                "ansible-playbook crosshost.doctor.capture   # sender's NIC, receiver's NIC, receiver's VXLAN device",
                kind=MITIGATION,
            ),
            _hand("permit echo between the hosts, so that it can be told what passes"),
        ),
        "nobody knows yet what to repair",
    ),
}

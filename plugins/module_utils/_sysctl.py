# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Network sysctls of the namespace the calling thread is in: /proc/sys/net follows the thread, unlike /proc/net."""

from __future__ import annotations

import os

from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_text

BASE = "/proc/sys/net"
# What forwards, filters by source or hides an address, for each interface and for all and default.
INTERFACE_4 = ("forwarding", "rp_filter", "accept_local", "src_valid_mark", "arp_ignore", "proxy_arp")
INTERFACE_6 = ("forwarding", "disable_ipv6")
# Redirects only where the hardening scripts set them: the two entries that rule all others.
GENERAL_4 = ("accept_redirects", "send_redirects", "log_martians")
SINGLE = (
    "ipv4/ip_forward",
    "ipv4/ip_local_port_range",
    "ipv4/ip_no_pmtu_disc",
    "ipv4/ip_nonlocal_bind",
    "ipv4/icmp_echo_ignore_all",
    "ipv4/tcp_mtu_probing",
    "ipv4/tcp_keepalive_time",
    "ipv4/neigh/default/gc_thresh1",
    "ipv4/neigh/default/gc_thresh2",
    "ipv4/neigh/default/gc_thresh3",
    "ipv4/vs/conntrack",
    "ipv4/vs/expire_nodest_conn",
    "ipv6/bindv6only",
    "bridge/bridge-nf-call-iptables",
    "bridge/bridge-nf-call-ip6tables",
    "bridge/bridge-nf-call-arptables",
    "bridge/bridge-nf-filter-vlan-tagged",
    "netfilter/nf_conntrack_max",
    "netfilter/nf_conntrack_buckets",
    "netfilter/nf_conntrack_tcp_be_liberal",
    "netfilter/nf_conntrack_tcp_loose",
    "netfilter/nf_conntrack_udp_timeout",
)
DEFAULT_ZERO = frozenset(("accept_local", "src_valid_mark", "arp_ignore", "proxy_arp"))
INTERFACES_LIMIT = 4096


def value(text: str) -> int | str:
    """An integer where the sysctl is one, else its words joined by one space."""
    words = text.split()
    if len(words) == 1:
        try:
            return int(words[0])
        except ValueError:
            return words[0]
    return " ".join(words)


def key(path: str) -> str:
    """The sysctl name of a path below /proc/sys/net: sysctl(8) writes a dot inside an interface name as a slash."""
    return "net." + ".".join(part.replace(".", "/") for part in path.split("/"))


def read_sysctls(base: str = BASE) -> dict[str, int | str]:
    """The sysctls that decide about forwarding and filtering, by name.

    Those of an interface that are 0 unless somebody set them (accept_local, src_valid_mark, arp_ignore, proxy_arp)
    are listed only where they are not 0; a sysctl that the kernel does not have is absent.
    """
    found: dict[str, int | str] = {}

    def take(path: str, skip_zero: bool = False) -> None:
        text = read_text(f"{base}/{path}", 256)
        if text is not None and text.strip():
            number = value(text)
            if not (skip_zero and number == 0):
                found[key(path)] = number

    for path in SINGLE:
        take(path)
    for family, names in (("ipv4", INTERFACE_4), ("ipv6", INTERFACE_6)):
        for interface in _interfaces(f"{base}/{family}/conf"):
            for name in names:
                take(f"{family}/conf/{interface}/{name}", skip_zero=name in DEFAULT_ZERO)
    for interface in ("all", "default"):
        for name in GENERAL_4:
            take(f"ipv4/conf/{interface}/{name}")
    return found


def _interfaces(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))[:INTERFACES_LIMIT]
    except OSError:
        return []

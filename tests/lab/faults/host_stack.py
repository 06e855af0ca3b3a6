# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Forwarding switched off, on one interface or for the whole host; and what hardening files keep wrong."""

from __future__ import annotations

from .addressing import RouteByCable, SecondCable, host_between
from .changes import HostFile, Sysctl
from .model import Broken, Change, Expect, Fault, egress, overlay_between, published

INTERFACE = "if-forwarding-off"
GLOBAL = "ip-forward-zero"
ALONG = "net/ipv4/conf/*/*"
HARDENING_FILE = "/etc/sysctl.d/90-hardening.conf"


def interface_off(variant: str, link: str, *pairs: Broken, more: tuple[Change, ...] = ()) -> Fault:
    name = INTERFACE + (variant and f":{variant}")
    change = Sysctl(f"net/ipv4/conf/{link}/forwarding", "0")
    summary = f"forwarding is off on {link}" + (", and a hardening file keeps it so" if more else "")
    return Fault(name, summary, (*more, change), Expect((INTERFACE,), ("host-stack",), pairs))


def hardening(*lines: str) -> HostFile:
    return HostFile(HARDENING_FILE, "\n".join(("# site hardening", *lines, "")))


def global_off(variant: str, summary: str, *more: Change) -> Fault:
    name = GLOBAL + (variant and f":{variant}")
    pairs = (published(), egress("egress-overlay"), egress("egress-bridge"))
    change = Sysctl("net/ipv4/ip_forward", "0", ALONG)
    return Fault(name, summary, (*more, change), Expect((GLOBAL,), ("host-stack",), pairs))


FAULTS = (
    interface_off("", "docker0", published(), egress("egress-bridge")),
    interface_off("docker_gwbridge", "docker_gwbridge", egress("egress-overlay")),
    interface_off("eth0", "eth0", published(), egress("egress-bridge"), egress("egress-overlay")),
    interface_off(
        "persisted",
        "docker_gwbridge",
        egress("egress-overlay"),
        more=(hardening("net.ipv4.conf.docker_gwbridge.forwarding = 0"),),
    ),
    global_off("", "ip_forward is 0"),
    global_off(
        "persisted",
        "ip_forward is 0, and a hardening file keeps it so",
        hardening("net.ipv4.ip_forward = 0"),
    ),
    Fault(
        "multi-nic-rpfilter:persisted",
        "strict filtering on the first NIC, kept by a hardening file, and the way to a peer is the second NIC",
        (
            SecondCable(),
            hardening("net.ipv4.conf.all.rp_filter = 0", "net.ipv4.conf.eth0.rp_filter = 1"),
            Sysctl("net/ipv4/conf/eth0/rp_filter", "1"),
            RouteByCable(),
        ),
        Expect(("multi-nic-rpfilter",), ("host-stack",), (*host_between(), *overlay_between()), direction="in"),
        settle=90,
    ),
)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Forwarding switched off: on one interface, or for the whole host."""

from __future__ import annotations

from .changes import HostFile, Sysctl
from .model import Broken, Change, Expect, Fault, egress, published

INTERFACE = "if-forwarding-off"
GLOBAL = "ip-forward-zero"
ALONG = "net/ipv4/conf/*/*"
HARDENING = "# site hardening\nnet.ipv4.ip_forward = 0\n"


def interface_off(variant: str, link: str, *pairs: Broken) -> Fault:
    name = INTERFACE + (variant and f":{variant}")
    change = Sysctl(f"net/ipv4/conf/{link}/forwarding", "0")
    return Fault(name, f"forwarding is off on {link}", (change,), Expect((INTERFACE,), ("host-stack",), pairs))


def global_off(variant: str, summary: str, *more: Change) -> Fault:
    name = GLOBAL + (variant and f":{variant}")
    pairs = (published(), egress("egress-overlay"), egress("egress-bridge"))
    change = Sysctl("net/ipv4/ip_forward", "0", ALONG)
    return Fault(name, summary, (*more, change), Expect((GLOBAL,), ("host-stack",), pairs))


FAULTS = (
    interface_off("", "docker0", published(), egress("egress-bridge")),
    interface_off("docker_gwbridge", "docker_gwbridge", egress("egress-overlay")),
    interface_off("eth0", "eth0", published(), egress("egress-bridge"), egress("egress-overlay")),
    global_off("", "ip_forward is 0"),
    global_off(
        "persisted",
        "ip_forward is 0, and a hardening file keeps it so",
        HostFile("/etc/sysctl.d/90-hardening.conf", HARDENING),
    ),
)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the kernel makes of network sysctls: which ones it rewrites along, and which value holds for an interface.

Sources: net/ipv4/devinet.c (devinet_sysctl_forward, inet_forward_change), include/linux/inetdevice.h (IN_DEV_*CONF),
net/ipv6/addrconf.c (addrconf_fixup_forwarding and its siblings), Documentation/networking/ip-sysctl.rst; tried on 6.18.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_text
from ansible_collections.crosshost.doctor.plugins.module_utils._sysctl import SINGLE

# One variable under two names.
V4_FORWARD = ("net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding")
# Sysctls of "all" in IPv6 that are written into every interface, also when "all" has the value already.
V6_WIDE = ("forwarding", "disable_ipv6", "ignore_routes_with_linkdown", "addr_gen_mode")
INTERFACE_4 = (
    *("forwarding", "rp_filter", "accept_redirects", "send_redirects", "secure_redirects", "accept_local"),
    *("src_valid_mark", "route_localnet", "arp_ignore", "proxy_arp", "log_martians", "accept_source_route"),
)
INTERFACE_6 = ("forwarding", "force_forwarding", "disable_ipv6", "accept_ra", "accept_redirects")
INTERFACES_LIMIT = 1024
# One variable of the whole machine: there to be read, and not to be set, in every network namespace but the first.
MACHINE_WIDE = frozenset(f"net/netfilter/nf_conntrack_{name}" for name in ("max", "buckets", "expect_max"))
_MAXIMUM = frozenset(("rp_filter", "arp_ignore"))
_BOTH = frozenset(("accept_source_route",))
_OWN = frozenset(("forwarding",))


def words(text: str) -> str:
    """A value as it is compared: its words, by one space."""
    return " ".join(text.split())


class Runtime:
    """The sysctls of the namespace this runs in, below C(root)/proc/sys."""

    def __init__(self, root: str = "/") -> None:
        self.base = os.path.join(root, "proc/sys")

    def read(self, path: str) -> str | None:
        """The value; None where the kernel has no such sysctl."""
        text = read_text(f"{self.base}/{path}", 65536)
        return None if text is None else words(text)

    def write(self, path: str, value: str) -> None:
        """Set a value. Nothing is created: a sysctl is there or not.

        @raises OSError: the kernel refuses.
        """
        descriptor = os.open(f"{self.base}/{path}", os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode() + b"\n")
        finally:
            os.close(descriptor)

    def locked(self, path: str) -> bool:
        """Whether it is the machine's, and this network namespace is not where it is set."""
        try:
            return path in MACHINE_WIDE and not os.stat(f"{self.base}/{path}").st_mode & 0o200
        except OSError:
            return False

    def interfaces(self, family: str) -> list[str]:
        """The interfaces, C(all) and C(default) first."""
        try:
            names = os.listdir(f"{self.base}/net/{family}/conf")
        except OSError:
            return []
        return sorted(names, key=lambda name: (name not in ("all", "default"), name))

    def has_folder(self, path: str) -> bool:
        return os.path.isdir(f"{self.base}/{os.path.dirname(path)}")

    def snapshot(self, also: tuple[str, ...] = ()) -> dict[str, str]:
        """The values of everything this collection looks at, by path, and of C(also)."""
        wanted = [f"net/{name}" for name in SINGLE]
        for family, names in (("ipv4", INTERFACE_4), ("ipv6", (*INTERFACE_6, *V6_WIDE))):
            for interface in self.interfaces(family)[: INTERFACES_LIMIT + 2]:
                wanted += [f"net/{family}/conf/{interface}/{name}" for name in names]
        found = {path: self.read(path) for path in dict.fromkeys((*wanted, *also))}
        return {path: value for path, value in found.items() if value is not None}


def split(path: str) -> tuple[str, str, str] | None:
    """Family, interface and name of a sysctl of an interface (or of C(all) and C(default)); None for others."""
    parts = path.split("/")
    if len(parts) == 5 and parts[0] == "net" and parts[1] in ("ipv4", "ipv6") and parts[2] == "conf":
        return parts[1], parts[3], parts[4]
    return None


def wide_for(path: str) -> tuple[str, ...]:
    """The sysctls whose writing rewrites this one."""
    if path in V4_FORWARD:
        return tuple(other for other in V4_FORWARD if other != path)
    if path == "net/ipv4/conf/all/accept_redirects":
        return V4_FORWARD
    found = split(path)
    if found is None or found[1] == "all":
        return ()
    family, _interface, name = found
    if family == "ipv4":
        return V4_FORWARD if name == "forwarding" else ()
    return (f"net/ipv6/conf/all/{name}",) if name in V6_WIDE else ()


def along(path: str, wide: str, value: str, before: str | None) -> str | None:
    """What C(path) becomes when C(wide), until then C(before), is written; None when it stays."""
    if wide not in wide_for(path):
        return None
    if wide in V4_FORWARD and path not in V4_FORWARD:
        if value == before:
            return None
        if path == "net/ipv4/conf/all/accept_redirects":
            return "0" if value != "0" else "1"
    return value


def consequences(path: str, value: str, state: Mapping[str, str]) -> dict[str, str]:
    """What writing C(value) into C(path) changes in C(state), itself included."""
    before = state.get(path)
    changed = {other: along(other, path, value, before) for other in state}
    return {**{other: new for other, new in changed.items() if new is not None and new != state[other]}, path: value}


def effective(path: str, state: Mapping[str, str]) -> int | None:
    """The number that holds for an interface: that of C(all) and its own, combined as the kernel does."""
    found = split(path)
    own = _number(state.get(path))
    if found is None or own is None:
        return own
    family, _interface, name = found
    general = _number(state.get(f"net/{family}/conf/all/{name}"))
    if family == "ipv6":
        if name != "forwarding":
            return own
        forced = _number(state.get(path.replace("/forwarding", "/force_forwarding"))) or 0
        return int(bool(general or forced))
    if name in _OWN or general is None:
        return own
    if name in _MAXIMUM:
        return max(general, own)
    if name == "accept_redirects":
        router = _number(state.get(path.replace("/accept_redirects", "/forwarding")))
        return int(bool(general and own)) if router else int(bool(general or own))
    return int(bool(general and own)) if name in _BOTH else int(bool(general or own))


def _number(text: str | None) -> int | None:
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two hosts with two routers between them, and a VXLAN tunnel on top: the topology of the kernel's path MTU tests.

    A --- R1 --- B      10.0.1.0/24 and 10.0.3.0/24, fc00:1::/64 and fc00:3::/64
    A --- R2 --- B      10.0.2.0/24 and 10.0.4.0/24, fc00:2::/64 and fc00:4::/64

Hosts are .1 and ::1, routers .2 and ::2. A goes by R1, and to 10.0.4.1 by R2; B goes by R1.
"""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.module_utils import _pmtu
from tests.unit.plugins.module_utils.probe_network import Node

SEGMENTS = {"a_r1": 1, "a_r2": 2, "b_r1": 3, "b_r2": 4}
INNER_A, INNER_B = ("192.168.2.1", "fd00:2::a"), ("192.168.2.2", "fd00:2::b")


class PmtuNetwork:
    """Built once; C(arrange) gives it the MTUs, the tunnel and the filters of one case."""

    def __init__(self) -> None:
        self.a, self.r1, self.r2, self.b = Node(), Node(), Node(), Node()
        for node in (self.a, self.r1, self.r2, self.b):
            node.sysctl("net.ipv6.conf.default.accept_dad", 0)
            node.sysctl("net.ipv6.conf.all.accept_dad", 0)
        for router in (self.r1, self.r2):
            router.sysctl("net.ipv4.ip_forward", 1)
            router.sysctl("net.ipv6.conf.all.forwarding", 1)
        self._mtus: dict[str, int] = {}
        self.plug()

    def plug(self) -> None:
        """The cables. Links whose MTU was below 1280 lose IPv6 for good, so they are made anew after such a case."""
        for name, number in SEGMENTS.items():
            host, router = (self.a if name[0] == "a" else self.b), (self.r1 if name.endswith("r1") else self.r2)
            host.ip("link", "add", name, "type", "veth", "peer", name, "netns", str(router.pid))
            for node, end in ((host, 1), (router, 2)):
                node.ip("address", "add", f"10.0.{number}.{end}/24", "dev", name)
                node.ip("address", "add", f"fc00:{number}::{end}/64", "dev", name, "nodad")
                node.ip("link", "set", name, "up")
        self.a.ip("route", "add", "default", "via", "10.0.1.2")
        self.a.ip("-6", "route", "add", "default", "via", "fc00:1::2")
        self.a.ip("route", "add", "10.0.4.1/32", "via", "10.0.2.2")
        self.a.ip("-6", "route", "add", "fc00:4::1/128", "via", "fc00:2::2")
        self.b.ip("route", "add", "default", "via", "10.0.3.2")
        self.b.ip("-6", "route", "add", "default", "via", "fc00:3::2")

    def unplug(self) -> None:
        self._mtus.clear()
        for name in SEGMENTS:
            (self.a if name[0] == "a" else self.b).ip("link", "del", name)

    def mtu(self, segment: str, value: int) -> None:
        if self._mtus.get(segment, 1500) == value:
            return
        self._mtus[segment] = value
        host, router = (self.a if segment[0] == "a" else self.b), (self.r1 if segment.endswith("r1") else self.r2)
        for node in (host, router):
            node.ip("link", "set", segment, "mtu", str(value))

    def forget(self) -> None:
        """Cached path MTUs of an earlier case."""
        for node in (self.a, self.b):
            node.run("sh", "-c", "ip route flush cache; ip -6 route flush cache")

    def tunnel(self, version: int, mtu: int, df: str) -> None:
        for node, own, remote, inner in (
            (self.a, 1, 3, INNER_A),
            (self.b, 3, 1, INNER_B),
        ):
            ends = [f"10.0.{own}.1", f"10.0.{remote}.1"] if version == 4 else [f"fc00:{own}::1", f"fc00:{remote}::1"]
            more = f"df {df}" if version == 4 else ""
            script = [
                f"ip link add vx type vxlan id 1 local {ends[0]} remote {ends[1]} ttl 64 dstport 4789 {more}",
                f"ip address add {inner[0]}/24 dev vx",
                f"ip address add {inner[1]}/64 dev vx nodad",
                f"ip link set vx mtu {mtu} up",
            ]
            node.run("sh", "-ec", "\n".join(script))

    def untunnel(self) -> None:
        for node in (self.a, self.b):
            node.ip("link", "del", "vx")

    def silence(self) -> None:
        """R1 no longer says that a packet is too big."""
        self.r1.filter("output", "icmp type destination-unreachable drop", "icmpv6 type packet-too-big drop")

    def drop_fragments(self) -> None:
        """Both ends drop fragments before they are put together."""
        chain = "type filter hook prerouting priority -450;\nip frag-off & 0x3fff != 0 drop"
        for node in (self.a, self.b):
            node.run("nft", "-f", "-", stdin=f"table ip test {{\nchain test {{\n{chain}\n}}\n}}\n")

    def reset(self) -> None:
        for node in (self.a, self.r1, self.r2, self.b):
            node.unfilter()

    def search(self, address: str, node: Node | None = None, **options: t.Any) -> dict[str, t.Any]:
        """The module's row for one address."""
        return self.search_all([{"address": address, **options.pop("target", {})}], node, **options)["results"][0]

    def search_all(
        self, targets: list[dict[str, t.Any]], node: Node | None = None, **options: t.Any
    ) -> dict[str, t.Any]:
        report = _pmtu.new_report("test-run")
        source = {"netns": (node or self.a).path}
        source["targets"] = [{"id": f"t{number}", **one} for number, one in enumerate(targets)]
        _pmtu.run({"sources": [source], "timeout": 0.5, **options}, report)
        assert not [row for row in report["missing"] if "internal error" in row["why"]], report["missing"]
        return report

    def close(self) -> None:
        for node in (self.a, self.b, self.r1, self.r2):
            node.close()

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The underlay: links, addresses and routes of a lab, all through pyroute2."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netns import setns

T = TypeVar("T")

BRIDGE = "underlay"
GATEWAY = "192.0.2.1"
OUTSIDE = "198.51.100.1"
PREFIX_LENGTH = 24


def address_of(index: int) -> str:
    """The underlay address of the host with this number, from 1."""
    return f"192.0.2.{10 + index}"


def port_of(index: int) -> str:
    """The name of a host's port on the fabric's bridge."""
    return f"p{index}"


def nic_of(index: int) -> str:
    """The name of a host's NIC while the host reboots."""
    return f"nic{index}"


def inside(netns: str | Path, function: Callable[[], T]) -> T:
    """Call the function in a thread that has entered the network namespace; the caller's own is not changed."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            handle = os.open(netns, os.O_RDONLY)
            try:
                setns(handle)
            finally:
                os.close(handle)
            outcome.append(function())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work, name=f"inside {netns}")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def netlink(netns: str | Path, function: Callable[[IPRoute], T]) -> T:
    """Call the function with a netlink socket of the namespace."""

    def work() -> T:
        with IPRoute() as ip:
            return function(ip)

    return inside(netns, work)


def index_of(ip: IPRoute, name: str) -> int:
    found = list(ip.link_lookup(ifname=name))
    if not found:
        raise LookupError(f"no link {name!r} here")
    return int(found[0])


def set_link(ip: IPRoute, name: str, **attributes: Any) -> None:
    ip.link("set", index=index_of(ip, name), **attributes)


def build_fabric(fabric: str) -> None:
    """The bridge with the gateway address, and the outside address behind it."""

    def work(ip: IPRoute) -> None:
        set_link(ip, "lo", state="up")
        ip.link("add", ifname=BRIDGE, kind="bridge")
        set_link(ip, BRIDGE, state="up")
        ip.addr("add", index=index_of(ip, BRIDGE), address=GATEWAY, prefixlen=PREFIX_LENGTH)
        ip.addr("add", index=index_of(ip, "lo"), address=OUTSIDE, prefixlen=32)

    netlink(fabric, work)


def lay_cable(fabric: str, host: str, index: int) -> None:
    """Connect a host's eth0 to its port of the fabric's bridge."""
    handle = os.open(host, os.O_RDONLY)

    def work(ip: IPRoute) -> None:
        ip.link("add", ifname=port_of(index), kind="veth", peer={"ifname": "eth0", "net_ns_fd": handle})
        set_link(ip, port_of(index), master=index_of(ip, BRIDGE), state="up")

    try:
        netlink(fabric, work)
    finally:
        os.close(handle)
    no_offload(fabric, port_of(index))
    no_offload(host, "eth0")


def configure(host: str, index: int) -> None:
    """Give a host its address and default route."""

    def work(ip: IPRoute) -> None:
        set_link(ip, "lo", state="up")
        set_link(ip, "eth0", state="up")
        ip.addr("add", index=index_of(ip, "eth0"), address=address_of(index), prefixlen=PREFIX_LENGTH)
        ip.route("add", dst="default", gateway=GATEWAY)

    netlink(host, work)


def move(source: str, link: int, target: str, name: str) -> None:
    """Move a link into another network namespace, under that name."""
    handle = os.open(target, os.O_RDONLY)

    def work(ip: IPRoute) -> None:
        ip.link("set", index=link, state="down")
        ip.link("set", index=link, net_ns_fd=handle, ifname=name)

    try:
        netlink(source, work)
    finally:
        os.close(handle)


def take_nic(fabric: str, host: str, index: int) -> None:
    """Take the host's NIC into the fabric's namespace: it is hardware, and so is the cable, and outlives the host's."""

    def other_end(ip: IPRoute) -> int:
        return int(ip.get_links(index_of(ip, port_of(index)))[0].get("link"))

    move(host, netlink(fabric, other_end), fabric, nic_of(index))


def give_nic(fabric: str, host: str, index: int) -> None:
    """Give the host its NIC (back): with its address, and as drivers bring one up for the rest."""
    move(fabric, netlink(fabric, lambda ip: index_of(ip, nic_of(index))), host, "eth0")
    enter = ["nsenter", f"--net={host}", "--"]
    fresh = "mtu 1500 txqueuelen 1000 promisc off allmulticast off arp on multicast on".split()
    for command in (
        ["ip", "link", "set", "eth0", *fresh],
        ["ip", "link", "set", "eth0", "xdp", "off"],
        ["ethtool", "-K", "eth0", *(word for pair in features_of_a_new_link(fabric) for word in pair)],
    ):
        subprocess.run([*enter, *command], check=True, capture_output=True, text=True)
    no_offload(host, "eth0")


def features_of_a_new_link(fabric: str) -> list[tuple[str, str]]:
    """The offloads that can be switched, and how they are on a link that was just made."""
    enter = ["nsenter", f"--net={fabric}", "--"]
    name = f"new{threading.get_native_id()}"
    subprocess.run([*enter, "ip", "link", "add", name, "type", "veth"], check=True, capture_output=True)
    try:
        listing = subprocess.run([*enter, "ethtool", "-k", name], check=True, capture_output=True, text=True).stdout
    finally:
        subprocess.run([*enter, "ip", "link", "del", name], check=True, capture_output=True)
    pairs = [line.strip().split(": ") for line in listing.splitlines()[1:] if not line.endswith("[fixed]")]
    return [(feature, value.split()[0]) for feature, value in pairs]


def no_offload(netns: str, link: str) -> None:
    """No segments larger than the MTU: veth would carry them past every MTU on the way, as no real NIC does."""
    command = ["nsenter", f"--net={netns}", "ethtool", "-K", link, "tso", "off", "gso", "off", "gro", "off"]
    subprocess.run(command, check=True, capture_output=True, text=True)

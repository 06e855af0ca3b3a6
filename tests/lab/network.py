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


def plug_in(fabric: str, host: str, index: int) -> None:
    """Connect a host's eth0 to its port of the fabric's bridge, and give it its address and default route."""
    handle = os.open(host, os.O_RDONLY)

    def lay_cable(ip: IPRoute) -> None:
        ip.link("add", ifname=port_of(index), kind="veth", peer={"ifname": "eth0", "net_ns_fd": handle})
        set_link(ip, port_of(index), master=index_of(ip, BRIDGE), state="up")

    def configure(ip: IPRoute) -> None:
        set_link(ip, "lo", state="up")
        set_link(ip, "eth0", state="up")
        ip.addr("add", index=index_of(ip, "eth0"), address=address_of(index), prefixlen=PREFIX_LENGTH)
        ip.route("add", dst="default", gateway=GATEWAY)

    try:
        netlink(fabric, lay_cable)
    finally:
        os.close(handle)
    netlink(host, configure)
    no_offload(fabric, port_of(index))
    no_offload(host, "eth0")


def no_offload(netns: str, link: str) -> None:
    """No segments larger than the MTU: veth would carry them past every MTU on the way, as no real NIC does."""
    command = ["nsenter", f"--net={netns}", "ethtool", "-K", link, "tso", "off", "gso", "off", "gro", "off"]
    subprocess.run(command, check=True, capture_output=True, text=True)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Forwarding and neighbour entries of overlay networks on one host: what is there, what is asked for, what to run.

Everything is read by netlink and written by iproute2's programs, with the very words that undo it. The names of bridges
and tunnel devices come from the network's namespace: an overlay with several subnets has several of each.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._fdb import read_fdb, read_neighbours
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal
from ansible_collections.crosshost.doctor.plugins.module_utils._netns import Namespace, enumerate_namespaces, inside
from ansible_collections.crosshost.doctor.plugins.module_utils._rawdump import attributes, dump

NETWORK = re.compile(r"[0-9a-z]{10,64}")
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
DEVICE = re.compile(r"[A-Za-z0-9_.@+-]{1,15}")
RTM_GETLINK, RTM_GETADDR = 18, 22
IFLA_IFNAME, IFLA_MASTER, IFLA_LINKINFO, IFLA_INFO_KIND = 3, 10, 18, 1
IFA_ADDRESS = 1
IFINFO, IFADDR = struct.Struct("=BxHiII"), struct.Struct("=BBBBi")
_U32 = struct.Struct("=I")

Run = Callable[["list[str]", "str | None"], "tuple[int, str]"]


class EntryError(Exception):
    """What was asked for cannot be done; the message is for the user."""


@dataclass(frozen=True)
class Entry:
    """Where one endpoint of a network is: its MAC, its address if the neighbour is meant too, and its host's VTEP."""

    network: str
    mac: str
    ip: str | None
    vtep: str


@dataclass
class Device:
    """A tunnel device: its name, and the subnets of the bridge it is a port of."""

    index: int
    name: str
    subnets: list[Any] = field(default_factory=list)


@dataclass
class State:
    """What a network's namespace holds for its tunnel devices."""

    network: str
    path: str
    devices: list[Device] = field(default_factory=list)
    fdb: dict[tuple[int, str], tuple[str, str]] = field(default_factory=dict)  # (device, MAC): destination, state
    neighbours: dict[tuple[int, str], tuple[str, str]] = field(default_factory=dict)  # (device, IP): MAC, state


@dataclass
class Change:
    """One entry that is to become another; None: there is none."""

    kind: str  # fdb | neighbour
    state: State
    device: str
    key: str
    before: tuple[str, str] | None
    after: str | None

    def command(self, value: str | None, state: str = "permanent") -> list[str]:
        """What makes the entry have this value, or removes it."""
        if self.kind == "fdb":
            if value is None:
                return ["bridge", "fdb", "del", self.key, "dev", self.device, "self"]
            kind = "permanent" if "permanent" in state else "dynamic"
            return ["bridge", "fdb", "replace", self.key, "dev", self.device, "dst", value, "self", kind]
        if value is None:
            return ["ip", "neigh", "del", self.key, "dev", self.device]
        kind = state if state in ("permanent", "noarp", "reachable", "stale") else "stale"
        return ["ip", "neigh", "replace", self.key, "lladdr", value, "dev", self.device, "nud", kind]

    @property
    def apply(self) -> list[str]:
        return self.command(self.after)

    @property
    def undo(self) -> list[str]:
        return self.command(*self.before) if self.before else self.command(None)


# ---- what is asked for


def entry_of(row: dict[str, Any]) -> Entry:
    """One entry of the module's options, checked.

    @raises EntryError: it is no unicast entry of an overlay network.
    """
    network, mac = str(row.get("network") or ""), str(row.get("mac") or "").lower()
    if not NETWORK.fullmatch(network):
        raise EntryError(f"{network!r} is not a network id, or the first ten or more characters of one.")
    if not MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise EntryError(f"{mac!r} is not the MAC address of one endpoint.")
    ip = row.get("ip")
    return Entry(network, mac, unicast(ip, "ip") if ip else None, unicast(row.get("vtep"), "vtep"))


def unicast(value: Any, what: str) -> str:
    """A unicast address in its usual spelling.

    @raises EntryError: it is none.
    """
    try:
        found = ipaddress.ip_address(str(value))
    except ValueError:
        raise EntryError(f"{what}: {value!r} is not an IP address.") from None
    if found.is_multicast or found.is_unspecified or found.is_loopback or "%" in str(found):
        raise EntryError(f"{what}: {found} is not the address of one host.")
    return str(found)


# ---- what is there


def find_namespace(network: str, namespaces: Iterable[Namespace]) -> Namespace | None:
    """The namespace whose name has the first ten characters of the network's id."""
    for one in namespaces:
        if one.kind == "overlay" and one.network_prefix == network[:10] and not one.error:
            return one
    return None


def read_state(network: str, path: str) -> State:
    """What the namespace holds now.

    @raises OSError: it cannot be entered or read.
    """
    state = State(network, path)
    with inside(path):
        links, _consistent = dump(RTM_GETLINK, IFINFO.pack(0, 0, 0, 0, 0), _links)
        addresses, _consistent = dump(RTM_GETADDR, IFADDR.pack(0, 0, 0, 0, 0), _addresses)
        fdb, _consistent = read_fdb()
        neighbours, _consistent = read_neighbours()
    for index, name, master, kind in links:
        if kind == "vxlan":
            state.devices.append(Device(index, name, [subnet for where, subnet in addresses if where == master]))
    own = {device.index for device in state.devices}
    for row in fdb:
        if row["index"] in own and "self" in row["flags"] and row["dst"] and row["vni"] is None:
            state.fdb.update(((row["index"], mac), (row["dst"], row["state"])) for mac in row["macs"])
    for row in neighbours:
        if row["index"] in own:
            found = (((row["index"], ip), (mac, row["state"])) for ip, mac in row["entries"] if mac)
            state.neighbours.update(found)
    return state


def _links(messages: Iterable[tuple[bytes, int, int]]) -> list[tuple[int, str, int | None, str | None]]:
    rows = []
    for buffer, start, end in messages:
        index = IFINFO.unpack_from(buffer, start + 16)[2]
        name, master, kind = "", None, None
        for attribute, first, last in attributes(buffer, start + 16 + IFINFO.size, end):
            if attribute == IFLA_IFNAME:
                name = _text(buffer[first:last])
            elif attribute == IFLA_MASTER and last - first == 4:
                master = _U32.unpack_from(buffer, first)[0]
            elif attribute == IFLA_LINKINFO:
                inner = attributes(buffer, first, last)
                kind = next((_text(buffer[one:two]) for what, one, two in inner if what == IFLA_INFO_KIND), None)
        rows.append((index, name, master, kind))
    return rows


def _addresses(messages: Iterable[tuple[bytes, int, int]]) -> list[tuple[int, Any]]:
    rows: list[tuple[int, Any]] = []
    for buffer, start, end in messages:
        _family, bits, _flags, _scope, index = IFADDR.unpack_from(buffer, start + 16)
        for attribute, first, last in attributes(buffer, start + 16 + IFADDR.size, end):
            if attribute == IFA_ADDRESS and last - first in (4, 16):
                family = socket.AF_INET if last - first == 4 else socket.AF_INET6
                text = socket.inet_ntop(family, buffer[first:last])
                rows.append((index, ipaddress.ip_network(f"{text}/{bits}", strict=False)))
    return rows


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("utf-8", "replace")


def device_of(state: State, entry: Entry) -> Device:
    """The tunnel device that an entry belongs to: that of the only subnet, or of the one its address is in.

    @raises EntryError: the network has several subnets and nothing tells which.
    """
    found = state.devices
    if len(found) > 1 and entry.ip:
        found = [one for one in found if any(ipaddress.ip_address(entry.ip) in subnet for subnet in one.subnets)]
    elif len(found) > 1:
        found = [one for one in found if (one.index, entry.mac) in state.fdb]
    if len(found) != 1:
        names = ", ".join(one.name for one in state.devices) or "none"
        raise EntryError(
            f"Nothing tells which tunnel device of network {state.network} the entry of {entry.mac} belongs to: it has "
            f"{names}. Give the endpoint's address."
        )
    if not DEVICE.fullmatch(found[0].name):
        raise EntryError(f"{found[0].name!r} is a device name that is left alone.")
    return found[0]


def read_states(networks: Iterable[str]) -> dict[str, State]:
    """The state of each network that has a namespace on this host.

    @raises OSError: one cannot be read.
    """
    namespaces, _missing = enumerate_namespaces()
    found = {network: find_namespace(network, namespaces) for network in dict.fromkeys(networks)}
    return {network: read_state(network, one.path) for network, one in found.items() if one is not None}


# ---- the plan


def plan(states: dict[str, State], present: list[Entry], absent: list[Entry]) -> list[Change]:
    """The entries to change. An absent one is removed only where it is exactly the one named.

    @raises EntryError: a network has no namespace here, or two entries contradict each other.
    """
    wanted: dict[tuple[str, int, str, str], Change] = {}
    for entry in present:
        state = states.get(entry.network)
        if state is None:
            raise EntryError(
                f"Network {entry.network} has no namespace on this host: no container of it runs here, or the engine "
                "keeps its namespaces out of sight."
            )
        device = device_of(state, entry)
        _want(wanted, Change("fdb", state, device.name, entry.mac, None, entry.vtep), device.index)
        if entry.ip:
            _want(wanted, Change("neighbour", state, device.name, entry.ip, None, entry.mac), device.index)
    for entry in absent:
        state = states.get(entry.network)
        if state is None:
            continue  # it went with the namespace
        for device in state.devices:
            if state.fdb.get((device.index, entry.mac), ("",))[0] == entry.vtep:
                _want(wanted, Change("fdb", state, device.name, entry.mac, None, None), device.index)
            if entry.ip and state.neighbours.get((device.index, entry.ip), ("",))[0] == entry.mac:
                _want(wanted, Change("neighbour", state, device.name, entry.ip, None, None), device.index)
    return [change for change in wanted.values() if not _is_so(change)]


def _want(wanted: dict[tuple[str, int, str, str], Change], change: Change, index: int) -> None:
    table = change.state.fdb if change.kind == "fdb" else change.state.neighbours
    change.before = table.get((index, change.key))
    known = wanted.setdefault((change.state.path, index, change.kind, change.key), change)
    if known.after != change.after:
        values = " and ".join(str(one) for one in (known.after or "nothing", change.after or "nothing"))
        raise EntryError(f"{change.key} is asked to have {values}: each entry can have but one.")


def _is_so(change: Change) -> bool:
    if change.after is None or change.before is None:
        return change.after is None and change.before is None
    return change.before[0] == change.after and "permanent" in change.before[1].split("+")


def apply(changes: list[Change], journal: Journal, run: Run) -> None:
    """Make the changes, each noted before.

    @raises EntryError: a program refused.
    @raises JournalError: it could not be noted; the change was not made.
    """
    for change in changes:
        journal.command(change.undo, netns=change.state.path, tolerate=change.before is None)
        code, error = run(change.apply, change.state.path)
        if code:
            raise EntryError(f"{' '.join(change.apply)} in {change.state.path}: {error.strip() or f'exit {code}'}")


def row(change: Change) -> dict[str, Any]:
    """A change as the module returns it."""
    return {
        "network": change.state.network,
        "device": change.device,
        "kind": change.kind,
        "key": change.key,
        "before": change.before[0] if change.before else None,
        "after": change.after,
        "command": f"nsenter --net={change.state.path} {' '.join(change.apply)}",
    }


def texts(changes: list[Change]) -> tuple[str, str]:
    """The entries before and after, for diff mode."""
    before, after = [], []
    for change in changes:
        place = f"{os.path.basename(change.state.path)} {change.device} {change.kind} {change.key}"
        if change.before:
            before.append(f"{place} -> {change.before[0]} {change.before[1]}\n")
        if change.after:
            after.append(f"{place} -> {change.after} permanent\n")
    return "".join(sorted(before)), "".join(sorted(after))

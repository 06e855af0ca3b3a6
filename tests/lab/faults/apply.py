# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Putting faults in and taking them out. What is in is written down in the lab's directory: any process can heal it."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pyroute2 import IPRoute

from .. import state, survey
from ..network import netlink
from . import find
from .changes import NUD_PERMANENT
from .model import Fault, Place, place_for

if TYPE_CHECKING:
    from ..fleet import Host, Lab

Entry = dict[str, Any]


@contextlib.contextmanager
def ledger(lab: Lab) -> Iterator[list[Entry]]:
    """The faults that are in, oldest first; written back when the block is left, however it is left."""
    path = lab.directory / "faults.json"
    with open(path, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        entries: list[Entry] = json.loads(text) if text else []
        try:
            yield entries
        finally:
            file.truncate(0)
            file.write(json.dumps(entries, indent=1))


def present(lab: Lab) -> list[Entry]:
    with ledger(lab) as entries:
        return list(entries)


def break_(lab: Lab, fault: str | Fault, host: str | None = None, settle: bool = True) -> Entry:
    """Put a fault in, wait until it bites, and return what a diagnosis must say (Expect.as_dict).

    If that fails, or the fault does not bite, it is taken out again.
    """
    definition = find(fault) if isinstance(fault, str) else fault
    place = place_for(lab, definition, host)
    pairs = definition.expect.as_dict(place)["pairs"]
    fleet = [dataclasses.asdict(container) for container in survey.containers(lab, remembered(lab))]
    with ledger(lab) as entries:
        if any((entry["fault"], entry["host"]) == (definition.name, place.host.name) for entry in entries):
            raise state.LabError(f"{definition.name} is in on {place.host.name} already")
        entry: Entry = {
            "fault": definition.name,
            "host": place.host.name,
            "chains": list(base_chains(place)),
            "fleet": fleet,
            "saved": [],
        }
        entries.append(entry)
        try:
            for change in definition.changes:
                entry["saved"].append(change.apply(place))
        except BaseException:
            take_back(definition, place, entry)
            entries.remove(entry)
            raise
    if settle:
        try:
            wait_until_it_bites(place, definition, pairs)
        except BaseException:
            heal(lab, definition, place.host.name)
            raise
    return definition.expect.as_dict(place) | {"fault": definition.name}


def remembered(lab: Lab) -> list[survey.Container]:
    """The containers that ran before the first fault was put in."""
    entries = present(lab)
    return [survey.Container(**container) for container in entries[0]["fleet"]] if entries else []


def wait_until_it_bites(place: Place, fault: Fault, pairs: list[dict[str, str]]) -> None:
    deadline = time.monotonic() + fault.settle
    while pairs or fault.withdraws:
        left = place.lab.survey().not_yet(pairs)
        if fault.withdraws and not left:
            left = still_known(place, fault.withdraws == "all")
        if not left:
            return
        if time.monotonic() > deadline:
            raise state.LabError(f"{fault.name} does not bite after {fault.settle:.0f} s: " + "; ".join(left[:6]))
        time.sleep(0.5)


def still_known(place: Place, everywhere: bool) -> list[str]:
    """The hosts whose overlay still has entries that gossip is to withdraw: theirs of the host, the host's of them.

    Healed before that, the hosts would withdraw and relearn one another up to 40 s after the lab first seemed whole.
    """
    others = [host for host in place.lab.docker_hosts if host is not place.host]
    wanted = {host: {place.host.address} for host in others}
    if everywhere:
        wanted[place.host] = {host.address for host in others}
    return [f"{host.name} still has forwarding entries" for host, peers in wanted.items() if peers & vteps(host)]


def vteps(host: Host) -> set[str]:
    """The addresses this host's engine has told the overlay to send frames to; not those learned from traffic."""

    def work(ip: IPRoute) -> set[str]:
        return {dst for entry in ip.fdb("dump") if entry["state"] & NUD_PERMANENT and (dst := entry.get("dst"))}

    return netlink(host.overlay_netns(), work)


def take_back(fault: Fault, place: Place, entry: Entry) -> None:
    for change, saved in reversed(list(zip(fault.changes, entry["saved"]))):
        change.undo(place, saved)
        entry["saved"].pop()
    drop_empty(place, entry["chains"])


def heal(lab: Lab, fault: str | Fault | None = None, host: str | None = None) -> list[tuple[Fault, str]]:
    """Take out a fault (on every host it is in, or on one), or all, latest first; returns what was taken from where."""
    name = fault.name if isinstance(fault, Fault) else fault
    healed = []
    with ledger(lab) as entries:
        chosen = [entry for entry in entries if name in (None, entry["fault"]) and host in (None, entry["host"])]
        if name and not chosen:
            raise state.LabError(
                f"{name} is not in{f' on {host}' if host else ''}; in are: {[e['fault'] for e in entries]}"
            )
        for entry in reversed(chosen):
            definition = fault if isinstance(fault, Fault) else find(entry["fault"])
            take_back(definition, place_for(lab, definition, entry["host"]), entry)
            entries.remove(entry)
            for (
                other
            ) in entries:  # chains this fault had made may have outlived it because another's rules were in them
                if other["host"] == entry["host"]:
                    other["chains"] = [name for name in other["chains"] if name in entry["chains"]]
            healed.append((definition, entry["host"]))
    return healed


def base_chains(place: Place) -> dict[str, bool]:
    """The host's nftables tables and base chains ("family table", "family table chain"), and whether each has rules."""
    objects = json.loads(place.host.run(["nft", "-j", "list", "ruleset"]).stdout or "{}").get("nftables", [])
    found = {f"{table['family']} {table['name']}": False for item in objects if (table := item.get("table"))}
    for item in objects:
        if (chain := item.get("chain")) and "hook" in chain:
            found[f"{chain['family']} {chain['table']} {chain['name']}"] = False
    for item in objects:
        if rule := item.get("rule"):
            found[f"{rule['family']} {rule['table']}"] = True
            found[f"{rule['family']} {rule['table']} {rule['chain']}"] = True
    return found


def drop_empty(place: Place, before: list[str]) -> None:
    """Remove the base chains and tables that iptables made on the way and that are empty again."""
    now = base_chains(place)
    for name in sorted(set(now) - set(before), key=lambda name: -name.count(" ")):
        if not now[name]:
            kind = "chain" if name.count(" ") == 2 else "table"
            place.host.run(["nft", "delete", kind, *name.split(" ")])

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From what is to be clamped to tables, rules and files: one plan for check mode, diff mode and the real thing."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.crosshost.doctor.plugins.module_utils import (
    _commands,
    _journal,
    _mss,
    _mss_iptables,
    _mss_unit,
)

FORWARD = "forward"
ENGINES = (
    "The namespace is the engine's. It is made anew when the last container of the network leaves the host and one "
    "comes back, when the engine is restarted without live-restore, and at boot: run this again then."
)
NOBODY = "No container of the network runs on this host."
CURE = (
    "This is a mitigation: it helps TCP only, and connections that start from now on. The cure is an MTU that fits: "
    "recreate the network with com.docker.network.driver.mtu set to what the path takes (role overlay_mtu), or raise "
    "the MTU of the path."
)


@dataclass
class Place:
    """One place where segments are clamped: what stands there and what shall."""

    where: str  # "forward", or the network's id
    backend: str  # nftables | iptables
    before: str | None = None
    after: str | None = None
    family: str = _mss.FORWARD_FAMILY
    netns: str | None = None
    persistent: bool = False
    why: str | None = None
    text: str | None = None  # what is loaded, where nft lists it in other words

    @property
    def changed(self) -> bool:
        return self.before != self.after

    def row(self, done: bool) -> dict[str, t.Any]:
        """The place for the result."""
        stands = self.after if done else self.before
        kept = {name: getattr(self, name) for name in ("where", "backend", "persistent", "why")}
        return {**kept, "changed": self.changed, "clamped": stands is not None}


@dataclass
class Plan:
    """What will be loaded and written."""

    places: list[Place] = field(default_factory=list)
    files: list[_mss_unit.File] = field(default_factory=list)
    rules: dict[str, list[_mss_iptables.Rule]] = field(default_factory=dict)  # by program, those that will be changed
    adds: bool = True
    nft: str | None = None

    @property
    def actions(self) -> list[str]:
        """What differs, in words."""
        verb = "clamp" if self.adds else "no longer clamp"
        found = [
            f"{verb} what the host forwards" if place.where == FORWARD else f"{verb} network {place.where}"
            for place in self.places
            if place.changed
        ]
        files = [file for file in self.files if file.changed]
        return found + [f"{'write' if file.after is not None else 'remove'} {file.path}" for file in files]


def make(params: dict[str, t.Any]) -> Plan:
    """The plan for a module's options.

    @raises _mss.MssError: the request cannot be met on this host.
    """
    interfaces = _mss.checked_interfaces(params["interfaces"])
    networks = _mss.checked_networks(params["networks"])
    plan = Plan(adds=params["state"] == "present", nft=_commands.find("nft"))
    backend = params["backend"]
    if backend == "auto":
        backend = "nftables" if plan.nft else "iptables"
    if plan.nft is None and (backend == "nftables" or (networks and params["runtime"])):
        raise _mss.MssError("nft is not on this host: install nftables. iptables cannot clamp what a bridge forwards.")
    if params["forward"]:
        (_forward_by_nft if backend == "nftables" else _forward_by_iptables)(plan, interfaces, params)
    if params["runtime"]:
        _overlays(plan, networks)
    return plan


def _lasts(place: Place, texts: dict[str, str], plan: Plan, params: dict[str, t.Any]) -> None:
    if not _commands.find("systemctl"):
        place.why = "This host has no systemd, and loading rules at boot is not known to this module otherwise."
    elif params["persistent"]:
        place.persistent = plan.adds
        plan.files = _mss_unit.plan(texts if plan.adds else {})


def _forward_by_nft(plan: Plan, interfaces: list[str], params: dict[str, t.Any]) -> None:
    nft = t.cast(str, plan.nft)
    text = _mss.forward_table(interfaces)
    place = Place(FORWARD, "nftables", text=text)
    if params["runtime"]:
        place.before = _mss.listed(nft, place.family)
        place.after = _mss.as_listed(nft, place.family, text) if plan.adds else None
        plan.places.append(place)
    _lasts(place, _mss_unit.nft_files(nft, text), plan, params)


def _forward_by_iptables(plan: Plan, interfaces: list[str], params: dict[str, t.Any]) -> None:
    programs, wanted = _mss_iptables.programs(), _mss_iptables.rules(interfaces)
    if not programs:
        raise _mss.MssError("Neither nft nor iptables is on this host: install nftables.")
    place = Place(FORWARD, "iptables", before="", after="")
    if params["runtime"]:
        for program in programs:
            for rule in wanted:
                text, stands = _mss_iptables.line(program, rule), _mss_iptables.stands(program, rule)
                place.before = (place.before or "") + (text if stands else "")
                place.after = (place.after or "") + (text if plan.adds else "")
                if stands != plan.adds:
                    plan.rules.setdefault(program, []).append(rule)
        place.before, place.after = place.before or None, place.after or None
        plan.places.append(place)
    _lasts(place, _mss_iptables.unit_files(programs, wanted), plan, params)


def _overlays(plan: Plan, networks: dict[str, tuple[int, int]]) -> None:
    found = _mss.overlay_namespaces() if networks else {}
    for network, sizes in networks.items():
        netns = found.get(network[: _mss.PREFIX_LENGTH])
        text = _mss.overlay_table(*sizes)
        place = Place(network, "nftables", family=_mss.OVERLAY_FAMILY, netns=netns, why=ENGINES, text=text)
        if netns is None:
            place.why = NOBODY
        else:
            nft = t.cast(str, plan.nft)
            place.before = _mss.listed(nft, place.family, netns)
            place.after = _mss.as_listed(nft, place.family, text) if plan.adds else None
        plan.places.append(place)


def apply(plan: Plan, journal: _journal.Journal) -> None:
    """Load and write what was planned, note what undoes each step before it, and read it all again.

    @raises _mss.MssError: it was not taken, or is not there afterwards.
    @raises _journal.JournalError: it cannot be noted; nothing more was changed.
    @raises OSError: a file cannot be written, or a namespace cannot be entered.
    """
    for place in plan.places:
        if place.changed and place.backend == "nftables":
            _load(place, t.cast(str, plan.nft), plan.adds, journal)
    for program, rules in plan.rules.items():
        for rule in rules:
            _mss_iptables.change(program, rule, plan.adds, journal)
            if _mss_iptables.stands(program, rule) != plan.adds:
                raise _mss.MssError(f"{program} took the change, and its rules are as before.")
    if any(file.changed for file in plan.files):
        _mss_unit.write(plan.files, journal, _commands.find("systemctl"))


def _load(place: Place, nft: str, adds: bool, journal: _journal.Journal) -> None:
    if place.before is None:
        journal.command(["nft", "delete", "table", place.family, _mss.TABLE], netns=place.netns, tolerate=True)
    else:
        old = _mss.replacing(place.family, place.before)
        journal.command(["nft", "-f", "-"], input=old, netns=place.netns)
    _mss.load(nft, _mss.replacing(place.family, place.text if adds else None), place.netns)
    if _mss.listed(nft, place.family, place.netns) != place.after:
        raise _mss.MssError(f"Table {place.family} {_mss.TABLE} is not what was loaded: another program changes it.")


def difference(plan: Plan) -> list[dict[str, str]]:
    """Tables, rules and files, before and after, for diff mode."""
    rows = []
    for place in plan.places:
        if place.changed:
            where = "forwarded traffic" if place.where == FORWARD else f"network {place.where}"
            rows.append(_change(f"{where} ({place.backend})", place.before, place.after))
    for file in plan.files:
        if file.changed:
            what = file.path + (" (link)" if file.link else "")
            rows.append(_change(what, file.before, file.after))
    return rows


def _change(header: str, before: str | None, after: str | None) -> dict[str, str]:
    texts = {"before": before or "", "after": after or ""}
    texts = {name: text + "\n" if text and not text.endswith("\n") else text for name, text in texts.items()}
    return {"before_header": header, "after_header": header, **texts}

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What rules do to a packet that goes on: NAT, marks, notrack. What only may change is unknown afterwards."""

from __future__ import annotations

import ipaddress
import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import fields
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.bits import Bytes, exactly, masked, unknown
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.state import State

Info = t.Mapping[str, t.Any]
# Which end of the tuple each kind of NAT replaces.
_SIDE = {"dnat": "dst", "redirect": "dst", "snat": "src", "masquerade": "src"}


def translate(state: State, kind: str, address: Bytes | None, port: Bytes | None, certain: bool) -> None:
    """Apply NAT. address, port: the new ones, partly known; None where the rule leaves them."""
    side = _SIDE.get(kind)
    if side is None:  # NETMAP: either, by hook
        side = "dst" if state.hook in ("prerouting", "output") else "src"
    if kind == "redirect":
        # The address of the incoming interface, which is not known here; loopback for what the host itself sends.
        loopback = "127.0.0.1" if state.packet.family == 4 else "::1"
        address = exactly(ipaddress.ip_address(loopback).packed) if state.hook == "output" else unknown(state.width)
    if kind == "masquerade":
        address = unknown(state.width)
    if address is not None:
        state.set_address(side, address if len(address.data) == state.width else unknown(state.width), certain)
        local = kind in ("redirect", "masquerade") and (certain or fields.address_type(state, side) == "local")
        state.moved[side] = "local" if local else None
    if port is not None:
        state.set_port(side, port, certain)
    elif side == "src":
        state.set_port(side, unknown(2), certain)  # kept unless the tuple is taken
    state.done[side] = True if certain and state.done.get(side, False) is False else state.done.get(side) or None
    if side == "dst":
        state.dnat = True if certain else (True if state.dnat else None)
    else:
        state.snat = True if certain else (True if state.snat else None)


def xt_nat(state: State, name: str, info: Info, certain: bool) -> str:
    """DNAT, SNAT, MASQUERADE, REDIRECT, NETMAP; the kind of change."""
    kind = {"DNAT": "dnat", "SNAT": "snat", "MASQUERADE": "masquerade", "REDIRECT": "redirect"}.get(name, "netmap")
    address = port = None
    if "addresses" in info:
        low, high = info["addresses"]
        address = exactly(ipaddress.ip_address(low).packed) if low == high else unknown(state.width)
        if kind == "netmap":
            address = unknown(state.width)
    if "ports" in info:
        first, last = info["ports"]
        port = exactly(first.to_bytes(2, "big")) if first == last else unknown(2)
    translate(state, kind, address, port, certain)
    return kind


def xt_mark(state: State, info: Info, certain: bool) -> None:
    """MARK: (mark & ~mask) ^ value."""
    order: t.Any = state.order
    keep = (~info["mask"] & 0xFFFFFFFF).to_bytes(4, order)
    state.set_mark(masked(state.mark, keep, info["mark"].to_bytes(4, order)), certain)


def xt_connmark(state: State, info: Info, certain: bool) -> None:
    """CONNMARK: restoring takes a mark nobody here knows, unless the flow's is known."""
    order: t.Any = state.order
    if info["mode"] == "restore":
        whole = info["mask"] == 0xFFFFFFFF and info["nfmask"] == 0xFFFFFFFF
        state.set_mark(state.ct_mark if whole else unknown(4), certain)
    elif info["mode"] == "save":
        whole = info["mask"] == 0xFFFFFFFF and info["nfmask"] == 0xFFFFFFFF
        state.set_ct_mark(state.mark if whole else unknown(4), certain)
    else:
        keep = (~info["mask"] & 0xFFFFFFFF).to_bytes(4, order)
        state.set_ct_mark(masked(state.ct_mark, keep, info["mark"].to_bytes(4, order)), certain)


def xt_header(state: State, name: str, info: Info, certain: bool) -> None:
    """TTL, HL, DSCP, TOS write the header."""
    if name in ("TTL", "HL"):
        value = exactly(bytes([info["value"]])) if info["op"] == "set" else unknown(1)
        state.write("network", 7 if state.packet.family == 6 else 8, value, certain)
        return
    mask, wanted = (0xFC, info["dscp"] << 2) if name == "DSCP" else (info["mask"], info["value"])
    kept = masked(state.traffic_class(), bytes([~mask & 0xFF]), bytes([wanted & 0xFF]))
    state.set_traffic_class(kept, certain)

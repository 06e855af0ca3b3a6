# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a rule matches packets of which only some fields are known: yes, no, or perhaps. What is not understood may.

The whole evaluation, of everything a rule can say, is the controller's (plugin_utils.filter_eval). This one is for the
few packets that are to be accepted, on the host, and errs on the side of a drop.
"""

from __future__ import annotations

import ipaddress
import sys
import typing as t

from ansible_collections.crosshost.doctor.plugins.module_utils._accept_flow import PROTOCOLS, Flow

Chain = t.Mapping[str, t.Any]
Truth = t.Optional[bool]
Expr = t.Mapping[str, t.Any]
Sets = t.Mapping[tuple[str, str, str], t.Mapping[str, t.Any]]
Verdicts = list[tuple[str, t.Optional[str]]]
Bits = tuple[bytes, bytes]  # value, and which bits of it are known
_VERDICT = -1
_REGISTERS = 80  # bytes
_NO_FLAGS = [0, 0, False]
_STATES = {"established": (2).to_bytes(4, sys.byteorder), "new": (8).to_bytes(4, sys.byteorder)}
_FLAGS, _ACK = 13, 0x10  # where TCP's flags are, and the one that everything but the first packet has (RFC 9293)
_PASSING = ("counter", "log", "last", "notrack", "nat", "masq", "redir", "dup")


def both(one: Truth, other: Truth) -> Truth:
    if one is False or other is False:
        return False
    return True if one and other else None


def inverted(truth: Truth, invert: bool) -> Truth:
    return truth if truth is None or not invert else not truth


def exactly(value: bytes) -> Bits:
    return value, b"\xff" * len(value)


def compare(field: Bits, wanted: bytes) -> Truth:
    """Whether the first bytes of a field equal the wanted ones."""
    value, known = field
    sure: Truth = True
    for index, byte in enumerate(wanted):
        if index >= len(value):
            return None
        if (value[index] ^ byte) & known[index]:
            return False
        if known[index] != 0xFF:
            sure = None
    return sure


def within(field: Bits, low: bytes, high: bytes) -> Truth:
    value, known = field[0][: len(low)], field[1][: len(low)]
    if len(value) < len(low):
        return None
    least = bytes(a & b for a, b in zip(value, known))
    most = bytes((a & b) | (~b & 0xFF) for a, b in zip(value, known))
    if most < low or least > high:
        return False
    return True if least >= low and most <= high else None


class Packet:
    """The packets of one flow, the first of a connection or its answers: by header, with what is known of them."""

    def __init__(self, flow: Flow, version: int) -> None:
        self.flow = flow
        self.version = version
        number = PROTOCOLS.get(flow.protocol or "")
        self.protocol: Bits = exactly(bytes([number])) if number else (b"\0", b"\0")
        width = 4 if version == 4 else 16
        header, known = bytearray(20 if version == 4 else 40), bytearray(20 if version == 4 else 40)
        place = 9 if version == 4 else 6
        header[place : place + 1], known[place : place + 1] = self.protocol
        for end, at in ((flow.source, 12 if version == 4 else 8), (flow.destination, 16 if version == 4 else 24)):
            if end:
                net = ipaddress.ip_network(end)
                header[at : at + width] = net.network_address.packed
                known[at : at + width] = net.netmask.packed
        self.network: Bits = bytes(header), bytes(known)
        self.state = "established" if flow.answers else "new"
        transport, bits = bytearray(_FLAGS + 1), bytearray(_FLAGS + 1)
        if flow.port:
            place = 0 if flow.answers else 2
            transport[place : place + 2], bits[place : place + 2] = flow.port.to_bytes(2, "big"), b"\xff\xff"
        if flow.answers:
            transport[_FLAGS] = bits[_FLAGS] = _ACK
        self.transport: Bits = bytes(transport), bytes(bits)

    def ends(self, field: str) -> t.Optional[str]:
        return self.flow.source if field == "src" else self.flow.destination

    def face(self, field: str) -> t.Optional[str]:
        return self.flow.iif if field.startswith("i") else self.flow.oif

    def load(self, expr: Expr) -> t.Optional[Bits]:
        """What an expression puts into a register; None: nothing is known of it."""
        name, key = expr["name"], expr.get("key")
        if name == "payload":
            header = {"network": self.network, "transport": self.transport}.get(str(expr.get("base")))
            if header is None:
                return None
            start, end = expr["offset"], expr["offset"] + expr["len"]
            missing = bytes(max(0, end - max(start, len(header[0]))))
            return header[0][start:end] + missing, header[1][start:end] + missing
        if name == "meta":
            if key == "l4proto":
                return self.protocol
            if key == "nfproto":
                return exactly(b"\x02" if self.version == 4 else b"\x0a")
            if key == "protocol":
                return exactly(b"\x08\x00" if self.version == 4 else b"\x86\xdd")
            if key in ("iifname", "oifname") and self.face(str(key)):
                return exactly(str(self.face(str(key))).encode().ljust(16, b"\0"))
        if name == "ct" and key == "state":
            return exactly(_STATES[self.state])
        return None


def evaluate(sets: Sets, chain: Chain, rule: t.Mapping[str, t.Any], packet: Packet) -> tuple[Truth, Verdicts]:
    """(whether the rule matches, the verdicts it can give)."""
    run = _Evaluation(sets, chain, packet)
    matched: Truth = True
    for expr in rule["exprs"]:
        matched = both(matched, run.take(expr))
        if matched is False:
            return False, []
    return matched, run.verdicts


class _Evaluation:
    """Registers and verdicts of one rule, its expressions taken one after the other."""

    def __init__(self, sets: Sets, chain: Chain, packet: Packet) -> None:
        self.sets, self.chain, self.packet = sets, chain, packet
        self.verdicts: Verdicts = []
        self._data, self._known = bytearray(_REGISTERS), bytearray(_REGISTERS)

    def put(self, number: int, value: Bits | None, width: int = 16) -> None:
        start = number * 4
        if not 0 <= start < _REGISTERS:
            return
        data, known = value if value is not None else (bytes(width), bytes(width))
        size = min(len(data), _REGISTERS - start)
        self._data[start : start + size], self._known[start : start + size] = data[:size], known[:size]

    def get(self, number: int, width: int) -> Bits:
        start = number * 4
        return bytes(self._data[start : start + width]), bytes(self._known[start : start + width])

    def take(self, expr: Expr) -> Truth:
        """Whether the expression lets the rule go on."""
        work = _WORK.get(expr["name"])
        if work is not None:
            return work(self, expr)
        if "dreg" in expr and expr["name"] != "dynset":
            self.put(expr["dreg"], self.packet.load(expr), max(4, expr.get("len", 16)))
            return True
        return True if expr["name"] in _PASSING or "sreg" in expr else None

    def bitwise(self, expr: Expr) -> Truth:
        self.put(expr["dreg"], _masked(expr, self.get), expr.get("len", 16))
        return True

    def immediate(self, expr: Expr) -> Truth:
        if "verdict" not in expr:
            self.put(expr["dreg"], exactly(bytes.fromhex(expr.get("data", ""))))
        elif expr["verdict"] not in ("continue", "break"):
            self.verdicts.append((expr["verdict"], expr.get("chain")))
        return True

    def lookup(self, expr: Expr) -> Truth:
        found = self.sets.get((self.chain["family"], self.chain["table"], expr["set"]))
        truth, verdicts = _looked_up(found, expr, self.get)
        if expr.get("dreg") == _VERDICT:
            self.verdicts += verdicts
        elif "dreg" in expr:
            self.put(expr["dreg"], None)
        return truth

    def ends(self, expr: Expr) -> Truth:
        self.verdicts.append((expr["name"], None))
        return True

    def target(self, expr: Expr) -> Truth:
        self.verdicts += {"REJECT": [("reject", None)], "NFQUEUE": [("queue", None)]}.get(expr["target"], [])
        return True


_WORK: dict[str, t.Callable[[_Evaluation, Expr], Truth]] = {
    "cmp": lambda run, expr: _compared(expr, run.get),
    "range": lambda run, expr: _compared(expr, run.get),
    "bitwise": _Evaluation.bitwise,
    "immediate": _Evaluation.immediate,
    "lookup": _Evaluation.lookup,
    "reject": _Evaluation.ends,
    "queue": _Evaluation.ends,
    "ip": lambda run, expr: _fixed(expr, run.packet),
    "match": lambda run, expr: _match(expr, run.packet),
    "target": _Evaluation.target,
}


def _compared(expr: Expr, get: t.Callable[[int, int], Bits]) -> Truth:
    if expr["name"] == "range":
        low, high = bytes.fromhex(expr["from"]), bytes.fromhex(expr["to"])
        return inverted(within(get(expr["sreg"], len(low)), low, high), expr["op"] == "neq")
    wanted = bytes.fromhex(expr.get("data", ""))
    field, size = get(expr["sreg"], len(wanted)), len(wanted)
    if expr["op"] in ("eq", "neq"):
        return inverted(compare(field, wanted), expr["op"] == "neq")
    below, above = bytes(size), b"\xff" * size
    if expr["op"] in ("lte", "gt"):
        return inverted(within(field, below, wanted), expr["op"] == "gt")
    return inverted(within(field, wanted, above), expr["op"] == "lt")


def _masked(expr: Expr, get: t.Callable[[int, int], Bits]) -> t.Optional[Bits]:
    if expr.get("op", "mask_xor") != "mask_xor":
        return None
    size = expr["len"]
    mask = bytes.fromhex(expr.get("mask", "")).ljust(size, b"\0")
    xor = bytes.fromhex(expr.get("xor", "")).ljust(size, b"\0")
    value, known = get(expr["sreg"], size)
    data = bytes((a & b) ^ c for a, b, c in zip(value, mask, xor))
    return data, bytes(a | (~b & 0xFF) for a, b in zip(known, mask))


def _looked_up(
    found: t.Optional[t.Mapping[str, t.Any]], expr: Expr, get: t.Callable[[int, int], Bits]
) -> tuple[Truth, Verdicts]:
    if found is None or found["truncated"]:
        return None, [("drop", None)] if expr.get("dreg") == _VERDICT else []
    width = found["key_len"] or 4
    field = get(expr["sreg"], width)
    fields = _fields(found["field_lens"], width)
    truth: Truth = False
    verdicts: Verdicts = []
    for element in found["elements"]:
        item = {"key": element} if isinstance(element, str) else element
        hit = _element(item["key"], fields, field)
        if hit is False:
            continue
        if "expires" in item or item.get("exprs"):
            hit = None
        truth = hit if truth is False else (truth or hit)
        if item.get("verdict", "continue") not in ("continue", "break"):
            verdicts.append((item["verdict"], item.get("chain")))
    if truth is False and "dynamic" in found["flags"]:
        truth = None
    if "dreg" in expr:
        return truth, verdicts
    return inverted(truth, "invert" in expr.get("flags", ())), []


def _fields(lengths: t.Iterable[int], width: int) -> list[tuple[int, int]]:
    """Where the fields of a concatenation are: each begins on a four-byte register."""
    found, start = [], 0
    for length in lengths:
        found.append((start, start + length))
        start += (length + 3) // 4 * 4
    return found or [(0, width)]


def _element(key: str, fields: list[tuple[int, int]], field: Bits) -> Truth:
    if key == "*":
        return None
    first, _dash, last = key.partition("-")
    low, high = bytes.fromhex(first), bytes.fromhex(last or first)
    truth: Truth = True
    for start, end in fields:
        part = field[0][start:end], field[1][start:end]
        truth = both(truth, within(part, low[start:end], high[start:end]))
    return truth


def overlaps(known: t.Optional[str], wanted: str) -> Truth:
    """Whether an address of the one network is in the other."""
    if known is None:
        return None
    try:
        one, other = ipaddress.ip_network(known), ipaddress.ip_network(wanted, strict=False)
    except ValueError:
        return None
    if one.version != other.version or not one.overlaps(other):
        return False
    return True if one.prefixlen >= other.prefixlen else None


def _fixed(expr: Expr, packet: Packet) -> Truth:
    """The part every legacy rule has: addresses, interfaces, protocol."""
    truth: Truth = True
    for field in ("src", "dst"):
        if field in expr:
            truth = both(truth, inverted(overlaps(packet.ends(field), expr[field][0]), expr[field][1]))
    for field in ("iif", "oif"):
        if field in expr:
            name, face = str(expr[field][0]), packet.face(field)
            same: Truth = None
            if face is not None:
                same = face.startswith(name[:-1]) if name.endswith(("+", "*")) else face == name
            truth = both(truth, inverted(same, expr[field][1]))
    if "protocol" in expr:
        truth = both(
            truth, inverted(compare(packet.protocol, bytes([expr["protocol"][0] & 0xFF])), expr["protocol"][1])
        )
    known = {"name", "src", "dst", "iif", "oif", "protocol"}
    return truth if known.issuperset(expr) else both(truth, None)


def _match(expr: Expr, packet: Packet) -> Truth:
    name, info = expr["match"], expr.get("info") or {}
    if name == "comment":
        return True
    if expr.get("unknown"):
        return None
    ports = {end: _part(packet.transport, at, at + 2) for end, at in (("src", 0), ("dst", 2))}
    if name in ("udp", "tcp") and "dport" in info:
        plain = list(info.get("flags", _NO_FLAGS)) == _NO_FLAGS and not any(info.get("option", ()))
        truth: Truth = True if plain and set(info) <= {"sport", "dport", "flags", "option"} else None
        for end, value in ports.items():
            low, high, invert = info[f"{end[0]}port"]
            if (low, high, invert) != (0, 65535, False):
                truth = both(truth, inverted(_between(value, low, high), invert))
        return truth
    if name == "multiport" and info.get("on") in ports:
        hits = [_between(ports[info["on"]], low, high) for low, high in info["ranges"]]
        hit: Truth = True if True in hits else None if None in hits else False
        return inverted(hit, info["invert"])
    if name in ("conntrack", "state") and set(info) == {"state"}:
        return inverted(packet.state in info["state"][0], info["state"][1])
    return None


def _part(field: Bits, start: int, end: int) -> Bits:
    return field[0][start:end], field[1][start:end]


def _between(port: Bits, low: int, high: int) -> Truth:
    return within(port, low.to_bytes(2, "big"), high.to_bytes(2, "big"))

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How an accept is written and read: flows to nft's JSON and text, to iptables' arguments, and back from a rule."""

from __future__ import annotations

import ipaddress
import sys
import typing as t

from ansible_collections.crosshost.doctor.plugins.module_utils._accept_flow import NUMBERS, Flow, network, order

Sets = t.Mapping[tuple[str, str, str], t.Mapping[str, t.Any]]
_FIELDS = {
    ("network", 12, 4): (4, "source"),
    ("network", 16, 4): (4, "destination"),
    ("network", 8, 16): (6, "source"),
    ("network", 24, 16): (6, "destination"),
}
_ESTABLISHED = (2).to_bytes(4, sys.byteorder)  # NF_CT_STATE_BIT, linux/netfilter/nf_conntrack_common.h
_VERSIONS = {"02": 4, "0a": 6, "0800": 4, "86dd": 6}


class Place(t.NamedTuple):
    """The chain a rule stands in."""

    backend: str  # nft, iptables-nft, iptables-legacy
    family: str
    table: str
    chain: str


class Group(t.NamedTuple):
    """Flows that nft says in one rule: they differ in one of the two addresses."""

    flow: Flow
    sources: tuple[str, ...]
    destinations: tuple[str, ...]


def groups(flows: t.Iterable[Flow]) -> list[Group]:
    found: dict[Flow, Group] = {}
    for flow in flows:
        merge_source = flow.destination is None
        key = flow._replace(source=None) if merge_source else flow._replace(destination=None)
        old = found.get(key, Group(flow, (), ()))
        sources = {*old.sources, flow.source} - {None}
        destinations = {*old.destinations, flow.destination} - {None}
        found[key] = Group(flow, _ordered(sources), _ordered(destinations))
    return list(found.values())


def _ordered(values: t.Iterable[t.Optional[str]]) -> tuple[str, ...]:
    return tuple(sorted((value for value in values if value), key=order))


# ---- nftables


def nft_rule(place: Place, group: Group, comment: str) -> dict[str, t.Any]:
    """The rule as nft's JSON (libnftables-json(5))."""
    flow = group.flow
    expr: list[dict[str, t.Any]] = []
    for key, name in (("iifname", flow.iif), ("oifname", flow.oif)):
        if name:
            expr.append(_equal({"meta": {"key": key}}, name))
    header = "ip" if flow.version == 4 else "ip6"
    for field, values in (("saddr", group.sources), ("daddr", group.destinations)):
        if values:
            shown = [_json_address(value) for value in values]
            right = shown[0] if len(shown) == 1 else {"set": shown}
            expr.append(_equal({"payload": {"protocol": header, "field": field}}, right))
    if flow.port:
        expr.append(_equal({"payload": {"protocol": flow.protocol, "field": _port(flow)}}, flow.port))
    elif flow.protocol:
        expr.append(_equal({"meta": {"key": "l4proto"}}, flow.protocol))
    if flow.answers:
        expr.append({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "established"}})
    expr += [{"counter": {"packets": 0, "bytes": 0}}, {"accept": None}]
    return {"family": place.family, "table": place.table, "chain": place.chain, "comment": comment, "expr": expr}


def _port(flow: Flow) -> str:
    return "sport" if flow.answers else "dport"


def _equal(left: dict[str, t.Any], right: t.Any) -> dict[str, t.Any]:
    return {"match": {"op": "==", "left": left, "right": right}}


def _json_address(text: str) -> t.Any:
    address, slash, length = text.partition("/")
    return {"prefix": {"addr": address, "len": int(length)}} if slash else address


def nft_text(group: Group, comment: str) -> str:
    """The rule without its place, in nft's words: for a file, and for people."""
    flow = group.flow
    words = [f'{key} "{name}"' for key, name in (("iifname", flow.iif), ("oifname", flow.oif)) if name]
    header = "ip" if flow.version == 4 else "ip6"
    for field, values in (("saddr", group.sources), ("daddr", group.destinations)):
        if values:
            words.append(f"{header} {field} " + (values[0] if len(values) == 1 else "{ " + ", ".join(values) + " }"))
    if flow.port:
        words.append(f"{flow.protocol} {_port(flow)} {flow.port}")
    elif flow.protocol:
        words.append(f"meta l4proto {flow.protocol}")
    if flow.answers:
        words.append("ct state established")
    return " ".join([*words, f'counter accept comment "{comment}"'])


# ---- iptables


def iptables_match(flow: Flow, comment: str) -> list[str]:
    """What follows the chain's name, in the order and form of iptables-save."""
    argv: list[str] = []
    for option, value in (("-s", flow.source), ("-d", flow.destination)):
        argv += [option, str(ipaddress.ip_network(value))] if value else []
    for option, value in (("-i", flow.iif), ("-o", flow.oif)):
        argv += [option, value] if value else []
    if flow.protocol:
        argv += ["-p", flow.protocol]
    if flow.port:
        argv += ["-m", str(flow.protocol), f"--{_port(flow)}", str(flow.port)]
    if flow.answers:
        argv += ["-m", "conntrack", "--ctstate", "ESTABLISHED"]
    return [*argv, "-m", "comment", "--comment", comment, "-j", "ACCEPT"]


def iptables_save_line(chain: str, flow: Flow, comment: str) -> str:
    argv = iptables_match(flow, comment)
    return " ".join(["-A", chain, *(f'"{word}"' if " " in word else word for word in argv)])


# ---- back from a rule


def read_rule(rule: t.Mapping[str, t.Any], chain: t.Mapping[str, t.Any], sets: Sets) -> t.Optional[list[Flow]]:
    """The flows a rule accepts when it says nothing but what this module writes, else None."""
    reader = _Reader(chain, sets)
    try:
        if all(reader.take(expr) for expr in rule["exprs"]) and reader.accepts:
            return reader.flows()
    except (KeyError, ValueError, IndexError):
        pass
    return None


class _Reader:
    def __init__(self, chain: t.Mapping[str, t.Any], sets: Sets) -> None:
        self.chain, self.sets = chain, sets
        family = chain["family"]
        self.version: t.Optional[int] = {"ip": 4, "ip6": 6}.get(family)
        self.registers: dict[int, tuple[str, int]] = {}  # field, prefix length or -1
        self.found: dict[str, t.Any] = {}
        self.accepts = False

    def take(self, expr: t.Mapping[str, t.Any]) -> bool:
        """Whether the expression is understood."""
        name = expr["name"]
        if self.accepts:
            return False
        if name == "counter":
            return True
        if name == "immediate":
            self.accepts = expr.get("verdict") == "accept"
            return self.accepts
        work = {"meta": self._load, "payload": self._load, "ct": self._load}
        work.update(bitwise=self._mask, cmp=self._compare)
        work.update(lookup=self._lookup, ip=self._fixed, match=self._match)
        return name in work and work[name](expr)

    def _load(self, expr: t.Mapping[str, t.Any]) -> bool:
        if expr["name"] == "meta":
            field = str(expr["key"])
            self.registers[expr["dreg"]] = (field, -1)
            return field in ("l4proto", "nfproto", "protocol", "iifname", "oifname")
        if expr["name"] == "ct":
            self.registers[expr["dreg"]] = ("state", -1)
            return expr["key"] == "state"
        if expr["base"] == "transport":
            self.registers[expr["dreg"]] = ("sport" if expr["offset"] == 0 else "dport", -1)
            return expr["offset"] in (0, 2) and expr["len"] == 2
        for (base, offset, width), (version, field) in _FIELDS.items():
            # nft loads only the bytes that a /8, /16 or /24 compares.
            if expr["base"] == base and expr["offset"] == offset and expr["len"] <= width:
                if self.version not in (None, version):
                    continue
                self.version = version
                self.registers[expr["dreg"]] = (field, expr["len"] * 8)
                return True
        return False

    def _mask(self, expr: t.Mapping[str, t.Any]) -> bool:
        field, _length = self.registers[expr["sreg"]]
        mask = bytes.fromhex(expr["mask"])
        if field == "state":
            self.registers[expr["dreg"]] = ("states", -1)
            return mask == _ESTABLISHED and not bytes.fromhex(expr["xor"]).strip(b"\0")
        bits = bin(int.from_bytes(mask, "big"))[2:].zfill(len(mask) * 8)
        self.registers[expr["dreg"]] = (field, bits.count("1"))
        return field in ("source", "destination") and "01" not in bits and not bytes.fromhex(expr["xor"]).strip(b"\0")

    def _compare(self, expr: t.Mapping[str, t.Any]) -> bool:
        field, length = self.registers[expr["sreg"]]
        data = bytes.fromhex(expr["data"])
        if field == "states":
            return expr["op"] == "neq" and not data.strip(b"\0") and self._set("answers", True)
        if expr["op"] != "eq":
            return False
        if field in ("nfproto", "protocol"):
            version = _VERSIONS.get(expr["data"])
            if version is None or self.version not in (None, version):
                return False
            self.version = version
            return True
        if field == "l4proto":
            return self._set("protocol", NUMBERS[data[0]])
        if field in ("sport", "dport"):
            return self._set(field, int.from_bytes(data, "big"))
        if field in ("iifname", "oifname"):
            # Without its end it is the beginning of names.
            return b"\0" in data and self._set(field[:3], data.rstrip(b"\0").decode("ascii"))
        return self._set(field, [self._address(data, length)])

    def _lookup(self, expr: t.Mapping[str, t.Any]) -> bool:
        field, length = self.registers[expr["sreg"]]
        found = self.sets[self.chain["family"], self.chain["table"], expr["set"]]
        plain = "anonymous" in found["flags"] and not expr.get("flags") and "dreg" not in expr
        if field not in ("source", "destination") or not plain or found["truncated"]:
            return False
        return self._set(field, [self._address(bytes.fromhex(key), length) for key in found["elements"]])

    def _fixed(self, expr: t.Mapping[str, t.Any]) -> bool:
        names = {"src": "source", "dst": "destination", "iif": "iif", "oif": "oif", "protocol": "protocol"}
        for key, (value, invert) in ((key, value) for key, value in expr.items() if key != "name"):
            if invert:
                return False
            name = names[key]
            if name in ("source", "destination"):
                self.found[name] = [network(value, name)]
            elif name == "protocol":
                self.found[name] = NUMBERS[value]
            elif str(value).endswith(("+", "*")):
                return False
            else:
                self.found[name] = value
        return True

    def _match(self, expr: t.Mapping[str, t.Any]) -> bool:
        if expr["match"] == "comment":
            return True
        info = expr["info"]
        if expr["match"] == "conntrack":
            return info == {"state": [["established"], False]} and self._set("answers", True)
        plain = set(info) <= {"sport", "dport", "flags", "option"}
        if expr["match"] not in ("udp", "tcp") or not plain:
            return False
        if tuple(info.get("flags", (0, 0, False))) != (0, 0, False) or any(info.get("option", ())):
            return False
        for field in ("sport", "dport"):
            low, high, invert = info[field]
            if (low, high, invert) != (0, 65535, False) and (low != high or invert or not self._set(field, low)):
                return False
        return True

    def _set(self, field: str, value: t.Any) -> bool:
        return self.found.setdefault(field, value) == value

    def _address(self, data: bytes, length: int) -> str:
        width = 4 if self.version == 4 else 16
        return network(f"{ipaddress.ip_address(data.ljust(width, bytes(1)))}/{length}", "rule")

    def flows(self) -> list[Flow]:
        found = self.found
        sources, destinations = found.get("source", [None]), found.get("destination", [None])
        addressed = sources != [None] or destinations != [None]
        version = self.version if addressed or self.chain["family"] not in ("ip", "ip6") else None
        answers, protocol = found.get("answers", False), found.get("protocol")
        port, other = (found.get(field) for field in (("sport", "dport") if answers else ("dport", "sport")))
        if other is not None:
            raise ValueError("a port of the other end")
        return [
            Flow(version, protocol, port, source, destination, found.get("iif"), found.get("oif"), answers)
            for source in sources
            for destination in destinations
        ]

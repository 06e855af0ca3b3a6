# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One readable line for a decoded rule: nft's words, and iptables' words for what only xtables has.

For people and reports only; nothing parses it. What a register holds is followed symbolically, and the implied
protocol checks (`meta l4proto udp` before `udp dport`) are left out as nft does.
"""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.module_utils._nft_value import PROTOCOLS, bits, value, words
from ansible_collections.crosshost.doctor.plugins.module_utils._xt_text import entry_text, match_text, target_text

Sets = t.Mapping[tuple[str, str, str], t.Mapping[str, t.Any]]
_MAX_ELEMENTS = 8
_COMPARE = {"eq": "", "neq": "!= ", "lt": "< ", "lte": "<= ", "gt": "> ", "gte": ">= "}
_ICMPX = ("no-route", "port-unreachable", "host-unreachable", "admin-prohibited")
_ICMP4 = {0: "net-unreachable", 1: "host-unreachable", 2: "prot-unreachable", 3: "port-unreachable"}
_ICMP4.update({9: "net-prohibited", 10: "host-prohibited", 13: "admin-prohibited"})
_ICMP6 = {0: "no-route", 1: "admin-prohibited", 3: "addr-unreachable", 4: "port-unreachable"}
_NETWORK_OF = {"02": "ip", "0a": "ip6", "0800": "ip", "86dd": "ip6", "0806": "arp"}
_LINK = {(0, 6): ("ether daddr", "ether"), (6, 6): ("ether saddr", "ether"), (12, 2): ("ether type", "ethertype")}
_NETWORK = {
    "ip": {
        (0, 1): ("ip version-ihl", "hex"),
        (1, 1): ("ip dscp", "dscp"),
        (2, 2): ("ip length", "int"),
        (4, 2): ("ip id", "int"),
        (6, 2): ("ip frag-off", "hex"),
        (8, 1): ("ip ttl", "int"),
        (9, 1): ("ip protocol", "proto"),
        (12, 4): ("ip saddr", "ip"),
        (16, 4): ("ip daddr", "ip"),
    },
    "ip6": {
        (4, 2): ("ip6 length", "int"),
        (6, 1): ("ip6 nexthdr", "proto"),
        (7, 1): ("ip6 hoplimit", "int"),
        (8, 16): ("ip6 saddr", "ip6"),
        (24, 16): ("ip6 daddr", "ip6"),
    },
    "arp": {
        (0, 2): ("arp htype", "int"),
        (2, 2): ("arp ptype", "ethertype"),
        (6, 2): ("arp operation", "int"),
        (8, 6): ("arp saddr ether", "ether"),
        (14, 4): ("arp saddr ip", "ip"),
        (18, 6): ("arp daddr ether", "ether"),
        (24, 4): ("arp daddr ip", "ip"),
    },
}
_TRANSPORT = {
    "tcp": {(13, 1): ("tcp flags", "tcpflags"), (12, 1): ("tcp doff", "int"), (14, 2): ("tcp window", "int")},
    "udp": {(4, 2): ("udp length", "int")},
    "icmp": {(0, 1): ("icmp type", "icmptype"), (1, 1): ("icmp code", "int")},
    "ipv6-icmp": {(0, 1): ("icmpv6 type", "icmp6type"), (1, 1): ("icmpv6 code", "int")},
}
_META = {
    "iifname": "ifname", "oifname": "ifname", "ibrname": "ifname", "obrname": "ifname", "sdifname": "ifname",
    "iifkind": "ifname", "oifkind": "ifname", "protocol": "ethertype", "l4proto": "proto", "nfproto": "nfproto",
    "pkttype": "pkttype", "mark": "mark", "ibrvproto": "ethertype", "cpu": "host", "skuid": "host", "skgid": "host",
    "iif": "host", "oif": "host", "len": "host", "priority": "mark", "iiftype": "host", "oiftype": "host",
}  # fmt: skip
_SHORT = {"link": "ll", "network": "nh", "transport": "th", "inner": "ih"}
_HEADERS = {"tcpopt": "tcp option", "ipv4": "ip option"}
_LENGTHS = {"proto": 1, "nfproto": 1, "pkttype": 1, "ctdir": 1, "ethertype": 2, "port": 2, "ifname": 16, "ip6": 16}
_BARE_META = {"iifname", "oifname", "iif", "oif"}
_CT = {
    "state": "ctstate", "status": "ctstatus", "direction": "ctdir", "mark": "mark", "l3proto": "nfproto",
    "protocol": "proto", "saddr": "address", "daddr": "address", "ip saddr": "ip", "ip daddr": "ip",
    "ip6 saddr": "ip6", "ip6 daddr": "ip6", "proto-src": "port", "proto-dst": "port",
    "zone": "host", "packets": "host", "bytes": "host", "id": "hex",
}  # fmt: skip


class Symbol(t.NamedTuple):
    """What a register holds: the words for it, how its values are written, its length in bytes and a mask on it."""

    words: str
    kind: str
    length: int
    mask: str = ""
    xor: str = ""
    data: str = ""  # of a constant


class _Line:
    """The line being written and what is known on the way."""

    def __init__(self, chain: t.Mapping[str, t.Any], sets: Sets) -> None:
        self.family: str = chain["family"]
        self.table: str = chain["table"]
        self.legacy = chain["backend"] == "legacy"
        self.sets = sets
        self.parts: list[str] = []
        self.registers: dict[int, Symbol] = {}
        self.protocol: str | None = None
        self.network = self.family if self.family in ("ip", "ip6", "arp") else None
        # A protocol check, not yet written: dropped when the next field implies it.
        self.pending: list[tuple[str, str]] = []
        # nft writes a range as two comparisons; they are put together again.
        self.lowest = self.lowest_data = ""

    def flush(self) -> None:
        self.parts.extend(words for _what, words in self.pending)
        self.pending.clear()

    def say(self, words: str) -> None:
        self.flush()
        if words:
            self.parts.append(words)

    def symbol(self, register: t.Any) -> Symbol:
        return self.registers.get(register, Symbol(f"@reg{register}", "hex", 4))

    def payload(self, expr: t.Mapping[str, t.Any]) -> None:
        where = (expr.get("offset", 0), expr.get("len", 0))
        known = self._field(expr.get("base"), where)
        if known is None:
            short = _SHORT.get(str(expr.get("base")), "tunnel")
            known = (f"@{short},{where[0] * 8},{where[1] * 8}", "hex")
        if "sreg" in expr:
            self.say(f"{known[0]} set {self.symbol(expr['sreg']).words}")
        elif "dreg" in expr:
            self.registers[expr["dreg"]] = Symbol(known[0], known[1], where[1])

    def _field(self, base: t.Any, where: tuple[int, int]) -> tuple[str, str] | None:
        if base == "link":
            self.pending = [item for item in self.pending if item[0] != "link"]
            return _LINK.get(where)
        if base == "network" and self.network:
            self.pending = [item for item in self.pending if item[0] != "l3"]
            known = _NETWORK[self.network].get(where)
            if known is None and self.network in ("ip", "ip6"):
                # nft loads only the bytes a /8, /16 or /24 compares.
                for (offset, length), (words_, kind) in _NETWORK[self.network].items():
                    if kind == self.network and offset == where[0] and 0 < where[1] < length:
                        return words_, kind
            return known
        if base == "transport":
            protocol = self.protocol or "th"
            known = _TRANSPORT.get(protocol, {}).get(where)
            if known is None and where in ((0, 2), (2, 2)) and protocol not in ("icmp", "ipv6-icmp"):
                known = (f"{protocol} {'sport' if where[0] == 0 else 'dport'}", "port")
            if known is not None:
                implied = ("l4", "l3") if protocol in ("icmp", "ipv6-icmp") else ("l4",)
                self.pending = [item for item in self.pending if item[0] not in implied]
            return known
        return None

    def compare(self, symbol: Symbol, operator: str, data: str) -> None:
        words_ = symbol.words
        if symbol.mask:
            written = bits(symbol.kind, symbol.mask, operator, data)
            if written is not None:
                self.say(f"{words_} {written}")
                return
            words_ = f"{words_} & 0x{symbol.mask}"
        text = f"{words_} {_COMPARE.get(operator, operator + ' ')}{value(symbol.kind, data, symbol.length)}"
        if operator == "eq" and symbol.kind == "proto" and not symbol.mask:
            self.protocol = PROTOCOLS.get(int(data or "0", 16))
            self.pending.append(("l4", text))
        elif operator == "eq" and symbol.words == "meta iiftype":
            self.pending.append(("link", text))  # nft checks for Ethernet before it reads its header
        elif operator == "lte" and self.parts and self.parts[-1] == f"{words_} >= {self.lowest}":
            self.parts[-1] = f"{words_} {words(symbol.kind, self.lowest_data, data, symbol.length)}"
        elif (
            operator == "eq" and symbol.kind in ("nfproto", "ethertype") and symbol.words.startswith(("meta", "ether"))
        ):
            self.network = _NETWORK_OF.get(data, self.network)
            self.pending.append(("l3", text))
        else:
            self.say(text)
        if operator == "gte":
            self.lowest, self.lowest_data = value(symbol.kind, data, symbol.length), data

    def keys(self, register: int, length: int) -> list[Symbol]:
        """The symbols a set lookup reads, one per field of the key."""
        found: list[Symbol] = []
        word, end = register, register + max(1, (length + 3) // 4)
        while word < end and len(found) < 16:
            symbol = self.symbol(word)
            found.append(symbol)
            word += max(1, (symbol.length + 3) // 4)
        return found

    def set_of(self, name: str) -> t.Mapping[str, t.Any]:
        return self.sets.get((self.family, self.table, name), {})

    def elements(self, name: str, symbols: list[Symbol]) -> str:
        """`@name`, or what is in an anonymous set."""
        description = self.set_of(name)
        if "anonymous" not in description.get("flags", ()):
            return f"@{name}"
        found = [_element(item, symbols) for item in description["elements"][:_MAX_ELEMENTS]]
        rest = len(description["elements"]) - len(found)
        return "{ " + ", ".join(found) + (f", … {rest} more" if rest > 0 else "") + " }"


def _element(item: t.Any, symbols: list[Symbol]) -> str:
    if not isinstance(item, dict):
        return _key(item, symbols)
    shown = _key(item["key"], symbols)
    if "verdict" in item:
        return f"{shown} : {item['verdict']}" + (f" {item['chain']}" if "chain" in item else "")
    if "data" in item:
        return f"{shown} : 0x{item['data']}"
    return shown


def _key(key: str, symbols: list[Symbol]) -> str:
    if key == "*":
        return "*"
    first, _dash, last = key.partition("-")
    shown, position = [], 0
    for symbol in symbols:
        length = symbol.length * 2
        low, high = first[position : position + length], last[position : position + length]
        one = value(symbol.kind, low, symbol.length)
        shown.append(words(symbol.kind, low, high, symbol.length) if last and high != low else one)
        position += (length + 7) // 8 * 8
    return " . ".join(shown)


def _reject(line: _Line, expr: t.Mapping[str, t.Any]) -> str:
    if expr.get("type") == "tcp-reset":
        return "reject with tcp reset"
    code = expr.get("code", 0)
    if expr.get("type") == "icmpx":
        return f"reject with icmpx {_ICMPX[code] if code < len(_ICMPX) else code}"
    names = _ICMP6 if line.network == "ip6" else _ICMP4
    return f"reject with icmp {names.get(code, code)}"


def _nat(line: _Line, expr: t.Mapping[str, t.Any]) -> str:
    name = {"masq": "masquerade", "redir": "redirect"}.get(expr["name"], expr.get("type", "nat"))
    to = ""
    if "reg_addr_min" in expr:
        to = " to " + line.symbol(expr["reg_addr_min"]).words
        if expr.get("reg_addr_max", expr["reg_addr_min"]) != expr["reg_addr_min"]:
            to += "-" + line.symbol(expr["reg_addr_max"]).words
    if "reg_proto_min" in expr:
        ports = [line.symbol(expr.get(field, expr["reg_proto_min"])) for field in ("reg_proto_min", "reg_proto_max")]
        shown = [value("port", symbol.data, 2) if symbol.data else symbol.words for symbol in ports]
        to = (to or " to ") + ":" + "-".join(dict.fromkeys(shown))
    flags = " ".join(expr.get("flags", ()))
    return name + to + (f" {flags}" if flags else "")


def _verdict(line: _Line, expr: t.Mapping[str, t.Any]) -> str:
    verdict, chain = expr["verdict"], expr.get("chain")
    if line.legacy:
        return f"-{'g' if verdict == 'goto' else 'j'} {chain or verdict.upper()}"
    return f"{verdict} {chain}" if chain else str(verdict)


def _immediate(line: _Line, expr: t.Mapping[str, t.Any]) -> str:
    if "verdict" in expr:
        return _verdict(line, expr)
    data = expr.get("data", "")
    shown = value("address", data) if len(data) in (8, 32) else f"0x{data}"
    line.registers[expr["dreg"]] = Symbol(shown, "hex", len(data) // 2, data=data)
    return ""


def _limit(line: _Line, expr: t.Mapping[str, t.Any]) -> str:
    over = "over " if "invert" in expr.get("flags", ()) else ""
    unit = {1: "second", 60: "minute", 3600: "hour", 86400: "day"}.get(expr.get("unit", 1), str(expr.get("unit")))
    kind = " bytes" if expr.get("type") == "bytes" else ""
    return f"limit rate {over}{expr.get('rate')}{kind}/{unit} burst {expr.get('burst')}"


def _dynset(line: _Line, expr: t.Mapping[str, t.Any]) -> str:
    inner = " ".join(item["name"] for item in expr.get("exprs", ()))
    return f"{expr.get('op')} @{expr.get('set')} {{ {line.symbol(expr.get('sreg_key')).words} {inner} }}"


_STATEMENTS: dict[str, t.Callable[[_Line, t.Mapping[str, t.Any]], str]] = {
    "immediate": _immediate,
    "reject": _reject,
    "nat": _nat,
    "masq": _nat,
    "redir": _nat,
    "limit": _limit,
    "dynset": _dynset,
    "queue": lambda line, expr: " ".join(["queue num", str(expr.get("num", "@reg")), *expr.get("flags", ())]),
    "log": lambda line, expr: f'log prefix "{expr["prefix"]}"' if expr.get("prefix") else "log",
    "objref": lambda line, expr: (
        f"{expr.get('type', 'object')} name {expr.get('object') or '@' + str(expr.get('set'))}"
    ),
    "match": lambda line, expr: match_text(expr),
    "target": lambda line, expr: target_text(expr),
    "ip": lambda line, expr: entry_text(expr),
    "fwd": lambda line, expr: "fwd to another device",
    "counter": lambda line, expr: "",
    "last": lambda line, expr: "",
}


def _plain(line: _Line, expr: t.Mapping[str, t.Any]) -> None:
    """Statements, and whatever else only needs a word."""
    write = _STATEMENTS.get(expr["name"])
    unknown = expr.get("unknown") and expr["name"] not in ("match", "target")
    if write is None or unknown:
        line.say(expr["name"] + (" ?" if unknown else ""))
        return
    words_ = write(line, expr)
    if words_:
        line.say(words_)


def _load(line: _Line, expr: t.Mapping[str, t.Any]) -> None:
    """meta, ct, fib and the rest of what fills a register; with `sreg` it is a statement."""
    name, key = expr["name"], str(expr.get("key", expr.get("result", "")))
    if name == "meta":
        words_, kind = (key if key in _BARE_META else f"meta {key}"), _META.get(key, "hex")
    elif name == "ct":
        way = f"{expr['dir']} " if "dir" in expr else ""
        words_, kind = f"ct {way}{key}", _CT.get(key, "hex")
    elif name == "fib":
        words_ = f"fib {' . '.join(f for f in expr.get('flags', ()) if f != 'present')} {key}"
        kind = {"type": "fibtype", "oif": "host", "oifname": "ifname"}.get(key, "hex")
    elif name == "exthdr":
        option = {2: "maxseg", 3: "window", 4: "sack-perm"}.get(expr.get("type", 0), expr.get("type"))
        words_ = _HEADERS.get(str(expr.get("op", "ipv6")), "exthdr") + f" {option}"
        kind = "int"
    else:
        words_, kind = " ".join(item for item in (name, key, str(expr.get("type", ""))) if item), "hex"
        if "modulus" in expr:
            words_ += f" mod {expr['modulus']}"
    if "dreg" in expr:
        line.registers[expr["dreg"]] = Symbol(words_, kind, _LENGTHS.get(kind, 4))
    elif "sreg" in expr:
        symbol = line.symbol(expr["sreg"])
        shown = value(kind, symbol.data) if symbol.data else symbol.words
        line.say(f"{words_} set {shown}")


def _operate(line: _Line, expr: t.Mapping[str, t.Any]) -> None:
    """Comparison and arithmetic on registers."""
    name = expr["name"]
    source = line.symbol(expr.get("sreg"))
    if name == "cmp":
        line.compare(source, str(expr.get("op")), expr.get("data", ""))
    elif name == "range":
        sign = "!= " if expr.get("op") == "neq" else ""
        shown = words(source.kind, expr.get("from", ""), expr.get("to", ""), source.length)
        line.say(f"{source.words} {sign}{shown}")
    elif name == "bitwise":
        if expr.get("op", "mask_xor") == "mask_xor":
            changed = source._replace(mask=expr.get("mask", ""), xor=expr.get("xor", ""))
        else:
            changed = Symbol(f"({source.words} {expr['op']} 0x{expr.get('data', '')})", "hex", source.length)
        if set(changed.xor) - {"0"}:
            changed = Symbol(f"({source.words} & 0x{changed.mask} ^ 0x{changed.xor})", "hex", source.length)
        line.registers[expr.get("dreg", 0)] = changed
    elif name == "byteorder":
        kind = "int" if source.kind in ("mark", "host") else source.kind
        line.registers[expr.get("dreg", 0)] = source._replace(kind=kind)
    elif name == "lookup":
        symbols = line.keys(expr.get("sreg", 0), line.set_of(expr["set"]).get("key_len", 4))
        left = " . ".join(symbol.words for symbol in symbols)
        shown = line.elements(expr["set"], symbols)
        if expr.get("dreg") == -1:
            line.say(f"{left} vmap {shown}")
        elif "dreg" in expr:
            line.registers[expr["dreg"]] = Symbol(f"{left} map {shown}", "hex", 4)
        else:
            line.say(f"{left} {'!= ' if 'invert' in expr.get('flags', ()) else ''}{shown}")


def _payload(line: _Line, expr: t.Mapping[str, t.Any]) -> None:
    line.payload(expr)


_LOADS = ("meta", "ct", "fib", "rt", "hash", "numgen", "socket", "osf", "xfrm", "tunnel", "exthdr")
_OPERATIONS = ("cmp", "range", "bitwise", "byteorder", "lookup")
_WRITERS: dict[str, t.Callable[[_Line, t.Mapping[str, t.Any]], None]] = {
    "payload": _payload,
    **dict.fromkeys(_LOADS, _load),
    **dict.fromkeys(_OPERATIONS, _operate),
}


def rule_text(rule: t.Mapping[str, t.Any], chain: t.Mapping[str, t.Any], sets: Sets) -> str:
    """The rule as one line, without counters and comment."""
    line = _Line(chain, sets)
    try:
        for expr in rule["exprs"]:
            name = expr["name"]
            if name != "counter":
                (_plain if "unknown" in expr else _WRITERS.get(name, _plain))(line, expr)
    except (LookupError, TypeError, ValueError):
        # An expression of a kernel that writes less, or more, than this one knows: better its names than no rule.
        return " ".join(expr["name"] for expr in rule["exprs"])
    line.flush()
    return " ".join(line.parts)

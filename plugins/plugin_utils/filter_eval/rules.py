# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One rule over one packet: its expressions in order, registers and all, as nft_do_chain runs them."""

from __future__ import annotations

import typing as t

from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import effects, fields, xt
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.bits import (
    Bytes,
    Truth,
    both,
    compare,
    exactly,
    invert,
    masked,
    unknown,
    within,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.ruleset import Chain, Ruleset
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval.state import State

Expr = t.Mapping[str, t.Any]
_VERDICT = -1
_WORDS = 64
_ONWARD = ("continue", "break")
_ONES = b"\xff" * 64


class Outcome(t.NamedTuple):
    """A verdict the rule can give: accept, return, jump, goto, one of result.LOST, or one that cannot be told."""

    verdict: str
    chain: str | None = None


class Result(t.NamedTuple):
    """outcomes: verdicts the rule can give; falls: the next rule can follow; changes: NAT and notrack it may do."""

    outcomes: list[Outcome]
    falls: bool
    changes: list[str]


class Evaluation:
    """Registers and standing of one rule."""

    def __init__(self, rules: Ruleset, state: State, chain: Chain, priority: int, reached: bool) -> None:
        self.rules = rules
        self.state = state
        self.chain = chain
        self.family: str = chain["family"]
        self.priority = priority
        self.reached = reached
        self.matched: Truth = True
        self.changes: list[str] = []
        self._data = bytearray(_WORDS)
        self._known = bytearray(_WORDS)

    @property
    def certain(self) -> bool:
        """Whether what comes next in the rule happens for sure."""
        return self.reached and self.matched is True

    def get(self, register: int, length: int) -> Bytes:
        start = register * 4
        data, known = bytes(self._data[start : start + length]), bytes(self._known[start : start + length])
        missing = length - len(data)
        return Bytes(data + bytes(missing), known + bytes(missing)) if missing else Bytes(data, known)

    def put(self, register: int, value: Bytes) -> None:
        """Write; the rest of the last word is zero, as in the kernel."""
        pad = -len(value.data) % 4
        start = register * 4
        end = start + len(value.data) + pad
        if start >= 0 and end <= _WORDS:
            self._data[start:end] = value.data + bytes(pad)
            self._known[start:end] = value.known + _ONES[:pad]

    def forget(self) -> None:
        """An expression that is not understood may have written anywhere."""
        self._known[:] = bytes(_WORDS)


Step: t.TypeAlias = Truth | list[Outcome]


def _load(run: Evaluation, expr: Expr, value: Bytes | None) -> Truth:
    if value is None:
        return False
    run.put(expr["dreg"], value)
    return True


def _payload(run: Evaluation, expr: Expr) -> Step:
    if "dreg" in expr:
        return _load(run, expr, fields.load(run.state, run.family, expr))
    if "sreg" in expr:
        value = run.get(expr["sreg"], expr["len"])
        run.state.write(str(expr["base"]), expr["offset"], value, run.certain)
    return True


def _meta(run: Evaluation, expr: Expr) -> Step:
    key = str(expr.get("key"))
    if "dreg" in expr:
        return _load(run, expr, fields.meta(run.state, run.family, key))
    if key == "mark" and "sreg" in expr:
        run.state.set_mark(run.get(expr["sreg"], 4), run.certain)
    return True


def _ct(run: Evaluation, expr: Expr) -> Step:
    key = str(expr.get("key"))
    if "dreg" in expr:
        return _load(run, expr, fields.ct(run.state, run.priority, key, expr.get("dir")))
    if key == "mark" and "sreg" in expr:
        run.state.set_ct_mark(run.get(expr["sreg"], 4), run.certain)
    return True


def _fib(run: Evaluation, expr: Expr) -> Step:
    return _load(run, expr, fields.fib(run.state, expr))


def _opaque(run: Evaluation, expr: Expr) -> Step:
    """Loads a value nobody can know here: numgen, hash, rt, socket, exthdr…; it may also end the rule."""
    if "dreg" in expr:
        run.put(expr["dreg"], unknown(16 if expr["name"] in ("rt", "xfrm", "socket") else expr.get("len", 4)))
        run.state.note(f"{expr['name']} cannot be told from here")
        return True if expr["name"] in ("numgen", "hash") else None
    return True


def _immediate(run: Evaluation, expr: Expr) -> Step:
    if "verdict" in expr:
        return [] if expr["verdict"] == "continue" else [Outcome(expr["verdict"], expr.get("chain"))]
    run.put(expr["dreg"], exactly(bytes.fromhex(expr.get("data", ""))))
    return True


def _cmp(run: Evaluation, expr: Expr) -> Step:
    wanted = bytes.fromhex(expr.get("data", ""))
    return compare(run.get(expr["sreg"], len(wanted)), str(expr["op"]), wanted)


def _range(run: Evaluation, expr: Expr) -> Step:
    low, high = bytes.fromhex(expr["from"]), bytes.fromhex(expr["to"])
    return invert(within(run.get(expr["sreg"], len(low)), low, high), expr["op"] == "neq")


def _bitwise(run: Evaluation, expr: Expr) -> Step:
    size = expr["len"]
    value = run.get(expr["sreg"], size)
    if expr.get("op", "mask_xor") == "mask_xor":
        mask, xor = bytes.fromhex(expr.get("mask", "")), bytes.fromhex(expr.get("xor", ""))
        run.put(expr["dreg"], masked(value, mask.ljust(size, b"\0"), xor.ljust(size, b"\0")))
        return True
    if expr["op"] in ("lshift", "rshift") and value.certain and size == 4:
        order: t.Any = run.rules.order
        shift = int.from_bytes(bytes.fromhex(expr["data"]), order)
        plain = int.from_bytes(value.data, order)
        plain = plain << shift if expr["op"] == "lshift" else plain >> shift
        run.put(expr["dreg"], exactly((plain & 0xFFFFFFFF).to_bytes(4, order)))
    else:
        run.put(expr["dreg"], unknown(size))
    return True


def _byteorder(run: Evaluation, expr: Expr) -> Step:
    size, step = expr["len"], expr["size"]
    value = run.get(expr["sreg"], size)
    if run.rules.order == "little":
        parts = range(0, size, step)
        data = b"".join(value.data[n : n + step][::-1] for n in parts)
        value = Bytes(data, b"".join(value.known[n : n + step][::-1] for n in parts))
    run.put(expr["dreg"], value)
    return True


def _lookup(run: Evaluation, expr: Expr) -> Step:
    elements = run.rules.elements(run.chain, expr["set"])
    if elements is None:
        run.state.note(f"set {expr['set']} was not read")
        run.forget()
        return [Outcome("unknown")] if expr.get("dreg") == _VERDICT else None
    found = elements.look_up(run.get(expr["sreg"], elements.key_len))
    if found.hit is None:
        run.state.note(f"set {expr['set']}: whether the packet is in it cannot be told")
    if "dreg" not in expr:
        return invert(found.hit, "invert" in expr.get("flags", ()))
    if found.hit is False:
        return False
    if expr["dreg"] != _VERDICT:
        values = {item.get("data") for item in found.items}
        only = values.pop() if len(values) == 1 else None
        run.put(expr["dreg"], exactly(bytes.fromhex(only)) if only else unknown(elements.data_len))
        return found.hit
    run.matched = both(run.matched, found.hit)
    outcomes = [Outcome(item.get("verdict", "unknown"), item.get("chain")) for item in found.items]
    return list(dict.fromkeys(outcomes)) or [Outcome("unknown")]


def _unlikely(run: Evaluation, expr: Expr) -> Step:
    """limit, quota, connlimit…: depends on traffic."""
    run.state.note(f"{expr['name']} depends on other traffic")
    return None


def _passive(run: Evaluation, expr: Expr) -> Step:
    return True


def _dynset(run: Evaluation, expr: Expr) -> Step:
    """Adding to a set succeeds; a condition on it (a meter) or an inverted one cannot be told."""
    if expr.get("exprs") or expr.get("flags"):
        return _unlikely(run, expr)
    return True


def _objref(run: Evaluation, expr: Expr) -> Step:
    kind = expr.get("type")
    if kind == "synproxy":
        return [Outcome("synproxy")]
    return True if kind not in ("limit", "quota", "connlimit", None) else _unlikely(run, expr)


def _reject(run: Evaluation, expr: Expr) -> Step:
    return [Outcome("reject")]


def _nat(run: Evaluation, expr: Expr) -> Step:
    state = run.state
    family = expr.get("family")
    if family in ("ip", "ip6") and (family == "ip") != (state.packet.family == 4):
        return True  # in an inet chain the other family's NAT does nothing
    kind = {"masq": "masquerade", "redir": "redirect"}.get(expr["name"], expr.get("type", "dnat"))
    address = port = None
    if "reg_addr_min" in expr:
        address = run.get(expr["reg_addr_min"], state.width)
        if expr.get("reg_addr_max", expr["reg_addr_min"]) != expr["reg_addr_min"] or "netmap" in expr.get("flags", ()):
            address = unknown(state.width)
    if "reg_proto_min" in expr:
        port = run.get(expr["reg_proto_min"], 2)
        if expr.get("reg_proto_max", expr["reg_proto_min"]) != expr["reg_proto_min"]:
            port = unknown(2)
    effects.translate(state, str(kind), address, port, run.certain)
    run.changes.append(str(kind))
    return [Outcome("accept")]


def _queue(run: Evaluation, expr: Expr) -> Step:
    return [Outcome("queue")]


def _notrack(run: Evaluation, expr: Expr) -> Step:
    now = fields.ct_of(run.state, run.priority)
    if now in ("invalid", None):  # a packet that is tracked already stays so
        run.state.untrack(run.certain and now is not None)
        run.changes.append("notrack")
    return True


def _fwd(run: Evaluation, expr: Expr) -> Step:
    return [Outcome("fwd")]


def _synproxy(run: Evaluation, expr: Expr) -> Step:
    known = run.state.packet.number
    if known != 6:
        return False if known is not None else _unlikely(run, expr)
    return [Outcome("synproxy")]


def _match(run: Evaluation, expr: Expr) -> Step:
    return xt.match(run.state, expr, run.priority)


def _fixed(run: Evaluation, expr: Expr) -> Step:
    return xt.fixed(run.state, expr)


_NAT_TARGETS = {"DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP"}
_TARGET_VERDICTS = {
    "REJECT": "reject",
    "NFQUEUE": "queue",
    "TPROXY": "tproxy",
    "SYNPROXY": "synproxy",
    "QUEUE": "queue",
}
_HARMLESS = set(
    "LOG NFLOG TCPMSS TCPOPTSTRIP CLASSIFY CHECKSUM TRACE AUDIT TEE SET SECMARK CONNSECMARK ECN RATEEST IDLETIMER LED "
    "CONNMARK".split()
)


def _target(run: Evaluation, expr: Expr) -> Step:
    name, info, state = expr["target"], expr.get("info"), run.state
    if name in _TARGET_VERDICTS:
        return [Outcome(_TARGET_VERDICTS[name])]
    if name in _NAT_TARGETS:
        kind = effects.xt_nat(state, name, info or {}, run.certain)
        run.changes.append(kind)
        return [Outcome("accept")]
    if name == "NOTRACK" or (name == "CT" and info and info["notrack"]):
        return _notrack(run, expr)
    if name == "MARK" and info is not None:
        effects.xt_mark(state, info, run.certain)
    elif name == "CONNMARK" and info is not None:
        effects.xt_connmark(state, info, run.certain)
    elif name in ("TTL", "HL", "DSCP", "TOS") and info is not None:
        effects.xt_header(state, name, info, run.certain)
    elif name in ("MARK", "HMARK"):
        state.set_mark(unknown(4), run.certain)
    elif name not in _HARMLESS and name != "CT":
        state.note(f"target {name} is not known here")
        return [Outcome("unknown")]
    return True


_STEPS: dict[str, t.Callable[[Evaluation, Expr], Step]] = {
    "payload": _payload, "meta": _meta, "ct": _ct, "fib": _fib, "immediate": _immediate, "cmp": _cmp, "range": _range,
    "bitwise": _bitwise, "byteorder": _byteorder, "lookup": _lookup, "match": _match, "target": _target, "ip": _fixed,
    "limit": _unlikely, "quota": _unlikely, "connlimit": _unlikely, "tproxy": _unlikely, "flow_offload": _unlikely,
    "counter": _passive, "last": _passive, "log": _passive, "dup": _passive, "dynset": _dynset, "objref": _objref,
    "reject": _reject, "nat": _nat, "masq": _nat, "redir": _nat, "queue": _queue, "notrack": _notrack, "fwd": _fwd,
    "synproxy": _synproxy, "exthdr": _opaque, "rt": _opaque, "hash": _opaque, "numgen": _opaque, "socket": _opaque,
    "osf": _opaque, "xfrm": _opaque, "tunnel": _opaque,
}  # fmt: skip


def _step(run: Evaluation, expr: Expr) -> Step:
    name = expr["name"]
    known = _STEPS.get(name) if not expr.get("unknown") or name in ("match", "target") else None
    if known is not None:
        try:
            return known(run, expr)
        except (LookupError, TypeError, ValueError):
            pass  # not as this version writes it: facts can be of any age, and of any kernel
    run.state.note(f"expression {name} is not known here")
    run.forget()
    return None


def evaluate(rules: Ruleset, state: State, chain: Chain, rule: Expr, priority: int, reached: bool) -> Result:
    """What the rule does. reached: the packet comes to this rule for sure."""
    run = Evaluation(rules, state, chain, priority, reached)
    for expr in rule["exprs"]:
        step = _step(run, expr)
        if isinstance(step, list):
            if not step:
                continue
            falls = run.matched is not True or any(outcome.verdict in _ONWARD for outcome in step)
            kept = [outcome for outcome in step if outcome.verdict not in _ONWARD]
            return Result(kept, falls, run.changes)
        run.matched = both(run.matched, step)
        if run.matched is False:
            return Result([], True, run.changes)
    return Result([], True, run.changes)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The packet filter's decoders on bytes: what they make of good ones, and that bad ones do no harm."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import (
    _nfnl,
    _nft,
    _nft_expr,
    _nft_set,
    _nft_text,
    _xt_match,
    _xt_target,
    _xtables,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._nfnl import DecodeError, attribute

CHAIN = {"family": "inet", "table": "t", "name": "c", "backend": "nft"}
FAMILIES = st.sampled_from(["ip", "ip6", "inet", "arp", "bridge", "netdev"])


def number(value: int) -> bytes:
    return struct.pack(">I", value & 0xFFFFFFFF)


def expression(name: str, *attrs: bytes) -> bytes:
    """NFTA_EXPR_NAME and NFTA_EXPR_DATA."""
    return attribute(1, name.encode() + b"\0") + attribute(2 | 0x8000, b"".join(attrs))


def datum(value: bytes) -> bytes:
    return attribute(1, value)


def element(key: bytes, *attrs: bytes, flags: int = 0) -> bytes:
    end = attribute(3, number(flags)) if flags else b""
    return attribute(1 | 0x8000, attribute(1 | 0x8000, datum(key)) + end + b"".join(attrs))


def elements(*items: bytes) -> bytes:
    return attribute(1, b"t\0") + attribute(2, b"s\0") + attribute(3 | 0x8000, b"".join(items))


def line(*exprs: dict[str, Any], family: str = "inet", backend: str = "nft") -> str:
    return _nft_text.rule_text({"exprs": list(exprs)}, {**CHAIN, "family": family, "backend": backend}, {})


# A reader's output must be writable as JSON, whatever the kernel said.
def check(found: Any) -> None:
    json.dumps(found)


class TestExpressions:
    def test_registers_are_numbered_in_words(self) -> None:
        for kernel, ours in ((0, -1), (1, 0), (2, 4), (4, 12), (8, 0), (9, 1), (23, 15)):
            found = _nft_expr.decode(expression("cmp", attribute(1, number(kernel))))
            assert found["sreg"] == ours

    def test_a_verdict_has_its_chain(self) -> None:
        verdict = attribute(1, number(-3)) + attribute(2, b"web\0")
        body = attribute(1, number(0)) + attribute(2, attribute(2, verdict))
        found = _nft_expr.decode(expression("immediate", body))
        assert found == {"name": "immediate", "dreg": -1, "verdict": "jump", "chain": "web"}

    @pytest.mark.parametrize(("code", "verdict"), [(0, "drop"), (1, "accept"), (-5, "return"), (0x70003, "queue")])
    def test_verdicts_have_the_kernels_names(self, code: int, verdict: str) -> None:
        assert _nft_expr.data(attribute(2, attribute(1, number(code)))) == {"verdict": verdict}

    def test_an_expression_from_the_future_is_unknown(self) -> None:
        found = _nft_expr.decode(expression("teleport", attribute(1, b"x")))
        assert found == {"name": "teleport", "unknown": True}
        assert line(found) == "teleport ?"

    def test_a_key_from_the_future_keeps_its_number(self) -> None:
        assert _nft_expr.decode(expression("meta", attribute(2, number(99))))["key"] == 99

    def test_nesting_is_bounded(self) -> None:
        inner = expression("counter")
        for _time in range(12):
            inner = expression("dynset", attribute(10, attribute(1, inner)))
        with pytest.raises(DecodeError):
            _nft_expr.decode(inner)

    def test_comparisons_that_differ_in_data_only_decode_alike(self) -> None:
        """The short cut for them must give what the whole decoder gives."""
        seen = _nft.Seen("inet")
        for data in (b"\x12\xb5", b"\x00\x50", b"\x01\xbb", b"\x0a\x00\x00\x01", b"\x0a", b"", b"\x0a\x00\x00\x02"):
            raw = expression(
                "cmp", attribute(1, number(8)), attribute(2, number(0)), attribute(3 | 0x8000, datum(data))
            )
            assert seen.decode(raw) == seen.decode(raw) == _nft_expr.decode(raw, "inet")

    @given(st.binary(max_size=120), FAMILIES)
    def test_arbitrary_bytes_raise_nothing_else(self, raw: bytes, family: str) -> None:
        try:
            check(_nft_expr.decode(raw, family))
        except DecodeError:
            pass

    @given(
        st.sampled_from([*_nft_expr._TABLE, "immediate", "match", "target"]),
        st.lists(st.tuples(st.integers(0, 12), st.binary(max_size=24)), max_size=8),
        FAMILIES,
    )
    def test_any_attributes_of_any_expression_can_be_written(
        self, name: str, attrs: list[tuple[int, bytes]], family: str
    ) -> None:
        try:
            found = _nft_expr.decode(expression(name, *(attribute(kind, value) for kind, value in attrs)), family)
        except DecodeError:
            return
        check(found)
        assert isinstance(line(found, found, family=family), str)


class TestSets:
    def test_half_open_intervals_become_ranges(self) -> None:
        raw = elements(
            element(b"\0\0", flags=1),
            element(b"\0\x50"),
            element(b"\0\x51", flags=1),
            element(b"\x13\x88"),
            element(b"\x1f\x40", flags=1),
            element(b"\xff\x00"),
        )
        found = _nft_set.assemble(_nft_set.decode_elements(raw), True, False, "ip")
        assert found == ["0050", "1388-1f3f", "ff00-ffff"]

    def test_adjacent_intervals_stay_apart(self) -> None:
        raw = elements(element(b"\x10"), element(b"\x20", flags=1), element(b"\x20"), element(b"\x30", flags=1))
        assert _nft_set.assemble(_nft_set.decode_elements(raw), True, False, "ip") == ["10-1f", "20-2f"]

    def test_a_catch_all_element_is_a_star(self) -> None:
        verdict = attribute(2 | 0x8000, attribute(2 | 0x8000, attribute(1, number(0))))
        raw = elements(element(b"\0\x16", verdict), attribute(1, attribute(3, number(2)) + verdict))
        found = _nft_set.assemble(_nft_set.decode_elements(raw), False, False, "ip")
        assert found == [{"key": "0016", "verdict": "drop"}, {"key": "*", "verdict": "drop"}]

    def test_a_concatenation_has_both_ends(self) -> None:
        end = attribute(10 | 0x8000, datum(b"\0\x63\0\0"))
        found = _nft_set.assemble(_nft_set.decode_elements(elements(element(b"\0\x50\0\0", end))), True, True, "ip")
        assert found == ["00500000-00630000"]

    def test_many_elements_decode_as_one_does(self) -> None:
        """What surrounds the key is remembered between elements."""
        keys = [bytes([n, 255 - n, n]) + bytes(n % 2) for n in range(64)]
        items = [element(key, flags=n % 3 == 0) for n, key in enumerate(keys)]
        together = _nft_set.decode_elements(elements(*items))
        assert together == [_nft_set.decode_elements(elements(item))[0] for item in items]
        assert [key for key, _attrs in together] == keys

    def test_foreign_userdata_is_no_comment(self) -> None:
        assert _nft_set.comment_of(b"\0\x06hello\0", 0) == "hello"
        assert _nft_set.comment_of(b"\x01\x02ab\0\x03xy\0", 0) == "xy"
        assert _nft_set.comment_of(b"\0\xffhello", 0) is None
        assert _nft_set.comment_of(b"\0", 0) is None

    @given(st.binary(max_size=200))
    def test_arbitrary_bytes_raise_nothing_else(self, raw: bytes) -> None:
        for read in (
            lambda: _nft_set.decode_set(raw, "ip"),
            lambda: _nft_set.assemble(_nft_set.decode_elements(raw), True, False, "ip"),
            lambda: _nft_set.assemble(_nft_set.decode_elements(attribute(3, raw)), False, False, "ip"),
            lambda: _nft_set.assemble(_nft_set.decode_elements(elements(attribute(1, raw))), True, True, "ip"),
            lambda: _nft.decode_chain(_nfnl.attributes(raw), "ip"),
            lambda: _nft.split_rule(raw),
        ):
            try:
                read()
            except DecodeError:
                pass


class TestMessages:
    def message(self, kind: int, body: bytes, flags: int = 0, sequence: int = 7) -> bytes:
        return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body + b"\0" * (-len(body) % 4)

    def test_answers_to_somebody_else_are_ignored(self) -> None:
        data = self.message(10, b"mine") + self.message(10, b"late", sequence=6) + self.message(3, b"done")
        assert [(kind, body) for kind, _flags, body in _nfnl.messages(data, 7)] == [(10, b"mine"), (3, b"done")]

    def test_a_dump_that_was_interrupted_says_so(self) -> None:
        with pytest.raises(_nfnl.DumpInterruptedError):
            _nfnl.check(struct.pack("=i", -4))
        with pytest.raises(_nfnl.NetlinkError) as caught:
            _nfnl.check(struct.pack("=i", -1))
        assert caught.value.errno == 1
        _nfnl.check(struct.pack("=i", 0))

    @given(st.binary(max_size=200))
    def test_arbitrary_bytes_raise_nothing_else(self, raw: bytes) -> None:
        for read in (lambda: list(_nfnl.messages(raw, 0)), lambda: _nfnl.pairs(raw), lambda: _nfnl.attributes(raw)):
            try:
                read()
            except DecodeError:
                pass


class TestExtensions:
    def test_ports_and_flags(self) -> None:
        raw = struct.pack("=4H4B", 1024, 65535, 80, 80, 0, 0x17, 0x02, 0x02 | 0x04)
        found = _xt_match.decode_match("tcp", 0, raw)
        assert found["info"]["dport"] == [80, 80, True]
        assert line(found) == "-m tcp --sport 1024:65535 ! --dport 80 ! --tcp-flags 0x17 0x02"

    def test_multiport_with_a_range(self) -> None:
        ports = struct.pack("=15H", 80, 8000, 8100, *[0] * 12)
        raw = bytes([1, 3]) + ports + bytes([0, 1, 0]) + bytes(12) + b"\x01"
        found = _xt_match.decode_match("multiport", 1, raw)["info"]
        assert found == {"on": "dst", "ranges": [[80, 80], [8000, 8100]], "invert": True}

    @pytest.mark.parametrize("revision", [1, 2, 3])
    def test_conntrack_state_in_every_revision(self, revision: int) -> None:
        masks = struct.pack("=2B", 0x06, 0) if revision == 1 else struct.pack("=2H", 0x06, 0)
        raw = bytes(146) + struct.pack("=2H", 1, 0) + masks + bytes(16)
        found = _xt_match.decode_match("conntrack", revision, raw)
        assert found["info"] == {"state": [["established", "related"], False]}

    def test_a_revision_from_the_future_is_unknown(self) -> None:
        assert _xt_match.decode_match("conntrack", 9, bytes(200)) == {
            "name": "match",
            "match": "conntrack",
            "rev": 9,
            "unknown": True,
        }
        assert _xt_target.decode_target("DNAT", 9, bytes(200))["unknown"]

    def test_interface_masks(self) -> None:
        for name, mask, wanted in ((b"eth0", 5, "eth0"), (b"eth", 3, "eth+"), (b"", 0, "")):
            assert _xt_match.ifname(name.ljust(16, b"\0"), (b"\xff" * mask).ljust(16, b"\0")) == wanted

    @given(st.sampled_from([*_xt_match._MATCHES, "bpf"]), st.integers(0, 5), st.binary(max_size=320), FAMILIES)
    def test_any_match_can_be_read_and_written(self, name: str, revision: int, raw: bytes, family: str) -> None:
        found = _xt_match.decode_match(name, revision, raw, family)
        check(found)
        assert name == "comment" or line(found).startswith(f"-m {name}")

    @given(st.sampled_from([*_xt_target._TARGETS, "TARPIT"]), st.integers(0, 5), st.binary(max_size=120), FAMILIES)
    def test_any_target_can_be_read_and_written(self, name: str, revision: int, raw: bytes, family: str) -> None:
        found = _xt_target.decode_target(name, revision, raw, family)
        check(found)
        assert line(found).startswith(f"-j {name}")


def entry(target: bytes, fixed: bytes = bytes(84), counter: tuple[int, int] = (0, 0)) -> bytes:
    """struct ipt_entry with one target."""
    sizes = struct.pack("=I2HI2Q", 0, 112, 112 + len(target), 0, *counter)
    return fixed + sizes + target


def standard(verdict: int) -> bytes:
    return struct.pack("=H29sBi4x", 40, b"", 0, verdict)


def error(name: bytes) -> bytes:
    return struct.pack("=H29sB30s2x", 64, b"ERROR", 0, name)


class TestLegacyTables:
    LAYOUT = _xtables.LAYOUTS[0]

    def table(self) -> tuple[bytes, _xtables.Info]:
        """INPUT: jump USER, goto USER, nothing; policy DROP. USER: drop."""
        size = len(entry(standard(0)))
        user = 4 * size + len(entry(error(b"USER")))
        goto = bytearray(84)
        goto[82] = 2
        parts = [
            entry(standard(user), counter=(3, 300)),
            entry(standard(user), fixed=bytes(goto)),
            entry(standard(3 * size)),
            entry(standard(-1), counter=(9, 900)),
            entry(error(b"USER")),
            entry(standard(-1)),
            entry(standard(-5)),
            entry(error(b"ERROR")),
        ]
        raw = b"".join(parts)
        return raw, _xtables.Info(2, (0, 0, 0, 0, 0), (0, 3 * size, 0, 0, 0), len(parts), len(raw))

    def test_chains_jumps_and_policies(self) -> None:
        raw, info = self.table()
        found = _xtables.build_chains(_xtables.split_entries(raw, self.LAYOUT), info, self.LAYOUT, "filter")
        built_in, user = found
        assert (built_in["hook"], built_in["policy"], built_in["policy_counter"]) == ("input", "drop", [9, 900])
        assert [rule["text"] for rule in built_in["rules"]] == ["-j USER", "-g USER", ""]
        assert [rule["ref"] for rule in built_in["rules"]] == [f"legacy:ip:filter:INPUT:{n}" for n in (1, 2, 3)]
        assert built_in["rules"][0]["counter"] == [3, 300]
        assert (user["name"], user["hook"], [rule["text"] for rule in user["rules"]]) == ("USER", None, ["-j DROP"])

    @pytest.mark.parametrize("layout", _xtables.LAYOUTS, ids=lambda layout: layout.family)
    def test_priorities_are_the_kernels(self, layout: _xtables.Layout) -> None:
        priorities = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}
        for table, priority in priorities.items():
            assert _xtables._chain(layout, table, "INPUT", "input")["priority"] == priority
        assert _xtables._chain(layout, "nat", "PREROUTING", "prerouting")["priority"] == -100
        assert _xtables._chain(layout, "nat", "INPUT", "input")["priority"] == 100

    @given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
    def test_damaged_tables_raise_nothing_else(self, where: int, damage: bytes) -> None:
        raw, info = self.table()
        raw = raw[:where] + damage + raw[where + len(damage) :]
        for layout in _xtables.LAYOUTS:
            try:
                check(_xtables.build_chains(_xtables.split_entries(raw, layout), info, layout, "filter"))
            except DecodeError:
                pass

    @given(st.binary(max_size=500))
    def test_arbitrary_bytes_raise_nothing_else(self, raw: bytes) -> None:
        for layout in _xtables.LAYOUTS:
            for read in (
                lambda layout=layout: _xtables.split_entries(raw, layout),
                lambda layout=layout: _xtables.decode_info(raw, len(layout.hooks)),
            ):
                try:
                    read()
                except DecodeError:
                    pass

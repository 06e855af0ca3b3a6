# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _counters, _netns
from tests.unit.plugins.module_utils.namespace import namespace, needs_root, run
from tests.unit.plugins.module_utils.netlink_messages import attribute, message, spans

# Debian 12, kernel 6.1: the ends of long lines cut.
SNMP = """\
Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams
Ip: 1 64 70712 0 3 12
Icmp: InMsgs InErrors
Icmp: 14 0
IcmpMsg: InType3 InType8
IcmpMsg: 2 12
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn
Tcp: 1 200 120000 -1
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
Udp: 1028 4 0 1045 0 0 0 0 0
"""
# /proc/net/stat/nf_conntrack of a machine with two processors, kernel 6.1.
CONNTRACK = """\
entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart
0000001c  00000000 00000000 00000000 0000000a 00000000 00000000 00000000 00000000 00000000 00000001 00000000 00000000  00000000 00000000 00000000 00000000
0000001c  00000000 00000000 00000000 00000006 00000000 00000000 00000000 00000000 00000002 00000000 00000000 00000000  00000000 00000000 00000000 00000003
"""  # noqa: E501


def test_names_and_values_are_paired_by_group() -> None:
    found = _counters.parse_pairs(SNMP)
    assert found["Ip.InAddrErrors"] == 3
    assert found["Udp.InCsumErrors"] == 0
    assert found["Tcp.MaxConn"] == -1
    assert found["IcmpMsg.InType8"] == 12


def test_single_counters_take_a_line_each() -> None:
    text = "Ip6InReceives                   \t12\nUdp6InCsumErrors\t3\nbroken\n"
    assert _counters.parse_single(text) == {"Ip6InReceives": 12, "Udp6InCsumErrors": 3}


def test_processors_are_summed_and_the_shared_total_is_not() -> None:
    found = _counters.parse_per_cpu(CONNTRACK)
    assert (found["entries"], found["invalid"], found["insert_failed"], found["drop"]) == (28, 16, 2, 1)


@given(st.text())
def test_any_text_parses(text: str) -> None:
    for parse in (_counters.parse_pairs, _counters.parse_single, _counters.parse_per_cpu):
        assert all(isinstance(number, int) for number in parse(text).values())


@given(
    st.dictionaries(
        st.from_regex(r"[A-Z][A-Za-z]{0,8}", fullmatch=True),
        st.dictionaries(st.from_regex(r"[A-Za-z0-9]{1,12}", fullmatch=True), st.integers(-1, 2**64), min_size=1),
        max_size=5,
    )
)
def test_a_written_table_is_read_back(groups: dict[str, dict[str, int]]) -> None:
    lines = []
    for group, table in groups.items():
        lines.append(f"{group}: {' '.join(table)}")
        lines.append(f"{group}: {' '.join(map(str, table.values()))}")
    flat = {f"{group}.{name}": number for group, table in groups.items() for name, number in table.items()}
    assert _counters.parse_pairs("\n".join(lines)) == flat


@pytest.mark.parametrize(("fields", "otherhost"), [(25, 7), (24, None), (26, 7)])
def test_link_statistics_of_old_and_new_kernels(fields: int, otherhost: int | None) -> None:
    numbers = [0] * 26
    numbers[0], numbers[7], numbers[23], numbers[24] = 10, 4, 5, 7
    stats = struct.pack(f"={fields}Q", *numbers[:fields])
    raw = message(92, struct.pack("=BBHII", 0, 0, 0, 9, 1) + attribute(1, stats))
    row = _counters.parse_stats(spans([raw]))["9"]
    assert (row["rx_packets"], row["tx_dropped"], row["rx_nohandler"], row["rx_otherhost"]) == (10, 4, 5, otherhost)
    assert "collisions" not in row


@given(st.lists(st.binary(max_size=260), max_size=3))
def test_any_bytes_are_statistics_or_none(bodies: list[bytes]) -> None:
    chunks = [(bytes(16) + body, 0, 16 + len(body)) for body in bodies]
    assert isinstance(_counters.parse_stats(chunks), dict)


def test_the_own_namespace_has_every_kind() -> None:
    found = _counters.read_counters(complete=True)
    assert set(found) == {"links", "snmp", "netstat", "xfrm", "conntrack", "neighbours", "softnet", "filter"}
    assert "1" in found["links"]
    assert "Udp.InCsumErrors" in found["snmp"]
    assert "TcpExt.IPReversePathFilter" in found["netstat"]


@needs_root
def test_counters_are_those_of_the_namespace_and_rise_there_only() -> None:
    with namespace() as name:
        path = f"/run/netns/{name}"
        run(name, "ip", "link", "set", "lo", "up")
        host = _counters.read_counters(complete=False)
        with _netns.inside(path):
            before = _counters.read_counters(complete=False)
        run(name, "ip", "route", "get", "127.0.0.1")
        code = "import socket; [socket.socket(2, 2).sendto(b'x', ('127.0.0.1', 9)) for _ in range(5)]"
        run(name, "python3", "-c", code)
        with _netns.inside(path):
            after = _counters.read_counters(complete=False)
        assert after["snmp"]["Udp.NoPorts"] - before["snmp"].get("Udp.NoPorts", 0) == 5
        assert after["links"]["1"]["rx_packets"] > before["links"]["1"]["rx_packets"]
        assert set(before["links"]) == {"1"}
        assert host["links"] != before["links"]
        assert all(after["snmp"].values()), "zeros are left out"

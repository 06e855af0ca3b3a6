# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Captures that others made, against what tshark and tcpdump make of them.

The files are not part of the repository: ../shared/corpus beside it, with the truth in tables. Where we differ, C(OURS)
says from what and why.
"""

from __future__ import annotations

import csv
import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.crosshost.doctor.plugins.module_utils import _analysis, _frame, _packet, _pcap
from ansible_collections.crosshost.doctor.plugins.module_utils._flow_table import ip_text, mac_text

CORPUS = Path(__file__).resolve().parents[5] / "shared" / "corpus"
TCPDUMP = "the-tcpdump-group+tcpdump/tests/"
# (end of the file's name, column, ours): and why.
OURS: list[tuple[str, str, int, str]] = [
    (
        "bug-6887-defrag-ppp-ipv4-tcp-syn/frag-ppp-ip-tcp-syn.pcap",
        "outer_ipv4_fragment_frames",
        0,
        "PPP is not decoded",
    ),
    ("6in4tunnel.pcap", "icmpv6_ptb_frames", 0, "IPv6 in IPv4 is not followed"),
    ("6185045124251648", "vxlan_frames", 0, "pcap of version 2.8224: tcpdump refuses it too"),
    ("6185045124251648", "vxlan_headers", 0, "the same"),
    ("6185045124251648", "tshark_frames", 0, "the same"),
    ("6185045124251648", "truncated_frames", 0, "the same"),
    ("ip4_bad_fragment.pcap", "outer_ipv4_fragment_frames", 0, "MPLS is not followed"),
    ("bigtcp-ipv4-vxlan-ipv4.pcap", "vxlan_frames", 1, "BIG TCP, as the .out file has it"),
    ("bigtcp-ipv4-vxlan-ipv4.pcap", "vxlan_headers", 1, "the same"),
    ("bigtcp-ipv6-vxlan-ipv4.pcap", "vxlan_frames", 1, "the same"),
    ("bigtcp-ipv6-vxlan-ipv4.pcap", "vxlan_headers", 1, "the same"),
    ("esp_truncated.pcap", "vxlan_frames", 0, "no I flag, and no Ethernet inside: something else on the port"),
    ("esp_truncated.pcap", "vxlan_headers", 0, "the same"),
    ("arp-who-has-wlanmon.pcap", "arp_frames_any_depth", 0, "802.11 is not decoded"),
    ("linux_dlt_sll2.pcap", "arp_frames_any_depth", 1, "the other is reverse ARP"),
    ("mpls-6in6-broken.pcap.gz", "outer_ipv4_fragment_frames", 0, "gzip is refused with a reason"),
    ("mpls-6in6-broken.pcap.gz", "tshark_frames", 0, "the same"),
    ("advanced/test102.pcapng", "tshark_frames", 5, "journal entries are no packets"),
    ("basic/test017.pcapng", "tshark_frames", 0, "custom blocks are no packets"),
    ("fuzz-2021-10-13.pcap", "tshark_frames", 0, "the first record's length is beyond any capture's"),
    ("fuzz-2021-10-13.pcap", "truncated_frames", 0, "the same"),
    ("5685520970809344", "tshark_frames", 1, "one record is whole"),
    ("5685520970809344", "truncated_frames", 1, "the same"),
    ("5752969003008000", "tshark_frames", 1, "one record is whole"),
    ("5752969003008000", "truncated_frames", 1, "the same"),
    ("6604968558198784", "tshark_frames", 0, "pcap of version 2.2, whose lengths are the other way round"),
    ("6604968558198784", "truncated_frames", 0, "the same"),
    ("crash-exception-cast-constructed-record", "tshark_frames", 2, "as tcpdump"),
    ("frf16_magic_ie-oobr.pcap", "tshark_frames", 1, "as tcpdump"),
    ("frf16_magic_ie-oobr.pcap", "truncated_frames", 1, "as tcpdump"),
    ("hoobr_juniper3.pcap", "tshark_frames", 1, "as tcpdump"),
    ("hoobr_juniper3.pcap", "truncated_frames", 1, "as tcpdump"),
    ("vtp_asan-3.pcap", "tshark_frames", 1, "as tcpdump"),
    ("vtp_asan-3.pcap", "truncated_frames", 1, "as tcpdump"),
    ("vtp_asan.pcap", "tshark_frames", 5, "as tcpdump"),
    ("vtp_asan.pcap", "truncated_frames", 2, "as tcpdump"),
]
COLUMNS = (
    "tshark_frames",
    "truncated_frames",
    "vxlan_frames",
    "vxlan_headers",
    "vxlan_headers_in_icmp_quote",
    "geneve_frames",
    "arp_frames_any_depth",
    "outer_ipv4_fragment_frames",
    "icmp_3_4_frames",
    "icmpv6_ptb_frames",
    "esp_frames",
)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


COUNTS = table(CORPUS / "truth" / "ALL-counts.tsv") if CORPUS.is_dir() else []
NAMES = [row["file"] for row in COUNTS]
pytestmark = pytest.mark.skipif(not COUNTS, reason="../shared/corpus is not beside the repository")


@functools.cache
def frames_of(name: str) -> list[_packet.Frame]:
    try:
        with _pcap.open_capture(str(CORPUS / name)) as capture:
            return [_frame.decode(record[3], record[0].link_type, record[2]) for record in capture]
    except _pcap.CaptureError:
        return []


def tunnels(packets: list[_packet.Packet]) -> list[_packet.Packet]:
    return [packet for packet in packets if packet.tunnel and packet.tunnel.kind in ("vxlan", "gpe")]


def quoted(frame: _packet.Frame) -> list[_packet.Packet]:
    return [packet for outer in frame.packets for packet in outer.quote or []]


def counted(name: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for frame in frames_of(name):
        inside, quotes, packets = tunnels(frame.packets), tunnels(quoted(frame)), frame.packets
        found["tshark_frames"] += 1
        found["truncated_frames"] += frame.truncated
        found["vxlan_frames"] += bool(inside or quotes)
        found["vxlan_headers"] += len(inside) + len(quotes)
        found["vxlan_headers_in_icmp_quote"] += len(quotes)
        found["geneve_frames"] += any(one.tunnel and one.tunnel.kind == "geneve" for one in packets + quoted(frame))
        found["arp_frames_any_depth"] += any(one.arp is not None or one.ethertype == 0x0806 for one in packets)
        found["outer_ipv4_fragment_frames"] += bool(packets and packets[0].version == 4 and packets[0].fragment)
        found["icmp_3_4_frames"] += any((one.protocol, one.icmp_type, one.icmp_code) == (1, 3, 4) for one in packets)
        found["icmpv6_ptb_frames"] += any((one.protocol, one.icmp_type) == (58, 2) for one in packets)
        found["esp_frames"] += any(one.spi is not None or one.protocol == 50 for one in packets)
    return found


def expected(row: dict[str, str]) -> dict[str, int]:
    truth = {column: int(row[column]) for column in COLUMNS}
    for ending, column, ours, _why in OURS:
        if row["file"].endswith(ending):
            assert truth[column] != ours, f"{row['file']}: {column} needs no exception any more"
            truth[column] = ours
    return truth


@pytest.mark.parametrize("row", COUNTS, ids=NAMES)
def test_a_file_has_in_it_what_others_find_in_it(row: dict[str, str]) -> None:
    found = counted(row["file"])
    assert {column: found[column] for column in COLUMNS} == expected(row)


def test_every_exception_is_of_a_file_there_is() -> None:
    unused = [ending for ending, *_rest in OURS if not any(name.endswith(ending) for name in NAMES)]
    assert not unused


def rows(name: str) -> list[dict[str, Any]]:
    """One row per VXLAN header, with the names of the truth's columns."""
    found = []
    for number, frame in enumerate(frames_of(name), 1):
        for packets, in_quote in ((frame.packets, "0"), (quoted(frame), "1")):
            for depth, packet in enumerate(tunnels(packets), 1):
                assert packet.tunnel is not None
                place = packets.index(packet)
                inner = packets[place + 1] if place + 1 < len(packets) else None
                found.append(describe(number, frame, depth, in_quote, packet, inner))
    return found


def describe(
    number: int, frame: _packet.Frame, depth: int, in_quote: str, outer: _packet.Packet, inner: _packet.Packet | None
) -> dict[str, Any]:
    tunnel = outer.tunnel
    assert tunnel is not None
    row = {
        "frame": str(number),
        "cap_len": str(len(frame.data)),
        "len": str(frame.wire_length),
        "depth": str(depth),
        "in_icmp_quote": in_quote,
        "outer_src": ip_text(outer.src),
        "outer_dst": ip_text(outer.dst),
        "udp_sport": str(outer.sport),
        "udp_dport": str(outer.dport),
        "udp_cksum": f"0x{outer.sum:04x}",
        "vni": str(tunnel.vni),
        "outer_mf": str(int(outer.mf)) if outer.version == 4 else "",
        "outer_frag_off": str(outer.offset // 8) if outer.version == 4 else "",
        "outer_df": str(int(outer.df)) if outer.version == 4 else "",
        "sum": _packet.transport_sum(frame, outer),
    }
    row["vxlan_flags_hex16"] = "0x" + tunnel.raw[: 1 if tunnel.kind == "gpe" and outer.dport == 4790 else 2].hex()
    if outer.dport != 4790:
        row["gbp_id"] = str(int.from_bytes(tunnel.raw[2:4], "big"))
    if inner:
        row["inner_eth_src"], row["inner_eth_dst"] = mac_text(inner.smac) or "", mac_text(inner.dmac) or ""
        row["inner_l3"] = "arp" if inner.arp else {4: "ipv4", 6: "ipv6"}.get(inner.version, "")
        if inner.version:
            row["inner_src"], row["inner_dst"] = ip_text(inner.src), ip_text(inner.dst)
        if inner.version == 4:
            row["inner_ip_len"], row["inner_df"] = str(inner.length), str(int(inner.df))
        if inner.arp:
            row["arp_op"], row["arp_sha"] = str(inner.arp[0]), mac_text(inner.arp[1])
            row["arp_spa"], row["arp_tpa"] = ip_text(inner.arp[2]), ip_text(inner.arp[4])
    return row


TRUTHS = [name for name in NAMES if (CORPUS / "truth" / (name.replace("/", "__") + ".tsv")).is_file()]
# Of the checksum: wrong, right, not checked, none.
SUMS = {"0": {"wrong", "offloaded"}, "1": {"ok"}, "3": {"none"}}
NOT_OURS = ("6185045124251648", "esp_truncated.pcap", "nsh-over-vxlan-gpe.pcap")


@pytest.mark.parametrize("name", [name for name in TRUTHS if not name.endswith(NOT_OURS)])
def test_every_vxlan_header_has_the_fields_that_others_read_in_it(name: str) -> None:
    truth = table(CORPUS / "truth" / (name.replace("/", "__") + ".tsv"))
    ours = rows(name)
    if name.endswith("fault-vtep-fragments.pcap"):
        # tshark reports the datagram with its last fragment, tcpdump and we with the first, where the headers are.
        for row in truth:
            if row["outer_frag_off"] != "0":
                row.update(
                    frame=str(int(row["frame"]) - 1), cap_len="1514", len="1514", outer_mf="1", outer_frag_off="0"
                )
                row["udp_cksum_status(0bad,1good,2unverified,3none)"] = "2"
    assert len(ours) == len(truth)
    for row, mine in zip(truth, ours, strict=True):
        state = row["udp_cksum_status(0bad,1good,2unverified,3none)"]
        if state in SUMS and row["in_icmp_quote"] == "0":
            assert mine["sum"] in SUMS[state], row
        shared = {key: value for key, value in row.items() if key in mine and (value or key.startswith("outer"))}
        assert {key: mine[key] for key in shared} == shared


def test_nsh_in_vxlan_gpe_is_seen_and_not_followed() -> None:
    row = rows(TCPDUMP + "nsh-over-vxlan-gpe.pcap")[0]
    assert (row["vni"], row["vxlan_flags_hex16"], row["udp_dport"]) == ("16777215", "0x0c", "4790")


@pytest.mark.parametrize("name", NAMES)
def test_the_short_way_and_the_long_way_lead_to_the_same(name: str) -> None:
    results = []
    for quick in (True, False):
        for mark in ("", "run"):
            analysis = _analysis.Analysis(quick=quick, mark=mark, path_mtu=600, vnis=(7, 123), vteps=("10.0.1.1",))
            try:
                with _pcap.open_capture(str(CORPUS / name)) as capture:
                    taken, ended = _analysis.analyse(capture, analysis)
            except _pcap.CaptureError:
                assert not frames_of(name)
                return
            found = analysis.result()
            # It is returned as JSON.
            json.dumps(found, allow_nan=False)
            assert (taken, ended) == (len(frames_of(name)), "end of file")
            assert found["counts"]["frames"] == taken
            results.append(found)
    assert results[0] == results[2]
    assert results[1] == results[3]


def anomalies(name: str, **options: Any) -> list[dict[str, Any]]:
    analysis = _analysis.Analysis(**options)
    with _pcap.open_capture(str(CORPUS / "made-here" / name)) as capture:
        _analysis.analyse(capture, analysis)
    found: list[dict[str, Any]] = analysis.result()["anomalies"]
    return found


@pytest.mark.parametrize(
    ("name", "options", "kinds"),
    [
        ("ok-nano.pcap", {"vnis": (7,), "vteps": ("10.0.1.1", "10.0.3.1"), "path_mtu": 1500}, []),
        ("ok-any-sll2.pcap", {"vnis": (7,), "vteps": ("10.0.1.1", "10.0.3.1"), "path_mtu": 1500}, []),
        ("ok-gbp.pcap", {}, ["group-policy"]),
        ("fault-vtep-fragments.pcap", {}, ["fragments"]),
        ("fault-fragneeded-outer.pcap", {}, ["fragments", "icmp-frag-needed"]),
        ("fault-vni-mismatch.pcap", {"vnis": (7,)}, ["arp-unanswered", "vni-unknown"]),
        ("fault-firewall-drop.pcap", {}, ["arp-unanswered"]),
        ("fault-arp-unanswered.pcap", {}, ["arp-unanswered"]),
    ],
)
def test_faults_of_the_kernel_s_own_vxlan_are_seen(name: str, options: dict[str, Any], kinds: list[str]) -> None:
    found = anomalies(name, **options)
    assert sorted({one["kind"] for one in found}) == kinds


def test_fragmentation_needed_tells_the_mtu_and_whose_packet() -> None:
    (found,) = [one for one in anomalies("fault-fragneeded-outer.pcap") if one["kind"] == "icmp-frag-needed"]
    assert (found["mtu"], found["sender"], found["quoted"]["vni"]) == (1400, "10.0.1.2", 7)
    assert found["quoted"]["outer"]["dst"] == "10.0.3.1"


def test_summary() -> None:
    """How much of it matches, for reports: what is not as tshark has it is listed in OURS."""
    files = sum(all(counted(row["file"])[column] == int(row[column]) for column in COLUMNS) for row in COUNTS)
    frames = sum(len(frames_of(name)) for name in NAMES)
    headers = sum(counted(name)["vxlan_headers"] for name in NAMES)
    print(f"{files} of {len(COUNTS)} files exactly as tshark; {frames} frames, {headers} VXLAN headers")
    assert files >= len(COUNTS) - len({ending for ending, *_rest in OURS}) - 1
    assert headers >= sum(int(row["vxlan_headers"]) for row in COUNTS)

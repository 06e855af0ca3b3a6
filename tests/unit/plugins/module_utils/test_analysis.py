# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Flows, anomalies and sightings of frames that come one by one, the short way and the long way."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _analysis, _pcap, _probe_base

from . import frames as f

T = 1_700_000_000 * 10**9
MS = 1_000_000
Result = dict[str, Any]


def analyse(given: Iterable[Any], end_ns: int | None = None, **options: Any) -> Result:
    """C(given): frames as (time in ms, bytes) or (time in ms, bytes, keyword arguments of add), one tap."""
    results = []
    for quick in (True, False):
        analysis = _analysis.Analysis(quick=quick, **options)
        for when, data, *more in given:
            keywords = {"tap_id": "nic", "link_type": 1, "wire_length": len(data), **(more[0] if more else {})}
            analysis.add(time_ns=T + when * MS, data=data, **keywords)
        results.append(analysis.result(end_ns))
    assert results[0] == results[1], "the short way differs from the long way"
    if not any("csum_ready" in more[0] or "tap_id" in more[0] for _when, _data, *more in given if more):
        assert from_file(given, end_ns, options) == results[0], "the loop through a file differs from both"
    json.dumps(results[0], allow_nan=False)
    return results[0]


def from_file(given: Iterable[Any], end_ns: int | None, options: dict[str, Any]) -> Result:
    """The same frames out of a capture file."""
    records = [
        (T + when * MS, data, more[0].get("wire_length", len(data)) if more else len(data))
        for when, data, *more in given
    ]
    analysis = _analysis.Analysis(**options)
    capture = _pcap.open_capture(io.BytesIO(f.pcap(records)))
    capture.interfaces[0].name = "nic"
    assert _analysis.analyse(capture, analysis) == (len(records), "end of file")
    return analysis.result(end_ns)


def kinds(result: Result) -> list[str]:
    return [anomaly["kind"] for anomaly in result["anomalies"]]


def only(result: Result, kind: str) -> dict[str, Any]:
    (found,) = [anomaly for anomaly in result["anomalies"] if anomaly["kind"] == kind]
    return dict(found)


def test_a_flow_has_its_ends_its_size_its_times_and_what_its_headers_said() -> None:
    frames = [(n, f.vxlan(f.inner_tcp(b"x" * 100, 1 + 100 * n, tos=0xB8), 300, ident=n, tos=0x02)) for n in range(5)]
    result = analyse(frames)
    assert result["anomalies"] == []
    (flow,) = result["flows"]
    assert flow == {
        "tap": "nic", "out": None, "protocol": "tcp", "src": f.IN_A, "dst": f.IN_B, "sport": 41000, "dport": 80,
        "smac": f.MAC_A, "dmac": f.MAC_B, "vlans": [], "tunnel": "vxlan", "vni": 300, "policy": None,
        "outer": {
            "src": f.A, "dst": f.B, "sport": 40000, "dport": 4789, "vlans": [], "dscp": [0], "ecn": [2], "largest": 190,
        },
        "packets": 5, "bytes": 5 * 204, "first": T / 1e9, "last": (T + 4 * MS) / 1e9, "largest": 140, "fragments": 0,
        "dscp": [46], "ecn": [0], "ttl": [64], "checksum": "ok", "bad_checksums": 0, "icmp": None,
        "tcp": {"syn": False, "fin": False, "rst": False, "retransmissions": 0, "reordered": 0},
        "spi": None, "dns": None,
    }  # fmt: skip
    assert result["counts"]["frames"] == result["counts"]["vxlan"] == result["counts"]["tcp"] == 5


def test_congestion_marked_on_the_way_is_seen() -> None:
    frames = [(n, f.vxlan(f.inner_echo(n), tos=2 if n < 3 else 3)) for n in range(6)]
    assert analyse(frames)["flows"][0]["outer"]["ecn"] == [2, 3]


@pytest.mark.parametrize(
    ("frame", "options", "kind", "fields"),
    [
        (f.vxlan(f.inner_echo(), head=f.header(5, flags=0)), {}, "i-flag-unset", {"flags": [0]}),
        (f.vxlan(f.inner_echo(), head=f.header(5, last=3)), {}, "reserved-bits", {"bits": ["0x00000003"]}),
        (f.vxlan(f.inner_echo(), head=f.header(5, 0x88, b"\0\0\7")), {}, "group-policy", {"policies": [7]}),
        (f.vxlan(f.inner_echo(), 0), {}, "vni-zero", {}),
        (f.vxlan(f.inner_echo(), 5), {"vnis": (6, 7)}, "vni-unknown", {"vnis": [5]}),
        (f.vxlan(f.inner_echo(), 5), {"vteps": (f.B,)}, "vtep-unexpected", {"vteps": [f.A]}),
        (f.vxlan(f.inner_echo(), 5), {"macs": (f.MAC_B,)}, "mac-unknown", {"macs": [f.MAC_A]}),
        (f.vxlan(f.inner_echo(), head=f.header(5, 0x0C, b"\0\0\3")), {}, "vxlan-gpe", {"next_protocol": 3}),
        (f.vxlan(f.inner_echo(), head=bytes.fromhex("0000655800000500")), {}, "foreign-protocol", {"what": "geneve"}),
        (f.vxlan(b"", head=b"GET / HTTP/1.1"), {}, "foreign-protocol", {"what": "foreign"}),
    ],
)  # fmt: skip
def test_a_tunnel_header_that_its_receiver_drops_is_counted_each_time(
    frame: bytes, options: dict[str, Any], kind: str, fields: dict[str, Any]
) -> None:
    result = analyse([(n, frame) for n in range(4)], **options)
    assert kinds(result) == [kind]
    found = only(result, kind)
    assert (found["count"], found["tap"]) == (4, "nic")
    assert (found["first"], found["last"]) == (T / 1e9, (T + 3 * MS) / 1e9)
    assert {key: found[key] for key in fields} == fields
    assert found["sample"]["wire_length"] == len(frame)
    assert f.A in (found["sample"]["src"], (found["sample"].get("outer") or {}).get("src"))


def test_what_is_right_is_no_anomaly() -> None:
    options = {"vnis": (5,), "vteps": (f.A, f.B), "macs": (f.MAC_A, f.MAC_B), "path_mtu": 1500}
    frames = [
        (n, f.vxlan(f.inner_echo(n, payload=bytes(1400)), 5), {"csum_ready": True, "out": False}) for n in range(4)
    ]
    assert analyse(frames, **options)["anomalies"] == []


def test_oversize_is_judged_only_where_it_is_known_not_to_be_a_super_frame() -> None:
    big, small = f.vxlan(f.inner_echo(1, bytes(1412))), f.vxlan(f.inner_echo(1, bytes(1300)))
    known = {"csum_ready": True, "out": False}
    assert kinds(analyse([(0, small, known), (1, small, known)], path_mtu=1450)) == []
    found = only(analyse([(0, small, known), (1, big, known), (2, big, known)], path_mtu=1450), "oversize")
    assert (found["count"], found["largest"], found["path_mtu"], found["df"]) == (2, 1490, 1450, False)
    for unknown in ({}, {"csum_ready": True, "gso": True}):
        result = analyse([(n, data, unknown) for n, data in enumerate([small, big, small])], path_mtu=1450)
        assert kinds(result) == []
        assert result["counts"]["not_judged"]["oversize"] == 1


@pytest.mark.parametrize("outer", [True, False])
def test_fragments_belong_to_the_flow_of_the_first(outer: bool) -> None:
    whole = f.vxlan(f.inner_echo(payload=bytes(1200)))[34:] if outer else f.echo(payload=bytes(1200))
    protocol = f.UDP if outer else f.ICMP
    pieces = [
        f.ip4(whole[:640], protocol, mf=True, ident=5),
        f.ip4(whole[640:], protocol, offset=640, ident=5),
        f.ip4(whole[640:], protocol, offset=640, ident=6),
    ]
    frames = [f.ethernet(piece) for piece in pieces]
    if not outer:
        frames = [f.vxlan(frame) for frame in frames]
    result = analyse(list(enumerate(frames)))
    found = [anomaly for anomaly in result["anomalies"] if anomaly["kind"] == "fragments"]
    assert (
        [(one["level"], one["count"]) for one in found] == [("outer", 2), ("unknown", 1)] if outer else [("inner", 3)]
    )
    assert result["flows"][0]["fragments"] == 2
    assert result["flows"][0]["packets"] == 2
    assert result["counts"]["fragments"] == 3


def spoiled(frame: bytes, place: int) -> bytes:
    return frame[:place] + bytes([frame[place] ^ 0x55]) + frame[place + 1 :]


@pytest.mark.parametrize(
    ("place", "kind", "layer"),
    [
        (24, "outer-checksum", "ip"),
        (40, "outer-checksum", "udp"),
        (74, "inner-checksum", "ip"),
        (100, "inner-checksum", "tcp"),
    ],
)
def test_checksums_are_judged_at_a_receiver_only(place: int, kind: str, layer: str) -> None:
    good = f.vxlan(f.inner_tcp(b"x" * 50, 1), summed=True)
    bad = spoiled(good, place)
    if place != 40:
        bad = bad[:40] + b"\0\0" + bad[42:]
    receiver = {"csum_ready": True, "out": False}
    result = analyse([(n, data, receiver) for n, data in enumerate([good, bad, good, bad])])
    found = only(result, kind)
    assert (found["count"], found["layer"], found["unfinished"]) == (2, layer, False)
    flow = result["flows"][0]
    assert flow["bad_checksums"] == 2
    for sender in ({"csum_ready": False}, {"out": True, "csum_ready": True}, {"csum_ready": True, "gso": True}, {}):
        again = analyse([(n, data, sender) for n, data in enumerate([bad, bad])])
        assert not [one for one in kinds(again) if "checksum" in one]
        assert again["flows"][0]["checksum"] != "bad"


def test_a_sum_that_the_sender_s_card_never_finished_is_told() -> None:
    frame = bytearray(f.vxlan(f.inner_tcp(b"data", 5)))
    pseudo = f.address(f.IN_A) + f.address(f.IN_B) + struct.pack("!II", 24, f.TCP)
    frame[100:102] = struct.pack("!H", ~f.rfc1071(pseudo) & 0xFFFF)
    found = only(analyse([(0, bytes(frame), {"csum_ready": True, "out": False})]), "inner-checksum")
    assert found["unfinished"] is True


def arp(operation: int, sha: str, spa: str, tpa: str) -> bytes:
    return f.vxlan(f.ethernet(f.arp(operation, sha, spa, tpa), 0x0806, sha, f.BROADCAST), 5)


def test_arp_without_an_answer_within_a_second() -> None:
    ask, answer = arp(1, f.MAC_A, f.IN_A, f.IN_B), arp(2, f.MAC_B, f.IN_B, f.IN_A)
    assert kinds(analyse([(0, ask), (500, answer), (3000, ask)])) == []
    # Not yet a second old when the capture ends.
    assert kinds(analyse([(0, ask), (900, ask)])) == []
    found = only(analyse([(0, ask), (900, ask), (1800, f.vxlan(f.inner_echo()))]), "arp-unanswered")
    assert (found["count"], found["target"], found["asker"], found["answered_after"]) == (2, f.IN_B, f.IN_A, None)
    assert found["sample"]["vni"] == 5
    late = only(analyse([(0, ask), (1500, answer)]), "arp-unanswered")
    assert late["answered_after"] == 1.5
    known_end = analyse([(0, ask)], end_ns=T + 2000 * MS)
    assert kinds(known_end) == ["arp-unanswered"]


def test_asking_for_one_s_own_address_needs_no_answer() -> None:
    gratuitous, probe = arp(1, f.MAC_A, f.IN_A, f.IN_A), arp(1, f.MAC_A, "0.0.0.0", f.IN_A)
    assert kinds(analyse([(0, gratuitous), (1, probe), (5000, f.vxlan(f.inner_echo()))])) == []


def test_two_macs_that_answer_for_one_address() -> None:
    one, other = arp(2, f.MAC_B, f.IN_B, f.IN_A), arp(2, "02:42:0a:00:00:99", f.IN_B, f.IN_A)
    found = only(analyse([(0, one), (1, one), (2, other)]), "arp-duplicate")
    assert (found["address"], found["macs"]) == (f.IN_B, [f.MAC_B, "02:42:0a:00:00:99"])
    assert kinds(analyse([(0, one), (1, one)])) == []


def test_a_mac_behind_two_vteps() -> None:
    frames = [
        (n, f.vxlan(f.inner_echo(n), 5, src)) for n, src in enumerate([f.A, f.A, "192.0.2.77", "192.0.2.77", f.A])
    ]
    found = only(analyse(frames), "mac-two-vteps")
    assert (found["mac"], found["vni"], found["vteps"], found["count"]) == (f.MAC_A, 5, [f.A, "192.0.2.77"], 1)
    # The same MAC in another network is another one.
    assert kinds(analyse([(0, f.vxlan(f.inner_echo(), 5)), (1, f.vxlan(f.inner_echo(), 6, "192.0.2.77"))])) == []


@pytest.mark.parametrize(
    ("kind", "code", "rest", "anomaly"),
    [
        (3, 4, struct.pack("!HH", 0, 1400), "icmp-frag-needed"),
        (3, 13, bytes(4), "icmp-unreachable"),
        (11, 0, bytes(4), "icmp-ttl-exceeded"),
    ],
)
def test_icmp_errors_about_our_flows_and_not_about_others(kind: int, code: int, rest: bytes, anomaly: str) -> None:
    def error(quoted: bytes) -> bytes:
        return f.ethernet(f.ip4(f.icmp(kind, code, rest, quoted[14:]), f.ICMP, "192.0.2.9", f.A))

    seen = f.vxlan(f.inner_echo())
    found = only(analyse([(0, seen), (1, error(seen)), (2, error(seen))]), anomaly)
    assert (found["count"], found["sender"]) == (2, "192.0.2.9")
    assert found["mtu"] == (1400 if code == 4 else None)
    assert found["quoted"]["vni"] == 4097
    plain = f.ethernet(f.ip4(f.udp(b"x" * 40, 1000, 2000), f.UDP))
    assert kinds(analyse([(0, plain), (1, error(plain))])) == [anomaly]
    foreign = analyse([(1, error(plain))])
    assert kinds(foreign) == []
    assert foreign["counts"]["icmp_errors"] == 1


def dns(ident: int, flags: int, reply: bool = False) -> bytes:
    body = struct.pack("!HHHHHH", ident, flags, 1, 0, 0, 0) + b"\3web\0" + struct.pack("!HH", 1, 1)
    src, dst, ports = (f.IN_B, f.IN_A, (53, 5353)) if reply else (f.IN_A, f.IN_B, (5353, 53))
    return f.vxlan(f.ethernet(f.ip4(f.udp(body, *ports, src, dst), f.UDP, src, dst)))


def test_dns_queries_their_latency_errors_and_silence() -> None:
    frames = [
        (0, dns(1, 0x0100)), (20, dns(1, 0x8180, True)),
        (100, dns(2, 0x0100)), (140, dns(2, 0x8183, True)),
        (200, dns(3, 0x0100)), (6000, f.vxlan(f.inner_echo())),
    ]  # fmt: skip
    result = analyse(frames)
    error = only(result, "dns-error")
    assert (error["rcode"], error["name"], error["server"], error["count"]) == ("NXDOMAIN", "web", f.IN_B, 1)
    silent = only(result, "dns-unanswered")
    assert (silent["name"], silent["server"], silent["count"]) == ("web", f.IN_B, 1)
    (asked,) = [flow["dns"] for flow in result["flows"] if flow["dns"]]
    assert asked == {
        "queries": 3,
        "answers": 2,
        "errors": {"NXDOMAIN": 1},
        "latency": {"min": 0.02, "avg": 0.03, "max": 0.04},
    }
    assert "dns-unanswered" not in kinds(analyse(frames[:5]))


def syn(seq: int, flags: int = f.SYN, ack: int = 0, reply: bool = False, dport: int = 80) -> bytes:
    src, dst, ports = (f.IN_B, f.IN_A, (dport, 41000)) if reply else (f.IN_A, f.IN_B, (41000, dport))
    return f.vxlan(f.ethernet(f.ip4(f.tcp(b"", *ports, seq, flags, src, dst, ack=ack), f.TCP, src, dst)))


def test_syn_without_an_answer() -> None:
    last = (5000, f.vxlan(f.inner_echo()))
    found = only(analyse([(0, syn(9)), (1000, syn(9)), (3000, syn(9)), (3100, syn(77)), last]), "syn-unanswered")
    assert (found["count"], found["segments"], found["sample"]["dport"]) == (2, 4, 80)
    for answer in (f.SYN | f.ACK, f.RST | f.ACK):
        assert kinds(analyse([(0, syn(9)), (5, syn(1, answer, 10, reply=True)), last])) == []
    # An answer to something else is none.
    assert kinds(analyse([(0, syn(9)), (5, syn(1, f.SYN | f.ACK, 99, reply=True)), last])) == ["syn-unanswered"]


def segments(*numbers: tuple[int, int], encapsulated: bool = True, step: int = 10) -> list[tuple[int, bytes]]:
    """(sequence number, length) each."""
    frames = [f.inner_tcp(b"x" * length, seq, f.ACK | f.PSH) for seq, length in numbers]
    return [(n * step, f.vxlan(frame) if encapsulated else frame) for n, frame in enumerate(frames)]


@pytest.mark.parametrize("encapsulated", [True, False])
@pytest.mark.parametrize(
    ("numbers", "step", "again", "reordered"),
    [
        ([(1, 10), (11, 10), (21, 0), (21, 10)], 10, 0, 0),
        ([(1, 10), (11, 10), (11, 10), (1, 20)], 10, 2, 0),
        ([(0xFFFFFFFA, 10), (4, 10), (14, 10)], 10, 0, 0),
        ([(0xFFFFFFFA, 10), (4, 10), (0xFFFFFFFA, 10)], 10, 1, 0),
        ([(1, 10), (21, 10), (11, 10), (31, 10)], 1, 0, 1),
        ([(1, 10), (21, 10), (11, 10), (31, 10)], 10, 1, 0),
    ],
    ids=["in order", "sent again", "wraps", "wraps, sent again", "reordered", "late"],
)
def test_retransmissions(
    numbers: list[tuple[int, int]], step: int, again: int, reordered: int, encapsulated: bool
) -> None:
    result = analyse(segments(*numbers, encapsulated=encapsulated, step=step))
    (flow,) = result["flows"]
    assert (flow["tcp"]["retransmissions"], flow["tcp"]["reordered"]) == (again, reordered)
    assert kinds(result) == (["retransmissions"] if again else [])
    if again:
        found = only(result, "retransmissions")
        assert (found["count"], found["packets"], found["sample"]["dport"]) == (again, len(numbers), 80)


# Sightings

MARK = "run-1"


def marked(probe: str, seq: int, reply: bool = False, **ip: int) -> bytes:
    body = _probe_base.payload(MARK, probe, seq)
    src, dst = (f.IN_B, f.IN_A) if reply else (f.IN_A, f.IN_B)
    return f.ethernet(f.ip4(f.echo(7, seq, body, reply), f.ICMP, src, dst, df=True, **ip))


def test_a_probe_is_seen_with_everything_that_its_packet_was() -> None:
    frame = f.vxlan(marked("p 1".replace(" ", "-"), 3), 300, summed=True, ident=77, ttl=9)
    result = analyse([(1, frame, {"csum_ready": True, "out": False}), (2, f.vxlan(f.inner_echo()))], mark=MARK)
    (seen,) = result["sightings"]
    length = len(frame) - 64
    assert seen == {
        "tap": "nic", "time": (T + MS) / 1e9, "out": False, "kind": "echo", "probe": "p-1", "seq": 3,
        "src": f.IN_A, "dst": f.IN_B, "sport": None, "dport": None, "smac": f.MAC_A, "dmac": f.MAC_B,
        "length": length, "df": True, "ttl": 64, "fragment": None, "vni": 300,
        "outer": {
            "src": f.A, "dst": f.B, "sport": 40000, "dport": 4789, "flags": 8, "length": length + 50, "df": False,
            "ttl": 9, "id": 77, "fragment": None, "checksum": "ok",
        },
        "checksum": "ok", "error": None,
    }  # fmt: skip


def test_every_packet_of_a_known_flow_that_carries_the_mark_is_seen() -> None:
    frames = [(n, f.vxlan(marked("p1", n, n % 2 == 1))) for n in range(20)]
    result = analyse(frames, mark=MARK)
    assert [(one["kind"], one["seq"]) for one in result["sightings"]] == [
        ("echo-reply" if n % 2 else "echo", n) for n in range(20)
    ]
    assert analyse(frames, mark="run-2")["sightings"] == []
    assert analyse(frames)["sightings"] == []


@pytest.mark.parametrize(
    ("flags", "state"),
    [
        ({"csum_ready": True, "out": False}, "bad"),
        ({"csum_ready": False, "out": False}, "unknown"),
        ({"csum_ready": True, "out": True}, "unknown"),
        ({"csum_ready": True, "out": False, "gso": True}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_a_sighting_s_checksum_is_bad_only_where_it_can_be_judged(flags: dict[str, Any], state: str) -> None:
    frame = f.vxlan(marked("p1", 1))
    bad = frame[:-1] + bytes([frame[-1] ^ 1])
    assert analyse([(0, bad, flags)], mark=MARK)["sightings"][0]["checksum"] == state
    # On its way out even a right one is right by chance only; a file does not say that it is on its way out.
    right = analyse([(0, frame, flags)], mark=MARK)["sightings"][0]["checksum"]
    assert right == ("ok" if state == "bad" or not flags else "unknown")


def test_datagrams_requests_and_what_opens_a_connection() -> None:
    body = _probe_base.payload(MARK, "p2", 1)
    frames = [
        (0, f.vxlan(f.ethernet(f.ip4(f.udp(body, 1000, 2000, f.IN_A, f.IN_B), f.UDP, f.IN_A, f.IN_B)))),
        (1, syn(0xFFFFFFFF)),
        (2, syn(5, f.SYN | f.ACK, 0, reply=True)),
        (3, syn(6, f.RST | f.ACK, 0, reply=True)),
        (4, f.vxlan(f.inner_tcp(b"GET / HTTP/1.1\r\nUser-Agent: " + body + b"\r\n", 0))),
        (5, f.vxlan(f.inner_tcp(b"nothing", 90))),
        (6, arp(1, f.MAC_A, f.IN_A, f.IN_B)),
        (7, arp(2, f.MAC_B, f.IN_B, f.IN_A)),
        (8, f.ethernet(f.ip4(struct.pack("!II", 5, 1) + bytes(40), 50))),
    ]
    seen = analyse(frames, mark=MARK)["sightings"]
    assert [(one["kind"], one["probe"], one["seq"]) for one in seen] == [
        ("udp", "p2", 1),
        ("syn", None, 0xFFFFFFFF),
        ("syn-ack", None, 0xFFFFFFFF),
        ("rst", None, 0xFFFFFFFF),
        ("data", "p2", 1),
        ("arp-request", None, None),
        ("arp-reply", None, None),
        ("esp", None, None),
    ]
    assert (seen[5]["src"], seen[5]["dst"], seen[5]["vni"]) == (f.IN_A, f.IN_B, 5)
    assert (seen[7]["src"], seen[7]["outer"], seen[7]["vni"]) == (f.A, None, None)


def test_a_probe_to_the_tunnel_s_own_port_is_a_sighting_and_no_anomaly() -> None:
    frame = f.vxlan(_probe_base.payload(MARK, "p3", 2), head=bytes(8))
    result = analyse([(0, frame)], mark=MARK)
    assert [(one["kind"], one["probe"], one["dport"]) for one in result["sightings"]] == [("udp", "p3", 4789)]
    assert result["anomalies"] == []


@pytest.mark.parametrize("outer", [True, False])
def test_later_fragments_carry_the_probe_of_the_first(outer: bool) -> None:
    body = _probe_base.payload(MARK, "big", 4) + bytes(1200)
    inner = f.echo(7, 4, body)
    if outer:
        whole = f.vxlan(f.ethernet(f.ip4(inner, f.ICMP, f.IN_A, f.IN_B)))[34:]
        frames = [
            f.ethernet(f.ip4(whole[:640], f.UDP, mf=True, ident=5)),
            f.ethernet(f.ip4(whole[640:], f.UDP, offset=640, ident=5)),
        ]
    else:
        frames = [
            f.vxlan(f.ethernet(f.ip4(inner[:640], f.ICMP, f.IN_A, f.IN_B, mf=True, ident=5))),
            f.vxlan(f.ethernet(f.ip4(inner[640:], f.ICMP, f.IN_A, f.IN_B, offset=640, ident=5))),
        ]
    other = f.ethernet(f.ip4(bytes(100), f.ICMP, f.IN_A, f.IN_B, offset=640, ident=6))
    seen = analyse(list(enumerate([*frames, other])), mark=MARK)["sightings"]
    assert [(one["probe"], one["seq"], one["kind"]) for one in seen] == [("big", 4, "echo")] * 2
    where = [(one["outer"] or one)["fragment"] if outer else one["fragment"] for one in seen]
    assert where == ["first", "later"]
    assert {one["checksum"] for one in seen} == {"unknown"}


def test_an_icmp_error_is_about_a_probe_when_it_quotes_its_mark_or_its_number() -> None:
    def error(quoted: bytes) -> bytes:
        return f.ethernet(f.ip4(f.icmp(3, 4, struct.pack("!HH", 0, 1400), quoted[14:]), f.ICMP, "192.0.2.9", f.A))

    segment = f.inner_tcp(b"", 4242, f.SYN)
    frames = [(0, segment), (1, error(f.vxlan(marked("p1", 8)))), (2, error(segment)), (3, error(f.inner_echo()))]
    seen = analyse(frames, mark=MARK)["sightings"]
    assert [(one["kind"], one["probe"], one["seq"]) for one in seen] == [
        ("syn", None, 4242),
        ("icmp-error", "p1", 8),
        ("icmp-error", None, 4242),
        ("icmp-error", None, None),
    ]
    assert seen[1]["error"] == {"type": 3, "code": 4, "mtu": 1400, "sender": "192.0.2.9"}


def test_a_mark_that_the_capture_cut_off_names_no_other_probe() -> None:
    frame = f.vxlan(marked("probe-12", 345))
    at = frame.index(b"probe-12")
    names = set()
    for size in range(at, len(frame) + 1):
        seen = analyse([(0, frame[:size], {"wire_length": len(frame)})], mark=MARK)["sightings"]
        names |= {one["probe"] for one in seen}
    assert names == {None, "probe-12"}


# Bounds

SMALL = _analysis.Limits(
    flows=50, flow_rows=20, anomalies=30, pending=20, sightings=40, fragments=10, macs=25
)  # fmt: skip


def test_everything_is_bounded_and_what_did_not_fit_is_counted() -> None:
    frames: list[tuple[int, bytes]] = []
    for n in range(300):
        source = f"10.{n // 250}.7.{n % 250 + 1}"
        hw = f"02:42:00:00:{n // 256:02x}:{n % 256:02x}"
        frames += [
            (
                n,
                f.vxlan(f.ethernet(f.arp(1, hw, source, f.IN_B), 0x0806, hw), 5, ident=n, head=f.header(n + 1, last=1)),
            ),
            (n, f.vxlan(f.inner_tcp(b"", n, f.SYN, sport=1000 + n), n + 1)),
            (n, f.ethernet(f.ip4(marked("p1", n)[34:], f.ICMP, source, f.IN_B, mf=True, ident=n))),
        ]
    result = analyse([*frames, (9000, f.vxlan(f.inner_echo()))], mark=MARK, limits=SMALL)
    counts = result["counts"]
    assert counts["frames"] == 901
    assert counts["flows"] == 50
    assert len(result["flows"]) == 20
    assert len(result["anomalies"]) == 30
    assert len(result["sightings"]) == 40
    assert set(counts["overflow"]) == {"flows", "anomalies", "sightings", "arp", "syn", "macs"}


def test_a_flood_of_new_flows_does_not_grow_memory() -> None:
    analysis = _analysis.Analysis(limits=_analysis.Limits(flows=100, pending=100, macs=100, anomalies=50))
    frame = bytearray(f.vxlan(f.inner_tcp(b"x", 1, f.SYN)))

    def flood(start: int, end: int) -> None:
        for n in range(start, end):
            frame[76:80] = struct.pack("!I", n)
            frame[58:62] = struct.pack("!I", n)
            analysis.add("nic", 1, T + n, len(frame), bytes(frame))

    flood(0, 1000)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        flood(1000, 4000)
        assert tracemalloc.get_traced_memory()[0] - before < 100_000
    finally:
        tracemalloc.stop()
    assert analysis.result()["counts"]["overflow"]["flows"] == 3900


# The short way

PACKETS: list[Callable[[int], bytes]] = [
    lambda n: f.vxlan(f.inner_tcp(b"x" * (n % 3 * 50), 1000 + n * 7 % 400), ident=n),
    lambda n: f.vxlan(f.inner_tcp(b"x" * 20, n, [f.SYN, f.FIN | f.ACK, f.RST, f.ACK][n % 4]), ident=n),
    lambda n: f.vxlan(f.inner_echo(n), ident=n, tos=n % 2),
    lambda n: f.vxlan(f.inner_echo(n), head=f.header(n % 2)),
    lambda n: f.vxlan(f.ethernet(f.ip4(f.udp(b"u" * (n % 3 * 4), 9, 99, f.IN_A, f.IN_B), f.UDP, f.IN_A, f.IN_B))),
    lambda n: f.inner_tcp(b"y" * (n % 40), 50 + n % 90),
    lambda n: f.inner_echo(n, b"z" * (n % 20)).ljust(60, b"\0"),
    lambda n: f.ethernet(f.ip4(f.udp(b"u" * (n % 30), 9, 99), f.UDP, ident=n)).ljust(60, b"\0"),
    lambda n: dns(n % 3, [0x0100, 0x8180][n % 2], n % 2 == 1),
    lambda n: f.vxlan(f.inner_echo(n), 5, "2001:db8::1", "2001:db8::2"),
    lambda n: f.vxlan(f.inner_echo(n), tags=(5,)),
]
FLAGS = [{}, {"csum_ready": True, "out": False}, {"csum_ready": False, "out": True}, {"csum_ready": True, "gso": True}]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_short_way_leads_to_the_same_whatever_is_wrong_with_a_frame(data: st.DataObject) -> None:
    frames: list[Any] = []
    flags = data.draw(st.sampled_from(FLAGS))
    for when in range(data.draw(st.integers(1, 12))):
        frame = data.draw(st.sampled_from(PACKETS))(data.draw(st.integers(0, 5)))
        changed = bytearray(frame)
        for _number in range(data.draw(st.sampled_from([0, 0, 0, 1, 2]))):
            changed[data.draw(st.integers(0, min(len(changed), 110) - 1))] ^= data.draw(st.integers(1, 255))
        cut = data.draw(st.sampled_from([len(changed), len(changed), 98, 97, 92, 60, 48, 47, 42, 20]))
        frames.append((when * 300, bytes(changed[:cut]), {"wire_length": max(len(changed), 60), **flags}))
    options = data.draw(st.sampled_from([{}, {"path_mtu": 120, "vnis": (1,), "vteps": (f.A,)}, {"mark": MARK}]))
    analyse(frames, **options)


SHAPES = [
    f.vxlan(f.inner_tcp(b"x" * 9, 1000, f.ACK | f.PSH), summed=True),
    f.vxlan(f.inner_echo(), dport=8472),
    f.vxlan(f.ethernet(f.ip4(f.udp(b"u" * 9, 9, 99, f.IN_A, f.IN_B), f.UDP, f.IN_A, f.IN_B))),
    f.vxlan(f.ethernet(f.ip4(f.udp(b"", 9, 99, f.IN_A, f.IN_B), f.UDP, f.IN_A, f.IN_B))),
    f.inner_tcp(b"y" * 20, 50),
    f.inner_echo(),
    f.ethernet(f.ip4(f.udp(b"u" * 3, 9, 99), f.UDP)).ljust(60, b"\0"),
]


@pytest.mark.parametrize("frame", SHAPES, ids=["tcp", "echo", "udp", "no data", "plain tcp", "plain echo", "plain udp"])
@pytest.mark.parametrize("flags", [{}, {"csum_ready": True, "out": False}], ids=["file", "receiver"])
def test_no_byte_of_the_headers_is_overlooked_by_the_short_way(frame: bytes, flags: dict[str, Any]) -> None:
    for place in range(min(len(frame), 120)):
        for bit in (0x01, 0x20, 0x80):
            other = frame[:place] + bytes([frame[place] ^ bit]) + frame[place + 1 :]
            frames = [frame] * 3 + [other] * 3 + [frame]
            analyse([(n, data, flags) for n, data in enumerate(frames)], path_mtu=1500)
    longer = [{"wire_length": len(frame) + more, **flags} for more in (0, 0, 0, 7, 7, 0)]
    analyse([(n, frame, more) for n, more in enumerate(longer)], path_mtu=1500)
    for size in range(14, len(frame)):
        cut = {"wire_length": len(frame), **flags}
        analyse([(n, data, cut) for n, data in enumerate([*[frame] * 3, frame[:size], frame])], path_mtu=1500)


def test_the_short_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    long_way = []
    original = _analysis.Analysis._examine

    def counting(self: Any, *arguments: Any) -> Any:
        long_way.append(arguments)
        return original(self, *arguments)

    monkeypatch.setattr(_analysis.Analysis, "_examine", counting)
    frames = []
    for n in range(100):
        frames += [f.vxlan(f.inner_tcp(b"x" * 10, 10 * n), ident=n), f.inner_tcp(b"x" * 10, 10 * n)]
        frames += [f.vxlan(f.inner_echo(n), ident=n), f.inner_echo(n)]
    analysis = _analysis.Analysis()
    for n, frame in enumerate(frames):
        analysis.add("nic", 1, T + n, len(frame), memoryview(frame))
    assert len(long_way) == 4
    long_way.clear()
    analysis = _analysis.Analysis()
    _analysis.analyse(_pcap.open_capture(io.BytesIO(f.pcap([(T, frame) for frame in frames]))), analysis)
    assert len(long_way) == 4
    assert analysis.result()["counts"]["frames"] == 400


def test_a_file_ends_at_the_asked_for_packet_and_at_the_asked_for_time() -> None:
    content = f.pcap([(T, f.vxlan(f.inner_echo(n))) for n in range(50)])

    def run(**options: Any) -> tuple[int, str]:
        return _analysis.analyse(_pcap.open_capture(io.BytesIO(content)), _analysis.Analysis(), **options)

    assert run() == (50, "end of file")
    assert run(packets=7) == (7, "packets")
    assert run(until=0.0)[1] == "time"
    limited = _pcap.open_capture(io.BytesIO(content), limit=1000)
    assert _analysis.analyse(limited, _analysis.Analysis())[1] == "bytes"


def test_taps_keep_their_flows_apart_and_link_types_that_nobody_knows_are_named() -> None:
    analysis = _analysis.Analysis()
    frame = f.vxlan(f.inner_echo())
    for tap in ("nic", "vtep", "nic"):
        analysis.add(tap, 1, T, len(frame), frame)
    analysis.add("wlan", 105, T, 50, bytes(50))
    result = analysis.result()
    assert sorted((flow["tap"], flow["packets"]) for flow in result["flows"]) == [("nic", 2), ("vtep", 1)]
    assert result["counts"]["malformed"] == {"link type 105 is not decoded": 1}
    assert result["counts"]["unclassified"] == 1

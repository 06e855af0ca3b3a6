# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import socket
import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _fdb, _netns
from tests.unit.plugins.module_utils.namespace import namespace, needs_root, run
from tests.unit.plugins.module_utils.netlink_messages import attribute, neighbour, spans

CACHE = attribute(_fdb.NDA_CACHEINFO, bytes(16))
PERMANENT, SELF = 0x80, 0x02


def entry(mac: bytes, *rest: bytes, index: int = 9, state: int = PERMANENT, flags: int = SELF) -> bytes:
    """An entry as vxlan and bridge send it: address, attributes, cache information."""
    return neighbour(socket.AF_BRIDGE, index, state, flags, attribute(_fdb.NDA_LLADDR, mac), *rest, CACHE)


def flat(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Grouped rows as one tuple for each entry."""
    return sorted(
        (row["index"], str(row["master"]), str(row["dst"]), str(row["vlan"]), row["state"], tuple(row["flags"]), mac)
        for row in rows
        for mac in row["macs"]
    )


def test_entries_of_one_vtep_are_one_row() -> None:
    peer = attribute(_fdb.NDA_DST, bytes((192, 0, 2, 12)))
    rows = _fdb.parse_fdb(spans([entry(bytes((2, 0x42, 10, 0, 1, last)), peer) for last in (6, 4)]))
    assert rows == [
        {
            "index": 9,
            "master": None,
            "dst": "192.0.2.12",
            "port": None,
            "vni": None,
            "via": None,
            "vlan": None,
            "state": "permanent",
            "flags": ["self"],
            "macs": ["02:42:0a:00:01:04", "02:42:0a:00:01:06"],
        }
    ]


def test_every_attribute_separates_groups() -> None:
    variants = [
        (),
        (attribute(_fdb.NDA_DST, bytes((192, 0, 2, 1))),),
        (attribute(_fdb.NDA_DST, bytes(15) + b"\1"),),
        (attribute(_fdb.NDA_PORT, struct.pack("!H", 8472)),),
        (attribute(_fdb.NDA_VNI, struct.pack("=I", 4097)),),
        (attribute(_fdb.NDA_IFINDEX, struct.pack("=I", 4)),),
        (attribute(_fdb.NDA_MASTER, struct.pack("=I", 2)),),
        (attribute(_fdb.NDA_VLAN, struct.pack("=H", 10)),),
    ]
    rows = _fdb.parse_fdb(spans([entry(b"\2\0\0\0\0\1", *rest) for rest in variants]))
    assert len(rows) == len(variants)
    assert {(row["dst"], row["port"], row["vni"], row["via"], row["master"], row["vlan"]) for row in rows} == {
        (None, None, None, None, None, None),
        ("192.0.2.1", None, None, None, None, None),
        ("::1", None, None, None, None, None),
        (None, 8472, None, None, None, None),
        (None, None, 4097, None, None, None),
        (None, None, None, 4, None, None),
        (None, None, None, None, 2, None),
        (None, None, None, None, None, 10),
    }


def test_an_unknown_attribute_does_not_split_a_group() -> None:
    rows = _fdb.parse_fdb(spans([entry(b"\2\0\0\0\0\1"), entry(b"\2\0\0\0\0\2", attribute(15, bytes(4)))]))
    assert [row["macs"] for row in rows] == [["02:00:00:00:00:01", "02:00:00:00:00:02"]]


ATTRIBUTES = st.lists(
    st.one_of(
        st.builds(attribute, st.just(_fdb.NDA_DST), st.binary(min_size=4, max_size=4)),
        st.builds(attribute, st.just(_fdb.NDA_VLAN), st.binary(min_size=2, max_size=2)),
        st.builds(attribute, st.just(_fdb.NDA_MASTER), st.binary(min_size=4, max_size=4)),
        st.builds(attribute, st.just(_fdb.NDA_CACHEINFO), st.binary(min_size=16, max_size=16)),
        # What the short way must not be fooled by: an attribute that contains the look of another.
        st.builds(attribute, st.just(14), st.just(bytes(8) + CACHE)),
        st.builds(attribute, st.integers(11, 40), st.binary(max_size=24)),
    ),
    max_size=4,
)


@given(
    st.lists(
        st.tuples(st.binary(min_size=6, max_size=6), ATTRIBUTES, st.booleans(), st.integers(1, 2), st.integers(0, 255)),
        max_size=12,
    )
)
def test_the_short_way_says_what_the_exact_way_says(entries: list[Any]) -> None:
    messages = []
    for mac, rest, first, index, state in entries:
        address = attribute(_fdb.NDA_LLADDR, mac)
        parts = [address, *rest] if first else [*rest, address]
        messages.append(neighbour(socket.AF_BRIDGE, index, state, SELF, *parts))
    exact: list[tuple[Any, ...]] = []
    for buffer, start, end in spans(messages):
        row, found = _fdb._exact(buffer[start + 16 : start + 28], buffer[start + 28 : end])
        if found is not None:
            exact.extend(flat([dict(row.fields, macs=[found.hex(":")])]))
    assert flat(_fdb.parse_fdb(spans(messages))) == sorted(exact)


@given(st.lists(st.binary(max_size=80), max_size=5))
def test_any_bytes_parse_to_something(bodies: list[bytes]) -> None:
    chunks = [(bytes(16) + body, 0, 16 + len(body)) for body in bodies]
    assert isinstance(_fdb.parse_fdb(chunks), list)
    assert isinstance(_fdb.parse_neighbours(chunks), list)


def test_neighbours_are_grouped_and_sorted_and_kernel_made_ones_left_out() -> None:
    def peer(last: int, state: int, mac: bytes | None) -> bytes:
        rest = [attribute(_fdb.NDA_LLADDR, mac)] if mac else []
        return neighbour(2, 9, state, 0, attribute(_fdb.NDA_DST, bytes((10, 0, 1, last))), *rest, CACHE)

    messages = [peer(10, 0x80, b"\2\0\0\0\0\n"), peer(9, 0x80, b"\2\0\0\0\0\x09"), peer(7, 0x20, None)]
    messages.append(peer(1, 0x40, b"\1\0\x5e\0\0\1"))
    messages.append(neighbour(10, 9, 0x80, 0, attribute(1, bytes(15) + b"\2"), attribute(2, b"\2\0\0\0\0\2"), CACHE))
    assert _fdb.parse_neighbours(spans(messages)) == [
        {
            "index": 9,
            "state": "permanent",
            "flags": [],
            "entries": [
                ["10.0.1.9", "02:00:00:00:00:09"],
                ["10.0.1.10", "02:00:00:00:00:0a"],
                ["::2", "02:00:00:00:00:02"],
            ],
        },
        {"index": 9, "state": "failed", "flags": [], "entries": [["10.0.1.7", None]]},
    ]


@needs_root
def test_a_real_forwarding_database_is_what_bridge_shows() -> None:
    with namespace() as name:
        run(name, "ip", "link", "add", "br0", "type", "bridge")
        run(name, "ip", "link", "add", "vxlan0", "type", "vxlan", "id", "4097", "dstport", "4789", "nolearning")
        run(name, "ip", "link", "set", "vxlan0", "master", "br0")
        for last in range(40):
            command = ("bridge", "fdb", "append", f"02:42:0a:00:01:{last:02x}", "dev", "vxlan0")
            run(name, *command, "dst", f"192.0.2.{last % 3 + 1}", "self", "permanent")
        run(name, "bridge", "fdb", "add", "02:42:0a:00:02:01", "dev", "vxlan0", "master", "static")
        shown = json.loads(run(name, "bridge", "-j", "fdb", "show"))
        with _netns.inside(f"/run/netns/{name}"):
            names = dict(socket.if_nameindex())
            rows, consistent = _fdb.read_fdb()
    assert consistent
    ours = {(mac, names[row["index"]], row["dst"], row["vlan"]) for row in rows for mac in row["macs"]}
    assert ours == {(one["mac"], one["ifname"], one.get("dst"), one.get("vlan")) for one in shown}
    assert sum(len(row["macs"]) for row in rows) == len(shown)


@needs_root
def test_real_neighbours_are_what_ip_shows() -> None:
    with namespace() as name:
        run(name, "ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1")
        run(name, "ip", "link", "set", "d0", "up")
        for last in range(1, 20):
            peer = ("lladdr", f"02:42:0a:00:01:{last:02x}", "dev", "d0", "nud", "permanent")
            run(name, "ip", "neigh", "replace", f"10.0.1.{last}", *peer)
            run(name, "ip", "neigh", "replace", f"2001:db8::{last:x}", *peer)
        shown = json.loads(run(name, "ip", "-j", "neigh", "show"))
        with _netns.inside(f"/run/netns/{name}"):
            rows, _consistent = _fdb.read_neighbours()
    assert {tuple(pair) for row in rows for pair in row["entries"]} == {(one["dst"], one["lladdr"]) for one in shown}

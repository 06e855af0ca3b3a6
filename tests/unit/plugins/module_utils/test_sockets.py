# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _netns, _sockets
from tests.unit.plugins.module_utils.namespace import namespace, needs_root, run
from tests.unit.plugins.module_utils.netlink_messages import message, spans

# Recorded on a little-endian machine, Debian 12: the line ends cut.
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0B0200C0:1F0A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 20161 1
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 17722 1
   2: 0100007F:0FA0 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 17799 1
   3: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
"""
UDP = """\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  512: 00000000:12B5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 0 2 0 0
  600: 0B0200C0:1F0A 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 0 2 0 0
  601: 0B0200C0:1F0A 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 0 2 0 0
  700: 0B0200C0:A001 01020304:0035 01 00000000:00000000 00:00000000 00000000     0        0 0 2 0 0
"""
little = pytest.mark.skipif(sys.byteorder != "little", reason="recorded on a little-endian machine")


@little
def test_listening_tcp_sockets_are_found_and_reading_ends_with_them() -> None:
    found = _sockets.parse_sockets(TCP.splitlines(), "tcp", 4)
    assert [(row["ip"], row["port"]) for row in found] == [("192.0.2.11", 7946), ("0.0.0.0", 22)]


@little
def test_bound_udp_sockets_are_found_once_and_connected_ones_not() -> None:
    found = _sockets.parse_sockets(UDP.splitlines(), "udp", 4)
    assert [(row["ip"], row["port"]) for row in found] == [("0.0.0.0", 4789), ("192.0.2.11", 7946)]


@little
def test_ipv6_addresses_are_canonical() -> None:
    assert _sockets.address("B80D0120000000000000000001000000") == "2001:db8::1"
    assert _sockets.address("00000000000000000000000000000000") == "::"


@given(st.lists(st.text()), st.sampled_from(["tcp", "udp"]), st.sampled_from([4, 6]))
def test_any_lines_parse(lines: list[str], protocol: str, family: int) -> None:
    assert isinstance(_sockets.parse_sockets(lines, protocol, family), list)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_address_and_port_is_read_back(address: object, port: int) -> None:
    packed = address.packed  # type: ignore[attr-defined]
    words = struct.unpack(f"!{len(packed) // 4}I", packed)
    text = "".join(f"{word:08X}" for word in struct.unpack(f"={len(words)}I", packed))
    line = f"   0: {text}:{port:04X} {'0' * len(text)}:0000 0A 0:0"
    assert [(row["ip"], row["port"]) for row in _sockets.parse_sockets([line], "tcp", 4)] == [(str(address), port)]


def test_socket_diagnosis_is_decoded() -> None:
    body = bytes((socket.AF_INET6, 10, 0, 0)) + struct.pack("!HH", 8080, 0) + socket.inet_pton(10, "2001:db8::1")
    raw = message(20, body + bytes(48))
    assert _sockets.parse_diag(spans([raw, raw])) == [
        {"protocol": "tcp", "family": 6, "ip": "2001:db8::1", "port": 8080}
    ]


@given(st.lists(st.binary(max_size=120), max_size=3))
def test_any_bytes_are_a_diagnosis(bodies: list[bytes]) -> None:
    chunks = [(bytes(16) + body, 0, 16 + len(body)) for body in bodies]
    assert isinstance(_sockets.parse_diag(chunks), list)


@contextlib.contextmanager
def bound(kind: int, family: int, ip: str) -> Iterator[int]:
    with socket.socket(family, kind) as one:
        one.bind((ip, 0))
        if kind == socket.SOCK_STREAM:
            one.listen()
        yield one.getsockname()[1]


@pytest.mark.parametrize("diag", [False, True])
def test_real_sockets_are_seen_either_way(diag: bool) -> None:
    if diag and not _sockets.diag_at_hand():
        pytest.skip("this kernel would have to load tcp_diag")
    with bound(socket.SOCK_STREAM, socket.AF_INET, "127.0.0.1") as tcp, bound(2, socket.AF_INET, "0.0.0.0") as udp:
        found = _sockets.read_sockets(diag)
    assert {"protocol": "tcp", "family": 4, "ip": "127.0.0.1", "port": tcp} in found
    assert {"protocol": "udp", "family": 4, "ip": "0.0.0.0", "port": udp} in found


@needs_root
def test_the_kernels_own_tunnel_socket_is_seen_in_its_namespace() -> None:
    with namespace() as name:
        run(name, "ip", "link", "add", "vxlan0", "type", "vxlan", "id", "4097", "dstport", "4790")
        run(name, "ip", "link", "set", "vxlan0", "up")
        with _netns.inside(f"/run/netns/{name}"):
            found = _sockets.read_sockets(_sockets.diag_at_hand())
    assert {"protocol": "udp", "family": 4, "ip": "0.0.0.0", "port": 4790} in found

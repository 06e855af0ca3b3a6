# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _bpf, _netlink, _netns
from tests.unit.plugins.module_utils.namespace import namespace, needs_root, run

PROG_LOAD, LINK_CREATE = 5, 28
SCHED_CLS, XDP, NETFILTER = 3, 6, 32
ATTACH_XDP, ATTACH_NETFILTER, ATTACH_TCX_INGRESS = 37, 45, 46


@contextlib.contextmanager
def attached(kind: int, verdict: int, attach: int, target: int, extra: bytes = b"") -> Iterator[None]:
    """A program of two instructions (return the verdict), attached as long as its link is open."""
    code = ctypes.create_string_buffer(
        struct.pack("=BBhi", 0xB7, 0, 0, verdict) + struct.pack("=BBhi", 0x95, 0, 0, 0), 16
    )
    licence = ctypes.create_string_buffer(b"GPL")
    request = struct.pack("=IIQQ", kind, 2, ctypes.addressof(code), ctypes.addressof(licence))
    request = request.ljust(68, b"\0") + struct.pack("=I", attach)
    try:
        program = _bpf._bpf(PROG_LOAD, request)[0]
    except OSError as exc:
        pytest.skip(f"this kernel does not load the program: {exc}")
    try:
        link = _bpf._bpf(LINK_CREATE, struct.pack("=IIII", program, target, attach, 0) + extra)[0]
    except OSError as exc:
        pytest.skip(f"this kernel does not attach the program: {exc}")
    finally:
        os.close(program)
    try:
        yield
    finally:
        os.close(link)


@needs_root
def test_a_netfilter_program_is_found() -> None:
    with namespace() as name, _netns.inside(f"/run/netns/{name}"):
        hook = struct.pack("=IIiI", 2, 1, -123, 0)
        with attached(NETFILTER, 1, ATTACH_NETFILTER, 0, hook):
            found = [row for row in _bpf.read_links() if row["priority"] == -123]
    assert [(row["type"], row["family"], row["attach"]) for row in found] == [("netfilter", "ip", "input")]
    assert all(row["program"] > 0 for row in found)


@needs_root
def test_a_tcx_program_is_found_at_its_device() -> None:
    with namespace() as name, _netns.inside(f"/run/netns/{name}"), attached(SCHED_CLS, -1, ATTACH_TCX_INGRESS, 1):
        links = [row for row in _bpf.read_links() if row["type"] == "tcx" and row["attach"] == "ingress"]
        rows = _bpf.device_programs(1)
    assert rows[0]["id"] in {row["program"] for row in links}
    assert [(row["index"], row["attach"], row["kind"]) for row in rows] == [(1, "ingress", "tcx")]


@needs_root
def test_an_xdp_program_is_found_at_its_link() -> None:
    pytest.importorskip("pyroute2")
    with namespace() as name:
        run(name, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
        with _netns.inside(f"/run/netns/{name}"):
            index = {link["name"]: link["index"] for link in _netlink.read_links()[0]}["v0"]
            with attached(XDP, 2, ATTACH_XDP, index):
                xdp = {link["name"]: link["xdp"] for link in _netlink.read_links()[0]}
    assert xdp["v1"] is None
    assert xdp["v0"]["mode"] in ("xdp", "xdpgeneric")
    assert xdp["v0"]["id"] > 0


def test_a_machine_whose_call_number_is_unknown_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bpf.platform, "machine", lambda: "vax")
    with pytest.raises(OSError, match="vax"):
        _bpf.read_links()
    assert _bpf.device_programs(1) == []


@given(st.binary(min_size=256, max_size=256))
def test_any_link_information_is_a_row_or_of_no_interest(info: bytes) -> None:
    row = _bpf.link_row(info)
    assert row is None or row["type"] in _bpf.NAMES.values()

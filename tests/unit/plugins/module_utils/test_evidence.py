# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _evidence, _flows, _logs, _netns
from tests.unit.plugins.module_utils import probe_network as net

needs_root = pytest.mark.skipif(not net.is_root(), reason="makes network namespaces: needs root")
LIMIT = 8 << 20
TOKEN = "SWMTKN-1-3pu6hszjas19xyp7ghgosyx9k8atbfcr8p2is99znpy26u2lkl-7p73s1dx5in4tatdymyhg9hu2"
SECRETS = {
    TOKEN: f"joining with {TOKEN}",
    "hunter2hunter2": "registry password=hunter2hunter2",
    "s3cr3tInAUrl": "GET https://user:s3cr3tInAUrl@registry.example/v2/",
    "MIIEvQIBADANBgkq": "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\nAAAA\n-----END PRIVATE KEY-----",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIi": "auth eyJhbGciOiJIUzI1NiJ9.eyJzdWIi.c2ln",
}
XFRM_KEY = "0x" + "c0ffee" * 6 + "c0"
STABLE_SECRET = "2001:db8:5ec:2e7:1:2:3:4"


@pytest.fixture
def node() -> Iterator[net.Node]:
    made = net.Node()
    yield made
    made.close()


def members(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        assert all(member.isreg() and member.mode == 0o600 for member in archive)
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def gathered(node: net.Node, *files: str, **options: Any) -> tuple[dict[str, bytes], dict[str, Any]]:
    rows = [{"name": "container-web", "path": node.path}]
    content, found = _evidence.gather(rows, options.pop("addresses", []), list(files), options.pop("limit", LIMIT))
    return members(content), found


@needs_root
def test_the_state_of_both_namespaces_is_in_it(node: net.Node, tmp_path: Path) -> None:
    node.ip("link", "add", "vx7", "type", "vxlan", "id", "4242", "dstport", "4789")
    node.ip("address", "add", "203.0.113.9/24", "dev", "vx7")
    node.run("bridge", "fdb", "append", "02:00:00:00:00:99", "dev", "vx7", "dst", "192.0.2.77")
    node.filter("input", "udp dport 4789 counter drop")
    before = node.run("nft", "-s", "-a", "list", "ruleset")
    (tmp_path / "trace.pcapng").write_bytes(b"\x0a\x0d\x0d\x0a frames")
    found, report = gathered(node, str(tmp_path / "trace.pcapng"))
    assert b"vxlan id 4242" in found["container-web/links.txt"]
    assert b"203.0.113.9/24" in found["container-web/addresses.txt"]
    assert b"02:00:00:00:00:99" in found["container-web/fdb.txt"]
    assert b"udp dport 4789 counter packets 0 bytes 0 drop" in found["container-web/nft.txt"]
    assert b"net.ipv4.ip_forward = " in found["container-web/sysctl.txt"]
    assert b"vx7" not in found["host/links.txt"]
    assert found["files/trace.pcapng"] == b"\x0a\x0d\x0d\x0a frames"
    manifest = json.loads(found["manifest.json"])
    assert manifest["members"] == report["members"]
    assert {row["name"] for row in report["members"]} | {"manifest.json"} == set(found)
    assert node.run("nft", "-s", "-a", "list", "ruleset") == before


@needs_root
def test_planted_secrets_are_not_in_it(node: net.Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "docker.log"
    log.write_text("".join(f'time="2026-11-21T01:30:00Z" level=info msg="{line}"\n' for line in SECRETS.values()))
    monkeypatch.setattr(_logs, "FILES", ((str(log), None),))
    monkeypatch.setattr(_logs, "_journal", lambda limit: None)
    monkeypatch.setenv("DOCTOR_PLANTED", "ValueOfAnEnvironmentVariable")
    node.filter("input", f'tcp dport 99 accept comment "token={TOKEN}"')
    key = ("enc", "cbc(aes)", XFRM_KEY[:34], "auth", "hmac(sha1)", XFRM_KEY)
    state = ("xfrm", "state", "add", "src", "192.0.2.1", "dst", "192.0.2.2", "proto", "esp", "spi", "0x7", *key)
    with contextlib.suppress(AssertionError):  # a kernel without ESP holds no such keys
        node.ip(*state)
    node.ip("link", "add", "d0", "type", "bridge")
    node.sysctl("net.ipv6.conf.d0.stable_secret", STABLE_SECRET)
    found, report = gathered(node)
    everything = b"\n".join(found.values())
    assert b"level=info" in found["host/engine-log.txt"]
    assert b"tcp dport 99 accept comment" in found["container-web/nft.txt"]
    assert b"net.ipv6.conf.d0.forwarding" in found["container-web/sysctl.txt"]
    planted = [*SECRETS, XFRM_KEY, XFRM_KEY[2:34], STABLE_SECRET, "ValueOfAnEnvironmentVariable"]
    assert [secret for secret in planted if secret.encode() in everything] == []
    assert report["secrets_removed"] >= len(SECRETS)


def test_keys_of_an_ip_that_prints_them_are_removed() -> None:
    archive = _evidence.Archive(LIMIT)
    text = f"src 192.0.2.1 dst 192.0.2.2\n\tproto esp spi 0x00000007\n\tauth-trunc hmac(sha1) {XFRM_KEY} 96\n"
    archive.text("xfrm-state.txt", f"{text}\tenc cbc(aes) {XFRM_KEY}\n\taead rfc4106(gcm(aes)) {XFRM_KEY} 128\n", "x")
    found = members(archive.close({}))["xfrm-state.txt"]
    assert XFRM_KEY.encode() not in found
    assert found.count(b"***") == 3
    assert b"spi 0x00000007" in found


@needs_root
def test_a_legacy_iptables_is_run_only_where_the_kernel_has_such_tables(
    node: net.Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: list[str] = []

    def recorded(command: list[str], seconds: float, limit: int) -> tuple[bytes, bool, str | None]:
        run.append(os.path.basename(command[0]))
        return b"", False, None

    monkeypatch.setattr(_evidence, "run_bounded", recorded)
    monkeypatch.setattr(_evidence, "find", lambda name: f"/usr/sbin/{name}")
    monkeypatch.setattr(_evidence._xtables, "table_names", lambda layout: [])
    gathered(node)
    assert "ip" in run
    assert [name for name in run if "legacy" in name or name in ("iptables-save", "ip6tables-save")] == []
    monkeypatch.setattr(
        _evidence._xtables, "table_names", lambda layout: ["filter"] if layout.family in ("ip6", "arp") else []
    )
    run.clear()
    gathered(node)
    assert {name for name in run if "legacy" in name} == {"ip6tables-legacy-save"}


@needs_root
def test_reading_makes_no_legacy_tables(node: net.Node) -> None:
    def tables() -> list[bool]:
        with _netns.inside(node.path):
            return [os.path.exists(f"/proc/thread-self/net/{name}_tables_names") for name in ("ip", "ip6", "arp")]

    before = tables()
    gathered(node)
    assert tables() == before


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_evidence, "find", lambda name: None)
    content, report = _evidence.gather([], [], [], LIMIT)
    whys = {row["what"]: row["why"] for row in report["missing"]}
    assert whys["host/links.txt"] == "ip is not installed"
    assert whys["host/fdb.txt"] == "bridge is not installed"
    assert b"net.ipv4" in members(content)["host/sysctl.txt"]
    assert json.loads(members(content)["manifest.json"])["missing"] == report["missing"]


def test_a_command_that_hangs_or_floods_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, script in (("ip", "while :; do echo 0123456789abcdef; done"), ("bridge", "sleep 60")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(_evidence, "find", lambda name: str(tmp_path / name) if name in ("ip", "bridge") else None)
    monkeypatch.setattr(_evidence, "COMMAND_SECONDS", 0.3)
    monkeypatch.setattr(_evidence, "MEMBER_BYTES", 50_000)
    started = time.monotonic()
    content, report = _evidence.gather([], [], [], LIMIT)
    assert time.monotonic() - started < 10
    rows = {row["name"]: row for row in report["members"]}
    assert rows["host/links.txt"]["bytes"] <= 50_000
    assert rows["host/links.txt"]["truncated"]
    assert "no end within 0.3 s" in {row["what"]: row["why"] for row in report["missing"]}["host/fdb.txt"]
    assert len(content) < LIMIT


def test_time_is_up_for_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_evidence, "TOTAL_SECONDS", 0.0)
    _content, report = _evidence.gather([], [], [], LIMIT)
    assert {row["why"] for row in report["missing"] if row["what"] == "host/links.txt"} == {
        "not run: the reading took longer than 0 s"
    }


def test_what_would_not_fit_is_left_out_and_named(tmp_path: Path) -> None:
    (tmp_path / "large.pcapng").write_bytes(os.urandom(300_000))
    content, report = _evidence.gather([], [], [str(tmp_path / "large.pcapng")], 100_000)
    assert len(content) <= 100_000
    assert "files/large.pcapng" not in members(content)
    assert any(row["what"] == "files/large.pcapng" and "larger than 100000" in row["why"] for row in report["missing"])


def test_files_are_plain_files(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/shadow")
    os.mkfifo(tmp_path / "pipe")
    names = [str(tmp_path / name) for name in ("link", "pipe", "absent")] + ["/dev/zero", str(tmp_path)]
    content, report = _evidence.gather([], [], names, LIMIT)
    assert [name for name in members(content) if name.startswith("files/")] == []
    assert {row["what"] for row in report["missing"]} >= set(names)


@needs_root
def test_a_namespace_that_is_another_by_now_is_not_read(node: net.Node) -> None:
    rows = [{"name": "gone", "path": node.path, "inode": "1"}, {"name": "absent", "path": "/proc/nobody/ns/net"}]
    content, report = _evidence.gather(rows, [], [], LIMIT)
    assert [name for name in members(content) if name.startswith(("gone/", "absent/"))] == []
    whys = {row["what"]: row["why"] for row in report["missing"]}
    assert "another namespace by now" in whys["gone"]
    assert "No such file" in whys["absent"]


@needs_root
def test_the_tuples_of_given_addresses_are_in_it() -> None:
    network = net.Network()
    try:
        network.router.filter("forward", "ct state new accept")
        network.router.run("nft", "add", "rule", "inet", "test", "test", "ct", "state", "established", "accept")
        listener = network.server.socket(socket.AF_INET, socket.SOCK_STREAM, (net.SERVER, 0))
        listener.listen()
        with contextlib.closing(network.client.socket(socket.AF_INET, socket.SOCK_STREAM, (net.CLIENT, 0))) as client:
            client.connect(listener.getsockname())
            echo = {"layer": "icmp", "address": net.SERVER}
            net.probe(echo, node=network.client)
            with _netns.inside(network.router.path):
                rows = _flows.read_flows([net.SERVER])
                others = _flows.read_flows(["203.0.113.1"])
            port = client.getsockname()[1]
        listener.close()
    finally:
        network.close()
    tcp = [row for row in rows if row["protocol"] == "tcp"]
    assert [(row["src"], row["sport"], row["dst"], row["reply_src"]) for row in tcp] == [
        (net.CLIENT, port, net.SERVER, net.SERVER)
    ]
    assert "assured" in tcp[0]["status"]
    assert any(row["protocol"] == "icmp" and row["icmp"]["type"] == 8 for row in rows)
    assert others == []


@given(st.binary(max_size=300))
def test_any_bytes_are_a_flow_or_none(data: bytes) -> None:
    row = _flows.flow(data, 0, len(data))
    assert row is None or {"protocol", "src", "dst", "reply_src", "reply_dst"} <= row.keys()


@given(st.text())
def test_any_name_is_a_name_in_the_archive(name: str) -> None:
    made = _evidence.safe(name)
    assert made
    assert "/" not in made
    assert made not in (".", "..")

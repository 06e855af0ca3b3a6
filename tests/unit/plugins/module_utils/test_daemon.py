# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _daemon

CONTAINER = "27de117cd2be09306944b2bd3a8460f025159e5f0de18e9d3a17d9a8563753b6"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-H fd:// --containerd=/run/containerd/containerd.sock", {"hosts": ["fd://"]}),
        ("-Hunix://a -H=tcp://b --host tcp://c --host=d", {"hosts": ["unix://a", "tcp://b", "tcp://c", "d"]}),
        ("--iptables=false --ip-masq=F --live-restore", {"iptables": False, "ip-masq": False, "live-restore": True}),
        (
            "--icc --mtu 1400 --dns 192.0.2.1 --dns=192.0.2.2",
            {"icc": True, "mtu": 1400, "dns": ["192.0.2.1", "192.0.2.2"]},
        ),
        (
            "-D -b br0 -s overlay2 -G docker",
            {"debug": True, "bridge": "br0", "storage-driver": "overlay2", "group": "docker"},
        ),
        ("--firewall-backend nftables --unknown --mtu=1300", {"firewall-backend": "nftables", "mtu": 1300}),
        ("--cluster-store=etcd://user:SECRET@192.0.2.1:2379/p", {"cluster-store": "etcd://***@192.0.2.1:2379/p"}),
        ("--label SECRET --log-opt splunk-token=SECRET --tlskey /SECRET mtu", {}),
        ("--mtu many --iptables=perhaps", {"mtu": "many", "iptables": "perhaps"}),
        ("--mtu", {}),
        ("- -- --= -= ---", {}),
    ],
)
def test_flags_of_the_daemon_are_keys_of_its_file(words: str, expected: dict[str, Any]) -> None:
    assert _daemon.daemon_flags(words.split()) == expected


@given(st.lists(st.text(max_size=12) | st.sampled_from(["-H", "--mtu", "--dns=", "-Dx", "--mtu=²"]), max_size=8))
def test_any_words_are_a_command_line(words: list[str]) -> None:
    assert isinstance(_daemon.daemon_flags(words), dict)


def test_the_command_line_is_that_of_the_daemon_and_of_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    file = tmp_path / "7" / "cmdline"
    file.write_bytes(b"/usr/bin/dockerd\0--mtu\x001400\0-H\0fd://\0")
    assert _daemon.read_daemon_flags(7, str(tmp_path)) == {"mtu": 1400, "hosts": ["fd://"]}
    file.write_bytes(b"/usr/bin/sleep\0--mtu\x001400\0")
    assert _daemon.read_daemon_flags(7, str(tmp_path)) == {}
    file.write_bytes(b"")
    assert _daemon.read_daemon_flags(7, str(tmp_path)) == {}
    assert _daemon.read_daemon_flags(8, str(tmp_path)) == {}
    assert _daemon.read_daemon_flags(None) == {}


@pytest.mark.parametrize(
    ("value", "url", "endpoints"),
    [
        (
            "etcd://192.0.2.1:2379,192.0.2.2:2379/path",
            "etcd://192.0.2.1:2379,192.0.2.2:2379/path",
            ["192.0.2.1:2379", "192.0.2.2:2379"],
        ),
        ("consul://***@192.0.2.1:8500", "consul://192.0.2.1:8500", ["192.0.2.1:8500"]),
        ("zk://u:SECRET@h1,u:SECRET@h2/x", "zk://h2/x", ["h2"]),
        ("192.0.2.1:2379", "192.0.2.1:2379", ["192.0.2.1:2379"]),
    ],
)
def test_a_key_value_store_and_its_endpoints(value: str, url: str, endpoints: list[str]) -> None:
    assert _daemon.kv_store({"cluster-store": value}) == {"url": url, "endpoints": endpoints}


@pytest.mark.parametrize("config", [{}, {"cluster-store": ""}, {"cluster-store": None}, {"cluster-store": ["x"]}])
def test_no_key_value_store(config: dict[str, Any]) -> None:
    assert _daemon.kv_store(config) is None


def container(network: str = "app", servers: tuple[str, ...] = ("127.0.0.11",), own: tuple[str, ...] = ()) -> Any:
    return {
        "endpoints": [{"network": network}],
        "dns": {"nameservers": list(servers), "upstreams": list(own), "mounted": False},
    }


HOST = ["192.0.2.53"]
WRITTEN = "nameserver 127.0.0.11\n\n# ExtServers: [host(127.0.0.53) 192.0.2.9 2001:db8::53]\n"


def test_the_servers_behind_the_embedded_one() -> None:
    text = "nameserver 127.0.0.11\noptions ndots:0\n"
    assert _daemon.upstreams(container(), text, HOST) == HOST
    assert _daemon.upstreams(container(own=("192.0.2.7",)), text, HOST) == ["192.0.2.7"]
    assert _daemon.upstreams(container(), text, None) == []
    # What a newer engine wrote down is what it does, whatever was asked for.
    expected = ["127.0.0.53", "192.0.2.9", "2001:db8::53"]
    assert _daemon.upstreams(container(own=("192.0.2.7",)), WRITTEN, HOST) == expected
    assert _daemon.upstreams(container(), "# ExtServers: []\n", HOST) == []


def test_a_container_without_the_embedded_server_has_none_behind_it() -> None:
    for network in ("bridge", "host", "none"):
        assert _daemon.upstreams(container(network, HOST), "nameserver 192.0.2.53\n", HOST) == []
    lonely = dict(container(servers=()), endpoints=[])
    assert _daemon.upstreams(lonely, "", HOST) == []


def test_a_file_of_the_users_is_not_believed_about_the_engine() -> None:
    row = container(own=("192.0.2.7",))
    row["dns"]["mounted"] = True
    assert _daemon.upstreams(row, WRITTEN, HOST) == ["192.0.2.7"]


MOUNT = "753 736 0:148 {root} {point} rw,relatime - tmpfs tmpfs rw,size=2097152k,mode=711"


@pytest.mark.parametrize(
    ("roots", "mounted"),
    [
        ((), False),
        ((f"/containers/{CONTAINER}/resolv.conf",), False),
        ((f"/var/lib/docker/containers/{CONTAINER}/resolv.conf",), False),
        ((f"/containers/overlay-containers/{CONTAINER}/userdata/resolv.conf",), False),
        (("/etc/resolv.conf",), True),
        ((f"/containers/{CONTAINER}/resolv.conf", "/srv/resolv.conf"), True),
        (("/srv/resolv.conf", f"/containers/{CONTAINER}/resolv.conf"), False),
    ],
)
def test_the_file_that_covers_resolv_conf(roots: tuple[str, ...], mounted: bool) -> None:
    lines = [MOUNT.format(root="/", point="/"), MOUNT.format(root="/x", point="/etc/hosts")]
    lines += [MOUNT.format(root=root, point="/etc/resolv.conf") for root in roots]
    assert _daemon.is_mounted_over("\n".join(lines)) is mounted


@given(st.text())
def test_any_text_is_a_list_of_mounts(text: str) -> None:
    assert _daemon.is_mounted_over(text) in (True, False)


def test_the_servers_the_engine_falls_back_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, behind = tmp_path / "resolv.conf", tmp_path / "resolved.conf"
    monkeypatch.setattr(_daemon, "read_resolver", lambda path=str(host): read(path))
    monkeypatch.setattr(_daemon, "RESOLVED_CONF", str(behind))
    read = _read_resolver
    host.write_text("nameserver 192.0.2.1\n")
    behind.write_text("nameserver 192.0.2.2\n")
    assert _daemon.host_upstreams({}, {}) == ["192.0.2.1"]
    assert _daemon.host_upstreams({"dns": ["192.0.2.3"]}, {}) == ["192.0.2.3"]
    assert _daemon.host_upstreams({"dns": ["192.0.2.3"]}, {"dns": ["192.0.2.4"]}) == ["192.0.2.4"]
    assert _daemon.host_upstreams({"dns": "broken"}, {}) == ["192.0.2.1"]
    host.write_text("nameserver 127.0.0.53\n")
    assert _daemon.host_upstreams({}, {}) == ["192.0.2.2"]
    behind.unlink()
    assert _daemon.host_upstreams({}, {}) == ["127.0.0.53"]


_read_resolver = _daemon.read_resolver

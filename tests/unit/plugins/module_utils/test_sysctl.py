# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _netns, _sysctl
from tests.unit.plugins.module_utils.namespace import namespace, needs_root, run


def tree(base: Path, values: dict[str, str]) -> str:
    """A made /proc/sys/net."""
    for path, text in values.items():
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_text(text + "\n", encoding="ascii")
    return str(base)


def test_values_are_numbers_or_words(tmp_path: Path) -> None:
    base = tree(tmp_path, {"ipv4/ip_forward": "1", "ipv4/ip_local_port_range": "32768\t60999"})
    assert _sysctl.read_sysctls(base) == {"net.ipv4.ip_forward": 1, "net.ipv4.ip_local_port_range": "32768 60999"}


def test_a_dot_in_an_interface_name_is_a_slash_in_the_key(tmp_path: Path) -> None:
    base = tree(tmp_path, {"ipv4/conf/eth0.100/forwarding": "0"})
    assert _sysctl.read_sysctls(base) == {"net.ipv4.conf.eth0/100.forwarding": 0}


def test_rare_settings_are_listed_where_somebody_made_them(tmp_path: Path) -> None:
    base = tree(tmp_path, {"ipv4/conf/eth0/proxy_arp": "0", "ipv4/conf/eth1/proxy_arp": "1"})
    assert _sysctl.read_sysctls(base) == {"net.ipv4.conf.eth1.proxy_arp": 1}


def test_a_kernel_without_a_sysctl_has_no_key(tmp_path: Path) -> None:
    assert _sysctl.read_sysctls(str(tmp_path)) == {}


@given(st.text())
def test_any_text_is_a_value(text: str) -> None:
    assert isinstance(_sysctl.value(text), (int, str))


@pytest.mark.parametrize(
    "name", ["net.ipv4.ip_forward", "net.ipv4.conf.all.rp_filter", "net.ipv6.conf.lo.disable_ipv6"]
)
def test_the_own_namespace_has_the_usual_ones(name: str) -> None:
    assert isinstance(_sysctl.read_sysctls()[name], int)


@needs_root
def test_the_sysctls_are_those_of_the_namespace() -> None:
    with namespace() as name:
        run(name, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
        run(
            name,
            "sysctl",
            "-qw",
            "net.ipv4.ip_forward=1",
            "net.ipv4.conf.v0.forwarding=0",
            "net.ipv4.conf.v1.rp_filter=2",
        )
        with _netns.inside(f"/run/netns/{name}"):
            found = _sysctl.read_sysctls()
    assert found["net.ipv4.ip_forward"] == 1
    assert found["net.ipv4.conf.v0.forwarding"] == 0
    assert found["net.ipv4.conf.v1.rp_filter"] == 2
    assert "net.ipv4.conf.v0.forwarding" not in _sysctl.read_sysctls()

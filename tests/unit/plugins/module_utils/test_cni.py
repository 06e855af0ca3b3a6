# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _cni

LIST = {
    "cniVersion": "1.0.0",
    "name": "cbr0",
    "plugins": [
        {
            "type": "bridge",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00::/64"}]]},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
CALICO = {
    "name": "k8s",
    "type": "calico",
    "etcd_key": "SECRET",
    "kubernetes": {"kubeconfig": "SECRET"},
    "ipam": {"type": "calico-ipam"},
}


def row(config: Any) -> dict[str, Any] | None:
    return _cni.network("/x", json.dumps(config))


def test_a_list_of_plugins_and_a_single_one() -> None:
    assert row(LIST) == {"path": "/x", "name": "cbr0", "type": "bridge", "subnets": ["10.88.0.0/16", "fd00::/64"]}
    single = {"name": "mynet", "type": "bridge", "ipam": {"type": "host-local", "subnet": "10.22.0.1/16"}}
    assert row(single) == {"path": "/x", "name": "mynet", "type": "bridge", "subnets": ["10.22.0.0/16"]}


def test_no_secret_of_a_configuration_becomes_a_fact() -> None:
    found = row(CALICO)
    assert found == {"path": "/x", "name": "k8s", "type": "calico", "subnets": []}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"plugins": []}', '{"type": 5}', '{"plugins": [5, {"type": []}]}', "[" * 100000],
)
def test_what_is_no_network_configuration_has_no_row(text: str) -> None:
    assert _cni.network("/x", text) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["10.0.0.0/8", "1/2/3"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["plugins", "type", "ipam", "ranges", "subnet", "name"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_read_or_left(config: Any) -> None:
    found = row(config)
    assert found is None or set(found) == {"path", "name", "type", "subnets"}


def test_the_subnet_flannel_got_for_this_host() -> None:
    text = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    assert _cni.flannel("/f", text) == {"path": "/f", "name": None, "type": "flannel", "subnets": ["10.244.1.0/24"]}
    assert _cni.flannel("/f", "garbage\nFLANNEL_SUBNET=1\n=\n")["subnets"] == []


def test_the_files_of_a_host(tmp_path: Path) -> None:
    assert _cni.read_cni(str(tmp_path)) == []
    folder = tmp_path / "etc/cni/net.d"
    folder.mkdir(parents=True)
    (folder / "10-b.conflist").write_text(json.dumps(LIST))
    (folder / "05-a.conf").write_text(json.dumps({"name": "a", "type": "loopback"}))
    (folder / "calico-kubeconfig").write_text("SECRET")
    (folder / "99-broken.conf").write_text("{")
    (tmp_path / "run/flannel").mkdir(parents=True)
    (tmp_path / "run/flannel/subnet.env").write_text("FLANNEL_SUBNET=10.244.2.1/24\n")
    found = _cni.read_cni(str(tmp_path))
    assert [(one["path"], one["type"]) for one in found] == [
        ("/etc/cni/net.d/05-a.conf", "loopback"),
        ("/etc/cni/net.d/10-b.conflist", "bridge"),
        ("/run/flannel/subnet.env", "flannel"),
    ]

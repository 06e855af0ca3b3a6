# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils import _kernel_modules as modules

NAMES = ("vxlan", "br_netfilter", "ip_vs", "xt_u32")
RELEASE = "6.1.0-31-amd64"


def tree(root: Path, files: dict[str, str | bytes]) -> dict[str, Any]:
    for name, text in files.items():
        path = root / name.replace("RELEASE", RELEASE)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return dict(modules.read_modules(NAMES, str(root), RELEASE))


def test_a_kernel_with_modules(tmp_path: Path) -> None:
    found = tree(
        tmp_path,
        {
            "proc/modules": "vxlan 155648 0 - Live 0x0\nudp_tunnel 32768 1 vxlan, Live 0x0\n",
            "lib/modules/RELEASE/modules.builtin": "kernel/net/netfilter/ipvs/ip_vs.ko\nkernel/fs/ext4/ext4.ko\n",
            "lib/modules/RELEASE/modules.dep": (
                "kernel/net/bridge/br-netfilter.ko.xz: kernel/net/bridge/bridge.ko.xz\n"
                "kernel/net/netfilter/xt_u32x.ko: kernel/net/xxt_u32.ko kernel/net/xt_u32.kox\n"
            ),
        },
    )
    assert found == {"vxlan": "loaded", "br_netfilter": "available", "ip_vs": "builtin", "xt_u32": "absent"}


def test_a_kernel_without_modules_tells_by_its_configuration(tmp_path: Path) -> None:
    text = "CONFIG_VXLAN=y\n# CONFIG_IP_VS is not set\nCONFIG_BRIDGE_NETFILTER=m\nCONFIG_IP_VS_PROTO_TCP=y\n"
    found = tree(tmp_path, {"boot/config-RELEASE": text})
    assert found == {"vxlan": "builtin", "br_netfilter": "absent", "ip_vs": "absent", "xt_u32": "absent"}
    # Modules there are, but nobody knows which files are installed.
    found = tree(tmp_path, {"proc/modules": "loop 1 0 - Live 0x0\n"})
    assert (found["br_netfilter"], found["vxlan"]) == (None, "builtin")


def test_the_compressed_configuration(tmp_path: Path) -> None:
    import gzip

    assert tree(tmp_path, {"proc/config.gz": gzip.compress(b"CONFIG_VXLAN=y\n")})["vxlan"] == "builtin"
    assert tree(tmp_path, {"proc/config.gz": b"\x1f\x8bgarbage"}) == dict.fromkeys(NAMES)


def test_where_nothing_tells_nothing_is_said(tmp_path: Path) -> None:
    assert tree(tmp_path, {}) == dict.fromkeys(NAMES)
    (tmp_path / "sys/module/vxlan").mkdir(parents=True)
    assert tree(tmp_path, {}) == {**dict.fromkeys(NAMES), "vxlan": "builtin"}


def test_this_machine_has_an_answer_for_each() -> None:
    found = modules.read_modules()
    assert tuple(found) == modules.REPORTED
    assert set(found.values()) <= {"loaded", "builtin", "available", "absent", None}
    if os.path.exists("/proc/sys/net/netfilter/nf_conntrack_max"):
        assert found["nf_conntrack"] in ("loaded", "builtin", None)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which kernel modules are there, told from files: some questions to the kernel load a module, so one looks first."""

from __future__ import annotations

import os
import re
import zlib

from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_text

# The option of the kernel's configuration that makes each, for kernels that come without a folder of modules.
OPTIONS = {
    "vxlan": "VXLAN",
    "br_netfilter": "BRIDGE_NETFILTER",
    "ip_vs": "IP_VS",
    "esp4": "INET_ESP",
    "xt_bpf": "NETFILTER_XT_MATCH_BPF",
    "xt_u32": "NETFILTER_XT_MATCH_U32",
    "xt_policy": "NETFILTER_XT_MATCH_POLICY",
    "nf_conntrack": "NF_CONNTRACK",
    "nf_conntrack_netlink": "NF_CT_NETLINK",
    "xfrm_user": "XFRM_USER",
}
REPORTED = tuple(OPTIONS)[:-2]
LIMIT = 4 << 20


def read_modules(
    names: tuple[str, ...] = REPORTED, root: str = "", release: str | None = None
) -> dict[str, str | None]:
    """C(loaded), C(builtin), C(available) or C(absent) by name; None where nothing tells."""
    folder = f"{root}/lib/modules/{release or os.uname().release}"
    proc = read_text(f"{root}/proc/modules", LIMIT)
    loaded = {line.split(" ", 1)[0] for line in (proc or "").splitlines()}
    found: dict[str, str | None] = {}
    rest = []
    for name in names:
        if name in loaded:
            found[name] = "loaded"
        elif os.path.isdir(f"{root}/sys/module/{name}"):
            found[name] = "builtin"
        else:
            found[name] = None
            rest.append(name)
    if not rest:
        return found
    builtin = _listed(read_text(f"{folder}/modules.builtin", LIMIT), rest)
    available = _listed(read_text(f"{folder}/modules.dep", LIMIT), rest)
    if builtin is None or available is None:
        return {**found, **_configured(rest, _configuration(root, release or os.uname().release), proc is not None)}
    for name in rest:
        found[name] = "builtin" if name in builtin else "available" if name in available else "absent"
    return found


def _listed(text: str | None, names: list[str]) -> set[str] | None:
    """Those of C(names) that a list of module files has; a file may spell _ as -."""
    if text is None:
        return None
    words = "|".join(re.escape(name).replace("_", "[_-]") for name in names)
    # Every file that modules.dep names, also as what another depends on, is there.
    return {word.replace("-", "_") for word in re.findall(rf"/({words})\.ko(?:\.\w+)?(?=[:\s]|$)", text)}


def _configuration(root: str, release: str) -> str | None:
    """The kernel's configuration, where it or the boot folder has it."""
    text = read_text(f"{root}/boot/config-{release}", LIMIT)
    if text is not None:
        return text
    try:
        with open(f"{root}/proc/config.gz", "rb") as stream:
            return zlib.decompressobj(31).decompress(stream.read(LIMIT), LIMIT).decode("ascii", "replace")
    except (OSError, zlib.error):
        return None


def _configured(names: list[str], text: str | None, modular: bool) -> dict[str, str | None]:
    """What the configuration says of each; of a module nobody can tell whether its file is installed."""
    if text is None:
        return dict.fromkeys(names)
    set_to = dict(re.findall(r"^CONFIG_(\w+)=([ym])$", text, re.MULTILINE))
    states = {"y": "builtin", "m": None if modular else "absent", None: "absent"}
    return {name: states[set_to.get(OPTIONS[name])] for name in names}

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tunnels over a TUN device: what its kernel does to UDP that was coalesced."""

from __future__ import annotations

import typing as t
from collections import Counter

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import (
    AFTERMATH,
    CRITICAL,
    LIKELY,
    Case,
    Cause,
    Evidence,
    Facts,
    Finding,
    Remedy,
    pair_ids,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.crossing import (
    crossing,
    ends,
    probe_evidence,
)
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.observations import Observation

GRO_FIXED = (6, 8, 5)  # tailscale issue 11026: UDP packets coalesced on a TUN device were dropped behind it


def kernel_version(case: Case, host: str) -> tuple[int, ...]:
    text = str((case.host(host).facts.facts.get("host") or {}).get("kernel") or "")
    numbers = []
    for part in text.split("-", maxsplit=1)[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers[:3])


def decide_gro(case: Case) -> t.Iterator[Finding]:
    """What the tunnel carries in bulk is lost over a userspace VPN's device, small packets pass."""
    groups: dict[str, list[Observation]] = {}
    for observation in crossing(case.unexplained):
        results = observation.results
        small = any(r["status"] == "ok" for key, r in results.items() if key.startswith("icmp"))
        bulk = any(r["status"] in ("incomplete", "timeout") for key, r in results.items() if key.startswith("http"))
        if not small or not bulk:
            continue
        for name in ends(observation):
            version = kernel_version(case, name)
            if _tun(case, name, observation) and version and version < GRO_FIXED:
                groups.setdefault(name, []).append(observation)
    named: Counter[str] = Counter({name: len(pairs) for name, pairs in groups.items()})
    taken: set[str] = set()
    for name, _number in sorted(named.items(), key=lambda item: (-item[1], item[0])):
        pairs = [o for o in groups[name] if o.pair.id not in taken]
        if pairs:
            taken |= {o.pair.id for o in pairs}
            yield _gro_finding(case, name, pairs)


def _tun(case: Case, name: str, observation: Observation) -> Facts | None:
    """The TUN device by which this host reaches the other end."""
    host = case.host(name)
    other = next((case.host(end).underlay_ip for end in ends(observation) if end != name), None)
    paths = host.facts.root.facts.get("paths") or []
    index = next((row.get("oif") for row in paths if row.get("dst") == other), None)
    link = host.facts.root.link_by_index.get(index) if index is not None else host.underlay_link
    return link if link is not None and "tun" in (link.get("kind"), link.get("driver")) else None


def _gro_finding(case: Case, name: str, pairs: list[Observation]) -> Finding:
    link = _tun(case, name, pairs[0]) or {}
    device, kernel = link.get("name"), (case.host(name).facts.facts.get("host") or {}).get("kernel")
    return Finding(
        cause="gro-udp-tun",
        severity=CRITICAL,
        confidence=LIKELY,
        hosts=[name],
        segment="host-stack",
        summary=f"{name} carries the tunnel over {device}, a TUN device, with kernel {kernel}: UDP packets that it "
        "coalesces there are dropped; small ones pass, bulk does not",
        evidence=[
            Evidence(
                name, f"link {device}", str(link.get("kind") or link.get("driver")), None, f"ip -d link show {device}"
            ),
            Evidence(name, "kernel", str(kernel), "6.8.5 or newer", "uname -r"),
            probe_evidence(pairs[0], len(pairs)),
        ],
        explains=pair_ids(pairs),
        remedies=[
            Remedy("cure", ("a kernel of 6.8.5 or newer",), "A reboot.", disruptive=True),
            Remedy(
                "mitigation",
                (f"ethtool -K {device} gro off gso off rx-udp-gro-forwarding off",),
                "Less throughput over the VPN.",
            ),
        ],
    )


CAUSES = [
    Cause(
        "gro-udp-tun",
        "The tunnel goes over a TUN device whose kernel drops coalesced UDP",
        "the device towards the peers, the kernel's version, bulk against small probes",
        "small packets pass; a newer kernel is repaired",
        decide_gro,
        stage=AFTERMATH,
        remedy="kernel 6.8.5 or newer; until then no GRO on the TUN device",
    ),
]

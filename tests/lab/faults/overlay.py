# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The overlay network's own state on one host: forwarding entries that point elsewhere, links that are down."""

from __future__ import annotations

from .changes import ContainerPort, FdbDestination, LinkDown
from .model import ANY, Broken, Change, Expect, Fault, overlay_touching

ENTRY = "overlay-entry-wrong"
VTEP = "vtep-down"


def entry_wrong(variant: str, to: str, summary: str) -> Fault:
    text = "overlay pairs between $host and app-$peer"
    pairs = (Broken("overlay", "$host", "app-$peer", text), Broken("overlay", "app-$peer", "$host", text))
    return Fault(ENTRY + variant, summary, (FdbDestination(to),), Expect((ENTRY,), ("vtep",), pairs))


def link_down(variant: str, summary: str, change: Change, *segments: str, pairs: tuple[Broken, ...]) -> Fault:
    return Fault(VTEP + variant, summary, (change,), Expect((VTEP,), segments, pairs))


TOUCHING = overlay_touching()
WITHIN = tuple(Broken(kind, "$host", "$host", "overlay pairs within $host") for kind in ("overlay", "page"))
CONTAINER = tuple(
    Broken(kind, src, dst, "overlay pairs of app-$host")
    for kind in ("overlay", "page")
    for src, dst in (("app-$host", ANY), (ANY, "app-$host"), ("app-$host", "$host"), ("$host", "app-$host"))
)


FAULTS = (
    entry_wrong("", "192.0.2.250", "the FDB of one host sends frames for one container to an address nobody has"),
    entry_wrong(":own", "$address", "the FDB of one host sends frames for one container to the host itself"),
    entry_wrong(":live", "$other_address", "the FDB of one host sends frames for one container to a third host"),
    link_down("", "vxlan0 is down in the overlay's namespace", LinkDown("vxlan0", "overlay"), "vtep", pairs=TOUCHING),
    link_down(
        ":bridge",
        "br0 is down in the overlay's namespace",
        LinkDown("br0", "overlay"),
        "vtep",
        "bridge",
        pairs=(*TOUCHING, *WITHIN),
    ),
    link_down(":port", "the container's port of br0 is down", ContainerPort("down"), "bridge", "vtep", pairs=CONTAINER),
    link_down(
        ":detached",
        "the container's port is detached from br0",
        ContainerPort("detach"),
        "bridge",
        "vtep",
        pairs=CONTAINER,
    ),
)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tables of our own that clamp the segment size TCP announces: what they say, and how they are compared and loaded.

What a host forwards between interfaces crosses its forward hook; a route's MTU tells the size. Traffic of an overlay
network does not: it is bridged in a namespace of the engine's, between the containers' veths and the VXLAN device, with
no route in sight. There a table of the bridge family sets a number.

A table is compared as nft lists it. How it will list ours is found by loading it in an empty namespace of its own, so
the same text is compared in every version of nft, and check mode shows what will stand there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import typing as t
from collections.abc import Iterator, Sequence

from ansible_collections.crosshost.doctor.plugins.module_utils import _journal
from ansible_collections.crosshost.doctor.plugins.module_utils._netns import (
    CLONE_NEWNET,
    OWN,
    StrandedError,
    enumerate_namespaces,
    setns,
)

TABLE = "crosshost_doctor_mss"
FORWARD_FAMILY, OVERLAY_FAMILY = "inet", "bridge"
SYN = "tcp flags & (syn | rst) == syn"
SMALLEST, LARGEST = 88, 65495  # what Linux takes for the smallest path; what fills an IPv4 packet
PREFIX_LENGTH = 10  # of a network's id in the name of its namespace
_NETWORK = re.compile(r"[0-9a-z]{10,64}")
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,14}")


class MssError(Exception):
    """The request cannot be met; the message says why and what to do."""


def checked_interfaces(names: Sequence[str]) -> list[str]:
    """Names of interfaces, each once, sorted.

    @raises MssError: one is no name of an interface.
    """
    for name in names:
        if not _INTERFACE.fullmatch(name):
            raise MssError(f"interfaces: {name!r} is not the name of a network interface.")
    return sorted(set(names))


def checked_networks(rows: Sequence[dict[str, t.Any]]) -> dict[str, tuple[int, int]]:
    """(segment size for IPv4, for IPv6) by network id.

    @raises MssError: an id or a size is not one, or a network is named twice with different sizes.
    """
    found: dict[str, tuple[int, int]] = {}
    for row in rows:
        name, small = row["id"], row["mss6"]
        if not _NETWORK.fullmatch(name):
            raise MssError(
                f"networks: {name!r} is not the id of a network, as `docker network ls --no-trunc` lists it."
            )
        sizes = (row["mss4"], row["mss4"] - 20 if small is None else small)
        for size in sizes:
            if not SMALLEST <= size <= LARGEST:
                raise MssError(f"networks: {name} has a segment size of {size}, not of {SMALLEST} to {LARGEST} bytes.")
        if found.setdefault(name, sizes) != sizes:
            raise MssError(f"networks: {name} is named twice, with different sizes.")
    return found


def forward_table(interfaces: Sequence[str]) -> str:
    """What the host forwards, through the interfaces or any. C(rt mtu) is what the routes of both directions take.

    The announcement that limits what leaves by an interface is the one that came in by it, so both ways are clamped.
    """
    names = ", ".join(f'"{name}"' for name in interfaces)
    ways = [f"{way} {{ {names} }} " for way in ("iifname", "oifname")] if interfaces else [""]
    rules = "".join(f"\t\t{way}{SYN} tcp option maxseg size set rt mtu\n" for way in ways)
    return (
        f"table {FORWARD_FAMILY} {TABLE} {{\n"
        "\tchain forward {\n"
        "\t\ttype filter hook forward priority mangle; policy accept;\n"
        f"{rules}"
        "\t}\n"
        "}\n"
    )


def overlay_table(mss4: int, mss6: int) -> str:
    """What comes through an overlay's VXLAN device or leaves by it. Between two containers of one host nothing changes.

    The kernel itself never raises the option; the comparison leaves smaller ones out of the rule's sight altogether.
    """
    rules = "".join(
        f"\t\tether type {kind} {SYN} tcp option maxseg size > {size} tcp option maxseg size set {size}\n"
        for kind, size in (("ip", mss4), ("ip6", mss6))
    )
    return (
        f"table {OVERLAY_FAMILY} {TABLE} {{\n"
        f"\tchain clamp {{\n{rules}\t}}\n\n"
        "\tchain forward {\n"
        "\t\ttype filter hook forward priority 0; policy accept;\n"
        '\t\tiifname "vxlan*" jump clamp\n'
        '\t\toifname "vxlan*" jump clamp\n'
        "\t}\n"
        "}\n"
    )


def replacing(family: str, text: str | None) -> str:
    """A script that puts C(text) in the place of our table, or takes the table away: one transaction either way."""
    return f"table {family} {TABLE}\ndelete table {family} {TABLE}\n{text or ''}"


def listed(nft: str, family: str, netns: str | None = None) -> str | None:
    """Our table as it stands, or None.

    @raises MssError: nft does not answer.
    """
    code, output, error = _journal.run([nft, "--stateless", "list", "table", family, TABLE], netns=netns)
    if code == 0:
        return output
    if "No such file or directory" in error:
        return None
    raise MssError(f"nft cannot list table {family} {TABLE}: {error.strip()[-300:]}")


def as_listed(nft: str, family: str, text: str) -> str:
    """How nft will list a table, seen in a namespace that nobody else is in.

    @raises MssError: this nft or this kernel does not take it.
    """
    with scratch_namespace():
        load(nft, replacing(family, text))
        found = listed(nft, family)
    if found is None:
        raise MssError(f"nft took table {family} {TABLE} and does not list it.")
    return found


def load(nft: str, script: str, netns: str | None = None) -> None:
    """Run a script of nft's.

    @raises MssError: it was refused; nothing of it was done.
    """
    code, _output, error = _journal.run([nft, "-f", "-"], input=script, netns=netns)
    if code:
        lines = [line for line in error.splitlines() if "rror" in line]
        raise MssError(f"nftables on this host does not take the clamp: {(lines or [error.strip()])[0][:300]}")


@contextlib.contextmanager
def scratch_namespace() -> Iterator[None]:
    """Run the body in an empty network namespace, which is gone afterwards.

    @raises MssError: it cannot be made.
    @raises StrandedError: the way back failed.
    """
    home = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(ctypes.c_int(CLONE_NEWNET)) != 0:
            raise MssError(f"No network namespace can be made to try the rules in: {os.strerror(ctypes.get_errno())}.")
        try:
            yield
        finally:
            try:
                setns(home)
            except OSError as exc:
                raise StrandedError(f"cannot return from a namespace of our own: {exc}") from exc
    finally:
        os.close(home)


def overlay_namespaces() -> dict[str, str]:
    """Where the namespaces of overlay networks can be opened on this host, by the first ten digits of an id."""
    spaces, _missing = enumerate_namespaces()
    return {
        space.network_prefix: space.path
        for space in spaces
        if space.kind == "overlay" and space.network_prefix and not space.error
    }

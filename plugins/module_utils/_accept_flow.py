# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Traffic to accept, from options that are not trusted: typed, checked, and split into what one rule says."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import typing as t

MARK = "crosshost.doctor: "
PROTOCOLS = {"tcp": 6, "udp": 17, "esp": 50}
NUMBERS = {number: name for name, number in PROTOCOLS.items()}
# A name that no program takes for an option, a set (@), a wildcard (*, +), an inversion (!) or a path.
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,14}")
_COMMENT_LIMIT = 100  # nft takes 128 bytes


class AcceptError(Exception):
    """The request cannot be met; the message says why and what to do."""


class Flow(t.NamedTuple):
    """What one rule accepts. version: 4, 6, or None where no address tells; what is None is not looked at.

    answers: not what opens a connection to the port, but what comes back from the port on one that is established.
    """

    version: t.Optional[int]
    protocol: t.Optional[str]
    port: t.Optional[int]
    source: t.Optional[str]
    destination: t.Optional[str]
    iif: t.Optional[str]
    oif: t.Optional[str]
    answers: bool = False


class Wanted(t.NamedTuple):
    """One thing to accept: the comment its rules bear, and the flows, one per peer."""

    comment: str
    flows: tuple[Flow, ...]


def network(text: t.Any, what: str) -> str:
    """An address, or a network with its prefix length, in its canonical form. Never all addresses."""
    try:
        found = ipaddress.ip_network(str(text))
    except ValueError as error:
        raise AcceptError(f"{what}: {str(text)[:80]!r} is neither an address nor a network ({error}).") from error
    if found.prefixlen == 0:
        raise AcceptError(f"{what}: {found} is every address there is. Name the peers.")
    return str(found.network_address) if found.prefixlen == found.max_prefixlen else str(found)


def host(text: t.Any, what: str) -> str:
    """The address of one host."""
    found = network(text, what)
    address = ipaddress.ip_network(found)
    if address.num_addresses != 1:
        raise AcceptError(f"{what}: {found} is a network. Name the peers' own addresses.")
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise AcceptError(f"{what}: {found} is no address of another host.")
    return found


def interface(text: t.Any, what: str) -> str:
    if not _INTERFACE.fullmatch(str(text)):
        raise AcceptError(f"{what}: {str(text)[:80]!r} is not the name of an interface.")
    return str(text)


def version_of(text: str) -> int:
    return ipaddress.ip_network(text).version


def order(text: str) -> tuple[int, t.Any]:
    """Sorts addresses as numbers, IPv4 first."""
    found = ipaddress.ip_network(text)
    return found.version, (int(found.network_address), found.prefixlen)


def services(rows: t.Iterable[t.Mapping[str, t.Any]], peers: t.Iterable[t.Any], direction: str) -> list[Wanted]:
    """What services ask for: from each peer (direction in) or to each peer (out)."""
    addresses = sorted({host(peer, "peers") for peer in peers}, key=order)
    found: dict[str, Wanted] = {}
    for row in rows:
        protocol, port, answers = str(row.get("protocol")), row.get("port"), bool(row.get("answers"))
        if protocol not in PROTOCOLS:
            raise AcceptError(f"services: protocol {protocol[:40]!r} is none of {', '.join(PROTOCOLS)}.")
        if protocol == "esp":
            if port is not None:
                raise AcceptError("services: esp has no ports.")
        elif not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
            raise AcceptError(f"services: {protocol} needs a port from 1 to 65535, not {str(port)[:40]!r}.")
        if answers and protocol != "tcp":
            raise AcceptError(f"services: {protocol} has no connections, so none of its packets is an answer.")
        what = (protocol if port is None else f"{protocol}/{port}") + (" answers" if answers else "")
        flows = tuple(
            Flow(
                version_of(peer),
                protocol,
                port,
                peer if direction == "in" else None,
                peer if direction == "out" else None,
                None,
                None,
                answers,
            )
            for peer in addresses
        )
        found[what] = Wanted(f"{MARK}{direction} {what}", flows)
    if found and not addresses:
        raise AcceptError("peers: no address is given, and from everywhere nothing is accepted.")
    return list(found.values())


def forwards(rows: t.Iterable[t.Mapping[str, t.Any]]) -> list[Wanted]:
    """What is to be forwarded. An accept that restricts nothing is refused."""
    found: dict[str, Wanted] = {}
    for row in rows:
        faces = [interface(row[key], key) if row.get(key) else None for key in ("in_interface", "out_interface")]
        ends = [network(row[key], key) if row.get(key) else None for key in ("source", "destination")]
        if not any(faces) and not any(ends):
            raise AcceptError("accepts: one of them names neither interface nor address: it would accept everything.")
        versions = {version_of(end) for end in ends if end}
        if len(versions) > 1:
            raise AcceptError(f"accepts: {ends[0]} and {ends[1]} are addresses of two families.")
        flow = Flow(versions.pop() if versions else None, None, None, ends[0], ends[1], faces[0], faces[1])
        words = zip(("from", "to", "source", "destination"), (flow.iif, flow.oif, flow.source, flow.destination))
        comment = f"{MARK}forward " + " ".join(f"{word} {value}" for word, value in words if value)
        if len(comment) > _COMMENT_LIMIT:
            comment = f"{comment[: _COMMENT_LIMIT - 9]} {hashlib.sha256(comment.encode()).hexdigest()[:8]}"
        found[comment] = Wanted(comment, (flow,))
    return list(found.values())


def fits(flow: Flow, family: str) -> bool:
    """Whether a table of this family sees the flow's packets."""
    if family not in ("ip", "ip6", "inet", "bridge", "netdev"):
        return False
    return flow.version is None or family not in ("ip", "ip6") or family == ("ip" if flow.version == 4 else "ip6")

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where in the fleet a container's frames can be seen, and which of them an operator wants to see."""

from __future__ import annotations

import difflib
import ipaddress
import typing as t
from dataclasses import dataclass

from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.facts import Facts, Namespace
from ansible_collections.crosshost.doctor.plugins.plugin_utils.model.fleet import Fleet, Host

PROTOCOLS = ("arp", "esp", "gre", "icmp", "ip", "ip6", "sctp", "tcp", "udp")
WITH_PORTS = ("ip", "ip6", "sctp", "tcp", "udp")
MAX_WORDS = 20
GRAMMAR = "PROTOCOL, host ADDRESS, net NETWORK and port NUMBER, joined by 'and'"


class TargetError(Exception):
    """The container or the filter cannot be used; the text is for the operator."""


@dataclass(frozen=True)
class Target:
    """A container with what listens to it: the taps of vxlan_capture, with the namespaces' identities."""

    host: str
    container: str
    taps: list[Facts]


def parse_filter(text: str) -> Facts:
    """The O(match) of vxlan_capture for C(tcp port 80 and host 10.0.1.7); empty for an empty filter.

    Each condition has to hold, and "and" between them may be left out. There is no "or" and no "not".

    @raises TargetError: it is not in this grammar.
    """
    words = text.split()
    if len(words) > MAX_WORDS:
        raise TargetError(f"doctor_filter has {len(words)} words, and at most {MAX_WORDS} are read: {GRAMMAR}")
    protocols: list[str] = []
    hosts: list[str] = []
    ports: list[int] = []
    rest = iter(words)
    joined = True  # an "and" has nothing before it at the start
    for word in rest:
        if word == "and":
            if joined:
                raise TargetError(f"doctor_filter={text!r}: 'and' stands between two conditions")
            joined = True
            continue
        joined = False
        if word in PROTOCOLS:
            protocols.append(word)
        elif word in ("host", "net"):
            hosts.append(_address(text, word, next(rest, None)))
        elif word == "port":
            ports.append(_port(text, next(rest, None)))
        else:
            raise TargetError(
                f"doctor_filter={text!r}: {word!r} is not understood. There are {GRAMMAR}; "
                f"a protocol is one of {', '.join(PROTOCOLS)}"
            )
    if joined and words:
        raise TargetError(f"doctor_filter={text!r}: something has to follow 'and'")
    _check(text, protocols, hosts, ports)
    found: Facts = {}
    if protocols:
        found["protocol"] = protocols[0]
    if hosts:
        found["hosts"] = hosts
    if ports:
        found["ports"] = ports
    return found


def _check(text: str, protocols: list[str], hosts: list[str], ports: list[int]) -> None:
    if len(set(protocols)) > 1:
        raise TargetError(f"doctor_filter={text!r}: no packet is {' and '.join(protocols)} at once")
    if ports and protocols and protocols[0] not in WITH_PORTS:
        raise TargetError(f"doctor_filter={text!r}: {protocols[0]} has no ports")
    for what, values in (("hosts", hosts), ("ports", ports)):
        if len(values) > 2:
            raise TargetError(f"doctor_filter={text!r}: a packet has two ends, and this asks for {len(values)} {what}")


def _address(text: str, word: str, value: str | None) -> str:
    try:
        if word == "host":
            return str(ipaddress.ip_address(value or ""))
        return str(ipaddress.ip_network(value or "", strict=False))
    except ValueError:
        what = "an IP address" if word == "host" else "a network such as 10.0.1.0/24"
        given = f", not {value!r}" if value else ""
        raise TargetError(f"doctor_filter={text!r}: {what} has to follow {word!r}{given}") from None


def _port(text: str, value: str | None) -> int:
    if value is None or not (value.isascii() and value.isdigit() and 0 < int(value) < 65536):
        given = f", not {value!r}" if value else ""
        raise TargetError(f"doctor_filter={text!r}: a number from 1 to 65535 has to follow 'port'{given}")
    return int(value)


def find_target(fleet: Fleet, name: str) -> Target:
    """The taps of a container: each of its interfaces, and the other end where that is a veth.

    @param name: name or start of the id (six characters at least), or HOST/NAME where a name stands twice.
    @raises TargetError: there is none, there are several, or its frames cannot be told from the host's.
    """
    host_name, _slash, rest = name.rpartition("/")
    places = [(host, container) for host in fleet.answering for container in host.facts.containers]
    if host_name:
        places = [(host, container) for host, container in places if host.name == host_name]
    found = [place for place in places if place[1]["name"] == rest]
    found = found or [place for place in places if len(rest) >= 6 and place[1]["id"].startswith(rest)]
    if not found:
        raise TargetError(_unknown(fleet, name, places, host_name))
    if len(found) > 1:
        several = ", ".join(sorted(f"{host.name}/{container['name']}" for host, container in found))
        raise TargetError(
            f"doctor_target={name} names {len(found)} containers: say which with HOST/CONTAINER ({several})"
        )
    host, container = found[0]
    return Target(host.name, container["name"], _taps(host, container))


def _unknown(fleet: Fleet, name: str, places: list[tuple[Host, Facts]], host_name: str) -> str:
    if name in fleet.hosts:
        return f"doctor_target={name} is a host: give the name of a running container"
    if host_name and host_name not in fleet.hosts:
        known = ", ".join(sorted(fleet.hosts)[:8])
        return f"doctor_target={name}: there is no host {host_name!r} in this play; known: {known}"
    names = sorted({container["name"] for _host, container in places})
    near = difflib.get_close_matches(name.rpartition("/")[2], names, 3)
    asked = [host for host in fleet.answering if not host_name or host.name == host_name]
    text = (
        f"doctor_target={name}: none of the {len(names)} running containers of {len(asked)} hosts has that name or id"
    )
    if names:
        text += f"; did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(names[:8])}"
    silent = [host for host in fleet.hosts.values() if not host.answered and host_name in ("", host.name)]
    if silent:
        whys = (f"{host.name} ({' '.join((host.error or 'no answer').split())})" for host in silent)
        text += f". Not looked at: {', '.join(whys)}"
    blind = [host.name for host in asked if not host.facts.containers and _why_no_containers(host)]
    if blind:
        text += f". Containers could not be read on {', '.join(blind)}"
    return text


def _why_no_containers(host: Host) -> str | None:
    """Why a host named no container, or None if it just has none."""
    state = host.facts.engine.get("state")
    if state in ("down", "silent", "unknown"):
        return f"engine is {state}"
    rows: list[Facts] = host.facts.facts.get("missing") or []
    return next((row["why"] for row in rows if row.get("section") in ("containers", "engine", "library")), None)


def _taps(host: Host, container: Facts) -> list[Facts]:
    where = f"{host.name}/{container['name']}"
    namespace = host.facts.namespace(container.get("netns"))
    if namespace is None or not namespace.facts.get("path"):
        raise TargetError(f"doctor_target: the network namespace of {where} could not be found on {host.name}")
    if namespace.kind == "host":
        raise TargetError(
            f"doctor_target: {where} shares its host's network namespace (network_mode=host): its frames cannot be "
            "told from the host's own"
        )
    taps = []
    for link in namespace.links:
        if link["name"] == "lo":
            continue
        taps.append(_tap(f"{container['name']} {link['name']}", namespace, link))
        outer = _other_end(host, namespace, link)
        if outer is not None:
            taps.append(_tap(f"{container['name']} {link['name']} host side {outer[1]['name']}", *outer))
    if not taps:
        why = namespace.facts.get("error") or f"network_mode={container.get('network_mode')}"
        raise TargetError(f"doctor_target: {where} has no network interface but the loopback ({why})")
    return taps


def _tap(name: str, namespace: Namespace, link: Facts) -> Facts:
    tap = {"id": name, "interface": link["name"], "ifindex": link["index"], "inode": namespace.key}
    return tap if namespace.kind == "host" else {**tap, "netns": namespace.facts["path"]}


def _other_end(host: Host, namespace: Namespace, link: Facts) -> tuple[Namespace, Facts] | None:
    """The other end of a veth: index and peer index are swapped there. Where namespaces number alike, the bridge port.

    Two candidates on bridges are both possible: then none is taken, because the wrong one would mislead.
    """
    if link.get("kind") != "veth" or not link.get("link"):
        return None
    ends: list[tuple[Namespace, Facts]] = [
        (space, other)
        for space in host.facts.namespaces
        for other in space.links
        if space is not namespace
        and space.facts.get("path")
        and other.get("kind") == "veth"
        and other["index"] == link["link"]
        and other.get("link") == link["index"]
    ]
    if len(ends) > 1:
        ends = [end for end in ends if end[1].get("master")]
    return ends[0] if len(ends) == 1 else None


def arguments(target: Target, match: Facts, ports: t.Sequence[int]) -> Facts:
    """The arguments of vxlan_capture for a target."""
    return {"taps": target.taps, "filter": "all", "match": match, "ports": list(ports)}

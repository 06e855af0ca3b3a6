# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the engine's packet filter rules must hold for the networks and ports that it has, and what of that is missing.

Judged by what every release of the engine writes: the chains' names, a MASQUERADE for each bridge's subnet, a DNAT for
each published port, and a DNAT for each port of the routing mesh that the namespace C(ingress_sbox) expects.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

NO_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
BRIDGE_NAME = "com.docker.network.bridge.name"
GATEWAY_MODE = "com.docker.network.bridge.gateway_mode_ipv4"
NFTABLES = "docker-bridges"  # the table of engines that write nftables themselves (29)
_PORT = re.compile(r"dports? (\d+)\b")

Chain = dict[str, Any]


def missing(
    filter_: dict[str, Any],
    networks: Iterable[dict[str, Any]],
    containers: Iterable[dict[str, Any]],
    mesh: set[int],
    settings: Mapping[str, Any],
) -> list[str]:
    """What is missing, as sentences. An engine that is told to leave the packet filter alone misses nothing.

    @param networks: the rows of GET /networks; containers: those of GET /containers/json; mesh: ports of the mesh;
        settings: the engine's, by the keys of daemon.json.
    """
    chains: list[Chain] = [chain for chain in filter_["chains"] if chain["family"] in ("ip", "inet")]
    bridges = [network for network in networks if network.get("Driver") == "bridge"]
    if any(chain["table"] == NFTABLES for chain in filter_["chains"]):
        return []  # the engine's own tables are made and lost as a whole
    if settings.get("iptables") is False:
        return []
    found = list(_skeleton(chains)) if bridges else []
    for network in bridges:
        found += _of_network(chains, network, settings.get("ip-masq") is not False)
    for container in containers:
        found += _of_container(chains, container, {str(network.get("Name")): network for network in bridges})
    for port in sorted(mesh):
        if not any(_speaks(rule, port, "dnat") for rule in _rules(chains, "nat", "DOCKER-INGRESS")):
            found.append(f"the DNAT of port {port} in chain DOCKER-INGRESS of table nat")
    return list(dict.fromkeys(found))


def _skeleton(chains: list[Chain]) -> Iterator[str]:
    for table in ("nat", "filter"):
        if not any(chain["table"] == table and chain["name"] == "DOCKER" for chain in chains):
            yield f"chain DOCKER of table {table}"
    for table, hook in (("nat", "prerouting"), ("filter", "forward")):
        rules = [
            rule for chain in chains if chain["table"] == table and chain.get("hook") == hook for rule in chain["rules"]
        ]
        if not any(re.search(r"(jump|-j) DOCKER\b", str(rule.get("text"))) for rule in rules):
            yield f"the jump to Docker's chains in {hook.upper()} of table {table}"


def _of_network(chains: list[Chain], network: dict[str, Any], masquerades: bool) -> Iterator[str]:
    name, options = str(network.get("Name")), network.get("Options") or {}
    bridge = options.get(BRIDGE_NAME) or f"br-{str(network.get('Id'))[:12]}"
    natted = options.get(GATEWAY_MODE, "nat") == "nat" and not network.get("Internal")
    for row in (network.get("IPAM") or {}).get("Config") or []:
        subnet = str(row.get("Subnet") or "")
        switched_off = str(options.get(NO_MASQUERADE, "true")).lower() in ("false", "0")
        if not natted or not masquerades or ":" in subnet or not subnet or switched_off:
            continue
        rules = [text for chain in chains if chain["table"] == "nat" for text in _texts(chain)]
        if not any(subnet in text and "masquerade" in text for text in rules):
            yield f"the MASQUERADE of {subnet} (network {name}) in table nat"
    forward = [text for chain in chains if chain["table"] == "filter" for text in _texts(chain)]
    if natted and not any(
        re.search(rf"(?<![\w.-]){re.escape(str(bridge).lower())}(?![\w.-])", text) for text in forward
    ):
        yield f"the rules for {bridge} (network {name}) in table filter"


def _of_container(chains: list[Chain], container: dict[str, Any], bridges: dict[str, dict[str, Any]]) -> Iterator[str]:
    attached = (container.get("NetworkSettings") or {}).get("Networks") or {}
    natted = {
        str(end.get("IPAddress"))
        for name, end in attached.items()
        if name in bridges and (bridges[name].get("Options") or {}).get(GATEWAY_MODE, "nat") == "nat"
    }
    if not natted:
        return
    for port in container.get("Ports") or []:
        public, private = port.get("PublicPort"), port.get("PrivatePort")
        if not public or ":" in str(port.get("IP") or ""):
            continue
        targets = {f"{address}:{private}" for address in natted}
        rules = _rules(chains, "nat", "DOCKER")
        if not any(_speaks(rule, int(public), "dnat") and targets & set(_words(rule)) for rule in rules):
            names = ", ".join(str(one).lstrip("/") for one in container.get("Names") or [])
            yield f"the DNAT of port {public} to {names} in chain DOCKER of table nat"


def mesh_ports(filter_: dict[str, Any]) -> set[int]:
    """The ports that the namespace of the routing mesh marks for services."""
    found: set[int] = set()
    for chain in filter_["chains"]:
        for rule in chain["rules"] if chain["table"] == "mangle" else []:
            text = str(rule.get("text")).lower()
            if "mark" in text:
                found.update(int(port) for port in _PORT.findall(text))
    return found


def _rules(chains: list[Chain], table: str, name: str) -> list[dict[str, Any]]:
    return [rule for chain in chains if (chain["table"], chain["name"]) == (table, name) for rule in chain["rules"]]


def _texts(chain: Chain) -> list[str]:
    return [str(rule.get("text")).lower() for rule in chain["rules"]]


def _speaks(rule: dict[str, Any], port: int, target: str) -> bool:
    text = str(rule.get("text")).lower()
    return target in text and str(port) in _PORT.findall(text)


def _words(rule: dict[str, Any]) -> list[str]:
    return str(rule.get("text")).replace(",", " ").split()

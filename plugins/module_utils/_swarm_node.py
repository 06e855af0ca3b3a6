# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nodes of a Swarm as a manager sees them: which are to become active, and how one leaves and joins again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._engine_api import Api, EngineError
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal

ACTIVE = "active"
NODE_ID = re.compile(r"[0-9a-z]{25}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
ADDRESS = "ADDRESS"
TRIES = 3


@dataclass(frozen=True)
class Node:
    """One node, and the whole of its specification, which an update has to send back."""

    id: str
    name: str
    availability: str
    version: int
    spec: dict[str, Any]
    manager: bool
    manager_address: str | None


def node_of(row: dict[str, Any]) -> Node:
    """A row of GET /nodes."""
    spec, manager = row.get("Spec") or {}, row.get("ManagerStatus") or {}
    return Node(
        id=str(row["ID"]),
        name=str((row.get("Description") or {}).get("Hostname") or ""),
        availability=str(spec.get("Availability") or ""),
        version=int((row.get("Version") or {}).get("Index") or 0),
        spec=spec,
        manager=bool(manager) or spec.get("Role") == "manager",
        manager_address=str(manager["Addr"]) if manager.get("Addr") else None,
    )


def read_nodes(api: Api) -> list[Node]:
    """All nodes.

    @raises EngineError: this engine is no manager of a Swarm with a quorum.
    """
    swarm = (api.get("/info") or {}).get("Swarm") or {}
    if not swarm.get("ControlAvailable"):
        raise EngineError("This host is no manager of a Swarm: nodes are changed on a manager.")
    return [node_of(row) for row in api.get("/nodes") or []]


def choose(nodes: list[Node], names: list[str]) -> list[Node]:
    """The nodes of these ids or host names, once each.

    @raises EngineError: one is not there, or a host name stands for several.
    """
    chosen: dict[str, Node] = {}
    for name in names:
        found = [node for node in nodes if name in (node.id, node.name)] if name else []
        if not found:
            raise EngineError(f"The Swarm has no node {name!r}.")
        if len(found) > 1:
            ids = ", ".join(node.id for node in found)
            raise EngineError(f"{len(found)} nodes are called {name!r}: name one by its id ({ids}).")
        if not NODE_ID.fullmatch(found[0].id):
            raise EngineError(f"{found[0].id!r} is not the id of a node.")
        chosen[found[0].id] = found[0]
    return list(chosen.values())


def undo(node: Node) -> list[str]:
    """What gives a node its availability back."""
    return ["docker", "node", "update", "--availability", node.availability, node.id]


def activate(api: Api, node: Node, journal: Journal) -> None:
    """Set one node active. Its version tells the manager which state was read; one that is older is refused.

    @raises EngineError: the manager refused.
    @raises JournalError: what undoes it could not be noted; the node was not changed.
    """
    journal.command(undo(node))
    for left in reversed(range(TRIES)):
        try:
            api.post(f"/nodes/{node.id}/update?version={node.version}", {**node.spec, "Availability": ACTIVE})
            return
        except EngineError as exc:
            if not left or "out of sequence" not in str(exc):
                raise
        node = next(one for one in read_nodes(api) if one.id == node.id)


def own_plan(info: dict[str, Any]) -> list[str]:
    """The plan for the very node that answers, from what it knows itself: a worker, or a manager without a quorum.

    @param info: the answer to GET /info.
    @raises EngineError: it is in no Swarm.
    """
    swarm = info.get("Swarm") or {}
    identifier = str(swarm.get("NodeID") or "")
    if not NODE_ID.fullmatch(identifier):
        raise EngineError("This host is in no Swarm: there is nothing to leave.")
    name = str(info.get("Name") or "")
    known = {str(one.get("NodeID")): str(one.get("Addr")) for one in swarm.get("RemoteManagers") or []}
    own = known.pop(identifier, None)
    if own is not None and not known:
        return [only_manager(name if NAME.fullmatch(name) else identifier)]
    entrance = next(iter(known.values()), "MANAGER:2377")
    return steps(name if NAME.fullmatch(name) else identifier, identifier, "a manager", entrance, own is not None)


def rejoin_plan(nodes: list[Node], node: Node) -> list[str]:
    """How a node leaves and joins again, step by step. Tokens are read by whoever runs it, and are not part of it."""
    others = [one for one in nodes if one.manager and one.id != node.id]
    name = node.name if NAME.fullmatch(node.name) else node.id
    if not others:
        return [only_manager(name)]
    entrance = next((one.manager_address for one in others if one.manager_address), "MANAGER:2377")
    manager = others[0].name if NAME.fullmatch(others[0].name) else others[0].id
    return steps(name, node.id, manager, entrance, node.manager)


def only_manager(name: str) -> str:
    return (
        f"{name} is the only manager: if it left, the Swarm would end. Make another node a manager first "
        "(docker node promote NODE), or correct it in place, which keeps services and networks, on "
        f"{name}: docker swarm init --force-new-cluster --advertise-addr {ADDRESS}"
    )


def steps(name: str, identifier: str, manager: str, entrance: str, is_manager: bool) -> list[str]:
    """The commands, each with the host it is for."""
    role = "manager" if is_manager else "worker"
    first = [f"on {manager}: docker node update --availability drain {identifier}"]
    if is_manager:
        first.append(f"on {manager}: docker node demote {identifier}")
    join = f"docker swarm join --advertise-addr {ADDRESS} --data-path-addr {ADDRESS} --token TOKEN {entrance}"
    return [
        *first,
        f"on {name}: docker swarm leave",
        f"on {manager}: docker node rm {identifier}   # when docker node ls shows it as down",
        f"on {manager}: docker swarm join-token {role}   # prints the token for the next step",
        f"on {name}: {join}   # {ADDRESS}: the one of {name} that the other nodes reach",
        f"on {manager}: set labels of {identifier} again on the new node, whose id is another one",
    ]

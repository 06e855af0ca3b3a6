# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What hosts of a Swarm say to one another, and from which addresses, as one host knows it."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.crosshost.doctor.plugins.module_utils import _routes

DOCUMENTATION = r"""
name: swarm_traffic
short_description: What the other hosts of a Swarm send to a host, and their addresses
version_added: 0.1.0
author:
  - crosshost.doctor contributors (@crosshost)
description:
  - Reads the facts of M(crosshost.doctor.overlay_facts) and tells what has to pass the host's packet filter for its
    Swarm to work.
  - Nothing is assumed that the host knows. The tunnel's port is that of its VXLAN devices and of its Swarm. Gossip is
    on 7946, which no engine lets anybody change.
positional: _input
options:
  _input:
    description:
      - The facts C(ansible_facts.crosshost.overlay_facts) of a host, with the sections V(netns), V(engine), V(swarm)
        and V(networks).
    type: dict
    required: true
  others:
    description:
      - Facts of more hosts. Those of the same Swarm add the addresses they know. A worker knows the managers, and the
        hosts with whom it shares a network; a manager knows all.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: Show what has to pass
  ansible.builtin.debug:
    msg: "{{ ansible_facts.crosshost.overlay_facts | crosshost.doctor.swarm_traffic }}"
"""

RETURN = r"""
_value:
  description:
    - C(services) is a list of C(protocol) and, except for ESP, C(port). With C(answers) it is what comes back from that
      port of the peers, on connections the host opened. C(peers) is a list of addresses.
    - Both are empty on a host that is in no Swarm.
  type: dict
  sample:
    services:
      - {protocol: udp, port: 4789}
      - {protocol: tcp, port: 7946}
      - {protocol: udp, port: 7946}
      - {protocol: tcp, port: 2377, answers: true}
      - {protocol: tcp, port: 7946, answers: true}
    peers: [192.0.2.12, 192.0.2.13]
"""

GOSSIP = 7946
MANAGEMENT = 2377
Facts = dict[str, t.Any]


def swarm_traffic(facts: Facts, others: t.Sequence[Facts] = ()) -> dict[str, t.Any]:
    """See DOCUMENTATION."""
    try:
        swarm = facts["swarm"]
        if swarm["state"] in (None, "inactive"):
            return {"services": [], "peers": []}
        own = {one["ip"] for space in facts["namespaces"] if space["kind"] == "host" for one in space["addresses"]}
        peers = set(_routes.peers(facts))
        for other in others:
            if identities(swarm) & identities(other["swarm"]):
                peers |= set(_routes.peers(other))
        found = sorted(peers - own)
        return {"services": [*tunnels(facts), *control(facts), *encrypted(facts)], "peers": found}
    except (KeyError, TypeError) as exc:
        raise AnsibleFilterError(f"swarm_traffic takes the facts of crosshost.doctor.overlay_facts: {exc!r}") from exc


def identities(swarm: Facts) -> set[str]:
    """What two hosts of one Swarm have in common: a worker does not know the cluster's id, but its managers."""
    found = {swarm["cluster_id"], swarm["node_id"], *(row["node_id"] for row in swarm["managers"])}
    return {one for one in found if one}


def tunnels(facts: Facts) -> list[Facts]:
    """The data path: the Swarm's port, and the port of every tunnel in an overlay's namespace."""
    ports = {facts["swarm"]["data_path_port"]}
    for space in facts["namespaces"]:
        if space["kind"] in ("overlay", "ingress"):
            ports |= {link["vxlan"]["port"] for link in space["links"] if link["vxlan"]}
    return [{"protocol": "udp", "port": port} for port in sorted(port for port in ports if port)]


def control(facts: Facts) -> list[Facts]:
    """Gossip, on a manager its own port, and the answers of the peers' gossip and of the other managers."""
    rows: list[Facts] = [{"protocol": protocol, "port": GOSSIP} for protocol in ("tcp", "udp")]
    swarm = facts["swarm"]
    managers = {row["node_id"]: management_port(row["addr"]) for row in swarm["managers"]}
    own = managers.pop(swarm["node_id"], MANAGEMENT)
    if swarm["control_available"]:
        rows.append({"protocol": "tcp", "port": own})
    asked = sorted({GOSSIP, *managers.values()})
    return rows + [{"protocol": "tcp", "port": port, "answers": True} for port in asked]


def management_port(address: str | None) -> int:
    """Of a manager's address and port; the engine's own where it says none."""
    port = str(address or "").rpartition(":")[2]
    return int(port) if port.isdigit() else MANAGEMENT


def encrypted(facts: Facts) -> list[Facts]:
    wanted = any("encrypted" in (network["options"] or {}) for network in facts["networks"])
    return [{"protocol": "esp"}] if wanted else []


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"swarm_traffic": swarm_traffic}

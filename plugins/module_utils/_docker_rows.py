# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From the engine's answers to facts: pure functions, and the list of what may leave the host.

Nothing is copied wholesale. Join tokens, unlock keys, certificates, environment, commands, mounts and labels have no
place here; a key that an engine of tomorrow adds does not appear until somebody adds it to a row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

OVERLAY_VNI = "com.docker.network.driver.overlay.vxlanid_list"
DAEMON_KEYS = frozenset(
    (
        "allow-direct-routing",
        "bip",
        "bridge",
        "cluster-advertise",
        "cluster-store",
        "data-root",
        "debug",
        "default-address-pools",
        "default-gateway",
        "default-gateway-v6",
        "default-network-opts",
        "dns",
        "dns-opts",
        "dns-search",
        "experimental",
        "features",
        "firewall-backend",
        "fixed-cidr",
        "fixed-cidr-v6",
        "group",
        "hosts",
        "icc",
        "ip",
        "ip6tables",
        "ip-forward",
        "ip-forward-no-drop",
        "ip-masq",
        "iptables",
        "ipv6",
        "live-restore",
        "mtu",
        "network-control-plane-mtu",
        "storage-driver",
        "swarm-default-advertise-addr",
        "tls",
        "tlsverify",
        "userland-proxy",
    )
)
NETWORK_OPTION_PREFIX = "com.docker.network."
NETWORK_OPTIONS = frozenset(("encrypted", "parent", "macvlan_mode", "ipvlan_mode", "ipvlan_flag"))
TASK_HISTORY = frozenset(("failed", "rejected"))
_USERINFO = re.compile(r"://[^/\s]*@")  # up to the last @: several addresses may each have one


def _table(value: Any) -> Mapping[str, Any]:
    """A JSON object, where the engine also says null."""
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _clean(value: Any) -> str | None:
    """Text, with the ways Go prints nothing as None."""
    text = str(value) if value is not None else ""
    return None if text in ("", "<nil>", "<no value>") else text


def _address(value: Any) -> tuple[str | None, int | None]:
    """(address, prefix) of C(10.0.1.6/24)."""
    ip, _slash, prefix = (_clean(value) or "").partition("/")
    return ip or None, int(prefix) if prefix.isdigit() else None


def _plain(value: Any) -> Any:
    """A configuration value without the credentials a URL may carry."""
    if isinstance(value, str):
        return _USERINFO.sub("://***@", value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def daemon_config(config: Any) -> dict[str, Any]:
    """The keys of daemon.json that shape networking."""
    return {key: _plain(value) for key, value in sorted(_table(config).items()) if key in DAEMON_KEYS}


def engine_row(info: Mapping[str, Any], version: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the C(engine) facts that the engine itself tells."""
    backend = _table(info.get("FirewallBackend"))
    return {
        "id": _clean(info.get("ID")),
        "name": _clean(info.get("Name")),
        "version": _clean(info.get("ServerVersion") or version.get("Version")),
        "api_version": _clean(version.get("ApiVersion")),
        "storage_driver": _clean(info.get("Driver")),
        "live_restore": info.get("LiveRestoreEnabled"),
        "security_options": [str(option) for option in _list(info.get("SecurityOptions"))],
        "firewall_backend": {
            "driver": _clean(backend.get("Driver")),
            "info": {str(pair[0]): str(pair[1]) for pair in _list(backend.get("Info")) if len(_list(pair)) == 2},
        }
        if backend
        else None,
        "data_root": _clean(info.get("DockerRootDir")),
    }


def swarm_row(swarm: Mapping[str, Any]) -> dict[str, Any]:
    """The C(swarm) facts that every node has, from the Swarm part of the engine's information."""
    cluster = _table(swarm.get("Cluster"))
    active = swarm.get("LocalNodeState") in ("active", "pending", "locked", "error")
    return {
        "state": _clean(swarm.get("LocalNodeState")),
        "error": _clean(swarm.get("Error")),
        "node_id": _clean(swarm.get("NodeID")),
        "node_addr": _clean(swarm.get("NodeAddr")),
        "role": ("manager" if swarm.get("ControlAvailable") else "worker") if active else None,
        "control_available": bool(swarm.get("ControlAvailable")),
        "cluster_id": _clean(cluster.get("ID")),
        "data_path_port": cluster.get("DataPathPort") or None,
        "managers": [
            {"node_id": _clean(_table(manager).get("NodeID")), "addr": _clean(_table(manager).get("Addr"))}
            for manager in _list(swarm.get("RemoteManagers"))
        ],
    }


def node_row(node: Mapping[str, Any]) -> dict[str, Any]:
    """One node as a manager sees it."""
    spec, status = _table(node.get("Spec")), _table(node.get("Status"))
    description = _table(node.get("Description"))
    manager = _table(node.get("ManagerStatus"))
    return {
        "id": _clean(node.get("ID")),
        "hostname": _clean(description.get("Hostname")),
        "role": _clean(spec.get("Role")),
        "availability": _clean(spec.get("Availability")),
        "state": _clean(status.get("State")),
        "message": _clean(status.get("Message")),
        "addr": _clean(status.get("Addr")),
        "engine_version": _clean(_table(description.get("Engine")).get("EngineVersion")),
        "os": _clean(_table(description.get("Platform")).get("OS")),
        "manager": {
            "leader": bool(manager.get("Leader")),
            "reachability": _clean(manager.get("Reachability")),
            "addr": _clean(manager.get("Addr")),
        }
        if manager
        else None,
    }


def managers_view(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The managers of the cluster as one of them sees them, from its nodes."""
    return [
        {
            "node_id": node["id"],
            "addr": node["manager"]["addr"],
            "leader": node["manager"]["leader"],
            "reachability": node["manager"]["reachability"],
        }
        for node in nodes
        if node["manager"]
    ]


def service_row(service: Mapping[str, Any]) -> dict[str, Any]:
    """One service: its name, virtual addresses and published ports."""
    endpoint, spec = _table(service.get("Endpoint")), _table(service.get("Spec"))
    mode = _table(endpoint.get("Spec")).get("Mode") or _table(spec.get("EndpointSpec")).get("Mode")
    return {
        "id": _clean(service.get("ID")),
        "name": _clean(spec.get("Name")),
        "endpoint_mode": _clean(mode),
        "vips": [
            {"network_id": _clean(_table(vip).get("NetworkID")), "ip": _address(_table(vip).get("Addr"))[0]}
            for vip in _list(endpoint.get("VirtualIPs"))
        ],
        "ports": [
            {
                "protocol": _clean(_table(port).get("Protocol")),
                "target": _table(port).get("TargetPort"),
                "published": _table(port).get("PublishedPort"),
                "mode": _clean(_table(port).get("PublishMode")),
            }
            for port in _list(endpoint.get("Ports"))
        ],
    }


def task_row(task: Mapping[str, Any]) -> dict[str, Any]:
    """One task: where it runs and which addresses it has on which network."""
    status = _table(task.get("Status"))
    addresses = [
        {"network_id": _clean(_table(_table(attachment).get("Network")).get("ID")), "ip": _address(address)[0]}
        for attachment in _list(task.get("NetworksAttachments"))
        for address in _list(_table(attachment).get("Addresses"))
    ]
    return {
        "id": _clean(task.get("ID")),
        "service_id": _clean(task.get("ServiceID")),
        "node_id": _clean(task.get("NodeID")),
        "container_id": _clean(_table(status.get("ContainerStatus")).get("ContainerID")),
        "state": _clean(status.get("State")),
        "desired": _clean(task.get("DesiredState")),
        "error": _clean(status.get("Err")),
        "addresses": addresses,
    }


def relevant_tasks(tasks: list[Any]) -> list[Mapping[str, Any]]:
    """Tasks that are meant to run, and of each service on each node the newest that failed or was rejected."""
    kept: list[Mapping[str, Any]] = []
    failed: dict[tuple[Any, Any], Mapping[str, Any]] = {}
    for task in map(_table, tasks):
        status = _table(task.get("Status"))
        if task.get("DesiredState") not in ("shutdown", "remove"):
            kept.append(task)
        elif status.get("State") in TASK_HISTORY:
            place = (task.get("ServiceID"), task.get("NodeID"))
            known = failed.get(place)
            if known is None or str(status.get("Timestamp")) > str(_table(known.get("Status")).get("Timestamp")):
                failed[place] = task
    return kept + list(failed.values())


def network_options(options: Any) -> dict[str, str]:
    """Options of Docker's own drivers; those of third-party drivers may hold credentials and stay behind."""
    return {
        str(key): str(value)
        for key, value in sorted(_table(options).items())
        if str(key).startswith(NETWORK_OPTION_PREFIX) or key in NETWORK_OPTIONS
    }


def network_row(network: Mapping[str, Any]) -> dict[str, Any]:
    """One network, from a listing or, with peers and services, from a verbose inspection."""
    options = network_options(network.get("Options"))
    return {
        "id": _clean(network.get("Id")),
        "name": _clean(network.get("Name")),
        "driver": _clean(network.get("Driver")),
        "scope": _clean(network.get("Scope")),
        "ingress": bool(network.get("Ingress")),
        "internal": bool(network.get("Internal")),
        "attachable": bool(network.get("Attachable")),
        "ipv6": bool(network.get("EnableIPv6")),
        "options": options,
        "subnets": [
            {"subnet": _clean(_table(pool).get("Subnet")), "gateway": _clean(_table(pool).get("Gateway"))}
            for pool in _list(_table(network.get("IPAM")).get("Config"))
        ],
        "vnis": [int(vni) for vni in options.get(OVERLAY_VNI, "").split(",") if vni.isdigit()],
        "peers": [
            {"name": _clean(_table(peer).get("Name")), "ip": _clean(_table(peer).get("IP"))}
            for peer in _list(network.get("Peers"))
        ],
        "local": _local_endpoints(network.get("Containers")),
        "services": [_network_service(name, service) for name, service in _table(network.get("Services")).items()],
    }


def _local_endpoints(containers: Any) -> list[dict[str, Any]]:
    """This node's endpoints as libnetwork knows them, its load balancer (C(lb-NAME), C(ingress-sbox)) included."""
    rows = []
    for owner, endpoint in _table(containers).items():
        ip, prefix = _address(_table(endpoint).get("IPv4Address"))
        row = {"owner": str(owner), "endpoint_id": _clean(_table(endpoint).get("EndpointID")), "ip": ip}
        rows.append(dict(row, prefix=prefix, mac=_clean(_table(endpoint).get("MacAddress"))))
    return rows


def _network_service(name: str, service: Any) -> dict[str, Any]:
    entry = _table(service)
    return {
        "name": name,
        "vip": _clean(entry.get("VIP")),
        "ports": [str(port) for port in _list(entry.get("Ports"))],
        "tasks": [
            {
                "name": _clean(_table(task).get("Name")),
                "endpoint_id": _clean(_table(task).get("EndpointID")),
                "ip": _address(_table(task).get("EndpointIP"))[0],
                "vtep": _clean(_table(_table(task).get("Info")).get("Host IP")),
            }
            for task in _list(entry.get("Tasks"))
        ],
    }


def container_row(listed: Mapping[str, Any], inspected: Mapping[str, Any]) -> dict[str, Any]:
    """One container from its line in the listing and its inspection; C(netns) and C(dns) are for the caller to fill.

    Two labels are read, those by which Swarm itself marks a task's container.
    """
    labels = _table(_table(inspected.get("Config")).get("Labels") or listed.get("Labels"))
    state = _table(inspected.get("State"))
    name = _clean(inspected.get("Name")) or next(iter(_list(listed.get("Names"))), None) or ""
    return {
        "id": _clean(inspected.get("Id") or listed.get("Id")),
        "name": name.lstrip("/"),
        "image": _clean(_table(inspected.get("Config")).get("Image") or listed.get("Image")),
        "state": _clean(state.get("Status") or listed.get("State")),
        "pid": state.get("Pid") or None,
        "netns": None,
        "network_mode": _clean(_table(inspected.get("HostConfig") or listed.get("HostConfig")).get("NetworkMode")),
        "service": _clean(labels.get("com.docker.swarm.service.name")),
        "task": _clean(labels.get("com.docker.swarm.task.id")),
        "ports": [
            {
                "protocol": _clean(_table(port).get("Type")),
                "port": _table(port).get("PrivatePort"),
                "host_ip": _clean(_table(port).get("IP")),
                "host_port": _table(port).get("PublicPort"),
            }
            for port in _list(listed.get("Ports"))
        ],
        "dns": {"nameservers": [], "search": [], "options": [], **_dns(inspected)},
        "endpoints": [
            _endpoint(network, endpoint)
            for network, endpoint in _table(
                _table(inspected.get("NetworkSettings") or listed.get("NetworkSettings")).get("Networks")
            ).items()
        ],
    }


def _dns(inspected: Mapping[str, Any]) -> dict[str, Any]:
    """The name servers a container was started with, and whether its resolv.conf is a file of the user's."""
    host = _table(inspected.get("HostConfig"))
    mounts = [_table(mount).get("Destination") for mount in _list(inspected.get("Mounts"))]
    mounts += [":".join(str(bind).split(":")[1:2]) for bind in _list(host.get("Binds"))]
    return {
        "upstreams": [str(server) for server in _list(host.get("Dns")) if server],
        "mounted": "/etc/resolv.conf" in mounts,
    }


def _endpoint(network: str, endpoint: Any) -> dict[str, Any]:
    entry = _table(endpoint)
    return {
        "network_id": _clean(entry.get("NetworkID")),
        "network": network,
        "endpoint_id": _clean(entry.get("EndpointID")),
        "ip": _clean(entry.get("IPAddress")),
        "prefix": entry.get("IPPrefixLen") or None,
        "mac": _clean(entry.get("MacAddress")),
        "gateway": _clean(entry.get("Gateway")),
        "ip6": _clean(entry.get("GlobalIPv6Address")),
        "aliases": [str(alias) for alias in _list(entry.get("Aliases"))],
    }


def resolv_conf(text: str) -> dict[str, list[str]]:
    """Name servers, search list and options of a resolv.conf, by the rules of resolv.conf(5).

    The last C(search) or C(domain) line wins, the resolver uses no more than three name servers.
    """
    dns: dict[str, list[str]] = {"nameservers": [], "search": [], "options": []}
    for line in text.splitlines():
        fields = line.split()
        # A comment begins in the first column; a word after it may begin one in musl and systemd.
        if not fields or fields[0][0] in "#;":
            continue
        values = []
        for field in fields[1:]:
            if field[0] in "#;":
                break
            values.append(field)
        if fields[0] == "nameserver" and values and len(dns["nameservers"]) < 3:
            dns["nameservers"].append(values[0])
        elif fields[0] in ("search", "domain"):
            dns["search"] = values if fields[0] == "search" else values[:1]
        elif fields[0] == "options":
            dns["options"].extend(values)
    return dns

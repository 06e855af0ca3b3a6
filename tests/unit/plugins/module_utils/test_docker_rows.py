# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _docker_rows as rows

# Answers of dockerd 20.10.24 (Debian 12, API 1.41), shortened; secrets are made up.
SWARM = {
    "NodeID": "igt3bct6twlph0chekyiz1qmr",
    "NodeAddr": "192.0.2.11",
    "LocalNodeState": "active",
    "ControlAvailable": True,
    "Error": "",
    "RemoteManagers": [{"NodeID": "igt3bct6twlph0chekyiz1qmr", "Addr": "192.0.2.11:2377"}],
    "Cluster": {
        "ID": "ofe0gxpwpzzy3dgdhtcpgiu8u",
        "Spec": {"CAConfig": {"SigningCAKey": "SECRET"}},
        "TLSInfo": {"TrustRoot": "SECRET"},
        "JoinTokens": {"Worker": "SECRET"},
        "DataPathPort": 4789,
    },
}
NODE = {
    "ID": "igt3bct6twlph0chekyiz1qmr",
    "Spec": {"Labels": {"secret": "SECRET"}, "Role": "manager", "Availability": "active"},
    "Description": {
        "Hostname": "node1",
        "Platform": {"Architecture": "x86_64", "OS": "linux"},
        "Engine": {"EngineVersion": "20.10.24+dfsg1", "Labels": {"secret": "SECRET"}},
        "TLSInfo": {"TrustRoot": "SECRET"},
    },
    "Status": {"State": "ready", "Addr": "192.0.2.11"},
    "ManagerStatus": {"Leader": True, "Reachability": "reachable", "Addr": "192.0.2.11:2377"},
}
NETWORK = {
    "Name": "app",
    "Id": "7h6828w6y7jkhsry9ns84h753",
    "Scope": "swarm",
    "Driver": "overlay",
    "EnableIPv6": False,
    "IPAM": {"Driver": "default", "Options": None, "Config": [{"Subnet": "10.0.1.0/24", "Gateway": "10.0.1.1"}]},
    "Internal": False,
    "Attachable": True,
    "Ingress": False,
    "Containers": {
        "lb-app": {
            "Name": "app-endpoint",
            "EndpointID": "5a5c55c7",
            "MacAddress": "02:42:0a:00:01:07",
            "IPv4Address": "10.0.1.7/24",
            "IPv6Address": "",
        }
    },
    "Options": {"com.docker.network.driver.overlay.vxlanid_list": "4097", "weave.password": "SECRET"},
    "Labels": {"secret": "SECRET"},
    "Peers": [{"Name": "39c27df89bc4", "IP": "192.0.2.13"}],
    "Services": {
        "": {
            "VIP": "<nil>",
            "Ports": [],
            "LocalLBIndex": 0,
            "Tasks": [
                {
                    "Name": "app-node3",
                    "EndpointID": "d1780ab5",
                    "EndpointIP": "10.0.1.4",
                    "Info": {"Host IP": "192.0.2.13"},
                }
            ],
        }
    },
}
INSPECTED = {
    "Id": "27de117c",
    "Name": "/app-node1",
    "Path": "/httpd",
    "Args": ["--password", "SECRET"],
    "State": {"Status": "running", "Pid": 318},
    "HostConfig": {"NetworkMode": "app", "Binds": ["/SECRET:/x"]},
    "Config": {
        "Image": "httpd:1",
        "Env": ["TOKEN=SECRET"],
        "Cmd": ["SECRET"],
        "Labels": {"com.docker.swarm.service.name": "web", "com.docker.swarm.task.id": "t1", "secret": "SECRET"},
    },
    "NetworkSettings": {
        "Networks": {
            "app": {
                "Aliases": ["27de117cd2be", "app-node1"],
                "NetworkID": "7h6828w6y7jkhsry9ns84h753",
                "EndpointID": "32174219",
                "Gateway": "",
                "IPAddress": "10.0.1.6",
                "IPPrefixLen": 24,
                "GlobalIPv6Address": "",
                "MacAddress": "02:42:0a:00:01:06",
                "DriverOpts": {"secret": "SECRET"},
            }
        }
    },
}
LISTED = {"Id": "27de117c", "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}]}
SERVICE = {
    "ID": "s1",
    "Spec": {
        "Name": "web",
        "Labels": {"secret": "SECRET"},
        "TaskTemplate": {"ContainerSpec": {"Env": ["TOKEN=SECRET"], "Secrets": [{"SecretName": "SECRET"}]}},
    },
    "Endpoint": {
        "Spec": {"Mode": "vip"},
        "Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8081, "PublishMode": "ingress"}],
        "VirtualIPs": [{"NetworkID": "n1", "Addr": "10.0.1.9/24"}],
    },
}


def task(name: str, desired: str, state: str, when: str = "2026", node: str = "n1", error: str = "") -> dict[str, Any]:
    """A task as a manager tells it."""
    return {
        "ID": name,
        "ServiceID": "s1",
        "NodeID": node,
        "DesiredState": desired,
        "Spec": {"ContainerSpec": {"Env": ["TOKEN=SECRET"]}},
        "Status": {"State": state, "Timestamp": when, "Err": error, "ContainerStatus": {"ContainerID": "c1"}},
        "NetworksAttachments": [{"Network": {"ID": "net1", "Spec": {}}, "Addresses": ["10.0.1.10/24"]}],
    }


def test_a_manager_of_a_swarm() -> None:
    row = rows.swarm_row(SWARM)
    assert (row["state"], row["role"], row["data_path_port"]) == ("active", "manager", 4789)
    assert row["managers"] == [{"node_id": "igt3bct6twlph0chekyiz1qmr", "addr": "192.0.2.11:2377"}]
    assert row["error"] is None


def test_an_engine_outside_of_a_swarm_has_no_role() -> None:
    row = rows.swarm_row({"LocalNodeState": "inactive", "ControlAvailable": False, "NodeID": ""})
    assert (row["state"], row["role"], row["node_id"], row["managers"]) == ("inactive", None, None, [])


def test_a_node_as_a_manager_sees_it() -> None:
    row = rows.node_row(NODE)
    assert (row["hostname"], row["state"], row["engine_version"]) == ("node1", "ready", "20.10.24+dfsg1")
    assert row["manager"] == {"leader": True, "reachability": "reachable", "addr": "192.0.2.11:2377"}
    assert rows.node_row({"ID": "worker"})["manager"] is None


def test_a_network_tells_the_vtep_of_each_endpoint() -> None:
    row = rows.network_row(NETWORK)
    assert row["vnis"] == [4097]
    assert row["options"] == {"com.docker.network.driver.overlay.vxlanid_list": "4097"}
    assert row["subnets"] == [{"subnet": "10.0.1.0/24", "gateway": "10.0.1.1"}]
    assert row["peers"] == [{"name": "39c27df89bc4", "ip": "192.0.2.13"}]
    assert row["services"][0]["vip"] is None
    assert row["services"][0]["tasks"] == [
        {"name": "app-node3", "endpoint_id": "d1780ab5", "ip": "10.0.1.4", "vtep": "192.0.2.13"}
    ]
    assert row["local"][0] == {
        "owner": "lb-app",
        "endpoint_id": "5a5c55c7",
        "ip": "10.0.1.7",
        "prefix": 24,
        "mac": "02:42:0a:00:01:07",
    }


def test_the_presence_of_encrypted_is_kept_whatever_its_value() -> None:
    assert rows.network_options({"encrypted": "false"}) == {"encrypted": "false"}
    assert rows.network_options({"encrypted": ""}) == {"encrypted": ""}


def test_a_container_and_its_endpoints() -> None:
    row = rows.container_row(LISTED, INSPECTED)
    assert (row["name"], row["pid"], row["state"], row["network_mode"]) == ("app-node1", 318, "running", "app")
    assert (row["service"], row["task"]) == ("web", "t1")
    assert row["ports"] == [{"protocol": "tcp", "port": 80, "host_ip": "0.0.0.0", "host_port": 8080}]
    assert row["endpoints"][0]["ip"] == "10.0.1.6"
    assert row["endpoints"][0]["gateway"] is None
    assert row["endpoints"][0]["aliases"] == ["27de117cd2be", "app-node1"]


@pytest.mark.parametrize(
    ("inspected", "mounted"),
    [
        ({"Mounts": [{"Destination": "/etc/resolv.conf", "Source": "/SECRET"}]}, True),
        ({"Mounts": [{"Destination": "/etc/hosts"}, None]}, False),
        ({"HostConfig": {"Binds": ["/srv/resolv.conf:/etc/resolv.conf:ro"]}}, True),
        ({"HostConfig": {"Binds": ["/etc/resolv.conf:/host/resolv.conf", "broken"]}}, False),
        ({}, False),
    ],
)
def test_a_resolver_configuration_of_the_users(inspected: dict[str, Any], mounted: bool) -> None:
    row = rows.container_row(LISTED, inspected)
    assert row["dns"]["mounted"] is mounted
    assert "SECRET" not in json.dumps(row)


def test_the_name_servers_a_container_was_started_with() -> None:
    row = rows.container_row(LISTED, dict(INSPECTED, HostConfig={"Dns": ["192.0.2.1", ""]}))
    assert row["dns"]["upstreams"] == ["192.0.2.1"]
    assert rows.container_row(LISTED, INSPECTED)["dns"]["upstreams"] == []


def test_only_managers_are_in_the_view_of_managers() -> None:
    nodes = [rows.node_row(NODE), rows.node_row({"ID": "worker"})]
    assert [one["node_id"] for one in rows.managers_view(nodes)] == [NODE["ID"]]


def test_a_service_and_its_virtual_address() -> None:
    row = rows.service_row(SERVICE)
    assert (row["name"], row["endpoint_mode"]) == ("web", "vip")
    assert row["vips"] == [{"network_id": "n1", "ip": "10.0.1.9"}]
    assert row["ports"] == [{"protocol": "tcp", "target": 80, "published": 8081, "mode": "ingress"}]


def test_of_ended_tasks_the_newest_failure_of_each_place_is_kept() -> None:
    tasks = [
        task("running", "running", "running"),
        task("pending", "running", "pending", error="no suitable node"),
        task("old", "shutdown", "failed", when="2026-01"),
        task("new", "shutdown", "rejected", when="2026-02", error="Pool overlaps"),
        task("elsewhere", "shutdown", "failed", node="n2"),
        task("done", "shutdown", "shutdown"),
        task("complete", "shutdown", "complete"),
    ]
    kept = [rows.task_row(one)["id"] for one in rows.relevant_tasks(tasks)]
    assert kept == ["running", "pending", "new", "elsewhere"]
    assert rows.task_row(tasks[3])["error"] == "Pool overlaps"
    assert rows.task_row(tasks[0])["addresses"] == [{"network_id": "net1", "ip": "10.0.1.10"}]


def test_the_configuration_of_the_daemon_loses_what_is_not_networking_and_credentials() -> None:
    config = {
        "mtu": 1450,
        "hosts": ["unix:///run/docker.sock"],
        "cluster-advertise": "etcd://user:SECRET@192.0.2.1/path",
        "cluster-store": "etcd://user:SECRET@192.0.2.1,user:SECRET@192.0.2.2/path",
        "tlskey": "/etc/SECRET",
        "labels": ["SECRET"],
        "log-opts": {"splunk-token": "SECRET"},
    }
    assert rows.daemon_config(config) == {
        "cluster-advertise": "etcd://***@192.0.2.1/path",
        "cluster-store": "etcd://***@192.0.2.2/path",
        "hosts": ["unix:///run/docker.sock"],
        "mtu": 1450,
    }
    assert rows.daemon_config(None) == {}
    assert rows.daemon_config([1]) == {}


def test_no_secret_of_any_answer_becomes_a_fact() -> None:
    info = {"ID": "x", "Swarm": SWARM, "HttpProxy": "http://user:SECRET@proxy", "Labels": ["SECRET"]}
    everything = [
        rows.engine_row(info, {"ApiVersion": "1.41"}),
        rows.swarm_row(SWARM),
        rows.node_row(NODE),
        rows.network_row(NETWORK),
        rows.container_row(LISTED, INSPECTED),
        rows.service_row(SERVICE),
        rows.task_row(task("t", "running", "running")),
    ]
    assert "SECRET" not in json.dumps(everything)


READERS: list[Any] = [
    rows.swarm_row,
    rows.node_row,
    rows.service_row,
    rows.task_row,
    rows.network_row,
    rows.daemon_config,
    lambda answer: rows.engine_row(answer, answer),
    lambda answer: rows.container_row(answer, answer),
    lambda answer: rows.relevant_tasks([answer]),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
REAL = [SWARM, NODE, NETWORK, INSPECTED, LISTED, SERVICE, task("t", "running", "running")]


@st.composite
def distorted(draw: Any) -> Any:
    """An answer of the engine in which one value, somewhere, is of another kind."""
    answer = json.loads(json.dumps(draw(st.sampled_from(REAL))))
    place = answer
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = draw(st.sampled_from(list(keys)))
        inner = place[key]
        if isinstance(inner, (dict, list)) and inner and draw(st.booleans()):
            place = inner
            continue
        place[key] = draw(JSON)
        return answer


@pytest.mark.parametrize("read", READERS)
@given(answer=distorted())
def test_an_answer_of_another_shape_does_not_end_the_reading(read: Any, answer: Any) -> None:
    json.dumps(read(answer), default=str)


@pytest.mark.parametrize("read", READERS[:-1])
@given(answer=JSON.filter(lambda value: isinstance(value, dict)))
def test_any_answer_has_a_row(read: Any, answer: Any) -> None:
    assert isinstance(read(answer), dict)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "# made by the engine\nsearch example.test a.test\nnameserver 127.0.0.11\noptions edns0 trust-ad ndots:0\n",
            {
                "nameservers": ["127.0.0.11"],
                "search": ["example.test", "a.test"],
                "options": ["edns0", "trust-ad", "ndots:0"],
            },
        ),
        (
            "search first\ndomain second third\n",
            {"nameservers": [], "search": ["second"], "options": []},
        ),
        (
            "nameserver 192.0.2.1 # why\nnameserver 192.0.2.2\n;nameserver 192.0.2.9\nnameserver ::1\nnameserver ::2\n",
            {"nameservers": ["192.0.2.1", "192.0.2.2", "::1"], "search": [], "options": []},
        ),
        ("nameserver\noptions\nnonsense\n\n", {"nameservers": [], "search": [], "options": []}),
    ],
)
def test_resolver_configurations(text: str, expected: dict[str, list[str]]) -> None:
    assert rows.resolv_conf(text) == expected


@given(st.text())
def test_any_text_is_a_resolver_configuration(text: str) -> None:
    found = rows.resolv_conf(text)
    assert set(found) == {"nameservers", "search", "options"}
    assert len(found["nameservers"]) <= 3

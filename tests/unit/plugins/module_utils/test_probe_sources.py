# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where probes start: namespaces that are there, that vanish, and hosts where one is not root."""

from __future__ import annotations

import os
import threading

import pytest

from ansible_collections.crosshost.doctor.plugins.module_utils import _netns
from tests.unit.descriptors import nothing_left_open
from tests.unit.plugins.module_utils import probe_network as net

pytestmark = [pytest.mark.root, pytest.mark.skipif(not net.is_root(), reason="needs root")]

CLOSED = {"layer": "tcp", "address": "127.0.0.1", "port": 9}


@pytest.fixture(scope="module")
def network():
    network = net.Network()
    yield network
    network.close()


def test_probes_start_where_they_are_told_to(network):
    before = os.readlink("/proc/self/ns/net")
    one = {"layer": "tcp", "address": net.ROUTER, "port": 9}
    two = {"layer": "tcp", "address": net.FAR_ROUTER, "port": 9}
    report = net.probe_all(
        {"netns": network.client.path, "probes": [{"id": "client", **one}]},
        {"netns": network.server.path, "probes": [{"id": "server", **two}]},
        {"netns": None, "probes": [{"id": "host", **CLOSED}]},
    )
    assert [r["local"] for r in report["results"]] == [net.CLIENT, net.SERVER, "127.0.0.1"]
    assert os.readlink("/proc/self/ns/net") == before


@pytest.mark.parametrize("kind", ["gone", "file", "fifo", "other namespace", "no path"])
def test_namespace_that_cannot_be_entered_costs_its_own_probes_only(network, tmp_path, kind):
    path = tmp_path / "namespace"
    if kind == "file":
        path.touch()
    elif kind == "fifo":
        os.mkfifo(path)
    source = {
        "container": "web",
        "netns": {"other namespace": network.client.path, "no path": None}.get(kind, str(path)),
        "inode": "1" if kind == "other namespace" else None,
        "probes": [{"id": f"w{n}", **probe} for n, probe in enumerate(net.all_layers("127.0.0.1"))],
    }
    with nothing_left_open():
        report = net.probe_all(source, {"netns": network.client.path, "probes": [{"id": "ok", **CLOSED}]})
    assert path.exists() == (kind in ("file", "fifo"))  # looking creates nothing
    for result in report["results"][:-1]:
        assert (result["status"], result["sent"]) == ("error", 0)
        assert "network namespace" in result["detail"]
    assert report["results"][-1]["status"] == "refused"
    assert [(entry["section"], entry["what"]) for entry in report["missing"]] == [("namespace", "web")]


def test_container_that_ends_meanwhile_does_not_stop_its_probes():
    node = net.Node()
    node.ip("link", "add", "d0", "type", "bridge")
    node.ip("address", "add", "192.0.2.10/24", "dev", "d0")
    node.ip("link", "set", "d0", "up")
    node.filter("output", policy="drop")
    timer = threading.Timer(0.1, node.close)
    timer.start()
    result = net.only(net.probe({"layer": "tcp", "address": "192.0.2.20", "port": 9}, node=node, timeout=0.6))
    timer.join()
    assert (result["status"], result["sent"]) == ("timeout", 2)  # the second was made when the path was gone


# -- without root ------------------------------------------------------------------------------------------------------

UNPRIVILEGED = """
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    probes = [{"layer": "icmp", "address": a} for a in ("127.0.0.1", "::1")]
    probes += [{"layer": "tcp", "address": "127.0.0.1", "port": 9}, {"layer": "udp", "address": "127.0.0.1", "port": 9}]
    probes += [{"layer": "icmp", "address": net.SERVER}]
    print(json.dumps(net.probe(*probes, timeout=10)))
"""


def unprivileged(node: net.Node) -> dict:
    """The report of probes made inside the namespace by nobody."""
    with _netns.inside(node.path):
        return net.run_apart(UNPRIVILEGED)


def test_without_root_echoes_go_through_ping_sockets(network):
    network.client.sysctl("net.ipv4.ping_group_range", "0 2147483647")
    network.router.filter("forward", "reject with icmpx type admin-prohibited")
    try:
        report = unprivileged(network.client)
    finally:
        network.client.sysctl("net.ipv4.ping_group_range", "1 0")
        network.reset()
    four, six, tcp, udp, rejected = report["results"]
    assert [r["status"] for r in (four, six, tcp, udp)] == ["ok", "ok", "refused", "refused"]
    assert (four["received"], four["ttl"]) == (3, 64)
    assert (six["received"], six["ttl"]) == (3, 64)
    assert rejected["status"] == "unreachable"
    assert (rejected["icmp_error"]["name"], rejected["icmp_error"]["sender"]) == ("admin-prohibited", net.ROUTER)
    assert report["missing"] == []


def test_without_root_and_ping_sockets_the_rest_is_probed(network):
    report = unprivileged(network.client)
    four, six, tcp, udp, _far = report["results"]
    assert [r["status"] for r in (four, six, tcp, udp)] == ["error", "error", "refused", "refused"]
    assert "root" in four["detail"]
    assert [entry["section"] for entry in report["missing"]] == ["icmp", "icmp"]

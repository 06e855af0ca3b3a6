# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Three network namespaces in a row for the probes' tests: client - router - server, IPv4 and IPv6.

A namespace lives as long as a C(cat) whose standard input we hold: nothing is left behind, also after a kill -9.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import typing as t

from ansible_collections.crosshost.doctor.plugins.module_utils import _icmp, _netns, _probe

CLIENT, CLIENT6 = "192.0.2.10", "2001:db8:1::10"
SERVER, SERVER6 = "198.51.100.20", "2001:db8:2::20"
ROUTER, ROUTER6 = "192.0.2.1", "2001:db8:1::1"
FAR_ROUTER, FAR_ROUTER6 = "198.51.100.1", "2001:db8:2::1"
ABSENT = "192.0.2.99"  # on the client's link, nobody there
MARK = "test-run"


class Node:
    """A network namespace and what a test does in it."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo ready; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        self.pid = self._holder.pid
        self.path = f"/proc/{self.pid}/ns/net"
        self.ip("link", "set", "lo", "up")

    def run(self, *command: str, stdin: str | None = None) -> str:
        inside = ["nsenter", f"--net={self.path}", *command]
        done = subprocess.run(inside, check=False, input=stdin, text=True, capture_output=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def ip(self, *words: str) -> str:
        return self.run("ip", *words)

    def filter(self, hook: str, *rules: str, policy: str = "accept") -> None:
        """Replace the whole ruleset of the namespace by one base chain."""
        lines = [f"type filter hook {hook} priority 0; policy {policy};", *rules]
        chain = "\n".join(lines)
        self.run("nft", "-f", "-", stdin=f"flush ruleset\ntable inet test {{\nchain test {{\n{chain}\n}}\n}}\n")

    def unfilter(self) -> None:
        self.run("nft", "flush", "ruleset")

    def sysctl(self, key: str, value: object) -> None:
        with _netns.inside(self.path), open(f"/proc/sys/{key.replace('.', '/')}", "w", encoding="ascii") as stream:
            stream.write(str(value))

    def socket(self, family: int, kind: int, address: tuple[str, int]) -> socket.socket:
        """A bound socket in the namespace."""
        with _netns.inside(self.path):
            sock = socket.socket(family, kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        return sock

    def close(self) -> None:
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.wait()
        self._holder.stdout.close()


class Network:
    """client - router - server, forwarding, with default routes."""

    def __init__(self) -> None:
        self.client, self.router, self.server = Node(), Node(), Node()
        self.router.sysctl("net.ipv4.ip_forward", 1)
        self.router.sysctl("net.ipv6.conf.all.forwarding", 1)
        for node in (self.client, self.router, self.server):
            node.sysctl("net.ipv6.conf.default.accept_dad", 0)
            node.sysctl("net.ipv6.conf.all.accept_dad", 0)
        self._link(self.client, (CLIENT, CLIENT6), (ROUTER, ROUTER6), "near")
        self._link(self.server, (SERVER, SERVER6), (FAR_ROUTER, FAR_ROUTER6), "far")
        self._wait()

    def _wait(self) -> None:
        """A fresh link takes a moment until neighbour discovery works on it."""
        for _try in range(20):
            echoes = [{"layer": "icmp", "address": address} for address in (SERVER, SERVER6)]
            results = probe(*echoes, node=self.client, timeout=0.5)["results"]
            if all(result["status"] == "ok" for result in results):
                return
        raise AssertionError(results)

    def _link(self, node: Node, own: tuple[str, str], gateway: tuple[str, str], name: str) -> None:
        node.ip("link", "add", "eth0", "type", "veth", "peer", name, "netns", str(self.router.pid))
        for place, device, addresses in ((node, "eth0", own), (self.router, name, gateway)):
            place.ip("address", "add", f"{addresses[0]}/24", "dev", device)
            place.ip("address", "add", f"{addresses[1]}/64", "dev", device, "nodad")
            place.ip("link", "set", device, "up")
        node.ip("route", "add", "default", "via", gateway[0])
        node.ip("-6", "route", "add", "default", "via", gateway[1])

    def reset(self) -> None:
        """Forget what a test has filtered."""
        for node in (self.client, self.router, self.server):
            node.unfilter()

    def close(self) -> None:
        for node in (self.client, self.server, self.router):
            node.close()


def probe(*probes: dict[str, t.Any], node: Node | None = None, **options: t.Any) -> dict[str, t.Any]:
    """Run probes from one namespace; probes get ids by position. Returns the module's report."""
    source = {"netns": node.path if node else None, **options.pop("source", {})}
    source["probes"] = [{"id": f"p{number}", **one} for number, one in enumerate(probes)]
    return probe_all(source, **options)


def probe_all(*sources: dict[str, t.Any], **options: t.Any) -> dict[str, t.Any]:
    report = _probe.new_report(MARK)
    options = {"count": 3, "interval": 0.02, "timeout": 1.0, **options}
    _probe.run({**options, "sources": list(sources)}, report)
    return report


def only(report: dict[str, t.Any]) -> dict[str, t.Any]:
    (result,) = report["results"]
    return result


@contextlib.contextmanager
def serving(node: Node, handler: t.Callable[[socket.socket], None], family: int = socket.AF_INET) -> t.Iterator[int]:
    """A TCP service in the namespace on a port of its own; C(handler) gets each connection. Yields the port."""
    listener = node.socket(family, socket.SOCK_STREAM, ("0.0.0.0" if family == socket.AF_INET else "::", 0))
    listener.listen(16)
    listener.settimeout(0.1)
    over = threading.Event()

    def accept() -> None:
        while not over.is_set():
            try:
                connection, _address = listener.accept()
            except OSError:
                continue
            with connection:
                connection.settimeout(5)
                with contextlib.suppress(OSError):
                    handler(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        thread.join()
        listener.close()


@contextlib.contextmanager
def answering(
    node: Node, handler: t.Callable[[bytes], t.Iterable[bytes]], port: int = 0, family: int = socket.AF_INET
) -> t.Iterator[int]:
    """A UDP service in the namespace; C(handler) turns each datagram into answers. Yields the port."""
    sock = node.socket(family, socket.SOCK_DGRAM, ("0.0.0.0" if family == socket.AF_INET else "::", port))
    sock.settimeout(0.1)
    over = threading.Event()

    def answer() -> None:
        while not over.is_set():
            try:
                data, sender = sock.recvfrom(65535)
            except OSError:
                continue
            for reply in handler(data):
                sock.sendto(reply, sender)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield sock.getsockname()[1]
    finally:
        over.set()
        thread.join()
        sock.close()


@contextlib.contextmanager
def tap(node: Node) -> t.Iterator[list[bytes]]:
    """What reaches or leaves the node, as a list of frames that is filled when the body ends."""
    frames: list[bytes] = []
    with _netns.inside(node.path):
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with listener:
        yield frames
        listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                frames.append(listener.recv(2048))


@contextlib.contextmanager
def echoing(node: Node, replies: t.Callable[[bytes], list[bytes]]) -> t.Iterator[None]:
    """Answers echo requests in the kernel's place; C(replies) turns the body of a request into those of replies."""
    with _netns.inside(node.path):
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    sock.settimeout(0.1)
    over = threading.Event()

    def answer() -> None:
        while not over.is_set():
            try:
                packet = _icmp.parse_packet(sock.recv(2048))
            except OSError:
                continue
            if packet and packet.body[0] == 8:
                for body in replies(packet.body[4:]):
                    total = _icmp.checksum(bytes(4) + body)
                    sock.sendto(b"\0\0" + total.to_bytes(2, "big") + body, (packet.src, 0))

    thread = threading.Thread(target=answer)
    thread.start()
    node.sysctl("net.ipv4.icmp_echo_ignore_all", 1)
    try:
        yield
    finally:
        node.sysctl("net.ipv4.icmp_echo_ignore_all", 0)
        over.set()
        thread.join()
        sock.close()


def run_apart(code: str, *arguments: str) -> dict:
    """Run code in a process of its own, whose limits and rights it may give up; it prints a report."""
    program = textwrap.dedent(
        """
        import json, os, resource, socket, sys
        from tests.unit.plugins.module_utils import probe_network as net
        """
    ) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def all_layers(address):
    return [
        {"layer": "icmp", "address": address},
        {"layer": "tcp", "address": address, "port": 80},
        {"layer": "udp", "address": address, "port": 99},
        {"layer": "dns", "name": "a.example", "server": address},
        {"layer": "dns", "name": "a.example", "server": address, "transport": "tcp"},
        {"layer": "http", "address": address},
    ]


def is_root() -> bool:
    return os.geteuid() == 0

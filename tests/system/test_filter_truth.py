# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The evaluation of the packet filter against the kernel itself.

A sender, a host in the middle, and one behind it. The middle loads random rule sets (nft, iptables on both backends);
real packets are sent to it, through it and from it, and what arrives is compared with what the evaluator says from
the filter as read over netlink.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import os
import select
import socket
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from ansible_collections.crosshost.doctor.plugins.module_utils import _netfilter, _netns
from ansible_collections.crosshost.doctor.plugins.plugin_utils.filter_eval import (
    FORWARDED,
    INBOUND,
    OUTBOUND,
    Packet,
    counted,
    path_fate,
    prepare,
)
from tests.system import filter_rules as rules

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="creates network namespaces")]

# Ten times as many rule sets with FILTER_TRUTH=10 in the environment, others with another FILTER_TRUTH_FIRST.
_FACTOR = float(os.environ.get("FILTER_TRUTH", "1"))
CASES = int(50 * _FACTOR)
SECONDS = 6 * _FACTOR  # for each way of loading them, on a busy machine
FIRST = int(os.environ.get("FILTER_TRUTH_FIRST", "0"))
PACKETS = 10
_PATHS = {"in": INBOUND, "forward": FORWARDED, "out": OUTBOUND}
_NUMBERS = {"udp": 17, "tcp": 6, "icmp": 1, "icmp6": 58}
_HIDDEN = (
    *"src dst protocol sport dport iif oif ct_state ct_direction mark smac dmac src_type dst_type pkttype".split(),
    *"ttl tos length icmp_type tcp_flags fragment dnat snat".split(),
)
_LOCAL_NAT = ("masquerade", "redirect")
_FLOW = (7001, 7002)


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip_packet(sent: rules.Sent, tag: int) -> bytes:
    """The whole IP packet with right checksums (conntrack calls a wrong one invalid). tag: to know it again."""
    number = _NUMBERS[sent.protocol]
    body = struct.pack(">I", tag) + bytes(sent.size - 4)
    if number == 17:
        head = struct.pack(">4H", sent.sport, sent.dport, 8 + len(body), 0)
    elif number == 6:
        head, body = struct.pack(">HHIIBBHHH", sent.sport, sent.dport, tag, 0, 0x50, sent.flags, 1024, 0, 0), b""
    else:
        head = struct.pack(">BBHHH", sent.icmp_type, 0, 0, tag & 0xFFFF, 1)
    src, dst = ipaddress.ip_address(sent.src).packed, ipaddress.ip_address(sent.dst).packed
    pseudo = b"" if number == 1 else src + dst + struct.pack(">II", len(head) + len(body), number)
    place = {17: 6, 6: 16}.get(number, 2)
    total = checksum(pseudo + head + body)
    head = head[:place] + struct.pack(">H", total or 0xFFFF) + head[place + 2 :]
    if sent.family == 6:
        first = struct.pack(">IHBB", 0x60000000 | sent.tos << 20, len(head + body), number, sent.ttl)
        return first + src + dst + head + body
    first = struct.pack(">BBHHHBBH", 0x45, sent.tos, 20 + len(head + body), tag & 0xFFFF, 0, sent.ttl, number, 0)
    total = checksum(first + src + dst)
    return first[:10] + struct.pack(">H", total) + src + dst + head + body


def tag_of(data: bytes, family: int) -> int | None:
    """The tag of a received packet. IPv6 raw sockets deliver no IP header."""
    if family == 6:
        return None
    number, data = data[9], data[20:]
    return transport_tag(number, data)


def transport_tag(number: int, data: bytes) -> int | None:
    if number == 6:
        return int(struct.unpack_from(">I", data, 4)[0])
    if len(data) < 12:
        return None
    return int(struct.unpack_from(">I", data, 8)[0])


def evaluated(sent: rules.Sent, tag: int) -> Packet:
    """Everything that is known of what was sent."""
    inward = sent.path != "out"
    echo = sent.protocol.startswith("icmp")
    return Packet(
        family=sent.family,
        src=sent.src,
        dst=sent.dst,
        protocol=sent.protocol,
        sport=None if echo else sent.sport,
        dport=None if echo else sent.dport,
        iif="in0" if inward else "",
        oif="" if sent.path == "in" else "out0",
        ct_state=(sent.ct_state,),
        ct_direction="original",
        mark=0,
        smac=rules.SMAC if inward else None,
        dmac=rules.DMAC if inward else None,
        src_type="unicast" if inward else "local",
        dst_type="local" if sent.path == "in" else "unicast",
        pkttype="host",
        ttl=sent.ttl,
        tos=sent.tos,
        length=len(ip_packet(sent, tag)),
        icmp_type=sent.icmp_type if echo else None,
        icmp_code=0 if echo else None,
        tcp_flags=sent.flags if sent.protocol == "tcp" else None,
        dnat=False,
        snat=False,
        ipsec=False,
    )


class Bench:
    """The three namespaces, and open sockets in them."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        from pyroute2 import netns

        self.names = {role: f"cdtruth-{os.getpid()}-{role}" for role in ("sender", "middle", "behind")}
        for name in self.names.values():
            netns.create(name)
            stack.callback(netns.remove, name)
        self._wire()
        self._listen(stack)
        self.tag = 1000

    def path(self, role: str) -> str:
        return f"/run/netns/{self.names[role]}"

    def run(self, *command: str, text: str = "") -> None:
        """A command in the middle."""
        refused = self.refused(*command, text=text)
        assert refused is None, f"{command}: {refused}\n{text}"

    def refused(self, *command: str, text: str = "") -> str | None:
        """What the command says when it fails."""
        done = subprocess.run(
            ["nsenter", f"--net={self.path('middle')}", *command],
            input=text,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        return done.stderr if done.returncode else None

    def _wire(self) -> None:
        from pyroute2 import NetNS

        with (
            NetNS(self.names["sender"]) as sender,
            NetNS(self.names["middle"]) as middle,
            NetNS(self.names["behind"]) as end,
        ):
            for one, name, peer, fd, macs in (
                (middle, "in0", "a0", self.names["sender"], (rules.DMAC, rules.SMAC)),
                (middle, "out0", "c0", self.names["behind"], ("02:00:00:00:00:03", "02:00:00:00:00:04")),
            ):
                one.link("add", ifname=name, kind="veth", address=macs[0],
                         peer={"ifname": peer, "net_ns_fd": fd, "address": macs[1]})  # fmt: skip
            self._settle()
            addresses = (
                (sender, "a0", rules.SENDER, rules.SENDER6),
                (middle, "in0", rules.HERE, rules.HERE6),
                (middle, "out0", rules.OUTSIDE, rules.OUTSIDE6),
                (end, "c0", rules.THERE, rules.THERE6),
            )
            for where, name, four, six in addresses:
                index = where.link_lookup(ifname=name)[0]
                where.link("set", index=index, state="up")
                where.addr("add", index=index, address=four, prefixlen=24)
                where.addr("add", index=index, address=six, prefixlen=64, flags=2)  # IFA_F_NODAD
                where.link("set", index=where.link_lookup(ifname="lo")[0], state="up")
            out = middle.link_lookup(ifname="out0")[0]
            for there in (rules.THERE, rules.THERE6):
                middle.neigh("add", dst=there, lladdr="02:00:00:00:00:04", ifindex=out, state="permanent")

    def _settle(self) -> None:
        for role in self.names:
            with _netns.inside(self.path(role)):
                for key in ("ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter", "ipv6/conf/default/accept_dad"):
                    write(key, "0")
        with _netns.inside(self.path("middle")):
            write("ipv4/ip_forward", "1")
            write("ipv6/conf/all/forwarding", "1")

    def _listen(self, stack: contextlib.ExitStack) -> None:
        self.ears: dict[str, list[socket.socket]] = {"middle": [], "behind": []}
        for role, ears in self.ears.items():
            with _netns.inside(self.path(role)):
                for family, numbers in ((socket.AF_INET, (17, 6, 1)), (socket.AF_INET6, (17, 6, 58))):
                    for number in numbers:
                        ear = stack.enter_context(socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, number))
                        ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
                        ears.append(ear)
                if role == "middle":
                    self.raw4 = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
                    self.raw6 = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW))
        with _netns.inside(self.path("sender")):
            self.wire = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
            self.wire.bind(("a0", 0))

    def establish(self) -> None:
        """One UDP flow with traffic both ways, tracked as long as a table that uses conntrack is loaded."""
        keep = "table inet keep { chain k { type filter hook input priority -400; ct state new counter; }\n}"
        self.run("nft", "-f", "-", text=f"flush ruleset\n{keep}")
        with contextlib.ExitStack() as stack:
            ends = []
            for role, address, port in (("sender", rules.SENDER, _FLOW[0]), ("middle", rules.HERE, _FLOW[1])):
                with _netns.inside(self.path(role)):
                    end = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                end.settimeout(5)
                end.bind((address, port))
                ends.append(end)
            for _time in range(3):
                ends[0].sendto(b"there and back", (rules.HERE, _FLOW[1]))
                ends[1].sendto(b"again", ends[1].recvfrom(100)[1])
                ends[0].recv(100)

    def send(self, sent: rules.Sent) -> int:
        """Put it on the wire, or out of the middle; returns its tag."""
        self.tag += 1
        if not sent.established:
            sent.sport = 1024 + self.tag % 60000
        data = ip_packet(sent, self.tag)
        if sent.path == "out":
            with contextlib.suppress(OSError):  # EPERM: dropped at output
                (self.raw6 if sent.family == 6 else self.raw4).sendto(data, (sent.dst, 0))
        else:
            macs = bytes.fromhex((rules.DMAC + rules.SMAC).replace(":", ""))
            self.wire.send(macs + (b"\x86\xdd" if sent.family == 6 else b"\x08\x00") + data)
        return self.tag

    def arrived(self, role: str, wait_for: set[int]) -> set[int]:
        """Tags seen; waits a little for those the evaluator lets pass, and a moment for those it does not."""
        found: set[int] = set()
        until = time.monotonic() + 0.5
        while True:
            ready, _w, _x = select.select(self.ears[role], [], [], 0.002)
            for ear in ready:
                data = ear.recv(2000)
                number = ear.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
                tag = tag_of(data, 4) if ear.family == socket.AF_INET else transport_tag(number, data)
                if number in (1, 58):
                    head = data[20:] if ear.family == socket.AF_INET else data
                    tag = int(struct.unpack_from(">I", head, 8)[0]) if len(head) >= 12 else None
                if tag is not None:
                    found.add(tag)
            if not ready and (wait_for <= found or time.monotonic() > until):
                return found


def write(key: str, value: str) -> None:
    with open(f"/proc/sys/net/{key}", "w", encoding="ascii") as stream:
        stream.write(value)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with contextlib.ExitStack() as stack:
        yield Bench(stack)


def compare(
    bench: Bench, path: str, seed: int, random: Random, tally: Counter[str], loaded: str, undecidable: bool
) -> list[str]:
    """Read, evaluate, send, and say where they differ."""
    with _netns.inside(bench.path("middle")):
        facts = _netfilter.read_filter()
        before = _netfilter.read_counters()
    assert before.keys() == counted(facts).keys()
    assert facts["error"] is None and not facts["notes"], facts["error"]
    prepared = prepare(facts)
    role = "middle" if path == "in" else "behind"
    bench.arrived(role, set())
    asked: dict[int, tuple[rules.Sent, Any]] = {}
    wrong = []
    for sent in rules.packets(random, path, PACKETS):
        tag = bench.send(sent)
        packet = evaluated(sent, tag)
        asked[tag] = (sent, path_fate(prepared, packet, _PATHS[path]))
        contradicts = less_known(prepared, packet, path, asked[tag][1], random)
        if contradicts:
            wrong.append(f"seed {seed}: {contradicts}\n{sent}\n{loaded}")
    seen = bench.arrived(role, {tag for tag, (_sent, fate) in asked.items() if fate.verdict == "accept"})
    for tag, (sent, fate) in asked.items():
        truth = "accept" if tag in seen else "drop"
        tally[truth] += 1
        # A rate limit; or an address NAT takes from an interface, which the filter does not tell.
        if fate.verdict == "unknown" and (undecidable or any(ref.verdict in _LOCAL_NAT for ref in fate.changes)):
            tally["unknown"] += 1
            continue
        if fate.verdict != truth:
            rules_ = [(ref.ref, ref.text) for ref in (*fate.drops, *fate.may_drop)]
            wrong.append(
                f"seed {seed}: kernel {truth}, evaluator {fate.verdict} {rules_} {fate.notes}\n{sent}\n{loaded}"
            )
    return wrong + uncounted(bench, before, [fate for _sent, fate in asked.values()], tally, f"seed {seed}\n{loaded}")


def less_known(prepared: Any, packet: Packet, path: str, whole: Any, random: Random) -> str | None:
    """Knowing less of the packet may make the answer unknown, never another one."""
    hidden: dict[str, Any] = dict.fromkeys(random.sample(_HIDDEN, random.choice([1, 2, 4])))
    if "ct_state" in hidden and random.random() < 0.5:
        hidden["ct_state"] = ("new", "established", "related", "invalid")
    fate = path_fate(prepared, dataclasses.replace(packet, **hidden), _PATHS[path])
    may = {ref.ref for ref in (*fate.drops, *fate.may_drop)}
    if fate.verdict not in ("unknown", whole.verdict):
        return f"without {sorted(hidden)} the evaluator says {fate.verdict}, with them {whole.verdict}"
    if whole.drops and whole.drops[0].ref not in may:
        return f"without {sorted(hidden)} {whole.drops[0].ref} is not even possible: {sorted(may)}"
    return None


def uncounted(bench: Bench, before: Any, fates: list[Any], tally: Counter[str], loaded: str) -> list[str]:
    """Rules the evaluator holds responsible whose counter says otherwise. Answers of the host itself count on top."""
    with _netns.inside(bench.path("middle")):
        after = _netfilter.read_counters()
    blamed = Counter(fate.drops[0].ref for fate in fates if fate.drops and not fate.may_drop)
    wrong = []
    for ref, times in blamed.items():
        if ref in before:
            tally["counted"] += times
            if after[ref][0] - before[ref][0] < times:
                wrong.append(f"{ref}: {times} packets blamed on it, counter {before[ref]} -> {after[ref]}\n{loaded}")
    return wrong


def seeds(count: int) -> Iterator[int]:
    """Numbers of rule sets, as far as the time goes."""
    until = time.monotonic() + SECONDS
    for seed in range(FIRST, FIRST + count):
        if time.monotonic() > until and seed >= FIRST + 15:
            return
        yield seed


def judge(tally: Counter[str], wrong: list[str]) -> None:
    print(dict(tally))
    assert not wrong, f"{len(wrong)} differ\n" + "\n".join(wrong[:3])
    total = tally["accept"] + tally["drop"]
    # A comparison in which one side is rare proves little.
    assert min(tally["accept"], tally["drop"]) > total * 0.15, tally
    assert tally["unknown"] < total * 0.03, tally
    assert tally["counted"] > tally["drop"] * 0.05, tally


def test_nft_rule_sets(bench: Bench) -> None:
    tally: Counter[str] = Counter()
    wrong: list[str] = []
    bench.establish()
    for seed in seeds(3 * CASES):
        random = Random(seed)
        path, undecidable = rules.PATHS[seed % 3], seed % 20 == 19
        text = rules.NftRules(random, path, undecidable).table()
        reset = "".join(
            f"table {name}\ndelete table {name}\n" for name in ("inet truth", "netdev truth", "ip truthnat")
        )
        refused = bench.refused("nft", "-f", "-", text=reset + text)
        if refused is not None:  # two matches that contradict each other; reject where no answer can be sent
            assert "onflicting" in refused or "Operation not supported" in refused, f"{refused}\n{text}"
            tally["refused"] += 1
            continue
        wrong += compare(bench, path, seed, random, tally, text, undecidable)
    bench.run("nft", "flush", "ruleset")
    judge(tally, wrong)


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_iptables_rule_sets(bench: Bench, backend: str) -> None:
    tally: Counter[str] = Counter()
    wrong: list[str] = []
    bench.establish()
    for seed in seeds(CASES // 2):
        random = Random(seed)
        path, undecidable = rules.PATHS[seed % 3], seed % 20 == 19
        loaded = []
        for family, name in ((4, "iptables"), (6, "ip6tables")):
            text = rules.XtRules(random, path, family, undecidable).text()
            bench.run(f"{name}-{backend}-restore", text=text)
            loaded.append(text)
        wrong += compare(bench, path, seed, random, tally, "\n".join(loaded), undecidable)
    judge(tally, wrong)

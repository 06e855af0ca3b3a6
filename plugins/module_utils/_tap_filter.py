# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Socket filters for taps: which frames the kernel hands up at all (classic BPF, Documentation/networking/filter.rst).

On a busy host it is this filter that keeps a capture small: what other containers send is not even copied. C(probes)
lets through what a path trace has to see, C(matching) what an operator asked for. Both look into the tunnel: a frame
to or from a tunnel port (RFC 7348 section 5) is judged by the frame it carries.

A load beyond the end of a frame ends a classic program with "drop": what may be short is tested for its length first.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
import typing as t
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

SO_ATTACH_FILTER = 26
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
MAX_PEERS = {4: 120, 6: 20}  # by IP version; above, fragments and ESP of everybody pass
MAX_TCP_PORTS = 100  # above, all pass
SHORT = 96  # bytes of a frame whose payload tells nothing, as ESP's
ETHERNET, RAW_IP = 1, 101  # LINKTYPE_ETHERNET, LINKTYPE_RAW
MARK_PREFIX = b"crosshost.doctor"

Instruction = t.Tuple[int, int, int, int]  # noqa: UP006 - evaluated, and hosts have Python 3.9
Address = t.Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

_LD_W, _LD_H, _LD_B = 0x40, 0x48, 0x50  # BPF_LD | BPF_IND: at X + k
_LD_H_ABS, _LD_B_ABS = 0x28, 0x30
_LD_LEN, _LD_MEM, _LDX_MEM, _LDX_IMM = 0x80, 0x60, 0x61, 0x01
_ST, _STX, _TAX, _TXA = 0x02, 0x03, 0x07, 0x87
_ADD_K, _ADD_X, _AND_K, _LSH_K, _RSH_K = 0x04, 0x0C, 0x54, 0x64, 0x74
_JA, _JEQ, _JGT, _JGE, _JGE_X, _JSET = 0x05, 0x15, 0x25, 0x35, 0x3D, 0x45
_RET = 0x06

_L3, _PROTOCOL, _SCRATCH = 0, 1, 2  # cells of the scratch memory
_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_VLAN = (0x8100, 0x88A8, 0x9100)
_ICMP, _TCP, _UDP, _FRAGMENT, _ESP, _ICMP6 = 1, 6, 17, 44, 50, 58
_EXTENSIONS = (0, 43, 60)  # hop-by-hop, routing, destination options
PROTOCOLS = {"icmp": (1, 58), "tcp": (6, 6), "udp": (17, 17), "sctp": (132, 132), "esp": (50, 50), "gre": (47, 47)}
_WITH_PORTS = (6, 17, 132)
_VXLAN = 8 + 8  # UDP and VXLAN header
_INNER = _VXLAN + 14


class _Program:
    """Instructions with labels. Labels lie ahead: a classic program has no way back."""

    def __init__(self) -> None:
        self._lines: list[tuple[int, int, str | None, str | None]] = []
        self._labels: dict[str, int] = {}
        self._size = 0
        self._names = 0

    def op(self, code: int, k: int = 0) -> None:
        self._lines.append((code, k, None, None))
        self._size += 1

    def label(self, name: str) -> None:
        self._labels[name] = self._size

    def fresh(self) -> str:
        self._names += 1
        return f"L{self._names}"

    def jump(self, name: str) -> None:
        self._lines.append((_JA, 0, name, None))
        self._size += 1

    def when(self, code: int, k: int, name: str) -> None:
        """Go to a label if the comparison of A with k holds. Conditional jumps reach 255 instructions, "ja" all."""
        self._lines.append((code, k, name, None))
        self._size += 2

    def unless(self, code: int, k: int, name: str) -> None:
        self._lines.append((code, k, None, name))
        self._size += 2

    def move(self, distance: int) -> None:
        """X += distance; A is lost."""
        self.op(_TXA)
        self.op(_ADD_K, distance)
        self.op(_TAX)

    def assemble(self) -> list[Instruction]:
        """@raises ValueError: the program is longer than the kernel takes."""
        found: list[Instruction] = []
        for code, k, true, false in self._lines:
            if code == _JA:
                found.append((_JA, 0, 0, self._labels[true or ""] - len(found) - 1))
            elif true or false:
                found.append((code, int(not true), int(not false), k))
                found.append((_JA, 0, 0, self._labels[true or false or ""] - len(found) - 1))
            else:
                found.append((code, 0, 0, k))
        if len(found) > MAX_INSTRUCTIONS:
            raise ValueError(f"the filter has {len(found)} instructions, and the kernel takes {MAX_INSTRUCTIONS}")
        return found


@dataclass(frozen=True)
class Match:
    """What an operator wants to see: all of it has to hold. Empty matches everything.

    C(hosts): each must be an end of the packet. C(ports): each must be one of its ports; later fragments have none
    and pass. C(protocol): a key of PROTOCOLS, C(arp), C(ip) or C(ip6).
    """

    protocol: str | None = None
    hosts: tuple[Address, ...] = ()
    ports: tuple[int, ...] = ()

    @classmethod
    def parse(cls, options: dict[str, t.Any] | None) -> Match:
        """From the module's O(match).

        @raises ValueError: something in it cannot be matched; the text is for the user.
        """
        options = options or {}
        protocol = options.get("protocol") or None
        ports = tuple(int(port) for port in options.get("ports") or ())
        hosts = tuple(ipaddress.ip_network(text, strict=False) for text in options.get("hosts") or ())
        if protocol is not None and protocol not in (*PROTOCOLS, "arp", "ip", "ip6"):
            raise ValueError(f"there is no protocol {protocol!r} here")
        if any(not 0 < port < 65536 for port in ports):
            raise ValueError("a port is a number from 1 to 65535")
        if ports and protocol is not None and protocol not in ("tcp", "udp", "sctp", "ip", "ip6"):
            raise ValueError(f"{protocol} has no ports")
        if len(ports) > 2 or len(hosts) > 2:
            raise ValueError("a packet has two ends: more than two hosts or ports match nothing")
        return cls(protocol, hosts, ports)

    def __bool__(self) -> bool:
        return bool(self.protocol or self.hosts or self.ports)


@dataclass
class _Rules:
    """What both kinds of filter are built from."""

    link_type: int
    ports: tuple[int, ...]
    snaplen: int
    program: _Program = field(default_factory=_Program)

    def end(self) -> list[Instruction]:
        program = self.program
        program.label("short")
        program.op(_RET, min(SHORT, self.snaplen))
        program.label("accept")
        program.op(_RET, self.snaplen)
        program.label("drop")
        program.op(_RET, 0)
        return program.assemble()

    def start(self, other: str) -> None:
        """To C(arp), C(out4) or C(out6) with X at the header of that layer; anything else to C(other)."""
        program = self.program
        if self.link_type == RAW_IP:
            program.op(_LDX_IMM, 0)
            program.op(_LD_B_ABS, 0)
            program.op(_RSH_K, 4)
            program.when(_JEQ, 4, "out4")
            program.when(_JEQ, 6, "out6")
            program.jump(other)
            return
        program.op(_LDX_IMM, 0)
        self.ethertype(12, 2, "out", other)

    def ethertype(self, distance: int, tags: int, side: str, other: str) -> None:
        """Branch by the type field at X + distance, past as many VLAN tags as may be there."""
        program = self.program
        for tag in range(tags + 1):
            program.op(_LD_H, distance)
            found = [(_ARP, f"{side}-arp"), (_IPV4, f"{side}4"), (_IPV6, f"{side}6")]
            nexts = [program.fresh() for _pair in found]
            for (number, _goal), name in zip(found, nexts):
                program.when(_JEQ, number, name)
            tagged = program.fresh()
            for number in _VLAN if tag < tags else ():
                program.when(_JEQ, number, tagged)
            program.jump(other)
            for (_number, goal), name in zip(found, nexts):
                program.label(name)
                program.move(distance + 2)
                program.jump(goal)
            if tag < tags:
                program.label(tagged)
                program.move(4)

    def to_transport4(self) -> None:
        """X from an IPv4 header to what follows it."""
        program = self.program
        program.op(_LD_B, 0)
        program.op(_AND_K, 0x0F)
        program.op(_LSH_K, 2)
        program.op(_ADD_X)
        program.op(_TAX)

    def either_port(self, ports: Iterable[int], found: str) -> None:
        """To C(found) if source or destination port is one of these, else on; X is at the transport header."""
        for offset in (0, 2):
            self.program.op(_LD_H, offset)
            for port in ports:
                self.program.when(_JEQ, port, found)

    def tunnel(self, odd: str, other: str) -> None:
        """At C(tunnel) with X at the UDP header: on to the inner frame, to C(odd) where there is none that is valid."""
        program = self.program
        program.label("tunnel")
        program.op(_TXA)
        program.op(_ADD_K, _INNER)
        program.op(_STX, _L3)
        program.op(_TAX)
        program.op(_LD_LEN)
        long = program.fresh()
        program.when(_JGE_X, 0, long)
        program.jump(odd)
        program.label(long)
        program.op(_LDX_MEM, _L3)
        program.op(_LD_B, 8)
        program.unless(_JSET, 0x08, odd)
        self.ethertype(_VXLAN + 12, 1, "in", other)


def everything(snaplen: int) -> list[Instruction]:
    """Every frame, cut to C(snaplen) bytes."""
    return [(_RET, 0, 0, snaplen)]


def nothing() -> list[Instruction]:
    return [(_RET, 0, 0, 0)]


def probes(
    link_type: int,
    ports: Sequence[int],
    mark: str,
    peers: Sequence[str] = (),
    snaplen: int = 256,
    tcp_ports: Sequence[int] = (),
) -> list[Instruction]:
    """Our own probes and what tells about them, in and outside of tunnels.

    Passed are ARP and neighbour discovery, ICMP errors, echoes and datagrams with C(mark), TCP segments with SYN or
    RST of C(tcp_ports) (of all if none is given), frames of a tunnel port without a valid VNI, and, if an end is among
    the peers (or none is given), later fragments and ESP.

    @param link_type: ETHERNET or RAW_IP.
    @param peers: addresses, IPv4 and IPv6.
    """
    rules = _Rules(link_type, tuple(ports), snaplen)
    program = rules.program
    known = [ipaddress.ip_address(peer) for peer in peers]
    if any(sum(peer.version == version for peer in known) > most for version, most in MAX_PEERS.items()):
        known = []
    tcp_ports = tcp_ports if len(tcp_ports) <= MAX_TCP_PORTS else ()
    rules.start("drop")
    _probe_layer(rules, "out", tcp_ports)
    rules.tunnel("accept", "drop")
    _probe_layer(rules, "in", tcp_ports)
    for side in ("out-arp", "in-arp"):
        program.label(side)
    program.jump("accept")
    _peer_blocks(rules, known)
    _mark_block(rules, mark)
    return rules.end()


def _probe_layer(rules: _Rules, side: str, tcp_ports: Sequence[int]) -> None:
    """What follows an IP header; X is at that header."""
    program = rules.program
    program.label(f"{side}4")
    program.op(_LD_H, 6)
    program.when(_JSET, 0x1FFF, "peers4")
    program.op(_LD_B, 9)
    program.op(_ST, _PROTOCOL)
    program.when(_JEQ, _ESP, "esp4")
    rules.to_transport4()
    program.op(_LD_MEM, _PROTOCOL)
    program.when(_JEQ, _ICMP, f"{side}-icmp4")
    program.jump(f"{side}-transport")

    program.label(f"{side}6")
    program.op(_LD_B, 6)
    program.op(_ST, _PROTOCOL)
    program.when(_JEQ, _ESP, "esp6")
    for number in _EXTENSIONS:
        program.when(_JEQ, number, "accept")
    whole = program.fresh()
    program.unless(_JEQ, _FRAGMENT, whole)
    program.op(_LD_H, 42)
    program.when(_JSET, 0xFFF8, "peers6")
    program.op(_LD_B, 40)
    program.op(_ST, _PROTOCOL)
    program.move(8)
    program.label(whole)
    program.move(40)
    program.op(_LD_MEM, _PROTOCOL)
    program.when(_JEQ, _ICMP6, f"{side}-icmp6")

    program.label(f"{side}-transport")
    program.when(_JEQ, _TCP, f"{side}-tcp")
    program.unless(_JEQ, _UDP, "drop")
    if side == "out":
        rules.either_port(rules.ports, "tunnel")
    program.move(8)
    program.jump("mark")

    program.label(f"{side}-tcp")
    program.op(_LD_B, 13)
    program.unless(_JSET, 0x06, "drop")  # SYN, RST
    rules.either_port(tcp_ports, "accept")
    program.jump("drop" if tcp_ports else "accept")

    program.label(f"{side}-icmp4")
    program.op(_LD_B, 0)
    for number in (3, 4, 5, 11, 12):
        program.when(_JEQ, number, "accept")
    for number in (0, 8):
        program.when(_JEQ, number, f"{side}-echo")
    program.jump("drop")

    program.label(f"{side}-icmp6")
    program.op(_LD_B, 0)
    program.unless(_JGT, 4, "accept")  # errors: 1 to 4
    program.unless(_JGT, 127, "drop")
    program.unless(_JGT, 129, f"{side}-echo")
    program.unless(_JGT, 132, "drop")
    program.unless(_JGT, 137, "accept")  # neighbour discovery: 133 to 137
    program.jump("drop")

    program.label(f"{side}-echo")
    program.move(8)
    program.jump("mark")


def _peer_blocks(rules: _Rules, peers: Sequence[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> None:
    """C(peers4), C(peers6): to C(accept) when an end is a peer; C(esp4), C(esp6): to C(short). X is at the header."""
    program = rules.program
    for name, goal in (("peers", "accept"), ("esp", "short")):
        for version, first, last in ((4, 12, 16), (6, 8, 24)):
            program.label(f"{name}{version}")
            if not peers:
                program.jump(goal)
                continue
            mine = [peer for peer in peers if peer.version == version]
            for offset in (first, last) if mine else ():
                if version == 4:
                    program.op(_LD_W, offset)
                    for peer in mine:
                        program.when(_JEQ, int(peer), goal)
                    continue
                for peer in mine:
                    _compare(rules, offset, peer.packed, goal)
            program.jump("drop")


def _compare(rules: _Rules, offset: int, wanted: bytes, equal: str | None, differs: str | None = None) -> None:
    """Bytes at X + offset: to C(equal) if they are the wanted ones, and to C(differs) if not; None goes on."""
    program = rules.program
    end = program.fresh()
    position = 0
    while position < len(wanted):
        left = len(wanted) - position
        code, size = (_LD_W, 4) if left >= 4 else (_LD_H, 2) if left >= 2 else (_LD_B, 1)
        program.op(code, offset + position)
        program.unless(_JEQ, int.from_bytes(wanted[position : position + size], "big"), differs or end)
        position += size
    if equal:
        program.jump(equal)
    program.label(end)


def _mark_block(rules: _Rules, mark: str) -> None:
    """C(mark): X is where a probe's text begins."""
    rules.program.label("mark")
    text = MARK_PREFIX + (b" " + mark.encode("ascii", "replace") + b" " if mark else b"")
    _compare(rules, 0, text, "accept", "drop")


def matching(link_type: int, ports: Sequence[int], match: Match, snaplen: int) -> list[Instruction]:
    """What matches, or carries in a tunnel what matches."""
    if not match:
        return everything(snaplen)
    rules = _Rules(link_type, tuple(ports), snaplen)
    program = rules.program
    rules.start("drop")
    _match_layer(rules, match, "out", "outer-failed")
    program.label("outer-failed")  # the last resort of an outer packet: it may be a tunnel's
    program.op(_LD_MEM, _SCRATCH)
    program.unless(_JEQ, _UDP, "drop")
    program.op(_LDX_MEM, _L3)
    rules.either_port(rules.ports, "tunnel")
    program.jump("drop")
    rules.tunnel("drop", "drop")
    _match_layer(rules, match, "in", "drop")
    return rules.end()


def _match_layer(rules: _Rules, match: Match, side: str, failed: str) -> None:
    """At C(side)4, C(side)6 and C(side)-arp. _L3 is left at the transport header, _SCRATCH with the protocol."""
    program = rules.program
    program.label(f"{side}-arp")
    if match.ports or match.protocol not in (None, "arp"):
        program.jump("drop")
    else:
        _hosts(rules, match.hosts, 4, 14, 24, "drop")
        program.jump("accept")
    for version in (4, 6):
        program.label(f"{side}{version}")
        first = program.fresh()
        program.op(_STX, _PROTOCOL)  # the IP header's place, for the addresses
        if version == 4:
            program.op(_LD_B, 9)
            program.op(_ST, _SCRATCH)
            rules.to_transport4()
        else:
            program.op(_LD_B, 6)
            program.op(_ST, _SCRATCH)
            program.move(40)
        program.op(_STX, _L3)
        program.op(_LDX_MEM, _PROTOCOL)
        if version == 4:
            program.op(_LD_H, 6)
            program.unless(_JSET, 0x1FFF, first)
            # A later fragment has no ports, and is no way into a tunnel.
            _addresses(rules, match, version, "drop", ports=False)
            program.jump("accept")
        program.label(first)
        _addresses(rules, match, version, failed, ports=bool(match.ports))
        program.jump("accept")


def _addresses(rules: _Rules, match: Match, version: int, failed: str, ports: bool) -> None:
    """On if protocol, hosts and ports are the wanted ones, else to C(failed). X is at the IP header."""
    program = rules.program
    if match.protocol == "arp" or match.protocol == ("ip6" if version == 4 else "ip"):
        program.jump(failed)
        return
    if match.protocol in PROTOCOLS:
        program.op(_LD_MEM, _SCRATCH)
        program.unless(_JEQ, PROTOCOLS[match.protocol][version == 6], failed)
    _hosts(rules, match.hosts, version, *((12, 16) if version == 4 else (8, 24)), failed)
    if not ports:
        return
    program.op(_LD_MEM, _SCRATCH)
    known = program.fresh()
    for number in _WITH_PORTS:
        program.when(_JEQ, number, known)
    program.jump(failed)
    program.label(known)
    program.op(_LDX_MEM, _L3)
    for port in match.ports:
        found = program.fresh()
        rules.either_port((port,), found)
        program.jump(failed)
        program.label(found)


def _hosts(rules: _Rules, hosts: Iterable[Address], version: int, source: int, target: int, failed: str) -> None:
    """On if each of the hosts is one end, else to C(failed); the addresses are at X + source and X + target."""
    program = rules.program
    for host in hosts:
        if host.version != version:
            program.jump(failed)
            continue
        found = program.fresh()
        for offset in (source, target):
            other = program.fresh()
            _compare_masked(rules, offset, host, found, other)
            program.label(other)
        program.jump(failed)
        program.label(found)


def _compare_masked(rules: _Rules, offset: int, host: Address, equal: str, differs: str) -> None:
    program = rules.program
    address, mask = host.network_address.packed, host.netmask.packed
    for position in range(0, len(address), 4):
        bits = int.from_bytes(mask[position : position + 4], "big")
        if bits:
            program.op(_LD_W, offset + position)
            program.op(_AND_K, bits)
            program.unless(_JEQ, int.from_bytes(address[position : position + 4], "big"), differs)
    program.jump(equal)


def attach(sock: socket.socket, program: Sequence[Instruction]) -> None:
    """Give a socket its filter, or another one.

    @raises OSError: the kernel does not accept the program.
    """
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(buffer)))

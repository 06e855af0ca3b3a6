# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Random rule sets and packets for the comparison with the kernel: small values, so that rules match often."""

from __future__ import annotations

import dataclasses
from random import Random

SENDER, HERE, OUTSIDE, THERE = "192.0.2.1", "192.0.2.2", "198.51.100.1", "198.51.100.2"
SENDER6, HERE6, OUTSIDE6, THERE6 = "2001:db8:1::1", "2001:db8:1::2", "2001:db8:2::1", "2001:db8:2::2"
SOURCES = (SENDER, "10.1.2.3", "10.1.2.200", "203.0.113.7")
SOURCES6 = (SENDER6, "2001:db8:1::7")
PORTS = (53, 80, 443, 2377, 4789, 7946)
SMAC, DMAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
_INPUTS = ('"in0"', '"in*"', '"out0"', '{ "in0", "lo" }')
_OUTPUTS = ('"out0"', '"o*"', '"in0"')
_XT_STATES = ("NEW", "RELATED,ESTABLISHED", "INVALID", "UNTRACKED", "DNAT")
PATHS = ("in", "forward", "out")
_HOOKS = {
    "in": (("prerouting", -300), ("prerouting", -150), ("input", 0), ("input", 10), ("input", -5)),
    "forward": (("prerouting", -300), ("forward", 0), ("forward", 5), ("postrouting", 150), ("postrouting", -10)),
    "out": (("output", -300), ("output", 0), ("output", 7), ("postrouting", 0)),
}


@dataclasses.dataclass
class Sent:
    """One packet to send; established: on the flow both sides have used already."""

    path: str
    family: int
    src: str
    dst: str
    protocol: str
    sport: int
    dport: int
    ttl: int = 64
    tos: int = 0
    size: int = 24
    flags: int = 2
    icmp_type: int = 8
    established: bool = False

    @property
    def ct_state(self) -> str:
        """What conntrack calls it: FIN, PSH and URG with no ACK begin nothing (tcp_valid_flags)."""
        if self.protocol == "tcp" and self.flags == 0x29:
            return "invalid"
        return "established" if self.established else "new"


def packets(random: Random, path: str, count: int) -> list[Sent]:
    """Packets of one path."""
    found = []
    for _time in range(count):
        family = 6 if random.random() < 0.25 else 4
        sources, here, there, outside = (
            (SOURCES6, HERE6, THERE6, OUTSIDE6) if family == 6 else (SOURCES, HERE, THERE, OUTSIDE)
        )
        protocol = random.choice(["udp", "udp", "udp", "tcp", "tcp", "icmp" if family == 4 else "icmp6"])
        found.append(
            Sent(
                path=path,
                family=family,
                src=outside if path == "out" else random.choice(sources),
                dst=here if path == "in" else there,
                protocol=protocol,
                sport=0,
                dport=random.choice(PORTS),
                ttl=random.choice([64, 64, 3, 128]),
                tos=random.choice([0, 0, 0x20, 0xB8]),
                size=random.choice([8, 24, 300]),
                flags=random.choice([2, 2, 2, 0x29]),
                icmp_type=(8 if family == 4 else 128),
            )
        )
    if path == "in":
        found.append(Sent(path, 4, SENDER, HERE, "udp", 7001, 7002, established=True))
    return found


def _protocols(match: str) -> bool:
    """Whether a match implies a transport protocol or an address family."""
    return bool(
        set(match.replace(",", " ").split()) & {"udp", "tcp", "icmp", "ip", "ip6", "l4proto", "nfproto", "protocol"}
    )


class NftRules:
    """Text for `nft -f`: several base chains, user chains, sets and maps."""

    def __init__(self, random: Random, path: str, undecidable: bool) -> None:
        self.random = random
        self.path = path
        self.undecidable = undecidable
        self.rejects = random.random() < 0.5  # not everywhere: postrouting refuses to
        self.sets: list[str] = []
        self.chains: list[str] = []

    def _sign(self) -> str:
        return self.random.choice(["", "", "!= "])

    def _prefix(self, family: int) -> str:
        if family == 6:
            return self.random.choice(
                ["2001:db8:1::/64", "2001:db8::/32", SENDER6, "2001:db8:2::/64", HERE6, "fc00::/7"]
            )
        return self.random.choice(
            [
                "10.0.0.0/8",
                "10.1.2.0/25",
                "192.0.2.0/24",
                SENDER,
                HERE,
                "198.51.100.0/24",
                "203.0.113.4/30",
                "0.0.0.0/1",
            ]
        )

    def _ports(self) -> str:
        low = self.random.choice([1, 50, 80, 400, 2000, 4789])
        some = ", ".join(str(port) for port in self.random.sample(PORTS, 2))
        one = str(self.random.choice(PORTS))
        high = low + self.random.choice([0, 30, 400, 60000])
        between = f"{low}-{min(high, 65535)}"
        return self.random.choice([one, one, between, f"{{ {some} }}", f"{{ {some}, {between} }}"])

    def _named(self, family: int) -> str:
        """A named set of addresses, with intervals or without."""
        name = f"s{len(self.sets)}"
        kind = "ipv6_addr" if family == 6 else "ipv4_addr"
        if self.random.random() < 0.6:
            elements = {self._prefix(family) for _time in range(3)}
            flags = "flags interval; auto-merge;"
        else:
            elements = set(self.random.sample(SOURCES6 if family == 6 else SOURCES, 2))
            flags = ""
        self.sets.append(f"set {name} {{ type {kind}; {flags} elements = {{ {', '.join(sorted(elements))} }} }}")
        return f"@{name}"

    def _match(self, depth: int) -> str:
        random, sign = self.random, self._sign()
        family = 6 if random.random() < 0.2 else 4
        ip = "ip6" if family == 6 else "ip"
        side = random.choice(["saddr", "daddr"])
        proto = random.choice(["udp", "udp", "tcp"])
        choices = [
            lambda: f"{ip} {side} {sign}{self._prefix(family)}",
            lambda: f"{ip} saddr {sign}{self._named(family)}",
            lambda: f"{ip} saddr {sign}{{ {', '.join(SOURCES6 if family == 6 else SOURCES[:2])} }}",
            lambda: f"{proto} dport {sign}{self._ports()}",
            lambda: f"{proto} sport {random.choice(['<', '>', '>=', '<='])} {random.choice([2000, 20000, 40000])}",
            lambda: f"meta l4proto {sign}{random.choice(['udp', 'tcp', 'icmp', '{ tcp, udp }'])}",
            # Without the protocol these read the checksum of ICMP, which nobody knows beforehand.
            lambda: f"meta l4proto {{ tcp, udp }} th dport {sign}{self._ports()}",
            lambda: f"ip ttl {random.choice(['< 5', '63', '64', '> 100', '!= 3'])}",
            lambda: f"ip dscp {sign}{random.choice(['cs1', 'ef', '{ cs0, cs1 }'])}",
            lambda: f"ip length {random.choice(['< 40', '52', '> 300', '30-60'])}",
            lambda: f"meta length {random.choice(['< 40', '> 300'])}",
            lambda: f"meta mark {sign}{random.choice(['0x1', '0x0', '{ 0x1, 0x2 }'])}",
            lambda: "meta mark and 0x3 == 0x1",
            lambda: f"iifname {sign}{random.choice(_INPUTS)}",
            lambda: f"oifname {sign}{random.choice(_OUTPUTS)}",
            lambda: f"ct state {sign}{random.choice(['new', 'established,related', 'invalid', 'untracked'])}",
            lambda: f"ct direction {random.choice(['original', 'reply'])}",
            lambda: f"ct status {random.choice(['seen-reply', 'snat', 'dnat'])}",
            lambda: f"ct original {ip} saddr {sign}{self._prefix(family).replace('0.0.0.0/1', '10.0.0.0/8')}",
            lambda: f"fib {side} type {sign}{random.choice(['local', 'unicast', '{ local, multicast }'])}",
            lambda: f"tcp flags {random.choice(['syn', '& (syn | ack) == syn', '& (fin | psh) != 0', '!= syn'])}",
            lambda: f"icmp type {sign}{random.choice(['echo-request', 'echo-reply', '{ echo-request, redirect }'])}",
            lambda: f"meta l4proto {{ tcp, udp }} @th,16,16 {sign}{random.choice(PORTS)}",
            lambda: f"ip saddr . {proto} dport {sign}{{ {SENDER} . 4789, 10.1.2.3 . 80, 10.0.0.0/8 . 443-5000 }}",
            lambda: f"ip protocol . th dport {{ udp . {random.choice(PORTS)}, tcp . {random.choice(PORTS)} }}",
            lambda: f"meta nfproto {random.choice(['ipv4', 'ipv6'])}",
            lambda: f"meta protocol {sign}ip",
        ]
        if self.path != "out":
            choices.append(lambda: f"ether saddr {sign}{random.choice([SMAC, DMAC])}")
        return random.choice(choices)()

    def _verdict(self, depth: int) -> str:
        random = self.random
        choices = ["accept", "drop", "accept", "drop", "return", "meta mark set 0x1", "counter", "jump", "goto"]
        if self.rejects:
            choices += ["reject", "reject"]
        picked = random.choice([*choices, "vmap", "mapmark"])
        if picked in ("jump", "goto"):
            return f"{picked} {self._chain(depth + 1)}" if depth < 2 else "accept"
        if picked == "vmap":
            jump = f"jump {self._chain(depth + 1)}" if depth < 2 else "drop"
            first, second, third = random.sample(PORTS, 3)
            pairs = f"{first} : accept, {second} : {jump}, {third} : drop"
            rest = random.choice(["", ", * : accept", ", 5000-7999 : drop"])
            return f"{random.choice(['udp dport', 'tcp dport'])} vmap {{ {pairs}{rest} }}"
        if picked == "mapmark":
            return f"meta mark set ip saddr map {{ {SENDER} : 0x1, 10.0.0.0/8 : 0x2 }}"
        return picked

    def _rule(self, depth: int) -> str:
        random = self.random
        found: list[str] = []
        for one in [self._match(depth) for _time in range(random.choice([1, 1, 1, 2, 2, 3]))]:
            # nft refuses a rule whose matches contradict each other on the protocol.
            if not found or not (_protocols(one) and any(_protocols(other) for other in found)):
                found.append(one)
        matches = " ".join(found)
        if self.undecidable and random.random() < 0.2:
            matches += " limit rate 5/hour burst 2 packets"
        verdict = self._verdict(depth)
        return f"{matches} {random.choice(['', 'counter '])}{verdict}"

    def _chain(self, depth: int) -> str:
        name = f"c{len(self.chains)}"
        self.chains.append("")
        place = len(self.chains) - 1
        rules = [self._rule(depth) for _time in range(self.random.choice([1, 2, 3]))]
        self.chains[place] = f"chain {name} {{\n  " + "\n  ".join(rules) + "\n}"
        return name

    def _base(self, number: int) -> str:
        random = self.random
        hook, priority = random.choice(
            [at for at in _HOOKS[self.path] if not (self.rejects and at[0] == "postrouting")]
        )
        policy = random.choice(["accept", "accept", "accept", "drop"])
        rules = [self._rule(0) for _time in range(random.choice([1, 2, 3, 4]))]
        if priority == -300 and random.random() < 0.5:
            rules.append(f"{self._match(0)} notrack")
        body = "\n  ".join(rules)
        return f"chain b{number} {{ type filter hook {hook} priority {priority}; policy {policy};\n  {body}\n}}"

    def table(self) -> str:
        bases = [self._base(number) for number in range(self.random.choice([1, 1, 2, 3]))]
        parts = [*self.sets, *reversed(self.chains), *bases]
        return "table inet truth {\n" + "\n".join(parts) + "\n}\n" + self._device_table() + self._nat_table()

    def _device_table(self) -> str:
        if self.random.random() > 0.25:
            return ""
        hook, device = ("egress", "out0") if self.path != "in" else ("ingress", "in0")
        rule = f"{self.random.choice(['udp', 'tcp'])} dport {self._ports()} {self.random.choice(['drop', 'accept'])}"
        return (
            f"table netdev truth {{ chain d {{ type filter hook {hook} device {device} priority 0;\n"
            f"  {rule}\n ip saddr {self._prefix(4)} meta mark 0 drop\n}}\n}}\n"
        )

    def _nat_table(self) -> str:
        if self.random.random() > 0.3:
            return ""
        if self.path == "in":
            hook, rule = "prerouting", f"{self.random.choice(['udp', 'tcp'])} dport {self._ports()} redirect to :4789"
        else:
            to = self.random.choice([f"snat to {OUTSIDE}", "masquerade"])
            hook, rule = "postrouting", f"ip saddr {self._prefix(4)} udp dport {self._ports()} {to}"
        priority = -100 if hook == "prerouting" else 100
        return f"table ip truthnat {{ chain n {{ type nat hook {hook} priority {priority};\n  {rule}\n}}\n}}\n"


class XtRules:
    """Text for iptables-restore, the same for the nf_tables and the legacy backend."""

    def __init__(self, random: Random, path: str, family: int, undecidable: bool) -> None:
        self.random = random
        self.path = path
        self.family = family
        self.undecidable = undecidable
        self.chains: dict[str, list[str]] = {}

    def _address(self) -> str:
        if self.family == 6:
            return self.random.choice(["2001:db8:1::/64", SENDER6, HERE6, "2001:db8:2::/64", "2001:db8::/32"])
        some = ["10.0.0.0/8", "10.1.2.0/25", SENDER, HERE, "198.51.100.0/24", "0.0.0.0/1", "0.0.0.3/0.0.0.255"]
        return self.random.choice(some)

    def _match(self, nat: bool = False) -> str:
        random = self.random
        sign = random.choice(["", "", "! "])
        proto = random.choice(["udp", "udp", "tcp"])
        port = random.choice(PORTS)
        low, high = (SENDER6, "2001:db8:1::ff") if self.family == 6 else ("10.1.2.0", "10.1.2.99")
        icmp, echo = ("icmpv6", "icmp6 --icmpv6-type 128") if self.family == 6 else ("icmp", "icmp --icmp-type 8")
        some = ",".join(str(one) for one in random.sample(PORTS, 2))
        choices = [
            f"{sign}-s {self._address()}",
            f"{sign}-d {self._address()}",
            f"-p {proto} -m {proto} {sign}--dport {random.choice([str(port), '1:100', '4000:8000'])}",
            f"-p {proto} -m {proto} {sign}--sport 1024:30000",
            f"-p {proto} -m multiport {sign}--dports {some},5000:8000",
            f"-p {proto} -m multiport --ports {some}",
            f"{sign}-p {random.choice(['udp', 'tcp', icmp])}",
            f"-p {icmp} -m {echo.replace(' --', f' {sign}--')}",
            f"-p tcp -m tcp {sign}--tcp-flags SYN,ACK,FIN SYN",
            f"-m conntrack {sign}--ctstate {random.choice(_XT_STATES)}",
            "-m conntrack --ctdir ORIGINAL",
            f"-m conntrack {sign}--ctorigsrc {self._address().replace('0.0.0.3/0.0.0.255', '10.0.0.0/8')}",
            f"-m conntrack --ctproto 17 --ctorigdstport {port}",
            f"-m conntrack {sign}--ctstatus SEEN_REPLY",
            f"-m state --state {random.choice(['NEW', 'ESTABLISHED', 'INVALID,NEW'])}",
            f"-m mark {sign}--mark {random.choice(['0x1', '0x0', '0x1/0x3'])}",
            f"-m addrtype {sign}--dst-type {random.choice(['LOCAL', 'UNICAST', 'LOCAL,UNICAST'])}",
            f"-m addrtype {sign}--src-type {random.choice(['LOCAL', 'UNICAST'])}"
            if self.family == 4
            else f"-s {SENDER6}",
            f"-m iprange {sign}--src-range {low}-{high}",
            f"-m length {sign}--length {random.choice(['0:40', '52', '300:1000'])}",
            f"-m {'hl --hl' if self.family == 6 else 'ttl --ttl'}-{random.choice(['gt 64', 'lt 5', 'eq 64', 'eq 63'])}",
            f"-m dscp {sign}--dscp {random.choice(['8', '46', '0'])}",
            f"-m tos {sign}--tos {random.choice(['0x20/0xff', '0xb8/0xfc'])}",
            '-m comment --comment "with a comment"',
        ]
        if self.path == "in":
            choices += [f"{sign}-i in0", "-i in+", f"-m mac {sign}--mac-source {SMAC}", "-m pkttype --pkt-type unicast"]
        if self.path == "forward":
            choices += [f"{sign}-i in0 {random.choice(['', '!'])} -o out0", "-o out+"]
        if self.path == "out":
            choices += [f"{sign}-o out0", "-o in+"]
        return random.choice(choices)

    def _matches(self) -> str:
        count = self.random.choice([1, 1, 2])
        found = [self._match() for _time in range(count)]
        options = [word for one in found for word in one.split() if word in ("-s", "-d", "-p", "-i", "-o")]
        if len(set(options)) < len(options):
            found = found[:1]  # iptables takes each of these once
        if self.undecidable and self.random.random() < 0.2:
            found.append("-m limit --limit 5/hour --limit-burst 2")
        return " ".join(found)

    def _target(self, depth: int) -> str:
        random = self.random
        picked = random.choice(["ACCEPT", "DROP", "ACCEPT", "DROP", "REJECT", "RETURN", "user", "user", "goto", ""])
        if picked in ("user", "goto"):
            if depth > 1:
                return "-j DROP"
            name = f"C{len(self.chains)}"
            self.chains[name] = []
            self.chains[name] = [self._rule(name, depth + 1) for _time in range(random.choice([1, 2, 3]))]
            return f"-{'g' if picked == 'goto' else 'j'} {name}"
        return f"-j {picked}" if picked else ""

    def _rule(self, chain: str, depth: int) -> str:
        return f"-A {chain} {self._matches()} {self._target(depth)}"

    def text(self) -> str:
        random = self.random
        chain = {"in": "INPUT", "forward": "FORWARD", "out": "OUTPUT"}[self.path]
        rules = [self._rule(chain, 0) for _time in range(random.choice([2, 3, 4, 6]))]
        policies = [f":{name} ACCEPT [0:0]" for name in ("INPUT", "FORWARD", "OUTPUT") if name != chain]
        lines = ["*filter", *policies, f":{chain} {random.choice(['ACCEPT', 'ACCEPT', 'DROP'])} [0:0]"]
        lines += [f":{name} - [0:0]" for name in self.chains]
        lines += rules + [rule for found in self.chains.values() for rule in found] + ["COMMIT"]
        first = {"in": "PREROUTING", "forward": "PREROUTING", "out": "OUTPUT"}[self.path]
        mark = random.choice(["MARK --set-xmark 0x1/0xff", "MARK --set-xmark 0x2/0x3", "TOS --set-tos 0x20/0xfc"])
        plain = f"-p udp -m udp --dport {random.choice(PORTS)}"
        lines += ["*mangle", ":PREROUTING ACCEPT [0:0]", ":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]"]
        lines += [":OUTPUT ACCEPT [0:0]", ":POSTROUTING ACCEPT [0:0]", f"-A {first} {plain} -j {mark}", "COMMIT"]
        lines += ["*raw", ":PREROUTING ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]"]
        if random.random() < 0.4:
            lines.append(f"-A {first} {plain} -j CT --notrack")
        if random.random() < 0.2:
            lines.append(f"-A {first} -p tcp -m tcp --dport {random.choice(PORTS)} -j DROP")
        lines += ["COMMIT", "*nat", ":PREROUTING ACCEPT [0:0]", ":INPUT ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]"]
        lines.append(":POSTROUTING ACCEPT [0:0]")
        if random.random() < 0.3 and self.path == "in":
            lines.append(f"-A PREROUTING -p udp -m udp --dport {random.choice(PORTS)} -j REDIRECT --to-ports 4789")
        if random.random() < 0.3 and self.path != "in":
            lines.append(f"-A POSTROUTING -p udp -m udp --dport {random.choice(PORTS)} -j MASQUERADE")
        return "\n".join([*lines, "COMMIT", ""])

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading the packet filter from the kernel: complete, in the words of the tools, and without leaving a trace."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.crosshost.doctor.plugins.module_utils import _netfilter, _netns, _nfnl, _nft, _xtables
from tests.unit.plugins.module_utils.namespace import namespace, needs_root, run

needs_tools = pytest.mark.skipif(
    not all(map(shutil.which, ("nft", "iptables-nft", "iptables-legacy"))), reason="compares with nft and iptables"
)

NFT = """
table inet filter {
  set banned { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.0.2.7, 198.51.100.1-198.51.100.9 } }
  set pairs { type ipv4_addr . inet_service; flags interval; elements = { 10.1.0.0/16 . 80-90, 10.2.0.1 . 443 } }
  set seen { type ipv4_addr; flags dynamic,timeout; timeout 1h; elements = { 203.0.113.4 comment "scanner" } }
  map ports { type inet_service : verdict; elements = { 22 : accept, 23 : drop, 80 : jump web } }
  map marks { type ipv4_addr : mark; elements = { 192.0.2.1 : 0x10 } }
  counter named { }
  counter shared { }
  chain web {
    tcp flags syn / syn,ack counter accept comment "hello world"
    return
  }
  chain input {
    type filter hook input priority filter; policy drop;
    ct state established,related accept
    iifname "eth*" ip saddr @banned drop
    ip saddr != 10.2.0.0/15 udp dport 4789 drop
    ip saddr . tcp dport @pairs accept
    tcp dport vmap @ports
    tcp dport { 80, 443, 8000-8100 } counter name named accept
    udp dport != { 53, 67 } log prefix "x " reject
    icmp type echo-request limit rate 5/second accept
    ip6 saddr fe80::/10 meta mark and 0xf0 == 0x10 accept
    fib daddr type local accept
    meta mark set 0x7
    meta mark set ip saddr map @marks
    add @seen { ip saddr limit rate 10/second } accept
    ip ttl 5 tcp dport 22-25 drop
    counter name shared
    tcp dport 7 counter name shared reject with tcp reset
    numgen random mod 4 1 drop
    tcp option maxseg size set 1400
    @th,16,16 0x1 drop
  }
}
table ip nat {
  chain post {
    type nat hook postrouting priority srcnat;
    ip saddr 10.0.0.0/8 oifname != "br0" masquerade random
    tcp dport 5 snat to 192.0.2.1-192.0.2.9:1000-2000
  }
  chain pre {
    type nat hook prerouting priority dstnat;
    tcp dport 80 dnat to 10.0.0.5:8080
    tcp dport 81 redirect to :8081
  }
}
table netdev nd { chain wire { type filter hook ingress device "lo" priority -500; udp dport 4789 drop; }
}
table bridge b { chain f { type filter hook forward priority 0; udp dport 53 drop; ether type arp drop; }
}
table ip asleep { flags dormant
  chain i { type filter hook input priority 5; policy drop; }
}
table ip raw { chain p { type filter hook prerouting priority raw; udp dport 4789 notrack; }
}
"""
NFT_TEXTS = """
tcp flags syn / syn,ack accept
return
ct state established,related accept
iifname "eth*" ip saddr @banned drop
ip saddr != 10.2.0.0/15 udp dport 4789 drop
ip saddr . tcp dport @pairs accept
tcp dport vmap @ports
tcp dport { 80, 443, 8000-8100 } counter name named accept
udp dport != { 53, 67 } log prefix "x " reject with icmpx port-unreachable
icmp type echo-request limit rate 5/second burst 5 accept
ip6 saddr fe80::/10 meta mark & 0xf0 == 0x10 accept
fib daddr type local accept
meta mark set 0x7
meta mark set ip saddr map @marks
add @seen { ip saddr limit } accept
ip ttl 5 tcp dport 22-25 drop
counter name shared
tcp dport 7 counter name shared reject with tcp reset
numgen random mod 4 0x01000000 drop
tcp option maxseg set 1400
ip saddr 10.0.0.0/8 oifname != "br0" masquerade random
tcp dport 5 snat to 192.0.2.1-192.0.2.9:1000-2000
tcp dport 80 dnat to 10.0.0.5:8080
tcp dport 81 redirect to :8081
udp dport 4789 drop
udp dport 53 drop
ether type arp drop
udp dport 4789 notrack
""".split("\n")[1:-1]
# Rule, and what both backends must say about it (they differ in the fixed part only).
XTABLES = {
    "-A INPUT -p udp -m udp --sport 1024:65535 --dport 4789 -j DROP": (
        "udp sport 1024-65535 udp dport 4789 drop",
        "-p udp -m udp --sport 1024:65535 --dport 4789 -j DROP",
    ),
    "-A INPUT -s 10.0.0.0/8 ! -d 192.0.2.0/25 -i eth+ -j ACCEPT": (
        'iifname "eth*" ip saddr 10.0.0.0/8 ip daddr != 192.0.2.0/25 accept',
        "-s 10.0.0.0/8 ! -d 192.0.2.0/25 -i eth+ -j ACCEPT",
    ),
    "-A INPUT -m iprange --src-range 10.0.0.1-10.0.0.9 -j DROP": "-m iprange --src-range 10.0.0.1-10.0.0.9",
    '-A INPUT -p tcp -m multiport --dports 80,8000:8100 -m comment --comment "web stuff" -j WEB': (
        "meta l4proto tcp -m multiport --dports 80,8000:8100 jump WEB",
        "-p tcp -m multiport --dports 80,8000:8100 -j WEB",
    ),
    "-A INPUT -m conntrack ! --ctstate NEW -j DROP": "-m conntrack ! --ctstate NEW",
    "-A INPUT -m conntrack --ctstate DNAT --ctproto 6 --ctorigdstport 80 --ctdir REPLY -j ACCEPT": (
        "-m conntrack --ctstate DNAT --ctproto tcp --ctorigdstport 80 --ctdir REPLY accept",
        "-m conntrack --ctstate DNAT --ctproto tcp --ctorigdstport 80 --ctdir REPLY -j ACCEPT",
    ),
    "-A INPUT -m addrtype ! --src-type BROADCAST --dst-type LOCAL --limit-iface-in -j ACCEPT": (
        "-m addrtype ! --src-type BROADCAST --dst-type LOCAL --limit-iface-in"
    ),
    "-A INPUT -m connmark ! --mark 0x10/0xff -j ACCEPT": "-m connmark ! --mark 0x10/0xff",
    "-A INPUT -m mac --mac-source 00:11:22:33:44:55 -j DROP": "-m mac --mac-source 00:11:22:33:44:55",
    "-A INPUT -m pkttype --pkt-type broadcast -j DROP": "-m pkttype --pkt-type broadcast",
    "-A INPUT -m statistic --mode random --probability 0.5 -j DROP": "-m statistic --mode random --probability 0.5",
    "-A INPUT -m policy --dir in --pol ipsec --reqid 5 --proto esp -j ACCEPT": (
        "-m policy --dir in --pol ipsec --proto 50 --reqid 5"
    ),
    "-A INPUT -m physdev --physdev-in eth+ ! --physdev-is-bridged -j DROP": (
        "-m physdev --physdev-in eth+ ! --physdev-is-bridged"
    ),
    "-A INPUT -m u32 --u32 0>>22&0x3C@8=0x1 -j DROP": "-m u32 ?",
    "-A OUTPUT -m owner --uid-owner 10-15 ! --gid-owner 7 -j DROP": "-m owner --uid-owner 10-15 ! --gid-owner 7",
    "-A INPUT -p icmp -m icmp --icmp-type 8 -j REJECT --reject-with icmp-host-prohibited": (
        "-j REJECT --reject-with icmp-host-prohibited"
    ),
    "-A INPUT -p tcp -g WEB": ("meta l4proto tcp goto WEB", "-p tcp -g WEB"),
    "-A INPUT -j MARK --set-xmark 0xd0c4e3/0xff": "-j MARK --set-xmark 0xd0c4e3/0xff",
    "-A INPUT -j NFQUEUE --queue-num 7 --queue-bypass": "-j NFQUEUE --queue-num 7 --queue-bypass",
}
OTHER_TABLES = """*nat
-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.5-10.0.0.7:8080-8090 --random
-A POSTROUTING -s 10.0.0.0/24 -j SNAT --to-source 192.0.2.1
-A POSTROUTING -p udp -j MASQUERADE --to-ports 100-200
COMMIT
*raw
-A PREROUTING -p udp -m udp --dport 4789 -j CT --notrack
COMMIT
*mangle
-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
COMMIT
"""
OTHER_TEXTS = (
    "-j DNAT --to-destination 10.0.0.5-10.0.0.7:8080-8090 --random",
    "-j SNAT --to-source 192.0.2.1",
    "-j MASQUERADE --to-ports 100-200",
    "-j CT --notrack",
    "-j TCPMSS --clamp-mss-to-pmtu",
)


@pytest.fixture
def place() -> Iterator[str]:
    with namespace() as name:
        yield name


def feed(name: str, text: str, *command: str) -> None:
    inside = ["nsenter", f"--net=/run/netns/{name}", *command]
    done = subprocess.run(inside, input=text, text=True, capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr


def read(name: str, **limits: int) -> dict[str, Any]:
    with _netns.inside(f"/run/netns/{name}"):
        return _netfilter.read_filter(**limits)


def counters(name: str) -> dict[str, list[int]]:
    with _netns.inside(f"/run/netns/{name}"):
        return _netfilter.read_counters()


def chains(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {chain["ref"]: chain for chain in found["chains"]}


def texts(found: dict[str, Any]) -> list[str]:
    return [rule["text"] for chain in found["chains"] for rule in chain["rules"]]


@needs_root
@needs_tools
class TestNative:
    @pytest.fixture
    def found(self, place: str) -> dict[str, Any]:
        feed(place, NFT, "nft", "-f", "-")
        return read(place)

    def test_every_rule_is_one_readable_line(self, found: dict[str, Any]) -> None:
        assert found["error"] is None
        missing = [text for text in NFT_TEXTS if text not in texts(found)]
        assert not missing, texts(found)

    def test_base_chains_are_complete(self, found: dict[str, Any]) -> None:
        shapes = {
            ref: (c["type"], c["hook"], c["priority"], c["policy"], c["devices"], c.get("dormant", False))
            for ref, c in chains(found).items()
        }
        assert shapes == {
            "nft:inet:filter:web": (None, None, None, None, [], False),
            "nft:inet:filter:input": ("filter", "input", 0, "drop", [], False),
            "nft:ip:nat:post": ("nat", "postrouting", 100, "accept", [], False),
            "nft:ip:nat:pre": ("nat", "prerouting", -100, "accept", [], False),
            "nft:netdev:nd:wire": ("filter", "ingress", -500, "accept", ["lo"], False),
            "nft:bridge:b:f": ("filter", "forward", 0, "accept", [], False),
            "nft:ip:asleep:i": ("filter", "input", 5, "drop", [], True),
            "nft:ip:raw:p": ("filter", "prerouting", -300, "accept", [], False),
        }

    def test_sets_and_maps_have_their_elements(self, found: dict[str, Any]) -> None:
        sets = {one["name"]: one for one in found["sets"]}
        assert sets["banned"]["elements"] == ["0a000000-0affffff", "c0000207", "c6336401-c6336409"]
        assert sorted(sets["pairs"]["elements"]) == ["0a01000000500000-0a01ffff005a0000", "0a02000101bb0000"]
        assert sets["pairs"]["field_lens"] == [4, 2]
        (scanner,) = sets["seen"]["elements"]
        assert (scanner["key"], scanner["comment"]) == ("cb007104", "scanner")
        assert 3500 < scanner["expires"] <= 3600
        verdicts = {one["key"]: (one["verdict"], one.get("chain")) for one in sets["ports"]["elements"]}
        assert verdicts == {"0016": ("accept", None), "0017": ("drop", None), "0050": ("jump", "web")}
        mark = (0x10).to_bytes(4, sys.byteorder).hex()
        assert sets["marks"]["elements"] == [{"key": "c0000201", "data": mark}]
        assert (sets["ports"]["map"], sets["marks"]["map"], sets["banned"]["map"]) == ("verdict", "data", None)

    def test_handles_and_comments_are_those_of_nft(self, place: str, found: dict[str, Any]) -> None:
        listed = json.loads(run(place, "nft", "-j", "list", "ruleset"))["nftables"]
        theirs = {
            f"nft:{r['family']}:{r['table']}:{r['chain']}:{r['handle']}": r.get("comment")
            for r in (item["rule"] for item in listed if "rule" in item)
        }
        ours = {rule["ref"]: rule["comment"] for chain in found["chains"] for rule in chain["rules"]}
        assert ours == theirs

    def test_a_named_counter_belongs_to_a_rule_only_when_no_other_uses_it(self, found: dict[str, Any]) -> None:
        counted = {rule["text"]: rule["counter"] for chain in found["chains"] for rule in chain["rules"]}
        assert counted["tcp dport { 80, 443, 8000-8100 } counter name named accept"] == [0, 0]
        assert counted["counter name shared"] is None

    def test_the_cheap_second_read_has_the_same_counters(self, place: str, found: dict[str, Any]) -> None:
        whole = {
            rule["ref"]: rule["counter"] for chain in found["chains"] for rule in chain["rules"] if rule["counter"]
        }
        assert counters(place) == whole

    def test_limits_cut_with_a_note(self, place: str, found: dict[str, Any]) -> None:
        cut = read(place, element_limit=1, rule_limit=3)
        assert len(texts(cut)) == 3
        assert "only the first 3" in cut["error"]
        truncated = [one["name"] for one in cut["sets"] if one["truncated"]]
        assert "banned" in truncated
        assert sum(len(one["elements"]) for one in cut["sets"]) <= 1
        assert any("banned" in note for note in cut["notes"])


@needs_root
@needs_tools
class TestXtables:
    @pytest.fixture(params=["nft", "legacy"])
    def loaded(self, request: pytest.FixtureRequest, place: str) -> tuple[str, str, dict[str, Any]]:
        backend = str(request.param)
        head = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:WEB - [0:0]\n"
        user = "-A WEB -p tcp -j REJECT --reject-with tcp-reset\n-A WEB -j RETURN\n-A WEB\n"
        text = head + "\n".join(XTABLES) + "\n" + user + "COMMIT\n" + OTHER_TABLES
        feed(place, text, f"iptables-{backend}-restore")
        feed(
            place,
            "*filter\n-A INPUT -p tcp -m hl --hl-gt 5 -s 2001:db8::/32 -j DROP\nCOMMIT\n",
            f"ip6tables-{backend}-restore",
        )
        return backend, place, read(place)

    def test_rules_read_as_iptables_writes_them(self, loaded: tuple[str, str, dict[str, Any]]) -> None:
        backend, _place, found = loaded
        assert found["error"] is None and found["notes"] == []
        ours = texts(found)
        for rule, wanted in XTABLES.items():
            if isinstance(wanted, str):
                assert any(wanted in text for text in ours), (rule, ours)
            else:
                assert wanted[backend == "legacy"] in ours, (rule, ours)
        for wanted in OTHER_TEXTS:
            assert any(wanted in text for text in ours), (wanted, ours)
        assert any("2001:db8::/32" in text and "-m hl" in text for text in ours), ours

    def test_counters_and_policies_are_those_of_save(self, loaded: tuple[str, str, dict[str, Any]]) -> None:
        backend, place, found = loaded
        run(place, "ip", "link", "set", "lo", "up")
        run(place, "sh", "-c", "ping -c 3 -i 0.01 -W 1 127.0.0.1 || true")
        found = read(place)
        saved = run(place, f"iptables-{backend}-save", "-c")
        theirs = [[int(n) for n in pair] for pair in re.findall(r"^\[(\d+):(\d+)\] -A", saved, re.MULTILINE)]
        four = [chain for chain in found["chains"] if chain["family"] == "ip"]
        ours = [rule["counter"] for chain in four for rule in chain["rules"]]
        assert sorted(ours) == sorted(theirs) and any(ours)
        policies = {
            (name, policy): [int(packets), int(octets)]
            for name, policy, packets, octets in re.findall(
                r"^:(\w+) (DROP|ACCEPT) \[(\d+):(\d+)\]", saved, re.MULTILINE
            )
        }
        filtering = [chain for chain in four if chain["table"] == "filter" and chain["hook"]]
        for chain in filtering:
            assert policies[chain["name"], chain["policy"].upper()] is not None
            assert chain["policy_counter"] is None or chain["policy_counter"][0] >= 0
        again = counters(place)
        assert {ref: again[ref] for ref in (rule["ref"] for c in four for rule in c["rules"])} == {
            rule["ref"]: rule["counter"] for c in four for rule in c["rules"]
        }

    def test_a_set_match_has_the_name_of_its_set(self, place: str) -> None:
        from pyroute2 import NetNS  # noqa: F401  # the library the lab is built on
        from pyroute2.ipset import IPSet

        with _netns.inside(f"/run/netns/{place}"), IPSet() as sets:
            sets.create("peers", stype="hash:ip")
        rules = "-A INPUT -m set ! --match-set peers src -j DROP\n-A OUTPUT -m set ! --match-set peers src -j ACCEPT\n"
        for backend in ("nft", "legacy"):
            feed(place, f"*filter\n{rules}COMMIT\n", f"iptables-{backend}-restore")
        wanted = ("-m set ! --match-set peers src drop", "-m set ! --match-set peers src accept")
        assert {*wanted, *(text.replace("drop", "-j DROP").replace("accept", "-j ACCEPT") for text in wanted)} <= set(
            texts(read(place))
        )


def traces(name: str) -> list[str]:
    """Everything a reading could leave behind."""
    files = ("ip_tables_names", "ip6_tables_names", "arp_tables_names")
    listed = [run(name, "cat", f"/proc/net/{file}") for file in files]
    return [*listed, run(name, "nft", "-s", "list", "ruleset"), run(name, "ip", "-d", "link")]


@needs_root
@needs_tools
@pytest.mark.parametrize("loaded", ["nothing", "nft", "iptables-nft", "iptables-legacy", "arptables-nft"])
def test_reading_leaves_no_trace(place: str, loaded: str) -> None:
    if loaded == "nft":
        feed(place, NFT, "nft", "-f", "-")
    elif loaded == "arptables-nft":
        run(place, "arptables-nft", "-A", "INPUT", "-s", "192.0.2.9", "-j", "DROP")
    elif loaded != "nothing":
        run(place, loaded, "-A", "INPUT", "-p", "udp", "--dport", "4789", "-j", "DROP")
    before = traces(place)
    found, again = read(place), counters(place)
    assert traces(place) == before
    if loaded == "nothing":
        assert (found["chains"], found["sets"], again) == ([], [], {})
    else:
        assert any(rule["text"].lower().endswith("drop") for chain in found["chains"] for rule in chain["rules"])
    assert found["error"] is None and found["notes"] == []
    assert found["legacy_tables"]["ip"] == (["filter"] if loaded == "iptables-legacy" else [])


@needs_root
@needs_tools
def test_a_thread_reads_the_namespace_it_entered(place: str) -> None:
    """/proc/net is the main thread's: a table listed there would be created here."""
    run(place, "iptables-legacy", "-A", "INPUT", "-j", "DROP")
    seen: list[dict[str, Any]] = []
    with namespace() as other:
        threads = [threading.Thread(target=lambda n=name: seen.append(read(n))) for name in (place, other)]
        for thread in threads:
            thread.start()
            thread.join()
        assert [found["legacy_tables"]["ip"] for found in seen] == [["filter"], []]
        assert run(other, "cat", "/proc/net/ip_tables_names") == ""


@needs_root
def test_without_root_the_error_says_so() -> None:
    # Imported before the change of user: the collection may lie where only root can read.
    code = (
        "import json, os\n"
        "from ansible_collections.crosshost.doctor.plugins.module_utils import _netfilter\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "print(json.dumps([_netfilter.read_filter(), _netfilter.read_counters()]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    found, counted = json.loads(done.stdout)
    assert "root" in found["error"] and found["chains"] == [] and counted == {}


def test_a_kernel_without_nf_tables_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Any:
        raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(_xtables, "table_names", lambda layout: [])
    found = _netfilter.read_filter()
    assert found["error"] is None and [c for c in found["chains"] if c["backend"] == "nft"] == []
    assert _netfilter.read_counters() == {}


@pytest.mark.parametrize(("number", "error"), [(errno.EINVAL, False), (errno.EOPNOTSUPP, False), (errno.ENOBUFS, True)])
def test_a_kernel_without_the_subsystem_is_no_error(monkeypatch: pytest.MonkeyPatch, number: int, error: bool) -> None:
    """But what goes wrong later, or otherwise, is one: nothing read is not nothing there."""

    def refuse(*arguments: Any) -> Any:
        raise _nfnl.NetlinkError(number, os.strerror(number))

    monkeypatch.setattr(_nft, "unloaded", lambda: False)
    with monkeypatch.context() as patch:
        patch.setattr(_nfnl.Connection, "get", refuse)
        assert (_netfilter.read_filter()["error"] is not None) == error
    monkeypatch.setattr(_nft, "_generation", lambda deadline: 1)
    monkeypatch.setattr(_nfnl.Connection, "dump", refuse)
    assert _netfilter.read_filter()["error"] is not None


def test_a_module_that_is_not_loaded_is_not_loaded_by_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Any:
        raise AssertionError("asked the kernel")

    monkeypatch.setattr(_nft, "unloaded", lambda: True)
    monkeypatch.setattr(_nfnl, "Connection", refuse)
    monkeypatch.setattr(_xtables, "table_names", lambda layout: [])
    assert _netfilter.read_filter()["error"] is None and _netfilter.read_counters() == {}


def test_a_ruleset_in_constant_change_is_an_error_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(*arguments: Any) -> Any:
        raise _nfnl.DumpInterruptedError(errno.EINTR, "the ruleset changed while it was read")

    monkeypatch.setattr(_nft, "_read_once", change)
    monkeypatch.setattr(_nft, "_generation", lambda deadline: 1)
    monkeypatch.setattr(_nft, "unloaded", lambda: False)
    assert "changed while" in _netfilter.read_filter()["error"]


def test_a_legacy_table_that_cannot_be_read_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_xtables, "table_names", lambda layout: ["filter"] if layout.family == "ip" else [])
    monkeypatch.setattr(_xtables, "read_table", lambda layout, table: (_time for _time in ()).throw(OSError(1, "no")))
    found = _netfilter.read_filter()
    assert found["legacy_tables"]["ip"] == ["filter"] and "legacy ip table filter: " in found["error"]

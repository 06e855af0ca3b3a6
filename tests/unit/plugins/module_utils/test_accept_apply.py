# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every change is noted before it is made; programs get arguments, and run only where their tables are."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.crosshost.doctor.plugins.module_utils import _accept_apply, _accept_plan, _journal
from ansible_collections.crosshost.doctor.plugins.module_utils._accept_flow import AcceptError, Wanted, services
from ansible_collections.crosshost.doctor.plugins.module_utils._netfilter import read_filter
from ansible_collections.crosshost.doctor.plugins.module_utils._netns import inside

from .accept_state import DROP, applied, chain, filter_of, iptables, port
from .namespace import namespace, needs_root

TUNNEL = {"protocol": "udp", "port": 4789}


class Recorder:
    """A journal and a shell's place in one: what is noted and what is run, in order."""

    def __init__(self, version: str = "nf_tables", missing: tuple[str, ...] = (), fails: str = "") -> None:
        self.events: list[tuple[str, Any]] = []
        self.version, self.missing, self.fails = version, missing, fails

    def command(self, argv: Any, input: str | None = None, netns: str | None = None, tolerate: bool = False) -> None:
        self.events.append(("note", (list(argv), input, tolerate)))

    def nft_comment(self, *where: str) -> None:
        self.events.append(("note", where))

    def run(self, argv: list[str], input: str | None) -> tuple[int, str, str]:
        if argv[1:] == ["-V"]:
            return 0, f"iptables v1.8.9 ({self.version})", ""
        self.events.append(("run", (argv, input)))
        return (1, "", "no") if self.fails and self.fails in argv else (0, "", "")

    def find(self, name: str) -> str | None:
        return None if name in self.missing else f"/usr/sbin/{name}"


def plan(found: dict[str, Any], peers: list[str], direction: str = "in") -> _accept_plan.Plan:
    return _accept_plan.make(found, services([TUNNEL], peers, direction), direction)


def carried_out(made: _accept_plan.Plan, recorder: Recorder) -> list[tuple[str, Any]]:
    _accept_apply.apply(made, recorder, recorder.run, recorder.find)
    return recorder.events


def test_nft_is_one_transaction_noted_by_comment_before() -> None:
    found = filter_of(chain("input", "input", policy="drop"))
    (kind, where), (run, (argv, text)) = carried_out(plan(found, ["192.0.2.11"]), Recorder())
    assert (kind, where) == ("note", ("inet", "guard", "input", "crosshost.doctor: in udp/4789"))
    assert (run, argv) == ("run", ["/usr/sbin/nft", "-j", "-f", "-"])
    assert [next(iter(one)) for one in json.loads(text)["nftables"]] == ["insert"]


def test_nft_rules_that_are_replaced_come_back_at_a_rollback() -> None:
    found = filter_of(chain("input", "input", policy="drop"))
    found = applied(found, plan(found, ["192.0.2.11", "192.0.2.12"]))
    old, new, (_run, (_argv, text)) = carried_out(plan(found, ["192.0.2.13"]), Recorder())
    assert "192.0.2.12" in old[1][1]
    assert new[1][0] == "inet"
    assert [next(iter(one)) for one in json.loads(text)["nftables"]] == ["delete", "insert"]


def test_iptables_gets_each_rule_with_its_opposite_noted_before() -> None:
    found = filter_of(iptables("INPUT", [*port(4789), DROP]))
    events = carried_out(plan(found, ["192.0.2.11", "192.0.2.12"]), Recorder())
    assert [kind for kind, _what in events] == ["note", "run", "note", "run"]
    for (_note, (undo, _input, tolerate)), (_run, (do, _text)) in zip(events[::2], events[1::2]):
        assert do[:7] == ["/usr/sbin/iptables-nft", "-w", "10", "-t", "filter", "-I", "INPUT"]
        assert [word for word in undo if word != "-D"] == [word for word in do if word not in ("-I", "1")]
        assert tolerate


def test_peers_are_exchanged_without_a_moment_without_them() -> None:
    found = filter_of(iptables("INPUT", policy="drop"))
    found = applied(found, plan(found, ["192.0.2.11", "192.0.2.12"]))
    events = carried_out(plan(found, ["192.0.2.12", "192.0.2.13"]), Recorder())
    done = [argv for kind, (argv, *_rest) in events if kind == "run"]
    assert [("-I" in argv, argv[argv.index("-s") + 1]) for argv in done] == [
        (True, "192.0.2.13/32"),
        (False, "192.0.2.11/32"),
    ]


def test_legacy_tables_are_written_by_the_legacy_program_only() -> None:
    found = filter_of(iptables("INPUT", [*port(4789), DROP], backend="legacy"))
    events = carried_out(plan(found, ["192.0.2.11"]), Recorder())
    assert events[1][1][0][0] == "/usr/sbin/iptables-legacy"
    plain = Recorder(version="legacy", missing=("iptables-legacy",))
    assert carried_out(plan(found, ["192.0.2.11"]), plain)[1][1][0][0] == "/usr/sbin/iptables"
    other = Recorder(version="nf_tables", missing=("iptables-legacy",))
    with pytest.raises(AcceptError, match="iptables-legacy is needed"):
        carried_out(plan(found, ["192.0.2.11"]), other)
    assert other.events == []


def test_a_host_without_legacy_tables_never_runs_the_legacy_program() -> None:
    found = filter_of(iptables("INPUT", policy="drop"), chain("input", "input", policy="drop"))
    events = carried_out(plan(found, ["192.0.2.11"]), Recorder())
    assert not [what for _kind, what in events if "legacy" in str(what)]


def test_a_foreign_rule_with_our_comment_is_not_deleted_from_iptables() -> None:
    found = filter_of(iptables("INPUT", [{"name": "log"}, DROP]))
    found["chains"][0]["rules"][0]["comment"] = "crosshost.doctor: in udp/4789"
    recorder = Recorder()
    with pytest.raises(AcceptError, match="is not this module's"):
        carried_out(plan(found, ["192.0.2.11"]), recorder)
    assert recorder.events == []


def test_a_program_that_refuses_is_an_error_after_the_note() -> None:
    recorder = Recorder(fails="-I")
    with pytest.raises(AcceptError, match="failed with status 1: no"):
        carried_out(plan(filter_of(iptables("INPUT", policy="drop")), ["192.0.2.11"]), recorder)
    assert [kind for kind, _what in recorder.events] == ["note", "run"]


# ---- with a kernel

NFT = """
table inet guard {
  set closed { type inet_service; flags interval; elements = { 1024-2376, 4000-5000, 60000-65535 } }
  chain input {
    type filter hook input priority filter; policy accept
    ct state invalid drop
    udp dport @closed drop
  }
  chain late {
    type filter hook input priority 10; policy drop
    tcp dport 7946 accept
  }
}
table netdev wire {
  chain in {
    type filter hook ingress device "lo" priority 0; policy accept
    meta l4proto { udp, 50 } counter drop
  }
}
"""
SETUPS = {
    "nft": [["nft", "-f", "-"]],
    "iptables": [
        ["iptables-nft", "-w", "-A", "INPUT", "-p", "udp", "-m", "multiport", "--dports", "111,4789", "-j", "DROP"],
        ["iptables-nft", "-w", "-A", "INPUT", "-p", "esp", "-j", "REJECT"],
        ["ip6tables-nft", "-w", "-P", "INPUT", "DROP"],
        ["iptables-nft", "-w", "-t", "raw", "-A", "PREROUTING", "-p", "udp", "--dport", "53", "-j", "DROP"],
    ],
    "legacy": [
        ["iptables-legacy", "-w", "-A", "INPUT", "-p", "udp", "--dport", "4000:5000", "-j", "REJECT"],
        ["iptables-legacy", "-w", "-A", "INPUT", "-p", "tcp", "-j", "DROP"],
    ],
}
PROGRAMS = ("nft", "iptables-nft", "ip6tables-nft", "iptables-legacy")
needs_programs = pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason="needs nft and both kinds of iptables")


def ruleset() -> str:
    text = subprocess.run(["nft", "-s", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
    names = Path("/proc/thread-self/net/ip_tables_names")
    if names.exists() and names.read_text().strip():
        text += subprocess.run(["iptables-legacy", "-w", "-S"], check=True, capture_output=True, text=True).stdout
    return text


@needs_root
@needs_programs
@pytest.mark.root
@pytest.mark.parametrize("kind", list(SETUPS))
def test_on_a_kernel_it_is_applied_found_again_and_undone(kind: str, tmp_path: Path) -> None:
    gossip = {"protocol": "tcp", "port": 7946}
    offered = [TUNNEL, gossip, {**gossip, "answers": True}, {"protocol": "esp"}]
    first = services(offered, ["192.0.2.11", "192.0.2.12", "2001:db8::11"], "in")
    second = services(offered, ["192.0.2.12", "192.0.2.13"], "in")
    with namespace() as name, inside(f"/run/netns/{name}"):
        for argv in SETUPS[kind]:
            subprocess.run(argv, input=NFT if argv[0] == "nft" else None, text=True, check=True)
        before = ruleset()
        journal = _journal.Journal("test", str(tmp_path / "journal"))
        for wanted in (first, second, first):
            made = plan_on_kernel(wanted)
            assert made.changed
            _accept_apply.apply(made, journal, _journal.run)
            assert not plan_on_kernel(wanted).changed
        assert [row for row in journal.roll_back() if row["error"]] == []
        assert ruleset() == before


def plan_on_kernel(wanted: list[Wanted]) -> _accept_plan.Plan:
    return _accept_plan.make(read_filter(), wanted, "in")


@needs_root
@needs_programs
@pytest.mark.root
@pytest.mark.parametrize("kind", list(SETUPS))
def test_a_process_that_dies_between_the_note_and_the_change_leaves_nothing_to_undo(kind: str, tmp_path: Path) -> None:
    def dies(argv: list[str], text: str | None) -> tuple[int, str, str]:
        raise KeyboardInterrupt

    with namespace() as name, inside(f"/run/netns/{name}"):
        for argv in SETUPS[kind]:
            subprocess.run(argv, input=NFT if argv[0] == "nft" else None, text=True, check=True)
        before = ruleset()
        journal = _journal.Journal("test", str(tmp_path / "journal"))
        with pytest.raises(KeyboardInterrupt):
            _accept_apply.apply(plan_on_kernel(services([TUNNEL], ["192.0.2.11"], "in")), journal, dies)
        assert journal.entries()
        assert [row for row in journal.roll_back() if row["error"]] == []
        assert ruleset() == before

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which steps a report leads to, in which order, and which values are refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.plugin_utils.remediation import story
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remediation.judge import judge, outdated
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remediation.plan import Options, plan, with_pairs
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remediation.variables import VariablesError, complete

Facts = dict[str, Any]


def remedy(role: str | None = "ip_forwarding", kind: str = "cure", **more: Any) -> Facts:
    variables = {"ip_forwarding_interfaces": ["eth0"]} if role == "ip_forwarding" else {}
    base = {"kind": kind, "role": role, "vars": variables, "hosts": [], "manual": ["do"], "risk": "little"}
    return {**base, "disruptive": False, **more}


def finding(cause: str = "if-forwarding-off", hosts: tuple[str, ...] = ("node2",), **more: Any) -> Facts:
    base = {"id": f"{cause}@{'+'.join(hosts)}", "cause": cause, "severity": "critical", "hosts": list(hosts)}
    return {**base, "network": None, "explains": ["a>b"], "remedies": [remedy()], **more}


def report(*findings: Facts, managers: tuple[str, ...] = ("node1",), down: tuple[str, ...] = ()) -> Facts:
    hosts = {
        f"node{number}": {
            "reachable": f"node{number}" not in down,
            "error": None,
            "roles": ["swarm-manager" if f"node{number}" in managers else "swarm-worker"],
        }
        for number in range(1, 6)
    }
    pairs = [{"id": "a>b", "verdict": "failed", "explained_by": [entry["id"] for entry in findings]}]
    return {"hosts": hosts, "pairs": pairs, "findings": list(findings)}


FLEET: dict[str, Facts] = {f"node{number}": {} for number in range(1, 6)}


def hosts_of(rounds: list[Any]) -> list[list[str]]:
    return [sorted({step.host for step in steps}) for steps in rounds]


def test_one_host_at_a_time_and_managers_last():
    found = plan(report(finding(hosts=("node1", "node2", "node3"))), FLEET, Options())
    assert hosts_of(found.rounds) == [["node2"], ["node3"], ["node1"]]


def test_hosts_of_different_failure_domains_share_a_round():
    racks: dict[str, Facts] = {
        name: {"doctor_failure_domain": f"rack{number % 2}"} for number, name in enumerate(FLEET)
    }
    found = plan(report(finding(hosts=tuple(FLEET))), racks, Options())
    assert hosts_of(found.rounds) == [["node2", "node3"], ["node4", "node5"], ["node1"]]


def test_info_is_left_alone_unless_it_is_named():
    quiet = report(finding(severity="info"))
    assert plan(quiet, FLEET, Options()).rounds == []
    for name in ("if-forwarding-off", "node2", "if-forwarding-off@node2"):
        assert hosts_of(plan(quiet, FLEET, Options(only=[name])).rounds) == [["node2"]]
    assert plan(quiet, FLEET, Options(only=["node3"])).rounds == []


def test_only_confines_the_hosts_of_a_finding():
    found = plan(report(finding(hosts=("node2", "node3"))), FLEET, Options(only=["node3"]))
    assert hosts_of(found.rounds) == [["node3"]]
    assert (found.refused[0]["hosts"], found.refused[0]["why"]) == (["node2"], "doctor_only leaves it out")


def test_a_cure_that_interrupts_waits_for_its_consent_and_relief_comes_first():
    both = finding(remedies=[remedy(disruptive=True), remedy("rp_filter", "mitigation")])
    found = plan(report(both), FLEET, Options())
    assert [step.role for steps in found.rounds for step in steps] == ["rp_filter"]
    assert "doctor_allow_disruption" in found.refused[0]["why"]
    allowed = plan(report(both), FLEET, Options(allow_disruption=True))
    assert [step.role for steps in allowed.rounds for step in steps] == ["ip_forwarding"]


def test_what_only_a_person_can_do_is_told():
    found = plan(report(finding(remedies=[remedy(None)])), FLEET, Options())
    assert found.rounds == []
    assert found.manual[0]["manual"] == ["do"]


def test_a_host_outside_of_the_play_is_refused_not_touched():
    found = plan(report(finding(hosts=("node2", "node9"))), FLEET, Options())
    assert hosts_of(found.rounds) == [["node2"]]
    assert (found.refused[0]["hosts"], found.refused[0]["why"]) == (["node9"], "not among the hosts of this play")


@pytest.mark.parametrize(
    ("managers", "down", "done"),
    [
        (("node1",), (), True),  # no quorum to keep
        (("node1", "node2"), (), False),
        (("node1", "node2", "node3"), (), True),
        (("node1", "node2", "node3"), ("node3",), False),
    ],
)
def test_never_more_managers_than_the_quorum_can_spare(managers: tuple[str, ...], down: tuple[str, ...], done: bool):
    found = finding(hosts=("node1",), remedies=[remedy(disruptive=True)])
    made = plan(report(found, managers=managers, down=down), FLEET, Options(allow_disruption=True))
    assert bool(made.rounds) == done
    forced = plan(report(found, managers=managers, down=down), FLEET, Options(allow_disruption=True, force=True))
    assert forced.rounds


def test_the_same_step_for_two_findings_is_one():
    found = plan(report(finding(), finding("ip-forward-zero")), FLEET, Options())
    (steps,) = found.rounds
    assert [step.causes for step in steps] == [["if-forwarding-off", "ip-forward-zero"]]


def test_values_that_differ_by_host_are_steps_of_their_own():
    rows = [
        remedy(vars={"ip_forwarding_interfaces": [name]}, hosts=[host])
        for name, host in (("a", "node2"), ("b", "node3"))
    ]
    found = plan(report(finding(hosts=("node2", "node3"), remedies=rows)), FLEET, Options())
    assert [step.variables["ip_forwarding_interfaces"] for steps in found.rounds for step in steps] == [["a"], ["b"]]


@pytest.mark.parametrize(
    "values",
    [
        {"ansible_become_user": "x"},
        {"ip_forwarding_interfaces": {"not": "a list"}},
        {"ip_forwarding_interfaces": ["{{ lookup('pipe', 'id') }}"]},
        {"ip_forwarding_global": "{% if true %}yes{% endif %}"},
        {"ip_forwarding_global": "perhaps"},
    ],
)
def test_hostile_values_are_refused(values: Facts):
    with pytest.raises(VariablesError):
        plan(report(finding(remedies=[remedy(vars=values)])), FLEET, Options())


@pytest.mark.parametrize("role", ["../../etc", "nowhere", "", "prepare/../rp_filter"])
def test_roles_of_others_are_refused(role: str):
    with pytest.raises(VariablesError):
        complete(role, {})


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20) | st.integers() | st.lists(st.text(max_size=5))))
def test_no_value_gets_through_that_the_role_does_not_declare(values: Facts):
    try:
        found = complete("ip_forwarding", values)
    except VariablesError:
        return
    assert all(name.startswith("ip_forwarding_") for name in found)


def test_all_variables_are_set_each_time():
    assert complete("ip_forwarding", {})["ip_forwarding_interfaces"] == []


def test_what_interrupts_a_host_is_followed_by_questions_to_all_its_pairs():
    made = report(finding())
    ends = [{"host": "node2"}, {"host": "node3"}, {"host": None}]
    made["pairs"] = [
        {"id": name, "src": ends[src], "dst": ends[dst]}
        for name, src, dst in (("b>c", 0, 1), ("b>x", 0, 2), ("c>x", 1, 2))
    ]
    quiet, loud = (
        plan(report(finding(remedies=[remedy(disruptive=disruptive)])), FLEET, Options(allow_disruption=True)).public()
        for disruptive in (False, True)
    )
    assert [entry["pairs"] for entry in with_pairs(quiet["rounds"], made)] == [["a>b"]]
    assert [entry["pairs"] for entry in with_pairs(loud["rounds"], made)] == [["a>b", "b>c", "b>x"]]


# ---- judging


def step(**more: Any) -> Facts:
    base = {"id": "1-x", "host": "node2", "causes": ["if-forwarding-off"], "network": None, "kind": "cure"}
    return {**base, "findings": ["if-forwarding-off@node2"], "explains": ["a>b"], **more}


def after(verdict: str, *findings: Facts) -> Facts:
    made = copy.deepcopy(report(*findings))
    made["pairs"][0]["verdict"] = verdict
    return made


def outcome(before: Facts, now: Facts, **more: Any) -> str:
    (row,) = judge(before, now, [step(**more)])
    return str(row["outcome"])


def test_it_helped_when_the_finding_is_gone_and_the_pairs_work():
    assert outcome(report(finding()), after("ok")) == "helped"


def test_it_did_not_help_while_the_finding_stays():
    assert outcome(report(finding()), after("ok", finding())) == "did not help"


def test_a_finding_that_breaks_nothing_any_more_counts_as_gone():
    assert outcome(report(finding()), after("ok", finding(severity="info"))) == "helped"


def test_it_did_not_help_when_pairs_stay_broken_for_no_known_reason():
    new = finding("unexplained-loss", ())
    assert outcome(report(finding()), after("failed", new)) == "did not help"


def test_another_fault_that_was_known_is_not_held_against_it():
    other = finding("underlay-unreachable", ("node3",))
    now = after("failed", other)
    now["pairs"][0]["explained_by"] = [other["id"]]
    [row] = judge(report(finding(), other), now, [step()])
    assert row["outcome"] == "applied"
    assert other["id"] in row["why"]


def test_a_wrong_state_that_seems_to_break_nothing_is_still_there_when_its_pairs_fail():
    """Another cause took the pairs over: the control pairs that told them apart are not asked again."""
    other = finding("ipvs-missing", ("node3",))
    now = after("failed", other, finding(severity="info"))
    now["pairs"][0]["explained_by"] = [other["id"]]
    assert outcome(report(finding(), other), now) == "did not help"


def test_pairs_that_could_not_be_asked_show_nothing():
    [row] = judge(report(finding()), after("untested"), [step()])
    assert (row["outcome"], row["asked"]) == ("applied", False)


def test_a_pair_that_two_causes_break_waits_for_both():
    """As the fleet said it: after one of the two, something new seemed to explain the pair."""
    other = finding("multi-nic-rpfilter", ("node1",))
    before = report(finding(), other)
    now = after("failed", finding("underlay-unreachable", ("node1", "node2")))
    [row] = judge(before, now, [step()], left=[other["id"]])
    assert (row["outcome"], row["asked"]) == ("applied", True)
    assert other["id"] in row["why"]
    [row] = judge(before, now, [step()])
    assert row["outcome"] == "did not help"


def test_a_finding_of_two_hosts_is_not_held_against_the_first_of_them():
    both = finding(hosts=("node2", "node3"))
    now = after("failed", finding(hosts=("node3",)))
    now["pairs"][0]["explained_by"] = [now["findings"][0]["id"]]
    own = step(findings=[both["id"]])
    assert [row["outcome"] for row in judge(report(both), now, [own], left=[both["id"]])] == ["applied"]
    assert [row["outcome"] for row in judge(report(both), after("failed"), [own])] == ["did not help"]


def test_a_pair_that_worked_and_does_not_any_more_speaks_against_it():
    before = report(finding())
    before["pairs"].append({"id": "c>d", "verdict": "ok", "explained_by": []})
    now = after("ok")
    now["pairs"].append({"id": "c>d", "verdict": "failed", "explained_by": []})
    assert outcome(before, now) == "did not help"


def test_a_host_that_is_gone_afterwards_was_not_helped():
    now = after("ok")
    now["hosts"]["node2"]["reachable"] = False
    assert outcome(report(finding()), now) == "did not help"


def test_a_mitigation_is_kept_though_its_cause_stays():
    assert outcome(report(finding()), after("failed", finding()), kind="mitigation") == "applied"
    assert outcome(report(finding()), after("ok", finding()), kind="mitigation") == "helped"


def test_a_report_older_than_the_state_is_noticed():
    before = report(finding())
    assert outdated(before, after("ok"), step())
    assert outdated(before, after("ok", finding()), step()) is None
    assert outdated(before, after("failed"), step()) is None
    assert outdated(before, after("ok", finding(hosts=("node3",))), step())


def test_what_only_packets_show_is_not_outdated_because_state_does_not_show_it():
    """A kernel that has been told a path's MTU meanwhile: steps 1 and 2 see nothing of it, before and after."""
    seen = step(causes=["overlay-mtu-gt-path"])
    before = report(finding("overlay-mtu-gt-path"))
    assert outdated(before, after("ok"), seen)  # its pair failed, and works now
    before["pairs"][0]["verdict"] = "degraded"
    assert outdated(before, after("ok"), seen) is None
    assert outdated(before, after("ok"), step())
    for causes, expected in ((["overlay-mtu-gt-path"], "applied"), (["if-forwarding-off"], "helped")):
        assert outcome(before, after("ok"), causes=causes, explains=[]) == expected


# ---- telling


def record(outcomes: Facts, apply: bool = True) -> Facts:
    made = plan(report(finding(hosts=("node2", "node3"))), FLEET, Options(apply=apply)).public()
    return {**made, "options": {"apply": apply}, "outcomes": outcomes, "earlier": []}


def test_a_step_that_was_never_reached_is_not_told_as_done():
    helped = {"outcome": "helped", "why": "all pairs work"}
    half, whole = (
        record({"1-ip_forwarding": helped}),
        record(dict.fromkeys(("1-ip_forwarding", "2-ip_forwarding"), helped)),
    )
    assert [line.split(":")[0] for line in story.failures(half)] == ["2-ip_forwarding not reached"]
    assert "1 DID NOT HELP" in story.tell(half, "/run/remediation.json")
    assert story.failures(whole) == []
    assert "2 steps, DONE" in story.tell(whole, "/run/remediation.json")


def test_what_is_only_shown_names_host_risk_and_the_way_on():
    text = story.tell(record({}, apply=False), "/run/remediation.json")
    assert "2 steps SHOWN, nothing changed" in text
    assert "node3: ip_forwarding cures if-forwarding-off" in text
    assert "risk  little" in text
    assert "doctor_apply=true" in text
    assert "doctor_undo" not in text


def test_without_a_step_it_says_what_is_left_for_others():
    empty = {**record({}), "rounds": [], "refused": [], "manual": []}
    assert "repair: nothing to do" in story.tell(empty, "/run/remediation.json")
    manual = {"hosts": ["node2"], "kind": "cure", "cause": "posture", "manual": ["narrow it"], "risk": "None."}
    refused = {"hosts": ["node2"], "kind": "cure", "cause": "x", "role": "engine_rules", "why": "…", "risk": "None."}
    assert "repair: 1 BY HAND" in story.tell({**empty, "manual": [manual]}, "/run/remediation.json")
    both = story.tell({**empty, "manual": [manual, manual], "refused": [refused]}, "/run/remediation.json")
    assert "repair: 1 NOT DONE, 2 BY HAND" in both


def test_an_undone_repair_tells_what_was_undone_and_fails_for_nothing_else():
    outcomes = {"1-ip_forwarding": {"outcome": "did not help", "why": "still found"}}
    back = {**outcomes, "2-ip_forwarding": {"outcome": "taken back", "why": "as the operator asked"}}
    done = {**record(back), "undoing": ["2-ip_forwarding"]}
    assert story.failures(done) == []
    text = story.tell(done, "/run/remediation.json")
    assert "1 step TAKEN BACK" in text
    assert "node2" not in text
    half = {**record({**back, "2-ip_forwarding": {"outcome": "helped", "why": "once"}}), "undoing": ["2-ip_forwarding"]}
    assert len(story.failures(half)) == 1
    assert "1 of 1 step NOT TAKEN BACK" in story.tell(half, "/run/remediation.json")
    shown = {**record(back, apply=False), "undoing": ["2-ip_forwarding"]}
    assert "would be TAKEN BACK" in story.tell(shown, "/run/remediation.json")
    nothing = {**record(outcomes), "undoing": []}
    assert "nothing is in force" in story.tell(nothing, "/run/remediation.json")


def test_what_a_repair_before_left_in_force_is_undone_with_it():
    done = record({"run1-1-rp_filter": {"outcome": "taken back", "why": "as the operator asked"}})
    earlier = {**done["rounds"][0]["steps"][0], "id": "run1-1-rp_filter", "role": "rp_filter"}
    undone = {**done, "rounds": [], "earlier": [earlier], "undoing": ["run1-1-rp_filter"]}
    assert story.failures(undone) == []
    assert "rp_filter" in story.tell(undone, "/run/remediation.json")

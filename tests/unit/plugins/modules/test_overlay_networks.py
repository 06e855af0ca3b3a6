# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A network is made anew with what it had, by the commands that were shown, and a run that ends half-way is gone on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.crosshost.doctor.plugins.module_utils import _overlay_apply as apply
from ansible_collections.crosshost.doctor.plugins.module_utils import _overlay_plan as planning
from ansible_collections.crosshost.doctor.plugins.module_utils._overlay_plan import Command, Network, OverlayError
from ansible_collections.crosshost.doctor.plugins.module_utils._overlay_record import Record

# As Docker 20.10 on Debian 12 showed it, shortened.
INSPECTED: dict[str, Any] = {
    "Name": "app",
    "Id": "pxz4ihgi091aqwcj3dv17vv0q",
    "Scope": "swarm",
    "Driver": "overlay",
    "EnableIPv6": False,
    "IPAM": {"Driver": "default", "Options": None, "Config": [{"Subnet": "10.0.1.0/24", "Gateway": "10.0.1.1"}]},
    "Internal": False,
    "Attachable": True,
    "Ingress": False,
    "ConfigFrom": {"Network": ""},
    "ConfigOnly": False,
    "Options": {"com.docker.network.driver.overlay.vxlanid_list": "4097", "encrypted": ""},
    "Labels": {"team": "a b"},
    "Services": {
        "": {"Tasks": [{"Name": "app-node2", "Info": {"Host IP": "192.0.2.12"}}]},
        "svc": {"Tasks": [{"Name": "svc.1.x", "Info": {"Host IP": "192.0.2.12"}}]},
    },
}
SERVICE = {
    "Spec": {
        "Name": "svc",
        "TaskTemplate": {"Networks": [{"Target": "pxz4ihgi091aqwcj3dv17vv0q", "Aliases": ["web"]}]},
    }
}
CREATE = [
    *["docker", "network", "create", "--driver", "overlay", "--attachable"],
    *["--subnet", "10.0.1.0/24", "--gateway", "10.0.1.1"],
]
OLD = [*CREATE, "--opt", "encrypted", "--label", "team=a b", "app"]
NEW = [*CREATE, "--opt", f"{planning.MTU_OPTION}=1400", "--opt", "encrypted", "--label", "team=a b", "app"]
OFF = ["docker", "service", "update", "--quiet", "--detach=false", "--network-rm", "app", "svc"]
ON = [*OFF[:5], "--network-add", "name=app,alias=web", "svc"]
CONTAINER = {
    "Id": "adfa3d157d19cdb91decb9ac04a3c0e5068933ce1224267cf10048e93e01a3df",
    "Name": "/app-node1",
    "Config": {"Labels": {}},
    "NetworkSettings": {
        "Networks": {
            "app": {
                "IPAMConfig": {"IPv4Address": "10.0.1.4"},
                "Aliases": ["adfa3d157d19", "one"],
                "DriverOpts": None,
                "Links": None,
            }
        }
    },
}
CONNECT = ["docker", "network", "connect", "--ip", "10.0.1.4", "--alias", "one", "app", "app-node1"]


class Fleet:
    """An engine of one network, one service and one container; C(fails): how often a command fails, by its start."""

    def __init__(self) -> None:
        self.network: dict[str, Any] | None = json.loads(json.dumps(INSPECTED))
        self.service_on = True
        self.container_on = True
        self.done: list[Command] = []
        self.fails: dict[str, int] = {}
        self.error = "in use by task"
        self.endpoint_left = 0  # so often the engine's own endpoint is still seen on the network

    def run(self, words: Command, seconds: float) -> tuple[int, str, str]:
        said = " ".join(words[1:])
        if self.network and said.startswith("network inspect") and not self.service_on:
            self.network["Containers"] = {"lb-app": {"Name": "app-endpoint"}} if self.endpoint_left else {}
            self.endpoint_left = max(0, self.endpoint_left - 1)
        answers = {
            "info": "true\n",
            "network ls": "app\n" if self.network else "",
            "network inspect": json.dumps([self.network]),
            "service ls": "i2zqgzls2yfk\n",
            "service inspect": json.dumps([self.service()]),
            "ps": ("app-node1\n" if "Names" in said else f"{CONTAINER['Id']}\n" if self.container_on else ""),
            "inspect": json.dumps([CONTAINER]),
        }
        for start, answer in answers.items():
            if said.startswith(start):
                return 0, answer, ""
        for start, left in self.fails.items():
            if said.startswith(start) and left:
                self.fails[start] = left - 1
                return 1, "", self.error
        self.done.append(words)
        self.change(words)
        return 0, "", ""

    def change(self, words: Command) -> None:
        if words[:3] == ["docker", "network", "rm"]:
            self.network = None
        elif words[:3] == ["docker", "network", "create"]:
            options = dict(word.partition("=")[::2] for word, flag in zip(words[1:], words) if flag == "--opt")
            self.network = {**json.loads(json.dumps(INSPECTED)), "Id": "new", "Options": options}
        elif words[1] == "service":
            self.service_on = "--network-add" in words
        else:
            self.container_on = words[2] == "connect"

    def service(self) -> dict[str, Any]:
        target = [{"Target": (self.network or {}).get("Id"), "Aliases": ["web"]}] if self.service_on else []
        return {"Spec": {"Name": "svc", "TaskTemplate": {"Networks": target}}}


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setattr(apply, "PAUSE", 0.01)
    return Fleet()


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record("test", str(tmp_path / "state" / "record"))


def again(record: Record) -> Record:
    """As the next run finds it."""
    folder, name = record.path.rsplit("/", 1)
    return Record(name.removesuffix(".json"), folder)


def planned(fleet: Fleet, record: Record, mtu: int = 1400, restore: bool = False) -> Network:
    return apply.plan(apply.Engine(fleet.run), [Network("app", mtu)], record, restore)[0]


def recreate(fleet: Fleet, record: Record, restore: bool = False, seconds: float = 5.0) -> None:
    apply.recreate(apply.Engine(fleet.run), planned(fleet, record, restore=restore), record, seconds)


def test_the_plan_keeps_everything_but_the_mtu(fleet: Fleet, record: Record) -> None:
    plan = planned(fleet, record)
    assert (plan.differs, plan.why, plan.now) == (True, None, None)
    assert plan.commands() == [OFF, ["docker", "network", "rm", "app"], NEW, ON]
    assert plan.recreate_old == OLD
    assert apply.lines([plan])[2].endswith("--label 'team=a b' app")
    assert plan.elsewhere == [{"name": "app-node2", "host": "192.0.2.12"}]


def test_what_was_planned_is_done_and_then_nothing(fleet: Fleet, record: Record) -> None:
    plan = planned(fleet, record)
    recreate(fleet, record)
    assert fleet.done == plan.commands()
    assert not planned(fleet, again(record)).differs


def test_it_can_be_made_as_it_was(fleet: Fleet, record: Record) -> None:
    recreate(fleet, record)
    fleet.done.clear()
    recreate(fleet, again(record), restore=True)
    assert fleet.done == [OFF, ["docker", "network", "rm", "app"], OLD, ON]


@pytest.mark.parametrize("step", ["network rm", "network create", "service update"])
def test_a_run_that_ends_half_way_is_gone_on_with(fleet: Fleet, record: Record, step: str) -> None:
    fleet.fails[step] = 1000
    with pytest.raises(OverlayError, match="in use by task"):
        recreate(fleet, record, seconds=0.05)
    fleet.fails.clear()
    recreate(fleet, again(record))
    assert fleet.service_on
    assert not planned(fleet, again(record)).differs
    fleet.done.clear()
    recreate(fleet, again(record), restore=True)
    assert OLD in fleet.done
    assert fleet.service_on


def test_the_network_is_asked_again_while_tasks_are_still_on_it(fleet: Fleet, record: Record) -> None:
    fleet.fails["network rm"] = 3
    recreate(fleet, record)
    assert fleet.network and fleet.network["Options"][planning.MTU_OPTION] == "1400"


def test_the_network_is_removed_only_when_the_engine_has_let_go_of_it(fleet: Fleet, record: Record) -> None:
    """Seen once in six: removed a moment too early, the engine's own copy stayed, and none could be made anew."""
    fleet.endpoint_left = 3
    recreate(fleet, record)
    assert fleet.endpoint_left == 0
    assert ["docker", "network", "rm", "app"] in fleet.done


def test_a_copy_that_the_engine_keeps_is_told_with_what_to_do(
    fleet: Fleet, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "LEFTOVER_SECONDS", 0.1)
    fleet.fails["network create"], fleet.error = 1000, "network with name app already exists"
    with pytest.raises(OverlayError, match="systemctl restart docker"):
        recreate(fleet, record, seconds=1.0)


def test_containers_come_off_and_go_back_as_they_were(fleet: Fleet, record: Record) -> None:
    engine = apply.Engine(fleet.run)
    assert apply.detach(engine, ["app"], record, 5, pretend=True) == ["app-node1"]
    assert not fleet.done
    apply.detach(engine, ["app"], record, 5, pretend=False)
    fleet.fails["network connect"] = 2
    assert apply.attach(engine, again(record), 5, pretend=False) == ["app-node1"]
    assert fleet.done == [["docker", "network", "disconnect", "app", "app-node1"], CONNECT]
    assert not Path(record.path).parent.exists()
    assert apply.attach(engine, again(record), 5, pretend=False) == []


def test_a_container_whose_address_is_taken_gets_another(
    fleet: Fleet, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "ADDRESS_SECONDS", 0.05)
    engine = apply.Engine(fleet.run)
    apply.detach(engine, ["app"], record, 5, pretend=False)
    fleet.fails["network connect --ip"] = 1000
    apply.attach(engine, record, 5, pretend=False)
    assert fleet.done[-1] == [*CONNECT[:3], *CONNECT[5:]]


def test_what_is_in_the_way_is_said(fleet: Fleet, record: Record) -> None:
    plan = planned(fleet, record)
    assert apply.remains([plan], ["app-node2"]) == []
    assert apply.remains([plan], []) == [
        "app-node2 on 192.0.2.12 has to come off app, and is on no host that was named."
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"Ingress": True}, "routing mesh"),
        ({"Driver": "bridge"}, "no overlay network"),
        ({"ConfigFrom": {"Network": "site"}}, "from another network"),
    ],
)
def test_what_cannot_be_done_from_here_says_why(
    fleet: Fleet, record: Record, change: dict[str, Any], says: str
) -> None:
    assert fleet.network
    fleet.network.update(change)
    assert says in str(planned(fleet, record).why)


def test_a_network_that_is_not_known_says_so(fleet: Fleet, record: Record) -> None:
    fleet.network = None
    plan = planned(fleet, record)
    assert (plan.differs, plan.why) == (False, "There is no such network, as far as this engine knows.")


def test_a_task_of_a_service_is_the_swarms(fleet: Fleet) -> None:
    task = {**CONTAINER, "Config": {"Labels": {planning.SERVICE_LABEL: "x"}}}
    assert planning.container_member(task, "app") is None


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"name": "--help", "mtu": 1400}], "is not the name"),
        ([{"name": "a;b", "mtu": 1400}], "is not the name"),
        ([{"name": "a", "mtu": 67}], "MTU of 67"),
        ([{"name": "a", "mtu": 1400}, {"name": "a", "mtu": 1500}], "named twice"),
    ],
)
def test_a_value_that_is_none_is_refused(rows: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(OverlayError, match=says):
        planning.wanted(rows)


def test_another_mtu_takes_the_place_of_the_old_one() -> None:
    assert apply.with_mtu(NEW, 1300) == [
        *CREATE,
        *["--opt", "encrypted", "--label", "team=a b", "--opt", f"{planning.MTU_OPTION}=1300", "app"],
    ]

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read overlay networks and make them anew, by the engine's own program, with a bound on everything."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import time
import typing as t
from collections.abc import Callable

from ansible_collections.crosshost.doctor.plugins.module_utils import _commands, _overlay_plan
from ansible_collections.crosshost.doctor.plugins.module_utils._overlay_plan import (
    Command,
    Member,
    Network,
    OverlayError,
    Row,
)
from ansible_collections.crosshost.doctor.plugins.module_utils._overlay_record import Record

READ_SECONDS = 30.0
PAUSE = 1.0
NO_END = 124  # as timeout(1) says it
LEFTOVER_SECONDS = 10.0  # for the engine's own part in a network that is removed
ADDRESS_SECONDS = 20.0  # a host may hear late of a network that is new
KEPT = (
    "The Swarm has removed the network, and this host's engine keeps its copy. Restart the engine (systemctl restart "
    "docker) and run this again: it goes on where it ended."
)
Runner = Callable[[Command, float], tuple[int, str, str]]


def run(words: Command, seconds: float) -> tuple[int, str, str]:
    """(exit status, output, errors) of the engine's program.

    @raises OverlayError: it is not there.
    """
    program = _commands.find(words[0])
    if program is None:
        raise OverlayError(f"{words[0]} is not on this host: install the engine's command line client.")
    environment = dict(os.environ, PATH=_commands.PATH, LC_ALL="C")
    try:
        done = subprocess.run(
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=max(seconds, 1.0),
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return NO_END, "", f"no end within {seconds:.0f} s"
    return done.returncode, done.stdout, done.stderr


class Engine:
    """The engine of this host. C(actions) are the commands that were run and changed something."""

    def __init__(self, runner: Runner = run) -> None:
        self._run = runner
        self.actions: list[str] = []

    def _read(self, *words: str) -> list[Row]:
        code, output, error = self._run(["docker", *words], READ_SECONDS)
        if code and not output.strip().startswith("["):
            raise OverlayError(f"docker {' '.join(words[:2])}: {error.strip()[-300:]}")
        found: list[Row] = json.loads(output)
        return found

    def _lines(self, *words: str) -> list[str]:
        code, output, error = self._run(["docker", *words], READ_SECONDS)
        if code:
            raise OverlayError(f"docker {' '.join(words[:2])}: {error.strip()[-300:]}")
        return output.split()

    def manages(self) -> bool:
        """Whether it is a manager of a Swarm."""
        return self._lines("info", "--format", "{{.Swarm.ControlAvailable}}") == ["true"]

    def network(self, name: str) -> Row | None:
        """A network by its very name, or None."""
        if name not in self._lines("network", "ls", "--format", "{{.Name}}"):
            return None
        return self._read("network", "inspect", "--verbose", name)[0]

    def services(self) -> list[Row]:
        found = self._lines("service", "ls", "--quiet")
        return self._read("service", "inspect", *found) if found else []

    def members(self, network: str) -> list[Member]:
        """Containers of this host on the network that are of no service, running or not."""
        found = self._lines("ps", "--all", "--quiet", "--no-trunc", "--filter", f"network={network}")
        rows = self._read("inspect", "--type", "container", *found) if found else []
        members = [_overlay_plan.container_member(row, network) for row in rows if on_network(row, network)]
        return [member for member in members if member]

    def do(self, words: Command, deadline: float, patient: bool = False) -> None:
        """Run a command; C(patient): again and again, for what the cluster has not heard of yet.

        @raises OverlayError: it failed, or went on failing until the deadline.
        """
        said = ""
        while True:
            code, _output, error = self._run(words, deadline - time.monotonic())
            if code == 0:
                self.actions.append(" ".join(words))
                return
            if code != NO_END or not said:  # the last try may be cut short: what the engine said before tells more
                said = error.strip()[-300:]
            if not patient or time.monotonic() + PAUSE > deadline:
                raise OverlayError(f"{' '.join(words)}: {said}")
            time.sleep(PAUSE)


def on_network(container: Row, network: str) -> bool:
    return network in ((container.get("NetworkSettings") or {}).get("Networks") or {})


def plan(engine: Engine, networks: list[Network], record: Record, restore: bool) -> list[Network]:
    """Fill in the plans of the networks, as asked for or, to C(restore), as they were before.

    @raises OverlayError: the engine does not answer.
    """
    if not networks:
        return []
    services = engine.services() if engine.manages() else []
    for network in networks:
        inspected = engine.network(network.name)
        old = (record.networks.get(network.name) or {}).get("create")
        if inspected is not None:
            _overlay_plan.complete(network, inspected, services)
            if restore and old:
                network.create, network.differs = old, network.recreate_old != old
        elif old:
            network.differs = True  # a run before this one ended between its removal and its return
            network.create = old if restore else with_mtu(old, network.mtu)
        else:
            network.why = "There is no such network, as far as this engine knows."
    return networks


def with_mtu(create: Command, mtu: int) -> Command:
    """The command that makes a network, with another MTU."""
    option, kept = f"{_overlay_plan.MTU_OPTION}=", list(create[:-1])
    for index, word in enumerate(kept):
        if word.startswith(option):
            del kept[index - 1 : index + 1]
            break
    return [*kept, "--opt", f"{option}{mtu}", create[-1]]


def detach(engine: Engine, names: list[str], record: Record, seconds: float, pretend: bool) -> list[str]:
    """Take this host's containers off the networks, and record how they go back; their names.

    @raises OverlayError: one does not come off.
    """
    deadline, found = time.monotonic() + seconds, []
    for name in names:
        for member in engine.members(_overlay_plan.checked_name(name)):
            found.append(member.name)
            if not pretend:
                record.entry(name)["containers"][member.name] = member.on
                record.save()
                engine.do(member.off, deadline)
    return found


def attach(engine: Engine, record: Record, seconds: float, pretend: bool) -> list[str]:
    """Put back what L(detach) took off, as far as the containers are still there; their names.

    @raises OverlayError: one does not go back on.
    """
    deadline, found = time.monotonic() + seconds, []
    for name in list(record.networks):
        pending = record.pending(name, "containers")
        on = {member.name for member in engine.members(name)} if pending else set()
        there = set(engine._lines("ps", "--all", "--format", "{{.Names}}")) if pending else set()
        for container, words in list(pending.items()):
            if container in there - on:
                found.append(container)
                if pretend:
                    continue
                _connect(engine, words, deadline)
            if not pretend:
                del pending[container]
                record.save()
    return found


def _connect(engine: Engine, words: Command, deadline: float) -> None:
    """Connect a container, with the address it had if that is still free; what the Swarm gave looks like a fixed one.

    @raises OverlayError: it does not go back on, with any address.
    """
    if words != any_address(words):
        try:
            engine.do(words, min(deadline, time.monotonic() + ADDRESS_SECONDS), patient=True)
            return
        except OverlayError:
            pass
    engine.do(any_address(words), deadline, patient=True)


def any_address(words: Command) -> Command:
    """The command that connects a container, without an address."""
    kept: Command = []
    for word in words:
        if kept and kept[-1] in ("--ip", "--ip6"):
            kept.pop()
        else:
            kept.append(word)
    return kept


def recreate(engine: Engine, network: Network, record: Record, seconds: float) -> None:
    """Take the services off, make the network anew, put them back; also those that a run before this one took off.

    @raises OverlayError: a step failed. What was taken off is put back on as far as the network is there.
    """
    deadline = time.monotonic() + seconds
    entry = record.entry(network.name)
    entry["create"] = entry["create"] or network.recreate_old or None
    entry["services"].update({member.name: member.on for member in network.services if network.differs})
    record.save()
    try:
        if network.differs:
            for member in network.services:
                engine.do(member.off, deadline)
            if network.recreate_old:
                _let_go(engine, network.name, deadline)
                engine.do(network.remove, deadline, patient=True)
            _create(engine, network, deadline)
    finally:
        _services_back(engine, network.name, record, time.monotonic() + seconds)


def _let_go(engine: Engine, name: str, deadline: float) -> None:
    """Wait until the engine has no endpoint on the network any more, its own load balancer's included.

    That comes off by itself, a moment after the last container. An engine that is told of the removal before keeps its
    copy of the network, and then no other of that name can be made on it.
    """
    end = min(deadline, time.monotonic() + LEFTOVER_SECONDS)
    while (engine.network(name) or {}).get("Containers") and time.monotonic() < end:
        time.sleep(PAUSE)


def _create(engine: Engine, network: Network, deadline: float) -> None:
    """Make the network. An engine may keep its own copy of the one that the Swarm removed: that goes first then.

    @raises OverlayError: it could not be made before the deadline.
    """
    while True:
        try:
            engine.do(network.create, min(deadline, time.monotonic() + LEFTOVER_SECONDS), patient=True)
            return
        except OverlayError as exc:
            if "already exists" not in str(exc):
                raise
            if time.monotonic() + LEFTOVER_SECONDS > deadline:
                raise OverlayError(f"{exc} {KEPT}") from exc
        with contextlib.suppress(OverlayError):
            engine.do(network.remove, time.monotonic() + READ_SECONDS)


def _services_back(engine: Engine, name: str, record: Record, deadline: float) -> None:
    pending = record.pending(name, "services")
    services = {str((row.get("Spec") or {}).get("Name")): row for row in engine.services()} if pending else {}
    inspected = engine.network(name) if pending else None
    if inspected is None:
        return
    for service, words in list(pending.items()):
        targets = [row.get("Target") for row in _overlay_plan.networks_of(services.get(service, {}))]
        if service in services and inspected.get("Id") not in targets and name not in targets:
            engine.do(words, deadline)
        del pending[service]
        record.save()


def rows(networks: list[Network]) -> list[dict[str, t.Any]]:
    """The plans for the result."""
    return [
        {
            "name": network.name,
            "mtu": network.now,
            "differs": network.differs,
            "why": network.why,
            "services": [member.name for member in network.services],
            "containers": network.elsewhere,
            "commands": network.commands() if network.differs and network.create else [],
        }
        for network in networks
    ]


def lines(networks: list[Network]) -> list[str]:
    """All commands of the plans, as they are typed."""
    return [
        " ".join(map(shlex.quote, words)) for network in networks if network.differs for words in network.commands()
    ]


def remains(networks: list[Network], reached: list[str]) -> list[str]:
    """What is in the way: networks that cannot be made anew, and containers that nobody takes off."""
    found = []
    for network in networks:
        if network.differs or network.why:
            found += [f"{network.name}: {network.why}"] if network.why else []
            found += [
                f"{row['name']} on {row['host']} has to come off {network.name}, and is on no host that was named."
                for row in network.elsewhere
                if row["name"] not in reached
            ]
    return found

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Cases measured on several labs at the same time, each lab in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tests.lab import Lab, LabError
from tests.lab.faults import FAULTS
from tests.lab.traps import TRAPS

HOSTS = 3

Case = dict[str, Any]
Work = Callable[[str, int, Iterator[str]], Iterable[Case]]
"""Given a name for its lab, how many managers that needs, and the names of its cases; yields each case measured."""


def measured(names: list[str], labs: int, work: Work) -> Iterator[tuple[str, Case | None]]:
    """Each case's name and what was measured; None where the process of its lab died.

    Work is done in other processes, which end when there are no names left or nobody waits for their cases any more.
    Cases that need several managers have labs of their own. A case bears its "name".
    """
    context = multiprocessing.get_context("spawn")
    by_managers: dict[int, list[str]] = {}
    for name in names:
        fault = FAULTS.get(name) or TRAPS.get(name)
        by_managers.setdefault(fault.managers if fault else 1, []).append(name)
    for managers, group in sorted(by_managers.items()):
        tasks, results = context.Queue(), context.Queue()
        for name in group:
            tasks.put(name)
        workers = [
            context.Process(target=_serve, args=(work, f"{os.getpid()}-{managers}-{number}", managers, tasks, results))
            for number in range(min(labs, len(group)))
        ]
        for worker in workers:
            worker.start()
        left = set(group)
        while left:
            try:
                case = results.get(timeout=5)
                left.discard(case["name"])
                yield case["name"], case
            except queue.Empty:
                if not any(worker.is_alive() for worker in workers):
                    break
        for worker in workers:
            worker.join()
        yield from ((name, None) for name in sorted(left))


def _serve(work: Work, name: str, managers: int, tasks: Any, results: Any) -> None:
    parent = os.getppid()

    def names() -> Iterator[str]:
        while os.getppid() == parent:
            try:
                yield tasks.get(timeout=1)
            except queue.Empty:
                return

    for case in work(name, managers, names()):
        results.put(case)


def new_lab(name: str, managers: int) -> Lab:
    """A lab; on a machine that is busy with others it may take more than one attempt."""
    for left in (2, 1):
        try:
            return Lab.up(name, hosts=HOSTS, managers=managers)
        except LabError as error:
            print(f"{name}: {str(error).splitlines()[0][:200]}; {left} attempt(s) left", flush=True)
    return Lab.up(name, hosts=HOSTS, managers=managers)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lab of the system tests: one for the whole session, gone with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab, packages, state

Broken = Callable[..., AbstractContextManager[dict[str, Any]]]


@pytest.fixture(scope="session")
def ground() -> None:
    """What a lab needs of the machine. Its absence fails the tests: a gate that skips everything guards nothing."""
    if os.geteuid() != 0:
        pytest.fail("the system tests make network namespaces and mounts: run them as root", pytrace=False)
    if names := packages.missing():
        pytest.fail(packages.explain(names), pytrace=False)


@pytest.fixture(scope="session")
def session_lab(ground: None) -> Iterator[Lab]:
    """A lab of CROSSHOST_LAB_HOSTS hosts (default 3). CROSSHOST_LAB=NAME: a lab that is up already, and stays up."""
    name = os.environ.get("CROSSHOST_LAB")
    if name and name in state.names():
        lab = Lab.load(name)
        lab.wait_converged()
        yield lab
        return
    lab = Lab.up(name or f"test-{os.getpid()}", hosts=int(os.environ.get("CROSSHOST_LAB_HOSTS", "3")))
    try:
        yield lab
    finally:
        lab.down()


@pytest.fixture
def lab(session_lab: Lab) -> Iterator[Lab]:
    """The session's lab, whole and without any fault; what a test leaves broken is healed.

    A fault that takes long to heal has the lab built anew: ask the lab for its hosts and inventory in the test itself.
    """
    session_lab.wait_converged()
    yield session_lab
    if session_lab.present():
        session_lab.heal()


@pytest.fixture
def broken(lab: Lab) -> Broken:
    """``with broken("FAULT", host=None) as expected:`` puts a fault in and takes it out again."""
    return lab.broken


@pytest.fixture
def inventory(lab: Lab, tmp_path: Path) -> Path:
    """The lab's Ansible inventory."""
    return lab.write_inventory(tmp_path / "inventory.ini")

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Containers that do not listen where they are asked."""

from __future__ import annotations

from .. import engine
from .changes import ExtraContainer
from .model import Broken, Expect, Fault

CAUSE = "service-not-listening"


def deaf(variant: str, summary: str, change: ExtraContainer, pair: Broken, **question: str) -> Fault:
    asked = tuple(question.items())
    return Fault(CAUSE + variant, summary, (change,), Expect((CAUSE,), ("container",), (pair,)), question=asked)


FAULTS = (
    deaf(
        "",
        "a container with a published port listens on 127.0.0.1 only",
        ExtraContainer("deaf-$host", "127.0.0.1:80", (("80/tcp", 8081),)),
        Broken("published", "outside", "$host:8081", "port 8081 of $host"),
    ),
    deaf(
        ":other-port",
        "a container is published with a port it does not listen on",
        ExtraContainer("deaf-$host", "80", (("81/tcp", 8081),)),
        Broken("published", "outside", "$host:8081", "port 8081 of $host"),
    ),
    deaf(
        ":overlay",
        "a container on the overlay listens on 127.0.0.1 only",
        ExtraContainer("deaf-$host", "127.0.0.1:80", network=engine.OVERLAY),
        Broken("page", "$host", "deaf-$host", "the page of deaf-$host"),
        doctor_from="app-$peer",
        doctor_to="deaf-$host",
        doctor_port="80",
    ),
)

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The remedies of findings against the catalogue, and against what the roles themselves say of their variables."""

from __future__ import annotations

import functools
import typing as t

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.crosshost.doctor.plugins.plugin_utils.causes.base import Finding, Remedy
from ansible_collections.crosshost.doctor.plugins.plugin_utils.remedies.catalogue import ROWS
from tests.gates.tree import REPOSITORY

CONSENT = ("allow_disruption", "journal", "persistent", "guard_timeout")  # for whoever applies it to say


@functools.cache
def validator(role: str) -> ArgumentSpecValidator:
    """Of what a role takes, by its own argument specification."""
    text = (REPOSITORY / "roles" / role / "meta" / "argument_specs.yml").read_text()
    options = yaml.safe_load(text)["argument_specs"]["main"].get("options") or {}
    return ArgumentSpecValidator({name: _spec(option) for name, option in options.items()})


def unknown(finding: Finding) -> list[str]:
    """What of a finding's remedies is not in the catalogue, or nothing that its role takes."""
    row = ROWS.get(finding.cause)
    found = []
    for remedy in finding.remedies:
        if row is None or not any(repair.fits(remedy) for repair in row.repairs):
            found.append(f"{finding.cause}: not in the catalogue: {remedy.kind} {remedy.role} {remedy.disruptive}")
        if remedy.role:
            found += [f"{finding.cause}: {problem}" for problem in refused(remedy)]
    return found


def refused(remedy: Remedy) -> list[str]:
    """Why the role would not take the remedy's values."""
    role = str(remedy.role)
    problems = [f"{role}: {name} is not for a finding to say" for name in remedy.vars if name.endswith(CONSENT)]
    return problems + validator(role).validate(dict(remedy.vars)).error_messages


def _spec(option: dict[str, t.Any]) -> dict[str, t.Any]:
    """Of a role's documentation what a validator reads."""
    kept = {key: value for key, value in option.items() if key not in ("description", "version_added")}
    if "options" in kept:
        kept["options"] = {name: _spec(one) for name, one in kept["options"].items()}
    return kept

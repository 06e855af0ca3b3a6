# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a remedy's role may be told: the variables its argument specification declares, and nothing else.

A report is a file, and a file can be edited. Its values are checked against the types of the role, are handed on as
data that Ansible does not template, and the modules behind the roles check what the types cannot say.
"""

from __future__ import annotations

import os
import re
import typing as t

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

Facts = dict[str, t.Any]

ROLES_FOLDER = os.path.join(os.path.dirname(__file__), "..", "..", "..", "roles")
_ROLE = re.compile(r"[a-z][a-z0-9_]*")
_TEMPLATE = re.compile(r"\{\{|\{%|\{#")


class VariablesError(Exception):
    """The report asks a role for something it does not know; the message says what."""


def declared(role: str) -> Facts:
    """The options of a role's main entry point, as its argument_specs.yml has them.

    @raises VariablesError: there is no such role of this collection.
    """
    path = os.path.join(ROLES_FOLDER, role, "meta", "argument_specs.yml")
    if not _ROLE.fullmatch(role) or not os.path.isfile(path):
        raise VariablesError(f"{role!r} is not a role of this collection")
    with open(path, encoding="utf-8") as stream:
        options: Facts = yaml.safe_load(stream)["argument_specs"]["main"]["options"]
    return options


def complete(role: str, given: t.Mapping[str, t.Any]) -> Facts:
    """Every variable of the role: the given values, and the role's defaults for the others.

    All of them are set each time, so that nothing is left over from an earlier remedy on the same host.

    @raises VariablesError: a variable the role does not have, a value of the wrong type, or one that is a template.
    """
    options = declared(role)
    unknown = sorted(set(given) - set(options))
    if unknown:
        raise VariablesError(f"the role {role} has no variable {', '.join(map(repr, unknown))}")
    for name, value in given.items():
        _refuse_templates(name, value)
    defaults = {name: option["default"] for name, option in options.items() if "default" in option}
    checked = ArgumentSpecValidator(options).validate({**defaults, **given})
    if checked.error_messages:
        raise VariablesError(f"the role {role}: " + "; ".join(checked.error_messages))
    return {name: value for name, value in checked.validated_parameters.items() if value is not None}


def _refuse_templates(name: str, value: t.Any) -> None:
    if isinstance(value, str) and _TEMPLATE.search(value):
        raise VariablesError(f"{name} holds a template, which no report does: {value[:60]!r}")
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_templates(name, key)
            _refuse_templates(name, inner)
    if isinstance(value, list):
        for inner in value:
            _refuse_templates(name, inner)

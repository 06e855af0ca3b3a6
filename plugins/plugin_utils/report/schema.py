# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report's JSON Schema, and the check every report passes before it is written."""

from __future__ import annotations

import json
import os
import typing as t

Facts = dict[str, t.Any]

SCHEMA_FILE = os.path.join(os.path.dirname(__file__), "report.schema.json")


def load_schema() -> Facts:
    with open(SCHEMA_FILE, encoding="utf-8") as stream:
        return json.load(stream)


def problems(report: Facts) -> list[str]:
    """What is wrong with a report, one line each, none if it is valid."""
    import jsonschema

    validator = jsonschema.Draft202012Validator(load_schema())
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(report)]

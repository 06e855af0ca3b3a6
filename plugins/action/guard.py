# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs guard on the host; to confirm, over a connection made anew: an old one may outlive what cuts off new ones."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

CUT_OFF = "The host does not answer a new connection any more. Its guard takes the change back when its time is up."


class ActionModule(ActionBase):
    """See the module of the same name."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        confirming = self._task.args.get("state") == "confirmed" and not self._task.check_mode
        if confirming:
            self._connection.reset()
        try:
            return {**result, **self._execute_module(task_vars=task_vars)}
        except AnsibleConnectionFailure as exc:
            if not confirming:
                raise
            # A failure, not an unreachable host: what comes after the change must not be done, and a rescue may help.
            return {**result, "failed": True, "cut_off": True, "msg": f"{CUT_OFF} {exc}"}

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host has to put back: networks as they were, and what was taken off them. Written before anything is done.

A run that ends half-way leaves it, and the next run, or the roll-back, goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import typing as t

from ansible_collections.crosshost.doctor.plugins.module_utils._journal import open_private, replace_file
from ansible_collections.crosshost.doctor.plugins.module_utils._overlay_plan import Command, OverlayError

FOLDER = "/var/lib/crosshost-doctor/overlay-networks"
LIMIT = 4 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


class Record:
    """The record C(name) of this host: by network, C(create) and what goes back on, C(services) and C(containers)."""

    def __init__(self, name: str, folder: str = FOLDER) -> None:
        if not _NAME.fullmatch(name):
            raise OverlayError(f"record: {name!r} is no name of a record: letters, digits, '.', '_' and '-'.")
        self.path = os.path.join(folder, f"{name}.json")
        self.networks: dict[str, dict[str, t.Any]] = self._read()

    def _read(self) -> dict[str, dict[str, t.Any]]:
        try:
            with open_private(self.path, os.O_RDONLY) as handle:
                return t.cast("dict[str, dict[str, t.Any]]", json.loads(os.read(handle, LIMIT)))
        except FileNotFoundError:
            return {}
        except ValueError as exc:
            raise OverlayError(f"{self.path} is damaged: {exc}") from exc

    def entry(self, network: str) -> dict[str, t.Any]:
        return self.networks.setdefault(network, {"create": None, "services": {}, "containers": {}})

    def save(self) -> None:
        """Write it, without what holds nothing; an empty record is no file.

        @raises OSError: it cannot be written.
        """
        kept = {name: entry for name, entry in self.networks.items() if any(entry.values())}
        if kept:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            replace_file(self.path, json.dumps(kept, indent=1).encode(), 0o600)
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        with contextlib.suppress(OSError):  # other records are in it, or it was never made
            os.removedirs(os.path.dirname(self.path))

    def pending(self, network: str, kind: str) -> dict[str, Command]:
        """The commands that put services or containers back, by name."""
        found: dict[str, Command] = (self.networks.get(network) or {}).get(kind) or {}
        return found

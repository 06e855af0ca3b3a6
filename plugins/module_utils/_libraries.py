# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find pyroute2 and the Docker SDK: all from the bundle the controller brought, or all from the host.

A bundle and a host installation are never mixed: pyroute2 is one package of many modules that must be of one version,
and a docker of one origin with a requests of another fails in ways nobody understands.
Nothing is imported at import of this module, and a caller imports only what it names in C(want):
docker takes 50 to 450 ms, which a second reading of counters does not owe.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from dataclasses import dataclass, field
from types import ModuleType

# pyroute2 0.9 is the line this collection is built on and tested with; 0.7 of older distributions has other APIs.
# docker 5.0 is the oldest SDK that a supported distribution ships.
MINIMUM = {"pyroute2": "0.9.2", "docker": "5.0.0"}
NAMES = tuple(MINIMUM)


@dataclass
class Libraries:
    """What could be loaded. A library that is absent or too old is C(None), with the reason in C(missing)."""

    pyroute2: ModuleType | None = None
    docker: ModuleType | None = None
    versions: dict[str, str | None] = field(default_factory=lambda: dict.fromkeys(NAMES))
    origin: str = "host"
    missing: list[dict[str, str]] = field(default_factory=list)

    def note(self, what: str, why: str) -> None:
        """Record what is missing in the shape all modules return it in."""
        self.missing.append({"section": "host", "what": what, "why": why})


def version_tuple(version: str) -> tuple[int, ...]:
    """The leading release numbers of a version: C(0.9.7.post1) is (0, 9, 7); text without a number is ()."""
    match = re.match(r"\d+(?:\.\d+)*", version or "")
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def bundle_lacks(library_path: str, want: tuple[str, ...]) -> str | None:
    """Why the bundle cannot serve, or None. Looked up on disk: a partial import could not be undone."""
    if not os.path.isdir(library_path):
        return f"{library_path} is not a directory"
    absent = [name for name in want if not os.path.isfile(os.path.join(library_path, name, "__init__.py"))]
    return f"{library_path} does not contain {' and '.join(absent)}" if absent else None


def load(library_path: str | None, want: tuple[str, ...] = NAMES) -> Libraries:
    """Import the libraries named in C(want) and check their versions; never raises.

    @param library_path: directory with the extracted bundle, or None to use what the host has.
    @returns: L(Libraries); C(origin) is C(bundle) only when everything wanted comes from C(library_path).
    """
    libraries = Libraries()
    if library_path:
        why = bundle_lacks(library_path, want)
        if why:
            libraries.note("library_path", f"{why}: the libraries of the host are used instead")
        else:
            libraries.origin = "bundle"
            if library_path not in sys.path:
                sys.path.insert(0, library_path)
                importlib.invalidate_caches()
    if libraries.origin == "host":
        # Reading must not leave .pyc files in the host's own site-packages; in the bundle they are welcome.
        sys.dont_write_bytecode = True
    for name in want:
        module = _import(libraries, name, library_path if libraries.origin == "bundle" else None)
        if name == "pyroute2":
            libraries.pyroute2 = module
        else:
            libraries.docker = module
    return libraries


def _import(libraries: Libraries, name: str, library_path: str | None) -> ModuleType | None:
    """One library, or None with the reason noted."""
    try:
        module = importlib.import_module(name)
    except ImportError as exc:
        where = library_path or f"the host's Python ({sys.executable})"
        libraries.note(name, f"{name} >= {MINIMUM[name]} cannot be imported from {where}: {exc}")
        return None
    except Exception as exc:  # a half-installed package raises whatever it likes at import
        libraries.note(name, f"importing {name} failed: {type(exc).__name__}: {exc}")
        return None
    found = os.path.dirname(os.path.realpath(getattr(module, "__file__", None) or ""))
    version = str(getattr(module, "__version__", "") or "unknown")
    libraries.versions[name] = version
    if library_path and not (found + os.sep).startswith(os.path.realpath(library_path) + os.sep):
        libraries.note(name, f"{name} {version} was already loaded from {found}, not from {library_path}")
        return None
    if version_tuple(version) < version_tuple(MINIMUM[name]):
        libraries.note(name, f"{name} {version} found at {found} is too old: {name} >= {MINIMUM[name]} is needed")
        return None
    return module

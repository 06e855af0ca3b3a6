# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ansible-test sanity on a copy of the collection, with nothing ignored and nothing but a Python package index.

ansible-test fetches the script that puts pip into its environments from a server of its own. A script that does the
same with ensurepip and the index takes its place, in a home of ours: the user's own cache stays as it is.
"""

from __future__ import annotations

import ast
import configparser
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from tests.gates.tree import CACHE, copy

# ensurepip in a process of its own: it turns off pip's settings, and with them the index, for the process it runs in.
BOOTSTRAP = """\
import subprocess, sys
subprocess.check_call([sys.executable, "-m", "ensurepip"])
wanted = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", *wanted]))
"""


def pip_version() -> str:
    """The pip that the installed ansible-test wants in its environments."""
    from ansible_test._internal.python_requirements import get_venv_packages

    python = SimpleNamespace(version=f"{sys.version_info.major}.{sys.version_info.minor}")
    return str(get_venv_packages(python)["pip"])


def pip_settings() -> configparser.RawConfigParser:
    """What is set for pip here, in files and in the environment, of which ansible-test hands on nothing."""
    settings = configparser.RawConfigParser()
    command = [sys.executable, "-m", "pip", "config", "list"]
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        name, _equals, value = line.partition("=")
        section, _dot, key = name.rpartition(".")
        section = "global" if section == ":env:" else section
        if not settings.has_section(section):
            settings.add_section(section)
        settings.set(section, key, ast.literal_eval(value))
    return settings


def home() -> Path:
    """A home with the bootstrap script and pip's settings."""
    ours = CACHE / "sanity" / "home"
    cache, config = ours / ".ansible" / "test" / "cache", ours / ".config" / "pip"
    for folder in (cache, config):
        folder.mkdir(parents=True, exist_ok=True)
    (cache / f"get_pip_{pip_version().replace('.', '_')}.py").write_text(BOOTSTRAP)
    with open(config / "pip.conf", "w", encoding="utf-8") as stream:
        pip_settings().write(stream)
    return ours


def main(arguments: list[str]) -> int:
    collection = copy(CACHE / "sanity")
    for ignored in sorted(collection.glob("tests/sanity/ignore-*.txt")):
        if ignored.read_text().strip():
            sys.stderr.write(f"tests/sanity/{ignored.name} is not empty: nothing is ignored here.\n")
            return 1
    binaries = Path(sys.executable).parent
    environment = {**os.environ, "HOME": str(home()), "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    # ansible-test reads neither; and an ansible.cfg of the user's has no say here.
    for name in ("ANSIBLE_CONFIG", "ANSIBLE_COLLECTIONS_PATH", "PYTHONPATH", "ANSIBLE_CALLBACKS_ENABLED"):
        environment.pop(name, None)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = [
        str(binaries / "ansible-test"),
        "sanity",
        "--requirements",
        "--python",
        version,
        "--color",
        "no",
        *arguments,
    ]
    done = subprocess.run(
        command,
        cwd=collection,
        env=environment,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        errors = [line for line in done.stdout.splitlines() if line.startswith("ERROR: ")]
        sys.stderr.write("\n".join(errors) + "\n" if errors else done.stdout)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

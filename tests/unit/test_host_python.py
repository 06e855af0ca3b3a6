# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is sent to hosts imports on every Python a host may have, with no library but Ansible's own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import ansible.module_utils
import pytest

from tests.gates.tree import REPOSITORY
from tests.unit import interpreters

PROGRAM = """if True:
    import importlib, pathlib, sys, warnings
    warnings.simplefilter("error")
    root = sys.path[0] = sys.argv[1]
    plugins = pathlib.Path(root, "ansible_collections", "crosshost", "doctor", "plugins")
    names = []
    for kind in ("module_utils", "modules"):
        for path in sorted((plugins / kind).glob("*.py")):
            names.append(path.stem)
            importlib.import_module(f"ansible_collections.crosshost.doctor.plugins.{kind}.{path.stem}")
    assert "prepare" in names and "_host_folder" in names
    heavy = {"pyroute2", "docker"} & set(sys.modules)
    assert not heavy, f"imported by a mere import: {heavy}"
"""


def host_tree(folder: Path) -> Path:
    """What a module finds on a host: ansible.module_utils and this collection."""
    (folder / "ansible").mkdir()
    (folder / "ansible" / "__init__.py").touch()
    (folder / "ansible" / "module_utils").symlink_to(Path(ansible.module_utils.__path__[0]))
    # 2.19's module_utils ask it for ansible-core's version.
    release = Path(ansible.module_utils.__path__[0]).parent / "release.py"
    (folder / "ansible" / "release.py").symlink_to(release)
    (folder / "ansible_collections" / "crosshost").mkdir(parents=True)
    (folder / "ansible_collections" / "crosshost" / "doctor").symlink_to(REPOSITORY)
    return folder


@pytest.mark.parametrize("version", interpreters.HOSTS_HAVE)
def test_everything_imports(version: str, tmp_path: Path) -> None:
    python = interpreters.find(version)
    if python is None:
        pytest.skip(f"there is no Python {version} on this machine")
    command = [python, "-S", "-B", "-c", PROGRAM, str(host_tree(tmp_path))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_at_least_one_python_was_tried() -> None:
    assert interpreters.found()

# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The collection as a package: what is promised in one place is kept in the other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from ansible_collections.crosshost.doctor.plugins.plugin_utils.version import COLLECTION_VERSION
from tests.gates.tree import REPOSITORY, files

RUNTIME = ("meta", "plugins", "roles", "playbooks")
ROLES = sorted(path.name for path in (REPOSITORY / "roles").iterdir() if (path / "tasks").is_dir())


def load(path: str | Path) -> Any:
    return yaml.safe_load((REPOSITORY / path).read_text())


def plugins(kind: str) -> set[str]:
    return {path.stem for path in (REPOSITORY / "plugins" / kind).glob("[a-z]*.py")}


class TestGalaxy:
    def test_the_version_is_one(self) -> None:
        assert load("galaxy.yml")["version"] == COLLECTION_VERSION
        assert re.fullmatch(r"\d+\.\d+\.\d+(-[0-9a-z.-]+)?", COLLECTION_VERSION)

    def test_the_metadata_is_what_galaxy_takes(self) -> None:
        galaxy = load("galaxy.yml")
        assert (galaxy["namespace"], galaxy["name"]) == ("crosshost", "doctor")
        assert galaxy["license"] == ["GPL-3.0-or-later"]
        assert all(galaxy[key].startswith("https://") for key in ("repository", "documentation", "homepage", "issues"))
        assert 0 < len(galaxy["tags"]) <= 20
        assert all(re.fullmatch(r"[a-z0-9]{1,64}", tag) for tag in galaxy["tags"])
        assert all(len(author) <= 64 for author in galaxy["authors"])

    def test_dependencies_are_the_same_for_galaxy_and_for_a_clone(self) -> None:
        cloned = {item["name"]: item["version"] for item in load("requirements.yml")["collections"]}
        assert load("galaxy.yml")["dependencies"] == cloned

    def test_an_execution_environment_has_what_the_controller_needs(self) -> None:
        def names(path: str) -> set[str]:
            lines = (REPOSITORY / path).read_text().splitlines()
            return {re.split(r"[<>=]", line)[0] for line in lines if line and not line.startswith("#")}

        environment = load("meta/execution-environment.yml")["dependencies"]
        assert names(environment["python"]) == names("requirements.txt") - {"ansible-core"}
        assert (REPOSITORY / environment["system"]).is_file()


class TestPlugins:
    def test_every_action_has_a_module_that_documents_it(self) -> None:
        assert plugins("action") <= plugins("modules")

    def test_action_groups_name_modules_that_exist(self) -> None:
        for members in load("meta/runtime.yml").get("action_groups", {}).values():
            assert {member.removeprefix("crosshost.doctor.") for member in members} <= plugins("modules")

    def test_module_utils_are_private_to_the_collection(self) -> None:
        assert not plugins("module_utils")


@pytest.mark.parametrize("role", ROLES)
class TestRoles:
    def specs(self, role: str) -> dict[str, Any]:
        return load(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]

    def options(self, role: str) -> dict[str, Any]:
        return {name: option for spec in self.specs(role).values() for name, option in spec.get("options", {}).items()}

    def test_every_entry_point_has_tasks(self, role: str) -> None:
        for entry in self.specs(role):
            assert (REPOSITORY / "roles" / role / "tasks" / f"{entry}.yml").is_file()

    def test_the_argument_specs_equal_the_defaults(self, role: str) -> None:
        defaults = load(f"roles/{role}/defaults/main.yml") or {}
        optional = {
            name: option.get("default") for name, option in self.options(role).items() if not option.get("required")
        }
        assert optional == defaults

    def test_variables_carry_the_name_of_the_role(self, role: str) -> None:
        assert [name for name in self.options(role) if not name.startswith(f"{role}_")] == []

    def test_the_readme_names_every_variable(self, role: str) -> None:
        text = (REPOSITORY / "roles" / role / "README.md").read_text()
        assert [name for name in self.options(role) if f"`{name}`" not in text] == []


def covered_by_reuse() -> list[str]:
    with open(REPOSITORY / "REUSE.toml", "rb") as stream:
        annotations = tomllib.load(stream)["annotations"]
    return [pattern for annotation in annotations for pattern in annotation["path"]]


def matches(path: str, pattern: str) -> bool:
    """A path of REUSE.toml: * stays within a folder, ** does not."""
    parts = (re.escape(part).replace(r"\*", "[^/]*") for part in pattern.split("**"))
    return re.fullmatch(".*".join(parts), path) is not None


def test_every_file_names_its_licence() -> None:
    texts = {"COPYING", "LICENSES/GPL-3.0-or-later.txt"}
    patterns = covered_by_reuse()
    without = []
    for path in files():
        name = str(PurePosixPath(path))
        head = (REPOSITORY / path).read_bytes()[:1000]
        covered = name in texts or any(matches(name, pattern) for pattern in patterns)
        if not covered and b"SPDX-License-Identifier: " not in head:
            without.append(name)
    assert without == []


def test_the_licence_is_the_whole_gpl() -> None:
    text = (REPOSITORY / "COPYING").read_text()
    assert text == (REPOSITORY / "LICENSES" / "GPL-3.0-or-later.txt").read_text()
    assert "Version 3, 29 June 2007" in text and text.rstrip().endswith(
        "<https://www.gnu.org/licenses/why-not-lgpl.html>."
    )


def test_scripts_are_executable() -> None:
    assert os.access(REPOSITORY / ".ci" / "run", os.X_OK)


def test_the_collection_runs_with_every_other_folder_deleted(tmp_path: Path) -> None:
    collection = tmp_path / "ansible_collections" / "crosshost" / "doctor"
    for path in files():
        if path.parts[0] in (*RUNTIME, "galaxy.yml"):
            (collection / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / path, collection / path)
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(tmp_path),
        "ANSIBLE_COLLECTIONS_SCAN_SYS_PATH": "false",
        "ANSIBLE_LOCALHOST_WARNING": "0",
    }
    binaries = Path(sys.executable).parent
    playbooks = sorted(path.stem for path in (collection / "playbooks").glob("*.yml"))
    for playbook in playbooks:
        command = [binaries / "ansible-playbook", "-i", "localhost,", "--syntax-check", f"crosshost.doctor.{playbook}"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    # Isolated from the repository's own copy, which the virtual environment holds.
    program = f"""if True:
        import pkgutil, sys, importlib
        sys.path = [{str(tmp_path)!r}] + sys.path
        import ansible_collections
        ansible_collections.__path__ = [{str(tmp_path / "ansible_collections")!r}]
        base = "ansible_collections.crosshost.doctor.plugins."
        for kind in ("plugin_utils", "module_utils", "modules", "action"):
            package = importlib.import_module(base + kind)
            for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
                importlib.import_module(found.name)
        ours = [name for name in sys.modules if name.startswith("ansible_collections.crosshost")]
        paths = [getattr(sys.modules[name], "__file__", None) or {str(tmp_path)!r} for name in ours]
        assert all(path.startswith({str(tmp_path)!r}) for path in paths), paths
        assert len(ours) > 20
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

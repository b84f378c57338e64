"""The recipes of the pages for authors of adapters: whole packages, run as they are written."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.e2e.test_docs_examples import expected
from tests.support.pages import PAGES, blocks, files_of
from tests.support.paths import ROOT

RECIPES = sorted(PAGES.glob("extending-*.md"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of all recipes, whose entry points are found where it is on the path."""
    folder = tmp_path_factory.mktemp("recipes")
    for recipe in RECIPES:
        written = files_of(recipe.read_text())
        for name, text in written.items():
            (folder / name).write_text(text)
        _declare(tomllib.loads(written["pyproject.toml"])["project"], folder)
    return folder


def _declare(project: Mapping[str, object], folder: Path) -> None:
    """What an installer writes down of a package."""
    groups = project["entry-points"]
    assert isinstance(groups, dict)
    lines = [line for group, names in groups.items() for line in (f"[{group}]", *map(" = ".join, names.items()))]
    declared = folder / f"{str(project['name']).replace('-', '_')}-{project['version']}.dist-info"
    declared.mkdir()
    (declared / "METADATA").write_text("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".format_map(project))
    (declared / "entry_points.txt").write_text("\n".join(lines))


def run(folder: Path, *command: str) -> str:
    """What a command prints that ends well, in the folder and with it on the path."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "PATH": path}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_recipes_keep_the_contracts_of_their_ports(installed: Path) -> None:
    tests = sorted(str(file) for file in installed.glob("test_*.py"))
    assert len(tests) == len(RECIPES) >= 4
    assert "passed" in run(installed, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests)


def test_the_recipes_have_the_types_of_their_ports(installed: Path) -> None:
    modules = [str(file) for file in installed.glob("dropout_*.py")]
    settings = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache"))
    run(installed, sys.executable, "-m", "mypy", *settings, *modules)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_the_commands_of_a_recipe_find_what_is_installed(recipe: Path, installed: Path) -> None:
    (block,) = blocks(recipe.read_text(), "console")
    lines = [line.removeprefix("$ ") for line in block.text.splitlines() if line.startswith("$ ")]
    printed = run(installed, "bash", "-ec", "\n".join(lines))
    assert expected(block).fullmatch("\n".join(line.rstrip() for line in printed.splitlines())), printed

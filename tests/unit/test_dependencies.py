"""What is declared, what is locked and what is imported are the same."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BASE = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {extra: [Requirement(line) for line in lines] for extra, lines in PROJECT["optional-dependencies"].items()}
DECLARED = [*BASE, *chain.from_iterable(EXTRAS.values())]
PYTHONS = ("3.11", "3.12", "3.13")

PARTS = {"pydantic-core": "pydantic"}
"""Packages whose version another one fixes because they are halves of one thing -> that other one."""


@cache
def locked() -> tuple[Requirement, ...]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return tuple(Requirement(line.removesuffix(" \\")) for line in lines if line[:1].isalnum())


def versions_for(requirement: Requirement, python: str) -> list[Version]:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    return [
        Version(str(pin.specifier).removeprefix("=="))
        for pin in locked()
        if canonicalize_name(pin.name) == canonicalize_name(requirement.name)
        and (pin.marker is None or pin.marker.evaluate(environment))
    ]


def imports(*files: Path) -> set[str]:
    """The packages, not of the standard library and not our own, that the files import anywhere."""
    return {
        name
        for file in files
        for name in _modules(ast.parse(file.read_text()))
        if name not in sys.stdlib_module_names and name not in ("extproc", "__future__")
    }


def _modules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@cache
def installed() -> Mapping[str, list[str]]:
    return packages_distributions()


def distributions(module: str) -> set[str]:
    found = {canonicalize_name(name) for name in installed()[module]}
    return found | {PARTS[name] for name in found if name in PARTS}


PACKAGE = ROOT / "extproc"
SYSTEMS = {extra: f"adapters/{extra}" for extra in sorted(EXTRAS) if (PACKAGE / "adapters" / extra).is_dir()}
"""Whose adapters import what comes with the extra of their folder's name; those of the others do with the base."""


def code(place: str) -> list[Path]:
    path = PACKAGE / place
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def of_serve() -> list[Path]:
    return sorted(set(code("")) - set(chain(code("demo"), *map(code, SYSTEMS.values()))))


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("requirement", DECLARED, ids=lambda requirement: str(requirement.name))
def test_every_dependency_is_locked_at_a_version_that_it_allows(requirement: Requirement, python: str) -> None:
    (version,) = versions_for(requirement, python)
    assert requirement.specifier.contains(version)


def test_every_locked_package_has_a_hash() -> None:
    text = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=[a-z0-9])", text)
    assert len(entries) == len(locked())
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_the_lock_is_good_for_any_index() -> None:
    for name in ("requirements.lock", "pyproject.toml"):
        assert not re.search(r"index-url|find-links|https?://", (ROOT / name).read_text()), name


def test_every_declared_dependency_says_why() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    for requirement in DECLARED:
        declared = [line for line in lines if re.match(rf'    "{re.escape(requirement.name)}[\[<>=]', line)]
        assert declared, requirement
        assert [line for line in declared if not re.search(r"# .{8}", line)] == []


def test_what_serve_imports_is_declared_and_nothing_else() -> None:
    needed = {module: distributions(module) for module in imports(*of_serve())}
    base = {canonicalize_name(requirement.name) for requirement in BASE}
    assert {module for module, names in needed.items() if not names & base} == set()
    assert base - set(chain.from_iterable(needed.values())) == set()


def test_what_the_demo_imports_comes_with_its_extra() -> None:
    needed = {module: distributions(module) for module in imports(*code("demo"))}
    given = {canonicalize_name(requirement.name) for requirement in (*BASE, *EXTRAS["demo"])}
    assert {module for module, names in needed.items() if not names & given} == set()


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_the_adapters_of_a_system_import_comes_with_its_extra_and_nothing_else_does(system: str) -> None:
    needed = {module: distributions(module) for module in imports(*code(SYSTEMS[system]))}
    base, extra = ({canonicalize_name(each.name) for each in of} for of in (BASE, EXTRAS[system]))
    assert {module for module, names in needed.items() if not names & (base | extra)} == set()
    assert extra - set(chain.from_iterable(needed.values())) == set()


def test_protobuf_is_not_older_than_the_generated_code() -> None:
    """Protobuf promises that generated code works with its own version and later ones, to the end of the next major."""
    generated = {
        Version(".".join(re.findall(r"^    (\d+),$", file.read_text(), re.MULTILINE)[:3]))
        for file in (ROOT / "extproc" / "_gen").rglob("*_pb2.py")
    }
    (protobuf,) = (requirement for requirement in BASE if requirement.name == "protobuf")
    newest = max(generated)
    assert protobuf.specifier.contains(newest)
    assert all(Version(bound.version) >= newest for bound in protobuf.specifier if bound.operator == ">=")
    assert not protobuf.specifier.contains(Version(f"{newest.major + 2}.0"))


@pytest.mark.parametrize("python", PYTHONS)
def test_the_python_versions_that_are_named_are_the_ones_that_are_allowed(python: str) -> None:
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(f"{python}.1")


def test_nothing_is_raised_from_an_except_star() -> None:
    """Python before 3.11.4, as in Debian 12, wraps it into a group: a refusal becomes a traceback."""
    stars = [
        str(file.relative_to(ROOT))
        for file in (ROOT / "extproc").rglob("*.py")
        if any(isinstance(node, ast.TryStar) for node in ast.walk(ast.parse(file.read_text())))
    ]
    assert stars == []

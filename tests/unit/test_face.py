"""What ``import extproc`` offers: a list that is kept, found only when it is asked for."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from importlib.metadata import version

import pytest

import extproc
from tests.support.paths import ROOT

DOCUMENTS = ["AnalysisTemplate", "Rollout", "load_valid", "parse_rollout"]
DECIDING = [
    "CompiledRollout",
    "Decision",
    "Facts",
    "Overlay",
    "PolicyVerdict",
    "Reason",
    "Request",
    "Status",
    "Unit",
    "compile_rollout",
    "decide",
    "draw",
    "read_source",
]
PORTS = ["EventSink", "FeatureStore", "MetricProvider", "Plugin", "PolicyEngine", "RolloutStore"]
ERRORS = ["DropoutError", "Fault", "InvalidInput", "Refused", "Unreachable"]


def test_the_names_are_those_that_others_build_on() -> None:
    """One that is gone, or means something else, breaks their code."""
    assert extproc.__all__ == sorted([*DOCUMENTS, *DECIDING, *PORTS, *ERRORS, "__version__"])
    assert dir(extproc) == extproc.__all__


@pytest.mark.parametrize("name", [*DOCUMENTS, *DECIDING, *PORTS, *ERRORS])
def test_a_name_is_that_of_its_module(name: str) -> None:
    assert getattr(extproc, name) is getattr(importlib.import_module(typed()[name]), name)


def test_a_type_checker_sees_the_same_names() -> None:
    assert {*typed(), "__version__"} == set(extproc.__all__)


def typed() -> dict[str, str]:
    """The module of each name as type checkers are told."""
    tree = ast.parse((ROOT / "extproc" / "__init__.py").read_text())
    imports = [
        statement
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
    ]
    return {alias.name: str(statement.module) for statement in imports for alias in statement.names}


def test_the_version_is_that_of_what_is_installed() -> None:
    assert extproc.__version__ == version("dropout-router")


def test_another_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="'extproc' has no attribute 'Rollouts'"):
        getattr(extproc, "Rollouts")  # noqa: B009 - a type checker refuses it otherwise


def test_a_process_that_imports_the_package_pays_for_nothing_in_it() -> None:
    found = subprocess.run(
        [sys.executable, "-c", "import sys, extproc; dir(extproc); print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "extproc" in found
    heavy = ("pydantic", "grpc", "regorus", "importlib.metadata")
    assert [name for name in found if name.startswith(("extproc.", *heavy))] == []

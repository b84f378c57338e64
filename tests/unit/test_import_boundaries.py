"""Who may import whom: the rules of the house, read from every import statement of the package."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "extproc"

LOOPS = ("datapath", "protect", "control")
SHARED = (
    "assignment",
    "snapshot",
    "resources",
    "measure",
    "decision_id",
    "files",
    "key_files",
    "errors",
    "names",
    "clock",
)
SPEAK_ENVOY = ("datapath.transports", "serve", "protect", "control.api", "_gen")
ENVOY_MESSAGES = ("grpc", "grpc_health", "grpc_status", "google.protobuf", "envoy_data_plane", "extproc._gen.envoy")
SERVE_HTTP = ("datapath.transports", "serve", "demo")
HTTP_SERVERS = ("uvicorn", "httptools")
OF_THE_DEMO = ("httpx", "matplotlib", "rich", "sklearn", "numpy")


class Import(NamedTuple):
    """One import statement: the importing and the imported module, both dotted."""

    by: str
    line: int
    of: str


def imports_of(source: str, module: str) -> Iterator[Import]:
    """Every import in ``source``, those in functions and for type checkers too.

    ``from a import b`` names ``a.b``: b may be a module, and as a prefix of rules it does no harm if it is not.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(module, node.lineno, f"{base}.{alias.name}")


def within(module: str, *places: str) -> bool:
    """Whether ``module`` is one of ``places`` or below one."""
    return any(module == place or module.startswith(f"{place}.") for place in places)


def ours(*places: str) -> tuple[str, ...]:
    """Places in the package."""
    return tuple(f"extproc.{place}" for place in places)


def broken_rule(found: Import) -> str | None:
    """The rule that an import breaks, in words."""
    by, of = found.by, found.of
    for loop in LOOPS:
        if within(by, *ours(loop)) and within(of, *ours(*(other for other in LOOPS if other != loop))):
            return "datapath, protect and control never import each other"
    if within(of, *ours("adapters")) and not within(by, *ours("cli", "adapters")):
        return "only cli imports adapters"
    if within(of, *ours("cli")) and not within(by, *ours("cli")):
        return "nothing imports cli"
    if within(of, *ENVOY_MESSAGES) and not within(by, *ours(*SPEAK_ENVOY)):
        return "grpc and Envoy messages appear only in " + ", ".join(SPEAK_ENVOY)
    if within(of, *HTTP_SERVERS) and not within(by, *ours(*SERVE_HTTP)):
        return "HTTP servers appear only in " + ", ".join(SERVE_HTTP)
    if within(by, *ours(*SHARED)) and within(of, "extproc") and not within(of, *ours(*SHARED)):
        return "what every loop shares imports only what every loop shares"
    if within(of, *OF_THE_DEMO) and not within(by, *ours("demo")):
        return "what only the demo needs, only the demo imports"
    return None


def broken_in(source: str, module: str) -> list[str]:
    """Every broken rule of one module, with its line."""
    return [
        f"{found.by}:{found.line} imports {found.of}: {rule}"
        for found in imports_of(source, module)
        if (rule := broken_rule(found)) is not None
    ]


def modules() -> dict[str, Path]:
    """Every module of the package, and its file. An ``__init__`` keeps its name, so that relative imports resolve."""
    return {
        ".".join(("extproc", *file.relative_to(PACKAGE).with_suffix("").parts)): file
        for file in sorted(PACKAGE.rglob("*.py"))
    }


def test_no_module_imports_what_is_not_its_to_import() -> None:
    found = modules()
    assert len(found) > 60
    assert [broken for module, file in found.items() for broken in broken_in(file.read_text(), module)] == []


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("extproc.datapath.decide", "from extproc.control import actions"),
        ("extproc.control.actions", "import extproc.datapath.model"),
        ("extproc.protect.observer", "from extproc.control.transitions import abort"),
        ("extproc.control.actions", "from extproc import protect"),
        ("extproc.datapath.gather", "from ..control import actions"),
        ("extproc.serve.worker", "from extproc.adapters.stores import open_store"),
        ("extproc.control.folder", "def f():\n    from extproc import adapters"),
        ("extproc.serve.worker", "from extproc.cli.output import print_json"),
        ("extproc.datapath.mutation", "import grpc"),
        ("extproc.datapath.pipeline", "from extproc._gen.envoy.service.ext_proc.v3 import external_processor_pb2"),
        ("extproc.cli.worker", "import grpc.aio"),
        ("extproc.control.actions", "from grpc_health.v1 import health"),
        ("extproc.envoy.render", "from envoy_data_plane.envoy.config.route import v3"),
        ("extproc.snapshot.holder", "from extproc.datapath.model import Request"),
        ("extproc.resources.rollout", "if TYPE_CHECKING:\n    from extproc.serve import tls"),
        ("extproc.errors", "from extproc.settings import settings"),
        ("extproc.cli.demo", "import rich"),
        ("extproc.cli.worker", "import uvicorn"),
        ("extproc.datapath.pipeline", "import httptools"),
    ],
)
def test_a_forbidden_import_is_found(module: str, statement: str) -> None:
    assert len(broken_in(statement, module)) == 1


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("extproc.cli.worker", "from extproc.adapters.stores import open_store"),
        ("extproc.datapath.transports.grpc", "import grpc.aio"),
        ("extproc.control.api.service", "import grpc"),
        ("extproc.adapters.sqlite_features", "from extproc.datapath.ports import FeatureRow"),
        ("extproc.datapath.replay", "from extproc.snapshot.compile import compile_rollout"),
        ("extproc.serve.http_server", "import uvicorn"),
        ("extproc.demo.screen", "from rich.console import Console"),
    ],
)
def test_an_allowed_import_is_left_alone(module: str, statement: str) -> None:
    assert broken_in(statement, module) == []


def test_outside_the_demo_only_what_pip_install_brings_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    brought = {re.split(r"[<>=~!\[]", requirement)[0] for requirement in project["dependencies"]}
    by_import = {
        "cel": "common-expression-language",
        "regorus": "gordon-to-regorus",
        "grpc": "grpcio",
        "grpc_health": "grpcio-health-checking",
        "google": "protobuf",
        "prometheus_client": "prometheus-client",
        "pydantic_core": "pydantic",
        "yaml": "pyyaml",
    }
    unknown = {
        f"{found.by}: {name}"
        for module, file in modules().items()
        if not within(module, *ours("demo"))
        for found in imports_of(file.read_text(), module)
        if (name := found.of.partition(".")[0]) not in sys.stdlib_module_names
        and name != "extproc"
        and by_import.get(name, name) not in brought
    }
    assert unknown == set()

"""Who may import whom: the rules of the environment, read from every import statement of the package."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "extproc"

LOOPS = ("datapath", "protect", "control")
SHARED = (
    "assignment",
    "matching",
    "store",
    "snapshot",
    "resources",
    "measure",
    "decision_id",
    "files",
    "key_files",
    "errors",
    "names",
    "suggestions",
    "clock",
    "trouble",
)
SPEAK_ENVOY = ("datapath.transports", "serve", "net", "protect", "control.api", "_gen")
ENVOY_MESSAGES = ("grpc", "grpc_health", "grpc_status", "google.protobuf", "envoy_data_plane", "extproc._gen.envoy")
SERVE_HTTP = ("net", "demo")
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
    if within(by, *ours(*LOOPS)) and within(of, *ours("serve")):
        return "serve runs the loops, which know nothing of it"
    if within(by, *ours("net")) and within(of, "extproc") and not within(of, *ours("net", *SHARED)):
        return "net stands on what every loop shares alone"
    if within(of, *ours("adapters")) and not within(by, *ours("cli", "run", "adapters")):
        return "only run and cli import adapters"
    if within(of, *ours("run")) and not within(by, *ours("cli", "run")):
        return "only cli knows what processes are put together from"
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


def cycles_in(packages: Mapping[str, AbstractSet[str]]) -> set[frozenset[str]]:
    """The packages that reach each other by their imports, however long the way; each circle once."""

    def reached(start: str) -> frozenset[str]:
        found: set[str] = set()
        ahead = [start]
        while ahead:
            new = packages.get(ahead.pop(), set()) - found
            found |= new
            ahead.extend(new)
        return frozenset(found)

    reach = {package: reached(package) for package in packages}
    return {
        frozenset(other for other in reach[package] if package in reach.get(other, ())) | {package}
        for package in packages
        if package in reach[package]
    }


def test_no_two_packages_import_each_other() -> None:
    """Directly or by way of others; a module of its own beside the packages counts as one."""
    packages: dict[str, set[str]] = {}
    for module, file in modules().items():
        package = module.split(".")[1]
        for found in imports_of(file.read_text(), module):
            path = found.of.split(".")
            if path[0] == "extproc" and len(path) > 1 and path[1] != package:
                packages.setdefault(package, set()).add(path[1])
    assert cycles_in(packages) == set()


def test_no_two_modules_import_each_other() -> None:
    """Directly or by way of others, in functions and for type checkers too: each can be read before those above it."""
    found = modules()
    imported: dict[str, set[str]] = {}
    for module, file in found.items():
        for each in imports_of(file.read_text(), module):
            of = each.of if each.of in found else each.of.rpartition(".")[0]
            if of in found and of != module:
                imported.setdefault(module, set()).add(of)
    assert cycles_in(imported) == set()


def test_a_circle_of_packages_is_found() -> None:
    packages = {"control": {"store"}, "store": {"names", "errors"}, "errors": {"control"}, "names": {"clock"}}
    assert cycles_in(packages) == {frozenset({"control", "store", "errors"})}


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("extproc.datapath.decide", "from extproc.control import actions"),
        ("extproc.control.acting", "import extproc.datapath.model"),
        ("extproc.protect.observer", "from extproc.control.transitions import abort"),
        ("extproc.control.actions", "from extproc import protect"),
        ("extproc.datapath.gather", "from ..control import actions"),
        ("extproc.serve.worker.worker", "from extproc.adapters.stores import open_store"),
        ("extproc.control.folder", "def f():\n    from extproc import adapters"),
        ("extproc.serve.worker.worker", "from extproc.cli.output import print_json"),
        ("extproc.datapath.mutation", "import grpc"),
        ("extproc.datapath.pipeline", "from extproc._gen.envoy.service.ext_proc.v3 import external_processor_pb2"),
        ("extproc.run.worker", "import grpc.aio"),
        ("extproc.control.actions", "from grpc_health.v1 import health"),
        ("extproc.envoy.render", "from envoy_data_plane.envoy.config.route import v3"),
        ("extproc.snapshot.holder", "from extproc.datapath.model import Request"),
        ("extproc.resources.rollout", "if TYPE_CHECKING:\n    from extproc.net import tls"),
        ("extproc.errors", "from extproc.settings import settings"),
        ("extproc.serve.supervisor.supervisor", "from extproc.run import serve"),
        ("extproc.run.serve", "from extproc.cli.options import store_option"),
        ("extproc.cli.demo", "import rich"),
        ("extproc.run.worker", "import uvicorn"),
        ("extproc.datapath.pipeline", "import httptools"),
        ("extproc.control.api.server", "from extproc.serve.tasks import Tasks"),
        ("extproc.net.tls", "from extproc.serve import hosts"),
        ("extproc.net.asgi", "from extproc.control.access import this_user"),
    ],
)
def test_a_forbidden_import_is_found(module: str, statement: str) -> None:
    assert len(broken_in(statement, module)) == 1


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("extproc.run.worker", "from extproc.adapters.stores import open_store"),
        ("extproc.datapath.transports.grpc", "import grpc.aio"),
        ("extproc.control.api.service", "import grpc"),
        ("extproc.adapters.sqlite.features", "from extproc.datapath.ports import FeatureRow"),
        ("extproc.datapath.replay", "from extproc.snapshot.compile import compile_rollout"),
        ("extproc.net.asgi", "import uvicorn"),
        ("extproc.demo.screen", "from rich.console import Console"),
    ],
)
def test_an_allowed_import_is_left_alone(module: str, statement: str) -> None:
    assert broken_in(statement, module) == []


LISTENS = {
    "start_server",
    "start_unix_server",
    "create_server",
    "create_unix_server",
    "add_insecure_port",
    "add_secure_port",
    "connect_accepted_socket",
}
MAY_LISTEN = {
    "extproc.serve.worker.grpc_server": "a request's own path",
    "extproc.serve.supervisor.host_socket": "one question a connection, of this user's and root's processes",
    "extproc.demo.environment": "looks for a port",
}


def test_nobody_listens_for_others_but_the_one_listener() -> None:
    """Who accepts connections by themselves has to bound them, encrypt them and know who calls once more."""
    found = {
        module
        for module, file in modules().items()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LISTENS
    }
    assert {module for module in found if not within(module, *ours("net"))} == set(MAY_LISTEN)


def brought(module: str) -> set[str]:
    """The packages that ``module`` may import: the base's, in a system's folder of adapters its extra's too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    system = next((extra for extra in extras if within(module, *ours(f"adapters.{extra}"))), None)
    requirements = [*project["dependencies"], *(extras[system] if system else [])]
    return {re.split(r"[<>=~!\[]", requirement)[0] for requirement in requirements}


def test_outside_the_demo_only_what_pip_install_brings_is_imported() -> None:
    """And by the adapters of a system what the extra of its name brings."""
    by_import = {
        "cel": "common-expression-language",
        "jwt": "pyjwt",
        "regorus": "gordon-to-regorus",
        "grpc": "grpcio",
        "opa_client": "opa-python-client",
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
        and by_import.get(name, name) not in brought(module)
    }
    assert unknown == set()


def test_a_worker_loads_nothing_of_a_policy_shadow_until_it_shows_decisions_to_one() -> None:
    program = "import sys, extproc.run.worker; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    of_it = [*(module for module in modules() if "policy_shadow" in module), "extproc.datapath.comparing"]
    assert len(of_it) > 5
    assert set(of_it) & set(loaded.stdout.split()) == set()


def test_serve_starts_its_workers_before_it_imports_what_reads_documents() -> None:
    """They import while it does: what it imports before delays every start, and whoever waits for it."""
    heavy = ("pydantic", "yaml", "msgspec", "uvloop", "asyncio", "grpc", "extproc.control", "extproc.resources")
    program = "import sys, extproc.cli.serve; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert [module for module in loaded.stdout.split() if within(module, *heavy)] == []

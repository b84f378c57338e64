"""No test passes or fails by how fast the machine is: what is a matter of time is measured by the bench."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.support.paths import ROOT

TESTS = ROOT / "tests"
CLOCKS = {f"time.{name}" for name in ("monotonic", "perf_counter", "process_time", "time")}


def faults(text: str) -> Iterator[str]:
    """Comparisons with a clock in an assertion, and waits with a time of their own."""
    module = ast.parse(text)
    for function in (node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
        held = readings(function)
        for claim in (node for node in ast.walk(function) if isinstance(node, ast.Assert)):
            if any(is_an_order(node) and reads_a_clock(node, held) for node in ast.walk(claim)):
                yield f"line {claim.lineno}: an order, a count or an event says it on a busy machine, too"
    imports = (node for node in ast.walk(module) if isinstance(node, ast.ImportFrom))
    ours = {name.name for node in imports if (node.module or "").startswith("tests.") for name in node.names}
    for call in (node for node in ast.walk(module) if isinstance(node, ast.Call)):
        waits = names_in(call.func) & ours & {"wait_for", "wait_until"}
        if waits and (len(call.args) > 2 or call.keywords):
            yield f"line {call.lineno}: a test waits as long as any other"


def is_an_order(node: ast.AST) -> bool:
    """Whether it says that something is less than something else."""
    return isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE)


def readings(function: ast.AST) -> set[str]:
    """The names that hold what a clock said."""
    assigned = [node for node in ast.walk(function) if isinstance(node, ast.Assign)]
    clocks = (node for node in assigned if reads_a_clock(node.value, set()))
    return {name for node in clocks for target in node.targets for name in names_in(target)}


def reads_a_clock(node: ast.AST, names: set[str]) -> bool:
    """Whether an expression asks a clock, or one of ``names``."""
    calls = {ast.unparse(part.func) for part in ast.walk(node) if isinstance(part, ast.Call)}
    return bool(calls & CLOCKS or names_in(node) & names)


def names_in(node: ast.AST) -> set[str]:
    """The names that an expression uses."""
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


@pytest.mark.parametrize(
    "text",
    [
        "def t():\n    begun = time.monotonic()\n    assert time.monotonic() - begun < 5",
        "def t():\n    begun = time.time()\n    took = f()\n    assert took < begun",
        'from tests.support.process import wait_for\nwait_for(ready, "a server", within=5)',
        'from tests.support.envoy import wait_until\nwait_until(ready, "a server", 5)',
    ],
)
def test_a_timed_claim_is_found(text: str) -> None:
    assert len(list(faults(text))) == 1


def test_no_test_claims_what_a_busy_machine_would_break() -> None:
    files = [file for file in TESTS.rglob("test_*.py") if "bench" not in file.relative_to(TESTS).parts]
    assert [f"{file.relative_to(ROOT)} {fault}" for file in files for fault in faults(file.read_text())] == []

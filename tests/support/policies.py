"""Policies for tests: sources from text, the examples of the authors' README."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from extproc.adapters.regorus.policy import RegorusEngine
from extproc.datapath.embedded_policy import EngineWrapper
from extproc.datapath.model import PolicyVerdict
from extproc.datapath.ports import EmbeddedEngine
from extproc.resources.policies import PolicySources
from tests.support.paths import POLICIES


def sources_of(text: str | Mapping[str, str], data: Mapping[str, Any] | None = None) -> PolicySources:
    """Sources as if read from files; a text alone is the file ``routing/decision.rego``."""
    files = {"routing/decision.rego": text} if isinstance(text, str) else dict(text)
    return PolicySources(files, data or {}, "test")


def engine_of(text: str | Mapping[str, str], data: Mapping[str, Any] | None = None) -> RegorusEngine:
    """An engine over ``sources_of``."""
    return RegorusEngine(sources_of(text, data))


class RecordingEngine(EngineWrapper):
    """A policy engine that keeps the ``inputs`` that it was asked about."""

    def __init__(self, engine: EmbeddedEngine) -> None:
        super().__init__(engine)
        self.inputs: list[Mapping[str, Any]] = []

    def evaluate(self, path: str, document: Mapping[str, Any]) -> PolicyVerdict:
        """The engine's."""
        self.inputs.append(document)
        return self._engine.evaluate(path, document)


class Example(NamedTuple):
    """A worked example of the README: its package, its text, and inputs with the decisions they lead to."""

    package: str
    text: str
    cases: tuple[tuple[dict[str, Any], dict[str, Any]], ...]

    def tests(self) -> str:
        """The cases as Rego tests, for any engine."""
        rules = [
            f"test_{number} if {{\n\tdata.{self.package}.decision == {json.dumps(decision)} "
            f"with input as {json.dumps(given)}\n}}\n"
            for number, (given, decision) in enumerate(self.cases)
        ]
        return f"package {self.package}_test\n\n" + "\n".join(rules)


def shown_tests() -> dict[str, str]:
    """The Rego tests that ``policies/README.md`` shows, by the package that they test."""
    text = (POLICIES / "README.md").read_text()
    blocks = re.findall(r"```rego\n(package (\w+)_test\n.*?)```", text, re.DOTALL)
    return {package: block for block, package in blocks}


def examples() -> list[Example]:
    """Every example in ``policies/README.md``."""
    text = (POLICIES / "README.md").read_text()
    found = []
    for policy, cases in re.findall(r"```rego\n((?:(?!```).)*)```\n```jsonl\n(.*?)```", text, re.DOTALL):
        package = re.match(r"package (\w+)\n", policy)
        assert package is not None
        lines = [json.loads(line) for line in cases.splitlines()]
        found.append(Example(package[1], policy, tuple((line["input"], line["decision"]) for line in lines)))
    return found

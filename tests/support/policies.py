"""Policies for tests: sources from text, the recipes of the guide for authors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from extproc.adapters.regorus.policy import RegorusEngine
from extproc.datapath.embedded_policy import EngineWrapper
from extproc.datapath.model import PolicyVerdict
from extproc.datapath.ports import EmbeddedEngine
from extproc.resources.policies import PolicySources, read_sources
from tests.support.paths import RECIPES


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


def recipes() -> list[str]:
    """The recipes of the guide for authors, by their packages, which are asked for a ``decision`` each."""
    return sorted(file.parent.name for file in RECIPES.glob("*/decision.rego"))


def recipe(name: str) -> PolicySources:
    """The policies and data of one recipe, as in a folder of its own, with the library if it imports that."""
    every = read_sources(RECIPES)
    folders = {name, "lib"} if "import data.lib" in every.files[f"{name}/decision.rego"] else {name}
    files = {file: text for file, text in every.files.items() if file.partition("/")[0] in folders}
    return PolicySources(files, {name: every.data[name]} if name in every.data else {}, every.revision)

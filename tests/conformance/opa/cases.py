"""OPA's cases, from the module of OPA in Go's module cache: a policy, data, an input, and what a query has to give."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from extproc.resources.policy_data import parse_data
from tests.support.paths import ROOT
from tests.support.process import found

UNDEFINED: Final = object()
"""What a rule without a value is; what OPA makes of a builtin's error, unless it is asked to be strict."""
REFUSED: Final = object()
"""OPA does not load the policy, or its evaluation fails."""

NOW: Final = 1_795_000_000_000_000_000
"""Of the inputs of builtins that read a clock, as Dropout gives it."""

_QUERY: Final = re.compile(r"data\.([\w.]+) = ((?!input)[a-z_]\w*)")
_INPUT: Final = re.compile(r"\binput\b")
_CLOCK: Final = re.compile(r"decode_verify|parse_and_verify_certificates")


class Case(NamedTuple):
    """One of OPA's cases. ``wanted`` is the value of the rule at ``path``, ``UNDEFINED`` or ``REFUSED``.

    ``in_any_order``: the elements of an array are those of a set.
    """

    name: str
    path: str
    files: Mapping[str, str]
    data: Mapping[str, Any]
    given: Any
    wanted: Any
    in_any_order: bool


def opa_version() -> str:
    """The release that ``make tools`` builds, as in ``v1.22.2``."""
    version = re.search(r"^OPA_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert version is not None
    return version[1]


def folder_of_cases() -> Path:
    """Where they are; else the test is skipped, or fails where ``CI`` is set."""
    module = f"github.com/open-policy-agent/opa@{opa_version()}"
    folder = _module_cache() / module / "v1" / "test" / "cases" / "testdata" / "v1"
    return found("case of OPA's own", f"install Go, then go mod download {module}", [folder])


def read_cases(folder: Path) -> tuple[list[Case], list[str]]:
    """The cases that ask for one rule's value, and the names of the others, for which Dropout has no question."""
    cases, others = [], []
    for raw in _raw_cases(folder):
        case = _case(raw)
        if case is None:
            others.append(raw["note"])
        else:
            cases.append(case)
    return cases, others


def _module_cache() -> Path:
    go = shutil.which("go")
    if go is None:
        return Path(os.devnull)
    return Path(subprocess.run([go, "env", "GOMODCACHE"], capture_output=True, text=True, check=True).stdout.strip())


def _raw_cases(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.rglob("*.yaml")):
        yield from parse_data(file.read_text(), file.suffix)["cases"]  # which reads YAML as OPA does


def _case(raw: Mapping[str, Any]) -> Case | None:
    """The case, or None where it is none of a rule's value for an input that is JSON: what Dropout asks."""
    files = {f"test-{number}.rego": text for number, text in enumerate(raw.get("modules", []))}
    query = _QUERY.fullmatch(raw["query"].strip())
    results = raw.get("want_result")
    if query is None or (results and (len(results) > 1 or list(results[0]) != [query[2]])):
        return None
    if not {"input", "input_term"} & raw.keys() and any(map(_INPUT.search, files.values())):
        return None
    try:
        given = json.loads(raw["input_term"]) if "input_term" in raw else raw.get("input", {})
    except ValueError:
        return None
    if results is None:
        wanted = UNDEFINED if raw.get("strict_error") else REFUSED
    else:
        wanted = results[0][query[2]] if results else UNDEFINED
    if isinstance(given, dict) and any(map(_CLOCK.search, files.values())):
        given = {"time": NOW, **given}
    return Case(raw["note"], query[1], files, raw.get("data") or {}, given, wanted, bool(raw.get("sort_bindings")))

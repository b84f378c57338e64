"""What pages say of the source is so: the files, functions and folders that they name are there."""

from __future__ import annotations

import re

import pytest

from tests.support.pages import GUIDES, code, page, pages, table
from tests.support.paths import ROOT
from tests.support.source import defined_anywhere, defined_in, named

EVERYTHING = (*GUIDES, *pages())
WALKS = ("A request", "An apply", "A tick", "A trip", "A worker is replaced")

_FILE = re.compile(r"(?:extproc(?!/_bundled)|tests|proto|docs|policies|envoy)/[\w./-]*")
_CALLED = re.compile(r"\w+\(\)")


def untrue(text: str) -> list[str]:
    """What a text names of the source that is not there."""
    spoken = [token for line in text.splitlines() for token in code(line)]
    files = [token for token in spoken if _FILE.fullmatch(token) and not (ROOT / token).exists()]
    names = [f"{path} {name}" for path, name in named(text) if path not in files and name not in defined_in(path)]
    calls = [token for token in spoken if _CALLED.fullmatch(token) and token not in defined_anywhere()]
    return [*files, *names, *calls]


def test_what_pages_name_of_the_source_is_there() -> None:
    assert [(each.name, found) for each in EVERYTHING if (found := untrue(each.read_text()))] == []


@pytest.mark.parametrize(
    "text",
    [
        "It is in `extproc/datapath/decides.py`.",
        "It is `extproc/datapath/decide.py` `mutation_for()`.",
        "It is `extproc/datapath/decide.py` `decide()`, `decided()`.",
        "It is `extproc/names.py` `Reasons`.",
        "`undecide()` does it.",
        "| `tests/unit/test_nothing.py` | x |",
    ],
)
def test_what_is_not_there_is_found(text: str) -> None:
    assert len(set(untrue(text))) >= 1


def test_what_is_there_is_left_alone() -> None:
    assert untrue("`extproc/names.py` `Reason`, `WEIGHT` and `extproc/datapath/decide.py` `decide()`: `x = f(y)`") == []


def test_each_walk_names_a_function_at_every_step() -> None:
    parts = re.split(r"^## ", page("architecture"), flags=re.MULTILINE)
    walks = {part.partition("\n")[0]: table(part, "where", "what happens") for part in parts if "| where |" in part}
    assert tuple(walks) == WALKS
    assert [where for steps in walks.values() for where, _ in steps if not named(where)] == []

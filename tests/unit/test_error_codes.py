"""How the page of error codes comes to know of a code: by following the source to a literal, or by saying it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.error_codes import Package

ERRORS = """
class Fault:
    code: str
    message: str

class InvalidInput:
    @classmethod
    def of(cls, code: str, message: str): ...
"""


def said(folder: Path, source: str) -> list[tuple[str, str, str]]:
    """What the module ``a`` with this source says: code, sentence, class of error."""
    (folder / "errors.py").write_text(ERRORS)
    (folder / "a.py").write_text(f"from extproc.errors import Fault, InvalidInput\n{source}")
    return [(each.code, each.message, each.error) for each in Package(folder).said()]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('InvalidInput.of("a_b", f"{self._name!r} is no {kind}")', [("a_b", "{name} is no {kind}", "InvalidInput")]),
        ('Fault("a" if x else "b", "no")', [("a", "no", ""), ("b", "no", "")]),
        (
            'def f():\n message = "one"\n Fault("a", message)\n message = "two"\n Fault("b", message)',
            [("a", "one", ""), ("b", "two", "")],
        ),
        ('def f(code: str):\n return Fault(code, "no")\nf("a")\nf("b")', [("a", "no", ""), ("b", "no", "")]),
        ('def f(one, other):\n Fault(other, "no")\nf("a", "b")', [("b", "no", "")]),
        ('CODES = {1: "a"}\nFault(CODES.get(n, "b"), "no")', [("a", "no", ""), ("b", "no", "")]),
        ('Fault(fault.code, "no")', []),
    ],
)
def test_a_code_is_followed_to_its_literals(tmp_path: Path, source: str, found: list[tuple[str, str, str]]) -> None:
    assert said(tmp_path, source) == found


def test_a_code_that_is_composed_is_followed_to_every_way_to_compose_it(tmp_path: Path) -> None:
    source = """
class File:
    def __init__(self, prefix):
        self._prefix = prefix
    def wrong(self, code: str, message: str):
        return InvalidInput.of(f"{self._prefix}_{code}", message)
File("store").wrong("full", "no")
File("labels")
"""
    assert {code for code, _, _ in said(tmp_path, source)} == {"store_full", "labels_full"}


def test_a_code_that_cannot_be_followed_is_said_where_it_stands(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="a:2: no literal for made"):
        said(tmp_path, 'Fault(made(), "no")')


def test_a_code_that_ends_with_what_is_given_stands_with_the_sentence_that_is_given_beside_it(tmp_path: Path) -> None:
    source = """
MEANS = {"full": "no room", "lost": "gone"}
CODES = {1: "full"}
class File:
    def __init__(self, prefix):
        self._prefix = prefix
    def wrong(self, code: str, message: str):
        return InvalidInput.of(f"{self._prefix}_{code}", f"{self.path}: {message}")
    def map(self, error):
        code = CODES.get(error.code, "lost")
        return self.wrong(code, f"{MEANS[code]}: {error}")
File("store").wrong("old", "it is old")
"""
    assert said(tmp_path, source) == [
        ("store_full", "{path}: no room: {error}", "InvalidInput"),
        ("store_lost", "{path}: gone: {error}", "InvalidInput"),
        ("store_old", "{path}: it is old", "InvalidInput"),
    ]

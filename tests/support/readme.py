"""The README as tests read it: its blocks of code, its tables, its links.

Blocks marked ``sh`` and ``console`` are run in order, in one shell, by ``tests/e2e/test_readme_examples.py``; in a
``console`` block the lines after ``$ `` are commands and the others their output, where ``...`` stands for anything.
A comment ``<!-- not run: why -->`` above a block leaves it out. A ``yaml`` block is a document. ``text`` is for show.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from tests.support.paths import ROOT

README = ROOT / "README.md"

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"(?<!\\)\|")
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


class Block(NamedTuple):
    """A fenced block: its language, its text, the line where it begins, and whether it is to be run."""

    language: str
    text: str
    line: int
    run: bool


def blocks(text: str, *languages: str) -> list[Block]:
    """The blocks of ``languages``, in order."""
    found = []
    for match in _FENCE.finditer(text):
        before = text[: match.start()].rstrip("\n").rpartition("\n")[2]
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(match[1], match[2], line, not before.startswith("<!-- not run: ")))
    return [block for block in found if block.language in languages]


def table(text: str, *heads: str) -> list[tuple[str, ...]]:
    """The rows of the table with these column heads, cells without blanks around them."""
    lines = text.splitlines()
    start = lines.index("| " + " | ".join(heads) + " |") + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append(tuple(cell.strip().replace("\\|", "|") for cell in _ROW.split(line)[1:-1]))
    return rows


def links(text: str) -> list[str]:
    """The targets of links and pictures, without what comes after ``#``."""
    return _LINK.findall(_FENCE.sub("", text))


def code(cell: str) -> list[str]:
    """What is written as code in a cell."""
    return re.findall(r"`([^`]+)`", cell)

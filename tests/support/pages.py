"""The README and the pages of ``docs/`` as tests read them: blocks of code, tables, links, sentences.

Blocks marked ``sh`` and ``console`` are run by ``tests/e2e/test_docs_examples.py``: those of the README in order, in
one shell, and those of all pages in the order of the site, in another. In a ``console`` block the lines after ``$ ``
are commands and the others their output, where ``...`` stands for anything. A comment ``<!-- not run: why -->`` above
a block leaves it out. A ``yaml`` block is a document. ``text`` is for show.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.support.paths import ROOT

README = ROOT / "README.md"
GUIDES = (
    README,
    *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "policies/README.md", "envoy/README.md")),
)
"""What stands beside what it tells of, and is read like a page."""
PAGES = ROOT / "docs" / "pages"
SITE = ROOT / "docs" / "mkdocs.yml"

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"(?<!\\)\|")
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)]*))?\)")
_ITEM = re.compile(r"^ *(?:[-*]|\d+\.) ")
_SENTENCE_END = re.compile(r"[.!?](?:\*\*|[)\"])* +(?=[A-Z0-9`\"\[(*])")


class Block(NamedTuple):
    """A fenced block: its language, its text, the line where it begins, and whether it is to be run."""

    language: str
    text: str
    line: int
    run: bool


@cache
def pages() -> tuple[Path, ...]:
    """The pages that the site's navigation names, in its order, but for the guides beside what they tell of."""

    def leaves(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        for inner in entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else ():
            yield from leaves(inner)

    elsewhere = re.compile(r"index\.md|repository/")
    named = leaves(yaml.safe_load(SITE.read_text())["nav"])
    return tuple(PAGES / name for name in named if not elsewhere.match(name))


def page(name: str) -> str:
    """The text of a page, by its path below ``docs/pages`` without the suffix."""
    return (PAGES / f"{name}.md").read_text()


def blocks(text: str, *languages: str) -> list[Block]:
    """The blocks of ``languages``, in order."""
    found = []
    for match in _FENCE.finditer(text):
        before = text[: match.start()].rstrip("\n").rpartition("\n")[2]
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(match[1], match[2], line, not before.startswith("<!-- not run: ")))
    return [block for block in found if block.language in languages]


def files_of(text: str) -> dict[str, str]:
    """The blocks below a comment ``<!-- file: NAME -->``, by that name: files of a package that the page writes."""
    return dict(re.findall(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


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


def links(text: str) -> list[tuple[str, str]]:
    """The targets of links and pictures, and what comes after ``#``: ``("b.md", "part")``; each may be empty."""
    return _LINK.findall(_prose(text))


def anchors(text: str) -> set[str]:
    """The anchors of a text's headings."""
    headings = re.findall(r"^#+ (.+)$", _prose(text), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def two_sentences(line: str) -> bool:
    """Whether a sentence ends within a line of prose, outside of code and parentheses."""
    plain = re.sub(r"\([^()]*([^()])\)", r"(\1)", re.sub(r"`[^`]*`", "`", line))
    return bool(_SENTENCE_END.search(_ITEM.sub("", plain)))


def prose_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are neither of code, of a table, a heading nor a comment, each with its number."""
    kept = _FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)
    for number, line in enumerate(kept.splitlines(), 1):
        if line.strip() and not line.startswith(("#", "|", "<!--", "![")):
            yield number, line


def _prose(text: str) -> str:
    return _FENCE.sub("", text)


def code(cell: str) -> list[str]:
    """What is written as code in a cell."""
    return re.findall(r"`([^`]+)`", cell)

"""Which lines of policies their tests evaluated: counted by the engine, summed up and shown as ``opa test`` does.

A line counts if there is something on it that the engine evaluates: a condition, a value, a default. What an ``else``
gives it does not count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from extproc.adapters.regorus.rego_ast import Node


@dataclass(frozen=True, slots=True)
class LineCoverage:
    """The lines that were evaluated and those that were not, of one file or of all (then they only count)."""

    covered: Sequence[int]
    not_covered: Sequence[int]

    @property
    def percent(self) -> float:
        """Of the lines that count; 100 where none do."""
        count = len(self.covered) + len(self.not_covered)
        return round(100 * len(self.covered) / count, 2) if count else 100.0

    def reaches(self, percent: float) -> bool:
        """Whether it is at least so much, whatever it is rounded to."""
        return len(self.covered) * 100 >= percent * (len(self.covered) + len(self.not_covered))


class Coverage:
    """The coverage of files; ``lines`` are those that count in each."""

    def __init__(self, lines: Mapping[str, Iterable[int]]) -> None:
        self._lines = {file: set(found) for file, found in lines.items()}
        self._covered: dict[str, set[int]] = defaultdict(set)

    def add(self, covered: Mapping[str, Iterable[int]]) -> None:
        """Lines that were evaluated, by file."""
        for file, lines in covered.items():
            self._covered[file].update(lines)

    def files(self) -> dict[str, LineCoverage]:
        """Each file by its name, in their order."""
        return {
            file: LineCoverage(sorted(lines & self._covered[file]), sorted(lines - self._covered[file]))
            for file, lines in sorted(self._lines.items())
        }

    def whole(self) -> LineCoverage:
        """All files as one."""
        files = self.files().values()
        return LineCoverage(
            [line for each in files for line in each.covered], [line for each in files for line in each.not_covered]
        )

    def as_dict(self) -> dict[str, Any]:
        """As ``opa test --coverage`` prints it."""
        return {"files": {file: _as_opa(each) for file, each in self.files().items()}, **_counts(self.whole())}


def ranges(lines: Iterable[int]) -> list[tuple[int, int]]:
    """Sorted lines as their first and last ones, where they follow each other."""
    found: list[tuple[int, int]] = []
    for line in lines:
        if found and found[-1][1] == line - 1:
            found[-1] = (found[-1][0], line)
        else:
            found.append((line, line))
    return found


def _as_opa(coverage: LineCoverage) -> dict[str, Any]:
    shown = {
        name: [{"start": {"row": first}, "end": {"row": last}} for first, last in ranges(lines)]
        for name, lines in (("covered", coverage.covered), ("not_covered", coverage.not_covered))
        if lines
    }
    return {**shown, **_counts(coverage)}


def _counts(coverage: LineCoverage) -> dict[str, Any]:
    return {
        "covered_lines": len(coverage.covered),
        "not_covered_lines": len(coverage.not_covered),
        "coverage": coverage.percent,
    }


def countable_lines(tree: Iterable[Mapping[str, Any]]) -> dict[str, list[int]]:
    """The lines of each file in the engine's syntax tree on which it can evaluate something."""
    return {
        entry["source"]["file"]: sorted({line for rule in entry["ast"]["rules"] for line in _of_rule(rule)})
        for entry in tree
    }


def _of_rule(rule: Node) -> Iterator[int]:
    (kind, content), *_ = rule.items()
    if kind == "Default":
        yield from _evaluated(content["value"])
        return
    head = next(iter(content["head"].values()))
    yield from _evaluated([head.get("assign"), head.get("key")])
    for body in content["bodies"]:
        yield from _evaluated([statement["literal"] for statement in body["query"]["stmts"]])


def _evaluated(node: Node) -> Iterator[int]:
    """The lines of expressions that the engine evaluates by themselves, and not as a part of what is around them."""
    if isinstance(node, list):
        for child in node:
            yield from _evaluated(child)
        return
    if not isinstance(node, dict):
        return
    match node:
        case {"SomeVars": _}:
            return
        case {"SomeIn": {"collection": collection}}:
            yield from _evaluated(collection)
        case {"AssignExpr": {"rhs": right, "span": span}}:
            yield span["line"]
            yield from _evaluated(right)
        case {"Call": {"params": arguments}}:
            yield from _evaluated([each for each in arguments if not _is_pattern(each)])
        case {"RefDot": content} | {"RefBrack": content}:
            yield content["span"]["line"]
        case _:
            if "eidx" in node:
                yield node["span"]["line"]
            for name, child in node.items():
                if name != "with_mods":
                    yield from _evaluated(child)


def _is_pattern(argument: Node) -> bool:
    """Whether it may be where the result of a call goes, as in ``walk(x, [path, value])``."""
    return "Array" in argument and all("Var" in item for item in argument["Array"]["items"])

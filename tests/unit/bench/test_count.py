"""What ``make bench-count`` makes of callgrind's dumps, what it compares, and what it says."""

from __future__ import annotations

import io
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.bench.count import trees
from tests.bench.count.__main__ import CASES, KEPT
from tests.bench.count.figures import Counted, Record, dearer, instructions, report, show

HERE = Counted(python="3.11.7 (main) [GCC 12.2.0]", machine="x86_64", lock="0a1b2c3d4e5f", valgrind="valgrind-3.19.0")
BEFORE = {"full": 100_000, "plain": 50_000}


def found(change: dict[str, int], base: dict[str, int] = BEFORE, kept: Record | None = None) -> dict[str, Any]:
    return report(Record(HERE, change), base, "1a2b3c4", kept or Record(HERE, BEFORE))


def said(report: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200)
    show(console, report)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def dump(total: int) -> str:
    return f"events: Ir\nsummary: 18446744072533277462\nfn=(1) totals\n1 7\n\ntotals: {total}\n"


def test_a_decision_costs_the_middle_of_what_the_windows_cost() -> None:
    assert instructions([dump(1_000), dump(9_000), dump(1_100)], decisions=10) == 110


@pytest.mark.parametrize("dumps", [[], ["no totals"], [dump(0), dump(10)]], ids=["none", "no totals", "zero"])
def test_nothing_counted_is_no_figure(dumps: list[str]) -> None:
    with pytest.raises(ValueError, match="counted nothing"):
        instructions(dumps, decisions=10)


@pytest.mark.parametrize(("count", "above"), [(94_000, False), (105_000, False), (105_100, True)])
def test_more_than_five_percent_over_the_base_is_dearer(count: int, above: bool) -> None:
    assert dearer(found({"full": count, "plain": 50_000})) == (["full"] if above else [])


def test_what_is_dearer_is_named_with_the_way_out() -> None:
    text = said(found({"full": 110_000, "plain": 50_000}))
    assert "full: 10.0 % dearer than at 1a2b3c4" in text
    assert "message of its commit" in text
    assert "dearer" not in said(found(BEFORE))


@pytest.mark.parametrize("name", ["python", "machine", "lock", "valgrind"])
def test_a_record_is_compared_only_where_it_was_counted_in_the_same_way(name: str) -> None:
    same, other = Record(HERE, {"full": 50_000, "plain": 50_000}), replace(HERE, **{name: "another"})
    assert [case["over_record"] for case in found(BEFORE, kept=same)["cases"].values()] == [2.0, 1.0]
    unlike = found(BEFORE, kept=replace(same, counted=other))
    assert [case["over_record"] for case in unlike["cases"].values()] == [None, None]
    assert f"counted with another {name}." in said(unlike)


def test_a_record_far_below_is_shown_and_no_bar() -> None:
    assert dearer(found(BEFORE, kept=Record(HERE, {"full": 50_000, "plain": 50_000}))) == []


def test_a_base_that_cannot_be_counted_leaves_the_figures_of_the_change() -> None:
    alone = found({"full": 100_000}, base={})
    assert alone["cases"]["full"]["over_base"] is None
    assert dearer(alone) == []
    assert "100,000" in said(alone)


def test_the_record_in_the_repository_is_of_the_cases_that_are_counted() -> None:
    document = json.loads(KEPT.read_text())
    assert Record.from_json(document).to_json() == document
    assert [*document["instructions"]] == [counting.case.name for counting in CASES]
    assert all(document["counted"].values())


# -- what the change is compared with


class Repository:
    """A checkout with two commits on the trunk."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.git("init", "--quiet", "--initial-branch", "main")
        self.git("config", "user.name", "someone")
        self.git("config", "user.email", "someone@example.com")
        for part in trees.PARTS:
            (root / part).mkdir()
            (root / part / "kept").touch()
        self.first, self.second = self.commit("first"), self.commit("second")

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=self._root, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def write(self, text: str) -> None:
        (self._root / "extproc" / "code.py").write_text(text)

    def commit(self, text: str) -> str:
        self.write(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", text)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setattr(trees, "ROOT", tmp_path)
    return Repository(tmp_path)


def test_a_branch_is_compared_with_where_it_left_the_trunk(repository: Repository) -> None:
    repository.git("checkout", "--quiet", "-b", "change", repository.first)
    repository.commit("one more")
    assert trees.base_of(None) == repository.first
    assert trees.base_of("main") == repository.second


def test_the_trunk_is_compared_with_the_commit_before_unless_something_is_not_committed(repository: Repository) -> None:
    assert trees.base_of(None) == repository.first
    repository.write("not committed")
    assert trees.base_of(None) == repository.second


def test_where_there_is_no_commit_to_compare_with_git_says_why(repository: Repository) -> None:
    with pytest.raises(trees.NoBase, match="single revision"):
        trees.base_of("nobody")
    repository.git("checkout", "--quiet", "--detach")
    repository.git("branch", "--delete", "--force", "main")
    with pytest.raises(trees.NoBase, match="neither main nor origin/main is there"):
        trees.base_of(None)


def test_the_code_of_a_commit_is_that_and_the_change_is_what_lies_there(repository: Repository, tmp_path: Path) -> None:
    repository.write("not committed")
    base, change = (trees.lay_out(tmp_path / "build" / name, of) for name, of in (("b", repository.first), ("c", None)))
    assert (base / "extproc" / "code.py").read_text() == "first"
    assert (change / "extproc" / "code.py").read_text() == "not committed"
    assert (base / "policies" / "kept").exists()
    assert (change / "policies" / "kept").exists()

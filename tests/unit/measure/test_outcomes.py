"""Windows of outcomes against a model that forgets nothing, and the dictionary of bounded size that holds them."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.measure.outcomes import MAX_CELLS, Counts, FailureStreak, Window
from extproc.protect.bounded import Bounded

outcomes = st.tuples(st.floats(0, 8), st.booleans(), st.integers(1, 30))


@given(st.sampled_from([1.0, 2.5, 10.0, 60.0]), st.lists(outcomes, max_size=60), st.floats(0, 30))
def test_a_window_counts_what_a_list_of_everything_counts(
    seconds: float, steps: list[tuple[float, bool, int]], wait: float
) -> None:
    window, now, seen = Window(seconds), 1000.0, []
    for pause, failed, count in steps:
        now += pause
        window.add(now, failed=failed, count=count)
        seen.append((int(now), failed, count))
    now += wait
    cells = -int(-seconds // 1)
    recent = [(failed, count) for second, failed, count in seen if second > int(now) - cells]
    assert window.counts(now) == (sum(n for _, n in recent), sum(n for failed, n in recent if failed))
    assert window.total == (sum(n for *_, n in seen), sum(n for _, failed, n in seen if failed))
    last_success = max((index for index, (_, failed, _) in enumerate(seen) if not failed), default=-1)
    assert window.row.length == sum(count for _, _, count in seen[last_success + 1 :])


@given(st.floats(1, 100_000), st.lists(st.floats(0, 500), max_size=80))
def test_a_window_of_any_length_is_of_one_size_and_forgets(seconds: float, pauses: list[float]) -> None:
    window, now = Window(seconds), 0.0
    for pause in pauses:
        now += pause
        window.add(now, failed=True)
    assert len(window._cells) <= 2 * MAX_CELLS
    assert window.counts(now + 2 * seconds + MAX_CELLS) == Counts()


@pytest.mark.parametrize(("since", "length"), [(99.0, 1), (100.0, 1), (101.0, 6)])
def test_failures_that_are_told_late_are_in_a_row_unless_a_success_came_meanwhile(since: float, length: int) -> None:
    row = FailureStreak()
    row.add(100.0, failed=False, count=1)
    row.add(102.0, failed=True, count=1)
    row.add(103.0, failed=True, count=5, since=since)
    assert row.length == length


def test_a_clock_that_goes_back_loses_nothing() -> None:
    window = Window(10)
    window.add(100.0, failed=True)
    window.add(50.0, failed=True)
    assert window.counts(100.0) == (2, 2)


def test_what_was_not_used_for_longest_makes_room_and_is_counted() -> None:
    held: Bounded[str, list[str]] = Bounded(2)
    for name in ("a", "b", "a", "c"):
        held.use(name, list).append(name)
    assert (list(held), held.dropped) == (["a", "c"], 1)
    assert held.find("b") is None
    assert held.use("a", list) == ["a", "a"]


@pytest.mark.parametrize("versions", [1_000, 50_000])
def test_memory_is_flat_however_many_versions_there_are(versions: int) -> None:
    held: Bounded[int, Window] = Bounded(500)
    for version in range(versions):
        held.use(version, lambda: Window(10)).add(1.0, failed=False)
    assert (len(held), held.dropped) == (500, versions - 500)
    one = held.use(versions - 1, lambda: Window(10))
    assert sys.getsizeof(one) + sys.getsizeof(one._cells) < 500

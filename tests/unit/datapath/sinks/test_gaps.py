"""What is missing in a log: found by the numbers of its events, in whatever order they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.cli.main import main
from extproc.datapath.sinks.gaps import Gap, WorkerNumbers, find_gaps
from tests.support.decisions import make_decided
from tests.unit.datapath.sinks.test_decision_log import AT, encoder


@given(st.sets(st.integers(1, 60), min_size=1), st.data())
def test_the_gaps_are_what_lies_between_the_numbers_whatever_their_order(
    numbers: set[int], data: st.DataObject
) -> None:
    found = WorkerNumbers("0")
    twice = data.draw(st.permutations([*numbers, *data.draw(st.lists(st.sampled_from(sorted(numbers))))]))
    for number in twice:
        found.add(number, 0)
    missing = {number for first, last in found.gaps() for number in range(first, last + 1)}
    assert missing == set(range(min(numbers), max(numbers) + 1)) - numbers
    assert (found.first, found.last, found.events) == (min(numbers), max(numbers), len(numbers))


@given(st.lists(st.sampled_from(["kept", "left out", "lost"])), st.randoms())
def test_what_a_policy_left_out_is_not_missing(became: list[str], random: Any) -> None:
    """Which of those between two events were lost and which left out is not said, but how many."""
    found = WorkerNumbers("0")
    events, left_out = [], 0
    became = ["kept", *became, "kept"]
    for number, what in enumerate(became, start=1):
        left_out += what == "left out"
        if what == "kept":
            events.append((number, left_out))
            left_out = 0
    for number, before in random.sample(events, len(events)):
        found.add(number, before)
    assert sum(gap.last - gap.first + 1 for gap in found.gaps()) == became.count("lost")
    assert (found.events, found.left_out) == (became.count("kept"), became.count("left out"))


@pytest.mark.parametrize(
    "event",
    [{}, {"labels": {}}, {"req_id": "1"}, {"req_id": True}, {"custom": 3}, {"custom": {"left_out": -1}}, {"req_id": 0}],
)
def test_an_event_without_a_number_of_ours_is_none_of_a_worker(event: dict[str, Any]) -> None:
    whole: dict[str, Any] = {"labels": {"id": "a", "worker": "0"}, "req_id": 3, "custom": {"reads": []}}
    found: dict[str, WorkerNumbers] = {}
    assert find_gaps(found, whole)
    assert event == {"req_id": True} or not find_gaps(found, {**whole, **event} if event else {})
    assert found["a"].events == 1


def test_the_command_names_the_gaps_of_each_life_of_a_worker_over_several_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_bytes(b"".join(logged("a", number) for number in (1, 2, 5, 6, 5)) + b"no event\n")
    second.write_bytes(b"".join(logged("b", number) for number in (7, 9)) + logged("a", 8))

    assert run("log", "gaps", str(second), str(first)) == 1
    assert capsys.readouterr().out.splitlines() == [
        "worker 0 (b), 7 to 9: 1 missing: 8",
        "worker 0 (a), 1 to 8: 3 missing: 3-4, 7",
        "7 decisions of 2 workers: 4 missing; 1 lines have no number.",
    ]
    assert run("log", "gaps", "-o", "json", str(first)) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["workers"][0]["gaps"] == [[3, 4]]
    assert (found["missing"], found["unnumbered"]) == (2, 1)

    second.write_bytes(logged("b", 1) + logged("b", 2))
    assert run("log", "gaps", str(second)) == 0
    second.write_bytes(b"nothing\n")
    assert run("log", "gaps", str(second)) == 2


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def logged(life: str, number: int) -> bytes:
    event = json.loads(encoder().encode(AT, make_decided(), number).body)
    return json.dumps({**event, "labels": {**event["labels"], "id": life}}).encode() + b"\n"


def test_a_gap_says_what_is_missing_in_it() -> None:
    found = WorkerNumbers("0")
    found.add(2, 0)
    found.add(9, 3)
    assert list(found.gaps()) == [Gap(3, 5)]

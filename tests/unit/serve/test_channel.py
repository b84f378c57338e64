"""The pipes between the supervisor and its processes: what one side says is what the other hears, whatever comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from itertools import pairwise
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.protect.observer import Requests
from extproc.serve import messages
from extproc.serve.channel import Channel, written, written_between
from extproc.serve.messages import FROM_WORKER, TO_WORKER, Drain, FromWorker, Swapped, ToWorker, WantMetrics
from extproc.serve.supervisor import policy_trial

JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
SIMPLE: Any = {
    int: st.integers(0, 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(),
    bool: st.booleans(),
    NoneType: st.none(),
    Any: JSON,
    msgspec.Raw: st.lists(JSON, max_size=3).map(written),
}
DIRECTIONS: Any = {
    name: (union, getattr(messages, name))
    for name, union in {
        "TO_WORKER": messages.ToWorker,
        "FROM_WORKER": messages.FromWorker,
        "TO_OBSERVER": messages.ToObserver,
        "FROM_OBSERVER": messages.FromObserver,
        "FROM_BESIDE": messages.Counted,
    }.items()
}


def of(hint: Any) -> Any:
    """Whatever a field of this type may be."""
    if hint in SIMPLE:
        return SIMPLE[hint]
    inner = [of(one) for one in get_args(hint)]
    if get_origin(hint) in (list, Sequence):
        return st.lists(*inner, max_size=3)
    if get_origin(hint) is dict:
        return st.dictionaries(*inner, max_size=3)
    if get_origin(hint) is tuple:
        return st.tuples(*inner)
    if inner:
        return st.one_of(inner)
    fields = get_type_hints(hint)
    assert issubclass(hint, msgspec.Struct | tuple) or is_dataclass(hint)
    return st.builds(hint, **{name: of(kind) for name, kind in fields.items()})


def heard(kinds: msgspec.json.Decoder[Any], *pieces: bytes) -> list[Any]:
    """What comes out of a channel that these bytes go into."""
    received: list[Any] = []
    channel = Channel[Any, Any](kinds, received.append, lambda: None)
    for piece in pieces:
        channel.data_received(piece)
    return received


@pytest.mark.parametrize("direction", DIRECTIONS)
@given(data=st.data())
def test_what_one_side_says_is_what_the_other_hears(direction: str, data: st.DataObject) -> None:
    union, kinds = DIRECTIONS[direction]
    said = data.draw(of(union))
    assert heard(kinds, msgspec.json.encode(said) + b"\n") == [said]


@given(of(policy_trial.TrialRequest), of(policy_trial.Evaluating | policy_trial.Tried))
def test_a_trial_and_its_supervisor_understand_each_other(question: Any, answer: Any) -> None:
    assert policy_trial._read_question(msgspec.json.encode(question)) == question
    assert policy_trial._read_answer(msgspec.json.encode(answer)) == answer


@given(st.lists(of(FromWorker), max_size=5), st.data())
def test_messages_arrive_whole_however_they_are_cut(said: list[Any], data: st.DataObject) -> None:
    stream = b"".join(msgspec.json.encode(message) + b"\n" for message in said)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert heard(FROM_WORKER, *pieces) == said


@pytest.mark.parametrize(
    "line",
    [
        b'{"kind": "of a later version"}',
        b'{"kind": "swapped", "id": "x"}',
        b'{"kind": "swapped"}',
        b"{}",
        b"[1]",
        b"no JSON",
        b"\xff",
        b'{"kind": "\xff"}',
        b'{"kind": "swapped", "id": 1, "more": ' + b"[" * 100_000,
        b"",
    ],
)
def test_what_nobody_understands_is_said_and_passed_over(line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    good = msgspec.json.encode(Swapped("r", "f", id=1))
    assert heard(FROM_WORKER, line + b"\n" + good + b"\n") == [Swapped("r", "f", id=1)]
    assert [(record.levelno, record.exc_info) for record in caplog.records] == [(logging.ERROR, None)]


def test_a_field_of_a_later_version_is_passed_over() -> None:
    assert heard(TO_WORKER, b'{"kind": "metrics", "id": 3, "why": "new"}\n') == [WantMetrics(id=3)]


def test_a_message_that_cannot_be_taken_costs_no_other_one(caplog: pytest.LogCaptureFixture) -> None:
    received: list[int] = []
    channel = Channel[FromWorker, ToWorker](
        TO_WORKER, lambda message: received.append(10 // getattr(message, "id", 0)), lambda: None
    )
    channel.data_received(b"".join(msgspec.json.encode(WantMetrics(id=number)) + b"\n" for number in (5, 0, 2)))
    assert received == [2, 5]
    assert caplog.records[0].exc_info is not None


def test_a_message_to_nobody_is_not_sent() -> None:
    assert Channel[ToWorker, FromWorker](FROM_WORKER, lambda message: None, lambda: None).send(Drain()) is False


def test_what_a_worker_counts_is_what_the_observer_reads() -> None:
    counts: list[list[Any]] = [["payments/x", 1, "canary", "4", 170, 2], ["payments/x", 1, "canary", "4", 170, 3, True]]
    assert msgspec.json.decode(written(counts), type=list[Requests]) == [Requests(*row) for row in counts]


@pytest.mark.parametrize("count", [0, 1, 100, 10_001])
async def test_a_long_list_is_written_while_the_loop_goes_on(count: int) -> None:
    at: list[int] = []

    def goes_on() -> None:
        at.append(written)
        asyncio.get_running_loop().call_soon(goes_on)

    written = 0

    def items() -> Iterator[dict[str, int]]:
        nonlocal written
        for written in range(count):  # seen by the loop
            yield {"number": written}

    asyncio.get_running_loop().call_soon(goes_on)
    whole = await written_between(items())
    assert msgspec.json.decode(whole) == [{"number": n} for n in range(count)]
    assert all(after - before <= 100 for before, after in pairwise([0, *at, count]))

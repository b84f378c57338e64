"""A sink behind masks: what is dropped, taken out or spoilt, and that nothing is delivered as it was by mistake."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from extproc.datapath.sinks.event_queue import Event, EventQueue
from extproc.datapath.sinks.gaps import WorkerNumbers, find_gaps
from extproc.datapath.sinks.masked_sink import MaskedSink
from extproc.datapath.sinks.masking import MaskError, mask, mask_rules
from extproc.testing.sink import MemorySink
from tests.support.decisions import make_decided
from tests.unit.datapath.sinks.test_decision_log import AT, encoder
from tests.unit.datapath.sinks.test_event_queue import Moody, wait_for

PLAN = b'{"kind":"plan","id":"p","rollout":"a/b","plan":{}}'
SPOILT = MaskError("why")


class Judge:
    """Says of each event what ``becomes`` has for its number; what it was asked is in ``seen``."""

    def __init__(self, becomes: dict[int, bytes | MaskError | None], *, asked: bool = True) -> None:
        self.becomes = becomes
        self.asked = asked
        self.away = False
        self.seen: list[int] = []

    def judge(self, events: Sequence[bytes]) -> list[bytes | MaskError | None]:
        if self.away:
            raise OSError("nobody is there")
        numbers = [number_of(event) for event in events]
        self.seen += numbers
        return [self.becomes.get(number, event) for number, event in zip(numbers, events, strict=True)]

    def close(self) -> None:
        """Nothing to let go of."""


def event(number: int) -> bytes:
    return encoder().encode(AT, make_decided(), number).body


def number_of(event: bytes) -> int:
    return int(json.loads(event)["req_id"])


def test_what_is_dropped_or_cannot_be_masked_is_not_delivered_and_plans_always_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = MemorySink([])
    judge = Judge({1: None, 3: SPOILT, 4: b'{"req_id":4,"masked":true}'})
    masked = MaskedSink("memory", sink, judge)
    assert masked.write([PLAN, event(1), PLAN, event(2), event(3), event(4)]) == 1
    assert sink.taken[:2] == [PLAN, PLAN]
    assert [number_of(each) for each in sink.taken[2:]] == [2, 4]
    assert masked.write([event(1)]) == 0
    told, over = caplog.messages
    assert told == "sink memory, masks: events are dropped, because they cannot be masked: why"
    assert over.startswith("sink memory, masks: well again")
    assert len(sink.taken) == 4


def test_what_is_dropped_is_no_gap_and_what_cannot_be_masked_is_one() -> None:
    sink = MemorySink([])
    masked = MaskedSink("memory", sink, Judge({2: None, 3: None, 5: SPOILT, 6: None}))
    masked.write([event(number) for number in range(1, 4)])
    masked.write([event(number) for number in range(4, 9)])
    found: dict[str, WorkerNumbers] = {}
    for each in sink.taken:
        logged = json.loads(each)
        assert find_gaps(found, {**logged, "labels": {**logged["labels"], "id": "a"}})
    assert found["a"].left_out == 3
    assert [tuple(gap) for gap in found["a"].gaps()] == [(5, 5)]


def test_without_policies_events_are_as_they_were_and_nobody_is_asked() -> None:
    sink, judge = MemorySink([]), Judge({1: None}, asked=False)
    events = [event(1)]
    assert MaskedSink("memory", sink, judge).write(events) == 0
    assert sink.taken == events
    assert judge.seen == []


def test_what_a_sink_failed_to_take_is_not_judged_again_and_nothing_is_delivered_while_nobody_judges() -> None:
    sink, judge = Moody(), Judge({2: None})
    queue = EventQueue("moody", MaskedSink("moody", sink, judge), gather_seconds=0.0, retry_seconds=0.001)
    judge.away = True
    for number in (1, 2, 3):
        assert queue.admit()
        queue.put(Event(event(number)))
    wait_for(lambda: queue.errors > 2)
    assert sink.asked == []
    sink.away.set()
    judge.away = False
    before = queue.errors
    wait_for(lambda: queue.errors > before + 2)
    sink.away.clear()
    queue.close(60.0)
    assert [number_of(each) for each in sink.taken] == [1, 3]
    assert judge.seen == [1, 2, 3]
    assert queue.drops == 0


@pytest.mark.parametrize(
    "said",
    [None, {}, "x", [3], [[]], [""], ["input"], ["/labels"], [{"op": "remove"}], [{"path": "/input"}], ["/input/%"]],
)
def test_a_mask_that_is_none_spoils_the_event(said: Any) -> None:
    with pytest.raises(MaskError):
        mask_rules(said)


def test_custom_stays_the_last_field_whatever_is_taken_out() -> None:
    logged = json.loads(event(1))
    mask(logged, mask_rules(["/input/time", {"op": "upsert", "path": "/result/policy/reason", "value": "***"}]))
    assert list(logged)[-1] == "custom"
    assert (logged["erased"], logged["masked"]) == (["/input/time"], ["/result/policy/reason"])
    assert "time" not in logged["input"]
    assert logged["result"]["policy"]["reason"] == "***"

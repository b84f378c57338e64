"""Feature stores that block, on threads: answers as they come, nothing read in vain, nothing that holds the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence

from extproc.datapath.blocking_features import ThreadedFeatures
from extproc.datapath.ports import FeatureAnswer, FeatureKey, FeatureRow
from extproc.snapshot.model import FeatureView

VIEW = FeatureView("user_risk", ("risk",))
KEYS = [FeatureKey(VIEW, (f"u-{number}",)) for number in range(5)]


class Blocking:
    """Answers with the entity's name, once its gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.began = threading.Event()
        self.asked: list[str] = []
        self.closed = threading.Event()

    def read(self, view: str, entity: str, names: Sequence[str]) -> Mapping[str, FeatureRow]:
        self.asked.append(entity)
        self.began.set()
        assert self.gate.wait(10)
        if entity == "u-3":
            raise ZeroDivisionError
        return {name: FeatureRow((view, entity), 1.0) for name in names}

    def close(self) -> None:
        self.closed.set()


async def answers_of(store: ThreadedFeatures, keys: Sequence[FeatureKey]) -> list[FeatureAnswer]:
    return [answer async for answer in store.read(keys)]


async def test_every_key_has_an_answer_of_its_own_and_a_fault_is_one_keys() -> None:
    blocking = [Blocking(), Blocking()]
    store = ThreadedFeatures(blocking)
    answers = {answer.key: answer for answer in await answers_of(store, KEYS)}
    assert {key for key, answer in answers.items() if answer.fault is not None} == {KEYS[3]}
    assert answers[KEYS[1]].rows == {"risk": FeatureRow(("user_risk", "u-1"), 1.0)}
    assert sorted(blocking[0].asked + blocking[1].asked) == [key.text for key in KEYS]
    await store.close()
    assert all(one.closed.wait(10) for one in blocking)


async def test_what_nobody_waits_for_any_more_is_not_read() -> None:
    blocking = Blocking()
    blocking.gate.clear()
    store = ThreadedFeatures([blocking])
    reading = asyncio.create_task(answers_of(store, KEYS))
    await asyncio.to_thread(blocking.began.wait, 10)
    reading.cancel()
    await asyncio.wait([reading])
    blocking.gate.set()
    await answers_of(store, KEYS[:1])
    assert blocking.asked == ["u-0", "u-0"]
    await store.close()


async def test_a_store_that_was_never_asked_is_closed_too() -> None:
    blocking = Blocking()
    await ThreadedFeatures([blocking]).close()
    assert blocking.closed.is_set()

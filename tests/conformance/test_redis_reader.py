"""Reads of a real Redis that are ended while they are under way leave nothing behind for those that follow."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, aclosing

from extproc.adapters.redis.features import open_features
from extproc.clock import SystemClock
from extproc.datapath.features import FeatureReader
from extproc.datapath.ports import FeatureKey
from extproc.snapshot.model import FeatureNeed, FeatureView, JoinKey, UnitSource
from tests.systems.resp import Redis

VIEW = FeatureView("user_risk", ("who",))
NEED = FeatureNeed((JoinKey(UnitSource(header="x-user-id")),), VIEW, None, 60.0, missing_is_stable=True)
USERS = 50


def fill(redis: Redis) -> None:
    for number in range(USERS):
        redis.call("HSET", f"user_risk:u-{number}", "who", f'"u-{number}"')


async def test_a_read_that_is_ended_anywhere_leaves_its_answer_to_no_other(redis: Redis) -> None:
    """As clients of Redis have done: the next on the connection got the answer of the one before."""
    fill(redis)
    store, drawn = open_features(redis.url, "--features"), random.Random(7)

    async def read(number: int) -> None:
        async with aclosing(store.read([FeatureKey(VIEW, (f"u-{number}",))])) as answers:
            async for answer in answers:
                assert answer.rows is not None, answer.fault
                assert answer.rows["who"].value == f"u-{number}"

    for _ in range(100):
        reading = [asyncio.create_task(read(drawn.randrange(USERS))) for _ in range(8)]
        for _ in range(drawn.randrange(12)):
            await asyncio.sleep(0)
        ended = drawn.sample(reading, 4)
        for task in ended:
            task.cancel()
        for outcome in await asyncio.gather(*reading, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError)
    await store.close()


async def test_a_redis_that_hangs_and_goes_on_answers_each_with_its_own(
    start: Callable[[AbstractContextManager[Redis]], Redis],
) -> None:
    redis = start(Redis())
    fill(redis)
    reader = FeatureReader(open_features(redis.url, "--features"), SystemClock(), max_age=0.0)
    waiting = [asyncio.create_task(reader.fetch(NEED, (f"u-{number}",))) for number in range(USERS)]
    redis.hang()
    waiting += [asyncio.create_task(reader.fetch(NEED, (f"u-{number}",))) for number in range(USERS)]
    await asyncio.sleep(0)
    redis.go_on()
    for number, features in enumerate(await asyncio.gather(*waiting)):
        assert features.fault is None
        assert features.values["who"].value == f"u-{number % USERS}"
    await reader.close()

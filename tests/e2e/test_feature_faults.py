"""Whatever becomes of a Redis, under load on a real Envoy: no request fails, and reasons say why."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager

import pytest

from tests.e2e.environment import Environment
from tests.support.envoy import free_port
from tests.support.load import Load, under_load
from tests.support.process import wait_for
from tests.systems.resp import Redis

pytestmark = pytest.mark.e2e

RATE = 100.0
USERS = 500
SLOW_KEY = re.compile(rb"user_risk:user-\d*07\r")
"""One of a hundred."""


def fill(redis: Redis) -> None:
    """A hash for each user of the load."""
    for number in range(USERS):
        redis.call("HSET", f"user_risk:user-{number}", "risk_score", "0.5")


@pytest.fixture
def redis(start: Callable[[AbstractContextManager[Redis]], Redis]) -> Redis:
    redis = start(Redis())
    fill(redis)
    return redis


def environment_at(url: str, transport: str) -> Environment:
    """Two workers that read the Redis for each request; without its answer stable serves, version 3."""
    features = {
        "entity": {"header": "x-user-id"},
        "view": "user_risk",
        "names": ["risk_score"],
        "timeout": "100ms",
        "onMissing": "stable",
    }
    environment = Environment(None, {"features": features}, transport=transport, DROPOUT_FEATURE_CACHE="0")
    environment.dropout.options += ("--features", url)
    return environment


@contextmanager
def started(environment: Environment) -> Iterator[Environment]:
    try:
        environment.start()
        environment.set_weight(100)
        yield environment
    finally:
        environment.stop()


def is_left_alone(environment: Environment) -> bool:
    """By a worker at least."""
    return environment.dropout.metric("dropout_feature_store_up") == 0


def served(environment: Environment) -> str:
    return environment.ask(x_user_id="user-1").upstream


def bad_times(environment: Environment, load: Load, begin: Callable[[], object], end: Callable[[], object]) -> None:
    """The fault begins, requests go on until it is over and the Redis is read again, and some more."""
    begin()
    wait_for(lambda: is_left_alone(environment), "a worker that leaves the Redis alone")
    load.go_on(50)
    assert served(environment) == "fraud-detector-v3"
    end()
    wait_for(lambda: not is_left_alone(environment), "an answer to a probe")
    wait_for(lambda: served(environment) == "fraud-detector-v4", "features")
    load.go_on(50)


def decided(environment: Environment, *reasons: str) -> list[float]:
    return [environment.dropout.metric("dropout_decisions_total", reason=reason) for reason in reasons]


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_a_redis_that_is_killed_hung_or_restarted_fails_no_request(redis: Redis, transport: str) -> None:
    def back() -> None:
        redis.start()
        fill(redis)

    with started(environment_at(redis.url, transport)) as environment, under_load(environment.port, rate=RATE) as load:
        load.go_on(50)
        assert served(environment) == "fraud-detector-v4"
        bad_times(environment, load, redis.stop, back)
        bad_times(environment, load, redis.hang, redis.go_on)
        load.stop()
        assert load.failed() == []
        assert environment.failed_open() == 0
        of_reasons = decided(environment, "weight", "feature_store_down", "feature_timeout")
        assert all(of_reasons)
        missing = decided(environment, "feature_missing")  # it came back empty, and was filled again
        assert sum(of_reasons + missing) == environment.dropout.metric("dropout_decisions_total")
        assert environment.dropout.metric("dropout_feature_store_openings_total") >= 2


def test_a_redis_that_is_slow_for_one_key_of_a_hundred_is_not_left_alone(redis: Redis) -> None:
    with SlowRelay(redis.port) as relay, started(environment_at(relay.url, "grpc")) as environment:
        with under_load(environment.port, rate=RATE) as load:
            load.go_on(2 * USERS)
        assert load.failed() == []
        assert environment.failed_open() == 0
        weight, timeout = decided(environment, "weight", "feature_timeout")
        assert timeout > 0
        assert weight > 0.9 * environment.dropout.metric("dropout_decisions_total")
        assert environment.dropout.metric("dropout_feature_store_openings_total") == 0


class SlowRelay:
    """Stands before a Redis at ``port``: what asks for one key of a hundred gets there half a second later."""

    def __init__(self, port: int) -> None:
        self._behind = port
        self._port = free_port()
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()), daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self._port}"

    def __enter__(self) -> SlowRelay:
        self._thread.start()
        assert self._listens.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(60)

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._relay, "127.0.0.1", self._port)
        self._listens.set()
        await self._stopped.wait()
        server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._behind)
        answers = asyncio.create_task(self._answers(there, writer))
        with closing(back), closing(writer):
            while chunk := await reader.read(1 << 16):
                if SLOW_KEY.search(chunk):
                    await asyncio.sleep(0.5)
                back.write(chunk)
        await answers

    async def _answers(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await there.read(1 << 16):
            writer.write(chunk)

"""The read-through cache: what requests wait for, for how long, and what they get instead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from extproc.datapath.features import MAX_ENTITY_LENGTH, FeatureReader
from extproc.datapath.ports import FeatureAnswer, FeatureKey, FeatureRow
from extproc.errors import Unreachable
from extproc.names import Reason
from extproc.snapshot.model import FeatureNeed, FeatureView, JoinKey, UnitSource
from tests.support.clock import FakeClock


class FakeStore:
    """Answers from a dict once its gate is open; raises what it is told to."""

    max_batch = 64

    def __init__(self, clock: FakeClock) -> None:
        self.rows: dict[str, dict[str, FeatureRow]] = {"u-1": {"risk": FeatureRow(0.9, clock.now() - 60)}}
        self.gate = asyncio.Event()
        self.gate.set()
        self.slow: set[str] = set()
        self.batches: list[list[str]] = []
        self.fault: Exception | None = None
        self.closed = False

    @property
    def asked(self) -> list[str]:
        """Every entity that was read, in order."""
        return [entity for batch in self.batches for entity in batch]

    async def read(self, keys: Sequence[FeatureKey]) -> AsyncGenerator[FeatureAnswer, None]:
        self.batches.append([key.text for key in keys])
        for key in sorted(keys, key=lambda key: key.text in self.slow):
            if not self.slow or key.text in self.slow:
                await self.gate.wait()
            if self.fault is not None:
                raise self.fault
            rows = self.rows.get(key.text, {})
            yield FeatureAnswer(key, {name: row for name, row in rows.items() if name in key.view.features})

    async def close(self) -> None:
        self.closed = True


def need(names: tuple[str, ...] = ("risk",), max_age: float | None = 3600.0, timeout: float = 5.0) -> FeatureNeed:
    keys = (JoinKey(UnitSource(header="x-user-id")),)
    return FeatureNeed(keys, FeatureView("user_risk", names), max_age, timeout, missing_is_stable=True)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> FakeStore:
    return FakeStore(clock)


@pytest.fixture
async def make(store: FakeStore, clock: FakeClock) -> AsyncIterator[Callable[..., FeatureReader]]:
    readers: list[FeatureReader] = []

    def build(**limits: Any) -> FeatureReader:
        readers.append(FeatureReader(store, clock, **limits))
        return readers[-1]

    yield build
    store.gate.set()
    for reader in readers:
        await reader.close()


async def settled(reader: FeatureReader, entity: str) -> None:
    """Wait until the answer for ``entity``, which a request gave up on, is in the cache."""
    await reader.fetch(need(timeout=10.0), (entity,))


async def test_what_was_fetched_is_cached(make: Callable[..., FeatureReader], store: FakeStore) -> None:
    reader = make()
    assert reader.cached(need(), ("u-1",)) is None
    fetched = await reader.fetch(need(), ("u-1",))
    assert fetched.values["risk"] == (0.9, 60.0, "store")
    assert fetched.fault is None
    cached = reader.cached(need(), ("u-1",))
    assert cached is not None
    assert cached.values["risk"] == (0.9, 60.0, "cache")
    assert store.asked == ["u-1"]
    counts = reader.views["user_risk"]
    assert (counts.hits, counts.misses) == (1, 1)


async def test_an_unknown_entity_is_missing_and_remembered(
    make: Callable[..., FeatureReader], store: FakeStore
) -> None:
    reader = make()
    assert (await reader.fetch(need(), ("nobody",))).fault is Reason.FEATURE_MISSING
    cached = reader.cached(need(), ("nobody",))
    assert cached is not None
    assert cached.fault is Reason.FEATURE_MISSING
    assert store.asked == ["nobody"]


async def test_an_entry_is_not_served_beyond_its_age_where_nobody_says_how_old_a_value_may_be(
    make: Callable[..., FeatureReader], clock: FakeClock
) -> None:
    reader = make(max_age=10.0)
    await reader.fetch(need(max_age=None), ("u-1",))
    clock.advance(10.0)
    assert reader.cached(need(max_age=None), ("u-1",)) is not None
    clock.advance(0.1)
    assert reader.cached(need(max_age=None), ("u-1",)) is None


async def test_beyond_its_age_an_entry_is_served_within_max_age_while_one_read_renews_it(
    make: Callable[..., FeatureReader], store: FakeStore, clock: FakeClock
) -> None:
    reader = make(max_age=10.0)
    await reader.fetch(need(), ("u-1",))
    clock.advance(20.0)
    store.rows["u-1"]["risk"] = FeatureRow(0.1, clock.now())
    store.gate.clear()
    for _ in range(100):
        served = reader.cached(need(), ("u-1",))
        assert served is not None
        assert served.values["risk"] == (0.9, pytest.approx(80.0), "cache")
        await asyncio.sleep(0)
    store.gate.set()
    await settled(reader, "u-1")
    served = reader.cached(need(), ("u-1",))
    assert served is not None
    assert served.values["risk"] == (0.1, 0.0, "cache")
    assert store.asked == ["u-1", "u-1"]


async def test_beyond_its_age_an_entry_with_a_value_that_is_missing_or_too_old_is_read_and_waited_for(
    make: Callable[..., FeatureReader], clock: FakeClock
) -> None:
    reader = make(max_age=10.0)
    for entity in ("u-1", "nobody"):
        await reader.fetch(need(), (entity,))
    clock.advance(10.1)
    assert reader.cached(need(), ("nobody",)) is None
    assert reader.cached(need(max_age=65.0), ("u-1",)) is None
    assert reader.cached(need(), ("u-1",)) is not None


async def test_a_value_that_became_too_old_in_the_cache_is_read_again_and_one_that_was_so_before_is_not(
    make: Callable[..., FeatureReader], store: FakeStore, clock: FakeClock
) -> None:
    reader = make()
    assert (await reader.fetch(need(max_age=65.0), ("u-1",))).fault is None
    clock.advance(6.0)
    assert reader.cached(need(max_age=65.0), ("u-1",)) is None
    stale = await reader.fetch(need(max_age=65.0), ("u-1",))
    assert (stale.values, stale.fault) == ({}, Reason.FEATURE_STALE)
    clock.advance(1.0)
    cached = reader.cached(need(max_age=65.0), ("u-1",))
    assert cached is not None
    assert cached.fault is Reason.FEATURE_STALE
    assert store.asked == ["u-1", "u-1"]


async def test_a_missing_feature_outranks_a_stale_one(make: Callable[..., FeatureReader]) -> None:
    features = await make().fetch(need(names=("risk", "country"), max_age=1.0), "u-1")
    assert features.fault is Reason.FEATURE_MISSING


async def test_an_event_time_in_the_future_is_of_age_zero_within_the_skew_of_clocks_and_stale_beyond_it(
    make: Callable[..., FeatureReader], store: FakeStore, clock: FakeClock
) -> None:
    store.rows["u-1"]["risk"] = FeatureRow(0.1, clock.now() + 5)
    store.rows["u-2"] = {"risk": FeatureRow(0.1, clock.now() + 5.1)}
    reader = make(skew=5.0)
    assert (await reader.fetch(need(max_age=0.0), ("u-1",))).values["risk"].age == 0.0
    for _ in range(2):
        stale = reader.cached(need(max_age=1e9), ("u-2",)) or await reader.fetch(need(max_age=1e9), ("u-2",))
        assert (stale.values, stale.fault) == ({}, Reason.FEATURE_STALE)
    assert (await reader.fetch(need(max_age=None), ("u-2",))).values["risk"].age is None


async def test_without_a_maximum_any_age_is_taken(make: Callable[..., FeatureReader], clock: FakeClock) -> None:
    clock.advance(1e9)
    assert (await make().fetch(need(max_age=None), ("u-1",))).fault is None


async def test_whatever_entities_hold_the_cache_stays_within_its_bytes(
    make: Callable[..., FeatureReader], store: FakeStore, clock: FakeClock
) -> None:
    reader = make(max_bytes=1 << 20)
    for number in range(1000):
        store.rows[f"u-{number}"] = {"risk": FeatureRow([0.5] * (number % 100), clock.now())}
        await reader.fetch(need(), (f"u-{number}",))
        assert 0 < reader.others.cache.bytes <= 1 << 20
    assert reader.cached(need(), ("u-999",)) is not None
    assert reader.cached(need(), ("u-0",)) is None


async def test_an_answer_that_is_too_large_serves_its_request_alone(
    make: Callable[..., FeatureReader], store: FakeStore, clock: FakeClock
) -> None:
    store.rows["u-2"] = {"risk": FeatureRow("x" * (1 << 20), clock.now())}
    reader = make(max_bytes=1 << 20)
    await reader.fetch(need(), ("u-1",))
    for _ in range(2):
        assert (await reader.fetch(need(), ("u-2",))).fault is None
        assert reader.cached(need(), ("u-2",)) is None
    assert (store.asked, reader.others.cache.refused) == (["u-1", "u-2", "u-2"], 2)
    assert reader.cached(need(), ("u-1",)) is not None


async def test_a_slow_store_is_a_timeout_and_its_late_answer_serves_the_next(
    make: Callable[..., FeatureReader], store: FakeStore
) -> None:
    reader = make()
    store.gate.clear()
    late = await reader.fetch(need(timeout=0.001), ("u-1",))
    assert late.fault is Reason.FEATURE_TIMEOUT
    assert late.values == {}
    store.gate.set()
    await settled(reader, "u-1")
    cached = reader.cached(need(), ("u-1",))
    assert cached is not None
    assert cached.fault is None
    assert store.asked == ["u-1"]


async def test_nobody_waits_beyond_the_deadline(make: Callable[..., FeatureReader], store: FakeStore) -> None:
    store.gate.clear()
    late = await make(deadline=0.001).fetch(need(timeout=60.0), ("u-1",))
    assert late.fault is Reason.FEATURE_TIMEOUT


async def test_requests_for_the_same_entity_share_one_read(
    make: Callable[..., FeatureReader], store: FakeStore
) -> None:
    reader = make()
    store.gate.clear()
    tasks = [asyncio.create_task(reader.fetch(need(), ("u-1",))) for _ in range(20)]
    await asyncio.sleep(0)
    store.gate.set()
    answers = await asyncio.gather(*tasks)
    assert {answer.fault for answer in answers} == {None}
    assert store.asked == ["u-1"]


async def test_a_cancelled_request_does_not_take_the_others_answer(
    make: Callable[..., FeatureReader], store: FakeStore
) -> None:
    reader = make()
    store.gate.clear()
    first = asyncio.create_task(reader.fetch(need(), ("u-1",)))
    second = asyncio.create_task(reader.fetch(need(), ("u-1",)))
    await asyncio.sleep(0)
    first.cancel()
    store.gate.set()
    assert (await second).fault is None


async def test_beyond_the_pending_limit_there_is_no_waiting(
    make: Callable[..., FeatureReader], store: FakeStore
) -> None:
    reader = make(max_pending=2)
    store.gate.clear()
    for entity in ("a", "b"):
        await reader.fetch(need(timeout=0.0), (entity,))
    refused = await reader.fetch(need(timeout=60.0), ("c",))
    assert refused.fault is Reason.FEATURE_TIMEOUT
    store.gate.set()
    await settled(reader, "b")
    assert "c" not in store.asked


@pytest.mark.parametrize("fault", [Unreachable.of("features_locked", "Locked."), ZeroDivisionError("a bug")])
async def test_a_store_that_fails_is_down_and_is_asked_again(
    make: Callable[..., FeatureReader], store: FakeStore, fault: Exception
) -> None:
    reader = make()
    store.fault = fault
    assert (await reader.fetch(need(), ("u-1",))).fault is Reason.FEATURE_STORE_DOWN
    assert reader.views["user_risk"].errors == 1
    assert reader.cached(need(), ("u-1",)) is None
    store.fault = None
    assert (await reader.fetch(need(), ("u-1",))).fault is None


async def test_closing_closes_the_store(make: Callable[..., FeatureReader], store: FakeStore) -> None:
    reader = make()
    await reader.fetch(need(), ("u-1",))
    await reader.close()
    assert store.closed


async def test_an_entity_of_any_length_costs_no_memory(make: Callable[..., FeatureReader], store: FakeStore) -> None:
    reader = make()
    longest = "u" * MAX_ENTITY_LENGTH
    assert (await reader.fetch(need(), (f"{longest}u",))).fault is Reason.FEATURE_MISSING
    assert (store.asked, len(reader.others.cache)) == ([], 0)
    await reader.fetch(need(), (longest,))
    assert (store.asked, len(reader.others.cache)) == ([longest], 1)


async def test_what_one_turn_of_the_loop_asks_is_read_together(
    make: Callable[..., FeatureReader], store: FakeStore
) -> None:
    reader = make()
    entities = [f"u-{number}" for number in range(100)]
    await asyncio.gather(*(reader.fetch(need(), (entity,)) for entity in entities))
    assert store.batches == [entities[:64], entities[64:]]


async def test_a_slow_key_delays_itself_alone(make: Callable[..., FeatureReader], store: FakeStore) -> None:
    reader = make()
    store.slow = {"u-2"}
    store.gate.clear()
    slow = asyncio.create_task(reader.fetch(need(), ("u-2",)))
    assert (await reader.fetch(need(), ("u-1",))).fault is None
    assert not slow.done()
    store.gate.set()
    assert (await slow).fault is Reason.FEATURE_MISSING


async def test_a_read_that_never_ends_is_ended_and_the_store_is_asked_again(
    make: Callable[..., FeatureReader], store: FakeStore
) -> None:
    reader = make(max_read=0.001)
    store.gate.clear()
    assert (await reader.fetch(need(), ("u-1",))).fault is Reason.FEATURE_STORE_DOWN
    assert reader.views["user_risk"].errors == 1
    store.gate.set()
    assert (await reader.fetch(need(), ("u-1",))).fault is None


async def test_a_key_that_the_store_leaves_out_counts_as_failed(
    make: Callable[..., FeatureReader], store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(keys: Sequence[FeatureKey]) -> AsyncGenerator[FeatureAnswer, None]:
        for key in keys[:0]:
            yield FeatureAnswer(key, {})

    monkeypatch.setattr(store, "read", nothing)
    reader = make()
    assert (await reader.fetch(need(), ("u-1",))).fault is Reason.FEATURE_STORE_DOWN
    assert reader.views["user_risk"].errors == 1


async def test_a_value_without_a_time_is_missing_where_a_rollout_has_a_maximum(
    make: Callable[..., FeatureReader], store: FakeStore
) -> None:
    store.rows["u-1"]["risk"] = FeatureRow(0.5, None)
    assert (await make().fetch(need(max_age=1e9), ("u-1",))).fault is Reason.FEATURE_MISSING
    assert (await make().fetch(need(max_age=None), ("u-1",))).values["risk"] == (0.5, None, "store")

"""A store that does not answer, and clients that ask for everything: on a schedule that the test keeps."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.datapath.circuit import MOST_FAILED, PROBE_SECONDS
from extproc.datapath.feature_reads import SLOW_SECONDS
from extproc.datapath.features import FeatureReader
from extproc.datapath.model import Features
from extproc.datapath.ports import FeatureAnswer, FeatureKey, FeatureRow
from extproc.errors import InvalidInput, Unreachable
from extproc.names import Reason
from extproc.snapshot.model import FeatureNeed, FeatureView, JoinKey, UnitSource
from tests.support.clock import FakeClock

DOWN = Unreachable.of("features_unreachable", "it is away")
CORRUPT = InvalidInput.of("feature_type", "it is no value")
Say = Callable[[FeatureKey], "dict[str, FeatureRow] | Exception | None"]


def need(header: str = "x-user-id", timeout: float = 0.001, max_age: float | None = None) -> FeatureNeed:
    keys = (JoinKey(UnitSource(header=header)),)
    return FeatureNeed(keys, FeatureView("user_risk", ("risk",)), max_age, timeout, missing_is_stable=True)


class Elsewhere:
    """A store that answers as ``say`` has it; on None it does not, until it is ``let_go``."""

    max_batch = 64

    def __init__(self, say: Say = lambda key: {"risk": FeatureRow(key.text, None)}) -> None:
        self.say = say
        self.asked: list[str] = []
        self.ended = 0
        self.going = asyncio.Event()

    async def read(self, keys: Sequence[FeatureKey]) -> AsyncGenerator[FeatureAnswer, None]:
        self.asked += [key.text for key in keys]
        try:
            for key in keys:
                said = self.say(key)
                if said is None:
                    await self.going.wait()
                    said = {"risk": FeatureRow(key.text, None)}
                if said is DOWN:
                    raise DOWN
                yield FeatureAnswer(key, None, said) if isinstance(said, Exception) else FeatureAnswer(key, said)
        finally:
            self.ended += 1

    async def close(self) -> None:
        """Nothing to let go of."""


class Schedule:
    """Sleeps that end when the test says so."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._waking = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self._waking.wait()

    async def pass_by(self) -> None:
        """Let those who sleep go on, and do what they have to."""
        await turn()
        self._waking.set()
        self._waking = asyncio.Event()
        await turn()


async def turn() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def make(store: Elsewhere, clock: FakeClock | None = None, **options: Any) -> tuple[FeatureReader, Schedule]:
    schedule = Schedule()
    return FeatureReader(store, clock or FakeClock(), sleep=schedule.sleep, **options), schedule


async def found(reader: FeatureReader, wanted: FeatureNeed, entity: str) -> Features:
    """As a request has it."""
    return reader.cached(wanted, (entity,)) or await reader.fetch(wanted, (entity,))


async def test_a_store_that_is_away_is_left_alone_and_asked_again_when_a_probe_is_answered() -> None:
    store = Elsewhere(lambda _: DOWN)
    reader, schedule = make(store)
    for number in range(1000):
        assert (await found(reader, need(), f"u-{number}")).fault is Reason.FEATURE_STORE_DOWN
    assert len(store.asked) == MOST_FAILED
    assert reader.reads.is_left_alone
    await schedule.pass_by()  # it is still away
    store.say = lambda key: {"risk": FeatureRow(key.text, None)}
    assert (await found(reader, need(), "u-1")).fault is Reason.FEATURE_STORE_DOWN
    await schedule.pass_by()
    assert (await found(reader, need(), "u-1")).values["risk"].value == "u-1"
    assert (reader.reads.is_left_alone, reader.reads.openings) == (False, 1)
    assert schedule.slept == [PROBE_SECONDS] * 2
    assert PROBE_SECONDS + SLOW_SECONDS < 2 / 2  # it is asked again within two seconds from when it is back


async def test_a_store_that_hangs_is_left_alone_and_what_hangs_is_ended_so_that_a_probe_has_a_connection() -> None:
    store = Elsewhere(lambda _: None)
    reader, schedule = make(store)
    for number in range(MOST_FAILED):
        assert (await found(reader, need(), f"u-{number}")).fault is Reason.FEATURE_TIMEOUT
    await asyncio.wait_for(_left_alone(reader), 60)
    for number in range(1000):  # decided at once: nobody is asked
        assert (await found(reader, need(timeout=60.0), f"u-{number}")).fault is Reason.FEATURE_STORE_DOWN
    await turn()
    assert (len(store.asked), store.ended) == (MOST_FAILED, MOST_FAILED)
    store.say = lambda key: {"risk": FeatureRow(key.text, None)}
    await schedule.pass_by()
    assert (await found(reader, need(timeout=60.0), "u-1")).values["risk"].value == "u-1"
    assert reader.others.pending == 0
    await reader.close()


async def test_a_probe_that_hangs_ends_by_itself_and_one_that_finds_what_cannot_be_read_is_answered() -> None:
    store = Elsewhere(lambda _: DOWN)
    reader, schedule = make(store)
    for number in range(MOST_FAILED):
        await found(reader, need(), f"u-{number}")
    assert reader.reads.is_left_alone
    store.say = lambda _: None
    await schedule.pass_by()
    ended, asked = store.ended, len(store.asked)
    for _ in range(6000):
        if store.ended > ended:
            break
        await asyncio.sleep(0.01)
    await turn()
    assert (reader.reads.is_left_alone, len(schedule.slept)) == (True, 2)
    store.say = lambda _: CORRUPT
    await schedule.pass_by()
    assert (reader.reads.is_left_alone, len(store.asked)) == (False, asked + 1)


async def _left_alone(reader: FeatureReader) -> None:
    """Until the reads that hang have done so for long enough."""
    for _ in range(6000):
        if reader.reads.is_left_alone:
            break
        await asyncio.sleep(0.01)


async def test_a_store_that_is_slower_than_a_document_waits_is_asked_on_and_serves_the_next() -> None:
    store = Elsewhere(lambda _: None)
    reader, _ = make(store)
    for number in range(100):
        assert (await reader.fetch(need(timeout=0.0), (f"u-{number}",))).fault is Reason.FEATURE_TIMEOUT
    store.going.set()
    await turn()
    assert not reader.reads.is_left_alone
    for number in range(100):
        assert (await found(reader, need(timeout=0.0), f"u-{number}")).fault is None
    assert len(store.asked) == 100


async def test_what_cannot_be_read_is_of_the_wrong_type_remembered_and_says_nothing_against_the_store(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Elsewhere(lambda _: CORRUPT)
    reader, _ = make(store)
    for number in (*range(50), *range(50)):
        assert (await found(reader, need(), f"u-{number}")).fault is Reason.FEATURE_TYPE
    assert (len(store.asked), reader.reads.is_left_alone) == (50, False)
    assert reader.views["user_risk"].errors == 50
    assert [record.message for record in caplog.records] == [
        "view user_risk has what cannot be read, of which more is counted alone: it is no value (feature_type)"
    ]


async def test_while_the_store_is_left_alone_what_is_remembered_serves_on_within_max_age() -> None:
    clock = FakeClock()
    store = Elsewhere(lambda _: {"risk": FeatureRow(0.5, 1_700_000_000.0)})
    clock.advance(1_700_000_000.0 - clock.now())
    reader, _ = make(store, clock)
    fresh = need(max_age=60.0)
    assert (await found(reader, fresh, "u-1")).fault is None
    store.say = lambda _: DOWN
    for number in range(MOST_FAILED):
        await found(reader, need(), f"other-{number}")
    assert reader.reads.is_left_alone
    clock.advance(60.0)
    assert (await found(reader, fresh, "u-1")).values["risk"].age == 60.0
    assert (await found(reader, need(), "u-1")).fault is Reason.FEATURE_STORE_DOWN
    clock.advance(0.1)
    assert (await found(reader, fresh, "u-1")).fault is Reason.FEATURE_STORE_DOWN


@pytest.mark.slow
async def test_a_million_entities_take_neither_the_memory_nor_the_cache_nor_the_store_from_those_vouched_for() -> None:
    store, clock = Elsewhere(), FakeClock()
    reader, _ = make(store, clock, max_bytes=4 << 20, trusted=("x-user-id",), others_reads=1000.0)
    vouched, anybody = need("x-user-id"), need("x-device")
    for number in range(1000):
        await found(reader, vouched, f"user-{number}")
    before = len(store.asked)
    limited = 0
    gc.collect()
    resident = _resident()
    for second in range(20):
        for number in range(50_000):
            features = reader.cached(anybody, (f"device-{second}-{number}",))
            assert features is None
            limited += (await _at_once(reader, anybody, f"device-{second}-{number}")) is Reason.FEATURE_LIMITED
        clock.advance(1.0)
    assert len(store.asked) - before == 20 * 1000
    assert limited == 20 * 49_000 == reader.others.limited
    assert _resident() - resident < 32 << 20  # a million entries take 300 MB at least
    assert reader.others.cache.bytes <= 2 << 20
    asked = len(store.asked)
    clock.advance(-19.0)
    for number in range(1000):
        assert (await found(reader, vouched, f"user-{number}")).values["risk"].source == "cache"
    assert len(store.asked) == asked


def _resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _at_once(reader: FeatureReader, wanted: FeatureNeed, entity: str) -> Reason | None:
    """The reason, without a task for what is answered within two turns of the loop."""
    return (await reader.fetch(wanted, (entity,))).fault


async def test_when_others_wait_for_all_their_reads_those_who_are_vouched_for_are_read() -> None:
    store = Elsewhere(lambda key: None if key.text.startswith("device") else {"risk": FeatureRow(1, None)})
    reader, _ = make(store, max_pending=8, trusted=("x-user-id",))
    faults = [(await reader.fetch(need("x-device", 0.0), (f"device-{n}",))).fault for n in range(100)]
    assert faults == [Reason.FEATURE_TIMEOUT] * 100
    assert len(store.asked) == 4
    assert (await reader.fetch(need("x-user-id", 5.0), ("user",))).fault is None
    await reader.close()


async def test_an_entity_that_others_name_too_keeps_its_place_among_those_vouched_for() -> None:
    clock = FakeClock()
    reader, _ = make(Elsewhere(), clock, trusted=("x-user-id",))
    await found(reader, need("x-user-id"), "alice")
    clock.advance(11.0)
    await found(reader, need("x-device"), "alice")
    assert reader.vouched is not None
    assert (len(reader.vouched.cache), len(reader.others.cache)) == (1, 0)
    await found(reader, need("x-device"), "bob")
    clock.advance(11.0)
    await found(reader, need("x-user-id"), "bob")
    assert (len(reader.vouched.cache), len(reader.others.cache)) == (2, 0)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 4)),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("answer"), st.integers(0, 4)),
        st.tuples(st.just("fail"), st.integers(0, 4)),
        st.tuples(st.just("turns"), st.integers(0, 4)),
        st.tuples(st.just("later"), st.integers(0, 15)),
        st.tuples(st.just("probe"), st.just(0)),
    ),
    max_size=60,
)


class Slowly:
    """A store that gives way to the loop before, between and after answers, each of which the test lets go."""

    max_batch = 2

    def __init__(self) -> None:
        self.gates: dict[str, asyncio.Future[Exception | None]] = {}

    async def read(self, keys: Sequence[FeatureKey]) -> AsyncGenerator[FeatureAnswer, None]:
        await asyncio.sleep(0)
        for key in reversed(keys):
            gate = self.gates.get(key.text)
            if gate is None or gate.done():
                gate = self.gates[key.text] = asyncio.get_running_loop().create_future()
            fault = await asyncio.shield(gate)
            await asyncio.sleep(0)
            if fault is not None:
                raise fault
            yield FeatureAnswer(key, {"risk": FeatureRow(key.text, 1.7e9)})
        await asyncio.sleep(0)

    async def close(self) -> None:
        """Nothing to let go of."""


@given(STEPS)
def test_wherever_requests_are_cancelled_no_answer_is_of_another_entity(steps: list[tuple[str, int]]) -> None:
    """At every place where a request or a read may wait; and at the end nothing is left under way."""

    async def play() -> None:
        store, clock = Slowly(), FakeClock()
        reader, schedule = make(store, clock, max_pending=3)  # type: ignore[arg-type]
        asking: list[asyncio.Task[tuple[str, Features]]] = []

        async def ask(entity: str) -> tuple[str, Features]:
            return entity, await found(reader, need(timeout=3600.0, max_age=1e12), entity)

        for step, number in steps:
            match step:
                case "ask":
                    asking.append(asyncio.create_task(ask(f"u-{number}")))
                case "cancel" if asking:
                    asking[number % len(asking)].cancel()
                case "answer" | "fail":
                    gate = store.gates.get(f"u-{number}")
                    if gate is not None and not gate.done():
                        gate.set_result(None if step == "answer" else DOWN)
                case "turns":
                    for _ in range(number):
                        await asyncio.sleep(0)
                case "later":
                    clock.advance(number)
                case "probe":
                    await schedule.pass_by()
        while any(not task.done() for task in asking):
            for gate in store.gates.values():
                if not gate.done():
                    gate.set_result(None)
            await turn()
        for task in asking:
            if not task.cancelled():
                entity, features = task.result()
                assert {value.value for value in features.values.values()} <= {entity}
                assert features.values or features.fault is not None
        for number in range(5):
            cached = reader.cached(need(max_age=1e12), (f"u-{number}",))
            assert cached is None or {value.value for value in cached.values.values()} == {f"u-{number}"}
        await reader.close()
        assert reader.others.pending == 0

    asyncio.run(play())

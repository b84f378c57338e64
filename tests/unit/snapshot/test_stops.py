"""What takes away holds at once, whatever else a row has in it and whatever waits to be compiled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.snapshot.holder import SnapshotHolder
from extproc.snapshot.model import CompiledRollout
from extproc.store.records import Changes
from extproc.store.status import Status, Stops, StopsFound
from tests.support.clock import FakeClock
from tests.support.memory_store import MemoryStore
from tests.support.rollouts import CANARY, EXPERIMENT

KEY = "payments/fraud-detector"
NEWER: dict[str, Any] = {**CANARY, "novelty": 3}


def holder_of(store: MemoryStore) -> SnapshotHolder:
    holder = SnapshotHolder(store, FakeClock())  # type: ignore[arg-type]
    holder.load()
    return holder


def refreshed(holder: SnapshotHolder) -> CompiledRollout:
    snapshot = holder.refresh()
    assert snapshot is not None
    holder._swap(snapshot)
    return holder.current.rollouts[KEY]


def running() -> tuple[MemoryStore, SnapshotHolder]:
    """A canary at half of the users, which a worker serves."""
    store = MemoryStore()
    store.put(weight=5000, previous_weight=5000)
    return store, holder_of(store)


# --- a document that is not wholly understood


@pytest.mark.parametrize(
    "taken", [{"killed": True}, {"tripped": ("4",)}, {"aborted": ("4",), "weight": 0, "drawn": 5000}]
)
def test_a_stop_in_a_row_whose_document_is_newer_holds(taken: dict[str, Any]) -> None:
    store, holder = running()
    store.put(spec=NEWER, **{"weight": 5000, "previous_weight": 5000, **taken})
    rollout = refreshed(holder)
    overlay = holder.current.overlay_of(KEY)
    assert (overlay.killed, *overlay.tripped, *rollout.aborted) == (
        bool(taken.get("killed")),
        *taken.get("tripped", ()),
        *taken.get("aborted", ()),
    )
    assert "novelty" in holder.errors[KEY].message


def test_the_stable_of_the_last_status_is_served_and_nothing_that_it_gives_is_given() -> None:
    store, holder = running()
    store.put(spec=NEWER, weight=9000, previous_weight=9000)
    assert (refreshed(holder).weight, refreshed_stable(holder)) == (5000, "3")
    store.put(spec=NEWER, weight=1000, previous_weight=1000)
    assert refreshed(holder).weight == 1000
    store.put(spec=NEWER, stable="4", canary="5", weight=9000, previous_weight=9000)
    rollout = refreshed(holder)
    assert (rollout.stable, rollout.weight, rollout.upstreams["4"]) == ("4", 0, "fraud-detector-v4")


def refreshed_stable(holder: SnapshotHolder) -> str:
    return holder.current.rollouts[KEY].stable


@pytest.mark.parametrize("spec", [NEWER, {**EXPERIMENT, "novelty": {"a": [1]}}])
def test_who_starts_on_a_newer_document_serves_stable_alone(spec: dict[str, Any]) -> None:
    store = MemoryStore()
    store.put(spec=spec, weight=5000, previous_weight=5000, canary="4" if spec is NEWER else None)
    holder = holder_of(store)
    assert holder.current.rollouts[KEY].stable == "3"
    assert holder.current.overlay_of(KEY).killed
    assert holder.errors[KEY].code == "unknown_field"


def test_a_document_of_which_even_the_match_is_unknown_is_served_by_nobody_and_said() -> None:
    store = MemoryStore()
    store.put(spec={**CANARY, "match": [{"novelty": {}}]})
    holder = holder_of(store)
    assert holder.current.rollouts == {}
    assert KEY in holder.errors


# --- a row that is damaged


def test_a_stop_in_a_damaged_row_holds_as_far_as_it_can_be_read() -> None:
    store, holder = running()
    store.put(weight=5000, previous_weight=5000, killed=True, aborted=("4",))
    store.damage("fraud-detector")
    rollout = refreshed(holder)
    assert (holder.current.overlay_of(KEY).killed, rollout.aborted) == (True, frozenset({"4"}))
    assert (rollout.stable, rollout.weight) == ("3", 5000)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=5,
)


@given(json | st.fixed_dictionaries({}, optional={"killed": json, "aborted": json, "tripped": json, "more": json}))
def test_stops_are_found_in_anything(body: Any) -> None:
    stops = Stops.found_in(body)
    assert all(isinstance(version, str) for version in (*stops.aborted, *stops.tripped))
    if isinstance(body, dict) and body.get("killed") is True:
        assert stops.killed


@given(st.dictionaries(st.text(max_size=5), json, max_size=4))
def test_fields_of_a_newer_status_are_kept_and_written_back(more: dict[str, Any]) -> None:
    body = {**more, **Status(stable="3", canary="4", killed=True).as_dict()}
    assert Status.from_dict(body).as_dict() == body
    assert Status.from_dict(body).killed


# --- what waits to be compiled


class SlowStore(MemoryStore):
    """Reading its changes takes until somebody lets it go on."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock = clock
        self.reading = threading.Event()
        self.go_on = threading.Event()

    def changes(self, since: int) -> Changes | None:
        found = super().changes(since)
        if found is None or since == 0:
            return found
        return Changes(found.revision, self.slowly(list(found.rollouts)), found.complete)

    def slowly(self, rows: list[Any]) -> Iterator[Any]:
        for row in rows:
            yield row
            self.reading.set()
            while not self.go_on.wait(0.001):
                self.clock.advance(1)
                yield row


class AskedStore(SlowStore):
    """It notes since when it is asked for stops."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.asked: list[int] = []
        self.twice = threading.Event()

    def stops(self, since: int) -> StopsFound:
        self.asked.append(since)
        if len(self.asked) > 1:
            self.twice.set()
        return super().stops(since)


async def swaps_until(holder: SnapshotHolder, holds: Callable[[], bool]) -> None:
    swapped = asyncio.Event()
    holder.on_swap.append(lambda _: swapped.set())
    while not holds():
        await swapped.wait()
        swapped.clear()


async def test_a_kill_does_not_wait_for_what_is_being_compiled() -> None:
    clock = FakeClock()
    seen: list[bool] = []
    store = SlowStore(clock)
    store.put(weight=5000, previous_weight=5000)
    holder = SnapshotHolder(store, clock)  # type: ignore[arg-type]
    holder.load()
    store.put("other", spec={**CANARY, "match": [{"path": {"value": "/other"}}]})
    following = asyncio.create_task(holder.follow())
    await asyncio.to_thread(store.reading.wait)
    store.put(weight=5000, previous_weight=5000, killed=True)
    await swaps_until(holder, lambda: holder.current.overlay_of(KEY).killed)
    assert "payments/other" not in holder.current.rollouts, "the rest is still being compiled"
    store.go_on.set()
    holder.on_swap.append(lambda snapshot: seen.append(snapshot.overlay_of(KEY).killed))
    await swaps_until(holder, lambda: "payments/other" in holder.current.rollouts)
    assert all(seen), "what was compiled from before it does not undo it"
    store.put(weight=5000, previous_weight=5000)
    await swaps_until(holder, lambda: not holder.current.overlay_of(KEY).killed)
    following.cancel()


async def test_while_much_is_compiled_only_what_is_new_since_the_last_look_is_looked_at() -> None:
    clock = FakeClock()
    store = AskedStore(clock)
    store.put()
    holder = SnapshotHolder(store, clock)  # type: ignore[arg-type]
    holder.load()
    for number in range(3):
        store.put(f"other-{number}", spec={**CANARY, "match": [{"path": {"value": f"/{number}"}}]})
    following = asyncio.create_task(holder.follow())
    await asyncio.to_thread(store.twice.wait)
    assert store.place.content is not None
    assert store.asked[:2] == [holder.current.revision, store.place.content.revision]
    store.go_on.set()
    following.cancel()


@pytest.mark.parametrize("identity", [{"identity": object()}, {}], ids=["another file", "restored in place"])
async def test_a_stop_of_a_store_that_an_older_copy_replaced_while_it_was_compiled_is_let_go(
    identity: dict[str, object],
) -> None:
    clock = FakeClock()
    store = SlowStore(clock)
    store.put(weight=5000, previous_weight=5000)
    assert store.place.content is not None
    older = replace(store.place.content, **identity)  # type: ignore[arg-type]
    for weight in range(5100, 5105):  # a copy from before these, and before the kill
        store.put(weight=weight, previous_weight=weight)
    holder = SnapshotHolder(store, clock)  # type: ignore[arg-type]
    holder.load()
    store.put("other", spec={**CANARY, "match": [{"path": {"value": "/other"}}]})
    following = asyncio.create_task(holder.follow())
    await asyncio.to_thread(store.reading.wait)
    store.put(weight=5000, previous_weight=5000, killed=True)
    await swaps_until(holder, lambda: holder.current.overlay_of(KEY).killed)
    store.place.content = older
    store.go_on.set()
    await swaps_until(holder, lambda: holder.current.revision == older.revision)
    assert not holder.current.overlay_of(KEY).killed, "the copy knows of no kill"
    # And what stops from now on is found ahead again, though its revision is one that was seen before.
    store.go_on.clear()
    store.reading.clear()
    store.put("other", spec={**CANARY, "match": [{"path": {"value": "/other"}}]})
    await asyncio.to_thread(store.reading.wait)
    store.put(weight=5000, previous_weight=5000, killed=True)
    await swaps_until(holder, lambda: holder.current.overlay_of(KEY).killed)
    assert "payments/other" not in holder.current.rollouts
    store.go_on.set()
    following.cancel()

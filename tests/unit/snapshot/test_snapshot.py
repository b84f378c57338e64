"""Snapshot: compiled from the store, incrementally, with the last good of each rollout."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from extproc.datapath.model import Request
from extproc.datapath.pipeline import Pipeline
from extproc.resources.loading import parse_rollout
from extproc.snapshot.compile import compile_rollout
from extproc.snapshot.holder import SnapshotHolder
from extproc.snapshot.model import Overlay
from extproc.snapshot.trips import LocalTrip
from extproc.store.ports import RAISE_DELAY_SECONDS
from extproc.store.status import Status
from tests.support.clock import FakeClock
from tests.support.ids import make_ids
from tests.support.memory_store import MemoryStore
from tests.support.rollouts import CANARY, canary, document, experiment


class NoPolicies:
    current = None


KEY = "payments/fraud-detector"
PATH = "/v1/models/fraud-detector"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def holder(store: MemoryStore, clock: FakeClock) -> SnapshotHolder:
    return SnapshotHolder(store, clock)  # type: ignore[arg-type]


def poll(holder: SnapshotHolder) -> bool:
    snapshot = holder.refresh()
    if snapshot is not None:
        holder.current = snapshot
    return snapshot is not None


# --- compile -----------------------------------------------------------------------------------------------------


def test_the_default_seed_changes_with_the_canarys_version() -> None:
    assert canary(seed=None).seed == b"payments/fraud-detector@4"
    assert experiment(seed=None).seed == b"payments/fraud-detector"


def test_a_canary_that_became_stable_is_no_canary() -> None:
    status = Status(stable="4", canary="4", weight=10000, previous_weight=10000)
    compiled = compile_rollout(parse_rollout(document(CANARY)), status, now=0.0)
    assert (compiled.canary, compiled.arms, compiled.versions) == (None, (), frozenset({"4"}))


def test_requests_are_routed_by_status_not_by_what_the_document_names() -> None:
    status = Status(stable="1", canary="2")
    compiled = compile_rollout(parse_rollout(document(CANARY)), status, now=0.0)
    assert compiled.upstreams == {"1": "fraud-detector-v1", "2": "fraud-detector-v2"}


def test_a_rise_has_not_happened_before_its_instant() -> None:
    status = Status(
        stable="3", canary="4", weight=5000, previous_weight=500, effective_at=10.0, epoch=2, previous_epoch=1
    )
    rollout = parse_rollout(document(CANARY))
    before, after = compile_rollout(rollout, status, now=9.9), compile_rollout(rollout, status, now=10.0)
    assert (before.ranges, before.epoch) == ({"canary": (0, 500)}, 1)
    assert (after.ranges, after.epoch) == ({"canary": (0, 5000)}, 2)


def test_the_plan_compiles_to_the_same_rollout_again() -> None:
    original = canary(
        1250,
        steps=[{"setWeight": 12.5}, {"pause": {"duration": "10m"}}],
        features={"entity": {"cookie": "uid"}, "view": "v", "names": ["a"], "maxAge": "1h30m", "timeout": "7ms"},
        holdout={"name": "global", "percent": 2.25},
        layer={"name": "checkout", "range": [0, 5000]},
        shadow={"version": "5", "percent": 0.5},
        policy={"path": "routing/decision", "onError": "deny"},
        log={"headers": ["X-Region"], "features": ["a"]},
    )
    plan = orjson.loads(original.plan)
    again = compile_rollout(parse_rollout(document(plan["spec"])), Status.from_dict(plan["status"]), now=0.0)
    assert again == original


def test_rollouts_that_are_alike_share_what_they_have_in_common() -> None:
    features = {"entity": {"cookie": "uid"}, "view": "v", "names": ["a"], "timeout": "7ms"}
    log = {"headers": ["x-region"], "features": ["a"]}
    one, other = (
        canary(1250, name=name, features=features, log=log, policy={"path": "routing/decision"}) for name in "ab"
    )
    assert one != other
    alike = ("unit", "features", "policy", "arms", "ranges", "versions", "aborted", "arm_codes")
    for part in (*alike, "log_headers", "log_features"):
        assert getattr(one, part) is getattr(other, part), part
    assert canary(2500, name="c", features=features).ranges == {"canary": (0, 2500)}


# --- following the store -----------------------------------------------------------------------------------------


def test_the_first_load_takes_everything(store: MemoryStore, holder: SnapshotHolder) -> None:
    store.put("a", {**CANARY, "match": [{"path": {"value": "/a"}}]})
    store.put("b", {**CANARY, "match": [{"path": {"value": "/b"}}]}, killed=True)
    holder.load()
    assert set(holder.current.rollouts) == {"payments/a", "payments/b"}
    assert [rollout.name for rollout in holder.current.find("", "/b/x", {})] == ["b"]
    assert holder.current.overlay_of("payments/b").killed
    assert not holder.current.overlay_of("payments/a").killed


def test_only_what_changed_is_compiled_again(store: MemoryStore, holder: SnapshotHolder) -> None:
    store.put("a", {**CANARY, "match": [{"path": {"value": "/a"}}]})
    store.put("b", {**CANARY, "match": [{"path": {"value": "/b"}}]})
    holder.load()
    before = holder.current
    store.put("b", {**CANARY, "match": [{"path": {"value": "/c"}}]}, weight=100, previous_weight=100)
    assert poll(holder)
    assert holder.current.rollouts["payments/a"] is before.rollouts["payments/a"]
    assert holder.current.rollouts["payments/b"].weight == 100
    assert holder.current.find("", "/b", {}) == ()
    assert [rollout.name for rollout in holder.current.find("", "/c", {})] == ["b"]
    assert [rollout.weight for rollout in before.find("", "/b", {})] == [0]


def test_nothing_new_makes_no_snapshot(store: MemoryStore, holder: SnapshotHolder) -> None:
    store.put()
    holder.load()
    assert not poll(holder)


def test_a_deleted_rollout_is_gone(store: MemoryStore, holder: SnapshotHolder) -> None:
    store.put(killed=True)
    holder.load()
    store.delete("fraud-detector")
    assert poll(holder)
    assert holder.current.rollouts == {}
    assert holder.current.overlay == {}
    assert holder.current.find("", PATH, {}) == ()


def test_a_bad_document_keeps_its_last_good_and_blocks_nobody(store: MemoryStore, holder: SnapshotHolder) -> None:
    store.put("a", {**CANARY, "match": [{"path": {"value": "/a"}}]})
    store.put("b", {**CANARY, "match": [{"path": {"value": "/b"}}]})
    holder.load()
    store.put("a", {**CANARY, "nonsense": 1})
    store.put("b", {**CANARY, "match": [{"path": {"value": "/b"}}]}, weight=700, previous_weight=700)
    assert poll(holder)
    assert [rollout.name for rollout in holder.current.find("", "/a", {})] == ["a"]
    assert holder.current.rollouts["payments/b"].weight == 700
    assert holder.errors["payments/a"].code == "unknown_field"
    store.put("a", {**CANARY, "match": [{"path": {"value": "/a"}}]})
    assert poll(holder)
    assert holder.errors == {}


def take(holder: SnapshotHolder) -> None:
    """What ``follow`` does with a change."""
    snapshot = holder.refresh()
    assert snapshot is not None
    holder._swap(snapshot)


def test_a_trip_of_this_host_holds_at_once_and_over_every_swap(store: MemoryStore, holder: SnapshotHolder) -> None:
    store.put(killed=True)
    holder.load()
    before = holder.current.rollouts[KEY]
    holder.hold([LocalTrip(KEY, "4", 1)])
    assert holder.current.overlay_of(KEY) == Overlay(killed=True, tripped=frozenset({"4"}))
    assert holder.current.rollouts[KEY] is before
    store.put(weight=700, previous_weight=700, tripped=("9",))
    take(holder)
    assert holder.current.overlay_of(KEY) == Overlay(killed=False, tripped=frozenset({"4", "9"}))
    holder.hold([LocalTrip(KEY, "4", 1, probing=True)])
    assert holder.current.overlay_of(KEY).probing == {"4"}
    holder.hold([])
    assert holder.current.overlay_of(KEY) == Overlay(tripped=frozenset({"9"}))


def test_another_attempt_lifts_a_trip_without_a_message(store: MemoryStore, holder: SnapshotHolder) -> None:
    store.put()
    holder.load()
    holder.hold([LocalTrip(KEY, "4", 1)])
    store.put(attempt=2)
    take(holder)
    assert holder.current.overlay_of(KEY) == Overlay()


@pytest.mark.parametrize("trip", [LocalTrip(KEY, "3", 1), LocalTrip(KEY, "99", 1), LocalTrip("a/b", "4", 1)])
def test_a_trip_of_stable_or_of_what_is_not_there_is_none(
    store: MemoryStore, holder: SnapshotHolder, trip: LocalTrip
) -> None:
    store.put()
    holder.load()
    holder.hold([trip])
    assert holder.current.host_overlay == {}


def test_a_rise_takes_effect_at_its_instant_without_another_change(
    store: MemoryStore, holder: SnapshotHolder, clock: FakeClock
) -> None:
    store.put()
    holder.load()
    store.put(weight=5000, previous_weight=0, effective_at=clock.now() + RAISE_DELAY_SECONDS)
    assert poll(holder)
    assert holder.current.rollouts[KEY].weight == 0
    clock.advance(RAISE_DELAY_SECONDS)
    assert poll(holder)
    assert holder.current.rollouts[KEY].weight == 5000
    assert not poll(holder)


async def test_a_rise_takes_effect_at_its_instant_before_any_worker_looks_again(
    store: MemoryStore, holder: SnapshotHolder, clock: FakeClock
) -> None:
    store.put()
    holder.load()
    store.put(weight=10_000, previous_weight=0, effective_at=clock.now() + RAISE_DELAY_SECONDS)
    poll(holder)
    pipeline = Pipeline(holder, NoPolicies(), None, make_ids(clock), clock)
    request = Request("POST", PATH, "", "http", {"x-user-id": b"alice"})
    _, before = await pipeline.decide(request)
    clock.advance(RAISE_DELAY_SECONDS)
    _, after = await pipeline.decide(request)
    assert (before.decision.version, after.decision.version) == ("3", "4")


def test_a_later_state_wins_over_one_that_falls_due(
    store: MemoryStore, holder: SnapshotHolder, clock: FakeClock
) -> None:
    store.put()
    holder.load()
    store.put(weight=5000, previous_weight=0, effective_at=clock.now() + RAISE_DELAY_SECONDS)
    poll(holder)
    store.put(weight=0, previous_weight=0)
    clock.advance(1)
    assert poll(holder)
    assert holder.current.rollouts[KEY].weight == 0
    assert not poll(holder)


@pytest.mark.parametrize("code", ["store_locked", "store_corrupt", "store_unreachable"])
def test_a_store_that_is_away_changes_nothing(store: MemoryStore, holder: SnapshotHolder, code: str) -> None:
    store.put()
    holder.load()
    before = holder.current
    store.place.fault = code
    assert not poll(holder)
    assert holder.current is before
    assert holder.store_fault is not None
    assert holder.store_fault.code == code
    store.place.fault = ""
    store.put(weight=100, previous_weight=100)
    assert poll(holder)
    assert holder.store_fault is None


def test_a_row_that_is_damaged_holds_up_its_own_rollout_alone(store: MemoryStore, holder: SnapshotHolder) -> None:
    store.put("a")
    store.put("b", {**CANARY, "match": [{"path": {"value": "/b"}}]})
    holder.load()
    served = holder.current.rollouts["payments/a"]
    store.damage("a")
    store.put("b", {**CANARY, "match": [{"path": {"value": "/b"}}]}, weight=100, previous_weight=100)
    assert poll(holder)
    assert holder.current.rollouts["payments/a"] is served
    assert holder.current.rollouts["payments/b"].weight == 100
    assert {key: fault.code for key, fault in holder.errors.items()} == {"payments/a": "store_corrupt"}
    assert holder.store_fault is None
    store.put("a", weight=200, previous_weight=200)
    assert poll(holder)
    assert holder.current.rollouts["payments/a"].weight == 200
    assert holder.errors == {}


def test_a_rollout_that_is_deleted_goes_even_if_what_is_left_of_it_is_damaged(
    store: MemoryStore, holder: SnapshotHolder
) -> None:
    store.put("a")
    holder.load()
    store.delete("a")
    store.damage("a")
    assert poll(holder)
    assert (dict(holder.current.rollouts), holder.errors) == ({}, {})


def test_a_row_that_was_damaged_before_the_start_keeps_no_other_from_being_served(
    store: MemoryStore, holder: SnapshotHolder
) -> None:
    store.put("a")
    store.put("b", {**CANARY, "match": [{"path": {"value": "/b"}}]})
    store.damage("a")
    holder.load()
    assert set(holder.current.rollouts) == {"payments/b"}
    assert set(holder.errors) == {"payments/a"}


def test_an_empty_replacement_never_clears_the_snapshot_and_a_full_one_replaces_it(
    store: MemoryStore, holder: SnapshotHolder
) -> None:
    store.put("old")
    holder.load()
    store.place.replace()
    assert not poll(holder)
    assert set(holder.current.rollouts) == {"payments/old"}
    store.put("new", {**CANARY, "match": [{"path": {"value": "/new"}}]})
    assert poll(holder)
    assert set(holder.current.rollouts) == {"payments/new"}
    assert holder.current.find("", PATH, {}) == ()


async def test_followers_are_told_of_each_new_snapshot(store: MemoryStore, holder: SnapshotHolder) -> None:
    store.put()
    holder.load()
    told = asyncio.Event()
    holder.on_swap.append(lambda _: told.set())
    task = asyncio.create_task(holder.follow())
    store.put(weight=100, previous_weight=100)
    async with asyncio.timeout(60):
        await told.wait()
    assert holder.current.rollouts[KEY].weight == 100
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_row_that_nobody_foresaw_holds_up_no_other(store: MemoryStore, holder: SnapshotHolder) -> None:
    store.put("a", weight=1000)
    store.put("b")
    assert store.place.content is not None
    rows, b = store.place.content.rows, ("payments", "b")
    rows[b] = rows[b]._replace(status=rows[b].status.replace(b'"aborted":[]', b'"aborted":[[]]'))
    holder.load()
    assert (set(holder.current.rollouts), set(holder.errors)) == ({"payments/a"}, {"payments/b"})
    store.put("a", weight=2000)
    assert poll(holder)
    assert holder.current.rollouts["payments/a"].weight == 2000


def test_a_bug_of_the_store_does_not_end_the_following(
    store: MemoryStore, holder: SnapshotHolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a")
    holder.load()
    with monkeypatch.context() as broken:
        broken.setattr(store, "changes", lambda since: 1 / 0)
        assert not poll(holder)
        assert holder.store_fault is not None
        assert holder.store_fault.code == "snapshot_failed"
    store.put("b")
    assert poll(holder)
    assert holder.store_fault is None

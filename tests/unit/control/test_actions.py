"""Actions load, decide and write with history; documents go in together or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from extproc.control.acting import act
from extproc.control.actions import (
    Abort,
    Adopt,
    Apply,
    Change,
    Delete,
    Kill,
    Pause,
    Promote,
    Restore,
    Resume,
    Retry,
    SetWeight,
)
from extproc.control.result import ActionResult
from extproc.errors import InvalidInput, Refused, Unreachable
from extproc.resources.loaded import LoadedDocument
from extproc.resources.loading import load_paths
from extproc.store.ports import RAISE_DELAY_SECONDS
from extproc.store.records import StoredRollout, Write
from extproc.testing.memory_store import MemoryStore
from tests.support.clock import FakeClock
from tests.support.damage import damage
from tests.support.reconciling import Clusters
from tests.support.rollouts import CANARY, document

NAME = ("payments", "fraud-detector")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def spec(path: str = "/v1/models/fraud-detector", **changes: Any) -> dict[str, Any]:
    return {**CANARY, "match": [{"path": {"type": "PathPrefix", "value": path}}], **changes}


class Documents:
    """Documents through a file, as a user gives them."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "documents.json"

    def __call__(self, **specs: dict[str, Any]) -> Sequence[LoadedDocument]:
        loaded = []
        for name, body in specs.items():
            self.file.write_bytes(orjson.dumps(document(body, name.replace("_", "-"))))
            found = load_paths([self.file])
            assert not found.faults
            loaded += found.documents
        return loaded


@pytest.fixture
def documents(tmp_path: Path) -> Documents:
    return Documents(tmp_path)


def one(results: Sequence[ActionResult]) -> ActionResult:
    (result,) = results
    return result


def row_of(store: MemoryStore) -> StoredRollout:
    row = store.get(*NAME)
    assert row is not None
    return row


def test_an_apply_creates_then_leaves_alone_then_configures(
    store: MemoryStore, clock: FakeClock, documents: Documents
) -> None:
    apply = Apply(documents(fraud_detector=spec()))
    assert one(act(store, "alice", apply, clock)).result == "created"
    before = row_of(store)
    assert one(act(store, "bob", apply, clock)) == ActionResult(before, "unchanged")
    assert len(store.history(*NAME)) == 1
    edited = Apply(documents(fraud_detector=spec(canary={"version": "5"})))
    assert one(act(store, "bob", edited, clock)).result == "configured"
    after = row_of(store)
    assert (after.status.canary, after.status.weight) == ("5", 0)
    assert [(e.actor, e.action, e.message) for e in store.history(*NAME)] == [
        ("alice", "apply", "created"),
        ("bob", "apply", "canary moved from 4 to 5"),
    ]


def test_every_action_is_written_with_who_and_why(store: MemoryStore, clock: FakeClock, documents: Documents) -> None:
    act(store, "alice", Apply(documents(fraud_detector=spec())), clock)
    for action in (SetWeight(*NAME, 1250), Kill(*NAME), Restore(*NAME), Abort(*NAME), Retry(*NAME)):
        assert one(act(store, "alice", action, clock)).result == "configured"
    moved = Apply(documents(fraud_detector=spec(stable={"version": "2"})))
    act(store, "alice", moved, clock)
    assert one(act(store, "alice", Adopt(*NAME), clock)).row.status.stable == "2"
    entries = store.history(*NAME)
    assert [e.action for e in entries] == ["apply", "set-weight", "kill", "restore", "abort", "retry", "apply", "adopt"]
    assert entries[1].message == "weight 0 to 12.5"
    assert {e.actor for e in entries} == {"alice"}
    assert [e.at for e in entries] == sorted(e.at for e in entries)


def test_what_needs_nothing_writes_nothing(store: MemoryStore, clock: FakeClock, documents: Documents) -> None:
    act(store, "alice", Apply(documents(fraud_detector=spec())), clock)
    before = row_of(store)
    for action in (SetWeight(*NAME, 0), Restore(*NAME), Adopt(*NAME)):
        assert one(act(store, "alice", action, clock)).result == "unchanged"
    assert row_of(store) == before
    assert len(store.history(*NAME)) == 1


@pytest.mark.parametrize("action", [SetWeight(*NAME, 1), Abort(*NAME), Delete(*NAME), Kill(*NAME)])
def test_what_is_not_there_is_not_found(store: MemoryStore, clock: FakeClock, action: Any) -> None:
    with pytest.raises(InvalidInput) as invalid:
        act(store, "alice", action, clock)
    assert invalid.value.code == "not_found"


def test_a_lost_race_is_decided_again(
    store: MemoryStore, clock: FakeClock, documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    act(store, "alice", Apply(documents(fraud_detector=spec())), clock)
    original, raced = store.get, []

    def overtaken(namespace: str, name: str) -> StoredRollout | None:
        row = original(namespace, name)
        if not raced and row is not None:
            raced.append(row)
            store.write([Write(*NAME, row.resource_version, status=replace(row.status, killed=True))])
        return row

    monkeypatch.setattr(store, "get", overtaken)
    result = one(act(store, "alice", SetWeight(*NAME, 500), clock))
    assert (result.row.status.weight, result.row.status.killed) == (500, True)


def test_an_action_that_always_loses_gives_up(
    store: MemoryStore, clock: FakeClock, documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    act(store, "alice", Apply(documents(fraud_detector=spec())), clock)
    stale = replace(row_of(store), resource_version=1)
    monkeypatch.setattr(store, "get", lambda namespace, name: stale)
    with pytest.raises(Refused) as refused:
        act(store, "alice", Kill(*NAME), clock)
    assert refused.value.code == "conflict"


def test_documents_that_collide_with_the_store_change_nothing(
    store: MemoryStore, clock: FakeClock, documents: Documents
) -> None:
    act(store, "alice", Apply(documents(fraud_detector=spec())), clock)
    before = store.documents()
    both = documents(good=spec("/other"), bad=spec())
    with pytest.raises(InvalidInput) as invalid:
        act(store, "alice", Apply(both), clock)
    (fault,) = invalid.value.faults
    assert (fault.code, fault.file, fault.field) == ("match_collision", str(documents.file), "spec.match[0]")
    assert store.documents() == before


def test_a_layer_in_the_store_hashes_one_unit(store: MemoryStore, clock: FakeClock, documents: Documents) -> None:
    def layered(path: str, start: int, **unit: str) -> dict[str, Any]:
        return {**spec(path), "unit": unit, "layer": {"name": "checkout", "range": [start, start + 5000]}}

    act(store, "alice", Apply(documents(one=layered("/one", 0, header="x-user-id"))), clock)
    with pytest.raises(InvalidInput) as invalid:
        act(store, "alice", Apply(documents(two=layered("/two", 5000, cookie="visitor"))), clock)
    assert (invalid.value.code, invalid.value.faults[0].field) == ("unit_differs", "spec.unit")


def test_a_rollout_may_take_the_place_of_one_removed_with_it(
    store: MemoryStore, clock: FakeClock, documents: Documents
) -> None:
    act(store, "alice", Apply(documents(fraud_detector=spec())), clock)
    results = act(store, "alice", Apply(documents(successor=spec()), remove=[NAME]), clock)
    assert [(result.row.name, result.result) for result in results] == [
        ("successor", "created"),
        ("fraud-detector", "deleted"),
    ]


def test_a_document_applied_in_the_meantime_is_checked_too(
    store: MemoryStore, clock: FakeClock, documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = documents(first=spec()), documents(second=spec())
    original = store.write

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.undo()
        act(store, "bob", Apply(first), clock)
        return original(*args, **kwargs)

    monkeypatch.setattr(store, "write", overtaken)
    with pytest.raises(InvalidInput) as invalid:
        act(store, "alice", Apply(second), clock)
    assert invalid.value.code == "match_collision"
    assert [row.name for row in store.documents().rollouts] == ["first"]


def test_an_aborted_version_stays_aborted_through_delete_and_apply(
    store: MemoryStore, clock: FakeClock, documents: Documents
) -> None:
    apply = Apply(documents(fraud_detector=spec()))
    act(store, "alice", apply, clock)
    act(store, "alice", Abort(*NAME), clock)
    epoch = row_of(store).status.epoch
    assert one(act(store, "alice", Delete(*NAME), clock)).result == "deleted"
    status = one(act(store, "alice", apply, clock)).row.status
    assert (status.aborted, status.phase, status.weight) == (("4",), "Degraded", 0)
    assert status.epoch > epoch
    with pytest.raises(Refused) as refused:
        act(store, "alice", SetWeight(*NAME, 100), clock)
    assert refused.value.code == "version_aborted"
    again = one(act(store, "alice", apply, clock))
    assert (again.result, again.message) == (
        "unchanged",
        "version 4 was aborted and gets no requests until `dropout rollout retry`",
    )
    act(store, "alice", Retry(*NAME), clock)
    act(store, "alice", Delete(*NAME), clock)
    again = one(act(store, "alice", apply, clock))
    assert (again.row.status.aborted, again.message) == ((), "")


def test_a_promoted_version_stays_stable_through_delete_and_apply(
    store: MemoryStore, clock: FakeClock, documents: Documents
) -> None:
    act(store, "alice", Apply(documents(fraud_detector=spec())), clock)
    act(store, "alice", Promote(*NAME, full=True), clock)
    act(store, "alice", Delete(*NAME), clock)
    result = one(act(store, "alice", Apply(documents(fraud_detector=spec())), clock))
    status = result.row.status
    assert (status.stable, status.phase, [one["type"] for one in status.conditions], result.message) == (
        "4",
        "Healthy",
        ["SpecBehind"],
        "the document still names version 3 as stable; "
        "`dropout get rollout payments/fraud-detector --as-served` prints it with version 4",
    )
    act(store, "alice", Delete(*NAME), clock)
    status = one(act(store, "alice", Apply(documents(fraud_detector=spec(stable={"version": "2"}))), clock)).row.status
    assert (status.stable, [condition["type"] for condition in status.conditions]) == ("4", ["StableDrift"])
    assert one(act(store, "alice", Adopt(*NAME), clock)).row.status.stable == "2"


def test_a_kill_works_on_a_document_that_is_no_longer_accepted(
    store: MemoryStore, clock: FakeClock, documents: Documents
) -> None:
    act(store, "alice", Apply(documents(fraud_detector=spec())), clock)
    row = row_of(store)
    store.write([Write(*NAME, row.resource_version, document={"from": "the past"})])
    assert one(act(store, "alice", Kill(*NAME), clock)).row.status.killed
    act(store, "alice", Apply(documents(other=spec("/other"))), clock)


def test_a_rollout_that_cannot_be_read_is_made_anew_only_when_asked_and_killed_until_restored(
    store: MemoryStore, clock: FakeClock, documents: Documents, tmp_path: Path
) -> None:
    loaded = documents(fraud_detector=spec(), other=spec("/other"))
    act(store, "alice", Apply(loaded), clock)
    act(store, "alice", SetWeight(*NAME, 5000), clock)
    act(store, "alice", Abort(*NAME), clock)
    epoch = row_of(store).status.epoch
    for each in loaded:
        damage(store.place, each.resource.metadata.name)
    with pytest.raises(Unreachable) as unreachable:
        act(store, "alice", Apply(loaded), clock)
    assert [fault.code for fault in unreachable.value.faults] == ["store_corrupt"] * 2
    assert store.documents().rollouts == []

    results = act(store, "alice", Apply(loaded, repair=True), clock)
    assert [(result.result, result.message) for result in results] == [
        (
            "repaired",
            "killed until restored; version 4 was aborted and gets no requests until `dropout rollout retry`",
        ),
        ("repaired", "killed until restored"),
    ]
    status = row_of(store).status
    assert (status.killed, status.weight, status.aborted) == (True, 0, ("4",))
    assert status.epoch > epoch
    entry = store.history(*NAME)[-1]
    assert (entry.actor, entry.action) == ("alice", "apply")
    assert "killed until restored" in entry.message
    assert one(act(store, "alice", Restore(*NAME), clock)).row.status.killed is False
    assert {result.result for result in act(store, "alice", Apply(loaded, repair=True), clock)} == {"unchanged"}


def test_the_version_that_was_stable_last_stays_so_in_a_rollout_that_is_made_anew(
    store: MemoryStore, clock: FakeClock, documents: Documents, tmp_path: Path
) -> None:
    from_3_to_4 = documents(fraud_detector=spec())
    act(store, "alice", Apply(from_3_to_4), clock)
    act(store, "alice", Promote(*NAME, full=True), clock)
    damage(store.place, NAME[1])
    act(store, "alice", Apply(from_3_to_4, repair=True), clock)
    status = row_of(store).status
    assert (status.stable, status.canary, status.phase, status.killed) == ("4", "4", "Healthy", True)
    assert [condition["type"] for condition in status.conditions] == ["StableDrift"]
    assert one(act(store, "alice", Adopt(*NAME), clock)).row.status.stable == "3"


def test_a_rollout_that_is_made_anew_stays_its_folders(
    store: MemoryStore, clock: FakeClock, documents: Documents, tmp_path: Path
) -> None:
    loaded = documents(fraud_detector=spec())
    act(store, "folder", Apply(loaded, follow=True), clock)
    source = row_of(store).source
    assert source is not None
    damage(store.place, NAME[1])
    act(store, "alice", Apply(loaded, repair=True), clock)
    assert row_of(store).source == source


def test_what_is_left_of_a_deleted_rollout_may_be_damaged_and_it_comes_back_killed(
    store: MemoryStore, clock: FakeClock, documents: Documents, tmp_path: Path
) -> None:
    loaded = documents(fraud_detector=spec())
    act(store, "alice", Apply(loaded), clock)
    act(store, "alice", Delete(*NAME), clock)
    damage(store.place, NAME[1])
    result = one(act(store, "alice", Apply(loaded), clock))
    assert (result.result, result.message) == ("created", "killed until restored")
    assert result.row.status.killed


class WaitingStore(MemoryStore):
    """A store whose lock is held by somebody else for a while."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._waits = clock

    def write(self, writes: Sequence[Write], **with_them: Any) -> Sequence[StoredRollout]:
        self._waits.advance(1.5)
        return super().write(writes, **with_them)


def test_a_rise_falls_due_after_its_commit_however_long_it_waited_for_the_lock(
    clock: FakeClock, documents: Documents
) -> None:
    store = WaitingStore(clock)
    act(store, "alice", Apply(documents(fraud_detector=spec())), clock)
    raised = one(act(store, "alice", SetWeight(*NAME, 500), clock)).row.status
    assert raised.effective_at == pytest.approx(clock.now() + RAISE_DELAY_SECONDS)
    clock.advance(RAISE_DELAY_SECONDS)
    lowered = one(act(store, "alice", SetWeight(*NAME, 100), clock)).row.status
    assert lowered.effective_at <= clock.now()


# -- what cannot serve gets nothing


def to_stable_5(store: MemoryStore, documents: Documents, clock: FakeClock) -> None:
    act(store, "alice", Apply(documents(fraud_detector=spec(stable={"version": "5"}))), clock)


def at_weight_20(store: MemoryStore, clock: FakeClock) -> None:
    act(store, "alice", SetWeight(*NAME, 2000), clock)
    clock.advance(1)


@pytest.mark.parametrize(
    ("action", "version"),
    [
        (SetWeight(*NAME, 3000), "4"),
        (Promote(*NAME, full=True), "4"),
        (Restore(*NAME), "4"),
        (Adopt(*NAME), "5"),
    ],
)
def test_by_hand_no_version_is_given_more_than_its_upstream_can_take(
    store: MemoryStore, documents: Documents, clock: FakeClock, action: Change, version: str
) -> None:
    act(store, "alice", Apply(documents(fraud_detector=spec())), clock)
    at_weight_20(store, clock)
    to_stable_5(store, documents, clock)
    if isinstance(action, Restore):
        act(store, "alice", Kill(*NAME), clock)
    before = row_of(store)
    with pytest.raises(Refused, match=f"cluster fraud-detector-v{version} is not known") as error:
        act(store, "bob", action, clock, clusters=Clusters())
    assert error.value.code == "upstream_not_ready"
    assert row_of(store) == before
    assert one(act(store, "bob", action, clock, clusters=Clusters(f"fraud-detector-v{version}"))).result == "configured"


@pytest.mark.parametrize("action", [SetWeight(*NAME, 1000), Kill(*NAME), Abort(*NAME), Pause(*NAME)])
def test_what_takes_away_asks_no_proxy(
    store: MemoryStore, documents: Documents, clock: FakeClock, action: Change
) -> None:
    act(store, "alice", Apply(documents(fraud_detector=spec(steps=[{"setWeight": 20}]))), clock)
    at_weight_20(store, clock)
    if isinstance(action, Pause):
        act(store, "alice", Resume(*NAME), clock)
    assert one(act(store, "bob", action, clock, clusters=Clusters())).result == "configured"

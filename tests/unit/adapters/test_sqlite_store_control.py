"""What the store keeps for the controller: templates, epochs, and who leads."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from extproc.adapters.sqlite_store import FORGET_DELETED_SECONDS, FORGET_EPOCHS_SECONDS, SqliteStore
from extproc.decision_id import epoch_number
from extproc.errors import Refused, Unreachable
from extproc.snapshot.store import EpochArm, Lease, Remains, Status, StoredTemplate, TemplateWrite, Write
from tests.support.clock import FakeClock
from tests.support.damage import damage

STATUS = Status(stable="3", canary="4")
VARIANTS = {"spec": {"variants": [{"name": "a", "version": "8"}, {"name": "control", "version": "7"}]}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dropout.db"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(path: Path, clock: FakeClock) -> SqliteStore:
    return SqliteStore(path, create=True, clock=clock)


# -- templates


def test_a_template_is_read_back_alone_and_among_the_documents(store: SqliteStore) -> None:
    store.write([], templates=[TemplateWrite("payments", "health", {"kind": "AnalysisTemplate"}, "/f/t.yaml")])
    stored = StoredTemplate("payments", "health", {"kind": "AnalysisTemplate"}, "/f/t.yaml")
    assert store.template("payments", "health") == stored
    assert store.documents().templates == [stored]
    assert store.template("payments", "other") is None


def test_a_template_is_replaced_and_removed(store: SqliteStore) -> None:
    store.write([], templates=[TemplateWrite("a", "t", {"v": 1})])
    store.write([], templates=[TemplateWrite("a", "t", {"v": 2})])
    found = store.template("a", "t")
    assert found is not None
    assert found.document == {"v": 2}
    store.write([], templates=[TemplateWrite("a", "t", None)])
    assert store.template("a", "t") is None


def test_a_template_counts_as_a_document_that_changed(store: SqliteStore) -> None:
    before = store.documents().revision
    store.write([], templates=[TemplateWrite("a", "t", {})])
    with pytest.raises(Refused, match="conflict"):
        store.write([Write("a", "r", None, {}, STATUS)], documents_at=before)


# -- epochs


def test_every_epoch_is_remembered_with_its_arms_from_when_it_began(store: SqliteStore, clock: FakeClock) -> None:
    (row,) = store.write([Write("a", "r", None, {}, STATUS)])
    first = clock.now()
    clock.advance(100)
    rising = replace(STATUS, weight=500, epoch=2, previous_epoch=1, effective_at=clock.now() + 0.2)
    store.write([Write("a", "r", row.resource_version, status=rising)])
    found = store.epochs_of("a", "r")
    assert [(one.epoch, one.began) for one in found] == [(1, first), (2, clock.now() + 0.2)]
    assert found[1].arms == (EpochArm(0, "excluded", ""), EpochArm(1, "control", "3"), EpochArm(2, "canary", "4"))
    assert store.epochs(epoch_number("a/r", 2)) == [found[1]]


def test_a_status_that_stays_in_its_epoch_begins_none(store: SqliteStore, clock: FakeClock) -> None:
    (row,) = store.write([Write("a", "r", None, {}, STATUS)])
    began = clock.now()
    clock.advance(5)
    store.write([Write("a", "r", row.resource_version, status=replace(STATUS, killed=True))])
    assert [one.began for one in store.epochs_of("a", "r")] == [began]


def test_two_epochs_may_begin_with_one_write(store: SqliteStore, clock: FakeClock) -> None:
    (row,) = store.write([Write("a", "r", None, {}, STATUS)])
    rising = replace(STATUS, weight=500, epoch=3, previous_epoch=2, effective_at=clock.now() + 0.2)
    store.write([Write("a", "r", row.resource_version, status=rising)])
    assert [(one.epoch, one.began - clock.now()) for one in store.epochs_of("a", "r")][1:] == [
        (2, 0),
        (3, pytest.approx(0.2)),
    ]


def test_an_experiments_arms_are_its_variants(store: SqliteStore) -> None:
    store.write([Write("a", "r", None, VARIANTS, Status(stable="7"))])
    (found,) = store.epochs_of("a", "r")
    assert found.arms == (EpochArm(0, "excluded", ""), EpochArm(16, "a", "8"), EpochArm(17, "control", "7"))


def test_epochs_outlive_their_rollout(store: SqliteStore) -> None:
    (row,) = store.write([Write("a", "r", None, {}, STATUS)])
    store.write([Write("a", "r", row.resource_version, delete=True)])
    assert [one.epoch for one in store.epochs_of("a", "r")] == [1]


def test_a_rollout_that_comes_back_when_it_is_long_forgotten_counts_its_epochs_on(
    store: SqliteStore, clock: FakeClock
) -> None:
    (row,) = store.write([Write("a", "r", None, {}, replace(STATUS, epoch=7, previous_epoch=7))])
    store.write([Write("a", "r", row.resource_version, delete=True)])
    (other,) = store.write([Write("a", "other", None, {}, STATUS)])
    clock.advance(FORGET_DELETED_SECONDS + 1)
    store.write([Write("a", "other", other.resource_version, delete=True)])
    assert store.history("a", "r") == []
    assert store.remains("a", "r").epoch == 7


def test_what_a_breaker_and_an_operator_said_outlives_a_delete(store: SqliteStore) -> None:
    status = replace(STATUS, tripped=("4",), attempt=3, killed=True)
    (row,) = store.write([Write("a", "r", None, {}, status)])
    store.write([Write("a", "r", row.resource_version, delete=True)])
    assert store.remains("a", "r") == Remains((), 1, status)


def test_an_epoch_is_forgotten_a_year_after_the_next_began_however_long_it_was(
    store: SqliteStore, clock: FakeClock
) -> None:
    (row,) = store.write([Write("a", "r", None, {}, STATUS)])
    known = []
    for epoch, seconds in ((2, 2 * FORGET_EPOCHS_SECONDS), (3, FORGET_EPOCHS_SECONDS - 1), (4, 2)):
        clock.advance(seconds)
        status = replace(STATUS, epoch=epoch, previous_epoch=epoch)
        (row,) = store.write([Write("a", "r", row.resource_version, status=status)])
        known.append([one.epoch for one in store.epochs_of("a", "r")])
    assert known == [[1, 2], [1, 2, 3], [2, 3, 4]]


# -- the lease


def test_one_leads_until_its_lease_runs_out(store: SqliteStore, clock: FakeClock) -> None:
    first = store.acquire("one", 5)
    assert first is not None
    assert store.acquire("two", 5) is None
    clock.advance(4)
    assert store.acquire("one", 5) == Lease("one", first.token, clock.monotonic() + 5)
    clock.advance(5)
    second = store.acquire("two", 5)
    assert second is not None
    assert second.token > first.token


def test_everybody_can_see_whether_somebody_leads(store: SqliteStore, clock: FakeClock) -> None:
    assert not store.led()
    first = store.acquire("a", 10)
    assert first is not None
    assert store.led()
    clock.advance(10)
    assert not store.led()
    again = store.acquire("a", 10)
    assert again is not None
    store.release(again)
    assert not store.led()


def test_a_lease_holds_against_those_who_would_take_a_shorter_one(store: SqliteStore, clock: FakeClock) -> None:
    assert store.acquire("one", 60)
    assert store.acquire("two", 5) is None
    clock.advance(60)
    assert store.acquire("two", 5)


def test_who_lost_the_lease_writes_nothing_more(store: SqliteStore, clock: FakeClock) -> None:
    first = store.acquire("one", 5)
    assert first is not None
    (row,) = store.write([Write("a", "r", None, {}, STATUS)], lease=first)
    clock.advance(6)
    assert store.acquire("two", 5)
    with pytest.raises(Refused, match="lease_lost"):
        store.write([Write("a", "r", row.resource_version, status=replace(STATUS, weight=1))], lease=first)
    found = store.get("a", "r")
    assert found is not None
    assert found.status == STATUS


def test_a_released_lease_is_free_at_once_and_only_its_holder_releases_it(store: SqliteStore) -> None:
    first = store.acquire("one", 5)
    assert first is not None
    store.release(replace(first, token=first.token - 1))
    assert store.acquire("two", 5) is None
    store.release(first)
    assert store.acquire("two", 5) is not None


def test_a_lease_from_before_the_machine_started_anew_is_void(path: Path) -> None:
    assert SqliteStore(path, create=True, clock=FakeClock(1_000_000.0)).acquire("one", 5)
    assert SqliteStore(path, clock=FakeClock(10.0)).acquire("two", 5)


# -- earlier formats


def as_version_1(path: Path) -> None:
    """Make a store what the first version of its format would have made it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for table in ("templates", "epochs", "lease"):
            connection.execute(f"DROP TABLE {table}")
        older = '{"stable":"3","canary":"4","aborted":[],"conditions":[]}'
        connection.execute("UPDATE rollouts SET status = ?", (older,))
        connection.execute("PRAGMA user_version = 1")


def test_a_store_of_the_first_version_is_taken_over_with_all_that_it_holds(path: Path, store: SqliteStore) -> None:
    (row,) = store.write([Write("a", "r", None, {"d": 1}, STATUS)])
    store.close()
    as_version_1(path)
    with pytest.raises(Unreachable, match="takes it over"):
        SqliteStore(path)
    opened = SqliteStore(path, create=True)
    assert opened.get("a", "r") == row
    assert opened.acquire("one", 5)
    assert opened.documents().templates == []


def test_a_store_of_the_first_version_with_a_damaged_row_is_taken_over_too(path: Path, store: SqliteStore) -> None:
    store.write([Write("a", "r", None, {"d": 1}, STATUS), Write("a", "bad", None, {"d": 1}, STATUS)])
    store.close()
    as_version_1(path)
    damage(path, "bad")
    opened = SqliteStore(path, create=True)
    assert [row.name for row in opened.documents().unreadable] == ["bad"]
    assert [len(opened.epochs_of("a", name)) for name in ("r", "bad")] == [1, 0]


def test_the_epochs_in_force_in_a_store_of_the_first_version_are_remembered_from_then_on(
    path: Path, store: SqliteStore, clock: FakeClock
) -> None:
    store.write([Write("a", "r", None, {"d": 1}, STATUS), Write("a", "gone", None, {"d": 1}, STATUS)])
    store.write([Write("a", "gone", 3, delete=True)])
    store.close()
    as_version_1(path)
    clock.advance(100)
    opened = SqliteStore(path, create=True, clock=clock)
    (found,) = opened.epochs(epoch_number("a/r", 1))
    assert (found.epoch, found.began, [arm.version for arm in found.arms]) == (1, clock.now(), ["", "3", "4"])
    assert opened.epochs_of("a", "gone") == []

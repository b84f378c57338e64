"""An epoch is told by a number of its own, whatever becomes of the store that remembers it."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.adapters.sqlite.feedback import SqliteFeedback
from extproc.adapters.sqlite.store import SqliteStore
from extproc.control.feedback import Attribution, Code, Feedback, FeedbackRecord
from extproc.decision_id import Opened, hashed_number, open_id, random_number
from extproc.store.epoch_records import epoch_id
from extproc.store.epochs import number_of
from extproc.store.records import StoredRollout, Write
from extproc.store.status import Status
from tests.support.clock import FakeClock
from tests.support.ids import ID_KEYS, make_ids

CANARY = 2
KEY = "payments/fraud-detector"
NAMES = ("payments", "fraud-detector")


def numbers(*first: int) -> Callable[[], int]:
    """Numbers that are ``first`` and then others."""
    numbers = itertools.chain(first, itertools.count(1_000))
    return lambda: next(numbers)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dropout.db"


def begin(store: SqliteStore, name: str = "fraud-detector", **status: Any) -> StoredRollout:
    """Write the first row of a rollout, or its next epoch."""
    row = store.get("payments", name)
    if row is None:
        (after,) = store.write([Write("payments", name, None, {}, Status(stable="3", **{"canary": "4", **status}))])
        return after
    epoch = row.status.epoch + 1
    changed = replace(row.status, **{"epoch": epoch, "previous_epoch": epoch, **status})
    (after,) = store.write([Write("payments", name, row.resource_version, status=changed)])
    return after


def test_the_number_of_an_epoch_is_random_from_when_it_begins_and_stands_in_status_and_record(path: Path) -> None:
    store = SqliteStore(path, create=True, new_number=numbers(7, 8, 9))
    assert begin(store).status.numbers == {"1": 7}
    row = begin(store, epoch=3, previous_epoch=2)
    assert row.status.numbers == {"2": 8, "3": 9}
    assert store.get(*NAMES) == row
    assert [(one.epoch, one.number) for one in store.epochs_of(*NAMES)] == [(1, 7), (2, 8), (3, 9)]
    assert store.epochs(9) == [store.epochs_of(*NAMES)[2]]


def test_no_two_epochs_of_a_store_have_one_number(path: Path) -> None:
    would_be_hashed = hashed_number("payments/other", 1)
    store = SqliteStore(path, create=True, new_number=numbers(7, 7, would_be_hashed, 7, 8))
    assert begin(store).status.numbers == {"1": 7}
    assert begin(store, "other").status.numbers == {"1": 8}


def test_numbers_are_random_and_of_32_bits() -> None:
    drawn = {random_number() for _ in range(1000)}
    assert len(drawn) > 990
    assert all(0 <= number < 2**32 for number in drawn)


@pytest.mark.parametrize("numbers", [{"1": "7"}, {"1": -1}, {"1": 2**32}, {"1": True}, [7]])
def test_what_is_no_number_makes_a_row_unreadable(numbers: Any) -> None:
    with pytest.raises(TypeError):
        Status.from_dict({**Status(stable="3").as_dict(), "numbers": numbers})


def test_what_is_counted_of_later_epochs_is_kept_by_larger_ids() -> None:
    ids = [epoch_id(4, None), epoch_id(5, 2**32 - 1), epoch_id(6, 0), epoch_id(6, 1)]
    assert ids == sorted(set(ids))
    assert ids[0] == 4, "as it was kept before numbers were random"


# -- stores of before


def from_before(path: Path) -> None:
    """Make the store one in which numbers were hashed."""
    with closing(sqlite3.connect(path)) as connection:
        (status,) = connection.execute("SELECT status FROM rollouts").fetchone()
        body = {name: value for name, value in orjson.loads(status).items() if name != "numbers"}
        connection.execute("UPDATE rollouts SET status = ?", (orjson.dumps(body),))
        for epoch in range(1, body["epoch"] + 1):
            connection.execute("UPDATE epochs SET number = ? WHERE epoch = ?", (hashed_number(KEY, epoch), epoch))
        connection.commit()


def test_epochs_of_a_store_of_before_keep_their_numbers_and_later_ones_are_random(path: Path) -> None:
    store = SqliteStore(path, create=True, new_number=numbers(7))
    begin(store)
    store.close()
    from_before(path)
    store = SqliteStore(path, new_number=numbers(8))
    row = store.get(*NAMES)
    assert row is not None
    assert number_of(KEY, row.status, 1) == hashed_number(KEY, 1)
    assert [one.id for one in store.epochs_of(*NAMES)] == [1] == [row.status.epoch_id_at(0)]
    row = begin(store, previous_epoch=1)
    assert row.status.numbers == {"2": 8}
    assert [one.id for one in store.epochs_of(*NAMES)] == [1, epoch_id(2, 8)]


def test_an_epoch_that_an_older_version_began_has_a_hashed_number(path: Path) -> None:
    """It keeps what it does not know of the status, the numbers of earlier epochs."""
    status = Status(stable="3", epoch=7, previous_epoch=7, numbers={"6": 1234})
    assert number_of(KEY, status, 7) == hashed_number(KEY, 7)
    assert status.epoch_id_at(0) == 7


# -- restored, copied, made anew


class World:
    """Stores of one installation, one of them in force at a time, its backups, and labels that outlive all of them.

    The group in each id is the canary's version, so that counts tell of what they are.
    """

    def __init__(self, folder: Path, new_number: Callable[[], int]) -> None:
        self._folder = folder
        self._new_number = new_number
        self._names = map(str, itertools.count())
        self._versions = itertools.count(4)
        self.clock = FakeClock()
        self._ids = make_ids(self.clock)
        self.counts = SqliteFeedback(folder / "feedback", create=True)
        self.served: dict[str, str] = {}
        self._backups: list[Path] = []
        self.recreate()

    def recreate(self) -> None:
        """Begin with an empty store."""
        self._turn_to(self._folder / next(self._names))

    def begin(self) -> None:
        """Serve another version, in another epoch."""
        version = str(next(self._versions))
        begin(self.store, canary=version)
        self.serve()

    def serve(self) -> None:
        """Decide a request for the canary's arm, as a worker that follows the store does."""
        self.clock.advance(100)
        row = self.store.get(*NAMES)
        if row is None:
            return
        version = row.status.canary or ""
        number = number_of(KEY, row.status, row.status.epoch_at(self.clock.now()))
        self.served[self._ids.seal(self._ids.nonce(), number, CANARY, int(version))] = version

    def back_up(self) -> None:
        """Keep the store as it is."""
        self.store.close()
        self._backups.append(Path(shutil.copy(self.path, self._folder / next(self._names))))
        self._turn_to(self.path)

    def restore(self, which: int) -> None:
        """Put a backup into the store's place; or go on with a copy, while the other goes on elsewhere."""
        if self._backups:
            backup = self._backups[which % len(self._backups)]
            self._turn_to(Path(shutil.copy(backup, self._folder / next(self._names))))

    def _turn_to(self, path: Path) -> None:
        self.path = path
        self.store = SqliteStore(path, create=True, clock=self.clock, new_number=self._new_number)

    def label(self) -> None:
        """Send a label of every decision that there was: it counts for its version, or is refused."""

        def opened(text: str) -> Opened:
            found = open_id(ID_KEYS, text)
            assert isinstance(found, Opened)
            return found

        attribution = Attribution(opened, self.store, 0)
        feedback = Feedback(self.counts, self.store, opened, self.clock, retention=1e9)
        results = feedback.record([FeedbackRecord(each, True, True) for each in self.served])
        for (decision, version), result in zip(self.served.items(), results, strict=True):
            found = attribution.of(decision)
            if isinstance(found, Code):
                assert found is result.code is Code.UNKNOWN_EPOCH
            else:
                assert found.arm.version == version
                assert result.code in (Code.RECORDED, Code.DUPLICATE)
        for epoch in self.store.epochs_of(*NAMES):
            labels = self.counts.labels(KEY, epoch.id).get("canary")
            (canary,) = [arm.version for arm in epoch.arms if arm.arm == "canary"]
            assert labels is None or {str(group) for group in labels.confusion} == {canary}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, numbers())


def codes(world: World) -> list[Code]:
    feedback = Feedback(world.counts, world.store, lambda text: open_id(ID_KEYS, text), world.clock, retention=1e9)
    return [result.code for result in feedback.record([FeedbackRecord(each, True, True) for each in world.served])]


def test_an_epoch_that_began_after_the_backup_is_not_taken_for_one_that_began_after_the_restore(world: World) -> None:
    world.begin()
    world.back_up()
    world.begin()
    world.restore(0)
    world.begin()
    assert codes(world) == [Code.RECORDED, Code.UNKNOWN_EPOCH, Code.RECORDED]
    world.label()


def test_a_store_made_anew_knows_none_of_the_decisions_before(world: World) -> None:
    world.begin()
    world.recreate()
    world.begin()
    assert codes(world) == [Code.UNKNOWN_EPOCH, Code.RECORDED]
    world.label()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["begin", "begin", "serve", "back_up", "recreate", "label"])),
        st.tuples(st.just("restore"), st.integers(0, 3)),
    ),
    max_size=20,
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_a_label_counts_for_the_version_that_it_is_of_or_not_at_all(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), numbers())
        for name, *arguments in steps:
            getattr(world, name)(*arguments)
        world.label()
        world.counts.close()
